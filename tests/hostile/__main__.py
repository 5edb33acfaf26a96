"""Hostile recordings and messages by the thousand: `make hostile AUDIO=10000 AVRO=1000000`.

Prints the seed, progress, what became of them, each violation with how to repeat it, and as its
last line the verdict; the exit status is 1 where anything was violated.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.hostile.attack import LOOP_SHARE, Kind, Report, attack, say
from tests.report import page


def numbers_of(count: int, only: int | None) -> Sequence[int]:
    return range(count) if only is None else [only]


def report(
    reports: Sequence[Report], verdict: str, seed: int, asked: argparse.Namespace, took_s: float
) -> str:
    """The outcome as a Markdown page to keep."""
    command = [
        "python", "-m", "tests.hostile", "--audio", str(asked.audio), "--avro", str(asked.avro),
        "--seed", str(seed), *(("--only", str(asked.only)) if asked.only is not None else ()),
    ]  # fmt: skip
    head = ("kind", "tried", "deaths", "violations", "longest hold, s", "held over a second",
            "of the processor, alone, at most, s", "memory, MB", "seconds")  # fmt: skip
    rows = [
        (it.kind, f"{it.count:,}", it.deaths, len(it.violations), f"{it.longest_s:.2f}",
         f"{len(it.slow):,}", f"{it.alone_s:.2f}" if it.slow else "", it.peak_bytes >> 20,
         f"{it.took_s:.0f}")
        for it in reports
    ]  # fmt: skip
    return page(
        "Hostile input",
        "Mutated messages through every stage, a share of them through the real loops, and\n"
        "mutated recordings through ingest and transcribe. What counts as a violation:\n"
        "`tests/hostile/attack.py`.",
        command,
        verdict,
        took_s,
        [head, *rows],
        [line for it in reports for line in it.violations],
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--audio", type=int, default=300, help="recordings to try")
    parser.add_argument("--avro", type=int, default=20_000, help="messages to try")
    told = os.environ.get("CALLSTREAM_TEST_SEED")
    parser.add_argument("--seed", type=int, default=int(told) if told else None,
                        help="default: CALLSTREAM_TEST_SEED, else drawn")  # fmt: skip
    parser.add_argument("--only", type=int, help="the one recording or message of that number")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--report", type=Path, help="write the outcome to this Markdown file")
    asked, began = parser.parse_args(), time.monotonic()
    seed: int = random.randrange(1 << 32) if asked.seed is None else asked.seed
    say(f"seed {seed}: repeat with --seed {seed}, or CALLSTREAM_TEST_SEED={seed}")
    reports = []
    plan: list[tuple[Kind, Sequence[int]]] = [
        ("messages", numbers_of(asked.avro, asked.only) if asked.avro else ()),
        ("loop", numbers_of(round(asked.avro * LOOP_SHARE), asked.only) if asked.avro else ()),
        ("audio", numbers_of(asked.audio, asked.only) if asked.audio else ()),
    ]
    for kind, numbers in plan:
        if numbers:
            workers = 1 if kind == "loop" else asked.workers
            reports.append(attack(kind, seed, numbers, workers))
    for it in reports:
        say(f"{it.kind}:")
        for line in it.lines():
            say(line)
    found = sum(len(it.violations) for it in reports)
    counts = ", ".join(f"{it.count:,} {it.kind}" for it in reports)
    verdict = f"{'FAILED' if found else 'OK'}: {counts}, {found} violations, seed {seed}"
    if asked.report is not None:
        took_s = time.monotonic() - began
        asked.report.write_text(report(reports, verdict, seed, asked, took_s), "utf-8")
    say(verdict)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
