"""Mutated recordings through ingest and transcribe: the real loops, the real decoder.

The log is in memory, the recordings are files that ingest fetches, the engine is the stub: what is
under test is what touches bytes of unknown origin.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from schemas.events import CallEnded, Platform, Recording, RecordingStatus, Source
from schemas.topics import DEAD_LETTER, ENDED, RECORDED, RETRY_TIERS, TOPICS, TRANSCRIBED
from services.ingest.handler import stage as ingest_stage
from services.ingest.settings import IngestSettings
from services.runtime import headers as h
from services.runtime.codec import Codec, FolderRegistry
from services.runtime.log import Message, TopicPartition
from services.runtime.loop import run
from services.runtime.objects import DirectoryObjects
from services.runtime.observe import Observer
from services.runtime.process import topics_of
from services.runtime.settings import Policy
from services.runtime.sqlite_log import Database, SqliteLog, SqliteView
from services.runtime.stage import Envelope, Handle, Outcome, Stage, utc_now
from services.transcribe.choice import choose
from services.transcribe.handler import stage as transcribe_stage
from services.transcribe.settings import TranscribeSettings
from tests.hostile.reading import Took
from tests.hostile.recordings import Mutants

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
# One try: what fails unexpectedly is a finding, not weather.
_POLICY = Policy(attempts=1, breaker_in_a_row=1_000_000, breaker_share=1.0, backoff_s=0.0)
# Longest time in which no file at all comes to its end.
# The longest recording that is allowed takes a minute, and longer beside others.
_STUCK_S = 600.0


@dataclass
class Heard:
    """What became of some recordings, by number."""

    outcomes: dict[int, str] = field(default_factory=dict)
    """`transcribed`, the reason of a dead letter as `stage/reason`, or what it should not be."""
    seconds: dict[int, float] = field(default_factory=dict)
    """The longest that one stage was held by the file."""
    sound_s: dict[int, float] = field(default_factory=dict)
    """What it decodes to, all channels together."""


class Ear:
    """Ingest and transcribe over a folder of their own. Not thread-safe."""

    def __init__(self, folder: Path, begun: Callable[[int], None] = lambda number: None) -> None:
        """`begun` is told a recording's number before a stage touches it."""
        self._folder = folder
        self._begun = begun
        self._objects = DirectoryObjects(folder / "objects")
        self._codec = Codec(FolderRegistry(), self._objects)
        self._seconds: dict[int, float] = {}
        drop = folder / "files"
        drop.mkdir()
        self._files = drop
        chosen = choose(TranscribeSettings(engine="stub"))
        self._stages = [
            self._timed(stage)
            for stage in (
                ingest_stage(
                    IngestSettings(allowed_roots=(drop,), workers=1),
                    self._objects,
                ),
                transcribe_stage(TranscribeSettings(engine="stub"), self._objects, chosen),
            )
        ]

    def alone(self, mutants: Mutants, number: int) -> Took:
        """What the file takes with nothing beside it, of the processor by children too."""
        before = os.times()
        heard = self.hear(mutants, [number])
        return Took(heard.seconds[number], sum(os.times()[:4]) - sum(before[:4]))

    def _timed(self, stage: Stage) -> Stage:
        def handle(envelopes: Sequence[Envelope[CallEnded]]) -> Iterator[tuple[int, Outcome]]:
            (envelope,) = envelopes
            number = int(envelope.event.call_id)
            self._begun(number)
            started = time.monotonic()
            yield from inner(envelopes)
            took = time.monotonic() - started
            self._seconds[number] = max(took, self._seconds.get(number, 0.0))

        inner: Handle = stage.handle
        return replace(stage, handle=handle, batch=1)

    def hear(self, mutants: Mutants, numbers: Sequence[int]) -> Heard:
        """Pass the recordings `numbers` through both stages, and say what became of each."""
        self._seconds.clear()
        database = Database(None)
        view = SqliteView(database)
        view.create({topic.name: 4 for topic in TOPICS})
        writer = SqliteLog(database)
        for number in numbers:
            mutant = mutants.file(number)
            path = self._files / mutant.name
            path.write_bytes(mutant.data)
            writer.commit([self._codec.encode(_call(number, path, mutant.said), id=f"id-{number}",
                                              source="/test", time=utc_now())], {})  # fmt: skip
        stop, observer = threading.Event(), Observer()
        threads = [
            threading.Thread(
                target=run,
                args=(stage, SqliteLog(database, stage.name, topics_of(stage)), self._codec, stop,
                      observer, _POLICY),
            )
            for stage in self._stages
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        try:
            _await(view, threads)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        heard = Heard(_outcomes(view, numbers), {n: self._seconds.get(n, 0.0) for n in numbers})
        for message in view.scan(RECORDED):
            event = self._codec.decode(message).event
            heard.sound_s[int(event.call_id)] = sum(
                stored.duration_ms / 1000 * stored.channels for stored in event.recordings
            )
        database.close()
        for path in self._files.iterdir():
            path.unlink()
        for key in list(self._objects.keys()):
            self._objects.delete(key)
        return heard


def _call(number: int, path: Path, said: str | None) -> CallEnded:
    recording = Recording(
        recording_id="r", status=RecordingStatus.AVAILABLE, uri=path.as_uri(), container=said
    )
    return CallEnded(
        event_id=f"event-{number}", tenant_id="hostile", call_id=str(number), occurred_at=NOON,
        published_at=NOON, source=Source(platform=Platform.OTHER), started_at=NOON, ended_at=NOON,
        recordings=[recording],
    )  # fmt: skip


def _lag(view: SqliteView, group: str, topic: str) -> int:
    read = view.committed(group)
    return sum(
        end - read.get(TopicPartition(topic, part), 0)
        for part, (_, end) in view.ends(topic).items()
    )


def _await(view: SqliteView, threads: Sequence[threading.Thread]) -> None:
    """Until both stages are done; gives up when nothing moves, or a stage ends."""
    lags, since = (-1, -1), time.monotonic()
    while lags != (0, 0):
        now = (_lag(view, "ingest", ENDED), _lag(view, "transcribe", RECORDED))
        if now != lags:
            lags, since = now, time.monotonic()
        if time.monotonic() - since > _STUCK_S or not all(thread.is_alive() for thread in threads):
            return
        time.sleep(0.02)


def _outcomes(view: SqliteView, numbers: Sequence[int]) -> dict[int, str]:
    def by_number(topic: str) -> dict[int, list[Message]]:
        found: dict[int, list[Message]] = {}
        for message in view.scan(topic):
            number = int((message.key or b"").decode().partition("/")[2])
            found.setdefault(number, []).append(message)
        return found

    transcribed, dead = by_number(TRANSCRIBED), by_number(DEAD_LETTER)
    waits = [by_number(tier.topic) for tier in RETRY_TIERS]
    outcomes = {}
    for number in numbers:
        ends = ["transcribed"] * len(transcribed.get(number, ()))
        ends += [
            f"{letter.header(h.ERROR_STAGE)}/{letter.header(h.DEAD_REASON)}"
            + (
                f": {letter.header(h.ERROR_MESSAGE)}"
                if letter.header(h.DEAD_REASON) == "unexpected"
                else ""
            )
            for letter in dead.get(number, ())
        ]
        ends += [
            f"waits: {message.header(h.RETRY_REASON)}"
            for tier in waits
            for message in tier.get(number, ())
        ]
        outcomes[number] = " and ".join(ends) or "nothing came of it"
    return outcomes


def violation(outcome: str) -> bool:
    """Whether that is no end for a recording: it is heard, or refused once with a named reason."""
    named = outcome == "transcribed" or outcome.startswith(("ingest/", "transcribe/"))
    return not named or " and " in outcome or "/unexpected" in outcome
