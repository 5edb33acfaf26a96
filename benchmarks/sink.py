"""Rows per second of the sink, over a raw column-oriented insert of the same rows.

    python -m benchmarks.sink [--calls 500] [--rounds 5] [--batch 1000]

Both sides are timed by turns in one process, into two databases of one embedded engine, and start
from the same decoded events. The raw side is given finished columns and calls the driver once per
table and batch; what the sink does beyond that (rows, archive lookup, erasure lookups, tokens,
one block per insert) is what the ratio shows. On a busy machine trust the ratio of CPU time, which
counts the whole process, merges of the engine included. The shares say where the sink's own time
goes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from schemas.examples import EXAMPLES
from services.runtime.codec import Codec, FolderRegistry
from services.runtime.log import Message
from services.runtime.objects import DirectoryObjects
from services.runtime.stage import Envelope
from services.serve import collect_rarely
from services.sink.handler import stage
from services.sink.rows import TABLES, Columns, about, columns_of
from services.sink.settings import SinkSettings
from services.sink.warehouse import Result, Warehouse

TURNS_PER_CALL = 60


class Timed:
    """A warehouse that adds up how long each kind of call takes."""

    def __init__(self, inner: Warehouse) -> None:
        self.inner = inner
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def insert(self, table: str, columns: Sequence[str], data: Sequence[Sequence[Any]]) -> None:
        started = time.perf_counter()
        self.inner.insert(table, columns, data)
        self.seconds["insert"] += time.perf_counter() - started

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Result:
        started = time.perf_counter()
        answer = self.inner.query(sql, parameters)
        self.seconds["lookup"] += time.perf_counter() - started
        return answer

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        self.inner.command(sql, parameters)


def envelopes(calls: int, round_: int, objects: Path) -> list[Envelope[Any]]:
    """All events of `calls` calls of `TURNS_PER_CALL` segments each, in the order of time."""
    codec = Codec(FolderRegistry(), DirectoryObjects(objects))
    happy = {record: EXAMPLES[record]["happy"] for record in
             ("CallEnded", "CallRecorded", "CallTranscribed", "CallEnriched")}  # fmt: skip
    some = happy["CallTranscribed"].segments
    segments = [
        replace(some[number % len(some)], segment_id=number) for number in range(TURNS_PER_CALL)
    ]
    happy["CallTranscribed"] = replace(happy["CallTranscribed"], segments=segments)
    sentiments = happy["CallEnriched"].sentiments * TURNS_PER_CALL
    happy["CallEnriched"] = replace(happy["CallEnriched"], sentiments=sentiments)
    now = datetime(2026, 3, 2, 12, tzinfo=UTC) + timedelta(hours=round_)
    made = []
    for number in range(calls):
        call = replace(happy["CallEnded"], call_id=f"call-{round_}-{number:06d}")
        for record, event in happy.items():
            if record == "CallEnded":
                said = call
            else:
                said = replace(event, call=call, call_id=call.call_id)
            encoded = codec.encode(said, id=f"{record}-{call.call_id}", source="/x", time=now)
            message = Message(
                encoded.topic, number % 24, round_ * calls + number, encoded.key, encoded.value,
                encoded.headers, encoded.timestamp_ms or 0,
            )  # fmt: skip
            made.append(codec.decode(message))
    return made


def batches(events: Sequence[Envelope[Any]], size: int) -> list[Sequence[Envelope[Any]]]:
    return [events[start : start + size] for start in range(0, len(events), size)]


def rows_of(batch: Sequence[Envelope[Any]]) -> dict[str, Columns]:
    return columns_of([about(envelope) for envelope in batch])


def raw(warehouse: Warehouse, columns: Mapping[str, Sequence[Sequence[Any]]], types: Any) -> None:
    with warehouse._client() as client:
        for table, data in columns.items():
            names = list(TABLES[table])
            if table not in types:
                types[table] = client.create_insert_context(table, names).column_types
            client.insert(table, data, column_names=names, column_types=types[table],
                          column_oriented=True, settings={"async_insert": 0})  # fmt: skip


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--calls", type=int, default=500)
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--batch", type=int, default=SinkSettings().batch)
    options = asked.parse_args()
    collect_rarely()  # as in the sink's process
    ratios, cpu_ratios, rates = [], [], []
    shares: defaultdict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        ours, theirs = (
            Warehouse.open(SinkSettings(path=root / "warehouse", database=name))
            for name in ("ours", "theirs")
        )
        timed, types = Timed(ours), dict[str, Any]()
        handle = stage(SinkSettings(), timed).handle
        for round_ in range(options.rounds + 1):
            events = envelopes(options.calls, round_, root / "objects")
            cut = batches(events, options.batch)
            columns = [rows_of(batch) for batch in cut]
            rows = sum(len(data[0]) for tables in columns for data in tables.values())
            timed.seconds.clear()
            mine = other = mine_cpu = other_cpu = 0.0
            for batch, tables in zip(cut, columns, strict=True):
                started, started_cpu = time.perf_counter(), time.process_time()
                raw(theirs, tables, types)
                other += time.perf_counter() - started
                other_cpu += time.process_time() - started_cpu
                started, started_cpu = time.perf_counter(), time.process_time()
                failed = [outcome for _, outcome in handle(batch) if outcome != ()]
                mine += time.perf_counter() - started
                mine_cpu += time.process_time() - started_cpu
                if failed:
                    raise SystemExit(f"{len(failed)} events failed: {failed[0]}")
            if round_ == 0:  # the first round warms caches and types
                continue
            ratios.append(other / mine)
            cpu_ratios.append(other_cpu / mine_cpu)
            rates.append((rows / mine, rows / other))
            timed.seconds["rows"] = mine - sum(timed.seconds.values())
            for name, spent in timed.seconds.items():
                shares[name] += spent
            print(f"round {round_}: {rows} rows; sink {rows / mine:,.0f} rows/s, "
                  f"raw {rows / other:,.0f} rows/s, ratio {other / mine:.3f}, "
                  f"of CPU time {other_cpu / mine_cpu:.3f}")  # fmt: skip
        counted = [
            {table: w.query(f"SELECT count() FROM {table}").rows[0][0] for table in TABLES}
            for w in (ours, theirs)
        ]
        if counted[0] != counted[1]:
            raise SystemExit(f"the two sides hold different rows: {counted}")
        for warehouse in (ours, theirs):
            warehouse.close()
    total = sum(shares.values())
    print(f"median ratio {statistics.median(ratios):.3f}, "
          f"of CPU time {statistics.median(cpu_ratios):.3f}; sink "
          f"{statistics.median(rate for rate, _ in rates):,.0f} rows/s")  # fmt: skip
    parts = [f"{name} {spent / total:.0%}" for name, spent in sorted(shares.items())]
    print(f"shares of the sink's time: {', '.join(parts)}")


if __name__ == "__main__":
    main()
