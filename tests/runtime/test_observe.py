"""What operators see: metrics by their names, logs as JSON, health over HTTP."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import structlog

from schemas.examples import EXAMPLES
from schemas.topics import REPLAY
from services.runtime import headers as h
from services.runtime.errors import Invalid, NotYet, Transient
from services.runtime.kafka_log import Statistics
from services.runtime.log import Lost, Message, TopicPartition
from services.runtime.observe import (
    METRICS,
    HealthServer,
    Observer,
    configure_logs,
    logger,
    meanings,
    with_metric_table,
)
from services.runtime.stage import Envelope

STATISTICS = Statistics(round_trip_s={"b:9092": 0.004}, commits=3, fetch_queue_bytes=17)
MADE = ("CallRecorded", "CallTranscribed", "AlertRaised")
MESSAGE = Message("calls.ended", 3, 41, b"acme/call-1", b"v", (), 0)


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """Everything logged during a test."""
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    configure_logs("DEBUG", stream)
    yield stream
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def parsed(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def told(observer: Observer) -> Observer:
    """An observer that was told of everything once."""
    observer.ready("ingest")
    observer.beat("ingest")
    observer.handled("ingest", MESSAGE, 1)
    observer.refused("ingest", MESSAGE, Invalid("not_audio", "no stream"))
    observer.refused("ingest", MESSAGE, KeyError("x"))
    observer.retried("ingest", MESSAGE, NotYet("recording_pending", "none yet"))
    observer.failed("ingest", MESSAGE, ValueError("surprise"), 1)
    observer.waiting("ingest", Transient("objects_down", "no answer"))
    observer.discarded("ingest", TopicPartition("calls.ended", 3), 2)
    observer.lost("ingest", Lost([TopicPartition("calls.ended", 3)]))
    observer.batch("ingest", 4, 0.5)
    observer.committed("ingest", 4, 0.01)
    observer.uncommitted("ingest", "lost")
    made = [next(iter(EXAMPLES[each].values())) for each in MADE]
    observer.made("ingest", Envelope(None, replace(MESSAGE, topic=REPLAY), "1"), made)
    observer.in_hand("ingest", "live", 3, 1_000)
    observer.lag("ingest", "calls.ended", 7)
    observer.unsettled("ingest", 2, 2_000)
    observer.listened("ingest", 1.5)
    observer.inserted("ingest", "events", 9)
    observer.kafka("ingest", STATISTICS)
    return observer


# Metrics


def test_the_metrics_are_the_listed_ones(lines: io.StringIO) -> None:
    observer = told(Observer())
    names = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in observer.registry.collect()
    }
    assert names == set(METRICS)
    assert len(METRICS) == len(set(METRICS))


def test_every_metric_says_which_stage(lines: io.StringIO) -> None:
    for family in told(Observer()).registry.collect():
        assert family.samples, family.name
        for sample in family.samples:
            assert sample.labels["stage"] == "ingest", sample


def test_what_is_counted_is_labelled_by_reason(lines: io.StringIO) -> None:
    def value(name: str, **labels: str) -> float | None:
        return observer.registry.get_sample_value(name, {"stage": "ingest"} | labels)

    observer = told(Observer())
    assert value("callstream_messages_total", outcome="handled") == 1
    assert value("callstream_messages_total", outcome="dead_letter") == 2
    assert value("callstream_messages_total", outcome="retry") == 1
    assert value("callstream_dead_letters_total", reason="not_audio") == 1
    assert value("callstream_dead_letters_total", reason="unexpected") == 1
    assert value("callstream_retries_total", reason="recording_pending") == 1
    assert value("callstream_waits_total", reason="objects_down") == 1
    assert value("callstream_discarded_total") == 2
    assert value("callstream_ready") == 0
    assert value("callstream_breaker_open") == 0
    assert value("callstream_commits_failed_total", reason="lost") == 1
    assert value("callstream_lag_messages", topic="calls.ended") == 7
    assert value("callstream_in_hand_messages", kind="live") == 3
    assert value("callstream_dead_letters_unsettled") == 2
    assert value("callstream_engine_seconds_total") == 1.5
    assert value("callstream_rows_total", table="events") == 9


def test_what_was_made_is_counted_from_the_events(lines: io.StringIO) -> None:
    def value(name: str, **labels: str) -> float | None:
        return observer.registry.get_sample_value(name, {"stage": "s"} | labels)

    observer, ended = Observer(), EXAMPLES["CallEnded"]["happy"]
    recorded, heard, alert = (next(iter(EXAMPLES[each].values())) for each in MADE)
    seconds = sum(recording.duration_ms for recording in heard.recordings) / 1000
    cause = Envelope(None, MESSAGE, "1")
    observer.made("s", cause, [recorded, alert, ended])
    observer.made("s", cause, [replace(heard, cached=False), replace(heard, cached=True)])
    observer.made("s", cause, [replace(heard, cached=True)])
    assert value("callstream_recordings_total") == len(recorded.recordings) > 0
    assert value("callstream_recording_bytes_total") == sum(
        recording.size_bytes for recording in recorded.recordings
    )
    assert value("callstream_transcripts_total", cache="miss") == 1
    assert value("callstream_transcripts_total", cache="hit") == 2
    assert value("callstream_audio_seconds_total", cache="miss") == pytest.approx(seconds)
    assert value("callstream_audio_seconds_total", cache="hit") == pytest.approx(2 * seconds)
    assert value("callstream_alerts_total", severity=alert.severity.value.lower()) == 1
    assert value("callstream_replays_total") is None


def test_a_replay_is_counted_where_it_is_handled(lines: io.StringIO) -> None:
    observer = Observer()
    request = EXAMPLES["ReplayRequested"]["bytes-inside"]
    asked, ended = replace(MESSAGE, topic=REPLAY), EXAMPLES["CallEnded"]["happy"]
    waited = replace(MESSAGE, headers=((h.RETRY_TOPIC, REPLAY.encode()),))
    observer.made("ingest", Envelope(ended, asked, "1", 3), [])
    observer.made("ingest", Envelope(ended, waited, "1", 3), [])
    observer.made("ingest", Envelope(ended, MESSAGE, "1", 3), [])  # what a replay made, further on
    observer.made("sink", Envelope(request, asked, "1", 3), [])  # archived by who reads it all
    observer.made("sink", Envelope(request, asked, "1", 3, replays=Envelope(ended, asked, "1")), [])
    counted = observer.registry.get_sample_value
    assert counted("callstream_replays_total", {"stage": "ingest"}) == 2
    assert counted("callstream_replays_total", {"stage": "sink"}) == 1


def test_an_age_grows_though_nobody_tells_of_it(lines: io.StringIO) -> None:
    now = [100.0]
    observer = Observer(lambda: now[0])

    def age(name: str, **labels: str) -> float | None:
        return observer.registry.get_sample_value(name, {"stage": "s"} | labels)

    observer.in_hand("s", "live", 1, 90_000)
    observer.in_hand("s", "replay", 1, 40_000)
    observer.unsettled("s", 1, 20_000)
    now[0] = 160.0
    assert age("callstream_oldest_seconds", kind="live") == 70
    assert age("callstream_oldest_seconds", kind="replay") == 120
    assert age("callstream_dead_letters_oldest_seconds") == 140
    observer.in_hand("s", "live", 0, None)
    observer.in_hand("s", "replay", 1, 500_000)  # written by a clock that is ahead
    assert age("callstream_oldest_seconds", kind="live") == 0
    assert age("callstream_oldest_seconds", kind="replay") == 0


def test_totals_of_a_client_are_counted_on_when_it_is_made_again(lines: io.StringIO) -> None:
    observer = Observer()
    for commits in (3, 5, 1):
        observer.kafka("s", replace(STATISTICS, commits=commits, rebalances=1))
    counted = observer.registry.get_sample_value
    committed = {"stage": "s", "outcome": "committed"}
    assert counted("callstream_kafka_transactions_total", committed) == 6
    assert counted("callstream_kafka_rebalances_total", {"stage": "s"}) == 1
    assert counted("callstream_kafka_read_ahead_bytes", {"stage": "s"}) == 17
    assert (
        counted("callstream_kafka_round_trip_seconds", {"stage": "s", "broker": "b:9092"}) == 0.004
    )


def test_a_metric_is_named_after_its_unit(lines: io.StringIO) -> None:
    for family in told(Observer()).registry.collect():
        name = family.name
        assert re.fullmatch(r"callstream_[a-z]+(_[a-z]+)*", name)
        assert not name.endswith(("_ms", "_milliseconds", "_minutes", "_kb", "_count", "_sum"))
        assert meanings()[name + ("_total" if family.type == "counter" else "")] == (
            family.documentation
        )


def test_the_page_of_metrics_is_that_of_the_list(lines: io.StringIO) -> None:
    page = (Path(__file__).parents[2] / "docs" / "observability.md").read_text("utf-8")
    assert with_metric_table(page) == page, (
        "made anew by `python -m services.runtime.observe docs/observability.md`"
    )
    for name in METRICS:
        assert page.count(f"| `{name}` |") == 1
        assert meanings()[name]
    # What the prose names exists; sums and counts of histograms have their own names.
    for named in set(re.findall(r"\bcallstream_\w+", page)):
        assert re.sub(r"_(bucket|sum|count)$", "", named) in METRICS, named
    with pytest.raises(ValueError, match="<!-- metrics -->"):
        with_metric_table("no marks")


# Readiness


def test_a_stage_is_ready_until_it_waits_and_again_once_it_works(lines: io.StringIO) -> None:
    observer = Observer()
    assert observer.readiness() == {}
    observer.ready("ingest")
    assert observer.readiness() == {"ingest": None}
    observer.waiting("ingest", Transient("objects_down", "no answer"))
    assert observer.readiness() == {"ingest": "objects_down: no answer"}
    observer.committed("ingest", 1, 0.1)
    assert observer.readiness()["ingest"] is not None, "others may go on while one call waits"
    observer.working("ingest")
    assert observer.readiness() == {"ingest": None}


def test_an_open_breaker_outlasts_all_but_a_new_start(lines: io.StringIO) -> None:
    observer = Observer()
    observer.ready("ingest")
    observer.stopped("ingest", "too many")
    observer.waiting("ingest", Transient("objects_down", "no answer"))
    observer.working("ingest")
    assert observer.readiness() == {"ingest": "breaker: too many"}
    assert observer.registry.get_sample_value("callstream_ready", {"stage": "ingest"}) == 0
    observer.ready("ingest")
    assert observer.readiness() == {"ingest": None}


# Logs


def test_every_line_is_json_and_names_the_call(lines: io.StringIO) -> None:
    told(Observer())
    found = parsed(lines)
    assert {line["event"] for line in found} == {
        "handled", "dead letter", "not yet", "failed", "waiting", "partition went elsewhere",
        "commit refused",
    }  # fmt: skip
    for line in found:
        assert {"event", "level", "timestamp", "logger", "stage"} <= set(line)
        if line["event"] in ("handled", "dead letter", "not yet", "failed"):
            assert (line["tenant_id"], line["call_id"]) == ("acme", "call-1")
            assert (line["topic"], line["partition"], line["offset"]) == ("calls.ended", 3, 41)
            assert line["trace_id"] == sha256(b"acme/call-1").hexdigest()[:32]


def test_a_line_names_the_trace_that_the_message_brings(lines: io.StringIO) -> None:
    trace, parent = "ab" * 16, "cd" * 8
    for said in (f"00-{trace}-{parent}-01", "no trace"):
        message = replace(MESSAGE, headers=((h.TRACEPARENT, said.encode()),))
        Observer().handled("ingest", message, 1)
    first, second = parsed(lines)
    assert (first["trace_id"], len(second["trace_id"])) == (trace, 32)


def test_a_failure_is_logged_with_its_traceback_and_without_local_variables(
    lines: io.StringIO,
) -> None:
    def fail() -> None:
        said_on_the_call = "my card number"  # noqa: F841
        raise ValueError("surprise")

    try:
        fail()
    except ValueError as error:
        Observer().failed("ingest", MESSAGE, error, 2)
    (line,) = parsed(lines)
    assert "ValueError: surprise" in line["why"]
    assert "in fail" in line["why"]
    assert line["tries"] == 2
    assert "card number" not in line["why"]


@pytest.mark.parametrize("key", [None, b"", b"\xff\xfe", b"no-slash", b"k" * 1_000_000])
def test_a_line_stays_a_line_whatever_a_message_holds(
    lines: io.StringIO, key: bytes | None
) -> None:
    message = Message("calls.ended", 0, 0, key, None, (), 0)
    Observer().refused("ingest", message, Invalid("bad", "caf\udce9\n" * 100_000))
    assert len(lines.getvalue()) < 30_000
    (line,) = parsed(lines)
    assert line["event"] == "dead letter"


def test_a_library_logs_in_the_same_form_and_only_what_matters(lines: io.StringIO) -> None:
    logging.getLogger("some.library").warning("disk %s", "full")
    logging.getLogger("some.library").info("GET https://example.com/?signature=secret")
    (line,) = parsed(lines)
    assert (line["event"], line["level"], line["logger"]) == (
        "disk full", "warning", "some.library",
    )  # fmt: skip


def test_a_logger_made_before_the_logs_are_configured_follows(lines: io.StringIO) -> None:
    structlog.reset_defaults()
    early = logger("early")
    configure_logs("INFO", lines)
    early.info("hello")
    early.debug("unheard")
    (line,) = parsed(lines)
    assert (line["event"], line["logger"]) == ("hello", "early")


def test_a_level_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match=r"'LOUD', not one of .*INFO"):
        configure_logs("LOUD")


# Health over HTTP


@pytest.fixture
def served(lines: io.StringIO) -> Iterator[tuple[Observer, HealthServer]]:
    observer = Observer()
    server = HealthServer(observer)
    yield observer, server
    server.close()


def get(server: HealthServer, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=5) as answer:
            body = answer.read().decode()
            kind = answer.headers.get_content_type()
            return answer.status, json.loads(body) if kind == "application/json" else body
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_ready_is_said_by_status_and_reason(served: tuple[Observer, HealthServer]) -> None:
    observer, server = served
    assert get(server, "/readyz") == (503, {})
    observer.ready("ingest")
    observer.ready("sink")
    assert get(server, "/readyz") == (200, {"ingest": None, "sink": None})
    observer.waiting("sink", Transient("warehouse_down", "no answer"))
    assert get(server, "/readyz?verbose=1") == (
        503, {"ingest": None, "sink": "warehouse_down: no answer"},
    )  # fmt: skip


def test_alive_is_whose_loop_comes_round(
    served: tuple[Observer, HealthServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    observer, server = served
    observer.beat("ingest")
    assert get(server, "/healthz") == (200, {"ingest": True})
    monkeypatch.setattr("services.runtime.observe._BEAT_S", -1.0)
    assert get(server, "/healthz") == (503, {"ingest": False})


def test_metrics_are_served_as_prometheus_reads_them(
    served: tuple[Observer, HealthServer],
) -> None:
    observer, server = served
    told(observer)
    status, body = get(server, "/metrics")
    assert status == 200
    assert 'callstream_messages_total{outcome="handled",stage="ingest"} 1.0' in body


@pytest.mark.parametrize("path", ["/", "/metrics/", "/healthz/../etc/passwd", "/%00"])
def test_another_path_is_not_found(served: tuple[Observer, HealthServer], path: str) -> None:
    assert get(served[1], path) == (404, {"error": "try /healthz, /readyz or /metrics"})


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(b"\x16\x03\x01\x02\x00garbage\r\n\r\n", id="a TLS greeting"),
        pytest.param(b"GET /healthz HTTP/9.9\r\n\r\n", id="a version of the future"),
        pytest.param(b"GET " + b"/x" * 100_000 + b" HTTP/1.1\r\n\r\n", id="an endless path"),
        pytest.param(b"GET / HTTP/1.1\r\nA: " + b"x" * 100_000, id="a huge header"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 1_000 + b"\r\n", id="many headers"),
        pytest.param(b"GET /healthz HT", id="half a request"),
        pytest.param(b"BREW /pot HTTP/1.1\r\n\r\n", id="another method"),
        pytest.param(b"\0" * 10_000, id="zeros"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_a_hostile_client_is_no_end_of_it(
    served: tuple[Observer, HealthServer], request_: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    observer, server = served
    observer.beat("ingest")
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.sendall(request_)
        assert get(server, "/healthz") == (200, {"ingest": True}), "while it still holds on"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert get(server, "/healthz") == (200, {"ingest": True})
    assert "Traceback" not in capfd.readouterr().err


def test_a_closed_server_answers_nobody() -> None:
    server = HealthServer(Observer())
    server.close()
    with pytest.raises(OSError, match=r"refused|reset"):
        socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
