"""Messages to people over DingTalk, WeCom, Feishu, Slack, e-mail, SMS ... The importer of apprise.

Apprise makes its connections itself: no address is checked, and of a failure it tells that there
was one. Its URL is the operator's own word.
"""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING

from schemas.events import AlertRaised, Severity
from services.notify.pace import Busy
from services.notify.wording import message

if TYPE_CHECKING:
    from apprise import AppriseAsset, NotifyBase

_loading = threading.Lock()


def problem_with(url: str) -> str | None:
    """Why apprise cannot send to `url`, without anything of it; None where it can."""
    try:
        found = _service(url)
    except Exception as error:  # a plugin's own; its text may hold the URL
        return f"apprise refuses it ({type(error).__name__})"
    return None if found is not None else "apprise knows no such service, or it lacks a part"


def send(url: str, event: AlertRaised, *, where: str, timeout_s: float, language: str) -> str:
    """Tell `event`; what became of it. Blocks `timeout_s` at most, and a little.

    `where` is what may be told of `url`; an empty `language` is that of the words quoted. Raises
    Busy (`not_notified`) for any failure: apprise does not tell of which kind.
    """
    import apprise

    # One for each message: apprise slows down those that come from one.
    service = _service(url)
    if service is None:
        raise Busy("not_notified", f"{where}: apprise does not take the URL")
    service.redirects = False
    service.socket_connect_timeout = min(timeout_s, 5.0)
    service.socket_read_timeout = timeout_s
    through = apprise.Apprise(asset=_asset())
    through.add(service)
    mild = event.severity in (Severity.LOW, Severity.MEDIUM)
    told = message(event, language)
    result = through.notify(
        body=told.body,
        title=told.title,
        notify_type=apprise.NotifyType.WARNING if mild else apprise.NotifyType.FAILURE,
        body_format=apprise.NotifyFormat.TEXT,
        interpret_escapes=False,
        timeout=timeout_s,
    )
    if not result:
        raise Busy("not_notified", f"{where}: apprise tells of a {result.status.name.lower()}")
    return "sent"


def _service(url: str) -> NotifyBase | None:
    import apprise

    # Its services are loaded when the first is asked for, and one names a module that goes away.
    with _loading, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return apprise.Apprise.instantiate(url, asset=_asset())


def _asset() -> AppriseAsset:
    import apprise

    return apprise.AppriseAsset(
        app_id="Callstream",
        app_desc="Callstream",
        app_url="",
        storage_mode=apprise.PersistentStoreMode.MEMORY,
    )
