"""Turns from a pyannote pipeline, by name on the hub or from a folder; its only importer."""

from __future__ import annotations

import importlib
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, redirect_stdout
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from services.runtime.errors import Transient
from services.runtime.libraries import (
    files_hash,
    first_line,
    library,
    silent_hub,
    torch_device,
)
from services.transcribe.batches import Batches, OutOfMemory
from services.transcribe.diarizer import Turn, Turns, arranged
from services.transcribe.engine import RATE_HZ, Samples
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
# What warnings are heard is a matter of the whole process.
_QUIET = threading.RLock()


class PyannoteDiarizer:
    """Parts voices with a pipeline of pyannote.audio 4: of one live call and one replay at a time.

    What its models hear at once, a few seconds of audio, is one item for the device: a live call
    waits for no more of a replay than that.

    The audio is not copied, but what pyannote makes of it grows with its length, and what it
    clusters with the square of it: `diarizer_longest_s` bounds that.
    """

    def __init__(self, settings: TranscribeSettings) -> None:
        """Loads the pipeline that `settings` name; blocks for seconds.

        Raises ValueError where pyannote is not installed or the pipeline cannot be used, Transient
        where it is not in the cache and cannot be fetched now.
        """
        name = settings.diarizer_model or MODEL
        pipelines = library("pyannote.audio", "transcribe.diarizer=pyannote")
        self._torch = library("torch", "transcribe.diarizer=pyannote")
        device = torch_device(self._torch, settings.device)
        folder = Path(name)
        if folder.is_absolute() and not (folder / "config.yaml").is_file():
            raise ValueError(
                f"transcribe.diarizer_model={name!r} holds no config.yaml; copy the whole folder "
                "of a pyannote pipeline, or unset it"
            )
        self._pipeline = _loaded(pipelines.Pipeline, name, folder, settings.hub_timeout_s)
        self._pipeline.to(self._torch.device(device))
        self._shares: Batches[Callable[[], Any], Any] = Batches(self._run, 1)
        self._calling = threading.local()
        self._turn = {False: threading.Lock(), True: threading.Lock()}
        self._part: Callable[[Samples, int | None], Any] = self._parted
        if not self._shares_models():  # it is not one of those that are known
            self._part = self._shared(self._parted)
        self._longest_s = settings.diarizer_longest_s
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
        """As `Diarizer.diarize`; there are no more speakers than `parties`, and may be fewer.

        Raises ValueError where the audio is longer than the settings allow.
        """
        if not speech:
            return Turns()
        if audio.size > self._longest_s * RATE_HZ:
            raise ValueError(
                f"{audio.size / RATE_HZ:.0f} s are more than "
                f"transcribe.diarizer_longest_s={self._longest_s:g}, as its memory grows with the "
                "square of the length; transcribe.diarizer=resemblyzer parts any length"
            )
        with self._turn[replay]:
            self._calling.replay = replay
            found = self._part(audio, parties)
        heard = joined(Span(it.start_ms - _MARGIN_MS, it.end_ms + _MARGIN_MS) for it in speech)
        heard = within(heard, Span(0, audio.size * 1000 // RATE_HZ))
        numbers: dict[str, int] = {}
        return arranged(
            _turns(found.speaker_diarization, heard, numbers),
            _turns(found.exclusive_speaker_diarization, heard, numbers),
        )

    def _parted(self, audio: Samples, parties: int | None) -> Any:
        with _QUIET, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that samples mapped from a file cannot be written
            waveform = self._torch.from_numpy(np.asarray(audio, np.float32))[None]
        with self._torch.inference_mode():
            return self._pipeline(
                {"waveform": waveform, "sample_rate": RATE_HZ}, min_speakers=1, max_speakers=parties
            )

    def _shares_models(self) -> bool:
        """Whether the pipeline's models are, by now, run as items for the device."""
        ear: Any = getattr(self._pipeline, "_segmentation", None)
        voices: Any = getattr(self._pipeline, "_embedding", None)
        if not hasattr(ear, "infer") or not callable(voices):
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            getattr(voices, "min_num_samples", None)  # found once, by trial, with the model
        ear.infer = self._shared(ear.infer)
        self._pipeline._embedding = _Shared(voices, self._shared(voices))
        return True

    def _shared(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """`run`, on the device when it is the calling thread's turn."""

        def shared(*given: Any, **named: Any) -> Any:
            item = partial(run, *given, **named)
            with closing(self._shares.each([item], replay=self._calling.replay)) as answers:
                (answer,) = answers
            return answer

        return shared

    def _run(self, given: Sequence[Callable[[], Any]]) -> list[Any]:
        (run,) = given
        with _QUIET, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the statistics of short stretches
            try:
                return [run()]
            except MemoryError as error:  # how it says that the device has no room
                raise OutOfMemory(first_line(error)) from None


class _Shared:
    """A model that is run elsewhere, and else is what it is."""

    def __init__(self, model: Any, run: Callable[..., Any]) -> None:
        self._model, self._run = model, run

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self._run(*given, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


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
