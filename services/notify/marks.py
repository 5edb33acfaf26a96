"""What an endpoint has taken already, in the object store: so that nobody is told twice.

Of an alert it is remembered per call, rule and generation, for an amended call raises it again.
Of enriched calls the latest per call is, by what supersedes what: (revision, generation, time). A
call is forgotten with its erasure. The names of objects are hashes: they tell of no call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import msgspec

from schemas.events import AlertRaised, CallEnriched, CallErased
from services.runtime.objects import MissingObject, Objects
from services.runtime.stage import Envelope

PREFIX = "notified"
# Events remembered of one call, or of one alert of it: as many as a crash may leave unpublished.
_MOST = 32
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Mark:
    """That an event was taken: enough to say so again, as it was said."""

    event_id: str
    order: tuple[int, int, int]
    """Revision, generation, and ms of the event: what is greater supersedes."""
    at_ms: int
    answer: str
    attempts: int

    @property
    def at(self) -> datetime:
        return _EPOCH + timedelta(milliseconds=self.at_ms)


def order_of(envelope: Envelope[AlertRaised | CallEnriched]) -> tuple[int, int, int]:
    """What supersedes what."""
    time_ms = round((envelope.time - _EPOCH) / timedelta(milliseconds=1))
    return envelope.event.revision, envelope.generation, time_ms


# Made here: two threads that make msgspec learn a type at once bring the process down.
_MARKS = msgspec.json.Decoder(list[Mark])


class Marks:
    """The marks of one endpoint. Thread-safe. Every method raises what Objects' methods raise."""

    def __init__(self, objects: Objects, endpoint: str, clock: Callable[[], datetime]) -> None:
        self._objects = objects
        self._folder = f"{PREFIX}/{endpoint}"
        # Apart from what may be let go of after a time: without it what waits would seem too old.
        self._start = f"endpoints/{endpoint}/since"
        self._clock = clock
        self._since: datetime | None = None
        self._unkept: dict[str, list[Mark]] = {}

    def since(self, head_start_s: float) -> datetime:
        """When the endpoint first started, less `head_start_s`."""
        if self._since is None:
            found = self._read(self._start)
            if found is None:
                first = self._clock() - timedelta(seconds=head_start_s)
                found = {"at_ms": round(first.timestamp() * 1000)}
                self._objects.put(self._start, msgspec.json.encode(found))
            self._since = _EPOCH + timedelta(milliseconds=int(found["at_ms"]))
        return self._since

    def found(self, envelope: Envelope[AlertRaised | CallEnriched]) -> Mark | None:
        """The mark of the event itself, or of one that told as much or more; None: tell it."""
        key = self._key(envelope)
        marks = self._marks(key)
        if key in self._unkept:
            self._keep(key, marks)
        for mark in marks:
            if mark.event_id == envelope.id:
                return mark
        latest = max(marks, key=lambda mark: mark.order, default=None)
        if latest is None or isinstance(envelope.event, AlertRaised):
            return latest
        return latest if latest.order >= order_of(envelope) else None

    def put(self, envelope: Envelope[AlertRaised | CallEnriched], mark: Mark) -> None:
        """Remember that the event was taken; where the store is away, until it is back."""
        key = self._key(envelope)
        self._keep(key, [*self._marks(key), mark][-_MOST:])

    def _marks(self, key: str) -> list[Mark]:
        unkept = self._unkept.get(key)
        if unkept is not None:
            return unkept
        try:
            return _MARKS.decode(self._objects.get(key))
        except MissingObject:
            return []

    def _keep(self, key: str, marks: list[Mark]) -> None:
        self._unkept[key] = marks
        self._objects.put(key, msgspec.json.encode(marks))
        self._unkept.pop(key, None)

    def is_erased(self, envelope: Envelope[AlertRaised | CallEnriched]) -> bool:
        """Whether the call was erased since it was handed in."""
        event = envelope.event
        found = self._read(f"{self._call(event.tenant_id, event.call_id)}/erased")
        if found is None:
            return False
        if isinstance(event, AlertRaised):
            handed_in = event.call_published_at or event.raised_at
        else:
            handed_in = event.call.published_at
        basis_ms = max(round(handed_in.timestamp() * 1000), event.revision)
        return min(basis_ms, envelope.message.timestamp_ms) <= int(found["until_ms"])

    def erase(self, event: CallErased) -> None:
        """Forget what was taken of the call, and give no more of it than is handed in anew."""
        folder = self._call(event.tenant_id, event.call_id)
        until_ms = round(event.erased_at.timestamp() * 1000)
        known = self._read(f"{folder}/erased")
        if known is not None and int(known["until_ms"]) >= until_ms and known.get("cleared"):
            return
        # First, so that nothing is told meanwhile; again at the end, so that it is not half done.
        for cleared in (False, True):
            mark = {"until_ms": until_ms, "cleared": cleared}
            self._objects.put(f"{folder}/erased", msgspec.json.encode(mark))
            for key in () if cleared else list(self._objects.keys(f"{folder}/")):
                if not key.endswith("/erased"):
                    self._objects.delete(key)

    def _key(self, envelope: Envelope[AlertRaised | CallEnriched]) -> str:
        event = envelope.event
        folder = self._call(event.tenant_id, event.call_id)
        if isinstance(event, CallEnriched):
            return f"{folder}/enriched"
        return f"{folder}/alert-{_hash(event.rule, str(envelope.generation))}"

    def _call(self, tenant_id: str, call_id: str) -> str:
        hashed = _hash(tenant_id, call_id)
        return f"{self._folder}/{hashed[:2]}/{hashed}"

    def _read(self, key: str) -> Any:
        try:
            return msgspec.json.decode(self._objects.get(key))
        except MissingObject:
            return None


def _hash(*parts: str) -> str:
    return sha256("\n".join(parts).encode()).hexdigest()[:40]
