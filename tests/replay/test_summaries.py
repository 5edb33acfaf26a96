"""A language model beside the whole suite: it holds up no alert, and is asked nothing twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.events import CallEnriched
from schemas.topics import ALERTS, ENRICHED
from services.assembly import Parts
from services.loopback import Here
from services.replay.progress import Follower
from services.settings import Settings
from tests.enrich.llm_server import Asked, Reply, Server, serving, summarizes
from tests.replay.suite import (
    at_work,
    checksums,
    count,
    drained,
    hand_in,
    parts_of,
    planned,
    replayed,
    rules,
    selected,
    settings_in,
    until,
)

pytestmark = pytest.mark.clickhouse


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


def with_model(folder: Path, server: Server) -> Settings:
    base = settings_in(folder)
    enrich = base.enrich.model_copy(update={"llm": server.settings(timeout_s=60)})
    return base.model_copy(update={"enrich": enrich})


def published(parts: Parts, topic: str) -> int:
    return sum(1 for _ in parts.view.scan(topic, {}))


def enriched(parts: Parts) -> list[CallEnriched]:
    return [parts.codec.decode(message).event for message in parts.view.scan(ENRICHED, {})]


def test_no_alert_waits_for_a_model(server: Server, tmp_path: Path) -> None:
    """The model takes far longer than anybody waits for; everything but its summary is there."""
    go = threading.Event()

    def slowly(asked: Asked) -> Reply:
        go.wait(60)
        return summarizes(asked)

    server.answer = slowly
    calls = 12  # more than the model's stage has at work at once
    with parts_of(with_model(tmp_path, server)) as parts, at_work(parts) as running:
        hand_in(parts, tmp_path, range(calls))
        alerts = "SELECT count() FROM call_alerts"
        until(lambda: count(parts, alerts) == calls, "the alerts are not out", running)
        assert published(parts, ALERTS) == calls
        assert all(each.summary is not None for each in enriched(parts))
        assert {e.summary.pending for e in enriched(parts) if e.summary} == {True}
        pending = "SELECT count() FROM current_enriched WHERE summary_pending"
        until(lambda: count(parts, pending) == calls, "not stored", running)
        go.set()
        drained(parts, running)
        assert count(parts, "SELECT count() FROM current_enriched WHERE summary_pending") == 0
        by_model = "SELECT count() FROM current_enriched WHERE summary_method = 'small'"
        assert count(parts, by_model) == calls
        assert count(parts, "SELECT count() FROM calls WHERE state = 'enriched'") == calls
        assert published(parts, ALERTS) == calls, "once each"


def test_a_replay_by_other_rules_asks_the_model_nothing(server: Server, tmp_path: Path) -> None:
    settings = with_model(tmp_path, server)
    with parts_of(settings) as parts, at_work(parts) as running:
        hand_in(parts, tmp_path, range(4))
        drained(parts, running)
        before, asked = checksums(parts), len(server.asked)
        assert asked >= 4
        server.answer = lambda asked: Reply(503)
        replayed(parts, "enrich")
        drained(parts, running)
        assert checksums(parts) == before
    rules(tmp_path / "changed", "another_topic", "another_alert")
    enrich = settings.enrich.model_copy(update={"rules_dir": tmp_path / "changed"})
    with (
        parts_of(settings.model_copy(update={"enrich": enrich})) as parts,
        at_work(parts) as running,
    ):
        replayed(parts, "enrich")
        drained(parts, running)
        after = checksums(parts)
        changed = {view for view in before if before[view] != after[view]}
        assert "call_findings" in changed
        assert not {"call_summary", "call_statements"} & changed
        by_model = "SELECT count() FROM current_enriched WHERE summary_method = 'small'"
        assert count(parts, by_model) == 4
    assert len(server.asked) == asked


def test_summaries_that_were_asked_for_are_made_after_a_restart(
    server: Server, tmp_path: Path
) -> None:
    settings = with_model(tmp_path, server)
    with parts_of(settings) as parts:
        with at_work(parts, ("ingest", "transcribe", "enrich", "sink")) as running:
            hand_in(parts, tmp_path, range(3))
            pending = "SELECT count() FROM current_enriched WHERE summary_pending"
            until(lambda: count(parts, pending) == 3, "not stored", running)
        assert not server.asked
        with at_work(parts, ("summarize", "sink")) as running:
            drained(parts, running)
        assert count(parts, "SELECT count() FROM current_enriched WHERE summary_pending") == 0


def test_no_alert_waits_behind_what_a_replay_of_transcribe_has_made(
    server: Server, tmp_path: Path
) -> None:
    go = threading.Event()

    def slowly(asked: Asked) -> Reply:
        go.wait(60)
        return summarizes(asked)

    settings = with_model(tmp_path, server)
    transcribe = settings.transcribe.model_copy(update={"cache": False})
    with (
        parts_of(settings.model_copy(update={"transcribe": transcribe})) as parts,
        at_work(parts) as running,
    ):
        hand_in(parts, tmp_path, range(3))
        drained(parts, running)
        for key in parts.objects.keys("answers/"):
            parts.objects.delete(key)
        server.answer = slowly
        asked = len(server.asked)
        plan = planned(parts, "transcribe", selected(parts, "transcribe"))
        log = parts.log()
        follower = Follower(plan, log, parts.view, parts.codec, Here(parts.warehouse))
        follower.publish()
        until(lambda: len(server.asked) > asked, "the replay does not ask the model", running)
        hand_in(parts, tmp_path, range(3, 6))
        alerts = "SELECT count() FROM call_alerts"
        until(lambda: count(parts, alerts) == 6, "alerts wait for the replay", running)
        assert not go.is_set()
        go.set()
        until(lambda: not follower.step() and follower.over, "the replay does not end", running)
        log.close()
        assert follower.tally.done == 3
        drained(parts, running)
