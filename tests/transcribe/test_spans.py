from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.transcribe.spans import Span, joined, total_ms, within, without

spans = st.lists(
    st.tuples(st.integers(-50, 200), st.integers(0, 60)).map(lambda t: Span(t[0], t[0] + t[1])),
    max_size=8,
)


def covered(items: list[Span]) -> set[int]:
    return {ms for span in items for ms in range(span.start_ms, span.end_ms)}


def disjoint(items: list[Span]) -> bool:
    return all(a.end_ms < b.start_ms for a, b in pairwise(items))


@given(spans)
def test_joining_covers_the_same_and_nothing_twice(items: list[Span]) -> None:
    result = joined(items)
    assert covered(result) == covered(items)
    assert disjoint(result)
    assert total_ms(result) == len(covered(items))


@given(spans, spans)
def test_cutting_leaves_exactly_what_is_outside(items: list[Span], cuts: list[Span]) -> None:
    result = without(joined(items), cuts)
    assert covered(result) == covered(items) - covered(cuts)
    assert disjoint(joined(result))
    assert result == sorted(result)
    assert all(span.length_ms > 0 for span in result)


@given(spans, st.integers(-20, 100), st.integers(0, 100))
def test_clipping_stays_within(items: list[Span], start: int, length: int) -> None:
    bounds = Span(start, start + length)
    assert covered(within(items, bounds)) == covered(items) & covered([bounds])


@given(spans, st.integers(0, 40))
def test_a_gap_is_closed_up_to_its_length(items: list[Span], gap: int) -> None:
    result = joined(items, gap)
    assert covered(items) <= covered(result)
    assert all(b.start_ms - a.end_ms > gap for a, b in pairwise(result))


def test_spans_that_touch_stay_two_when_cut() -> None:
    touching = [Span(0, 10), Span(10, 20)]
    assert without(touching, []) == touching
    assert without(touching, [Span(5, 12)]) == [Span(0, 5), Span(12, 20)]


def test_overlap() -> None:
    assert Span(0, 10).overlap_ms(Span(5, 20)) == 5
    assert Span(0, 10).overlap_ms(Span(10, 20)) == 0
    assert Span(5, 6).shifted(-10) == Span(-5, -4)
