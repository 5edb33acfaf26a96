"""How loud a channel is, so that a raised voice can be told: mean power in dB below full scale.

0 dBFS is the power of a full-scale square wave; a full-scale sine has -3. Telephone lines, codecs
and automatic gain differ: figures of one channel compare with one another, those of two do not.
"""

from __future__ import annotations

import numpy as np

from services.transcribe.engine import RATE_HZ, Samples
from services.transcribe.spans import Span

FRAME_MS = 100
_FRAME = RATE_HZ * FRAME_MS // 1000
# Frames that are read at once: a minute.
_BLOCK = 600
_NOTHING = 255
# Power of each level, which is in half dB below full scale.
_POWERS = np.array([10 ** (-level / 20) for level in range(_NOTHING)] + [0.0])


def course(audio: Samples) -> bytes:
    """The level of each FRAME_MS of the channel, the last of what is left: a byte in half dB below
    full scale, 254 for whatever is quieter than -127 dBFS, 255 for digital silence.
    """
    levels: list[bytes] = []
    for start in range(0, audio.size, _BLOCK * _FRAME):
        block = np.asarray(audio[start : start + _BLOCK * _FRAME], np.float64)
        edges = np.arange(0, block.size, _FRAME)
        lengths = np.diff(edges, append=block.size)
        power = np.add.reduceat(np.square(block), edges) / lengths
        level = np.full(power.size, float(_NOTHING))
        sounds = power > 0
        level[sounds] = np.clip(np.round(-20 * np.log10(power[sounds])), 0, _NOTHING - 1)
        levels.append(level.astype(np.uint8).tobytes())
    return b"".join(levels)


def over(course: bytes, span: Span) -> float | None:
    """dBFS of what `span` (ms since the audio's start) touches, to a tenth; None of no sound."""
    first, last = max(span.start_ms // FRAME_MS, 0), max(-(-span.end_ms // FRAME_MS), 0)
    levels = np.frombuffer(course, np.uint8)[first:last]
    power = float(_POWERS[levels].mean()) if levels.size else 0.0
    return round(float(10 * np.log10(power)), 1) if power else None
