"""What holds for every server, on the smallest there is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from stack.server import BUILD_VARIABLE, CACHE_VARIABLE, ROOT, Server, ServerError, accepts, built
from tests.stack.servers import until

_PROGRAM = """
import http.server, pathlib, sys
pathlib.Path("starts").open("a").write("x")
print("serving", flush=True)
where = ("127.0.0.1", int(sys.argv[1]))
http.server.HTTPServer(where, http.server.SimpleHTTPRequestHandler).serve_forever()
"""


class Small(Server):
    """Python's own web server over its folder."""

    called = "small"
    program = _PROGRAM

    def _command(self) -> Sequence[str]:
        return [sys.executable, "-c", self.program, str(self._port())]


def runs(pid: int) -> bool:
    """Whether a process is there that is more than a zombie."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False


def port_of(server: Server) -> int:
    return server._port()


def test_data_and_ports_stay_until_it_is_closed() -> None:
    server = Small()
    with pytest.raises(ServerError, match="has not been started"):
        _ = server.folder
    server.start()
    first, folder, port = server.pid, server.folder, port_of(server)
    assert first is not None
    server.start()
    assert server.pid == first

    server.kill()
    assert not runs(first)
    server.start()
    server.restart()
    assert (server.folder, port_of(server)) == (folder, port)
    assert (folder / "starts").read_text() == "xxx"
    assert server.log_tail().count("serving") == 3

    last = server.pid
    assert last is not None
    server.close()
    server.close()
    assert not folder.exists()
    assert not runs(last)
    assert not accepts(port)


def test_a_named_folder_is_kept_with_its_ports(tmp_path: Path) -> None:
    with Small(tmp_path / "kept") as server:
        port = port_of(server)
        with pytest.raises(ServerError, match="another process runs; stop that one"):
            Small(tmp_path / "kept").start()
    with Small(tmp_path / "kept") as server:
        assert port_of(server) == port
        assert (server.folder / "starts").read_text() == "xx"


def test_a_port_that_was_taken_is_named(tmp_path: Path) -> None:
    with Small(tmp_path / "kept") as server:
        port = port_of(server)
    with socket.create_server(("127.0.0.1", port)):
        server = Small(tmp_path / "kept")
        with pytest.raises(
            ServerError, match=rf"listens on 127\.0\.0\.1:{port}, .*end that program"
        ):
            server.start()
        assert server.pid is None
        server.close()


def test_a_server_that_ends_or_hangs_says_why() -> None:
    class Ending(Small):
        program = "print('no such luck'); raise SystemExit(3)"

    class Hanging(Small):
        program = "import time; print('wait', flush=True); time.sleep(600)"

    with pytest.raises(ServerError, match=r"(?s)ended while starting \(exit status 3\).*such luck"):
        Ending().start()
    hanging = Hanging(start_seconds=1.0)
    with pytest.raises(ServerError, match=r"(?s)did not answer within 1 s.*wait"):
        hanging.start()
    assert hanging.pid is None


def test_one_that_does_not_stop_is_killed() -> None:
    class Deaf(Small):
        program = "import signal; signal.signal(15, signal.SIG_IGN)\n" + _PROGRAM

    with Deaf() as server:
        with pytest.raises(ServerError, match="did not stop in 0 s and was killed"):
            server.stop(0.2)
        server.start()
        assert server.pid is not None
        server.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="relies on PR_SET_PDEATHSIG")
def test_it_dies_with_its_process_and_the_next_cleans_up(tmp_path: Path) -> None:
    program = (
        "import signal\n"
        "from tests.stack.test_server import Small\n"
        "server = Small()\n"
        "server.start()\n"
        "print(server.pid, server.folder, flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        pid, folder = process.stdout.readline().split()
        assert runs(int(pid))
        process.send_signal(signal.SIGKILL)
    until(lambda: not runs(int(pid)))
    assert Path(folder).parent == Path(tempfile.gettempdir())
    with Small():
        assert not Path(folder).exists()


def test_what_is_not_built_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv(BUILD_VARIABLE, raising=False)
    with pytest.raises(ServerError, match=f"set {BUILD_VARIABLE}=1"):
        built("versitygw", "github.com/versity/versitygw/cmd/versitygw", "v1.8.0")
    monkeypatch.setenv(BUILD_VARIABLE, "1")
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(ServerError, match="no `go` on PATH"):
        built("versitygw", "github.com/versity/versitygw/cmd/versitygw", "v1.8.0")
