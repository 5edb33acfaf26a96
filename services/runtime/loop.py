"""The loop that every stage runs in: poll, hand out, collect, commit.

One thread owns the log: it polls, keeps what is in hand, and commits. Worker threads decode,
handle and encode. A partition's messages are committed in their order, as far as they are finished
without a gap; what is still worked on holds up its own partition and no other. Nothing is written
before the commit that also moves the offset, so a crash anywhere leaves the message to be read
again and its outputs unwritten.
"""

from __future__ import annotations

import queue
import random
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from typing import Any

from schemas.topics import BY_RECORD, DEAD_LETTER, RETRY_TIERS
from services.runtime import headers as h
from services.runtime.codec import Codec
from services.runtime.errors import Failure, Invalid, NotYet, Transient
from services.runtime.log import Log, Lost, Message, Record, TopicPartition
from services.runtime.observe import Observer
from services.runtime.stage import Envelope, Output, Stage, event_id, utc_now

RETRY_TOPICS = tuple(tier.topic for tier in RETRY_TIERS)
_LONGEST_TRACE = 16_000


@dataclass(frozen=True, slots=True)
class Policy:
    """How the loop treats time and failure."""

    in_flight: int = 64
    """Most messages held in memory, beyond one batch per worker."""
    attempts: int = 3
    """How often a message that fails unexpectedly is tried before it is dead-lettered."""
    backoff_s: float = 0.5
    """First wait after a failure; doubles, with jitter, up to `backoff_max_s`."""
    backoff_max_s: float = 30.0
    patience_s: float = 72 * 3600.0
    """How long a call may say NotYet."""
    tier_delays_s: tuple[float, ...] = tuple(tier.delay_ms / 1000 for tier in RETRY_TIERS)
    """How long each retry tier holds a message."""
    tier_tries: int = 5
    """How often a tier is used before the next, longer one."""
    breaker_in_a_row: int = 5
    """Unexpected failures in a row, each of another message, that stop the stage."""
    breaker_share: float = 0.5
    """Share of unexpected failures among the last `breaker_window` that stops the stage."""
    breaker_window: int = 20
    grace_s: float = 10.0
    """How long a stop waits for what is being worked on."""
    commit_records: int = 1_000
    """Most messages whose outputs go into one commit."""


def topics_of(stage: Stage) -> tuple[str, ...]:
    """What the stage's group reads: its sources, and the tiers in which its calls wait."""
    return tuple(dict.fromkeys((*stage.sources, *RETRY_TOPICS)))


# Pure part: messages to records


def process(
    stage: Stage, codec: Codec, messages: Sequence[Message], clock: Callable[[], datetime]
) -> Iterator[tuple[int, list[Record] | Exception]]:
    """Decode, handle and encode; (index, records or failure) of every message, in any order.

    An exception that `stage.handle` lets out is the outcome of each message not yet answered for.
    """
    envelopes: list[Envelope[Any]] = []
    places: list[int] = []
    for index, message in enumerate(messages):
        try:
            envelopes.append(codec.decode(_original(stage, message)))
        except Invalid as problem:
            if not stage.passes_undecodable:
                yield index, problem
                continue
            envelopes.append(codec.undecodable(message, problem))
        except Failure as failure:
            yield index, failure
            continue
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
                yield places[at], _encoded(stage, codec, envelopes[at], outcome, clock())
            except Exception as failure:
                yield places[at], failure
        if unanswered:
            raise RuntimeError(f"{stage.name} did not answer for {len(unanswered)} of its batch")
    except Exception as failure:
        for at in sorted(unanswered):
            yield places[at], failure


def _original(stage: Stage, message: Message) -> Message:
    """A message that waited in a retry tier, as the one it was; others unchanged."""
    if message.topic not in RETRY_TOPICS or message.topic in stage.sources:
        return message
    return replace(message, topic=message.header(h.RETRY_TOPIC) or message.topic)


def _encoded(
    stage: Stage,
    codec: Codec,
    cause: Envelope[Any],
    outputs: Sequence[Output],
    now: datetime,
) -> list[Record]:
    records = []
    for ordinal, output in enumerate(outputs):
        topic = BY_RECORD[type(output.event).__name__]
        if topic.name not in stage.targets:
            raise RuntimeError(
                f"{stage.name} emitted to {topic.name}, which is none of its targets"
            )
        made_id = event_id(stage.name, output.about or cause.id, cause.generation, ordinal)
        records.append(
            codec.encode(
                output.event,
                id=made_id,
                source=f"/callstream/{stage.name}",
                time=now,
                generation=cause.generation,
                causation_id=cause.id,
                traceparent=_traceparent(cause, made_id),
            )
        )
    return records


def _traceparent(cause: Envelope[Any], made_id: str) -> str:
    """The cause's trace continued; where it has none, one trace for the whole call."""
    if cause.traceparent is not None:
        trace = cause.traceparent.split("-")[1]
    else:
        trace = sha256(cause.message.key or cause.id.encode()).hexdigest()[:32]
    return f"00-{trace}-{sha256(made_id.encode()).hexdigest()[:16]}-01"


def dead_letter(stage: str, message: Message, failure: Exception, now_ms: int) -> Record:
    """The original message, untouched, with why it was refused."""
    reason = failure.reason if isinstance(failure, Failure) else "unexpected"
    trace = "".join(traceback.format_exception(failure))[-_LONGEST_TRACE:]
    added = {
        h.ERROR_TOPIC: message.header(h.RETRY_TOPIC) or message.topic,
        h.ERROR_PARTITION: str(message.partition),
        h.ERROR_OFFSET: str(message.offset),
        h.ERROR_STAGE: stage,
        h.ERROR_CLASS: f"{type(failure).__module__}.{type(failure).__qualname__}",
        h.ERROR_MESSAGE: str(failure)[:_LONGEST_TRACE],
        h.ERROR_TRACE: trace,
        h.DEAD_REASON: reason,
        h.DEAD_ATTEMPT: message.header(h.RETRY_ATTEMPT) or "0",
        h.DEAD_AT_MS: str(now_ms),
    }
    return Record(
        DEAD_LETTER, message.key, message.value, _with(message, added), timestamp_ms=now_ms
    )


def retry(
    stage: str, message: Message, wait: NotYet, now_ms: int, policy: Policy
) -> Record | Invalid:
    """The message on its way to a retry tier, or why its patience is at an end."""
    attempt = int(message.header(h.RETRY_ATTEMPT) or 0) + 1
    first_ms = int(message.header(h.RETRY_FIRST_MS) or now_ms)
    history = message.header(h.RETRY_HISTORY) or ""
    history = f"{history}{attempt}. at {now_ms}: {wait}\n"[-_LONGEST_TRACE:]
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
        h.RETRY_DETAIL: wait.detail,
        h.RETRY_DUE_MS: str(now_ms + round(policy.tier_delays_s[tier] * 1000)),
        h.RETRY_ATTEMPT: str(attempt),
        h.RETRY_FIRST_MS: str(first_ms),
        h.RETRY_TOPIC: message.header(h.RETRY_TOPIC) or message.topic,
        h.RETRY_HISTORY: history,
    }
    return Record(
        RETRY_TIERS[tier].topic, message.key, message.value, _with(message, added),
        timestamp_ms=now_ms,
    )  # fmt: skip


def _with(message: Message, added: dict[str, str]) -> tuple[tuple[str, bytes], ...]:
    kept = [(name, value) for name, value in message.headers if name not in added]
    return (*kept, *((name, value.encode()) for name, value in added.items()))


# The loop


@dataclass(slots=True, eq=False)
class _Work:
    """One message in hand."""

    message: Message
    ready_at: float
    running: bool = False
    alone: bool = False
    tries: int = 0
    waits: int = 0
    records: list[Record] | None = None
    """What to write once it is done; None until then."""


@dataclass(slots=True)
class _Breaker:
    policy: Policy
    in_a_row: int = 0
    recent: deque[bool] = field(default_factory=deque)
    open: str | None = None

    def note(self, failed: bool, what: str = "") -> None:
        """Count one finished message; sets `open` to the reason when it is time to stop."""
        self.in_a_row = self.in_a_row + 1 if failed else 0
        self.recent.append(failed)
        if len(self.recent) > self.policy.breaker_window:
            self.recent.popleft()
        share = sum(self.recent) / len(self.recent)
        full = len(self.recent) == self.policy.breaker_window
        if self.in_a_row >= self.policy.breaker_in_a_row or (
            failed and full and share > self.policy.breaker_share
        ):
            self.open = (
                f"{self.in_a_row} unexpected failures in a row, {share:.0%} of the last "
                f"{len(self.recent)}; the last: {what}. "
                "Offsets are kept: mend the cause and restart."
            )


def run(
    stage: Stage,
    log: Log,
    codec: Codec,
    stop: threading.Event,
    observer: Observer,
    policy: Policy = Policy(),
    clock: Callable[[], datetime] = utc_now,
) -> None:
    """Run `stage` until `stop` is set; finishes or abandons what is in hand, and closes `log`.

    Returns early for nothing: a dependency that is down is waited for, and an open breaker leaves
    the stage unready and idle. What it raises is a bug of the log or the loop.
    """
    loop = _Loop(stage, log, codec, stop, observer, policy, clock)
    try:
        loop.run()
    finally:
        loop.dismiss()
        with suppress(Transient):
            log.close()


class _Loop:
    def __init__(
        self,
        stage: Stage,
        log: Log,
        codec: Codec,
        stop: threading.Event,
        observer: Observer,
        policy: Policy,
        clock: Callable[[], datetime],
    ) -> None:
        self._stage, self._log, self._codec, self._stop = stage, log, codec, stop
        self._observer, self._policy, self._clock = observer, policy, clock
        self._held: dict[TopicPartition, deque[_Work]] = {}
        self._running = 0
        self._breaker = _Breaker(policy)
        self._commit_at = 0.0
        self._commit_waits = 0
        self._todo: queue.SimpleQueue[list[_Work] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[list[_Work], _Work | None, Any]] = queue.SimpleQueue()
        self._capacity = policy.in_flight + stage.batch * stage.workers
        # Daemons: work that outlasts the grace of a stop dies with the process.
        self._workers = [
            threading.Thread(target=self._work, name=f"{stage.name}-{number}", daemon=True)
            for number in range(stage.workers)
        ]
        for worker in self._workers:
            worker.start()

    def run(self) -> None:
        self._observer.ready(self._stage.name)
        deadline: float | None = None
        while True:
            if self._stop.is_set():
                deadline = deadline or time.monotonic() + self._policy.grace_s
                if not self._running or time.monotonic() > deadline:
                    self._commit()
                    return
            self._observer.beat(self._stage.name)
            self._poll()
            self._forget_lost()
            if not self._stop.is_set() and self._breaker.open is None:
                self._hand_out()
            self._collect()
            self._commit()

    def dismiss(self) -> None:
        for _ in self._workers:
            self._todo.put(None)

    # Polling

    def _poll(self) -> None:
        count = sum(len(works) for works in self._held.values())
        room = 0 if self._stop.is_set() or self._breaker.open else self._capacity - count
        hold = [source for source, works in self._held.items() if self._full(works)]
        idle = self._running == 0 and self._done.empty()
        wait_s = self._idle_wait() if idle else 0.0
        try:
            messages = self._log.messages(max(0, room), wait_s, hold)
        except Transient as failure:
            self._observer.waiting(self._stage.name, failure)
            self._stop.wait(self._policy.backoff_s)
            return
        now = time.monotonic()
        for message in messages:
            work = _Work(message, now + self._due_in(message))
            self._held.setdefault(message.source, deque()).append(work)
            if self._is_others(message):
                work.records = []

    def _full(self, works: deque[_Work]) -> bool:
        """Whether a partition has enough in hand: a share of the room, or a wait for its turn."""
        share = max(self._stage.batch * self._stage.workers, self._policy.in_flight // 4)
        return len(works) >= share or any(
            work.ready_at > time.monotonic() + 1.0 and work.tries == 0 for work in works
        )

    def _idle_wait(self) -> float:
        """How long nothing can become ready by itself."""
        now = time.monotonic()
        due = [
            w.ready_at - now for works in self._held.values() for w in works if w.records is None
        ]
        if any(w.records is not None for works in self._held.values() for w in works):
            due.append(self._commit_at - now)
        elif due:
            due.append(self._stage.wait_s)
        return max(0.0, min([0.2, *due]))

    def _due_in(self, message: Message) -> float:
        """Seconds until a message of a retry tier is due; 0 for any other."""
        if message.topic not in RETRY_TOPICS or message.topic in self._stage.sources:
            return 0.0
        due = message.header(h.RETRY_DUE_MS) or "0"
        if not due.isdecimal():
            return 0.0
        return max(0.0, int(due) / 1000 - self._clock().timestamp())

    def _is_others(self, message: Message) -> bool:
        """Whether a retry tier's message belongs to another stage."""
        return (
            message.topic in RETRY_TOPICS
            and message.topic not in self._stage.sources
            and message.header(h.RETRY_STAGE) != self._stage.name
        )

    def _forget_lost(self) -> None:
        for source, works in list(self._held.items()):
            lease = self._log.lease(source)
            kept = deque(work for work in works if work.message.lease == lease)
            if len(kept) < len(works):
                self._observer.discarded(self._stage.name, source, len(works) - len(kept))
            if kept:
                self._held[source] = kept
            else:
                del self._held[source]

    # Working

    def _hand_out(self) -> None:
        now = time.monotonic()
        while self._running < self._stage.workers:
            ready = [
                work
                for works in self._held.values()
                for work in works
                if work.records is None and not work.running and work.ready_at <= now
            ]
            if not ready:
                return
            ready.sort(key=lambda work: work.ready_at)
            batch = ready[:1] if ready[0].alone else [w for w in ready if not w.alone]
            batch = batch[: self._stage.batch]
            if len(batch) < self._stage.batch and now < batch[0].ready_at + self._stage.wait_s:
                return
            for work in batch:
                work.running = True
            self._running += 1
            self._todo.put(batch)

    def _work(self) -> None:
        """A worker thread: its results go back one by one, then the end of its batch."""
        while (batch := self._todo.get()) is not None:
            try:
                started = time.monotonic()
                messages = [work.message for work in batch]
                for index, result in process(self._stage, self._codec, messages, self._clock):
                    self._done.put((batch, batch[index], result))
                self._observer.batch(self._stage.name, len(batch), time.monotonic() - started)
            finally:
                self._done.put((batch, None, None))

    def _collect(self) -> None:
        """Take in what workers have finished; waits a moment where there is nothing else to do."""
        wait_s = 0.02 if self._running else 0.0
        while True:
            try:
                _, work, result = (
                    self._done.get(timeout=wait_s) if wait_s else self._done.get(False)
                )
            except queue.Empty:
                return
            wait_s = 0.0
            if work is None:
                self._running -= 1
            else:
                self._settle(work, result)

    def _settle(self, work: _Work, result: list[Record] | Exception) -> None:
        """Decide what becomes of a message."""
        work.running = False
        name, message = self._stage.name, work.message
        now_ms = round(self._clock().timestamp() * 1000)
        if isinstance(result, NotYet):
            moved = retry(name, message, result, now_ms, self._policy)
            if isinstance(moved, Record):
                work.records = [moved]
                self._breaker.note(failed=False)
                self._observer.retried(name, message, result)
                return
            result = moved
        match result:
            case list():
                work.records = result
                self._breaker.note(failed=False)
                self._observer.handled(name, message, len(result))
            case Invalid():
                work.records = [dead_letter(name, message, result, now_ms)]
                self._breaker.note(failed=False)
                self._observer.refused(name, message, result)
            case Transient():
                work.waits += 1
                work.ready_at = time.monotonic() + self._backoff(work.waits)
                self._observer.waiting(name, result)
            case _:
                work.tries += 1
                work.alone = True
                work.ready_at = time.monotonic() + self._backoff(work.tries)
                self._observer.failed(name, message, result, work.tries)
                if work.tries >= self._policy.attempts:
                    self._breaker.note(failed=True, what=f"{type(result).__name__}: {result}")
                    if self._breaker.open is not None:
                        self._observer.stopped(name, self._breaker.open)
                        return
                    work.records = [dead_letter(name, message, result, now_ms)]
                    self._observer.refused(name, message, result)

    def _backoff(self, count: int) -> float:
        doubled = self._policy.backoff_s * 2.0 ** min(count - 1, 16)
        longest = min(self._policy.backoff_max_s, doubled)
        return longest * random.uniform(0.5, 1.0)  # jitter, no secret

    # Committing

    def _commit(self) -> None:
        """Commit, per partition, what is finished without a gap."""
        if time.monotonic() < self._commit_at:
            return
        finished: list[_Work] = []
        offsets: dict[TopicPartition, int] = {}
        for source, works in self._held.items():
            for work in works:
                if work.records is None or len(finished) >= self._policy.commit_records:
                    break
                finished.append(work)
                offsets[source] = work.message.offset + 1
        if not finished:
            return
        started = time.monotonic()
        try:
            self._log.commit([r for work in finished for r in work.records or ()], offsets)
        except Lost as lost:
            self._observer.lost(self._stage.name, lost)
            for source in lost.sources:
                self._held.pop(source, None)
            return
        except Transient as failure:
            self._commit_waits += 1
            self._commit_at = time.monotonic() + self._backoff(self._commit_waits)
            self._observer.waiting(self._stage.name, failure)
            return
        self._commit_waits = 0
        for work in finished:
            works = self._held[work.message.source]
            works.popleft()
            if not works:
                del self._held[work.message.source]
        self._observer.committed(self._stage.name, len(finished), time.monotonic() - started)
