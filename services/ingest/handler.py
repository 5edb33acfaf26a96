"""CallEnded in, CallRecorded out: fetch, probe and store what can be heard of a call."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import msgspec

from schemas.checks import revision_of
from schemas.events import (
    CallEnded,
    CallRecorded,
    Recording,
    RecordingStatus,
    RefusedRecording,
    StoredRecording,
)
from schemas.topics import ENDED, RECORDED
from services.ingest.entrances import sha256_of
from services.ingest.fetch import Fetch, Fetched, redacted
from services.ingest.settings import IngestSettings
from services.runtime.audio import AudioInfo, AudioLimits, Prober
from services.runtime.errors import Invalid, NotYet, Transient
from services.runtime.objects import MissingObject, Objects
from services.runtime.stage import Envelope, Output, Stage, each, utc_now

NAME = "ingest"


# A recording that was put into the object store before the call was published.
UPLOADED = "object:"


def audio_key(tenant_id: str, sha256: str) -> str:
    """The content address of a tenant's audio."""
    return f"audio/{key_part(tenant_id)}/{sha256[:2]}/{sha256}"


def upload(objects: Objects, tenant_id: str, path: Path) -> str:
    """Put the file at `path` where ingest would store it; the uri to publish. May raise Transient.

    Ingest still checks it: an upload says nothing about what the file is.
    """
    uri = upload_uri(tenant_id, path)
    key = uri.removeprefix(UPLOADED)
    if not objects.exists(key):
        objects.put_file(key, path)
    return uri


def upload_uri(tenant_id: str, path: Path) -> str:
    """The uri that an upload of the file at `path` is published under."""
    return UPLOADED + audio_key(tenant_id, sha256_of(path))


def _uploaded(objects: Objects, call: CallEnded, recording: Recording, path: Path) -> Fetched:
    """The uploaded recording, at `path`. A call may name uploads of its own tenant only."""
    key = (recording.uri or "").removeprefix(UPLOADED)
    sha256 = key.rpartition("/")[2]
    if key != audio_key(call.tenant_id, sha256):
        raise Invalid("bad_uri", f"{recording.uri!r} is no upload of tenant {call.tenant_id!r}")
    try:
        objects.get_file(key, path)
    except MissingObject:
        raise NotYet("not_uploaded", f"{key} is not in the object store yet") from None
    found = sha256_of(path)
    for name, told in (("its key", sha256), ("the platform", recording.sha256)):
        if told and told != found:
            raise Invalid("checksum_mismatch", f"{key} has sha256 {found}, {name} says {told}")
    return Fetched(sha256=found, size_bytes=path.stat().st_size)


class Fetching(Protocol):
    """As `Fetch`."""

    def __call__(self, recording: Recording, to: Path) -> Fetched: ...


class Probing(Protocol):
    """As `probe`."""

    def __call__(self, path: Path, limits: AudioLimits, container: str | None) -> AudioInfo: ...


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of a recording that is stored: why it need not be fetched again."""

    object_key: str
    sha256: str
    size_bytes: int
    info: AudioInfo


# Made once, before threads: see Codec.
_RECEIPTS = msgspec.json.Decoder(Receipt)


def stage(
    settings: IngestSettings,
    objects: Objects,
    *,
    fetch: Fetching | None = None,
    probe: Probing | None = None,
    clock: Callable[[], datetime] = utc_now,
) -> Stage:
    """The ingest stage. Recordings on their way lie where `tempfile` puts them.

    Handling raises Invalid when every recording that could be fetched is refused; NotYet when one
    is not ready (unless `partial`); Transient when the object store or the scratch folder fails.

    A call waits for all of its AVAILABLE recordings: a CallRecorded that lacks one would have to
    be followed by another, and nothing but the waiting message remembers to make it. What was
    stored meanwhile has a receipt and is not fetched again.
    """
    fetcher = fetch if fetch is not None else Fetch(settings, clock=clock)
    prober = probe if probe is not None else Prober()

    def stored(call: CallEnded, recording: Recording) -> StoredRecording:
        key = _receipt_key(call, recording)
        receipt = _read_receipt(objects, key)
        if receipt is None:
            receipt = fetched(call, recording)
            objects.put(key, msgspec.json.encode(receipt))
        return _stored_recording(recording, receipt)

    def fetched(call: CallEnded, recording: Recording) -> Receipt:
        with _scratch_file() as path:
            uploaded = (recording.uri or "").startswith(UPLOADED)
            if uploaded:
                got = _uploaded(objects, call, recording, path)
            else:
                got = fetcher(recording, path)
            info = prober(path, settings.audio_limits, _hint(recording))
            key = audio_key(call.tenant_id, got.sha256)
            # An upload came from where it would be put.
            if not uploaded and not objects.exists(key):
                objects.put_file(key, path)
        return Receipt(key, got.sha256, got.size_bytes, info)

    def handle_one(envelope: Envelope[CallEnded]) -> Sequence[Output]:
        call = envelope.event
        done: list[StoredRecording] = []
        refused: list[tuple[Recording, Invalid]] = []
        pending: list[str] = []
        waiting: NotYet | None = None
        for recording in call.recordings:
            match recording.status:
                case RecordingStatus.ABSENT | RecordingStatus.FAILED | RecordingStatus.DELETED:
                    continue
                case RecordingStatus.PENDING | RecordingStatus.UNKNOWN if not recording.uri:
                    pending.append(recording.recording_id)
                    continue
            try:
                done.append(stored(call, recording))
            except Invalid as problem:
                refused.append((recording, problem))
            except NotYet as problem:
                waiting = waiting or problem
                pending.append(recording.recording_id)
        if waiting is not None and not (settings.partial and done):
            raise waiting
        if not done:
            if refused:
                raise _refusal(refused)
            return ()
        event = CallRecorded(
            tenant_id=call.tenant_id,
            call_id=call.call_id,
            revision=revision_of(call),
            recorded_at=clock(),
            call=call,
            recordings=done,
            refused=[
                RefusedRecording(
                    recording_id=recording.recording_id,
                    reason=f"{problem.reason}: {problem.detail}",
                )
                for recording, problem in refused
            ],
            pending=pending,
        )
        return (Output(event, about=_about(event)),)

    return Stage(
        name=NAME,
        sources=(ENDED,),
        targets=(RECORDED,),
        handle=each(handle_one),
        workers=settings.workers,
    )


def key_part(text: str) -> str:
    """`text` as one part of an object key: printable ASCII, at most 120 characters, injective.

    Anything long, and any name of dots, becomes its start, a tilde and its hash. No other part
    has a tilde.
    """
    part = quote(text, safe="").replace("~", "%7E")
    if len(part) <= 120 and part.strip("."):
        return part
    return f"{part[:50]}~{hashlib.sha256(text.encode()).hexdigest()}"


def receipts_prefix(tenant_id: str, call_id: str) -> str:
    """Where the receipts of a call lie: what an erasure has to delete, besides the audio."""
    return f"receipts/{key_part(tenant_id)}/{key_part(call_id)}/"


def _receipt_key(call: CallEnded, recording: Recording) -> str:
    # Whatever is told of the file makes another receipt where it changes. The query of the uri
    # does not: it holds signatures, new with every telling. A host that tells versions apart
    # there alone is not understood unless checksum, size or duration differ as well.
    means = (recording.recording_id, redacted(recording.uri or ""), recording.sha256,
             recording.size_bytes, recording.duration_ms)  # fmt: skip
    digest = hashlib.sha256(msgspec.json.encode(means)).hexdigest()
    return receipts_prefix(call.tenant_id, call.call_id) + digest


def _read_receipt(objects: Objects, key: str) -> Receipt | None:
    """The receipt under `key`, unless the audio it speaks of is gone."""
    try:
        receipt = _RECEIPTS.decode(objects.get(key))
    except (MissingObject, msgspec.DecodeError):
        return None
    return receipt if objects.exists(receipt.object_key) else None


def _stored_recording(recording: Recording, receipt: Receipt) -> StoredRecording:
    info = receipt.info
    roles = recording.channel_roles
    return StoredRecording(
        recording_id=recording.recording_id,
        object_key=receipt.object_key,
        sha256=receipt.sha256,
        size_bytes=receipt.size_bytes,
        container=info.container,
        codec=info.codec,
        sample_rate_hz=info.sample_rate_hz,
        channels=info.channels,
        duration_ms=info.duration_ms,
        # Roles for another number of channels say nothing about these.
        channel_roles=list(roles) if len(roles) == info.channels else [],
        start_offset_ms=recording.start_offset_ms or 0,
        source_uri=redacted(recording.uri or ""),
    )


def _about(event: CallRecorded) -> str:
    """What the event's id is made from: what was told of the call, and the content stored."""
    hashes = [recording.sha256 for recording in event.recordings]
    refused = [f"-{refused.recording_id}" for refused in event.refused]
    told = (event.tenant_id, event.call_id, str(event.revision), event.call.event_id)
    return "\n".join((*told, *hashes, *refused))


def _refusal(refused: Sequence[tuple[Recording, Invalid]]) -> Invalid:
    first = refused[0][1].reason
    detail = "; ".join(
        f"recording {recording.recording_id!r}: "
        f"{problem.detail if problem.reason == first else problem}"
        for recording, problem in refused
    )
    return Invalid(first, detail)


def _hint(recording: Recording) -> str | None:
    """What the file is, for formats without a header: what the platform says, else its suffix."""
    for told in (recording.container, recording.codec):
        if told and told.lower() not in ("raw", "none"):
            return told.removeprefix("pcm_")
    name = redacted(recording.uri or "").rpartition("/")[2]
    return name.rpartition(".")[2] if "." in name else None


@contextmanager
def _scratch_file() -> Iterator[Path]:
    """An empty file of our own, gone on leaving."""
    try:
        handle, name = tempfile.mkstemp(prefix="recording-")
    except OSError as error:
        raise Transient("scratch", f"{tempfile.gettempdir()}: {error.strerror}") from error
    os.close(handle)
    path = Path(name)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
