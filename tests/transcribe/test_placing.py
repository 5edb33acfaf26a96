from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.transcribe.engine import HeardWord
from services.transcribe.placing import of_letters, placed


def named(*texts: str) -> list[HeardWord]:
    return [
        HeardWord(text=text, start_ms=100 * at, end_ms=100 * at + 90)
        for at, text in enumerate(texts)
    ]


@pytest.mark.parametrize(
    ("text", "words", "found"),
    [
        ("Hello, there!", ("hello", "there"), ("Hello,", "there!")),
        ('He said: "No."', ("he", "said", "no"), ("He", "said:", '"No."')),
        ("我要，退款。", ("我", "要", "退", "款"), ("我", "要，", "退", "款。")),
        ("ISTANBUL İyi", ("ISTANBUL", "İyi"), ("ISTANBUL", "İyi")),
        ("one two three", ("one", "two"), ()),
        ("one two", ("one", "three"), ()),
        ("one two", (), ()),
        ("", ("one",), ()),
        ("...", ("one",), ()),
    ],
)
def test_words_are_found_with_the_signs_around_them(
    text: str, words: tuple[str, ...], found: tuple[str, ...]
) -> None:
    assert tuple(word.text.strip() for word in placed(text, named(*words)).words) == found


def test_words_of_a_later_text_are_left_for_it() -> None:
    words = named("one", "two", "three")
    first = placed("One two.", words)
    assert (len(first.words), first.taken) == (2, 2)
    assert [word.start_ms for word in placed("Three", words[first.taken :]).words] == [200]


def test_a_word_that_goes_back_has_no_times() -> None:
    words = [
        HeardWord(text="a", start_ms=500, end_ms=600),
        HeardWord(text="b", start_ms=100, end_ms=200),
        HeardWord(text="c", start_ms=700, end_ms=None),
    ]
    assert [word.start_ms for word in placed("a b c", words).words] == [500, None, None]


def letters(text: str, unplaced: str = "") -> list[HeardWord]:
    """Each character of `text`, of 100 ms; without times those in `unplaced`."""
    return [
        HeardWord(text=each)
        if each in unplaced
        else HeardWord(text=each, start_ms=100 * at, end_ms=100 * at + 100, confidence=0.5)
        for at, each in enumerate(text)
    ]


@pytest.mark.parametrize(
    ("text", "unplaced", "words"),
    [
        (
            "买 iPhone 15，好。", " ",
            [("买", 0, 100), (" iPhone", 200, 800), (" 15，", 900, 1_100), ("好。", 1_200, 1_300)],
        ),
        ("it's 5 - no", " 5", [("it's", 0, 400), (" 5", None, None), (" -", 700, 800),
                               (" no", 900, 1_100)]),
        ("パー・イ", "ー", [("パ", 0, 100), ("ー・", None, None), ("イ", 300, 400)]),
    ],
)  # fmt: skip
def test_words_have_the_times_of_their_letters(
    text: str, unplaced: str, words: list[tuple[str, int | None, int | None]]
) -> None:
    made = of_letters(text, letters(text, unplaced))
    assert [(word.text, word.start_ms, word.end_ms) for word in made] == words
    assert [word.confidence for word in made] == [None if it[1] is None else 0.5 for it in words]


@given(st.text(min_size=1, max_size=40).map(str.strip).filter(bool), st.data())
def test_words_of_letters_make_up_the_whole_text(text: str, data: st.DataObject) -> None:
    unplaced = "".join(data.draw(st.sets(st.sampled_from(text))))
    made = of_letters(text, letters(text, unplaced))
    assert "".join(word.text for word in made) == text
    times = [(it.start_ms, it.end_ms) for it in made if it.start_ms is not None]
    assert times == sorted(times)
    assert all(start is not None and end is not None and start < end for start, end in times)


@given(
    st.lists(st.from_regex(r"[a-z\u4e00-\u4e10]{1,4}", fullmatch=True), min_size=1, max_size=6),
    st.lists(st.sampled_from([" ", ", ", ". ", ' "', "-"]), min_size=6, max_size=6),
)
def test_words_make_up_the_whole_text(texts: list[str], signs: list[str]) -> None:
    text = "".join(a + b for a, b in zip(texts, signs, strict=False)).strip()
    found = placed(text, named(*texts))
    assert "".join(word.text for word in found.words) == text
    assert (len(found.words), found.taken) == (len(texts), len(texts))


@given(st.text(max_size=30), st.lists(st.text(max_size=5), max_size=8))
def test_it_is_the_whole_text_or_nothing(text: str, words: list[str]) -> None:
    found = placed(text, named(*words)).words
    assert "".join(word.text for word in found) in (text, "")
