"""A recording host on loopback whose every answer a test decides."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    claims_length: int | None = None
    """What Content-Length says, where that is not the truth."""


@dataclass
class Host:
    """`answers` has what each path is answered with, in turn; the last is repeated."""

    port: int = 0
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def serve(self, path: str, *answers: Answer | bytes) -> str:
        self.answers[path] = [a if isinstance(a, Answer) else Answer(body=a) for a in answers]
        return self.url(path)

    def asked_for(self, path: str) -> int:
        return sum(asked == path for asked, _ in self.asked)


@contextmanager
def recording_host(wrap: Callable[[ThreadingHTTPServer], None] | None = None) -> Iterator[Host]:
    host = Host()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            host.asked.append((path, dict(self.headers.items())))
            queue = host.answers.get(path, [Answer(404)])
            answer = queue.pop(0) if len(queue) > 1 else queue[0]
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            length = len(answer.body) if answer.claims_length is None else answer.claims_length
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None: ...

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """The client may leave when it has seen enough."""

    server = Server(("127.0.0.1", 0), Handler)
    if wrap is not None:
        wrap(server)
    host.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def wav(seconds: float = 1.0, channels: int = 2, rate: int = 8000, value: int = 7) -> bytes:
    """A WAV file; `value` makes files differ."""
    samples = struct.pack("<h", value) * round(seconds * rate) * channels
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2, channels * 2, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(samples))
    return b"RIFF" + struct.pack("<I", len(body) + len(samples)) + body + samples
