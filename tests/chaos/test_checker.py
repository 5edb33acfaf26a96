"""The checker and the reader can fail: they are shown what is lost, doubled and torn."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from schemas.topics import DEAD_LETTER, ENDED, ENRICHED, RECORDED, TRANSCRIBED
from services.assembly import STAGES, Parts
from services.runtime.log import LogView, Message, Record, TopicPartition
from services.serve import embedded
from services.settings import load
from services.sink.warehouse import Warehouse
from tests.chaos.calls import Call, calls, pool, start_of
from tests.chaos.checker import (
    Found,
    check_log,
    check_objects,
    check_offsets,
    check_tables,
    read,
)
from tests.chaos.reader import VIEWS, Reader

pytestmark = [pytest.mark.clickhouse, pytest.mark.slow]

_GOOD = 16
GROUPS = {name: f"callstream.{name}" for name in STAGES}


@dataclass(frozen=True)
class World:
    """A small run that came out well, at rest."""

    parts: Parts
    calls: list[Call]
    found: Found
    untouched: list[Call]
    """Good calls that no test has spoiled yet."""

    @property
    def warehouse(self) -> Warehouse:
        return self.parts.warehouse

    def tables(self) -> list[str]:
        return [str(each) for each in check_tables(self.found, self.warehouse, self.calls)]

    def good(self) -> Call:
        """One to spoil."""
        return self.untouched.pop()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {
            "DATA_DIR": str(tmp_path_factory.mktemp("world") / "data"),
            "TRANSCRIBE__ENGINE": "stub",
            "LOG_LEVEL": "ERROR",
            "LOOP__TIER_DELAYS_S": "[0.2, 0.4, 0.8]",
        }.items():
            patch.setenv(f"CALLSTREAM_{key}", value)
        settings = load()
    parts = Parts(settings)
    recordings = pool(8)
    made: dict[str, Call] = {}
    for call in calls(1, 600, recordings, parts.codec, start_of(datetime.now(UTC))):
        several = len(made) < _GOOD and call.kind == "good"
        made.setdefault(call.call_id if several else call.kind, call)
    del made["never"]
    for key, data in recordings.objects.items():
        parts.objects.put(key, data)
    log = parts.log()
    log.commit([record for call in made.values() for _, record in call.deliveries], {})
    with embedded(settings):
        late = made["late"].upload
        assert late is not None
        until(lambda: parts.view.ends("calls.retry.1m") and any(parts.view.scan("calls.retry.1m")))
        parts.objects.put(late.key, late.data)
        until(lambda: not any(parts.lags().values()) and not check_offsets(parts.view, GROUPS))
    log.close()
    try:
        found = read(parts.view, parts.codec)
        known = list(made.values())
        made_world = World(parts, known, found, [call for call in known if call.kind == "good"])
        assert_right(made_world)
        yield made_world
    finally:
        parts.close()


def until(holds: object, longest_s: float = 60.0) -> None:
    assert callable(holds)
    deadline = time.monotonic() + longest_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Doctored:
    """A view in which the first message of `topic` that `call` has is missing or there twice."""

    def __init__(self, view: LogView, topic: str, call: Call, times: int) -> None:
        self._view, self._topic, self._call, self._times = view, topic, call, times
        self.partitions, self.ends, self.create = view.partitions, view.ends, view.create
        self.committed, self.rewind, self.close = view.committed, view.rewind, view.close

    def scan(self, topic: str, start: Mapping[int, int] | None = None) -> Iterator[Message]:
        left = True
        for message in self._view.scan(topic, start):
            hit = left and topic == self._topic and message.key == self._call.key
            left = left and not hit
            for number in range(self._times if hit else 1):
                yield replace(message, offset=message.offset + 1_000_000 * number)


def assert_right(world: World) -> None:
    """What is right passes."""
    assert {call.kind for call in world.calls} == {
        "good", "double", "amended", "pending", "half", "late", "corrupt", "garbage", "absent",
    }  # fmt: skip
    assert check_log(world.found, world.calls) == []
    assert check_objects(world.found, world.parts.objects) == []
    assert world.tables() == []
    assert check_offsets(world.parts.view, GROUPS) == []
    reader = Reader(world.warehouse, lambda: [call.call_id for call in world.calls], 1)
    for view in VIEWS:
        reader.look(view)
    reader.compare(world.found.headlines)
    assert reader.violations == []
    assert len(reader.seen) > len(world.calls)


def test_the_log(world: World) -> None:
    good = world.good()
    corrupt = next(call for call in world.calls if call.kind == "corrupt")
    for topic, call in [
        (ENDED, good), (RECORDED, good), (TRANSCRIBED, good), (ENRICHED, good),
        (DEAD_LETTER, corrupt),
    ]:  # fmt: skip
        for times, what in ((0, "LOST"), (2, "DUPLICATE")):
            view = Doctored(world.parts.view, topic, call, times)
            wrong = [str(w) for w in check_log(read(view, world.parts.codec), world.calls)]
            assert any(
                line.startswith(f"{what} in {topic}: {call.key.decode()}:") for line in wrong
            ), (topic, times, wrong)


def test_a_call_nobody_published_and_one_that_waits_twice(world: World) -> None:
    late = next(call for call in world.calls if call.kind == "late")
    view = Doctored(world.parts.view, "calls.retry.1m", late, 2)
    wrong = [str(w) for w in check_log(read(view, world.parts.codec), world.calls)]
    assert [line.partition(": [")[0] for line in wrong] == [
        f"DUPLICATE in retry tiers: {late.key.decode()}"
    ]
    fewer = [call for call in world.calls if call.kind != "corrupt"]
    assert any("nobody published" in str(w) for w in check_log(world.found, fewer))


def test_objects(world: World) -> None:
    objects = world.parts.objects
    one, other = sorted(world.found.objects)[:2]
    whole = {key: objects.get(key) for key in (one, other)}
    objects.put(one, whole[one][:-1])
    objects.delete(other)
    wrong = [str(each) for each in check_objects(world.found, objects)]
    for key, data in whole.items():
        objects.put(key, data)
    assert any(line.startswith(f"TORN in objects: {one}:") for line in wrong)
    assert any(line.startswith(f"LOST in objects: {other}:") for line in wrong)


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("DELETE FROM segments WHERE call_id = '{}' AND segment_id = 0", "TORN in segments: {}"),
        ("DELETE FROM segments WHERE call_id = '{}'", "LOST in segments: {}"),
        ("DELETE FROM calls_enriched WHERE call_id = '{}'", "LOST in calls_enriched: {}"),
        (
            "INSERT INTO metrics (tenant_id, call_id, event_id, ordinal) "
            "SELECT tenant_id, call_id, event_id, 999 FROM calls_enriched WHERE call_id = '{}'",
            "DUPLICATE in metrics: {}",
        ),
        (
            "INSERT INTO calls_recorded (tenant_id, call_id, event_id) VALUES ('x', '{}', 'other')",
            "UNEXPECTED in calls_recorded",
        ),
        (
            "DELETE FROM events WHERE call_id = '{}' AND type = 'CallTranscribed'",
            "LOST in events of calls.transcribed: {}",
        ),
        (
            "ALTER TABLE events UPDATE value = 'torn' "
            "WHERE call_id = '{}' AND type = 'CallRecorded'",
            "TORN in events of calls.recorded: {}",
        ),
        (
            "INSERT INTO events (topic, event_id, tenant_id, call_id, place) SELECT topic, "
            "event_id, tenant_id, call_id, 'x' FROM events "
            "WHERE call_id = '{}' AND type = 'CallEnded'",
            "UNEXPECTED in events of calls.ended: {}",
        ),
        (
            "DELETE FROM stage_states WHERE call_id = '{}' AND stage = 'enrich'",
            "LOST in stage_states: {}",
        ),
        ("DELETE FROM calls_ended WHERE call_id = '{}'", "LOST in the view calls: {}"),
    ],
)
def test_tables(world: World, statement: str, says: str) -> None:
    good = world.good()
    world.warehouse.command(statement.format(good.call_id))
    assert any(line.startswith(says.format(good.key.decode())) for line in world.tables())


def test_offsets(world: World) -> None:
    good = world.good()
    log = world.parts.log()
    log.commit([Record(RECORDED, good.key, b"after all stages had stopped")], {})
    log.close()
    wrong = [str(each) for each in check_offsets(world.parts.view, GROUPS)]
    assert {line.partition(":")[0] for line in wrong} == {
        "LOST in the offsets of transcribe", "LOST in the offsets of sink",
    }  # fmt: skip
    assert all(isinstance(p, TopicPartition) for p in world.parts.view.committed(GROUPS["sink"]))


def test_the_reader_sees_half_a_call_and_a_count_that_shrinks(world: World) -> None:
    good = world.good().call_id
    reader = Reader(world.warehouse, lambda: [good], 1)
    reader.look("calls")
    assert reader.violations == []
    world.warehouse.command(f"DELETE FROM segments WHERE call_id = '{good}' AND segment_id = 0")
    world.warehouse.command(f"DELETE FROM metrics WHERE call_id = '{good}' AND ordinal = 0")
    reader.look("calls")
    assert all(f"{good}: half a call" in line for line in reader.violations)
    assert len(reader.violations) == 3
    world.warehouse.command(f"DELETE FROM calls_ended WHERE call_id = '{good}'")
    reader.look("calls")
    assert any("calls_ended shrank" in line for line in reader.violations)
