"""The production log: Apache Kafka 4, or what speaks its protocol.

A commit is one Kafka transaction: records and the group's offsets become visible together or not at
all (KIP-447). It opens after the work and lasts only as long as the commit. What a commit is fenced
by is the group's own state: the broker refuses offsets under a generation that has passed.
"""

from __future__ import annotations

import json
import struct
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka import Message as KafkaMessage
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient

from services.runtime.errors import Transient
from services.runtime.kafka_client import (
    LARGEST_RECORD_BYTES,
    REFUSALS,
    Connection,
    KafkaSettings,
    client_error,
    message_of,
    milliseconds,
)
from services.runtime.log import (
    Lost,
    Message,
    NoSuchTopic,
    OffsetGone,
    Record,
    TooLarge,
    TopicPartition,
    refuse_gone,
)

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
# Nothing is served until a person mends it, or for a while; the client itself keeps trying.
_OUTAGES = frozenset({KafkaError._ALL_BROKERS_DOWN, *REFUSALS})
# There is no offset to begin at, or none that is in the log.
_NOWHERE = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION})
_BEGINNING = -2
# Of several brokers one may not have heard yet of a topic that another has made.
_METADATA_S = 3.0
# consume() does not let go for signals while it waits.
_SLICE_S = 0.25
# Read ahead of one partition before it is paused; of all together; what the client itself keeps.
_FAR_MESSAGES = 100
_FAR_BYTES = 4_000_000
_AHEAD_BYTES = 64_000_000
_CLIENT_KIB = 16_384
# Offsets are moved past transaction markers this often: well within any retention.
_MARKERS_S = 600.0
# A consumer that hears nothing is asked whether it reaches a broker; so often that one which only
# waits to connect again (reconnect.backoff.max.ms) has done so meanwhile.
_PROBE_S = 3.0
_PROBES = 5


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the clients of one member say of themselves. Times are in seconds, sizes in bytes."""

    lag: Mapping[TopicPartition, int] = field(default_factory=dict)
    """Of each partition held: offsets between the group's and the last committed message."""
    ahead_messages: int = 0
    """Read, and not yet handed out."""
    fetch_queue_messages: int = 0
    fetch_queue_bytes: int = 0
    round_trip_s: Mapping[str, float] = field(default_factory=dict)
    """Broker -> 99th percentile of its answers' time."""
    rebalances: int = 0
    commits: int = 0
    aborts: int = 0
    in_doubt: int = 0
    """Commits of which nobody could say whether they took place."""
    partitions_lost: int = 0
    """Taken without being asked back."""


class KafkaLog:
    """A `Log` on Kafka. Implements the contract of `services.runtime.log.Log`.

    Without a group it only writes. Raises `NoSuchTopic` for a topic that is not there, `Transient`
    where the brokers do not answer. `on_statistics` is called in the owner's thread, while it reads
    or writes, every `statistics_s`.

    A commit whose outcome cannot be learned (the broker went away while it was asked to commit)
    raises `Lost`: the partitions are read again from wherever the group's offsets then stand, under
    a new lease. Without offsets it raises `Transient` with the reason commit_in_doubt: then the
    records may have been written, and are written again by whoever retries.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        group: str = "",
        topics: Collection[str] = (),
        on_statistics: Callable[[Statistics], None] | None = None,
        on_gone: Callable[[OffsetGone], None] = refuse_gone,
    ) -> None:
        self._settings = settings
        self._connection = Connection(settings)
        self._group = group
        name = settings.group_instance_id
        self._named = bool(group and name)
        self._followed = not self._named
        self._id = f"{group or 'writer'}-{name if self._named else uuid.uuid4().hex}"
        self._leases: dict[TopicPartition, int] = {}
        self._lease_number = 0
        self._paused: set[TopicPartition] = set()
        self._doubtful: set[TopicPartition] = set()
        self._ahead: dict[TopicPartition, deque[Message]] = {}
        # Offsets where nothing was found, None where none was committed.
        self._nowhere: dict[TopicPartition, int | None] = {}
        # Of what is held: the offset after the last message handed out, after the last committed by
        # this member, and where the log ended when it was last read up to there.
        self._given: dict[TopicPartition, int] = {}
        self._done: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._markers_at = time.monotonic() + _MARKERS_S
        self._heard_at = time.monotonic()
        self._fenced_at = float("-inf")
        self._unanswered = 0
        self._trouble: KafkaError | None = None
        self._producer: Producer | None = None
        self._topics: set[str] = set()
        self._closed = False
        self._on_statistics, self._on_gone = on_statistics, on_gone
        self._statistics = Statistics()
        self._consumer: Consumer | None = None
        self._read_topics = sorted(topics)
        if group:
            self._require(topics)
            with self._connection.answered():
                self._consumer = self._subscribed()

    def _subscribed(self) -> Consumer:
        consumer = Consumer(self._consumer_config())
        consumer.subscribe(
            self._read_topics, on_assign=self._on_assign, on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )  # fmt: skip
        return consumer

    def _consumer_config(self) -> dict[str, Any]:
        classic = {
            **({"group.instance.id": self._settings.group_instance_id} if self._named else {}),
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": milliseconds(self._settings.session_timeout_s),
            "heartbeat.interval.ms": milliseconds(self._settings.session_timeout_s / 10),
        }
        return {
            # What is read ahead is thrown away by a pause.
            "queued.max.messages.kbytes": _CLIENT_KIB,
            "fetch.wait.max.ms": 100,
            **self._connection.config(),
            "group.id": self._group,
            "group.protocol": self._settings.group_protocol,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            # What retention has taken is never passed over silently.
            "auto.offset.reset": "error",
            # How far the log is read where transaction markers follow the last message.
            "enable.partition.eof": True,
            "max.poll.interval.ms": milliseconds(self._settings.poll_timeout_s),
            "error_cb": self._on_error,
            **self._statistics_config(),
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
        with self._connection.answered():
            consumer = self._listening(consumer)
            held_up = self._end_forerunner()
            if self._doubtful:
                self._ready_producer(time.monotonic() + self._settings.request_timeout_s)
            try:
                found = self._poll(consumer, limit, deadline, hold)
            except (KafkaException, SystemError) as failure:
                error = client_error(failure)
                if error is not None and _is_fatal(error):
                    if KafkaError(KafkaError.FENCED_INSTANCE_ID).str() in error.str():
                        self._yield_name()
                    self._renew(consumer)
                raise
            if held_up is not None and not found:
                raise held_up
            return found

    def _poll(
        self, consumer: Consumer, limit: int, deadline: float, hold: Collection[TopicPartition]
    ) -> list[Message]:
        self._settle(consumer)
        self._pass_markers()
        while True:
            self._place(consumer)
            self._pause(consumer)
            open_ = [source for source in self._ahead if source not in hold]
            wanted = limit - sum(len(self._ahead[source]) for source in open_)
            ready = limit > 0 and wanted < limit
            left = 0.0 if ready else max(0.0, deadline - time.monotonic())
            # Always one, for membership lives by it; and one first, for a wait for many ends only
            # when all of them are there.
            taken = self._consume(consumer, 1, min(left, _SLICE_S))
            if taken and wanted > 1:
                self._consume(consumer, wanted - 1, 0.0)
            trouble = self._trouble
            fatal = trouble is not None and _is_fatal(trouble)
            if not fatal and (found := self._give(limit, hold)):
                return found
            if trouble is not None:
                self._trouble = None
                raise KafkaException(trouble)
            if time.monotonic() >= deadline:
                return []

    def _consume(self, consumer: Consumer, count: int, wait_s: float) -> int:
        """How many events of the client were read."""
        try:
            taken = consumer.consume(count, wait_s)
        except BaseException:
            # What it had collected is gone, and it would go on behind that: all is read again.
            self._doubtful |= self._leases.keys()
            self._drop(list(self._leases))
            raise
        for raw in taken:
            self._read(raw)
        return len(taken)

    def _listening(self, consumer: Consumer) -> Consumer:
        """The consumer, or another in its place where it has no broker left to ask.

        librdkafka forgets the brokers that an answer does not name. One that has just started may
        name none, not even itself, and then nothing makes the client look for any again (its issue
        5301): it would wait for ever, outside its group. Brokers that nobody reaches are no reason:
        whoever knows them finds them again, and is still who the group knows.
        """
        if time.monotonic() < self._heard_at + self._settings.request_timeout_s:
            return consumer
        topic = self._read_topics[0]
        if not _reaches(consumer, topic) and _reaches(self._connection.admin(), topic):
            self._unanswered += 1
            if self._unanswered < _PROBES:
                return consumer
            consumer = self._renew(consumer)
        self._heard_at, self._unanswered = time.monotonic(), 0
        return consumer

    def _end_forerunner(self) -> KafkaException | None:
        """What keeps this member from ending the transaction that its name's last process left.

        Offsets in a transaction that is open cannot be read. The member polls meanwhile all the
        same, for its membership lives by it.
        """
        if self._followed:
            return None
        try:
            self._ready_producer(time.monotonic() + self._settings.request_timeout_s)
        except KafkaException as failure:
            return failure
        self._followed = True
        return None

    def _yield_name(self) -> None:
        """Another has joined under this member's name: raise ValueError if it goes on doing so.

        Once is nothing: a client that joins again while the broker still has its first request is
        taken for another of its name.
        """
        now, before = time.monotonic(), self._fenced_at
        self._fenced_at = now
        if now < before + self._settings.session_timeout_s:
            raise ValueError(
                f"CALLSTREAM_LOG__KAFKA__GROUP_INSTANCE_ID={self._settings.group_instance_id}: "
                f"another process of group {self._group} has this name; give each replica its own"
            )

    def _renew(self, consumer: Consumer) -> Consumer:
        """A client that serves no more: another takes its place in the group."""
        self._drop(list(self._leases))
        self._doubtful.clear()
        self._paused = set()
        self._trouble = None
        self._consumer = self._subscribed()
        with suppress(KafkaException, SystemError, RuntimeError):
            consumer.close()
        return self._consumer

    def _read(self, raw: KafkaMessage) -> None:
        error = raw.error()
        if error is None:
            self._heard_at = time.monotonic()
            message = message_of(raw)
            lease = self._leases.get(message.source)
            if lease is not None:
                ahead = self._ahead.setdefault(message.source, deque())
                ahead.append(replace(message, lease=lease))
        elif error.code() == KafkaError._PARTITION_EOF:
            if (source := _source(raw)) in self._leases:
                self._ends[source] = raw.offset() or 0
        elif error.code() in _NOWHERE:
            if (source := _source(raw)) in self._leases:
                self._nowhere[source] = raw.offset()
        elif error.code() != KafkaError._MAX_POLL_EXCEEDED and not error.retriable():
            self._note(error)

    def _place(self, consumer: Consumer) -> None:
        """Begin at the first message kept, and only where the group surely has no offset."""
        if not self._nowhere:
            return
        timeout_s = self._settings.request_timeout_s
        unset = [source for source, offset in self._nowhere.items() if offset is None or offset < 0]
        at: dict[TopicPartition, int] = {}
        for found in consumer.committed(_partitions(unset), timeout_s) if unset else ():
            if found.error is not None:
                raise KafkaException(found.error)
            source = TopicPartition(found.topic, found.partition)
            at[source] = found.offset if found.offset >= 0 else _BEGINNING
        for source, offset in self._nowhere.items():
            if source not in at:
                assert offset is not None
                first, end = consumer.get_watermark_offsets(KafkaPartition(*source), timeout_s)
                if not first <= offset <= end:
                    self._on_gone(OffsetGone(self._group, source, offset, first, end))
                    offset = first
                at[source] = offset
        self._unassign(consumer, at)
        consumer.incremental_assign(
            [KafkaPartition(*source, begin) for source, begin in at.items()]
        )
        self._nowhere.clear()

    def _give(self, limit: int, hold: Collection[TopicPartition]) -> list[Message]:
        """Up to `limit` of what was read ahead, some of each partition."""
        found: list[Message] = []
        sources = [source for source in self._ahead if source not in hold]
        for at, source in enumerate(sources):
            ahead = self._ahead.pop(source)
            share = max(1, (limit - len(found)) // (len(sources) - at))
            while ahead and share and len(found) < limit:
                message = ahead.popleft()
                self._given[source] = message.offset + 1
                found.append(message)
                share -= 1
            if ahead:
                self._ahead[source] = ahead  # now the last in turn
        return found

    def _pause(self, consumer: Consumer) -> None:
        """Pause what is far ahead; a pause for every hold would fetch the same again and again."""
        share = min(_FAR_BYTES, _AHEAD_BYTES // max(1, len(self._leases)))
        wanted = {source for source, ahead in self._ahead.items() if _is_far(ahead, share)}
        if pause := wanted - self._paused:
            consumer.pause(_partitions(pause))
        if resume := self._paused - wanted:
            consumer.resume(_partitions(resume))
        self._paused = wanted

    def _pass_markers(self) -> None:
        """Now and then move the group's offsets past markers that follow all it has read.

        They count among the offsets. Where retention takes them from a topic that is silent, a
        group that has read everything would seem to have lost what it never had.
        """
        if time.monotonic() < self._markers_at:
            return
        self._markers_at = time.monotonic() + _MARKERS_S
        past = {
            source: end
            for source, end in self._ends.items()
            if source not in self._ahead
            and self._given.get(source) == self._done.get(source)
            and end > self._done.get(source, -1)
        }
        if past:
            with suppress(Lost):
                self.commit([], past)
                self._given.update(past)

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
        self._unassign(consumer, sources)

    def _on_lost(self, consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        """Taken already, and perhaps another's: as if revoked, for nothing is written at that."""
        self._count(partitions_lost=len(partitions))
        self._on_revoke(consumer, partitions)

    def _unassign(self, consumer: Consumer, sources: Collection[TopicPartition]) -> None:
        """The client keeps a pause beyond the assignment: it would never read them again."""
        if paused := self._paused.intersection(sources):
            consumer.resume(_partitions(paused))
            self._paused -= paused
        consumer.incremental_unassign(_partitions(sources))

    def _drop(self, sources: Collection[TopicPartition]) -> None:
        """End the leases."""
        for source in sources:
            for kept in (self._leases, self._given, self._done, self._ends, self._nowhere):
                kept.pop(source, None)
            self._ahead.pop(source, None)

    def _on_error(self, error: KafkaError) -> None:
        self._connection.heard(error)
        if error.code() in _OUTAGES or _is_fatal(error):
            self._note(error)

    def _note(self, error: KafkaError) -> None:
        """Told when nothing is found: what was read beside it is not lost.

        A fatal one is told at once, and in place of any other: the client says it only once.
        """
        if self._trouble is None or not _is_fatal(self._trouble):
            self._trouble = error

    def _on_producer_error(self, error: KafkaError) -> None:
        """A fatal one ends its commit and the producer; the consumer serves on."""
        if not _is_fatal(error):
            self._on_error(error)

    def _settle(self, consumer: Consumer) -> None:
        """Read again what a commit left in doubt; a new producer has ended that."""
        if not self._doubtful:
            return
        self._unassign(consumer, self._doubtful)
        self._on_assign(consumer, _partitions(self._doubtful))
        self._doubtful.clear()

    # Writing

    def commit(self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]) -> None:
        lost = {source for source in offsets if source not in self._leases}
        if lost:
            raise Lost(lost)
        if not records and not offsets:
            return
        self._require({record.topic for record in records})
        deadline = time.monotonic() + self._settings.transaction_timeout_s
        with self._connection.answered():
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
        self._done.update(offsets)
        self._count(commits=1)

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
        send = partial(producer.send_offsets_to_transaction, positions, metadata)
        # Some time is left for a new producer to end what this one began.
        left_s = min(deadline - time.monotonic(), self._settings.transaction_timeout_s / 3)
        _bounded(partial(_persist, send, time.monotonic() + left_s), left_s)

    def _abandon(
        self,
        producer: Producer,
        failure: Exception,
        asked: bool,
        offsets: Mapping[TopicPartition, int],
    ) -> None:
        """End a transaction that failed; raises `Lost` where its partitions are no longer ours."""
        error = client_error(failure)
        if isinstance(failure, _Stuck):
            self._producer = None
            self._count(aborts=1)
            return
        if asked and not (error is not None and error.txn_requires_abort()):
            self._producer = None
            self._count(in_doubt=1)
            self._doubtful |= offsets.keys()
            self._drop(offsets)
            if offsets:
                raise Lost(offsets.keys()) from failure
            raise Transient(
                "commit_in_doubt", f"{self._settings.bootstrap}: {failure}"
            ) from failure
        self._count(aborts=1)
        try:
            if error is not None and _is_fatal(error):
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
                    **self._connection.config(),
                    "partitioner": "murmur2_random",
                    # The same for every producer of this member, and for every process of its
                    # name: each new one ends what its forerunner left open.
                    "transactional.id": self._id,
                    "transaction.timeout.ms": milliseconds(self._settings.transaction_timeout_s),
                    "delivery.report.only.error": True,
                    "message.max.bytes": LARGEST_RECORD_BYTES,
                    # Bootstrapped again, librdkafka keeps its cached group coordinator, an ended
                    # connection: offsets sent through it wait for ever, whatever their timeout. A
                    # producer is made anew after failures, and bootstraps then.
                    "metadata.recovery.strategy": "none",
                    "error_cb": self._on_producer_error,
                    **({} if self._group else self._statistics_config()),
                }
            )
            try:
                _persist(producer.init_transactions, deadline)
            except KafkaException:
                producer.poll(0)  # what it complained of
                raise
            self._producer = producer
        return self._producer

    def _require(self, topics: Collection[str]) -> None:
        if self._topics.issuperset(topics):
            return
        deadline = time.monotonic() + _METADATA_S
        with self._connection.answered():
            admin = self._connection.admin()
            while True:
                self._topics = set(self._connection.topics(admin))
                missing = set(topics) - self._topics
                if not missing:
                    return
                if time.monotonic() > deadline:
                    raise NoSuchTopic(missing)
                time.sleep(0.1)

    # Statistics

    def _statistics_config(self) -> dict[str, Any]:
        if self._on_statistics is None:
            return {}
        return {
            "statistics.interval.ms": milliseconds(self._settings.statistics_s),
            "stats_cb": self._on_client_statistics,
        }

    def _count(self, **more: int) -> None:
        counts = {name: getattr(self._statistics, name) + n for name, n in more.items()}
        self._statistics = replace(self._statistics, **counts)

    def _on_client_statistics(self, text: str) -> None:
        told = json.loads(text)
        lag: dict[TopicPartition, int] = {}
        queued = size = 0
        for topic in told["topics"].values():
            for part in topic["partitions"].values():
                source = TopicPartition(topic["topic"], part["partition"])
                queued += part["fetchq_cnt"]
                size += part["fetchq_size"]
                if source in self._leases and part["ls_offset"] >= 0:
                    lag[source] = self._lag(source, part)
        self._statistics = replace(
            self._statistics,
            lag=lag,
            ahead_messages=sum(map(len, self._ahead.values())),
            fetch_queue_messages=queued,
            fetch_queue_bytes=size,
            round_trip_s={
                broker["nodename"]: broker["rtt"]["p99"] / 1e6
                for broker in told["brokers"].values()
                if broker["nodeid"] >= 0 and broker["rtt"]["cnt"] > 0
            },
            rebalances=told.get("cgrp", {}).get("rebalance_cnt", 0),
        )
        assert self._on_statistics is not None
        self._on_statistics(self._statistics)

    def _lag(self, source: TopicPartition, part: Mapping[str, int]) -> int:
        end = part["ls_offset"]
        given, done = self._given.get(source), self._done.get(source)
        if given == done and source not in self._ahead and self._ends.get(source) == end:
            return 0  # markers are nothing to read
        if done is None:
            done = max(part["committed_offset"], part["lo_offset"])
        return max(0, end - done)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._leases.clear()
        self._producer = None
        if self._consumer is not None:
            with self._connection.answered():
                self._consumer.close()


class _Stuck(KafkaException):
    """A call of the client that does not come back."""


def _bounded(call: Callable[[], None], seconds: float) -> None:
    """Call in a thread of its own, and leave it there when time is over.

    librdkafka's sending of offsets knows no timeout while the group's coordinator is away
    (issues 5456 and 5511): a member would stand still with it. The producer left behind ends with
    its thread; its transaction is ended by the next one of the same id.
    """
    ended: list[BaseException | None] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            ended.append(error)
        else:
            ended.append(None)

    thread = threading.Thread(target=run, name="send offsets", daemon=True)
    thread.start()
    thread.join(max(0.1, seconds) + _SLICE_S)
    if not ended:
        raise _Stuck(KafkaError(KafkaError._TIMED_OUT, "sending offsets does not come back"))
    if ended[0] is not None:
        raise ended[0]


def _is_fatal(error: KafkaError) -> bool:
    """Consumers tell of fatal errors as of others, under one code; the text says which."""
    return error.fatal() or error.code() == KafkaError._FATAL


def _reaches(client: Consumer | AdminClient, topic: str) -> bool:
    try:
        client.list_topics(topic, _PROBE_S)
    except KafkaException:
        return False
    return True


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


def _too_large(record: Record, limit: str) -> TooLarge:
    size = len(record.value or b"") + len(record.key or b"")
    return TooLarge(
        record,
        f"a record of {size} bytes for {record.topic}, without its headers, is beyond {limit}; "
        "raise it, or carry the body in the object store",
    )


def _is_far(ahead: Collection[Message], far_bytes: int) -> bool:
    return (
        len(ahead) >= _FAR_MESSAGES
        or sum(len(message.value or b"") for message in ahead) >= far_bytes
    )


def _source(raw: KafkaMessage) -> TopicPartition:
    topic, partition = raw.topic(), raw.partition()
    assert topic is not None
    assert partition is not None
    return TopicPartition(topic, partition)


def _partitions(sources: Collection[TopicPartition]) -> list[KafkaPartition]:
    return [KafkaPartition(source.topic, source.partition) for source in sources]
