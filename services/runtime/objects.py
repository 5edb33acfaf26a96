"""Where bytes too large for the log live. The only importer of `minio`."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from services.runtime.errors import Invalid, Transient


class MissingObject(LookupError):
    """No object under that key."""


class Objects(Protocol):
    """A store of immutable objects. Thread-safe.

    Keys are '/'-separated printable ASCII, without '.' or '..' parts. Every method raises
    `Transient` when the store does not answer. A written object is durable and whole on return,
    and never seen in part; writing the same key again is harmless.
    """

    def put(self, key: str, data: bytes) -> None: ...

    def put_file(self, key: str, path: Path) -> None: ...

    def get(self, key: str) -> bytes:
        """The object's bytes; raises MissingObject."""

    def get_file(self, key: str, path: Path) -> None:
        """Write the object to `path`; raises MissingObject."""

    def exists(self, key: str) -> bool: ...

    def delete(self, key: str) -> None:
        """Forget the object; no error when there is none."""

    def keys(self, prefix: str = "") -> Iterator[str]: ...


def _checked(key: str) -> str:
    parts = key.split("/")
    if not key or not key.isascii() or not key.isprintable() or {"", ".", ".."} & set(parts):
        raise Invalid("object_key", f"{key!r} is no object key")
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
        beside = self._incoming / uuid.uuid4().hex
        with self._io(key):
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._place(beside, self._path(key))

    def put_file(self, key: str, path: Path) -> None:
        beside = self._incoming / uuid.uuid4().hex
        with self._io(key):
            with path.open("rb") as source, beside.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
            self._place(beside, self._path(key))

    def _place(self, beside: Path, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def get(self, key: str) -> bytes:
        with self._io(key):
            return self._path(key).read_bytes()

    def get_file(self, key: str, path: Path) -> None:
        with self._io(key):
            shutil.copyfile(self._path(key), path)

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        with self._io(key):
            self._path(key).unlink(missing_ok=True)

    def keys(self, prefix: str = "") -> Iterator[str]:
        for path in sorted(self._root.rglob("*")):
            if path.is_file() and self._incoming not in path.parents:
                key = path.relative_to(self._root).as_posix()
                if key.startswith(prefix):
                    yield key

    def _io(self, key: str) -> _Guard:
        return _Guard(key)


class _Guard:
    """Turns the file system's errors into ours."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
            raise MissingObject(self._key) from error
        if isinstance(error, OSError):
            raise Transient("objects_down", f"{self._key}: {error.strerror}") from error
