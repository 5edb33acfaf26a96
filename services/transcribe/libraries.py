"""What engines and diarizers load: libraries that take seconds to import, files of models."""

from __future__ import annotations

import hashlib
import importlib
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def library(module: str, asked_by: str) -> Any:
    """A module of the extra. Raises ValueError, naming the setting that asks for it, where the
    extra is not installed."""
    os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")  # before it is imported
    try:
        with warnings.catch_warnings():
            # Of libraries that read audio files: here they are given samples.
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{asked_by} needs the extra `transcribe` ({error}): "
            "pip install 'callstream[transcribe]'"
        ) from error


def first_line(error: Exception) -> str:
    """What a library says when it fails, short enough to be published."""
    return f"{type(error).__name__}: {error}".partition("\n")[0][:300]


def files_hash(folder: Path, files: Iterable[Path]) -> str:
    """SHA-256, in hex, of the names and the content of those `files` of `folder`."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(str(path.relative_to(folder)).encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
