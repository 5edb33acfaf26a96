"""Three Kafka nodes lose nothing that was acknowledged when one is killed, or all are."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from stack.broker import Broker, BrokerError, Cluster
from tests.kafka.fixtures import absent
from tests.stack.servers import started, until

pytestmark = pytest.mark.kafka
_QUIET = {"log_level": 0}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    nodes = Cluster()
    with closing(nodes):
        try:
            nodes.start()
        except BrokerError as error:
            absent(error)
        yield nodes


def values(bootstrap: str, topic: str, count: int) -> list[object]:
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, **_QUIET,
         "isolation.level": "read_committed", "enable.auto.commit": False}
    )  # fmt: skip
    found: list[object] = []
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])

        def read() -> bool:
            message = consumer.poll(0.2)
            if message is not None and message.error() is None:
                found.append(message.value())
            return len(found) >= count

        until(read, 60)
    finally:
        consumer.close()
    return found


@pytest.mark.slow
def test_a_killed_node_takes_nothing_with_it(cluster: Cluster) -> None:
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap, **_QUIET})
    admin.create_topics([NewTopic("kept", num_partitions=1, replication_factor=3)])["kept"].result(
        30
    )
    cluster.await_in_sync()
    producer = Producer(
        {"bootstrap.servers": cluster.bootstrap, "transactional.id": "kept", **_QUIET}
    )
    producer.init_transactions(60)

    def commit(value: bytes) -> None:
        producer.begin_transaction()
        producer.produce("kept", value)
        producer.commit_transaction(60)

    commit(b"all up")
    leader = admin.list_topics("kept", timeout=30).topics["kept"].partitions[0].leader
    victim = cluster.nodes[leader - 1]
    pid, address = victim.pid, victim.bootstrap
    victim.kill()
    assert [node.pid is None for node in cluster.nodes].count(True) == 1
    commit(b"one down")
    victim.start()
    assert victim.pid not in (None, pid)
    assert victim.bootstrap == address
    cluster.await_in_sync()
    commit(b"all up again")
    cluster.kill()
    cluster.start()
    commit(b"after all were down")
    assert values(cluster.bootstrap, "kept", 4) == [
        b"all up", b"one down", b"all up again", b"after all were down"
    ]  # fmt: skip
    folders = [node.folder for node in cluster.nodes]
    cluster.close()
    assert not any(folder.exists() for folder in folders)


def test_clients_are_told_the_advertised_address() -> None:
    """The broker itself comes up, transactions included, though nobody listens there."""
    with closing(started(Broker(advertised="127.0.0.1:9"))) as broker:
        admin = AdminClient({"bootstrap.servers": broker.bootstrap, **_QUIET})
        brokers = admin.list_topics(timeout=30).brokers
        assert [f"{node.host}:{node.port}" for node in brokers.values()] == ["127.0.0.1:9"]
