"""The embedded log: one SQLite file holds messages, offsets and groups.

A commit is one SQLite transaction, so records and offsets become visible together or not at all,
and survive kill -9. Several processes may share the file. A member of a group holds a lock on a
file of its own for as long as it lives; the operating system lets go of it whatever way the
process ends, so a dead member's partitions go to the others at once. Who owns a partition is
written in the file, and checked inside every commit's transaction.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from schemas.topics import TOPICS, Topic
from services.runtime.errors import Transient
from services.runtime.log import (
    Headers,
    Lost,
    Message,
    NoSuchTopic,
    OffsetGone,
    Record,
    TopicPartition,
    partition_for,
    refuse_gone,
)

# The embedded default: parallel enough for one machine, few enough to look at.
PARTITIONS = 4

_TABLES = """
CREATE TABLE IF NOT EXISTS partitions (
  topic TEXT NOT NULL, partition INTEGER NOT NULL,
  first_offset INTEGER NOT NULL DEFAULT 0, next_offset INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (topic, partition)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS messages (
  topic TEXT NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL,
  key BLOB, value BLOB, headers BLOB NOT NULL, timestamp_ms INTEGER NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS message_at ON messages (topic, partition, offset);
CREATE TABLE IF NOT EXISTS offsets (
  group_name TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL,
  next_offset INTEGER NOT NULL,
  PRIMARY KEY (group_name, topic, partition)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS members (
  group_name TEXT NOT NULL, member TEXT NOT NULL, topics TEXT NOT NULL,
  PRIMARY KEY (group_name, member)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS owners (
  group_name TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL, member TEXT NOT NULL,
  PRIMARY KEY (group_name, topic, partition)) WITHOUT ROWID;
"""

_POLL_S = 0.02
_MEMBERSHIP_S = 0.25


class Database:
    """A connection to the log's file, or to a memory of its own (`path` None), and its signal."""

    _signals: ClassVar[dict[str, threading.Condition]] = {}
    _signals_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, path: Path | None) -> None:
        self.path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self.lock = threading.RLock()
        self._commits = 0
        try:
            self.connection = sqlite3.connect(
                path or ":memory:", isolation_level=None, check_same_thread=False, timeout=30
            )
            with _errors(path):
                self.connection.execute("PRAGMA journal_mode=WAL")
                # FULL: a committed transaction survives power loss, not only kill -9.
                self.connection.execute("PRAGMA synchronous=FULL")
                self.connection.execute("PRAGMA temp_store=MEMORY")
                for statement in _TABLES.split(";"):
                    self.connection.execute(statement)
        except sqlite3.DatabaseError as error:
            raise Transient("log_down", f"{path}: {error}") from error
        name = str(path.resolve()) if path else f"memory-{id(self)}"
        with Database._signals_lock:
            self.signal = Database._signals.setdefault(name, threading.Condition())

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One write transaction; rolled back on any exception."""
        with self.lock, _errors(self.path):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
                self._commits += 1
            except BaseException:
                # A COMMIT that fails may have rolled back by itself, or have left all open.
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        with self.lock, _errors(self.path):
            return self.connection.execute(sql, parameters).fetchall()

    def version(self) -> tuple[int, int]:
        """Differs from an earlier one when anything was committed since, here or elsewhere."""
        ((elsewhere,),) = self.rows("PRAGMA data_version")
        return self._commits, int(str(elsewhere))

    def announce(self) -> None:
        """Wake whoever waits for messages in this process."""
        with self.signal:
            self.signal.notify_all()

    def close(self) -> None:
        with self.lock:
            self.connection.close()


@contextlib.contextmanager
def _errors(path: Path | None) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise Transient("log_down", f"{path}: {error}") from error


class SqliteLog:
    """A `Log` on a SQLite file. Implements the contract of `services.runtime.log.Log`.

    Without a group it only writes. Given a `Database` several logs share it: the test double is
    a database in memory.
    """

    def __init__(
        self,
        database: Database | Path,
        group: str = "",
        topics: Collection[str] = (),
        on_gone: Callable[[OffsetGone], None] = refuse_gone,
    ) -> None:
        self._owned = not isinstance(database, Database)
        self._db = database if isinstance(database, Database) else Database(database)
        self._group, self._on_gone = group, on_gone
        self._topics = tuple(sorted(topics))
        self._member = uuid.uuid4().hex
        self._leases: dict[TopicPartition, int] = {}
        self._lease_number = 0
        self._read: dict[TopicPartition, int] = {}
        self._refresh_at = 0.0
        self._turn = 0
        self._drained_at: object = None
        self._closed = False
        self._presence = _Presence(self._db.path, self._member) if group else None
        if group:
            known = {name for (name,) in self._db.rows("SELECT DISTINCT topic FROM partitions")}
            if missing := set(self._topics) - {str(name) for name in known}:
                raise NoSuchTopic(missing)
            with self._db.transaction() as tx:
                tx.execute(
                    "INSERT INTO members VALUES (?, ?, ?)",
                    (group, self._member, json.dumps(self._topics)),
                )

    # Reading

    def messages(
        self, limit: int, wait_s: float, hold: Collection[TopicPartition] = ()
    ) -> list[Message]:
        deadline = time.monotonic() + wait_s
        while True:
            self._refresh()
            found = self._fetch_news(limit, frozenset(hold))
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            with self._db.signal:
                self._db.signal.wait(min(_POLL_S, left))

    def _fetch_news(self, limit: int, hold: frozenset[TopicPartition]) -> list[Message]:
        """As `_fetch`, without looking where nothing was found and nothing has changed since."""
        state = (self._db.version(), hold, self._lease_number, len(self._leases))
        if state == self._drained_at:
            return []
        found = self._fetch(limit, hold)
        if not found and limit > 0:
            self._drained_at = state
        return found

    def _fetch(self, limit: int, hold: frozenset[TopicPartition]) -> list[Message]:
        sources = sorted(source for source in self._leases if source not in hold)
        if not sources or limit <= 0:
            return []
        kept = {
            TopicPartition(str(topic), int(str(partition))): (int(str(first)), int(str(end)))
            for topic, partition, first, end in self._db.rows(
                "SELECT topic, partition, first_offset, next_offset FROM partitions"
            )
        }
        for source in sources:
            self._read[source] = self._kept(source, self._read[source], *kept[source])
        ends = {source: end for source, (_, end) in kept.items()}
        ready = [source for source in sources if self._read[source] < ends[source]]
        # Another partition comes first each time, so that a full one starves nobody.
        self._turn += 1
        found: list[Message] = []
        for at in range(len(ready)):
            source = ready[(at + self._turn) % len(ready)]
            share = max(1, (limit - len(found)) // (len(ready) - at))
            rows = self._db.rows(
                "SELECT offset, key, value, headers, timestamp_ms FROM messages"
                " WHERE topic = ? AND partition = ? AND offset >= ? ORDER BY offset LIMIT ?",
                (source.topic, source.partition, self._read[source], share),
            )
            lease = self._leases[source]
            if not rows or rows[0][0] != self._read[source]:  # compacted, or expired just now
                kept_now = self._db.rows(
                    "SELECT first_offset FROM partitions WHERE topic = ? AND partition = ?", source
                )
                self._read[source] = self._kept(
                    source, self._read[source], int(str(kept_now[0][0])), ends[source]
                )
            for row in rows:
                found.append(_message(source, row, lease))
            if rows:
                self._read[source] = found[-1].offset + 1
            else:  # everything in between has been cleaned away
                self._read[source] = ends[source]
            if len(found) >= limit:
                break
        return found

    def _kept(self, source: TopicPartition, offset: int, first: int, end: int) -> int:
        """Where to read on: at `offset`, or where `on_gone` lets it, at the first message kept."""
        if first <= offset <= end:
            return offset
        self._on_gone(OffsetGone(self._group, source, offset, first, end))
        return first

    def lease(self, source: TopicPartition) -> int | None:
        return self._leases.get(source)

    # Membership

    def _refresh(self) -> None:
        now = time.monotonic()
        if not self._group or now < self._refresh_at:
            return
        self._refresh_at = now + _MEMBERSHIP_S
        wanted = self._wanted()
        lost = [source for source in self._leases if source not in wanted]
        gained = [source for source in wanted if source not in self._leases]
        if not lost and not gained:
            return
        taken: dict[TopicPartition, int] = {}
        with self._db.transaction() as tx:
            for source in lost:
                tx.execute(
                    "DELETE FROM owners"
                    " WHERE group_name=? AND topic=? AND partition=? AND member=?",
                    (self._group, *source, self._member),
                )
            live = self._live()
            for (member,) in tx.execute(
                "SELECT member FROM members WHERE group_name = ?", (self._group,)
            ).fetchall():
                if member not in live:
                    tx.execute(
                        "DELETE FROM members WHERE group_name = ? AND member = ?",
                        (self._group, member),
                    )
                    if path := _Presence.path(self._db.path, member):
                        path.unlink(missing_ok=True)
            for source in gained:
                owner = tx.execute(
                    "SELECT member FROM owners WHERE group_name=? AND topic=? AND partition=?",
                    (self._group, *source),
                ).fetchone()
                if owner is not None and owner[0] in live and owner[0] != self._member:
                    continue  # its owner gives it up when it next looks
                tx.execute(
                    "INSERT OR REPLACE INTO owners VALUES (?, ?, ?, ?)",
                    (self._group, *source, self._member),
                )
                committed = tx.execute(
                    "SELECT next_offset FROM offsets"
                    " WHERE group_name=? AND topic=? AND partition=?",
                    (self._group, *source),
                ).fetchone()
                first, end = tx.execute(
                    "SELECT first_offset, next_offset FROM partitions"
                    " WHERE topic = ? AND partition = ?",
                    source,
                ).fetchone()
                position = committed[0] if committed else first
                taken[source] = self._kept(source, position, first, end)
        # Only what is committed is so: an owner in the file that reads nothing is nobody's.
        for source in lost:
            del self._leases[source]
            del self._read[source]
        for source, position in taken.items():
            self._lease_number += 1
            self._leases[source] = self._lease_number
            self._read[source] = position

    def _live(self) -> dict[str, tuple[str, ...]]:
        """Members of the group that are alive, with the topics each reads."""
        rows = self._db.rows(
            "SELECT member, topics FROM members WHERE group_name = ? ORDER BY member",
            (self._group,),
        )
        live = {}
        for member, topics in rows:
            if member == self._member or _Presence.held(self._db.path, str(member)):
                live[str(member)] = tuple(json.loads(str(topics)))
        return live

    def _wanted(self) -> set[TopicPartition]:
        live = self._live()
        wanted = set()
        for topic, partition in self._db.rows(
            "SELECT topic, partition FROM partitions ORDER BY topic, partition"
        ):
            readers = [member for member, topics in live.items() if topic in topics]
            if readers and readers[int(str(partition)) % len(readers)] == self._member:
                wanted.add(TopicPartition(str(topic), int(str(partition))))
        return wanted

    # Writing

    def commit(self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]) -> None:
        now_ms = int(time.time() * 1000)
        with self._db.transaction() as tx:
            lost = {source for source in offsets if not self._owns(tx, source)}
            if lost:
                for source in lost & self._leases.keys():
                    del self._leases[source]
                    del self._read[source]
                self._refresh_at = 0.0
                raise Lost(lost)
            tx.executemany(
                "INSERT OR REPLACE INTO offsets VALUES (?, ?, ?, ?)",
                [(self._group, *source, offset) for source, offset in offsets.items()],
            )
            counts: dict[str, int] = {}
            ends: dict[TopicPartition, int] = {}
            rows = []
            for record in records:
                if record.topic not in counts:
                    self._load(tx, record.topic, counts, ends)
                count = counts[record.topic]
                partition = 0 if record.key is None else partition_for(record.key, count)
                source = TopicPartition(record.topic, partition)
                rows.append(
                    (
                        *source, ends[source], record.key, record.value, _packed(record.headers),
                        now_ms if record.timestamp_ms is None else record.timestamp_ms,
                    )
                )  # fmt: skip
                ends[source] += 1
            tx.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            tx.executemany(
                "UPDATE partitions SET next_offset = ? WHERE topic = ? AND partition = ?",
                [(end, *source) for source, end in ends.items()],
            )
        if records:
            self._db.announce()

    def _owns(self, tx: sqlite3.Connection, source: TopicPartition) -> bool:
        owner = tx.execute(
            "SELECT member FROM owners WHERE group_name = ? AND topic = ? AND partition = ?",
            (self._group, *source),
        ).fetchone()
        return source in self._leases and owner is not None and owner[0] == self._member

    def _load(
        self,
        tx: sqlite3.Connection,
        topic: str,
        counts: dict[str, int],
        ends: dict[TopicPartition, int],
    ) -> None:
        rows = tx.execute(
            "SELECT partition, next_offset FROM partitions WHERE topic = ?", (topic,)
        ).fetchall()
        if not rows:
            raise NoSuchTopic([topic])
        counts[topic] = len(rows)
        for partition, end in rows:
            ends[TopicPartition(topic, partition)] = end

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._presence is not None:
            with contextlib.suppress(Transient), self._db.transaction() as tx:
                for table in ("owners", "members"):
                    tx.execute(
                        f"DELETE FROM {table} WHERE group_name = ? AND member = ?",
                        (self._group, self._member),
                    )
            self._presence.close()
        if self._owned:
            self._db.close()


class _Presence:
    """A lock that lasts as long as its member lives."""

    _here: ClassVar[set[str]] = set()

    def __init__(self, database: Path | None, member: str) -> None:
        self._member = member
        self._path = _Presence.path(database, member)
        self._file: int | None = None
        _Presence._here.add(member)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)

    @staticmethod
    def path(database: Path | None, member: str) -> Path | None:
        return None if database is None else database.with_name(f"{database.name}-members") / member

    @staticmethod
    def held(database: Path | None, member: str) -> bool:
        """Whether that member lives, in this process or another."""
        if member in _Presence._here:
            return True
        path = _Presence.path(database, member)
        if path is None:
            return False
        try:
            file = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            # Shared: who looks at a dead member together takes no other's look for its life.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(file)

    def close(self) -> None:
        _Presence._here.discard(self._member)
        if self._file is not None and self._path is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._file)


class SqliteView:
    """A `LogView` of a SQLite log, and its upkeep."""

    def __init__(self, database: Database | Path) -> None:
        self._owned = not isinstance(database, Database)
        self._db = database if isinstance(database, Database) else Database(database)

    def create(self, topics: Mapping[str, int]) -> list[str]:
        have = self.partitions()
        missing = [name for name in topics if name not in have]
        if missing:
            with self._db.transaction() as tx:
                tx.executemany(
                    "INSERT OR IGNORE INTO partitions (topic, partition) VALUES (?, ?)",
                    [(name, number) for name in missing for number in range(topics[name])],
                )
        return missing

    def partitions(self) -> dict[str, int]:
        rows = self._db.rows("SELECT topic, count(*) FROM partitions GROUP BY topic")
        return {str(topic): int(str(count)) for topic, count in rows}

    def ends(self, topic: str) -> dict[int, tuple[int, int]]:
        rows = self._db.rows(
            "SELECT partition, first_offset, next_offset FROM partitions WHERE topic = ?", (topic,)
        )
        return {int(str(p)): (int(str(first)), int(str(end))) for p, first, end in rows}

    def committed(self, group: str) -> dict[TopicPartition, int]:
        rows = self._db.rows(
            "SELECT topic, partition, next_offset FROM offsets WHERE group_name = ?", (group,)
        )
        return {TopicPartition(str(t), int(str(p))): int(str(offset)) for t, p, offset in rows}

    def rewind(self, group: str) -> dict[TopicPartition, tuple[int, int]]:
        with self._db.transaction() as tx:
            members = tx.execute("SELECT member FROM members WHERE group_name = ?", (group,))
            alive = sum(_Presence.held(self._db.path, member) for (member,) in members.fetchall())
            if alive:
                raise ValueError(f"group {group} has {alive} members: stop them first")
            moved = {
                TopicPartition(topic, partition): (offset, first)
                for topic, partition, offset, first in tx.execute(
                    "SELECT topic, partition, o.next_offset, first_offset"
                    " FROM offsets AS o JOIN partitions AS p USING (topic, partition)"
                    " WHERE group_name = ? AND"
                    " (o.next_offset < first_offset OR o.next_offset > p.next_offset)",
                    (group,),
                )
            }
            tx.executemany(
                "UPDATE offsets SET next_offset = ?"
                " WHERE group_name = ? AND topic = ? AND partition = ?",
                [(first, group, *source) for source, (_, first) in moved.items()],
            )
        return moved

    def scan(self, topic: str, start: Mapping[int, int] | None = None) -> Iterator[Message]:
        for partition, (first, end) in sorted(self.ends(topic).items()):
            at = max(first, (start or {}).get(partition, 0))
            source = TopicPartition(topic, partition)
            while at < end:
                rows = self._db.rows(
                    "SELECT offset, key, value, headers, timestamp_ms FROM messages"
                    " WHERE topic=? AND partition=? AND offset>=? AND offset<?"
                    " ORDER BY offset LIMIT 500",
                    (*source, at, end),
                )
                if not rows:
                    break
                for row in rows:
                    yield _message(source, row, 0)
                at = int(str(rows[-1][0])) + 1

    def forget(self, group: str) -> None:
        """Let `group` begin anew at the first message kept; it must have no members."""
        with self._db.transaction() as tx:
            tx.execute("DELETE FROM offsets WHERE group_name = ?", (group,))

    def expire(
        self,
        now_ms: int,
        topics: Sequence[Topic] = TOPICS,
        readers: Mapping[str, Collection[str]] | None = None,
    ) -> int:
        """Delete what the catalogue keeps no longer, and compact; how many messages went.

        `readers` (topic -> groups): what one of them has not read yet stays, however old.
        """
        gone = 0
        for topic in topics:
            with self._db.transaction() as tx:
                if topic.cleanup == "compact":
                    gone += tx.execute(
                        "DELETE FROM messages WHERE topic = ?1 AND (partition, offset) NOT IN"
                        " (SELECT partition, max(offset) FROM messages WHERE topic = ?1"
                        " GROUP BY partition, key)",
                        (topic.name,),
                    ).rowcount
                    continue
                for partition, (_, end) in self.ends(topic.name).items():
                    kept = tx.execute(
                        "SELECT min(offset) FROM messages"
                        " WHERE topic = ? AND partition = ? AND timestamp_ms >= ?",
                        (topic.name, partition, now_ms - topic.retention_ms),
                    ).fetchone()[0]
                    first = end if kept is None else kept
                    for group in (readers or {}).get(topic.name, ()):
                        read = tx.execute(
                            "SELECT next_offset FROM offsets"
                            " WHERE group_name = ? AND topic = ? AND partition = ?",
                            (group, topic.name, partition),
                        ).fetchone()
                        first = min(first, 0 if read is None else read[0])
                    gone += tx.execute(
                        "DELETE FROM messages WHERE topic = ? AND partition = ? AND offset < ?",
                        (topic.name, partition, first),
                    ).rowcount
                    tx.execute(
                        "UPDATE partitions SET first_offset = max(first_offset, ?)"
                        " WHERE topic = ? AND partition = ?",
                        (first, topic.name, partition),
                    )
        return gone

    def close(self) -> None:
        if self._owned:
            self._db.close()


def _packed(headers: Headers) -> bytes:
    """Headers as length-prefixed names and values: any bytes, in order."""
    parts = []
    for name, value in headers:
        encoded = name.encode()
        parts.append(len(encoded).to_bytes(2, "big") + encoded)
        parts.append(len(value).to_bytes(4, "big") + value)
    return b"".join(parts)


def _unpacked(packed: bytes) -> Headers:
    headers, at = [], 0
    while at < len(packed):
        size = int.from_bytes(packed[at : at + 2], "big")
        name = packed[at + 2 : at + 2 + size].decode()
        at += 2 + size
        size = int.from_bytes(packed[at : at + 4], "big")
        headers.append((name, packed[at + 4 : at + 4 + size]))
        at += 4 + size
    return tuple(headers)


def _message(source: TopicPartition, row: Sequence[object], lease: int) -> Message:
    offset, key, value, headers, timestamp_ms = row
    return Message(
        source.topic,
        source.partition,
        offset,  # type: ignore[arg-type]
        key,  # type: ignore[arg-type]
        value,  # type: ignore[arg-type]
        _unpacked(headers),  # type: ignore[arg-type]
        timestamp_ms,  # type: ignore[arg-type]
        lease,
    )
