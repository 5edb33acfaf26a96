"""Topics against the catalogue, the command that makes and mends them, and services that wait."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewPartitions

from schemas.topics import ALERTS, DAY_MS, DEAD_LETTER, ERASED, LONGEST_KEPT_MS, TOPICS, Topic
from services.cli.topics import forgotten
from services.runtime.kafka_view import KafkaView
from stack.broker import Broker, BrokerError
from tests.kafka.fixtures import absent
from tests.kafka.members import settings_for

pytestmark = pytest.mark.kafka

PATIENCE_S = 90.0


def alter(broker: Broker, topic: str, **changes: str) -> None:
    entries = [
        ConfigEntry(
            name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET
        )
        for name, value in changes.items()
    ]  # fmt: skip
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    admin.incremental_alter_configs([resource])[resource].result(30)


def test_what_differs_is_named_and_what_loses_nothing_is_mended(broker: Broker) -> None:
    view = KafkaView(settings_for(broker))
    name = f"kept-{uuid4().hex[:12]}"
    view.create({name: 2})
    wanted = Topic(name, None, "", (), (), retention_ms=30 * DAY_MS, partitions=2)

    def found(topic: Topic = wanted) -> dict[str, tuple[str, bool]]:
        return {drift.what: (drift.found, not drift.mend) for drift in view.drifts([topic])}

    alter(broker, name, retention_ms=str(30 * DAY_MS))
    assert found() == {}
    alter(broker, name, retention_ms=str(DAY_MS), max_message_bytes="1000")
    assert found() == {
        "retention.ms": (str(DAY_MS), True),
        "max.message.bytes": ("1000", True),
    }
    fixed = view.fix(view.drifts([wanted]))
    assert {drift.what for drift in fixed} == {"retention.ms", "max.message.bytes"}
    assert found() == {}
    # What would delete is left to a person, and so is what moves calls between partitions.
    alter(broker, name, retention_ms="-1", cleanup_policy="compact", max_message_bytes="9000000")
    assert found() == {"retention.ms": ("-1", False), "cleanup.policy": ("compact", False)}
    assert view.fix(view.drifts([wanted])) == []
    alter(broker, name, retention_ms=str(30 * DAY_MS), cleanup_policy="delete")
    more = Topic(name, None, "", (), (), retention_ms=30 * DAY_MS, partitions=24)
    assert found(more) == {"partitions": ("2", False)}
    copied = KafkaView(settings_for(broker).model_copy(update={"replication_factor": 3}))
    assert [drift.what for drift in copied.drifts([wanted])] == ["replication"]


def test_brokers_that_forget_a_stopped_stage_too_early_are_named(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = KafkaView(settings_for(broker))
    assert view.offsets_kept_ms() == LONGEST_KEPT_MS == 90 * DAY_MS
    assert forgotten(view) is None
    monkeypatch.setattr("services.cli.topics.LONGEST_KEPT_MS", 91 * DAY_MS)
    told = forgotten(view)
    assert told is not None
    assert "for 90 days" in told
    assert "set offsets.retention.minutes=131040" in told


@pytest.fixture(scope="module")
def bare() -> Iterator[Broker]:
    """A broker without the catalogue's topics."""
    broker = Broker()
    try:
        broker.start()
    except BrokerError as error:
        absent(error)
    yield broker
    broker.close()


def environment(broker: Broker, data: Path) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CALLSTREAM_")}
    return clean | {
        "CALLSTREAM_DATA_DIR": str(data),
        "CALLSTREAM_LOG__KIND": "kafka",
        "CALLSTREAM_LOG__KAFKA__BOOTSTRAP": broker.bootstrap,
        "CALLSTREAM_LOG__KAFKA__REPLICATION_FACTOR": "1",
    }


def attempt(values: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.cli", *words],
        env=dict(values), capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip


def command(values: Mapping[str, str], *words: str, status: int = 0) -> str:
    done = attempt(values, *words)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@contextmanager
def service(values: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (
        log.open("wb") as file,
        subprocess.Popen(
            [sys.executable, "-m", "services.cli", "run", "enrich"], env=dict(values), stderr=file
        ) as child,
    ):
        try:
            yield child
        finally:
            child.kill()


def line_with(log: Path, text: str) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = [line for line in log.read_text().splitlines() if text in line]
        if found:
            return found[0]
        assert time.monotonic() < deadline, log.read_text()[-2_000:]
        time.sleep(0.05)


def readiness(log: Path) -> dict[str, str | None]:
    address = json.loads(line_with(log, '"event": "started"'))["health"]
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=5) as answer:
            body = answer.read()
    except urllib.error.HTTPError as error:
        body = error.read()
    return dict(json.loads(body))


@pytest.mark.slow
def test_a_service_waits_for_its_topics_and_the_command_makes_them(
    bare: Broker, tmp_path: Path
) -> None:
    values = environment(bare, tmp_path / "data")
    told = tmp_path / "stopped.log"
    with service(values, told) as child:
        line = json.loads(line_with(told, "topics_missing"))
        assert line["level"] == "warning"
        assert "calls.transcribed" in line["why"]
        assert "callstream topics create" in line["why"]
        began = time.monotonic()
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0
        assert time.monotonic() - began < 10

    missing = command(values, "topics", "check", status=1)
    for topic in TOPICS:
        assert topic.name in missing
    told = tmp_path / "went-on.log"
    with service(values, told) as child:
        line_with(told, "topics_missing")
        assert "topics create" in str(readiness(told)["enrich"])
        assert "calls.transcribed" in command(values, "topics", "create")
        deadline = time.monotonic() + PATIENCE_S
        while readiness(told)["enrich"] is not None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        # Its group is busy: nobody moves it now.
        assert child.poll() is None
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0
    assert "nothing was missing" in command(values, "topics", "create")
    assert "as the catalogue says" in command(values, "topics", "check")
    asked = attempt(values, "topics")
    assert asked.returncode == 0, asked.stderr
    assert "CallTranscribed" in asked.stdout
    assert "missing" not in asked.stdout
    assert "the end of every transaction" in asked.stderr

    alter(bare, ALERTS, retention_ms="1000")
    alter(bare, DEAD_LETTER, max_message_bytes="1048588")
    alter(bare, ERASED, cleanup_policy="delete")
    told_of = command(values, "topics", "check", status=1)
    for word in ("retention.ms", "max.message.bytes", "cleanup.policy", "--fix"):
        assert word in told_of
    fixed = command(values, "topics", "create", "--fix")
    assert "retention.ms was 1000, is 2592000000" in fixed
    left = command(values, "topics", "check", status=1)
    assert ERASED in left
    assert ALERTS not in left
    alter(bare, ERASED, cleanup_policy="compact")
    command(values, "topics", "check")
    admin = AdminClient({"bootstrap.servers": bare.bootstrap})
    admin.create_partitions([NewPartitions(ALERTS, 25)])[ALERTS].result(30)
    more = command(values, "topics", "check")
    assert "none is needed" in more
    assert "nothing needs a mend" in more
    # Stopped while it joined, a member may count until its session is over.
    rewind, deadline = ("topics", "rewind", "enrich"), time.monotonic() + PATIENCE_S
    while (moved := attempt(values, *rewind)).returncode and time.monotonic() < deadline:
        assert "callstream.enrich has 1 members: stop them first" in moved.stderr
        time.sleep(1.0)
    assert "nothing was moved" in moved.stdout


def test_a_service_waits_for_brokers_that_are_down(tmp_path: Path) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CALLSTREAM_")}
    values = clean | {
        "CALLSTREAM_DATA_DIR": str(tmp_path / "data"),
        "CALLSTREAM_LOG__KIND": "kafka",
        "CALLSTREAM_LOG__KAFKA__BOOTSTRAP": "127.0.0.1:9",
        "CALLSTREAM_LOG__KAFKA__REQUEST_TIMEOUT_S": "1",
    }
    told = tmp_path / "waits.log"
    with service(values, told) as child:
        line_with(told, "log_down")
        why = str(readiness(told)["enrich"])
        for part in ("127.0.0.1:9", "KAFKA__BOOTSTRAP", "KAFKA__SECURITY_PROTOCOL"):
            assert part in why
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0
