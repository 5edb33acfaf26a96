"""`callstream dead-letters`: what could not be processed, looked at and settled."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Annotated

import typer
from rich.table import Table

from services import dead_letters as dead
from services.assembly import Parts
from services.cli.console import Stop, err, out
from services.loopback import running
from services.runtime import headers as h
from services.runtime.errors import Failure, Transient
from services.settings import load

letters_app = typer.Typer(
    help="What could not be processed, and what to do about it.", no_args_is_help=True
)


@letters_app.command("list")
def list_letters(
    stage: Annotated[str | None, typer.Option(help="Only this stage's.")] = None,
) -> None:
    """Every dead letter that nobody has settled."""
    parts = Parts(load())
    table = Table("id", "call", "stage", "topic", "when", "reason", "why")
    count = 0
    for letter in dead.unsettled(parts.view):
        if stage is None or letter.stage == stage:
            count += 1
            at = letter.at.isoformat(sep=" ", timespec="seconds")
            table.add_row(letter.id, letter.call, letter.stage, letter.topic, at, letter.reason,
                          letter.why.removeprefix(f"{letter.reason}: ")[:200])  # fmt: skip
    out.print(table if count else "no dead letters")
    parts.close()


@letters_app.command("show")
def show_letter(id: Annotated[str, typer.Argument(help="As `list` names it.")]) -> None:
    """One dead letter: its headers, why it was refused, and what it says."""
    parts = Parts(load())
    (letter,) = _letters(parts, [id])
    for name, value in letter.message.headers:
        # Of what was refused on purpose it says nothing that the message does not.
        if name != h.ERROR_TRACE or letter.reason == "unexpected":
            out.print(f"{name}: {value.decode('utf-8', 'replace')}")
    body = letter.message.value
    out.print(f"\nvalue: {'null' if body is None else f'{len(body)} bytes'}")
    try:
        event = dead.original(parts.codec, letter)
        out.print_json(json.dumps(event, default=str, ensure_ascii=False))
    except Failure as failure:
        out.print(f"cannot be decoded: {failure}")
        if body is not None:
            out.print(body[:256].hex(" "))
    parts.close()


@letters_app.command("redrive")
def redrive_letters(
    ids: Annotated[list[str] | None, typer.Argument(help="As `list` names them.")] = None,
    all: Annotated[bool, typer.Option("--all", help="Every one of them.")] = False,
    stage: Annotated[str | None, typer.Option(help="With --all: only this stage's.")] = None,
) -> None:
    """Give dead letters to their stage again, after what refused them was mended."""
    _settle(ids, all, stage, "redriven")


@letters_app.command("drop")
def drop_letters(
    ids: Annotated[list[str] | None, typer.Argument(help="As `list` names them.")] = None,
    all: Annotated[bool, typer.Option("--all", help="Every one of them.")] = False,
    stage: Annotated[str | None, typer.Option(help="With --all: only this stage's.")] = None,
) -> None:
    """Settle dead letters without processing them; their bytes stay in the archive."""
    _settle(ids, all, stage, "dropped")


def _settle(ids: list[str] | None, every: bool, stage: str | None, action: str) -> None:
    if bool(ids) == every:
        raise Stop("name dead letters, or say --all")
    settings = load()
    parts = Parts(settings)
    letters = _letters(parts, ids)
    if stage is not None:
        letters = (letter for letter in letters if letter.stage == stage)
    log = parts.log()
    act = dead.redrive if action == "redriven" else dead.drop
    done = 0
    with err.status(f"{action}: 0") as shown:

        def told(count: int) -> None:
            nonlocal done
            done = count
            shown.update(f"{action}: {count:,}")

        try:
            act(log, letters, round(time.time() * 1000), told)
        except (KeyboardInterrupt, Transient):
            err.print(f"{action}: {done:,}; the others are as they were, say it again for them")
            raise
    log.close()
    parts.close()
    out.print(f"{action}: {done}")
    if done and settings.log.kind == "sqlite" and running(settings.data_dir) is None:
        err.print("nothing acts on it until `callstream up` runs on this data folder")


def _letters(parts: Parts, ids: Sequence[str] | None) -> Iterable[dead.DeadLetter]:
    """Those named, or every unsettled one, as they are read."""
    if ids is None:
        return dead.unsettled(parts.view)
    wanted = set(ids)
    known = {letter.id: letter for letter in dead.unsettled(parts.view) if letter.id in wanted}
    missing = [id for id in ids if id not in known]
    if missing:
        raise Stop(f"no unsettled dead letter {', '.join(missing)}; see `dead-letters list`")
    return [known[id] for id in dict.fromkeys(ids)]
