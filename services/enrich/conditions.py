"""The conditions that scorecards and alerts are written in: read from YAML, held against a call.

said: [phrase, ...]      by, part (anywhere, opening, closing), at_least
topic: [label, ...]      by, at_least
emotion: [label, ...]    by, at_least
metric: name             role, above and/or below
sentiment: negative      of (role), at (whole, start, end)
moment: silence          by, longer_than_ms, at_least
all: [...]   any: [...]   not: {...}
near: [...]              within_s: each of them, the furthest no more than that apart
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from schemas.events import Evidence, Finding, FindingKind, Moment, MomentKind, Role, SentimentLabel
from services.enrich.findings import Hit
from services.enrich.lexicon import spell_out
from services.enrich.metrics import METRICS, OF_A_ROLE, Turn
from services.enrich.sentiment import Sentiment, label
from services.runtime.yaml_file import Item

OPENING_TURNS = 2
CLOSING_TURNS = 3
ROLES = {role.value.lower(): role for role in Role}
MOMENTS = {kind.value.lower(): kind for kind in MomentKind if kind is not MomentKind.UNKNOWN}
LABELS = {
    label.value.lower(): label for label in SentimentLabel if label is not SentimentLabel.UNKNOWN
}


@dataclass(frozen=True, slots=True)
class Facts:
    """All that conditions may ask of a call."""

    findings: Sequence[Finding]
    phrases: Mapping[int, Sequence[Hit]]
    metrics: Mapping[tuple[str, Role | None], float]
    moments: Sequence[Moment]
    sentiments: Mapping[Role, Sentiment]
    opening: Collection[int]
    """Ids of the segments in each role's first turns."""
    closing: Collection[int]
    """Ids of the segments in each role's last turns."""


def openings(turns: Sequence[Turn]) -> set[int]:
    return _first(turns, OPENING_TURNS)


def closings(turns: Sequence[Turn]) -> set[int]:
    return _first(turns[::-1], CLOSING_TURNS)


def _first(turns: Sequence[Turn], count: int) -> set[int]:
    taken: dict[Role, int] = {}
    ids: set[int] = set()
    for turn in turns:
        taken[turn.role] = taken.get(turn.role, 0) + 1
        if taken[turn.role] <= count:
            ids.update(turn.segment_ids)
    return ids


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether a condition holds, what shows it, and why, as a clause without a full stop."""

    held: bool
    reason: str
    evidence: tuple[Evidence, ...] = ()


class Condition(Protocol):
    def check(self, facts: Facts) -> Outcome: ...


def _who(roles: Collection[Role]) -> str:
    return " or ".join(sorted(role.value.lower() for role in roles)) if roles else "anybody"


def _enough(
    found: Sequence[Evidence], at_least: int, what: str, roles: Collection[Role]
) -> Outcome:
    if len(found) >= at_least:
        first = found[0]
        count = f", {len(found)} times" if len(found) > 1 else ""
        return Outcome(
            True,
            f"{first.role.value.lower()}: “{first.quote}” ({what}{count})",
            tuple(found),
        )
    few = f"only {len(found)} of {at_least}" if found else "not heard"
    return Outcome(False, f"{few} from {_who(roles)}: {what}", tuple(found))


@dataclass(frozen=True, slots=True)
class Said:
    number: int
    about: str
    by: frozenset[Role]
    part: str
    at_least: int

    def check(self, facts: Facts) -> Outcome:
        within = {"opening": facts.opening, "closing": facts.closing}.get(self.part)
        found = [
            hit.evidence
            for hit in facts.phrases.get(self.number, ())
            if (not self.by or hit.evidence.role in self.by)
            and (within is None or hit.segment_id in within)
        ]
        return _enough(found, self.at_least, self.about, self.by)


@dataclass(frozen=True, slots=True)
class Found:
    kind: FindingKind
    labels: frozenset[str]
    by: frozenset[Role]
    at_least: int

    def check(self, facts: Facts) -> Outcome:
        found = [
            finding
            for finding in facts.findings
            if finding.kind is self.kind
            and finding.label in self.labels
            and (not self.by or finding.role in self.by)
        ]
        labels = sorted({finding.label for finding in found} or self.labels)
        what = f"{self.kind.value.lower()} {' or '.join(labels)}"
        return _enough([finding.evidence for finding in found], self.at_least, what, self.by)


@dataclass(frozen=True, slots=True)
class Measured:
    name: str
    role: Role | None
    above: float | None
    below: float | None

    def check(self, facts: Facts) -> Outcome:
        value = facts.metrics.get((self.name, self.role))
        name = f"{self.role.value.lower()} {self.name}" if self.role else self.name
        if value is None:
            return Outcome(False, f"{name} was not measured")
        if self.above is not None and not value > self.above:
            return Outcome(False, f"{name} is {value:g}, not above {self.above:g}")
        if self.below is not None and not value < self.below:
            return Outcome(False, f"{name} is {value:g}, not below {self.below:g}")
        edges = [f"above {self.above:g}"] if self.above is not None else []
        edges += [f"below {self.below:g}"] if self.below is not None else []
        return Outcome(True, f"{name} is {value:g}, {' and '.join(edges)}")


@dataclass(frozen=True, slots=True)
class Feels:
    label: SentimentLabel
    of: Role
    at: str

    def check(self, facts: Facts) -> Outcome:
        who = self.of.value.lower()
        if (sentiment := facts.sentiments.get(self.of)) is None:
            return Outcome(False, f"sentiment of {who} is unknown")
        score = {"whole": sentiment.whole, "start": sentiment.start, "end": sentiment.end}[self.at]
        found = label(score)
        when = "over the call" if self.at == "whole" else f"at the {self.at}"
        return Outcome(found is self.label, f"{who} is {found.value.lower()} {when} ({score:+.2f})")


@dataclass(frozen=True, slots=True)
class Happened:
    kind: MomentKind
    by: frozenset[Role]
    longer_than_ms: int
    at_least: int

    def check(self, facts: Facts) -> Outcome:
        found = [
            moment
            for moment in facts.moments
            if moment.kind is self.kind
            and moment.end_ms - moment.start_ms > self.longer_than_ms
            and (not self.by or (moment.role or Role.UNKNOWN) in self.by)
        ]
        kind = self.kind.value.lower().replace("_", " ")
        least = f" above {self.longer_than_ms / 1000:g} s" if self.longer_than_ms else ""
        what = f"{len(found) or 'no'} {kind}{least}"
        if found:
            longest = max(moment.end_ms - moment.start_ms for moment in found)
            what += f", the longest {longest / 1000:.1f} s"
        evidence = tuple(
            Evidence(
                start_ms=moment.start_ms,
                end_ms=moment.end_ms,
                segment_ids=list(moment.segment_ids),
                role=moment.role or Role.UNKNOWN,
            )
            for moment in found
        )
        return Outcome(len(found) >= self.at_least, what, evidence)


@dataclass(frozen=True, slots=True)
class Every:
    of: tuple[Condition, ...]

    def check(self, facts: Facts) -> Outcome:
        outcomes = [condition.check(facts) for condition in self.of]
        failed = [outcome for outcome in outcomes if not outcome.held]
        return _joined(not failed, failed or outcomes)


@dataclass(frozen=True, slots=True)
class Either:
    of: tuple[Condition, ...]

    def check(self, facts: Facts) -> Outcome:
        outcomes = [condition.check(facts) for condition in self.of]
        held = [outcome for outcome in outcomes if outcome.held]
        return _joined(bool(held), held or outcomes)


@dataclass(frozen=True, slots=True)
class Inverse:
    of: Condition

    def check(self, facts: Facts) -> Outcome:
        outcome = self.of.check(facts)
        return Outcome(not outcome.held, outcome.reason, outcome.evidence)


@dataclass(frozen=True, slots=True)
class Near:
    of: tuple[Condition, ...]
    within_ms: int

    def check(self, facts: Facts) -> Outcome:
        outcomes = [condition.check(facts) for condition in self.of]
        failed = [outcome for outcome in outcomes if not outcome.held]
        if failed:
            return _joined(False, failed)
        shown = sorted(
            (
                (evidence.start_ms, evidence.end_ms, child, evidence)
                for child, outcome in enumerate(outcomes)
                for evidence in outcome.evidence
            ),
            key=lambda each: each[:3],
        )
        window: deque[tuple[int, int, Evidence]] = deque()
        inside = [0] * len(self.of)
        missing = len(self.of)
        for start_ms, _, child, each in shown:
            window.append((start_ms, child, each))
            missing -= not inside[child]
            inside[child] += 1
            while start_ms - window[0][0] > self.within_ms:
                _, gone, _ = window.popleft()
                inside[gone] -= 1
                missing += not inside[gone]
            if not missing:
                latest = {child: evidence for _, child, evidence in window}
                evidence = tuple(latest[child] for child in range(len(self.of)))
                quotes = " with ".join(f"“{e.quote}”" for e in evidence)
                starts = [e.start_ms for e in evidence]
                apart = (max(starts) - min(starts)) / 1000
                return Outcome(True, f"{quotes}, {apart:.0f} s apart", evidence)
        return Outcome(False, f"never within {self.within_ms / 1000:g} s of each other")


def _joined(held: bool, outcomes: Sequence[Outcome]) -> Outcome:
    evidence: dict[tuple[int, int, str], Evidence] = {}
    for outcome in outcomes:
        for each in outcome.evidence:
            evidence.setdefault((each.start_ms, each.end_ms, each.quote), each)
    return Outcome(
        held,
        "; ".join(dict.fromkeys(outcome.reason for outcome in outcomes)),
        tuple(evidence.values()),
    )


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads conditions; gathers the phrase sets a Scanner is to look for."""

    labels: Mapping[FindingKind, Collection[str]]
    phrase_sets: list[tuple[str, ...]] = field(default_factory=list)

    def read(self, item: Item) -> Condition:
        """Raises FileError."""
        kinds: Mapping[str, Callable[[Item], Condition]] = {
            "said": self._said,
            "topic": lambda each: self._found(each, FindingKind.TOPIC),
            "emotion": lambda each: self._found(each, FindingKind.EMOTION),
            "metric": self._measured,
            "sentiment": self._feels,
            "moment": self._happened,
            "all": lambda each: Every(self._many(each, "all")),
            "any": lambda each: Either(self._many(each, "any")),
            "not": lambda each: Inverse(self.read(each.fields(("not",))["not"])),
            "near": self._near,
        }
        chosen = [name for name in kinds if name in item.entries()]
        if len(chosen) != 1:
            raise item.error(f"needs exactly one of {', '.join(kinds)}")
        return kinds[chosen[0]](item)

    def _many(self, item: Item, name: str, optional: Sequence[str] = ()) -> tuple[Condition, ...]:
        inner = item.fields((name,), optional)[name]
        found = tuple(self.read(each) for each in inner.items())
        if not found:
            raise inner.error("is empty; write at least one condition")
        return found

    def _said(self, item: Item) -> Condition:
        fields = item.fields(("said",), ("by", "part", "at_least"))
        phrases = read_phrases(fields["said"])
        self.phrase_sets.append(phrases)
        shown = ", ".join(f"“{example(phrase)}”" for phrase in phrases[:3])
        part = fields["part"].choice(("anywhere", "opening", "closing")) if "part" in fields else ""
        return Said(
            len(self.phrase_sets) - 1,
            f"such as {shown}" if len(phrases) > 3 else shown,
            read_roles(fields, "by"),
            part,
            _at_least(fields),
        )

    def _found(self, item: Item, kind: FindingKind) -> Condition:
        name = kind.value.lower()
        fields = item.fields((name,), ("by", "at_least"))
        return Found(
            kind,
            fields[name].choices(self.labels[kind]),
            read_roles(fields, "by"),
            _at_least(fields),
        )

    def _measured(self, item: Item) -> Condition:
        fields = item.fields(("metric",), ("role", "above", "below"))
        edges = {
            edge: fields[edge].number(-1e12, 1e12) if edge in fields else None
            for edge in ("above", "below")
        }
        if edges["above"] is None and edges["below"] is None:
            raise item.error("needs 'above' or 'below'")
        name = fields["metric"].choice(METRICS)
        if (name in OF_A_ROLE) != ("role" in fields):
            problem = "needs a 'role'" if name in OF_A_ROLE else "is of the call and has no 'role'"
            raise fields["metric"].error(f"{name!r} {problem}")
        return Measured(
            name,
            ROLES[fields["role"].choice(ROLES)] if "role" in fields else None,
            edges["above"],
            edges["below"],
        )

    def _feels(self, item: Item) -> Condition:
        fields = item.fields(("sentiment",), ("of", "at"))
        return Feels(
            LABELS[fields["sentiment"].choice(LABELS)],
            ROLES[fields["of"].choice(ROLES)] if "of" in fields else Role.CUSTOMER,
            fields["at"].choice(("whole", "start", "end")) if "at" in fields else "whole",
        )

    def _happened(self, item: Item) -> Condition:
        fields = item.fields(("moment",), ("by", "longer_than_ms", "at_least"))
        return Happened(
            MOMENTS[fields["moment"].choice(MOMENTS)],
            read_roles(fields, "by"),
            fields["longer_than_ms"].integer(0, 10**9) if "longer_than_ms" in fields else 0,
            _at_least(fields),
        )

    def _near(self, item: Item) -> Condition:
        fields = item.fields(("near", "within_s"))
        within_ms = int(fields["within_s"].number(0, 86_400) * 1000)
        return Near(self._many(item, "near", ("within_s",)), within_ms)


def read_phrases(item: Item) -> tuple[str, ...]:
    """Phrases, each checked; raises FileError."""
    for each in item.items():
        try:
            spell_out(each.text())
        except ValueError as error:
            raise each.error(f"phrase {each.text()!r}: {error}") from None
    return item.texts()


def example(phrase: str) -> str:
    """The first of what `phrase` stands for, as people write it."""
    text = " ".join(spell_out(phrase)[0])
    return re.sub(r"(?<=[㐀-鿿]) (?=[㐀-鿿])", "", text)


def read_roles(fields: Mapping[str, Item], name: str) -> frozenset[Role]:
    """Roles named by the field, nobody where there is no such field; raises FileError."""
    if name not in fields:
        return frozenset()
    return frozenset(ROLES[role] for role in fields[name].choices(ROLES))


def _at_least(fields: Mapping[str, Item]) -> int:
    return fields["at_least"].integer(1, 10_000) if "at_least" in fields else 1
