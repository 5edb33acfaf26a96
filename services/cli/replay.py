"""`callstream replay`: a stage run again over calls of the past, as an operator meets it."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from schemas.events import Decision
from services.assembly import STAGES, Parts
from services.cli.console import Stop, err, log_to_file, login_name, out
from services.enrich.trials import Trials
from services.loopback import Asks, There, asking, differing, running
from services.replay.comparison import Comparison, Pair, compare
from services.replay.decisions import check_decision, decide, decided, decision, overtaken
from services.replay.plans import Plan, generations, read_plan, store_plan
from services.replay.progress import (
    AHEAD,
    Estimate,
    Follower,
    estimate,
    looked,
    tally,
    under_way,
)
from services.replay.selection import (
    Found,
    Selected,
    Selection,
    check_options,
    moment,
    select,
    tenants,
)
from services.runtime.errors import Invalid, Transient
from services.runtime.settings import Policy
from services.serve import AlreadyRunning, embedded
from services.settings import Settings, load, variable

replay_app = typer.Typer(help="Run a stage again over calls of the past.")

_ASKED_FROM = 100
_YES = f"Do not ask; it asks on a terminal only, above {_ASKED_FROM} events."
_SAMPLE = 10
_POLL_S = 0.2
_LONGEST_PAUSE_S = 1.0
_QUIET_S = 30.0
_DECIDED_S = 120.0
_WHY = 3
_LONGEST = 80
# How often it is asked whether somebody has discarded what is followed.
_DISCARD_S = 2.0
_OVER = "the replay was discarded"
_DISCARDED = Decision.DISCARDED.value

StageName = StrEnum("StageName", {name: name for name in STAGES})  # type: ignore[misc]
Tenant = Annotated[str | None, typer.Option(help="Whose calls; default: the setting `tenant`.")]
Generation = Annotated[int, typer.Argument(help="As `replay list` names it.")]
Detach = Annotated[bool, typer.Option("--detach", help="Ask for everything at once and leave.")]
Ahead = Annotated[int, typer.Option(min=1, help="Most requests ahead of what is through.")]


class From(StrEnum):
    """Where the calls and their events are looked for."""

    auto = "auto"
    archive = "archive"
    log = "log"


class Form(StrEnum):
    """How an answer is written."""

    table = "table"
    json = "json"


@replay_app.callback(invoke_without_command=True)
def replay(
    context: typer.Context,
    stage: Annotated[StageName | None, typer.Option(help="Which stage runs again.")] = None,
    call: Annotated[list[str] | None, typer.Option(help="This call; several times.")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="Calls that started then or later; UTC.")
    ] = None,
    to: Annotated[
        str | None, typer.Option(help="Calls that started before; a date lies within.")
    ] = None,
    queue: Annotated[str | None, typer.Option(help="Id or name of the queue.")] = None,
    agent: Annotated[str | None, typer.Option(help="Id or name of an agent.")] = None,
    language: Annotated[str | None, typer.Option(help="Language of the call.")] = None,
    engine: Annotated[str | None, typer.Option(help="Engine of its transcript.")] = None,
    engine_version: Annotated[
        str | None, typer.Option(help="Version of the engine of its transcript.")
    ] = None,
    dead_letters: Annotated[
        bool, typer.Option("--dead-letters", help="What the stage refused and nobody settled.")
    ] = False,
    where: Annotated[
        str | None, typer.Option(help="A condition over the view `calls`, such as 'score < 50'.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every call of the tenant.")] = False,
    tenant: Tenant = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE, a setting of the stage for this replay; several times."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; kept with the replay.")] = "",
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Show the results to nobody until they are promoted.")
    ] = False,
    side_effects: Annotated[
        bool, typer.Option("--side-effects", help="Let alerts and webhooks go out again.")
    ] = False,
    source: Annotated[From, typer.Option(help="Where the events come from.")] = From.auto,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it comes to, and do nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help=_YES)] = False,
    detach: Detach = False,
    ahead: Ahead = AHEAD,
) -> None:
    """Run a stage again over calls of the past.

    transcribe takes engine, model and language as options, enrich takes rules. Live calls go first.
    """
    if context.invoked_subcommand is not None:
        return
    if stage is None:
        raise Stop(f"--stage is missing: one of {', '.join(STAGES)}")
    settings = load()
    log_to_file(settings)
    selection = Selection(
        tenant=tenant or settings.tenant,
        calls=tuple(call or ()),
        since=None if from_ is None else moment(from_),
        until=None if to is None else moment(to, ends=True),
        queue=queue,
        agent=agent,
        language=language,
        engine=engine,
        engine_version=engine_version,
        dead_letters=dead_letters,
        where=where,
    )
    if selection.since and selection.until and selection.since >= selection.until:
        raise Stop(f"--from {from_} lies after --to {to}: no call can have started in between")
    if every == bool(selection.criteria):
        raise Stop("say which calls (`callstream replay --help`), or --all, and not both")
    options = _options(settings, stage.value, selection.tenant, option or [])
    if shadow and stage.value == "sink":
        raise Stop("--shadow: the sink makes the same rows again, there is nothing to compare")
    if shadow and side_effects:
        raise Stop(
            "--shadow and --side-effects contradict each other: a shadow is shown to nobody, its "
            "alerts would be; leave one of them away"
        )
    parts = Parts(settings)
    with _asked(settings, source) as asks, err.status("looking for the calls"):
        group = parts.group("sink")
        read = parts.view.committed(group) if source is From.auto and asks is not None else None
        selected = select(stage.value, selection, source.value, asks, parts.view, parts.codec, read)
        cost = estimate(stage.value, selection.tenant, selected.found, asks) if dry_run else None
        others = {} if selected.found or asks is None else tenants(selection, asks)
    for why, count in selected.left_out.items():
        err.print(f"left out: {count:,} {why}", soft_wrap=True)
    if cost is not None:
        _tell(stage.value, cost, selected)
    if dry_run or not selected.found:
        parts.close()
        if not selected.found:
            raise Stop(_nothing(selection, others))
        return
    _tell_differing(settings, stage.value, set(options))
    count = len(selected.found)
    if count > _ASKED_FROM and not yes and sys.stdin.isatty():
        typer.confirm(f"run {stage.value} again over {count:,} events?", abort=True, err=True)
    plan = store_plan(
        parts.objects, parts.view, stage.value, selection, selected.inputs, options=options,
        shadow=shadow, side_effects=side_effects, reason=reason, requested_by=login_name(),
    )  # fmt: skip
    out.print(f"replay {plan.generation}: {stage.value}, {count:,} events")
    good = _carry_out(settings, parts, plan, ahead, detach)
    parts.close()
    raise typer.Exit(0 if good else 1)


@replay_app.command()
def resume(
    generation: Generation,
    tenant: Tenant = None,
    detach: Detach = False,
    ahead: Ahead = AHEAD,
) -> None:
    """Go on with a replay that was stopped."""
    settings = load()
    log_to_file(settings)
    parts = Parts(settings)
    plan = read_plan(parts.objects, tenant or settings.tenant, generation)
    if plan.shadow:
        with asking(settings) as asks:
            known = decision(asks, plan.tenant, generation)
        if known:
            raise Stop(f"replay {generation} is {known.lower()}: it is over")
    _tell_differing(settings, plan.stage, set(plan.options))
    good = _carry_out(settings, parts, plan, ahead, detach)
    parts.close()
    raise typer.Exit(0 if good else 1)


@replay_app.command("list")
def list_(
    tenant: Tenant = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    format: Annotated[Form, typer.Option(help="How to write it.")] = Form.table,
) -> None:
    """Replays, who asked for them, and how far they are."""
    settings = load()
    parts = Parts(settings)
    owner = tenant or settings.tenant
    rows = []
    with asking(settings) as asks:
        for generation in reversed(generations(parts.objects, owner)[-limit:]):
            plan = read_plan(parts.objects, owner, generation)
            counted, why = looked(plan, asks)
            about = decided(asks, owner, generation)
            over = about.decision == Decision.DISCARDED
            rows.append(
                {
                    "generation": generation,
                    "stage": plan.stage,
                    "by": plan.requested_by,
                    "when": f"{plan.requested_at:%Y-%m-%d %H:%M}",
                    **{key: value for key, value in asdict(counted).items() if key != "erased"},
                    "left": 0 if over else counted.left,
                    "shown": (about.decision.lower() or "shadow") if plan.shadow else "yes",
                    "options": plan.options,
                    "reason": plan.reason,
                    "decided_by": about.by,
                    "decided_why": about.reason,
                    "why": [f"{count:,} {reason}" for reason, count in why.most_common(_WHY)],
                }
            )
    parts.close()
    if format is Form.json:
        for row in rows:
            sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
        return
    if not rows:
        out.print(f"no replays of tenant {owner}")
        return
    told = []
    for row in rows:
        row["options"] = " ".join(f"{key}={value}" for key, value in row["options"].items())
        by, why = row.pop("decided_by"), row.pop("decided_why")
        if by:
            row["shown"] += f" by {by}" + (f": {why}" if why else "")
        reasons = row.pop("why")
        if reasons and row["shown"].partition(" ")[0] != "discarded":
            told.append(f"{row['generation']}: " + "; ".join(each[:400] for each in reasons))
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    out.print(table)
    for line in told:
        out.print(line, soft_wrap=True)


@replay_app.command("compare")
def compare_(
    generation: Generation,
    calls: Annotated[int, typer.Option(min=0, help="How many, the most changed first.")] = 20,
    tenant: Tenant = None,
    format: Annotated[Form, typer.Option(help="How to write it.")] = Form.table,
) -> None:
    """What a shadow says against what readers see: per call and in sum."""
    settings = load()
    parts = Parts(settings)
    plan = read_plan(parts.objects, tenant or settings.tenant, generation)
    with asking(settings) as asks:
        decided = decision(asks, plan.tenant, generation).lower()
        if not plan.shadow or decided == "promoted":
            raise Stop(f"replay {generation} is what readers see: there is nothing to compare")
        counted = tally(plan, asks)
        compared = compare(plan, asks)
    parts.close()
    if format is Form.json:
        answer = {
            "generation": generation,
            "stage": plan.stage,
            "sum": compared.summed(),
            "calls": [asdict(each) for each in compared.differences[:calls]],
        }
        sys.stdout.write(json.dumps(answer, ensure_ascii=False, indent=1) + "\n")
        return
    if counted.left or counted.waiting:
        err.print(f"{counted.left + counted.waiting:,} of {counted.total:,} are not through yet")
    _show(compared, calls)


@replay_app.command()
def promote(
    generation: Generation,
    tenant: Tenant = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Although some calls are not through.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why; kept with the decision.")] = "",
) -> None:
    """Show a shadow's results to everybody, all calls at once."""
    _decide(generation, tenant, Decision.PROMOTED, reason, partial)


@replay_app.command()
def discard(
    generation: Generation,
    tenant: Tenant = None,
    reason: Annotated[str, typer.Option(help="Why; kept with the decision.")] = "",
) -> None:
    """Never show a shadow's results; takes back a promotion, all calls at once."""
    _decide(generation, tenant, Decision.DISCARDED, reason, False)


def _decide(
    generation: int, tenant: str | None, wanted: Decision, reason: str, partial: bool
) -> None:
    settings = load()
    log_to_file(settings)
    parts = Parts(settings)
    plan = read_plan(parts.objects, tenant or settings.tenant, generation)
    with asking(settings) as asks:
        known = decision(asks, plan.tenant, generation)
        counted = tally(plan, asks)
        check_decision(plan, wanted, known, counted, partial=partial)
        log = parts.log()
        decide(log, parts.codec, asks, plan, wanted, login_name(), reason)
        log.close()
    with _at_work(settings) as (asks, trouble), err.status("waiting for the warehouse"):
        deadline = time.monotonic() + _DECIDED_S
        while decision(asks, plan.tenant, generation) != wanted:
            if (why := trouble()) is not None:
                raise Stop(f"it is on record, and nothing goes on: {why}")
            if time.monotonic() > deadline:
                raise Stop(
                    f"it is on record, and the warehouse has not shown it in {_DECIDED_S:.0f} s; "
                    "does the sink run? `callstream topics` shows its lag"
                )
            time.sleep(_POLL_S)
        later = overtaken(plan, asks) if wanted is Decision.PROMOTED else 0
        ahead = under_way(plan, parts.view, asks) if wanted is Decision.DISCARDED else 0
    parts.close()
    failed = f", {counted.failed:,} failed and stay as they were" if counted.failed else ""
    out.print(f"replay {generation} is {wanted.value.lower()}: {counted.done:,} done{failed}")
    if ahead:
        err.print(
            f"{ahead:,} of its requests are still on their way: they are carried out, what waits "
            "is tried until its patience is over, and the results are shown to nobody",
            soft_wrap=True,
        )
    if later:
        err.print(f"{later:,} of its calls have been amended or replayed since: those are shown")


def _nothing(selection: Selection, others: Mapping[str, int]) -> str:
    """Why nothing is selected, as far as it can be told."""
    said = f"no call of tenant {selection.tenant} is selected: nothing to do"
    time = "in that time" if selection.since or selection.until else ""
    mine = others.get(selection.tenant, 0)
    if mine:
        return f"{said}; not all that is given holds for any of the {mine:,} it has {time}".rstrip()
    if others:
        have = ", ".join(f"{tenant} {count:,}" for tenant, count in others.items())
        return f"{said}; tenants that have calls {time}: {have}. Say --tenant".replace(" :", ":")
    return said + (f"; no tenant has a call {time}" if time else "")


def _tell_differing(settings: Settings, stage: str, options: Collection[str]) -> None:
    """Say which settings given here do not count, where another process runs the stages."""
    if settings.log.kind != "sqlite" or running(settings.data_dir) is None:
        return
    sections = {"enrich": ["enrich"]}.get(stage, ["transcribe", "enrich"])
    for key, (here, there) in differing(settings, [] if stage == "sink" else sections).items():
        name = key.partition(".")[2]
        if name not in options and (name != "trial_rules_dir" or "rules" in options):
            err.print(
                f"{key} is {here!r} here and {there!r} in the `callstream up` that runs: its "
                f"settings count. Restart it with {variable(key)} to use another",
                soft_wrap=True,
            )


# Carrying out


@contextmanager
def _asked(settings: Settings, source: From) -> Iterator[Asks | None]:
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
def _at_work(settings: Settings) -> Iterator[tuple[Asks, Callable[[], str | None]]]:
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


def _carry_out(settings: Settings, parts: Parts, plan: Plan, ahead: int, detach: bool) -> bool:
    """Publish what is left of the plan and follow it; whether all of it went well."""
    again = _again(plan)
    with ExitStack() as stack:
        log = parts.log()
        stack.callback(log.close)
        if detach:
            asks = stack.enter_context(_asked(settings, From.auto))
            try:
                follower = Follower(
                    plan, log, parts.view, parts.codec, asks, ahead=len(plan.inputs) + 1
                )
                follower.publish()
            except Transient as failure:
                raise Stop(f"{failure.detail}. {again} --detach asks for the rest") from failure
            _lost(follower)
            out.print(f"asked for {follower.asked:,}; `callstream replay list` shows how far it is")
            if settings.log.kind == "sqlite" and running(settings.data_dir) is None:
                err.print("they wait: no `callstream up` runs on this data folder")
            return not follower.lost
        try:
            asks, trouble = stack.enter_context(_at_work(settings))
        except Transient as failure:
            raise Stop(
                f"{failure.detail}. Nothing can be followed without the warehouse: {again} once it "
                "is back, or with --detach now"
            ) from failure
        following = _Following(
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
                _end(following.follower)
            err.print(
                f"stopped; what was asked for goes on, {again} asks for the rest", soft_wrap=True
            )
            raise typer.Exit(130) from None
        _end(follower)
        if follower.stopped == _OVER:
            err.print(f"stopped: {_OVER}, no more of it is asked for")
        elif follower.stopped is not None:
            err.print(
                f"stopped after {follower.stopped}. Mend the cause, then {again} asks for the rest",
                soft_wrap=True,
            )
    counted = follower.tally
    return not (follower.stopped or counted.failed or counted.waiting or follower.lost)


class _Following:
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
                    eta = "" if left is None else f", {_span(left)} left"
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


def _end(follower: Follower) -> None:
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
    _lost(follower)


def _lost(follower: Follower) -> None:
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


# Small parts


def _options(settings: Settings, stage: str, tenant: str, given: list[str]) -> dict[str, str]:
    """KEY=VALUE as a mapping, each known to the stage."""
    options: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key or not value:
            raise Stop(f"--option {text!r} is not KEY=VALUE")
        if key in options:
            raise Stop(f"--option {key} is given twice")
        options[key] = value
    check_options(stage, options)
    # Of an embedded suite the rules lie on this machine, and are tried before anything is asked.
    if "rules" in options and settings.log.kind == "sqlite":
        try:
            Trials(settings.enrich.rules_dir, settings.enrich.trial_rules_dir).rules(
                options["rules"], tenant
            )
        except Invalid as problem:
            raise Stop(problem.detail) from None
    return options


def _tell(stage: str, cost: Estimate, selected: Selected) -> None:
    """What a dry run says."""
    takes = (
        f"an unknown time: {cost.rate}"
        if cost.seconds is None
        else f"about {_span(cost.seconds)}, at {cost.rate}"
    )
    events = "" if cost.events == cost.calls else f" ({cost.events:,} events)"
    out.print(f"calls   {cost.calls:,}{events}", soft_wrap=True)
    out.print(f"audio   {_span(cost.audio_ms / 1000)}")
    out.print(f"words   {cost.words:,}")
    size = cost.input_bytes
    out.print("input   not measured: the log was read" if size is None else
              f"input   {_bytes(size)}")  # fmt: skip
    if cost.calls:
        out.print(f"{stage} takes {takes}", soft_wrap=True)
    shown: dict[str, Found] = {each.input.call: each for each in selected.found}
    step = max(1, len(shown) // _SAMPLE)
    some = list(shown.values())[::step][:_SAMPLE]
    table = _table([each.input.call for each in some], "started", "queue", "agent", "language",
                   "engine", "audio s")  # fmt: skip
    for each in some:
        table.add_row(
            each.input.call, each.started_at, each.queue, each.agent, each.language, each.engine,
            f"{each.audio_ms / 1000:.0f}",
        )  # fmt: skip
    if shown:
        out.print(table)
    out.print("nothing was asked for: this was a dry run")


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds)) if seconds else 0} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"


def _bytes(size: int) -> str:
    if size < 1000:
        return f"{size} B"
    return f"{size / 1e3:.1f} kB" if size < 1_000_000 else f"{size / 1e6:,.1f} MB"


def _table(calls: Sequence[str], *columns: str) -> Table:
    """A table whose first column names `calls`: nothing in it is cut, ids are folded last."""
    table = Table()
    longest = max(map(cell_len, calls), default=0)
    table.add_column("call", width=min(max(longest, 4), out.width // 2), overflow="fold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _show(compared: Comparison, calls: int) -> None:
    shown = [each for each in compared.differences[:calls] if each.weight]
    if shown:
        heard = any(each.words_changed is not None for each in shown)
        numbers = list(dict.fromkeys(name for each in shown for name in each.numbers))
        texts = list(dict.fromkeys(name for each in shown for name in each.texts))
        labelled = list(dict.fromkeys(name for each in shown for name in each.labels))
        columns = [*(["words changed"] if heard else []), *numbers, *texts, *labelled]
        rows = []
        for each in shown:
            cells = []
            if heard:
                cells.append(f"{each.words_changed or 0} of {each.words.now or 0}")
            cells += [_moved(each.numbers.get(name)) for name in numbers]
            cells += [_turned(each.texts.get(name)) for name in texts]
            for name in labelled:
                labels = each.labels.get(name)
                signs = [] if labels is None else [
                    *(f"+{label}" for label in labels.gained),
                    *(f"-{label}" for label in labels.lost),
                ]  # fmt: skip
                cells.append(" ".join(signs))
            rows.append(cells)
        # What changed in none of them takes no room from what did.
        told = [number for number in range(len(columns)) if any(row[number] for row in rows)]
        table = _table([each.call for each in shown], *(columns[number] for number in told))
        for each, row in zip(shown, rows, strict=True):
            table.add_row(each.call, *(row[number] for number in told))
        out.print(table)
    sums = Table("in sum", "")
    for name, value in compared.summed().items():
        if isinstance(value, dict):
            text = ", ".join(f"{label} {count}" for label, count in value.items())
        else:
            text = "" if value is None else str(value)
        sums.add_row(name, text)
    out.print(sums)


def _moved(pair: Pair | None) -> str:
    if pair is None or pair.now == pair.shadow:
        return ""
    return f"{_number(pair.now)} -> {_number(pair.shadow)}"


def _number(value: Any) -> str:
    return "none" if value is None else f"{value:.4g}"


def _turned(pair: Pair | None) -> str:
    if pair is None or pair.now == pair.shadow:
        return ""
    now, shadow = (str(value if value is not None else "none") for value in (pair.now, pair.shadow))
    return "changed" if len(now) + len(shadow) > 30 else f"{now} -> {shadow}"
