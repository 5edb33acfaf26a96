from __future__ import annotations

import errno
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from schemas import topics
from schemas.checks import problem_with
from schemas.events import (
    CallRecorded,
    CallSegment,
    CallTranscribed,
    Degradation,
    DegradationKind,
    Flag,
    Role,
    SegmentKind,
)
from schemas.examples import EXAMPLES
from services.runtime.errors import Invalid, Transient
from services.runtime.log import Message
from services.runtime.objects import DirectoryObjects
from services.runtime.stage import Envelope
from services.transcribe.cache import prefix
from services.transcribe.choice import Chosen, choose
from services.transcribe.engine import Engine
from services.transcribe.handler import stage
from services.transcribe.settings import TranscribeSettings
from tests.transcribe.fake_engine import FakeEngine
from tests.transcribe.sounds import SPEECH, noise, recorded, silence, speech, stored, wav

LANGUAGE_UNSUPPORTED = DegradationKind.LANGUAGE_UNSUPPORTED
NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
RECORDED: Mapping[str, CallRecorded] = EXAMPLES["CallRecorded"]


@pytest.fixture
def objects(tmp_path: Path) -> DirectoryObjects:
    return DirectoryObjects(tmp_path / "objects")


@cache
def pocketsphinx() -> Chosen:
    return choose(TranscribeSettings(engine="pocketsphinx"))


def run(
    objects: DirectoryObjects,
    event: CallRecorded,
    engine: Engine | Chosen,
    **settings: Any,
) -> CallTranscribed:
    chosen = engine if isinstance(engine, Chosen) else Chosen(engine, "the test asks for it")
    made = stage(TranscribeSettings.model_validate(settings), objects, chosen, clock=lambda: NOW)
    message = Message(topics.RECORDED, 0, 0, b"acme/call", b"", (), 0)
    ((index, outcome),) = made.handle([Envelope(event=event, message=message, id="1")])
    assert index == 0
    if isinstance(outcome, Exception):
        raise outcome
    (output,) = outcome
    transcript = output.event
    assert isinstance(transcript, CallTranscribed)
    assert problem_with(transcript) is None
    ordered = [(s.start_ms, s.channel) for s in transcript.segments]
    assert ordered == sorted(ordered)
    return transcript


def kinds(degradations: list[Degradation]) -> list[DegradationKind]:
    return [degradation.kind for degradation in degradations]


def test_the_stage_reads_and_writes_what_the_catalogue_says(objects: DirectoryObjects) -> None:
    made = stage(TranscribeSettings(workers=3), objects, Chosen(FakeEngine(), ""))
    assert (made.name, made.sources, made.targets) == (
        "transcribe", (topics.RECORDED,), (topics.TRANSCRIBED, topics.REPLAY)
    )  # fmt: skip
    # One call a batch: a long one holds up no other partition, nor the process at its end.
    assert (made.batch, made.workers) == (1, 3)


def test_as_many_calls_are_at_work_as_who_listens_can_share(objects: DirectoryObjects) -> None:
    def workers(**settings: Any) -> int:
        server = {"url": "http://127.0.0.1:9/v1", "model": "m", "concurrency": 7}
        made = TranscribeSettings.model_validate({"endpoint": server, **settings})
        return stage(made, objects, Chosen(FakeEngine(), "")).workers

    assert workers() == 2, "a long one holds up no other"
    assert workers(rules=[{"engine": "openai"}]) == 7
    assert workers(rules=[{"engine": "openai"}], workers=2) == 2


def test_a_rule_decides_who_listens_and_is_published(objects: DirectoryObjects) -> None:
    event = recorded(stored(objects, "r1", wav([speech(0)]), 1), language_hints=["yue"])
    rules = [{"name": "Cantonese", "languages": ["yue"], "engine": "stub"}]
    transcript = run(objects, event, FakeEngine(forbidden=True), rules=rules)
    assert transcript.engine.name == "stub"
    assert transcript.engine.reason.startswith("rule 1 (Cantonese): stub: transcribe.rules asks")
    other = replace(event, call=replace(event.call, language_hints=["en"]))
    assert run(objects, other, FakeEngine(), rules=rules).engine.name == "fake"


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_every_example_twice_gives_equal_transcripts(objects: DirectoryObjects, name: str) -> None:
    event = RECORDED[name]
    audio = {
        1: wav([speech(0, 0.0, 3.0)]),
        2: wav([speech(0, 0.0, 6.0), speech(1, 0.0, 6.0)]),
    }
    there = [
        replace(
            described,
            object_key=(made := stored(objects, "", audio[described.channels], 2)).object_key,
            sha256=made.sha256,
        )
        for described in event.recordings
    ]
    event = replace(event, recordings=there)
    first = run(objects, event, FakeEngine(), cache=False)
    assert run(objects, event, FakeEngine(), cache=False) == first
    assert (first.call, first.recordings, first.revision) == (
        event.call, event.recordings, event.revision
    )  # fmt: skip
    assert {segment.recording_id for segment in first.segments} == {
        described.recording_id for described in there
    }
    assert len(first.channels) == sum(described.channels for described in there)
    assert first.engine.reason == "the test asks for it"


def test_what_was_heard_before_is_not_heard_again(objects: DirectoryObjects) -> None:
    event = recorded(stored(objects, "r1", wav([speech(0), speech(1, 4.0)]), 2))
    first = run(objects, event, FakeEngine())
    assert first.segments
    assert not first.cached
    again = run(objects, event, FakeEngine(forbidden=True))
    assert again.cached
    assert replace(again, cached=False) == first
    described = event.recordings[0]
    assert list(objects.keys(prefix(described.sha256)))


@pytest.mark.parametrize(
    ("settings", "engine", "segments"),
    [
        ({"vad": {"pad_ms": 50}}, FakeEngine(), []),
        ({"language": "en"}, FakeEngine(), []),
        ({}, FakeEngine(model="another"), []),
        ({}, FakeEngine(), [CallSegment(kind=SegmentKind.HOLD, start_ms=0, end_ms=500)]),
        ({"cache": False}, FakeEngine(), []),
    ],
    ids=["vad", "language", "engine", "masks", "off"],
)
def test_what_changes_the_result_is_heard_anew(
    objects: DirectoryObjects,
    settings: dict[str, Any],
    engine: FakeEngine,
    segments: list[CallSegment],
) -> None:
    event = recorded(stored(objects, "r1", wav([speech(0)]), 1))
    run(objects, event, FakeEngine())
    changed = replace(event, call=replace(event.call, segments=segments))
    assert not run(objects, changed, engine, **settings).cached


def test_trust_settings_do_not_need_the_engine_again(objects: DirectoryObjects) -> None:
    event = recorded(stored(objects, "r1", wav([speech(0)]), 1))
    run(objects, event, FakeEngine())
    strict = run(objects, event, FakeEngine(forbidden=True), trust={"low_confidence": 0.9})
    assert all(segment.flags == [Flag.LOW_CONFIDENCE] for segment in strict.segments)


@pytest.mark.parametrize("junk", [b"", b"\xff\xfe", b"{}", b'{"duration_ms":"x"}', b"null"])
def test_a_spoilt_result_is_made_again(objects: DirectoryObjects, junk: bytes) -> None:
    event = recorded(stored(objects, "r1", wav([speech(0)]), 1))
    first = run(objects, event, FakeEngine())
    (key,) = objects.keys("transcripts/")
    objects.put(key, junk)
    assert run(objects, event, FakeEngine()) == first
    assert run(objects, event, FakeEngine(forbidden=True)).cached


def test_masked_audio_is_not_given_to_the_engine(objects: DirectoryObjects) -> None:
    kind = SegmentKind
    described = stored(
        objects, "r1", wav([speech(0, 0.0, 30.0), speech(1, 0.0, 30.0)]), 2, start_offset_ms=2_000
    )
    event = recorded(
        described,
        segments=[
            CallSegment(kind=kind.IVR, start_ms=0, end_ms=3_000),
            CallSegment(kind=kind.HOLD, start_ms=8_000, end_ms=12_000),
            CallSegment(kind=kind.SECURE_PAUSE, start_ms=14_000, end_ms=17_000),
            CallSegment(kind=kind.INTERACT, start_ms=17_000, end_ms=32_000),
            CallSegment(kind=kind.QUEUE, start_ms=60_000, end_ms=70_000),
        ],
    )
    engine = FakeEngine()
    transcript = run(objects, event, engine, masked_kinds=["IVR", "HOLD"])
    assert [(m.kind, m.start_ms, m.end_ms) for m in transcript.masked] == [
        (kind.IVR, 0, 3_000),
        (kind.HOLD, 8_000, 12_000),
        # Never transcribed, whatever the settings say.
        (kind.SECURE_PAUSE, 14_000, 17_000),
    ]
    assert len(engine.given) == 2
    for audio, spans in engine.given:
        for start_ms, end_ms in ((0, 1_000), (6_000, 10_000), (12_000, 15_000)):
            assert not audio[start_ms * 16 : end_ms * 16].any()
            assert all(span.end_ms <= start_ms or span.start_ms >= end_ms for span in spans)
        assert np.abs(audio[10_000 * 16 : 12_000 * 16]).max() > 0.0
    assert transcript.segments
    for segment in transcript.segments:
        assert segment.start_ms >= 3_000
        assert segment.word_start_ms[0] == segment.start_ms


def test_a_wrong_duration_does_not_uncover_a_secure_pause(objects: DirectoryObjects) -> None:
    pause = CallSegment(kind=SegmentKind.SECURE_PAUSE, start_ms=1_000, end_ms=3_000)
    described = stored(objects, "r1", wav([speech(0)]), 1, duration_ms=0)
    run(objects, recorded(described), FakeEngine())
    engine = FakeEngine()
    transcript = run(objects, recorded(described, segments=[pause]), engine)
    assert not transcript.cached
    assert [masked.kind for masked in transcript.masked] == [SegmentKind.SECURE_PAUSE]
    assert not engine.given[0][0][16_000:48_000].any()


def test_speech_in_a_hold_that_is_not_masked_is_flagged(objects: DirectoryObjects) -> None:
    event = recorded(
        stored(objects, "r1", wav([speech(0)]), 1),
        segments=[CallSegment(kind=SegmentKind.HOLD, start_ms=0, end_ms=60_000)],
    )
    transcript = run(objects, event, FakeEngine(), masked_kinds=[])
    assert transcript.masked == []
    assert [segment.flags for segment in transcript.segments] == [[Flag.INSIDE_HOLD]]


def test_every_segment_is_as_loud_as_its_own_channel_where_it_lies(
    objects: DirectoryObjects,
) -> None:
    agent, customer = speech(0, 3.0), speech(1, 4.0)
    whole = run(objects, recorded(stored(objects, "r1", wav([agent, customer]), 2)), FakeEngine())
    quiet = stored(objects, "r1", wav([agent, customer * 0.25]), 2, start_offset_ms=3_000)
    lower = run(objects, recorded(quiet), FakeEngine())
    assert {segment.channel for segment in whole.segments} == {0, 1}
    for before, after in zip(whole.segments, lower.segments, strict=True):
        assert before.loudness_dbfs is not None
        assert after.loudness_dbfs is not None
        gain = -12.04 if before.channel else 0.0
        assert after.loudness_dbfs - before.loudness_dbfs == pytest.approx(gain, abs=0.8)
        assert -60.0 < before.loudness_dbfs < -5.0


def test_two_legs_are_merged_on_the_timeline_of_the_call(objects: DirectoryObjects) -> None:
    first = stored(objects, "a", wav([speech(0, seconds=4.0)]), 1, channel_roles=[Role.AGENT])
    second = stored(
        objects, "b", wav([speech(1, 4.0, 7.0)]), 1,
        channel_roles=[Role.CUSTOMER], start_offset_ms=4_000,
    )  # fmt: skip
    transcript = run(objects, recorded(second, first), FakeEngine())
    assert transcript.duration_ms == 11_000
    assert transcript.degradations == []
    assert transcript.segments[0].speaker == "agent"
    assert {s.speaker for s in transcript.segments} == {"agent", "customer"}
    assert all(s.start_ms >= 4_000 for s in transcript.segments if s.role is Role.CUSTOMER)
    assert (transcript.language, transcript.language_confidence) == ("en", 0.75)


def test_dual_mono_is_heard_once(objects: DirectoryObjects) -> None:
    said = speech(0)
    event = recorded(stored(objects, "r1", wav([said, said]), 2))
    engine = FakeEngine()
    transcript = run(objects, event, engine)
    assert len(engine.given) == 1
    assert [c.same_as_channel for c in transcript.channels] == [None, 0]
    assert transcript.channels[0].speech_ms == transcript.channels[1].speech_ms > 2_000
    assert {(s.channel, s.speaker, s.role) for s in transcript.segments} == {
        (0, "speaker_0", Role.UNKNOWN)
    }
    assert kinds(transcript.degradations) == [
        DegradationKind.DUAL_MONO, DegradationKind.NO_DIARIZATION
    ]  # fmt: skip


@pytest.mark.parametrize(
    "audio", [silence(3), noise(3), noise(3, 0.3)], ids=["none", "hiss", "loud"]
)
def test_without_speech_there_are_no_words(objects: DirectoryObjects, audio: Any) -> None:
    event = recorded(stored(objects, "r1", wav([audio]), 1), language_hints=[])
    transcript = run(objects, event, pocketsphinx())
    assert transcript.segments == []
    assert transcript.language == "und"
    assert transcript.duration_ms == 3_000
    assert [channel.speech_ms for channel in transcript.channels] == [0]


def test_telephone_speech_through_pocketsphinx(objects: DirectoryObjects) -> None:
    data = wav([speech(0, 4.0, 6.9)[::2], speech(1, 4.0, 6.9)[::2]], 8_000)
    event = recorded(stored(objects, "r1", data, 2), language_hints=["en-GB"])
    transcript = run(objects, event, pocketsphinx())
    said = " ".join(s.text for s in transcript.segments if s.role is Role.CUSTOMER)
    assert {"jacket", "size"} <= set(said.split())
    assert transcript.language == "en"
    assert all(s.words_interpolated is False for s in transcript.segments)
    assert all(len(s.word_confidence) == len(s.words) for s in transcript.segments)
    assert "for trying out only" in transcript.engine.reason


def mandarin() -> bytes:
    data, rate = soundfile.read(SPEECH.parent / "zh-refund-complaint.wav", dtype="float32")
    return wav(list(data[: 5 * rate].T), rate)


def test_no_english_is_made_up_for_a_mandarin_call(objects: DirectoryObjects) -> None:
    event = recorded(stored(objects, "r1", mandarin(), 2), language_hints=["zh-CN"])
    transcript = run(objects, event, pocketsphinx())
    assert transcript.segments == []
    assert transcript.language == "zh"
    assert transcript.channels[0].speech_ms > 1_000
    unsupported = transcript.degradations[-1]
    assert unsupported.kind is DegradationKind.LANGUAGE_UNSUPPORTED
    assert "zh" in unsupported.reason
    assert "pocketsphinx" in unsupported.reason


def test_a_hint_beyond_the_engine_costs_no_call_its_words(objects: DirectoryObjects) -> None:
    event = recorded(stored(objects, "r1", wav([speech(0)]), 1), language_hints=["th"])
    transcript = run(objects, event, FakeEngine(languages={"en"}))
    assert transcript.segments
    assert transcript.language == "en"
    (told,) = [it for it in transcript.degradations if it.kind is LANGUAGE_UNSUPPORTED]
    assert told.reason.startswith(
        "fake cannot transcribe th: the call was listened to for the languages that it knows"
    )
    assert run(objects, event, FakeEngine(languages={"en"}, forbidden=True)).cached


def test_a_language_that_is_asked_for_is_not_heard_as_another(objects: DirectoryObjects) -> None:
    event = recorded(stored(objects, "r1", wav([speech(0)]), 1), language_hints=["en"])
    deaf = FakeEngine(languages={"en"}, forbidden=True)
    transcript = run(objects, event, deaf, language="th")
    assert (transcript.segments, transcript.language) == ([], "th")
    assert "no text was made up" in transcript.degradations[-1].reason
    assert transcript.channels[0].unheard_ms is None


def test_words_made_of_unhinted_mandarin_are_not_trusted(objects: DirectoryObjects) -> None:
    event = recorded(stored(objects, "r1", mandarin(), 2), language_hints=[])
    transcript = run(objects, event, pocketsphinx())
    assert transcript.language == "und"
    assert transcript.channels[0].speech_ms > 1_000
    assert all(Flag.LOW_CONFIDENCE in segment.flags for segment in transcript.segments)


def test_one_language_of_two_being_beyond_the_engine_is_said(objects: DirectoryObjects) -> None:
    event = recorded(stored(objects, "r1", wav([speech(0)]), 1), language_hints=["zh", "en"])
    transcript = run(objects, event, FakeEngine(languages={"en"}))
    assert transcript.segments
    assert transcript.language == "en"
    (degradation,) = [
        d for d in transcript.degradations if d.kind is DegradationKind.LANGUAGE_UNSUPPORTED
    ]
    assert degradation.reason.startswith("fake cannot transcribe zh: ")


def test_chinese_text_is_timed_by_character(objects: DirectoryObjects) -> None:
    event = recorded(stored(objects, "r1", wav([speech(0, seconds=3.0)]), 1))
    transcript = run(objects, event, FakeEngine(text="订单号是1234。", language="zh"))
    segment = transcript.segments[0]
    assert segment.text == "订单号是1234。"
    assert segment.words == ["订", "单", "号", "是", "1234。"]
    assert segment.words_interpolated
    assert transcript.language == "zh"


def test_a_call_without_recordings_has_no_transcript(objects: DirectoryObjects) -> None:
    made = stage(TranscribeSettings(), objects, Chosen(FakeEngine(), ""), clock=lambda: NOW)
    message = Message(topics.RECORDED, 0, 0, None, b"", (), 0)
    outcome = list(made.handle([Envelope(event=recorded(), message=message, id="1")]))
    assert outcome == [(0, [])]


def test_erased_audio_is_refused_even_where_its_result_is_kept(objects: DirectoryObjects) -> None:
    described = stored(objects, "r1", wav([speech(0)]), 1)
    run(objects, recorded(described), FakeEngine())
    objects.delete(described.object_key)
    with pytest.raises(Invalid, match="audio_gone"):
        run(objects, recorded(described), FakeEngine())


def test_audio_that_is_not_what_the_event_says_is_refused(objects: DirectoryObjects) -> None:
    described = stored(objects, "r1", wav([speech(0)]), 1, sha256="0" * 64)
    with pytest.raises(Invalid, match="audio_changed"):
        run(objects, recorded(described), FakeEngine())


def test_one_bad_call_spoils_no_other(objects: DirectoryObjects) -> None:
    good = recorded(stored(objects, "r1", wav([speech(0)]), 1))
    junk = recorded(stored(objects, "r1", wav([speech(0)]), 1, object_key="audio/none"))
    made = stage(TranscribeSettings(), objects, Chosen(FakeEngine(), ""))
    message = Message(topics.RECORDED, 0, 0, None, b"", (), 0)
    outcomes = dict(
        made.handle([Envelope(event=event, message=message, id="1") for event in (junk, good)])
    )
    assert isinstance(outcomes[0], Invalid)
    assert not isinstance(outcomes[1], Exception)
    assert len(outcomes[1]) == 1


@pytest.mark.parametrize("full", ["folder", "channel"])
def test_scratch_without_room_is_waited_for(
    objects: DirectoryObjects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    def no_room(*given: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    event = recorded(stored(objects, "r1", wav([speech(0)]), 1))
    opened = Path.open

    def limited(path: Path, mode: str = "r", **named: Any) -> Any:
        return no_room() if mode == "ab" else opened(path, mode, **named)

    if full == "folder":
        monkeypatch.setattr(tempfile, "mkdtemp", no_room)
    else:
        monkeypatch.setattr(Path, "open", limited)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(Transient, match=r"scratch: .*No space left on device"):
        run(objects, event, FakeEngine(forbidden=True))
    assert [path.name for path in tmp_path.iterdir()] == ["objects"]


def test_a_result_that_cannot_be_kept_is_published(
    objects: DirectoryObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = recorded(stored(objects, "r1", wav([speech(0)]), 1))

    def down(key: str, data: bytes) -> None:
        raise Transient("objects_down", f"{key}: Read-only file system")

    monkeypatch.setattr(objects, "put", down)
    engine = FakeEngine()
    assert run(objects, event, engine).segments
    assert len(engine.given) == 1
    assert list(objects.keys("transcripts/")) == []


def test_nothing_is_left_behind_on_disk(
    objects: DirectoryObjects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    run(objects, recorded(stored(objects, "r1", wav([speech(0)]), 1)), FakeEngine())
    bad = recorded(stored(objects, "r2", wav([speech(0)]), 1, sha256="0" * 64))
    with pytest.raises(Invalid):
        run(objects, bad, FakeEngine())
    assert list(scratch.iterdir()) == []
