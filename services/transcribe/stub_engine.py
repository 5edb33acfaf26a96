"""No recognition at all: words drawn from a hash of the audio. For load and kill tests."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

import numpy as np

from schemas.events import Engine as Identity
from services.transcribe.engine import (
    NOTHING_KNOWN,
    RATE_HZ,
    UNDETERMINED,
    Asked,
    Heard,
    HeardSegment,
    Samples,
)
from services.transcribe.spans import Span

_WORDS = (
    "alfa", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliett",
    "kilo", "lima", "mike", "november", "oscar", "papa",
)  # fmt: skip
_WORD_MS = 400


class StubEngine:
    """Makes up one segment per span; equal audio gives equal words. Not speech recognition."""

    identity = Identity(name="stub", version="1", model="hash-of-audio")
    languages: Collection[str] | None = None

    def transcribe(
        self,
        audio: Samples,
        spans: Sequence[Span],
        asked: Asked = NOTHING_KNOWN,
    ) -> Heard:
        tag = asked.language or next(iter(asked.hints), UNDETERMINED)
        return Heard(segments=tuple(_segment(audio, span, tag) for span in spans), language=tag)


def _segment(audio: Samples, span: Span, language: str) -> HeardSegment:
    samples = audio[span.start_ms * RATE_HZ // 1000 : span.end_ms * RATE_HZ // 1000]
    digest = hashlib.blake2b(np.ascontiguousarray(samples).tobytes()).digest()
    count = min(len(digest), max(1, span.length_ms // _WORD_MS))
    return HeardSegment(
        text=" ".join(_WORDS[byte % len(_WORDS)] for byte in digest[:count]),
        start_ms=span.start_ms,
        end_ms=span.end_ms,
        language=language,
    )
