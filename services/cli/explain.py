"""Every figure and finding of a call, followed to the seconds of audio it rests on.

Figures are worked out anew, from the transcript and the definitions in `docs/metrics.md` and apart
from the code that measured them, so that it means something where both agree. What the two events
do not hold is said to be missing. Pure functions of events.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import msgspec

from schemas.events import (
    CallEnriched,
    CallSegment,
    CallTranscribed,
    Evidence,
    Finding,
    FindingKind,
    Masked,
    Metric,
    Moment,
    MomentKind,
    Redaction,
    Role,
    Segment,
    SegmentKind,
    SegmentSentiment,
    SentimentLabel,
    StoredRecording,
    Verdict,
)
from services.cli.show import NOT_REVIEWED, Reviewed, verdict_of
from services.enrich.findings import ENGINE, NOT_HUMAN, Places, hear, trusted
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
from services.enrich.pii import Mask, masked
from services.enrich.score import LEFT_OUT
from services.enrich.sentiment import SENTIMENT_METRICS, TEXT_WEIGHT, VOICE_WEIGHT, fused
from services.enrich.settings import EnrichSettings

# So many places of a metric are written as text; JSON has them all.
MOST_PLACES = 8


@dataclass(frozen=True, slots=True)
class Audio:
    """A stretch of a stored recording."""

    recording_id: str
    object_key: str
    channel: int | None
    """Null: all of them, as where nobody spoke."""
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of the call, ms since its start, and where it can be heard."""

    start_ms: int
    end_ms: int
    role: Role | None = None
    quote: str = ""
    """What is personal in it is replaced by its kind, as `[phone]`."""
    segment_ids: list[int] = field(default_factory=list)
    audio: list[Audio] = field(default_factory=list)
    """Empty where no stored recording holds it."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One figure or finding."""

    name: str
    """Of the metric, finding, criterion, rule ..."""
    title: str
    """What it says, in a line."""
    value: dict[str, Any]
    """The fields of the event, without the evidence."""
    comes_from: list[str] = field(default_factory=list)
    """How it follows from the places, or why that cannot be told."""
    agrees: bool | None = None
    """Whether that gives the event's figure; null where nothing can be worked out."""
    places: list[Place] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Explanation:
    tenant_id: str
    call_id: str
    transcript_id: str
    rules_version: str
    recordings: list[StoredRecording]
    notes: list[str]
    groups: dict[str, list[Entry]]
    """Group -> its entries; a group without any is there too."""


def explain(
    transcript: CallTranscribed,
    enriched: CallEnriched,
    alerts: Sequence[Mapping[str, Any]] = (),
    *,
    transcript_id: str | None = None,
    settings: EnrichSettings | None = None,
    reviewed: Reviewed = NOT_REVIEWED,
) -> Explanation:
    """All that `enriched` says, each with what it comes from.

    Figures are those computed; what people judged otherwise is told beside them.
    `alerts` are rows of the view `call_alerts`, of those that were raised. `transcript_id` is the
    event id of `transcript`, None where it is the one that `enriched` was made from: of another
    one nothing is worked out. `settings` are the limits to reckon with; those that were in use
    when the call was enriched are in no event.
    """
    same = transcript_id in (None, enriched.transcript_id)
    call = _Call(transcript, enriched, same)
    figures = _Figures(call, settings or EnrichSettings())
    notes = [
        "limits are those of the settings here: that others were in use shows where a figure "
        "does not come out",
        "what is personal is shown by its kind",
    ]
    if not same:
        notes.append(
            f"made from the transcript {enriched.transcript_id}, which is not the current one: "
            "figures cannot be worked out anew, and places have no channel"
        )
    notes += [
        f"{_review(call, row)}; it counts for nothing: the score has no criterion "
        f"{row['criterion_id']}"
        for row in reviewed.beside(enriched)
    ]
    whole = reviewed.of("")
    if whole is not None and enriched.score is None:
        notes.append(f"{_review(call, whole)}; no score was computed")
    groups = {
        "score": _score(call, reviewed),
        "alerts": _alerts(call, alerts),
        "findings": _findings(call),
        "summary": _summary(call),
        "keywords": _keywords(call),
        "moments": [_moment(call, moment) for moment in enriched.moments],
        "metrics": [figures.entry(metric) for metric in enriched.metrics],
        "sentiments": [_sentiment(call, each) for each in enriched.sentiments],
        "course": figures.course(),
        "redactions": [_redaction(call, each) for each in enriched.redactions],
    }
    return Explanation(
        tenant_id=enriched.tenant_id,
        call_id=enriched.call_id,
        transcript_id=enriched.transcript_id,
        rules_version=enriched.rules_version,
        recordings=list(transcript.recordings),
        notes=[*notes, _tally(groups)],
        groups=groups,
    )


def _tally(groups: Mapping[str, Sequence[Entry]]) -> str:
    figures = [*groups["metrics"], *groups["sentiments"], *groups["course"], *groups["score"][:1]]
    agree = sum(entry.agrees is True for entry in figures)
    differ = sum(entry.agrees is False for entry in figures)
    return (
        f"of {_count(len(figures), 'figure')} {agree} come out the same when worked out anew, "
        f"{differ} do not, and {len(figures) - agree - differ} cannot be worked out"
    )


def as_json(explanation: Explanation) -> str:
    """All of it, field by field."""
    return json.dumps(msgspec.to_builtins(explanation), ensure_ascii=False, indent=1) + "\n"


def as_text(explanation: Explanation) -> str:
    """For reading. Of a metric at most MOST_PLACES places are named."""
    whose = _line(f"{explanation.tenant_id}/{explanation.call_id}")
    lines = [
        f"{whose}   transcript {_line(explanation.transcript_id)}, rules "
        f"{_line(explanation.rules_version)}",
    ]
    for stored in explanation.recordings:
        end_ms = stored.start_offset_ms + stored.duration_ms
        roles = ", ".join(f"{at} {role.lower()}" for at, role in enumerate(stored.channel_roles))
        lines.append(
            f"recording {_line(stored.recording_id)}: {_line(stored.object_key)}, "
            f"{moment_of(stored.start_offset_ms)} to {moment_of(end_ms)} of the call, "
            f"{stored.channels} channel{'s' * (stored.channels != 1)}"
            + (f": {roles}" * bool(roles))
        )
    lines += [f"note: {note}" for note in explanation.notes]
    lines.append(f"to hear a place: callstream clip {whose} START END --out FILE.wav")
    for group, entries in explanation.groups.items():
        lines += ["", group if entries else f"{group}: none"]
        for entry in entries:
            lines.append(f"  {_line(entry.title)}")
            lines += [f"    {_line(said)}" for said in entry.comes_from]
            if entry.agrees is False:
                lines.append("    this does not come to what the event says")
            shown = entry.places if group != "metrics" else entry.places[:MOST_PLACES]
            lines += [_placed(place) for place in shown]
            if more := len(entry.places) - len(shown):
                lines.append(f"    and {more} more: --format json has them")
    return "\n".join(lines) + "\n"


def _placed(place: Place) -> str:
    said = f"    {moment_of(place.start_ms)} to {moment_of(place.end_ms)}"
    if place.role is not None:
        said += f"  {place.role.lower()}"
    if place.quote:
        said += f": “{_line(place.quote)}”"
    if place.note:
        said += f"  ({_line(place.note)})"
    heard = "; ".join(
        f"{_line(it.recording_id)}, "
        + ("all channels" if it.channel is None else f"channel {it.channel}")
        + f", {it.start_s:.3f} s to {it.end_s:.3f} s"
        for it in place.audio
    )
    return f"{said}  [{heard or 'in no stored recording'}]"


def moment_of(ms: int) -> str:
    """A time of the call as mm:ss.mmm, with hours where there are any; `clip` reads it."""
    sign, ms = ("-", -ms) if ms < 0 else ("", ms)
    minutes, rest = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    said = f"{minutes:02}:{rest // 1000:02}.{rest % 1000:03}"
    return f"{sign}{hours}:{said}" if hours else sign + said


def _line(text: str) -> str:
    """In one line, and without what a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _number(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".")


def _equal(mine: float, told: float) -> bool:
    """Up to what rounding to four digits leaves."""
    return abs(mine - told) < 1e-4 + 1e-9 * abs(told)


def _fields(event: Any, *without: str) -> dict[str, Any]:
    """Of the event, without what is told as places."""
    fields: dict[str, Any] = msgspec.to_builtins(event)
    return {name: value for name, value in fields.items() if name not in without}


class _Call:
    """The two events, and how a time of the call becomes a place in its audio."""

    def __init__(self, transcript: CallTranscribed, enriched: CallEnriched, same: bool) -> None:
        self.transcript, self.enriched, self.same = transcript, enriched, same
        self.segments = {s.segment_id: s for s in transcript.segments} if same else {}
        self.emotions: dict[int, list[Finding]] = defaultdict(list)
        for finding in enriched.findings:
            if finding.kind is FindingKind.EMOTION:
                for number in finding.evidence.segment_ids:
                    self.emotions[number].append(finding)
        self._recordings = {each.recording_id: each for each in transcript.recordings}
        self._personal: dict[int, list[Redaction]] = defaultdict(list)
        for each in enriched.redactions:
            self._personal[each.segment_id].append(each)

    def place(
        self,
        start_ms: int,
        end_ms: int,
        segment_ids: Sequence[int] = (),
        role: Role | None = None,
        quote: str = "",
        note: str = "",
        *,
        everybody: bool = False,
    ) -> Place:
        """Heard on the channels of its segments; on all where it has none, or `everybody`'s."""
        beside = [] if everybody else [self.segments.get(number) for number in segment_ids]
        on = {(s.recording_id, s.channel): None for s in beside if s is not None}
        heard = [
            audio
            for recording_id, channel in on
            if (stored := self._recordings.get(recording_id)) is not None
            if (audio := _within(stored, channel, start_ms, end_ms)) is not None
        ]
        if not heard:
            found = (_within(it, None, start_ms, end_ms) for it in self.transcript.recordings)
            heard = [audio for audio in found if audio is not None]
        return Place(start_ms, end_ms, role, quote, list(segment_ids), heard, note)

    def evidence(self, evidence: Evidence) -> Place:
        """With a note where its words do not stand in its segments, or their times are rough."""
        quoted = [
            segment for number in evidence.segment_ids if (segment := self.segments.get(number))
        ]
        notes = []
        if evidence.quote and quoted and not any(_has(s.text, evidence.quote) for s in quoted):
            notes.append("these words do not stand so in its segments")
        if any(segment.words_interpolated for segment in quoted):
            notes.append("times of words are spread over the segment, not heard")
        return self.place(
            evidence.start_ms,
            evidence.end_ms,
            evidence.segment_ids,
            evidence.role,
            self.shown(evidence.quote, evidence.segment_ids),
            "; ".join(notes),
        )

    def whole(self, segment: Segment, note: str = "") -> Place:
        quote = self.shown(segment.text, [segment.segment_id])
        return self.place(segment.start_ms, segment.end_ms, [segment.segment_id], segment.role,
                          quote, note)  # fmt: skip

    def shown(self, text: str, segment_ids: Sequence[int] = ()) -> str:
        """`text`, which rests on these segments (none: on any), without what is personal there."""
        for number in segment_ids or sorted(self._personal):
            personal = self._personal.get(number, [])
            if not text or not personal:
                continue
            segment = self.segments.get(number)
            if segment is None:
                return "[not shown: its segment holds something personal]"
            text = _without(text, segment.text, personal)
        return text


def _within(
    stored: StoredRecording, channel: int | None, start_ms: int, end_ms: int
) -> Audio | None:
    """Where in the recording that part of the call is that it holds; None where it holds none."""
    start = max(start_ms - stored.start_offset_ms, 0)
    end = min(end_ms - stored.start_offset_ms, stored.duration_ms)
    if start > end or (start == end and start_ms != end_ms):
        return None
    return Audio(stored.recording_id, stored.object_key, channel, start / 1000, end / 1000)


def _has(text: str, quote: str) -> bool:
    return " ".join(quote.split()) in " ".join(text.split())


def _without(quote: str, text: str, personal: Sequence[Redaction]) -> str:
    """`quote` without what is personal of `text`: by place where it stands there, else by words."""
    at, stands = text.find(quote), False
    while at >= 0:
        inside = [
            replace(each, start=max(each.start - at, 0), end=min(each.end - at, len(quote)))
            for each in personal
            if each.start < at + len(quote) and at < each.end
        ]
        if inside:
            return masked(quote, inside, Mask.LABEL)
        stands, at = True, text.find(quote, at + 1)
    if stands:
        return quote
    for each in personal:
        if words := text[max(each.start, 0) : max(each.end, 0)].strip():
            quote = re.sub(re.escape(words), f"[{each.kind.lower()}]", quote, flags=re.IGNORECASE)
    return quote


def _in_order(segment: Segment) -> tuple[int, int, str, int]:
    return segment.start_ms, segment.end_ms, segment.speaker, segment.segment_id


class _Sum(NamedTuple):
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


class _Figures:
    """The figures of a call, worked out anew."""

    def __init__(self, call: _Call, settings: EnrichSettings) -> None:
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
        title = f"{metric.name}{whose} {_number(metric.value)}" + (f": {says}" if says else "")
        agrees = None if worked.value is None else _equal(worked.value, metric.value)
        return Entry(metric.name, title, _fields(metric), [worked.how], agrees, worked.places)

    def _worked_out(self, metric: Metric) -> _Sum:
        name = metric.name
        if name not in _OF_THE_EVENT and not self._call.same:
            return _Sum("cannot be worked out from another transcript", None, [])
        if (work := _WORK.get(name)) is not None:
            return work(self, metric)
        if (part := _SENTIMENT.fullmatch(name)) is not None:
            return self._feeling(part[1], part[2])
        return _Sum("no figure that this version knows: nothing to follow", None, [])

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

    def _conversation(self, metric: Metric) -> _Sum:
        if not self._people:
            return _Sum("nobody was heard to speak", None, [])
        start, end = self._people[0].start_ms, max(s.end_ms for s in self._people)
        rest = length(unmasked(start, end, self._masks))
        how = f"first word to last: {end - start} ms, {end - start - rest} ms of them masked"
        return _Sum(how, rest, [self._call.place(start, end)])

    def _hold(self, metric: Metric) -> _Sum:
        transcript = self._call.transcript
        known: list[Masked | CallSegment] = [*transcript.masked, *transcript.call.segments]
        holds = merged((p.start_ms, p.end_ms) for p in known if p.kind is SegmentKind.HOLD)
        if not holds:
            return _Sum("telephony tells no hold interval: this is its total of the call",
                        transcript.call.hold_ms or 0, [])  # fmt: skip
        return _Sum(_adds_up("hold", holds), length(holds), [self._call.place(*it) for it in holds])

    def _talked(self, metric: Metric) -> _Sum:
        own = self._of(metric.role)
        union = self._talk(metric.role)
        together = sum(segment.end_ms - segment.start_ms for segment in own)
        how = f"{_count(len(own), 'segment')}, {together} ms"
        if together != union:
            how += f"; {together - union} ms of them lie in two and count once: {union} ms"
        return _Sum(how, union, [self._call.whole(segment) for segment in own])

    def _talk_share(self, metric: Metric) -> _Sum:
        every = sum(self._talk(role) for role in {segment.role for segment in self._people})
        own = self._talk(metric.role)
        return _divided(own, every, f"{own} ms of {every} ms that all roles talked")

    def _turn_count(self, metric: Metric) -> _Sum:
        own = [turn for turn in self._turns if turn[0].role is metric.role]
        places = [
            self._call.place(
                turn[0].start_ms, max(s.end_ms for s in turn),
                list(dict.fromkeys(s.segment_id for s in turn)), metric.role,
            )
            for turn in own
        ]  # fmt: skip
        return _Sum(_count(len(own), "stretch", "stretches") + " before another began", len(own),
                    places)  # fmt: skip

    def _pauses(self, start: int, end: int) -> bool:
        """Whether what lies between ends a monologue."""
        free = start >= end or length(unmasked(start, end, self._masks)) == end - start
        return not free or end - start > self._settings.silence_ms

    def _monologue(self, metric: Metric) -> _Sum:
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
        return _Sum(how, best[1] - best[0], places)

    def _pace(self, metric: Metric) -> _Sum:
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
        how = f"{units} {what} in {_count(len(counted), 'segment')} of {ms} ms × 60,000"
        places = [self._call.whole(it, f"{count} {what}") for it, count in counted]
        return _divided(units * 60_000, ms, how, places)

    def _interruptions(self, metric: Metric) -> _Sum:
        own = [it for it in self._overlaps if it.interrupts and it.second.role is metric.role]
        places = [
            self._call.place(it.start_ms, it.end_ms, [it.second.segment_id], it.second.role,
                             self._call.shown(it.second.text, [it.second.segment_id]),
                             everybody=True)
            for it in own
        ]  # fmt: skip
        ms = sum(it.end_ms - it.start_ms for it in own)
        least = self._settings.interruption_ms
        how = f"{_count(len(own), 'time')} begun into another for {least} ms or more, {ms} ms"
        return _Sum(how, ms if metric.name.endswith("_ms") else len(own), places)

    def _response(self, metric: Metric) -> _Sum:
        own = [(ms, place) for role, ms, place in self._waits if role is metric.role]
        if not own:
            return _Sum("this role answers nobody in the transcript", None, [])
        every = [place for _, place in own]
        total = sum(ms for ms, _ in own)
        if metric.name == "response_mean_ms":
            return _divided(total, len(own), f"{total} ms in {_count(len(own), 'wait')}", every)
        if metric.name == "first_response_ms":
            return _Sum("the first wait", own[0][0], every[:1])
        longest = max(own, key=lambda each: each[0])
        return _Sum(f"the longest of {_count(len(own), 'wait')}", longest[0], [longest[1]])

    def _silence(self, metric: Metric) -> _Sum:
        spans = [(moment.start_ms, moment.end_ms) for moment in self._silences]
        each = [end - start for start, end in spans]
        values = {
            "silence_ms": sum(each),
            "silence_count": len(each),
            "silence_longest_ms": max(each, default=0),
        }
        return _Sum(_adds_up("silence", spans), values[metric.name], self._silent())

    def _silent(self, notes: Sequence[str] = ()) -> list[Place]:
        said = notes or [""] * len(self._silences)
        return [
            self._call.place(it.start_ms, it.end_ms, it.segment_ids, it.role, note=note,
                             everybody=True)
            for it, note in zip(self._silences, said, strict=True)
        ]  # fmt: skip

    def _dead_air(self, metric: Metric) -> _Sum:
        if not self._silences:
            return _Sum("there is no silence", 0, [])
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
            f"cannot be worked out from the events: which of {_count(len(notes), 'silence')}, "
            f"{total} ms together, an agent had announced is told by words and not kept; what was "
            "said before each is below"
        )
        return _Sum(how, None, self._silent(notes))

    def _share(self, metric: Metric) -> _Sum:
        part = metric.name.replace("_share", "_ms")
        own, whole = self._told.get((part, None)), self._told.get(("conversation_ms", None))
        if own is None or whole is None:
            return _Sum(f"cannot be worked out: the event has no {part} or no conversation_ms",
                        None, [])  # fmt: skip
        how = f"{part} {_number(own)} of conversation_ms {_number(whole)}; their places are there"
        return _divided(min(own, whole), whole, how)

    def _spoke_at_once(self, metric: Metric) -> _Sum:
        spans = [(it.start_ms, it.end_ms) for it in self._overlaps]
        places = [
            self._call.place(it.start_ms, it.end_ms, [it.second.segment_id], it.second.role,
                             everybody=True)
            for it in self._overlaps
        ]  # fmt: skip
        return _Sum(_adds_up("overlap", spans), length(spans), places)

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

    def _mean(self, felt: Sequence[tuple[SegmentSentiment, Segment]]) -> _Sum:
        weights = [max(segment.end_ms - segment.start_ms, 1) for _, segment in felt]
        total = sum(each.score * w for (each, _), w in zip(felt, weights, strict=True))
        how = f"mean of {_count(len(felt), 'segment')}, by duration ({sum(weights)} ms)"
        places = [self._call.whole(segment, f"score {_number(each.score)}")
                  for each, segment in felt]  # fmt: skip
        return _divided(total, sum(weights), how, places)

    def _feeling(self, role: str, part: str) -> _Sum:
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
            twice = segment.start_ms + segment.end_ms - 2 * first
            quarters[min(max(twice * 2 // span, 0), 3) + 1, each.role].append((each, segment))
        entries = []
        for point in self._call.enriched.course:
            title = (
                f"quarter {point.quarter} {point.role.lower()}: {point.label.lower()} "
                f"{_number(point.score)}"
            )
            worked = self._mean(quarters[point.quarter, point.role])
            if not worked.places:
                worked = _Sum("no segment of that quarter and role to work it out from", None, [])
            agrees = None if worked.value is None else _equal(worked.value, point.score)
            entries.append(
                Entry(f"{point.quarter} {point.role.lower()}", title, _fields(point), [worked.how],
                      agrees, worked.places)
            )  # fmt: skip
        return entries


_SENTIMENT = re.compile(f"([a-z]+)_({'|'.join(sorted(SENTIMENT_METRICS, key=len, reverse=True))})")
# Of moments and other metrics: they take no transcript.
_OF_THE_EVENT = frozenset(
    ("silence_ms", "silence_count", "silence_longest_ms", "silence_share", "dead_air_share",
     "overlap_share")
)  # fmt: skip
_WORK: Mapping[str, Callable[[_Figures, Metric], _Sum]] = {
    "conversation_ms": _Figures._conversation,
    "hold_ms": _Figures._hold,
    "talk_ms": _Figures._talked,
    "talk_share": _Figures._talk_share,
    "turn_count": _Figures._turn_count,
    "longest_monologue_ms": _Figures._monologue,
    "interruption_count": _Figures._interruptions,
    "interruption_ms": _Figures._interruptions,
    "words_per_minute": _Figures._pace,
    "characters_per_minute": _Figures._pace,
    "response_mean_ms": _Figures._response,
    "response_max_ms": _Figures._response,
    "first_response_ms": _Figures._response,
    "silence_ms": _Figures._silence,
    "silence_count": _Figures._silence,
    "silence_longest_ms": _Figures._silence,
    "silence_share": _Figures._share,
    "dead_air_ms": _Figures._dead_air,
    "dead_air_share": _Figures._share,
    "overlap_ms": _Figures._spoke_at_once,
    "overlap_share": _Figures._share,
}


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _adds_up(what: str, spans: Sequence[Interval]) -> str:
    each = [end - start for start, end in spans]
    if len(each) < 2:
        return f"{_count(len(each), what)}: {sum(each)} ms"
    first = " + ".join(map(str, each[:MOST_PLACES]))
    more = f" + {len(each) - MOST_PLACES} more" if len(each) > MOST_PLACES else ""
    return f"{_count(len(each), what)}: {first}{more} = {sum(each)} ms"


def _divided(part: float, whole: float, how: str, places: Sequence[Place] = ()) -> _Sum:
    if not whole:
        return _Sum(f"{how}: nothing to divide by", None, list(places))
    return _Sum(f"{how} = {_number(part / whole)}", part / whole, list(places))


def _moment(call: _Call, moment: Moment) -> Entry:
    turns = moment.kind in (MomentKind.TURN_BETTER, MomentKind.TURN_WORSE)
    lasts = moment.end_ms - moment.start_ms
    whose = "" if moment.role is None else f" ({moment.role.lower()})"
    place = call.place(moment.start_ms, moment.end_ms, moment.segment_ids, moment.role,
                       everybody=not turns)  # fmt: skip
    beside = [call.whole(call.segments[n], "bears it out" if turns else "beside it")
              for n in moment.segment_ids if n in call.segments]  # fmt: skip
    return Entry(
        moment.kind.value,
        f"{moment.kind.lower()}{whose}, {lasts} ms",
        _fields(moment),
        places=[place, *beside],
    )


def _sentiment(call: _Call, felt: SegmentSentiment) -> Entry:
    """The whole segment, then the words of emotion in it."""
    title = (
        f"segment {felt.segment_id} ({felt.role.lower()}): {felt.label.lower()} "
        f"{_number(felt.score)}, told by {felt.engine}"
    )
    text, voice = felt.text_score, felt.voice_score
    both = fused(text, voice)
    # What told of the words comes first.
    teller = felt.engine.partition("+")[0]
    by_model = text is not None and teller != ENGINE
    if both is None:
        known = felt.label is not SentimentLabel.UNKNOWN
        how = ["words and voice are not told apart in this event" if known
               else "neither words nor voice tell anything"]  # fmt: skip
    elif text is None:
        how = [f"voice {felt.voice} {_number(voice or 0.0)} alone counts half: {_number(both)}"]
    elif voice is None:
        how = [f"words {_number(text)} alone: {_number(both)}"]
    else:
        how = [
            f"words {_number(text)} × {TEXT_WEIGHT} + voice {felt.voice} {_number(voice)} × "
            f"{VOICE_WEIGHT} = {_number(both)}"
        ]
    heard = [
        replace(call.evidence(finding.evidence), note=f"{finding.label}, {finding.rule}")
        for finding in call.emotions.get(felt.segment_id, ())
    ]
    if by_model:
        how.append(
            f"the words were judged by the model {teller}, which is not asked again here"
            + ("; the emotions found below are the lexicon's, and do not count" * bool(heard))
        )
    elif heard:
        how.append("what each word weighs is in the lexicon, not in the event")
    segment = call.segments.get(felt.segment_id)
    if segment is None:
        how.append("its segment is not in the transcript at hand")
    return Entry(
        str(felt.segment_id),
        title,
        _fields(felt),
        how,
        None if both is None else _equal(both, felt.score),
        [*([] if segment is None else [call.whole(segment)]), *heard],
    )


def _findings(call: _Call) -> list[Entry]:
    entries = []
    for finding in call.enriched.findings:
        sure = "exact match" if finding.confidence is None else f"{finding.confidence:.0%} sure"
        how = [
            f"by {finding.rule}, version {finding.rule_version}, engine {finding.engine}, {sure}"
        ]
        suggestion = call.shown(finding.suggestion, finding.evidence.segment_ids)
        if suggestion:
            how.append(f"to do: {suggestion}")
        title = (
            f"{finding.kind.lower()} {finding.label} ({finding.role.lower()})   "
            f"[{finding.finding_id}]"
        )
        fields = _fields(finding, "evidence") | {"suggestion": suggestion}
        places = [call.evidence(finding.evidence)]
        entries.append(Entry(finding.finding_id, title, fields, how, places=places))
    return entries


def _review(call: _Call, row: Mapping[str, Any]) -> str:
    said = verdict_of(row["verdict"]) if row["score"] is None else f"{_number(row['score'])} of 100"
    return f"reviewed by {row['reviewed_by']}: {said}, because {call.shown(row['reason'])}"


def _score(call: _Call, reviewed: Reviewed) -> list[Entry]:
    """The score with its arithmetic, then what each criterion and rule gave."""
    score = call.enriched.score
    if score is None:
        return []
    met = sum(c.weight for c in score.criteria if c.verdict is Verdict.MET)
    of = sum(c.weight for c in score.criteria if c.verdict not in LEFT_OUT)
    if of:
        value = 100 * met / of
        how = [f"{_number(met)} of {_number(of)} points that apply = {value:.2f}"]
    else:
        value, how = 0.0, ["no criterion applies"]
    for change in score.changes:
        value += change.points
        how.append(f"{change.points:+g} by rule {change.rule}: {value:.2f}")
    if not 0.0 <= value <= 100.0:
        value = min(max(value, 0.0), 100.0)
        how.append(f"within 0 to 100: {value:.2f}")
    # The parts may be rounded to two digits before they are added.
    agrees = abs(value - score.value) < 0.02 if of else None
    whole = reviewed.of("")
    if whole is not None:
        how.append(_review(call, whole))
    if len(reviewed.beside(call.enriched)) < len(reviewed.rows):
        counts = "no score" if reviewed.score is None else _number(reviewed.score)
        how.append(f"what counts, as people reviewed it: {counts}")
    entries = [
        Entry(
            "score",
            f"score {_number(score.value)} of 100, by {score.scorecard}, version "
            f"{score.scorecard_version}",
            _fields(score, "criteria", "changes"),
            how,
            agrees,
        )
    ]
    for criterion in score.criteria:
        ids = _ids(criterion.evidence)
        verdict = criterion.verdict.lower().replace("_", " ")
        suggestion, reason = (
            call.shown(criterion.suggestion, ids),
            call.shown(criterion.reason, ids),
        )
        fields = _fields(criterion, "evidence") | {"reason": reason, "suggestion": suggestion}
        row = reviewed.of(criterion.criterion_id)
        entries.append(
            Entry(
                criterion.criterion_id,
                f"{verdict}, weight {_number(criterion.weight)}: {criterion.title}   "
                f"[{criterion.criterion_id}]",
                fields,
                [
                    f"{criterion.engine}: {reason}",
                    *([f"to do: {suggestion}"] if suggestion else []),
                    *([] if row is None else [_review(call, row)]),
                ],
                places=[call.evidence(each) for each in criterion.evidence],
            )
        )
    for change in score.changes:
        reason = call.shown(change.reason, _ids(change.evidence))
        entries.append(
            Entry(
                change.rule,
                f"{change.points:+g} points by rule {change.rule}, version {change.rule_version}",
                _fields(change, "evidence") | {"reason": reason},
                [reason],
                places=[call.evidence(each) for each in change.evidence],
            )
        )
    return entries


def _ids(evidence: Iterable[Evidence]) -> list[int]:
    return [number for each in evidence for number in each.segment_ids]


def _alerts(call: _Call, rows: Sequence[Mapping[str, Any]]) -> list[Entry]:
    raised = {row["rule"]: row for row in rows}
    entries = []
    for rule in call.enriched.alerts:
        row = raised.get(rule)
        if row is None:
            how = ["no alert of it was raised (a replay raises none): its evidence is in no event"]
            entries.append(Entry(rule, f"{rule}: matches", {"rule": rule}, how))
            continue
        places = [
            call.evidence(
                Evidence(start_ms=int(start), end_ms=int(end), quote=quote,
                         segment_ids=[int(number) for number in ids], role=_role(call, ids))
            )
            for quote, start, end, ids in zip(
                row["quotes"], row["start_ms"], row["end_ms"], row["segment_ids"], strict=True
            )
        ]  # fmt: skip
        reason = call.shown(row["reason"], [n for place in places for n in place.segment_ids])
        entries.append(
            Entry(
                rule,
                f"{rule} ({row['severity'].lower()}): {row['title']}",
                {
                    "rule": rule, "rule_version": row["rule_version"], "severity": row["severity"],
                    "title": row["title"], "reason": reason,
                    "suggested_action": row["suggested_action"],
                },
                [
                    f"by version {row['rule_version']} of the rule: {reason}",
                    f"to do: {row['suggested_action']}",
                ],
                places=places,
            )
        )  # fmt: skip
    return entries


def _role(call: _Call, segment_ids: Sequence[Any]) -> Role:
    """The view keeps no role: that of the first segment."""
    segment = call.segments.get(int(segment_ids[0])) if segment_ids else None
    return Role.UNKNOWN if segment is None else segment.role


_HAN = re.compile(r"[㐀-鿿]")


def _keywords(call: _Call) -> list[Entry]:
    """Where each is written as it is told; a form of it ("refunds") is not found so."""
    entries = []
    said = [s for s in call.segments.values() if trusted(s) and s.role not in NOT_HUMAN]
    for keyword in call.enriched.keywords:
        border = "" if _HAN.search(keyword.text) else r"\b"
        words = r"\s+".join(map(re.escape, keyword.text.split()))
        pattern = re.compile(f"{border}{words}{border}", re.IGNORECASE) if words else None
        places = [
            call.evidence(Places(segment).evidence(*match.span()))
            for segment in said
            if pattern is not None
            for match in pattern.finditer(segment.text)
        ]
        how = f"{_count(len(places), 'place')} where it is written so, said {keyword.count} times"
        if len(places) != keyword.count:
            how += ": other forms of a word count too, and what is found here need not count"
        title = f"{keyword.text} (mostly {keyword.role.lower()}), weight {_number(keyword.weight)}"
        agrees = True if len(places) == keyword.count else None
        entries.append(Entry(keyword.text, title, _fields(keyword), [how], agrees, places))
    return entries


def _summary(call: _Call) -> list[Entry]:
    """What made it, then each sentence and statement with what it rests on."""
    summary = call.enriched.summary
    if summary is None:
        return []
    how = [f"answered: {summary.answered.lower()}, resolution: {summary.resolution.lower()}"]
    if summary.degraded:
        how.append(f"a lesser method, because {summary.degraded}")
    if summary.dropped:
        how.append(f"left out because it rested on nothing said: {summary.dropped}")
    if (usage := summary.usage) is not None:
        how.append(
            f"{_count(usage.requests, 'request')}, {usage.prompt_tokens} + "
            f"{usage.completion_tokens} tokens, {usage.seconds:g} s"
        )
    entries = [
        Entry(
            "summary",
            f"by {summary.method}, version {summary.version}",
            _fields(summary, "sentences", "statements"),
            how,
        )
    ]
    for number, sentence in enumerate(summary.sentences, 1):
        text = call.shown(sentence.text, sentence.evidence.segment_ids)
        entries.append(
            Entry(f"sentence {number}", text, {"text": text},
                  places=[call.evidence(sentence.evidence)])
        )  # fmt: skip
    for number, statement in enumerate(summary.statements, 1):
        text = call.shown(statement.text, _ids(statement.evidence))
        kind = statement.kind.value
        entries.append(
            Entry(f"statement {number}", f"{kind.lower()}: {text}", {"kind": kind, "text": text},
                  places=[call.evidence(each) for each in statement.evidence])
        )  # fmt: skip
    return entries


def _redaction(call: _Call, redaction: Redaction) -> Entry:
    """By its place alone: never the words."""
    segment = call.segments.get(redaction.segment_id)
    role = None if segment is None else segment.role
    ids = [redaction.segment_id]
    return Entry(
        f"{redaction.segment_id}:{redaction.start}",
        f"{redaction.kind.lower()}, segment {redaction.segment_id}, characters {redaction.start} "
        f"to {redaction.end}",
        _fields(redaction),
        places=[call.place(redaction.start_ms, redaction.end_ms, ids, role)],
    )
