"""What is known of a call, by name: what a CRM's fields are filled from.

A source is one of SOURCES, `attributes.NAME` for what the platform said, or a text after `=`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from schemas.events import CallEnriched, Direction, FindingKind, Role
from services.runtime.stage import event_id

LONGEST_TEXT = 30_000
"""Characters of one field: Salesforce's comments hold 32,000."""


def problem_with_source(source: str) -> str | None:
    """What is wrong with a field's source; None where it is one."""
    if source.startswith("=") or source in SOURCES:
        return None
    if source.startswith("attributes.") and len(source) > len("attributes."):
        return None
    known = ", ".join(sorted(SOURCES))
    return f"{source!r} is no source; there are {known}, attributes.NAME, and =TEXT as it stands"


def values(event: CallEnriched, fields: Mapping[str, str]) -> dict[str, Any]:
    """Target -> value by `fields`, target -> source; what is not known of the call is left out."""
    found: dict[str, Any] = {}
    for target, source in fields.items():
        if source.startswith("="):
            value: Any = source[1:]
        elif source in SOURCES:
            value = SOURCES[source](event)
        else:
            value = event.call.attributes.get(source.removeprefix("attributes."))
        if value is not None and value != "":
            found[target] = value[:LONGEST_TEXT] if isinstance(value, str) else value
    return found


def external_id(tenant_id: str, call_id: str) -> str:
    """The id by which a CRM knows the call: the same whenever made, and safe in a URL."""
    return event_id("notify", f"{tenant_id}/{call_id}", 0, 0)


def title(event: CallEnriched) -> str:
    """Such as `Inbound call, Support: refund, delivery`."""
    kind = {Direction.INBOUND: "Inbound call", Direction.OUTBOUND: "Outbound call"}
    told = kind.get(event.call.direction, "Call")
    if queue := _queue(event):
        told += f", {queue}"
    if topics := _labels(event, FindingKind.TOPIC):
        told += f": {', '.join(topics)}"
    return told[:250]


def body(event: CallEnriched) -> str:
    """Summary, score and findings as plain text."""
    lines = [summary(event) or ""]
    if event.score is not None:
        lines.append(f"Score: {event.score.value:.0f} ({event.score.scorecard})")
    for name, kind in (("Topics", FindingKind.TOPIC), ("Emotions", FindingKind.EMOTION)):
        if labels := _labels(event, kind):
            lines.append(f"{name}: {', '.join(labels)}")
    if event.alerts:
        lines.append(f"Alerts: {', '.join(event.alerts)}")
    lines.append(f"Callstream: {event.tenant_id}/{event.call_id}")
    return "\n".join(line for line in lines if line)


def summary(event: CallEnriched) -> str | None:
    if event.summary is None:
        return None
    return " ".join(sentence.text for sentence in event.summary.sentences)


def duration_ms(event: CallEnriched) -> int:
    call = event.call
    return max(0, round((call.ended_at - call.started_at).total_seconds() * 1000))


def _labels(event: CallEnriched, kind: FindingKind) -> list[str]:
    return list(dict.fromkeys(each.label for each in event.findings if each.kind is kind))


def _queue(event: CallEnriched) -> str | None:
    queue = event.call.queue
    return None if queue is None else queue.name or queue.id


def _agent(event: CallEnriched, field: str) -> str | None:
    for person in event.call.participants:
        if person.role is Role.AGENT:
            return getattr(person, field) or None
    return None


def _of_summary(event: CallEnriched, field: str) -> str | None:
    told = getattr(event.summary, field, None)
    return None if told is None or told == "UNKNOWN" else str(told)


def _customer(event: CallEnriched, last: bool) -> float | None:
    points = sorted(
        (point.quarter, point.score) for point in event.course if point.role is Role.CUSTOMER
    )
    return points[-1 if last else 0][1] if points else None


def _one_of(value: Direction, known: Mapping[Direction, str]) -> str | None:
    return known.get(value)


SOURCES: Mapping[str, Callable[[CallEnriched], Any]] = {
    "agent_id": lambda event: _agent(event, "agent_id"),
    "agent_name": lambda event: _agent(event, "display_name"),
    "alerts": lambda event: ", ".join(event.alerts),
    "answered": lambda event: _of_summary(event, "answered"),
    "body": body,
    "call_id": lambda event: event.call_id,
    "call_type": lambda event: _one_of(
        event.call.direction,
        {Direction.INBOUND: "Inbound", Direction.OUTBOUND: "Outbound",
         Direction.INTERNAL: "Internal"},
    ),
    "crm_ref": lambda event: event.call.crm_ref,
    "date": lambda event: event.call.started_at.date().isoformat(),
    "direction": lambda event: _one_of(
        event.call.direction, {Direction.INBOUND: "INBOUND", Direction.OUTBOUND: "OUTBOUND"}
    ),
    "disposition": lambda event: str(event.call.disposition),
    "duration_ms": duration_ms,
    "duration_s": lambda event: duration_ms(event) // 1000,
    "emotions": lambda event: ", ".join(_labels(event, FindingKind.EMOTION)),
    "ended_at": lambda event: iso(event.call.ended_at),
    "external_id": lambda event: external_id(event.tenant_id, event.call_id),
    "from_address": lambda event: event.call.from_address,
    "language": lambda event: event.language,
    "queue_id": lambda event: event.call.queue.id if event.call.queue else None,
    "queue_name": _queue,
    "resolution": lambda event: _of_summary(event, "resolution"),
    "revision": lambda event: event.revision,
    "score": lambda event: event.score.value if event.score else None,
    "sentiment_end": lambda event: _customer(event, last=True),
    "sentiment_start": lambda event: _customer(event, last=False),
    "started_at": lambda event: iso(event.call.started_at),
    "subject_ref": lambda event: event.call.subject_ref,
    "summary": summary,
    "tenant_id": lambda event: event.tenant_id,
    "title": title,
    "to_address": lambda event: event.call.to_address,
    "topics": lambda event: ", ".join(_labels(event, FindingKind.TOPIC)),
    "wrap_up_code": lambda event: event.call.wrap_up_code,
}  # fmt: skip
"""What may be put into a field, by name; None or empty where it is not known of a call."""


def iso(when: datetime) -> str:
    """ISO 8601 in UTC with milliseconds, such as 2026-03-02T09:30:00.000Z."""
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
