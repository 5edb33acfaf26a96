"""Scores and alerts, by the built-in rules and by rules of a test's own."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from schemas.events import (
    AlertRaised,
    CallEnriched,
    Criterion,
    Flag,
    Participant,
    Queue,
    Role,
    Segment,
    Severity,
    Verdict,
)
from services.enrich.handler import enrich_call
from services.enrich.rules import Rules, load_rules
from services.enrich.settings import EnrichSettings
from tests.enrich.calls import call, segment, timeline

NOW = datetime(2026, 3, 2, tzinfo=UTC)
RULES = load_rules()


def enrich(segments: list[Segment], rules: Rules = RULES) -> tuple[CallEnriched, list[AlertRaised]]:
    return enrich_call(call(*segments), "t-1", rules, NOW, EnrichSettings())


def spoken(*lines: tuple[str, str]) -> list[Segment]:
    """One segment of two seconds per line, half a second apart."""
    return [segment(who, 2500 * i, 2500 * i + 2000, text, i) for i, (who, text) in enumerate(lines)]


def verdicts(segments: list[Segment]) -> dict[str, Criterion]:
    score = enrich(segments)[0].score
    assert score is not None
    return {criterion.criterion_id: criterion for criterion in score.criteria}


GOOD = (
    ("a", "Good morning, my name is Linda, how can I help you?"),
    ("c", "I am very upset, I want a refund."),
    ("a", "I am sorry about that. I will send the refund today."),
    ("c", "All right."),
    ("a", "Is there anything else? Thank you for calling, goodbye."),
)


def test_a_good_call_meets_everything_with_evidence() -> None:
    enriched, _ = enrich(spoken(*GOOD))
    assert enriched.score is not None
    assert enriched.score.value == 100.0
    assert enriched.score.scorecard == "standard"
    for criterion in enriched.score.criteria:
        assert criterion.verdict is Verdict.MET
        assert criterion.suggestion == ""
    greeting = enriched.score.criteria[0]
    assert greeting.evidence[0].quote == "Good morning"
    assert greeting.evidence[0].segment_ids == [0]
    assert greeting.reason.startswith("agent: “Good morning”")


def test_a_bad_call_says_why_and_what_to_do() -> None:
    found = verdicts(
        spoken(
            ("a", "What do you want?"),
            ("c", "I am angry, where is my refund?"),
            ("a", "That is not my problem."),
        )
    )
    assert found["greeting"].verdict is Verdict.NOT_MET
    assert found["greeting"].suggestion
    assert found["empathy"].verdict is Verdict.NOT_MET
    assert found["courtesy"].verdict is Verdict.NOT_MET
    assert [each.quote for each in found["courtesy"].evidence] == [
        "What do you want",
        "not my problem",
    ]


def test_empathy_applies_to_unhappy_customers_only() -> None:
    found = verdicts(spoken(("a", "Good morning"), ("c", "what time is it"), ("a", "five")))
    assert found["empathy"].verdict is Verdict.NOT_APPLICABLE
    assert found["solution"].verdict is Verdict.NOT_APPLICABLE


def test_what_the_customer_says_does_not_score_for_the_agent() -> None:
    found = verdicts(spoken(("c", "Good morning, my name is Bob"), ("a", "Hm")))
    assert found["greeting"].verdict is Verdict.NOT_MET
    assert found["identification"].verdict is Verdict.NOT_MET


def test_a_greeting_at_the_end_is_none() -> None:
    lines = [("a", "Yes"), ("c", "Hm"), ("a", "So"), ("c", "Hm"), ("a", "Good morning")]
    assert verdicts(spoken(*lines))["greeting"].verdict is Verdict.NOT_MET


def test_slow_answers_and_silences_cost() -> None:
    found = verdicts(timeline(("a", 0, 1000), ("c", 1500, 2000), ("a", 12_000, 13_000)))
    assert found["silence"].verdict is Verdict.NOT_MET
    assert found["silence"].reason == "1 silence above 8 s, the longest 10.0 s"
    assert found["response_time"].verdict is Verdict.NOT_MET
    assert "response_mean_ms is 10000, not below 3000" in found["response_time"].reason


def test_without_an_agent_there_is_no_score() -> None:
    assert enrich(spoken(("c", "hello"), ("u", "hello")))[0].score is None
    assert enrich([])[0].score is None


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([("c", "I am furious, give me my refund")], ["angry_refund"]),
        ([("c", "我要退款，你们太差了")], ["angry_refund"]),
        ([("c", "I want a refund please")], []),
        ([("a", "Customers who are angry get a refund")], []),
        ([("c", "I'm not angry but I want a refund")], []),
        ([("c", "I will call my lawyer")], ["complaint_threat"]),
        ([("u", "I will call my lawyer")], ["complaint_threat"]),
        ([("a", "Would you call your lawyer? I will call my lawyer")], []),
        ([("c", "我要去消协投诉你们")], ["complaint_threat"]),
        ([("c", "I am not going to make a complaint")], []),
        ([("c", "This is terrible"), ("c", "cancel my contract")], ["cancellation_risk"]),
        ([("c", "cancel my contract")], []),
        ([("a", "shut up you idiot")], ["agent_forbidden_words"]),
        ([("c", "shut up you idiot")], []),
        ([("c", "no problem"), ("a", "没问题")], []),
    ],
)
def test_alerts(lines: list[tuple[str, str]], expected: list[str]) -> None:
    enriched, alerts = enrich(spoken(*lines))
    assert enriched.alerts == expected
    assert [alert.rule for alert in alerts] == expected
    for alert in alerts:
        assert alert.evidence
        assert alert.reason
        assert alert.suggested_action


def test_anger_far_from_the_refund_is_no_angry_refund() -> None:
    near = [segment("c", 0, 1000, "refund"), segment("c", 60_000, 61_000, "angry", 1)]
    far = [segment("c", 0, 1000, "refund"), segment("c", 60_001, 61_000, "angry", 1)]
    assert enrich(near)[0].alerts[:1] == ["angry_refund"]
    assert "angry_refund" not in enrich(far)[0].alerts


def test_the_nearest_pair_is_the_evidence() -> None:
    _, (alert,) = enrich(
        [
            segment("c", 0, 1000, "refund"),
            segment("a", 1000, 95_000, "well", 1),
            segment("c", 95_000, 96_000, "I am angry about my refund", 2),
        ]
    )
    assert [each.quote for each in alert.evidence] == ["refund", "angry"]
    assert {each.segment_ids[0] for each in alert.evidence} == {2}
    assert alert.severity is Severity.HIGH


def test_long_silences() -> None:
    one = timeline(("a", 0, 1000), ("c", 9000, 10_000), ("a", 10_500, 11_000))
    two = timeline(("a", 0, 1000), ("c", 9000, 10_000), ("a", 18_500, 19_000))
    few = timeline(("a", 0, 40_000), ("c", 48_500, 90_000), ("a", 98_500, 130_000))
    very = timeline(("a", 0, 1000), ("c", 22_000, 23_000))
    assert enrich(one)[0].alerts == []
    assert enrich(few)[0].alerts == []
    assert enrich(two)[0].alerts == ["long_silence"]
    assert enrich(very)[0].alerts == ["long_silence"]


def test_an_alert_on_doubtful_words_says_so() -> None:
    threat = segment("c", 0, 1000, "I will call my lawyer", flags=[Flag.LOW_CONFIDENCE])
    _, (alert,) = enrich([threat])
    assert "low confidence" in alert.reason
    _, (sure,) = enrich([segment("c", 0, 1000, "I will call my lawyer")])
    assert "low confidence" not in sure.reason


def test_an_alert_on_words_of_an_unknown_speaker_says_so() -> None:
    _, (alert,) = enrich([segment("u", 0, 1000, "I will call my lawyer")])
    assert "who spoke is not known" in alert.reason


def test_invented_words_raise_nothing() -> None:
    loop = segment("c", 0, 1000, "I will call my lawyer", flags=[Flag.REPEAT_LOOP])
    assert enrich([loop])[1] == []


def test_an_alert_names_the_last_agent_and_the_queue() -> None:
    event = call(segment("c", 0, 1000, "I will call my lawyer"))
    event = replace(
        event,
        call=replace(
            event.call,
            queue=Queue(id="returns"),
            participants=[
                Participant(participant_id="2", role=Role.AGENT, agent_id="late", joined_ms=9),
                Participant(participant_id="1", role=Role.AGENT, agent_id="early", joined_ms=1),
            ],
        ),
    )
    _, (alert,) = enrich_call(event, "t-1", RULES, NOW, EnrichSettings())
    assert (alert.agent_id, alert.queue_id) == ("late", "returns")


OWN = """\
version: "1"
alerts:
  - id: one
    title: One
    severity: low
    suggested_action: Listen.
    when: {when}
"""


@pytest.mark.parametrize(
    ("when", "held"),
    [
        ("{topic: refund}", True),
        ("{topic: [billing, refund], by: agent}", False),
        ("{emotion: angry, at_least: 2}", False),
        ("{said: [my ... refund], by: customer, part: opening}", True),
        ("{said: [goodbye], part: closing}", True),
        ("{said: [goodbye], part: opening}", False),
        ("{not: {said: [goodbye]}}", False),
        ("{sentiment: negative, of: customer}", True),
        ("{sentiment: negative, of: agent}", False),
        ("{sentiment: negative, of: bot}", False),
        ("{sentiment: positive, at: end}", True),
        ("{metric: talk_ms, role: customer, above: 100, below: 100000}", True),
        ("{metric: talk_ms, role: customer, above: 100000}", False),
        ("{metric: talk_ms, role: customer, below: 100}", False),
        ("{metric: talk_ms, role: bot, below: 100}", False),
        ("{moment: silence, longer_than_ms: 4000, by: agent}", True),
        ("{moment: overlap}", False),
        ("{all: [{topic: refund}, {topic: billing}]}", False),
        ("{any: [{topic: refund}, {topic: billing}]}", True),
        ("{near: [{topic: refund}, {said: [goodbye]}], within_s: 5}", False),
        ("{near: [{topic: refund}, {said: [goodbye]}], within_s: 50}", True),
        ("{near: [{topic: refund}, {topic: billing}], within_s: 50}", False),
    ],
)
def test_conditions(tmp_path: Path, when: str, held: bool) -> None:
    (tmp_path / "alerts.yaml").write_text(OWN.replace("{when}", when), encoding="utf-8")
    lines = (
        ("c", 0, 3000, "I am very angry, my whole refund is missing"),
        ("a", 8000, 9000, "so"),
        ("c", 9000, 10_000, "hm"),
        ("a", 10_000, 11_000, "so"),
        ("c", 11_000, 12_000, "hm"),
        ("a", 12_000, 13_000, "so"),
        ("c", 13_000, 13_500, "hm"),
        ("a", 13_500, 14_000, "so"),
        ("c", 14_000, 15_000, "I am happy, goodbye"),
    )
    enriched, _ = enrich(timeline(*lines), load_rules(tmp_path))
    assert bool(enriched.alerts) is held
