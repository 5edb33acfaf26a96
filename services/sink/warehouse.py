"""ClickHouse, embedded (chDB) or a server. The only importer of `clickhouse_connect`."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import queue
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import (
    ClickHouseError,
    DatabaseError,
    OperationalError,
)

from services.runtime.errors import Transient, cause
from services.sink.settings import SinkSettings

# Codes after which the same statement may succeed (src/Common/ErrorCodes.cpp of ClickHouse).
RETRIABLE_CODES: Mapping[int, str] = {
    3: "UNEXPECTED_END_OF_FILE",
    159: "TIMEOUT_EXCEEDED",
    198: "DNS_ERROR",
    202: "TOO_MANY_SIMULTANEOUS_QUERIES",
    203: "NO_FREE_CONNECTION",
    209: "SOCKET_TIMEOUT",
    210: "NETWORK_ERROR",
    225: "NO_ZOOKEEPER",
    236: "ABORTED",
    241: "MEMORY_LIMIT_EXCEEDED",
    242: "TABLE_IS_READ_ONLY",
    243: "NOT_ENOUGH_SPACE",
    252: "TOO_MANY_PARTS",
    279: "ALL_CONNECTION_TRIES_FAILED",
    285: "TOO_FEW_LIVE_REPLICAS",
    286: "UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE",
    319: "UNKNOWN_STATUS_OF_INSERT",
    341: "UNFINISHED",
    394: "QUERY_WAS_CANCELLED",
    425: "SYSTEM_ERROR",
    439: "CANNOT_SCHEDULE_TASK",
    473: "DEADLOCK_AVOIDED",
    499: "S3_ERROR",
    517: "CANNOT_ASSIGN_ALTER",
    999: "KEEPER_EXCEPTION",
}
# Codes by which a server refuses this user, whatever the statement: a person mends that, and no
# event is at fault.
REFUSALS: Mapping[int, str] = {
    192: "UNKNOWN_USER",
    193: "WRONG_PASSWORD",
    194: "REQUIRED_PASSWORD",
    195: "IP_ADDRESS_NOT_ALLOWED",
    201: "QUOTA_EXCEEDED",
    497: "ACCESS_DENIED",
    516: "AUTHENTICATION_FAILED",
}

# One insert is one block, whatever its size, and is done when the call returns; each of these has a
# default that breaks it.
INSERT_SETTINGS: Mapping[str, int] = {
    "async_insert": 0,
    "max_insert_block_size": 1 << 32,
    "min_insert_block_size_rows": 1 << 32,
    "min_insert_block_size_bytes": 1 << 40,
    "max_insert_threads": 1,
    "input_format_parallel_parsing": 0,
}

_TABLE_ALREADY_EXISTS = 57
_UNKNOWN_TABLE, _UNKNOWN_DATABASE = 60, 81
# After this whoever migrates is taken for dead.
_LONGEST_MIGRATION_S = 120
_MIGRATING = threading.Lock()
_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_SELECT = re.compile(r"\s*(SELECT|WITH)\b", re.IGNORECASE)

Parameters = Mapping[str, Any]


class ChangedMigration(Exception):
    """A migration that has been applied no longer reads as it did."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a query answered: column names, and rows of Python values."""

    columns: tuple[str, ...]
    rows: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file of statements; each statement may be run again without harm."""

    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def statements(self) -> list[str]:
        bare = re.sub(r"^\s*--.*$", "", self.text, flags=re.MULTILINE)
        return [part.strip() for part in re.split(r";\s*(?:\n|$)", bare) if part.strip()]


def migrations(folder: Path = _MIGRATIONS) -> list[Migration]:
    """The migrations in `folder`, by number. ValueError for a wrong name or a number used twice."""
    found: dict[int, Migration] = {}
    for path in sorted(folder.glob("*.sql")):
        match = _MIGRATION_NAME.fullmatch(path.name)
        if match is None:
            raise ValueError(f"{path.name} is not named NNNN_name.sql")
        number = int(match[1])
        if number in found:
            raise ValueError(f"{path.name}: number {number} is used twice")
        found[number] = Migration(number, match[2], path.read_text("utf-8"))
    return list(found.values())


class Warehouse:
    """One database of a ClickHouse engine. Thread-safe: no client serves two threads at a time.

    Every method raises Transient when the engine does not answer or says that the same statement
    may succeed later, and the driver's own error for anything else.
    """

    def __init__(self, settings: SinkSettings) -> None:
        self._settings = settings
        self._idle: queue.LifoQueue[Client] = queue.LifoQueue()
        self._types: dict[str, tuple[Sequence[str], Sequence[Any]]] = {}

    @classmethod
    def open(cls, settings: SinkSettings) -> Warehouse:
        """Connect, and make the database and the tables where they are missing.

        Raises Transient when the server does not answer or another process holds the folder.
        """
        warehouse = cls(settings)
        try:
            with warehouse._translated("connect"), warehouse._connect(None) as first:
                first.command(f"CREATE DATABASE IF NOT EXISTS {settings.database}")
                with warehouse._client():  # kept: the engine closes with its last client
                    pass
            warehouse.migrate()
        except BaseException:
            warehouse.close()
            raise
        return warehouse

    @classmethod
    def as_found(cls, settings: SinkSettings) -> Warehouse:
        """The tables of a server as the sink keeps them: nothing is made, and reading is enough.

        Raises Transient when the server does not answer, or the tables are not those of this
        version yet.
        """
        warehouse = cls(settings)
        try:
            try:
                missing = warehouse._pending(migrations())
            except DatabaseError as error:
                if error.code not in (_UNKNOWN_TABLE, _UNKNOWN_DATABASE):
                    raise
                missing = migrations()
            if missing:
                raise Transient(
                    "warehouse_behind",
                    f"{settings.url}, database {settings.database}, lacks migration "
                    f"{', '.join(f'{each.number:04d}_{each.name}' for each in missing)}; the sink "
                    "of this version applies it when it starts",
                )
        except BaseException:
            warehouse.close()
            raise
        return warehouse

    def close(self) -> None:
        """Close every idle client. The embedded engine lets its folder go with the last one."""
        while True:
            try:
                self._idle.get_nowait().close()
            except queue.Empty:
                return

    def _connect(self, database: str | None) -> Client:
        settings = self._settings
        if settings.url is None:
            path = settings.path.resolve()
            path.mkdir(parents=True, exist_ok=True)
            try:
                return clickhouse_connect.get_client(
                    interface="chdb", path=str(path), database=database, tz_mode="aware"
                )
            except ClickHouseError as error:
                if _held_elsewhere(path):
                    raise Transient(
                        "warehouse_locked",
                        f"{path} is open in another process; the embedded engine serves one at a "
                        "time. Stop the other, or set sink.url to a ClickHouse server",
                    ) from error
                raise
        # It warns of a server that does not answer, which its exception says too.
        logging.getLogger("clickhouse_connect").setLevel(logging.ERROR)
        where = urlsplit(settings.url)
        return clickhouse_connect.get_client(
            interface=where.scheme,
            host=where.hostname or "localhost",
            port=where.port or (8443 if where.scheme == "https" else 8123),
            username=settings.user,
            password=settings.password.get_secret_value(),
            database=database,
            connect_timeout=settings.connect_timeout_s,
            send_receive_timeout=settings.answer_timeout_s,
            tz_mode="aware",
            autogenerate_session_id=False,
            form_encode_query_params=True,
        )

    @contextmanager
    def _client(self) -> Iterator[Client]:
        """A client for one caller; as many are kept as were ever in use at once."""
        try:
            client = self._idle.get_nowait()
        except queue.Empty:
            client = self._connect(self._settings.database)
        try:
            yield client
        finally:
            self._idle.put(client)

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        """Raises Transient for the driver's error where the same statement may succeed later."""
        try:
            yield
        except ClickHouseError as error:
            code, url = getattr(error, "code", None), self._settings.url
            silent = code is None and isinstance(error, OperationalError)
            # Without a code it is no word of ClickHouse's, but of a proxy before it; one that finds
            # a request too large will not change its mind.
            between = (
                code is None
                and url is not None
                and type(error) is DatabaseError
                and "HTTP status 413" not in str(error)
            )
            if not silent and not between and code not in (*RETRIABLE_CODES, *REFUSALS):
                raise
            told = _first_line(error)
            if url is not None and (silent or between):
                # The driver's own words hold the whole request.
                why = cause(error) if silent else told.rpartition(" (for url ")[0] or told
                told = f"CALLSTREAM_SINK__URL={_without_login(url)}: {why}"
            if code in REFUSALS:
                told += "; see CALLSTREAM_SINK__USER and __PASSWORD, and what that user may do"
                raise Transient("warehouse_refused", f"{doing}: {told}") from error
            raise Transient("warehouse_down", f"{doing}: {told}") from error

    def insert(self, table: str, columns: Sequence[str], data: Sequence[Sequence[Any]]) -> None:
        """Insert `data`, one sequence per column, as one block; durable and visible on return.

        One that fails may have taken place. Inserted again, its rows are there twice until the
        engine merges them; to those who read with FINAL they are there once.
        """
        with self._translated(f"insert into {table}"), self._client() as client:
            if table not in self._types:
                context = client.create_insert_context(table, list(columns))
                self._types[table] = (context.column_names, context.column_types)
            names, types = self._types[table]
            if list(names) != list(columns):
                raise ValueError(f"{table} was inserted with columns {names}, now with {columns}")
            context = client.create_insert_context(
                table,
                names,
                column_types=types,
                column_oriented=True,
                settings={**INSERT_SETTINGS, **_never_a_repeat()},
            )
            # Beyond 2 MB the driver sends several blocks; under one token the second is a repeat.
            context.req_block_size = len(data[0])
            context.data = data
            client.insert(context=context)

    def query(
        self,
        sql: str,
        parameters: Parameters | None = None,
        formats: Mapping[str, str] | None = None,
    ) -> Result:
        """The rows of `sql`, `{name:Type}` standing for `parameters`.

        `formats` says how columns are read: {"value": "bytes"} for a String that holds bytes.
        """
        with self._translated("query"), self._client() as client:
            bound = dict(parameters or {})
            answer = client.query(sql, parameters=bound, column_formats=dict(formats or {}))
            names = tuple(answer.column_names)
            if not names and _SELECT.match(sql):  # the embedded engine names no columns of no rows
                described = client.query(f"DESCRIBE ({sql})", parameters=bound)
                names = tuple(row[0] for row in described.result_rows)
            return Result(names, answer.result_rows)

    def query_to(
        self,
        sql: str,
        format: str,
        parameters: Parameters | None = None,
    ) -> bytes:
        """The answer of `sql` in a format of ClickHouse: "JSONEachRow", "CSVWithNames", "TSV"..."""
        with self._translated("query"), self._client() as client:
            return client.raw_query(sql, parameters=dict(parameters or {}), fmt=format)

    def command(self, sql: str, parameters: Parameters | None = None) -> None:
        """Run a statement that answers nothing. Mutations are complete on return."""
        with self._translated("command"), self._client() as client:
            client.command(sql, parameters=dict(parameters or {}), settings={"mutations_sync": 2})

    def migrate(self, folder: Path = _MIGRATIONS) -> list[str]:
        """Apply what has not been applied, in order; the names of what was.

        Each migration is recorded with its checksum; ChangedMigration names one that was edited
        after it had been applied. Of several that call this at the same time one applies and the
        others wait for it. What a crash interrupts is applied from its beginning by the next:
        every statement may be run twice.
        """
        known = migrations(folder)
        self.command(
            "CREATE TABLE IF NOT EXISTS migrations "
            "(number UInt32, name String, checksum String, applied_at DateTime DEFAULT now()) "
            "ENGINE = ReplacingMergeTree ORDER BY number"
        )
        if not self._pending(known):
            return []
        # An older view put back over a newer one, even for a moment, would fail its readers.
        with self._migrating():
            pending = self._pending(known)
            for migration in pending:
                for statement in migration.statements:
                    self.command(statement)
                self.command(
                    "INSERT INTO migrations (number, name, checksum) VALUES "
                    f"({migration.number}, '{migration.name}', '{migration.checksum}')"
                )
        return [migration.name for migration in pending]

    def _pending(self, known: Sequence[Migration]) -> list[Migration]:
        checksums = self.query(
            "SELECT number, argMin(checksum, applied_at) FROM migrations GROUP BY number"
        )
        applied: dict[int, str] = dict(checksums.rows)
        for migration in known:
            if applied.get(migration.number, migration.checksum) != migration.checksum:
                raise ChangedMigration(
                    f"migration {migration.number:04d}_{migration.name} was changed after it "
                    "had been applied; put it back and write a new one"
                )
        return [migration for migration in known if migration.number not in applied]

    @contextmanager
    def _migrating(self) -> Iterator[None]:
        """One at a time: threads of this process, which has the embedded engine to itself; on a
        server by a table, which only one can make. Whoever dies with it is given up after a while.
        """
        if self._settings.url is None:
            with _MIGRATING:
                yield
            return
        while True:
            try:
                self.command("CREATE TABLE migrating (at DateTime) ENGINE = Log")
                mine = self._lock_held()
                break
            except DatabaseError as error:
                if error.code != _TABLE_ALREADY_EXISTS:
                    raise
            held = self._lock_held()
            if held is not None and held[1] > _LONGEST_MIGRATION_S:
                self._break(held[0])
            else:
                time.sleep(0.2)
        try:
            yield
            for (name,) in self.query(
                "SELECT name FROM system.tables WHERE database = currentDatabase() "
                "AND startsWith(name, 'migrating_')"
            ).rows:
                self.command(f"DROP TABLE IF EXISTS {name} SYNC")
        finally:
            # Whoever took so long that it was given up leaves its successor's lock alone.
            held = self._lock_held()
            if mine is not None and held is not None and held[0] == mine[0]:
                self.command("DROP TABLE IF EXISTS migrating SYNC")

    def _lock_held(self) -> tuple[uuid.UUID, int] | None:
        """The lock there is, and for how many seconds."""
        found = self.query(
            "SELECT uuid, now() - metadata_modification_time FROM system.tables "
            "WHERE database = currentDatabase() AND name = 'migrating'"
        ).rows
        return (found[0][0], int(found[0][1])) if found else None

    def _break(self, held: uuid.UUID) -> None:
        """Put the lock `held` aside. A later one is not touched: of several that give up the same
        lock one renames it, and the others find its new name taken."""
        try:
            self.command(f"RENAME TABLE migrating TO migrating_{held.hex}")
        except DatabaseError as error:
            if error.code not in (_TABLE_ALREADY_EXISTS, _UNKNOWN_TABLE):
                raise


def _never_a_repeat() -> dict[str, str]:
    """The setting by which the engine takes an insert for no other, whatever its version.

    It would drop the retry of one that it was killed in: it puts down that it knows an insert
    before the rows are there. Rows that come twice are one by their key instead.
    """
    return {"insert_deduplication_token": uuid.uuid4().hex}


def _held_elsewhere(path: Path) -> bool:
    """Whether another process holds the engine's lock: its cause is told on stderr only."""
    try:
        with (path / "status").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _without_login(url: str) -> str:
    where = urlsplit(url)
    return where._replace(netloc=where.netloc.rpartition("@")[2], query="").geturl()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:500]
