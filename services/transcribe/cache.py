"""What was heard in a recording, kept so that it need not be heard again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from schemas.events import Engine as Identity
from services.runtime.objects import MissingObject, Objects
from services.transcribe.diarizer import Turns
from services.transcribe.engine import Heard
from services.transcribe.settings import VadSettings
from services.transcribe.spans import Span

# Raised when what is kept, or how it is made, changes its meaning: older entries are not found.
FORM = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelResult:
    voiced: tuple[Span, ...]
    """Where somebody speaks, outside of what is masked."""
    same_as: int | None = None
    heard: Heard | None = None
    """None where the channel was not transcribed: it repeats another, or the language is beyond
    the engine."""
    turns: Turns | None = None
    """Who speaks when, where the voices were to be parted and could be."""
    undivided: str = ""
    """Why they could not be."""
    loudness: bytes = b""
    """As loudness.course gives it; empty of a channel of which nothing was heard, and of what an
    earlier version kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingResult:
    """All that a transcript takes from the audio of one recording; times from its start."""

    duration_ms: int
    channels: tuple[ChannelResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """All that the result depends on."""

    sha256: str
    container: str
    engine: Identity
    language: str | None
    hints: Sequence[str]
    terms: Sequence[str]
    prompt: str
    masks: Sequence[Span]
    vad: VadSettings
    diarizer: str
    """What would part the voices of a shared channel; empty where nothing has to."""
    parties: int | None


# Made once, before threads: see Codec.
_RESULTS = msgspec.json.Decoder(RecordingResult)


def prefix(sha256: str) -> str:
    """Under which every result made from that audio is kept: what an erasure deletes."""
    return f"transcripts/{sha256}/"


def key(question: Question) -> str:
    """The object key of the answer to `question`."""
    identity = question.engine
    material = msgspec.json.encode(
        {
            "form": FORM,
            "container": question.container,
            "engine": {
                "name": identity.name,
                "version": identity.version,
                "model": identity.model,
                "model_revision": identity.model_revision,
                "device": identity.device,
                "options": identity.options,
            },
            "language": question.language,
            "hints": list(question.hints),
            "terms": list(question.terms),
            "prompt": question.prompt,
            "masks": list(question.masks),
            "vad": question.vad.model_dump(mode="json"),
            "diarizer": question.diarizer,
            "parties": question.parties,
        },
        order="sorted",
    )
    return f"{prefix(question.sha256)}{hashlib.sha256(material).hexdigest()}.json"


def load(objects: Objects, question: Question) -> RecordingResult | None:
    """The kept answer; None where there is none, or what is kept cannot be read."""
    try:
        return _RESULTS.decode(objects.get(key(question)))
    except (MissingObject, msgspec.DecodeError, UnicodeDecodeError):
        return None


def store(objects: Objects, question: Question, result: RecordingResult) -> None:
    """Keep `result` as the answer to `question`."""
    objects.put(key(question), msgspec.json.encode(result))
