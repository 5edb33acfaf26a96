"""What a stage shows of itself: metrics, structured logs, health. The only importer of
`prometheus_client` and `structlog`.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO, get_args

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from schemas.events import AlertRaised, CallRecorded, CallTranscribed, ReplayRequested
from schemas.topics import REPLAY
from services.runtime import headers as h
from services.runtime.errors import Failure, NotYet, Transient
from services.runtime.log import Lost, Message, TopicPartition
from services.runtime.stage import Envelope, trace_id

if TYPE_CHECKING:
    from services.runtime.kafka_log import Statistics

# A comment here is the metric's help text, and its line in docs/observability.md.
MetricName = Literal[
    # How a stage does
    "callstream_ready",  # 1 while the stage works, 0 while it waits or its breaker is open
    "callstream_breaker_open",  # 1 while the breaker keeps the stage stopped
    "callstream_messages_total",  # messages finished; outcome is handled, dead_letter or retry
    "callstream_batch_seconds",  # time to decode, handle and encode a batch
    "callstream_batch_messages",  # messages in a batch
    "callstream_commit_seconds",  # time of a commit that took place; its count is that of commits
    "callstream_commits_failed_total",  # commits that did not take place, and are tried again
    "callstream_discarded_total",  # messages whose partition went to another member
    # What is left to do
    "callstream_lag_messages",  # messages on a topic that the stage has not finished
    "callstream_in_hand_messages",  # messages read and not finished; kind is live or replay
    "callstream_oldest_seconds",  # age of the oldest message in hand, not due ones aside; 0: none
    # What went wrong
    "callstream_dead_letters_total",  # dead letters made
    "callstream_dead_letters_unsettled",  # dead letters that nobody has redriven or dropped
    "callstream_dead_letters_oldest_seconds",  # age of the oldest of these; 0 where there is none
    "callstream_retries_total",  # calls moved to a retry tier
    "callstream_waits_total",  # waits for a dependency that is down
    "callstream_failures_total",  # unexpected failures, before they are tried again
    # What the Kafka client of a stage says of itself; nothing on the embedded log
    "callstream_kafka_transactions_total",  # outcome is committed, aborted or in_doubt
    "callstream_kafka_rebalances_total",  # changes of the group that reached this member
    "callstream_kafka_partitions_lost_total",  # partitions taken without being asked back
    "callstream_kafka_read_ahead_bytes",  # bytes fetched and not yet read by the stage
    "callstream_kafka_round_trip_seconds",  # 99th percentile of a broker's answers
    # What was done, repeats after a crash included
    "callstream_replays_total",  # requests to replay that the stage has handled
    "callstream_recordings_total",  # recordings in the CallRecorded events made
    "callstream_recording_bytes_total",  # bytes of these recordings
    "callstream_transcripts_total",  # transcripts made; cache is hit where nothing was listened to
    "callstream_audio_seconds_total",  # seconds of recordings in these transcripts
    "callstream_engine_seconds_total",  # seconds that speech engines took
    "callstream_alerts_total",  # alerts raised
    "callstream_rows_total",  # rows inserted into the warehouse
]
METRICS: tuple[MetricName, ...] = get_args(MetricName)

Kind = Literal["live", "replay"]

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

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.registry = CollectorRegistry()
        self.labels: dict[str, tuple[str, ...]] = {}
        """Metric -> its labels. Their values come from lists of ours, so that they stay few."""
        self._now = now
        self._log = logger("loop")
        self._lock = threading.Lock()
        self._unready: dict[str, str | None] = {}
        self._beats: dict[str, float] = {}
        self._stopped: dict[str, str] = {}

        about, registry = meanings(), self.registry

        def labelled(name: MetricName, *labels: str) -> tuple[str, ...]:
            self.labels[name] = ("stage", *labels)
            return self.labels[name]

        def counter(name: MetricName, *labels: str) -> Counter:
            bare = name.removesuffix("_total")
            return Counter(bare, about[name], labelled(name, *labels), registry=registry)

        def gauge(name: MetricName, *labels: str) -> Gauge:
            return Gauge(name, about[name], labelled(name, *labels), registry=registry)

        def histogram(name: MetricName, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, about[name], labelled(name), registry=registry, buckets=buckets)

        seconds = (0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300, 1800)
        self._ready = gauge("callstream_ready")
        self._breaker = gauge("callstream_breaker_open")
        self._messages = counter("callstream_messages_total", "outcome")
        self._batch_s = histogram("callstream_batch_seconds", seconds)
        self._batch_n = histogram("callstream_batch_messages", (1, 2, 5, 10, 50, 200, 1000))
        self._commit_s = histogram("callstream_commit_seconds", seconds)
        self._uncommitted = counter("callstream_commits_failed_total", "reason")
        self._discarded = counter("callstream_discarded_total")
        self._lag = gauge("callstream_lag_messages", "topic")
        self._in_hand = gauge("callstream_in_hand_messages", "kind")
        self._oldest = gauge("callstream_oldest_seconds", "kind")
        self._dead = counter("callstream_dead_letters_total", "reason")
        self._unsettled = gauge("callstream_dead_letters_unsettled")
        self._dead_oldest = gauge("callstream_dead_letters_oldest_seconds")
        self._retries = counter("callstream_retries_total", "reason")
        self._waits = counter("callstream_waits_total", "reason")
        self._failures = counter("callstream_failures_total")
        self._transactions = counter("callstream_kafka_transactions_total", "outcome")
        self._rebalances = counter("callstream_kafka_rebalances_total")
        self._taken = counter("callstream_kafka_partitions_lost_total")
        self._ahead = gauge("callstream_kafka_read_ahead_bytes")
        self._round_trip = gauge("callstream_kafka_round_trip_seconds", "broker")
        self._totals: dict[Counter, float] = {}
        self._replays = counter("callstream_replays_total")
        self._recordings = counter("callstream_recordings_total")
        self._bytes = counter("callstream_recording_bytes_total")
        self._transcripts = counter("callstream_transcripts_total", "cache")
        self._audio_s = counter("callstream_audio_seconds_total", "cache")
        self._engine_s = counter("callstream_engine_seconds_total")
        self._alerts = counter("callstream_alerts_total", "severity")
        self._rows = counter("callstream_rows_total", "table")

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

    def uncommitted(self, stage: str, reason: str) -> None:
        self._uncommitted.labels(stage, reason).inc()

    def made(self, stage: str, cause: Envelope[Any], events: Iterable[Any]) -> None:
        """What came of a message. Events without a meter of their own count for nothing."""
        if cause.replays is not None or _is_replayed(cause):
            self._replays.labels(stage).inc()
        for event in events:
            match event:
                case CallRecorded(recordings=recordings):
                    self._recordings.labels(stage).inc(len(recordings))
                    self._bytes.labels(stage).inc(sum(r.size_bytes for r in recordings))
                case CallTranscribed(cached=cached, recordings=recordings):
                    cache = "hit" if cached else "miss"
                    self._transcripts.labels(stage, cache).inc()
                    heard_ms = sum(recording.duration_ms for recording in recordings)
                    self._audio_s.labels(stage, cache).inc(heard_ms / 1000)
                case AlertRaised(severity=severity):
                    self._alerts.labels(stage, severity.value.lower()).inc()

    def in_hand(self, stage: str, kind: Kind, messages: int, oldest_ms: int | None) -> None:
        """What has been read and is not finished; when the oldest of it was written."""
        self._in_hand.labels(stage, kind).set(messages)
        self._aging(self._oldest.labels(stage, kind), oldest_ms)

    # Told by what is measured beside the loop

    def lag(self, stage: str, topic: str, messages: int) -> None:
        self._lag.labels(stage, topic).set(messages)

    def unsettled(self, stage: str, letters: int, oldest_ms: int | None) -> None:
        """Dead letters of `stage` that nobody has settled; when the oldest was written."""
        self._unsettled.labels(stage).set(letters)
        self._aging(self._dead_oldest.labels(stage), oldest_ms)

    def kafka(self, stage: str, told: Statistics) -> None:
        """What the clients of the stage's log say of themselves; totals since they were made."""
        for outcome, count in (
            ("committed", told.commits), ("aborted", told.aborts), ("in_doubt", told.in_doubt)
        ):  # fmt: skip
            self._grown(self._transactions.labels(stage, outcome), count)
        self._grown(self._rebalances.labels(stage), told.rebalances)
        self._grown(self._taken.labels(stage), told.partitions_lost)
        self._ahead.labels(stage).set(told.fetch_queue_bytes)
        for broker, seconds in told.round_trip_s.items():
            self._round_trip.labels(stage, broker).set(seconds)

    def _grown(self, counter: Counter, total: float) -> None:
        """Count on to `total`, which begins again at 0 with a new client."""
        known = self._totals.get(counter, 0)
        counter.inc(total - known if total >= known else total)
        self._totals[counter] = total

    def listened(self, stage: str, seconds: float) -> None:
        self._engine_s.labels(stage).inc(seconds)

    def inserted(self, stage: str, table: str, rows: int) -> None:
        self._rows.labels(stage, table).inc(rows)

    def _aging(self, gauge: Gauge, since_ms: int | None) -> None:
        """An age grows by itself: also where the loop that should tell of it hangs."""
        if since_ms is None:
            gauge.set_function(lambda: 0.0)
        else:
            gauge.set_function(lambda: max(0.0, self._now() - since_ms / 1000))

    def _set(self, stage: str, reason: str | None) -> bool:
        """Remember why a stage is not ready; whether that is news. A breaker stays open."""
        with self._lock:
            reason = self._stopped.get(stage, reason)
            news = self._unready.get(stage, "") != reason
            self._unready[stage] = reason
        self._ready.labels(stage).set(reason is None)
        self._breaker.labels(stage).set(stage in self._stopped)
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


@cache
def meanings() -> Mapping[str, str]:
    """Metric -> what it says: the comment beside its name in the list above."""
    lines = re.findall(r'^    "(\w+)",  # (.+)$', inspect.getsource(sys.modules[__name__]), re.M)
    return {name: f"{text[0].upper()}{text[1:]}" for name, text in lines}


def metric_table() -> str:
    """Every metric with its type, labels and meaning, as Markdown."""
    observer = Observer()
    types = {family.name: family.type for family in observer.registry.collect()}
    lines = ["| metric | type | labels | what it says |", "|---|---|---|---|"]
    for name in METRICS:
        type_ = types[name.removesuffix("_total")]
        labels = ", ".join(observer.labels[name])
        lines.append(f"| `{name}` | {type_} | {labels} | {meanings()[name]} |")
    return "\n".join(lines) + "\n"


_TABLE = re.compile(r"(?<=<!-- metrics -->\n).*?(?=<!-- /metrics -->)", re.DOTALL)


def with_metric_table(page: str) -> str:
    """`page` with the table of metrics between its marks made anew. ValueError without marks."""
    made, count = _TABLE.subn(lambda _: metric_table(), page)
    if count != 1:
        raise ValueError("the page has no <!-- metrics --> … <!-- /metrics --> to write between")
    return made


def _is_replayed(cause: Envelope[Any]) -> bool:
    """Whether the event was given to its stage by a request, at once or after a wait."""
    asked = cause.message.topic == REPLAY or cause.message.header(h.RETRY_TOPIC) == REPLAY
    return asked and not isinstance(cause.event, ReplayRequested)


def _where(stage: str, message: Message) -> dict[str, Any]:
    tenant, _, call = (message.key or b"")[:_LONGEST_KEY].decode("utf-8", "replace").partition("/")
    return {
        "stage": stage,
        "tenant_id": tenant,
        "call_id": call,
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "trace_id": trace_id(message.header(h.TRACEPARENT), message.key),
    }


class HealthServer:
    """`/healthz`, `/readyz` and `/metrics` over HTTP, for one process. Serves until closed."""

    def __init__(
        self,
        observer: Observer,
        host: str = "127.0.0.1",
        port: int = 0,
        aside: Callable[[str], bool] = lambda stage: False,
    ) -> None:
        """Stages that stand `aside` are told, and make the process unready only by themselves."""

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
                        counts = [why for stage, why in ready.items() if not aside(stage)]
                        unready = any(counts or ready.values()) or not ready
                        self._send(503 if unready else 200, ready)
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


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(with_metric_table(path.read_text("utf-8")), "utf-8")
