"""Seconds of a call's audio, out of the object store into a WAV file: what a finding quotes."""

from __future__ import annotations

import hashlib
import re
import tempfile
import wave
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path

from schemas.events import CallTranscribed, Redaction, SegmentKind, StoredRecording
from services.cli.evidence import moment_of
from services.enrich.metrics import Interval, merged
from services.runtime.audio import blocks
from services.runtime.errors import Invalid
from services.runtime.objects import MissingObject, Objects

LONGEST_S = 600
"""Quotes take seconds; who needs a whole call copies the recording."""

PERSONAL_MARGIN_MS = 150
"""Times of words are told by a model, and rough."""

_TIME = re.compile(r"(?:(?:(\d{1,3}):)?(\d{1,4}):)?(\d{1,6})(?:\.(\d{1,3})\d*)?")
_FULL_SCALE = 32_768


@dataclass(frozen=True, slots=True)
class Clip:
    """What was written. Times are ms since the call's start."""

    recording_id: str
    start_ms: int
    end_ms: int
    """May lie before what was asked for: where the recording ends."""
    channels: int
    sample_rate_hz: int
    silenced: list[Interval]


def time_ms(text: str) -> int:
    """A time of a call, as 12.3, 1:02.5 or 1:00:02, in ms. Raises ValueError for anything else."""
    found = _TIME.fullmatch(text.strip())
    if found is None or not text.isascii():
        raise ValueError(f"{text!r} is no time of a call; write seconds, or as 01:02.500")
    hours, minutes, seconds, part = found.groups()
    whole = (int(hours or 0) * 60 + int(minutes or 0)) * 60 + int(seconds)
    return whole * 1000 + int((part or "0").ljust(3, "0"))


def unread_ms(call: CallTranscribed) -> int:
    """Speech that no text was made of: nothing can be known to be personal there."""
    return sum(
        heard.speech_ms if heard.unheard_ms is None else heard.unheard_ms
        for heard in call.channels
        if heard.same_as_channel is None
    )


def clip(
    objects: Objects,
    call: CallTranscribed,
    start_ms: int,
    end_ms: int,
    out: Path,
    recording_id: str | None = None,
    personal: Iterable[Redaction] = (),
) -> Clip:
    """Write [start_ms, end_ms) of the call to `out`: 16-bit WAV, rate and channels as recorded.

    What was not to be heard is silent, on every channel: every stretch that the transcript was not
    made from, every secure pause, and what is `personal` with PERSONAL_MARGIN_MS around it: the
    whole segment where times of its words are not heard but spread. Blocks; decodes the recording
    up to `end_ms`, in little memory.

    Raises Invalid with reason `no_such_time`, `clip_too_long`, `no_audio_there`,
    `several_recordings`, `audio_gone` or `audio_changed`, Transient where the store does not
    answer, OSError where `out` cannot be written; then no file is left.
    """
    if end_ms <= start_ms:
        raise Invalid(
            "no_such_time", f"{moment_of(start_ms)} to {moment_of(end_ms)} ends before it begins"
        )
    if end_ms - start_ms > LONGEST_S * 1000:
        raise Invalid(
            "clip_too_long", f"{(end_ms - start_ms) / 1000:g} s; a clip has at most {LONGEST_S} s"
        )
    stored = _holding(call, start_ms, end_ms, recording_id)
    start_ms = max(start_ms, stored.start_offset_ms)
    end_ms = min(end_ms, stored.start_offset_ms + stored.duration_ms)
    spread = {
        it.segment_id: (it.start_ms, it.end_ms) for it in call.segments if it.words_interpolated
    }
    spoken = (
        spread.get(
            it.segment_id, (it.start_ms - PERSONAL_MARGIN_MS, it.end_ms + PERSONAL_MARGIN_MS)
        )
        for it in personal
    )
    silent = merged(
        (max(start, start_ms), min(end, end_ms))
        for start, end in (*_not_to_be_heard(call), *spoken)
    )
    beside = out.with_name(f".{out.name}.part")
    with tempfile.TemporaryDirectory(prefix="clip-") as folder:
        source = Path(folder) / "recording"
        _fetch(objects, stored, source)
        try:
            channels = _write(source, stored, start_ms, end_ms, silent, beside)
            beside.replace(out)
        finally:
            beside.unlink(missing_ok=True)
    return Clip(stored.recording_id, start_ms, end_ms, channels, stored.sample_rate_hz, silent)


def _not_to_be_heard(call: CallTranscribed) -> list[Interval]:
    return [
        *((mask.start_ms, mask.end_ms) for mask in call.masked),
        *(
            (part.start_ms, part.end_ms)
            for part in call.call.segments
            if part.kind is SegmentKind.SECURE_PAUSE
        ),
    ]


def _holding(
    call: CallTranscribed, start_ms: int, end_ms: int, recording_id: str | None
) -> StoredRecording:
    """The one recording that holds some of it. Raises Invalid where none does, or several do."""
    known = call.recordings
    if recording_id is not None:
        known = [it for it in known if it.recording_id == recording_id]
        if not known:
            names = ", ".join(it.recording_id for it in call.recordings) or "none"
            raise Invalid(
                "no_audio_there", f"the call has no recording {recording_id!r}; it has {names}"
            )
    holding = [
        it
        for it in known
        if it.start_offset_ms < end_ms and start_ms < it.start_offset_ms + it.duration_ms
    ]
    if not holding:
        where = ", ".join(
            f"{it.recording_id} from {moment_of(it.start_offset_ms)} to "
            f"{moment_of(it.start_offset_ms + it.duration_ms)}"
            for it in known
        )
        raise Invalid(
            "no_audio_there",
            f"no recording holds {moment_of(start_ms)} to {moment_of(end_ms)}; there "
            + (f"is {where}" if where else "is none"),
        )
    if len(holding) > 1:
        names = ", ".join(it.recording_id for it in holding)
        raise Invalid(
            "several_recordings", f"{len(holding)} hold it: {names}; name one with --recording"
        )
    return holding[0]


def _fetch(objects: Objects, stored: StoredRecording, path: Path) -> None:
    try:
        objects.get_file(stored.object_key, path)
    except MissingObject:
        raise Invalid(
            "audio_gone",
            f"the audio of recording {stored.recording_id} is no longer in the object store: "
            f"{stored.object_key} was erased or has expired",
        ) from None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != stored.sha256:
        raise Invalid(
            "audio_changed",
            f"object {stored.object_key} has SHA-256 {digest}, the call says {stored.sha256}: it "
            "is not what was transcribed",
        )


def _write(
    source: Path,
    stored: StoredRecording,
    start_ms: int,
    end_ms: int,
    silent: list[Interval],
    out: Path,
) -> int:
    """Write the samples of [start_ms, end_ms) as WAV; how many channels they have."""
    rate, offset_ms = stored.sample_rate_hz, stored.start_offset_ms
    first = round((start_ms - offset_ms) * rate / 1000)
    last = round((end_ms - offset_ms) * rate / 1000)
    # Outwards: no sample of what is masked is heard.
    gaps = [
        (floor((start - offset_ms) * rate / 1000), ceil((end - offset_ms) * rate / 1000))
        for start, end in silent
    ]
    at = channels = 0
    with out.open("wb") as written, wave.open(written, "wb") as file:
        file.setframerate(rate)
        file.setsampwidth(2)
        # Without any, closing the file would hide why nothing was decoded.
        file.setnchannels(max(stored.channels, 1))
        for block in blocks(source, rate, container=stored.container):
            begin, at = at, at + block.shape[1]
            if not channels:
                channels = block.shape[0]
                file.setnchannels(channels)
            if at <= first:
                continue
            for start, end in gaps:
                block[:, max(start - begin, 0) : max(end - begin, 0)] = 0.0
            part = block[:, max(first - begin, 0) : last - begin]
            scaled = (part * _FULL_SCALE).round().clip(-_FULL_SCALE, _FULL_SCALE - 1)
            file.writeframes(scaled.T.astype("<i2").tobytes())
            if at >= last:
                break
    return channels
