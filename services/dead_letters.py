"""Dead letters as an operator meets them: listed, looked at, sent again, dropped.

The log forgets nothing, so what an operator decided is a message of its own on the dead-letter
topic: the letter again, with `callstream.dead.action` and the place of the letter it settles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from schemas.topics import DEAD_LETTER, RETRY_TIERS
from services.runtime import headers as h
from services.runtime.codec import Codec
from services.runtime.log import Log, LogView, Message, Record

# Most letters that one commit settles, and most bytes of its records: however much was refused, a
# transaction takes a fraction of its time.
PORTION_LETTERS = 500
PORTION_BYTES = 8_000_000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be processed, and why."""

    message: Message

    @property
    def id(self) -> str:
        """Its place on the dead-letter topic: partition-offset."""
        return f"{self.message.partition}-{self.message.offset}"

    @property
    def call(self) -> str:
        return (self.message.key or b"").decode("utf-8", "replace")

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp(self.message.timestamp_ms / 1000, UTC)

    def header(self, name: str) -> str:
        return self.message.header(name) or ""

    @property
    def stage(self) -> str:
        return self.header(h.ERROR_STAGE)

    @property
    def topic(self) -> str:
        return self.header(h.ERROR_TOPIC)

    @property
    def reason(self) -> str:
        return self.header(h.DEAD_REASON)

    @property
    def why(self) -> str:
        return self.header(h.ERROR_MESSAGE)

    @property
    def refused(self) -> Message:
        """The message as its stage was given it; the place is still that of the letter."""
        return replace(self.message, topic=self.topic, headers=self.original_headers)

    @property
    def original_headers(self) -> tuple[tuple[str, bytes], ...]:
        """The headers the message had before it was refused or made to wait."""
        return tuple(
            (name, value)
            for name, value in self.message.headers
            if not name.startswith(("__connect.errors.", "callstream."))
        )


def unsettled(view: LogView) -> Iterator[DeadLetter]:
    """Dead letters that nobody has redriven or dropped, in the order of the topic; none is held.

    Reads the topic twice: what settles a letter may be read before it, from another partition,
    where some were added since the letter was written.
    """
    over = decided(view)
    for message in view.scan(DEAD_LETTER):
        letter = DeadLetter(message)
        if message.header(h.DEAD_OF) is None and letter.id not in over:
            yield letter


def decided(view: LogView) -> set[str]:
    """Ids of the letters that were redriven or dropped, as far as the log reaches."""
    return {
        about
        for message in view.scan(DEAD_LETTER)
        if (about := message.header(h.DEAD_OF)) is not None
    }


def original(codec: Codec, letter: DeadLetter) -> Any:
    """The letter's event as plain values. Raises Invalid where it cannot be decoded."""
    return msgspec.to_builtins(codec.decode(letter.refused).event)


def redrive(
    log: Log,
    letters: Iterable[DeadLetter],
    now_ms: int,
    told: Callable[[int], None] = lambda count: None,
) -> None:
    """Give each letter to its stage again, at once, and to no other stage.

    A letter is settled in the commit that sends it, a portion of them at a time: stopped anywhere,
    each is settled or as it was. `told` is given how many are settled, after every commit. No more
    of `letters` is held than a portion. Raises as `Log.commit`.
    """
    _commit(
        log,
        ((_again(letter, now_ms), settled(letter, "redriven", now_ms)) for letter in letters),
        told,
    )


def drop(
    log: Log,
    letters: Iterable[DeadLetter],
    now_ms: int,
    told: Callable[[int], None] = lambda count: None,
) -> None:
    """Note that nobody is to look at these again; their bytes stay in log and archive.

    By portions, as `redrive`.
    """
    _commit(log, ((settled(letter, "dropped", now_ms),) for letter in letters), told)


def _commit(log: Log, made: Iterable[Sequence[Record]], told: Callable[[int], None]) -> None:
    """Commit the records of one letter together, and those of a portion of letters at once."""
    done = 0
    for portion in _portions(made):
        log.commit([record for records in portion for record in records], {})
        done += len(portion)
        told(done)


def _portions(made: Iterable[Sequence[Record]]) -> Iterator[list[Sequence[Record]]]:
    """As many as fit into one commit; what is larger than that goes by itself."""
    portion: list[Sequence[Record]] = []
    size = 0
    for records in made:
        more = sum(map(_size, records))
        if portion and (len(portion) == PORTION_LETTERS or size + more > PORTION_BYTES):
            yield portion
            portion, size = [], 0
        portion.append(records)
        size += more
    if portion:
        yield portion


def _size(record: Record) -> int:
    headers = sum(len(name) + len(value) for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers


def _again(letter: DeadLetter, now_ms: int) -> Record:
    """What was refused, as a message that is due at its stage."""
    added = {
        h.RETRY_STAGE: letter.stage,
        h.RETRY_REASON: "redriven",
        h.RETRY_DETAIL: f"sent again by an operator after: {letter.why}"[:2000],
        h.RETRY_DUE_MS: str(now_ms),
        h.RETRY_ATTEMPT: "0",
        h.RETRY_FIRST_MS: str(now_ms),
        h.RETRY_TOPIC: letter.topic,
        h.RETRY_PARTITION: letter.header(h.ERROR_PARTITION),
        h.RETRY_OFFSET: letter.header(h.ERROR_OFFSET),
    }
    return Record(
        RETRY_TIERS[0].topic,
        letter.message.key,
        letter.message.value,
        (*letter.original_headers, *((k, v.encode()) for k, v in added.items())),
        timestamp_ms=now_ms,
    )


def settled(letter: DeadLetter, action: str, now_ms: int) -> Record:
    """The letter again, with what was decided about it."""
    message = letter.message
    return Record(
        DEAD_LETTER,
        message.key,
        message.value,
        (
            *message.headers,
            (h.DEAD_ACTION, action.encode()),
            (h.DEAD_OF, letter.id.encode()),
        ),
        timestamp_ms=now_ms,
    )
