"""What no stage sees of itself: how far it is behind, and the dead letters that nobody settled."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from schemas.topics import DEAD_LETTER
from services.runtime import headers as h
from services.runtime.errors import Transient
from services.runtime.log import LogView, TopicPartition
from services.runtime.observe import Observer, logger
from services.runtime.sqlite_log import SqliteView

_EVERY_S = 15.0
# Kafka counts the ends of transactions among the offsets. Of so many that a partition is behind,
# it is looked at how many are messages.
_FEW = 8


class Lags:
    """How many messages of a topic a group has not finished. Remembers what it looked at."""

    def __init__(self, view: LogView) -> None:
        self._view = view
        self._looked: dict[tuple[str, str], dict[tuple[int, int, int], int]] = {}

    def of(self, group: str, topics: Collection[str]) -> dict[str, int]:
        """Topic -> messages, of each of `topics` that exists. Raises Transient."""
        have = self._view.partitions().keys()
        read = self._view.committed(group)
        return {topic: self._behind(group, topic, read) for topic in topics if topic in have}

    def _behind(self, group: str, topic: str, read: Mapping[TopicPartition, int]) -> int:
        ends = self._view.ends(topic)
        at = {
            p: max(first, read.get(TopicPartition(topic, p), 0)) for p, (first, _) in ends.items()
        }
        behind = {(p, at[p], end): end - at[p] for p, (_, end) in ends.items() if at[p] < end}
        if isinstance(self._view, SqliteView):
            return sum(behind.values())
        known = self._looked.get((group, topic), {})
        few = {place for place, count in behind.items() if count <= _FEW}
        unknown = {place[0] for place in few if place not in known}
        counted: Counter[int] = Counter()
        if unknown:
            start = {p: at[p] if p in unknown else end for p, (_, end) in ends.items()}
            counted.update(message.partition for message in self._view.scan(topic, start))
        found = {place: counted[place[0]] if place[0] in unknown else known[place] for place in few}
        self._looked[group, topic] = found
        # What was written meanwhile is none of what is counted here.
        return sum(min(found.get(place, count), count) for place, count in behind.items())


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter that nobody has settled."""

    stage: str
    reason: str
    at_ms: int


class Letters:
    """The dead letters that nobody has redriven or dropped; reads each message once."""

    def __init__(self, view: LogView) -> None:
        self._view = view
        self._next: dict[int, int] = {}
        self._left: dict[tuple[int, int], Letter] = {}
        # Letters that are settled and not read yet: where partitions were added since one was
        # written, what settles it may be read before it, from another partition.
        self._early: set[tuple[int, int]] = set()

    def unsettled(self) -> Collection[Letter]:
        """As of now. Raises Transient, after which it may be asked again."""
        ends = self._view.ends(DEAD_LETTER)
        if any(self._next.get(p, first) < end for p, (first, end) in ends.items()):
            for message in self._view.scan(DEAD_LETTER, self._next):
                place = message.partition, message.offset
                settles = message.header(h.DEAD_OF)
                if settles is None:
                    if place in self._early:
                        self._early.discard(place)
                    else:
                        self._left[place] = Letter(
                            message.header(h.ERROR_STAGE) or "",
                            message.header(h.DEAD_REASON) or "",
                            message.timestamp_ms,
                        )
                elif (settled := _place(settles)) is not None:
                    self._left.pop(settled, None)
                    if settled[1] >= self._next.get(settled[0], 0):
                        self._early.add(settled)
                # One at a time: what follows a failure in the middle is read by the next.
                self._next[message.partition] = message.offset + 1
            for p, (_, end) in ends.items():
                self._next[p] = max(self._next.get(p, 0), end)
        for place in [place for place in self._left if place[1] < ends.get(place[0], (0, 0))[0]]:
            del self._left[place]  # the log keeps it no longer
        self._early = {(p, at) for p, at in self._early if at >= self._next.get(p, 0)}
        return self._left.values()


def _place(text: str) -> tuple[int, int] | None:
    partition, _, offset = text.partition("-")
    return (int(partition), int(offset)) if partition.isdigit() and offset.isdigit() else None


class Watch:
    """Tells `observer` of lags, and of dead letters where `stages_of_letters` is given."""

    def __init__(
        self,
        view: LogView,
        observer: Observer,
        reads: Mapping[str, tuple[str, Collection[str]]],
        stages_of_letters: Collection[str] = (),
    ) -> None:
        """`reads`: stage -> its group and topics. Letters of no known stage are under `other`."""
        self._observer, self._reads, self._stages = observer, reads, stages_of_letters
        self._lags, self._letters = Lags(view), Letters(view)

    def run(self, stop: threading.Event, every_s: float = _EVERY_S) -> None:
        """Measure until `stop` is set. A log that does not answer is asked again later."""
        while not stop.is_set():
            self._try(self._tell_lags, stop)
            if self._stages:
                self._try(self._tell_letters, stop)
            stop.wait(every_s)

    def _try(self, tell: Callable[[], None], stop: threading.Event) -> None:
        try:
            tell()
        except Transient as failure:
            logger("watch").debug("not measured", why=str(failure))
        except Exception as failure:  # what is not measured stops nothing
            if not stop.is_set():  # at a stop the log is closed meanwhile
                logger("watch").warning("not measured", why=f"{type(failure).__name__}: {failure}")

    def _tell_lags(self) -> None:
        for stage, (group, topics) in self._reads.items():
            for topic, behind in self._lags.of(group, topics).items():
                self._observer.lag(stage, topic, behind)

    def _tell_letters(self) -> None:
        found: dict[str, list[int]] = {stage: [] for stage in (*self._stages, "other")}
        for letter in self._letters.unsettled():
            found.get(letter.stage, found["other"]).append(letter.at_ms)
        for stage, written in found.items():
            self._observer.unsettled(stage, len(written), min(written, default=None))
