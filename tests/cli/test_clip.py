"""Clips: the very samples that were recorded, without what was masked; and the two commands."""

from __future__ import annotations

import hashlib
import json
import shutil
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from schemas.events import (
    CallEnded,
    CallEnriched,
    CallSegment,
    CallTranscribed,
    ChannelHeard,
    Masked,
    PiiKind,
    Redaction,
    Role,
    SegmentKind,
    Speaker,
    StoredRecording,
)
from schemas.examples import EXAMPLES
from schemas.topics import TRANSCRIBED
from services.assembly import Parts
from services.cli.__main__ import _findings_of
from services.cli.clip import LONGEST_S, PERSONAL_MARGIN_MS, clip, time_ms, unread_ms
from services.cli.console import Stop
from services.cli.evidence import moment_of
from services.runtime.audio import decode
from services.runtime.codec import Codec, FolderRegistry
from services.runtime.errors import Invalid
from services.runtime.log import Message
from services.runtime.objects import DirectoryObjects
from services.runtime.stage import Envelope, event_id, utc_now
from services.serve import embedded
from services.settings import load
from tests.cli.test_command import SAMPLES, Command
from tests.replay.suite import at_work, drained, until
from tests.tables import with_tables

RATE_HZ = 8_000
Samples = NDArray[np.int16]


def recorded(seconds: float, channels: int = 2, seed: int = 7) -> Samples:
    """Noise over the full scale: no two samples beside each other are alike. (samples, channels)"""
    chance = np.random.default_rng(seed)
    made = chance.integers(-32_768, 32_768, (round(seconds * RATE_HZ), channels))
    return made.astype(np.int16)


def write(path: Path, samples: Samples) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(samples.tobytes())


def read(path: Path) -> Samples:
    with wave.open(str(path), "rb") as file:
        assert (file.getframerate(), file.getsampwidth()) == (RATE_HZ, 2)
        content = file.readframes(file.getnframes())
        return np.frombuffer(content, np.int16).reshape(-1, file.getnchannels())


def stored(
    objects: DirectoryObjects, path: Path, samples: Samples, name: str = "r1", offset_ms: int = 0
) -> StoredRecording:
    write(path, samples)
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    objects.put(f"audio/acme/{digest}", content)
    return StoredRecording(
        recording_id=name, object_key=f"audio/acme/{digest}", sha256=digest,
        size_bytes=len(content), container="wav", codec="pcm_s16le", sample_rate_hz=RATE_HZ,
        channels=samples.shape[1], duration_ms=len(samples) * 1000 // RATE_HZ,
        start_offset_ms=offset_ms,
    )  # fmt: skip


def transcript(*recordings: StoredRecording, masked: list[Masked] | None = None) -> CallTranscribed:
    happy: CallTranscribed = EXAMPLES["CallTranscribed"]["happy"]
    return replace(happy, recordings=list(recordings), masked=masked or [])


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> DirectoryObjects:
    return DirectoryObjects(tmp_path_factory.mktemp("objects"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


SPEECH = recorded(65.0)


@pytest.fixture(scope="module")
def speech(objects: DirectoryObjects, folder: Path) -> StoredRecording:
    """65 s that begin 1.5 s into the call: longer than what is decoded at once."""
    return stored(objects, folder / "speech.wav", SPEECH, offset_ms=1_500)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_clip_holds_the_recorded_samples_and_silence_for_what_was_masked(
    objects: DirectoryObjects, folder: Path, speech: StoredRecording, data: st.DataObject
) -> None:
    start = data.draw(st.integers(1_500, 66_400))
    end = data.draw(st.integers(start + 1, 66_500))
    spans = data.draw(
        st.lists(st.tuples(st.integers(0, 70_000), st.integers(0, 9_000)), max_size=3)
    )
    kinds = st.sampled_from((SegmentKind.SECURE_PAUSE, SegmentKind.HOLD))
    masks = [Masked(kind=data.draw(kinds), start_ms=at, end_ms=at + lasts) for at, lasts in spans]
    out = folder / "one.wav"
    # The same silence, whoever asks for it: each a mask or something personal.
    inside = data.draw(st.lists(st.booleans(), min_size=len(masks), max_size=len(masks)))
    personal = [
        Redaction(
            segment_id=0, kind=PiiKind.NAME, start=0, end=1,
            start_ms=mask.start_ms + PERSONAL_MARGIN_MS, end_ms=mask.end_ms - PERSONAL_MARGIN_MS,
        )
        for mask, it in zip(masks, inside, strict=True) if it
    ]  # fmt: skip
    others = [mask for mask, it in zip(masks, inside, strict=True) if not it]
    made = clip(objects, transcript(speech, masked=others), start, end, out, personal=personal)
    wanted = SPEECH.copy()
    for mask in masks:
        edges = (max(mask.start_ms, start), min(mask.end_ms, end))
        if edges[0] < edges[1]:
            first, last = ((edge - 1_500) * RATE_HZ // 1000 for edge in edges)
            wanted[first:last] = 0
    first, last = ((edge - 1_500) * RATE_HZ // 1000 for edge in (start, end))
    np.testing.assert_array_equal(read(out), wanted[first:last])
    assert (made.start_ms, made.end_ms, made.channels) == (start, end, 2)
    assert not list(folder.glob(".*")), "nothing half written is left"


def test_a_secure_pause_that_only_telephony_tells_is_silent(
    objects: DirectoryObjects, folder: Path, speech: StoredRecording
) -> None:
    event = transcript(speech)
    pause = CallSegment(kind=SegmentKind.SECURE_PAUSE, start_ms=3_000, end_ms=4_000)
    event = replace(event, call=replace(event.call, segments=[pause]))
    made = clip(objects, event, 2_500, 4_500, folder / "pause.wav")
    heard = read(folder / "pause.wav")
    assert made.silenced == [(3_000, 4_000)]
    assert not heard[4_000:12_000].any()
    assert heard[:4_000].any()
    assert heard[12_000:].any()


def test_a_clip_ends_where_the_recording_does(
    objects: DirectoryObjects, folder: Path, speech: StoredRecording
) -> None:
    out = folder / "end.wav"
    made = clip(objects, transcript(speech), 66_000, 80_000, out)
    assert (made.start_ms, made.end_ms) == (66_000, 66_500)
    np.testing.assert_array_equal(read(out), SPEECH[-4_000:])
    made = clip(objects, transcript(speech), 0, 2_000, out)
    assert (made.start_ms, made.end_ms) == (1_500, 2_000)
    np.testing.assert_array_equal(read(out), SPEECH[:4_000])


def test_of_several_recordings_one_is_named(objects: DirectoryObjects, folder: Path) -> None:
    legs = [recorded(4.0, channels=1, seed=seed) for seed in (1, 2)]
    first, second = (
        stored(objects, folder / f"{name}.wav", leg, name)
        for name, leg in zip(("leg-a", "leg-b"), legs, strict=True)
    )
    later = stored(objects, folder / "later.wav", recorded(4.0, seed=3), "later", offset_ms=6_000)
    event, out = transcript(first, second, later), folder / "legs.wav"
    with pytest.raises(Invalid, match="several_recordings: 2 hold it: leg-a, leg-b; name one"):
        clip(objects, event, 1_000, 2_000, out)
    assert clip(objects, event, 1_000, 2_000, out, "leg-b").channels == 1
    np.testing.assert_array_equal(read(out), legs[1][8_000:16_000])
    assert clip(objects, event, 6_500, 7_000, out).recording_id == "later"
    with pytest.raises(
        Invalid, match=r"no recording holds 00:04\.500 to 00:05\.500; there is leg-a"
    ):
        clip(objects, event, 4_500, 5_500, out)
    with pytest.raises(Invalid, match="has no recording 'leg-c'; it has leg-a, leg-b, later"):
        clip(objects, event, 1_000, 2_000, out, "leg-c")


def test_what_cannot_be_cut_says_why_and_leaves_no_file(
    objects: DirectoryObjects, folder: Path, speech: StoredRecording
) -> None:
    out = folder / "none.wav"
    gone = replace(speech, object_key="audio/acme/gone")
    other = stored(objects, folder / "other.wav", recorded(2.0, seed=9))
    changed = replace(speech, object_key=other.object_key)
    text = b"this is no audio\n" * 100
    digest = hashlib.sha256(text).hexdigest()
    objects.put("audio/acme/text", text)
    no_audio = replace(speech, object_key="audio/acme/text", sha256=digest)
    for reason, event, start, end in (
        ("no_such_time", transcript(speech), 5_000, 5_000),
        ("no_such_time", transcript(speech), 5_000, 4_000),
        ("clip_too_long", transcript(speech), 0, LONGEST_S * 1000 + 1),
        ("no_audio_there", transcript(speech), 66_500, 70_000),
        ("no_audio_there", transcript(), 0, 1_000),
        ("audio_gone", transcript(gone), 2_000, 3_000),
        ("audio_changed", transcript(changed), 2_000, 3_000),
        ("not_audio", transcript(no_audio), 2_000, 3_000),
    ):
        with pytest.raises(Invalid) as refused:
            clip(objects, event, start, end, out)
        assert refused.value.reason == reason
    with pytest.raises(OSError, match="No such file or directory"):
        clip(objects, transcript(speech), 2_000, 3_000, folder / "nowhere" / "x.wav")
    assert not out.exists()
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize(
    ("text", "ms"),
    [("0", 0), ("12.3", 12_300), ("75", 75_000), ("01:02.5", 62_500), ("1:00:02", 3_602_000),
     ("0.0019", 1), ("90:00", 5_400_000)],
)  # fmt: skip
def test_a_time_is_read(text: str, ms: int) -> None:
    assert time_ms(text) == ms


@pytest.mark.parametrize("text", ["", "-1", "1e3", "12,3", "a", ":5", "1:2:3:4", "٣", "nan", "1."])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no time of a call"):
        time_ms(text)


@given(st.integers(0, 400_000_000))
def test_a_time_that_is_written_can_be_read(ms: int) -> None:
    assert time_ms(moment_of(ms)) == ms


# As people type it


@pytest.mark.clickhouse
def test_what_a_call_rests_on_is_explained_and_can_be_heard(tmp_path: Path) -> None:
    command = Command(tmp_path)
    audio = tmp_path / "call.flac"
    shutil.copy(SAMPLES / "angry-refund.flac", audio)
    told = {
        "call_id": "x",
        "channel_roles": ["agent", "customer"],
        "segments": [{"kind": "secure_pause", "start_ms": 8_000, "end_ms": 9_000}],
    }
    (tmp_path / "call.flac.json").write_text(json.dumps(told))
    command("submit", "--wait", str(audio))
    shown = json.loads(command("show", "x", "--format", "json"))
    explained = json.loads(command("show", "x", "--explain", "--format", "json"))
    written = command("show", "x", "--explain")
    assert f"transcript {shown['enriched']['transcript_id']}, rules " in written
    assert "which is not the current one" not in written
    assert " 0 do not, and " in written
    metrics = shown["enriched"]["metrics"]
    assert metrics
    for metric, entry in zip(metrics, explained["groups"]["metrics"], strict=True):
        assert entry["value"] == metric
        assert entry["agrees"] is True or metric["name"] == "dead_air_ms"
        assert f"\n  {metric['name']} " in written
    for criterion in shown["enriched"]["score"]["criteria"]:
        assert f"[{criterion['criterion_id']}]" in written
    talk = next(each for each in explained["groups"]["metrics"] if each["name"] == "talk_ms")
    place = talk["places"][0]
    (heard,) = place["audio"]
    assert heard["start_s"] * 1000 == place["start_ms"]
    assert (command.data / "objects" / heard["object_key"]).is_file()

    out = tmp_path / "clip.wav"
    told_of = command("clip", "x", "00:07.500", "9.25", "--out", str(out))
    assert f"{out}: 00:07.500 to 00:09.250 of {heard['recording_id']}, 2 channels" in told_of
    with wave.open(str(out)) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (2, 16_000, 28_000)
        cut = np.frombuffer(file.readframes(28_000), np.int16).reshape(-1, 2)
    source = (decode(audio, 16_000) * 32_768).astype(np.int16).T[120_000:148_000].copy()
    source[8_000:24_000] = 0
    assert source.any()
    np.testing.assert_array_equal(cut, source)

    assert json.loads(command("show", "x", "--format", "vcon"))["vcon"] == "0.4.0"
    assert "not as srt" in command("show", "x", "--explain", "--format", "srt", status=1)
    (command.data / "objects" / heard["object_key"]).unlink()
    assert "audio_gone" in command("clip", "x", "7", "8", "-o", str(out), status=1)


PHONE = "138 0013 8000"


@pytest.mark.clickhouse
def test_what_is_personal_is_in_no_masked_text_and_no_masked_audio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = Command(tmp_path)
    for name, value in command.environment.items():
        if name.startswith("CALLSTREAM_"):
            monkeypatch.setenv(name, value)
    with_tables(command.data)
    parts = Parts(load())
    made = stored(DirectoryObjects(command.data / "objects"), tmp_path / "call.wav", recorded(40.0))
    said = f"my number is {PHONE} and I am angry , I want a refund"
    words = said.split()
    ended: CallEnded = EXAMPLES["CallEnded"]["happy"]
    happy: CallTranscribed = EXAMPLES["CallTranscribed"]["happy"]
    told = replace(
        happy.segments[1], text=said, start_ms=5_000, end_ms=18_000, words=words,
        word_start_ms=[5_000 + 1_000 * n for n in range(len(words))],
        word_end_ms=[5_900 + 1_000 * n for n in range(len(words))],
        word_confidence=[], corrections=[], segment_id=1, flags=[], role=Role.CUSTOMER,
    )  # fmt: skip
    reason = f"says “{said}”"
    speakers = [Speaker(name=told.speaker, role=told.role, speech_ms=9, role_reason=reason)]
    call = replace(
        happy, recordings=[made], segments=[happy.segments[0], told], speakers=speakers,
        call=replace(ended, recordings=[]),
    )  # fmt: skip
    id = event_id("test", "masked", 0, 0)
    log = parts.log()
    log.commit(
        [
            parts.codec.encode(event, id=f"{id}/{n}", source="/tests", time=utc_now())
            for n, event in enumerate((replace(ended, recordings=[]), call))
        ],
        {},
    )
    log.close()
    name = f"{call.tenant_id}/{call.call_id}"
    assert "enrich has not looked" in _masked_before_enrich(command, name)
    with embedded(load()):
        drained(parts)
        parts.close()
    command("review", name, "--score", "9", "--reason", f"told {PHONE} twice")
    with embedded(load()):
        again = Parts(load())
        drained(again)
        again.close()

    assert PHONE in command("show", name)
    for form in ("text", "srt", "vtt", "tsv", "rttm"):
        shown = command("show", name, "--masked", "--format", form)
        assert "138" not in shown, form
        assert "0013" not in shown, form
        assert form == "rttm" or "my number is [phone] and I am angry" in shown
    assert PHONE not in command("show", name, "--explain")
    for refused in (("--format", "json"), ("--format", "vcon"), ("--explain",)):
        assert "--masked" in command("show", name, "--masked", *refused, status=1)

    clips = {}
    for masked in ((), ("--masked",)):
        out = tmp_path / f"clip{len(masked)}.wav"
        command("clip", name, "5", "18", *masked, "--out", str(out))
        clips[len(masked)] = read(out).copy()
    # The number is words 3 to 5: 8.0 s to 10.9 s of the call, 3.0 s to 5.9 s of the clip.
    first, last = (
        round((at * 1000 + margin) * RATE_HZ / 1000)
        for at, margin in ((3.0, -PERSONAL_MARGIN_MS), (5.9, PERSONAL_MARGIN_MS))
    )
    assert clips[0][first:last].any()
    clips[0][first:last] = 0
    np.testing.assert_array_equal(clips[1], clips[0])


def test_speech_that_became_no_text_is_told() -> None:
    happy: CallTranscribed = EXAMPLES["CallTranscribed"]["happy"]
    one = ChannelHeard(recording_id="r", channel=0, role=Role.AGENT, speech_ms=900, unheard_ms=200)
    unasked = replace(one, channel=1, unheard_ms=None)
    copy = replace(one, channel=2, same_as_channel=0)
    assert unread_ms(replace(happy, channels=[one, unasked, copy])) == 1_100
    assert unread_ms(replace(happy, channels=[replace(one, unheard_ms=0)])) == 0


def _masked_before_enrich(command: Command, name: str) -> str:
    """What is said while the sink alone has run."""
    parts = Parts(load())
    with at_work(parts, ("sink",)) as running:
        until(
            lambda: parts.lags()["sink", TRANSCRIBED] == 0,
            "the sink is not through", running,
        )  # fmt: skip
    parts.close()
    return command("show", name, "--masked", status=1)


def test_where_words_have_no_times_of_their_own_the_whole_segment_is_silent(
    objects: DirectoryObjects, folder: Path, speech: StoredRecording
) -> None:
    event = transcript(speech)
    spread = replace(
        event.segments[0], start_ms=3_000, end_ms=6_000, words_interpolated=True, segment_id=0
    )
    event = replace(event, segments=[spread])
    personal = Redaction(
        segment_id=0, kind=PiiKind.PHONE, start=0, end=1, start_ms=4_000, end_ms=4_100
    )
    made = clip(objects, event, 2_000, 8_000, folder / "spread.wav", personal=[personal])
    assert made.silenced == [(3_000, 6_000)]


def test_an_enrichment_that_told_nothing_personal_masks_nothing() -> None:
    registry = FolderRegistry()
    codec = Codec(registry)
    call: CallEnriched = EXAMPLES["CallEnriched"]["happy"]
    found = decoded(codec, call)
    transcript = replace(
        decoded(codec, EXAMPLES["CallTranscribed"]["happy"]), id=call.transcript_id
    )
    assert _findings_of(found, transcript, registry) == call
    value = found.message.value
    assert value is not None
    old = replace(found, message=replace(found.message, value=b"\0\0\0\0\x04" + value[5:]))
    with pytest.raises(Stop, match="told nothing personal; run it again: callstream replay"):
        _findings_of(old, transcript, registry)
    with pytest.raises(Stop, match="has not looked at the current transcript"):
        _findings_of(found, replace(transcript, id="another"), registry)


def decoded(codec: Codec, event: Any) -> Envelope[Any]:
    record = codec.encode(event, id="x", source="/tests", time=utc_now())
    message = Message(
        record.topic, 0, 0, record.key, record.value, record.headers, 1_772_000_000_000
    )
    return codec.decode(message)
