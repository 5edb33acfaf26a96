"""The sample calls, as their scripts have them: what enrich says of a transcript without errors."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.events import FindingKind, Role
from services.enrich.handler import enrich_call
from services.enrich.rules import load_rules
from services.enrich.sentiment import label
from services.enrich.settings import EnrichSettings
from services.enrich.transcript_file import CHARACTER_MS, HAN_MS, parse_transcript

SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "calls"
RULES = load_rules()
# The pause that samples/make.py puts where a turn names none.
PAUSE_MS = 350


def as_json(script: Any) -> str:
    turns = []
    at = 0
    for turn in script["turns"]:
        text = turn["text"]
        spoken_ms = len(text) * (HAN_MS if script["language"] == "zh" else CHARACTER_MS)
        at = max(at + turn.get("pause_before_ms", PAUSE_MS) - turn.get("overlap_ms", 0), 0)
        turns.append({"role": turn["role"], "text": text, "start_ms": at, "end_ms": at + spoken_ms})
        at += spoken_ms
    return json.dumps(turns)


def test_there_are_samples_of_both_languages() -> None:
    languages = {yaml.safe_load(path.read_bytes())["language"] for path in SAMPLES.glob("*.yaml")}
    assert languages == {"en", "zh"}


@pytest.mark.parametrize("name", sorted(path.stem for path in SAMPLES.glob("*.yaml")))
def test_a_sample_is_enriched_as_expected(name: str) -> None:
    script = yaml.safe_load((SAMPLES / f"{name}.yaml").read_text(encoding="utf-8"))
    expected = script["expected"]
    event = parse_transcript(as_json(script))
    now = datetime(2026, 1, 2, tzinfo=UTC)
    enriched, alerts = enrich_call(event, "t", RULES, now, EnrichSettings())
    topics = {f.label for f in enriched.findings if f.kind is FindingKind.TOPIC}
    assert set(expected["topics"]) <= topics
    assert {alert.rule for alert in alerts} == set(expected["alerts"])
    metrics = {(metric.name, metric.role): metric.value for metric in enriched.metrics}
    felt = label(metrics["customer_sentiment", Role.CUSTOMER])
    assert felt.value.lower() == expected["customer_sentiment"]
    assert enriched.score is not None
    assert expected["score"]["min"] <= enriched.score.value <= expected["score"]["max"]
    assert enriched.summary is not None
    assert enriched.summary.sentences
