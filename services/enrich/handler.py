"""Enrich: what a call was about, how it felt, how well it was handled, and whom to alert."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from schemas.events import AlertRaised, CallEnriched, CallTranscribed, Flag
from schemas.topics import ALERTS, ENRICHED, TRANSCRIBED
from services.enrich.alerts import raise_alerts, tag
from services.enrich.ground import ground
from services.enrich.insight import Insight
from services.enrich.keywords import keywords
from services.enrich.rules import Rules
from services.enrich.score import score
from services.enrich.sentiment import course
from services.enrich.settings import OPTIONS, EnrichSettings, trial_rules
from services.enrich.summary import summarize
from services.enrich.trials import Trials
from services.runtime.stage import Envelope, Output, Stage, each, utc_now


def enrich_call(
    event: CallTranscribed,
    transcript_id: str,
    rules: Rules,
    now: datetime,
    settings: EnrichSettings,
    insight: Insight | None = None,
    *,
    replay: bool = False,
) -> tuple[CallEnriched, list[AlertRaised]]:
    """Everything enrich says of a call. Without `insight` pure: the same arguments give an equal
    result. Raises Transient where a language model is away and is to be waited for.
    """
    known = ground(event, rules, settings)
    segments, heard, facts, shown = known.segments, known.heard, known.facts, known.shown
    doubtful = {s.segment_id for s in segments if Flag.LOW_CONFIDENCE in s.flags}
    alerts = raise_alerts(rules.rules, facts, event, doubtful, now)
    longest = settings.summary_sentence_characters
    summary = summarize(segments, heard, rules.cues, longest, shown)
    if insight is not None:
        summary = insight.summarize(
            segments,
            heard,
            summary,
            lambda segment: shown(segment, 0, len(segment.text)),
            tenant_id=event.tenant_id,
            language=event.language,
            replay=replay,
        )
    enriched = CallEnriched(
        tenant_id=event.tenant_id,
        call_id=event.call_id,
        revision=event.revision,
        enriched_at=now,
        call=event.call,
        transcript_id=transcript_id,
        language=event.language,
        rules_version=rules.version,
        metrics=known.metrics,
        moments=known.moments,
        sentiments=known.felt,
        course=course(segments, known.felt),
        findings=[*heard.findings, *tag(rules.rules, facts)],
        score=score(rules.scorecard, facts, rules.rules),
        summary=summary,
        alerts=[alert.rule for alert in alerts],
        redactions=known.personal,
        keywords=keywords(segments, event.language, known.personal),
    )
    return enriched, alerts


def stage(
    settings: EnrichSettings,
    rules: Rules,
    clock: Callable[[], datetime] = utc_now,
    tenant_rules: Mapping[str, Rules] | None = None,
    insight: Insight | None = None,
) -> Stage:
    """Enrich transcripts by `rules`, or by those of the call's tenant where it has its own; what
    a language model says of them is `insight`'s.

    A replay may ask for rules to try; without side effects its alerts are named and not raised.
    """
    own = dict(tenant_rules or {})
    trials = Trials(settings.rules_dir, settings.trial_rules_dir)
    at_once = 2 * settings.llm.concurrency

    def handle(envelope: Envelope[Any]) -> list[Output]:
        event: CallTranscribed = envelope.event
        chosen = own.get(event.tenant_id, rules)
        if (name := trial_rules(envelope.options)) is not None:
            chosen = trials.rules(name, event.tenant_id)
        enriched, alerts = enrich_call(
            event, envelope.id, chosen, clock(), settings, insight, replay=envelope.generation > 0
        )
        if not envelope.side_effects:
            return [Output(enriched)]
        return [
            Output(enriched),
            *(Output(alert, f"{envelope.id}/{alert.rule}") for alert in alerts),
        ]

    return Stage(
        name="enrich",
        sources=(TRANSCRIBED,),
        targets=(ENRICHED, ALERTS),
        handle=each(handle),
        # A call that waits for a language model holds up none of its batch.
        batch=16 if insight is None else 1,
        workers=settings.workers if insight is None else max(settings.workers, at_once),
        options=tuple(OPTIONS),
    )
