"""Named example events of every topic: what each consumer is tested against.

`EXAMPLES[record][name]` is an event. Names say what is special; every event is valid and every
value is fixed, so that two runs give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from schemas import events as e

ENDED_AT = datetime(2026, 3, 2, 9, 35, tzinfo=UTC)
STARTED_AT = ENDED_AT - timedelta(minutes=5)
LATER = ENDED_AT + timedelta(seconds=40)


def _recording(name: str, **changes: Any) -> e.Recording:
    return e.Recording(
        **{
            "recording_id": name,
            "status": e.RecordingStatus.AVAILABLE,
            "uri": f"https://recordings.example.com/{name}.wav",
            "container": "wav",
            "codec": "pcm_s16le",
            "sample_rate_hz": 8000,
            "channels": 2,
            "channel_roles": [e.Role.AGENT, e.Role.CUSTOMER],
            "start_offset_ms": 0,
            "duration_ms": 300_000,
            **changes,
        }
    )


AGENT = e.Participant(
    participant_id="p1", role=e.Role.AGENT, agent_id="agent-7", display_name="Dana Reed",
    joined_ms=4_000, left_ms=300_000,
)  # fmt: skip
CUSTOMER = e.Participant(
    participant_id="p2", role=e.Role.CUSTOMER, address="+15550100", joined_ms=0, left_ms=300_000
)


def _ended(call_id: str, **changes: Any) -> e.CallEnded:
    return e.CallEnded(
        **{
            "event_id": f"evt-{call_id}",
            "tenant_id": "acme",
            "call_id": call_id,
            "occurred_at": ENDED_AT,
            "published_at": ENDED_AT + timedelta(seconds=2),
            "source_updated_at": ENDED_AT + timedelta(seconds=1),
            "source": e.Source(platform=e.Platform.OTHER, adapter_version="1"),
            "direction": e.Direction.INBOUND,
            "from_address": "+15550100",
            "to_address": "+15550199",
            "started_at": STARTED_AT,
            "answered_at": STARTED_AT + timedelta(seconds=4),
            "ended_at": ENDED_AT,
            "talk_ms": 296_000,
            "disposition": e.Disposition.ANSWERED,
            "disconnected_by": e.DisconnectedBy.CUSTOMER,
            "queue": e.Queue(id="support", name="Support"),
            "participants": [AGENT, CUSTOMER],
            "recordings": [_recording(f"{call_id}-r1")],
            "language_hints": ["en"],
            **changes,
        }
    )


def _call_ended() -> Mapping[str, e.CallEnded]:
    kind = e.SegmentKind
    pending = _recording(
        "pending-r1", status=e.RecordingStatus.PENDING, uri=None, container=None, codec=None,
        sample_rate_hz=None, channels=None, duration_ms=None,
    )  # fmt: skip
    mono = _recording("mono-r1", channels=1, channel_roles=[])
    return {
        "happy": _ended("happy"),
        "smallest": e.CallEnded(
            event_id="evt-smallest", tenant_id="acme", call_id="smallest", occurred_at=ENDED_AT,
            published_at=ENDED_AT, source=e.Source(platform=e.Platform.OTHER),
            started_at=STARTED_AT, ended_at=ENDED_AT,
        ),
        "recording-pending": _ended("pending", recordings=[pending]),
        "recording-pending-then-ready": _ended(
            "pending", event_id="evt-pending-2",
            source_updated_at=ENDED_AT + timedelta(minutes=1),
            recordings=[_recording("pending-r1")],
        ),
        "recording-absent": _ended(
            "absent",
            recordings=[
                _recording(
                    "absent-r1", status=e.RecordingStatus.ABSENT, status_reason="not recorded",
                    uri=None,
                )
            ],
        ),
        "no-recordings": _ended("none", recordings=[], disposition=e.Disposition.NO_ANSWER),
        "mono": _ended("mono", recordings=[mono]),
        "two-legs": _ended(
            "legs",
            recordings=[
                _recording("legs-a", channels=1, channel_roles=[e.Role.AGENT]),
                _recording("legs-b", channels=1, channel_roles=[e.Role.CUSTOMER]),
            ],
        ),
        "transfer": _ended(
            "transfer",
            root_call_id="transfer", next_call_id="transfer-2",
            disconnected_by=e.DisconnectedBy.TRANSFER,
            participants=[
                AGENT, CUSTOMER,
                e.Participant(participant_id="p3", role=e.Role.AGENT, agent_id="agent-9",
                              display_name="Sam Okoro", joined_ms=150_000, left_ms=300_000),
            ],
            segments=[
                e.CallSegment(kind=kind.INTERACT, start_ms=4_000, end_ms=140_000),
                e.CallSegment(kind=kind.TRANSFER, start_ms=140_000, end_ms=150_000),
                e.CallSegment(kind=kind.INTERACT, start_ms=150_000, end_ms=300_000),
            ],
            recordings=[
                _recording("transfer-r1", duration_ms=140_000),
                _recording("transfer-r2", start_offset_ms=150_000, duration_ms=150_000),
            ],
        ),
        "hold-and-secure-pause": _ended(
            "hold", hold_ms=30_000,
            segments=[
                e.CallSegment(kind=kind.IVR, start_ms=0, end_ms=4_000),
                e.CallSegment(kind=kind.HOLD, start_ms=60_000, end_ms=90_000),
                e.CallSegment(kind=kind.SECURE_PAUSE, start_ms=120_000, end_ms=140_000),
            ],
        ),
        "mandarin": _ended("mandarin", language_hints=["zh"],
                           queue=e.Queue(id="售后", name="售后服务")),
        "mixed-languages": _ended("mixed", language_hints=["zh", "en"]),
        "hours-long": _ended(
            "long", started_at=ENDED_AT - timedelta(hours=4), talk_ms=14_396_000,
            recordings=[_recording("long-r1", duration_ms=14_400_000)],
        ),
    }  # fmt: skip


def _stored(recording: e.Recording, tenant: str = "acme") -> e.StoredRecording:
    digest = sha256(recording.recording_id.encode()).hexdigest()
    return e.StoredRecording(
        recording_id=recording.recording_id,
        object_key=f"audio/{tenant}/{digest[:2]}/{digest}",
        sha256=digest,
        size_bytes=(recording.duration_ms or 0) * 32,
        container="wav",
        codec="pcm_s16le",
        sample_rate_hz=8000,
        channels=recording.channels or 2,
        channel_roles=list(recording.channel_roles),
        duration_ms=recording.duration_ms or 300_000,
        start_offset_ms=recording.start_offset_ms or 0,
        source_uri=recording.uri,
    )


def revision_of(call: e.CallEnded) -> int:
    """Milliseconds since the epoch of what the platform last changed."""
    return round((call.source_updated_at or call.occurred_at).timestamp() * 1000)


def _recorded(call: e.CallEnded, **changes: Any) -> e.CallRecorded:
    return e.CallRecorded(
        **{
            "tenant_id": call.tenant_id,
            "call_id": call.call_id,
            "revision": revision_of(call),
            "recorded_at": LATER,
            "call": call,
            "recordings": [_stored(recording) for recording in call.recordings],
            **changes,
        }
    )


def _call_recorded() -> Mapping[str, e.CallRecorded]:
    ended = _call_ended()
    made = {
        name: _recorded(ended[name])
        for name in ("happy", "mono", "two-legs", "transfer", "hold-and-secure-pause", "mandarin",
                     "mixed-languages", "hours-long")
    }  # fmt: skip
    transfer = ended["transfer"]
    made["one-refused"] = _recorded(
        transfer,
        recordings=[_stored(transfer.recordings[0])],
        refused=[e.RefusedRecording(recording_id="transfer-r2", reason="not_audio: no stream")],
    )
    made["one-pending"] = _recorded(
        transfer, recordings=[_stored(transfer.recordings[0])], pending=["transfer-r2"]
    )
    return made


EN_TURNS = (
    ("agent", "good morning thank you for calling acme my name is dana how can i help you"),
    ("customer", "i am very angry the jacket i ordered has the wrong size and nobody answers"),
    ("agent", "i am sorry to hear that may i have your order number please"),
    ("customer", "it is four two seven one i want a refund or i will complain to your manager"),
    ("agent", "i understand i will send the refund today and you get an email in an hour"),
    ("customer", "okay thank you that is good"),
    ("agent", "is there anything else i can do for you thank you for calling goodbye"),
)
ZH_TURNS = (
    ("agent", "您好，这里是售后服务，请问有什么可以帮您？"),
    ("customer", "我对这个产品非常不满意，我要退款。"),
    ("agent", "非常抱歉，请告诉我您的订单号。"),
    ("customer", "没问题，订单号是一二三四。"),
    ("agent", "退款今天会处理，请问还有其他问题吗？"),
    ("customer", "没有了，谢谢。"),
)


def _segments(
    turns: tuple[tuple[str, str], ...], recording_id: str, language: str, *, mono: bool = False
) -> list[e.Segment]:
    made: list[e.Segment] = []
    at = 5_000
    for number, (role, text) in enumerate(turns):
        words = text.split() if language == "en" else [c for c in text if c.isalnum()]
        start, step = at, 300
        end = start + step * len(words)
        made.append(
            e.Segment(
                segment_id=number,
                recording_id=recording_id,
                channel=0 if mono or role == "agent" else 1,
                speaker="speaker_0" if mono else role,
                role=e.Role.UNKNOWN if mono else e.Role(role.upper()),
                start_ms=start,
                end_ms=end,
                text=text,
                language=language,
                confidence=0.875,
                words=words,
                word_start_ms=list(range(start, end, step)),
                word_end_ms=list(range(start + step, end + step, step)),
                word_confidence=[0.875] * len(words),
            )
        )
        at = end + 600
    return made


ENGINE = e.Engine(
    name="faster-whisper", version="1.2.1", model="small", model_revision="0" * 12, device="cpu",
    reason="model folder set", options={"beam_size": "5", "compute_type": "int8"},
)  # fmt: skip


def _transcribed(recorded: e.CallRecorded, **changes: Any) -> e.CallTranscribed:
    language = (recorded.call.language_hints or ["und"])[0]
    turns = ZH_TURNS if language == "zh" else EN_TURNS
    return e.CallTranscribed(
        **{
            "tenant_id": recorded.tenant_id,
            "call_id": recorded.call_id,
            "revision": recorded.revision,
            "transcribed_at": LATER + timedelta(seconds=30),
            "call": recorded.call,
            "recordings": recorded.recordings,
            "duration_ms": 300_000,
            "engine": ENGINE,
            "language": language,
            "language_confidence": 0.96875,
            "segments": _segments(turns, recorded.recordings[0].recording_id, language),
            "channels": [
                e.ChannelHeard(
                    recording_id=recorded.recordings[0].recording_id, channel=number, role=role,
                    speech_ms=20_000,
                )
                for number, role in enumerate((e.Role.AGENT, e.Role.CUSTOMER))
            ],
            **changes,
        }
    )  # fmt: skip


def _call_transcribed() -> Mapping[str, e.CallTranscribed]:
    recorded = _call_recorded()
    happy, mono = recorded["happy"], recorded["mono"]
    mixed = recorded["mixed-languages"]
    english = _segments(EN_TURNS, "mixed-r1", "en")
    mandarin = _segments(ZH_TURNS, "mixed-r1", "zh")
    return {
        "happy": _transcribed(happy),
        "mandarin": _transcribed(recorded["mandarin"]),
        "mono": _transcribed(
            mono,
            segments=_segments(EN_TURNS, "mono-r1", "en", mono=True),
            channels=[e.ChannelHeard(recording_id="mono-r1", channel=0, role=e.Role.UNKNOWN,
                                     speech_ms=40_000)],
            degradations=[e.Degradation(kind=e.DegradationKind.NO_DIARIZATION,
                                        reason="one channel and no diarizer")],
        ),
        "diarized": _diarized(_recorded(replace(mono.call, call_id="diarized"))),
        "silence": _transcribed(
            _recorded(replace(happy.call, call_id="silence")), segments=[], language="und",
            language_confidence=None, channels=[],
        ),
        "mixed-languages": _transcribed(
            mixed,
            segments=[
                replace(segment, segment_id=number)
                for number, segment in enumerate(
                    sorted([*english[:2], *mandarin[2:]], key=lambda s: s.start_ms)
                )
            ],
        ),
        "flagged": _transcribed(
            _recorded(replace(happy.call, call_id="flagged")),
            segments=[
                replace(segment, flags=[flag])
                for segment, flag in zip(_segments(EN_TURNS, "happy-r1", "en"), e.Flag,
                                         strict=False)
            ],
        ),
        "words-interpolated": _transcribed(
            _recorded(replace(happy.call, call_id="interpolated")),
            segments=[
                replace(segment, words_interpolated=True, word_confidence=[], confidence=None)
                for segment in _segments(EN_TURNS, "happy-r1", "en")
            ],
            degradations=[e.Degradation(kind=e.DegradationKind.NO_ALIGNMENT,
                                        reason="no align model for 'en'")],
        ),
        "hold": _transcribed(
            recorded["hold-and-secure-pause"],
            masked=[
                e.Masked(kind=segment.kind, start_ms=segment.start_ms, end_ms=segment.end_ms)
                for segment in recorded["hold-and-secure-pause"].call.segments
            ],
        ),
        "transfer": _transcribed(recorded["transfer"]),
        "hours-long": _transcribed(
            recorded["hours-long"], duration_ms=14_400_000,
            segments=_segments(EN_TURNS * 300, "long-r1", "en"),
        ),
    }  # fmt: skip


def _diarized(recorded: e.CallRecorded) -> e.CallTranscribed:
    """A mono call whose voices were parted, with all that an engine may hear beside words."""
    said = _segments(EN_TURNS, "diarized-r1", "en")
    first, second, *others = [replace(segment, channel=0) for segment in said]
    return _transcribed(
        recorded,
        segments=[
            replace(first, emotion=e.VoiceEmotion.NEUTRAL, loudness_dbfs=-26.5, corrections=[
                e.Correction(word=0, heard="Thank", corrected=first.words[0])]),
            replace(second, emotion=e.VoiceEmotion.ANGRY, sounds=[e.Sound.BREATH], overlapped=True,
                    loudness_dbfs=-18.25),
            *others,
        ],
        channels=[e.ChannelHeard(recording_id="diarized-r1", channel=0, role=e.Role.UNKNOWN,
                                 speech_ms=40_000, unheard_ms=500)],
        speakers=[
            e.Speaker(name="agent", role=e.Role.AGENT, role_confidence=0.875,
                      role_reason="phrases", speech_ms=20_000),
            e.Speaker(name="customer", role=e.Role.CUSTOMER, role_confidence=0.875,
                      role_reason="the other of two", speech_ms=18_000),
        ],
        diarizer="resemblyzer 0.1.4",
        vocabulary=e.VocabularyUsed(name="acme", version="0123456789ab", terms=["Chromecast"],
                                    prompt="Chromecast."),
    )  # fmt: skip


def _evidence(segment: e.Segment, quote: str) -> e.Evidence:
    return e.Evidence(segment_ids=[segment.segment_id], role=segment.role,
                      start_ms=segment.start_ms, end_ms=segment.end_ms, quote=quote)  # fmt: skip


def _enriched(transcribed: e.CallTranscribed, **changes: Any) -> e.CallEnriched:
    said = transcribed.segments
    angry, refund = ("very angry", "refund") if transcribed.language == "en" else (
        "非常不满意", "退款")  # fmt: skip
    return e.CallEnriched(
        **{
            "tenant_id": transcribed.tenant_id,
            "call_id": transcribed.call_id,
            "revision": transcribed.revision,
            "enriched_at": LATER + timedelta(seconds=31),
            "call": transcribed.call,
            "transcript_id": "00000000-0000-5000-8000-000000000001",
            "language": transcribed.language,
            "rules_version": "1+0123456789ab",
            "metrics": [
                e.Metric(name="talk_ms", role=e.Role.AGENT, value=20_000.0),
                e.Metric(name="talk_ms", role=e.Role.CUSTOMER, value=18_000.0),
                e.Metric(name="silence_share", value=0.125),
            ],
            "moments": [
                e.Moment(kind=e.MomentKind.SLOW_RESPONSE, start_ms=9_000, end_ms=12_000,
                         role=e.Role.AGENT, segment_ids=[1, 2]),
            ],
            "sentiments": [
                e.SegmentSentiment(segment_id=segment.segment_id, role=segment.role,
                                   label=e.SentimentLabel.NEGATIVE, score=-0.5, engine="lexicon")
                for segment in said[1:2]
            ],
            "course": [
                e.CoursePoint(quarter=1, role=e.Role.CUSTOMER, label=e.SentimentLabel.NEGATIVE,
                              score=-0.5),
                e.CoursePoint(quarter=4, role=e.Role.CUSTOMER, label=e.SentimentLabel.POSITIVE,
                              score=0.5),
            ],
            "findings": [
                e.Finding(finding_id="emotion-0", kind=e.FindingKind.EMOTION, label="angry",
                          role=e.Role.CUSTOMER, evidence=_evidence(said[1], angry),
                          rule="emotions", rule_version="1", engine="lexicon"),
                e.Finding(finding_id="topic-0", kind=e.FindingKind.TOPIC, label="refund",
                          role=e.Role.CUSTOMER, evidence=_evidence(said[3], refund),
                          rule="topics", rule_version="1", engine="lexicon"),
            ],
            "score": e.QualityScore(
                value=75.0, scorecard="default", scorecard_version="1",
                criteria=[
                    e.Criterion(criterion_id="greeting", title="Greets the customer",
                                verdict=e.Verdict.MET, weight=3.0, reason="greeting found",
                                evidence=[_evidence(said[0], said[0].text[:12])]),
                    e.Criterion(criterion_id="closing", title="Closes politely",
                                verdict=e.Verdict.NOT_MET, weight=1.0, reason="no closing found",
                                suggestion="Ask whether anything else is open."),
                    e.Criterion(criterion_id="empathy", title="Shows empathy",
                                verdict=e.Verdict.NOT_APPLICABLE, weight=2.0, reason="not needed"),
                ],
            ),
            "summary": e.Summary(
                method="extractive", version="1",
                sentences=[e.SummarySentence(text=said[1].text,
                                             evidence=_evidence(said[1], said[1].text))],
            ),
            "alerts": ["angry_refund"],
            **changes,
        }
    )  # fmt: skip


def _call_enriched() -> Mapping[str, e.CallEnriched]:
    transcribed = _call_transcribed()
    nothing: dict[str, Any]
    nothing = {"moments": [], "sentiments": [], "course": [], "findings": [], "score": None,
               "summary": None, "alerts": [], "metrics": []}  # fmt: skip
    silence = transcribed["silence"]
    return {
        "happy": _enriched(transcribed["happy"]),
        "mandarin": _enriched(transcribed["mandarin"]),
        "transfer": _enriched(transcribed["transfer"]),
        "silence": _enriched(replace(silence, segments=transcribed["happy"].segments), **nothing),
        "not-scored": _enriched(transcribed["mono"], score=None, alerts=[]),
        "stated": _stated(transcribed["diarized"]),
    }


def _stated(transcribed: e.CallTranscribed) -> e.CallEnriched:
    """With all that an LLM, rules and the voice may add."""
    plain, said = _enriched(transcribed), transcribed.segments
    assert plain.score is not None
    assert plain.summary is not None
    asked = _evidence(said[1], said[1].text)
    return replace(
        plain,
        moments=[
            *plain.moments,
            e.Moment(kind=e.MomentKind.TURN_BETTER, start_ms=said[3].start_ms,
                     end_ms=said[3].end_ms, role=e.Role.CUSTOMER, segment_ids=[3]),
        ],
        sentiments=[
            replace(each, engine="lexicon+voice:sensevoice", text_score=-0.5, voice_score=-0.75,
                    voice="angry")
            for each in plain.sentiments
        ],
        findings=[
            *plain.findings,
            e.Finding(finding_id="rule-0", kind=e.FindingKind.RULE, label="promised_call_back",
                      role=e.Role.AGENT, evidence=_evidence(said[2], said[2].text[:8]),
                      rule="rules/promised_call_back", rule_version="1", engine="rules",
                      suggestion="Call back today."),
        ],
        score=replace(
            plain.score, value=70.0,
            changes=[e.ScoreChange(rule="late", rule_version="1", points=-5.0,
                                   reason="said late", evidence=[asked])],
        ),
        summary=replace(
            plain.summary, method="qwen3", version="1+0123456789ab",
            statements=[e.Statement(kind=e.StatementKind.DEMAND, text="Wants the money back.",
                                    evidence=[asked])],
            answered=e.Answered.PARTLY, resolution=e.Resolution.FOLLOW_UP, dropped=1,
            usage=e.LlmUsage(requests=2, prompt_tokens=900, completion_tokens=120, seconds=1.5),
        ),
        redactions=[e.Redaction(segment_id=1, kind=e.PiiKind.PHONE, start=0, end=5,
                                start_ms=said[1].start_ms, end_ms=said[1].start_ms + 500)],
        keywords=[e.Keyword(text="refund", role=e.Role.CUSTOMER, weight=1.0, count=2)],
    )  # fmt: skip


def _alert_raised() -> Mapping[str, e.AlertRaised]:
    enriched = _call_enriched()
    return {
        name: e.AlertRaised(
            tenant_id=call.tenant_id, call_id=call.call_id, revision=call.revision,
            raised_at=call.enriched_at, rule=rule, rule_version="1", severity=severity,
            title=title, reason=f"{call.findings[1].label} and {call.findings[0].label}",
            evidence=[finding.evidence for finding in call.findings],
            suggested_action="Call the customer back today.", agent_id="agent-7",
            queue_id="support",
            call_published_at=call.call.published_at,
        )
        for name, call, rule, severity, title in (
            ("angry-refund", enriched["happy"], "angry_refund", e.Severity.HIGH,
             "Angry customer asks for a refund"),
            ("mandarin", enriched["mandarin"], "angry_refund", e.Severity.HIGH, "不满并要求退款"),
        )
    }  # fmt: skip


def _replay_requested() -> Mapping[str, e.ReplayRequested]:
    base = e.ReplayRequested(
        tenant_id="acme", call_id="happy", requested_at=LATER, requested_by="operator",
        reason="better model", stage="transcribe", generation=1,
        options={"model": "large-v3-turbo"},
        input=e.OriginalInput(topic="calls.recorded", event_id="0" * 32, value=b"\0\0\0\0\2"),
    )  # fmt: skip
    return {
        "bytes-inside": base,
        "by-reference": replace(
            base, stage="enrich", shadow=True,
            input=e.OriginalInput(topic="calls.transcribed", event_id="1" * 32,
                                  dataref="claims/00/0000"),
        ),
    }  # fmt: skip


def _call_erased() -> Mapping[str, e.CallErased]:
    return {
        "asked": e.CallErased(tenant_id="acme", call_id="happy", erased_at=LATER + timedelta(1),
                              requested_by="operator", reason="the customer asked")
    }  # fmt: skip


def _generation_decided() -> Mapping[str, e.GenerationDecided]:
    promoted = e.GenerationDecided(
        tenant_id="acme", generation=1, decision=e.Decision.PROMOTED, decided_at=LATER,
        decided_by="operator", reason="fewer errors on names",
    )  # fmt: skip
    return {
        "promoted": promoted,
        "discarded": replace(promoted, generation=2, decision=e.Decision.DISCARDED),
    }


def _summary_requested() -> Mapping[str, e.SummaryRequested]:
    return {
        name: e.SummaryRequested(
            tenant_id=transcript.tenant_id, call_id=transcript.call_id,
            revision=transcript.revision, requested_at=LATER, transcript_id=f"{name:0<32}",
            transcript=transcript,
        )
        for name, transcript in _call_transcribed().items()
    }  # fmt: skip


def _call_reviewed() -> Mapping[str, e.CallReviewed]:
    criterion = e.CallReviewed(
        tenant_id="acme", call_id="happy", criterion_id="closing", verdict=e.Verdict.MET,
        reviewed_at=LATER, reviewed_by="lena", reason="the customer hung up first",
    )  # fmt: skip
    return {
        "criterion": criterion,
        "whole": replace(criterion, criterion_id="", verdict=e.Verdict.UNKNOWN, score=90.0),
        "withdrawn": replace(criterion, verdict=e.Verdict.UNKNOWN, withdrawn=True),
    }


def _call_notified() -> Mapping[str, e.CallNotified]:
    alert = _alert_raised()["angry-refund"]
    taken = e.CallNotified(
        tenant_id=alert.tenant_id, call_id=alert.call_id, revision=alert.revision, endpoint="crm",
        event_id="1" * 32, record="AlertRaised", rule=alert.rule, notified_at=LATER, answer="204",
        call_published_at=alert.call_published_at,
    )  # fmt: skip
    return {
        "alert": taken,
        "enriched": replace(taken, record="CallEnriched", rule="", attempts=3, answer="200"),
        "overtaken": replace(
            taken, record="CallEnriched", rule="", attempts=0, answer="", overtaken_by="2" * 32
        ),
    }


EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "CallEnded": _call_ended(),
    "CallRecorded": _call_recorded(),
    "CallTranscribed": _call_transcribed(),
    "CallEnriched": _call_enriched(),
    "AlertRaised": _alert_raised(),
    "ReplayRequested": _replay_requested(),
    "GenerationDecided": _generation_decided(),
    "CallErased": _call_erased(),
    "SummaryRequested": _summary_requested(),
    "CallReviewed": _call_reviewed(),
    "CallNotified": _call_notified(),
}
