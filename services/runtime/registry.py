"""A schema registry that speaks Confluent's API, asked over HTTP; nothing is registered by use.

A schema that is looked up is kept: what an id means never changes. Registering is a step of its
own, for whoever rolls out a version of the schemas.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from schemas.topics import BY_RECORD, Topic
from services.runtime.codec import VERSIONS
from services.runtime.errors import Invalid, Transient

COMPATIBILITY = "FULL_TRANSITIVE"
# No schema of ours comes near; what a registry may say beyond this is not read.
LARGEST_ANSWER_BYTES = 4 << 20

_NO_SUBJECT, _NO_VERSION, _NO_SCHEMA = 40401, 40402, 40403
_PATH = "with its path, such as http://host:8080/apis/ccompat/v7 of Apicurio's"
_MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
# How long an id that nobody knew is not asked for again, and how many such ids are remembered: a
# message may name any id.
_UNKNOWN_S = 30.0
_UNKNOWN_IDS = 10_000


class RegistrySettings(BaseModel):
    """Where schemas are found by the ids in messages."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Confluent-compatible schema registry, with its path where it has one. "
        "Without it the schemas that come with this suite are the registry.",
    )
    user: str = Field("", description="User of the registry; empty: no authentication.")
    password: SecretStr = Field(SecretStr(""), description="Password of that user.")
    ca_file: Path | None = Field(
        None, description="Certificates (PEM) by which the registry is known, beside no others."
    )
    timeout_s: float = Field(10.0, gt=0, description="Longest wait for an answer.")


@dataclass(frozen=True, slots=True)
class Version:
    """One file of `schemas/versions/`: its number, its topic, and the text that is registered."""

    number: int
    topic: Topic
    text: str


@dataclass(frozen=True, slots=True)
class Drift:
    """Where the registry is not as `schemas/versions/` is."""

    subject: str
    what: str


class _Answer(Exception):
    """The registry refuses, and says why with a code of its API."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        # Codes are a status with two digits more, or a plain status.
        self.status = code if code < 1000 else code // 100


class HttpRegistry:
    """The registry at `settings.url`, which must be set. Thread-safe.

    Every method raises Transient when the registry does not answer, or not as a registry does.
    """

    def __init__(self, settings: RegistrySettings, folder: Path = VERSIONS) -> None:
        if settings.url is None:
            raise ValueError("registry.url is not set")
        self._settings = settings
        self._url = settings.url.rstrip("/")
        self._versions = _versions(folder)
        self._lock: Final = Lock()
        self._schemas: dict[int, Mapping[str, Any]] = {}
        self._ids: dict[str, int] = {}
        self._unknown: dict[int, float] = {}
        self._client = httpx.Client(
            auth=(settings.user, settings.password.get_secret_value()) if settings.user else None,
            verify=_tls(settings.ca_file),
            timeout=settings.timeout_s,
            headers={
                "Accept": f"{_MEDIA_TYPE}, application/json",
                "Accept-Encoding": "identity",  # what is counted is what was sent
            },
        )

    def close(self) -> None:
        """Let the connections go."""
        self._client.close()

    def schema(self, schema_id: int) -> Mapping[str, Any]:
        """The schema under that id; Invalid when there is none or it is no Avro record."""
        with self._lock:
            if (found := self._schemas.get(schema_id)) is not None:
                return found
            known_missing = self._unknown.get(schema_id, 0.0) > time.monotonic()
        # A registry counts in 31 bits and stumbles over more, which a message can name.
        if known_missing or not 0 < schema_id < 1 << 31:
            raise _unknown_id(schema_id)
        try:
            answer = self._ask("GET", f"/schemas/ids/{schema_id}")
        except _Answer as refused:
            if refused.code != _NO_SCHEMA:
                raise self._refused(refused) from None
            with self._lock:
                if len(self._unknown) >= _UNKNOWN_IDS:
                    self._unknown.clear()
                self._unknown[schema_id] = time.monotonic() + _UNKNOWN_S
            raise _unknown_id(schema_id) from None
        except _TooLarge:
            raise Invalid(
                "wrong_schema",
                f"schema id {schema_id} has more than {LARGEST_ANSWER_BYTES} bytes; it is none of "
                "ours",
            ) from None
        schema = _record(schema_id, answer)
        with self._lock:
            self._schemas[schema_id] = schema
        return schema

    def schema_id(self, topic: Topic) -> int:
        """The id under which values of `topic` are written: that of its newest version here.

        Transient while that version is not registered: the call is not to blame.
        """
        with self._lock:
            if (found := self._ids.get(topic.name)) is not None:
                return found
        newest = [version for version in self._versions if version.topic == topic]
        if not newest:
            raise ValueError(f"{topic.name} carries original bytes, not events")
        registered = self._registered(newest[-1])
        if registered is None:
            raise Transient(
                "schema_not_registered",
                f"version {newest[-1].number} of {topic.record} is not registered under "
                f"{topic.subject} at {self._url}; `callstream schemas register` does that",
            )
        with self._lock:
            self._ids[topic.name] = registered[0]
        return registered[0]

    def register(self, dry_run: bool = False) -> Iterator[str]:
        """Register what is missing, oldest first, and require FULL_TRANSITIVE of every subject.

        Yields a line for each step that is done, or with `dry_run` for each that would be. Raises
        ValueError when the registry finds a version incompatible.
        """
        for topic, versions in self._by_topic():
            subject = quote(topic.subject, safe="")
            for version in versions:
                if self._registered(version) is not None:
                    continue
                if dry_run:
                    yield f"would register version {version.number} under {topic.subject}"
                    continue
                try:
                    answer = self._ask(
                        "POST", f"/subjects/{subject}/versions", {"schema": version.text}
                    )
                except _Answer as refused:
                    if refused.status in (409, 422):
                        raise ValueError(
                            f"version {version.number} is refused under {topic.subject}: {refused}"
                        ) from None
                    raise self._refused(refused) from None
                yield (
                    f"registered version {version.number} under {topic.subject}, "
                    f"id {_whole(answer, 'id')}"
                )
            if self._compatibility(topic) != COMPATIBILITY:
                if dry_run:
                    yield f"would require {COMPATIBILITY} of {topic.subject}"
                    continue
                self._asked("PUT", f"/config/{subject}", {"compatibility": COMPATIBILITY})
                yield f"{topic.subject} requires {COMPATIBILITY}"

    def drift(self) -> Iterator[Drift]:
        """Everything in which the registry differs from `schemas/versions/`."""
        for topic, versions in self._by_topic():
            subject = quote(topic.subject, safe="")
            ours = set()
            for version in versions:
                registered = self._registered(version)
                if registered is None:
                    yield Drift(topic.subject, f"version {version.number} is not registered")
                else:
                    ours.add(registered[1])
            try:
                numbers = self._ask("GET", f"/subjects/{subject}/versions")
            except _Answer as refused:
                if refused.code != _NO_SUBJECT:
                    raise self._refused(refused) from None
                continue
            if not isinstance(numbers, list):
                raise self._strange(f"GET /subjects/{subject}/versions", "no list")
            for number in numbers:
                if number not in ours:
                    yield Drift(topic.subject, f"its version {number} is none of schemas/versions")
            level = self._compatibility(topic)
            if level != COMPATIBILITY:
                yield Drift(topic.subject, f"compatibility is {level}, not {COMPATIBILITY}")

    def _by_topic(self) -> Iterator[tuple[Topic, Sequence[Version]]]:
        for topic in dict.fromkeys(version.topic for version in self._versions):
            yield topic, [version for version in self._versions if version.topic == topic]

    def _registered(self, version: Version) -> tuple[int, int] | None:
        """Id and number of `version` under its subject."""
        path = f"/subjects/{quote(version.topic.subject, safe='')}"
        try:
            answer = self._ask("POST", path, {"schema": version.text})
        except _Answer as refused:
            if refused.code in (_NO_SUBJECT, _NO_VERSION, _NO_SCHEMA):
                return None
            raise self._refused(refused) from None
        return _whole(answer, "id"), _whole(answer, "version")

    def _compatibility(self, topic: Topic) -> str | None:
        """What is required of the subject itself, or of all subjects."""
        for path in (f"/config/{quote(topic.subject, safe='')}", "/config"):
            try:
                answer = self._ask("GET", path)
            except _Answer as refused:
                if refused.status != 404:
                    raise self._refused(refused) from None
                continue
            if isinstance(answer, dict):
                return str(answer.get("compatibilityLevel"))
        return None

    def _asked(self, method: str, path: str, body: object = None) -> Any:
        """As `_ask`, where no refusal is expected."""
        try:
            return self._ask(method, path, body)
        except _Answer as refused:
            raise self._refused(refused) from None

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        """The answer, as JSON. Raises _Answer for a refusal, _TooLarge, Transient."""
        deadline = time.monotonic() + self._settings.timeout_s
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": _MEDIA_TYPE} if content is not None else {}
        whole = bytearray()
        try:
            with self._client.stream(
                method, self._url + path, content=content, headers=headers
            ) as answer:
                for part in answer.iter_raw():  # as they come: a size would be waited for
                    whole += part
                    if len(whole) > LARGEST_ANSWER_BYTES:
                        raise _TooLarge(f"{method} {path}: more than {LARGEST_ANSWER_BYTES} bytes")
                    if time.monotonic() > deadline:
                        raise Transient(
                            "registry_down",
                            f"{self._url}: an answer was not complete after "
                            f"{self._settings.timeout_s} s",
                        )
        except httpx.HTTPError as error:
            raise Transient(
                "registry_down", f"{self._url}: {type(error).__name__}: {error}"
            ) from error
        status = answer.status_code
        if status in (401, 403):
            raise Transient(
                "registry_refused",
                f"{self._url} answers {status}; see registry.user and registry.password",
            )
        try:
            found = json.loads(bytes(whole))
        except (ValueError, RecursionError):
            raise self._strange(f"{method} {path}", f"status {status} and no JSON") from None
        if status == 200:
            return found
        code = found.get("error_code") if isinstance(found, dict) else None
        if status >= 500 or status == 429 or not isinstance(code, int):
            raise self._strange(f"{method} {path}", f"status {status}")
        raise _Answer(code, str(found.get("message"))[:500])

    def _strange(self, asked: str, what: str) -> Transient:
        return Transient(
            "registry_down",
            f"{self._url} answers {asked} with {what}; is CALLSTREAM_REGISTRY__URL that of a "
            f"schema registry, {_PATH}?",
        )

    def _refused(self, refused: _Answer) -> Transient:
        told = f"{self._url}: {refused.code}: {refused}"
        if refused.code in (404, 405):  # no code of the API's: the server knows no such page
            told += f"; is CALLSTREAM_REGISTRY__URL {_PATH}?"
        return Transient("registry_refused", told)


class _TooLarge(Transient):
    """An answer is larger than any should be."""

    def __init__(self, detail: str) -> None:
        super().__init__("registry_down", detail)


def _versions(folder: Path) -> list[Version]:
    """By number, with the text written in one way: registries compare it byte by byte."""
    found = []
    for path in sorted(folder.glob("*.avsc")):
        number, record = path.stem.split("-", 1)
        text = json.dumps(json.loads(path.read_text()), separators=(",", ":"), ensure_ascii=False)
        found.append(Version(int(number), BY_RECORD[record], text))
    return found


def _record(schema_id: int, answer: object) -> Mapping[str, Any]:
    """The Avro record in what a registry says about an id; Invalid when it is something else."""
    if not isinstance(answer, dict) or not isinstance(answer.get("schema"), str):
        raise Transient(
            "registry_down", f"schema id {schema_id} is answered without a schema in it"
        )
    kind = answer.get("schemaType", "AVRO")
    if kind != "AVRO":
        raise Invalid("wrong_schema", f"schema id {schema_id} is {str(kind)[:40]}, not AVRO")
    try:
        schema = json.loads(answer["schema"])
        if not isinstance(schema, dict) or schema.get("type") != "record":
            raise Invalid("wrong_schema", f"schema id {schema_id} is no record of ours")
        _Sizes().read(schema)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Invalid("wrong_schema", f"schema id {schema_id} is no Avro schema") from None
    except _Unbounded:
        raise Invalid(
            "wrong_schema",
            f"schema id {schema_id} has an array or map of items that take no byte: a short "
            "message could claim any number of them",
        ) from None
    return schema


class _Unbounded(Exception):
    """An array or map whose items take no byte."""


class _Sizes:
    """Reads a schema and knows which of its types take no byte."""

    def __init__(self) -> None:
        self._empty: dict[str, bool] = {}

    def read(self, schema: Any, space: str = "") -> bool:
        """Whether a value of it takes no byte. Raises _Unbounded."""
        if isinstance(schema, list):
            for branch in schema:
                self.read(branch, space)
            return False
        if isinstance(schema, str):
            if "." not in schema and space and f"{space}.{schema}" in self._empty:
                return self._empty[f"{space}.{schema}"]
            return self._empty.get(schema, schema == "null")
        kind = schema["type"]
        if isinstance(kind, dict | list):
            return self.read(kind, space)
        if kind in ("array", "map"):
            if self.read(schema["items" if kind == "array" else "values"], space):
                raise _Unbounded
            return False
        if kind not in ("record", "error", "fixed", "enum"):
            return self.read(kind, space)
        full = schema["name"]
        if "." not in full and (space := schema.get("namespace", space)):
            full = f"{space}.{full}"
        space = full.rpartition(".")[0]
        # Within itself a record is reached only through what takes a byte.
        self._empty[full] = False
        if kind == "fixed":
            self._empty[full] = schema["size"] == 0
        elif kind != "enum":
            sizes = [self.read(field["type"], space) for field in schema["fields"]]
            self._empty[full] = all(sizes)
        return self._empty[full]


def _whole(answer: object, name: str) -> int:
    value = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(value, int):
        raise Transient("registry_down", f"the registry answers without a number {name!r}")
    return value


def _unknown_id(schema_id: int) -> Invalid:
    return Invalid(
        "unknown_schema_id",
        f"schema id {schema_id} is not in the registry; was the message written with another?",
    )


def _tls(ca_file: Path | None) -> Any:
    if ca_file is None:
        return True
    import ssl

    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"registry.ca_file {str(ca_file)!r} cannot be used: {error}") from error
