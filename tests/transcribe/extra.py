"""The extras of engines (WhisperX, FunASR, torch): gigabytes that not every environment has."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest


def whisperx() -> None:
    """End the running test where it is missing: a failure under CI=true, else a skip."""
    _needed("whisperx", "no WhisperX: `make transcribe-extra` installs it (8 GB)")


def funasr() -> None:
    """As `whisperx`."""
    _needed("funasr", "no FunASR: `make transcribe-extra` installs it (8 GB)")


def resemblyzer() -> None:
    """As `whisperx`; it is installed beside that."""
    whisperx()
    _needed("resemblyzer", "no Resemblyzer: `make transcribe-extra` installs it")


def transformers() -> None:
    """As `whisperx`; torch is installed with it."""
    _needed("transformers", "no transformers: `make transcribe-extra` installs it (8 GB)")


def _needed(module: str, reason: str) -> None:
    if importlib.util.find_spec(module) is not None:
        return
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


_SMALLEST = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip


def build_aligner(
    folder: Path,
    letters: str = "abcdefghijklmnopqrstuvwxyz'",
    shape: Mapping[str, Any] = _SMALLEST,
) -> Path:
    """Writes an alignment model with random weights into `folder`; returns it. What `shape` leaves
    out is that of wav2vec2 base."""
    whisperx()
    # Not imported by name: what is typed of them differs with what is installed.
    torch: Any = importlib.import_module("torch")
    hub: Any = importlib.import_module("transformers")
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4}
    vocabulary |= {letter: number for number, letter in enumerate(letters, 5)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = hub.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    hub.Wav2Vec2Processor(
        feature_extractor=hub.Wav2Vec2FeatureExtractor(), tokenizer=tokenizer
    ).save_pretrained(folder)
    torch.manual_seed(1)
    config = hub.Wav2Vec2Config(vocab_size=len(vocabulary), **shape)
    hub.Wav2Vec2ForCTC(config).save_pretrained(folder)
    return folder
