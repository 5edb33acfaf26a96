"""The loop that every stage runs in: poll, hand out, collect, commit.

One thread owns the log: it polls, keeps what is in hand, and commits. Worker threads decode,
handle and encode. A partition's messages are committed in their order, as far as they are finished
without a gap; what is still worked on holds up its own partition and no other. Nothing is written
before the commit that also moves the offset, so a crash anywhere leaves the message to be read
again and its outputs unwritten.
"""

from __future__ import annotations

import os
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from schemas.topics import DEAD_LETTER
from services.runtime import headers as h
from services.runtime.codec import Codec
from services.runtime.errors import Invalid, NotYet, Transient
from services.runtime.log import Log, Lost, Message, Record, TooLarge, TopicPartition
from services.runtime.observe import Kind, Observer
from services.runtime.process import (
    dead_letter,
    from_tier,
    is_made_by_replay,
    is_replay,
    process,
    retry,
    returned,
    returns,
    whole_number,
    without_body,
)
from services.runtime.settings import Policy
from services.runtime.stage import Envelope, Output, Stage, utc_now

# Membership of the group ends when the log is not asked for long.
_LONGEST_POLL_WAIT_S = 5.0
# Of values: most that one batch decodes, that waits to be worked on, and that one commit writes.
_BATCH_BYTES = 32_000_000
# Most of one partition in hand before no more of it is read.
_SHARE_BYTES = 8_000_000
# The same of replays, which must not take the room of live calls.
_REPLAY_SHARE_BYTES = 1_000_000
# For so long after a live call more of them are expected.
_LIVE_S = 10.0
# How much less of the processor a replay gets than a live call, where both want it.
_REPLAY_NICE = 10
# What lies in the object store is beyond the size that needs a claim check; how far, its message
# does not say.
_CLAIMED_BYTES = 4_000_000


@dataclass(slots=True, eq=False)
class _Work:
    """One message in hand."""

    message: Message
    ready_at: float
    """When to hand it out, by the monotonic clock."""
    due_ms: int = 0
    """When a message of a retry tier is due, by the stage's clock."""
    replay: bool = False
    """It gives way to live calls."""
    batch: list[_Work] | None = None
    """Who works on it now; what an earlier batch has left to say of it counts no more."""
    discarded: bool = False
    """Its partition went elsewhere; whatever comes of it is dropped."""
    alone: bool = False
    tries: int = 0
    waits: int = 0
    records: list[Record] | None = None
    """What to write once it is done; None until then."""
    weight: int = field(init=False)
    """Bytes of what is decoded of it, about."""

    def __post_init__(self) -> None:
        claimed = self.message.header(h.DATAREF) is not None
        self.weight = len(self.message.value or b"") + (_CLAIMED_BYTES if claimed else 0)

    @property
    def made(self) -> int:
        """Bytes that it writes."""
        return sum(len(record.value or b"") for record in self.records or ())


@dataclass(slots=True)
class _Breaker:
    policy: Policy
    in_a_row: int = 0
    recent: deque[bool] = field(default_factory=deque)
    open: str | None = None

    def note(self, failed: bool, what: str = "") -> str | None:
        """Count one finished message; sets and returns why, when it is time to stop."""
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
        return self.open


def run(
    stage: Stage,
    log: Log,
    codec: Codec,
    stop: threading.Event,
    observer: Observer,
    policy: Policy,
    clock: Callable[[], datetime] = utc_now,
) -> None:
    """Run `stage` until `stop` is set; finishes or abandons what is in hand, and closes `log`.

    Returns early for nothing: a dependency that is down is waited for, and an open breaker leaves
    the stage unready and idle. What it raises is `OffsetGone` of the log, a bug of the log or the
    loop, or what a handler raised that is no Exception.
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
        self._returning: list[_Work] = []
        self._running = 0
        self._replaying = False
        self._replay_began = 0.0
        self._replay_rests_until = 0.0
        self._live_at = -_LIVE_S
        self._breaker = _Breaker(policy)
        self._commit_at = 0.0
        self._gathering_since: float | None = None
        self._commit_waits = 0
        self._poll_waits = 0
        self._down = False
        self._tell_at = 0.0
        self._todo: queue.SimpleQueue[list[_Work] | None] = queue.SimpleQueue()
        self._todo_again: queue.SimpleQueue[list[_Work] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[list[_Work], _Work | None, Any]] = queue.SimpleQueue()
        at_once = stage.batch * stage.workers
        self._capacity = policy.in_flight + at_once
        # Most messages of one poll, and how many of one partition are enough to hold it.
        self._share = max(1, at_once, policy.in_flight // 4)
        # A live call never waits for a replay to end: that has a worker of its own.
        self._replay_batch = max(1, stage.batch // 4)
        queues = [(str(number), self._todo) for number in range(stage.workers)]
        # Daemons: work that outlasts the grace of a stop dies with the process.
        self._workers = [
            threading.Thread(
                target=self._work, args=(todo,), name=f"{stage.name}-{name}", daemon=True
            )
            for name, todo in [*queues, ("replay", self._todo_again)]
        ]
        for worker in self._workers:
            worker.start()

    def run(self) -> None:
        self._observer.ready(self._stage.name)
        deadline: float | None = None
        while True:
            if self._stop.is_set():
                deadline = deadline or time.monotonic() + self._policy.grace_s
                if not self._busy or time.monotonic() > deadline:
                    self._commit()
                    return
            self._observer.beat(self._stage.name)
            self._poll()
            self._forget_lost()
            if not self._stop.is_set() and self._breaker.open is None:
                self._hand_out()
            self._collect()
            self._commit()
            self._note_waits()
            self._tell_in_hand()

    def dismiss(self) -> None:
        for _ in range(self._stage.workers):
            self._todo.put(None)
        self._todo_again.put(None)

    @property
    def _busy(self) -> bool:
        return self._running > 0 or self._replaying

    # Polling

    def _poll(self) -> None:
        now, now_ms = time.monotonic(), self._now_ms()
        if self._stop.is_set() or self._breaker.open is not None:
            room = 0
        else:
            busy = [
                work
                for works in self._held.values()
                for work in works
                if work.records is None and work.due_ms <= now_ms and not work.replay
            ]
            gathered = [
                work for work in busy if work.ready_at > now and not work.waits and not work.tries
            ]
            if len(gathered) >= min(self._stage.batch, self._capacity // 2):
                # Enough for one batch; more would take the room of live calls.
                for work in gathered:
                    work.ready_at = now
            heavy = sum(work.weight for work in busy) >= _BATCH_BYTES
            room = 0 if heavy else max(0, min(self._share, self._capacity - len(busy)))
        hold = [source for source, works in self._held.items() if self._full(works, now, now_ms)]
        idle = not self._busy and self._done.empty()
        wait_s = self._idle_wait(now, now_ms) if idle else 0.0
        try:
            messages = self._log.messages(room, wait_s, hold)
        except Transient as failure:
            self._poll_waits += 1
            self._observer.waiting(self._stage.name, failure)
            self._stop.wait(min(self._backoff(self._poll_waits), _LONGEST_POLL_WAIT_S))
            return
        self._poll_waits = 0
        now, now_ms = time.monotonic(), self._now_ms()
        for message in messages:
            work = _Work(message, now, replay=is_replay(self._stage, message))
            self._held.setdefault(message.source, deque()).append(work)
            every_s = self._policy.replay_gather_s
            made_by_replay = is_made_by_replay(self._stage, message)
            if every_s and made_by_replay:
                # All that comes until the next tick is ready then, as one.
                work.ready_at = (now // every_s + 1) * every_s
            if self._is_others(message):
                work.records = []
                continue
            if returns(self._stage, message):
                self._returning.append(work)
            elif not work.replay and not whole_number(message, h.GENERATION):
                self._live_at = now
            if from_tier(self._stage, message):
                # No message waits longer than its tier, whatever its header says.
                longest = round(max(self._policy.tier_delays_s) * 1000)
                due_ms = whole_number(message, h.RETRY_DUE_MS) or 0
                work.due_ms = min(due_ms, now_ms + longest)

    def _now_ms(self) -> int:
        return round(self._clock().timestamp() * 1000)

    def _full(self, works: deque[_Work], now: float, now_ms: int) -> bool:
        """Whether a partition has enough in hand: its share, or a wait for its turn."""
        replays = works[0].replay
        return (
            len(works) >= (self._replay_batch if replays else self._share)
            or sum(work.weight + work.made for work in works)
            >= (_REPLAY_SHARE_BYTES if replays else _SHARE_BYTES)
            or any(
                work.records is None
                and (work.due_ms > now_ms + 1000 or (work.waits > 0 and work.ready_at > now + 1.0))
                for work in works
            )
        )

    def _idle_wait(self, now: float, now_ms: int) -> float:
        """Seconds for which nothing that is held can go on by itself."""
        wait_s = 0.2
        for works in self._held.values():
            if works[0].records is not None:
                wait_s = min(wait_s, self._commit_at - now)
            if self._breaker.open is not None:
                continue
            for work in works:
                if work.records is not None:
                    continue
                if work.due_ms > now_ms:
                    wait_s = min(wait_s, (work.due_ms - now_ms) / 1000)
                elif work.ready_at > now:
                    wait_s = min(wait_s, work.ready_at - now)
                elif work.replay:
                    wait_s = min(wait_s, self._replay_rests_until - now)
                else:  # its batch waits to fill
                    wait_s = min(wait_s, work.ready_at + self._stage.wait_s - now)
        return max(0.0, wait_s)

    def _is_others(self, message: Message) -> bool:
        """Whether a retry tier's message belongs to another stage, or a request to replay says so.

        What a request does not say on the outside is found inside, by a worker.
        """
        if is_replay(self._stage, message):
            return message.header(h.REPLAY_STAGE) not in (None, self._stage.name)
        return from_tier(self._stage, message) and message.header(h.RETRY_STAGE) != self._stage.name

    def _forget_lost(self) -> None:
        for source, works in list(self._held.items()):
            lease = self._log.lease(source)
            kept = deque(work for work in works if work.message.lease == lease)
            for work in works:
                work.discarded = work.message.lease != lease
            if len(kept) < len(works):
                self._observer.discarded(self._stage.name, source, len(works) - len(kept))
            if kept:
                self._held[source] = kept
            else:
                del self._held[source]

    # Working

    def _hand_out(self) -> None:
        now, now_ms = time.monotonic(), self._now_ms()
        self._returning = [work for work in self._returning if not self._returned(work, now_ms)]
        unfinished = [
            work
            for works in self._held.values()
            for work in works
            if work.records is None and work.ready_at <= now and work.due_ms <= now_ms
        ]
        self._hand_out_live(now, [work for work in unfinished if not work.replay])
        # Live first: a replay begins only where no live call is worked on or could be.
        rests = now < self._replay_rests_until
        if not self._replaying and not rests and all(work.replay for work in unfinished):
            self._hand_out_replays(unfinished)

    def _returned(self, work: _Work, now_ms: int) -> bool:
        """Send a request to replay that has waited back, when it is due; whether that is over."""
        if work.due_ms <= now_ms and not work.discarded:
            work.records = [returned(work.message, now_ms)]
        return work.discarded or work.records is not None

    def _hand_out_replays(self, ready: list[_Work]) -> None:
        ready.sort(key=lambda work: work.ready_at)
        batch = ready[:1] if ready and ready[0].alone else [w for w in ready if not w.alone]
        if batch := batch[: self._replay_batch]:
            for work in batch:
                work.batch = batch
            self._replaying = True
            self._replay_began = time.monotonic()
            self._todo_again.put(batch)

    def _hand_out_live(self, now: float, unfinished: list[_Work]) -> None:
        while self._running < self._stage.workers:
            ready = [work for work in unfinished if work.batch is None]
            if not ready:
                return
            ready.sort(key=lambda work: work.ready_at)
            batch = ready[:1] if ready[0].alone else [w for w in ready if not w.alone]
            count, weight = 0, 0
            while count < min(len(batch), self._stage.batch) and weight < _BATCH_BYTES:
                weight += batch[count].weight
                count += 1
            batch = batch[:count]
            full = count == self._stage.batch or weight >= _BATCH_BYTES
            waits_to_fill = not full and not batch[0].alone
            if waits_to_fill and now < batch[0].ready_at + self._stage.wait_s:
                return
            for work in batch:
                work.batch = batch
            self._running += 1
            self._todo.put(batch)

    def _work(self, todo: queue.SimpleQueue[list[_Work] | None]) -> None:
        """A worker thread: its results go back one by one, then the end of its batch."""
        if todo is self._todo_again:
            with suppress(OSError, AttributeError):  # of one thread, on Linux only
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _REPLAY_NICE)
        while (batch := todo.get()) is not None:
            ended: BaseException | None = None
            try:
                started = time.monotonic()
                messages = [work.message for work in batch]
                for index, result in process(
                    self._stage, self._codec, messages, self._clock, self._made
                ):
                    self._done.put((batch, batch[index], result))
                self._observer.batch(self._stage.name, len(batch), time.monotonic() - started)
            except BaseException as error:  # the owner of the loop decides, not this thread
                ended = error
            self._done.put((batch, None, ended))

    def _made(self, cause: Envelope[Any], outputs: Sequence[Output]) -> None:
        self._observer.made(self._stage.name, cause, [output.event for output in outputs])

    def _collect(self) -> None:
        """Take in what workers have finished; waits a moment where there is nothing else to do."""
        wait_s = 0.02 if self._busy else 0.0
        while True:
            try:
                batch, work, result = (
                    self._done.get(timeout=wait_s) if wait_s else self._done.get(False)
                )
            except queue.Empty:
                return
            wait_s = 0.0
            if work is None:
                if batch[0].replay:
                    self._replaying = False
                    self._rest()
                else:
                    self._running -= 1
                self._end(batch, result)
            elif work.batch is batch and not work.discarded:
                self._settle(work, result)

    def _rest(self) -> None:
        """Keep replays to their share of the time, while live calls come."""
        now = time.monotonic()
        if now < self._live_at + _LIVE_S:
            worked_s, share = now - self._replay_began, self._policy.replay_share
            self._replay_rests_until = now + min(_LIVE_S, worked_s * (1 / share - 1))

    def _end(self, batch: list[_Work], ended: BaseException | None) -> None:
        """A batch is over; what it left without an answer has failed."""
        if ended is not None and not isinstance(ended, Exception):
            raise ended
        left = [work for work in batch if work.batch is batch and not work.discarded]
        for work in left:
            self._settle(work, ended or RuntimeError("the batch ended without an answer"))
        if ended is not None and not left:
            self._observer.failed(self._stage.name, batch[-1].message, ended, batch[-1].tries)

    def _settle(self, work: _Work, result: list[Record] | Exception) -> None:
        """Decide what becomes of a message."""
        work.batch = None
        name, message = self._stage.name, work.message
        now_ms = self._now_ms()
        if isinstance(result, NotYet):
            moved = retry(name, message, result, now_ms, self._policy)
            if isinstance(moved, Record):
                work.records = [moved]
                self._note(work, failed=False)
                self._observer.retried(name, message, result)
                return
            result = moved
        match result:
            case list():
                work.records = result
                if work.waits:
                    self._wake()
                self._note(work, failed=False)
                self._observer.handled(name, message, len(result))
            case Invalid():
                self._note(work, failed=False)
                self._refuse(work, result, now_ms)
            case Transient():
                work.waits += 1
                work.ready_at = time.monotonic() + self._backoff(work.waits)
                self._observer.waiting(name, result)
            case _:
                work.tries += 1
                work.waits = 0
                work.alone = True
                work.ready_at = time.monotonic() + self._backoff(work.tries)
                self._observer.failed(name, message, result, work.tries)
                if work.tries < self._policy.attempts or self._breaker.open is not None:
                    return
                why = self._note(work, failed=True, what=f"{type(result).__name__}: {result}")
                if why is None:
                    self._refuse(work, result, now_ms)
                else:
                    self._observer.stopped(name, why)

    def _wake(self) -> None:
        """What one message waited for is back: others that wait need not do so to the end."""
        now = time.monotonic()
        for works in self._held.values():
            for work in works:
                if work.waits:
                    work.ready_at = min(work.ready_at, now)

    def _note(self, work: _Work, *, failed: bool, what: str = "") -> str | None:
        """Tell the breaker, but not of replays: what fails of one must not stop live calls."""
        return None if work.replay else self._breaker.note(failed, what)

    def _refuse(self, work: _Work, failure: Exception, now_ms: int) -> None:
        message = work.message
        origin = message.topic
        if from_tier(self._stage, message):
            origin = message.header(h.RETRY_TOPIC) or origin
        # A dead letter that cannot be processed is one already: it stays where it lies.
        work.records = (
            []
            if origin == DEAD_LETTER
            else [dead_letter(self._stage.name, message, failure, now_ms)]
        )
        self._observer.refused(self._stage.name, message, failure)

    def _note_waits(self) -> None:
        """Say so once nothing waits for a dependency any more."""
        down = (
            self._poll_waits > 0
            or self._commit_waits > 0
            or any(
                work.waits > 0 and work.records is None
                for works in self._held.values()
                for work in works
            )
        )
        if self._down and not down:
            self._observer.working(self._stage.name)
        self._down = down

    def _tell_in_hand(self) -> None:
        """Show how much waits here, and since when: once a second, all of it is looked at."""
        now, now_ms = time.monotonic(), self._now_ms()
        if now < self._tell_at:
            return
        self._tell_at = now + 1.0
        # What is not due is late nowhere; what belongs to another stage is nothing to do.
        waiting = [
            work
            for works in self._held.values()
            for work in works
            if work.due_ms <= now_ms and work.records != []
        ]
        kinds: tuple[Kind, Kind] = ("live", "replay")
        for kind in kinds:
            since = [w.message.timestamp_ms for w in waiting if w.replay == (kind == "replay")]
            self._observer.in_hand(self._stage.name, kind, len(since), min(since, default=None))

    def _backoff(self, count: int) -> float:
        doubled = self._policy.backoff_s * 2.0 ** min(count - 1, 16)
        longest = min(self._policy.backoff_max_s, doubled)
        return longest * random.uniform(0.5, 1.0)  # jitter, no secret

    # Committing

    def _commit(self) -> None:
        """Commit, per partition, what is finished without a gap.

        While workers are busy it waits a little for what they finish next: a commit costs the same
        whatever it holds.
        """
        now = time.monotonic()
        if now < self._commit_at:
            return
        finished: list[_Work] = []
        made = 0
        offsets: dict[TopicPartition, int] = {}
        for source, works in self._held.items():
            for work in works:
                full = len(finished) >= self._policy.commit_records or made >= _BATCH_BYTES
                if work.records is None or full:
                    break
                finished.append(work)
                made += work.made
                offsets[source] = work.message.offset + 1
        if not finished:
            self._gathering_since = None
            return
        if self._gathering_since is None:
            self._gathering_since = now
        full = len(finished) >= self._policy.commit_records or made >= _BATCH_BYTES
        gathers = self._running > 0 and not self._stop.is_set() and not full
        if gathers and now < self._gathering_since + self._policy.commit_wait_s:
            return
        self._gathering_since = None
        started = time.monotonic()
        try:
            self._log.commit([r for work in finished for r in work.records or ()], offsets)
        except Lost as lost:
            self._observer.lost(self._stage.name, lost)
            self._observer.uncommitted(self._stage.name, "lost")
            for source in lost.sources:
                for work in self._held.pop(source, ()):
                    work.discarded = True
            return
        except Transient as failure:
            self._commit_waits += 1
            self._commit_at = time.monotonic() + self._backoff(self._commit_waits)
            self._observer.waiting(self._stage.name, failure)
            self._observer.uncommitted(self._stage.name, failure.reason)
            return
        except TooLarge as refused:
            self._observer.uncommitted(self._stage.name, "too_large")
            self._shrink(finished, refused)
            return
        self._commit_waits = 0
        for work in finished:
            works = self._held[work.message.source]
            works.popleft()
            if not works:
                del self._held[work.message.source]
        self._observer.committed(self._stage.name, len(finished), time.monotonic() - started)

    def _shrink(self, finished: list[_Work], refused: TooLarge) -> None:
        """Dead-letter what the log will never take; of a letter that it does not take, say where
        the original lies.
        """
        record = refused.record
        for work in finished:
            if not any(made is record for made in work.records or ()):
                continue
            if record.topic != DEAD_LETTER:
                self._refuse(work, Invalid("too_large", str(refused)), self._now_ms())
                return
            if record.value is not None:
                work.records = [without_body(record)]
                return
        raise refused
