"""Makes callstream.json, the Grafana dashboard: `python deploy/dashboards/make.py [--check]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("callstream.json")
_STAGE = 'stage=~"$stage"'

# Row -> panels: title, unit, {legend: expression}. S stands for the chosen stages.
_ROWS: dict[str, list[tuple[str, str, dict[str, str]]]] = {
    "Does it work?": [
        ("Ready", "bool_yes_no", {"{{stage}}": "min by (stage) (callstream_ready{S})"}),
        (
            "Breaker open",
            "bool_yes_no",
            {"{{stage}}": "max by (stage) (callstream_breaker_open{S})"},
        ),
        (
            "Dead letters that nobody settled",
            "short",
            {"{{stage}}": "max by (stage) (callstream_dead_letters_unsettled)"},
        ),
        (
            "Age of the oldest dead letter",
            "s",
            {"{{stage}}": "max by (stage) (callstream_dead_letters_oldest_seconds)"},
        ),
    ],
    "Does it keep up?": [
        (
            "Lag",
            "short",
            {"{{stage}} {{topic}}": "max by (stage, topic) (callstream_lag_messages{S}) > 0"},
        ),
        (
            "Age of the oldest message in hand",
            "s",
            {"{{stage}} {{kind}}": "max by (stage, kind) (callstream_oldest_seconds{S})"},
        ),
        (
            "Messages in hand",
            "short",
            {"{{stage}} {{kind}}": "sum by (stage, kind) (callstream_in_hand_messages{S})"},
        ),
        (
            "Messages finished",
            "cps",
            {
                "{{stage}} {{outcome}}": "sum by (stage, outcome) "
                "(rate(callstream_messages_total{S}[5m]))"
            },
        ),
    ],
    "What was done": [
        (
            "Seconds of audio per second",
            "short",
            {
                "{{cache}}": "sum by (cache) (rate(callstream_audio_seconds_total{S}[5m]))",
                "engine": "sum(rate(callstream_audio_seconds_total{cache='miss'}[5m]))"
                " / sum(rate(callstream_engine_seconds_total[5m]))",
            },
        ),
        (
            "Transcripts",
            "cps",
            {"{{cache}}": "sum by (cache) (rate(callstream_transcripts_total{S}[5m]))"},
        ),
        ("Recordings stored", "cps", {"recordings": "sum(rate(callstream_recordings_total[5m]))"}),
        ("Bytes stored", "Bps", {"bytes": "sum(rate(callstream_recording_bytes_total[5m]))"}),
        (
            "Alerts",
            "cps",
            {"{{severity}}": "sum by (severity) (rate(callstream_alerts_total[5m]))"},
        ),
        ("Rows inserted", "cps", {"{{table}}": "sum by (table) (rate(callstream_rows_total[5m]))"}),
        (
            "Replays handled",
            "cps",
            {"{{stage}}": "sum by (stage) (rate(callstream_replays_total{S}[5m]))"},
        ),
    ],
    "What went wrong": [
        (
            "Dead letters made",
            "cps",
            {
                "{{stage}} {{reason}}": "sum by (stage, reason) "
                "(rate(callstream_dead_letters_total{S}[15m]))"
            },
        ),
        (
            "Calls that wait",
            "cps",
            {
                "{{stage}} {{reason}}": "sum by (stage, reason) "
                "(rate(callstream_retries_total{S}[15m]))"
            },
        ),
        (
            "Waits for a dependency",
            "cps",
            {
                "{{stage}} {{reason}}": "sum by (stage, reason) "
                "(rate(callstream_waits_total{S}[5m]))"
            },
        ),
        (
            "Unexpected failures, work discarded",
            "cps",
            {
                "{{stage}} failures": "sum by (stage) (rate(callstream_failures_total{S}[5m]))",
                "{{stage}} discarded": "sum by (stage) (rate(callstream_discarded_total{S}[5m]))",
            },
        ),
    ],
    "Inside": [
        (
            "Commits",
            "cps",
            {
                "{{stage}}": "sum by (stage) (rate(callstream_commit_seconds_count{S}[5m]))",
                "{{stage}} failed, {{reason}}": "sum by (stage, reason) "
                "(rate(callstream_commits_failed_total{S}[5m]))",
            },
        ),
        (
            "Time of a commit, 95th percentile",
            "s",
            {
                "{{stage}}": "histogram_quantile(0.95, sum by (stage, le) "
                "(rate(callstream_commit_seconds_bucket{S}[5m])))"
            },
        ),
        (
            "Time of a batch, 95th percentile",
            "s",
            {
                "{{stage}}": "histogram_quantile(0.95, sum by (stage, le) "
                "(rate(callstream_batch_seconds_bucket{S}[5m])))"
            },
        ),
        (
            "Messages in a batch",
            "short",
            {
                "{{stage}}": "sum by (stage) (rate(callstream_batch_messages_sum{S}[5m])) / "
                "sum by (stage) (rate(callstream_batch_messages_count{S}[5m]))"
            },
        ),
        (
            "Kafka transactions",
            "cps",
            {
                "{{stage}} {{outcome}}": "sum by (stage, outcome) "
                "(rate(callstream_kafka_transactions_total{S}[5m]))"
            },
        ),
        (
            "Kafka group",
            "short",
            {
                "{{stage}} rebalances": "sum by (stage) "
                "(increase(callstream_kafka_rebalances_total{S}[15m]))",
                "{{stage}} partitions lost": "sum by (stage) "
                "(increase(callstream_kafka_partitions_lost_total{S}[15m]))",
            },
        ),
        (
            "Kafka, read ahead",
            "bytes",
            {"{{stage}}": "sum by (stage) (callstream_kafka_read_ahead_bytes{S})"},
        ),
        (
            "Kafka, 99th percentile of answers",
            "s",
            {"{{broker}}": "max by (broker) (callstream_kafka_round_trip_seconds{S})"},
        ),
    ],
}


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in _ROWS.items():
        place = {"h": 1, "w": 24, "x": 0, "y": y}
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "gridPos": place,
                       "collapsed": False, "panels": []})  # fmt: skip
        y += 1
        for number, (name, unit, expressions) in enumerate(row):
            place = {"h": 7, "w": 6, "x": number % 4 * 6, "y": y + number // 4 * 7}
            panels.append(_panel(len(panels) + 1, name, unit, expressions, place))
        y += -(-len(row) // 4) * 7
    return {
        "uid": "callstream",
        "title": "Callstream",
        "tags": ["callstream"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "label": "Prometheus", "type": "datasource",
                 "query": "prometheus"},
                {"name": "stage", "type": "query", "datasource": _source(), "includeAll": True,
                 "multi": True, "refresh": 2, "current": {"text": "All", "value": "$__all"},
                 "query": "label_values(callstream_ready, stage)"},
            ]
        },
        "panels": panels,
    }  # fmt: skip


def _source() -> dict[str, str]:
    return {"type": "prometheus", "uid": "${source}"}


def _panel(
    number: int, title: str, unit: str, expressions: dict[str, str], place: dict[str, int]
) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "gridPos": place,
        "datasource": _source(),
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": _source(),
                "legendFormat": legend,
                "expr": expression.replace("{S}", "{" + _STAGE + "}"),
            }
            for at, (legend, expression) in enumerate(expressions.items())
        ],
    }


def main() -> int:
    """Write the file, or with --check say whether it is as it would be written."""
    text = json.dumps(dashboard(), indent=1) + "\n"
    if "--check" not in sys.argv[1:]:
        _FILE.write_text(text, "utf-8")
        return 0
    if _FILE.read_text("utf-8") != text:
        print(f"{_FILE.name} is not what make.py makes; run it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
