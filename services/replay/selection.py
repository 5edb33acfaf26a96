"""Which calls a replay takes: what is asked for, and the inputs that this comes to.

Archive and log answer alike: a call's input is its current event by the rule of the views.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from schemas.checks import revision_of
from schemas.events import (
    CallEnded,
    CallRecorded,
    CallTranscribed,
    Decision,
    GenerationDecided,
    RecordingStatus,
    ReplayRequested,
    Role,
)
from schemas.topics import DEAD_LETTER, ENDED, GENERATIONS, TRANSCRIBED
from services.dead_letters import DeadLetter, decided, unsettled
from services.enrich.settings import trial_rules
from services.loopback import Asks, rows_of
from services.replay.inputs import (
    TOPICS,
    Input,
    archived_letters,
    archived_messages,
    ordered,
    portions,
    refused_by,
)
from services.runtime.codec import Codec
from services.runtime.errors import Invalid
from services.runtime.log import LogView, Message, TopicPartition
from services.runtime.process import sound_time
from services.runtime.stage import Envelope, refuse_unknown_options
from services.sink.rows import basis_of
from services.transcribe.settings import TranscribeSettings, with_options

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
    left_out: Counter[str]
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


def tenants(selection: Selection, asks: Asks) -> dict[str, int]:
    """Tenant -> how many of its calls started in the time of the selection; the most first."""
    since = 0 if selection.since is None else round(selection.since.timestamp() * 1000)
    until = selection.until or datetime.max.replace(tzinfo=UTC)
    rows = rows_of(
        asks,
        "SELECT tenant_id, uniqExact(call_id) AS calls FROM calls_ended"
        " WHERE toUnixTimestamp64Milli(started_at) >= {since:Int64}"
        " AND toUnixTimestamp64Milli(started_at) < {until:Int64}"
        " GROUP BY tenant_id ORDER BY calls DESC, tenant_id LIMIT 10",
        {"since": since, "until": round(until.timestamp() * 1000)},
    )
    return {row["tenant_id"]: int(row["calls"]) for row in rows}


# From the archive


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
        hold("has(arrayConcat(e.agent_ids, e.agent_names, [e.agent_name]), {agent:String})",
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
    if selection.dead_letters:
        return _dead_from_archive(stage, selection, asks, codec)
    calls, parameters = _selected_calls(selection)
    if stage == "sink":
        return _events_from_archive(calls, parameters, asks)
    (topic,) = TOPICS[stage]
    current, usable, known = {
        "ingest": (
            "current_ended", "c.expected > 0", "r.revision = i.revision AND r.recordings > 0",
        ),
        "transcribe": ("current_recorded", "i.recordings > 0", "1"),
        "enrich": ("current_transcribed", "1", "1"),
    }[stage]  # fmt: skip
    rows = rows_of(
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
    left_out: Counter[str] = Counter()
    for row in rows:
        if not row["event_id"]:
            left_out[f"have nothing for {stage} yet"] += 1
        elif not row["usable"]:
            left_out["have no recording"] += 1
        else:
            found.append(_found(row, topic))
            if not row["known"]:
                unsure.add(found[-1].input)
    if silent := _leading_nowhere(unsure, selection.tenant, asks, codec):
        left_out["have no recording"] += len(silent)
        found = [each for each in found if each.input not in silent]
    _missing(selection, (row["call_id"] for row in rows), left_out)
    return Selected(found, left_out)


def _found(row: Mapping[str, Any], topic: str) -> Found:
    made = Input(row["call_id"], topic, row["event_id"], "archive", basis_ms=int(row["basis"]))
    return Found(
        made, row["started_at"], row["queue"], row["agent"], row["language"], row["engine"],
        int(row["audio_ms"]), int(row["words"]),
    )  # fmt: skip


def _leading_nowhere(inputs: Iterable[Input], tenant: str, asks: Asks, codec: Codec) -> set[Input]:
    """Those of which their stage would make nothing, as their bytes tell."""
    nowhere: set[Input] = set()
    for part in portions(ordered(inputs)):
        held = archived_messages(tenant, part, asks)
        for each in part:
            message = held.get((each.call, each.event_id))
            if message is not None and not _may_lead_on(codec, message):
                nowhere.add(each)
    return nowhere


def _may_lead_on(codec: Codec, message: Message) -> bool:
    try:
        return _leads_on(codec.decode(message).event)
    except Invalid:
        return True  # its stage says why


def _events_from_archive(calls: str, parameters: Mapping[str, Any], asks: Asks) -> Selected:
    """Every event of the selected calls that rows are made of."""
    rows = rows_of(
        asks,
        f"SELECT {_COLUMNS}, i.topic AS topic, i.event_id AS event_id, i.basis AS basis FROM"
        " (SELECT topic, event_id, call_id, toUnixTimestamp64Milli(max(basis_at)) AS basis"
        " FROM events WHERE tenant_id = {tenant:String} AND type != ''"
        " AND topic IN {topics:Array(String)} GROUP BY topic, event_id, call_id) AS i"
        f" INNER JOIN ({calls}) AS c ON c.call_id = i.call_id"
        " ORDER BY c.started_at, c.call_id, i.topic, i.event_id",
        {**parameters, "topics": list(TOPICS["sink"])},
    )
    return Selected([_found(row, row["topic"]) for row in rows], Counter())


def _dead_from_archive(stage: str, selection: Selection, asks: Asks, codec: Codec) -> Selected:
    calls, parameters = _selected_calls(selection)
    alone = replace(selection, dead_letters=False, calls=()).criteria == {}
    among = "" if alone else f" AND call_id IN (SELECT call_id FROM ({calls}))"
    if alone and selection.calls:
        among = " AND call_id IN {calls:Array(String)}"
    rows = rows_of(
        asks,
        "SELECT id FROM dead_letters WHERE tenant_id = {tenant:String}"
        f" AND stage = {{stage:String}}{among} ORDER BY failed_at, id",
        {**parameters, "stage": stage},
    )
    places = [row["id"] for row in rows]
    letters = archived_letters(selection.tenant, places, asks)
    return _of_letters(stage, [letters[place] for place in places], "archive", codec)


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
    left_out: Counter[str] = Counter()
    if stage == "sink":
        return _events_from_log(selection, view, codec, newest(ENDED), transcripts, started)
    inputs = transcripts if stage == "enrich" else newest(TOPICS[stage][0])
    found = []
    for call, each in sorted(inputs.items(), key=lambda item: (item[1].found.started_at, item[0])):
        if not _matches(selection, each.event, transcripts.get(call)):
            continue
        if _leads_on(each.event):
            found.append(each.found)
        else:
            left_out["have no recording"] += 1
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
    for topic in TOPICS["sink"]:
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
    left_out: Counter[str] = Counter()
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
        rank = (revision_of(event), envelope.generation, envelope.time, envelope.id)
        if call in newest and newest[call].rank >= rank:
            continue
        newest[call] = _Newest(rank, event, _told(_of_log(call, envelope), event))
    return newest


def _of_log(call: str, envelope: Envelope[Any]) -> Input:
    message = envelope.message
    place = f"{message.partition}-{message.offset}"
    basis = basis_of(envelope)
    return Input(call, message.topic, envelope.id, "log", place, basis_ms=basis)


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
    names = {name for p in agents for name in (p.agent_id or p.participant_id, p.display_name)}
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


# From both


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
        for topic in (*TOPICS["sink"], DEAD_LETTER)
    }
    topics = (DEAD_LETTER,) if selection.dead_letters else TOPICS[stage]
    count = sum(
        max(0, end - max(first, start[topic].get(partition, 0)))
        for topic in topics
        for partition, (first, end) in view.ends(topic).items()
    )
    if count <= 0:
        return archived
    left_out = archived.left_out.copy()
    if selection.where is not None:
        left_out["are messages that the sink has not stored; --where cannot see them"] += count
        return Selected(archived.found, left_out)
    tail = _from_log(stage, selection, view, codec, start)
    if selection.dead_letters or stage == "sink":
        known = {(each.input.call, each.input.event_id) for each in archived.found}
        more = [f for f in tail.found if (f.input.call, f.input.event_id) not in known]
        over = decided(view) if selection.dead_letters else set()
        still = [f for f in archived.found if f.input.place not in over]
        return Selected([*still, *more], left_out)
    # An event beyond what is stored is newer than the one that is, but for amendments out of order:
    # then the revision decides at the stage's output, as it does for live calls.
    newer = {each.input.call: each for each in tail.found}
    merged = [newer.pop(each.input.call, each) for each in archived.found]
    return Selected([*merged, *newer.values()], left_out)


# Wherever it comes from


def _of_letters(stage: str, letters: Iterable[DeadLetter], source: str, codec: Codec) -> Selected:
    found: list[Found] = []
    left_out: Counter[str] = Counter()
    for letter in letters:
        call = letter.call.partition("/")[2]
        given = refused_by(stage, letter, codec)
        if isinstance(given, str):
            left_out[given] += 1
            continue
        original, envelope = given
        basis = _basis(envelope, codec)
        made = Input(call, original.topic, original.event_id, source, letter.id, True, basis)
        failed = sound_time(letter.message.timestamp_ms)
        told = "failed" if failed is None else f"failed {failed:%Y-%m-%d %H:%M:%S}"
        found.append(Found(made, started_at=told))
    return Selected(found, left_out)


def _basis(envelope: Envelope[Any], codec: Codec) -> int:
    """What an erasure is compared with of what a stage was given in `envelope`."""
    if isinstance(envelope.event, ReplayRequested):
        try:
            envelope = replace(envelope, replays=codec.replayed(envelope))
        except Invalid as problem:
            envelope = codec.undecodable(envelope.message, problem)
    return basis_of(envelope)


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


def _missing(selection: Selection, known: Iterable[str], left_out: Counter[str]) -> None:
    """Count the calls asked for by id that are not there."""
    if missing := set(selection.calls) - set(known):
        named = ", ".join(sorted(missing)[:3]) + (", ..." if len(missing) > 3 else "")
        left_out[f"are not known, or not selected ({named})"] += len(missing)
