"""Work of many calls on one device, in common batches.

A device is fastest when it is given several items at once, and the calls at hand rarely have as
many each. Callers hand in items one by one, ahead of what they wait for; a thread takes batches
from whoever has some. It begins with what is there and waits for no batch to fill: while one is
worked on, the next comes together by itself.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from services.runtime.libraries import empty_caches, first_line, is_out_of_memory
from services.runtime.observe import logger

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")

# A device's thread that has nothing to do for so long ends; the next item starts another.
_IDLE_S = 5.0
# After so many batches in a row that were no larger than what fits, a larger one is tried.
_BATCHES_BEFORE_GROWTH = 256


class OutOfMemory(Exception):
    """The device had no room for a batch, nor for an item of it alone, even when what libraries
    keep of its memory was given back. Whatever else runs there may leave room later."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a device has done so far."""

    busy_s: float = 0.0
    batches: int = 0
    items: int = 0
    out_of_memory: int = 0
    """Batches that did not fit."""
    fits: int = 0
    """Items that a batch may hold by now: fewer than asked for where the device lacks memory."""


@dataclass(slots=True, eq=False)
class _Item(Generic[I, R]):
    given: I
    kind: Hashable
    result: R | None = None
    failure: BaseException | None = None
    done: bool = False
    wanted: bool = True
    """Whether its caller still waits for it. A failure that nobody takes would hold the frames it
    came through, and these the item."""


@dataclass(slots=True, eq=False)
class _Caller(Generic[I, R]):
    """One use of `each`. What it handed in and what nobody has taken yet."""

    replay: bool
    queued: deque[_Item[I, R]] = field(default_factory=deque)


class Batches(Generic[I, R]):
    """Runs items of many threads on one device, at most `size` at once.

    Batches are made of items that are `alike`, taken from the callers in turn, one of each: a long
    call gets no more of the device than a short one. Items of replays are taken only where no live
    call has any. An item that fails is told to its caller alone: a batch that fails is divided
    until it is known which of its items it was. A batch that is out of memory is divided too, and
    smaller ones are made from then on, until larger ones fit again; an item that has no room alone
    is tried once more before its caller gets OutOfMemory.
    """

    def __init__(
        self,
        run: Callable[[Sequence[I]], Sequence[R]],
        size: int,
        alike: Callable[[I], Hashable] = lambda item: None,
    ) -> None:
        """`run` answers a batch in its order; it is called by one thread at a time. Where it fails
        as libraries do whose device has no room, it is called with fewer."""
        if size < 1:
            raise ValueError(f"size={size}: a batch holds one item at least")
        self._run, self._size, self._alike = run, size, alike
        self._changed = threading.Condition()
        self._callers: deque[_Caller[I, R]] = deque()
        self._working = False
        self._fits, self._since_growth = size, 0
        self._usage = Usage(fits=size)

    @property
    def usage(self) -> Usage:
        with self._changed:
            return self._usage

    def each(self, items: Iterable[I], *, replay: bool = False) -> Generator[R]:
        """The results of `items`, in their order. Raises what `run` raised for one of them alone.

        `items` are drawn by the calling thread, until the device has a whole batch of them before
        it: the next one is ready when it is done with this one, and memory is bounded. What was
        handed in and is not wanted any more, because the iterator was closed, is not run.
        """
        caller: _Caller[I, R] = _Caller(replay)
        handed: deque[_Item[I, R]] = deque()
        with self._changed:
            self._callers.append(caller)
        try:
            for given in items:
                item: _Item[I, R] = _Item(given, self._alike(given))
                handed.append(item)
                self._hand_in(caller, item)
                while handed and self._has_result(caller, handed[0]):
                    yield self._awaited(handed.popleft())
            while handed:
                yield self._awaited(handed.popleft())
        finally:
            with self._changed:
                self._callers.remove(caller)
                for item in handed:
                    item.wanted, item.failure = False, None

    def _hand_in(self, caller: _Caller[I, R], item: _Item[I, R]) -> None:
        with self._changed:
            caller.queued.append(item)
            if not self._working:
                threading.Thread(target=self._work, name="device", daemon=True).start()
                self._working = True
            self._changed.notify_all()

    def _has_result(self, caller: _Caller[I, R], oldest: _Item[I, R]) -> bool:
        """Wait for a result or for room; whether it is a result."""
        with self._changed:
            self._changed.wait_for(lambda: oldest.done or len(caller.queued) < self._size)
            return oldest.done

    def _awaited(self, item: _Item[I, R]) -> R:
        with self._changed:
            self._changed.wait_for(lambda: item.done)
        if item.failure is not None:
            # Nothing keeps it but its traceback: what its frames hold is freed with it.
            failure, item.failure = item.failure, None
            try:
                raise failure
            finally:
                del failure
        return item.result  # type: ignore[return-value]  # R may be None itself

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(self._waiting, _IDLE_S):
                    self._working = False
                    return
                batch = self._next()
                self._changed.notify_all()
            fitted = self._fits
            self._answer(batch)
            if self._fits < fitted:
                logger("transcribe").warning(
                    "device out of memory, smaller batches are made",
                    fits=self._fits, before=fitted, asked=self._size,
                    times=self._usage.out_of_memory,
                    mend="leave the device more memory, or set transcribe.batch_size lower",
                )  # fmt: skip
            with self._changed:
                for item in batch:
                    item.done = True
                del batch, item  # nothing of a call is held while there is nothing to do
                self._changed.notify_all()

    def _waiting(self) -> bool:
        return any(caller.queued for caller in self._callers)

    def _next(self) -> list[_Item[I, R]]:
        """The next batch, taken from its callers; at least one of them has something."""
        able = [caller for caller in self._callers if caller.queued]
        able = [caller for caller in able if not caller.replay] or able
        kind = able[0].queued[0].kind
        batch: list[_Item[I, R]] = []
        served: list[_Caller[I, R]] = []
        while len(batch) < self._fits:
            before = len(batch)
            for caller in able:
                if len(batch) == self._fits:
                    break
                if caller.queued and caller.queued[0].kind == kind:
                    batch.append(caller.queued.popleft())
                    served.append(caller)
            if len(batch) == before:
                break
        # Whoever was served last is asked last.
        for caller in dict.fromkeys(served):
            self._callers.remove(caller)
            self._callers.append(caller)
        return batch

    def _answer(self, batch: Sequence[_Item[I, R]], *, relieved: bool = False) -> None:
        started = time.monotonic()
        failure: BaseException | None = None
        try:
            results = self._run([item.given for item in batch])
            for item, result in zip(batch, results, strict=True):
                item.result = result
        except BaseException as raised:
            failure = raised
        if crowded := failure is not None and _lacks_room(failure):
            assert failure is not None
            if not isinstance(failure, OutOfMemory):
                # Not the failure itself, whose frames hold what was on the device.
                failure = OutOfMemory(first_line(failure))
        with self._changed:
            usage = self._usage
            self._usage = Usage(
                busy_s=usage.busy_s + time.monotonic() - started,
                batches=usage.batches + 1,
                items=usage.items + (len(batch) if failure is None else 0),
                out_of_memory=usage.out_of_memory + crowded,
                fits=self._fit(len(batch), crowded),
            )
        if failure is None:
            return
        if crowded and not relieved and len(batch) == 1:
            del failure
            empty_caches()
            self._answer(batch, relieved=True)
            return
        if len(batch) == 1:
            with self._changed:
                if batch[0].wanted:
                    batch[0].failure = failure
            del failure  # whose traceback holds this frame
            return
        del failure
        middle = len(batch) // 2
        self._answer(batch[:middle])
        self._answer(batch[middle:])

    def _fit(self, size: int, crowded: bool) -> int:
        """How many items may be run at once, when so many did fit or did not."""
        if crowded:
            self._fits, self._since_growth = max(1, min(self._fits, size // 2)), 0
        elif size == self._fits < self._size:
            self._since_growth += 1
            if self._since_growth >= _BATCHES_BEFORE_GROWTH:
                self._fits, self._since_growth = min(self._size, 2 * self._fits), 0
        return self._fits


def _lacks_room(failure: BaseException) -> bool:
    return isinstance(failure, OutOfMemory) or is_out_of_memory(failure)
