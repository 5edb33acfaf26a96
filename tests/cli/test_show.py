"""Every format of a transcript, over every example."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from schemas.events import CallEnriched, CallTranscribed, Correction, PiiKind, Redaction, Speaker
from schemas.examples import EXAMPLES
from services.cli import show
from services.cli.demo import _not_heard
from services.cli.evidence import without_personal

ENRICHED: CallEnriched = EXAMPLES["CallEnriched"]["happy"]
TRANSCRIPTS: dict[str, CallTranscribed] = dict(EXAMPLES["CallTranscribed"])


@pytest.mark.parametrize("name", TRANSCRIPTS)
@pytest.mark.parametrize("format", show.FORMATS)
def test_every_format_writes_every_segment_once(format: str, name: str) -> None:
    call = TRANSCRIPTS[name]
    found = replace(ENRICHED, call=call.call) if format == "vcon" else None
    written = show.FORMATS[format](call, found)
    marks = {
        "text": r"^\d[\d:]*  +\S+: ",
        "json": r"^ +\"segment_id\": \d+,\n +\"recording_id\"",
        "srt": r" --> ",
        "vtt": r" --> ",
        "tsv": r"^-?\d+\t\d+\t",
        "rttm": r"^SPEAKER ",
    }
    if format == "vcon":
        said = [it for it in json.loads(written)["analysis"] if it["type"] == "transcript"]
        cues = sum(each["body"].count(" --> ") for each in said)
        assert cues == len(call.segments)
        return
    assert len(re.findall(marks[format], written, re.MULTILINE)) == len(call.segments)


def test_a_vcon_is_made_of_what_was_found() -> None:
    with pytest.raises(ValueError, match="acme/happy has no findings"):
        show.as_vcon(TRANSCRIPTS["happy"], None)
    for name in ("happy", "transfer"):
        call = TRANSCRIPTS[name]
        told = json.loads(show.as_vcon(call, replace(ENRICHED, call=call.call)))
        said = [each for each in told["analysis"] if each["type"] == "transcript"]
        assert len(said) == len(told["dialog"]) == len(call.recordings)
        for number, (each, stored) in enumerate(zip(said, call.recordings, strict=True)):
            assert each["dialog"] == [number]
            for segment in call.segments:
                start = segment.start_ms - stored.start_offset_ms
                cue = f"\n00:{start // 60_000:02}:{start // 1000 % 60:02}.{start % 1000:03} --> "
                assert (cue in each["body"]) is (segment.recording_id == stored.recording_id)


def test_what_is_personal_is_in_no_format_of_a_masked_transcript() -> None:
    happy = TRANSCRIPTS["happy"]
    secrets = ["Ann Archer", "13800138000"]
    text = "I am Ann Archer, call 13800138000 please."
    said = replace(happy.segments[1], text=text, words=text.split(), corrections=[
        Correction(word=2, heard="an", corrected="Ann")])  # fmt: skip
    personal = [
        Redaction(
            segment_id=said.segment_id, kind=kind, start=text.index(secret),
            end=text.index(secret) + len(secret), start_ms=0, end_ms=1,
        )
        for kind, secret in zip((PiiKind.NAME, PiiKind.PHONE), secrets, strict=True)
    ]  # fmt: skip
    told_by = Speaker(
        name=said.speaker, role=said.role, speech_ms=1, role_reason="says “I am Ann Archer”"
    )
    segments = [happy.segments[0], said, *happy.segments[2:]]
    call = replace(happy, segments=segments, speakers=[told_by])
    masked = without_personal(call, replace(ENRICHED, redactions=personal))
    for format in ("text", "json", "srt", "vtt", "tsv", "rttm"):
        for secret in (*secrets, "Archer,"):
            assert (secret in show.FORMATS[format](call, None)) is (format != "rttm")
            assert secret not in show.FORMATS[format](masked, None), format
    assert masked.segments[1].text == "I am [name], call [phone] please."
    assert masked.segments[0] == call.segments[0]


def test_text_shows_findings_score_and_alerts() -> None:
    written = show.text(TRANSCRIPTS["happy"], ENRICHED)
    assert "topic refund (customer): “refund”" in written
    assert "score 75 of 100" in written
    assert "alert: angry_refund\n" in written
    row = {"severity": "HIGH", "title": "Wants it back", "suggested_action": "Call back."}
    assert "alert: angry_refund (high): Wants it back\n  to do: Call back.\n" in show.text(
        TRANSCRIPTS["happy"], ENRICHED, {"angry_refund": row}
    )


def test_text_says_what_was_not_transcribed_and_what_is_degraded() -> None:
    assert "secure_pause 02:00 to 02:20" in show.text(TRANSCRIPTS["hold"], None)
    assert "degraded: no_diarization" in show.text(TRANSCRIPTS["mono"], None)
    assert "nobody was heard to speak" in show.text(TRANSCRIPTS["silence"], None)


def test_text_says_whom_the_words_gave_away() -> None:
    told = [
        (name, speaker, show.text(call, None))
        for name, call in TRANSCRIPTS.items()
        for speaker in call.speakers
        if speaker.role_reason
    ]
    assert told
    for name, speaker, written in told:
        assert f"\n{speaker.name}: {speaker.role_reason}" in written, name
        sure = speaker.role_confidence
        assert sure is None or f"({sure:.0%} sure)\n" in written, name


def test_the_demo_says_how_many_were_not_heard_and_why() -> None:
    assert _not_heard([]) == ""
    assert _not_heard(["language_unsupported"] * 2) == (
        ", 2 of them not heard (language_unsupported),"
    )


def test_json_is_the_event() -> None:
    written = json.loads(show.as_json(TRANSCRIPTS["mandarin"], None))
    assert written["transcript"]["segments"][1]["text"] == "我对这个产品非常不满意，我要退款。"
    assert written["enriched"] is None


def test_subtitles_have_times_of_the_call() -> None:
    call = TRANSCRIPTS["happy"]
    first = call.segments[0]
    assert (first.start_ms, first.end_ms) == (5000, 9800)
    assert show.srt(call).startswith("1\n00:00:05,000 --> 00:00:09,800\nagent: good morning")
    assert show.vtt(call).startswith("WEBVTT\n\n00:00:05.000 --> 00:00:09.800\n<v agent>good")
    assert show.rttm(call).startswith("SPEAKER happy 1 5.000 4.800 <NA> <NA> agent <NA> <NA>\n")


@pytest.mark.parametrize(
    ("ms", "shown"), [(0, "00:00"), (61_999, "01:01"), (3_600_000, "1:00:00"), (-5, "00:00")]
)
def test_clock(ms: int, shown: str) -> None:
    assert show.clock(ms) == shown
