"""What a member holds is bounded, whatever lies before it; and what it says of itself."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from services.runtime.kafka_log import KafkaLog, Statistics
from services.runtime.kafka_view import KafkaView
from services.runtime.log import Record, TopicPartition
from stack.broker import Broker
from tests.kafka.members import (
    Protocol,
    after,
    both_protocols,
    copies,
    settings_for,
    take,
    topics,
    until,
)

pytestmark = pytest.mark.kafka

_REPOSITORY = Path(__file__).parents[2]
_HOLDS = """
import os, sys, time
from services.runtime.kafka_client import KafkaSettings
from services.runtime.kafka_log import KafkaLog
from services.runtime.log import TopicPartition

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

settings, group, topic, partitions = sys.argv[1:]
log = KafkaLog(KafkaSettings.model_validate_json(settings), group, [topic])
sources = [TopicPartition(topic, number) for number in range(int(partitions))]
while not all(log.lease(source) for source in sources):
    log.messages(0, 0.1)
before = most = resident()
quiet = 0
while quiet < 40:  # until nothing more is read ahead
    ahead = sum(map(len, log._ahead.values()))
    assert log.messages(10, 0.05, sources) == []
    most = max(most, resident())
    quiet = quiet + 1 if sum(map(len, log._ahead.values())) == ahead and ahead else 0
read = 0
while read < 20:  # and it goes on where it was held
    read += len(log.messages(10, 1.0))
print((most - before) // 1_000_000, sum(map(len, log._ahead.values())))
log.close()
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_a_member_that_holds_its_partitions_keeps_little_of_a_large_backlog(
    broker: Broker,
) -> None:
    megabytes = int(os.environ.get("CALLSTREAM_TEST_BACKLOG_MB", "200"))
    settings = settings_for(broker, session_timeout_s=6.0)
    group, topic, _ = topics(settings, partitions=4)
    chance = random.Random(1)
    with closing(KafkaLog(settings)) as writer:
        for at in range(0, megabytes, 10):
            writer.commit(
                [Record(topic, b"%d" % (at + n), chance.randbytes(990_000)) for n in range(10)], {}
            )
    done = subprocess.run(
        [sys.executable, "-c", _HOLDS, settings.model_dump_json(), group, topic, "4"],
        cwd=_REPOSITORY, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    grown, ahead = map(int, done.stdout.split())
    print(f"{megabytes} MB before it, {grown} MB more held")
    assert grown < 100
    assert ahead < megabytes / 2


@both_protocols
def test_what_a_member_says_of_itself(broker: Broker, protocol: Protocol) -> None:
    settings = settings_for(broker, protocol, statistics_s=0.2)
    group, topic, target = topics(settings, 20, partitions=1)
    source = TopicPartition(topic, 0)
    told: list[Statistics] = []
    with closing(KafkaLog(settings, group, [topic], on_statistics=told.append)) as log:
        got = take(log, 20)
        log.commit(copies(got[:5], target), after(got[:5]))
        until(lambda: log.messages(0, 0.1) == [] and bool(told) and told[-1].commits == 1)
        until(lambda: log.messages(0, 0.1) == [] and told[-1].lag.get(source, 0) > 0)
        assert 15 <= told[-1].lag[source] <= 16  # a marker counts
        log.commit(copies(got[5:], target), after(got[5:]))
        until(lambda: log.messages(0, 0.1) == [] and told[-1].lag.get(source) == 0)
    assert told[-1].commits == 2
    assert told[-1].rebalances >= 1
    assert told[-1].round_trip_s
    assert (told[-1].aborts, told[-1].in_doubt, told[-1].partitions_lost) == (0, 0, 0)
    assert KafkaView(settings).committed(group) == after(got)


def test_a_writer_speaks_too(broker: Broker) -> None:
    settings = settings_for(broker, statistics_s=0.1)
    _, topic, _ = topics(settings)
    told: list[Statistics] = []
    with closing(KafkaLog(settings, on_statistics=told.append)) as writer:

        def counted() -> bool:
            writer.commit([Record(topic, b"k", b"v")], {})
            return bool(told) and told[-1].commits > 1

        until(counted)
