"""The sink: a stage whose handler inserts rows and returns nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from schemas.events import CallErased
from schemas.topics import TOPICS
from services.runtime.errors import Failure, Invalid
from services.runtime.stage import Envelope, Outcome, Stage
from services.sink.rows import TABLES, Row, basis_of, call_of, milliseconds, rows_of
from services.sink.settings import SinkSettings
from services.sink.warehouse import Result

NAME = "sink"
_NEVER = -(1 << 62)

Call = tuple[str, str]
"""tenant_id and call_id."""


class Made(NamedTuple):
    """An event and the rows it makes."""

    envelope: Envelope[Any]
    rows: Mapping[str, Sequence[Row]]


# What an erasure empties; headlines first, so that a call leaves the views at once.
_ERASABLE = tuple(reversed([table for table in TABLES if table != "calls_erased"]))
# Of the erased call, these rows stay: that it was erased, when, and by whose wish.
_STAYS = {"events": "type = 'CallErased'", "stage_states": "state = 'erased'"}


class Tables(Protocol):
    """What the handler needs of a warehouse."""

    def insert(
        self, table: str, columns: Sequence[str], data: Sequence[Sequence[Any]], token: str
    ) -> None: ...

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Result: ...

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None: ...


def stage(settings: SinkSettings, warehouse: Tables) -> Stage:
    """The sink over `warehouse`; reads every topic, what cannot be decoded included."""

    def handle(envelopes: Sequence[Envelope[Any]]) -> Iterator[tuple[int, Outcome]]:
        yield from _outcomes(warehouse, list(enumerate(envelopes)), settings.words)

    return Stage(
        NAME,
        sources=tuple(topic.name for topic in TOPICS),
        targets=(),
        handle=handle,
        batch=settings.batch,
        wait_s=settings.wait_s,
        workers=1,
        passes_undecodable=True,
    )


def _outcomes(
    warehouse: Tables, batch: Sequence[tuple[int, Envelope[Any]]], words: bool
) -> Iterator[tuple[int, Outcome]]:
    """Store `batch`; where the warehouse refuses it, find out by halves which event it refuses."""
    made: list[Made] = []
    stored: list[int] = []
    for index, envelope in batch:
        try:
            rows = rows_of(envelope, words=words)
        except Invalid as problem:
            yield index, problem
            continue
        made.append(Made(envelope, rows))
        stored.append(index)
    try:
        store(warehouse, made)
    except Failure:
        raise
    except Exception as error:
        if len(made) == 1:
            yield stored[0], error
            return
        sound = [(index, envelope) for index, envelope in batch if index in set(stored)]
        middle = len(sound) // 2
        yield from _outcomes(warehouse, sound[:middle], words)
        yield from _outcomes(warehouse, sound[middle:], words)
        return
    for index in stored:
        yield index, ()


def store(warehouse: Tables, made: Sequence[Made]) -> None:
    """Insert the rows of `made`, carry out the erasures among it; durable on return.

    Stopped anywhere and called again with the same events, it leaves what one whole run leaves:
    events that are in the archive are left out, since the archive comes last; the rest is inserted
    again under the same tokens, and rows that still come twice are one row by their key.
    """
    made = _not_archived(warehouse, made)
    if not made:
        return
    asked = _asked(made)
    erased = _erased(warehouse, made, asked)
    made = [
        it
        for it in made
        if isinstance(it.envelope.event, CallErased)
        or basis_of(it.envelope) > erased.get(call_of(it.envelope), _NEVER)
    ]
    if asked:
        # The erasure is on record before anything is deleted: another sink that is inserting rows
        # of the call either sees it when it looks again, or was done before the deletion.
        _insert(warehouse, made, ("calls_erased",), erased)
        _delete(warehouse, asked)
    _insert(warehouse, made, [table for table in TABLES if table != "calls_erased"], erased)
    later = {
        call: at
        for call, at in _erased(warehouse, made, {}).items()
        if at > erased.get(call, _NEVER)
    }
    if later:
        _delete(warehouse, later)


def _not_archived(warehouse: Tables, made: Sequence[Made]) -> list[Made]:
    """What of `made` is not in the archive yet. A lookup by ranges of its primary key."""
    spans: dict[tuple[str, int], list[int]] = {}
    for it in made:
        message = it.envelope.message
        span = spans.setdefault(message.source, [message.offset, message.offset])
        span[0] = min(span[0], message.offset)
        span[1] = max(span[1], message.offset)
    topics = sorted({topic for topic, _ in spans})
    within = " OR ".join(
        f"(topic = {{topic{topics.index(topic)}:String}} AND partition = {partition} "
        f"AND offset BETWEEN {first} AND {last})"
        for (topic, partition), (first, last) in spans.items()
    )
    known = warehouse.query(
        f"SELECT topic, partition, offset, event_id FROM events WHERE {within}",
        {f"topic{number}": topic for number, topic in enumerate(topics)},
    )
    archived = set(known.rows)
    return [it for it in made if (*_position(it), it.envelope.id) not in archived]


def _position(it: Made) -> tuple[str, int, int]:
    message = it.envelope.message
    return message.topic, message.partition, message.offset


def _asked(made: Sequence[Made]) -> dict[Call, int]:
    """Call -> until when (ms) the batch itself asks for it to be erased."""
    asked: dict[Call, int] = {}
    for it in made:
        event = it.envelope.event
        if isinstance(event, CallErased):
            call, at = call_of(it.envelope), milliseconds(event.erased_at)
            asked[call] = max(at, asked.get(call, at))
    return asked


def _erased(warehouse: Tables, made: Sequence[Made], asked: Mapping[Call, int]) -> dict[Call, int]:
    """Call -> until when (ms) it is erased, for the calls of `made` that are."""
    erased = dict(asked)
    calls = {call_of(it.envelope) for it in made}
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


def _delete(warehouse: Tables, erased: Mapping[Call, int]) -> None:
    """Remove what rests on a basis no later than the erasure, from the disk as well."""
    calls = sorted(erased)
    parameters = {
        "tenants": [tenant for tenant, _ in calls],
        "calls": [call for _, call in calls],
        "until": [erased[call] for call in calls],
    }
    for table in _ERASABLE:
        covered = (
            "tenant_id IN {tenants:Array(String)} AND call_id IN {calls:Array(String)} "
            "AND arrayExists((t, c, u) -> t = tenant_id AND c = call_id "
            "AND toUnixTimestamp64Milli(basis_at) <= u, "
            "{tenants:Array(String)}, {calls:Array(String)}, {until:Array(Int64)})"
        )
        if table in _STAYS:
            covered += f" AND NOT ({_STAYS[table]})"
        # A mutation rewrites parts even where it finds nothing.
        found = warehouse.query(
            f"SELECT count() FROM {table} WHERE {covered}",
            parameters,
        )
        if found.rows[0][0]:
            warehouse.command(f"ALTER TABLE {table} DELETE WHERE {covered}", parameters)


def _insert(
    warehouse: Tables,
    made: Sequence[Made],
    tables: Sequence[str],
    erased: Mapping[Call, int],
) -> None:
    """Insert the rows of `made` that belong into `tables`, in that order, one block per table."""
    batch = _digest(made, erased)
    for table in tables:
        rows: list[Row] = []
        for it in made:
            rows.extend(it.rows.get(table, ()))
        if rows:
            columns = list(zip(*rows, strict=True))
            warehouse.insert(table, TABLES[table], columns, f"{NAME}/{table}/{batch}")


def _digest(made: Sequence[Made], erased: Mapping[Call, int]) -> str:
    """Names the batch's data: the same messages, and of each call the same life.

    Positions are part of it because ids are not enough: a call that is handed in again after it
    was erased has the same event ids, and a token that was used before its rows were deleted would
    refuse them.
    """
    digest = hashlib.sha256()
    for it in made:
        topic, partition, offset = _position(it)
        envelope = it.envelope
        life = erased.get(call_of(envelope), 0)
        named = f"{topic}\n{partition}\n{offset}\n{envelope.id}\n{envelope.generation}\n{life}\n"
        digest.update(named.encode())
    return digest.hexdigest()
