"""The loop over the embedded log: nothing lost, nothing twice, nobody held up, whatever fails.

Every test runs the loop in its own thread, until a condition seen from outside holds.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import events as e
from schemas.examples import EXAMPLES
from schemas.topics import DEAD_LETTER, ENDED, ERASED, RECORDED, RETRY_TIERS, TOPICS
from services.runtime import headers as h
from services.runtime import loop
from services.runtime.codec import Codec, FolderRegistry
from services.runtime.errors import Invalid, NotYet, Transient
from services.runtime.log import Log, Message, Record, TooLarge, TopicPartition, partition_for
from services.runtime.loop import run
from services.runtime.observe import Observer
from services.runtime.process import dead_letter, process, retry, topics_of
from services.runtime.settings import Policy
from services.runtime.sqlite_log import Database, SqliteLog, SqliteView
from services.runtime.stage import Envelope, Handle, Outcome, Output, Stage, each

PARTITIONS = 3
NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
HAPPY: e.CallEnded = EXAMPLES["CallEnded"]["happy"]
FAST = Policy(backoff_s=0.001, backoff_max_s=0.004, grace_s=5.0, breaker_in_a_row=1000,
              breaker_share=1.0)  # fmt: skip


def fast(**changes: Any) -> Policy:
    """`FAST` with changes."""
    return Policy(**(FAST.model_dump() | changes))


LONGEST_S = 30.0


class Crash(BaseException):
    """The process dies here."""


@dataclass
class Clock:
    """Says what it is told."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Watched:
    """A log that stops its loop once a condition holds, looked at before every poll.

    It waits for less than it is asked to: what changes here is the clock of the test.
    """

    def __init__(self, log: Log, stop: threading.Event, done: Callable[[], bool]) -> None:
        self._log, self._stop, self._done = log, stop, done
        self._deadline = time.monotonic() + LONGEST_S
        self.waits: list[float] = []
        self.closed = False

    def messages(
        self, limit: int, wait_s: float, hold: Collection[TopicPartition] = ()
    ) -> list[Message]:
        if self._done():
            self._stop.set()
        if not self._stop.is_set() and time.monotonic() > self._deadline:
            raise AssertionError(f"what was waited for did not come within {LONGEST_S} s")
        self.waits.append(wait_s)
        return self._log.messages(limit, min(wait_s, 0.005), hold)

    def commit(self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]) -> None:
        self._log.commit(records, offsets)

    def lease(self, source: TopicPartition) -> int | None:
        return self._log.lease(source)

    def close(self) -> None:
        self.closed = True
        self._log.close()


class World:
    """A log in memory with every topic, and what an onlooker sees of it."""

    def __init__(self, partitions: int = PARTITIONS) -> None:
        self.database = Database(None)
        self.view = SqliteView(self.database)
        self.partitions = partitions
        self.view.create({topic.name: partitions for topic in TOPICS})
        self.codec = Codec(FolderRegistry())
        self.observer = Observer()
        self.clock = Clock()
        self.sent: list[str] = []
        self._writer = SqliteLog(self.database)

    def send(self, *calls: str, headers: tuple[tuple[str, bytes], ...] = ()) -> None:
        """Calls that ended, in this order."""
        records = []
        for call in calls:
            event = replace(HAPPY, call_id=call, event_id=f"evt-{call}")
            record = self.codec.encode(event, id=f"id-{call}", source="/test", time=NOW)
            records.append(replace(record, headers=(*record.headers, *headers)))
        self.write(*records)
        self.sent += calls

    def write(self, *records: Record) -> None:
        self._writer.commit(records, {})

    def calls_on(self, partition: int, count: int, prefix: str = "c") -> list[str]:
        """Names of calls whose key belongs to `partition`."""
        found: list[str] = []
        number = 0
        while len(found) < count:
            name = f"{prefix}{number}"
            if partition_for(f"acme/{name}".encode(), self.partitions) == partition:
                found.append(name)
            number += 1
        return found

    def run(
        self,
        stage: Stage,
        done: Callable[[], bool] | None = None,
        policy: Policy = FAST,
        wrap: Callable[[Log], Log] = lambda log: log,
        stop: threading.Event | None = None,
    ) -> Watched:
        """Run `stage` until `done` (by default until it has read all there is)."""
        stop = stop or threading.Event()
        log = SqliteLog(self.database, stage.name, topics_of(stage))
        done = done or (lambda: self.drained(stage))
        watched = Watched(wrap(log), stop, done)
        run(stage, watched, self.codec, stop, self.observer, policy, self.clock)
        assert watched.closed
        return watched

    def drained(self, stage: Stage, *topics: str) -> bool:
        """Whether the stage's group has committed all of `topics`, by default of all it reads."""
        committed = self.view.committed(stage.name)
        return all(
            committed.get(TopicPartition(topic, partition), 0) == end
            for topic in topics or topics_of(stage)
            for partition, (_, end) in self.view.ends(topic).items()
        )

    def scan(self, topic: str) -> list[Message]:
        return list(self.view.scan(topic))

    def copied(self) -> list[str]:
        """Calls that the copying stage has written, partition by partition in order."""
        return [self.codec.decode(message).event.call_id for message in self.scan(ERASED)]

    def dead(self) -> list[str]:
        return [call_of(message) for message in self.scan(DEAD_LETTER)]

    def waiting(self) -> list[Message]:
        """What lies in the retry tiers, read or not."""
        return [message for tier in RETRY_TIERS for message in self.scan(tier.topic)]

    def in_order(self, calls: Iterable[str]) -> list[str]:
        """`calls` as an onlooker sees them who reads one partition after the other."""
        wanted = Counter(calls)
        return sorted(
            (call for call in self.sent if wanted[call]),
            key=lambda call: partition_for(f"acme/{call}".encode(), self.partitions),
        )

    def unready(self, stage: Stage) -> str | None:
        return self.observer.readiness().get(stage.name)


@pytest.fixture
def world() -> World:
    return World()


def call_of(message: Message) -> str:
    return (message.key or b"").decode().partition("/")[2]


def copy(envelope: Envelope[e.CallEnded]) -> list[Output]:
    call = envelope.event
    return [
        Output(
            e.CallErased(
                tenant_id=call.tenant_id, call_id=call.call_id, erased_at=call.ended_at,
                requested_by=envelope.id,
            )
        )
    ]  # fmt: skip


def stage(handle: Handle | None = None, **changes: Any) -> Stage:
    """A stage that reads ended calls and writes one erasure each."""
    made = Stage("copy", (ENDED,), (ERASED,), handle or each(copy))
    return replace(made, **changes)


def on(outcomes: Mapping[str, Callable[[], object]]) -> Handle:
    """Copies, but calls what stands under a call's name first."""

    def handle_one(envelope: Envelope[e.CallEnded]) -> list[Output]:
        outcomes.get(envelope.event.call_id, lambda: None)()
        return copy(envelope)

    return each(handle_one)


def raises(failure: BaseException, times: int = 1 << 30) -> Callable[[], None]:
    left = [times]

    def call() -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise failure

    return call


CALLS = [f"call-{number}" for number in range(40)]


# What the log refuses


@dataclass
class Narrow:
    """A log that takes no value of `limit` bytes or more."""

    log: Log
    limit: int

    def __post_init__(self) -> None:
        self.messages, self.lease, self.close = self.log.messages, self.log.lease, self.log.close

    def commit(self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]) -> None:
        for record in records:
            if len(record.value or b"") >= self.limit:
                raise TooLarge(record, f"{len(record.value or b'')} bytes")
        self.log.commit(records, offsets)


def test_what_the_log_refuses_for_ever_is_dead_lettered_and_the_others_go_on(world: World) -> None:
    def large(envelope: Envelope[e.CallEnded]) -> list[Output]:
        (output,) = copy(envelope)
        if envelope.event.call_id == "call-3":
            output = Output(replace(output.event, requested_by="x" * 10_000))
        return [output]

    world.send(*CALLS)
    world.run(stage(each(large), batch=10), wrap=lambda log: Narrow(log, 10_000))
    assert world.copied() == [call for call in world.in_order(CALLS) if call != "call-3"]
    (letter,) = world.scan(DEAD_LETTER)
    (sent,) = [message for message in world.scan(ENDED) if call_of(message) == "call-3"]
    assert (call_of(letter), letter.value) == ("call-3", sent.value)
    assert letter.header(h.DEAD_REASON) == "too_large"


def test_a_dead_letter_that_the_log_refuses_says_where_its_original_lies(world: World) -> None:
    world.send("a")
    world.write(Record(ENDED, b"acme/huge", b"\xff" * 10_000, (("x", b"y" * 10_000),)))
    world.send("b")
    world.run(stage(), wrap=lambda log: Narrow(log, 10_000))
    assert sorted(world.copied()) == ["a", "b"]
    (letter,) = world.scan(DEAD_LETTER)
    (sent,) = [message for message in world.scan(ENDED) if call_of(message) == "huge"]
    assert (call_of(letter), letter.value, letter.header("x")) == ("huge", None, None)
    assert letter.header(h.DEAD_REASON) == "not_framed"
    assert letter.header(h.ERROR_TOPIC) == ENDED
    assert letter.header(h.ERROR_PARTITION) == str(sent.partition)
    assert letter.header(h.ERROR_OFFSET) == str(sent.offset)


# Bounds in bytes


def test_a_batch_of_large_calls_closes_early(world: World) -> None:
    sizes: list[int] = []

    def handle(envelopes: Sequence[Envelope[Any]]) -> Iterable[tuple[int, Outcome]]:
        sizes.append(len(envelopes))
        return [(index, ()) for index in range(len(envelopes))]

    # Bodies that lie in the object store; nobody fetches them here.
    world.send(*CALLS, headers=((h.DATAREF, b"claims/00/none"),))
    world.run(stage(handle, batch=1000, wait_s=3600.0, passes_undecodable=True))
    assert sum(sizes) == len(CALLS)
    assert max(sizes) == 8


def test_commits_are_bounded_in_bytes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_BATCH_BYTES", 1_000)
    sizes: list[int] = []

    class Sizes(Narrow):
        def commit(self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]) -> None:
            sizes.append(sum(len(record.value or b"") for record in records))
            self.log.commit(records, offsets)

    def large(envelope: Envelope[e.CallEnded]) -> list[Output]:
        (output,) = copy(envelope)
        return [Output(replace(output.event, requested_by="x" * 400))]

    world.send(*CALLS)
    world.run(stage(each(large), batch=40), wrap=lambda log: Sizes(log, 0))
    assert Counter(world.copied()) == Counter(CALLS)
    assert max(sizes) < 1_000 + 600


def test_what_is_held_is_bounded_in_bytes(world: World) -> None:
    """Nothing is ever finished, so what was read is what is held."""
    world.send(*(f"c{number}" for number in range(200)), headers=((h.DATAREF, b"claims/00/none"),))
    release = threading.Event()
    read: list[int] = []

    class Reads(Narrow):
        def __post_init__(self) -> None:
            self.lease, self.close = self.log.lease, self.log.close

        def messages(
            self, limit: int, wait_s: float, hold: Collection[TopicPartition] = ()
        ) -> list[Message]:
            found = self.log.messages(limit, wait_s, hold)
            read.append(len(found))
            return found

    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        release.wait(LONGEST_S)
        return []

    def done() -> bool:
        if len(read) == 30:
            assert sum(read) <= 8 + 16  # what is enough, and one poll
            release.set()
        return len(read) > 30

    reading = stage(each(handle_one), batch=4, passes_undecodable=True)
    world.run(reading, done, fast(in_flight=64), lambda log: Reads(log, 0))
    assert sum(read) >= 8


# Nothing lost, nothing twice


@pytest.mark.parametrize(("batch", "workers"), [(1, 1), (4, 1), (3, 3), (100, 2)])
def test_every_message_is_copied_once_and_in_order(world: World, batch: int, workers: int) -> None:
    world.send(*CALLS)
    copying = stage(batch=batch, workers=workers)
    world.run(copying)
    assert world.copied() == world.in_order(CALLS)
    assert world.scan(DEAD_LETTER) == world.waiting() == []
    ends = {
        TopicPartition(ENDED, partition): end
        for partition, (_, end) in world.view.ends(ENDED).items()
        if end
    }
    assert world.view.committed("copy") == ends


def test_outputs_carry_what_caused_them(world: World) -> None:
    world.send("a")
    world.run(stage())
    (message,) = world.scan(ERASED)
    envelope = world.codec.decode(message)
    assert envelope.causation_id == envelope.event.requested_by == "id-a"
    assert (envelope.time, message.header(h.SOURCE)) == (NOW, "/callstream/copy")
    assert envelope.traceparent is not None
    (again,) = _records(process(stage(), world.codec, world.scan(ENDED), world.clock))
    assert (again.value, again.headers) == (message.value, message.headers)


def test_a_trace_goes_on(world: World) -> None:
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    world.send("a", headers=((h.TRACEPARENT, trace.encode()),))
    world.run(stage())
    made = world.codec.decode(world.scan(ERASED)[0]).traceparent
    assert made is not None
    assert made.split("-")[1] == "a" * 32
    assert made != trace


def _records(results: Iterable[tuple[int, list[Record] | Exception]]) -> list[Record]:
    found = []
    for _, result in results:
        assert isinstance(result, list)
        found += result
    return found


@dataclass
class Crashing:
    """A log whose process dies at the n-th call of a method, before or after it had its effect."""

    log: Log
    method: str
    at: int
    after: bool
    calls: int = 0

    def _step(self, method: str, after: bool) -> None:
        if method == self.method:
            self.calls += not after
            if self.calls == self.at and after == self.after:
                raise Crash

    def messages(
        self, limit: int, wait_s: float, hold: Collection[TopicPartition] = ()
    ) -> list[Message]:
        self._step("messages", after=False)
        found = self.log.messages(limit, wait_s, hold)
        self._step("messages", after=True)
        return found

    def commit(self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]) -> None:
        self._step("commit", after=False)
        self.log.commit(records, offsets)
        self._step("commit", after=True)

    def lease(self, source: TopicPartition) -> int | None:
        return self.log.lease(source)

    def close(self) -> None:
        self.log.close()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 5))
@pytest.mark.parametrize("method", ["messages", "commit"])
def test_a_crash_between_poll_and_commit_loses_and_repeats_nothing(
    world: World, method: str, at: int, after: bool
) -> None:
    world.send(*CALLS)
    copying = stage(on({"call-7": raises(Invalid("bad", "always")),
                        "call-9": raises(NotYet("later", "always"))}),
                    batch=2, workers=2)  # fmt: skip
    few = fast(commit_records=3)
    with pytest.raises(Crash):
        world.run(copying, policy=few, wrap=lambda log: Crashing(log, method, at, after))
    world.run(copying, lambda: world.drained(copying, ENDED), policy=few)
    others = [call for call in CALLS if call not in ("call-7", "call-9")]
    assert world.copied() == world.in_order(others)
    assert world.dead() == ["call-7"]
    assert [call_of(message) for message in world.waiting()] == ["call-9"]


def test_a_handler_that_dies_in_the_middle_of_a_batch(world: World) -> None:
    world.send(*CALLS)
    died: list[str] = []

    def handle(envelopes: Sequence[Envelope[Any]]) -> Iterable[tuple[int, Outcome]]:
        for index, envelope in enumerate(envelopes):
            if index == 3 and not died:
                died.append(envelope.event.call_id)
                raise Crash
            yield index, copy(envelope)

    copying = stage(handle, batch=8)
    with pytest.raises(Crash):
        world.run(copying)
    assert died
    world.run(copying)
    assert world.copied() == world.in_order(CALLS)


@pytest.mark.parametrize("times", [1, 3])
def test_a_log_that_is_down_for_a_while_is_waited_for(world: World, times: int) -> None:
    """Also by a stage that then has nothing to do: it is ready again once the log answers."""
    seen: list[str | None] = []

    class Down:
        def __init__(self, log: Log) -> None:
            self._log = log
            self._polls, self._commits = times, times
            self.lease, self.close = log.lease, log.close

        def messages(
            self, limit: int, wait_s: float, hold: Collection[TopicPartition] = ()
        ) -> list[Message]:
            seen.append(world.unready(stage()))
            self._polls -= 1
            if self._polls >= 0:
                raise Transient("log_down", "no broker")
            return self._log.messages(limit, wait_s, hold)

        def commit(self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]) -> None:
            self._commits -= 1
            if self._commits >= 0:
                raise Transient("log_down", "no broker")
            self._log.commit(records, offsets)

    copying = stage()
    world.run(copying, lambda: len(seen) > times and seen[-1] is None, wrap=Down)
    assert any(reason is not None and "no broker" in reason for reason in seen)

    world.send(*CALLS)
    world.run(copying, lambda: world.drained(copying) and seen[-1] is None, wrap=Down)
    assert world.copied() == world.in_order(CALLS)


# What can never succeed


def test_invalid_is_dead_lettered_with_its_bytes_untouched(world: World) -> None:
    world.send("a", "bad", "b", headers=(("x-platform", b"\xff\0"),))
    world.run(stage(on({"bad": raises(Invalid("too_odd", "that call is odd"))}), batch=10))
    assert world.copied() == world.in_order(["a", "b"])
    (dead,) = world.scan(DEAD_LETTER)
    (original,) = [m for m in world.scan(ENDED) if call_of(m) == "bad"]
    assert (dead.key, dead.value) == (original.key, original.value)
    assert dead.headers[: len(original.headers)] == original.headers
    added = dict(dead.headers[len(original.headers) :])
    trace = added.pop(h.ERROR_TRACE)
    assert b"too_odd" in trace
    assert added == {
        h.ERROR_TOPIC: b"calls.ended",
        h.ERROR_PARTITION: str(original.partition).encode(),
        h.ERROR_OFFSET: str(original.offset).encode(),
        h.ERROR_STAGE: b"copy",
        h.ERROR_CLASS: b"services.runtime.errors.Invalid",
        h.ERROR_MESSAGE: b"too_odd: that call is odd",
        h.DEAD_REASON: b"too_odd",
        h.DEAD_ATTEMPT: b"0",
        h.DEAD_AT_MS: b"1772445600000",
    }


def test_what_cannot_be_decoded_is_dead_lettered_too(world: World) -> None:
    world.send("a")
    world.write(
        Record(ENDED, b"acme/garbage", b"\xff\xfe"),
        Record(ENDED, None, None),
        Record(ENDED, b"acme/a", b"\0\0\0\0\x01"),
    )
    world.run(stage(batch=10))
    assert world.copied() == ["a"]
    assert sorted((m.key, m.value) for m in world.scan(DEAD_LETTER) if m.key) == [
        (b"acme/a", b"\0\0\0\0\x01"),
        (b"acme/garbage", b"\xff\xfe"),
    ]
    assert len(world.scan(DEAD_LETTER)) == 3


def test_a_stage_may_ask_for_what_cannot_be_decoded(world: World) -> None:
    problems: list[str] = []

    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        if envelope.problem is None:
            return copy(envelope)
        assert envelope.event is envelope.message
        problems.append(envelope.problem.reason)
        return []

    world.send("a")
    world.write(Record(ENDED, b"acme/garbage", b"\xff\xfe"))
    world.run(stage(each(handle_one), passes_undecodable=True, batch=10))
    assert problems == ["not_framed"]
    assert world.copied() == ["a"]
    assert world.dead() == []


def test_a_dead_letter_that_cannot_be_processed_stays_the_only_one(world: World) -> None:
    """A stage that reads dead letters and refuses one would else read it for ever."""
    clock = world.clock
    world.write(
        Record(DEAD_LETTER, b"acme/a", b"x"), Record(DEAD_LETTER, b"acme/b", b"y"),
        Record(DEAD_LETTER, b"acme/c", b"z"),
    )  # fmt: skip
    failures: dict[str, Exception] = {
        "a": Invalid("odd", "odd"),
        "b": KeyError("odd"),
        "c": NotYet("later", "later"),
    }

    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        raise failures[call_of(envelope.message)]

    reading = stage(each(handle_one), sources=(DEAD_LETTER,))

    def done() -> bool:
        clock.forward(7200)
        return world.drained(reading)

    world.run(reading, done, fast(patience_s=3600))
    assert sorted(world.dead()) == ["a", "b", "c"]


# What fails unexpectedly


def test_an_unexpected_failure_is_tried_again(world: World) -> None:
    world.send(*CALLS)
    world.run(stage(on({"call-3": raises(KeyError("x"), times=2)}), batch=10))
    assert world.copied() == world.in_order(CALLS)
    assert world.dead() == []


def test_after_its_attempts_it_is_dead_lettered_with_its_traceback(world: World) -> None:
    world.send(*CALLS)
    world.run(stage(on({"call-3": raises(KeyError("x"), times=3)}), batch=10))
    assert world.copied() == world.in_order(c for c in CALLS if c != "call-3")
    (dead,) = world.scan(DEAD_LETTER)
    assert dead.header(h.DEAD_REASON) == "unexpected"
    assert dead.header(h.ERROR_CLASS) == "builtins.KeyError"
    assert "test_loop.py" in (dead.header(h.ERROR_TRACE) or "")


def test_one_poisonous_message_harms_no_other_of_its_batch(world: World) -> None:
    """The whole batch fails with it; then each is tried alone."""

    def handle(envelopes: Sequence[Envelope[Any]]) -> Iterable[tuple[int, Outcome]]:
        if any(envelope.event.call_id == "call-3" for envelope in envelopes):
            raise ValueError("poison")
        return [(index, copy(envelope)) for index, envelope in enumerate(envelopes)]

    world.send(*CALLS)
    world.run(stage(handle, batch=50))
    assert world.copied() == world.in_order(c for c in CALLS if c != "call-3")
    assert world.dead() == ["call-3"]


def _twice(index: int, envelope: Envelope[Any]) -> Iterable[tuple[int, Any]]:
    yield index, copy(envelope)
    yield index, copy(envelope)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda index, envelope: [], id="none"),
        pytest.param(lambda index, envelope: [(index + 1000, [])], id="another number"),
        pytest.param(lambda index, envelope: [(-1, [])], id="a negative number"),
        pytest.param(lambda index, envelope: [(index, None)], id="nothing"),
        pytest.param(lambda index, envelope: [None], id="no pair"),
        pytest.param(lambda index, envelope: [([], [])], id="a list for a number"),
        pytest.param(lambda index, envelope: [(index, ["text"])], id="no output"),
        pytest.param(lambda index, envelope: [(index, [Output("text")])], id="no event"),
        pytest.param(
            lambda index, envelope: [(index, [Output(EXAMPLES["CallRecorded"]["happy"])])],
            id="a topic that is no target",
        ),
        pytest.param(
            lambda index, envelope: [
                (index, [Output(replace(copy(envelope)[0].event, call_id=""))])
            ],
            id="an event that means nothing",
        ),
    ],
)
def test_a_wrong_answer_is_a_failure_and_hangs_nothing(world: World, answer: Any) -> None:
    def handle(envelopes: Sequence[Envelope[Any]]) -> Iterable[tuple[int, Outcome]]:
        for index, envelope in enumerate(envelopes):
            if envelope.event.call_id == "call-3":
                yield from answer(index, envelope)
            else:
                yield index, copy(envelope)

    world.send(*CALLS)
    world.run(stage(handle, batch=5))
    assert world.copied() == world.in_order(c for c in CALLS if c != "call-3")
    assert world.dead() == ["call-3"]


def test_an_answer_given_twice_counts_once(world: World) -> None:
    def handle(envelopes: Sequence[Envelope[Any]]) -> Iterable[tuple[int, Outcome]]:
        for index, envelope in enumerate(envelopes):
            yield from _twice(index, envelope)

    world.send(*CALLS)
    world.run(stage(handle, batch=5))
    assert world.copied() == world.in_order(CALLS)
    assert b"callstream_failures_total" in world.observer.exposition()


def test_a_surprise_while_decoding_kills_no_worker(world: World) -> None:
    class Surprising(Codec):
        def decode(self, message: Message) -> Envelope[Any]:
            if call_of(message) == "call-3":
                raise RecursionError("too deep")
            return super().decode(message)

    world.codec = Surprising(FolderRegistry())
    world.send(*CALLS)
    world.run(stage(batch=5))
    world.codec = Codec(FolderRegistry())
    assert world.copied() == world.in_order(c for c in CALLS if c != "call-3")
    assert world.dead() == ["call-3"]


def test_an_error_that_names_what_is_no_text_is_dead_lettered(world: World) -> None:
    world.send("a", "b", "c")
    world.run(
        stage(
            on({"a": raises(OSError(2, "no such file", "caf\udce9.wav")),
                "b": raises(Invalid("not_audio", "caf\udce9.wav")),
                "c": raises(NotYet("later", "caf\udce9.wav"))})
        ),
        lambda: world.drained(stage(), ENDED),
    )  # fmt: skip
    assert sorted(world.dead()) == ["a", "b"]
    assert [call_of(message) for message in world.waiting()] == ["c"]


def test_headers_stay_small_whatever_an_error_says(world: World) -> None:
    message = Message(ENDED, 0, 0, b"acme/a", b"v", (), 0)
    endless = "语" * 1_000_000
    records = [
        dead_letter("copy", message, Invalid("bad", endless), 0),
        dead_letter("copy", message, ValueError(endless), 0),
        retry("copy", message, NotYet("later", endless), 0, FAST),
    ]
    for record in records:
        assert isinstance(record, Record)
        assert sum(len(name) + len(value) for name, value in record.headers) < 90_000


# What our own dependencies hold up


def test_a_dependency_that_is_down_is_waited_for(world: World) -> None:
    down = Transient("objects_down", "no answer")
    healthy = threading.Event()
    waits: list[bool] = []

    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        if not healthy.is_set():
            raise down
        return copy(envelope)

    copying = stage(each(handle_one), batch=4)

    def done() -> bool:
        reason = world.unready(copying)
        if reason is not None and not healthy.is_set():
            assert "objects_down" in reason
            assert world.view.committed("copy") == {}
            waits.append(True)
            if len(waits) > 20:
                healthy.set()
        return world.drained(copying) and world.unready(copying) is None

    world.send(*CALLS)
    world.run(copying, done, fast(attempts=1, breaker_in_a_row=1))
    assert len(waits) > 20
    assert world.copied() == world.in_order(CALLS)
    assert world.dead() == []


def test_all_that_waited_go_on_once_one_of_them_has(world: World) -> None:
    """Each has a wait of its own, and all but one last longer than this test."""
    calls, failed = CALLS[:6], set[str]()

    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        if len(failed) < len(calls):
            failed.add(envelope.event.call_id)
            raise Transient("objects_down", "no answer")
        return copy(envelope)

    def backoff(_: loop._Loop, count: int) -> float:
        return 0.05 if len(failed) == len(calls) else 3_600.0

    world.send(*calls)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Loop, "_backoff", backoff)
        world.run(stage(each(handle_one)))
    assert world.copied() == world.in_order(calls)


def test_what_another_batch_has_taken_over_is_not_ended_with_its_first(world: World) -> None:
    """One of a batch waits and is tried again while the others of that batch are at work."""
    taken_over, over = threading.Event(), threading.Event()
    handled: Counter[str] = Counter()

    def handle(envelopes: Sequence[Envelope[Any]]) -> Iterator[tuple[int, Any]]:
        for index, envelope in enumerate(envelopes):
            call = envelope.event.call_id
            handled[call] += 1
            if call != "first":
                assert taken_over.wait(20)
                yield index, copy(envelope)
                over.set()
            elif handled[call] == 1:
                yield index, Transient("objects_down", "no answer")
            else:
                taken_over.set()
                assert over.wait(20)
                time.sleep(0.3)  # the first batch ends meanwhile
                yield index, copy(envelope)

    source = partition_for(b"acme/first", PARTITIONS)
    second = world.calls_on(source, 1)[0]
    world.send("first", second)
    world.run(stage(handle, batch=2, workers=2), policy=fast(attempts=1))
    assert handled == {"first": 2, second: 1}
    assert world.dead() == []
    assert world.copied() == world.in_order(["first", second])


def test_a_store_that_is_down_while_encoding_is_waited_for(world: World) -> None:
    class Full(Codec):
        left = 5

        def encode(self, event: Any, **named: Any) -> Record:
            Full.left -= 1
            if Full.left >= 0:
                raise Transient("objects_down", "no answer")
            return super().encode(event, **named)

    world.send(*CALLS)
    world.codec = Full(FolderRegistry())
    world.run(stage())
    assert world.copied() == world.in_order(CALLS)
    assert world.dead() == []


# What must wait


def test_a_call_that_must_wait_comes_back_when_it_is_due(world: World) -> None:
    ready = threading.Event()
    attempts: list[int] = []

    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        if envelope.event.call_id == "late" and not ready.is_set():
            attempts.append(envelope.attempt)
            raise NotYet("recording_pending", "the platform has none yet")
        return copy(envelope)

    copying = stage(each(handle_one))
    behind = world.calls_on(partition_for(b"acme/late", PARTITIONS), 3)
    world.send("late", *behind)
    world.run(copying, lambda: world.drained(copying, ENDED))
    assert world.copied() == world.in_order(behind), "it holds up nobody"
    (waiting,) = world.waiting()
    (original,) = [m for m in world.scan(ENDED) if call_of(m) == "late"]
    assert (waiting.topic, waiting.key, waiting.value) == (
        "calls.retry.1m", original.key, original.value,
    )  # fmt: skip
    assert waiting.headers[: len(original.headers)] == original.headers
    added = dict(waiting.headers[len(original.headers) :])
    assert added[h.RETRY_STAGE] == b"copy"
    assert added[h.RETRY_REASON] == b"recording_pending"
    assert added[h.RETRY_DETAIL] == b"the platform has none yet"
    assert added[h.RETRY_DUE_MS] == str(1772445600000 + 60_000).encode()
    assert added[h.RETRY_ATTEMPT] == b"1"
    assert added[h.RETRY_FIRST_MS] == b"1772445600000"
    assert added[h.RETRY_TOPIC] == b"calls.ended"

    rounds = iter(range(1 << 30))
    ready.set()

    def done() -> bool:
        number = next(rounds)
        if number < 10:
            assert "late" not in world.copied(), "not before it is due"
        if number == 10:
            world.clock.forward(61)
        return world.drained(copying)

    world.run(copying, done)
    assert sorted(world.copied()) == sorted(["late", *behind])
    assert attempts == [0]


def test_a_stage_that_reads_the_tiers_waits_for_its_own_calls_and_for_no_others(
    world: World,
) -> None:
    """As the sink does: it archives what waits for others at once, and handles what is due."""
    tier = RETRY_TIERS[0].topic
    due_ms = b"%d" % (round(NOW.timestamp() * 1000) + 60_000)
    world.send("mine", "others")
    for message in world.scan(ENDED):
        name = b"copy" if call_of(message) == "mine" else b"ingest"
        waits = ((h.RETRY_STAGE, name), (h.RETRY_TOPIC, b"calls.ended"), (h.RETRY_DUE_MS, due_ms))
        world.write(Record(tier, message.key, message.value, (*message.headers, *waits)))
    seen: list[tuple[str, str, datetime]] = []

    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        seen.append((type(envelope.event).__name__, envelope.message.topic, world.clock.now))
        return []

    reading = stage(each(handle_one), sources=(tier, ENDED))

    def done() -> bool:
        if len(seen) == 3:
            world.clock.forward(61)
        return world.drained(reading)

    world.run(reading, done)
    later = [(event, topic) for event, topic, when in seen if when > NOW]
    assert sorted((event, topic) for event, topic, when in seen if when == NOW) == [
        ("CallEnded", ENDED), ("CallEnded", ENDED), ("Message", tier),
    ]  # fmt: skip
    assert later == [("CallEnded", tier)]


def test_another_stages_calls_are_left_to_it(world: World) -> None:
    world.send("late")
    late = {"late": raises(NotYet("later", "later"))}
    world.run(stage(on(late)), lambda: bool(world.waiting()))
    other = stage(name="other", sources=(RECORDED,))
    world.run(other)
    assert world.copied() == []
    assert world.dead() == []
    tier = TopicPartition("calls.retry.1m", world.waiting()[0].partition)
    assert world.view.committed("other")[tier] == 1
    assert tier not in world.view.committed("copy")


def test_the_waiting_hold_up_nobody_however_many_they_are(world: World) -> None:
    """More than fit in memory wait for an hour in every tier; a live call goes through at once."""
    late = [f"late-{number}" for number in range(120)]
    handle = on({call: raises(NotYet("later", "later", after_s=3600)) for call in late})
    few = fast(in_flight=4)
    world.send(*late)
    world.run(stage(handle), lambda: world.drained(stage(), ENDED), few)
    assert len(world.waiting()) == 120
    rounds = iter(range(1 << 30))

    def done() -> bool:
        number = next(rounds)
        if number in (10, 20):
            world.send(f"live-{number}")
        return number > 20 and len(world.copied()) == 2

    world.run(stage(handle), done, few)
    assert sorted(world.copied()) == ["live-10", "live-20"]


def test_patience_has_an_end_and_the_dead_letter_tells_the_story(world: World) -> None:
    world.send("first", "late")
    copying = stage(on({"late": raises(NotYet("recording_pending", "none yet"))}))
    patient = fast(patience_s=7200.0, tier_tries=2)

    def done() -> bool:
        if len(world.waiting()) > sum(
            world.view.committed("copy").get(TopicPartition(tier.topic, partition), 0)
            for tier in RETRY_TIERS
            for partition in range(PARTITIONS)
        ):
            world.clock.forward(61)
        return world.drained(copying)

    world.run(copying, done, patient)
    (dead,) = world.scan(DEAD_LETTER)
    (original,) = [m for m in world.scan(ENDED) if call_of(m) == "late"]
    assert (dead.key, dead.value) == (original.key, original.value)
    assert dead.header(h.DEAD_REASON) == "recording_pending"
    assert dead.header(h.ERROR_TOPIC) == ENDED
    assert dead.header(h.ERROR_PARTITION) == str(original.partition)
    assert dead.header(h.ERROR_OFFSET) == str(original.offset)
    story = dead.header(h.ERROR_MESSAGE) or ""
    assert "patience 7200 s" in story
    assert "1. at 1772445600000: recording_pending: none yet" in story
    topics = Counter(message.topic for message in world.waiting())
    assert topics["calls.retry.1m"] == topics["calls.retry.10m"] == 2
    assert topics["calls.retry.1h"] >= 1
    assert int(dead.header(h.DEAD_ATTEMPT) or 0) == topics.total()


@pytest.mark.parametrize(
    ("after_s", "topic"),
    [(None, "calls.retry.1m"), (0.0, "calls.retry.1m"), (60.0, "calls.retry.1m"),
     (61.0, "calls.retry.10m"), (700.0, "calls.retry.1h"), (1e9, "calls.retry.1h"),
     (float("inf"), "calls.retry.1h")],
)  # fmt: skip
def test_the_tier_is_the_first_that_waits_long_enough(after_s: float | None, topic: str) -> None:
    message = Message(ENDED, 1, 2, b"acme/a", b"v", (), 0)
    moved = retry("copy", message, NotYet("later", "later", after_s), 0, FAST)
    assert isinstance(moved, Record)
    assert moved.topic == topic


_FORGED = st.sampled_from([b"", b"x", b"-5", b"9" * 18, b"9" * 400, "٣".encode(), b"\xff", b"1e9"])


@given(
    st.dictionaries(
        st.sampled_from(
            [h.RETRY_DUE_MS, h.RETRY_FIRST_MS, h.RETRY_HISTORY, h.RETRY_STAGE, h.RETRY_TOPIC,
             "callstream.retry.partition", "callstream.retry.offset"]
        ),
        _FORGED,
    )
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_forged_retry_headers_stop_nothing(forged: dict[str, bytes]) -> None:
    """On a live topic they are not believed; in a tier the worst is a dead letter."""
    world = World()
    world.send("late", headers=tuple(forged.items()))
    world.send("a")
    copying = stage(on({"late": raises(NotYet("later", "later"), times=1)}))
    world.run(copying, lambda: world.drained(copying, ENDED))
    assert world.copied() == ["a"]
    (waiting,) = world.waiting()
    assert waiting.header(h.RETRY_ATTEMPT) == "1"
    assert waiting.header(h.RETRY_TOPIC) == ENDED

    tier = Record(
        "calls.retry.1h", waiting.key, waiting.value,
        (*waiting.headers, *forged.items(), (h.RETRY_STAGE, b"copy")),
    )  # fmt: skip
    world.write(tier)
    forward = iter([0.0] * 3)

    def done() -> bool:
        world.clock.forward(next(forward, 3601))
        return world.drained(copying)

    world.run(copying, done)
    assert len(world.copied()) + len(world.dead()) == 3


def test_a_call_of_a_topic_that_its_stage_does_not_read(world: World) -> None:
    world.write(
        Record("calls.retry.1m", b"acme/a", b"v",
               ((h.RETRY_STAGE, b"copy"), (h.RETRY_TOPIC, b"calls.recorded")))
    )  # fmt: skip
    world.run(stage())
    (dead,) = world.scan(DEAD_LETTER)
    assert dead.header(h.DEAD_REASON) == "bad_header"
    assert "calls.recorded" in (dead.header(h.ERROR_MESSAGE) or "")


def test_a_policy_needs_a_delay_for_each_tier() -> None:
    with pytest.raises(ValueError, match=r"2 delays, there are 3 retry tiers: calls\.retry"):
        Policy(tier_delays_s=(1.0, 2.0))


# The breaker


def test_failures_in_a_row_stop_the_stage_and_keep_its_offsets(world: World) -> None:
    broken = [True]

    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        if broken[0]:
            raise TypeError("a bug of ours")
        return copy(envelope)

    copying = stage(each(handle_one))
    world.send(*CALLS)
    policy = fast(breaker_in_a_row=4, attempts=2)
    calm: list[float] = []

    def stopped() -> bool:
        reason = world.unready(copying)
        calm.append(time.monotonic())
        if reason is None:
            calm.clear()
        return len(calm) > 3

    watched = world.run(copying, stopped, policy)
    reason = world.unready(copying)
    assert reason is not None
    assert "breaker: 4 unexpected failures in a row" in reason
    assert "TypeError: a bug of ours" in reason
    assert len(world.dead()) == 3, "what failed before the breaker opened"
    assert sum(world.view.committed("copy").values()) <= 3
    assert watched.waits[-2] > 0.1, "an open breaker spins not"

    broken[0] = False
    world.observer = Observer()
    world.run(copying, policy=policy)
    assert sorted(world.copied() + world.dead()) == sorted(CALLS)


def test_failures_beyond_a_rate_stop_the_stage(world: World) -> None:
    world.send(*CALLS)
    odd = {call: raises(TypeError("a bug")) for call in CALLS[::2] + CALLS[1::4]}
    policy = fast(breaker_share=0.5, breaker_window=8, attempts=1)
    copying = stage(on(odd))
    world.run(copying, lambda: world.unready(copying) is not None, policy)
    assert "of the last 8" in (world.unready(copying) or "")
    assert not world.drained(copying)


def test_a_few_failures_among_many_do_not(world: World) -> None:
    world.send(*CALLS)
    policy = fast(breaker_share=0.5, breaker_window=8, breaker_in_a_row=3, attempts=1)
    world.run(stage(on({call: raises(TypeError("a bug")) for call in CALLS[::4]})), policy=policy)
    assert sorted(world.dead()) == sorted(CALLS[::4])


def test_an_open_breaker_stays_open_when_the_log_goes_down_and_comes_back(world: World) -> None:
    copying = stage(on({"a": raises(TypeError("a bug"))}))
    world.send("a")
    policy = fast(breaker_in_a_row=1, attempts=1)
    polls: list[int] = []

    class Down:
        def __init__(self, log: Log) -> None:
            self._log = log
            self.lease, self.close, self.commit = log.lease, log.close, log.commit

        def messages(
            self, limit: int, wait_s: float, hold: Collection[TopicPartition] = ()
        ) -> list[Message]:
            if world.unready(copying) is not None:
                polls.append(1)
                if len(polls) < 4:
                    raise Transient("log_down", "no broker")
            return self._log.messages(limit, 0.0, hold)

    world.run(copying, lambda: len(polls) > 6, policy, Down)
    assert "breaker" in (world.unready(copying) or "")
    assert world.view.committed("copy") == {}


# Order and holding up


def test_order_holds_when_later_messages_finish_first(world: World) -> None:
    def handle(envelopes: Sequence[Envelope[Any]]) -> Iterable[tuple[int, Outcome]]:
        for index in reversed(range(len(envelopes))):
            yield index, copy(envelopes[index])

    world.send(*CALLS)
    world.run(stage(handle, batch=16, workers=3))
    assert world.copied() == world.in_order(CALLS)


def test_a_slow_call_holds_up_its_own_partition_and_no_other(world: World) -> None:
    """Even when its partition alone has more behind it than all that may be in flight."""
    slow, other = world.calls_on(0, 200, "slow-"), world.calls_on(1, 30, "other-")
    release = threading.Event()
    world.send(*slow)
    copying = stage(on({slow[0]: lambda: release.wait(LONGEST_S)}), workers=2)
    policy = fast(in_flight=8)
    rounds = iter(range(1 << 30))

    def done() -> bool:
        if next(rounds) == 20:
            world.send(*other)
        if len(world.copied()) == len(other) and not release.is_set():
            assert world.copied() == other
            release.set()
        return world.drained(copying) and release.is_set()

    world.run(copying, done, policy)
    assert world.copied() == slow + other


def test_what_is_in_hand_is_bounded() -> None:
    """Nothing is ever finished, so what was read is what is held.

    Of partitions there are enough that the share of each is not the bound.
    """
    world = World(partitions=8)
    world.send(*(f"c{number}" for number in range(500)))
    release = threading.Event()
    read: list[int] = []

    class Counting:
        def __init__(self, log: Log) -> None:
            self._log = log
            self.lease, self.close, self.commit = log.lease, log.close, log.commit

        def messages(
            self, limit: int, wait_s: float, hold: Collection[TopicPartition] = ()
        ) -> list[Message]:
            found = self._log.messages(limit, wait_s, hold)
            read.append(len(found))
            return found

    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        release.wait(LONGEST_S)
        return copy(envelope)

    def done() -> bool:
        if len(read) == 30:
            assert sum(read) <= 16 + 4
            release.set()
        return len(read) > 30

    copying = stage(each(handle_one), batch=2, workers=2)
    world.run(copying, done, fast(in_flight=16), Counting)
    assert sum(read) >= 16


def test_waiting_for_what_holds_up_a_partition_spins_not(world: World) -> None:
    """A finished message behind one that waits an hour is nothing to hurry for."""
    first, *rest = world.calls_on(0, 3)
    world.send(first, *rest)
    copying = stage(on({first: raises(Transient("objects_down", "no answer"))}))
    polls = iter(range(1 << 30))
    slow = fast(backoff_s=3600.0, backoff_max_s=3600.0)
    watched = world.run(copying, lambda: next(polls) > 12, slow)
    assert watched.waits[-2] > 0.1
    assert world.copied() == []


def test_a_batch_waits_to_fill_and_not_for_ever(world: World) -> None:
    sizes: list[int] = []

    def handle(envelopes: Sequence[Envelope[Any]]) -> Iterable[tuple[int, Outcome]]:
        sizes.append(len(envelopes))
        return [(index, copy(envelope)) for index, envelope in enumerate(envelopes)]

    world.send("a", "b", "c")
    filled = stage(handle, batch=4, wait_s=3600.0)
    rounds = iter(range(1 << 30))

    def done() -> bool:
        if next(rounds) == 10:
            world.send("d")
        return world.drained(filled)

    world.run(filled, done)
    assert sizes == [4]
    world.send("e")
    world.run(stage(handle, batch=4, wait_s=0.05))
    assert sizes == [4, 1]


def test_as_many_batches_are_handled_at_once_as_there_are_workers(world: World) -> None:
    together = threading.Barrier(3, timeout=LONGEST_S)

    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        together.wait()
        return copy(envelope)

    world.send("a", "b", "c")
    world.run(stage(each(handle_one), workers=3))
    assert sorted(world.copied()) == ["a", "b", "c"]


# Stopping and sharing


def test_a_stop_finishes_what_is_worked_on(world: World) -> None:
    world.send("a", "b")
    stop, began = threading.Event(), threading.Event()

    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        began.set()
        assert stop.wait(LONGEST_S)
        return copy(envelope)

    world.run(stage(each(handle_one)), began.is_set, stop=stop)
    assert len(world.copied()) == 1
    assert sum(world.view.committed("copy").values()) == 1


def test_a_stop_leaves_behind_what_outlasts_its_grace(world: World) -> None:
    world.send(*CALLS)
    began, release = threading.Event(), threading.Event()

    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        began.set()
        release.wait(LONGEST_S)
        return copy(envelope)

    world.run(stage(each(handle_one)), began.is_set, fast(grace_s=0.01))
    assert world.copied() == []
    assert world.view.committed("copy") == {}
    world.run(stage())
    release.set()
    assert world.copied() == world.in_order(CALLS)


def test_work_for_a_partition_that_went_elsewhere_is_discarded(world: World) -> None:
    """One member sits on its work; another joins and takes over partitions."""
    world.send(*CALLS)
    began, release, first_done = threading.Event(), threading.Event(), threading.Event()

    def sit(envelope: Envelope[Any]) -> list[Output]:
        began.set()
        release.wait(LONGEST_S)
        return copy(envelope)

    sitting = stage(each(sit), batch=100)
    first = threading.Thread(
        target=lambda: world.run(sitting, first_done.is_set), name="first", daemon=True
    )
    first.start()
    assert began.wait(LONGEST_S)

    def taken() -> bool:
        if world.copied():
            release.set()
        return world.drained(sitting)

    world.run(stage(batch=100), taken)
    first_done.set()
    first.join(LONGEST_S)
    assert not first.is_alive()
    assert world.copied() == world.in_order(CALLS)
    assert "callstream_discarded_total" in world.observer.exposition().decode()


# Any schedule


_FAILURES = st.lists(
    st.sampled_from(["invalid", "not yet", "transient", "unexpected", "crash"]), max_size=4
)


@given(
    st.lists(_FAILURES, min_size=1, max_size=25),
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(1, 12),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_whatever_happens_every_call_ends_in_one_place(
    scripts: list[list[str]], batch: int, workers: int, in_flight: int, backwards: bool
) -> None:
    world = World()
    calls = [f"c{number}" for number in range(len(scripts))]
    left = {call: list(script) for call, script in zip(calls, scripts, strict=True)}
    lock = threading.Lock()

    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        with lock:
            script = left[envelope.event.call_id]
            failure = script[0] if script else ""
            if failure not in ("", "invalid"):  # what is invalid stays so
                script.pop(0)
        match failure:
            case "invalid":
                raise Invalid("bad", "bad")
            case "not yet":
                raise NotYet("later", "later")
            case "transient":
                raise Transient("down", "down")
            case "unexpected":
                raise KeyError("surprise")
            case "crash":
                raise Crash
        return copy(envelope)

    def handle(envelopes: Sequence[Envelope[Any]]) -> Iterable[tuple[int, Outcome]]:
        order = range(len(envelopes))
        for index in reversed(order) if backwards else order:
            try:
                yield index, handle_one(envelopes[index])
            except Exception as failure:
                yield index, failure

    world.send(*calls)
    trying = stage(handle, batch=batch, workers=workers)
    policy = fast(in_flight=in_flight, attempts=10)

    def done() -> bool:
        if world.drained(trying, ENDED):
            world.clock.forward(61)
        return world.drained(trying)

    for _ in range(sum(map(len, scripts)) + 1):
        try:
            world.run(trying, done, policy)
            break
        except Crash:
            continue
    assert world.drained(trying)
    assert sorted(world.copied() + world.dead()) == sorted(calls)
    assert set(world.dead()) == {
        call for call, script in zip(calls, scripts, strict=True) if "invalid" in script
    }
    straight = [
        call
        for call, script in zip(calls, scripts, strict=True)
        if not {"invalid", "not yet"} & set(script)
    ]
    assert [call for call in world.copied() if call in straight] == world.in_order(straight)
