"""A small but complete life of some calls, in phases; each leaves what the next one needs.

Among them: a call with two channels, its amendment, one whose recording is refused and later sent
again, one that waits in a retry tier, one whose events are too large for the log, one taken from
the drop folder, and an erasure.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import soundfile

from schemas.events import (
    CallEnded,
    CallErased,
    Participant,
    Platform,
    Recording,
    RecordingStatus,
    Role,
    Source,
)
from schemas.topics import ENDED, REPLAY, RETRY_TIERS, TOPICS
from services.assembly import SOURCES, STAGES, Parts, project_root
from services.dead_letters import redrive, unsettled
from services.ingest.entrances import DropFolder
from services.ingest.handler import audio_key
from services.ingest.settings import IngestSettings
from services.runtime import headers as h
from services.runtime.audio import decode
from services.runtime.errors import Invalid
from services.runtime.log import Log, Message
from services.runtime.loop import run
from services.runtime.objects import Objects
from services.runtime.settings import Policy
from services.runtime.stage import utc_now
from services.settings import LogSettings, Settings
from services.sink.settings import SinkSettings
from services.sink.warehouse import Warehouse
from services.transcribe.settings import TranscribeSettings
from tests.crash.points import Commit, CountedLog, CountedObjects, CountedWarehouse, Points

TENANT = "acme"
NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
# What waited in a tier is due by then.
LATER_S = 2 * 3600.0
# More than the log takes in one record.
LARGE = {"transcript-of-the-bot": "hello " * 160_000}


def settings_for(folder: Path, first: Path) -> Settings:
    """Embedded parts under `folder`, one worker each: the steps come in one order.

    `first` is where the scenario was first played: the drop folder's files lie there.
    """
    return Settings(
        data_dir=folder,
        log=LogSettings(partitions=1),
        ingest=IngestSettings(workers=1, allowed_roots=(first / "inbox",)),
        transcribe=TranscribeSettings(engine="stub"),
        sink=SinkSettings(path=folder / "warehouse", batch=8, wait_s=0.05),
        loop=Policy(backoff_s=0.02, commit_records=1),
    )


@dataclass(frozen=True)
class CountedParts(Parts):
    """The parts that `settings` ask for, with every seam counted."""

    points: Points = field(default_factory=Points)
    commits: Commit = lambda log, records, offsets: log.commit(records, offsets)
    wrap: Callable[[Objects], Objects] = lambda objects: objects

    @cached_property
    def objects(self) -> Objects:
        return self.wrap(CountedObjects(_plain_objects(self), self.points))

    @cached_property
    def warehouse(self) -> Warehouse:
        CountedWarehouse.points = self.points
        return CountedWarehouse.open(self.settings.sink)

    def log(self, *asked: Any, **named: Any) -> CountedLog:
        return CountedLog(Parts.log(self, *asked, **named), self.points, commits=self.commits)


def _plain_objects(parts: Parts) -> Objects:
    return Parts(parts.settings).objects


# The calls


@cache
def _sound(number: int) -> bytes:
    """A second of speech on two channels, over a tone that no other file has."""
    spoken = decode(project_root() / "samples" / "audio" / "angry-refund.flac")
    spoken = spoken[:, 16_000 * 7 : 16_000 * 9]
    at = np.arange(spoken.shape[1]) / 16_000
    file = io.BytesIO()
    tone = 0.002 * np.sin(2 * np.pi * (100 + 10 * number) * at)
    soundfile.write(file, (spoken + tone).T, 16_000, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _key(number: int) -> str:
    return audio_key(TENANT, hashlib.sha256(_sound(number)).hexdigest())


def _call(name: str, *sounds: int, **changes: Any) -> CallEnded:
    call = CallEnded(
        event_id=f"event-{name}", tenant_id=TENANT, call_id=name, occurred_at=NOON,
        published_at=NOON, source_updated_at=NOON, source=Source(platform=Platform.OTHER),
        started_at=NOON - timedelta(seconds=2), ended_at=NOON, language_hints=["en"],
        participants=[
            Participant(participant_id="a", role=Role.AGENT, agent_id="agent-1"),
            Participant(participant_id="c", role=Role.CUSTOMER),
        ],
        recordings=[
            Recording(
                recording_id=f"r{number}", status=RecordingStatus.AVAILABLE,
                uri=f"object:{_key(number)}", channel_roles=[Role.AGENT, Role.CUSTOMER],
            )
            for number in sounds
        ],
    )  # fmt: skip
    return replace(call, **changes)


GOOD, REFUSED, WAITING, CLAIMED, AMENDED = range(5)
ERASED = "claimed"


def _publish(parts: Parts) -> None:
    """What the platform says, in one order; the audio that is there lies where uploads do."""
    for number in (GOOD, CLAIMED, AMENDED):
        parts.objects.put(_key(number), _sound(number))
    parts.objects.put(_key(REFUSED), b"cut off on its way")
    log = parts.log()
    for call in (
        _call("good", GOOD),
        _call("refused", REFUSED),
        _call("waiting", WAITING),
        _call(ERASED, CLAIMED, attributes=LARGE),
        _call("good", GOOD, AMENDED, event_id="event-good-2",
              source_updated_at=NOON + timedelta(minutes=1)),
    ):  # fmt: skip
        parts.publish(log, call)
    log.close()


def _mend(parts: Parts) -> None:
    """The recording that was late arrives, the broken one is mended, its letter sent again."""
    for number in (WAITING, REFUSED):
        parts.objects.put(_key(number), _sound(number))
    log = parts.log()
    letters = list(unsettled(parts.view))
    assert [letter.reason for letter in letters] == ["checksum_mismatch"], letters
    redrive(log, letters, round(utc_now().timestamp() * 1000))
    log.close()


def _erase(parts: Parts) -> None:
    log = parts.log()
    erased = CallErased(
        tenant_id=TENANT, call_id=ERASED, erased_at=utc_now() + timedelta(hours=3),
        requested_by="the caller",
    )  # fmt: skip
    log.commit([parts.codec.encode(erased, id="erasure", source="/test", time=utc_now())], {})
    log.close()


# The phases


def _drop(parts: CountedParts) -> None:
    """One look at a folder with a sound recording and one that cannot be described."""
    inbox = parts.settings.data_dir / "inbox"
    log: Log = parts.log()
    folder = DropFolder(
        inbox, lambda call: parts.publish(log, call), tenant_id=TENANT, settle_s=0.0
    )
    folder.poll()
    log.close()


def _fill_inbox(parts: Parts) -> None:
    inbox = parts.settings.data_dir / "inbox"
    inbox.mkdir()
    said = {"call_id": "dropped", "started_at": "2026-03-02T11:00:00Z", "language": "en"}
    (inbox / "dropped.wav").write_bytes(_sound(9))
    (inbox / "dropped.wav.json").write_text(json.dumps(said))
    (inbox / "nameless.wav").write_bytes(_sound(8))
    (inbox / "nameless.wav.json").write_text('{"colour": "blue"}')


def _stage(name: str, tiers: bool = False, ahead_s: float = 0.0) -> Callable[[CountedParts], None]:
    def play(parts: CountedParts) -> None:
        stage = parts.stage(name)
        log = parts.log_of(stage)
        assert isinstance(log, CountedLog)
        topics = {*SOURCES[name], REPLAY, *((t.topic for t in RETRY_TIERS) if tiers else ())}
        # Of what is there now: behind the last message Kafka has offsets of its own.
        last = {m.source: m.offset for topic in topics for m in parts.view.scan(topic)}

        def done() -> bool:
            read = parts.view.committed(parts.group(name))
            return all(read.get(source, 0) > offset for source, offset in last.items())

        log.done = done
        run(
            stage, log, parts.codec, log.stop, parts.observer, parts.settings.loop,
            clock=lambda: utc_now() + timedelta(seconds=ahead_s),
        )  # fmt: skip

    return play


def _open(parts: CountedParts) -> None:
    _ = parts.warehouse


@dataclass(frozen=True)
class Phase:
    """`prepare` happens once, before anything dies; `play` is what dies and is begun again."""

    name: str
    play: Callable[[CountedParts], None]
    prepare: Callable[[Parts], None] = lambda parts: None
    tables: bool = False
    """Whether the tables are compared too."""
    repeats: bool = False
    """Whether a crash may publish the same event again: an entrance, by design."""
    over: str = ""
    """Whose state it begins with, where that is another phase's."""
    erases: bool = False
    """Whether what is left of the call that `_erase` names is looked at, too."""
    only_after: bool = False
    """Whether each step begins where the one before it ended: one kill between two is enough."""


PHASES = (
    # An engine takes a second to open: there is one kill between two steps.
    Phase("drop folder", _drop, _fill_inbox, repeats=True),
    Phase("ingest", _stage("ingest"), _publish),
    Phase("ingest again", _stage("ingest", tiers=True, ahead_s=LATER_S), _mend),
    Phase("transcribe", _stage("transcribe", tiers=True, ahead_s=LATER_S)),
    Phase("enrich", _stage("enrich", tiers=True, ahead_s=LATER_S)),
    Phase("sink start", _open, tables=True, only_after=True),
    Phase("sink", _stage("sink", tiers=True, ahead_s=LATER_S), tables=True, only_after=True),
    Phase(
        "sink erases",
        _stage("sink", tiers=True, ahead_s=LATER_S),
        _erase,
        tables=True,
        erases=True,
        only_after=True,
    ),
)


# What is played over the servers: each from the beginning of its topics.
SERVED = tuple(
    replace(phase, only_after=True)
    for phase in (
        Phase("ingest", _stage("ingest")),
        Phase("transcribe", _stage("transcribe", tiers=True, ahead_s=LATER_S)),
        Phase("enrich", _stage("enrich", tiers=True, ahead_s=LATER_S)),
        Phase(
            "sink",
            _stage("sink", tiers=True, ahead_s=LATER_S),
            tables=True,
            over="sink erases",
            erases=True,
        ),
    )
)


# What is there in the end

# Times of processing, and whether a result was known already: a second try says otherwise.
_TIMES = frozenset({h.TIME, h.RETRY_DUE_MS, h.RETRY_FIRST_MS, h.RETRY_HISTORY, h.DEAD_AT_MS,
                    h.ERROR_TRACE, h.RETRY_DETAIL, h.DATAREF})  # fmt: skip
_PLACES = frozenset({h.RETRY_OFFSET, h.ERROR_OFFSET, h.DEAD_OF})
# Of retries and dead letters the place is part of the id.
_PLACE_COLUMNS = ("offset", "place", "event_id", "input_id", "headers", "id", "error_offset")
_OWN = frozenset({"recorded_at", "transcribed_at", "enriched_at", "raised_at", "published_at",
                  "cached"})  # fmt: skip


def state(parts: Parts, tables: bool, places: bool = True) -> dict[str, list[str]]:
    """Everything durable, as sorted lines by where it lies; equal where it means the same.

    Without `places` offsets are left out: Kafka's count the marks of transactions, aborted or not.
    """
    dropped = _TIMES if places else _TIMES | _PLACES
    found: dict[str, list[str]] = {}
    for topic in TOPICS:
        found[topic.name] = sorted(_told(parts, m, dropped) for m in parts.view.scan(topic.name))
    if places:
        found["offsets"] = sorted(
            f"{group} {source.topic} {source.partition}: {offset}"
            for group in STAGES
            for source, offset in parts.view.committed(parts.group(group)).items()
            if offset
        )
    # A large body is checked where its event is decoded. Under another time it is another body: one
    # that was stored before a crash is left behind.
    found["objects"] = [
        f"{key} {hashlib.sha256(parts.objects.get(key)).hexdigest()}"
        for key in parts.objects.keys("")
        if not key.startswith("claims/")
    ]
    inbox = parts.settings.data_dir / "inbox"
    found["files"] = sorted(
        f"{path.relative_to(inbox)} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in inbox.rglob("*")
        if path.is_file()
    )
    if tables:
        found |= _tables(parts.warehouse, () if places else _PLACE_COLUMNS)
    return found


def _told(parts: Parts, message: Message, dropped: Collection[str]) -> str:
    headers = {name: value.decode("utf-8", "replace") for name, value in message.headers
               if name not in dropped}  # fmt: skip
    try:
        event = parts.codec.decode(message).event
    except Invalid as problem:
        return f"{headers.get(h.ID)} {problem.reason} {headers}"
    if isinstance(event, Message):
        told: Any = hashlib.sha256(event.value or b"").hexdigest()
    else:
        told = msgspec.to_builtins(event)
        told = {name: value for name, value in told.items() if name not in _OWN}
        for recording in told.get("recordings", []):
            if message.topic == ENDED and (recording["uri"] or "").startswith("file:"):
                recording["uri"] = recording["uri"].rpartition("/")[2]
    text = json.dumps(told, sort_keys=True, default=str)
    if len(text) > 2000:
        text = hashlib.sha256(text.encode()).hexdigest()
    return f"{headers.get(h.ID)} {text} {sorted(headers.items())}"


def _tables(warehouse: Warehouse, dropped: Collection[str]) -> dict[str, list[str]]:
    database = {"database": warehouse._settings.database}
    known = warehouse.query(
        "SELECT name, engine FROM system.tables WHERE database = {database:String} "
        "AND name NOT LIKE '.inner%' ORDER BY name",
        database,
    )
    found: dict[str, list[str]] = {}
    for name, engine in known.rows:
        final = " FINAL" if "Replacing" in engine else ""
        rows = warehouse.query_to(f"SELECT * FROM {name}{final}", "JSONEachRow")
        left_out = {*dropped, *(["applied_at"] if name == "migrations" else [])}
        found[f"{'table' if final else 'view'} {name}"] = sorted(
            json.dumps({k: v for k, v in json.loads(line).items() if k not in left_out})
            for line in rows.decode("utf-8", "surrogateescape").split("\n")
            if line
        )
    return found


def rows_of_the_erased(found: Mapping[str, list[str]]) -> list[str]:
    """Tables that tell of the erased call more than that it was erased, one line each."""
    stays = {"table calls_erased": "", "table events": "CallErased", "table stage_states": "erased"}
    return [
        f"{where}: {line[:300]}"
        for where, lines in found.items()
        if where.startswith("table ")
        for line in lines
        if f'"call_id": "{ERASED}"' in line and not (where in stays and stays[where] in line)
    ]


def compared(
    wanted: Mapping[str, list[str]], got: Mapping[str, list[str]], repeats: bool
) -> list[str]:
    """What is lost, double or torn in `got`, one line each."""
    wrong = []
    for where in sorted({*wanted, *got}):
        want, have = wanted.get(where, []), got.get(where, [])
        if repeats and where == ENDED:
            want, have = sorted(set(want)), sorted(set(have))
        ids = [line.partition(" ")[0] for line in want]
        for line in _less(want, have):
            lost = line.partition(" ")[0] not in {each.partition(" ")[0] for each in have}
            wrong.append(f"{'lost' if lost else 'torn'} in {where}: {line[:300]}")
        for line in _less(have, want):
            known = line in want
            there = line.partition(" ")[0] in ids
            kind = "double" if known else "torn" if there else "too much"
            wrong.append(f"{kind} in {where}: {line[:300]}")
    return wrong


def _less(these: list[str], those: list[str]) -> list[str]:
    left = list(those)
    missing = []
    for line in these:
        if line in left:
            left.remove(line)
        else:
            missing.append(line)
    return missing
