"""The sample calls, as their scripts have them: what enrich says of a transcript without errors."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.events import CallTranscribed, FindingKind, Role
from services.enrich.handler import enrich_call
from services.enrich.rules import load_rules
from services.enrich.sentiment import label
from services.enrich.settings import EnrichSettings
from services.enrich.transcript_file import CHARACTER_MS, HAN_MS, parse_transcript

SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "calls"
RULES = load_rules()
# The pause that samples/make.py puts where a turn names none.
PAUSE_MS = 350


# What a small speech engine made of some samples: no punctuation, words wrong.
HEARD = {
    "angry-refund": """
agent: good morning thank you for calling customer service my name is linda how can i help get a
customer: i am very angry i sent the shoes back a month ago and i still do not have my refund
agent: hi i'm very sorry about that i understand how you feel let me check your order
customer: this is unacceptable i want my money back today
agent: i can see your return i will send a refund to your bank account right now
customer: all right i hope it really comes this time
agent: is there anything else i can do for you
customer: no that is all
agent: thank you for your patience have a good day goodbye
""",
    "complaint-threat": """
agent: good afternoon my name is anna how can i help him
customer: my phone does not work and nobody called me back i am really angry
customer: i want to speak to your manager
agent: i am very sorry out that i understand how you feel
customer: if you do not fix this today i will make a complaint and i will call my lawyer
agent: i apologize pilot tell my manager about it and he will call you today
customer: this is the worst service by ever had
agent: i apologize for the trouble is there anything else i can do for you
customer: no just call me back
agent: we will thank you for calling goodbye
""",
    "technical-help": """
agent: hello my name is david how can i help you today
customer: my internet does not work and i forgot my password i am a little frustrated
agent: i am sorry about the trouble we will fix it together please turn the box off and on again
customer: okay the light is green now
agent: great i have sent a new password to your phone can you try it
customer: yes it works that is wonderful thank you so much for your help
agent: is there anything else i can do for you
customer: no i am very happy now
agent: sam queue for calling have a good day goodbye
""",
}  # fmt: skip


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
def test_a_script_is_enriched_as_expected(name: str) -> None:
    script = yaml.safe_load((SAMPLES / f"{name}.yaml").read_text(encoding="utf-8"))
    check(parse_transcript(as_json(script)), script["expected"])


@pytest.mark.parametrize("name", sorted(HEARD))
def test_what_was_misheard_is_enriched_all_the_same(name: str) -> None:
    script = yaml.safe_load((SAMPLES / f"{name}.yaml").read_text(encoding="utf-8"))
    check(parse_transcript(HEARD[name]), script["expected"])


def check(event: CallTranscribed, expected: Any) -> None:
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
