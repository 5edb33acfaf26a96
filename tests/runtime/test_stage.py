"""What a stage is made of: ids, times, and a handler of one event lifted to a batch."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from datetime import UTC
from typing import Any

import pytest
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


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_each_answers_once_for_every_event(workers: int) -> None:
    def handle_one(event: Envelope[str]) -> Sequence[Output]:
        return [Output(event.event, about=event.id)]

    batch = [envelope(str(number)) for number in range(20)]
    answers = dict(each(handle_one, workers)(batch))
    assert answers == {number: [Output(str(number), about=str(number))] for number in range(20)}


@pytest.mark.parametrize("workers", [1, 4])
def test_a_failure_is_the_outcome_of_its_own_event(workers: int) -> None:
    failures = {"2": Invalid("bad", "bad"), "3": KeyError("surprise")}

    def handle_one(event: Envelope[str]) -> Sequence[Output]:
        if event.event in failures:
            raise failures[event.event]
        return []

    answers = dict(each(handle_one, workers)([envelope(str(number)) for number in range(5)]))
    assert answers == {0: [], 1: [], 2: failures["2"], 3: failures["3"], 4: []}


def test_what_is_ready_first_is_answered_first() -> None:
    second_done = threading.Event()

    def handle_one(event: Envelope[str]) -> Sequence[Output]:
        if event.event == "slow":
            assert second_done.wait(10.0)
        return []

    answers = iter(each(handle_one, workers=2)([envelope("slow"), envelope("quick")]))
    assert next(iter(answers)) == (1, [])
    second_done.set()
    assert list(answers) == [(0, [])]


def test_a_batch_of_none_has_no_answers() -> None:
    assert list(each(lambda event: [])([])) == []
