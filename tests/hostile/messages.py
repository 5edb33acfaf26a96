"""Messages gone wrong: every example event, a plain producer's or a stage's, mutated.

`Mutants(seed).message(n)` is the same message whenever asked.
"""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import fastavro
import msgspec

from schemas.events import ReplayRequested
from schemas.examples import EXAMPLES
from schemas.topics import BY_NAME, DEAD_LETTER, RETRY_TIERS, TOPICS
from services.runtime import headers as h
from services.runtime.codec import Codec, FolderRegistry
from services.runtime.errors import Invalid, NotYet
from services.runtime.kafka_client import LARGEST_RECORD_BYTES
from services.runtime.log import Headers, Message, Record
from services.runtime.objects import Objects
from services.runtime.process import dead_letter, retry
from services.runtime.settings import Policy

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
NOW_MS = round(NOW.timestamp() * 1000)
_TOPICS = tuple(topic.name for topic in TOPICS)
_HEADERS = tuple(value for name, value in vars(h).items() if name.isupper())
_INTEGERS = (0, 1, -1, 2, 127, 255, 1 << 15, (1 << 31) - 1, 1 << 31, -(1 << 31), (1 << 53) + 1,
             (1 << 63) - 1, -(1 << 63), 864_000_001, 253_402_300_799_999,
             -62_135_596_800_001)  # fmt: skip
_TEXTS = ("", " ", "\0", "/", "..", "a/b", "x" * 257, "x" * 3_000, "é" * 300, "\u202e", "\ufffd",
          "퟿", "😀" * 200, "'; DROP TABLE calls; --", "{a:b}", "%s%n", "1e999", "-1", "NaN",
          "file:///etc/passwd", "object:audio/x", "object:", "s3://", "http://[::1", "\n\n",
          "audio/" + "k" * 300, "claims/00/" + "0" * 64, "../" * 40)  # fmt: skip
_FLOATS = (0.0, -0.0, 1e308, -1e308, 5e-324, float("nan"), float("inf"), float("-inf"), 1.0000001)
_LONGEST = 1_000_000
# Calls of hours take long to read however sound they are: a few of them are enough.
_LARGE = 100_000
_LARGE_SHARE = 0.002


@dataclass(frozen=True, slots=True)
class Case:
    number: int
    message: Message
    how: str


class Mutants:
    """The messages of a seed, by number; made from `extra` events too, where there are any."""

    def __init__(
        self, seed: int, objects: Objects, extra: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        self._seed = seed
        self._registry = FolderRegistry()
        codec = Codec(self._registry, objects)
        self._bases: list[tuple[str, Any, Record]] = []
        self._large: list[tuple[str, Any, Record]] = []
        for examples in (EXAMPLES, extra or {}):
            for record, named in examples.items():
                for name, event in named.items():
                    generation = getattr(event, "generation", 0)
                    made = codec.encode(
                        event, id=f"{record}-{name}", source="/test", time=NOW,
                        generation=generation,
                    )  # fmt: skip
                    base = (f"{record} {name}", event, made)
                    large = len(made.value or b"") > _LARGE or h.DATAREF in dict(made.headers)
                    (self._large if large else self._bases).append(base)
        self._schemas = {
            topic.name: fastavro.parse_schema(
                dict(self._registry.schema(self._registry.schema_id(topic)))
            )
            for topic in TOPICS
            if topic.record is not None
        }

    def message(self, number: int) -> Case:
        chance = random.Random(f"{self._seed}/message/{number}")
        large = self._large and chance.random() < _LARGE_SHARE
        name, event, record = chance.choice(self._large if large else self._bases)
        hows: list[str] = []
        value, headers, key, topic = record.value or b"", record.headers, record.key, record.topic
        if chance.random() < 0.1:  # a producer without CloudEvents
            headers = ()
        if chance.random() < 0.4 and h.DATAREF not in dict(headers):
            changed = self._said(event, topic, chance)
            # What is longer than a log takes never comes as a message.
            if changed is not None and len(changed[0]) <= LARGEST_RECORD_BYTES:
                value, key = value[:5] + changed[0], changed[1] or key
                hows.append("said")
        body: bytes | None = value
        for _ in range(chance.choice((0, 1, 1, 1, 2)) if hows else chance.choice((1, 1, 2, 4))):
            mutate = chance.choice(_OF_VALUE)
            body = mutate(bytearray(body or b"\0"), chance)
            body = body and body[:_LONGEST]
            hows.append(mutate.__name__.strip("_"))
        if chance.random() < 0.3:
            headers = _other_headers(headers, chance)
            hows.append("headers")
        if chance.random() < 0.1:
            key = chance.choice((None, b"", b"\xff\xfe", b"a", b"acme/" + b"x" * 5000,
                                 chance.randbytes(20)))  # fmt: skip
            hows.append("key")
        if chance.random() < 0.05:
            topic = chance.choice(_TOPICS)
            hows.append(f"on {topic}")
        stamp = NOW_MS if chance.random() < 0.95 else chance.choice(_INTEGERS)
        message = Message(topic, chance.randrange(4), number, key, body, headers, stamp)
        if chance.random() < 0.12:
            message = _wrapped(message, chance)
            hows.append("wrapped")
            if chance.random() < 0.5:
                message = replace(message, headers=_other_headers(message.headers, chance))
        elif chance.random() < 0.05:
            message = self._replayed(message, chance)
            hows.append("replayed")
        return Case(number, message, f"{name}: {', '.join(hows)}")

    def _said(
        self, event: Any, topic: str, chance: random.Random
    ) -> tuple[bytes, bytes | None] | None:
        """The event with other values in it, each of its type, and the key that fits."""
        plain = msgspec.to_builtins(event, builtin_types=(datetime, bytes))
        for _ in range(chance.choice((1, 1, 2, 6))):
            _say_other(plain, chance)
        stream = io.BytesIO()
        try:
            fastavro.schemaless_writer(stream, self._schemas[topic], plain)
            key = f"{plain['tenant_id']}/{plain['call_id']}".encode()
        except Exception:  # no value of its type after all
            return None
        return stream.getvalue(), key if "\0" not in key.decode() else None

    def _replayed(self, message: Message, chance: random.Random) -> Message:
        """A request to replay the message, by whichever stage."""
        base = next(event for _, event, _ in self._bases if isinstance(event, ReplayRequested))
        plain = msgspec.to_builtins(base, builtin_types=(datetime, bytes))
        plain["stage"] = chance.choice(("ingest", "transcribe", "enrich", "sink"))
        plain["input"]["topic"] = message.topic
        plain["input"]["value"] = message.value
        plain["input"]["dataref"] = None
        plain["input"]["headers"] = [
            {"name": name, "value": value} for name, value in message.headers
        ]
        stream = io.BytesIO()
        schema_id = self._registry.schema_id(BY_NAME["calls.replay"])
        try:
            fastavro.schemaless_writer(stream, self._schemas["calls.replay"], plain)
        except Exception:
            return message
        key = f"{plain['tenant_id']}/{plain['call_id']}".encode()
        return replace(
            message, topic="calls.replay", key=key, headers=(),
            value=struct.pack(">bI", 0, schema_id) + stream.getvalue(),
        )  # fmt: skip


def _wrapped(message: Message, chance: random.Random) -> Message:
    """As it stands in a retry tier, or on the dead-letter topic."""
    stage = chance.choice(("ingest", "transcribe", "enrich", "sink", "none"))
    made: Record | Invalid = Invalid("not_avro", "so it is")
    if chance.random() < 0.5:  # its patience may be at an end: headers say since when it waits
        made = retry(stage, message, NotYet("not_there", "later"), NOW_MS, Policy())
    if isinstance(made, Invalid):
        made = dead_letter(stage, message, made, NOW_MS)
    topic = chance.choice((made.topic, made.topic, made.topic, RETRY_TIERS[0].topic, DEAD_LETTER))
    return replace(message, topic=topic, headers=made.headers, value=made.value)


def _say_other(plain: Any, chance: random.Random) -> None:
    """Change one value somewhere in a tree of plain values."""
    while True:
        keys = list(plain) if isinstance(plain, dict) else list(range(len(plain)))
        if not keys:
            return
        key = chance.choice(keys)
        inner = plain[key]
        if isinstance(inner, dict | list) and inner and chance.random() < 0.85:
            plain = inner
            continue
        plain[key] = _other(inner, chance)
        return


def _other(value: Any, chance: random.Random) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return chance.choice(_INTEGERS)
        case float():
            return chance.choice(_FLOATS)
        case str():
            return "many words " * 7_000 if chance.random() < 0.002 else chance.choice(_TEXTS)
        case bytes():
            return chance.randbytes(chance.choice((0, 5, 1000)))
        case datetime():
            return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
                days=chance.choice((-719_162, -1, 0, 100_000, 2_932_896))
            )
        case list():
            many = min(500, _MOST_ITEMS // max(1, len(value)))
            return value * (many if chance.random() < 0.01 else chance.choice((0, 2, 3)))
        case dict():
            return {}
        case _:
            return chance.choice((*_INTEGERS[:4], *_TEXTS[:8], 0.5, [], {}, NOW))


# What is longer than a log takes is no message: making it would only cost memory.
_MOST_ITEMS = 50_000

# Of the value: (bytes, chance) -> bytes, or None for a tombstone.
Mutation = Callable[[bytearray, random.Random], bytes | None]


def _flip(data: bytearray, chance: random.Random) -> bytes:
    for _ in range(chance.choice((1, 1, 2, 8, 40))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def _flip_in_body(data: bytearray, chance: random.Random) -> bytes:
    return bytes(data[:5]) + (_flip(data[5:], chance) if len(data) > 5 else b"")


def _truncate(data: bytearray, chance: random.Random) -> bytes:
    return bytes(data[: chance.randrange(len(data) + 1)])


def _longer(data: bytearray, chance: random.Random) -> bytes:
    return bytes(data) + chance.randbytes(chance.choice((1, 5, 300)))


def _zigzag(number: int) -> bytes:
    coded = (number << 1) ^ (number >> 63) if number < 0 else number << 1
    out = bytearray()
    while coded > 0x7F:
        out.append(coded & 0x7F | 0x80)
        coded >>= 7
    return bytes((*out, coded & 0x7F))


def _counts(data: bytearray, chance: random.Random) -> bytes:
    """Numbers become huge or negative: counts of items, lengths of texts, branches of unions."""
    for _ in range(chance.choice((1, 1, 3))):
        number = chance.choice((*_INTEGERS, 100_000, 10_000_000, -100_000, -2, 3, 64))
        at = chance.randrange(min(5, len(data) - 1), len(data)) if len(data) > 1 else 0
        data[at : at + chance.choice((0, 1, 1, 2))] = _zigzag(number)
    return bytes(data)


def _same_byte(data: bytearray, chance: random.Random) -> bytes:
    """A run of one byte: unions in unions, empty blocks one after another, endless numbers."""
    at = chance.randrange(len(data))
    byte = chance.choice((0, 1, 2, 4, 0x7F, 0x80, 0xFF))
    return bytes(data[:at]) + bytes([byte]) * chance.choice((9, 200, 20_000))


def _schema(data: bytearray, chance: random.Random) -> bytes:
    id = chance.choice((*range(12), 1 << 31, (1 << 32) - 1))
    return bytes([chance.choice((0, 0, 0, 1, 255))]) + struct.pack(">I", id) + bytes(data[5:])


def _noise(data: bytearray, chance: random.Random) -> bytes:
    kept = data[: chance.choice((0, 5, 5, 20))]
    return bytes(kept) + chance.randbytes(chance.choice((3, 90, 4000)))


def _nothing(data: bytearray, chance: random.Random) -> bytes | None:
    return chance.choice((None, b"", b"\0"))


def _spliced(data: bytearray, chance: random.Random) -> bytes:
    one, other = sorted((chance.randrange(len(data)), chance.randrange(len(data))))
    piece = bytes(data[one:other])
    at = chance.randrange(len(data))
    data[at:at] = piece * chance.choice((1, 1, 30))
    return bytes(data)


_OF_VALUE: tuple[Mutation, ...] = (
    _flip, _flip_in_body, _flip_in_body, _truncate, _longer, _counts, _counts, _same_byte, _schema,
    _noise, _nothing, _spliced,
)  # fmt: skip

_HEADER_VALUES = (b"", b"0", b"1", b"-1", b"9" * 18, b"9" * 40, b"\xff\xfe", b"true", b"nan",
                  b"on", "é".encode() * 200, b"x" * 20_000, b"2026-03-02T12:00:00Z",
                  b"0001-01-01T00:00:00",
                  b"9999-12-31T23:59:59-12:00", b"2026-03-02", b"calls.ended", b"calls.replay",
                  b"calls.dead-letter", b"sink", b"ingest", b"claims/00/" + b"0" * 64, b"../x",
                  b"callstream.CallEnded.v2", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01",
                  b"\0", b"\xed\xa0\x80", "٣".encode())  # fmt: skip


def _other_headers(headers: Headers, chance: random.Random) -> Headers:
    made = list(headers)
    for _ in range(chance.choice((1, 1, 2, 5))):
        match chance.randrange(4):
            case 0 if made:
                del made[chance.randrange(len(made))]
            case 1 if made:
                at = chance.randrange(len(made))
                made[at] = (made[at][0], chance.choice(_HEADER_VALUES))
            case 2 if made:
                made.append(made[chance.randrange(len(made))])
            case _:
                name = chance.choice((*_HEADERS, *_HEADERS, "", "é", "x" * 300))
                made.append((name, chance.choice(_HEADER_VALUES)))
    return tuple(made)
