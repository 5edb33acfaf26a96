"""The features that the offline diarizer's encoder sees."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np
import pytest

from services.transcribe.engine import RATE_HZ
from services.transcribe.resemblyzer_diarizer import mel_energies
from tests.transcribe.sounds import noise, speech, tone


def test_a_tone_is_heard_in_the_bands_around_it_and_as_often_as_there_is_audio() -> None:
    mel = mel_energies(tone(1.0, hertz=1_000.0))
    assert mel.shape == (1 + (RATE_HZ - 400) // 160, 40)
    assert mel.dtype == np.float32
    # Slaney's scale has 15 mel at 1 kHz and 45.2 at 8 kHz: 42 edges from 0, so that 1 kHz lies
    # between the peaks of bands 12 and 13.
    assert set(np.argsort(mel.mean(axis=0))[-2:].tolist()) == {12, 13}
    assert np.all(mel[:, 20:] < 1e-3 * mel[:, 13:14])


def test_energies_grow_with_the_square_of_the_level() -> None:
    said = speech(0, seconds=1.0)
    assert np.allclose(mel_energies(2 * said), 4 * mel_energies(said), rtol=1e-4)


@pytest.mark.parametrize("samples", [noise(1.0), speech(0, seconds=2.0)], ids=["noise", "speech"])
def test_they_are_those_that_the_encoder_was_trained_on(samples: Any) -> None:
    if importlib.util.find_spec("librosa") is None:
        pytest.skip("no librosa, which the encoder's package makes them with")
    feature: Any = importlib.import_module("librosa.feature")
    theirs = feature.melspectrogram(
        y=samples, sr=RATE_HZ, n_fft=400, hop_length=160, n_mels=40, center=False
    ).T
    assert np.allclose(mel_energies(samples), theirs, rtol=1e-3, atol=1e-7 * theirs.max())
