"""Which segments may not be trusted. Flags only: nothing is deleted or changed."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from schemas.events import Flag
from services.transcribe.engine import UNDETERMINED, HeardSegment
from services.transcribe.settings import TrustSettings
from services.transcribe.spans import Span
from services.transcribe.words import split

# A phrase looked for in a row has at most so many words, and counts once so many words repeat.
_LONGEST_PHRASE = 12
_FEWEST_WORDS = 6
# Deflating says nothing about shorter text (bytes).
_SHORTEST_DEFLATED = 80


def flags(
    segment: HeardSegment, span: Span, holds: Sequence[Span], settings: TrustSettings
) -> list[Flag]:
    """Why `segment` may be wrong, in the order of the schema.

    `span` is where it lies and `holds` where the call was on hold, on one timeline.
    """
    found: list[Flag] = []
    if (
        segment.no_speech is not None
        and segment.no_speech >= settings.no_speech
        and (segment.logprob is None or segment.logprob < settings.no_speech_logprob)
    ):
        found.append(Flag.NO_SPEECH)
    if repeats(segment.text, settings):
        found.append(Flag.REPEAT_LOOP)
    # Words of a language that could not be told may be another language's.
    if segment.language == UNDETERMINED or (
        segment.confidence is not None and segment.confidence < settings.low_confidence
    ):
        found.append(Flag.LOW_CONFIDENCE)
    if 2 * sum(span.overlap_ms(hold) for hold in holds) > span.length_ms:
        found.append(Flag.INSIDE_HOLD)
    return found


def repeats(text: str, settings: TrustSettings) -> bool:
    """Whether `text` runs in a loop: a phrase over and over, or far too compressible."""
    data = text.encode()
    ratio = len(data) / len(zlib.compress(data)) if len(data) >= _SHORTEST_DEFLATED else 1.0
    if ratio > settings.compression_ratio:
        return True
    words = [word.lower().strip(".,!?;:。，！？、…") for word in split(text)]
    for length in range(1, min(_LONGEST_PHRASE, len(words) // settings.repeats) + 1):
        needed = max(settings.repeats * length, _FEWEST_WORDS)
        run = length
        for at in range(length, len(words)):
            run = run + 1 if words[at] == words[at - length] else length
            if run >= needed:
                return True
    return False
