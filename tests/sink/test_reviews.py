"""What a person judged of a call, in the views: it counts, whatever is computed again."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import events as e
from schemas.events import Verdict
from schemas.examples import EXAMPLES
from services.enrich.conditions import Facts, Outcome
from services.enrich.rules import CriterionRule, Rule, Scorecard
from services.enrich.score import score
from services.runtime.stage import Envelope
from services.sink.rows import basis_of, milliseconds
from services.sink.warehouse import Warehouse
from tests.sink.messages import NOON, Topics, life_of
from tests.sink.test_sink import content, one, sink, views_of
from tests.tables import empty

pytestmark = pytest.mark.clickhouse

HAPPY: e.CallEnded = EXAMPLES["CallEnded"]["happy"]
JUDGED: e.CallReviewed = EXAMPLES["CallReviewed"]["criterion"]
WHOLE: e.CallReviewed = EXAMPLES["CallReviewed"]["whole"]

SCORE = "SELECT score, computed_score, score_reviewed FROM calls"
CLOSING = (
    "SELECT verdict, computed_verdict, reviewed_by, review_reason, suggestion FROM call_criteria"
    " WHERE criterion_id = 'closing'"
)
COMPUTED = ("NOT_MET", "NOT_MET", "", "", "Ask whether anything else is open.")


@pytest.fixture
def topics(tmp_path: Path) -> Topics:
    return Topics(tmp_path / "objects")


def review(
    topics: Topics, minutes: int, event: e.CallReviewed = JUDGED, **changes: Any
) -> Envelope[e.CallReviewed]:
    """`event` as somebody said it so long after noon."""
    at = NOON + timedelta(minutes=minutes)
    made = replace(event, **{"reviewed_at": at, **changes})
    return topics.send(made, f"review/{minutes}/{made.criterion_id}", time=at)


def test_the_latest_review_of_a_criterion_counts_in_whatever_order_they_come(
    warehouse: Warehouse, topics: Topics
) -> None:
    life = life_of(topics, HAPPY)
    sink(warehouse, life)
    assert one(warehouse, SCORE) == (75.0, 75.0, False)
    assert one(warehouse, CLOSING) == COMPUTED
    reviews = [
        review(topics, 1, verdict=Verdict.NOT_APPLICABLE, reason="cut off", reviewed_by="ann"),
        review(topics, 2),
        review(topics, 3, withdrawn=True, verdict=Verdict.UNKNOWN),
        review(topics, 4, verdict=Verdict.NOT_APPLICABLE, reason="cut off", reviewed_by="ann"),
    ]
    told = [
        ("NOT_APPLICABLE", "NOT_MET", "ann", "cut off", ""),
        ("MET", "NOT_MET", "lena", "the customer hung up first", ""),
        COMPUTED,
        ("NOT_APPLICABLE", "NOT_MET", "ann", "cut off", ""),
    ]
    scores = [(100.0, 75.0, True), (100.0, 75.0, True), (75.0, 75.0, False), (100.0, 75.0, True)]
    for each, shown, counts in zip(reviews, told, scores, strict=True):
        sink(warehouse, [each])
        assert one(warehouse, CLOSING) == shown
        assert one(warehouse, SCORE) == counts
    expected = content(warehouse, *views_of(warehouse))
    for seed in range(2):
        empty(warehouse)
        batch = [*life, *reviews]
        random.Random(seed).shuffle(batch)
        for start in range(0, len(batch), 4):
            sink(warehouse, batch[start : start + 4])
        assert content(warehouse, *views_of(warehouse)) == expected


def test_a_review_of_the_whole_goes_before_those_of_criteria(
    warehouse: Warehouse, topics: Topics
) -> None:
    sink(warehouse, [*life_of(topics, HAPPY), review(topics, 1, WHOLE), review(topics, 2)])
    assert one(warehouse, SCORE) == (90.0, 75.0, True)
    assert one(warehouse, CLOSING)[0] == "MET"
    # As every view that reads the score.
    for view in ("agents_daily", "queues_daily", "topics_daily"):
        assert one(warehouse, f"SELECT score FROM {view}") == 90.0, view
    sink(warehouse, [review(topics, 3, WHOLE, score=None, withdrawn=True)])
    assert one(warehouse, SCORE) == (100.0, 75.0, True)
    sink(warehouse, [review(topics, 4, withdrawn=True)])
    assert one(warehouse, SCORE) == (75.0, 75.0, False)
    assert one(warehouse, "SELECT count() FROM call_reviews") == 0
    assert one(warehouse, "SELECT count() FROM reviews FINAL") == 4


def test_a_whole_review_scores_a_call_that_has_no_score(
    warehouse: Warehouse, topics: Topics
) -> None:
    ended, recorded, transcribed, enriched, _ = life_of(topics, HAPPY)
    sink(warehouse, [ended, review(topics, 1, WHOLE, score=0.0)])
    assert one(warehouse, SCORE) == (0.0, None, True)
    unscored = topics.send(replace(enriched.event, score=None), "unscored")
    sink(warehouse, [recorded, transcribed, unscored, review(topics, 1)])
    assert one(warehouse, SCORE) == (0.0, None, True)
    sink(warehouse, [review(topics, 2, WHOLE, score=None, withdrawn=True)])
    assert one(warehouse, SCORE) == (None, None, False), "no criterion is left to judge"


def test_a_review_outlasts_new_revisions_and_what_is_computed_again(
    warehouse: Warehouse, topics: Topics
) -> None:
    life = life_of(topics, HAPPY)
    sink(warehouse, [*life, review(topics, 1)])
    enriched: e.CallEnriched = life[3].event
    assert enriched.score is not None
    # Other rules: another weight, and another score.
    criteria = [
        replace(each, weight=9.0) if each.criterion_id == "closing" else each
        for each in enriched.score.criteria
    ]
    other = replace(enriched, score=replace(enriched.score, value=25.0, criteria=criteria))
    sink(warehouse, [topics.send(other, "again", generation=1)])
    assert one(warehouse, SCORE) == (100.0, 25.0, True)
    amended = replace(HAPPY, source_updated_at=NOON + timedelta(days=1))
    sink(warehouse, life_of(topics, amended, prefix="amended/"))
    assert one(warehouse, SCORE) == (100.0, 75.0, True)
    assert one(warehouse, CLOSING)[0] == "MET"


def test_a_review_of_a_criterion_that_is_gone_is_kept_and_counts_for_nothing(
    warehouse: Warehouse, topics: Topics
) -> None:
    life = life_of(topics, HAPPY)
    sink(warehouse, [*life, review(topics, 1)])
    enriched: e.CallEnriched = life[3].event
    assert enriched.score is not None
    without = [each for each in enriched.score.criteria if each.criterion_id != "closing"]
    other = replace(enriched, score=replace(enriched.score, value=70.0, criteria=without))
    sink(warehouse, [topics.send(other, "again", generation=1)])
    assert one(warehouse, SCORE) == (70.0, 70.0, False)
    assert one(warehouse, "SELECT criterion_id, reviewed_by FROM call_reviews") == (
        "closing", "lena")  # fmt: skip
    sink(warehouse, [topics.send(enriched, "and again", generation=2)])
    assert one(warehouse, SCORE) == (100.0, 75.0, True), "it is back"


def test_reviews_are_of_their_call_and_tenant_alone(warehouse: Warehouse, topics: Topics) -> None:
    calls = [HAPPY, replace(HAPPY, call_id="other"), replace(HAPPY, tenant_id="other-co")]
    sink(warehouse, [envelope for call in calls for envelope in life_of(topics, call)])
    sink(warehouse, [review(topics, 1), review(topics, 2, WHOLE, call_id="other")])
    found = warehouse.query("SELECT tenant_id, call_id, score FROM calls ORDER BY ALL").rows
    assert [tuple(row) for row in found] == [
        ("acme", "happy", 100.0), ("acme", "other", 90.0), ("other-co", "happy", 75.0)]  # fmt: skip


def test_an_erasure_at_or_after_a_review_takes_it_away(
    warehouse: Warehouse, topics: Topics
) -> None:
    def erased(at: datetime) -> Envelope[e.CallErased]:
        gone = e.CallErased(
            tenant_id="acme", call_id="happy", erased_at=at, requested_by="operator"
        )
        return topics.send(gone, "erasure", time=at)

    early, late = review(topics, 1, WHOLE), review(topics, 3)
    assert basis_of(early) == milliseconds(early.event.reviewed_at)
    # A clock that runs ahead protects nothing.
    ahead = replace(late.event, reviewed_at=NOON + timedelta(days=400))
    assert basis_of(topics.send(ahead, "ahead", time=NOON)) == milliseconds(NOON)

    later = NOON + timedelta(minutes=2)
    life = life_of(topics, replace(HAPPY, published_at=later), time=later)
    gone = erased(early.event.reviewed_at)
    orders: list[list[Sequence[Envelope[Any]]]] = [
        [[early, late, *life], [gone]],
        [[gone], [late, early], life],
    ]
    for batches in orders:
        empty(warehouse)
        for batch in batches:
            sink(warehouse, batch)
        assert one(warehouse, "SELECT criterion_id FROM reviews") == "closing"
        assert one(warehouse, "SELECT score FROM calls") == 100.0
    sink(warehouse, [erased(late.event.reviewed_at)])
    assert one(warehouse, "SELECT count() FROM reviews") == 0
    assert one(warehouse, "SELECT count() FROM events WHERE type = 'CallReviewed'") == 0


# The score that counts is what services/enrich/score.py makes of the verdicts that count.


@dataclass(frozen=True)
class Says:
    """A condition that holds or does not, whatever the call."""

    held: bool

    def check(self, facts: Facts) -> Outcome:
        return Outcome(self.held, "it says so")


NUMBERS = itertools.count()
FACTS = Facts((), {}, {("talk_ms", e.Role.AGENT): 1.0}, (), {}, (), ())
Judged = tuple[Verdict, Verdict | None, float]
"""What is computed of a criterion, what a person says of it, and its weight."""


def scored(
    judged: Sequence[tuple[Verdict, float]], points: Sequence[float]
) -> e.QualityScore | None:
    """What enrich makes of a scorecard with these verdicts and rules with these points."""
    criteria = [
        CriterionRule(
            f"c{number}", "", weight, Says(verdict is not Verdict.NOT_APPLICABLE),
            Says(verdict is Verdict.MET), "", (), "",
        )
        for number, (verdict, weight) in enumerate(judged)
    ]  # fmt: skip
    rules = [
        Rule(f"r{number}", "1", "", Says(True), "", None, change, "", (), "")
        for number, change in enumerate(points)
    ]
    return score(Scorecard("made-up", "1", tuple(criteria)), FACTS, rules)


verdicts = st.sampled_from((Verdict.MET, Verdict.NOT_MET, Verdict.NOT_APPLICABLE))
weights = st.integers(1, 1_000).map(float) | st.floats(0.001, 1_000)
points = st.integers(-100, 100).map(float) | st.floats(-100, 100)
scorecards = st.tuples(
    st.lists(st.tuples(verdicts, st.none() | verdicts, weights), min_size=1, max_size=9),
    st.lists(points.filter(bool), max_size=4),
)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(scorecards, min_size=1, max_size=40))
def test_the_score_is_that_of_enrich_over_the_verdicts_that_count(
    warehouse: Warehouse, topics: Topics, made: list[tuple[list[Judged], list[float]]]
) -> None:
    enriched: e.CallEnriched = EXAMPLES["CallEnriched"]["happy"]
    batch: list[Envelope[Any]] = []
    expected: dict[str, tuple[float | None, float | None, bool]] = {}
    example = next(NUMBERS)
    for number, (judged, changes) in enumerate(made):
        name = f"{example}-{number}"
        computed = scored([(verdict, weight) for verdict, _, weight in judged], changes)
        counts = scored([(says or verdict, weight) for verdict, says, weight in judged], changes)
        call = replace(HAPPY, call_id=name)
        batch += [
            topics.send(call, f"ended/{name}"),
            topics.send(
                replace(enriched, call_id=name, call=call, score=computed), f"enriched/{name}"
            ),
        ]
        says = {f"c{at}": said for at, (_, said, _) in enumerate(judged) if said is not None}
        batch += [
            topics.send(
                replace(JUDGED, call_id=name, criterion_id=id, verdict=said), f"review/{name}/{id}"
            )
            for id, said in says.items()
        ]
        # Without a computed score there is nothing that was judged, and nothing to overrule.
        reviewed = computed is not None and bool(says)
        if reviewed:
            value = None if counts is None else counts.value
        else:
            value = None if computed is None else computed.value
        expected[name] = (value, None if computed is None else computed.value, reviewed)
    sink(warehouse, batch)
    found = warehouse.query("SELECT call_id, score, computed_score, score_reviewed FROM calls"
                            f" WHERE startsWith(call_id, '{example}-')")  # fmt: skip
    assert {name: tuple(told) for name, *told in found.rows} == expected


@pytest.mark.parametrize(
    ("weight", "shown"),
    [(float("1e308"), None), (-1.5, None), (0.0, 100.0), (-1.0, 100.0)],
    ids=["beyond what can be added", "none left", "of no weight", "less than none"],
)
def test_weights_of_nonsense_make_no_score_that_poisons_an_average(
    warehouse: Warehouse, topics: Topics, weight: float, shown: float | None
) -> None:
    life = life_of(topics, HAPPY)
    enriched: e.CallEnriched = life[3].event
    assert enriched.score is not None
    criteria = [replace(each, weight=weight) for each in enriched.score.criteria[1:]]
    judged = [enriched.score.criteria[0], *criteria, replace(criteria[0], criterion_id="more")]
    other = replace(enriched, score=replace(enriched.score, criteria=judged))
    sink(warehouse, [*life[:3], topics.send(other, "other"), review(topics, 1)])
    assert one(warehouse, "SELECT score FROM calls") == shown


def test_a_verdict_that_nobody_knows_applies_and_is_not_met(
    warehouse: Warehouse, topics: Topics
) -> None:
    """As in services/enrich/score.py: all but NOT_APPLICABLE applies, and only MET is met."""
    sink(warehouse, [*life_of(topics, HAPPY)])
    sink(warehouse, [review(topics, 1, criterion_id="greeting", verdict=Verdict.UNKNOWN)])
    assert one(warehouse, SCORE) == (0.0, 75.0, True)
