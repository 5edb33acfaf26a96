"""What every log promises, run over every implementation of the seam."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.topics import Topic
from services.runtime.errors import Transient
from services.runtime.kafka_client import KafkaSettings
from services.runtime.kafka_log import KafkaLog
from services.runtime.kafka_view import KafkaView
from services.runtime.log import (
    Log,
    LogView,
    Lost,
    Message,
    NoSuchTopic,
    OffsetGone,
    Record,
    TopicPartition,
    murmur2,
    partition_for,
    refuse_gone,
)
from services.runtime.sqlite_log import Database, SqliteLog, SqliteView
from tests.kafka.fixtures import broker

__all__ = ["broker"]

PATIENCE_S = 30.0


@dataclass
class Backend:
    """One implementation: how to open members of groups, and the view."""

    open_log: Callable[[str, Collection[str], Callable[[OffsetGone], None]], Log]
    view: LogView
    forget: Callable[[TopicPartition, int], None]
    """Let go of a partition's messages before an offset, as retention does."""
    opened: list[Log] = field(default_factory=list)
    own: str = field(default_factory=lambda: f"-{uuid.uuid4().hex[:12]}")
    """Ends the names of this test's groups: a broker outlives a test."""

    def member(
        self, group: str, *topics: str, on_gone: Callable[[OffsetGone], None] = refuse_gone
    ) -> Log:
        log = self.open_log(group and group + self.own, topics, on_gone)
        self.opened.append(log)
        return log

    def writer(self) -> Log:
        return self.member("")

    def committed(self, group: str) -> dict[TopicPartition, int]:
        return self.view.committed(group + self.own)

    def topic(self, partitions: int = 1) -> str:
        name = f"t-{uuid.uuid4().hex[:12]}"
        assert self.view.create({name: partitions}) == [name]
        return name


def _kafka(protocol: Literal["classic", "consumer"], request: pytest.FixtureRequest) -> Backend:
    settings = KafkaSettings(
        bootstrap=request.getfixturevalue("broker").bootstrap,
        group_protocol=protocol,
        session_timeout_s=6,
        replication_factor=1,
    )

    def forget(source: TopicPartition, offset: int) -> None:
        admin = AdminClient({"bootstrap.servers": settings.bootstrap})
        partition = KafkaPartition(*source, offset)
        admin.delete_records([partition])[partition].result(30)

    return Backend(
        lambda group, topics, on_gone: KafkaLog(settings, group, topics, on_gone=on_gone),
        KafkaView(settings),
        forget,
    )


def _expiring(view: SqliteView) -> Callable[[TopicPartition, int], None]:
    def forget(source: TopicPartition, offset: int) -> None:
        """The topic's messages bear their offsets as times."""
        topic = Topic(source.topic, None, "", (), (), retention_ms=1_000)
        view.expire(1_000 + offset, [topic])

    return forget


@pytest.fixture(
    params=[
        "memory",
        "file",
        pytest.param("kafka classic", marks=pytest.mark.kafka),
        pytest.param("kafka consumer", marks=pytest.mark.kafka),
    ]
)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    match str(request.param).split():
        case ["kafka", "classic" | "consumer" as protocol]:
            made = _kafka(protocol, request)
        case ["file"]:
            path = tmp_path / "log.db"
            view = SqliteView(path)
            made = Backend(
                lambda group, topics, on_gone: SqliteLog(path, group, topics, on_gone),
                view,
                _expiring(view),
            )
        case _:
            memory = Database(None)
            view = SqliteView(memory)
            made = Backend(
                lambda group, topics, on_gone: SqliteLog(memory, group, topics, on_gone),
                view,
                _expiring(view),
            )
    yield made
    for log in made.opened:
        log.close()
    made.view.close()


def records(topic: str, count: int, key: Callable[[int], str] = str) -> list[Record]:
    return [Record(topic, key(n).encode(), str(n).encode()) for n in range(count)]


def until(found: Callable[[], bool]) -> None:
    """Repeat `found`, which itself waits for messages, until it says yes."""
    deadline = time.monotonic() + PATIENCE_S
    while not found():
        assert time.monotonic() < deadline, "waited in vain"


def gathered(got: list[Message], log: Log, hold: Collection[TopicPartition] = ()) -> int:
    """Read on into `got`; how many it then holds."""
    got += log.messages(1_000, 0.2, hold)
    return len(got)


def take(log: Log, count: int, hold: Collection[TopicPartition] = ()) -> list[Message]:
    """The next `count` messages, and not one more that follows at once."""
    got: list[Message] = []
    until(lambda: gathered(got, log, hold) >= count)
    got += log.messages(1_000, 0.1, hold)
    assert len(got) == count, Counter(message.value for message in got).most_common(3)
    return got


def nothing(log: Log) -> bool:
    """Whether no message comes, for longer than one takes to come."""
    return log.messages(1_000, 0.7) == []


def after(messages: Collection[Message]) -> dict[TopicPartition, int]:
    """The offsets that say all of `messages` are done."""
    return {m.source: m.offset + 1 for m in sorted(messages, key=lambda m: m.offset)}


def commit(
    log: Log, records: Sequence[Record] = (), offsets: Mapping[TopicPartition, int] | None = None
) -> None:
    """Commit, again for as long as the log says to wait."""

    def committed() -> bool:
        try:
            log.commit(records, offsets or {})
        except Transient:
            assert log.messages(0, 0.05) == []
            return False
        return True

    until(committed)


def values(messages: Collection[Message]) -> list[bytes | None]:
    return [message.value for message in messages]


def scanned(backend: Backend, topic: str, count: int) -> list[Message]:
    """All of `topic` once there are `count`: a commit may show a moment after it returned."""
    until(lambda: len(list(backend.view.scan(topic))) >= count)
    return list(backend.view.scan(topic))


# Records


def test_a_record_comes_back_as_it_was(backend: Backend) -> None:
    topic = backend.topic()
    headers = (("a", b"1"), ("b", b""), ("a", b"\x00\xff"))
    written = [
        Record(topic, b"key", b"value", headers, 1_700_000_000_123),
        Record(topic, None, b"no key", (), 1),
        Record(topic, b"tombstone", None, (("only", b"header"),), 2),
        Record(topic, b"empty", b"", (), 3),
        Record(topic, b"", b"empty key", (("", b"empty name"),), 4),
        Record(topic, "clé/通话".encode(), bytes(range(256)), (("ü", "✓".encode()),), 5),
    ]  # fmt: skip
    backend.writer().commit(written, {})
    got = take(backend.member("g", topic), len(written))
    assert [Record(m.topic, m.key, m.value, m.headers, m.timestamp_ms) for m in got] == written
    assert [replace(m, lease=0) for m in got] == scanned(backend, topic, len(written))


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@settings(max_examples=100)
@given(
    key=st.none() | st.binary(max_size=40),
    value=st.none() | st.binary(max_size=200),
    headers=st.lists(st.tuples(_TEXT, st.binary(max_size=40)), max_size=6).map(tuple),
    timestamp_ms=st.integers(1, 2**53),
)
def test_any_record_comes_back_as_it_was(
    key: bytes | None,
    value: bytes | None,
    headers: tuple[tuple[str, bytes], ...],
    timestamp_ms: int,
) -> None:
    memory = Database(None)
    SqliteView(memory).create({"t": 3})
    written = Record("t", key, value, headers, timestamp_ms)
    SqliteLog(memory).commit([written], {})
    (got,) = SqliteView(memory).scan("t")
    assert Record(got.topic, got.key, got.value, got.headers, got.timestamp_ms) == written
    memory.close()


def test_a_record_without_a_time_gets_the_time_of_its_commit(backend: Backend) -> None:
    topic = backend.topic()
    before_ms = int(time.time() * 1000)
    backend.writer().commit([Record(topic, b"k", b"v")], {})
    (got,) = scanned(backend, topic, 1)
    assert before_ms <= got.timestamp_ms <= time.time() * 1000


def test_large_records(backend: Backend) -> None:
    topic = backend.topic()
    large = [random.Random(seed).randbytes(900 * 1024) for seed in range(3)]
    backend.writer().commit([Record(topic, b"k", value) for value in large], {})
    assert values(take(backend.member("g", topic), 3)) == large


# Order and partitions


@pytest.mark.parametrize(
    ("data", "expected"),  # from the tests of Kafka's Java client
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_that_of_java(data: bytes, expected: int) -> None:
    assert murmur2(data) == expected % 2**32


def test_the_partition_follows_from_the_key_as_in_java(backend: Backend) -> None:
    topic = backend.topic(7)
    keys = [f"tenant/call-{n}".encode() for n in range(60)] + [b"", "通话".encode()]
    backend.writer().commit([Record(topic, key, b"") for key in keys], {})
    got = {message.key: message.partition for message in scanned(backend, topic, len(keys))}
    assert got == {key: partition_for(key, 7) for key in keys}


def test_order_holds_within_a_partition(backend: Backend) -> None:
    topic, writer = backend.topic(4), backend.writer()
    written = records(topic, 300, lambda n: f"k{n % 11}")
    for at in range(0, 300, 50):
        writer.commit(written[at : at + 50], {})
    got = take(backend.member("g", topic), 300)
    for partition in range(4):
        here = [m for m in got if m.partition == partition]
        assert [m.offset for m in here] == sorted(m.offset for m in here)
        expected = [r.value for r in written if partition_for(r.key or b"", 4) == partition]
        assert values(here) == expected


# Reading


def test_no_message_comes_twice_to_a_member(backend: Backend) -> None:
    topic, writer = backend.topic(3), backend.writer()
    log = backend.member("g", topic)
    writer.commit(records(topic, 20), {})
    first = take(log, 20)
    assert nothing(log)
    writer.commit(records(topic, 5), {})
    second = take(log, 5)
    assert not {(m.source, m.offset) for m in first} & {(m.source, m.offset) for m in second}


def test_what_was_not_committed_is_read_again(backend: Backend) -> None:
    topic = backend.topic(2)
    backend.writer().commit(records(topic, 10), {})
    first = backend.member("g", topic)
    got = take(first, 10)
    done = [m for m in got if m.partition == 0][:2]
    first.commit([], after(done))
    first.close()
    again = take(backend.member("g", topic), 10 - len(done))
    assert {(m.source, m.offset) for m in again} == {
        (m.source, m.offset) for m in got if m not in done
    }


def test_a_limit_is_kept(backend: Backend) -> None:
    topic = backend.topic(3)
    backend.writer().commit(records(topic, 50), {})
    log = backend.member("g", topic)
    got: list[Message] = []

    def some() -> bool:
        part = log.messages(7, 0.2)
        assert len(part) <= 7
        got.extend(part)
        return len(got) == 50

    until(some)
    assert sorted(values(got)) == sorted(str(n).encode() for n in range(50))  # type: ignore[type-var]


def test_a_member_may_ask_for_none_and_go_on(backend: Backend) -> None:
    topic = backend.topic(3)
    writer = backend.writer()
    writer.commit(records(topic, 20), {})
    log = backend.member("g", topic)
    until(lambda: log.messages(0, 0.1) == [] and log.lease(TopicPartition(topic, 2)) is not None)
    assert log.messages(0, 0.3) == []
    assert len(take(log, 20)) == 20


def test_held_partitions_are_not_read_and_come_back(backend: Backend) -> None:
    topic, writer = backend.topic(3), backend.writer()
    log = backend.member("g", topic)
    held = TopicPartition(topic, 1)
    written = records(topic, 60)
    writer.commit(written[:30], {})
    got = take(log, sum(partition_for(str(n).encode(), 3) != 1 for n in range(30)), [held])
    assert held not in {m.source for m in got}
    writer.commit(written[30:], {})
    others = sum(partition_for(str(n).encode(), 3) != 1 for n in range(30, 60))
    assert held not in {m.source for m in take(log, others, [held])}
    back = take(log, 60 - len(got) - others)
    assert {m.source for m in back} == {held}
    assert values(back) == [r.value for r in written if partition_for(r.key or b"", 3) == 1]


def test_holding_in_turn_loses_and_repeats_nothing(backend: Backend) -> None:
    topic = backend.topic(4)
    backend.writer().commit(records(topic, 400), {})
    log = backend.member("g", topic)
    chance = random.Random(7)
    sources = [TopicPartition(topic, partition) for partition in range(4)]
    got: list[Message] = []

    def some() -> bool:
        hold = [source for source in sources if chance.random() < 0.5]
        part = log.messages(chance.choice([0, 1, 3, 20]), 0.05, hold)
        assert not {m.source for m in part} & set(hold)
        got.extend(part)
        return len(got) >= 400

    until(some)
    assert nothing(log)
    assert Counter(values(got)) == Counter(str(n).encode() for n in range(400))
    for source in sources:
        offsets = [m.offset for m in got if m.source == source]
        assert offsets == sorted(offsets)


def test_waiting_lasts_as_long_as_asked(backend: Backend) -> None:
    log = backend.member("g", backend.topic())
    log.messages(1, 0.0)
    started = time.monotonic()
    assert log.messages(1, 0.3) == []
    assert time.monotonic() - started >= 0.3


def test_waiting_ends_when_a_message_comes(backend: Backend) -> None:
    topic, writer = backend.topic(), backend.writer()
    log = backend.member("g", topic)
    until(lambda: log.messages(1, 0.1) == [] and log.lease(TopicPartition(topic, 0)) is not None)
    thread = threading.Timer(0.2, lambda: writer.commit([Record(topic, b"k", b"v")], {}))
    thread.start()
    started = time.monotonic()
    got = log.messages(100, PATIENCE_S)
    elapsed = time.monotonic() - started
    thread.join()
    assert values(got) == [b"v"]
    assert elapsed < PATIENCE_S / 2


def test_groups_are_independent(backend: Backend) -> None:
    topic = backend.topic(2)
    backend.writer().commit(records(topic, 10), {})
    one, other = backend.member("g1", topic), backend.member("g2", topic)
    got = take(one, 10)
    commit(one, [], after(got))
    assert len(take(other, 10)) == 10
    assert backend.committed("g1") == after(got)
    assert backend.committed("g2") == {}


def test_a_group_reads_only_its_topics(backend: Backend) -> None:
    mine, others = backend.topic(), backend.topic()
    backend.writer().commit([*records(others, 3), *records(mine, 2)], {})
    log = backend.member("g", mine)
    assert {m.topic for m in take(log, 2)} == {mine}
    assert log.lease(TopicPartition(others, 0)) is None


def test_a_writer_reads_nothing(backend: Backend) -> None:
    topic, writer = backend.topic(), backend.writer()
    writer.commit(records(topic, 3), {})
    assert writer.messages(10, 0.0) == []
    assert writer.lease(TopicPartition(topic, 0)) is None


# Committing


def test_records_and_offsets_are_committed_together(backend: Backend) -> None:
    source, target = backend.topic(2), backend.topic(2)
    backend.writer().commit(records(source, 10), {})
    log = backend.member("g", source)
    got = take(log, 10)
    commit(log, [Record(target, m.key, m.value) for m in got], after(got))
    assert backend.committed("g") == after(got)
    assert Counter(values(scanned(backend, target, 10))) == Counter(values(got))
    log.close()
    assert nothing(backend.member("g", source))


def test_a_commit_of_nothing_changes_nothing(backend: Backend) -> None:
    topic = backend.topic()
    backend.writer().commit(records(topic, 3), {})
    log = backend.member("g", topic)
    got = take(log, 3)
    commit(log, [], {})
    assert backend.committed("g") == {}
    commit(log, records(topic, 1), {})
    assert backend.committed("g") == {}
    commit(log, [], after(got[:2]))
    assert backend.committed("g") == {TopicPartition(topic, 0): got[1].offset + 1}


def test_a_commit_that_raises_has_written_nothing(backend: Backend) -> None:
    source, target = backend.topic(), backend.topic()
    writer = backend.writer()
    writer.commit(records(source, 2), {})
    log = backend.member("g", source)
    got = take(log, 2)
    with pytest.raises(ValueError, match="no such topic: missing"):
        commit(log, [*records(target, 1), Record("missing", b"k", b"v")], after(got))
    with pytest.raises(Lost) as lost:
        commit(log, records(target, 1), {TopicPartition(target, 0): 1, **after(got)})
    assert lost.value.sources == {TopicPartition(target, 0)}
    assert backend.committed("g") == {}
    writer.commit([Record(target, b"k", b"after")], {})
    assert values(scanned(backend, target, 1)) == [b"after"]
    commit(log, [], after(got))
    assert backend.committed("g") == after(got)


def test_a_missing_topic_is_named(backend: Backend) -> None:
    with pytest.raises(NoSuchTopic, match=r"no such topic: missing; .*topics create"):
        backend.member("g", backend.topic(), "missing")


# Members


def both(*logs: Log, settled: Callable[[], bool]) -> list[Message]:
    """Poll every member in turn until `settled`; what they read."""
    got: list[Message] = []

    def turn() -> bool:
        for log in logs:
            got.extend(log.messages(1_000, 0.05))
        return settled()

    until(turn)
    return got


def leases(log: Log, topic: str, partitions: int) -> dict[TopicPartition, int]:
    sources = [TopicPartition(topic, partition) for partition in range(partitions)]
    return {source: lease for source in sources if (lease := log.lease(source)) is not None}


def test_two_members_share_the_partitions(backend: Backend) -> None:
    source, target, writer = backend.topic(4), backend.topic(), backend.writer()
    one, other = backend.member("g", source), backend.member("g", source)

    def shared() -> bool:
        return len(leases(one, source, 4)) == 2 and len(leases(other, source, 4)) == 2

    both(one, other, settled=shared)
    assert not leases(one, source, 4).keys() & leases(other, source, 4).keys()
    writer.commit(records(source, 40), {})
    copied = 0

    def copy() -> bool:
        nonlocal copied
        for log in (one, other):
            got = log.messages(1_000, 0.05)
            commit(log, [Record(target, m.key, m.value) for m in got], after(got))
            copied += len(got)
        return copied >= 40

    until(copy)
    assert Counter(values(scanned(backend, target, 40))) == Counter(
        str(n).encode() for n in range(40)
    )


def test_a_member_that_leaves_hands_over(backend: Backend) -> None:
    topic = backend.topic(4)
    backend.writer().commit(records(topic, 40), {})
    one = backend.member("g", topic)
    first = take(one, 40)
    commit(one, [], after([m for m in first if m.partition == 0]))
    other = backend.member("g", topic)
    one.close()
    rest = take(other, sum(m.partition != 0 for m in first))
    assert 0 not in {m.partition for m in rest}
    commit(other, [], after(rest))
    assert backend.committed("g") == after(first)


def test_work_for_a_partition_that_went_to_another_is_refused(backend: Backend) -> None:
    source, target = backend.topic(2), backend.topic()
    backend.writer().commit(records(source, 20), {})
    one = backend.member("g", source)
    got = take(one, 20)
    before = leases(one, source, 2)
    other = backend.member("g", source)
    taken = both(one, other, settled=lambda: len(leases(other, source, 2)) == 1)
    (gone,) = leases(other, source, 2)
    assert one.lease(gone) is None
    with pytest.raises(Lost) as lost:
        commit(one, [Record(target, b"k", b"no")], after(got))
    assert lost.value.sources == {gone}
    assert backend.committed("g") == {}
    kept = [m for m in got if m.source != gone]
    assert one.lease(kept[0].source) == before[kept[0].source]
    commit(one, [Record(target, b"k", b"kept")], after(kept))

    mine = [m for m in got if m.source == gone]
    until(lambda: gathered(taken, other) >= len(mine))
    assert values(taken) == values(mine)
    commit(other, [Record(target, b"k", b"taken")], after(taken))
    assert backend.committed("g") == after(got)
    assert values(scanned(backend, target, 2)) == [b"kept", b"taken"]


def test_a_partition_that_comes_back_is_under_another_lease(backend: Backend) -> None:
    topic = backend.topic(2)
    backend.writer().commit(records(topic, 20), {})
    one = backend.member("g", topic)
    got = take(one, 20)
    first = leases(one, topic, 2)
    assert {m.source: m.lease for m in got} == first
    other = backend.member("g", topic)
    both(one, other, settled=lambda: len(leases(other, topic, 2)) == 1)
    (moved,) = leases(other, topic, 2)
    other.close()
    again = both(one, settled=lambda: len(leases(one, topic, 2)) == 2)
    missing = sum(m.source == moved for m in got)
    until(lambda: gathered(again, one) >= missing)
    second = leases(one, topic, 2)
    assert second[moved] != first[moved]
    assert {source for source in first if second[source] == first[source]} == first.keys() - {moved}
    assert {m.lease for m in again} == {second[moved]}
    assert values(again) == [m.value for m in got if m.source == moved]


def test_each_message_is_committed_once_while_members_come_and_go(backend: Backend) -> None:
    source, target = backend.topic(6), backend.topic()
    total, changes, chance = 240, 6, random.Random(3)
    backend.writer().commit(records(source, total), {})
    members: list[Log] = [backend.member("g", source)]
    hands: dict[int, list[Message]] = {}

    def join_or_leave() -> None:
        nonlocal changes
        if changes and len(members) < 3 and chance.random() < 0.3:
            members.append(backend.member("g", source))
            changes -= 1
        elif changes and len(members) > 1 and chance.random() < 0.2:
            leaver = members.pop(chance.randrange(len(members)))
            hands.pop(id(leaver), None)
            leaver.close()
            changes -= 1

    def round_() -> bool:
        join_or_leave()
        for log in members:
            hand = hands.setdefault(id(log), [])
            hand += log.messages(10, 0.02)
            hand[:] = [m for m in hand if m.lease == log.lease(m.source)]
            if hand and chance.random() < 0.7:
                try:
                    log.commit([Record(target, m.key, m.value) for m in hand], after(hand))
                except Lost as lost:
                    hand[:] = [m for m in hand if m.source not in lost.sources]
                except Transient:
                    pass
                else:
                    hand.clear()
        return backend.committed("g") == everything

    everything = after(scanned(backend, source, total))
    until(round_)
    assert Counter(values(scanned(backend, target, total))) == Counter(
        str(n).encode() for n in range(total)
    )


# What is gone


def test_a_group_begins_at_the_first_message_kept(backend: Backend) -> None:
    topic = backend.topic()
    source = TopicPartition(topic, 0)
    backend.writer().commit([Record(topic, b"k", b"%d" % n, (), n) for n in range(10)], {})
    scanned(backend, topic, 10)
    backend.forget(source, 4)
    assert values(take(backend.member("g", topic), 6)) == [b"%d" % n for n in range(4, 10)]


def test_messages_that_went_unread_end_the_stage_until_it_is_rewound(backend: Backend) -> None:
    topic = backend.topic()
    source = TopicPartition(topic, 0)
    backend.writer().commit([Record(topic, b"k", b"%d" % n, (), n) for n in range(10)], {})
    log = backend.member("callstream.copy", topic)
    got = take(log, 10)
    commit(log, [], after(got[:2]))
    with pytest.raises(ValueError, match=r"callstream\.copy\S* has 1 members: stop"):
        backend.view.rewind("callstream.copy" + backend.own)
    log.close()
    backend.forget(source, 7)
    log = backend.member("callstream.copy", topic)
    with pytest.raises(OffsetGone) as gone:
        until(lambda: bool(log.messages(10, 0.2)))
    for part in (f"{topic}[0]", "read offset 2", "kept is 7", "5 are gone", "topics rewind copy"):
        assert part in str(gone.value)
    log.close()
    assert backend.committed("callstream.copy") == {source: 2}
    assert backend.view.rewind("callstream.copy" + backend.own) == {source: (2, 7)}
    assert backend.view.rewind("callstream.copy" + backend.own) == {}
    again = backend.member("callstream.copy", topic)
    assert values(take(again, 3)) == [b"7", b"8", b"9"]


def test_who_is_told_that_messages_are_gone_may_let_the_group_go_on(backend: Backend) -> None:
    topic = backend.topic()
    source = TopicPartition(topic, 0)
    backend.writer().commit([Record(topic, b"k", b"%d" % n, (), n) for n in range(10)], {})
    log = backend.member("g", topic)
    commit(log, [], after(take(log, 10)[:2]))
    log.close()
    backend.forget(source, 7)
    told: list[OffsetGone] = []
    log = backend.member("g", topic, on_gone=told.append)
    got = take(log, 3)
    assert values(got) == [b"7", b"8", b"9"]
    assert [(gone.source, gone.offset, gone.first) for gone in told] == [(source, 2, 7)]
    commit(log, [], after(got))
    assert backend.committed("g") == {source: 10}


# The view


def test_topics_are_created_once_and_counted(backend: Backend) -> None:
    one, two = f"one-{uuid.uuid4().hex}", f"two-{uuid.uuid4().hex}"
    assert backend.view.create({one: 3}) == [one]
    assert backend.view.create({one: 3, two: 1}) == [two]
    found = backend.view.partitions()
    assert {name: found.get(name) for name in (one, two)} == {one: 3, two: 1}
    assert not [name for name in found if name.startswith("__")]


def test_ends_bound_what_is_there(backend: Backend) -> None:
    topic, writer = backend.topic(3), backend.writer()
    assert backend.view.ends(topic) == {0: (0, 0), 1: (0, 0), 2: (0, 0)}
    writer.commit(records(topic, 30), {})
    got = scanned(backend, topic, 30)
    ends = backend.view.ends(topic)
    for m in got:
        first, end = ends[m.partition]
        assert first <= m.offset < end
    assert {first for first, _ in ends.values()} == {0}


def test_a_scan_starts_where_it_is_told_and_ends_at_the_end(backend: Backend) -> None:
    topic, writer = backend.topic(2), backend.writer()
    assert list(backend.view.scan(topic)) == []
    for at in range(0, 1_200, 400):
        writer.commit(records(topic, 1_200)[at : at + 400], {})
    everything = scanned(backend, topic, 1_200)
    assert Counter(values(everything)) == Counter(str(n).encode() for n in range(1_200))
    late = max(m.offset for m in everything if m.partition == 1) - 5
    part = list(backend.view.scan(topic, {1: late}))
    assert {(m.source, m.offset) for m in part} == {
        (m.source, m.offset) for m in everything if m.partition == 0 or m.offset >= late
    }
    ends = backend.view.ends(topic)
    assert list(backend.view.scan(topic, {p: end for p, (_, end) in ends.items()})) == []


def test_a_view_of_an_unknown_group_or_topic_is_empty(backend: Backend) -> None:
    assert backend.committed(f"nobody-{uuid.uuid4().hex}") == {}
    assert backend.view.ends(f"missing-{uuid.uuid4().hex}") == {}
    assert list(backend.view.scan(f"missing-{uuid.uuid4().hex}")) == []


def test_closing_twice_is_closing_once(backend: Backend) -> None:
    log = backend.member("g", backend.topic())
    log.messages(1, 0.0)
    log.close()
    log.close()
    assert log.lease(TopicPartition("any", 0)) is None
