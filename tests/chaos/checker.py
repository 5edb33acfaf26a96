"""What must hold when all is quiet, over the log, the objects and the tables.

The log is the truth for what was delivered; of that, everything else follows. Nothing here knows
which faults there were.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, Protocol

from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from schemas import events as e
from schemas.topics import (
    ALERTS,
    DEAD_LETTER,
    ENDED,
    ENRICHED,
    RECORDED,
    RETRY_TIERS,
    TOPICS,
    TRANSCRIBED,
)
from services.assembly import SOURCES
from services.runtime import headers as h
from services.runtime.codec import Codec
from services.runtime.errors import Invalid
from services.runtime.log import LogView, Message
from services.runtime.log import TopicPartition as LogPartition
from services.runtime.objects import MissingObject, Objects
from services.runtime.stage import Envelope
from services.sink.handler import Identity, identity_of
from services.sink.rows import TABLES, About, abouts, columns_of
from services.sink.warehouse import Result
from tests.chaos.calls import Call

RETRIES = tuple(tier.topic for tier in RETRY_TIERS)
_BATCH = 500
# Where an event's rows are counted; of the others, each row is named.
_COUNTED = tuple(
    table
    for table, columns in TABLES.items()
    if table not in ("events", "stage_states", "renewals") and "event_id" in columns
)
_STATE = ("tenant_id", "call_id", "stage", "input_id", "state", "generation", "attempt")

Wrong = Literal["lost", "duplicate", "torn", "unexpected"]


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong, where, with which call, and how one sees it."""

    wrong: Wrong
    where: str
    call: str
    detail: str

    def __str__(self) -> str:
        return f"{self.wrong.upper()} in {self.where}: {self.call}: {self.detail}"


class Asked(Protocol):
    """What is needed of a warehouse."""

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Result: ...


@dataclass(slots=True)
class Found:
    """What the topics hold, as far as it is compared with something."""

    messages: Counter[str] = field(default_factory=Counter)
    """By topic."""
    ids: defaultdict[str, Counter[tuple[bytes, str]]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    """topic -> (key, id) -> how often. Of what is no event, the id is its bytes' hash."""
    causes: defaultdict[str, Counter[tuple[bytes, str]]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    """topic -> (key, id of what caused it) -> how often."""
    promised: Counter[tuple[bytes, str]] = field(default_factory=Counter)
    """(key, id of the transcript) -> alerts that its enrichments speak of."""
    letters: defaultdict[bytes, list[tuple[str, str]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """key -> (stage, reason) of each dead letter."""
    attempts: defaultdict[bytes, Counter[tuple[str, int]]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    """key -> (stage, attempt) of each retry."""
    objects: dict[str, str] = field(default_factory=dict)
    """object key -> sha256, as events say."""
    archive: defaultdict[Identity, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Each different event, and the hashes of the bytes it came with."""
    rows: dict[str, Counter[str]] = field(
        default_factory=lambda: {table: Counter() for table in _COUNTED}
    )
    """table -> event id -> rows."""
    states: set[tuple[Any, ...]] = field(default_factory=set)
    call_of: dict[str, str] = field(default_factory=dict)
    """event id -> tenant/call."""

    @property
    def headlines(self) -> dict[tuple[str, str], dict[str, int]]:
        """(headline, event id) -> rows of each table below it; as the reader remembers them."""
        below = {
            "calls_transcribed": ("segments",),
            "calls_enriched": (
                "metrics", "moments", "sentiments", "course", "findings", "criteria",
                "summary_sentences",
            ),
        }  # fmt: skip
        return {
            (headline, event): {table: self.rows[table][event] for table in tables}
            for headline, tables in below.items()
            for event in self.rows[headline]
        }


def read(view: LogView, codec: Codec) -> Found:
    """Everything on every topic; only committed messages are seen."""
    found = Found()
    for topic in TOPICS:
        for batch in _batches(view.scan(topic.name)):
            fresh: list[About] = []
            for message in batch:
                envelope = _envelope(codec, message)
                _note(found, message, envelope)
                for it in abouts(envelope):
                    identity = identity_of(it)
                    if identity not in found.archive:
                        fresh.append(it)
                    found.archive[identity].add(_hash(message.value))
                    found.call_of[it.id] = f"{it.tenant}/{it.call}"
            _expect_rows(found, fresh)
    return found


def _batches(messages: Iterator[Message]) -> Iterator[list[Message]]:
    while batch := list(islice(messages, _BATCH)):
        yield batch


def _envelope(codec: Codec, message: Message) -> Envelope[Any]:
    try:
        return codec.decode(message)
    except Invalid as problem:
        return codec.undecodable(message, problem)


def _hash(value: bytes | None) -> str:
    return hashlib.sha256(value or b"").hexdigest()


def _note(found: Found, message: Message, envelope: Envelope[Any]) -> None:
    topic, key = message.topic, message.key or b""
    found.messages[topic] += 1
    if topic == DEAD_LETTER:
        reason = message.header(h.DEAD_REASON) or ""
        found.letters[key].append((message.header(h.ERROR_STAGE) or "", reason))
        return
    if topic in RETRIES:
        attempt = int(message.header(h.RETRY_ATTEMPT) or 0)
        found.attempts[key][message.header(h.RETRY_STAGE) or "", attempt] += 1
        return
    found.ids[topic][key, message.header(h.ID) or _hash(message.value)] += 1
    found.causes[topic][key, message.header(h.CAUSATION_ID) or ""] += 1
    match envelope.event:
        case e.CallRecorded() as event:
            found.objects |= {each.object_key: each.sha256 for each in event.recordings}
        case e.CallEnriched() as event:
            found.promised[key, envelope.causation_id or ""] += len(event.alerts)


def _expect_rows(found: Found, events: Sequence[About]) -> None:
    made = columns_of(events)
    for table in _COUNTED:
        if table in made:
            found.rows[table].update(made[table][TABLES[table].index("event_id")])
    if "stage_states" in made:
        places = [TABLES["stage_states"].index(name) for name in _STATE]
        found.states |= set(zip(*(made["stage_states"][at] for at in places), strict=True))


def check_log(found: Found, calls: Iterable[Call]) -> list[Violation]:
    """Each call exactly as often on every topic as it was delivered, and nothing else."""
    wrong: list[Violation] = []

    def say(what: Wrong, topic: str, key: bytes, detail: str) -> None:
        wrong.append(Violation(what, topic, key.decode("utf-8", "replace"), detail))

    def same(topic: str, has: Counter[tuple[bytes, str]], due: Counter[tuple[bytes, str]]) -> None:
        for named in has.keys() | due.keys():
            if has[named] != due[named]:
                what: Wrong = "lost" if has[named] < due[named] else "duplicate"
                say(what, topic, named[0], f"{has[named]} instead of {due[named]} of {named[1]}")

    delivered: Counter[tuple[bytes, str]] = Counter()
    effective: Counter[tuple[bytes, str]] = Counter()
    keys = set()
    for call in calls:
        keys.add(call.key)
        for _, record in call.deliveries:
            id = next((v.decode() for n, v in record.headers if n == h.ID), _hash(record.value))
            delivered[call.key, id] += 1
        expected = call.expected
        if expected.recorded == 1 and expected.ended == 2:  # of two, one had a recording
            effective[call.key, f"{call.call_id}-again"] += 1
        elif expected.recorded:
            for _, record in call.deliveries:
                id = next(v.decode() for n, v in record.headers if n == h.ID)
                effective[call.key, id] += 1
        letters = found.letters.get(call.key, [])
        due = [("ingest", expected.dead_reason)] if expected.dead_reason else []
        if letters != due:
            what: Wrong = "lost" if not letters else "duplicate" if due else "unexpected"
            say(what, DEAD_LETTER, call.key, f"{letters} instead of {due}")
        attempts = found.attempts.get(call.key, Counter())
        numbers = sorted(attempts.elements())
        if expected.waits not in (None, bool(numbers)):
            say("lost" if expected.waits else "unexpected", "retry tiers", call.key, f"{numbers}")
        elif numbers != [("ingest", number) for number in range(1, len(numbers) + 1)]:
            say("duplicate", "retry tiers", call.key, f"{numbers} are not one after the other")
    same(ENDED, found.ids[ENDED], delivered)
    same(RECORDED, found.causes[RECORDED], effective)
    same(TRANSCRIBED, found.causes[TRANSCRIBED], found.ids[RECORDED])
    same(ENRICHED, found.causes[ENRICHED], found.ids[TRANSCRIBED])
    same(ALERTS, found.causes[ALERTS], +found.promised)
    for topic in (RECORDED, TRANSCRIBED, ENRICHED):
        distinct = Counter(key for key, _ in found.ids[topic])
        for call in calls:
            if distinct[call.key] != call.expected.recorded:
                what = "lost" if distinct[call.key] < call.expected.recorded else "duplicate"
                say(what, topic, call.key, f"{distinct[call.key]} different events instead of "
                    f"{call.expected.recorded}")  # fmt: skip
    for key in (found.letters.keys() | found.attempts.keys()) - keys:
        say("unexpected", DEAD_LETTER, key, "nobody published that call")
    return wrong


def check_objects(found: Found, objects: Objects) -> list[Violation]:
    """Every object that an event names is there, and every recording is what its name says."""
    wrong = []
    for key in sorted(found.objects.keys() | set(objects.keys("audio/"))):
        try:
            digest = hashlib.sha256(objects.get(key)).hexdigest()
        except MissingObject:
            wrong.append(Violation("lost", "objects", key, "an event names it, it is not there"))
            continue
        for says, named in (
            ("its name", key.rpartition("/")[2]),
            ("events", found.objects.get(key)),
        ):
            if named is not None and named != digest:
                wrong.append(Violation("torn", "objects", key, f"sha256 {digest}, {says}: {named}"))
    return wrong


def check_tables(found: Found, warehouse: Asked, calls: Iterable[Call]) -> list[Violation]:
    """The archive has every event once, every table the rows of every event and no others."""
    return [
        *_check_archive(found, warehouse),
        *(each for table in _COUNTED for each in _check_rows(found, warehouse, table)),
        *_check_states(found, warehouse),
        *_check_view(warehouse, calls),
    ]


def _check_archive(found: Found, warehouse: Asked) -> Iterator[Violation]:
    seen: Counter[Identity] = Counter()
    for topic in TOPICS:
        rows = warehouse.query(
            "SELECT topic, event_id, tenant_id, call_id, generation, revision, place, "
            "lower(hex(SHA256(ifNull(value, '')))) FROM events FINAL "
            "WHERE topic = {topic:String}",
            {"topic": topic.name},
        ).rows
        for *named, digest in rows:
            identity = Identity(*named)
            seen[identity] += 1
            where = f"events of {topic.name}"
            call = f"{identity.tenant}/{identity.call}"
            if identity not in found.archive:
                yield Violation("unexpected", where, call, f"{identity.event_id} is on no topic")
            elif digest not in found.archive[identity]:
                yield Violation("torn", where, call, f"{identity.event_id} has other bytes")
            if seen[identity] == 2:
                yield Violation("duplicate", where, call, f"{identity.event_id}")
    for identity in found.archive:
        if identity not in seen:
            call = f"{identity.tenant}/{identity.call}"
            yield Violation("lost", f"events of {identity.topic}", call, identity.event_id)


def _check_rows(found: Found, warehouse: Asked, table: str) -> Iterator[Violation]:
    due = found.rows[table]
    rows = warehouse.query(f"SELECT event_id, count() FROM {table} FINAL GROUP BY event_id").rows
    has = {event: int(count) for event, count in rows}
    for event in due.keys() | has.keys():
        count, wanted = has.get(event, 0), due[event]
        if count == wanted:
            continue
        what: Wrong = "lost" if not count else "duplicate" if count > wanted else "torn"
        what = "unexpected" if not wanted else what
        call = found.call_of.get(event, event)
        yield Violation(what, table, call, f"{count} rows instead of {wanted} of {event}")


def _check_states(found: Found, warehouse: Asked) -> Iterator[Violation]:
    rows = warehouse.query(f"SELECT {', '.join(_STATE)} FROM stage_states FINAL").rows
    has = Counter(tuple(row) for row in rows)
    for state in found.states - has.keys():
        yield Violation("lost", "stage_states", f"{state[0]}/{state[1]}", f"{state[2:]}")
    for state, count in has.items():
        call = f"{state[0]}/{state[1]}"
        if state not in found.states:
            yield Violation("unexpected", "stage_states", call, f"{state[2:]}")
        elif count > 1:
            yield Violation("duplicate", "stage_states", call, f"{count} times {state[2:]}")


def _check_view(warehouse: Asked, calls: Iterable[Call]) -> Iterator[Violation]:
    rows = warehouse.query("SELECT tenant_id, call_id, state FROM calls").rows
    shown: defaultdict[str, list[str]] = defaultdict(list)
    for tenant, call_id, state in rows:
        shown[f"{tenant}/{call_id}"].append(state)
    for call in calls:
        named = call.key.decode()
        states = shown.pop(named, [])
        due = [call.expected.state] if call.expected.state else []
        if states != due:
            what: Wrong = "lost" if not states else "duplicate" if len(states) > 1 else "unexpected"
            yield Violation(what, "the view calls", named, f"{states} instead of {due}")
    for named, states in shown.items():
        yield Violation("unexpected", "the view calls", named, f"{states}; nobody published it")


def check_offsets(view: LogView, group_of: Mapping[str, str]) -> list[Violation]:
    """Every stage has committed all there is; `group_of` names the group of each."""
    wrong = []
    committed = {stage: view.committed(group) for stage, group in group_of.items()}
    for topic in {topic.name for topic in TOPICS}:
        readers = [s for s in group_of if topic in SOURCES[s] or topic in RETRIES]
        if not readers:
            continue
        start = {
            number: min(committed[s].get(LogPartition(topic, number), 0) for s in readers)
            for number in range(view.partitions()[topic])
        }
        for message in view.scan(topic, start):
            key = (message.key or b"").decode("utf-8", "replace")
            where = f"{topic}[{message.partition}]@{message.offset}"
            wrong += [
                Violation("lost", f"the offsets of {stage}", key, where)
                for stage in readers
                if message.offset >= committed[stage].get(message.source, 0)
            ]
    return wrong


def check_transactions(bootstrap: str) -> list[Violation]:
    """No transaction is open: what is committed reaches as far as what is written."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2})
    parts = [
        TopicPartition(name, number)
        for name, topic in admin.list_topics(timeout=20).topics.items()
        if not name.startswith("__")
        for number in topic.partitions
    ]

    def ends(isolation: IsolationLevel) -> dict[tuple[str, int], int]:
        latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = dict.fromkeys(parts, latest)
        answers = admin.list_offsets(asked, isolation_level=isolation, request_timeout=20)
        return {(p.topic, p.partition): f.result().offset for p, f in answers.items()}

    written = ends(IsolationLevel.READ_UNCOMMITTED)
    stable = ends(IsolationLevel.READ_COMMITTED)
    return [
        Violation("unexpected", f"{topic}[{number}]", "", f"open since {stable[topic, number]}")
        for (topic, number), end in written.items()
        if stable[topic, number] < end
    ]
