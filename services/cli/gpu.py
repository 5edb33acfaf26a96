"""What speech engines can use of this machine's GPUs.

CUDA libraries that do not fit end the process that loads them. They are loaded in a process of its
own, which is this file run as a program.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# CTranslate2 loads cuBLAS when it first multiplies, and by that name alone.
_CUBLAS = "libcublas.so.12"
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU as its driver tells of it, whether or not this process may use it."""

    name: str
    driver: str
    memory_mib: int
    used_mib: int

    def __str__(self) -> str:
        free = (self.memory_mib - self.used_mib) / 1024
        return f"{self.name}, {free:.1f} of {self.memory_mib / 1024:.1f} GiB free"


@dataclass(frozen=True, slots=True)
class Seen:
    """What the libraries make of it."""

    ctranslate2: int
    """GPUs that CTranslate2 may use."""
    cublas: str
    """Why cuBLAS cannot be loaded; empty where it can, or where nothing would be run on it."""
    torch: int | None
    """GPUs that torch may use; None where torch was not asked."""
    torch_failed: str
    """Why torch cannot be imported or cannot compute on the first of them; else empty."""
    cudnn: str
    """Version of the cuDNN that torch has loaded; empty without one."""


def cards() -> list[Card]:
    """The GPUs that `nvidia-smi` lists; none where it is not installed or fails."""
    if shutil.which("nvidia-smi") is None:
        return []
    asked = "name,driver_version,memory.total,memory.used"
    try:
        told = subprocess.run(
            ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=_TIMEOUT_S, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []
    found = []
    for line in told.splitlines():
        name, driver, *memory = (value.strip() for value in line.split(","))
        # A GPU whose memory is the machine's has no figures of its own.
        total, used = (int(value) if value.isdecimal() else 0 for value in memory)
        found.append(Card(name, driver, total, used))
    return found


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the driver knows, as (major, minor); None without a driver."""
    version = ctypes.c_int()
    try:
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
    except OSError:
        return None
    return version.value // 1000, version.value % 1000 // 10


def look(*, torch: bool) -> Seen:
    """What CTranslate2 and, where `torch` is to be asked, torch can use; takes seconds.

    Raises OSError, with what was said last, where the process that looks does not come back.
    """
    asked = [sys.executable, "-m", "services.cli.gpu", *(["torch"] if torch else [])]
    try:
        done = subprocess.run(
            asked, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise OSError(f"CUDA libraries did not load within {_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise OSError(f"CUDA libraries cannot be loaded: {said[-1]}")
    return Seen(**json.loads(done.stdout.splitlines()[-1]))


def _seen(ask_torch: bool) -> Seen:
    import ctranslate2

    count = ctranslate2.get_cuda_device_count()
    torch, failed, cudnn = _torch() if ask_torch else (None, "", "")
    cublas = ""
    if count:
        # After torch, which loads its own: a process that has both shares one.
        try:
            ctypes.CDLL(_CUBLAS)
        except OSError as error:
            cublas = str(error)
    return Seen(count, cublas, torch, failed, cudnn)


def _torch() -> tuple[int, str, str]:
    """How many GPUs torch may use, why it cannot compute, and its cuDNN's version."""
    os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries of its own
            torch: Any = importlib.import_module("torch")
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        number = torch.backends.cudnn.version() or 0  # 91002 is 9.10.2
        parts = number // 10_000, number % 10_000 // 100, number % 100
        cudnn = ".".join(map(str, parts)) if number else ""
        if count:
            with torch.inference_mode():
                # One that cuBLAS computes, one that cuDNN does.
                square = torch.eye(64, device="cuda")
                total = float((square @ square).sum())
                wave = torch.ones(1, 1, 64, device="cuda")
                total += float(torch.nn.functional.conv1d(wave, wave[..., :1]).sum())
            if total != 128.0:
                return count, f"computes {total} where it is 128", cudnn
        return count, "", cudnn
    except (ImportError, OSError, RuntimeError) as error:
        return 0, f"{type(error).__name__}: {error}".partition("\n")[0], ""


def main(words: Sequence[str]) -> None:
    seen = _seen("torch" in words)
    print(json.dumps(asdict(seen)))


if __name__ == "__main__":
    main(sys.argv[1:])
