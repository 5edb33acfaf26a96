"""The same warehouse over HTTP, as against a server: a front over the embedded engine answers.

It speaks as much of ClickHouse's HTTP interface as the client uses. What only a real server shows
(replication, users, a cluster that is down) is not tested here.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from email.message import Message as Part
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from urllib.parse import parse_qsl, urlsplit

import chdb
import lz4.frame  # type: ignore[import-untyped]
import pytest

from services.sink.handler import stage
from services.sink.settings import SinkSettings
from services.sink.warehouse import Warehouse
from tests.sink.messages import every_example

pytestmark = pytest.mark.clickhouse

# What the transport itself consumes.
_TRANSPORT = {"query", "database", "session_id", "query_id", "client_protocol_version",
              "wait_end_of_query", "send_progress_in_http_headers", "buffer_size", "compress",
              "http_headers_progress_interval_ms", "enable_http_compression", "role"}  # fmt: skip


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    lock = Lock()
    folder = ""

    def do_POST(self) -> None:
        asked = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        body = self._body()
        if self.headers.get("Content-Encoding") == "lz4":
            body = lz4.frame.decompress(body)
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("multipart/form-data"):
            form = BytesParser().parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
            for part in form.get_payload():
                assert isinstance(part, Part)
                name = part.get_param("name", header="content-disposition")
                content = part.get_payload(decode=True)
                assert isinstance(content, bytes)
                asked[str(name)] = content.decode()
            body = b""
        sql, data = asked.get("query", ""), body
        if not sql:
            head, _, data = body.partition(b"FORMAT Native\n")
            sql = (head + b"FORMAT Native").decode() if data else body.decode()
        try:
            answer = self._run(sql, data, asked)
        except Exception as error:
            text = str(error).encode()
            self.send_response(500)
            code = text.partition(b"Code: ")[2].partition(b".")[0].decode()
            self.send_header("X-ClickHouse-Exception-Code", code or "1")
            self._end(text)
        else:
            self.send_response(200)
            self._end(answer)

    do_GET = do_POST

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def _run(self, sql: str, data: bytes, asked: dict[str, str]) -> bytes:
        parameters = {name[6:]: text for name, text in asked.items() if name.startswith("param_")}
        wanted = {
            name: text for name, text in asked.items()
            if name not in _TRANSPORT and not name.startswith("param_")
        }  # fmt: skip
        with self.lock:
            engine = chdb.connect(self.folder)  # type: ignore[no-untyped-call]
            try:
                for name, text in wanted.items():
                    engine.query(f"SET {name} = '{text}'")
                if asked.get("database"):
                    engine.query(f"USE {asked['database']}")
                if not data:
                    return bytes(engine.query(sql, "TabSeparated", params=parameters).bytes())
                with tempfile.NamedTemporaryFile(delete=False) as file:
                    file.write(data)
                try:
                    into = sql.replace("FORMAT Native", f"FROM INFILE '{file.name}' FORMAT Native")
                    return bytes(engine.query(into).bytes())
                finally:
                    os.unlink(file.name)
            finally:
                engine.close()

    def _end(self, answer: bytes) -> None:
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server(engine_folder: Path) -> Iterator[str]:
    handler = type("Handler", (Front,), {"folder": str(engine_folder)})
    front = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    front.daemon_threads = True
    thread = Thread(target=front.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{front.server_address[1]}"
    front.shutdown()
    front.server_close()
    thread.join()


def test_the_sink_fills_a_server_as_it_fills_the_embedded_engine(server: str) -> None:
    settings = SinkSettings(url=server, database="over_http")
    warehouse = Warehouse.open(settings)
    envelopes = every_example()
    try:
        for _ in range(2):
            assert {outcome for _, outcome in stage(settings, warehouse).handle(envelopes)} == {()}
        assert warehouse.query("SELECT count() FROM events").rows[0][0] == len(envelopes)
        many = ["call-" + "é" * 200 + str(number) for number in range(2000)]
        found = warehouse.query("SELECT length({many:Array(String)})", {"many": many})
        assert found.rows[0][0] == 2000
        shown = warehouse.query("SELECT started_at FROM calls WHERE call_id = 'happy'").rows[0][0]
        assert shown.tzinfo is not None
    finally:
        warehouse.close()
