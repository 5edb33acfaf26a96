"""Offsets that are not in the log: told, never passed over."""

from __future__ import annotations

import time
from contextlib import closing, suppress

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient

from services.runtime.errors import Transient
from services.runtime.kafka_log import KafkaLog
from services.runtime.kafka_view import KafkaView
from services.runtime.log import Message, OffsetGone, Record, TopicPartition
from stack.broker import Broker
from tests.kafka.members import (
    Protocol,
    after,
    both_protocols,
    copies,
    numbers,
    settings_for,
    take,
    topics,
    until,
    written,
)

pytestmark = pytest.mark.kafka


def let_go(broker: Broker, source: TopicPartition, offset: int) -> None:
    partition = KafkaPartition(*source, offset)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    admin.delete_records([partition])[partition].result(30)


def move(broker: Broker, group: str, source: TopicPartition, offset: int) -> None:
    wanted = [ConsumerGroupTopicPartitions(group, [KafkaPartition(*source, offset)])]
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    admin.alter_consumer_group_offsets(wanted)[group].result(30)


@both_protocols
def test_a_topic_that_was_made_anew_ends_the_stage(broker: Broker, protocol: Protocol) -> None:
    settings = settings_for(broker, protocol)
    group, topic, _ = topics(settings, 5, partitions=1)
    source = TopicPartition(topic, 0)
    move(broker, group, source, 500)
    with closing(KafkaLog(settings, group, [topic])) as log:
        # Not once: for as long as it is asked.
        for _ in range(2):
            with pytest.raises(OffsetGone, match=r"offset 500, and the topic ends at 6") as gone:
                until(lambda: bool(log.messages(10, 0.2)))
    assert (gone.value.source, gone.value.offset, gone.value.first) == (source, 500, 0)
    assert KafkaView(settings).rewind(group) == {source: (500, 0)}
    with closing(KafkaLog(settings, group, [topic])) as log:
        assert [m.value for m in take(log, 5)] == [b"%d" % n for n in range(5)]


def test_a_topic_made_anew_while_it_is_read_is_read_or_told_of(broker: Broker) -> None:
    settings = settings_for(broker, extra={"topic.metadata.refresh.interval.ms": "500"})
    group, topic, target = topics(settings, 5, partitions=1)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    view = KafkaView(settings)
    with closing(KafkaLog(settings, group, [topic])) as log:
        got = take(log, 5)
        log.commit(copies(got, target), after(got))
        admin.delete_topics([topic])[topic].result(30)
        until(lambda: topic not in view.partitions())
        view.create({topic: 1})
        with closing(KafkaLog(settings)) as writer:
            writer.commit([Record(topic, b"k", b"anew %d" % n) for n in range(3)], {})
        found: list[Message] = []
        # It may have seen that the topic went, and begins anew; or reads on, and is told.
        with suppress(OffsetGone):
            until(lambda: gathered(log, found) == 3)
    if not found:
        with closing(KafkaLog(settings, group, [topic])) as log:
            until(lambda: gathered(log, found) == 3)
    assert [m.value for m in found] == [b"anew %d" % n for n in range(3)]


def gathered(log: KafkaLog, found: list[Message]) -> int:
    with suppress(Transient):
        found += log.messages(10, 0.2)
    return len(found)


@both_protocols
def test_markers_that_retention_takes_are_nothing_that_was_lost(
    broker: Broker, protocol: Protocol
) -> None:
    """A silent topic of which all was read, and then all deleted, markers too."""
    settings = settings_for(broker, protocol)
    group, topic, target = topics(settings, 4, partitions=1)
    source = TopicPartition(topic, 0)
    view = KafkaView(settings)
    with closing(KafkaLog(settings, group, [topic])) as log:
        got = take(log, 4)
        log.commit(copies(got, target), after(got))
        until(lambda: log.messages(10, 0.2) == [] and bool(log._ends))
        assert view.committed(group) == {source: 4}
        log._markers_at = 0.0
        assert log.messages(10, 0.1) == []
        assert view.committed(group) == {source: 5}
        assert log.lease(source) == got[0].lease
        with closing(KafkaLog(settings)) as writer:
            writer.commit([Record(topic, b"k", b"4")], {})
        more = take(log, 1)
        # Not while anything is in hand.
        log._markers_at = 0.0
        assert log.messages(10, 0.3) == []
        assert view.committed(group) == {source: 5}
        log.commit(copies(more, target), after(more))
        until(lambda: log.messages(10, 0.2) == [] and log._ends[source] == 7)
        log._markers_at = 0.0
        assert log.messages(10, 0.1) == []
    let_go(broker, source, 7)
    with closing(KafkaLog(settings, group, [topic])) as log:
        deadline = time.monotonic() + 2.0
        until(lambda: log.messages(10, 0.2) == [] and time.monotonic() > deadline)
    assert view.rewind(group) == {}
    assert written(settings, target) == numbers(5)
