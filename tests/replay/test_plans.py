"""Plans of replays: what is put on record, what is asked for, what is decided."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from schemas.events import CallEnded
from schemas.examples import EXAMPLES
from schemas.topics import ENDED, REPLAY, TOPICS
from services.replay.plans import Plan, generations, read_plan, store_plan
from services.replay.progress import Follower
from services.replay.selection import Refused, Selection, select
from services.runtime.codec import Codec, FolderRegistry
from services.runtime.errors import Invalid
from services.runtime.log import Message
from services.runtime.objects import DirectoryObjects
from services.runtime.process import dead_letter
from services.runtime.sqlite_log import Database, SqliteLog, SqliteView

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
OLD = round(NOON.timestamp() * 1000)
"""Generations were milliseconds once; plans of such replays are still there."""


@pytest.fixture
def objects(tmp_path: Path) -> DirectoryObjects:
    return DirectoryObjects(tmp_path / "objects")


def plan_of(objects: DirectoryObjects, at: datetime = NOON, reason: str = "test") -> Plan:
    return store_plan(
        objects, SqliteView(Database(None)), "enrich", Selection(tenant="acme"), [], options={},
        shadow=True, side_effects=False, reason=reason, requested_by="tests", now=at,
    )  # fmt: skip


class Before:
    """Of a store's plans those that were there when it was made; two commands at once see it."""

    def __init__(self, inner: DirectoryObjects) -> None:
        self._inner = inner
        self._keys = list(inner.keys(""))

    def keys(self, prefix: str = "") -> list[str]:
        return [key for key in self._keys if key.startswith(prefix)]

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


@pytest.mark.parametrize("clock", [NOON, NOON - timedelta(days=1)], ids=["right", "slow"])
def test_two_replays_of_the_same_moment_are_two(objects: DirectoryObjects, clock: datetime) -> None:
    plan_of(objects)
    seen = Before(objects)
    plans = [plan_of(seen, clock, f"number {n}") for n in range(2)]  # type: ignore[arg-type]
    assert len(generations(objects, "acme")) == 3
    for plan in plans:
        assert read_plan(objects, "acme", plan.generation) == plan


def test_a_replay_of_another_tenant_is_told_with_the_option_that_names_it(
    objects: DirectoryObjects,
) -> None:
    generation = plan_of(objects).generation
    objects.put(f"replays/other/{generation + 1}.json", b"{}")
    told = (
        f"'default' has no replay {generation}; it has none. Tenant 'acme' has one of that number: "
        "--tenant acme. See"
    )
    with pytest.raises(Refused, match=re.escape(told)):
        read_plan(objects, "default", generation)


def test_a_generation_is_beyond_every_earlier_one(objects: DirectoryObjects) -> None:
    objects.put(f"replays/acme/{OLD + 5}.json", b"{}")
    clocks = [NOON, NOON, NOON - timedelta(days=1), NOON + timedelta(days=1)]
    made = [plan_of(objects, at).generation for at in clocks]
    assert generations(objects, "acme") == [OLD + 5, *made]
    assert made[-1] < 2**53, "readers of JSON take numbers for doubles"


class Calls:
    """A log in memory, replayed without a warehouse."""

    def __init__(self) -> None:
        database = Database(None)
        self.codec = Codec(FolderRegistry())
        self.view, self.log = SqliteView(database), SqliteLog(database)
        self.view.create({topic.name: 1 for topic in TOPICS})

    def ended(self, call: str, timestamp_ms: int) -> None:
        happy: CallEnded = EXAMPLES["CallEnded"]["happy"]
        event = replace(happy, call_id=call)
        record = self.codec.encode(event, id=call, source="/tests", time=NOON)
        self.log.commit([replace(record, timestamp_ms=timestamp_ms)], {})

    def refused(self, call: str) -> None:
        message = Message(ENDED, 0, 0, f"acme/{call}".encode(), b"no event", (), OLD)
        letter = dead_letter("ingest", message, Invalid("not_framed", "no event"), OLD)
        self.log.commit([letter], {})

    def replayed(self, objects: DirectoryObjects, *, dead_letters: bool = False) -> Follower:
        selection = Selection(tenant="acme", dead_letters=dead_letters)
        found = select("ingest", selection, "log", None, self.view, self.codec)
        plan = store_plan(
            objects, self.view, "ingest", selection, found.inputs, options={}, shadow=False,
            side_effects=False, reason="", requested_by="tests",
        )  # fmt: skip
        follower = Follower(plan, self.log, self.view, self.codec, None)
        follower.publish()
        return follower

    def requests(self) -> list[Message]:
        return list(self.view.scan(REPLAY))


def test_an_input_without_a_sound_time_is_asked_for_without_it(objects: DirectoryObjects) -> None:
    calls = Calls()
    times = {"good": OLD, "epoch": 1, "far": 8_000_000_000_000, "absurd": 1 << 62}
    for call, at in times.items():
        calls.ended(call, at)
    follower = calls.replayed(objects)
    assert follower.lost == {}
    asked = {e.call_id: e.input for e in (calls.codec.decode(m).event for m in calls.requests())}
    assert {call: given.timestamp for call, given in asked.items()} == {
        "good": NOON, "epoch": None, "far": None, "absurd": None,
    }  # fmt: skip


def test_an_input_that_no_request_can_carry_stops_no_other(objects: DirectoryObjects) -> None:
    calls = Calls()
    for call in ("good", "", "x" * 300):
        calls.refused(call)
    follower = calls.replayed(objects, dead_letters=True)
    assert {each.call: why for each, why in follower.lost.items()} == {
        "": "not_valid: ReplayRequested: call_id is empty",
        "x"
        * 300: "not_valid: ReplayRequested: call_id has 300 characters, at most 256 are allowed",
    }
    assert [message.key for message in calls.requests()] == [b"acme/good"]
    assert (follower.tally.total, follower.asked) == (1, 1)
