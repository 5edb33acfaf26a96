"""A rule is changed and replayed over stored calls: what it changes, and what it takes.

    python -m benchmarks.rules [--calls 1000]

The calls are those of `samples/labelled`, again and again under ids of their own, on the embedded
parts. Enrich and sink run, transcribe and ingest do not: nothing listens to anything. Of one rule
(`complaint_without_apology`) the time that an agent has to apologise is cut from 60 s to 4 s; all
calls are replayed by it, and every view of the warehouse is held against what it showed before.
Versions of rules, ids and times of processing aside, rows may differ in the findings of that rule
alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from benchmarks.findings import load_labelled
from services.assembly import Parts
from services.enrich.rules import BUILT_IN
from services.enrich.settings import EnrichSettings
from services.runtime.observe import configure_logs
from services.runtime.stage import utc_now
from services.serve import Running
from services.settings import load
from services.transcribe.settings import TranscribeSettings
from tests.replay.suite import TENANT, at_work, content, parts_of, replayed, until, views

RULE = "complaint_without_apology"
AT_WORK = ("enrich", "sink")
# What tells of the processing and of the rules it went by, not of the call.
_VERSIONS = ("rules_version", "rule_version", "scorecard_version", "score_version")


@dataclass(frozen=True, slots=True)
class Changed:
    calls: int
    seconds: float
    """From the first request until the warehouse has the last result."""
    views: Mapping[str, Counter[str]]
    """View -> rule, or "" where the row names none -> rows that came or went."""
    called: int
    """Calls with such a row."""


def changed(folder: Path, calls: int) -> Changed:
    """Store that many calls, change the rule, replay all of them and compare."""
    trial = folder / "trials" / "stricter"
    trial.mkdir(parents=True)
    text = (BUILT_IN / "rules.yaml").read_text(encoding="utf-8")
    before, found, rest = text.partition(f"- id: {RULE}")
    if not found or "within_s: 60" not in rest:
        raise RuntimeError(f"{RULE} is not what it was")
    stricter = rest.replace("within_s: 60", "within_s: 4", 1)
    (trial / "rules.yaml").write_text(before + found + stricter, encoding="utf-8")
    settings = load(
        data_dir=folder / "data",
        transcribe=TranscribeSettings(engine="stub"),
        enrich=EnrichSettings(trial_rules_dir=folder / "trials"),
        tenant=TENANT,
    )
    with parts_of(settings) as parts, at_work(parts, AT_WORK) as running:
        _store(parts, calls)
        _drained(parts, running)
        was = {view: _rows(parts, view) for view in views(parts)}
        began = time.perf_counter()
        replayed(parts, "enrich", options={"rules": "stricter"})
        seconds = time.perf_counter() - began
        _drained(parts, running)
        differing: dict[str, Counter[str]] = {}
        touched = set()
        for view, rows in was.items():
            now = _rows(parts, view)
            told = [json.loads(row) for row in ((now - rows) + (rows - now)).elements()]
            if told:
                differing[view] = Counter(row.get("rule", "") for row in told)
                touched |= {row["call_id"] for row in told if "call_id" in row}
    return Changed(calls, seconds, differing, len(touched))


def _store(parts: Parts, calls: int) -> None:
    labelled = load_labelled().calls
    log = parts.log()
    for number in range(calls):
        event = labelled[number % len(labelled)].event
        began = event.call.started_at + timedelta(minutes=number)
        id, now = f"call-{number}", utc_now()
        call = replace(
            event.call, tenant_id=TENANT, call_id=id, event_id=f"evt-{number}", started_at=began,
            ended_at=began + (event.call.ended_at - event.call.started_at), published_at=now,
        )  # fmt: skip
        made = replace(event, tenant_id=TENANT, call_id=id, call=call)
        for it in (call, made):
            record = parts.codec.encode(
                it, id=f"{type(it).__name__}-{number}", source="/benchmarks", time=now
            )
            log.commit([record], {})
    log.close()


def _drained(parts: Parts, running: Running) -> None:
    """Wait until enrich and sink have nothing left to read."""
    until(
        lambda: not any(lag for (name, _), lag in parts.lags().items() if name in AT_WORK),
        f"{', '.join(AT_WORK)} are not through",
        running,
    )


def _rows(parts: Parts, view: str) -> Counter[str]:
    """The rows of a view, without what tells of versions."""
    rows: Counter[str] = Counter()
    for row, count in content(parts, view).items():
        kept = {name: value for name, value in json.loads(row).items() if name not in _VERSIONS}
        rows[json.dumps(kept)] += count
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--calls", type=int, default=1_000)
    chosen = options.parse_args()
    configure_logs("CRITICAL")
    with tempfile.TemporaryDirectory() as folder:
        found = changed(Path(folder), chosen.calls)
    print(
        f"{found.calls:,} calls replayed by a changed rule in {found.seconds:.1f} s: "
        f"{found.seconds * 1000 / found.calls:.1f} ms a call, enrich and sink on this machine"
    )
    print(f"calls with another row than before: {found.called:,}; calls listened to: 0")
    for view, rules in sorted(found.views.items()):
        told = ", ".join(f"{rule or 'no rule'} {count:,}" for rule, count in sorted(rules.items()))
        print(f"  {view}: {told}")


if __name__ == "__main__":
    main()
