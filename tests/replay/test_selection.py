"""Which calls a replay takes, and what is refused before anything is asked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.loopback import Asks, Here, Question
from services.replay.comparison import edits, tokens
from services.replay.progress import estimate
from services.replay.selection import (
    Refused,
    Selected,
    Selection,
    check_condition,
    check_options,
    moment,
    select,
)
from services.runtime.codec import Codec, FolderRegistry
from services.runtime.sqlite_log import Database, SqliteView
from services.sink.settings import SinkSettings
from services.sink.warehouse import Warehouse
from tests.replay.archive import fabricated

CALLS = 10_000
MOST_S = 10.0


@pytest.mark.parametrize(
    "where",
    [
        "score < 50",
        "agent_name = 'O''Brien (x' AND (language = 'en' OR 1)",
        "call_id IN (SELECT call_id FROM call_findings WHERE label = 'refund')",
        "summary LIKE '%;--%'",
        'queue = "a)"',
    ],
)
def test_a_condition_is_one_expression(where: str) -> None:
    check_condition(where)


@pytest.mark.parametrize(
    "where",
    [
        "",
        "  ",
        "1) OR (1",
        "1; DROP TABLE calls",
        "1 -- ",
        "1 /* ) */",
        "(1",
        "$$)$$ OR 1",
        "1 # x",
    ],
)
def test_what_leaves_its_parentheses_is_refused(where: str) -> None:
    with pytest.raises(Refused, match="--where"):
        check_condition(where)


def test_a_day_that_ends_a_stretch_lies_within_it() -> None:
    assert moment("2026-03-02") == datetime(2026, 3, 2, tzinfo=UTC)
    assert moment("2026-03-02", ends=True) == datetime(2026, 3, 3, tzinfo=UTC)
    assert moment("2026-03-02T09:30:00", ends=True) == datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
    assert moment("2026-03-02T09:30:00+08:00") == datetime(2026, 3, 2, 1, 30, tzinfo=UTC)
    with pytest.raises(Refused, match="'yesterday' is no ISO date"):
        moment("yesterday")


@pytest.mark.parametrize(
    ("stage", "options", "told"),
    [
        ("enrich", {"model": "large"}, "it knows rules"),
        ("enrich", {"rules": "../etc"}, "rules='../etc'"),
        ("transcribe", {"rules": "x"}, "engine, model, language"),
        ("transcribe", {"engine": "hal"}, "engine='hal'"),
        ("ingest", {"engine": "stub"}, "it knows none"),
        ("sink", {"batch": "1"}, "it knows none"),
    ],
)
def test_options_that_a_stage_does_not_know_are_refused(
    stage: str, options: dict[str, str], told: str
) -> None:
    with pytest.raises(Refused, match=told):
        check_options(stage, options)


def test_options_that_it_knows_are_not() -> None:
    check_options("enrich", {"rules": "march.2"})
    check_options("transcribe", {"engine": "stub", "language": "zh"})
    check_options("ingest", {})


@pytest.mark.parametrize(
    ("old", "new", "count"),
    [
        ("", "", 0),
        ("Hello, world!", "hello world", 0),
        ("I want a refund", "I want the refund now", 2),
        ("a b c d", "b c d", 1),
        ("我不满意", "我满意", 1),
        ("退款 please", "退钱 please", 1),
        ("don't", "don't", 0),
        ("one two three", "", 3),
        ("a b c d e f", "f e d c b a", 6),
    ],
)
def test_words_are_counted_and_chinese_by_character(old: str, new: str, count: int) -> None:
    assert edits(tokens(old), tokens(new)) == count
    assert edits(tokens(new), tokens(old)) == count


def test_edits_of_long_transcripts_take_no_time() -> None:
    words = [f"w{n % 97}" for n in range(3_000)]
    other = [w if n % 10 else "x" for n, w in enumerate(words)]
    started = time.monotonic()
    assert edits(words, other) == 300
    assert time.monotonic() - started < MOST_S


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asks]:
    """A warehouse in which ten thousand calls are through."""
    folder = tmp_path_factory.mktemp("archive")
    warehouse = Warehouse.open(SinkSettings(path=folder / "warehouse"))
    fabricated(warehouse, folder / "objects", CALLS)
    yield Here(warehouse)
    warehouse.close()


def _selected(asks: Asks, stage: str, **criteria: object) -> Selected:
    view = SqliteView(Database(None))
    selection = Selection(tenant="acme", **criteria)  # type: ignore[arg-type]
    return select(stage, selection, "archive", asks, view, Codec(FolderRegistry()))


@pytest.mark.clickhouse
@pytest.mark.parametrize("stage", ["ingest", "transcribe", "enrich"])
def test_ten_thousand_calls_are_selected_in_ten_seconds(archive: Asks, stage: str) -> None:
    started = time.monotonic()
    found = _selected(archive, stage)
    spent = time.monotonic() - started
    assert len(found.inputs) == CALLS
    assert spent < MOST_S, f"{spent:.1f} s"


@pytest.mark.clickhouse
def test_a_condition_selects_among_ten_thousand_in_ten_seconds(archive: Asks) -> None:
    started = time.monotonic()
    found = _selected(archive, "enrich", where="endsWith(call_id, '7')")
    spent = time.monotonic() - started
    assert len(found.inputs) == CALLS // 10
    assert spent < MOST_S, f"{spent:.1f} s"
    with pytest.raises(Question, match="nonsense"):
        _selected(archive, "enrich", where="nonsense > 1")


@pytest.mark.clickhouse
def test_the_cost_of_a_replay_is_told_before(archive: Asks) -> None:
    found = _selected(archive, "enrich")
    cost = estimate("enrich", "acme", found.found, archive)
    assert (cost.calls, cost.events) == (CALLS, CALLS)
    assert cost.audio_ms == sum(each.audio_ms for each in found.found) > 0
    assert cost.words > CALLS
    assert (cost.input_bytes or 0) > 100 * CALLS
    assert cost.seconds is not None
    assert cost.seconds > 0
    assert estimate("sink", "acme", found.found, archive).seconds is None
    assert _selected(archive, "enrich", calls=("nobody",)).left_out == {
        "are not known, or not selected (nobody)": 1
    }


@pytest.mark.clickhouse
def test_nothing_of_another_tenant_is_selected(archive: Asks, tmp_path: Path) -> None:
    view = SqliteView(Database(None))
    selection = Selection(tenant="other", where="1 OR tenant_id = 'acme'")
    found = select("enrich", selection, "archive", archive, view, Codec(FolderRegistry()))
    assert found.inputs == []
