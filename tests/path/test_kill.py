"""`callstream up` is killed again and again while calls pass; every call comes out exactly once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from services.assembly import Parts, project_root
from services.ingest.entrances import call_ended_for
from services.ingest.handler import upload
from services.loopback import Here
from services.runtime.audio import decode
from services.settings import Settings, load

pytestmark = [pytest.mark.clickhouse, pytest.mark.slow]

CALLS = int(os.environ.get("CALLSTREAM_TEST_KILL_CALLS", "150"))
KILLS = int(os.environ.get("CALLSTREAM_TEST_KILLS", "20"))
TENANT = "kill"
SPEECH = project_root() / "samples" / "audio" / "angry-refund.flac"


def _recording(path: Path, number: int, spoken: NDArray[np.float32]) -> Path:
    """Speech on both channels over a faint tone that no other call has."""
    at = np.arange(spoken.shape[1]) / 16_000
    tone = 0.002 * np.sin(2 * np.pi * (100 + number) * at)
    soundfile.write(path, (spoken + tone).T, 16_000, subtype="PCM_16")
    return path


def _up(environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "services.cli", "up"], env=environment, stdout=out, stderr=out
        )


def _wait_for(path: Path, process: subprocess.Popen[bytes], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        assert process.poll() is None, "`callstream up` ended by itself"
        assert time.monotonic() < deadline, f"{path.name} did not appear in {timeout_s} s"
        time.sleep(0.01)


def _drained(parts: Parts, process: subprocess.Popen[bytes], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while any(parts.lags().values()):
        assert process.poll() is None, "`callstream up` ended by itself"
        assert time.monotonic() < deadline, f"not drained: {parts.lags()}"
        time.sleep(0.2)


@contextmanager
def _ended_with_the_test(log: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes put into the list do not outlive the test; its log is shown when it fails."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        yield processes
    except BaseException:
        print(log.read_text("utf-8", "replace")[-6000:])
        raise
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_every_call_exactly_once_through_kill_9(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = int(os.environ.get("CALLSTREAM_TEST_SEED", random.randrange(1 << 32)))
    print(f"seed {seed}: repeat with CALLSTREAM_TEST_SEED={seed}")
    chance = random.Random(seed)
    data = tmp_path / "data"
    monkeypatch.setenv("CALLSTREAM_DATA_DIR", str(data))
    monkeypatch.setenv("CALLSTREAM_TRANSCRIBE__ENGINE", "stub")
    monkeypatch.setenv("CALLSTREAM_LOG_LEVEL", "WARNING")
    settings = load()
    environment = dict(os.environ)
    parts = Parts(settings)
    log = parts.log()
    spoken = decode(SPEECH)[:, 16_000 * 5 : 16_000 * 7]
    submitted: list[str] = []
    during_work = 0

    def submit(count: int) -> None:
        for _ in range(count):
            number = len(submitted)
            path = _recording(tmp_path / f"call-{number}.wav", number, spoken)
            call = call_ended_for(
                path, tenant_id=TENANT, call_id=f"call-{number}",
                uri=upload(parts.objects, TENANT, path),
            )  # fmt: skip
            parts.publish(log, call)
            submitted.append(call.call_id)

    up_log = tmp_path / "up.log"
    with _ended_with_the_test(up_log) as processes:
        for kill in range(KILLS):
            submit(CALLS * (kill + 1) // KILLS - len(submitted))
            (data / "up.json").unlink(missing_ok=True)
            process = _up(environment, up_log)
            processes.append(process)
            if chance.random() < 0.85:
                _wait_for(data / "up.json", process)
                time.sleep(chance.uniform(0.0, 1.2))
            else:  # somewhere in its start
                time.sleep(chance.uniform(0.0, 1.5))
            during_work += any(parts.lags().values())
            process.send_signal(signal.SIGKILL)
            process.wait()
        process = _up(environment, up_log)
        processes.append(process)
        _drained(parts, process, 240)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    log.close()

    assert len(submitted) == CALLS
    assert during_work > KILLS // 2, "the kills hit an idle process: this proves nothing"
    _check_log(parts, submitted)
    _check_warehouse(settings, submitted)
    assert list(settings.scratch.iterdir()) == [], "left by those that were killed"
    parts.close()


def _check_log(parts: Parts, submitted: list[str]) -> None:
    keys = {f"{TENANT}/{call}".encode() for call in submitted}
    for topic in ("calls.ended", "calls.recorded", "calls.transcribed", "calls.enriched"):
        seen = Counter(message.key for message in parts.view.scan(topic))
        assert set(seen) == keys, topic
        assert set(seen.values()) == {1}, f"{topic}: {seen.most_common(3)}"
    assert list(parts.view.scan("calls.dead-letter")) == []


def _check_warehouse(settings: Settings, submitted: list[str]) -> None:
    with closing(Parts(settings).warehouse) as warehouse:
        asks = Here(warehouse)

        def counts(table: str, each: str = "count()") -> dict[str, int]:
            answer = asks.ask(
                f"SELECT call_id, toInt32({each}) AS n FROM {table} GROUP BY call_id", "JSONEachRow"
            )
            rows = [json.loads(line) for line in answer.decode().splitlines()]
            return {row["call_id"]: row["n"] for row in rows}

        once = dict.fromkeys(submitted, 1)
        for table in ("calls_ended", "calls_recorded", "calls_transcribed", "calls_enriched"):
            assert counts(f"{table} FINAL") == once, table
        for kind in ("CallEnded", "CallRecorded", "CallTranscribed", "CallEnriched"):
            assert counts(f"(SELECT * FROM events FINAL WHERE type = '{kind}')") == once, kind
        assert counts("calls") == once
        states = asks.ask("SELECT state, count() FROM calls GROUP BY state", "TSV").decode()
        assert states == f"enriched\t{len(submitted)}\n"

        # No torn call: the children are as many as the headline says, each there once.
        said = counts("calls_transcribed FINAL", "any(segments)")
        assert sum(said.values()) > 0
        whole = {call: number for call, number in said.items() if number}
        assert counts("segments FINAL") == whole
        assert counts("call_segments") == whole
        metrics = counts("metrics FINAL", "uniqExact(ordinal)")
        assert set(metrics) == set(submitted)
        assert counts("metrics FINAL") == metrics
        assert counts("call_metrics") == metrics
