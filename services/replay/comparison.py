"""What a shadow generation says against what readers see: per call and in sum."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from services.loopback import Asks, rows_of
from services.replay.plans import Plan

_CHUNK = 100
# An alert more or less outweighs whatever a scorecard has.
_ALERT = 10_000.0
# Scripts that are written without spaces: every character counts as a word.
_WIDE = re.compile("([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")
_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


@dataclass(frozen=True, slots=True)
class Pair:
    """A value now, and in the shadow; None where there is none."""

    now: Any
    shadow: Any

    @property
    def moved(self) -> float | None:
        """How far a number moved; None where one of the two is missing."""
        if self.now is None or self.shadow is None:
            return None
        return float(self.shadow) - float(self.now)


@dataclass(frozen=True, slots=True)
class Labels:
    """What the shadow has and readers do not see, and the other way round."""

    gained: list[str]
    lost: list[str]


@dataclass(frozen=True, slots=True)
class Difference:
    """One call. `numbers`, `texts` and `labels` hold only what the stage can have changed."""

    call: str
    words_changed: int | None
    """Words (of Chinese and Japanese, characters) that were put in, left out or replaced."""
    words: Pair
    numbers: dict[str, Pair] = field(default_factory=dict)
    texts: dict[str, Pair] = field(default_factory=dict)
    labels: dict[str, Labels] = field(default_factory=dict)
    made_by: Pair = Pair(None, None)
    """The engine and its model, or the rules. What made a result is no change of it."""

    @property
    def weight(self) -> float:
        """How much changed, for an order in which to look."""
        moved = [abs(pair.moved or 0.0) for pair in self.numbers.values()]
        weight: float = (
            sum(
                (_ALERT if name == "alerts" else 100.0) * (len(each.gained) + len(each.lost))
                for name, each in self.labels.items()
            )
            + 100.0 * sum(pair.now != pair.shadow for pair in self.texts.values())
            + sum(moved)
            + (self.words_changed or 0)
        )
        return weight


@dataclass(frozen=True, slots=True)
class Comparison:
    """All calls that have both, the most changed first, and how many have not."""

    differences: list[Difference]
    only_now: int
    """Calls of the replay that have no result of it yet, or none at all."""
    only_shadow: int
    """Calls that had nothing before."""
    not_enriched: int
    """Of those compared, calls whose findings cannot be: the shadow's transcript has none."""

    def summed(self) -> dict[str, Any]:
        """The differences in sum: counts, shares and means."""
        compared = self.differences
        total: dict[str, Any] = {
            "calls compared": len(compared),
            "calls changed": sum(each.weight > 0 for each in compared),
            "calls without a shadow": self.only_now,
            "calls new in the shadow": self.only_shadow,
        }
        if self.not_enriched:
            total["calls without findings in the shadow"] = self.not_enriched
        makers = [each.made_by for each in compared if each.made_by != Pair(None, None)]
        if makers:
            total["made now by"] = _counted(pair.now for pair in makers)
            total["made in the shadow by"] = _counted(pair.shadow for pair in makers)
        spoken = [each for each in compared if each.words_changed is not None]
        if spoken:
            before = sum(each.words.now or 0 for each in spoken)
            changed = sum(each.words_changed or 0 for each in spoken)
            total["words now"] = before
            total["words in the shadow"] = sum(each.words.shadow or 0 for each in spoken)
            total["words changed"] = changed
            total["share of words changed"] = round(changed / before, 4) if before else None
        for name in dict.fromkeys(name for each in compared for name in each.numbers):
            pairs = [each.numbers[name] for each in compared if name in each.numbers]
            moves = [m for pair in pairs if (m := pair.moved) is not None]
            moves = [move for move in moves if abs(move) > 1e-9]
            total[f"{name} moved in calls"] = len(moves)
            total[f"{name} moved by, mean"] = round(sum(moves) / len(moves), 4) if moves else None
            largest = max((abs(move) for move in moves), default=None)
            total[f"{name} moved by, most"] = None if largest is None else round(largest, 4)
        for name in dict.fromkeys(name for each in compared for name in each.texts):
            pairs = [each.texts[name] for each in compared if name in each.texts]
            total[f"{name} changed in calls"] = sum(it.now != it.shadow for it in pairs)
        for name in dict.fromkeys(name for each in compared for name in each.labels):
            of_it = [each.labels[name] for each in compared if name in each.labels]
            total[f"{name} gained"] = _counted(label for it in of_it for label in it.gained)
            total[f"{name} lost"] = _counted(label for it in of_it for label in it.lost)
        return total


def _counted(names: Iterable[str | None]) -> dict[str, int]:
    """How often each comes, the most frequent first."""
    return dict(Counter("none" if name is None else name for name in names).most_common())


def compare(plan: Plan, asks: Asks) -> Comparison:
    """The shadow generation of `plan` against the current version of each of its calls."""
    differences: list[Difference] = []
    only_now = only_shadow = not_enriched = 0
    calls = sorted({each.call for each in plan.inputs})
    heard = plan.stage in ("ingest", "transcribe")
    for start in range(0, len(calls), _CHUNK):
        part = calls[start : start + _CHUNK]
        said = _transcripts(plan, part, asks) if heard else {}
        found = _enrichments(plan, part, asks)
        stored = _recordings(plan, part, asks) if plan.stage == "ingest" else {}
        for call in part:
            mine = [kind.get(call, {}) for kind in (said, found, stored)]
            if not any("shadow" in each for each in mine):
                only_now += 1
            elif not any("now" in each for each in mine):
                only_shadow += 1
            else:
                differences.append(_difference(call, *mine))
                not_enriched += "now" in mine[1] and "shadow" not in mine[1]
    differences.sort(key=lambda each: (-each.weight, each.call))
    return Comparison(differences, only_now, only_shadow, not_enriched)


_Both = dict[str, dict[str, dict[str, Any]]]
"""call -> "now" and "shadow" -> column -> value."""


def _both(
    plan: Plan, calls: Sequence[str], asks: Asks, table: str, current: str, columns: str
) -> _Both:
    found: _Both = {}
    own = (
        f"SELECT * FROM {table} FINAL WHERE tenant_id = {{tenant:String}} AND call_id IN"
        " {calls:Array(String)} AND generation = {generation:Int64}"
        " ORDER BY revision DESC, time DESC LIMIT 1 BY call_id"
    )
    now = (
        f"SELECT * FROM {current} WHERE tenant_id = {{tenant:String}} AND call_id IN"
        " {calls:Array(String)} AND generation != {generation:Int64}"
    )
    for side, query in (("now", now), ("shadow", own)):
        for row in _told(plan, calls, asks, f"SELECT call_id, event_id, {columns} FROM ({query})"):
            found.setdefault(row["call_id"], {})[side] = row
    return found


def _told(
    plan: Plan, calls: Sequence[str], asks: Asks, sql: str, **more: Any
) -> list[dict[str, Any]]:
    parameters = {"tenant": plan.tenant, "calls": list(calls), "generation": plan.generation}
    return rows_of(asks, sql, {**parameters, **more})


def _transcripts(plan: Plan, calls: Sequence[str], asks: Asks) -> _Both:
    both = _both(
        plan, calls, asks, "calls_transcribed", "current_transcribed",
        "language, engine, model, segments, degradations",
    )  # fmt: skip
    ids = sorted({row["event_id"] for sides in both.values() for row in sides.values()})
    spoken = _told(
        plan, calls, asks,
        "SELECT call_id, event_id, channel, recording_id,"
        " arrayStringConcat(groupArray(text), ' ') AS text FROM"
        " (SELECT * FROM segments FINAL WHERE tenant_id = {tenant:String} AND call_id IN"
        " {calls:Array(String)} AND event_id IN {ids:Array(String)}"
        " ORDER BY call_id, event_id, segment_id)"
        " GROUP BY call_id, event_id, recording_id, channel",
        ids=ids,
    )  # fmt: skip
    texts: dict[tuple[str, str], dict[tuple[str, int], str]] = {}
    for row in spoken:
        channels = texts.setdefault((row["call_id"], row["event_id"]), {})
        channels[row["recording_id"], int(row["channel"])] = row["text"]
    for call, sides in both.items():
        for row in sides.values():
            row["spoken"] = texts.get((call, row["event_id"]), {})
    return both


def _enrichments(plan: Plan, calls: Sequence[str], asks: Asks) -> _Both:
    both = _both(
        plan, calls, asks, "calls_enriched", "current_enriched",
        "rules_version, score, customer_sentiment, agent_sentiment, topics, emotions, alerts,"
        " summary",
    )  # fmt: skip
    ids = sorted({row["event_id"] for sides in both.values() for row in sides.values()})
    of_them = (
        "FINAL WHERE tenant_id = {tenant:String} AND call_id IN {calls:Array(String)}"
        " AND event_id IN {ids:Array(String)}"
    )
    tags: dict[str, set[str]] = {}
    tagged = f"SELECT event_id, label FROM findings {of_them} AND kind = 'RULE'"
    for row in _told(plan, calls, asks, tagged, ids=ids):
        tags.setdefault(row["event_id"], set()).add(row["label"])
    verdicts: dict[str, dict[str, str]] = {}
    judged = (
        "SELECT event_id, criterion_id, replaceAll(lower(verdict), '_', ' ') AS said FROM criteria"
        f" {of_them} ORDER BY event_id, ordinal"
    )
    for row in _told(plan, calls, asks, judged, ids=ids):
        verdicts.setdefault(row["event_id"], {})[row["criterion_id"]] = row["said"]
    for sides in both.values():
        for row in sides.values():
            row["tags"] = sorted(tags.get(row["event_id"], ()))
            row["criteria"] = verdicts.get(row["event_id"], {})
    return both


def _recordings(plan: Plan, calls: Sequence[str], asks: Asks) -> _Both:
    return _both(
        plan, calls, asks, "calls_recorded", "current_recorded",
        "recordings, audio_ms, refused_reasons",
    )  # fmt: skip


def _difference(
    call: str,
    said: Mapping[str, dict[str, Any]],
    found: Mapping[str, dict[str, Any]],
    stored: Mapping[str, dict[str, Any]],
) -> Difference:
    changed: int | None = None
    words = Pair(None, None)
    numbers: dict[str, Pair] = {}
    texts: dict[str, Pair] = {}
    labels: dict[str, Labels] = {}

    def number(of: Mapping[str, dict[str, Any]], column: str, name: str) -> None:
        sides = [of.get(side, {}).get(column) for side in ("now", "shadow")]
        numbers[name] = Pair(*(None if value is None else float(value) for value in sides))

    def label(of: Mapping[str, dict[str, Any]], column: str, name: str) -> None:
        now, shadow = (of.get(side, {}).get(column, []) for side in ("now", "shadow"))
        labels[name] = Labels(
            [each for each in shadow if each not in now],
            [each for each in now if each not in shadow],
        )

    def text(of: Mapping[str, dict[str, Any]], column: str, name: str) -> None:
        texts[name] = Pair(*(of.get(side, {}).get(column) for side in ("now", "shadow")))

    if stored:
        number(stored, "recordings", "recordings")
        number(stored, "audio_ms", "audio ms")
        label(stored, "refused_reasons", "refusals")
    if said:
        changed, words = _spoken(said)
        number(said, "segments", "segments")
        text(said, "language", "language")
        label(said, "degradations", "degradations")
    # What enrich has not said of the shadow is not lost.
    if {"now", "shadow"} <= found.keys():
        number(found, "score", "score")
        number(found, "customer_sentiment", "customer sentiment")
        number(found, "agent_sentiment", "agent sentiment")
        label(found, "alerts", "alerts")
        label(found, "tags", "tags")
        labels["criteria"] = _verdicts(*(found[side]["criteria"] for side in ("now", "shadow")))
        label(found, "topics", "topics")
        label(found, "emotions", "emotions")
        text(found, "summary", "summary")
    made_by = Pair(*(_maker(said.get(side), found.get(side)) for side in ("now", "shadow")))
    return Difference(call, changed, words, numbers, texts, labels, made_by)


def _verdicts(now: Mapping[str, str], shadow: Mapping[str, str]) -> Labels:
    """Criterion -> verdict, both times; one that turned is told once."""
    turned = [
        f"{id}: {now[id]} -> {verdict}"
        for id, verdict in shadow.items()
        if now.get(id, verdict) != verdict
    ]
    new = [f"{id}: {verdict}" for id, verdict in shadow.items() if id not in now]
    gone = [f"{id}: {verdict}" for id, verdict in now.items() if id not in shadow]
    return Labels([*turned, *new], gone)


def _maker(said: Mapping[str, Any] | None, found: Mapping[str, Any] | None) -> str | None:
    if said is not None:
        return f"{said['engine']} {said['model']}".strip()
    return None if found is None else f"rules {found['rules_version']}"


def _spoken(said: Mapping[str, dict[str, Any]]) -> tuple[int, Pair]:
    """Tokens that differ, channel by channel, and how many there are."""
    now, shadow = (said.get(side, {}).get("spoken", {}) for side in ("now", "shadow"))
    changed = before = after = 0
    for channel in {*now, *shadow}:
        old, new = tokens(now.get(channel, "")), tokens(shadow.get(channel, ""))
        changed += edits(old, new)
        before += len(old)
        after += len(new)
    return changed, Pair(before, after)


def tokens(text: str) -> list[str]:
    """Words without case and punctuation; of Chinese and Japanese, characters."""
    return _TOKEN.findall(_WIDE.sub(r" \1 ", text.casefold()))


def edits(old: Sequence[str], new: Sequence[str]) -> int:
    """Fewest tokens to put in, leave out or replace that make `new` of `old`."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    old, new = old[start : len(old) - end], new[start : len(new) - end]
    if not old or not new:
        return len(old) + len(new)
    numbers = {token: number for number, token in enumerate({*old, *new})}
    across = np.array([numbers[token] for token in new], dtype=np.int64)
    places = np.arange(len(new) + 1, dtype=np.int64)
    row = places.copy()
    for number, token in enumerate(old, 1):
        # What comes from the left costs one per step: a running minimum of cost less place.
        best = np.empty_like(row)
        best[0] = number
        best[1:] = np.minimum(row[1:] + 1, row[:-1] + (across != numbers[token]))
        row = np.minimum.accumulate(best - places) + places
    return int(row[-1])
