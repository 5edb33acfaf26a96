"""Real Kafka on loopback, without Docker: one node, or three.

    with Broker() as broker:
        producer = Producer({"bootstrap.servers": broker.bootstrap})

Needs Java 17 or newer, and Maven the first time (see `stack.jars`).
"""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from confluent_kafka import Consumer, KafkaException, TopicPartition

from stack.jars import Artifacts
from stack.server import HOST, Server, ServerError, accepts, free_ports, java, java_mend

__all__ = ["Broker", "BrokerError", "Cluster"]

BrokerError = ServerError

_KAFKA = Artifacts(
    "kafka", Path(__file__).with_name("pom.xml"), "copy-dependencies", "kafka_2.13-{}.jar"
)
_JVM = (
    *("-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
    *("-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true"),
)
_LOG4J = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %-5p %c{1}: %m%n
rootLogger.level = INFO
rootLogger.appenderRef.out.ref = out
"""
_SETTINGS = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    # One node: one replica of everything, and few partitions of what the broker keeps itself.
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "3",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "3",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    # Groups form at once, and a client that died is missed after seconds (defaults: 3 s wait,
    # 45 s session; a session of less than 6 s would be refused to classic members).
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.heartbeat.interval.ms": "100",
    "group.consumer.heartbeat.interval.ms": "1000",
    # Transactions past their timeout are aborted after 1 s, not 10 s.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    # No retention: the check that would delete segments comes first after 24 days.
    "log.retention.check.interval.ms": "2147483647",
    "log.retention.ms": "-1",
    # A stopped stage keeps its place as long as any topic of the catalogue its messages.
    "offsets.retention.minutes": "129600",
    # The cleaner of compacted topics takes this from the heap at once (default: 128 MiB).
    "log.cleaner.dedupe.buffer.size": "4194304",
    # After a crash the controller takes the broker back only when its old session has run out
    # (defaults: 9 s, asked for every 2 s). Less than 3 s might fence it on a busy machine.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "250",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
}


@dataclass(frozen=True)
class _Seat:
    """A node's place in a cluster; `voters` are the controllers of all, `id@host:port`."""

    cluster_id: str
    voters: str
    ports: Mapping[str, int]


class Broker(Server):
    """One Kafka node, broker and controller in one process.

    `settings` are added to, or replace, lines of ``server.properties``. Its listeners are CLIENTS
    (`bootstrap`), INNER (what it says to itself, to other nodes and to who asks whether it is
    ready) and CONTROLLER; all are PLAINTEXT unless ``listener.security.protocol.map`` says
    otherwise. `advertised` is the ``host:port`` that clients are told to come to: a proxy's, say.
    """

    called = "broker"
    port_names = ("clients", "inner", "controller")

    def __init__(
        self,
        folder: Path | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        advertised: str | None = None,
        start_seconds: float = 90.0,
        node_id: int = 1,
        seat: _Seat | None = None,
    ) -> None:
        super().__init__(folder, start_seconds=start_seconds)
        self._settings = dict(settings or {})
        self._advertised = advertised
        self._node_id = node_id
        self._seat = seat
        self._jars = Path()

    @property
    def bootstrap(self) -> str:
        """``host:port`` for clients; the same from the first `start()` to `close()`."""
        return f"{HOST}:{self._port('clients')}"

    def _fetch(self) -> None:
        java()
        self._jars = _KAFKA.fetched()

    def _choose_ports(self) -> dict[str, int]:
        return dict(self._seat.ports) if self._seat else super()._choose_ports()

    def _prepare(self) -> None:
        clients, inner, controller = (f"{HOST}:{self._port(name)}" for name in self.port_names)
        if self._seat:
            quorum = {"controller.quorum.voters": self._seat.voters}
        else:
            quorum = {"controller.quorum.bootstrap.servers": controller}
        settings = {
            **_SETTINGS,
            "node.id": str(self._node_id),
            "listeners": f"CLIENTS://{clients},INNER://{inner},CONTROLLER://{controller}",
            "advertised.listeners": f"CLIENTS://{self._advertised or clients},INNER://{inner}",
            "listener.security.protocol.map": "CLIENTS:PLAINTEXT,INNER:PLAINTEXT,"
            "CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "INNER",
            **quorum,
            "log.dirs": str(self.folder / "data"),
            **self._settings,
        }
        text = "".join(f"{key}={value}\n" for key, value in settings.items())
        (self.folder / "server.properties").write_text(text, encoding="utf-8")
        (self.folder / "log4j2.properties").write_text(_LOG4J, encoding="utf-8")
        (self.folder / "tmp").mkdir(exist_ok=True)
        cluster_id = self._seat.cluster_id if self._seat else _cluster_id()
        self._run_to_end(
            [
                *self._java("kafka.tools.StorageTool"),
                *("format", "--ignore-formatted", "--cluster-id", cluster_id),
                *(() if self._seat else ("--standalone",)),
                *("--config", self._config),
            ],
            "formatting the data folder",
        )

    def _command(self) -> Sequence[str]:
        return [*self._java("kafka.Kafka"), self._config]

    def _answers(self) -> bool:
        """Whether the node is in its own metadata and leads every partition that it should.

        Metadata alone is not enough: it names the leader a moment before the leader acts as one.
        """
        # The client is made only when the port is open, so it need not back off and try again.
        if not accepts(self._port("inner")):
            return False
        client = Consumer(
            {
                "bootstrap.servers": f"{HOST}:{self._port('inner')}",
                "group.id": "readiness",
                "log_level": 0,
            }
        )
        try:
            cluster = client.list_topics(timeout=1.0)
            if self._node_id not in cluster.brokers:
                return False
            for name, topic in cluster.topics.items():
                for partition in topic.partitions.values():
                    if not self._seat or partition.leader == self._node_id:
                        asked = TopicPartition(name, partition.id)
                        client.get_watermark_offsets(asked, timeout=2.0)
        except KafkaException:
            return False
        finally:
            client.close()
        return True

    def _mend(self, log: str) -> str:
        return java_mend(log)

    @property
    def _config(self) -> str:
        return str(self.folder / "server.properties")

    def _java(self, main_class: str) -> list[str]:
        """The command line up to `main_class`."""
        return [
            *(java(), *_JVM, f"-Djava.io.tmpdir={self.folder / 'tmp'}"),
            f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}",
            *("-cp", f"{self._jars}/*", main_class),
        ]


class Cluster:
    """Several Kafka nodes, each broker and controller; everything has a replica on three of them.

    A write is acknowledged when two have it. Of three nodes one may be gone: each of `nodes` can
    be stopped, killed and started again by itself while the others are a majority. After all were
    killed `start()` brings them back together.
    """

    def __init__(
        self,
        size: int = 3,
        *,
        settings: Mapping[str, str] | None = None,
        start_seconds: float = 120.0,
    ) -> None:
        replicas = str(min(size, 3))
        replicated = {
            "default.replication.factor": replicas,
            "min.insync.replicas": str(min(size, 2)),
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": str(min(size, 2)),
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": str(min(size, 2)),
        }
        names = Broker.port_names
        chosen = free_ports(size * len(names))
        ports = [
            dict(zip(names, chosen[at : at + len(names)], strict=True))
            for at in range(0, len(chosen), len(names))
        ]
        voters = ",".join(
            f"{number}@{HOST}:{each['controller']}" for number, each in enumerate(ports, 1)
        )
        identity = _cluster_id()
        self.nodes = [
            Broker(
                settings={**replicated, **(settings or {})},
                start_seconds=start_seconds,
                node_id=number,
                seat=_Seat(identity, voters, each),
            )
            for number, each in enumerate(ports, 1)
        ]
        self.bootstrap = ",".join(f"{HOST}:{each['clients']}" for each in ports)

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start every node that does not run; returns when all answer. Raises `ServerError`."""
        idle = [node for node in self.nodes if node.pid is None]
        try:
            # A node alone cannot answer: together they are the majority that one needs.
            with ThreadPoolExecutor(len(self.nodes)) as pool:
                list(pool.map(Broker.launch, idle))
            for node in idle:
                node.await_answer()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Shut down in order and keep the data."""
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(Broker.stop, self.nodes))

    def kill(self) -> None:
        """End every node as a crash would, and keep the data."""
        for node in self.nodes:
            node.kill()

    def close(self) -> None:
        """Stop every node and delete the data; never raises."""
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(Broker.close, self.nodes))

    def await_in_sync(self, seconds: float = 60.0) -> None:
        """Return when every partition has all its replicas in sync; `ServerError` after `seconds`.

        Only then the next node can go without taking the last copy that is up to date.
        """
        deadline = time.monotonic() + seconds
        client = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "sync", "log_level": 0})
        behind = ["every partition: no node answers"]
        try:
            while behind:
                if time.monotonic() > deadline:
                    raise ServerError(f"not in sync after {seconds:.0f} s: {', '.join(behind[:9])}")
                try:
                    topics = client.list_topics(timeout=2.0).topics
                except KafkaException:
                    continue
                behind = [
                    f"{name}/{partition.id}"
                    for name, topic in topics.items()
                    for partition in topic.partitions.values()
                    if set(partition.isrs) != set(partition.replicas)
                ]
                if behind:
                    time.sleep(0.1)
        finally:
            client.close()


def _cluster_id() -> str:
    """A random id in Kafka's form; a leading dash would read as an option."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode("ascii").rstrip("=")
        if not text.startswith("-"):
            return text
