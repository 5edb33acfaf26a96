"""`callstream review`: what it refuses, what it puts on record, and where that is told."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from schemas.events import CallEnded, CallEnriched, CallReviewed, CallTranscribed, Verdict
from schemas.examples import EXAMPLES
from schemas.topics import REVIEWS
from services.assembly import Parts
from services.cli.__main__ import app
from services.cli.archive import NoSuchCall
from services.cli.console import Stop
from services.cli.explain import as_text, explain
from services.cli.review import later
from services.cli.show import Reviewed, text
from services.runtime.stage import event_id, utc_now
from services.serve import embedded
from services.settings import PREFIX, Settings, load
from tests.replay.suite import drained

TRANSCRIPT: CallTranscribed = EXAMPLES["CallTranscribed"]["happy"]
ENRICHED: CallEnriched = EXAMPLES["CallEnriched"]["happy"]
JUDGED: CallReviewed = EXAMPLES["CallReviewed"]["criterion"]


def callstream(*words: str) -> str:
    """What the command says; what it raises is raised."""
    ran = CliRunner().invoke(app, words, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), r"say what is judged: --criterion ID with --verdict \(met, not_met, not_applicable\)"),
        (("--reason", "x"), "say what is judged"),
        (("--criterion", "a", "--score", "9"), "of one criterion or of the whole call"),
        (("--criterion", "a", "--reason", "x"), "--verdict is missing: one of met, not_met"),
        (("--verdict", "met", "--reason", "x"), "say which one with --criterion"),
        (("--criterion", " ", "--verdict", "met"), "--criterion is empty"),
        (("--criterion", "a", "--verdict", "met"), "--reason is missing"),
        (("--score", "90", "--reason", " \n"), "--reason is missing"),
        (("--score", "90", "--reason", "x", "--by", ""), "--by is empty"),
        (("--score", "90", "--reason", "\x1b[31mred"), "--reason is one text of at most 2,000"),
        (("--score", "90", "--reason", "x" * 2_001), "--reason is one text of at most 2,000"),
        (("--score", "90", "--reason", "x", "--by", "a\x07"), "--by is one text"),
        (("--withdraw", "--score", "90"), "leave --verdict and --score away"),
        (("--withdraw", "--criterion", "a", "--verdict", "met"), "leave --verdict and"),
        (("--list", "--withdraw"), "takes nothing beside the call"),
        (("--list", "--reason", "x"), "takes nothing beside the call"),
    ],
)
def test_what_makes_no_review_is_refused(words: tuple[str, ...], told: str) -> None:
    with pytest.raises(Stop, match=told):
        callstream("review", "happy", *words)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--criterion", "a", "--verdict", "maybe"), "'maybe' is not one of 'met',"),
        (("--score", "101"), "less than or equal to 100"),
        (("--score", "nan"), "less than or equal to 100"),
        (("--score", "-1"), "greater than or equal to 0"),
    ],
)
def test_a_word_that_is_none_of_those_allowed_names_them(words: tuple[str, ...], told: str) -> None:
    ran = CliRunner().invoke(app, ["review", "happy", "--reason", "x", *words])
    assert ran.exit_code == 2
    assert told in " ".join(ran.output.split())


def test_the_last_word_counts_by_whatever_clock_it_was_said() -> None:
    now = datetime(2026, 3, 2, 12, tzinfo=UTC)
    said = replace(JUDGED, reviewed_at=now)
    ahead = now + timedelta(hours=1)
    known = [{"criterion_id": "closing", "at": str(round(ahead.timestamp() * 1000))}]
    assert later(said, []) == said
    assert later(said, known).reviewed_at == ahead + timedelta(milliseconds=1)
    assert later(replace(said, criterion_id="greeting"), known).reviewed_at == now
    assert later(replace(said, reviewed_at=ahead + timedelta(hours=1)), known).reviewed_at > ahead


# How it is told


def row(event: CallReviewed, **changes: Any) -> dict[str, Any]:
    """As the view `call_reviews` has it."""
    made = replace(event, **changes)
    return {
        "criterion_id": made.criterion_id, "verdict": made.verdict.value, "score": made.score,
        "reviewed_by": made.reviewed_by, "reason": made.reason,
    }  # fmt: skip


WHOLE = row(JUDGED, criterion_id="", verdict=Verdict.UNKNOWN, score=90.0, reviewed_by="ann")


def test_show_tells_what_counts_what_was_computed_who_says_so_and_why() -> None:
    told = text(TRANSCRIPT, ENRICHED, {}, Reviewed(100.0, [row(JUDGED)]))
    assert "\nscore 100 of 100, by default\n  computed: 75\n" in told
    assert (
        "             met  Closes politely: no closing found\n"
        "                  computed not met, reviewed by lena: the customer hung up first\n"
    ) in told
    whole = text(TRANSCRIPT, ENRICHED, {}, Reviewed(90.0, [WHOLE]))
    assert (
        "\nscore 90 of 100, by default\n  computed: 75\n"
        "  reviewed by ann: the customer hung up first\n"
    ) in whole
    assert text(TRANSCRIPT, ENRICHED, {}, Reviewed()) == text(TRANSCRIPT, ENRICHED)


def test_show_tells_of_reviews_that_no_computed_score_stands_beside() -> None:
    gone = row(JUDGED, criterion_id="smalltalk", reason="line\none")
    told = text(TRANSCRIPT, ENRICHED, {}, Reviewed(75.0, [gone]))
    assert "\nscore 75 of 100, by default\n        " in told, "nothing was overruled"
    assert "  met, but the score has no criterion smalltalk: reviewed by lena: line one\n" in told
    unscored = replace(ENRICHED, score=None)
    for enriched in (unscored, None):
        told = text(TRANSCRIPT, enriched, {}, Reviewed(90.0, [WHOLE]))
        assert "\nscore 90 of 100\n  reviewed by ann: the customer hung up first\n" in told
        assert "score" not in text(TRANSCRIPT, enriched)
    none_left = text(TRANSCRIPT, ENRICHED, {}, Reviewed(None, [row(JUDGED)]))
    assert "\nno score: nothing applies, by default\n  computed: 75\n" in none_left


def test_explained_figures_stay_those_computed_and_the_review_is_told_beside_them() -> None:
    plain = explain(TRANSCRIPT, ENRICHED)
    gone = row(JUDGED, criterion_id="smalltalk")
    made = explain(TRANSCRIPT, ENRICHED, reviewed=Reviewed(90.0, [WHOLE, row(JUDGED), gone]))
    assert made.notes[: len(plain.notes) - 1] == plain.notes[:-1]
    assert any(
        "it counts for nothing: the score has no criterion smalltalk" in n for n in made.notes
    )
    assert made.notes[-1] == plain.notes[-1], "as many figures come out"
    for before, after in zip(plain.groups["score"], made.groups["score"], strict=True):
        assert (after.title, after.value, after.agrees) == (
            before.title, before.value, before.agrees)  # fmt: skip
        assert after.comes_from[: len(before.comes_from)] == before.comes_from
    entries = {each.name: each.comes_from for each in made.groups["score"]}
    assert entries["score"][-2:] == [
        "reviewed by ann: 90 of 100, because the customer hung up first",
        "what counts, as people reviewed it: 90",
    ]
    assert entries["closing"][-1] == ("reviewed by lena: met, because the customer hung up first")
    assert "what counts, as people reviewed it: 90" in as_text(made)
    only_gone = explain(TRANSCRIPT, ENRICHED, reviewed=Reviewed(75.0, [gone]))
    assert only_gone.groups == plain.groups
    unscored = explain(TRANSCRIPT, replace(ENRICHED, score=None), reviewed=Reviewed(90.0, [WHOLE]))
    assert any(note.endswith("; no score was computed") for note in unscored.notes)


# As people type it, over a data folder


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(f"{PREFIX}DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv(f"{PREFIX}TENANT", TRANSCRIPT.tenant_id)
    monkeypatch.setenv(f"{PREFIX}TRANSCRIBE__ENGINE", "stub")
    monkeypatch.setenv("LOGNAME", "maria")
    return load()


@contextmanager
def suite(settings: Settings) -> Iterator[Parts]:
    """A suite at work on the data folder; all that was there is through."""
    with embedded(settings):
        parts = Parts(settings)
        try:
            drained(parts)
            yield parts
            drained(parts)
        finally:
            parts.close()


def hand_in(settings: Settings) -> None:
    """A call with a transcript, from which enrich makes the rest; and one without."""
    parts = Parts(settings)
    log = parts.log()
    ended: CallEnded = replace(EXAMPLES["CallEnded"]["happy"], recordings=[])
    other = replace(ended, call_id="other", event_id="other")
    # Its first words alone: something is missed.
    short = replace(TRANSCRIPT, call=ended, segments=TRANSCRIPT.segments[:2])
    about = event_id("test", "", 0, 0)
    log.commit(
        [
            parts.codec.encode(each, id=f"{about}/{n}", source="/test", time=utc_now())
            for n, each in enumerate((ended, other, short))
        ],
        {},
    )
    log.close()
    parts.close()


def score_of(call: str) -> dict[str, Any]:
    asked = f"SELECT score, computed_score, score_reviewed FROM calls WHERE call_id = '{call}'"
    told: dict[str, Any] = json.loads(callstream("sql", asked, "--format", "json"))
    return told


@pytest.mark.clickhouse
def test_a_review_counts_until_it_is_withdrawn(settings: Settings) -> None:
    hand_in(settings)
    with suite(settings):
        listed = callstream("review", "happy", "--list")
        assert "nobody has reviewed it" in listed
        computed = score_of("happy")["computed_score"]
        assert 0 < computed < 100
        asked = (
            "SELECT criterion_id FROM call_criteria WHERE verdict = 'NOT_MET' ORDER BY weight DESC"
        )
        missed = json.loads(callstream("sql", asked, "--format", "json").splitlines()[0])
        name = missed["criterion_id"]
        assert name in listed

        met = ("--criterion", name, "--verdict", "met", "--reason", "it was said before")
        told = callstream("review", "happy", *met)
        after = score_of("happy")
        assert after["score_reviewed"] is True
        assert after["computed_score"] == computed
        assert after["score"] > computed
        assert f"acme/happy: {name} met; score {after['score']:g}, computed {computed:g}" in told
        shown = callstream("show", "happy")
        assert f"score {after['score']:.0f} of 100" in shown
        assert "computed not met, reviewed by maria: it was said before" in shown
        explained = callstream("show", "acme/happy", "--explain")
        assert "reviewed by maria: met, because it was said before" in explained

        callstream("review", "acme/happy", "--score", "42.5", "--reason", "rude", "--by", "Ann")
        assert score_of("happy")["score"] == 42.5
        assert "reviewed by Ann: rude" in callstream("show", "happy")
        callstream("review", "other", "--score", "0", "--reason", "nobody listened")
        assert score_of("other") == {"score": 0, "computed_score": None, "score_reviewed": True}

        callstream("review", "happy", "--criterion", name, "--verdict", "not_applicable",
                   "--reason", "no time for it")  # fmt: skip
        listed = callstream("review", "happy", "--list")
        assert "score 42.5, computed" in listed
        for said in ("no: judged again since", "not for the score, which is reviewed as a whole",
                     "the whole", "no time for it", "maria"):  # fmt: skip
            assert said in listed

        callstream("review", "happy", "--withdraw")
        assert score_of("happy")["score"] != 42.5
        callstream("review", "happy", "--withdraw", "--criterion", name)
        assert score_of("happy") == {
            "score": computed, "computed_score": computed, "score_reviewed": False}  # fmt: skip
        assert "no: what is computed does" in callstream("review", "happy", "--list")


@pytest.mark.clickhouse
def test_what_the_call_does_not_have_is_named_and_nothing_goes_on_record(
    settings: Settings,
) -> None:
    hand_in(settings)
    why = ("--reason", "x")
    with suite(settings) as parts:
        with pytest.raises(NoSuchCall, match="no call acme/hapy; near: happy"):
            callstream("review", "hapy", "--score", "1", *why)
        with pytest.raises(Stop, match="--criterion charm: the call has no such criterion; it has "
                                       "greeting, "):  # fmt: skip
            callstream("review", "happy", "--criterion", "charm", "--verdict", "met", *why)
        with pytest.raises(Stop, match="acme/other has no score, and so no criterion"):
            callstream("review", "other", "--criterion", "greeting", "--verdict", "met", *why)
        with pytest.raises(
            Stop, match="no review of the score as a whole counts; those that do: n"
        ):
            callstream("review", "happy", "--withdraw")
        assert list(parts.view.scan(REVIEWS)) == []
        callstream("review", "happy", "--criterion", "greeting", "--verdict", "not_met", *why)
        with pytest.raises(
            Stop, match="of criterion closing counts; those that do: criterion gree"
        ):
            callstream("review", "happy", "--withdraw", "--criterion", "closing")


@pytest.mark.clickhouse
def test_where_nobody_runs_the_sink_it_says_what_comes_next(settings: Settings) -> None:
    hand_in(settings)
    with suite(settings):
        pass
    told = callstream("review", "happy", "--score", "77", "--reason", "x")
    assert "acme/happy: on record" in told
    assert "it counts once the sink has it: start `callstream up`, none runs" in told
    assert score_of("happy")["score_reviewed"] is False
    with suite(settings):
        pass
    assert score_of("happy")["score"] == 77


@pytest.mark.clickhouse
def test_what_waits_for_the_sink_is_listed_and_can_be_withdrawn(settings: Settings) -> None:
    hand_in(settings)
    with suite(settings):
        callstream("review", "happy", "--score", "50", "--reason", "stored")
    callstream("review", "happy", "--score", "60", "--reason", "first")
    callstream("review", "happy", "--score", "70", "--reason", "second")
    callstream("review", "other", "--score", "10", "--reason", "of another call")
    told = [
        line for line in callstream("review", "happy", "--list").splitlines() if "whole" in line
    ]
    assert ["second" in line for line in told] == [True, False, False]
    assert "not yet: once the" in told[0]
    assert "no: judged again" in told[1]
    assert "yes" in told[2]
    assert "stored" in told[2]
    callstream("review", "happy", "--withdraw")
    with pytest.raises(Stop, match="those that do: none"):
        callstream("review", "happy", "--withdraw")
    with suite(settings):
        assert score_of("happy")["score_reviewed"] is False
        assert score_of("other")["score"] == 10
        assert "once the sink" not in callstream("review", "happy", "--list")
