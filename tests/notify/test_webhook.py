"""Requests to a receiver: what is sent, how it is signed, and what answers mean."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from schemas import events as e
from schemas.examples import EXAMPLES
from services.notify.endpoints import Endpoint, Secret, load_endpoints
from services.notify.pace import Busy
from services.notify.settings import NotifySettings
from services.notify.webhook import send, signatures
from services.runtime.addresses import system_addresses
from services.runtime.errors import Failure, Invalid, Transient
from tests.ingest.test_fetch import make_certificate
from tests.notify.receiver import OTHER_SECRET, SECRET, Receiver, Reply, receiver

ALERT: e.AlertRaised = EXAMPLES["AlertRaised"]["angry-refund"]
ENRICHED: e.CallEnriched = EXAMPLES["CallEnriched"]["stated"]
MADE = datetime(2026, 3, 2, 9, 36, tzinfo=UTC)
SETTINGS = NotifySettings(connect_timeout_s=2)


@pytest.fixture(scope="module")
def running() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


@pytest.fixture
def there(running: Receiver) -> Receiver:
    running.asked.clear()
    running.answer = lambda request: Reply()
    return running


def endpoint(there: Receiver, **changes: object) -> Endpoint:
    made = Endpoint(
        name="crm", kind="webhook", url=Secret((f"{there.url}/hook?key=k3y",)), where=there.url,
        secret=Secret((SECRET,)), allow_private=True, timeout_s=1.0,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def give(
    to: Endpoint,
    event: e.AlertRaised | e.CallEnriched = ALERT,
    settings: NotifySettings = SETTINGS,
    addresses: list[str] | None = None,
) -> str:
    return send(
        to, event, "evt-1", MADE, datetime.now(UTC), settings,
        lambda host, port: addresses or system_addresses(host, port),
    )  # fmt: skip


def failure(to: Endpoint, event: e.AlertRaised | e.CallEnriched = ALERT, **more: object) -> Failure:
    with pytest.raises(Failure) as caught:
        give(to, event, **more)  # type: ignore[arg-type]
    assert "k3y" not in str(caught.value)
    assert SECRET not in str(caught.value)
    return caught.value


def test_a_receiver_verifies_what_it_gets(there: Receiver) -> None:
    assert give(endpoint(there)) == "204"
    (asked,) = there.asked
    assert (asked.method, asked.path) == ("POST", "/hook?key=k3y")
    assert asked.headers["content-type"] == "application/json"
    found = asked.verified()
    assert found["type"] == "alert.raised"
    assert found["timestamp"] == "2026-03-02T09:36:00.000Z"
    assert found["data"]["rule"] == ALERT.rule
    assert asked.id == "evt-1"


def test_while_secrets_change_either_verifies(there: Receiver) -> None:
    give(endpoint(there, secret=Secret((OTHER_SECRET, SECRET))))
    (asked,) = there.asked
    assert asked.verified(SECRET) == asked.verified(OTHER_SECRET)
    with pytest.raises(WebhookVerificationError):
        asked.verified("whsec_" + "A" * 32)


@pytest.mark.parametrize("header", ["webhook-id", "webhook-timestamp"])
def test_what_is_changed_on_the_way_is_noticed(there: Receiver, header: str) -> None:
    give(endpoint(there))
    (asked,) = there.asked
    other = {"webhook-id": "evt-2", "webhook-timestamp": str(int(time.time()) - 60)}
    changed = replace(asked, headers={**asked.headers, header: other[header]})
    with pytest.raises(WebhookVerificationError):
        changed.verified()
    with pytest.raises(WebhookVerificationError):
        replace(asked, body=asked.body.replace(b"HIGH", b"LOW ")).verified()


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1),
       st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1)), st.text())  # fmt: skip
def test_signatures_are_the_librarys(id: str, at: datetime, body: str) -> None:
    body = body.encode("utf-8", "replace").decode()
    ours = signatures([SECRET, OTHER_SECRET], id, int(at.replace(tzinfo=UTC).timestamp()),
                      body.encode())  # fmt: skip
    theirs = [Webhook(secret).sign(id, at, body) for secret in (SECRET, OTHER_SECRET)]
    assert ours == " ".join(theirs)


ANSWERS: list[tuple[Reply, type[Failure], str]] = [
    (Reply(400), Invalid, "endpoint_refuses"),
    (Reply(409), Invalid, "endpoint_refuses"),
    (Reply(413), Invalid, "endpoint_refuses"),
    (Reply(422, b'{"error": {"message": "no such call"}}'), Invalid, "endpoint_refuses"),
    (Reply(410), Invalid, "endpoint_gone"),
    (Reply(401), Busy, "endpoint_refuses_secret"),
    (Reply(403), Busy, "endpoint_refuses_secret"),
    (Reply(404), Busy, "endpoint_not_found"),
    (Reply(301, headers={"Location": "/elsewhere"}), Busy, "endpoint_moved"),
    (Reply(307, headers={"Location": "http://169.254.169.254/"}), Busy, "endpoint_moved"),
    (Reply(408), Busy, "endpoint_busy"),
    (Reply(425), Busy, "endpoint_busy"),
    (Reply(429), Busy, "endpoint_busy"),
    (Reply(500), Busy, "endpoint_fails"),
    (Reply(503, then="flood"), Busy, "endpoint_fails"),
    (Reply(200, then="drip"), Busy, "endpoint_slow"),
    (Reply(200, after_s=5), Busy, "endpoint_slow"),
    (Reply(then="drop"), Busy, "endpoint_down"),
    (Reply(200, b"{", then="cut"), Busy, "endpoint_down"),
]


@pytest.mark.parametrize(
    ("reply", "kind", "reason"), ANSWERS, ids=[f"{r.status}{r.then}" for r, _, _ in ANSWERS]
)
def test_what_an_answer_means(
    there: Receiver, reply: Reply, kind: type[Failure], reason: str
) -> None:
    there.answer = lambda request: reply
    started = time.monotonic()
    found = failure(endpoint(there))
    assert (type(found), found.reason) == (kind, reason)
    assert time.monotonic() - started < 4.5
    assert len(there.asked) == 1  # no redirect is followed


@pytest.mark.parametrize("reply", [Reply(200, b"ok"), Reply(201), Reply(202), Reply(204),
                                   Reply(200, then="flood")], ids=str)  # fmt: skip
def test_what_is_taken(there: Receiver, reply: Reply) -> None:
    there.answer = lambda request: reply
    assert give(endpoint(there)) == str(reply.status)


def test_how_long_to_wait_is_told(there: Receiver) -> None:
    there.answer = lambda request: Reply(429, headers={"Retry-After": "17"})
    found = failure(endpoint(there))
    assert isinstance(found, Busy)
    assert found.after_s == 17
    there.answer = lambda request: Reply(503)
    found = failure(endpoint(there))
    assert isinstance(found, Busy)
    assert found.after_s is None


def test_nobody_there() -> None:
    nobody = Endpoint(name="x", kind="webhook", url=Secret(("http://127.0.0.1:9/",)),
                      where="http://127.0.0.1:9", secret=Secret((SECRET,)),
                      allow_private=True)  # fmt: skip
    assert failure(nobody).reason == "endpoint_down"


def test_a_name_that_leads_inwards_is_not_asked(there: Receiver) -> None:
    """The address that is connected to is the one that was checked."""
    inwards = endpoint(there, allow_private=False)
    found = failure(inwards)
    assert (type(found), found.reason) == (Busy, "forbidden_address")
    assert "allow_private: true allows it" in found.detail
    metadata = endpoint(there, url=Secret(("http://rebind.example.com/",)))
    found = failure(metadata, addresses=["169.254.169.254"])
    assert "nothing lifts this" in found.detail
    assert there.asked == []
    give(endpoint(there, url=Secret((there.url.replace("127.0.0.1", "crm.example.com"),))),
         addresses=["127.0.0.1"])  # fmt: skip
    assert there.asked[0].headers["host"].startswith("crm.example.com:")


def test_a_secret_that_cannot_be_read_waits(there: Receiver) -> None:
    found = failure(endpoint(there, secret=Secret(("file:/no/such/file",))))
    assert (type(found), found.reason) == (Transient, "secret_unreadable")
    assert there.asked == []


def test_a_body_has_its_bound(there: Receiver) -> None:
    many = replace(ENRICHED, findings=ENRICHED.findings * 400, moments=ENRICHED.moments * 400)
    give(endpoint(there), many, NotifySettings(max_bytes=20_000))
    (asked,) = there.asked
    assert len(asked.body) <= 20_000
    assert asked.json["data"]["omitted"] == ["moments", "keywords", "course", "metrics", "findings"]
    assert asked.json["data"]["score"]["value"] == 70.0
    long = replace(ALERT, reason="x" * 30_000)
    found = failure(endpoint(there), long, settings=NotifySettings(max_bytes=20_000))
    assert (type(found), found.reason) == (Invalid, "payload_too_large")


def test_a_receiver_is_known_by_its_certificate(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, "localhost")
    written = tmp_path / "endpoints.yaml"

    def loaded(url: str, more: str = "") -> Endpoint:
        written.write_text(
            f"endpoints:\n- {{name: x, kind: webhook, url: '{url}', secret: {SECRET}, "
            f"allow_private: true{more}}}\n"
        )
        return load_endpoints(NotifySettings(endpoints_file=written))[0]

    with receiver(certificate=certificate) as secure:
        found = failure(loaded(secure.url))
        assert found.reason == "endpoint_down"
        assert "certificate" in found.detail.lower()
        assert secure.asked == []
        assert give(loaded(secure.url, f", ca_file: '{certificate}'")) == "204"
    assert secure.asked[0].verified()


# CRMs


TOKEN = "pat-na1-0123456789"


def hubspot(there: Receiver) -> Endpoint:
    return endpoint(
        there, kind="hubspot", url=Secret((there.url,)), secret=Secret((TOKEN,)),
        external_id="callstream_id", fields={"hs_timestamp": "started_at", "hs_call_title": "title",
                                             "hs_call_duration": "duration_ms",
                                             "tier": "attributes.tier"},
    )  # fmt: skip


def test_hubspot_gets_one_call_to_make_or_change(there: Receiver) -> None:
    there.answer = lambda request: Reply(200, b'{"status": "COMPLETE", "results": [{}]}')
    assert give(hubspot(there), ENRICHED) == "200"
    give(hubspot(there), replace(ENRICHED, revision=ENRICHED.revision + 1))
    asked = there.asked[0]
    assert (asked.method, asked.path) == ("POST", "/crm/v3/objects/calls/batch/upsert")
    assert asked.headers["authorization"] == f"Bearer {TOKEN}"
    (made,) = asked.json["inputs"]
    assert made["idProperty"] == "callstream_id"
    assert made["properties"] == {
        "callstream_id": made["id"],
        "hs_timestamp": "2026-03-02T09:30:00.000Z",
        "hs_call_title": "Inbound call, Support: refund",
        "hs_call_duration": "300000",
    }  # what is not known of the call is left out
    assert there.asked[1].json["inputs"][0]["id"] == made["id"]


def test_hubspots_207_is_no_success(there: Receiver) -> None:
    answer = b'{"status":"COMPLETE","results":[],"numErrors":1,"errors":[{"message":"bad tier"}]}'
    there.answer = lambda request: Reply(207, answer)
    found = failure(hubspot(there), ENRICHED)
    assert (type(found), found.reason) == (Invalid, "endpoint_refuses")
    assert "bad tier" in found.detail
    there.answer = lambda request: Reply(207, b'{"results":[{}],"errors":[]}')
    assert give(hubspot(there), ENRICHED) == "207"


def salesforce(there: Receiver) -> Endpoint:
    return endpoint(
        there, kind="salesforce", url=Secret((there.url,)), secret=Secret((TOKEN,)),
        external_id="Callstream_Id__c", fields={"Subject": "title", "CallType": "call_type",
                                                "CallDurationInSeconds": "duration_s"},
    )  # fmt: skip


def test_salesforce_gets_a_task_by_its_external_id(there: Receiver) -> None:
    there.answer = lambda request: Reply(201, b'{"id": "00T", "success": true}')
    hostile = replace(ENRICHED, call_id="../../../../User/005?x=")
    assert give(salesforce(there), hostile) == "201"
    (asked,) = there.asked
    assert asked.method == "PATCH"
    assert asked.path.startswith("/services/data/v62.0/sobjects/Task/Callstream_Id__c/")
    assert asked.path.count("/") == 7
    assert asked.path.rpartition("/")[2].replace("-", "").isalnum()
    assert asked.json == {
        "Subject": "Inbound call, Support: refund", "CallType": "Inbound",
        "CallDurationInSeconds": 300,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "kind"), [(300, Invalid), (400, Invalid), (401, Busy), (503, Busy)]
)
def test_what_salesforce_answers(there: Receiver, status: int, kind: type[Failure]) -> None:
    told = f'[{{"message": "Session {TOKEN}", "errorCode": "X"}}]'.encode()
    there.answer = lambda request: Reply(status, told)
    found = failure(salesforce(there), ENRICHED)
    assert type(found) is kind
    assert TOKEN not in str(found)


def test_every_example_goes_to_every_receiver(there: Receiver) -> None:
    there.answer = lambda request: Reply(200, b"{}")
    for made in (hubspot(there), salesforce(there), endpoint(there, form="vcon"), endpoint(there)):
        for event in EXAMPLES["CallEnriched"].values():
            assert give(made, event) == "200"
    for event in EXAMPLES["AlertRaised"].values():
        give(endpoint(there, form="vcon"), event)
        assert there.asked[-1].verified()["type"] == "alert.raised"
    assert all(request.body for request in there.asked)


def test_a_clock_that_is_wrong_shows(there: Receiver) -> None:
    """Receivers refuse what was signed long ago: the time is that of the request."""
    send(endpoint(there), ALERT, "evt-1", MADE, datetime.now(UTC) - timedelta(hours=1), SETTINGS)
    with pytest.raises(WebhookVerificationError, match="too old"):
        there.asked[0].verified()


def test_a_token_in_the_url_is_told_to_nobody(there: Receiver) -> None:
    """Servers answer a wrong path by saying it."""
    url = f"{there.url}/t/SECRET%20TOKEN?key=ABCDEFGHIJ"
    there.answer = lambda request: Reply(
        404, f"Cannot POST {request.path} nor /t/SECRET TOKEN".encode()
    )
    told = str(failure(endpoint(there, url=Secret((url,)))))
    assert "Cannot POST" in told
    assert "TOKEN" not in told
    assert "ABCDEFGHIJ" not in told


@pytest.mark.parametrize("id", ["a\nX: 1", "é", "\x00"])
def test_an_id_that_is_no_header_is_refused(there: Receiver, id: str) -> None:
    with pytest.raises(Invalid, match="bad_id"):
        send(endpoint(there), ALERT, id, MADE, datetime.now(UTC), SETTINGS)
    assert there.asked == []
