"""How far a replay is, by what log and warehouse say; what carries it on; what it will take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.loopback import Asks, rows_of
from services.replay.inputs import Input, ordered, portions
from services.replay.plans import Plan, publish, published, request_id
from services.replay.selection import Found
from services.runtime.codec import Codec
from services.runtime.log import Log, LogView
from services.runtime.process import way_id
from services.runtime.stage import event_id

AHEAD = 200
"""Most requests published and not yet through."""
FAILURES = 20
"""So many failures in a row, with nothing done in between, stop a replay."""

# Stage -> the stages that its outcome goes through, itself first.
_CHAIN: Mapping[str, tuple[str, ...]] = {
    "ingest": ("ingest", "transcribe", "enrich"),
    "transcribe": ("transcribe", "enrich"),
    "enrich": ("enrich",),
    "sink": ("sink",),
}
# Most requests of one commit.
_BATCH = 50


# What has become of its inputs


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
    if asks is None:
        return found
    for part in portions(inputs):
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
    rows = rows_of(
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
        # What refuses a message begins with its reason.
        more = row["more"].removeprefix(f"{row['why']}: ")
        why = ": ".join(part for part in (row["stage"], row["why"], more) if part)
        outcome = Outcome(state, "" if state == "done" else why, int(row["at"]))
        found.setdefault(row["call_id"], {})[row["stage"], row["input_id"]] = outcome
    return found


def _recorded(plan: Plan, calls: Sequence[str], asks: Asks) -> dict[str, tuple[str, ...]]:
    """call -> ids of the CallRecorded that this replay of ingest has made."""
    rows = rows_of(
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
            # What fails or waits is the request, the replay's own or the one that gave way.
            asked = (
                [request_id(plan, each)]
                if number == 0
                else [way_id(stage, id, plan.generation) for id in ids]
            )
            told += [states[stage, id] for id in asked if (stage, id) in states]
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
    return looked(plan, asks)[0]


def looked(plan: Plan, asks: Asks) -> tuple[Tally, Counter[str]]:
    """How far the replay is, and why what failed or waits does so -> how many inputs."""
    counted = Tally(len(plan.inputs))
    why: Counter[str] = Counter()
    for outcome in outcomes(plan, plan.inputs, asks).values():
        _add(counted, outcome)
        if outcome.state in ("waiting", "failed"):
            why[f"{outcome.state}: {outcome.reason}"] += 1
    return counted, why


def under_way(plan: Plan, view: LogView, asks: Asks) -> int:
    """How many inputs were asked for and are not through, waits included."""
    there = published(plan, view)
    known = outcomes(plan, plan.inputs, asks)
    return sum(
        request_id(plan, each) in there
        for each in plan.inputs
        if each not in known or not known[each].over
    )


def _add(counted: Tally, outcome: Outcome) -> None:
    setattr(counted, outcome.state, getattr(counted, outcome.state) + 1)


# What carries it on


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
        self.reasons: Counter[str] = Counter()
        """Why what failed has failed."""
        self.waits: Counter[str] = Counter()
        """Why what waits does so, as of the latest look."""
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
            self.reasons[outcome.reason] += 1
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
        self.waits = Counter(known[each].reason for each in self._waiting)
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
            batch = [self._todo.pop() for _ in range(min(room, _BATCH, len(self._todo)))]
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
    for part in portions(ordered(inputs)):
        rows = rows_of(
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
    rows = rows_of(
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
