"""What models come with: libraries that take seconds to import, a hub, files, and how they fail."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx


def library(module: str, asked_by: str, extra: str = "transcribe") -> Any:
    """A module of the `extra`. Raises ValueError, naming the setting that asks for it, where the
    extra is not installed."""
    os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")  # before it is imported
    try:
        with warnings.catch_warnings():
            # Of libraries that read audio files: here they are given samples.
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{asked_by} needs the extra `{extra}` ({error}): pip install 'callstream[{extra}]'"
        ) from error


def torch_device(torch: Any, asked: str) -> str:
    """Where torch is to run a model for which `asked` is auto, cpu or cuda."""
    if asked != "auto":
        return asked
    return "cuda" if torch.cuda.is_available() else "cpu"


def silent_hub(timeout_s: float) -> str | None:
    """Why nothing can be had from the model hub; None where it answers.

    The hub's own client retries for minutes; one plain question bounds the wait.
    """
    constants = importlib.import_module("huggingface_hub.constants")
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        httpx.head(constants.ENDPOINT, timeout=timeout_s)
    except httpx.HTTPError as error:
        return f"the hub cannot be reached ({type(error).__name__})"
    return None


def first_line(error: BaseException) -> str:
    """What a library says when it fails, short enough to be published."""
    return f"{type(error).__name__}: {error}".partition("\n")[0][:300]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library says that its device has no room: CTranslate2, torch, and what they call.

    The room may be another program's, and come back; the same work may fit then, or in parts.
    """
    # cuBLAS and cuDNN say ..._STATUS_ALLOC_FAILED.
    said = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in said or "alloc_failed" in said)


def empty_caches() -> None:
    """Give back what torch, where it is loaded, holds of a GPU and does not use: it is kept from
    whatever else runs there. CTranslate2 does so by itself before it says that there is no room."""
    torch = sys.modules.get("torch")
    with suppress(RuntimeError):  # of a device that is broken, as whatever runs next says
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


def files_hash(folder: Path, files: Iterable[Path]) -> str:
    """SHA-256, in hex, of the names and the content of those `files` of `folder`."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(str(path.relative_to(folder)).encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
