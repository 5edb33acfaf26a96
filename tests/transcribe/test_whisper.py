"""What calls ask of Whisper: languages by stretch, vocabulary, translation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import faster_whisper
import numpy as np
import pytest

from services.transcribe.engine import Asked
from services.transcribe.spans import Span
from services.transcribe.whisper import Whisper, _Prompts
from tests.transcribe.sounds import silence, tone
from tests.transcribe.whisper_model import build


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = build(tmp_path_factory.mktemp("whisper"))
    return faster_whisper.WhisperModel(str(folder), device="cpu", compute_type="int8")


class Words:
    """Of "w5" makes the token 5."""

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in re.findall(r"w([0-9]+)", text)]


class Listener(Whisper):
    """Tells languages by pitch, as a model with random weights cannot: low is English, high is
    Mandarin. Its tokens are words. What it is to decode is kept."""

    def __init__(self, model: Any, **given: Any) -> None:
        super().__init__(model, beam_size=1, batch_size=4, **given)
        self.decoded: list[Any] = []
        self.told = 0
        self._prompts = _Prompts(Words(), model.max_length)

    def _tell(self, steps: Sequence[Any]) -> list[Any]:
        self.told += len(steps)
        return [
            type(answer)(answer.values, self._probabilities(step.features))
            for step, answer in zip(steps, super()._tell(steps), strict=True)
        ]

    def _probabilities(self, features: Any) -> dict[str, float]:
        low, high = float(features[:20].max()), float(features[30:].max())
        if abs(low - high) < 0.3:  # both
            return {"zh": 0.55, "en": 0.44}
        return {"zh": 0.95, "en": 0.04} if high > low else {"en": 0.95, "zh": 0.04}

    def _decode(self, steps: Sequence[Any]) -> list[Any]:
        self.decoded += steps
        return super()._decode(steps)


LOW, HIGH = 300.0, 3_000.0


def call(*hertz: float) -> tuple[Any, list[Span]]:
    """Tones of three seconds with a second between them."""
    parts, spans = [], []
    for number, each in enumerate(hertz):
        parts += [tone(3.0, each), silence(1.0)]
        spans.append(Span(number * 4_000, number * 4_000 + 3_000))
    return np.concatenate(parts), spans


def spoken(listener: Listener) -> list[tuple[str, int]]:
    return [(step.language, step.length_ms) for step in listener.decoded]


def test_a_call_that_switches_within_a_window_is_told_by_stretch(model: Any) -> None:
    listener = Listener(model)
    heard = listener.transcribe(*call(HIGH, HIGH, LOW, LOW, HIGH))
    assert spoken(listener) == [("zh", 7_000), ("en", 7_000), ("zh", 3_000)]
    assert {segment.language for segment in heard.segments} <= {"zh", "en"}
    assert heard.language == "zh"


def test_one_language_is_one_window_and_told_once(model: Any) -> None:
    listener = Listener(model)
    listener.transcribe(*call(HIGH, HIGH, HIGH))
    assert spoken(listener) == [("zh", 11_000)]
    assert listener.told == 1


def test_where_two_languages_are_expected_each_stretch_is_told(model: Any) -> None:
    listener = Listener(model)
    listener.transcribe(*call(HIGH, HIGH, HIGH), Asked(hints=("zh", "en")))
    assert spoken(listener) == [("zh", 11_000)]
    assert listener.told == 4


def test_a_language_that_is_given_is_not_told(model: Any) -> None:
    listener = Listener(model)
    listener.transcribe(*call(HIGH, LOW), Asked(language="en"))
    assert spoken(listener) == [("en", 7_000)]
    assert listener.told == 0


def test_translation_is_english_whatever_is_spoken(model: Any) -> None:
    listener = Listener(model, task="translate")
    heard = listener.transcribe(*call(HIGH, HIGH))
    assert spoken(listener) == [("zh", 7_000)]
    assert heard.segments
    assert {segment.language for segment in heard.segments} == {heard.language} == {"en"}
    prompt = listener._prompt(listener.decoded[0])
    tokens = [model.hf_tokenizer.id_to_token(token) for token in prompt]
    assert tokens == ["<|startoftranscript|>", "<|zh|>", "<|translate|>", "<|notimestamps|>"]


def test_terms_are_what_was_said_before_the_most_important_last(model: Any) -> None:
    listener = Listener(model)
    asked = Asked(language="en", terms=("w1", "w2"), prompt="w7 w8.")
    heard = listener.transcribe(*call(LOW), asked)
    assert (heard.terms, heard.prompt) == (("w1", "w2"), "w7 w8.")
    prompt = listener._prompt(listener.decoded[0])
    before = prompt[: prompt.index(model.hf_tokenizer.token_to_id("<|startoftranscript|>"))]
    assert before == [model.hf_tokenizer.token_to_id("<|startofprev|>"), 7, 8, 2, 1]


def test_what_there_is_no_room_for_is_not_told_as_passed(model: Any) -> None:
    listener = Listener(model)
    terms = tuple(f"w{number}" for number in range(1_000))
    heard = listener.transcribe(*call(LOW), Asked(language="en", terms=terms))
    assert len(heard.terms) == 223
    assert heard.terms == terms[: len(heard.terms)]
    assert len(listener.decoded[0].prompt) <= model.max_length // 2 - 1
    long = listener.transcribe(*call(LOW), Asked(language="en", prompt="w1 " * 500, terms=("w2",)))
    assert (long.terms, long.prompt) == (("w2",), "")


def test_a_term_that_the_model_cannot_write_is_not_told_as_passed(model: Any) -> None:
    listener = Listener(model)
    heard = listener.transcribe(*call(LOW), Asked(language="en", terms=("??", "w2"), prompt="!!"))
    assert (heard.terms, heard.prompt) == (("w2",), "")


def test_nothing_asked_is_nothing_passed(model: Any) -> None:
    listener = Listener(model)
    heard = listener.transcribe(*call(LOW), Asked(language="en"))
    assert (heard.terms, heard.prompt) == ((), "")
    assert listener.decoded[0].prompt == ()


def test_an_older_model_hears_nynorsk_as_norwegian(model: Any) -> None:
    class Older:
        supported_languages = [tag for tag in model.supported_languages if tag != "nn"]  # noqa: RUF012

        def __getattr__(self, name: str) -> Any:
            return getattr(model, name)

    listener = Listener(Older())
    assert {"no", "nn"} <= set(listener.languages)
    heard = listener.transcribe(*call(LOW), Asked(language="nn"))
    assert heard.language == "no"
    assert spoken(listener) == [("no", 3_000)]
    assert "nn" in Listener(model).languages
    assert Listener(model).transcribe(*call(LOW), Asked(language="nn")).language == "nn"


def test_a_device_without_room_hears_the_same_in_smaller_batches(model: Any) -> None:
    class Crowded(Listener):
        refused = 0

        def _tell(self, steps: Sequence[Any]) -> list[Any]:
            self._room(steps)
            return super()._tell(steps)

        def _decode(self, steps: Sequence[Any]) -> list[Any]:
            self._room(steps)
            return super()._decode(steps)

        def _room(self, steps: Sequence[Any]) -> None:
            if len(steps) > 1:
                self.refused += 1
                raise RuntimeError("CUDA failed with error out of memory")

    audio, spans = call(*[HIGH, LOW] * 10)
    crowded = Crowded(model)
    asked = Asked(hints=("zh", "en"))
    assert crowded.transcribe(audio, spans, asked) == Listener(model).transcribe(
        audio, spans, asked
    )
    assert crowded.refused > 0
    assert crowded.usage.out_of_memory == crowded.refused
