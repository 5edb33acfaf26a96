"""The language of a call and of its windows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.transcribe.languages import (
    Told,
    likeliest,
    main_of,
    may_switch,
    most,
    of_window,
    stretches,
    telling,
)

LONG = 20_000


@given(st.lists(st.integers(0, 30_000), max_size=200))
def test_windows_from_all_over_the_call_tell_its_language(lengths: list[int]) -> None:
    chosen = telling(lengths)
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= 8
    assert bool(chosen) == bool(lengths)
    able = [number for number, length in enumerate(lengths) if length >= 2_000]
    if able:
        assert set(chosen) <= set(able)
        assert {chosen[0], chosen[-1]} == {able[0], able[-1]}
        assert len(chosen) == min(8, len(able))


def test_the_main_language_is_not_that_of_the_announcement_at_the_beginning() -> None:
    announcement = ({"en": 0.97, "zh": 0.03}, 8_000)
    talk = ({"en": 0.1, "zh": 0.9}, LONG)
    assert main_of([announcement, talk, talk], ()).language == "zh"


def test_the_main_language_is_one_of_the_hints_unless_that_is_unlikely() -> None:
    torn = ({"yue": 0.55, "zh": 0.4, "en": 0.05}, LONG)
    assert main_of([torn], ()).language == "yue"
    assert main_of([torn], ("zh", "en")) == Told("zh", 0.4)
    other = ({"de": 0.95, "zh": 0.04, "en": 0.01}, LONG)
    assert main_of([other], ("zh", "en")).language == "de"
    assert main_of([], ("zh",)) == Told("und", None)


@pytest.mark.parametrize(
    ("probabilities", "length_ms", "told"),
    [
        ({"zh": 0.9, "en": 0.1}, LONG, "zh"),
        ({"zh": 0.3, "en": 0.7}, LONG, "zh"),  # product names
        ({"zh": 0.15, "en": 0.7, "ja": 0.15}, LONG, "zh"),  # nothing is sure
        ({"zh": 0.05, "en": 0.95}, LONG, "en"),  # the call changes
        ({"zh": 0.05, "en": 0.95}, 1_000, "zh"),  # too little to tell
    ],
)
def test_a_window_leaves_the_main_language_only_for_one_that_is_sure(
    probabilities: dict[str, float], length_ms: int, told: str
) -> None:
    main = Told("zh", 0.9)
    assert of_window(probabilities, length_ms, main, ()).language == told
    assert of_window(probabilities, length_ms, main, ("zh", "en")).language == told


def test_the_certainty_told_is_that_of_the_language_told() -> None:
    assert of_window({"zh": 0.3, "en": 0.7}, LONG, Told("zh", 0.9), ()) == Told("zh", 0.3)
    assert likeliest({"zh": 0.25, "en": 0.75}, ("zh",)) == Told("zh", 0.25)


def test_what_is_spoken_most_is_the_language_of_the_channel() -> None:
    assert most([]) == Told("und", None)
    heard = [(Told("en", 0.9), 1_000), (Told("zh", 0.8), 3_000), (Told("zh", 0.4), 1_000)]
    assert most(heard) == Told("zh", 0.7)
    assert most([(Told("zh", None), 1_000)]) == Told("zh", None)


@pytest.mark.parametrize(
    ("probabilities", "hints", "may"),
    [
        ({"zh": 0.98, "en": 0.02}, (), False),
        ({"zh": 0.98, "en": 0.02}, ("zh",), False),
        ({"zh": 0.98, "en": 0.02}, ("zh", "en"), True),
        ({"zh": 0.85, "en": 0.12}, (), True),
    ],
)
def test_stretches_are_told_alone_where_two_languages_are_heard_or_expected(
    probabilities: dict[str, float], hints: tuple[str, ...], may: bool
) -> None:
    assert may_switch(probabilities, hints) is may


def test_stretches_of_one_language_in_a_row_are_one() -> None:
    zh, en, short = ({"zh": 0.9}, 3_000), ({"en": 0.96, "zh": 0.02}, 4_000), ({"en": 0.9}, 500)
    window = Told("zh", 0.6)
    told = stretches([zh, short, en, en, zh, short], window, ())
    assert [(numbers, this.language) for numbers, this in told] == [
        ([0, 1], "zh"), ([2, 3], "en"), ([4, 5], "zh"),
    ]  # fmt: skip
    assert stretches([zh, zh], window, ()) == [([0, 1], Told("zh", 0.9))]
