"""Chaos: `python -m tests.chaos --calls 2000 --kills 40 --seed 7`. The last line is the verdict."""

from __future__ import annotations

import argparse
import os
import random
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

from stack.server import ServerError
from tests.chaos.run import Verdict, run


def main(arguments: list[str]) -> int:
    """The exit status: 0 where nothing was violated, 1 where something was, 2 without servers."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--calls", type=int, default=500, help="calls that pass (500)")
    parser.add_argument("--kills", type=int, default=10, help="kill -9s; half as many others (10)")
    parser.add_argument("--seed", type=int, help="repeats the calls and faults of a run")
    parser.add_argument("--limit", type=float, default=4500.0, help="seconds in all (4500)")
    parser.add_argument("--window", type=int, help="most calls under way (a fifteenth, 50 to 600)")
    parser.add_argument(
        "--protocol", choices=("classic", "consumer"), default="classic",
        help="group protocol of the stages (classic)",
    )  # fmt: skip
    parser.add_argument(
        "--unnamed", action="store_true",
        help="stages that are killed come back as new members of their groups (as themselves)",
    )  # fmt: skip
    parser.add_argument("--report", type=Path, help="write the outcome to this Markdown file")
    parser.add_argument("--folder", type=Path, help="keep the stages' logs there")
    asked = parser.parse_args(arguments)
    seed = random.randrange(1 << 32) if asked.seed is None else asked.seed
    if asked.folder is not None:
        asked.folder.mkdir(parents=True, exist_ok=True)
    try:
        verdict = run(
            asked.calls, asked.kills, seed, lambda line: print(line, flush=True),
            limit_s=asked.limit, window=asked.window, protocol=asked.protocol,
            named=not asked.unnamed, folder=asked.folder,
        )  # fmt: skip
    except ServerError as error:
        print(f"no servers: {error}", file=sys.stderr)
        return 2
    print(f"peak memory, MB: {verdict.peaks_mb}")
    print(f"reader: {verdict.looks} looks, {verdict.looks_missed} while the front was down")
    if asked.report is not None:
        asked.report.write_text(report(verdict, asked), "utf-8")
    print(verdict)
    return 0 if verdict.holds else 1


def report(verdict: Verdict, asked: argparse.Namespace) -> str:
    """The outcome as the Markdown page that is kept in docs/."""
    command = [
        "python", "-m", "tests.chaos", "--calls", str(asked.calls), "--kills", str(asked.kills),
        "--seed", str(verdict.seed), "--protocol", asked.protocol,
        *(("--unnamed",) if asked.unnamed else ()),
        *(("--window", str(asked.window)) if asked.window else ()),
    ]  # fmt: skip
    faults = "\n".join(f"| {name} | {count} |" for name, count in sorted(verdict.faults.items()))
    topics = "\n".join(f"| {name} | {n} |" for name, n in sorted(verdict.messages.items()))
    peaks = "\n".join(f"| {name} | {size} |" for name, size in verdict.peaks_mb.items())
    wrong = "\n".join(f"- {line}" for line in verdict.violations) or "None."
    return f"""# Chaos

Stages, broker, S3 server and ClickHouse front are killed, paused and cut off at random while calls
pass; a reader looks at the tables meanwhile; then logs, objects and tables are compared with what
must have come of each call. What is checked: `tests/chaos/checker.py`, `tests/chaos/reader.py`.

```
{shlex.join(command)}
```

**{verdict}**

{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores. {verdict.calls} calls in \
{verdict.passing_s:.0f} s, {verdict.calls / max(verdict.passing_s, 1e-9):.1f}/s with faults. The \
reader looked {verdict.looks} times, and found the front down {verdict.looks_missed} times.

## Violations

{wrong}

## Faults that struck

| fault | times |
|---|---|
{faults}

## Committed messages

| topic | messages |
|---|---|
{topics}

## Largest resident memory, MB

| process | MB |
|---|---|
{peaks}
"""


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
