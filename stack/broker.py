"""A real one-node Kafka broker on loopback for the tests, without Docker.

    with Broker() as broker:
        producer = Producer({"bootstrap.servers": broker.bootstrap})

By hand: ``python -m stack.broker`` starts one, prints its address, waits for Ctrl-C.

Needs Java 17 or newer, and Maven the first time (see `stack.jars`).

How the broker dies with its process:

* In order: leaving the `with` block, or `close()`, or the `atexit` hook for who forgets both.
* By SIGKILL of the test process: on Linux the kernel then kills the broker (PR_SET_PDEATHSIG, set
  by a small step before Java). That tie is to the *thread* that started the child, so each broker
  has a keeper thread which starts it and then waits for it; the caller's thread may end sooner.
  Its data folder is deleted by the next broker that starts. On other systems the broker would
  outlive a SIGKILL of the tests.
* Not by Ctrl-C: the broker has a session of its own, so that the terminal's SIGINT reaches only
  the tests, which can then still use the broker while they clean up.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO

from confluent_kafka import Consumer, KafkaException, TopicPartition

from stack.jars import BrokerError, ensure_jars, tied

__all__ = ["Broker", "BrokerError"]

_HOST = "127.0.0.1"
_PORT_ATTEMPTS = 3
_PREFIX = "callstream-kafka-"
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
    "node.id": "1",
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


class Broker:
    """One Kafka node (broker and controller in one process) with its own temporary data folder.

    `settings` are added to, or replace, lines of ``server.properties``. Nothing runs before
    `start()` or entering the `with` block. Not safe to be steered by two threads at once; clients
    may of course connect from anywhere.

    The ports are below the kernel's range for outgoing connections. Above it, a client that
    reconnects while the broker is down could be given the broker's own port, or even be connected
    to itself on it, and `restart()` would find the port taken.
    """

    def __init__(
        self, *, settings: Mapping[str, str] | None = None, start_seconds: float = 90.0
    ) -> None:
        self._settings = dict(settings or {})
        self._start_seconds = start_seconds
        self._folder: Path | None = None
        self._claim: IO[str] | None = None
        self._jars = Path()
        self._ports = (0, 0)
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def bootstrap(self) -> str:
        """Return ``host:port`` for clients; the same from the first `start()` to `close()`."""
        if self._folder is None:
            raise BrokerError("the broker has not been started, or was closed; call start() first")
        return f"{_HOST}:{self._ports[0]}"

    @property
    def pid(self) -> int | None:
        """Return the broker's process id, or None while it does not run."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start the broker and return when it answers; does nothing if it runs already.

        After `stop()` or `kill()` it starts on the same data and ports. Raises `BrokerError`,
        with the end of the broker's log, if it dies or does not answer within `start_seconds`
        (the fetching of jars not counted); no process is left then.
        """
        if self.pid is not None:
            return
        if self._folder is not None:
            self._launch()
            return
        self._jars = ensure_jars()
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            try:
                self._format()
                self._launch()
                return
            except BaseException as error:
                # Someone may take a port between the choice and the use: choose again.
                taken = "Address already in use" in self.log_tail(400)
                self.close()
                if not (isinstance(error, BrokerError) and taken and attempt < _PORT_ATTEMPTS):
                    raise

    def stop(self, seconds: float = 30.0) -> None:
        """Shut down in order (SIGTERM) and keep the data; does nothing if it does not run.

        Raises `BrokerError` if that took longer than `seconds`; the broker was killed then.
        """
        process = self._process
        if process is None or self.pid is None:
            return
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise BrokerError(
                f"the broker did not stop in {seconds:.0f} s and was killed. Its log ends:\n"
                f"{self.log_tail()}"
            ) from error

    def kill(self) -> None:
        """End the broker as a crash would (SIGKILL) and keep the data; returns when it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """Stop it if it runs, and start it on the same data and ports; see `start()`."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop the broker and delete its data; never raises, and may be called again.

        Nothing happens in a forked child: the broker belongs to the process that made it.
        """
        if os.getpid() != self._owner:
            return
        atexit.unregister(self.close)
        with contextlib.suppress(BrokerError):
            self.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def log_tail(self, lines: int = 40) -> str:
        """Return the last lines of what the broker printed over all its starts, or ""."""
        if self._folder is None:
            return ""
        try:
            text = (self._folder / "broker.log").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def _format(self) -> None:
        """Choose ports and make a formatted data folder."""
        _delete_orphans()
        folder = self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        atexit.register(self.close)
        self._claim = _claim(folder)
        client, controller = self._ports = _free_ports()
        settings = {
            **_SETTINGS,
            "listeners": f"PLAINTEXT://{_HOST}:{client},CONTROLLER://{_HOST}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{_HOST}:{client}",
            "controller.quorum.bootstrap.servers": f"{_HOST}:{controller}",
            "log.dirs": str(folder / "data"),
            **self._settings,
        }
        text = "".join(f"{key}={value}\n" for key, value in settings.items())
        (folder / "server.properties").write_text(text, encoding="utf-8")
        (folder / "log4j2.properties").write_text(_LOG4J, encoding="utf-8")
        (folder / "tmp").mkdir()
        arguments = ("format", "--standalone", "--cluster-id", _cluster_id(), "--config")
        command = tied([*self._java("kafka.tools.StorageTool"), *arguments, self._config])
        with (folder / "broker.log").open("ab") as log:
            try:
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    timeout=self._start_seconds,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise self._failure(
                    f"formatting the data folder took longer than {self._start_seconds:.0f} s"
                ) from error
        if done.returncode != 0:
            raise self._failure(
                f"formatting the data folder failed (exit status {done.returncode})"
            )

    def _launch(self) -> None:
        """Start the formatted broker and wait until it answers."""
        command = tied([*self._java("kafka.Kafka"), self._config])
        log_file = self._home / "broker.log"
        born = threading.Event()
        trouble: list[OSError] = []

        def keep() -> None:
            try:
                with log_file.open("ab") as log:
                    self._process = subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
            except OSError as error:
                trouble.append(error)
                return
            finally:
                born.set()
            self._process.wait()

        # A daemon, or the interpreter would wait for it before the atexit hook stops the broker.
        threading.Thread(target=keep, name="kafka-keeper", daemon=True).start()
        born.wait()
        if trouble:
            raise BrokerError(f"the broker's process cannot be started: {trouble[0]}")
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.kill()
            raise

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + self._start_seconds
        # The client is made only when the port is open, so it need not back off and try again.
        while not _accepts(self._ports[0]):
            self._check_life(deadline)
            time.sleep(0.05)
        client = Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": "readiness", "log_level": 0}
        )
        try:
            while not _serves(client):
                self._check_life(deadline)
                time.sleep(0.05)
        finally:
            client.close()

    def _check_life(self, deadline: float) -> None:
        if self._process is None or self._process.poll() is not None:
            status = None if self._process is None else self._process.returncode
            raise self._failure(f"the broker ended while starting (exit status {status})")
        if time.monotonic() > deadline:
            raise self._failure(f"the broker did not answer within {self._start_seconds:.0f} s")

    def _failure(self, what: str) -> BrokerError:
        tail = self.log_tail()
        mend = ""
        if "UnsupportedClassVersionError" in tail or "Unrecognized VM option" in tail:
            mend = " The Java found is too old or another kind: put Java 17 or newer on PATH."
        return BrokerError(f"{what}.{mend} Its log ends:\n{tail or '(nothing was printed)'}")

    @property
    def _home(self) -> Path:
        assert self._folder is not None
        return self._folder

    @property
    def _config(self) -> str:
        return str(self._home / "server.properties")

    def _java(self, main_class: str) -> list[str]:
        """Return the command line up to `main_class`."""
        home = os.environ.get("JAVA_HOME")
        java = shutil.which("java", path=str(Path(home) / "bin") if home else None)
        if java is None:
            where = f"in $JAVA_HOME ({home})" if home else "on PATH"
            raise BrokerError(
                f"no `java` {where}. Install Java 17 or newer (Debian, Ubuntu: apt-get install "
                "openjdk-17-jre-headless) or point JAVA_HOME to one."
            )
        return [
            *(java, *_JVM, f"-Djava.io.tmpdir={self._home / 'tmp'}"),
            f"-Dlog4j2.configurationFile={self._home / 'log4j2.properties'}",
            *("-cp", f"{self._jars}/*", main_class),
        ]


def _cluster_id() -> str:
    """Return a random id in Kafka's form; a leading dash would read as an option."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode("ascii").rstrip("=")
        if not text.startswith("-"):
            return text


def _claim(folder: Path) -> IO[str]:
    """Mark `folder` as ours for as long as the returned file is open, or until we die.

    The mark gets its name when it is locked already, so nobody can see it unlocked before.
    """
    file = (folder / "claim.new").open("w", encoding="ascii")
    fcntl.flock(file, fcntl.LOCK_EX)
    (folder / "claim.new").rename(folder / "claim")
    return file


def _delete_orphans() -> None:
    """Delete the folders of brokers whose processes were killed; passes over what it may not."""
    for mark in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/claim"):
        with contextlib.suppress(OSError), mark.open("a", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(mark.parent, ignore_errors=True)


def _free_ports() -> tuple[int, int]:
    """Return two ports of loopback that nobody listens on, below the outgoing range."""
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
        top = int(text.split()[0])
    except (OSError, ValueError, IndexError):
        top = 32768
    # A machine with hardly any room below its outgoing range has to share that range.
    candidates = range(15000, top) if top >= 16000 else range(15000, 65536)
    free: list[int] = []
    for port in random.SystemRandom().sample(candidates, 200):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
        free.append(port)
        if len(free) == 2:
            return free[0], free[1]
    raise BrokerError(f"of 200 ports tried on {_HOST} fewer than two were free")


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((_HOST, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _serves(client: Consumer) -> bool:
    """Tell whether the node is in its own metadata and answers for every partition there is.

    Metadata alone is not enough: it names the leader a moment before the leader acts as one.
    """
    try:
        cluster = client.list_topics(timeout=1.0)
        for name, topic in cluster.topics.items():
            for partition in topic.partitions:
                client.get_watermark_offsets(TopicPartition(name, partition), timeout=2.0)
    except KafkaException:
        return False
    return bool(cluster.brokers)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run a broker until Ctrl-C or SIGTERM; returns 1 if it could not start or ended by itself."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        with Broker() as broker:
            print(broker.bootstrap, flush=True)
            while broker.pid is not None:
                time.sleep(0.2)
            print(f"the broker ended; its log ends:\n{broker.log_tail()}", file=sys.stderr)
    except KeyboardInterrupt:
        return 0
    except BrokerError as error:
        print(error, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
