"""From an event to the rows it makes: plain functions, one per kind of event.

Of what an event holds many of (segments, findings, ...), rows are made column by column and for a
whole batch, as they are inserted: a tuple per row costs several times more.

Times are integer milliseconds since the epoch, as the driver takes them fastest. A time that
DateTime64 cannot hold is moved to the nearest it can: one such row would make every later read of
its column fail, and the archive keeps the original bytes. Numbers that are not finite become null,
since one NaN turns every average over it into NaN.
"""

from __future__ import annotations

import math
import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat
from typing import Any

from schemas import events as e
from schemas.checks import revision_of
from schemas.topics import BY_NAME, DEAD_LETTER, REPLAY, RETRY_TIERS
from services.runtime import headers as h
from services.runtime.errors import Invalid
from services.runtime.log import Message
from services.runtime.process import whole_number
from services.runtime.stage import Envelope

NAME = "sink"
"""The sink's own stage, as retries and dead letters name it."""

Columns = Sequence[Sequence[Any]]
"""Rows of one table: a sequence per column, in the order of `TABLES`, all of one length."""
Rows = dict[str, tuple[Any, ...]]
"""Table -> the one row of it that an event makes."""

_ROW = ("tenant_id", "call_id", "event_id", "basis_at")
_EVENT = (*_ROW, "generation", "revision", "time")
_CHILD = (*_ROW, "ordinal")
_WORDS = frozenset(("words", "word_start_ms", "word_end_ms", "word_confidence"))
_EVIDENCE = ("segment_ids", "start_ms", "end_ms", "quotes")

# Table -> columns. In the order of insertion: what belongs to an event comes before the row that
# makes the event visible, and the archive comes last, as the proof that all the rest is in.
TABLES: Mapping[str, tuple[str, ...]] = {
    "segments": (
        *_ROW, "segment_id", "recording_id", "channel", "speaker", "role", "start_ms", "end_ms",
        "text", "language", "confidence", "flags", "words", "word_start_ms", "word_end_ms",
        "word_confidence", "words_interpolated", "overlapped", "emotion", "sounds", "corrections",
    ),
    "metrics": (*_CHILD, "name", "role", "value"),
    "moments": (*_CHILD, "kind", "role", "start_ms", "end_ms", "segment_ids"),
    "sentiments": (
        *_CHILD, "segment_id", "role", "label", "score", "engine", "text_score", "voice_score",
        "voice",
    ),
    "course": (*_CHILD, "quarter", "role", "label", "score"),
    "findings": (
        *_CHILD, "finding_id", "kind", "label", "role", "segment_ids", "start_ms", "end_ms",
        "quote", "rule", "rule_version", "engine", "confidence", "suggestion",
    ),
    "criteria": (
        *_CHILD, "criterion_id", "title", "verdict", "weight", "reason", "suggestion", *_EVIDENCE,
        "engine",
    ),
    "score_changes": (*_CHILD, "rule", "rule_version", "points", "reason", *_EVIDENCE),
    "summary_sentences": (*_CHILD, "text", "segment_ids", "start_ms", "end_ms", "quote"),
    "statements": (*_CHILD, "kind", "text", *_EVIDENCE),
    "keywords": (*_CHILD, "text", "role", "weight", "count"),
    "redactions": (*_CHILD, "segment_id", "kind", "start_char", "end_char", "start_ms", "end_ms"),
    "shadows": ("tenant_id", "generation"),
    "generations": (
        "tenant_id", "generation", "event_id", "decision", "decided_at", "decided_by", "reason",
    ),
    "replays": (
        *_ROW, "generation", "stage", "requested_at", "requested_by", "reason", "options",
        "shadow", "side_effects",
    ),
    "calls_ended": (
        *_EVENT, "started_at", "answered_at", "ended_at", "duration_ms", "talk_ms", "queue_ms",
        "hold_ms", "acw_ms", "platform", "lane", "direction", "disposition", "disconnected_by",
        "agent_id", "agent_name", "agent_ids", "agent_names", "queue_id", "queue_name",
        "from_address", "to_address", "subject_ref", "crm_ref", "root_call_id", "parent_call_id",
        "next_call_id", "language_hints", "wrap_up_code", "consent", "legal_hold", "retain_until",
        "recordings", "recordings_expected", "no_recording_reason", "attributes",
    ),
    "calls_recorded": (
        *_EVENT, "recordings", "refused", "pending", "refused_reasons", "object_keys", "codecs",
        "channels", "audio_ms", "size_bytes",
    ),
    "calls_transcribed": (
        *_EVENT, "duration_ms", "engine", "engine_version", "model", "model_revision", "device",
        "language", "language_confidence", "segments", "turns", "words", "speech_ms", "masked_ms",
        "flagged", "degradations", "cached", "unheard_ms", "diarizer", "speakers", "speaker_roles",
        "role_confidences", "vocabulary", "vocabulary_version",
    ),
    "calls_enriched": (
        *_EVENT, "transcript_id", "language", "rules_version", "score", "scorecard",
        "scorecard_version", "topics", "emotions", "alerts", "customer_sentiment_start",
        "customer_sentiment_end", "customer_sentiment", "agent_sentiment", "summary",
        "summary_method", "summary_version", "summary_degraded", "keywords", "answered",
        "resolution", "statements_dropped", "llm_requests", "llm_prompt_tokens",
        "llm_completion_tokens", "llm_seconds", "summary_pending",
    ),
    "alerts": (
        *_EVENT, "raised_at", "rule", "rule_version", "severity", "title", "reason",
        "suggested_action", "agent_id", "queue_id", *_EVIDENCE,
    ),
    "reviews": (
        *_ROW, "criterion_id", "verdict", "score", "withdrawn", "reviewed_at", "reviewed_by",
        "reason",
    ),
    "notifications": (
        *_EVENT, "endpoint", "told_id", "record", "rule", "notified_at", "attempts", "answer",
        "overtaken_by",
    ),
    "renewals": _ROW,
    "calls_erased": ("tenant_id", "call_id", "event_id", "erased_at", "requested_by", "reason"),
    "stage_states": (
        "tenant_id", "call_id", "stage", "input_id", "state", "generation", "attempt", "basis_at",
        "revision", "time", "reason", "detail", "due_at",
    ),
    "events": (
        "topic", "partition", "offset", "event_id", "place", "basis_at", "type", "tenant_id",
        "call_id", "generation", "revision", "time", "timestamp", "key", "value", "dataref",
        "header_names", "header_values", "problem_reason", "problem_detail",
    ),
}  # fmt: skip

# What DateTime64(3) holds: 1900-01-01 to the end of 2299.
EARLIEST_MS = -2_208_988_800_000
LATEST_MS = 10_413_791_999_999

_LARGEST_PARTITION = (1 << 31) - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_Record = (
    e.CallEnded | e.CallRecorded | e.CallTranscribed | e.CallEnriched | e.AlertRaised
    | e.ReplayRequested | e.GenerationDecided | e.CallErased | e.CallReviewed
    | e.CallNotified
)  # fmt: skip
# What an operator's note on a dead letter says when nobody is to look at it again.
DROPPED = "dropped"
_OUTCOME_OF: Mapping[type, str] = {
    e.CallRecorded: "ingest",
    e.CallTranscribed: "transcribe",
    e.CallEnriched: "enrich",
}
_SUMMARIZED = "/callstream/summarize"
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
    """(tenant_id, call_id) of the event, or of the message's key; "" for what it is not about."""
    event = envelope.event
    if isinstance(event, e.GenerationDecided):
        return event.tenant_id, ""
    if not isinstance(event, Message):
        return event.tenant_id, event.call_id
    tenant, _, call = (event.key or b"").decode("utf-8", "replace").partition("/")
    return tenant, call


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
            basis = max(milliseconds(event.call_published_at or event.raised_at), event.revision)
        case e.ReplayRequested():
            basis = min(milliseconds(event.requested_at), _basis_of_input(envelope))
        case e.CallReviewed():
            basis = milliseconds(event.reviewed_at)
        case e.CallNotified():
            basis = max(milliseconds(event.call_published_at or event.notified_at), event.revision)
        case _:
            basis = timestamp
    return min(_held(basis), timestamp)


def _basis_of_input(request: Envelope[Any]) -> int:
    """What an erasure is compared with of the input that `request` carries.

    A request to another stage is not looked into: there it is the latest that it can be, the time
    of the input's message.
    """
    if request.replays is not None:
        return basis_of(request.replays)
    at = request.event.input.timestamp
    return LATEST_MS if at is None else milliseconds(at)


@dataclass(frozen=True, slots=True)
class About:
    """An event, and what its rows have in common."""

    envelope: Envelope[Any]
    tenant: str
    call: str
    id: str
    basis: int
    generation: int
    revision: int
    time: int
    cause: str
    place: str
    """partition-offset of a message that is itself the event; empty for events."""

    @property
    def shadow(self) -> bool:
        """Whether its generation is shown to nobody until it is promoted."""
        event = self.envelope.event
        return self.envelope.shadow or (isinstance(event, e.ReplayRequested) and event.shadow)

    @property
    def event(self) -> tuple[Any, ...]:
        """The columns of `_EVENT`."""
        return (
            self.tenant, self.call, self.id, self.basis, self.generation, self.revision, self.time,
        )  # fmt: skip

    def state(
        self,
        stage: str,
        input_id: str,
        state: str,
        *,
        attempt: int = 0,
        time: int | None = None,
        reason: str = "",
        detail: str = "",
        due: int | None = None,
    ) -> tuple[Any, ...]:
        """A row of `stage_states`."""
        when = self.time if time is None else time
        return (
            self.tenant, self.call, stage, input_id, state, self.generation, attempt, self.basis,
            self.revision, when, reason, detail, due,
        )  # fmt: skip

    @property
    def done(self) -> tuple[Any, ...] | None:
        """The row of `stage_states` that tells of the stage whose outcome the event is."""
        stage = _OUTCOME_OF.get(type(self.envelope.event))
        if stage == "enrich" and self.envelope.message.header(h.SOURCE) == _SUMMARIZED:
            stage = "summarize"
        return self.state(stage, self.cause, "done") if stage else None


def about(envelope: Envelope[Any]) -> About:
    """What is to be known of `envelope` before its rows are made.

    Raises Invalid for an event that no table can hold; never for dead letters, retries and what
    could not be decoded.
    """
    event, message = envelope.event, envelope.message
    if not isinstance(event, Message | _Record):
        raise Invalid("unknown_record", f"{type(event).__name__} of {message.topic} has no table")
    return About(
        envelope,
        *call_of(envelope),
        envelope.id,
        basis_of(envelope),
        envelope.generation,
        revision_of(event),
        milliseconds(envelope.time),
        envelope.causation_id or envelope.id,
        f"{message.partition}-{message.offset}" if isinstance(event, Message) else "",
    )


def abouts(envelope: Envelope[Any]) -> list[About]:
    """What `envelope` holds, each with rows of its own: what waited for the sink itself holds two.

    Such a message is a retry, archived like those of other stages, and the event that it was,
    which the sink has not stored yet. Raises as `about` does.
    """
    message = envelope.message
    original = _original(message)
    if original is None:
        return [about(envelope)]
    event = original if isinstance(envelope.event, Message) else envelope.event
    retry = replace(envelope, event=message, problem=None)
    return [about(retry), about(replace(envelope, event=event, message=original))]


def _original(message: Message) -> Message | None:
    """What waited for the sink, where it first stood; None for any other message."""
    if message.topic not in _RETRY_TOPICS or message.header(h.RETRY_STAGE) != NAME:
        return None
    topic = message.header(h.RETRY_TOPIC)
    if topic not in BY_NAME:
        return None
    partition = whole_number(message, h.RETRY_PARTITION)
    offset = whole_number(message, h.RETRY_OFFSET)
    return replace(
        message,
        topic=topic,
        partition=message.partition if partition is None else min(partition, _LARGEST_PARTITION),
        offset=message.offset if offset is None else offset,
    )


def columns_of(events: Sequence[About], *, words: bool = True) -> dict[str, Columns]:
    """Table -> all rows of it that `events` make, the archive's included; no table without rows."""
    single: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
    parts: defaultdict[str, list[tuple[About, Sequence[Any]]]] = defaultdict(list)
    for it in events:
        for table, row in _rows(it).items():
            single[table].append(row)
        for table, items in _parts(it.envelope.event).items():
            if items:
                parts[table].append((it, items))
    if "shadows" in single:  # one row says it of all
        single["shadows"] = list(dict.fromkeys(single["shadows"]))
    made: dict[str, Columns] = {
        table: list(zip(*rows, strict=True)) for table, rows in single.items()
    }
    for table, held in parts.items():
        counts = [len(items) for _, items in held]
        every = [item for _, items in held for item in items]
        columns: list[Sequence[Any]] = [
            _repeated([it.tenant for it, _ in held], counts),
            _repeated([it.call for it, _ in held], counts),
            _repeated([it.id for it, _ in held], counts),
            _repeated([it.basis for it, _ in held], counts),
        ]
        if TABLES[table][len(_ROW)] == "ordinal":
            columns.append(list(chain.from_iterable(map(range, counts))))
        made[table] = columns + _FIELDS[table](every)
    if not words and "segments" in made:
        nothing = [()] * len(made["segments"][0])
        made["segments"] = [
            nothing if name in _WORDS else column
            for name, column in zip(TABLES["segments"], made["segments"], strict=True)
        ]
    return made


def _repeated(values: Sequence[Any], counts: Sequence[int]) -> list[Any]:
    return list(chain.from_iterable(map(repeat, values, counts)))


def _rows(about: About) -> Rows:
    event, message = about.envelope.event, about.envelope.message
    rows: Rows
    match event:
        case Message() if message.topic == DEAD_LETTER:
            rows = _dead_letter(about, message)
        case Message() if message.topic in _RETRY_TOPICS:
            rows = _retry(about, message)
        case Message() if message.topic == REPLAY:
            rows = _refused(about, message)
        case e.CallEnded():
            rows = _ended(about, event)
        case e.CallRecorded():
            rows = _recorded(about, event)
        case e.CallTranscribed():
            rows = _transcribed(about, event)
        case e.CallEnriched():
            rows = _enriched(about, event)
        case e.AlertRaised():
            rows = _alert(about, event)
        case e.ReplayRequested():
            rows = _replay(about, event)
        case e.GenerationDecided():
            rows = _decided(about, event)
        case e.CallReviewed():
            rows = _reviewed(about, event)
        case e.CallNotified():
            rows = _notified(about, event)
        case e.CallErased():
            rows = _erased(about, event)
        case _:
            rows = {}
    if about.shadow:
        rows["shadows"] = (about.tenant, about.generation)
    if done := about.done:
        rows["stage_states"] = done
    rows["events"] = _archived(about)
    return rows


def _parts(event: Any) -> Mapping[str, Sequence[Any]]:
    """Table -> what of `event` makes a row of it each."""
    match event:
        case e.CallTranscribed():
            return {"segments": event.segments}
        case e.CallEnriched():
            return {
                "metrics": event.metrics,
                "moments": event.moments,
                "sentiments": event.sentiments,
                "course": event.course,
                "findings": event.findings,
                "criteria": event.score.criteria if event.score else (),
                "score_changes": event.score.changes if event.score else (),
                "summary_sentences": event.summary.sentences if event.summary else (),
                "statements": event.summary.statements if event.summary else (),
                "keywords": event.keywords,
                "redactions": event.redactions,
            }
    return {}


def _archived(about: About) -> tuple[Any, ...]:
    envelope = about.envelope
    message, problem = envelope.message, envelope.problem
    return (
        message.topic,
        message.partition,
        message.offset,
        about.id,
        about.place,
        about.basis,
        "" if isinstance(envelope.event, Message) else type(envelope.event).__name__,
        about.tenant,
        about.call,
        about.generation,
        about.revision,
        about.time,
        _held(message.timestamp_ms),
        message.key,
        message.value,
        message.header(h.DATAREF) or "",
        [name for name, _ in message.headers],
        [value for _, value in message.headers],
        problem.reason if problem else "",
        problem.detail if problem else "",
    )


def _ended(about: About, call: e.CallEnded) -> Rows:
    agents = [p for p in call.participants if p.role is e.Role.AGENT]
    first = agents[0] if agents else None
    queue = call.queue
    expected = sum(recording.status in _EXPECTED for recording in call.recordings)
    row = (
        *about.event,
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
        [agent.display_name or "" for agent in agents],
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
    return {"calls_ended": row}


def _no_recording(call: e.CallEnded) -> str:
    if not call.recordings:
        return f"the platform lists none ({call.disposition})"
    return "; ".join(
        f"{recording.recording_id}: {recording.status}"
        + (f" ({recording.status_reason})" if recording.status_reason else "")
        for recording in call.recordings
    )


def _recorded(about: About, event: e.CallRecorded) -> Rows:
    stored = event.recordings
    row = (
        *about.event,
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
    return {"calls_recorded": row}


def _transcribed(about: About, event: e.CallTranscribed) -> Rows:
    said, engine = event.segments, event.engine
    speakers = [segment.speaker for segment in said]
    return {
        "calls_transcribed": (
            *about.event,
            event.duration_ms,
            engine.name,
            engine.version,
            engine.model,
            engine.model_revision,
            engine.device,
            event.language,
            event.language_confidence,
            len(said),
            sum(map(operator.ne, speakers, [None, *speakers])),
            sum([len(segment.words) for segment in said]),
            sum([segment.end_ms - segment.start_ms for segment in said]),
            sum(masked.end_ms - masked.start_ms for masked in event.masked),
            sum([bool(segment.flags) for segment in said]),
            [f"{item.kind}: {item.reason}" for item in event.degradations],
            event.cached,
            sum(unheard) if (unheard := _unheard_ms(event)) else None,
            event.diarizer,
            [speaker.name for speaker in event.speakers],
            [speaker.role for speaker in event.speakers],
            [speaker.role_confidence for speaker in event.speakers],
            event.vocabulary.name if event.vocabulary else "",
            event.vocabulary.version if event.vocabulary else "",
        ),
    }


def _unheard_ms(event: e.CallTranscribed) -> list[int]:
    return [heard.unheard_ms for heard in event.channels if heard.unheard_ms is not None]


def _enriched(about: About, event: e.CallEnriched) -> Rows:
    score, summary = event.score, event.summary
    course = sorted(
        (point.quarter, point.score) for point in event.course if point.role is e.Role.CUSTOMER
    )
    return {
        "calls_enriched": (
            *about.event,
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
            [keyword.text for keyword in event.keywords],
            *_told(summary),
        ),
    }


def _told(summary: e.Summary | None) -> tuple[Any, ...]:
    """What an LLM judged, and what it took."""
    if summary is None:
        return "", "", 0, 0, 0, 0, 0.0, False
    used = summary.usage or e.LlmUsage(
        requests=0, prompt_tokens=0, completion_tokens=0, seconds=0.0
    )
    return (
        "" if summary.answered is e.Answered.UNKNOWN else summary.answered,
        "" if summary.resolution is e.Resolution.UNKNOWN else summary.resolution,
        summary.dropped,
        used.requests,
        used.prompt_tokens,
        used.completion_tokens,
        _finite(used.seconds) or 0.0,
        summary.pending,
    )


def _labels(findings: Iterable[e.Finding], kind: e.FindingKind) -> list[str]:
    return list(dict.fromkeys(finding.label for finding in findings if finding.kind is kind))


def _mean(sentiments: Iterable[e.SegmentSentiment], role: e.Role) -> float | None:
    scores = [sentiment.score for sentiment in sentiments if sentiment.role is role]
    return sum(scores) / len(scores) if scores else None


def _place(evidence: Sequence[e.Evidence]) -> Columns:
    """The columns of `_EVIDENCE`: where in the call each piece lies, and its words."""
    return (
        [item.segment_ids for item in evidence],
        [item.start_ms for item in evidence],
        [item.end_ms for item in evidence],
        [item.quote for item in evidence],
    )


def _alert(about: About, event: e.AlertRaised) -> Rows:
    row = (
        *about.event,
        milliseconds(event.raised_at),
        event.rule,
        event.rule_version,
        event.severity,
        event.title,
        event.reason,
        event.suggested_action,
        event.agent_id or "",
        event.queue_id or "",
        *_place(event.evidence),
    )
    return {"alerts": row}


def _replay(about: About, event: e.ReplayRequested) -> Rows:
    row = (
        about.tenant,
        about.call,
        about.id,
        about.basis,
        event.generation,
        event.stage,
        milliseconds(event.requested_at),
        event.requested_by,
        event.reason,
        event.options,
        event.shadow,
        event.side_effects,
    )
    return {"replays": row}


def _decided(about: About, event: e.GenerationDecided) -> Rows:
    row = (
        about.tenant,
        event.generation,
        about.id,
        event.decision,
        milliseconds(event.decided_at),
        event.decided_by,
        event.reason,
    )
    return {"generations": row}


def _reviewed(about: About, event: e.CallReviewed) -> Rows:
    row = (
        about.tenant,
        about.call,
        about.id,
        about.basis,
        event.criterion_id,
        event.verdict,
        event.score,
        event.withdrawn,
        milliseconds(event.reviewed_at),
        event.reviewed_by,
        event.reason,
    )
    return {"reviews": row}


def _notified(about: About, event: e.CallNotified) -> Rows:
    row = (
        *about.event,
        event.endpoint,
        event.event_id,
        event.record,
        event.rule,
        milliseconds(event.notified_at),
        event.attempts,
        event.answer,
        event.overtaken_by or "",
    )
    return {"notifications": row}


def _erased(about: About, event: e.CallErased) -> Rows:
    at = milliseconds(event.erased_at)
    row = (about.tenant, about.call, about.id, at, event.requested_by, event.reason)
    state = about.state("erase", about.id, "erased", time=at, reason=event.reason)
    return {"calls_erased": row, "stage_states": state}


def _retry(about: About, message: Message) -> Rows:
    stage = message.header(h.RETRY_STAGE)
    if not stage:
        return {}
    if _original(message) is not None:
        # It is stored together with this row.
        handled = about.state(NAME, about.id, "done", time=_held(message.timestamp_ms))
        return {"stage_states": handled}
    due = whole_number(message, h.RETRY_DUE_MS)
    state = about.state(
        stage,
        about.id,
        "waiting",
        attempt=whole_number(message, h.RETRY_ATTEMPT) or 0,
        time=_held(message.timestamp_ms),
        reason=message.header(h.RETRY_REASON) or "",
        detail=message.header(h.RETRY_DETAIL) or "",
        due=None if due is None else _held(due),
    )
    return {"stage_states": state}


def _dead_letter(about: About, message: Message) -> Rows:
    stage = message.header(h.ERROR_STAGE)
    settled = message.header(h.DEAD_ACTION)
    # A redriven letter waits again, as the retry that it has become says.
    if not stage or settled not in (None, DROPPED):
        return {}
    kind = (message.header(h.ERROR_CLASS) or "").rpartition(".")[2]
    failed = whole_number(message, h.DEAD_AT_MS)
    refused = "refused" if kind == Invalid.__name__ else "failed"
    state = about.state(
        stage,
        about.id,
        # Of the time of its failure: to drop a letter says nothing new of what came after it.
        DROPPED if settled else refused,
        attempt=whole_number(message, h.DEAD_ATTEMPT) or 0,
        time=_held(message.timestamp_ms if failed is None else failed),
        reason=message.header(h.DEAD_REASON) or kind,
        detail=message.header(h.ERROR_MESSAGE) or "",
    )
    return {"stage_states": state}


def _refused(about: About, message: Message) -> Rows:
    """Of a request to the sink that cannot be read, or whose input cannot."""
    problem, generation = about.envelope.problem, whole_number(message, h.GENERATION)
    if message.header(h.REPLAY_STAGE) != NAME or problem is None or not generation:
        return {}
    state = replace(about, generation=generation).state(
        NAME,
        message.header(h.ID) or about.id,
        "refused",
        time=_held(message.timestamp_ms),
        reason=problem.reason,
        detail=problem.detail,
    )
    return {"stage_states": state}


def _segments(said: Sequence[e.Segment]) -> list[Sequence[Any]]:
    return [
        [segment.segment_id for segment in said],
        [segment.recording_id for segment in said],
        [segment.channel for segment in said],
        [segment.speaker for segment in said],
        [segment.role for segment in said],
        [segment.start_ms for segment in said],
        [segment.end_ms for segment in said],
        [segment.text for segment in said],
        [segment.language for segment in said],
        [segment.confidence for segment in said],
        [segment.flags for segment in said],
        [segment.words for segment in said],
        [segment.word_start_ms for segment in said],
        [segment.word_end_ms for segment in said],
        [segment.word_confidence for segment in said],
        [segment.words_interpolated for segment in said],
        [segment.overlapped for segment in said],
        ["" if (it := segment.emotion) is e.VoiceEmotion.UNKNOWN else it for segment in said],
        [segment.sounds for segment in said],
        [[f"{it.heard} → {it.corrected}" for it in segment.corrections] for segment in said],
    ]


def _metrics(metrics: Sequence[e.Metric]) -> list[Sequence[Any]]:
    return [
        [metric.name for metric in metrics],
        [metric.role or "" for metric in metrics],
        [_finite(metric.value) for metric in metrics],
    ]


def _moments(moments: Sequence[e.Moment]) -> list[Sequence[Any]]:
    return [
        [moment.kind for moment in moments],
        [moment.role or "" for moment in moments],
        [moment.start_ms for moment in moments],
        [moment.end_ms for moment in moments],
        [moment.segment_ids for moment in moments],
    ]


def _sentiments(sentiments: Sequence[e.SegmentSentiment]) -> list[Sequence[Any]]:
    return [
        [sentiment.segment_id for sentiment in sentiments],
        [sentiment.role for sentiment in sentiments],
        [sentiment.label for sentiment in sentiments],
        [sentiment.score for sentiment in sentiments],
        [sentiment.engine for sentiment in sentiments],
        [_finite(sentiment.text_score) for sentiment in sentiments],
        [_finite(sentiment.voice_score) for sentiment in sentiments],
        [sentiment.voice for sentiment in sentiments],
    ]


def _course(points: Sequence[e.CoursePoint]) -> list[Sequence[Any]]:
    return [
        [point.quarter for point in points],
        [point.role for point in points],
        [point.label for point in points],
        [point.score for point in points],
    ]


def _findings(findings: Sequence[e.Finding]) -> list[Sequence[Any]]:
    return [
        [finding.finding_id for finding in findings],
        [finding.kind for finding in findings],
        [finding.label for finding in findings],
        [finding.role for finding in findings],
        *_place([finding.evidence for finding in findings]),
        [finding.rule for finding in findings],
        [finding.rule_version for finding in findings],
        [finding.engine for finding in findings],
        [_finite(finding.confidence) for finding in findings],
        [finding.suggestion for finding in findings],
    ]


def _criteria(criteria: Sequence[e.Criterion]) -> list[Sequence[Any]]:
    evidence = [_place(criterion.evidence) for criterion in criteria]
    return [
        [criterion.criterion_id for criterion in criteria],
        [criterion.title for criterion in criteria],
        [criterion.verdict for criterion in criteria],
        [_finite(criterion.weight) for criterion in criteria],
        [criterion.reason for criterion in criteria],
        [criterion.suggestion for criterion in criteria],
        *zip(*evidence, strict=True),
        [criterion.engine for criterion in criteria],
    ]


def _changes(changes: Sequence[e.ScoreChange]) -> list[Sequence[Any]]:
    evidence = [_place(change.evidence) for change in changes]
    return [
        [change.rule for change in changes],
        [change.rule_version for change in changes],
        [_finite(change.points) or 0.0 for change in changes],
        [change.reason for change in changes],
        *zip(*evidence, strict=True),
    ]


def _sentences(sentences: Sequence[e.SummarySentence]) -> list[Sequence[Any]]:
    return [
        [sentence.text for sentence in sentences],
        *_place([sentence.evidence for sentence in sentences]),
    ]


def _statements(statements: Sequence[e.Statement]) -> list[Sequence[Any]]:
    evidence = [_place(statement.evidence) for statement in statements]
    return [
        [statement.kind for statement in statements],
        [statement.text for statement in statements],
        *zip(*evidence, strict=True),
    ]


def _keywords(keywords: Sequence[e.Keyword]) -> list[Sequence[Any]]:
    return [
        [keyword.text for keyword in keywords],
        [keyword.role for keyword in keywords],
        [_finite(keyword.weight) or 0.0 for keyword in keywords],
        [keyword.count for keyword in keywords],
    ]


def _redactions(redactions: Sequence[e.Redaction]) -> list[Sequence[Any]]:
    return [
        [redaction.segment_id for redaction in redactions],
        [redaction.kind for redaction in redactions],
        [redaction.start for redaction in redactions],
        [redaction.end for redaction in redactions],
        [redaction.start_ms for redaction in redactions],
        [redaction.end_ms for redaction in redactions],
    ]


# Table -> its columns after those that say which event and which of its items a row is of.
_FIELDS: Mapping[str, Callable[[Sequence[Any]], list[Sequence[Any]]]] = {
    "segments": _segments,
    "metrics": _metrics,
    "moments": _moments,
    "sentiments": _sentiments,
    "course": _course,
    "findings": _findings,
    "criteria": _criteria,
    "score_changes": _changes,
    "summary_sentences": _sentences,
    "statements": _statements,
    "keywords": _keywords,
    "redactions": _redactions,
}
