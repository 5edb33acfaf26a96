"""What a telephone makes of a recording: each channel sent alone through a codec and back.

Every condition is 8 kHz. They have what a codec and a network do, and not what a handset, a room
or a line does: no echo, no noise, no 300 Hz high-pass.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import wave
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from services.runtime.audio import decode
from services.transcribe.channels import same_audio

RATE_HZ = 8_000
PACKET_MS = 20
_PACKET = RATE_HZ * PACKET_MS // 1000
# After a packet is lost the last one is played again, at half the level each time, then silence.
_REPEATS = 3

Pcm = npt.NDArray[np.int16]
Leg = Callable[[Pcm, Path, int], Pcm]
"""One channel at 8 kHz, a folder for files in work, a seed: what arrives at the other end."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A way for a call to come in."""

    name: str
    about: str
    leg: Leg

    def encode(self, source: Path, folder: Path, seed: int, container: str | None = None) -> Path:
        """The recording at `source` as it arrives, a 16-bit WAV file in `folder`.

        `source` is one that `probe` accepted, and `container` what it said; it is held in memory:
        64 kB a second and channel. Each channel is as long as it was. Equal content and seed give
        an equal file.
        """
        channels = decode(source, RATE_HZ, container)
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        arrived: list[Pcm] = []
        for number, original in enumerate(same_audio(list(channels))):
            if original is not None:
                # One call recorded twice went over one line, and lost the same packets.
                arrived.append(arrived[original])
                continue
            pcm = _pcm(channels[number])
            own = hashlib.sha256(digest + f"{seed} {number}".encode()).digest()
            after = self.leg(pcm, folder, int.from_bytes(own[:8]))[: pcm.size]
            arrived.append(np.pad(after, (0, pcm.size - after.size)))
        target = folder / f"{self.name}.wav"
        with wave.open(str(target), "wb") as file:
            file.setnchannels(len(arrived))
            file.setsampwidth(2)
            file.setframerate(RATE_HZ)
            file.writeframes(np.stack(arrived, axis=1).astype("<i2").tobytes())
        return target


def conditions(told: str) -> list[Condition]:
    """Those that a list such as `g711u,opus-nb,loss10` names. Raises ValueError."""
    found: dict[str, Condition] = {}
    for name in (part.strip().lower() for part in told.split(",")):
        share = re.fullmatch(r"loss([0-9]{1,2})", name)
        if share and int(share[1]):
            found[name] = _losing(name, int(share[1]))
        elif name in CONDITIONS:
            found[name] = CONDITIONS[name]
        else:
            raise ValueError(
                f"{name!r} is no telephone; there are {', '.join(CONDITIONS)}, and loss10 for 10 % "
                "of the packets"
            )
    if "gsm" in found and importlib.util.find_spec("soundfile") is None:
        raise ValueError("gsm needs soundfile; pip install 'callstream[eval]' brings it")
    return list(found.values())


def _through(suffix: str, codec: str, bit_rate: int, options: Mapping[str, str]) -> Leg:
    """Encoded to a file by FFmpeg, decoded as the suite does."""

    def leg(pcm: Pcm, folder: Path, seed: int) -> Pcm:
        path = folder / f"leg.{suffix}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=RATE_HZ, layout="mono", options={**options})
            assert isinstance(stream, av.AudioStream)
            if bit_rate:
                stream.bit_rate = bit_rate
            for start in range(0, pcm.size, RATE_HZ):
                packed = pcm[start : start + RATE_HZ].reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(packed, format="s16", layout="mono")
                frame.sample_rate, frame.pts = RATE_HZ, start
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return _pcm(decode(path, RATE_HZ)[0])

    return leg


def _gsm(pcm: Pcm, folder: Path, seed: int) -> Pcm:
    # FFmpeg decodes GSM 06.10 and does not encode it.
    import soundfile

    path = folder / "leg.gsm"
    soundfile.write(path, pcm, RATE_HZ, format="RAW", subtype="GSM610")
    return _pcm(decode(path, RATE_HZ, "gsm")[0])


def _pcm(samples: npt.NDArray[np.float32]) -> Pcm:
    return (np.clip(samples, -1.0, 1.0) * 32_767).astype(np.int16)


_g711u = _through("wav", "pcm_mulaw", 0, {})


def _loss(percent: int, pcm: Pcm, folder: Path, seed: int) -> Pcm:
    """G.711 of which packets do not come, each for itself; see _REPEATS."""
    packets = np.pad(_g711u(pcm, folder, seed), (0, -pcm.size % _PACKET)).reshape(-1, _PACKET)
    lost = np.random.default_rng(seed).random(len(packets)) < percent / 100
    last, again = np.zeros(_PACKET, np.int16), 0
    for number, packet in enumerate(packets):
        if not lost[number]:
            last, again = packet.copy(), 0
            continue
        again += 1
        packets[number] = last // 2**again if again <= _REPEATS else 0
    return packets.reshape(-1)


def _losing(name: str, percent: int) -> Condition:
    about = f"G.711 µ-law, {percent} % of its {PACKET_MS} ms packets lost at random and concealed"
    return Condition(name, about, partial(_loss, percent))


CONDITIONS: Mapping[str, Condition] = {
    condition.name: condition
    for condition in (
        Condition("g711u", "G.711 µ-law, 64 kbit/s", _g711u),
        Condition("g711a", "G.711 A-law, 64 kbit/s", _through("wav", "pcm_alaw", 0, {})),
        Condition("gsm", "GSM 06.10 full rate, 13 kbit/s", _gsm),
        Condition(
            "amr-nb",
            "AMR narrow-band, 12.2 kbit/s",
            _through("amr", "libopencore_amrnb", 12_200, {}),
        ),
        Condition(
            "opus-nb",
            "Opus narrow-band, 8 kbit/s",
            _through("ogg", "libopus", 8_000, {"application": "voip", "vbr": "off"}),
        ),
        _losing("loss", 5),
    )
}
