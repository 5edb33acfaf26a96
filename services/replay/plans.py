"""A stage run again over calls of the past, on record and asked for.

A replay is a generation: a number that grows per tenant, and a plan that is stored before anything
is published, so that a replay that was stopped anywhere goes on from what log and warehouse say.
Its requests have ids that follow from plan and input; one that is published twice makes the same
events, and a resumed replay publishes none of them again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import unquote

import msgspec

from schemas.events import OriginalInput, ReplayRequested
from schemas.topics import REPLAY
from services.dead_letters import settled
from services.ingest.handler import key_part
from services.loopback import Asks
from services.replay.inputs import Input, fetch, ordered
from services.replay.selection import Refused, Selection
from services.runtime import headers as h
from services.runtime.codec import Codec
from services.runtime.errors import Invalid
from services.runtime.log import Log, LogView, Record
from services.runtime.objects import MissingObject, Objects
from services.runtime.stage import event_id, utc_now

GONE = "in neither archive nor log any more"

_SECOND = 1_000_000


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A replay as it was asked for: everything that is needed to go on with it."""

    tenant: str
    generation: int
    stage: str
    requested_by: str
    requested_at: datetime
    options: dict[str, str]
    shadow: bool
    side_effects: bool
    reason: str
    criteria: dict[str, Any]
    begins: dict[int, int]
    """Partition of calls.replay -> where its requests begin."""
    inputs: list[Input]


_ALL = "replays/"


def _folder(tenant: str) -> str:
    return f"{_ALL}{key_part(tenant)}/"


def _key(tenant: str, generation: int) -> str:
    return f"{_folder(tenant)}{generation}.json"


def store_plan(
    objects: Objects,
    view: LogView,
    stage: str,
    selection: Selection,
    inputs: Sequence[Input],
    *,
    options: Mapping[str, str],
    shadow: bool,
    side_effects: bool,
    reason: str,
    requested_by: str,
    now: datetime | None = None,
) -> Plan:
    """Give the replay its generation, beyond every other of its tenant, and put it on record."""
    at = now or utc_now()
    latest = max(generations(objects, selection.tenant), default=0)
    # Microseconds whose last six digits are random: commands that list the same plans at the same
    # moment, or by slow clocks, take different numbers. JSON's doubles hold it until the year 2255.
    second = int(at.timestamp()) * _SECOND
    generation = max(second, latest) + 1 + secrets.randbelow(_SECOND)
    begins = {partition: end for partition, (_, end) in view.ends(REPLAY).items()}
    plan = Plan(
        selection.tenant, generation, stage, requested_by, at, dict(options), shadow, side_effects,
        reason, selection.criteria, begins, ordered(inputs),
    )  # fmt: skip
    objects.put(_key(plan.tenant, generation), msgspec.json.encode(plan))
    return plan


def generations(objects: Objects, tenant: str) -> list[int]:
    """Every replay of the tenant, the oldest first."""
    names = (key.rpartition("/")[2].removesuffix(".json") for key in objects.keys(_folder(tenant)))
    return sorted(int(name) for name in names if name.isdecimal())


def read_plan(objects: Objects, tenant: str, generation: int) -> Plan:
    """The plan of that replay. Raises Refused where there is none."""
    try:
        return msgspec.json.decode(objects.get(_key(tenant, generation)), type=Plan)
    except MissingObject:
        known = generations(objects, tenant)[-3:]
        hint = f"; the latest: {', '.join(map(str, known))}" if known else "; it has none"
        for other in _owners(objects, generation):
            hint += f". Tenant {other!r} has one of that number: --tenant {other}"
        raise Refused(
            f"tenant {tenant!r} has no replay {generation}{hint}. See `callstream replay list`"
        ) from None
    except msgspec.DecodeError as error:
        raise Refused(f"{_key(tenant, generation)} is no plan of a replay: {error}") from error


def _owners(objects: Objects, generation: int) -> list[str]:
    """Tenants that have a replay of that number."""
    mine = (key for key in objects.keys(_ALL) if key.endswith(f"/{generation}.json"))
    return sorted(unquote(key.removeprefix(_ALL).partition("/")[0]) for key in mine)


def request_id(plan: Plan, each: Input) -> str:
    """The id of the request for that input."""
    about = f"{plan.tenant}/{each.call}\n{each.topic}\n{each.event_id}"
    return event_id("replay", about, plan.generation, 0)


def publish(
    plan: Plan,
    inputs: Sequence[Input],
    log: Log,
    view: LogView,
    codec: Codec,
    asks: Asks | None,
    clock: Callable[[], datetime] = utc_now,
) -> dict[Input, str]:
    """Ask for `inputs` to be handled again; those that cannot be asked for, and why.

    Durable on return. A dead letter that holds an input is settled in the same commit, unless the
    replay is a shadow.
    """
    fetched = fetch(plan.stage, plan.tenant, inputs, asks, view, codec)
    now = clock()
    records: list[Record] = []
    lost = dict.fromkeys(inputs, GONE)
    for each, original, letter in fetched:
        lost.pop(each, None)
        request = ReplayRequested(
            tenant_id=plan.tenant,
            call_id=each.call,
            requested_at=now,
            requested_by=plan.requested_by,
            reason=plan.reason,
            stage=plan.stage,
            generation=plan.generation,
            options=plan.options,
            shadow=plan.shadow,
            side_effects=plan.side_effects,
            input=original,
        )
        try:
            record = codec.encode(
                request,
                id=request_id(plan, each),
                source="/callstream/replay",
                time=now,
                generation=plan.generation,
                causation_id=each.event_id,
                traceparent=_trace(original),
                shadow=plan.shadow,
                side_effects=plan.side_effects,
            )
        except Invalid as problem:
            lost[each] = f"{problem.reason}: {problem.detail}"
            continue
        records.append(record)
        if letter is not None and not plan.shadow:
            records.append(settled(letter, "replayed", round(now.timestamp() * 1000)))
    if records:
        log.commit(records, {})
    return lost


def _trace(original: OriginalInput) -> str | None:
    for header in original.headers:
        if header.name == h.TRACEPARENT:
            return header.value.decode("utf-8", "replace")
    return None


def published(plan: Plan, view: LogView) -> set[str]:
    """Ids of the requests of `plan` that the log holds."""
    prefix = f"{plan.tenant}/".encode()
    wanted = str(plan.generation)
    return {
        message.header(h.ID) or ""
        for message in view.scan(REPLAY, plan.begins)
        if (message.key or b"").startswith(prefix) and message.header(h.GENERATION) == wanted
    }
