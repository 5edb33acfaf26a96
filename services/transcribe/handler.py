"""The transcribe stage: CallRecorded in, CallTranscribed out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from schemas import topics
from schemas.events import CallRecorded
from services.runtime.objects import Objects
from services.runtime.observe import logger
from services.runtime.stage import Envelope, Output, Stage, each, utc_now
from services.transcribe.choice import Chosen
from services.transcribe.settings import TranscribeSettings
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

    def handle(envelope: Envelope[CallRecorded]) -> Sequence[Output]:
        transcript = transcriber.transcribe(envelope.event, clock())
        return [] if transcript is None else [Output(transcript)]

    return Stage(
        name="transcribe",
        sources=(topics.RECORDED,),
        targets=(topics.TRANSCRIBED,),
        handle=each(handle),
        workers=settings.workers,
    )
