"""The same warehouse over HTTP, as against a server: the front of `stack.clickhouse` answers.

What only a real server shows (replication, users, a cluster that is down) is not tested here.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from services.loopback import asking
from services.runtime.errors import Transient
from services.settings import Settings
from services.sink.handler import stage
from services.sink.rows import EARLIEST_MS, TABLES
from services.sink.settings import SinkSettings
from services.sink.warehouse import Warehouse, migrations
from stack.clickhouse import ClickHouse
from tests.sink.messages import every_example

pytestmark = pytest.mark.clickhouse


@pytest.fixture
def server() -> Iterator[str]:
    with ClickHouse() as clickhouse:
        yield clickhouse.url


def test_several_that_migrate_a_server_at_once_agree(server: str) -> None:
    def opened(_: int) -> Warehouse:
        return Warehouse.open(SinkSettings(url=server, database="several"))

    with ThreadPoolExecutor(3) as pool:
        warehouses = list(pool.map(opened, range(3)))
    try:
        for warehouse in warehouses:
            assert warehouse.migrate() == []
            assert warehouse.query("SELECT count() FROM calls").rows == [(0,)]
        applied = warehouses[0].query("SELECT count() FROM migrations")
        assert applied.rows[0][0] == len(migrations())
        found = warehouses[0].query("EXISTS TABLE migrating")
        assert found.rows[0][0] == 0
    finally:
        for warehouse in warehouses:
            warehouse.close()


def test_who_only_asks_a_server_makes_nothing_there(server: str) -> None:
    settings = Settings(sink=SinkSettings(url=server, database="asked"))
    with (
        pytest.raises(Transient, match=r"warehouse_behind: .*database asked, lacks .*0001_.*0002_"),
        asking(settings, 0.1),
    ):
        pass
    with closing(Warehouse(SinkSettings(url=server, database="default"))) as beside:
        assert beside.query("SELECT count() FROM system.databases WHERE name = 'asked'").rows == [
            (0,)
        ]
    with closing(Warehouse.open(settings.sink)) as sink:
        with asking(settings) as asks:
            assert asks.ask("SELECT count() FROM calls", "TSV") == b"0\n"
        last = migrations()[-1].number
        sink.command(f"ALTER TABLE migrations DELETE WHERE number = {last}")
        with (
            pytest.raises(
                Transient, match=rf"warehouse_behind: .* lacks migration {last:04d}_\w+;"
            ),
            asking(settings, 0.1),
        ):
            pass


def test_who_died_while_migrating_is_given_up(
    server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    warehouse = Warehouse.open(SinkSettings(url=server, database="died"))
    warehouse.command("CREATE TABLE migrating (at DateTime) ENGINE = Log")
    monkeypatch.setattr("services.sink.warehouse._LONGEST_MIGRATION_S", 1)
    (tmp_path / "9000_more.sql").write_text("CREATE TABLE IF NOT EXISTS more (a Int8) ENGINE = Log")
    try:
        with ThreadPoolExecutor(4) as pool:
            applied = list(pool.map(lambda _: warehouse.migrate(tmp_path), range(4)))
        assert sorted(applied) == [[], [], [], ["more"]]
        left = "SELECT count() FROM system.tables WHERE startsWith(name, 'migrating')"
        assert warehouse.query(left).rows == [(0,)]
    finally:
        warehouse.close()


def test_the_sink_fills_a_server_as_it_fills_the_embedded_engine(server: str) -> None:
    settings = SinkSettings(url=server, database="over_http")
    warehouse = Warehouse.open(settings)
    envelopes = every_example()
    try:
        for _ in range(2):
            assert {outcome for _, outcome in stage(settings, warehouse).handle(envelopes)} == {()}
        assert warehouse.query("SELECT count() FROM events").rows[0][0] == len(envelopes)
        many = ["call-" + "é" * 200 + str(number) for number in range(2000)]
        found = warehouse.query("SELECT length({many:Array(String)})", {"many": many})
        assert found.rows[0][0] == 2000
        shown = warehouse.query("SELECT started_at FROM calls WHERE call_id = 'happy'").rows[0][0]
        assert shown.tzinfo is not None
    finally:
        warehouse.close()


def test_an_insert_of_many_megabytes_is_whole(server: str, warehouse: Warehouse) -> None:
    """The driver parts what is larger than two megabytes, unless it is told."""
    remote = Warehouse.open(SinkSettings(url=server, database="large"))
    columns = TABLES["renewals"]
    times = [EARLIEST_MS] * 900
    data: list[list[Any]] = [
        ["acme"] * 900,
        ["x" * 10_000] * 900,
        [f"event-{n}" for n in range(900)],
        times,
    ]
    try:
        for target in (remote, warehouse):
            target.insert("renewals", columns, data)
            found = target.query("SELECT count(), uniqExact(event_id) FROM renewals")
            assert found.rows == [(900, 900)]
    finally:
        remote.close()
