"""A Whisper model with random weights, small enough for tests: real plumbing, meaningless text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
WIDTH, HEADS, LAYERS, MELS = 16, 2, 1, 80


def build(folder: Path, seed: int = 1) -> Path:
    """Writes the model into `folder`, which then can be loaded; returns it."""
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
    _weights(len(tokens), tokens, seed).save(str(folder))
    config = json.loads((folder / "config.json").read_text())
    first = tokens.index("<|en|>")
    config.update(
        lang_ids=list(range(first, first + len(LANGUAGES))),
        suppress_ids=[],
        suppress_ids_begin=[tokens.index("<|endoftext|>")],
        alignment_heads=[[0, 0], [0, 1]],
    )
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer(
        models.WordLevel({text: number for number, text in enumerate(texts)}, unk_token="Ġw0")
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _weights(vocabulary: int, tokens: list[str], seed: int) -> Any:
    random = np.random.default_rng(seed)

    def weight(*shape: int, scale: float = 0.3) -> Any:
        return random.normal(0.0, scale, shape).astype(np.float32)

    def normal(spec: Any) -> None:
        spec.gamma, spec.beta = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)

    def linear(spec: Any, rows: int, columns: int) -> None:
        spec.weight, spec.bias = weight(rows, columns), np.zeros(rows, np.float32)

    def feed_forward(spec: Any) -> None:
        normal(spec.layer_norm)
        linear(spec.linear_0, 4 * WIDTH, WIDTH)
        linear(spec.linear_1, WIDTH, 4 * WIDTH)

    def self_attention(spec: Any) -> None:
        normal(spec.layer_norm)
        linear(spec.linear[0], 3 * WIDTH, WIDTH)
        linear(spec.linear[1], WIDTH, WIDTH)

    spec = WhisperSpec(LAYERS, HEADS, LAYERS, HEADS)
    for conv, channels in ((spec.encoder.conv1, MELS), (spec.encoder.conv2, WIDTH)):
        conv.weight, conv.bias = weight(WIDTH, channels, 3), np.zeros(WIDTH, np.float32)
    spec.encoder.position_encodings.encodings = weight(1500, WIDTH)
    normal(spec.encoder.layer_norm)
    for layer in spec.encoder.layer:
        self_attention(layer.self_attention)
        feed_forward(layer.ffn)
    decoder = spec.decoder
    decoder.embeddings.weight = weight(vocabulary, WIDTH)
    decoder.position_encodings.encodings = weight(448, WIDTH)
    normal(decoder.layer_norm)
    decoder.projection.weight = weight(vocabulary, WIDTH)
    # Speech ends: the end of text is likely from the start, so that decoding stays short.
    bias = np.zeros(vocabulary, np.float32)
    bias[tokens.index("<|endoftext|>")] = 7.0
    decoder.projection.bias = bias
    for layer in decoder.layer:
        self_attention(layer.self_attention)
        normal(layer.attention.layer_norm)
        linear(layer.attention.linear[0], WIDTH, WIDTH)
        linear(layer.attention.linear[1], 2 * WIDTH, WIDTH)
        linear(layer.attention.linear[2], WIDTH, WIDTH)
        feed_forward(layer.ffn)
    spec.register_vocabulary(tokens)
    spec.validate()
    return spec
