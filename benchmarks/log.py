"""Messages per second of the logs: `python -m benchmarks.log [--kafka]`.

Values have 1 KB and do not compress. The embedded log lies in the temporary folder; with `--kafka`
a one-node broker on this machine is measured too.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import uuid
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path

from services.runtime.kafka_client import KafkaSettings
from services.runtime.kafka_log import KafkaLog
from services.runtime.kafka_view import KafkaView
from services.runtime.log import Log, LogView, Record
from services.runtime.sqlite_log import SqliteLog, SqliteView
from stack.broker import Broker

VALUE_BYTES = 1_000
PARTITIONS = 4

Open = Callable[[str, Collection[str]], Log]


def append(name: str, open_log: Open, topic: str, count: int, batch: int) -> None:
    value = random.Random(0).randbytes(VALUE_BYTES)
    records = [Record(topic, b"call-%d" % n, value) for n in range(count)]
    with closing(open_log("", ())) as log:
        log.commit(records[:1], {})
        started = time.perf_counter()
        for at in range(0, count, batch):
            log.commit(records[at : at + batch], {})
        report(f"{name}: append, {batch} per commit", count, time.perf_counter() - started)


def copy(name: str, open_log: Open, source: str, target: str, count: int, batch: int) -> None:
    """From when the group is formed and the first batch is through to the end."""
    with closing(open_log(f"copy-{uuid.uuid4().hex}", [source])) as log:
        done, started, first = 0, 0.0, 0
        while done < count:
            got = log.messages(batch, 0.2)
            while got and len(got) < batch and (more := log.messages(batch - len(got), 0.05)):
                got += more
            log.commit(
                [Record(target, m.key, m.value) for m in got],
                {m.source: m.offset + 1 for m in got},
            )
            done += len(got)
            if not first and done:
                started, first = time.perf_counter(), done
        elapsed = time.perf_counter() - started
        report(f"{name}: copy, {batch} per transaction", done - first, elapsed)


def report(what: str, count: int, elapsed_s: float) -> None:
    print(f"{what:48} {count / elapsed_s:10,.0f} messages/s  ({count} in {elapsed_s:.2f} s)")


def measure(name: str, open_log: Open, view: LogView) -> None:
    for batch, count in ((1, 500), (100, 20_000), (500, 50_000)):
        topic = f"append-{batch}"
        view.create({topic: PARTITIONS})
        append(name, open_log, topic, count, batch)
    for batch, count in ((100, 20_000), (500, 50_000)):
        view.create({f"copied-{batch}": PARTITIONS})
        copy(name, open_log, f"append-{batch}", f"copied-{batch}", count, batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kafka", action="store_true", help="also start and measure a broker")
    kafka = parser.parse_args().kafka
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.db"
        with closing(SqliteView(path)) as view:
            measure("sqlite", lambda group, topics: SqliteLog(path, group, topics), view)
    if kafka:
        with Broker() as broker:
            settings = KafkaSettings(bootstrap=broker.bootstrap, replication_factor=1)
            measure(
                "kafka",
                lambda group, topics: KafkaLog(settings, group, topics),
                KafkaView(settings),
            )


if __name__ == "__main__":
    main()
