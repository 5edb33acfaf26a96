"""What `callstream status` shows: each stage, what waits and why, what needs a person.

Every part is asked in a thread of its own and for a limited time: what is down is said to be down,
and the others are shown all the same.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Generic, TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from schemas.topics import REPLAY, RETRY_TIERS
from services.assembly import Parts
from services.loopback import asking, health_url, readiness, rows_of
from services.runtime import headers as h
from services.runtime.errors import Transient
from services.runtime.log import LogView, TopicPartition
from services.runtime.process import whole_number
from services.settings import Settings
from services.watch import Lags, Letters

T = TypeVar("T")

_LIMIT_S = 10.0
_HEALTH_LIMIT_S = 3.0
# Messages of one retry tier that are looked at; what is beyond is said to be more.
_MOST_WAITING = 50_000
_MOST_ROWS = 12
_LONGEST_WHY = 300
_NOT_RUNNING = "not running; start `callstream up`"
_UNASKED = "not asked: CALLSTREAM_STATUS__URLS does not name it"
_TIERS = tuple(tier.topic for tier in RETRY_TIERS)

_WAITING = f"""
SELECT stage, state, reason, count() AS calls, toUnixTimestamp64Milli(min(since)) AS since_ms,
    argMin(concat(tenant_id, '/', call_id), since) AS oldest, argMin(detail, since) AS why
FROM call_states WHERE state IN ('waiting', 'refused', 'failed')
GROUP BY stage, state, reason ORDER BY calls DESC, stage, reason LIMIT {_MOST_ROWS}
"""
_REPLAYS = f"""
SELECT tenant_id AS tenant, generation, stage, uniqExact(call_id) AS asked,
    uniqExactIf(call_id, state = 'done') AS done,
    uniqExactIf(call_id, state IN ('failed', 'refused', 'dropped')) AS failed,
    uniqExactIf(call_id, state = 'waiting') AS waiting,
    anyIf(concat(reason, ': ', detail), state = 'waiting') AS why,
    toUnixTimestamp64Milli(min(requested_at)) AS since_ms, max(shadow) AS shadow
FROM
(
    SELECT tenant_id, call_id, stage, generation, requested_at, shadow FROM replays FINAL
    WHERE requested_at > now() - INTERVAL 7 DAY AND (tenant_id, generation) NOT IN
    (
        SELECT tenant_id, generation FROM generations GROUP BY tenant_id, generation
        HAVING argMax(decision, (decided_at, event_id)) = 'DISCARDED'
    )
) AS asked
LEFT JOIN
(
    SELECT tenant_id, call_id, stage, generation, latest.1 AS state, latest.2 AS reason,
        latest.3 AS detail
    FROM
    (
        SELECT tenant_id, call_id, stage, generation,
            argMax((state, reason, detail), (time, state = 'done')) AS latest
        FROM stage_states WHERE generation > 0 GROUP BY tenant_id, call_id, stage, generation
    )
) AS reached USING (tenant_id, call_id, stage, generation)
GROUP BY tenant, generation, stage HAVING done + failed < asked
ORDER BY since_ms DESC LIMIT {_MOST_ROWS}
"""


@dataclass(slots=True)
class StageStatus:
    """How one stage does. None is what nobody could say."""

    stage: str
    ready: bool | None = None
    why: str = ""
    lag: int | None = None
    """Messages of its topics that it has not finished; waits in retry tiers do not count."""
    replay_lag: int | None = None
    handled_per_s: float | None = None
    arriving_per_s: float | None = None
    drained_in_s: float | None = None
    """Until it has caught up, at this rate; None also where it does not catch up."""
    dead_letters: int | None = None
    oldest_letter_s: float | None = None
    letter_reasons: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Tier:
    """What waits in a retry tier."""

    topic: str
    waiting: dict[str, int]
    """Stage -> calls."""
    next_due_s: float | None
    """Until the first of them is due; negative where it is overdue."""
    more: bool = False


@dataclass(slots=True)
class Status:
    """Everything that is shown at once."""

    at: str
    stages: list[StageStatus]
    tiers: list[Tier]
    waiting: list[dict[str, Any]]
    replays: list[dict[str, Any]]
    down: dict[str, str]
    """Part that did not answer -> why."""
    needs_a_person: list[str]


class _Asked(Generic[T]):
    """A question to a part that may be down. At most one is under way."""

    def __init__(self, question: Callable[[], T]) -> None:
        self._question = question
        self._thread: threading.Thread | None = None
        self._answer: T | None = None
        self._failure: str | None = None

    def begin(self) -> None:
        if not self.under_way:
            self._thread = threading.Thread(target=self._ask, name="status", daemon=True)
            self._thread.start()

    def _ask(self) -> None:
        self._answer = self._failure = None
        try:
            self._answer = self._question()
        except Transient as failure:
            self._failure = failure.detail
        except Exception as error:
            self._failure = f"{type(error).__name__}: {error}".partition("\n")[0]

    @property
    def under_way(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def end(self, deadline: float, limit_s: float) -> tuple[T | None, str | None]:
        """The answer, or why there is none."""
        assert self._thread is not None
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self.under_way:
            return None, f"no answer within {limit_s:g} s"
        return self._answer, self._failure


@dataclass(slots=True)
class _Sample:
    """Offsets of all stages at one moment."""

    at: float
    finished: dict[str, int]
    written: dict[str, int]


@dataclass(slots=True)
class _LogSaid:
    lags: dict[str, dict[str, int]]
    rates: dict[str, tuple[float, float]]
    tiers: list[Tier]
    letters: dict[str, list[tuple[int, str]]]
    """Stage -> (written at, reason) of each dead letter."""


class Looker:
    """Looks at everything the settings name; each look also tells the rates since the last."""

    def __init__(self, settings: Settings, limit_s: float = _LIMIT_S) -> None:
        self._settings, self._limit_s = settings, limit_s
        self._parts = Parts(settings)
        self._view: LogView | None = None
        self._before: _Sample | None = None
        self._log = _Asked(self._ask_log)
        self._warehouse = _Asked(self._ask_warehouse)
        self._health = _Asked(self._ask_health)

    def look(self) -> Status:
        """Everything as it is now; takes no longer than the limit."""
        deadline = time.monotonic() + self._limit_s
        for asked in (self._log, self._warehouse, self._health):
            asked.begin()
        log, log_down = self._log.end(deadline, self._limit_s)
        tables, warehouse_down = self._warehouse.end(deadline, self._limit_s)
        health, health_down = self._health.end(deadline, self._limit_s)
        down = {"log": log_down, "warehouse": warehouse_down, "health": health_down}
        now = datetime.now(UTC)
        stages = [
            _stage(name, (health or {}).get(name, (None, "")), log, now.timestamp())
            for name in self._parts.stages
        ]
        status = Status(
            at=now.isoformat(timespec="seconds"),
            stages=stages,
            tiers=log.tiers if log else [],
            waiting=_aged(tables[0] if tables else [], now.timestamp()),
            replays=_aged(tables[1] if tables else [], now.timestamp()),
            down={part: why for part, why in down.items() if why is not None},
            needs_a_person=[],
        )
        status.needs_a_person = list(_problems(status))
        return status

    @property
    def waits(self) -> bool:
        """Whether a part still owes an answer. The embedded engine that is opened while the
        interpreter ends takes the process down with a segmentation fault.
        """
        return any(each.under_way for each in (self._log, self._warehouse, self._health))

    def close(self) -> None:
        self._parts.close()

    # Each in a thread of its own

    def _ask_health(self) -> dict[str, tuple[bool | None, str]]:
        """Stage -> whether it is ready, and why not; None where nobody knows where to ask."""
        urls = {
            stage: url
            for service, url in self._settings.status.urls.items()
            for stage in self._parts.stages_of(service)
        }
        found: dict[str, tuple[bool | None, str]] = {}
        if self._settings.log.kind == "sqlite" and not urls:
            url = health_url(self._settings.data_dir)
            if url is None:
                return dict.fromkeys(self._parts.stages, (False, _NOT_RUNNING))
            if url == "":
                return dict.fromkeys(self._parts.stages, (None, "runs inside another command"))
            urls = dict.fromkeys(self._parts.stages, url)
        asked = {url: _Asked(partial(readiness, url, _HEALTH_LIMIT_S)) for url in urls.values()}
        for each in asked.values():
            each.begin()
        deadline = time.monotonic() + _HEALTH_LIMIT_S
        for name in self._parts.stages:
            if name not in urls:
                found[name] = None, _UNASKED
                continue
            said, failure = asked[urls[name]].end(deadline, _HEALTH_LIMIT_S)
            if said is None:
                found[name] = False, failure or "no answer"
            elif name not in said:
                found[name] = False, f"{urls[name]} runs {', '.join(said) or 'no stage yet'}"
            else:
                found[name] = said[name] is None, said[name] or ""
        return found

    def _ask_warehouse(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        with asking(self._settings, patience_s=self._limit_s / 2) as asks:
            return rows_of(asks, _WAITING), rows_of(asks, _REPLAYS)

    def _ask_log(self) -> _LogSaid:
        if self._view is None:
            self._view = self._parts.view
            self._lags, self._letters = Lags(self._view), Letters(self._view)
        view, group, stages = self._view, self._parts.group, self._parts.stages
        if self._before is None:
            self._before = self._sample(view)
            time.sleep(min(2.0, self._limit_s / 4))
        sample = self._sample(view)
        elapsed_s = max(sample.at - self._before.at, 1e-6)
        rates = {
            name: (
                (sample.finished[name] - self._before.finished[name]) / elapsed_s,
                (sample.written[name] - self._before.written[name]) / elapsed_s,
            )
            for name in stages
        }
        self._before = sample
        letters: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for letter in self._letters.unsettled():
            letters[letter.stage].append((letter.at_ms, letter.reason))
        return _LogSaid(
            {
                name: self._lags.of(group(name), (*_live(self._parts.sources(name)), REPLAY))
                for name in stages
            },
            rates,
            list(_tiers(view, {name: view.committed(group(name)) for name in stages})),
            letters,
        )

    def _sample(self, view: LogView) -> _Sample:
        have = view.partitions()
        live = {name: _live(self._parts.sources(name)) for name in self._parts.stages}
        topics = {topic for topics in live.values() for topic in topics if topic in have}
        ends = {topic: view.ends(topic) for topic in topics}
        finished, written = {}, {}
        for name in self._parts.stages:
            read = view.committed(self._parts.group(name))
            places = [
                (read.get(TopicPartition(topic, part), first), end)
                for topic in topics.intersection(live[name])
                for part, (first, end) in ends[topic].items()
            ]
            finished[name] = sum(at for at, _ in places)
            written[name] = sum(end for _, end in places)
        return _Sample(time.monotonic(), finished, written)


def _live(sources: Iterable[str]) -> tuple[str, ...]:
    """Those whose lag is that of a stage."""
    return tuple(topic for topic in sources if topic not in (*_TIERS, REPLAY))


def _tiers(view: LogView, read: Mapping[str, Mapping[TopicPartition, int]]) -> Iterator[Tier]:
    """What each tier holds that its stage has not taken back."""
    have = view.partitions()
    for topic in _TIERS:
        waiting: Counter[str] = Counter()
        due: list[int] = []
        start = {
            part: min(at.get(TopicPartition(topic, part), 0) for at in read.values())
            for part in range(have.get(topic, 0))
        }
        looked = 0
        for message in view.scan(topic, start) if start else ():
            stage = message.header(h.RETRY_STAGE) or ""
            if message.offset >= read.get(stage, {}).get(message.source, 0):
                waiting[stage] += 1
                due.append(whole_number(message, h.RETRY_DUE_MS) or 0)
            looked += 1
            if looked >= _MOST_WAITING:
                break
        next_s = min(due) / 1000 - time.time() if due else None
        yield Tier(topic, dict(waiting), next_s, looked >= _MOST_WAITING)


def _stage(
    name: str, health: tuple[bool | None, str], log: _LogSaid | None, now_s: float
) -> StageStatus:
    status = StageStatus(name, *health)
    if log is None:
        return status
    lags = log.lags[name]
    status.lag = sum(lags[topic] for topic in _live(lags))
    status.replay_lag = lags.get(REPLAY, 0)
    status.handled_per_s, status.arriving_per_s = log.rates[name]
    gain = status.handled_per_s - status.arriving_per_s
    if status.lag == 0:
        status.drained_in_s = 0.0
    elif gain > 0:
        status.drained_in_s = status.lag / gain
    letters = log.letters.get(name, [])
    status.dead_letters = len(letters)
    if letters:
        status.oldest_letter_s = now_s - min(at_ms for at_ms, _ in letters) / 1000
        status.letter_reasons = dict(Counter(reason for _, reason in letters).most_common(3))
    return status


def _aged(rows: list[dict[str, Any]], now_s: float) -> list[dict[str, Any]]:
    """Rows with their age in the place of the moment; whole numbers come as text."""
    aged = []
    for row in rows:
        since_ms = int(row.pop("since_ms"))
        whole = {"calls", "generation", "asked", "done", "failed", "waiting"}
        aged.append(
            {key: int(value) if key in whole else value for key, value in row.items()}
            | {"age_s": round(now_s - since_ms / 1000)}
        )
    return aged


def _waits(status: Status) -> bool:
    """Whether anything is there that a running suite would take up."""
    lags = (lag for stage in status.stages for lag in (stage.lag, stage.replay_lag))
    return any(lags) or any(tier.waiting for tier in status.tiers)


def _problems(status: Status) -> Iterator[str]:
    """What does not mend itself."""
    for part, why in status.down.items():
        yield f"{part}: {why}"
    unready: dict[str, list[str]] = defaultdict(list)
    for stage in status.stages:
        if stage.ready is False and (stage.why != _NOT_RUNNING or _waits(status)):
            unready[stage.why].append(stage.stage)
    for why, names in unready.items():
        yield f"not ready: {', '.join(names)}: {why}"
    unasked = [stage for stage in status.stages if stage.why == _UNASKED]
    if unasked:
        example = json.dumps({unasked[0].stage: "http://HOST:PORT"})
        yield (
            f"not asked: {', '.join(each.stage for each in unasked)}: say where each serves its "
            f"health, as CALLSTREAM_STATUS__URLS='{example}'"
        )
    for stage in unasked:
        if stage.lag and not stage.handled_per_s:
            yield f"{stage.stage}: {stage.lag} wait, and nobody was seen to handle them"
    for stage in status.stages:
        if stage.dead_letters:
            letters = f"dead letters: {stage.dead_letters}"
            yield f"{stage.stage}: {letters}; see `callstream dead-letters list`"


# Shown


def as_json(status: Status) -> str:
    """One line."""
    return json.dumps(asdict(status), ensure_ascii=False)


def as_screen(status: Status) -> RenderableType:
    """Tables for a terminal."""
    parts: list[RenderableType] = [_stages_table(status)]
    if any(tier.waiting for tier in status.tiers):
        table = Table("retry tier", "waiting", "next due")
        for tier in status.tiers:
            if tier.waiting:
                counts = ", ".join(f"{stage} {count}" for stage, count in tier.waiting.items())
                table.add_row(tier.topic, counts + (" and more" if tier.more else ""),
                              _duration(tier.next_due_s))  # fmt: skip
        parts.append(table)
    if status.waiting:
        table = Table("stage", "state", "reason", "calls", "oldest", "which")
        for row in status.waiting:
            table.add_row(row["stage"], row["state"], row["reason"], str(row["calls"]),
                          _duration(row["age_s"]), row["oldest"])  # fmt: skip
        parts.append(table)
        parts += [_said(f"{row['stage']}: {row['reason']}", row) for row in status.waiting]
    if status.replays:
        table = Table("replay", "tenant", "stage", "done", "failed", "waiting", "of", "since", "")
        for row in status.replays:
            table.add_row(str(row["generation"]), row["tenant"], row["stage"], str(row["done"]),
                          str(row["failed"]), str(row["waiting"]), str(row["asked"]),
                          _duration(row["age_s"]), "shadow" if row["shadow"] else "")  # fmt: skip
        parts.append(table)
        parts += [
            _said(f"replay {row['generation']}: waiting", row)
            for row in status.replays
            if row["waiting"]
        ]
    if status.needs_a_person:
        parts.append(Text("needs a person", style="red"))
        parts += [Text(f"  {problem}") for problem in status.needs_a_person]
    else:
        parts.append(Text("nothing needs a person", style="green"))
    if all(stage.why == _NOT_RUNNING for stage in status.stages):
        parts.append(Text("nothing runs on this data folder; `callstream up` starts all stages"))
    return Group(*parts)


def _said(what: str, row: Mapping[str, Any]) -> Text:
    """Why, at length."""
    return Text(f"  {what}: {row['why'][:_LONGEST_WHY]}")


def _stages_table(status: Status) -> Table:
    table = Table("stage", "", "lag", "handled/s", "arriving/s", "drained in", "replays",
                  "dead letters", title=status.at, title_justify="left")  # fmt: skip
    for stage in status.stages:
        word, colour = {
            True: ("ready", "green"),
            False: ("not ready", "red"),
            None: ("?", "yellow"),
        }[stage.ready]
        stopped = stage.why == _NOT_RUNNING
        state = Text("not running", style="yellow") if stopped else Text(word, style=colour)
        if stage.why and not stopped:
            state.append(f"\n{stage.why}", style="default")
        letters = _number(stage.dead_letters)
        if stage.dead_letters:
            reasons = ", ".join(f"{why} {count}" for why, count in stage.letter_reasons.items())
            letters += f", oldest {_duration(stage.oldest_letter_s)}\n{reasons}"
        drained = _duration(stage.drained_in_s)
        if stage.lag and stage.drained_in_s is None:
            drained = "not catching up"
        table.add_row(
            Text(stage.stage), state, _number(stage.lag), _rate(stage.handled_per_s),
            _rate(stage.arriving_per_s), drained, _number(stage.replay_lag), Text(letters),
        )  # fmt: skip
    return table


def _number(count: int | None) -> str:
    return "?" if count is None else str(count)


def _rate(per_s: float | None) -> str:
    return "?" if per_s is None else f"{per_s:.1f}"


def _duration(seconds: float | None) -> str:
    """At most two units, as 3 d 4 h."""
    if seconds is None:
        return "?"
    if seconds < 0:
        return f"{_duration(-seconds)} ago"
    left, parts = round(seconds), []
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        if left >= length:
            parts.append(f"{left // length} {unit}")
            left %= length
    return " ".join(parts[:2]) or "0 s"
