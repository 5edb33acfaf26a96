"""The transcribe stage: CallRecorded in, CallTranscribed out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from schemas import topics
from schemas.events import CallRecorded
from services.runtime.objects import Objects
from services.runtime.observe import logger
from services.runtime.stage import Envelope, Output, Stage, each, utc_now
from services.transcribe.choice import Chosen, ReplayEngines
from services.transcribe.settings import OPTIONS, TranscribeSettings, with_options
from services.transcribe.transcriber import Transcriber
from services.transcribe.vad import Vad


def stage(
    settings: TranscribeSettings,
    objects: Objects,
    chosen: Chosen,
    clock: Callable[[], datetime] = utc_now,
) -> Stage:
    """The stage over `objects`, which hold the audio and keep the results; see Transcriber.

    `chosen` comes from `choose(settings)`. Which engine it is, and why, is logged once here.
    A replay's options are honoured call by call, with engines of their own.
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
    transcriber = Transcriber(settings, objects, chosen, Vad())
    engines = ReplayEngines(settings, chosen)

    def overridden(envelope: Envelope[CallRecorded]) -> Transcriber:
        """As a replay asks for it. What came back from a retry tier stands before live calls."""
        wanted = with_options(settings, envelope.options)
        engine = engines.get(wanted, may_block=envelope.message.topic == topics.REPLAY)
        return replace(transcriber, settings=wanted, chosen=engine)

    def handle(envelope: Envelope[CallRecorded]) -> Sequence[Output]:
        by = overridden(envelope) if envelope.options else transcriber
        transcript = by.transcribe(envelope.event, clock())
        return [] if transcript is None else [Output(transcript)]

    return Stage(
        name="transcribe",
        sources=(topics.RECORDED,),
        targets=(topics.TRANSCRIBED,),
        handle=each(handle),
        workers=settings.workers,
        options=tuple(OPTIONS),
    )
