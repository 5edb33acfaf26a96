"""A replay carried out: asked for, followed to its end, and what became of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from schemas.events import Decision
from services.assembly import Parts
from services.cli.console import Stop, err, out
from services.loopback import Asks, There, asking, running
from services.replay.decisions import decision
from services.replay.plans import Plan
from services.replay.progress import Follower
from services.runtime.errors import Transient
from services.runtime.settings import Policy
from services.serve import AlreadyRunning, embedded
from services.settings import Settings

_POLL_S = 0.2
_LONGEST_PAUSE_S = 1.0
_QUIET_S = 30.0
_WHY = 3
_LONGEST = 80
# How often it is asked whether somebody has discarded what is followed.
_DISCARD_S = 2.0
_OVER = "the replay was discarded"
_DISCARDED = Decision.DISCARDED.value


class From(StrEnum):
    """Where the calls and their events are looked for."""

    auto = "auto"
    archive = "archive"
    log = "log"


@contextmanager
def whoever_answers(settings: Settings, source: From) -> Iterator[Asks | None]:
    """Whoever answers for the warehouse; None where nobody does and the log will do."""
    with ExitStack() as stack:
        asks: Asks | None = None
        if source is not From.log:
            try:
                asks = stack.enter_context(asking(settings))
            except Transient as failure:
                if source is From.archive or failure.reason == "warehouse_behind":
                    raise
                err.print(f"the log is read, the warehouse does not answer: {failure.detail}",
                          soft_wrap=True)  # fmt: skip
        yield asks


@contextmanager
def at_work(settings: Settings) -> Iterator[tuple[Asks, Callable[[], str | None]]]:
    """Whoever answers, and what says why nothing goes on; the stages run here where nobody else
    runs them.
    """
    with ExitStack() as stack:
        trouble: Callable[[], str | None] = lambda: None  # noqa: E731
        if settings.log.kind == "sqlite":
            try:
                suite = stack.enter_context(embedded(settings))
            except AlreadyRunning:
                pass
            else:
                trouble = suite.trouble
                err.print(
                    "no `callstream up` runs on this data folder: the stages run here meanwhile"
                )
        asks = stack.enter_context(asking(settings))
        yield (_Whoever(settings.data_dir) if isinstance(asks, There) else asks), trouble


class _Whoever:
    """Asks the suite that runs on a data folder when it is asked: it may be another each time."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def ask(self, sql: str, format: str, parameters: Mapping[str, Any] | None = None) -> bytes:
        there = running(self._data_dir)
        if there is None:
            raise Transient("suite_down", f"no `callstream up` runs on {self._data_dir}")
        return there.ask(sql, format, parameters)


def carry_out(settings: Settings, parts: Parts, plan: Plan, ahead: int, detach: bool) -> bool:
    """Publish what is left of the plan and follow it; whether all of it went well."""
    again = _again(plan)
    with ExitStack() as stack:
        log = parts.log()
        stack.callback(log.close)
        if detach:
            asks = stack.enter_context(whoever_answers(settings, From.auto))
            try:
                follower = Follower(
                    plan, log, parts.view, parts.codec, asks, ahead=len(plan.inputs) + 1
                )
                follower.publish()
            except Transient as failure:
                raise Stop(f"{failure.detail}. {again} --detach asks for the rest") from failure
            tell_lost(follower)
            out.print(f"asked for {follower.asked:,}; `callstream replay list` shows how far it is")
            if settings.log.kind == "sqlite" and running(settings.data_dir) is None:
                err.print("they wait: no `callstream up` runs on this data folder")
            return not follower.lost
        try:
            asks, trouble = stack.enter_context(at_work(settings))
        except Transient as failure:
            raise Stop(
                f"{failure.detail}. Nothing can be followed without the warehouse: {again} once it "
                "is back, or with --detach now"
            ) from failure
        following = Following(
            plan,
            lambda: Follower(plan, log, parts.view, parts.codec, asks, ahead=ahead),
            trouble,
            settings.loop,
            lambda: plan.shadow and decision(asks, plan.tenant, plan.generation) == _DISCARDED,
        )
        try:
            follower = following.followed()
        except KeyboardInterrupt:
            if following.follower is not None:
                _tell_end(following.follower)
            err.print(
                f"stopped; what was asked for goes on, {again} asks for the rest", soft_wrap=True
            )
            raise typer.Exit(130) from None
        _tell_end(follower)
        if follower.stopped == _OVER:
            err.print(f"stopped: {_OVER}, no more of it is asked for")
        elif follower.stopped is not None:
            err.print(
                f"stopped after {follower.stopped}. Mend the cause, then {again} asks for the rest",
                soft_wrap=True,
            )
    counted = follower.tally
    return not (follower.stopped or counted.failed or counted.waiting or follower.lost)


class Following:
    """Follows a plan to its end, showing how far it is; waits for log and warehouse, as stages do.

    `begin` makes a follower of the plan, and another after each failure: what a step that failed
    has published, the log says. `trouble` says why nothing goes on. Once it is `discarded` no more
    is asked for.
    """

    def __init__(
        self,
        plan: Plan,
        begin: Callable[[], Follower],
        trouble: Callable[[], str | None],
        policy: Policy,
        discarded: Callable[[], bool] = lambda: False,
    ) -> None:
        self._plan, self._begin, self._trouble, self._policy = plan, begin, trouble, policy
        self._discarded, self._asked_at = discarded, time.monotonic()
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), console=err, transient=True,
        )  # fmt: skip
        self._task = self._progress.add_task(plan.stage, total=len(plan.inputs), rate="")
        self.follower: Follower | None = None
        """The latest."""

    def followed(self) -> Follower:
        """Step until it is over. Raises Stop where nothing goes on before it has begun."""
        began = moved = told = time.monotonic()
        start: int | None = None
        quiet, pause_s = False, 0.0
        with self._progress:
            while True:
                follower, happened = self._stepped()
                now = time.monotonic()
                counted = follower.tally
                start = counted.done if start is None else start
                rate = (counted.done - start) / max(now - began, 0.001)
                ended = counted.done + counted.failed + counted.erased
                described = ", ".join(
                    f"{number:,} {what}"
                    for what, number in (("failed", counted.failed), ("waiting", counted.waiting))
                    if number
                )
                self._progress.update(
                    self._task, completed=ended, total=counted.total,
                    rate=f"{rate:.1f}/s {described}",
                )  # fmt: skip
                if follower.over:
                    return follower
                if happened:
                    moved, quiet = now, False
                if (why := self._trouble()) is not None:
                    err.print(f"nothing goes on: {why}", soft_wrap=True)
                    follower.stopped = follower.stopped or why
                    return follower
                if not quiet and now - moved > _QUIET_S:
                    quiet = True
                    err.print(
                        f"nothing has come back for {_QUIET_S:.0f} s: is there a `callstream up`, "
                        f"or a `callstream run` of {self._plan.stage} and sink? `callstream "
                        "topics` shows the lags",
                        soft_wrap=True,
                    )
                if not err.is_terminal and now - told > _QUIET_S:
                    told = now
                    left = (counted.total - ended) / rate if rate else None
                    eta = "" if left is None else f", {span(left)} left"
                    err.print(f"{ended:,} of {counted.total:,}, {rate:.1f}/s{eta} {described}")
                # Each look is a question to the warehouse that live calls need too.
                pause_s = 0.0 if happened else min(_LONGEST_PAUSE_S, max(_POLL_S, 2 * pause_s))
                time.sleep(pause_s)

    def _stepped(self) -> tuple[Follower, bool]:
        """The follower after a step, and whether anything happened; what is away is waited for."""
        waits, told = 0, ""
        while True:
            try:
                if self.follower is None or waits:
                    stopped = None if self.follower is None else self.follower.stopped
                    self.follower = self._begin()
                    self.follower.stopped = stopped
                if time.monotonic() - self._asked_at > _DISCARD_S:
                    self._asked_at = time.monotonic()
                    if self._discarded() and self.follower.stopped is None:
                        self.follower.stopped = _OVER
                happened = self.follower.step()
            except Transient as failure:
                waits += 1
                if failure.reason != told:
                    told = failure.reason
                    err.print(f"waits, and goes on by itself: {failure}", soft_wrap=True)
                    waiting = f"{self._plan.stage} waits, {told}"
                    self._progress.update(self._task, description=waiting)
                if (why := self._trouble()) is not None:
                    raise Stop(f"nothing goes on: {why}. {_again(self._plan)} goes on") from failure
                time.sleep(_backoff(self._policy, waits))
            else:
                if waits:
                    err.print("goes on")
                    self._progress.update(self._task, description=self._plan.stage)
                return self.follower, happened or waits > 0


def _again(plan: Plan) -> str:
    """What a person types to go on with it."""
    return f"`callstream replay resume {plan.generation}`"


def _backoff(policy: Policy, count: int) -> float:
    doubled = policy.backoff_s * 2.0 ** min(count - 1, 16)
    return min(policy.backoff_max_s, doubled) * random.uniform(0.5, 1.0)  # jitter, no secret


def _tell_end(follower: Follower) -> None:
    counted = follower.tally
    told = [f"{counted.done:,} of {counted.total:,} done"]
    for what in ("failed", "waiting", "erased", "left"):
        if number := getattr(counted, what):
            told.append(f"{number:,} {what}")
    out.print(", ".join(told))
    for reason, count in sorted(follower.reasons.items(), key=lambda item: -item[1])[:_WHY]:
        err.print(f"  {count:,} failed: {reason[:400]}", soft_wrap=True)
    if counted.failed:
        err.print("`callstream dead-letters list` has what failed")
    for reason, count in follower.waits.most_common(_WHY):
        err.print(f"  {count:,} waiting: {reason[:400]}", soft_wrap=True)
    if counted.waiting:
        err.print(
            "what waits is tried again by itself, for as long as its patience lasts; `callstream "
            "replay list` and `callstream status` show it",
            soft_wrap=True,
        )
    tell_lost(follower)


def tell_lost(follower: Follower) -> None:
    """Say what was left out, by its reason."""
    by_reason: dict[str, list[str]] = {}
    for each, why in follower.lost.items():
        by_reason.setdefault(why, []).append(each.call)
    for why, calls in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        some = sorted(set(calls))
        named = ", ".join(call[:_LONGEST] for call in some[:_WHY])
        more = ", ..." if len(some) > _WHY else ""
        err.print(
            f"{len(calls):,} events were left out (calls {named}{more}): {why[:400]}",
            soft_wrap=True,
        )


def span(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds)) if seconds else 0} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"
