"""A receiver of webhooks on loopback; a test decides what it answers."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from standardwebhooks import Webhook

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_" + "C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    """By their names in lower case."""
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def verified(self, secret: str = SECRET) -> Any:
        """What the body holds, once the library has verified it."""
        return Webhook(secret).verify(self.body, dict(self.headers))


@dataclass(frozen=True)
class Reply:
    status: int = 204
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    after_s: float = 0.0
    then: str = ""
    """drop: the connection ends without a word. cut: it ends within the body. flood: bytes for as
    long as somebody reads. drip: a byte now and then, without end."""


@dataclass
class Receiver:
    answer: Callable[[Request], Reply]
    url: str = ""
    asked: list[Request] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    """Ends what hangs."""


@contextmanager
def receiver(
    answer: Callable[[Request], Reply] = lambda request: Reply(),
    certificate: Path | None = None,
    port: int = 0,
) -> Iterator[Receiver]:
    """It speaks TLS where it has a `certificate`, with its key, of localhost."""
    made = Receiver(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if len(body) < length:  # who asked is gone
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers, body)
            reply = made.answer(request)
            made.asked.append(request)
            made.released.wait(reply.after_s)
            with suppress(OSError):
                self._reply(reply)
            self.close_connection = True

        do_PATCH = do_GET = do_POST

        def _reply(self, reply: Reply) -> None:
            if reply.then == "drop":
                return
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.then:
                self.send_header("Content-Length", "1000000000")
            elif reply.status != 204:
                self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)
            while reply.then == "flood":
                self.wfile.write(b" " * 65536)
            while reply.then == "drip" and not made.released.is_set():
                self.wfile.write(b" ")
                time.sleep(0.02)

        def log_message(self, format: str, *args: object) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        # With fewer a connection may be taken up seconds later, and its request come twice.
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            """The client may leave when it has seen enough."""

    server = Server(("127.0.0.1", port), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    if certificate is not None:
        made.url = f"https://localhost:{server.server_address[1]}"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        made.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
