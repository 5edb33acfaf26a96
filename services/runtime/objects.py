"""Where bytes too large for the log live. The only importer of `minio`."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from services.runtime.errors import Invalid, Transient, cause

if TYPE_CHECKING:
    from minio import Minio


class MissingObject(LookupError):
    """No object under that key."""


class Objects(Protocol):
    """A store of immutable objects. Thread-safe.

    Keys are '/'-separated printable ASCII, without '.' or '..' parts, of at most 1,024 characters
    and 255 a part; no key is ever the folder of another. Every method raises `Transient` when the
    store does not answer or does not let us, and Invalid (`object_key`) for what is no key. A
    written object is durable and whole on return, and never seen in part; writing the same key
    again is harmless.
    """

    def put(self, key: str, data: bytes) -> None: ...

    def put_file(self, key: str, path: Path) -> None:
        """Store the file at `path`; raises FileNotFoundError where there is none."""

    def get(self, key: str) -> bytes:
        """The object's bytes; raises MissingObject."""

    def get_file(self, key: str, path: Path) -> None:
        """Write the object to `path`; raises MissingObject. No part is left behind on failure."""

    def exists(self, key: str) -> bool: ...

    def delete(self, key: str) -> None:
        """Forget the object; no error when there is none."""

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Keys that start with `prefix`, sorted."""


_LONGEST_KEY = 1_024
_LONGEST_PART = 255


def _checked(key: str) -> str:
    parts = key.split("/")
    if not key or not key.isascii() or not key.isprintable() or {"", ".", ".."} & set(parts):
        raise Invalid("object_key", f"{key[:_LONGEST_KEY]!r} is no object key")
    # S3's limit, and that of a file's name: beyond them a store seems to be down.
    if len(key) > _LONGEST_KEY or max(map(len, parts)) > _LONGEST_PART:
        raise Invalid(
            "object_key",
            f"{key[:_LONGEST_PART]!r}... has {len(key)} characters; at most {_LONGEST_KEY}, and "
            f"{_LONGEST_PART} a part, are a key",
        )
    return key


class DirectoryObjects:
    """Objects as files under one folder; written beside, synced, then renamed into place."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / ".incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)

    def _path(self, key: str) -> Path:
        return self._root / _checked(key)

    def put(self, key: str, data: bytes) -> None:
        self._write(key, BytesIO(data))

    def put_file(self, key: str, path: Path) -> None:
        with path.open("rb") as source:
            self._write(key, source)

    def _write(self, key: str, source: BinaryIO) -> None:
        path = self._path(key)
        beside = self._incoming / uuid.uuid4().hex
        with _file_errors(key, writing=True):
            try:
                with beside.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                    file.flush()
                    os.fsync(file.fileno())
                path.parent.mkdir(parents=True, exist_ok=True)
                beside.replace(path)
            finally:
                beside.unlink(missing_ok=True)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def get(self, key: str) -> bytes:
        path = self._path(key)
        with _file_errors(key):
            return path.read_bytes()

    def get_file(self, key: str, path: Path) -> None:
        with _file_errors(key):
            source = self._path(key).open("rb")
        with source:
            _save(key, iter(lambda: source.read(1 << 20), b""), path)

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _file_errors(key):
            path.unlink(missing_ok=True)

    def keys(self, prefix: str = "") -> Iterator[str]:
        folder = self._root.joinpath(*prefix.split("/")[:-1])
        with _file_errors(prefix):
            found = [
                path.relative_to(self._root).as_posix()
                for path in folder.rglob("*")
                if path.is_file() and self._incoming not in path.parents
            ]
        yield from sorted(key for key in found if key.startswith(prefix))


@contextmanager
def _file_errors(key: str, writing: bool = False) -> Iterator[None]:
    """Turns the file system's errors into ours. While writing nothing is missing."""
    try:
        yield
    except OSError as error:
        missing = FileNotFoundError | IsADirectoryError | NotADirectoryError
        if isinstance(error, missing) and not writing:
            raise MissingObject(key) from error
        raise Transient("objects_down", f"{key}: {error.strerror}") from error


def _save(key: str, blocks: Iterable[bytes], path: Path) -> None:
    """Write the object's blocks to `path`, or leave nothing there."""
    try:
        with path.open("wb") as file:
            file.writelines(blocks)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise Transient("scratch", f"{path}: {error.strerror} ({key})") from error
        raise


class S3Objects:
    """Objects in a bucket of any S3-compatible store; files above 16 MiB go up in parts.

    `endpoint` is host[:port]. Making one asks nothing of the network; `check` does.
    """

    PART_BYTES = 16 << 20

    def __init__(
        self,
        endpoint: str,
        bucket: str,
        *,
        access_key: str | None = None,
        secret_key: str | None = None,
        region: str = "us-east-1",
        secure: bool = True,
        connect_timeout_s: float = 5.0,
        read_timeout_s: float = 60.0,
        attempts: int = 3,
        connections: int = 32,
    ) -> None:
        from minio import Minio
        from urllib3 import PoolManager, Retry, Timeout

        self._bucket = bucket
        self._where = f"{bucket} at {endpoint}"
        self._client: Minio = Minio(
            endpoint,
            access_key=access_key,
            secret_key=secret_key,
            region=region,
            secure=secure,
            http_client=PoolManager(
                maxsize=connections,
                timeout=Timeout(connect=connect_timeout_s, read=read_timeout_s),
                retries=Retry(
                    total=attempts - 1,
                    backoff_factor=0.2,
                    status_forcelist=(500, 502, 503, 504),
                    raise_on_status=False,
                ),
            ),
        )

    def check(self, create: bool = False) -> None:
        """Raises ValueError naming the setting to mend when the store refuses us, for good.

        Makes the bucket where there is none and `create` is set. Raises Transient when the store
        does not answer.
        """
        from minio.error import S3Error

        with self._errors("", settings=True):
            try:
                # Listing names the reason of a refusal, which asking for the bucket does not.
                next(iter(self._client.list_objects(self._bucket)), None)
            except S3Error as error:
                if not create or error.code != "NoSuchBucket":
                    raise
                self._client.make_bucket(self._bucket)

    def put(self, key: str, data: bytes) -> None:
        with self._errors(_checked(key)):
            self._client.put_object(
                self._bucket, key, BytesIO(data), len(data), part_size=self.PART_BYTES
            )

    def put_file(self, key: str, path: Path) -> None:
        _checked(key)
        with path.open("rb") as file, self._errors(key):
            size = os.fstat(file.fileno()).st_size
            self._client.put_object(self._bucket, key, file, size, part_size=self.PART_BYTES)

    def get(self, key: str) -> bytes:
        return b"".join(self.stream(_checked(key)))

    def get_file(self, key: str, path: Path) -> None:
        _save(key, self.stream(_checked(key)), path)

    def stream(self, key: str) -> Iterator[bytes]:
        """The object in blocks, as it arrives; `key` may be any, for buckets that others fill."""
        with self._errors(key):
            answer = self._client.get_object(self._bucket, key)
            try:
                yield from answer.stream(1 << 20)
            finally:
                answer.close()
                answer.release_conn()

    def exists(self, key: str) -> bool:
        try:
            with self._errors(_checked(key)):
                self._client.stat_object(self._bucket, key)
        except MissingObject:
            return False
        return True

    def delete(self, key: str) -> None:
        with self._errors(_checked(key)):
            self._client.remove_object(self._bucket, key)

    def keys(self, prefix: str = "") -> Iterator[str]:
        with self._errors(prefix):
            listed = self._client.list_objects(self._bucket, prefix or None, recursive=True)
            found = [str(each.object_name) for each in listed]
        yield from sorted(found)

    @contextmanager
    def _errors(self, key: str, settings: bool = False) -> Iterator[None]:
        """Turns the client's errors into ours. With `settings`, refusals are a ValueError."""
        from minio.error import MinioException, S3Error
        from urllib3.exceptions import HTTPError

        try:
            yield
        except S3Error as error:
            if error.code in ("NoSuchKey", "NoSuchObject"):
                raise MissingObject(key) from error
            mend = _MENDS.get(str(error.code))
            if mend is None and error.response.status in (401, 403):
                mend = "objects.access_key: the store refuses it"
            if mend is None:
                told = f"{self._where}: {error.code}"
                raise Transient("objects_down", f"{told} ({key})" if key else told) from error
            if settings:
                raise ValueError(f"{mend} ({self._where}: {error.code})") from error
            raise Transient("objects_refused", f"{mend} ({self._where}: {error.code})") from error
        except (MinioException, HTTPError, OSError) as error:
            told = f"{self._where}: {cause(error)}"
            if "ssl" in told.lower():
                told += "; CALLSTREAM_OBJECTS__SECURE=true is for a store that speaks https"
            raise Transient("objects_down", f"{told} ({key})" if key else told) from error


# What an S3 store's refusal says about our settings.
_MENDS = {
    "InvalidAccessKeyId": "objects.access_key: the store does not know it",
    "XAdminUserNotFound": "objects.access_key: the store does not know it",  # versitygw's word
    "SignatureDoesNotMatch": "objects.secret_key: it does not fit the access key",
    "AccessDenied": "objects.access_key: it may not use the bucket",
    "AllAccessDisabled": "objects.access_key: it may not use the bucket",
    "NoSuchBucket": "objects.bucket: there is none of that name; create it, or name another",
    "AuthorizationHeaderMalformed": "objects.region: the store expects another",
    "RequestTimeTooSkewed": "the clocks of this machine and the store differ",
}
