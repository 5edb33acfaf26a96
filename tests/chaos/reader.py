"""Reads beside a run as BI does, and says where it saw what it must never see."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from services.runtime.errors import Transient
from services.sink.warehouse import Result
from tests.chaos.calls import TENANTS

# Headline -> what belongs to it, with the column of the headline that counts it where there is one.
CHILDREN: Mapping[str, tuple[str, ...]] = {
    "calls_transcribed": ("segments",),
    "calls_enriched": (
        "metrics", "moments", "sentiments", "course", "findings", "criteria", "summary_sentences",
    ),
}  # fmt: skip
# View -> what makes a row of it one.
VIEWS: Mapping[str, str] = {
    "calls": "tenant_id, call_id",
    "current_ended": "tenant_id, call_id",
    "current_recorded": "tenant_id, call_id",
    "current_transcribed": "tenant_id, call_id",
    "current_enriched": "tenant_id, call_id",
    "call_segments": "tenant_id, call_id, segment_id",
    "call_sentiments": "tenant_id, call_id, segment_id",
    "call_criteria": "tenant_id, call_id, criterion_id",
    "call_metrics": "tenant_id, call_id, name, role",
    "call_alerts": "tenant_id, call_id, rule",
    "dead_letters": "id",
}
# The tables' sorting key begins so: tables of millions answer from the few parts that matter.
_OF_CALLS = f"tenant_id IN {TENANTS} AND call_id IN {{calls:Array(String)}}"
_SAMPLE = 40
_REMEMBERED = 20_000


class Asked(Protocol):
    """What the reader needs of a warehouse."""

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Result: ...


class Reader:
    """Looks again and again until it is stopped; `violations` grows as it sees them.

    What a call has below its headlines never changes once a headline is there: it is remembered
    from the first look, and compared at the next ones and by `compare`.
    """

    def __init__(self, warehouse: Asked, candidates: Callable[[], list[str]], seed: int) -> None:
        """`candidates` names calls that may be there by now, the latest last."""
        self._warehouse, self._candidates = warehouse, candidates
        self._chance = random.Random(f"reader {seed}")
        self.violations: list[str] = []
        self.looks = 0
        self.missed = 0
        """Looks that found nobody to ask."""
        self.seen: dict[tuple[str, str], dict[str, int]] = {}
        """(headline, event id) -> rows of each table below it, as first seen."""
        self._counts: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(120)

    def _run(self) -> None:
        views = itertools.cycle(VIEWS)
        whole_at = 0.0
        while not self._stop.is_set():
            began = time.monotonic()
            whole = began >= whole_at
            try:
                self.look(next(views) if whole else None)
            except Transient:
                self.missed += 1
            except Exception as error:
                self.violations.append(f"the reader was answered {type(error).__name__}: {error}")
            # Either kind of look takes a tenth of the time at most, whatever it costs.
            ended = time.monotonic()
            rest_s = 9 * (ended - began)
            if whole:
                whole_at, rest_s = ended + rest_s, 0.0
            self._stop.wait(max(0.5, rest_s))

    def look(self, view: str | None = None) -> None:
        """One look: the children of some calls; with `view` also all of it, and the counts."""
        if view is not None:
            self._counts_never_shrink()
            self._no_duplicates(view)
        calls = self._candidates()
        latest = calls[-400:]
        sample = self._chance.sample(latest, min(_SAMPLE, len(latest)))
        if len(calls) > 400:
            sample += self._chance.sample(calls[:-400], min(_SAMPLE // 4, len(calls) - 400))
        for headline in CHILDREN:
            self._whole(headline, sample)
        self.looks += 1

    def _counts_never_shrink(self) -> None:
        for table in ("calls_ended", "calls_recorded", "calls_transcribed", "calls_enriched"):
            rows = self._warehouse.query(f"SELECT uniqExact(tenant_id, call_id) FROM {table}").rows
            count = int(rows[0][0])
            if count < self._counts.get(table, 0):
                self.violations.append(f"{table} shrank from {self._counts[table]} to {count}")
            self._counts[table] = count

    def _whole(self, headline: str, calls: list[str]) -> None:
        said = "segments" if headline == "calls_transcribed" else "0"
        shown = self._warehouse.query(
            f"SELECT event_id, call_id, {said} FROM {headline} FINAL WHERE {_OF_CALLS}",
            {"calls": calls},
        ).rows
        if not shown:
            return
        # Only what the headlines show: what belongs to them was inserted before them.
        ids = {"ids": [row[0] for row in shown], "calls": calls}
        below: dict[str, dict[str, int]] = {}
        for table in CHILDREN[headline]:
            found = self._warehouse.query(
                f"SELECT event_id, count() FROM {table} FINAL "
                f"WHERE {_OF_CALLS} "
                "AND event_id IN {ids:Array(String)} GROUP BY event_id",
                ids,
            ).rows
            below[table] = {event: int(count) for event, count in found}
        for event, call, count in shown:
            has = {table: below[table].get(event, 0) for table in CHILDREN[headline]}
            if headline == "calls_transcribed" and has["segments"] != count:
                self.violations.append(
                    f"{call}: half a call, its transcript has {count} segments, shown are "
                    f"{has['segments']}"
                )
            self._compare(headline, event, call, has)
            if len(self.seen) < _REMEMBERED:
                self.seen.setdefault((headline, event), has)

    def _compare(self, headline: str, event: str, call: str, has: dict[str, int]) -> None:
        first = self.seen.get((headline, event), has)
        if first != has:
            self.violations.append(
                f"{call}: half a call, below its {headline} stood {first}, later {has}"
            )

    def compare(self, final: Mapping[tuple[str, str], dict[str, int]]) -> None:
        """Compare what was seen with what (headline, event id) has in the end."""
        for headline, event in self.seen:
            if (end := final.get((headline, event))) is not None:
                self._compare(headline, event, event, end)

    def _no_duplicates(self, view: str) -> None:
        rows = self._warehouse.query(
            f"SELECT {VIEWS[view]}, count() FROM {view} GROUP BY {VIEWS[view]} "
            "HAVING count() > 1 LIMIT 3"
        ).rows
        for row in rows:
            self.violations.append(f"{view} shows {row[:-1]} {row[-1]} times")
