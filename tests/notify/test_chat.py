"""Messages over apprise, to a server on loopback that speaks its plainest service (json://)."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from schemas import events as e
from schemas.examples import EXAMPLES
from services.notify.chat import problem_with, send
from services.notify.pace import Busy
from tests.notify.receiver import Reply, receiver

ALERT: e.AlertRaised = EXAMPLES["AlertRaised"]["angry-refund"]


@pytest.fixture(autouse=True, scope="module")
def loaded() -> None:
    """As when the file of endpoints is read: what apprise loads takes a while, once."""
    assert problem_with("json://localhost") is None


def told(url: str, event: e.AlertRaised = ALERT) -> str:
    there = url.replace("http://", "json://") + "/?token=s3cret"
    return send(there, event, where="json", timeout_s=1.0, language="")


def test_a_message_arrives() -> None:
    with receiver(lambda request: Reply(200)) as there:
        assert told(there.url) == "sent"
        assert told(there.url, replace(ALERT, severity=e.Severity.LOW)) == "sent"
    first, second = (request.json for request in there.asked)
    assert first["title"] == "[High] Angry customer asks for a refund"
    assert "To do: Call the customer back today." in first["message"].splitlines()
    assert (first["type"], second["type"]) == ("failure", "warning")


@pytest.mark.parametrize(
    "reply",
    [Reply(500), Reply(404), Reply(302, headers={"Location": "/x"}), Reply(200, after_s=8),
     Reply(then="drop"), Reply(200, then="drip")],
    ids=str,
)  # fmt: skip
def test_any_failure_is_waited_for(reply: Reply) -> None:
    """It must not block for ever, either."""
    started = time.monotonic()
    with receiver(lambda request: reply) as there, pytest.raises(Busy, match="not_notified") as it:
        told(there.url)
    assert time.monotonic() - started < 7
    assert len(there.asked) == 1
    assert "s3cret" not in str(it.value)


def test_messages_in_a_row_are_not_slowed_down() -> None:
    started = time.monotonic()
    with receiver(lambda request: Reply(200)) as there:
        for _ in range(5):
            told(there.url)
    assert len(there.asked) == 5
    assert time.monotonic() - started < 15  # apprise itself would take 22 s


@pytest.mark.parametrize(
    "url",
    [
        "dingtalk://" + "a" * 64,
        "wecombot://" + "a" * 36,
        "feishu://" + "a" * 36,
        "lark://" + "a" * 36,
        "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
        "mailtos://user:password@smtp.example.com?to=lead@example.com",
        "twilio://" + "AC" + "a" * 32 + ":" + "b" * 32 + "@15550100000/15550100001",
    ],
)
def test_the_services_that_are_promised_are_there(url: str) -> None:
    assert problem_with(url) is None


def test_what_is_no_service() -> None:
    assert problem_with("carrierpigeon://home") is not None
    assert problem_with("slack://") is not None
