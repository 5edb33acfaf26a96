"""Requests to a server of somebody's own: bounded in time and size, and so many at once."""

from __future__ import annotations

import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import httpcore

from services.runtime.deadlines import TimedStream, seconds_left

_LONGEST_REASON = 300


class Answer(NamedTuple):
    """`headers` by their names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class TooLarge(Exception):
    """An answer has more bytes than are read; `status` is known all the same."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the answer of status {status} has more bytes than are read")
        self.status = status


def posted(
    url: str,
    headers: list[tuple[str, str]],
    body: bytes,
    *,
    tls: ssl.SSLContext | None,
    connect_s: float,
    limit_s: float,
    most_bytes: int,
    method: str = "POST",
    network: Callable[[float], httpcore.NetworkBackend] | None = None,
) -> Answer:
    """The answer to a POST, over a connection of its own: a server that closes those at rest would
    seem to fail. `limit_s` is for all of it. `network` makes the connections, given the deadline
    by the monotonic clock.

    Raises TooLarge, and what httpcore raises: TimeoutException, NetworkError, ProtocolError.
    """
    pool = httpcore.ConnectionPool(
        ssl_context=tls,
        network_backend=(network or _Timed)(time.monotonic() + max(0.0, limit_s)),
        max_connections=1,
    )
    times = {"connect": connect_s, "read": limit_s, "write": limit_s}
    whole = bytearray()
    with (
        pool,
        pool.stream(
            method, url, headers=headers, content=body, extensions={"timeout": times}
        ) as answer,
    ):
        for block in answer.iter_stream():
            whole += block
            if len(whole) > most_bytes:
                raise TooLarge(answer.status)
    said = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in answer.headers}
    return Answer(answer.status, said, bytes(whole))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """What Retry-After asks for: seconds, or a date. None where it is neither."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
        return float(value)
    try:
        when = parsedate_to_datetime(value)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return None


def parsed(body: bytes) -> object:
    """The JSON that it is; None for anything else."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def error_in(body: bytes) -> dict[str, Any] | None:
    """What an answer as OpenAI's servers give it holds of an error; None where it is no object."""
    found = parsed(body)
    if not isinstance(found, dict):
        return None
    error = found.get("error", found)
    return error if isinstance(error, dict) else {"message": error}


def reason_in(body: bytes, secret: str) -> str:
    """What a server says of a failure, in a line of at most 300 characters, without `secret`."""
    text = body[:4_000].decode("utf-8", "replace")
    error = error_in(body)
    if error is not None:
        said = error.get("message", error.get("detail"))
        text = said if isinstance(said, str) else json.dumps(said, default=str)
    if secret:
        text = text.replace(secret, "***")
    text = re.sub(r"[\x00-\x20\x7f-\x9f\ud800-\udfff]+", " ", text).strip()
    return text[:_LONGEST_REASON].rstrip()


class Slots:
    """So many requests at once; a replay's wait while a live call has one to send."""

    def __init__(self, free: int) -> None:
        self.waiting = 0
        """How many wait for one."""
        self._free, self._live_waiting = free, 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, *, replay: bool, most_s: float | None = None) -> Iterator[None]:
        """Raises TimeoutError where none is free within `most_s`."""
        with self._changed:
            self.waiting += 1
            self._live_waiting += not replay
            try:
                free = self._changed.wait_for(
                    lambda: self._free > 0 and not (replay and self._live_waiting),
                    timeout=None if most_s is None else max(0.0, most_s),
                )
            finally:
                self.waiting -= 1
                self._live_waiting -= not replay
                self._changed.notify_all()
            if not free:
                raise TimeoutError
            self._free -= 1
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()


class _Timed(httpcore.NetworkBackend):
    """Connections whose every step ends by `deadline`: a server that trickles buys no time."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        stream = httpcore.SyncBackend().connect_tcp(
            host, port, seconds_left(self._deadline, timeout), local_address, socket_options
        )
        return TimedStream(stream, self._deadline)
