"""The catalogue is whole, and every named example event is what its schema says."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import avro.io
import avro.schema
import pytest

from schemas import events as e
from schemas.checks import problem_with
from schemas.examples import EXAMPLES
from schemas.generate import PARTS, SOURCES, versions
from schemas.topics import BY_NAME, BY_RECORD, DAY_MS, RETRY_TIERS, SUMMARIES, TOPICS

NAMED = [
    pytest.param(event, id=f"{record}-{name}")
    for record, examples in EXAMPLES.items()
    for name, event in examples.items()
]
ENDED: e.CallEnded = EXAMPLES["CallEnded"]["happy"]
RECORDED: e.CallRecorded = EXAMPLES["CallRecorded"]["happy"]
TRANSCRIBED: e.CallTranscribed = EXAMPLES["CallTranscribed"]["happy"]
ENRICHED: e.CallEnriched = EXAMPLES["CallEnriched"]["happy"]
REPLAY: e.ReplayRequested = EXAMPLES["ReplayRequested"]["bytes-inside"]


# The catalogue


def test_every_record_has_one_topic_and_every_topic_a_known_record() -> None:
    records = [topic.record for topic in TOPICS if topic.record is not None]
    assert sorted(records) == sorted(set(SOURCES) - PARTS)
    assert len(BY_NAME) == len(TOPICS)
    assert {record: topic.record for record, topic in BY_RECORD.items()} == {r: r for r in records}


def test_every_topic_is_kept_produced_and_consumed() -> None:
    stages = {"ingest", "transcribe", "enrich", "summarize", "sink"}
    for topic in TOPICS:
        assert topic.about.endswith("."), topic.name
        assert topic.cleanup in ("delete", "compact")
        assert 7 * DAY_MS <= topic.retention_ms <= 90 * DAY_MS
        assert topic.partitions == 24
        assert topic.producers
        # A request for a summary carries a transcript, which is stored already.
        assert ("sink" in topic.consumers) == (topic.name != SUMMARIES)
        assert stages & set(topic.consumers)
        assert topic.subject == f"{topic.name}-value"


def test_a_message_outlives_its_wait_in_a_tier_many_times() -> None:
    delays = [tier.delay_ms for tier in RETRY_TIERS]
    assert delays == sorted(delays)
    for tier in RETRY_TIERS:
        assert BY_NAME[tier.topic].record is None
        assert BY_NAME[tier.topic].retention_ms > 24 * tier.delay_ms


# The examples


def test_every_record_has_examples() -> None:
    assert set(EXAMPLES) == set(BY_RECORD)
    for examples in EXAMPLES.values():
        assert examples


@pytest.mark.parametrize("event", NAMED)
def test_example_is_sound(event: Any) -> None:
    assert problem_with(event) is None


@pytest.mark.parametrize("event", NAMED)
def test_example_is_read_by_every_version_of_its_record_with_a_second_avro(event: Any) -> None:
    """The reference implementation writes it under each version and reads it under the newest."""
    record = type(event).__name__
    own = [schema for _, (name, schema) in sorted(versions().items()) if name == record]
    newest = avro.schema.parse(json.dumps(own[-1]))
    plain = _plain(event)
    if record == "CallTranscribed":  # a pure Python writer: two segments say as much as thousands
        plain["segments"] = plain["segments"][:2]
    for schema in own:
        writer = avro.schema.parse(json.dumps(schema))
        stream = io.BytesIO()
        told = _known(schema, plain)
        avro.io.DatumWriter(writer).write(told, avro.io.BinaryEncoder(stream))
        stream.seek(0)
        read = avro.io.DatumReader(writer, newest).read(avro.io.BinaryDecoder(stream))
        if schema == own[-1]:
            assert _rounded(read) == _rounded(plain)


def _known(schema: Any, value: Any, named: dict[str, Any] | None = None) -> Any:
    """What of `value` a version has fields and symbols for."""
    named = {} if named is None else named
    if isinstance(schema, str):
        return _known(named[schema], value, named) if schema in named else value
    if isinstance(schema, list):
        kinds = [kind for kind in schema if kind != "null"]
        return value if value is None or len(kinds) != 1 else _known(kinds[0], value, named)
    if schema["type"] in ("record", "enum"):
        named[f"callstream.events.{schema['name'].rpartition('.')[2]}"] = schema
    match schema["type"]:
        case "record" if isinstance(value, dict):
            fields = schema["fields"]
            return {f["name"]: _known(f["type"], value[f["name"]], named) for f in fields}
        case "array" if isinstance(value, list):
            return [_known(schema["items"], item, named) for item in value]
        case "enum" if value not in schema["symbols"]:
            return schema["default"]
    return value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


def _rounded(value: Any) -> Any:
    """Without time zones' identity and beyond a float's digits."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, datetime):
        return value.timestamp()
    return round(value, 5) if isinstance(value, float) else value


# What Avro cannot say


def _segment(**changes: Any) -> e.CallTranscribed:
    first, *rest = TRANSCRIBED.segments
    return dataclasses.replace(TRANSCRIBED, segments=[dataclasses.replace(first, **changes), *rest])


def _stored(**changes: Any) -> e.CallRecorded:
    first = dataclasses.replace(RECORDED.recordings[0], **changes)
    return dataclasses.replace(RECORDED, recordings=[first])


def _ended(**changes: Any) -> e.CallEnded:
    return dataclasses.replace(ENDED, **changes)


def _enriched(**changes: Any) -> e.CallEnriched:
    return dataclasses.replace(ENRICHED, **changes)


def _replay(**changes: Any) -> e.ReplayRequested:
    return dataclasses.replace(REPLAY, **changes)


def _unsound() -> Iterator[tuple[str, Any, str]]:
    """Name, event, and the word that what is said of it must contain."""
    long_ago = ENDED.started_at.replace(year=1970)
    naive = ENDED.started_at.replace(tzinfo=None)
    score = ENRICHED.score
    assert score is not None
    yield "empty tenant", _ended(tenant_id=""), "tenant_id"
    yield "slash in tenant", _ended(tenant_id="a/b"), "'/'"
    yield "control character", _ended(call_id="a\nb"), "control"
    yield "long id", _ended(call_id="x" * 257), "256"
    yield "before its start", _ended(ended_at=ENDED.started_at.replace(year=2025)), "started_at"
    yield "long ago", _ended(started_at=long_ago), "started_at"
    yield "naive time", _ended(started_at=naive), "started_at"
    yield (
        "naive time of processing",
        dataclasses.replace(EXAMPLES["CallErased"]["asked"], erased_at=naive),
        "erased_at",
    )
    yield (
        "far future",
        dataclasses.replace(
            EXAMPLES["CallErased"]["asked"], erased_at=ENDED.ended_at.replace(year=9999)
        ),
        "erased_at",
    )
    yield "recording twice", _ended(recordings=ENDED.recordings * 2), "twice"
    yield (
        "interval backwards",
        _ended(segments=[e.CallSegment(kind=e.SegmentKind.HOLD, start_ms=2, end_ms=1)]),
        "2 to 1",
    )
    yield (
        "another call inside",
        dataclasses.replace(TRANSCRIBED, call=_ended(call_id="other")),
        "other",
    )
    yield "hash", _stored(sha256="A" * 64), "sha256"
    yield "channels and roles", _stored(channels=3), "3 channels"
    yield "eleven days", _stored(duration_ms=11 * DAY_MS), "duration_ms"
    yield "numbering", _segment(segment_id=7), "segment_id 7"
    yield "word arrays", _segment(words=["a"]), "differ"
    yield "confidence", _segment(confidence=1.5), "1.5"
    yield "confidence is no number", _segment(confidence=math.nan), "nan"
    yield (
        "word confidence",
        _segment(words=["a"], word_start_ms=[0], word_end_ms=[1], word_confidence=[-1.0]),
        "word_confidence",
    )
    yield (
        "a word's confidence is no number",
        _segment(
            words=["a", "b"],
            word_start_ms=[0, 1],
            word_end_ms=[1, 2],
            word_confidence=[0.5, math.nan],
        ),
        "word_confidence",
    )
    yield (
        "word outside any call",
        _segment(words=["a"], word_start_ms=[0], word_end_ms=[1 << 40], word_confidence=[]),
        "word_end_ms",
    )
    for level in (math.nan, math.inf, -201.0):
        yield f"loudness of {level}", _segment(loudness_dbfs=level), "loudness_dbfs is"
    yield "score", _enriched(score=dataclasses.replace(score, value=101.0)), "101.0"
    heavy = dataclasses.replace(score.criteria[0], criterion_id="greeted", weight=math.nan)
    yield (
        "weight is no number",
        _enriched(score=dataclasses.replace(score, criteria=[heavy])),
        "weight of greeted",
    )
    yield "sentiment", _enriched(
        course=[e.CoursePoint(quarter=1, role=e.Role.AGENT, label=e.SentimentLabel.NEUTRAL,
                              score=2.0)]
    ), "2.0"  # fmt: skip
    yield (
        "metric is no number",
        _enriched(metrics=[e.Metric(name="talk_ms", value=math.inf)]),
        "talk_ms",
    )
    for name, places in (("overlap", [(0, 20), (5, 10)]), ("before the text", [(-5, 3)]),
                         ("backwards", [(9, 4)]), ("beyond 32 bits", [(0, 1 << 40)])):  # fmt: skip
        found = [
            e.Redaction(segment_id=0, kind=e.PiiKind.NAME, start=a, end=b, start_ms=0, end_ms=0)
            for a, b in places
        ]
        yield f"redactions {name}", _enriched(redactions=found), "redactions"
    review: e.CallReviewed = EXAMPLES["CallReviewed"]["criterion"]
    yield "review of both", dataclasses.replace(review, score=50.0), "a review needs score"
    yield "review of nothing", dataclasses.replace(review, criterion_id=""), "a review needs score"
    yield (
        "review beyond 100",
        dataclasses.replace(review, criterion_id="", score=101.0),
        "outside 0 to 100",
    )
    asked: e.SummaryRequested = EXAMPLES["SummaryRequested"]["happy"]
    yield "another call's transcript", dataclasses.replace(asked, call_id="x"), "its transcript"
    yield "generation", _replay(generation=0), "generation"
    yield "no input", _replay(input=e.OriginalInput(topic="t", event_id="i")), "exactly one"
    yield "no such stage", _replay(stage="transcription"), "transcription"


@pytest.mark.parametrize(
    ("event", "word"), [pytest.param(event, word, id=name) for name, event, word in _unsound()]
)
def test_unsound_event_is_named(event: Any, word: str) -> None:
    problem = problem_with(event)
    assert problem is not None
    assert word in problem
