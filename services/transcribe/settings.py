"""Settings of transcribe: environment variables CALLSTREAM_TRANSCRIBE__<KEY>."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from schemas.events import SegmentKind
from services.runtime.errors import Invalid
from services.runtime.stage import refuse_unknown_options
from services.transcribe.roles import RoleSettings

OPTIONS: Mapping[str, str] = {
    "engine": "What listens, as transcribe.engine.",
    "model": "Whisper model by name or hub id, as transcribe.model; any model_dir is set aside. "
    "Of engine=openai a model of the server.",
    "language": "BCP 47 tag of every call, as transcribe.language.",
}
"""What a replay may override, each with its meaning."""


EngineName = Literal[
    "auto", "faster-whisper", "whisperx", "sensevoice", "openai", "pocketsphinx", "stub"
]
Named = Literal["faster-whisper", "whisperx", "sensevoice", "openai", "pocketsphinx", "stub"]
"""An engine that is meant, and no other in its place."""
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
        default=30,
        ge=1,
        description="Stretches that are longer with their margins are parted where speech is least "
        "likely.",
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


class EndpointSettings(BaseModel):
    """A server that transcribes as OpenAI's does: vLLM, speaches, whisper.cpp, or OpenAI's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str | None = Field(
        default=None,
        pattern=r"^https?://[!-~]+$",
        description="The server with the path that comes before /audio/transcriptions, such as "
        "http://gpu-1:8000/v1.",
    )
    api_key: SecretStr = Field(
        default=SecretStr(""), description="Sent as a bearer token; empty: none is sent."
    )
    ca_file: Path | None = Field(
        default=None, description="Certificates (PEM) by which the server is known, beside others."
    )
    model: str = Field(default="", description="Model as the server names it.")
    revision: str = Field(
        default="",
        description="Anything that changes when the server has another model under that name: "
        "results are kept under it.",
    )
    languages: frozenset[LanguageTag] | None = Field(
        default=None, description="Languages that the model knows; unset: any."
    )
    response_format: Literal["auto", "verbose_json", "json"] = Field(
        default="auto",
        description="verbose_json has times, which not every model can give, json has text alone. "
        "auto: as much as the server gives.",
    )
    longest_s: float = Field(
        default=30.0,
        ge=1,
        le=1_800,
        description="Longest stretch in one request, of 32 kB a second. Where the server gives no "
        "times, text is known to lie somewhere in its stretch.",
    )
    prompt_characters: int = Field(
        default=400,
        ge=0,
        description="Room for terms and a prompt in a request. A Whisper looks back on 224 tokens.",
    )
    connect_timeout_s: float = Field(default=5.0, gt=0, description="Longest wait to be let in.")
    timeout_s: float = Field(
        default=120.0, gt=0, description="Longest a request may take, its answer read to the end."
    )
    busy_wait_s: float = Field(
        default=30.0,
        ge=0,
        description="Longest wait, within a call, for a server that says it is busy; beyond it "
        "the call starts again later, from where it was.",
    )
    max_answer_bytes: int = Field(
        default=2 << 20, ge=1_000, description="A longer answer is not read."
    )
    concurrency: int = Field(
        default=4, ge=1, le=1_000, description="Requests at once, of all calls together."
    )

    @field_validator("url")
    @classmethod
    def _is_bare(cls, url: str | None) -> str | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url)
            bad = not parts.hostname or parts.username is not None or parts.query or parts.fragment
            _ = parts.port
        except ValueError as error:
            raise ValueError(f"is no URL: {error}") from None
        if bad:
            raise ValueError(
                "is a server and a path alone; what it is asked with goes into "
                "transcribe.endpoint.api_key"
            )
        return url.rstrip("/")


class SenseVoiceSettings(BaseModel):
    """SenseVoice, through FunASR."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_dir: Path | None = Field(
        default=None,
        description="Folder of a SenseVoiceSmall model (config.yaml, model.pt, am.mvn, the "
        "tokenizer); goes before `model`, no hub is asked.",
    )
    model: str = Field(
        default="iic/SenseVoiceSmall", min_length=1, description="Its name on the hub."
    )
    hub: Literal["ms", "hf"] = Field(
        default="ms", description="ms: ModelScope. hf: Hugging Face, where names differ."
    )
    written: bool = Field(
        default=True,
        description="With punctuation, and numbers in digits; otherwise as spoken.",
    )
    word_times: bool = Field(
        default=False,
        description="Whether FunASR places the words, which takes time; else their times are "
        "spread.",
    )


class EngineRule(BaseModel):
    """Which calls are heard by another engine. What is not said matches every call."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str = Field(default="", description="What the published reason calls it.")
    tenants: frozenset[str] = Field(default=frozenset(), description="Tenants of the calls.")
    languages: frozenset[LanguageTag] = Field(
        default=frozenset(),
        description="Languages of which the call is believed to be in one; a call of which none "
        "is known matches no languages.",
    )
    queues: frozenset[str] = Field(default=frozenset(), description="Queues, by id or name.")
    shorter_than_s: float | None = Field(default=None, gt=0, description="Length of the call.")
    longer_than_s: float | None = Field(default=None, ge=0, description="Length of the call.")
    engine: Named = Field(description="What listens to them.")
    model: str | None = Field(
        default=None, min_length=1, description="Its model, by name; unset: as the settings say."
    )
    model_dir: Path | None = Field(
        default=None, description="Folder of its model, of a Whisper or a SenseVoice."
    )

    @model_validator(mode="after")
    def _has_a_model_to_choose(self) -> EngineRule:
        with_engine(TranscribeSettings(), self.engine, self.model, self.model_dir)
        return self


class TranscribeSettings(BaseModel):
    """How recordings become text."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    engine: EngineName = Field(
        default="auto",
        description="What listens. auto: faster-whisper; while its model cannot be had, which is "
        "tried every minute, PocketSphinx (English only). whisperx: the same Whisper, its words "
        "placed by alignment models; needs the extra `transcribe`. sensevoice: Chinese, Cantonese, "
        "English, Japanese and Korean, with emotions and sounds; needs the extra `sensevoice`. "
        "openai: a server, see transcribe.endpoint. "
        "stub: no recognition, for load tests.",
    )
    rules: tuple[EngineRule, ...] = Field(
        default=(),
        description="Calls that another engine listens to; the first rule that matches counts. "
        'Such as [{"languages": ["yue"], "engine": "sensevoice"}].',
    )
    fallbacks: tuple[Named, ...] = Field(
        default=(),
        description="Engines that listen in turn where the one that was to cannot be loaded, is "
        "away for longer than fallback_after_s, fails at one call for minutes, or does not know "
        "the call's language. Each transcript says that one did. Without any, calls wait.",
    )
    fallback_after_s: float = Field(
        default=300.0,
        ge=0,
        description="How long an engine may be away before a fallback listens.",
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
    endpoint: EndpointSettings = Field(
        default=EndpointSettings(), description="The server of engine=openai."
    )
    sensevoice: SenseVoiceSettings = Field(
        default=SenseVoiceSettings(), description="The model of engine=sensevoice."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where Whisper and SenseVoice run."
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
        description="Windows of 30 s, of all calls at work, that are decoded together; of "
        "SenseVoice stretches of one call. 0: 16 on a GPU, 1 elsewhere, where more is no faster.",
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
    diarizer: Literal["auto", "pyannote", "resemblyzer", "none"] = Field(
        default="auto",
        description="What parts the voices of people who share a channel. auto: pyannote where its "
        "model is here, else Resemblyzer where that is installed, else none; none, too, under "
        "engines that are for trying out. Both need the extra `transcribe`.",
    )
    diarizer_model: str = Field(
        default="",
        description="pyannote: name on the hub or folder of the pipeline; Resemblyzer: its file "
        "of weights. Empty: pyannote/speaker-diarization-community-1, the weights in the package.",
    )
    diarizer_longest_s: float = Field(
        default=2 * 3600.0,
        gt=0,
        description="Longest recording whose voices pyannote parts, whose memory grows with the "
        "square of the length; Resemblyzer parts any.",
    )
    roles: RoleSettings = Field(default=RoleSettings(), description="Who is agent, who customer.")
    vocabulary_dir: Path | None = Field(
        default=None,
        description="Folder of vocabularies: terms, prompts and corrections, see "
        "docs/vocabulary.md.",
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
        description="Calls handled at once, which share the engine's batches, so that a long one "
        "does not hold up all others; 0: 16 where it runs on a GPU, 2 elsewhere.",
    )

    @model_validator(mode="after")
    def _can_be_kept(self) -> TranscribeSettings:
        endpoint = self.endpoint
        for which, engine in (
            *(
                (f"rules: {rule_name(number, rule)}", rule.engine)
                for number, rule in enumerate(self.rules, 1)
            ),
            *(
                (f"fallbacks: number {number}", engine)
                for number, engine in enumerate(self.fallbacks, 1)
            ),
        ):
            if engine == "openai" and (endpoint.url is None or not endpoint.model):
                raise ValueError(
                    f"transcribe.{which} names openai, which needs transcribe.endpoint.url and "
                    "transcribe.endpoint.model"
                )
            if self.task == "translate" and engine in ("sensevoice", "openai"):
                raise ValueError(
                    f"transcribe.{which} names {engine}, which writes what is spoken: "
                    "transcribe.task=translate needs a Whisper here"
                )
        return self


def rule_name(number: int, rule: EngineRule) -> str:
    """What a rule is called where it is told of; `number` counts from 1."""
    return f"rule {number}" + (f" ({rule.name})" if rule.name else "")


def with_engine(
    settings: TranscribeSettings,
    engine: EngineName,
    model: str | None = None,
    model_dir: Path | None = None,
) -> TranscribeSettings:
    """`settings` with another engine, and a model of it by name or folder.

    With a model `auto` is faster-whisper: no other engine takes its place. Raises ValueError for an
    engine that has no such choice.
    """
    if model is None and model_dir is None:
        return settings.model_copy(update={"engine": engine})
    if engine in ("auto", "faster-whisper", "whisperx"):
        engine = "faster-whisper" if engine == "auto" else engine
        named = {"model": model or settings.model, "model_dir": model_dir}
        return settings.model_copy(update={"engine": engine, **named})
    if engine == "openai" and model_dir is None:
        endpoint = settings.endpoint.model_copy(update={"model": model})
        return settings.model_copy(update={"engine": engine, "endpoint": endpoint})
    if engine == "sensevoice" and model is None:
        sensevoice = settings.sensevoice.model_copy(update={"model_dir": model_dir})
        return settings.model_copy(update={"engine": engine, "sensevoice": sensevoice})
    which = f"model={model!r}" if model is not None else f"model_dir={str(model_dir)!r}"
    raise ValueError(f"{which}: {engine} has no models; ask for engine=faster-whisper too")


def with_options(settings: TranscribeSettings, options: Mapping[str, str]) -> TranscribeSettings:
    """`settings` as a replay overrides them. Raises Invalid for an option or value that is none.

    A model asked for with `engine` auto is a Whisper's: faster-whisper loads it, and no other
    engine takes its place.
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
    wanted = settings.model_copy(
        update={"language": asked.language} if "language" in options else {}
    )
    engine = asked.engine if "engine" in options else settings.engine
    try:
        return with_engine(wanted, engine, options.get("model"))
    except ValueError as error:
        raise Invalid("unknown_option", f"transcribe cannot take option {error}") from None
