from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.transcribe.settings import VadSettings
from services.transcribe.spans import total_ms
from services.transcribe.vad import FRAME_MS, Vad, Voiced, stretches
from tests.transcribe.sounds import Samples, noise, silence, speech, tone

SETTINGS = VadSettings()


@cache
def vad() -> Vad:
    return Vad()


@pytest.mark.parametrize(
    "audio",
    [silence(0), silence(3), noise(5), noise(5, 0.4), tone(3), tone(3, 1_000, 0.5)],
    ids=["nothing", "silence", "noise", "loud noise", "tone", "loud tone"],
)
def test_no_voice_is_heard_where_nobody_speaks(audio: Samples) -> None:
    assert vad().speech(audio, SETTINGS) == Voiced([], [])


def test_speech_is_found_where_it_is() -> None:
    said = speech(seconds=4.0)
    audio = np.concatenate([silence(2), said, silence(2)])
    voiced = vad().speech(audio, SETTINGS)
    assert voiced.spans[0].start_ms >= 2_000
    assert voiced.spans[-1].end_ms <= 6_200
    assert total_ms(voiced.spans) > 2_500


def test_a_long_call_is_heard_in_runs_that_join() -> None:
    audio = np.concatenate([silence(299), speech(seconds=4.0)])
    whole = vad().speech(audio, SETTINGS)
    assert 299_000 <= whole.spans[0].start_ms < 300_000
    assert total_ms(whole.spans) > 2_500


@given(
    st.lists(st.floats(0, 1), max_size=80),
    st.integers(0, 400),
    st.integers(0, 600),
    st.integers(0, 600),
)
def test_stretches_are_disjoint_and_their_margins_do_not_overlap(
    probabilities: list[float], shortest: int, silent: int, pad: int
) -> None:
    settings = VadSettings(min_speech_ms=shortest, min_silence_ms=silent, pad_ms=pad)
    length_ms = len(probabilities) * FRAME_MS
    voiced = stretches(np.array(probabilities, np.float32), length_ms, settings)
    assert len(voiced.spans) == len(voiced.padded)
    end = 0
    for span, padded in zip(voiced.spans, voiced.padded, strict=True):
        assert end <= padded.start_ms <= span.start_ms < span.end_ms <= padded.end_ms
        assert span.length_ms >= shortest
        assert span.start_ms - padded.start_ms <= pad
        assert padded.end_ms - span.end_ms <= pad
        end = padded.end_ms
    assert end <= length_ms


@pytest.mark.parametrize("seconds", [29.3, 29.6, 29.95, 30.1, 61.0])
def test_with_its_margins_a_stretch_is_no_longer_than_is_heard_at_once(seconds: float) -> None:
    frames = int(seconds * 1000) // FRAME_MS
    quiet = np.zeros(50, np.float32)
    probabilities = np.concatenate([quiet, np.full(frames, 0.9, np.float32), quiet])
    voiced = stretches(probabilities, len(probabilities) * FRAME_MS, SETTINGS)
    assert total_ms(voiced.spans) == frames * FRAME_MS
    assert voiced.padded[0].start_ms == voiced.spans[0].start_ms - SETTINGS.pad_ms
    assert max(span.length_ms for span in voiced.padded) <= SETTINGS.max_speech_s * 1000


def test_margins_that_leave_no_room_part_speech_no_finer_than_half_of_what_is_asked() -> None:
    settings = VadSettings(max_speech_s=1, pad_ms=600)
    voiced = stretches(np.full(100, 0.9, np.float32), 100 * FRAME_MS, settings)
    assert total_ms(voiced.spans) == 100 * FRAME_MS
    assert min(span.length_ms for span in voiced.spans) >= 200


def test_speech_without_a_pause_is_parted_where_it_is_weakest() -> None:
    probabilities = np.full(200, 0.9, np.float32)
    probabilities[[20, 80]] = 0.6
    settings = VadSettings(max_speech_s=3)
    voiced = stretches(probabilities, 200 * FRAME_MS, settings)
    assert [span.start_ms // FRAME_MS for span in voiced.spans][:2] == [0, 80]
    assert voiced.spans[-1].end_ms == 200 * FRAME_MS
    assert total_ms(voiced.spans) == 200 * FRAME_MS
    assert max(span.length_ms for span in voiced.spans) <= 3_000
