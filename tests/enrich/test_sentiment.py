from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import (
    Flag,
    Moment,
    MomentKind,
    Role,
    Segment,
    SegmentSentiment,
    SentimentLabel,
    VoiceEmotion,
)
from services.enrich.findings import hear
from services.enrich.rules import load_rules
from services.enrich.sentiment import (
    SEGMENT_EDGE,
    SENTIMENT_METRICS,
    TURN_WINDOW,
    VOICE_SCORES,
    Sentiment,
    by_role,
    course,
    fused,
    label,
    sentiment_metrics,
    sentiments,
    turning_points,
)
from tests.enrich.calls import segment

RULES = load_rules()
A, C = Role.AGENT, Role.CUSTOMER
WORSE, BETTER = MomentKind.TURN_WORSE, MomentKind.TURN_BETTER
PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def felt(text: str, emotion: VoiceEmotion, **more: Any) -> SegmentSentiment:
    said = segment("c", 0, 1000, text, emotion=emotion, **more)
    heard = hear([said], RULES.scanner)
    (found,) = sentiments([said], heard.matches, heard.said, RULES.languages, "und", "sensevoice")
    return found


def test_words_and_voice_are_told_apart_and_fused() -> None:
    assert felt("I am happy", VoiceEmotion.SAD) == SegmentSentiment(
        segment_id=0,
        role=C,
        label=SentimentLabel.POSITIVE,
        score=0.31,  # 0.7 × 0.7 - 0.3 × 0.6
        engine="lexicon+voice:sensevoice",
        text_score=0.7,
        voice_score=-0.6,
        voice="sad",
    )


def test_a_voice_can_tell_what_plain_words_do_not() -> None:
    found = felt("my order number is seven", VoiceEmotion.ANGRY)
    assert (found.text_score, found.voice_score, found.score) == (0.0, -1.0, -0.3)
    assert found.label is SentimentLabel.NEGATIVE


def test_words_alone_are_what_they_were() -> None:
    found = felt("I am happy", VoiceEmotion.UNKNOWN)
    assert (found.score, found.text_score, found.voice_score) == (0.7, 0.7, None)
    assert (found.voice, found.engine) == ("", "lexicon")


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("", {}),
        ("...", {}),
        ("ich bin sehr wütend", {"language": "de"}),
        ("I am happy", {"flags": [Flag.REPEAT_LOOP]}),
    ],
)
def test_a_voice_alone_counts_half(text: str, more: dict[str, object]) -> None:
    found = felt(text, VoiceEmotion.DISGUSTED, **more)
    assert (found.score, found.text_score, found.voice_score) == (-0.4, None, -0.8)
    assert (found.label, found.voice) == (SentimentLabel.NEGATIVE, "disgusted")
    assert found.engine == "voice:sensevoice"


def test_a_neutral_voice_alone_is_neutral_and_known() -> None:
    found = felt("", VoiceEmotion.NEUTRAL)
    assert (found.label, found.score, found.voice_score) == (SentimentLabel.NEUTRAL, 0.0, 0.0)


@pytest.mark.parametrize(
    ("emotion", "more"),
    [
        (VoiceEmotion.UNKNOWN, {}),
        (VoiceEmotion.ANGRY, {"flags": [Flag.NO_SPEECH]}),
        (VoiceEmotion.ANGRY, {"flags": [Flag.INSIDE_HOLD, Flag.LOW_CONFIDENCE]}),
        (VoiceEmotion.ANGRY, {"flags": [Flag.INSIDE_SILENCE]}),
    ],
)
def test_what_neither_tells_is_unknown(emotion: VoiceEmotion, more: dict[str, object]) -> None:
    assert felt("", emotion, **more) == SegmentSentiment(
        segment_id=0, role=C, label=SentimentLabel.UNKNOWN, score=0.0, engine="lexicon"
    )


def test_unknown_takes_no_part_in_any_mean() -> None:
    segments = [
        segment("c", 0, 1000, "", 0),
        segment("c", 1000, 2000, "", 1, emotion=VoiceEmotion.HAPPY),
    ]
    found = sentiments(segments, {}, (), RULES.languages, "en")
    assert by_role(segments, found) == {C: Sentiment(0.4, 0.4, 0.4)}
    assert [(point.quarter, point.score) for point in course(segments, found)] == [(3, 0.4)]


SCORES = st.floats(-1, 1).map(lambda score: round(score, 4))


@given(SCORES | st.none(), SCORES | st.none())
def test_fused_lies_between_what_is_known(text: float | None, voice: float | None) -> None:
    both = fused(text, voice)
    known = [score for score in (text, voice) if score is not None]
    if not known:
        assert both is None
    elif text is None:
        assert both == pytest.approx(known[0] / 2, abs=1e-4)
    else:
        assert both is not None
        assert min(known) - 1e-4 <= both <= max(known) + 1e-4
        nearer = abs(both - text) <= abs(both - known[-1]) + 1e-4
        assert nearer


def test_every_voice_has_a_score_and_the_page_tells_it() -> None:
    assert set(VOICE_SCORES) == set(VoiceEmotion)
    page = PAGE.read_text(encoding="utf-8")
    table = page[page.index("| voice | score |") :]
    told: dict[str, float | None] = {}
    for names, number in re.findall(r"^\| ([a-z, ]+) \| ([−\d.]+|none) \|$", table, re.MULTILINE):
        for name in names.split(", "):
            told[name] = None if number == "none" else float(number.replace("−", "-"))
    assert told == {emotion.value.lower(): score for emotion, score in VOICE_SCORES.items()}


def test_metrics_are_named_after_the_role() -> None:
    found = sentiment_metrics(Sentiment(0.1, -0.2, 0.3), C)
    assert {metric.name: metric.value for metric in found} == {
        "customer_sentiment": 0.1,
        "customer_sentiment_start": -0.2,
        "customer_sentiment_end": 0.3,
    }
    assert len(SENTIMENT_METRICS) == 3
    assert {metric.role for metric in found} == {C}


def felt_call(
    scores: Sequence[float | None], who: str = "c", first: int = 0
) -> tuple[list[Segment], list[SegmentSentiment]]:
    """A segment a score, 1000 ms apart; None is unknown."""
    segments = [
        segment(who, 1000 * i, 1000 * i + 900, number=first + i) for i in range(len(scores))
    ]
    return segments, [
        SegmentSentiment(
            segment_id=each.segment_id,
            role=each.role,
            label=SentimentLabel.UNKNOWN if score is None else label(score, SEGMENT_EDGE),
            score=score or 0.0,
            engine="lexicon",
        )
        for each, score in zip(segments, scores, strict=True)
    ]


def turns(scores: Sequence[float | None], who: str = "c") -> list[tuple[MomentKind, list[int]]]:
    return [(m.kind, m.segment_ids) for m in turning_points(*felt_call(scores, who))]


def test_a_turn_says_when_who_and_what_bears_it_out() -> None:
    assert turning_points(*felt_call([0, 0.2, 0, 0, -0.7, 0, -0.5, 0, -0.6])) == [
        Moment(kind=WORSE, start_ms=4000, end_ms=6900, role=C, segment_ids=[4, 6])
    ]
    (found,) = turning_points(*felt_call([0, 0, 0, 0.5, 0.5], "a"))
    assert (found.kind, found.role, found.segment_ids) == (BETTER, A, [3, 4])


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        # Angry, then pleased; calm in between is no turn.
        ([0, 0, 0, -1, -1, -1, 0, 0, 0, 1, 1, 1], [(WORSE, [3, 4, 5]), (BETTER, [9, 10, 11])]),
        # Straight from one to the other.
        ([0, 0, 0, -1, -1, -1, -1, 1, 1, 1], [(WORSE, [3, 4, 5, 6]), (BETTER, [7, 8, 9])]),
        # Angry, calm, angry again.
        ([0, 0, 0, -1, -1, 0, 0, 0, 0, -1, -1], [(WORSE, [3, 4]), (WORSE, [9, 10])]),
        # Angry on and off is one turn.
        ([0, 0, 0, -1, 0, -1, 0, -1, 0, 0, -1, -1], [(WORSE, [3, 5])]),
        # What is unknown is as if it were not there.
        ([0, None, 0, 0, None, -1, None, None, None, -1], [(WORSE, [5, 9])]),
        # One word before does not hide the turn.
        ([0, 0, 0, -1, 0, 0, 0, -1, -1, -1], [(WORSE, [7, 8, 9])]),
        # How a role began is no turn.
        ([-1, -1, -1, -1, 0, 0], []),
        ([0, 0, -1, -1, -1], []),
        # Torn, not turned.
        ([0, 0, 0, -1, 1, -1, 1, -1, 1], []),
        # One word, however strong, at the end too.
        ([0, 0, 0, -1, 0, 0, 0, 0], []),
        ([0, 0, 0, 0, -1], []),
        # Politeness is no feeling.
        ([0, 0, 0, 0.2, 0.2, 0.2, 0.2], []),
        # Too small a step.
        ([0, 0, 0, -0.35, 0, -0.35, 0, 0], []),
        # It was bad before, or is not bad after.
        ([-0.2, -0.2, -0.2, -1, -1], []),
        ([0.2, 0.2, 0.2, -0.3, -0.3, 0.2, 0.2], []),
        ([], []),
    ],
)
def test_turns(scores: list[float | None], expected: list[tuple[MomentKind, list[int]]]) -> None:
    assert turns(scores) == expected
    mirrored = [None if score is None else -score for score in scores]
    other = {WORSE: BETTER, BETTER: WORSE}
    assert turns(mirrored) == [(other[kind], ids) for kind, ids in expected]


def test_each_role_turns_by_itself() -> None:
    customer, angry = felt_call([0, 0, 0, -1, -1])
    agent, calm = felt_call([0, 0, 0, 0, 0, 1, 1], "a", first=10)
    found = turning_points([*agent, *customer], [*calm, *angry])
    assert [(m.kind, m.role) for m in found] == [(WORSE, C), (BETTER, A)]


def test_a_speaker_of_no_known_role_has_no_turns() -> None:
    assert turns([0, 0, 0, -1, -1], "u") == []


CALLS = st.lists(st.sampled_from([-1.0, -0.6, -0.3, 0.0, 0.0, 0.2, 0.5, 1.0]), max_size=40)


@given(CALLS, st.integers(0, 39), SCORES)
def test_one_segment_alone_is_no_turn(scores: list[float], at: int, score: float) -> None:
    calm = [0.0] * len(scores)
    if at < len(calm):
        calm[at] = score
    assert turns(calm) == []


@given(CALLS, st.randoms(use_true_random=False), st.integers(0, 10**7))
def test_turns_hold_whatever_the_order_and_the_clock(
    scores: list[float], random: Random, shift: int
) -> None:
    segments, found = felt_call(scores)
    expected = turning_points(segments, found)
    later = [
        replace(each, start_ms=each.start_ms + shift, end_ms=each.end_ms + shift)
        for each in segments
    ]
    random.shuffle(later)
    random.shuffle(found)
    assert turning_points(later, found) == [
        replace(m, start_ms=m.start_ms + shift, end_ms=m.end_ms + shift) for m in expected
    ]


@given(CALLS)
def test_a_turn_is_borne_out(scores: list[float]) -> None:
    found = turning_points(*felt_call(scores))
    for moment in found:
        at = moment.segment_ids[0]
        assert at >= 3
        assert len(moment.segment_ids) >= 2
        assert moment.segment_ids[-1] < at + TURN_WINDOW
        sign = -1 if moment.kind is WORSE else 1
        assert all(sign * scores[i] >= SEGMENT_EDGE for i in moment.segment_ids)
    for one, other in pairwise(found):
        if one.kind is other.kind:
            sign = -1 if other.kind is WORSE else 1
            at = other.segment_ids[0]
            assert all(sign * score < SEGMENT_EDGE for score in scores[at - TURN_WINDOW : at])
