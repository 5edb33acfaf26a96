"""Makes everything that follows from the .avsc files and the topic catalogue.

    python -m schemas.generate            write what changed
    python -m schemas.generate --check    write nothing; exit 1 and name what has drifted

Writes `events.py` (typed events), `versions/` (every schema version ever used, self-contained, its
number being its id in the embedded registry), `asyncapi.yaml` and `docs/topics.md`.
A changed .avsc becomes a new version; a version once committed is never edited.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from schemas.topics import DAY_MS, TOPICS

HERE = Path(__file__).parent
ROOT = HERE.parent
NAMESPACE = "callstream.events"

# In the order of reference: each file may name the types of those before it.
SOURCES = (
    "CallEnded", "CallRecorded", "CallTranscribed", "Evidence", "CallEnriched", "AlertRaised",
    "ReplayRequested", "GenerationDecided", "CallErased", "CallReviewed", "CallNotified",
    "SummaryRequested",
)  # fmt: skip
# Types that are part of events and have no topic of their own.
PARTS = frozenset({"Evidence"})


def self_contained(record: str) -> dict[str, Any]:
    """The schema of `record` with every type it names defined inside it, at its first use."""
    named: dict[str, Any] = {}
    for source in SOURCES:
        _collect(json.loads((HERE / f"{source}.avsc").read_text()), named)
    return dict(_inlined(f"{NAMESPACE}.{record}", named, set()))


def _collect(node: Any, named: dict[str, Any]) -> None:
    if isinstance(node, dict):
        if node.get("type") in ("record", "enum"):
            named[f"{NAMESPACE}.{node['name']}"] = node
        for value in node.values():
            _collect(value, named)
    elif isinstance(node, list):
        for item in node:
            _collect(item, named)


def _inlined(node: Any, named: dict[str, Any], defined: set[str]) -> Any:
    """`node` with full names, each type defined where it is met first."""
    if isinstance(node, str):
        if node not in named or node in defined:
            return node
        return _inlined(named[node], named, defined)
    if isinstance(node, list):
        return [_inlined(item, named, defined) for item in node]
    made = dict(node)
    if node.get("type") in ("record", "enum"):
        full = f"{NAMESPACE}.{node['name']}"
        if full in defined:
            return full
        defined.add(full)
        made = {"type": node["type"], "name": full} | {
            key: value for key, value in node.items() if key not in ("type", "name", "namespace")
        }
        if "fields" in node:
            made["fields"] = [
                {**field, "type": _inlined(field["type"], named, defined)}
                for field in node["fields"]
            ]
        return made
    for part in ("items", "values"):
        if part in made:
            made[part] = _inlined(made[part], named, defined)
    return made


def events_module() -> str:
    """Source of `events.py`, made by datamodel-code-generator from all schemas as one union."""
    schemas = [json.loads((HERE / f"{name}.avsc").read_text()) for name in SOURCES]
    order = [SOURCES.index(name) for name in ("CallEnded", "Evidence")]
    order += [index for index in range(len(SOURCES)) if index not in order]
    with tempfile.TemporaryDirectory() as folder:
        union = Path(folder) / "schemas.avsc"
        union.write_text(json.dumps([schemas[index] for index in order]))
        made = Path(folder) / "events.py"
        subprocess.run(
            [
                Path(sys.executable).parent / "datamodel-codegen",
                "--input", union, "--input-file-type", "avro", "--output", made,
                "--output-model-type", "dataclasses.dataclass",
                "--dataclass-arguments", '{"frozen": true, "slots": true, "kw_only": true}',
                "--target-python-version", "3.11", "--output-datetime-class", "datetime",
                "--strict-nullable", "--use-schema-description", "--use-field-description",
                "--disable-timestamp", "--deserialize-default-values", "enum",
                "--formatters", "ruff-format",
            ],
            check=True,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        )  # fmt: skip
        source = made.read_text()
    head = '"""Typed events. Generated from the .avsc files by `python -m schemas.generate`."""\n'
    body = source[source.index("from __future__") :]
    return head + "\n" + body


def versions() -> dict[int, tuple[str, dict[str, Any]]]:
    """Every committed schema version: id -> (record, schema)."""
    found = {}
    for path in sorted((HERE / "versions").glob("*.avsc")):
        number, record = path.stem.split("-", 1)
        found[int(number)] = (record, json.loads(path.read_text()))
    return found


def new_versions() -> dict[Path, str]:
    """Files for the schemas that are not yet the latest committed version of their record."""
    known = versions()
    latest = {record: schema for _, (record, schema) in sorted(known.items())}
    number = max(known, default=0)
    files = {}
    for record in SOURCES:
        schema = self_contained(record)
        if record in PARTS or latest.get(record) == schema:
            continue
        number += 1
        path = HERE / "versions" / f"{number:03d}-{record}.avsc"
        files[path] = json.dumps(schema, ensure_ascii=False, indent=1) + "\n"
    return files


def asyncapi() -> str:
    """The topics as an AsyncAPI 3 document; payloads refer to the .avsc versions."""
    latest = {record: number for number, (record, _) in sorted(versions().items())}
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    for topic in TOPICS:
        name = topic.record or "Original"
        channels[topic.name] = {
            "address": topic.name,
            "description": topic.about,
            "messages": {name: {"$ref": f"#/components/messages/{name}"}},
            "bindings": {
                "kafka": {
                    "partitions": topic.partitions,
                    "topicConfiguration": {
                        "cleanup.policy": [topic.cleanup],
                        "retention.ms": topic.retention_ms,
                    },
                }
            },
        }
        ours = [who for who in topic.producers if who in ("ingest", "transcribe", "enrich", "sink")]
        for action, parties in (("send", ours), ("receive", topic.consumers)):
            for party in parties:
                operations[f"{party}.{action}.{topic.name}".replace(" ", "-")] = {
                    "action": action,
                    "channel": {"$ref": f"#/channels/{topic.name}"},
                }
        if topic.record is None:
            messages[name] = {"summary": "Another topic's message, untouched."}
        else:
            file = f"versions/{latest[topic.record]:03d}-{topic.record}.avsc"
            messages[name] = {
                "contentType": "application/vnd.confluent.avro",
                "payload": {
                    "schemaFormat": "application/vnd.apache.avro;version=1.9.0",
                    "schema": {"$ref": f"./{file}"},
                },
                "bindings": {
                    "kafka": {
                        "key": {
                            "type": "string",
                            "description": "tenant_id/generation"
                            if topic.record == "GenerationDecided"
                            else "tenant_id/call_id",
                        },
                        "schemaIdLocation": "payload",
                        "schemaIdPayloadEncoding": "confluent",
                    }
                },
            }
    document = {
        "asyncapi": "3.0.0",
        "info": {"title": "Callstream", "version": "1", "license": {"name": "Apache-2.0"}},
        "defaultContentType": "application/vnd.confluent.avro",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages},
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)


_HEADERS = {
    "ce_generation": "Which processing of the call the event belongs to: 0 is live, a replay has a "
    "number of its own. Of one revision of a call, the greater supersedes.",
    "ce_causationid": "`ce_id` of the event that it was made from.",
    "ce_shadow": "`true`: made by a replay that is shown to nobody until its generation is "
    "promoted on `calls.generations`. Such events travel on the ordinary topics and are not sent "
    "again when they are promoted: a consumer outside the suite must pass over them, and finds in "
    "the warehouse's views what was promoted.",
    "ce_sideeffects": "`on`: made by a replay whose alerts and webhooks are to go out.",
    "ce_dataref": "The body is too large for the log; its key in the object store.",
}


def topics_page() -> str:
    """`docs/topics.md`: the catalogue and the fields of every event, for people."""
    lines = [
        "# Topics and events",
        "",
        "Made from `schemas/` by `python -m schemas.generate`; do not edit.",
        "",
        "Key of every record: `tenant_id/call_id` (of GenerationDecided `tenant_id/generation`).\n"
        "Value: Avro in the Confluent wire format. Headers: CloudEvents in binary mode, and these:",
        "",
        "| header | meaning |",
        "|---|---|",
        *(f"| `{name}` | {meaning} |" for name, meaning in _HEADERS.items()),
        "",
        "| topic | record | what it says | produced by | consumed by | cleanup | partitions |",
        "|---|---|---|---|---|---|---|",
    ]
    for topic in TOPICS:
        kept = "compact" if topic.cleanup == "compact" else f"{topic.retention_ms // DAY_MS} d"
        lines.append(
            f"| `{topic.name}` | {topic.record or 'original bytes'} | {topic.about} "
            f"| {', '.join(topic.producers)} | {', '.join(topic.consumers)} "
            f"| {kept} | {topic.partitions} |"
        )
    for record in SOURCES:
        schema = json.loads((HERE / f"{record}.avsc").read_text())
        lines += [
            "",
            f"## {record}",
            "",
            schema["doc"],
            "",
            "| field | type | meaning |",
            "|---|---|---|",
        ]
        lines += _rows(schema, "")
    return "\n".join(lines) + "\n"


def _rows(record: dict[str, Any], prefix: str) -> list[str]:
    rows = []
    for field in record["fields"]:
        inner: list[tuple[dict[str, Any], str]] = []
        name = prefix + field["name"]
        label = _type(field["type"], name, inner)
        rows.append(f"| `{name}` | {label} | {field.get('doc', '')} |")
        for nested, path in inner:
            rows += _rows(nested, f"{path}.")
    return rows


def _type(schema: Any, path: str, records: list[tuple[dict[str, Any], str]]) -> str:
    if isinstance(schema, str):
        return schema.rsplit(".", 1)[-1]
    if isinstance(schema, list):
        kinds = [_type(item, path, records) for item in schema if item != "null"]
        return " or ".join(kinds) + (", may be null" if "null" in schema else "")
    kind = schema["type"]
    if kind == "array":
        return f"list of {_type(schema['items'], path + '[]', records)}"
    if kind == "map":
        return f"map to {_type(schema['values'], path, records)}"
    if kind == "enum":
        return " / ".join(schema["symbols"])
    if kind == "record":
        records.append((schema, path))
        return str(schema["name"])
    return str(schema.get("logicalType", kind))


def main() -> int:
    check = "--check" in sys.argv[1:]
    stale = False

    def put(path: Path, text: str) -> None:
        nonlocal stale
        if path.exists() and path.read_text() == text:
            return
        stale = True
        print(f"{'drifted' if check else 'wrote'}: {path.relative_to(ROOT)}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    for path, text in new_versions().items():
        put(path, text)
    put(HERE / "events.py", events_module())
    put(HERE / "asyncapi.yaml", asyncapi())
    put(ROOT / "docs" / "topics.md", topics_page())
    return 1 if check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
