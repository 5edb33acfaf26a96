"""Loudness: what a tone has by its formula, whatever its length, and what gain does to it."""

from __future__ import annotations

from math import log10

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.transcribe.engine import RATE_HZ, Samples
from services.transcribe.loudness import FRAME_MS, course, over
from services.transcribe.spans import Span

# What half a dB, to which levels are kept, leaves of a figure, and the tenth it is rounded to.
ROUGH_DB = 0.25 + 0.05


def tone(seconds: float, amplitude: float) -> Samples:
    at = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return (amplitude * np.sin(2 * np.pi * 440 * at)).astype(np.float32)


@given(st.floats(0.5, 70.0), st.floats(0.001, 1.0))
def test_a_tone_has_the_power_of_its_amplitude(seconds: float, amplitude: float) -> None:
    levels = course(tone(seconds, amplitude))
    assert len(levels) == round(seconds * RATE_HZ) * 1000 // (RATE_HZ * FRAME_MS)
    told = over(levels, Span(0, round(seconds * 1000)))
    assert told == pytest.approx(20 * log10(amplitude) - 3.01, abs=ROUGH_DB)


def test_power_is_meant_not_decibels_and_only_what_the_span_touches_counts() -> None:
    audio = np.concatenate([tone(1.0, 0.5), np.zeros(RATE_HZ, np.float32), tone(1.0, 0.05)])
    levels = course(audio)
    assert over(levels, Span(0, 1000)) == pytest.approx(-9.03, abs=ROUGH_DB)
    assert over(levels, Span(2000, 3000)) == pytest.approx(-29.03, abs=ROUGH_DB)
    assert over(levels, Span(1000, 2000)) is None, "digital silence"
    power = (0.125 + 0.00125) / 3
    assert over(levels, Span(0, 3000)) == pytest.approx(10 * log10(power), abs=ROUGH_DB)
    assert over(levels, Span(950, 1000)) == pytest.approx(-9.03, abs=ROUGH_DB)


def test_what_is_beside_the_span_counts_by_what_lies_in_it() -> None:
    levels = course(np.concatenate([tone(1.1, 0.9), tone(1.9, 0.001)]))
    assert over(levels, Span(1100, 3000)) == pytest.approx(-63.01, abs=ROUGH_DB)
    mixed = 10 * log10((0.405 * 50 + 0.5e-6 * 350) / 400)
    assert over(levels, Span(1050, 1450)) == pytest.approx(mixed, abs=ROUGH_DB)
    beside = course(np.concatenate([tone(1.0, 0.001), tone(0.001, 1.0)]))
    assert over(beside, Span(0, 1001)) == pytest.approx(-63.01, abs=ROUGH_DB), "a frame in part"


@pytest.mark.parametrize("span", [Span(5000, 6000), Span(-900, -100), Span(200, 200)])
def test_where_there_is_no_audio_there_is_no_figure(span: Span) -> None:
    assert over(course(tone(1.0, 0.5)), span) is None
    assert over(course(tone(0.0, 0.5)), span) is None


def test_what_is_hardly_there_has_the_lowest_level_and_noise_no_figure_of_its_own() -> None:
    assert over(course(tone(1.0, 1e-9)), Span(0, 1000)) == -127.0
    assert over(course(np.full(RATE_HZ, 1.0, np.float32)), Span(0, 1000)) == 0.0
