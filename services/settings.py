"""Every setting of the suite: environment variables CALLSTREAM_<KEY>, also from a `.env` file.

Keys of a group are joined by two underscores: CALLSTREAM_INGEST__MAX_BYTES. Settings are resolved
once, at start, and never change; a wrong one is an error that names key and value.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from services.enrich.settings import EnrichSettings
from services.ingest.settings import IngestSettings
from services.notify.settings import NotifySettings
from services.runtime.kafka_client import KafkaSettings
from services.runtime.registry import RegistrySettings
from services.runtime.settings import Policy
from services.runtime.sqlite_log import PARTITIONS
from services.sink.settings import SinkSettings
from services.transcribe.settings import TranscribeSettings

PREFIX = "CALLSTREAM_"


class WrongSetting(Exception):
    """A setting cannot be used; says which, its value, and what is allowed."""


class LogSettings(BaseModel):
    """What carries the events."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["sqlite", "kafka"] = Field(
        "sqlite", description="sqlite: one file under data_dir. kafka: log.kafka says where."
    )
    partitions: int = Field(
        PARTITIONS, ge=1, le=1024, description="Partitions of topics made in the SQLite log."
    )
    kafka: KafkaSettings = Field(default=KafkaSettings(), description="The Kafka cluster.")


class ObjectSettings(BaseModel):
    """Where audio and large bodies lie."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["directory", "s3"] = Field(
        "directory", description="directory: data_dir/objects. s3: an S3-compatible store."
    )
    endpoint: str = Field(
        "", description="host[:port] of the S3-compatible store.", validate_default=True
    )
    bucket: str = Field("callstream", description="Bucket that holds everything.")
    access_key: str | None = Field(None, description="Absent: anonymous.")
    secret_key: SecretStr | None = Field(None, description="Belongs to access_key.")
    region: str = Field("us-east-1", description="Region the store signs for.")
    secure: bool = Field(True, description="https.")

    @field_validator("endpoint")
    @classmethod
    def _host_and_port(cls, endpoint: str, known: ValidationInfo) -> str:
        if "/" in endpoint:
            raise ValueError(
                f"is host[:port] alone; {PREFIX}OBJECTS__SECURE says whether that is https"
            )
        if not endpoint and known.data.get("kind") == "s3":
            raise ValueError(f"{PREFIX}OBJECTS__KIND=s3 needs the store's host[:port]")
        return endpoint


class HttpSettings(BaseModel):
    """/healthz, /readyz and /metrics."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to serve on; nothing there is secret.")
    port: int = Field(0, ge=0, le=65535, description="0: any free port, told in the log.")


class StatusSettings(BaseModel):
    """What `callstream status` asks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    urls: dict[
        Literal["ingest", "transcribe", "enrich", "notify", "sink"],
        Annotated[str, StringConstraints(pattern=r"^https?://")],
    ] = Field(
        default_factory=dict,
        description="Service -> URL of its health server, for those that run on their own.",
    )


class Settings(BaseSettings):
    """The whole suite's settings."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", env_file=".env", frozen=True,
        extra="ignore", env_ignore_empty=True,
    )  # fmt: skip

    data_dir: Path = Field(
        Path(".callstream"), description="Folder of everything the embedded parts keep."
    )
    scratch: Path = Field(
        Path(".callstream/scratch"),
        description="Folder for files in work: recordings, decoded audio, rows on their way.",
    )
    tenant: str = Field("default", description="Tenant of calls that are submitted by hand.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="From which level log lines are written."
    )
    log: LogSettings = Field(default=LogSettings(), description="What carries the events.")
    registry: RegistrySettings = Field(
        default=RegistrySettings(), description="Where schemas are found."
    )
    objects: ObjectSettings = Field(default=ObjectSettings(), description="Where bytes lie.")
    loop: Policy = Field(default=Policy(), description="How stages treat time and failure.")
    http: HttpSettings = Field(default=HttpSettings(), description="Health and metrics.")
    status: StatusSettings = Field(
        default=StatusSettings(), description="What `callstream status` asks."
    )
    ingest: IngestSettings = Field(default=IngestSettings(), description="Fetching recordings.")
    transcribe: TranscribeSettings = Field(
        default=TranscribeSettings(), description="Recordings to text."
    )
    enrich: EnrichSettings = Field(default=EnrichSettings(), description="Text to findings.")
    sink: SinkSettings = Field(default=SinkSettings(), description="The warehouse.")
    notify: NotifySettings = Field(
        default=NotifySettings(), description="Alerts and enriched calls to the outside."
    )

    @property
    def log_file(self) -> Path:
        return self.data_dir / "log.db"


def load(**overrides: Any) -> Settings:
    """The effective settings. Raises WrongSetting.

    What the embedded parts keep lies under `data_dir` unless its own key says otherwise.
    """
    _refuse_unknown({**dotenv_values(".env"), **os.environ})
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        raise WrongSetting("\n".join(_told(error))) from error
    except SettingsError as error:
        raise WrongSetting(_unread(error)) from error
    data = settings.data_dir.absolute()
    updates: dict[str, Any] = {"data_dir": data}
    if "scratch" not in settings.model_fields_set:
        updates["scratch"] = data / "scratch"
    if "path" not in settings.sink.model_fields_set:
        updates["sink"] = settings.sink.model_copy(update={"path": data / "warehouse"})
    return settings.model_copy(update=updates)


def data_folder(settings: Settings) -> Path:
    """`data_dir`, made where it is missing. Raises WrongSetting."""
    folder = settings.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WrongSetting(
            f"{PREFIX}DATA_DIR={folder}: {error.strerror}; what the embedded parts keep needs a "
            "folder that can be written to"
        ) from error
    return folder


_SECRET = re.compile(
    "PASSWORD|SECRET|CREDENTIALS|API_KEY|__S3|__EXTRA|TRANSCRIBE__ENDPOINT(__URL)?$"
    "|ENRICH__LLM(__URL)?$"
)


def _told(error: ValidationError) -> Iterator[str]:
    for item in error.errors():
        loc = item["loc"]
        # A wrong key of a mapping, and a place in a list, lie within a variable's value.
        named = [part for part in loc if isinstance(part, str)]
        if loc[-1:] == ("[key]",):
            named = named[:-2]
        told = PREFIX + "__".join(named).upper()
        # What a misspelt key holds may be a secret too.
        hidden = item["type"] in ("extra_forbidden", "missing") or _SECRET.search(told)
        if not hidden:
            told += f"{'=' if len(named) == len(loc) else ': '}{item['input']!r}"
        yield f"{told}: {item['msg']}"


def _unread(error: SettingsError) -> str:
    """Which variable is not the JSON that it should be. Its value may hold secrets."""
    text = getattr(error.__cause__, "doc", None)
    named = {
        name
        for source in (os.environ, dotenv_values(".env"))
        for name, value in source.items()
        if name.upper().startswith(PREFIX) and value == text
    }
    return (
        f"{' or '.join(sorted(named)) or error}: not JSON; lists and mappings are written as JSON, "
        f"such as {PREFIX}INGEST__ALLOWED_ROOTS='[\"/calls\"]' and "
        f'{PREFIX}STATUS__URLS=\'{{"ingest": "http://HOST:PORT"}}\''
    )


def _refuse_unknown(environ: Mapping[str, str | None]) -> None:
    """A misspelt variable would be silently without effect.

    A variable that resembles no setting is left alone: Kubernetes makes CALLSTREAM_PORT and its
    like for a service of that name.
    """
    defaults = described(Settings.model_construct())
    known = {variable(key) for key, _, _ in defaults}
    groups = {key.rpartition("__")[0] + "__" for key in known if "__" in key}
    tails = {key.rpartition("__")[2]: key for key in sorted(known) if "__" in key}
    for name in environ:
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper in known:
            continue
        if any(upper.startswith(f"{key}__") or key.startswith(f"{upper}__") for key in known):
            continue  # a key inside a mapping, or a whole group as JSON
        near = difflib.get_close_matches(upper, sorted(known), 1, cutoff=0.85)
        if not near and (key := tails.get(upper.rpartition("__")[2].removeprefix(PREFIX))):
            near = [key]
        if near or upper.startswith(tuple(groups)):
            hint = f"did you mean {near[0]}?" if near else "`callstream config` lists them"
            raise WrongSetting(f"{name} is no setting; {hint}")


def variable(key: str) -> str:
    """The environment variable that sets the setting of that dotted key."""
    return PREFIX + key.upper().replace(".", "__")


def described(settings: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """(dotted key, effective value, meaning) of every setting; secrets stay masked."""
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        key = f"{prefix}{name}"
        if isinstance(value, BaseModel):
            yield from described(value, f"{key}.")
        else:
            yield key, value, field.description or ""
