"""One suite over both registries; then what only one that is asked over HTTP can do."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fastavro
import httpx
import pytest
from pydantic import SecretStr

from schemas.examples import EXAMPLES
from schemas.topics import BY_NAME, BY_RECORD, TOPICS
from services.runtime.codec import VERSIONS, Codec, FolderRegistry, Registry
from services.runtime.errors import Failure, Invalid, Transient
from services.runtime.log import Message
from services.runtime.objects import DirectoryObjects
from services.runtime.registry import (
    LARGEST_ANSWER_BYTES,
    Drift,
    HttpRegistry,
    RegistrySettings,
)
from stack.registry import SchemaRegistry
from tests.stack.servers import started

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
RECORDS = [topic for topic in TOPICS if topic.record is not None]
ENDED = BY_NAME["calls.ended"]


@pytest.fixture(scope="module")
def server() -> Iterator[SchemaRegistry]:
    with closing(started(SchemaRegistry())) as registry:
        yield registry


@pytest.fixture
def url(server: SchemaRegistry) -> str:
    """The registry without a subject."""
    with httpx.Client(base_url=server.url) as client:
        for subject in client.get("/subjects").json():
            for permanent in ("false", "true"):  # in this order, or it is refused
                client.delete(f"/subjects/{subject}?permanent={permanent}")
        assert client.get("/subjects").json() == []
    return server.url


_opened: list[HttpRegistry] = []


def at(url: str, folder: Path = VERSIONS, **changes: Any) -> HttpRegistry:
    _opened.append(HttpRegistry(RegistrySettings(url=url, **changes), folder))
    return _opened[-1]


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """What a test opened is closed after it."""
    yield
    while _opened:
        _opened.pop().close()


@pytest.fixture(params=["folder", pytest.param("http", marks=pytest.mark.registry)])
def registry(request: pytest.FixtureRequest) -> Registry:
    if request.param == "folder":
        return FolderRegistry()
    found = at(request.getfixturevalue("url"))
    list(found.register())
    return found


def message(topic: str, schema_id: int, body: bytes, key: bytes) -> Message:
    return Message(topic, 0, 0, key, struct.pack(">bI", 0, schema_id) + body, (), 0)


def test_what_is_written_can_be_read(registry: Registry, tmp_path: Path) -> None:
    codec = Codec(registry, DirectoryObjects(tmp_path))
    for examples in EXAMPLES.values():
        for event in examples.values():
            record = codec.encode(event, id="1", source="/x", time=NOW)
            read = Message(record.topic, 0, 0, record.key, record.value, record.headers, 0)
            assert codec.decode(read).event == event


@pytest.mark.parametrize("topic", RECORDS, ids=lambda topic: topic.name)
def test_the_id_of_a_topic_is_that_of_its_newest_schema(registry: Registry, topic: Any) -> None:
    newest = sorted(VERSIONS.glob(f"*-{topic.record}.avsc"))[-1]
    assert registry.schema(registry.schema_id(topic)) == json.loads(newest.read_text())


def test_what_was_written_with_an_older_schema_can_be_read(registry: Registry) -> None:
    alert = next(iter(EXAMPLES["AlertRaised"].values()))
    codec = Codec(registry)
    record = codec.encode(alert, id="1", source="/x", time=NOW)
    assert record.value is not None
    newest = registry.schema(registry.schema_id(BY_RECORD["AlertRaised"]))
    plain: Any = fastavro.schemaless_reader(io.BytesIO(record.value[5:]), dict(newest), None)
    oldest = json.loads(min(VERSIONS.glob("*-AlertRaised.avsc")).read_text())
    assert oldest != newest
    body = io.BytesIO()
    fastavro.schemaless_writer(body, oldest, plain)
    older = next(id for id in range(1, 1000) if _schema(registry, id) == oldest)
    event = codec.decode(message(record.topic, older, body.getvalue(), record.key or b"")).event
    assert (event.call_id, event.rule) == (alert.call_id, alert.rule)


def _schema(registry: Registry, schema_id: int) -> object:
    try:
        return registry.schema(schema_id)
    except Invalid:
        return None


@pytest.mark.parametrize("schema_id", [0, 4_000_000, 2**32 - 1])
def test_an_id_that_nobody_knows_is_the_fault_of_the_message(
    registry: Registry, schema_id: int
) -> None:
    for _ in range(2):
        with pytest.raises(Invalid, match=f"unknown_schema_id: schema id {schema_id} "):
            registry.schema(schema_id)
    with pytest.raises(Invalid, match="unknown_schema_id"):
        Codec(registry).decode(message("calls.ended", schema_id, b"", b"k"))


def test_topics_of_bytes_have_no_schema(registry: Registry) -> None:
    with pytest.raises(ValueError, match=r"calls\.dead-letter"):
        registry.schema_id(BY_NAME["calls.dead-letter"])


def test_threads_share_a_registry(registry: Registry) -> None:
    found: list[object] = []

    def look() -> None:
        found.extend(registry.schema(registry.schema_id(topic)) for topic in RECORDS)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 * len(RECORDS)


# A real one


@pytest.mark.registry
def test_nothing_is_registered_by_use(url: str) -> None:
    codec = Codec(at(url))
    with pytest.raises(Transient, match=r"schema_not_registered.*`callstream schemas register`"):
        codec.encode(EXAMPLES["CallEnded"]["happy"], id="1", source="/x", time=NOW)
    assert httpx.get(f"{url}/subjects").json() == []
    list(at(url).register())
    codec.encode(EXAMPLES["CallEnded"]["happy"], id="1", source="/x", time=NOW)


@pytest.mark.registry
def test_registering_says_what_it_does_and_does_it_once(url: str) -> None:
    registry = at(url)
    asked = list(registry.register(dry_run=True))
    assert len(asked) == len(list(VERSIONS.glob("*.avsc"))) + len(RECORDS)
    assert httpx.get(f"{url}/subjects").json() == []
    assert {drift.what for drift in registry.drift()} >= {"version 1 is not registered"}
    assert len(list(registry.register())) == len(asked)
    assert list(registry.register()) == []
    assert list(registry.drift()) == []
    assert sorted(httpx.get(f"{url}/subjects").json()) == sorted(t.subject for t in RECORDS)


@pytest.mark.registry
def test_drift_is_named(url: str) -> None:
    registry = at(url)
    list(registry.register())
    subject = f"{url}/subjects/{ENDED.subject}/versions"
    config = f"{url}/config/{ENDED.subject}"
    httpx.put(config, json={"compatibility": "NONE"}).raise_for_status()
    foreign = json.dumps({"type": "record", "name": "Other", "fields": []})
    httpx.post(subject, json={"schema": foreign}).raise_for_status()
    assert list(registry.drift()) == [
        Drift(ENDED.subject, "its version 2 is none of schemas/versions"),
        Drift(ENDED.subject, "compatibility is NONE, not FULL_TRANSITIVE"),
    ]
    # The level is put back, and what is there stays: somebody may have written with it.
    assert list(registry.register()) == [f"{ENDED.subject} requires FULL_TRANSITIVE"]
    assert [drift.what for drift in registry.drift()] == [
        "its version 2 is none of schemas/versions"
    ]


@pytest.mark.registry
def test_a_version_that_breaks_readers_is_refused(url: str, tmp_path: Path) -> None:
    list(at(url).register())
    folder = tmp_path / "versions"
    shutil.copytree(VERSIONS, folder)
    broken = json.loads((folder / "001-CallEnded.avsc").read_text())
    broken["fields"].append({"name": "wanted", "type": "string"})  # no default
    (folder / "900-CallEnded.avsc").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=r"version 900 is refused under calls\.ended-value: "):
        list(at(url, folder).register())


@pytest.mark.registry
def test_the_command_registers_and_checks(url: str) -> None:
    def run(*words: str, status: int = 0, where: str = url) -> str:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("CALLSTREAM_")}
        done = subprocess.run(
            [sys.executable, "-m", "services.cli", "schemas", *words],
            env={**environ, "CALLSTREAM_REGISTRY__URL": where, "PYTHONWARNINGS": "error"},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "version 1 is not registered" in run("check", status=1)
    assert "registered version 1 under calls.ended-value, id " in run("register")
    assert "nothing to do" in run("register", "--dry-run")
    assert "holds every version" in run("check")
    assert "CALLSTREAM_REGISTRY__URL is not set" in run("check", status=1, where="")
    assert "registry_down" in run("check", status=3, where="http://127.0.0.1:1")


@pytest.mark.registry
def test_a_registry_that_is_down_is_waited_for(url: str, server: SchemaRegistry) -> None:
    list(at(url).register())
    registry = at(url)
    known = registry.schema_id(ENDED)
    schema = registry.schema(known)
    server.kill()
    try:
        for ask in (lambda: registry.schema(77), lambda: registry.schema_id(TOPICS[1])):
            with pytest.raises(Transient, match="registry_down"):
                ask()
        # What was asked before is not asked again.
        assert registry.schema(registry.schema_id(ENDED)) == schema
    finally:
        server.start()
    with pytest.raises(Invalid, match="unknown_schema_id"):
        registry.schema(77)
    assert registry.schema_id(TOPICS[1]) > 0
    assert at(url).schema_id(ENDED) == known


# One that says what it should not

Answer = tuple[int, bytes]


class Hostile:
    """A server that answers everything alike, and counts."""

    def __init__(self) -> None:
        self.answer: Answer = (200, b"")
        self.slowly_s = 0.0
        self.asked = 0
        self.authorization: str | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                outer.authorization = self.headers["Authorization"]
                status, body = outer.answer
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    if outer.slowly_s:
                        for at in range(len(body)):
                            self.wfile.write(body[at : at + 1])
                            time.sleep(outer.slowly_s)
                    else:
                        self.wfile.write(body)
                except OSError:
                    pass

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.do_GET()

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    with closing(Hostile()) as server:
        yield server


def says(schema: object, **more: object) -> bytes:
    text = schema if isinstance(schema, str) else json.dumps(schema)
    return json.dumps({"schema": text, **more}).encode()


def record(*types: object) -> dict[str, object]:
    fields = [{"name": f"f{at}", "type": type} for at, type in enumerate(types)]
    return {"type": "record", "name": "CallEnded", "namespace": "callstream.events",
            "fields": fields}  # fmt: skip


EMPTY = {"type": "record", "name": "Empty", "fields": []}


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        (b"", Transient),
        (b"<html>Please log in</html>", Transient),
        (b"\xff\xfe", Transient),
        (b"[" * 100_000, Transient),
        (b"[]", Transient),
        (b'{"schema": 7}', Transient),
        (b'{"message": "ok"}', Transient),
        (says("[" * 100_000), Invalid),
        (says('syntax = "proto3";', schemaType="PROTOBUF"), Invalid),
        (says('"string"'), Invalid),
        (says('["null", "int"]'), Invalid),
        (says("not json"), Invalid),
        (says({"type": "record"}), Invalid),
        (says({"type": "record", "name": 7, "fields": 9}), Invalid),
        (says(record("NoSuchType")), Invalid),
        (says({"type": "record", "name": "Other", "fields": []}), Invalid),
        (says(record({"type": "array", "items": "null"})), Invalid),
        (says(record({"type": "map", "values": {"type": "array", "items": EMPTY}})), Invalid),
        (says(record(EMPTY, ["null", {"type": "array", "items": "Empty"}])), Invalid),
        (says(record({"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}})),
         Invalid),
        (b" " * (LARGEST_ANSWER_BYTES + 1), Invalid),
    ],
)  # fmt: skip
def test_what_a_registry_may_not_say(hostile: Hostile, body: bytes, failure: type[Failure]) -> None:
    """What is wrong with one schema is held against the message, and what is wrong with the
    registry is waited for: neither is a crash, and neither takes long."""
    hostile.answer = (200, body)
    codec = Codec(at(hostile.url))
    began = time.monotonic()
    with pytest.raises(failure) as failed:
        codec.decode(message("calls.ended", 5, b"\xfe\xff\xff\xff\x0f", b"acme/happy"))
    assert time.monotonic() - began < 5
    assert len(str(failed.value)) < 1_000


def test_a_schema_of_ours_said_by_any_server_is_taken(hostile: Hostile) -> None:
    ours = json.loads((VERSIONS / "001-CallEnded.avsc").read_text())
    hostile.answer = (200, says(ours))
    registry = at(hostile.url)
    assert registry.schema(5) == ours == registry.schema(5)
    assert hostile.asked == 1


@pytest.mark.parametrize(
    ("status", "body", "failure"),
    [
        (404, b'{"error_code": 40403, "message": "Schema not found"}', "unknown_schema_id"),
        (404, b"<html>404</html>", "registry_down.*CALLSTREAM_REGISTRY__URL .*with its path"),
        (
            404,
            b'{"error_code": 404, "message": "HTTP 404 Not Found"}',
            "registry_refused.*CALLSTREAM_REGISTRY__URL with its path",
        ),
        (404, b'{"error": "no such page"}', "registry_down"),
        (404, b'{"error_code": 40499, "message": "other"}', "registry_refused"),
        (401, b"", "registry_refused.*registry.password"),
        (403, b"{}", "registry_refused.*registry.password"),
        (429, b'{"error_code": 42901}', "registry_down"),
        (500, b'{"error_code": 50001, "message": "store"}', "registry_down"),
        (302, b"", "registry_down"),
    ],
)
def test_only_a_registrys_own_word_makes_an_id_unknown(
    hostile: Hostile, status: int, body: bytes, failure: str
) -> None:
    """A wrong address answers 404 to everything; no message is lost by that."""
    hostile.answer = (status, body)
    kind = Invalid if failure == "unknown_schema_id" else Transient
    with pytest.raises(kind, match=failure):
        at(hostile.url).schema(5)


def test_an_id_that_is_unknown_is_not_asked_for_again_and_again(hostile: Hostile) -> None:
    hostile.answer = (404, b'{"error_code": 40403}')
    registry = at(hostile.url)
    for _ in range(50):
        with pytest.raises(Invalid):
            registry.schema(5)
    assert hostile.asked == 1


def test_an_answer_that_drips_is_given_up(hostile: Hostile) -> None:
    hostile.answer = (200, b" " * 10_000)
    hostile.slowly_s = 0.02
    began = time.monotonic()
    with pytest.raises(Transient, match="registry_down"):
        at(hostile.url, timeout_s=0.3).schema(5)
    assert time.monotonic() - began < 10


def test_who_asks_is_told_and_the_password_is_not(hostile: Hostile) -> None:
    hostile.answer = (500, b"")
    registry = at(hostile.url, user="callstream", password=SecretStr("hush"))
    with pytest.raises(Transient) as failed:
        registry.schema(5)
    assert hostile.authorization == "Basic Y2FsbHN0cmVhbTpodXNo"
    assert "hush" not in str(failed.value)


def test_a_wrong_certificate_file_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"registry\.ca_file '.*none' cannot be used"):
        at("https://127.0.0.1:1", ca_file=tmp_path / "none")


@pytest.mark.parametrize(
    "ask",
    [
        lambda registry: registry.schema_id(ENDED),
        lambda registry: list(registry.register()),
        lambda registry: list(registry.drift()),
    ],
)
@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"7", b'{"id": "x", "version": 1}'])
def test_nonsense_elsewhere_is_waited_for(
    hostile: Hostile, body: bytes, ask: Callable[[HttpRegistry], object]
) -> None:
    hostile.answer = (200, body)
    with pytest.raises(Transient, match="registry_down"):
        ask(at(hostile.url))
