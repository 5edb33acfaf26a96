"""One call's transcript in the formats people and tools read. Pure functions of events."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec

from schemas.events import CallEnriched, CallTranscribed, Segment
from services.notify.payloads import vcon


class Reviewed(NamedTuple):
    """What people judged of a call."""

    score: float | None = None
    """That counts where there is a review, 0 to 100; None where none does."""
    rows: Sequence[Mapping[str, Any]] = ()
    """Of the view `call_reviews`."""

    def of(self, criterion_id: str) -> Mapping[str, Any] | None:
        """The review of the criterion; of the whole where it is ""."""
        return next((row for row in self.rows if row["criterion_id"] == criterion_id), None)

    def beside(self, enriched: CallEnriched | None) -> list[Mapping[str, Any]]:
        """Reviews of criteria that the score of `enriched` does not have: they change nothing."""
        score = None if enriched is None else enriched.score
        names = ["", *(each.criterion_id for each in (score.criteria if score else ()))]
        return [row for row in self.rows if row["criterion_id"] not in names]


NOT_REVIEWED = Reviewed()


def text(
    call: CallTranscribed,
    enriched: CallEnriched | None,
    alerts: Mapping[str, Mapping[str, str]] = {},
    reviewed: Reviewed = NOT_REVIEWED,
) -> str:
    """For reading: who said what when, then what was found.

    `alerts` has title, severity and suggested_action of those that were raised, by their rule.
    """
    engine = call.engine
    lines = [
        f"{call.tenant_id}/{call.call_id}   {clock(call.duration_ms)}   language {call.language}",
        f"engine {engine.name} {engine.version}, model {engine.model or '-'}"
        + (f": {engine.reason}" if engine.reason else ""),
    ]
    lines += [
        f"{speaker.name}: {speaker.role_reason}"
        + (f" ({speaker.role_confidence:.0%} sure)" if speaker.role_confidence is not None else "")
        for speaker in call.speakers
        if speaker.role_reason
    ]
    lines += [f"degraded: {d.kind.lower()}: {d.reason}" for d in call.degradations]
    lines += [
        f"not transcribed: {m.kind.lower()} {clock(m.start_ms)} to {clock(m.end_ms)}"
        for m in call.masked
    ]
    lines.append("")
    for segment in call.segments:
        flags = "".join(f"  [{flag.lower()}]" for flag in segment.flags)
        lines.append(f"{clock(segment.start_ms)}  {segment.speaker:>10}: {segment.text}{flags}")
    if not call.segments:
        lines.append("nobody was heard to speak")
    if enriched is not None:
        lines += ["", *_findings(enriched, alerts, reviewed)]
    elif told := _score(None, reviewed):
        lines += ["", *told]
    return "\n".join(lines) + "\n"


def _findings(
    call: CallEnriched, alerts: Mapping[str, Mapping[str, str]], reviewed: Reviewed
) -> list[str]:
    lines = []
    for finding in call.findings:
        at = clock(finding.evidence.start_ms)
        lines.append(
            f"{at}  {finding.kind.lower()} {finding.label} ({finding.role.lower()}): "
            f"“{finding.evidence.quote}”"
        )
    lines += _score(call, reviewed)
    for alert in call.alerts:
        if raised := alerts.get(alert):
            lines.append(f"alert: {alert} ({raised['severity'].lower()}): {raised['title']}")
            lines.append(f"  to do: {raised['suggested_action']}")
        else:
            lines.append(f"alert: {alert}")
    if call.summary is not None:
        lines.append(f"summary ({call.summary.method}):")
        lines += [f"  {sentence.text}" for sentence in call.summary.sentences]
    return lines


def _score(call: CallEnriched | None, reviewed: Reviewed) -> list[str]:
    """What counts, and beside it what was computed and who says otherwise."""
    score, whole = None if call is None else call.score, reviewed.of("")
    counts = reviewed.score if reviewed.rows else score and score.value
    lines = []
    if score is not None or whole is not None:
        said = "no score: nothing applies" if counts is None else f"score {counts:.0f} of 100"
        said += f", by {score.scorecard}" if score else ""
        lines.append(said)
    if reviewed.rows and score is not None and counts != score.value:
        lines.append(f"  computed: {score.value:.0f}")
    if whole is not None:
        lines.append(f"  reviewed by {_told(whole)}")
    for criterion in score.criteria if score else ():
        row = reviewed.of(criterion.criterion_id)
        verdict = verdict_of(criterion.verdict if row is None else row["verdict"])
        lines.append(f"  {verdict:>14}  {criterion.title}: {criterion.reason}")
        if row is not None:
            computed = verdict_of(criterion.verdict)
            lines.append(f"{'':18}computed {computed}, reviewed by {_told(row)}")
    lines += [
        f"  {verdict_of(row['verdict'])}, but the score has no criterion {row['criterion_id']}: "
        f"reviewed by {_told(row)}"
        for row in reviewed.beside(call)
    ]
    return lines


def verdict_of(value: str) -> str:
    """A verdict as people read it."""
    return value.lower().replace("_", " ")


def _told(row: Mapping[str, Any]) -> str:
    return _one_line(f"{row['reviewed_by']}: {row['reason']}")


def as_json(call: CallTranscribed, enriched: CallEnriched | None) -> str:
    """Both events, field by field."""
    both = {"transcript": call, "enriched": enriched}
    return json.dumps(msgspec.to_builtins(both), ensure_ascii=False, indent=1) + "\n"


def srt(call: CallTranscribed, enriched: CallEnriched | None = None) -> str:
    """SubRip subtitles."""
    return "\n".join(
        f"{number}\n{_stamp(s.start_ms, ',')} --> {_stamp(_shown_until(s), ',')}\n"
        f"{s.speaker}: {_one_line(s.text)}\n"
        for number, s in enumerate(call.segments, 1)
    )


def vtt(call: CallTranscribed, enriched: CallEnriched | None = None) -> str:
    """WebVTT subtitles, speakers as voices."""
    cues = [
        f"{_stamp(s.start_ms, '.')} --> {_stamp(_shown_until(s), '.')}\n"
        f"<v {_escaped(s.speaker)}>{_escaped(_one_line(s.text))}\n"
        for s in call.segments
    ]
    return "\n".join(["WEBVTT\n", *cues])


def tsv(call: CallTranscribed, enriched: CallEnriched | None = None) -> str:
    """Start and end in milliseconds, speaker, role and text, separated by tabs."""
    rows = [
        f"{s.start_ms}\t{s.end_ms}\t{_one_line(s.speaker)}\t{s.role}\t{_one_line(s.text)}"
        for s in call.segments
    ]
    return "\n".join(["start\tend\tspeaker\trole\ttext", *rows]) + "\n"


def rttm(call: CallTranscribed, enriched: CallEnriched | None = None) -> str:
    """NIST RTTM: who spoke when, in seconds."""
    name = "_".join(call.call_id.split()) or "call"
    return "".join(
        f"SPEAKER {name} {s.channel + 1} {s.start_ms / 1000:.3f} "
        f"{(s.end_ms - s.start_ms) / 1000:.3f} <NA> <NA> {'_'.join(s.speaker.split())} <NA> <NA>\n"
        for s in call.segments
    )


def as_vcon(call: CallTranscribed, enriched: CallEnriched | None) -> str:
    """The call as an unsigned vCon, with the transcript of each recording; without audio.

    Raises ValueError where nothing was found in it yet.
    """
    if enriched is None:
        raise ValueError(f"{call.tenant_id}/{call.call_id} has no findings, which a vCon tells")
    starts = {stored.recording_id: stored.start_offset_ms for stored in call.recordings}
    said: dict[str, list[Segment]] = {id: [] for id in starts}
    for segment in call.segments:
        start = starts.get(segment.recording_id, 0)
        said.setdefault(segment.recording_id, []).append(
            replace(segment, start_ms=segment.start_ms - start, end_ms=segment.end_ms - start)
        )
    transcripts = {id: vtt(replace(call, segments=segments)) for id, segments in said.items()}
    return json.dumps(vcon(enriched, transcripts), ensure_ascii=False, indent=1) + "\n"


FORMATS: Mapping[str, Callable[[CallTranscribed, CallEnriched | None], str]] = {
    "text": text,
    "json": as_json,
    "srt": srt,
    "vtt": vtt,
    "tsv": tsv,
    "rttm": rttm,
    "vcon": as_vcon,
}


def clock(ms: int) -> str:
    """Milliseconds as minutes and seconds, with hours where there are any."""
    minutes, seconds = divmod(max(0, ms) // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes:02}:{seconds:02}"


def _stamp(ms: int, point: str) -> str:
    seconds, ms = divmod(max(0, ms), 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{ms:03}"


def _shown_until(segment: Segment) -> int:
    """Subtitles need some time to be seen at all."""
    return max(segment.end_ms, segment.start_ms + 1)


def _one_line(value: str) -> str:
    return " ".join(value.split())


def _escaped(value: Any) -> str:
    return str(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
