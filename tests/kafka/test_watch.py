"""Lag, and the client's own figures, on the real broker: where offsets count more than messages."""

from __future__ import annotations

import time
import uuid
from functools import partial

import pytest

from services.runtime.kafka_client import KafkaSettings
from services.runtime.kafka_log import KafkaLog
from services.runtime.kafka_view import KafkaView
from services.runtime.log import Record
from services.runtime.observe import Observer
from services.watch import Lags
from stack.broker import Broker

pytestmark = pytest.mark.kafka

LONGEST_S = 90.0


def test_lag_counts_messages_and_not_the_ends_of_transactions(broker: Broker) -> None:
    settings = KafkaSettings(
        bootstrap=broker.bootstrap, replication_factor=1, statistics_s=0.2, request_timeout_s=30
    )
    topic, group = f"lag-{uuid.uuid4().hex[:8]}", f"g-{uuid.uuid4().hex[:8]}"
    view = KafkaView(settings)
    view.create({topic: 3})
    writer = KafkaLog(settings)
    for number in range(30):  # a transaction each, and so an offset more
        writer.commit([Record(topic, f"t/{number}".encode(), b"v")], {})
    writer.close()
    lags = Lags(view)
    behind = lags.of(group, [topic])[topic]
    assert 30 <= behind <= 60
    observer = Observer()
    reader = KafkaLog(settings, group, [topic], partial(observer.kafka, "ingest"))
    read = 0
    deadline = time.monotonic() + LONGEST_S
    while read < 28:
        assert time.monotonic() < deadline
        for message in reader.messages(28 - read, 0.5):
            reader.commit([], {message.source: message.offset + 1})
            read += 1
    # At most as far behind as two messages and the ends of transactions among them.
    left = lags.of(group, [topic])[topic]
    assert 2 <= left <= 4
    assert lags.of(group, [topic])[topic] == left

    def counted(name: str, **labels: str) -> float:
        found = observer.registry.get_sample_value(f"callstream_kafka_{name}", labels)
        return found or 0.0

    while counted("transactions_total", stage="ingest", outcome="committed") < 28:
        assert time.monotonic() < deadline
        reader.messages(0, 0.2)
    assert counted("round_trip_seconds", stage="ingest", broker=broker.bootstrap) > 0
    while read < 30:
        assert time.monotonic() < deadline
        for message in reader.messages(30, 0.5):
            reader.commit([], {message.source: message.offset + 1})
            read += 1
    assert lags.of(group, [topic])[topic] == 0
    reader.close()
    view.close()
