"""Between messages and events: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import copy
import hashlib
import io
import struct
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import fastavro
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import events as e
from schemas.examples import EXAMPLES
from schemas.topics import BY_RECORD, Topic
from services.runtime import codec as codec_module
from services.runtime import headers as h
from services.runtime.codec import CLAIM_CHECK_BYTES, Codec, FolderRegistry
from services.runtime.errors import Invalid, Transient
from services.runtime.log import Message, Record
from services.runtime.objects import DirectoryObjects, MissingObject

NOW = datetime(2026, 3, 2, 10, 0, 0, 123_000, tzinfo=UTC)
ENDED: e.CallEnded = EXAMPLES["CallEnded"]["happy"]
TRANSCRIBED: e.CallTranscribed = EXAMPLES["CallTranscribed"]["happy"]
REPLAY: e.ReplayRequested = EXAMPLES["ReplayRequested"]["bytes-inside"]
NAMED = [
    pytest.param(event, id=f"{record}-{name}")
    for record, examples in EXAMPLES.items()
    for name, event in examples.items()
]


class Memory:
    """Objects in memory."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def put(self, key: str, data: bytes) -> None:
        self.held[key] = data

    def put_file(self, key: str, path: Path) -> None:
        self.put(key, path.read_bytes())

    def get(self, key: str) -> bytes:
        if key not in self.held:
            raise MissingObject(key)
        return self.held[key]

    def get_file(self, key: str, path: Path) -> None:
        path.write_bytes(self.get(key))

    def exists(self, key: str) -> bool:
        return key in self.held

    def delete(self, key: str) -> None:
        self.held.pop(key, None)

    def keys(self, prefix: str = "") -> Iterator[str]:
        return iter(sorted(key for key in self.held if key.startswith(prefix)))


class Down(Memory):
    """A store that does not answer."""

    def put(self, key: str, data: bytes) -> None:
        raise Transient("objects_down", key)

    def get(self, key: str) -> bytes:
        raise Transient("objects_down", key)


def read(record: Record, **changes: Any) -> Message:
    """`record` as a reader of its topic gets it."""
    return replace(
        Message(record.topic, 3, 41, record.key, record.value, record.headers, 1_772_445_600_000),
        **changes,
    )


def encode(codec: Codec, event: Any, **changes: Any) -> Record:
    named: dict[str, Any] = {
        "id": "11111111-2222-5333-8444-555555555555",
        "source": "/x",
        "time": NOW,
    }
    return codec.encode(event, **named | changes)


def with_header(message: Message, name: str, value: str | bytes) -> Message:
    raw = value if isinstance(value, bytes) else value.encode()
    return replace(message, headers=(*message.headers, (name, raw)))


@pytest.fixture
def codec() -> Codec:
    return Codec(FolderRegistry(), Memory())


# Round trips


@pytest.mark.parametrize("event", NAMED)
def test_example_comes_back_as_it_was(codec: Codec, event: Any) -> None:
    envelope = codec.decode(read(encode(codec, event)))
    assert envelope.event == event
    assert type(envelope.event) is type(event)


@pytest.mark.parametrize("event", NAMED)
def test_encoding_twice_gives_equal_records(codec: Codec, event: Any) -> None:
    assert encode(codec, event) == encode(codec, copy.deepcopy(event))


def test_headers_are_cloudevents_in_binary_mode(codec: Codec) -> None:
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    record = encode(codec, ENDED, generation=3, causation_id="why", traceparent=trace)
    assert dict(record.headers) == {
        "ce_specversion": b"1.0",
        "ce_id": b"11111111-2222-5333-8444-555555555555",
        "ce_type": b"callstream.CallEnded.v1",
        "ce_source": b"/x",
        "ce_subject": b"acme/happy",
        "ce_time": b"2026-03-02T10:00:00.123+00:00",
        "content-type": b"application/vnd.confluent.avro",
        "ce_generation": b"3",
        "ce_causationid": b"why",
        "traceparent": trace.encode(),
    }
    assert (record.topic, record.key) == ("calls.ended", b"acme/happy")
    assert record.timestamp_ms == 1_772_445_600_123
    envelope = codec.decode(read(record))
    assert envelope.id == "11111111-2222-5333-8444-555555555555"
    assert envelope.time == NOW
    assert (envelope.generation, envelope.causation_id) == (3, "why")
    assert (envelope.traceparent, envelope.attempt) == (trace, 0)


def test_value_is_framed_as_confluent_does(codec: Codec) -> None:
    value = encode(codec, ENDED).value
    assert value is not None
    assert value[:5] == b"\0\0\0\0" + bytes([FolderRegistry().schema_id(BY_RECORD["CallEnded"])])


def test_microseconds_are_cut_to_milliseconds(codec: Codec) -> None:
    event = replace(ENDED, ended_at=ENDED.ended_at + timedelta(microseconds=1_999))
    read_again = codec.decode(read(encode(codec, event))).event
    assert read_again.ended_at == ENDED.ended_at + timedelta(milliseconds=1)


def test_a_time_of_another_zone_is_the_same_instant(codec: Codec) -> None:
    there = ENDED.ended_at.astimezone(timezone(timedelta(hours=8)))
    read_again = codec.decode(read(encode(codec, replace(ENDED, ended_at=there)))).event
    assert read_again.ended_at == ENDED.ended_at
    assert read_again.ended_at.tzinfo is UTC


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(replace(ENDED, ended_at=ENDED.ended_at.replace(tzinfo=None)), id="naive"),
        pytest.param(replace(ENDED, started_at=ENDED.started_at.replace(year=1)), id="year 1"),
        pytest.param(
            replace(ENDED, retain_until=datetime(9999, 12, 31)), id="naive, in a later field"
        ),
        pytest.param(
            replace(ENDED, queue=e.Queue(id="q", enqueued_at=datetime(2026, 1, 1))),
            id="naive, inside a part",
        ),
        pytest.param(replace(ENDED, call_id="\ud800"), id="half a surrogate"),
        pytest.param(replace(ENDED, talk_ms=1 << 63), id="beyond a long"),
        pytest.param(replace(ENDED, sip_status=1 << 31), id="beyond an int"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(codec: Codec, event: Any) -> None:
    with pytest.raises(Invalid) as failure:
        encode(codec, event)
    assert failure.value.reason == "not_valid"
    assert "CallEnded" in failure.value.detail


def test_never_is_a_year_9999(codec: Codec) -> None:
    event = replace(ENDED, retain_until=datetime(9999, 12, 31, tzinfo=UTC))
    assert codec.decode(read(encode(codec, event))).event == event


# Plain producers


def test_a_plain_avro_producer_needs_no_headers(codec: Codec) -> None:
    message = read(encode(codec, ENDED), headers=())
    envelope = codec.decode(message)
    assert envelope.event == ENDED
    assert envelope.time == datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
    assert (envelope.generation, envelope.attempt, envelope.causation_id) == (0, 0, None)
    assert len(envelope.id) == 36


def test_the_id_of_a_repeated_delivery_is_the_same(codec: Codec) -> None:
    """By the platform's own id where there is one, by content else; never by where it lies."""
    for event in (ENDED, TRANSCRIBED):
        first = read(encode(codec, event), headers=())
        again = replace(first, partition=7, offset=8, timestamp_ms=9)
        assert codec.decode(first).id == codec.decode(again).id
    amended = replace(ENDED, wrap_up_code="done")
    assert codec.decode(read(encode(codec, amended), headers=())).id == (
        codec.decode(read(encode(codec, ENDED), headers=())).id
    )
    other = replace(TRANSCRIBED, language="fr")
    assert codec.decode(read(encode(codec, other), headers=())).id != (
        codec.decode(read(encode(codec, TRANSCRIBED), headers=())).id
    )


def test_the_platforms_trace_goes_on(codec: Codec) -> None:
    trace = "00-" + "1" * 32 + "-" + "2" * 16 + "-00"
    event = replace(ENDED, traceparent=trace)
    assert codec.decode(read(encode(codec, event), headers=())).traceparent == trace


@pytest.mark.parametrize("trace", ["", "nonsense", "00-1-2-01", "00-" + "g" * 32 + "-x-01"])
def test_a_bad_traceparent_is_as_none(codec: Codec, trace: str) -> None:
    message = with_header(read(encode(codec, ENDED)), "traceparent", trace)
    assert codec.decode(message).traceparent is None


def test_the_last_header_of_a_name_counts(codec: Codec) -> None:
    message = with_header(read(encode(codec, ENDED, generation=1)), h.GENERATION, "2")
    assert codec.decode(message).generation == 2


def test_a_replay_belongs_to_the_generation_it_asks_for(codec: Codec) -> None:
    event = replace(REPLAY, generation=7)
    assert codec.decode(read(encode(codec, event))).generation == 7
    assert codec.decode(read(encode(codec, event), headers=())).generation == 7


def test_original_bytes_are_the_event_of_a_dead_letter(codec: Codec) -> None:
    message = Message("calls.dead-letter", 1, 2, b"k", None, (), 3)
    assert codec.decode(message).event is message
    assert codec.decode(message).id != codec.decode(replace(message, offset=3)).id


def test_what_cannot_be_decoded_has_an_envelope_too(codec: Codec) -> None:
    message = Message("calls.ended", 1, 2, None, None, (), -(10**18))
    envelope = codec.undecodable(message, Invalid("no_value", "null"))
    assert envelope.event is message
    assert envelope.problem is not None


# Refusals: one reason, one test


def refused(codec: Codec, message: Message) -> Invalid:
    with pytest.raises(Invalid) as failure:
        codec.decode(message)
    assert len(failure.value.detail) < 2_000
    return failure.value


def _value(body: bytes, schema_id: int = 1) -> bytes:
    return struct.pack(">bI", 0, schema_id) + body


def test_unknown_topic(codec: Codec) -> None:
    failure = refused(codec, read(encode(codec, ENDED), topic="calls.unheard"))
    assert (failure.reason, "calls.unheard" in failure.detail) == ("unknown_topic", True)


def test_unknown_schema_id_names_it_and_the_known_ones(codec: Codec) -> None:
    failure = refused(codec, read(encode(codec, ENDED), value=_value(b"", 4242)))
    assert failure.reason == "unknown_schema_id"
    assert "4242" in failure.detail
    assert "1 to" in failure.detail


def test_schema_of_another_topic(codec: Codec) -> None:
    recorded = encode(codec, EXAMPLES["CallRecorded"]["happy"])
    failure = refused(codec, read(encode(codec, ENDED), value=recorded.value))
    assert failure.reason == "wrong_schema"
    assert "CallRecorded" in failure.detail


@pytest.mark.parametrize(
    "schema",
    [{}, {"type": "string"}, {"type": "record"}, {"type": "nonsense", "name": "x"},
     {"type": "record", "name": "CallEnded", "fields": []}],
)  # fmt: skip
def test_anything_else_that_a_shared_registry_holds(schema: Mapping[str, Any]) -> None:
    class Shared(FolderRegistry):
        def schema(self, schema_id: int) -> Mapping[str, Any]:
            return schema if schema_id == 99 else super().schema(schema_id)

    codec = Codec(Shared())
    failure = refused(codec, read(encode(codec, ENDED), value=_value(b"\0" * 64, 99)))
    assert failure.reason == "wrong_schema"
    assert "99" in failure.detail


def test_null_value(codec: Codec) -> None:
    assert refused(codec, read(encode(codec, ENDED), value=None)).reason == "no_value"


@pytest.mark.parametrize("value", [b"", b"\0", b"\0\0\0\0", b'{"call": 1}', b"\1\0\0\0\1"])
def test_unframed_value(codec: Codec, value: bytes) -> None:
    assert refused(codec, read(encode(codec, ENDED), value=value)).reason == "not_framed"


@pytest.mark.parametrize("body", [b"", b"\xff" * 40, b"\x02a"])
def test_garbage(codec: Codec, body: bytes) -> None:
    failure = refused(codec, read(encode(codec, ENDED), value=_value(body)))
    assert failure.reason in ("not_avro", "not_valid")


def test_trailing_bytes(codec: Codec) -> None:
    record = encode(codec, ENDED)
    failure = refused(codec, read(record, value=(record.value or b"") + b"xyz"))
    assert failure.reason == "not_avro"
    assert "3 bytes" in failure.detail


@pytest.mark.parametrize("key", [None, b"", b"acme/other", b"acme", b"k" * 1_000_000])
def test_wrong_key(codec: Codec, key: bytes | None) -> None:
    failure = refused(codec, read(encode(codec, ENDED), key=key))
    assert failure.reason == "wrong_key"
    assert "acme/happy" in failure.detail


@pytest.mark.parametrize(
    "named",
    [
        "callstream.CallEnded.v2",
        "callstream.CallRecorded.v1",
        "CallEnded",
        "",
        "\udc80",
        "x" * 9999,
    ],
)
def test_unknown_type_or_version(codec: Codec, named: str) -> None:
    message = read(encode(codec, ENDED))
    failure = refused(codec, with_header(message, h.TYPE, named.encode("utf-8", "surrogateescape")))
    assert failure.reason == "unknown_type"
    assert "callstream.CallEnded.v1" in failure.detail


@pytest.mark.parametrize("text", ["", "-1", "1.5", "one", "٣", "9" * 19, " 1", "1\n"])
@pytest.mark.parametrize("name", [h.GENERATION, h.RETRY_ATTEMPT])
def test_bad_number_in_a_header(codec: Codec, name: str, text: str) -> None:
    failure = refused(codec, with_header(read(encode(codec, ENDED)), name, text))
    assert failure.reason == "bad_header"
    assert name in failure.detail


@pytest.mark.parametrize("text", ["", "yesterday", "0001-01-01T00:00:00+14:00", "9999-12-31",
                                  "1970-01-01T00:00:00Z", "x" * 100_000])  # fmt: skip
def test_bad_time(codec: Codec, text: str) -> None:
    failure = refused(codec, with_header(read(encode(codec, ENDED)), h.TIME, text))
    assert failure.reason == "bad_header"
    assert h.TIME in failure.detail


def test_an_id_as_long_as_a_book(codec: Codec) -> None:
    failure = refused(codec, with_header(read(encode(codec, ENDED)), h.ID, "x" * 100_000))
    assert failure.reason == "bad_header"


def test_an_event_that_means_nothing(codec: Codec) -> None:
    """It is well-formed Avro: written past our own checks."""
    schema = fastavro.parse_schema(dict(FolderRegistry().schema(1)))
    plain = msgspec.to_builtins(ENDED, builtin_types=(datetime, bytes))
    plain["started_at"] = ENDED.ended_at + timedelta(days=1)
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, schema, plain)
    failure = refused(codec, read(encode(codec, ENDED), value=_value(stream.getvalue())))
    assert failure.reason == "not_valid"
    assert "started_at" in failure.detail


# Claim checks


def _sized(codec: Codec, size: int) -> e.CallEnded:
    """An event whose Avro body has exactly `size` bytes."""
    body = len(encode(codec, replace(ENDED, wrap_up_note="x" * 100_000)).value or b"") - 5
    return replace(ENDED, wrap_up_note="x" * (100_000 + size - body))


def test_a_body_at_the_limit_travels_inside_and_one_byte_more_by_claim(tmp_path: Path) -> None:
    codec = Codec(FolderRegistry(), DirectoryObjects(tmp_path))
    at_limit = encode(codec, _sized(codec, CLAIM_CHECK_BYTES))
    beyond = encode(codec, _sized(codec, CLAIM_CHECK_BYTES + 1))
    assert len(at_limit.value or b"") == CLAIM_CHECK_BYTES + 5
    assert h.DATAREF not in dict(at_limit.headers)
    assert len(beyond.value or b"") == 5
    assert dict(beyond.headers)[h.DATAREF].startswith(b"claims/")
    for record in (at_limit, beyond):
        assert len(codec.decode(read(record)).event.wrap_up_note) > 800_000


def test_a_day_of_talk_makes_the_round_trip_by_claim(tmp_path: Path) -> None:
    long = EXAMPLES["CallTranscribed"]["hours-long"]
    segments = [
        replace(segment, segment_id=number) for number, segment in enumerate(long.segments * 2)
    ]
    codec = Codec(FolderRegistry(), DirectoryObjects(tmp_path))
    record = encode(codec, replace(long, segments=segments))
    assert len(record.value or b"") == 5
    assert len(codec.decode(read(record)).event.segments) == len(segments)
    assert record == encode(codec, replace(long, segments=segments))


def _claimed(codec: Codec) -> Message:
    return read(encode(codec, _sized(codec, CLAIM_CHECK_BYTES + 1)))


def test_missing_claim() -> None:
    message = _claimed(Codec(FolderRegistry(), Memory()))
    failure = refused(Codec(FolderRegistry(), Memory()), message)
    assert (failure.reason, "claims/" in failure.detail) == ("missing_body", True)


def test_claim_that_holds_something_else() -> None:
    objects = Memory()
    codec = Codec(FolderRegistry(), objects)
    message = _claimed(codec)
    objects.held = dict.fromkeys(objects.held, b"something else")
    assert refused(codec, message).reason == "wrong_body"


def test_claim_larger_than_any_event(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = Codec(FolderRegistry(), Memory())
    message = _claimed(codec)
    monkeypatch.setattr(codec_module, "LARGEST_EVENT_BYTES", CLAIM_CHECK_BYTES)
    assert refused(codec, message).reason == "too_large"
    with pytest.raises(Invalid, match="too_large"):
        encode(codec, replace(ENDED, wrap_up_note="x" * 1_000_000))


@pytest.mark.parametrize(
    "dataref",
    ["", "claims/../../etc/passwd", "claims/00/" + "0" * 63, "audio/acme/00/" + "0" * 64,
     "https://example.com/claims/00/" + "0" * 64, "claims/00/" + "0" * 64 + "\n", "x" * 100_000],
)  # fmt: skip
def test_bad_dataref(codec: Codec, dataref: str) -> None:
    failure = refused(codec, with_header(read(encode(codec, ENDED)), h.DATAREF, dataref))
    assert failure.reason == "bad_dataref"


def test_without_a_store_a_claim_is_refused_either_way() -> None:
    message = _claimed(Codec(FolderRegistry(), Memory()))
    bare = Codec(FolderRegistry())
    assert refused(bare, message).reason == "bad_dataref"
    with pytest.raises(Invalid, match="object store"):
        encode(bare, replace(ENDED, wrap_up_note="x" * 1_000_000))


def test_a_store_that_is_down_is_waited_for() -> None:
    message = _claimed(Codec(FolderRegistry(), Memory()))
    down = Codec(FolderRegistry(), Down())
    with pytest.raises(Transient, match="objects_down"):
        down.decode(message)
    with pytest.raises(Transient, match="objects_down"):
        encode(down, replace(ENDED, wrap_up_note="x" * 1_000_000))


# Other versions of a schema


class Evolved(FolderRegistry):
    """The folder, and one more version of CallEnded under id 99."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        super().__init__()
        self._schemas[99] = schema

    def schema_id(self, topic: Topic) -> int:
        return 99 if topic.record == "CallEnded" else super().schema_id(topic)


def _written(schema: dict[str, Any], **changes: Any) -> Message:
    plain = msgspec.to_builtins(ENDED, builtin_types=(datetime, bytes)) | changes
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(copy.deepcopy(schema)), plain)
    return Message("calls.ended", 0, 0, b"acme/happy", _value(stream.getvalue(), 99), (), 0)


def _newest() -> dict[str, Any]:
    registry = FolderRegistry()
    return copy.deepcopy(dict(registry.schema(registry.schema_id(BY_RECORD["CallEnded"]))))


def _field(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(f for f in schema["fields"] if f["name"] == name)
    return found


def test_a_newer_version_with_one_more_field_is_read() -> None:
    schema = _newest()
    schema["fields"].insert(3, {"name": "mood", "type": "string", "default": "calm"})
    message = _written(schema, mood="cross")
    assert Codec(Evolved(schema)).decode(message).event == ENDED


def test_an_older_version_with_one_field_less_is_read_with_its_default() -> None:
    schema = _newest()
    schema["fields"].remove(_field(schema, "traceparent"))
    schema["fields"].remove(_field(schema, "language_hints"))
    event = Codec(Evolved(schema)).decode(_written(schema)).event
    assert event == replace(ENDED, language_hints=[])


def test_fields_in_another_order_are_read() -> None:
    schema = _newest()
    tail = schema["fields"][-3:]
    schema["fields"] = tail[::-1] + schema["fields"][:-3]
    assert Codec(Evolved(schema)).decode(_written(schema)).event == ENDED


def test_a_symbol_of_the_future_is_read_as_the_default() -> None:
    schema = _newest()
    _field(schema, "direction")["type"]["symbols"].append("SIDEWAYS")
    event = Codec(Evolved(schema)).decode(_written(schema, direction="SIDEWAYS")).event
    assert event == replace(ENDED, direction=e.Direction.UNKNOWN)


def test_an_older_version_may_be_what_the_registry_writes() -> None:
    """A registry that lags behind the code: what it does not know yet is not written."""
    schema = _newest()
    schema["fields"].remove(_field(schema, "wrap_up_note"))
    codec = Codec(Evolved(schema))
    event = replace(ENDED, wrap_up_note="lost on the way")
    assert codec.decode(read(encode(codec, event))).event == ENDED


# Hostile bytes


_VALID = [
    read(encode(Codec(FolderRegistry(), Memory()), event))
    for event in (ENDED, TRANSCRIBED, EXAMPLES["CallEnriched"]["happy"], REPLAY,
                  EXAMPLES["CallErased"]["asked"])
]  # fmt: skip
_CODEC = Codec(FolderRegistry(), Memory())


def survives(message: Message) -> None:
    """Decoding raises nothing but Invalid, and what it accepts can be written again."""
    try:
        envelope = _CODEC.decode(message)
    except Invalid:
        return
    encode(_CODEC, envelope.event, id=envelope.id, time=envelope.time)


@given(st.sampled_from(_VALID), st.binary(max_size=300))
@settings(max_examples=500, deadline=None)
def test_random_bytes_never_raise_anything_but_invalid(valid: Message, body: bytes) -> None:
    framed = (valid.value or b"")[:5] + body
    survives(replace(valid, value=framed, headers=()))
    survives(replace(valid, value=body))


@st.composite
def _mutated(draw: st.DrawFn) -> Message:
    message = draw(st.sampled_from(_VALID))
    value = bytearray(message.value or b"")
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(value)))
        match draw(st.sampled_from(("flip", "cut", "insert", "remove"))):
            case "flip" if at < len(value):
                value[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del value[at:]
            case "insert":
                value[at:at] = draw(st.binary(min_size=1, max_size=12))
            case _:
                del value[at : at + draw(st.integers(1, 12))]
    return replace(message, value=bytes(value))


@given(_mutated())
@settings(max_examples=1_500, deadline=None)
def test_mutated_messages_never_raise_anything_but_invalid(message: Message) -> None:
    survives(message)


@given(
    st.sampled_from(_VALID),
    st.lists(
        st.tuples(
            st.sampled_from([getattr(h, name) for name in dir(h) if name.isupper()]),
            st.binary(max_size=40) | st.text(max_size=20).map(str.encode),
        ),
        max_size=4,
    ),
    st.none() | st.binary(max_size=20),
    st.integers(-(1 << 63), (1 << 63) - 1),
)
@settings(max_examples=300, deadline=None)
def test_hostile_headers_keys_and_timestamps(
    valid: Message, headers: list[tuple[str, bytes]], key: bytes | None, timestamp_ms: int
) -> None:
    survives(replace(valid, headers=(*valid.headers, *headers), timestamp_ms=timestamp_ms))
    survives(replace(valid, headers=tuple(headers), timestamp_ms=timestamp_ms))
    survives(replace(valid, key=key))


def _long(value: int) -> bytes:
    """Avro's variable-length, zig-zag long."""
    left = (value << 1) ^ (value >> 63)
    left &= (1 << 64) - 1
    made = bytearray()
    while left > 0x7F:
        made.append(left & 0x7F | 0x80)
        left >>= 7
    made.append(left)
    return bytes(made)


_HUGE = (1 << 60, (1 << 63) - 1, -(1 << 63), -(1 << 60), -1)


@pytest.mark.parametrize("valid", [_VALID[0], _VALID[3], _VALID[4]], ids=lambda m: m.topic)
def test_claims_of_size_cost_no_more_than_what_is_there(valid: Message) -> None:
    """A huge or negative number at every place: lengths, counts of arrays, maps and blocks."""
    value = valid.value or b""
    tracemalloc.start()
    began = time.process_time()
    try:
        for number in _HUGE:
            for at in range(5, len(value)):
                survives(replace(valid, value=value[:at] + _long(number) + value[at + 1 :]))
                block = _long(-2) + _long(number)
                survives(replace(valid, value=value[:at] + block + value[at + 1 :]))
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 20.0


def test_a_message_full_of_the_smallest_items_is_bounded_by_its_size() -> None:
    """Empty strings, one byte each: the most items that so many bytes can hold."""
    ended = _VALID[0].value or b""
    one = b"\x02\x04en"
    at = ended.rindex(one)
    count = 200_000
    body = ended[:at] + _long(count) + b"\0" * count + ended[at + len(one) :]
    tracemalloc.start()
    try:
        envelope = _CODEC.decode(replace(_VALID[0], value=body))
        assert len(envelope.event.language_hints) == count
        assert tracemalloc.get_traced_memory()[1] < 25_000_000
    finally:
        tracemalloc.stop()


def test_the_folder_registry_knows_every_topic_with_a_record() -> None:
    registry = FolderRegistry()
    for record, topic in BY_RECORD.items():
        assert registry.schema(registry.schema_id(topic))["name"].endswith(f".{record}")
    with pytest.raises(ValueError, match="original bytes"):
        registry.schema_id(Topic("calls.dead-letter", None, "", (), ()))


def test_the_claim_of_a_body_is_its_hash() -> None:
    objects = Memory()
    codec = Codec(FolderRegistry(), objects)
    record = encode(codec, _sized(codec, CLAIM_CHECK_BYTES + 1))
    ((key, body),) = objects.held.items()
    assert key.endswith(hashlib.sha256(body).hexdigest())
    assert dict(record.headers)[h.DATAREF].decode() == key
