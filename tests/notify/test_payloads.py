"""What is told of events: their JSON, vCon, messages for people, and fields for a CRM."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import events as e
from schemas.examples import EXAMPLES
from services.notify.fields import SOURCES, problem_with_source, values
from services.notify.payloads import event_body, vcon_body, vcon_uuid
from services.notify.wording import clock, message

MADE = datetime(2026, 3, 2, 9, 36, tzinfo=UTC)
BIG = 1_000_000
ENRICHED: Mapping[str, e.CallEnriched] = EXAMPLES["CallEnriched"]
ALERTS: Mapping[str, e.AlertRaised] = EXAMPLES["AlertRaised"]
ENRICHED_NAMES, ALERT_NAMES = sorted(ENRICHED), sorted(ALERTS)


def told(event: e.AlertRaised | e.CallEnriched) -> Any:
    return json.loads(event_body(event, MADE, BIG).content)


@pytest.mark.parametrize("name", ALERT_NAMES)
def test_an_alert_is_told_with_the_names_of_its_schema(name: str) -> None:
    event = ALERTS[name]
    found = told(event)
    assert set(found) == {"type", "timestamp", "data"}
    assert set(found["data"]) == {field.name for field in fields(event)}
    assert found["data"]["raised_at"] == event.raised_at.isoformat().replace("+00:00", "Z")
    assert found["data"]["evidence"][0]["quote"] == event.evidence[0].quote


@pytest.mark.parametrize("name", ENRICHED_NAMES)
def test_an_enriched_call_is_told_without_what_needs_the_transcript(name: str) -> None:
    event = ENRICHED[name]
    found = told(event)
    assert found["type"] == "call.enriched"
    left = {field.name for field in fields(event)} - set(found["data"])
    assert left == {"sentiments", "redactions"}
    assert len(found["data"]["findings"]) == len(event.findings)
    assert found["data"]["call"]["duration_ms"] == 300_000


def test_where_recordings_lie_goes_to_nobody() -> None:
    event = ENRICHED["happy"]
    recording = replace(
        event.call.recordings[0], uri="https://pbx.example/r?X-Amz-Signature=s3cret",
        credential_ref="s3cret",
    )  # fmt: skip
    call = replace(
        event.call,
        recordings=[recording],
        source=replace(event.call.source, raw_payload_uri="https://pbx.example/s3cret"),
    )
    for body in (
        event_body(replace(event, call=call), MADE, BIG),
        vcon_body(replace(event, call=call), BIG),
    ):
        assert b"s3cret" not in body.content
        assert b"pbx.example" not in body.content


def test_numbers_that_are_none_become_null() -> None:
    event = replace(ENRICHED["happy"], metrics=[e.Metric(name="x", value=float("nan"))])
    assert told(event)["data"]["metrics"][0]["value"] is None


# vCon

# What draft-ietf-vcon-vcon-core-03 has in each object, with the JSON types of its values.
_PARTY = {"tel": str, "sip": str, "mailto": str, "name": str, "type": str, "role": str}
_DIALOG = {"type": str, "start": str, "duration": (int, float), "parties": list,
           "disposition": str}  # fmt: skip
_ANALYSIS = {"type": str, "dialog": list, "vendor": str, "product": str, "schema": str,
             "mediatype": str, "encoding": str, "body": (str, dict, list)}  # fmt: skip
_VCON = {"vcon": str, "uuid": str, "created_at": str, "updated_at": str, "subject": str,
         "parties": list, "dialog": list, "analysis": list}  # fmt: skip


def check(found: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    assert found.keys() <= known.keys()
    for name, value in found.items():
        assert isinstance(value, known[name]), name


@pytest.mark.parametrize("name", ENRICHED_NAMES)
def test_a_vcon_is_as_the_draft_has_it(name: str) -> None:
    event = ENRICHED[name]
    body = vcon_body(event, BIG)
    assert body.content_type == "application/vcon+json"
    found = json.loads(body.content)
    check(found, _VCON)
    assert found["vcon"] == "0.4.0"
    assert uuid.UUID(found["uuid"]).version == 8
    for key in ("created_at", "updated_at"):
        assert datetime.fromisoformat(found[key]).tzinfo is not None
    for party in found["parties"]:
        check(party, _PARTY)
    for dialog in found["dialog"]:
        check(dialog, _DIALOG)
        assert dialog["type"] in ("recording", "incomplete")
        assert datetime.fromisoformat(dialog["start"]).tzinfo is not None
        for channel in dialog["parties"]:
            for at in channel if isinstance(channel, list) else [channel]:
                assert at is None or at in range(len(found["parties"]))
    for analysis in found["analysis"]:
        check(analysis, _ANALYSIS)
        assert analysis["type"] in ("summary", "sentiment", "report")
        assert set(analysis["dialog"]) <= set(range(len(found["dialog"])))
        assert analysis["encoding"] in ("none", "json")
        assert (analysis["encoding"] == "none") == isinstance(analysis["body"], str)


def test_where_the_platform_names_nobody_the_parties_are_those_of_the_channels() -> None:
    event = ENRICHED["happy"]
    call = replace(event.call, participants=[])
    found = json.loads(vcon_body(replace(event, call=call), BIG).content)
    assert [party["role"] for party in found["parties"]] == ["agent", "customer"]
    assert found["dialog"][0]["parties"] == [0, 1]
    bare = replace(call, recordings=[replace(call.recordings[0], channel_roles=[])])
    assert json.loads(vcon_body(replace(event, call=bare), BIG).content)["parties"] == [{}]


def test_who_is_heard_on_which_channel() -> None:
    found = json.loads(vcon_body(ENRICHED["happy"], BIG).content)
    assert [party["role"] for party in found["parties"]] == ["agent", "customer"]
    assert found["parties"][1]["tel"] == "+15550100"
    (dialog,) = found["dialog"]
    assert dialog["parties"] == [0, 1]
    assert dialog["duration"] == 300.0
    summary, sentiment, report = found["analysis"]
    assert summary["body"]
    assert report["body"]["score"]["value"] == 75.0
    assert sentiment["body"][0]["quarter"] == 1


def test_a_vcon_is_known_by_its_call() -> None:
    event = ENRICHED["happy"]
    again = replace(event, revision=event.revision + 1, enriched_at=MADE)
    first, second = (json.loads(vcon_body(each, BIG).content) for each in (event, again))
    assert first["uuid"] == second["uuid"]
    assert first["created_at"] == second["created_at"]
    assert first["updated_at"] != second["updated_at"]
    assert vcon_uuid("acme", "a", MADE) != vcon_uuid("acme", "b", MADE)


# Messages


def test_an_alert_in_english() -> None:
    found = message(ALERTS["angry-refund"])
    assert found.title == "[High] Angry customer asks for a refund"
    lines = found.body.splitlines()
    assert lines[0] == "Why: refund and angry"
    first = ALERTS["angry-refund"].evidence[0]
    assert f"Heard: {clock(first.start_ms)} customer “very angry”" in lines
    assert "To do: Call the customer back today." in lines
    assert "Call: acme/happy" in lines
    assert "Agent: agent-7" in lines


def test_an_alert_in_the_language_that_was_spoken() -> None:
    event = ALERTS["mandarin"]
    found = message(event)
    assert found.title == "[高] 不满并要求退款"
    assert "原话：" in found.body
    assert "客户 “" in found.body
    assert message(event, "en").title == "[High] 不满并要求退款"


def test_a_time_is_minutes_and_seconds() -> None:
    assert [clock(ms) for ms in (0, 999, 61_500, 3_725_000, -5)] == [
        "00:00", "00:00", "01:01", "62:05", "00:00",
    ]  # fmt: skip


@settings(deadline=None)
@given(st.text(), st.text(), st.lists(st.text(), max_size=9), st.sampled_from(list(e.Severity)))
def test_a_message_is_short_and_of_single_lines(
    title: str, reason: str, quotes: list[str], severity: e.Severity
) -> None:
    evidence = [e.Evidence(start_ms=0, end_ms=1, quote=quote) for quote in quotes]
    event = replace(
        ALERTS["angry-refund"], title=title, reason=reason, evidence=evidence, severity=severity
    )
    found = message(event)
    assert len(found.title) <= 200
    assert len(found.body) <= 1_800
    assert (
        "Call: acme/happy" in found.body
        or "通话：acme/happy" in found.body
        or (found.body.endswith("…"))
    )


# Fields


@pytest.mark.parametrize("name", ENRICHED_NAMES)
def test_every_source_has_a_plain_value_or_none(name: str) -> None:
    for source in SOURCES:
        found = values(ENRICHED[name], {"x": source})
        assert all(isinstance(value, str | int | float) for value in found.values()), source


def test_sources_by_name() -> None:
    event = ENRICHED["stated"]
    event = replace(event, call=replace(event.call, attributes={"tier": "gold", "none": ""}))
    found = values(
        event,
        {"a": "score", "b": "topics", "c": "attributes.tier", "d": "attributes.none", "e": "=Done",
         "f": "agent_name", "g": "resolution", "h": "crm_ref", "i": "date", "j": "sentiment_end"},
    )  # fmt: skip
    assert found == {
        "a": 70.0, "b": "refund", "c": "gold", "e": "Done", "f": "Dana Reed", "g": "FOLLOW_UP",
        "i": "2026-03-02", "j": 0.5,
    }  # fmt: skip
    assert problem_with_source("attributes.") is not None
    assert "topics" in (problem_with_source("topic") or "")
