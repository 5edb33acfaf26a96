"""Seconds of the whole path over seconds of the bare engine on the same recordings.

    python -m benchmarks.path [--rounds 2] [--clips 12] [--minutes 5]

Bare: decode, voice detection, engine, file after file, in this process. Whole: the same files
submitted to the embedded suite (every stage in threads of this process, SQLite log, objects in a
folder, chDB) until the last row is in; starting it is not counted, handing in the files is. The
two take turns. The recordings are the English samples, cut into clips of 10 s and strung together
into a call; PocketSphinx listens, at its full cost, and the result cache is off.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from services.assembly import STAGES, project_root
from services.ingest.entrances import call_ended_for
from services.ingest.handler import upload
from services.runtime.audio import decode
from services.runtime.observe import configure_logs
from services.serve import Running, embedded
from services.settings import Settings, load
from services.transcribe.choice import choose
from services.transcribe.engine import Asked
from services.transcribe.vad import Vad

RATE_HZ = 16_000


def speech(samples: Path) -> NDArray[np.float32]:
    """The two-channel English samples one after the other: shape (2, frames), 16 kHz."""
    parts = []
    for described in sorted((samples / "audio").glob("*.json")):
        told = json.loads(described.read_text("utf-8"))
        if told["language"] == "en" and told["channels"] == 2:
            parts.append(decode(samples / "audio" / told["file"]))
    return np.concatenate(parts, axis=1)


def write(path: Path, channels: NDArray[np.float32]) -> Path:
    soundfile.write(path, channels.T, RATE_HZ, subtype="PCM_16")
    return path


def recordings(folder: Path, clips: int, minutes: float) -> dict[str, list[Path]]:
    """The two sets of recordings, made in `folder`."""
    spoken = speech(project_root() / "samples")
    ten = 10 * RATE_HZ
    short = [
        write(folder / f"clip-{n}.wav", np.roll(spoken, -n * ten, axis=1)[:, :ten])
        for n in range(clips)
    ]
    frames = int(minutes * 60 * RATE_HZ)
    times = -(-frames // spoken.shape[1])
    long = write(folder / "long.wav", np.tile(spoken, (1, times))[:, :frames])
    return {"10 s clips": short, f"call of {minutes:g} min": [long]}


def bare(settings: Settings, files: Sequence[Path]) -> float:
    """Seconds of decoding, voice detection and recognition alone."""
    engine, vad = choose(settings.transcribe).engine, Vad()
    began = time.perf_counter()
    for path in files:
        for channel in decode(path):
            spans = vad.speech(channel, settings.transcribe.vad).padded
            engine.transcribe(channel, spans, Asked(hints=("en",)))
    return time.perf_counter() - began


def whole(settings: Settings, files: Sequence[Path]) -> float:
    """Seconds from the first file handed in to the last row stored."""
    with embedded(settings) as running:
        while set(running.parts.observer.readiness()) != set(STAGES):
            _fail_early(running)
            time.sleep(0.01)
        began = time.perf_counter()
        log = running.parts.log()
        for path in files:
            uri = upload(running.parts.objects, "bench", path)
            metadata = {"language": "en", "channel_roles": ["agent", "customer"]}
            call = call_ended_for(path, tenant_id="bench", metadata=metadata, uri=uri)
            running.parts.publish(log, call)
        while any(running.parts.lags().values()):
            _fail_early(running)
            time.sleep(0.05)
        spent = time.perf_counter() - began
        log.close()
        stored = running.parts.warehouse.query("SELECT count() FROM current_enriched").rows[0][0]
        if stored != len(files):
            raise RuntimeError(f"{stored} of {len(files)} calls came through")
    return spent


def _fail_early(running: Running) -> None:
    for name, error in running.failed.items():
        raise RuntimeError(f"{name} ended") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--minutes", type=float, default=5)
    options = parser.parse_args()
    os.environ["CALLSTREAM_TRANSCRIBE__ENGINE"] = "pocketsphinx"
    os.environ["CALLSTREAM_TRANSCRIBE__CACHE"] = "false"
    configure_logs("ERROR")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for what, files in recordings(folder, options.clips, options.minutes).items():
            pairs = []
            for number in range(options.rounds):
                settings = load(data_dir=folder / f"{what.replace(' ', '-')}-{number}")
                pairs.append((bare(settings, files), whole(settings, files)))
            ratios = [over / under for under, over in pairs]
            seconds = statistics.median(under for under, _ in pairs)
            print(
                f"{what} ({len(files)}): whole path / bare engine = "
                f"{statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f}, "
                f"{options.rounds} rounds; bare {seconds:.1f} s)"
            )


if __name__ == "__main__":
    main()
