"""Fetch a recording from where the platform says it lies, or refuse to.

A URI comes from outside and is not trusted: it may point into our own network, at a host that
never ends, or at a file that is none of its business. The addresses of a host are looked up here,
checked, and the very address that was checked is the one connected to; every redirect starts over.
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
import stat
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO
from urllib.parse import SplitResult, unquote, urlsplit

import httpcore
import httpx

from schemas.events import Recording
from services.ingest.settings import Credential, IngestSettings, S3Source
from services.runtime.addresses import (
    CheckedBackend,
    ForbiddenAddress,
    Resolve,
    system_addresses,
)
from services.runtime.errors import Invalid, NotYet, Transient
from services.runtime.objects import MissingObject, S3Objects
from services.runtime.stage import utc_now

_BLOCK = 1 << 16

# The host may say otherwise later: not there yet, not allowed yet, busy, or down.
_LATER = frozenset({202, 204, 401, 403, 404, 408, 409, 423, 425, 429})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


def redacted(uri: str) -> str:
    """`uri` without user info, query and fragment: what may be logged and stored."""
    bare = re.split(r"[?#]", uri, maxsplit=1)[0]
    return re.sub(r"^([^/]*//)[^/]*@", r"\1", bare)


@dataclass(frozen=True, slots=True)
class Fetched:
    sha256: str
    size_bytes: int


class Fetch:
    """Writes a recording's bytes to a file. Thread-safe.

    Blocks up to `fetch_timeout_s`; from a bucket or a file, by one read longer: of a bucket that
    is `read_timeout_s` and the store's retries, of a network mount that hangs it has no end.

    Raises Invalid: `no_uri`, `bad_uri`, `scheme`, `credentials_in_url`, `forbidden_address`,
    `path_not_allowed`, `unknown_bucket`, `too_many_redirects`, `downgrade`, `content_encoding`,
    `too_many_bytes`, `checksum_mismatch`, `gone`, `http_status`.
    Raises NotYet: `not_there`, `not_allowed`, `busy`, `host_failed`, `unreachable_host`,
    `unknown_credential`, `broken_off`, `too_slow`, `bad_certificate`.
    Raises Transient (`scratch`) where the file cannot be written.
    """

    def __init__(
        self,
        settings: IngestSettings,
        resolve: Resolve = system_addresses,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Raises ValueError where `ca_file` cannot be read."""
        self._settings = settings
        self._resolve = resolve
        self._clock = clock
        # One for all: making one reads every certificate authority.
        self._tls = httpx.create_ssl_context(trust_env=False)
        if settings.ca_file is not None:
            try:
                self._tls.load_verify_locations(settings.ca_file)
            except OSError as error:
                raise ValueError(f"ingest.ca_file {settings.ca_file}: {error}") from error

    def __call__(self, recording: Recording, to: Path) -> Fetched:
        uri = recording.uri
        if not uri:
            raise Invalid("no_uri", f"recording {recording.recording_id!r} has no uri")
        sink = _Sink(to, self._settings)
        try:
            with sink:
                scheme = uri.partition("://")[0].lower() if "://" in uri else "path"
                match scheme:
                    case "http" | "https":
                        self._http(uri, recording.credential_ref, sink)
                    case "s3":
                        self._s3(uri, sink)
                    case "file":
                        self._file(_path_of(uri), sink)
                    case "path" if uri.startswith("/"):
                        self._file(Path(uri), sink)
                    case _:
                        raise Invalid(
                            "scheme", f"{redacted(uri)!r}: http(s), s3, file and paths are fetched"
                        )
        except OSError as error:
            raise Transient("scratch", f"{to.parent}: {error.strerror}") from error
        fetched = Fetched(sink.sha256.hexdigest(), sink.count)
        _check(recording, fetched)
        return fetched

    # --- http -----------------------------------------------------------------------------------

    def _http(self, uri: str, credential_ref: str | None, sink: _Sink) -> None:
        settings = self._settings
        credential = self._credential(credential_ref)
        url = _url(uri)
        for _ in range(settings.max_redirects + 1):
            location = self._get(url, credential, sink)
            if location is None:
                return
            target = _url(location, url)
            if url.scheme == "https" and target.scheme == "http":
                raise Invalid("downgrade", f"{redacted(str(url))} redirects from https to http")
            url = target
        raise Invalid("too_many_redirects", f"{redacted(uri)}: more than {settings.max_redirects}")

    def _get(self, url: httpx.URL, credential: Credential | None, sink: _Sink) -> str | None:
        """Write the body to `sink`; or the place the host sends us to."""
        settings = self._settings
        where = redacted(str(url))
        backend = CheckedBackend(
            sink.deadline,
            self._resolve,
            lambda host: settings.allow_private or host in settings.allowed_hosts,
        )
        headers = [
            ("Host", url.netloc.decode("ascii")),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
            ("User-Agent", "callstream-ingest"),
            *_authorization(credential, url),
        ]
        timeout = {
            "connect": settings.connect_timeout_s,
            "read": settings.read_timeout_s,
            "write": settings.read_timeout_s,
        }
        pool = httpcore.ConnectionPool(
            ssl_context=self._tls,
            network_backend=backend,
            max_connections=1,
        )
        try:
            with (
                pool,
                pool.stream(
                    "GET", str(url), headers=headers, extensions={"timeout": timeout}
                ) as answer,
            ):
                told = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in answer.headers}
                if answer.status in _REDIRECTS and "location" in told:
                    return told["location"]
                self._judge(answer.status, told, where)
                length = told.get("content-length", "")
                if length.isdecimal() and int(length) > settings.max_bytes:
                    raise Invalid(
                        "too_many_bytes",
                        f"{where}: {length} bytes, allowed are {settings.max_bytes}",
                    )
                sink.write_all(answer.iter_stream())
        except ForbiddenAddress as error:
            mend = "ingest.allowed_hosts may name it" if error.liftable else "nothing lifts this"
            raise Invalid("forbidden_address", f"{error}; {mend}") from error
        except httpcore.TimeoutException as error:
            if time.monotonic() >= sink.deadline:
                raise NotYet(
                    "too_slow", f"{where}: not done within {settings.fetch_timeout_s:g} s"
                ) from error
            raise NotYet("unreachable_host", f"{where}: no answer in time") from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            if isinstance(error.__cause__, ssl.SSLCertVerificationError) or isinstance(
                error.__context__, ssl.SSLCertVerificationError
            ):
                raise NotYet("bad_certificate", f"{where}: {error}") from error
            if sink.count:
                raise NotYet("broken_off", f"{where}: after {sink.count} bytes") from error
            raise NotYet("unreachable_host", f"{where}: {type(error).__name__}") from error
        return None

    def _judge(self, status: int, headers: dict[str, str], where: str) -> None:
        if status == 200:
            encoding = headers.get("content-encoding", "identity").lower()
            if encoding != "identity":
                raise Invalid("content_encoding", f"{where}: {encoding}; identity was asked for")
            return
        after_s = self._retry_after(headers.get("retry-after"))
        if status in _LATER or status >= 500:
            reason = {
                202: "not_there", 204: "not_there", 404: "not_there",
                401: "not_allowed", 403: "not_allowed",
            }.get(status, "host_failed" if status >= 500 else "busy")  # fmt: skip
            raise NotYet(reason, f"{where}: HTTP status {status}", after_s)
        if status == 410:
            raise Invalid("gone", f"{where}: HTTP status 410")
        raise Invalid("http_status", f"{where}: HTTP status {status}")

    def _retry_after(self, value: str | None) -> float | None:
        if value is None:
            return None
        if value.strip().isdecimal():
            return float(value)
        try:
            when = parsedate_to_datetime(value)
        except ValueError:
            return None
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return max(0.0, (when - self._clock()).total_seconds())

    def _credential(self, ref: str | None) -> Credential | None:
        if not ref:
            return None
        credential = self._settings.credentials.get(ref)
        if credential is None:
            # Waits rather than fails: the mend is a setting of ours.
            raise NotYet(
                "unknown_credential",
                f"credential_ref {ref!r} is not among ingest.credentials; add it there",
            )
        return credential

    # --- s3 and files ---------------------------------------------------------------------------

    def _s3(self, uri: str, sink: _Sink) -> None:
        parts = _parts(uri)
        bucket, key = parts.netloc, unquote(parts.path.lstrip("/"))
        source = self._settings.s3.get(bucket)
        if source is None:
            raise Invalid(
                "unknown_bucket", f"{redacted(uri)}: bucket {bucket!r} is not among ingest.s3"
            )
        try:
            sink.write_all(_store(source, bucket, self._settings).stream(key))
        except MissingObject as error:
            raise NotYet("not_there", f"{redacted(uri)}: no such object") from error
        except Transient as error:  # theirs, not our object store
            raise NotYet("unreachable_host", error.detail) from error

    def _file(self, path: Path, sink: _Sink) -> None:
        refusal = Invalid("path_not_allowed", f"{path} is not under ingest.allowed_roots")
        roots = [root.resolve() for root in self._settings.roots]
        try:
            real = path.resolve()
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL
            raise Invalid("path_not_allowed", f"{str(path)!r}: {error}") from error
        if not any(real.is_relative_to(root) for root in roots):
            raise refusal
        try:
            # Not blocking: the path may be a pipe that nobody writes to.
            handle = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise NotYet("not_there", f"{path}: no such file") from error
        except OSError as error:
            raise NotYet("not_allowed", f"{path}: {error.strerror}") from error
        try:
            # What was opened counts, whatever the path has become since it was resolved.
            opened = Path(f"/proc/self/fd/{handle}")
            if opened.exists() and not any(opened.resolve().is_relative_to(root) for root in roots):
                raise refusal
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise Invalid("path_not_allowed", f"{path} is not a regular file")
            sink.write_all(_blocks(handle, path))
        finally:
            os.close(handle)


def _blocks(handle: int, path: Path) -> Iterator[bytes]:
    try:
        while block := os.read(handle, _BLOCK):
            yield block
    except OSError as error:
        raise NotYet("host_failed", f"{path}: {error.strerror}") from error


def _check(recording: Recording, fetched: Fetched) -> None:
    told, size = recording.sha256, recording.size_bytes
    if told and told.lower() != fetched.sha256:
        raise Invalid("checksum_mismatch", f"sha256 is {fetched.sha256}, the platform says {told}")
    if size is not None and size != fetched.size_bytes:
        raise Invalid(
            "checksum_mismatch", f"{fetched.size_bytes} bytes came, the platform says {size}"
        )


def _url(uri: str, base: httpx.URL | None = None) -> httpx.URL:
    """`uri`, from `base` where it is relative to one. It may come from a host: no text is safe."""
    try:
        url = httpx.URL(uri) if base is None else base.join(uri)
        host = url.host  # decodes IDNA, and refuses what `URL` has let pass
    except (httpx.InvalidURL, ValueError) as error:
        raise Invalid("bad_uri", f"{redacted(uri)[:200]!r}: {error}") from error
    if url.scheme not in ("http", "https"):
        raise Invalid("scheme", f"{redacted(uri)!r}: redirected to {url.scheme!r}")
    if not host:
        raise Invalid("bad_uri", f"{redacted(uri)!r} names no host")
    if url.userinfo:
        raise Invalid(
            "credentials_in_url",
            f"{redacted(uri)}: name credentials by credential_ref, not in the URL",
        )
    return url


def _authorization(credential: Credential | None, url: httpx.URL) -> list[tuple[str, str]]:
    if credential is None or url.scheme != "https" or url.host not in credential.hosts:
        return []
    secret = credential.secret.get_secret_value()
    match credential.kind:
        case "bearer":
            return [("Authorization", f"Bearer {secret}")]
        case "basic":
            pair = b64encode(f"{credential.username}:{secret}".encode()).decode()
            return [("Authorization", f"Basic {pair}")]
        case "header":
            return [(credential.header, secret)]


def _store(source: S3Source, bucket: str, settings: IngestSettings) -> S3Objects:
    secret = source.secret_key.get_secret_value() if source.secret_key else None
    return S3Objects(
        source.endpoint,
        bucket,
        access_key=source.access_key,
        secret_key=secret,
        region=source.region,
        secure=source.secure,
        connect_timeout_s=settings.connect_timeout_s,
        read_timeout_s=settings.read_timeout_s,
    )


def _path_of(uri: str) -> Path:
    parts = _parts(uri)
    if parts.netloc not in ("", "localhost"):
        raise Invalid("bad_uri", f"{redacted(uri)!r}: a file URI names no host")
    return Path(unquote(parts.path))


def _parts(uri: str) -> SplitResult:
    try:
        return urlsplit(uri)
    except ValueError as error:
        raise Invalid("bad_uri", f"{redacted(uri)!r}: {error}") from error


class _Sink:
    """A file being written: counts and hashes, and stops at the limits of bytes and time."""

    def __init__(self, path: Path, settings: IngestSettings) -> None:
        self._path = path
        self._max_bytes = settings.max_bytes
        self._timeout_s = settings.fetch_timeout_s
        self.deadline = time.monotonic() + settings.fetch_timeout_s
        self._file: BinaryIO | None = None
        self.sha256 = hashlib.sha256()
        self.count = 0

    def __enter__(self) -> None:
        self._file = self._path.open("wb")

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write_all(self, blocks: Iterable[bytes]) -> None:
        assert self._file is not None
        for block in blocks:
            if time.monotonic() >= self.deadline:
                raise NotYet("too_slow", f"not done within {self._timeout_s:g} s")
            self.count += len(block)
            if self.count > self._max_bytes:
                raise Invalid("too_many_bytes", f"more than the {self._max_bytes} bytes allowed")
            self.sha256.update(block)
            self._file.write(block)
