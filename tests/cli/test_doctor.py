"""What doctor finds of GPUs, models and versions, with the machines around it made up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.assembly import Parts
from services.cli import gpu, speech
from services.cli.doctor import Checked, _endpoints, checks
from services.notify.settings import NotifySettings
from services.settings import load
from services.transcribe.settings import TranscribeSettings
from tests.notify.receiver import receiver
from tests.transcribe import extra
from tests.transcribe.endpoint import Reply, endpoint
from tests.transcribe.whisper_model import build

CARD = gpu.Card("NVIDIA L4", "570.86.15", 23_034, 1_024)
NONE = gpu.Seen(ctranslate2=0, cublas="", torch=None, torch_failed="", cudnn="")
ONE = replace(NONE, ctranslate2=1)
TORCH = replace(ONE, torch=1, cudnn="9.10.2")


def wants(**keys: Any) -> TranscribeSettings:
    """Without a diarizer, unless one is asked for."""
    return TranscribeSettings(**{"diarizer": "none", **keys})


class Machine:
    """What the doctor sees of a machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cards: list[gpu.Card] = []
        self.cuda: tuple[int, int] | None = None
        self.seen: gpu.Seen | None = None
        self.asked_torch = False
        monkeypatch.setattr(gpu, "cards", lambda: self.cards)
        monkeypatch.setattr(gpu, "driver_cuda", lambda: self.cuda)
        monkeypatch.setattr(gpu, "look", self._look)
        monkeypatch.setattr(speech, "_is_installed", lambda module: True)

    def _look(self, *, torch: bool) -> gpu.Seen:
        assert self.seen is not None, "nobody is to look"
        self.asked_torch = torch
        return self.seen


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


# GPUs


@pytest.mark.parametrize("engine", ["stub", "pocketsphinx", "openai"])
def test_nobody_looks_for_a_gpu_that_no_engine_would_use(machine: Machine, engine: str) -> None:
    assert speech.gpus(wants(engine=engine, device="cuda")).verdict == "ok"
    assert speech.gpus(wants(engine="whisperx", device="cpu")).verdict == "ok"


@pytest.mark.parametrize(
    ("engine", "device", "verdict"),
    [("auto", "auto", "ok"), ("faster-whisper", "auto", "ok"), ("whisperx", "auto", "warn"),
     ("faster-whisper", "cuda", "fail"), ("whisperx", "cuda", "fail")],
)  # fmt: skip
def test_without_a_gpu_it_depends_on_what_was_asked_for(
    machine: Machine, engine: str, device: str, verdict: str
) -> None:
    machine.seen = NONE
    found = speech.gpus(wants(engine=engine, device=device))
    assert found.verdict == verdict
    assert bool(found.mend) == (verdict != "ok")
    assert machine.asked_torch == (engine == "whisperx")


@pytest.mark.parametrize(("device", "verdict"), [("auto", "warn"), ("cuda", "fail")])
def test_a_gpu_that_cuda_does_not_see_is_told_with_its_driver(
    machine: Machine, device: str, verdict: str
) -> None:
    machine.seen, machine.cards = NONE, [replace(CARD, driver="470.1")]
    found = speech.gpus(wants(engine="faster-whisper", device=device))
    assert found.verdict == verdict
    assert "NVIDIA L4" in found.found
    assert "470.1" in found.found
    assert "CUDA_VISIBLE_DEVICES" in found.mend


def test_a_gpu_that_works_is_told_with_its_memory_driver_and_libraries(machine: Machine) -> None:
    machine.seen, machine.cards, machine.cuda = TORCH, [CARD], (12, 8)
    found = speech.gpus(wants(engine="whisperx"))
    assert found == speech.Finding(
        "ok",
        "1 seen: NVIDIA L4, 21.5 of 22.5 GiB free; driver 570.86.15, CUDA 12.8; "
        "cuBLAS, cuDNN 9.10.2 compute",
    )
    machine.seen, machine.cards = ONE, []
    found = speech.gpus(wants(engine="faster-whisper", device="cuda"))
    assert found == speech.Finding("ok", "1 seen; CUDA 12.8; cuBLAS loads")


@pytest.mark.parametrize(
    ("seen", "engine", "told"),
    [
        (replace(ONE, cublas="libcublas.so.12: cannot open"), "faster-whisper", "libcublas.so.12"),
        (replace(TORCH, torch=0), "whisperx", "it sees no GPU"),
        (replace(TORCH, torch_failed="RuntimeError: no kernel image"), "whisperx", "no kernel"),
    ],
)
def test_a_library_that_fails_on_the_gpu_fails_the_check(
    machine: Machine, seen: gpu.Seen, engine: str, told: str
) -> None:
    machine.seen, machine.cards = seen, [CARD]
    found = speech.gpus(wants(engine=engine))
    assert found.verdict == "fail"
    assert told in found.found
    assert found.mend


def test_cards_are_those_that_nvidia_smi_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.cards() == []
    program(
        tmp_path / "nvidia-smi",
        "echo 'NVIDIA L4, 570.86.15, 23034, 1024'; echo 'NVIDIA GB10, 580.1, [N/A], [N/A]'",
    )
    assert gpu.cards() == [CARD, gpu.Card("NVIDIA GB10", "580.1", 0, 0)]
    program(tmp_path / "nvidia-smi", "echo 'couldn't communicate with the driver' >&2; exit 9")
    assert gpu.cards() == []


def test_libraries_that_end_their_process_end_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies = program(
        tmp_path / "python", "echo 'Could not load library libcudnn_ops.so.9' >&2; kill -6 $$"
    )
    monkeypatch.setattr(sys, "executable", str(dies))
    with pytest.raises(OSError, match=r"Could not load library libcudnn_ops\.so\.9"):
        gpu.look(torch=False)


def test_the_real_libraries_are_asked_without_torch_where_nothing_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise SystemExit('torch was imported')")
    (tmp_path / "torch" / "version.py").write_text("cuda = '12.8'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    seen = gpu.look(torch=False)
    assert seen.ctranslate2 >= 0
    assert seen.torch is None
    with pytest.raises(OSError, match="torch was imported"):
        gpu.look(torch=True)


# Models


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("whisper"))


def less(folder: Path, tmp_path: Path, name: str) -> Path:
    """`folder` as a copy without the file `name`."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        if path.name != name:
            (copy / path.name).symlink_to(path)
    return copy


def test_a_whole_whisper_folder_is_found(whisper: Path) -> None:
    found = speech.models(wants(engine="faster-whisper", model_dir=whisper))
    told = f"Whisper {whisper}: transcribe.model_dir is set; diarizer: none asked for"
    assert found == speech.Finding("ok", told)


@pytest.mark.parametrize(
    ("name", "verdict"),
    [("model.bin", "fail"), ("tokenizer.json", "fail"), ("config.json", "fail"),
     ("preprocessor_config.json", "warn")],
)  # fmt: skip
def test_a_whisper_folder_that_lacks_a_file_is_named(
    whisper: Path, tmp_path: Path, name: str, verdict: str
) -> None:
    folder = less(whisper, tmp_path, name)
    found = speech.models(wants(engine="whisperx", model_dir=folder, align_models={"en": "BASE"}))
    assert found.verdict == verdict
    assert name in found.found
    assert "CTranslate2" in found.mend


def test_alignment_folders_are_looked_into(whisper: Path, tmp_path: Path) -> None:
    folder = tmp_path / "zh"

    def found() -> speech.Finding:
        models = {"zh": str(folder)}
        return speech.models(wants(engine="whisperx", model_dir=whisper, align_models=models))

    assert found().verdict == "fail"
    assert f"there is no folder {folder}" in found().found
    folder.mkdir()
    for name in ("config.json", "preprocessor_config.json", "vocab.json"):
        assert name in found().found
        (folder / name).touch()
    assert f"{folder} lacks its weights;" in found().found
    (folder / "pytorch_model.bin").touch()
    assert found().verdict == "ok"


@pytest.mark.whisperx
def test_an_alignment_model_as_its_library_writes_it_is_whole(
    whisper: Path, tmp_path: Path
) -> None:
    models = {"en": str(extra.build_aligner(tmp_path / "en"))}
    found = speech.models(wants(engine="whisperx", model_dir=whisper, align_models=models))
    assert found.verdict == "ok"


@pytest.mark.parametrize("hub", ["answers", "is not to be asked", "is away"])
def test_names_of_the_hub_are_looked_for_in_its_cache(
    whisper: Path, tmp_path: Path, hub: str
) -> None:
    there = tmp_path / "models--some--there"
    (there / "refs").mkdir(parents=True)
    (there / "refs" / "main").write_text("0123")
    (there / "snapshots" / "0123").mkdir(parents=True)
    (there / "snapshots" / "0123" / "config.json").write_text("{}")
    asked = {"engine": "whisperx", "model_dir": str(whisper), "diarizer": "none",
             "align_models": {"de": "some/there", "fr": "some/absent"}}  # fmt: skip
    # Where the cache lies and whether the hub may be asked is read when the library is imported.
    with receiver() as there_is:
        told = subprocess.run(
            [sys.executable, "-c",
             "import json, sys; from services.cli import speech\n"
             "from services.transcribe.settings import TranscribeSettings\n"
             "print(json.dumps(speech.models(TranscribeSettings(**json.loads(sys.argv[1])))))",
             json.dumps(asked)],
            env={**os.environ, "HF_HUB_CACHE": str(tmp_path),
                 "HF_HUB_OFFLINE": str(int(hub == "is not to be asked")),
                 "HF_ENDPOINT": there_is.url if hub == "answers" else "http://127.0.0.1:1"},
            capture_output=True, text=True, timeout=120, check=True,
        ).stdout  # fmt: skip
    found = speech.Finding(*json.loads(told))
    assert "alignment de: some/there is in the cache" in found.found
    if hub != "answers":
        assert found.verdict == "fail"
        assert "some/absent is neither a folder nor in the cache" in found.found
        assert ("the hub cannot be reached" in found.found) == (hub == "is away")
        assert "CALLSTREAM_TRANSCRIBE__ALIGN_MODELS" in found.mend
    else:
        assert found.verdict == "ok"
        assert "some/absent is to be fetched" in found.found


def test_a_sensevoice_folder_is_looked_into(tmp_path: Path) -> None:
    asked = wants(engine="sensevoice", sensevoice={"model_dir": tmp_path})
    assert "lacks config.yaml, model.pt, am.mvn" in speech.models(asked).found
    assert speech.models(asked).verdict == "fail"


# Who speaks


def python_with(folder: Path, *modules: str) -> None:
    """Packages of these names that end whoever imports them."""
    for module in modules:
        path = folder.joinpath(*module.split("."))
        path.mkdir(parents=True)
        (path / "__init__.py").write_text("raise SystemExit('it was imported')")


@pytest.mark.parametrize("diarizer", ["auto", "resemblyzer"])
def test_resemblyzer_is_found_by_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, diarizer: str
) -> None:
    python_with(tmp_path, "torch", "resemblyzer")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(speech, "_is_installed", lambda module: module == "torch")
    found = speech.speakers(diarizer, "some/model", expected=True)
    assert found.verdict == ("warn" if diarizer == "auto" else "fail")
    assert "Resemblyzer==0.1.4" in found.mend
    assert speech.speakers(diarizer, "some/model", expected=False).verdict == (
        "ok" if diarizer == "auto" else "fail"
    )
    (tmp_path / "resemblyzer" / "pretrained.pt").touch()
    found = speech.speakers(diarizer, "some/model", expected=True)
    assert found == speech.Finding("ok", "diarizer: Resemblyzer, its weights are installed")


def test_pyannote_is_found_by_its_folder(machine: Machine, tmp_path: Path) -> None:
    found = speech.speakers("pyannote", str(tmp_path), expected=True)
    assert (found.verdict, found.found) == ("fail", f"diarizer: {tmp_path} lacks config.yaml")
    assert "conditions" in found.mend
    (tmp_path / "config.yaml").touch()
    for diarizer in ("pyannote", "auto"):
        found = speech.speakers(diarizer, str(tmp_path), expected=True)
        assert found == speech.Finding("ok", f"diarizer: pyannote {tmp_path}")


@pytest.mark.parametrize(
    ("offline", "token", "verdict", "told"),
    [(True, "secret", "fail", "HF_HUB_OFFLINE"), (False, None, "fail", "HF_TOKEN"),
     (False, "secret", "ok", "to be fetched")],
)  # fmt: skip
def test_a_gated_model_needs_a_token_where_it_is_not_in_the_cache(
    machine: Machine, monkeypatch: pytest.MonkeyPatch,
    offline: bool, token: str | None, verdict: str, told: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(speech, "get_token", lambda: token)
    monkeypatch.setattr("services.runtime.libraries.httpx.head", lambda url, timeout: None)
    found = speech.speakers("pyannote", "nobody/has-this", expected=True)
    assert found.verdict == verdict
    assert told in found.found
    assert "secret" not in found.found + found.mend


def test_a_hub_that_cannot_be_reached_is_told_before_anyone_asks_for_a_token(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(speech, "get_token", lambda: None)
    monkeypatch.setattr(speech, "silent_hub", lambda timeout_s: "the hub cannot be reached (X)")
    found = speech.speakers("pyannote", "nobody/has-this", expected=True)
    assert found.verdict == "fail"
    assert "the hub cannot be reached (X)" in found.found
    assert "HF_TOKEN" not in found.found + found.mend


def test_nobody_looks_for_a_diarizer_that_is_not_asked_for() -> None:
    assert speech.speakers("none", "", expected=True).verdict == "ok"


# Versions


def test_versions_of_what_the_engine_needs_are_told() -> None:
    found = speech.versions(wants(engine="faster-whisper"))
    assert found.verdict == "ok"
    assert f"ctranslate2 {version('ctranslate2')}" in found.found
    assert "torch" not in found.found
    assert speech.versions(wants(engine="stub")).verdict == "ok"


def test_engines_of_rules_and_fallbacks_are_looked_at_too(
    machine: Machine, whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sense = {"engine": "sensevoice", "model_dir": tmp_path / "none"}
    ruled = wants(
        engine="faster-whisper", model_dir=whisper, rules=[{"name": "yue", **sense}], device="cuda"
    )
    found = speech.models(ruled)
    assert found.verdict == "fail"
    assert "transcribe.rules: rule 1 (yue), sensevoice: SenseVoice" in found.found
    assert f"Whisper {whisper}" in found.found
    machine.seen = TORCH
    speech.gpus(ruled)
    assert machine.asked_torch, "the rule's engine computes with it"

    def without(name: str) -> str:
        if name == "funasr":
            raise PackageNotFoundError
        return "1.0"

    monkeypatch.setattr(speech, "version", without)
    found = speech.versions(ruled)
    assert found.verdict == "fail"
    assert "rule 1 (yue), sensevoice: without funasr" in found.found
    instead = wants(engine="faster-whisper", model_dir=whisper, fallbacks=["sensevoice"])
    found = speech.versions(instead)
    assert found.verdict == "warn", "it may never be needed"
    assert "transcribe.fallbacks: sensevoice: without funasr" in found.found
    twice = wants(
        engine="stub", rules=[{"engine": "pocketsphinx"}], fallbacks=["pocketsphinx", "stub"]
    )
    assert [its.engine for its in speech.engines(twice).values()] == ["stub", "pocketsphinx"]


def test_servers_of_rules_and_fallbacks_are_asked(tmp_path: Path) -> None:
    with endpoint() as server:
        settings = load().model_copy(update={"data_dir": tmp_path, "scratch": tmp_path})

        def found() -> Checked:
            asked = wants(engine="pocketsphinx", fallbacks=["openai"], endpoint=server.settings())
            its = settings.model_copy(update={"transcribe": asked})
            return next(it for it in checks(its) if it.what == "engine")

        assert "for trying out only" in found().found
        assert [it.is_silence for it in server.asked] == [True]
        server.answer = lambda request: Reply(401)
        told = found()
    assert told.verdict == "warn"
    assert "transcribe.fallbacks: openai: endpoint_refused: " in told.found


def test_scratch_is_held_against_what_the_calls_at_work_take(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cards: list[gpu.Card] = []
    monkeypatch.setattr(gpu, "cards", lambda: cards)
    scratch = tmp_path / "scratch"
    monkeypatch.setattr(
        "shutil.disk_usage",
        lambda folder: SimpleNamespace(free=5 << 30 if folder == scratch else 99 << 30),
    )

    def found(**transcribe: Any) -> Checked:
        settings = load()
        settings = settings.model_copy(
            update={"data_dir": tmp_path, "scratch": scratch,
                    "transcribe": TranscribeSettings(**transcribe)}
        )  # fmt: skip
        return next(it for it in checks(settings) if it.what == "scratch")

    whisper = {"engine": "faster-whisper", "model_dir": tmp_path}
    assert found(**whisper) == Checked(
        "scratch", "ok",
        f"{scratch}, 5.0 GiB free; 2 stereo calls of an hour at once take 0.9",
    )  # fmt: skip
    cards.append(CARD)
    full = found(**whisper)
    assert full.verdict == "warn"
    assert "16 stereo calls of an hour at once take 6.9" in full.found
    assert "CALLSTREAM_SCRATCH" in full.mend
    assert found(**whisper, device="cpu").verdict == "ok"
    assert found(engine="stub").verdict == "ok"


@pytest.mark.parametrize(
    ("engine", "missing", "told"),
    [("whisperx", "whisperx", "[transcribe]"), ("sensevoice", "funasr", "[sensevoice]")],
)
def test_an_extra_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, engine: str, missing: str, told: str
) -> None:
    def without(name: str) -> str:
        if name == missing:
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(speech, "version", without)
    found = speech.versions(wants(engine=engine))
    assert (found.verdict, found.found) == ("fail", f"without {missing}")
    assert told in found.mend


@pytest.mark.parametrize(
    ("built", "driver", "verdict", "told"),
    [
        ("'12.8'", (12, 8), "ok", "torch 1.0 for CUDA 12.8, the driver knows 12.8"),
        ("'12.8'", (12, 2), "ok", "the driver knows 12.2"),
        ("'12.8'", (13, 0), "ok", "the driver knows 13.0"),
        ("'12.8'", (11, 8), "fail", "the driver knows 11.8"),
        ("'12.8'", None, "ok", "for CUDA 12.8"),
        ("None", (12, 8), "warn", "without CUDA"),
        ("None", None, "ok", "without CUDA"),
    ],
)
def test_what_torch_is_built_for_is_held_against_the_driver(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    built: str, driver: tuple[int, int] | None, verdict: str, told: str,
) -> None:  # fmt: skip
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise SystemExit('torch was imported')")
    (tmp_path / "torch" / "version.py").write_text(f"debug = False\ncuda: str | None = {built}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(speech, "version", lambda name: "1.0")
    machine.cuda = driver
    found = speech.versions(wants(engine="whisperx"))
    assert found.verdict == verdict
    assert found.found.endswith(told)
    assert bool(found.mend) == (verdict != "ok")


@pytest.mark.whisperx
def test_the_extra_as_it_is_installed_is_whole() -> None:
    extra.whisperx()
    found = speech.versions(wants(engine="whisperx"))
    assert found.verdict == "ok"
    assert f"whisperx {version('whisperx')}, torch {version('torch')}" in found.found
    assert gpu.look(torch=True).torch is not None


def test_an_endpoint_that_waits_for_a_rule_that_is_not_there_is_told(tmp_path: Path) -> None:
    def told(rules: str) -> Checked:
        file = tmp_path / "endpoints.yaml"
        file.write_text(
            f"endpoints: [{{name: duty, kind: apprise, url: 'json://example.com', rules: {rules}}}]"
        )
        settings = load(data_dir=tmp_path / "data", notify=NotifySettings(endpoints_file=file))
        return _endpoints(Parts(settings))

    assert told("[angry_refund]").verdict == "ok"
    found = told("[angry_refund, angry_refnd]")
    assert found.verdict == "warn"
    assert found.found == "no rule raises such an alert: duty waits for angry_refnd"
    assert "angry_refund" in found.mend
