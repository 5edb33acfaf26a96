"""What the tests of the servers share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NoReturn, TypeVar

import pytest

from stack.server import Server, ServerError

S = TypeVar("S", bound=Server)


def absent(error: ServerError) -> NoReturn:
    """End the running test: a failure under CI=true, else a skip."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(str(error), pytrace=False)
    pytest.skip(str(error))


def started(server: S) -> S:
    """`server`, running, or the end of the test where it cannot be had."""
    try:
        server.start()
    except ServerError as error:
        server.close()
        absent(error)
    return server


def until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Return when it holds; the test fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.01)
