"""What is a difference between two results of a call, and what is none."""

from __future__ import annotations

from typing import Any

from services.replay.comparison import Comparison, Labels, _difference, _verdicts


def found(**changes: Any) -> dict[str, Any]:
    """A row of what enrich says."""
    return {
        "rules_version": "1.0", "score": 70.0, "customer_sentiment": 0.0, "agent_sentiment": 0.0,
        "topics": ["refund"], "emotions": [], "alerts": [], "tags": ["t"], "summary": "It broke.",
        "criteria": {"greeting": "met", "closing": "not met"}, **changes,
    }  # fmt: skip


def heard(**changes: Any) -> dict[str, Any]:
    """A row of what transcribe says."""
    return {
        "engine": "e", "model": "m", "language": "en", "segments": 1, "degradations": [],
        "spoken": {("r", 0): "it broke"}, **changes,
    }  # fmt: skip


def test_a_verdict_that_turned_is_told_once() -> None:
    before = {"a": "met", "b": "met", "c": "met"}
    after = {"a": "not met", "b": "met", "d": "met"}
    assert _verdicts(before, after) == Labels(["a: met -> not met", "d: met"], ["c: met"])


def test_an_alert_outweighs_a_whole_scorecard() -> None:
    alert = _difference("a", {}, {"now": found(), "shadow": found(alerts=["angry"])}, {})
    verdicts = dict.fromkeys(map(str, range(24)), "met")
    turned = dict.fromkeys(verdicts, "not met")
    card = _difference(
        "b", {}, {"now": found(criteria=verdicts), "shadow": found(criteria=turned, score=0.0)}, {}
    )
    same = _difference("c", {}, {"now": found(), "shadow": found()}, {})
    assert alert.weight > card.weight > same.weight == 0
    assert Comparison([alert, card, same], 0, 0, 0).summed()["calls changed"] == 2


def test_what_enrich_has_not_said_of_the_shadow_is_not_lost() -> None:
    both = {"now": heard(), "shadow": heard(model="n")}
    alone = _difference("a", both, {"now": found()}, {})
    assert alone.weight == 0
    assert not alone.labels["degradations"].lost
    assert "tags" not in alone.labels
    through = _difference("b", both, {"now": found(), "shadow": found(tags=[])}, {})
    summed = Comparison([through, alone], 0, 0, 1).summed()
    assert summed["tags lost"] == {"t": 1}
    assert summed["score moved in calls"] == 0
    assert summed["calls without findings in the shadow"] == 1
    assert summed["made now by"] == {"e m": 2}
    assert summed["made in the shadow by"] == {"e n": 2}
