"""Recordings gone wrong: real containers, made from synthetic sound, and what becomes of them.

`Mutants(seed).file(n)` is the same bytes whenever asked: a file is found again by seed and number.
"""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

SECONDS = 1.5

# suffix, FFmpeg's format where the suffix does not name it, encoder, rate, channels
_ENCODED: tuple[tuple[str, str | None, str, int, int], ...] = (
    ("wav", None, "pcm_s16le", 8000, 2),
    ("wav", None, "pcm_mulaw", 8000, 2),
    ("wav", None, "pcm_alaw", 8000, 1),
    ("wav", None, "adpcm_ima_wav", 8000, 2),
    ("wav", None, "g726", 8000, 1),
    ("w64", None, "pcm_s16le", 16000, 1),
    ("aiff", None, "pcm_s16be", 16000, 2),
    ("au", None, "pcm_mulaw", 8000, 1),
    ("caf", None, "alac", 16000, 2),
    ("mp3", None, "libmp3lame", 16000, 2),
    ("mp3", None, "libmp3lame", 8000, 1),
    ("flac", None, "flac", 16000, 2),
    ("ogg", None, "libopus", 48000, 2),
    ("mka", "matroska", "wavpack", 16000, 1),
    ("webm", None, "libopus", 48000, 1),
    ("mka", "matroska", "libmp3lame", 16000, 1),
    ("m4a", "mp4", "aac", 16000, 2),
    ("m4a", "mp4", "aac", 44100, 1),
    ("3gp", "3gp", "libopencore_amrnb", 8000, 1),
    ("aac", "adts", "aac", 16000, 1),
    ("amr", None, "libopencore_amrnb", 8000, 1),
    ("wma", "asf", "wmav2", 44100, 2),
    ("wv", None, "wavpack", 16000, 2),
    ("tta", None, "tta", 16000, 1),
    ("ac3", None, "ac3", 48000, 2),
    ("ulaw", "mulaw", "pcm_mulaw", 8000, 1),
    ("alaw", "alaw", "pcm_alaw", 8000, 1),
    ("g722", None, "g722", 16000, 1),
    ("sln", "s16le", "pcm_s16le", 8000, 1),
)
HEADERLESS = ("ulaw", "alaw", "g722", "sln", "gsm", "g729")


@dataclass(frozen=True, slots=True)
class Original:
    """A sound recording; `named` says what it is."""

    named: str
    suffix: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Mutant:
    """`name` is a file name; `said` what the platform says it is, rightly or not."""

    number: int
    name: str
    said: str | None
    data: bytes
    how: str


def _sound(rate: int, channels: int, seconds: float = SECONDS) -> NDArray[np.int16]:
    """(samples, channels): something like a voice, another on each channel."""
    at = np.arange(round(seconds * rate)) / rate
    drawn = np.random.default_rng(7).normal(0, 300, (at.size, channels))
    swell = 0.5 + 0.5 * np.sin(2 * np.pi * 3 * at)
    voices = [
        6000 * swell * sum(np.sin(2 * np.pi * (130 + 70 * channel) * k * at) / k for k in (1, 2, 3))
        for channel in range(channels)
    ]
    return np.clip(np.stack(voices, axis=1) + drawn, -32768, 32767).astype(np.int16)


def _encoded(suffix: str, form: str | None, codec: str, rate: int, channels: int) -> bytes:
    layout = "mono" if channels == 1 else "stereo"
    file = io.BytesIO()
    with av.open(file, "w", format=form or _FORMATS.get(suffix, suffix)) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.layout = layout
        if codec in _BIT_RATES:
            stream.bit_rate = _BIT_RATES[codec]
        frame = av.AudioFrame.from_ndarray(_sound(rate, channels).reshape(1, -1), "s16", layout)
        frame.sample_rate = rate
        resampler = av.AudioResampler(
            stream.codec_context.format, layout, rate, frame_size=stream.frame_size or 1024
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return file.getvalue()


_FORMATS = {"mka": "matroska"}
# Of encoders that refuse their own default.
_BIT_RATES = {"libopencore_amrnb": 12_200, "wmav2": 64_000}


def _gsm() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, _sound(8000, 1), 8000, format="WAV", subtype="GSM610")
    return file.getvalue()


@cache
def originals() -> tuple[Original, ...]:
    found = [
        Original(f"{suffix} {codec} {rate} Hz x{channels}", suffix,
                 _encoded(suffix, form, codec, rate, channels))
        for suffix, form, codec, rate, channels in _ENCODED
    ]  # fmt: skip
    found.append(Original("wav gsm", "wav", _gsm()))
    # Headerless formats with no encoder here: any bytes are one.
    noise = np.random.default_rng(3).bytes(3300)
    frames = [b"\xd0" + noise[at : at + 32] for at in range(0, 3200, 32)]
    found.append(Original("gsm", "gsm", b"".join(frames)))
    found.append(Original("g729", "g729", noise))
    return tuple(found)


# What becomes of bytes: (bytes, chance) -> bytes.
Mutation = Callable[[bytearray, random.Random], bytes]

_EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
             (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip
# Most bytes of a mutant: as large as it grows from an original of some 50 KB.
_LONGEST = 400_000


def _flip_anywhere(data: bytearray, chance: random.Random) -> bytes:
    for _ in range(chance.choice((1, 2, 8, 50, 400))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def _flip_in_header(data: bytearray, chance: random.Random) -> bytes:
    reach = min(len(data), chance.choice((16, 64, 256)))
    for _ in range(chance.choice((1, 2, 4, 12))):
        data[chance.randrange(reach)] ^= 1 << chance.randrange(8)
    return bytes(data)


def _truncate(data: bytearray, chance: random.Random) -> bytes:
    return bytes(data[: chance.choice((chance.randrange(64), chance.randrange(len(data)))) + 1])


def _behead(data: bytearray, chance: random.Random) -> bytes:
    return bytes(data[chance.randrange(max(1, min(len(data) - 1, 4096))) + 1 :] or data)


def _extreme_fields(data: bytearray, chance: random.Random) -> bytes:
    """Numbers near the start become the smallest and largest that fit."""
    reach = min(len(data), chance.choice((48, 200, 1000)))
    for _ in range(chance.choice((1, 1, 2, 5))):
        size = chance.choice((1, 2, 4, 8))
        at = chance.randrange(reach)
        value = chance.choice(_EXTREMES) & ((1 << 8 * size) - 1)
        data[at : at + size] = value.to_bytes(size, chance.choice(("little", "big")))
    return bytes(data)


def _zeroed(data: bytearray, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    size = min(chance.randrange(1, 5000), len(data) - at)
    data[at : at + size] = bytes([chance.choice((0, 0xFF, 0x55))]) * size
    return bytes(data)


def _inserted(data: bytearray, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    data[at:at] = chance.randbytes(chance.choice((1, 3, 64, 3000)))
    return bytes(data)


def _noise(data: bytearray, chance: random.Random) -> bytes:
    """A true beginning, then anything."""
    kept = chance.choice((4, 12, 44, 128, 600))
    return bytes(data[:kept]) + chance.randbytes(chance.choice((10, 1000, 30_000)))


def _chunks(data: bytes) -> list[bytes]:
    """The parts of a container: RIFF chunks, boxes, pages, frames; blocks where it is none."""
    if data[:4] in (b"RIFF", b"RF64", b"FORM"):
        order = ">" if data[:4] == b"FORM" else "<"
        parts, at = [data[:12]], 12
        while at + 8 <= len(data):
            (size,) = struct.unpack_from(f"{order}I", data, at + 4)
            parts.append(data[at : at + 8 + size + (size & 1)])
            at += 8 + size + (size & 1)
        return parts
    if data[4:8] == b"ftyp":
        parts, at = [], 0
        while at + 8 <= len(data):
            (size,) = struct.unpack_from(">I", data, at)
            parts.append(data[at : at + max(8, size)])
            at += max(8, size)
        return parts
    if data[:4] == b"OggS":
        return [b"OggS" + page for page in data.split(b"OggS")[1:]]
    if data[:4] == b"fLaC":
        parts, at, last = [data[:4]], 4, False
        while at + 4 <= len(data) and not last:
            last = bool(data[at] & 0x80)
            size = 4 + int.from_bytes(data[at + 1 : at + 4], "big")
            parts.append(data[at : at + size])
            at += size
        return [*parts, *(data[n : n + 2000] for n in range(at, len(data), 2000))]
    return [data[n : n + 512] for n in range(0, len(data), 512)]


def _reordered(data: bytearray, chance: random.Random) -> bytes:
    parts = _chunks(bytes(data))
    for _ in range(chance.choice((1, 1, 3))):
        one, other = chance.randrange(len(parts)), chance.randrange(len(parts))
        match chance.randrange(4):
            case 0:
                parts[one], parts[other] = parts[other], parts[one]
            case 1:
                parts.insert(other, parts[one] * chance.choice((1, 2, 40)))
            case 2 if len(parts) > 1:
                del parts[one]
            case _:
                part = bytearray(parts[one])
                parts[one] = _flip_in_header(part, chance) if part else b""
    return b"".join(parts)


def _forged(data: bytearray, chance: random.Random) -> bytes:
    """A chunk that lies about its size or its kind, or is none of the container's."""
    parts = _chunks(bytes(data))
    at = chance.randrange(len(parts))
    part = bytearray(parts[at])
    size = chance.choice(_EXTREMES) & 0xFFFFFFFF
    order: Literal["little", "big"] = chance.choice(("little", "big"))
    if chance.random() < 0.6 and len(part) >= 8:
        place = chance.choice((0, 4))
        part[place : place + 4] = size.to_bytes(4, order)
        parts[at] = bytes(part)
    else:
        kind = chance.choice((b"LIST", b"fmt ", b"data", b"moov", b"stco", b"id3 ", b"OggS",
                              b"ds64", b"fact", b"uuid", b"COMM", b"SSND"))  # fmt: skip
        body = chance.randbytes(chance.choice((0, 4, 40)))
        header = (kind, size.to_bytes(4, order))
        parts.insert(at, b"".join(chance.choice((header, header[::-1]))) + body)
    return b"".join(parts)


def _wav_said(data: bytearray, chance: random.Random) -> bytes:
    """A WAV whose format chunk says anything."""
    code = chance.choice((1, 2, 3, 6, 7, 17, 49, 69, 80, 85, 0xFF, 0x161, 0xFFFE, 0xFFFF,
                          chance.randrange(1 << 16)))  # fmt: skip
    channels = chance.choice((0, 1, 2, 3, 8, 16, 17, 255, 65535))
    rate = chance.choice((0, 1, 3999, 4000, 8000, 44100, 192_000, 655_350, 100_000_000, 0xFFFFFFFF))
    bits = chance.choice((0, 1, 2, 4, 8, 12, 16, 24, 32, 64, 255, 65535))
    align = chance.choice((0, 1, channels * bits // 8 & 0xFFFF, 65535))
    more = struct.pack("<HHIH", 22, bits, 3, code) + chance.randbytes(14)
    form = struct.pack(
        "<HHIIHH", code, channels, rate, min(rate * align, 0xFFFFFFFF), align, bits
    ) + chance.choice((b"", b"\0\0", more))
    body = bytes(data[: chance.randrange(len(data)) + 1])
    length = chance.choice((len(body), 0, 0x7FFFFFFF, 0xFFFFFFFF))
    kind, size = chance.choice((b"RIFF", b"RIFF", b"RF64")), chance.choice(_EXTREMES[:12])
    return (
        kind + struct.pack("<I", size) + b"WAVEfmt " + struct.pack("<I", len(form)) + form
        + b"data" + struct.pack("<I", length) + body
    )  # fmt: skip


def _flac_said(data: bytearray, chance: random.Random) -> bytes:
    """A FLAC whose STREAMINFO says anything."""
    real = next(each.data for each in originals() if each.suffix == "flac")
    info = chance.getrandbits(64)
    rate = chance.choice((0, 1, 8000, 655_350, (1 << 20) - 1))
    packed = rate << 44 | chance.randrange(8) << 41 | chance.randrange(32) << 36
    packed |= info & ((1 << 36) - 1)
    return real[:18] + packed.to_bytes(8, "big") + real[26:]


MUTATIONS: tuple[Mutation, ...] = (
    _flip_anywhere, _flip_in_header, _truncate, _behead, _extreme_fields, _extreme_fields, _zeroed,
    _inserted, _noise, _reordered, _reordered, _forged, _forged, _wav_said, _flac_said,
)  # fmt: skip


class Mutants:
    """The recordings of a seed, by number."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def file(self, number: int) -> Mutant:
        chance = random.Random(f"{self._seed}/audio/{number}")
        sound = chance.choice(originals())
        data = sound.data
        hows = []
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            if not data:
                break
            mutate = chance.choice(MUTATIONS)
            data = mutate(bytearray(data), chance)[:_LONGEST]
            hows.append(mutate.__name__.strip("_"))
        if chance.random() < 0.1:
            other = chance.choice(originals())
            data = chance.choice((data + other.data, other.data + data))[:_LONGEST]
            hows.append(f"with {other.named}")
        suffix = sound.suffix
        if chance.random() < 0.15:
            suffix = _any_suffix(chance)
            hows.append("as another")
        said = chance.choice((None, None, suffix, _any_suffix(chance)))
        return Mutant(number, f"{number}.{suffix}", said, data, f"{sound.named}: {', '.join(hows)}")


def _any_suffix(chance: random.Random) -> str:
    suffixes: Sequence[str] = (*(each.suffix for each in originals()), *HEADERLESS, "bin", "raw")
    return chance.choice(suffixes)
