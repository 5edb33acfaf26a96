"""What was heard in each segment, and where: the ground every other judgement stands on."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from schemas.events import Evidence, Finding, FindingKind, Flag, Role, Segment
from services.enrich.lexicon import Match, Scanner
from services.enrich.metrics import NOT_SAID

ENGINE = "lexicon"
# Nobody feels or asks anything here: a menu that says "billing" is no topic.
NOT_HUMAN = frozenset((Role.IVR, Role.VOICEMAIL, Role.BOT))
# A class of one role, heard from a speaker whose role nobody knows.
UNKNOWN_ROLE_CONFIDENCE = 0.5


@dataclass(frozen=True, slots=True)
class Hit:
    """A phrase of a condition, heard."""

    evidence: Evidence
    segment_id: int
    start: int
    end: int
    """Characters of the segment's text."""


@dataclass(frozen=True, slots=True)
class Heard:
    findings: list[Finding]
    matches: dict[int, list[Match]]
    """Segment id -> its matches, of the segments whose text is trusted."""
    phrases: dict[int, list[Hit]]
    """Number of a phrase set -> where it was heard."""
    said: dict[int, tuple[int, int]]
    """Segment id -> (words, Han characters), of the segments whose text is trusted."""


def trusted(segment: Segment) -> bool:
    """Whether the words were really said. Low confidence counts: it is told with the finding."""
    return not NOT_SAID & set(segment.flags)


Shown = Callable[[Segment, int, int], str]
"""What may be read of the characters [start, end) of a segment's text."""


def plainly(segment: Segment, start: int, end: int) -> str:
    """All of it."""
    return segment.text[start:end]


class Places:
    """Turns characters of a segment's text into evidence. Cost: the words once, then log n each."""

    def __init__(self, segment: Segment, shown: Shown = plainly) -> None:
        self._segment, self._shown = segment, shown
        self._ends: list[int] = []
        self._starts: list[int] = []
        self._words_known = True
        count = len(segment.words)
        if not count or {len(segment.word_start_ms), len(segment.word_end_ms)} != {count}:
            self._words_known = False
            return
        at = 0
        for word in segment.words:
            bare = word.strip()
            found = segment.text.find(bare, at)
            if found < 0:
                self._words_known = False
                return
            at = found + len(bare)
            self._starts.append(found)
            self._ends.append(at)

    def evidence(self, start: int, end: int) -> Evidence:
        """For the characters [start, end).

        Times are those of the words where the words stand in the text, else in proportion to it.
        """
        segment = self._segment
        start_ms, end_ms = self._times(start, end)
        return Evidence(
            start_ms=start_ms,
            end_ms=max(start_ms, end_ms),
            segment_ids=[segment.segment_id],
            role=segment.role,
            quote=self._shown(segment, start, end).strip(),
        )

    def _times(self, start: int, end: int) -> tuple[int, int]:
        segment = self._segment
        if self._words_known:
            first = bisect_right(self._ends, start)
            last = bisect_left(self._starts, end) - 1
            if first <= last:
                return segment.word_start_ms[first], segment.word_end_ms[last]
        size = max(len(segment.text), 1)
        span = max(segment.end_ms - segment.start_ms, 0)
        return segment.start_ms + span * start // size, segment.start_ms - (-span * end // size)


def hear(segments: Sequence[Segment], scanner: Scanner, shown: Shown = plainly) -> Heard:
    """Scan every trusted segment of a human; quotes hold what is `shown` of it."""
    heard = Heard([], {}, {}, {})
    for segment in segments:
        if segment.role in NOT_HUMAN or not trusted(segment):
            continue
        scan = scanner.scan(segment.text)
        places = Places(segment, shown) if scan.phrases or scan.matches else None
        if scan.words or scan.characters:
            heard.said[segment.segment_id] = (scan.words, scan.characters)
        if places is None:
            continue
        for phrase in scan.phrases:
            evidence = places.evidence(phrase.start, phrase.end)
            hit = Hit(evidence, segment.segment_id, phrase.start, phrase.end)
            heard.phrases.setdefault(phrase.phrases, []).append(hit)
        counting = [m for m in scan.matches if _counts(m, segment.role)]
        if counting:
            heard.matches[segment.segment_id] = counting
        heard.findings.extend(_finding(match, segment, places) for match in counting)
    return heard


def _counts(match: Match, role: Role) -> bool:
    roles = match.found.roles
    return not roles or role in roles or role is Role.UNKNOWN


def _finding(match: Match, segment: Segment, places: Places) -> Finding:
    found = match.found
    doubts = []
    if found.roles and segment.role not in found.roles:
        doubts.append(UNKNOWN_ROLE_CONFIDENCE)
    if Flag.LOW_CONFIDENCE in segment.flags:
        doubts.append(UNKNOWN_ROLE_CONFIDENCE if segment.confidence is None else segment.confidence)
    kind = "emotion" if found.kind is FindingKind.EMOTION else "topic"
    return Finding(
        finding_id=f"{kind}:{found.label}:{segment.segment_id}:{match.start}",
        kind=found.kind,
        label=found.label,
        role=segment.role,
        evidence=places.evidence(match.start, match.end),
        rule=f"{found.lexicon}/{found.label}",
        rule_version=found.version,
        engine=ENGINE,
        confidence=min(doubts) if doubts else None,
    )
