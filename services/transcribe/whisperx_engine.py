"""WhisperX: its Whisper, in batches that calls share, and its alignment; its only importer."""

from __future__ import annotations

import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from schemas.events import Degradation, DegradationKind
from services.runtime.observe import logger
from services.transcribe.engine import NOTHING_KNOWN, RATE_HZ, Asked, Heard, HeardWord, Samples
from services.transcribe.faster_whisper_engine import loaded, silent_hub
from services.transcribe.libraries import first_line, library
from services.transcribe.settings import TranscribeSettings
from services.transcribe.spans import Span
from services.transcribe.whisper import PlacedWord, Whisper

# A model that could not be had is asked for again after so long.
_RETRY_S = 3600.0
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
    """When it is asked for again, by the monotonic clock."""


class WhisperXAligners:
    """The alignment models of WhisperX, each loaded when its language is first heard.

    Implements `Aligner`. WhisperX is not re-entrant: one thread of the process loads or aligns.
    While a model is loaded only who needs one that is not there waits.
    """

    def __init__(self, device: str, models: Mapping[str, str], hub_timeout_s: float) -> None:
        """`models`: language -> folder, or name on the hub, in place of WhisperX's own choice."""
        self._device, self._models, self._timeout_s = device, dict(models), hub_timeout_s
        self._library = library("whisperx.alignment", "transcribe.engine=whisperx")
        # It looks for sentences with data that nltk fetches when it is first used. What is aligned
        # here is one stretch, whose sentences nobody asks for.
        self._library.nltk_load = lambda path: _OneSentence()
        self._kept: OrderedDict[str, tuple[Any, Any] | _Missing] = OrderedDict()
        self._lock = threading.Lock()

    def knows(self, language: str) -> bool:
        return self.missing(language) is None

    def missing(self, language: str) -> str | None:
        """Why there is no model of `language`; None where there is one."""
        known = self._known(language)
        if known is None:
            with _LOADING:
                known = self._known(language) or self._loaded(language)
                with self._lock:
                    self._kept[language] = known
                    while len(self._kept) > _MOST_KEPT:
                        self._kept.popitem(last=False)
        return known.why if isinstance(known, _Missing) else None

    def _known(self, language: str) -> tuple[Any, Any] | _Missing | None:
        with self._lock:
            known = self._kept.get(language)
            if known is None or (isinstance(known, _Missing) and time.monotonic() > known.until):
                return None
            self._kept.move_to_end(language)
            return known

    def _loaded(self, language: str) -> tuple[Any, Any] | _Missing:
        try:
            try:
                return self._load(language, cached=True)
            except Exception:
                if (why := silent_hub(self._timeout_s)) is not None:
                    raise ValueError(f"it is not in the cache and {why}") from None
                return self._load(language, cached=False)
        except Exception as error:  # every source of models fails in ways of its own
            why = f"its alignment model cannot be had ({first_line(error)})"
            logger("transcribe").warning(
                "no alignment", language=language, why=why,
                mend="set transcribe.align_models to a folder that holds a wav2vec2 model of it",
            )  # fmt: skip
            return _Missing(why, time.monotonic() + _RETRY_S)

    def _load(self, language: str, *, cached: bool) -> tuple[Any, Any]:
        name = self._models.get(language) or self._library.DEFAULT_ALIGN_MODELS_TORCH.get(language)
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
        known = self._known(language)
        if known is None or isinstance(known, _Missing):
            return ()
        model, about = known
        whole = {"text": text.strip(), "start": 0.0, "end": samples.size / RATE_HZ}
        try:
            with _ALIGNING:
                answer = self._library.align([whole], model, about, np.array(samples), self._device)
        except Exception as error:  # the text is there: nothing is lost for its words' times
            logger("transcribe").warning("not aligned", language=language, why=first_line(error))
            return ()
        space = "" if language in self._library.LANGUAGES_WITHOUT_SPACES else " "
        return [
            (space + word["word"], _word(word))
            for segment in answer["segments"]
            for word in segment["words"]
        ]


class _OneSentence:
    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


def _word(found: Mapping[str, Any]) -> HeardWord:
    start, end, score = found.get("start"), found.get("end"), found.get("score")
    placed = start is not None and end is not None
    first = round(float(start) * 1000) if start is not None else 0
    return HeardWord(
        text=found["word"],
        start_ms=first if placed else None,
        end_ms=max(first, round(float(end) * 1000)) if placed and end is not None else None,
        confidence=None if score is None else round(min(1.0, max(0.0, float(score))), 4),
    )
