"""The warehouse: migrations, threads, failures, the folder's lock."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from services.runtime.errors import Transient
from services.sink.rows import TABLES
from services.sink.settings import SinkSettings
from services.sink.warehouse import RETRIABLE_CODES, ChangedMigration, Warehouse, migrations

pytestmark = pytest.mark.clickhouse

Open = Callable[[str], Warehouse]


def test_the_tables_have_the_columns_that_rows_fill_in_their_order(warehouse: Warehouse) -> None:
    for table, columns in TABLES.items():
        found = warehouse.query(
            "SELECT name FROM system.columns WHERE database = currentDatabase() "
            "AND table = {table:String} AND default_kind != 'MATERIALIZED' ORDER BY position",
            {"table": table},
        )
        assert set(columns) == {name for (name,) in found.rows}, table


def test_rows_that_come_twice_are_one_row_in_every_table(warehouse: Warehouse) -> None:
    found = warehouse.query(
        "SELECT name, engine FROM system.tables "
        "WHERE database = currentDatabase() AND engine LIKE '%MergeTree'"
    )
    assert set(found.rows) == {
        (name, "ReplacingMergeTree") for name in TABLES.keys() | {"migrations"}
    }


def test_every_view_says_what_it_shows(warehouse: Warehouse) -> None:
    found = warehouse.query(
        "SELECT name FROM system.tables WHERE database = currentDatabase() "
        "AND engine = 'View' AND comment = ''"
    )
    assert list(found.rows) == []


def test_migrations_are_applied_once(warehouse: Warehouse) -> None:
    assert warehouse.migrate() == []
    assert warehouse.query("SELECT count() FROM migrations").rows[0][0] == len(migrations())


def test_a_new_migration_is_applied_and_a_changed_one_is_named(
    open_warehouse: Open, tmp_path: Path
) -> None:
    warehouse = open_warehouse("more")
    for migration in migrations():
        name = f"{migration.number:04d}_{migration.name}.sql"
        (tmp_path / name).write_text(migration.text, "utf-8")
    new = tmp_path / "9000_more.sql"
    new.write_text(
        "-- a; comment\n"
        "CREATE TABLE IF NOT EXISTS more (a Int8) ENGINE = MergeTree ORDER BY a;\n\n"
        "ALTER TABLE more ADD COLUMN IF NOT EXISTS b String;\n"
    )
    assert warehouse.migrate(tmp_path) == ["more"]
    assert warehouse.query("SELECT b FROM more").columns == ("b",)
    new.write_text(new.read_text() + "-- edited\n")
    with pytest.raises(ChangedMigration, match="9000_more"):
        warehouse.migrate(tmp_path)


@pytest.mark.parametrize(
    "names", [["1_short.sql"], ["0001_a.sql", "0001_b.sql"], ["0001_Upper.sql"]]
)
def test_a_wrongly_named_migration_is_refused(names: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_text("SELECT 1")
    with pytest.raises(ValueError, match=re.escape(names[-1])):
        migrations(tmp_path)


def test_every_statement_of_a_migration_may_run_twice() -> None:
    for migration in migrations():
        for statement in migration.statements:
            assert re.match(
                r"CREATE (TABLE IF NOT EXISTS|OR REPLACE VIEW) |ALTER TABLE \w+ ADD \w+ IF NOT",
                statement,
            ), statement[:80]


def test_two_that_migrate_at_the_same_time_agree(open_warehouse: Open) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(open_warehouse, ["together", "together"])
    assert first.migrate() == second.migrate() == []
    found = first.query("SELECT count() FROM migrations FINAL").rows[0][0]
    assert found == len(migrations())


def test_threads_query_at_the_same_time(warehouse: Warehouse) -> None:
    def total(number: int) -> int:
        found = warehouse.query(
            "SELECT sum(number) FROM numbers({n:UInt64})", {"n": 100_000 + number}
        )
        return int(found.rows[0][0])

    numbers = list(range(24))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(total, numbers)) == [
            sum(range(100_000 + number)) for number in numbers
        ]


def test_a_thread_that_ends_leaves_no_client_behind(warehouse: Warehouse) -> None:
    """A server that starts a thread per request would hold an engine handle per request."""
    for _ in range(20):
        thread = Thread(target=warehouse.query, args=("SELECT 1",))
        thread.start()
        thread.join()
    assert warehouse._idle.qsize() == 1


def test_parameters_are_values_and_never_sql(warehouse: Warehouse) -> None:
    hostile = "x' OR 1=1 -- \\ \n\t\0 {a} 你好"
    found = warehouse.query(
        "SELECT {a:String}, {b:Array(String)}", {"a": hostile, "b": [hostile, ""]}
    )
    assert tuple(found.rows[0]) == (hostile, [hostile, ""])


def test_an_answer_in_a_format_of_the_engine(warehouse: Warehouse) -> None:
    assert warehouse.query_to("SELECT 1 AS a, 'x' AS b", "CSVWithNames") == b'"a","b"\n1,"x"\n'


def test_a_mistake_is_not_taken_for_an_outage(warehouse: Warehouse) -> None:
    with pytest.raises(DatabaseError, match="UNKNOWN_TABLE"):
        warehouse.query("SELECT * FROM no_such_table")
    columns = TABLES["calls_erased"]
    data: list[list[Any]] = [["x"], ["x"], ["x"], [0], ["x"], ["x"]]
    warehouse.insert("calls_erased", columns, data)
    with pytest.raises(ValueError, match="calls_erased was inserted with columns"):
        warehouse.insert("calls_erased", columns[::-1], data)


def test_a_code_that_may_succeed_later_is_transient(warehouse: Warehouse) -> None:
    assert RETRIABLE_CODES[159] == "TIMEOUT_EXCEEDED"
    slow = (
        "SELECT count() FROM numbers(10000000000) WHERE sipHash64(number) = 1 "
        "SETTINGS max_execution_time = 0.2, timeout_overflow_mode = 'throw'"
    )
    with pytest.raises(Transient, match="TIMEOUT_EXCEEDED"):
        warehouse.query(slow)


def test_a_server_that_does_not_answer_is_transient() -> None:
    told = "warehouse_down: connect: CALLSTREAM_SINK__URL=http://127.0.0.1:9: Connection refused"
    with pytest.raises(Transient, match=f"^{told}$"):
        Warehouse.open(SinkSettings(url="http://me:hush@127.0.0.1:9", connect_timeout_s=1))


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (502, None, "warehouse_down: connect: CALLSTREAM_SINK__URL=http://127.0.0.1:[0-9]+: .*502"),
        (403, None, "warehouse_down: .*403"),
        (403, "516", "warehouse_refused: .*516.*CALLSTREAM_SINK__USER and __PASSWORD"),
        (500, "497", "warehouse_refused: .*497"),
        (500, "201", "warehouse_refused: .*201"),
    ],
)
def test_who_is_refused_waits_and_is_told(status: int, code: str | None, told: str) -> None:
    with answering(status, code) as url, pytest.raises(Transient, match=f"^{told}"):
        Warehouse.open(SinkSettings(url=url, connect_timeout_s=1))


def test_a_request_beyond_what_a_proxy_takes_is_no_outage() -> None:
    with answering(413, None) as url, pytest.raises(DatabaseError, match="413"):
        Warehouse.open(SinkSettings(url=url, connect_timeout_s=1))


@contextmanager
def answering(status: int, code: str | None) -> Iterator[str]:
    """An HTTP server that gives every request this answer, as ClickHouse or a proxy does."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            if code is not None:
                self.send_header("X-ClickHouse-Exception-Code", code)
            body = b"<html>no</html>" if code is None else f"Code: {code}. DB::Exception".encode()
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_a_folder_that_another_process_holds_is_named_with_the_mend(shared: SinkSettings) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from services.runtime.errors import Transient\n"
        "from services.sink.settings import SinkSettings\n"
        "from services.sink.warehouse import Warehouse\n"
        "try:\n"
        "    Warehouse.open(SinkSettings(path=Path(sys.argv[1])))\n"
        "except Transient as failure:\n"
        "    print(failure.reason, failure.detail)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(shared.path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.stdout.startswith(f"warehouse_locked {shared.path} is open in another process")
    assert "sink.url" in ran.stdout


@pytest.mark.parametrize(
    "wrong", [{"url": "clickhouse:9000"}, {"database": "a; DROP"}, {"batch": 0}, {"pth": "x"}]
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SinkSettings.model_validate(wrong)
