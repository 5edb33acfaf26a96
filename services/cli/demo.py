"""What `callstream demo` does: the sample calls through the whole path, and what came out."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from schemas.events import CallEnded
from services.assembly import Parts, project_root
from services.cli.follow import follow
from services.ingest.entrances import call_ended_for
from services.ingest.handler import upload
from services.loopback import Asks, Here, rows_of
from services.serve import AlreadyRunning, embedded
from services.settings import Settings

TENANT = "demo"

# What telephony knows of a sample; the rest of its file is what was spoken and is expected.
_TELEPHONY = ("call_id", "language", "queue", "agent_id", "agent_name", "direction", "started_at",
              "hold")  # fmt: skip

QUESTIONS = (
    (
        "Which topics make customers unhappy?",
        "SELECT topic, count() AS calls, round(avg(customer_sentiment), 2) AS sentiment"
        " FROM calls ARRAY JOIN topics AS topic"
        " WHERE tenant_id = 'demo' GROUP BY topic ORDER BY sentiment, topic",
    ),
    (
        "Who needs a call back today, and what did they say?",
        "SELECT call_id, severity, title, arrayElement(quotes, 1) AS quote FROM call_alerts"
        " WHERE tenant_id = 'demo' ORDER BY severity, call_id",
    ),
    (
        "Where did nobody speak for more than five seconds?",
        "SELECT call_id, formatDateTime(toDateTime(intDiv(start_ms, 1000)), '%i:%S') AS at,"
        " round(duration_ms / 1000, 1) AS seconds FROM call_moments"
        " WHERE tenant_id = 'demo' AND kind = 'SILENCE' AND duration_ms > 5000"
        " ORDER BY call_id, start_ms",
    ),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample call: its recording, what telephony knows of it, and what is spoken in it."""

    name: str
    audio: Path
    title: str
    call_id: str
    language: str
    metadata: dict[str, Any]
    script: str


def read_samples(folder: Path) -> list[Sample]:
    """The sample calls in `folder`. FileNotFoundError where there are none."""
    samples = []
    for path in sorted((folder / "calls").glob("*.yaml")):
        told = yaml.safe_load(path.read_text("utf-8"))
        made = json.loads((folder / "audio" / f"{path.stem}.json").read_text("utf-8"))
        samples.append(
            Sample(
                path.stem,
                folder / "audio" / made["file"],
                told["title"],
                told["call_id"],
                told["language"],
                {key: told[key] for key in _TELEPHONY if key in told},
                " ".join(turn["text"] for turn in told["turns"]),
            )
        )
    if not samples:
        raise FileNotFoundError(
            f"no sample calls in {folder}; run the demo from a checkout, or give --samples"
        )
    return samples


def demo(settings: Settings, folder: Path | None, out: Console) -> int:
    """Run the demo; the exit status: 0 when every sample is through."""
    samples = read_samples(folder or project_root() / "samples")
    started = time.monotonic()
    try:
        with embedded(settings) as running:
            asks = Here(running.parts.warehouse)
            before = _rows(asks)
            known = follow(asks, _publish(running.parts, samples), out, running.trouble)
            _settle(running.parts)
            if running.failed:
                name, error = next(iter(running.failed.items()))
                raise RuntimeError(f"{name} ended: {error}") from error
            added = _rows(asks) - before
            seconds = time.monotonic() - started
            unheard = _show(asks, samples, out)
            through = sum(at.state == "enriched" for at in known.values())
            out.print(
                f"{through} of {len(samples)} calls through{_not_heard(unheard)} in "
                f"{seconds:.1f} s; {added} rows added; {_megabytes(settings.data_dir):.0f} MB in "
                f"{settings.data_dir}",
                highlight=False,
            )
            command = os.path.relpath(sys.argv[0])
            out.print("Next:")
            for words in (
                "show demo/sample-angry-refund",
                "sql 'SELECT * FROM agents_daily'",
                "submit --wait --language en YOUR_RECORDING",
            ):
                out.print(f"  {command} {words}", highlight=False, soft_wrap=True)
            return 0 if through == len(samples) else 1
    except AlreadyRunning as error:
        out.print(f"{error}")
        return 1


def _publish(parts: Parts, samples: Sequence[Sample]) -> list[CallEnded]:
    log = parts.log()
    calls = []
    for sample in samples:
        # With a fixed time it is the same event each time, byte for byte: no row comes of it.
        metadata = {**sample.metadata, "published_at": sample.metadata["started_at"]}
        call = call_ended_for(
            sample.audio, tenant_id=TENANT, metadata=metadata,
            uri=upload(parts.objects, TENANT, sample.audio),
        )  # fmt: skip
        parts.publish(log, call)
        calls.append(call)
    log.close()
    return calls


def _settle(parts: Parts, timeout_s: float = 30.0) -> None:
    """Wait until every stage has read all there is: a repeat changes no state to wait for."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if all(lag == 0 for lag in parts.lags().values()):
            return
        time.sleep(0.1)


def _rows(asks: Asks) -> int:
    """Rows in all tables; of versions that have not been merged, one."""
    tables = asks.ask(
        "SELECT name FROM system.tables WHERE database = currentDatabase()"
        " AND engine LIKE '%MergeTree' AND name != 'migrations'",
        "TSV",
    )
    names = tables.decode().split()
    if not names:
        return 0
    parts = " + ".join(f"(SELECT count() FROM {name} FINAL)" for name in names)
    return int(asks.ask(f"SELECT {parts}", "TSV"))


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def _not_heard(kinds: Sequence[str]) -> str:
    return f", {len(kinds)} of them not heard ({', '.join(sorted(set(kinds)))})," if kinds else ""


def _show(asks: Asks, samples: Sequence[Sample], out: Console) -> list[str]:
    """Print what came out; why calls were not heard, of each that was not."""
    engine = asks.ask("SELECT DISTINCT engine, model FROM calls WHERE tenant_id = 'demo'", "TSV")
    why = " (no Whisper model at hand: English only, for trying out)"
    named = ", ".join(engine.decode().split())
    out.print(f"speech by {named}{why if 'pocketsphinx' in named else ''}", highlight=False)
    calls = {row["call_id"]: row for row in rows_of(asks, _CALLS)}
    table = Table("call", "turns", "customer's course", "heard", "score", "alerts", "WER")
    unheard: list[str] = []
    for sample in samples:
        row = calls.get(sample.call_id)
        if row is None:
            table.add_row(sample.title, "", "", "not through", "", "", "")
            continue
        wer = ""
        if row["degradations"] and not row["heard"]:
            kinds = [each.partition(":")[0].lower() for each in row["degradations"]]
            # That another engine listened says less than that it does not know the language.
            unheard.append(min(kinds, key=lambda kind: kind == "engine_fallback"))
            wer = f"not heard: {unheard[-1]}"
        elif sample.language == "en":
            wer = f"{word_error_rate(sample.script, row['heard']):.0%}"
        table.add_row(
            sample.title,
            f"{row['agent_turns']} agent, {row['customer_turns']} customer"
            if row["agent_turns"] or row["customer_turns"]
            else f"{row['turns']}, speakers unknown"
            if row["turns"]
            else "",
            _course(row["course"]) if row["course"] else "",
            ", ".join(row["topics"] + row["emotions"]),
            "" if row["score"] is None else f"{row['score']:.0f}",
            ", ".join(row["alerts"]),
            wer,
        )
    out.print(table, markup=True)
    out.print(_LEGEND, highlight=False, soft_wrap=True)
    for question, sql in QUESTIONS:
        out.print(f"\n[b]{question}[/b]", markup=True)
        out.print(sql, style="dim", highlight=False, soft_wrap=True)
        out.print(
            asks.ask(sql, "PrettyCompactMonoBlock").decode().rstrip(), highlight=False, markup=False
        )
    out.print()
    return unheard


_CALLS = """
SELECT c.call_id AS call_id, c.turns AS turns, c.topics AS topics, c.emotions AS emotions,
  c.score AS score, c.alerts AS alerts, c.degradations AS degradations, s.heard AS heard,
  m.agent_turns AS agent_turns, m.customer_turns AS customer_turns, k.course AS course
FROM calls AS c
LEFT JOIN (SELECT call_id, arrayStringConcat(arrayMap(x -> x.2, arraySort(groupArray(
    (segment_id, text)))), ' ') AS heard FROM segments FINAL WHERE (tenant_id, call_id, event_id) IN
    (SELECT tenant_id, call_id, event_id FROM current_transcribed WHERE tenant_id = 'demo')
    GROUP BY call_id) AS s ON c.call_id = s.call_id
LEFT JOIN (SELECT call_id, toInt32(sumIf(value, role = 'AGENT')) AS agent_turns,
    toInt32(sumIf(value, role = 'CUSTOMER')) AS customer_turns FROM call_metrics
    WHERE tenant_id = 'demo' AND name = 'turn_count' GROUP BY call_id) AS m ON c.call_id = m.call_id
LEFT JOIN (SELECT call_id, groupArray((quarter, label)) AS course FROM call_course
    WHERE tenant_id = 'demo' AND role = 'CUSTOMER' GROUP BY call_id) AS k ON c.call_id = k.call_id
WHERE c.tenant_id = 'demo'
"""


_LEGEND = (
    "customer's course, by quarter of the call: - negative, o neutral, + positive, . said nothing"
)
_SIGNS = {"NEGATIVE": "[red]-[/]", "NEUTRAL": "o", "POSITIVE": "[green]+[/]"}


def _course(points: Sequence[tuple[int, str]]) -> str:
    """The four quarters as signs, '.' where the customer said nothing."""
    labels = {int(quarter): label for quarter, label in points}
    return " ".join(_SIGNS.get(labels.get(quarter, ""), ".") for quarter in range(1, 5))


def word_error_rate(script: str, heard: str) -> float:
    """Word edits over words of `script`, letters only, without case. 0.0 to above 1.0."""
    said, got = _words(script), _words(heard)
    previous = list(range(len(got) + 1))
    for row, word in enumerate(said, 1):
        current = [row]
        for column, other in enumerate(got, 1):
            current.append(
                min(
                    previous[column] + 1,
                    current[-1] + 1,
                    previous[column - 1] + (word != other),
                )
            )
        previous = current
    return previous[-1] / max(1, len(said))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())
