"""Network streams whose every step ends by a deadline. Trickled bytes buy no time."""

from __future__ import annotations

import ssl
import time

import httpcore


class TimedStream(httpcore.NetworkStream):
    """`stream` up to `deadline`, by the monotonic clock; later it raises httpcore.ReadTimeout."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, seconds_left(self._deadline, timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, seconds_left(self._deadline, timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = seconds_left(self._deadline, timeout)
        return TimedStream(
            self._stream.start_tls(ssl_context, server_hostname, left), self._deadline
        )

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


def seconds_left(deadline: float, timeout: float | None) -> float:
    """What is left of `timeout` seconds before `deadline`; raises as TimedStream."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the whole request takes too long")
    return left if timeout is None else min(left, timeout)
