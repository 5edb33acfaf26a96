"""English speech through PocketSphinx, whose model lies in its wheel. The only importer of it.

A floor for trying the whole path out where no Whisper model can be had, and for nothing else:
its words are often wrong on telephone speech, and it hears English words in any language.
Posterior probabilities are its only defence.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from importlib.metadata import version
from threading import Lock
from typing import Any

import numpy as np
from pocketsphinx import Decoder

from schemas.events import Engine as Identity
from services.transcribe.engine import (
    NOTHING_KNOWN,
    RATE_HZ,
    UNDETERMINED,
    Asked,
    Heard,
    HeardSegment,
    HeardWord,
    Samples,
)
from services.transcribe.spans import Span

FRAME_MS = 10
# Mean posterior of a channel's words from which unhinted speech is taken for English. A judgement:
# the highest of seven Mandarin and Cantonese clips measured was 0.49, and of English ones many are
# lower, whose words are mostly wrong, too.
SURE = 0.5
_FILLER = re.compile(r"^[<\[+]")
_ALTERNATE = re.compile(r"\(\d+\)$")


class PocketSphinxEngine:
    """US English only. One utterance at a time: the decoder is not re-entrant."""

    languages: Collection[str] | None = frozenset({"en"})

    def __init__(self) -> None:
        self._decoder: Any = Decoder(samprate=RATE_HZ, loglevel="FATAL")
        self._lock = Lock()
        self.identity = Identity(
            name="pocketsphinx",
            version=version("pocketsphinx"),
            model="en-us",
            model_revision=version("pocketsphinx"),
            device="cpu",
        )

    def transcribe(
        self,
        audio: Samples,
        spans: Sequence[Span],
        asked: Asked = NOTHING_KNOWN,
    ) -> Heard:
        heard = [found for span in spans if (found := self._utterance(audio, span))]
        told = asked.language == "en" or (asked.language is None and asked.hints == ("en",))
        sure = [word.confidence or 0.0 for found in heard for word in found.words or ()]
        if sure and not told and sum(sure) / len(sure) < SURE:
            # One segment of foreign speech may fit English words well; a channel of it does not.
            if asked.hints and "en" not in asked.hints:
                return Heard()  # it is what the hints say
            heard = [replace(found, language=UNDETERMINED) for found in heard]
            return Heard(segments=tuple(heard))
        return Heard(segments=tuple(heard), language="en" if heard else UNDETERMINED)

    def _utterance(self, audio: Samples, span: Span) -> HeardSegment | None:
        samples = audio[span.start_ms * RATE_HZ // 1000 : span.end_ms * RATE_HZ // 1000]
        pcm = (np.clip(samples, -1.0, 1.0) * 32767).astype("<i2").tobytes()
        with self._lock:
            # Cepstral means are learnt from what was heard before: forgotten, so that a result
            # depends on its own audio alone.
            self._decoder.reinit_feat()
            self._decoder.start_utt()
            self._decoder.process_raw(pcm, no_search=False, full_utt=True)
            self._decoder.end_utt()
            entries = (
                [(s.word, s.start_frame, s.end_frame, s.prob) for s in self._decoder.seg()]
                if self._decoder.hyp() is not None
                else []
            )
        words = tuple(
            HeardWord(
                text=_ALTERNATE.sub("", word),
                start_ms=min(span.end_ms, span.start_ms + first * FRAME_MS),
                end_ms=min(span.end_ms, span.start_ms + (last + 1) * FRAME_MS),
                confidence=min(1.0, max(0.0, probability)),
            )
            for word, first, last, probability in entries
            if not _FILLER.match(word)
        )
        if not words:
            return None
        confidence = sum(word.confidence or 0.0 for word in words) / len(words)
        return HeardSegment(
            text=" ".join(word.text for word in words),
            start_ms=words[0].start_ms or 0,
            end_ms=words[-1].end_ms or 0,
            language="en",
            confidence=confidence,
            words=words,
        )
