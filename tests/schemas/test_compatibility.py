"""Any version of a record reads any other, and what a schema must say is said."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import avro.schema
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType

from schemas.generate import SOURCES, self_contained, versions

Schema = dict[str, Any]


def problems(one: Schema, other: Schema) -> list[str]:
    """Why the two cannot both read each other; empty where they can."""
    found = []
    for reader, writer in ((one, other), (other, one)):
        checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]
        result = checker.get_compatibility(
            avro.schema.parse(json.dumps(_as_readers_see_it(reader, writer))),
            avro.schema.parse(json.dumps(writer)),
        )
        if result.compatibility is not SchemaCompatibilityType.compatible:
            found += sorted(result.messages)
    return found


def _as_readers_see_it(reader: Schema, writer: Schema) -> Schema:
    """`reader` with the symbols of `writer` that its enums' defaults stand in for.

    Avro resolves an unknown symbol to the enum's default; the checker knows nothing of it.
    """
    symbols = {node["name"]: node["symbols"] for node in nodes(writer) if _is(node, "enum")}
    seen = copy.deepcopy(reader)
    for node in nodes(seen):
        if _is(node, "enum") and "default" in node:
            more = [s for s in symbols.get(node["name"], []) if s not in node["symbols"]]
            node["symbols"] = node["symbols"] + more
    return seen


def nodes(node: Any) -> Iterator[Schema]:
    """Every JSON object of a schema, outermost first."""
    if isinstance(node, dict):
        yield node
        for value in list(node.values()):
            yield from nodes(value)
    elif isinstance(node, list):
        for item in node:
            yield from nodes(item)


def _is(node: Schema, kind: str) -> bool:
    return node.get("type") == kind and "name" in node


def _by_record() -> dict[str, list[tuple[int, Schema]]]:
    found: dict[str, list[tuple[int, Schema]]] = defaultdict(list)
    for number, (record, schema) in sorted(versions().items()):
        found[record].append((number, schema))
    return found


@pytest.mark.parametrize("record", sorted(_by_record()))
def test_versions_are_fully_transitively_compatible(record: str) -> None:
    committed = _by_record()[record]
    for (one, a), (other, b) in itertools.combinations_with_replacement(committed, 2):
        assert problems(a, b) == [], f"{record}: versions {one} and {other}"


def _field(schema: Schema, name: str) -> Schema:
    found: Schema = next(field for field in schema["fields"] if field["name"] == name)
    return found


def _add_without_default(schema: Schema) -> None:
    schema["fields"].append({"name": "urgency", "type": "int"})


def _remove_required(schema: Schema) -> None:
    schema["fields"].remove(_field(schema, "title"))


def _change_type(schema: Schema) -> None:
    _field(schema, "revision")["type"] = "string"


def _rename_record(schema: Schema) -> None:
    schema["name"] = "callstream.events.AlarmRaised"


def _narrow_union(schema: Schema) -> None:
    _field(schema, "agent_id").update({"type": "string", "default": ""})


@pytest.mark.parametrize(
    "change",
    [_add_without_default, _remove_required, _change_type, _rename_record, _narrow_union],
)
def test_an_incompatible_version_is_refused(change: Callable[[Schema], None]) -> None:
    changed = self_contained("AlertRaised")
    change(changed)
    assert problems(self_contained("AlertRaised"), changed)


def test_a_new_symbol_needs_a_default_to_fall_back_on() -> None:
    before, after = self_contained("AlertRaised"), self_contained("AlertRaised")
    enum = _field(after, "severity")["type"]
    enum["symbols"] = [*enum["symbols"], "EXTREME"]
    assert problems(before, after) == []
    for schema in (before, after):
        del _field(schema, "severity")["type"]["default"]
    assert problems(before, after)


def test_a_field_added_with_a_default_is_compatible() -> None:
    changed = self_contained("AlertRaised")
    changed["fields"].append({"name": "urgency", "type": "int", "default": 0})
    assert problems(self_contained("AlertRaised"), changed) == []


def _records() -> Iterator[tuple[str, Schema]]:
    for source in SOURCES:
        for node in nodes(self_contained(source)):
            if _is(node, "record"):
                yield node["name"], node


@pytest.mark.parametrize("record", sorted(_by_record()))
def test_every_field_added_since_the_first_version_has_a_default(record: str) -> None:
    (_, first), *later = _by_record()[record]
    known = {
        (node["name"], field["name"])
        for node in nodes(first)
        if _is(node, "record")
        for field in node["fields"]
    }
    records = {name for name, _ in known}
    for number, schema in later:
        for node in nodes(schema):
            if not _is(node, "record") or node["name"] not in records:
                continue
            for field in node["fields"]:
                if (node["name"], field["name"]) not in known:
                    assert "default" in field, f"{number}: {node['name']}.{field['name']}"


@pytest.mark.parametrize("source", SOURCES)
def test_every_enum_has_a_default_symbol(source: str) -> None:
    for node in nodes(self_contained(source)):
        if _is(node, "enum"):
            assert node.get("default") in node["symbols"], node["name"]


@pytest.mark.parametrize("source", SOURCES)
def test_no_item_takes_zero_bytes(source: str) -> None:
    """Six bytes could then claim any number of items."""
    schema = self_contained(source)
    named = {node["name"]: node for node in nodes(schema) if _is(node, "record")}

    def empty(item: Any) -> bool:
        if isinstance(item, str):
            return item == "null" or (item in named and empty(named[item]))
        if isinstance(item, list):  # a union writes its branch number
            return False
        if item.get("type") == "record":
            return all(empty(field["type"]) for field in item["fields"])
        if item.get("type") == "fixed":
            return bool(item["size"] == 0)
        return bool(item.get("type") == "null")

    containers = [node for node in nodes(schema) if node.get("type") in ("array", "map")]
    for node in containers:
        assert not empty(node.get("items", node.get("values"))), node
    assert containers or source in (
        "Evidence", "GenerationDecided", "CallErased", "CallReviewed", "CallNotified"
    )  # fmt: skip


_SCORES = re.compile(r"(^|_)(score|confidence|mos|probability|share)(_|$)")
_RANGE = re.compile(r"-?\d+(\.\d+)? .*to -?\d+(\.\d+)?")


def _numbers(kind: Any) -> bool:
    if isinstance(kind, list):
        return any(_numbers(item) for item in kind)
    if isinstance(kind, dict):
        return kind.get("type") == "array" and _numbers(kind["items"])
    return kind in ("float", "double")


def test_every_score_states_its_range() -> None:
    scores = {
        (name, field["name"]): field.get("doc", "")
        for name, record in _records()
        for field in record["fields"]
        if _numbers(field["type"]) and _SCORES.search(field["name"])
    }
    assert len(scores) >= 6
    for (record, field), doc in scores.items():
        assert _RANGE.search(doc), f"{record}.{field}: {doc!r} states no range"


def test_every_duration_is_a_whole_number_of_milliseconds_and_every_time_is_utc_millis() -> None:
    for name, record in _records():
        for field in record["fields"]:
            kinds = field["type"] if isinstance(field["type"], list) else [field["type"]]
            if field["name"].endswith("_ms"):
                assert "long" in kinds or kinds[0] == {"type": "array", "items": "long"}, (
                    f"{name}.{field['name']}"
                )
            if field["name"].endswith("_at"):
                assert {"type": "long", "logicalType": "timestamp-millis"} in kinds, (
                    f"{name}.{field['name']}"
                )


def test_every_record_says_what_it_means() -> None:
    for source in SOURCES:
        assert self_contained(source)["doc"].endswith(".")
