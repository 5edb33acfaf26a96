from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Flag
from services.transcribe.engine import HeardSegment, HeardWord
from services.transcribe.settings import TrustSettings
from services.transcribe.spans import Span, joined, total_ms
from services.transcribe.trust import flags, repeats, unheard_ms

SETTINGS = TrustSettings()
PLACED = (HeardWord(text="good", start_ms=0, end_ms=400),)


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
        (
            heard("thank you " * 8, confidence=0.1),
            [Flag.REPEAT_LOOP, Flag.LOW_CONFIDENCE, Flag.TOO_FAST],
        ),
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


@pytest.mark.parametrize(
    ("voiced", "expected"),
    [
        (None, []),
        ([Span(0, 4_000)], []),
        ([Span(1_000, 2_000)], [Flag.INSIDE_SILENCE]),
        ([Span(1_000, 2_500)], []),  # with the margins on its sides it is half of it
        ([Span(0, 300), Span(3_800, 4_000)], [Flag.INSIDE_SILENCE]),
        ([Span(0, 900), Span(1_300, 1_800), Span(9_000, 9_500)], []),
        ([Span(-9_000, -300), Span(4_300, 9_000)], [Flag.INSIDE_SILENCE]),
        ([], [Flag.INSIDE_SILENCE]),
    ],
)
def test_text_where_no_voice_is_heard_is_flagged(
    voiced: list[Span] | None, expected: list[Flag]
) -> None:
    segment = replace(heard(), end_ms=4_000, words=PLACED)
    assert flags(segment, Span(0, 4_000), [], SETTINGS, voiced) == expected


def test_a_segment_without_times_of_words_is_silent_only_where_no_voice_is() -> None:
    """Servers that give text alone: half a second of voice in three of its window."""
    segment = replace(heard(), end_ms=4_000)
    assert flags(segment, Span(0, 4_000), [], SETTINGS, [Span(1_500, 2_000)]) == []
    unplaced = replace(segment, words=(HeardWord(text="good"), HeardWord(text="morning")))
    assert flags(unplaced, Span(0, 4_000), [], SETTINGS, [Span(1_500, 2_000)]) == []
    assert flags(segment, Span(0, 4_000), [], SETTINGS, []) == [Flag.INSIDE_SILENCE]


@pytest.mark.parametrize(
    ("text", "length_ms", "fast"),
    [
        # An auctioneer's 400 words a minute are 6.7 a second.
        ("one two three four five six seven", 1_000, False),
        ("a b c d e f g h i j k l m n o p q r s t", 3_000, False),
        ("a b c d e f g h i j k l m n o p q r s t", 2_000, True),
        ("thank you for watching", 100, False),
        ("thank you for watching and see you in the next video", 100, True),
        ("对不起我听不清楚请您再说", 1_000, False),
        ("对不起我听不清楚请您再说一遍好吗", 1_000, True),
        ("对 不 起 ， 我 - 听 不 清 楚 ！ … 请 您 再 说", 1_000, False),
        ("我的 iPhone 坏了 please help", 1_000, False),
        ("고객님 안녕하세요 무엇을 도와드릴까요", 1_000, False),
        ("… - , ! ? — ; : ' ( ) /", 1_000, False),
        ("", 0, False),
    ],
)
def test_more_words_than_anybody_says_are_flagged(text: str, length_ms: int, fast: bool) -> None:
    expected = [Flag.TOO_FAST] if fast else []
    assert flags(heard(text), Span(0, length_ms), [], SETTINGS) == expected


def test_speed_is_of_the_voice_not_of_the_pauses_beside_it() -> None:
    text = "a b c d e f g h i j k l m n o p q r s t"
    assert flags(heard(text), Span(0, 4_000), [], SETTINGS, [Span(0, 3_000)]) == []
    assert flags(heard(text), Span(0, 4_000), [], SETTINGS, [Span(1_000, 2_600)]) == [Flag.TOO_FAST]


@pytest.mark.parametrize(
    ("voiced", "segments", "expected"),
    [
        ([], [], 0),
        ([Span(0, 5_000)], [], 5_000),
        ([Span(0, 5_000)], [Span(0, 5_000)], 0),
        ([Span(0, 5_000)], [Span(200, 4_800)], 0),
        ([Span(0, 5_000)], [Span(2_000, 3_000)], 1_750 + 1_750),
        ([Span(0, 5_000)], [Span(0, 1_000), Span(1_600, 5_000)], 0),
        ([Span(0, 1_000), Span(2_000, 3_000)], [Span(0, 1_000)], 1_000),
        ([Span(0, 200)], [], 0),
        ([Span(1_000, 1_900)], [Span(9_000, 9_100)], 900),
    ],
)
def test_a_voice_without_text_is_counted(
    voiced: list[Span], segments: list[Span], expected: int
) -> None:
    assert unheard_ms(voiced, segments) == expected


spans = st.lists(
    st.builds(lambda at, length: Span(at, at + length), st.integers(0, 9_000), st.integers(0, 900)),
    max_size=12,
)


@given(spans, spans, spans, st.text(max_size=40))
def test_measures_of_any_spans(
    voiced: list[Span], segments: list[Span], more: list[Span], text: str
) -> None:
    voices = joined(voiced)
    unheard = unheard_ms(voices, segments)
    assert 0 <= unheard <= total_ms(voices)
    assert unheard_ms(voices, [*segments, *more]) <= unheard
    assert unheard_ms(voices, voices) == 0
    for span in segments:
        found = flags(replace(heard(text), words=PLACED), span, [], SETTINGS, voices)
        near = joined(Span(voice.start_ms - 250, voice.end_ms + 250) for voice in voices)
        silent = 2 * sum(span.overlap_ms(voice) for voice in near) < span.length_ms
        assert (Flag.INSIDE_SILENCE in found) == silent
        order = list(Flag)
        assert found == sorted(found, key=order.index)
