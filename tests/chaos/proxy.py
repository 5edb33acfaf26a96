"""TCP proxies that stand before the servers, in a process of their own: links that can fail.

    with Proxies(["kafka", "s3"]) as proxies:
        proxies.lead("s3", port)
        proxies.cut("s3", 2.0)

A link that is cut refuses and resets every connection; one that is a black hole accepts them and
passes nothing on, in neither direction, until it is over: then what was sent arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

HOST = "127.0.0.1"


class Proxies:
    """A proxy for each name; they end with this object, or with its process."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._process: subprocess.Popen[str] | None = None
        self.ports: dict[str, int] = {}

    def __enter__(self) -> Proxies:
        # Below the range from which the kernel takes ports of outgoing connections.
        sockets = {name: _listening() for name in self._names}
        handles = {name: sock.fileno() for name, sock in sockets.items()}
        self.ports = {name: sock.getsockname()[1] for name, sock in sockets.items()}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.proxy", json.dumps(handles)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            pass_fds=list(handles.values()),
            start_new_session=True,
            text=True,
        )
        for sock in sockets.values():
            sock.close()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def address(self, name: str) -> str:
        """host:port to connect to."""
        return f"{HOST}:{self.ports[name]}"

    def lead(self, name: str, port: int) -> None:
        """Connections to `name` go to `port` of this machine from now on."""
        self._tell({"name": name, "port": port})

    def cut(self, name: str, seconds: float) -> None:
        """Reset all connections, and refuse new ones for `seconds`. Returns at once."""
        self._tell({"name": name, "cut": seconds})

    def swallow(self, name: str, seconds: float) -> None:
        """Pass nothing on for `seconds`. Returns at once."""
        self._tell({"name": name, "hole": seconds})

    def _tell(self, what: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        print(json.dumps(what), file=self._process.stdin, flush=True)


def _listening() -> socket.socket:
    with open("/proc/sys/net/ipv4/ip_local_port_range") as range_:
        lowest = int(range_.read().split()[0])
    for port in range(lowest - 1, 1024, -1):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, port))
            sock.listen(256)
        except OSError:
            sock.close()
        else:
            return sock
    raise OSError("no port is free below the kernel's own range")


class _Link:
    """All connections to one server."""

    def __init__(self) -> None:
        self.port = 0
        self.cut_until = 0.0
        self.hole_until = 0.0
        self.sides: set[_Side] = set()

    def pause(self, paused: bool) -> None:
        for side in self.sides:
            side.hold(paused)


class _Side(asyncio.Protocol):
    """One end of a connection through the proxy."""

    def __init__(self, link: _Link, other: _Side | None = None) -> None:
        self.link, self.other = link, other
        self.transport: asyncio.Transport | None = None
        self.held = False
        self.full = False
        self.early: list[bytes] = []
        self.ended = False
        self.joining: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now < self.link.cut_until:
            transport.abort()
            return
        self.link.sides.add(self)
        if now < self.link.hole_until:
            self.hold(True)
        if self.other is None:
            self.joining = loop.create_task(self._join())  # a task lives by being referred to
        else:
            # At once: what the other side hears from now on would come after what it kept.
            self.other.other = self
            for data in self.other.early:
                transport.write(data)
            self.other.early.clear()
            if self.other.ended:
                transport.close()

    async def _join(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: _Side(self.link, self), HOST, self.link.port)
        except OSError:
            if self.transport is not None:
                self.transport.abort()

    def data_received(self, data: bytes) -> None:
        other = self.other
        if other is None or other.transport is None:
            self.early.append(data)
        else:
            other.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.link.sides.discard(self)
        self.ended = True
        other = self.other
        if other is not None and other.transport is not None and not other.ended:
            if error is None:
                other.transport.close()
            else:
                other.transport.abort()

    # The other side reads no faster than this one writes.

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.full = True
            self.other._set()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.full = False
            self.other._set()

    def hold(self, held: bool) -> None:
        self.held = held
        self._set()

    def _set(self) -> None:
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if self.held or self.full:
            transport.pause_reading()
        else:
            transport.resume_reading()


async def _serve(handles: dict[str, int]) -> None:
    loop = asyncio.get_running_loop()
    links = {name: _Link() for name in handles}
    for name, handle in handles.items():
        link = links[name]
        await loop.create_server(lambda link=link: _Side(link), sock=socket.socket(fileno=handle))  # type: ignore[misc]
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        order = json.loads(line)
        link = links[order["name"]]
        if "port" in order:
            link.port = order["port"]
        if seconds := order.get("cut"):
            link.cut_until = max(link.cut_until, loop.time() + seconds)
            for side in list(link.sides):
                if side.transport is not None:
                    side.transport.abort()
        if seconds := order.get("hole"):
            link.hole_until = max(link.hole_until, loop.time() + seconds)
            link.pause(True)
            loop.call_later(seconds, _over, link)


def _over(link: _Link) -> None:
    if asyncio.get_running_loop().time() >= link.hole_until - 0.01:
        link.pause(False)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(json.loads(sys.argv[1])))
