"""Settings of enrich. What is a rule stands in the rule files, not here."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class EnrichSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rules_dir: Path | None = Field(
        default=None,
        description="Folder laid over the built-in rules: a file of the same name replaces the "
        "built-in one, a file more in lexicons/ is added. Folders under tenants/ hold the rules "
        "of one tenant each, laid over these.",
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
    workers: int = Field(default=1, ge=1, le=64, description="Calls handled at once.")
