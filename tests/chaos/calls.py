"""The calls that a run publishes, and what must come of each: known before anything runs."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from schemas import events as e
from schemas.topics import ENDED
from services.assembly import project_root
from services.ingest.handler import UPLOADED, audio_key
from services.runtime.audio import decode
from services.runtime.codec import Codec
from services.runtime.log import Record

TENANTS = ("north", "south", "east", "west")
RATE_HZ = 8_000
_SPEECH = "samples/audio/angry-refund.flac"
_SECONDS = 0.7
_PENDING = e.Recording(recording_id="r1", status=e.RecordingStatus.PENDING)

Kind = Literal[
    "good", "double", "amended", "pending", "half", "late", "never", "corrupt", "garbage", "absent"
]
# Of a thousand calls so many are of each kind.
SHARES: dict[Kind, int] = {
    "good": 855,
    "double": 40,  # the platform delivers the same event twice
    "amended": 30,  # two events about it, the newer first every other time
    "pending": 15,  # without a recording at first
    "half": 15,  # one of its two recordings is no audio
    "late": 15,  # its recording is uploaded seconds after the call was published
    "never": 6,  # its recording never comes
    "corrupt": 12,  # its only recording is no audio
    "garbage": 6,  # the message is no event at all
    "absent": 6,  # the platform says that there is no recording
}


@dataclass(frozen=True, slots=True)
class Expected:
    """What must come of a call; of the events, how many different ones (by ce_id)."""

    ended: int
    recorded: int
    state: str
    """As the view `calls` shows it in the end; empty where no call comes of it."""
    dead_reason: str | None = None
    """Reason of its one dead letter, by ingest."""
    waits: bool | None = False
    """Whether it is in a retry tier at least once; None where that depends on who is quicker."""


EXPECTED: dict[Kind, Expected] = {
    "good": Expected(1, 1, "enriched"),
    "double": Expected(1, 1, "enriched"),
    "amended": Expected(2, 2, "enriched"),
    "pending": Expected(2, 1, "enriched"),
    "half": Expected(1, 1, "enriched"),
    "late": Expected(1, 1, "enriched", waits=None),
    "never": Expected(1, 0, "failed", "not_uploaded", waits=True),
    "corrupt": Expected(1, 0, "failed", "not_audio"),
    "garbage": Expected(1, 0, "", "not_framed"),
    "absent": Expected(1, 0, "no_recording"),
}


@dataclass(frozen=True, slots=True)
class Upload:
    """An object to put into the store, `after_s` the call was published."""

    key: str
    data: bytes = field(repr=False)
    after_s: float


@dataclass(frozen=True, slots=True)
class Call:
    """A call to publish. `deliveries` says after how many further calls each message follows."""

    number: int
    kind: Kind
    tenant: str
    call_id: str
    deliveries: tuple[tuple[int, Record], ...]
    upload: Upload | None = None

    @property
    def key(self) -> bytes:
        return f"{self.tenant}/{self.call_id}".encode()

    @property
    def expected(self) -> Expected:
        return EXPECTED[self.kind]


@dataclass(frozen=True, slots=True)
class Pool:
    """Recordings that are there before the run: object key -> bytes."""

    good: Sequence[tuple[str, str, bytes]]
    """(tenant, key, bytes) of each."""
    noise: dict[str, str]
    """tenant -> key of what is no audio."""
    objects: dict[str, bytes]


def pool(size: int) -> Pool:
    """`size` short recordings of two people, all different, and one file of noise per tenant."""
    spoken = decode(project_root() / _SPEECH, RATE_HZ)
    length = round(_SECONDS * RATE_HZ)
    agent = spoken[0, 5 * RATE_HZ : 5 * RATE_HZ + length]
    customer = spoken[0, 14 * RATE_HZ : 14 * RATE_HZ + length]
    good = []
    for number in range(size):
        tenant = TENANTS[number % len(TENANTS)]
        data = _recording(agent, customer, number)
        good.append((tenant, _key(tenant, data), data))
    objects = {key: data for _, key, data in good}
    noise = {}
    for tenant in TENANTS:
        data = f"no audio, {tenant}".encode() * 40
        noise[tenant] = _key(tenant, data)
        objects[noise[tenant]] = data
    return Pool(good, noise, objects)


def _recording(agent: NDArray[np.float32], customer: NDArray[np.float32], number: int) -> bytes:
    """Both voices over a faint tone that no other recording has."""
    tone = 0.004 * np.sin(2 * np.pi * (100 + number) * np.arange(agent.size) / RATE_HZ)
    file = io.BytesIO()
    sound = np.stack([agent + tone, customer + tone], axis=1)
    soundfile.write(file, sound, RATE_HZ, format="WAV", subtype="ULAW")
    return file.getvalue()


def _key(tenant: str, data: bytes) -> str:
    return audio_key(tenant, hashlib.sha256(data).hexdigest())


def calls(seed: int, count: int, pool: Pool, codec: Codec, now: datetime) -> Iterator[Call]:
    """The calls 0 to `count`: of the same seed the same kinds with the same recordings.

    What never comes is among the first two thirds only, for it takes its patience to end.
    """
    chance = random.Random(f"calls {seed}")
    for number in range(count):
        kind = chance.choices(list(SHARES), list(SHARES.values()))[0]
        if kind == "never" and number > count * 2 // 3:
            kind = "good"
        yield _call(number, kind, pool, codec, now, chance)


def _call(
    number: int, kind: Kind, pool: Pool, codec: Codec, now: datetime, chance: random.Random
) -> Call:
    tenant, key, data = chance.choice(pool.good)
    call_id = f"{kind}-{number}"
    recording = _listed("r1", key)
    upload = None
    match kind:
        case "garbage":
            record = Record(ENDED, f"{tenant}/{call_id}".encode(), b"no event %d" % number)
            return Call(number, kind, tenant, call_id, ((0, record),))
        case "corrupt":
            recording = _listed("r1", pool.noise[tenant])
        case "absent":
            recording = e.Recording(recording_id="r1", status=e.RecordingStatus.ABSENT)
        case "late" | "never":
            # What follows the samples makes it another file; decoders pass over it.
            own = data + b"note" + (8).to_bytes(4, "little") + b"%08d" % number
            key = _key(tenant, own)
            recording = _listed("r1", key)
            if kind == "late":
                upload = Upload(key, own, chance.uniform(1.0, 4.0))
    recordings = [recording]
    if kind == "half":
        recordings.append(_listed("r2", pool.noise[tenant]))
    first = _ended(tenant, call_id, now, recordings)
    if kind == "pending":
        first = _ended(tenant, call_id, now, [_PENDING])
    deliveries = [(0, first)]
    if kind == "double":
        deliveries.append((chance.choice((0, 1, 40)), first))
    elif kind in ("amended", "pending"):
        later = _ended(tenant, call_id, now + timedelta(seconds=1), recordings, again=True)
        deliveries.append((chance.choice((0, 1, 40)), later))
        if number % 2:
            deliveries = [(0, later), (deliveries[1][0], first)]
    return Call(
        number, kind, tenant, call_id,
        tuple((gap, _record(codec, event)) for gap, event in deliveries), upload,
    )  # fmt: skip


def _listed(name: str, key: str) -> e.Recording:
    return e.Recording(
        recording_id=name,
        status=e.RecordingStatus.AVAILABLE,
        uri=UPLOADED + key,
        container="wav",
        channels=2,
        channel_roles=[e.Role.AGENT, e.Role.CUSTOMER],
    )


def _ended(
    tenant: str,
    call_id: str,
    at: datetime,
    recordings: list[e.Recording],
    again: bool = False,
) -> e.CallEnded:
    started = at - timedelta(seconds=30)
    return e.CallEnded(
        event_id=f"{call_id}-{'again' if again else 'first'}",
        tenant_id=tenant,
        call_id=call_id,
        occurred_at=at,
        published_at=at,
        source_updated_at=at,
        source=e.Source(platform=e.Platform.OTHER, adapter_version="chaos"),
        direction=e.Direction.INBOUND,
        started_at=started,
        ended_at=at,
        disposition=e.Disposition.ANSWERED,
        queue=e.Queue(id="support", name="Support"),
        participants=[
            e.Participant(participant_id="a", role=e.Role.AGENT, agent_id="agent-1"),
            e.Participant(participant_id="c", role=e.Role.CUSTOMER),
        ],
        recordings=recordings,
        language_hints=["en"],
    )


def _record(codec: Codec, event: e.CallEnded) -> Record:
    return codec.encode(event, id=event.event_id, source="/platform", time=event.occurred_at)


def start_of(run_at: datetime) -> datetime:
    """The time that calls of a run bear: whole milliseconds, not in the future."""
    return run_at.astimezone(UTC).replace(microsecond=0) - timedelta(minutes=1)
