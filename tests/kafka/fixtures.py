"""The pytest fixture `broker`: one Kafka per test process, for whoever asks first.

A test module, or a conftest, gets it with ``from tests.kafka.fixtures import broker``. Several
may: pytest then sees several fixtures, but they all hand out the same running broker, which is
closed at the end of the session. Its tests bear the marker ``kafka``.

A broker that cannot start fails the tests that ask for it where ``CI=true`` is set; elsewhere
they are skipped, with the reason. The attempt is made once per process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NoReturn

import pytest

from stack.broker import Broker, BrokerError

__all__ = ["absent", "broker"]


class _Shared:
    """The process's one broker, or why there is none."""

    def __init__(self) -> None:
        self.broker: Broker | None = None
        self.error: BrokerError | None = None
        self.holders = 0


_shared = _Shared()


def absent(error: BrokerError) -> NoReturn:
    """End the running test because there is no broker: a failure under CI=true, else a skip.

    For tests that start a `Broker` of their own.
    """
    reason = f"no Kafka broker: {error}"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """Give the shared broker, running. Whoever stops or kills it starts it again.

    Topics of earlier tests are still there: give each test topics and groups of its own.
    """
    if _shared.broker is None and _shared.error is None:
        made = Broker()
        try:
            made.start()
            _shared.broker = made
        except BrokerError as error:
            _shared.error = error
    if _shared.error is not None:
        absent(_shared.error)
    assert _shared.broker is not None
    _shared.holders += 1
    yield _shared.broker
    _shared.holders -= 1
    if _shared.holders == 0:
        _shared.broker.close()
        _shared.broker = None
