"""Audio that tests make or take from the samples, and events about it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from schemas.events import CallRecorded, Role, StoredRecording
from schemas.examples import EXAMPLES
from services.runtime.objects import Objects
from services.transcribe.engine import RATE_HZ

Samples = npt.NDArray[np.float32]
SPEECH = Path(__file__).parents[2] / "samples" / "audio" / "wrong-size.wav"


def noise(seconds: float, level: float = 0.05, seed: int = 1) -> Samples:
    drawn = np.random.default_rng(seed).normal(0.0, level, int(seconds * RATE_HZ))
    return np.clip(drawn, -1, 1).astype(np.float32)


def tone(seconds: float, hertz: float = 440.0, level: float = 0.2) -> Samples:
    at = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    return (level * np.sin(2 * np.pi * hertz * at)).astype(np.float32)


def silence(seconds: float) -> Samples:
    return np.zeros(int(seconds * RATE_HZ), np.float32)


def speech(channel: int = 0, start_s: float = 0.0, seconds: float = 4.5) -> Samples:
    """Of the two-party sample at 8 kHz: the agent is on channel 0 and begins at once."""
    data, rate = soundfile.read(SPEECH, dtype="float32", always_2d=True)
    assert rate * 2 == RATE_HZ
    part = data[int(start_s * rate) : int((start_s + seconds) * rate), channel]
    return np.repeat(part, 2).astype(np.float32)


def wav(channels: Sequence[Samples], rate: int = RATE_HZ) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.stack(list(channels), axis=1), rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def stored(
    objects: Objects, recording_id: str, data: bytes, channels: int, **changes: object
) -> StoredRecording:
    """Put `data` where ingest would, and describe it as ingest would."""
    sha256 = hashlib.sha256(data).hexdigest()
    key = f"audio/test/{sha256}"
    objects.put(key, data)
    duration_ms = round(soundfile.info(io.BytesIO(data)).duration * 1000)
    described = StoredRecording(
        recording_id=recording_id,
        object_key=key,
        sha256=sha256,
        size_bytes=len(data),
        container="wav",
        codec="pcm_s16le",
        sample_rate_hz=RATE_HZ,
        channels=channels,
        duration_ms=duration_ms,
        channel_roles=[Role.AGENT, Role.CUSTOMER] if channels == 2 else [],
    )
    return replace(described, **changes)  # type: ignore[arg-type]


def recorded(*recordings: StoredRecording, **call: object) -> CallRecorded:
    event = EXAMPLES["CallRecorded"]["happy"]
    assert isinstance(event, CallRecorded)
    return replace(
        event,
        recordings=list(recordings),
        call=replace(event.call, **call),  # type: ignore[arg-type]
    )
