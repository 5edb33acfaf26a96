"""The platform: publishes calls, each delivery until the broker has it."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable

from confluent_kafka import KafkaError, Message, Producer

from services.runtime.errors import Transient
from services.runtime.log import Record
from services.runtime.objects import Objects
from tests.chaos.calls import Call, Upload


class Platform:
    """Publishes `calls` in a thread of its own; never more than `window` ahead of `finished`.

    `published` is how many calls were handed to the client, the first message of each.
    """

    def __init__(
        self,
        calls: Iterable[Call],
        bootstrap: str,
        objects: Objects,
        finished: Callable[[], int],
        window: int,
        rate: float = 0.0,
    ) -> None:
        """`rate` is the most calls a second; 0: as many as the window lets through."""
        self._calls, self._objects = calls, objects
        self._finished, self._window, self._rate = finished, window, rate
        self.published = 0
        self.enrichable = 0
        """Of those published, how many will be enriched."""
        self.known: list[Call] = []
        self.failure: BaseException | None = None
        self.done = threading.Event()
        self._stop = threading.Event()
        self._refused: list[KafkaError] = []
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "message.timeout.ms": 3_600_000,
                "reconnect.backoff.max.ms": 1_000,
                "linger.ms": 5,
                "log_level": 2,
            }
        )
        self._thread = threading.Thread(target=self._run, name="platform", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._publish()
        except BaseException as error:
            self.failure = error
        finally:
            self.done.set()

    def _publish(self) -> None:
        later: defaultdict[int, list[Record]] = defaultdict(list)
        uploads: list[tuple[float, Upload]] = []
        began = time.monotonic()
        for call in self._calls:
            while not self._stop.is_set():
                due = began + self.published / self._rate if self._rate else 0.0
                if self.enrichable - self._finished() < self._window and time.monotonic() >= due:
                    break
                self._producer.poll(0.02)
                uploads = self._upload(uploads)
            if self._stop.is_set():
                break
            for gap, record in call.deliveries:
                if gap:
                    later[self.published + gap].append(record)
                else:
                    self._send(record)
            if call.upload is not None:
                uploads.append((time.monotonic() + call.upload.after_s, call.upload))
            self.known.append(call)
            self.enrichable += call.expected.state == "enriched"
            self.published += 1
            for record in later.pop(self.published, ()):
                self._send(record)
            uploads = self._upload(uploads)
        for records in later.values():
            for record in records:
                self._send(record)
        while uploads and not self._stop.is_set():
            uploads = self._upload(uploads)
            self._producer.poll(0.05)
        left = self._producer.flush(600)
        if left or self._refused:
            raise RuntimeError(f"{left} messages were not published: {self._refused[:3]}")

    def _upload(self, uploads: list[tuple[float, Upload]]) -> list[tuple[float, Upload]]:
        """Put what is due into the store; what is left to be put, that which failed included."""
        left = []
        for due, upload in uploads:
            if time.monotonic() < due:
                left.append((due, upload))
                continue
            try:
                self._objects.put(upload.key, upload.data)
            except Transient:
                left.append((time.monotonic() + 0.5, upload))
        return left

    def _send(self, record: Record) -> None:
        while True:
            try:
                self._producer.produce(
                    record.topic, record.value, record.key, headers=list(record.headers),
                    timestamp=record.timestamp_ms or 0, on_delivery=self._on_delivery,
                )  # fmt: skip
            except BufferError:
                self._producer.poll(0.1)
                continue
            self._producer.poll(0)
            return

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._refused.append(error)
