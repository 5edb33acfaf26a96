"""A short one of `python -m tests.notify.outage`, and that its checker finds what is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from standardwebhooks import Webhook

from services.notify.settings import NotifySettings
from services.runtime.settings import Policy
from tests.notify.outage import Taken, checked, outage
from tests.notify.receiver import SECRET, Request

FAST = Policy(backoff_s=0.01, backoff_max_s=0.05, commit_wait_s=0.0)


def told(id: str, call: str, revision: int) -> Request:
    body = json.dumps({"type": "call.enriched", "data": {"call_id": call, "revision": revision}})
    now = datetime.now(UTC)
    headers = {
        "webhook-id": id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(SECRET).sign(id, now, body),
    }
    return Request("POST", "/", headers, body.encode())


def test_who_was_away_gets_it_all_in_order_and_the_other_did_not_wait(tmp_path: Path) -> None:
    made = outage(tmp_path, 2.0, 30.0, policy=FAST, settings=NotifySettings(pause_max_s=0.1))
    assert made.violations == []
    assert made.events == 60
    assert str(made).startswith("PASSED: 0 violations; away for 2 s, 60 events; ")


def test_what_is_missing_double_out_of_order_or_not_signed_is_found() -> None:
    request = told("a/0", "a", 0)
    first, second = Taken.of(request), Taken.of(told("a/1", "a", 1))
    assert checked(["a/0", "a/1"], [first, second]) == []
    assert checked(["a/0", "a/1"], [second, first]) == ["call.enriched of a in the order [1, 0]"]
    assert checked(["a/0", "a/1"], [first]) == ["a/1 is missing"]
    assert checked(["a/0"], [first, first]) == ["a/0 came 2 times"]
    (found, *_) = checked(["a/0"], [Taken.of(replace(request, body=request.body + b" "))])
    assert found.startswith("a/0 is not signed: ")
