"""The sink: a stage whose handler inserts rows and returns nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from schemas.events import CallErased
from schemas.topics import TOPICS
from services.runtime.errors import Failure, Invalid, Transient
from services.runtime.stage import Envelope, Outcome, Stage
from services.sink.rows import (
    NAME,
    TABLES,
    About,
    Columns,
    about,
    abouts,
    columns_of,
    milliseconds,
)
from services.sink.settings import SinkSettings
from services.sink.warehouse import Result

_NEVER = -(1 << 62)

Call = tuple[str, str]
"""tenant_id and call_id."""


# What an erasure empties; headlines first, so that a call leaves the views at once.
_ERASABLE = tuple(
    reversed([t for t in TABLES if t not in ("calls_erased", "shadows", "generations")])
)
# Of the erased call, these rows stay: that it was erased, when, and by whose wish; and what was
# refused for it.
_STAYS = {
    "events": "type = 'CallErased'",
    "stage_states": "state = 'erased' OR (state = 'refused' AND reason = 'erased')",
}


class Tables(Protocol):
    """What the handler needs of a warehouse."""

    def insert(self, table: str, columns: Sequence[str], data: Sequence[Sequence[Any]]) -> None: ...

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Result: ...

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None: ...


def stage(settings: SinkSettings, warehouse: Tables) -> Stage:
    """The sink over `warehouse`; reads every topic, what cannot be decoded included."""

    def handle(envelopes: Sequence[Envelope[Any]]) -> Iterator[tuple[int, Outcome]]:
        yield from _outcomes(warehouse, list(enumerate(envelopes)), settings.words)

    return Stage(
        NAME,
        sources=tuple(topic.name for topic in TOPICS if "sink" in topic.consumers),
        targets=(),
        handle=handle,
        batch=settings.batch,
        wait_s=settings.wait_s,
        workers=settings.workers,
        passes_undecodable=True,
    )


def _outcomes(
    warehouse: Tables,
    batch: Sequence[tuple[int, Envelope[Any]]],
    words: bool,
) -> Iterator[tuple[int, Outcome]]:
    """Store `batch`; where the warehouse refuses it, find out by halves which event it refuses."""
    made: list[About] = []
    sound: list[tuple[int, Envelope[Any]]] = []
    for index, envelope in batch:
        try:
            made += abouts(envelope)
        except Invalid as problem:
            yield index, problem
            continue
        sound.append((index, envelope))
    try:
        store(warehouse, made, words=words)
        remake(warehouse, [envelope for _, envelope in sound], words=words)
    except Failure:
        raise
    except Exception as error:
        if len(sound) == 1:
            yield sound[0][0], error
            return
        middle = len(sound) // 2
        yield from _outcomes(warehouse, sound[:middle], words)
        yield from _outcomes(warehouse, sound[middle:], words)
        return
    for index, _ in sound:
        yield index, ()


class Identity(NamedTuple):
    """What makes two messages the same one.

    An id alone does not: a producer may count from one for each tenant, or name an erasure after
    the request that asks for several. Of an erasure the revision is the time that it reaches to.
    Where a message is the event, its place tells: retries and dead letters carry the headers of
    what they hold, `ce_id` included.
    """

    topic: str
    event_id: str
    tenant: str
    call: str
    generation: int
    revision: int
    place: str


def identity_of(it: About) -> Identity:
    """The same for an event however often it is delivered, and another for each dead letter."""
    topic = it.envelope.message.topic
    return Identity(topic, it.id, it.tenant, it.call, it.generation, it.revision, it.place)


def _archived(warehouse: Tables, made: Sequence[About]) -> dict[Identity, int]:
    """Those of `made` that the archive holds, and the basis (ms) it holds them with."""
    ids: dict[str, list[str]] = {}
    for it in made:
        ids.setdefault(it.envelope.message.topic, []).append(it.id)
    if not ids:
        return {}
    parameters: dict[str, Any] = {
        "tenants": sorted({it.tenant for it in made}),
        "calls": sorted({it.call for it in made}),
    }
    for number, (topic, wanted) in enumerate(ids.items()):
        parameters |= {f"topic{number}": topic, f"ids{number}": wanted}
    either = " OR ".join(
        f"(topic = {{topic{number}:String}} AND event_id IN {{ids{number}:Array(String)}})"
        for number in range(len(ids))
    )
    found = warehouse.query(
        "SELECT topic, event_id, tenant_id, call_id, generation, revision, place, "
        "toUnixTimestamp64Milli(basis_at) "
        f"FROM events WHERE ({either}) "
        "AND tenant_id IN {tenants:Array(String)} AND call_id IN {calls:Array(String)}",
        parameters,
    )
    held: dict[Identity, int] = {}
    for *identity, basis in found.rows:
        named = Identity(*identity)
        held[named] = max(basis, held.get(named, basis))
    return held


def _distinct(made: Sequence[About]) -> list[About]:
    """Each event once, as it was when it came with the latest basis."""
    distinct: dict[Identity, About] = {}
    for it in made:
        identity = identity_of(it)
        if it.basis > distinct.setdefault(identity, it).basis:
            distinct[identity] = it
    return list(distinct.values())


def store(warehouse: Tables, made: Sequence[About], *, words: bool = True) -> None:
    """Insert the rows of `made`, carry out the erasures among it; durable on return.

    An event that is archived already, or comes twice, adds no row; one that its stage made anew
    since adds the state of that stage, for what failed or waited in between is over. Stopped
    anywhere and called again, this leaves what one whole run leaves: the archive comes last, what
    comes before it is inserted again, and rows that come twice are one row by their key.
    """
    erasures = [it for it in made if isinstance(it.envelope.event, CallErased)]
    if erasures:
        archived = _archived(warehouse, erasures)
        erasures = [it for it in _distinct(erasures) if identity_of(it) not in archived]
    asked = _asked(erasures)
    erased = _erased(warehouse, made, asked)
    others = [
        it
        for it in made
        if not isinstance(it.envelope.event, CallErased) and not _is_erased(it, erased)
    ]
    if asked:
        # The erasure is on record before anything is deleted: another sink that is inserting rows
        # of the call either sees it when it looks again, or was done before the deletion.
        asking = {"calls_erased": columns_of(erasures)["calls_erased"]}
        _insert(warehouse, asking)
    _delete(warehouse, _covered(made, erased) | {call: erased[call] for call in asked})
    # Asked after the deletion: an event of an erased call that is handed in again is no repeat.
    archived = _archived(warehouse, others)
    fresh, again = [], []
    for it in _distinct(others):
        basis = archived.get(identity_of(it))
        if basis is None:
            fresh.append(it)
        elif it.basis > basis:
            again.append(it)
    repeats = len(fresh) < len(others)
    if again:
        renewals = [(it.tenant, it.call, it.id, it.basis) for it in again]
        _insert(warehouse, {"renewals": list(zip(*renewals, strict=True))})
    fresh += erasures
    columns = columns_of(fresh, words=words)
    columns.pop("calls_erased", None)
    _insert(warehouse, columns)
    anew = _made_anew(warehouse, others) if repeats else []
    if anew:
        done = [it.done for it in anew if it.done]
        _insert(warehouse, {"stage_states": list(zip(*done, strict=True))})
    later = _erase_later(warehouse, [*fresh, *again, *anew], erased)
    if any(it.basis > later.get((it.tenant, it.call), it.basis) for it in again):
        # What these repeat may have been deleted before they were on record: look again.
        raise Transient("erased_meanwhile", "a call was erased while it was handed in again")


def remake(warehouse: Tables, requests: Sequence[Envelope[Any]], *, words: bool = True) -> None:
    """Insert once more the rows of the events whose replay is requested, the archive's excepted.

    They take the place of those that the same events made before. What has been erased since stays
    so, and its request is refused; erasures are not carried out again.
    """
    made = [
        (about(request), about(request.replays))
        for request in requests
        if request.replays is not None and not isinstance(request.replays.event, CallErased)
    ]
    erased = _erased(warehouse, [it for _, it in made], {})
    refused = [(asked, it) for asked, it in made if _is_erased(it, erased)]
    if refused:
        _delete(warehouse, _covered([it for _, it in refused], erased))
        gone = [asked.state(NAME, it.id, "refused", reason="erased") for asked, it in refused]
        _insert(warehouse, {"stage_states": list(zip(*gone, strict=True))})
    made = [(asked, it) for asked, it in made if not _is_erased(it, erased)]
    if not made:
        return
    columns = columns_of([it for _, it in made], words=words)
    del columns["events"]
    _insert(warehouse, columns)
    done = [asked.state(NAME, it.id, "done") for asked, it in made]
    _insert(warehouse, {"stage_states": list(zip(*done, strict=True))})
    _erase_later(warehouse, [it for _, it in made], erased)


def _made_anew(warehouse: Tables, made: Sequence[About]) -> list[About]:
    """Of `made`, those that tell of a stage being done later than any row tells."""
    latest: dict[tuple[Any, ...], About] = {}
    for it in made:
        if it.done:
            done = _about_state(it.done)
            if it.time >= latest.setdefault(done, it).time:
                latest[done] = it
    if not latest:
        return []
    known = warehouse.query(
        "SELECT tenant_id, call_id, stage, input_id, generation, "
        "toUnixTimestamp64Milli(max(time)) FROM stage_states WHERE state = 'done' "
        "AND tenant_id IN {tenants:Array(String)} AND call_id IN {calls:Array(String)} "
        "GROUP BY tenant_id, call_id, stage, input_id, generation",
        {
            "tenants": sorted({it.tenant for it in latest.values()}),
            "calls": sorted({it.call for it in latest.values()}),
        },
    )
    since = {tuple(done): time for *done, time in known.rows}
    return [it for done, it in latest.items() if it.time > since.get(done, _NEVER)]


def _about_state(row: Sequence[Any]) -> tuple[Any, ...]:
    """What a row of `stage_states` is the state of: call, stage, input and generation."""
    named = dict(zip(TABLES["stage_states"], row, strict=True))
    return tuple(
        named[column] for column in ("tenant_id", "call_id", "stage", "input_id", "generation")
    )


def _asked(made: Sequence[About]) -> dict[Call, int]:
    """Call -> until when (ms) the batch itself asks for it to be erased."""
    asked: dict[Call, int] = {}
    for it in made:
        event = it.envelope.event
        if isinstance(event, CallErased):
            call, at = (it.tenant, it.call), milliseconds(event.erased_at)
            asked[call] = max(at, asked.get(call, at))
    return asked


def _erased(warehouse: Tables, made: Sequence[About], asked: Mapping[Call, int]) -> dict[Call, int]:
    """Call -> until when (ms) it is erased, for the calls of `made` that are."""
    erased = dict(asked)
    calls = {(it.tenant, it.call) for it in made}
    if not calls or warehouse.query("SELECT count() FROM calls_erased").rows[0][0] == 0:
        return erased
    known = warehouse.query(
        "SELECT tenant_id, call_id, max(toUnixTimestamp64Milli(erased_at)) FROM calls_erased "
        "WHERE tenant_id IN {tenants:Array(String)} AND call_id IN {calls:Array(String)} "
        "GROUP BY tenant_id, call_id",
        {
            "tenants": sorted({tenant for tenant, _ in calls}),
            "calls": sorted({call for _, call in calls}),
        },
    )
    for tenant, call, at in known.rows:
        if (tenant, call) in calls:
            erased[tenant, call] = max(at, erased.get((tenant, call), at))
    return erased


def _is_erased(it: About, erased: Mapping[Call, int]) -> bool:
    return it.basis <= erased.get((it.tenant, it.call), _NEVER)


def _covered(made: Sequence[About], erased: Mapping[Call, int]) -> dict[Call, int]:
    """Call -> until when (ms) it is erased, for calls of which an erasure covers something of
    `made`. Rows of it may be there: an attempt that was stopped while another sink erased the call
    inserted them after the deletion."""
    return {
        call: erased[call]
        for it in made
        for call in ((it.tenant, it.call),)
        if not isinstance(it.envelope.event, CallErased) and _is_erased(it, erased)
    }


def _erase_later(
    warehouse: Tables, made: Sequence[About], erased: Mapping[Call, int]
) -> dict[Call, int]:
    """Carry out again what is on record beyond `erased` of the calls of `made`: whoever erased them
    meanwhile may have been done before the rows of `made` were in.
    """
    later = {
        call: at
        for call, at in _erased(warehouse, made, {}).items()
        if at > erased.get(call, _NEVER)
    }
    _delete(warehouse, later)
    return later


def _delete(warehouse: Tables, erased: Mapping[Call, int]) -> None:
    """Remove what rests on a basis no later than the erasure, from the disk as well."""
    if not erased:
        return
    calls = sorted(erased)
    parameters = {
        "tenants": [tenant for tenant, _ in calls],
        "calls": [call for _, call in calls],
        "until": [erased[call] for call in calls],
    }
    of_call = "tenant_id IN {tenants:Array(String)} AND call_id IN {calls:Array(String)} "
    with_basis = (
        "AND arrayExists((t, c, u) -> t = tenant_id AND c = call_id "
        "AND toUnixTimestamp64Milli(basis_at) %s u, "
        "{tenants:Array(String)}, {calls:Array(String)}, {until:Array(Int64)})"
    )
    # What came again after the erasure was dropped as a repeat of what the erasure covers.
    renewed = (
        f"SELECT tenant_id, call_id, event_id FROM renewals WHERE {of_call} {with_basis % '>'}"
    )
    for table in _ERASABLE:
        id = "input_id" if table == "stage_states" else "event_id"
        spared = f"(tenant_id, call_id, {id}) IN ({renewed})"
        covered = f"{of_call} {with_basis % '<='} AND NOT {spared}"
        if table in _STAYS:
            covered += f" AND NOT ({_STAYS[table]})"
        # A mutation rewrites parts even where it finds nothing.
        found = warehouse.query(
            f"SELECT count() FROM {table} WHERE {covered}",
            parameters,
        )
        if found.rows[0][0]:
            warehouse.command(f"ALTER TABLE {table} DELETE WHERE {covered}", parameters)


def _insert(warehouse: Tables, rows: Mapping[str, Columns]) -> None:
    """Insert `rows` in the order of TABLES, one block per table."""
    for table, columns in TABLES.items():
        if table in rows:
            warehouse.insert(table, columns, rows[table])
