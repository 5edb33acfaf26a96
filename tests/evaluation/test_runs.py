"""Clips through ingest and transcribe, and what is measured of the transcripts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from schemas.events import CallTranscribed, Flag, Role, Segment
from schemas.events import Engine as Identity
from schemas.examples import EXAMPLES
from services.evaluation import runs
from services.evaluation.manifest import Clip, read_manifest
from services.evaluation.measures import Normalisation, Turn
from services.evaluation.runs import AS_RECORDED, Attempt, Evaluation, Wanted, measured
from services.evaluation.telephony import conditions
from services.runtime.errors import Transient
from services.transcribe.choice import Chosen
from services.transcribe.engine import NOTHING_KNOWN, Asked, Engine, Heard, HeardSegment, Samples
from services.transcribe.settings import TranscribeSettings
from services.transcribe.spans import Span
from tests.evaluation.clips import two_parties, write_clip, write_manifest
from tests.transcribe.fake_engine import FakeEngine
from tests.transcribe.sounds import noise, silence, speech

# What one transcript is worth


def transcript(*told: tuple[str, int, int, int, str], **changes: Any) -> CallTranscribed:
    """Segments (speaker, channel, start_ms, end_ms, text) of the first example's recording."""
    event = EXAMPLES["CallTranscribed"]["happy"]
    assert isinstance(event, CallTranscribed)
    (recording, *_) = event.recordings
    segments = [
        Segment(
            segment_id=number, recording_id=recording.recording_id, channel=channel,
            speaker=speaker, role=Role.UNKNOWN, start_ms=start, end_ms=end, text=text,
        )
        for number, (speaker, channel, start, end, text) in enumerate(told)
    ]  # fmt: skip
    event = replace(event, recordings=[replace(recording, start_offset_ms=0)], segments=segments)
    return replace(event, **changes)


TALK = transcript(
    ("agent", 0, 0, 2000, "good morning"),
    ("customer", 1, 1500, 3000, "hello"),
    ("agent", 0, 3000, 5000, "how can I help"),
    language="en-US",
)


def clip(**known: Any) -> Clip:
    return Clip(line=1, name="a.wav", path=Path("a.wav"), **known)


def rates(known: Clip, heard: CallTranscribed) -> Mapping[str, float | None]:
    return {name: e.rate for name, e in measured(known, heard, Normalisation()).errors.items()}


def test_nothing_known_is_nothing_measured() -> None:
    found = measured(clip(), TALK, Normalisation())
    assert (found.errors, found.words, found.language) == ({}, 7, "en")
    assert not found.nobody_speaks


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        # Words in the order of segments, whoever says them.
        ({"text": "Good morning! Hello. How can I help?"}, {"WER": 0.0}),
        ({"text": "Good morning, how can I help? Hello!"}, {"WER": 2 / 7}),
        # Each channel by itself: in which order the parties spoke does not matter.
        (
            {"channels": ("good morning how can I help", "hello"), "text": "something else"},
            {"WER": 0.0, "cpWER": 0.0},
        ),
        # Channels the other way round are wrong as channels, and right as speakers.
        ({"channels": ("hello", "good morning how can I help")}, {"WER": 12 / 7, "cpWER": 0.0}),
        ({"channels": ("good morning how can I help",)}, {"WER": 1 / 6, "cpWER": 1 / 6}),
        ({"speakers": {"x": "hello there", "y": "good morning how can I help"}}, {"cpWER": 1 / 8}),
        ({"text": "你好", "languages": ("zh",)}, {"CER": 3.5}),
        ({"text": "你好 hello", "languages": ("zh", "en")}, {"MER": 2.0}),
        (
            {"turns": (Turn("b", 0, 2000), Turn("a", 1500, 3000), Turn("b", 3000, 4000))},
            {"DER": 1000 / 4500, "DER ±0.25 s": 750 / 2000},
        ),
    ],
    ids=str,
)
def test_what_is_known_is_measured(known: dict[str, Any], expected: Mapping[str, float]) -> None:
    assert rates(clip(**known), TALK) == pytest.approx(expected)


def test_words_where_nobody_speaks_are_counted_as_made_up() -> None:
    found = measured(clip(text=" "), TALK, Normalisation())
    assert (found.nobody_speaks, found.words, found.trusted, found.errors) == (True, 7, 7, {})
    doubted = replace(TALK.segments[0], flags=[Flag.LOW_CONFIDENCE, Flag.INSIDE_SILENCE])
    unsure = replace(TALK.segments[1], flags=[Flag.LOW_CONFIDENCE])
    flagged = replace(TALK, segments=[doubted, unsure, TALK.segments[2]])
    assert measured(clip(text=""), flagged, Normalisation()).trusted == 5


def test_turns_are_on_the_recordings_own_time() -> None:
    (recording,) = TALK.recordings
    later = replace(
        TALK,
        recordings=[replace(recording, start_offset_ms=60_000)],
        segments=[
            replace(s, start_ms=s.start_ms + 60_000, end_ms=s.end_ms + 60_000)
            for s in TALK.segments
        ],
    )
    known = clip(turns=(Turn("b", 0, 2000), Turn("a", 1500, 3000), Turn("b", 3000, 5000)))
    assert rates(known, later) == {"DER": 0.0, "DER ±0.25 s": 0.0}


# Engines over clips


@dataclass(frozen=True)
class PickyEngine:
    """Hears what each length of audio is said to hold; breaks on the others."""

    said: Mapping[int, str]
    asked: list[Asked] = field(default_factory=list)
    identity = Identity(name="picky", version="1", model="script")
    languages: Collection[str] | None = None

    def transcribe(
        self, audio: Samples, spans: Sequence[Span], asked: Asked = NOTHING_KNOWN
    ) -> Heard:
        self.asked.append(asked)
        text = self.said[audio.size // 16_000]
        heard = HeardSegment(text=text, start_ms=spans[0].start_ms, end_ms=spans[-1].end_ms)
        return Heard(segments=(heard,), language="en")


def evaluated(
    path: Path, engine: Engine | None = None, monkeypatch: Any = None, **changes: Any
) -> Evaluation:
    if engine is not None:
        chosen = Chosen(engine, "the test asks for it")
        monkeypatch.setattr(runs, "choose", lambda settings, asked_by: chosen)
    settings = TranscribeSettings(engine="stub", workers=changes.pop("workers", 1))
    wanted = [Wanted(label="it", settings=settings)]
    made = Evaluation(clips=read_manifest(path), engines=wanted, **changes)
    made.run()
    return made


def attempts(made: Evaluation, condition: str = AS_RECORDED) -> list[Attempt]:
    (run,) = made.runs
    return run.attempts[condition]


def test_a_bad_clip_is_a_failure_with_a_reason_and_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(tmp_path, "good.wav", speech(0, 0.0, 3.0))
    write_clip(tmp_path, "breaks.wav", speech(0, 0.0, 4.0))
    (tmp_path / "text.wav").write_text("this is no audio\n" * 100)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "odd.wav").write_bytes((tmp_path / "good.wav").read_bytes())
    (tmp_path / "odd.json").write_text("{")
    path = write_manifest(
        tmp_path,
        {"file": "missing.wav", "transcript": "hello"},
        {"file": "text.wav"},
        {"file": "empty.wav"},
        {"file": "."},
        {"file": "odd.wav"},
        {"file": "breaks.wav", "transcript": "hello"},
        {"file": "good.wav", "transcript": "Good morning.", "lang": "en"},
    )
    told: list[runs.Progress] = []
    made = evaluated(
        path, PickyEngine({3: "good morning"}), monkeypatch,
        conditions=conditions("g711u"), told=told.append,
    )  # fmt: skip
    reasons = [attempt.failure.partition(":")[0] for attempt in attempts(made)]
    assert reasons == ["no_file", "not_audio", "empty_file", "no_file", "bad_metadata", "KeyError",
                       ""]  # fmt: skip
    assert "line 1, field file: missing.wav does not exist" in attempts(made)[0].failure
    assert attempts(made)[-1].errors["WER"].rate == 0.0
    assert [bool(attempt.failure) for attempt in attempts(made, "g711u")] == [True] * 6 + [False]
    # 3 and 4 s of audio that could be heard, twice.
    assert [progress.all_ms for progress in told] == [14_000] * 14
    assert told[-1].done_ms == 14_000


def test_a_clip_is_heard_over_each_telephone(tmp_path: Path) -> None:
    write_clip(tmp_path, "call.wav", *two_parties())
    path = write_manifest(
        tmp_path,
        {"file": "call.wav", "channel_roles": ["agent", "customer"]},
        {"file": "call.wav", "channel_roles": ["agent", "customer"]},
    )
    kept: list[tuple[str, str, int, CallTranscribed]] = []
    made = evaluated(
        path,
        conditions=conditions("g711u,loss"),
        keep=lambda label, condition, clip, heard: kept.append(
            (label, condition, clip.line, heard)
        ),
    )
    (run,) = made.runs
    assert list(run.attempts) == [AS_RECORDED, "g711u", "loss"]
    assert not any(a.failure for each in run.attempts.values() for a in each)
    assert [each[:3] for each in kept] == [
        ("it", condition, line) for condition in run.attempts for line in (1, 2)
    ]
    by_condition = {condition: heard for _, condition, _, heard in kept}
    for heard in by_condition.values():
        assert [segment.speaker for segment in heard.segments] == ["agent"]
        assert not heard.cached
    rates = {name: heard.recordings[0].sample_rate_hz for name, heard in by_condition.items()}
    assert rates == {AS_RECORDED: 16_000, "g711u": 8_000, "loss": 8_000}
    # The stub's words are a hash of what it is given.
    assert len({heard.segments[0].text for heard in by_condition.values()}) == 3


@pytest.mark.parametrize("hints", [False, True])
def test_a_language_is_told_only_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hints: bool
) -> None:
    write_clip(tmp_path, "call.wav", speech(0, 0.0, 3.0))
    # What telephony says beside the file does not count.
    (tmp_path / "call.json").write_text('{"language": "fr"}')
    engine = PickyEngine({3: "hello"})
    path = write_manifest(tmp_path, {"file": "call.wav", "lang": "en+zh"})
    (attempt,) = attempts(evaluated(path, engine, monkeypatch, hints=hints))
    assert [asked.hints for asked in engine.asked] == [("en", "zh") if hints else ()]
    assert attempt.language_told == hints


def test_silence_and_noise_are_no_failure(tmp_path: Path) -> None:
    write_clip(tmp_path, "silence.wav", silence(2.0))
    write_clip(tmp_path, "noise.wav", noise(2.0))
    path = write_manifest(
        tmp_path, {"file": "silence.wav", "transcript": ""}, {"file": "noise.wav", "kind": "noise"}
    )
    made = attempts(evaluated(path))
    assert [(a.failure, a.nobody_speaks, a.words) for a in made] == [("", True, 0)] * 2


def test_calls_that_are_heard_side_by_side_are_told_in_order(tmp_path: Path) -> None:
    for number in range(6):
        write_clip(tmp_path, f"{number}.wav", speech(0, 0.0, 1.0 + 0.5 * number))
    path = write_manifest(
        tmp_path, *({"file": f"{n}.wav", "transcript": "alfa"} for n in range(6)), {"file": "no"}
    )
    at_once = evaluated(path, workers=3, conditions=conditions("g711a"))
    one_by_one = evaluated(path, conditions=conditions("g711a"))
    assert at_once.runs[0].calls_at_once == 3
    for condition in (AS_RECORDED, "g711a"):
        assert timeless(at_once, condition) == timeless(one_by_one, condition)


def timeless(made: Evaluation, condition: str) -> list[Attempt]:
    return [replace(attempt, took_s=0.0, engine_s=0.0) for attempt in attempts(made, condition)]


def test_an_engine_that_cannot_be_had_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(settings: TranscribeSettings, asked_by: str) -> Chosen:
        if settings.engine == "faster-whisper":
            raise Transient("model_missing", "no hub answers")
        return Chosen(FakeEngine(), "there")

    monkeypatch.setattr(runs, "choose", choose)
    write_clip(tmp_path, "call.wav")
    made = Evaluation(
        clips=read_manifest(write_manifest(tmp_path, {"file": "call.wav"})),
        engines=[
            Wanted(label="missing", settings=TranscribeSettings(engine="faster-whisper")),
            Wanted(label="there", settings=TranscribeSettings(engine="stub")),
        ],
    )
    made.run()
    missing, there = made.runs
    assert (missing.failure, missing.attempts) == ("model_missing: no hub answers", {})
    assert [a.failure for a in there.attempts[AS_RECORDED]] == [""]


def test_no_model_is_loaded_where_there_is_nothing_to_hear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "choose", None)
    (run,) = evaluated(write_manifest(tmp_path, {"file": "no.wav"})).runs
    assert run.identity is None
    assert run.attempts[AS_RECORDED][0].failure.startswith("no_file: ")


def test_what_was_heard_is_there_when_it_is_interrupted(tmp_path: Path) -> None:
    write_clip(tmp_path, "call.wav")
    path = write_manifest(tmp_path, {"file": "call.wav"}, {"file": "call.wav"})

    def stop(progress: runs.Progress) -> None:
        raise KeyboardInterrupt

    made = Evaluation(
        clips=read_manifest(path),
        engines=[Wanted(label="it", settings=TranscribeSettings(engine="stub"))],
        told=stop,
    )
    with pytest.raises(KeyboardInterrupt):
        made.run()
    assert [a.clip.line for a in attempts(made)] == [1]
