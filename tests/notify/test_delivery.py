"""The whole loop over the embedded log, to receivers over HTTP: what they get, whatever fails."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from schemas import events as e
from schemas.examples import EXAMPLES
from schemas.topics import ALERTS, DEAD_LETTER, NOTIFIED, TOPICS
from services.notify.endpoints import Endpoint, Secret
from services.notify.handler import stage
from services.notify.settings import NotifySettings
from services.runtime import headers as h
from services.runtime.codec import Codec, FolderRegistry
from services.runtime.log import Message, TopicPartition
from services.runtime.loop import run
from services.runtime.objects import DirectoryObjects
from services.runtime.observe import Observer
from services.runtime.process import topics_of
from services.runtime.settings import Policy
from services.runtime.sqlite_log import Database, SqliteLog, SqliteView
from services.runtime.stage import Stage
from tests.notify.receiver import SECRET, Receiver, Reply, Request, receiver

FAST = Policy(backoff_s=0.01, backoff_max_s=0.05, grace_s=5.0, commit_wait_s=0.0)
SETTINGS = NotifySettings(pause_max_s=0.05)
LONGEST_S = 60.0
ALERT: e.AlertRaised = EXAMPLES["AlertRaised"]["angry-refund"]
CALL: e.CallEnriched = EXAMPLES["CallEnriched"]["happy"]


@dataclass
class World:
    """A log in memory with every topic, what an onlooker sees of it, and an object store."""

    objects: DirectoryObjects
    database: Database = field(default_factory=lambda: Database(None))
    codec: Codec = field(default_factory=lambda: Codec(FolderRegistry()))
    observer: Observer = field(default_factory=Observer)

    def __post_init__(self) -> None:
        self.view = SqliteView(self.database)
        self.view.create({topic.name: 3 for topic in TOPICS})
        self._writer = SqliteLog(self.database)

    def send(self, event: Any, id: str, **more: Any) -> None:
        now = datetime.now(UTC)
        record = self.codec.encode(event, id=id, source="/test", time=now, **more)
        self._writer.commit([record], {})

    def stage(self, there: Receiver, name: str = "crm", **changes: Any) -> Stage:
        made = Endpoint(name=name, kind="webhook", url=Secret((there.url,)), where=there.url,
                        secret=Secret((SECRET,)), allow_private=True, timeout_s=1.0)  # fmt: skip
        return stage(replace(made, **changes), self.objects, SETTINGS)

    def run(
        self, it: Stage, done: Callable[[], bool], policy: Policy = FAST, log: Any = None
    ) -> None:
        """Run `it` until `done` holds."""
        stop, failed = threading.Event(), threading.Event()
        deadline = time.monotonic() + LONGEST_S

        def watch() -> None:
            while not stop.is_set() and not done():
                if time.monotonic() > deadline:
                    failed.set()
                    break
                stop.wait(0.005)
            stop.set()

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            run(it, log or self.log(it), self.codec, stop, self.observer, policy)
        finally:
            stop.set()
            watcher.join()
        assert not failed.is_set(), "what was waited for did not come"

    def log(self, it: Stage) -> SqliteLog:
        return SqliteLog(self.database, it.name, topics_of(it))

    def drained(self, it: Stage) -> bool:
        committed = self.view.committed(it.name)
        return all(
            committed.get(TopicPartition(topic, partition), 0) == end
            for topic in topics_of(it)
            for partition, (_, end) in self.view.ends(topic).items()
        )

    def scan(self, topic: str) -> list[Message]:
        return list(self.view.scan(topic))

    def notified(self) -> list[e.CallNotified]:
        return [self.codec.decode(message).event for message in self.scan(NOTIFIED)]

    def dead(self) -> list[tuple[str | None, str | None]]:
        return [(letter.header(h.ERROR_STAGE), letter.header(h.DEAD_REASON))
                for letter in self.scan(DEAD_LETTER)]  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(DirectoryObjects(tmp_path / "objects"))


def calls(world: World, count: int, amended: int = 3) -> list[str]:
    """`count` calls, each enriched `amended` times, with an alert; ids in the order of the log."""
    ids = []
    for step in range(amended):
        for number in range(count):
            event = replace(CALL, call_id=f"c{number}", revision=CALL.revision + step)
            event = replace(event, call=replace(event.call, call_id=event.call_id))
            world.send(event, f"c{number}-{step}")
            ids.append(f"c{number}-{step}")
    for number in range(count):
        world.send(replace(ALERT, call_id=f"c{number}"), f"a{number}")
        ids.append(f"a{number}")
    return ids


def in_order(taken: list[Request]) -> bool:
    """Whether each call's enriched events came in the order of its revisions."""
    revisions = defaultdict(list)
    for request in taken:
        if request.json["type"] == "call.enriched":
            revisions[request.json["data"]["call_id"]].append(request.json["data"]["revision"])
    return all(found == sorted(found) for found in revisions.values())


def test_every_event_arrives_once_in_the_order_of_its_call(world: World) -> None:
    with receiver() as there:
        it = world.stage(there)
        ids = calls(world, 20)
        world.run(it, lambda: world.drained(it))
    assert sorted(request.id for request in there.asked) == sorted(ids)
    assert all(request.verified() for request in there.asked)
    assert in_order(there.asked)
    assert sorted(told.event_id for told in world.notified()) == sorted(ids)
    assert world.dead() == []


def test_a_receiver_that_is_down_and_comes_back(world: World) -> None:
    """Nothing is lost, no order broken; what was not taken is no dead letter."""
    up = threading.Event()
    begun = threading.Event()
    refused = [Reply(503), Reply(429), Reply(then="drop"), Reply(500), Reply(404)]

    def answer(request: Request) -> Reply:
        if up.is_set():
            return Reply(204)
        begun.set()
        return refused[len(there.asked) % len(refused)]

    with receiver(answer) as there:
        it = world.stage(there)
        ids = calls(world, 20)
        unready: list[object] = []

        def done() -> bool:
            if not up.is_set() and begun.is_set() and len(there.asked) > 15:
                unready.append(world.observer.readiness()[it.name])
                there.asked.clear()
                up.set()
            return up.is_set() and world.drained(it)

        world.run(it, done)
    taken = [request for request in there.asked if request.verified()]
    assert len({request.id for request in taken}) == len(ids)
    assert sorted(request.id for request in taken) == sorted(ids)
    assert in_order(taken)
    assert sorted(told.event_id for told in world.notified()) == sorted(ids)
    assert max(told.attempts for told in world.notified()) > 1
    assert world.dead() == []
    assert unready[0] is not None


def test_failures_here_and_there_break_no_order(world: World) -> None:
    """Each event fails at first, at another time than its neighbours."""
    seen: dict[str, int] = defaultdict(int)
    taken: list[Request] = []
    lock = threading.Lock()

    def answer(request: Request) -> Reply:
        with lock:
            seen[request.id] += 1
            if seen[request.id] <= sum(map(ord, request.id)) % 4:
                return Reply(503)
            taken.append(request)
            return Reply(200)

    with receiver(answer) as there:
        it = world.stage(there)
        ids = calls(world, 12)
        world.run(it, lambda: world.drained(it))
    assert sorted(request.id for request in taken) == sorted(ids)
    assert in_order(taken)


def test_one_endpoint_that_is_down_does_not_hold_up_another(world: World) -> None:
    with receiver(lambda request: Reply(503)) as down, receiver() as well:
        dead, alive = world.stage(down, "dead"), world.stage(well, "alive")
        ids = calls(world, 10)
        ended = threading.Event()
        other = threading.Thread(target=lambda: world.run(dead, ended.is_set))
        other.start()
        try:
            world.run(alive, lambda: world.drained(alive))
        finally:
            ended.set()
            other.join()
    assert sorted(request.id for request in well.asked) == sorted(ids)
    assert {told.endpoint for told in world.notified()} == {"alive"}
    assert down.asked
    assert not any(world.view.committed("notify.dead").values())


def test_what_it_refuses_is_a_dead_letter_and_the_rest_goes_on(world: World) -> None:
    def answer(request: Request) -> Reply:
        return Reply(422 if request.id == "c1-1" else 410 if request.id == "a2" else 204)

    with receiver(answer) as there:
        it = world.stage(there)
        ids = calls(world, 5)
        world.run(it, lambda: world.drained(it))
    told = {told.event_id for told in world.notified()}
    assert told == set(ids) - {"c1-1", "a2"}
    assert sorted(world.dead()) == [("notify.crm", "endpoint_gone"),
                                    ("notify.crm", "endpoint_refuses")]  # fmt: skip


def test_a_dead_endpoint_ends_with_patience(world: World) -> None:
    with receiver(lambda request: Reply(503)) as there:
        it = world.stage(there, patience_h=0.3 / 3600)
        ids = calls(world, 4)
        world.run(it, lambda: world.drained(it))
    assert world.dead() == [("notify.crm", "notification_expired")] * len(ids)
    assert world.notified() == []


def test_a_crash_between_the_request_and_the_commit(world: World) -> None:
    """Told once all the same, and said to have been."""

    class Crash(BaseException):
        pass

    class Falls(SqliteLog):
        def commit(self, records: Any, offsets: Any) -> None:
            raise Crash

    with receiver() as there:
        ids = calls(world, 3)
        it = world.stage(there)
        for _ in range(3):
            with pytest.raises(Crash):
                world.run(it, lambda: False, log=Falls(world.database, it.name, topics_of(it)))
            for thread in threading.enumerate():  # a process takes its own with it
                if thread.name.startswith("notify."):
                    thread.join(10)
            it = world.stage(there)
        assert world.notified() == []
        world.run(it, lambda: world.drained(it))
    assert sorted({request.id for request in there.asked}) == sorted(ids)
    assert len(there.asked) == len(ids)
    assert sorted(told.event_id for told in world.notified()) == sorted(ids)


def test_a_replay_sends_nothing_unless_it_asks_to(world: World) -> None:
    with receiver() as there:
        it = world.stage(there)
        world.send(CALL, "live")
        world.send(ALERT, "alert")
        for event, id in ((CALL, "c-quiet"), (ALERT, "a-quiet")):
            world.send(event, id, generation=4)
            world.send(event, f"{id}-shadow", generation=5, shadow=True)
        world.run(it, lambda: world.drained(it))
        assert sorted(request.id for request in there.asked) == ["alert", "live"]
        world.send(CALL, "c-loud", generation=6, side_effects=True)
        world.run(it, lambda: world.drained(it))
        assert sorted(request.id for request in there.asked) == ["alert", "c-loud", "live"]


def test_an_endpoint_that_asks_for_time_is_given_it(world: World) -> None:
    times: list[float] = []

    def answer(request: Request) -> Reply:
        times.append(time.monotonic())
        return Reply(429, headers={"Retry-After": "1"}) if len(times) == 1 else Reply(200)

    with receiver(answer) as there:
        it = world.stage(there, at_once=1)
        calls(world, 3)
        world.run(it, lambda: world.drained(it))
    assert times[1] - times[0] >= 1.0


def test_an_alert_arrives_within_two_seconds(world: World) -> None:
    """From the log to the receiver, with the policy and the pauses of production."""
    arrived: list[float] = []

    def answer(request: Request) -> Reply:
        arrived.append(time.monotonic())
        return Reply(204)

    with receiver(answer) as there:
        made = Endpoint(name="crm", kind="webhook", url=Secret((there.url,)), where=there.url,
                        secret=Secret((SECRET,)), allow_private=True)  # fmt: skip
        it = stage(made, world.objects, NotifySettings())
        sent: list[float] = []

        def done() -> bool:
            if len(sent) == len(arrived) and len(sent) < 5:
                sent.append(time.monotonic())
                world.send(replace(ALERT, rule=f"rule-{len(sent)}"), f"a{len(sent)}")
            return len(arrived) == 5 and world.drained(it)

        world.run(it, done, Policy())
    took = sorted(end - begin for begin, end in zip(sent, arrived, strict=True))
    assert took[len(took) // 2] < 2.0


def test_a_message_that_is_none_of_its_events_goes_where_such_go(world: World) -> None:
    with receiver() as there:
        it = world.stage(there)
        record = world.codec.encode(ALERT, id="a", source="/test", time=datetime.now(UTC))
        world._writer.commit([replace(record, value=b"\x00\x00\x00\x00\x63nonsense")], {})
        world.send(replace(ALERT, call_id="next"), "next")
        world.run(it, lambda: world.drained(it))
    assert [request.id for request in there.asked] == ["next"]
    assert len(world.dead()) == 1
    assert len(world.scan(ALERTS)) == 2


def test_what_waited_for_long_is_signed_when_it_goes(world: World) -> None:
    """Receivers refuse what was signed more than five minutes ago."""
    with receiver() as there:
        it = world.stage(there, since=datetime.now(UTC) - timedelta(days=3))
        old = datetime.now(UTC) - timedelta(days=2)
        record = world.codec.encode(CALL, id="old", source="/test", time=old)
        world._writer.commit([record], {})
        world.run(it, lambda: world.drained(it))
    assert there.asked[0].verified()["timestamp"].startswith(old.date().isoformat())
