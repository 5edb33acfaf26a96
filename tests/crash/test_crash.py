"""Every stage is killed at each of its durable steps, and nothing is lost, double or torn.

Here at some of them, drawn by a seed that is printed; at every one with
CALLSTREAM_TEST_CRASH_POINTS=1000 or `python -m tests.crash`, and over the servers with
`python -m tests.crash --servers --every`.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from services.assembly import project_root
from tests.crash.scenario import PHASES, SERVED

pytestmark = [pytest.mark.slow, pytest.mark.clickhouse]


POINTS = os.environ.get("CALLSTREAM_TEST_CRASH_POINTS", "6")
SEED = os.environ.get("CALLSTREAM_TEST_SEED", str(random.randrange(1 << 32)))


def crash(*asked: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash", *asked], cwd=project_root(), capture_output=True,
        text=True, timeout=120 * (10 + int(POINTS)),
    )  # fmt: skip
    print(done.stdout, done.stderr[-4000:])
    return done


class Run:
    """One run of the harness over every phase, and the page it wrote."""

    def __init__(self, page: Path, *asked: str) -> None:
        self.done = crash(*asked, "--seed", SEED, "--report", str(page))
        self._page = page

    def assert_whole(self, phase: str, where: str) -> None:
        """That at least one point of `phase` was tried, and that it was whole after each."""
        found = [line for line in self.done.stdout.splitlines() if f" {phase}: " in line]
        told = self.done.stdout[-4000:] + self.done.stderr[-2000:]
        assert self._page.exists(), told
        page = self._page.read_text()
        row = re.search(rf"^\| {phase} \| {where} \| \d+ \| (\d+) \| (\d+) \|", page, re.MULTILINE)
        assert row is not None, told
        tried, whole = map(int, row.groups())
        assert tried > 0, "no point was tried"
        assert whole == tried, found

    def assert_ends_well(self) -> None:
        verdict = self.done.stdout.splitlines()[-1]
        assert verdict.startswith("OK: "), self.done.stdout[-4000:]
        assert f"**{verdict}**" in self._page.read_text()
        assert self.done.returncode == 0


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("embedded") / "crash.md", "--most", POINTS)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Run:
    page = tmp_path_factory.mktemp("served") / "crash.md"
    run = Run(page, "--servers", "--at-once", "4", "--most", "4")
    if "no servers: " in run.done.stderr and os.environ.get("CI", "").lower() != "true":
        pytest.skip(run.done.stderr.strip().splitlines()[-1])
    return run


@pytest.mark.parametrize("phase", [phase.name for phase in PHASES])
def test_whatever_step_the_process_dies_at_all_is_there_once(phase: str, embedded: Run) -> None:
    embedded.assert_whole(phase, "embedded")


def test_the_run_ends_with_its_verdict(embedded: Run) -> None:
    embedded.assert_ends_well()


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
def test_it_is_so_over_kafka_s3_and_clickhouse(phase: str, served: Run) -> None:
    served.assert_whole(phase, "servers")
    served.assert_ends_well()
