"""Work of several callers on one device: shared, fair, and nobody's failure is another's."""

from __future__ import annotations

import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from services.transcribe.batches import Batches, OutOfMemory

PATIENCE_S = 10.0


@dataclass
class Device:
    """Doubles numbers; holds each batch until it may run, and remembers them."""

    room: int = 1_000
    fails_on: frozenset[int] = frozenset()
    held: bool = False
    batches: list[list[int]] = field(default_factory=list)
    running: int = 0

    def __post_init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)

    def __call__(self, batch: Sequence[int]) -> Sequence[int]:
        self.running += 1
        assert self.running == 1, "two batches at once"
        try:
            self.batches.append(list(batch))
            self.begun.release()
            if self.held:
                assert self.go.acquire(timeout=PATIENCE_S)
            if len(batch) > self.room:
                raise OutOfMemory(f"{len(batch)} do not fit")
            if bad := self.fails_on & set(batch):
                raise ValueError(f"cannot double {sorted(bad)}")
            return [2 * number for number in batch]
        finally:
            self.running -= 1


def begun(device: Device) -> None:
    assert device.begun.acquire(timeout=PATIENCE_S)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def queued(batches: Batches[Any, Any]) -> int:
    return sum(len(caller.queued) for caller in batches._callers)


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    size=st.integers(1, 9),
    room=st.integers(1, 9),
    kinds=st.integers(1, 3),
)
def test_each_caller_gets_its_own_results_in_order(
    lengths: list[int], size: int, room: int, kinds: int
) -> None:
    device = Device(room=room)
    batches = Batches(device, size, lambda number: number % kinds)

    def call(number: int) -> list[int]:
        items = range(1_000 * number, 1_000 * number + lengths[number])
        return list(batches.each(items, replay=number % 2 == 1))

    with ThreadPoolExecutor(len(lengths)) as pool:
        answers = list(pool.map(call, range(len(lengths))))
    for number, (answer, length) in enumerate(zip(answers, lengths, strict=True)):
        assert answer == [2 * (1_000 * number + n) for n in range(length)]
    assert all(len(batch) <= size for batch in device.batches)
    assert all(len({n % kinds for n in batch}) == 1 for batch in device.batches)
    assert batches.usage.items == sum(lengths)


def test_callers_share_batches_and_a_long_call_gets_no_more_than_a_short_one() -> None:
    device = Device(held=True)
    batches = Batches(device, 4)

    def call(first: int) -> list[int]:
        return list(batches.each([first, first + 1]))

    with ThreadPoolExecutor(3) as pool:
        long = pool.submit(lambda: list(batches.each(range(100))))
        begun(device)
        until(lambda: queued(batches) == 4)
        short = [pool.submit(call, n) for n in (500, 600)]
        until(lambda: queued(batches) >= 8)
        device.go.release(40)
        assert [answer.result(PATIENCE_S) for answer in short] == [[1000, 1002], [1200, 1202]]
        device.go.release(100)
        assert long.result(PATIENCE_S) == [2 * n for n in range(100)]
    first, second = device.batches[1], device.batches[2]
    assert {500, 600} <= set(first), "every caller has a part in the next batch"
    assert {501, 601} <= set(first) | set(second)


def test_live_calls_go_before_replays() -> None:
    device = Device(held=True)
    batches = Batches(device, 2)
    with ThreadPoolExecutor(2) as pool:
        replay = pool.submit(lambda: list(batches.each(range(10), replay=True)))
        begun(device)
        until(lambda: queued(batches) == 2)
        live = pool.submit(lambda: list(batches.each(range(100, 106))))
        for _ in range(3):
            until(lambda: queued(batches) == 4)
            device.go.release(1)
            begun(device)
        device.go.release(100)
        assert len(live.result(PATIENCE_S)) == 6
        assert len(replay.result(PATIENCE_S)) == 10
    assert device.batches[1:4] == [[100, 101], [102, 103], [104, 105]]
    assert sum(len(batch) for batch in device.batches) == 16


def test_no_more_is_drawn_ahead_than_a_batch_holds() -> None:
    device = Device(held=True)
    batches = Batches(device, 3)
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            drawn.append(number)
            yield number

    results = batches.each(items())
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(lambda: next(results))
        begun(device)
        until(lambda: queued(batches) == 3)
        assert len(drawn) == 3 + len(device.batches[0])
        device.go.release(100)
        assert first.result(PATIENCE_S) == 0
        assert len(drawn) <= 3 + 2 * 3
        assert list(results) == [2 * n for n in range(1, 50)]


def test_an_item_that_fails_is_told_to_its_caller_alone() -> None:
    device = Device(held=True, fails_on=frozenset({13}))
    batches = Batches(device, 8)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(lambda: list(batches.each([1])))
        begun(device)
        good = pool.submit(lambda: list(batches.each([2, 3])))
        bad = pool.submit(lambda: list(batches.each([11, 13])))
        until(lambda: queued(batches) == 4)
        device.go.release(100)
        assert first.result(PATIENCE_S) == [2]
        assert good.result(PATIENCE_S) == [4, 6]
        with pytest.raises(ValueError, match=r"cannot double \[13\]"):
            bad.result(PATIENCE_S)
    assert max(map(len, device.batches)) == 4
    assert list(batches.each([4])) == [8], "the device goes on"


def test_a_batch_that_does_not_fit_is_halved_and_smaller_ones_are_made_then() -> None:
    device = Device(room=3)
    batches = Batches(device, 8)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: list(batches.each(range(n, n + 20))), range(0, 800, 100)))
    assert answers == [[2 * (n + k) for k in range(20)] for n in range(0, 800, 100)]
    usage = batches.usage
    assert usage.out_of_memory >= 1
    too_large = [number for number, batch in enumerate(device.batches) if len(batch) > 3]
    assert len(too_large) == usage.out_of_memory <= 3
    assert max(too_large) < 12, "what does not fit is not tried again at once"


def test_what_fits_never_is_told() -> None:
    batches = Batches(Device(room=0), 4)
    with pytest.raises(OutOfMemory, match="1 do not fit"):
        list(batches.each([1]))


def test_what_has_no_room_alone_is_tried_once_more_when_caches_are_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = Device(room=0)

    def emptied() -> None:
        device.room = 1

    monkeypatch.setattr("services.transcribe.batches.empty_caches", emptied)
    assert list(Batches(device, 4).each([1])) == [2]
    monkeypatch.setattr("services.transcribe.batches.empty_caches", lambda: None)
    device.room, device.batches = 0, []
    with pytest.raises(OutOfMemory):
        list(Batches(device, 4).each([1]))
    assert device.batches == [[1], [1]], "once more, and not for ever"


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("CUDA failed with error out of memory"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has ..."),
        RuntimeError("cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=str,
)
def test_a_library_that_has_no_room_is_understood(failure: Exception) -> None:
    def run(batch: Sequence[int]) -> Sequence[int]:
        if len(batch) > 1 or batch == [13]:
            raise failure
        return [2 * number for number in batch]

    batches = Batches(run, 4)
    with ThreadPoolExecutor(2) as pool:
        good = [pool.submit(lambda: list(batches.each(range(10)))) for _ in range(2)]
        assert [it.result(PATIENCE_S) for it in good] == [[2 * n for n in range(10)]] * 2
    with pytest.raises(OutOfMemory, match="RuntimeError: "):
        list(batches.each([13]))


def test_a_device_that_is_broken_when_caches_are_emptied_leaves_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    cuda = SimpleNamespace(is_available=lambda: True, empty_cache=broken)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(lambda: list(Batches(Device(room=0), 1).each([1])))
        with pytest.raises(OutOfMemory):
            call.result(PATIENCE_S)


def test_that_a_device_lacks_memory_is_told_once_and_counted() -> None:
    device = Device(held=True)
    batches = Batches(device, 8)
    assert batches.usage.fits == 8
    with capture_logs() as logs, ThreadPoolExecutor(1) as pool:
        call = pool.submit(lambda: list(batches.each(range(30))))
        begun(device)  # with what was there so soon
        until(lambda: queued(batches) == 8)
        device.go.release()
        begun(device)
        device.room = 1
        device.go.release(1_000)
        assert call.result(PATIENCE_S) == [2 * n for n in range(30)]
    (told,) = [it for it in logs if it["log_level"] == "warning"]
    assert (told["before"], told["fits"], told["asked"]) == (8, 1, 8)
    assert batches.usage.fits == 1
    assert told["times"] == batches.usage.out_of_memory == 7


def test_a_device_that_worked_one_by_one_makes_whole_batches_again() -> None:
    device = Device(room=1)
    batches = Batches(device, 8)
    with ThreadPoolExecutor(8) as pool:

        def many(length: int) -> list[int]:
            return list(pool.map(lambda n: sum(1 for _ in batches.each(range(n, n + length))),
                                 range(0, 80_000, 10_000)))  # fmt: skip

        assert many(20) == [20] * 8
        assert batches.usage.fits == 1
        device.room = 1_000
        assert many(600) == [600] * 8
    assert batches.usage.fits == 8


def test_larger_batches_are_tried_again_after_a_while() -> None:
    device = Device(room=2)
    batches = Batches(device, 4)
    with ThreadPoolExecutor(4) as pool:

        def many(n: int) -> int:
            return sum(1 for _ in batches.each(range(n, n + 1_000)))

        assert list(pool.map(many, range(0, 4_000, 1_000))) == [1_000] * 4
        assert max(len(batch) for batch in device.batches[-20:]) <= 4
        device.room = 1_000
        assert list(pool.map(many, range(0, 4_000, 1_000))) == [1_000] * 4
    assert max(len(batch) for batch in device.batches[-20:]) == 4


def test_what_nobody_waits_for_any_more_is_not_run() -> None:
    device = Device(held=True)
    batches = Batches(device, 2)
    results = batches.each(range(100))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(lambda: next(results))
        begun(device)
        until(lambda: queued(batches) == 2)
        device.go.release(1)
        begun(device)
        assert first.result(PATIENCE_S) == 0
        results.close()
        device.go.release(100)
        assert list(batches.each([7])) == [14]
    assert sum(len(batch) for batch in device.batches) <= 7


def test_a_device_that_cannot_start_fails_who_asks_and_nobody_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches = Batches(Device(), 2)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            list(batches.each([1, 2]))
    assert list(batches.each([3])) == [6]


def test_what_a_failure_held_is_freed_with_it() -> None:
    """A process may look for cycles seldom, and a call's audio is large."""

    class Audio:
        pass

    def fail(batch: Sequence[Audio]) -> Sequence[int]:
        raise ValueError("no")

    def hear(audio: Audio) -> None:
        with suppress(ValueError):
            list(batches.each([audio, audio]))

    batches: Batches[Audio, int] = Batches(fail, 2)
    audio = Audio()
    left = weakref.ref(audio)
    gc.disable()
    try:
        hear(audio)
        del audio
        until(lambda: left() is None)
    finally:
        gc.enable()


def test_a_batch_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="size=0"):
        Batches(Device(), 0)
