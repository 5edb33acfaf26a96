"""What a call's figures and findings rest on: every example, and figures worked out anew."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.events import (
    AlertRaised,
    CallEnriched,
    CallSegment,
    CallTranscribed,
    Criterion,
    Evidence,
    Flag,
    Keyword,
    Metric,
    PiiKind,
    QualityScore,
    Redaction,
    Role,
    ScoreChange,
    Segment,
    SegmentKind,
    StoredRecording,
    Verdict,
    VoiceEmotion,
)
from schemas.examples import EXAMPLES
from services.assembly import project_root
from services.cli.evidence import Entry, moment_of
from services.cli.explain import Explanation, as_json, as_text, explain
from services.enrich.handler import enrich_call
from services.enrich.metrics import METRICS
from services.enrich.rules import load_rules
from services.enrich.settings import EnrichSettings
from services.enrich.transcript_file import parse_transcript
from tests.enrich.calls import call, segment
from tests.enrich.test_samples import as_json as turns_of

TRANSCRIPTS: dict[str, CallTranscribed] = dict(EXAMPLES["CallTranscribed"])
ENRICHED: dict[str, CallEnriched] = dict(EXAMPLES["CallEnriched"])
RAISED: dict[str, AlertRaised] = dict(EXAMPLES["AlertRaised"])
RULES = load_rules()
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def row(alert: AlertRaised) -> dict[str, Any]:
    """As the view `call_alerts` has it."""
    return {
        "rule": alert.rule, "rule_version": alert.rule_version, "severity": alert.severity.value,
        "title": alert.title, "reason": alert.reason, "suggested_action": alert.suggested_action,
        "quotes": [each.quote for each in alert.evidence],
        "start_ms": [each.start_ms for each in alert.evidence],
        "end_ms": [each.end_ms for each in alert.evidence],
        "segment_ids": [each.segment_ids for each in alert.evidence],
    }  # fmt: skip


def enriched_of(event: CallTranscribed, limits: EnrichSettings) -> CallEnriched:
    return enrich_call(event, "t", RULES, NOW, limits)[0]


def entries(explained: Explanation, group: str) -> dict[str, Entry]:
    return {each.name: each for each in explained.groups[group]}


def metric(explained: Explanation, name: str, role: Role | None = None) -> Entry:
    whose = None if role is None else role.value
    (found,) = [
        each
        for each in explained.groups["metrics"]
        if (each.name, each.value["role"]) == (name, whose)
    ]
    return found


@pytest.mark.parametrize("name", ENRICHED)
def test_nothing_of_any_example_is_lost(name: str) -> None:
    """Whichever transcript it is held against, its own or one that does not fit."""
    enriched = ENRICHED[name]
    alerts = [row(alert) for alert in RAISED.values()]
    for transcript in TRANSCRIPTS.values():
        for transcript_id in (None, "another"):
            explained = explain(transcript, enriched, alerts, transcript_id=transcript_id)
            written, told = as_text(explained), json.loads(as_json(explained))
            groups = told["groups"]
            assert [each["value"] for each in groups["metrics"]] == [
                {"name": it.name, "value": it.value, "role": it.role} for it in enriched.metrics
            ]
            assert [each["name"] for each in groups["findings"]] == [
                it.finding_id for it in enriched.findings
            ]
            for finding in enriched.findings:
                assert f"[{finding.finding_id}]" in written
                assert f"by {finding.rule}, version {finding.rule_version}, engine " in written
            assert len(groups["moments"]) == len(enriched.moments)
            assert len(groups["sentiments"]) == len(enriched.sentiments)
            assert len(groups["course"]) == len(enriched.course)
            assert len(groups["redactions"]) == len(enriched.redactions)
            for keyword in enriched.keywords:
                assert f"\n  {keyword.text} (mostly " in written
            if enriched.score is not None:
                for criterion in enriched.score.criteria:
                    assert f"[{criterion.criterion_id}]" in written
                    assert criterion.title in written
                for change in enriched.score.changes:
                    assert f"{change.points:+g} points by rule {change.rule}" in written
            for rule in enriched.alerts:
                assert f"\n  {rule} (high): " in written
            if enriched.summary is not None:
                said = [*enriched.summary.sentences, *enriched.summary.statements]
                assert len(groups["summary"]) == 1 + len(said)
            for each in enriched.metrics:
                assert f"\n  {each.name} " in written


def test_the_texts_of_a_summary_are_told_with_what_they_rest_on() -> None:
    written = as_text(explain(TRANSCRIPTS["diarized"], ENRICHED["stated"]))
    asked = "    00:10.400 to 00:14.900  customer: “[phone]very angry"
    assert f"\n  demand: Wants the money back.\n{asked}" in written
    assert "left out because it rested on nothing said: 1" in written
    assert "2 requests, 900 + 120 tokens, 1.5 s" in written
    assert "to do: Call back today." in written


def test_an_alert_that_was_not_raised_says_that_its_evidence_is_nowhere() -> None:
    call, enriched = TRANSCRIPTS["happy"], ENRICHED["happy"]
    (entry,) = explain(call, enriched).groups["alerts"]
    assert not entry.places
    assert "its evidence is in no event" in entry.comes_from[0]
    (entry,) = explain(call, enriched, [row(RAISED["angry-refund"])]).groups["alerts"]
    assert [(place.role, place.quote) for place in entry.places] == [
        (Role.CUSTOMER, "very angry"), (Role.CUSTOMER, "refund")
    ]  # fmt: skip


# Where it can be heard


def test_a_place_is_told_in_the_recording_that_holds_it() -> None:
    transfer = TRANSCRIPTS["transfer"]
    first, second = transfer.recordings
    assert second.start_offset_ms == 150_000
    said = replace(transfer.segments[1], recording_id=second.recording_id, start_ms=160_000,
                   end_ms=163_500)  # fmt: skip
    evidence = Evidence(start_ms=161_000, end_ms=162_500, segment_ids=[1], role=said.role,
                        quote="very angry")  # fmt: skip
    enriched = ENRICHED["transfer"]
    enriched = replace(enriched, findings=[replace(enriched.findings[0], evidence=evidence)])
    explained = explain(replace(transfer, segments=[transfer.segments[0], said]), enriched)
    (place,) = explained.groups["findings"][0].places
    (audio,) = place.audio
    assert (audio.recording_id, audio.object_key) == (second.recording_id, second.object_key)
    assert (audio.channel, audio.start_s, audio.end_s) == (1, 11.0, 12.5)
    assert (
        "    02:41.000 to 02:42.500  customer: “very angry”  [transfer-r2, channel 1, 11.000 s to "
        "12.500 s]\n"
    ) in as_text(explained)
    # The moment lies in the first recording: nobody speaks, so every channel is to be heard.
    (audio,) = explained.groups["moments"][0].places[0].audio
    assert (audio.recording_id, audio.channel) == (first.recording_id, None)
    assert (audio.start_s, audio.end_s) == (9.0, 12.0)


def test_what_no_recording_holds_is_said_to_lie_nowhere() -> None:
    transfer, enriched = TRANSCRIPTS["transfer"], ENRICHED["transfer"]
    between = replace(enriched.moments[0], start_ms=142_000, end_ms=149_000, segment_ids=[])
    explained = explain(transfer, replace(enriched, moments=[between]))
    assert explained.groups["moments"][0].places[0].audio == []
    assert "02:22.000 to 02:29.000  agent  [in no stored recording]" in as_text(explained)


def test_words_that_were_not_said_so_and_times_that_were_not_heard_are_told() -> None:
    happy, enriched = TRANSCRIPTS["words-interpolated"], ENRICHED["happy"]
    wrong = replace(enriched.findings[0].evidence, quote="delighted")
    findings = [replace(enriched.findings[0], evidence=wrong), enriched.findings[1]]
    explained = explain(happy, replace(enriched, findings=findings))
    notes = [each.places[0].note for each in explained.groups["findings"]]
    spread = "times of words are spread over the segment, not heard"
    assert notes == [f"these words do not stand so in its segments; {spread}", spread]


def test_findings_of_another_transcript_say_so_and_nothing_is_worked_out() -> None:
    happy, enriched = TRANSCRIPTS["happy"], ENRICHED["happy"]
    explained = explain(happy, enriched, transcript_id="another")
    assert any("which is not the current one" in note for note in explained.notes)
    talk = metric(explained, "talk_ms", Role.AGENT)
    assert (talk.agrees, talk.places) == (None, [])
    assert explained.groups["findings"][0].places[0].audio[0].channel is None
    same = explain(happy, enriched, transcript_id=enriched.transcript_id)
    assert same == explain(happy, enriched)


@given(st.integers(-10_000_000, 100_000_000))
def test_a_time_is_written_to_the_millisecond(ms: int) -> None:
    found = re.fullmatch(r"(-?)(?:(\d+):)?(\d\d):(\d\d)\.(\d{3})", moment_of(ms))
    assert found is not None
    sign, hours, minutes, seconds, part = found.groups()
    whole = ((int(hours or 0) * 60 + int(minutes)) * 60 + int(seconds)) * 1000 + int(part)
    assert (-whole if sign else whole) == ms
    assert int(minutes) < 60
    assert int(seconds) < 60


# Figures worked out anew


@st.composite
def conversations(draw: st.DrawFn) -> CallTranscribed:
    """Up to three speakers who pause, overlap and are flagged, with masks of telephony."""
    spoken: list[Segment] = []
    at = draw(st.integers(0, 3_000))
    texts = (
        "one moment please",
        "i am very angry",
        "thank you",
        "订单号是一二三四",
        "",
        "7 8 refund",
    )
    for number in range(draw(st.integers(0, 14))):
        lasts = draw(st.integers(0, 40)) * 100
        spoken.append(
            segment(
                draw(st.sampled_from("accaui")),
                at,
                at + lasts,
                draw(st.sampled_from(texts)),
                number,
                channel=draw(st.integers(0, 1)),
                flags=draw(st.sampled_from([[]] * 6 + [[flag] for flag in Flag])),
                emotion=draw(st.sampled_from([*VoiceEmotion] + [VoiceEmotion.UNKNOWN] * 6)),
                loudness_dbfs=draw(st.none() | st.integers(-90, 0).map(float)),
            )
        )
        at = max(0, at + lasts + draw(st.integers(-25, 40)) * 100)
    kinds = st.sampled_from((SegmentKind.HOLD, SegmentKind.ACW, SegmentKind.SECURE_PAUSE))
    masks = [
        CallSegment(kind=draw(kinds), start_ms=start, end_ms=start + draw(st.integers(0, 3_000)))
        for start in draw(st.lists(st.integers(0, 30_000), max_size=3))
    ]
    made = call(*spoken)
    return replace(made, call=replace(made.call, segments=masks, hold_ms=draw(st.integers(0, 9))))


@settings(deadline=None)
@given(conversations(), st.sampled_from((100, 500, 1_200, 3_000)), st.integers(0, 600))
def test_every_figure_comes_out_the_same_when_worked_out_anew(
    event: CallTranscribed, silence_ms: int, interruption_ms: int
) -> None:
    limits = EnrichSettings(silence_ms=silence_ms, interruption_ms=interruption_ms)
    explained = explain(event, enriched_of(event, limits), settings=limits)
    as_text(explained)
    people = {each.speaker for each in event.segments if each.role is not Role.IVR}
    for entry in explained.groups["metrics"]:
        unknown = entry.name == "dead_air_ms" and entry.value["value"] is not None
        # Whose interruption it is where a third comes in before the second is done, the
        # definitions leave open.
        crowd = entry.name.startswith("interruption_") and len(people) > 2
        if not crowd:
            assert entry.agrees is True or (unknown and entry.agrees is None), entry
    for group in ("sentiments", "course", "score"):
        for entry in explained.groups[group]:
            assert entry.agrees is not False, entry
    assert all(entry.agrees for entry in explained.groups["course"])


@pytest.mark.parametrize("path", sorted((project_root() / "samples/calls").glob("*.yaml")), ids=str)
def test_every_figure_of_a_sample_comes_out_the_same(path: Any) -> None:
    script = yaml.safe_load(path.read_text(encoding="utf-8"))
    event = parse_transcript(turns_of(script))
    explained = explain(event, enriched_of(event, EnrichSettings()))
    differ = [entry for group in explained.groups.values() for entry in group
              if entry.agrees is False]  # fmt: skip
    assert differ == []
    unknown = {entry.name for entry in explained.groups["metrics"] if entry.agrees is None}
    assert unknown <= {"dead_air_ms"}


def _conversation() -> CallTranscribed:
    return call(
        segment("a", 0, 2_000, "good morning", 0),
        segment("c", 1_200, 4_000, "i am very angry", 1),
        segment("a", 6_000, 8_000, "您好请问有什么可以帮您", 2),
        segment("c", 10_000, 11_000, "thank you", 3),
    )


def test_a_figure_that_is_wrong_is_seen_to_be() -> None:
    said = [*_conversation().segments, segment("c", 4_300, 4_800, "hello", 4)]
    said.append(segment("c", 7_000, 7_500, "hello", 5))
    event = call(*(replace(it, loudness_dbfs=-20.0 - it.segment_id) for it in said))
    enriched = enriched_of(event, EnrichSettings())
    right = explain(event, enriched)
    names = {entry.name for entry in right.groups["metrics"]}
    assert set(METRICS) <= names
    wrong = replace(
        enriched, metrics=[replace(each, value=each.value + 0.5) for each in enriched.metrics]
    )
    explained = explain(event, wrong)
    for before, after in zip(right.groups["metrics"], explained.groups["metrics"], strict=True):
        if before.name == "dead_air_ms":
            assert (before.agrees, after.agrees) == (None, None)
            assert "cannot be worked out from the events" in before.comes_from[0]
        # Both parts of these two were made greater, and they are their quotient.
        elif before.agrees:
            assert after.agrees is False, after
    assert "this does not come to what the event says" in as_text(explained)
    assert "this does not come to what the event says" not in as_text(right)


def test_the_parts_of_a_figure_are_named() -> None:
    event = _conversation()
    explained = explain(event, enriched_of(event, EnrichSettings()))
    silence = metric(explained, "silence_ms")
    assert silence.comes_from == ["2 silences: 2000 + 2000 = 4000 ms"]
    assert [(p.start_ms, p.end_ms) for p in silence.places] == [(4_000, 6_000), (8_000, 10_000)]
    assert metric(explained, "talk_ms", Role.AGENT).comes_from == ["2 segments, 4000 ms"]
    waits = metric(explained, "response_mean_ms", Role.CUSTOMER)
    assert waits.comes_from == ["2000 ms in 2 waits = 1000"]
    assert [place.note for place in waits.places] == ["waited 0 ms", "waited 2000 ms"]
    interrupted = metric(explained, "interruption_ms", Role.CUSTOMER)
    assert [(p.start_ms, p.end_ms, p.quote) for p in interrupted.places] == [
        (1_200, 2_000, "i am very angry")
    ]
    dead = metric(explained, "dead_air_ms")
    assert dead.places[1].note == "the agent before: “您好请问有什么可以帮您”"
    pace = metric(explained, "words_per_minute", Role.CUSTOMER)
    assert pace.comes_from == ["6 words in 2 segments of 3800 ms × 60,000 = 94.7368"]


def test_of_a_metric_with_many_places_text_names_some_and_json_all() -> None:
    event = call(*(segment("ac"[n % 2], n * 1000, n * 1000 + 900, number=n) for n in range(40)))
    explained = explain(event, enriched_of(event, EnrichSettings()))
    assert len(metric(explained, "turn_count", Role.AGENT).places) == 20
    assert "    and 12 more: --format json has them\n" in as_text(explained)
    told = json.loads(as_json(explained))["groups"]["metrics"]
    assert 20 in [len(entry["places"]) for entry in told if entry["name"] == "turn_count"]


def test_a_metric_nobody_knows_is_shown_and_not_followed() -> None:
    enriched = replace(ENRICHED["happy"], metrics=[Metric(name="charm", value=0.5)])
    (entry,) = explain(TRANSCRIPTS["happy"], enriched).groups["metrics"]
    assert (entry.title, entry.agrees) == ("charm 0.5", None)
    assert "nothing to follow" in entry.comes_from[0]


# Score


def _scored(value: float, *points: float) -> Entry:
    criteria = [
        Criterion(criterion_id=f"c{number}", title="t", verdict=verdict, weight=weight, reason="r")
        for number, (verdict, weight) in enumerate(
            [(Verdict.MET, 20.0), (Verdict.MET, 15.0), (Verdict.NOT_MET, 25.0),
             (Verdict.NOT_APPLICABLE, 40.0)]
        )
    ]  # fmt: skip
    changes = [
        ScoreChange(rule=f"r{number}", rule_version="1", points=each, reason="late")
        for number, each in enumerate(points)
    ]
    score = QualityScore(value=value, scorecard="s", scorecard_version="1", criteria=criteria,
                         changes=changes)  # fmt: skip
    return explain(TRANSCRIPTS["happy"], replace(ENRICHED["happy"], score=score)).groups["score"][0]


def test_the_arithmetic_of_a_score_is_told() -> None:
    plain = _scored(58.33)
    assert plain.comes_from == ["35 of 60 points that apply = 58.33"]
    assert plain.agrees is True
    changed = _scored(43.33, -20.0, 5.0)
    assert changed.comes_from[1:] == ["-20 by rule r0: 38.33", "+5 by rule r1: 43.33"]
    assert changed.agrees is True
    bounded = _scored(0.0, -90.0)
    assert bounded.comes_from[-1] == "within 0 to 100: 0.00"
    assert bounded.agrees is True
    assert _scored(60.0).agrees is False


# What is personal


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_what_is_personal_is_told_by_place_and_never_by_its_words(data: st.DataObject) -> None:
    secrets = ("Aurelia Quint", "0049 171 5550199", "四二七一")
    texts = [f"my {word} is {secret} i want a refund 退款" for word in ("name", "number")
             for secret in secrets]  # fmt: skip
    event = call(*(segment("ac"[n % 2], n * 3_000, n * 3_000 + 2_500, text, n)
                   for n, text in enumerate(texts)))  # fmt: skip
    redactions = [
        Redaction(segment_id=n, kind=PiiKind.NAME, start=text.index(secret),
                  end=text.index(secret) + len(secret), start_ms=n * 3_000, end_ms=n * 3_000 + 900)
        for n, text in enumerate(texts)
        for secret in secrets
        if secret in text
    ]  # fmt: skip
    enriched = enriched_of(event, EnrichSettings())
    assert enriched.summary is not None
    start = data.draw(st.integers(0, 20))
    quote = texts[0][start : start + data.draw(st.integers(0, 40))]
    finding = replace(
        ENRICHED["happy"].findings[0],
        evidence=Evidence(start_ms=0, end_ms=900, segment_ids=[0], quote=quote),
    )
    ids = data.draw(st.sampled_from(([0], [0, 1], [])))
    told = Evidence(start_ms=0, end_ms=900, segment_ids=ids, quote=f"so {secrets[0].upper()} said")
    enriched = replace(
        enriched,
        redactions=redactions,
        findings=[*enriched.findings, finding, replace(finding, evidence=told)],
        keywords=[Keyword(text="refund", role=Role.AGENT, weight=1.0, count=6)],
    )
    transcript_id = data.draw(st.sampled_from((None, "another")))
    explained = explain(event, enriched, transcript_id=transcript_id)
    assert len(explained.groups["redactions"]) == len(redactions)
    assert "name, segment 0, characters 11 to 24\n    00:00.000 to 00:00.900" in as_text(explained)
    for written in (as_text(explained), as_json(explained)):
        for secret in secrets:
            assert secret.lower() not in written.lower()
    if transcript_id is None:
        assert "[name] i want a refund" in as_text(explained)
        assert explained.groups["keywords"][0].agrees is True


def test_what_a_terminal_would_obey_is_not_written() -> None:
    event = _conversation()
    said = replace(event.segments[1], text="angry \x1b[2J\nrefund")
    event = replace(event, segments=[event.segments[0], said])
    event = replace(event, recordings=[_stored("r\x1b[31m")])
    written = as_text(explain(event, enriched_of(event, EnrichSettings())))
    assert "\x1b" not in written
    assert "“angry [2J refund”" in written


def _stored(recording_id: str) -> StoredRecording:
    happy = TRANSCRIPTS["happy"].recordings[0]
    return replace(happy, recording_id=recording_id)
