"""Stretches of audio in integer milliseconds, half open, and their arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """From `start_ms` up to but not including `end_ms`; empty where they are equal."""

    start_ms: int
    end_ms: int

    @property
    def length_ms(self) -> int:
        return self.end_ms - self.start_ms

    def shifted(self, by_ms: int) -> Span:
        return Span(self.start_ms + by_ms, self.end_ms + by_ms)

    def overlap_ms(self, other: Span) -> int:
        """How long both last together; 0 where they do not meet."""
        return max(0, min(self.end_ms, other.end_ms) - max(self.start_ms, other.start_ms))


def joined(spans: Iterable[Span], gap_ms: int = 0) -> list[Span]:
    """Sorted and disjoint; spans that touch, or lie at most `gap_ms` apart, become one."""
    result: list[Span] = []
    for span in sorted(span for span in spans if span.length_ms > 0):
        if result and span.start_ms - result[-1].end_ms <= gap_ms:
            result[-1] = Span(result[-1].start_ms, max(result[-1].end_ms, span.end_ms))
        else:
            result.append(span)
    return result


def without(spans: Iterable[Span], cuts: Iterable[Span]) -> list[Span]:
    """What of each of `spans` lies in none of `cuts`, in order; spans that touch stay two."""
    result: list[Span] = []
    removed = joined(cuts)
    for span in spans:
        start = span.start_ms
        for cut in removed:
            if cut.end_ms <= start:
                continue
            if cut.start_ms >= span.end_ms:
                break
            if cut.start_ms > start:
                result.append(Span(start, cut.start_ms))
            start = cut.end_ms
        if start < span.end_ms:
            result.append(Span(start, span.end_ms))
    return result


def within(spans: Iterable[Span], bounds: Span) -> list[Span]:
    """What of `spans` lies in `bounds`, in the order given; empty stretches are left out."""
    clipped = (
        Span(max(span.start_ms, bounds.start_ms), min(span.end_ms, bounds.end_ms)) for span in spans
    )
    return [span for span in clipped if span.length_ms > 0]


def windows(spans: Iterable[Span], longest_ms: int, gap_ms: int) -> Iterator[list[Span]]:
    """Neighbours of sorted `spans` that are heard together: within `longest_ms`, and with no more
    than `gap_ms` between one and the next. A span that is longer is divided evenly."""
    window: list[Span] = []
    for span in spans:
        pieces = -(-span.length_ms // longest_ms)
        for number in range(pieces):
            piece = Span(
                span.start_ms + span.length_ms * number // pieces,
                span.start_ms + span.length_ms * (number + 1) // pieces,
            )
            if window and (
                piece.end_ms - window[0].start_ms > longest_ms
                or piece.start_ms - window[-1].end_ms > gap_ms
            ):
                yield window
                window = []
            window.append(piece)
    if window:
        yield window


def total_ms(spans: Sequence[Span]) -> int:
    """How long disjoint `spans` last together."""
    return sum(span.length_ms for span in spans)
