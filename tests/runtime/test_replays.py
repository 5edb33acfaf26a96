"""Requests to replay in the loop: the stage's own, as its input was; live calls go first."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from schemas import events as e
from schemas.topics import DEAD_LETTER, ENDED, ERASED, RECORDED, REPLAY, RETRY_TIERS
from services.runtime import headers as h
from services.runtime.codec import CLAIM_CHECK_BYTES, Codec, FolderRegistry
from services.runtime.errors import Invalid, NotYet, Transient
from services.runtime.log import Message, Record
from services.runtime.objects import DirectoryObjects
from services.runtime.process import process, topics_of
from services.runtime.stage import Envelope, Output, Stage, each, event_id
from tests.runtime.test_loop import FAST, HAPPY, LONGEST_S, NOW, World, call_of, copy, fast

GENERATION = 1_772_000_000_000


@pytest.fixture
def world() -> World:
    return World()


def ingest(**changes: Any) -> Stage:
    """A copying stage under a name that requests can name."""
    return replace(Stage("ingest", (ENDED,), (ERASED,), each(copy), options=("model",)), **changes)


def request(
    codec: Codec,
    call: str,
    *,
    stage: str = "ingest",
    original: Record | None = None,
    topic: str = ENDED,
    headers: bool = True,
    **changes: Any,
) -> Record:
    if original is None:
        ended = replace(HAPPY, call_id=call, event_id=f"evt-{call}")
        original = codec.encode(
            ended, id=f"id-{call}", source="/test", time=NOW,
            traceparent=f"00-{'a' * 32}-{'b' * 16}-01",
        )  # fmt: skip
    asked = e.ReplayRequested(
        tenant_id="acme", call_id=call, requested_at=NOW, requested_by="operator", stage=stage,
        input=e.OriginalInput(
            topic=topic, event_id=f"id-{call}", value=original.value,
            headers=[e.OriginalHeader(name=n, value=v) for n, v in original.headers]
            if headers else [],
            timestamp=datetime(2026, 3, 1, tzinfo=UTC),
        ),
        **{"generation": GENERATION, **changes},
    )  # fmt: skip
    return codec.encode(asked, id=f"asked-{call}", source="/test", time=NOW)


def handled(world: World, record: Record, **changes: Any) -> Envelope[Any]:
    """What the stage's handler gets of a request."""
    seen: list[Envelope[Any]] = []

    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        seen.append(envelope)
        return []

    world.write(record)
    world.run(ingest(handle=each(handle_one), **changes))
    (envelope,) = seen
    return envelope


def test_a_stage_gets_its_input_again_under_the_generation_asked_for(world: World) -> None:
    record = request(world.codec, "a", options={"model": "large"}, shadow=True)
    envelope = handled(world, record)
    assert envelope.event == replace(HAPPY, call_id="a", event_id="evt-a")
    assert (envelope.id, envelope.generation) == ("id-a", GENERATION)
    assert (envelope.shadow, envelope.side_effects) == (True, False)
    assert envelope.options == {"model": "large"}
    assert envelope.message.topic == REPLAY


def test_what_is_made_of_it_carries_generation_shadow_and_trace(world: World) -> None:
    world.write(
        request(world.codec, "a", shadow=True),
        request(world.codec, "b", side_effects=True),
    )
    world.run(ingest())
    made = {call_of(message): message for message in world.scan(ERASED)}
    assert made["a"].header(h.ID) == event_id("ingest", "id-a", GENERATION, 0)
    for call, shadow, effects in (("a", True, False), ("b", False, True)):
        envelope = world.codec.decode(made[call])
        assert (envelope.generation, envelope.causation_id) == (GENERATION, f"id-{call}")
        assert (envelope.shadow, envelope.side_effects) == (shadow, effects)
        assert (envelope.traceparent or "").split("-")[1] == "a" * 32


def test_a_request_delivered_twice_makes_the_same_events(world: World) -> None:
    world.write(request(world.codec, "a"), request(world.codec, "a"))
    world.run(ingest())
    first, second = world.scan(ERASED)
    assert first.header(h.ID) == second.header(h.ID)


def test_a_request_without_headers_is_enough(world: World) -> None:
    assert handled(world, request(world.codec, "a", headers=False)).id == "id-a"


def test_an_option_that_the_stage_does_not_know_is_a_dead_letter(world: World) -> None:
    world.write(request(world.codec, "a", options={"model": "large", "speed": "fast"}))
    world.run(ingest())
    assert world.copied() == []
    (letter,) = world.scan(DEAD_LETTER)
    assert letter.header(h.DEAD_REASON) == "unknown_option"
    told = "ingest knows no option 'speed'; it knows model"
    assert told in (letter.header(h.ERROR_MESSAGE) or "")


def test_requests_to_other_stages_are_passed_over(world: World) -> None:
    world.write(request(world.codec, "a", stage="sink"))
    world.run(ingest())
    assert world.copied() == []
    assert world.dead() == []


def test_a_claim_checked_input_is_read_where_it_lies(tmp_path: Any) -> None:
    codec = Codec(FolderRegistry(), DirectoryObjects(tmp_path))
    large = replace(HAPPY, call_id="a", attributes={"notes": "x" * (CLAIM_CHECK_BYTES + 1)})
    original = codec.encode(large, id="id-a", source="/test", time=NOW)
    assert original.value is not None
    assert len(original.value) < 10
    dataref = dict(original.headers)[h.DATAREF].decode()
    named = request(codec, "a", original=original)
    asked = e.ReplayRequested(
        tenant_id="acme", call_id="a", requested_at=NOW, requested_by="operator", stage="ingest",
        generation=GENERATION,
        input=e.OriginalInput(topic=ENDED, event_id="id-a", dataref=dataref),
    )  # fmt: skip
    referred = codec.encode(asked, id="asked-a", source="/test", time=NOW)
    seen: list[Any] = []

    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        seen.append(envelope.event)
        return []

    messages = [Message(REPLAY, 0, 0, r.key, r.value, r.headers, 0) for r in (named, referred)]
    outcomes = list(process(ingest(handle=each(handle_one)), codec, messages, lambda: NOW))
    assert outcomes == [(0, []), (1, [])]
    assert seen == [large, large]


@pytest.mark.parametrize("topic", [RECORDED, REPLAY, DEAD_LETTER, "calls.unheard-of"])
def test_an_input_that_the_stage_does_not_read_is_refused(world: World, topic: str) -> None:
    world.write(request(world.codec, "a", topic=topic))
    world.run(ingest())
    assert world.dead() == ["a"]
    assert world.copied() == []


def test_a_replay_that_must_wait_waits_and_comes_back_as_one(world: World) -> None:
    seen: list[Envelope[Any]] = []

    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        seen.append(envelope)
        if len(seen) == 1:
            raise NotYet("no_model", "not today")
        return copy(envelope)

    waiting = ingest(handle=each(handle_one))
    world.write(request(world.codec, "a", options={"model": "large"}))
    world.run(waiting, lambda: len(world.waiting()) == 1)
    assert world.waiting()[0].header(h.RETRY_TOPIC) == REPLAY
    world.clock.forward(61)
    world.run(waiting)
    assert [(s.generation, s.options) for s in seen] == [(GENERATION, {"model": "large"})] * 2
    assert world.copied() == ["a"]
    assert world.scan(RETRY_TIERS[1].topic) == []


def test_a_replay_that_has_waited_gives_way_to_live_calls(world: World) -> None:
    order: list[str] = []

    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        if envelope.generation and envelope.event.call_id not in waited:
            waited.add(envelope.event.call_id)
            raise NotYet("no_host", "not today")
        order.append(envelope.event.call_id)
        return copy(envelope)

    waited: set[str] = set()
    waiting = ingest(handle=each(handle_one))
    old = [f"old-{number}" for number in range(6)]
    world.write(*(request(world.codec, call) for call in old))
    world.run(waiting, lambda: len(world.waiting()) == len(old))
    world.clock.forward(61)
    live = [f"live-{number}" for number in range(6)]
    world.send(*live)
    world.run(waiting)
    assert set(order[: len(live)]) == set(live)
    assert sorted(world.copied()) == sorted(live + old)


def test_a_replay_loses_its_patience_as_a_live_call_does(world: World) -> None:
    seen: list[str] = []

    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        seen.append(envelope.id)
        raise NotYet("no_host", f"attempt {len(seen)}")

    policy = fast(patience_s=100.0)
    waiting = ingest(handle=each(handle_one))
    world.write(request(world.codec, "a"))
    for attempt in range(1, 3):
        world.run(waiting, lambda: len(seen) == attempt, policy)  # noqa: B023
        world.clock.forward(61)
    world.run(waiting, lambda: world.dead() == ["a"], policy)
    assert seen == ["id-a"] * 3
    (letter,) = world.scan(DEAD_LETTER)
    assert letter.header(h.DEAD_REASON) == "no_host"
    assert letter.header(h.ERROR_TOPIC) == REPLAY
    told = letter.header(h.ERROR_MESSAGE) or ""
    assert [part for part in ("attempt 1", "attempt 2", "attempt 3") if part not in told] == []


def test_live_calls_go_first(world: World) -> None:
    order: list[str] = []
    lock = threading.Lock()

    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        with lock:
            order.append(envelope.event.call_id)
        return copy(envelope)

    live = [f"live-{number}" for number in range(12)]
    world.write(*(request(world.codec, f"old-{number}") for number in range(12)))
    world.send(*live)
    world.run(ingest(handle=each(handle_one)))
    assert set(order[:12]) == set(live)
    assert len(order) == 24


def test_a_live_call_does_not_wait_for_a_replay_to_end(world: World) -> None:
    began, release = threading.Event(), threading.Event()

    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        if envelope.generation:
            began.set()
            assert release.wait(LONGEST_S)
        return copy(envelope)

    long = ingest(handle=each(handle_one))
    world.write(request(world.codec, "old"))
    sent: list[bool] = []

    def done() -> bool:
        if began.is_set() and not sent:
            sent.append(True)
            world.send("live")
        if "live" in world.copied() and not release.is_set():
            assert "old" not in world.copied()
            release.set()
        return world.drained(long)

    world.run(long, done)
    assert sorted(world.copied()) == ["live", "old"]


def test_replays_keep_to_their_share_of_the_time_while_live_calls_come(world: World) -> None:
    order: list[str] = []

    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        order.append(envelope.event.call_id)
        return []

    reading = ingest(handle=each(handle_one), batch=4)  # replays go one by one then
    next_to_none = fast(replay_share=1e-9)
    world.write(*(request(world.codec, f"early-{number}") for number in range(4)))
    world.run(reading, lambda: world.drained(reading), next_to_none)
    assert len(order) == 4, "nothing but replays: they have all of the time"

    def done() -> bool:
        if len(order) == 4 and "first" not in sent:
            world.send(sent.setdefault("first", "live-1"))
        if order[4:5] == ["live-1"] and "replays" not in sent:
            sent["replays"] = "late"
            world.write(*(request(world.codec, f"late-{number}") for number in range(4)))
        if len(order) == 6 and "second" not in sent:
            world.send(sent.setdefault("second", "live-2"))
        return "live-2" in order

    sent: dict[str, str] = {}
    world.run(reading, done, next_to_none)
    assert [call.rstrip("0123") for call in order[4:]] == ["live-", "late-", "live-"]


def test_few_replays_are_in_hand_however_many_there_are(world: World) -> None:
    """So that what is held of them leaves the room of live calls alone."""
    world.write(*(request(world.codec, f"old-{number}") for number in range(200)))
    began, release = threading.Event(), threading.Event()
    given = 0

    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        began.set()
        assert release.wait(LONGEST_S)
        return copy(envelope)

    reading = ingest(handle=each(handle_one), batch=8)

    class Counting:
        def __init__(self, log: Any) -> None:
            self.commit, self.lease, self.close = log.commit, log.lease, log.close
            self._log = log

        def messages(self, *args: Any) -> list[Message]:
            nonlocal given
            found: list[Message] = self._log.messages(*args)
            given += len(found)
            return found

    rounds = iter(range(1 << 30))
    most: list[int] = []

    def done() -> bool:
        if began.is_set() and next(rounds) == 100:
            most.append(given)
            release.set()
        return world.drained(reading)

    world.run(reading, done, wrap=Counting)
    assert len(world.copied()) == 200
    # A poll takes up to a share of one partition before it is held.
    assert most[0] <= world.partitions * 16


@pytest.mark.parametrize("failure", [Invalid("unknown_option", "no"), KeyError("bug")])
def test_replays_that_fail_are_dead_letters_and_never_open_the_breaker(
    world: World, failure: Exception
) -> None:
    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        if envelope.generation:
            raise failure
        return copy(envelope)

    failing = ingest(handle=each(handle_one))
    calls = [f"old-{number}" for number in range(10)]
    world.write(*(request(world.codec, call) for call in calls))
    strict = fast(breaker_in_a_row=1, breaker_share=0.0, breaker_window=1, attempts=2)
    world.run(failing, policy=strict)
    assert sorted(world.dead()) == calls
    world.send("live")
    world.run(failing, policy=strict)
    assert world.copied() == ["live"]
    assert world.unready(failing) is None


def test_a_stage_that_reads_requests_gets_the_input_beside_them(world: World) -> None:
    seen: list[Envelope[Any]] = []

    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        seen.append(envelope)
        return []

    sink = ingest(name="sink", sources=(ENDED, REPLAY), handle=each(handle_one))
    world.write(request(world.codec, "a", stage="sink"), request(world.codec, "b"))
    world.run(sink)
    found: Mapping[str, Envelope[Any]] = {envelope.event.call_id: envelope for envelope in seen}
    own, other = found["a"], found["b"]
    assert isinstance(own.event, e.ReplayRequested)
    assert own.replays is not None
    assert own.replays.event == replace(HAPPY, call_id="a", event_id="evt-a")
    assert own.replays.generation == 0
    assert own.replays.message.timestamp_ms == 1_772_323_200_000
    assert other.replays is None
    assert topics_of(sink).count(REPLAY) == 1


def test_replays_go_on_while_live_calls_wait_for_their_time(world: World) -> None:
    """What is not due holds up no replay."""

    def handle_one(envelope: Envelope[Any]) -> list[Output]:
        if not envelope.generation:
            raise NotYet("not_ready", "later", after_s=50)
        return copy(envelope)

    world.send("live")
    reading = ingest(handle=each(handle_one))
    world.run(reading, lambda: len(world.waiting()) == 1)
    world.write(request(world.codec, "old"))
    started = time.monotonic()
    world.run(reading, lambda: world.copied() == ["old"], FAST)
    assert time.monotonic() - started < LONGEST_S


def test_what_replays_have_made_fills_no_room_of_live_calls(world: World) -> None:
    """It is gathered for one large batch; a backlog of it is several at once."""
    seen: list[str] = []

    def note(envelope: Envelope[e.CallEnded]) -> list[Output]:
        seen.append(envelope.event.call_id)
        return []

    def ended(call: str, generation: int) -> Record:
        event = replace(HAPPY, call_id=call, event_id=call)
        return world.codec.encode(event, id=call, source="/test", time=NOW, generation=generation)

    world.write(*(ended(f"again-{number}", 7) for number in range(300)), ended("live", 0))
    reads = Stage("reads", (ENDED, REPLAY), (), each(note), batch=20)
    world.run(reads, lambda: "live" in seen, fast(replay_gather_s=3_600.0, in_flight=32))


def test_a_backlog_that_replays_have_made_keeps_its_waits(world: World) -> None:
    """What is down is not asked without a pause because there is enough for a batch."""
    asked: list[int] = []

    def down(envelopes: Sequence[Envelope[Any]]) -> Iterator[tuple[int, Any]]:
        asked.append(len(envelopes))
        yield from ((at, Transient("down", "down")) for at in range(len(envelopes)))

    event = replace(HAPPY, call_id="again", event_id="again")
    world.write(*(
        world.codec.encode(event, id=f"again-{number}", source="/test", time=NOW, generation=7)
        for number in range(40)
    ))  # fmt: skip
    reads = Stage("reads", (ENDED, REPLAY), (), down, batch=20)
    until = time.monotonic() + 1.0
    policy = fast(replay_gather_s=3_600.0, backoff_s=600.0, backoff_max_s=600.0)
    world.run(reads, lambda: time.monotonic() > until, policy)
    assert asked == [20]
