"""`endpoints.yaml`: what it may say, and how a mistake in it is told."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.events import Severity
from services.notify.endpoints import Endpoint, load_endpoints, signing_key
from services.notify.settings import NotifySettings
from services.runtime.errors import Transient
from services.runtime.yaml_file import FileError
from tests.notify.receiver import OTHER_SECRET, SECRET

ROOT = Path(__file__).parents[2]

WEBHOOK = {"name": "crm", "kind": "webhook", "url": "https://crm.example.com/h", "secret": SECRET}
TOKEN = "pat-na1-0123456789"


def load(path: Path, *endpoints: object) -> list[Endpoint]:
    path.write_text(yaml.safe_dump({"endpoints": list(endpoints)}, sort_keys=False))
    return list(load_endpoints(NotifySettings(endpoints_file=path)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "endpoints.yaml"


def test_without_a_file_there_are_none() -> None:
    assert load_endpoints(NotifySettings()) == ()


def test_what_is_not_said(file: Path) -> None:
    (made,) = load(file, WEBHOOK)
    assert (made.name, made.kind, made.form) == ("crm", "webhook", "event")
    assert made.events == {"alert", "enriched"}
    assert (made.rate, made.patience_h, made.min_severity) == (None, 72.0, Severity.LOW)
    assert not made.allow_private
    assert made.where == "https://crm.example.com"
    assert made.secret.values() == [SECRET]


def test_everything_said(file: Path) -> None:
    (made,) = load(
        file,
        {
            **WEBHOOK,
            "secret": [SECRET, OTHER_SECRET],
            "events": ["alert", "enriched"],
            "form": "vcon",
            "tenants": ["acme"],
            "queues": ["support", "sales"],
            "min_severity": "HIGH",
            "rules": ["angry_refund"],
            "since": "2026-03-02T09:00:00",
            "rate": 60,
            "timeout_s": 3,
            "patience_h": 1.5,
            "at_once": 8,
            "allow_private": True,
        },
    )
    assert made.secret.values() == [SECRET, OTHER_SECRET]
    assert (made.events, made.form) == (frozenset({"alert", "enriched"}), "vcon")
    assert (made.tenants, made.queues) == (frozenset({"acme"}), frozenset({"support", "sales"}))
    assert (made.min_severity, made.rules) == (Severity.HIGH, frozenset({"angry_refund"}))
    assert made.since == datetime(2026, 3, 2, 9, tzinfo=UTC)
    assert (made.rate, made.timeout_s, made.patience_h, made.at_once) == (60, 3.0, 1.5, 8)
    assert made.allow_private


def test_crms_have_maps_of_their_own(file: Path) -> None:
    hubspot, salesforce = load(
        file,
        {"name": "hub", "kind": "hubspot", "secret": TOKEN},
        {"name": "sf", "kind": "salesforce", "url": "https://acme.my.salesforce.com",
         "secret": TOKEN, "object": "Call__c", "external_id": "Ext__c", "api": "v61.0",
         "fields": {"Name": "title", "Tier__c": "attributes.tier", "State__c": "=done"}},
    )  # fmt: skip
    assert hubspot.where == "https://api.hubapi.com"
    assert (hubspot.external_id, hubspot.events) == ("callstream_id", frozenset({"enriched"}))
    assert hubspot.fields["hs_timestamp"] == "started_at"
    assert (salesforce.object, salesforce.external_id, salesforce.api) == (
        "Call__c", "Ext__c", "v61.0",
    )  # fmt: skip
    assert salesforce.fields == {
        "Name": "title", "Tier__c": "attributes.tier", "State__c": "=done"
    }  # fmt: skip


def test_secrets_need_not_stand_in_the_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "token"
    kept.write_text(TOKEN + "\n")
    monkeypatch.setenv("CRM_SECRET", SECRET)
    monkeypatch.setenv("SLACK_TOKEN", "T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ")
    crm, hub, slack = load(
        file,
        {**WEBHOOK, "secret": "${CRM_SECRET}"},
        {"name": "hub", "kind": "hubspot", "secret": f"file:{kept}"},
        {"name": "slack", "kind": "apprise", "url": "slack://${SLACK_TOKEN}"},
    )
    assert crm.secret.values() == [SECRET]
    assert hub.secret.values() == [TOKEN]
    assert slack.url.values()[0].startswith("slack://T1JJ3T3L2/")
    assert slack.where == "slack"
    # It is read whenever it is used: another token needs no restart.
    kept.write_text("pat-na1-new")
    assert hub.secret.values() == ["pat-na1-new"]
    kept.unlink()
    with pytest.raises(Transient, match="secret_unreadable") as caught:
        hub.secret.values()
    assert TOKEN not in str(caught.value)


def test_no_text_of_an_endpoint_shows_a_secret(file: Path) -> None:
    made = load(
        file,
        WEBHOOK,
        {"name": "slack", "kind": "apprise", "url": f"json://user:{TOKEN}@example.com"},
    )
    told = repr(made)
    assert SECRET not in told
    assert TOKEN not in told


WRONG = [
    ({"name": "CRM"}, "name", "1 to 40"),
    ({"name": "a" * 41}, "name", "1 to 40"),
    ({"kind": "carrier-pigeon"}, "kind", "apprise, hubspot, salesforce, webhook"),
    ({"urls": "x"}, "urls", "did you mean url? allowed are name, kind, url, events"),
    ({"min_severety": "LOW"}, "min_severety", "did you mean min_severity? "),
    ({"url": "https://"}, "url", "https://HOST/PATH"),
    ({"url": "ftp://crm.example.com"}, "url", "https://HOST/PATH"),
    ({"url": "https://crm.example.com/ä"}, "url", "ASCII"),
    ({"url": "https://crm.example.com:99999/"}, "url", "https://HOST/PATH"),
    ({"url": "http://crm.example.com"}, "url", "not https"),
    ({"url": "https://me:pw@crm.example.com"}, "url", "holds a user"),
    ({"url": "https://crm.example.com/#x"}, "url", "fragment"),
    ({"url": ["https://a.example", "https://b.example"]}, "url", "several"),
    ({"url": "https://127.0.0.1/"}, "url", "allow_private: true allows it"),
    ({"url": "https://[::ffff:10.0.0.1]/"}, "url", "forbidden"),
    ({"url": "https://169.254.169.254/", "allow_private": True}, "url", "cloud metadata"),
    ({"secret": "hunter2-hunter2"}, "secret", "whsec_"),
    ({"secret": "whsec_c2hvcnQ="}, "secret", "24 to 64 bytes"),
    ({"secret": [SECRET] * 5}, "secret", "1 to 4"),
    ({"secret": "${NO_SUCH_VARIABLE}"}, "secret", "set it"),
    ({"secret": "file:/no/such/file"}, "secret", "cannot be read"),
    ({"events": ["alerts"]}, "events", "allowed are alert, enriched"),
    ({"events": []}, "events", "at least one"),
    ({"events": ["enriched"], "rules": ["x"]}, "rules", "concerns alerts"),
    ({"min_severity": "LOUD"}, "min_severity", "CRITICAL, HIGH, LOW, MEDIUM"),
    ({"form": "xml"}, "form", "event, vcon"),
    ({"form": "vcon", "events": ["alert"]}, "form", "is of enriched calls"),
    ({"rate": 0}, "rate", "1 to 100000"),
    ({"rate": 1.5}, "rate", "whole number"),
    ({"timeout_s": 1000}, "timeout_s", "0.1 to 120"),
    ({"patience_h": 10_000}, "patience_h", "out of range"),
    ({"since": "yesterday"}, "since", "2026-03-02T09:00:00Z"),
    ({"allow_private": "perhaps"}, "allow_private", "false, true"),
    ({"ca_file": "/no/such.pem"}, "ca_file", "/no/such.pem"),
    ({"language": "en"}, "language", "not known here"),
]


@pytest.mark.parametrize(("changes", "key", "told"), WRONG, ids=str)
def test_a_mistake_is_told_with_line_and_mend(
    file: Path, changes: dict[str, object], key: str, told: str
) -> None:
    with pytest.raises(FileError) as caught:
        load(file, {**WEBHOOK, "name": "first"}, {**WEBHOOK, **changes})
    text = str(caught.value)
    line = int(text.removeprefix(f"{file}:").partition(":")[0])
    assert line > 5  # of the second
    assert f"endpoints[1].{key}" in text
    assert told in text
    assert "hunter2" not in text


def test_every_endpoint_that_cannot_be_used_is_told(file: Path) -> None:
    with pytest.raises(FileError) as caught:
        load(
            file, {**WEBHOOK, "urls": "x", "rates": 3}, {**WEBHOOK, "name": "b"},
            {**WEBHOOK, "name": "c", "rate": 0}, {**WEBHOOK, "name": "b"},
        )  # fmt: skip
    told = [text.split(": ")[1] for text in caught.value.mistakes]
    assert told == ["endpoints[0].urls", "endpoints[0].rates", "endpoints[2].rate", "endpoints[3]"]
    assert str(caught.value).splitlines() == list(caught.value.mistakes)


@pytest.mark.parametrize("key", ["name", "kind", "url", "secret"])
def test_what_is_missing_is_told(file: Path, key: str) -> None:
    with pytest.raises(FileError, match=f"lacks '{key}'"):
        load(file, {name: value for name, value in WEBHOOK.items() if name != key})


def test_a_name_stands_once(file: Path) -> None:
    with pytest.raises(FileError, match="'crm' stands twice"):
        load(file, WEBHOOK, WEBHOOK)


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [
        ({"name": "a", "kind": "apprise", "url": "no url"}, "no URL of apprise"),
        ({"name": "a", "kind": "apprise", "url": f"nosuch://{TOKEN}"}, "knows no such service"),
        ({"name": "a", "kind": "apprise", "url": "json://h", "events": "enriched"}, "takes alert"),
        ({"name": "h", "kind": "hubspot", "secret": TOKEN, "events": "alert"}, "takes enriched"),
        ({"name": "h", "kind": "hubspot", "secret": "two words"}, "no access token"),
        ({"name": "h", "kind": "hubspot", "secret": [TOKEN, TOKEN]}, "one access token"),
        ({"name": "h", "kind": "hubspot", "secret": TOKEN, "fields": {"x": "nothing"}},
         "'nothing' is no source"),
        ({"name": "h", "kind": "hubspot", "secret": TOKEN, "fields": {"X y": "title"}},
         "'X y' is no name"),
        ({"name": "s", "kind": "salesforce", "secret": TOKEN}, "lacks 'url'"),
        ({"name": "s", "kind": "salesforce", "secret": TOKEN, "url": "https://x.example/services"},
         "more than a host"),
        ({"name": "s", "kind": "salesforce", "secret": TOKEN, "url": "https://x.example",
          "object": "Task/../User"}, "is no name"),
        ({"name": "s", "kind": "salesforce", "secret": TOKEN, "url": "https://x.example",
          "api": "62"}, "v62.0"),
    ],
)  # fmt: skip
def test_a_mistake_of_each_kind(file: Path, endpoint: dict[str, object], told: str) -> None:
    with pytest.raises(FileError) as caught:
        load(file, endpoint)
    assert told in str(caught.value)
    assert TOKEN not in str(caught.value)


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(
    ["name", "kind", "url", "secret", "events", "form", "tenants", "queues", "min_severity",
     "rules", "rate", "timeout_s", "patience_h", "at_once", "allow_private", "since", "fields",
     "external_id", "object", "api", "language"]
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=6), st.sampled_from(["webhook", "hubspot"]))
def test_any_file_gives_endpoints_or_a_line(
    file: Path, changes: dict[str, object], kind: str
) -> None:
    found: list[Endpoint] = []
    told = ""
    try:
        found = load(file, {**WEBHOOK, "kind": kind, **changes})
    except FileError as error:
        told = str(error)
    where = re.escape(str(file))
    assert len(found) == 1 or re.match(rf"{where}:[0-9]+: endpoints(\[0\])?", told)
    assert SECRET not in told


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_a_secret_is_what_the_standard_says(key: bytes) -> None:
    text = "whsec_" + base64.b64encode(key).decode()
    assert signing_key(text) == (key if 24 <= len(key) <= 64 else None)
    assert signing_key(text.removeprefix("whsec_")) is None


@pytest.mark.parametrize("number", range(3))
def test_the_examples_of_the_documents_load(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every YAML block of docs/notifying.md is a file of endpoints."""
    text = (ROOT / "docs" / "notifying.md").read_text("utf-8")
    blocks = [part.partition("```")[0] for part in text.split("```yaml\n")[1:]]
    assert len(blocks) == 3
    kept = tmp_path / "token"
    kept.write_text(TOKEN)
    for name, value in (
        ("CRM_WEBHOOK_SECRET", SECRET),
        ("CRM_WEBHOOK_SECRET_OLD", OTHER_SECRET),
        ("DINGTALK_TOKEN", "a" * 64),
        ("SMTP_PASSWORD", "secret"),
        ("HUBSPOT_TOKEN", TOKEN),
    ):
        monkeypatch.setenv(name, value)
    path = tmp_path / "endpoints.yaml"
    path.write_text(blocks[number].replace("file:/run/secrets/salesforce", f"file:{kept}"))
    assert load_endpoints(NotifySettings(endpoints_file=path))
