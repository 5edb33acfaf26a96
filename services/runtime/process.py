"""What becomes of a message: the records it turns into, or where it goes when it cannot be handled.

Pure: decode, handle, encode; dead letters; retries. Knows no log and moves no offset.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from schemas.checks import EARLIEST_YEAR, LATEST_YEAR
from schemas.events import OriginalHeader, OriginalInput, ReplayRequested
from schemas.topics import BY_NAME, BY_RECORD, DEAD_LETTER, REPLAY, RETRY_TIERS
from services.runtime import headers as h
from services.runtime.codec import Codec
from services.runtime.errors import Failure, Invalid, NotYet
from services.runtime.log import Message, Record
from services.runtime.settings import Policy
from services.runtime.stage import (
    Envelope,
    Output,
    Stage,
    event_id,
    refuse_unknown_options,
    trace_id,
)

_EPOCH = datetime.fromtimestamp(0, UTC)

RETRY_TOPICS = tuple(tier.topic for tier in RETRY_TIERS)

# Characters of an error's text in a header; all of them leave room beside a value of 900 KB.
_LONGEST_TEXT = 8_000


def topics_of(stage: Stage) -> tuple[str, ...]:
    """What the stage's group reads: its sources, requests to replay them, and the retry tiers."""
    return tuple(dict.fromkeys((*stage.sources, REPLAY, *RETRY_TOPICS)))


def is_replay(stage: Stage, message: Message) -> bool:
    """Whether the message asks for work that gives way to live calls.

    Requests to replay do, but for a stage that reads them as one topic among others.
    """
    return message.topic == REPLAY and REPLAY not in stage.sources


def returns(stage: Stage, message: Message) -> bool:
    """Whether the message is a request to replay that waited in a tier.

    There it stands before live calls of its partition: when it is due it goes back to where it
    gives way to them, see `returned`.
    """
    return (
        from_tier(stage, message)
        and message.header(h.RETRY_TOPIC) == REPLAY
        and REPLAY not in stage.sources
    )


def returned(message: Message, now_ms: int) -> Record:
    """A request to replay that has waited, as it is asked for again; its attempts stay with it."""
    return Record(REPLAY, message.key, message.value, message.headers, timestamp_ms=now_ms)


def is_made_by_replay(stage: Stage, message: Message) -> bool:
    """Whether a stage that reads requests to replay as a topic is given what a replay makes.

    For such a stage it is gathered: live calls then seldom find it at work on a replay.
    """
    return REPLAY in stage.sources and (whole_number(message, h.GENERATION) or 0) > 0


def process(
    stage: Stage,
    codec: Codec,
    messages: Sequence[Message],
    clock: Callable[[], datetime],
    made: Callable[[Envelope[Any], Sequence[Output]], None] = lambda cause, outputs: None,
) -> Iterator[tuple[int, list[Record] | Exception]]:
    """Decode, handle and encode; (index, records or failure) of every message, in any order.

    `made` is told what `stage.handle` made of an event.

    An exception that `stage.handle` lets out is the outcome of each message not yet answered for;
    where every message has its answer it comes out of here too.
    """
    envelopes: list[Envelope[Any]] = []
    places: list[int] = []
    for index, message in enumerate(messages):
        try:
            envelope = _envelope(stage, codec, message)
        except Exception as failure:
            yield index, failure
            continue
        if envelope is None:
            yield index, []
            continue
        envelopes.append(envelope)
        places.append(index)
    unanswered = set(range(len(envelopes)))
    if not envelopes:
        return
    try:
        for at, outcome in stage.handle(envelopes):
            if at not in unanswered:
                raise RuntimeError(f"{stage.name} answered for message {at} of its batch twice")
            unanswered.discard(at)
            if isinstance(outcome, Exception):
                yield places[at], outcome
                continue
            try:
                records = _encoded(stage, codec, envelopes[at], outcome, clock())
                made(envelopes[at], outcome)
                yield places[at], records
            except Exception as failure:
                yield places[at], failure
        if unanswered:
            raise RuntimeError(f"{stage.name} did not answer for {len(unanswered)} of its batch")
    except Exception as failure:
        if not unanswered:
            raise
        for at in sorted(unanswered):
            yield places[at], failure


def _envelope(stage: Stage, codec: Codec, message: Message) -> Envelope[Any] | None:
    """What `stage.handle` gets of a message: the event it was before it waited, and the message.

    Of a request to replay this stage that is the input to handle again; None where the request is
    to another stage.
    """
    original = message
    try:
        original = _original(stage, message)
        envelope = codec.decode(original)
        if original.topic == REPLAY:
            asked: ReplayRequested = envelope.event
            if asked.stage == stage.name:
                envelope = _replayed(stage, codec, envelope)
            elif REPLAY not in stage.sources:
                return None
    except Invalid as problem:
        if not stage.passes_undecodable:
            raise
        envelope = codec.undecodable(original, problem)
    # A stage that reads the tiers as topics too archives what waited as well as handling it.
    return envelope if original is message else replace(envelope, message=message)


def _replayed(stage: Stage, codec: Codec, request: Envelope[ReplayRequested]) -> Envelope[Any]:
    """The request as its input under the generation asked for.

    A stage that reads requests as a topic of its own gets the request, and the input beside it.
    """
    asked = request.event
    refuse_unknown_options(stage.name, stage.options, asked.options)
    original = codec.replayed(request)
    if asked.input.topic not in stage.sources or isinstance(original.event, Message):
        events = ", ".join(topic for topic in stage.sources if BY_NAME[topic].record is not None)
        raise Invalid(
            "wrong_input",
            f"input.topic is {asked.input.topic!r}, {stage.name} replays events of {events}",
        )
    if REPLAY in stage.sources:
        return replace(request, replays=original)
    return replace(
        original,
        message=request.message,
        generation=request.generation,
        shadow=asked.shadow,
        side_effects=asked.side_effects,
        options=asked.options,
    )


def as_input(message: Message, event_id: str) -> OriginalInput:
    """The message as a request to replay carries it; `Codec.replayed` is the way back."""
    return OriginalInput(
        topic=message.topic,
        event_id=event_id,
        value=message.value,
        headers=[OriginalHeader(name=name, value=value) for name, value in message.headers],
        timestamp=sound_time(message.timestamp_ms),
    )


def sound_time(ms: int) -> datetime | None:
    """None for a time that no event may carry: a producer may write any into a message."""
    try:
        when = _EPOCH + timedelta(milliseconds=ms)
    except OverflowError:
        return None
    return when if EARLIEST_YEAR <= when.year <= LATEST_YEAR else None


def way_given(stage: str, envelope: Envelope[Any]) -> Output:
    """What a replay of an earlier stage has made, asked for as a replay of `stage`.

    On its own topic it would stand before live calls for as long as the stage works on it; among
    the requests to replay it gives way to them. What comes of it is the same.
    """
    message, event = envelope.message, envelope.event
    # An erasure that covers the input covers the request: it is as old as what the input rests on.
    basis = max(event.call.published_at, sound_time(event.revision) or event.call.published_at)
    request = ReplayRequested(
        tenant_id=event.tenant_id,
        call_id=event.call_id,
        requested_at=min(envelope.time, basis),
        requested_by=stage,
        reason="follows from a replay of an earlier stage, and gives way to live calls",
        stage=stage,
        generation=envelope.generation,
        shadow=envelope.shadow,
        side_effects=envelope.side_effects,
        input=as_input(message, envelope.id),
    )
    return Output(request, about=_way(envelope.id))


def way_id(stage: str, input_id: str, generation: int) -> str:
    """The id of the request that `way_given` makes of that input."""
    return event_id(stage, _way(input_id), generation, 0)


def _way(input_id: str) -> str:
    return f"way of {input_id}"


def _original(stage: Stage, message: Message) -> Message:
    """A message that waited in a retry tier, as the one it was; others unchanged."""
    if not from_tier(stage, message):
        return message
    topic = message.header(h.RETRY_TOPIC)
    if topic not in (*stage.sources, REPLAY):
        raise Invalid(
            "bad_header",
            f"{h.RETRY_TOPIC} is {topic!r}, {stage.name} reads {', '.join(stage.sources)}",
        )
    return replace(message, topic=topic)


def from_tier(stage: Stage, message: Message) -> bool:
    """Whether the message waited; what other messages say of retries is not ours to believe.

    Of a tier that is a source of the stage, only what waited for this stage.
    """
    return message.topic in RETRY_TOPICS and (
        message.topic not in stage.sources or message.header(h.RETRY_STAGE) == stage.name
    )


def _encoded(
    stage: Stage,
    codec: Codec,
    cause: Envelope[Any],
    outputs: Sequence[Output],
    now: datetime,
) -> list[Record]:
    records = []
    for ordinal, output in enumerate(outputs):
        topic = BY_RECORD.get(type(output.event).__name__)
        if topic is None:
            raise RuntimeError(f"{stage.name} emitted {type(output.event)}, which no topic carries")
        if topic.name not in stage.targets:
            raise RuntimeError(
                f"{stage.name} emitted to {topic.name}, which is none of its targets"
            )
        made_id = event_id(stage.name, output.about or cause.id, cause.generation, ordinal)
        record = codec.encode(
            output.event,
            id=made_id,
            source=f"/callstream/{stage.name}",
            time=now,
            generation=cause.generation,
            causation_id=cause.id,
            traceparent=_traceparent(cause, made_id),
            shadow=cause.shadow,
            side_effects=cause.side_effects,
        )
        records.append(record)
    return records


def _traceparent(cause: Envelope[Any], made_id: str) -> str:
    """The cause's trace continued; where it has none, one trace for the whole call."""
    trace = trace_id(cause.traceparent, cause.message.key, cause.id)
    return f"00-{trace}-{sha256(made_id.encode()).hexdigest()[:16]}-01"


def dead_letter(stage: str, message: Message, failure: Exception, now_ms: int) -> Record:
    """The original message, untouched, with why it was refused and where it first stood."""
    reason = failure.reason if isinstance(failure, Failure) else "unexpected"
    trace = "".join(traceback.format_exception(failure))
    waited = message.topic in RETRY_TOPICS
    topic = message.header(h.RETRY_TOPIC) if waited else None
    partition = whole_number(message, h.RETRY_PARTITION) if waited else None
    offset = whole_number(message, h.RETRY_OFFSET) if waited else None
    attempt = whole_number(message, h.RETRY_ATTEMPT) if _has_waited(stage, message) else None
    added = {
        h.ERROR_TOPIC: topic or message.topic,
        h.ERROR_PARTITION: str(message.partition if partition is None else partition),
        h.ERROR_OFFSET: str(message.offset if offset is None else offset),
        h.ERROR_STAGE: stage,
        h.ERROR_CLASS: f"{type(failure).__module__}.{type(failure).__qualname__}",
        h.ERROR_MESSAGE: str(failure)[:_LONGEST_TEXT],
        h.ERROR_TRACE: trace[-_LONGEST_TEXT:],
        h.DEAD_REASON: reason,
        h.DEAD_ATTEMPT: str(attempt or 0),
        h.DEAD_AT_MS: str(now_ms),
    }
    return Record(
        DEAD_LETTER, message.key, message.value, _with(message, added), timestamp_ms=now_ms
    )


def _has_waited(stage: str, message: Message) -> bool:
    """Whether what it says of its attempts is this stage's own word."""
    return message.topic in RETRY_TOPICS or (
        message.topic == REPLAY and message.header(h.RETRY_STAGE) == stage
    )


def without_body(letter: Record) -> Record:
    """A dead letter that the log takes whatever the size of its original: where that stands."""
    kept = tuple(
        (name, value)
        for name, value in letter.headers
        if name.startswith(("__connect.errors.", "callstream."))
    )
    return replace(letter, value=None, headers=kept)


def retry(
    stage: str, message: Message, wait: NotYet, now_ms: int, policy: Policy
) -> Record | Invalid:
    """The message on its way to a retry tier, or why its patience is at an end."""
    waited = _has_waited(stage, message)
    attempt = ((whole_number(message, h.RETRY_ATTEMPT) or 0) if waited else 0) + 1
    first_ms = whole_number(message, h.RETRY_FIRST_MS) if waited else None
    first_ms = now_ms if first_ms is None else first_ms
    history = (message.header(h.RETRY_HISTORY) or "") if waited else ""
    history = f"{history}{attempt}. at {now_ms}: {wait}\n"[-_LONGEST_TEXT:]
    if now_ms - first_ms > policy.patience_s * 1000:
        return Invalid(
            wait.reason,
            f"gave up after {attempt} attempts over {(now_ms - first_ms) / 1000:.0f} s "
            f"(patience {policy.patience_s:.0f} s); history:\n{history}",
        )
    tier = min((attempt - 1) // policy.tier_tries, len(RETRY_TIERS) - 1)
    while (
        wait.after_s is not None
        and tier + 1 < len(RETRY_TIERS)
        and policy.tier_delays_s[tier] < wait.after_s
    ):
        tier += 1
    added = {
        h.RETRY_STAGE: stage,
        h.RETRY_REASON: wait.reason,
        h.RETRY_DETAIL: wait.detail[:_LONGEST_TEXT],
        h.RETRY_DUE_MS: str(now_ms + round(policy.tier_delays_s[tier] * 1000)),
        h.RETRY_ATTEMPT: str(attempt),
        h.RETRY_FIRST_MS: str(first_ms),
        h.RETRY_HISTORY: history,
    }
    if not waited:
        added |= {
            h.RETRY_TOPIC: message.topic,
            h.RETRY_PARTITION: str(message.partition),
            h.RETRY_OFFSET: str(message.offset),
        }
    return Record(
        RETRY_TIERS[tier].topic, message.key, message.value, _with(message, added),
        timestamp_ms=now_ms,
    )  # fmt: skip


def _with(message: Message, added: dict[str, str]) -> tuple[tuple[str, bytes], ...]:
    # What an operator decided is said by operators only: a producer's word would hide a letter.
    dropped = {*added, h.DEAD_ACTION, h.DEAD_OF}
    kept = [(name, value) for name, value in message.headers if name not in dropped]
    # What fails may name a file whose name is no text.
    return (
        *kept,
        *((name, text.encode("utf-8", "backslashreplace")) for name, text in added.items()),
    )


def whole_number(message: Message, name: str) -> int | None:
    """A whole number in a header; None where there is none to be trusted."""
    text = message.header(name) or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
