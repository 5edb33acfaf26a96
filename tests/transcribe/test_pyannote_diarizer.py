"""pyannote's pipeline: loaded by the real code, random weights; and what becomes of its answers."""

from __future__ import annotations

import importlib
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from services.runtime.errors import Transient
from services.transcribe.batches import OutOfMemory
from services.transcribe.choice import choose_diarizer
from services.transcribe.diarizer import Diarizer, Turn
from services.transcribe.settings import TranscribeSettings
from services.transcribe.spans import Span
from tests.transcribe import extra
from tests.transcribe.pyannote_model import build
from tests.transcribe.sounds import silence, speech

pytestmark = pytest.mark.whisperx

SAID = np.concatenate([speech(0, seconds=4.0), silence(1.0), speech(1, 4.4, 3.0)])
SPANS = [Span(300, 4_000), Span(5_000, 8_000)]


def diarizer(model: Path | str, **settings: Any) -> Diarizer:
    wanted = TranscribeSettings.model_validate(
        {"diarizer": "pyannote", "diarizer_model": str(model), **settings}
    )
    found = choose_diarizer(wanted, "whisperx").diarizer
    assert found is not None
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("pyannote") / "community-1")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Diarizer:
    return diarizer(folder)


def test_the_real_pipeline_finds_turns_within_the_speech(loaded: Diarizer) -> None:
    found = loaded.diarize(SAID, SPANS, 2)
    assert found.turns
    assert found.exclusive
    assert {turn.speaker for turn in found.turns} <= {0, 1}
    for turn in found.turns:
        assert any(
            span.start_ms - 500 <= turn.start_ms <= turn.end_ms <= span.end_ms + 500
            for span in SPANS
        )
    assert loaded.diarize(SAID, SPANS, 2, replay=True) == found


def test_it_hears_piece_by_piece_what_the_pipeline_hears_at_once(
    loaded: Diarizer, folder: Path
) -> None:
    torch: Any = importlib.import_module("torch")
    audio: Any = importlib.import_module("pyannote.audio")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = audio.Pipeline.from_pretrained(str(folder))
        found = pipeline(
            {"waveform": torch.from_numpy(SAID)[None], "sample_rate": 16_000},
            min_speakers=1, max_speakers=2,
        )  # fmt: skip
    whole = [Span(0, SAID.size // 16)]
    heard = {
        (round(1_000 * it.start), round(1_000 * it.end))
        for it in found.exclusive_speaker_diarization.itersegments()
    }
    turns = loaded.diarize(SAID, whole, 2).exclusive
    assert turns
    assert {turn.start_ms for turn in turns} <= {start for start, _ in heard}
    assert sum(turn.end_ms - turn.start_ms for turn in turns) == sum(b - a for a, b in heard)


def test_a_live_call_does_not_wait_for_a_whole_replay(
    loaded: Diarizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: Any = loaded._shares  # type: ignore[attr-defined]
    begun, go, run = threading.Event(), threading.Event(), shares._run
    ended: list[str] = []

    def held(given: Any) -> Any:
        begun.set()
        assert go.wait(60)
        return run(given)

    def part(name: str, times: int, *, replay: bool) -> Any:
        audio = np.tile(SAID, times)
        found = loaded.diarize(audio, [Span(0, audio.size // 16)], 2, replay=replay)
        ended.append(name)
        return found

    monkeypatch.setattr(shares, "_run", held)
    with ThreadPoolExecutor(2) as pool:
        replay = pool.submit(lambda: part("replay", 8, replay=True))
        assert begun.wait(60)
        live = pool.submit(lambda: part("live", 1, replay=False))
        deadline = time.monotonic() + 60
        while sum(len(caller.queued) for caller in shares._callers if not caller.replay) == 0:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        go.set()
        assert live.result(120) == loaded.diarize(SAID, [Span(0, SAID.size // 16)], 2)
        assert replay.result(120).turns
    assert ended == ["live", "replay"]


def test_a_device_without_room_is_tried_once_more(
    loaded: Diarizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = loaded.diarize(SAID, SPANS, 2)
    model: Any = loaded._pipeline._segmentation.model  # type: ignore[attr-defined]
    torch: Any = importlib.import_module("torch")
    forward, failures = type(model).forward, [1]

    def crowded(self: Any, *given: Any) -> Any:
        if failures[0]:
            failures[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB")
        return forward(self, *given)

    monkeypatch.setattr(type(model), "forward", crowded)
    assert loaded.diarize(SAID, SPANS, 2) == whole
    failures[0] = 2
    with pytest.raises(OutOfMemory):
        loaded.diarize(SAID, SPANS, 2)


def test_what_is_too_long_is_refused_with_the_mend(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"8 s are more than transcribe\.diarizer_longest_s=5, "):
        diarizer(folder, diarizer_longest_s=5).diarize(SAID, SPANS, 2)


def test_nothing_said_is_no_turn_and_what_is_not_speech_is_none(loaded: Diarizer) -> None:
    assert loaded.diarize(SAID, []).turns == ()
    assert loaded.diarize(silence(3.0), [Span(0, 3_000)]).turns == ()
    first = loaded.diarize(SAID, [SPANS[0]])
    assert max(turn.end_ms for turn in first.turns) <= SPANS[0].end_ms + 500


def test_samples_mapped_from_a_file_are_read(loaded: Diarizer, tmp_path: Path) -> None:
    SAID.tofile(tmp_path / "audio")
    mapped = np.memmap(tmp_path / "audio", np.float32, mode="r")
    assert loaded.diarize(mapped, SPANS, 2) == loaded.diarize(SAID, SPANS, 2)


def test_the_identity_follows_the_files(loaded: Diarizer, tmp_path: Path) -> None:
    other = build(tmp_path / "community-1")
    config = other / "config.yaml"
    config.write_text(config.read_text().replace("0.6", "0.5"))
    assert loaded.identity.startswith("pyannote.audio 4.")
    assert "community-1 sha256:" in loaded.identity
    assert diarizer(other).identity != loaded.identity


def test_overlap_and_labels_become_turns(loaded: Diarizer, monkeypatch: pytest.MonkeyPatch) -> None:
    core: Any = importlib.import_module("pyannote.core")

    def annotation(*turns: tuple[float, float, str]) -> Any:
        made = core.Annotation()
        for number, (start, end, label) in enumerate(turns):
            made[core.Segment(start, end), number] = label
        return made

    asked: list[dict[str, Any]] = []

    def pipeline(file: dict[str, Any], **options: Any) -> Any:
        assert file["sample_rate"] == 16_000
        assert tuple(file["waveform"].shape) == (1, SAID.size)
        asked.append(options)
        return SimpleNamespace(
            speaker_diarization=annotation((0.3, 2.0, "SPEAKER_07"), (1.5, 4.0, "SPEAKER_02"),
                                           (4.6, 4.9, "SPEAKER_07")),
            exclusive_speaker_diarization=annotation((0.3, 1.75, "SPEAKER_07"),
                                                     (1.75, 4.0, "SPEAKER_02")),
        )  # fmt: skip

    monkeypatch.setattr(loaded, "_pipeline", pipeline)
    found = loaded.diarize(SAID, [Span(300, 4_000)], 3)
    assert found.turns == (Turn(0, 300, 2_000), Turn(1, 1_500, 4_000))
    assert found.exclusive == (Turn(0, 300, 1_750), Turn(1, 1_750, 4_000))
    assert found.overlapped == [Span(1_500, 2_000)]
    assert asked == [{"min_speakers": 1, "max_speakers": 3}]


def test_a_pipeline_of_another_kind_is_one_item_for_the_device(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra.whisperx()
    core: Any = importlib.import_module("pyannote.core")
    said = core.Annotation()
    said[core.Segment(0.5, 2.0), 0] = "A"
    threads: list[str] = []

    class Other:
        def to(self, device: Any) -> None:
            pass

        def __call__(self, file: Any, **options: Any) -> Any:
            threads.append(threading.current_thread().name)
            return SimpleNamespace(speaker_diarization=said, exclusive_speaker_diarization=said)

    module = importlib.import_module("services.transcribe.pyannote_diarizer")
    monkeypatch.setattr(module, "_loaded", lambda *given: Other())
    found = diarizer(folder).diarize(SAID, SPANS, 2)
    assert found.turns == found.exclusive == (Turn(0, 500, 2_000),)
    assert threads == ["device"]


def test_a_model_that_cannot_be_had_is_waited_for_with_the_mend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    extra.whisperx()
    constants: Any = importlib.import_module("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        Transient, match="accept the conditions of pyannote/speaker-diar"
    ) as missing:
        diarizer("")
    assert "HF_TOKEN" in missing.value.detail
    assert "transcribe.diarizer_model" in missing.value.detail
    auto = choose_diarizer(TranscribeSettings(diarizer="auto"), "whisperx")
    assert auto.diarizer is None or auto.diarizer.identity.startswith("resemblyzer")


def test_a_folder_that_is_no_pipeline_is_a_wrong_setting(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.yaml"):
        diarizer(tmp_path)
    broken = build(tmp_path / "broken")
    (broken / "embedding" / "pytorch_model.bin").write_bytes(b"no model")
    with pytest.raises(ValueError, match="is no pyannote pipeline"):
        diarizer(broken)


def test_engines_for_trying_out_have_none_unless_it_is_asked_for() -> None:
    parting = choose_diarizer(TranscribeSettings(diarizer="auto"), "pocketsphinx")
    assert parting.diarizer is None
    assert parting.why_none == "pocketsphinx is for trying out; set transcribe.diarizer"
