"""SenseVoice for tests: one with random weights, and FunASR without any.

The first comes in the form in which the real one does and is loaded by the code that loads the real
one; what it says is nonsense, tags and letters in no order. The second answers what a test wants,
in the form in which FunASR answers, and needs nothing installed.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from services.transcribe import sensevoice_engine
from tests.transcribe import extra
from tests.transcribe.sounds import Samples

TAGS = [
    "<|zh|>", "<|en|>", "<|yue|>", "<|ja|>", "<|ko|>", "<|nospeech|>", "<|HAPPY|>", "<|SAD|>",
    "<|ANGRY|>", "<|NEUTRAL|>", "<|EMO_UNKNOWN|>", "<|Speech|>", "<|BGM|>", "<|Laughter|>",
    "<|withitn|>", "<|woitn|>",
]  # fmt: skip
_MELS, _STACKED = 80, 7


def build(folder: Path, seed: int = 1) -> Path:
    """Writes such a model into `folder`; returns it."""
    extra.funasr()
    # Not imported by name: what is typed of them differs with what is installed.
    torch: Any = importlib.import_module("torch")
    spm: Any = importlib.import_module("sentencepiece")
    importlib.import_module("funasr").AutoModel  # noqa: B018  # registers what it can make
    tables: Any = importlib.import_module("funasr.register").tables
    folder.mkdir(parents=True, exist_ok=True)
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox jumps over a lazy dog", "我要退款吗今天"]),
        model_prefix=str(folder / "bpe"), model_type="char", vocab_size=64, hard_vocab_limit=False,
        user_defined_symbols=TAGS, minloglevel=2,
    )  # fmt: skip
    size = _MELS * _STACKED
    zeros, ones = " ".join(["0"] * size), " ".join(["0.1"] * size)
    (folder / "am.mvn").write_text(
        f"<Nnet>\n<AddShift> {size} {size}\n<LearnRateCoef> 0 [ {zeros} ]\n"
        f"<Rescale> {size} {size}\n<LearnRateCoef> 0 [ {ones} ]\n</Nnet>\n"
    )
    encoder = {
        "output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 2,
        "tp_blocks": 1, "dropout_rate": 0.1, "positional_dropout_rate": 0.1,
        "attention_dropout_rate": 0.1, "input_layer": "pe", "normalize_before": True,
        "pos_enc_class": "SinusoidalPositionEncoder", "kernel_size": 11, "sanm_shfit": 0,
        "selfattention_layer_type": "sanm",
    }  # fmt: skip
    model = {"length_normalized_loss": True, "sos": 1, "eos": 2, "ignore_id": -1}
    config = {
        "model": "SenseVoiceSmall", "model_conf": model,
        "encoder": "SenseVoiceEncoderSmall", "encoder_conf": encoder,
        "tokenizer": "SentencepiecesTokenizer",
        "tokenizer_conf": {"bpemodel": None, "unk_symbol": "<unk>", "split_with_space": True},
        # Without `dither`, as the real one: the frontend's own adds noise.
        "frontend": "WavFrontend",
        "frontend_conf": {
            "fs": 16_000, "window": "hamming", "n_mels": _MELS, "frame_length": 25,
            "frame_shift": 10, "lfr_m": _STACKED, "lfr_n": 6, "cmvn_file": None,
        },
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    tokens = spm.SentencePieceProcessor(model_file=str(folder / "bpe.model")).get_piece_size()
    torch.manual_seed(seed)
    made = tables.model_classes["SenseVoiceSmall"](
        encoder="SenseVoiceEncoderSmall", encoder_conf=encoder, input_size=size, vocab_size=tokens,
        **model,
    )  # fmt: skip
    torch.save(made.state_dict(), folder / "model.pt")
    return folder


class SenseVoiceSmall:
    """The kind of model that FunASR says it has loaded."""


Says = Callable[[Samples, str, bool], dict[str, Any]]
"""What it answers of a stretch, asked in a language, with times of words or without."""


def hashed(samples: Samples, language: str, times: bool) -> dict[str, Any]:
    """Tags and words made up from a hash of the audio: equal audio gives equal words."""
    digest = hashlib.blake2b(samples.tobytes()).digest()
    tags = f"{TAGS[digest[0] % 5]}{TAGS[6 + digest[1] % 5]}{TAGS[11 + digest[2] % 3]}<|withitn|>"
    names = ["alfa", "bravo", "charlie"][: 1 + digest[3] % 3]
    answer: dict[str, Any] = {"key": "a", "text": f"{tags}{' '.join(names)}."}
    if times:
        answer["words"] = names
        answer["timestamp"] = [[60 * at, 60 * at + 50] for at in range(len(names))]
    return answer


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, says: Says = hashed) -> list[str]:
    """Let the engine find this in place of FunASR and torch, and a model in `folder`.

    Returns the languages that are asked for, of each batch.
    """
    asked: list[str] = []

    class AutoModel:
        def __init__(self, **options: Any) -> None:
            assert options["frontend_conf"] == {"dither": 0.0}, "noise would be drawn at random"
            self.model, self.model_path = SenseVoiceSmall(), options["model"]

        def generate(
            self, input: list[Samples], language: str, output_timestamp: bool, **options: Any
        ) -> list[dict[str, Any]]:
            asked.append(language)
            return [says(samples, language, output_timestamp) for samples in input]

    parts = {
        "funasr": SimpleNamespace(AutoModel=AutoModel),
        "torch": SimpleNamespace(
            cuda=SimpleNamespace(is_available=lambda: False), get_num_threads=lambda: 1
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.pt").touch()
    monkeypatch.setattr(sensevoice_engine, "_library", parts.__getitem__)
    monkeypatch.setattr(sensevoice_engine, "version", lambda name: "0")
    return asked
