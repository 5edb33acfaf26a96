"""A server that chats as OpenAI's does, on loopback; a test decides what it answers."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from services.enrich.settings import LlmSettings


@dataclass(frozen=True)
class Asked:
    """A request as the server got it."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def messages(self) -> list[dict[str, str]]:
        messages: list[dict[str, str]] = self.body["messages"]
        return messages

    @property
    def form(self) -> str:
        found: str = self.body.get("response_format", {"type": "text"})["type"]
        return found

    @property
    def is_probe(self) -> bool:
        return len(self.messages) == 1

    @property
    def is_repair(self) -> bool:
        return len(self.messages) == 4

    @property
    def data(self) -> list[dict[str, Any]]:
        """The lines of JSON that stand for the call."""
        if self.is_probe:
            return []
        return [json.loads(line) for line in self.messages[1]["content"].split("\n")]

    @property
    def head(self) -> dict[str, Any]:
        return {} if self.is_probe else self.data[0]

    @property
    def lines(self) -> list[dict[str, Any]]:
        return self.data[1:]

    @property
    def is_notes(self) -> bool:
        return bool(self.lines) and "kind" in self.lines[0]


@dataclass(frozen=True)
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    then: str = ""
    """What follows the body: "hang" keeps the connection, "drip" sends spaces one by one, "flood"
    as many as somebody reads. "drop" ends the connection before the head, "cut" within the body."""


def said(found: object, status: int = 200, **more: Any) -> Reply:
    return Reply(status, json.dumps(found).encode(), **more)


def completed(content: object, finish: str = "stop", **message: Any) -> Reply:
    """A completion; what is no text is written as JSON."""
    text = content if isinstance(content, str) or content is None else json.dumps(content)
    return said(
        {
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, **message},
                    "finish_reason": finish,
                }
            ],
            "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
        }
    )


def stated(text: str, *evidence: tuple[int, str]) -> dict[str, Any]:
    return {"text": text, "evidence": [{"id": at, "quote": quote} for at, quote in evidence]}


def answer(summary: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """An answer of the schema, which says `summary` and, beside `more`, nothing."""
    nothing: dict[str, Any] = {"text": "", "evidence": []}
    return {
        "summary": summary,
        "intent": [],
        "demand": [],
        "answer": {"effective": "unknown", **nothing},
        "resolution": {"state": "unknown", **nothing},
        "follow_ups": [],
        "improvements": [],
        "wording": [],
        **more,
    }


def summarizes(asked: Asked) -> Reply:
    """What an honest model does: it quotes the first and the last of what it was sent."""
    if asked.is_probe:
        return completed('{"ok": true}')
    first, last = asked.lines[0], asked.lines[-1]
    if asked.is_notes:
        rests = [[(e["id"], e["quote"]) for e in it["evidence"]][:1] for it in (first, last)]
    else:
        rests = [[(it["id"], it["text"][:200])] for it in (first, last)]
    return completed(
        answer(
            [stated("It begins.", *rests[0]), stated("It ends.", *rests[1])],
            demand=[stated("Something is wanted.", *rests[0])],
            answer={"effective": "partly", **stated("In part.", *rests[1])},
            resolution={"state": "follow_up", **stated("More is to do.", *rests[1])},
        )
    )


@dataclass
class Server:
    """`answer` decides; `asked` has every request, the oldest first."""

    answer: Callable[[Asked], Reply]
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    at_once: int = 0
    """Most requests that were answered at once."""
    released: threading.Event = field(default_factory=threading.Event)
    """Ends what hangs."""
    _at_work: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def settings(self, **changes: Any) -> LlmSettings:
        return LlmSettings.model_validate({"url": self.url, "model": "small", **changes})

    def taken(self, asked: Asked) -> Reply:
        with self._lock:
            self.asked.append(asked)
            self._at_work += 1
            self.at_once = max(self.at_once, self._at_work)
        try:
            return self.answer(asked)
        finally:
            with self._lock:
                self._at_work -= 1


@contextmanager
def serving(
    answers: Callable[[Asked], Reply] = summarizes, certificate: Path | None = None
) -> Iterator[Server]:
    """It speaks TLS where it has a `certificate`, with its key, of localhost."""
    made = Server(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked = Asked(self.path, dict(self.headers.items()), json.loads(body))
            reply = made.taken(asked)
            with suppress(OSError):  # the client may leave when it has seen enough
                self._reply(reply)
            self.close_connection = True

        def _reply(self, reply: Reply) -> None:
            if reply.then == "drop":
                return
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.then in ("", "cut"):
                more = 1_000 if reply.then else 0
                self.send_header("Content-Length", str(len(reply.body) + more))
            self.end_headers()
            self.wfile.write(reply.body)
            match reply.then:
                case "hang":
                    made.released.wait()
                case "drip":
                    while not made.released.wait(0.02):
                        self.wfile.write(b" ")
                case "flood":
                    while not made.released.is_set():
                        self.wfile.write(b" " * 65_536)

        def log_message(self, format: str, *args: object) -> None: ...

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None: ...

    server = Quiet(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    if certificate is not None:
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
