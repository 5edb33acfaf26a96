"""What every server here is: a process of its own with fixed ports and a data folder.

How a server dies with the process that made it:

* In order: leaving the `with` block, or `close()`, or the `atexit` hook for who forgets both.
* By SIGKILL of that process: on Linux the kernel then kills the server (PR_SET_PDEATHSIG, set by
  a small step before the program). That tie is to the *thread* that started the child, so each
  server has a keeper thread which starts it and then waits for it; the caller's thread may end
  sooner. Its temporary folder is deleted by the next server that starts. On other systems the
  server would outlive a SIGKILL.
* Not by Ctrl-C: a server has a session of its own, so that the terminal's SIGINT reaches only
  the process that made it, which can then still use the server while it cleans up.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, ClassVar, Self

HOST = "127.0.0.1"
ROOT = Path(__file__).parents[1]
CACHE_VARIABLE = "CALLSTREAM_TEST_CACHE"
BUILD_VARIABLE = "CALLSTREAM_BUILD_SERVERS"

_PREFIX = "callstream-stack-"
_PORT_ATTEMPTS = 3
_TAKEN = "ddress already in use"  # programs differ in the first letter

# Runs before the real program, in the same process: asks the kernel for SIGKILL when the parent
# goes, makes sure that it had not gone already, and becomes the program. A `preexec_fn` would do
# the same, but it runs Python between fork and exec, which can deadlock once librdkafka's threads
# exist in the parent. PR_SET_PDEATHSIG (1) is Linux only; elsewhere this only becomes the program.
_BECOME = """
import os, signal, sys
if sys.platform == "linux":
    import ctypes
    if ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0) != 0:
        sys.exit("prctl(PR_SET_PDEATHSIG) was refused")
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent process is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class ServerError(RuntimeError):
    """A server, or what it needs, is not there; the message says what is missing and the mend."""


class Server:
    """One server process on loopback. Nothing runs before `start()` or entering the `with` block.

    Its data lie in `folder`, which outlives `close()`, or without one in a temporary folder, which
    does not. The ports are chosen at the first start and stay with the folder. They are below the
    kernel's range for outgoing connections: above it, a client that reconnects while the server is
    down could be given the server's own port, or even be connected to itself on it, and the next
    start would find the port taken.

    Not safe to be steered by two threads at once; clients may of course connect from anywhere.

    A kind of server says what it is `called`, names its `port_names`, and overrides `_prepare`,
    `_command`, `_environ` and `_answers`.
    """

    called: ClassVar[str]
    port_names: ClassVar[tuple[str, ...]] = ("port",)

    def __init__(self, folder: Path | None = None, *, start_seconds: float = 60.0) -> None:
        self._named = folder.absolute() if folder is not None else None
        self._start_seconds = start_seconds
        self._folder: Path | None = None
        self._claim: IO[str] | None = None
        self._ports: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()

    def __enter__(self) -> Self:
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
    def pid(self) -> int | None:
        """The server's process id, or None while it does not run."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def folder(self) -> Path:
        """Where its data lie, from the first `start()` to `close()`."""
        if self._folder is None:
            raise ServerError(
                f"the {self.called} has not been started, or was closed; call start() first"
            )
        return self._folder

    def start(self) -> None:
        """Start the server and return when it answers; does nothing if it runs already.

        After `stop()` or `kill()` it starts on the same data and ports. Raises `ServerError`, with
        the end of the server's log, if it dies or does not answer within `start_seconds` (the
        fetching or building of its program not counted); no process is left then.
        """
        if self.pid is not None:
            return
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            fresh = self._folder is None and self._named is None
            self.launch()
            try:
                self.await_answer()
                return
            except BaseException as error:
                taken = _TAKEN in self.log_tail(400)
                if fresh:
                    self.close()
                # Someone may take a port between the choice and the use: choose again.
                if not (fresh and taken and isinstance(error, ServerError)):
                    raise
                if attempt == _PORT_ATTEMPTS:
                    raise

    def launch(self) -> None:
        """Start the process without waiting for it to answer: `await_answer()` is to follow."""
        if self.pid is not None:
            return
        if self._folder is None:
            self._fetch()
            try:
                self._settle_in()
            except BaseException:
                self.close()
                raise
        # Another program there would answer in its place.
        taken = [str(port) for port in self._ports.values() if accepts(port)]
        if taken:
            raise ServerError(
                f"another program listens on {HOST}:{', '.join(taken)}, which belongs to the "
                f"{self.called} in {self.folder}: end that program"
            )
        self._spawn()

    def await_answer(self) -> None:
        """Return when it answers; the second half of `start()`. No process is left if it fails."""
        try:
            self._await(self._answers, "answer")
        except BaseException:
            self.kill()
            raise

    def stop(self, seconds: float = 30.0) -> None:
        """Shut down in order (SIGTERM) and keep the data; does nothing if it does not run.

        Raises `ServerError` if that took longer than `seconds`; the server was killed then.
        """
        process = self._process
        if process is None or self.pid is None:
            return
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise ServerError(
                f"the {self.called} did not stop in {seconds:.0f} s and was killed. Its log ends:\n"
                f"{self.log_tail()}"
            ) from error

    def kill(self) -> None:
        """End it as a crash would (SIGKILL) and keep the data; returns when it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """Stop it if it runs, and start it on the same data and ports; see `start()`."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop the server and delete a temporary folder; never raises, and may be called again.

        Nothing happens in a forked child: the server belongs to the process that made it.
        """
        if os.getpid() != self._owner:
            return
        atexit.unregister(self.close)
        with contextlib.suppress(ServerError):
            self.stop()
        if self._folder is not None and self._named is None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None
        self._ports = {}
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of what the server printed over all its starts, or ""."""
        if self._folder is None:
            return ""
        try:
            text = self._log_file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    # What a kind of server overrides

    def _fetch(self) -> None:
        """Bring the program here; before the first start, and not counted in `start_seconds`."""

    def _choose_ports(self) -> dict[str, int]:
        return dict(zip(self.port_names, free_ports(len(self.port_names)), strict=True))

    def _prepare(self) -> None:
        """Fill a new data folder, or one in which this was broken off; ports are chosen."""

    def _command(self) -> Sequence[str]:
        """The command line; its first word is a path."""
        raise NotImplementedError

    def _environ(self) -> Mapping[str, str]:
        """What the process finds in its environment beside this one's."""
        return {}

    def _answers(self) -> bool:
        """Whether it serves; called again and again until it does."""
        return accepts(self._port())

    def _mend(self, log: str) -> str:
        """What to do about a failure with this end of the log, or ""."""
        return ""

    # What they use

    def _port(self, name: str = "port") -> int:
        _ = self.folder
        return self._ports[name]

    @property
    def _log_file(self) -> Path:
        return self.folder / "server.log"

    def _run_to_end(self, command: Sequence[str], doing: str) -> None:
        """Run a program that prepares the data; it prints into the log."""
        with self._log_file.open("ab") as log:
            try:
                done = subprocess.run(
                    tied(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    timeout=self._start_seconds, check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired as error:
                raise self._failure(
                    f"{doing} took longer than {self._start_seconds:.0f} s"
                ) from error
        if done.returncode != 0:
            raise self._failure(f"{doing} failed (exit status {done.returncode})")

    def _failure(self, what: str) -> ServerError:
        tail = self.log_tail()
        mend = self._mend(tail)
        if not mend and _TAKEN in tail:
            mend = (
                f"Another program listens on one of its ports {sorted(self._ports.values())}: end "
                "that program."
            )
        return ServerError(
            f"{what}.{' ' if mend else ''}{mend} Its log ends:\n{tail or '(nothing was printed)'}"
        )

    def _await(self, ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self._start_seconds
        while True:
            if self._process is None or self._process.poll() is not None:
                status = None if self._process is None else self._process.returncode
                raise self._failure(
                    f"the {self.called} ended while starting (exit status {status})"
                )
            if ready():
                return
            if time.monotonic() > deadline:
                raise self._failure(
                    f"the {self.called} did not {what} within {self._start_seconds:.0f} s"
                )
            time.sleep(0.05)

    def _settle_in(self) -> None:
        """Take the folder, with its ports; prepare it where it is new."""
        atexit.register(self.close)
        if self._named is None:
            _delete_orphans()
            folder = self._folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{self.called}-"))
        else:
            folder = self._folder = self._named
            folder.mkdir(parents=True, exist_ok=True)
        self._claim = _claimed(folder, self.called, new=self._named is None)
        known = folder / "ports.json"
        if known.exists():
            self._ports = json.loads(known.read_text(encoding="ascii"))
            return
        self._ports = self._choose_ports()
        self._prepare()
        known.write_text(json.dumps(self._ports), encoding="ascii")

    def _spawn(self) -> None:
        command = tied(self._command())
        environ = {**os.environ, **self._environ()}
        born = threading.Event()
        trouble: list[OSError] = []

        def keep() -> None:
            try:
                with self._log_file.open("ab") as log:
                    self._process = subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        env=environ,
                        cwd=self.folder,
                        start_new_session=True,
                    )
            except OSError as error:
                trouble.append(error)
                return
            finally:
                born.set()
            self._process.wait()

        # A daemon, or the interpreter would wait for it before the atexit hook stops the server.
        threading.Thread(target=keep, name=f"{self.called}-keeper", daemon=True).start()
        born.wait()
        if trouble:
            raise ServerError(f"the {self.called}'s process cannot be started: {trouble[0]}")


def tied(command: Sequence[str]) -> list[str]:
    """Return `command` so wrapped that on Linux its process dies with the thread that starts it.

    The kernel ties the child to the starting *thread*, so that thread must outlive the child.
    `command[0]` must be a path; the process that results is `command` itself, under the pid that
    `subprocess` reports.
    """
    return [sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()), *command]


def cache_root() -> Path:
    """The folder of fetched and built programs; it need not exist yet, and may be deleted."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).resolve() if named else ROOT / ".cache"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the kernel lets go of it should this process die."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def built(name: str, package: str, version: str) -> Path:
    """The Go program `name`, built once with `go install package@version`, which takes minutes.

    Raises `ServerError` where it is not built yet and neither CI nor CALLSTREAM_BUILD_SERVERS asks
    for it, or where it cannot be built.
    """
    home = cache_root() / name / version
    program = home / name
    if program.exists():
        return program
    if os.environ.get(BUILD_VARIABLE, os.environ.get("CI")) is None:
        raise ServerError(
            f"{name} is not built; set {BUILD_VARIABLE}=1 to build it (minutes, once)"
        )
    go = shutil.which("go")
    if go is None:
        raise ServerError(
            f"{name} is not built, and there is no `go` on PATH to build it with. Install Go, or "
            f"point ${CACHE_VARIABLE} to a full cache."
        )
    home.mkdir(parents=True, exist_ok=True)
    with locked(home / "lock"):
        if program.exists():
            return program
        unfinished = home / "unfinished"
        done = subprocess.run(
            [go, "install", f"{package}@{version}"],
            env={**os.environ, "GOBIN": str(unfinished), "GOFLAGS": "-mod=mod"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ServerError(f"{name} {version} cannot be built: {done.stderr[-400:]}")
        (unfinished / name).rename(program)
    return program


def java() -> str:
    """The Java to run servers with. Raises `ServerError`, naming the mend, where there is none."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin") if home else None)
    if found is None:
        where = f"in $JAVA_HOME ({home})" if home else "on PATH"
        raise ServerError(
            f"no `java` {where}. Install Java 17 or newer (Debian, Ubuntu: apt-get install "
            "openjdk-17-jre-headless) or point JAVA_HOME to one."
        )
    return found


def java_mend(log: str) -> str:
    """The mend where a log says that the Java is the wrong one, or ""."""
    if "UnsupportedClassVersionError" in log or "Unrecognized VM option" in log:
        return "The Java found is too old or another kind: put Java 17 or newer on PATH."
    return ""


def accepts(port: int) -> bool:
    """Whether somebody listens on `port` of loopback."""
    try:
        socket.create_connection((HOST, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def free_ports(count: int) -> tuple[int, ...]:
    """Ports of loopback that nobody listens on, below the outgoing range."""
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
                probe.bind((HOST, port))
            except OSError:
                continue
        free.append(port)
        if len(free) == count:
            return tuple(free)
    raise ServerError(f"of 200 ports tried on {HOST} fewer than {count} were free")


def _claimed(folder: Path, called: str, *, new: bool) -> IO[str]:
    """Mark `folder` as ours for as long as the returned file is open, or until we die.

    In a new folder the mark gets its name when it is locked already, so that nobody who looks for
    orphans can see it unlocked before.
    """
    file = (folder / ("claim.new" if new else "claim")).open("a", encoding="ascii")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ServerError(
            f"{folder} belongs to a {called} that another process runs; stop that one first"
        ) from None
    if new:
        (folder / "claim.new").rename(folder / "claim")
    return file


def _delete_orphans() -> None:
    """Delete the folders of servers whose makers were killed; passes over what it may not."""
    for mark in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/claim"):
        with contextlib.suppress(OSError), mark.open("a", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(mark.parent, ignore_errors=True)
