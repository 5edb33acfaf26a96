"""ClickHouse over HTTP: the embedded engine (chDB) behind as much of its HTTP interface as clients
use, in a process of its own.

What only a real server has is absent: users, replication, sessions, result streaming, quotas.

One engine stays open for the life of the process. Each request has a connection of its own to it:
its database, settings and parameters end with it, and requests run beside each other as they do in
a server.
"""

from __future__ import annotations

import gzip
import os
import re
import signal
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from email.message import Message as Part
from email.parser import BytesParser
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from stack.server import HOST, ROOT, Server

# A body beyond this is refused with 413.
LARGEST_BODY_BYTES = 1 << 30

# What the transport itself consumes.
_TRANSPORT = frozenset(
    {
        *("query", "database", "default_format", "user", "password", "role", "quota_key"),
        *("session_id", "session_timeout", "session_check", "query_id", "wait_end_of_query"),
        *("buffer_size", "compress", "decompress", "client_protocol_version", "close_session"),
        *("send_progress_in_http_headers", "http_headers_progress_interval_ms"),
        *("enable_http_compression", "add_http_cors_header"),
    }
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CODE = re.compile(r"Code: (\d+)\.")
_INSERT = re.compile(rb"\s*INSERT\s", re.IGNORECASE)
# The data of an insert begin after its format, whitespace aside: one line feed at most.
_INSERT_FORMAT = re.compile(rb"\bFORMAT\s+(\w+)\s*?(?:\n|\Z)", re.IGNORECASE)
_TRAILING_FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*\Z", re.IGNORECASE)

# Codes that the server answers with another status than 500 (exceptionCodeToHTTPStatus).
_STATUS: Mapping[int, int] = {
    **dict.fromkeys((6, 26, 27, 33, 36, 38, 41, 43, 53, 62, 70, 72, 117, 130, 131), 400),
    **dict.fromkeys((16, 46, 47, 50, 56, 60, 63, 73, 81, 115), 404),
    48: 501,
    159: 408,
    209: 503,
}


class ClickHouse(Server):
    """The engine over HTTP at `url`. What was answered with 200 survives a SIGKILL."""

    called = "clickhouse"

    @property
    def url(self) -> str:
        """The same from the first `start()` to `close()`."""
        return f"http://{HOST}:{self._port()}"

    def _prepare(self) -> None:
        for name in ("engine", "scratch"):
            (self.folder / name).mkdir(exist_ok=True)

    def _command(self) -> Sequence[str]:
        return [
            *(sys.executable, "-m", "stack.clickhouse"),
            *(str(self.folder / "engine"), str(self.folder / "scratch"), str(self._port())),
        ]

    def _environ(self) -> Mapping[str, str]:
        return {"PYTHONPATH": str(ROOT)}


class _Refused(Exception):
    """The request itself is wrong; `status` says how."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Engine:
    """The engine in `folder`, open until `close()`. Safe to be asked by many threads at once."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        import chdb

        connect: Callable[[str], Any] = chdb.connect
        self._connect = partial(connect, str(folder))
        self._scratch = scratch
        self._keeper = self._connect()
        self.timezone = str(self._keeper.query("SELECT timezone()", "TabSeparated")).strip()
        self.busy = _Busy()

    def close(self) -> None:
        """Wait for what is being asked, at most 10 s, and let the folder go."""
        self.busy.await_none(10.0)
        self._keeper.close()

    def run(
        self,
        sql: str,
        data: bytes | None,
        asked: Mapping[str, str],
        *,
        readonly: bool = False,
        format: str | None = None,
    ) -> bytes:
        """The answer to one request; raises the engine's own error."""
        parameters = {name[6:]: text for name, text in asked.items() if name.startswith("param_")}
        settings = {
            name: text
            for name, text in asked.items()
            if name not in _TRANSPORT and not name.startswith("param_")
        }
        connection = self._connect()
        try:
            for name, text in settings.items():
                if not _NAME.fullmatch(name):
                    raise _Refused(400, f"Code: 115. DB::Exception: no setting {name!r}")
                connection.query(f"SET {name} = {_quoted(text)}")
            if asked.get("database"):
                connection.query(f"USE `{asked['database'].replace('`', '``')}`")
            if readonly:
                connection.query("SET readonly = 2")
            if data is None:
                answer = connection.query(sql, format or "TabSeparated", params=parameters)
                return bytes(answer.bytes())
            return self._insert(connection, sql, data, parameters)
        finally:
            connection.close()

    def _insert(
        self, connection: Any, sql: str, data: bytes, parameters: Mapping[str, str]
    ) -> bytes:
        """The engine takes the data of an insert from a file."""
        match = _TRAILING_FORMAT.search(sql)
        if match is None:
            raise _Refused(400, "Code: 62. DB::Exception: an insert with data names its FORMAT")
        with tempfile.NamedTemporaryFile(dir=self._scratch, delete=False) as file:
            file.write(data)
        try:
            into = f"{sql[: match.start()]} FROM INFILE {_quoted(file.name)} FORMAT {match[1]}"
            return bytes(connection.query(into, params=dict(parameters)).bytes())
        finally:
            os.unlink(file.name)


class _Busy:
    """How many requests are in hand."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    def enter(self) -> None:
        with self._changed:
            self._count += 1

    def leave(self) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def await_none(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._count == 0, seconds)


class Front(BaseHTTPRequestHandler):
    """Answers requests from `engine`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # status, headers and a small body leave in one segment
    engine: Engine

    def do_POST(self) -> None:
        self.engine.busy.enter()
        try:
            self._serve()
        finally:
            self.engine.busy.leave()

    def _serve(self) -> None:
        try:
            answer = self._answer()
        except _Refused as refused:
            self.close_connection = True  # its body may not have been read
            self._respond(refused.status, str(refused).encode(), {})
        except Exception as error:
            text = str(error)
            match = _CODE.search(text)
            code = int(match[1]) if match else 1002  # UNKNOWN_EXCEPTION
            if match:
                text = text[match.start() :]
            headers = {"X-ClickHouse-Exception-Code": str(code)}
            self._respond(_STATUS.get(code, 500), text.encode(), headers)
        else:
            self._respond(200, answer, {"X-ClickHouse-Timezone": self.engine.timezone})

    do_GET = do_POST

    def _answer(self) -> bytes:
        where = urlsplit(self.path)
        asked = dict(parse_qsl(where.query, keep_blank_values=True))
        body = _decoded(self._body(), self.headers.get("Content-Encoding", ""))
        if where.path == "/ping":
            return b"Ok.\n"
        if where.path not in ("", "/"):
            raise _Refused(404, f"there is nothing at {where.path}; queries go to /")
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("multipart/form-data"):
            body = _form(kind, body, asked)
        sql, data = _statement(asked.get("query", ""), body)
        if not sql.strip():
            if self.command == "GET":
                return b"Ok.\n"
            raise _Refused(400, "Code: 62. DB::Exception: Empty query. (SYNTAX_ERROR)")
        format = asked.get("default_format") or self.headers.get("X-ClickHouse-Format")
        return self.engine.run(sql, data, asked, readonly=self.command == "GET", format=format)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return self._chunks()
        told = self.headers.get("Content-Length", "0")
        if not told.isdecimal():
            raise _Refused(400, f"Content-Length is {told!r}")
        if int(told) > LARGEST_BODY_BYTES:
            raise _Refused(413, f"the body has {told} bytes, at most {LARGEST_BODY_BYTES} are read")
        whole = self.rfile.read(int(told))
        if len(whole) < int(told):
            raise _Refused(400, "the body ended before its Content-Length")
        return whole

    def _chunks(self) -> bytes:
        parts: list[bytes] = []
        total = 0
        while True:
            line = self.rfile.readline(1000).split(b";")[0].strip()
            try:
                size = int(line, 16)
            except ValueError:
                raise _Refused(400, f"{line!r} is no size of a chunk") from None
            total += size
            if size < 0 or total > LARGEST_BODY_BYTES:
                raise _Refused(413, f"the body has more than {LARGEST_BODY_BYTES} bytes")
            part = self.rfile.read(size)
            if len(part) < size:
                raise _Refused(400, "the body ended within a chunk")
            parts.append(part)
            self.rfile.readline(1000)
            if size == 0:
                return b"".join(parts)

    def _respond(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/plain; charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def _statement(query: str, body: bytes) -> tuple[str, bytes | None]:
    """The statement, and the data of an insert; either may lie in the URL or in the body."""
    if query:
        inserts = _INSERT.match(query.encode()) and _TRAILING_FORMAT.search(query)
        if inserts:
            return query, body
        return query + body.decode("utf-8", "replace"), None
    if _INSERT.match(body):
        match = _INSERT_FORMAT.search(body)
        if match is not None and match[1].lower() != b"values":
            head = body[: match.end()].decode("utf-8", "replace").rstrip()
            return head, body[match.end() :]
    return body.decode("utf-8", "replace"), None


def _decoded(body: bytes, encoding: str) -> bytes:
    try:
        if encoding in ("", "identity"):
            return body
        if encoding == "gzip":
            return gzip.decompress(body)
        if encoding == "deflate":
            return zlib.decompress(body)
        if encoding == "lz4":
            import lz4.frame  # type: ignore[import-untyped]

            return bytes(lz4.frame.decompress(body))
    except Exception as error:
        raise _Refused(400, f"the body is no {encoding}: {error}") from error
    raise _Refused(415, f"Content-Encoding {encoding!r} is not spoken here: lz4, gzip, deflate are")


def _form(kind: str, body: bytes, asked: dict[str, str]) -> bytes:
    """Put the fields of a form beside those of the URL; what is left is no body."""
    form = BytesParser().parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
    parts = form.get_payload()
    if not isinstance(parts, list):
        raise _Refused(400, "the body is no multipart/form-data")
    for part in parts:
        if not isinstance(part, Part):
            raise _Refused(400, "the form has a part that is none")
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if not isinstance(content, bytes):
            raise _Refused(400, f"the field {name} of the form is none")
        asked[str(name)] = content.decode("utf-8", "replace")
    return b""


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


class _Front(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is none of ours."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def main(folder: Path, scratch: Path, port: int) -> None:
    """Serve the engine in `folder` until SIGTERM, which lets requests in hand finish."""
    stop = threading.Event()

    def asked(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, asked)
    for left_over in scratch.iterdir():
        left_over.unlink()
    engine = Engine(folder, scratch)
    front = _Front((HOST, port), type("Handler", (Front,), {"engine": engine}))
    threading.Thread(target=front.serve_forever, daemon=True).start()
    stop.wait()
    front.shutdown()
    front.server_close()
    engine.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
