"""The same warehouse over HTTP, as against a server: the front of `stack.clickhouse` answers.

What only a real server shows (replication, users, a cluster that is down) is not tested here.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.sink.handler import stage
from services.sink.settings import SinkSettings
from services.sink.warehouse import Warehouse
from stack.clickhouse import ClickHouse
from tests.sink.messages import every_example

pytestmark = pytest.mark.clickhouse


@pytest.fixture
def server() -> Iterator[str]:
    with ClickHouse() as clickhouse:
        yield clickhouse.url


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
