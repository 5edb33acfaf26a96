"""WhisperX: words that are placed change no text; models of languages come, go and are missing; a
device without room."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import faster_whisper
import pytest

from schemas.events import DegradationKind
from services.transcribe.engine import Asked, Heard
from services.transcribe.settings import TranscribeSettings
from services.transcribe.spans import Span
from services.transcribe.whisper import Whisper
from services.transcribe.words import split, timed
from tests.transcribe import extra
from tests.transcribe.sounds import silence, speech, tone
from tests.transcribe.test_batches import queued, until
from tests.transcribe.whisper_model import build

pytestmark = pytest.mark.whisperx

ENGLISH = "He said: don't pay 15 dollars, really - no."
CHINESE = "我想买 iPhone 15 Pro Max，谢谢。订单号 A123 OK？"
JAPANESE = "ありがとう、 ございます。スーパー・マリオを 3 本ください。"


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def aligner_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    letters = "".join(
        sorted({*"abcdefghijklmnopqrstuvwxyz'我想买谢订单号ありがとうございますを本"})
    )
    return extra.build_aligner(tmp_path_factory.mktemp("aligner"), letters)


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    extra.whisperx()
    monkeypatch.setattr(
        importlib.import_module("huggingface_hub").constants, "HF_HUB_OFFLINE", True
    )


def aligners(models: dict[str, str], **given: Any) -> Any:
    from services.transcribe.whisperx_engine import WhisperXAligners

    return WhisperXAligners("cpu", models, 0.1, **given)


class Said(Whisper):
    """Decodes to a text that is known, of which the decoder placed no word."""

    text = ""

    def _decode(self, steps: Sequence[Any]) -> list[Any]:
        return [replace(it, text=f" {self.text} ", words=()) for it in super()._decode(steps)]


@pytest.mark.parametrize(("language", "text"), [("en", ENGLISH), ("zh", CHINESE), ("ja", JAPANESE)])
def test_words_that_are_placed_change_no_text(
    whisper_folder: Path, aligner_folder: Path, language: str, text: str
) -> None:
    model = faster_whisper.WhisperModel(str(whisper_folder), device="cpu", compute_type="int8")

    def hear(aligner: Any) -> Heard:
        whisper = Said(model, beam_size=1, batch_size=1, aligner=aligner)
        whisper.text = text
        return whisper.transcribe(speech(0), [Span(500, 4_000)], Asked(language=language))

    (plain,) = hear(None).segments
    (segment,) = hear(aligners({language: str(aligner_folder)})).segments
    assert segment.text == plain.text == text
    words = segment.words or ()
    assert [word.text for word in words] == split(text)
    for word in words:
        assert word.start_ms is not None
        assert word.end_ms is not None
        assert 500 <= word.start_ms <= word.end_ms <= 4_000
        assert word.confidence is not None
    for before, after in pairwise(words):
        assert before.end_ms is not None
        assert after.start_ms is not None
        assert before.end_ms <= after.start_ms
    told = timed(segment.text, words, Span(segment.start_ms, segment.end_ms))
    assert not told.interpolated
    assert told.texts == split(text)


class Source:
    """What WhisperX's loader gives, and which languages it was asked for."""

    def __init__(self, known: Sequence[str]) -> None:
        self.known, self.asked = set(known), list[str]()
        self.refusal: Exception = ValueError("no default align-model")

    def __call__(self, language: str, device: str, name: str | None, **given: Any) -> Any:
        self.asked.append(language)
        if language not in self.known:
            raise self.refusal
        torch = importlib.import_module("torch")
        return torch.nn.Identity(), {"language": language, "dictionary": {}, "type": "none"}


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    found = Source(["zh", "en", "de", "fr", "es", "it", "nl", "ko"])
    alignment = importlib.import_module("whisperx.alignment")
    monkeypatch.setattr(alignment, "load_align_model", found)
    # torchaudio's are looked for in a folder first.
    monkeypatch.setattr(alignment, "DEFAULT_ALIGN_MODELS_TORCH", {})
    return found


MISSING = ["sw", "gl", "mr", "pa", "si", "km", "sn", "yo"]


def test_languages_without_a_model_put_out_none_that_is_loaded(source: Source) -> None:
    now = [0.0]
    kept = aligners({}, clock=lambda: now[0])
    assert kept.knows("zh")
    for _ in range(3):
        for tag in MISSING:
            assert not kept.knows(tag)
            assert "no default align-model" in kept.missing(tag) or "cache" in kept.missing(tag)
    assert kept.knows("zh")
    assert kept.missing("zh") is None
    assert source.asked == ["zh", *MISSING]
    now[0] = 3_601.0
    source.known.add("sw")
    assert kept.knows("sw")
    assert kept.missing("sw") is None
    assert kept.knows("zh")
    assert source.asked == ["zh", *MISSING, "sw"]


def test_a_model_that_had_no_room_is_asked_for_again_soon(source: Source) -> None:
    now = [0.0]
    kept = aligners({}, clock=lambda: now[0])
    source.known.clear()
    source.refusal = RuntimeError("CUDA out of memory. Tried to allocate 2 MiB")
    assert not kept.knows("en")
    now[0] = 61.0
    source.known.add("en")
    assert kept.knows("en")


def test_a_model_that_was_put_out_for_others_is_there_again_when_it_is_to_align(
    aligner_folder: Path,
) -> None:
    tags = ["en", "de", "fr", "es", "it", "nl", "ko"]
    kept = aligners(dict.fromkeys(tags, str(aligner_folder)))
    assert all(map(kept.knows, tags))
    assert kept._known("en") is None, "too many are kept"
    words = kept.align(speech(0), "we said so", "en")
    assert [word.text for _, word in words] == ["we", "said", "so"]


def test_words_for_which_the_device_has_no_room_are_placed_when_it_has(
    whisper_folder: Path, aligner_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.transcribe.whisperx_engine import WhisperXEngine

    settings = TranscribeSettings(
        model_dir=whisper_folder, beam_size=1, align_models={"en": str(aligner_folder)}
    )
    engine = WhisperXEngine(whisper_folder, settings)
    asked = Asked(language="en")
    spans = [Span(500, 4_000)]
    whole = engine.transcribe(speech(0), spans, asked)
    alignment = importlib.import_module("whisperx.alignment")
    align, failures = alignment.align, [1]
    torch = importlib.import_module("torch")

    def crowded(*given: Any, **more: Any) -> Any:
        if failures[0]:
            failures[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB")
        return align(*given, **more)

    monkeypatch.setattr(alignment, "align", crowded)
    assert engine.transcribe(speech(0), spans, asked) == whole
    failures[0] = 2
    without = engine.transcribe(speech(0), spans, asked)
    assert [it.text for it in without.segments] == [it.text for it in whole.segments]
    assert [it.kind for it in without.degradations] == [DegradationKind.NO_ALIGNMENT]


def test_a_device_without_room_hears_the_same_in_smaller_batches(
    whisper_folder: Path, aligner_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.transcribe.whisperx_engine import WhisperXEngine

    settings = TranscribeSettings(
        model_dir=whisper_folder, beam_size=1, batch_size=4,
        align_models={"en": str(aligner_folder)},
    )  # fmt: skip
    engine = WhisperXEngine(whisper_folder, settings)
    audio = tone(60.0) + silence(60.0)
    spans = [Span(at * 5_000, at * 5_000 + 2_000) for at in range(12)]
    asked = Asked(language="en")
    whole = engine.transcribe(audio, spans, asked)
    batches = engine._whisper._batches
    run, seen, refused = batches._run, [], []

    def crowded(steps: Sequence[Any]) -> Sequence[Any]:
        seen.append(len(steps))
        if len(seen) == 1:
            until(lambda: queued(batches) > 1)  # however quick the device is, two come together
        if len(steps) > 1:
            refused.append(len(steps))
            raise RuntimeError("cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED")
        return run(steps)

    monkeypatch.setattr(batches, "_run", crowded)
    assert engine.transcribe(audio, spans, asked) == whole
    assert refused
    assert engine._whisper.usage.fits == 1
