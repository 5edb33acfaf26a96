"""What becomes of a shadow generation: all its calls are shown at once, or never."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from schemas.events import Decision, GenerationDecided
from services.loopback import Asks, rows_of
from services.replay.plans import Plan
from services.replay.progress import Tally
from services.replay.selection import Refused
from services.runtime.codec import Codec
from services.runtime.log import Log
from services.runtime.stage import event_id, utc_now

_EPOCH = datetime.fromtimestamp(0, UTC)


class Decided(NamedTuple):
    """The latest decision about a generation; all is "" where nobody has decided yet."""

    decision: str = ""
    """PROMOTED or DISCARDED."""
    by: str = ""
    reason: str = ""


def decided(asks: Asks, tenant: str, generation: int) -> Decided:
    """What was decided about that generation, by whom and why."""
    rows = rows_of(
        asks,
        "SELECT decision, decided_by, reason FROM generations"
        " WHERE tenant_id = {tenant:String} AND generation = {generation:Int64}"
        " ORDER BY decided_at DESC, event_id DESC LIMIT 1",
        {"tenant": tenant, "generation": generation},
    )
    return Decided(*(str(value) for value in rows[0].values())) if rows else Decided()


def decision(asks: Asks, tenant: str, generation: int) -> str:
    """PROMOTED, DISCARDED, or "" where nobody has decided yet."""
    return decided(asks, tenant, generation).decision


def overtaken(plan: Plan, asks: Asks) -> int:
    """Calls of a generation that readers see by a later one, or a later amendment, all the same."""
    table = {"calls_enriched": "current_enriched"}
    if plan.stage != "enrich":
        table |= {"calls_transcribed": "current_transcribed"}
    either = " UNION DISTINCT ".join(
        f"SELECT call_id FROM {current} WHERE tenant_id = {{tenant:String}}"
        f" AND generation != {{generation:Int64}} AND call_id IN (SELECT call_id FROM {made}"
        " WHERE tenant_id = {tenant:String} AND generation = {generation:Int64})"
        for made, current in table.items()
    )
    parameters = {"tenant": plan.tenant, "generation": plan.generation}
    rows = rows_of(asks, f"SELECT count() AS calls FROM ({either})", parameters)
    return int(rows[0]["calls"])


def check_decision(
    plan: Plan, wanted: Decision, known: str, counted: Tally, *, partial: bool
) -> None:
    """Raises Refused where that decision makes no sense."""
    name = wanted.value.lower()
    if not plan.shadow:
        raise Refused(f"replay {plan.generation} is no shadow: readers have seen it from the start")
    if known == wanted:
        raise Refused(f"replay {plan.generation} is {name} already")
    if wanted is Decision.PROMOTED:
        if known == Decision.DISCARDED:
            raise Refused(
                f"replay {plan.generation} was discarded, which is for good; replay again"
            )
        if not counted.done:
            raise Refused(f"no call of replay {plan.generation} is done: there is nothing to show")
        if (missing := counted.left + counted.waiting + counted.failed) and not partial:
            raise Refused(
                f"{missing} of {counted.total} calls of replay {plan.generation} are not through, "
                f"{counted.failed} of them failed; `callstream replay resume {plan.generation}` "
                "goes on with those that were not asked for, --partial promotes what there is"
            )


def decide(
    log: Log,
    codec: Codec,
    asks: Asks,
    plan: Plan,
    wanted: Decision,
    decided_by: str,
    reason: str,
    clock: Callable[[], datetime] = utc_now,
) -> None:
    """Put the decision on record, durably; it is later than every one that the warehouse knows."""
    now = clock()
    decided_at = max(now, _decided_at(asks, plan) + timedelta(milliseconds=1))
    event = GenerationDecided(
        tenant_id=plan.tenant,
        generation=plan.generation,
        decision=wanted,
        decided_at=decided_at,
        decided_by=decided_by,
        reason=reason,
    )
    about = f"{plan.tenant}\n{wanted.value}\n{round(decided_at.timestamp() * 1000)}"
    record = codec.encode(
        event,
        id=event_id("decision", about, plan.generation, 0),
        source="/callstream/replay",
        time=now,
        generation=plan.generation,
    )
    log.commit([record], {})


def _decided_at(asks: Asks, plan: Plan) -> datetime:
    """When the latest known decision about the replay was made; 1970 where there is none."""
    rows = rows_of(
        asks,
        "SELECT toUnixTimestamp64Milli(max(decided_at)) AS at FROM generations"
        " WHERE tenant_id = {tenant:String} AND generation = {generation:Int64}",
        {"tenant": plan.tenant, "generation": plan.generation},
    )
    return _EPOCH + timedelta(milliseconds=int(rows[0]["at"]))
