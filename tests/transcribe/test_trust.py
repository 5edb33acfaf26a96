from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.events import Flag
from services.transcribe.engine import HeardSegment
from services.transcribe.settings import TrustSettings
from services.transcribe.spans import Span
from services.transcribe.trust import flags, repeats

SETTINGS = TrustSettings()


def heard(text: str = "good morning", **changes: float) -> HeardSegment:
    segment = HeardSegment(text=text, start_ms=0, end_ms=1_000, language="en")
    return replace(segment, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("segment", "expected"),
    [
        (heard(), []),
        (heard(confidence=0.49), [Flag.LOW_CONFIDENCE]),
        (heard(confidence=0.5), []),
        (heard(no_speech=0.9, logprob=-1.5), [Flag.NO_SPEECH]),
        (heard(no_speech=0.9, logprob=-0.2), []),
        (heard(no_speech=0.1, logprob=-1.5), []),
        (heard("thank you " * 8, confidence=0.1), [Flag.REPEAT_LOOP, Flag.LOW_CONFIDENCE]),
    ],
)
def test_flags(segment: HeardSegment, expected: list[Flag]) -> None:
    assert flags(segment, Span(0, 1_000), [], SETTINGS) == expected


def test_words_of_an_unknown_language_are_not_trusted() -> None:
    segment = replace(heard(confidence=0.9), language="und")
    assert flags(segment, Span(0, 1_000), [], SETTINGS) == [Flag.LOW_CONFIDENCE]


def test_speech_mostly_inside_a_hold_is_flagged() -> None:
    assert flags(heard(), Span(0, 1_000), [Span(400, 5_000)], SETTINGS) == [Flag.INSIDE_HOLD]
    assert flags(heard(), Span(0, 1_000), [Span(600, 5_000)], SETTINGS) == []


@pytest.mark.parametrize(
    "text",
    [
        "okay okay okay okay okay okay",
        "I see, I see. I see! I see",
        "请订阅请订阅请订阅请订阅",
        "the quick brown fox jumps over the lazy dog " * 4,
    ],
)
def test_loops_are_told(text: str) -> None:
    assert repeats(text, SETTINGS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no no no",
        "bye bye",
        "four four four two",
        "i would like to exchange it for a larger size please and i would like to know the price",
        "我对这个产品非常不满意，我要退款。非常抱歉，请告诉我您的订单号。",
    ],
)
def test_ordinary_repetition_is_no_loop(text: str) -> None:
    assert not repeats(text, SETTINGS)
