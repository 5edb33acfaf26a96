"""Every stage is killed at each of its durable steps, and nothing is lost, double or torn.

Here at some of them, drawn by a seed that is printed; at every one with
CALLSTREAM_TEST_CRASH_POINTS=1000 or `python -m tests.crash`, and over the servers with
`python -m tests.crash --servers --every`.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from services.assembly import project_root
from tests.crash.scenario import PHASES, SERVED

pytestmark = [pytest.mark.slow, pytest.mark.clickhouse]


POINTS = os.environ.get("CALLSTREAM_TEST_CRASH_POINTS", "10")
SEED = os.environ.get("CALLSTREAM_TEST_SEED", str(random.randrange(1 << 32)))


def crash(*asked: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash", *asked], cwd=project_root(), capture_output=True,
        text=True, timeout=1200,
    )  # fmt: skip
    print(done.stdout, done.stderr[-4000:])
    return done


@pytest.mark.parametrize("phase", [phase.name for phase in PHASES])
def test_whatever_step_the_process_dies_at_all_is_there_once(phase: str, tmp_path: Path) -> None:
    kept = tmp_path / "crash.md"
    done = crash("--phase", phase, "--most", POINTS, "--seed", SEED, "--report", str(kept))
    assert done.returncode == 0, done.stdout[-4000:]
    verdict = done.stdout.splitlines()[-1]
    assert verdict.startswith("OK: ")
    assert not verdict.startswith("OK: 0 "), "no point was tried"
    report = kept.read_text()
    assert f"**{verdict}**" in report
    assert f"\n| {phase} | embedded | " in report


@pytest.mark.parametrize(
    ("bug", "phase", "found"),
    [
        ("offset-first", "enrich", "lost in calls.enriched"),
        ("offset-later", "enrich", "double in calls.enriched"),
        ("event-first", "ingest", "lost in objects: audio/"),
    ],
)
def test_a_stage_that_is_built_wrongly_is_found_out(bug: str, phase: str, found: str) -> None:
    done = crash("--phase", phase, "--plant", bug)
    assert done.returncode == 1
    assert found in done.stdout
    assert done.stdout.splitlines()[-1].startswith("FAILED: ")


@pytest.mark.kafka
@pytest.mark.s3
@pytest.mark.parametrize("phase", [phase.name for phase in SERVED])
def test_it_is_so_over_kafka_s3_and_clickhouse(phase: str) -> None:
    done = crash("--servers", "--phase", phase, "--at-once", "4", "--most", "4", "--seed", SEED)
    if "no servers: " in done.stderr and os.environ.get("CI", "").lower() != "true":
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].startswith("OK: ")
