"""Notify: alerts and enriched calls to one endpoint outside, in the order of the call."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Protocol

from schemas.events import AlertRaised, CallEnriched, CallErased, CallNotified
from schemas.topics import ALERTS, ENRICHED, ERASED, NOTIFIED, REPLAY
from services.notify import chat, webhook
from services.notify.endpoints import SEVERITIES, Endpoint
from services.notify.marks import Mark, Marks, order_of
from services.notify.pace import Busy, Gate, Turns
from services.notify.settings import NotifySettings
from services.runtime.addresses import Resolve, system_addresses
from services.runtime.errors import Invalid, NotYet, Transient
from services.runtime.objects import Objects
from services.runtime.process import RETRY_TOPICS, sound_time
from services.runtime.stage import Envelope, Output, Stage, each, utc_now

PREFIX = "notify."
"""The stage of an endpoint is this and its name."""

# So often, and while it takes so many others, an endpoint fails on an event itself.
_TRIES_ALONE = 5
_TAKEN_MEANWHILE = 3

Told = AlertRaised | CallEnriched


class Send(Protocol):
    """Gives an event to the endpoint; what it answers. Raises Invalid or Transient."""

    def __call__(self, event: Told, event_id: str, time: datetime, now: datetime) -> str: ...


def sender(
    endpoint: Endpoint, settings: NotifySettings, resolve: Resolve = system_addresses
) -> Send:
    """How `endpoint` is told."""
    if endpoint.kind != "apprise":
        return partial(_over_http, endpoint, settings, resolve)
    return partial(_over_apprise, endpoint)


def _over_http(
    endpoint: Endpoint, settings: NotifySettings, resolve: Resolve, event: Told, event_id: str,
    time: datetime, now: datetime,
) -> str:  # fmt: skip
    return webhook.send(endpoint, event, event_id, time, now, settings, resolve)


def _over_apprise(
    endpoint: Endpoint, event: Told, event_id: str, time: datetime, now: datetime
) -> str:
    assert isinstance(event, AlertRaised)
    (url,) = endpoint.url.values()
    return chat.send(
        url, event, where=endpoint.where, timeout_s=endpoint.timeout_s, language=endpoint.language
    )


def sources_of(endpoint: Endpoint) -> tuple[str, ...]:
    """What its stage reads: what it wants, and which calls are to be forgotten."""
    topics = {"alert": ALERTS, "enriched": ENRICHED}
    return (*(topics[name] for name in topics if name in endpoint.events), ERASED)


def stage(
    endpoint: Endpoint,
    objects: Objects,
    settings: NotifySettings,
    clock: Callable[[], datetime] = utc_now,
    send: Send | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Stage:
    """The stage `notify.<endpoint>`: each event that the endpoint wants goes out once, as far as
    can be told, and the events of a call in their order; what was taken is a CallNotified. So is
    what has waited until the endpoint had another in its place.

    What it does not take now waits and keeps its partition; what it will never take, and what is
    older than its patience and still not taken, is Invalid. What comes of a replay goes out only
    where the replay asks for side effects, and of a shadow generation never.
    """
    told = _Endpoint(
        endpoint,
        Marks(objects, endpoint.name, clock),
        settings,
        clock,
        send or sender(endpoint, settings),
        Gate(endpoint.rate, settings.pause_max_s, settings.retry_after_max_s, monotonic),
        Turns(monotonic),
    )
    told.start()
    return Stage(
        name=f"{PREFIX}{endpoint.name}",
        sources=sources_of(endpoint),
        targets=(NOTIFIED,),
        handle=each(told.handle, endpoint.at_once),
        batch=4 * endpoint.at_once,
    )


@dataclass(frozen=True, slots=True)
class _Endpoint:
    endpoint: Endpoint
    marks: Marks
    settings: NotifySettings
    clock: Callable[[], datetime]
    send: Send
    gate: Gate
    turns: Turns

    def start(self) -> None:
        """Note when the endpoint began, unless the store is away: then with the first event."""
        if self.endpoint.since is None:
            try:
                self.marks.since(self.settings.head_start_s)
            except Transient:
                return

    def handle(self, envelope: Envelope[Any]) -> list[Output]:
        event = envelope.event
        if isinstance(event, CallErased):
            self.marks.erase(event)
            return []
        if not self._wants(envelope):
            return []
        self.turns.take(envelope.message)
        try:
            found = self._told(envelope)
        except Transient as failure:
            final = self._final(envelope, failure)
            if final is None:
                raise
            self.turns.done(envelope.message)
            raise final from failure
        except Exception:
            self.turns.done(envelope.message)
            raise
        self.turns.done(envelope.message)
        return found

    def _told(self, envelope: Envelope[Told]) -> list[Output]:
        """Tell the endpoint, unless it knows; what is published of that."""
        if self._is_before_start(envelope) or self.marks.is_erased(envelope):
            return []
        known = self.marks.found(envelope)
        if known is not None and known.event_id == envelope.id:
            # Told before, and perhaps not published: the process may have ended in between.
            return [self._notified(envelope, known)]
        if known is not None:
            # What has waited in a tier is shown as waiting until something later is said of it.
            waited = envelope.message.topic in RETRY_TOPICS
            return [self._overtaken(envelope, known)] if waited else []
        with self.gate.passed():
            answer = self.send(envelope.event, envelope.id, envelope.time, self.clock())
        mark = Mark(
            event_id=envelope.id,
            order=order_of(envelope),
            at_ms=round(self.clock().timestamp() * 1000),
            answer=answer,
            attempts=self.turns.tries(envelope.message) + 1,
        )
        self.marks.put(envelope, mark)
        return [self._notified(envelope, mark)]

    def _wants(self, envelope: Envelope[Any]) -> bool:
        event, endpoint = envelope.event, self.endpoint
        if envelope.shadow or not envelope.side_effects:
            return False
        if endpoint.tenants and event.tenant_id not in endpoint.tenants:
            return False
        if isinstance(event, AlertRaised):
            queue = event.queue_id
            if endpoint.rules and event.rule not in endpoint.rules:
                return False
            # An unknown severity is of a newer schema: rather one too many.
            if event.severity in SEVERITIES and SEVERITIES.index(event.severity) < SEVERITIES.index(
                endpoint.min_severity
            ):
                return False
        elif isinstance(event, CallEnriched):
            queue = event.call.queue.id if event.call.queue else None
            # The same with what a language model says of it comes in a moment.
            if event.summary is not None and event.summary.pending:
                return False
        else:
            return False
        return not endpoint.queues or queue in endpoint.queues

    def _is_before_start(self, envelope: Envelope[Told]) -> bool:
        """Whether an event is older than the endpoint: nobody wants a month of calls."""
        if envelope.message.topic in (REPLAY, *RETRY_TOPICS):
            return False
        since = self.endpoint.since
        if since is None:
            since = self.marks.since(self.settings.head_start_s)
        return envelope.time < since

    def _final(self, envelope: Envelope[Told], failure: Transient) -> Exception | None:
        """What ends the wait for the endpoint; None where it goes on."""
        message, endpoint = envelope.message, self.endpoint
        since = envelope.time
        if message.topic in (REPLAY, *RETRY_TOPICS):
            since = max(since, sound_time(message.timestamp_ms) or since)
        old = self.clock() - since
        if not isinstance(failure, Busy):
            return None
        if old > timedelta(hours=endpoint.patience_h):
            return Invalid(
                "notification_expired",
                f"not taken within {endpoint.patience_h:g} h; the last: {failure}",
            )
        tries, seconds, others = self.turns.failed(message, self.gate.taken)
        if (
            tries >= _TRIES_ALONE
            and others >= _TAKEN_MEANWHILE
            and seconds >= self.settings.alone_s
        ):
            return NotYet(failure.reason, f"{failure.detail}; others are taken meanwhile")
        return None

    def _overtaken(self, envelope: Envelope[Told], known: Mark) -> Output:
        """That it has another event in place of this one."""
        now_ms = round(self.clock().timestamp() * 1000)
        mark = replace(known, at_ms=now_ms, attempts=0, answer="")
        return self._notified(envelope, mark, overtaken_by=known.event_id)

    def _notified(
        self, envelope: Envelope[Told], mark: Mark, overtaken_by: str | None = None
    ) -> Output:
        event = envelope.event
        if isinstance(event, AlertRaised):
            rule, handed_in = event.rule, event.call_published_at
        else:
            rule, handed_in = "", event.call.published_at
        return Output(
            CallNotified(
                tenant_id=event.tenant_id,
                call_id=event.call_id,
                revision=event.revision,
                endpoint=self.endpoint.name,
                event_id=envelope.id,
                record=type(event).__name__,
                notified_at=mark.at,
                rule=rule,
                attempts=mark.attempts,
                answer=mark.answer,
                overtaken_by=overtaken_by,
                call_published_at=handed_in,
            )
        )
