"""Hostile recordings and messages by the thousand: `make hostile AUDIO=10000 AVRO=1000000`.

Prints the seed, progress, what became of them, each violation with how to repeat it, and as its
last line the verdict; the exit status is 1 where anything was violated.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Sequence

from tests.hostile.attack import LOOP_SHARE, Kind, attack, say


def numbers_of(count: int, only: int | None) -> Sequence[int]:
    return range(count) if only is None else [only]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--audio", type=int, default=300, help="recordings to try")
    parser.add_argument("--avro", type=int, default=20_000, help="messages to try")
    told = os.environ.get("CALLSTREAM_TEST_SEED")
    parser.add_argument("--seed", type=int, default=int(told) if told else None,
                        help="default: CALLSTREAM_TEST_SEED, else drawn")  # fmt: skip
    parser.add_argument("--only", type=int, help="the one recording or message of that number")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    asked = parser.parse_args()
    seed: int = random.randrange(1 << 32) if asked.seed is None else asked.seed
    say(f"seed {seed}: repeat with --seed {seed}, or CALLSTREAM_TEST_SEED={seed}")
    reports = []
    plan: list[tuple[Kind, Sequence[int]]] = [
        ("messages", numbers_of(asked.avro, asked.only) if asked.avro else ()),
        ("loop", range(round(asked.avro * LOOP_SHARE)) if asked.only is None else ()),
        ("audio", numbers_of(asked.audio, asked.only) if asked.audio else ()),
    ]
    for kind, numbers in plan:
        if numbers:
            workers = 1 if kind == "loop" else asked.workers
            reports.append(attack(kind, seed, numbers, workers))
    for report in reports:
        say(f"{report.kind}:")
        for line in report.lines():
            say(line)
    violations = [line for report in reports for line in report.violations]
    counts = ", ".join(f"{report.count:,} {report.kind}" for report in reports)
    say(f"{'FAILED' if violations else 'OK'}: {counts}, {len(violations)} violations, "
         f"seed {seed}")  # fmt: skip
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
