"""How a second process asks the warehouse while the first one holds it.

The embedded engine serves one process. `callstream up` therefore answers queries over HTTP on
127.0.0.1, to whoever shows the token that lies in `data_dir/up.json`, readable by its owner only.
"""

from __future__ import annotations

import fcntl
import hmac
import json
import re
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol

import httpx

from services.runtime.errors import Transient
from services.settings import Settings, data_folder
from services.sink.warehouse import Warehouse

_LARGEST_QUESTION = 1 << 20
# What a starting suite, another command, or a starting sink puts right.
_SOON = frozenset({"warehouse_locked", "warehouse_behind"})


class Question(Exception):
    """The warehouse refused the question; the text says why."""


class Asks(Protocol):
    """Whoever answers questions about the calls."""

    def ask(self, sql: str, format: str, parameters: Mapping[str, Any] | None = None) -> bytes:
        """The answer in one of ClickHouse's formats. Raises Question, or Transient."""


def rows_of(
    asks: Asks, sql: str, parameters: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The answer row by row, column -> value. Raises as `ask`."""
    answer = asks.ask(sql, "JSONEachRow", parameters)
    return [json.loads(line) for line in answer.splitlines() if line]


class Here:
    """Asks a warehouse of this process."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse

    def ask(self, sql: str, format: str, parameters: Mapping[str, Any] | None = None) -> bytes:
        _check_question(sql)
        try:
            return self._warehouse.query_to(sql, format, parameters)
        except Transient:
            raise
        except Exception as error:
            raise Question(_readable(error)) from error


class There:
    """Asks the process that runs `callstream up`."""

    def __init__(self, port: int, token: str) -> None:
        self._url, self._token = f"http://127.0.0.1:{port}/ask", token

    def ask(self, sql: str, format: str, parameters: Mapping[str, Any] | None = None) -> bytes:
        try:
            answer = httpx.post(
                self._url,
                json={"sql": sql, "format": format, "parameters": dict(parameters or {})},
                headers={"Authorization": f"Bearer {self._token}"},
                timeout=httpx.Timeout(300.0, connect=5.0),
                trust_env=False,
            )
        except httpx.HTTPError as error:
            raise Transient(
                "loopback_down", f"`callstream up` does not answer on {self._url}: {error}"
            ) from error
        if answer.status_code == 400:
            raise Question(answer.text)
        if answer.status_code != 200:
            raise Transient("loopback_down", f"{self._url} answered {answer.status_code}")
        return answer.content


# What asks and changes nothing.
_ASKING = ("SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS")
_NOT_CODE = re.compile(
    r"'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.)*\"|`(?:[^`\\]|\\.)*`|--[^\n]*|/\*.*?\*/", re.DOTALL
)


def _check_question(sql: str) -> None:
    """Raises Question for what is no single question: tables are changed by the sink alone."""
    code = _NOT_CODE.sub(" ", sql).strip()
    if ";" in code:
        raise Question("one question at a time, without ';'")
    word = re.match(r"[(\s]*(\w*)", code)
    if word is None or word[1].upper() not in _ASKING:
        raise Question(f"a question begins with {', '.join(_ASKING)}; nothing else is run")
    if re.search(r"\bINTO\s+OUTFILE\b", code, re.IGNORECASE):
        raise Question("INTO OUTFILE is not run; redirect the output instead")


def _readable(error: Exception) -> str:
    """The engine's message without its stack and version."""
    return str(error).strip().partition("\n")[0].split(" (version ")[0]


@contextmanager
def asking(settings: Settings, patience_s: float = 30.0) -> Iterator[Asks]:
    """Whoever can answer: the running suite where there is one, else the warehouse itself.

    The tables of a server are the sink's to make: here they are only read. Waits while the suite
    starts, another command has the warehouse open, or a server's tables are made. Raises Transient
    when that takes longer than `patience_s`.
    """
    deadline = time.monotonic() + patience_s
    embedded = settings.sink.url is None
    if embedded and settings.data_dir in settings.sink.path.parents:
        data_folder(settings)
    while True:
        if embedded:
            there = running(settings.data_dir, max(0.0, deadline - time.monotonic()))
            if there is not None:
                yield there
                return
        try:
            warehouse = (Warehouse.open if embedded else Warehouse.as_found)(settings.sink)
            break
        except Transient as failure:
            if failure.reason not in _SOON or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    try:
        yield Here(warehouse)
    finally:
        warehouse.close()


def running(data_dir: Path, patience_s: float = 0.0) -> There | None:
    """The suite that runs on `data_dir`, by the lock it holds; waits while it starts."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with (data_dir / "up.lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
        except FileNotFoundError:
            return None
        except BlockingIOError:
            pass
        try:
            told = json.loads((data_dir / "up.json").read_text())
            return There(int(told["port"]), str(told["token"]))
        except FileNotFoundError:
            if time.monotonic() > deadline:
                raise Transient(
                    "suite_starting", f"`callstream up` on {data_dir} has not come up yet"
                ) from None
            time.sleep(0.1)


# What stages make follows from these settings before all others; none of them is secret.
_TELLING: Mapping[str, Sequence[str]] = {
    "transcribe": (
        "engine", "model", "model_dir", "language", "task", "chinese", "diarizer",
        "diarizer_model", "vocabulary_dir",
    ),
    "enrich": (
        "rules_dir", "trial_rules_dir", "sentiment.model", "sentiment.revision",
        "sentiment.labels", "sentiment.languages", "llm.in_process", "llm.model",
    ),
}  # fmt: skip


def in_use(settings: Settings) -> dict[str, dict[str, Any]]:
    """Section -> key -> value of the settings that say what stages make of a call."""
    told: dict[str, dict[str, Any]] = {}
    for name, keys in _TELLING.items():
        section = getattr(settings, name)
        values = {key: attrgetter(key)(section) for key in keys}
        told[name] = {
            key: str(value.absolute()) if isinstance(value, Path) else value
            for key, value in values.items()
        }
    return told


def differing(settings: Settings, sections: Collection[str]) -> dict[str, tuple[Any, Any]]:
    """Key -> its value here and in the suite that runs on the data folder, where they differ.

    Nothing where none runs, or one that does not say.
    """
    try:
        theirs = json.loads((settings.data_dir / "up.json").read_text()).get("settings", {})
    except (OSError, ValueError):
        return {}
    here = in_use(settings)
    return {
        f"{name}.{key}": (value, theirs[name][key])
        for name in sections
        for key, value in here[name].items()
        if key in theirs.get(name, {}) and theirs[name][key] != value
    }


def health_url(data_dir: Path) -> str | None:
    """Where the suite that runs on `data_dir` is asked how it does.

    None where none runs; empty where it serves no health or is only starting.
    """
    try:
        with (data_dir / "up.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
    except FileNotFoundError:
        return None
    except BlockingIOError:
        pass
    try:
        return str(json.loads((data_dir / "up.json").read_text()).get("health", ""))
    except FileNotFoundError:
        return ""


def readiness(url: str, limit_s: float) -> Mapping[str, str | None]:
    """Stage -> why it is not ready, or None, as the process at `url` says. Raises Transient."""
    try:
        answer = httpx.get(f"{url.rstrip('/')}/readyz", timeout=limit_s, trust_env=False)
        said = answer.json() if answer.status_code in (200, 503) else None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise Transient("health_down", f"{url} does not answer: {error}") from error
    if not isinstance(said, dict):
        raise Transient("health_down", f"{url}/readyz answered {answer.status_code}")
    return said


class Loopback:
    """The answering side; serves until closed."""

    def __init__(self, warehouse: Warehouse, token: str) -> None:
        self.token = token
        asks = Here(warehouse)

        class Handler(BaseHTTPRequestHandler):
            timeout = 10
            server_version = "callstream"
            sys_version = ""

            def do_POST(self) -> None:
                shown = self.headers.get("Authorization", "")
                if not hmac.compare_digest(shown.encode(), f"Bearer {token}".encode()):
                    return self._send(401, b"the token does not fit; it lies in up.json")
                length = self.headers.get("Content-Length", "")
                if not length.isdecimal() or int(length) > _LARGEST_QUESTION:
                    return self._send(413, b"the question is too long")
                try:
                    told = json.loads(self.rfile.read(int(length)))
                    sql, format = str(told["sql"]), str(told["format"])
                    parameters = dict(told.get("parameters") or {})
                except (ValueError, KeyError, TypeError):
                    return self._send(400, b"not a question")
                try:
                    return self._send(200, asks.ask(sql, format, parameters))
                except Question as refused:
                    return self._send(400, str(refused).encode())
                except Exception as error:
                    return self._send(503, f"{type(error).__name__}: {error}".encode())

            def _send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Questions are not logged: they may quote callers."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
