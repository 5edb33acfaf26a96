"""What was heard in each segment, and where: the ground every other judgement stands on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.events import Evidence, Finding, FindingKind, Flag, Role, Segment
from services.enrich.lexicon import Match, Scan, Scanner
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


def place(segment: Segment, start: int, end: int) -> Evidence:
    """Evidence for the characters [start, end) of the segment's text.

    Times are those of the words where the words can be found in the text, else in proportion.
    """
    times = _word_times(segment, start, end)
    if times is None:
        size = max(len(segment.text), 1)
        span = segment.end_ms - segment.start_ms
        times = (
            segment.start_ms + span * start // size,
            segment.start_ms + -(-span * end // size),
        )
    return Evidence(
        start_ms=times[0],
        end_ms=max(times),
        segment_ids=[segment.segment_id],
        role=segment.role,
        quote=segment.text[start:end].strip(),
    )


def _word_times(segment: Segment, start: int, end: int) -> tuple[int, int] | None:
    count = len(segment.words)
    if not count or len(segment.word_start_ms) != count or len(segment.word_end_ms) != count:
        return None
    first: int | None = None
    last: int | None = None
    at = 0
    for index, word in enumerate(segment.words):
        bare = word.strip()
        found = segment.text.find(bare, at)
        if found < 0:
            return None
        at = found + len(bare)
        if at > start and found < end:
            first = index if first is None else first
            last = index
        if at >= end:
            break
    if first is None or last is None:
        return None
    return segment.word_start_ms[first], segment.word_end_ms[last]


def hear(segments: Sequence[Segment], scanner: Scanner) -> Heard:
    """Scan every trusted segment of a human."""
    heard = Heard([], {}, {}, {})
    for segment in segments:
        if segment.role in NOT_HUMAN or not trusted(segment):
            continue
        scan: Scan = scanner.scan(segment.text)
        if scan.words or scan.characters:
            heard.said[segment.segment_id] = (scan.words, scan.characters)
        for phrase in scan.phrases:
            evidence = place(segment, phrase.start, phrase.end)
            hit = Hit(evidence, segment.segment_id, phrase.start, phrase.end)
            heard.phrases.setdefault(phrase.phrases, []).append(hit)
        counting = [m for m in scan.matches if _counts(m, segment.role)]
        if counting:
            heard.matches[segment.segment_id] = counting
        heard.findings.extend(_finding(match, segment) for match in counting)
    return heard


def _counts(match: Match, role: Role) -> bool:
    roles = match.found.roles
    return not roles or role in roles or role is Role.UNKNOWN


def _finding(match: Match, segment: Segment) -> Finding:
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
        evidence=place(segment, match.start, match.end),
        rule=f"{found.lexicon}/{found.label}",
        rule_version=found.version,
        engine=ENGINE,
        confidence=min(doubts) if doubts else None,
    )
