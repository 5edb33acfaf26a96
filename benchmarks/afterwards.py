"""What a call costs beside Whisper: its words placed by wav2vec2, its voices parted.

    python -m benchmarks.afterwards [--calls 4] [--shortest 30] [--longest 300] [--device cpu]

Needs the extra `transcribe` and Resemblyzer's weights. The recordings are those of
`benchmarks.transcribe`. Words are placed as WhisperX places them, by a model of wav2vec2 base's
shape with random weights, which cost what trained ones cost and place nothing well: windows of up
to 30 s of speech, 15 letters a second. Voices are parted by the Resemblyzer diarizer, whose weights
are the real ones. Both run one at a time, with all threads that torch takes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.transcribe import recordings
from services.runtime.audio import decode
from services.transcribe.engine import RATE_HZ, Samples
from services.transcribe.resemblyzer_diarizer import ResemblyzerDiarizer
from services.transcribe.settings import VadSettings
from services.transcribe.spans import Span, windows
from services.transcribe.vad import Vad
from services.transcribe.whisperx_engine import WhisperXAligners
from tests.transcribe.extra import build_aligner

LETTERS_A_SECOND = 15
LONGEST_MS = 30_000


def text(length_ms: int) -> str:
    words = "so many letters are said in every second of a call "
    return (words * (1 + length_ms // 1000))[: max(1, LETTERS_A_SECOND * length_ms // 1000)]


def place(by: WhisperXAligners, audio: Samples, spans: Sequence[Span]) -> None:
    for (piece,) in windows(spans, LONGEST_MS, -1):
        part = audio[piece.start_ms * RATE_HZ // 1000 : piece.end_ms * RATE_HZ // 1000]
        assert by.align(part, text(piece.length_ms), "en")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=4)
    parser.add_argument("--shortest", type=float, default=30.0)
    parser.add_argument("--longest", type=float, default=300.0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = str(build_aligner(Path(name) / "wav2vec2", shape={}))
        aligners = WhisperXAligners(options.device, {"en": folder}, 1.0)
        parter, vad = ResemblyzerDiarizer(device=options.device), Vad()
        spent = {"words placed": 0.0, "voices parted": 0.0}
        audio_s = speech_s = 0.0
        paths = recordings(Path(name), options.calls, options.shortest, options.longest)
        for number, path in enumerate([paths[0], *paths]):
            audio = decode(path)[0]
            spans = vad.speech(audio, VadSettings()).padded

            began = time.perf_counter()
            place(aligners, audio, spans)
            placed = time.perf_counter()
            parter.diarize(audio, spans, 2)
            took = {"words placed": placed - began, "voices parted": time.perf_counter() - placed}
            if number:  # the first is heard twice: it loads what is loaded when it is needed
                audio_s += audio.size / RATE_HZ
                speech_s += sum(span.length_ms for span in spans) / 1000
                spent = {part: spent[part] + took[part] for part in spent}
        print(f"{len(paths)} calls, {audio_s:.0f} s, of which {speech_s:.0f} s of speech")
        for part, took_s in spent.items():
            print(f"{part}: {audio_s / took_s:.1f} s of audio per second")


if __name__ == "__main__":
    main()
