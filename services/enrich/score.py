"""Quality score: a scorecard held against a call, and what rules add to or take from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from schemas.events import Criterion, Evidence, QualityScore, Role, ScoreChange, Verdict
from services.enrich.conditions import Facts, Outcome
from services.enrich.rules import CriterionRule, Rule, Scorecard

# So much evidence convinces; more only fills the record.
MOST_EVIDENCE = 5


class Judgement(NamedTuple):
    """A verdict that no rule gives."""

    verdict: Verdict
    reason: str
    evidence: Sequence[Evidence] = ()
    engine: str = ""
    """The model that judged; empty where none did."""


# Verdicts that leave a criterion out of the score.
LEFT_OUT = frozenset((Verdict.NOT_APPLICABLE, Verdict.UNKNOWN))


def asked(scorecard: Scorecard, facts: Facts) -> dict[str, str]:
    """Criterion id -> question, of those that a language model judges and that apply."""
    if ("talk_ms", Role.AGENT) not in facts.metrics:
        return {}
    return {
        rule.criterion_id: rule.question
        for rule in scorecard.criteria
        if rule.met_when is None
        and (rule.applies_when is None or rule.applies_when.check(facts).held)
    }


def score(
    scorecard: Scorecard,
    facts: Facts,
    rules: Sequence[Rule] = (),
    judged: Mapping[str, Judgement] = {},
) -> QualityScore | None:
    """Weight met over weight applicable, 0.0 to 100.0, with the reason of every verdict.

    Then the points of each of `rules` that holds, in their order; the sum is kept within 0.0 to
    100.0 once, at the end. A criterion that a language model judges has the verdict, reason,
    evidence and engine of that in `judged`; UNKNOWN, where there is none, counts as little as one
    that does not apply. None where no agent was heard, or no criterion counts.
    """
    if ("talk_ms", Role.AGENT) not in facts.metrics:
        return None
    criteria = [_criterion(rule, facts, judged) for rule in scorecard.criteria]
    applicable = sum(c.weight for c in criteria if c.verdict not in LEFT_OUT)
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
    if rule.met_when is None:
        return Verdict.UNKNOWN, Outcome(False, "a language model is asked, and none has answered")
    outcome = rule.met_when.check(facts)
    return Verdict.MET if outcome.held else Verdict.NOT_MET, outcome


def _criterion(rule: CriterionRule, facts: Facts, judged: Mapping[str, Judgement]) -> Criterion:
    verdict, outcome = judge(rule, facts)
    if verdict is Verdict.UNKNOWN and (known := judged.get(rule.criterion_id)) is not None:
        return Criterion(
            criterion_id=rule.criterion_id,
            title=rule.title,
            verdict=known.verdict,
            weight=rule.weight,
            reason=known.reason,
            evidence=list(known.evidence[:MOST_EVIDENCE]),
            suggestion=rule.suggestion if known.verdict is Verdict.NOT_MET else "",
            **({"engine": known.engine} if known.engine else {}),
        )
    return Criterion(
        criterion_id=rule.criterion_id,
        title=rule.title,
        verdict=verdict,
        weight=rule.weight,
        reason=outcome.reason,
        evidence=list(outcome.evidence[:MOST_EVIDENCE]),
        suggestion=rule.suggestion if verdict is Verdict.NOT_MET else "",
    )
