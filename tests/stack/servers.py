"""What the tests of the servers share."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

from stack.server import Server, ServerError


def absent(error: ServerError) -> NoReturn:
    """End the running test: a failure under CI=true, else a skip."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(str(error), pytrace=False)
    pytest.skip(str(error))


def started[S: Server](server: S) -> S:
    """`server`, running, or the end of the test where it cannot be had."""
    try:
        server.start()
    except ServerError as error:
        server.close()
        absent(error)
    return server
