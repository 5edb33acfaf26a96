"""Envelopes as the loop hands them to the sink, made by the real codec."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from schemas import events as e
from schemas.examples import EXAMPLES
from schemas.topics import BY_NAME, RETRY_TIERS
from services.runtime import headers as h
from services.runtime.codec import Codec, FolderRegistry
from services.runtime.errors import Invalid
from services.runtime.log import Headers, Message
from services.runtime.objects import DirectoryObjects
from services.runtime.stage import Envelope

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
"""After everything in the examples, before their erasure."""


class Topics:
    """Writes events to topics of one partition each, and reads them back as envelopes."""

    def __init__(self, objects: Path) -> None:
        self.codec = Codec(FolderRegistry(), DirectoryObjects(objects))
        self._offsets: Mapping[str, Iterator[int]] = defaultdict(itertools.count)

    def message(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers,
                time: datetime = NOON) -> Message:  # fmt: skip
        offset = next(self._offsets[topic])
        return Message(topic, 0, offset, key, value, headers, round(time.timestamp() * 1000))

    def read(self, message: Message) -> Envelope[Any]:
        try:
            return self.codec.decode(message)
        except Invalid as problem:
            return self.codec.undecodable(message, problem)

    def send(
        self,
        event: Any,
        id: str,
        *,
        time: datetime = NOON,
        generation: int = 0,
        causation_id: str | None = None,
        shadow: bool = False,
    ) -> Envelope[Any]:
        record = self.codec.encode(
            event, id=id, source="/test", time=time, generation=generation,
            causation_id=causation_id, shadow=shadow,
        )  # fmt: skip
        return self.read(self.message(record.topic, record.key, record.value, record.headers, time))

    def replay(
        self, original: Envelope[Any], id: str, *, time: datetime = NOON, **changes: Any
    ) -> Envelope[Any]:
        """A request of `time` that the sink stores `original` again, as the sink gets it."""
        message = original.message
        asked = e.ReplayRequested(
            tenant_id=original.event.tenant_id, call_id=original.event.call_id,
            requested_at=time, requested_by="operator",
            input=e.OriginalInput(
                topic=message.topic, event_id=original.id, value=message.value,
                headers=[e.OriginalHeader(name=n, value=v) for n, v in message.headers],
                timestamp=datetime.fromtimestamp(message.timestamp_ms / 1000, UTC),
            ),
            **{"generation": 7, "stage": "sink", **changes},
        )  # fmt: skip
        request = self.send(asked, id, time=time, generation=asked.generation)
        if asked.stage != "sink":
            return request
        return replace(request, replays=self.codec.replayed(request))

    def wait(
        self, waiting: Envelope[Any], stage: str, reason: str, *, time: datetime = NOON,
        attempt: int = 1, detail: str = "still there",
    ) -> Envelope[Any]:  # fmt: skip
        """`waiting` as it lies in a retry tier."""
        due_ms = round(time.timestamp() * 1000) + 60_000
        added = {
            h.RETRY_STAGE: stage, h.RETRY_REASON: reason, h.RETRY_DETAIL: detail,
            h.RETRY_DUE_MS: str(due_ms), h.RETRY_ATTEMPT: str(attempt),
            h.RETRY_TOPIC: waiting.message.topic,
        }  # fmt: skip
        return self._moved(RETRY_TIERS[0].topic, waiting, added, time)

    def refuse(
        self, refused: Envelope[Any], stage: str, reason: str, *, time: datetime = NOON,
        error: str = "services.runtime.errors.Invalid", detail: str = "can never succeed",
    ) -> Envelope[Any]:  # fmt: skip
        """`refused` as a dead letter."""
        added = {
            h.ERROR_TOPIC: refused.message.topic,
            h.ERROR_PARTITION: "0",
            h.ERROR_OFFSET: str(refused.message.offset),
            h.ERROR_STAGE: stage,
            h.ERROR_CLASS: error,
            h.ERROR_MESSAGE: detail,
            h.ERROR_TRACE: "Traceback ...",
            h.DEAD_REASON: reason,
            h.DEAD_ATTEMPT: "0",
            h.DEAD_AT_MS: str(round(time.timestamp() * 1000)),
        }
        return self._moved("calls.dead-letter", refused, added, time)

    def settle(self, letter: Envelope[Any], action: str, *, time: datetime) -> Envelope[Any]:
        """What an operator decided about `letter`."""
        place = f"{letter.message.partition}-{letter.message.offset}"
        added = {h.DEAD_ACTION: action, h.DEAD_OF: place}
        return self._moved("calls.dead-letter", letter, added, time)

    def _moved(
        self, topic: str, envelope: Envelope[Any], added: Mapping[str, str], time: datetime
    ) -> Envelope[Any]:
        message = envelope.message
        headers = (*message.headers, *((name, text.encode()) for name, text in added.items()))
        return self.read(self.message(topic, message.key, message.value, headers, time))


def every_example() -> list[Envelope[Any]]:
    """Every example event that the sink reads but the erasure, and a retry and a dead letter of
    each event there is.
    """
    with TemporaryDirectory() as folder:
        topics = Topics(Path(folder))
        made = [
            topics.send(event, f"{record}/{name}")
            for record, examples in EXAMPLES.items()
            if record != "CallErased"
            for name, event in examples.items()
        ]
        waiting = [topics.wait(envelope, "ingest", "not_ready") for envelope in made]
        refused = [topics.refuse(envelope, "enrich", "no_rules") for envelope in made]
    read = [envelope for envelope in made if "sink" in BY_NAME[envelope.message.topic].consumers]
    return [*read, *waiting, *refused]


def life_of(
    topics: Topics,
    call: e.CallEnded,
    *,
    prefix: str = "",
    generation: int = 0,
    time: datetime = NOON,
) -> Sequence[Envelope[Any]]:
    """`call` ended, recorded, transcribed, enriched and alerted, each caused by the one before."""
    tenant, name = call.tenant_id, call.call_id
    revision = round((call.source_updated_at or call.occurred_at).timestamp() * 1000)
    about: dict[str, Any] = {"tenant_id": tenant, "call_id": name, "revision": revision}
    ids = [f"{prefix}{kind}/{name}" for kind in ("ended", "recorded", "transcribed", "enriched",
                                                 "alert")]  # fmt: skip
    steps = [
        call,
        replace(EXAMPLES["CallRecorded"]["happy"], call=call, **about),
        replace(EXAMPLES["CallTranscribed"]["happy"], call=call, **about),
        replace(EXAMPLES["CallEnriched"]["happy"], call=call, transcript_id=ids[2], **about),
        replace(EXAMPLES["AlertRaised"]["angry-refund"], **about),
    ]
    return [
        topics.send(
            step, id, generation=generation, time=time, causation_id=ids[n - 1] if n else None
        )
        for n, (step, id) in enumerate(zip(steps, ids, strict=True))
    ]
