"""`python -m stack` as people type it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stack.s3 import Versitygw
from stack.server import ROOT, ServerError
from tests.stack.servers import absent
from tests.stack.test_server import runs


class Stack:
    """Runs `python -m stack` on a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *words: str, status: int = 0) -> tuple[str, str]:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("CALLSTREAM_")}
        done = subprocess.run(
            [sys.executable, "-m", "stack", "--folder", str(self.folder), *words],
            cwd=ROOT, env=environ, capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout, done.stderr


def test_nothing_runs_at_first(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "none")
    assert "`python -m stack up` starts it" in stack("status", status=1)[0]
    assert "nothing runs" in stack("down")[1]


@pytest.mark.kafka
@pytest.mark.s3
@pytest.mark.clickhouse
@pytest.mark.registry
@pytest.mark.slow
def test_up_status_down(tmp_path: Path) -> None:
    try:
        with Versitygw():
            pass
    except ServerError as error:
        absent(error)
    stack = Stack(tmp_path / "stack")
    try:
        variables, told = stack("up")
        assert "topics made: " in told
        assert "registered version 1 under calls.ended-value" in told
        lines = dict(line.split("=", 1) for line in variables.splitlines())
        assert lines["CALLSTREAM_LOG__KIND"] == "kafka"
        assert stack("up") == (variables, "")

        status, _ = stack("status")
        pids = [int(line.split()[-1]) for line in status.splitlines() if "pid" in line]
        assert len(pids) == 4
        assert all(runs(pid) for pid in pids)

        # The services find what they need with these variables and nothing else.
        environ = {k: v for k, v in os.environ.items() if not k.startswith("CALLSTREAM_")}
        submitted = subprocess.run(
            [sys.executable, "-m", "services.cli", "schemas", "check"],
            env={**environ, **lines}, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert submitted.returncode == 0, submitted.stdout + submitted.stderr

        assert "stopped" in stack("down")[1]
        assert not any(runs(pid) for pid in pids)
    finally:
        stack("down", "--wipe")
    assert not (tmp_path / "stack").exists()
