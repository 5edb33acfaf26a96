"""The channels of a recording: which carry the same audio, and who speaks on each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from schemas.events import CallEnded, DegradationKind, Role, StoredRecording
from services.runtime.audio import blocks
from services.runtime.errors import Invalid, Transient, cause
from services.transcribe.diarizer import Turns
from services.transcribe.engine import RATE_HZ, Samples
from services.transcribe.spans import Span

# One conversation on both channels: at the best lag of up to 20 ms, nearly every block that is
# loud enough correlates this much, at about the same level. A leak of one channel into the other
# is far weaker than its source, and speech of two people does not correlate.
_BLOCK = RATE_HZ
_LAG = RATE_HZ // 50
_CORRELATION = 0.85
_SHARE = 0.95
_LEVEL = 2.0
_LOUD_SHARE = 0.05
_SILENT = 1e-4
_LAG_BLOCKS = 16
# Of what is said on a channel the second voice says so much, or two voices are no evidence against
# the platform's word that one party is alone on it.
_SECOND_VOICE = 0.1

SCRATCH_BYTES_PER_S = 4 * RATE_HZ
"""What a second of a channel takes while its call is at work."""
HUMANS = frozenset({Role.AGENT, Role.CUSTOMER, Role.SUPERVISOR, Role.EXTERNAL})


def unpack(
    source: Path,
    container: str,
    folder: Path,
    muted: Iterable[Span],
    longest_s: float = float("inf"),
) -> list[Samples]:
    """The channels of the file at `source`, 16 kHz, backed by files in `folder`.

    What lies in `muted` (ms since the recording's start) is zero: it never leaves this function.
    Memory does not grow with the length of the call, and `folder` takes 64 kB a second of all
    channels together. Raises Invalid where nothing can be decoded, and `too_long` where the
    channels add up to more than `longest_s`; Transient where `folder` has no room.
    """
    silenced = [
        (max(0, span.start_ms * RATE_HZ // 1000), -(-span.end_ms * RATE_HZ // 1000))
        for span in muted
    ]
    paths: list[Path] = []
    position = 0
    for block in blocks(source, RATE_HZ, container=container):
        if (position + block.shape[1]) * len(block) > longest_s * RATE_HZ:
            raise Invalid(
                "too_long",
                f"{len(block)} channels add up to more than {longest_s:g} s; "
                "transcribe.max_channel_s allows more, for 64 kB of scratch a second",
            )
        block = np.array(block, np.float32)
        for first, last in silenced:
            block[:, max(0, first - position) : max(0, last - position)] = 0.0
        paths = paths or [folder / f"channel-{number}.f32" for number in range(len(block))]
        with scratch_errors(folder):
            for path, samples in zip(paths, block, strict=True):
                with path.open("ab") as file:
                    file.write(samples.tobytes())
        position += block.shape[1]
    if position == 0:
        return [np.zeros(0, np.float32) for _ in paths]
    with scratch_errors(folder):
        return [np.memmap(path, np.float32, mode="r") for path in paths]


@contextmanager
def scratch_errors(folder: Path) -> Iterator[None]:
    """Raises Transient where a file of ours in `folder` cannot be: no call is at fault."""
    try:
        yield
    except OSError as error:
        raise Transient("scratch", f"{folder}: {cause(error)}") from error


def same_audio(channels: Sequence[Samples]) -> list[int | None]:
    """For each channel the earlier one whose audio it repeats, or None."""
    result: list[int | None] = []
    for number, channel in enumerate(channels):
        result.append(
            next(
                (
                    earlier
                    for earlier in range(number)
                    if result[earlier] is None and _same(channels[earlier], channel)
                ),
                None,
            )
        )
    return result


def _same(one: Samples, other: Samples) -> bool:
    size = min(one.size, other.size) // _BLOCK * _BLOCK
    if size == 0:
        size = min(one.size, other.size)
        if size < RATE_HZ // 10:
            return False
    step = min(_BLOCK, size)
    starts = range(0, size - step + 1, step)
    levels = np.array([_level(one[at : at + step]) for at in starts])
    others = np.array([_level(other[at : at + step]) for at in starts])
    loudest = max(float(levels.max()), float(others.max()))
    if loudest < _SILENT:
        return False
    loud = np.flatnonzero(np.maximum(levels, others) >= max(_SILENT, _LOUD_SHARE * loudest))
    ratios = (levels[loud] + _SILENT) / (others[loud] + _SILENT)
    alike = (ratios < _LEVEL) & (ratios > 1 / _LEVEL)
    if float(np.mean(alike)) < _SHARE:
        return False
    by_level = loud[np.argsort(-levels[loud], kind="stable")][:_LAG_BLOCKS]
    lag = _lag(one, other, [int(block) * step for block in by_level], step)
    agreeing = sum(
        _correlation(one, other, int(block) * step, step, lag) >= _CORRELATION for block in loud
    )
    return agreeing >= _SHARE * len(loud)


def _level(samples: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if samples.size else 0.0


def _lag(one: Samples, other: Samples, starts: Sequence[int], step: int) -> int:
    """By how many samples `other` runs behind `one`, within 20 ms."""
    size = 2 * step
    product = np.zeros(size // 2 + 1, np.complex128)
    for at in starts:
        a = np.fft.rfft(one[at : at + step], size)
        product += np.conj(a) * np.fft.rfft(other[at : at + step], size)
    correlation = np.abs(np.fft.irfft(product, size))
    reach = min(_LAG, step - 1)
    near = np.concatenate([correlation[-reach:], correlation[: reach + 1]])
    return int(np.argmax(near)) - reach


def _correlation(one: Samples, other: Samples, at: int, step: int, lag: int) -> float:
    """Normalised correlation of a block, 0.0 to 1.0; an inverted copy counts as a copy."""
    first = max(at, -lag, 0)
    last = min(at + step, one.size, other.size - lag)
    a = np.asarray(one[first:last], np.float64)
    b = np.asarray(other[first + lag : last + lag], np.float64)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt(np.dot(a, a) * np.dot(b, b)))
    return abs(float(np.dot(a, b))) / norm if norm > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Speakers:
    """Who speaks on each channel of a recording, and what could not be told."""

    names: tuple[str, ...]
    roles: tuple[Role, ...]
    problems: tuple[tuple[DegradationKind, str], ...]
    shared: bool = False
    """Whether all parties are on one channel, whose voices have to be parted."""


def only_voiced(same_as: Sequence[int | None], voiced: Sequence[bool]) -> int | None:
    """Of several distinct channels the one on which anybody speaks; None where that is not so.

    It is a party's own where the others say nothing, as on voicemail; or it has all of them, where
    one channel of a mono call was recorded into a file that has two.
    """
    distinct = [number for number, original in enumerate(same_as) if original is None]
    speaking = [number for number in distinct if voiced[number]]
    return speaking[0] if len(speaking) == 1 < len(distinct) else None


def speakers(
    call: CallEnded,
    recording: StoredRecording,
    same_as: Sequence[int | None],
    only: int | None = None,
    turns: Turns | None = None,
) -> Speakers:
    """Names and roles from the recording's channels; see Speakers.

    Several distinct channels are one speaker each. A single one, or one repeated (dual mono),
    is shared, unless one party can be told to be alone on it.

    Where all that is said is on one of several, on `only`, what the platform tells of it is weighed
    against the `turns` of its voices, if they were parted: a channel that says nothing is no party.
    It is not shared where one person takes part, nor where one voice is heard. Where it has a role
    of its own it is shared only if a second voice says a fair part of it; where it has none it is,
    unless that is known to be one voice.
    """
    told = list(recording.channel_roles)
    problems: list[tuple[DegradationKind, str]] = []
    where = f"recording {recording.recording_id}"
    count = len(same_as)
    if told and len(told) != count:
        problems.append(
            (
                DegradationKind.NO_ROLES,
                f"{where}: {len(told)} roles for {count} channels; none are used",
            )
        )
        told = []
    several = sum(original is None for original in same_as) > 1
    if several and only is not None and _has_all(call, told[only : only + 1], turns):
        silent = ", ".join(str(number) for number in range(count) if number != only)
        if told:
            problems.append(
                (
                    DegradationKind.NO_ROLES,
                    f"{where}: several voices on channel {only}, none on {silent}; the roles of "
                    "channels are not used",
                )
            )
        return Speakers(("speaker_0",) * count, (Role.UNKNOWN,) * count, tuple(problems), True)
    if several:
        roles = told or [Role.UNKNOWN] * count
        if not told and recording.channel_roles == []:
            problems.append(
                (DegradationKind.NO_ROLES, f"{where}: the platform named no channel roles")
            )
        elif Role.UNKNOWN in told:
            problems.append(
                (DegradationKind.NO_ROLES, f"{where}: the role of a channel is unknown")
            )
        return Speakers(_names(roles), tuple(roles), tuple(problems))

    if count > 1:
        problems.append(
            (DegradationKind.DUAL_MONO, f"{where}: its {count} channels carry the same audio")
        )
    role = alone_on(call, told if count == 1 else ())
    name = "speaker_0" if role is Role.UNKNOWN else role.lower()
    return Speakers((name,) * count, (role,) * count, tuple(problems), role is Role.UNKNOWN)


def _has_all(call: CallEnded, told: Sequence[Role], turns: Turns | None) -> bool:
    """Whether the one channel on which anybody speaks, of the role `told`, is everybody's."""
    if len(humans(call)) == 1:
        return False
    named = alone_on(call, told) is not Role.UNKNOWN
    if turns is None:
        return not named
    lengths: Counter[int] = Counter()
    for turn in turns.turns:
        lengths[turn.speaker] += turn.span.length_ms
    second = sorted(lengths.values())[-2:-1]
    return bool(second) and (not named or second[0] >= _SECOND_VOICE * lengths.total())


def alone_on(call: CallEnded, told: Sequence[Role]) -> Role:
    """Who is alone on the one channel of a recording, which has the roles `told`, if any; UNKNOWN
    where several may be."""
    if len(told) == 1 and told[0] is not Role.UNKNOWN:
        return told[0]
    people = humans(call)
    return people[0] if len(people) == 1 else Role.UNKNOWN


def humans(call: CallEnded) -> list[Role]:
    """The people who took part, as far as the platform tells."""
    return [party.role for party in call.participants if party.role in HUMANS]


def _names(roles: Sequence[Role]) -> tuple[str, ...]:
    seen: Counter[Role] = Counter()
    names: list[str] = []
    for number, role in enumerate(roles):
        seen[role] += 1
        if role is Role.UNKNOWN:
            names.append(f"channel_{number}")
        else:
            names.append(role.lower() + (f"_{seen[role]}" if seen[role] > 1 else ""))
    return tuple(names)
