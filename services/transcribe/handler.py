"""The transcribe stage: CallRecorded in, CallTranscribed out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime

from schemas import topics
from schemas.events import CallRecorded, CallTranscribed
from services.runtime.objects import Objects
from services.runtime.observe import logger
from services.runtime.process import way_given
from services.runtime.stage import Envelope, Output, Stage, each, utc_now
from services.transcribe.choice import Chosen, Engines, runs_on_gpu, wanted_for
from services.transcribe.diarizer import NO_PARTING, Parting
from services.transcribe.roles import load_roles
from services.transcribe.settings import OPTIONS, TranscribeSettings
from services.transcribe.transcriber import Transcriber
from services.transcribe.vad import Vad
from services.transcribe.vocabulary import load_vocabularies

# Calls at work at once where they share a GPU, and elsewhere: one alone would hold up every other
# for as long as it is.
_GPU_WORKERS, _CPU_WORKERS = 16, 2


def stage(
    settings: TranscribeSettings,
    objects: Objects,
    chosen: Chosen,
    parting: Parting | Callable[[str], Parting] = NO_PARTING,
    clock: Callable[[], datetime] = utc_now,
    listened: Callable[[float], None] = lambda seconds: None,
) -> Stage:
    """The stage over `objects`, which hold the audio and keep the results; see Transcriber.

    `chosen` comes from `choose(settings)`, `parting` from `choose_diarizer`, or is `Partings`,
    which tell it by who listens: both are logged once here. Raises FileError for vocabularies or
    phrases that cannot be used. `listened` is told the seconds that each call of an engine took.
    Rules, fallbacks and a replay's options are honoured call by call, see Engines. What a replay of
    ingest has made is not listened to where it comes, before live calls: it is asked for as a
    replay.
    """
    identity = chosen.engine.identity

    def parting_of(engine: str) -> Parting:
        return parting if isinstance(parting, Parting) else parting(engine)

    first = parting_of(identity.name)
    logger("transcribe").info(
        "engine chosen",
        engine=identity.name,
        version=identity.version,
        model=identity.model,
        device=identity.device,
        reason=chosen.reason,
        diarizer=first.diarizer.identity if first.diarizer is not None else "none",
    )
    transcriber = Transcriber(
        settings,
        objects,
        chosen,
        Vad(),
        first,
        load_vocabularies(settings.vocabulary_dir),
        load_roles(settings.roles),
    )
    engines = Engines(settings, chosen, listened=listened)

    def handle(envelope: Envelope[CallRecorded]) -> Sequence[Output]:
        if envelope.generation and envelope.message.topic == topics.RECORDED:
            return [way_given("transcribe", envelope)]
        event, replay = envelope.event, envelope.generation > 0

        def listen(its: TranscribeSettings, who: Chosen) -> CallTranscribed | None:
            parts = parting_of(who.engine.identity.name)
            by = replace(transcriber, settings=its, chosen=who, parting=parts)
            return by.transcribe(event, clock(), replay=replay)

        wanted = wanted_for(event, settings, envelope.options, replay=replay)
        transcript = engines.hear(wanted, listen)
        return [] if transcript is None else [Output(transcript)]

    return Stage(
        name="transcribe",
        sources=(topics.RECORDED,),
        targets=(topics.TRANSCRIBED, topics.REPLAY),
        handle=each(handle),
        workers=_workers(settings, chosen),
        options=tuple(OPTIONS),
    )


def _workers(settings: TranscribeSettings, chosen: Chosen) -> int:
    """Calls at work at once: as many as who listens to most of them can share.

    What the settings want counts as well as who listens now: a stage that began with a fallback is
    as wide as it has to be when its engine is back.
    """
    wanted = {rule.engine for rule in settings.rules}
    if chosen.begun is not None:
        wanted.add("faster-whisper" if settings.engine == "auto" else settings.engine)
    on_gpu = chosen.engine.identity.device == "cuda" or any(
        runs_on_gpu(settings, engine) for engine in sorted(wanted)
    )
    return calls_at_once(settings, {chosen.engine.identity.name, *wanted}, on_gpu=on_gpu)


def calls_at_once(settings: TranscribeSettings, engines: Collection[str], *, on_gpu: bool) -> int:
    """How many calls are at work at once where `engines` listen, `on_gpu` if one of them does."""
    if settings.workers:
        return settings.workers
    return max(
        _GPU_WORKERS if on_gpu else _CPU_WORKERS,
        settings.endpoint.concurrency if "openai" in engines else 1,
    )
