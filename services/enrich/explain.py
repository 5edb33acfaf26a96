"""Why a rule holds for a call or does not, and whether each does what its examples say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from schemas.events import Verdict
from services.enrich.conditions import Facts, Outcome
from services.enrich.ground import ground
from services.enrich.rules import CriterionRule, Example, Rule, Rules
from services.enrich.score import judge
from services.enrich.settings import EnrichSettings

_VERDICTS = {
    Verdict.MET: True, Verdict.NOT_MET: False, Verdict.NOT_APPLICABLE: None, Verdict.UNKNOWN: None,
}  # fmt: skip
_HELD = {True: "holds", False: "does not hold", None: "does not apply"}


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one rule or criterion makes of a call."""

    kind: str
    """rule, alert (a rule that raises one) or criterion."""
    name: str
    version: str
    title: str
    held: bool | None
    """Of a criterion: met, not met, None where it does not apply, or a language model judges."""
    outcome: Outcome
    """What decided it."""
    applies: Outcome | None = None
    """Whether a criterion applies, of one that asks."""
    question: str = ""
    """What a language model is asked to judge by, of a criterion that applies."""

    @property
    def verdict(self) -> str:
        """In words."""
        if self.kind != "criterion":
            return "held" if self.held else "not held"
        if self.question:
            return "judged by a language model"
        return {True: "met", False: "not met", None: "not applicable"}[self.held]


def explain(rules: Rules, facts: Facts) -> list[Explanation]:
    """Every rule, then every criterion, in the order of their files."""
    return [
        *(_of_rule(rule, facts) for rule in rules.rules),
        *(_of_criterion(rules, criterion, facts) for criterion in rules.scorecard.criteria),
    ]


def _of_rule(rule: Rule, facts: Facts) -> Explanation:
    outcome = rule.when.check(facts)
    kind = "alert" if rule.severity is not None else "rule"
    return Explanation(kind, rule.rule_id, rule.version, rule.title, outcome.held, outcome)


def _of_criterion(rules: Rules, criterion: CriterionRule, facts: Facts) -> Explanation:
    verdict, outcome = judge(criterion, facts)
    return Explanation(
        "criterion",
        criterion.criterion_id,
        rules.scorecard.version,
        criterion.title,
        _VERDICTS[verdict],
        outcome,
        criterion.applies_when.check(facts) if criterion.applies_when is not None else None,
        criterion.question if verdict is Verdict.UNKNOWN else "",
    )


@dataclass(frozen=True, slots=True)
class Trial:
    """An example held against what it is an example of."""

    example: Example
    found: Explanation

    @property
    def passed(self) -> bool:
        return self.found.held is self.example.holds

    @property
    def problem(self) -> str:
        """Why it failed, in a line; empty where it passed."""
        if self.passed:
            return ""
        return (
            f"{self.found.name} {_HELD[self.found.held]}, and {_HELD[self.example.holds]} "
            f"by its example: {self.found.outcome.reason}"
        )


def try_examples(rules: Rules, settings: EnrichSettings) -> Iterator[Trial]:
    """Every example of every rule and criterion, in the order of the files."""
    for rule in rules.rules:
        for example, facts in _examples(rule.examples, rules, settings):
            yield Trial(example, _of_rule(rule, facts))
    for criterion in rules.scorecard.criteria:
        for example, facts in _examples(criterion.examples, rules, settings):
            yield Trial(example, _of_criterion(rules, criterion, facts))


def _examples(
    examples: Sequence[Example], rules: Rules, settings: EnrichSettings
) -> Iterator[tuple[Example, Facts]]:
    for example in examples:
        facts = ground(example.event, rules, settings).facts
        metrics = dict(facts.metrics)
        if isinstance(held_ms := example.call.get("hold_ms"), float):
            metrics["hold_ms", None] = held_ms
        yield example, replace(facts, call={**facts.call, **example.call}, metrics=metrics)
