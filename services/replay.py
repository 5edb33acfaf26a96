"""A stage run again over calls of the past: which calls, how far it is, what becomes of it.

A replay is a generation: a number that grows per tenant, and a plan that is stored before anything
is published, so that a replay that was stopped anywhere goes on from what log and warehouse say.
Its requests have ids that follow from plan and input; one that is published twice makes the same
events, and a resumed replay publishes none of them again.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import msgspec

from schemas.checks import EARLIEST_YEAR, LATEST_YEAR
from schemas.events import (
    CallEnded,
    CallRecorded,
    CallTranscribed,
    Decision,
    GenerationDecided,
    OriginalHeader,
    OriginalInput,
    RecordingStatus,
    ReplayRequested,
    Role,
)
from schemas.topics import (
    ALERTS,
    DEAD_LETTER,
    ENDED,
    ENRICHED,
    GENERATIONS,
    RECORDED,
    REPLAY,
    TRANSCRIBED,
)
from services.cli.dead_letters import DeadLetter, settled, unsettled
from services.enrich.settings import trial_rules
from services.ingest.handler import key_part
from services.loopback import Asks
from services.runtime import headers as h
from services.runtime.codec import Codec
from services.runtime.errors import Invalid
from services.runtime.log import Log, LogView, Message, Record, TopicPartition
from services.runtime.objects import MissingObject, Objects
from services.runtime.stage import Envelope, event_id, refuse_unknown_options, utc_now
from services.sink.rows import basis_of
from services.transcribe.settings import TranscribeSettings, with_options

AHEAD = 200
"""Most requests published and not yet through."""
FAILURES = 20
"""So many failures in a row, with nothing done in between, stop a replay."""
GONE = "in neither archive nor log any more"

# Stage -> topic of its input, and the view that says which event of a call is the current one.
_INPUTS: Mapping[str, tuple[str, str]] = {
    "ingest": (ENDED, "current_ended"),
    "transcribe": (RECORDED, "current_recorded"),
    "enrich": (TRANSCRIBED, "current_transcribed"),
}
# Stage -> the stages that its outcome goes through, itself first.
_CHAIN: Mapping[str, tuple[str, ...]] = {
    "ingest": ("ingest", "transcribe", "enrich"),
    "transcribe": ("transcribe", "enrich"),
    "enrich": ("enrich",),
    "sink": ("sink",),
}
STAGES = tuple(_CHAIN)
# What the sink makes rows of; erasures and decisions are never made again.
_STORED = (ENDED, RECORDED, TRANSCRIBED, ENRICHED, ALERTS)

_FETCH = 50
_ASK = 500
_SECOND = 1_000_000
_EPOCH = datetime.fromtimestamp(0, UTC)
_GONE = frozenset((RecordingStatus.ABSENT, RecordingStatus.FAILED, RecordingStatus.DELETED))


class Refused(ValueError):
    """The replay makes no sense as asked for; the text says why and what to do."""


# What is asked for


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which calls of a tenant: those for which everything that is given holds."""

    tenant: str
    calls: tuple[str, ...] = ()
    since: datetime | None = None
    """Calls that started at this time or later."""
    until: datetime | None = None
    """Calls that started before this time."""
    queue: str | None = None
    """Its id or its name."""
    agent: str | None = None
    """Id or name of an agent who took part."""
    language: str | None = None
    engine: str | None = None
    """Of the transcript that the call has."""
    engine_version: str | None = None
    dead_letters: bool = False
    """Only calls with an unsettled dead letter of the stage: its bytes are the input."""
    where: str | None = None
    """A condition over the view `calls`."""

    @property
    def criteria(self) -> dict[str, Any]:
        """What was given, but the tenant."""
        given = {name: value for name, value in asdict(self).items() if value}
        del given["tenant"]
        return json.loads(json.dumps(given, default=datetime.isoformat))  # type: ignore[no-any-return]

    @property
    def by_transcript(self) -> bool:
        return bool(self.language or self.engine or self.engine_version)


def moment(text: str, *, ends: bool = False) -> datetime:
    """An ISO date or time; without a zone, UTC. A date that `ends` a stretch lies within it."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        pass
    else:
        start = datetime.combine(day, time(), UTC)
        return start + timedelta(days=1) if ends else start
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise Refused(
            f"{text!r} is no ISO date or time, such as 2026-03-02 or 2026-03-02T09:30:00Z"
        ) from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def check_options(stage: str, options: Mapping[str, str]) -> None:
    """Raises Refused for an option that `stage` does not know, or a value it cannot take."""
    try:
        match stage:
            case "transcribe":
                with_options(TranscribeSettings(), options)
            case "enrich":
                trial_rules(options)
            case _:
                refuse_unknown_options(stage, (), options)
    except Invalid as problem:
        raise Refused(problem.detail) from None


_STRING = re.compile(r"'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.)*\"|`(?:[^`\\]|\\.)*`", re.DOTALL)


def check_condition(where: str) -> None:
    """Raises Refused for what is not one expression that stays within its parentheses."""
    code = _STRING.sub("''", where)
    if not code.strip():
        raise Refused("--where is empty; it takes a condition over the view calls")
    if found := re.search(r"--|/\*|[;#$]", code):
        raise Refused(f"--where {where!r}: {found[0]!r} has no place in one expression")
    depth = 0
    for character in code:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            break
    if depth:
        raise Refused(f"--where {where!r}: its parentheses do not match")


# What is found


class Input(msgspec.Struct, frozen=True, array_like=True):
    """An event that the stage is to be given again, and where its bytes are."""

    call: str
    topic: str
    event_id: str
    source: str
    """archive, or log."""
    place: str = ""
    """partition-offset of a message of the log, or of the dead letter that holds the input."""
    letter: bool = False
    basis_ms: int | None = None
    """An erasure at or after it covers the input; plans of old do not say."""


@dataclass(frozen=True, slots=True)
class Found:
    """A selected call's input, and what a person wants to know of the call."""

    input: Input
    started_at: str = ""
    queue: str = ""
    agent: str = ""
    language: str = ""
    engine: str = ""
    audio_ms: int = 0
    words: int = 0


@dataclass(frozen=True, slots=True)
class Selected:
    """What a selection comes to."""

    found: list[Found]
    left_out: dict[str, int]
    """Why calls that were meant are not among it -> how many."""

    @property
    def inputs(self) -> list[Input]:
        return [each.input for each in self.found]


def select(
    stage: str,
    selection: Selection,
    source: str,
    asks: Asks | None,
    view: LogView,
    codec: Codec,
    stored_until: Mapping[TopicPartition, int] | None = None,
) -> Selected:
    """The inputs of `stage` for the selected calls, from the archive, the log, or both.

    With `auto` the archive answers, and of the log only what lies beyond `stored_until` (how far
    the sink has read) is looked at; without the archive all of it. Raises Refused, and Question
    for a condition that the warehouse cannot answer.
    """
    if selection.where is not None:
        check_condition(selection.where)
    if source == "log" or (source == "auto" and asks is None):
        if selection.where is not None:
            raise Refused(
                "--where is a question to the warehouse, and this replay reads the log; "
                "use --from, --queue, --agent and the like, or --source archive"
            )
        return _from_log(stage, selection, view, codec)
    if asks is None:
        raise Refused("the archive does not answer; try --source log")
    found = _from_archive(stage, selection, asks, codec)
    if source == "auto" and stored_until is not None:
        found = _with_tail(stage, selection, found, view, codec, stored_until)
    return found


def _rows(asks: Asks, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    answer = asks.ask(sql, "JSONEachRow", parameters)
    return [json.loads(line) for line in answer.splitlines() if line]


# Of a selected call, by names that a join leaves alone.
_COLUMNS = ", ".join(
    f"c.{name} AS {name}"
    for name in (
        "call_id",
        "started_at",
        "queue",
        "agent",
        "language",
        "engine",
        "audio_ms",
        "words",
    )
)


def _selected_calls(selection: Selection) -> tuple[str, dict[str, Any]]:
    """A query of the selected calls, and its parameters."""
    conditions = ["e.tenant_id = {tenant:String}"]
    parameters: dict[str, Any] = {"tenant": selection.tenant}

    def hold(condition: str, **values: Any) -> None:
        conditions.append(condition)
        parameters.update(values)

    if selection.calls:
        hold("e.call_id IN {calls:Array(String)}", calls=sorted(set(selection.calls)))
    # fromUnixTimestamp64Milli: a time that is written as text is read in the server's zone.
    if selection.since is not None:
        since = round(selection.since.timestamp() * 1000)
        hold("toUnixTimestamp64Milli(e.started_at) >= {since:Int64}", since=since)
    if selection.until is not None:
        until = round(selection.until.timestamp() * 1000)
        hold("toUnixTimestamp64Milli(e.started_at) < {until:Int64}", until=until)
    if selection.queue is not None:
        hold("{queue:String} IN (e.queue_id, e.queue_name)", queue=selection.queue)
    if selection.agent is not None:
        hold("(has(e.agent_ids, {agent:String}) OR e.agent_name = {agent:String})",
             agent=selection.agent)  # fmt: skip
    if selection.engine is not None:
        hold("t.engine = {engine:String}", engine=selection.engine)
    if selection.engine_version is not None:
        hold("t.engine_version = {version:String}", version=selection.engine_version)
    asked = []
    if selection.language is not None:
        asked.append("language = {language:String}")
        parameters["language"] = selection.language
    if selection.where is not None:
        asked.append(f"(\n{selection.where}\n)")
    if asked:
        conditions.append(
            "e.call_id IN (SELECT call_id FROM (SELECT * FROM calls WHERE tenant_id ="
            f" {{tenant:String}}) WHERE {' AND '.join(asked)})"
        )
    return (
        "SELECT e.call_id AS call_id, toString(e.started_at) AS started_at,"
        " if(e.queue_name != '', e.queue_name, e.queue_id) AS queue, e.agent_name AS agent,"
        " t.language AS language, t.engine AS engine,"
        " if(t.duration_ms > 0, t.duration_ms, e.duration_ms) AS audio_ms, t.words AS words,"
        " e.recordings_expected AS expected"
        " FROM (SELECT * FROM current_ended WHERE tenant_id = {tenant:String}) AS e"
        " LEFT JOIN (SELECT * FROM current_transcribed WHERE tenant_id = {tenant:String}) AS t"
        f" ON e.call_id = t.call_id WHERE {' AND '.join(conditions)}"
    ), parameters


def _from_archive(stage: str, selection: Selection, asks: Asks, codec: Codec) -> Selected:
    calls, parameters = _selected_calls(selection)
    if selection.dead_letters:
        return _dead_from_archive(stage, selection, asks, codec)
    if stage == "sink":
        return _events_from_archive(calls, parameters, asks)
    topic, current = _INPUTS[stage]
    usable, known = {
        "ingest": ("c.expected > 0", "r.revision = i.revision AND r.recordings > 0"),
        "transcribe": ("i.recordings > 0", "1"),
        "enrich": ("1", "1"),
    }[stage]
    rows = _rows(
        asks,
        f"SELECT {_COLUMNS}, i.event_id AS event_id, {usable} AS usable, {known} AS known,"
        " toUnixTimestamp64Milli(i.basis_at) AS basis"
        f" FROM ({calls}) AS c"
        f" LEFT JOIN (SELECT * FROM {current} WHERE tenant_id = {{tenant:String}}) AS i"
        " ON c.call_id = i.call_id"
        " LEFT JOIN (SELECT * FROM current_recorded WHERE tenant_id = {tenant:String}) AS r"
        " ON c.call_id = r.call_id ORDER BY c.started_at, c.call_id",
        parameters,
    )
    found: list[Found] = []
    unsure: set[Input] = set()
    left_out: dict[str, int] = {}
    for row in rows:
        if not row["event_id"]:
            _count(left_out, f"have nothing for {stage} yet")
        elif not row["usable"]:
            _count(left_out, "have no recording")
        else:
            found.append(_found(row, topic))
            if not row["known"]:
                unsure.add(found[-1].input)
    if silent := _leading_nowhere(unsure, selection.tenant, asks, codec):
        _count(left_out, "have no recording", len(silent))
        found = [each for each in found if each.input not in silent]
    _missing(selection, (row["call_id"] for row in rows), left_out)
    return Selected(found, left_out)


def _found(row: Mapping[str, Any], topic: str) -> Found:
    made = Input(row["call_id"], topic, row["event_id"], "archive", basis_ms=int(row["basis"]))
    return Found(
        made, row["started_at"], row["queue"], row["agent"], row["language"], row["engine"],
        int(row["audio_ms"]), int(row["words"]),
    )  # fmt: skip


def _count(counts: dict[str, int], what: str, number: int = 1) -> None:
    counts[what] = counts.get(what, 0) + number


def _missing(selection: Selection, known: Iterable[str], left_out: dict[str, int]) -> None:
    """Count the calls asked for by id that are not there."""
    if missing := set(selection.calls) - set(known):
        named = ", ".join(sorted(missing)[:3]) + (", ..." if len(missing) > 3 else "")
        _count(left_out, f"are not known, or not selected ({named})", len(missing))


def _leading_nowhere(inputs: Iterable[Input], tenant: str, asks: Asks, codec: Codec) -> set[Input]:
    """Those of which their stage would make nothing, as their bytes tell."""
    ordered = _ordered(inputs)
    nowhere: set[Input] = set()
    for start in range(0, len(ordered), _ASK):
        part = ordered[start : start + _ASK]
        held = _messages_of(asks, tenant, part)
        for each in part:
            message = held.get((each.call, each.event_id))
            if message is not None and not _may_lead_on(codec, message):
                nowhere.add(each)
    return nowhere


def _ordered(inputs: Iterable[Input]) -> list[Input]:
    """Neighbours in the archive, or in the log, next to each other: they are read together."""
    return sorted(
        inputs,
        key=lambda each: (
            each.source,
            each.topic,
            tuple(map(int, each.place.split("-"))) if each.place else (),
            each.event_id,
        ),
    )


def _may_lead_on(codec: Codec, message: Message) -> bool:
    try:
        return _leads_on(codec.decode(message).event)
    except Invalid:
        return True  # its stage says why


def _leads_on(event: Any) -> bool:
    """Whether its stage makes anything of `event`: ingest and transcribe need a recording."""
    match event:
        case CallEnded():
            return any(
                recording.status not in _GONE
                and (recording.uri or recording.status is RecordingStatus.AVAILABLE)
                for recording in event.recordings
            )
        case CallRecorded():
            return bool(event.recordings)
    return True


def _events_from_archive(calls: str, parameters: Mapping[str, Any], asks: Asks) -> Selected:
    """Every event of the selected calls that rows are made of."""
    rows = _rows(
        asks,
        f"SELECT {_COLUMNS}, i.topic AS topic, i.event_id AS event_id, i.basis AS basis FROM"
        " (SELECT topic, event_id, call_id, toUnixTimestamp64Milli(max(basis_at)) AS basis"
        " FROM events WHERE tenant_id = {tenant:String} AND type != ''"
        " AND topic IN {topics:Array(String)} GROUP BY topic, event_id, call_id) AS i"
        f" INNER JOIN ({calls}) AS c ON c.call_id = i.call_id"
        " ORDER BY c.started_at, c.call_id, i.topic, i.event_id",
        {**parameters, "topics": list(_STORED)},
    )
    return Selected([_found(row, row["topic"]) for row in rows], {})


def _dead_from_archive(stage: str, selection: Selection, asks: Asks, codec: Codec) -> Selected:
    calls, parameters = _selected_calls(selection)
    alone = replace(selection, dead_letters=False, calls=()).criteria == {}
    among = "" if alone else f" AND call_id IN (SELECT call_id FROM ({calls}))"
    if alone and selection.calls:
        among = " AND call_id IN {calls:Array(String)}"
    places = _rows(
        asks,
        "SELECT call_id, id FROM dead_letters WHERE tenant_id = {tenant:String}"
        f" AND stage = {{stage:String}}{among} ORDER BY failed_at, id",
        {**parameters, "stage": stage},
    )
    inputs = [Input(row["call_id"], DEAD_LETTER, "", "archive", row["id"], True) for row in places]
    letters = []
    for start in range(0, len(inputs), _FETCH):
        held = _letters_of(asks, selection.tenant, inputs[start : start + _FETCH])
        letters += [held[each.place] for each in inputs[start : start + _FETCH]]
    return _of_letters(stage, letters, "archive", codec)


def _of_letters(stage: str, letters: Iterable[DeadLetter], source: str, codec: Codec) -> Selected:
    found: list[Found] = []
    left_out: dict[str, int] = {}
    for letter in letters:
        call = letter.call.partition("/")[2]
        original = _original(letter, stage, codec)
        if isinstance(original, str):
            _count(left_out, original)
            continue
        basis = _basis(letter, codec)
        made = Input(call, original.topic, original.event_id, source, letter.id, True, basis)
        failed = _sound_time(letter.message.timestamp_ms)
        told = "failed" if failed is None else f"failed {failed:%Y-%m-%d %H:%M:%S}"
        found.append(Found(made, started_at=told))
    return Selected(found, left_out)


def _original(letter: DeadLetter, stage: str, codec: Codec) -> OriginalInput | str:
    """What the stage was given when it refused; in words, why that cannot be given again."""
    message = replace(letter.message, topic=letter.topic, headers=letter.original_headers)
    if message.value is None:
        return "are dead letters without a body"
    try:
        envelope = codec.decode(message)
        if isinstance(envelope.event, ReplayRequested):
            if envelope.event.stage != stage:
                return f"are dead letters of another stage than {stage}"
            return envelope.event.input
        about = envelope.id
    except Invalid as problem:
        about = codec.undecodable(message, problem).id
    topics = _STORED if stage == "sink" else (_INPUTS[stage][0],)
    if message.topic not in topics:
        return f"are dead letters of {message.topic}, which no replay of {stage} takes"
    return _as_input(message, about)


def _basis(letter: DeadLetter, codec: Codec) -> int:
    """What an erasure is compared with of what the stage was given."""
    message = replace(letter.message, topic=letter.topic, headers=letter.original_headers)
    try:
        envelope = codec.decode(message)
        if isinstance(envelope.event, ReplayRequested):
            envelope = replace(envelope, replays=codec.replayed(envelope))
    except Invalid as problem:
        envelope = codec.undecodable(message, problem)
    return basis_of(envelope)


def _as_input(message: Message, about: str) -> OriginalInput:
    return OriginalInput(
        topic=message.topic,
        event_id=about,
        value=message.value,
        headers=[OriginalHeader(name=name, value=value) for name, value in message.headers],
        timestamp=_sound_time(message.timestamp_ms),
    )


def _sound_time(ms: int) -> datetime | None:
    """None for a time that no event may carry: a producer may write any into a message."""
    try:
        when = _EPOCH + timedelta(milliseconds=ms)
    except OverflowError:
        return None
    return when if EARLIEST_YEAR <= when.year <= LATEST_YEAR else None


# From the log


@dataclass(frozen=True, slots=True)
class _Newest:
    """The current event of a call so far."""

    rank: tuple[int, int, datetime, str]
    event: Any
    found: Found


def _from_log(
    stage: str,
    selection: Selection,
    view: LogView,
    codec: Codec,
    start: Mapping[str, Mapping[int, int]] | None = None,
) -> Selected:
    """As the archive would answer, from messages that follow `start` (topic -> offsets)."""
    if selection.dead_letters:
        letters = (
            letter
            for letter in unsettled(view)
            if letter.stage == stage and letter.call.startswith(f"{selection.tenant}/")
        )
        wanted = _letters_wanted(letters, selection, view, codec)
        return _of_letters(stage, wanted, "log", codec)
    promoted = _promoted(view, codec, selection.tenant)
    started = start or {}

    def newest(topic: str) -> dict[str, _Newest]:
        return _newest(topic, selection.tenant, view, codec, promoted, started.get(topic))

    transcripts = newest(TRANSCRIBED) if selection.by_transcript or stage == "enrich" else {}
    left_out: dict[str, int] = {}
    if stage == "sink":
        return _events_from_log(selection, view, codec, newest(ENDED), transcripts, started)
    inputs = transcripts if stage == "enrich" else newest(_INPUTS[stage][0])
    found = []
    for call, each in sorted(inputs.items(), key=lambda item: (item[1].found.started_at, item[0])):
        if not _matches(selection, each.event, transcripts.get(call)):
            continue
        if _leads_on(each.event):
            found.append(each.found)
        else:
            _count(left_out, "have no recording")
    _missing(selection, inputs, left_out)
    return Selected(found, left_out)


def _letters_wanted(
    letters: Iterable[DeadLetter], selection: Selection, view: LogView, codec: Codec
) -> Iterator[DeadLetter]:
    plain = replace(selection, dead_letters=False, calls=()).criteria == {}
    allowed: set[str] | None = None
    if not plain:
        others = replace(selection, dead_letters=False, calls=())
        ended = _newest(ENDED, selection.tenant, view, codec, frozenset(), None)
        heard = (
            _newest(TRANSCRIBED, selection.tenant, view, codec, frozenset(), None)
            if selection.by_transcript
            else {}
        )
        allowed = {c for c, each in ended.items() if _matches(others, each.event, heard.get(c))}
    for letter in letters:
        call = letter.call.partition("/")[2]
        if (not selection.calls or call in selection.calls) and (
            allowed is None or call in allowed
        ):
            yield letter


def _events_from_log(
    selection: Selection,
    view: LogView,
    codec: Codec,
    ended: Mapping[str, _Newest],
    transcripts: Mapping[str, _Newest],
    start: Mapping[str, Mapping[int, int]],
) -> Selected:
    wanted = {
        call: each.found
        for call, each in ended.items()
        if _matches(selection, each.event, transcripts.get(call))
    }
    found = []
    for topic in _STORED:
        seen: set[tuple[str, str]] = set()
        for message, call in _of_tenant(view, topic, selection.tenant, start.get(topic)):
            if call not in wanted:
                continue
            try:
                envelope = codec.decode(message)
            except Invalid:
                continue
            if (call, envelope.id) not in seen:
                seen.add((call, envelope.id))
                found.append(replace(wanted[call], input=_of_log(call, envelope)))
    left_out: dict[str, int] = {}
    _missing(selection, wanted, left_out)
    return Selected(found, left_out)


def _of_tenant(
    view: LogView, topic: str, tenant: str, start: Mapping[int, int] | None
) -> Iterator[tuple[Message, str]]:
    prefix = f"{tenant}/".encode()
    for message in view.scan(topic, start):
        if message.key is not None and message.key.startswith(prefix):
            yield message, message.key[len(prefix) :].decode("utf-8", "replace")


def _promoted(view: LogView, codec: Codec, tenant: str) -> frozenset[int]:
    """Shadow generations that are shown."""
    latest: dict[int, GenerationDecided] = {}
    for message, _ in _of_tenant(view, GENERATIONS, tenant, None):
        try:
            decided: GenerationDecided = codec.decode(message).event
        except Invalid:
            continue
        known = latest.get(decided.generation)
        if known is None or decided.decided_at >= known.decided_at:
            latest[decided.generation] = decided
    return frozenset(g for g, each in latest.items() if each.decision is Decision.PROMOTED)


def _newest(
    topic: str,
    tenant: str,
    view: LogView,
    codec: Codec,
    promoted: frozenset[int],
    start: Mapping[int, int] | None,
) -> dict[str, _Newest]:
    """call -> its current event on `topic`, by the rule of the views."""
    newest: dict[str, _Newest] = {}
    for message, call in _of_tenant(view, topic, tenant, start):
        try:
            envelope = codec.decode(message)
        except Invalid:
            continue
        if envelope.shadow and envelope.generation not in promoted:
            continue
        event = envelope.event
        rank = (_revision(event), envelope.generation, envelope.time, envelope.id)
        if call in newest and newest[call].rank >= rank:
            continue
        newest[call] = _Newest(rank, event, _told(_of_log(call, envelope), event))
    return newest


def _of_log(call: str, envelope: Envelope[Any]) -> Input:
    message = envelope.message
    place = f"{message.partition}-{message.offset}"
    basis = basis_of(envelope)
    return Input(call, message.topic, envelope.id, "log", place, basis_ms=basis)


def _revision(event: Any) -> int:
    if isinstance(event, CallEnded):
        return round((event.source_updated_at or event.occurred_at).timestamp() * 1000)
    return int(event.revision)


def _told(made: Input, event: Any) -> Found:
    call: CallEnded = event if isinstance(event, CallEnded) else event.call
    heard = event if isinstance(event, CallTranscribed) else None
    agents = [p for p in call.participants if p.role is Role.AGENT]
    queue = call.queue
    return Found(
        made,
        started_at=call.started_at.isoformat(sep=" ", timespec="seconds"),
        queue=(queue.name or queue.id) if queue else "",
        agent=(agents[0].display_name or "") if agents else "",
        language=heard.language if heard else "",
        engine=heard.engine.name if heard else "",
        audio_ms=heard.duration_ms
        if heard
        else (call.ended_at - call.started_at) // timedelta(milliseconds=1),
        words=sum(len(segment.words) for segment in heard.segments) if heard else 0,
    )


def _matches(selection: Selection, event: Any, transcript: _Newest | None) -> bool:
    call: CallEnded = event if isinstance(event, CallEnded) else event.call
    heard: CallTranscribed | None = transcript.event if transcript else None
    agents = [p for p in call.participants if p.role is Role.AGENT]
    names = {name for p in agents for name in (p.agent_id, p.participant_id, p.display_name)}
    queues = () if call.queue is None else (call.queue.id, call.queue.name)
    wanted = (
        (selection.queue, queues),
        (selection.agent, names),
        (
            selection.language,
            (heard.language if heard else next(iter(call.language_hints), "und"),),
        ),
        (selection.engine, (heard.engine.name,) if heard else ()),
        (selection.engine_version, (heard.engine.version,) if heard else ()),
    )
    return (
        (not selection.calls or call.call_id in selection.calls)
        and (selection.since is None or call.started_at >= selection.since)
        and (selection.until is None or call.started_at < selection.until)
        and all(value is None or value in among for value, among in wanted)
    )


def _with_tail(
    stage: str,
    selection: Selection,
    archived: Selected,
    view: LogView,
    codec: Codec,
    stored_until: Mapping[TopicPartition, int],
) -> Selected:
    """What the archive has, and what the log has that the sink has not stored yet."""
    start = {
        topic: {p: stored_until.get(TopicPartition(topic, p), 0) for p in view.ends(topic)}
        for topic in (*_STORED, DEAD_LETTER)
    }
    if selection.dead_letters:
        topics: tuple[str, ...] = (DEAD_LETTER,)
    else:
        topics = _STORED if stage == "sink" else (_INPUTS[stage][0],)
    count = sum(
        max(0, end - max(first, start[topic].get(partition, 0)))
        for topic in topics
        for partition, (first, end) in view.ends(topic).items()
    )
    if count <= 0:
        return archived
    left_out = dict(archived.left_out)
    if selection.where is not None:
        _count(
            left_out, "are messages that the sink has not stored; --where cannot see them", count
        )
        return Selected(archived.found, left_out)
    tail = _from_log(stage, selection, view, codec, start)
    if selection.dead_letters or stage == "sink":
        known = {(each.input.call, each.input.event_id) for each in archived.found}
        more = [f for f in tail.found if (f.input.call, f.input.event_id) not in known]
        return Selected([*archived.found, *more], left_out)
    # An event beyond what is stored is newer than the one that is, but for amendments out of order:
    # then the revision decides at the stage's output, as it does for live calls.
    newer = {each.input.call: each for each in tail.found}
    merged = [newer.pop(each.input.call, each) for each in archived.found]
    return Selected([*merged, *newer.values()], left_out)


# Bytes of inputs


def _message(row: Mapping[str, Any], topic: str, key: bytes) -> Message:
    headers = zip(row["header_names"], map(base64.b64decode, row["header_bytes"]), strict=True)
    body = row["body"]
    return Message(
        topic, int(row["partition"]), int(row["offset"]), key,
        None if body is None else base64.b64decode(body), tuple(headers), int(row["at"]),
    )  # fmt: skip


_BYTES = (
    "SELECT call_id, event_id, topic, place, if(isNull(value), NULL, base64Encode(assumeNotNull("
    "value))) AS body, partition, offset, header_names,"
    " arrayMap(v -> base64Encode(v), header_values) AS header_bytes,"
    " toUnixTimestamp64Milli(timestamp) AS at FROM events"
)


def _messages_of(
    asks: Asks, tenant: str, inputs: Sequence[Input]
) -> dict[tuple[str, str], Message]:
    """(call, event id) -> the message as it was read, of what the archive holds."""
    if not inputs:
        return {}
    rows = _rows(
        asks,
        f"{_BYTES} WHERE topic IN {{topics:Array(String)}} AND event_id IN {{ids:Array(String)}}"
        " AND tenant_id = {tenant:String} AND call_id IN {calls:Array(String)}"
        " ORDER BY generation, revision LIMIT 1 BY topic, event_id, call_id",
        {
            "tenant": tenant,
            "topics": sorted({each.topic for each in inputs}),
            "ids": sorted({each.event_id for each in inputs}),
            "calls": sorted({each.call for each in inputs}),
        },
    )
    return {
        (row["call_id"], row["event_id"]): _message(
            row, row["topic"], f"{tenant}/{row['call_id']}".encode()
        )
        for row in rows
    }


def _letters_of(asks: Asks, tenant: str, inputs: Sequence[Input]) -> dict[str, DeadLetter]:
    """Place -> the dead letter that lies there."""
    if not inputs:
        return {}
    rows = _rows(
        asks,
        f"{_BYTES} WHERE topic = {{topic:String}} AND place IN {{places:Array(String)}}"
        " AND tenant_id = {tenant:String} LIMIT 1 BY place",
        {"tenant": tenant, "topic": DEAD_LETTER, "places": [each.place for each in inputs]},
    )
    return {
        row["place"]: DeadLetter(_message(row, DEAD_LETTER, f"{tenant}/{row['call_id']}".encode()))
        for row in rows
    }


def _at_places(view: LogView, topic: str, places: Iterable[str]) -> dict[str, Message]:
    """Messages of the log by place; those that it keeps no longer are absent."""
    wanted = {tuple(map(int, place.split("-", 1))) for place in places}
    if not wanted:
        return {}
    start = {partition: end for partition, (_, end) in view.ends(topic).items()}
    for partition, offset in wanted:
        start[partition] = min(start.get(partition, offset), offset)
    found: dict[str, Message] = {}
    for message in view.scan(topic, start):
        if (message.partition, message.offset) in wanted:
            found[f"{message.partition}-{message.offset}"] = message
            if len(found) == len(wanted):
                break
    return found


def fetch(
    plan: Plan, inputs: Sequence[Input], asks: Asks | None, view: LogView, codec: Codec
) -> list[tuple[Input, OriginalInput, DeadLetter | None]]:
    """The bytes of `inputs`, with the dead letter where it holds them; what is nowhere is absent.

    What was planned from the archive is looked for there; what was planned from the log, there
    first: it may have expired since, and be archived.
    """
    tenant = plan.tenant
    letters: dict[str, DeadLetter] = {}
    dead = [each for each in inputs if each.letter]
    letters |= {
        place: DeadLetter(message)
        for place, message in _at_places(
            view, DEAD_LETTER, [each.place for each in dead if each.source == "log"]
        ).items()
    }
    messages: dict[tuple[str, str], Message] = {}
    plain = [each for each in inputs if not each.letter]
    for topic in sorted({each.topic for each in plain if each.source == "log"}):
        here = {each.place: each for each in plain if each.source == "log" and each.topic == topic}
        for place, message in _at_places(view, topic, here).items():
            messages[here[place].call, here[place].event_id] = message
    if asks is not None:
        letters |= _letters_of(asks, tenant, [each for each in dead if each.place not in letters])
        missing = [each for each in plain if (each.call, each.event_id) not in messages]
        messages |= _messages_of(asks, tenant, missing)
    made: list[tuple[Input, OriginalInput, DeadLetter | None]] = []
    for each in inputs:
        if each.letter:
            letter = letters.get(each.place)
            original = None if letter is None else _original(letter, plan.stage, codec)
            if letter is not None and isinstance(original, OriginalInput):
                made.append((each, original, letter))
        elif found := messages.get((each.call, each.event_id)):
            made.append((each, _as_input(found, each.event_id), None))
    return made


# Plans


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A replay as it was asked for: everything that is needed to go on with it."""

    tenant: str
    generation: int
    stage: str
    requested_by: str
    requested_at: datetime
    options: dict[str, str]
    shadow: bool
    side_effects: bool
    reason: str
    criteria: dict[str, Any]
    begins: dict[int, int]
    """Partition of calls.replay -> where its requests begin."""
    inputs: list[Input]


def _folder(tenant: str) -> str:
    return f"replays/{key_part(tenant)}/"


def _key(tenant: str, generation: int) -> str:
    return f"{_folder(tenant)}{generation}.json"


def store_plan(
    objects: Objects,
    view: LogView,
    stage: str,
    selection: Selection,
    inputs: Sequence[Input],
    *,
    options: Mapping[str, str],
    shadow: bool,
    side_effects: bool,
    reason: str,
    requested_by: str,
    now: datetime | None = None,
) -> Plan:
    """Give the replay its generation, beyond every other of its tenant, and put it on record."""
    at = now or utc_now()
    latest = max(generations(objects, selection.tenant), default=0)
    # Microseconds whose last six digits are random: commands that list the same plans at the same
    # moment, or by slow clocks, take different numbers. JSON's doubles hold it until the year 2255.
    second = int(at.timestamp()) * _SECOND
    generation = max(second, latest) + 1 + secrets.randbelow(_SECOND)
    begins = {partition: end for partition, (_, end) in view.ends(REPLAY).items()}
    plan = Plan(
        selection.tenant, generation, stage, requested_by, at, dict(options), shadow, side_effects,
        reason, selection.criteria, begins, _ordered(inputs),
    )  # fmt: skip
    objects.put(_key(plan.tenant, generation), msgspec.json.encode(plan))
    return plan


def generations(objects: Objects, tenant: str) -> list[int]:
    """Every replay of the tenant, the oldest first."""
    names = (key.rpartition("/")[2].removesuffix(".json") for key in objects.keys(_folder(tenant)))
    return sorted(int(name) for name in names if name.isdecimal())


def read_plan(objects: Objects, tenant: str, generation: int) -> Plan:
    """The plan of that replay. Raises Refused where there is none."""
    try:
        return msgspec.json.decode(objects.get(_key(tenant, generation)), type=Plan)
    except MissingObject:
        known = generations(objects, tenant)[-3:]
        hint = f"; the latest: {', '.join(map(str, known))}" if known else "; it has none"
        raise Refused(
            f"tenant {tenant!r} has no replay {generation}{hint}. See `callstream replay list`"
        ) from None
    except msgspec.DecodeError as error:
        raise Refused(f"{_key(tenant, generation)} is no plan of a replay: {error}") from error


def request_id(plan: Plan, each: Input) -> str:
    """The id of the request for that input."""
    about = f"{plan.tenant}/{each.call}\n{each.topic}\n{each.event_id}"
    return event_id("replay", about, plan.generation, 0)


def publish(
    plan: Plan,
    inputs: Sequence[Input],
    log: Log,
    view: LogView,
    codec: Codec,
    asks: Asks | None,
    clock: Callable[[], datetime] = utc_now,
) -> dict[Input, str]:
    """Ask for `inputs` to be handled again; those that cannot be asked for, and why.

    Durable on return. A dead letter that holds an input is settled in the same commit, unless the
    replay is a shadow.
    """
    fetched = fetch(plan, inputs, asks, view, codec)
    now = clock()
    records: list[Record] = []
    lost = dict.fromkeys(inputs, GONE)
    for each, original, letter in fetched:
        lost.pop(each, None)
        request = ReplayRequested(
            tenant_id=plan.tenant,
            call_id=each.call,
            requested_at=now,
            requested_by=plan.requested_by,
            reason=plan.reason,
            stage=plan.stage,
            generation=plan.generation,
            options=plan.options,
            shadow=plan.shadow,
            side_effects=plan.side_effects,
            input=original,
        )
        try:
            record = codec.encode(
                request,
                id=request_id(plan, each),
                source="/callstream/replay",
                time=now,
                generation=plan.generation,
                causation_id=each.event_id,
                traceparent=_trace(original),
                shadow=plan.shadow,
                side_effects=plan.side_effects,
            )
        except Invalid as problem:
            lost[each] = f"{problem.reason}: {problem.detail}"
            continue
        to = (h.REPLAY_STAGE, plan.stage.encode())
        records.append(replace(record, headers=(*record.headers, to)))
        if letter is not None and not plan.shadow:
            records.append(settled(letter, "replayed", round(now.timestamp() * 1000)))
    if records:
        log.commit(records, {})
    return lost


def _trace(original: OriginalInput) -> str | None:
    for header in original.headers:
        if header.name == h.TRACEPARENT:
            return header.value.decode("utf-8", "replace")
    return None


def published(plan: Plan, view: LogView) -> set[str]:
    """Ids of the requests of `plan` that the log holds."""
    prefix = f"{plan.tenant}/".encode()
    wanted = str(plan.generation)
    return {
        message.header(h.ID) or ""
        for message in view.scan(REPLAY, plan.begins)
        if (message.key or b"").startswith(prefix) and message.header(h.GENERATION) == wanted
    }


# How far it is


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of one input."""

    state: str
    """done, failed, waiting, or erased."""
    reason: str = ""
    at_ms: int = 0

    @property
    def over(self) -> bool:
        return self.state != "waiting"


def outcomes(plan: Plan, inputs: Sequence[Input], asks: Asks | None) -> dict[Input, Outcome]:
    """Of `inputs` those that came to something; absent are those still under way.

    Done is an input whose call is through all stages that follow from it.
    """
    found: dict[Input, Outcome] = {}
    for start in range(0, len(inputs) if asks is not None else 0, _ASK):
        assert asks is not None
        part = inputs[start : start + _ASK]
        calls = sorted({each.call for each in part})
        states = _states(plan, calls, asks)
        stored = _recorded(plan, calls, asks) if plan.stage == "ingest" else {}
        for each in part:
            outcome = _outcome(plan, each, states.get(each.call, {}), stored.get(each.call, ()))
            if outcome is not None:
                found[each] = outcome
    return found


_States = dict[tuple[str, str], Outcome]
"""(stage, input id) -> what became of it."""


def _states(plan: Plan, calls: Sequence[str], asks: Asks) -> dict[str, _States]:
    rows = _rows(
        asks,
        "SELECT call_id, stage, input_id,"
        " argMax((state, reason, detail), (time, state = 'done')) AS latest, latest.1 AS became,"
        " latest.2 AS why, latest.3 AS more, toUnixTimestamp64Milli(max(time)) AS at"
        " FROM stage_states"
        " WHERE tenant_id = {tenant:String} AND call_id IN {calls:Array(String)}"
        " AND generation = {generation:Int64} GROUP BY call_id, stage, input_id"
        " UNION ALL SELECT call_id, 'erase', '', ('erased', '', '') AS latest, latest.1, latest.2,"
        " latest.3, toUnixTimestamp64Milli(max(erased_at)) FROM calls_erased"
        " WHERE tenant_id = {tenant:String} AND call_id IN {calls:Array(String)} GROUP BY call_id",
        {"tenant": plan.tenant, "calls": list(calls), "generation": plan.generation},
    )
    found: dict[str, _States] = {}
    for row in rows:
        state = {"refused": "failed", "dropped": "failed"}.get(row["became"], row["became"])
        why = ": ".join(part for part in (row["stage"], row["why"], row["more"]) if part)
        outcome = Outcome(state, "" if state == "done" else why, int(row["at"]))
        found.setdefault(row["call_id"], {})[row["stage"], row["input_id"]] = outcome
    return found


def _recorded(plan: Plan, calls: Sequence[str], asks: Asks) -> dict[str, tuple[str, ...]]:
    """call -> ids of the CallRecorded that this replay of ingest has made."""
    rows = _rows(
        asks,
        "SELECT call_id, groupUniqArray(event_id) AS ids FROM calls_recorded"
        " WHERE tenant_id = {tenant:String} AND call_id IN {calls:Array(String)}"
        " AND generation = {generation:Int64} GROUP BY call_id",
        {"tenant": plan.tenant, "calls": list(calls), "generation": plan.generation},
    )
    return {row["call_id"]: tuple(row["ids"]) for row in rows}


def _outcome(plan: Plan, each: Input, states: _States, recorded: Sequence[str]) -> Outcome | None:
    basis = each.basis_ms
    if basis is None:
        basis = round(plan.requested_at.timestamp() * 1000)
    erased = states.get(("erase", ""))
    if erased is not None and erased.at_ms >= basis:
        return erased
    ids: Sequence[str] = (each.event_id,)
    last: Outcome | None = None
    for number, stage in enumerate(_CHAIN[plan.stage]):
        told = [states[stage, id] for id in ids if (stage, id) in states]
        done = [it for it in told if it.state == "done"]
        if len(done) < len(ids) or not ids:
            if number == 0:  # what fails or waits there is the request
                told += [states[k] for k in [(stage, request_id(plan, each))] if k in states]
            troubled = [it for it in told if it.state != "done"]
            return max(troubled, key=lambda it: it.at_ms, default=None)
        last = max(done, key=lambda it: it.at_ms)
        # The id of the next stage's input follows from this one's; but for ingest, which makes
        # its own from what it stored.
        ids = (
            recorded
            if stage == "ingest"
            else [event_id(stage, id, plan.generation, 0) for id in ids]
        )
    return last


@dataclass(slots=True)
class Tally:
    """How many inputs of a replay came to what."""

    total: int
    done: int = 0
    failed: int = 0
    waiting: int = 0
    erased: int = 0

    @property
    def left(self) -> int:
        return self.total - self.done - self.failed - self.waiting - self.erased


def tally(plan: Plan, asks: Asks) -> Tally:
    """How far the replay is, by the warehouse."""
    counted = Tally(len(plan.inputs))
    for outcome in outcomes(plan, plan.inputs, asks).values():
        _add(counted, outcome)
    return counted


def _add(counted: Tally, outcome: Outcome) -> None:
    setattr(counted, outcome.state, getattr(counted, outcome.state) + 1)


class Follower:
    """Carries a plan out: publishes what is left of it, and looks what came of it.

    `step` does a bit of both and is called again and again; it does not wait. Stopped anywhere, a
    new follower of the same plan goes on.
    """

    def __init__(
        self,
        plan: Plan,
        log: Log,
        view: LogView,
        codec: Codec,
        asks: Asks | None,
        *,
        ahead: int = AHEAD,
        failures: int = FAILURES,
    ) -> None:
        self.plan, self.tally = plan, Tally(len(plan.inputs))
        self.lost: dict[Input, str] = {}
        """What cannot be asked for, and why."""
        self.reasons: dict[str, int] = {}
        self.stopped: str | None = None
        self._log, self._view, self._codec, self._asks = log, view, codec, asks
        self._ahead, self._failures = ahead, failures
        self._in_a_row = 0
        known = outcomes(plan, plan.inputs, asks)
        for outcome in known.values():
            self._note(outcome)
        self._in_a_row = 0
        there = published(plan, view)
        left = [each for each in plan.inputs if each not in known]
        self._open = {each for each in left if request_id(plan, each) in there}
        self._open |= {each for each, outcome in known.items() if not outcome.over}
        self._waiting = {each for each, outcome in known.items() if not outcome.over}
        self._todo = [each for each in left if each not in self._open]
        self._todo.reverse()

    def _note(self, outcome: Outcome) -> None:
        _add(self.tally, outcome)
        if outcome.state == "failed":
            self._in_a_row += 1
            _count(self.reasons, outcome.reason)
        elif outcome.state == "done":
            self._in_a_row = 0

    @property
    def asked(self) -> int:
        """Inputs that have been asked for."""
        return self.tally.total - len(self._todo)

    @property
    def over(self) -> bool:
        """Whether nothing more comes of it by itself soon."""
        running = len(self._open) - len(self._waiting)
        return running == 0 and (not self._todo or self.stopped is not None)

    def step(self) -> bool:
        """Look, then publish as much as there is room for; whether anything happened."""
        return self._look() | self.publish()

    def _look(self) -> bool:
        known = outcomes(self.plan, list(self._open), self._asks)
        self._waiting = {each for each, it in known.items() if not it.over}
        self.tally.waiting = len(self._waiting)
        ended = sorted(
            ((it.at_ms, each.call, each) for each, it in known.items() if it.over),
            key=lambda item: item[:2],
        )
        for _, _, each in ended:
            self._open.discard(each)
            self._note(known[each])
            if self._in_a_row >= self._failures and self.stopped is None:
                self.stopped = f"{self._in_a_row} failures in a row, the last: {known[each].reason}"
        return bool(ended)

    def publish(self) -> bool:
        """Ask for as much as there is room for; whether that was anything."""
        if self.stopped is not None:
            return False
        room = self._ahead - (len(self._open) - len(self._waiting))
        happened = False
        while room > 0 and self._todo:
            batch = [self._todo.pop() for _ in range(min(room, _FETCH, len(self._todo)))]
            lost = publish(self.plan, batch, self._log, self._view, self._codec, self._asks)
            self.lost |= lost
            self._open |= set(batch) - set(lost)
            self.tally.total -= len(lost)
            room -= len(batch)
            happened = True
        return happened


# What it will cost


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a replay takes, as far as that can be known before."""

    calls: int
    events: int
    audio_ms: int
    words: int
    input_bytes: int | None
    """None where the archive was not asked."""
    seconds: float | None
    """At the rate that live calls have shown; None where none has been seen yet."""
    rate: str


def estimate(stage: str, tenant: str, found: Sequence[Found], asks: Asks | None) -> Estimate:
    """The cost of giving `found` to `stage`."""
    by_call = {each.input.call: each for each in found}
    audio_ms = sum(each.audio_ms for each in by_call.values())
    words = sum(each.words for each in by_call.values())
    size, rate, seconds, shown = None, None, None, "no rate of this stage is known yet"
    if asks is not None:
        size = _size_of(asks, tenant, [each.input for each in found])
        rate = _rate(stage, tenant, asks)
    if rate is not None:
        work_ms, count, busy_ms = rate
        if stage == "transcribe" and work_ms:
            seconds = audio_ms / work_ms * busy_ms / 1000
            shown = f"{work_ms / busy_ms:.1f} s of audio per second, over the last {count} calls"
        else:
            seconds = len(found) * busy_ms / count / 1000
            shown = f"{count / busy_ms * 1000:.1f} calls per second, over the last {count} calls"
    return Estimate(len(by_call), len(found), audio_ms, words, size, seconds, shown)


def _size_of(asks: Asks, tenant: str, inputs: Sequence[Input]) -> int:
    """Bytes of those that the archive holds; of a claim check, its frame."""
    size = 0
    ordered = _ordered(inputs)
    for start in range(0, len(ordered), _ASK):
        part = ordered[start : start + _ASK]
        rows = _rows(
            asks,
            "SELECT sum(size) AS size FROM (SELECT topic, event_id, call_id,"
            " any(ifNull(length(value), 0)) AS size FROM events"
            " WHERE topic IN {topics:Array(String)} AND event_id IN {ids:Array(String)}"
            " AND tenant_id = {tenant:String} GROUP BY topic, event_id, call_id)",
            {
                "tenant": tenant,
                "topics": sorted({each.topic for each in part}),
                "ids": sorted({each.event_id for each in part}),
            },
        )
        size += int(rows[0]["size"])
    return size


_TABLES_OF: Mapping[str, tuple[str, str, str]] = {
    "ingest": ("calls_ended", "calls_recorded", "audio_ms"),
    "transcribe": ("calls_recorded", "calls_transcribed", "duration_ms"),
    "enrich": ("calls_transcribed", "calls_enriched", "0"),
}


def _rate(stage: str, tenant: str, asks: Asks) -> tuple[int, int, int] | None:
    """(audio ms, calls, ms busy) of the last thousand live calls that went through the stage.

    It was busy with a call from when it had both the call's input and nothing else to do.
    """
    if stage not in _TABLES_OF:
        return None
    before, after, work = _TABLES_OF[stage]
    fresh = " AND NOT cached" if stage == "transcribe" else ""
    rows = _rows(
        asks,
        f"SELECT toUnixTimestamp64Milli(a.time) AS done, toUnixTimestamp64Milli(b.time) AS came,"
        f" toInt64(a.work) AS work FROM (SELECT tenant_id, call_id, revision, time, {work} AS work"
        f" FROM {after} FINAL WHERE tenant_id = {{tenant:String}} AND generation = 0{fresh}"
        " ORDER BY time DESC LIMIT 1000) AS a"
        f" INNER JOIN (SELECT tenant_id, call_id, revision, max(time) AS time FROM {before}"
        " WHERE tenant_id = {tenant:String} AND generation = 0"
        " GROUP BY tenant_id, call_id, revision) AS b"
        " ON a.tenant_id = b.tenant_id AND a.call_id = b.call_id AND a.revision = b.revision"
        " ORDER BY done",
        {"tenant": tenant},
    )
    busy, work_ms, last = 0, 0, 0
    for row in rows:
        done = int(row["done"])
        busy += max(0, done - max(int(row["came"]), last))
        work_ms += int(row["work"])
        last = done
    return (work_ms, len(rows), busy) if busy else None


# Shadows


def decision(asks: Asks, tenant: str, generation: int) -> str:
    """PROMOTED, DISCARDED, or "" where nobody has decided yet."""
    rows = _rows(
        asks,
        "SELECT argMax(decision, (decided_at, event_id)) AS decision FROM generations"
        " WHERE tenant_id = {tenant:String} AND generation = {generation:Int64}",
        {"tenant": tenant, "generation": generation},
    )
    return str(rows[0]["decision"]) if rows else ""


def overtaken(plan: Plan, asks: Asks) -> int:
    """Calls of a generation that readers see by a later one, or a later amendment, all the same."""
    table = {"calls_enriched": "current_enriched"}
    if plan.stage != "enrich":
        table |= {"calls_transcribed": "current_transcribed"}
    either = " UNION DISTINCT ".join(
        f"SELECT call_id FROM {current} WHERE tenant_id = {{tenant:String}}"
        f" AND generation != {{generation:Int64}} AND call_id IN (SELECT call_id FROM {made}"
        " WHERE tenant_id = {tenant:String} AND generation = {generation:Int64})"
        for made, current in table.items()
    )
    parameters = {"tenant": plan.tenant, "generation": plan.generation}
    rows = _rows(asks, f"SELECT count() AS calls FROM ({either})", parameters)
    return int(rows[0]["calls"])


def check_decision(
    plan: Plan, wanted: Decision, known: str, counted: Tally, *, partial: bool
) -> None:
    """Raises Refused where that decision makes no sense."""
    name = wanted.value.lower()
    if not plan.shadow:
        raise Refused(f"replay {plan.generation} is no shadow: readers have seen it from the start")
    if known == wanted:
        raise Refused(f"replay {plan.generation} is {name} already")
    if wanted is Decision.PROMOTED:
        if known == Decision.DISCARDED:
            raise Refused(
                f"replay {plan.generation} was discarded, which is for good; replay again"
            )
        if (counted.left or counted.waiting) and not partial:
            raise Refused(
                f"{counted.left + counted.waiting} of {counted.total} calls of replay "
                f"{plan.generation} are not through; `callstream replay resume {plan.generation}` "
                "goes on with it, --partial promotes what there is"
            )


def decide(
    log: Log,
    codec: Codec,
    asks: Asks,
    plan: Plan,
    wanted: Decision,
    decided_by: str,
    reason: str,
    clock: Callable[[], datetime] = utc_now,
) -> None:
    """Put the decision on record, durably; it is later than every one that the warehouse knows."""
    now = clock()
    decided_at = max(now, _decided_at(asks, plan) + timedelta(milliseconds=1))
    decided = GenerationDecided(
        tenant_id=plan.tenant,
        generation=plan.generation,
        decision=wanted,
        decided_at=decided_at,
        decided_by=decided_by,
        reason=reason,
    )
    about = f"{plan.tenant}\n{wanted.value}\n{round(decided_at.timestamp() * 1000)}"
    record = codec.encode(
        decided,
        id=event_id("decision", about, plan.generation, 0),
        source="/callstream/replay",
        time=now,
        generation=plan.generation,
    )
    log.commit([record], {})


def _decided_at(asks: Asks, plan: Plan) -> datetime:
    """When the latest known decision about the replay was made; 1970 where there is none."""
    rows = _rows(
        asks,
        "SELECT toUnixTimestamp64Milli(max(decided_at)) AS at FROM generations"
        " WHERE tenant_id = {tenant:String} AND generation = {generation:Int64}",
        {"tenant": plan.tenant, "generation": plan.generation},
    )
    return _EPOCH + timedelta(milliseconds=int(rows[0]["at"]))
