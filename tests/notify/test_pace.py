"""When an endpoint is asked, and in what order."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.notify.pace import Busy, Gate, Turns
from services.runtime.errors import Invalid, Transient
from services.runtime.log import Message


@dataclass
class Clock:
    now: float = 1_000.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def gate(clock: Clock, rate: int | None = None, pause_max_s: float = 60.0) -> Gate:
    return Gate(rate, pause_max_s, 3600.0, clock, clock.sleep)


def fails(it: Gate, after_s: float | None = None) -> None:
    with pytest.raises(Busy), it.passed():
        raise Busy("endpoint_fails", "status 503", after_s)


def is_shut(it: Gate) -> bool:
    try:
        with it.passed():
            return False
    except Transient as failure:
        return failure.reason == "endpoint_waits"


def test_an_endpoint_that_fails_is_left_alone_for_longer_and_longer() -> None:
    clock = Clock()
    it = gate(clock)
    pauses = []
    for _ in range(12):
        fails(it)
        began = clock.now
        while True:
            try:
                with it.passed():
                    raise Busy("endpoint_fails", "status 503")
            except Busy:
                break
            except Transient:
                clock.now += 0.05
        pauses.append(clock.now - began)
        clock.now += 61.0
    assert pauses[0] <= 0.3
    assert 25 <= pauses[-1] <= 61
    clock.now += 61.0
    with it.passed():
        pass
    assert not is_shut(it)


@settings(deadline=None)
@given(st.floats(1, 10_000))
def test_as_long_is_waited_as_it_asks_for(after_s: float) -> None:
    clock = Clock()
    it = gate(clock, pause_max_s=0.0)
    fails(it, after_s)
    waits = min(after_s, 3600.0)  # no longer is believed
    clock.now += waits - 0.01
    assert is_shut(it)
    fresh = gate(clock, pause_max_s=0.0)
    fails(fresh, after_s)
    clock.now += waits + 0.01
    assert not is_shut(fresh)


def test_one_alone_tries_whether_it_is_back() -> None:
    clock = Clock()
    it = gate(clock)
    fails(it)
    clock.now += 1.0
    with it.passed():
        assert is_shut(it)
    assert not is_shut(it)


def test_what_it_refuses_shows_that_it_works() -> None:
    it = gate(Clock())
    fails(it)
    it = gate(Clock())
    with pytest.raises(Invalid), it.passed():
        raise Invalid("endpoint_refuses", "status 422")
    assert not is_shut(it)
    assert it.taken == 1  # by the asking above


def test_what_is_ours_shuts_nothing() -> None:
    it = gate(Clock())
    with pytest.raises(Transient, match="secret"), it.passed():
        raise Transient("secret_unreadable", "x")
    assert not is_shut(it)


@settings(deadline=None)
@given(st.integers(1, 20), st.lists(st.floats(0, 30), min_size=1, max_size=80))
def test_no_minute_has_more_than_the_rate(rate: int, gaps: list[float]) -> None:
    clock = Clock()
    it = gate(clock, rate)
    sent: list[float] = []
    for gap in gaps:
        clock.now += gap
        with suppress(Transient), it.passed():
            sent.append(clock.now)
    for first, last in zip(sent, sent[rate:], strict=False):
        assert last - first >= 60.0 - 1e-6
    assert all(seconds <= 5.0 for seconds in clock.slept)
    assert len(sent) >= min(rate, len(gaps))


def test_the_rate_is_one_for_all_threads() -> None:
    it = Gate(50, 60.0, 3600.0)
    sent: list[bool] = []

    def work() -> None:
        for _ in range(20):
            with suppress(Transient), it.passed():
                sent.append(True)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sent) == 50


def message(offset: int, key: bytes = b"acme/c", partition: int = 0, lease: int = 1) -> Message:
    return Message("calls.enriched", partition, offset, key, b"", (), 0, lease)


def waits(turns: Turns, it: Message) -> bool:
    try:
        turns.take(it)
    except Transient as failure:
        return failure.reason == "behind_another"
    return False


def test_what_follows_a_waiting_event_of_its_call_waits_too() -> None:
    turns = Turns()
    assert not waits(turns, message(5))
    assert waits(turns, message(6))
    assert waits(turns, message(7))
    assert not waits(turns, message(5))
    assert not waits(turns, message(6, key=b"acme/d"))
    assert not waits(turns, message(6, partition=1))
    turns.done(message(5))
    # Handed out in another order than they stand, too.
    assert waits(turns, message(7))
    assert not waits(turns, message(6))
    turns.done(message(6))
    assert not waits(turns, message(7))


def test_after_another_assignment_all_comes_anew() -> None:
    """Another process may have told what waited here: it would wait for ever."""
    turns = Turns()
    turns.take(message(5))
    assert not waits(turns, message(9, lease=2))
    assert waits(turns, message(10, lease=2))


@settings(deadline=None)
@given(st.integers(1, 8), st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=60))
def test_whatever_fails_and_whoever_is_handed_out_first(
    count: int, steps: list[tuple[int, bool]]
) -> None:
    """Once seen in order, events go out in order."""
    turns = Turns()
    left = list(range(count))
    for offset in left:
        waits(turns, message(offset))
    gone: list[int] = []
    for at, taken in steps:
        if at < len(left):
            offset = left[at]
            if not waits(turns, message(offset)) and taken:
                turns.done(message(offset))
                left.remove(offset)
                gone.append(offset)
    assert gone == list(range(len(gone)))


def test_how_often_and_how_long_it_fails_alone() -> None:
    clock = Clock()
    turns = Turns(clock)
    assert turns.failed(message(5), taken=7) == (1, 0.0, 0)
    clock.now += 10
    assert turns.failed(message(5), taken=9) == (2, 10.0, 2)
    assert turns.tries(message(5)) == 2
    turns.done(message(5))
    assert turns.tries(message(5)) == 0
    assert turns.failed(message(5), taken=9) == (1, 0.0, 0)
