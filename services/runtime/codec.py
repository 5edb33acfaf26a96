"""Between messages and typed events: Confluent framing, Avro, CloudEvents headers, claim check.

The only importer of `fastavro`. Decoding trusts nothing: a message that is not exactly one valid
event of its topic is `Invalid`, whatever its bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import fastavro
import msgspec

from schemas import events
from schemas.checks import EARLIEST_YEAR, LATEST_YEAR, LONGEST_ID, problem_with, subject_of
from schemas.topics import BY_NAME, BY_RECORD, REPLAY, Topic
from services.runtime import headers as h
from services.runtime.errors import Failure, Invalid
from services.runtime.log import Message, Record
from services.runtime.objects import MissingObject, Objects
from services.runtime.stage import TRACEPARENT, Envelope, event_id

# A record beyond this carries its body by claim check; brokers refuse 1,000,000 by default.
CLAIM_CHECK_BYTES = 900_000
# No event is larger (four hours of talk are 0.7 MB); a claim check that holds more is hostile, and
# what it decodes to may be fifteen times as large.
LARGEST_EVENT_BYTES = 64 << 20
CONTENT_TYPE = b"application/vnd.confluent.avro"

VERSIONS = Path(events.__file__).parent / "versions"

# Of what a hostile message may put into an error.
_LONGEST_DETAIL = 500

_FRAME = struct.Struct(">bI")
_TYPE = re.compile(r"callstream\.([A-Za-z]+)\.v1\Z")


class Registry(Protocol):
    """Where schemas are found by the id in a message, and ids by the record to write."""

    def schema(self, schema_id: int) -> Mapping[str, Any]:
        """The schema under that id; Invalid when there is none, Transient when nobody answers."""

    def schema_id(self, topic: Topic) -> int:
        """The id under which values of `topic` are written."""

    def close(self) -> None:
        """Let go of what it holds; it is not asked again."""


class FolderRegistry:
    """The committed `schemas/versions/` as a registry: a version's number is its id."""

    def __init__(self, folder: Path = VERSIONS) -> None:
        self._schemas: dict[int, Mapping[str, Any]] = {}
        self._latest: dict[str, int] = {}
        for path in sorted(folder.glob("*.avsc")):
            number, record = path.stem.split("-", 1)
            self._schemas[int(number)] = json.loads(path.read_text())
            self._latest[record] = int(number)

    def schema(self, schema_id: int) -> Mapping[str, Any]:
        try:
            return self._schemas[schema_id]
        except KeyError:
            raise Invalid(
                "unknown_schema_id",
                f"schema id {schema_id} is not in the registry (known: 1 to {len(self._schemas)}); "
                "was the message written with another registry?",
            ) from None

    def schema_id(self, topic: Topic) -> int:
        if topic.record is None:
            raise ValueError(f"{topic.name} carries original bytes, not events")
        return self._latest[topic.record]

    def close(self) -> None:
        pass


class Codec:
    """Decodes messages of catalogue topics and encodes events for them. Thread-safe.

    `objects` holds bodies by claim check; without it a record that needs one is refused.
    """

    def __init__(self, registry: Registry, objects: Objects | None = None) -> None:
        self._registry = registry
        self._objects = objects
        self._writers: dict[int, tuple[str, Any]] = {}
        self._readers: dict[str, Any] = {}
        self._types: dict[str, type[Any]] = {
            record: getattr(events, record) for record in BY_RECORD
        }
        for type_ in self._types.values():
            # Learns the type. Left to the first messages, two threads would learn it at once, and
            # msgspec would bring the process down.
            msgspec.json.Decoder(type_)
        for record in BY_RECORD:
            self._readers[record] = fastavro.parse_schema(_newest(record))

    def decode(self, message: Message) -> Envelope[Any]:
        """The event in `message`. Raises Invalid, or Transient when a claim check's store is down.

        Where the topic carries original bytes the event is the message itself.
        """
        topic = BY_NAME.get(message.topic)
        if topic is None:
            raise Invalid("unknown_topic", f"{message.topic!r} is not in the catalogue")
        if topic.record is None:
            return self._envelope(message, message, lambda: _id_of_bytes(message))
        self._check_type(message, topic.record)
        event = self._event(message, topic.record)
        expected = subject_of(event).encode()
        if message.key != expected:
            raise Invalid(
                "wrong_key", f"key is {_shown(message.key)}, the event is about {expected!r}"
            )
        return self._envelope(event, message, lambda: _id_of_event(event, message))

    def replayed(self, request: Envelope[events.ReplayRequested]) -> Envelope[Any]:
        """The input that `request` has its stage handle again, as of the generation it asks for.

        `message` stays that of the request. Raises as `decode`.
        """
        asked, about = request.event.input, request.message
        if asked.topic == REPLAY:
            raise Invalid("not_valid", f"ReplayRequested: input.topic is {REPLAY}")
        added = {h.ID: asked.event_id.encode()}
        value = asked.value
        if asked.dataref is not None and asked.topic in BY_NAME:
            added[h.DATAREF] = asked.dataref.encode()
            value = _FRAME.pack(0, self._registry.schema_id(BY_NAME[asked.topic]))
        named = [(item.name, item.value) for item in asked.headers if item.name not in added]
        at = asked.timestamp
        original = Message(
            asked.topic,
            about.partition,
            about.offset,
            about.key,
            value,
            (*named, *added.items()),
            about.timestamp_ms if at is None else round(at.timestamp() * 1000),
        )
        return replace(self.decode(original), message=original)

    def undecodable(self, message: Message, problem: Invalid) -> Envelope[Message]:
        """An envelope for stages that take even what cannot be decoded."""
        return Envelope(
            message, message, _id_of_bytes(message), problem=problem, time=_read_at(message)
        )

    def _check_type(self, message: Message, record: str) -> None:
        named = message.header(h.TYPE)
        if named is None:  # a producer that sets no CloudEvents headers
            return
        match = _TYPE.match(named)
        if match is None or match[1] != record:
            raise Invalid(
                "unknown_type",
                f"{h.TYPE} is {_shown(named)}, {message.topic} carries callstream.{record}.v1",
            )

    def _event(self, message: Message, record: str) -> Any:
        value = message.value
        if value is None:
            raise Invalid("no_value", f"{message.topic} carries {record}, the value is null")
        if len(value) < _FRAME.size or value[0] != 0:
            raise Invalid(
                "not_framed",
                "the value does not begin with byte 0 and a 4-byte schema id (Confluent framing)",
            )
        _, schema_id = _FRAME.unpack_from(value)
        name, writer = self._writer(schema_id)
        if name != f"callstream.events.{record}":
            raise Invalid(
                "wrong_schema",
                f"schema id {schema_id} is {name}, {message.topic} carries {record}",
            )
        dataref = message.header(h.DATAREF)
        body = value[_FRAME.size :] if dataref is None else self._claimed(dataref)
        stream = io.BytesIO(body)
        try:
            reader = self._readers[record]
            # Resolving a schema against its equal doubles the time (benchmarks/codec.py).
            plain = fastavro.schemaless_reader(stream, writer, None if writer is reader else reader)
            if stream.tell() != len(body):
                raise Invalid("not_avro", f"{len(body) - stream.tell()} bytes follow the {record}")
            event = msgspec.convert(plain, self._types[record])
        except Failure:
            raise
        except MemoryError:
            raise Invalid(
                "not_avro", f"the value claims more items than a {record} holds"
            ) from None
        except Exception as error:  # fastavro raises nearly anything on garbage
            detail = f"not a {record}: {type(error).__name__}: {error}"
            raise Invalid("not_avro", detail[:_LONGEST_DETAIL]) from error
        if problem := problem_with(event):
            raise Invalid("not_valid", f"{record}: {problem}")
        return event

    def _writer(self, schema_id: int) -> tuple[str, Any]:
        """The full name and the parsed form of a schema; a registry may hold others' too."""
        found = self._writers.get(schema_id)
        if found is None:
            schema = self._registry.schema(schema_id)
            try:
                parsed: Any = fastavro.parse_schema(dict(schema))
                name = str(parsed["name"])
            except Exception as error:  # another team's schema may be anything
                raise Invalid(
                    "wrong_schema", f"schema id {schema_id} is no record of ours: {error}"
                ) from error
            reader = self._readers.get(name.removeprefix("callstream.events."))
            found = self._writers[schema_id] = name, reader if parsed == reader else parsed
        return found

    def _claimed(self, dataref: str) -> bytes:
        match = re.fullmatch(r"claims/[0-9a-f]{2}/([0-9a-f]{64})", dataref)
        if match is None:
            raise Invalid(
                "bad_dataref", f"{h.DATAREF} is {_shown(dataref)}, not claims/xx/<sha256>"
            )
        if self._objects is None:
            raise Invalid("bad_dataref", "the body lies in an object store, and none is configured")
        try:
            body = self._objects.get(dataref)
        except MissingObject:
            raise Invalid("missing_body", f"{dataref} is not in the object store") from None
        if len(body) > LARGEST_EVENT_BYTES:
            raise Invalid(
                "too_large", f"{dataref} holds {len(body)} bytes, no event is beyond "
                f"{LARGEST_EVENT_BYTES}",
            )  # fmt: skip
        if hashlib.sha256(body).hexdigest() != match[1]:
            raise Invalid("wrong_body", f"{dataref} does not hold what its name says")
        return body

    def _envelope(
        self, event: Any, message: Message, id_without_header: Callable[[], str]
    ) -> Envelope[Any]:
        header = message.header
        id = header(h.ID) or id_without_header()
        if len(id) > LONGEST_ID:
            raise Invalid(
                "bad_header", f"{h.ID} has {len(id)} characters, at most {LONGEST_ID} are allowed"
            )
        # A request to replay belongs to the generation it asks for, whoever set the headers.
        generation = getattr(event, "generation", None) or _whole(message, h.GENERATION)
        trace = header(h.TRACEPARENT) or getattr(event, "traceparent", None) or ""
        return Envelope(
            event,
            message,
            id,
            generation=generation,
            time=_time(message),
            causation_id=header(h.CAUSATION_ID),
            traceparent=trace if TRACEPARENT.match(trace) else None,
            attempt=_whole(message, h.RETRY_ATTEMPT),
            shadow=generation > 0 and header(h.SHADOW) == "true",
            side_effects=generation == 0 or header(h.SIDE_EFFECTS) == "on",
        )

    def encode(
        self,
        event: Any,
        *,
        id: str,
        source: str,
        time: datetime,
        generation: int = 0,
        causation_id: str | None = None,
        traceparent: str | None = None,
        shadow: bool = False,
        side_effects: bool = False,
    ) -> Record:
        """The record that carries `event` on its topic.

        Puts a body beyond CLAIM_CHECK_BYTES into the object store before it returns (and may then
        raise Transient). Raises Invalid for an event that could not be decoded again.
        """
        record = type(event).__name__
        topic = BY_RECORD[record]
        if problem := problem_with(event):
            raise Invalid("not_valid", f"{record}: {problem}")
        schema_id = self._registry.schema_id(topic)
        stream = io.BytesIO()
        plain = msgspec.to_builtins(event, builtin_types=(datetime, bytes))
        try:
            fastavro.schemaless_writer(stream, self._writer(schema_id)[1], plain)
        except (ValueError, TypeError, OverflowError) as error:
            raise Invalid("not_valid", f"{record}: {error}"[:_LONGEST_DETAIL]) from error
        body = stream.getvalue()
        if len(body) > LARGEST_EVENT_BYTES:
            raise Invalid(
                "too_large", f"{record} of {len(body)} bytes, at most {LARGEST_EVENT_BYTES} "
                "are read again",
            )  # fmt: skip
        subject = subject_of(event).encode()
        named = [
            (h.SPECVERSION, b"1.0"),
            (h.ID, id.encode()),
            (h.TYPE, f"callstream.{record}.v1".encode()),
            (h.SOURCE, source.encode()),
            (h.SUBJECT, subject),
            (h.TIME, time.astimezone(UTC).isoformat(timespec="milliseconds").encode()),
            (h.CONTENT_TYPE, CONTENT_TYPE),
            (h.GENERATION, str(generation).encode()),
        ]
        if isinstance(event, events.ReplayRequested):
            named.append((h.REPLAY_STAGE, event.stage.encode()))
        if causation_id is not None:
            named.append((h.CAUSATION_ID, causation_id.encode()))
        traceparent = traceparent or getattr(event, "traceparent", None)
        if traceparent is not None:
            named.append((h.TRACEPARENT, traceparent.encode()))
        if shadow:
            named.append((h.SHADOW, b"true"))
        if side_effects and generation:
            named.append((h.SIDE_EFFECTS, b"on"))
        if len(body) > CLAIM_CHECK_BYTES:
            if self._objects is None:
                raise Invalid(
                    "too_large", f"{record} of {len(body)} bytes needs an object store to lie in"
                )
            digest = hashlib.sha256(body).hexdigest()
            dataref = f"claims/{digest[:2]}/{digest}"
            self._objects.put(dataref, body)
            named.append((h.DATAREF, dataref.encode()))
            body = b""
        return Record(
            topic.name,
            subject,
            _FRAME.pack(0, schema_id) + body,
            tuple(named),
            timestamp_ms=round(time.timestamp() * 1000),
        )


def _newest(record: str) -> dict[str, Any]:
    """The version of `record` that the typed events are made from."""
    paths = sorted(VERSIONS.glob(f"*-{record}.avsc"))
    return dict(json.loads(paths[-1].read_text()))


def _digest(message: Message) -> str:
    digest = hashlib.sha256()
    for part in (message.topic.encode(), message.key or b"", message.value or b""):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _id_of_event(event: Any, message: Message) -> str:
    """The same for the same event wherever it lies: delivered again, or back from a retry."""
    if about := getattr(event, "event_id", None):
        return event_id("platform", f"{event.tenant_id}/{event.call_id}/{about}", 0, 0)
    return event_id("bytes", _digest(message), 0, 0)


def _id_of_bytes(message: Message) -> str:
    """Another for each place the same bytes lie: the same message may be refused twice."""
    return event_id("bytes", _digest(message), message.partition, message.offset)


def _shown(text: str | bytes | None) -> str:
    """For an error: what a message says, not all of it if it says too much."""
    return repr(text if text is None else text[:_LONGEST_DETAIL])


def _whole(message: Message, name: str) -> int:
    text = message.header(name)
    if text is None:
        return 0
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise Invalid("bad_header", f"{name} is {_shown(text)}, not a whole number")
    return int(text)


def _time(message: Message) -> datetime:
    text = message.header(h.TIME)
    if text is None:
        return _read_at(message)
    try:
        when = datetime.fromisoformat(text)
        when = (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Invalid("bad_header", f"{h.TIME} is {_shown(text)}, not an RFC 3339 time") from None
    if not EARLIEST_YEAR <= when.year <= LATEST_YEAR:
        raise Invalid(
            "bad_header", f"{h.TIME} is {_shown(text)}, outside {EARLIEST_YEAR} to {LATEST_YEAR}"
        )
    return when


def _read_at(message: Message) -> datetime:
    try:
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=message.timestamp_ms)
    except OverflowError:
        return datetime.fromtimestamp(0, UTC)
