"""The real loop on a real broker: long work, groups that change, calls that wait."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress

import pytest

from schemas import events as e
from schemas.topics import DEAD_LETTER, ENDED, RETRY_TIERS
from services.runtime import headers as h
from services.runtime.errors import NotYet, Transient
from services.runtime.kafka_log import KafkaLog
from services.runtime.log import Message, TopicPartition
from services.runtime.process import from_tier
from services.runtime.settings import Policy
from services.runtime.stage import Envelope, Output, each
from stack.broker import Broker
from tests.kafka.loops import PARTITIONS, Member, Stages, call_of, copy, stage_of
from tests.kafka.members import Protocol, both_protocols, settings_for

pytestmark = pytest.mark.kafka

PATIENCE_S = 120.0
POLICY = Policy(backoff_s=0.05, backoff_max_s=0.5, grace_s=5.0)


def until(found: Callable[[], bool], every_s: float = 0.1) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with suppress(Transient):
            if found():
                return
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(every_s)


@pytest.mark.slow
@both_protocols
def test_one_message_worked_on_for_longer_than_the_poll_interval_costs_no_rebalance(
    broker: Broker, protocol: Protocol
) -> None:
    poll_timeout_s = 3.0
    settings = settings_for(broker, protocol, poll_timeout_s=poll_timeout_s, statistics_s=0.5)
    stages = Stages(settings)
    began: list[float] = []

    def long(envelope: Envelope[e.CallEnded]) -> list[Output]:
        began.append(time.monotonic())
        threading.Event().wait(2.5 * poll_timeout_s)
        return copy(envelope)

    stage = stage_of(each(long))
    stages.begin(stage)
    stages.send("long")
    with stages.running(stage, POLICY) as member:
        until(lambda: bool(began))
        held = Counter(s.rebalances for s in member.statistics)
        until(lambda: stages.copied() == ["long"])
        took = time.monotonic() - began[0]
        later = len(member.statistics)
        until(lambda: len(member.statistics) > later)
    assert took > 2 * poll_timeout_s
    assert len(began) == 1
    rebalances = {s.rebalances for s in member.statistics if s.lag}
    assert len(rebalances) == 1, (held, rebalances)
    assert member.counted("callstream_discarded_total") == 0
    assert member.statistics[-1].partitions_lost == 0


@pytest.mark.slow
@both_protocols
def test_each_call_is_copied_once_while_members_come_and_go(
    broker: Broker, protocol: Protocol
) -> None:
    count = int(os.environ.get("CALLSTREAM_TEST_CALLS", "1000"))
    changes = int(os.environ.get("CALLSTREAM_TEST_CHANGES", "10"))
    seed = int(os.environ.get("CALLSTREAM_TEST_SEED", "11"))
    print(f"CALLSTREAM_TEST_SEED={seed}")
    chance = random.Random(seed)
    stages = Stages(settings_for(broker, protocol, session_timeout_s=6.0))
    handled: Counter[str] = Counter()
    goes_on = threading.Event()

    def work(envelope: Envelope[e.CallEnded]) -> list[Output]:
        handled[envelope.event.call_id] += 1
        goes_on.wait(PATIENCE_S)
        threading.Event().wait(0.01)
        return copy(envelope)

    stage = stage_of(each(work))
    stages.begin(stage)
    calls = [f"call-{number}" for number in range(count)]
    stages.send(*calls)
    seen: list[Member] = []
    open_: list[ExitStack] = []

    def join() -> None:
        own = ExitStack()
        seen.append(own.enter_context(stages.running(stage, POLICY)))
        open_.append(own)

    def discarded() -> float:
        return sum(member.counted("callstream_discarded_total") for member in seen)

    join()
    until(lambda: len(handled) > 0)
    # The first call stays in hand until its partition is another's: who reads this topic alone is
    # given all of it, while the member keeps the topics of retries and replays.
    (interrupted,) = handled
    with closing(KafkaLog(stages.settings, stage.name, [ENDED])) as taker:
        ended = [TopicPartition(ENDED, number) for number in range(PARTITIONS)]

        def taken() -> bool:
            taker.messages(0, 0.1)
            return discarded() > 0 and all(taker.lease(each) is not None for each in ended)

        until(taken)
    goes_on.set()
    for change in range(changes):
        reached = count * (change + 1) // (changes + 2)
        until(lambda reached=reached: len(stages.copied()) >= reached)  # type: ignore[misc]
        if len(open_) == 1 or (len(open_) < 3 and chance.random() < 0.5):
            join()
        else:
            open_.pop(chance.randrange(len(open_))).close()
    until(lambda: len(stages.copied()) >= count)
    for own in open_:
        own.close()
    assert Counter(stages.copied()) == Counter(calls)
    assert discarded() > 0, "no member was interrupted: the test shows nothing"
    # What was discarded is handled again, and nothing else is but what a leaving member had begun.
    assert handled[interrupted] > 1
    assert set(handled) == set(calls)


class Late:
    """Copies, but calls named late-* must wait, `times` times."""

    def __init__(self, times: int = 1) -> None:
        self.times = times
        self.handled: list[tuple[str, float, Message]] = []

    def __call__(self, envelope: Envelope[e.CallEnded]) -> list[Output]:
        call = envelope.event.call_id
        self.handled.append((call, time.time(), envelope.message))
        if call.startswith("late") and envelope.attempt < self.times:
            raise NotYet("recording_pending", f"{call} is not there yet")
        return copy(envelope)


def waiting(stages: Stages) -> list[Message]:
    return [message for tier in RETRY_TIERS for message in stages.written(tier.topic)]


def due_s(message: Message) -> float:
    return int(message.header(h.RETRY_DUE_MS) or 0) / 1000


@pytest.mark.slow
def test_calls_that_wait_keep_their_time_and_hold_up_nobody(broker: Broker) -> None:
    stages = Stages(settings_for(broker))
    late = Late()
    stage = stage_of(each(late))
    stages.begin(stage)
    delay_s = 30.0
    policy = Policy(**(POLICY.model_dump() | {"tier_delays_s": (delay_s, 60.0, 90.0)}))
    with stages.running(stage, policy):
        stages.send(*(f"late-{number}" for number in range(6)))
        until(lambda: len(waiting(stages)) == 6)
        due = {call_of(message): due_s(message) for message in waiting(stages)}
        live = [f"live-{number}" for number in range(60)]
        for at in range(0, 60, 6):
            stages.send(*live[at : at + 6])
        until(lambda: len(stages.copied()) >= 60)
        assert sorted(stages.copied()) == sorted(live), "a late call came before its time"
        assert time.time() < min(due.values()), "live calls waited for those that were not due"
    # A restart keeps the times: they stand in the messages.
    assert time.time() < min(due.values())
    with stages.running(stage, policy):
        until(lambda: len(stages.copied()) >= 66)
    assert Counter(stages.copied()) == Counter([*live, *due])
    again = [item for item in late.handled if from_tier(stage, item[2])]
    assert Counter(call for call, _, _ in again) == Counter(list(due))
    for call, handled_s, _ in again:
        assert handled_s >= due[call] - 0.01
    assert stages.written(DEAD_LETTER) == []


@pytest.mark.slow
def test_patience_ends_in_a_dead_letter_with_the_history(broker: Broker) -> None:
    stages = Stages(settings_for(broker))
    stage = stage_of(each(Late(times=1_000)))
    stages.begin(stage)
    policy = Policy(
        **(
            POLICY.model_dump()
            | {"tier_delays_s": (0.5, 1.0, 1.5), "tier_tries": 1, "patience_s": 4.0}
        )
    )
    stages.send("late-0", "live-0")
    with stages.running(stage, policy):
        until(lambda: bool(stages.written(DEAD_LETTER)))
        until(lambda: stages.copied() == ["live-0"])
    (dead,) = stages.written(DEAD_LETTER)
    assert call_of(dead) == "late-0"
    (original,) = [m for m in stages.written(ENDED) if call_of(m) == "late-0"]
    assert dead.value == original.value
    assert (dead.header(h.ERROR_TOPIC), dead.header(h.ERROR_STAGE)) == (ENDED, stage.name)
    assert "recording_pending" in (dead.header(h.RETRY_HISTORY) or "")
    waits = waiting(stages)
    assert {message.topic for message in waits} == {tier.topic for tier in RETRY_TIERS}
    assert len(waits) >= 3
