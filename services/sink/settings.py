"""What the sink can be told."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class SinkSettings(BaseModel):
    """Where the warehouse is and how it is fed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="ClickHouse server, as http(s)://host:port. Without it the engine is embedded.",
    )
    user: str = Field(default="default", description="User of the ClickHouse server.")
    password: SecretStr = Field(default=SecretStr(""), description="Password of that user.")
    path: Path = Field(
        default=Path("data/warehouse"),
        description="Folder of the embedded engine; one process at a time may hold it.",
    )
    database: str = Field(
        default="callstream",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Database of all tables and views; made when missing.",
    )
    connect_timeout_s: float = Field(
        default=10.0, gt=0, description="Longest wait for a connection."
    )
    answer_timeout_s: int = Field(default=300, ge=1, description="Longest wait for an answer.")
    words: bool = Field(
        default=True, description="Whether words with their times are kept per segment."
    )
    batch: int = Field(default=1000, ge=1, le=10_000, description="Most events per batch.")
    wait_s: float = Field(default=0.2, ge=0, description="How long a batch may wait to fill.")
    workers: int = Field(
        default=2,
        ge=1,
        description="Batches stored at once: while one is inserted, rows of the next are made.",
    )
