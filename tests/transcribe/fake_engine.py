"""Engines of which the outcome is known beforehand."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from schemas.events import Engine as Identity
from services.transcribe.engine import NOTHING_KNOWN, Asked, Heard, HeardSegment, Samples
from services.transcribe.spans import Span


@dataclass(frozen=True)
class FakeEngine:
    """Hears `text` in every span. Refuses to be used at all where `forbidden`."""

    text: str = "good morning how can i help you"
    language: str = "en"
    languages: Collection[str] | None = None
    forbidden: bool = False
    model: str = "script"
    given: list[tuple[Samples, list[Span]]] = field(default_factory=list)
    """What it was given: the outcome of masking."""

    @property
    def identity(self) -> Identity:
        return Identity(name="fake", version="1", model=self.model)

    def transcribe(
        self,
        audio: Samples,
        spans: Sequence[Span],
        asked: Asked = NOTHING_KNOWN,
    ) -> Heard:
        assert not self.forbidden, "the engine was used"
        self.given.append((audio.copy(), list(spans)))
        return Heard(
            segments=tuple(
                HeardSegment(
                    text=self.text,
                    start_ms=span.start_ms,
                    end_ms=span.end_ms,
                    language=self.language,
                    confidence=0.875,
                )
                for span in spans
            ),
            language=self.language,
            language_confidence=0.75,
        )
