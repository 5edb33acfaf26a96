"""When an endpoint may be asked: how often, whether it is down, and whose turn it is.

All of it is in memory: a process that starts again knows nothing of it, and asks once more.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from services.runtime.errors import Transient
from services.runtime.log import Message, TopicPartition

_FIRST_PAUSE_S = 0.25
# What waits longer for the rate is handed back to the loop, so that a stop need not wait for it.
_LONGEST_SLEEP_S = 5.0
_MINUTE_S = 60.0


class Busy(Transient):
    """An endpoint does not take events now; `after_s` is when it asks to be tried again."""

    def __init__(self, reason: str, detail: str, after_s: float | None = None) -> None:
        super().__init__(reason, detail)
        self.after_s = after_s


class Gate:
    """Lets requests through to an endpoint that works, one at a time to one that fails.

    Thread-safe. After a failure none is let through for a pause that doubles, with jitter, up to
    `pause_max_s`, or for as long as the endpoint asks for, up to `retry_after_max_s`.
    """

    def __init__(
        self,
        rate: int | None,
        pause_max_s: float,
        retry_after_max_s: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate, self._pause_max_s = rate, pause_max_s
        self._retry_after_max_s = retry_after_max_s
        self._now, self._sleep = now, sleep
        self._lock = threading.Lock()
        self._sent: deque[float] = deque()
        self._failed = 0
        self._opens_at = 0.0
        self._asking = 0
        self._why = ""
        self.taken = 0
        """How many events the endpoint has taken."""

    @contextmanager
    def passed(self) -> Iterator[None]:
        """One request. Raises Transient (`endpoint_waits`, `rate`) where none may be sent now."""
        wait_s = self._entered()
        try:
            if wait_s > 0:
                self._sleep(wait_s)
            yield
        except Busy as failure:
            self._shut(failure)
            raise
        except Transient:
            raise  # ours, not the endpoint's
        except Exception:
            self._open(taken=False)
            raise
        else:
            self._open(taken=True)
        finally:
            with self._lock:
                self._asking -= 1

    def _entered(self) -> float:
        with self._lock:
            now = self._now()
            if now < self._opens_at:
                raise Transient("endpoint_waits", f"{self._opens_at - now:.0f} s: {self._why}")
            if self._failed and self._asking:
                raise Transient("endpoint_waits", f"it is tried by another: {self._why}")
            wait_s = 0.0
            if self._rate is not None:
                while self._sent and self._sent[0] <= now - _MINUTE_S:
                    self._sent.popleft()
                if len(self._sent) >= self._rate:
                    # Those reserved may lie ahead: the one `rate` places before decides.
                    wait_s = self._sent[-self._rate] + _MINUTE_S - now
                if wait_s > _LONGEST_SLEEP_S:
                    raise Transient("rate", f"{self._rate} per minute; next in {wait_s:.0f} s")
                self._sent.append(now + max(0.0, wait_s))
            self._asking += 1
            return wait_s

    def _shut(self, failure: Busy) -> None:
        with self._lock:
            self._failed += 1
            longest = min(self._pause_max_s, _FIRST_PAUSE_S * 2.0 ** min(self._failed - 1, 16))
            pause_s = longest * random.uniform(0.5, 1.0)  # jitter, no secret
            if failure.after_s is not None:
                pause_s = max(pause_s, min(failure.after_s, self._retry_after_max_s))
            self._opens_at = max(self._opens_at, self._now() + pause_s)
            self._why = str(failure)

    def _open(self, *, taken: bool) -> None:
        """It has answered: what it refuses of one event says nothing of the next."""
        with self._lock:
            self._failed, self._opens_at = 0, 0.0
            self.taken += taken


@dataclass(slots=True)
class _Failures:
    tries: int = 0
    since: float = 0.0
    taken_before: int = 0


@dataclass(slots=True)
class _Line:
    """The events of one call that wait, by their offset."""

    lease: int
    waiting: dict[int, _Failures] = field(default_factory=dict)


class Turns:
    """Keeps the events of one call in the order of their partition, whatever fails. Thread-safe.

    The loop hands events out in that order first, and later in any. What waits is known by the
    assignment of its partition: after another, all comes anew.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._lines: dict[tuple[TopicPartition, bytes | None], _Line] = {}

    def take(self, message: Message) -> None:
        """The event is to go out now. Raises Transient (`behind_another`) where an earlier one of
        its call waits; until it is `done` those after it do.
        """
        with self._lock:
            line = self._line(message)
            line.waiting.setdefault(message.offset, _Failures())
            first = min(line.waiting)
        if first < message.offset:
            raise Transient("behind_another", f"an earlier event of the call waits at {first}")

    def failed(self, message: Message, taken: int) -> tuple[int, float, int]:
        """The endpoint has failed on the event once more, and has taken `taken` events in all:
        how often it did, for how many seconds, and how many others it has taken since the first.
        """
        with self._lock:
            known = self._line(message).waiting.setdefault(message.offset, _Failures())
            if not known.tries:
                known.since, known.taken_before = self._now(), taken
            known.tries += 1
            return known.tries, self._now() - known.since, taken - known.taken_before

    def tries(self, message: Message) -> int:
        """How often the endpoint has failed on the event."""
        with self._lock:
            known = self._line(message).waiting.get(message.offset)
            return known.tries if known is not None else 0

    def done(self, message: Message) -> None:
        """The event waits no more."""
        with self._lock:
            line = self._line(message)
            line.waiting.pop(message.offset, None)
            if not line.waiting:
                del self._lines[message.source, message.key]

    def _line(self, message: Message) -> _Line:
        key = (message.source, message.key)
        line = self._lines.get(key)
        if line is None or line.lease != message.lease:
            line = self._lines[key] = _Line(message.lease)
        return line
