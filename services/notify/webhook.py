"""Requests to a webhook's receiver or to a CRM, and what their answers mean.

Webhooks are signed as Standard Webhooks has it. No redirect is followed, and the address that is
connected to is checked: the file of endpoints names a host, not what its name will lead to.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

import httpcore

from schemas.events import AlertRaised, CallEnriched
from services.notify.crm import CrmRequest, hubspot, salesforce
from services.notify.endpoints import Endpoint, signing_key
from services.notify.pace import Busy
from services.notify.payloads import event_body, vcon_body
from services.notify.settings import NotifySettings
from services.runtime.addresses import (
    CheckedBackend,
    ForbiddenAddress,
    Resolve,
    system_addresses,
)
from services.runtime.endpoint import Answer, TooLarge, parsed, posted, reason_in, retry_after_s
from services.runtime.errors import Invalid, Transient, cause

_MOST_ANSWER_BYTES = 64_000
# What of a URL is shorter is a word.
_SHORTEST_SECRET = 8
# Of the endpoint, not of the event: a setting here or there is wrong, and every event would be
# refused alike.
_OF_THE_ENDPOINT = {
    401: "endpoint_refuses_secret",
    403: "endpoint_refuses_secret",
    404: "endpoint_not_found",
    405: "endpoint_not_found",
    407: "endpoint_not_found",
}
_BUSY = frozenset({408, 425, 429})


def signatures(secrets: Sequence[str], webhook_id: str, timestamp_s: int, body: bytes) -> str:
    """The value of `webhook-signature`: `v1,` and base64, for each of `secrets` (whsec_...)."""
    content = f"{webhook_id}.{timestamp_s}.".encode() + body
    found = []
    for secret in secrets:
        key = signing_key(secret)
        if key is None:
            raise Transient("secret_unreadable", "a secret is none of Standard Webhooks' any more")
        digest = hmac.new(key, content, hashlib.sha256).digest()
        found.append("v1," + base64.b64encode(digest).decode("ascii"))
    return " ".join(found)


def send(
    endpoint: Endpoint,
    event: AlertRaised | CallEnriched,
    event_id: str,
    time: datetime,
    now: datetime,
    settings: NotifySettings,
    resolve: Resolve = system_addresses,
) -> str:
    """Give `event`, made at `time`, to `endpoint`; what it answers, such as its status.

    Raises Invalid for what it refuses of this event, Busy (a Transient) for what it does not take
    now, or will not take before a setting is mended.
    """
    if not (event_id.isascii() and event_id.isprintable()):
        raise Invalid("bad_id", f"{event_id!r} cannot be a webhook-id: it is no printable ASCII")
    secrets = endpoint.secret.values()
    (url,) = endpoint.url.values()
    if endpoint.kind == "webhook":
        if endpoint.form == "vcon" and isinstance(event, CallEnriched):
            made = vcon_body(event, settings.max_bytes)
        else:
            made = event_body(event, time, settings.max_bytes)
        timestamp = int(now.timestamp())
        headers = [
            ("Content-Type", made.content_type),
            ("webhook-id", event_id),
            ("webhook-timestamp", str(timestamp)),
            ("webhook-signature", signatures(secrets, event_id, timestamp, made.content)),
        ]
        asked = CrmRequest("POST", "", made.content)
    else:
        assert isinstance(event, CallEnriched)
        asked = _of_crm(endpoint, event)
        headers = [("Content-Type", "application/json"), ("Authorization", f"Bearer {secrets[0]}")]
    if len(asked.body) > settings.max_bytes:
        raise Invalid(
            "payload_too_large",
            f"{len(asked.body)} bytes; notify.max_bytes is {settings.max_bytes}",
        )
    answer = _asked(endpoint, url.rstrip("/") + asked.path if asked.path else url, asked, headers,
                    settings, resolve)  # fmt: skip
    _judge(endpoint, answer, [*secrets, *_parts_of(url)])
    return str(answer.status)


def _of_crm(endpoint: Endpoint, event: CallEnriched) -> CrmRequest:
    if endpoint.kind == "hubspot":
        return hubspot(event, endpoint.external_id, endpoint.fields)
    return salesforce(event, endpoint.object, endpoint.external_id, endpoint.fields, endpoint.api)


def _asked(
    endpoint: Endpoint,
    url: str,
    asked: CrmRequest,
    headers: list[tuple[str, str]],
    settings: NotifySettings,
    resolve: Resolve,
) -> Answer:
    where = endpoint.where
    try:
        return posted(
            url,
            [
                *headers,
                ("Accept", "application/json"),
                ("Accept-Encoding", "identity"),
                ("User-Agent", "Callstream"),
            ],
            asked.body,
            tls=endpoint.tls,
            connect_s=settings.connect_timeout_s,
            limit_s=endpoint.timeout_s,
            most_bytes=_MOST_ANSWER_BYTES,
            method=asked.method,
            network=partial(
                CheckedBackend, resolve=resolve, inside=lambda _: endpoint.allow_private
            ),
        )
    except TooLarge as error:  # its status is all that counts
        return Answer(error.status, {}, b"")
    except ForbiddenAddress as error:
        mend = "allow_private: true allows it" if error.liftable else "nothing lifts this"
        raise Busy("forbidden_address", f"{where}: {error}; {mend}") from error
    except httpcore.TimeoutException as error:
        raise Busy(
            "endpoint_slow", f"{where}: no answer within {endpoint.timeout_s:g} s"
        ) from error
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise Busy("endpoint_down", f"{where}: {cause(error)}") from error


def _judge(endpoint: Endpoint, answer: Answer, secrets: Sequence[str]) -> None:
    status, where = answer.status, endpoint.where
    if status == 207 and endpoint.kind == "hubspot":
        _judge_parts(endpoint, answer, secrets)
        return
    if 200 <= status < 300:
        return
    told = f"{where}: HTTP status {status}"
    if said := _said(answer.body, secrets):
        told += f", {said}"
    if status in _BUSY or status >= 500:
        reason = "endpoint_busy" if status in _BUSY else "endpoint_fails"
        raise Busy(reason, told, retry_after_s(answer.headers))
    if status in _OF_THE_ENDPOINT:
        raise Busy(_OF_THE_ENDPOINT[status], f"{told}; mend its entry in the file of endpoints")
    if status == 300 and endpoint.kind == "salesforce":
        raise Invalid("endpoint_refuses", f"{told}; several objects have the external id")
    if 300 <= status < 400:
        raise Busy("endpoint_moved", f"{told}; redirects are not followed, write the new url")
    if status == 410:
        raise Invalid(
            "endpoint_gone", f"{told}: the endpoint is gone for good; take it out of the file"
        )
    raise Invalid("endpoint_refuses", told)


def _judge_parts(endpoint: Endpoint, answer: Answer, secrets: Sequence[str]) -> None:
    """HubSpot answers 207 for a batch of which something failed; ours holds one call."""
    found = parsed(answer.body)
    errors: list[Any] = []
    if isinstance(found, Mapping) and isinstance(found.get("errors"), list):
        errors = found["errors"]
    if errors:
        said = _said(json.dumps(errors[0]).encode(), secrets)
        raise Invalid("endpoint_refuses", f"{endpoint.where}: HTTP status 207, {said}")


def _parts_of(url: str) -> list[str]:
    """What of a URL may be a secret: its path and query, whole and in parts; the longest first."""
    parts = urlsplit(url)
    found = {parts.path, parts.query, *re.split(r"[/?&=;]", f"{parts.path}?{parts.query}")}
    found |= {unquote(each) for each in found}
    return sorted((each for each in found if len(each) >= _SHORTEST_SECRET), key=len, reverse=True)


def _said(body: bytes, secrets: Sequence[str]) -> str:
    """What it says of itself, in a line without secrets."""
    for secret in secrets:
        body = body.replace(secret.encode(), b"***")
    return reason_in(body, "")
