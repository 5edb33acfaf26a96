"""What can be set about ingest."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from services.runtime.audio import AudioLimits


class Credential(BaseModel):
    """What is shown to a recording host. Recordings name it by `credential_ref`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["bearer", "basic", "header"] = Field(
        description="bearer: Authorization: Bearer <secret>. basic: user name and secret. "
        "header: <header>: <secret>."
    )
    secret: SecretStr = Field(description="Token, password or header value.")
    hosts: tuple[str, ...] = Field(
        min_length=1,
        description="The only hosts it is shown to, over https: a call cannot send it elsewhere.",
    )
    username: str = Field("", description="For basic.")
    header: str = Field("", description="Header name, for header.")


class S3Source(BaseModel):
    """Where recordings named s3://<bucket>/... lie."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str = Field(description="host[:port] of the S3-compatible store.")
    access_key: str | None = Field(None, description="Absent: anonymous.")
    secret_key: SecretStr | None = Field(None, description="Belongs to access_key.")
    region: str = Field("us-east-1", description="Region the store signs for.")
    secure: bool = Field(True, description="https.")


class IngestSettings(BaseModel):
    """How recordings are fetched, and which are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int = Field(8, ge=1, description="Calls fetched at once.")
    partial: bool = Field(
        False,
        description="Publish what is stored when another recording of the call is not ready. That "
        "one is then listed as pending and fetched only when the platform amends the call.",
    )

    allowed_roots: tuple[Path, ...] = Field(
        (), description="Folders from which file:// and plain paths may be read."
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Hosts (as written in the URL) that may have private addresses."
    )
    allow_private: bool = Field(
        False,
        description="Fetch from private and loopback addresses too; link-local and cloud metadata "
        "addresses stay refused.",
    )
    ca_file: Path | None = Field(
        None, description="PEM file of further certificate authorities to trust."
    )
    credentials: dict[str, Credential] = Field(
        default_factory=dict, description="What recordings' credential_ref may name."
    )
    s3: dict[str, S3Source] = Field(
        default_factory=dict, description="Buckets from which s3:// recordings may be read."
    )

    connect_timeout_s: float = Field(10.0, gt=0, description="For one connection attempt.")
    read_timeout_s: float = Field(30.0, gt=0, description="Longest silence of a host.")
    fetch_timeout_s: float = Field(1800.0, gt=0, description="For one whole recording.")
    max_redirects: int = Field(5, ge=0, description="Redirects followed, each checked anew.")

    max_bytes: int = Field(2 << 30, gt=0, description="Largest recording.")
    max_duration_s: float = Field(8 * 3600.0, gt=0, description="Longest recording, as decoded.")
    max_sample_rate_hz: int = Field(192_000, gt=0, description="Highest sample rate.")
    max_channels: int = Field(16, gt=0, description="Most channels.")
    probe_cpu_s: int = Field(300, gt=0, description="Processor time of the probing process.")
    probe_memory_bytes: int = Field(
        1 << 30, gt=0, description="Address space of the probing process."
    )
    probe_wall_s: float = Field(900.0, gt=0, description="Longest wait for the probing process.")

    drop_folder: Path | None = Field(
        None, description="Folder watched for recordings; absent: none is. It is an allowed root."
    )
    drop_tenant_id: str = Field("default", description="Whose calls the drop folder holds.")
    drop_settle_s: float = Field(
        5.0, ge=0, description="A dropped file is taken when unchanged for this long."
    )
    drop_move: bool = Field(
        True,
        description="Move taken files to done/; otherwise leave them, with a marker in .taken/.",
    )

    @property
    def roots(self) -> tuple[Path, ...]:
        """Every folder that files may be read from."""
        return (*self.allowed_roots, *((self.drop_folder,) if self.drop_folder else ()))

    @property
    def audio_limits(self) -> AudioLimits:
        return AudioLimits(
            max_bytes=self.max_bytes,
            max_duration_s=self.max_duration_s,
            max_sample_rate_hz=self.max_sample_rate_hz,
            max_channels=self.max_channels,
            cpu_s=self.probe_cpu_s,
            memory_bytes=self.probe_memory_bytes,
            wall_s=self.probe_wall_s,
        )
