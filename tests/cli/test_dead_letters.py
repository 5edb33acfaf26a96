"""Dead letters: listed until settled, sent to their own stage only, never lost."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from schemas.topics import DEAD_LETTER, ENDED, RETRY_TIERS, TOPICS
from services.cli import dead_letters as dead
from services.runtime import headers as h
from services.runtime.errors import Invalid
from services.runtime.log import Message, Record
from services.runtime.process import dead_letter
from services.runtime.sqlite_log import Database, SqliteLog, SqliteView

NOW_MS = 1_772_444_100_000


class Letters:
    """A log in memory with some dead letters of ingest on it."""

    def __init__(self, count: int) -> None:
        database = Database(None)
        self.view = SqliteView(database)
        self.view.create({topic.name: 4 for topic in TOPICS})
        self.log = SqliteLog(database)
        self.log.commit([self._refused(number) for number in range(count)], {})

    @staticmethod
    def _refused(number: int) -> Record:
        message = Message(
            ENDED, 0, number, f"acme/call-{number}".encode(), bytes([number]),
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


def test_a_letter_that_cannot_be_decoded_says_so() -> None:
    from services.runtime.codec import Codec, FolderRegistry

    (letter,) = Letters(1).open()
    with pytest.raises(Invalid, match="not_framed"):
        dead.original(Codec(FolderRegistry()), letter)
