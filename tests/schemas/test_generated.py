"""What is generated equals what generating gives; the AsyncAPI document hangs together."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas import generate
from schemas.topics import TOPICS

HERE = Path(generate.__file__).parent


def test_every_schema_is_the_latest_committed_version_of_its_record() -> None:
    assert generate.new_versions() == {}


def test_events_module_has_not_drifted() -> None:
    assert (HERE / "events.py").read_text() == generate.events_module()


def test_asyncapi_document_has_not_drifted() -> None:
    assert (HERE / "asyncapi.yaml").read_text() == generate.asyncapi()


def test_topics_page_has_not_drifted() -> None:
    assert (HERE.parent / "docs" / "topics.md").read_text() == generate.topics_page()


def test_a_changed_schema_is_a_new_version_and_check_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "schemas"
    shutil.copytree(HERE, here)
    shutil.copytree(HERE.parent / "docs", tmp_path / "docs")
    erased = json.loads((here / "CallErased.avsc").read_text())
    erased["fields"].append({"name": "note", "type": "string", "default": ""})
    (here / "CallErased.avsc").write_text(json.dumps(erased))
    monkeypatch.setattr(generate, "HERE", here)
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["generate", "--check"])

    number = max(generate.versions()) + 1
    (made,) = generate.new_versions()
    assert made.name == f"{number:03d}-CallErased.avsc"
    assert generate.main() == 1
    assert made.name in capsys.readouterr().out
    assert not made.exists(), "--check writes nothing"


def test_versions_are_numbered_without_gaps_and_stand_alone() -> None:
    versions = generate.versions()
    assert sorted(versions) == list(range(1, len(versions) + 1))
    for record, schema in versions.values():
        assert schema["name"] == f"{generate.NAMESPACE}.{record}"
        defined: set[str] = set()
        for named in _named_types(schema):
            assert named not in defined, f"{record} defines {named} twice"
            defined.add(named)


def _named_types(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if node.get("type") in ("record", "enum"):
            yield node["name"]
        for value in node.values():
            yield from _named_types(value)
    elif isinstance(node, list):
        for item in node:
            yield from _named_types(item)


# AsyncAPI 3.0.0


def _document() -> Any:
    return yaml.safe_load((HERE / "asyncapi.yaml").read_text())


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for item in node:
            yield from _references(item)


def test_asyncapi_is_version_3_with_what_it_requires() -> None:
    document = _document()
    assert document["asyncapi"] == "3.0.0"
    assert document["info"]["title"]
    assert isinstance(document["info"]["version"], str)
    allowed = {"asyncapi", "id", "info", "servers", "defaultContentType", "channels",
               "operations", "components"}  # fmt: skip
    assert set(document) <= allowed


def test_asyncapi_has_one_channel_per_topic_with_its_message() -> None:
    channels = _document()["channels"]
    assert list(channels) == [topic.name for topic in TOPICS]
    for topic in TOPICS:
        channel = channels[topic.name]
        assert channel["address"] == topic.name
        assert list(channel["messages"]) == [topic.record or "Original"]
        kafka = channel["bindings"]["kafka"]
        assert kafka["partitions"] == topic.partitions
        assert kafka["topicConfiguration"]["cleanup.policy"] == [topic.cleanup]


def test_asyncapi_operations_send_or_receive_on_a_channel() -> None:
    operations = _document()["operations"]
    assert operations
    for name, operation in operations.items():
        assert operation["action"] in ("send", "receive"), name
        assert operation["channel"]["$ref"].startswith("#/channels/"), name


def test_asyncapi_references_resolve() -> None:
    document = _document()
    references = list(_references(document))
    assert references
    for reference in references:
        if reference.startswith("#/"):
            node = document
            for part in reference[2:].split("/"):
                node = node[part]
            assert node
        else:
            assert (HERE / reference).is_file(), reference


def test_asyncapi_payloads_are_the_latest_versions() -> None:
    latest = {record: number for number, (record, _) in sorted(generate.versions().items())}
    messages = _document()["components"]["messages"]
    for topic in TOPICS:
        if topic.record is not None:
            named = messages[topic.record]["payload"]["schema"]["$ref"]
            assert named == f"./versions/{latest[topic.record]:03d}-{topic.record}.avsc"
