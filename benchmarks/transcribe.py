"""Calls per second of shared batches over WhisperX called for one file after another.

    python -m benchmarks.transcribe [--calls 200] [--blocks 5] [--shape tiny] [--batch 8]
        [--workers 2] [--shortest 30] [--longest 300] [--tokens 100] [--device cpu]

Needs the extra `transcribe`. Both hear the same recordings (8 kHz mono FLAC of joined samples, 30 s
to 5 min) with the same Whisper: of the shape asked for, random weights, int8 on a CPU and float16
on a GPU, greedy, always so many tokens a window, language given. Random weights cost what trained
ones cost, and tell nothing of accuracy. WhisperX reads the file through our decoder, which is
quicker than the program it would start, finds speech with the detector in its wheel and
transcribes; no alignment. Ours goes from file to segments: decoding, voice detection, windows,
batches. It is run without word times, as WhisperX is, and once more with those from Whisper's
attention. Blocks of calls take turns. With a GPU, add `--device cuda --shape large-v3-turbo
--batch 32 --workers 16`: peak memory is printed too.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import faster_whisper
import numpy as np
import soundfile

from services.assembly import project_root
from services.runtime.audio import decode
from services.transcribe.engine import Asked, Heard, Samples
from services.transcribe.settings import VadSettings
from services.transcribe.vad import Vad
from services.transcribe.whisper import PlacedWord, Whisper
from tests.transcribe.whisper_model import SHAPES, build


class NoWords:
    """An aligner that places none: what is left is Whisper's text alone."""

    def knows(self, language: str) -> bool:
        return True

    def align(self, samples: Samples, text: str, language: str) -> Sequence[PlacedWord]:
        return ()


def recordings(folder: Path, count: int, shortest_s: float, longest_s: float) -> list[Path]:
    """Mono 8 kHz files of speech with its pauses, lengths drawn evenly; the same every time."""
    drawn = random.Random(20_261_128)
    spoken = [
        decode(path).mean(axis=0)[::2]
        for path in sorted((project_root() / "samples" / "audio").iterdir())
        if path.suffix in (".flac", ".wav")
    ]
    paths = []
    for number in range(count):
        size = int(drawn.uniform(shortest_s, longest_s) * 8_000)
        parts: list[Any] = []
        while sum(part.size for part in parts) < size:
            parts.append(drawn.choice(spoken))
        path = folder / f"call-{number:03}.flac"
        soundfile.write(path, np.concatenate(parts)[:size], 8_000)
        paths.append(path)
    return paths


@dataclass
class Shares:
    """Seconds that parts of the work took, summed over threads."""

    seconds: dict[str, float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        with self.lock:
            spent = time.perf_counter() - began
            self.seconds[part] = self.seconds.get(part, 0.0) + spent


def ours(
    whisper: Whisper, vad: Vad, paths: Sequence[Path], workers: int, shares: Shares
) -> list[Heard]:
    """Every file heard, several at once."""

    def one(path: Path) -> Heard:
        with shares.of("decoding"):
            audio = decode(path)[0]
        with shares.of("voice detection"):
            spans = vad.speech(audio, VadSettings()).padded
        with shares.of("waiting for Whisper, features included"):
            return whisper.transcribe(audio, spans, Asked(language="en"))

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, paths))


def whisperx(pipeline: Any, paths: Sequence[Path], batch: int) -> list[dict[str, Any]]:
    return [pipeline.transcribe(decode(path)[0], batch_size=batch, language="en") for path in paths]


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Gpu:
    """Looks at the GPU's memory twice a second; nothing on a CPU."""

    def __init__(self, device: str) -> None:
        self.peak_mib = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        if device == "cuda":
            self._thread.start()

    def _look(self) -> None:
        asked = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while not self._stop.wait(0.5):
            told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
            self.peak_mib = max(self.peak_mib, int(told.split()[0]))

    def close(self) -> int:
        self._stop.set()
        return self.peak_mib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="tiny")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shortest", type=float, default=30.0)
    parser.add_argument("--longest", type=float, default=300.0)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    compute_type = "int8" if options.device == "cpu" else "float16"
    os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory() as name:
        folder = build(Path(name) / "model", shape=SHAPES[options.shape], ends=False)
        paths = recordings(Path(name), options.calls, options.shortest, options.longest)
        audio_s = sum(soundfile.info(path).duration for path in paths)
        print(
            f"{len(paths)} calls, {audio_s / 3600:.2f} h of audio; Whisper {options.shape}, "
            f"{compute_type}, batch {options.batch}, {options.workers} workers",
            flush=True,
        )
        loading = {"device": options.device, "compute_type": compute_type}
        pipeline = importlib.import_module("whisperx").load_model(
            str(folder), vad_method="pyannote", language="en", threads=os.cpu_count() or 1,
            asr_options={"beam_size": 1}, local_files_only=True, **loading,
        )  # fmt: skip
        model = faster_whisper.WhisperModel(str(folder), local_files_only=True, **loading)
        for each in (model, pipeline.model):
            each.max_length = options.tokens
        sharing = Whisper(model, beam_size=1, batch_size=options.batch, aligner=NoWords())
        placing = Whisper(model, beam_size=1, batch_size=options.batch)
        vad = Vad()
        for warm in (lambda: whisperx(pipeline, paths[:1], options.batch),
                     lambda: ours(placing, vad, paths[:1], 1, Shares())):  # fmt: skip
            warm()
        ways: dict[str, list[float]] = {"whisperx": [], "shared": [], "shared, words": []}
        shares, before, gpu = Shares(), sharing.usage, Gpu(options.device)
        size = -(-len(paths) // options.blocks)
        for number, at in enumerate(range(0, len(paths), size)):
            block = paths[at : at + size]
            runs: dict[str, Callable[[], Any]] = {
                "whisperx": partial(whisperx, pipeline, block, options.batch),
                "shared": partial(ours, sharing, vad, block, options.workers, shares),
                "shared, words": partial(ours, placing, vad, block, options.workers, Shares()),
            }
            for way in runs if number % 2 == 0 else reversed(runs):
                ways[way].append(timed(runs[way]))
            told = ", ".join(f"{way} {ways[way][-1]:.1f} s" for way in ways)
            print(f"  block {number + 1}, {len(block)} calls: {told}", flush=True)
        peak = gpu.close()
        print(
            f"whisperx: {len(paths) / sum(ways['whisperx']):.3f} calls per second, "
            f"{audio_s / sum(ways['whisperx']):.1f} s of audio per second"
        )
        for way in ("shared", "shared, words"):
            ratios = [a / b for a, b in zip(ways["whisperx"], ways[way], strict=True)]
            print(
                f"{way}: {len(paths) / sum(ways[way]):.3f} calls per second, "
                f"{audio_s / sum(ways[way]):.1f} s of audio per second; over whisperx "
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            )
        whole = sum(ways["shared"])
        usage = sharing.usage
        busy = usage.busy_s - before.busy_s
        windows, batches = usage.items - before.items, usage.batches - before.batches
        print(
            f"shared: device busy {busy / whole:.0%} of the time, {windows} windows in {batches} "
            f"batches ({windows / max(1, batches):.1f} each); "
            + ", ".join(f"{part} {s / whole:.0%}" for part, s in shares.seconds.items())
            + f" of the time, summed over {options.workers} workers"
        )
        if peak:
            print(f"peak memory of the GPU, all of it: {peak} MiB")


if __name__ == "__main__":
    main()
