"""The conditions that rules, scorecards and alerts are written in, held to a call.

said: [phrase, ...]      topic: [label, ...]      emotion: [label, ...]
moment: silence          longer_than_ms
                         the four take by, part (anywhere, opening, closing), first_s, last_s and
                         at_least
metric: name             role, above and/or below
sentiment: negative      of (role), at (whole, start, end)
call: {field: ...}       what telephony knows: a value, a list of them, or above and/or below
all: [...]   any: [...]   not: {...}
near: [...]              within_s: each of them, the furthest no more than that apart
sequence: [...]          each after the other; within_s: between neighbours
not: {...}               after or before: {...}, within_s: missing there, at least once

What stands in `near`, `sequence`, `after` or `before` has a place in time. A condition is pure, and
costs n log n in what was heard, however long the call.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple, Protocol

from schemas.events import (
    CallTranscribed,
    Consent,
    Direction,
    DisconnectedBy,
    Disposition,
    Evidence,
    Finding,
    FindingKind,
    Metric,
    Moment,
    MomentKind,
    Platform,
    Role,
    SegmentKind,
    SentimentLabel,
)
from services.enrich.findings import NOT_HUMAN, Heard, Hit
from services.enrich.metrics import Turn, hold_ms
from services.enrich.sentiment import Sentiment, label

OPENING_TURNS = 2
CLOSING_TURNS = 3
# Words next to each other in a text of estimated times may overlap by what rounding adds.
ROUNDING_MS = 1
LONGEST_S = 86_400
ROLES = {role.value.lower(): role for role in Role}
MOMENTS = {kind.value.lower(): kind for kind in MomentKind if kind is not MomentKind.UNKNOWN}
LABELS = {
    label.value.lower(): label for label in SentimentLabel if label is not SentimentLabel.UNKNOWN
}
PARTS = ("anywhere", "opening", "closing")

CALL_NUMBERS = {
    "duration_ms": "from start to end",
    "talk_ms": "agent and customer were connected",
    "queue_ms": "waited in queue",
    "ring_ms": "from start to answer",
    "hold_ms": "on hold, all holds together",
    "acw_ms": "after-call work",
    "holds": "times on hold",
    "transfers": "times transferred",
    "parties": "people who took part",
    "sip_status": "SIP status the call ended with",
    "q850_cause": "Q.850 cause the call ended with",
    "mos_min": "lowest mean opinion score measured, 1.0 to 5.0",
}
"""Name -> what it is, of every number that telephony may know of a call."""

_CHOICES = {
    name: frozenset(each.value.lower() for each in kind if each.value != "UNKNOWN")
    for name, kind in (
        ("direction", Direction),
        ("disposition", Disposition),
        ("disconnected_by", DisconnectedBy),
        ("platform", Platform),
        ("consent", Consent),
    )
}
CALL_TEXTS: Mapping[str, Collection[str]] = {
    "queue": (),
    "agent": (),
    "language": (),
    **_CHOICES,
    "disconnect_reason": (),
    "dialed_address": (),
    "wrap_up_code": (),
    "legal_hold": ("yes", "no"),
}
"""Name -> the values it may have, none where any text will do, of what telephony says in words."""

CallFact = float | tuple[str, ...]
"""A number, or words of which each is one of its names, in lower case."""


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
    span: tuple[int, int] | None = None
    """Ms of the first word and of the end of the last; None where nobody spoke."""
    ends: tuple[int, ...] = ()
    """Ids of the first and the last segment of the conversation."""
    call: Mapping[str, CallFact] = field(default_factory=dict)
    """What telephony knows; what it does not know is not there."""


def facts_of(
    event: CallTranscribed,
    heard: Heard,
    turns: Sequence[Turn],
    moments: Sequence[Moment],
    metrics: Sequence[Metric],
    sentiments: Mapping[Role, Sentiment],
) -> Facts:
    """The facts of a call, from what the parts of enrich found in it."""
    return Facts(
        findings=heard.findings,
        phrases=heard.phrases,
        metrics={(metric.name, metric.role): metric.value for metric in metrics},
        moments=moments,
        sentiments=sentiments,
        opening=openings(turns),
        closing=closings(turns),
        span=(turns[0].start_ms, max(turn.end_ms for turn in turns)) if turns else None,
        ends=tuple(dict.fromkeys((turns[0].segment_ids[0], turns[-1].segment_ids[-1])))
        if turns
        else (),
        call=call_facts(event),
    )


def call_facts(event: CallTranscribed) -> dict[str, CallFact]:
    """What telephony knows of a call, by the names of CALL_NUMBERS and CALL_TEXTS.

    `attributes.NAME` is what the platform calls NAME. A list of intervals tells of holds and
    transfers only where there is one.
    """
    call = event.call
    lasted_ms = (call.ended_at - call.started_at).total_seconds() * 1000
    rang_ms: float | None = None
    if call.answered_at is not None:
        rang_ms = (call.answered_at - call.started_at).total_seconds() * 1000
    kinds = [part.kind for part in call.segments]
    transferred = call.disconnected_by is DisconnectedBy.TRANSFER
    people = sum(1 for each in call.participants if each.role not in NOT_HUMAN)
    held_ms = hold_ms(event)
    numbers: dict[str, float | None] = {
        "duration_ms": lasted_ms if lasted_ms > 0 else event.duration_ms,
        "talk_ms": call.talk_ms,
        "queue_ms": call.queue_ms,
        "ring_ms": rang_ms,
        "hold_ms": held_ms if held_ms or kinds else call.hold_ms,
        "acw_ms": call.acw_ms,
        "holds": kinds.count(SegmentKind.HOLD) if kinds else None,
        "transfers": max(kinds.count(SegmentKind.TRANSFER), int(transferred))
        if kinds or transferred
        else None,
        "parties": people or None,
        "sip_status": call.sip_status,
        "q850_cause": call.q850_cause,
        "mos_min": call.mos_min,
    }
    agents = (each.agent_id for each in call.participants if each.role is Role.AGENT)
    texts: dict[str, Sequence[str | None]] = {
        "queue": (call.queue.id, call.queue.name) if call.queue else (),
        "agent": tuple(agents),
        "language": call.language_hints if event.language in ("", "und") else (event.language,),
        "direction": (call.direction.value,),
        "disposition": (call.disposition.value,),
        "disconnected_by": (call.disconnected_by.value,),
        "platform": (call.source.platform.value,),
        "consent": (call.consent.value,),
        "disconnect_reason": (call.disconnect_reason_raw,),
        "dialed_address": (call.dialed_address,),
        "wrap_up_code": (call.wrap_up_code,),
        "legal_hold": ("yes" if call.legal_hold else "no",),
        **{f"attributes.{name}": (value,) for name, value in call.attributes.items()},
    }
    found: dict[str, CallFact] = {
        name: float(value) for name, value in numbers.items() if value is not None
    }
    for name, values in texts.items():
        known = tuple(folded(value) for value in values if value)
        if known and not (name in _CHOICES and known == ("unknown",)):
            found[name] = known
    return found


def folded(text: str) -> str:
    return text.strip().casefold()


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


class Occurrence(NamedTuple):
    """One time that a condition came true."""

    start_ms: int
    end_ms: int
    evidence: tuple[Evidence, ...]

    @property
    def past_ms(self) -> int:
        """What starts then or later comes after it; never itself."""
        return max(self.end_ms - ROUNDING_MS, self.start_ms + 1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether a condition holds, what shows it, and why, as a clause without a full stop."""

    held: bool
    reason: str
    evidence: tuple[Evidence, ...] = ()
    what: str = ""
    """The condition, in words."""
    parts: tuple[Outcome, ...] = ()
    """The outcomes of the conditions it is made of, in order."""
    times: tuple[Occurrence, ...] | None = None
    """When it came true; None where each piece of evidence is such a time."""

    def occurrences(self) -> Sequence[Occurrence]:
        """When the condition came true, in no order; nothing where it does not hold."""
        if not self.held:
            return ()
        if self.times is not None:
            return self.times
        return [Occurrence(each.start_ms, each.end_ms, (each,)) for each in self.evidence]


class Condition(Protocol):
    """Holds for a call, or does not."""

    def check(self, facts: Facts) -> Outcome: ...


def _who(roles: Collection[Role]) -> str:
    return " or ".join(sorted(role.value.lower() for role in roles)) if roles else "anybody"


@dataclass(frozen=True, slots=True)
class Where:
    """Whose words count, where in the call, and how many it takes."""

    by: frozenset[Role] = frozenset()
    part: str = "anywhere"
    first_ms: int | None = None
    last_ms: int | None = None
    at_least: int = 1

    def counts(self, evidence: Evidence, facts: Facts) -> bool:
        if self.by and evidence.role not in self.by:
            return False
        if self.part != "anywhere":
            part = facts.opening if self.part == "opening" else facts.closing
            if not any(number in part for number in evidence.segment_ids):
                return False
        if self.first_ms is None and self.last_ms is None:
            return True
        if facts.span is None:
            return False
        begin, end = facts.span
        return (self.first_ms is None or evidence.start_ms - begin <= self.first_ms) and (
            self.last_ms is None or end - evidence.start_ms <= self.last_ms
        )

    def __str__(self) -> str:
        by = f" by {_who(self.by)}" if self.by else ""
        return by + self.place + (f", {self.at_least} times or more" if self.at_least > 1 else "")

    @property
    def place(self) -> str:
        """The part of the call, in words."""
        said = f" in the {self.part}" if self.part != "anywhere" else ""
        if self.first_ms is not None:
            said += f" in the first {self.first_ms / 1000:g} s"
        if self.last_ms is not None:
            said += f" in the last {self.last_ms / 1000:g} s"
        return said


def _enough(found: Sequence[Evidence], where: Where, about: str, what: str) -> Outcome:
    if len(found) >= where.at_least:
        first = found[0]
        count = f", {len(found)} times" if len(found) > 1 else ""
        reason = f"{first.role.value.lower()}: “{first.quote}” ({about}{count})"
        return Outcome(True, reason, tuple(found), what)
    few = f"only {len(found)} of {where.at_least}" if found else "not heard"
    reason = f"{few} from {_who(where.by)}{where.place}: {about}"
    return Outcome(False, reason, tuple(found), what)


@dataclass(frozen=True, slots=True)
class Said:
    number: int
    about: str
    where: Where

    def check(self, facts: Facts) -> Outcome:
        hits = facts.phrases.get(self.number, ())
        found = [hit.evidence for hit in hits if self.where.counts(hit.evidence, facts)]
        return _enough(found, self.where, self.about, f"said {self.about}{self.where}")


@dataclass(frozen=True, slots=True)
class Found:
    kind: FindingKind
    labels: frozenset[str]
    where: Where

    def check(self, facts: Facts) -> Outcome:
        found = [
            finding
            for finding in facts.findings
            if finding.kind is self.kind
            and finding.label in self.labels
            and self.where.counts(finding.evidence, facts)
        ]
        kind = self.kind.value.lower()
        labels = sorted({finding.label for finding in found} or self.labels)
        about = f"{kind} {' or '.join(labels)}"
        what = f"{kind} {' or '.join(sorted(self.labels))}{self.where}"
        return _enough([finding.evidence for finding in found], self.where, about, what)


def _shown(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:g}"


@dataclass(frozen=True, slots=True)
class Edges:
    """What a number has to be."""

    above: float | None = None
    below: float | None = None
    one_of: frozenset[float] = frozenset()

    def judge(self, name: str, value: float) -> tuple[bool, str]:
        if self.above is not None and not value > self.above:
            return False, f"{name} is {_shown(value)}, not above {_shown(self.above)}"
        if self.below is not None and not value < self.below:
            return False, f"{name} is {_shown(value)}, not below {_shown(self.below)}"
        if self.one_of and value not in self.one_of:
            return False, f"{name} is {_shown(value)}, not {self}"
        return True, f"{name} is {_shown(value)}" + ("" if self.one_of else f", {self}")

    def __str__(self) -> str:
        edges = [f"above {_shown(self.above)}"] if self.above is not None else []
        edges += [f"below {_shown(self.below)}"] if self.below is not None else []
        edges += [" or ".join(_shown(each) for each in sorted(self.one_of))] if self.one_of else []
        return " and ".join(edges)


@dataclass(frozen=True, slots=True)
class Measured:
    name: str
    role: Role | None
    edges: Edges

    def check(self, facts: Facts) -> Outcome:
        value = facts.metrics.get((self.name, self.role))
        name = f"{self.role.value.lower()} {self.name}" if self.role else self.name
        what = f"{name} {self.edges}"
        if value is None:
            return Outcome(False, f"{name} was not measured", (), what)
        held, reason = self.edges.judge(name, value)
        return Outcome(held, reason, (), what)


@dataclass(frozen=True, slots=True)
class CallNumber:
    name: str
    edges: Edges

    def check(self, facts: Facts) -> Outcome:
        value = facts.call.get(self.name)
        what = f"call {self.name} {self.edges}"
        if not isinstance(value, float):
            return Outcome(False, f"{self.name} is not known", (), what)
        held, reason = self.edges.judge(self.name, value)
        return Outcome(held, reason, (), what)


@dataclass(frozen=True, slots=True)
class CallText:
    name: str
    one_of: tuple[str, ...]
    """In lower case. A language stands for its regions, too: zh for zh-CN."""

    def check(self, facts: Facts) -> Outcome:
        values = facts.call.get(self.name)
        wanted = " or ".join(self.one_of)
        what = f"call {self.name} {wanted}"
        if not isinstance(values, tuple):
            return Outcome(False, f"{self.name} is not known", (), what)
        # What the platform says may be personal; what the rule says is not.
        told = [one for one in self.one_of if any(self._is(value, one) for value in values)]
        reason = f"{self.name} is " + (", ".join(told) if told else f"not {wanted}")
        return Outcome(bool(told), reason, (), what)

    def _is(self, value: str, one: str) -> bool:
        return value == one or (self.name == "language" and value.startswith(f"{one}-"))


@dataclass(frozen=True, slots=True)
class Feels:
    label: SentimentLabel
    of: Role
    at: str

    def check(self, facts: Facts) -> Outcome:
        who = self.of.value.lower()
        when = "over the call" if self.at == "whole" else f"at the {self.at}"
        what = f"{who} {self.label.value.lower()} {when}"
        if (sentiment := facts.sentiments.get(self.of)) is None:
            return Outcome(False, f"sentiment of {who} is unknown", (), what)
        score = {"whole": sentiment.whole, "start": sentiment.start, "end": sentiment.end}[self.at]
        found = label(score)
        reason = f"{who} is {found.value.lower()} {when} ({score:+.2f})"
        return Outcome(found is self.label, reason, (), what)


@dataclass(frozen=True, slots=True)
class Happened:
    kind: MomentKind
    longer_than_ms: int
    where: Where

    def check(self, facts: Facts) -> Outcome:
        evidence = [
            Evidence(
                start_ms=moment.start_ms,
                end_ms=moment.end_ms,
                segment_ids=list(moment.segment_ids),
                role=moment.role or Role.UNKNOWN,
            )
            for moment in facts.moments
            if moment.kind is self.kind and moment.end_ms - moment.start_ms > self.longer_than_ms
        ]
        found = [each for each in evidence if self.where.counts(each, facts)]
        kind = self.kind.value.lower().replace("_", " ")
        least = f" above {self.longer_than_ms / 1000:g} s" if self.longer_than_ms else ""
        reason = f"{len(found) or 'no'} {kind}{least}"
        if found:
            longest = max(each.end_ms - each.start_ms for each in found)
            reason += f", the longest {longest / 1000:.1f} s"
        held = len(found) >= self.where.at_least
        return Outcome(held, reason, tuple(found), f"{kind}{least}{self.where}")


@dataclass(frozen=True, slots=True)
class Every:
    of: tuple[Condition, ...]
    what: str = "all of"

    def check(self, facts: Facts) -> Outcome:
        outcomes = tuple(condition.check(facts) for condition in self.of)
        failed = [outcome for outcome in outcomes if not outcome.held]
        return _joined(not failed, failed or outcomes, self.what, outcomes)


@dataclass(frozen=True, slots=True)
class Either:
    of: tuple[Condition, ...]

    def check(self, facts: Facts) -> Outcome:
        outcomes = tuple(condition.check(facts) for condition in self.of)
        held = [outcome for outcome in outcomes if outcome.held]
        times = None
        if any(outcome.times is not None for outcome in held):
            times = tuple(each for outcome in held for each in outcome.occurrences())
        return _joined(bool(held), held or outcomes, "any of", outcomes, times)


@dataclass(frozen=True, slots=True)
class Inverse:
    of: Condition

    def check(self, facts: Facts) -> Outcome:
        outcome = self.of.check(facts)
        return Outcome(not outcome.held, outcome.reason, outcome.evidence, "not", (outcome,))


@dataclass(frozen=True, slots=True)
class Near:
    """Each of them, none starting more than `within_ms` from another."""

    of: tuple[Condition, ...]
    within_ms: int

    def check(self, facts: Facts) -> Outcome:
        what = f"within {self.within_ms / 1000:g} s of each other"
        outcomes = tuple(condition.check(facts) for condition in self.of)
        failed = [outcome for outcome in outcomes if not outcome.held]
        if failed:
            return _joined(False, failed, what, outcomes, ())
        shown = sorted(
            ((child, each) for child, one in enumerate(outcomes) for each in one.occurrences()),
            key=lambda pair: (pair[1].start_ms, pair[1].end_ms, pair[0]),
        )
        window: deque[tuple[int, int]] = deque()
        latest: list[Occurrence | None] = [None] * len(self.of)
        inside = [0] * len(self.of)
        missing = len(self.of)
        times: list[Occurrence] = []
        for child, each in shown:
            window.append((each.start_ms, child))
            latest[child] = each
            missing -= not inside[child]
            inside[child] += 1
            while each.start_ms - window[0][0] > self.within_ms:
                _, gone = window.popleft()
                inside[gone] -= 1
                missing += not inside[gone]
            if not missing:
                times.append(_together([one for one in latest if one is not None]))
        if not times:
            return Outcome(False, f"never {what}", (), what, outcomes, ())
        first = times[0]
        starts = [evidence.start_ms for evidence in first.evidence]
        apart = (max(starts) - min(starts)) / 1000
        quotes = " with ".join(_quoted(evidence) for evidence in first.evidence)
        reason = f"{quotes}, {apart:.0f} s apart"
        return Outcome(True, reason, first.evidence, what, outcomes, tuple(times))


def _together(occurrences: Sequence[Occurrence]) -> Occurrence:
    return Occurrence(
        min(each.start_ms for each in occurrences),
        max(each.end_ms for each in occurrences),
        tuple(evidence for each in occurrences for evidence in each.evidence),
    )


def _quoted(evidence: Evidence) -> str:
    if evidence.quote:
        return f"“{evidence.quote}”"
    return f"{(evidence.end_ms - evidence.start_ms) / 1000:.1f} s without words"


@dataclass(frozen=True, slots=True)
class Ordered:
    """Each after the one before it."""

    of: tuple[Condition, ...]
    within_ms: tuple[int | None, ...]
    """From the end of each to the start of the next, at most; None: however long."""

    def check(self, facts: Facts) -> Outcome:
        what = "in this order" + "".join(
            f", {i} to {i + 1} within {most / 1000:g} s"
            for i, most in enumerate(self.within_ms, 1)
            if most is not None
        )
        outcomes = tuple(condition.check(facts) for condition in self.of)
        failed = [outcome for outcome in outcomes if not outcome.held]
        if failed:
            return _joined(False, failed, what, outcomes, ())
        reached = list(outcomes[0].occurrences())
        for step, (outcome, most) in enumerate(zip(outcomes[1:], self.within_ms, strict=True)):
            reached = _after(reached, outcome.occurrences(), most)
            if not reached:
                within = f" within {most / 1000:g} s" if most is not None else ""
                reason = f"{outcome.what} did not follow {outcomes[step].what}{within}"
                return Outcome(False, reason, (), what, outcomes, ())
        first = min(reached, key=lambda each: (each.end_ms, each.start_ms))
        quotes = [_quoted(evidence) for evidence in first.evidence]
        took = (first.evidence[-1].start_ms - first.evidence[0].start_ms) / 1000
        reason = f"{', then '.join(quotes)}, {took:.0f} s from first to last"
        # What comes after the whole comes after its last part: the others' places are history.
        ends = tuple(Occurrence(last.start_ms, last.end_ms, last.evidence) for last in reached)
        return Outcome(True, reason, first.evidence, what, outcomes, ends)


def _after(
    before: Sequence[Occurrence], following: Sequence[Occurrence], most_ms: int | None
) -> list[Occurrence]:
    """Those of `following` that come after one of `before`, each with the evidence of the latest.

    Start and end are those of the following one. Cost: n log n.
    """
    waiting = sorted(before, key=lambda each: (each.past_ms, each.end_ms))
    found: list[Occurrence] = []
    best: Occurrence | None = None
    at = 0
    for each in sorted(following, key=lambda one: (one.start_ms, one.end_ms)):
        while at < len(waiting) and waiting[at].past_ms <= each.start_ms:
            if best is None or waiting[at].end_ms >= best.end_ms:
                best = waiting[at]
            at += 1
        if best is not None and (most_ms is None or each.start_ms - best.end_ms <= most_ms):
            evidence = (*best.evidence, *each.evidence)
            found.append(Occurrence(each.start_ms, each.end_ms, evidence))
    return found


@dataclass(frozen=True, slots=True)
class Missing:
    """At some time that `beside` comes true, `of` does not follow it, or precede it."""

    of: Condition
    beside: Condition
    before: bool
    within_ms: int | None

    def check(self, facts: Facts) -> Outcome:
        place = "before" if self.before else "after"
        within = f"within {self.within_ms / 1000:g} s " if self.within_ms is not None else ""
        what = f"the first not {within}{place} the second"
        absent, beside = self.of.check(facts), self.beside.check(facts)
        parts = (absent, beside)
        if not beside.held:
            return Outcome(False, beside.reason, (), what, parts)
        there = absent.occurrences()
        times = beside.occurrences()
        alone = self._none_before(times, there) if self.before else self._none_after(times, there)
        if not alone:
            return Outcome(
                False, f"{absent.reason}, {within}{place} each: {beside.reason}", (), what, parts
            )
        alone.sort(key=lambda each: (each.start_ms, each.end_ms))
        quotes = ", ".join(_quoted(evidence) for evidence in alone[0].evidence)
        count = f" ({len(alone)} times)" if len(alone) > 1 else ""
        reason = f"{within}{place} {quotes}{count} nothing of: {absent.what}"
        pieces = _distinct(evidence for each in alone for evidence in each.evidence)
        return Outcome(True, reason, pieces, what, parts)

    def _none_after(
        self, times: Sequence[Occurrence], there: Sequence[Occurrence]
    ) -> list[Occurrence]:
        starts = sorted(each.start_ms for each in there)

        def followed(each: Occurrence) -> bool:
            at = bisect_left(starts, each.past_ms)
            return at < len(starts) and self._close(starts[at] - each.end_ms)

        return [each for each in times if not followed(each)]

    def _none_before(
        self, times: Sequence[Occurrence], there: Sequence[Occurrence]
    ) -> list[Occurrence]:
        order = sorted((each.past_ms, each.end_ms) for each in there)
        pasts = [past_ms for past_ms, _ in order]
        latest = list(accumulate((end_ms for _, end_ms in order), max))

        def preceded(each: Occurrence) -> bool:
            at = bisect_right(pasts, each.start_ms)
            return at > 0 and self._close(each.start_ms - latest[at - 1])

        return [each for each in times if not preceded(each)]

    def _close(self, apart_ms: int) -> bool:
        return self.within_ms is None or apart_ms <= self.within_ms


def _distinct(pieces: Iterable[Evidence]) -> tuple[Evidence, ...]:
    found: dict[tuple[int, int, str], Evidence] = {}
    for each in pieces:
        found.setdefault((each.start_ms, each.end_ms, each.quote), each)
    return tuple(found.values())


def _joined(
    held: bool,
    outcomes: Sequence[Outcome],
    what: str,
    parts: tuple[Outcome, ...],
    times: tuple[Occurrence, ...] | None = None,
) -> Outcome:
    return Outcome(
        held,
        "; ".join(dict.fromkeys(outcome.reason for outcome in outcomes)),
        _distinct(evidence for outcome in outcomes for evidence in outcome.evidence),
        what,
        parts,
        times,
    )
