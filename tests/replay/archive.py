"""Archives of many calls, made without passing them through the suite."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from schemas.examples import EXAMPLES
from services.runtime.codec import Codec, FolderRegistry
from services.runtime.log import Message
from services.runtime.objects import DirectoryObjects
from services.sink.handler import store
from services.sink.rows import about
from services.sink.warehouse import Warehouse

TENANT = "acme"
_STEPS = ("CallEnded", "CallRecorded", "CallTranscribed", "CallEnriched")
_NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def life(codec: Codec, name: str, at: datetime) -> list[Message]:
    """A call ended, recorded, transcribed and enriched, as its messages were read."""
    call = replace(
        EXAMPLES["CallEnded"]["happy"], tenant_id=TENANT, call_id=name, event_id=f"ended-{name}",
        source_updated_at=at, published_at=at,
    )  # fmt: skip
    revision = round(at.timestamp() * 1000)
    messages = []
    for number, record in enumerate(_STEPS):
        event: Any = EXAMPLES[record]["happy"]
        event = call if record == "CallEnded" else replace(
            event, call=call, tenant_id=TENANT, call_id=name, revision=revision
        )  # fmt: skip
        when = at + timedelta(milliseconds=40 * (number + 1))
        made = codec.encode(
            event, id=f"{record}-{name}", source="/benchmark", time=when,
            causation_id=f"{_STEPS[number - 1]}-{name}" if number else None,
        )  # fmt: skip
        messages.append(
            Message(
                made.topic, 0, number, made.key, made.value, made.headers, made.timestamp_ms or 0
            )
        )
    return messages


def stored(warehouse: Warehouse, objects: Path, calls: int) -> None:
    """Put so many calls into the warehouse, by the sink's own way."""
    codec = Codec(FolderRegistry(), DirectoryObjects(objects))
    for start in range(0, calls, 200):
        made = []
        for number in range(start, min(calls, start + 200)):
            at = _NOON + timedelta(seconds=number)
            messages = life(codec, f"call-{number:06d}", at)
            made += [
                about(codec.decode(replace(message, offset=4 * number + offset)))
                for offset, message in enumerate(messages)
            ]
        store(warehouse, made)


def fabricated(warehouse: Warehouse, objects: Path, calls: int) -> None:
    """So many calls, all but one copied from it by the engine: right in all but their bytes."""
    stored(warehouse, objects, 1)
    again = (
        "SELECT * REPLACE(concat('call-', leftPad(toString(number), 6, '0')) AS call_id, {}) FROM"
    )
    for table, changed in (
        ("segments", "concat(event_id, toString(number)) AS event_id"),
        ("calls_ended", "concat(event_id, toString(number)) AS event_id,"
         " time + toIntervalSecond(number) AS time,"
         " started_at + toIntervalMinute(number) AS started_at"),
        ("calls_recorded", "concat(event_id, toString(number)) AS event_id,"
         " time + toIntervalSecond(number) AS time"),
        ("calls_transcribed", "concat(event_id, toString(number)) AS event_id,"
         " time + toIntervalSecond(number) AS time"),
        ("calls_enriched", "concat(event_id, toString(number)) AS event_id,"
         " time + toIntervalSecond(number) AS time"),
        ("stage_states", "concat(input_id, toString(number)) AS input_id"),
        ("events", "concat(event_id, toString(number)) AS event_id"),
    ):  # fmt: skip
        columns = warehouse.query(f"SELECT * FROM {table} LIMIT 0").columns
        names = ", ".join(columns)
        warehouse.command(
            f"INSERT INTO {table} ({names}) SELECT {names} FROM ({again.format(changed)} {table}"
            f" CROSS JOIN numbers(1, {calls - 1}) AS copies)"
        )
