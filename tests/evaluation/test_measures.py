"""Every measure: cases worked out by hand, what must always hold, and slow ways of counting."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.evaluation.measures import (
    FEWEST_CLIPS,
    Errors,
    Normalisation,
    Turn,
    assigned,
    diarization_errors,
    difference_interval,
    edits,
    interval,
    measure_of,
    permuted_edits,
)
from tests.transcribe import extra

tokens = Normalisation().tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop—it’s 3.5 %, and 1,000,000!", "don't stop it's 3.5 and 1000000"),
        ("'quoted' rock 'n' roll, the dogs' bowl", "quoted rock n roll the dogs bowl"),
        ("e-mail AND/or  e\u00admail", "e mail and or email"),
        ("10:30, $5.00 #1 1,00 1,0000", "10 30 5.00 1 1 00 1 0000"),
        ("ＦＵＬＬ　ｗｉｄｔｈ１２", "full width12"),
        ("STRASSE Straße", "strasse strasse"),
        ("naïve naı\u0308ve", "naïve naı\u0308ve"),
        ("नमस्ते दुनिया", "नमस्ते दुनिया"),
        ("[noise] uh <unk>", "noise uh unk"),
        ("😀 … \u200d", ""),
        ("", ""),
    ],
)
def test_words_are_normalised(text: str, expected: str) -> None:
    assert tokens(text) == expected.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("欢迎，iPhone15客户。", ["欢", "迎", "iphone15", "客", "户"]),
        ("二〇二四年 2024年", ["二", "〇", "二", "四", "年", "2024", "年"]),
        ("コーヒー・ｶﾞｷﾞ", ["コ", "ー", "ヒ", "ー", "ガ", "ギ"]),
        ("時々、漢語", ["時", "々", "漢", "語"]),
        ("ไทยดี", ["ไ", "ท", "ย", "ดี"]),
        ("전화 상담", ["전화", "상담"]),
    ],
)
def test_scripts_without_spaces_are_counted_by_character(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


def test_traditional_characters_count_as_simplified_ones_where_asked() -> None:
    folding = Normalisation(simplified=True)
    assert folding.tokens("漢語電話") == tokens("汉语电话") != tokens("漢語電話")
    assert folding.name.startswith("callstream-1+simplified (opencc ")
    assert Normalisation().name == "callstream-1"


@settings(deadline=None)
@given(st.text())
@example("A´ក")
def test_normalising_once_is_enough(text: str) -> None:
    once = tokens(text)
    assert all(once)
    assert tokens(" ".join(once)) == once


@pytest.mark.parametrize(
    ("languages", "text", "measure"),
    [
        (["en"], "hello", "WER"),
        (["zh"], "你好", "CER"),
        (["zh"], "用 iPhone", "CER"),
        (["en", "zh"], "你好", "MER"),
        (["zh", "yue"], "你好", "CER"),
        ([], "你好", "CER"),
        ([], "你好 hello", "MER"),
        ([], "hello", "WER"),
    ],
)
def test_a_rate_is_called_by_what_it_counts(languages: list[str], text: str, measure: str) -> None:
    assert measure_of(languages, tokens(text)) == measure


def by_kind(errors: Errors) -> tuple[int, tuple[int, ...]]:
    return errors.units, tuple(errors.parts.values())


def test_words_are_substituted_deleted_and_inserted() -> None:
    said = tokens("The cat sat on the mat, by the door.")
    found = edits(said, tokens("the cat sit on mat by the old door"))
    assert by_kind(found) == (9, (1, 1, 1))
    assert found.rate == pytest.approx(1 / 3)


def test_characters_are_counted_with_words_between_them() -> None:
    found = edits(tokens("我的 iPhone 坏了"), tokens("我 iPhone 坏啦"))
    assert by_kind(found) == (5, (1, 1, 0))


def test_what_was_never_said_has_no_rate() -> None:
    found = edits([], tokens("thanks for watching"))
    assert by_kind(found) == (0, (0, 0, 3))
    assert found.rate is None


WORDS = st.lists(st.sampled_from(["a", "b", "c", "word"]), max_size=9)


def slow_distance(one: Sequence[str], other: Sequence[str]) -> int:
    row = list(range(len(other) + 1))
    for at, word in enumerate(one, 1):
        before, row = row, [at]
        for place, against in enumerate(other, 1):
            row.append(min(before[place] + 1, row[-1] + 1, before[place - 1] + (word != against)))
    return row[-1]


@settings(deadline=None)
@given(WORDS, WORDS)
def test_edits_are_the_fewest(one: list[str], other: list[str]) -> None:
    found = edits(one, other)
    assert found.total == slow_distance(one, other)
    assert found.parts["deletions"] - found.parts["insertions"] == len(one) - len(other)
    assert edits(one, one).total == 0


# Speakers

CALL = {"agent": tokens("good morning how can I help"), "customer": tokens("I want a refund")}


def heard(**texts: str) -> Mapping[str, list[str]]:
    return {speaker: tokens(text) for speaker, text in texts.items()}


@pytest.mark.parametrize(
    ("ours", "units", "total"),
    [
        (heard(x="I want refund", y="good morning how can I help you"), 10, 2),
        # A third voice that nobody had: each of its words is one too many.
        (heard(x="I want refund", y="good morning how can I help you", z="yes"), 10, 3),
        # One voice for two people: what the other said is missing there, and too much here.
        (heard(x="good morning how can I help I want a refund"), 10, 8),
        (heard(), 10, 10),
    ],
)
def test_speakers_are_matched_before_words_are(
    ours: Mapping[str, list[str]], units: int, total: int
) -> None:
    found = permuted_edits(CALL, ours)
    assert (found.units, found.total) == (units, total)


SPEAKERS = st.lists(WORDS, max_size=4)


@settings(deadline=None)
@given(SPEAKERS, SPEAKERS, st.randoms())
def test_names_and_order_of_speakers_do_not_matter(
    theirs: list[list[str]], ours: list[list[str]], random: Any
) -> None:
    reference = {f"r{number}": words for number, words in enumerate(theirs)}
    found = permuted_edits(reference, dict(enumerate_names(ours)))
    shuffled = list(enumerate_names(ours))
    random.shuffle(shuffled)
    renamed = {f"{name} renamed": words for name, words in shuffled}
    assert permuted_edits(reference, renamed).total == found.total
    size = max(len(theirs), len(ours))
    padded = theirs + [[]] * (size - len(theirs))
    others = ours + [[]] * (size - len(ours))
    assert found.total == min(
        sum(map(slow_distance, padded, order)) for order in permutations(others)
    )
    assert permuted_edits(reference, reference).total == 0


def enumerate_names(ours: list[list[str]]) -> list[tuple[str, list[str]]]:
    return [(f"h{number}", words) for number, words in enumerate(ours)]


@settings(deadline=None)
@given(
    st.integers(0, 5).flatmap(
        lambda size: st.lists(
            st.lists(st.integers(-9, 9), min_size=size, max_size=size),
            min_size=size,
            max_size=size,
        )
    )
)
def test_the_assignment_is_the_cheapest(costs: list[list[int]]) -> None:
    found = assigned([[float(cost) for cost in row] for row in costs])
    assert sorted(found) == list(range(len(costs)))
    cheapest = min(
        sum(row[at] for row, at in zip(costs, order, strict=True))
        for order in permutations(range(len(costs)))
    )
    assert sum(row[at] for row, at in zip(costs, found, strict=True)) == cheapest


def turns(*told: tuple[str, float, float]) -> list[Turn]:
    return [Turn(name, round(1000 * start), round(1000 * end)) for name, start, end in told]


@pytest.mark.parametrize(
    ("reference", "ours", "collar_ms", "expected"),
    [
        # From 10 to 12 the wrong voice, from 18 to 20 none.
        ([("a", 0, 10), ("b", 10, 20)], [("x", 0, 12), ("y", 12, 18)], 0, (20, 2, 0, 2)),
        # Borders at 0, 10 and 20: 19 s remain, 10.25 to 12 is confused, 18 to 19.75 missed.
        (
            [("a", 0, 10), ("b", 10, 20)],
            [("x", 0, 12), ("y", 12, 18)],
            250,
            (19, 1.75, 0, 1.75),
        ),
        # Both speak from 5 to 10, one is heard.
        ([("a", 0, 10), ("b", 5, 10)], [("x", 0, 10)], 0, (15, 5, 0, 0)),
        # A second voice from 3 to 5 where there is one, and from 5 to 6 where there is none.
        ([("a", 0, 5)], [("x", 0, 5), ("y", 3, 6)], 0, (5, 0, 3, 0)),
        # One name for all: the one who speaks longer is right.
        ([("a", 0, 6), ("b", 6, 10)], [("x", 0, 10)], 0, (10, 0, 0, 4)),
        # A reference cut in pieces is one stretch; a border within it has no collar.
        ([("a", 0, 5), ("a", 5, 10)], [("x", 0, 4)], 250, (9.5, 5.75, 0, 0)),
        ([], [("x", 0, 2)], 0, (0, 0, 2, 0)),
        ([("a", 0, 2)], [], 0, (2, 2, 0, 0)),
    ],
)
def test_speaker_time_is_missed_made_up_and_confused(
    reference: list[tuple[str, float, float]],
    ours: list[tuple[str, float, float]],
    collar_ms: int,
    expected: tuple[float, float, float, float],
) -> None:
    found = diarization_errors(turns(*reference), turns(*ours), collar_ms)
    scored, missed, false_alarm, confused = (round(1000 * value) for value in expected)
    assert found.units == scored
    assert found.parts == {"missed": missed, "false alarm": false_alarm, "confusion": confused}


TURNS = st.lists(
    st.builds(
        lambda name, start, length: Turn(name, start, start + length),
        st.sampled_from("abc"),
        st.integers(0, 40),
        st.integers(1, 20),
    ),
    max_size=6,
)


def slow_diarization(
    reference: list[Turn], ours: list[Turn], collar_ms: int
) -> tuple[int, int, int, int]:
    """By the millisecond, with every way to match the speakers."""

    def speaking(who: list[Turn], at: int) -> frozenset[str]:
        return frozenset(turn.speaker for turn in who if turn.start_ms <= at < turn.end_ms)

    borders = {
        at
        for name in {turn.speaker for turn in reference}
        for at in range(62)
        if (name in speaking(reference, at)) != (name in speaking(reference, at - 1))
    }
    scored = [
        (speaking(reference, at), speaking(ours, at))
        for at in range(61)
        if not any(border - collar_ms <= at < border + collar_ms for border in borders)
    ]
    names = [*"abc"]
    right = max(
        sum(len({mapping[name] for name in one} & other) for one, other in scored)
        for order in permutations(names)
        for mapping in [dict(zip(names, order, strict=True))]
    )
    matched = sum(min(len(one), len(other)) for one, other in scored)
    return (
        sum(len(one) for one, _ in scored),
        sum(max(0, len(one) - len(other)) for one, other in scored),
        sum(max(0, len(other) - len(one)) for one, other in scored),
        matched - right,
    )


@settings(deadline=None)
@given(TURNS, TURNS, st.sampled_from([0, 2]))
def test_speaker_time_adds_up_as_by_the_millisecond(
    reference: list[Turn], ours: list[Turn], collar_ms: int
) -> None:
    found = diarization_errors(reference, ours, collar_ms)
    assert (found.units, *found.parts.values()) == slow_diarization(reference, ours, collar_ms)
    assert diarization_errors(reference, reference, collar_ms).total == 0
    renamed = [turn._replace(speaker=f"<{turn.speaker}>") for turn in ours]
    assert diarization_errors(reference, renamed, collar_ms) == found


@pytest.mark.whisperx
@settings(deadline=None)
@given(TURNS, TURNS, st.sampled_from([0, 250]))
def test_speaker_time_is_what_pyannote_makes_of_it(
    reference: list[Turn], ours: list[Turn], collar_ms: int
) -> None:
    extra.whisperx()
    core: Any = importlib.import_module("pyannote.core")
    metrics: Any = importlib.import_module("pyannote.metrics.diarization")

    def annotation(spoken: list[Turn]) -> Any:
        made = core.Annotation()
        # In steps of 100 ms, so that collars leave something. Of one speaker, what touches is one.
        for number, turn in enumerate(spoken):
            at = core.Segment(turn.start_ms / 10, turn.end_ms / 10)
            made[at, number] = turn.speaker
        return made.support()

    coarse = [
        [Turn(turn.speaker, turn.start_ms * 100, turn.end_ms * 100) for turn in side]
        for side in (reference, ours)
    ]
    found = diarization_errors(coarse[0], coarse[1], collar_ms)
    # Its collar is the whole of what is left out, half on either side.
    measure = metrics.DiarizationErrorRate(collar=2 * collar_ms / 1000, skip_overlap=False)
    whole = core.Timeline([core.Segment(0, 10)])
    told = measure(annotation(reference), annotation(ours), uem=whole, detailed=True)
    assert told["total"] == pytest.approx(found.units / 1000, abs=1e-6)
    assert told["missed detection"] == pytest.approx(found.parts["missed"] / 1000, abs=1e-6)
    assert told["false alarm"] == pytest.approx(found.parts["false alarm"] / 1000, abs=1e-6)
    assert told["confusion"] == pytest.approx(found.parts["confusion"] / 1000, abs=1e-6)


# How sure


def clip(errors: int, units: int) -> Errors:
    return Errors(units, {"substitutions": errors})


def test_errors_add_up_over_clips_and_not_their_rates() -> None:
    whole = clip(1, 2) + clip(0, 98)
    assert whole.rate == 0.01
    assert (whole.units, whole.parts) == (100, {"substitutions": 1})


def test_an_interval_needs_clips_that_differ() -> None:
    assert interval([clip(1, 10)] * (FEWEST_CLIPS - 1)) is None
    assert interval([clip(1, 10)] * FEWEST_CLIPS) == (0.1, 0.1)
    assert interval([clip(1, 0)] * 9) is None
    assert interval([]) is None


def test_an_interval_holds_the_rate_and_is_the_same_each_time() -> None:
    clips = [clip(errors, 100) for errors in range(0, 60, 3)]
    found = interval(clips)
    assert found is not None
    low, high = found
    # 20 clips of mean 0.285 and deviation 0.173: the mean's own deviation is 0.039.
    assert low == pytest.approx(0.285 - 1.96 * 0.039, abs=0.015)
    assert high == pytest.approx(0.285 + 1.96 * 0.039, abs=0.015)
    assert interval(clips) == found


def test_a_difference_is_taken_clip_by_clip() -> None:
    before = [clip(errors, 100) for errors in range(0, 60, 3)]
    after = [clip(errors + 2, 100) for errors in range(0, 60, 3)]
    assert difference_interval(after, before) == pytest.approx((0.02, 0.02))
    assert difference_interval(before, before) == (0.0, 0.0)


@settings(deadline=None)
@given(st.lists(st.builds(clip, st.integers(0, 9), st.integers(0, 9)), min_size=5, max_size=12))
def test_an_interval_lies_within_the_clips_own_rates(clips: list[Errors]) -> None:
    found = interval(clips)
    rates = [each.rate for each in clips if each.rate is not None]
    if found is not None and all(each.units for each in clips):
        assert min(rates) - 1e-9 <= found[0] <= found[1] <= max(rates) + 1e-9
