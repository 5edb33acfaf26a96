"""One contract, every engine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from schemas.events import DegradationKind
from services.transcribe.engine import Asked, Engine, Heard, primary_tag
from services.transcribe.faster_whisper_engine import FasterWhisperEngine
from services.transcribe.openai_engine import OpenAIEngine
from services.transcribe.pocketsphinx_engine import PocketSphinxEngine
from services.transcribe.sensevoice_engine import SenseVoiceEngine
from services.transcribe.settings import TranscribeSettings
from services.transcribe.spans import Span
from services.transcribe.stub_engine import StubEngine
from tests.transcribe import extra, sensevoice_model
from tests.transcribe.endpoint import endpoint
from tests.transcribe.fake_engine import FakeEngine
from tests.transcribe.sounds import Samples, noise, silence, speech
from tests.transcribe.whisper_model import build

SAID = np.concatenate([silence(0.5), speech(0, seconds=4.0), silence(34.0), speech(1, 4.4, 3.0)])
SPANS = [Span(700, 1_900), Span(1_900, 2_900), Span(38_600, 40_000)]
LONG = [Span(0, 41_000)]


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("whisper"))


def whisperx(folder: Path, **settings: Any) -> Engine:
    extra.whisperx()
    from services.transcribe.whisperx_engine import WhisperXEngine

    return WhisperXEngine(
        folder, TranscribeSettings(model_dir=folder, beam_size=2, batch_size=4, **settings)
    )


@pytest.fixture(
    scope="module",
    params=[
        "fake",
        "stub",
        "pocketsphinx",
        "whisper",
        "batched",
        "openai",
        "openai, text alone",
        "sensevoice, no model",
        pytest.param("sensevoice", marks=pytest.mark.sensevoice),
        pytest.param("whisperx", marks=pytest.mark.whisperx),
        pytest.param("whisperx aligned", marks=pytest.mark.whisperx),
    ],
)
def engine(
    request: pytest.FixtureRequest,
    whisper_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Engine:
    def aligner() -> Path:
        return extra.build_aligner(tmp_path_factory.mktemp("aligner"), "abcdefghijklmnopqrstuvw")

    def whisper(batch_size: int) -> Engine:
        return FasterWhisperEngine(
            whisper_folder,
            TranscribeSettings(model_dir=whisper_folder, beam_size=2, batch_size=batch_size),
        )

    def openai(**settings: Any) -> Engine:
        stack = ExitStack()
        request.addfinalizer(stack.close)
        return OpenAIEngine(stack.enter_context(endpoint()).settings(**settings))

    def sensevoice(folder: Path) -> Engine:
        return SenseVoiceEngine(
            TranscribeSettings.model_validate(
                {"batch_size": 2, "sensevoice": {"model_dir": folder, "word_times": True}}
            )
        )

    def no_sensevoice() -> Engine:
        patches = pytest.MonkeyPatch()
        request.addfinalizer(patches.undo)
        folder = tmp_path_factory.mktemp("sensevoice")
        sensevoice_model.install(patches, folder)
        return sensevoice(folder)

    makers: dict[str, Callable[[], Engine]] = {
        "fake": FakeEngine,
        "stub": StubEngine,
        "pocketsphinx": PocketSphinxEngine,
        "whisper": lambda: whisper(1),
        "batched": lambda: whisper(4),
        "openai": openai,
        "openai, text alone": lambda: openai(response_format="json"),
        "sensevoice, no model": no_sensevoice,
        "sensevoice": lambda: sensevoice(
            sensevoice_model.build(tmp_path_factory.mktemp("sensevoice"))
        ),
        "whisperx": lambda: whisperx(whisper_folder),
        "whisperx aligned": lambda: whisperx(
            whisper_folder, align_models={tag: str(aligner()) for tag in ("en", "zh")}
        ),
    }
    return makers[request.param]()


def check(heard: Heard, audio: Samples) -> None:
    length_ms = audio.size // 16
    for segment in heard.segments:
        assert segment.text == segment.text.strip() != ""
        assert 0 <= segment.start_ms <= segment.end_ms <= length_ms
        for probability in (segment.confidence, segment.no_speech):
            assert probability is None or 0.0 <= probability <= 1.0
        assert segment.logprob is None or segment.logprob <= 0.0
        for word in segment.words or ():
            assert word.text
            assert word.confidence is None or 0.0 <= word.confidence <= 1.0
    for before, after in pairwise(heard.segments):
        assert before.start_ms <= after.start_ms


@pytest.mark.parametrize("spans", [SPANS, LONG], ids=["turns", "long"])
@pytest.mark.parametrize("asked", [Asked(language="en"), Asked(hints=("en", "zh"))], ids=str)
def test_segments_are_in_order_and_within_the_audio(
    engine: Engine, spans: list[Span], asked: Asked
) -> None:
    heard = engine.transcribe(SAID, spans, asked)
    assert heard.segments
    check(heard, SAID)


def test_no_spans_give_no_segments(engine: Engine) -> None:
    assert engine.transcribe(SAID, []).segments == ()
    assert engine.transcribe(silence(0), []).segments == ()


def test_the_same_input_gives_the_same_result_whatever_came_between(engine: Engine) -> None:
    first = engine.transcribe(SAID, SPANS)
    engine.transcribe(noise(1), [Span(0, 1_000)])
    assert engine.transcribe(SAID, SPANS) == first


def test_what_lies_outside_the_spans_changes_nothing(engine: Engine) -> None:
    spans = [Span(700, 2_000)]
    other = SAID.copy()
    other[5 * 16_000 :] = noise(SAID.size / 16_000 - 5, 0.3)
    assert engine.transcribe(other, spans).segments == engine.transcribe(SAID, spans).segments


def test_two_threads_do_not_disturb_each_other(engine: Engine) -> None:
    alone = engine.transcribe(SAID, SPANS)
    results: list[Heard] = []
    threads = [
        Thread(target=lambda: results.append(engine.transcribe(SAID, SPANS))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [alone, alone]


def test_what_made_it_is_said(engine: Engine) -> None:
    identity = engine.identity
    assert identity.name
    assert identity.version
    assert identity.model
    assert identity.reason == ""
    assert engine.languages is None or "en" in engine.languages


@pytest.mark.parametrize(
    "said", [silence(3), silence(0.1), noise(3)], ids=["still", "short", "noise"]
)
def test_what_holds_no_speech_breaks_nothing(engine: Engine, said: Samples) -> None:
    """A voice detector may be wrong."""
    check(engine.transcribe(said, [Span(0, said.size // 16)], Asked(language="en")), said)


def test_pocketsphinx_understands_clean_english() -> None:
    heard = PocketSphinxEngine().transcribe(SAID, [Span(38_600, 41_400)], Asked(hints=("en",)))
    words = " ".join(segment.text for segment in heard.segments).split()
    assert set(words) & {"ordered", "jacket", "last", "week", "hello"}
    assert heard.language == "en"
    assert not any(word.startswith(("<", "[")) or "(" in word for word in words)


@pytest.fixture(scope="module")
def talking_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that always says something; what another says of noise depends on the processor."""
    return build(tmp_path_factory.mktemp("talking"), ends=False)


def test_whisper_takes_the_language_from_the_hints(talking_folder: Path) -> None:
    settings = TranscribeSettings(model_dir=talking_folder, beam_size=1)
    engine = FasterWhisperEngine(talking_folder, settings)
    # Random weights are sure of nothing, so the likelier hint is taken.
    hinted = engine.transcribe(SAID, SPANS, Asked(hints=("zh",)))
    assert hinted.language == "zh"
    assert hinted.language_confidence is not None
    assert {segment.language for segment in hinted.segments} == {"zh"}
    given = engine.transcribe(SAID, SPANS, Asked(language="fr"))
    assert (given.language, given.language_confidence) == ("fr", None)


@pytest.mark.parametrize("tag", ["nb-NO", "nn-NO", "fil-PH", "iw-IL", "in-ID", "ji", "jv-ID"])
def test_whisper_knows_a_language_by_any_of_its_tags(talking_folder: Path, tag: str) -> None:
    settings = TranscribeSettings(model_dir=talking_folder, beam_size=1)
    engine = FasterWhisperEngine(talking_folder, settings)
    primary = primary_tag(tag)
    assert engine.languages is not None
    assert primary in engine.languages
    for asked in (Asked(language=primary), Asked(hints=(primary,))):
        heard = engine.transcribe(SAID, SPANS, asked)
        assert heard.language == primary
        assert {segment.language for segment in heard.segments} == {primary}
    assert "jw" not in engine.languages


def test_whisper_is_known_by_the_content_of_its_files(whisper_folder: Path, tmp_path: Path) -> None:
    settings = TranscribeSettings(beam_size=1)
    one = FasterWhisperEngine(whisper_folder, settings).identity
    same = FasterWhisperEngine(build(tmp_path / "same"), settings).identity
    other = FasterWhisperEngine(build(tmp_path / "other", seed=2), settings).identity
    assert one.model_revision == same.model_revision != other.model_revision


@pytest.mark.whisperx
def test_whisperx_hears_the_words_that_faster_whisper_hears(
    whisper_folder: Path, tmp_path: Path
) -> None:
    plain = FasterWhisperEngine(
        whisper_folder, TranscribeSettings(model_dir=whisper_folder, beam_size=2)
    ).transcribe(SAID, SPANS, Asked(language="en"))
    missing = whisperx(whisper_folder).transcribe(SAID, SPANS, Asked(language="en"))
    assert missing.segments == plain.segments
    (degraded,) = missing.degradations
    assert degraded.kind is DegradationKind.NO_ALIGNMENT
    assert degraded.reason.startswith(
        "en: its alignment model (WAV2VEC2_ASR_BASE_960H) cannot be had"
    )
    folder = extra.build_aligner(tmp_path / "en")
    aligned = whisperx(whisper_folder, align_models={"en": str(folder)}).transcribe(
        SAID, SPANS, Asked(language="en")
    )
    assert aligned.degradations == ()

    def said(heard: Heard) -> list[str]:
        return " ".join(segment.text for segment in heard.segments).split()

    assert said(aligned) == said(plain)
    times = [
        (word.start_ms, word.end_ms)
        for segment in aligned.segments
        for word in segment.words or ()
        if word.start_ms is not None
    ]
    assert times
    assert times == sorted(times)
    german = whisperx(whisper_folder, align_models={"en": str(folder)}).transcribe(
        SAID, SPANS, Asked(language="de")
    )
    assert [it.kind for it in german.degradations] == [DegradationKind.NO_ALIGNMENT]


def test_the_stub_says_what_it_is() -> None:
    heard = StubEngine().transcribe(SAID, SPANS, Asked(hints=("en",)))
    assert StubEngine.identity.name == "stub"
    assert heard.language == "en"
    assert len({segment.text for segment in heard.segments}) == len(SPANS)


@pytest.mark.parametrize(
    ("tag", "primary"),
    [
        ("en-US", "en"), ("zh_CN", "zh"), ("cmn-Hans", "zh"), ("YUE", "yue"), ("", "und"),
        ("nb-NO", "no"), ("nn-NO", "nn"), ("fil-PH", "tl"), ("iw-IL", "he"), ("in", "id"),
        ("ji", "yi"), ("jv-ID", "jv"), ("jw", "jv"),
    ],
)  # fmt: skip
def test_primary_tags(tag: str, primary: str) -> None:
    assert primary_tag(tag) == primary
