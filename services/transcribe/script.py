"""Scripts: which are written without spaces, and Chinese in the characters that are asked for. The
only importer of opencc."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Literal

import opencc

from services.transcribe.engine import Heard, HeardSegment

# First and last of the characters of scripts that are written without spaces, in order: Thai, Lao,
# Burmese, Khmer, Han, Hiragana, Bopomofo; Katakana apart, as it is often a word of its own.
UNSPACED = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x2FDF), (0x3005, 0x3007),
    (0x3021, 0x3029), (0x3041, 0x309F), (0x3105, 0x312F), (0x31A0, 0x31BF), (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
)  # fmt: skip
KATAKANA = ((0x30A1, 0x30FA), (0x30FC, 0x30FF), (0x31F0, 0x31FF))

# Languages that are written in either set of characters.
_CHINESE = frozenset({"zh", "yue"})
_CONFIGS = {"simplified": "t2s", "traditional": "s2t"}


def written(heard: Heard, script: Literal["as_heard", "simplified", "traditional"]) -> Heard:
    """`heard` with its Chinese in `script`; words keep their times."""
    if script == "as_heard":
        return heard
    convert = _converter(_CONFIGS[script])
    segments = tuple(
        _segment(segment, convert) if segment.language in _CHINESE else segment
        for segment in heard.segments
    )
    return replace(heard, segments=segments)


@cache
def _converter(config: str) -> Callable[[str], str]:
    converter = opencc.OpenCC(config)
    return lambda text: str(converter.convert(text))


def _segment(segment: HeardSegment, convert: Callable[[str], str]) -> HeardSegment:
    text = convert(segment.text)
    words = segment.words
    if words is not None:
        # Which character is meant depends on those beside it: words are parted after conversion.
        whole = "".join(word.text for word in words)
        converted = convert(whole)
        if len(converted) == len(whole):
            texts, at = [], 0
            for word in words:
                texts.append(converted[at : at + len(word.text)])
                at += len(word.text)
        else:
            texts = [convert(word.text) for word in words]
        words = tuple(replace(word, text=text) for word, text in zip(words, texts, strict=True))
    return replace(segment, text=text, words=words)
