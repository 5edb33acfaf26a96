"""How a stage's loop treats time and failure: CALLSTREAM_LOOP__<KEY>."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from schemas.topics import RETRY_TIERS


class Policy(BaseModel):
    """How the loop treats time and failure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_flight: int = Field(
        64,
        ge=1,
        description="Most messages worked on or ready for it, beyond one batch per worker. Behind "
        "one that is not finished, or not due, its partition holds finished ones too: no more than "
        "twice the larger of a quarter of this and of what all workers take at once.",
    )
    attempts: int = Field(
        3, ge=1, description="Tries of a message that fails unexpectedly, before a dead letter."
    )
    backoff_s: float = Field(
        0.5, ge=0, description="First wait after a failure; doubles, with jitter."
    )
    backoff_max_s: float = Field(30.0, ge=0, description="Longest wait after a failure.")
    patience_s: float = Field(
        72 * 3600.0, ge=0, description="How long a call may say NotYet before it is given up."
    )
    tier_delays_s: tuple[float, ...] = Field(
        tuple(tier.delay_ms / 1000 for tier in RETRY_TIERS),
        description="How long each retry tier holds a message.",
    )
    tier_tries: int = Field(
        5, ge=1, description="How often a tier is used before the next, longer one."
    )
    breaker_in_a_row: int = Field(
        5, ge=1, description="Unexpected failures in a row, of different messages, that stop it."
    )
    breaker_share: float = Field(
        0.5, ge=0, le=1, description="Share of unexpected failures in the window that stops it."
    )
    breaker_window: int = Field(20, ge=1, description="Messages in that window.")
    grace_s: float = Field(
        10.0, ge=0, description="How long a stop waits for what is being worked on."
    )
    commit_records: int = Field(
        1_000, ge=1, description="Most messages whose outputs go into one commit."
    )
    commit_wait_s: float = Field(
        0.05,
        ge=0,
        description="How long what is finished may wait for more, while more is worked on, before "
        "it is committed. A commit costs the same whatever it holds.",
    )

    replay_share: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Most of its time that a stage gives replays while live calls come; else all.",
    )
    replay_gather_s: float = Field(
        2.0,
        ge=0,
        description="How often the sink stores what replays make; live calls go in between.",
    )

    @field_validator("tier_delays_s")
    @classmethod
    def _one_per_tier(cls, delays: tuple[float, ...]) -> tuple[float, ...]:
        if len(delays) != len(RETRY_TIERS):
            raise ValueError(
                f"tier_delays_s has {len(delays)} delays, there are {len(RETRY_TIERS)} retry "
                f"tiers: {', '.join(tier.topic for tier in RETRY_TIERS)}"
            )
        return delays
