"""What the client says of a commit, and what becomes of it: each kind of error its own way.

Retriable errors are tried again within the commit. Abortable ones end the transaction, and the
commit may be tried again. Fatal ones end the producer. Where a commit was asked for and nobody
knows, see `test_a_commit_in_doubt_is_settled_by_the_offsets`.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from services.runtime.errors import Transient
from services.runtime.kafka_client import client_error
from services.runtime.kafka_log import KafkaLog
from services.runtime.kafka_view import KafkaView
from services.runtime.log import Lost, Message, TopicPartition
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


class Spoiled:
    """A producer of which one call does something else first, `times` times."""

    def __init__(self, log: KafkaLog, call: str, first: Callable[[], Any], times: int = 1) -> None:
        self._producer = log._ready_producer(time.monotonic() + 30)
        self._call, self._first, self.left = call, first, times
        log._producer = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._producer, name)
        if name != self._call or self.left <= 0:
            return real

        def spoiled(*arguments: Any, **named: Any) -> Any:
            self.left -= 1
            answer = self._first() if self.left >= 0 else None
            return real(*arguments, **named) if answer is None else answer

        return spoiled


def raises(code: int, **kind: bool) -> Callable[[], None]:
    def call() -> None:
        raise KafkaException(KafkaError(code, "spoiled", **kind))

    return call


def refused_once(log: KafkaLog, got: list[Message], target: str) -> None:
    """A commit that is to be tried again, with the partitions kept."""
    before = log._statistics.aborts
    with pytest.raises(Transient):
        log.commit(copies(got, target), after(got))
    assert log._statistics.aborts == before + 1
    assert log.messages(0, 0.1) == []
    assert {log.lease(m.source) for m in got} == {m.lease for m in got}
    log.commit(copies(got, target), after(got))


@pytest.mark.parametrize("call", ["send_offsets_to_transaction", "commit_transaction"])
def test_retriable_errors_are_tried_again_within_the_commit(broker: Broker, call: str) -> None:
    settings = settings_for(broker)
    group, source, target = topics(settings, 5)
    with closing(KafkaLog(settings, group, [source])) as log:
        got = take(log, 5)
        retriable = raises(KafkaError.COORDINATOR_LOAD_IN_PROGRESS, retriable=True)
        spoiled = Spoiled(log, call, retriable, 3)
        log.commit(copies(got, target), after(got))
        assert spoiled.left < 0
        assert log._statistics.aborts == 0
    until(lambda: written(settings, target) == numbers(5))


@pytest.mark.parametrize(
    "call", ["begin_transaction", "send_offsets_to_transaction", "commit_transaction"]
)
def test_abortable_errors_write_nothing_and_the_commit_may_be_tried_again(
    broker: Broker, call: str
) -> None:
    settings = settings_for(broker)
    group, source, target = topics(settings, 5)
    with closing(KafkaLog(settings, group, [source])) as log:
        got = take(log, 5)
        code = KafkaError.TRANSACTION_ABORTABLE
        Spoiled(log, call, raises(code, txn_requires_abort=True))
        refused_once(log, got, target)
    until(lambda: written(settings, target) == numbers(5))


def test_fatal_errors_end_the_producer(broker: Broker) -> None:
    """Somebody else begins transactions under this member's id: it is fenced off."""
    settings = settings_for(broker)
    group, source, target = topics(settings, 5)
    with closing(KafkaLog(settings, group, [source])) as log:
        got = take(log, 5)
        log.commit([], {got[0].source: got[0].offset})
        ours = log._producer
        other = Producer(
            {"bootstrap.servers": broker.bootstrap, "transactional.id": log._id, "log_level": 0}
        )
        other.init_transactions(30)
        other.begin_transaction()
        other.produce(target, b"no", b"k")
        assert other.flush(30) == 0
        refused_once(log, got, target)
        assert log._producer is not ours
        with pytest.raises((KafkaException, SystemError)) as fenced:  # and fences in turn
            other.commit_transaction(10)
        error = client_error(fenced.value)
        assert error is not None
        assert error.fatal()
    until(lambda: written(settings, target) == numbers(5))


def test_what_is_not_flushed_in_time_is_not_committed(broker: Broker) -> None:
    settings = settings_for(broker)
    group, source, target = topics(settings, 5)
    with closing(KafkaLog(settings, group, [source])) as log:
        got = take(log, 5)
        Spoiled(log, "flush", lambda: 3)
        refused_once(log, got, target)
    until(lambda: written(settings, target) == numbers(5))


def test_a_report_that_one_record_was_not_delivered_ends_the_commit(broker: Broker) -> None:
    settings = settings_for(broker)
    group, source, target = topics(settings, 5)
    with closing(KafkaLog(settings, group, [source])) as log:
        got = take(log, 5)
        producer = log._ready_producer(time.monotonic() + 30)

        class Undelivered:
            def __init__(self) -> None:
                self.count = 0

            def __getattr__(self, name: str) -> Any:
                return getattr(producer, name)

            def produce(self, *arguments: Any, **named: Any) -> None:
                self.count += 1
                if self.count == 3:
                    named["on_delivery"](KafkaError(KafkaError._MSG_TIMED_OUT), None)
                else:
                    producer.produce(*arguments, **named)

        log._producer = Undelivered()  # type: ignore[assignment]
        refused_once(log, got, target)
    until(lambda: written(settings, target) == numbers(5))


@both_protocols
def test_a_consumer_that_met_a_fatal_error_is_replaced(broker: Broker, protocol: Protocol) -> None:
    settings = settings_for(broker, protocol)
    group, source, target = topics(settings, 5)
    with closing(KafkaLog(settings, group, [source])) as log:
        got = take(log, 5)
        consumer = log._consumer

        class Told:
            def error(self) -> KafkaError:
                return KafkaError(KafkaError._FATAL, "spoiled")  # not flagged, as librdkafka does

        class Failed:
            def __getattr__(self, name: str) -> Any:
                return getattr(consumer, name)

            def consume(self, count: int, timeout: float) -> list[Told]:
                return [Told()]

        log._consumer = Failed()  # type: ignore[assignment]
        with pytest.raises(Transient, match="spoiled"):
            log.messages(10, 0.1)
        assert log.lease(got[0].source) is None
        with pytest.raises(Lost):
            log.commit(copies(got, target), after(got))
        again = take(log, 5)
        assert not {m.lease for m in again} & {m.lease for m in got}
        log.commit(copies(again, target), after(again))
    until(lambda: written(settings, target) == numbers(5))


@both_protocols
def test_sending_offsets_that_does_not_come_back_holds_up_nobody(
    broker: Broker, protocol: Protocol
) -> None:
    settings = settings_for(broker, protocol, transaction_timeout_s=2.0)
    group, source, target = topics(settings, 5)
    let_go = threading.Event()
    with closing(KafkaLog(settings, group, [source])) as log:
        got = take(log, 5)

        def stuck() -> None:
            let_go.wait(60)

        Spoiled(log, "send_offsets_to_transaction", stuck)
        began = time.monotonic()
        with pytest.raises(Transient, match="does not come back"):
            log.commit(copies(got, target), after(got))
        assert time.monotonic() - began < 10
        assert log.messages(0, 0.1) == []
        log.commit(copies(got, target), after(got))
        let_go.set()  # too late: its transaction is ended, and its producer fenced
        until(lambda: written(settings, target) == numbers(5))
        assert KafkaView(settings).committed(group) == after(got)
    assert written(settings, target) == numbers(5)


@both_protocols
def test_what_was_done_for_a_partition_that_was_lost_is_discarded(
    broker: Broker, protocol: Protocol
) -> None:
    stalling = settings_for(broker, protocol, poll_timeout_s=2.0)
    group, source, target = topics(stalling, 6, partitions=1)
    place = TopicPartition(source, 0)
    with closing(KafkaLog(stalling, group, [source])) as stalled:
        mine = take(stalled, 6)
        with closing(KafkaLog(settings_for(broker, protocol), group, [source])) as other:
            taken = take(other, 6)
            until(lambda: stalled.messages(10, 0.1) == [] and stalled.lease(place) is None)
            assert stalled._statistics.partitions_lost == 1
            with pytest.raises(Lost):
                stalled.commit(copies(mine, target), after(mine))
            other.commit(copies(taken, target), after(taken))
    until(lambda: written(stalling, target) == numbers(6))


_ASKER = """
import sys, threading
from services.runtime.errors import Transient
from services.runtime.kafka_client import KafkaSettings
from services.runtime.kafka_view import KafkaView
settings, group = sys.argv[1:]
def ask():
    view = KafkaView(KafkaSettings.model_validate_json(settings))
    while True:
        try:
            view.committed(group)
        except Transient:
            print("refused", flush=True)
        else:
            print("answered", flush=True)
for _ in range(4):
    threading.Thread(target=ask).start()
"""


def test_who_asks_for_offsets_outlives_the_crashes_of_a_coordinator(broker: Broker) -> None:
    """Until it has read its groups, a broker that comes back is no coordinator."""
    settings = settings_for(broker, request_timeout_s=1.0)
    group, source, target = topics(settings, 5)
    with closing(KafkaLog(settings, group, [source])) as log:
        got = take(log, 5)
        log.commit(copies(got, target), after(got))
    said: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", _ASKER, settings.model_dump_json(), group],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    ) as asker:
        reader = threading.Thread(target=lambda: said.extend(asker.stdout or ()))
        reader.start()
        try:
            for _ in range(3):
                until(lambda: said[-1:] == ["answered\n"] or asker.poll() is not None)
                broker.kill()
                broker.start()
            known = len(said)
            until(lambda: "answered\n" in said[known:] or asker.poll() is not None)
            assert asker.poll() is None
        finally:
            asker.kill()
            reader.join()
