"""Waiting for calls to come through, and showing how far they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from services.loopback import Asks, rows_of

# States in which nothing more happens to a call by itself.
THROUGH = frozenset({"enriched", "failed", "no_recording", "erased"})
# ... and in which it goes on only when somebody else does something, or after a while.
WAITING = "waiting"

_POLL_S = 0.3


@dataclass(frozen=True, slots=True)
class State:
    """Where a call is, and why it is not further."""

    state: str
    reason: str
    degradations: tuple[str, ...] = ()
    """What could not be done, where the call is through all the same."""


def states(asks: Asks, tenant: str, call_ids: Collection[str]) -> dict[str, State]:
    """call_id -> state, of the calls that the warehouse knows."""
    rows = rows_of(
        asks,
        "SELECT call_id, state, state_reason, degradations FROM calls"
        " WHERE tenant_id = {tenant:String} AND call_id IN {ids:Array(String)}",
        {"tenant": tenant, "ids": sorted(call_ids)},
    )
    return {
        row["call_id"]: State(row["state"], row["state_reason"], tuple(row["degradations"]))
        for row in rows
    }


def follow(
    asks: Asks,
    tenant: str,
    call_ids: Collection[str],
    console: Console,
    trouble: Callable[[], str | None] = lambda: None,
    timeout_s: float | None = None,
) -> Mapping[str, State]:
    """Show progress until every call is through, waits for something outside, or time is up.

    `trouble` says why nothing goes on any more, where it does not; that is shown, and ends it.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), console=console, transient=True,
    ) as progress:  # fmt: skip
        task = progress.add_task("calls", total=len(call_ids))
        while True:
            known = states(asks, tenant, call_ids)
            through = [call for call, at in known.items() if at.state in THROUGH]
            waiting = [call for call, at in known.items() if at.state == WAITING]
            progress.update(task, completed=len(through), description=_described(known))
            over = deadline is not None and time.monotonic() > deadline
            if len(through) + len(waiting) == len(call_ids) or over:
                return known
            if (why := trouble()) is not None:
                console.print(f"nothing goes on: {why}", markup=False, soft_wrap=True)
                return known
            time.sleep(_POLL_S)


def _described(known: Mapping[str, State]) -> str:
    counts: dict[str, int] = {}
    for at in known.values():
        counts[at.state] = counts.get(at.state, 0) + 1
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "calls"
