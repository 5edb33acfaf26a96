"""Enrich: what a call was about, how it felt, how well it was handled, and whom to alert."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from schemas.events import AlertRaised, CallEnriched, CallTranscribed, Flag, Metric
from schemas.topics import ALERTS, ENRICHED, TRANSCRIBED
from services.enrich.alerts import raise_alerts
from services.enrich.conditions import Facts, closings, openings
from services.enrich.findings import hear
from services.enrich.metrics import converse, hold_ms, masked_intervals
from services.enrich.rules import Rules
from services.enrich.score import score
from services.enrich.sentiment import by_role, course, sentiment_metrics, sentiments
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
) -> tuple[CallEnriched, list[AlertRaised]]:
    """Everything enrich says of a call. Pure: the same arguments give an equal result."""
    segments = sorted(event.segments, key=lambda s: (s.start_ms, s.channel, s.segment_id))
    heard = hear(segments, rules.scanner)
    conversation = converse(segments, masked_intervals(event), heard.said, settings)
    felt = sentiments(segments, heard.matches, heard.said, rules.languages, event.language)
    roles = by_role(segments, felt)
    metrics = [*conversation.metrics, Metric(name="hold_ms", value=float(hold_ms(event)))]
    for role, sentiment in roles.items():
        metrics += sentiment_metrics(sentiment, role)
    facts = Facts(
        findings=heard.findings,
        phrases=heard.phrases,
        metrics={(metric.name, metric.role): metric.value for metric in metrics},
        moments=conversation.moments,
        sentiments=roles,
        opening=openings(conversation.turns),
        closing=closings(conversation.turns),
    )
    doubtful = {s.segment_id for s in segments if Flag.LOW_CONFIDENCE in s.flags}
    alerts = raise_alerts(rules.alerts, facts, event, doubtful, now)
    enriched = CallEnriched(
        tenant_id=event.tenant_id,
        call_id=event.call_id,
        revision=event.revision,
        enriched_at=now,
        call=event.call,
        transcript_id=transcript_id,
        language=event.language,
        rules_version=rules.version,
        metrics=metrics,
        moments=conversation.moments,
        sentiments=felt,
        course=course(segments, felt),
        findings=heard.findings,
        score=score(rules.scorecard, facts),
        summary=summarize(segments, heard, rules.cues, settings.summary_sentence_characters),
        alerts=[alert.rule for alert in alerts],
    )
    return enriched, alerts


def stage(
    settings: EnrichSettings,
    rules: Rules,
    clock: Callable[[], datetime] = utc_now,
    tenant_rules: Mapping[str, Rules] | None = None,
) -> Stage:
    """Enrich transcripts by `rules`, or by those of the call's tenant where it has its own.

    A replay may ask for rules to try; without side effects its alerts are named and not raised.
    """
    own = dict(tenant_rules or {})
    trials = Trials(settings.rules_dir, settings.trial_rules_dir)

    def handle(envelope: Envelope[Any]) -> list[Output]:
        event: CallTranscribed = envelope.event
        chosen = own.get(event.tenant_id, rules)
        if (name := trial_rules(envelope.options)) is not None:
            chosen = trials.rules(name, event.tenant_id)
        enriched, alerts = enrich_call(event, envelope.id, chosen, clock(), settings)
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
        batch=16,
        workers=settings.workers,
        options=tuple(OPTIONS),
    )
