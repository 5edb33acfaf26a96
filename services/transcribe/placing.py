"""Words of a recogniser: found again in its text, made of letters that were placed one by one, and
given to the stretches they are said in."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from schemas.events import Degradation, DegradationKind
from services.transcribe.engine import HeardWord
from services.transcribe.spans import Span
from services.transcribe.words import ends


class Placed(NamedTuple):
    words: tuple[HeardWord, ...]
    """Their texts make up the whole text."""
    taken: int
    """How many of the words that were named these are."""


_NONE = Placed((), 0)


def placed(text: str, named: Sequence[HeardWord]) -> Placed:
    """The first of the words `named` that make up `text`, each as it stands there.

    Recognisers name words without the signs around them, or in other letters: here a word has the
    signs before it from the last space on, and all up to the next word. No words where those named
    are not all that stands in `text`. One that begins before the word before it has no times.
    """
    lower = len(text.lower()) == len(text)  # of some letters the small form is two
    low = text.lower() if lower else text
    found: list[tuple[int, int, HeardWord]] = []
    taken = at = 0
    for word in named:
        plain = word.text.strip().lower() if lower else word.text.strip()
        where = low.find(plain, at)
        if where < 0 or _says(low[at:where]):
            break
        taken += 1
        if plain:
            at = where + len(plain)
            found.append((where, at, word))
    if not found or _says(low[at:]):
        return _NONE
    cuts = [0]
    for (_, end, _), (start, _, _) in pairwise(found):
        space = text.rfind(" ", end, start)
        cuts.append(start if space < 0 else space + 1)
    cuts.append(len(text))
    words: list[HeardWord] = []
    earliest = 0
    for number, (_, _, word) in enumerate(found):
        word = replace(word, text=text[cuts[number] : cuts[number + 1]])
        if word.start_ms is None or word.end_ms is None or word.start_ms < earliest:
            word = replace(word, start_ms=None, end_ms=None)
        else:
            earliest = word.start_ms
        words.append(word)
    return Placed(tuple(words), taken)


def _says(text: str) -> bool:
    """Whether more than signs stands in it."""
    return any(letter.isalnum() for letter in text)


def of_letters(text: str, letters: Sequence[HeardWord]) -> list[HeardWord]:
    """The words of `text`, whose characters are `letters`: one for each, in order.

    A word has its signs and the white space before it, so that they make up the whole text. Its
    times and its confidence are those of its letters, of its signs only where it has no other; none
    where these have none.
    """
    words: list[HeardWord] = []
    first = 0
    for number, last in enumerate(every := ends(text), 1):
        own = [letter for letter in letters[first:last] if not letter.text.isspace()]
        own = [letter for letter in own if not _is_sign(letter.text)] or own
        starts = [it.start_ms for it in own if it.start_ms is not None]
        stops = [it.end_ms for it in own if it.end_ms is not None]
        sure = [it.confidence for it in own if it.confidence is not None]
        start = min(starts) if starts and stops else None
        words.append(
            HeardWord(
                text=text[first:] if number == len(every) else text[first:last],
                start_ms=start,
                end_ms=None if start is None else max(start, *stops),
                confidence=round(sum(sure) / len(sure), 4) if sure else None,
            )
        )
        first = last
    return words


def _is_sign(letter: str) -> bool:
    return unicodedata.category(letter).startswith("P")


def by_stretch(
    words: Sequence[HeardWord], stretches: Sequence[Span], offset_ms: int
) -> list[tuple[int, HeardWord]]:
    """For each word the number of the stretch of speech that it is said in, and itself there.

    Words are in order, their times ms since `offset_ms` on the timeline of `stretches`, which are
    sorted and disjoint. A word belongs to the stretch nearest to its middle, and ends where that
    does: models stretch words over silence. One without times stays with the word before it.
    """
    found: list[tuple[int, HeardWord]] = []
    number = 0
    for word in words:
        if word.start_ms is None or word.end_ms is None:
            found.append((number, word))
            continue
        middle = offset_ms + (word.start_ms + word.end_ms) // 2
        # Words never go back.
        while number + 1 < len(stretches) and middle - stretches[number].end_ms > max(
            0, stretches[number + 1].start_ms - middle
        ):
            number += 1
        first, last = stretches[number]
        start = min(max(offset_ms + word.start_ms, first), last)
        end = min(max(offset_ms + word.end_ms, start), last)
        found.append((number, replace(word, start_ms=start, end_ms=end)))
    return found


def unaligned(stretches: int, of: int) -> tuple[Degradation, ...]:
    """What is published where the words of so many stretches, of all there are, have no times."""
    if not stretches:
        return ()
    reason = (
        f"the words of {stretches} of {of} stretches could not be placed; their times are spread"
    )
    return (Degradation(kind=DegradationKind.NO_ALIGNMENT, reason=reason),)
