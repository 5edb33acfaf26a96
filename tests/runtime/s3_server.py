"""S3 servers on loopback: moto in this process, and versitygw as a process of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moto.server import ThreadedMotoServer

CACHE = Path(__file__).parents[2] / ".cache" / "versitygw"
VERSION = "v1.8.0"
ACCESS_KEY = "callstream"
SECRET_KEY = "callstream-secret"


class Unavailable(Exception):
    """The server cannot be had here, and why."""


@contextmanager
def moto() -> Iterator[str]:
    """Yields host:port; checks no credentials."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        yield f"127.0.0.1:{port}"
    finally:
        server.stop()


@contextmanager
def versitygw(folder: Path) -> Iterator[str]:
    """Yields host:port; objects are plain files under `folder`.

    The program is built once, which takes minutes. Raises Unavailable.
    """
    program = _built()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data, meta = folder / "data", folder / "meta"
    data.mkdir()
    meta.mkdir()
    environ = {**os.environ, "ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "--port", f"127.0.0.1:{port}", "--region", "us-east-1", "posix",
             "--sidecar", str(meta), str(data)],
            env=environ, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            _await(port, process, folder / "log")
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


def _built() -> Path:
    program = CACHE / VERSION / "versitygw"
    if program.exists():
        return program
    if os.environ.get("CALLSTREAM_BUILD_SERVERS", os.environ.get("CI")) is None:
        raise Unavailable(
            "versitygw is not built; set CALLSTREAM_BUILD_SERVERS=1 to build it (minutes, once)"
        )
    go = shutil.which("go")
    if go is None:
        raise Unavailable("versitygw is not built, and there is no go to build it with")
    built = subprocess.run(
        [go, "install", f"github.com/versity/versitygw/cmd/versitygw@{VERSION}"],
        env={**os.environ, "GOBIN": str(program.parent), "GOFLAGS": "-mod=mod"},
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode != 0:
        raise Unavailable(f"versitygw cannot be built: {built.stderr[-400:]}")
    return program


def _await(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise Unavailable(f"versitygw does not start: {log.read_text(errors='replace')[-400:]}")
