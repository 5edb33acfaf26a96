"""Settings of enrich. What is a rule stands in the rule files, not here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from services.runtime.errors import Invalid
from services.runtime.stage import refuse_unknown_options

OPTIONS: Mapping[str, str] = {
    "rules": "Name of a folder in enrich.trial_rules_dir, laid over the rules in use.",
}
"""What a replay may override, each with its meaning."""


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
