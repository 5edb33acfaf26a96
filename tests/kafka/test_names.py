"""Members with a name of their own, `group_instance_id`: whoever comes back under it goes on."""

from __future__ import annotations

import signal
import time
from contextlib import closing, suppress

import pytest

from services.runtime.errors import Transient
from services.runtime.kafka_client import KafkaSettings
from services.runtime.kafka_log import KafkaLog
from services.runtime.log import Record
from stack.broker import Broker
from tests.kafka.members import (
    after,
    copies,
    copy,
    line,
    member,
    numbers,
    settings_for,
    take,
    topics,
    until,
    written,
)

pytestmark = pytest.mark.kafka

SESSION_S = 30.0


def test_who_was_killed_in_a_transaction_goes_on_at_once(broker: Broker) -> None:
    """Before its session or its transaction have timed out, and with what it had not committed."""
    settings = settings_for(
        broker, session_timeout_s=SESSION_S, transaction_timeout_s=60.0, group_instance_id="one"
    )
    group, source, target = topics(settings, 10)
    with member(settings, group, source, target, "open") as child:
        assert line(child) == "read"
        child.kill()
        child.wait()
    began = time.monotonic()
    with closing(KafkaLog(settings, group, [source])) as log:
        got = take(log, 10)
        assert time.monotonic() - began < SESSION_S / 2
        log.commit(copies(got, target), after(got))
    until(lambda: written(settings, target) == numbers(10))


def test_of_two_processes_of_one_name_one_is_told(broker: Broker) -> None:
    settings = settings_for(broker, session_timeout_s=SESSION_S, group_instance_id="one")
    group, source, target = topics(settings, 10)
    with (
        closing(KafkaLog(settings, group, [source])) as first,
        closing(KafkaLog(settings, group, [source])) as second,
    ):
        asked = [first]

        def both() -> bool:
            for log in (first, second):
                asked[0] = log
                copy(log, target)
            return False

        with pytest.raises(ValueError, match="GROUP_INSTANCE_ID=one: another process of group"):
            until(both)
        left = first if asked == [second] else second
        until(lambda: copy(left, target) >= 0 and written(settings, target).total() >= 10)
        with closing(KafkaLog(settings)) as writer:
            writer.commit([Record(source, b"k", b"10")], {})
        until(lambda: copy(left, target) > 0)
    until(lambda: written(settings, target) == numbers(11))


def test_a_zombie_of_the_name_commits_nothing(broker: Broker) -> None:
    settings = settings_for(broker, session_timeout_s=SESSION_S, group_instance_id="one")
    group, source, target = topics(settings, 10)
    with member(settings, group, source, target, "stop") as zombie:
        assert line(zombie) == "read"
        zombie.send_signal(signal.SIGSTOP)
        with closing(KafkaLog(settings, group, [source])) as log:
            got = take(log, 10)
            log.commit(copies(got, target), after(got))
            assert zombie.stdin is not None
            zombie.stdin.write("\n")
            zombie.stdin.flush()
            zombie.send_signal(signal.SIGCONT)
            assert line(zombie) in ("Lost", "Transient")
            until(lambda: copy(log, target) >= 0 and log.lease(got[0].source) is not None)
    until(lambda: written(settings, target).total() >= 10)
    assert written(settings, target) == numbers(10)


def test_a_client_that_is_taken_for_another_once_goes_on(broker: Broker) -> None:
    settings = settings_for(broker, session_timeout_s=SESSION_S, group_instance_id="one")
    group, source, target = topics(settings, 10)
    with closing(KafkaLog(settings, group, [source])) as log:
        take(log, 10)
        before = log._consumer
        with closing(KafkaLog(settings, group, [source])) as other:
            take(other, 10)

        def renewed() -> bool:
            with suppress(Transient):
                log.messages(0, 0.1)
            return log._consumer is not before

        until(renewed)
        until(lambda: copy(log, target) >= 0 and written(settings, target).total() >= 10)
    until(lambda: written(settings, target) == numbers(10))


def test_one_that_was_stopped_finds_its_partitions_kept(broker: Broker) -> None:
    """Others take them only after its session: a restart moves nothing."""
    settings = settings_for(broker, session_timeout_s=SESSION_S)
    named = [settings.model_copy(update={"group_instance_id": name}) for name in ("a", "b")]
    group, source, _ = topics(settings, 0, partitions=4)
    with closing(KafkaLog(named[0], group, [source])) as stays:
        stopped = KafkaLog(named[1], group, [source])

        def shared() -> bool:
            for log in (stays, stopped):
                with suppress(Transient):  # a broker that others keep busy: the loop comes again
                    log.messages(1, 0.1)
            return len(stays._leases) == len(stopped._leases) == 2

        until(shared)
        held, its = stays._leases.copy(), set(stopped._leases)
        stopped.close()
        with closing(KafkaLog(named[1], group, [source])) as back:

            def had() -> bool:
                for log in (stays, back):
                    log.messages(1, 0.1)
                return len(back._leases) == 2

            until(had)
            assert set(back._leases) == its
            assert stays._leases == held


def test_names_are_for_the_classic_protocol() -> None:
    with pytest.raises(ValueError, match="group_instance_id"):
        KafkaSettings(group_protocol="consumer", group_instance_id="one")


@pytest.mark.parametrize("name", ["a b", "a/b", "x" * 201])
def test_names_that_the_broker_would_refuse_are_refused_as_settings(name: str) -> None:
    with pytest.raises(ValueError, match="group_instance_id"):
        KafkaSettings(group_instance_id=name)
