"""Where alerts and enriched calls go: the endpoints, as `endpoints.yaml` names them."""

from __future__ import annotations

import base64
import binascii
import os
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import SplitResult, urlsplit

import httpx

from schemas.events import AlertRaised, CallEnriched, Severity
from services.notify import chat
from services.notify.crm import HUBSPOT_FIELDS, SALESFORCE_FIELDS
from services.notify.fields import problem_with_source
from services.notify.settings import NotifySettings
from services.runtime.addresses import forbidden
from services.runtime.errors import Transient
from services.runtime.yaml_file import FileError, Item, read_yaml

Kind = Literal["webhook", "apprise", "hubspot", "salesforce"]
KINDS: tuple[Kind, ...] = ("webhook", "apprise", "hubspot", "salesforce")
EVENTS: Mapping[str, type] = {"alert": AlertRaised, "enriched": CallEnriched}
SEVERITIES = (Severity.LOW, Severity.MEDIUM, Severity.HIGH, Severity.CRITICAL)
LANGUAGES = ("en", "zh")

_SECRETS = 4
_HUBSPOT = "https://api.hubapi.com"
_ENVIRONMENT = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_REQUIRED = ("name", "kind", "url")
_FILTERS = ("events", "tenants", "queues", "since")
_ALERTS = ("min_severity", "rules")
_PACE = ("rate", "timeout_s", "patience_h", "at_once")
_HTTP = ("secret", "allow_private", "ca_file")
# Keys of each kind, beside those that all have.
_KEYS: Mapping[Kind, tuple[str, ...]] = {
    "webhook": (*_HTTP, *_ALERTS, "form"),
    "apprise": (*_ALERTS, "language"),
    "hubspot": (*_HTTP, "external_id", "fields"),
    "salesforce": (*_HTTP, "external_id", "fields", "object", "api"),
}
_TAKES: Mapping[Kind, frozenset[str]] = {
    "webhook": frozenset(EVENTS),
    "apprise": frozenset(("alert",)),
    "hubspot": frozenset(("enriched",)),
    "salesforce": frozenset(("enriched",)),
}
_SALESFORCE_NAME = r"[A-Za-z][A-Za-z0-9_]{0,79}"


@dataclass(frozen=True, slots=True)
class Secret:
    """Words that nobody else is to read. Those from files are read anew whenever they are used,
    so that one may be changed without a restart; no text of this holds any.
    """

    words: tuple[str, ...] = field(default=(), repr=False)
    """As the file of endpoints has them, the environment's filled in; `file:/path` names a file."""

    def values(self) -> list[str]:
        """The words themselves. Raises Transient (`secret_unreadable`)."""
        return [_read(word) for word in self.words]


def _read(word: str) -> str:
    if not word.startswith("file:"):
        return word
    path = word.removeprefix("file:")
    try:
        text = Path(path).read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise Transient("secret_unreadable", f"{path}: {error}") from error
    if not text or not text.isprintable():
        raise Transient("secret_unreadable", f"{path}: holds no single line of text")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One receiver, and what it gets. Empty `tenants`, `queues` and `rules` let all through."""

    name: str
    kind: Kind
    url: Secret = field(repr=False)
    """It may hold a token; `where` is what is told of it."""
    where: str
    """The receiver without anything that is secret: scheme and host, or the service."""
    secret: Secret = Secret()
    events: frozenset[str] = frozenset(EVENTS)
    """Of EVENTS."""
    form: Literal["event", "vcon"] = "event"
    tenants: frozenset[str] = frozenset()
    queues: frozenset[str] = frozenset()
    min_severity: Severity = Severity.LOW
    rules: frozenset[str] = frozenset()
    since: datetime | None = None
    """What is older is not sent; None: what was made before its first start."""
    rate: int | None = None
    """Most requests per minute."""
    timeout_s: float = 10.0
    """For one request, its answer included."""
    patience_h: float = 72.0
    """How old an event may become before it is given up."""
    at_once: int = 4
    """Calls at once; the events of one call go one after another."""
    allow_private: bool = False
    ca_file: Path | None = None
    external_id: str = ""
    """The CRM's property or field that holds our id of a call."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """The CRM's field -> source, see services/notify/crm.py."""
    object: str = "Task"
    """Of Salesforce: the object that a call is kept as."""
    api: str = "v62.0"
    """Of Salesforce: the version of its API."""
    language: str = ""
    """Of messages; empty: that of the words quoted."""
    tls: ssl.SSLContext | None = field(default=None, repr=False, compare=False)


def load_endpoints(settings: NotifySettings) -> Sequence[Endpoint]:
    """The endpoints of `settings.endpoints_file`; none where no file is set.

    Raises FileError, which tells file, line, key and what is allowed, of each endpoint that cannot
    be used, and no secret.
    """
    path = settings.endpoints_file
    if path is None:
        return ()
    root = read_yaml(path, str(path)).fields(("endpoints",))
    found: dict[str, Endpoint] = {}
    mistakes: list[str] = []
    for item in root["endpoints"].listed():
        try:
            made = _endpoint(item)
            if made.name in found:
                raise item.error(f"name {made.name!r} stands twice; each endpoint has its own")
            found[made.name] = made
        except FileError as error:
            mistakes += error.mistakes
    if mistakes:
        raise FileError(*mistakes)
    return tuple(found.values())


def _endpoint(item: Item) -> Endpoint:
    kind = cast(Kind, _entry(item, "kind").choice(KINDS))
    required = tuple(key for key in _REQUIRED if key != "url" or kind != "hubspot")
    optional = (*_FILTERS, *_PACE, *_KEYS[kind], *(("url",) if kind == "hubspot" else ()))
    entries = item.fields(required, optional)
    name = entries["name"]
    if not re.fullmatch(r"[a-z0-9-]{1,40}", name.text()):
        raise name.error(f"{name.text()!r} is no name: 1 to 40 of a-z, 0-9 and '-'")
    allow_private = _flag(entries.get("allow_private"))
    events = _events(entries.get("events"), kind)
    if "form" in entries and "enriched" not in events:
        raise entries["form"].error("is of enriched calls, and `events` has none")
    if "alert" not in events:
        for key in _ALERTS:
            if key in entries:
                raise entries[key].error("concerns alerts, and `events` has none")
    found: dict[str, Any] = {
        "name": name.text(),
        "kind": kind,
        "url": Secret((_HUBSPOT,)),
        "where": _HUBSPOT,
        "events": events,
        "tenants": _set(entries.get("tenants")),
        "queues": _set(entries.get("queues")),
        "rules": _set(entries.get("rules")),
        "allow_private": allow_private,
        **_numbers(entries),
        **_choices(entries, kind),
    }
    if "url" in entries:
        found["url"] = url = _secrets(entries["url"])
        found["where"] = _where(entries["url"], url, kind, allow_private)
    if kind != "apprise":
        found["secret"] = _keys(item, entries, kind)
        found["ca_file"], found["tls"] = _tls(entries.get("ca_file"))
    return Endpoint(**found)


def _entry(item: Item, key: str) -> Item:
    entries = item.entries()
    if key not in entries:
        raise item.error(f"lacks {key!r}")
    return entries[key]


def _set(item: Item | None) -> frozenset[str]:
    return frozenset() if item is None else frozenset(item.texts())


def _flag(item: Item | None) -> bool:
    return item is not None and item.choice(("true", "false")) == "true"


def _events(item: Item | None, kind: Kind) -> frozenset[str]:
    if item is None:
        return _TAKES[kind]
    found = item.choices(tuple(EVENTS))
    if left := found - _TAKES[kind]:
        raise item.error(
            f"{', '.join(sorted(left))}: {kind} takes {', '.join(sorted(_TAKES[kind]))} alone"
        )
    if not found:
        raise item.error("is empty; write at least one")
    return found


def _numbers(entries: Mapping[str, Item]) -> dict[str, object]:
    found: dict[str, object] = {}
    if (rate := entries.get("rate")) is not None:
        found["rate"] = rate.integer(1, 100_000)
    if (timeout := entries.get("timeout_s")) is not None:
        found["timeout_s"] = timeout.number(0.1, 120)
    if (patience := entries.get("patience_h")) is not None:
        found["patience_h"] = patience.number(0.01, 24 * 29)
    if (at_once := entries.get("at_once")) is not None:
        found["at_once"] = at_once.integer(1, 64)
    if (since := entries.get("since")) is not None:
        found["since"] = _time(since)
    return found


def _time(item: Item) -> datetime:
    try:
        found = datetime.fromisoformat(item.text())
    except ValueError:
        raise item.error(
            f"{item.text()!r} is no time; write one such as 2026-03-02T09:00:00Z"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _choices(entries: Mapping[str, Item], kind: Kind) -> dict[str, object]:
    found: dict[str, object] = {}
    if (form := entries.get("form")) is not None:
        found["form"] = form.choice(("event", "vcon"))
    if (language := entries.get("language")) is not None:
        found["language"] = language.choice(LANGUAGES)
    if (severity := entries.get("min_severity")) is not None:
        found["min_severity"] = Severity(severity.choice([str(each) for each in SEVERITIES]))
    if kind in ("hubspot", "salesforce"):
        found |= _crm(entries, kind)
    return found


def _crm(entries: Mapping[str, Item], kind: Kind) -> dict[str, object]:
    salesforce = kind == "salesforce"
    found: dict[str, object] = {
        "external_id": "Callstream_Id__c" if salesforce else "callstream_id",
        "fields": SALESFORCE_FIELDS if salesforce else HUBSPOT_FIELDS,
    }
    name = _SALESFORCE_NAME if salesforce else r"[a-z][a-z0-9_]{0,99}"
    for key in ("external_id", "object"):
        if (item := entries.get(key)) is not None:
            if not re.fullmatch(name, item.text()):
                raise item.error(f"{item.text()!r} is no name of {kind}'s")
            found[key] = item.text()
    if (api := entries.get("api")) is not None:
        if not re.fullmatch(r"v[0-9]{2}\.0", api.text()):
            raise api.error(f"{api.text()!r} is no version; write one such as v62.0")
        found["api"] = api.text()
    if (fields := entries.get("fields")) is not None:
        chosen = {}
        for target, item in fields.entries().items():
            if not re.fullmatch(name, target):
                raise item.error(f"{target!r} is no name of {kind}'s")
            if problem := problem_with_source(item.text()):
                raise item.error(problem)
            chosen[target] = item.text()
        found["fields"] = chosen
    return found


# --- what is secret -------------------------------------------------------------------------------


def _secrets(item: Item) -> Secret:
    """The words of `item`, with the environment's filled in. No error shows one."""
    words = item.items()
    if not 1 <= len(words) <= _SECRETS:
        raise item.error(f"holds {len(words)}; write 1 to {_SECRETS}")
    return Secret(tuple(_filled(word) for word in words))


def _filled(item: Item) -> str:
    def value(found: re.Match[str]) -> str:
        name = found.group(1)
        said = os.environ.get(name)
        if not said:
            raise item.error(f"${{{name}}}: the environment has no {name}; set it")
        return said

    text = _ENVIRONMENT.sub(value, item.text())
    if text.startswith("file:"):
        try:
            _read(text)
        except Transient as failure:
            raise item.error(f"cannot be read: {failure.detail}") from None
    elif not text.isprintable():
        raise item.error("holds what cannot be printed; write one line of text")
    return text


def _keys(item: Item, entries: Mapping[str, Item], kind: Kind) -> Secret:
    if "secret" not in entries:
        what = "whsec_... that its receiver verifies by" if kind == "webhook" else "access token"
        raise item.error(f"lacks 'secret': the {what}; ${{NAME}} and file:/path are taken too")
    written = entries["secret"]
    secret = _secrets(written)
    if kind != "webhook" and len(secret.words) > 1:
        raise written.error(f"holds {len(secret.words)}; {kind} has one access token")
    for word, at in zip(secret.values(), written.items(), strict=True):
        if kind == "webhook":
            if signing_key(word) is None:
                raise at.error(
                    "is no secret of Standard Webhooks: whsec_ and 24 to 64 bytes as base64; make "
                    'one with: echo "whsec_$(openssl rand -base64 32)"'
                )
        elif not word.isascii() or " " in word:
            raise at.error("is no access token: it holds what no header may")
    return secret


def signing_key(secret: str) -> bytes | None:
    """The key that `whsec_...` holds; None where it is none of Standard Webhooks'."""
    head, _, text = secret.partition("whsec_")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if not head and 24 <= len(key) <= 64 else None


# --- where it is ----------------------------------------------------------------------------------


def _where(item: Item, url: Secret, kind: Kind, allow_private: bool) -> str:
    """What may be told of `url`. Raises FileError, which shows nothing of it."""
    if len(url.words) != 1:
        raise item.error("holds several; an endpoint has one URL, and each receiver its endpoint")
    (text,) = url.values()
    if kind == "apprise":
        scheme = text.partition("://")[0]
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) or "://" not in text:
            raise item.error("is no URL of apprise, such as slack://..., mailto://...")
        if problem := chat.problem_with(text):
            raise item.error(f"{scheme}://...: {problem}")
        return scheme
    parts = _parts(item, text)
    if parts.scheme != "https" and not allow_private:
        raise item.error("is not https; plain http needs allow_private: true")
    if kind != "webhook" and (parts.path.strip("/") or parts.query):
        raise item.error(f"is more than a host: {kind}'s paths are known")
    host = parts.hostname or ""
    try:
        reason = forbidden(str(ip_address(host)), allow_private)
    except ValueError:  # a name: looked up, and checked, when it is connected to
        reason = None
    if reason is not None:
        lifts = "" if forbidden(host, allow_private=True) else "; allow_private: true allows it"
        raise item.error(f"{host} is forbidden ({reason}){lifts}")
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}"


def _parts(item: Item, text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        _ = parts.port
        sound = (
            text.isascii()
            and text.isprintable()
            and " " not in text
            and parts.scheme in ("http", "https")
            and bool(re.fullmatch(r"[A-Za-z0-9._-]+|[0-9a-fA-F:.]+", parts.hostname or ""))
        )
    except ValueError:
        sound = False
    if not sound:
        raise item.error("is no URL; write https://HOST/PATH in ASCII")
    if parts.username is not None or parts.password is not None:
        raise item.error("holds a user; what it is asked with goes into secret")
    if parts.fragment:
        raise item.error("has a fragment (#...), which is never sent")
    return parts


def _tls(item: Item | None) -> tuple[Path | None, ssl.SSLContext]:
    made = httpx.create_ssl_context(trust_env=False)
    if item is None:
        return None, made
    path = Path(item.text())
    try:
        made.load_verify_locations(path)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise item.error(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return path, made
