"""What is measured beside the stages: how far they are behind, and dead letters left to settle."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping

import pytest

from schemas.topics import DEAD_LETTER, ENDED
from services.runtime import headers as h
from services.runtime.errors import Transient
from services.runtime.log import LogView, Message, Record, TopicPartition, partition_for
from services.runtime.observe import Observer
from services.runtime.sqlite_log import Database, SqliteLog, SqliteView
from services.watch import Lags, Letter, Letters, Watch

GROUP = "callstream.ingest"


class Counted:
    """A view that says how often it was scanned, and of which topic."""

    def __init__(self, view: LogView) -> None:
        self._view = view
        self.scans: list[str] = []
        self.down = False
        self.partitions, self.create, self.rewind = view.partitions, view.create, view.rewind
        self.close = view.close

    def ends(self, topic: str) -> dict[int, tuple[int, int]]:
        if self.down:
            raise Transient("log_down", "no answer")
        return self._view.ends(topic)

    def committed(self, group: str) -> dict[TopicPartition, int]:
        return self._view.committed(group)

    def scan(self, topic: str, start: Mapping[int, int] | None = None) -> Iterator[Message]:
        self.scans.append(topic)
        return self._view.scan(topic, start)


class Marked(Counted):
    """As on Kafka: two of a partition's offsets are the ends of transactions."""

    def ends(self, topic: str) -> dict[int, tuple[int, int]]:
        found = super().ends(topic)
        return {p: (first, end + 2 if end > first else end) for p, (first, end) in found.items()}


class World:
    def __init__(self) -> None:
        self.database = Database(None)
        self.view = SqliteView(self.database)
        self.view.create({ENDED: 3, DEAD_LETTER: 3})
        self.log = SqliteLog(self.database)

    def send(self, topic: str, *records: tuple[bytes, dict[str, str], int]) -> None:
        self.log.commit(
            [
                Record(topic, key, b"v", tuple((k, v.encode()) for k, v in heads.items()), at)
                for key, heads, at in records
            ],
            {},
        )

    def letter(self, key: bytes, stage: str, at_ms: int, reason: str = "bad") -> str:
        """A dead letter; its id."""
        before = {p: end for p, (_, end) in self.view.ends(DEAD_LETTER).items()}
        self.send(DEAD_LETTER, (key, {h.ERROR_STAGE: stage, h.DEAD_REASON: reason}, at_ms))
        after = self.view.ends(DEAD_LETTER)
        ((partition, offset),) = [(p, before[p]) for p in before if after[p][1] > before[p]]
        return f"{partition}-{offset}"

    def settle(self, key: bytes, id: str) -> None:
        self.send(DEAD_LETTER, (key, {h.DEAD_ACTION: "dropped", h.DEAD_OF: id}, 1))

    def widen(self, topic: str, partitions: int) -> None:
        """Let the topic have so many partitions, as an operator does with Kafka."""
        with self.database.transaction() as tx:
            tx.executemany(
                "INSERT OR IGNORE INTO partitions (topic, partition) VALUES (?, ?)",
                [(topic, number) for number in range(partitions)],
            )

    def read(self, count: int) -> None:
        """Let the group finish `count` messages."""
        member = SqliteLog(self.database, GROUP, [ENDED])
        for _ in range(100):
            for message in member.messages(count, 0.1):
                member.commit([], {message.source: message.offset + 1})
                count -= 1
            if count == 0:
                break
        member.close()


@pytest.fixture
def world() -> World:
    return World()


def test_lag_is_what_the_group_has_not_finished(world: World) -> None:
    lags = Lags(world.view)
    assert lags.of(GROUP, [ENDED, "calls.unheard-of"]) == {ENDED: 0}
    world.send(ENDED, *((f"t/{n}".encode(), {}, 1) for n in range(30)))
    assert lags.of(GROUP, [ENDED]) == {ENDED: 30}
    world.read(12)
    assert lags.of(GROUP, [ENDED]) == {ENDED: 18}


def test_ends_of_transactions_are_no_lag_and_looked_at_once(world: World) -> None:
    view = Marked(world.view)
    lags = Lags(view)
    world.send(ENDED, *((f"t/{n}".encode(), {}, 1) for n in range(12)))
    world.read(12)
    for _ in range(3):
        assert lags.of(GROUP, [ENDED]) == {ENDED: 0}
    assert view.scans == [ENDED]
    world.send(ENDED, (b"t/x", {}, 1))
    assert lags.of(GROUP, [ENDED]) == {ENDED: 1}
    assert len(view.scans) == 2


def test_letters_are_counted_until_they_are_settled_and_read_once(world: World) -> None:
    view = Counted(world.view)
    letters = Letters(view)
    assert list(letters.unsettled()) == []
    first = world.letter(b"t/1", "ingest", 1_000, "not_audio")
    world.letter(b"t/2", "sink", 2_000)
    expected = {Letter("ingest", "not_audio", 1_000), Letter("sink", "bad", 2_000)}
    assert set(letters.unsettled()) == expected
    scans = len(view.scans)
    assert set(letters.unsettled()) == expected
    assert len(view.scans) == scans, "nothing new, nothing read"
    world.settle(b"t/1", first)
    assert set(letters.unsettled()) == {Letter("sink", "bad", 2_000)}
    world.settle(b"t/1", "no place")
    assert set(letters.unsettled()) == {Letter("sink", "bad", 2_000)}
    view.down = True
    with pytest.raises(Transient):
        letters.unsettled()


class Stops(Counted):
    """A view whose scan breaks off after so many messages, once."""

    def __init__(self, view: LogView, after: int) -> None:
        super().__init__(view)
        self._after: int | None = after

    def scan(self, topic: str, start: Mapping[int, int] | None = None) -> Iterator[Message]:
        after, self._after = self._after, None
        for number, message in enumerate(super().scan(topic, start)):
            if number == after:
                raise Transient("log_down", "no answer")
            yield message


def _early(partitions: int, more: int) -> bytes:
    """A key whose partition among `more` is read before the one it has among `partitions`."""
    keys = (f"t/{number}".encode() for number in range(1_000))
    return next(k for k in keys if partition_for(k, more) < partition_for(k, partitions))


def test_what_settles_a_letter_may_be_read_before_it(world: World) -> None:
    key = _early(3, 5)
    first = world.letter(key, "ingest", 1_000)
    world.widen(DEAD_LETTER, 5)
    world.settle(key, first)
    order = [message.header(h.DEAD_OF) for message in world.view.scan(DEAD_LETTER)]
    assert order == [first, None], "the partitions are read in the order that is looked at here"
    letters = Letters(Counted(world.view))
    assert list(letters.unsettled()) == []
    second = world.letter(key, "sink", 2_000)
    assert list(letters.unsettled()) == [Letter("sink", "bad", 2_000)]
    world.settle(key, second)
    assert list(letters.unsettled()) == []


def test_what_was_read_before_a_failure_still_settles(world: World) -> None:
    key = _early(3, 5)
    first = world.letter(key, "ingest", 1_000)
    world.widen(DEAD_LETTER, 5)
    world.settle(key, first)
    letters = Letters(Stops(world.view, after=1))
    with pytest.raises(Transient):
        letters.unsettled()
    assert list(letters.unsettled()) == []


def until(done: Callable[[], bool], limit_s: float = 20.0) -> None:
    waiting = threading.Event()
    for _ in range(round(limit_s / 0.02)):
        if done():
            return
        waiting.wait(0.02)
    raise AssertionError("not within the time limit")


def test_the_watch_tells_metrics_and_outlasts_a_log_that_is_away(world: World) -> None:
    observer, stop, view = Observer(), threading.Event(), Counted(world.view)
    world.send(ENDED, (b"t/1", {}, 1))
    world.letter(b"t/1", "ingest", 1_000)
    world.letter(b"t/2", "a stage of somebody else", 2_000)
    view.down = True
    watch = Watch(view, observer, {"ingest": (GROUP, [ENDED])}, ("ingest", "sink"))
    thread = threading.Thread(target=watch.run, args=(stop, 0.01), daemon=True)
    thread.start()

    def value(name: str, **labels: str) -> float | None:
        return observer.registry.get_sample_value(f"callstream_{name}", labels)

    assert value("lag_messages", stage="ingest", topic=ENDED) is None
    view.down = False
    until(lambda: value("dead_letters_unsettled", stage="other") == 1)
    assert value("lag_messages", stage="ingest", topic=ENDED) == 1
    assert value("dead_letters_unsettled", stage="ingest") == 1
    assert value("dead_letters_unsettled", stage="sink") == 0
    assert (value("dead_letters_oldest_seconds", stage="ingest") or 0) > 1_000_000
    assert value("dead_letters_oldest_seconds", stage="sink") == 0
    world.read(1)
    until(lambda: value("lag_messages", stage="ingest", topic=ENDED) == 0)
    stop.set()
    thread.join(20)
    assert not thread.is_alive()
