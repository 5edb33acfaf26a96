"""Libraries of the extra `transcribe`, which take seconds to import: when they are needed."""

from __future__ import annotations

import importlib
import os
import warnings
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
