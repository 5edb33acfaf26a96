"""Typed events of a call, out of the warehouse's archive."""

from __future__ import annotations

import base64
import json
from typing import Any, TypeVar

from schemas.topics import BY_RECORD
from services.loopback import Asks
from services.runtime.codec import Codec
from services.runtime.log import Message
from services.runtime.stage import Envelope

E = TypeVar("E")

# The view that says which event of a kind is current.
_CURRENT = {"CallTranscribed": "current_transcribed", "CallEnriched": "current_enriched"}


class NoSuchCall(Exception):
    """The warehouse knows no such call, or not that much of it."""


def newest(
    asks: Asks, codec: Codec, tenant: str, call_id: str, record: type[E]
) -> Envelope[E] | None:
    """The event of that kind that is current for the call; None when there is none yet.

    Raises NoSuchCall when the warehouse has never heard of the call, naming calls that it knows.
    """
    answer = asks.ask(
        "SELECT base64Encode(assumeNotNull(value)) AS body, partition, offset, header_names,"
        " arrayMap(v -> base64Encode(v), header_values) AS header_bytes,"
        " toUnixTimestamp64Milli(timestamp) AS at FROM events"
        " WHERE tenant_id = {tenant:String} AND call_id = {call:String} AND type = {type:String}"
        f" AND event_id IN (SELECT event_id FROM {_CURRENT[record.__name__]}"
        " WHERE tenant_id = {tenant:String} AND call_id = {call:String}) LIMIT 1",
        "JSONEachRow",
        {"tenant": tenant, "call": call_id, "type": record.__name__},
    )
    if not answer.strip():
        _known(asks, tenant, call_id)
        return None
    row: dict[str, Any] = json.loads(answer)
    headers = zip(row["header_names"], map(base64.b64decode, row["header_bytes"]), strict=True)
    message = Message(
        BY_RECORD[record.__name__].name,
        int(row["partition"]),
        int(row["offset"]),
        f"{tenant}/{call_id}".encode(),
        base64.b64decode(row["body"]),
        tuple(headers),
        int(row["at"]),
    )
    return codec.decode(message)


def _known(asks: Asks, tenant: str, call_id: str) -> None:
    parameters = {"tenant": tenant, "call": call_id}
    found = asks.ask(
        "SELECT state, state_reason FROM calls"
        " WHERE tenant_id = {tenant:String} AND call_id = {call:String}",
        "TSV",
        parameters,
    )
    if found.strip():
        return
    near = asks.ask(
        "SELECT call_id FROM calls WHERE tenant_id = {tenant:String}"
        " ORDER BY ngramDistance(call_id, {call:String}), call_id LIMIT 3",
        "TSV",
        parameters,
    )
    names = ", ".join(near.decode().split("\n")[:-1])
    hint = f"; near: {names}" if names else f"; no call of tenant {tenant!r} is known"
    raise NoSuchCall(f"no call {tenant}/{call_id}{hint}")
