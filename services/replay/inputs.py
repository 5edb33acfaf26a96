"""What a stage is given again: events of the past, and where their bytes lie.

The archive holds every event as it was read; the log what it has not dropped yet; a dead letter
what its stage refused.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from schemas.events import OriginalInput, ReplayRequested
from schemas.topics import (
    ALERTS,
    DEAD_LETTER,
    ENDED,
    ENRICHED,
    NOTIFIED,
    RECORDED,
    REVIEWS,
    TRANSCRIBED,
)
from services.dead_letters import DeadLetter
from services.loopback import Asks, rows_of
from services.runtime.codec import Codec
from services.runtime.errors import Invalid
from services.runtime.log import LogView, Message
from services.runtime.process import as_input
from services.runtime.stage import Envelope

# Stage -> topics of its inputs. Of the sink, what it makes rows of; erasures and decisions are
# never made again.
TOPICS: Mapping[str, tuple[str, ...]] = {
    "ingest": (ENDED,),
    "transcribe": (RECORDED,),
    "enrich": (TRANSCRIBED,),
    "sink": (ENDED, RECORDED, TRANSCRIBED, ENRICHED, ALERTS, REVIEWS, NOTIFIED),
}

# Most that one question to the warehouse is about.
_INPUTS = 500
_LETTERS = 50


class Input(msgspec.Struct, frozen=True, array_like=True):
    """An event that the stage is to be given again, and where its bytes are."""

    call: str
    topic: str
    event_id: str
    source: str
    """archive, or log."""
    place: str = ""
    """partition-offset of a message of the log, or of the dead letter that holds the input."""
    letter: bool = False
    basis_ms: int | None = None
    """An erasure at or after it covers the input; plans of old do not say."""


def ordered(inputs: Iterable[Input]) -> list[Input]:
    """Neighbours in the archive, or in the log, next to each other: they are read together."""
    return sorted(
        inputs,
        key=lambda each: (
            each.source,
            each.topic,
            tuple(map(int, each.place.split("-"))) if each.place else (),
            each.event_id,
        ),
    )


def portions(inputs: Sequence[Input]) -> Iterator[Sequence[Input]]:
    """As many at a time as one question to the warehouse is to be about."""
    for start in range(0, len(inputs), _INPUTS):
        yield inputs[start : start + _INPUTS]


# What a dead letter holds


def refused_by(
    stage: str, letter: DeadLetter, codec: Codec
) -> tuple[OriginalInput, Envelope[Any]] | str:
    """What the stage was given when it refused, and the request or event that this came in.

    In words, why that cannot be given again.
    """
    message = letter.refused
    if message.value is None:
        return "are dead letters without a body"
    try:
        envelope = codec.decode(message)
    except Invalid as problem:
        envelope = codec.undecodable(message, problem)
    if isinstance(envelope.event, ReplayRequested):
        if envelope.event.stage != stage:
            return f"are dead letters of another stage than {stage}"
        return envelope.event.input, envelope
    if message.topic not in TOPICS[stage]:
        return f"are dead letters of {message.topic}, which no replay of {stage} takes"
    return as_input(message, envelope.id), envelope


# Bytes


def _message(row: Mapping[str, Any], topic: str, key: bytes) -> Message:
    headers = zip(row["header_names"], map(base64.b64decode, row["header_bytes"]), strict=True)
    body = row["body"]
    return Message(
        topic, int(row["partition"]), int(row["offset"]), key,
        None if body is None else base64.b64decode(body), tuple(headers), int(row["at"]),
    )  # fmt: skip


_BYTES = (
    "SELECT call_id, event_id, topic, place, if(isNull(value), NULL, base64Encode(assumeNotNull("
    "value))) AS body, partition, offset, header_names,"
    " arrayMap(v -> base64Encode(v), header_values) AS header_bytes,"
    " toUnixTimestamp64Milli(timestamp) AS at FROM events"
)


def archived_messages(
    tenant: str, inputs: Sequence[Input], asks: Asks
) -> dict[tuple[str, str], Message]:
    """(call, event id) -> the message as it was read, of what the archive holds."""
    if not inputs:
        return {}
    rows = rows_of(
        asks,
        f"{_BYTES} WHERE topic IN {{topics:Array(String)}} AND event_id IN {{ids:Array(String)}}"
        " AND tenant_id = {tenant:String} AND call_id IN {calls:Array(String)}"
        " ORDER BY generation, revision LIMIT 1 BY topic, event_id, call_id",
        {
            "tenant": tenant,
            "topics": sorted({each.topic for each in inputs}),
            "ids": sorted({each.event_id for each in inputs}),
            "calls": sorted({each.call for each in inputs}),
        },
    )
    return {
        (row["call_id"], row["event_id"]): _message(
            row, row["topic"], f"{tenant}/{row['call_id']}".encode()
        )
        for row in rows
    }


def archived_letters(tenant: str, places: list[str], asks: Asks) -> dict[str, DeadLetter]:
    """Place -> the dead letter that lies there, of what the archive holds."""
    found: dict[str, DeadLetter] = {}
    for start in range(0, len(places), _LETTERS):
        rows = rows_of(
            asks,
            f"{_BYTES} WHERE topic = {{topic:String}} AND place IN {{places:Array(String)}}"
            " AND tenant_id = {tenant:String} LIMIT 1 BY place",
            {"tenant": tenant, "topic": DEAD_LETTER, "places": places[start : start + _LETTERS]},
        )
        for row in rows:
            key = f"{tenant}/{row['call_id']}".encode()
            found[row["place"]] = DeadLetter(_message(row, DEAD_LETTER, key))
    return found


def _at_places(view: LogView, topic: str, places: Iterable[str]) -> dict[str, Message]:
    """Messages of the log by place; those that it keeps no longer are absent."""
    wanted = {tuple(map(int, place.split("-", 1))) for place in places}
    if not wanted:
        return {}
    start = {partition: end for partition, (_, end) in view.ends(topic).items()}
    for partition, offset in wanted:
        start[partition] = min(start.get(partition, offset), offset)
    found: dict[str, Message] = {}
    for message in view.scan(topic, start):
        if (message.partition, message.offset) in wanted:
            found[f"{message.partition}-{message.offset}"] = message
            if len(found) == len(wanted):
                break
    return found


def fetch(
    stage: str,
    tenant: str,
    inputs: Sequence[Input],
    asks: Asks | None,
    view: LogView,
    codec: Codec,
) -> list[tuple[Input, OriginalInput, DeadLetter | None]]:
    """The bytes of `inputs`, with the dead letter where it holds them; what is nowhere is absent.

    What was planned from the archive is looked for there; what was planned from the log, there
    first: it may have expired since, and be archived.
    """
    dead = [each for each in inputs if each.letter]
    letters = {
        place: DeadLetter(message)
        for place, message in _at_places(
            view, DEAD_LETTER, [each.place for each in dead if each.source == "log"]
        ).items()
    }
    messages: dict[tuple[str, str], Message] = {}
    plain = [each for each in inputs if not each.letter]
    for topic in sorted({each.topic for each in plain if each.source == "log"}):
        here = {each.place: each for each in plain if each.source == "log" and each.topic == topic}
        for place, message in _at_places(view, topic, here).items():
            messages[here[place].call, here[place].event_id] = message
    if asks is not None:
        absent = [each.place for each in dead if each.place not in letters]
        letters |= archived_letters(tenant, absent, asks)
        missing = [each for each in plain if (each.call, each.event_id) not in messages]
        messages |= archived_messages(tenant, missing, asks)
    made: list[tuple[Input, OriginalInput, DeadLetter | None]] = []
    for each in inputs:
        if each.letter:
            letter = letters.get(each.place)
            given = None if letter is None else refused_by(stage, letter, codec)
            if letter is not None and isinstance(given, tuple):
                made.append((each, given[0], letter))
        elif found := messages.get((each.call, each.event_id)):
            made.append((each, as_input(found, each.event_id), None))
    return made
