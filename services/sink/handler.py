"""The sink: a stage whose handler inserts rows and returns nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, Protocol

from schemas.events import CallErased
from schemas.topics import TOPICS
from services.runtime.errors import Failure, Invalid
from services.runtime.log import TopicPartition
from services.runtime.stage import Envelope, Outcome, Stage
from services.sink.rows import TABLES, Rows, basis_of, call_of, milliseconds, rows_of
from services.sink.settings import SinkSettings
from services.sink.warehouse import Result

NAME = "sink"
_NEVER = -(1 << 62)
_UNKNOWN = -2

Call = tuple[str, str]
"""tenant_id and call_id."""


class Made(NamedTuple):
    """An event and the rows it makes."""

    envelope: Envelope[Any]
    rows: Rows


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
    archive = Archive(warehouse)

    def handle(envelopes: Sequence[Envelope[Any]]) -> Iterator[tuple[int, Outcome]]:
        yield from _outcomes(warehouse, archive, list(enumerate(envelopes)), settings.words)

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
    warehouse: Tables,
    archive: Archive,
    batch: Sequence[tuple[int, Envelope[Any]]],
    words: bool,
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
        store(warehouse, archive.missing(made))
    except Failure:
        archive.forget()
        raise
    except Exception as error:
        archive.forget()
        if len(made) == 1:
            yield stored[0], error
            return
        sound = [(index, envelope) for index, envelope in batch if index in set(stored)]
        middle = len(sound) // 2
        yield from _outcomes(warehouse, archive, sound[:middle], words)
        yield from _outcomes(warehouse, archive, sound[middle:], words)
        return
    for index in stored:
        yield index, ()


class Archive:
    """Tells which events are stored already. Not thread-safe.

    It asks once how far the archive reaches when a partition comes into this sink's hands; what
    lies beyond cannot be stored, as nobody else stores what this one reads.
    """

    def __init__(self, warehouse: Tables) -> None:
        self._warehouse = warehouse
        # Source -> the lease it is read under, and the last offset that may be archived.
        self._reach: dict[TopicPartition, tuple[int, int]] = {}

    def forget(self) -> None:
        """Ask again: how far a batch got that failed is not known."""
        self._reach.clear()

    def missing(self, made: Sequence[Made]) -> list[Made]:
        """Those of `made` that are not archived; the next call takes them to be."""
        spans: dict[TopicPartition, list[int]] = {}
        for it in made:
            message = it.envelope.message
            span = spans.setdefault(message.source, [message.offset, message.offset])
            span[0], span[1] = min(span[0], message.offset), max(span[1], message.offset)
            lease, _ = self._reach.get(message.source, (None, -1))
            if lease != message.lease:
                self._reach[message.source] = (message.lease, _UNKNOWN)
        unknown = {
            source: f"offset >= {first}"
            for source, (first, _) in spans.items()
            if self._reach[source][1] == _UNKNOWN
        }
        reached = {
            TopicPartition(topic, partition): offset
            for topic, partition, offset in self._read(
                "topic, partition, max(offset)", unknown, "GROUP BY topic, partition"
            )
        }
        for source in unknown:
            self._reach[source] = (self._reach[source][0], reached.get(source, -1))
        within = {
            source: f"offset BETWEEN {first} AND {last}"
            for source, (first, last) in spans.items()
            if first <= self._reach[source][1]
        }
        archived = set(self._read("topic, partition, offset, event_id", within))
        for source, (_, last) in spans.items():
            lease, offset = self._reach[source]
            self._reach[source] = (lease, max(offset, last))
        return [it for it in made if (*_position(it), it.envelope.id) not in archived]

    def _read(
        self, columns: str, where: Mapping[TopicPartition, str], tail: str = ""
    ) -> Sequence[tuple[Any, ...]]:
        """`columns` of the archived messages at those offsets, by ranges of the primary key."""
        if not where:
            return ()
        topics = sorted({source.topic for source in where})
        ranges = " OR ".join(
            f"(topic = {{topic{topics.index(source.topic)}:String}} "
            f"AND partition = {source.partition} AND {offsets})"
            for source, offsets in where.items()
        )
        return self._warehouse.query(
            f"SELECT {columns} FROM events WHERE {ranges} {tail}",
            {f"topic{number}": topic for number, topic in enumerate(topics)},
        ).rows


def store(warehouse: Tables, made: Sequence[Made]) -> None:
    """Insert the rows of `made`, carry out the erasures among it; durable on return.

    Stopped anywhere and called again with those of the events that are not in the archive, it
    leaves what one whole run leaves: the archive comes last, what comes before it is inserted again
    under the same tokens, and rows that still come twice are one row by their key.
    """
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
        parts = [it.rows[table] for it in made if table in it.rows]
        if parts:
            columns = [list(chain.from_iterable(column)) for column in zip(*parts, strict=True)]
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
