"""Settings of transcribe: environment variables CALLSTREAM_TRANSCRIBE__<KEY>."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from schemas.events import SegmentKind
from services.runtime.errors import Invalid
from services.runtime.stage import refuse_unknown_options

OPTIONS: Mapping[str, str] = {
    "engine": "What listens, as transcribe.engine.",
    "model": "Whisper model by name or hub id, as transcribe.model; any model_dir is set aside.",
    "language": "BCP 47 tag of every call, as transcribe.language.",
}
"""What a replay may override, each with its meaning."""


LanguageTag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8})*$")]
"""BCP 47."""


class VadSettings(BaseModel):
    """What counts as speech."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float = Field(
        default=0.5, gt=0, lt=1, description="Probability from which a voice is taken to speak."
    )
    min_speech_ms: int = Field(default=100, ge=0, description="Shorter bursts are no speech.")
    min_silence_ms: int = Field(
        default=300, ge=0, description="Shorter pauses do not end a stretch."
    )
    max_speech_s: int = Field(
        default=30, ge=1, description="Longer stretches are parted where speech is least likely."
    )
    pad_ms: int = Field(
        default=200, ge=0, description="Margin kept on both sides of speech for the engine."
    )


class TrustSettings(BaseModel):
    """From where a segment is flagged; nothing is deleted by these."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low_confidence: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="LOW_CONFIDENCE is set below this mean word probability, and always "
        "where the language could not be told.",
    )
    no_speech: float = Field(
        default=0.6,
        ge=0,
        le=1,
        description="No-speech probability from which NO_SPEECH may be set.",
    )
    no_speech_logprob: float = Field(
        default=-1.0, le=0, description="NO_SPEECH needs a mean log probability below this, too."
    )
    repeats: int = Field(
        default=4, ge=2, description="So many repeats of a phrase in a row set REPEAT_LOOP."
    )
    compression_ratio: float = Field(
        default=2.4, gt=1, description="Text that deflates by more than this sets REPEAT_LOOP."
    )


class TranscribeSettings(BaseModel):
    """How recordings become text."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    engine: Literal["auto", "faster-whisper", "whisperx", "pocketsphinx", "stub"] = Field(
        default="auto",
        description="What listens. auto: faster-whisper where its model can be had, else "
        "PocketSphinx (English only). whisperx: the same Whisper, its words placed by alignment "
        "models; needs the extra `transcribe`. stub: no recognition, for load tests.",
    )
    model: str = Field(
        default="small",
        min_length=1,
        description="Whisper model by name or hub id; see model_dir.",
    )
    model_dir: Path | None = Field(
        default=None,
        description="Folder of a CTranslate2 Whisper model; goes before `model`, no hub used.",
    )
    align_models: Mapping[str, str] = Field(
        default={},
        description="whisperx only: language -> folder of a wav2vec2 alignment model, or its name "
        "on the hub, in place of WhisperX's own choice.",
    )
    hub_timeout_s: float = Field(
        default=10.0,
        gt=0,
        description="How long a silent model hub is waited for, when it is first asked.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where Whisper runs."
    )
    compute_type: str = Field(
        default="auto", description="CTranslate2 compute type; auto: int8 on cpu, float16 on cuda."
    )
    cpu_threads: int = Field(
        default=0, ge=0, description="Threads of one inference; 0: the engine's own."
    )
    beam_size: int = Field(default=5, ge=1, description="Whisper's beam; 1 is greedy and faster.")
    task: Literal["transcribe", "translate"] = Field(
        default="transcribe",
        description="translate: Whisper writes English, whatever is spoken. The words then have "
        "rough times.",
    )
    batch_size: int = Field(
        default=0,
        ge=0,
        description="Windows of 30 s, of all calls at work, that are decoded together; "
        "0: 16 on a GPU, 1 elsewhere, where more is no faster.",
    )
    language: LanguageTag | None = Field(
        default=None,
        description="BCP 47 tag of every call; unset: from the call's hints, or detected.",
    )
    queue_languages: Mapping[str, tuple[LanguageTag, ...]] = Field(
        default={},
        description="Queue (id or name) -> the languages that are spoken there, believed where "
        "the platform names none. With two or more each stretch of speech is told on its own.",
    )
    chinese: Literal["as_heard", "simplified", "traditional"] = Field(
        default="as_heard", description="Which characters Chinese is published in."
    )
    vad: VadSettings = Field(default=VadSettings(), description="What counts as speech.")
    trust: TrustSettings = Field(default=TrustSettings(), description="When to flag a segment.")
    masked_kinds: frozenset[SegmentKind] = Field(
        default=frozenset(
            {
                SegmentKind.HOLD,
                SegmentKind.IVR,
                SegmentKind.QUEUE,
                SegmentKind.RINGING,
                SegmentKind.SECURE_PAUSE,
            }
        ),
        description="Telephony intervals that are not transcribed. SECURE_PAUSE always is one.",
    )
    max_channel_s: float = Field(
        default=16 * 3600.0,
        gt=0,
        description="Most seconds of one recording, all its channels together: each takes 64 kB "
        "of scratch. A recording beyond it is refused.",
    )
    cache: bool = Field(default=True, description="Whether results are kept beside the audio.")
    workers: int = Field(
        default=0,
        ge=0,
        description="Calls handled at once, which share the engine's batches; 0: 16 where it runs "
        "on a GPU, 1 elsewhere.",
    )


def with_options(settings: TranscribeSettings, options: Mapping[str, str]) -> TranscribeSettings:
    """`settings` as a replay overrides them. Raises Invalid for an option or value that is none.

    A model asked for is a Whisper's: with `engine` auto it is faster-whisper that loads it, and no
    other engine takes its place.
    """
    refuse_unknown_options("transcribe", OPTIONS, options)
    try:
        asked = TranscribeSettings.model_validate(dict(options))
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise Invalid(
            "unknown_option",
            f"transcribe cannot take option {name}={options[name]!r}: {error.errors()[0]['msg']}",
        ) from None
    wanted = settings.model_copy(update={name: getattr(asked, name) for name in options})
    if "model" not in options:
        return wanted
    if wanted.engine not in ("auto", "faster-whisper", "whisperx"):
        raise Invalid(
            "unknown_option",
            f"transcribe cannot take option model={wanted.model!r}: {wanted.engine} has no models; "
            "ask for engine=faster-whisper too",
        )
    engine = "faster-whisper" if wanted.engine == "auto" else wanted.engine
    return wanted.model_copy(update={"engine": engine, "model_dir": None})
