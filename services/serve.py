"""Runs stages until they are told to stop: one as a service of its own, or all in one process."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from services.assembly import Parts
from services.ingest.entrances import DropFolder
from services.loopback import Loopback, in_use
from services.notify.handler import PREFIX as PREFIX_OF_ENDPOINTS
from services.runtime.errors import Transient
from services.runtime.log import Log, NoSuchTopic
from services.runtime.loop import run
from services.runtime.observe import HealthServer, configure_logs, logger
from services.runtime.process import topics_of
from services.runtime.scratch import scratch
from services.runtime.sqlite_log import SqliteView
from services.runtime.stage import Stage
from services.settings import PREFIX, Settings, WrongSetting, data_folder, load

# How long a thread at work in Python keeps others waiting.
_SWITCH_S = 0.0005
# How often a log that cannot be opened yet is tried again.
_REOPEN_S = 2.0


def collect_rarely() -> None:
    """Let Python look for cycles less often than by default, in this process.

    A batch of events is many small objects that live together and make no cycles: going through
    them again and again took half of the time in which the sink makes rows, and a fifth of that in
    which a long call is enriched.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 10, 10)


def switch_often() -> None:
    """Let threads of this process, which is to be a service, wait less for one another.

    Those of a live call come back from log and warehouse a hundred times: each time they would
    wait 5 ms for one that is at work on a replay.
    """
    sys.setswitchinterval(_SWITCH_S)


class AlreadyRunning(Exception):
    """Another process runs the embedded suite on this data folder."""


class Running:
    """Stages at work in threads of this process. `failed` says what ended one before its time."""

    def __init__(
        self, parts: Parts, names: Sequence[str], stop: threading.Event | None = None
    ) -> None:
        self.parts = parts
        self.stop = stop or threading.Event()
        self.failed: dict[str, BaseException] = {}
        self.health_url = ""
        self._rarely = not {"enrich", "sink"}.isdisjoint(names)
        # Made here, so that a wrong setting or a missing model stops the start.
        stages = [parts.stage(name) for name in names]
        self._threads = [
            threading.Thread(target=self._run, args=(stage,), name=stage.name, daemon=True)
            for stage in stages
        ]
        self._measuring = threading.Thread(
            target=parts.watch(names).run, args=(self.stop,), name="watch", daemon=True
        )
        if isinstance(parts.view, SqliteView):
            self._threads.append(
                threading.Thread(
                    target=self._expire, args=(parts.view,), name="expiry", daemon=True
                )
            )
        folder = parts.settings.ingest.drop_folder
        if "ingest" in names and folder is not None:
            self._threads.append(
                threading.Thread(target=self._watch, name="drop folder", daemon=True)
            )

    def start(self) -> None:
        if self._rarely:
            collect_rarely()
        for thread in (*self._threads, self._measuring):
            thread.start()

    def _run(self, stage: Stage) -> None:
        try:
            log = self._opened(stage)
            if log is not None:
                run(
                    stage,
                    log,
                    self.parts.codec,
                    self.stop,
                    self.parts.observer,
                    self.parts.settings.loop,
                )
        except BaseException as error:
            self._end(stage.name, error)

    def _opened(self, stage: Stage) -> Log | None:
        """The stage's log, once it answers and has the topics; None where a stop comes first."""
        observer = self.parts.observer
        while not self.stop.is_set():
            try:
                needed = {*topics_of(stage), *stage.targets}
                if missing := needed - self.parts.view.partitions().keys():
                    raise NoSuchTopic(missing)
                return self.parts.log_of(stage)
            except NoSuchTopic as missing:
                observer.waiting(stage.name, Transient("topics_missing", str(missing)))
            except Transient as failure:
                observer.waiting(stage.name, failure)
            observer.beat(stage.name)
            self.stop.wait(_REOPEN_S)
        return None

    def _expire(self, view: SqliteView) -> None:
        """Let go of what the catalogue keeps no longer, now and every hour."""
        while not self.stop.is_set():
            try:
                self.parts.expire(view)
            except Transient as failure:
                logger("serve").warning("expiry waits", why=str(failure))
            self.stop.wait(3600)

    def _watch(self) -> None:
        settings = self.parts.settings.ingest
        try:
            log = self.parts.log()
            DropFolder(
                settings.drop_folder or Path(),
                lambda call: self.parts.publish(log, call),
                tenant_id=settings.drop_tenant_id,
                settle_s=settings.drop_settle_s,
                move=settings.drop_move,
            ).watch(self.stop)
            log.close()
        except BaseException as error:
            self._end("drop folder", error)

    def _end(self, name: str, error: BaseException) -> None:
        logger("serve").error("ended", stage=name, exc_info=error)
        self.failed[name] = error
        self.stop.set()

    def trouble(self) -> str | None:
        """Why the stages do not go on by themselves; None while they do."""
        if self.stop.is_set():
            return "the stages were stopped"
        for stage, reason in self.parts.observer.readiness().items():
            if reason is not None and reason.startswith("breaker"):
                return f"{stage}: {reason}"
        return None

    def join(self, timeout_s: float | None = None) -> None:
        for thread in self._threads:
            thread.join(timeout_s)
        self._measuring.join(1.0)  # it may wait for a log that is down; nothing of it is missed


@contextmanager
def embedded(
    settings: Settings, *, with_health: bool = False, stop: threading.Event | None = None
) -> Iterator[Running]:
    """All stages in this process, and the loopback through which other commands ask.

    `with_health` also serves health and metrics, at `health_url` of what it gives. `stop` ends
    them, also when it is set before they have begun.
    Raises AlreadyRunning when another process does the same on this data folder.
    """
    if settings.log.kind != "sqlite":
        raise WrongSetting(
            f"{PREFIX}LOG__KIND={settings.log.kind}: all stages in one process need the embedded "
            "log; run each with `callstream run STAGE`"
        )
    data = data_folder(settings)
    with ExitStack() as stack:
        lock = stack.enter_context((data / "up.lock").open("a+"))
        _take(lock.fileno(), data)
        where = data / "up.json"
        where.unlink(missing_ok=True)  # of one that was killed
        _work_in(settings, stack)
        parts = Parts(settings)
        stack.callback(parts.close)
        _ = parts.view, parts.objects, parts.codec, parts.observer
        _open_warehouse(parts)
        _rebuild(parts)
        loopback = Loopback(parts.warehouse, secrets.token_urlsafe(24))
        stack.callback(loopback.close)
        told = {"port": loopback.port, "token": loopback.token, "pid": os.getpid(),
                "settings": in_use(settings)}  # fmt: skip
        if with_health:
            health = _health(parts)
            stack.callback(health.close)
            told["health"] = _url(settings.http.host, health.port)
        _write_private(where, told)
        stack.callback(where.unlink, missing_ok=True)
        running = Running(parts, parts.stages, stop)
        running.health_url = str(told.get("health", ""))
        running.start()
        try:
            yield running
        finally:
            running.stop.set()
            running.join(settings.loop.grace_s + 5)


def _work_in(settings: Settings, stack: ExitStack) -> None:
    """Let this process work in the scratch folder while `stack` is open. Raises WrongSetting."""
    if settings.data_dir in settings.scratch.parents:
        data_folder(settings)
    try:
        stack.enter_context(scratch(settings.scratch))
    except OSError as error:
        raise WrongSetting(
            f"{PREFIX}SCRATCH={settings.scratch}: {error.strerror}; files in work need a folder "
            "that can be written to"
        ) from error


def _health(parts: Parts) -> HealthServer:
    """Health and metrics where the settings want them. Raises WrongSetting."""
    wanted = parts.settings.http
    try:
        return HealthServer(parts.observer, wanted.host, wanted.port, _aside)
    except OSError as error:
        raise WrongSetting(
            f"{PREFIX}HTTP__PORT={wanted.port} on {wanted.host}: {error.strerror}; set a port that "
            f"is free, 0 for any, or {PREFIX}HTTP__HOST to an address of this machine"
        ) from error


def _aside(stage: str) -> bool:
    """Whether its waiting leaves calls as they are: for an endpoint, or a language model."""
    return stage == "summarize" or stage.startswith(PREFIX_OF_ENDPOINTS)


def _url(host: str, port: int) -> str:
    """Where one on this machine asks what is served on `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _open_warehouse(parts: Parts, patience_s: float = 15.0) -> None:
    """Open the warehouse; a command that asks it just now is waited for."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            _ = parts.warehouse
            return
        except Transient as failure:
            if failure.reason != "warehouse_locked" or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _rebuild(parts: Parts) -> None:
    """Let the sink begin anew where the warehouse is empty and the log is not: it was lost."""
    group = parts.group("sink")
    if not isinstance(parts.view, SqliteView) or not any(parts.view.committed(group).values()):
        return
    if parts.warehouse.query("SELECT count() FROM events").rows[0][0] == 0:
        logger("serve").warning("the warehouse is empty: it is made again from the log")
        parts.view.forget(group)


def _take(lock: int, data: Path, patience_s: float = 1.0) -> None:
    """Take the lock of the data folder; commands that look whether it is taken hold it briefly."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise AlreadyRunning(
                    f"`callstream up` already runs on {data}; stop it, or set CALLSTREAM_DATA_DIR"
                ) from None
            time.sleep(0.05)


def _write_private(path: Path, content: dict[str, object]) -> None:
    """Write `content` so that only this user reads it, whole or not at all."""
    beside = path.with_suffix(".new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(content, file)
    beside.replace(path)


def until_told(stop: threading.Event) -> None:
    """Set `stop` on SIGTERM and SIGINT; a second one ends the process."""

    def told(number: int, frame: object) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    signal.signal(signal.SIGTERM, told)
    signal.signal(signal.SIGINT, told)


def _made(parts: Parts, names: Sequence[str], stop: threading.Event) -> Running | None:
    """The stages, once what they are made of answers; None where a stop comes first."""
    while not stop.is_set():
        try:
            running = Running(parts, names, stop)
            _ = parts.view, parts.objects, parts.codec
        except Transient as failure:
            for name in names:
                parts.observer.waiting(name, failure)
                parts.observer.beat(name)
            stop.wait(_REOPEN_S)
        else:
            return running
    return None


def serve(names: Sequence[str], settings: Settings) -> int:
    """Run the services `names` until SIGTERM; the exit status."""
    stop = threading.Event()
    until_told(stop)
    switch_often()
    with ExitStack() as stack:
        _work_in(settings, stack)
        parts = Parts(settings)
        stack.callback(parts.close)
        health = _health(parts)
        stack.callback(health.close)
        says = logger("serve")
        stages = [stage for name in names for stage in parts.stages_of(name)]
        if not stages:
            raise WrongSetting(
                f"{PREFIX}NOTIFY__ENDPOINTS_FILE names no endpoint, and without one there is "
                "nothing to run: docs/notifying.md"
            )
        says.info("started", stages=stages, health=_url(settings.http.host, health.port))
        running = _made(parts, stages, stop)
        if running is None:
            return 0
        running.start()
        running.stop.wait()
        running.join(settings.loop.grace_s + 5)
        says.info("stopped", stages=stages)
    return 1 if running.failed else 0


def main(names: Sequence[str]) -> int:
    """What `python -m services.<stage>` does."""
    try:
        settings = load()
        configure_logs(settings.log_level)
        return serve(names, settings)
    except (WrongSetting, ValueError, Transient) as error:
        print(error, file=sys.stderr)
        return 2
