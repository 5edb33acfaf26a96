"""Replays and dead letters on Kafka and ClickHouse over HTTP, as an operator types them.

The tests share one suite at work. Each leaves the calls as it found them, but for the last two: one
adds calls, after the other the log holds none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.topics import ALERTS, ENDED, ENRICHED, RECORDED, REPLAY, TOPICS, TRANSCRIBED
from services.assembly import STAGES, Parts
from services.ingest.entrances import call_ended_for
from services.replay.selection import moment
from services.runtime.observe import HealthServer
from services.serve import Running
from stack.broker import Broker
from stack.clickhouse import ClickHouse
from stack.server import free_ports
from tests.replay.suite import (
    TENANT,
    Command,
    at_work,
    checksums,
    content,
    count,
    hand_in,
    recording,
    selected,
    until,
)
from tests.stack.servers import started

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse, pytest.mark.slow]

CALLS = 6
PARTITIONS = 3
CALL = re.compile(r"\bcall-\d+\b")


class Through:
    """Servers, the stages at work on them, and calls that are through."""

    def __init__(
        self, command: Command, parts: Parts, running: Running, tables: ClickHouse
    ) -> None:
        self.command, self.parts, self.running, self.tables = command, parts, running, tables

    def until(self, sql: str, wanted: int, what: str) -> None:
        """Wait until the number that the query answers is that."""
        until(lambda: count(self.parts, sql) == wanted, what, self.running)

    def state(self, call: str) -> tuple[str, str]:
        """How far the call is, and why; both empty where nothing is known of it."""
        rows = self.parts.warehouse.query(
            "SELECT state, state_reason FROM calls WHERE call_id = {call:String}", {"call": call}
        ).rows
        return rows[0] if rows else ("", "")

    def unchanged(self, before: dict[str, str]) -> None:
        """Wait until every view says what it said before, whatever makes it say so."""
        until(lambda: checksums(self.parts) == before, "the views differ", self.running)


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Through]:
    folder = tmp_path_factory.mktemp("servers")
    (port,) = free_ports(1)
    with closing(started(Broker())) as broker, closing(started(ClickHouse())) as tables:
        command = Command(
            folder,
            {
                "CALLSTREAM_LOG__KIND": "kafka",
                "CALLSTREAM_LOG__KAFKA__BOOTSTRAP": broker.bootstrap,
                "CALLSTREAM_LOG__KAFKA__REPLICATION_FACTOR": "1",
                "CALLSTREAM_SINK__URL": tables.url,
                "CALLSTREAM_INGEST__ALLOWED_ROOTS": json.dumps([str(folder)]),
                "CALLSTREAM_LOOP__REPLAY_GATHER_S": "0.1",
                "CALLSTREAM_LOOP__BACKOFF_MAX_S": "1",
                "CALLSTREAM_STATUS__URLS": json.dumps(
                    dict.fromkeys(STAGES, f"http://127.0.0.1:{port}")
                ),
            },
        )
        with closing(command.parts) as parts, closing(HealthServer(parts.observer, port=port)):
            parts.view.create({topic.name: PARTITIONS for topic in TOPICS})
            with at_work(parts) as running:
                hand_in(parts, folder, range(CALLS))
                made = Through(command, parts, running, tables)
                enriched = "SELECT count() FROM calls WHERE state = 'enriched'"
                made.until(enriched, CALLS, "the calls are not through")
                yield made


# Which calls


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--all",), (0, 1, 2, 3, 4, 5)),
        (("--call", "call-1", "--call", "call-4"), (1, 4)),
        (("--queue", "billing"), (1, 3, 5)),
        (("--agent", "a-2"), (2, 5)),
        (("--agent", "Agent 0", "--queue", "returns"), (0,)),
        (("--language", "zh"), (2, 3)),
        (("--from", "2026-03-02", "--to", "2026-03-03"), (1, 2)),
        (("--to", "2026-03-02T09:00:00Z"), (0,)),
        (
            ("--where", "language = 'en' AND has(topics, 'live_topic') AND call_id > 'call-1'"),
            (4, 5),
        ),
    ],
)
def test_each_way_of_naming_calls_selects_those_expected(
    through: Through, words: tuple[str, ...], expected: Sequence[int]
) -> None:
    told = through.command("replay", "--stage", "enrich", *words, "--dry-run")
    assert f"calls   {len(expected)}\n" in told
    assert set(CALL.findall(told)) == {f"call-{number}" for number in expected}


def test_archive_and_log_select_the_same(through: Through) -> None:
    for stage, criteria in (
        ("ingest", {"queue": "billing"}),
        ("transcribe", {"agent": "Agent 0"}),
        ("enrich", {"language": "zh"}),
        ("enrich", {"engine_version": "0"}),
        ("sink", {"since": moment("2026-03-02"), "until": moment("2026-03-03", ends=True)}),
    ):
        archived, logged = (
            {
                (each.call, each.topic, each.event_id)
                for each in selected(through.parts, stage, source, **criteria).inputs
            }
            for source in ("archive", "log")
        )
        assert archived == logged, (stage, criteria)
        assert bool(logged) != ("engine_version" in criteria)


def test_a_replay_by_another_engine_is_selected_by_it(through: Through) -> None:
    command, before = through.command, checksums(through.parts)
    again = ("--stage", "transcribe", "--call", "call-5")
    by = command.generation(*again, "--option", "engine=pocketsphinx")
    rows = through.parts.warehouse.query(
        "SELECT call_id, engine_version FROM current_transcribed WHERE generation = {by:Int64}",
        {"by": by},
    ).rows
    ((call, version),) = rows
    assert call == "call-5"

    def chosen(*words: str) -> set[str]:
        return set(CALL.findall(command("replay", "--stage", "enrich", *words, "--dry-run")))

    others = {f"call-{number}" for number in range(CALLS - 1)}
    assert chosen("--engine-version", version) == {"call-5"}
    assert chosen("--engine-version", "1") == others
    assert chosen("--engine", "stub") == others
    command.generation(*again)
    through.unchanged(before)


# Replays


def test_replays_of_enrich_and_transcribe_supersede_and_raise_no_alert(through: Through) -> None:
    parts, before = through.parts, checksums(through.parts)
    alerts = sum(1 for _ in parts.view.scan(ALERTS))
    assert alerts == CALLS
    for stage in ("enrich", "transcribe"):
        told = through.command("replay", "--stage", stage, "--all")
        assert f"{CALLS} of {CALLS} done" in told
        generation = int(told.partition("replay ")[2].partition(":")[0])
        current = f"SELECT count() FROM current_enriched WHERE generation = {generation}"
        through.until(current, CALLS, "it does not take the place of what was there")
        through.unchanged(before)
    assert sum(1 for _ in parts.view.scan(ALERTS)) == alerts


def test_a_shadow_is_shown_from_its_promotion_until_it_is_discarded(through: Through) -> None:
    command, parts = through.command, through.parts
    before = checksums(parts, processing=True)
    shown = content(parts, "calls")
    shadow = command.generation(
        "--stage", "enrich", "--queue", "billing", "--option", "rules=other", "--shadow",
        "--reason", "try the other rules",
    )  # fmt: skip
    made = f"SELECT uniqExact(call_id) FROM calls_enriched WHERE generation = {shadow}"
    assert count(parts, made) == 3
    marked = [
        message.header("ce_shadow")
        for message in parts.view.scan(ENRICHED)
        if message.header("ce_generation") == str(shadow)
    ]
    assert marked == ["true"] * 3, "consumers outside are told"
    assert checksums(parts, processing=True) == before

    compared = command("replay", "compare", str(shadow))
    assert set(CALL.findall(compared)) == {"call-1", "call-3", "call-5"}
    assert "+other_alert" in compared
    assert "-live_alert" in compared

    assert "is promoted: 3 done" in command("replay", "promote", str(shadow))
    named = "SELECT count() FROM calls WHERE has(alerts, 'other_alert')"
    assert count(parts, named) == 3
    assert (content(parts, "calls") & shown).total() == CALLS - 3, "the others are as they were"
    assert "is discarded" in command("replay", "discard", str(shadow))
    assert checksums(parts, processing=True) == before


def test_a_warehouse_that_restarts_is_waited_for(through: Through) -> None:
    command, view = through.command, through.parts.view

    def asked() -> int:
        return sum(1 for _ in view.scan(REPLAY))

    before = asked()
    follows = command.start("replay", "--stage", "enrich", "--all", "--ahead", "1")
    until(lambda: asked() > before, "nothing is asked for", through.running)
    through.tables.kill()
    try:
        assert follows.stderr is not None
        assert any("goes on by itself: warehouse_down" in line for line in follows.stderr)
    finally:
        through.tables.start()
    assert f"{CALLS} of {CALLS} done" in command.ended(follows)


# Dead letters


def test_what_was_refused_is_listed_redriven_and_dropped(through: Through) -> None:
    command, parts, folder = through.command, through.parts, through.command.folder
    text = b"this is no audio\n" * 100
    whole = recording(folder, 90)
    audio = whole.read_bytes()
    hopeless = folder / "hopeless.wav"
    hopeless.write_bytes(text)
    log = parts.log()
    for name, path in (("mended", whole), ("hopeless", hopeless)):
        described = call_ended_for(path, tenant_id=TENANT, call_id=name, uri=path.as_uri())
        path.write_bytes(text)
        parts.publish(log, described)
    log.close()
    through.until("SELECT count() FROM dead_letters", 2, "nothing is refused")
    assert through.state("mended") == ("failed", "ingest: checksum_mismatch")
    assert through.state("hopeless") == ("failed", "ingest: not_audio")

    listed = command("dead-letters", "list")
    ids = {call: id for id, call in re.findall(r"(\d+-\d+)\W+again/(mended|hopeless)", listed)}
    assert set(ids) == {"mended", "hopeless"}, listed
    shown = command("dead-letters", "show", ids["mended"])
    assert "checksum_mismatch" in shown
    assert '"call_id": "mended"' in shown
    looks = command.start("status", "--format", "json")
    seen, _ = looks.communicate(timeout=60)
    assert looks.returncode == 1
    assert json.loads(seen)["needs_a_person"] == [
        "ingest: dead letters: 2; see `callstream dead-letters list`"
    ]

    whole.write_bytes(audio)
    assert "redriven: 1" in command("dead-letters", "redrive", ids["mended"])
    until(lambda: through.state("mended") == ("enriched", ""), "it does not come through")
    assert "dropped: 1" in command("dead-letters", "drop", "--all", "--stage", "ingest")
    until(
        lambda: through.state("hopeless") == ("failed", "ingest: dropped: not_audio"),
        "it is not shown as dropped",
    )
    assert "no dead letters" in command("dead-letters", "list")
    assert "nothing needs a person" in command("status")


# Last, for the log is emptied


def test_what_the_log_keeps_no_longer_is_replayed_from_the_archive(through: Through) -> None:
    parts = through.parts
    before = checksums(parts)
    admin = AdminClient({"bootstrap.servers": parts.settings.log.kafka.bootstrap})
    gone = [
        TopicPartition(topic, partition, end)
        for topic in (ENDED, RECORDED, TRANSCRIBED, ENRICHED)
        for partition, (_, end) in parts.view.ends(topic).items()
    ]
    for deleted in admin.delete_records(gone).values():
        deleted.result(30)
    assert list(parts.view.scan(TRANSCRIBED)) == []
    assert selected(parts, "enrich", "log").inputs == []
    for stage in ("enrich", "transcribe"):
        told = through.command("replay", "--stage", stage, "--call", "call-1", "--call", "call-2")
        assert "2 of 2 done" in told
    through.unchanged(before)
