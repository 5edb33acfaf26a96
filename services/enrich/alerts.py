"""What rules make of a call: whom to alert, what to tag, and what shows it."""

from __future__ import annotations

from collections.abc import Sequence, Set
from datetime import datetime

from schemas.events import AlertRaised, CallTranscribed, Evidence, Finding, FindingKind, Role
from services.enrich.conditions import Facts
from services.enrich.rules import Rule
from services.enrich.score import MOST_EVIDENCE

ENGINE = "rules"


def raise_alerts(
    rules: Sequence[Rule],
    facts: Facts,
    event: CallTranscribed,
    doubtful: Set[int],
    now: datetime,
) -> list[AlertRaised]:
    """One alert per rule that has one and holds, in the order of the rules.

    `doubtful` are the segments heard with low confidence: an alert that rests on them alone is
    raised all the same, and its reason says so; so does one whose speakers have no known role.
    """
    raised: list[AlertRaised] = []
    for rule in rules:
        if rule.severity is None:
            continue
        outcome = rule.when.check(facts)
        if not outcome.held:
            continue
        reason = outcome.reason
        quoted = [evidence for evidence in outcome.evidence if evidence.quote]
        if quoted and all(doubtful >= set(evidence.segment_ids) for evidence in quoted):
            reason += "; heard with low confidence only, listen before acting"
        if quoted and all(evidence.role is Role.UNKNOWN for evidence in quoted):
            reason += "; who spoke is not known"
        raised.append(
            AlertRaised(
                tenant_id=event.tenant_id,
                call_id=event.call_id,
                revision=event.revision,
                raised_at=now,
                rule=rule.rule_id,
                rule_version=rule.version,
                severity=rule.severity,
                title=rule.title,
                reason=reason,
                evidence=list(outcome.evidence[:MOST_EVIDENCE]),
                suggested_action=rule.suggestion,
                agent_id=_agent_id(event),
                queue_id=event.call.queue.id if event.call.queue else None,
                call_published_at=event.call.published_at,
            )
        )
    return raised


def tag(rules: Sequence[Rule], facts: Facts) -> list[Finding]:
    """Findings of each rule that has a tag and holds, in the order of the rules.

    One for each of the first MOST_EVIDENCE places that show the rule, so that each quotes what was
    said there; one for the whole conversation, without words, where it rests on no place, as what
    is measured or what telephony knows.
    """
    found: list[Finding] = []
    for rule in rules:
        if not rule.tag:
            continue
        outcome = rule.when.check(facts)
        if not outcome.held:
            continue
        places = outcome.evidence[:MOST_EVIDENCE] or (_whole(facts),)
        found += [
            Finding(
                finding_id=f"rule:{rule.rule_id}:{number}",
                kind=FindingKind.RULE,
                label=rule.tag,
                role=evidence.role,
                evidence=evidence,
                rule=rule.rule_id,
                rule_version=rule.version,
                engine=ENGINE,
                suggestion=rule.suggestion,
            )
            for number, evidence in enumerate(places)
        ]
    return found


def _whole(facts: Facts) -> Evidence:
    start_ms, end_ms = facts.span or (0, 0)
    return Evidence(start_ms=start_ms, end_ms=end_ms, segment_ids=list(facts.ends))


def _agent_id(event: CallTranscribed) -> str | None:
    """The agent who was last on the call: a transferred call belongs to who took it over."""
    agents = [each for each in event.call.participants if each.role is Role.AGENT and each.agent_id]
    if not agents:
        return None
    return max(agents, key=lambda each: each.joined_ms or 0).agent_id
