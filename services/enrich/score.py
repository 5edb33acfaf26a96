"""Quality score: a scorecard held against a call, and what rules add to or take from it."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.events import Criterion, QualityScore, Role, ScoreChange, Verdict
from services.enrich.conditions import Facts, Outcome
from services.enrich.rules import CriterionRule, Rule, Scorecard

# So much evidence convinces; more only fills the record.
MOST_EVIDENCE = 5


def score(scorecard: Scorecard, facts: Facts, rules: Sequence[Rule] = ()) -> QualityScore | None:
    """Weight met over weight applicable, 0.0 to 100.0, with the reason of every verdict.

    Then the points of each of `rules` that holds, in their order; the sum is kept within 0.0 to
    100.0 once, at the end. None where no agent was heard, or no criterion applies.
    """
    if ("talk_ms", Role.AGENT) not in facts.metrics:
        return None
    criteria = [_criterion(rule, facts) for rule in scorecard.criteria]
    applicable = sum(c.weight for c in criteria if c.verdict is not Verdict.NOT_APPLICABLE)
    if not applicable:
        return None
    met = sum(c.weight for c in criteria if c.verdict is Verdict.MET)
    changes = [change for rule in rules if (change := _change(rule, facts)) is not None]
    value = 100 * met / applicable + sum(change.points for change in changes)
    return QualityScore(
        value=round(max(0.0, min(100.0, value)), 2),
        scorecard=scorecard.scorecard_id,
        scorecard_version=scorecard.version,
        criteria=criteria,
        changes=changes,
    )


def _change(rule: Rule, facts: Facts) -> ScoreChange | None:
    if not rule.points:
        return None
    outcome = rule.when.check(facts)
    if not outcome.held:
        return None
    return ScoreChange(
        rule=rule.rule_id,
        rule_version=rule.version,
        points=rule.points,
        reason=outcome.reason,
        evidence=list(outcome.evidence[:MOST_EVIDENCE]),
    )


def judge(rule: CriterionRule, facts: Facts) -> tuple[Verdict, Outcome]:
    """The verdict on a criterion, and the outcome that decided it."""
    if rule.applies_when is not None:
        applies = rule.applies_when.check(facts)
        if not applies.held:
            return Verdict.NOT_APPLICABLE, applies
    outcome = rule.met_when.check(facts)
    return Verdict.MET if outcome.held else Verdict.NOT_MET, outcome


def _criterion(rule: CriterionRule, facts: Facts) -> Criterion:
    verdict, outcome = judge(rule, facts)
    return Criterion(
        criterion_id=rule.criterion_id,
        title=rule.title,
        verdict=verdict,
        weight=rule.weight,
        reason=outcome.reason,
        evidence=list(outcome.evidence[:MOST_EVIDENCE]),
        suggestion=rule.suggestion if verdict is Verdict.NOT_MET else "",
    )
