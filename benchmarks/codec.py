"""What the codec costs beside bare fastavro, as ratios of runs that take turns.

    python -m benchmarks.codec [--rounds 15] [--seconds 0.1]

Bare is `schemaless_writer` and `schemaless_reader` between dicts and bytes: no types, no checks,
no framing, no headers. Each round measures both one after the other in CPU time, so that whatever
else the machine does weighs on both; the median of the rounds' ratios is printed.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import fastavro
import msgspec

from schemas.examples import EXAMPLES
from schemas.topics import BY_RECORD
from services.runtime.codec import Codec, FolderRegistry
from services.runtime.log import Message

CASES = (("CallEnded", "happy"), ("CallTranscribed", "happy"), ("CallTranscribed", "hours-long"))
NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)


def cpu_s(work: Callable[[], object], repeats: int) -> float:
    """CPU seconds of one call, over `repeats` of them."""
    began = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - began) / repeats


def compared(
    ours: Callable[[], object], bare: Callable[[], object], rounds: int, seconds: float
) -> tuple[float, float, float]:
    """Medians: CPU seconds of ours, of bare, and of their ratio within a round."""
    repeats = max(1, round(seconds / max(cpu_s(bare, 3), 1e-6)))
    pairs = [(cpu_s(ours, repeats), cpu_s(bare, repeats)) for _ in range(rounds)]
    return (
        statistics.median(one for one, _ in pairs),
        statistics.median(other for _, other in pairs),
        statistics.median(one / other for one, other in pairs),
    )


def measured(rounds: int, seconds: float) -> Iterator[tuple[str, int, str, float, float, float]]:
    registry = FolderRegistry()
    codec = Codec(registry)
    for record, name in CASES:
        event = EXAMPLES[record][name]
        schema: Any = fastavro.parse_schema(
            dict(registry.schema(registry.schema_id(BY_RECORD[record])))
        )
        plain = msgspec.to_builtins(event, builtin_types=(datetime, bytes))
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, schema, plain)
        body = stream.getvalue()
        written = codec.encode(event, id="0" * 36, source="/bench", time=NOW)
        message = Message(written.topic, 0, 0, written.key, written.value, written.headers, 0)

        def encode(event: Any = event) -> object:
            return codec.encode(event, id="0" * 36, source="/bench", time=NOW)

        def write(schema: Any = schema, plain: Any = plain) -> object:
            fastavro.schemaless_writer(io.BytesIO(), schema, plain)
            return None

        def decode(message: Message = message) -> object:
            return codec.decode(message)

        def read(schema: Any = schema, body: bytes = body) -> object:
            return fastavro.schemaless_reader(io.BytesIO(body), schema, None)

        for step, ours, bare in (("encode", encode, write), ("decode", decode, read)):
            yield f"{record} {name}", len(body), step, *compared(ours, bare, rounds, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.1, help="CPU time of one measurement")
    given = parser.parse_args()
    print(f"{'event':28} {'bytes':>8} {'step':8} {'codec µs':>10} {'bare µs':>10} {'ratio':>6}")
    for event, size, step, ours, bare, ratio in measured(given.rounds, given.seconds):
        print(f"{event:28} {size:8} {step:8} {ours * 1e6:10.0f} {bare * 1e6:10.0f} {ratio:6.2f}")


if __name__ == "__main__":
    main()
