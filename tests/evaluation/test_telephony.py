"""What arrives of a recording that went over a telephone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from services.evaluation.telephony import CONDITIONS, RATE_HZ, conditions
from services.runtime.audio import AudioLimits, decode, probe
from tests.evaluation.clips import two_parties, write_clip
from tests.transcribe.sounds import Samples, speech

# A correlation with what was sent, that the wave of each keeps; AMR filters away lows.
_ALIKE = {"g711u": 0.999, "g711a": 0.999, "gsm": 0.9, "amr-nb": 0.3, "opus-nb": 0.7, "loss": 0.9}


@pytest.mark.parametrize("name", sorted(CONDITIONS))
def test_each_channel_arrives_alone_and_as_long_as_it_was(tmp_path: Path, name: str) -> None:
    source = write_clip(tmp_path, "call.wav", *two_parties())
    (condition,) = conditions(name)
    path = condition.encode(source, tmp_path, seed=1)
    told = probe(path, AudioLimits())
    assert (told.sample_rate_hz, told.channels, told.duration_ms) == (RATE_HZ, 2, 3000)
    sent, arrived = decode(source, RATE_HZ), decode(path, RATE_HZ)
    lag = max(range(100), key=lambda by: correlation(sent[0], np.roll(arrived[0], -by)))
    assert correlation(sent[0], np.roll(arrived[0], -lag)) > _ALIKE[name]
    assert lag < RATE_HZ // 100
    # Nothing of one party is heard where the other is.
    assert np.abs(arrived[1]).max() < 0.01 < np.abs(arrived[0]).max()


def correlation(one: Samples, other: Samples) -> float:
    return float(np.corrcoef(one, other)[0, 1])


def test_the_same_packets_are_lost_each_time_and_concealed(tmp_path: Path) -> None:
    source = write_clip(tmp_path, "call.wav", *two_parties())
    clean, lossy = conditions("g711u,loss30")
    sent = decode(clean.encode(source, tmp_path, 7), RATE_HZ)[0].reshape(-1, 160)
    path = lossy.encode(source, tmp_path, 7)
    first = path.read_bytes()
    assert lossy.encode(source, tmp_path, 7).read_bytes() == first
    arrived = decode(path, RATE_HZ)[0].reshape(-1, 160)
    assert lossy.encode(source, tmp_path, 8).read_bytes() != first
    last, again, lost = np.zeros(160, np.float32), 0, 0
    for packet, original in zip(arrived, sent, strict=True):
        if np.array_equal(packet, original):
            last, again = original, 0
            continue
        lost, again = lost + 1, again + 1
        # Played again at half the level each time, three times, then nothing.
        expected = last / 2**again if again <= 3 else np.zeros(160)
        assert np.abs(packet - expected).max() < 2 / 32_768
    assert 0.15 < lost / len(sent) < 0.45


def test_a_call_recorded_twice_went_over_one_line(tmp_path: Path) -> None:
    talk = speech(0, 0.0, 3.0)
    source = write_clip(tmp_path, "call.wav", talk, 0.8 * talk)
    (condition,) = conditions("loss30")
    one, other = decode(condition.encode(source, tmp_path, 7), RATE_HZ)
    assert np.array_equal(one, other)


def test_a_clip_shorter_than_a_packet_arrives_too(tmp_path: Path) -> None:
    source = write_clip(tmp_path, "call.wav", np.full(80, 0.1, np.float32))
    for condition in CONDITIONS.values():
        assert decode(condition.encode(source, tmp_path, 0), RATE_HZ).shape == (1, 40)


@pytest.mark.parametrize("told", ["g711", "loss0", "loss100", "g711u,,gsm", "loss-5", "loss²"])
def test_what_is_no_telephone_is_refused(told: str) -> None:
    with pytest.raises(ValueError, match="is no telephone; there are g711u"):
        conditions(told)


def test_a_telephone_named_twice_is_tried_once() -> None:
    assert [each.name for each in conditions(" GSM,gsm, loss10,loss")] == ["gsm", "loss10", "loss"]
