"""Stages of the real loop on a real broker, in threads of the test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient

from schemas import events as e
from schemas.examples import EXAMPLES
from schemas.topics import ENDED, ERASED, TOPICS
from services.runtime.codec import Codec, FolderRegistry
from services.runtime.kafka_client import KafkaSettings
from services.runtime.kafka_log import KafkaLog, Statistics
from services.runtime.kafka_view import KafkaView
from services.runtime.log import Message, TopicPartition
from services.runtime.loop import run
from services.runtime.observe import Observer
from services.runtime.process import topics_of
from services.runtime.settings import Policy
from services.runtime.stage import Envelope, Output, Stage

HAPPY: e.CallEnded = EXAMPLES["CallEnded"]["happy"]
PARTITIONS = 3


def copy(envelope: Envelope[e.CallEnded]) -> list[Output]:
    """One erasure per call that ended."""
    call = envelope.event
    erased = e.CallErased(
        tenant_id=call.tenant_id, call_id=call.call_id, erased_at=call.ended_at,
        requested_by=envelope.id,
    )  # fmt: skip
    return [Output(erased)]


@dataclass
class Member:
    """A stage at work in a thread."""

    stop: threading.Event
    observer: Observer
    thread: threading.Thread
    statistics: list[Statistics] = field(default_factory=list)
    failure: list[BaseException] = field(default_factory=list)

    def counted(self, metric: str, **labels: str) -> float:
        """The metric's value, summed over the labels that are not named."""
        return sum(
            sample.value
            for family in self.observer.registry.collect()
            for sample in family.samples
            if sample.name == metric and labels.items() <= sample.labels.items()
        )


class Stages:
    """The catalogue's topics on a broker that others use too, and a tenant of this test's own."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings
        self.view = KafkaView(settings)
        self.view.create({topic.name: PARTITIONS for topic in TOPICS})
        self.tenant = f"tenant-{uuid4().hex[:12]}"
        self.codec = Codec(FolderRegistry())
        self._starts = {topic.name: self._ends(topic.name) for topic in TOPICS}

    def _ends(self, topic: str) -> dict[int, int]:
        return {number: end for number, (_, end) in self.view.ends(topic).items()}

    def begin(self, stage: Stage) -> None:
        """Let the stage's group begin where this test did."""
        admin = AdminClient({"bootstrap.servers": self.settings.bootstrap})
        parts = [
            KafkaPartition(topic, number, end)
            for topic in topics_of(stage)
            for number, end in self._starts[topic].items()
        ]
        wanted = [ConsumerGroupTopicPartitions(stage.name, parts)]
        admin.alter_consumer_group_offsets(wanted)[stage.name].result(30)

    def send(self, *calls: str) -> None:
        """Calls that ended, in this order."""
        records = [
            self.codec.encode(
                replace(HAPPY, tenant_id=self.tenant, call_id=call, event_id=f"evt-{call}"),
                id=f"{self.tenant}-{call}", source="/test", time=datetime.now(UTC),
            )
            for call in calls
        ]  # fmt: skip
        log = KafkaLog(self.settings)
        log.commit(records, {})
        log.close()

    @contextmanager
    def running(
        self, stage: Stage, policy: Policy, settings: KafkaSettings | None = None
    ) -> Iterator[Member]:
        """A member of the stage's group; stopped on leaving, and what ended it is raised."""
        stop, observer = threading.Event(), Observer()
        member = Member(stop, observer, threading.Thread())

        def work() -> None:
            try:
                log = KafkaLog(
                    settings or self.settings, stage.name, topics_of(stage),
                    on_statistics=member.statistics.append,
                )  # fmt: skip
                run(stage, log, self.codec, stop, observer, policy)
            except BaseException as error:
                member.failure.append(error)

        member.thread = threading.Thread(target=work, daemon=True)
        member.thread.start()
        try:
            yield member
        finally:
            stop.set()
            member.thread.join(60)
        assert not member.thread.is_alive()
        if member.failure:
            raise member.failure[0]

    def written(self, topic: str) -> list[Message]:
        """Messages of this test's calls on `topic`."""
        return [
            message
            for message in self.view.scan(topic, self._starts[topic])
            if (message.key or b"").startswith(f"{self.tenant}/".encode())
        ]

    def copied(self) -> list[str]:
        """Calls that the copying stage has written."""
        return [call_of(message) for message in self.written(ERASED)]

    def committed(self, stage: Stage) -> dict[TopicPartition, int]:
        return self.view.committed(stage.name)


def call_of(message: Message) -> str:
    return (message.key or b"").decode().partition("/")[2]


def stage_of(handle: Callable[..., Any], **changes: Any) -> Stage:
    """A stage of a group of its own that reads ended calls and writes one erasure each."""
    made = Stage(f"copy-{uuid4().hex[:12]}", (ENDED,), (ERASED,), handle)
    return replace(made, **changes)
