"""What listens: the contract of every speech engine.

An engine turns one channel's audio into segments. It knows no call, no topic and no role.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from schemas.events import Degradation, Sound, VoiceEmotion
from schemas.events import Engine as Identity
from services.transcribe.spans import Span

Samples = npt.NDArray[np.float32]
RATE_HZ = 16_000
UNDETERMINED = "und"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardWord:
    """One word as heard; without times where the engine could not place it (digits, symbols)."""

    text: str
    start_ms: int | None = None
    end_ms: int | None = None
    confidence: float | None = None
    """0.0 to 1.0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardSegment:
    """Some speech. Times in ms since the start of the audio that was given."""

    text: str
    start_ms: int
    end_ms: int
    language: str = UNDETERMINED
    confidence: float | None = None
    """Mean word probability, 0.0 to 1.0."""
    no_speech: float | None = None
    """The engine's own probability, 0.0 to 1.0, that nobody speaks here."""
    logprob: float | None = None
    """Mean log probability of the tokens, at most 0.0."""
    words: tuple[HeardWord, ...] | None = None
    """In order; None where the engine gives no words."""
    emotion: VoiceEmotion = VoiceEmotion.UNKNOWN
    sounds: tuple[Sound, ...] = ()
    """What is heard beside words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What was heard on one channel, in order of start."""

    segments: tuple[HeardSegment, ...] = ()
    language: str = UNDETERMINED
    """BCP 47 primary tag of most of the speech."""
    language_confidence: float | None = None
    """0.0 to 1.0; None where the engine gives none."""
    degradations: tuple[Degradation, ...] = ()
    """What could not be done."""
    terms: tuple[str, ...] = ()
    """Of the terms asked for, those that the engine was given."""
    prompt: str = ""
    """Of the prompt asked for, what the engine was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How a channel is to be listened to."""

    language: str | None = None
    """Primary tag of what is spoken, as `primary_tag` gives it; None: the engine tells by
    itself."""
    hints: tuple[str, ...] = ()
    """Primary tags that are likelier than others."""
    terms: tuple[str, ...] = ()
    """Words that are likely, the most important first."""
    prompt: str = ""
    """Text in the manner of what is said."""
    replay: bool = False
    """Whether it gives way to live calls, where both want a device. It changes no result."""


NOTHING_KNOWN = Asked()
"""A live call of which nobody says what is spoken."""


class Engine(Protocol):
    """Holds a model, loaded when it was made. Thread-safe: calls of `transcribe` may wait."""

    @property
    def identity(self) -> Identity:
        """What it takes to make the same transcript again; `reason` is left empty."""

    @property
    def languages(self) -> Collection[str] | None:
        """BCP 47 primary tags it can transcribe; None for any."""

    def transcribe(
        self,
        audio: Samples,
        spans: Sequence[Span],
        asked: Asked = NOTHING_KNOWN,
    ) -> Heard:
        """What is said within `spans` of `audio` (mono, 16 kHz, -1.0 to 1.0).

        `spans` are sorted, disjoint and within the audio; no spans give no segments. Pauses of up
        to two seconds between spans may be listened to as well: what must not be heard is zero in
        `audio`.

        Every segment has text, lies within the audio, and starts no earlier than the one before.
        The same input gives an equal result. What the engine's library raises passes through: it
        is not known whether the device or this one call is at fault, and a call that breaks an
        engine must not hold up the others for ever.
        """


# Languages by the tags that engines and platforms have for them -> the one that is used here:
# Mandarin, Bokmål, Filipino as engines know them; the old tags of Hebrew, Indonesian and Yiddish;
# Javanese as Whisper writes it.
_ALIASES = {
    "": UNDETERMINED, "cmn": "zh", "fil": "tl", "in": "id", "iw": "he", "ji": "yi", "jw": "jv",
    "nb": "no",
}  # fmt: skip


def primary_tag(tag: str) -> str:
    """The primary language of a BCP 47 tag, lower case, one tag for each language: Mandarin by
    either name is 'zh'."""
    primary = tag.replace("_", "-").split("-")[0].strip().lower()
    return _ALIASES.get(primary, primary)
