"""Which language a stretch of a call is in, by what was told of all of it.

A call has a main language, told of speech from all over it, and not of its beginning, which is
often an announcement. A window leaves it only for one that is sure, so that names and product
words of another language do not turn a sentence over, and a call that truly changes is followed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from services.transcribe.engine import UNDETERMINED

# Less speech than this tells no language.
TELLING_MS = 2_000
# So many windows, from all over a call, tell its main language.
_WINDOWS = 8
# What is expected is believed from the first probability, or where nothing else reaches the second.
_EXPECTED, _SURE = 0.2, 0.8
# A second language that likely is heard too.
_SECOND = 0.1


class Told(NamedTuple):
    """A language (primary tag), and how sure it is, 0.0 to 1.0; None where it was given."""

    language: str
    certainty: float | None


def telling(lengths_ms: Sequence[int]) -> list[int]:
    """Which windows, of those with so much speech each, are to tell the call's main language."""
    able = [number for number, length in enumerate(lengths_ms) if length >= TELLING_MS]
    if not able:
        longest = max(range(len(lengths_ms)), key=lambda number: lengths_ms[number], default=None)
        return [] if longest is None else [longest]
    if len(able) <= _WINDOWS:
        return able
    return [able[at * (len(able) - 1) // (_WINDOWS - 1)] for at in range(_WINDOWS)]


def main_of(told: Iterable[tuple[Mapping[str, float], int]], hints: Sequence[str]) -> Told:
    """The main language, by windows' (probability of each tag, ms of speech)."""
    summed: dict[str, float] = {}
    whole = 0
    for probabilities, length_ms in told:
        whole += length_ms
        for tag, probability in probabilities.items():
            summed[tag] = summed.get(tag, 0.0) + probability * length_ms
    if not summed or whole <= 0:
        return Told(UNDETERMINED, None)
    return likeliest({tag: value / whole for tag, value in summed.items()}, hints)


def of_window(
    probabilities: Mapping[str, float], length_ms: int, main: Told, hints: Sequence[str]
) -> Told:
    """The language of a window in a call of that main language."""
    if length_ms < TELLING_MS:
        return main
    told = likeliest(probabilities, hints)
    expected = probabilities.get(main.language, 0.0)
    if told.language == main.language or _is_believed(expected, told):
        return Told(main.language, round(expected, 4))
    return told


def may_switch(probabilities: Mapping[str, float], hints: Sequence[str]) -> bool:
    """Whether a window may hold two languages, so that each stretch in it is to be told alone."""
    return len(hints) > 1 or sum(value >= _SECOND for value in probabilities.values()) > 1


def stretches(
    told: Sequence[tuple[Mapping[str, float], int]], window: Told, hints: Sequence[str]
) -> list[tuple[list[int], Told]]:
    """Stretches of a window, by (probability of each tag, ms of speech), in runs of one language.

    `window` is what was told of all of them; one leaves it as a window leaves its call.
    """
    runs: list[tuple[list[int], list[tuple[Told, int]]]] = []
    for number, (probabilities, length_ms) in enumerate(told):
        this = of_window(probabilities, length_ms, window, hints)
        if not runs or runs[-1][1][0][0].language != this.language:
            runs.append(([], []))
        runs[-1][0].append(number)
        runs[-1][1].append((this, length_ms))
    return [(numbers, most(each)) for numbers, each in runs]


def likeliest(probabilities: Mapping[str, float], hints: Sequence[str]) -> Told:
    """The likelier hint, unless it is unlikely and another language sure."""
    best = max(probabilities, key=lambda tag: probabilities[tag])
    told = Told(best, round(probabilities[best], 4))
    hinted = [tag for tag in hints if tag in probabilities]
    if hinted:
        hint = max(hinted, key=lambda tag: probabilities[tag])
        if _is_believed(probabilities[hint], told):
            return Told(hint, round(probabilities[hint], 4))
    return told


def _is_believed(expected: float, instead: Told) -> bool:
    return expected >= _EXPECTED or (instead.certainty or 0.0) < _SURE


def most(told: Iterable[tuple[Told, int]]) -> Told:
    """The language of most of the speech, and the mean certainty of it; `und` of none."""
    heard = list(told)
    spoken: dict[str, int] = {}
    for (tag, _), length_ms in heard:
        spoken[tag] = spoken.get(tag, 0) + length_ms
    if not spoken:
        return Told(UNDETERMINED, None)
    language = max(spoken, key=lambda tag: spoken[tag])
    sure = [
        (this.certainty, ms)
        for this, ms in heard
        if this.language == language and this.certainty is not None and ms > 0
    ]
    whole = sum(ms for _, ms in sure)
    return Told(
        language, round(sum(value * ms for value, ms in sure) / whole, 4) if whole else None
    )
