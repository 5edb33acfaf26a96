"""How each segment feels, how that goes over the call, where it turns, how a role begins and ends.

Words and voice are told apart, then fused by the weights below, which `docs/metrics.md` states.
What neither tells of is unknown, never neutral.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from schemas.events import (
    CoursePoint,
    FindingKind,
    Metric,
    Moment,
    MomentKind,
    Role,
    Segment,
    SegmentSentiment,
    SentimentLabel,
    VoiceEmotion,
)
from services.enrich.findings import ENGINE, NOT_HUMAN
from services.enrich.lexicon import Match
from services.enrich.metrics import NOT_HEARD, quarter_of

# A single thanks (0.2) is politeness, a mild word (0.35 and more) is not.
SEGMENT_EDGE = 0.25
# Over several segments most of which are neutral.
MEAN_EDGE = 0.1

# Where both are known. Words weigh more: speech engines mistake voices more often than words.
TEXT_WEIGHT = 0.7
VOICE_WEIGHT = 0.3
# A voice without words to confirm it counts half.
VOICE_ALONE = 0.5
VOICE_SCORES: Mapping[VoiceEmotion, float | None] = {
    VoiceEmotion.UNKNOWN: None,
    VoiceEmotion.NEUTRAL: 0.0,
    VoiceEmotion.HAPPY: 0.8,
    VoiceEmotion.SAD: -0.6,
    VoiceEmotion.ANGRY: -1.0,
    VoiceEmotion.FEARFUL: -0.6,
    VoiceEmotion.DISGUSTED: -0.8,
    VoiceEmotion.SURPRISED: 0.0,
}
"""What a voice tells alone, -1.0 to 1.0. Surprise goes either way, so it says neither."""

# A turn is judged by so many known segments of the role on either side ...
TURN_WINDOW = 4
# ... of which this many must lie before it, or it is how the role began, not a turn,
TURN_LEAST_BEFORE = 3
# ... those that feel the new way must outnumber those of the other by this much, so that no single
# word and no single sentence is a turn,
TURN_MAJORITY = 2
# ... and their medians must be this far apart.
TURN_STEP = 0.2
TURNING = (Role.AGENT, Role.CUSTOMER)
"""Whose turns are told. Others are few, or several people under one name."""

SENTIMENT_METRICS = {
    "sentiment": "-1.0 to 1.0, mean over what the role said",
    "sentiment_start": "the same over the first third of its segments",
    "sentiment_end": "the same over the last third of its segments",
}
"""What comes after `<role>_` -> what it is, of every metric of sentiment."""


class TextModel(Protocol):
    """A model that tells how words feel. Thread-safe."""

    @property
    def name(self) -> str:
        """What it is known by, with its revision: the engine of what it tells."""

    def reads(self, language: str) -> bool:
        """Whether it knows that language (BCP 47); und: nobody knows which it is."""

    def scores(self, texts: Sequence[str], *, replay: bool = False) -> list[float | None]:
        """What each text feels like, -1.0 to 1.0; None of one that it tells nothing of.

        May raise anything: what a library raises where it fails.
        """


@dataclass(frozen=True, slots=True)
class Judged:
    """What a model says of the words of segments."""

    engine: str
    scores: Mapping[int, float]
    """Segment id -> -1.0 to 1.0. Of others the lexicons tell."""


NOT_JUDGED = Judged(ENGINE, {})
"""The lexicons tell of every segment."""


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


def fused(text: float | None, voice: float | None) -> float | None:
    """What words and voice say together, -1.0 to 1.0. None where neither says anything."""
    if text is None:
        return None if voice is None else round(VOICE_ALONE * voice, 4)
    return text if voice is None else round(TEXT_WEIGHT * text + VOICE_WEIGHT * voice, 4)


def judged_by(
    model: TextModel,
    segments: Sequence[Segment],
    said: Collection[int],
    language: str,
    *,
    replay: bool = False,
) -> Judged:
    """What `model` says of the segments in `said`, as far as it reads their language.

    `language` is that of segments which do not tell theirs. Raises whatever the model raises.
    """
    asked = [
        segment
        for segment in segments
        if segment.segment_id in said and model.reads(_spoken(segment, language))
    ]
    scores = model.scores([segment.text for segment in asked], replay=replay)
    return Judged(
        model.name,
        {
            segment.segment_id: score
            for segment, score in zip(asked, scores, strict=True)
            if score is not None
        },
    )


def _spoken(segment: Segment, language: str) -> str:
    return segment.language if segment.language not in ("", "und") else language


def sentiments(
    segments: Sequence[Segment],
    matches: Mapping[int, Sequence[Match]],
    said: Collection[int],
    languages: Collection[str],
    language: str,
    speech_engine: str = "speech engine",
    judged: Judged = NOT_JUDGED,
) -> list[SegmentSentiment]:
    """One per segment of a human.

    Words are known where they are trusted (the segment is in `said`) and the lexicons know the
    language, or a model has `judged` them: it counts in place of the lexicons then. The voice is
    known where one was heard and the speech engine, `speech_engine`, tells how it sounds. UNKNOWN,
    with score 0.0, where neither is known; NEUTRAL where there are words and no emotion.
    `languages` are the primary tags the lexicons cover, `language` that of segments which do not
    tell theirs.
    """
    found: list[SegmentSentiment] = []
    for segment in segments:
        if segment.role in NOT_HUMAN:
            continue
        spoken = _spoken(segment, language)
        score = sum(
            match.found.polarity * match.factor
            for match in matches.get(segment.segment_id, ())
            if match.found.kind is FindingKind.EMOTION
        )
        score = round(max(-1.0, min(1.0, score)), 4)
        covered = spoken in ("", "und") or spoken.split("-")[0].lower() in languages
        known = segment.segment_id in said and (covered or score != 0.0)
        text, teller = score if known else None, ENGINE
        if segment.segment_id in said and segment.segment_id in judged.scores:
            text, teller = judged.scores[segment.segment_id], judged.engine
        voice = None if NOT_HEARD & set(segment.flags) else VOICE_SCORES[segment.emotion]
        both = fused(text, voice)
        told = [teller] if text is not None else []
        if voice is not None:
            told.append(f"voice:{speech_engine}")
        found.append(
            SegmentSentiment(
                segment_id=segment.segment_id,
                role=segment.role,
                label=label(both, SEGMENT_EDGE) if both is not None else SentimentLabel.UNKNOWN,
                score=both if both is not None else 0.0,
                engine="+".join(told) or ENGINE,
                text_score=text,
                voice_score=voice,
                voice=segment.emotion.value.lower() if voice is not None else "",
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
    last = max(times[each.segment_id][1] for each in known)
    parts: dict[tuple[int, Role], list[tuple[float, int]]] = defaultdict(list)
    for each in known:
        start, end = times[each.segment_id]
        quarter = quarter_of(start, end, first, last)
        parts[quarter, each.role].append((each.score, end - start))
    return [
        CoursePoint(quarter=quarter, role=role, label=label(score), score=score)
        for (quarter, role), held in sorted(parts.items())
        for score in (_mean(held),)
    ]


def turning_points(segments: Sequence[Segment], found: Sequence[SegmentSentiment]) -> list[Moment]:
    """Where the agent's or the customer's feeling turns for the worse or the better, and stays.

    Of the role's known segments: feeling turns worse at a NEGATIVE one that follows on one which is
    not, where of it and the next three NEGATIVE ones outnumber POSITIVE ones by two and the median
    is negative, while the median of the four before (three at least) is not, and is TURN_STEP
    higher. Better is the mirror image. It turns the same way again only once the four before are
    free of that feeling. A return to neutral is no turn: that nobody complains any more does not
    say how they feel.

    In order of time; a moment lasts from the segment that turned to the last that bears it out, and
    names those that do.
    """
    by_id = {segment.segment_id: segment for segment in segments}
    times = {number: (each.start_ms, each.end_ms, number) for number, each in by_id.items()}
    held: dict[Role, list[SegmentSentiment]] = defaultdict(list)
    for each in sorted(found, key=lambda each: times[each.segment_id]):
        if each.role in TURNING and each.label is not SentimentLabel.UNKNOWN:
            held[each.role].append(each)
    turns: list[Moment] = []
    for role, known in held.items():
        latest = SentimentLabel.UNKNOWN
        for at in range(TURN_LEAST_BEFORE, len(known)):
            new = known[at].label
            if new in (SentimentLabel.NEUTRAL, known[at - 1].label):
                continue
            before, after = known[max(at - TURN_WINDOW, 0) : at], known[at : at + TURN_WINDOW]
            bearing = [by_id[each.segment_id] for each in after if each.label is new]
            again = new is latest and any(each.label is new for each in before)
            against = sum(each.label not in (new, SentimentLabel.NEUTRAL) for each in after)
            if len(bearing) - against < TURN_MAJORITY or again:
                continue
            sign = -1 if new is SentimentLabel.NEGATIVE else 1
            was, becomes = (sign * median(each.score for each in part) for part in (before, after))
            if was < MEAN_EDGE <= becomes and becomes - was >= TURN_STEP:
                latest = new
                turns.append(
                    Moment(
                        kind=MomentKind.TURN_WORSE if sign < 0 else MomentKind.TURN_BETTER,
                        start_ms=bearing[0].start_ms,
                        end_ms=max(segment.end_ms for segment in bearing),
                        role=role,
                        segment_ids=[segment.segment_id for segment in bearing],
                    )
                )
    return sorted(turns, key=lambda m: (m.start_ms, m.end_ms, m.kind, m.role or ""))


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
    values = (sentiment.whole, sentiment.start, sentiment.end)
    return [
        Metric(name=f"{role.value.lower()}_{name}", role=role, value=value)
        for name, value in zip(SENTIMENT_METRICS, values, strict=True)
    ]
