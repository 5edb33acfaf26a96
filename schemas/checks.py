"""What Avro cannot say of an event. A fuzzed message may decode and still mean nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from schemas import events as e

LONGEST_ID = 256
# Ten days: no call lasts longer, and sums of such durations stay far from overflow.
LONGEST_MS = 864_000_000
EARLIEST_YEAR, LATEST_YEAR = 1980, 2200
# What 16 bits can hold lies far within.
QUIETEST_DBFS, LOUDEST_DBFS = -200.0, 20.0
STAGES = ("ingest", "transcribe", "enrich", "sink")


def subject_of(event: Any) -> str:
    """What `event` is about: key of its record, and `ce_subject`."""
    about = event.generation if isinstance(event, e.GenerationDecided) else event.call_id
    return f"{event.tenant_id}/{about}"


def revision_of(event: Any) -> int:
    """Milliseconds of the platform's last change that `event` knows of; the greater supersedes.

    0 where it says nothing. Of an erasure, the time that it reaches to: a later one of the same
    call is another one.
    """
    match event:
        case e.CallEnded():
            when = event.source_updated_at or event.occurred_at
        case e.CallErased():
            when = event.erased_at
        case _:
            return int(getattr(event, "revision", 0))
    return round(when.timestamp() * 1000)


def problem_with(event: Any) -> str | None:
    """What is wrong with `event`, naming field and value; None when it is sound."""
    if problem := _problem_with_id("tenant_id", event.tenant_id):
        return problem
    if isinstance(event, e.GenerationDecided):
        return _time("decided_at", event.decided_at) or _generation(event.generation)
    if problem := _problem_with_id("call_id", event.call_id):
        return problem
    match event:
        case e.CallEnded():
            return _call_ended(event)
        case e.CallRecorded():
            return _time("recorded_at", event.recorded_at) or _call_recorded(event)
        case e.CallTranscribed():
            return _time("transcribed_at", event.transcribed_at) or _call_transcribed(event)
        case e.CallEnriched():
            return _time("enriched_at", event.enriched_at) or _call_enriched(event)
        case e.AlertRaised():
            return _time("raised_at", event.raised_at) or _evidence("evidence", event.evidence)
        case e.ReplayRequested():
            return _time("requested_at", event.requested_at) or _replay_requested(event)
        case e.CallErased():
            return _time("erased_at", event.erased_at)
        case e.CallReviewed():
            return _time("reviewed_at", event.reviewed_at) or _call_reviewed(event)
        case e.SummaryRequested():
            return _time("requested_at", event.requested_at) or _summary_requested(event)
        case e.CallNotified():
            return _time("notified_at", event.notified_at) or _int("attempts", event.attempts)
    return None


def _replay_requested(event: e.ReplayRequested) -> str | None:
    if event.stage not in STAGES:
        return f"stage is {event.stage!r}, not one of {', '.join(STAGES)}"
    if problem := _generation(event.generation):
        return problem
    if event.input.timestamp is not None and (
        problem := _time("input.timestamp", event.input.timestamp)
    ):
        return problem
    if (event.input.value is None) == (event.input.dataref is None):
        return "input needs exactly one of value and dataref"
    return None


def _summary_requested(event: e.SummaryRequested) -> str | None:
    inside = event.transcript.tenant_id, event.transcript.call_id
    if inside != (event.tenant_id, event.call_id):
        return (
            f"is about {event.tenant_id}/{event.call_id}, its transcript about "
            f"{inside[0]}/{inside[1]}"
        )
    return _call_transcribed(event.transcript)


def _call_reviewed(event: e.CallReviewed) -> str | None:
    if event.score is not None and not 0.0 <= event.score <= 100.0:
        return f"score is {event.score}, outside 0 to 100"
    if event.withdrawn or (event.criterion_id == "") == (event.score is not None):
        return None
    return "a review needs score where it is of the whole, and none where it is of a criterion"


def _generation(generation: int) -> str | None:
    if generation < 1:
        return f"generation is {generation}, not 1 or more"
    return None


def _time(field: str, when: datetime) -> str | None:
    if when.tzinfo is None:
        return f"{field} is {when.isoformat()}, without a time zone"
    if not EARLIEST_YEAR <= when.year <= LATEST_YEAR:
        return f"{field} is {when.isoformat()}, outside {EARLIEST_YEAR} to {LATEST_YEAR}"
    return None


def _problem_with_id(field: str, value: str) -> str | None:
    if not value:
        return f"{field} is empty"
    if len(value) > LONGEST_ID:
        return f"{field} has {len(value)} characters, at most {LONGEST_ID} are allowed"
    if "/" in value and field == "tenant_id":
        return f"{field} {value!r} contains '/', which separates it from call_id in the key"
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        return f"{field} {value!r} contains a control character"
    return None


def _call_ended(call: e.CallEnded) -> str | None:
    for field in ("occurred_at", "published_at", "started_at", "ended_at", "answered_at",
                  "source_updated_at"):  # fmt: skip
        when = getattr(call, field)
        if when is not None and (problem := _time(field, when)):
            return problem
    # Of any year: platforms write the year 9999 where they mean never.
    for field, when in _other_times(call):
        if when is not None and when.tzinfo is None:
            return f"{field} is {when.isoformat()}, without a time zone"
    if call.ended_at < call.started_at:
        return f"ended_at {call.ended_at} lies before started_at {call.started_at}"
    if problem := _int("sip_status", call.sip_status) or _int("q850_cause", call.q850_cause):
        return problem
    for segment in call.segments:
        if problem := _interval("segments", segment.start_ms, segment.end_ms):
            return problem
    seen = set()
    for recording in call.recordings:
        if not recording.recording_id or recording.recording_id in seen:
            return f"recordings: recording_id {recording.recording_id!r} is empty or used twice"
        seen.add(recording.recording_id)
        offset = recording.start_offset_ms
        if offset is not None and abs(offset) > LONGEST_MS:
            return f"recordings: start_offset_ms is {offset}"
        if problem := _int("recordings: channels", recording.channels) or _int(
            "recordings: sample_rate_hz", recording.sample_rate_hz
        ):
            return problem
    return None


def _other_times(call: e.CallEnded) -> Iterator[tuple[str, datetime | None]]:
    yield "retain_until", call.retain_until
    if call.queue is not None:
        yield "queue.enqueued_at", call.queue.enqueued_at
        yield "queue.dequeued_at", call.queue.dequeued_at
    for recording in call.recordings:
        yield "recordings: uri_expires_at", recording.uri_expires_at


def _same_call(event: Any) -> str | None:
    inside = (event.call.tenant_id, event.call.call_id)
    if inside != (event.tenant_id, event.call_id):
        return f"is about {event.tenant_id}/{event.call_id}, its call is {inside[0]}/{inside[1]}"
    return _call_ended(event.call)


def _stored(recordings: list[e.StoredRecording]) -> str | None:
    for stored in recordings:
        if len(stored.sha256) != 64 or not set(stored.sha256) <= set("0123456789abcdef"):
            return f"recordings: sha256 {stored.sha256!r} is not 64 lower-case hex digits"
        if not 0 <= stored.duration_ms <= LONGEST_MS:
            return f"recordings: duration_ms is {stored.duration_ms}"
        if abs(stored.start_offset_ms) > LONGEST_MS:
            return f"recordings: start_offset_ms is {stored.start_offset_ms}"
        if problem := _int("recordings: channels", stored.channels) or _int(
            "recordings: sample_rate_hz", stored.sample_rate_hz
        ):
            return problem
        if stored.channels < 1 or len(stored.channel_roles) not in (0, stored.channels):
            return f"recordings: {stored.channels} channels and {len(stored.channel_roles)} roles"
    return None


def _call_recorded(event: e.CallRecorded) -> str | None:
    return _same_call(event) or _stored(event.recordings)


def _call_transcribed(event: e.CallTranscribed) -> str | None:
    if problem := _same_call(event) or _stored(event.recordings):
        return problem
    for number, segment in enumerate(event.segments):
        if segment.segment_id != number:
            return f"segments[{number}] has segment_id {segment.segment_id}"
        if problem := _interval(f"segments[{number}]", segment.start_ms, segment.end_ms):
            return problem
        if problem := _int(f"segments[{number}].channel", segment.channel):
            return problem
        count = len(segment.words)
        if not len(segment.word_start_ms) == len(segment.word_end_ms) == count:
            return f"segments[{number}]: word arrays differ in length"
        if len(segment.word_confidence) not in (0, count):
            return f"segments[{number}]: word_confidence has {len(segment.word_confidence)} items"
        for field, times in (("word_start_ms", segment.word_start_ms),
                             ("word_end_ms", segment.word_end_ms)):  # fmt: skip
            if times and not -LONGEST_MS <= min(times) <= max(times) <= LONGEST_MS:
                return f"segments[{number}]: {field} runs from {min(times)} to {max(times)} ms"
        shares = segment.word_confidence
        # A NaN hides from min and max, and not from a sum; all three are quicker than a loop.
        if shares and not (
            min(shares) >= 0.0 and max(shares) <= 1.0 and not math.isnan(sum(shares))
        ):
            return f"segments[{number}]: a word_confidence lies outside 0 to 1"
        if problem := _share(f"segments[{number}].confidence", segment.confidence):
            return problem
        loudness = segment.loudness_dbfs
        if loudness is not None and not QUIETEST_DBFS <= loudness <= LOUDEST_DBFS:
            return f"segments[{number}]: loudness_dbfs is {loudness}"
        for correction in segment.corrections:
            if not 0 <= correction.word < count:
                return f"segments[{number}]: a correction of word {correction.word} of {count}"
    for speaker in event.speakers:
        if problem := _share("speakers: role_confidence", speaker.role_confidence):
            return problem
    for heard in event.channels:
        if problem := _int("channels: channel", heard.channel) or _int(
            "channels: same_as_channel", heard.same_as_channel
        ):
            return problem
    for masked in event.masked:
        if problem := _interval("masked", masked.start_ms, masked.end_ms):
            return problem
    return _share("language_confidence", event.language_confidence)


def _call_enriched(event: e.CallEnriched) -> str | None:
    if problem := _same_call(event):
        return problem
    if event.score is not None and not 0.0 <= event.score.value <= 100.0:
        return f"score.value is {event.score.value}, outside 0 to 100"
    for criterion in event.score.criteria if event.score is not None else ():
        if not math.isfinite(criterion.weight):
            return f"score: weight of {criterion.criterion_id} is {criterion.weight}"
    for metric in event.metrics:
        if not math.isfinite(metric.value):
            return f"metrics: {metric.name} is {metric.value}"
    for finding in event.findings:
        if problem := _share(f"findings: {finding.finding_id}: confidence", finding.confidence):
            return problem
    for moment in event.moments:
        if problem := _interval("moments", moment.start_ms, moment.end_ms) or _int(
            "moments: segment_ids", *moment.segment_ids
        ):
            return problem
    if problem := _int("sentiments: segment_id", *(item.segment_id for item in event.sentiments)):
        return problem
    for point in event.course:
        if not 1 <= point.quarter <= 4:
            return f"course: quarter is {point.quarter}, outside 1 to 4"
    scores = [item.score for item in event.sentiments] + [point.score for point in event.course]
    for score in scores:
        if not -1.0 <= score <= 1.0:
            return f"a sentiment score is {score}, outside -1 to 1"
    return _redactions(event) or _evidence("findings", [it.evidence for it in event.findings])


def _redactions(event: e.CallEnriched) -> str | None:
    """They are places in texts, which are masked by them: none may lie in another."""
    ends: dict[int, int] = {}
    for it in event.redactions:
        if problem := _int("redactions", it.segment_id, it.start, it.end):
            return problem
        if not ends.get(it.segment_id, 0) <= it.start <= it.end:
            where = f"{it.start} to {it.end} of segment {it.segment_id}"
            return f"redactions: {where} overlaps, or is out of order"
        ends[it.segment_id] = it.end
    return None


def _evidence(field: str, items: list[e.Evidence]) -> str | None:
    for item in items:
        if problem := _interval(field, item.start_ms, item.end_ms) or _int(
            f"{field}: segment_ids", *item.segment_ids
        ):
            return problem
    return None


def _int(field: str, *values: int | None) -> str | None:
    """Readers of Avro differ in what they do with an int beyond 32 bits; ours lets it in."""
    for value in values:
        if value is not None and not -(1 << 31) <= value < 1 << 31:
            return f"{field} is {value}, beyond 32 bits"
    return None


def _interval(field: str, start_ms: int, end_ms: int) -> str | None:
    if -LONGEST_MS <= start_ms <= end_ms <= LONGEST_MS:
        return None
    return f"{field}: {start_ms} to {end_ms} ms is no interval within a call"


def _share(field: str, value: float | None) -> str | None:
    if value is None or 0.0 <= value <= 1.0:
        return None
    return f"{field} is {value}, outside 0 to 1"
