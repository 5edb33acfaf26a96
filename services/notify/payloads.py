"""What is told of an event: JSON of the event itself, or the call as a vCon.

An envelope of Standard Webhooks: `type`, `timestamp`, `data`, with the names that the events have.
Where a recording lies, and what opens it, goes to nobody.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from schemas.events import (
    AlertRaised,
    CallEnded,
    CallEnriched,
    Disposition,
    Participant,
    Recording,
    RecordingStatus,
    Role,
)
from services.notify.fields import duration_ms, iso, summary, title
from services.runtime.errors import Invalid

TYPES: Mapping[type, str] = {AlertRaised: "alert.raised", CallEnriched: "call.enriched"}

# Of every segment one, or where in the text: of use with the transcript only, which is not sent.
_UNSENT = ("sentiments", "redactions")
# What of a call goes to nobody: where its recordings lie, and what is of our own machinery.
_UNSENT_OF_CALL = ("recordings", "segments", "traceparent", "event_id", "published_at", "lane")
# What is left out of a body that is too long, the first first.
_DISPENSABLE = ("moments", "keywords", "course", "metrics", "findings")


class Body(NamedTuple):
    content_type: str
    content: bytes


def event_body(event: AlertRaised | CallEnriched, time: datetime, most_bytes: int) -> Body:
    """The event, made at `time`, as JSON of at most `most_bytes`.

    What is left out to be so short stands in `data.omitted`. Raises Invalid (`payload_too_large`)
    where that is not enough.
    """
    data = _plain(event)
    if isinstance(event, CallEnriched):
        for name in _UNSENT:
            del data[name]
        data["call"] = _call(event.call)
    told = {"type": TYPES[type(event)], "timestamp": iso(time), "data": data}
    omitted: list[str] = []
    content = msgspec.json.encode(told)
    for name in _DISPENSABLE:
        if len(content) <= most_bytes:
            break
        if data.get(name):
            data[name] = []
            data["omitted"] = omitted = [*omitted, name]
            content = msgspec.json.encode(told)
    if len(content) <= most_bytes:
        return Body("application/json", content)
    raise Invalid(
        "payload_too_large",
        f"{len(content)} bytes, {', '.join(omitted) or 'nothing'} left out; notify.max_bytes is "
        f"{most_bytes}",
    )


def _plain(event: Any) -> dict[str, Any]:
    """The event as JSON holds it; times are ISO 8601 in UTC."""
    found: dict[str, Any] = msgspec.to_builtins(event)
    return found


def _call(call: CallEnded) -> dict[str, Any]:
    found = _plain(call)
    for name in _UNSENT_OF_CALL:
        del found[name]
    found["source"] = {"platform": str(call.source.platform)}
    found["duration_ms"] = round((call.ended_at - call.started_at).total_seconds() * 1000)
    return found


# --- vCon: draft-ietf-vcon-vcon-core-03 -----------------------------------------------------------

_SYNTAX = "0.4.0"
_INCOMPLETE: Mapping[Disposition, str] = {
    Disposition.NO_ANSWER: "no-answer",
    Disposition.BUSY: "busy",
    Disposition.FAILED: "failed",
    Disposition.CANCELLED: "hung-up",
    Disposition.ABANDONED: "hung-up",
}
_MACHINES = frozenset((Role.IVR, Role.BOT, Role.VOICEMAIL))


def vcon_body(event: CallEnriched, most_bytes: int) -> Body:
    """The call as an unsigned vCon: parties, one dialog per recording, what was found as analysis.

    It has the same `uuid` whenever it is made of the call; `updated_at` tells which is newer. The
    audio and the transcript are not in it. Raises Invalid (`payload_too_large`).
    """
    content = msgspec.json.encode(vcon(event))
    if len(content) > most_bytes:
        raise Invalid(
            "payload_too_large", f"a vCon of {len(content)} bytes; notify.max_bytes is {most_bytes}"
        )
    return Body("application/vcon+json", content)


def vcon(event: CallEnriched, transcripts: Mapping[str, str] = {}) -> dict[str, Any]:
    """The vCon of `vcon_body`. `transcripts` has those of recordings, by recording_id: WebVTT that
    counts from the recording's start.
    """
    call = _with_parties(event.call)
    parties = [_party(person) for person in call.participants] or [{}]
    dialogs = _dialogs(call, len(parties))
    analysis = _analysis(event, list(range(len(dialogs))))
    numbers = {each.recording_id: [number] for number, each in enumerate(_kept(call))}
    analysis += [
        {"type": "transcript", "dialog": numbers.get(id, []), "vendor": "callstream",
         "product": "transcribe", "mediatype": "text/vtt", "encoding": "none", "body": body}
        for id, body in transcripts.items()
    ]  # fmt: skip
    return {
        "vcon": _SYNTAX,
        "uuid": str(vcon_uuid(event.tenant_id, event.call_id, call.started_at)),
        "created_at": iso(call.ended_at),
        "updated_at": iso(event.enriched_at),
        "subject": title(event),
        "parties": parties,
        "dialog": dialogs,
        "analysis": analysis,
    }


def vcon_uuid(tenant_id: str, call_id: str, started_at: datetime) -> uuid.UUID:
    """Version 8 as the draft has it, made of the call instead of chance: time, then a hash."""
    ms = max(0, round(started_at.timestamp() * 1000)) & ((1 << 48) - 1)
    hashed = int.from_bytes(hashlib.sha256(f"{tenant_id}/{call_id}".encode()).digest()[:10], "big")
    value = (ms << 80) | hashed
    value = value & ~(0xF << 76) | 8 << 76  # version
    value = value & ~(0x3 << 62) | 2 << 62  # variant
    return uuid.UUID(int=value)


def _party(person: Participant) -> dict[str, Any]:
    found: dict[str, Any] = {}
    address = person.address or ""
    if address.startswith(("sip:", "sips:")):
        found["sip"] = address
    elif "@" in address:
        found["mailto"] = address
    elif address:
        found["tel"] = address
    if person.display_name:
        found["name"] = person.display_name
    found["type"] = "bot" if person.role in _MACHINES else "person"
    # Of the widely used implementations, beside the draft's own parameters.
    found["role"] = str(person.role).lower()
    return found


def _with_parties(call: CallEnded) -> CallEnded:
    """The call; where the platform names nobody, who its channels are."""
    roles = (role for each in call.recordings for role in each.channel_roles)
    known = dict.fromkeys(role for role in roles if role is not Role.UNKNOWN)
    if call.participants or not known:
        return call
    people = [Participant(participant_id=role.lower(), role=role) for role in known]
    return replace(call, participants=people)


def _kept(call: CallEnded) -> list[Recording]:
    return [each for each in call.recordings if each.status is RecordingStatus.AVAILABLE]


def _dialogs(call: CallEnded, parties: int) -> list[dict[str, Any]]:
    kept = _kept(call)
    if not kept:
        reason = _INCOMPLETE.get(call.disposition)
        if reason is not None:
            return [{"type": "incomplete", "start": iso(call.started_at),
                     "parties": list(range(parties)), "disposition": reason}]  # fmt: skip
    return [_dialog(call, each, parties) for each in kept]


def _dialog(call: CallEnded, recording: Recording, parties: int) -> dict[str, Any]:
    start = call.started_at + timedelta(milliseconds=recording.start_offset_ms or 0)
    found: dict[str, Any] = {
        "type": "recording",
        "start": iso(start),
        "parties": _channels(call, recording, parties),
    }
    if recording.duration_ms is not None:
        found["duration"] = recording.duration_ms / 1000
    return found


def _channels(call: CallEnded, recording: Recording, parties: int) -> list[Any]:
    """Who is heard: of several channels, per channel."""
    if (recording.channels or 1) < 2:
        return list(range(parties))
    found: list[Any] = []
    for channel in range(recording.channels or 1):
        roles = recording.channel_roles
        role = roles[channel] if channel < len(roles) else Role.UNKNOWN
        there = [at for at, person in enumerate(call.participants) if person.role is role]
        if role is Role.UNKNOWN:
            there = list(range(parties))
        found.append(there[0] if len(there) == 1 else there or None)
    return found


def _analysis(event: CallEnriched, dialogs: list[int]) -> list[dict[str, Any]]:
    def made(type: str, schema: str, body: Any) -> dict[str, Any]:
        return {"type": type, "dialog": dialogs, "vendor": "callstream", "product": "enrich",
                "schema": schema, "mediatype": "application/json", "encoding": "json",
                "body": body}  # fmt: skip

    found: list[dict[str, Any]] = []
    if (text := summary(event)) is not None:
        found.append(
            {"type": "summary", "dialog": dialogs, "vendor": "callstream",
             "product": event.summary.method if event.summary else "", "mediatype": "text/plain",
             "encoding": "none", "body": text}
        )  # fmt: skip
    plain = _plain(event)
    found.append(made("sentiment", "callstream.course", plain["course"]))
    report = {
        name: plain[name]
        for name in ("tenant_id", "call_id", "revision", "language", "rules_version", "score",
                     "findings", "metrics", "alerts", "summary")
    }  # fmt: skip
    report["duration_ms"] = duration_ms(event)
    found.append(made("report", "callstream.call-enriched", report))
    return found
