"""WhisperX: its Whisper, in batches that calls share, and its alignment; its only importer."""

from __future__ import annotations

import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from schemas.events import Degradation, DegradationKind
from services.runtime.libraries import (
    empty_caches,
    first_line,
    is_out_of_memory,
    library,
    silent_hub,
)
from services.runtime.observe import logger
from services.transcribe.engine import (
    NOTHING_KNOWN,
    RATE_HZ,
    Asked,
    Heard,
    HeardWord,
    Samples,
    primary_tag,
)
from services.transcribe.faster_whisper_engine import loaded
from services.transcribe.placing import of_letters
from services.transcribe.settings import TranscribeSettings
from services.transcribe.spans import Span
from services.transcribe.whisper import PlacedWord, Whisper

# A model that could not be had is asked for again after so long; sooner where it had no room.
_RETRY_S, _NO_ROOM_S = 3600.0, 60.0
# Alignment models kept: each takes a gigabyte of the device.
_MOST_KEPT = 6
# WhisperX is not re-entrant, whichever engine uses it.
_LOADING, _ALIGNING = threading.Lock(), threading.Lock()


class WhisperXEngine:
    """Whisper as WhisperX loads it, its words placed by an alignment model of their language.

    A language whose alignment model cannot be had gets its word times from what Whisper attends
    to, and says `no_alignment`.
    """

    def __init__(self, folder: Path, settings: TranscribeSettings) -> None:
        """Loads the model in `folder`; blocks for seconds. Raises ValueError where it cannot be."""
        model, made_of = loaded(
            library("whisperx.asr", "transcribe.engine=whisperx").WhisperModel, folder, settings
        )
        self._aligners = WhisperXAligners(
            made_of.device, settings.align_models, settings.hub_timeout_s
        )
        self._whisper = Whisper(
            model,
            beam_size=settings.beam_size,
            batch_size=int(made_of.options["batch_size"]),
            aligner=self._aligners,
            task=settings.task,
        )
        self.languages: Collection[str] | None = self._whisper.languages
        named = [f"{tag}={name}" for tag, name in sorted(settings.align_models.items())]
        self.identity = replace(
            made_of,
            name="whisperx",
            version=f"{version('whisperx')} (ctranslate2 {version('ctranslate2')}, "
            f"torch {version('torch')})",
            options={**made_of.options, **({"align_models": " ".join(named)} if named else {})},
        )

    def transcribe(
        self,
        audio: Samples,
        spans: Sequence[Span],
        asked: Asked = NOTHING_KNOWN,
    ) -> Heard:
        heard = self._whisper.transcribe(audio, spans, asked)
        tags = sorted({segment.language for segment in heard.segments})
        missing = [(tag, why) for tag in tags if (why := self._aligners.missing(tag)) is not None]
        return replace(
            heard,
            degradations=heard.degradations
            + tuple(
                Degradation(
                    kind=DegradationKind.NO_ALIGNMENT,
                    reason=f"{tag}: {why}; its words have the times that Whisper gives them",
                )
                for tag, why in missing
            ),
        )


@dataclass(frozen=True, slots=True)
class _Missing:
    why: str
    until: float
    """When it is asked for again, by the aligners' clock."""


class WhisperXAligners:
    """The alignment models of WhisperX, each loaded when its language is first heard.

    Implements `Aligner`. WhisperX is not re-entrant: of all threads of the process one at a time
    loads, and one aligns. While a model is loaded only who needs one that is not there waits.
    """

    def __init__(
        self,
        device: str,
        models: Mapping[str, str],
        hub_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`models`: language -> folder, or name on the hub, in place of WhisperX's own choice."""
        self._device, self._timeout_s, self._clock = device, hub_timeout_s, clock
        self._models = {primary_tag(tag): name for tag, name in models.items()}
        self._library = library("whisperx.alignment", "transcribe.engine=whisperx")
        # It looks for sentences with data that nltk fetches when it is first used. What is aligned
        # here is one stretch, whose sentences nobody asks for.
        self._library.nltk_load = lambda path: _OneSentence()
        self._kept: OrderedDict[str, tuple[Any, Any]] = OrderedDict()
        self._missing: dict[str, _Missing] = {}
        self._lock = threading.Lock()

    def knows(self, language: str) -> bool:
        return not isinstance(self._had(language), _Missing)

    def missing(self, language: str) -> str | None:
        """Why no model of `language` could be had when it was last asked for; loads none."""
        with self._lock:
            missing = self._missing.get(language)
        return None if missing is None else missing.why

    def _had(self, language: str) -> tuple[Any, Any] | _Missing:
        """The model of `language`, loaded where it is not kept; or why it cannot be had."""
        known = self._known(language)
        if known is not None:
            return known
        with _LOADING:
            known = self._known(language)
            if known is not None:
                return known
            loaded = self._loaded(language)
            with self._lock:
                if isinstance(loaded, _Missing):
                    self._missing[language] = loaded
                else:
                    self._missing.pop(language, None)
                    self._kept[language] = loaded
                    while len(self._kept) > _MOST_KEPT:
                        self._kept.popitem(last=False)
            return loaded

    def _known(self, language: str) -> tuple[Any, Any] | _Missing | None:
        with self._lock:
            if (kept := self._kept.get(language)) is not None:
                self._kept.move_to_end(language)
                return kept
            missing = self._missing.get(language)
            return missing if missing is not None and self._clock() < missing.until else None

    def _loaded(self, language: str) -> tuple[Any, Any] | _Missing:
        try:
            try:
                return self._load(language, cached=True)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                if (why := silent_hub(self._timeout_s)) is not None:
                    raise ValueError(f"it is not in the cache and {why}") from None
                return self._load(language, cached=False)
        except Exception as error:  # every source of models fails in ways of its own
            why = (
                f"its alignment model ({self._name(language) or 'none'}) cannot be had "
                f"({first_line(error)}); transcribe.align_models may name a folder"
            )
            logger("transcribe").warning(
                "no alignment", language=language, why=why,
                mend="set transcribe.align_models to a folder that holds a wav2vec2 model of it",
            )  # fmt: skip
            after_s = _NO_ROOM_S if is_out_of_memory(error) else _RETRY_S
            return _Missing(why, self._clock() + after_s)

    def _name(self, language: str) -> str:
        """The model of `language`: a folder, or a name on the hub or of torchaudio; else empty."""
        own = (self._library.DEFAULT_ALIGN_MODELS_TORCH, self._library.DEFAULT_ALIGN_MODELS_HF)
        return next(
            (found for models in (self._models, *own) if (found := models.get(language))), ""
        )

    def _load(self, language: str, *, cached: bool) -> tuple[Any, Any]:
        name = self._name(language)
        if cached and name in self._library.torchaudio.pipelines.__all__:
            # These are fetched whatever it is told.
            bundle = getattr(self._library.torchaudio.pipelines, name)
            file = Path(self._library.torch.hub.get_dir(), "checkpoints", Path(bundle._path).name)
            if not file.is_file():
                raise FileNotFoundError(file.name)
        with redirect_stdout(sys.stderr):  # it prints what it raises
            model, about = self._library.load_align_model(
                language, self._device, self._models.get(language), model_cache_only=cached
            )
        return model.eval(), about

    def align(self, samples: Samples, text: str, language: str) -> Sequence[PlacedWord]:
        known = self._had(language)  # it may have been put out for others since it was asked for
        if isinstance(known, _Missing):
            return ()
        said = text.strip()
        try:
            answer = self._answer(samples, said, *known)
        except Exception as error:  # the text is there: nothing is lost for its words' times
            logger("transcribe").warning("not aligned", language=language, why=first_line(error))
            return ()
        letters = [
            _letter(found) for segment in answer["segments"] for found in segment["chars"] or ()
        ]
        if "".join(letter.text for letter in letters) != said:
            return ()
        # Not its words: of Chinese and Japanese they are single characters, without the spaces.
        return [
            (word.text, replace(word, text=word.text.strip())) for word in of_letters(said, letters)
        ]

    def _answer(self, samples: Samples, said: str, model: Any, about: Any) -> Any:
        whole = {"text": said, "start": 0.0, "end": samples.size / RATE_HZ}

        def ask() -> Any:
            with _ALIGNING:
                return self._library.align(
                    [whole], model, about, np.array(samples), self._device,
                    return_char_alignments=True,
                )  # fmt: skip

        try:
            return ask()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        empty_caches()
        return ask()


class _OneSentence:
    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


def _letter(found: Mapping[str, Any]) -> HeardWord:
    start, end, score = found.get("start"), found.get("end"), found.get("score")
    if start is None or end is None:
        return HeardWord(text=found["char"])
    first = max(0, round(float(start) * 1000))
    return HeardWord(
        text=found["char"],
        start_ms=first,
        end_ms=max(first, round(float(end) * 1000)),
        confidence=None if score is None else round(min(1.0, max(0.0, float(score))), 4),
    )
