"""A stage that is started while what it needs is down waits for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.assembly import project_root
from stack.clickhouse import ClickHouse
from stack.server import free_ports
from tests.chaos.proxy import Proxies

LONGEST_S = 60.0


@contextmanager
def started(stage: str, folder: Path, **keys: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The stage as a process, and the port of its health."""
    (port,) = free_ports(1)
    environ = {k: v for k, v in os.environ.items() if not k.startswith("CALLSTREAM_")}
    environ |= {
        "CALLSTREAM_DATA_DIR": str(folder),
        "CALLSTREAM_HTTP__PORT": str(port),
        **{f"CALLSTREAM_{key}": value for key, value in keys.items()},
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", f"services.{stage}"],
            cwd=project_root(), env=environ, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield process, port
    finally:
        process.kill()
        process.wait()


def readiness(port: int) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def until_ready(process: subprocess.Popen[bytes], port: int, status: int, says: str) -> None:
    deadline = time.monotonic() + LONGEST_S
    while True:
        told = readiness(port)
        if told[0] == status and says in told[1]:
            return
        assert process.poll() is None, "the stage ended by itself"
        assert time.monotonic() < deadline, told
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("stage", "keys", "reason"),
    [
        ("sink", {"SINK__URL": "http://127.0.0.1:{}"}, "warehouse_down"),
        (
            "ingest",
            {
                "OBJECTS__KIND": "s3",
                "OBJECTS__ENDPOINT": "127.0.0.1:{}",
                "OBJECTS__SECURE": "false",
            },
            "objects_down",
        ),
    ],
)
def test_it_waits_unready_and_ends_when_told(
    tmp_path: Path, stage: str, keys: dict[str, str], reason: str
) -> None:
    (closed,) = free_ports(1)
    named = {key: value.format(closed) for key, value in keys.items()}
    with started(stage, tmp_path, **named) as (process, port):
        until_ready(process, port, 503, reason)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LONGEST_S) == 0


@pytest.mark.clickhouse
def test_it_goes_on_by_itself(tmp_path: Path) -> None:
    with Proxies(["clickhouse"]) as links:
        url = f"http://{links.address('clickhouse')}"
        with started("sink", tmp_path, SINK__URL=url) as (process, port):
            until_ready(process, port, 503, "warehouse_down")
            with ClickHouse() as server:
                links.lead("clickhouse", int(server.url.rpartition(":")[2]))
                until_ready(process, port, 200, "sink")
                process.send_signal(signal.SIGTERM)
                assert process.wait(LONGEST_S) == 0
