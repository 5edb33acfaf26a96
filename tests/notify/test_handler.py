"""What goes out, what does not, and what is said of it: the stage's handler, without a log."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from schemas import events as e
from schemas.examples import EXAMPLES
from schemas.topics import ALERTS, ENRICHED, ERASED, NOTIFIED, REPLAY
from services.notify.endpoints import Endpoint, Secret
from services.notify.handler import stage
from services.notify.marks import PREFIX
from services.notify.pace import Busy
from services.notify.settings import NotifySettings
from services.runtime.errors import Invalid, NotYet, Transient
from services.runtime.log import Message
from services.runtime.objects import DirectoryObjects
from services.runtime.stage import Envelope, Outcome, Stage

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
ALERT: e.AlertRaised = EXAMPLES["AlertRaised"]["angry-refund"]
CALL: e.CallEnriched = EXAMPLES["CallEnriched"]["happy"]
TOPIC_OF: dict[type, str] = {e.AlertRaised: ALERTS, e.CallEnriched: ENRICHED, e.CallErased: ERASED}


@dataclass
class Side:
    """An endpoint outside; `failures` are raised first, in turn."""

    told: list[tuple[str, Any]] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    always: dict[str, Exception] = field(default_factory=dict)
    """Event id -> what it is always answered."""

    def __call__(self, event: Any, event_id: str, time: datetime, now: datetime) -> str:
        if event_id in self.always:
            raise self.always[event_id]
        if self.failures:
            raise self.failures.pop(0)
        self.told.append((event_id, event))
        return "204"

    @property
    def ids(self) -> list[str]:
        return [id for id, _ in self.told]


@dataclass
class Clock:
    now: datetime = NOW
    seconds: float = 1_000.0

    def __call__(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return self.seconds

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.seconds += seconds


@dataclass
class World:
    objects: DirectoryObjects
    clock: Clock = field(default_factory=Clock)
    side: Side = field(default_factory=Side)
    offset: int = 0

    def stage(self, settings: NotifySettings | None = None, **changes: Any) -> Stage:
        made = Endpoint(name="crm", kind="webhook", url=Secret(("https://crm.example/",)),
                        where="https://crm.example", at_once=1)  # fmt: skip
        return stage(
            replace(made, **changes),
            self.objects,
            settings or NotifySettings(),
            self.clock,
            self.side,
            self.clock.monotonic,
        )

    def envelope(self, event: Any, id: str, topic: str | None = None, **more: Any) -> Envelope[Any]:
        self.offset += 1
        key = f"{event.tenant_id}/{event.call_id}".encode()
        message = Message(topic or TOPIC_OF[type(event)], 0, self.offset, key, b"", (),
                          round(self.clock.now.timestamp() * 1000))  # fmt: skip
        return Envelope(event, message, id, **{"time": self.clock.now, **more})


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(DirectoryObjects(tmp_path / "objects"))


def outcomes(it: Stage, *envelopes: Envelope[Any]) -> list[Outcome]:
    found = dict(it.handle(envelopes))
    assert sorted(found) == list(range(len(envelopes)))
    return [found[index] for index in range(len(envelopes))]


def notified(outcome: Outcome) -> e.CallNotified:
    assert not isinstance(outcome, Exception), outcome
    (output,) = outcome
    assert isinstance(output.event, e.CallNotified)
    return output.event


def reason(outcome: Outcome) -> tuple[type, str]:
    assert isinstance(outcome, Invalid | Transient | NotYet)
    return type(outcome), outcome.reason


def test_what_the_stage_is(world: World) -> None:
    it = world.stage()
    assert (it.name, it.targets) == ("notify.crm", (NOTIFIED,))
    assert it.sources == (ALERTS, ENRICHED, ERASED)
    assert world.stage(events=frozenset({"alert"})).sources == (ALERTS, ERASED)


def test_what_is_taken_is_told(world: World) -> None:
    it = world.stage()
    alert, call = outcomes(it, world.envelope(ALERT, "a1"), world.envelope(CALL, "c1"))
    assert notified(alert) == e.CallNotified(
        tenant_id="acme", call_id="happy", revision=ALERT.revision, endpoint="crm", event_id="a1",
        record="AlertRaised", notified_at=NOW, rule="angry_refund", attempts=1, answer="204",
        call_published_at=ALERT.call_published_at,
    )  # fmt: skip
    assert notified(call).record == "CallEnriched"
    assert notified(call).rule == ""
    assert world.side.ids == ["a1", "c1"]


def test_every_example_twice_is_told_once_and_said_alike(world: World) -> None:
    it = world.stage()
    events = [
        (f"{record}-{name}", event)
        for record in ("AlertRaised", "CallEnriched")
        for name, event in EXAMPLES[record].items()
    ]
    envelopes = [world.envelope(event, id) for id, event in events]
    first = outcomes(it, *envelopes)
    world.clock.forward(3600)
    # Another process, as after a crash between the request and the commit.
    second = outcomes(world.stage(), *envelopes)
    assert first == second
    assert world.side.ids == [id for id, _ in events]
    assert all(not isinstance(outcome, Exception) and len(outcome) == 1 for outcome in first)


def test_an_amended_call_raises_its_alert_once(world: World) -> None:
    it = world.stage()
    amended = replace(ALERT, revision=ALERT.revision + 1)
    other = replace(ALERT, rule="other")
    found = outcomes(
        it, world.envelope(ALERT, "a1"), world.envelope(amended, "a2"), world.envelope(other, "a3")
    )
    assert world.side.ids == ["a1", "a3"]
    assert found[1] == []
    elsewhere = replace(ALERT, tenant_id="globex")
    outcomes(it, world.envelope(elsewhere, "a4"))
    assert world.side.ids[-1] == "a4"


def test_an_amended_call_is_told_again_and_never_an_older_one(world: World) -> None:
    it = world.stage()
    amended = replace(CALL, revision=CALL.revision + 1)
    found = outcomes(
        it, world.envelope(amended, "c2"), world.envelope(CALL, "c1"),
        world.envelope(replace(amended, revision=CALL.revision + 2), "c3"),
    )  # fmt: skip
    assert world.side.ids == ["c2", "c3"]
    assert found[1] == []


def test_the_summary_of_a_model_follows_and_is_the_one_told(world: World) -> None:
    assert CALL.summary is not None
    pending = replace(CALL, summary=replace(CALL.summary, pending=True))
    first = world.envelope(pending, "c1")
    world.clock.forward(20)
    found = outcomes(world.stage(), first, world.envelope(CALL, "c2"))
    assert found[0] == []
    assert world.side.ids == ["c2"]
    # What tells of no summary at all is told.
    outcomes(world.stage(), world.envelope(EXAMPLES["CallEnriched"]["silence"], "c3"))
    assert world.side.ids == ["c2", "c3"]


def test_a_replay_tells_nobody_unless_it_asks_to(world: World) -> None:
    it = world.stage()
    outcomes(it, world.envelope(ALERT, "a1"), world.envelope(CALL, "c1"))
    quiet = [
        world.envelope(event, f"{id}-{shadow}-{loud}", generation=3, shadow=shadow,
                       side_effects=loud)
        for id, event in (("a", ALERT), ("c", CALL))
        for shadow, loud in ((False, False), (True, True), (True, False))
    ]  # fmt: skip
    assert outcomes(it, *quiet) == [[]] * len(quiet)
    assert world.side.ids == ["a1", "c1"]
    asked = [world.envelope(ALERT, "a3", generation=3), world.envelope(CALL, "c3", generation=3)]
    assert all(notified(outcome) for outcome in outcomes(it, *asked))
    assert world.side.ids == ["a1", "c1", "a3", "c3"]


@pytest.mark.parametrize(
    ("changes", "events"),
    [
        ({"tenants": frozenset({"globex"})}, []),
        ({"tenants": frozenset({"acme"})}, ["alert", "call"]),
        ({"queues": frozenset({"sales"})}, []),
        ({"queues": frozenset({"support"})}, ["alert", "call"]),
        ({"rules": frozenset({"other"})}, ["call"]),
        ({"rules": frozenset({"angry_refund"})}, ["alert", "call"]),
        ({"min_severity": e.Severity.CRITICAL}, ["call"]),
        ({"min_severity": e.Severity.HIGH}, ["alert", "call"]),
    ],
    ids=str,
)
def test_what_an_endpoint_wants(world: World, changes: dict[str, Any], events: list[str]) -> None:
    it = world.stage(**changes)
    outcomes(it, world.envelope(ALERT, "alert"), world.envelope(CALL, "call"))
    assert world.side.ids == events


def test_a_severity_of_a_newer_schema_is_told(world: World) -> None:
    unknown = replace(ALERT, severity=e.Severity.UNKNOWN)
    outcomes(world.stage(min_severity=e.Severity.CRITICAL), world.envelope(unknown, "a1"))
    assert world.side.ids == ["a1"]


# Failures


def test_what_waits_is_told_later_with_its_attempts(world: World) -> None:
    it = world.stage()
    world.side.failures = [Busy("endpoint_fails", "503")] * 3
    envelope = world.envelope(CALL, "c1")
    for _ in range(3):
        (outcome,) = outcomes(it, envelope)
        assert reason(outcome) == (Busy, "endpoint_fails")
        world.clock.forward(100)
    (outcome,) = outcomes(it, envelope)
    assert notified(outcome).attempts == 4


def test_a_call_keeps_its_order_while_others_pass(world: World) -> None:
    it = world.stage()
    newer = replace(CALL, revision=CALL.revision + 1)
    other = replace(CALL, call_id="other", call=replace(CALL.call, call_id="other"))
    first, second = world.envelope(CALL, "c1"), world.envelope(newer, "c2")
    world.side.failures = [Busy("endpoint_fails", "503")]
    found = outcomes(it, first, second)
    assert [reason(outcome) for outcome in found] == [
        (Busy, "endpoint_fails"), (Transient, "behind_another"),
    ]  # fmt: skip
    world.clock.forward(100)
    found = outcomes(it, second, world.envelope(other, "o1"))
    assert reason(found[0]) == (Transient, "behind_another")
    assert world.side.ids == ["o1"]
    outcomes(it, first, second)
    assert world.side.ids == ["o1", "c1", "c2"]


def test_while_it_fails_one_event_alone_tries(world: World) -> None:
    it = world.stage()
    world.side.failures = [Busy("endpoint_down", "refused")] * 9
    calls = [replace(CALL, call_id=f"c{n}", call=replace(CALL.call, call_id=f"c{n}"))
             for n in range(5)]  # fmt: skip
    found = outcomes(it, *(world.envelope(call, call.call_id) for call in calls))
    assert reason(found[0]) == (Busy, "endpoint_down")
    assert {reason(outcome) for outcome in found[1:]} == {(Transient, "endpoint_waits")}
    assert len(world.side.failures) == 8


def test_an_event_ends_with_its_patience(world: World) -> None:
    it = world.stage(patience_h=2.0)
    envelope = world.envelope(CALL, "c1")
    newer = world.envelope(replace(CALL, revision=CALL.revision + 1), "c2")
    world.side.always = {"c1": Busy("endpoint_down", "refused")}
    world.clock.forward(7100)
    assert reason(outcomes(it, envelope)[0]) == (Busy, "endpoint_down")
    world.clock.forward(101)
    (outcome,) = outcomes(it, envelope)
    assert reason(outcome) == (Invalid, "notification_expired")
    assert "refused" in str(outcome)
    # What comes after it no longer waits for it.
    world.clock.forward(100)
    outcomes(it, newer)
    assert world.side.ids == ["c2"]
    # Old, and taken at once: nothing has expired.
    late = world.envelope(ALERT, "a1", time=world.clock.now - timedelta(hours=9))
    world.side.told.clear()
    assert notified(outcomes(world.stage(since=NOW - timedelta(days=9)), late)[0])


def test_an_event_that_it_fails_on_alone_holds_up_nobody(world: World) -> None:
    it = world.stage()
    bad = world.envelope(CALL, "bad")
    world.side.always = {"bad": Busy("endpoint_fails", "500")}
    for number in range(4):
        other = world.envelope(replace(CALL, call_id=f"o{number}"), f"o{number}")
        found = outcomes(it, bad, other)
        assert reason(found[0]) == (Busy, "endpoint_fails")
        world.clock.forward(100)
        outcomes(it, other)
        world.clock.forward(100)
    (outcome,) = outcomes(it, bad)
    assert reason(outcome) == (NotYet, "endpoint_fails")
    world.clock.forward(100)
    newer = world.envelope(replace(CALL, revision=CALL.revision + 1), "newer")
    outcomes(it, newer)
    assert world.side.ids[-1] == "newer"
    # It comes back from its tier, and is older than what the endpoint has taken since.
    world.side.always.clear()
    again = replace(bad, message=replace(bad.message, topic="calls.retry.1m"))
    told = notified(outcomes(it, again)[0])
    assert (told.event_id, told.overtaken_by) == ("bad", "newer")
    assert (told.attempts, told.answer) == (0, ""), "it was not sent"
    assert told.notified_at == world.clock.now, "later than what is said of its wait"
    assert outcomes(it, bad) == [[]], "one that never waited is not spoken of"
    assert world.side.ids[-1] == "newer"


def test_a_dead_endpoint_is_nobodys_fault_but_its_own(world: World) -> None:
    """While nothing else is taken the event stays where it is, however often it fails."""
    it = world.stage()
    bad = world.envelope(CALL, "bad")
    world.side.always = {"bad": Busy("endpoint_fails", "500")}
    for _ in range(40):
        assert reason(outcomes(it, bad)[0]) == (Busy, "endpoint_fails")
        world.clock.forward(100)


def test_what_it_refuses_is_over(world: World) -> None:
    it = world.stage()
    world.side.failures = [Invalid("endpoint_refuses", "422")]
    found = outcomes(
        it, world.envelope(CALL, "c1"),
        world.envelope(replace(CALL, revision=CALL.revision + 1), "c2"),
    )  # fmt: skip
    assert reason(found[0]) == (Invalid, "endpoint_refuses")
    assert world.side.ids == ["c2"]


def test_a_store_that_is_away_makes_nobody_hear_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = world.stage()
    envelope = world.envelope(ALERT, "a1")
    put = DirectoryObjects.put
    down = [True]

    def failing(self: DirectoryObjects, key: str, data: bytes) -> None:
        if down[0]:
            raise Transient("objects_down", "away")
        put(self, key, data)

    monkeypatch.setattr(DirectoryObjects, "put", failing)
    for _ in range(3):
        assert reason(outcomes(it, envelope)[0]) == (Transient, "objects_down")
    down[0] = False
    assert notified(outcomes(it, envelope)[0]).event_id == "a1"
    assert world.side.ids == ["a1"]


# Start, erasure


def test_a_new_endpoint_hears_nothing_of_the_past(world: World) -> None:
    day = timedelta(days=1)
    old = world.envelope(CALL, "old", time=NOW - day)
    recent = world.envelope(ALERT, "recent", time=NOW - timedelta(minutes=4))
    outcomes(world.stage(), old, recent)
    assert world.side.ids == ["recent"]
    # It began then, also where it starts anew after being stopped for long.
    missed = world.envelope(CALL, "missed", time=NOW + timedelta(minutes=1))
    world.clock.forward(40 * 3600)
    outcomes(world.stage(), missed)
    assert world.side.ids == ["recent", "missed"]


def test_what_is_remembered_may_be_let_go_of_after_a_time(world: World) -> None:
    """What waits since then is not taken for older than the endpoint."""
    outcomes(world.stage(), world.envelope(CALL, "first"))
    waiting = world.envelope(replace(CALL, revision=CALL.revision + 1), "waiting")
    for key in list(world.objects.keys(f"{PREFIX}/")):
        world.objects.delete(key)
    world.clock.forward(40 * 24 * 3600)
    outcomes(world.stage(), waiting)
    assert world.side.ids == ["first", "waiting"]


def test_since_when_can_be_said(world: World) -> None:
    old = world.envelope(CALL, "old", time=NOW - timedelta(days=9))
    outcomes(world.stage(since=NOW - timedelta(days=10)), old)
    assert world.side.ids == ["old"]


def test_what_an_operator_asks_for_is_told_whatever_its_age(world: World) -> None:
    old = world.envelope(CALL, "old", topic=REPLAY, time=NOW - timedelta(days=9))
    redriven = world.envelope(ALERT, "redriven", topic="calls.retry.1m",
                              time=NOW - timedelta(days=9))  # fmt: skip
    outcomes(world.stage(), old, redriven)
    assert world.side.ids == ["old", "redriven"]
    # Its patience begins when it is asked for.
    world.side.failures = [Busy("endpoint_fails", "503")]
    again = world.envelope(replace(ALERT, rule="r"), "again", topic="calls.retry.1m",
                           time=NOW - timedelta(days=9))  # fmt: skip
    assert reason(outcomes(world.stage(), again)[0]) == (Busy, "endpoint_fails")


def test_an_erased_call_is_given_to_nobody(world: World) -> None:
    it = world.stage()
    outcomes(it, world.envelope(ALERT, "a1"), world.envelope(CALL, "c1"))
    erased = e.CallErased(tenant_id="acme", call_id="happy", erased_at=NOW, requested_by="dpo")
    newer = replace(CALL, revision=CALL.revision + 1)
    waiting = world.envelope(newer, "c2")
    assert outcomes(it, world.envelope(erased, "e1"), waiting) == [[], []]
    assert world.side.ids == ["a1", "c1"]
    # Handed in anew it is another call.
    world.clock.forward(3600)
    later = NOW + timedelta(hours=1)
    anew = replace(
        CALL, revision=round(later.timestamp() * 1000), call=replace(CALL.call, published_at=later)
    )
    outcomes(
        it, world.envelope(anew, "c3"),
        world.envelope(replace(ALERT, call_published_at=later, revision=anew.revision), "a3"),
    )  # fmt: skip
    assert world.side.ids == ["a1", "c1", "c3", "a3"]


def test_the_store_tells_of_no_call(world: World) -> None:
    outcomes(world.stage(), world.envelope(ALERT, "a1"), world.envelope(CALL, "c1"))
    keys = list(world.objects.keys(PREFIX))
    assert len(keys) == 2
    assert all("happy" not in key and "acme" not in key for key in keys)


# Several at once


def test_calls_go_at_once_and_each_in_its_order(world: World) -> None:
    told: list[str] = []
    most = [0, 0]
    lock = threading.Lock()
    gone = threading.Barrier(4, timeout=10)

    def send(event: Any, event_id: str, time: datetime, now: datetime) -> str:
        with lock:
            most[0] += 1
            most[1] = max(most)
        if event_id.endswith("-0"):
            gone.wait()  # four calls are at work, or this fails
        with lock:
            most[0] -= 1
            told.append(event_id)
        return "200"

    endpoint = Endpoint(name="crm", kind="webhook", url=Secret(("https://crm.example/",)),
                        where="https://crm.example", at_once=4)  # fmt: skip
    it = stage(endpoint, world.objects, NotifySettings(), world.clock, send)
    envelopes = []
    for step in range(3):
        for n in range(4):
            event = replace(CALL, call_id=f"c{n}", revision=CALL.revision + step)
            envelopes.append(world.envelope(event, f"c{n}-{step}"))
    found = outcomes(it, *envelopes)
    assert all(notified(outcome) for outcome in found)
    assert most[1] == 4
    for n in range(4):
        assert [id for id in told if id.startswith(f"c{n}-")] == [f"c{n}-{s}" for s in range(3)]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("notify."):
            thread.join(5)
            assert not thread.is_alive()


def test_a_backlog_that_our_own_rate_holds_back_does_not_expire(world: World) -> None:
    it = world.stage(rate=2.0, patience_h=1.0, since=NOW - timedelta(days=9))
    old = [
        world.envelope(replace(ALERT, call_id=f"c{number}"), f"a{number}",
                       time=NOW - timedelta(hours=80))
        for number in range(5)
    ]  # fmt: skip
    todo = list(old)
    for _ in range(10):
        found = outcomes(it, *todo)
        assert not any(isinstance(outcome, Invalid) for outcome in found)
        todo = [each for each, outcome in zip(todo, found, strict=True)
                if isinstance(outcome, Exception)]  # fmt: skip
        if not todo:
            break
        world.clock.forward(61)
    assert sorted(world.side.ids) == [f"a{number}" for number in range(5)]


def test_a_new_endpoint_hears_of_no_replay_of_the_past(world: World) -> None:
    old = world.envelope(CALL, "old", time=NOW - timedelta(days=20), generation=3)
    assert outcomes(world.stage(), old) == [[]]
    assert world.side.ids == []


def test_an_erasure_that_was_interrupted_is_ended_by_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = world.stage()
    outcomes(it, world.envelope(ALERT, "a1"), world.envelope(CALL, "c1"))
    erased = e.CallErased(tenant_id="acme", call_id="happy", erased_at=NOW, requested_by="dpo")
    envelope = world.envelope(erased, "e1")

    def killed(self: DirectoryObjects, key: str) -> None:
        raise Transient("objects_away", "killed here")

    with monkeypatch.context() as patch:
        patch.setattr(DirectoryObjects, "delete", killed)
        assert isinstance(outcomes(it, envelope)[0], Transient)
    assert outcomes(it, envelope) == [[]]
    left = [key for key in world.objects.keys("notified/") if not key.endswith("/erased")]
    assert left == []
