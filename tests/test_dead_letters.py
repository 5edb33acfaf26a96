"""Dead letters: listed until settled, sent to their own stage only, never lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from schemas.examples import EXAMPLES
from schemas.topics import (
    BY_RECORD,
    DEAD_LETTER,
    ENDED,
    ERASED,
    RECORDED,
    REPLAY,
    RETRY_TIERS,
    TOPICS,
    TRANSCRIBED,
)
from services import dead_letters as dead
from services.runtime import headers as h
from services.runtime.codec import Codec, FolderRegistry
from services.runtime.errors import Invalid, Transient
from services.runtime.log import Message, Record, TopicPartition
from services.runtime.process import dead_letter, process
from services.runtime.sqlite_log import Database, SqliteLog, SqliteView
from services.runtime.stage import Envelope, Outcome, Stage

NOW_MS = 1_772_444_100_000
NOW = datetime.fromtimestamp(NOW_MS / 1000, UTC)
ALL = tuple(topic.name for topic in TOPICS)


class Letters:
    """A log in memory with some dead letters of ingest on it."""

    def __init__(self, count: int) -> None:
        self.database = database = Database(None)
        self.view = SqliteView(database)
        self.view.create({topic.name: 4 for topic in TOPICS})
        self.log = SqliteLog(database)
        self.log.commit([self._refused(number) for number in range(count)], {})

    @staticmethod
    def _refused(number: int) -> Record:
        message = Message(
            ENDED, 0, number, f"acme/call-{number}".encode(), bytes([number % 256]),
            (("ce_id", b"evt"), ("x", b"\xff")), NOW_MS,
        )  # fmt: skip
        return dead_letter("ingest", message, Invalid("not_audio", f"number {number}"), NOW_MS)

    def open(self) -> Sequence[dead.DeadLetter]:
        return sorted(dead.unsettled(self.view), key=lambda letter: letter.call)


def test_a_letter_says_what_when_where_and_why() -> None:
    (letter,) = Letters(1).open()
    assert (letter.call, letter.stage, letter.topic) == ("acme/call-0", "ingest", ENDED)
    assert (letter.reason, letter.why) == ("not_audio", "not_audio: number 0")
    assert round(letter.at.timestamp() * 1000) == NOW_MS
    assert letter.original_headers == (("ce_id", b"evt"), ("x", b"\xff"))
    assert letter.message.value == b"\x00"


def test_a_dropped_letter_is_gone_from_the_list_and_stays_on_the_log() -> None:
    letters = Letters(3)
    before = letters.open()
    dead.drop(letters.log, before[:1], NOW_MS)
    assert [letter.call for letter in letters.open()] == ["acme/call-1", "acme/call-2"]
    on_log = list(letters.view.scan(DEAD_LETTER))
    assert len(on_log) == 4
    (settled,) = [message for message in on_log if message.header(h.DEAD_OF)]
    assert settled.header(h.DEAD_ACTION) == "dropped"
    assert settled.header(h.DEAD_OF) == before[0].id


def test_a_letter_that_is_read_after_what_settles_it_is_settled() -> None:
    letters = Letters(30)
    with letters.database.transaction() as tx:
        tx.executemany(
            "INSERT INTO partitions (topic, partition) VALUES (?, ?)",
            [(DEAD_LETTER, number) for number in range(4, 7)],
        )
    open_ = letters.open()
    dead.drop(letters.log, open_[:20], NOW_MS)
    read: set[str] = set()
    early = 0
    for message in letters.view.scan(DEAD_LETTER):
        about = message.header(h.DEAD_OF)
        early += about is not None and about not in read
        read.add(dead.DeadLetter(message).id)
    assert early, "of none is read first what settles it"
    assert letters.open() == open_[20:]


class Kept:
    """A log that keeps every commit, and can go away in one: before it took place, or after."""

    def __init__(self, inner: SqliteLog) -> None:
        self._inner = inner
        self.commits: list[list[Record]] = []
        self.away: tuple[int, str] | None = None
        self.lease, self.messages, self.close = inner.lease, inner.messages, inner.close

    def commit(self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]) -> None:
        number, when = self.away or (0, "")
        if len(self.commits) + 1 == number and when == "before":
            raise Transient("log_down", "no answer")
        self._inner.commit(records, offsets)
        self.commits.append(list(records))
        if len(self.commits) == number:
            raise Transient("commit_in_doubt", "no answer")

    @property
    def settled(self) -> list[int]:
        """How many letters each commit settles."""
        return [sum(r.topic == DEAD_LETTER for r in records) for records in self.commits]


@pytest.mark.parametrize("act", [dead.redrive, dead.drop])
def test_many_letters_are_settled_by_portions(act: Any) -> None:
    letters = Letters(2 * dead.PORTION_LETTERS + 1)
    open_ = letters.open()
    log = Kept(letters.log)
    held, told = [0], list[int]()

    def given() -> Iterator[dead.DeadLetter]:
        for number, letter in enumerate(open_):
            held.append(number + 1 - sum(log.settled))
            yield letter

    act(log, given(), NOW_MS, told.append)
    assert log.settled == [dead.PORTION_LETTERS, dead.PORTION_LETTERS, 1]
    assert max(held) == dead.PORTION_LETTERS + 1, "no more are held than one that does not fit"
    assert told == [dead.PORTION_LETTERS, 2 * dead.PORTION_LETTERS, len(open_)]
    assert letters.open() == []
    for records in log.commits:
        again = [record.key for record in records if record.topic != DEAD_LETTER]
        assert again in ([], [record.key for record in records if record.topic == DEAD_LETTER])


def test_large_letters_make_small_portions() -> None:
    size = dead.PORTION_BYTES // 8
    letters = Letters(0)
    sizes = [size] * 9 + [2 * dead.PORTION_BYTES] + [1] * 5
    for number, length in enumerate(sizes):
        message = Message(ENDED, 0, number, b"acme/a", b"x" * length, (), NOW_MS)
        letters.log.commit([dead_letter("ingest", message, Invalid("big", "x"), NOW_MS)], {})
    log = Kept(letters.log)
    dead.redrive(log, dead.unsettled(letters.view), NOW_MS)
    # A letter is written twice: to its stage, and settled.
    assert log.settled == [3, 3, 3, 1, 5]
    assert list(dead.unsettled(letters.view)) == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_stopped_anywhere_each_letter_is_settled_or_as_it_was(when: str) -> None:
    count = 2 * dead.PORTION_LETTERS + 1
    for number in (1, 2, 3):
        letters = Letters(count)
        log = Kept(letters.log)
        log.away = number, when
        with pytest.raises(Transient):
            dead.redrive(log, dead.unsettled(letters.view), NOW_MS)
        sent = {message.key for message in letters.view.scan(RETRY_TIERS[0].topic)}
        left = {letter.message.key for letter in letters.open()}
        done = number - (when == "before")
        assert len(sent) == min(count, done * dead.PORTION_LETTERS)
        assert not sent & left
        assert len(sent | left) == count
        log.away = None
        dead.redrive(log, dead.unsettled(letters.view), NOW_MS)
        assert letters.open() == []
        again = [message.key for message in letters.view.scan(RETRY_TIERS[0].topic)]
        assert len(again) == len(set(again)) == count


def test_a_producer_cannot_hide_a_letter_by_its_headers() -> None:
    letters = Letters(1)
    message = Message(ENDED, 0, 9, b"acme/sly", b"", ((h.DEAD_OF, b"0-0"),), NOW_MS)
    letters.log.commit([dead_letter("ingest", message, Invalid("not_framed", "x"), NOW_MS)], {})
    assert [letter.call for letter in letters.open()] == ["acme/call-0", "acme/sly"]


def test_a_redriven_letter_goes_to_its_own_stage_at_once_as_it_was() -> None:
    letters = Letters(2)
    dead.redrive(letters.log, letters.open()[1:], NOW_MS)
    assert [letter.call for letter in letters.open()] == ["acme/call-0"]
    (message,) = letters.view.scan(RETRY_TIERS[0].topic)
    assert (message.key, message.value) == (b"acme/call-1", b"\x01")
    assert message.header(h.RETRY_STAGE) == "ingest"
    assert message.header(h.RETRY_TOPIC) == ENDED
    assert message.header(h.RETRY_DUE_MS) == str(NOW_MS)
    assert message.header(h.ERROR_STAGE) is None
    assert message.headers[:2] == (("ce_id", b"evt"), ("x", b"\xff"))


@pytest.mark.parametrize(
    ("stage", "sources", "record"),
    [
        ("ingest", (ENDED, REPLAY, ERASED), "CallEnded"),
        ("transcribe", (RECORDED, REPLAY, ERASED), "CallRecorded"),
        ("enrich", (TRANSCRIBED, REPLAY), "CallTranscribed"),
        *(("sink", ALL, record) for record in BY_RECORD),
    ],
)
def test_a_redriven_letter_is_handled_as_the_event_it_was(
    stage: str, sources: tuple[str, ...], record: str
) -> None:
    """Whether or not the stage reads the retry tiers as topics too."""
    codec = Codec(FolderRegistry())
    event = next(iter(EXAMPLES[record].values()))
    sent = codec.encode(event, id="evt", source="/test", time=NOW)
    letters = Letters(0)
    message = Message(sent.topic, 0, 7, sent.key, sent.value, sent.headers, NOW_MS)
    letters.log.commit([dead_letter(stage, message, KeyError("odd"), NOW_MS)], {})
    dead.redrive(letters.log, letters.open(), NOW_MS)
    (again,) = letters.view.scan(RETRY_TIERS[0].topic)

    def read_by(name: str, sources: tuple[str, ...]) -> Envelope[Any]:
        seen: list[Envelope[Any]] = []

        def handle(envelopes: Sequence[Envelope[Any]]) -> list[tuple[int, Outcome]]:
            seen.extend(envelopes)
            return [(index, ()) for index in range(len(envelopes))]

        reading = Stage(name, sources, (), handle, passes_undecodable=name == "sink")
        assert list(process(reading, codec, [again], lambda: NOW)) == [(0, [])]
        (envelope,) = seen
        return envelope

    envelope = read_by(stage, sources)
    assert (envelope.event, envelope.id, envelope.problem) == (event, "evt", None)
    assert envelope.message == again
    if stage != "sink":
        archived = read_by("sink", ALL)
        assert archived.event == archived.message == again


def test_what_cannot_be_decoded_comes_back_to_the_sink_as_it_was() -> None:
    letters = Letters(0)
    message = Message(ENDED, 0, 7, b"acme/garbage", b"\xff", (("ce_id", b"evt"),), NOW_MS)
    letters.log.commit([dead_letter("sink", message, KeyError("odd"), NOW_MS)], {})
    dead.redrive(letters.log, letters.open(), NOW_MS)
    (again,) = letters.view.scan(RETRY_TIERS[0].topic)
    seen: list[Envelope[Any]] = []

    def handle(envelopes: Sequence[Envelope[Any]]) -> list[tuple[int, Outcome]]:
        seen.extend(envelopes)
        return [(0, ())]

    reading = Stage("sink", ALL, (), handle, passes_undecodable=True)
    assert list(process(reading, Codec(FolderRegistry()), [again], lambda: NOW)) == [(0, [])]
    (envelope,) = seen
    assert envelope.problem is not None
    assert (envelope.event.topic, envelope.event.value) == (ENDED, b"\xff")
    assert envelope.message == again


def test_a_letter_that_cannot_be_decoded_says_so() -> None:
    (letter,) = Letters(1).open()
    with pytest.raises(Invalid, match="not_framed"):
        dead.original(Codec(FolderRegistry()), letter)
