"""`callstream rules`: whether the rules of a folder can be read, do what their examples say, and
what they make of a call.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from schemas.events import CallTranscribed, Evidence
from services.assembly import Parts
from services.cli.archive import newest
from services.cli.console import Stop, err, out
from services.cli.follow import named_call
from services.cli.show import clock
from services.enrich.conditions import Outcome
from services.enrich.explain import Explanation, explain, try_examples
from services.enrich.ground import ground
from services.enrich.rules import (
    CriterionRule,
    Problem,
    Rule,
    check_rules,
    load_rules,
    load_tenant_rules,
    path_of,
)
from services.enrich.transcript_file import TranscriptError, parse_transcript
from services.loopback import asking
from services.settings import Settings, load

rules_app = typer.Typer(
    help="The rules calls are judged by: checked, tried, explained.", no_args_is_help=True
)

Folder = Annotated[
    Path | None,
    typer.Argument(help="Folder of rules; default: the rules in use, or the built-in ones."),
]
# Pieces of evidence shown below a condition.
_MOST_SHOWN = 3


@rules_app.command()
def check(folder: Folder = None) -> None:
    """Read every rule file; exit status 1 where one has a mistake."""
    problems: dict[Problem, None] = {}
    for folders in _layers(_folder(folder, load())):
        problems.update(dict.fromkeys(check_rules(*folders)))
    wrong = [problem for problem in problems if not problem.warning]
    for problem in problems:
        kind = "warning: " if problem.warning else ""
        out.print(f"{problem.place}: {kind}{problem.text}", soft_wrap=True)
    if wrong:
        raise Stop(f"the rules cannot be used; mistakes: {len(wrong)}")
    warned = f"; warnings: {len(problems)}" if problems else ""
    out.print(f"the rules can be used{warned}")


@rules_app.command("test")
def try_rules(folder: Folder = None) -> None:
    """Hold every rule against its examples; exit status 1 where one does not do what they say."""
    settings = load()
    failed: dict[str, None] = {}
    tried: set[str] = set()
    without: set[str] = set()
    for folders in _layers(_folder(folder, settings)):
        rules = load_rules(*folders)
        for trial in try_examples(rules, settings.enrich):
            place = f"{path_of(trial.example.where, *folders)}: {trial.found.kind}"
            tried.add(f"{folders} {place}")
            if not trial.passed:
                title = f" ({trial.example.title})" if trial.example.title else ""
                lines = [f"{place} {trial.problem}{title}", *_tree(trial.found.outcome, 1)]
                failed["\n".join(lines)] = None
        judges: list[Rule | CriterionRule] = [*rules.rules, *rules.scorecard.criteria]
        without.update(
            path_of(each.where, *folders)
            for each in judges
            if not each.examples and not (isinstance(each, CriterionRule) and each.question)
        )
    for text in failed:
        out.print(text, soft_wrap=True)
    if without:
        err.print(f"without examples: {', '.join(sorted(without))}", soft_wrap=True)
    if failed:
        raise Stop(f"{len(failed)} of {len(tried)} examples failed")
    out.print(f"{len(tried)} examples, each as it says")


@rules_app.command("explain")
def explain_call(
    call: Annotated[str, typer.Argument(help="CALL_ID, TENANT/CALL_ID, or a transcript file.")],
    rules: Annotated[Path | None, typer.Option(help="Folder of rules to try.")] = None,
    only: Annotated[str | None, typer.Option(help="Only the rule or criterion of that id.")] = None,
) -> None:
    """What every rule, alert and criterion makes of one call, and why."""
    settings = load()
    common, tenants = load_tenant_rules(_folder(rules, settings))
    event = _event(call, settings)
    chosen = tenants.get(event.tenant_id, common)
    text_model = Parts(settings).text_model
    found = explain(chosen, ground(event, chosen, settings.enrich, text_model).facts)
    if only is not None:
        names = [each.name for each in found]
        found = [each for each in found if each.name == only]
        if not found:
            raise Stop(f"--only {only}: no such rule; there are {', '.join(names)}")
    out.print(
        f"{event.tenant_id}/{event.call_id}   {clock(event.duration_ms)}   rules {chosen.version}"
    )
    for each in found:
        out.print("\n".join(["", *explained(each)]), soft_wrap=True)


def explained(found: Explanation) -> list[str]:
    """Lines for reading: the verdict, why, then every condition with what shows it."""
    lines = [
        f"{found.kind} {found.name}: {found.verdict}   {found.title}   [{found.version}]",
        f"  asks: {found.question}" if found.question else f"  because {found.outcome.reason}",
    ]
    if found.applies is not None:
        lines += ["  applies when", *_tree(found.applies, 2)]
        lines += ["  met when"] if found.held is not None else []
    if found.held is not None:
        lines += _tree(found.outcome, 2 if found.applies is not None else 1)
    return lines


def _tree(outcome: Outcome, depth: int) -> Iterator[str]:
    indent = "  " * depth
    bare = not outcome.parts and not outcome.evidence
    yield f"{indent}{'yes' if outcome.held else 'no '} {outcome.reason if bare else outcome.what}"
    for part in outcome.parts:
        yield from _tree(part, depth + 1)
    if not outcome.parts:
        yield from (f"{indent}      {_line(each)}" for each in outcome.evidence[:_MOST_SHOWN])
        if (more := len(outcome.evidence) - _MOST_SHOWN) > 0:
            yield f"{indent}      and {more} more"


def _line(evidence: Evidence) -> str:
    said = f"“{evidence.quote}”" if evidence.quote else f"until {clock(evidence.end_ms)}"
    return f"{clock(evidence.start_ms)} {evidence.role.value.lower()} {said}"


def _folder(folder: Path | None, settings: Settings) -> Path | None:
    if folder is not None and not folder.is_dir():
        raise Stop(f"{folder}: no such folder of rules")
    return folder or settings.enrich.rules_dir


def _layers(folder: Path | None) -> Iterator[tuple[Path, ...]]:
    """The folders of everybody's rules, then those of each tenant's."""
    if folder is None:
        yield ()
        return
    yield (folder,)
    tenants = folder / "tenants"
    for own in sorted(tenants.iterdir()) if tenants.is_dir() else ():
        if own.is_dir():
            yield (folder, own)


def _event(call: str, settings: Settings) -> CallTranscribed:
    """The transcript in a file of that name, else the one that is current for the call."""
    path = Path(call)
    if path.is_file():
        try:
            return parse_transcript(
                path.read_text("utf-8"), tenant_id=settings.tenant, call_id=path.stem
            )
        except (OSError, UnicodeDecodeError, TranscriptError) as error:
            raise Stop(f"{path}: {error}") from error
    if path.is_absolute() or path.suffix in (".txt", ".json"):
        raise Stop(f"{path}: no such file")
    parts = Parts(settings)
    try:
        with asking(settings) as asks:
            tenant, call_id = named_call(settings, asks, call)
            current = newest(asks, parts.codec, tenant, call_id, CallTranscribed)
    finally:
        parts.close()
    if current is None:
        raise Stop(f"{tenant}/{call_id} has no transcript yet; `callstream calls` has its state")
    return current.event
