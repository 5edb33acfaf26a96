"""Words and their times, heard or spread over the segment."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from services.transcribe.engine import HeardWord
from services.transcribe.script import KATAKANA, UNSPACED
from services.transcribe.spans import Span

# Scripts written without spaces: each character is a word, with the marks and the punctuation that
# follow it.
_UNSPACED = "".join(f"{chr(first)}-{chr(last)}" for first, last in (*UNSPACED, *KATAKANA))
_WORD = re.compile(rf"[{_UNSPACED}][^\w\s]*|[^\s{_UNSPACED}]+")


@dataclass(frozen=True, slots=True)
class Timed:
    """Arrays of equal length; times in ms, starts never decrease, each end is not before its start.

    `confidence` is empty unless every word has one; `interpolated` tells whether any time was
    spread rather than heard.
    """

    texts: list[str]
    start_ms: list[int]
    end_ms: list[int]
    confidence: list[float]
    interpolated: bool


def split(text: str) -> list[str]:
    """The words of `text`: by spaces, and by character in scripts written without them."""
    return _WORD.findall(text)


def ends(text: str) -> list[int]:
    """Where in `text` each of its words ends."""
    return [found.end() for found in _WORD.finditer(text)]


def timed(text: str, words: Sequence[HeardWord] | None, segment: Span) -> Timed:
    """The words of a segment, each with times inside it.

    Words without times get theirs by their length in characters, between the neighbours whose
    times were heard.
    """
    heard = [word for word in words or () if word.text.strip()]
    if not heard:
        heard = [HeardWord(text=word) for word in split(text)]
    starts: list[int] = []
    ends: list[int] = []
    at = 0
    earliest = segment.start_ms
    interpolated = False
    while at < len(heard):
        placed = _placed(heard[at], segment)
        if placed is not None:
            start = max(earliest, placed.start_ms)
            starts.append(start)
            ends.append(max(start, placed.end_ms))
            earliest = start
            at += 1
            continue
        interpolated = True
        upto = at
        while upto < len(heard) and _placed(heard[upto], segment) is None:
            upto += 1
        following = _placed(heard[upto], segment) if upto < len(heard) else None
        first = max([earliest, *ends[-1:]])
        last = max(first, following.start_ms if following is not None else segment.end_ms)
        for span in _spread([word.text for word in heard[at:upto]], Span(first, last)):
            starts.append(span.start_ms)
            ends.append(span.end_ms)
        earliest = starts[-1]
        at = upto
    known = [word.confidence for word in heard if word.confidence is not None]
    return Timed(
        texts=[word.text.strip() for word in heard],
        start_ms=starts,
        end_ms=ends,
        confidence=[round(value, 4) for value in known] if len(known) == len(heard) else [],
        interpolated=interpolated,
    )


def _placed(word: HeardWord, segment: Span) -> Span | None:
    if word.start_ms is None or word.end_ms is None:
        return None
    start = min(max(word.start_ms, segment.start_ms), segment.end_ms)
    return Span(start, min(max(word.end_ms, start), segment.end_ms))


def _spread(texts: Sequence[str], span: Span) -> list[Span]:
    """`span` divided among `texts` by their length, one touching the next."""
    whole = sum(len(text) for text in texts)
    result: list[Span] = []
    before = 0
    for text in texts:
        start = span.start_ms + span.length_ms * before // whole
        before += len(text)
        result.append(Span(start, span.start_ms + span.length_ms * before // whole))
    return result
