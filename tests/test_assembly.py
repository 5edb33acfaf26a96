"""The parts put together: what the log may let go of, and who is told when it is gone."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.topics import ALERTS, BY_NAME, DAY_MS, ENDED, REPLAY, SUMMARIES, TOPICS
from services.assembly import Parts
from services.runtime.log import Log, Message, OffsetGone, Record
from services.runtime.sqlite_log import SqliteView
from services.runtime.yaml_file import FileError
from services.serve import Running
from services.settings import Settings


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    llm = {"url": "http://127.0.0.1:9/v1", "model": "none"}
    made = Parts(
        Settings.model_validate(
            {"data_dir": tmp_path, "log": {"partitions": 1}, "enrich": {"llm": llm}}
        )
    )
    yield made
    made.close()


def view_of(parts: Parts) -> SqliteView:
    assert isinstance(parts.view, SqliteView)
    return parts.view


def written(parts: Parts, topic: str, count: int, age_ms: int) -> None:
    at = round(time.time() * 1000) - age_ms
    writer = parts.log()
    writer.commit([Record(topic, b"acme/a", b"%d" % n, (), at) for n in range(count)], {})
    writer.close()


def taken(log: Log, count: int) -> list[Message]:
    got: list[Message] = []
    deadline = time.monotonic() + 10
    while len(got) < count and time.monotonic() < deadline:
        got += log.messages(count - len(got), 0.1)
    return got


def read(parts: Parts, stage: str, topic: str, count: int) -> None:
    log = parts.log(parts.group(stage), [topic])
    got = taken(log, count)
    log.commit([], {got[-1].source: got[-1].offset + 1})
    log.close()


@pytest.mark.parametrize("topic", [topic.name for topic in TOPICS if topic.cleanup == "delete"])
def test_what_a_stage_has_not_read_stays_however_old_it_is(parts: Parts, topic: str) -> None:
    written(parts, topic, 5, 100 * DAY_MS)
    readers = [stage for stage in parts.stages if stage in BY_NAME[topic].consumers]
    assert readers
    for number, stage in enumerate(readers):
        assert parts.expire(view_of(parts)) == 0
        read(parts, stage, topic, 5 if number else 3)
    assert parts.expire(view_of(parts)) == 3
    read(parts, readers[0], topic, 2)
    assert parts.expire(view_of(parts)) == 2


def test_requests_to_replay_that_are_gone_stop_no_stage(
    parts: Parts, capsys: pytest.CaptureFixture[str]
) -> None:
    for topic in (REPLAY, ENDED):
        written(parts, topic, 3, 100 * DAY_MS)
        read(parts, "ingest", topic, 1)
        assert view_of(parts).expire(round(time.time() * 1000)) >= 3
        written(parts, topic, 1, 0)
    log = parts.log(parts.group("ingest"), [REPLAY])
    assert [message.offset for message in taken(log, 1)] == [3]
    log.close()
    log = parts.log(parts.group("ingest"), [ENDED])
    with pytest.raises(OffsetGone, match=r"calls\.ended\[0\]"):
        taken(log, 1)
    log.close()


@pytest.mark.parametrize("stage", ["summarize", "notify.crm"])
def test_a_stage_that_settings_switch_off_and_on_passes_over_what_is_gone(
    parts: Parts, stage: str
) -> None:
    """It has read nothing while it was off; the others, which read, tell what was lost to them."""
    topic = {"summarize": SUMMARIES, "notify.crm": ALERTS}[stage]
    written(parts, topic, 3, 100 * DAY_MS)
    read(parts, stage, topic, 1)
    view_of(parts).expire(round(time.time() * 1000))
    written(parts, topic, 1, 0)
    log = parts.log(parts.group(stage), [topic])
    assert [message.offset for message in taken(log, 1)] == [3]
    log.close()


def test_a_stage_waits_for_a_topic_that_it_writes(parts: Parts) -> None:
    """One that began without it would end with the first call."""
    view = view_of(parts)
    view.create({topic.name: 1 for topic in TOPICS if topic.name != SUMMARIES})
    del parts.__dict__["view"]
    with sqlite3.connect(parts.settings.log_file) as file:
        file.execute("DELETE FROM partitions WHERE topic = ?", (SUMMARIES,))
    parts.__dict__["view"] = SqliteView(parts.settings.log_file)
    running = Running(parts, ("enrich",))
    running.start()
    deadline = time.monotonic() + 20
    while "calls.summaries" not in (parts.observer.readiness().get("enrich") or ""):
        assert time.monotonic() < deadline, parts.observer.readiness()
        assert not running.failed, running.failed
        time.sleep(0.02)
    parts.view.create({SUMMARIES: 1})
    while parts.observer.readiness().get("enrich") is not None:
        assert time.monotonic() < deadline, parts.observer.readiness()
        time.sleep(0.02)
    running.stop.set()
    running.join(10)
    assert not running.failed


def test_no_stage_but_that_of_an_endpoint_needs_the_file_of_endpoints(tmp_path: Path) -> None:
    file = tmp_path / "endpoints.yaml"
    file.write_text(
        "endpoints:\n- {name: crm, kind: webhook, url: 'https://x.example', secret: '${NOBODY}'}\n"
    )
    made = Parts(
        Settings.model_validate({"data_dir": tmp_path, "notify": {"endpoints_file": file}})
    )
    assert made.stage("enrich").name == "enrich"
    assert made.sources("ingest") == (ENDED,)
    with pytest.raises(FileError, match="NOBODY"):
        made.stages_of("notify")
    made.close()
