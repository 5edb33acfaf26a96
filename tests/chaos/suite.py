"""The suite as it runs in production, on this machine: servers, links and stages that can fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from schemas.topics import TOPICS
from services.assembly import Parts, project_root
from services.runtime.errors import Transient
from services.runtime.kafka_view import KafkaView
from services.runtime.objects import S3Objects
from services.settings import PREFIX, Settings, load
from services.sink.settings import SinkSettings
from services.sink.warehouse import Warehouse
from stack.broker import Broker
from stack.clickhouse import ClickHouse
from stack.s3 import ACCESS_KEY, SECRET_KEY, Versitygw
from stack.server import Server, tied
from tests.chaos.plan import SERVERS, STAGES, Fault
from tests.chaos.proxy import HOST, Proxies

BUCKET = "callstream"
PARTITIONS = 6
# How long calls may wait for a recording before they are given up.
PATIENCE_S = 30.0

# As in production but for times: what takes minutes there must take seconds here, so that a run of
# minutes sees it often. A pause of up to 10 s outlasts a session: what then goes on is a zombie.
PROFILE: Mapping[str, str] = {
    "LOG__KIND": "kafka",
    "LOG__KAFKA__REPLICATION_FACTOR": "1",
    "LOG__KAFKA__SESSION_TIMEOUT_S": "6",
    "LOG__KAFKA__POLL_TIMEOUT_S": "30",
    "LOG__KAFKA__TRANSACTION_TIMEOUT_S": "8",
    "LOG__KAFKA__REQUEST_TIMEOUT_S": "6",
    "OBJECTS__KIND": "s3",
    "OBJECTS__BUCKET": BUCKET,
    "OBJECTS__ACCESS_KEY": ACCESS_KEY,
    "OBJECTS__SECRET_KEY": SECRET_KEY,
    "OBJECTS__SECURE": "false",
    "LOOP__IN_FLIGHT": "256",
    "LOOP__BACKOFF_S": "0.1",
    "LOOP__COMMIT_WAIT_S": "0.25",
    "LOOP__BACKOFF_MAX_S": "2",
    "LOOP__TIER_DELAYS_S": "[1, 2, 4]",
    "LOOP__PATIENCE_S": str(PATIENCE_S),
    "TRANSCRIBE__ENGINE": "stub",
    "TRANSCRIBE__WORKERS": "2",
    "SINK__WAIT_S": "0.5",
    "SINK__ANSWER_TIMEOUT_S": "30",
    "SINK__CONNECT_TIMEOUT_S": "3",
    "LOG_LEVEL": "WARNING",
}

# What makes the stub's words say something: a topic, and now and then an alert.
_RULES = {
    "alerts.yaml": """\
version: "1.0"
alerts:
  - id: papa
    title: Somebody says papa
    severity: low
    when:
      said: [papa]
    suggested_action: None.
""",
    "lexicons/spelling.yaml": """\
version: "1.0"
languages: [en]
classes:
  - id: alfa
    kind: topic
    title: Alfa
    negated: same
    phrases: [alfa, bravo, charlie]
""",
}


class Stage:
    """A stage as a process of its own. Not safe to be steered by two threads at once."""

    def __init__(self, name: str, environ: Mapping[str, str], log: Path) -> None:
        self.name = name
        self._environ, self._log = dict(environ), log
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def exit_status(self) -> int | None:
        """With what the last one ended; None while it runs."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start it, and return at once."""
        if self.pid is not None:
            return
        self.starts += 1
        born = threading.Event()

        def keep() -> None:  # the kernel ties the child to the thread that starts it
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    tied([sys.executable, "-m", f"services.{self.name}"]),
                    cwd=project_root(), env=self._environ, stdin=subprocess.DEVNULL, stdout=log,
                    stderr=log, start_new_session=True,
                )  # fmt: skip
            born.set()
            self._process.wait()

        threading.Thread(target=keep, name=f"{self.name}-keeper", daemon=True).start()
        born.wait()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self, seconds: float = 30.0) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(seconds)


class Suite:
    """Servers behind proxies, and the four stages. Enter it to start the servers.

    `links` are what the stages go through; `broker`, `s3` and `clickhouse` are reached directly by
    who watches.
    """

    def __init__(
        self,
        folder: Path,
        overrides: Mapping[str, str] | None = None,
        protocol: str = "classic",
        named: bool = True,
    ) -> None:
        """`named`: each stage has a name in its group that it keeps over restarts."""
        self.folder = folder
        self._named = named and protocol == "classic"
        self._overrides = dict(overrides or {})
        self._protocol = protocol
        self._stack = ExitStack()
        self.stages: dict[str, Stage] = {}
        self.servers: dict[str, Server] = {}
        self.peaks: dict[str, int] = {}
        """Largest resident memory of each process so far, in KiB."""

    def __enter__(self) -> Suite:
        with ExitStack() as stack:
            links = self.links = stack.enter_context(Proxies(SERVERS))
            broker = Broker(advertised=links.address("kafka"))
            self.broker = stack.enter_context(broker)
            self.s3 = stack.enter_context(Versitygw())
            self.clickhouse = stack.enter_context(ClickHouse())
            self.servers = {
                "kafka": self.broker, "s3": self.s3, "clickhouse": self.clickhouse,
            }  # fmt: skip
            for name, address in self._addresses().items():
                links.lead(name, int(address.rpartition(":")[2]))
            self._environ = {
                **{k: v for k, v in os.environ.items() if not k.startswith(PREFIX)},
                **{PREFIX + key: value for key, value in self._keys().items()},
                "PYTHONFAULTHANDLER": "1",
            }
            stack.callback(self._end_stages)
            self._prepare()
            for name in STAGES:
                own = {
                    PREFIX + "DATA_DIR": str(self.folder / name),
                    PREFIX + "LOG__KAFKA__GROUP_INSTANCE_ID": f"{name}-0" if self._named else "",
                }
                log = self.folder / f"{name}.log"
                self.stages[name] = Stage(name, {**self._environ, **own}, log)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _addresses(self) -> dict[str, str]:
        """Of the servers themselves, host:port."""
        return {
            "kafka": self.broker.bootstrap,
            "s3": self.s3.endpoint,
            "clickhouse": self.clickhouse.url.removeprefix("http://"),
        }

    def _keys(self) -> dict[str, str]:
        rules = self.folder / "rules"
        return {
            **PROFILE,
            "LOG__KAFKA__BOOTSTRAP": self.links.address("kafka"),
            "LOG__KAFKA__GROUP_PROTOCOL": self._protocol,
            "OBJECTS__ENDPOINT": self.links.address("s3"),
            "SINK__URL": f"http://{self.links.address('clickhouse')}",
            "ENRICH__RULES_DIR": str(rules),
            **self._overrides,
        }

    def _prepare(self) -> None:
        for name, text in _RULES.items():
            path = self.folder / "rules" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.objects.check(create=True)
        self.view.create({topic.name: PARTITIONS for topic in TOPICS})

    @property
    def settings(self) -> Settings:
        """The settings of the stages, but through no link that can fail."""
        before = dict(os.environ)
        os.environ.clear()
        os.environ.update(self._environ)
        os.environ[PREFIX + "LOG__KAFKA__BOOTSTRAP"] = self.direct_bootstrap
        os.environ[PREFIX + "OBJECTS__ENDPOINT"] = self.s3.endpoint
        os.environ[PREFIX + "SINK__URL"] = self.clickhouse.url
        os.environ[PREFIX + "DATA_DIR"] = str(self.folder / "watcher")
        try:
            return load()
        finally:
            os.environ.clear()
            os.environ.update(before)

    @property
    def direct_bootstrap(self) -> str:
        """The broker's listener that no proxy stands before."""
        return f"{HOST}:{self.broker._port('inner')}"

    @property
    def parts(self) -> Parts:
        return Parts(self.settings)

    @property
    def view(self) -> KafkaView:
        return KafkaView(self.settings.log.kafka)

    @property
    def objects(self) -> S3Objects:
        return S3Objects(
            self.s3.endpoint, BUCKET, access_key=ACCESS_KEY, secret_key=SECRET_KEY, secure=False
        )

    def warehouse(self) -> Warehouse:
        """A warehouse that only reads: nothing is migrated."""
        return Warehouse(SinkSettings(url=self.clickhouse.url, answer_timeout_s=60))

    def start(self) -> None:
        for stage in self.stages.values():
            stage.start()

    def process(self, target: str) -> Stage | Server:
        return self.stages[target] if target in self.stages else self.servers[target]

    def strike(self, fault: Fault) -> None:
        """Carry `fault` out; returns when it is over and its target runs again."""
        if fault.kind == "cut":
            self.links.cut(fault.target, fault.for_s)
            time.sleep(fault.for_s)
        elif fault.kind == "hole":
            self.links.swallow(fault.target, fault.for_s)
            time.sleep(fault.for_s)
        elif fault.kind == "kill":
            process = self.process(fault.target)
            self.note_memory()
            process.kill()
            time.sleep(fault.for_s)
            process.start()
        else:
            pid = self.process(fault.target).pid
            if pid is None:
                return
            os.kill(pid, signal.SIGSTOP)
            try:
                time.sleep(fault.for_s)
            finally:
                os.kill(pid, signal.SIGCONT)

    def note_memory(self) -> dict[str, int]:
        """Resident memory of each process now, in KiB; the peaks are kept in `peaks`."""
        now = {}
        for name in (*STAGES, *SERVERS):
            pid = self.process(name).pid
            if pid is None:
                continue
            now[name], peak = _memory_kib(pid)
            self.peaks[name] = max(peak, self.peaks.get(name, 0))
        return now

    def behind(self) -> dict[str, int]:
        """What each stage has not finished of its sources; markers of transactions count too."""
        behind = dict.fromkeys(STAGES, 0)
        try:
            for (stage, _), lag in self.parts.lags().items():
                behind[stage] += lag
        except Transient:
            return {}
        return behind

    def ended(self) -> list[str]:
        """Stages that have ended by themselves."""
        return [
            f"{name} ended with status {stage.exit_status}"
            for name, stage in self.stages.items()
            if stage.exit_status is not None and stage.exit_status != -signal.SIGKILL
        ]

    def _end_stages(self) -> None:
        for stage in self.stages.values():
            stage.kill()

    def tails(self, lines: int = 8) -> str:
        """The last lines that each stage wrote."""
        found = []
        for name in STAGES:
            path = self.folder / f"{name}.log"
            if path.exists():
                text = path.read_text("utf-8", "replace").splitlines()[-lines:]
                found.append("\n".join((f"-- {name}", *(line[:600] for line in text))))
        return "\n".join(found)


def _memory_kib(pid: int) -> tuple[int, int]:
    """Resident memory of a process, now and at its peak; 0 where it is gone."""
    sizes = {"VmRSS": 0, "VmHWM": 0}
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in sizes:
                sizes[name] = int(value.split()[0])
    except (FileNotFoundError, ProcessLookupError):
        pass
    return sizes["VmRSS"], sizes["VmHWM"]
