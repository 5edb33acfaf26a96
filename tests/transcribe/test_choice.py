from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from pydantic import ValidationError

from schemas.events import DegradationKind
from services.runtime.errors import Transient
from services.transcribe.choice import choose
from services.transcribe.settings import TranscribeSettings
from tests.transcribe.whisper_model import build


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache, and the hub switched off."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty cache, and a hub that takes connections and never answers."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield


@pytest.mark.usefixtures("no_hub")
def test_auto_without_a_model_takes_pocketsphinx_and_says_why() -> None:
    chosen = choose(TranscribeSettings())
    assert chosen.engine.identity.name == "pocketsphinx"
    (degraded,) = chosen.degradations
    assert degraded.kind is DegradationKind.ENGINE_FALLBACK
    for told in ("transcribe.model='small'", "HF_HUB_OFFLINE", "model_dir", "English only"):
        assert told in chosen.reason


@pytest.mark.usefixtures("silent_hub")
def test_a_hub_that_does_not_answer_is_given_up_on() -> None:
    chosen = choose(TranscribeSettings(hub_timeout_s=0.2))
    assert chosen.engine.identity.name == "pocketsphinx"
    assert "cannot be reached" in chosen.reason


@pytest.mark.usefixtures("no_hub")
def test_whisper_asked_for_by_name_waits_for_its_model() -> None:
    with pytest.raises(Transient, match=r"model_missing: transcribe\.model='base' .*model_dir"):
        choose(TranscribeSettings(engine="faster-whisper", model="base"))


def test_a_model_folder_is_used_without_the_hub(tmp_path: Path) -> None:
    folder = build(tmp_path / "whisper-mine")
    chosen = choose(TranscribeSettings(model_dir=folder, device="cpu"))
    assert chosen.engine.identity.name == "faster-whisper"
    assert chosen.engine.identity.model == "whisper-mine"
    assert chosen.engine.identity.device == "cpu"
    assert chosen.engine.identity.options["compute_type"] == "int8"
    assert "transcribe.model_dir is set" in chosen.reason


@pytest.mark.parametrize("engine", ["auto", "faster-whisper"])
def test_a_wrong_folder_is_an_error_and_no_reason_to_take_another_engine(
    tmp_path: Path, engine: str
) -> None:
    settings = TranscribeSettings.model_validate({"engine": engine, "model_dir": tmp_path})
    with pytest.raises(ValueError, match=r"transcribe\.model_dir=.* holds no model\.bin"):
        choose(settings)


def test_an_incomplete_or_broken_model_is_named(tmp_path: Path) -> None:
    folder = build(tmp_path / "model")
    (folder / "model.bin").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"cannot be loaded with transcribe\.device='cpu'"):
        choose(TranscribeSettings(model_dir=folder, device="cpu"))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"holds no tokenizer\.json"):
        choose(TranscribeSettings(model_dir=folder))


def test_a_model_that_has_no_room_now_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build(tmp_path / "model")
    (folder / "model.pt").touch()

    def full(*given: object, **named: object) -> None:
        raise RuntimeError("CUDA failed with error out of memory")

    monkeypatch.setattr("faster_whisper.WhisperModel", full)
    cuda = SimpleNamespace(is_available=lambda: True)
    library = {"torch": SimpleNamespace(cuda=cuda), "funasr": SimpleNamespace(AutoModel=full)}
    monkeypatch.setattr("services.transcribe.sensevoice_engine._library", library.get)
    for engine in ("auto", "faster-whisper", "sensevoice"):
        settings = TranscribeSettings.model_validate(
            {"engine": engine, "model_dir": folder, "cpu_threads": 1,
             "sensevoice": {"model_dir": folder}}
        )  # fmt: skip
        with pytest.raises(Transient, match=r"no_room: .*out of memory"):
            choose(settings)


def test_an_unknown_model_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"transcribe\.model='smal' .*small"):
        choose(TranscribeSettings(model="smal"))


def test_engines_asked_for_by_name() -> None:
    assert choose(TranscribeSettings(engine="pocketsphinx")).engine.identity.name == "pocketsphinx"
    stub = choose(TranscribeSettings(engine="stub"))
    assert stub.engine.identity.name == "stub"
    assert "nothing is recognised" in stub.reason


def test_a_server_is_chosen_without_asking_it() -> None:
    settings = TranscribeSettings.model_validate(
        {"engine": "openai", "endpoint": {"url": "http://127.0.0.1:9/v1", "model": "large"}}
    )
    chosen = choose(settings)
    assert chosen.engine.identity.name == "openai"
    assert chosen.reason == ("openai large at http://127.0.0.1:9/v1: transcribe.engine asks for it")
    with pytest.raises(Transient, match="endpoint_down"):
        chosen.check()


def test_what_writes_down_what_is_spoken_translates_nothing() -> None:
    settings = TranscribeSettings.model_validate(
        {"engine": "openai", "task": "translate",
         "endpoint": {"url": "http://127.0.0.1:9/v1", "model": "large"}}
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"transcribe\.task=translate needs a Whisper"):
        choose(settings)


def test_settings_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ValidationError, match="beam"):
        TranscribeSettings.model_validate({"beam": 5})
