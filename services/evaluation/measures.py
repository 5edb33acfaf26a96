"""How far what was heard is from what was said: in words, in characters, in who spoke when.

Pure functions of texts and turns. The only importer of rapidfuzz. Every rate is a
fraction: 1.0 is an error for each unit of the reference, and insertions can take it beyond that.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein

from services.transcribe.engine import Heard, HeardSegment
from services.transcribe.script import written
from services.transcribe.spans import Span, joined, without

# Texts

# Languages written without spaces between words: counted by character.
UNSPACED_LANGUAGES = frozenset(
    {"zh", "yue", "wuu", "nan", "hak", "gan", "ja", "th", "lo", "km", "my"}
)
_UNSPACED = re.compile(
    # Han with its iteration marks, kana, bopomofo; Thai, Lao, Burmese, Khmer.
    r"[\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u303b\u3041-\u30fa\u30fc-\u312f"
    r"\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    r"\u0e01-\u0e2e\u0e2f-\u0e3a\u0e40-\u0e4e\u0e81-\u0ecd\u1000-\u103f\u1780-\u17d3]"
)
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u00b4\u0060\u2032\uff07", "'"))
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What of a text counts. `docs/evaluation.md` says it in words; a change makes a new name."""

    simplified: bool = False
    """Whether traditional Chinese characters count as the simplified ones."""

    @property
    def name(self) -> str:
        """Version of the rules, with whatever else they depend on."""
        folded = f"+simplified (opencc {version('opencc')})" if self.simplified else ""
        return f"callstream-1{folded}"

    def tokens(self, text: str) -> list[str]:
        """What is counted, in order: words, and characters of scripts without spaces."""
        if self.simplified:
            text = _simplified(text)
        text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).casefold()
        text = _THOUSANDS.sub("", unicodedata.normalize("NFKC", text))
        found: list[str] = []
        word = ""

        def end() -> None:
            nonlocal word
            if word:
                found.append(word)
            word = ""

        for at, char in enumerate(text):
            kind = unicodedata.category(char)
            if _UNSPACED.match(char):
                # A mark belongs to the character before it, as it does in spaced scripts.
                if kind[0] == "M" and found and not word:
                    found[-1] += char
                    continue
                end()
                found.append(char)
            elif kind[0] in "LN":
                word += char
            elif kind[0] == "M":
                if word:
                    word += char
            elif kind == "Cf":  # joiners and soft hyphens are within a word
                continue
            elif _binds(text, at):
                word += char
            else:
                end()
        end()
        return found


def _binds(text: str, at: int) -> bool:
    """Whether the sign at `at` is part of a word: the one of don't, and that of 3.5."""
    before, after = text[at - 1 : at], text[at + 1 : at + 2]
    if text[at] == "'":
        return before.isalpha() and after.isalpha() and not _UNSPACED.search(before + after)
    return text[at] == "." and before.isdigit() and after.isdigit()


def _simplified(text: str) -> str:
    segment = HeardSegment(text=text, start_ms=0, end_ms=0, language="zh")
    (converted,) = written(Heard(segments=(segment,)), "simplified").segments
    return converted.text


def measure_of(languages: Sequence[str], tokens: Sequence[str]) -> str:
    """What the error rate of such a reference is called: WER, CER, or MER where both are mixed.

    By its languages (primary tags); where none is known, by its script.
    """
    unspaced = {tag in UNSPACED_LANGUAGES for tag in languages}
    if not unspaced:
        unspaced = {_UNSPACED.match(token) is not None for token in tokens}
    if len(unspaced) > 1:
        return "MER"
    return "CER" if unspaced == {True} else "WER"


@dataclass(frozen=True, slots=True)
class Errors:
    """Of how many units of a reference, which errors: counts of tokens, or milliseconds."""

    units: int
    parts: Mapping[str, int]
    """The kinds of errors; they add up."""

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def rate(self) -> float | None:
        """Errors for each unit; None where the reference has no unit."""
        return self.total / self.units if self.units else None

    def __add__(self, other: Errors) -> Errors:
        kinds = dict.fromkeys((*self.parts, *other.parts))
        return Errors(
            self.units + other.units,
            {kind: self.parts.get(kind, 0) + other.parts.get(kind, 0) for kind in kinds},
        )


def edits(reference: Sequence[str], heard: Sequence[str]) -> Errors:
    """The fewest substitutions, deletions and insertions that make `heard` of `reference`."""
    counts = {"replace": 0, "delete": 0, "insert": 0}
    for operation in Levenshtein.editops(reference, heard):
        counts[operation.tag] += 1
    return Errors(
        len(reference),
        {
            "substitutions": counts["replace"],
            "deletions": counts["delete"],
            "insertions": counts["insert"],
        },
    )


# Speakers


def permuted_edits(
    reference: Mapping[str, Sequence[str]], heard: Mapping[str, Sequence[str]]
) -> Errors:
    """Edits of each speaker's words, heard speakers given to those of the reference so that they
    are fewest (cpWER). What a speaker too few or too many said is deleted or inserted whole.
    """
    theirs, ours = list(reference.values()), list(heard.values())
    size = max(len(theirs), len(ours))
    theirs += [()] * (size - len(theirs))
    ours += [()] * (size - len(ours))
    costs = [[float(Levenshtein.distance(one, other)) for other in ours] for one in theirs]
    found = [edits(theirs[row], ours[column]) for row, column in enumerate(assigned(costs))]
    return sum(found, edits((), ()))


def assigned(costs: Sequence[Sequence[float]]) -> list[int]:
    """For each row of a square matrix its column, each used once, so that the sum is least.

    The Hungarian method with potentials, in time of size cubed.
    """
    size = len(costs)
    # Column 0 stands for none; rows and columns count from 1.
    row_of = [0] * (size + 1)
    of_row, of_column = [0.0] * (size + 1), [0.0] * (size + 1)
    for row in range(1, size + 1):
        row_of[0] = row
        least = [float("inf")] * (size + 1)
        came_from = [0] * (size + 1)
        used = [False] * (size + 1)
        at = 0
        while row_of[at]:
            used[at] = True
            here = row_of[at]
            step, following = float("inf"), 0
            for column in range(1, size + 1):
                if used[column]:
                    continue
                cost = costs[here - 1][column - 1] - of_row[here] - of_column[column]
                if cost < least[column]:
                    least[column], came_from[column] = cost, at
                if least[column] < step:
                    step, following = least[column], column
            for column in range(size + 1):
                if used[column]:
                    of_row[row_of[column]] += step
                    of_column[column] -= step
                else:
                    least[column] -= step
            at = following
        while at:
            row_of[at] = row_of[came_from[at]]
            at = came_from[at]
    result = [0] * size
    for column in range(1, size + 1):
        result[row_of[column] - 1] = column - 1
    return result


class Turn(NamedTuple):
    """Somebody speaks, from `start_ms` up to but not including `end_ms`."""

    speaker: str
    start_ms: int
    end_ms: int


def diarization_errors(
    reference: Sequence[Turn], heard: Sequence[Turn], collar_ms: int = 0
) -> Errors:
    """Speaker time that was missed, made up, or given to another (DER); units are ms of speech.

    Where several speak at once, each counts. Heard speakers are matched with those of the
    reference so that the most time is right. Within `collar_ms` before and after each border of
    the reference nothing counts.
    """
    theirs, ours = _by_speaker(reference), _by_speaker(heard)
    collars = joined(
        Span(border - collar_ms, border + collar_ms)
        for spans in theirs
        for span in spans
        for border in span
    )
    theirs = [without(spans, collars) for spans in theirs]
    ours = [without(spans, collars) for spans in ours]
    together = _together(theirs, ours)
    size = max(len(theirs), len(ours))
    shared = [[0.0] * size for _ in range(size)]
    for length, one, other in together:
        for row in one:
            for column in other:
                shared[row][column] -= length
    match = assigned(shared)
    units = missed = false_alarm = confused = 0
    for length, one, other in together:
        right = sum(match[row] in other for row in one)
        units += length * len(one)
        missed += length * max(0, len(one) - len(other))
        false_alarm += length * max(0, len(other) - len(one))
        confused += length * (min(len(one), len(other)) - right)
    return Errors(units, {"missed": missed, "false alarm": false_alarm, "confusion": confused})


def _by_speaker(turns: Sequence[Turn]) -> list[list[Span]]:
    """When each speaker speaks: sorted and disjoint."""
    spans: dict[str, list[Span]] = {}
    for turn in turns:
        spans.setdefault(turn.speaker, []).append(Span(turn.start_ms, turn.end_ms))
    return [joined(each) for each in spans.values()]


def _together(
    theirs: Sequence[Sequence[Span]], ours: Sequence[Sequence[Span]]
) -> list[tuple[int, frozenset[int], frozenset[int]]]:
    """(ms, who of theirs, who of ours) of every stretch in which the same ones speak."""
    borders: dict[int, list[tuple[int, int, bool]]] = {}
    for side, speakers in enumerate((theirs, ours)):
        for number, spans in enumerate(speakers):
            for start, end in spans:
                borders.setdefault(start, []).append((side, number, True))
                borders.setdefault(end, []).append((side, number, False))
    speaking: tuple[set[int], set[int]] = (set(), set())
    found = []
    since = 0
    for at in sorted(borders):
        if speaking[0] or speaking[1]:
            found.append((at - since, frozenset(speaking[0]), frozenset(speaking[1])))
        # Whoever ends where he begins again speaks on.
        for side, number, begins in sorted(borders[at], key=lambda border: border[2]):
            (speaking[side].add if begins else speaking[side].discard)(number)
        since = at
    return found


# How sure

DRAWS = 1_000
FEWEST_CLIPS = 5
"""From fewer clips no interval is given: it would only show that they differ."""
_SEED = 20_240_601
Rates = npt.NDArray[np.float64]


def interval(errors: Sequence[Errors]) -> tuple[float, float] | None:
    """Where 95 % of the rates lie, were other clips like these drawn (bootstrap over clips).

    None below FEWEST_CLIPS, and where the references have no unit.
    """
    return _percentiles(_rates(errors), len(errors))


def difference_interval(
    errors: Sequence[Errors], others: Sequence[Errors]
) -> tuple[float, float] | None:
    """As `interval`, of the rate of `errors` less that of `others`; both of the same clips."""
    return _percentiles(_rates(errors) - _rates(others), len(errors))


def _rates(errors: Sequence[Errors]) -> Rates:
    """The rate of each draw; equal numbers of clips are drawn alike. NaN where there is no unit."""
    if not errors:
        return np.full(DRAWS, np.nan)
    count = len(errors)
    drawn = np.random.default_rng(_SEED).multinomial(count, [1 / count] * count, DRAWS)
    totals = drawn @ np.array([float(each.total) for each in errors])
    units = drawn @ np.array([float(each.units) for each in errors])
    rates: Rates = np.full(DRAWS, np.nan)
    np.divide(totals, units, out=rates, where=units > 0)
    return rates


def _percentiles(rates: Rates, clips: int) -> tuple[float, float] | None:
    known = rates[~np.isnan(rates)]
    if clips < FEWEST_CLIPS or not known.size:
        return None
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)
