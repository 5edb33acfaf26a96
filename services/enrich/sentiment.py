"""How each segment feels, how that goes over the call, and how a role begins and ends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from schemas.events import (
    CoursePoint,
    FindingKind,
    Metric,
    Role,
    Segment,
    SegmentSentiment,
    SentimentLabel,
)
from services.enrich.findings import ENGINE, NOT_HUMAN
from services.enrich.lexicon import Match

# A single thanks (0.2) is politeness, a mild word (0.35 and more) is not.
SEGMENT_EDGE = 0.25
# Over several segments most of which are neutral.
MEAN_EDGE = 0.1


@dataclass(frozen=True, slots=True)
class Sentiment:
    """-1.0 (negative) to 1.0 (positive), over the speech of one role."""

    whole: float
    start: float
    end: float


def label(score: float, edge: float = MEAN_EDGE) -> SentimentLabel:
    if score >= edge:
        return SentimentLabel.POSITIVE
    return SentimentLabel.NEGATIVE if score <= -edge else SentimentLabel.NEUTRAL


def sentiments(
    segments: Sequence[Segment],
    matches: Mapping[int, Sequence[Match]],
    said: Collection[int],
    languages: Collection[str],
    language: str,
) -> list[SegmentSentiment]:
    """One per segment of a human.

    UNKNOWN, with score 0.0, where there are no trusted words (the segment is not in `said`) or the
    lexicons do not know the language; NEUTRAL where there are words and no emotion. `languages` are
    the primary tags the lexicons cover, `language` that of segments which do not tell theirs.
    """
    found: list[SegmentSentiment] = []
    for segment in segments:
        if segment.role in NOT_HUMAN:
            continue
        spoken = segment.language if segment.language not in ("", "und") else language
        score = sum(
            match.found.polarity * match.factor
            for match in matches.get(segment.segment_id, ())
            if match.found.kind is FindingKind.EMOTION
        )
        score = round(max(-1.0, min(1.0, score)), 4)
        covered = spoken in ("", "und") or spoken.split("-")[0].lower() in languages
        known = segment.segment_id in said and (covered or score != 0.0)
        found.append(
            SegmentSentiment(
                segment_id=segment.segment_id,
                role=segment.role,
                label=label(score, SEGMENT_EDGE) if known else SentimentLabel.UNKNOWN,
                score=score if known else 0.0,
                engine=ENGINE,
            )
        )
    return found


def _mean(parts: Iterable[tuple[float, int]]) -> float:
    """Of (score, weight); a weight of 0 counts as 1."""
    weighted = [(score, max(weight, 1)) for score, weight in parts]
    return round(sum(s * w for s, w in weighted) / sum(w for _, w in weighted), 4)


def course(segments: Sequence[Segment], found: Sequence[SegmentSentiment]) -> list[CoursePoint]:
    """The mean per quarter of the conversation and role, weighted by duration.

    A quarter in which nothing is known of a role has no point.
    """
    times = {segment.segment_id: (segment.start_ms, segment.end_ms) for segment in segments}
    known = [each for each in found if each.label is not SentimentLabel.UNKNOWN]
    if not known:
        return []
    first = min(times[each.segment_id][0] for each in known)
    span = max(max(times[each.segment_id][1] for each in known) - first, 1)
    parts: dict[tuple[int, Role], list[tuple[float, int]]] = defaultdict(list)
    for each in known:
        start, end = times[each.segment_id]
        quarter = min(max((start + end - 2 * first) * 2 // span, 0), 3) + 1
        parts[quarter, each.role].append((each.score, end - start))
    return [
        CoursePoint(quarter=quarter, role=role, label=label(score), score=score)
        for (quarter, role), held in sorted(parts.items())
        for score in (_mean(held),)
    ]


def by_role(
    segments: Sequence[Segment], found: Sequence[SegmentSentiment]
) -> dict[Role, Sentiment]:
    """Role -> how it felt; the start and the end are a third of its segments each, at least one."""
    durations = {segment.segment_id: segment.end_ms - segment.start_ms for segment in segments}
    held: dict[Role, list[tuple[float, int]]] = defaultdict(list)
    for each in found:
        if each.label is not SentimentLabel.UNKNOWN:
            held[each.role].append((each.score, durations[each.segment_id]))
    return {
        role: Sentiment(_mean(parts), _mean(parts[:third]), _mean(parts[-third:]))
        for role, parts in sorted(held.items())
        for third in (max(len(parts) // 3, 1),)
    }


def sentiment_metrics(sentiment: Sentiment, role: Role) -> list[Metric]:
    """`<role>_sentiment`, `_start` and `_end`, each -1.0 to 1.0."""
    name = f"{role.value.lower()}_sentiment"
    return [
        Metric(name=name, role=role, value=sentiment.whole),
        Metric(name=f"{name}_start", role=role, value=sentiment.start),
        Metric(name=f"{name}_end", role=role, value=sentiment.end),
    ]
