"""Settings of enrich. What is a rule stands in the rule files, not here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from services.runtime.errors import Invalid
from services.runtime.stage import refuse_unknown_options

OPTIONS: Mapping[str, str] = {
    "rules": "Name of a folder in enrich.trial_rules_dir, laid over the rules in use.",
}
"""What a replay may override, each with its meaning."""


# What a request is made of; `llm.extra` adds to it and changes none of it.
OWN_FIELDS = frozenset(
    ("model", "messages", "response_format", "max_tokens", "max_completion_tokens", "stream",
     "stream_options", "n", "temperature", "seed", "tools", "tool_choice", "functions")
)  # fmt: skip


_DEVICE = r"^(auto|cpu|cuda(:[0-9]{1,2})?)$"
_REVISION = "Branch, tag or commit of a model of the hub; empty: its newest."


class SentimentSettings(BaseModel):
    """A text classifier of transformers that tells how words feel, in this process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        default="",
        description="Hub name, or folder, of a model that classifies text by sentiment or emotion. "
        "Empty: the lexicons alone tell how words feel.",
    )
    revision: str = Field(default="", pattern=r"^[A-Za-z0-9._/-]*$", description=_REVISION)
    device: str = Field(
        default="auto",
        pattern=_DEVICE,
        description="cpu, cuda or cuda:1; auto: a GPU where there is one.",
    )
    batch: int = Field(
        default=16, ge=1, le=1_024, description="Texts judged at once: memory grows with it."
    )
    labels: dict[str, Annotated[float, Field(ge=-1.0, le=1.0, allow_inf_nan=False)]] = Field(
        default_factory=dict,
        description="Label of the model -> what it is worth, -1.0 (negative) to 1.0 (positive), as "
        'JSON: {"LABEL_0": -1, "LABEL_1": 1}. Needed for labels that are not known by name.',
    )
    languages: list[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]] = Field(
        default_factory=list,
        description='Languages the model reads, as JSON: ["en", "zh"]. Segments in another are '
        "told by the lexicons. Empty: all.",
    )
    max_characters: int = Field(
        default=20_000,
        ge=100,
        le=1_000_000,
        description="A segment with more is told by the lexicons.",
    )

    @field_validator("model")
    @classmethod
    def _is_bare(cls, model: str) -> str:
        return model.strip()

    @model_validator(mode="after")
    def _belongs(self) -> SentimentSettings:
        if not self.model and (self.labels or self.languages):
            raise ValueError(
                "enrich.sentiment.model is not set, and enrich.sentiment.labels and .languages say "
                "something of it; name the model, or unset them"
            )
        return self


class LlmSettings(BaseModel):
    """A language model: of a server that chats as OpenAI's does (vLLM, Ollama, llama.cpp, or
    OpenAI's own), or one that transformers runs in this process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str | None = Field(
        default=None,
        pattern=r"^https?://[!-~]+$",
        description="The server with the path that comes before /chat/completions, such as "
        "http://gpu-1:8000/v1. Unset, and in_process too: summaries are extractive.",
    )
    in_process: bool = Field(
        default=False,
        description="Whether transformers runs the model in this process, in place of a server.",
    )
    api_key: SecretStr = Field(
        default=SecretStr(""), description="Sent as a bearer token; empty: none is sent."
    )
    ca_file: Path | None = Field(
        default=None, description="Certificates (PEM) by which the server is known, beside others."
    )
    model: str = Field(
        default="",
        description="Model as the server names it; in process, its hub name or its folder.",
    )
    revision: str = Field(
        default="", pattern=r"^[A-Za-z0-9._/-]*$", description=f"In process: {_REVISION}"
    )
    device: str = Field(
        default="auto",
        pattern=_DEVICE,
        description="In process: cpu, cuda or cuda:1; auto: a GPU where there is one.",
    )
    send_unredacted: bool = Field(
        default=False,
        description="Whether what is personal is sent too, and may so stand in the summary and its "
        "quotes; otherwise the redacted text alone.",
    )
    prompts_dir: Path | None = Field(
        default=None,
        description="Folder of prompts laid over the built-in ones: a file of the same name "
        "replaces one, a file more adds a language. Folders under tenants/ hold those of one "
        "tenant each.",
    )
    language: str = Field(
        default="",
        pattern=r"^([A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*)?$",
        description="Language summaries are written in (BCP 47); empty: that of the call.",
    )
    enforce: Literal["auto", "json_schema", "json_object", "text"] = Field(
        default="auto",
        description="How the server is asked for JSON. auto: as strictly as it takes it.",
    )
    extra: dict[str, Any] = Field(
        default_factory=dict,
        description="Further fields of every request, as JSON, such as "
        '{"chat_template_kwargs": {"enable_thinking": false}}.',
    )
    seed: int = Field(default=0, ge=0, description="Sent with temperature 0.")
    context_tokens: int = Field(
        default=16_384,
        ge=4_096,
        le=10_000_000,
        description="What the model reads and writes at most, in tokens. A server that cuts what "
        "is longer without a word (Ollama) must be set to at least as much.",
    )
    answer_tokens: int = Field(
        default=1_500, ge=200, description="Longest answer, in tokens, reasoning included."
    )
    connect_timeout_s: float = Field(default=5.0, gt=0, description="Longest wait to be let in.")
    timeout_s: float = Field(
        default=60.0, gt=0, description="Longest a request may take, its answer read to the end."
    )
    max_answer_bytes: int = Field(
        default=1 << 20, ge=1_000, description="A longer answer is not read."
    )
    concurrency: int = Field(
        default=4,
        ge=1,
        le=1_000,
        description="Requests at once, of all calls together; in process there is one.",
    )
    when_away: Literal["extractive", "wait"] = Field(
        default="extractive",
        description="What becomes of a call whose summary the server cannot give: the extractive "
        "summary, saying why, or the call waits for the server, without holding up its alerts.",
    )
    cache: bool = Field(
        default=True,
        description="Whether answers are kept in the object store: a replay of the same words asks "
        "for none of them again.",
    )
    patience_s: float = Field(
        default=20.0,
        ge=0,
        description="Longest a call spends on tries that fail and on the waits between them.",
    )
    call_s: float = Field(
        default=180.0, gt=0, description="Longest a call spends on its summary in all."
    )
    call_requests: int = Field(
        default=60, ge=1, le=10_000, description="Most requests for one call, repeats included."
    )
    call_tokens: int = Field(
        default=400_000, ge=1_000, description="Most tokens for one call, read and written."
    )
    away_calls: int = Field(
        default=3,
        ge=1,
        description="After so many calls in a row that found the server away, no patience is "
        "spent: one call in every away_pause_s asks once.",
    )
    away_pause_s: float = Field(
        default=60.0, gt=0, description="How long the server is then left alone."
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
                "is a server and a path alone; what it is asked with goes into enrich.llm.api_key"
            )
        return url.rstrip("/")

    @field_validator("extra")
    @classmethod
    def _adds(cls, extra: dict[str, Any]) -> dict[str, Any]:
        if own := sorted(OWN_FIELDS & set(extra)):
            raise ValueError(
                f"{', '.join(own)} cannot be set here: only what is added to a request"
            )
        return extra

    @property
    def is_set(self) -> bool:
        """Whether there is a language model."""
        return self.url is not None or self.in_process

    @property
    def requests_at_once(self) -> int:
        """A model in this process answers one after another."""
        return 1 if self.in_process else self.concurrency

    @model_validator(mode="after")
    def _runs_here(self) -> LlmSettings:
        if not self.in_process:
            return self
        if self.url is not None:
            raise ValueError(
                "enrich.llm.url and enrich.llm.in_process are both set; unset the one that is not "
                "meant"
            )
        if not self.model.strip():
            raise ValueError(
                "enrich.llm.in_process is set and enrich.llm.model is not; name the model as the "
                "hub does, or its folder"
            )
        if self.enforce not in ("auto", "text"):
            raise ValueError(
                f"enrich.llm.enforce={self.enforce} is asked of a server; in process nothing "
                "enforces JSON: leave it at auto"
            )
        if beside := sorted(set(self.extra) - {"chat_template_kwargs"}):
            raise ValueError(
                f"enrich.llm.extra: {', '.join(beside)} is sent to a server; in process only "
                "chat_template_kwargs has an effect"
            )
        return self

    @model_validator(mode="after")
    def _fits(self) -> LlmSettings:
        if self.url is not None and not self.model:
            raise ValueError(
                "enrich.llm.url is set and enrich.llm.model is not; name the model as the server "
                "does"
            )
        if self.patience_s > self.call_s:
            raise ValueError(
                f"enrich.llm.patience_s={self.patience_s:g} is more than "
                f"enrich.llm.call_s={self.call_s:g}, which holds it; raise the latter"
            )
        if 2 * self.answer_tokens > self.context_tokens // 2:
            raise ValueError(
                f"enrich.llm.answer_tokens={self.answer_tokens} leaves too little of "
                f"enrich.llm.context_tokens={self.context_tokens}: an answer may take a quarter"
            )
        return self


class EnrichSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rules_dir: Path | None = Field(
        default=None,
        description="Folder laid over the built-in rules: a file of the same name replaces the "
        "built-in one, a file more in lexicons/ is added. Folders under tenants/ hold the rules "
        "of one tenant each, laid over these.",
    )
    trial_rules_dir: Path | None = Field(
        default=None,
        description="Folder of folders of rules that a replay may ask for by name (rules=NAME). "
        "One is laid over the rules in use, as rules_dir is over the built-in ones, and read anew "
        "when a file changes.",
    )
    silence_ms: int = Field(
        default=1_200, ge=100, description="Nobody speaks for longer than this: a silence."
    )
    slow_response_ms: int = Field(
        default=2_000, ge=100, description="The agent answers later than this: a slow response."
    )
    overlap_ms: int = Field(
        default=200, ge=0, description="Speaking at once for at least this long is a moment."
    )
    interruption_ms: int = Field(
        default=500, ge=0, description="Speaking into the other this long is an interruption."
    )
    summary_sentence_characters: int = Field(
        default=240, ge=40, description="Longest sentence of a summary."
    )
    sentiment: SentimentSettings = Field(
        default=SentimentSettings(), description="The model that tells how words feel."
    )
    llm: LlmSettings = Field(
        default=LlmSettings(), description="The language model that writes summaries."
    )
    workers: int = Field(default=1, ge=1, le=64, description="Calls handled at once.")


def trial_rules(options: Mapping[str, str]) -> str | None:
    """The name of the rules that a replay asks for; None where it asks for none.

    Raises Invalid for an option that is none, or a name that cannot be a folder's.
    """
    refuse_unknown_options("enrich", OPTIONS, options)
    name = options.get("rules")
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}", name):
        raise Invalid(
            "unknown_option",
            f"enrich cannot take option rules={name!r}: letters, digits, '_', '-' and '.' "
            "name a folder in enrich.trial_rules_dir",
        )
    return name
