"""Calls keep coming while one dependency is away. Longer: `make outage SECONDS=600`."""

from __future__ import annotations

from pathlib import Path

import pytest

from stack.server import ServerError
from tests.chaos.outage import outage
from tests.chaos.test_chaos import seed
from tests.kafka.fixtures import absent

pytestmark = [pytest.mark.kafka, pytest.mark.s3, pytest.mark.clickhouse, pytest.mark.slow]


@pytest.mark.parametrize("dependency", ["broker", "s3", "clickhouse"])
def test_an_outage_loses_nothing_and_gives_nothing_up(dependency: str, tmp_path: Path) -> None:
    try:
        # The limit is of a machine that does other things: how soon it is over is not tested.
        told = outage(dependency, 20.0, seed(), timed=False, limit_s=900, folder=tmp_path)
    except ServerError as error:
        absent(error)
    print(f"{told}; memory {told.before_mb} before, at most {told.peaks_mb}")
    assert told.violations == []
    assert told.backlog >= 100
