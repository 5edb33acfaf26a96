"""Which segments may not be trusted, and which speech has none. Nothing is deleted or changed."""

from __future__ import annotations

import zlib
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from schemas.events import Flag
from services.transcribe.engine import UNDETERMINED, HeardSegment
from services.transcribe.matching import Kind, kind
from services.transcribe.settings import TrustSettings
from services.transcribe.spans import Span, joined
from services.transcribe.words import split

# A phrase looked for in a row has at most so many words, and counts once so many words repeat.
_LONGEST_PHRASE = 12
_FEWEST_WORDS = 6
# Deflating says nothing about shorter text (bytes).
_SHORTEST_DEFLATED = 80
# Borders of voices and of segments are each so far off; a voice left over for less is a breath.
_MARGIN_MS = 250
# Nobody on a telephone speaks as fast. Read aloud, languages have 5.2 (Mandarin) to 7.8 (Japanese)
# syllables a second, English 6.2 (Pellegrino, Coupé and Marsico 2011): about 4.5 words a second in
# English, 5 characters in Chinese, fewer than 8 in Japanese. Rates twice that are of records.
_WORDS_PER_S = 8.0
_CHARACTERS_PER_S = 12.0
# Shorter speech is taken to last so long: times of single words are not exact.
_SHORTEST_MS = 1_000


def flags(
    segment: HeardSegment,
    span: Span,
    holds: Sequence[Span],
    settings: TrustSettings,
    voiced: Sequence[Span] | None = None,
) -> list[Flag]:
    """Why `segment` may be wrong, in the order of the schema.

    `span` is where it lies, `holds` where the call was on hold, and `voiced` where a voice is heard
    on its channel (sorted and disjoint; None where nobody looked), on one timeline.
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
    voice_ms = span.length_ms if voiced is None else _voice_ms(span, voiced)
    # Without times of words a segment may be a few of them anywhere in a window.
    placed = any(word.start_ms is not None for word in segment.words or ())
    if 2 * voice_ms < span.length_ms if placed else voice_ms == 0 < span.length_ms:
        found.append(Flag.INSIDE_SILENCE)
    if _least_s(segment.text) * 1000 > max(voice_ms, _SHORTEST_MS):
        found.append(Flag.TOO_FAST)
    return found


def unheard_ms(voiced: Iterable[Span], heard: Iterable[Span]) -> int:
    """How long a voice speaks of which no text was made.

    `voiced` (sorted and disjoint) is where there is a voice, `heard` where segments lie, on one
    timeline. What is within a quarter of a second of a segment, or shorter than that, is not
    counted.
    """
    covered = joined(_widened(span) for span in heard)
    found = at = 0
    for start, end in voiced:
        while at < len(covered) and covered[at].end_ms <= start:
            at += 1
        here = at
        while start < end:
            until, then = end, end
            if here < len(covered) and covered[here].start_ms < end:
                until, then = covered[here]
                here += 1
            if until - start >= _MARGIN_MS:
                found += until - start
            start = max(start, then)
    return found


def _widened(span: Span) -> Span:
    return Span(span.start_ms - _MARGIN_MS, span.end_ms + _MARGIN_MS)


def _voice_ms(span: Span, voiced: Sequence[Span]) -> int:
    """How long a voice is heard in `span`, or nearly so."""
    first = bisect_left(voiced, Span(span.start_ms, span.start_ms))
    while first and voiced[first - 1].end_ms + _MARGIN_MS > span.start_ms:
        first -= 1
    near: list[Span] = []
    for voice in voiced[first:]:
        if voice.start_ms - _MARGIN_MS >= span.end_ms:
            break
        near.append(_widened(voice))
    return sum(span.overlap_ms(voice) for voice in joined(near))


def _least_s(text: str) -> float:
    """The shortest time, in seconds, in which anybody says `text`."""
    seconds = 0.0
    for word in split(text):
        letters = [kind(each) for each in word if each.isalnum()]
        if letters:
            spaced = Kind.WORD in letters or Kind.HANGUL in letters
            seconds += 1 / (_WORDS_PER_S if spaced else _CHARACTERS_PER_S)
    return seconds


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
