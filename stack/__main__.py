"""The servers of a production-like Callstream on this machine: `python -m stack up|down|status`.

`up` leaves one process running, the keeper, whose children the servers are; `down` ends it, and
should it be killed they die with it. Data lie in `.callstream-stack/` and stay after `down`.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from types import FrameType
from typing import Any

from stack.broker import Broker
from stack.clickhouse import ClickHouse
from stack.registry import SchemaRegistry
from stack.s3 import ACCESS_KEY, SECRET_KEY, Versitygw
from stack.server import BUILD_VARIABLE, ROOT, Server, ServerError

FOLDER = Path(".callstream-stack")
BUCKET = "callstream"
# Fetching and building take most of it, the first time.
_UP_SECONDS = 1_800.0
_DOWN_SECONDS = 120.0


def _servers(folder: Path) -> dict[str, Server]:
    """In the order in which they stop."""
    return {
        "registry": SchemaRegistry(folder / "registry"),
        "clickhouse": ClickHouse(folder / "clickhouse"),
        "s3": Versitygw(folder / "s3"),
        "broker": Broker(folder / "broker"),
    }


def _address(server: Server) -> str:
    if isinstance(server, Broker):
        return server.bootstrap
    if isinstance(server, Versitygw):
        return server.endpoint
    assert isinstance(server, ClickHouse | SchemaRegistry)
    return server.url


def _variables(servers: Mapping[str, Server]) -> dict[str, str]:
    return {
        "CALLSTREAM_LOG__KIND": "kafka",
        "CALLSTREAM_LOG__KAFKA__BOOTSTRAP": _address(servers["broker"]),
        "CALLSTREAM_LOG__KAFKA__REPLICATION_FACTOR": "1",
        "CALLSTREAM_OBJECTS__KIND": "s3",
        "CALLSTREAM_OBJECTS__ENDPOINT": _address(servers["s3"]),
        "CALLSTREAM_OBJECTS__SECURE": "false",
        "CALLSTREAM_OBJECTS__BUCKET": BUCKET,
        "CALLSTREAM_OBJECTS__ACCESS_KEY": ACCESS_KEY,
        "CALLSTREAM_OBJECTS__SECRET_KEY": SECRET_KEY,
        "CALLSTREAM_SINK__URL": _address(servers["clickhouse"]),
        "CALLSTREAM_REGISTRY__URL": _address(servers["registry"]),
    }


def keep(folder: Path) -> int:
    """Run the servers until SIGTERM; what `up` leaves behind. Prints what it does."""
    # The services take a second to import, for which `status` and `down` need not wait.
    from services.runtime.errors import Failure
    from services.settings import WrongSetting

    stop = threading.Event()

    def told(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, told)
    os.environ.setdefault(BUILD_VARIABLE, "1")
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = folder / "state.json"
        state.unlink(missing_ok=True)
        servers = _servers(folder)
        try:
            with ExitStack() as ended_in_turn:
                for name, server in reversed(servers.items()):
                    print(f"{name}: starting", flush=True)
                    ended_in_turn.callback(server.close)
                    server.start()
                    print(f"{name}: {_address(server)}", flush=True)
                    if stop.is_set():
                        return 0
                variables = _variables(servers)
                os.environ.update(variables)
                _fill()
                _write(state, {
                    "keeper": os.getpid(),
                    "servers": {
                        name: {"pid": server.pid, "address": _address(server)}
                        for name, server in servers.items()
                    },
                    "variables": variables,
                })  # fmt: skip
                print("ready", flush=True)
                ended: set[str] = set()
                while not stop.wait(1.0):
                    for name, server in servers.items():
                        if server.pid is None and name not in ended:
                            ended.add(name)
                            print(f"{name} ended; its log ends:\n{server.log_tail()}", flush=True)
        except (ServerError, WrongSetting, Failure, ValueError, OSError) as error:
            print(f"error: {error}", flush=True)
            return 1
        finally:
            state.unlink(missing_ok=True)
    return 0


def _fill() -> None:
    """Make what the services expect to find: the bucket, the topics and the schemas."""
    from schemas.topics import TOPICS
    from services.assembly import Parts
    from services.runtime.objects import S3Objects
    from services.runtime.registry import HttpRegistry
    from services.settings import load

    settings = load()
    wanted = settings.objects
    assert wanted.secret_key is not None
    S3Objects(
        wanted.endpoint,
        wanted.bucket,
        access_key=wanted.access_key,
        secret_key=wanted.secret_key.get_secret_value(),
        region=wanted.region,
        secure=wanted.secure,
    ).check(create=True)
    print(f"bucket {wanted.bucket}", flush=True)
    parts = Parts(settings)
    try:
        made = parts.view.create({topic.name: topic.partitions for topic in TOPICS})
    finally:
        parts.close()
    print(f"topics made: {len(made)}", flush=True)
    with closing(HttpRegistry(settings.registry)) as registry:
        for line in registry.register():
            print(line, flush=True)


def up(folder: Path) -> int:
    """Start what does not run, and print the variables of a `.env`; harmless when all runs."""
    folder.mkdir(exist_ok=True)
    if not _held(folder):
        with (folder / "keeper.log").open("wb") as log:
            keeper = subprocess.Popen(
                [sys.executable, "-m", "stack", "--folder", str(folder), "keep"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                cwd=ROOT, start_new_session=True,
            )  # fmt: skip
        if not _follow(folder, keeper):
            print(
                f"the stack did not start; the end of {folder / 'keeper.log'} says why",
                file=sys.stderr,
            )
            return 1
    state = _wait(lambda: _state(folder), 60.0)
    if state is None:
        print("the stack is stopping or starting; try again", file=sys.stderr)
        return 1
    gone = [name for name, server in state["servers"].items() if not _runs(server["pid"])]
    if gone:
        print(
            f"{', '.join(gone)} ended since it was started ({folder / 'keeper.log'} says how); "
            "`make stack-down` and then `make stack-up` start all again on their data",
            file=sys.stderr,
        )
        return 1
    for name, value in state["variables"].items():
        print(f"{name}={value}")
    return 0


def _follow(folder: Path, keeper: subprocess.Popen[bytes]) -> bool:
    """Show what the keeper prints until it is ready (True) or has ended (False)."""
    deadline = time.monotonic() + _UP_SECONDS
    with (folder / "keeper.log").open(encoding="utf-8", errors="replace") as log:
        while True:
            ended = keeper.poll() is not None
            for line in log:
                if line == "ready\n":
                    return True
                print(line, end="", file=sys.stderr, flush=True)
            if ended or time.monotonic() > deadline:
                if not ended:
                    keeper.terminate()
                return False
            time.sleep(0.1)


def down(folder: Path, wipe: bool) -> int:
    """Stop all in order; harmless when nothing runs. `wipe` deletes the data as well."""
    state = _state(folder)
    if not _held(folder):
        print("nothing runs", file=sys.stderr)
    elif state is None:
        print("the stack is starting; try again when it is up", file=sys.stderr)
        return 1
    else:
        os.kill(state["keeper"], signal.SIGTERM)
        if _wait(lambda: not _held(folder), _DOWN_SECONDS) is None:
            print(
                f"the keeper (process {state['keeper']}) did not end in {_DOWN_SECONDS:.0f} s; "
                f"`kill -9 {state['keeper']}` ends it and every server at once",
                file=sys.stderr,
            )
            return 1
        print("stopped", file=sys.stderr)
    if wipe and folder.exists():
        shutil.rmtree(folder)
        print(f"{folder} deleted", file=sys.stderr)
    return 0


def status(folder: Path) -> int:
    """Print what runs and where; 1 unless all does."""
    state = _state(folder) if _held(folder) else None
    if state is None:
        print("starting" if _held(folder) else "nothing runs; `python -m stack up` starts it")
        return 1
    whole = True
    for name, server in state["servers"].items():
        runs = _runs(server["pid"])
        whole = whole and runs
        shown = f"pid {server['pid']}" if runs else f"ended, see {folder / 'keeper.log'}"
        print(f"{name:11} {server['address']:45} {shown}")
    print(f"{'data':11} {folder}")
    return 0 if whole else 1


def _held(folder: Path) -> bool:
    """Whether a keeper lives: its lock goes with it, however it ends."""
    try:
        with (folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _state(folder: Path) -> Any:
    try:
        return json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _write(path: Path, value: Mapping[str, object]) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(value, indent=1), encoding="utf-8")
    new.rename(path)


def _wait(found: Callable[[], Any], seconds: float) -> Any:
    """What is found, once it is something; None after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        if time.monotonic() > deadline:
            return None
        time.sleep(0.1)
    return value


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m stack", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of data and logs")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start broker, S3 server, ClickHouse front and schema registry")
    stopping = commands.add_parser("down", help="stop them")
    stopping.add_argument("--wipe", action="store_true", help="and delete their data")
    commands.add_parser("status", help="what runs, and where")
    commands.add_parser("keep")
    asked = parser.parse_args()
    folder = asked.folder.absolute()
    if asked.command == "up":
        return up(folder)
    if asked.command == "down":
        return down(folder, asked.wipe)
    if asked.command == "status":
        return status(folder)
    return keep(folder)


if __name__ == "__main__":
    sys.exit(main())
