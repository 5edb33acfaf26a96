"""What a stage is made of: ids, times, and a handler of one event lifted to a batch."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.runtime.errors import Invalid
from services.runtime.log import Message
from services.runtime.stage import NAMESPACE, Envelope, Output, each, event_id, utc_now


def envelope(name: str) -> Envelope[str]:
    return Envelope(name, Message("t", 0, 0, b"k", b"v", (), 0), name)


def test_now_is_utc_in_whole_milliseconds() -> None:
    now = utc_now()
    assert now.tzinfo is UTC
    assert now.microsecond % 1000 == 0


def test_an_id_is_a_name_based_uuid_that_never_changes() -> None:
    """Archives hold ids: a change here would make every replay a stranger to what it replays."""
    made = event_id("enrich", "11111111-2222-5333-8444-555555555555", 0, 0)
    assert made == "f71263a1-f360-51df-bcbb-94d91ea60123"
    assert uuid.UUID(made).version == 5
    assert str(NAMESPACE) == "6f1d1f0e-6c1b-5f0b-9d0e-3c8d2b8e7a51"


_PARTS = st.tuples(
    st.sampled_from(["ingest", "enrich"]),
    st.text(alphabet=st.characters(exclude_characters="\n", exclude_categories=["Cs"])),
    st.integers(0, 50),
    st.integers(0, 50),
)


@given(_PARTS, _PARTS)
def test_ids_differ_where_any_part_does(one: Any, other: Any) -> None:
    assert (event_id(*one) == event_id(*other)) == (one == other)


def test_each_answers_once_for_every_event() -> None:
    def handle_one(event: Envelope[str]) -> Sequence[Output]:
        return [Output(event.event, about=event.id)]

    batch = [envelope(str(number)) for number in range(20)]
    answers = dict(each(handle_one)(batch))
    assert answers == {number: [Output(str(number), about=str(number))] for number in range(20)}


def test_a_failure_is_the_outcome_of_its_own_event() -> None:
    failures = {"2": Invalid("bad", "bad"), "3": KeyError("surprise")}

    def handle_one(event: Envelope[str]) -> Sequence[Output]:
        if event.event in failures:
            raise failures[event.event]
        return []

    answers = dict(each(handle_one)([envelope(str(number)) for number in range(5)]))
    assert answers == {0: [], 1: [], 2: failures["2"], 3: failures["3"], 4: []}


def test_what_is_done_is_answered_before_the_next_is_begun() -> None:
    begun: list[str] = []

    def handle_one(event: Envelope[str]) -> Sequence[Output]:
        begun.append(event.event)
        return []

    answers = iter(each(handle_one)([envelope("first"), envelope("second")]))
    assert next(answers) == (0, [])
    assert begun == ["first"]
    assert list(answers) == [(1, [])]


def test_a_batch_of_none_has_no_answers() -> None:
    assert list(each(lambda event: [])([])) == []
