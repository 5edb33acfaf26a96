"""How the conversation went: who talked how long, when nobody did, who spoke into whom.

Times are integer milliseconds. Nothing depends on where the call starts, on which channel is
whose or on the order the segments come in. Hold, secure pause and whatever else was masked counts
for nothing: neither as silence or wait, nor what was spoken in it. Cost: n log n in the segments
and masks. What each metric says is told in `docs/metrics.md`.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import log10

from schemas.events import (
    CallSegment,
    CallTranscribed,
    Flag,
    Masked,
    Metric,
    Moment,
    MomentKind,
    Role,
    Segment,
    SegmentKind,
)
from services.enrich.settings import EnrichSettings

MASKING = frozenset(
    (
        SegmentKind.HOLD,
        SegmentKind.SECURE_PAUSE,
        SegmentKind.IVR,
        SegmentKind.QUEUE,
        SegmentKind.RINGING,
        SegmentKind.TRANSFER,
        SegmentKind.ACW,
    )
)
# Nobody converses with these; while they sound it is not silent either.
MACHINES = frozenset((Role.IVR, Role.VOICEMAIL))
# Segments under these flags hold no voice of the conversation.
NOT_HEARD = frozenset((Flag.NO_SPEECH, Flag.INSIDE_HOLD, Flag.INSIDE_SILENCE))
# Segments under these flags hold a voice, but not these words.
NOT_SAID = NOT_HEARD | {Flag.REPEAT_LOOP, Flag.TOO_FAST}
# Who spoke this shortly before has not begun anew: they go on.
GOES_ON_MS = 1_000
# Of a heap of segments that overlap one another, so many tell where it is.
MOST_BESIDE = 32
# An announcement covers the silences that begin this soon after it: time for the customer's "sure".
ANNOUNCED_MS = 10_000

METRICS = {
    "conversation_ms": "first word to last, without what was masked",
    "hold_ms": "on hold, all holds together",
    "talk_ms": "spoke, per role",
    "talk_share": "of all talking, 0.0 to 1.0, per role",
    "turn_count": "times a role took the floor",
    "longest_monologue_ms": "longest stretch without a silence, per role",
    "interruption_count": "times a role spoke into another who went on, per role",
    "interruption_ms": "spoken into the other in these, per role",
    "words_per_minute": "over the time a role spoke",
    "characters_per_minute": "Han characters over the time a role spoke",
    "loudness_dbfs": "mean power of the voice, 0 is full scale, per role",
    "loudness_q1_dbfs": "the same in the first quarter of the conversation, per role",
    "loudness_q2_dbfs": "in the second quarter, per role",
    "loudness_q3_dbfs": "in the third quarter, per role",
    "loudness_q4_dbfs": "in the last quarter, per role",
    "loudness_change_db": "last of these quarters less the first, per role",
    "response_mean_ms": "from the last word of anybody to this role's answer, per role",
    "response_max_ms": "the slowest of these, per role",
    "first_response_ms": "the first of these, per role",
    "silence_ms": "nobody spoke, counting only silences",
    "silence_count": "silences",
    "silence_longest_ms": "the longest silence",
    "silence_share": "silences in conversation_ms, 0.0 to 1.0",
    "dead_air_ms": "silences that no agent announced",
    "dead_air_share": "of conversation_ms, 0.0 to 1.0",
    "overlap_ms": "two or more spoke at once",
    "overlap_share": "of conversation_ms, 0.0 to 1.0",
}
"""Name -> what it is, of every metric a rule may ask for."""

OF_A_ROLE = frozenset(
    (
        "talk_ms",
        "talk_share",
        "turn_count",
        "longest_monologue_ms",
        "interruption_count",
        "interruption_ms",
        "words_per_minute",
        "characters_per_minute",
        "loudness_dbfs",
        "loudness_q1_dbfs",
        "loudness_q2_dbfs",
        "loudness_q3_dbfs",
        "loudness_q4_dbfs",
        "loudness_change_db",
        "response_mean_ms",
        "response_max_ms",
        "first_response_ms",
    )
)
"""Those measured per role; the others are of the call."""

Interval = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Turn:
    """A stretch in which one speaker spoke and nobody else began."""

    speaker: str
    role: Role
    start_ms: int
    end_ms: int
    segment_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    metrics: list[Metric]
    moments: list[Moment]
    turns: list[Turn]
    """All of them, those in masks too: telephony's clock may be off by a greeting."""


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """The union, as disjoint intervals in order; empty and backward ones are dropped."""
    union: list[Interval] = []
    for start, end in sorted(pair for pair in intervals if pair[0] < pair[1]):
        if union and start <= union[-1][1]:
            union[-1] = (union[-1][0], max(end, union[-1][1]))
        else:
            union.append((start, end))
    return union


def length(intervals: Iterable[Interval]) -> int:
    return sum(end - start for start, end in intervals)


def masked_intervals(event: CallTranscribed) -> list[Interval]:
    """What was not transcribed, and what telephony knows to be no conversation."""
    return merged(
        [
            *((mask.start_ms, mask.end_ms) for mask in event.masked),
            *((part.start_ms, part.end_ms) for part in event.call.segments if part.kind in MASKING),
        ]
    )


def hold_ms(event: CallTranscribed) -> int:
    """Milliseconds on hold: from the intervals where there are any, else as the platform says."""
    known: list[Masked | CallSegment] = [*event.masked, *event.call.segments]
    holds = merged((p.start_ms, p.end_ms) for p in known if p.kind is SegmentKind.HOLD)
    return length(holds) if holds else event.call.hold_ms or 0


def unmasked(start: int, end: int, masks: Sequence[Interval]) -> list[Interval]:
    """The parts of [start, end) in no mask; `masks` are disjoint and in order."""
    parts: list[Interval] = []
    at = max(bisect_left(masks, (start, start)) - 1, 0)
    while at < len(masks) and masks[at][0] < end:
        mask_start, mask_end = masks[at]
        if mask_start > start:
            parts.append((start, mask_start))
        start = max(start, mask_end)
        at += 1
    if start < end:
        parts.append((start, end))
    return parts


def converse(
    segments: Sequence[Segment],
    masks: Sequence[Interval],
    said: Mapping[int, tuple[int, int]],
    settings: EnrichSettings,
) -> Conversation:
    """Measure a conversation.

    `masks` are disjoint and in order; `said` is segment id -> (words, Han characters), for the
    segments whose text is trusted.
    """
    spoken = sorted(
        (s for s in segments if s.start_ms < s.end_ms and not NOT_HEARD & set(s.flags)),
        key=_in_order,
    )
    every_turn = _turns([segment for segment in spoken if segment.role not in MACHINES])
    spoken = _outside(spoken, masks)
    people = [segment for segment in spoken if segment.role not in MACHINES]
    if not people:
        return Conversation([], [], every_turn)
    first, last = people[0].start_ms, max(s.end_ms for s in people)
    span_ms = length(unmasked(first, last, masks))
    by_role: dict[Role, list[Segment]] = defaultdict(list)
    for segment in people:
        by_role[segment.role].append(segment)
    roles = sorted(by_role)
    turns = _turns(people) if masks else every_turn
    silences = _silences(spoken, masks, settings.silence_ms)
    overlaps, interruptions = _overlaps(people, settings.interruption_ms)
    responses = _responses(turns, masks)

    talk = {r: length(merged((s.start_ms, s.end_ms) for s in by_role[r])) for r in roles}
    all_talk = sum(talk.values())
    metrics = [Metric(name="conversation_ms", value=float(span_ms))]

    def measured(name: str, value: float, role: Role | None = None) -> None:
        metrics.append(Metric(name=name, role=role, value=round(float(value), 4)))

    for role in roles:
        own = [turn for turn in turns if turn.role is role]
        measured("talk_ms", talk[role], role)
        measured("talk_share", talk[role] / all_talk, role)
        measured("turn_count", len(own), role)
        measured("longest_monologue_ms", _longest(by_role[role], masks, settings.silence_ms), role)
        into = interruptions.get(role, ())
        measured("interruption_count", len(into), role)
        measured("interruption_ms", sum(into), role)
        for name, value in _pace(by_role[role], said).items():
            measured(name, value, role)
        for name, value in _loudness(by_role[role], first, last).items():
            measured(name, value, role)
        if waits := [wait for turn, wait, _ in responses if turn.role is role]:
            measured("response_mean_ms", sum(waits) / len(waits), role)
            measured("response_max_ms", max(waits), role)
            measured("first_response_ms", waits[0], role)
    silent_ms = length((m.start_ms, m.end_ms) for m in silences)
    overlap_ms = length((m.start_ms, m.end_ms) for m in overlaps)
    measured("silence_ms", silent_ms)
    measured("silence_count", len(silences))
    measured("silence_longest_ms", max((m.end_ms - m.start_ms for m in silences), default=0))
    dead_ms = length(_unannounced(spoken, silences))
    measured("dead_air_ms", dead_ms)
    measured("overlap_ms", overlap_ms)
    if span_ms:
        measured("silence_share", min(silent_ms / span_ms, 1.0))
        measured("dead_air_share", min(dead_ms / span_ms, 1.0))
        measured("overlap_share", min(overlap_ms / span_ms, 1.0))
    slow = [
        Moment(
            kind=MomentKind.SLOW_RESPONSE,
            start_ms=turn.start_ms - gap,
            end_ms=turn.start_ms,
            role=turn.role,
            segment_ids=[turn.segment_ids[0]],
        )
        for turn, wait, gap in responses
        if turn.role is Role.AGENT and wait > settings.slow_response_ms
    ]
    long_overlaps = [m for m in overlaps if m.end_ms - m.start_ms >= settings.overlap_ms]
    moments = sorted(
        [*silences, *long_overlaps, *slow], key=lambda m: (m.start_ms, m.end_ms, m.kind)
    )
    return Conversation(metrics, moments, every_turn)


def _outside(spoken: Sequence[Segment], masks: Sequence[Interval]) -> list[Segment]:
    """What was spoken outside every mask, in order; a segment that a mask cuts is several."""
    parts: list[Segment] = []
    for segment in spoken:
        heard = unmasked(segment.start_ms, segment.end_ms, masks)
        if heard == [(segment.start_ms, segment.end_ms)]:
            parts.append(segment)
        else:
            parts.extend(replace(segment, start_ms=start, end_ms=end) for start, end in heard)
    return sorted(parts, key=_in_order)


def _in_order(segment: Segment) -> tuple[int, int, str, int]:
    return segment.start_ms, segment.end_ms, segment.speaker, segment.segment_id


def _turns(people: Sequence[Segment]) -> list[Turn]:
    turns: list[Turn] = []
    held: list[Segment] = []
    for segment in [*people, None]:
        if held and (segment is None or segment.speaker != held[0].speaker):
            turns.append(
                Turn(
                    held[0].speaker,
                    held[0].role,
                    held[0].start_ms,
                    max(s.end_ms for s in held),
                    tuple(s.segment_id for s in held),
                )
            )
            held = []
        if segment is not None:
            held.append(segment)
    return turns


def _responses(turns: Sequence[Turn], masks: Sequence[Interval]) -> list[tuple[Turn, int, int]]:
    """(turn, wait, gap): ms since anybody last spoke, without and with what is masked."""
    found: list[tuple[Turn, int, int]] = []
    quiet_since = 0
    for before, turn in pairwise(turns):
        quiet_since = max(quiet_since, before.end_ms) if found else before.end_ms
        gap = max(turn.start_ms - quiet_since, 0)
        found.append((turn, length(unmasked(turn.start_ms - gap, turn.start_ms, masks)), gap))
    return found


def _silences(spoken: Sequence[Segment], masks: Sequence[Interval], least_ms: int) -> list[Moment]:
    found: list[Moment] = []
    last = spoken[0]
    agent_heard = any(segment.role is Role.AGENT for segment in spoken)
    for segment in spoken[1:]:
        for start, end in unmasked(last.end_ms, segment.start_ms, masks):
            if end - start > least_ms:
                found.append(
                    Moment(
                        kind=MomentKind.SILENCE,
                        start_ms=start,
                        end_ms=end,
                        role=_owed(last, segment, agent_heard),
                        segment_ids=[last.segment_id, segment.segment_id],
                    )
                )
        if segment.end_ms > last.end_ms:
            last = segment
    return found


def _owed(before: Segment, after: Segment, agent_heard: bool) -> Role | None:
    """Who should have spoken between the two; None where that cannot be told.

    Who answers late owed the answer. Where the same side goes on, the agent leads the call, unless
    it was the agent who had asked.
    """
    if Role.UNKNOWN in (before.role, after.role):
        return None
    if before.role is not after.role:
        return after.role
    if before.role is Role.AGENT:
        return Role.CUSTOMER if _asks(before.text) else Role.AGENT
    return Role.AGENT if agent_heard else None


_ANNOUNCES = re.compile(
    r"\b(?:(?:one|just a|another) (?:moment|minute|second|sec)|a moment|hold on|hang on|on hold"
    r"|bear with me|please wait|while i (?:check|look|find|get)"
    r"|let me (?:just |quickly )?(?:check|look|see|find|pull|ask|get))\b"
    r"|稍等|稍候|等一下|等一等|等我|别挂|不要挂|查一下|看一下|查一查|查看|看看|核实|核对",
    re.IGNORECASE,
)


def _unannounced(spoken: Sequence[Segment], silences: Sequence[Moment]) -> list[Interval]:
    """The silences that begin without an agent having asked for a moment shortly before."""
    if not silences:
        return []
    announced = sorted(
        segment.end_ms
        for segment in spoken
        if segment.role is Role.AGENT
        and not NOT_SAID & set(segment.flags)
        and _ANNOUNCES.search(segment.text)
    )
    found: list[Interval] = []
    for silence in silences:
        at = bisect_right(announced, silence.start_ms)
        if not at or silence.start_ms - announced[at - 1] > ANNOUNCED_MS:
            found.append((silence.start_ms, silence.end_ms))
    return found


def _asks(text: str) -> bool:
    return text.rstrip().rstrip("。.").endswith(("?", "？", "吗", "呢"))


def _overlaps(
    people: Sequence[Segment], interruption_ms: int
) -> tuple[list[Moment], dict[Role, list[int]]]:
    """Every stretch in which two or more spoke at once, and how long whose interruptions were."""
    # At the same instant starts come before ends, so that a speaker's adjoining segments are one.
    edges = sorted(
        (
            *((s.start_ms, 0, i) for i, s in enumerate(people)),
            *((s.end_ms, 1, i) for i, s in enumerate(people)),
        )
    )
    found: list[Moment] = []
    interruptions: dict[Role, list[int]] = defaultdict(list)
    active: dict[str, set[int]] = defaultdict(set)
    spoke_until: dict[str, int] = {}
    began: dict[str, int] = {}
    opened: tuple[int, Segment, bool, int] | None = None
    inside: set[int] = set()
    for at, is_end, index in edges:
        segment = people[index]
        speaker = segment.speaker
        if not is_end:
            starts_anew = speaker not in active
            if starts_anew:
                began[speaker] = at
            others = [name for name in active if name != speaker]
            active[speaker].add(index)
            if opened is not None:
                inside.add(index)
            elif others:
                together = any(began[name] == at for name in others)
                opened = (at, segment, together, at - spoke_until.get(speaker, at - GOES_ON_MS))
                inside = {i for held in active.values() for i in held}
            continue
        active[speaker].discard(index)
        if not active[speaker]:
            del active[speaker]
            if opened is not None and len(active) == 1:
                start, starter, together, fresh = opened
                if at > start:
                    found.append(
                        Moment(
                            kind=MomentKind.OVERLAP,
                            start_ms=start,
                            end_ms=at,
                            role=None if together or starter.role is Role.UNKNOWN else starter.role,
                            segment_ids=sorted(people[i].segment_id for i in inside)[:MOST_BESIDE],
                        )
                    )
                    if not together and at - start >= interruption_ms and fresh >= GOES_ON_MS:
                        interruptions[starter.role].append(at - start)
                opened = None
            spoke_until[speaker] = at
    return found, interruptions


def _longest(segments: Sequence[Segment], masks: Sequence[Interval], pause_ms: int) -> int:
    """The longest stretch one role spoke without a pause above `pause_ms` and without a mask."""
    longest = 0
    start, until = segments[0].start_ms, segments[0].end_ms
    for segment in segments:
        pause = segment.start_ms - until
        masked = pause > 0 and length(unmasked(until, segment.start_ms, masks)) < pause
        if masked or pause > pause_ms:
            start, until = segment.start_ms, segment.end_ms
        until = max(until, segment.end_ms)
        longest = max(longest, until - start)
    return longest


def quarter_of(start_ms: int, end_ms: int, first_ms: int, last_ms: int) -> int:
    """1 to 4: in which quarter of first to last the middle of start to end lies."""
    twice = start_ms + end_ms - 2 * first_ms
    return min(max(twice * 2 // max(last_ms - first_ms, 1), 0), 3) + 1


def mean_dbfs(segments: Iterable[Segment]) -> float | None:
    """Their loudness together, by duration and as power; None where none was measured."""
    energy, ms = 0.0, 0
    for segment in segments:
        if segment.loudness_dbfs is not None:
            energy += 10 ** (segment.loudness_dbfs / 10) * (segment.end_ms - segment.start_ms)
            ms += segment.end_ms - segment.start_ms
    return 10 * log10(energy / ms) if ms else None


def _loudness(segments: Sequence[Segment], first_ms: int, last_ms: int) -> Mapping[str, float]:
    """Of the whole and of each quarter, as far as they were measured, and how it changed."""
    by_quarter: dict[int, list[Segment]] = defaultdict(list)
    for each in segments:
        by_quarter[quarter_of(each.start_ms, each.end_ms, first_ms, last_ms)].append(each)
    course = {
        number: level
        for number, own in sorted(by_quarter.items())
        if (level := mean_dbfs(own)) is not None
    }
    whole = mean_dbfs(segments)
    found = {} if whole is None else {"loudness_dbfs": whole}
    found |= {f"loudness_q{number}_dbfs": level for number, level in course.items()}
    if len(course) > 1:
        first, *_, last = course.values()
        found["loudness_change_db"] = last - first
    return found


def _pace(segments: Sequence[Segment], said: Mapping[int, tuple[int, int]]) -> dict[str, float]:
    """Words and Han characters per minute, each over the segments that are mostly of its kind."""
    counts = {"words_per_minute": [0, 0], "characters_per_minute": [0, 0]}
    counted: set[int] = set()  # of a segment that masks part, the words are those of all its parts
    for segment in segments:
        words, characters = said.get(segment.segment_id, (0, 0))
        if words or characters:
            name = "words_per_minute" if words >= characters else "characters_per_minute"
            if segment.segment_id not in counted:
                counted.add(segment.segment_id)
                counts[name][0] += words + characters
            counts[name][1] += segment.end_ms - segment.start_ms
    return {name: count * 60_000 / ms for name, (count, ms) in counts.items() if ms}
