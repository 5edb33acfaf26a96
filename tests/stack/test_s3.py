"""The S3 server keeps what it acknowledged, whatever ends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from services.runtime.errors import Transient
from services.runtime.objects import S3Objects
from stack.s3 import ACCESS_KEY, SECRET_KEY, Versitygw
from tests.stack.servers import started

pytestmark = pytest.mark.s3


@pytest.fixture
def server() -> Iterator[Versitygw]:
    with closing(started(Versitygw())) as gateway:
        yield gateway


def objects_of(server: Versitygw) -> S3Objects:
    return S3Objects(
        server.endpoint, "calls", access_key=ACCESS_KEY, secret_key=SECRET_KEY, secure=False,
        connect_timeout_s=2, read_timeout_s=20, attempts=1,
    )  # fmt: skip


def test_what_was_put_survives_a_crash(server: Versitygw) -> None:
    endpoint = server.endpoint
    store = objects_of(server)
    store.check(create=True)
    for number in range(50):
        store.put(f"audio/{number}", bytes([number]) * 10_000)
    server.kill()
    with pytest.raises(Transient):
        store.get("audio/1")
    server.start()
    assert server.endpoint == endpoint
    for number in range(50):
        assert store.get(f"audio/{number}") == bytes([number]) * 10_000
    assert len(list(store.keys("audio/"))) == 50
    assert (server.objects / "calls" / "audio" / "7").read_bytes() == bytes([7]) * 10_000
    server.restart()
    store.check()
    assert store.exists("audio/49")
