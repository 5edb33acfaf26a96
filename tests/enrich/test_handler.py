from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.checks import problem_with
from schemas.events import (
    AlertRaised,
    CallEnriched,
    CallTranscribed,
    Evidence,
    FindingKind,
    Flag,
    Segment,
)
from schemas.examples import EXAMPLES
from schemas.topics import BY_RECORD
from services.enrich.handler import enrich_call, stage
from services.enrich.rules import load_rules
from services.enrich.settings import EnrichSettings
from services.runtime.log import Message
from services.runtime.stage import Envelope, Output
from tests.enrich.calls import call, segment

NOW = datetime(2026, 3, 2, tzinfo=UTC)
RULES = load_rules()
TRANSCRIPTS = EXAMPLES["CallTranscribed"]


def handled(event: CallTranscribed, **tenant_rules: object) -> list[Output]:
    enrich = stage(EnrichSettings(), RULES, lambda: NOW, {**tenant_rules})  # type: ignore[dict-item]
    message = Message("calls.transcribed", 0, 0, b"t/c", b"", (), 0)
    ((index, outcome),) = enrich.handle([Envelope(event, message, "event-1")])
    assert index == 0
    assert not isinstance(outcome, Exception)
    return list(outcome)


@pytest.mark.parametrize("name", sorted(TRANSCRIPTS))
def test_every_example_twice_gives_the_same(name: str) -> None:
    event = TRANSCRIPTS[name]
    assert isinstance(event, CallTranscribed)
    outputs = handled(event)
    assert outputs == handled(event)
    enriched = outputs[0].event
    assert isinstance(enriched, CallEnriched)
    assert enriched.transcript_id == "event-1"
    assert (enriched.tenant_id, enriched.call_id) == (event.tenant_id, event.call_id)
    assert enriched.revision == event.revision
    assert enriched.rules_version == RULES.version
    alerts = [output.event for output in outputs[1:]]
    assert [alert.rule for alert in alerts] == enriched.alerts
    assert len({finding.finding_id for finding in enriched.findings}) == len(enriched.findings)
    for output in outputs:
        assert problem_with(output.event) is None
    for evidence in _evidence(enriched, alerts):
        _check(evidence, event)


def _evidence(enriched: CallEnriched, alerts: list[AlertRaised]) -> list[Evidence]:
    return [
        *(finding.evidence for finding in enriched.findings),
        *(each for c in (enriched.score.criteria if enriched.score else ()) for each in c.evidence),
        *(each.evidence for each in (enriched.summary.sentences if enriched.summary else ())),
        *(each for alert in alerts for each in alert.evidence),
    ]


def _check(evidence: Evidence, event: CallTranscribed) -> None:
    segments = {each.segment_id: each for each in event.segments}
    assert evidence.start_ms <= evidence.end_ms
    assert evidence.segment_ids
    for number in evidence.segment_ids:
        if evidence.quote:
            assert evidence.quote in segments[number].text
            assert segments[number].start_ms <= evidence.start_ms
            assert evidence.end_ms <= segments[number].end_ms


def test_the_stage_reads_and_writes_its_topics() -> None:
    enrich = stage(EnrichSettings(), RULES)
    assert enrich.name == "enrich"
    assert enrich.sources == (BY_RECORD["CallTranscribed"].name,)
    made = ("CallEnriched", "AlertRaised", "SummaryRequested", "ReplayRequested")
    assert enrich.targets == tuple(BY_RECORD[record].name for record in made)


def test_an_alert_is_named_after_its_rule() -> None:
    outputs = handled(call(segment("c", 0, 1000, "I will call my lawyer")))
    assert [output.about for output in outputs] == [None, "event-1/complaint_threat"]


def test_a_tenants_own_rules_are_used() -> None:
    own = replace(RULES, version="9+tenant")
    event = call(segment("c", 0, 1000, "hello"))
    assert handled(event, local=own)[0].event.rules_version == "9+tenant"
    assert handled(event, acme=own)[0].event.rules_version == RULES.version


def test_the_order_of_segments_does_not_matter() -> None:
    event = call(
        segment("a", 0, 1000, "hello"),
        segment("c", 2000, 3000, "I am angry", 1),
        segment("c", 4000, 5000, "refund", 2),
    )
    backward = replace(event, segments=event.segments[::-1])
    one = enrich_call(event, "t", RULES, NOW, EnrichSettings())
    assert one == enrich_call(backward, "t", RULES, NOW, EnrichSettings())


def test_odd_segments_are_no_error() -> None:
    event = call(
        segment("c", 5000, 5000, "I want a refund"),
        segment("c", 9000, 8000, "I am angry", 1),
        segment("c", 9000, 9500, "", 2, language=""),
        segment("c", 9000, 9500, "refund", 3, words=["x"], word_start_ms=[1], word_end_ms=[2]),
    )
    enriched, _ = enrich_call(event, "t", RULES, NOW, EnrichSettings())
    assert {finding.label for finding in enriched.findings} >= {"refund", "angry"}
    for finding in enriched.findings:
        assert finding.evidence.start_ms <= finding.evidence.end_ms


def test_an_eight_hour_call_of_one_segment_is_handled() -> None:
    words = ["I", "am", "angry,", "I", "want", "a", "refund."] * 9_000
    starts = [i * 450 for i in range(len(words))]
    event = call(
        segment(
            "c",
            0,
            len(words) * 450,
            " ".join(words),
            words=words,
            word_start_ms=starts,
            word_end_ms=[start + 400 for start in starts],
        )
    )
    enriched, alerts = enrich_call(event, "t", RULES, NOW, EnrichSettings())
    heard = [each for each in enriched.findings if each.kind is not FindingKind.RULE]
    assert len(heard) == 18_000
    assert [alert.rule for alert in alerts] == ["angry_refund"]
    assert len(alerts[0].evidence) == 2


PIECES = ["I am angry", "不满意", "refund", "?", "我要投诉", "well", "thank you", "不", "not", ""]


@st.composite
def segments(draw: st.DrawFn) -> list[Segment]:
    found: list[Segment] = []
    for number in range(draw(st.integers(0, 12))):
        start = draw(st.integers(0, 100_000))
        text = " ".join(draw(st.lists(st.sampled_from(PIECES), max_size=5)))
        words = text.split() if draw(st.booleans()) else []
        lasts = draw(st.integers(0, 20_000))
        step = lasts // max(len(words), 1)
        found.append(
            segment(
                draw(st.sampled_from("acui")),
                start,
                start + lasts,
                text,
                number,
                channel=draw(st.integers(0, 1)),
                language=draw(st.sampled_from(["en", "zh", "und", "de", "en-GB"])),
                flags=draw(st.lists(st.sampled_from(list(Flag)), max_size=1)),
                words=words,
                word_start_ms=[start + i * step for i in range(len(words))],
                word_end_ms=[start + (i + 1) * step for i in range(len(words))],
            )
        )
    return sorted(found, key=lambda each: (each.start_ms, each.channel))


@given(segments())
def test_any_call_gives_sound_events_and_the_same_twice(parts: list[Segment]) -> None:
    event = call(*parts)
    enriched, alerts = enrich_call(event, "t", RULES, NOW, EnrichSettings())
    assert (enriched, alerts) == enrich_call(event, "t", RULES, NOW, EnrichSettings())
    assert [problem_with(each) for each in (enriched, *alerts)] == [None] * (1 + len(alerts))
    assert len({finding.finding_id for finding in enriched.findings}) == len(enriched.findings)
    for evidence in _evidence(enriched, alerts):
        _check(evidence, event)
