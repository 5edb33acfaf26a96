"""One embedded engine for all tests of the sink, as a process hosts one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from services.sink.settings import SinkSettings
from services.sink.warehouse import Warehouse
from tests.tables import empty


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SinkSettings]:
    """A migrated database whose engine stays open until the last test of the package."""
    settings = SinkSettings(path=tmp_path_factory.mktemp("warehouse"), database="shared")
    keeper = Warehouse.open(settings)
    yield settings
    keeper.close()


@pytest.fixture
def warehouse(shared: SinkSettings) -> Iterator[Warehouse]:
    """A migrated, empty warehouse; a test adds no table but `t`, and changes none."""
    opened = Warehouse.open(shared)
    yield opened
    opened.command("DROP TABLE IF EXISTS t SYNC")
    empty(opened)
    opened.close()


@pytest.fixture
def open_warehouse(shared: SinkSettings) -> Iterator[Callable[[str], Warehouse]]:
    """Opens the database of that name; closed after the test."""
    opened: list[Warehouse] = []

    def open_(database: str) -> Warehouse:
        opened.append(Warehouse.open(SinkSettings(path=shared.path, database=database)))
        return opened[-1]

    yield open_
    for each in opened:
        each.close()
