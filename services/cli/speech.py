"""What doctor finds of GPUs, models and their libraries' versions. Never imports torch itself."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, NamedTuple

from huggingface_hub import get_token, try_to_load_from_cache

from services.cli import gpu
from services.enrich.settings import LlmSettings
from services.runtime.errors import Transient
from services.runtime.libraries import silent_hub
from services.transcribe.settings import TranscribeSettings, rule_name, with_engine

Verdict = Literal["ok", "warn", "fail"]

_WHISPERS = ("auto", "faster-whisper", "whisperx")
_TORCH = ("whisperx", "sensevoice")
ON_GPU = frozenset({*_WHISPERS, *_TORCH})
"""Engines that run on a GPU where there is one."""
_FALLBACKS = "transcribe.fallbacks"
# What CTranslate2 and torch are built for runs on drivers of the same number.
_CUDA = 12
_EXTRA = "pip install -c constraints.txt 'callstream[transcribe]'"
_ENRICH = "pip install -c constraints.txt 'callstream[enrich]'"
_WEIGHTS = "pip install --no-deps Resemblyzer==0.1.4"
# How long the hub may take to say that it is there.
_HUB_S = 5.0
_PYANNOTE = "pyannote/speaker-diarization-community-1"


class Finding(NamedTuple):
    """`mend` is empty where all is well."""

    verdict: Verdict
    found: str
    mend: str = ""


def _together(findings: Sequence[Finding]) -> Finding:
    """All that was found, under the worst verdict."""
    worst = max((it.verdict for it in findings), key=("ok", "warn", "fail").index)
    return Finding(
        worst,
        "; ".join(it.found for it in findings),
        "; ".join(dict.fromkeys(it.mend for it in findings if it.mend)),
    )


def engines(wanted: TranscribeSettings) -> dict[str, TranscribeSettings]:
    """What each engine that may listen is to run with, by the setting that names it: the one that
    is wanted, those of rules, fallbacks. None is in it twice."""
    named = {f"transcribe.engine={wanted.engine}": wanted}
    for number, rule in enumerate(wanted.rules, 1):
        its = with_engine(wanted, rule.engine, rule.model, rule.model_dir)
        named[f"transcribe.rules: {rule_name(number, rule)}, {rule.engine}"] = its
    for engine in wanted.fallbacks:
        named[f"{_FALLBACKS}: {engine}"] = with_engine(wanted, engine)
    found: dict[str, TranscribeSettings] = {}
    for name, its in named.items():
        if its not in found.values():
            found[name] = its
    return found


def _of_each(
    wanted: TranscribeSettings, check: Callable[[TranscribeSettings], Sequence[Finding]]
) -> list[Finding]:
    """What `check` finds of every engine that may listen. One that only stands in for another
    fails no machine: it may never be needed."""
    found: list[Finding] = []
    for name, its in engines(wanted).items():
        for it in check(its):
            if its is not wanted and it.verdict != "ok":
                it = it._replace(found=f"{name}: {it.found}")
            if name.startswith(_FALLBACKS) and it.verdict == "fail":
                it = it._replace(verdict="warn")
            found.append(it)
    return list(dict.fromkeys(found))


def gpus(wanted: TranscribeSettings) -> Finding:
    """Whether the engines find the GPU that they would run on, and the libraries for it."""
    named = {its.engine for its in engines(wanted).values()}
    if named.isdisjoint(ON_GPU):
        return Finding("ok", f"transcribe.engine={wanted.engine} uses none")
    if wanted.device == "cpu":
        return Finding("ok", "transcribe.device=cpu uses none")
    cards = gpu.cards()
    told = ", ".join(map(str, cards))
    seen = gpu.look(torch=not named.isdisjoint(_TORCH) and _is_installed("torch"))
    if not seen.ctranslate2:
        if cards:
            return Finding(
                "fail" if wanted.device == "cuda" else "warn",
                f"{told}: driver {cards[0].driver} tells of it, and CUDA sees none",
                f"see CUDA_VISIBLE_DEVICES; a driver of CUDA {_CUDA} or newer is needed",
            )
        if wanted.device == "cuda":
            return Finding(
                "fail", "transcribe.device=cuda, and no GPU is seen",
                "install the driver; in a container: docker run --gpus all",
            )  # fmt: skip
        if "whisperx" in named:
            return Finding(
                "warn", "none: it runs on the processor, which takes many times as long",
                "docker run --gpus all, or CALLSTREAM_TRANSCRIBE__DEVICE=cpu where that is meant",
            )  # fmt: skip
        return Finding("ok", "none: it runs on the processor")
    found = [f"{seen.ctranslate2} seen: {told}" if told else f"{seen.ctranslate2} seen"]
    if (cuda := gpu.driver_cuda()) is not None:
        driver = f"driver {cards[0].driver}, " if cards else ""
        found.append(f"{driver}CUDA {cuda[0]}.{cuda[1]}")
    if seen.cublas:
        return Finding(
            "fail", f"{'; '.join(found)}; cuBLAS cannot be loaded: {seen.cublas}",
            "let LD_LIBRARY_PATH name the folder nvidia/cublas/lib of the installed packages, or "
            "install CUDA 12",
        )  # fmt: skip
    if seen.torch_failed or seen.torch == 0:
        why = seen.torch_failed or "it sees no GPU"
        return Finding("fail", f"{'; '.join(found)}; torch cannot compute: {why}", _EXTRA)
    found.append("cuBLAS loads" if seen.torch is None else f"cuBLAS, cuDNN {seen.cudnn} compute")
    return Finding("ok", "; ".join(found))


def models(wanted: TranscribeSettings) -> Finding:
    """Whether what the engines and the diarizer load is there; asks the hub only as they would."""
    findings = _of_each(wanted, _models)
    model = wanted.diarizer_model or _PYANNOTE
    expected = any(its.engine in _TORCH for its in engines(wanted).values())
    findings.append(speakers(wanted.diarizer, model, expected=expected))
    return _together(findings)


def _models(wanted: TranscribeSettings) -> list[Finding]:
    match wanted.engine:
        case "auto" | "faster-whisper":
            return [_whisper(wanted)]
        case "whisperx":
            return [_whisper(wanted), *_aligners(wanted)]
        case "sensevoice":
            return [_sensevoice(wanted)]
        case _:
            return [Finding("ok", f"{wanted.engine} loads none")]


def _whisper(wanted: TranscribeSettings) -> Finding:
    # It takes a second to import.
    from services.transcribe.faster_whisper_engine import locate

    mend = "copy the whole folder of a CTranslate2 Whisper model: docs/deploying.md"
    try:
        folder, where = locate(wanted)
    except ValueError as wrong:
        return Finding("fail", str(wrong), mend)
    except Transient as missing:
        # auto does without.
        verdict: Verdict = "warn" if wanted.engine == "auto" else "fail"
        return Finding(verdict, missing.detail, mend)
    lacks = _lacking(folder, "config.json", "tokenizer.json")
    if lacks:
        return Finding("fail", f"Whisper {folder} lacks {lacks}", mend)
    if _lacking(folder, "preprocessor_config.json"):
        return Finding(
            "warn",
            f"Whisper {folder} lacks preprocessor_config.json: it is taken to have 80 mel bands, "
            "and large-v3 and turbo have 128",
            mend,
        )
    return Finding("ok", f"Whisper {wanted.model_dir or wanted.model}: {where}")


def _sensevoice(wanted: TranscribeSettings) -> Finding:
    folder = wanted.sensevoice.model_dir
    if folder is None:
        return Finding(
            "ok",
            f"SenseVoice {wanted.sensevoice.model}: from the cache or the hub, which is not asked",
        )
    if lacks := _lacking(folder, "config.yaml", "model.pt", "am.mvn"):
        return Finding(
            "fail", f"SenseVoice {folder} lacks {lacks}",
            "see CALLSTREAM_TRANSCRIBE__SENSEVOICE__MODEL_DIR; copy the whole folder",
        )  # fmt: skip
    return Finding("ok", f"SenseVoice {folder}")


def _aligners(wanted: TranscribeSettings) -> Iterator[Finding]:
    mend = (
        "see CALLSTREAM_TRANSCRIBE__ALIGN_MODELS; copy the whole folder of a wav2vec2 model: "
        "docs/deploying.md"
    )
    if not wanted.align_models:
        if (why := silent_hub(_HUB_S)) is not None:
            yield Finding(
                "warn",
                f"no align_models, and {why}: a language whose model is not in the cache says "
                "no_alignment",
                mend,
            )
        else:
            yield Finding("ok", "alignment models: WhisperX's own, from the cache or the hub")
    for tag, name in sorted(wanted.align_models.items()):
        folder = Path(name)
        if folder.is_absolute() or folder.is_dir():
            lacks = _lacking(folder, "config.json", "preprocessor_config.json", "vocab.json")
            if not _holds(folder, "model.safetensors", "pytorch_model.bin"):
                lacks = ", ".join(filter(None, [lacks, "its weights"]))
            if not folder.is_dir():
                yield Finding("fail", f"alignment {tag}: there is no folder {name}", mend)
            elif lacks:
                yield Finding("fail", f"alignment {tag}: {name} lacks {lacks}", mend)
            else:
                yield Finding("ok", f"alignment {tag}: {name}")
        elif "/" not in name:
            yield Finding("ok", f"alignment {tag}: {name} of torchaudio, not looked for")
        else:
            yield _of_hub(f"alignment {tag}", name, "config.json", mend)


def speakers(diarizer: str, model: str, *, expected: bool) -> Finding:
    """Whether `diarizer` can part the voices of a mono call, pyannote with `model`.

    `expected`: whether `auto` finding none is worth a warning.
    """
    if diarizer == "none":
        return Finding("ok", "diarizer: none asked for")
    if diarizer == "pyannote":
        return _pyannote(model)
    if diarizer == "auto" and (found := _pyannote(model)).verdict == "ok" and _is_here(model):
        return found
    if _is_installed("torch") and _resemblyzer():
        return Finding("ok", "diarizer: Resemblyzer, its weights are installed")
    if diarizer == "resemblyzer":
        return Finding("fail", "diarizer: Resemblyzer is not installed", f"{_EXTRA}; {_WEIGHTS}")
    return Finding(
        "warn" if expected else "ok",
        "diarizer: none is installed, mono calls say no_diarization",
        f"{_WEIGHTS}, or give pyannote a model: docs/deploying.md" if expected else "",
    )


def _pyannote(model: str) -> Finding:
    mend = f"accept the conditions of {_PYANNOTE} and copy its folder: docs/deploying.md"
    if not _is_installed("pyannote.audio"):
        return Finding("fail", "diarizer: pyannote is not installed", _EXTRA)
    folder = Path(model)
    if folder.is_absolute() or folder.is_dir():
        if _lacking(folder, "config.yaml"):
            return Finding("fail", f"diarizer: {model} lacks config.yaml", mend)
        return Finding("ok", f"diarizer: pyannote {model}")
    found = _of_hub("diarizer", model, "config.yaml", mend)
    if found.verdict == "ok" and not _is_here(model) and get_token() is None:
        return Finding(
            "fail", f"diarizer: {model} is not in the cache, and the hub wants HF_TOKEN for it",
            f"{mend}, or set HF_TOKEN",
        )  # fmt: skip
    return found


def _is_here(model: str) -> bool:
    return Path(model).is_dir() or isinstance(try_to_load_from_cache(model, "config.yaml"), str)


def _resemblyzer() -> bool:
    found = importlib.util.find_spec("resemblyzer")
    return (
        found is not None
        and found.origin is not None
        and _holds(Path(found.origin).parent, "pretrained.pt")
    )


def _of_hub(what: str, name: str, file: str, mend: str) -> Finding:
    """A model that is no folder of this machine."""
    if isinstance(try_to_load_from_cache(name, file), str):
        return Finding("ok", f"{what}: {name} is in the cache")
    if (silent := silent_hub(_HUB_S)) is not None:
        lost = f"{what}: {name} is neither a folder nor in the cache, and {silent}"
        return Finding("fail", lost, mend)
    return Finding("ok", f"{what}: {name} is to be fetched from the hub")


def language_model(wanted: LlmSettings) -> Finding:
    """Whether what a language model in this process needs is there; it is not loaded: it is large,
    and the suite may hold it already."""
    if missing := [it for it in ("transformers", "torch") if not _is_installed(it)]:
        return Finding("fail", f"without {', '.join(missing)}", _ENRICH)
    mend = "see CALLSTREAM_ENRICH__LLM__MODEL; copy the whole folder of a model: docs/summaries.md"
    name, folder = wanted.model, Path(wanted.model).expanduser()
    if not (folder.is_absolute() or name.startswith(".") or folder.is_dir()):
        return _of_hub("language model", name, "config.json", mend)
    lacks = [_lacking(folder, "config.json", "tokenizer_config.json")]
    weights = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
               "pytorch_model.bin.index.json")  # fmt: skip
    if not _holds(folder, *weights):
        lacks.append("its weights")
    if told := ", ".join(filter(None, lacks)):
        return Finding("fail", f"{name} lacks {told}", mend)
    return Finding("ok", f"{name}, in this process: its files are there, it was not loaded")


def versions(wanted: TranscribeSettings) -> Finding:
    """The engines' libraries, and whether the driver suits what they were built for."""
    return _together(_of_each(wanted, lambda its: [_versions(its)]))


def _versions(wanted: TranscribeSettings) -> Finding:
    needed = ["ctranslate2", "faster-whisper"] if wanted.engine in _WHISPERS else []
    needed += {"whisperx": ["whisperx", "torch"], "sensevoice": ["funasr", "torch"]}.get(
        wanted.engine, []
    )
    if not needed:
        return Finding("ok", f"{wanted.engine} needs no library of its own")
    have = {name: _version(name) for name in needed}
    if missing := [name for name, number in have.items() if number is None]:
        extra = _EXTRA.replace("transcribe", "sensevoice" if "funasr" in missing else "transcribe")
        return Finding("fail", f"without {', '.join(missing)}", extra)
    found = ", ".join(f"{name} {number}" for name, number in have.items())
    if "torch" not in needed:
        return Finding("ok", found)
    built, driver = _torch_cuda(), gpu.driver_cuda()
    if built is None:
        verdict: Verdict = "warn" if driver is not None and wanted.device != "cpu" else "ok"
        return Finding(
            verdict, f"{found} without CUDA", "" if verdict == "ok" else f"{_EXTRA}, which has it"
        )
    found += f" for CUDA {built[0]}.{built[1]}"
    if driver is None:
        return Finding("ok", found)
    found += f", the driver knows {driver[0]}.{driver[1]}"
    if driver[0] < built[0]:
        return Finding("fail", found, f"a driver of CUDA {built[0]} or newer")
    return Finding("ok", found)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _torch_cuda() -> tuple[int, int] | None:
    """The CUDA that torch was built for, read without importing it; None where for none."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    told = (Path(found.origin).parent / "version.py").read_text("utf-8")
    number = re.search(r"^cuda\b.*= ['\"](\d+)\.(\d+)", told, re.MULTILINE)
    return None if number is None else (int(number[1]), int(number[2]))


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # nor is what it lies in
        return False


def _lacking(folder: Path, *names: str) -> str:
    return ", ".join(name for name in names if not (folder / name).is_file())


def _holds(folder: Path, *names: str) -> bool:
    return any((folder / name).is_file() for name in names)
