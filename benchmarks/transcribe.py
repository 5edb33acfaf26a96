"""Calls per second of shared batches over WhisperX called for one file after another.

    python -m benchmarks.transcribe [--calls 200] [--blocks 5] [--shape tiny] [--batch 8]
        [--workers 2] [--shortest 30] [--longest 300] [--tokens 100] [--beam 1] [--device cpu]
        [--ways whisperx shared words]

WhisperX needs the extra `transcribe`; `--ways shared words` does without. All hear the same
recordings (8 kHz mono FLAC of joined samples, 30 s to 5 min) with the same Whisper: of the shape
asked for, random weights, int8 on a CPU and float16 on a GPU, greedy, always so many tokens a
window, language given. Random weights cost what trained ones cost, and tell nothing of accuracy.
WhisperX reads the file through our decoder, which is quicker than the program it would start, finds
speech with the detector in its wheel and transcribes; no alignment. Ours goes from file to
segments: decoding, voice detection, windows, batches. It is run without word times, as WhisperX is,
and once more with those from Whisper's attention. Blocks of calls take turns. What the shares of
time add up to can exceed 1: workers decode, detect and compute features beside the device.

On a machine with a GPU, from the checkout with the extras `transcribe` and `dev`:

    python -m benchmarks.transcribe --device cuda --shape large-v3-turbo --batch 16 --workers 16

prints also how busy the GPU was and the most of its memory in use, as nvidia-smi tells of the whole
GPU: let nothing else run there. A process keeps the memory it once took, so what one way needs is
told by a run of it alone (`--ways shared`). `--batch 32` and so on show what more at once is worth;
`--calls 64 --blocks 2` is the shortest run that fills 16 workers.
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

WAYS = {"whisperx": "whisperx", "shared": "shared", "words": "shared, words"}
"""What is timed, as it is asked for and as it is told."""
PARTS = ("decoding", "voice detection", "features", "waiting for Whisper")


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


@dataclass
class Features:
    """Whisper's mel features, timed."""

    make: Callable[..., Any]
    shares: Shares = field(default_factory=Shares)

    def __call__(self, *audio: Any, **options: Any) -> Any:
        with self.shares.of("features"):
            return self.make(*audio, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.make, name)


def ours(
    whisper: Whisper, vad: Vad, paths: Sequence[Path], workers: int, shares: Shares
) -> list[Heard]:
    """Every file heard, several at once."""

    def one(path: Path) -> Heard:
        with shares.of("decoding"):
            audio = decode(path)[0]
        with shares.of("voice detection"):
            spans = vad.speech(audio, VadSettings()).padded
        with shares.of("Whisper"):
            return whisper.transcribe(audio, spans, Asked(language="en"))

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, paths))


def whisperx(pipeline: Any, paths: Sequence[Path], batch: int) -> list[dict[str, Any]]:
    return [pipeline.transcribe(decode(path)[0], batch_size=batch, language="en") for path in paths]


class Gpu:
    """Load and memory of the GPU, five times a second; nothing on a CPU."""

    def __init__(self, device: str) -> None:
        self.samples: list[tuple[float, int, int]] = []
        """When, percent of the time that it was busy, MiB in use."""
        self._asked: subprocess.Popen[str] | None = None
        if device == "cuda":
            first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
            self._asked = subprocess.Popen(
                ["nvidia-smi", f"--id={first}", "--query-gpu=utilization.gpu,memory.used",
                 "--format=csv,noheader,nounits", "--loop-ms=200"],
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            self._reader = threading.Thread(target=self._read, args=(self._asked,), daemon=True)
            self._reader.start()

    def _read(self, asked: subprocess.Popen[str]) -> None:
        assert asked.stdout is not None
        for line in asked.stdout:
            busy, mib = (int(it) if it.strip().isdecimal() else 0 for it in line.split(","))
            self.samples.append((time.perf_counter(), busy, mib))

    def told(self, spans: Sequence[tuple[float, float]]) -> str:
        """How busy it was, and the most memory in use, within `spans`; empty on a CPU."""
        within = [it for it in self.samples if any(a <= it[0] <= b for a, b in spans)]
        if not within:
            return ""
        busy = statistics.mean(it[1] for it in within)
        peak = max(it[2] for it in within)
        return f"; GPU busy {busy:.0f}% of the time, {peak} MiB at most ({len(within)} looks)"

    def close(self) -> None:
        if self._asked is not None:
            self._asked.terminate()
            self._reader.join()
            self._asked.communicate()


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    began = time.perf_counter()
    work()
    return began, time.perf_counter()


def report(name: str, calls: int, audio_s: float, spans: Sequence[tuple[float, float]]) -> str:
    whole = sum(b - a for a, b in spans)
    return (
        f"{name}: {calls / whole:.3f} calls per second, {audio_s / whole:.1f} s of audio per second"
    )


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
    parser.add_argument("--beam", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    options = parser.parse_args()
    compute_type = "int8" if options.device == "cpu" else "float16"
    os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory() as name:
        folder = build(Path(name) / "model", shape=SHAPES[options.shape], ends=False)
        paths = recordings(Path(name), options.calls, options.shortest, options.longest)
        audio_s = sum(soundfile.info(path).duration for path in paths)
        print(
            f"{len(paths)} calls, {audio_s / 3600:.2f} h of audio; Whisper {options.shape}, "
            f"{compute_type}, batch {options.batch}, {options.workers} workers, "
            f"beam {options.beam}",
            flush=True,
        )
        loading = {"device": options.device, "compute_type": compute_type}
        runs: dict[str, Callable[[Sequence[Path]], Any]] = {}
        if "whisperx" in options.ways:
            pipeline = importlib.import_module("whisperx").load_model(
                str(folder), vad_method="pyannote", language="en", threads=os.cpu_count() or 1,
                asr_options={"beam_size": options.beam}, local_files_only=True, **loading,
            )  # fmt: skip
            pipeline.model.max_length = options.tokens
            runs["whisperx"] = partial(whisperx, pipeline, batch=options.batch)
        shares: dict[str, Shares] = {}
        whispers: dict[str, Whisper] = {}
        if {"shared", "words"} & set(options.ways):
            model = faster_whisper.WhisperModel(str(folder), local_files_only=True, **loading)
            model.max_length = options.tokens
            model.feature_extractor = features = Features(model.feature_extractor)
            vad = Vad()
            for way, aligner in (("shared", NoWords()), ("words", None)):
                if way in options.ways:
                    shares[way] = Shares()
                    whispers[way] = Whisper(
                        model, beam_size=options.beam, batch_size=options.batch, aligner=aligner
                    )

            def shared(way: str, block: Sequence[Path]) -> None:
                features.shares = shares[way]
                ours(whispers[way], vad, block, options.workers, shares[way])

            runs |= {way: partial(shared, way) for way in whispers}
        for way, run in runs.items():
            run(paths[:1])
            shares[way] = Shares()
        before = {way: whisper.usage for way, whisper in whispers.items()}
        spans: dict[str, list[tuple[float, float]]] = {way: [] for way in runs}
        gpu = Gpu(options.device)
        size = -(-len(paths) // options.blocks)
        for number, at in enumerate(range(0, len(paths), size)):
            block = paths[at : at + size]
            for way in runs if number % 2 == 0 else reversed(runs):
                spans[way].append(timed(partial(runs[way], block)))
            told = ", ".join(f"{WAYS[way]} {b - a:.1f} s" for way in runs
                             for a, b in spans[way][-1:])  # fmt: skip
            print(f"  block {number + 1}, {len(block)} calls: {told}", flush=True)
        gpu.close()
        for way in runs:
            line = report(WAYS[way], len(paths), audio_s, spans[way])
            if way in whispers and "whisperx" in runs:
                ratios = [
                    (b - a) / (d - c)
                    for (a, b), (c, d) in zip(spans["whisperx"], spans[way], strict=True)
                ]
                line += (
                    f"; over whisperx {statistics.median(ratios):.2f} "
                    f"({min(ratios):.2f} to {max(ratios):.2f})"
                )
            print(line + gpu.told(spans[way]))
        for way, whisper in whispers.items():
            whole = sum(b - a for a, b in spans[way])
            usage = whisper.usage
            windows = usage.items - before[way].items
            batches = usage.batches - before[way].batches
            busy = (usage.busy_s - before[way].busy_s) / whole
            parts = shares[way].seconds
            parts["waiting for Whisper"] = parts.pop("Whisper") - parts["features"]
            print(
                f"{WAYS[way]}: device busy {busy:.0%} of the time, {windows} windows in {batches} "
                f"batches ({windows / max(1, batches):.1f} each), "
                f"{usage.out_of_memory} out of memory; "
                + ", ".join(f"{part} {parts[part] / whole:.0%}" for part in PARTS)
                + f" of the time, summed over {options.workers} workers"
            )


if __name__ == "__main__":
    main()
