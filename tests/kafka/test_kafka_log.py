"""What the Kafka log promises beyond the seam: fencing, crashes, and commits in doubt."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType

from schemas.topics import DEAD_LETTER, ERASED, RETRY_TIERS
from services.runtime import kafka_log
from services.runtime.errors import Transient
from services.runtime.kafka_client import KafkaSettings
from services.runtime.kafka_log import KafkaLog, _generation
from services.runtime.kafka_view import KafkaView
from services.runtime.log import Lost, Message, Record, TooLarge, TopicPartition
from stack.broker import Broker, BrokerError
from tests.kafka.fixtures import absent
from tests.kafka.members import (
    PATIENCE_S,
    Protocol,
    after,
    both_protocols,
    copies,
    copy,
    line,
    member,
    numbers,
    settings_for,
    take,
    topics,
    until,
    written,
)

pytestmark = pytest.mark.kafka


# Isolation and refusals


def test_what_is_not_committed_is_not_seen(broker: Broker) -> None:
    settings = settings_for(broker)
    group, source, _ = topics(settings)
    view = KafkaView(settings)
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": group})
    producer.init_transactions(30)
    with closing(KafkaLog(settings, group, [source])) as log:
        for end in (producer.abort_transaction, producer.commit_transaction):
            producer.begin_transaction()
            producer.produce(source, end.__name__.encode(), b"k")
            assert producer.flush(30) == 0
            until(lambda: log.messages(10, 0.2) == [] and bool(log.lease(_first(source))))
            assert log.messages(10, 0.5) == []
            assert list(view.scan(source)) == []
            end(30)
        assert [m.value for m in take(log, 1)] == [b"commit_transaction"]
        assert written(settings, source) == Counter([b"commit_transaction"])


def _first(topic: str) -> TopicPartition:
    return TopicPartition(topic, 0)


@pytest.mark.parametrize(
    ("size", "limit"), [(3_000_000, "of the client"), (1_500_000, "of the topic")]
)
def test_a_record_that_is_too_large_takes_its_commit_with_it(
    broker: Broker, size: int, limit: str
) -> None:
    settings = settings_for(broker)
    group, source, target = topics(settings, 1)
    large = Record(target, b"k", random.Random(1).randbytes(size))
    with closing(KafkaLog(settings, group, [source])) as log:
        got = take(log, 1)
        with pytest.raises(TooLarge, match=f"{size + 1} bytes for {target}.*{limit}") as refused:
            log.commit([*copies(got, target), large], after(got))
        assert refused.value.record is large
        assert KafkaView(settings).committed(group) == {}
        log.commit([Record(target, b"k", b"next")], after(got))
    until(lambda: written(settings, target) == Counter([b"next"]))


@pytest.mark.parametrize("topic", [DEAD_LETTER, *(tier.topic for tier in RETRY_TIERS)])
def test_what_the_broker_takes_by_default_can_wait_and_be_refused(
    broker: Broker, topic: str
) -> None:
    settings = settings_for(broker)
    KafkaView(settings).create({topic: 1})
    (end,) = KafkaView(settings).ends(topic).values()
    value = random.Random(2).randbytes(1_048_000)
    record = Record(topic, b"k", value, (("why", b"x" * 64_000),))
    with closing(KafkaLog(settings)) as log:
        log.commit([record], {})
    until(lambda: [m.value for m in KafkaView(settings).scan(topic, {0: end[1]})] == [value])


def test_brokers_that_do_not_answer_are_waited_for() -> None:
    settings = KafkaSettings(bootstrap="127.0.0.1:9", request_timeout_s=0.5)
    with pytest.raises(Transient, match=r"127\.0\.0\.1:9"):
        KafkaLog(settings, "g", ["calls.ended"])
    with pytest.raises(Transient, match=r"127\.0\.0\.1:9"):
        KafkaView(settings).partitions()


def test_a_setting_that_the_client_refuses_is_an_error_at_once(broker: Broker) -> None:
    _, source, _ = topics(settings_for(broker))
    with pytest.raises(ValueError, match=r"no\.such\.option"):
        KafkaView(settings_for(broker, extra={"no.such.option": "1"})).partitions()
    with pytest.raises(ValueError, match=r"fetch\.max\.bytes"):
        KafkaLog(settings_for(broker, extra={"fetch.max.bytes": "1"}), "g", [source])


def test_sessions_end_before_polls_are_given_up() -> None:
    with pytest.raises(ValueError, match=r"poll_timeout_s\n.*session_timeout_s=30 is longer"):
        KafkaSettings(poll_timeout_s=29.0)
    assert KafkaSettings(group_protocol="consumer", poll_timeout_s=29.0).poll_timeout_s == 29.0


def test_topics_are_kept_as_the_catalogue_says(broker: Broker) -> None:
    KafkaView(settings_for(broker)).create({DEAD_LETTER: 1, ERASED: 1})
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in (DEAD_LETTER, ERASED)]
    answers = admin.describe_configs(resources)
    dead, erased = (answers[resource].result(30) for resource in resources)
    assert dead["cleanup.policy"].value == "delete"
    assert dead["max.message.bytes"].value == str(2 * 1_048_576)
    assert dead["retention.ms"].value == str(90 * 24 * 3_600_000)
    assert erased["cleanup.policy"].value == "compact"


# Members that stall or die


@both_protocols
def test_a_member_that_does_not_poll_commits_nothing(broker: Broker, protocol: Protocol) -> None:
    stalling = settings_for(broker, protocol, poll_timeout_s=2.0)
    group, source, target = topics(stalling, 10)
    with closing(KafkaLog(stalling, group, [source])) as stalled:
        mine = take_some(stalled)
        taken: list[Message] = []
        with closing(KafkaLog(settings_for(broker, protocol), group, [source])) as other:

            def taken_over() -> bool:
                taken.extend(other.messages(100, 0.2))
                return {m.source for m in taken} >= {m.source for m in mine}

            until(taken_over)
            with pytest.raises(Lost):
                stalled.commit([Record(target, b"k", b"no")], after(mine))
            other.commit([Record(target, b"k", b"yes")], after(taken))
            until(lambda: written(stalling, target) == Counter([b"yes"]))


def take_some(log: KafkaLog) -> list[Message]:
    got: list[Message] = []

    def some() -> bool:
        got.extend(log.messages(100, 0.2))
        return bool(got)

    until(some)
    return got


def test_the_broker_takes_offsets_of_no_member_unchecked(broker: Broker) -> None:
    """Why a commit looks at its generation itself."""
    settings = settings_for(broker)
    group, source, _ = topics(settings, 3, partitions=1)
    stranger = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group})
    metadata = stranger.consumer_group_metadata()
    assert _generation(metadata) == -1
    with closing(KafkaLog(settings, group, [source])) as owner:
        got = take(owner, 3)
        assert _generation(owner._consumer.consumer_group_metadata()) > 0  # type: ignore[union-attr]
        producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": group})
        producer.init_transactions(30)
        producer.begin_transaction()
        producer.send_offsets_to_transaction([KafkaPartition(source, 0, 2)], metadata, 30)
        producer.commit_transaction(30)
        assert KafkaView(settings).committed(group) == {got[0].source: 2}
    stranger.close()


@both_protocols
@pytest.mark.parametrize("hears_of_it", [True, False])
def test_a_member_that_was_frozen_commits_nothing(
    broker: Broker, protocol: Protocol, hears_of_it: bool
) -> None:
    settings = settings_for(broker, protocol)
    group, source, target = topics(settings, 3, partitions=1)
    with member(settings, group, source, target, "stop") as frozen:
        assert line(frozen) == "read"
        frozen.send_signal(signal.SIGSTOP)
        with closing(KafkaLog(settings, group, [source])) as other:
            got = take(other, 3)
            frozen.send_signal(signal.SIGCONT)
            if hears_of_it:  # its heartbeats go on, and are refused, before it commits
                assert other.messages(100, 2.0) == []
            assert frozen.stdin is not None
            frozen.stdin.write("go on\n")
            frozen.stdin.flush()
            assert line(frozen) in {"Lost", "Transient"}
            frozen.kill()
            other.commit(copies(got, target), after(got))
    until(lambda: written(settings, target) == numbers(3))


@both_protocols
def test_a_killed_member_has_written_each_message_once(broker: Broker, protocol: Protocol) -> None:
    settings = settings_for(broker, protocol)
    group, source, target = topics(settings, 60)
    with member(settings, group, source, target, "copy") as child:
        for _ in range(5):
            assert line(child) == "committed"
    with closing(KafkaLog(settings, group, [source])) as log:

        def done() -> bool:
            copy(log, target)
            return written(settings, target).total() >= 60

        until(done)
    assert written(settings, target) == numbers(60)


# Commits in doubt


class _Unheard:
    """A producer whose next commit is done, or not, and whose answer never comes."""

    def __init__(self, producer: Any, done: bool) -> None:
        self._producer, self._done = producer, done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def commit_transaction(self, timeout: float) -> None:
        if self._done:
            self._producer.commit_transaction(timeout)
        raise KafkaException(KafkaError(KafkaError._TRANSPORT))


@both_protocols
def test_a_partition_that_was_far_ahead_is_read_on_by_whoever_gets_it_back(
    broker: Broker, protocol: Protocol
) -> None:
    """The client keeps a pause beyond the assignment that it was made in."""
    settings, count = settings_for(broker, protocol), 2_000
    group, source, target = topics(settings, count)
    with closing(KafkaLog(settings, group, [source])) as first:

        def fill() -> None:
            """Read ahead of both partitions as far as it goes, and hand out nothing."""
            until(lambda: (first.messages(0, 0.1), len(first._paused))[1] == 2)

        until(lambda: copy(first, target, 1) > 0)
        fill()
        with closing(KafkaLog(settings, group, [source])) as second:

            def shared() -> bool:
                for log in (first, second):
                    with suppress(Transient):
                        log.messages(0, 0.1)
                return all(len(log._leases) == 1 for log in (first, second))

            until(shared)
        left = count - written(settings, target).total()
        began = time.monotonic()
        while left > 0:
            assert time.monotonic() < began + PATIENCE_S, f"{left} were not read"
            left -= copy(first, target)
    assert written(settings, target) == numbers(count)


@both_protocols
@pytest.mark.parametrize("done", [True, False])
def test_a_commit_in_doubt_is_settled_by_the_offsets(
    broker: Broker, protocol: Protocol, done: bool
) -> None:
    settings = settings_for(broker, protocol)
    group, source, target = topics(settings, 12)
    with closing(KafkaLog(settings, group, [source])) as log:
        got = take(log, 12)
        log.commit([], {})
        deadline = time.monotonic() + 30
        log._producer = _Unheard(log._ready_producer(deadline), done)  # type: ignore[assignment]
        with pytest.raises(Lost) as lost:
            log.commit(copies(got, target), after(got))
        assert lost.value.sources == after(got).keys()
        assert log.lease(got[0].source) is None
        if done:
            assert log.messages(100, 1.0) == []
        else:
            again = take(log, 12)
            assert Counter((m.source, m.offset) for m in again) == Counter(
                (m.source, m.offset) for m in got
            )
            assert not {m.lease for m in again} & {m.lease for m in got}
            log.commit(copies(again, target), after(again))
        assert KafkaView(settings).committed(group) == after(got)
    until(lambda: written(settings, target) == numbers(12))


@pytest.mark.slow
@both_protocols
def test_each_message_is_copied_once_while_the_broker_crashes(protocol: Protocol) -> None:
    broker = Broker()
    try:
        broker.start()
    except BrokerError as error:
        absent(error)
    with closing(broker):
        settings = settings_for(broker, protocol, session_timeout_s=6.0, transaction_timeout_s=5.0)
        count = 600
        group, source, target = topics(settings, count)
        chance, crashes = random.Random(5), 3
        with closing(KafkaLog(settings, group, [source])) as log:
            take_over = threading.Event()

            def crash() -> None:
                for _ in range(crashes):
                    take_over.wait(60)
                    broker.kill()
                    broker.start()
                    take_over.clear()

            thread = threading.Thread(target=crash)
            thread.start()
            deadline = time.monotonic() + 150
            turns = 0
            while thread.is_alive() or sum(_committed(settings, group)) < count:
                assert time.monotonic() < deadline, _committed(settings, group)
                turns += 1
                if chance.random() < 0.2:
                    take_over.set()
                copy(log, target, 4)
            thread.join()
        until(lambda: written(settings, target).total() >= count)
        assert written(settings, target) == numbers(count)


def _committed(settings: KafkaSettings, group: str) -> list[int]:
    """How far the group is, where the broker tells."""
    with suppress(Transient):
        return list(KafkaView(settings).committed(group).values())
    return [0]


@both_protocols
@pytest.mark.parametrize("others_reach", [True, False])
def test_a_client_without_brokers_is_replaced_where_another_reaches_them(
    broker: Broker, protocol: Protocol, others_reach: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(broker, protocol).model_copy(update={"request_timeout_s": 1.0})
    group, source, target = topics(settings, 10)
    with closing(KafkaLog(settings, group, [source])) as log:
        until(lambda: copy(log, target) > 0)
        lost, asked = log._consumer, 0

        def reaches(client: Any, topic: str) -> bool:
            nonlocal asked
            asked += 1
            return client is not lost and others_reach

        monkeypatch.setattr(kafka_log, "_reaches", reaches)

        def over() -> bool:
            with suppress(Transient):
                log.messages(0, 0.1)
            return log._consumer is not lost if others_reach else asked >= 6

        until(over)
        assert (log._consumer is not lost) is others_reach
        assert asked >= 6
        began = time.monotonic()
        while written(settings, target).total() < 10:
            assert time.monotonic() < began + PATIENCE_S
            copy(log, target)
    assert written(settings, target) == numbers(10)
