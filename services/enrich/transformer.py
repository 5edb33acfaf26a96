"""A model of transformers in this process: where it lies, and how it is loaded.

transformers and torch are imported here alone, when a model is asked for: they take seconds. What a
model brings as code is never run.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from services.runtime.errors import Transient
from services.runtime.libraries import (
    files_hash,
    first_line,
    is_out_of_memory,
    library,
    silent_hub,
    torch_device,
)

Kind = Literal["AutoModelForSequenceClassification", "AutoModelForCausalLM"]

_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._-]+)?")
# What a model folder holds that decides what the model says.
_DECIDING = (".safetensors", ".bin", ".json", ".txt", ".model", ".jinja")
_HUB_TIMEOUT_S = 10.0
# A tokenizer that names no limit says a number near this or above.
_NO_LIMIT = 1 << 30
# Kinds whose positions begin after that of the padding.
_SHIFTED = ("roberta", "camembert", "mpnet", "longformer", "data2vec")


@dataclass(frozen=True, slots=True)
class Transformer:
    """A model, ready to be asked. Not thread-safe: its tokenizer is not."""

    name: str
    """As the hub has it, or the name of its folder; with it, what it is known by: `name@1a2b3c4d`.

    The second part is the hub's revision, or a hash of the files of the folder."""
    device: str
    tokenizer: Any
    model: Any
    torch: Any
    hub: Any
    """The library, transformers."""
    tokens: int
    """What it reads at most, with the tokens that mark begin and end."""


def loaded(kind: Kind, name: str, *, setting: str, revision: str = "", device: str) -> Transformer:
    """The model of that hub name, or in that folder; blocks for seconds, or minutes.

    One of the hub is taken from its cache, and is fetched where it is not there. For a folder
    nobody is asked anything. Raises ValueError, naming `setting`, for what can never be loaded, and
    Transient for what cannot be had now.
    """
    hub, torch = _library("transformers", setting), _library("torch", setting)
    folder = Path(name).expanduser()
    local = folder.is_absolute() or name.startswith(".") or folder.is_dir()
    if local and not (folder / "config.json").is_file():
        raise ValueError(
            f"{setting}={name!r} is no folder with a config.json; name the folder that a model was "
            "saved to, all of it, or a model of the hub"
        )
    if not local and not _HUB_NAME.fullmatch(name):
        raise ValueError(
            f"{setting}={name!r} is neither a folder nor a name of the hub, such as OWNER/MODEL"
        )
    device = torch_device(torch, device)
    told = f"{setting}={name!r}"
    with _quiet(hub):
        if local:
            try:
                parts = _read(hub, kind, str(folder), revision, here=True)
            except Exception as error:  # of every kind: the libraries raise what they like
                raise ValueError(
                    f"{told} cannot be loaded: {first_line(error)}; copy the whole folder of a "
                    f"model of the kind {_KINDS[kind]}"
                ) from error
        else:
            parts = _of_hub(hub, kind, name, revision, told)
    tokenizer, model, missing = parts
    if missing:
        raise ValueError(
            f"{told} has no weights for {', '.join(sorted(missing)[:3])}: it was not trained for "
            f"this; name a model of the kind {_KINDS[kind]}"
        )
    try:
        model = model.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        if is_out_of_memory(error):
            raise Transient(
                "no_room", f"{told} has no room now on {device!r}: {first_line(error)}"
            ) from error
        raise ValueError(
            f"{told} cannot be put on {device!r}: {first_line(error)}; see "
            f"{setting.rpartition('.')[0]}.device"
        ) from error
    own = folder.resolve() if local else None
    return Transformer(
        name=f"{_called(own, name)}@{_short(own, model)}",
        device=device,
        tokenizer=tokenizer,
        model=model,
        torch=torch,
        hub=hub,
        tokens=_limit(tokenizer, model.config),
    )


_KINDS: dict[Kind, str] = {
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForCausalLM": "text-generation",
}


def _of_hub(hub: Any, kind: Kind, name: str, revision: str, told: str) -> tuple[Any, Any, set[str]]:
    mend = "copy its folder here and name that, or let the hub be reached once"
    try:
        return _read(hub, kind, name, revision, here=True)
    except Exception as error:  # of every kind: part of it may be in the cache
        if (why := silent_hub(_HUB_TIMEOUT_S)) is not None:
            raise Transient(
                "model_missing",
                f"{told} cannot be had from the cache ({first_line(error)}) and {why}; {mend}",
            ) from error
    try:
        return _read(hub, kind, name, revision, here=False)
    except OSError as error:
        raise Transient(
            "model_missing", f"{told} cannot be had from the hub ({first_line(error)}); {mend}"
        ) from error
    except Exception as error:  # of every kind, as above
        raise ValueError(
            f"{told} cannot be loaded: {first_line(error)}; name a model of the kind {_KINDS[kind]}"
        ) from error


def _read(
    hub: Any, kind: Kind, name: str, revision: str, *, here: bool
) -> tuple[Any, Any, set[str]]:
    """Tokenizer, model, and the names of the weights that it lacks."""
    asked: dict[str, Any] = {"local_files_only": here, "trust_remote_code": False}
    if revision:
        asked["revision"] = revision
    tokenizer = hub.AutoTokenizer.from_pretrained(name, **asked)
    # In the precision it was saved in where it is large; a classifier is small.
    dtype = "auto" if kind == "AutoModelForCausalLM" else "float32"
    model, found = getattr(hub, kind).from_pretrained(
        name, dtype=dtype, output_loading_info=True, **asked
    )
    return tokenizer, model, set(found["missing_keys"])


def _library(name: str, setting: str) -> Any:
    # It writes of threads to stderr whenever a child is forked, as for decoding audio.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # It asks the hub, in a thread of its own, to convert what it has just read.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "true")
    return library(name, setting, "enrich")


@contextmanager
def _quiet(hub: Any) -> Iterator[None]:
    """Progress bars and advice of the library stay out of the log."""
    log = hub.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _called(folder: Path | None, name: str) -> str:
    """Without the path, and without signs that join names of engines."""
    if folder is not None:
        name = folder.name
        if folder.parent.name == "snapshots":  # of the hub's cache
            name = folder.parents[1].name.removeprefix("models--").replace("--", "/")
    return re.sub(r"[\s+@]+", "-", name)


def _short(folder: Path | None, model: Any) -> str:
    if folder is None or folder.parent.name == "snapshots":
        commit = getattr(model.config, "_commit_hash", None) or (folder.name if folder else "")
        return str(commit)[:8] or "unknown"
    deciding = (path for path in folder.iterdir() if path.suffix in _DECIDING)
    return files_hash(folder, deciding)[:8]


def _limit(tokenizer: Any, config: Any) -> int:
    """The least of what tokenizer and model say; a tokenizer often says nothing."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    limits = [int(tokenizer.model_max_length)]
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length"):
        positions = getattr(text, name, None)
        if isinstance(positions, int) and positions > 0:
            if any(part in text.model_type for part in _SHIFTED):
                positions -= 1 + (text.pad_token_id or 0)
            limits.append(positions)
    return min(limit for limit in [*limits, _NO_LIMIT] if limit > 0)
