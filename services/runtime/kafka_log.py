"""The production log: Apache Kafka 4, or what speaks its protocol. The only importer of
confluent_kafka.

A commit is one Kafka transaction: records and the group's offsets become visible together or not at
all (KIP-447). It opens after the work and lasts only as long as the commit. What a commit is fenced
by is the group's own state: the broker refuses offsets under a generation that has passed.
"""

from __future__ import annotations

import struct
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeVar

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
)
from confluent_kafka import Message as KafkaMessage
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import NewTopic
from pydantic import BaseModel, ConfigDict, Field

from schemas.topics import BY_NAME, DEAD_LETTER, RETRY_TIERS
from services.runtime.errors import Transient
from services.runtime.log import Lost, Message, Record, TooLarge, TopicPartition

T = TypeVar("T")

# The broker says that this member is none, so none of its partitions is its own any more.
_EXPELLED = frozenset(
    {KafkaError.UNKNOWN_MEMBER_ID, KafkaError.FENCED_MEMBER_EPOCH, KafkaError.FENCED_INSTANCE_ID}
)
# The group is rebalancing; the next call of messages() tells what is still this member's.
_BETWEEN_GENERATIONS = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION, KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.STALE_MEMBER_EPOCH,
    }
)  # fmt: skip
# Partitions change their leaders, or a transaction is just being ended: ask again.
_MOVING = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
    }
)  # fmt: skip
# Nothing is served until a person mends it, or for a while; the client itself keeps trying.
_OUTAGES = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN, KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
    }
)  # fmt: skip
# consume() does not let go for signals while it waits.
_SLICE_S = 0.25
_SCAN_BATCH = 1_000
_FAR_MESSAGES = 100
_FAR_BYTES = 4_000_000
# What waits or is refused carries its whole value and more headers than it came with: these topics
# take more than brokers allow by default (1,048,588 bytes), and so does the client (1,000,000).
_ROOMY = frozenset({DEAD_LETTER, *(tier.topic for tier in RETRY_TIERS)})
_LARGEST_RECORD_BYTES = 2 * 1_048_576


class KafkaSettings(BaseModel):
    """How to reach Kafka, and how a member behaves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap: str = Field("localhost:9092", description="host:port of some brokers, by commas.")
    group_protocol: Literal["classic", "consumer"] = Field(
        "classic",
        description="classic: cooperative-sticky, any broker. consumer: KIP-848, Kafka 4.0 and "
        "newer; session times are the broker's.",
    )
    session_timeout_s: float = Field(
        30.0, gt=0, description="A member that is silent for this long is dead (classic only)."
    )
    poll_timeout_s: float = Field(
        300.0, gt=0, description="A member that does not ask for messages for this long leaves."
    )
    transaction_timeout_s: float = Field(
        30.0, gt=0, description="A commit takes no longer; the broker aborts it after that."
    )
    request_timeout_s: float = Field(
        15.0, gt=0, description="How long to wait for the broker's answer to a question."
    )
    replication_factor: int = Field(3, ge=1, description="Copies of each topic that is created.")
    extra: dict[str, str] = Field(
        default_factory=dict,
        repr=False,
        description="librdkafka options for every client: security.protocol, sasl.*, ssl.*. What "
        "has a setting of its own, and what delivery rests on, cannot be set here.",
    )


class KafkaLog:
    """A `Log` on Kafka. Implements the contract of `services.runtime.log.Log`.

    Without a group it only writes. Raises ValueError for a topic that is not there, `Transient`
    where the brokers do not answer.

    A commit whose outcome cannot be learned (the broker went away while it was asked to commit)
    raises `Lost`: the partitions are read again from wherever the group's offsets then stand, under
    a new lease. Without offsets it raises `Transient` with the reason commit_in_doubt: then the
    records may have been written, and are written again by whoever retries.
    """

    def __init__(
        self, settings: KafkaSettings, group: str = "", topics: Collection[str] = ()
    ) -> None:
        self._settings = settings
        self._group = group
        self._id = f"{group or 'writer'}-{uuid.uuid4().hex}"
        self._leases: dict[TopicPartition, int] = {}
        self._lease_number = 0
        self._paused: set[TopicPartition] = set()
        self._doubtful: set[TopicPartition] = set()
        self._ahead: dict[TopicPartition, deque[Message]] = {}
        self._trouble: KafkaError | None = None
        self._producer: Producer | None = None
        self._topics: set[str] = set()
        self._closed = False
        self._consumer: Consumer | None = None
        if group:
            self._require(topics)
            with _answered(settings):
                self._consumer = Consumer(self._consumer_config())
                self._consumer.subscribe(
                    sorted(topics), on_assign=self._on_assign, on_revoke=self._on_revoke,
                    on_lost=self._on_revoke,
                )  # fmt: skip

    def _consumer_config(self) -> dict[str, Any]:
        classic = {
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": _ms(self._settings.session_timeout_s),
            "heartbeat.interval.ms": _ms(self._settings.session_timeout_s / 10),
        }
        return {
            # What is read ahead is thrown away by a pause.
            "queued.max.messages.kbytes": 16_384,
            "fetch.wait.max.ms": 100,
            **_client(self._settings),
            "group.id": self._group,
            "group.protocol": self._settings.group_protocol,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "max.poll.interval.ms": _ms(self._settings.poll_timeout_s),
            "error_cb": self._on_error,
            **(classic if self._settings.group_protocol == "classic" else {}),
        }

    # Reading

    def messages(
        self, limit: int, wait_s: float, hold: Collection[TopicPartition] = ()
    ) -> list[Message]:
        consumer = self._consumer
        if consumer is None:
            return []
        deadline = time.monotonic() + wait_s
        with _answered(self._settings):
            self._settle(consumer)
            while True:
                self._pause(consumer)
                open_ = [source for source in self._ahead if source not in hold]
                wanted = limit - sum(len(self._ahead[source]) for source in open_)
                ready = limit > 0 and wanted < limit
                left = 0.0 if ready else max(0.0, deadline - time.monotonic())
                # Always one, for membership lives by it; and one first, for a wait for many ends
                # only when all of them are there.
                taken = consumer.consume(1, min(left, _SLICE_S))
                if taken and wanted > 1:
                    taken += consumer.consume(wanted - 1, 0.0)
                for raw in taken:
                    self._read(raw)
                if found := self._give(limit, hold):
                    return found
                if self._trouble is not None:
                    trouble, self._trouble = self._trouble, None
                    raise KafkaException(trouble)
                if time.monotonic() >= deadline:
                    return []

    def _read(self, raw: KafkaMessage) -> None:
        error = raw.error()
        if error is None:
            message = _message(raw)
            lease = self._leases.get(message.source)
            if lease is not None:
                ahead = self._ahead.setdefault(message.source, deque())
                ahead.append(replace(message, lease=lease))
        elif error.code() != KafkaError._MAX_POLL_EXCEEDED and not error.retriable():
            # Told when nothing is found: what was read beside it is not lost.
            self._trouble = error

    def _give(self, limit: int, hold: Collection[TopicPartition]) -> list[Message]:
        """Up to `limit` of what was read ahead, some of each partition."""
        found: list[Message] = []
        sources = [source for source in self._ahead if source not in hold]
        for at, source in enumerate(sources):
            ahead = self._ahead.pop(source)
            share = max(1, (limit - len(found)) // (len(sources) - at))
            while ahead and share and len(found) < limit:
                found.append(ahead.popleft())
                share -= 1
            if ahead:
                self._ahead[source] = ahead  # now the last in turn
        return found

    def _pause(self, consumer: Consumer) -> None:
        """Pause what is far ahead; a pause for every hold would fetch the same again and again."""
        wanted = {source for source, ahead in self._ahead.items() if _is_far(ahead)}
        if pause := wanted - self._paused:
            consumer.pause(_partitions(pause))
        if resume := self._paused - wanted:
            consumer.resume(_partitions(resume))
        self._paused = wanted

    def lease(self, source: TopicPartition) -> int | None:
        return self._leases.get(source)

    # Membership

    def _on_assign(self, consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        consumer.incremental_assign(partitions)
        for taken in partitions:
            self._lease_number += 1
            self._leases[TopicPartition(taken.topic, taken.partition)] = self._lease_number

    def _on_revoke(self, consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        sources = {TopicPartition(gone.topic, gone.partition) for gone in partitions}
        self._drop(sources)
        self._doubtful -= sources
        consumer.incremental_unassign(partitions)

    def _drop(self, sources: Collection[TopicPartition]) -> None:
        """End the leases; an assignment begins without a pause."""
        for source in sources:
            self._leases.pop(source, None)
            self._ahead.pop(source, None)
        self._paused.difference_update(sources)

    def _on_error(self, error: KafkaError) -> None:
        if error.code() in _OUTAGES or error.fatal():
            self._trouble = error

    def _settle(self, consumer: Consumer) -> None:
        """Read again what a commit left in doubt; a new producer ends what the old one began."""
        if not self._doubtful:
            return
        self._ready_producer(time.monotonic() + self._settings.request_timeout_s)
        partitions = _partitions(self._doubtful)
        self._doubtful = set()
        consumer.incremental_unassign(partitions)
        self._on_assign(consumer, partitions)

    # Writing

    def commit(self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]) -> None:
        lost = {source for source in offsets if source not in self._leases}
        if lost:
            raise Lost(lost)
        if not records and not offsets:
            return
        self._require({record.topic for record in records})
        deadline = time.monotonic() + self._settings.transaction_timeout_s
        with _answered(self._settings):
            producer = self._ready_producer(deadline)
            asked = False
            try:
                producer.begin_transaction()
                self._produce(producer, records, deadline)
                if offsets:
                    self._send_offsets(producer, offsets, deadline)
                asked = True
                _persist(producer.commit_transaction, deadline)
            except Exception as failure:
                self._abandon(producer, failure, asked, offsets)
                raise

    def _produce(self, producer: Producer, records: Sequence[Record], deadline: float) -> None:
        # Of this commit only: reports of one that was given up may come during the next.
        failed: list[tuple[KafkaError, Record]] = []

        def on_delivery(record: Record, error: KafkaError | None, message: KafkaMessage) -> None:
            if error is not None:
                failed.append((error, record))

        for record in records:
            while True:
                try:
                    producer.produce(
                        record.topic, record.value, record.key,
                        on_delivery=partial(on_delivery, record), headers=list(record.headers),
                        timestamp=record.timestamp_ms or 0,
                    )  # fmt: skip
                except BufferError:
                    producer.poll(0.1)
                    if time.monotonic() > deadline:
                        raise KafkaException(KafkaError(KafkaError._QUEUE_FULL)) from None
                    continue
                except KafkaException as failure:
                    if failure.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
                        raise _too_large(record, "message.max.bytes of the client") from failure
                    raise
                break
        if producer.flush(max(0.0, deadline - time.monotonic())):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        # What is too large is so in a batch, and others fail with it: the largest is at fault.
        large = [
            record for error, record in failed if error.code() == KafkaError.MSG_SIZE_TOO_LARGE
        ]
        if large:
            largest = max(large, key=lambda record: len(record.value or b""))
            raise _too_large(largest, "max.message.bytes of the topic")
        if failed:
            raise KafkaException(failed[0][0])

    def _send_offsets(
        self, producer: Producer, offsets: Mapping[TopicPartition, int], deadline: float
    ) -> None:
        assert self._consumer is not None, "offsets are checked against leases"
        metadata = self._consumer.consumer_group_metadata()
        # Offsets without member and generation are taken unchecked, for clients older than KIP-447.
        if _generation(metadata) <= 0:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID))
        positions = [KafkaPartition(*source, offset) for source, offset in offsets.items()]
        _persist(
            lambda left: producer.send_offsets_to_transaction(positions, metadata, left), deadline
        )

    def _abandon(
        self,
        producer: Producer,
        failure: Exception,
        asked: bool,
        offsets: Mapping[TopicPartition, int],
    ) -> None:
        """End a transaction that failed; raises `Lost` where its partitions are no longer ours."""
        error = failure.args[0] if isinstance(failure, KafkaException) else None
        if asked and not (error is not None and error.txn_requires_abort()):
            self._producer = None
            self._doubtful |= offsets.keys()
            self._drop(offsets)
            if offsets:
                raise Lost(offsets.keys()) from failure
            raise Transient(
                "commit_in_doubt", f"{self._settings.bootstrap}: {failure}"
            ) from failure
        try:
            if error is not None and error.fatal():
                self._producer = None
            else:
                producer.abort_transaction(self._settings.request_timeout_s)
        except KafkaException:
            # Never asked to commit, so it will be aborted: by the next producer of this id, or by
            # the broker when its time is over.
            self._producer = None
        if error is None or error.code() not in _BETWEEN_GENERATIONS | _EXPELLED:
            # A client whose records failed may purge those of its next transaction too; a new one
            # begins anew, whatever state this one is in.
            self._producer = None
        if error is not None and error.code() in _EXPELLED:
            self._drop(list(self._leases))
            raise Lost(offsets.keys()) from failure
        if error is not None and error.code() in _BETWEEN_GENERATIONS:
            raise Transient("rebalancing", f"group {self._group}: {error.str()}") from failure

    def _ready_producer(self, deadline: float) -> Producer:
        if self._producer is None:
            producer = Producer(
                {
                    "compression.type": "lz4",
                    **_client(self._settings),
                    "partitioner": "murmur2_random",
                    # The same for every producer of this member: each new one ends what its
                    # forerunner left open.
                    "transactional.id": self._id,
                    "transaction.timeout.ms": _ms(self._settings.transaction_timeout_s),
                    "delivery.report.only.error": True,
                    "message.max.bytes": _LARGEST_RECORD_BYTES,
                    # Bootstrapped again, librdkafka keeps its cached group coordinator, an ended
                    # connection: offsets sent through it wait for ever, whatever their timeout. A
                    # producer is made anew after failures, and bootstraps then.
                    "metadata.recovery.strategy": "none",
                    "error_cb": self._on_error,
                }
            )
            _persist(producer.init_transactions, deadline)
            self._producer = producer
        return self._producer

    def _require(self, topics: Collection[str]) -> None:
        if self._topics.issuperset(topics):
            return
        with _answered(self._settings):
            self._topics = set(_topics(AdminClient(_client(self._settings)), self._settings))
        if missing := sorted(set(topics) - self._topics):
            raise ValueError(f"no such topic: {', '.join(missing)}; create it first")

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._leases.clear()
        self._producer = None
        if self._consumer is not None:
            with _answered(self._settings):
                self._consumer.close()


class KafkaView:
    """A `LogView` of Kafka. A commit's messages may show a moment after the commit returned."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        with _answered(settings):
            self._admin = AdminClient(_client(settings))

    def create(self, topics: Mapping[str, int]) -> list[str]:
        """Create what is missing, with cleanup and retention of the catalogue where it is there."""
        have = self.partitions()
        missing = [name for name in topics if name not in have]
        made = []
        with _answered(self._settings):
            new = [
                NewTopic(name, topics[name], self._settings.replication_factor, config=_kept(name))
                for name in missing
            ]
            timeout_s = self._settings.request_timeout_s
            pending = self._admin.create_topics(new, operation_timeout=timeout_s) if new else {}
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
        with _answered(self._settings):
            return _topics(self._admin, self._settings)

    def ends(self, topic: str) -> dict[int, tuple[int, int]]:
        """As `LogView.ends`; transaction markers count among the offsets."""
        count = self.partitions().get(topic, 0)
        parts = [KafkaPartition(topic, number) for number in range(count)]

        def asked(spec: OffsetSpec) -> dict[int, int]:
            answers = self._admin.list_offsets(
                dict.fromkeys(parts, spec),
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=self._settings.request_timeout_s,
            )
            return {part.partition: answer.result().offset for part, answer in answers.items()}

        firsts = self._ask(lambda: asked(OffsetSpec.earliest()))  # type: ignore[no-untyped-call]
        ends = self._ask(lambda: asked(OffsetSpec.latest()))  # type: ignore[no-untyped-call]
        return {number: (firsts[number], ends[number]) for number in range(count)}

    def committed(self, group: str) -> dict[TopicPartition, int]:
        # Each partition is named: of all that a group has, the broker leaves out those whose first
        # commit is just being ended, instead of saying so.
        parts = [
            KafkaPartition(topic, number)
            for topic, count in self.partitions().items()
            for number in range(count)
        ]

        def asked() -> list[KafkaPartition]:
            answers = self._admin.list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group, parts)],
                require_stable=True,
                request_timeout=self._settings.request_timeout_s,
            )
            found = answers[group].result().topic_partitions or []
            for partition in found:
                if partition.error is not None:
                    raise KafkaException(partition.error)
            return found

        found = self._ask(asked) if parts else []
        return {TopicPartition(p.topic, p.partition): p.offset for p in found if p.offset >= 0}

    def _ask(self, question: Callable[[], T]) -> T:
        deadline = time.monotonic() + self._settings.request_timeout_s
        with _answered(self._settings):
            while True:
                try:
                    return question()
                except KafkaException as failure:
                    code = failure.args[0].code()
                    if code not in _MOVING or time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)

    def scan(self, topic: str, start: Mapping[int, int] | None = None) -> Iterator[Message]:
        """As `LogView.scan`; partitions are interleaved, each in its order."""
        begin = {
            number: max(first, (start or {}).get(number, 0))
            for number, (first, end) in self.ends(topic).items()
            if max(first, (start or {}).get(number, 0)) < end
        }
        if not begin:
            return
        consumer = Consumer(
            {
                **_client(self._settings),
                "group.id": f"scan-{uuid.uuid4().hex}",
                "fetch.wait.max.ms": 20,
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                # The end is told: the last offset may be a transaction marker, never a message.
                "enable.partition.eof": True,
            }
        )
        try:
            with _answered(self._settings):
                consumer.assign([KafkaPartition(topic, p, at) for p, at in begin.items()])
                yield from self._until_ends(consumer, topic, set(begin))
        finally:
            consumer.close()

    def _until_ends(self, consumer: Consumer, topic: str, open_: set[int]) -> Iterator[Message]:
        ends = {number: end for number, (_, end) in self.ends(topic).items()}
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
                    yield _message(raw)
                if offset + 1 >= ends[number]:
                    open_.discard(number)
            if time.monotonic() > deadline:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    def close(self) -> None:
        """Nothing is held."""


def _client(settings: KafkaSettings) -> dict[str, Any]:
    return {
        # Errors come back through exceptions and callbacks; the client's own lines only repeat it.
        "log_level": 2,
        "allow.auto.create.topics": False,
        **settings.extra,
        "bootstrap.servers": settings.bootstrap,
    }


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


@contextmanager
def _answered(settings: KafkaSettings) -> Iterator[None]:
    """What the client raises, as `Transient` with the brokers' address.

    A setting that it refuses is a ValueError instead: waiting would not mend it.
    """
    try:
        yield
    except KafkaException as failure:
        error = failure.args[0]
        if error.code() == KafkaError._INVALID_ARG:
            raise ValueError(f"the Kafka client refuses its settings: {error.str()}") from failure
        raise Transient(
            "log_down", f"{settings.bootstrap}: {error.name()}: {error.str()}"
        ) from failure


def _persist(call: Callable[[float], object], deadline: float) -> None:
    """Call with the seconds left, again after each error that the client calls retriable."""
    while True:
        try:
            call(max(0.1, deadline - time.monotonic()))
        except KafkaException as failure:
            if not failure.args[0].retriable() or time.monotonic() >= deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _generation(metadata: bytes) -> int:
    """The generation (or epoch) in librdkafka's group metadata; at most 0 outside the group."""
    magic = b"CGMDv2:"
    if not metadata.startswith(magic):
        raise RuntimeError(
            f"group metadata begin with {metadata[:7]!r}; this librdkafka is unknown"
        )
    return int(struct.unpack_from("=i", metadata, len(magic))[0])


def _topics(admin: AdminClient, settings: KafkaSettings) -> dict[str, int]:
    found = admin.list_topics(timeout=settings.request_timeout_s).topics
    return {
        name: len(topic.partitions)
        for name, topic in found.items()
        if topic.error is None and not name.startswith("__")
    }


def _kept(name: str) -> dict[str, str]:
    topic = BY_NAME.get(name)
    if topic is None:
        return {}
    if topic.cleanup == "compact":
        return {"cleanup.policy": "compact"}
    room = {"max.message.bytes": str(_LARGEST_RECORD_BYTES)} if name in _ROOMY else {}
    return {"cleanup.policy": topic.cleanup, "retention.ms": str(topic.retention_ms), **room}


def _too_large(record: Record, limit: str) -> TooLarge:
    size = len(record.value or b"") + len(record.key or b"")
    return TooLarge(
        record,
        f"a record of {size} bytes for {record.topic}, without its headers, is beyond {limit}; "
        "raise it, or carry the body in the object store",
    )


def _is_far(ahead: Collection[Message]) -> bool:
    return (
        len(ahead) >= _FAR_MESSAGES
        or sum(len(message.value or b"") for message in ahead) >= _FAR_BYTES
    )


def _partitions(sources: Collection[TopicPartition]) -> list[KafkaPartition]:
    return [KafkaPartition(source.topic, source.partition) for source in sources]


def _message(raw: KafkaMessage) -> Message:
    topic, partition, offset = raw.topic(), raw.partition(), raw.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    headers: Any = raw.headers() or ()
    return Message(
        topic,
        partition,
        offset,
        raw.key(),
        raw.value(),
        tuple((name, b"" if value is None else value) for name, value in headers),
        raw.timestamp()[1],
    )
