"""Where somebody speaks. The only importer of onnxruntime.

The model is Silero VAD v6, which lies inside the faster-whisper wheel: it reads 512 samples of
16 kHz audio at a time (32 ms) with the 64 before them, and gives the probability of speech.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]

from services.runtime.errors import Transient
from services.transcribe.engine import RATE_HZ, Samples
from services.transcribe.settings import VadSettings
from services.transcribe.spans import Span, within

FRAME = 512
FRAME_MS = FRAME * 1000 // RATE_HZ
_CONTEXT = 64
# Frames per run of the network: a minute, so that a long call needs no more memory.
_RUN = 1_875


class Vad:
    """Speech of one channel. Loads the model once; thread-safe."""

    def __init__(self) -> None:
        """Raises Transient when the model file cannot be found."""
        found = importlib.util.find_spec("faster_whisper")
        path = (
            Path(found.origin).parent / "assets" / "silero_vad_v6.onnx"
            if (found is not None and found.origin is not None)
            else None
        )
        if path is None or not path.is_file():
            raise Transient(
                "vad_missing",
                "silero_vad_v6.onnx is not in the faster-whisper package; "
                "install faster-whisper 1.2.1 or newer",
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Memory of a run is given back after it.
        options.enable_cpu_mem_arena = False
        self._session: Any = onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )

    def probabilities(self, audio: Samples) -> Samples:
        """The probability of speech, 0.0 to 1.0, of each 32 ms of 16 kHz mono `audio`."""
        if audio.size == 0:
            return np.zeros(0, np.float32)
        h = c = np.zeros((1, 1, 128), np.float32)
        heard: list[Samples] = []
        for start in range(0, audio.size, _RUN * FRAME):
            piece = audio[max(0, start - _CONTEXT) : start + _RUN * FRAME]
            before = _CONTEXT if start == 0 else 0
            after = -(piece.size - _CONTEXT + before) % FRAME
            padded = np.pad(piece, (before, after))
            windows = np.lib.stride_tricks.sliding_window_view(padded, FRAME + _CONTEXT)[::FRAME]
            batch = np.ascontiguousarray(windows)
            output, h, c = self._session.run(None, {"input": batch, "h": h, "c": c})
            heard.append(np.asarray(output, np.float32).reshape(-1))
        return np.concatenate(heard)

    def speech(self, audio: Samples, settings: VadSettings) -> Voiced:
        """Where a voice is heard in 16 kHz mono `audio`."""
        length_ms = audio.size * 1000 // RATE_HZ
        return stretches(self.probabilities(audio), length_ms, settings)


@dataclass(frozen=True, slots=True)
class Voiced:
    """`spans`: the voice itself; `padded`: the same with margins, for an engine. Both disjoint."""

    spans: Sequence[Span]
    padded: Sequence[Span]


def stretches(probabilities: Samples, length_ms: int, settings: VadSettings) -> Voiced:
    """The voice in audio of `length_ms` whose frames speak with these `probabilities`."""
    bounds = Span(0, length_ms)
    # With its margins a stretch is no longer than is asked for: an engine that hears so much at
    # once would part it anywhere. Margins that leave next to nothing are let pass.
    longest_ms = settings.max_speech_s * 1000
    longest_ms = max(longest_ms // 2, longest_ms - 2 * settings.pad_ms)
    voiced = [
        part
        for stretch in _hysteresis(probabilities, settings)
        for part in _divided(stretch, probabilities, longest_ms // FRAME_MS)
    ]
    spans = within((Span(a * FRAME_MS, b * FRAME_MS) for a, b in voiced), bounds)
    return Voiced(spans, _padded(spans, settings.pad_ms, bounds))


def _padded(spans: Sequence[Span], pad_ms: int, bounds: Span) -> list[Span]:
    """Each span with its margin; where two would meet, they share what lies between them."""
    result: list[Span] = []
    for number, span in enumerate(spans):
        before = spans[number - 1].end_ms if number else bounds.start_ms - pad_ms
        after = spans[number + 1].start_ms if number + 1 < len(spans) else bounds.end_ms + pad_ms
        start = max(span.start_ms - pad_ms, (before + span.start_ms + 1) // 2)
        end = min(span.end_ms + pad_ms, (span.end_ms + after) // 2)
        result += within([Span(start, end)], bounds)
    return result


def _divided(
    stretch: tuple[int, int], probabilities: Samples, longest: int
) -> Iterator[tuple[int, int]]:
    """`stretch` in parts of at most `longest` frames, parted where speech is least likely."""
    first, last = stretch
    while last - first > longest:
        earliest = first + longest // 2 + 1
        cut = earliest + int(np.argmin(probabilities[earliest : first + longest + 1]))
        yield first, cut
        first = cut
    yield first, last


def _hysteresis(probabilities: Samples, settings: VadSettings) -> list[tuple[int, int]]:
    """Frames of speech: it starts at `threshold`, and ends once below a lower one for a while."""
    release = max(settings.threshold - 0.15, 0.01)
    patience = max(1, settings.min_silence_ms // FRAME_MS)
    shortest = settings.min_speech_ms / FRAME_MS
    result: list[tuple[int, int]] = []
    start = quiet = -1
    for at, probability in enumerate(probabilities.tolist()):
        if start < 0:
            if probability >= settings.threshold:
                start, quiet = at, -1
        elif probability >= release:
            quiet = -1
        else:
            quiet = at if quiet < 0 else quiet
            if at - quiet + 1 >= patience:
                result.append((start, quiet))
                start = -1
    if start >= 0:
        result.append((start, quiet if quiet >= 0 else len(probabilities)))
    return [(a, b) for a, b in result if b - a >= shortest]
