"""What SenseVoice says, taken apart; and the engine around it.

No real model can be had here. That FunASR loads one and answers is tried on one with random
weights, where FunASR is installed (`sensevoice_model.build`). What becomes of an answer is tried on
a stand-in for FunASR, whose answers are written after FunASR's source: whether a real model's words
and their times come in that very form is not known from these tests.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import DegradationKind, Sound, VoiceEmotion
from services.runtime.errors import Transient
from services.transcribe.batches import OutOfMemory
from services.transcribe.choice import choose
from services.transcribe.engine import Asked, HeardWord
from services.transcribe.sensevoice_engine import (
    EMOTIONS,
    LANGUAGES,
    SOUNDS,
    SenseVoiceEngine,
    Tagged,
    parsed,
)
from services.transcribe.settings import TranscribeSettings
from services.transcribe.spans import Span
from tests.transcribe import extra, sensevoice_model
from tests.transcribe.sensevoice_model import Says
from tests.transcribe.sounds import Samples, noise, silence

# Tags


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("<|zh|><|HAPPY|><|Speech|><|withitn|>你好。",
         Tagged("你好。", "zh", emotion=VoiceEmotion.HAPPY)),
        ("<|yue|><|NEUTRAL|><|BGM|><|woitn|>早晨",
         Tagged("早晨", "yue", emotion=VoiceEmotion.NEUTRAL, sounds=(Sound.MUSIC,))),
        ("<|en|><|EMO_UNKNOWN|><|Laughter|><|withitn|> Ha, ha. ",
         Tagged("Ha, ha.", "en", sounds=(Sound.LAUGHTER,))),
        ("<|nospeech|><|EMO_UNKNOWN|><|Cry|><|woitn|>",
         Tagged("", no_speech=True, sounds=(Sound.CRYING,))),
        ("<|ko|><|SAD|><|Speech|><|withitn|>네<|ko|><|ANGRY|><|Cough|><|withitn|>아니요",
         Tagged("네 아니요", "ko", emotion=VoiceEmotion.SAD, sounds=(Sound.COUGH,))),
        ("<|de|><|BORED|><|Thunder|><|Event_UNK|>x", Tagged("x")),
        ("a <|b c", Tagged("a <|b c")),
        ("", Tagged("")),
    ],
)  # fmt: skip
def test_tags_are_taken_out_of_the_text(raw: str, said: Tagged) -> None:
    assert parsed(raw) == said


known = st.sampled_from([*sorted(LANGUAGES), *EMOTIONS, *SOUNDS, "nospeech", "EMO_UNKNOWN"])
names = known | st.from_regex(r"[A-Za-z_/]{0,12}", fullmatch=True)
texts = st.text(st.characters(exclude_characters="<|>", exclude_categories=["Cs"]), max_size=8)


@given(st.lists(st.tuples(names, texts), max_size=8))
def test_all_that_is_no_tag_is_text_and_all_that_is_one_is_not(
    parts: list[tuple[str, str]],
) -> None:
    said = parsed("".join(f"<|{name}|>{text}" for name, text in parts))
    assert said.text.split() == [word for _, text in parts for word in text.split()]
    tags = [name for name, _ in parts]
    assert set(said.sounds) == {SOUNDS[tag] for tag in tags if tag in SOUNDS}
    assert len(said.sounds) == len(set(said.sounds))
    assert (said.emotion is VoiceEmotion.UNKNOWN) == (not any(tag in EMOTIONS for tag in tags))
    if not any(tag in LANGUAGES for tag in tags):
        assert said.language == "und"


@given(st.text(max_size=40))
def test_no_text_is_refused_and_no_tag_is_left(raw: str) -> None:
    said = parsed(raw)
    assert said.text == said.text.strip()
    assert parsed(said.text).text == said.text


@pytest.mark.parametrize("tag", sorted(LANGUAGES))
def test_every_language_stays_what_it_is(tag: str) -> None:
    assert parsed(f"<|{tag}|>x").language == tag


# The engine


def engine(
    monkeypatch: pytest.MonkeyPatch, folder: Path, says: Says, **settings: Any
) -> tuple[SenseVoiceEngine, list[str]]:
    asked = sensevoice_model.install(monkeypatch, folder, says)
    return SenseVoiceEngine(made(folder, **settings)), asked


def made(folder: Path, batch_size: int = 0, **settings: Any) -> TranscribeSettings:
    return TranscribeSettings.model_validate(
        {"engine": "sensevoice", "batch_size": batch_size,
         "sensevoice": {"model_dir": folder, **settings}}
    )  # fmt: skip


def test_every_stretch_has_a_language_and_an_emotion_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def says(samples: Samples, language: str, times: bool) -> dict[str, Any]:
        return {
            3: {"text": "<|yue|><|ANGRY|><|BGM|><|withitn|>唔該。"},
            4: {"text": "<|zh|><|EMO_UNKNOWN|><|Speech|><|withitn|>你好。"},
            2: {"text": "<|nospeech|><|EMO_UNKNOWN|><|Applause|><|withitn|>"},
        }[samples.size // 16_000]

    listening, asked = engine(monkeypatch, tmp_path, says, batch_size=2)
    heard = listening.transcribe(
        noise(12), [Span(0, 3_000), Span(4_000, 8_000), Span(9_000, 11_000)]
    )
    assert [
        (s.text, s.start_ms, s.end_ms, s.language, s.emotion, s.sounds) for s in heard.segments
    ] == [
        ("唔該。", 0, 3_000, "yue", VoiceEmotion.ANGRY, (Sound.MUSIC,)),
        ("你好。", 4_000, 8_000, "zh", VoiceEmotion.UNKNOWN, ()),
    ]
    assert heard.language == "zh"
    assert asked == ["auto", "auto"], "two and one together"
    assert all(segment.words is None for segment in heard.segments)


def test_what_is_too_short_to_tell_is_heard_as_what_is_spoken_around_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def says(samples: Samples, language: str, times: bool) -> dict[str, Any]:
        if samples.size < 32_000 and language == "auto":
            return {"text": "<|ja|><|NEUTRAL|><|Speech|><|withitn|>うん"}
        tag = "zh" if language == "auto" else language
        return {"text": f"<|{tag}|><|NEUTRAL|><|Speech|><|withitn|>嗯"}

    listening, asked = engine(monkeypatch, tmp_path, says)
    heard = listening.transcribe(noise(12), [Span(0, 5_000), Span(6_000, 7_000)])
    assert [(s.text, s.language) for s in heard.segments] == [("嗯", "zh"), ("嗯", "zh")]
    assert asked == ["auto", "auto", "zh"]
    given = listening.transcribe(
        noise(12), [Span(0, 5_000), Span(6_000, 7_000)], Asked(language="yue")
    )
    assert {segment.language for segment in given.segments} == {"yue"}
    assert asked[3:] == ["yue", "yue"]


def test_that_nobody_speaks_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    raw = {"text": "<|nospeech|><|EMO_UNKNOWN|><|Speech|><|withitn|>the"}
    listening, _ = engine(monkeypatch, tmp_path, lambda *_: raw)
    (segment,) = listening.transcribe(silence(3), [Span(0, 3_000)]).segments
    assert (segment.no_speech, segment.language) == (1.0, "und")


def test_words_lie_where_funasr_places_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def says(samples: Samples, language: str, times: bool) -> dict[str, Any]:
        assert times
        return {
            "text": "<|en|><|NEUTRAL|><|Speech|><|withitn|>Hello, you.",
            "words": ["hello", "you"], "timestamp": [[0, 400], [430, 99_000]],
        }  # fmt: skip

    listening, _ = engine(monkeypatch, tmp_path, says, word_times=True)
    (segment,) = listening.transcribe(noise(3), [Span(1_000, 3_000)]).segments
    assert segment.words == (
        HeardWord(text="Hello,", start_ms=1_000, end_ms=1_400),
        HeardWord(text="you.", start_ms=1_430, end_ms=3_000),
    )


@pytest.mark.parametrize("how", ["fails", "other words"])
def test_words_that_cannot_be_placed_cost_no_text(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    def says(samples: Samples, language: str, times: bool) -> dict[str, Any]:
        if times and how == "fails":
            raise IndexError("list index out of range")
        return {"text": "<|en|>Hello", "words": ["good", "day"], "timestamp": [[0, 1], [1, 2]]}

    listening, _ = engine(monkeypatch, tmp_path, says, word_times=True)
    heard = listening.transcribe(noise(3), [Span(0, 3_000)])
    assert [(s.text, s.words) for s in heard.segments] == [("Hello", None)]
    (degraded,) = heard.degradations
    assert degraded.kind is DegradationKind.NO_ALIGNMENT
    assert degraded.reason.startswith("the words of 1 of 1 stretches")


def test_an_answer_that_lacks_a_stretch_is_no_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    listening, _ = engine(monkeypatch, tmp_path, sensevoice_model.hashed)
    monkeypatch.setattr(listening, "_generated", lambda step, word_times: [])
    with pytest.raises(RuntimeError, match="FunASR answers 0 of 1 stretches"):
        listening.transcribe(noise(3), [Span(0, 3_000)])


def together(
    monkeypatch: pytest.MonkeyPatch, listening: SenseVoiceEngine, fails: Callable[[int, bool], None]
) -> list[int]:
    """Let `fails` say what becomes of so many stretches; returns how many were heard at once."""
    sizes: list[int] = []
    heard = listening._generated

    def generated(step: Any, word_times: bool) -> Any:
        sizes.append(len(step.samples))
        fails(len(step.samples), word_times)
        return heard(step, word_times)

    monkeypatch.setattr(listening, "_generated", generated)
    return sizes


def test_what_does_not_fit_together_is_heard_one_by_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spans = [Span(at * 2_000, at * 2_000 + 1_900) for at in range(5)]
    listening, _ = engine(
        monkeypatch, tmp_path, sensevoice_model.hashed, batch_size=4, word_times=True
    )
    whole = listening.transcribe(noise(10), spans, Asked(language="en"))

    def fails(stretches: int, word_times: bool) -> None:
        if stretches > 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    sizes = together(monkeypatch, listening, fails)
    assert listening.transcribe(noise(10), spans, Asked(language="en")) == whole
    assert sizes == [4, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("word_times", [True, False])
def test_one_stretch_that_does_not_fit_is_out_of_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, word_times: bool
) -> None:
    def fails(stretches: int, word_times: bool) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    listening, _ = engine(
        monkeypatch, tmp_path, sensevoice_model.hashed, batch_size=2, word_times=word_times
    )
    sizes = together(monkeypatch, listening, fails)
    with pytest.raises(OutOfMemory, match="CUDA out of memory"):
        listening.transcribe(noise(4), [Span(0, 1_000), Span(2_000, 3_000)])
    assert sizes == [2, 1] * 2, "once more, with what torch keeps of the memory given back"


def test_words_that_cannot_be_placed_cost_those_beside_them_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def says(samples: Samples, language: str, times: bool) -> dict[str, Any]:
        if times and samples.size == 48_000:
            raise IndexError("list index out of range")
        words = {"words": ["hi"], "timestamp": [[0, 1]]} if times else {}
        return {"text": "<|en|>Hi", **words}

    listening, _ = engine(monkeypatch, tmp_path, says, batch_size=2, word_times=True)
    heard = listening.transcribe(noise(6), [Span(0, 3_000), Span(4_000, 6_000)])
    assert [segment.words is None for segment in heard.segments] == [True, False]
    (degraded,) = heard.degradations
    assert degraded.reason.startswith("the words of 1 of 2 stretches")


# Loading


def test_a_folder_without_a_model_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sensevoice_model.install(monkeypatch, tmp_path / "other")
    with pytest.raises(
        ValueError, match=r"transcribe\.sensevoice\.model_dir=.* holds no model\.pt"
    ):
        SenseVoiceEngine(made(tmp_path))


def test_without_the_extra_it_is_said_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r"extra `sensevoice`.*callstream\[sensevoice\]"):
        choose(made(tmp_path))


def test_a_choice_tells_which_model_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sensevoice_model.install(monkeypatch, tmp_path / "mine")
    chosen = choose(made(tmp_path / "mine"))
    assert chosen.reason == "sensevoice mine: transcribe.engine asks for it"
    assert chosen.engine.languages == {"zh", "yue", "en", "ja", "ko"}
    with pytest.raises(ValueError, match=r"transcribe\.task=translate"):
        choose(made(tmp_path / "mine").model_copy(update={"task": "translate"}))


@pytest.mark.sensevoice
def test_a_model_is_loaded_by_funasr_and_known_by_its_files(tmp_path: Path) -> None:
    one = SenseVoiceEngine(made(sensevoice_model.build(tmp_path / "one")))
    other = SenseVoiceEngine(made(sensevoice_model.build(tmp_path / "two", seed=2)))
    again = SenseVoiceEngine(made(tmp_path / "one", batch_size=4, word_times=True))
    assert one.identity.model_revision == again.identity.model_revision
    assert one.identity.model_revision != other.identity.model_revision
    spans = [Span(0, 3_000), Span(3_000, 3_100), Span(4_000, 9_000)]
    heard = one.transcribe(noise(10), spans, Asked(language="en"))
    assert heard.segments
    assert not any("<|" in segment.text for segment in heard.segments)
    # In a batch, and where its words cannot be placed, it hears the same.
    batched = again.transcribe(noise(10), spans, Asked(language="en"))
    assert [s.text for s in batched.segments] == [s.text for s in heard.segments]


@pytest.mark.sensevoice
def test_what_is_broken_or_another_model_is_named(tmp_path: Path) -> None:
    folder = sensevoice_model.build(tmp_path / "model")
    (folder / "model.pt").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"model_dir=.* cannot be loaded with transcribe\.device"):
        SenseVoiceEngine(made(folder))


@pytest.mark.sensevoice
def test_a_name_that_no_hub_gives_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    extra.funasr()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Transient, match=r"model_missing: transcribe\.sensevoice\.model='no/such'"):
        SenseVoiceEngine(
            TranscribeSettings.model_validate({"sensevoice": {"model": "no/such", "hub": "hf"}})
        )
