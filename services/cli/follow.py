"""Waiting for calls to come through, and showing how far they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from schemas.checks import revision_of
from schemas.events import CallEnded, RecordingStatus
from schemas.topics import RECORDED
from services.cli.console import Stop
from services.loopback import Asks, rows_of
from services.runtime import headers as h
from services.runtime.stage import event_id
from services.settings import Settings

# States in which nothing more happens to a call by itself.
THROUGH = frozenset({"enriched", "failed", "no_recording", "erased"})
# ... and in which it goes on only when somebody else does something, or after a while.
WAITING = "waiting"

_POLL_S = 0.3
# Most calls of one question.
_PORTION = 500


@dataclass(frozen=True, slots=True)
class State:
    """Where a call is, and why it is not further."""

    state: str
    reason: str
    degradations: tuple[str, ...] = ()
    """What could not be done, where the call is through all the same."""
    detail: str = ""
    """The reason at length."""
    overtaken: bool = False
    """Whether another version of the call is what readers see."""


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
    calls: Collection[CallEnded],
    console: Console,
    trouble: Callable[[], str | None] = lambda: None,
    timeout_s: float | None = None,
    since: datetime | None = None,
) -> Mapping[str, State]:
    """Event id -> what came of each of `calls`, and of no earlier version of the same call.

    Shows progress until every one is through, waits for something outside, or time is up. A
    failure or wait from before `since` is that of an earlier try. `trouble` says why nothing goes
    on any more, where it does not; that is shown, and ends it.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    left = {call.event_id: call for call in calls}
    total = len(left)
    known: dict[str, State] = {}
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), console=console, transient=True,
    ) as progress:  # fmt: skip
        task = progress.add_task("calls", total=total)
        while True:
            known |= became(asks, list(left.values()), since)
            left = {
                id: call
                for id, call in left.items()
                if id not in known or known[id].state not in THROUGH
            }
            waiting = [id for id in left if id in known and known[id].state == WAITING]
            progress.update(task, completed=total - len(left), description=_described(known))
            over = deadline is not None and time.monotonic() > deadline
            if len(waiting) == len(left) or over:
                return known
            if (why := trouble()) is not None:
                console.print(f"nothing goes on: {why}", markup=False, soft_wrap=True)
                return known
            time.sleep(_POLL_S)


def named_call(settings: Settings, asks: Asks, call: str) -> tuple[str, str]:
    """Tenant and id of the call that a person named.

    An id may hold slashes, a tenant may not: what is no call of the tenant that it names may be an
    id of the default tenant. Raises Stop for what can be none.
    """
    if not call.strip() or any("\ud800" <= c <= "\udfff" for c in call):
        raise Stop(f"{call!r} is no id of a call; `callstream calls` names those there are")
    tenant, slash, call_id = call.partition("/")
    if not slash:
        return settings.tenant, call
    if not states(asks, tenant, [call_id]) and states(asks, settings.tenant, [call]):
        return settings.tenant, call
    return tenant, call_id


def became(
    asks: Asks, calls: Sequence[CallEnded], since: datetime | None = None
) -> dict[str, State]:
    """Event id -> how far that event of its call is, of those that the warehouse knows of."""
    found: dict[str, State] = {}
    for start in range(0, len(calls), _PORTION):
        part = calls[start : start + _PORTION]
        for tenant in sorted({call.tenant_id for call in part}):
            found |= _became(asks, tenant, [c for c in part if c.tenant_id == tenant], since)
    return found


def _became(
    asks: Asks, tenant: str, calls: Sequence[CallEnded], since: datetime | None
) -> dict[str, State]:
    def rows(sql: str, **more: Any) -> list[dict[str, Any]]:
        ids = sorted({call.call_id for call in calls})
        return rows_of(asks, sql, {"tenant": tenant, "calls": ids, **more})

    past = _past(rows, 0 if since is None else round(since.timestamp() * 1000))
    known = {row["event_id"] for row in rows(f"SELECT event_id FROM calls_ended WHERE {_OF}")}
    current = {row["event_id"] for row in rows(f"SELECT event_id FROM current_ended WHERE {_OF}")}
    erased = {
        row["call_id"]: int(row["at"])
        for row in rows(
            "SELECT call_id, toUnixTimestamp64Milli(max(erased_at)) AS at FROM calls_erased"
            f" WHERE {_OF} GROUP BY call_id"
        )
    }
    found: dict[str, State] = {}
    transcripts: dict[str, str] = {}
    for call in calls:
        basis = max(round(call.published_at.timestamp() * 1000), revision_of(call))
        if erased.get(call.call_id, -1) >= basis:
            found[call.event_id] = State("erased", "")
        elif call.event_id in known:
            at, transcript = past.state(call)
            found[call.event_id] = replace(at, overtaken=call.event_id not in current)
            transcripts[transcript] = call.event_id
    for row in rows(
        f"SELECT event_id, degradations FROM calls_transcribed FINAL WHERE {_OF}"
        " AND event_id IN {ids:Array(String)}",
        ids=sorted(transcripts),
    ):
        id = transcripts[row["event_id"]]
        found[id] = replace(found[id], degradations=tuple(row["degradations"]))
    return found


_OF = "tenant_id = {tenant:String} AND call_id IN {calls:Array(String)}"
# Where a call is before the stage is done with it.
_BEFORE = {"ingest": "ended", "transcribe": "stored", "enrich": "transcribed"}
_GONE = (RecordingStatus.ABSENT, RecordingStatus.FAILED, RecordingStatus.DELETED)


@dataclass(frozen=True, slots=True)
class _Past:
    """What stages have told of live events."""

    told: Mapping[tuple[str, str, str], State]
    """(call, stage, input id) -> done, or what stands in the way."""
    recorded: Mapping[tuple[str, str], str]
    """(call, CallEnded id) -> id of the CallRecorded that came of it."""

    def state(self, call: CallEnded) -> tuple[State, str]:
        """How far the event is, and the id of its transcript or ""."""
        if all(recording.status in _GONE for recording in call.recordings):
            return State("no_recording", ""), ""
        id = call.event_id
        for stage, before in _BEFORE.items():
            for at in (stage, "sink"):
                trouble = self.told.get((call.call_id, at, id))
                if trouble is not None and trouble.state != "done":
                    return trouble, ""
            if (call.call_id, stage, id) not in self.told:
                return State(before, ""), id if stage == "enrich" else ""
            transcript = id
            id = (
                self.recorded.get((call.call_id, id), "")
                if stage == "ingest"
                else event_id(stage, id, 0, 0)
            )
        return State("enriched", ""), transcript


def _past(rows: Callable[..., list[dict[str, Any]]], earliest_ms: int) -> _Past:
    told = {}
    for row in rows(
        "SELECT call_id, stage, input_id, argMax((state, reason, detail), (time, state = 'done'))"
        " AS latest, latest.1 AS became, latest.2 AS why, latest.3 AS more,"
        " toUnixTimestamp64Milli(max(time)) AS at FROM stage_states"
        f" WHERE {_OF} AND generation = 0 GROUP BY call_id, stage, input_id"
    ):
        state = {"refused": "failed", "dropped": "failed"}.get(row["became"], row["became"])
        key = row["call_id"], row["stage"], row["input_id"]
        if state == "done":
            told[key] = State("done", "")
        elif int(row["at"]) >= earliest_ms:
            told[key] = State(state, f"{row['stage']}: {row['why']}", detail=row["more"])
    recorded = rows(
        "SELECT call_id, event_id, header_values[indexOf(header_names, {header:String})] AS cause"
        f" FROM events WHERE topic = {{topic:String}} AND {_OF} AND generation = 0",
        header=h.CAUSATION_ID,
        topic=RECORDED,
    )
    return _Past(told, {(row["call_id"], row["cause"]): row["event_id"] for row in recorded})


def _described(known: Mapping[str, State]) -> str:
    counts: dict[str, int] = {}
    for at in known.values():
        counts[at.state] = counts.get(at.state, 0) + 1
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "calls"
