"""Calls pass while everything is killed, paused and cut off; and while one dependency is away.

More calls and kills: CALLSTREAM_TEST_CHAOS_CALLS and CALLSTREAM_TEST_CHAOS_KILLS, or `make chaos`.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from stack.server import ServerError
from tests.chaos.outage import outage
from tests.chaos.run import run
from tests.kafka.fixtures import absent

pytestmark = [pytest.mark.kafka, pytest.mark.s3, pytest.mark.clickhouse, pytest.mark.slow]

CALLS = int(os.environ.get("CALLSTREAM_TEST_CHAOS_CALLS", "2000"))
KILLS = int(os.environ.get("CALLSTREAM_TEST_CHAOS_KILLS", "40"))


def seed() -> int:
    return int(os.environ.get("CALLSTREAM_TEST_SEED", random.randrange(1 << 32)))


def test_nothing_is_lost_doubled_or_torn(tmp_path: Path) -> None:
    try:
        verdict = run(CALLS, KILLS, seed(), limit_s=900, folder=tmp_path)
    except ServerError as error:
        absent(error)
    print(f"{verdict}; repeat with CALLSTREAM_TEST_SEED={verdict.seed}")
    assert verdict.violations == []
    assert verdict.kills == KILLS
    assert verdict.looks > 5


@pytest.mark.parametrize("dependency", ["broker", "s3", "clickhouse"])
def test_an_outage_loses_nothing_and_gives_nothing_up(dependency: str, tmp_path: Path) -> None:
    try:
        told = outage(dependency, 20.0, seed(), timed=False, limit_s=300, folder=tmp_path)
    except ServerError as error:
        absent(error)
    print(f"{told}; memory {told.before_mb} before, at most {told.peaks_mb}")
    assert told.violations == []
    assert told.backlog >= 100
