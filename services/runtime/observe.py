"""What a stage shows of itself: metrics, structured logs, health. The only importer of
`prometheus_client` and `structlog`.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Mapping, MutableMapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, TextIO, get_args

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from services.runtime.errors import Failure, NotYet, Transient
from services.runtime.log import Lost, Message, TopicPartition

MetricName = Literal[
    "callstream_messages_total",  # messages finished, by stage and outcome
    "callstream_dead_letters_total",  # dead letters, by stage and reason
    "callstream_retries_total",  # calls moved to a retry tier, by stage and reason
    "callstream_waits_total",  # waits for a dependency that is down, by stage and reason
    "callstream_failures_total",  # unexpected failures, by stage
    "callstream_batch_seconds",  # time to decode, handle and encode a batch, by stage
    "callstream_batch_messages",  # messages in a batch, by stage
    "callstream_commit_seconds",  # time of a commit, by stage
    "callstream_discarded_total",  # messages whose partition went elsewhere, by stage
    "callstream_ready",  # 1 when the stage is working, by stage
]
METRICS: tuple[str, ...] = get_args(MetricName)

# A loop that has not come round for this long is no longer alive.
_BEAT_S = 60.0
_LONGEST_TRACE = 8_000
# Twice what an id may have, in bytes: what is longer is no key of ours.
_LONGEST_KEY = 1_024


def configure_logs(level: str = "INFO", stream: TextIO | None = None) -> None:
    """Structured logs as JSON lines on `stream` (default stderr).

    Libraries' own logs come in the same form from WARNING up: below that some name the URLs they
    call, signatures included. Raises ValueError for a level that is none.
    """
    levels = logging.getLevelNamesMapping()
    if level not in levels:
        raise ValueError(f"log level is {level!r}, not one of {', '.join(levels)}")
    out = stream or sys.stderr
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    render: list[Any] = [structlog.processors.JSONRenderer(ensure_ascii=False), _printable]
    structlog.configure(
        processors=[_named, *shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(levels[level]),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.name = "callstream"
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [h for h in root.handlers if h.name != handler.name] + [handler]
    root.setLevel(max(levels[level], logging.WARNING))


def _named(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """As libraries' lines are; structlog itself cannot take a first value of that name."""
    line["logger"] = line.pop("logger_name", "")
    return line


def _printable(_: Any, __: str, line: str) -> str:
    """Names of files need not be text; a line of the log is."""
    return line.encode("utf-8", "backslashreplace").decode()


def logger(name: str) -> Any:
    """A structured logger; its lines carry `logger`. Follows `configure_logs` whenever called."""
    return structlog.get_logger(logger_name=name)


class Observer:
    """Counts, logs and remembers what stages do. Thread-safe."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._log = logger("loop")
        self._lock = threading.Lock()
        self._unready: dict[str, str | None] = {}
        self._beats: dict[str, float] = {}
        self._stopped: dict[str, str] = {}

        def counter(name: MetricName, about: str, *labels: str) -> Counter:
            return Counter(name.removesuffix("_total"), about, labels, registry=self.registry)

        def histogram(name: MetricName, about: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, about, ("stage",), registry=self.registry, buckets=buckets)

        seconds = (0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300, 1800)
        self._messages = counter(
            "callstream_messages_total", "Messages finished", "stage", "outcome"
        )
        self._dead = counter("callstream_dead_letters_total", "Dead letters", "stage", "reason")
        self._retries = counter("callstream_retries_total", "Retries", "stage", "reason")
        self._waits = counter("callstream_waits_total", "Waits", "stage", "reason")
        self._failures = counter("callstream_failures_total", "Unexpected failures", "stage")
        self._discarded = counter("callstream_discarded_total", "Discarded work", "stage")
        self._batch_s = histogram("callstream_batch_seconds", "Seconds per batch", seconds)
        self._batch_n = histogram(
            "callstream_batch_messages", "Messages per batch", (1, 2, 5, 10, 50, 200, 1000)
        )
        self._commit_s = histogram("callstream_commit_seconds", "Seconds per commit", seconds)
        self._ready = Gauge(
            "callstream_ready", "1 when working", ("stage",), registry=self.registry
        )

    # Told by the loop

    def beat(self, stage: str) -> None:
        self._beats[stage] = time.monotonic()

    def ready(self, stage: str) -> None:
        with self._lock:
            self._stopped.pop(stage, None)
        self._set(stage, None)

    def working(self, stage: str) -> None:
        """Nothing that the stage depends on is down any more."""
        if self._set(stage, None):
            self._log.info("working again", stage=stage)

    def handled(self, stage: str, message: Message, outputs: int) -> None:
        self._messages.labels(stage, "handled").inc()
        self._log.debug("handled", outputs=outputs, **_where(stage, message))

    def refused(self, stage: str, message: Message, why: Exception) -> None:
        reason = why.reason if isinstance(why, Failure) else "unexpected"
        self._messages.labels(stage, "dead_letter").inc()
        self._dead.labels(stage, reason).inc()
        self._log.warning("dead letter", why=str(why)[:_LONGEST_TRACE], **_where(stage, message))

    def retried(self, stage: str, message: Message, why: NotYet) -> None:
        self._messages.labels(stage, "retry").inc()
        self._retries.labels(stage, why.reason).inc()
        self._log.info("not yet", why=str(why)[:_LONGEST_TRACE], **_where(stage, message))

    def failed(self, stage: str, message: Message, why: Exception, tries: int) -> None:
        self._failures.labels(stage).inc()
        # As text: a renderer that shows local variables would show what was said on the call.
        trace = "".join(traceback.format_exception(why))[-_LONGEST_TRACE:]
        self._log.error("failed", tries=tries, why=trace, **_where(stage, message))

    def waiting(self, stage: str, why: Transient) -> None:
        self._waits.labels(stage, why.reason).inc()
        if self._set(stage, str(why)):
            self._log.warning("waiting", stage=stage, why=str(why))

    def discarded(self, stage: str, source: TopicPartition, count: int) -> None:
        self._discarded.labels(stage).inc(count)
        self._log.info("partition went elsewhere", stage=stage, source=list(source), count=count)

    def lost(self, stage: str, lost: Lost) -> None:
        self._log.info("commit refused", stage=stage, lost=str(lost))

    def stopped(self, stage: str, why: str) -> None:
        with self._lock:
            self._stopped[stage] = f"breaker: {why}"
        self._set(stage, None)
        self._log.error("breaker opened", stage=stage, why=why)

    def batch(self, stage: str, messages: int, seconds: float) -> None:
        self._batch_n.labels(stage).observe(messages)
        self._batch_s.labels(stage).observe(seconds)

    def committed(self, stage: str, messages: int, seconds: float) -> None:
        self._commit_s.labels(stage).observe(seconds)

    def _set(self, stage: str, reason: str | None) -> bool:
        """Remember why a stage is not ready; whether that is news. A breaker stays open."""
        with self._lock:
            reason = self._stopped.get(stage, reason)
            news = self._unready.get(stage, "") != reason
            self._unready[stage] = reason
        self._ready.labels(stage).set(reason is None)
        return news

    # Asked by operators

    def readiness(self) -> Mapping[str, str | None]:
        """Stage -> why it is not ready, or None."""
        with self._lock:
            return dict(self._unready)

    def alive(self) -> Mapping[str, bool]:
        """Stage -> whether its loop still comes round."""
        now = time.monotonic()
        return {stage: now - beat < _BEAT_S for stage, beat in dict(self._beats).items()}

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def _where(stage: str, message: Message) -> dict[str, Any]:
    tenant, _, call = (message.key or b"")[:_LONGEST_KEY].decode("utf-8", "replace").partition("/")
    return {
        "stage": stage,
        "tenant_id": tenant,
        "call_id": call,
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
    }


class HealthServer:
    """`/healthz`, `/readyz` and `/metrics` over HTTP, for one process. Serves until closed."""

    def __init__(self, observer: Observer, host: str = "127.0.0.1", port: int = 0) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 5  # a client that says nothing holds one thread for that long
            server_version = "callstream"
            sys_version = ""

            def do_GET(self) -> None:
                match self.path.partition("?")[0]:
                    case "/healthz":
                        alive = observer.alive()
                        self._send(200 if all(alive.values()) else 503, alive)
                    case "/readyz":
                        ready = observer.readiness()
                        self._send(503 if any(ready.values()) or not ready else 200, ready)
                    case "/metrics":
                        self._send(200, observer.exposition(), CONTENT_TYPE_LATEST)
                    case _:
                        self._send(404, {"error": "try /healthz, /readyz or /metrics"})

            def _send(self, status: int, body: Any, content_type: str = "application/json") -> None:
                data = body if isinstance(body, bytes) else json.dumps(dict(body)).encode()
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """Requests are not logged."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that goes away in the middle is no event of ours."""

        self._server = Server((host, port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
