"""Hostile and honest audio, through the real child process."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.runtime.audio import AudioInfo, AudioLimits, _timed, blocks, decode, probe
from services.runtime.errors import Invalid

LIMITS = AudioLimits()
TONES_HZ = (440.0, 1000.0)


def wav(
    samples: bytes, rate: int = 8000, channels: int = 1, bits: int = 16, code: int = 1
) -> bytes:
    """A WAV file that says what it is told to say."""
    frame = channels * bits // 8
    form = struct.pack(
        "<HHIIHH", code, channels, rate, min(rate * frame, 2**32 - 1), frame % 65536, bits
    )
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(samples))
    return b"RIFF" + struct.pack("<I", len(body) + len(samples)) + body + samples


def tone(
    seconds: float, rate: int, channels: int = 1
) -> np.ndarray[tuple[int, int], np.dtype[np.int16]]:
    """One tone per channel, (samples, channels)."""
    at = np.arange(round(seconds * rate)) / rate
    waves = [np.sin(2 * np.pi * hz * at) * 12_000 for hz in TONES_HZ[:channels]]
    return np.stack(waves, axis=1).astype(np.int16)


def encoded(
    path: Path, codec: str, rate: int, seconds: float, channels: int = 1, form: str | None = None
) -> Path:
    layout = "mono" if channels == 1 else "stereo"
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, av.AudioStream)
        stream.layout = layout
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(tone(seconds, rate, channels).reshape(1, -1)), "s16", layout
        )
        frame.sample_rate = rate
        resampler = av.AudioResampler(
            stream.codec_context.format, layout, rate, frame_size=stream.frame_size or 1024
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


def loudest_hz(samples: np.ndarray[tuple[int], np.dtype[np.float32]], rate: int) -> float:
    middle = samples[len(samples) // 4 : -len(samples) // 4]
    spectrum = np.abs(np.fft.rfft(middle))
    return float(np.argmax(spectrum)) * rate / len(middle)


def refusal(path: Path, limits: AudioLimits = LIMITS, container: str | None = None) -> Invalid:
    with pytest.raises(Invalid) as caught:
        probe(path, limits, container)
    return caught.value


@pytest.mark.parametrize(
    ("name", "codec", "rate", "channels"),
    [
        ("a.wav", "pcm_mulaw", 8000, 2),
        ("a.wav", "pcm_alaw", 8000, 1),
        ("a.wav", "pcm_s16le", 16000, 2),
        ("a.flac", "flac", 44100, 2),
        ("a.mp3", "libmp3lame", 16000, 2),
        ("a.ogg", "libopus", 48000, 2),
        ("a.m4a", "aac", 44100, 2),
        ("a.amr", "libopencore_amrnb", 8000, 1),
        ("a.ulaw", "pcm_mulaw", 8000, 1),
        ("a.alaw", "pcm_alaw", 8000, 1),
        ("a.g722", "g722", 16000, 1),
    ],
)
def test_every_channel_comes_out_as_it_went_in(
    tmp_path: Path, name: str, codec: str, rate: int, channels: int
) -> None:
    form = {"a.ulaw": "mulaw", "a.alaw": "alaw"}.get(name)
    path = encoded(tmp_path / name, codec, rate, 2.0, channels, form)

    info = probe(path, LIMITS)
    samples = decode(path)

    assert (info.sample_rate_hz, info.channels) == (rate, channels)
    assert info.duration_ms == pytest.approx(2000, abs=80)
    assert samples.dtype == np.float32
    assert samples.shape == (channels, pytest.approx(info.duration_ms * 16, abs=32))
    for channel in range(channels):
        assert loudest_hz(samples[channel], 16000) == pytest.approx(TONES_HZ[channel], abs=5)
    # The object store keeps no suffix: what the probe found is enough to decode by.
    bare = tmp_path / "object"
    bare.write_bytes(path.read_bytes())
    np.testing.assert_array_equal(decode(bare, container=info.container), samples)
    assert probe(bare, LIMITS, info.container) == info


def test_a_header_wins_over_what_the_platform_says(tmp_path: Path) -> None:
    path = tmp_path / "call.ulaw"
    path.write_bytes(wav(tone(1, 8000).tobytes()))
    assert probe(path, LIMITS, "mulaw") == AudioInfo("wav", "pcm_s16le", 8000, 1, 1000, 8000)


def test_raw_samples_at_16_khz(tmp_path: Path) -> None:
    path = tmp_path / "call.sln16"
    path.write_bytes(tone(1, 16000).tobytes())
    info = probe(path, LIMITS)
    assert (info.sample_rate_hz, info.duration_ms) == (16000, 1000)
    assert decode(path, container=info.container).shape == (1, 16000)


@pytest.mark.parametrize("channels", [3, 8, 9, 16])
@pytest.mark.parametrize("rate", [8000, 16000])
def test_many_channels_come_out_each_as_it_is(tmp_path: Path, channels: int, rate: int) -> None:
    """Of more than eight planes, PyAV's frames have no pointers."""
    path = tmp_path / "call.wav"
    level = np.arange(1, channels + 1, dtype=np.int16) * 1000
    path.write_bytes(wav(np.tile(level, (rate, 1)).tobytes(), rate, channels))
    assert probe(path, LIMITS).channels == channels
    samples = decode(path)
    assert samples.shape == (channels, 16_000)
    np.testing.assert_allclose(samples[:, 8000], level / 32768, atol=1e-3)


@pytest.mark.parametrize("seconds", [0.3, 1.0, 7.0])
def test_blocks_are_the_whole_in_pieces(tmp_path: Path, seconds: float) -> None:
    path = tmp_path / "call.wav"
    path.write_bytes(wav(tone(3.1, 8000, 2).tobytes(), channels=2))
    pieces = list(blocks(path, 16000, seconds))
    assert {piece.shape[1] for piece in pieces[:-1]} <= {round(seconds * 16000)}
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), decode(path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty_file"),
        (b"The call could not be recorded.\n" * 40, "not_audio"),
        (b"<html><body>Please log in</body></html>", "not_audio"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n", "not_audio"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not_audio"),
        (wav(b""), "decodes_to_nothing"),
        (wav(b"\0" * 65_536, 100_000_000), "sample_rate"),
        (wav(b"\0" * 65_536, 100), "sample_rate"),
        (wav(b"\0" * 262_144, 8000, 65_535, 8), "too_many_channels"),
        (wav(b"\0" * 65_536, 8000, 40), "too_many_channels"),
    ],
)
def test_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "call.wav"
    path.write_bytes(content)
    assert refusal(path).reason == reason


def test_flac_of_655_khz_and_8_channels(tmp_path: Path) -> None:
    path = tmp_path / "call.flac"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=655_350)
        assert isinstance(stream, av.AudioStream)
        stream.layout = "7.1"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8 * 4096), np.int16), "s16", "7.1")
        frame.sample_rate = 655_350
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert refusal(path).reason == "sample_rate"
    assert refusal(path, AudioLimits(max_sample_rate_hz=10**6, max_channels=2)).reason == (
        "too_many_channels"
    )


def test_what_a_flac_header_claims_is_not_believed(tmp_path: Path) -> None:
    """STREAMINFO says 655 kHz and 8 channels, the frames say 16 kHz and one."""
    path = encoded(tmp_path / "call.flac", "flac", 16000, 1)
    data = bytearray(path.read_bytes())
    at = data.index(b"fLaC") + 8 + 10
    packed = int.from_bytes(data[at : at + 8], "big")
    packed = packed & ((1 << 41) - 1) | 655_350 << 44 | 7 << 41
    data[at : at + 8] = packed.to_bytes(8, "big")
    path.write_bytes(data)
    info = probe(path, LIMITS)
    assert (info.sample_rate_hz, info.channels, info.duration_ms) == (16000, 1, 1000)


def test_more_bytes_than_allowed(tmp_path: Path) -> None:
    path = tmp_path / "call.wav"
    path.write_bytes(wav(b"\0" * 2000))
    assert refusal(path, AudioLimits(max_bytes=1000)).reason == "too_many_bytes"


def test_a_file_cut_short_counts_as_what_is_left(tmp_path: Path) -> None:
    whole = wav(tone(2, 8000).tobytes())
    path = tmp_path / "call.wav"
    path.write_bytes(whole[: len(whole) // 2])
    assert probe(path, LIMITS).duration_ms == pytest.approx(1000, abs=10)
    flac = encoded(tmp_path / "call.flac", "flac", 16000, 4)
    flac.write_bytes(flac.read_bytes()[: flac.stat().st_size // 2])
    assert 500 < probe(flac, LIMITS).duration_ms < 3500
    assert decode(flac).shape[1] > 8000


def parts(path: Path, container: str, codec: str, *starts_s: float, channels: int = 1) -> Path:
    """A second of a tone at each of those times by the timestamps, and nothing in between."""
    rate, block = 48_000, 960
    kind = {"libopus": "flt", "pcm_s16le": "s16"}[codec]
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    packed = np.repeat(tone, channels)[None]
    values = packed.astype(np.float32) if kind == "flt" else (32_767 * packed).astype(np.int16)
    with av.open(path, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate)
        assert isinstance(stream, av.AudioStream)
        layout = {1: "mono", 12: "7.1.4"}[channels]
        stream.layout = layout
        for start_s in starts_s:
            for at in range(0, rate, block):
                piece = values[:, at * channels : (at + block) * channels]
                frame = av.AudioFrame.from_ndarray(piece, format=kind, layout=layout)
                frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = round(start_s * rate) + at
                out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("container", "codec"), [("webm", "libopus"), ("ogg", "libopus"), ("matroska", "pcm_s16le")]
)
def test_what_timestamps_leave_out_is_silence(tmp_path: Path, container: str, codec: str) -> None:
    """Of lost packets, or of a sender who sends nothing while nobody speaks."""
    path = parts(tmp_path / f"call.{container}", container, codec, 2.0, 6.0, 7.02, 7.0 + 60.0)
    assert abs(probe(path, LIMITS).duration_ms - 66_000) <= 10
    samples = decode(path)[0]
    assert abs(samples.size - 66 * 16_000) <= 160
    assert sum(block.shape[1] for block in blocks(path)) == samples.size
    if container == "ogg":  # a page of about a second tells its end alone
        return
    # A tone begins at 0 s, where the file does, at 4, at 5.02 and at 65 s.
    for start_s, end_s in ((0.1, 0.9), (4.1, 4.9), (5.12, 5.92), (65.1, 65.9)):
        said = samples[round(start_s * 16_000) : round(end_s * 16_000)]
        assert loudest_hz(said, 16_000) == pytest.approx(440, abs=5)
        assert float(np.sqrt(np.mean(said**2))) > 0.1
    for start_s, end_s in ((1.1, 3.9), (6.1, 64.9)):
        assert float(np.abs(samples[round(start_s * 16_000) : round(end_s * 16_000)]).max()) < 1e-3


def test_a_gap_is_filled_on_every_channel(tmp_path: Path) -> None:
    path = parts(tmp_path / "call.mka", "matroska", "pcm_s16le", 0.0, 3.0, channels=12)
    samples = decode(path)
    assert samples.shape == (12, 4 * 16_000)
    assert float(np.abs(samples[:, 17_000:47_000]).max()) == 0.0


def test_timestamps_that_are_not_exact_are_no_gaps(tmp_path: Path) -> None:
    # Of a clock that jitters by 10 ms, and of one that jumps by hours or runs from 1970.
    exact = [float(second) + 0.01 * (second % 2) for second in range(10)]
    path = parts(tmp_path / "call.mka", "matroska", "pcm_s16le", *exact)
    assert decode(path).shape[1] == 10 * 16_000
    for starts in ((0.0, 5_000.0), (1e9, 1e9 + 1)):
        path = parts(tmp_path / "call.mka", "matroska", "pcm_s16le", *starts)
        assert decode(path).shape[1] == len(starts) * 16_000, starts
        assert probe(path, LIMITS).duration_ms == len(starts) * 1_000


@pytest.mark.parametrize(
    ("starts_s", "gaps_s"),
    [
        ((100, 0, 1), (0, 0, 0)),  # begins anew
        ((0, 1.1, 2.0, 3.2, 4.1), (0, 0.1, 0, 0.1, 0)),  # off now and then, at most by 0.2 s
        ((0, None, 5, None, 7), (0, 0, 3, 0, 0)),
        ((0, 2, 2.5, 4), (0, 1, 0, 0)),  # what is too long is not cut
        ((-1, 1), (0, 1)),
        ((2**62, 2**62 + 1, 0, 2**61), (0, 0, 0, 0)),
    ],
)
def test_gaps_are_counted_from_the_start(
    starts_s: tuple[float | None, ...], gaps_s: tuple[float, ...]
) -> None:
    def frames() -> Iterator[av.AudioFrame]:
        for start_s in starts_s:
            frame = av.AudioFrame("s16", "mono", 1_000)
            frame.sample_rate, frame.time_base = 1_000, Fraction(1, 1_000)
            frame.pts = None if start_s is None else min(round(start_s * 1_000), 2**62)
            yield frame

    assert [gap / 1_000 for _, gap in _timed(frames())] == list(gaps_s)


def test_gaps_are_bounded_as_audio_is(tmp_path: Path) -> None:
    path = parts(tmp_path / "call.mka", "matroska", "pcm_s16le", *(3_000.0 * n for n in range(11)))
    assert refusal(path).reason == "too_long"
    peak = subprocess.run(
        [sys.executable, "-c", _PEAK_OF_GAPS, str(path)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    before, after = map(int, peak.stdout.split())
    assert after - before < 60_000, "kB, for 8 hours of silence"


_PEAK_OF_GAPS = """
import resource, sys
from pathlib import Path
import numpy
from services.runtime.audio import blocks
path = Path(sys.argv[1])
next(iter(blocks(path)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert sum(block.shape[1] for block in blocks(path)) == 16_000 * 30_001
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def silence(path: Path, hours: float) -> Path:
    """Opus silence: a few hundred kilobytes that decode to hours."""
    with av.open(str(path), "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=48000, options={"frame_duration": "60"})
        assert isinstance(stream, av.AudioStream)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2880), np.int16), "s16", "mono")
        frame.sample_rate = 48000
        for _ in range(3):
            packets = stream.encode(frame)
        (packet,) = packets
        payload = bytes(packet)
        for number in range(round(hours * 60_000)):
            packet = av.Packet(payload)
            packet.pts = packet.dts = number * 2880
            packet.duration = 2880
            packet.stream = stream
            packet.time_base = Fraction(1, 48_000)
            container.mux(packet)
    return path


def test_opus_that_decodes_to_hours_is_stopped_while_decoding(tmp_path: Path) -> None:
    path = silence(tmp_path / "call.opus", 0.2)
    assert path.stat().st_size < 400_000
    assert refusal(path, AudioLimits(max_duration_s=60)).reason == "too_long"


@pytest.mark.slow
def test_25_mb_of_opus_that_decode_to_many_hours(tmp_path: Path) -> None:
    part = silence(tmp_path / "call.opus", 0.5).read_bytes()
    path = tmp_path / "long.opus"
    with path.open("wb") as file:
        while file.tell() < 25_000_000:
            file.write(part)
    assert refusal(path, AudioLimits(max_duration_s=4 * 3600.0)).reason == "too_long"


def test_processor_time_is_bounded(tmp_path: Path) -> None:
    path = silence(tmp_path / "call.opus", 3)
    assert refusal(path, AudioLimits(cpu_s=1)).reason == "probe_timeout"


def test_a_child_without_memory_fails_alone(tmp_path: Path) -> None:
    path = encoded(tmp_path / "call.flac", "flac", 8000, 1)
    data = path.read_bytes()
    picture = b"\x06" + (15_000_000).to_bytes(3, "big") + bytes(15_000_000)
    path.write_bytes(data[:42] + picture + data[42:])
    told: list[int] = []
    beside = threading.Thread(target=lambda: told.append(probe(path, LIMITS).duration_ms))
    beside.start()
    assert refusal(path, AudioLimits(memory_bytes=24 << 20)).reason == "decoder_memory"
    beside.join()
    assert told == [1000]


# A process counts the memory of whoever forked it as its own: a small one goes between.
PEAK_OF_CHILD = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_length_of_the_audio(tmp_path: Path) -> None:
    path = silence(tmp_path / "call.opus", 0.5)
    request = json.dumps({"limits": asdict(LIMITS), "hint": ""})
    probing = [sys.executable, "-m", "services.runtime.audio", request]
    with path.open("rb") as file:
        told = subprocess.run(
            [sys.executable, "-c", PEAK_OF_CHILD, *probing],
            stdin=file, capture_output=True, check=True, cwd=Path(__file__).parents[2],
        ).stdout.splitlines()  # fmt: skip
    assert json.loads(told[0])["duration_ms"] == pytest.approx(1_800_000, abs=100)
    # Decoded at once, these samples would take 345 MB.
    assert int(told[1]) < 100 * 1024


@settings(max_examples=25, deadline=None)
@given(st.binary(min_size=1, max_size=4096), st.sampled_from(["wav", "ulaw", "mp3", "ogg", ""]))
def test_any_bytes_are_measured_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("any") / f"call.{suffix}"
    path.write_bytes(content)
    outcome: AudioInfo | str
    try:
        outcome = probe(path, LIMITS)
    except Invalid as problem:
        outcome = problem.reason
    if isinstance(outcome, AudioInfo):
        assert outcome.samples > 0
        assert decode(path).shape[0] == outcome.channels
    else:
        assert outcome in {
            "not_audio", "decodes_to_nothing", "several_streams", "sample_rate",
            "too_many_channels", "too_long",
        }  # fmt: skip
