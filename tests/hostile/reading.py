"""Mutated messages through every stage: `process` for each alone, the real loop for a share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import services.runtime.loop as loop
from schemas.events import CallRecorded, Recording
from schemas.topics import DEAD_LETTER, RETRY_TIERS, TOPICS
from services.assembly import SOURCES
from services.enrich.handler import stage as enrich_stage
from services.enrich.handler import summary_stage
from services.enrich.insight import Insight
from services.enrich.rules import load_tenant_rules
from services.enrich.settings import EnrichSettings, LlmSettings
from services.ingest.fetch import Fetched
from services.ingest.handler import stage as ingest_stage
from services.ingest.settings import IngestSettings
from services.runtime import headers as h
from services.runtime.audio import AudioInfo, AudioLimits
from services.runtime.codec import Codec, FolderRegistry
from services.runtime.errors import Failure, Invalid, NotYet
from services.runtime.log import Message, Record, TopicPartition
from services.runtime.objects import DirectoryObjects
from services.runtime.observe import Observer
from services.runtime.process import dead_letter, process, retry, topics_of
from services.runtime.settings import Policy
from services.runtime.sqlite_log import Database, SqliteLog, SqliteView
from services.runtime.stage import Stage
from services.sink.handler import stage as sink_stage
from services.sink.rows import TABLES
from services.sink.settings import SinkSettings
from services.sink.warehouse import Result, Warehouse
from services.transcribe.choice import choose
from services.transcribe.handler import stage as transcribe_stage
from services.transcribe.settings import TranscribeSettings
from tests.hostile.messages import NOW, NOW_MS, Case, Mutants
from tests.transcribe.sounds import recorded, silence, speech, stored, wav

_POLICY = Policy(
    attempts=1, breaker_in_a_row=1_000_000, breaker_share=1.0, backoff_s=0.0,
    tier_delays_s=(3600.0, 3600.0, 3600.0), replay_gather_s=0.2,
)  # fmt: skip
_STUCK_S = 60.0


class Took(NamedTuple):
    """Seconds: by the clock, and of the processor by this process."""

    seconds: float
    processor_s: float

    def less(self, since: Took) -> Took:
        return Took(self.seconds - since.seconds, self.processor_s - since.processor_s)

    def longest(self, other: Took | None) -> Took:
        return self if other is None else Took(*map(max, self, other))


NOTHING = Took(0.0, 0.0)
# The number of what stages made of the messages.
MADE = -1


def _now() -> Took:
    return Took(time.monotonic(), time.process_time())


@dataclass
class Read:
    """What became of some messages, by number."""

    outcomes: dict[int, str] = field(default_factory=dict)
    took: dict[int, Took] = field(default_factory=dict)
    """The longest that one stage was held by the message."""
    grown: dict[int, int] = field(default_factory=dict)
    """Bytes by which a message raised the most that this process ever held, where it did."""


class _NoTables:
    """A warehouse that holds nothing and takes all."""

    def insert(self, table: str, columns: Sequence[str], data: Sequence[Sequence[Any]]) -> None:
        assert len({len(column) for column in data}) == 1, f"{table}: columns of unequal length"
        assert len(columns) == len(data), f"{table}: {len(data)} columns for {len(columns)} names"

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Result:
        return Result(("count()",), [(0,)]) if sql.startswith("SELECT count()") else Result((), [])

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None: ...


def _fetch(recording: Recording, to: Path) -> Fetched:
    to.write_bytes(b"audio")
    return Fetched("0" * 64, 5)


def _probe(path: Path, limits: AudioLimits, container: str | None) -> AudioInfo:
    return AudioInfo("wav", "pcm_s16le", 8000, 2, 300_000, 2_400_000)


@dataclass
class _Held:
    """How long messages hold the loops: from being handed to a worker until their commit."""

    took: dict[tuple[str, int, int], Took] = field(default_factory=dict)
    """Topic, partition and offset -> the longest of any stage, of what is committed."""
    _since: dict[tuple[str, TopicPartition, int], Took] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Loops that begin and end in here tell what they hand to their workers."""

        def noting(stage: Stage, codec: Codec, messages: Sequence[Message], *more: Any) -> Any:
            with self._lock:
                for message in messages:
                    self._since.setdefault((stage.name, message.source, message.offset), _now())
            return process(stage, codec, messages, *more)

        loop.process = noting  # type: ignore[attr-defined, assignment]
        try:
            yield
        finally:
            loop.process = process  # type: ignore[attr-defined]

    def committed(self, stage: str, offsets: Mapping[TopicPartition, int]) -> None:
        with self._lock:
            for at in list(self._since):
                name, source, offset = at
                if name == stage and offset < offsets.get(source, 0):
                    place = (*source, offset)
                    took = _now().less(self._since.pop(at))
                    self.took[place] = took.longest(self.took.get(place))


class _HeldLog(SqliteLog):
    """A stage's log that tells `held` of its commits."""

    def __init__(self, database: Database, stage: Stage, held: _Held) -> None:
        super().__init__(database, stage.name, topics_of(stage))
        self._stage, self._held = stage.name, held

    def commit(self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]) -> None:
        super().commit(records, offsets)
        self._held.committed(self._stage, offsets)


class Reader:
    """The stages over a folder; fetching and listening are made up, no model is there, all else is
    real.
    """

    def __init__(self, folder: Path, seed: int, warehouse: Warehouse | None = None) -> None:
        self._warehouse = warehouse
        self.objects = DirectoryObjects(folder / "objects")
        self.codec = Codec(FolderRegistry(), self.objects)
        self.mutants = Mutants(seed, self.objects, {"CallRecorded": self._heard()})
        rules, tenants = load_tenant_rules(EnrichSettings().rules_dir)
        transcribe = TranscribeSettings(engine="stub")
        nobody = LlmSettings(url="http://127.0.0.1:9/v1", model="none", patience_s=0)
        self.stages: dict[str, Stage] = {
            stage.name: stage
            for stage in (
                ingest_stage(IngestSettings(), self.objects, fetch=_fetch, probe=_probe),
                transcribe_stage(transcribe, self.objects, choose(transcribe)),
                enrich_stage(EnrichSettings(), rules, tenant_rules=tenants),
                summary_stage(EnrichSettings(), rules, Insight(nobody), tenant_rules=tenants),
                sink_stage(SinkSettings(batch=200), warehouse or _NoTables()),
            )
        }

    def _heard(self) -> dict[str, CallRecorded]:
        """Recordings that are there, and short."""
        one, two = wav([speech(0, 0.0, 1.5)]), wav([speech(0, 0.0, 1.5), silence(1.5)])
        return {
            "heard": recorded(stored(self.objects, "r1", two, 2)),
            "heard-legs": recorded(
                stored(self.objects, "a", one, 1), stored(self.objects, "b", two, 2)
            ),
        }

    @property
    def loops(self) -> bool:
        """Whether there is a warehouse for the real loops to write to."""
        return self._warehouse is not None

    def judge(self, number: int) -> tuple[str, Took]:
        """What every stage that reads the message makes of it; the longest that one took."""
        case = self.mutants.message(number)
        topic = case.message.topic
        readers = [name for name, sources in SOURCES.items() if topic in sources]
        waited = case.message.header(h.RETRY_STAGE)
        if waited in self.stages and topic in {tier.topic for tier in RETRY_TIERS}:
            readers.append(waited)
        if topic == "calls.replay":
            readers = list(self.stages)
        longest, told = NOTHING, []
        if len(readers) > 1 and number % 3:  # the sink reads all, the others are what is tried
            readers.remove("sink")
        for name in dict.fromkeys(readers):
            stage = self.stages[name]
            started = _now()
            try:
                told.append(f"{name}/{self._judged(stage, case.message, number)}")
            except Exception as error:
                told.append(f"{name}/LET OUT {type(error).__name__}: {error}")
            longest = _now().less(started).longest(longest)
        return "; ".join(told), longest

    def _judged(self, stage: Stage, message: Message, number: int) -> str:
        ((index, result),) = process(stage, self.codec, [message], lambda: NOW)
        assert index == 0
        match result:
            case list():
                return "handled"
            case NotYet():
                moved = retry(stage.name, message, result, NOW_MS, _POLICY)
                return f"waits: {result.reason}" if isinstance(moved, Record) else "gave up"
            case Invalid():
                if number % 8 == 0:  # a traceback takes longer than all the rest
                    dead_letter(stage.name, message, result, NOW_MS)
                return result.reason
            case Failure():
                return f"TRANSIENT {result.reason}: {result.detail}"
            case _:
                return f"UNEXPECTED {type(result).__name__}: {result}"

    def read(self, numbers: Sequence[int], note: Callable[[int], None] = lambda _: None) -> Read:
        """Judge the messages one by one; `note` is told of each before."""
        read = Read()
        peak = peak_bytes()
        for number in numbers:
            note(number)
            read.outcomes[number], read.took[number] = self.judge(number)
            now = peak_bytes()
            if now > peak:
                read.grown[number] = now - peak
                peak = now
        return read

    def run(self, numbers: Sequence[int], *, in_turn: bool = False) -> Read:
        """Pass the messages through the real loops, all stages at once or `in_turn`; by number.

        What stages made of them is one, under MADE.
        """
        database = Database(None)
        view = SqliteView(database)
        view.create({topic.name: 4 for topic in TOPICS})
        writer = SqliteLog(database)
        cases = [self.mutants.message(number) for number in numbers]
        places = _written(view, writer, cases)
        held, stuck = _Held(), []
        stages = list(self.stages.values())
        with held.noted():
            for together in [[stage] for stage in stages] if in_turn else [stages]:
                stuck += self._passed(database, view, held, together)
        read = Read(dict.fromkeys(numbers, "read"))
        for place, took in held.took.items():
            number = places.get(place, MADE)
            read.took[number] = took.longest(read.took.get(number))
        for letter in view.scan(DEAD_LETTER):
            place = _place(letter)
            number = places.get(place, MADE)
            reason = letter.header(h.DEAD_REASON)
            if reason == "unexpected":
                read.outcomes[number] = (
                    f"{letter.header(h.ERROR_STAGE)}/UNEXPECTED {letter.header(h.ERROR_MESSAGE)}"
                )
        for place in stuck:
            read.outcomes[places.get(place, MADE)] = f"STUCK at {place}"
        database.close()
        return read

    def alone(self, numbers: Sequence[int]) -> dict[int, Took]:
        """What these messages take with no other beside them, as `Read.took`.

        They go the way they went, but a stage at a time, and as if they had never been read.
        """
        for prefix in ("transcripts/", "receipts/"):
            for key in list(self.objects.keys(prefix)):
                self.objects.delete(key)
        if self._warehouse is None:
            return self.read(numbers).took
        for table in TABLES:
            self._warehouse.command(f"TRUNCATE TABLE {table}")
        return self.run(numbers, in_turn=True).took

    def _passed(
        self, database: Database, view: SqliteView, held: _Held, stages: Sequence[Stage]
    ) -> list[tuple[str, int, int]]:
        """Run the loops of `stages` until all is read; where it is not, where they stand."""
        stop, observer = threading.Event(), Observer()
        threads = [
            threading.Thread(
                target=loop.run,
                args=(stage, _HeldLog(database, stage, held), self.codec, stop, observer, _POLICY),
            )
            for stage in stages
        ]
        for thread in threads:
            thread.start()
        try:
            return self._awaited(view, threads, stages)
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _awaited(
        self, view: SqliteView, threads: Sequence[threading.Thread], stages: Sequence[Stage]
    ) -> list[tuple[str, int, int]]:
        """Wait until all is read; where it is not, the places at which stages stand."""
        before: object = None
        since = time.monotonic()
        while True:
            left = [
                (topic, part, read)
                for stage in stages
                for committed in [view.committed(stage.name)]
                for topic in topics_of(stage)
                for part, (_, end) in view.ends(topic).items()
                if (read := committed.get(TopicPartition(topic, part), 0)) < end
                and not self._not_due(view, stage.name, topic, part, read)
            ]
            if not left:
                return []
            if left != before:
                before, since = left, time.monotonic()
            if time.monotonic() - since > _STUCK_S or not all(t.is_alive() for t in threads):
                return left
            time.sleep(0.05)

    def _not_due(self, view: SqliteView, name: str, topic: str, part: int, read: int) -> bool:
        """Whether what the stage stands at in a retry tier is its own, and waits."""
        if topic not in {tier.topic for tier in RETRY_TIERS}:
            return False
        for message in view.scan(topic, {part: read}):
            if message.partition == part:
                return message.header(h.RETRY_STAGE) == name
        return False


def _written(view: SqliteView, writer: SqliteLog, cases: Sequence[Case]) -> dict[Any, int]:
    """Write the cases; their places, by which they are found again."""
    places: dict[tuple[str, int, int], int] = {}
    ordered = sorted(cases, key=lambda case: case.message.topic)
    for topic, group in groupby(ordered, key=lambda case: case.message.topic):
        for case in group:
            before = {part: end for part, (_, end) in view.ends(topic).items()}
            message = case.message
            writer.commit([Record(topic, message.key, message.value, message.headers, NOW_MS)], {})
            (part,) = (p for p, (_, end) in view.ends(topic).items() if end > before[p])
            places[topic, part, before[part]] = case.number
    return places


def _place(letter: Message) -> tuple[str, int, int]:
    numbers = [letter.header(name) or "" for name in (h.ERROR_PARTITION, h.ERROR_OFFSET)]
    part, offset = (int(text) if text.isdecimal() else -1 for text in numbers)
    return letter.header(h.ERROR_TOPIC) or "", part, offset


def violation(outcome: str) -> bool:
    """Whether that is no end for a message: handled, waiting, or refused with a named reason."""
    return not outcome or any(
        word in outcome for word in ("UNEXPECTED", "TRANSIENT", "LET OUT", "STUCK", "unexpected")
    )


def peak_bytes() -> int:
    """The most memory this process has held, in bytes.

    What getrusage says of it begins with what the parent held when it forked.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
