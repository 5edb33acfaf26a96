"""Enrich: what a call was about, how it felt, how well it was handled, and whom to alert."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from schemas.events import (
    AlertRaised,
    CallEnriched,
    CallTranscribed,
    Flag,
    LlmUsage,
    Segment,
    SummaryRequested,
)
from schemas.topics import ALERTS, ENRICHED, REPLAY, SUMMARIES, TRANSCRIBED
from services.enrich.alerts import raise_alerts, tag
from services.enrich.ground import ground
from services.enrich.insight import Insight
from services.enrich.keywords import keywords
from services.enrich.rules import Rules
from services.enrich.score import Judgement, asked, score
from services.enrich.sentiment import TextModel, course
from services.enrich.settings import OPTIONS, EnrichSettings, trial_rules
from services.enrich.summary import summarize
from services.enrich.trials import Trials
from services.runtime.process import way_given
from services.runtime.stage import Envelope, Handle, Outcome, Output, Stage, each, utc_now


def enrich_call(
    event: CallTranscribed,
    transcript_id: str,
    rules: Rules,
    now: datetime,
    settings: EnrichSettings,
    insight: Insight | None = None,
    *,
    text_model: TextModel | None = None,
    replay: bool = False,
    pending: bool = False,
) -> tuple[CallEnriched, list[AlertRaised]]:
    """Everything enrich says of a call. Without `insight` and `text_model` pure: the same arguments
    give an equal result. `pending` says of its summary that a language model's is to follow. Raises
    Transient where a language model is away and is to be waited for.
    """
    known = ground(event, rules, settings, text_model, replay=replay)
    segments, heard, facts, shown = known.segments, known.heard, known.facts, known.shown
    doubtful = {s.segment_id for s in segments if Flag.LOW_CONFIDENCE in s.flags}
    alerts = raise_alerts(rules.rules, facts, event, doubtful, now)
    longest = settings.summary_sentence_characters
    summary = summarize(segments, heard, rules.cues, longest, shown)
    if summary is not None and pending:
        summary = replace(summary, pending=True)
    judged: Mapping[str, Judgement] = {}
    if insight is not None:

        def whole(segment: Segment) -> str:
            return shown(segment, 0, len(segment.text))

        about: dict[str, Any] = {
            "tenant_id": event.tenant_id, "call_id": event.call_id, "language": event.language,
            "replay": replay,
        }  # fmt: skip
        summary = insight.summarize(segments, heard, summary, whole, **about)
        if questions := asked(rules.scorecard, facts):
            judged, took = insight.judge(questions, segments, heard, whole, **about)
            if summary is not None:
                summary = replace(summary, usage=_sum(summary.usage, took))
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
        score=score(rules.scorecard, facts, rules.rules, judged),
        summary=summary,
        alerts=[alert.rule for alert in alerts],
        redactions=known.personal,
        keywords=keywords(segments, event.language, known.personal),
    )
    return enriched, alerts


def _sum(*usages: LlmUsage | None) -> LlmUsage | None:
    known = [usage for usage in usages if usage is not None]
    if not known:
        return None
    return LlmUsage(
        requests=sum(each.requests for each in known),
        prompt_tokens=sum(each.prompt_tokens for each in known),
        completion_tokens=sum(each.completion_tokens for each in known),
        seconds=round(sum(each.seconds for each in known), 3),
    )


def stage(
    settings: EnrichSettings,
    rules: Rules,
    clock: Callable[[], datetime] = utc_now,
    tenant_rules: Mapping[str, Rules] | None = None,
    insight: Insight | None = None,
    text_model: TextModel | None = None,
) -> Stage:
    """Enrich transcripts by `rules`, or by those of the call's tenant where it has its own.

    `text_model` tells how words feel, where it is given, and the lexicons where it cannot.

    With `insight` a language model writes the summary too. Of a live call what needs no model is
    said at once, and the summary asked for of `summary_stage`: no alert waits for a model. A replay
    says all of it at once; what a replay of an earlier stage has made is asked for as a replay, so
    that no live call waits behind it.

    A replay may ask for rules to try; without side effects its alerts are named and not raised.
    """
    own = dict(tenant_rules or {})
    at_once = 2 * settings.llm.requests_at_once
    trials = Trials(settings.rules_dir, settings.trial_rules_dir)

    def handle(envelope: Envelope[Any]) -> list[Output]:
        event: CallTranscribed = envelope.event
        if insight is not None and envelope.generation and envelope.message.topic == TRANSCRIBED:
            return [way_given("enrich", envelope)]
        chosen = own.get(event.tenant_id, rules)
        if (name := trial_rules(envelope.options)) is not None:
            chosen = trials.rules(name, event.tenant_id)
        now, replay = clock(), envelope.generation > 0
        enriched, alerts = enrich_call(
            event,
            envelope.id,
            chosen,
            now,
            settings,
            insight if replay else None,
            text_model=text_model,
            replay=replay,
            pending=insight is not None and not replay,
        )
        outputs = [Output(enriched)]
        if envelope.side_effects:
            outputs += (Output(alert, f"{envelope.id}/{alert.rule}") for alert in alerts)
        if enriched.summary is not None and enriched.summary.pending:
            outputs.append(Output(_request(event, enriched, now), f"{envelope.id}/summary"))
        return outputs

    return Stage(
        name="enrich",
        sources=(TRANSCRIBED,),
        targets=(ENRICHED, ALERTS, SUMMARIES, REPLAY),
        handle=each(handle) if insight is None else _patiently(handle, at_once),
        # Of a replay a quarter is handled at once.
        batch=16 if insight is None else max(16, 4 * at_once),
        workers=settings.workers,
        options=tuple(OPTIONS),
    )


def _patiently(handle: Callable[[Envelope[Any]], list[Output]], at_once: int) -> Handle:
    """Live calls one by one, those of a replay, which wait for a model, side by side."""
    live, replays = each(handle), each(handle, at_once)

    def handle_batch(envelopes: Sequence[Envelope[Any]]) -> Iterable[tuple[int, Outcome]]:
        return (replays if envelopes[0].generation else live)(envelopes)

    return handle_batch


def _request(event: CallTranscribed, enriched: CallEnriched, now: datetime) -> SummaryRequested:
    return SummaryRequested(
        tenant_id=event.tenant_id,
        call_id=event.call_id,
        revision=event.revision,
        requested_at=now,
        transcript_id=enriched.transcript_id,
        transcript=event,
        alerts=enriched.alerts,
    )


def summary_stage(
    settings: EnrichSettings,
    rules: Rules,
    insight: Insight,
    clock: Callable[[], datetime] = utc_now,
    tenant_rules: Mapping[str, Rules] | None = None,
    text_model: TextModel | None = None,
) -> Stage:
    """Enrich live calls once more, with the summary that `insight` makes of them.

    What is said is by the rules of now; the alerts that it names are those that were raised, though
    the rules have changed since.
    """
    own = dict(tenant_rules or {})

    def handle(envelope: Envelope[Any]) -> list[Output]:
        asked: SummaryRequested = envelope.event
        enriched, _ = enrich_call(
            asked.transcript,
            asked.transcript_id,
            own.get(asked.tenant_id, rules),
            clock(),
            settings,
            insight,
            text_model=text_model,
        )
        if asked.alerts is not None:
            enriched = replace(enriched, alerts=asked.alerts)
        return [Output(enriched)]

    return Stage(
        name="summarize",
        sources=(SUMMARIES,),
        targets=(ENRICHED,),
        handle=each(handle),
        workers=2 * settings.llm.requests_at_once,
    )
