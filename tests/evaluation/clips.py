"""Clips that tests make, and a manifest of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.transcribe.sounds import Samples, silence, speech, wav


def write_clip(folder: Path, name: str, *channels: Samples) -> Path:
    path = folder / name
    path.write_bytes(wav(channels or [speech(0, 0.0, 3.0)]))
    return path


def write_manifest(folder: Path, *lines: dict[str, Any] | str) -> Path:
    path = folder / "manifest.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", "utf-8")
    return path


def two_parties(seconds: float = 3.0) -> list[Samples]:
    """A voice on the first channel, and a quiet hiss on the other, which is no copy of it."""
    hiss = np.random.default_rng(1).normal(0, 1e-4, silence(seconds).size)
    return [speech(0, 0.0, seconds), hiss.astype(np.float32)]
