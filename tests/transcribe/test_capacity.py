"""Calls of any length, and many at once, through a real Whisper with random weights."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from schemas.checks import problem_with
from schemas.events import CallRecorded, CallTranscribed
from services.runtime.errors import Invalid
from services.runtime.objects import DirectoryObjects
from services.transcribe.choice import choose, choose_diarizer
from services.transcribe.engine import RATE_HZ
from services.transcribe.settings import TranscribeSettings
from services.transcribe.transcriber import Transcriber
from services.transcribe.vad import Vad
from tests.transcribe import extra
from tests.transcribe.sounds import noise, recorded, silence, speech, stored, wav
from tests.transcribe.whisper_model import build

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
ENGINES = ["faster-whisper", pytest.param("whisperx", marks=pytest.mark.whisperx)]


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("whisper"))


def transcriber(engine: str, folder: Path, objects: DirectoryObjects) -> Transcriber:
    if engine == "whisperx":
        extra.whisperx()
    settings = TranscribeSettings.model_validate(
        {"engine": engine, "model_dir": folder, "beam_size": 1, "batch_size": 8, "cache": False}
    )
    return Transcriber(settings, objects, choose(settings), Vad())


def heard(by: Transcriber, event: CallRecorded) -> CallTranscribed:
    transcript = by.transcribe(event, NOW)
    assert transcript is not None
    assert problem_with(transcript) is None
    return transcript


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("audio", "speaks"),
    [
        (silence(0.1), False),
        (speech(0, 0.5, 0.1), False),
        (silence(60.0), False),
        (noise(20.0, 0.02), False),
        (speech(0, seconds=4.0), True),
    ],
    ids=["0.1 s of silence", "0.1 s of speech", "a silent minute", "noise", "speech"],
)
def test_next_to_nothing_is_a_transcript_too(
    engine: str, audio: Any, speaks: bool, whisper_folder: Path, tmp_path: Path
) -> None:
    objects = DirectoryObjects(tmp_path / "objects")
    event = recorded(stored(objects, "r", wav([audio]), 1))
    transcript = heard(transcriber(engine, whisper_folder, objects), event)
    assert bool(transcript.segments) == speaks
    assert abs(transcript.duration_ms - audio.size * 1000 // RATE_HZ) <= 1


@pytest.mark.parametrize("engine", ENGINES)
def test_a_file_of_0_s_is_refused_with_its_reason(
    engine: str, whisper_folder: Path, tmp_path: Path
) -> None:
    objects = DirectoryObjects(tmp_path / "objects")
    event = recorded(stored(objects, "r", wav([silence(0)]), 1))
    with pytest.raises(Invalid, match="decodes_to_nothing"):
        transcriber(engine, whisper_folder, objects).transcribe(event, NOW)


@pytest.mark.parametrize("engine", ENGINES)
def test_65_calls_at_once_are_heard_as_each_alone(
    engine: str, whisper_folder: Path, tmp_path: Path
) -> None:
    objects = DirectoryObjects(tmp_path / "objects")
    events = []
    for number in range(65):
        cut = number % 13 / 10
        audio = [speech(channel, cut, 4.0 - cut) for channel in (0, 1)]
        data = wav(audio)
        events.append(recorded(stored(objects, f"r{number}", data, 2)))
    by = transcriber(engine, whisper_folder, objects)
    alone = [heard(by, event) for event in events[:13]]
    together = threading.Barrier(len(events))

    def one(event: CallRecorded) -> CallTranscribed:
        together.wait(60)
        return heard(by, event)

    with ThreadPoolExecutor(len(events)) as pool:
        results = list(pool.map(one, events))
    for number, result in enumerate(results):
        expected = alone[number % 13]
        said = [(s.channel, s.start_ms, s.end_ms, s.text, s.words) for s in result.segments]
        assert said
        assert said == [(s.channel, s.start_ms, s.end_ms, s.text, s.words)
                        for s in expected.segments]  # fmt: skip


_HOURS = 4
# Every so many minutes of them, one is speech.
_EVERY = 15
# The allocator gives back what is freed: what is read is what is held.
_EXACT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
# Reads its own memory while it transcribes: what is mapped from a file does not count, the system
# takes that back whenever it needs it.
_MEASURED = """
import sys, threading, time
from pathlib import Path
from tests.transcribe.test_capacity import NOW, events_of, heard, transcriber
from services.runtime.errors import Invalid
from services.runtime.objects import DirectoryObjects

def memory():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024

engine, folder, root = sys.argv[1:]
objects = DirectoryObjects(Path(root))
short, long = events_of(objects)
by = transcriber(engine, Path(folder), objects)
for _ in range(2):
    heard(by, short)
peaks, over = [memory()], threading.Event()
def watch():
    while not over.wait(0.05):
        peaks.append(memory())
watcher = threading.Thread(target=watch)
watcher.start()
transcript = heard(by, long)
over.set()
watcher.join()
last = transcript.segments[-1].start_ms
print(round(peaks[0]), round(max(peaks)), len(transcript.segments), last, transcript.duration_ms)
"""


def events_of(objects: DirectoryObjects) -> tuple[CallRecorded, CallRecorded]:
    """A call of eight minutes, more than the device and its queue hold at once, and one of four
    hours of which every fifteenth minute is speech."""
    minute = np.concatenate([speech(0, seconds=4.0), silence(1.0)] * 12)
    quiet = silence((_EVERY - 1) * 60.0)
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", RATE_HZ, 1, "PCM_16", format="FLAC") as out:
        for _ in range(_HOURS * 60 // _EVERY):
            out.write(minute)
            out.write(quiet)
    long = stored(objects, "long", file.getvalue(), 1, container="flac", codec="flac")
    return recorded(stored(objects, "short", wav([np.tile(minute, 8)]), 1)), recorded(long)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_memory_does_not_grow_with_the_length_of_a_call(
    engine: str, whisper_folder: Path, tmp_path: Path
) -> None:
    if engine == "whisperx":
        extra.whisperx()
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, engine, str(whisper_folder), str(tmp_path / "objects")],
        capture_output=True, text=True, check=False,
        env={**os.environ, **_EXACT, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, peak, segments, last_ms, duration_ms = map(int, done.stdout.split()[-5:])
    assert duration_ms == _HOURS * 3_600_000
    assert segments >= _HOURS * 60 // _EVERY
    assert last_ms >= duration_ms - _EVERY * 60_000
    # Four hours of samples are 920 MB; a batch of windows and their encodings is what is held.
    assert peak - before < 200, f"{before} MB before, {peak} MB at most"


_SPOKEN_S = 720
_MEASURED_PARTING = """
import sys, threading
from pathlib import Path
from tests.transcribe.test_capacity import dialogues_of, heard, parting
from services.runtime.objects import DirectoryObjects

def memory():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024

objects = DirectoryObjects(Path(sys.argv[1]))
short, long = dialogues_of(objects)
by = parting(objects)
def peak_of(event):
    peaks, over = [memory()], threading.Event()
    def watch():
        while not over.wait(0.02):
            peaks.append(memory())
    watcher = threading.Thread(target=watch)
    watcher.start()
    transcript = heard(by, event)
    over.set()
    watcher.join()
    return max(peaks), transcript
peak_of(short)
before, _ = peak_of(short)
after, transcript = peak_of(long)
speakers = {segment.speaker for segment in transcript.segments}
print(round(before), round(after), len(speakers), transcript.duration_ms)
"""


def dialogues_of(objects: DirectoryObjects) -> tuple[CallRecorded, CallRecorded]:
    """A call of two minutes and one of twelve: two speak in turn, on one channel."""
    turn = np.concatenate([speech(0, seconds=4.2), silence(0.4), speech(1, 4.4, 3.0), silence(0.4)])
    found = []
    for name, seconds in (("short", 120.0), ("long", float(_SPOKEN_S))):
        file = io.BytesIO()
        with soundfile.SoundFile(file, "w", RATE_HZ, 1, "PCM_16", format="FLAC") as out:
            for _ in range(int(seconds * RATE_HZ) // turn.size):
                out.write(turn)
        found.append(recorded(stored(objects, name, file.getvalue(), 1, container="flac",
                                     codec="flac")))  # fmt: skip
    return found[0], found[1]


def parting(objects: DirectoryObjects) -> Transcriber:
    settings = TranscribeSettings(engine="stub", diarizer="resemblyzer", cache=False)
    return Transcriber(
        settings, objects, choose(settings), Vad(), choose_diarizer(settings, "stub")
    )


@pytest.mark.slow
@pytest.mark.whisperx
def test_memory_barely_grows_with_the_speech_whose_voices_are_parted(tmp_path: Path) -> None:
    extra.resemblyzer()
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED_PARTING, str(tmp_path / "objects")],
        capture_output=True, text=True, check=False,
        env={**os.environ, **_EXACT, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, peak, speakers, duration_ms = map(int, done.stdout.split()[-4:])
    assert duration_ms > 0.99 * _SPOKEN_S * 1_000
    assert speakers >= 2
    # The samples alone of what is longer are 38 MB.
    assert peak - before < 20, f"{before} MB for 2 minutes, {peak} MB for 12"
