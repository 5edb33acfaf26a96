"""Kill every stage at each of its durable steps, start it again, and look what came of it.

    python -m tests.crash                    # all points
    python -m tests.crash --phase sink       # of one phase
    python -m tests.crash --list             # the steps, `phase: number: name`
    python -m tests.crash --plant offset-first   # with a bug that has to be found
    python -m tests.crash --report docs/crash.md

The scenario is played once without a crash, which numbers the steps of each phase and says what
has to be there in the end. Then, for every step, before and after it: the state from before the
phase is put back, the phase is played in a process that dies there, and played again to its end.
Of the sink's phases, and over the servers, it dies after the step only; over the servers at the
first and the last step of each kind, unless every one is asked for.
Two such plays run at a time, forked from a process that has everything imported and nothing open.
The last line is the verdict; the exit status is 1 where anything was lost, double or torn.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.assembly import Parts
from services.runtime.log import Log
from services.runtime.objects import Objects
from services.runtime.observe import configure_logs
from tests.crash import servers
from tests.crash.points import Commit, Points, Step, When, armed
from tests.crash.scenario import (
    PHASES,
    SERVED,
    CountedParts,
    Phase,
    compared,
    rows_of_the_erased,
    settings_for,
    state,
)
from tests.report import page

_DEADLINE_S = 120.0
# Plays of one point over the servers until its step is taken.
_TRIES = 6
_NOT_TAKEN = "the step was not taken"


@dataclass(frozen=True)
class Point:
    """Where to die. `number` is that of the step in its phase, from 1."""

    phase: Phase
    number: int
    step: Step
    when: When

    def __str__(self) -> str:
        return f"{self.phase.name}: {self.number}: {self.when} {self.step}"


# Bugs to be found, each a way to build a stage wrongly.


def _offset_first(log: Log, records: Any, offsets: Any) -> None:
    log.commit([], offsets)
    if records:
        log.commit(records, {})


def _offset_later(log: Log, records: Any, offsets: Any) -> None:
    if records:
        log.commit(records, {})
    log.commit([], offsets)


class _LateObjects:
    """A store that says it has written the audio, and writes it a while later."""

    def __init__(self, inner: Objects) -> None:
        self._inner = inner
        self._late: list[tuple[str, bytes]] = []

    def __getattr__(self, name: str) -> Any:
        for key, data in self._late if name != "exists" else ():
            self._inner.put(key, data)
        self._late = self._late if name == "exists" else []
        return getattr(self._inner, name)

    def put(self, key: str, data: bytes) -> None:
        if key.startswith("receipts/"):
            self._inner.put(key, data)
        else:
            self._late.append((key, data))

    def put_file(self, key: str, path: Path) -> None:
        self._late.append((key, path.read_bytes()))

    def exists(self, key: str) -> bool:
        return any(key == late for late, _ in self._late) or self._inner.exists(key)


def _sound_commit(log: Log, records: Any, offsets: Any) -> None:
    log.commit(records, offsets)


PLANTS: dict[str, tuple[Commit, Callable[[Objects], Objects]]] = {
    "": (_sound_commit, lambda objects: objects),
    "offset-first": (_offset_first, lambda objects: objects),
    "offset-later": (_offset_later, lambda objects: objects),
    "event-first": (_sound_commit, lambda objects: _LateObjects(objects)),
}


class Harness:
    """Over embedded parts, or over the servers at `at`."""

    def __init__(self, root: Path, plant: str = "", at: servers.Addresses | None = None) -> None:
        self._root = root
        self.first = root / "first"
        self._plant = plant
        self._at = at
        self._wanted: dict[str, dict[str, list[str]]] = {}
        self._plays = itertools.count(1)

    def _parts(self, folder: Path, points: Points, plant: str = "") -> CountedParts:
        commits, wrap = PLANTS[plant]
        return CountedParts(
            settings_for(folder, self.first), points=points, commits=commits, wrap=wrap
        )

    def _server_parts(self, space: str, points: Points, plant: str = "") -> servers.ServerParts:
        assert self._at is not None
        commits, wrap = PLANTS[plant]
        base = settings_for(self._root / space, self.first)
        return servers.ServerParts(
            servers.settings_in(space, base, self._at), points=points, commits=commits, wrap=wrap
        )

    def _fork(self, work: Callable[[], None]) -> int:
        """A process that does `work` and is gone, with what it says on standard error kept."""
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.setsid()
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def record(self, upto: str | None) -> Iterator[tuple[Phase, list[Step]]]:
        """Play the scenario without a crash, up to a phase; the steps of each."""
        self.first.mkdir()
        for phase in PHASES:
            told = self._root / f"{phase.name}.json"
            before = self._root / f"before {phase.name}"

            def work(phase: Phase = phase, told: Path = told, before: Path = before) -> None:
                parts = self._parts(self.first, Points())
                _ = parts.view
                phase.prepare(parts)
                parts.close()
                shutil.copytree(self.first, before, symlinks=True)
                points = Points()
                armed(points)
                parts = self._parts(self.first, points)
                phase.play(parts)
                steps = list(points.steps)
                told.write_text(json.dumps([steps, state(parts, phase.tables)]))
                parts.close()

            status = _ended(self._fork(work))
            if status != 0:
                raise RuntimeError(f"{phase.name} without a crash ended with {status}")
            steps, self._wanted[phase.name] = self._told(phase, told)
            yield phase, [Step(*step) for step in steps]
            if phase.name == upto:
                return

    def rehearse(self, phase: Phase) -> list[Step]:
        """Play a recorded phase over the servers without a crash; its steps."""
        space = self._space()
        told = self._root / f"{space}.json"

        def work() -> None:
            self._put_back(phase, space)
            points = Points()
            servers.armed(points)
            parts = self._server_parts(space, points)
            phase.play(parts)
            told.write_text(json.dumps([points.steps, state(parts, phase.tables, places=False)]))

        status = _ended(self._fork(work))
        if status != 0:
            raise RuntimeError(f"{phase.name} over the servers ended with {status}")
        steps, self._wanted[phase.name] = self._told(phase, told)
        return [Step(*step) for step in steps]

    def _told(self, phase: Phase, told: Path) -> tuple[list[Any], dict[str, list[str]]]:
        """The steps of a run without a crash, and what it left."""
        steps, wanted = json.loads(told.read_text())
        if phase.erases and (left := rows_of_the_erased(wanted)):
            raise RuntimeError(f"{phase.name} without a crash left of an erased call: {left}")
        return steps, wanted

    def _space(self) -> str:
        return f"play-{next(self._plays)}"

    def _put_back(self, phase: Phase, space: str) -> None:
        recorded = self._root / f"before {phase.over or phase.name}"
        before = Parts(settings_for(recorded, self.first))
        parts = self._server_parts(space, Points())
        servers.put_back(parts, before)
        if phase.tables:
            parts.warehouse.close()
        before.close()

    def check_served(self, point: Point) -> Generator[int | list[str], int | None, None]:
        """As `check`, over the servers.

        What comes in one batch depends there on how soon it comes: a step that was taken twice in
        the rehearsal may be taken once. It is played again, and then the one before it is tried.
        """
        phase, wanted = point.phase, self._wanted[point.phase.name]
        name, number = point.step
        space = ""

        def crash() -> None:
            self._put_back(phase, space)
            points = Points(Step(name, number), point.when)
            servers.armed(points)
            phase.play(self._server_parts(space, points, self._plant))

        for attempt in range(1, _TRIES + 1):
            space = self._space()
            status = yield self._fork(crash)
            if status != 0:
                break
            if attempt % 2 == 0:
                number = max(1, number - 1)
        if status != -signal.SIGKILL:
            yield [f"{_NOT_TAKEN} (status {status}, {attempt} tries)"]
            return
        told = self._root / f"{space}.json"

        def again() -> None:
            parts = self._server_parts(space, Points())
            phase.play(parts)
            got = servers.until_whole(
                lambda: state(parts, phase.tables, places=False),
                lambda got: compared(wanted, got, phase.repeats),
            )
            told.write_text(json.dumps(got))

        status = yield self._fork(again)
        if status != 0:
            yield [f"did not recover: status {status}"]
            return
        yield compared(wanted, json.loads(told.read_text()), phase.repeats)

    def check(self, point: Point) -> Generator[int | list[str], int | None, None]:
        """Die there, start again, compare: yields processes to wait for, then what is wrong.

        It is sent the status that each ended with.
        """
        name = str(point).replace(":", "").replace("/", "-")
        folder = self._root / name
        shutil.copytree(self._root / f"before {point.phase.name}", folder, symlinks=True)
        told = self._root / f"{name}.json"

        def crash() -> None:
            points = Points(point.step, point.when)
            armed(points)
            point.phase.play(self._parts(folder, points, self._plant))

        def again() -> None:
            parts = self._parts(folder, Points())
            point.phase.play(parts)
            told.write_text(json.dumps(state(parts, point.phase.tables)))
            parts.close()

        status = yield self._fork(crash)
        if status != -signal.SIGKILL:
            yield [f"the step was not taken (status {status}): the phase does not repeat itself"]
            return
        status = yield self._fork(again)
        if status != 0:
            yield [f"did not recover: status {status}"]
            return
        got = json.loads(told.read_text())
        wrong = compared(self._wanted[point.phase.name], got, point.phase.repeats)
        shutil.rmtree(folder)
        told.unlink()
        yield wrong


def _is_taken(lines: Sequence[str]) -> bool:
    """Whether what is wrong at a point was seen there."""
    return not lines[0].startswith(_NOT_TAKEN)


def _ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def points_of(phase: Phase, steps: Sequence[Step]) -> list[Point]:
    whens: tuple[When, ...] = ("after",) if phase.only_after else ("before", "after")
    return [
        Point(phase, number, step, when)
        for number, step in enumerate(steps, 1)
        for when in whens
    ]  # fmt: skip


def ends_of_kinds(points: Sequence[Point]) -> list[Point]:
    """The first and the last of each kind of step: over the servers a play takes seconds."""
    first = {point.step.name: point for point in reversed(points)}
    last = {point.step.name: point for point in points}
    return sorted({*first.values(), *last.values()}, key=lambda point: point.number)


def try_all(
    check: Any, points: Sequence[Point], at_once: int, first: bool = False
) -> tuple[int, dict[Point, list[str]]]:
    """Check `points`, some at a time; how many were, and what is wrong at each where something is.
    With `first`, it ends with the first that was taken and was not whole."""
    left = list(points)[::-1]
    running: dict[int, tuple[Point, Any, float]] = {}
    wrong: dict[Point, list[str]] = {}
    ended = 0

    def advance(point: Point, going: Any, status: int | None) -> None:
        nonlocal ended
        answer = going.send(status)
        if isinstance(answer, int):
            running[answer] = point, going, time.monotonic()
            return
        ended += 1
        if answer:
            wrong[point] = answer

    try:
        while (left or running) and not (first and any(map(_is_taken, wrong.values()))):
            while left and len(running) < at_once:
                point = left.pop()
                advance(point, check(point), None)
            for pid in list(running):
                point, going, since = running[pid]
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    del running[pid]
                    advance(point, going, os.waitstatus_to_exitcode(status))
                elif time.monotonic() - since > _DEADLINE_S:
                    os.killpg(pid, signal.SIGTERM)
            time.sleep(0.005)
    finally:
        for pid in running:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return ended, wrong


@dataclass(frozen=True)
class Tried:
    """What came of a phase's points."""

    phase: str
    where: str
    steps: int
    points: int
    wrong: dict[Point, list[str]]
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.phase}, {self.where}: {self.steps} steps, {self.points} points, "
            f"{self.points - len(self.wrong)} whole, {self.seconds:.0f} s"
        )

    def violations(self) -> list[str]:
        return [f"{point}: {line}" for point, lines in self.wrong.items() for line in lines[:5]]


def report(tried: Sequence[Tried], verdict: str, asked: argparse.Namespace, took_s: float) -> str:
    """The outcome as the Markdown page that is kept in docs/."""
    command = [
        "python", "-m", "tests.crash", *(("--servers",) if asked.servers else ()),
        *(("--every",) if asked.every else ()),
        *(("--phase", asked.phase) if asked.phase else ()),
        *(("--plant", asked.plant) if asked.plant else ()),
        *(("--most", str(asked.most), "--seed", str(asked.seed)) if asked.most is not None else ()),
    ]  # fmt: skip
    return page(
        "Crashes",
        "A process that plays a stage is killed at a durable step and started again; then log,\n"
        "objects, files and tables are compared with those of a run without a crash. What is\n"
        "played and compared: `tests/crash/scenario.py`.",
        command,
        verdict,
        took_s,
        [
            ("phase", "over", "steps", "points", "whole", "seconds"),
            *(
                (it.phase, it.where, it.steps, it.points, it.points - len(it.wrong),
                 f"{it.seconds:.0f}")
                for it in tried
            ),
        ],
        [line for it in tried for line in it.violations()],
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.crash", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--phase", choices=[phase.name for phase in PHASES])
    parser.add_argument("--list", action="store_true", help="print the steps, kill nobody")
    parser.add_argument(
        "--plant",
        choices=sorted(PLANTS),
        default="",
        help="build in a bug; a phase ends when it is found",
    )
    parser.add_argument(
        "--servers", action="store_true", help="over Kafka, S3 and ClickHouse, not the embedded"
    )
    parser.add_argument(
        "--every",
        action="store_true",
        help="with --servers: every step, not the first and the last of each kind",
    )
    parser.add_argument("--most", type=int, help="of a phase's points only so many, by --seed")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--at-once", type=int, default=2, help="plays at a time")
    parser.add_argument("--report", type=Path, help="write the outcome to this Markdown file")
    asked = parser.parse_args()
    if asked.list and asked.report is not None:
        parser.error("--list tries no point: there is nothing to report")
    if asked.most is not None:
        print(f"seed {asked.seed}: which {asked.most} points of each phase", flush=True)
    configure_logs("CRITICAL")
    # What runs ends with this process.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    began, done = time.monotonic(), list[Tried]()

    def tried(check: Any, phase: Phase, steps: Sequence[Step], where: str) -> None:
        started = time.monotonic()
        points = points_of(phase, steps)
        if asked.servers and not asked.every:
            points = ends_of_kinds(points)
        others: list[Point] = []
        if asked.most is not None and asked.most < len(points):
            drawn = random.Random(asked.seed).sample(points, len(points))
            points, others = drawn[: asked.most], drawn[asked.most :]
        count, wrong = try_all(check, points, asked.at_once, first=bool(asked.plant))
        # Over the servers messages come in another order each time, and with it other steps: one
        # that was taken in the rehearsal only is no point. Another is drawn for it, once.
        gone = [each for each, lines in wrong.items() if not _is_taken(lines)]
        if asked.servers and others:
            for each, other in zip(gone, others, strict=False):
                print(f"{each}: {_NOT_TAKEN}; instead {other}", flush=True)
                del wrong[each]
                points[points.index(each)] = other
            wrong |= try_all(check, [p for p in points if p in others], asked.at_once)[1]
        took_s = time.monotonic() - started
        done.append(Tried(phase.name, where, len(steps), count, wrong, took_s))
        print(done[-1], flush=True)
        for line in done[-1].violations():
            print(f"VIOLATION {line}", flush=True)

    def listed(phase: Phase, steps: Sequence[Step]) -> None:
        for number, step in enumerate(steps, 1):
            print(f"{phase.name}: {number}: {step}", flush=True)

    with tempfile.TemporaryDirectory(prefix="callstream-crash-") as name, ExitStack() as stack:
        at = stack.enter_context(servers.running()) if asked.servers else None
        harness = Harness(Path(name), asked.plant, at)
        upto = None if asked.servers else asked.phase
        for phase, steps in harness.record(upto):
            if asked.list and not asked.servers:
                listed(phase, steps)
            elif not asked.servers and asked.phase in (None, phase.name):
                tried(harness.check, phase, steps, "embedded")
        for phase in SERVED if asked.servers else ():
            if asked.phase in (None, phase.name):
                steps = harness.rehearse(phase)
                if asked.list:
                    listed(phase, steps)
                else:
                    tried(harness.check_served, phase, steps, "servers")
    failed = sum(len(it.wrong) for it in done)
    total = sum(it.points for it in done)
    verdict = f"{'FAILED' if failed else 'OK'}: {total} points, {failed} not whole"
    if asked.report is not None:
        asked.report.write_text(report(done, verdict, asked, time.monotonic() - began), "utf-8")
    print(verdict, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
