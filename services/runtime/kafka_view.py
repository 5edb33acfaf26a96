"""The Kafka log as operators and commands see it: topics made and checked, messages read without a
group, groups moved.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
)
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic

from schemas.topics import BY_NAME, DEAD_LETTER, RETRY_TIERS, Topic
from services.runtime.errors import Transient
from services.runtime.kafka_client import (
    LARGEST_RECORD_BYTES,
    Connection,
    KafkaSettings,
    message_of,
)
from services.runtime.log import Message, TopicPartition

T = TypeVar("T")

# Partitions change their leaders, or a transaction is just being ended: ask again.
_MOVING = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
    }
)  # fmt: skip
_SCAN_BATCH = 1_000
# What waits or is refused carries its whole value and more headers than it came with: these topics
# take more than brokers allow by default.
_ROOMY = frozenset({DEAD_LETTER, *(tier.topic for tier in RETRY_TIERS)})
_BROKERS_LARGEST_BYTES = 1_048_588


@dataclass(frozen=True, slots=True)
class Drift:
    """One thing about a topic that is not as the catalogue says."""

    topic: str
    what: str
    wanted: str
    found: str
    mend: str
    """What a person does about it; empty where `KafkaView.fix` does it, and nothing is lost."""


class KafkaView:
    """A `LogView` of Kafka. A commit's messages may show a moment after the commit returned."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._connection = Connection(settings)
        self._admin: AdminClient | None = None
        self._reader: Consumer | None = None
        with self._asking():
            """A setting that the client refuses is told at once."""

    @contextmanager
    def _asking(self) -> Iterator[AdminClient]:
        """The client; after a failure new ones are made, which look for the brokers anew."""
        try:
            with self._connection.answered():
                self._admin = admin = self._admin or self._connection.admin()
                yield admin
        except Transient:
            self._admin = self._reader = None
            raise

    def create(self, topics: Mapping[str, int]) -> list[str]:
        """Create what is missing, with cleanup and retention of the catalogue where it is there."""
        have = self.partitions()
        missing = [name for name in topics if name not in have]
        made = []
        with self._asking() as admin:
            new = [
                NewTopic(
                    name,
                    topics[name],
                    self._settings.replication_factor,
                    config=_wanted(BY_NAME.get(name)),
                )
                for name in missing
            ]
            timeout_s = self._settings.request_timeout_s
            pending = admin.create_topics(new, operation_timeout=timeout_s) if new else {}
            for name, future in pending.items():
                try:
                    future.result(timeout_s)
                except KafkaException as failure:
                    if failure.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                        raise
                else:
                    made.append(name)
            deadline = time.monotonic() + timeout_s
            while not self.partitions().keys() >= set(topics):
                if time.monotonic() > deadline:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
                time.sleep(0.05)
        return made

    def partitions(self) -> dict[str, int]:
        with self._asking() as admin:
            return self._connection.topics(admin)

    def ends(self, topic: str) -> dict[int, tuple[int, int]]:
        """As `LogView.ends`; transaction markers count among the offsets."""
        # Kept, for most of the time that a question takes goes to making a client.
        self._reader = reader = self._reader or self._consumer()
        return self._ask(lambda _: self._ends(reader, topic))

    def _ends(self, reader: Consumer, topic: str) -> dict[int, tuple[int, int]]:
        timeout_s = self._settings.request_timeout_s
        told = reader.list_topics(topic, timeout_s).topics[topic]
        if told.error is not None and told.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise KafkaException(told.error)

        def asked(which: int) -> dict[int, int]:
            wanted = [KafkaPartition(topic, number, which) for number in told.partitions]
            found = reader.offsets_for_times(wanted, timeout_s) if wanted else []
            for partition in found:
                if partition.error is not None:
                    raise KafkaException(partition.error)
            return {partition.partition: partition.offset for partition in found}

        firsts, ends = asked(OFFSET_BEGINNING), asked(OFFSET_END)
        return {number: (firsts[number], ends[number]) for number in sorted(told.partitions)}

    def _consumer(self, group: str = "", options: Mapping[str, Any] | None = None) -> Consumer:
        """A client that reads what is committed, and joins nothing.

        It answers questions about offsets too: of what the admin client sends to a coordinator,
        some answers end the process (librdkafka issues 5040 and 4605: a coordinator that has moved,
        a connection that breaks).
        """
        return Consumer(
            {
                **self._connection.config(),
                "group.id": group or f"view-{uuid.uuid4().hex}",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                **(options or {}),
            }
        )

    def committed(self, group: str) -> dict[TopicPartition, int]:
        # Each partition is named: of all that a group has, the broker leaves out those whose first
        # commit is just being ended, instead of saying so.
        parts = [
            KafkaPartition(topic, number)
            for topic, count in self.partitions().items()
            for number in range(count)
        ]

        if not parts:
            return {}
        # Offsets of a transaction that is just being ended are waited for.
        reader = self._consumer(group)

        def asked(_: AdminClient) -> list[KafkaPartition]:
            found = reader.committed(parts, self._settings.request_timeout_s)
            for partition in found:
                if partition.error is not None:
                    raise KafkaException(partition.error)
            return found

        try:
            found = self._ask(asked)
        finally:
            reader.close()
        return {TopicPartition(p.topic, p.partition): p.offset for p in found if p.offset >= 0}

    def rewind(self, group: str) -> dict[TopicPartition, tuple[int, int]]:
        """As `LogView.rewind`."""
        if members := self._ask(partial(self._members, group)):
            raise ValueError(
                f"group {group} has {members} members: stop them first; one that was killed, or "
                "has a group_instance_id, counts until its session has timed out"
            )
        moved: dict[TopicPartition, tuple[int, int]] = {}
        ends: dict[str, dict[int, tuple[int, int]]] = {}
        for source, offset in self.committed(group).items():
            if source.topic not in ends:
                ends[source.topic] = self.ends(source.topic)
            first, end = ends[source.topic][source.partition]
            if not first <= offset <= end:
                moved[source] = (offset, first)
        if moved:
            parts = [KafkaPartition(*source, first) for source, (_, first) in moved.items()]
            timeout_s = self._settings.request_timeout_s

            def move(admin: AdminClient) -> None:
                wanted = [ConsumerGroupTopicPartitions(group, parts)]
                answers = admin.alter_consumer_group_offsets(wanted, request_timeout=timeout_s)
                for partition in answers[group].result().topic_partitions or []:
                    if partition.error is not None:
                        raise KafkaException(partition.error)

            self._ask(move)
        return moved

    def _members(self, group: str, admin: AdminClient) -> int:
        answers = admin.describe_consumer_groups(
            [group], request_timeout=self._settings.request_timeout_s
        )
        try:
            return len(answers[group].result().members)
        except KafkaException as failure:
            if failure.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return 0
            raise

    def _ask(self, question: Callable[[AdminClient], T]) -> T:
        deadline = time.monotonic() + self._settings.request_timeout_s
        with self._asking() as admin:
            while True:
                try:
                    return question(admin)
                except KafkaException as failure:
                    code = failure.args[0].code()
                    if code not in _MOVING or time.monotonic() > deadline:
                        admin.poll(0)  # what it complained of
                        raise
                    time.sleep(0.05)

    # Topics against the catalogue

    def drifts(self, topics: Sequence[Topic]) -> list[Drift]:
        """In what the topics that are there differ from what the catalogue says."""
        found = self._ask(self._described)
        names = [topic.name for topic in topics if topic.name in found]
        kept = self._ask(partial(self._configured, names)) if names else {}
        drifts: list[Drift] = []
        for topic in topics:
            if topic.name in found:
                partitions, copies = found[topic.name]
                drifts += self._shape(topic, partitions, copies)
                drifts += _keeping(topic, kept[topic.name])
        return drifts

    def offsets_kept_ms(self) -> int | None:
        """How long the brokers keep the offsets of a group without members; the shortest of them.

        A stage that is stopped for longer begins anew, and what retention took meanwhile is passed
        over silently. None where the brokers do not tell.
        """
        try:
            return self._ask(self._offsets_kept)
        except Transient as failure:
            if failure.reason == "log_refused":
                return None
            raise

    def _offsets_kept(self, admin: AdminClient) -> int:
        brokers = admin.list_topics(timeout=self._settings.request_timeout_s).brokers
        name = "offsets.retention.minutes"
        answers = admin.describe_configs(
            [ConfigResource(ResourceType.BROKER, str(number)) for number in brokers]
        )
        kept = [
            int(answer.result(self._settings.request_timeout_s)[name].value)
            for answer in answers.values()
        ]
        return min(kept) * 60_000

    def fix(self, drifts: Sequence[Drift]) -> list[Drift]:
        """Alter what can be altered without loss; which that was."""
        mendable = [drift for drift in drifts if not drift.mend]
        changes: dict[str, list[ConfigEntry]] = {}
        for drift in mendable:
            entry = ConfigEntry(
                drift.what, drift.wanted, incremental_operation=AlterConfigOpType.SET
            )
            changes.setdefault(drift.topic, []).append(entry)
        resources = [
            ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
            for name, entries in changes.items()
        ]

        def alter(admin: AdminClient) -> None:
            for answer in admin.incremental_alter_configs(resources).values():
                answer.result(self._settings.request_timeout_s)

        if resources:
            self._ask(alter)
        return mendable

    def _described(self, admin: AdminClient) -> dict[str, tuple[int, int]]:
        """Topic -> number of partitions, and the fewest copies of one."""
        found = admin.list_topics(timeout=self._settings.request_timeout_s).topics
        return {
            name: (len(topic.partitions), min(len(p.replicas) for p in topic.partitions.values()))
            for name, topic in found.items()
            if topic.error is None and topic.partitions
        }

    def _configured(self, names: Sequence[str], admin: AdminClient) -> dict[str, dict[str, str]]:
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        answers = admin.describe_configs(resources)
        return {
            resource.name: {
                name: str(entry.value)
                for name, entry in answer.result(self._settings.request_timeout_s).items()
            }
            for resource, answer in answers.items()
        }

    def _shape(self, topic: Topic, partitions: int, copies: int) -> Iterator[Drift]:
        if partitions != topic.partitions:
            mend = (
                "let the stages read to the end and stop them, then kafka-topics.sh --alter "
                f"--topic {topic.name} --partitions {topic.partitions}: later events of a call "
                "lie in another partition than its earlier ones"
                if partitions < topic.partitions
                else "none is needed; partitions cannot be taken away"
            )
            yield Drift(topic.name, "partitions", str(topic.partitions), str(partitions), mend)
        wanted = self._settings.replication_factor
        if copies < wanted:
            yield Drift(
                topic.name, "replication", str(wanted), str(copies),
                "kafka-reassign-partitions.sh, or set CALLSTREAM_LOG__KAFKA__REPLICATION_FACTOR "
                "to what is meant",
            )  # fmt: skip

    def scan(self, topic: str, start: Mapping[int, int] | None = None) -> Iterator[Message]:
        """As `LogView.scan`; partitions are interleaved, each in its order."""
        ends = self.ends(topic)
        begin = {
            number: at
            for number, (first, end) in ends.items()
            if (at := max(first, (start or {}).get(number, 0))) < end
        }
        if not begin:
            return
        # The end is told: the last offset may be a transaction marker, never a message.
        consumer = self._consumer("", {"fetch.wait.max.ms": 20, "enable.partition.eof": True})
        try:
            with self._connection.answered():
                # Its leaders are known before it fetches, or it may be seconds until it asks.
                consumer.list_topics(topic, self._settings.request_timeout_s)
                consumer.assign([KafkaPartition(topic, p, at) for p, at in begin.items()])
                yield from self._until(
                    consumer, {number: end for number, (_, end) in ends.items() if number in begin}
                )
        finally:
            consumer.close()

    def _until(self, consumer: Consumer, ends: dict[int, int]) -> Iterator[Message]:
        open_ = set(ends)
        deadline = time.monotonic() + self._settings.request_timeout_s
        while open_:
            for raw in consumer.consume(_SCAN_BATCH, 0.05):
                deadline = time.monotonic() + self._settings.request_timeout_s
                error, number, offset = raw.error(), raw.partition(), raw.offset()
                assert number is not None
                assert offset is not None
                if error is not None:
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(error)
                    open_.discard(number)
                    continue
                if offset < ends[number]:
                    yield message_of(raw)
                if offset + 1 >= ends[number]:
                    open_.discard(number)
            if time.monotonic() > deadline:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    def close(self) -> None:
        """The reader ends with its last user; closing it waits for what another thread asks."""
        self._reader = None


def _wanted(topic: Topic | None) -> dict[str, str]:
    """The catalogue's settings of a topic, as the broker names them."""
    if topic is None:
        return {}
    if topic.cleanup == "compact":
        return {"cleanup.policy": "compact"}
    room = {"max.message.bytes": str(LARGEST_RECORD_BYTES)} if topic.name in _ROOMY else {}
    return {"cleanup.policy": topic.cleanup, "retention.ms": str(topic.retention_ms), **room}


def _keeping(topic: Topic, found: Mapping[str, str]) -> Iterator[Drift]:
    """What differs in how long and how large messages are kept."""
    wanted = {"max.message.bytes": str(_BROKERS_LARGEST_BYTES), **_wanted(topic)}
    for what, value in wanted.items():
        have = found.get(what, "")
        if have == value:
            continue
        mend = ""
        if what == "cleanup.policy":
            mend = (
                f"kafka-configs.sh --alter --topic {topic.name} --add-config {what}={value}: "
                "messages go that the other policy kept, so look first"
            )
        elif int(have) > int(value) or int(have) == -1:
            if what == "max.message.bytes":
                continue  # more room than asked for
            mend = (
                f"kafka-configs.sh --alter --topic {topic.name} --add-config {what}={value}: "
                "deletes what is older"
            )
        yield Drift(topic.name, what, value, have, mend)
