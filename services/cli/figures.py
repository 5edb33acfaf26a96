"""The figures of a call, worked out anew from its transcript and the definitions in
`docs/metrics.md`, apart from the code that measured them: so it means something where both agree.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import groupby, pairwise
from math import log10
from operator import mul
from typing import NamedTuple

from schemas.events import (
    CallSegment,
    Masked,
    Metric,
    MomentKind,
    Role,
    Segment,
    SegmentKind,
    SegmentSentiment,
    SentimentLabel,
)
from services.cli.evidence import (
    MOST_PLACES,
    Entry,
    Followed,
    Place,
    count_of,
    equal,
    fields_of,
    figure,
)
from services.enrich.findings import hear
from services.enrich.lexicon import Grammar, Scanner
from services.enrich.metrics import (
    ANNOUNCED_MS,
    GOES_ON_MS,
    MACHINES,
    METRICS,
    NOT_HEARD,
    Interval,
    length,
    masked_intervals,
    merged,
    unmasked,
)
from services.enrich.sentiment import SENTIMENT_METRICS
from services.enrich.settings import EnrichSettings


class Sum(NamedTuple):
    """What a figure comes from."""

    how: str
    value: float | None
    places: list[Place]


class _Overlap(NamedTuple):
    start_ms: int
    end_ms: int
    second: Segment
    """Who came second."""
    interrupts: bool


class Figures:
    """The figures of a call, worked out anew."""

    def __init__(self, call: Followed, settings: EnrichSettings) -> None:
        self._call, self._settings = call, settings
        self._told = {(each.name, each.role): each.value for each in call.enriched.metrics}
        self._masks = masked_intervals(call.transcript)
        self._silences = [m for m in call.enriched.moments if m.kind is MomentKind.SILENCE]

    def entry(self, metric: Metric) -> Entry:
        """One metric, with its places and whether they come to it."""
        worked = self._worked_out(metric)
        says = METRICS.get(metric.name)
        if says is None and (part := _SENTIMENT.fullmatch(metric.name)) is not None:
            says = SENTIMENT_METRICS[part[2]]
        whose = "" if metric.role is None else f" ({metric.role.lower()})"
        title = f"{metric.name}{whose} {figure(metric.value)}" + (f": {says}" if says else "")
        agrees = None if worked.value is None else equal(worked.value, metric.value)
        return Entry(metric.name, title, fields_of(metric), [worked.how], agrees, worked.places)

    def _worked_out(self, metric: Metric) -> Sum:
        name = metric.name
        if name not in _OF_THE_EVENT and not self._call.same:
            return Sum("cannot be worked out from another transcript", None, [])
        if (work := _WORK.get(name)) is not None:
            return work(self, metric)
        if (part := _SENTIMENT.fullmatch(name)) is not None:
            return self._feeling(part[1], part[2])
        return Sum("no figure that this version knows: nothing to follow", None, [])

    # What was said outside every mask

    @cached_property
    def _people(self) -> list[Segment]:
        parts = [
            replace(segment, start_ms=start, end_ms=end)
            for segment in self._call.transcript.segments
            if segment.role not in MACHINES and not NOT_HEARD & set(segment.flags)
            for start, end in unmasked(segment.start_ms, segment.end_ms, self._masks)
        ]
        return sorted(parts, key=_in_order)

    def _of(self, role: Role | None) -> list[Segment]:
        return [segment for segment in self._people if segment.role is role]

    def _talk(self, role: Role | None) -> int:
        return length(merged((s.start_ms, s.end_ms) for s in self._of(role)))

    @cached_property
    def _turns(self) -> list[list[Segment]]:
        return [list(held) for _, held in groupby(self._people, key=lambda s: s.speaker)]

    @cached_property
    def _waits(self) -> list[tuple[Role, int, Place]]:
        """(whose, ms, where) of every turn after another speaker's."""
        found: list[tuple[Role, int, Place]] = []
        quiet_since = 0
        for before, turn in pairwise(self._turns):
            ended = max(segment.end_ms for segment in before)
            quiet_since = max(quiet_since, ended) if found else ended
            start = turn[0].start_ms
            since = min(quiet_since, start)
            ms = length(unmasked(since, start, self._masks))
            ids = [before[-1].segment_id, turn[0].segment_id]
            place = self._call.place(
                since, start, ids, turn[0].role, note=f"waited {ms} ms", everybody=True
            )
            found.append((turn[0].role, ms, place))
        return found

    @cached_property
    def _overlaps(self) -> list[_Overlap]:
        """Every stretch in which two or more spoke at once."""
        spoke: dict[str, list[Interval]] = {}
        for name in {segment.speaker for segment in self._people}:
            own = (s for s in self._people if s.speaker == name)
            spoke[name] = merged((s.start_ms, s.end_ms) for s in own)
        edges = sorted(
            (at, change)
            for held in spoke.values()
            for start, end in held
            for at, change in ((start, 0), (end, 1))
        )
        stretches: list[Interval] = []
        active = opened = 0
        for at, ends in edges:
            active += -1 if ends else 1
            if not ends and active == 2:
                opened = at
            elif ends and active == 1 and at > opened:
                stretches.append((opened, at))
        return [self._overlap(start, end, spoke) for start, end in stretches]

    @cached_property
    def _starting(self) -> dict[int, list[Segment]]:
        starting: dict[int, list[Segment]] = defaultdict(list)
        for segment in self._people:
            starting[segment.start_ms].append(segment)
        return starting

    def _overlap(self, start: int, end: int, spoke: Mapping[str, Sequence[Interval]]) -> _Overlap:
        fresh: set[str] = set()
        spoke_before: dict[str, int] = {}
        together = True
        for name, held in spoke.items():
            at = bisect_left(held, (start, 0))
            if at < len(held) and held[at][0] == start:
                fresh.add(name)
            if at:
                spoke_before[name] = held[at - 1][1]
                together &= held[at - 1][1] < start
        starting = {s.speaker: s for s in reversed(self._starting[start]) if s.speaker in fresh}
        in_order = sorted(starting.values(), key=_in_order)
        # Where nobody spoke before, the first of those who begin together is not the second.
        second = in_order[1 if together else 0]
        anew = start - spoke_before.get(second.speaker, start - GOES_ON_MS) >= GOES_ON_MS
        long_enough = end - start >= self._settings.interruption_ms
        return _Overlap(start, end, second, not together and anew and long_enough)

    # The figures

    def _conversation(self, metric: Metric) -> Sum:
        if not self._people:
            return Sum("nobody was heard to speak", None, [])
        start, end = self._people[0].start_ms, max(s.end_ms for s in self._people)
        rest = length(unmasked(start, end, self._masks))
        how = f"first word to last: {end - start} ms, {end - start - rest} ms of them masked"
        return Sum(how, rest, [self._call.place(start, end)])

    def _hold(self, metric: Metric) -> Sum:
        transcript = self._call.transcript
        known: list[Masked | CallSegment] = [*transcript.masked, *transcript.call.segments]
        holds = merged((p.start_ms, p.end_ms) for p in known if p.kind is SegmentKind.HOLD)
        if not holds:
            return Sum("telephony tells no hold interval: this is its total of the call",
                        transcript.call.hold_ms or 0, [])  # fmt: skip
        return Sum(_adds_up("hold", holds), length(holds), [self._call.place(*it) for it in holds])

    def _talked(self, metric: Metric) -> Sum:
        own = self._of(metric.role)
        union = self._talk(metric.role)
        together = sum(segment.end_ms - segment.start_ms for segment in own)
        how = f"{count_of(len(own), 'segment')}, {together} ms"
        if together != union:
            how += f"; {together - union} ms of them lie in two and count once: {union} ms"
        return Sum(how, union, [self._call.whole(segment) for segment in own])

    def _talk_share(self, metric: Metric) -> Sum:
        every = sum(self._talk(role) for role in {segment.role for segment in self._people})
        own = self._talk(metric.role)
        return _divided(own, every, f"{own} ms of {every} ms that all roles talked")

    def _turn_count(self, metric: Metric) -> Sum:
        own = [turn for turn in self._turns if turn[0].role is metric.role]
        places = [
            self._call.place(
                turn[0].start_ms, max(s.end_ms for s in turn),
                list(dict.fromkeys(s.segment_id for s in turn)), metric.role,
            )
            for turn in own
        ]  # fmt: skip
        return Sum(count_of(len(own), "stretch", "stretches") + " before another began", len(own),
                    places)  # fmt: skip

    def _pauses(self, start: int, end: int) -> bool:
        """Whether what lies between ends a monologue."""
        free = start >= end or length(unmasked(start, end, self._masks)) == end - start
        return not free or end - start > self._settings.silence_ms

    def _monologue(self, metric: Metric) -> Sum:
        best: Interval = (0, 0)
        start = until = None
        for segment in self._of(metric.role):
            if start is None or until is None or self._pauses(until, segment.start_ms):
                start, until = segment.start_ms, segment.end_ms
            until = max(until, segment.end_ms)
            if until - start > best[1] - best[0]:
                best = (start, until)
        ids = [s.segment_id for s in self._of(metric.role)
               if best[0] <= s.start_ms and s.end_ms <= best[1]]  # fmt: skip
        how = f"the longest stretch without a pause above {self._settings.silence_ms} ms or a mask"
        places = [self._call.place(*best, ids, metric.role)] if ids else []
        return Sum(how, best[1] - best[0], places)

    def _pace(self, metric: Metric) -> Sum:
        han = metric.name == "characters_per_minute"
        said = hear(self._call.transcript.segments, Scanner((), Grammar())).said
        spoken: dict[int, int] = defaultdict(int)
        for segment in self._of(metric.role):
            words, characters = said.get(segment.segment_id, (0, 0))
            if (words or characters) and (words < characters) is han:
                spoken[segment.segment_id] += segment.end_ms - segment.start_ms
        counted = [(self._call.segments[number], sum(said[number])) for number in spoken]
        units = sum(count for _, count in counted)
        ms = sum(spoken.values())
        what = "characters" if han else "words"
        how = f"{units} {what} in {count_of(len(counted), 'segment')} of {ms} ms × 60,000"
        places = [self._call.whole(it, f"{count} {what}") for it, count in counted]
        return _divided(units * 60_000, ms, how, places)

    def _loudness(self, metric: Metric) -> Sum:
        loud = [it for it in self._of(metric.role) if it.loudness_dbfs is not None]
        first = self._people[0].start_ms if loud else 0
        span = max((s.end_ms for s in self._people), default=0) - first
        quarters: dict[int, list[Segment]] = defaultdict(list)
        for part in loud:
            quarters[_quarter(part, first, span)].append(part)
        if metric.name == "loudness_change_db":
            told = [self._power(quarters[number]) for number in sorted(quarters)]
            if len(told) < 2:
                return Sum("its voice was measured in one quarter at most", None, [])
            how = f"first of its quarters {figure(told[0])} dBFS, last {figure(told[-1])} dBFS"
            return Sum(how, told[-1] - told[0], [])
        wanted = _QUARTER.fullmatch(metric.name)
        own = loud if wanted is None else quarters[int(wanted[1])]
        if not own:
            return Sum("no loudness of it is in the transcript", None, [])
        places = [self._call.whole(it, f"{figure(it.loudness_dbfs or 0.0)} dBFS") for it in own]
        how = f"mean power of {count_of(len(own), 'segment')}, by duration"
        return Sum(how, self._power(own), places)

    def _power(self, parts: Sequence[Segment]) -> float:
        weights = [part.end_ms - part.start_ms for part in parts]
        powers = [10 ** ((part.loudness_dbfs or 0.0) / 10) for part in parts]
        return 10 * log10(sum(map(mul, powers, weights)) / sum(weights))

    def _interruptions(self, metric: Metric) -> Sum:
        own = [it for it in self._overlaps if it.interrupts and it.second.role is metric.role]
        places = [
            self._call.place(it.start_ms, it.end_ms, [it.second.segment_id], it.second.role,
                             self._call.shown(it.second.text, [it.second.segment_id]),
                             everybody=True)
            for it in own
        ]  # fmt: skip
        ms = sum(it.end_ms - it.start_ms for it in own)
        least = self._settings.interruption_ms
        how = f"{count_of(len(own), 'time')} begun into another for {least} ms or more, {ms} ms"
        return Sum(how, ms if metric.name.endswith("_ms") else len(own), places)

    def _response(self, metric: Metric) -> Sum:
        own = [(ms, place) for role, ms, place in self._waits if role is metric.role]
        if not own:
            return Sum("this role answers nobody in the transcript", None, [])
        every = [place for _, place in own]
        total = sum(ms for ms, _ in own)
        if metric.name == "response_mean_ms":
            return _divided(total, len(own), f"{total} ms in {count_of(len(own), 'wait')}", every)
        if metric.name == "first_response_ms":
            return Sum("the first wait", own[0][0], every[:1])
        longest = max(own, key=lambda each: each[0])
        return Sum(f"the longest of {count_of(len(own), 'wait')}", longest[0], [longest[1]])

    def _silence(self, metric: Metric) -> Sum:
        spans = [(moment.start_ms, moment.end_ms) for moment in self._silences]
        each = [end - start for start, end in spans]
        values = {
            "silence_ms": sum(each),
            "silence_count": len(each),
            "silence_longest_ms": max(each, default=0),
        }
        return Sum(_adds_up("silence", spans), values[metric.name], self._silent())

    def _silent(self, notes: Sequence[str] = ()) -> list[Place]:
        said = notes or [""] * len(self._silences)
        return [
            self._call.place(it.start_ms, it.end_ms, it.segment_ids, it.role, note=note,
                             everybody=True)
            for it, note in zip(self._silences, said, strict=True)
        ]  # fmt: skip

    def _dead_air(self, metric: Metric) -> Sum:
        if not self._silences:
            return Sum("there is no silence", 0, [])
        agent = self._of(Role.AGENT)
        notes = []
        for silence in self._silences:
            near = [s for s in agent if 0 <= silence.start_ms - s.end_ms <= ANNOUNCED_MS]
            last = max(near, key=lambda s: s.end_ms, default=None)
            notes.append(
                "no agent spoke shortly before"
                if last is None
                else f"the agent before: “{self._call.shown(last.text, [last.segment_id])}”"
            )
        total = sum(it.end_ms - it.start_ms for it in self._silences)
        how = (
            f"cannot be worked out from the events: which of {count_of(len(notes), 'silence')}, "
            f"{total} ms together, an agent had announced is told by words and not kept; what was "
            "said before each is below"
        )
        return Sum(how, None, self._silent(notes))

    def _share(self, metric: Metric) -> Sum:
        part = metric.name.replace("_share", "_ms")
        own, whole = self._told.get((part, None)), self._told.get(("conversation_ms", None))
        if own is None or whole is None:
            return Sum(f"cannot be worked out: the event has no {part} or no conversation_ms",
                        None, [])  # fmt: skip
        how = f"{part} {figure(own)} of conversation_ms {figure(whole)}; their places are there"
        return _divided(min(own, whole), whole, how)

    def _spoke_at_once(self, metric: Metric) -> Sum:
        spans = [(it.start_ms, it.end_ms) for it in self._overlaps]
        places = [
            self._call.place(it.start_ms, it.end_ms, [it.second.segment_id], it.second.role,
                             everybody=True)
            for it in self._overlaps
        ]  # fmt: skip
        return Sum(_adds_up("overlap", spans), length(spans), places)

    # How it felt

    @cached_property
    def _felt(self) -> list[tuple[SegmentSentiment, Segment]]:
        """What is known, in the order of the call."""
        pairs = [
            (each, segment)
            for each in self._call.enriched.sentiments
            if each.label is not SentimentLabel.UNKNOWN
            if (segment := self._call.segments.get(each.segment_id)) is not None
        ]
        return sorted(pairs, key=lambda it: (it[1].start_ms, it[1].channel, it[1].segment_id))

    def _mean(self, felt: Sequence[tuple[SegmentSentiment, Segment]]) -> Sum:
        weights = [max(segment.end_ms - segment.start_ms, 1) for _, segment in felt]
        total = sum(each.score * w for (each, _), w in zip(felt, weights, strict=True))
        how = f"mean of {count_of(len(felt), 'segment')}, by duration ({sum(weights)} ms)"
        places = [self._call.whole(segment, f"score {figure(each.score)}")
                  for each, segment in felt]  # fmt: skip
        return _divided(total, sum(weights), how, places)

    def _feeling(self, role: str, part: str) -> Sum:
        own = [it for it in self._felt if it[0].role.lower() == role]
        third = max(len(own) // 3, 1)
        chosen = {"sentiment_start": own[:third], "sentiment_end": own[-third:]}.get(part, own)
        return self._mean(chosen)

    def course(self) -> list[Entry]:
        """Every point of the course, with the segments of its quarter."""
        first = min((segment.start_ms for _, segment in self._felt), default=0)
        span = max(max((segment.end_ms for _, segment in self._felt), default=0) - first, 1)
        quarters: dict[tuple[int, Role], list[tuple[SegmentSentiment, Segment]]] = defaultdict(list)
        for each, segment in self._felt:
            quarters[_quarter(segment, first, span), each.role].append((each, segment))
        entries = []
        for point in self._call.enriched.course:
            title = (
                f"quarter {point.quarter} {point.role.lower()}: {point.label.lower()} "
                f"{figure(point.score)}"
            )
            worked = self._mean(quarters[point.quarter, point.role])
            if not worked.places:
                worked = Sum("no segment of that quarter and role to work it out from", None, [])
            agrees = None if worked.value is None else equal(worked.value, point.score)
            entries.append(
                Entry(
                    f"{point.quarter} {point.role.lower()}",
                    title,
                    fields_of(point),
                    [worked.how],
                    agrees,
                    worked.places,
                )
            )
        return entries


def _in_order(segment: Segment) -> tuple[int, int, str, int]:
    return segment.start_ms, segment.end_ms, segment.speaker, segment.segment_id


_QUARTER = re.compile(r"loudness_q([1-4])_dbfs")
_SENTIMENT = re.compile(f"([a-z]+)_({'|'.join(sorted(SENTIMENT_METRICS, key=len, reverse=True))})")
# Of moments and other metrics: they take no transcript.
_OF_THE_EVENT = frozenset(
    ("silence_ms", "silence_count", "silence_longest_ms", "silence_share", "dead_air_share",
     "overlap_share")
)  # fmt: skip
_WORK: Mapping[str, Callable[[Figures, Metric], Sum]] = {
    "conversation_ms": Figures._conversation,
    "hold_ms": Figures._hold,
    "talk_ms": Figures._talked,
    "talk_share": Figures._talk_share,
    "turn_count": Figures._turn_count,
    "longest_monologue_ms": Figures._monologue,
    "interruption_count": Figures._interruptions,
    "interruption_ms": Figures._interruptions,
    "words_per_minute": Figures._pace,
    "characters_per_minute": Figures._pace,
    "loudness_dbfs": Figures._loudness,
    "loudness_q1_dbfs": Figures._loudness,
    "loudness_q2_dbfs": Figures._loudness,
    "loudness_q3_dbfs": Figures._loudness,
    "loudness_q4_dbfs": Figures._loudness,
    "loudness_change_db": Figures._loudness,
    "response_mean_ms": Figures._response,
    "response_max_ms": Figures._response,
    "first_response_ms": Figures._response,
    "silence_ms": Figures._silence,
    "silence_count": Figures._silence,
    "silence_longest_ms": Figures._silence,
    "silence_share": Figures._share,
    "dead_air_ms": Figures._dead_air,
    "dead_air_share": Figures._share,
    "overlap_ms": Figures._spoke_at_once,
    "overlap_share": Figures._share,
}


def _quarter(segment: Segment, first_ms: int, span_ms: int) -> int:
    """1 to 4, by its middle."""
    twice = segment.start_ms + segment.end_ms - 2 * first_ms
    return min(max(twice * 2 // span_ms, 0), 3) + 1


def _adds_up(what: str, spans: Sequence[Interval]) -> str:
    each = [end - start for start, end in spans]
    if len(each) < 2:
        return f"{count_of(len(each), what)}: {sum(each)} ms"
    first = " + ".join(map(str, each[:MOST_PLACES]))
    more = f" + {len(each) - MOST_PLACES} more" if len(each) > MOST_PLACES else ""
    return f"{count_of(len(each), what)}: {first}{more} = {sum(each)} ms"


def _divided(part: float, whole: float, how: str, places: Sequence[Place] = ()) -> Sum:
    if not whole:
        return Sum(f"{how}: nothing to divide by", None, list(places))
    return Sum(f"{how} = {figure(part / whole)}", part / whole, list(places))
