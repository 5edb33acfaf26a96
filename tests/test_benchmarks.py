"""What a benchmark says of a GPU is what nvidia-smi said of it meanwhile."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.transcribe import Gpu


def test_load_and_memory_are_those_of_the_stretch_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "nvidia-smi"
    fake.write_text(
        '#!/bin/sh\necho "$@" > asked\necho "90, 5000"; echo "70, 6000"; echo "[N/A], [N/A]"\n'
        "exec sleep 60\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    monkeypatch.chdir(tmp_path)
    gpu = Gpu("cuda")
    began = time.perf_counter()
    while len(gpu.samples) < 3:
        assert time.perf_counter() - began < 30
        time.sleep(0.01)
    gpu.close()
    assert "--id=3 " in (tmp_path / "asked").read_text()
    times = [at for at, _, _ in gpu.samples]
    gpu.samples = [(float(number), *it[1:]) for number, it in enumerate(gpu.samples)]
    assert times == sorted(times)
    assert gpu.told([(0.0, 0.5), (0.9, 1.0)]) == (
        "; GPU busy 80% of the time, 6000 MiB at most (2 looks)"
    )
    assert gpu.told([(5.0, 9.0)]) == ""
    assert Gpu("cpu").told([(0.0, 9.0)]) == ""
