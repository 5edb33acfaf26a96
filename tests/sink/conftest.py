"""One embedded engine for all tests of the sink, as a process hosts one; a database per test."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.sink.settings import SinkSettings
from services.sink.warehouse import Warehouse

_NUMBERS = itertools.count()


@pytest.fixture(scope="package")
def engine_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose engine stays open until the last test of the package."""
    folder = tmp_path_factory.mktemp("warehouse")
    keeper = Warehouse.open(SinkSettings(path=folder, database="keeper"))
    yield folder
    keeper.close()


@pytest.fixture
def sink_settings(engine_folder: Path) -> SinkSettings:
    """Settings with a database of its own."""
    return SinkSettings(path=engine_folder, database=f"test_{next(_NUMBERS)}")


@pytest.fixture
def warehouse(sink_settings: SinkSettings) -> Iterator[Warehouse]:
    """A migrated, empty warehouse."""
    opened = Warehouse.open(sink_settings)
    yield opened
    opened.command(f"DROP DATABASE {sink_settings.database} SYNC")
    opened.close()


@pytest.fixture
def open_warehouse(engine_folder: Path) -> Iterator[Callable[[str], Warehouse]]:
    """Opens the database of that name; closed after the test."""
    opened: list[Warehouse] = []

    def open_(database: str) -> Warehouse:
        opened.append(Warehouse.open(SinkSettings(path=engine_folder, database=database)))
        return opened[-1]

    yield open_
    for each in opened:
        each.close()
