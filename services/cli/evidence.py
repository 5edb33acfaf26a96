"""Where in a call's audio something was said, and what may be read of it. Pure functions of
events.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from schemas.events import (
    CallEnriched,
    CallTranscribed,
    Evidence,
    Finding,
    FindingKind,
    Redaction,
    Role,
    Segment,
    StoredRecording,
)
from services.enrich.pii import Mask, label_of, masked

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


class Followed:
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


def without_personal(transcript: CallTranscribed, enriched: CallEnriched) -> CallTranscribed:
    """The transcript with the kind, as `[phone]`, in place of all that `enriched` calls personal.

    Segments that hold any have no words and no corrections, and no speaker has a reason for its
    role, which quotes single words. `enriched` is made from `transcript`.
    """
    held: dict[int, list[Redaction]] = defaultdict(list)
    for each in enriched.redactions:
        held[each.segment_id].append(each)
    return replace(
        transcript,
        segments=[
            replace(
                segment,
                text=masked(segment.text, held[segment.segment_id], Mask.LABEL),
                words=[],
                word_start_ms=[],
                word_end_ms=[],
                word_confidence=[],
                corrections=[],
            )
            if segment.segment_id in held
            else segment
            for segment in transcript.segments
        ],
        speakers=[replace(speaker, role_reason="") for speaker in transcript.speakers],
    )


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
            quote = re.sub(re.escape(words), label_of(each.kind), quote, flags=re.IGNORECASE)
    return quote


def moment_of(ms: int) -> str:
    """A time of the call as mm:ss.mmm, with hours where there are any; `clip` reads it."""
    sign, ms = ("-", -ms) if ms < 0 else ("", ms)
    minutes, rest = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    said = f"{minutes:02}:{rest // 1000:02}.{rest % 1000:03}"
    return f"{sign}{hours}:{said}" if hours else sign + said


def figure(value: float) -> str:
    """Up to four digits behind the point."""
    return f"{value:.4f}".rstrip("0").rstrip(".")


def equal(mine: float, told: float) -> bool:
    """Up to what rounding to four digits leaves."""
    return abs(mine - told) < 1e-4 + 1e-9 * abs(told)


def fields_of(event: Any, *without: str) -> dict[str, Any]:
    """Of the event, without what is told as places."""
    fields: dict[str, Any] = msgspec.to_builtins(event)
    return {name: value for name, value in fields.items() if name not in without}


def count_of(number: int, one: str, many: str = "") -> str:
    """As `1 segment`, `2 segments`; `many` where that is no plain plural."""
    return f"{number} {one if number == 1 else many or one + 's'}"
