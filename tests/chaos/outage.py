"""One dependency is down for long while calls keep coming: nothing is lost, nothing is given up,
memory stays bounded, and what piled up is worked off about as fast as ever.

    python -m tests.chaos.outage --dependency broker --seconds 600

The ideal is the time in which the same suite, in the same run, worked off a backlog of the same
size that piled up while the stages were stopped, from the first call of it in the tables to the
last. The drain counts from the first answer of the server. The last line is the verdict.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from services.runtime.codec import Codec, FolderRegistry
from stack.server import ServerError
from tests.chaos.calls import Call, calls, pool, start_of
from tests.chaos.producer import Platform
from tests.chaos.run import POOL, Progress, Say, await_tables, check, settle
from tests.chaos.suite import Suite

DEPENDENCIES = {"broker": "kafka", "s3": "s3", "clickhouse": "clickhouse"}
# Of the ideal time, drains may take so much more.
ALLOWED = 1.2
# What a process may take above what it had before the outage.
ALLOWED_GROWTH_MB = 256
_UNBOUNDED = 1 << 40


@dataclass(slots=True)
class Outage:
    """What came of one."""

    dependency: str
    seconds: float
    seed: int
    backlog: int = 0
    ideal_s: float = 0.0
    drained_s: float = 0.0
    before_mb: dict[str, int] = field(default_factory=dict)
    peaks_mb: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return self.drained_s / self.ideal_s if self.ideal_s else float("nan")

    def __str__(self) -> str:
        wrong = len(self.violations)
        what = "0 dead letters, 0 lost, memory bounded" if not wrong else f"{wrong} violations"
        return (
            f"{'FAILED' if wrong else 'PASSED'}: {what}; {self.dependency} down for "
            f"{self.seconds:.0f} s, {self.backlog} calls drained in {self.drained_s:.1f} s, "
            f"ideal {self.ideal_s:.1f} s, ratio {self.ratio:.2f}, seed {self.seed}"
        )


def outage(
    dependency: str,
    seconds: float,
    seed: int,
    say: Say = print,
    *,
    rate: float = 5.0,
    timed: bool = True,
    limit_s: float = 7200.0,
    folder: Path | None = None,
) -> Outage:
    """Take `dependency` down for `seconds` while `rate` calls a second come in.

    While the broker is down they pile up in the platform's client, and come in all at once after
    it. With `timed`, a drain beyond ALLOWED times the ideal is a violation. Raises ServerError
    where a server cannot be had.
    """
    deadline = time.monotonic() + limit_s
    with tempfile.TemporaryDirectory(prefix="callstream-outage-") as made:
        # As a run of production's size has them, not as chaos does.
        usual = {
            "LOOP__BACKOFF_S": "0.5",
            "LOOP__BACKOFF_MAX_S": "30",
            "LOG__KAFKA__REQUEST_TIMEOUT_S": "15",
            "LOG__KAFKA__POLL_TIMEOUT_S": "120",
            "LOG__KAFKA__TRANSACTION_TIMEOUT_S": "30",
            "LOG__KAFKA__SESSION_TIMEOUT_S": "30",
            "LOOP__PATIENCE_S": "30",
        }
        with Suite(folder or Path(made), usual) as suite:
            return _outage(suite, dependency, seconds, seed, say, rate, timed, deadline)


def _outage(
    suite: Suite,
    dependency: str,
    seconds: float,
    seed: int,
    say: Say,
    rate: float,
    timed: bool,
    deadline: float,
) -> Outage:
    told = Outage(dependency, seconds, seed)
    codec = Codec(FolderRegistry())
    recordings = pool(POOL)
    for key, data in recordings.objects.items():
        suite.objects.put(key, data)
    suite.start()
    await_tables(suite, deadline)
    progress = Progress(suite.warehouse())
    # Calls that only pass: what must be dead-lettered has no place here.
    made = [
        call
        for call in calls(seed, round(seconds * rate * 3) + 400, recordings, codec, _now())
        if call.kind in ("good", "double", "amended", "half")
    ]
    backlog = round(seconds * rate)
    told.backlog = backlog
    warm, even, down = made[:200], made[200 : 200 + backlog], made[200 + backlog :][:backlog]
    known: list[Call] = []
    say(f"seed {seed}: {dependency} down for {seconds:.0f} s at {rate:g} calls a second")

    def publish(some: Sequence[Call], each_s: float = 0.0) -> Platform:
        known.extend(some)
        platform = Platform(
            some, suite.broker.bootstrap, suite.objects, lambda: 0, _UNBOUNDED, each_s
        )
        platform.start()
        return platform

    def drained(wanted: int, since: int = 0) -> float:
        """Seconds until `wanted` calls are in the tables, from where more than `since` are."""
        began = said = time.monotonic()
        while (passed := progress.enriched()) < wanted:
            now = time.monotonic()
            if passed <= since:
                began = now
            if now > deadline or suite.ended():
                told.violations.append(
                    f"NOT DRAINED: {progress.enriched()} of {wanted} calls; {suite.ended()}"
                )
                say(suite.tails())
                break
            if now - said >= 5.0:
                said = now
                suite.note_memory()
                say(f"{now - began:6.0f} s  {progress.enriched()} of {wanted} in the tables")
            time.sleep(0.05)
        return time.monotonic() - began

    publish(warm)
    drained(len(warm))
    # The same backlog without an outage: it piles up while the stages stand still.
    with _stopped(suite):
        publish(even).done.wait()
    told.ideal_s = drained(len(warm) + len(even), since=len(warm))
    say(f"a backlog of {backlog} without an outage: {told.ideal_s:.1f} s")

    told.before_mb = {name: size // 1024 for name, size in suite.note_memory().items()}
    server = suite.servers[DEPENDENCIES[dependency]]
    server.kill()
    platform = publish(down, rate)
    until = time.monotonic() + seconds
    said = time.monotonic()
    while time.monotonic() < until:
        memory = suite.note_memory()
        if time.monotonic() - said >= 10.0:
            said = time.monotonic()
            say(f"{until - said:6.0f} s left, {platform.published} published, "
                f"{sum(memory.values()) // 1024} MB")  # fmt: skip
        if ended := suite.ended():
            told.violations += ended
            say(suite.tails())
            return told
        time.sleep(0.2)
    server.start()
    told.drained_s = drained(len(warm) + len(even) + len(down))
    platform.done.wait(60)
    if platform.failure is not None:
        told.violations.append(f"the platform could not publish: {platform.failure}")
    told.peaks_mb = {name: size // 1024 for name, size in sorted(suite.peaks.items())}
    for name, before in told.before_mb.items():
        if name in suite.stages and told.peaks_mb[name] > before + ALLOWED_GROWTH_MB:
            told.violations.append(
                f"{name} took {told.peaks_mb[name]} MB, {before} MB before the outage"
            )
    if not told.violations and not settle(suite, known, deadline):
        told.violations.append("NOT OVER: stages have not committed all there is")
    found, wrong = check(suite, codec, known)
    told.violations += [str(each) for each in wrong]
    if letters := found.messages["calls.dead-letter"]:
        told.violations.append(f"{letters} dead letters")
    if timed and told.ratio > ALLOWED:
        told.violations.append(f"drained {told.ratio:.2f} times slower than ideal")
    for line in told.violations[:40]:
        say(line)
    return told


def _now() -> datetime:
    return start_of(datetime.now(UTC))


@contextmanager
def _stopped(suite: Suite) -> Iterator[None]:
    """The stages are told to stop, and started again on leaving."""
    for stage in suite.stages.values():
        stage.stop()
    yield
    suite.start()


def main(arguments: list[str]) -> int:
    """The exit status: 0 where all held, 1 where it did not, 2 without servers."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.outage", description=__doc__)
    parser.add_argument("--dependency", choices=sorted(DEPENDENCIES), required=True)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long it is down (600)")
    parser.add_argument("--rate", type=float, default=5.0, help="calls a second meanwhile (5)")
    parser.add_argument("--seed", type=int, help="repeats the calls of a run")
    parser.add_argument("--untimed", action="store_true", help="assert nothing about the ratio")
    parser.add_argument("--folder", type=Path, help="keep the stages' logs there")
    asked = parser.parse_args(arguments)
    seed = random.randrange(1 << 32) if asked.seed is None else asked.seed
    if asked.folder is not None:
        asked.folder.mkdir(parents=True, exist_ok=True)
    try:
        told = outage(
            asked.dependency, asked.seconds, seed, lambda line: print(line, flush=True),
            rate=asked.rate, timed=not asked.untimed, folder=asked.folder,
        )  # fmt: skip
    except ServerError as error:
        print(f"no servers: {error}", file=sys.stderr)
        return 2
    print(f"memory, MB: {told.before_mb} before, at most {told.peaks_mb}")
    print(told)
    return 1 if told.violations else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
