"""A review outlasts every replay: other rules and another model change what is computed alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from schemas.events import CallReviewed, Verdict
from services.assembly import Parts
from services.cli.review import record
from services.runtime.stage import utc_now
from tests.replay.suite import TENANT, checksums, content, drained, replayed, settings_in
from tests.replay.test_replay import calls_through

pytestmark = pytest.mark.clickhouse

# Of the stub's words nothing is a greeting, and everything about the topic that is made up.
_SCORECARD = """\
version: "{version}"
id: made_up
criteria:
  - id: greeting
    title: Greets the customer
    weight: {weight}
    met_when:
      said: [hallo]
    suggestion: Greet.
  - id: topic
    title: Is about something
    weight: 3
    met_when:
      topic: [live_topic]
    suggestion: Be about something.
"""


def publish(parts: Parts, *reviews: CallReviewed) -> None:
    log = parts.log()
    for each in reviews:
        record(log, parts.codec, each)
    log.close()
    drained(parts)


def said(call: str, **what: Any) -> CallReviewed:
    return CallReviewed(
        tenant_id=TENANT, call_id=call, reviewed_at=utc_now(), reviewed_by="lena", reason="heard",
        **what,
    )  # fmt: skip


def shown(parts: Parts) -> dict[str, Sequence[Any]]:
    """call -> the score that counts, the computed one, and whether anybody reviewed it."""
    found = parts.warehouse.query(
        "SELECT call_id, score, computed_score, score_reviewed FROM calls ORDER BY call_id"
    )
    return {name: tuple(told) for name, *told in found.rows}


def test_a_review_outlasts_every_replay_until_it_is_withdrawn(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    live, trial = settings.enrich.rules_dir, settings.enrich.trial_rules_dir
    assert live is not None
    assert trial is not None
    (live / "scorecard.yaml").write_text(_SCORECARD.format(version="1.0", weight=1))
    (trial / "other" / "scorecard.yaml").write_text(_SCORECARD.format(version="2.0", weight=9))
    with calls_through(tmp_path, settings) as through:
        parts = through.parts
        assert set(shown(parts).values()) == {(75.0, 75.0, False)}
        publish(
            parts,
            said("call-1", criterion_id="greeting", verdict=Verdict.MET),
            said("call-2", score=12.5),
            said("call-3", criterion_id="smalltalk", verdict=Verdict.NOT_MET),
        )
        judged = {
            "call-0": (75.0, 75.0, False),
            "call-1": (100.0, 75.0, True),
            "call-2": (12.5, 75.0, True),
            "call-3": (75.0, 75.0, False),
        }
        assert shown(parts) == judged
        before = checksums(parts)
        reviews = content(parts, "call_reviews", processing=True)
        for stage in ("ingest", "transcribe", "enrich", "sink"):
            replayed(parts, stage)
            drained(parts)
            assert shown(parts) == judged, stage
            assert checksums(parts) == before, stage

        replayed(parts, "enrich", options={"rules": "other"}, shadow=True)
        drained(parts)
        assert checksums(parts) == before, "nobody sees a shadow, reviewed or not"
        replayed(parts, "enrich", options={"rules": "other"})
        drained(parts)
        assert shown(parts) == {
            "call-0": (25.0, 25.0, False),
            "call-1": (100.0, 25.0, True),
            "call-2": (12.5, 25.0, True),
            "call-3": (25.0, 25.0, False),
        }
        assert content(parts, "call_reviews", processing=True) == reviews

        publish(
            parts,
            said("call-1", criterion_id="greeting", withdrawn=True),
            said("call-2", withdrawn=True),
        )
        assert set(shown(parts).values()) == {(25.0, 25.0, False)}
        replayed(parts, "enrich")
        drained(parts)
        assert set(shown(parts).values()) == {(75.0, 75.0, False)}
