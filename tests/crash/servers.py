"""The same phases over Kafka, S3 and ClickHouse over HTTP; each play in a space of its own.

A space is a prefix of topics and groups, a bucket and a database. What was there before a phase is
copied into it from the embedded parts that recorded it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from confluent_kafka import Producer
from pydantic import SecretStr

import services.runtime.kafka_log as kafka_log
from schemas.topics import TOPICS
from services.assembly import Parts
from services.runtime.kafka_log import KafkaLog
from services.runtime.kafka_view import KafkaView
from services.runtime.log import Log, LogView, Lost, Message, Record, TopicPartition
from services.runtime.objects import S3Objects
from services.settings import Settings
from stack.broker import Broker
from stack.clickhouse import ClickHouse
from stack.s3 import ACCESS_KEY, SECRET_KEY, Versitygw
from tests.crash.points import CountedLog, Points
from tests.crash.scenario import CountedParts

# A member that was killed is known to be dead, and its transaction ended, as soon as may be.
_BROKER = {
    "group.min.session.timeout.ms": "500",
    "group.initial.rebalance.delay.ms": "0",
    # What waited in a tier was handled by a clock that is ahead.
    "log.message.timestamp.after.max.ms": "86400000",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "200",
}
_SESSION_S = 2.0
_TRANSACTION_S = 4.0


@dataclass(frozen=True)
class Addresses:
    bootstrap: str
    s3: str
    clickhouse: str


@contextmanager
def running() -> Iterator[Addresses]:
    """The servers, children of another process: this one is to be forked, and has no threads.

    Raises RuntimeError with the reason where they cannot be had.
    """
    keeper = subprocess.Popen(
        [sys.executable, "-m", "tests.crash.servers"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    try:
        told = json.loads(keeper.stdout.readline() or b'{"absent": "it ended at once"}')
        if "absent" in told:
            raise RuntimeError(f"no servers: {told['absent']}")
        yield Addresses(**told)
    finally:
        keeper.stdin.close()
        keeper.wait(900)  # hundreds of plays leave a broker of thousands of partitions


def _keep() -> None:
    """Run the servers until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Broker(settings=_BROKER) as broker, Versitygw() as s3, ClickHouse() as clickhouse:
            told = {"bootstrap": broker.bootstrap, "s3": s3.endpoint, "clickhouse": clickhouse.url}
            print(json.dumps(told), flush=True)
            sys.stdin.read()
    except RuntimeError as error:
        print(json.dumps({"absent": str(error)}), flush=True)


def settings_in(space: str, base: Settings, at: Addresses) -> Settings:
    """`base` over the servers, in `space`."""
    kafka = base.log.kafka.model_copy(
        update={
            "bootstrap": at.bootstrap, "session_timeout_s": _SESSION_S, "replication_factor": 1,
            "transaction_timeout_s": _TRANSACTION_S,
        }
    )  # fmt: skip
    objects = base.objects.model_copy(
        update={
            "kind": "s3", "endpoint": at.s3, "bucket": space, "access_key": ACCESS_KEY,
            "secret_key": SecretStr(SECRET_KEY), "secure": False,
        }
    )  # fmt: skip
    sink = base.sink.model_copy(update={"url": at.clickhouse, "database": space.replace("-", "_")})
    log = base.log.model_copy(update={"kind": "kafka", "kafka": kafka})
    return base.model_copy(update={"log": log, "objects": objects, "sink": sink})


@dataclass
class SpacedLog:
    """A log whose topics are those of a space."""

    inner: Log
    space: str

    def _there(self, source: TopicPartition) -> TopicPartition:
        return TopicPartition(f"{self.space}.{source.topic}", source.partition)

    def messages(
        self, limit: int, wait_s: float, hold: Collection[TopicPartition] = ()
    ) -> list[Message]:
        found = self.inner.messages(limit, wait_s, {self._there(source) for source in hold})
        return [_here(self.space, message) for message in found]

    def commit(self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]) -> None:
        try:
            self.inner.commit(
                [replace(record, topic=f"{self.space}.{record.topic}") for record in records],
                {self._there(source): offset for source, offset in offsets.items()},
            )
        except Lost as lost:
            raise Lost(
                {TopicPartition(s.topic.removeprefix(f"{self.space}."), s.partition)
                 for s in lost.sources}
            ) from lost  # fmt: skip

    def lease(self, source: TopicPartition) -> int | None:
        return self.inner.lease(self._there(source))

    def close(self) -> None:
        self.inner.close()


def _here(space: str, message: Message) -> Message:
    return replace(message, topic=message.topic.removeprefix(f"{space}."))


@dataclass
class SpacedView:
    """What is seen of a space."""

    inner: KafkaView
    space: str

    def create(self, topics: Mapping[str, int]) -> list[str]:
        return self.inner.create({f"{self.space}.{name}": n for name, n in topics.items()})

    def partitions(self) -> dict[str, int]:
        start = f"{self.space}."
        return {
            name.removeprefix(start): count
            for name, count in self.inner.partitions().items()
            if name.startswith(start)
        }

    def ends(self, topic: str) -> dict[int, tuple[int, int]]:
        return self.inner.ends(f"{self.space}.{topic}")

    def committed(self, group: str) -> dict[TopicPartition, int]:
        found = self.inner.committed(f"{self.space}.{group}")
        return {
            TopicPartition(source.topic.removeprefix(f"{self.space}."), source.partition): offset
            for source, offset in found.items()
        }

    def rewind(self, group: str) -> dict[TopicPartition, tuple[int, int]]:
        raise NotImplementedError("no phase rewinds")

    def scan(self, topic: str, start: Mapping[int, int] | None = None) -> Iterator[Message]:
        for message in self.inner.scan(f"{self.space}.{topic}", start):
            yield _here(self.space, message)

    def close(self) -> None:
        self.inner.close()


@dataclass(frozen=True)
class ServerParts(CountedParts):
    """Counted parts over the servers; the bucket's name is that of the space."""

    @property
    def space(self) -> str:
        return self.settings.objects.bucket

    @cached_property
    def view(self) -> LogView:
        return SpacedView(KafkaView(self.settings.log.kafka), self.space)

    def log(self, group: str = "", topics: Collection[str] = (), *more: Any) -> CountedLog:
        inner = KafkaLog(
            self.settings.log.kafka,
            f"{self.space}.{group}" if group else "",
            {f"{self.space}.{topic}" for topic in topics},
        )
        return CountedLog(SpacedLog(inner, self.space), self.points, commits=self.commits)


def put_back(parts: ServerParts, before: Parts) -> None:
    """Make the space, and put into it what lay in the embedded parts `before` a phase."""
    parts.view.create(dict.fromkeys((topic.name for topic in TOPICS), 1))
    store = S3Objects(
        parts.settings.objects.endpoint, parts.space, access_key=ACCESS_KEY, secret_key=SECRET_KEY,
        secure=False,
    )  # fmt: skip
    store.check(create=True)
    for key in before.objects.keys(""):
        store.put(key, before.objects.get(key))
    log = parts.log()
    log.commit(
        [
            Record(topic.name, m.key, m.value, m.headers, m.timestamp_ms)
            for topic in TOPICS
            for m in before.view.scan(topic.name)
        ],
        {},
    )
    log.close()


def armed(points: Points) -> None:
    """From here on the steps of this process's Kafka transactions are counted too."""

    class Counted:
        def __init__(self, config: Any) -> None:
            self._inner = Producer(config)

        def __getattr__(self, name: str) -> Any:
            method = getattr(self._inner, name)
            if name not in _STEPS:
                return method

            def call(*args: Any, **kwargs: Any) -> Any:
                with points.step(f"kafka.{name}"):
                    return method(*args, **kwargs)

            return call

    kafka_log.Producer = Counted  # type: ignore[assignment, attr-defined]


_STEPS = frozenset({"init_transactions", "begin_transaction", "produce", "flush",
                    "send_offsets_to_transaction", "commit_transaction"})  # fmt: skip


def until_whole(found: Any, wrong: Any, seconds: float = 20.0) -> Any:
    """What `found` gives once `wrong` finds nothing in it, or in the end.

    What lies behind a transaction that was left open shows when the broker has ended it.
    """
    deadline = time.monotonic() + seconds
    while True:
        got = found()
        if not wrong(got) or time.monotonic() > deadline:
            return got
        time.sleep(0.3)


if __name__ == "__main__":
    _keep()
