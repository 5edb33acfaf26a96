"""Members of groups that copy a topic into another: what several tests on Kafka do."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import pytest

from services.runtime.errors import Transient
from services.runtime.kafka_client import KafkaSettings
from services.runtime.kafka_log import KafkaLog
from services.runtime.kafka_view import KafkaView
from services.runtime.log import Lost, Message, Record, TopicPartition
from stack.broker import Broker, Cluster

Protocol = Literal["classic", "consumer"]
both_protocols = pytest.mark.parametrize("protocol", ["classic", "consumer"])

_REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 60.0

_MEMBER = """
import sys
from services.runtime.errors import Transient
from services.runtime.kafka_client import KafkaSettings
from services.runtime.kafka_log import KafkaLog
from services.runtime.log import Lost, Record
settings, group, source, target, mode = sys.argv[1:]
log = KafkaLog(KafkaSettings.model_validate_json(settings), group, [source])
while True:
    got = log.messages(3, 0.2)
    if mode == "open" and got:
        log._producer.begin_transaction()
        log._produce(log._producer, [Record(target, b"k", b"torn")], float("inf"))
        log._send_offsets(log._producer, {m.source: m.offset + 1 for m in got}, float("inf"))
    if mode in ("stop", "open") and got:
        print("read", flush=True)
        sys.stdin.readline()
    try:
        log.commit(
            [Record(target, m.key, m.value) for m in got], {m.source: m.offset + 1 for m in got}
        )
    except (Lost, Transient) as refused:
        print(type(refused).__name__, flush=True)
    else:
        if got:
            print("committed", flush=True)
"""


def settings_for(
    broker: Broker | Cluster, protocol: Protocol = "classic", **more: Any
) -> KafkaSettings:
    """Short times; a test that needs others gives them."""
    return KafkaSettings(
        bootstrap=broker.bootstrap,
        group_protocol=protocol,
        replication_factor=1,
        **{"session_timeout_s": 2.0, "poll_timeout_s": 60.0, **more},
    )


def topics(settings: KafkaSettings, count: int = 0, partitions: int = 2) -> tuple[str, str, str]:
    """A group, a source with `count` messages and an empty target."""
    own = uuid.uuid4().hex[:12]
    group, source, target = f"g-{own}", f"source-{own}", f"target-{own}"
    KafkaView(settings).create({source: partitions, target: 1})
    with closing(KafkaLog(settings)) as writer:
        writer.commit([Record(source, b"k%d" % n, b"%d" % n) for n in range(count)], {})
    return group, source, target


def until(found: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not found():
        assert time.monotonic() < deadline, "waited in vain"


def take(log: KafkaLog, count: int) -> list[Message]:
    got: list[Message] = []

    def enough() -> bool:
        with suppress(Transient):
            got.extend(log.messages(1_000, 0.2))
        return len(got) >= count

    until(enough)
    assert len(got) == count
    return got


def after(messages: list[Message]) -> dict[TopicPartition, int]:
    return {m.source: m.offset + 1 for m in sorted(messages, key=lambda m: m.offset)}


def copies(messages: list[Message], target: str) -> list[Record]:
    return [Record(target, m.key, m.value) for m in messages]


def copy(log: KafkaLog, target: str, limit: int = 100) -> int:
    """One turn of a loop that copies, with what the loop does when told to wait or of a loss.

    How many were copied for certain.
    """
    try:
        got = log.messages(limit, 0.1)
        deadline, last = time.monotonic() + PATIENCE_S, Transient("none", "no failure yet")
        while got:
            assert time.monotonic() < deadline, f"no commit succeeded: {last}"
            try:
                log.commit(copies(got, target), after(got))
            except Lost as lost:
                got = [m for m in got if m.source not in lost.sources]
            except Transient as failure:
                last = failure
                with suppress(Transient):
                    assert log.messages(0, 0.1) == []
                got = [m for m in got if m.lease == log.lease(m.source)]
            else:
                return len(got)
    except Transient:
        pass
    return 0


def written(settings: KafkaSettings, topic: str) -> Counter[bytes | None]:
    return Counter(message.value for message in KafkaView(settings).scan(topic))


def numbers(count: int) -> Counter[bytes | None]:
    return Counter(b"%d" % n for n in range(count))


@contextmanager
def member(
    settings: KafkaSettings, group: str, source: str, target: str, mode: str
) -> Iterator[subprocess.Popen[str]]:
    arguments = [settings.model_dump_json(), group, source, target, mode]
    with subprocess.Popen(
        [sys.executable, "-c", _MEMBER, *arguments],
        cwd=_REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()
