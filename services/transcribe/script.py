"""Chinese in the characters that are asked for. The only importer of opencc."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Literal

import opencc

from services.transcribe.engine import Heard, HeardSegment

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
