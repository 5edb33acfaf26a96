"""Every figure and finding of a call, followed to the seconds of audio it rests on.

What the two events do not hold is said to be missing. Pure functions of events.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from schemas.events import (
    CallEnriched,
    CallTranscribed,
    Evidence,
    Moment,
    MomentKind,
    Redaction,
    Role,
    SegmentSentiment,
    SentimentLabel,
    StoredRecording,
    Verdict,
)
from services.cli.evidence import (
    MOST_PLACES,
    Entry,
    Followed,
    Place,
    count_of,
    equal,
    fields_of,
    figure,
    moment_of,
)
from services.cli.figures import Figures
from services.cli.show import NOT_REVIEWED, Reviewed, verdict_of
from services.enrich.findings import ENGINE, NOT_HUMAN, Places, trusted
from services.enrich.score import LEFT_OUT
from services.enrich.sentiment import TEXT_WEIGHT, VOICE_WEIGHT, fused
from services.enrich.settings import EnrichSettings


@dataclass(frozen=True, slots=True)
class Explanation:
    tenant_id: str
    call_id: str
    transcript_id: str
    rules_version: str
    recordings: list[StoredRecording]
    notes: list[str]
    groups: dict[str, list[Entry]]
    """Group -> its entries; a group without any is there too."""


def explain(
    transcript: CallTranscribed,
    enriched: CallEnriched,
    alerts: Sequence[Mapping[str, Any]] = (),
    *,
    transcript_id: str | None = None,
    settings: EnrichSettings | None = None,
    reviewed: Reviewed = NOT_REVIEWED,
) -> Explanation:
    """All that `enriched` says, each with what it comes from.

    Figures are those computed; what people judged otherwise is told beside them.
    `alerts` are rows of the view `call_alerts`, of those that were raised. `transcript_id` is the
    event id of `transcript`, None where it is the one that `enriched` was made from: of another
    one nothing is worked out. `settings` are the limits to reckon with; those that were in use
    when the call was enriched are in no event.
    """
    same = transcript_id in (None, enriched.transcript_id)
    call = Followed(transcript, enriched, same)
    figures = Figures(call, settings or EnrichSettings())
    notes = [
        "limits are those of the settings here: that others were in use shows where a figure "
        "does not come out",
        "what is personal is shown by its kind",
    ]
    if not same:
        notes.append(
            f"made from the transcript {enriched.transcript_id}, which is not the current one: "
            "figures cannot be worked out anew, and places have no channel"
        )
    notes += [
        f"{_review(call, row)}; it counts for nothing: the score has no criterion "
        f"{row['criterion_id']}"
        for row in reviewed.beside(enriched)
    ]
    whole = reviewed.of("")
    if whole is not None and enriched.score is None:
        notes.append(f"{_review(call, whole)}; no score was computed")
    groups = {
        "score": _score(call, reviewed),
        "alerts": _alerts(call, alerts),
        "findings": _findings(call),
        "summary": _summary(call),
        "keywords": _keywords(call),
        "moments": [_moment(call, moment) for moment in enriched.moments],
        "metrics": [figures.entry(metric) for metric in enriched.metrics],
        "sentiments": [_sentiment(call, each) for each in enriched.sentiments],
        "course": figures.course(),
        "redactions": [_redaction(call, each) for each in enriched.redactions],
    }
    return Explanation(
        tenant_id=enriched.tenant_id,
        call_id=enriched.call_id,
        transcript_id=enriched.transcript_id,
        rules_version=enriched.rules_version,
        recordings=list(transcript.recordings),
        notes=[*notes, _tally(groups)],
        groups=groups,
    )


def _tally(groups: Mapping[str, Sequence[Entry]]) -> str:
    figures = [*groups["metrics"], *groups["sentiments"], *groups["course"], *groups["score"][:1]]
    agree = sum(entry.agrees is True for entry in figures)
    differ = sum(entry.agrees is False for entry in figures)
    return (
        f"of {count_of(len(figures), 'figure')} {agree} come out the same when worked out anew, "
        f"{differ} do not, and {len(figures) - agree - differ} cannot be worked out"
    )


def as_json(explanation: Explanation) -> str:
    """All of it, field by field."""
    return json.dumps(msgspec.to_builtins(explanation), ensure_ascii=False, indent=1) + "\n"


def as_text(explanation: Explanation) -> str:
    """For reading. Of a metric at most MOST_PLACES places are named."""
    whose = _line(f"{explanation.tenant_id}/{explanation.call_id}")
    lines = [
        f"{whose}   transcript {_line(explanation.transcript_id)}, rules "
        f"{_line(explanation.rules_version)}",
    ]
    for stored in explanation.recordings:
        end_ms = stored.start_offset_ms + stored.duration_ms
        roles = ", ".join(f"{at} {role.lower()}" for at, role in enumerate(stored.channel_roles))
        lines.append(
            f"recording {_line(stored.recording_id)}: {_line(stored.object_key)}, "
            f"{moment_of(stored.start_offset_ms)} to {moment_of(end_ms)} of the call, "
            f"{stored.channels} channel{'s' * (stored.channels != 1)}"
            + (f": {roles}" * bool(roles))
        )
    lines += [f"note: {note}" for note in explanation.notes]
    lines.append(f"to hear a place: callstream clip {whose} START END --out FILE.wav")
    for group, entries in explanation.groups.items():
        lines += ["", group if entries else f"{group}: none"]
        for entry in entries:
            lines.append(f"  {_line(entry.title)}")
            lines += [f"    {_line(said)}" for said in entry.comes_from]
            if entry.agrees is False:
                lines.append("    this does not come to what the event says")
            shown = entry.places if group != "metrics" else entry.places[:MOST_PLACES]
            lines += [_placed(place) for place in shown]
            if more := len(entry.places) - len(shown):
                lines.append(f"    and {more} more: --format json has them")
    return "\n".join(lines) + "\n"


def _placed(place: Place) -> str:
    said = f"    {moment_of(place.start_ms)} to {moment_of(place.end_ms)}"
    if place.role is not None:
        said += f"  {place.role.lower()}"
    if place.quote:
        said += f": “{_line(place.quote)}”"
    if place.note:
        said += f"  ({_line(place.note)})"
    heard = "; ".join(
        f"{_line(it.recording_id)}, "
        + ("all channels" if it.channel is None else f"channel {it.channel}")
        + f", {it.start_s:.3f} s to {it.end_s:.3f} s"
        for it in place.audio
    )
    return f"{said}  [{heard or 'in no stored recording'}]"


def _line(text: str) -> str:
    """In one line, and without what a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _moment(call: Followed, moment: Moment) -> Entry:
    turns = moment.kind in (MomentKind.TURN_BETTER, MomentKind.TURN_WORSE)
    lasts = moment.end_ms - moment.start_ms
    whose = "" if moment.role is None else f" ({moment.role.lower()})"
    place = call.place(moment.start_ms, moment.end_ms, moment.segment_ids, moment.role,
                       everybody=not turns)  # fmt: skip
    beside = [call.whole(call.segments[n], "bears it out" if turns else "beside it")
              for n in moment.segment_ids if n in call.segments]  # fmt: skip
    return Entry(
        moment.kind.value,
        f"{moment.kind.lower()}{whose}, {lasts} ms",
        fields_of(moment),
        places=[place, *beside],
    )


def _sentiment(call: Followed, felt: SegmentSentiment) -> Entry:
    """The whole segment, then the words of emotion in it."""
    title = (
        f"segment {felt.segment_id} ({felt.role.lower()}): {felt.label.lower()} "
        f"{figure(felt.score)}, told by {felt.engine}"
    )
    text, voice = felt.text_score, felt.voice_score
    both = fused(text, voice)
    # What told of the words comes first.
    teller = felt.engine.partition("+")[0]
    by_model = text is not None and teller != ENGINE
    if both is None:
        known = felt.label is not SentimentLabel.UNKNOWN
        how = ["words and voice are not told apart in this event" if known
               else "neither words nor voice tell anything"]  # fmt: skip
    elif text is None:
        how = [f"voice {felt.voice} {figure(voice or 0.0)} alone counts half: {figure(both)}"]
    elif voice is None:
        how = [f"words {figure(text)} alone: {figure(both)}"]
    else:
        how = [
            f"words {figure(text)} × {TEXT_WEIGHT} + voice {felt.voice} {figure(voice)} × "
            f"{VOICE_WEIGHT} = {figure(both)}"
        ]
    heard = [
        replace(call.evidence(finding.evidence), note=f"{finding.label}, {finding.rule}")
        for finding in call.emotions.get(felt.segment_id, ())
    ]
    if by_model:
        how.append(
            f"the words were judged by the model {teller}, which is not asked again here"
            + ("; the emotions found below are the lexicon's, and do not count" * bool(heard))
        )
    elif heard:
        how.append("what each word weighs is in the lexicon, not in the event")
    segment = call.segments.get(felt.segment_id)
    if segment is None:
        how.append("its segment is not in the transcript at hand")
    return Entry(
        str(felt.segment_id),
        title,
        fields_of(felt),
        how,
        None if both is None else equal(both, felt.score),
        [*([] if segment is None else [call.whole(segment)]), *heard],
    )


def _findings(call: Followed) -> list[Entry]:
    entries = []
    for finding in call.enriched.findings:
        sure = "exact match" if finding.confidence is None else f"{finding.confidence:.0%} sure"
        how = [
            f"by {finding.rule}, version {finding.rule_version}, engine {finding.engine}, {sure}"
        ]
        suggestion = call.shown(finding.suggestion, finding.evidence.segment_ids)
        if suggestion:
            how.append(f"to do: {suggestion}")
        title = (
            f"{finding.kind.lower()} {finding.label} ({finding.role.lower()})   "
            f"[{finding.finding_id}]"
        )
        fields = fields_of(finding, "evidence") | {"suggestion": suggestion}
        places = [call.evidence(finding.evidence)]
        entries.append(Entry(finding.finding_id, title, fields, how, places=places))
    return entries


def _review(call: Followed, row: Mapping[str, Any]) -> str:
    said = verdict_of(row["verdict"]) if row["score"] is None else f"{figure(row['score'])} of 100"
    return f"reviewed by {row['reviewed_by']}: {said}, because {call.shown(row['reason'])}"


def _score(call: Followed, reviewed: Reviewed) -> list[Entry]:
    """The score with its arithmetic, then what each criterion and rule gave."""
    score = call.enriched.score
    if score is None:
        return []
    met = sum(c.weight for c in score.criteria if c.verdict is Verdict.MET)
    of = sum(c.weight for c in score.criteria if c.verdict not in LEFT_OUT)
    if of:
        value = 100 * met / of
        how = [f"{figure(met)} of {figure(of)} points that apply = {value:.2f}"]
    else:
        value, how = 0.0, ["no criterion applies"]
    for change in score.changes:
        value += change.points
        how.append(f"{change.points:+g} by rule {change.rule}: {value:.2f}")
    if not 0.0 <= value <= 100.0:
        value = min(max(value, 0.0), 100.0)
        how.append(f"within 0 to 100: {value:.2f}")
    # The parts may be rounded to two digits before they are added.
    agrees = abs(value - score.value) < 0.02 if of else None
    whole = reviewed.of("")
    if whole is not None:
        how.append(_review(call, whole))
    if len(reviewed.beside(call.enriched)) < len(reviewed.rows):
        counts = "no score" if reviewed.score is None else figure(reviewed.score)
        how.append(f"what counts, as people reviewed it: {counts}")
    entries = [
        Entry(
            "score",
            f"score {figure(score.value)} of 100, by {score.scorecard}, version "
            f"{score.scorecard_version}",
            fields_of(score, "criteria", "changes"),
            how,
            agrees,
        )
    ]
    for criterion in score.criteria:
        ids = _ids(criterion.evidence)
        verdict = criterion.verdict.lower().replace("_", " ")
        suggestion, reason = (
            call.shown(criterion.suggestion, ids),
            call.shown(criterion.reason, ids),
        )
        fields = fields_of(criterion, "evidence") | {"reason": reason, "suggestion": suggestion}
        row = reviewed.of(criterion.criterion_id)
        entries.append(
            Entry(
                criterion.criterion_id,
                f"{verdict}, weight {figure(criterion.weight)}: {criterion.title}   "
                f"[{criterion.criterion_id}]",
                fields,
                [
                    f"{criterion.engine}: {reason}",
                    *([f"to do: {suggestion}"] if suggestion else []),
                    *([] if row is None else [_review(call, row)]),
                ],
                places=[call.evidence(each) for each in criterion.evidence],
            )
        )
    for change in score.changes:
        reason = call.shown(change.reason, _ids(change.evidence))
        entries.append(
            Entry(
                change.rule,
                f"{change.points:+g} points by rule {change.rule}, version {change.rule_version}",
                fields_of(change, "evidence") | {"reason": reason},
                [reason],
                places=[call.evidence(each) for each in change.evidence],
            )
        )
    return entries


def _ids(evidence: Iterable[Evidence]) -> list[int]:
    return [number for each in evidence for number in each.segment_ids]


def _alerts(call: Followed, rows: Sequence[Mapping[str, Any]]) -> list[Entry]:
    raised = {row["rule"]: row for row in rows}
    entries = []
    for rule in call.enriched.alerts:
        row = raised.get(rule)
        if row is None:
            how = ["no alert of it was raised (a replay raises none): its evidence is in no event"]
            entries.append(Entry(rule, f"{rule}: matches", {"rule": rule}, how))
            continue
        places = [
            call.evidence(
                Evidence(start_ms=int(start), end_ms=int(end), quote=quote,
                         segment_ids=[int(number) for number in ids], role=_role(call, ids))
            )
            for quote, start, end, ids in zip(
                row["quotes"], row["start_ms"], row["end_ms"], row["segment_ids"], strict=True
            )
        ]  # fmt: skip
        reason = call.shown(row["reason"], [n for place in places for n in place.segment_ids])
        entries.append(
            Entry(
                rule,
                f"{rule} ({row['severity'].lower()}): {row['title']}",
                {
                    "rule": rule, "rule_version": row["rule_version"], "severity": row["severity"],
                    "title": row["title"], "reason": reason,
                    "suggested_action": row["suggested_action"],
                },
                [
                    f"by version {row['rule_version']} of the rule: {reason}",
                    f"to do: {row['suggested_action']}",
                ],
                places=places,
            )
        )  # fmt: skip
    return entries


def _role(call: Followed, segment_ids: Sequence[Any]) -> Role:
    """The view keeps no role: that of the first segment."""
    segment = call.segments.get(int(segment_ids[0])) if segment_ids else None
    return Role.UNKNOWN if segment is None else segment.role


_HAN = re.compile(r"[㐀-鿿]")


def _keywords(call: Followed) -> list[Entry]:
    """Where each is written as it is told; a form of it ("refunds") is not found so."""
    entries = []
    said = [s for s in call.segments.values() if trusted(s) and s.role not in NOT_HUMAN]
    for keyword in call.enriched.keywords:
        border = "" if _HAN.search(keyword.text) else r"\b"
        words = r"\s+".join(map(re.escape, keyword.text.split()))
        pattern = re.compile(f"{border}{words}{border}", re.IGNORECASE) if words else None
        places = [
            call.evidence(Places(segment).evidence(*match.span()))
            for segment in said
            if pattern is not None
            for match in pattern.finditer(segment.text)
        ]
        how = f"{count_of(len(places), 'place')} where it is written so, said {keyword.count} times"
        if len(places) != keyword.count:
            how += ": other forms of a word count too, and what is found here need not count"
        title = f"{keyword.text} (mostly {keyword.role.lower()}), weight {figure(keyword.weight)}"
        agrees = True if len(places) == keyword.count else None
        entries.append(Entry(keyword.text, title, fields_of(keyword), [how], agrees, places))
    return entries


def _summary(call: Followed) -> list[Entry]:
    """What made it, then each sentence and statement with what it rests on."""
    summary = call.enriched.summary
    if summary is None:
        return []
    how = [f"answered: {summary.answered.lower()}, resolution: {summary.resolution.lower()}"]
    if summary.degraded:
        how.append(f"a lesser method, because {summary.degraded}")
    if summary.dropped:
        how.append(f"left out because it rested on nothing said: {summary.dropped}")
    if (usage := summary.usage) is not None:
        how.append(
            f"{count_of(usage.requests, 'request')}, {usage.prompt_tokens} + "
            f"{usage.completion_tokens} tokens, {usage.seconds:g} s"
        )
    entries = [
        Entry(
            "summary",
            f"by {summary.method}, version {summary.version}",
            fields_of(summary, "sentences", "statements"),
            how,
        )
    ]
    for number, sentence in enumerate(summary.sentences, 1):
        text = call.shown(sentence.text, sentence.evidence.segment_ids)
        entries.append(
            Entry(f"sentence {number}", text, {"text": text},
                  places=[call.evidence(sentence.evidence)])
        )  # fmt: skip
    for number, statement in enumerate(summary.statements, 1):
        text = call.shown(statement.text, _ids(statement.evidence))
        kind = statement.kind.value
        entries.append(
            Entry(f"statement {number}", f"{kind.lower()}: {text}", {"kind": kind, "text": text},
                  places=[call.evidence(each) for each in statement.evidence])
        )  # fmt: skip
    return entries


def _redaction(call: Followed, redaction: Redaction) -> Entry:
    """By its place alone: never the words."""
    segment = call.segments.get(redaction.segment_id)
    role = None if segment is None else segment.role
    ids = [redaction.segment_id]
    return Entry(
        f"{redaction.segment_id}:{redaction.start}",
        f"{redaction.kind.lower()}, segment {redaction.segment_id}, characters {redaction.start} "
        f"to {redaction.end}",
        fields_of(redaction),
        places=[call.place(redaction.start_ms, redaction.end_ms, ids, role)],
    )
