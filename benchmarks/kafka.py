"""The stage loop and the sink on a real broker: `python -m benchmarks.kafka [--messages 6000]`.

Needs Java 17 and Maven once; starts a broker of one node and a ClickHouse over HTTP of its own.

* loop: a stage that reads CallTranscribed and writes a small event for each, by the real loop with
  exactly once, by the same loop with at least once (an idempotent producer and plain offset
  commits), and by a bare loop of thirty lines (the same codec, no transactions, no order, no dead
  letters). By turns, each over the whole topic with a group of its own.
* hop: one message at a time, from its publishing to its output being readable (read_committed).
* sink: events on their topics until the sink's group has committed them all, over inserting the
  same finished columns with the same client, one thread.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as KafkaPartition

from benchmarks.sink import batches, envelopes, raw, rows_of
from schemas import events as e
from schemas.examples import EXAMPLES
from schemas.topics import ERASED, TOPICS, TRANSCRIBED
from services.runtime.codec import Codec, FolderRegistry
from services.runtime.kafka_client import KafkaSettings, message_of
from services.runtime.kafka_log import KafkaLog
from services.runtime.kafka_view import KafkaView
from services.runtime.log import Message, Record, TopicPartition
from services.runtime.loop import run
from services.runtime.objects import DirectoryObjects
from services.runtime.observe import Observer, configure_logs
from services.runtime.process import topics_of
from services.runtime.settings import Policy
from services.runtime.stage import Envelope, Output, Stage, each
from services.serve import collect_rarely
from services.sink.handler import stage as sink_stage
from services.sink.settings import SinkSettings
from services.sink.warehouse import Warehouse
from stack.broker import Broker
from stack.clickhouse import ClickHouse

PARTITIONS = 6
BATCH = 100
# What the loop is given is what the bare loop takes at once.
POLICY = Policy(in_flight=1000, commit_records=1000)


class AtLeastOnce(KafkaLog):
    """A `KafkaLog` whose commits are no transactions: outputs first, offsets after them."""

    _plain: Producer | None = None

    def commit(self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]) -> None:
        if self._plain is None:
            self._plain = Producer(
                {
                    **self._connection.config(), "enable.idempotence": True,
                    "compression.type": "lz4", "partitioner": "murmur2_random",
                }
            )  # fmt: skip
        for record in records:
            self._plain.produce(
                record.topic, record.value, record.key, headers=list(record.headers)
            )
        self._plain.flush(30)
        assert self._consumer is not None
        positions = [KafkaPartition(*source, offset) for source, offset in offsets.items()]
        self._consumer.commit(offsets=positions, asynchronous=False)


def bare(settings: KafkaSettings, codec: Codec, count: int, group: str) -> float:
    """The thirty lines: consume, decode, transform, encode, produce, flush, commit."""
    common = {"bootstrap.servers": settings.bootstrap}
    consumer = Consumer(
        {**common, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False,
         "isolation.level": "read_committed"}
    )  # fmt: skip
    producer = Producer({**common, "compression.type": "lz4", "enable.idempotence": True})
    consumer.subscribe([TRANSCRIBED])
    done, started = 0, 0.0
    while done < count:
        batch = consumer.consume(1000, 0.2)
        if not batch:
            continue
        started = started or time.perf_counter()
        for raw_message in batch:
            envelope = codec.decode(message_of(raw_message))
            for output in transform(envelope):
                record = codec.encode(
                    output.event, id=str(uuid.uuid4()), source="/bare", time=datetime.now(UTC)
                )
                producer.produce(record.topic, record.value, record.key,
                                 headers=list(record.headers))  # fmt: skip
        producer.flush(30)
        consumer.commit(asynchronous=False)
        done += len(batch)
    took = time.perf_counter() - started
    consumer.close()
    return took


def transform(envelope: Envelope[Any]) -> Sequence[Output]:
    call: e.CallTranscribed = envelope.event
    return [
        Output(
            e.CallErased(
                tenant_id=call.tenant_id, call_id=call.call_id, erased_at=call.transcribed_at,
                requested_by=envelope.id,
            )
        )
    ]  # fmt: skip


def copying(name: str) -> Stage:
    return Stage(name, (TRANSCRIBED,), (ERASED,), each(transform), batch=BATCH)


class Began:
    """A log that notes when the first message came and stops its loop once `count` are done."""

    def __init__(self, log: KafkaLog, count: int, stop: threading.Event) -> None:
        self._log, self._left, self._stop = log, count, stop
        self.lease, self.close = log.lease, log.close
        self.began = self.ended = 0.0

    def messages(self, *args: Any) -> list[Message]:
        found = self._log.messages(*args)
        if found and not self.began:
            self.began = time.perf_counter()
        return found

    def commit(self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]) -> None:
        self._log.commit(records, offsets)
        self._left -= len(records)
        if self._left <= 0 and not self.ended:
            self.ended = time.perf_counter()
            self._stop.set()


def looped(settings: KafkaSettings, codec: Codec, count: int, log: type[KafkaLog]) -> float:
    stage = copying(f"bench-{uuid.uuid4().hex[:8]}")
    stop = threading.Event()
    watched = Began(log(settings, stage.name, topics_of(stage)), count, stop)
    run(stage, watched, codec, stop, Observer(), POLICY)
    return watched.ended - watched.began


def publish(settings: KafkaSettings, records: Sequence[Record]) -> None:
    with closing(KafkaLog(settings)) as log:
        for at in range(0, len(records), 1000):
            log.commit(records[at : at + 1000], {})


def loop_ratios(settings: KafkaSettings, codec: Codec, count: int, rounds: int) -> None:
    happy: e.CallTranscribed = EXAMPLES["CallTranscribed"]["happy"]
    said = [replace(happy.segments[n % 7], segment_id=n) for n in range(60)]
    records = []
    for number in range(count):
        call = replace(happy.call, call_id=f"call-{number}")
        event = replace(happy, call=call, call_id=call.call_id, segments=said)
        records.append(codec.encode(event, id=f"t-{number}", source="/b", time=datetime.now(UTC)))
    publish(settings, records)
    size = statistics.mean(len(record.value or b"") for record in records)
    print(f"loop: {count} CallTranscribed of {size:,.0f} bytes, {PARTITIONS} partitions")
    exactly, at_least, barely = [], [], []
    for round_ in range(rounds + 1):
        once = looped(settings, codec, count, KafkaLog)
        least = looped(settings, codec, count, AtLeastOnce)
        plain = bare(settings, codec, count, f"bare-{uuid.uuid4().hex[:8]}")
        if round_:  # the first warms broker and client
            exactly.append(once)
            at_least.append(least)
            barely.append(plain)
            print(f"  round {round_}: exactly once {count / once:,.0f}/s, at least once "
                  f"{count / least:,.0f}/s, bare {count / plain:,.0f}/s")  # fmt: skip
    over_least = [least / once for once, least in zip(exactly, at_least, strict=True)]
    over_bare = [plain / once for once, plain in zip(exactly, barely, strict=True)]
    print(f"  exactly once over at least once: {spread(over_least)} (aim 0.9)")
    print(f"  exactly once over the bare loop: {spread(over_bare)} (aim 0.7)")


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def hop(settings: KafkaSettings, codec: Codec, count: int) -> None:
    stage, stop = copying(f"hop-{uuid.uuid4().hex[:8]}"), threading.Event()
    log = KafkaLog(settings, stage.name, topics_of(stage))
    loop = threading.Thread(
        target=run, args=(stage, log, codec, stop, Observer(), POLICY), daemon=True
    )
    loop.start()
    out = Consumer(
        {"bootstrap.servers": settings.bootstrap, "group.id": uuid.uuid4().hex,
         "auto.offset.reset": "latest", "isolation.level": "read_committed",
         "fetch.wait.max.ms": 20}
    )  # fmt: skip
    out.subscribe([ERASED])
    happy: e.CallTranscribed = EXAMPLES["CallTranscribed"]["happy"]
    took: list[float] = []
    with closing(KafkaLog(settings)) as writer:
        while len(took) < count:
            name = f"hop-{uuid.uuid4().hex}"
            event = replace(happy, call_id=name, call=replace(happy.call, call_id=name))
            record = codec.encode(event, id=name, source="/b", time=datetime.now(UTC))
            started = time.perf_counter()
            writer.commit([record], {})
            until = started + (120 if not took else 30)
            while time.perf_counter() < until:
                found = out.consume(100, 0.005)
                if any(m.error() is None and (m.key() or b"").endswith(name.encode())
                       for m in found):  # fmt: skip
                    took.append(time.perf_counter() - started)
                    break
            else:
                if took:
                    raise SystemExit(f"{name} did not come out")
                continue  # the reader had not yet joined when the first was published
    stop.set()
    loop.join(30)
    out.close()
    took = sorted(took[count // 10 :])
    p50, p99 = took[len(took) // 2], took[len(took) * 99 // 100]
    print(f"hop: {len(took)} messages one by one, publishing to readable output: p50 "
          f"{1000 * p50:.1f} ms, p99 {1000 * p99:.1f} ms, publishing itself included")  # fmt: skip


def sink(settings: KafkaSettings, folder: Path, url: str, calls: int, rounds: int) -> None:
    codec = Codec(FolderRegistry(), DirectoryObjects(folder / "objects"))
    ours, theirs = (
        Warehouse.open(SinkSettings(url=url, database=name)) for name in ("ours", "theirs")
    )
    types: dict[str, Any] = {}
    ratios = []
    for round_ in range(rounds + 1):
        events = envelopes(calls, round_ + 1000, folder / "objects")
        publish(
            settings,
            # Of now: what is older than its topic keeps is deleted before it is read.
            [Record(m.topic, m.key, m.value, m.headers)
             for m in (event.message for event in events)],
        )  # fmt: skip
        columns = [rows_of(batch) for batch in batches(events, SinkSettings().batch)]
        rows = sum(len(data[0]) for tables in columns for data in tables.values())
        started = time.perf_counter()
        for tables in columns:
            raw(theirs, tables, types)
        other = time.perf_counter() - started
        stop = threading.Event()
        handled = sink_stage(SinkSettings(url=url, database="ours"), ours)
        log = Stored(KafkaLog(settings, "bench.sink", topics_of(handled)), len(events), stop)
        run(handled, log, codec, stop, Observer(), Policy(in_flight=4000, commit_records=4000))
        mine = log.ended - log.began
        if round_:
            ratios.append(other / mine)
            print(f"  round {round_}: {rows} rows; sink {rows / mine:,.0f} rows/s, raw "
                  f"{rows / other:,.0f} rows/s, ratio {other / mine:.3f}")  # fmt: skip
    stored = ours.query("SELECT uniqExact(event_id) FROM events").rows[0][0]
    expected = 4 * calls * (rounds + 1)
    if stored != expected:
        raise SystemExit(f"the archive holds {stored} events, not {expected}")
    print(f"  sink from the broker over raw inserts: {spread(ratios)} (aim 0.85)")
    for warehouse in (ours, theirs):
        warehouse.close()


class Stored(Began):
    """Counts by offsets: the sink writes no records."""

    def __init__(self, log: KafkaLog, count: int, stop: threading.Event) -> None:
        super().__init__(log, count, stop)
        self._seen: dict[TopicPartition, list[int]] = {}

    def messages(self, *args: Any) -> list[Message]:
        found = super().messages(*args)
        for message in found:
            self._seen.setdefault(message.source, []).append(message.offset)
        return found

    def commit(self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]) -> None:
        self._log.commit(records, offsets)
        for source, offset in offsets.items():
            ahead = self._seen[source]
            done = [at for at in ahead if at < offset]
            self._seen[source] = [at for at in ahead if at >= offset]
            self._left -= len(done)
        if self._left <= 0 and not self.ended:
            self.ended = time.perf_counter()
            self._stop.set()


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--messages", type=int, default=6000)
    asked.add_argument("--hops", type=int, default=300)
    asked.add_argument("--calls", type=int, default=1000)
    asked.add_argument("--rounds", type=int, default=5)
    options = asked.parse_args()
    configure_logs("WARNING")
    with tempfile.TemporaryDirectory() as name, Broker() as broker:
        folder = Path(name)
        settings = KafkaSettings(bootstrap=broker.bootstrap, replication_factor=1)
        codec = Codec(FolderRegistry(), DirectoryObjects(folder / "objects"))
        with closing(KafkaView(settings)) as view:
            view.create({topic.name: PARTITIONS for topic in TOPICS})
        loop_ratios(settings, codec, options.messages, options.rounds)
        hop(settings, codec, options.hops)
    with (
        tempfile.TemporaryDirectory() as name,
        Broker() as broker,
        ClickHouse() as clickhouse,
    ):
        settings = KafkaSettings(bootstrap=broker.bootstrap, replication_factor=1)
        with closing(KafkaView(settings)) as view:
            view.create({topic.name: PARTITIONS for topic in TOPICS})
        collect_rarely()  # as in the sink's process
        print(f"sink: {options.calls} calls a round, batches of {SinkSettings().batch} events")
        sink(settings, Path(name), clickhouse.url, options.calls, options.rounds)


if __name__ == "__main__":
    main()
