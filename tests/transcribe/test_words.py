from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.transcribe.engine import HeardWord
from services.transcribe.spans import Span
from services.transcribe.words import ends, split, timed

times = st.none() | st.tuples(st.integers(-100, 3_000), st.integers(-100, 3_000))
heard_words = st.builds(
    lambda text, when, sure: HeardWord(
        text=text,
        start_ms=None if when is None else when[0],
        end_ms=None if when is None else when[1],
        confidence=sure,
    ),
    st.text(st.characters(categories=("L", "N")), min_size=1, max_size=8),
    times,
    st.none() | st.floats(0, 1),
)


@given(
    st.text(max_size=60),
    st.none() | st.lists(heard_words, max_size=8),
    st.integers(0, 1_000),
    st.integers(0, 2_000),
)
def test_word_times_never_go_back_and_stay_in_the_segment(
    text: str, words: list[HeardWord] | None, start: int, length: int
) -> None:
    segment = Span(start, start + length)
    result = timed(text, words, segment)
    assert len(result.texts) == len(result.start_ms) == len(result.end_ms)
    assert len(result.confidence) in (0, len(result.texts))
    assert result.start_ms == sorted(result.start_ms)
    for first, last in zip(result.start_ms, result.end_ms, strict=True):
        assert segment.start_ms <= first <= last <= segment.end_ms


@given(st.text(max_size=60))
def test_words_end_where_they_stand(text: str) -> None:
    cuts = [0, *ends(text)]
    assert cuts == sorted(cuts)
    assert [text[a:b].strip() for a, b in pairwise(cuts)] == [word.strip() for word in split(text)]


@given(st.text(st.sampled_from("ab 12 您好，。!?-"), max_size=40))
def test_splitting_loses_nothing_but_spaces(text: str) -> None:
    assert "".join(split(text)) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("four two seven, thanks.", ["four", "two", "seven,", "thanks."]),
        ("订单号是1234。", ["订", "单", "号", "是", "1234。"]),
        (
            "您好，请问 iPhone 15 多少钱？",
            ["您", "好，", "请", "问", "iPhone", "15", "多", "少", "钱？"],
        ),
        ("ขอบคุณค่ะ OK", ["ข", "อ", "บ", "คุ", "ณ", "ค่", "ะ", "OK"]),
        ("ຂອບໃຈ 5", ["ຂ", "ອ", "ບ", "ໃ", "ຈ", "5"]),
        ("អរគុណ។", ["អ", "រ", "គុ", "ណ។"]),
        ("ကျေးဇူး", ["ကျေး", "ဇူး"]),
        ("スーパー・マリオ", ["ス", "ー", "パ", "ー・", "マ", "リ", "オ"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("", []),
    ],
)
def test_words_of_both_kinds_of_script(text: str, words: list[str]) -> None:
    assert split(text) == words


def test_without_words_times_follow_the_length_of_the_text() -> None:
    result = timed("ab abcdef", None, Span(1_000, 1_800))
    assert result.texts == ["ab", "abcdef"]
    assert result.start_ms == [1_000, 1_200]
    assert result.end_ms == [1_200, 1_800]
    assert result.interpolated
    assert result.confidence == []


def test_digits_without_times_are_put_between_their_neighbours() -> None:
    words = [
        HeardWord(text="card", start_ms=0, end_ms=400, confidence=0.9),
        HeardWord(text="1234", confidence=0.5),
        HeardWord(text="5678", confidence=0.5),
        HeardWord(text="thanks", start_ms=1_200, end_ms=1_600, confidence=0.8),
    ]
    result = timed("card 1234 5678 thanks", words, Span(0, 2_000))
    assert result.start_ms == [0, 400, 800, 1_200]
    assert result.end_ms == [400, 800, 1_200, 1_600]
    assert result.interpolated
    assert result.confidence == [0.9, 0.5, 0.5, 0.8]


def test_heard_times_are_kept() -> None:
    words = [HeardWord(text=" hello ", start_ms=10, end_ms=20)]
    result = timed("hello", words, Span(0, 100))
    assert (result.texts, result.start_ms, result.end_ms) == (["hello"], [10], [20])
    assert not result.interpolated
