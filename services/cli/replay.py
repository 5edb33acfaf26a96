"""`callstream replay`: a stage run again over calls of the past, as an operator meets it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.table import Table

from schemas.events import Decision
from services.assembly import STAGES, Parts
from services.cli.console import Stop, err, log_to_file, login_name, out
from services.cli.replay_run import From, at_work, carry_out, span, whoever_answers
from services.enrich.trials import Trials
from services.loopback import asking, differing, running
from services.replay.comparison import Comparison, Pair, compare
from services.replay.decisions import check_decision, decide, decided, decision, overtaken
from services.replay.plans import generations, read_plan, store_plan
from services.replay.progress import (
    AHEAD,
    Estimate,
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
from services.runtime.errors import Invalid
from services.settings import Settings, load, variable

replay_app = typer.Typer(help="Run a stage again over calls of the past.")

_ASKED_FROM = 100
_YES = f"Do not ask; it asks on a terminal only, above {_ASKED_FROM} events."
_SAMPLE = 10
_POLL_S = 0.2
_DECIDED_S = 120.0
_WHY = 3

StageName = StrEnum("StageName", {name: name for name in STAGES})  # type: ignore[misc]
Tenant = Annotated[str | None, typer.Option(help="Whose calls; default: the setting `tenant`.")]
Generation = Annotated[int, typer.Argument(help="As `replay list` names it.")]
Detach = Annotated[bool, typer.Option("--detach", help="Ask for everything at once and leave.")]
Ahead = Annotated[int, typer.Option(min=1, help="Most requests ahead of what is through.")]


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
    if every and selection.criteria:
        raise Stop("--all is every call: leave it away, or what selects some")
    if not every and not selection.criteria:
        raise Stop(
            "say which calls, such as --from 2026-03-01 or --queue billing, or --all of them"
        )
    options = _options(settings, stage.value, selection.tenant, option or [])
    if shadow and stage.value == "sink":
        raise Stop("--shadow: the sink makes the same rows again, there is nothing to compare")
    if shadow and side_effects:
        raise Stop(
            "--shadow and --side-effects contradict each other: a shadow is shown to nobody, its "
            "alerts would be; leave one of them away"
        )
    parts = Parts(settings)
    with whoever_answers(settings, source) as asks, err.status("looking for the calls"):
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
    _tell_differing(settings, stage.value, options)
    count = len(selected.found)
    if count > _ASKED_FROM and not yes and sys.stdin.isatty():
        typer.confirm(f"run {stage.value} again over {count:,} events?", abort=True, err=True)
    plan = store_plan(
        parts.objects, parts.view, stage.value, selection, selected.inputs, options=options,
        shadow=shadow, side_effects=side_effects, reason=reason, requested_by=login_name(),
    )  # fmt: skip
    out.print(f"replay {plan.generation}: {stage.value}, {count:,} events")
    good = carry_out(settings, parts, plan, ahead, detach)
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
    _tell_differing(settings, plan.stage, plan.options)
    good = carry_out(settings, parts, plan, ahead, detach)
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
    with at_work(settings) as (asks, trouble), err.status("waiting for the warehouse"):
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


def _tell_differing(settings: Settings, stage: str, options: Mapping[str, str]) -> None:
    """Say which settings given here do not count, where another process runs the stages.

    Raises Stop where none of it could succeed.
    """
    if settings.log.kind != "sqlite" or running(settings.data_dir) is None:
        return
    sections = {"enrich": ["enrich"]}.get(stage, ["transcribe", "enrich"])
    for key, (here, there) in differing(settings, [] if stage == "sink" else sections).items():
        name = key.partition(".")[2]
        if name in options or (name == "trial_rules_dir" and "rules" not in options):
            continue
        said = (
            f"{key} is {here!r} here and {there!r} in the `callstream up` that runs: its settings "
            f"count. Restart it with {variable(key)} to use another"
        )
        if name == "trial_rules_dir" and there is None:
            raise Stop(f"--option rules={options['rules']} would fail for every call: {said}")
        err.print(said, soft_wrap=True)


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
        else f"about {span(cost.seconds)}, at {cost.rate}"
    )
    events = "" if cost.events == cost.calls else f" ({cost.events:,} events)"
    out.print(f"calls   {cost.calls:,}{events}", soft_wrap=True)
    out.print(f"audio   {span(cost.audio_ms / 1000)}")
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
