"""How well and how fast voices on one channel are parted.

    python -m benchmarks.diarize MANIFEST [--diarizer resemblyzer] [--model FOLDER] [--rounds 3]

MANIFEST is one of `callstream eval`. Clips with `rttm` are parted as they are, with the number of
speakers as prior and without; clips of two channels are mixed to one, and the true turns are where
the voice detection hears each channel alone. Prints DER (missed, false alarm, confusion over the
reference's speaker time; overlap counts, no collar, and again with 0.25 s), how many speakers were
found, beside one speaker for all speech, and seconds of audio a second. Needs the extra
`transcribe`; resemblyzer, its weights too: `pip install --no-deps Resemblyzer==0.1.4`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from services.evaluation.manifest import read_manifest
from services.evaluation.measures import Turn, diarization_errors
from services.runtime.audio import decode
from services.transcribe.choice import choose_diarizer
from services.transcribe.diarizer import Diarizer
from services.transcribe.engine import Samples
from services.transcribe.settings import TranscribeSettings, VadSettings
from services.transcribe.spans import Span
from services.transcribe.vad import Vad


class Clip(NamedTuple):
    name: str
    audio: Samples
    turns: Sequence[Turn]


def clips(manifest: Path, vad: Vad) -> Iterator[Clip]:
    for clip in read_manifest(manifest):
        channels = decode(clip.path)
        if clip.turns:
            yield Clip(clip.path.name, channels.mean(axis=0), clip.turns)
        elif len(channels) == 2:
            turns = [
                Turn(str(number), *span)
                for number, samples in enumerate(channels)
                for span in vad.speech(samples, VadSettings()).spans
            ]
            if len({turn.speaker for turn in turns}) == 2:
                yield Clip(f"{clip.path.name}, mixed", channels.mean(axis=0), turns)


def rate(reference: Sequence[Turn], heard: Sequence[Turn], collar_ms: int = 0) -> str:
    found = diarization_errors(reference, heard, collar_ms)
    shares = [f"{100 * count / max(1, found.units):.1f}" for count in found.parts.values()]
    return f"{100 * (found.rate or 0.0):5.1f} % ({' + '.join(shares)})"


def parted(
    diarizer: Diarizer, audio: Samples, spans: Sequence[Span], prior: int | None
) -> list[Turn]:
    found = diarizer.diarize(audio, spans, prior)
    return [Turn(str(turn.speaker), turn.start_ms, turn.end_ms) for turn in found.turns]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--diarizer", choices=("resemblyzer", "pyannote"), default="resemblyzer")
    parser.add_argument("--model", default="", help="as transcribe.diarizer_model")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    wanted = TranscribeSettings(diarizer=given.diarizer, diarizer_model=given.model)
    try:
        diarizer = choose_diarizer(wanted, "").diarizer
    except ValueError as missing:
        sys.exit(str(missing))
    assert diarizer is not None
    print(diarizer.identity)
    vad = Vad()
    for clip in clips(given.manifest, vad):
        spans = vad.speech(clip.audio, VadSettings()).spans
        true = len({turn.speaker for turn in clip.turns})
        print(f"{clip.name}: {clip.audio.size / 16_000:.1f} s, {true} speakers")
        one = [Turn("0", *span) for span in spans]
        print(f"  one speaker    {rate(clip.turns, one)}, ±0.25 s {rate(clip.turns, one, 250)}")
        for prior in (None, true):
            took = []
            for _ in range(given.rounds):
                started = time.monotonic()
                heard = parted(diarizer, clip.audio, spans, prior)
                took.append(time.monotonic() - started)
            named = "no prior" if prior is None else f"prior of {prior}"
            found = len({turn.speaker for turn in heard})
            speed = clip.audio.size / 16_000 / statistics.median(took)
            print(
                f"  {named:14} {rate(clip.turns, heard)}, ±0.25 s {rate(clip.turns, heard, 250)}, "
                f"{found} found, {speed:.0f} x real time"
            )


if __name__ == "__main__":
    main()
