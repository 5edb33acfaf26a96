"""The status: what is up, what is down, what waits and why, and whether a person is needed."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from schemas.topics import ENDED, RECORDED, REPLAY, RETRY_TIERS
from services.assembly import Parts, project_root
from services.cli.status import Looker, StageStatus, Status, Tier, as_json, as_screen
from services.runtime import headers as h
from services.runtime.errors import Transient
from services.runtime.kafka_client import KafkaSettings
from services.runtime.log import Record
from services.runtime.observe import HealthServer, Observer
from services.runtime.sqlite_log import SqliteLog
from services.settings import LogSettings, Settings, StatusSettings, load

SAMPLE = project_root() / "samples" / "audio" / "praise.flac"


def stage(status: Status, name: str) -> StageStatus:
    (found,) = [each for each in status.stages if each.stage == name]
    return found


def shown(status: Status) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(as_screen(status))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("CALLSTREAM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return load()


@pytest.fixture
def services(settings: Settings) -> Iterator[tuple[Observer, Settings]]:
    """Stages as services of their own: ingest and enrich share a process, sink is nowhere."""
    observer = Observer()
    server = HealthServer(observer)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{server.port}"
        urls: dict[Any, str] = {
            "ingest": url,
            "enrich": url,
            "transcribe": f"http://127.0.0.1:{silent.getsockname()[1]}",
        }
        yield observer, settings.model_copy(update={"status": StatusSettings(urls=urls)})
    server.close()


def send(parts: Parts, topic: str, count: int, **headers: str) -> None:
    log = parts.log()
    kept = tuple((name, value.encode()) for name, value in headers.items())
    log.commit([Record(topic, f"t/{n}".encode(), b"v", kept) for n in range(count)], {})
    log.close()


@pytest.mark.clickhouse
def test_an_idle_folder_without_a_suite_says_how_to_start_it(settings: Settings) -> None:
    looker = Looker(settings)
    status = looker.look()
    looker.close()
    assert status.down == {}
    assert [(each.ready, each.lag, each.dead_letters) for each in status.stages] == [
        (False, 0, 0)
    ] * 4
    assert status.needs_a_person == [], "nothing waits"
    assert "nothing runs on this data folder; `callstream up` starts" in shown(status)
    assert json.loads(as_json(status))["stages"][3]["stage"] == "sink"


@pytest.mark.clickhouse
def test_what_waits_for_a_suite_that_does_not_run_needs_a_person(settings: Settings) -> None:
    parts = Parts(settings)
    send(parts, ENDED, 3)
    parts.close()
    looker = Looker(settings)
    (problem,) = looker.look().needs_a_person
    looker.close()
    assert "not running; start `callstream up`" in problem


@pytest.mark.clickhouse
def test_each_stage_is_asked_where_it_runs(services: tuple[Observer, Settings]) -> None:
    observer, settings = services
    observer.ready("ingest")
    observer.ready("enrich")
    observer.stopped("enrich", "5 unexpected failures in a row")
    looker = Looker(settings)
    status = looker.look()
    looker.close()
    assert stage(status, "ingest").ready is True
    assert (stage(status, "enrich").ready, stage(status, "enrich").why) == (
        False, "breaker: 5 unexpected failures in a row",
    )  # fmt: skip
    assert stage(status, "transcribe").ready is False
    assert stage(status, "sink").ready is None
    assert "CALLSTREAM_STATUS__URLS" in stage(status, "sink").why
    told = " ".join(status.needs_a_person)
    assert "enrich: breaker" in told
    assert "transcribe" in told
    assert "not asked: sink: say where each serves its health, as CALLSTREAM_STATUS__URLS=" in told
    assert "wait, and nobody" not in told


@pytest.mark.clickhouse
def test_lag_rates_tiers_and_letters_are_those_of_the_log(
    services: tuple[Observer, Settings],
) -> None:
    _, settings = services
    parts = Parts(settings)
    send(parts, ENDED, 40)
    send(parts, RECORDED, 3)
    send(parts, REPLAY, 2)
    due = str(round(time.time() * 1000) + 90_000)
    waits = {h.RETRY_STAGE: "ingest", h.RETRY_DUE_MS: due, h.RETRY_TOPIC: ENDED}
    send(parts, RETRY_TIERS[1].topic, 5, **waits)
    send(parts, "calls.dead-letter", 2, **{h.ERROR_STAGE: "enrich", h.DEAD_REASON: "bad_event"})
    looker = Looker(settings)
    first = looker.look()
    assert (stage(first, "ingest").lag, stage(first, "transcribe").lag) == (40, 3)
    assert stage(first, "ingest").replay_lag == 2
    assert stage(first, "ingest").drained_in_s is None, "nobody works on it"
    (waiting,) = [tier for tier in first.tiers if tier.waiting]
    assert (waiting.topic, waiting.waiting) == (RETRY_TIERS[1].topic, {"ingest": 5})
    assert 0 < (waiting.next_due_s or 0) <= 90
    assert stage(first, "enrich").dead_letters == 2
    assert stage(first, "enrich").letter_reasons == {"bad_event": 2}
    assert 0 <= (stage(first, "enrich").oldest_letter_s or -1) < 600
    assert any("enrich: dead letters: 2" in problem for problem in first.needs_a_person)
    member = SqliteLog(settings.log_file, parts.group("ingest"), [ENDED, RETRY_TIERS[1].topic])
    left = 30
    while left:
        for message in member.messages(left, 0.2):
            member.commit([], {message.source: message.offset + 1})
            left -= message.topic == ENDED
    member.close()
    second = looker.look()
    looker.close()
    ingest = stage(second, "ingest")
    assert ingest.lag == 10
    assert ingest.handled_per_s is not None
    assert ingest.handled_per_s > 0
    assert ingest.drained_in_s == pytest.approx(10 / ingest.handled_per_s)
    text = shown(second)
    for expected in ("ingest", "bad_event 2", "not catching up", "needs a person"):
        assert expected in text, text
    parts.close()


def test_what_is_down_is_said_and_nothing_hangs(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        kafka = LogSettings(kind="kafka", kafka=KafkaSettings(bootstrap=place))
        sink = settings.sink.model_copy(update={"url": f"http://{place}"})
        urls = StatusSettings(urls={"ingest": f"http://{place}"})
        away = settings.model_copy(update={"log": kafka, "sink": sink, "status": urls})
        looker = Looker(away, limit_s=4.0)
        for _ in range(2):
            started = time.monotonic()
            status = looker.look()
            assert time.monotonic() - started < 8.0
            assert set(status.down) == {"log", "warehouse"}
            assert stage(status, "ingest").ready is False
            assert stage(status, "enrich").ready is None
            assert stage(status, "ingest").lag is None
            assert "?" in shown(status)
            json.loads(as_json(status))


_ENDS_WHILE_A_PART_IS_ASKED = """
import atexit, time
from services.cli import status
from services.cli.__main__ import main
status.Looker.__init__.__defaults__ = (0.5,)
status.Looker._ask_warehouse = lambda self: time.sleep(600)
atexit.register(print, "the interpreter was taken down around it")
main()
"""


def test_the_command_ends_although_a_part_is_still_asked(settings: Settings) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _ENDS_WHILE_A_PART_IS_ASKED, "status", "--format", "json"],
        env={**os.environ, "CALLSTREAM_DATA_DIR": str(settings.data_dir)},
        cwd=project_root(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 1, ran.stderr
    assert "taken down" not in ran.stdout
    assert json.loads(ran.stdout)["down"]["warehouse"] == "no answer within 0.5 s"


def test_a_part_that_comes_back_is_shown_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = threading.Event()
    down.set()
    looker = Looker(settings)

    def asked(self: Looker) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        if down.is_set():
            raise Transient("warehouse_down", "connection refused")
        row = {"stage": "ingest", "state": "waiting", "reason": "not_ready", "calls": "3",
               "since_ms": "0", "oldest": "t/c", "why": "host away"}  # fmt: skip
        replay = {"tenant": "t", "generation": "4", "stage": "enrich", "asked": "9", "done": "5",
                  "failed": "1", "waiting": "2", "why": "engine_missing: whisperx", "since_ms": "0",
                  "shadow": True}  # fmt: skip
        return [row], [replay]

    monkeypatch.setattr(Looker, "_ask_warehouse", asked)
    looker = Looker(settings)
    assert looker.look().down == {"warehouse": "connection refused"}
    down.clear()
    status = looker.look()
    looker.close()
    assert status.down == {}
    assert (status.waiting[0]["calls"], status.replays[0]["done"]) == (3, 5)
    for expected in (
        "not_ready", "t/c", "shadow", "ingest: not_ready: host away",
        "replay 4: waiting: engine_missing: whisperx",
    ):  # fmt: skip
        assert expected in shown(status)


def test_times_and_unknowns_are_readable() -> None:
    status = Status(
        "now", [StageStatus("ingest", True, lag=2, drained_in_s=93_784.0)],
        [Tier("calls.retry.1m", {"sink": 1}, -75.0, more=True)], [], [], {}, [],
    )  # fmt: skip
    text = shown(status)
    for expected in ("1 d 2 h", "1 min 15 s ago", "sink 1 and more", "nothing needs a person"):
        assert expected in text, text


@pytest.mark.clickhouse
def test_the_command_tells_the_running_suite_by_its_exit_status(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CALLSTREAM_")} | {
        "CALLSTREAM_DATA_DIR": str(tmp_path / "data"),
        "CALLSTREAM_TRANSCRIBE__ENGINE": "stub",
    }

    def command(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "services.cli", *words],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    bad = tmp_path / "bad.wav"
    bad.write_text("this is no audio\n" * 100)
    suite = command("up")
    try:
        seen: dict[str, Any] = {}
        deadline = time.monotonic() + 90
        while not (seen and all(each["ready"] for each in seen["stages"])):
            assert time.monotonic() < deadline, seen
            asked = command("status", "--format", "json")
            out, err = asked.communicate(timeout=60)
            seen = json.loads(out) if out else {}
        assert asked.returncode == 0, f"{out}{err}"
        command("submit", "--wait", str(SAMPLE), str(bad)).communicate(timeout=120)
        asked = command("status")
        out, err = asked.communicate(timeout=60)
        assert asked.returncode == 1, f"{out}{err}"
        assert "ingest: dead letters: 1" in out
        assert "not_audio" in out
    finally:
        suite.send_signal(signal.SIGTERM)
        suite.communicate(timeout=60)
