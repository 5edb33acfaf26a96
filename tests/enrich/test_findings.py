from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Evidence, Finding, Flag, Role, SentimentLabel
from services.enrich.findings import Places, hear
from services.enrich.rules import load_rules
from services.enrich.sentiment import by_role, course, label, sentiments
from tests.enrich.calls import segment

RULES = load_rules()


def heard(who: str, text: str, **more: object) -> dict[str, Finding]:
    found = hear([segment(who, 1000, 3000, text, 7, **more)], RULES.scanner).findings
    return {finding.label: finding for finding in found}


def test_evidence_is_the_words_with_the_times_they_were_heard() -> None:
    words = ["I", "want", "a", "REFUND,", "now"]
    finding = heard(
        "c",
        "I want a REFUND, now",
        words=words,
        word_start_ms=[1000, 1100, 1200, 1300, 2000],
        word_end_ms=[1100, 1200, 1300, 1900, 2500],
    )["refund"]
    assert finding.evidence == Evidence(
        start_ms=1300, end_ms=1900, segment_ids=[7], role=Role.CUSTOMER, quote="REFUND"
    )
    assert finding.finding_id == "topic:refund:7:9"
    assert finding.rule == "topics/refund"
    assert finding.rule_version == "1.1"
    assert finding.confidence is None


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"words": ["I"], "word_start_ms": [], "word_end_ms": []},
        {"words": ["other"], "word_start_ms": [5], "word_end_ms": [6]},
    ],
)
def test_without_word_times_evidence_is_in_proportion_to_the_text(more: dict[str, object]) -> None:
    evidence = heard("c", "0123456789 12345 refund", **more)["refund"].evidence
    assert (evidence.quote, evidence.end_ms) == ("refund", 3000)
    assert evidence.start_ms == 1000 + 2000 * 17 // 23


@given(st.text(max_size=40), st.integers(0, 40), st.integers(0, 40), st.integers(0, 5000))
def test_evidence_lies_within_its_segment(text: str, one: int, other: int, lasts: int) -> None:
    start, end = sorted((min(one, len(text)), min(other, len(text))))
    evidence = Places(segment("c", 1000, 1000 + lasts, text)).evidence(start, end)
    assert 1000 <= evidence.start_ms <= evidence.end_ms <= 1000 + lasts
    assert evidence.quote in text


def test_an_agent_reading_terms_or_quoting_is_not_the_customers_emotion() -> None:
    text = "You said you were angry and want a refund, I understand you are not satisfied"
    assert set(heard("a", text)) == {"refund"}
    assert {"angry", "dissatisfied", "refund"} <= set(heard("c", text))


def test_an_unknown_role_counts_with_half_confidence() -> None:
    found = heard("u", "I am angry, I want a refund")
    assert found["angry"].confidence == 0.5
    assert found["refund"].confidence is None


def test_menus_have_no_topic() -> None:
    assert heard("i", "For billing press one, for a refund press two") == {}


@pytest.mark.parametrize("flag", [Flag.NO_SPEECH, Flag.REPEAT_LOOP, Flag.INSIDE_HOLD])
def test_words_that_were_not_said_count_for_nothing(flag: Flag) -> None:
    assert heard("c", "I am angry, I want a refund", flags=[flag]) == {}


def test_low_confidence_counts_and_is_told() -> None:
    found = heard("c", "I want a refund", flags=[Flag.LOW_CONFIDENCE], confidence=0.3)
    assert found["refund"].confidence == 0.3


def felt(*parts: tuple[str, str], language: str = "en") -> list[tuple[SentimentLabel, float]]:
    segments = [
        segment(who, 1000 * i, 1000 * i + 900, text, i, language=language)
        for i, (who, text) in enumerate(parts)
    ]
    heard_ = hear(segments, RULES.scanner)
    found = sentiments(segments, heard_.matches, heard_.said, RULES.languages, "und")
    return [(each.label, each.score) for each in found]


def test_sentiment_of_segments() -> None:
    assert felt(
        ("c", "I am very angry"),
        ("c", "My order number is seven"),
        ("c", "I am happy"),
        ("c", "thank you"),
        ("c", ""),
        ("c", "..."),
        ("a", "I am angry too"),
        ("i", "welcome"),
    ) == [
        (SentimentLabel.NEGATIVE, -1.0),
        (SentimentLabel.NEUTRAL, 0.0),
        (SentimentLabel.POSITIVE, 0.7),
        (SentimentLabel.NEUTRAL, 0.2),
        (SentimentLabel.UNKNOWN, 0.0),
        (SentimentLabel.UNKNOWN, 0.0),
        (SentimentLabel.NEUTRAL, 0.0),
    ]


def test_a_language_without_lexicon_is_unknown_not_neutral() -> None:
    assert felt(("c", "ich bin sehr wütend"), language="de") == [(SentimentLabel.UNKNOWN, 0.0)]
    assert felt(("c", "eine Frage"), language="de-AT") == [(SentimentLabel.UNKNOWN, 0.0)]
    assert felt(("c", "my order"), language="en-GB") == [(SentimentLabel.NEUTRAL, 0.0)]


def test_course_start_and_end() -> None:
    texts = ["I am furious", "so so", "well", "my number", "let me see", "I am happy"]
    segments = [segment("c", 1000 * i, 1000 * (i + 1), text, i) for i, text in enumerate(texts)]
    heard_ = hear(segments, RULES.scanner)
    found = sentiments(segments, heard_.matches, heard_.said, RULES.languages, "en")
    points = [(point.quarter, point.label, point.score) for point in course(segments, found)]
    assert points == [
        (1, SentimentLabel.NEGATIVE, -1.0),
        (2, SentimentLabel.NEUTRAL, 0.0),
        (3, SentimentLabel.NEUTRAL, 0.0),
        (4, SentimentLabel.POSITIVE, 0.35),
    ]
    customer = by_role(segments, found)[Role.CUSTOMER]
    assert customer.start == -0.5
    assert customer.end == 0.35
    assert customer.whole == pytest.approx(-0.05)
    assert label(customer.whole) is SentimentLabel.NEUTRAL


def test_nothing_known_has_no_course() -> None:
    silent = [segment("c", 0, 1000, "")]
    found = sentiments(silent, {}, (), RULES.languages, "en")
    assert course(silent, found) == []
    assert by_role(silent, found) == {}
