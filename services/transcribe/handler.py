"""The transcribe stage: CallRecorded in, CallTranscribed out."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from schemas import topics
from schemas.events import CallRecorded
from schemas.events import Engine as Identity
from services.runtime.objects import Objects
from services.runtime.observe import logger
from services.runtime.process import way_given
from services.runtime.stage import Envelope, Output, Stage, each, utc_now
from services.transcribe.choice import Chosen, ReplayEngines
from services.transcribe.engine import NOTHING_KNOWN, Asked, Engine, Heard, Samples
from services.transcribe.settings import OPTIONS, TranscribeSettings, with_options
from services.transcribe.spans import Span
from services.transcribe.transcriber import Transcriber
from services.transcribe.vad import Vad

# Calls at work at once where they share a GPU.
_GPU_WORKERS = 16


def stage(
    settings: TranscribeSettings,
    objects: Objects,
    chosen: Chosen,
    clock: Callable[[], datetime] = utc_now,
    listened: Callable[[float], None] = lambda seconds: None,
) -> Stage:
    """The stage over `objects`, which hold the audio and keep the results; see Transcriber.

    `chosen` comes from `choose(settings)`. Which engine it is, and why, is logged once here.
    `listened` is told the seconds that each call of an engine took.
    A replay's options are honoured call by call, with engines of their own. What a replay of
    ingest has made is not listened to where it comes, before live calls: it is asked for as a
    replay.
    """
    identity = chosen.engine.identity
    logger("transcribe").info(
        "engine chosen",
        engine=identity.name,
        version=identity.version,
        model=identity.model,
        device=identity.device,
        reason=chosen.reason,
    )
    timed = replace(chosen, engine=_Timed(chosen.engine, listened))
    transcriber = Transcriber(settings, objects, timed, Vad())
    engines = ReplayEngines(settings, chosen)

    def overridden(envelope: Envelope[CallRecorded]) -> Transcriber:
        """As a replay asks for it: loading an engine holds up other replays only."""
        wanted = with_options(settings, envelope.options)
        engine = engines.get(wanted)
        timed = replace(engine, engine=_Timed(engine.engine, listened))
        return replace(transcriber, settings=wanted, chosen=timed)

    def handle(envelope: Envelope[CallRecorded]) -> Sequence[Output]:
        if envelope.generation and envelope.message.topic == topics.RECORDED:
            return [way_given("transcribe", envelope)]
        by = overridden(envelope) if envelope.options else transcriber
        transcript = by.transcribe(envelope.event, clock(), replay=envelope.generation > 0)
        return [] if transcript is None else [Output(transcript)]

    return Stage(
        name="transcribe",
        sources=(topics.RECORDED,),
        targets=(topics.TRANSCRIBED, topics.REPLAY),
        handle=each(handle),
        workers=settings.workers or (_GPU_WORKERS if identity.device == "cuda" else 1),
        options=tuple(OPTIONS),
    )


@dataclass(frozen=True, slots=True)
class _Timed:
    """An engine, and who is told how many seconds it took."""

    engine: Engine
    took: Callable[[float], None]

    @property
    def identity(self) -> Identity:
        return self.engine.identity

    @property
    def languages(self) -> Collection[str] | None:
        return self.engine.languages

    def transcribe(
        self,
        audio: Samples,
        spans: Sequence[Span],
        asked: Asked = NOTHING_KNOWN,
    ) -> Heard:
        started = time.monotonic()
        try:
            return self.engine.transcribe(audio, spans, asked)
        finally:
            self.took(time.monotonic() - started)
