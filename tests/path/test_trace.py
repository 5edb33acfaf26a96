"""One W3C trace from the CallEnded through every stage to the rows of the warehouse."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from services.assembly import project_root

SAMPLE = project_root() / "samples" / "audio" / "angry-refund.flac"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
QUERY = """
SELECT type, call_id, event_id, trace_id,
    header_values[indexOf(header_names, 'ce_causationid')] AS cause,
    header_values[indexOf(header_names, 'traceparent')] AS traceparent
FROM events FINAL WHERE type != '' ORDER BY time
"""


def run(data: Path, *words: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CALLSTREAM_")} | {
        "CALLSTREAM_DATA_DIR": str(data),
        "CALLSTREAM_TRANSCRIBE__ENGINE": "stub",
        "CALLSTREAM_LOG_LEVEL": "DEBUG",
    }
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", *words],
        env=environment, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def chain(rows: list[dict[str, Any]], call: str) -> list[str]:
    """Types of a call's events, each caused by the one before it; alerts aside."""
    rows = [row for row in rows if row["call_id"] == call and row["type"] != "AlertRaised"]
    (first,) = [row for row in rows if row["cause"] == ""]
    types, at = [first["type"]], first
    while after := [row for row in rows if row["cause"] == at["event_id"]]:
        (at,) = after
        types.append(at["type"])
        version, trace, parent, flags = at["traceparent"].split("-")
        assert (version, trace, flags) == ("00", at["trace_id"], "01")
        # The span of an event is made from its own id; its cause's id says whose child it is.
        assert parent == sha256(at["event_id"].encode()).hexdigest()[:16]
    return types


@pytest.mark.clickhouse
def test_a_call_is_one_trace_from_the_platform_to_the_warehouse(tmp_path: Path) -> None:
    traced, plain = tmp_path / "traced.flac", tmp_path / "plain.flac"
    for file in (traced, plain):
        shutil.copy(SAMPLE, file)
        (tmp_path / f"{file.name}.json").write_text(
            json.dumps(
                {"call_id": file.stem}
                | ({"traceparent": f"00-{TRACE}-{PARENT}-01"} if file is traced else {})
            )
        )
    data = tmp_path / "data"
    run(data, "submit", "--wait", str(traced), str(plain))
    rows = [json.loads(r) for r in run(data, "sql", QUERY, "--format", "json").splitlines()]
    expected = ["CallEnded", "CallRecorded", "CallTranscribed", "CallEnriched"]
    assert chain(rows, "traced") == chain(rows, "plain") == expected
    assert {row["trace_id"] for row in rows if row["call_id"] == "traced"} == {TRACE}
    derived = sha256(b"default/plain").hexdigest()[:32]
    assert {row["trace_id"] for row in rows if row["call_id"] == "plain"} == {derived}
    (ended,) = [r for r in rows if r["call_id"] == "traced" and r["type"] == "CallEnded"]
    assert ended["traceparent"] == f"00-{TRACE}-{PARENT}-01", "the platform's own, untouched"
    lines = [json.loads(line) for line in (data / "callstream.log").read_text().splitlines()]
    told = [line for line in lines if line.get("call_id") == "traced"]
    assert {line["stage"] for line in told} == {"ingest", "transcribe", "enrich", "sink"}
    assert {line["trace_id"] for line in told} == {TRACE}
