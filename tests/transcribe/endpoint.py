"""A server that transcribes as OpenAI's does, on loopback; a test decides what it answers."""

from __future__ import annotations

import hashlib
import json
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from services.transcribe.settings import EndpointSettings
from tests.transcribe.sounds import Samples

_WORDS = ("Alfa", "bravo,", "charlie", "(delta)", "echo.", "foxtrot", "golf", "hotel")


@dataclass(frozen=True)
class Request:
    """What was asked: the fields of the form, the headers, and the audio."""

    path: str
    headers: dict[str, str]
    fields: dict[str, list[str]]
    samples: Samples

    @property
    def length_s(self) -> float:
        return self.samples.size / 16_000

    @property
    def is_silence(self) -> bool:
        return not self.samples.any()


@dataclass(frozen=True)
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    claims: int | None = None
    """What Content-Length says, where that is not the truth."""
    then: str = ""
    """What follows the body: "hang" keeps the connection, "drip" sends spaces one by one for as
    long as somebody reads, "flood" as many as somebody reads. Before the head: "drop" ends the
    connection, "drip head" sends a head that has no end."""


def said(found: object, status: int = 200, **more: Any) -> Reply:
    return Reply(status, json.dumps(found).encode(), **more)


def speaks(request: Request) -> Reply:
    """Words made up from a hash of the audio, with times: equal audio gives equal words."""
    if request.is_silence:
        return said({"text": "", "language": "english", "segments": [], "words": []})
    digest = hashlib.blake2b(request.samples.tobytes()).digest()
    count = max(1, int(request.length_s / 0.5))
    chosen = [_WORDS[digest[at % len(digest)] % len(_WORDS)] for at in range(count)]
    text = " ".join(chosen)
    words = [
        {"word": word.strip(",.()"), "start": at * 0.5, "end": at * 0.5 + 0.4}
        for at, word in enumerate(chosen)
    ]
    segment = {
        "id": 0, "start": 0.0, "end": request.length_s, "text": f" {text}",
        "avg_logprob": -0.25, "compression_ratio": 1.2, "no_speech_prob": 0.01,
    }  # fmt: skip
    form = request.fields["response_format"][0]
    if form == "json":
        return said({"text": text})
    answer: dict[str, Any] = {"text": text, "language": "english", "segments": [segment]}
    if "word" in request.fields["timestamp_granularities[]"]:
        answer["words"] = words
    return said(answer)


@dataclass
class Endpoint:
    """`answer` decides; `asked` has every request, the oldest first."""

    answer: Callable[[Request], Reply]
    url: str = ""
    asked: list[Request] = field(default_factory=list)
    at_once: int = 0
    """Most requests that were answered at once."""
    released: threading.Event = field(default_factory=threading.Event)
    """Ends what hangs."""
    _at_work: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def settings(self, **changes: Any) -> EndpointSettings:
        return EndpointSettings.model_validate({"url": self.url, "model": "whisper-1", **changes})

    @contextmanager
    def counted(self, request: Request) -> Iterator[None]:
        with self._lock:
            self.asked.append(request)
            self._at_work += 1
            self.at_once = max(self.at_once, self._at_work)
        try:
            yield
        finally:
            with self._lock:
                self._at_work -= 1

    @property
    def of_calls(self) -> list[Request]:
        return [request for request in self.asked if not request.is_silence]


@contextmanager
def endpoint(
    answer: Callable[[Request], Reply] = speaks, certificate: Path | None = None
) -> Iterator[Endpoint]:
    """It speaks TLS where it has a `certificate`, with its key, of localhost."""
    made = Endpoint(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = _parsed(self.path, dict(self.headers.items()), body)
            with made.counted(request):
                reply = made.answer(request)
            with suppress(OSError):  # the client may leave when it has seen enough
                self._reply(reply)
            self.close_connection = True

        def do_GET(self) -> None:
            made.asked.append(Request(self.path, {}, {}, np.zeros(0, np.float32)))
            self.send_error(404)

        def _reply(self, reply: Reply) -> None:
            if reply.then == "drop":
                return
            if reply.then == "drip head":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
                self._drip(b"x")
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if not reply.then:
                length = len(reply.body) if reply.claims is None else reply.claims
                self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(reply.body)
            match reply.then:
                case "hang":
                    made.released.wait()
                case "drip":
                    self._drip(b" ")
                case "flood":
                    while not made.released.is_set():
                        self.wfile.write(b" " * 65_536)

        def _drip(self, byte: bytes) -> None:
            while not made.released.wait(0.02):
                self.wfile.write(byte)

        def log_message(self, format: str, *args: object) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None: ...

    server = Server(("127.0.0.1", 0), Handler)
    if certificate is None:
        made.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        made.url = f"https://localhost:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        made.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _parsed(path: str, headers: dict[str, str], body: bytes) -> Request:
    """A form as a server reads it, by another parser than what writes it here has."""
    kind = headers["Content-Type"].encode()
    form = message_from_bytes(b"Content-Type: " + kind + b"\r\n\r\n" + body)
    assert form.is_multipart()
    fields: dict[str, list[str]] = {}
    samples = np.zeros(0, np.float32)
    for part in form.get_payload():
        assert isinstance(part, Message)
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        name = part.get_param("name", header="content-disposition")
        assert isinstance(name, str)
        if name == "file":
            assert part.get_filename() == "audio.wav"
            samples = _samples(content)
        else:
            fields.setdefault(name, []).append(content.decode())
    return Request(path, headers, fields, samples)


def _samples(wav: bytes) -> Samples:
    head = struct.unpack("<4sI4s4sIHHIIHH4sI", wav[:44])
    assert head[0] == b"RIFF"
    assert head[1] == len(wav) - 8
    assert head[2:12] == (b"WAVE", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16, b"data")
    assert head[12] == len(wav) - 44
    pcm = np.frombuffer(wav, "<i2", offset=44)
    return pcm.astype(np.float32) / np.float32(32_767)
