"""Settings of notify. Where events go stands in the file of endpoints, not here."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class NotifySettings(BaseModel):
    """What holds for every endpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoints_file: Path | None = Field(
        default=None,
        description="File (YAML) of the endpoints that alerts and enriched calls are sent to: "
        "docs/notifying.md. Absent: nothing is sent.",
    )
    max_bytes: int = Field(
        default=256_000,
        ge=10_000,
        le=10_000_000,
        description="Largest body that is sent; what makes it longer is left out, and named.",
    )
    connect_timeout_s: float = Field(
        default=5.0, gt=0, description="Longest wait to be let in by an endpoint."
    )
    pause_max_s: float = Field(
        default=60.0,
        ge=0,
        description="How long an endpoint that fails again and again is left alone at most, unless "
        "it asks for more by Retry-After.",
    )
    retry_after_max_s: float = Field(
        default=3600.0, ge=0, description="Longest Retry-After that is believed."
    )
    alone_s: float = Field(
        default=300.0,
        ge=0,
        description="An event that an endpoint fails on for so long, while it takes others, waits "
        "in the retry tiers from then on and holds up nobody.",
    )
    head_start_s: float = Field(
        default=300.0,
        ge=0,
        description="A new endpoint gets what was made from so long before its first start.",
    )
