"""A process's folder for files in work: what a killed process left is deleted by the next."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "work-"


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """Let `tempfile` work in a folder of this process under `parent`, deleted on leaving.

    The folder is locked for as long as the process lives, so what lies there unlocked is of one
    that was killed: recordings and transcripts of customers, which nobody else would delete.
    Raises OSError where `parent` cannot be written. One at a time in a process.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{_PREFIX}*"):
        if (lock := _locked(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = _locked(folder)
        # Another process may have found it before it was locked.
        if lock is not None and folder.exists():
            break
        if lock is not None:
            os.close(lock)
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked(folder: Path) -> int | None:
    """A lock on the folder that ends with this process; None where another has it or it is gone."""
    with suppress(FileNotFoundError, NotADirectoryError):
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return lock
    return None
