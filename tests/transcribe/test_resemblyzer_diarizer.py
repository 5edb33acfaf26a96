"""The offline diarizer, with the models that lie in packages, on two voices of a sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.transcribe.batches import Batches
from services.transcribe.choice import choose_diarizer
from services.transcribe.diarizer import Diarizer
from services.transcribe.settings import TranscribeSettings, VadSettings
from services.transcribe.spans import Span
from services.transcribe.vad import Vad
from tests.transcribe import extra
from tests.transcribe.sounds import Samples, silence, speech

pytestmark = pytest.mark.whisperx

AGENT, CUSTOMER = speech(0, seconds=4.2), speech(1, 4.4, 3.0)
DIALOGUE = np.concatenate([AGENT, silence(0.5), CUSTOMER, silence(0.5), AGENT, silence(0.5)])
BORDERS_MS = [4_450, 7_950]
"""Halfway through the silence between two voices."""


@pytest.fixture(scope="module")
def loaded() -> Diarizer:
    extra.resemblyzer()
    found = choose_diarizer(TranscribeSettings(diarizer="resemblyzer"), "stub").diarizer
    assert found is not None
    return found


def voiced(audio: Samples) -> list[Span]:
    return list(Vad().speech(audio, VadSettings()).spans)


@pytest.mark.parametrize("parties", [None, 2])
def test_two_voices_are_told_apart_and_the_first_comes_back(
    loaded: Diarizer, parties: int | None
) -> None:
    found = loaded.diarize(DIALOGUE, voiced(DIALOGUE), parties)
    said = {0: 0, 1: 0}
    wrong = 0
    for turn in found.exclusive:
        for first, last, speaker in (
            (0, BORDERS_MS[0], 0),
            (*BORDERS_MS, 1),
            (BORDERS_MS[1], 99_999, 0),
        ):
            length_ms = turn.span.overlap_ms(Span(first, last))
            said[speaker] += length_ms
            wrong += length_ms if turn.speaker != speaker else 0
    assert found.speakers == 2
    assert wrong < 0.1 * sum(said.values())
    assert said[0] > 5_000
    assert said[1] > 1_500


def test_the_same_audio_gives_the_same_turns_however_it_is_held(
    loaded: Diarizer, tmp_path: Path
) -> None:
    spans = voiced(DIALOGUE)
    first = loaded.diarize(DIALOGUE, spans, 2)
    loaded.diarize(AGENT, voiced(AGENT))
    DIALOGUE.tofile(tmp_path / "audio")
    mapped = np.memmap(tmp_path / "audio", np.float32, mode="r")
    assert loaded.diarize(mapped, spans, 2) == first


def test_what_a_replay_wants_of_the_device_is_told_as_such(
    loaded: Diarizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans = voiced(DIALOGUE)
    live = loaded.diarize(DIALOGUE, spans, 2)
    told: list[bool] = []
    each = Batches.each

    def spied(self: Any, items: Any, *, replay: bool = False) -> Any:
        told.append(replay)
        return each(self, items, replay=replay)

    monkeypatch.setattr(Batches, "each", spied)
    assert loaded.diarize(DIALOGUE, spans, 2, replay=True) == live
    assert told == [True, True]  # of the ear, of the encoder


def test_one_voice_is_one_speaker_whoever_is_said_to_take_part(loaded: Diarizer) -> None:
    alone = np.concatenate([AGENT, silence(1.0), AGENT])
    for parties in (None, 1, 2):
        assert loaded.diarize(alone, voiced(alone), parties).speakers == 1


def test_next_to_nothing_is_no_turn_or_one(loaded: Diarizer) -> None:
    assert loaded.diarize(silence(3.0), []).turns == ()
    short = loaded.diarize(AGENT, [Span(400, 500)], 2)
    assert short.speakers <= 1
    tiny = speech(0, 0.5, 0.1)
    assert loaded.diarize(tiny, [Span(0, 100)], 2).speakers <= 1


def test_turns_lie_within_the_audio_in_order(loaded: Diarizer) -> None:
    found = loaded.diarize(DIALOGUE, voiced(DIALOGUE))
    length_ms = DIALOGUE.size // 16
    for turns in (found.turns, found.exclusive):
        assert list(turns) == sorted(turns, key=lambda turn: turn.start_ms)
        assert all(0 <= turn.start_ms < turn.end_ms <= length_ms for turn in turns)
    assert found.turns[0].speaker == 0
    for before, after in zip(found.exclusive, found.exclusive[1:], strict=False):
        assert before.end_ms <= after.start_ms


def test_weights_that_are_none_are_a_wrong_setting(loaded: Diarizer, tmp_path: Path) -> None:
    (tmp_path / "other.pt").write_bytes(b"no weights")
    wanted = TranscribeSettings(diarizer="resemblyzer", diarizer_model=str(tmp_path / "other.pt"))
    with pytest.raises(ValueError, match="holds no weights of Resemblyzer's encoder"):
        choose_diarizer(wanted, "whisperx")
    assert loaded.identity.startswith("resemblyzer ")
