from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from schemas.events import CallEnded, DegradationKind, Participant, Role, StoredRecording
from schemas.examples import EXAMPLES
from services.runtime.errors import Invalid
from services.transcribe.channels import same_audio, speakers, unpack
from services.transcribe.engine import RATE_HZ
from services.transcribe.spans import Span
from tests.transcribe.sounds import Samples, noise, silence, speech, tone, wav

AGENT, CUSTOMER, UNKNOWN = Role.AGENT, Role.CUSTOMER, Role.UNKNOWN


def mulaw(samples: Samples) -> Samples:
    """As it comes back from G.711: eight bits on a logarithmic scale (ITU-T G.711, mu = 255)."""
    compressed = np.sign(samples) * np.log1p(255 * np.abs(samples)) / np.log(256)
    steps = np.round(compressed * 127) / 127
    expanded = np.sign(steps) * (np.power(256, np.abs(steps)) - 1) / 255
    return np.asarray(expanded, np.float32)


def later(samples: Samples, count: int) -> Samples:
    return np.concatenate([np.zeros(count, np.float32), samples])[: samples.size]


ONE = speech(0, seconds=8.0)
OTHER = speech(1, seconds=8.0)


@pytest.mark.parametrize(
    ("second", "same"),
    [
        (ONE, True),
        (mulaw(ONE), True),
        (later(ONE, 160), True),
        (-ONE, True),
        (0.7 * ONE, True),
        (ONE + noise(8.0, 0.003), True),
        (OTHER, False),
        (OTHER + 0.05 * ONE, False),
        # The customer is silent, and the agent leaks into that channel.
        (0.03 * ONE, False),
        (silence(8.0), False),
        (noise(8.0), False),
    ],
    ids=["equal", "codec", "late", "inverted", "quieter", "noisy", "other", "crosstalk", "leak",
         "silent", "noise"],
)  # fmt: skip
def test_dual_mono_is_told_from_two_parties(second: Samples, same: bool) -> None:
    assert same_audio([ONE, second]) == [None, 0 if same else None]


def test_two_silent_channels_are_not_called_one() -> None:
    assert same_audio([silence(2), silence(2)]) == [None, None]


def test_nothing_can_be_said_of_no_audio() -> None:
    assert same_audio([]) == []
    assert same_audio([silence(0), silence(0)]) == [None, None]
    assert same_audio([ONE]) == [None]


def test_a_third_channel_names_the_first_that_it_repeats() -> None:
    assert same_audio([ONE, OTHER, OTHER, ONE]) == [None, None, 1, 0]


def test_unpacking_gives_each_channel_at_16_khz_with_the_muted_parts_zero(tmp_path: Path) -> None:
    source = tmp_path / "recording"
    left, right = tone(40, 440)[::2], tone(40, 1_000)[::2]
    source.write_bytes(wav([left, right], RATE_HZ // 2))
    muted = [Span(-500, 200), Span(29_000, 31_500), Span(39_900, 90_000)]
    first, second = unpack(source, "wav", tmp_path, muted)
    assert abs(first.size - 40 * RATE_HZ) <= 64
    assert first.size == second.size
    for channel in (first, second):
        for start_ms, end_ms in ((0, 200), (29_000, 31_500), (39_900, 40_000)):
            assert not channel[start_ms * 16 : end_ms * 16].any()
        for start_ms, end_ms in ((200, 29_000), (31_500, 39_900)):
            blocks = np.asarray(channel[start_ms * 16 : end_ms * 16])
            assert float(np.abs(blocks[: blocks.size // 160 * 160]).reshape(-1, 160).max(1).min())
    assert not np.allclose(first[8_000:16_000], second[8_000:16_000])


def test_scratch_is_bounded_by_all_channels_together(tmp_path: Path) -> None:
    source = tmp_path / "recording"
    source.write_bytes(wav([silence(40.0)] * 8))
    assert len(unpack(source, "wav", tmp_path, [], longest_s=320.0)) == 8
    small = tmp_path / "small"
    small.mkdir()
    with pytest.raises(Invalid, match="max_channel_s") as refused:
        unpack(source, "wav", small, [], longest_s=300.0)
    assert refused.value.reason == "too_long"
    assert sum(path.stat().st_size for path in small.iterdir()) <= 300 * 64_000


def call(*roles: Role) -> CallEnded:
    event = EXAMPLES["CallEnded"]["happy"]
    assert isinstance(event, CallEnded)
    parties = [Participant(participant_id=str(n), role=role) for n, role in enumerate(roles)]
    return replace(event, participants=parties)


def recording(channels: int, *roles: Role) -> StoredRecording:
    event = EXAMPLES["CallRecorded"]["happy"]
    described: StoredRecording = event.recordings[0]
    return replace(described, channels=channels, channel_roles=list(roles))


@pytest.mark.parametrize(
    ("stored", "parties", "same_as", "names", "roles", "problems"),
    [
        (recording(2, AGENT, CUSTOMER), [AGENT, CUSTOMER], [None, None],
         ["agent", "customer"], [AGENT, CUSTOMER], []),
        (recording(2), [AGENT, CUSTOMER], [None, None],
         ["channel_0", "channel_1"], [UNKNOWN, UNKNOWN], ["NO_ROLES"]),
        (recording(2, AGENT, UNKNOWN), [AGENT, CUSTOMER], [None, None],
         ["agent", "channel_1"], [AGENT, UNKNOWN], ["NO_ROLES"]),
        (recording(2, AGENT), [AGENT, CUSTOMER], [None, None],
         ["channel_0", "channel_1"], [UNKNOWN, UNKNOWN], ["NO_ROLES"]),
        (recording(3, AGENT, CUSTOMER, AGENT), [AGENT, CUSTOMER, AGENT], [None, None, None],
         ["agent", "customer", "agent_2"], [AGENT, CUSTOMER, AGENT], []),
        (recording(2, AGENT, CUSTOMER), [AGENT, CUSTOMER], [None, 0],
         ["speaker_0", "speaker_0"], [UNKNOWN, UNKNOWN], ["DUAL_MONO"]),
        (recording(1), [AGENT, CUSTOMER], [None],
         ["speaker_0"], [UNKNOWN], []),
        (recording(1, CUSTOMER), [AGENT, CUSTOMER], [None],
         ["customer"], [CUSTOMER], []),
        (recording(1), [CUSTOMER, Role.IVR], [None],
         ["customer"], [CUSTOMER], []),
        (recording(1), [], [None],
         ["speaker_0"], [UNKNOWN], []),
    ],
)  # fmt: skip
def test_who_speaks_where(
    stored: StoredRecording,
    parties: list[Role],
    same_as: list[int | None],
    names: list[str],
    roles: list[Role],
    problems: list[str],
) -> None:
    who = speakers(call(*parties), stored, same_as)
    assert list(who.names) == names
    assert list(who.roles) == roles
    assert [kind for kind, _ in who.problems] == [DegradationKind(kind) for kind in problems]
    assert all(stored.recording_id in reason for _, reason in who.problems)
    assert who.shared == (set(names) == {"speaker_0"})
