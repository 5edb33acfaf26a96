"""What is known of a call before anybody judges it: said, felt, measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.events import (
    CallTranscribed,
    Metric,
    Moment,
    Redaction,
    Segment,
    SegmentSentiment,
)
from services.enrich.conditions import Facts, facts_of
from services.enrich.findings import Heard, Shown, hear
from services.enrich.metrics import converse, hold_ms, masked_intervals
from services.enrich.pii import find, shown_by
from services.enrich.rules import Rules
from services.enrich.sentiment import (
    NOT_JUDGED,
    Judged,
    TextModel,
    by_role,
    judged_by,
    sentiment_metrics,
    sentiments,
    turning_points,
)
from services.enrich.settings import EnrichSettings
from services.runtime.observe import logger


@dataclass(frozen=True, slots=True)
class Ground:
    segments: Sequence[Segment]
    """In the order they were said."""
    personal: list[Redaction]
    shown: Shown
    """The text without what is personal, as the policy masks it."""
    heard: Heard
    felt: list[SegmentSentiment]
    metrics: list[Metric]
    moments: list[Moment]
    facts: Facts
    """The same, as rules ask for it."""


def ground(
    event: CallTranscribed,
    rules: Rules,
    settings: EnrichSettings,
    text_model: TextModel | None = None,
    *,
    replay: bool = False,
) -> Ground:
    """What `rules` are held against; quotes hold what is shown of the text.

    `text_model` judges how words feel, where it is given and does not fail; the emotions found,
    with their evidence, are the lexicons' all the same.
    """
    segments = sorted(event.segments, key=lambda s: (s.start_ms, s.channel, s.segment_id))
    names = [each.display_name for each in event.call.participants if each.display_name]
    personal = find(segments, event.language, names, rules.pii)
    shown = shown_by(personal, rules.pii)
    heard = hear(segments, rules.scanner, shown)
    conversation = converse(segments, masked_intervals(event), heard.said, settings)
    judged = NOT_JUDGED
    if text_model is not None:
        judged = _judged(text_model, event, segments, heard, replay)
    felt = sentiments(
        segments, heard.matches, heard.said, rules.languages, event.language, event.engine.name,
        judged,
    )  # fmt: skip
    moments = sorted(
        [*conversation.moments, *turning_points(segments, felt)],
        key=lambda m: (m.start_ms, m.end_ms, m.kind, m.role or ""),
    )
    roles = by_role(segments, felt)
    metrics = [*conversation.metrics, Metric(name="hold_ms", value=float(hold_ms(event)))]
    for role, sentiment in roles.items():
        metrics += sentiment_metrics(sentiment, role)
    facts = facts_of(event, heard, conversation.turns, moments, metrics, roles)
    return Ground(segments, personal, shown, heard, felt, metrics, moments, facts)


def _judged(
    model: TextModel,
    event: CallTranscribed,
    segments: Sequence[Segment],
    heard: Heard,
    replay: bool,
) -> Judged:
    """Of the whole call, or nothing of it: half a call by another measure would turn where it
    changes hands."""
    try:
        return judged_by(model, segments, heard.said, event.language, replay=replay)
    except Exception as error:  # of every kind: no call is lost for what a model raises
        logger("enrich").warning(
            "how words feel is told by the lexicons, because the model failed",
            model=model.name,
            call=f"{event.tenant_id}/{event.call_id}",
            why=f"{type(error).__name__}: {error}"[:300],
        )
        return NOT_JUDGED
