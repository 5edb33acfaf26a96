"""Whisper through CTranslate2. The only importer of faster_whisper, ctranslate2 and the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from importlib.metadata import version
from itertools import groupby, pairwise
from pathlib import Path
from threading import Lock
from typing import Any

import ctranslate2
import faster_whisper
import httpx
import numpy as np
from faster_whisper.utils import download_model
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from schemas.events import Engine as Identity
from services.runtime.errors import Transient
from services.transcribe.engine import (
    RATE_HZ,
    UNDETERMINED,
    Heard,
    HeardSegment,
    HeardWord,
    Samples,
)
from services.transcribe.settings import TranscribeSettings
from services.transcribe.spans import Span

# Whisper hears 30 s at a time. Neighbouring stretches of speech share such a window, unless more
# silence than this lies between them: Whisper invents text on silence.
_WINDOW_MS = 30_000
_GAP_MS = 2_000
# The language is told of windows with this much speech; shorter ones take their predecessor's.
_TELLING_MS = 2_000
# The likelier hint is believed from the first probability, or where no other language reaches the
# second.
_HINTED, _SURE = 0.2, 0.8


class FasterWhisperEngine:
    """A Whisper model on one device; `beam_size` 1 is greedy.

    Decoding has no temperature fallback (it would draw at random), no conditioning on earlier
    text (it spreads loops) and no no-speech cut: what may be invented is left to be flagged.
    """

    def __init__(self, folder: Path, settings: TranscribeSettings) -> None:
        """Loads the model in `folder`; blocks for seconds. Raises ValueError where it cannot be."""
        device = settings.device
        if device == "auto":
            device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        compute_type = settings.compute_type
        if compute_type == "auto":
            compute_type = "float16" if device == "cuda" else "int8"
        if not (folder / "tokenizer.json").is_file():
            raise ValueError(
                f"transcribe.model_dir={str(folder)!r} holds no tokenizer.json; "
                "copy the whole model folder"
            )
        try:
            self._model: Any = faster_whisper.WhisperModel(
                str(folder),
                device=device,
                compute_type=compute_type,
                cpu_threads=settings.cpu_threads,
                local_files_only=True,
            )
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"the Whisper model in {str(folder)!r} cannot be loaded with "
                f"transcribe.device={device!r}, transcribe.compute_type={compute_type!r}: {error}"
            ) from error
        self._beam_size = settings.beam_size
        self._batch_size = settings.batch_size
        self._multilingual = bool(self._model.model.is_multilingual)
        # The library lists languages that older models have no token for.
        self.languages: Collection[str] | None = frozenset(
            tag
            for tag in self._model.supported_languages
            if not self._multilingual or self._model.hf_tokenizer.token_to_id(f"<|{tag}|>")
        )
        self._lock = Lock()
        self.identity = Identity(
            name="faster-whisper",
            version=f"{version('faster-whisper')} (ctranslate2 {version('ctranslate2')})",
            model=folder.name if settings.model_dir is not None else settings.model,
            model_revision=_revision(folder),
            device=device,
            options={
                "compute_type": compute_type,
                "beam_size": str(settings.beam_size),
                "batch_size": str(settings.batch_size),
                "window_gap_ms": str(_GAP_MS),
            },
        )

    def transcribe(
        self,
        audio: Samples,
        spans: Sequence[Span],
        language: str | None = None,
        hints: Sequence[str] = (),
    ) -> Heard:
        found: list[HeardSegment] = []
        votes: list[tuple[str, float | None, int]] = []
        with self._lock:
            told = self._languages(audio, list(_windows(spans)), language, hints)
            for tag, group in groupby(told, key=lambda window: window[1]):
                windows = list(group)
                votes += [
                    (tag, sure, sum(s.length_ms for s in inside)) for inside, _, sure in windows
                ]
                # In groups, so that the features of a long call are never all in memory.
                for at in range(0, len(windows), self._batch_size):
                    batch = [inside for inside, _, _ in windows[at : at + self._batch_size]]
                    found += self._decoded(audio, batch, tag)
        return Heard(segments=tuple(found), **_most(votes))

    def _languages(
        self,
        audio: Samples,
        windows: list[list[Span]],
        language: str | None,
        hints: Sequence[str],
    ) -> list[tuple[list[Span], str, float | None]]:
        """Each window with its language and how sure that is (None where it was given)."""
        if language is not None or not self._multilingual:
            return [(window, language or "en", None) for window in windows]
        told: list[tuple[list[Span], str, float | None]] = []
        last: tuple[str, float | None] | None = None
        for window in windows:
            if last is None or sum(span.length_ms for span in window) >= _TELLING_MS:
                samples = _cut(audio, Span(window[0].start_ms, window[-1].end_ms))
                _, _, probabilities = self._model.detect_language(audio=samples)
                last = _likeliest(dict(probabilities), hints)
            told.append((window, *last))
        return told

    def _decoded(
        self, audio: Samples, windows: Sequence[Sequence[Span]], language: str
    ) -> Iterator[HeardSegment]:
        # The windows alone are handed over: what lies between them is not listened to.
        pieces = [_cut(audio, Span(w[0].start_ms, w[-1].end_ms)) for w in windows]
        starts = np.cumsum([0, *(piece.size for piece in pieces)])
        # A pipeline remembers where speech last ended: a new one each time.
        pipeline = faster_whisper.BatchedInferencePipeline(self._model)
        segments, _ = pipeline.transcribe(
            np.concatenate(pieces),
            language=language,
            clip_timestamps=[
                {"start": float(first) / RATE_HZ, "end": float(last) / RATE_HZ}
                for first, last in pairwise(starts)
            ],
            batch_size=self._batch_size,
            beam_size=self._beam_size,
            temperature=0.0,
            condition_on_previous_text=False,
            no_speech_threshold=None,
            without_timestamps=True,
            word_timestamps=True,
        )
        for segment in segments:
            # `seek` is the frame (10 ms) at which the segment's window starts, give or take one.
            number = int(np.searchsorted(starts[:-1] / (RATE_HZ / 100), segment.seek + 2)) - 1
            window = windows[number]
            shift = window[0].start_ms - round(float(starts[number]) * 1000 / RATE_HZ)
            yield from _split(segment, window, shift, language)


def locate(settings: TranscribeSettings) -> tuple[Path, str]:
    """The folder of the model that `settings` name, and in words where it was found.

    A model that is not in the cache is fetched, unless HF_HUB_OFFLINE is set; a hub that does not
    answer within `hub_timeout_s` is given up on. Raises ValueError for a wrong setting and
    Transient where the model cannot be had now.
    """
    if settings.model_dir is not None:
        if not (settings.model_dir / "model.bin").is_file():
            raise ValueError(
                f"transcribe.model_dir={str(settings.model_dir)!r} holds no model.bin; "
                "name the folder of a CTranslate2 Whisper model, or unset it"
            )
        return settings.model_dir, "transcribe.model_dir is set"
    name = settings.model
    if "/" not in name and name not in faster_whisper.available_models():
        raise ValueError(
            f"transcribe.model={name!r} is no Whisper model; one of "
            f"{', '.join(faster_whisper.available_models())}, or a hub id with '/'"
        )
    try:
        return Path(download_model(name, local_files_only=True)), "its model is in the cache"
    except (LocalEntryNotFoundError, OSError):
        pass
    mend = "set transcribe.model_dir to a folder that holds it, or let the hub be reached"
    if constants.HF_HUB_OFFLINE:
        raise Transient(
            "model_missing",
            f"transcribe.model={name!r} is not in the cache and HF_HUB_OFFLINE is set; {mend}",
        )
    try:
        # The hub's own client retries for minutes; one plain question bounds the wait.
        httpx.head(constants.ENDPOINT, timeout=settings.hub_timeout_s)
        return Path(download_model(name)), "its model was fetched from the hub"
    except (httpx.HTTPError, HfHubHTTPError, OSError) as error:
        raise Transient(
            "model_missing",
            f"transcribe.model={name!r} is not in the cache and the hub cannot be reached "
            f"({type(error).__name__}); {mend}",
        ) from error


def _revision(folder: Path) -> str:
    """The hub's revision of a cached model, else a hash of the files that decide the result."""
    if folder.parent.name == "snapshots":
        return folder.name
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".bin", ".json", ".txt") and path.is_file():
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:32]}"


def _cut(audio: Samples, span: Span) -> Samples:
    return np.asarray(
        audio[span.start_ms * RATE_HZ // 1000 : span.end_ms * RATE_HZ // 1000], np.float32
    )


def _windows(spans: Sequence[Span]) -> Iterator[list[Span]]:
    """Neighbouring spans that fit a window together; a span longer than one is divided."""
    window: list[Span] = []
    for span in spans:
        pieces = -(-span.length_ms // _WINDOW_MS)
        for number in range(pieces):
            piece = Span(
                span.start_ms + span.length_ms * number // pieces,
                span.start_ms + span.length_ms * (number + 1) // pieces,
            )
            if window and (
                piece.end_ms - window[0].start_ms > _WINDOW_MS
                or piece.start_ms - window[-1].end_ms > _GAP_MS
            ):
                yield window
                window = []
            window.append(piece)
    if window:
        yield window


def _likeliest(probabilities: dict[str, float], hints: Sequence[str]) -> tuple[str, float]:
    """The language of a window: the likelier hint, unless that is unlikely and another sure."""
    best = max(probabilities, key=lambda tag: probabilities[tag])
    hinted = [tag for tag in hints if tag in probabilities]
    if hinted:
        hint = max(hinted, key=lambda tag: probabilities[tag])
        if probabilities[hint] >= _HINTED or probabilities[best] < _SURE:
            best = hint
    return best, round(probabilities[best], 4)


def _most(votes: Sequence[tuple[str, float | None, int]]) -> dict[str, Any]:
    """The language with most speech, and the mean certainty of it."""
    if not votes:
        return {"language": UNDETERMINED, "language_confidence": None}
    spoken: dict[str, int] = {}
    for tag, _, length in votes:
        spoken[tag] = spoken.get(tag, 0) + length
    language = max(spoken, key=lambda tag: spoken[tag])
    sure = [(certainty, ms) for tag, certainty, ms in votes if tag == language]
    weighed = [(certainty, ms) for certainty, ms in sure if certainty is not None and ms > 0]
    total = sum(ms for _, ms in weighed)
    confidence = sum(certainty * ms for certainty, ms in weighed) / total if total else None
    return {
        "language": language,
        "language_confidence": None if confidence is None else round(confidence, 4),
    }


def _split(
    segment: Any, window: Sequence[Span], shift_ms: int, language: str
) -> Iterator[HeardSegment]:
    """One segment per stretch of speech in `window`: Whisper gives one for all of it."""

    def made(text: str, span: Span, words: tuple[HeardWord, ...] | None) -> Iterator[HeardSegment]:
        if text.strip():
            known = [word.confidence for word in words or () if word.confidence is not None]
            yield HeardSegment(
                text=text.strip(),
                start_ms=span.start_ms,
                end_ms=span.end_ms,
                language=language,
                confidence=round(sum(known) / len(known), 4) if known else None,
                no_speech=round(float(segment.no_speech_prob), 4),
                logprob=round(min(0.0, float(segment.avg_logprob)), 4),
                words=words,
            )

    bounds = Span(window[0].start_ms, window[-1].end_ms)
    if not segment.words:
        yield from made(segment.text, bounds, None)
        return
    placed: list[list[tuple[str, HeardWord]]] = [[] for _ in window]
    number = 0
    for word in segment.words:
        start = round(word.start * 1000) + shift_ms
        end = round(word.end * 1000) + shift_ms
        start = min(max(start, bounds.start_ms), bounds.end_ms)
        end = min(max(end, start), bounds.end_ms)
        # A word belongs to the stretch nearest to its middle; words never go back.
        middle = (start + end) // 2
        while number + 1 < len(window) and middle - window[number].end_ms > max(
            0, window[number + 1].start_ms - middle
        ):
            number += 1
        placed[number].append(
            (
                word.word,
                HeardWord(
                    text=word.word.strip(),
                    start_ms=start,
                    end_ms=end,
                    confidence=round(min(1.0, max(0.0, float(word.probability))), 4),
                ),
            )
        )
    earliest = bounds.start_ms
    for entries in placed:
        if not entries:
            continue
        starts = [word.start_ms or 0 for _, word in entries]
        ends = [word.end_ms or 0 for _, word in entries]
        span = Span(max(earliest, min(starts)), max(earliest, *ends))
        earliest = span.start_ms
        yield from made(
            "".join(text for text, _ in entries), span, tuple(word for _, word in entries)
        )
