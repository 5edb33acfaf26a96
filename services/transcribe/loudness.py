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
    """The level of each whole FRAME_MS of the channel: a byte in half dB below full scale, 254 for
    whatever is quieter than -127 dBFS, 255 for digital silence.
    """
    levels: list[bytes] = []
    end = audio.size // _FRAME * _FRAME
    for start in range(0, end, _BLOCK * _FRAME):
        block = np.asarray(audio[start : min(start + _BLOCK * _FRAME, end)], np.float64)
        power = np.square(block.reshape(-1, _FRAME)).mean(axis=1)
        level = np.full(power.size, float(_NOTHING))
        sounds = power > 0
        level[sounds] = np.clip(np.round(-20 * np.log10(power[sounds])), 0, _NOTHING - 1)
        levels.append(level.astype(np.uint8).tobytes())
    return b"".join(levels)


def over(course: bytes, span: Span) -> float | None:
    """dBFS of `span` (ms since the audio's start), to a tenth; None where there is no sound.

    A frame that lies in it in part counts by that part.
    """
    start, end = max(span.start_ms, 0), min(span.end_ms, len(course) * FRAME_MS)
    if start >= end:
        return None
    first, last = start // FRAME_MS, -(-end // FRAME_MS)
    levels = np.frombuffer(course, np.uint8)[first:last]
    within = np.full(levels.size, float(FRAME_MS))
    within[0] -= start - first * FRAME_MS
    within[-1] -= last * FRAME_MS - end
    power = float(np.average(_POWERS[levels], weights=within))
    return round(float(10 * np.log10(power)), 1) if power else None
