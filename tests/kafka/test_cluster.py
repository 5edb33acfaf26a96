"""Three brokers of which one is killed: nothing lost, nothing twice."""

from __future__ import annotations

import os
import threading
from collections import Counter
from contextlib import closing, suppress
from functools import partial

import pytest
from confluent_kafka.admin import AdminClient

from services.runtime.errors import Transient
from services.runtime.kafka_log import KafkaLog
from services.runtime.kafka_view import KafkaView
from stack.broker import Broker, BrokerError, Cluster
from tests.kafka.fixtures import absent
from tests.kafka.members import (
    Protocol,
    both_protocols,
    copy,
    numbers,
    settings_for,
    topics,
    until,
    written,
)

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

# Three brokers and their clients on a machine that others use too.
_PATIENCE_S = 180.0


def _java_hash(text: str) -> int:
    """Java's String.hashCode, without its sign, as coordinators take it."""
    value = 0
    for letter in text:
        value = (31 * value + ord(letter)) & 0xFFFFFFFF
    signed = value - (1 << 32) if value >= 1 << 31 else value
    return abs(signed)


def leader(cluster: Cluster, topic: str, key: str) -> Broker:
    """The node that leads the partition of `topic` to which a coordinator's `key` belongs."""
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
    partitions = admin.list_topics(topic, timeout=30).topics[topic].partitions
    return cluster.nodes[partitions[_java_hash(key) % len(partitions)].leader - 1]


def _committed(view: KafkaView, group: str) -> int:
    with suppress(Transient):
        return sum(view.committed(group).values())
    return 0


def _beyond(view: KafkaView, group: str, count: int) -> bool:
    return _committed(view, group) > count


@both_protocols
def test_a_broker_that_is_killed_costs_nothing(protocol: Protocol) -> None:
    """First the transactions' coordinator, then the group's, then the source's leader."""
    count = int(os.environ.get("CALLSTREAM_TEST_MESSAGES", "600"))
    rounds = int(os.environ.get("CALLSTREAM_TEST_KILLS", "3"))
    cluster = Cluster()
    try:
        cluster.start()
    except BrokerError as error:
        absent(error)
    with closing(cluster):
        settings = settings_for(
            cluster, protocol, session_timeout_s=6.0, transaction_timeout_s=15.0
        ).model_copy(update={"replication_factor": 3})
        cluster.await_in_sync()
        group, source, target = topics(settings, count, partitions=3)
        view = KafkaView(settings)
        with closing(KafkaLog(settings, group, [source])) as log:
            wanted = [
                lambda: leader(cluster, "__transaction_state", log._id),
                lambda: leader(cluster, "__consumer_offsets", group),
                lambda: leader(cluster, source, ""),
            ]
            trouble: list[BaseException] = []
            done = threading.Event()
            allowed = 0

            def kill() -> None:
                nonlocal allowed
                try:
                    for number in range(rounds):
                        cluster.await_in_sync(_PATIENCE_S)
                        allowed = count * (number + 1) // (rounds + 1)
                        until(partial(_beyond, view, group, allowed - 10), _PATIENCE_S)
                        node = wanted[number % len(wanted)]()
                        node.kill()
                        # The others go on without it.
                        before = _committed(view, group)
                        allowed = count * (number + 2) // (rounds + 1)
                        until(partial(_beyond, view, group, before + 10), _PATIENCE_S)
                        node.start()
                except BaseException as error:
                    trouble.append(error)
                finally:
                    allowed = count
                    done.set()

            thread = threading.Thread(target=kill)
            thread.start()
            copied = 0
            while not done.is_set() or _committed(view, group) < count:
                if done.is_set() and trouble:
                    raise trouble[0]
                # Never more at once than lets every kill find work under way.
                copied += copy(log, target, 3 if copied < allowed or done.is_set() else 0)
            thread.join()
        assert not trouble
        until(lambda: written(settings, target).total() >= count)
        assert written(settings, target) == numbers(count)
        assert Counter(log.lease(s) for s in view.committed(group)) == {None: 3}
