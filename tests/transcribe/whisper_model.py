"""Whisper models with random weights: real plumbing at a real cost, meaningless text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ctranslate2.specs import WhisperSpec
from tokenizers import AddedToken, Tokenizer, decoders, models

# The layout of the multilingual vocabulary; CTranslate2 tells by its size, or by its empty token,
# that it is one.
LANGUAGES = [
    "en", "zh", "de", "es", "ru", "ko", "fr", "ja", "pt", "tr", "pl", "ca", "nl", "ar", "sv", "it",
    "id", "hi", "fi", "vi", "he", "uk", "el", "ms", "cs", "ro", "da", "hu", "ta", "no", "th", "ur",
    "hr", "bg", "lt", "la", "mi", "ml", "cy", "sk", "te", "fa", "lv", "bn", "sr", "az", "sl", "kn",
    "et", "mk", "br", "eu", "is", "hy", "ne", "mn", "bs", "kk", "sq", "sw", "gl", "mr", "pa", "si",
    "km", "sn", "yo", "so", "af", "oc", "ka", "be", "tg", "sd", "gu", "am", "yi", "lo", "uz", "fo",
    "ht", "ps", "tk", "nn", "mt", "sa", "lb", "my", "bo", "tl", "mg", "as", "tt", "haw", "ln", "ha",
    "ba", "jw", "su", "yue",
]  # fmt: skip
TEXT_TOKENS = 50_257


class Shape(NamedTuple):
    """What a model's cost depends on."""

    width: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    mels: int = 80


SMALLEST = Shape(16, 2, 1, 1)
"""Small enough for tests."""
SHAPES = {
    "tiny": Shape(384, 6, 4, 4),
    "base": Shape(512, 8, 6, 6),
    "small": Shape(768, 12, 12, 12),
    "large-v3-turbo": Shape(1280, 20, 32, 4, 128),
}
"""Those of the models that bear these names."""


def build(folder: Path, seed: int = 1, shape: Shape = SMALLEST, *, ends: bool = True) -> Path:
    """Writes the model into `folder`, which then can be loaded; returns it.

    Speech `ends`: the end of text is likely from the start, so that decoding stays short. Otherwise
    it never comes, and every window has as many tokens as are allowed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = [*(f"Ġw{number}" for number in range(TEXT_TOKENS - 1)), ""]
    special = [
        "<|endoftext|>",
        "<|startoftranscript|>",
        *(f"<|{code}|>" for code in LANGUAGES),
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nospeech|>",
        "<|notimestamps|>",
        *(f"<|{number * 0.02:.2f}|>" for number in range(1501)),
    ]
    tokens = texts + special
    _weights(tokens, seed, shape, ends).save(str(folder))
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": shape.mels}))
    config = json.loads((folder / "config.json").read_text())
    first = tokens.index("<|en|>")
    config.update(
        lang_ids=list(range(first, first + len(LANGUAGES))),
        suppress_ids=[],
        suppress_ids_begin=[tokens.index("<|endoftext|>")],
        alignment_heads=[[shape.decoder_layers - 1, head] for head in (0, 1)],
    )
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer(
        models.WordLevel({text: number for number, text in enumerate(texts)}, unk_token="Ġw0")
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _weights(tokens: list[str], seed: int, shape: Shape, ends: bool) -> Any:
    random = np.random.default_rng(seed)
    width, vocabulary = shape.width, len(tokens)

    def weight(*sizes: int) -> Any:
        return random.standard_normal(sizes, np.float32) * np.float32(0.3)

    def normal(spec: Any) -> None:
        spec.gamma, spec.beta = np.ones(width, np.float32), np.zeros(width, np.float32)

    def linear(spec: Any, rows: int, columns: int) -> None:
        spec.weight, spec.bias = weight(rows, columns), np.zeros(rows, np.float32)

    def feed_forward(spec: Any) -> None:
        normal(spec.layer_norm)
        linear(spec.linear_0, 4 * width, width)
        linear(spec.linear_1, width, 4 * width)

    def self_attention(spec: Any) -> None:
        normal(spec.layer_norm)
        linear(spec.linear[0], 3 * width, width)
        linear(spec.linear[1], width, width)

    spec = WhisperSpec(shape.encoder_layers, shape.heads, shape.decoder_layers, shape.heads)
    for conv, channels in ((spec.encoder.conv1, shape.mels), (spec.encoder.conv2, width)):
        conv.weight, conv.bias = weight(width, channels, 3), np.zeros(width, np.float32)
    spec.encoder.position_encodings.encodings = weight(1500, width)
    normal(spec.encoder.layer_norm)
    for layer in spec.encoder.layer:
        self_attention(layer.self_attention)
        feed_forward(layer.ffn)
    decoder = spec.decoder
    decoder.embeddings.weight = weight(vocabulary, width)
    decoder.position_encodings.encodings = weight(448, width)
    normal(decoder.layer_norm)
    decoder.projection.weight = weight(vocabulary, width)
    bias = np.zeros(vocabulary, np.float32)
    bias[tokens.index("<|endoftext|>")] = 7.0 if ends else -1e4
    decoder.projection.bias = bias
    for layer in decoder.layer:
        self_attention(layer.self_attention)
        normal(layer.attention.layer_norm)
        linear(layer.attention.linear[0], width, width)
        linear(layer.attention.linear[1], 2 * width, width)
        linear(layer.attention.linear[2], width, width)
        feed_forward(layer.ffn)
    spec.register_vocabulary(tokens)
    spec.validate()
    return spec
