"""Whisper through faster-whisper: where its model lies, and how it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ctranslate2
import faster_whisper
from faster_whisper.utils import download_model
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from schemas.events import Engine as Identity
from services.runtime.errors import Transient
from services.runtime.libraries import files_hash, is_out_of_memory, silent_hub
from services.transcribe.engine import NOTHING_KNOWN, Asked, Heard, Samples
from services.transcribe.settings import TranscribeSettings
from services.transcribe.spans import Span
from services.transcribe.whisper import GAP_MS, Whisper

# Of the windows that a GPU decodes at once.
_GPU_BATCH = 16


class FasterWhisperEngine:
    """A Whisper model on one device, which calls that are transcribed at once share.

    `beam_size` 1 is greedy.
    """

    def __init__(self, folder: Path, settings: TranscribeSettings) -> None:
        """Loads the model in `folder`; blocks for seconds. Raises ValueError where it cannot be."""
        model, made_of = loaded(faster_whisper.WhisperModel, folder, settings)
        self._whisper = Whisper(
            model,
            beam_size=settings.beam_size,
            batch_size=int(made_of.options["batch_size"]),
            task=settings.task,
        )
        self.languages: Collection[str] | None = self._whisper.languages
        self.identity = replace(
            made_of,
            name="faster-whisper",
            version=f"{version('faster-whisper')} (ctranslate2 {version('ctranslate2')})",
        )

    def transcribe(
        self,
        audio: Samples,
        spans: Sequence[Span],
        asked: Asked = NOTHING_KNOWN,
    ) -> Heard:
        return self._whisper.transcribe(audio, spans, asked)


def device_of(settings: TranscribeSettings) -> str:
    """Where a Whisper runs: "cpu" or "cuda"."""
    if settings.device != "auto":
        return settings.device
    return "cuda" if ctranslate2.get_cuda_device_count() else "cpu"


def loaded(
    kind: Callable[..., Any], folder: Path, settings: TranscribeSettings
) -> tuple[Any, Identity]:
    """The model in `folder` as `kind`, and what of its engine's identity follows from it.

    Blocks for seconds. Raises ValueError where it cannot be, Transient where there is no room for
    it now.
    """
    device = device_of(settings)
    compute_type = settings.compute_type
    if compute_type == "auto":
        compute_type = "float16" if device == "cuda" else "int8"
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(
            f"transcribe.model_dir={str(folder)!r} holds no tokenizer.json; "
            "copy the whole model folder"
        )
    try:
        model = kind(
            str(folder),
            device=device,
            compute_type=compute_type,
            cpu_threads=settings.cpu_threads,
            local_files_only=True,
        )
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise Transient(
                "no_room",
                f"the Whisper model in {str(folder)!r} has no room now on "
                f"transcribe.device={device!r}: {error}",
            ) from error
        raise ValueError(
            f"the Whisper model in {str(folder)!r} cannot be loaded with "
            f"transcribe.device={device!r}, transcribe.compute_type={compute_type!r}: {error}"
        ) from error
    identity = Identity(
        name="",
        version="",
        model=folder.name if settings.model_dir is not None else settings.model,
        model_revision=_revision(folder),
        device=device,
        options={
            "compute_type": compute_type,
            "beam_size": str(settings.beam_size),
            "batch_size": str(settings.batch_size or (_GPU_BATCH if device == "cuda" else 1)),
            "window_gap_ms": str(GAP_MS),
            **({"task": settings.task} if settings.task != "transcribe" else {}),
        },
    )
    return model, identity


def locate(settings: TranscribeSettings) -> tuple[Path, str]:
    """The folder of the model that `settings` name, and in words where it was found.

    A model that is not in the cache is fetched, unless HF_HUB_OFFLINE is set; a hub that does not
    answer within `hub_timeout_s` is given up on. Raises ValueError for a wrong setting and
    Transient where the model cannot be had now.
    """
    if settings.model_dir is not None:
        if not (settings.model_dir / "model.bin").is_file():
            what = "holds no model.bin" if settings.model_dir.is_dir() else "is no folder"
            raise ValueError(
                f"transcribe.model_dir={str(settings.model_dir)!r} {what}; "
                "name the folder of a CTranslate2 Whisper model, or unset it"
            )
        return settings.model_dir, "transcribe.model_dir is set"
    name = settings.model
    if "/" not in name and name not in faster_whisper.available_models():
        raise ValueError(
            f"transcribe.model={name!r} is no Whisper model; one of "
            f"{', '.join(faster_whisper.available_models())}, or a hub id with '/'"
        )
    try:
        return Path(download_model(name, local_files_only=True)), "its model is in the cache"
    except (LocalEntryNotFoundError, OSError):
        pass
    why = silent_hub(settings.hub_timeout_s)
    if why is None:
        try:
            return Path(download_model(name)), "its model was fetched from the hub"
        except (HfHubHTTPError, OSError) as error:
            why = f"the hub cannot be reached ({type(error).__name__})"
    raise Transient(
        "model_missing",
        f"transcribe.model={name!r} is not in the cache and {why}; set transcribe.model_dir to a "
        "folder that holds it, or let the hub be reached",
    )


def _revision(folder: Path) -> str:
    """The hub's revision of a cached model, else a hash of the files that decide the result."""
    if folder.parent.name == "snapshots":
        return folder.name
    kinds = (".bin", ".json", ".txt")
    files = [path for path in folder.iterdir() if path.suffix in kinds and path.is_file()]
    return f"sha256:{files_hash(folder, files)[:32]}"
