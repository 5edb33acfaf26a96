"""The sink from messages to tables: what readers see, whatever happens on the way."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from schemas import events as e
from schemas.examples import EXAMPLES
from services.runtime import headers as h
from services.runtime.errors import Invalid, Transient
from services.runtime.stage import Envelope, Handle, Outcome
from services.sink.handler import Tables, remake, stage
from services.sink.rows import TABLES
from services.sink.settings import SinkSettings
from services.sink.warehouse import Result, Warehouse
from tests.sink.messages import NOON, Topics, every_example, life_of
from tests.tables import empty

pytestmark = pytest.mark.clickhouse

HAPPY: e.CallEnded = EXAMPLES["CallEnded"]["happy"]

POINTS = int(os.environ.get("CALLSTREAM_TEST_CRASH_POINTS", "6"))
SEED = int(os.environ.get("CALLSTREAM_TEST_SEED", random.randrange(1 << 32)))


def points(count: int) -> list[int]:
    """Of `count` writes those after which a run is stopped: at most CALLSTREAM_TEST_CRASH_POINTS,
    the first and the last and others that a seed draws."""
    print(f"seed {SEED}: repeat with CALLSTREAM_TEST_SEED={SEED}")
    others = range(2, count)
    return [1, *random.Random(SEED).sample(others, min(len(others), max(0, POINTS - 2))), count]


@pytest.fixture
def topics(tmp_path: Path) -> Topics:
    return Topics(tmp_path / "objects")


def sink(
    warehouse: Tables, envelopes: Sequence[Envelope[Any]], **settings: Any
) -> dict[int, Outcome]:
    answers = list(stage(SinkSettings(**settings), warehouse).handle(envelopes))
    assert sorted(index for index, _ in answers) == list(range(len(envelopes)))
    return dict(answers)


def views_of(warehouse: Warehouse) -> list[str]:
    found = warehouse.query(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine = 'View'"
    )
    return [name for (name,) in found.rows]


def closest(warehouse: Warehouse) -> list[str]:
    """Every table (merged) and the views that read one, without those that read views alone: what
    is looked at after each of many stops."""
    rows = warehouse.query(
        "SELECT name, as_select FROM system.tables"
        " WHERE database = currentDatabase() AND engine = 'View'"
    ).rows
    tables = re.compile(rf"\.({'|'.join(TABLES)})\b")
    readers = [name for name, select in rows if tables.search(select)]
    assert {"call_states", "current_enriched", "calls"} <= {*readers}
    return [*(f"{table} FINAL" for table in TABLES), *readers]


def content(warehouse: Warehouse, *sources: str) -> dict[str, Any]:
    """Row count and checksum of `sources`, by default of every table (merged) and every view."""
    chosen = sources or (*(f"{table} FINAL" for table in TABLES), *views_of(warehouse))
    sums = " UNION ALL ".join(
        f"SELECT '{source}', count(), sum(cityHash64(toString(tuple(*)))) FROM {source}"
        for source in chosen
    )
    return {source: tuple(counted) for source, *counted in warehouse.query(sums).rows}


def counts(shown: Mapping[str, Any]) -> dict[str, int]:
    return {source: count for source, (count, _) in shown.items()}


def physical(warehouse: Warehouse) -> dict[str, int]:
    return counts(content(warehouse, *TABLES))


def one(warehouse: Warehouse, sql: str) -> Any:
    rows = warehouse.query(sql).rows
    assert len(rows) == 1, rows
    return rows[0][0] if len(rows[0]) == 1 else rows[0]


def test_every_example_twice_is_once(warehouse: Warehouse) -> None:
    envelopes = every_example()
    assert set(sink(warehouse, envelopes).values()) == {()}
    once, rows = content(warehouse), physical(warehouse)
    assert all(count for table, count in rows.items() if table not in ("calls_erased", "renewals"))
    sink(warehouse, envelopes)
    assert physical(warehouse) == rows
    assert content(warehouse) == once


def test_another_order_and_other_batches_show_the_same(warehouse: Warehouse) -> None:
    envelopes = every_example()
    sink(warehouse, envelopes)
    expected = content(warehouse)
    empty(warehouse)
    shuffled = random.Random(7).sample(envelopes, len(envelopes))
    for start in range(0, len(shuffled), 50):
        sink(warehouse, shuffled[start : start + 50])
    assert content(warehouse) == expected


def test_the_same_event_at_another_offset_adds_no_row(warehouse: Warehouse, topics: Topics) -> None:
    sink(warehouse, life_of(topics, HAPPY))
    once, rows = content(warehouse), physical(warehouse)
    sink(warehouse, life_of(topics, HAPPY))
    assert physical(warehouse) == rows
    for envelope in life_of(topics, HAPPY):
        sink(warehouse, [envelope])
    assert physical(warehouse) == rows
    assert content(warehouse) == once


def test_the_same_event_again_in_its_batch_adds_no_row(
    warehouse: Warehouse, topics: Topics
) -> None:
    life = life_of(topics, HAPPY)
    sink(warehouse, life)
    rows = physical(warehouse)
    empty(warehouse)
    sink(warehouse, [*life_of(topics, HAPPY), *life_of(topics, HAPPY)])
    assert physical(warehouse) == rows


def test_another_generation_or_revision_of_an_id_is_no_repeat(
    warehouse: Warehouse, topics: Topics
) -> None:
    events = [
        topics.send(HAPPY, "id"),
        topics.send(HAPPY, "id", generation=1),
        topics.send(replace(HAPPY, source_updated_at=NOON), "id"),
    ]
    sink(warehouse, events[:2])
    sink(warehouse, events)
    assert one(warehouse, "SELECT count() FROM events") == 3


def test_retries_and_dead_letters_of_one_event_are_rows_of_their_own(
    warehouse: Warehouse, topics: Topics
) -> None:
    """They carry the id of what they hold; read again from the same place they are repeats."""
    ended = topics.send(HAPPY, "ended")
    batch = [
        ended,
        *(topics.wait(ended, "ingest", "not_ready", attempt=attempt) for attempt in (1, 2)),
        *(topics.refuse(ended, stage, "refused") for stage in ("ingest", "ingest", "enrich")),
    ]
    assert {envelope.id for envelope in batch} == {"ended"}
    sink(warehouse, batch[:2])
    for _ in range(2):
        sink(warehouse, batch)
        found = warehouse.query("SELECT topic, count() FROM events GROUP BY topic")
        assert dict(found.rows) == {
            "calls.ended": 1, "calls.retry.1m": 2, "calls.dead-letter": 3}  # fmt: skip
    assert one(warehouse, "SELECT count() FROM dead_letters") == 3


def test_one_call_from_end_to_end(warehouse: Warehouse, topics: Topics) -> None:
    ended, recorded, transcribed, enriched, alert = life_of(topics, HAPPY)
    states = []
    for envelope in (ended, recorded, transcribed, enriched, alert):
        sink(warehouse, [envelope])
        states.append(one(warehouse, "SELECT state FROM calls"))
    assert states == ["ended", "stored", "transcribed", "enriched", "enriched"]
    call = warehouse.query("SELECT * FROM calls")
    shown = dict(zip(call.columns, call.rows[0], strict=True))
    assert shown["agent_id"] == "agent-7"
    assert shown["queue"] == "Support"
    assert shown["language"] == "en"
    assert shown["engine"] == "faster-whisper"
    assert shown["started_at"] == HAPPY.started_at
    assert shown["duration_ms"] == 300_000
    assert shown["turns"] == 7
    assert shown["score"] == 75.0
    assert (shown["customer_sentiment_start"], shown["customer_sentiment_end"]) == (-0.5, 0.5)
    assert (shown["topics"], shown["emotions"]) == (["refund"], ["angry"])
    assert shown["alerts"] == ["angry_refund"]
    assert one(warehouse, "SELECT calls FROM emotion_by_topic") == 1
    assert one(warehouse, "SELECT score FROM agents_daily WHERE agent_id = 'agent-7'") == 75.0
    assert one(warehouse, "SELECT calls FROM queues_daily WHERE queue = 'Support'") == 1
    assert one(warehouse, "SELECT calls FROM topics_daily WHERE topic = 'refund'") == 1
    assert one(
        warehouse,
        "SELECT groupArray((quarter, score)) FROM (SELECT * FROM emotion_course ORDER BY quarter)",
    ) == [(1, -0.5), (4, 0.5)]
    assert one(warehouse, "SELECT severity FROM call_alerts") == "HIGH"
    first = one(
        warehouse,
        "SELECT word, start_ms, end_ms, confidence FROM call_words "
        "WHERE segment_id = 0 AND word_id = 1",
    )
    assert first == ("morning", 5_300, 5_600, 0.875)


def test_a_call_is_never_seen_in_part(warehouse: Warehouse, topics: Topics) -> None:
    """Readers look after every single write: a transcript has all its segments or is not there."""
    envelopes = life_of(topics, HAPPY)

    class Watched(Writes):
        def wrote(self) -> None:
            shown = one(warehouse, "SELECT count() FROM current_transcribed")
            assert one(warehouse, "SELECT count() FROM call_segments") == 7 * shown
            shown = one(warehouse, "SELECT count() FROM current_enriched")
            assert one(warehouse, "SELECT count() FROM call_findings") == 2 * shown
            assert one(warehouse, "SELECT count() FROM call_criteria") == 3 * shown

    watched = Watched(warehouse)
    sink(watched, envelopes)
    assert watched.count > 10


class Writes:
    """A warehouse that is looked at after each write."""

    def __init__(self, inner: Tables) -> None:
        self._inner = inner
        self.count = 0

    def insert(self, table: str, columns: Sequence[str], data: Sequence[Sequence[Any]]) -> None:
        self._inner.insert(table, columns, data)
        self.count += 1
        self.wrote()

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Result:
        return self._inner.query(sql, parameters)

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        self._inner.command(sql, parameters)
        self.count += 1
        self.wrote()

    def wrote(self) -> None:
        """After a write."""


class Crash(BaseException):
    """The process is gone."""


class StopsAfter(Writes):
    def __init__(self, inner: Tables, writes: int) -> None:
        super().__init__(inner)
        self._writes = writes

    def wrote(self) -> None:
        if self.count == self._writes:
            raise Crash


def lives(topics: Topics) -> list[Envelope[Any]]:
    """Two calls of which one is erased and handed in again, all in one batch."""
    other = replace(HAPPY, call_id="other", event_id="other")
    erased_at = NOON + timedelta(hours=1)
    again = replace(HAPPY, published_at=NOON + timedelta(hours=2))
    waiting = topics.wait(topics.send(other, "other"), "ingest", "not_ready")
    erasure = e.CallErased(
        tenant_id="acme", call_id="happy", erased_at=erased_at, requested_by="operator"
    )
    return [
        *life_of(topics, other),
        *life_of(topics, HAPPY),
        waiting,
        topics.refuse(waiting, "ingest", "gone"),
        topics.send(erasure, "erasure", time=erased_at),
        *life_of(topics, again, prefix="again/", time=NOON + timedelta(hours=2)),
    ]


def test_batches_stored_at_once_leave_what_one_after_the_other_leaves(
    warehouse: Warehouse, topics: Topics
) -> None:
    """Repeats and an erasure among them, in whatever way they fall together."""
    seed = int(os.environ.get("CALLSTREAM_TEST_SEED", random.randrange(1 << 32)))
    print(f"seed {seed}: repeat with CALLSTREAM_TEST_SEED={seed}")
    chance = random.Random(seed)
    calls = [replace(HAPPY, call_id=f"c{number}") for number in range(4)]
    events = [event for call in calls for event in life_of(topics, call)]
    gone = replace(EXAMPLES["CallErased"]["asked"], call_id="c0", erased_at=NOON)
    erasure = topics.send(gone, "erased", time=NOON + timedelta(days=1))
    again = [
        topics.read(topics.message(m.topic, m.key, m.value, m.headers))
        for m in (event.message for event in events)
    ]
    sink(warehouse, [*events, erasure])
    views = views_of(warehouse)
    alone = content(warehouse, *views)
    for _ in range(4):
        empty(warehouse)
        pile = [*events, erasure, *again]
        chance.shuffle(pile)
        cuts = sorted(chance.sample(range(1, len(pile)), 5))
        parts = [pile[a:b] for a, b in zip([0, *cuts], [*cuts, len(pile)], strict=True)]
        handle = stage(SinkSettings(), warehouse).handle

        def store(part: Sequence[Envelope[Any]], handle: Handle = handle) -> None:
            while True:
                try:
                    assert {outcome for _, outcome in handle(part)} == {()}
                    return
                except Transient as meanwhile:  # the loop comes again, too
                    if meanwhile.reason != "erased_meanwhile":
                        raise

        with ThreadPoolExecutor(3) as threads:
            list(threads.map(store, parts))
        assert content(warehouse, *views) == alone, f"cuts {cuts}"


def test_stopped_after_any_insert_and_run_again_is_one_clean_run(
    warehouse: Warehouse, topics: Topics
) -> None:
    batch = [*life_of(topics, HAPPY), *life_of(topics, replace(HAPPY, call_id="other"))]
    counting = Writes(warehouse)
    sink(counting, batch)
    expected, close = content(warehouse), closest(warehouse)
    assert counting.count > 10
    for writes in points(counting.count):
        empty(warehouse)
        with pytest.raises(Crash):
            sink(StopsAfter(warehouse, writes), batch)
        sink(warehouse, batch)
        shown = content(warehouse, *close)
        assert shown == {source: expected[source] for source in close}, f"stopped after {writes}"
    assert content(warehouse) == expected


def test_rows_that_the_engine_lost_in_a_crash_come_with_the_retry(
    warehouse: Warehouse, topics: Topics
) -> None:
    """It knows of an insert before the rows are there; see `test_engine_contract`."""
    batch = life_of(topics, HAPPY)
    counting = Writes(warehouse)
    sink(counting, batch)
    expected = content(warehouse)
    empty(warehouse)
    with pytest.raises(Crash):
        sink(StopsAfter(warehouse, counting.count - 1), batch)
    for table in ("segments", "calls_enriched"):
        warehouse.command(f"ALTER TABLE {table} DELETE WHERE 1")
    sink(warehouse, batch)
    assert content(warehouse) == expected


def test_stopped_and_run_again_in_other_batches_is_one_clean_run(
    warehouse: Warehouse, topics: Topics
) -> None:
    batch = [*life_of(topics, HAPPY), *life_of(topics, replace(HAPPY, call_id="other"))]
    sink(warehouse, batch)
    expected = content(warehouse)
    for writes in (5, 13):
        empty(warehouse)
        with pytest.raises(Crash):
            sink(StopsAfter(warehouse, writes), batch)
        for start in range(0, len(batch), 4):
            sink(warehouse, batch[start : start + 4])
        assert physical(warehouse) != counts(expected)
        assert content(warehouse) == expected


@pytest.mark.slow
def test_stopped_after_any_write_of_an_erasure_and_run_again_is_one_clean_run(
    warehouse: Warehouse, topics: Topics
) -> None:
    before = life_of(topics, HAPPY, prefix="before/")
    batch = lives(topics)
    sink(warehouse, before)
    counting = Writes(warehouse)
    sink(counting, batch)
    expected, close = content(warehouse), closest(warehouse)
    assert counting.count > 20
    for writes in points(counting.count):
        empty(warehouse)
        sink(warehouse, before)
        with pytest.raises(Crash):
            sink(StopsAfter(warehouse, writes), batch)
        sink(warehouse, batch)
        shown = content(warehouse, *close)
        assert shown == {source: expected[source] for source in close}, f"stopped after {writes}"
    assert content(warehouse) == expected


def test_an_amendment_supersedes_in_either_order(warehouse: Warehouse, topics: Topics) -> None:
    amended = replace(
        HAPPY, source_updated_at=NOON, queue=e.Queue(id="sales", name="Sales"), event_id="amended"
    )
    old, new = life_of(topics, HAPPY), life_of(topics, amended, prefix="amended/")
    for order in ((*old, *new), (*new, *old)):
        empty(warehouse)
        for envelope in order:
            sink(warehouse, [envelope])
        assert one(warehouse, "SELECT queue FROM calls") == "Sales"
        assert one(warehouse, "SELECT uniqExact(transcript_id) FROM call_segments") == 1
        assert one(warehouse, "SELECT any(transcript_id) FROM call_segments").startswith("amended")
        assert one(warehouse, "SELECT count() FROM call_findings") == 2
        assert one(warehouse, "SELECT count() FROM call_alerts") == 1


def better(topics: Topics, *, generation: int, shadow: bool = False) -> Envelope[Any]:
    transcript = replace(
        EXAMPLES["CallTranscribed"]["happy"],
        engine=replace(EXAMPLES["CallTranscribed"]["happy"].engine, model="large-v3"),
    )
    id = f"transcribed/{generation}"
    return topics.send(transcript, id, generation=generation, shadow=shadow)


def decision(
    topics: Topics, generation: int, made: e.Decision, *, minutes: int = 0
) -> Envelope[Any]:
    decided = e.GenerationDecided(
        tenant_id="acme", generation=generation, decision=made, decided_by="operator",
        decided_at=NOON + timedelta(minutes=minutes),
    )  # fmt: skip
    return topics.send(decided, f"decided/{generation}/{minutes}")


def test_a_replayed_generation_supersedes(warehouse: Warehouse, topics: Topics) -> None:
    sink(warehouse, [better(topics, generation=1), *life_of(topics, HAPPY)])
    assert one(warehouse, "SELECT model FROM calls") == "large-v3"
    assert one(warehouse, "SELECT count() FROM segments") == 14
    assert one(warehouse, "SELECT count() FROM call_segments") == 7


def test_a_newer_revision_goes_before_a_replay_of_an_older_one(
    warehouse: Warehouse, topics: Topics
) -> None:
    newer = replace(HAPPY, source_updated_at=HAPPY.occurred_at + timedelta(hours=1))
    sink(warehouse, [*life_of(topics, HAPPY), better(topics, generation=5)])
    assert one(warehouse, "SELECT model FROM calls") == "large-v3"
    sink(warehouse, life_of(topics, newer, prefix="newer/"))
    assert one(warehouse, "SELECT model FROM calls") == "small"


def test_a_shadow_is_shown_by_no_view_until_it_is_promoted(
    warehouse: Warehouse, topics: Topics
) -> None:
    sink(warehouse, life_of(topics, HAPPY))
    shown = [view for view in views_of(warehouse) if view != "shadow_generations"]
    before = content(warehouse, *shown)
    # Whatever comes first, its transcript or the request for it.
    asked = replace(EXAMPLES["ReplayRequested"]["bytes-inside"], generation=2, shadow=True)
    sink(warehouse, [better(topics, generation=2, shadow=True)])
    assert content(warehouse, *shown) == before
    sink(warehouse, [topics.send(asked, "asked")])
    assert content(warehouse, *shown) == before
    assert one(warehouse, "SELECT count() FROM calls_transcribed") == 2
    sink(warehouse, [decision(topics, 2, e.Decision.PROMOTED)])
    assert one(warehouse, "SELECT model FROM calls") == "large-v3"
    sink(warehouse, [decision(topics, 2, e.Decision.DISCARDED, minutes=1)])
    assert content(warehouse, *shown) == before


FINDINGS = (
    "SELECT count() FROM current_enriched AS n JOIN current_transcribed AS t "
    "ON n.tenant_id = t.tenant_id AND n.call_id = t.call_id AND n.transcript_id = t.event_id"
)


def enriched(
    topics: Topics, of: Envelope[e.CallTranscribed], like: e.CallEnriched, id: str, *,
    generation: int, shadow: bool = False,
) -> Envelope[e.CallEnriched]:  # fmt: skip
    event = replace(like, transcript_id=of.id)
    return topics.send(event, id, generation=generation, shadow=shadow, causation_id=of.id)


def test_findings_quote_the_transcript_that_is_shown(warehouse: Warehouse, topics: Topics) -> None:
    life = life_of(topics, HAPPY)
    shown, like = life[2], life[3].event
    shadow = better(topics, generation=2, shadow=True)
    sink(warehouse, [*life, enriched(topics, shown, like, "enriched/0", generation=0)])
    sink(
        warehouse, [shadow, enriched(topics, shadow, like, "enriched/2", generation=2, shadow=True)]
    )
    # Other rules over the transcript of today, while the shadow is looked at.
    sink(warehouse, [enriched(topics, shown, like, "enriched/3", generation=3)])
    current = "SELECT event_id FROM current_enriched"
    assert one(warehouse, current) == "enriched/3"
    sink(warehouse, [decision(topics, 2, e.Decision.PROMOTED)])
    assert one(warehouse, current) == "enriched/2"
    assert one(warehouse, FINDINGS) == 1
    sink(warehouse, [enriched(topics, shadow, like, "enriched/4", generation=4)])
    assert one(warehouse, current) == "enriched/4"
    sink(warehouse, [decision(topics, 2, e.Decision.DISCARDED, minutes=1)])
    assert one(warehouse, current) == "enriched/3"
    assert one(warehouse, FINDINGS) == 1


def test_a_transcript_that_is_not_enriched_yet_takes_no_findings_away(
    warehouse: Warehouse, topics: Topics
) -> None:
    sink(warehouse, life_of(topics, HAPPY))
    sink(warehouse, [better(topics, generation=1)])
    assert one(warehouse, "SELECT state FROM calls") == "enriched"
    assert one(warehouse, "SELECT count() FROM current_enriched") == 1


def test_what_says_shadow_of_a_live_call_is_not_believed(
    warehouse: Warehouse, topics: Topics
) -> None:
    sink(warehouse, [better(topics, generation=0, shadow=True), *life_of(topics, HAPPY)])
    assert one(warehouse, "SELECT count() FROM shadow_generations") == 0
    assert one(warehouse, "SELECT state FROM calls") == "enriched"


def test_a_replay_that_fails_leaves_the_call_as_it_was(
    warehouse: Warehouse, topics: Topics
) -> None:
    sink(warehouse, life_of(topics, HAPPY))
    before = content(warehouse, "calls", "call_states")
    asked = topics.send(EXAMPLES["ReplayRequested"]["bytes-inside"], "asked")
    waiting = topics.wait(asked, "transcribe", "no_model")
    sink(warehouse, [asked, waiting, topics.refuse(asked, "transcribe", "unknown_option")])
    assert content(warehouse, "calls", "call_states") == before
    assert one(warehouse, "SELECT reason FROM dead_letters") == "unknown_option"


def test_an_alert_that_a_replay_no_longer_raises_is_shown_no_more(
    warehouse: Warehouse, topics: Topics
) -> None:
    life = life_of(topics, HAPPY)
    sink(warehouse, life)
    assert one(warehouse, "SELECT count() FROM call_alerts") == 1
    calm = replace(life[3].event, alerts=[])
    sink(warehouse, [topics.send(calm, "calm", generation=3)])
    assert one(warehouse, "SELECT count() FROM call_alerts") == 0
    assert one(warehouse, "SELECT count() FROM alerts") == 1


def test_rows_are_made_again_and_are_the_same(warehouse: Warehouse, topics: Topics) -> None:
    life = life_of(topics, HAPPY)
    sink(warehouse, life)
    kept = [t for t in TABLES if t not in ("events", "stage_states", "replays")]
    before = content(warehouse, *(f"{table} FINAL" for table in kept), "calls", "call_segments")
    # As a table is that a later version of the sink fills in another way.
    for table in ("segments", "metrics", "calls_enriched"):
        warehouse.command(f"TRUNCATE TABLE {table}")
    for number in range(2):
        sink(
            warehouse,
            [
                topics.replay(event, f"again/{number}/{at}", generation=7 + number)
                for at, event in enumerate(life)
            ],
        )
        shown = content(warehouse, *(f"{table} FINAL" for table in kept), "calls", "call_segments")
        assert shown == before
    done = "SELECT count() FROM stage_states FINAL WHERE stage = 'sink' AND generation = 8"
    assert one(warehouse, done) == len(life)


def test_what_is_erased_is_not_made_again(warehouse: Warehouse, topics: Topics) -> None:
    life = life_of(topics, HAPPY)
    erasure = EXAMPLES["CallErased"]["asked"]
    sink(warehouse, life)
    sink(warehouse, [topics.send(erasure, "erased", time=NOON + timedelta(days=9))])
    sink(warehouse, [topics.replay(life[2], "again")])
    assert one(warehouse, "SELECT count() FROM segments") == 0


@pytest.mark.parametrize("to", ["sink", "enrich"])
def test_a_replay_brings_nothing_of_an_erased_call_back(
    warehouse: Warehouse, topics: Topics, to: str
) -> None:
    life = life_of(topics, HAPPY)
    sink(warehouse, [*life, erasure(topics, NOON + timedelta(hours=1))])
    merged = [f"{table} FINAL" for table in TABLES]
    before = counts(content(warehouse, *merged))
    request = topics.replay(life[2], "again", time=NOON + timedelta(hours=2), stage=to)
    sink(warehouse, [request])
    sink(warehouse, [request])
    refused = "SELECT input_id, reason FROM stage_states FINAL WHERE state = 'refused'"
    told = warehouse.query(f"{refused} AND stage = 'sink' AND generation = 7").rows
    assert [tuple(row) for row in told] == ([(life[2].id, "erased")] if to == "sink" else [])
    more = {"stage_states FINAL": before["stage_states FINAL"] + len(told)}
    assert counts(content(warehouse, *merged)) == before | more
    # Handed in again after the erasure it is a call like any other.
    later = NOON + timedelta(hours=3)
    second = life_of(topics, replace(HAPPY, published_at=later), time=later)
    sink(warehouse, second)
    sink(warehouse, [topics.replay(second[2], "once more", time=later, stage=to)])
    assert one(warehouse, "SELECT count() FROM replays") == 1


def test_a_request_to_the_sink_that_cannot_be_read_is_refused(
    warehouse: Warehouse, topics: Topics
) -> None:
    request = topics.replay(life_of(topics, HAPPY)[2], "again")
    named = (h.REPLAY_STAGE, b"sink")
    message = replace(request.message, headers=(*request.message.headers, named))
    sink(warehouse, [topics.codec.undecodable(message, Invalid("not_avro", "its input is none"))])
    assert one(
        warehouse,
        "SELECT stage, input_id, state, generation, reason, detail FROM stage_states",
    ) == ("sink", "again", "refused", 7, "not_avro", "its input is none")
    assert one(warehouse, "SELECT count() FROM call_states WHERE state = 'refused'") == 0


@pytest.mark.parametrize("writes", [1, 3])
def test_an_erasure_while_rows_are_made_again_is_noticed(
    warehouse: Warehouse, topics: Topics, writes: int
) -> None:
    gone = erasure(topics, NOON + timedelta(hours=1))
    life = life_of(topics, HAPPY)
    sink(warehouse, life)

    class Meanwhile(Writes):
        def wrote(self) -> None:
            if self.count == writes:
                sink(warehouse, [gone])

    requests = [topics.replay(event, f"again/{at}") for at, event in enumerate(life)]
    remake(Meanwhile(warehouse), requests)
    assert one(warehouse, "SELECT count() FROM calls") == 0
    assert one(warehouse, "SELECT count() FROM segments") == 0
    assert one(warehouse, "SELECT count() FROM stage_states WHERE state != 'erased'") == 0


def test_waiting_refused_and_done(warehouse: Warehouse, topics: Topics) -> None:
    ended, recorded, transcribed, *_ = life_of(topics, HAPPY)
    sink(warehouse, [ended, topics.wait(ended, "ingest", "not_ready", detail="404 from the host")])
    assert one(warehouse, "SELECT state, state_reason FROM calls") == (
        "waiting", "ingest: not_ready")  # fmt: skip
    assert one(warehouse, "SELECT due_at FROM calls") == NOON + timedelta(minutes=1)
    assert one(warehouse, "SELECT detail FROM call_states") == "404 from the host"
    later = NOON + timedelta(minutes=2)
    done = topics.send(recorded.event, "recorded", time=later, causation_id=ended.id)
    sink(warehouse, [done])
    assert one(warehouse, "SELECT state, state_reason, due_at FROM calls") == ("stored", "", None)
    sink(warehouse, [topics.refuse(done, "transcribe", "corrupt_audio", time=later)])
    assert one(warehouse, "SELECT state, state_reason FROM calls") == (
        "failed", "transcribe: corrupt_audio")  # fmt: skip
    assert one(warehouse, "SELECT state FROM call_states WHERE stage = 'transcribe'") == "refused"
    letter = warehouse.query("SELECT * FROM dead_letters")
    shown = dict(zip(letter.columns, letter.rows[0], strict=True))
    assert (shown["stage"], shown["reason"]) == ("transcribe", "corrupt_audio")
    assert (shown["source_topic"], shown["call_id"]) == ("calls.recorded", "happy")
    replayed = topics.send(transcribed.event, "again", generation=1, causation_id=done.id)
    sink(warehouse, [replayed])
    assert one(warehouse, "SELECT state FROM calls") == "transcribed"


def test_a_redriven_letter_waits_and_a_dropped_one_stays_failed(
    warehouse: Warehouse, topics: Topics
) -> None:
    minutes = [NOON + timedelta(minutes=number) for number in range(6)]
    ended, recorded = topics.send(HAPPY, "ended"), EXAMPLES["CallRecorded"]["happy"]
    letter = topics.refuse(ended, "ingest", "not_audio")
    sink(warehouse, [ended, letter])
    assert one(warehouse, "SELECT id FROM dead_letters") == f"0-{letter.message.offset}"

    again = topics.wait(ended, "ingest", "redriven", time=minutes[1], attempt=0)
    sink(warehouse, [topics.settle(letter, "redriven", time=minutes[1]), again])
    assert one(warehouse, "SELECT count() FROM dead_letters") == 0
    assert one(warehouse, "SELECT state, state_reason FROM calls") == (
        "waiting", "ingest: redriven")  # fmt: skip

    second = topics.refuse(ended, "ingest", "not_audio", time=minutes[2])
    sink(warehouse, [second])
    assert one(warehouse, "SELECT id FROM dead_letters") == f"0-{second.message.offset}"
    assert one(warehouse, "SELECT state FROM calls") == "failed"

    sink(warehouse, [topics.settle(second, "dropped", time=minutes[5])])
    assert one(warehouse, "SELECT count() FROM dead_letters") == 0
    assert one(warehouse, "SELECT state, state_reason FROM calls") == (
        "failed", "ingest: dropped: not_audio")  # fmt: skip
    assert one(warehouse, "SELECT state, since FROM call_states") == ("dropped", minutes[2])

    done = topics.send(recorded, "recorded", time=minutes[4], causation_id="ended")
    sink(warehouse, [done])
    assert one(warehouse, "SELECT state FROM calls") == "stored", "what came since counts"


def test_an_event_that_is_made_anew_ends_what_failed_in_between(
    warehouse: Warehouse, topics: Topics
) -> None:
    """Its id is the same, so that it is a repeat; that its stage is done is news."""
    minutes = [NOON + timedelta(minutes=number) for number in range(5)]
    life = life_of(topics, HAPPY)
    transcribed, enriched = life[2], life[3].event
    letter = topics.refuse(transcribed, "enrich", "no_rules", time=minutes[1])
    waits = topics.wait(transcribed, "enrich", "redriven", time=minutes[2], attempt=0)

    def anew(time: datetime) -> Envelope[Any]:
        return topics.send(enriched, life[3].id, time=time, causation_id=transcribed.id)

    first, second = anew(minutes[0]), anew(minutes[3])
    orders = ([[first], [letter], [waits], [second]], [[first], [second], [letter, waits]],
              [[first, letter, waits, second]])  # fmt: skip
    for batches in orders:
        empty(warehouse)
        for batch in ([*life[:3]], *batches):
            sink(warehouse, batch)
        assert one(warehouse, "SELECT state FROM calls") == "enriched"
        assert one(warehouse, "SELECT state, since FROM call_states WHERE stage = 'enrich'") == (
            "done", minutes[3])  # fmt: skip
        assert one(warehouse, "SELECT count() FROM calls_enriched") == 1
        rows = physical(warehouse)
        for time in (minutes[3], minutes[2]):
            sink(warehouse, [anew(time)])
        assert physical(warehouse) == rows
    sink(warehouse, [topics.wait(transcribed, "enrich", "again", time=minutes[4], attempt=1)])
    assert one(warehouse, "SELECT state FROM calls") == "waiting"


def test_what_waited_for_the_sink_is_archived_and_stored(
    warehouse: Warehouse, topics: Topics
) -> None:
    life = life_of(topics, HAPPY)
    enriched = life[3]
    later = NOON + timedelta(minutes=2)
    letter = topics.refuse(enriched, "sink", "unexpected", error="builtins.ValueError")
    sink(warehouse, [*life[:3], letter])
    assert one(warehouse, "SELECT state, reason FROM call_states WHERE stage = 'sink'") == (
        "failed", "unexpected")  # fmt: skip
    waited = topics.wait(letter, "sink", "redriven", time=later, attempt=0)
    named = ((h.RETRY_PARTITION, b"0"), (h.RETRY_OFFSET, b"%d" % enriched.message.offset))
    headers = tuple(
        (name, b"calls.enriched" if name == h.RETRY_TOPIC else value)
        for name, value in waited.message.headers
    )
    tier = replace(waited.message, headers=(*headers, *named))
    handed = replace(enriched, message=tier)  # decoded as what it was, read from the tier
    assert sink(warehouse, [handed]) == {0: ()}
    assert one(warehouse, "SELECT state FROM calls") == "enriched"
    assert one(warehouse, "SELECT count() FROM call_findings") == 2
    assert one(warehouse, "SELECT state, since FROM call_states WHERE stage = 'sink'") == (
        "done", later)  # fmt: skip
    assert one(warehouse, "SELECT place FROM events WHERE topic = 'calls.retry.1m'") == "0-0"
    assert one(
        warehouse, "SELECT type, partition, offset FROM events WHERE topic = 'calls.enriched'"
    ) == ("CallEnriched", 0, enriched.message.offset)
    rows = physical(warehouse)
    sink(warehouse, [handed])
    sink(warehouse, [enriched])
    assert physical(warehouse) == rows


def test_that_the_sink_is_done_does_not_hide_a_stage_that_failed(
    warehouse: Warehouse, topics: Topics
) -> None:
    ended = topics.send(HAPPY, "ended")
    waited = topics.wait(ended, "sink", "redriven", time=NOON + timedelta(minutes=1))
    sink(warehouse, [replace(ended, message=waited.message)])
    sink(warehouse, [topics.refuse(ended, "ingest", "not_audio")])
    assert one(warehouse, "SELECT state, state_reason FROM calls") == (
        "failed", "ingest: not_audio")  # fmt: skip


def test_bytes_that_waited_for_the_sink_are_archived_where_they_first_stood(
    warehouse: Warehouse, topics: Topics
) -> None:
    added = ((h.RETRY_STAGE, b"sink"), (h.RETRY_TOPIC, b"calls.ended"),
             (h.RETRY_PARTITION, b"3"), (h.RETRY_OFFSET, b"7"))  # fmt: skip
    tier = topics.message("calls.retry.1m", b"acme/happy", b"no event", added)
    problem = Invalid("not_framed", "no event")
    sink(warehouse, [topics.codec.undecodable(tier, problem)])
    found = warehouse.query("SELECT topic, place, problem_reason FROM events ORDER BY topic").rows
    assert [tuple(row) for row in found] == [
        ("calls.ended", "3-7", "not_framed"), ("calls.retry.1m", "0-0", "")]  # fmt: skip


def test_an_unexpected_failure_is_failed_not_refused(warehouse: Warehouse, topics: Topics) -> None:
    ended = topics.send(HAPPY, "ended")
    letter = topics.refuse(ended, "ingest", "unexpected", error="builtins.ZeroDivisionError")
    sink(warehouse, [letter])
    assert one(warehouse, "SELECT state, reason FROM call_states") == ("failed", "unexpected")


def test_an_old_revision_that_fails_later_does_not_hide_a_newer_that_is_done(
    warehouse: Warehouse, topics: Topics
) -> None:
    amended = replace(HAPPY, source_updated_at=NOON, event_id="amended")
    old = topics.send(HAPPY, "old")
    waits = topics.wait(old, "ingest", "not_ready", time=NOON + timedelta(hours=3))
    sink(warehouse, [old, *life_of(topics, amended)[:2], waits])
    assert one(warehouse, "SELECT state FROM calls") == "stored"


def test_a_call_without_recording_says_why(warehouse: Warehouse, topics: Topics) -> None:
    sink(warehouse, [topics.send(EXAMPLES["CallEnded"]["recording-absent"], "absent")])
    assert one(warehouse, "SELECT state, state_reason FROM calls") == (
        "no_recording", "absent-r1: ABSENT (not recorded)")  # fmt: skip
    refused = replace(
        EXAMPLES["CallRecorded"]["happy"], recordings=[],
        refused=[e.RefusedRecording(recording_id="r", reason="not_audio")],
    )  # fmt: skip
    empty(warehouse)
    sink(warehouse, [topics.send(HAPPY, "ended"), topics.send(refused, "recorded")])
    assert one(warehouse, "SELECT state, state_reason FROM calls") == ("no_recording", "not_audio")


def test_what_cannot_be_decoded_is_archived_byte_for_byte(
    warehouse: Warehouse, topics: Topics
) -> None:
    hostile = b"\0\xff' \\ \n\t`$"
    headers = (("x", hostile), ("x", b"second"), ("empty", b""))
    read = topics.read(topics.message("calls.ended", b"\xff/\xfe", hostile, headers))
    tombstone = topics.read(topics.message("calls.erased", None, None, ()))
    assert read.problem is not None
    assert set(sink(warehouse, [read, tombstone]).values()) == {()}
    found = warehouse.query(
        "SELECT key, value, header_values, problem_reason FROM events ORDER BY topic",
        formats={"key": "bytes", "value": "bytes", "header_values": "bytes"},
    ).rows
    assert tuple(found[0][:3]) == (b"\xff/\xfe", hostile, [hostile, b"second", b""])
    assert found[0][3] == "unknown_schema_id"
    assert (found[1][0], found[1][1]) == (None, None)


def test_a_bad_event_does_not_fail_its_batch(warehouse: Warehouse, topics: Topics) -> None:
    good = life_of(topics, HAPPY)
    unknown = replace(good[0], event=e.Metric(name="x", value=1.0, role=None))
    alert = topics.send(EXAMPLES["AlertRaised"]["angry-refund"], "huge")
    huge = replace(alert, event=replace(alert.event, revision=1 << 70))
    batch = [good[0], unknown, *good[1:3], huge, *good[3:]]
    outcomes = sink(warehouse, batch)
    failed = {index for index, outcome in outcomes.items() if outcome != ()}
    assert failed == {1, 4}
    assert isinstance(outcomes[1], Invalid)
    assert one(warehouse, "SELECT state FROM calls") == "enriched"
    assert one(warehouse, "SELECT count() FROM events FINAL") == len(good)


def test_an_outage_is_transient_for_the_whole_batch(warehouse: Warehouse, topics: Topics) -> None:
    class Down(Writes):
        def wrote(self) -> None:
            if self.count == 3:
                raise Transient("warehouse_down", "no answer")

    envelopes = life_of(topics, HAPPY)
    with pytest.raises(Transient):
        sink(Down(warehouse), envelopes)
    sink(warehouse, envelopes)
    assert one(warehouse, "SELECT state FROM calls") == "enriched"


def test_the_same_sink_goes_on_after_an_outage_at_any_write(
    warehouse: Warehouse, topics: Topics
) -> None:
    """What it remembers of the archive does not outlive a batch that failed."""

    class Stumbling(Writes):
        stumble_at = 0

        def wrote(self) -> None:
            if self.count == self.stumble_at:
                raise Transient("warehouse_down", "no answer")

    batch = life_of(topics, HAPPY)
    counting = Writes(warehouse)
    sink(counting, batch)
    expected = content(warehouse)
    for writes in (1, counting.count // 2, counting.count):
        empty(warehouse)
        stumbling = Stumbling(warehouse)
        stumbling.stumble_at = writes
        handle = stage(SinkSettings(), stumbling).handle
        with pytest.raises(Transient):
            list(handle(batch))
        assert [outcome for _, outcome in handle(batch)] == [()] * len(batch)
        assert content(warehouse) == expected


def test_a_partition_that_comes_back_is_asked_about_again(
    warehouse: Warehouse, topics: Topics
) -> None:
    """While it was away another sink stored what this one is given now."""
    before, *rest = life_of(topics, HAPPY)
    handle = stage(SinkSettings(), warehouse).handle
    list(handle([before]))
    other = stage(SinkSettings(), warehouse).handle
    list(other(rest))
    rows = physical(warehouse)
    back = [replace(it, message=replace(it.message, lease=1)) for it in (before, *rest)]
    for envelope in back:
        list(handle([envelope]))
    assert physical(warehouse) == rows


def erasure(topics: Topics, at: datetime, id: str = "erasure") -> Envelope[Any]:
    event = e.CallErased(tenant_id="acme", call_id="happy", erased_at=at, requested_by="operator",
                         reason="the customer asked")  # fmt: skip
    return topics.send(event, id, time=at)


def test_an_erased_call_is_gone_everywhere_but_for_the_fact(
    warehouse: Warehouse, topics: Topics
) -> None:
    other = replace(HAPPY, call_id="other")
    waits = topics.wait(topics.send(HAPPY, "first"), "ingest", "not_ready")
    sink(warehouse, [*life_of(topics, HAPPY), *life_of(topics, other), waits])
    sink(warehouse, [erasure(topics, NOON + timedelta(hours=1))])
    left = {
        table: one(warehouse, f"SELECT count() FROM {table} WHERE call_id = 'happy'")
        for table, columns in TABLES.items()
        if "call_id" in columns
    }
    assert {table: count for table, count in left.items() if count} == {
        "events": 1, "stage_states": 1, "calls_erased": 1}  # fmt: skip
    assert one(warehouse, "SELECT state, reason FROM call_states WHERE call_id = 'happy'") == (
        "erased", "the customer asked")  # fmt: skip
    assert one(warehouse, "SELECT call_id FROM calls") == "other"


def test_one_request_may_erase_several_calls(warehouse: Warehouse, topics: Topics) -> None:
    calls = [HAPPY, replace(HAPPY, call_id="other"), replace(HAPPY, tenant_id="other-co")]
    gone = [
        topics.send(
            e.CallErased(
                tenant_id=call.tenant_id, call_id=call.call_id, requested_by="operator",
                erased_at=NOON + timedelta(hours=1),
            ),
            "request-1",
        )
        for call in calls
    ]  # fmt: skip
    for batches in ([gone], [[each] for each in gone]):
        empty(warehouse)
        sink(warehouse, [envelope for call in calls for envelope in life_of(topics, call)])
        assert one(warehouse, "SELECT count() FROM calls") == 3
        for batch in batches:
            sink(warehouse, batch)
        assert counts(content(warehouse, "calls", "segments")) == {"calls": 0, "segments": 0}
        assert one(warehouse, "SELECT count() FROM calls_erased") == 3


def test_a_call_can_be_erased_again_under_the_same_id(warehouse: Warehouse, topics: Topics) -> None:
    later = NOON + timedelta(hours=2)
    last = later + timedelta(hours=1)
    sink(warehouse, life_of(topics, HAPPY))
    sink(warehouse, [erasure(topics, NOON + timedelta(hours=1))])
    sink(warehouse, life_of(topics, replace(HAPPY, published_at=later), time=later))
    assert one(warehouse, "SELECT count() FROM calls") == 1
    sink(warehouse, [erasure(topics, last)])
    assert counts(content(warehouse, "calls", "segments")) == {"calls": 0, "segments": 0}
    sink(warehouse, [erasure(topics, NOON)])
    assert one(warehouse, "SELECT erased_at FROM calls_erased FINAL") == last


def test_tenants_may_use_the_same_ids(warehouse: Warehouse, topics: Topics) -> None:
    """Equal but for tenant or call, revision included."""
    for call in (HAPPY, replace(HAPPY, tenant_id="other-co"), replace(HAPPY, call_id="other")):
        sink(warehouse, [topics.send(call, "1")])
    for source in ("calls", "events FINAL"):
        found = warehouse.query(f"SELECT tenant_id, call_id FROM {source} ORDER BY ALL").rows
        assert [tuple(row) for row in found] == [
            ("acme", "happy"), ("acme", "other"), ("other-co", "happy")]  # fmt: skip


def test_an_erasure_does_not_spare_what_another_call_renewed_under_the_same_id(
    warehouse: Warehouse, topics: Topics
) -> None:
    later = NOON + timedelta(hours=2)
    other = replace(HAPPY, call_id="other")
    for call in (HAPPY, other, replace(other, published_at=later)):
        time = later if call.published_at == later else NOON
        sink(warehouse, [topics.send(call, "1", time=time)])
    at = NOON + timedelta(hours=1)
    gone = [erasure(topics, at), topics.send(
        e.CallErased(tenant_id="acme", call_id="other", erased_at=at, requested_by="operator"), "2",
    )]  # fmt: skip
    sink(warehouse, gone)
    assert one(warehouse, "SELECT call_id FROM calls") == "other"


def test_what_was_under_way_when_its_call_was_erased_stays_out(
    warehouse: Warehouse, topics: Topics
) -> None:
    ended, *derived = life_of(topics, HAPPY)
    sink(warehouse, [ended])
    sink(warehouse, [erasure(topics, NOON + timedelta(hours=1))])
    late = [
        topics.send(it.event, f"late/{it.id}", time=NOON + timedelta(hours=2))
        for it in derived
        if not isinstance(it.event, e.AlertRaised)
    ]
    assert set(sink(warehouse, late).values()) == {()}
    assert one(warehouse, "SELECT count() FROM segments") == 0
    assert one(warehouse, "SELECT count() FROM events") == 1


def test_an_erasure_read_before_what_it_erases(warehouse: Warehouse, topics: Topics) -> None:
    gone = life_of(topics, HAPPY)
    sink(warehouse, [erasure(topics, NOON + timedelta(hours=1))])
    sink(warehouse, gone)
    assert counts(content(warehouse, "calls", "segments")) == {"calls": 0, "segments": 0}


def test_an_erased_call_handed_in_again_with_the_same_ids_shows_again(
    warehouse: Warehouse, topics: Topics
) -> None:
    life = life_of(topics, HAPPY)
    for envelope in life:
        sink(warehouse, [envelope])
    gone = erasure(topics, NOON + timedelta(hours=1))
    sink(warehouse, [gone])
    later = NOON + timedelta(hours=2)
    for envelope in life_of(topics, replace(HAPPY, published_at=later), time=later):
        sink(warehouse, [envelope])
    assert one(warehouse, "SELECT state, turns, length(alerts) FROM calls") == ("enriched", 7, 1)
    sink(warehouse, [gone])  # read again: it is over, and takes nothing of the new life
    assert one(warehouse, "SELECT count() FROM call_segments") == 7


def test_a_call_handed_in_again_outlives_an_erasure_that_is_read_late(
    warehouse: Warehouse, topics: Topics
) -> None:
    """Topics are not read in step: the second life may be here before the erasure of the first."""
    first = life_of(topics, HAPPY)
    later = NOON + timedelta(hours=2)
    second = life_of(topics, replace(HAPPY, published_at=later), time=later)
    gone = erasure(topics, NOON + timedelta(hours=1))
    for batches in ([first, second, [gone]], [[*first, *second], [gone]],
                    [[*second, *first], [gone]], [[*first, gone, *second]]):  # fmt: skip
        empty(warehouse)
        for batch in batches:
            sink(warehouse, batch)
        assert one(warehouse, "SELECT state, turns FROM calls") == ("enriched", 7)
        assert one(warehouse, "SELECT count() FROM call_segments") == 7
        assert one(warehouse, "SELECT count() FROM call_states WHERE state = 'done'") == 3
    empty(warehouse)
    for batch in (first, second, [gone], [erasure(topics, later + timedelta(hours=1), "last")]):
        sink(warehouse, batch)
    left = {table: count for table, count in physical(warehouse).items() if count}
    assert left == {"events": 2, "stage_states": 2, "calls_erased": 2}


def test_an_erasure_between_a_repeat_and_its_renewal_is_noticed(
    warehouse: Warehouse, topics: Topics
) -> None:
    """Another sink deletes what this one has just taken its events to be repeats of."""
    later = NOON + timedelta(hours=2)
    gone = erasure(topics, NOON + timedelta(hours=1))
    sink(warehouse, life_of(topics, HAPPY))
    second = life_of(topics, replace(HAPPY, published_at=later), time=later)

    class Between(Writes):
        def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Result:
            found = super().query(sql, parameters)
            if "FROM events" in sql:
                sink(warehouse, [gone])
            return found

    with pytest.raises(Transient, match="erased_meanwhile"):
        sink(Between(warehouse), second)
    sink(warehouse, second)
    assert one(warehouse, "SELECT state, turns FROM calls") == ("enriched", 7)


def test_a_clock_that_runs_ahead_does_not_save_a_call_from_erasure(
    warehouse: Warehouse, topics: Topics
) -> None:
    ahead = replace(HAPPY, published_at=datetime(2190, 1, 1, tzinfo=UTC),
                    source_updated_at=datetime(2190, 1, 1, tzinfo=UTC))  # fmt: skip
    sink(warehouse, life_of(topics, ahead))
    sink(warehouse, [erasure(topics, NOON + timedelta(hours=1))])
    assert one(warehouse, "SELECT count() FROM calls") == 0
    assert one(warehouse, "SELECT count() FROM segments") == 0


def test_another_sink_that_erases_meanwhile_is_noticed(
    warehouse: Warehouse, topics: Topics
) -> None:
    gone = erasure(topics, NOON + timedelta(hours=1))

    class Meanwhile(Writes):
        def wrote(self) -> None:
            if self.count == 2:
                sink(warehouse, [gone])

    sink(Meanwhile(warehouse), life_of(topics, HAPPY))
    assert one(warehouse, "SELECT count() FROM calls") == 0
    assert one(warehouse, "SELECT count() FROM segments") == 0


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True], ids=["stored", "made again"])
def test_what_was_inserted_before_a_stop_is_gone_where_its_call_was_erased_meanwhile(
    warehouse: Warehouse, topics: Topics, again: bool
) -> None:
    """The erasure is another sink's, and was done before these rows were in."""
    gone = erasure(topics, NOON + timedelta(hours=1))
    life = life_of(topics, HAPPY)
    requests = [topics.replay(event, f"again/{at}") for at, event in enumerate(life)]

    def work(tables: Tables) -> None:
        if again:
            remake(tables, requests)
        else:
            sink(tables, life)

    def kept() -> dict[str, int]:
        return {
            table: one(warehouse, f"SELECT count() FROM {table} FINAL WHERE call_id = 'happy'")
            for table, columns in TABLES.items()
            if "call_id" in columns
        }

    class StopsAfterErasure(StopsAfter):
        def wrote(self) -> None:
            if self.count == 1:
                sink(warehouse, [gone])
            super().wrote()

    def begun() -> None:
        empty(warehouse)
        if again:
            sink(warehouse, life)

    begun()
    work(counting := StopsAfterErasure(warehouse, 1 << 40))
    assert counting.count > 8
    for writes in points(counting.count):
        begun()
        with pytest.raises(Crash):
            work(StopsAfterErasure(warehouse, writes))
        work(warehouse)
        left = kept()
        assert {table for table, count in left.items() if count} <= {
            "calls_erased", "events", "stage_states",
        }, f"stopped after write {writes}"  # fmt: skip
        assert left["events"] == 1
        states = "SELECT groupUniqArray(state) FROM stage_states WHERE call_id = 'happy'"
        assert set(one(warehouse, states)) <= {"erased", "refused"}


def test_times_that_the_engine_cannot_hold_do_not_poison_their_column(
    warehouse: Warehouse, topics: Topics
) -> None:
    sound = topics.send(HAPPY, "ended")
    far = replace(
        sound,
        event=replace(HAPPY, retain_until=datetime(9999, 12, 31, tzinfo=UTC)),
        message=replace(sound.message, timestamp_ms=1 << 62),
        time=datetime(1, 1, 1, tzinfo=UTC),
    )
    sink(warehouse, [far])
    assert one(warehouse, "SELECT retain_until FROM calls_ended").year == 2299
    assert one(warehouse, "SELECT time, timestamp FROM events")[0].year == 1900


def test_words_can_be_left_out(warehouse: Warehouse, topics: Topics) -> None:
    sink(warehouse, life_of(topics, HAPPY), words=False)
    assert one(warehouse, "SELECT count() FROM call_words") == 0
    assert one(warehouse, "SELECT count() FROM call_segments") == 7
    assert one(warehouse, "SELECT words FROM calls") > 0
