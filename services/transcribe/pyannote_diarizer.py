"""Turns from a pyannote pipeline, by name on the hub or from a folder; its only importer."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from services.runtime.errors import Transient
from services.transcribe.batches import Batches
from services.transcribe.diarizer import Turn, Turns, arranged
from services.transcribe.engine import RATE_HZ, Samples
from services.transcribe.faster_whisper_engine import silent_hub
from services.transcribe.libraries import files_hash, first_line, library
from services.transcribe.settings import TranscribeSettings
from services.transcribe.spans import Span, joined, within

MODEL = "pyannote/speaker-diarization-community-1"
_MEND = (
    f"accept the conditions of {MODEL} on its page and set HF_TOKEN, or let "
    "transcribe.diarizer_model name a folder that holds it"
)
# It hears for itself where a voice is; beyond so much of what the voice detection says it is masked
# or no speech.
_MARGIN_MS = 500


class PyannoteDiarizer:
    """Parts voices with a pipeline of pyannote.audio 4, one call at a time.

    A live call is never behind more than the one replay that has begun.

    The audio is not copied, but what pyannote makes of it grows with its length: some hundred MB
    an hour.
    """

    def __init__(self, settings: TranscribeSettings) -> None:
        """Loads the pipeline that `settings` name; blocks for seconds.

        Raises ValueError where pyannote is not installed or the pipeline cannot be used, Transient
        where it is not in the cache and cannot be fetched now.
        """
        name = settings.diarizer_model or MODEL
        pipelines = library("pyannote.audio", "transcribe.diarizer=pyannote")
        self._torch = library("torch", "transcribe.diarizer=pyannote")
        device = settings.device
        if device == "auto":
            device = "cuda" if self._torch.cuda.is_available() else "cpu"
        folder = Path(name)
        if folder.is_absolute() and not (folder / "config.yaml").is_file():
            raise ValueError(
                f"transcribe.diarizer_model={name!r} holds no config.yaml; copy the whole folder "
                "of a pyannote pipeline, or unset it"
            )
        self._pipeline = _loaded(pipelines.Pipeline, name, folder, settings.hub_timeout_s)
        self._pipeline.to(self._torch.device(device))
        self._shares: Batches[tuple[Samples, int | None], Any] = Batches(self._run, 1)
        called = folder.name if folder.is_dir() else name
        self.identity = (
            f"pyannote.audio {version('pyannote.audio')}: {called}{_revision(name, folder)}"
        )

    def diarize(
        self,
        audio: Samples,
        speech: Sequence[Span],
        parties: int | None = None,
        *,
        replay: bool = False,
    ) -> Turns:
        """As `Diarizer.diarize`; there are no more speakers than `parties`, and may be fewer."""
        if not speech:
            return Turns()
        with closing(self._shares.each([(audio, parties)], replay=replay)) as answers:
            (found,) = answers
        heard = joined(Span(it.start_ms - _MARGIN_MS, it.end_ms + _MARGIN_MS) for it in speech)
        heard = within(heard, Span(0, audio.size * 1000 // RATE_HZ))
        numbers: dict[str, int] = {}
        return arranged(
            _turns(found.speaker_diarization, heard, numbers),
            _turns(found.exclusive_speaker_diarization, heard, numbers),
        )

    def _run(self, given: Sequence[tuple[Samples, int | None]]) -> list[Any]:
        ((audio, parties),) = given
        with warnings.catch_warnings():
            # That samples mapped from a file cannot be written, and of short stretches' statistics.
            warnings.simplefilter("ignore")
            waveform = self._torch.from_numpy(np.asarray(audio, np.float32))[None]
            with self._torch.inference_mode():
                found = self._pipeline(
                    {"waveform": waveform, "sample_rate": RATE_HZ},
                    min_speakers=1,
                    max_speakers=parties,
                )
        return [found]


def _turns(annotation: Any, heard: Sequence[Span], numbers: dict[str, int]) -> Iterator[Turn]:
    for segment, _, label in annotation.itertracks(yield_label=True):
        number = numbers.setdefault(label, len(numbers))
        span = Span(round(segment.start * 1000), round(segment.end * 1000))
        for part in heard:
            for start_ms, end_ms in within([part], span):
                yield Turn(number, start_ms, end_ms)


def _loaded(kind: Any, name: str, folder: Path, hub_timeout_s: float) -> Any:
    def load() -> Any:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):  # it prints what it raises
            warnings.simplefilter("ignore")
            return kind.from_pretrained(name)

    if folder.is_dir():
        try:
            return load()
        except Exception as error:  # whatever of its parts is wrong
            raise ValueError(
                f"transcribe.diarizer_model={name!r} is no pyannote pipeline "
                f"({first_line(error)}); copy its whole folder, or unset it"
            ) from error
    if (why := silent_hub(hub_timeout_s)) is not None and _cached(name) is None:
        raise Transient(
            "model_missing",
            f"transcribe.diarizer_model={name!r} is neither a folder nor in the cache, and {why}; "
            f"{_MEND}",
        )
    try:
        made = load()
    except Exception as error:
        raise Transient(
            "model_missing",
            f"transcribe.diarizer_model={name!r} cannot be had ({first_line(error)}); {_MEND}",
        ) from error
    if made is None:  # how it says that the hub refuses
        raise Transient(
            "model_missing", f"transcribe.diarizer_model={name!r} is refused by the hub; {_MEND}"
        )
    return made


def _cached(name: str) -> Path | None:
    """Where the hub's cache holds the pipeline of that name."""
    hub = importlib.import_module("huggingface_hub")
    found = hub.try_to_load_from_cache(name, "config.yaml")
    return Path(found).parent if isinstance(found, str) else None


def _revision(name: str, folder: Path) -> str:
    """A hash of the files of a folder, the hub's revision of what is named."""
    if not folder.is_dir():
        cached = _cached(name)
        return "" if cached is None else f" {cached.name[:12]}"
    files = [path for path in folder.rglob("*") if path.is_file()]
    return f" sha256:{files_hash(folder, files)[:12]}"
