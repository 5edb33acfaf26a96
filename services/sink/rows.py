"""From an event to the rows it makes: plain functions, one per kind of event.

Times are integer milliseconds since the epoch, as the driver takes them fastest. A time that
DateTime64 cannot hold is moved to the nearest it can: one such row would make every later read of
its column fail, and the archive keeps the original bytes. Numbers that are not finite become null,
since one NaN turns every average over it into NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from schemas import events as e
from schemas.topics import DEAD_LETTER, REPLAY, RETRY_TIERS
from services.runtime import headers as h
from services.runtime.errors import Invalid
from services.runtime.log import Message
from services.runtime.stage import Envelope

Row = tuple[Any, ...]
Rows = Mapping[str, Sequence[Row]]
"""Table -> rows, each with the columns of `TABLES` in their order."""

_ROW = ("tenant_id", "call_id", "event_id", "basis_at")
_EVENT = (*_ROW, "generation", "revision", "time")
_CHILD = (*_ROW, "ordinal")
_EVIDENCE = ("segment_ids", "start_ms", "end_ms", "quotes")

# Table -> columns. In the order of insertion: what belongs to an event comes before the row that
# makes the event visible, and the archive comes last, as the proof that all the rest is in.
TABLES: Mapping[str, tuple[str, ...]] = {
    "segments": (
        *_ROW, "segment_id", "recording_id", "channel", "speaker", "role", "start_ms", "end_ms",
        "text", "language", "confidence", "flags", "words", "word_start_ms", "word_end_ms",
        "word_confidence", "words_interpolated",
    ),
    "metrics": (*_CHILD, "name", "role", "value"),
    "moments": (*_CHILD, "kind", "role", "start_ms", "end_ms", "segment_ids"),
    "sentiments": (*_CHILD, "segment_id", "role", "label", "score", "engine"),
    "course": (*_CHILD, "quarter", "role", "label", "score"),
    "findings": (
        *_CHILD, "finding_id", "kind", "label", "role", "segment_ids", "start_ms", "end_ms",
        "quote", "rule", "rule_version", "engine", "confidence",
    ),
    "criteria": (
        *_CHILD, "criterion_id", "title", "verdict", "weight", "reason", "suggestion", *_EVIDENCE,
    ),
    "summary_sentences": (*_CHILD, "text", "segment_ids", "start_ms", "end_ms", "quote"),
    "replays": (
        *_ROW, "generation", "stage", "requested_at", "requested_by", "reason", "options",
        "shadow", "side_effects",
    ),
    "calls_ended": (
        *_EVENT, "started_at", "answered_at", "ended_at", "duration_ms", "talk_ms", "queue_ms",
        "hold_ms", "acw_ms", "platform", "lane", "direction", "disposition", "disconnected_by",
        "agent_id", "agent_name", "agent_ids", "queue_id", "queue_name", "from_address",
        "to_address", "subject_ref", "crm_ref", "root_call_id", "parent_call_id", "next_call_id",
        "language_hints", "wrap_up_code", "consent", "legal_hold", "retain_until", "recordings",
        "recordings_expected", "no_recording_reason", "attributes",
    ),
    "calls_recorded": (
        *_EVENT, "recordings", "refused", "pending", "refused_reasons", "object_keys", "codecs",
        "channels", "audio_ms", "size_bytes",
    ),
    "calls_transcribed": (
        *_EVENT, "duration_ms", "engine", "engine_version", "model", "model_revision", "device",
        "language", "language_confidence", "segments", "turns", "words", "speech_ms", "masked_ms",
        "flagged", "degradations", "cached",
    ),
    "calls_enriched": (
        *_EVENT, "transcript_id", "language", "rules_version", "score", "scorecard",
        "scorecard_version", "topics", "emotions", "alerts", "customer_sentiment_start",
        "customer_sentiment_end", "customer_sentiment", "agent_sentiment", "summary",
        "summary_method", "summary_version", "summary_degraded",
    ),
    "alerts": (
        *_EVENT, "raised_at", "rule", "rule_version", "severity", "title", "reason",
        "suggested_action", "agent_id", "queue_id", *_EVIDENCE,
    ),
    "calls_erased": ("tenant_id", "call_id", "event_id", "erased_at", "requested_by", "reason"),
    "stage_states": (
        "tenant_id", "call_id", "stage", "input_id", "state", "generation", "attempt", "basis_at",
        "revision", "time", "reason", "detail", "due_at",
    ),
    "events": (
        "topic", "partition", "offset", "event_id", "basis_at", "type", "tenant_id", "call_id",
        "generation", "revision", "time", "timestamp", "key", "value", "dataref", "header_names",
        "header_values", "problem_reason", "problem_detail",
    ),
}  # fmt: skip

# What DateTime64(3) holds: 1900-01-01 to the end of 2299.
EARLIEST_MS = -2_208_988_800_000
LATEST_MS = 10_413_791_999_999

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_RETRY_TOPICS = frozenset(tier.topic for tier in RETRY_TIERS)
_EXPECTED = frozenset(
    (e.RecordingStatus.AVAILABLE, e.RecordingStatus.PENDING, e.RecordingStatus.UNKNOWN)
)


def milliseconds(when: datetime) -> int:
    """`when` as milliseconds since the epoch, within what DateTime64 holds."""
    return _held((when - _EPOCH) // _MILLISECOND)


def _held(ms: int) -> int:
    return min(max(ms, EARLIEST_MS), LATEST_MS)


def _maybe(when: datetime | None) -> int | None:
    return None if when is None else milliseconds(when)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def call_of(envelope: Envelope[Any]) -> tuple[str, str]:
    """(tenant_id, call_id) of the event, or of the message's key; ("", "") where it has none."""
    event = envelope.event
    if not isinstance(event, Message):
        return event.tenant_id, event.call_id
    tenant, _, call = (event.key or b"").decode("utf-8", "replace").partition("/")
    return tenant, call


def revision_of(event: Any) -> int:
    """Milliseconds of the platform's last change that `event` knows of; 0 where it says nothing."""
    if isinstance(event, e.CallEnded):
        return milliseconds(event.source_updated_at or event.occurred_at)
    return int(getattr(event, "revision", 0))


def basis_of(envelope: Envelope[Any]) -> int:
    """What an erasure is compared with, ms: an erasure at or after it covers the event.

    It is the time of the CallEnded that the event rests on, so that what is still under way when
    its call is erased does not come back, and a call that is handed in again does. It is never
    later than the message itself: a clock that runs ahead must not protect a call.
    """
    event = envelope.event
    timestamp = _held(envelope.message.timestamp_ms)
    match event:
        case e.CallEnded():
            basis = max(milliseconds(event.published_at), revision_of(event))
        case e.CallRecorded() | e.CallTranscribed() | e.CallEnriched():
            basis = max(milliseconds(event.call.published_at), event.revision)
        case e.AlertRaised():
            basis = max(milliseconds(event.raised_at), event.revision)
        case e.ReplayRequested():
            basis = milliseconds(event.requested_at)
        case _:
            basis = timestamp
    return min(_held(basis), timestamp)


def rows_of(envelope: Envelope[Any], *, words: bool = True) -> dict[str, list[Row]]:
    """Every row that `envelope` makes, its archive row included.

    Raises Invalid for an event that no table can hold; never for dead letters, retries and what
    could not be decoded.
    """
    rows = _rows(envelope, words)
    rows["events"] = [_archived(envelope)]
    return rows


def _rows(envelope: Envelope[Any], words: bool) -> dict[str, list[Row]]:
    event, message = envelope.event, envelope.message
    match event:
        case Message() if message.topic == DEAD_LETTER:
            return _dead_letter(envelope)
        case Message() if message.topic in _RETRY_TOPICS:
            return _retry(envelope)
        case Message():
            return {}
        case e.CallEnded():
            rows = _ended(envelope, event)
        case e.CallRecorded():
            rows = _recorded(envelope, event)
        case e.CallTranscribed():
            rows = _transcribed(envelope, event, words)
        case e.CallEnriched():
            rows = _enriched(envelope, event)
        case e.AlertRaised():
            rows = _alert(envelope, event)
        case e.ReplayRequested():
            return _replay(envelope, event)
        case e.CallErased():
            return _erased(envelope, event)
        case _:
            raise Invalid(
                "unknown_record", f"{type(event).__name__} of {message.topic} has no table"
            )
    if message.topic == REPLAY:  # the original input of a replay of the sink itself
        rows.setdefault("stage_states", []).append(
            _state(envelope, "sink", envelope.id, "done", revision=revision_of(event))
        )
    return rows


def _row(envelope: Envelope[Any]) -> Row:
    return (*call_of(envelope), envelope.id, basis_of(envelope))


def _event(envelope: Envelope[Any]) -> Row:
    return (
        *_row(envelope),
        envelope.generation,
        revision_of(envelope.event),
        milliseconds(envelope.time),
    )


def _archived(envelope: Envelope[Any]) -> Row:
    message, problem = envelope.message, envelope.problem
    record = "" if isinstance(envelope.event, Message) else type(envelope.event).__name__
    return (
        message.topic,
        message.partition,
        message.offset,
        envelope.id,
        basis_of(envelope),
        record,
        *call_of(envelope),
        envelope.generation,
        revision_of(envelope.event),
        milliseconds(envelope.time),
        _held(message.timestamp_ms),
        message.key,
        message.value,
        message.header(h.DATAREF) or "",
        [name for name, _ in message.headers],
        [value for _, value in message.headers],
        problem.reason if problem else "",
        problem.detail if problem else "",
    )


def _ended(envelope: Envelope[Any], call: e.CallEnded) -> dict[str, list[Row]]:
    agents = [p for p in call.participants if p.role is e.Role.AGENT]
    first = agents[0] if agents else None
    queue = call.queue
    expected = sum(recording.status in _EXPECTED for recording in call.recordings)
    row = (
        *_event(envelope),
        milliseconds(call.started_at),
        _maybe(call.answered_at),
        milliseconds(call.ended_at),
        (call.ended_at - call.started_at) // _MILLISECOND,
        call.talk_ms,
        call.queue_ms,
        call.hold_ms,
        call.acw_ms,
        call.source.platform,
        call.lane,
        call.direction,
        call.disposition,
        call.disconnected_by,
        (first.agent_id or first.participant_id) if first else "",
        (first.display_name or "") if first else "",
        [agent.agent_id or agent.participant_id for agent in agents],
        queue.id if queue else "",
        (queue.name or "") if queue else "",
        call.from_address or "",
        call.to_address or "",
        call.subject_ref or "",
        call.crm_ref or "",
        call.root_call_id or "",
        call.parent_call_id or "",
        call.next_call_id or "",
        call.language_hints,
        call.wrap_up_code or "",
        call.consent,
        call.legal_hold,
        _maybe(call.retain_until),
        len(call.recordings),
        expected,
        "" if expected else _no_recording(call),
        call.attributes,
    )
    return {"calls_ended": [row]}


def _no_recording(call: e.CallEnded) -> str:
    if not call.recordings:
        return f"the platform lists none ({call.disposition})"
    return "; ".join(
        f"{recording.recording_id}: {recording.status}"
        + (f" ({recording.status_reason})" if recording.status_reason else "")
        for recording in call.recordings
    )


def _recorded(envelope: Envelope[Any], event: e.CallRecorded) -> dict[str, list[Row]]:
    stored = event.recordings
    row = (
        *_event(envelope),
        len(stored),
        len(event.refused),
        len(event.pending),
        [refused.reason for refused in event.refused],
        [recording.object_key for recording in stored],
        [recording.codec for recording in stored],
        [recording.channels for recording in stored],
        sum(recording.duration_ms for recording in stored),
        sum(recording.size_bytes for recording in stored),
    )
    return {"calls_recorded": [row], "stage_states": [_done(envelope, "ingest")]}


def _transcribed(
    envelope: Envelope[Any], event: e.CallTranscribed, words: bool
) -> dict[str, list[Row]]:
    common = _row(envelope)
    segments: list[Row] = []
    turns = spoken_words = speech_ms = flagged = 0
    before: str | None = None
    for segment in event.segments:
        turns += segment.speaker != before
        before = segment.speaker
        spoken_words += len(segment.words)
        speech_ms += segment.end_ms - segment.start_ms
        flagged += bool(segment.flags)
        segments.append(
            (
                *common,
                segment.segment_id,
                segment.recording_id,
                segment.channel,
                segment.speaker,
                segment.role,
                segment.start_ms,
                segment.end_ms,
                segment.text,
                segment.language,
                segment.confidence,
                segment.flags,
                segment.words if words else (),
                segment.word_start_ms if words else (),
                segment.word_end_ms if words else (),
                segment.word_confidence if words else (),
                segment.words_interpolated,
            )
        )
    engine = event.engine
    row = (
        *_event(envelope),
        event.duration_ms,
        engine.name,
        engine.version,
        engine.model,
        engine.model_revision,
        engine.device,
        event.language,
        event.language_confidence,
        len(segments),
        turns,
        spoken_words,
        speech_ms,
        sum(masked.end_ms - masked.start_ms for masked in event.masked),
        flagged,
        [f"{item.kind}: {item.reason}" for item in event.degradations],
        event.cached,
    )
    return {
        "segments": segments,
        "calls_transcribed": [row],
        "stage_states": [_done(envelope, "transcribe")],
    }


def _enriched(envelope: Envelope[Any], event: e.CallEnriched) -> dict[str, list[Row]]:
    common = _row(envelope)
    score, summary = event.score, event.summary
    course = sorted(
        (point.quarter, point.score) for point in event.course if point.role is e.Role.CUSTOMER
    )
    row = (
        *_event(envelope),
        event.transcript_id,
        event.language,
        event.rules_version,
        score.value if score else None,
        score.scorecard if score else "",
        score.scorecard_version if score else "",
        _labels(event.findings, e.FindingKind.TOPIC),
        _labels(event.findings, e.FindingKind.EMOTION),
        event.alerts,
        course[0][1] if course else None,
        course[-1][1] if course else None,
        _mean(event.sentiments, e.Role.CUSTOMER),
        _mean(event.sentiments, e.Role.AGENT),
        " ".join(sentence.text for sentence in summary.sentences) if summary else "",
        summary.method if summary else "",
        summary.version if summary else "",
        summary.degraded if summary else "",
    )
    return {
        "metrics": [
            (*common, n, metric.name, metric.role or "", _finite(metric.value))
            for n, metric in enumerate(event.metrics)
        ],
        "moments": [
            (*common, n, it.kind, it.role or "", it.start_ms, it.end_ms, it.segment_ids)
            for n, it in enumerate(event.moments)
        ],
        "sentiments": [
            (*common, n, it.segment_id, it.role, it.label, it.score, it.engine)
            for n, it in enumerate(event.sentiments)
        ],
        "course": [
            (*common, n, it.quarter, it.role, it.label, it.score)
            for n, it in enumerate(event.course)
        ],
        "findings": [
            (
                *common, n, it.finding_id, it.kind, it.label, it.role, it.evidence.segment_ids,
                it.evidence.start_ms, it.evidence.end_ms, it.evidence.quote, it.rule,
                it.rule_version, it.engine, _finite(it.confidence),
            )
            for n, it in enumerate(event.findings)
        ],
        "criteria": [
            (
                *common, n, it.criterion_id, it.title, it.verdict, _finite(it.weight), it.reason,
                it.suggestion, *_evidence(it.evidence),
            )
            for n, it in enumerate(score.criteria if score else ())
        ],
        "summary_sentences": [
            (
                *common, n, it.text, it.evidence.segment_ids, it.evidence.start_ms,
                it.evidence.end_ms, it.evidence.quote,
            )
            for n, it in enumerate(summary.sentences if summary else ())
        ],
        "calls_enriched": [row],
        "stage_states": [_done(envelope, "enrich")],
    }  # fmt: skip


def _labels(findings: Iterable[e.Finding], kind: e.FindingKind) -> list[str]:
    return list(dict.fromkeys(finding.label for finding in findings if finding.kind is kind))


def _mean(sentiments: Iterable[e.SegmentSentiment], role: e.Role) -> float | None:
    scores = [sentiment.score for sentiment in sentiments if sentiment.role is role]
    return sum(scores) / len(scores) if scores else None


def _evidence(items: Sequence[e.Evidence]) -> Row:
    return (
        [item.segment_ids for item in items],
        [item.start_ms for item in items],
        [item.end_ms for item in items],
        [item.quote for item in items],
    )


def _alert(envelope: Envelope[Any], event: e.AlertRaised) -> dict[str, list[Row]]:
    row = (
        *_event(envelope),
        milliseconds(event.raised_at),
        event.rule,
        event.rule_version,
        event.severity,
        event.title,
        event.reason,
        event.suggested_action,
        event.agent_id or "",
        event.queue_id or "",
        *_evidence(event.evidence),
    )
    return {"alerts": [row]}


def _replay(envelope: Envelope[Any], event: e.ReplayRequested) -> dict[str, list[Row]]:
    row = (
        *_row(envelope),
        event.generation,
        event.stage,
        milliseconds(event.requested_at),
        event.requested_by,
        event.reason,
        event.options,
        event.shadow,
        event.side_effects,
    )
    return {"replays": [row]}


def _erased(envelope: Envelope[Any], event: e.CallErased) -> dict[str, list[Row]]:
    erased_ms = milliseconds(event.erased_at)
    return {
        "calls_erased": [
            (
                event.tenant_id,
                event.call_id,
                envelope.id,
                erased_ms,
                event.requested_by,
                event.reason,
            )
        ],
        "stage_states": [
            _state(envelope, "erase", envelope.id, "erased", reason=event.reason, time_ms=erased_ms)
        ],
    }


def _state(
    envelope: Envelope[Any],
    stage: str,
    input_id: str,
    state: str,
    *,
    revision: int = 0,
    attempt: int = 0,
    time_ms: int | None = None,
    reason: str = "",
    detail: str = "",
    due_ms: int | None = None,
) -> Row:
    return (
        *call_of(envelope),
        stage,
        input_id,
        state,
        envelope.generation,
        attempt,
        basis_of(envelope),
        revision,
        milliseconds(envelope.time) if time_ms is None else time_ms,
        reason,
        detail,
        due_ms,
    )


def _done(envelope: Envelope[Any], stage: str) -> Row:
    return _state(
        envelope,
        stage,
        envelope.causation_id or envelope.id,
        "done",
        revision=revision_of(envelope.event),
    )


def _retry(envelope: Envelope[Any]) -> dict[str, list[Row]]:
    message = envelope.message
    stage = message.header(h.RETRY_STAGE)
    if not stage:
        return {}
    due_ms = _number(message, h.RETRY_DUE_MS)
    state = _state(
        envelope,
        stage,
        envelope.id,
        "waiting",
        attempt=_number(message, h.RETRY_ATTEMPT) or 0,
        time_ms=_held(message.timestamp_ms),
        reason=message.header(h.RETRY_REASON) or "",
        detail=message.header(h.RETRY_DETAIL) or "",
        due_ms=None if due_ms is None else _held(due_ms),
    )
    return {"stage_states": [state]}


def _dead_letter(envelope: Envelope[Any]) -> dict[str, list[Row]]:
    message = envelope.message
    stage = message.header(h.ERROR_STAGE)
    if not stage:
        return {}
    kind = (message.header(h.ERROR_CLASS) or "").rpartition(".")[2]
    failed_ms = _number(message, h.DEAD_AT_MS)
    state = _state(
        envelope,
        stage,
        envelope.id,
        "refused" if kind == Invalid.__name__ else "failed",
        attempt=_number(message, h.DEAD_ATTEMPT) or 0,
        time_ms=_held(message.timestamp_ms if failed_ms is None else failed_ms),
        reason=message.header(h.DEAD_REASON) or kind,
        detail=message.header(h.ERROR_MESSAGE) or "",
    )
    return {"stage_states": [state]}


def _number(message: Message, name: str) -> int | None:
    """A whole number from a header; None where it is none, since these rows must never fail."""
    text = message.header(name) or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
