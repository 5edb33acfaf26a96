"""S3 servers on loopback: moto in this process, and versitygw as a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from moto.server import ThreadedMotoServer

from stack.s3 import ACCESS_KEY, SECRET_KEY, Versitygw
from stack.server import ServerError as Unavailable

__all__ = ["ACCESS_KEY", "SECRET_KEY", "Unavailable", "moto", "versitygw"]


@contextmanager
def moto() -> Iterator[str]:
    """Yields host:port; checks no credentials."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        yield f"127.0.0.1:{port}"
    finally:
        server.stop()


@contextmanager
def versitygw() -> Iterator[str]:
    """Yields host:port. Raises Unavailable."""
    with Versitygw() as server:
        yield server.endpoint
