"""The test broker keeps what the other tests build on: transactions, isolation, durability."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from stack.broker import Broker, BrokerError
from tests.kafka.fixtures import absent

pytestmark = pytest.mark.kafka

_REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def own_broker() -> Iterator[Broker]:
    """Give a broker that the test may ill-treat, started by a thread that has ended."""
    broker = Broker()
    errors: list[BrokerError] = []

    def start() -> None:
        try:
            broker.start()
        except BrokerError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    if errors:
        absent(errors[0])
    yield broker
    broker.close()


def _topic(broker: Broker) -> str:
    name = f"check-{uuid.uuid4().hex}"
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=1)])[name].result(30)
    return name


def _produce(broker: Broker, topic: str, values: list[bytes], *, commit: bool = True) -> None:
    producer = Producer(
        {"bootstrap.servers": broker.bootstrap, "transactional.id": uuid.uuid4().hex}
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(30) == 0
    if commit:
        producer.commit_transaction(30)
    else:
        producer.abort_transaction(30)


def _consume(
    broker: Broker, topic: str, count: int, isolation: str = "read_committed"
) -> list[bytes | str | None]:
    """Return the first `count` values; as offsets are read in order, what is missing was skipped.

    Reading up to the end offset instead would be wrong: a commit is acknowledged before its
    markers are written, so for a moment the end that read_committed sees is still before it.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": uuid.uuid4().hex,
            "isolation.level": isolation,
            "enable.auto.commit": False,
        }
    )
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        values: list[bytes | str | None] = []
        deadline = time.monotonic() + 30
        while len(values) < count:
            assert time.monotonic() < deadline, f"only {values}"
            message = consumer.poll(0.2)
            if message is None:
                continue
            error = message.error()
            if error is not None:
                raise KafkaException(error)
            values.append(message.value())
        return values
    finally:
        consumer.close()


def test_committed_is_seen_and_aborted_is_not(broker: Broker) -> None:
    topic = _topic(broker)
    _produce(broker, topic, [b"1", b"2"])
    _produce(broker, topic, [b"never"], commit=False)
    _produce(broker, topic, [b"3"])
    assert _consume(broker, topic, 3) == [b"1", b"2", b"3"]
    assert _consume(broker, topic, 4, "read_uncommitted") == [b"1", b"2", b"never", b"3"]


def test_topics_are_not_created_by_use(broker: Broker) -> None:
    missing = f"missing-{uuid.uuid4().hex}"
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    assert admin.list_topics(missing, timeout=30).topics[missing].error is not None
    assert missing not in admin.list_topics(timeout=30).topics


def test_restart_and_crash_keep_data_and_address(own_broker: Broker) -> None:
    broker, bootstrap = own_broker, own_broker.bootstrap
    topic = _topic(broker)
    _produce(broker, topic, [b"first"])

    pid = broker.pid
    broker.restart()
    assert broker.pid not in (None, pid)
    assert broker.bootstrap == bootstrap
    assert _consume(broker, topic, 1) == [b"first"]

    _produce(broker, topic, [b"second"])
    broker.kill()
    broker.start()
    _produce(broker, topic, [b"third"])
    assert _consume(broker, topic, 3) == [b"first", b"second", b"third"]


@pytest.mark.skipif(sys.platform != "linux", reason="relies on PR_SET_PDEATHSIG")
def test_dies_with_its_process(broker: Broker, tmp_path: Path) -> None:
    # The fixture is asked for only so that absence was dealt with and the jars are there.
    program = (
        "import time\n"
        "from stack.broker import Broker\n"
        "broker = Broker()\n"
        "broker.start()\n"
        "print(broker.pid, flush=True)\n"
        "time.sleep(300)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=_REPOSITORY,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # what it leaves behind goes there
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert _runs(pid)
        process.kill()
    deadline = time.monotonic() + 10
    while _runs(pid):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            pytest.fail("the broker outlived its process by 10 s")
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    """Tell whether a process is there that is more than a zombie."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_broker_that_cannot_start_says_why(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BrokerError, match=r"formatting (.|\n)*num\.io\.threads"):
        Broker(settings={"num.io.threads": "0"}).start()
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    with pytest.raises(BrokerError, match="Install Java 17"):
        Broker().start()
