"""The one seam between stages and what carries their messages."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

Headers = tuple[tuple[str, bytes], ...]


class TopicPartition(NamedTuple):
    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Message:
    """A message as read. `value` is None for a tombstone, which is not the same as b""."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int
    lease: int = 0
    """Which assignment of the partition it was read under; a commit under another is refused."""

    @property
    def source(self) -> TopicPartition:
        return TopicPartition(self.topic, self.partition)

    def header(self, name: str) -> str | None:
        """The last header of that name as text, or None."""
        for key, value in reversed(self.headers):
            if key == name:
                return value.decode("utf-8", "replace")
        return None


@dataclass(frozen=True, slots=True)
class Record:
    """A message to be written. The partition follows from the key (murmur2, as Java's)."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int | None = None


class Log(Protocol):
    """A member of one consumer group, reading some topics; also the way to write.

    Not thread-safe: one thread owns a log. Every method may raise `Transient` when what lies
    behind it does not answer; the caller waits and calls again.
    """

    def messages(
        self, limit: int, wait_s: float, hold: Collection[TopicPartition] = ()
    ) -> list[Message]:
        """Up to `limit` messages that follow those already returned, waiting up to `wait_s`.

        Only committed messages are seen. Order holds within a partition. Partitions in `hold` are
        not read from during this call. Must be called at least every few seconds, work or no work:
        membership of the group depends on it. A group begins at the first message kept. Where what
        follows those it committed is no longer there, the log's `on_gone` decides: by default it
        raises `OffsetGone`; if it returns, the group goes on at the first message kept.
        """

    def commit(self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]) -> None:
        """Write `records` and move the group's `offsets`, all or nothing, durable on return.

        An offset is that of the next message to read. Raises `Lost` when a partition in `offsets`
        is no longer this member's, or when nobody can say whether the commit took place: what was
        not written comes again under another lease. After `Transient` the same commit may be tried
        again, once `messages` has been called. Raises `TooLarge` for a record that is never taken.
        """

    def lease(self, source: TopicPartition) -> int | None:
        """Which assignment of `source` this member holds now; None when it holds none."""

    def close(self) -> None:
        """Leave the group. What was not committed will be read again, by this group's others."""


class Lost(Exception):
    """A partition went to another member; what was done for it is to be discarded."""

    def __init__(self, sources: Collection[TopicPartition]) -> None:
        super().__init__(", ".join(f"{topic}[{part}]" for topic, part in sorted(sources)))
        self.sources = frozenset(sources)


class OffsetGone(Exception):
    """The next offset that a group is to read is not in the log: nothing is passed over silently.

    `first` is the first offset kept, `end` that after the last message.
    """

    def __init__(
        self, group: str, source: TopicPartition, offset: int, first: int, end: int
    ) -> None:
        stage = group.removeprefix("callstream.")
        if offset < first:
            what = (
                f"the first kept is {first}: {first - offset} are gone, deleted by retention "
                "before they were read"
            )
        else:
            what = (
                f"the topic ends at {end}, {offset - end} before it, and keeps {end - first}: it "
                "was made anew, or has lost its end"
            )
        super().__init__(
            f"{source.topic}[{source.partition}]: group {group} is to read offset {offset}, and "
            f"{what}. `callstream topics rewind {stage}` moves the group to the first message kept "
            "and says what it passes over; calls that were lost so are replayed from the archive"
        )
        self.source, self.offset, self.first, self.end = source, offset, first, end


def refuse_gone(gone: OffsetGone) -> None:
    """Raise it."""
    raise gone


class NoSuchTopic(ValueError):
    """Topics that are read or written and are not there."""

    def __init__(self, topics: Collection[str]) -> None:
        self.topics = tuple(sorted(topics))
        super().__init__(
            f"no such topic: {', '.join(self.topics)}; `callstream topics create` makes what is "
            "missing"
        )


class TooLarge(ValueError):
    """A record beyond what the log takes: the same commit will never succeed."""

    def __init__(self, record: Record, detail: str) -> None:
        super().__init__(detail)
        self.record = record


class LogView(Protocol):
    """What operators and commands see of a log: no group, no membership. Thread-safe.

    A commit that has returned may show a moment later.
    """

    def create(self, topics: Mapping[str, int]) -> list[str]:
        """Create what is missing (name -> partitions); the names created."""

    def partitions(self) -> dict[str, int]:
        """Topic name -> number of partitions, of every topic there is."""

    def ends(self, topic: str) -> dict[int, tuple[int, int]]:
        """Partition -> (first offset kept, offset after the last committed message)."""

    def committed(self, group: str) -> dict[TopicPartition, int]:
        """The group's offsets; partitions never committed are absent."""

    def rewind(self, group: str) -> dict[TopicPartition, tuple[int, int]]:
        """Move what the group is to read and the log no longer has to the first message kept.

        Partition -> (offset before, offset now). Raises ValueError while the group has members.
        """

    def scan(self, topic: str, start: Mapping[int, int] | None = None) -> Iterator[Message]:
        """Committed messages of `topic` from `start` (default: the first kept) to the end now."""

    def close(self) -> None: ...


_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Kafka's murmur2 hash of `data`, as an unsigned 32-bit integer."""
    length = len(data)
    value = (_SEED ^ length) & _MASK
    whole = length & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        value = (value * _M & _MASK) ^ k
    if length & 3:
        value = (value ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    value = (value ^ value >> 13) * _M & _MASK
    return value ^ value >> 15


def partition_for(key: bytes, partitions: int) -> int:
    """The partition that Java's default partitioner gives `key`."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
