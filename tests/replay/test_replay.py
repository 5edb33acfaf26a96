"""Replays through the whole embedded suite: what they change, and what they leave alone."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.events import CallErased, Decision, Participant, Role
from schemas.topics import ALERTS, DEAD_LETTER, REPLAY, TRANSCRIBED
from services.assembly import project_root
from services.dead_letters import settled, unsettled
from services.loopback import Here
from services.replay.comparison import Labels, compare
from services.replay.decisions import check_decision, decide, decision
from services.replay.plans import generations, read_plan
from services.replay.progress import Follower, tally
from services.replay.selection import Refused, Selection, moment, select
from services.runtime.sqlite_log import Database, SqliteLog, SqliteView
from services.runtime.stage import utc_now
from services.settings import Settings
from services.transcribe.engine import Heard
from services.transcribe.stub_engine import StubEngine
from tests.replay.suite import (
    TENANT,
    Watched,
    at_work,
    call,
    carried_out,
    checksums,
    content,
    count,
    drained,
    hand_in,
    parts_of,
    planned,
    recording,
    replayed,
    selected,
    settings_in,
    until,
    views,
)

pytestmark = pytest.mark.clickhouse

CALLS = 4
DAY_MS = 86_400_000


class Through:
    """A suite at work, in which some calls are through."""

    def __init__(self, parts: Any, objects: Watched, folder: Path) -> None:
        self.parts, self.objects, self.folder = parts, objects, folder


@contextmanager
def calls_through(folder: Path, settings: Settings) -> Iterator[Through]:
    watched: list[Watched] = []

    def watch(inner: Any) -> Watched:
        watched.append(Watched(inner))
        return watched[0]

    with parts_of(settings, watch) as parts, at_work(parts) as running:
        hand_in(parts, folder, range(CALLS))
        drained(parts, running)
        assert count(parts, "SELECT count() FROM calls WHERE state = 'enriched'") == CALLS
        yield Through(parts, watched[0], folder)


@pytest.fixture
def through(tmp_path: Path) -> Iterator[Through]:
    with calls_through(tmp_path, settings_in(tmp_path)) as made:
        yield made


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The language of each time that the engine listens, from here on."""
    told: list[str] = []
    listen = StubEngine.transcribe

    def noted(self: StubEngine, *given: Any, **named: Any) -> Heard:
        found = listen(self, *given, **named)
        told.append(found.language)
        return found

    monkeypatch.setattr(StubEngine, "transcribe", noted)
    return told


@pytest.mark.slow
def test_ten_replays_of_each_stage_leave_every_view_as_it_was(
    through: Through, heard: list[str]
) -> None:
    parts = through.parts
    before = checksums(parts)
    segments = count(parts, "SELECT count() FROM segments FINAL")
    assert {"calls", "call_segments", "call_findings", "call_alerts", "topics_daily"} <= set(before)
    assert count(parts, "SELECT count() FROM call_findings") > 0
    assert count(parts, "SELECT count() FROM call_alerts") == CALLS
    for stage in ("ingest", "transcribe", "enrich", "sink"):
        for _ in range(10):
            plan = replayed(parts, stage)
        drained(parts)
        assert checksums(parts) == before, stage
        if stage != "sink":
            current = f"SELECT count() FROM current_enriched WHERE generation = {plan.generation}"
            assert count(parts, current) == CALLS, "it took the place of what was there"
    assert len(generations(parts.objects, TENANT)) == 40
    assert heard == [], "the same engine's result is kept"
    # Of each call the live event, and ten of every replay that makes it anew.
    for table, rows in (
        ("calls_recorded", 11 * CALLS),
        ("calls_transcribed", 21 * CALLS),
        ("segments", 21 * segments),
        ("calls_enriched", 31 * CALLS),
        ("alerts", CALLS),
    ):
        assert count(parts, f"SELECT count() FROM {table} FINAL") == rows, table


@pytest.mark.slow
def test_ten_replays_that_listen_again_leave_every_view_as_it_was(
    tmp_path: Path, heard: list[str]
) -> None:
    settings = settings_in(tmp_path)
    transcribe = settings.transcribe.model_copy(update={"cache": False})
    with calls_through(tmp_path, settings.model_copy(update={"transcribe": transcribe})) as through:
        parts, live = through.parts, len(heard)
        assert live >= CALLS
        before = checksums(parts)
        for _ in range(10):
            replayed(parts, "transcribe")
        drained(parts)
        assert checksums(parts) == before
        assert len(heard) == 11 * live
        transcripts = "SELECT count(), countIf(cached) FROM calls_transcribed FINAL"
        assert parts.warehouse.query(transcripts).rows == [(11 * CALLS, 0)]


def test_replaying_enrich_listens_to_nothing(through: Through, heard: list[str]) -> None:
    heard.clear()
    through.objects.read.clear()
    replayed(through.parts, "enrich")
    drained(through.parts)
    assert heard == []
    kinds = set(through.objects.read)
    assert not kinds & {"audio", "transcripts", "receipts"}, through.objects.read
    # The counters do count: a replay of transcribe with another language listens again.
    replayed(through.parts, "transcribe", options={"language": "fr"})
    assert heard
    assert through.objects.read["audio"] >= CALLS


def test_another_engine_changes_what_is_heard_of_its_call_and_nothing_else(
    through: Through, heard: list[str]
) -> None:
    parts, name = through.parts, "call-2"
    start = checksums(parts)
    before = {view: content(parts, view) for view in views(parts)}
    found = selected(parts, "transcribe", calls=(name,))
    plan = planned(parts, "transcribe", found, options={"engine": "pocketsphinx"})
    assert carried_out(parts, plan).tally.done == 1
    drained(parts)
    assert heard == []

    for view, rows in before.items():
        now = content(parts, view)
        differing = [json.loads(row) for row in (now - rows) + (rows - now)]
        assert {row.get("call_id", name) for row in differing} <= {name}, view
        assert differing or view not in ("call_segments", "calls")

    live, again = (
        msgspec.to_builtins(parts.codec.decode(message).event)
        for message in parts.view.scan(TRANSCRIBED)
        if message.key == f"{TENANT}/{name}".encode()
    )
    assert again["engine"]["name"] == "pocketsphinx"
    assert {field for field in live if live[field] != again[field]} <= {
        "transcribed_at", "engine", "language", "language_confidence", "segments", "channels",
        "degradations", "speakers",
    }  # fmt: skip
    for one, other in zip(live["channels"], again["channels"], strict=True):
        assert {**one, "unheard_ms": None} == {**other, "unheard_ms": None}

    replayed(parts, "transcribe")
    drained(parts)
    assert heard == [], "what the usual engine heard is kept"
    assert checksums(parts) == start


def test_a_replay_raises_no_alert_unless_it_is_asked_to(through: Through) -> None:
    parts = through.parts

    def raised() -> int:
        return sum(1 for _ in parts.view.scan(ALERTS))

    before = raised()
    assert before == CALLS
    replayed(parts, "enrich")
    drained(parts)
    assert raised() == before
    assert count(parts, "SELECT count() FROM current_enriched WHERE has(alerts, 'live_alert')") == (
        CALLS
    )
    replayed(parts, "enrich", side_effects=True)
    drained(parts)
    assert raised() == before + CALLS


def test_a_shadow_is_seen_by_nobody_until_it_is_promoted_and_then_by_all_at_once(
    through: Through,
) -> None:
    parts = through.parts
    asks = Here(parts.warehouse)
    before = checksums(parts, processing=True)
    plain = checksums(parts)
    plan = replayed(parts, "enrich", options={"rules": "other"}, shadow=True)
    drained(parts)
    g = plan.generation
    stored = f"SELECT count() FROM calls_enriched FINAL WHERE generation = {g}"
    assert count(parts, stored) == CALLS, "it is there"
    assert checksums(parts, processing=True) == before, "and nobody sees it"

    compared = compare(plan, asks)
    assert len(compared.differences) == CALLS
    assert compared.differences[0].labels["alerts"].gained == ["other_alert"]
    assert compared.differences[0].labels["alerts"].lost == ["live_alert"]
    summed = compared.summed()
    assert summed["alerts gained"] == {"other_alert": CALLS}
    assert "words changed" not in summed, "enrich changes no words"

    seen: set[int] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(count(parts, f"SELECT countIf(generation = {g}) FROM current_enriched"))

    reader = threading.Thread(target=read)
    reader.start()
    log = parts.log()
    try:
        decide(log, parts.codec, asks, plan, Decision.PROMOTED, "tests", "better")
        until(lambda: decision(asks, TENANT, g) == "PROMOTED", "the decision is not stored")
        until(lambda: CALLS in seen, "nobody sees the promoted generation")
        after = checksums(parts)
        changed = {view for view in after if after[view] != plain[view]}
        assert changed >= {"calls", "current_enriched", "call_alerts"}
        assert not changed & {"current_transcribed", "call_segments", "call_findings"}
        assert content(parts, "call_alerts").total() == 0, "a replay raises nothing by itself"

        decide(log, parts.codec, asks, plan, Decision.DISCARDED, "tests", "worse")
        until(lambda: decision(asks, TENANT, g) == "DISCARDED", "the decision is not stored")
        assert checksums(parts, processing=True) == before, "as if it had never been"
    finally:
        stop.set()
        reader.join()
        log.close()
    assert seen == {0, CALLS}, "readers see all of its calls or none"


def test_a_rule_that_only_tags_and_a_verdict_are_differences_too(through: Through) -> None:
    trial = through.folder / "trials" / "tagging"
    trial.mkdir()
    when = "{topic: live_topic}"
    (trial / "rules.yaml").write_text(
        f'version: "2.0"\nrules: [{{id: tagging, title: T, when: {when}, tag: found_it}}]\n'
    )
    criterion = f"{{id: made_up, title: T, weight: 1, met_when: {when}, suggestion: S}}"
    (trial / "scorecard.yaml").write_text(f'version: "2.0"\nid: tried\ncriteria: [{criterion}]\n')
    plan = replayed(through.parts, "enrich", options={"rules": "tagging"}, shadow=True)
    drained(through.parts)
    compared = compare(plan, Here(through.parts.warehouse))
    assert compared.differences[0].labels["tags"] == Labels(["found_it"], [])
    summed = compared.summed()
    assert summed["calls changed"] == CALLS
    assert summed["tags gained"] == {"found_it": CALLS}
    assert summed["criteria gained"] == {"made_up: met": CALLS}
    assert "calls without findings in the shadow" not in summed
    assert summed["criteria lost"]["greeting: not met"] == CALLS
    (now,), (then,) = summed["made now by"], summed["made in the shadow by"]
    assert now.startswith("rules 1.")
    assert then.startswith("rules 2.0+")


def test_a_shadow_of_transcribe_hides_what_follows_from_it_too(through: Through) -> None:
    parts = through.parts
    before = checksums(parts, processing=True)
    plan = replayed(parts, "transcribe", options={"language": "fr"}, shadow=True)
    drained(parts)
    assert checksums(parts, processing=True) == before
    for table in ("calls_transcribed", "calls_enriched"):
        made = f"SELECT count() FROM {table} FINAL WHERE generation = {plan.generation}"
        assert count(parts, made) == CALLS
    compared = compare(plan, Here(parts.warehouse))
    assert {each.texts["language"].shadow for each in compared.differences} == {"fr"}
    summed = compared.summed()
    assert summed["words changed"] == 0
    assert summed["made in the shadow by"] == {"stub hash-of-audio": CALLS}


def test_a_newer_amendment_goes_before_a_replay_of_what_it_amends(through: Through) -> None:
    parts = through.parts

    def current() -> dict[str, tuple[int, int]]:
        """Call -> revision and generation of the enrichment that is shown."""
        rows = parts.warehouse.query("SELECT call_id, revision, generation FROM current_enriched")
        return {call_id: (revision, generation) for call_id, revision, generation in rows.rows}

    live = current()
    found = selected(parts, "enrich", calls=("call-0",))
    plan = planned(parts, "enrich", found)
    carried_out(parts, plan)
    drained(parts)
    assert current() == live | {"call-0": (live["call-0"][0], plan.generation)}

    later = utc_now() + timedelta(minutes=1)
    amendment = call(
        parts, recording(through.folder, 0), 0, agent_name="Somebody Else",
        source_updated_at=later.isoformat(),
    )  # fmt: skip
    log = parts.log()
    parts.publish(log, amendment)
    log.close()
    drained(parts)
    revision = round(later.timestamp() * 1000)
    amended = live | {"call-0": (revision, 0)}
    assert current() == amended
    assert count(parts, "SELECT count() FROM calls WHERE agent_name = 'Somebody Else'") == 1

    # Also where the replay comes after it: the input was chosen before.
    shown = content(parts, "calls", processing=True)
    again = planned(parts, "enrich", found)
    carried_out(parts, again)
    drained(parts)
    stored = f"SELECT count() FROM calls_enriched FINAL WHERE generation = {again.generation}"
    assert count(parts, stored) == 1
    assert current() == amended
    assert content(parts, "calls", processing=True) == shown

    newest = replayed(parts, "enrich")
    drained(parts)
    assert current()["call-0"] == (revision, newest.generation), "a replay of the amendment counts"


def test_what_the_log_keeps_no_longer_is_replayed_from_the_archive(through: Through) -> None:
    parts = through.parts
    assert isinstance(parts.view, SqliteView)
    assert parts.view.expire(round(time.time() * 1000) + 100 * DAY_MS) > 0
    assert list(parts.view.scan(TRANSCRIBED)) == []
    assert selected(parts, "enrich", "log").inputs == []
    before = checksums(parts)
    for stage in ("enrich", "transcribe", "ingest", "sink"):
        replayed(parts, stage)
        drained(parts)
    assert checksums(parts) == before


def test_archive_and_log_select_the_same(through: Through) -> None:
    parts = through.parts

    def chosen(stage: str, source: str, **criteria: Any) -> list[tuple[str, str, str]]:
        found = selected(parts, stage, source, **criteria).inputs
        return sorted((each.call, each.topic, each.event_id) for each in found)

    every = [f"call-{n}" for n in range(CALLS)]
    for stage in ("ingest", "transcribe", "enrich", "sink"):
        for criteria, calls in (
            ({}, every),
            ({"calls": ("call-1", "call-9")}, ["call-1"]),
            ({"queue": "billing"}, ["call-1", "call-3"]),
            ({"agent": "a-1"}, ["call-1"]),
            ({"agent": "Agent 0"}, ["call-0", "call-3"]),
            ({"language": "zh"}, ["call-2", "call-3"]),
            ({"engine": "stub", "engine_version": "1"}, every),
            ({"engine": "stub", "engine_version": "0"}, []),
            ({"since": _march(2), "until": _march(3)}, ["call-1"]),
        ):
            archived = chosen(stage, "archive", **criteria)
            assert sorted({call for call, _, _ in archived}) == calls, (stage, criteria)
            assert chosen(stage, "log", **criteria) == archived, (stage, criteria)
    assert [c for c, _, _ in chosen("enrich", "archive", where="call_id LIKE '%2' OR 0")] == [
        "call-2"
    ]
    with pytest.raises(Refused, match="--source archive"):
        selected(parts, "enrich", "log", where="1")


@pytest.mark.parametrize("agent", ["a-1", "Agent 1", "a-77", "Second Agent"])
def test_a_call_that_was_passed_on_is_found_by_every_agent(through: Through, agent: str) -> None:
    parts = through.parts
    passed_on = call(parts, recording(through.folder, 1), 1)
    second = Participant(
        participant_id="p-77", role=Role.AGENT, agent_id="a-77", display_name="Second Agent"
    )
    log = parts.log()
    parts.publish(log, replace(
        passed_on, participants=[*passed_on.participants, second], event_id="passed-on",
        source_updated_at=utc_now() + timedelta(minutes=1),
    ))  # fmt: skip
    log.close()
    drained(parts)
    for source in ("archive", "log"):
        found = selected(parts, "ingest", source, agent=agent).inputs
        assert [each.call for each in found] == ["call-1"], source
    assert selected(parts, "ingest", agent="p-77").inputs == []


def _march(day: int) -> Any:
    return moment(f"2026-03-{day:02}")


def test_what_the_sink_has_not_stored_yet_is_taken_from_the_log(tmp_path: Path) -> None:
    with parts_of(settings_in(tmp_path)) as parts:
        with at_work(parts) as running:
            hand_in(parts, tmp_path, range(2))
            drained(parts, running)
        with at_work(parts, ("ingest", "transcribe", "enrich")) as running:
            hand_in(parts, tmp_path, range(2, 4))
            until(lambda: _read_by_all_but_the_sink(parts), "the stages are not through", running)

        def chosen(stage: str, source: str, **criteria: Any) -> list[str]:
            return sorted({each.call for each in selected(parts, stage, source, **criteria).inputs})

        for stage in ("ingest", "transcribe", "enrich", "sink"):
            assert chosen(stage, "archive") == ["call-0", "call-1"]
            assert chosen(stage, "auto") == ["call-0", "call-1", "call-2", "call-3"]
            assert chosen(stage, "auto", queue="billing") == ["call-1", "call-3"]
        found = selected(parts, "enrich", where="1")
        assert [each.call for each in found.inputs] == ["call-0", "call-1"]
        assert any("--where cannot see them" in why for why in found.left_out)
        with at_work(parts):
            replayed(parts, "enrich")


def _read_by_all_but_the_sink(parts: Any) -> bool:
    return not any(lag for (stage, _), lag in parts.lags().items() if stage != "sink")


def test_a_replay_goes_on_where_it_was_stopped(through: Through) -> None:
    parts = through.parts
    plan = planned(parts, "enrich", selected(parts, "enrich"))
    log = parts.log()
    first = Follower(plan, log, parts.view, parts.codec, Here(parts.warehouse), ahead=1)
    first.publish()
    assert first.asked == 1
    log.close()
    again = read_plan(parts.objects, TENANT, plan.generation)
    assert again == plan
    second = carried_out(parts, again)
    assert second.tally.done == CALLS
    third = carried_out(parts, again)
    assert third.asked == CALLS
    requests = [message.header("ce_id") for message in parts.view.scan(REPLAY)]
    assert len(requests) == len(set(requests)) == CALLS
    told = {message.header("callstream.replay.stage") for message in parts.view.scan(REPLAY)}
    assert told == {"enrich"}, "the other stages pass over them without looking inside"
    assert tally(plan, Here(parts.warehouse)).left == 0


def test_failures_in_a_row_stop_it(through: Through) -> None:
    parts = through.parts
    found = selected(parts, "enrich")
    # Past the check that the command makes: the stage refuses every one.
    plan = planned(parts, "enrich", found, options={"rules": "nowhere"})
    before = checksums(parts)
    follower = carried_out(parts, plan, ahead=1, failures=2)
    assert follower.stopped is not None
    assert "unknown_option" in follower.stopped
    assert "nowhere" in follower.stopped
    assert follower.tally.failed == 2
    assert follower.tally.left == CALLS - 2
    drained(parts)
    after = checksums(parts)
    assert after.pop("dead_letters") != before.pop("dead_letters")
    assert after == before, "a replay that fails leaves the calls as they were"


def test_what_fails_behind_the_stage_that_is_replayed_counts_as_failed(
    through: Through, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = through.parts
    monkeypatch.setattr(Watched, "exists", lambda self, key: not key.startswith("audio/"))
    follower = carried_out(parts, planned(parts, "ingest", selected(parts, "ingest")))
    assert (follower.tally.done, follower.tally.failed) == (0, CALLS)
    assert {reason.partition(":")[0] for reason in follower.reasons} == {"transcribe"}
    monkeypatch.undo()
    replayed(parts, "transcribe")
    assert count(parts, "SELECT count() FROM calls WHERE state = 'enriched'") == CALLS


def test_a_dead_letter_is_replayed_from_its_bytes(through: Through) -> None:
    parts = through.parts
    audio = next(key for key in parts.objects.keys("audio/"))
    kept = parts.objects.get(audio)
    parts.objects.delete(audio)
    # Every call's transcript once more, by other options so that no cached result stands in.
    plan = planned(parts, "transcribe", selected(parts, "transcribe"), options={"language": "fr"})
    follower = carried_out(parts, plan)
    assert (follower.tally.done, follower.tally.failed) == (CALLS - 1, 1)
    assert any("audio_gone" in reason for reason in follower.reasons)
    drained(parts)
    assert [letter.reason for letter in unsettled(parts.view)] == ["audio_gone"]
    assert count(parts, "SELECT count() FROM dead_letters") == 1

    parts.objects.put(audio, kept)
    for source in ("log", "archive"):
        found = selected(parts, "transcribe", source, dead_letters=True)
        assert [each.topic for each in found.inputs] == ["calls.recorded"], found
    assert selected(parts, "enrich", dead_letters=True).inputs == []
    # What an operator decided counts before the sink has stored it.
    (letter,) = unsettled(parts.view)
    decision = Database(None)
    SqliteView(decision).create({DEAD_LETTER: 1})
    SqliteLog(decision).commit([settled(letter, "redriven", 0)], {})
    taken = select(
        "transcribe", Selection(tenant=TENANT, dead_letters=True), "auto", Here(parts.warehouse),
        SqliteView(decision), parts.codec, {},
    )  # fmt: skip
    assert taken.inputs == []
    again = carried_out(parts, planned(parts, "transcribe", found))
    assert again.tally.done == 1
    drained(parts)
    assert list(unsettled(parts.view)) == []
    assert count(parts, "SELECT count() FROM dead_letters") == 0


def test_an_erased_call_does_not_hold_a_replay_up(through: Through) -> None:
    parts = through.parts
    plan = planned(parts, "enrich", selected(parts, "enrich"))
    log = parts.log()
    now = utc_now()
    erased = CallErased(tenant_id=TENANT, call_id="call-1", erased_at=now, requested_by="tests")
    log.commit([parts.codec.encode(erased, id="erase-1", source="/tests", time=now)], {})
    log.close()
    drained(parts)
    follower = carried_out(parts, plan)
    assert (follower.tally.done, follower.tally.erased) == (CALLS - 1, 1)
    assert follower.tally.left == 0
    assert count(parts, "SELECT count() FROM calls") == CALLS - 1


@pytest.mark.parametrize("stage", ["sink", "enrich"])
def test_a_call_that_was_erased_before_does_not_come_back_from_the_log(
    through: Through, stage: str
) -> None:
    parts = through.parts
    log = parts.log()
    now = utc_now()
    for number in (1, 2):
        gone = CallErased(
            tenant_id=TENANT, call_id=f"call-{number}", erased_at=now, requested_by="tests"
        )
        log.commit([parts.codec.encode(gone, id=f"erase-{number}", source="/tests", time=now)], {})
    log.close()
    drained(parts)
    hand_in(parts, through.folder, [2])
    drained(parts)
    found = selected(parts, stage, "log")
    assert {each.call for each in found.inputs} == {f"call-{n}" for n in range(CALLS)}
    # As if the warehouse were silent: everything is asked for.
    plan = planned(parts, stage, found)
    log = parts.log()
    Follower(plan, log, parts.view, parts.codec, None, ahead=len(plan.inputs) + 1).publish()
    log.close()
    drained(parts)
    counted = carried_out(parts, plan).tally
    assert (counted.failed, counted.left) == (0, 0)
    assert counted.erased > 0
    assert counted.done > 0
    of_it = "call_id = 'call-1' AND type != 'CallErased'"
    assert count(parts, f"SELECT count() FROM events WHERE {of_it}") == 0
    assert count(parts, "SELECT count() FROM calls") == CALLS - 1


def test_decisions_that_make_no_sense_are_refused(through: Through) -> None:
    parts = through.parts
    asks = Here(parts.warehouse)
    found = selected(parts, "enrich")
    plain = planned(parts, "enrich", found)
    shadow = planned(parts, "enrich", found, shadow=True)
    counted = tally(shadow, asks)
    assert counted.left == CALLS
    with pytest.raises(Refused, match="is no shadow"):
        check_decision(plain, Decision.PROMOTED, "", counted, partial=False)
    with pytest.raises(Refused, match="there is nothing to show"):
        check_decision(shadow, Decision.PROMOTED, "", counted, partial=True)
    some = replace(counted, done=1)
    failed = replace(counted, done=CALLS - 1, failed=1)
    with pytest.raises(Refused, match=f"{CALLS - 1} of {CALLS} calls of replay .* not through"):
        check_decision(shadow, Decision.PROMOTED, "", some, partial=False)
    with pytest.raises(Refused, match=r"not through, 1 of them failed"):
        check_decision(shadow, Decision.PROMOTED, "", failed, partial=False)
    check_decision(shadow, Decision.PROMOTED, "", some, partial=True)
    check_decision(shadow, Decision.PROMOTED, "", failed, partial=True)
    with pytest.raises(Refused, match="for good"):
        check_decision(shadow, Decision.PROMOTED, "DISCARDED", counted, partial=True)
    with pytest.raises(Refused, match="already"):
        check_decision(shadow, Decision.DISCARDED, "DISCARDED", counted, partial=False)
    check_decision(shadow, Decision.DISCARDED, "", counted, partial=False)
    with pytest.raises(Refused, match="the latest"):
        read_plan(parts.objects, TENANT, 7)
    assert shadow.generation > plain.generation


def test_the_latest_decision_counts_by_whatever_clock(through: Through) -> None:
    parts = through.parts
    asks = Here(parts.warehouse)
    plan = planned(parts, "enrich", selected(parts, "enrich"), shadow=True)
    log = parts.log()

    def decided(wanted: Decision, hours: int) -> None:
        now = utc_now() + timedelta(hours=hours)
        decide(log, parts.codec, asks, plan, wanted, "tests", "", lambda: now)
        drained(parts)
        assert decision(asks, TENANT, plan.generation) == wanted

    decided(Decision.DISCARDED, 0)
    # By a clock that runs ahead; the same decision was made before.
    decided(Decision.PROMOTED, 1)
    decided(Decision.DISCARDED, 0)
    log.close()
    assert count(parts, "SELECT count() FROM generations") == 3


def test_every_view_there_is_was_looked_at(through: Through) -> None:
    migrations = (project_root() / "services" / "sink" / "migrations").glob("*.sql")
    made = {
        name
        for path in migrations
        for name in re.findall(r"^CREATE OR REPLACE VIEW (\w+)", path.read_text(), re.MULTILINE)
    }
    assert set(views(through.parts)) == made
    assert {*checksums(through.parts), "shadow_generations"} == made


def test_what_replays_make_is_stored_together_and_live_calls_at_once(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    loop = settings.loop.model_copy(update={"replay_gather_s": 3600.0})
    with parts_of(settings.model_copy(update={"loop": loop})) as parts, at_work(parts) as running:
        hand_in(parts, tmp_path, range(1))
        drained(parts, running)
        plan = planned(parts, "enrich", selected(parts, "enrich"))
        log = parts.log()
        Follower(plan, log, parts.view, parts.codec, Here(parts.warehouse)).publish()
        log.close()
        until(lambda: _read_by_all_but_the_sink(parts), "it is not enriched again", running)
        hand_in(parts, tmp_path, range(1, 2))
        until(
            lambda: count(parts, "SELECT count() FROM calls WHERE state = 'enriched'") == 2,
            "the live call waits for the replay",
            running,
        )
        assert count(parts, "SELECT max(generation) FROM calls_enriched") == 0
    with parts_of(settings) as parts, at_work(parts) as running:
        drained(parts, running)
        assert count(parts, "SELECT max(generation) FROM calls_enriched") == plan.generation
