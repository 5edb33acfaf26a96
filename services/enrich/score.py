"""Quality score: a scorecard held against a call."""

from __future__ import annotations

from schemas.events import Criterion, QualityScore, Role, Verdict
from services.enrich.conditions import Facts
from services.enrich.rules import CriterionRule, Scorecard

# So much evidence convinces; more only fills the record.
MOST_EVIDENCE = 5


def score(scorecard: Scorecard, facts: Facts) -> QualityScore | None:
    """Weight met over weight applicable, 0.0 to 100.0, with the reason of every verdict.

    None where no agent was heard, or no criterion applies.
    """
    if ("talk_ms", Role.AGENT) not in facts.metrics:
        return None
    criteria = [_judge(rule, facts) for rule in scorecard.criteria]
    applicable = sum(c.weight for c in criteria if c.verdict is not Verdict.NOT_APPLICABLE)
    if not applicable:
        return None
    met = sum(c.weight for c in criteria if c.verdict is Verdict.MET)
    return QualityScore(
        value=round(100 * met / applicable, 2),
        scorecard=scorecard.scorecard_id,
        scorecard_version=scorecard.version,
        criteria=criteria,
    )


def _judge(rule: CriterionRule, facts: Facts) -> Criterion:
    outcome = rule.applies_when.check(facts) if rule.applies_when is not None else None
    if outcome is not None and not outcome.held:
        verdict = Verdict.NOT_APPLICABLE
    else:
        outcome = rule.met_when.check(facts)
        verdict = Verdict.MET if outcome.held else Verdict.NOT_MET
    return Criterion(
        criterion_id=rule.criterion_id,
        title=rule.title,
        verdict=verdict,
        weight=rule.weight,
        reason=outcome.reason,
        evidence=list(outcome.evidence[:MOST_EVIDENCE]),
        suggestion=rule.suggestion if verdict is Verdict.NOT_MET else "",
    )
