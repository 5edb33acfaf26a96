from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Role
from services.enrich.handler import enrich_call
from services.enrich.rules import load_rules
from services.enrich.settings import EnrichSettings
from services.enrich.transcript_file import TranscriptError, findings_json, parse_transcript


def test_lines_of_text() -> None:
    event = parse_transcript(
        "\ufeff# a comment\n"
        "agent: Good morning\n"
        "\n"
        "[00:05] Customer: I want: a refund\n"
        "[1:00:07.5] 客服：好的\n"
        "客户: 谢谢\n"
    )
    assert [(s.role, s.text, s.start_ms, s.language) for s in event.segments] == [
        (Role.AGENT, "Good morning", 0, "en"),
        (Role.CUSTOMER, "I want: a refund", 5000, "en"),
        (Role.AGENT, "好的", 3_607_500, "zh"),
        (Role.CUSTOMER, "谢谢", 3_607_500 + 440 + 400, "zh"),
    ]
    assert [s.segment_id for s in event.segments] == [0, 1, 2, 3]
    assert event.segments[0].end_ms == 12 * 70
    assert event.duration_ms == event.segments[-1].end_ms
    assert event.call.call_id == "transcript"


def test_a_turn_ends_before_the_next_begins() -> None:
    event = parse_transcript("[00:00] agent: " + "word " * 100 + "\n[00:02] customer: yes")
    assert event.segments[0].end_ms == 2000


@pytest.mark.parametrize("wrap", [lambda turns: turns, lambda turns: {"segments": turns}])
def test_json(wrap: object) -> None:
    assert callable(wrap)
    turns = [
        {"role": "agent", "text": "hello", "start_ms": 100, "end_ms": 900, "loudness_dbfs": -21},
        {"role": "客户", "text": "你好"},
    ]
    event = parse_transcript(json.dumps(wrap(turns), indent=1))
    assert [(s.role, s.start_ms, s.end_ms) for s in event.segments] == [
        (Role.AGENT, 100, 900),
        (Role.CUSTOMER, 1300, 1740),
    ]
    assert [s.loudness_dbfs for s in event.segments] == [-21.0, None]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "line 1: no turn found; write lines such as"),
        ("# nothing\n", "line 1: no turn found"),
        ("agent: hi\nno role here\n", "line 2: 'no role here' is no turn; write"),
        ("agent: hi\nboss: hi\n", "line 2: role 'boss' is not known; allowed are agent, customer"),
        (
            "[xx] customer: hello",
            "line 1: '[xx] customer: hello' is no turn; write `agent: ...` or `[mm:ss] customer:",
        ),
        ("\n[5] 客户：你好", "line 2: '[5] 客户：你好' is no turn; write"),
        ('[{"role": "agent",\n]', "line 2: is no JSON"),
        ('{"a": 1}', "line 1: JSON must be a list of turns or hold one as 'segments'"),
        ("[1]", "segments[0]: is no object"),
        ('[{"role": "agent"}]', "segments[0].text: None is no text"),
        ('[{"role": 5, "text": "a"}]', "segments[0].role: role 5 is not known"),
        ('[{"role": "agent", "text": "a", "start_ms": -1}]', "segments[0].start_ms: -1 is no"),
        ('[{"role": "agent", "text": "a", "start_ms": true}]', "segments[0].start_ms: True"),
        ('[{"role": "agent", "text": "a", "end_ms": 5}]', "segments[0].end_ms: 5 needs"),
        (
            '[{"role": "agent", "text": "a", "loudness_dbfs": 21}]',
            "segments[0].loudness_dbfs: 21 is no number from -200 to 20",
        ),
        ('[{"role": "agent", "text": "a", "loudness_dbfs": NaN}]', "loudness_dbfs: nan is no"),
        ('[{"role": "agent", "text": "a", "loudness_dbfs": true}]', "loudness_dbfs: True is no"),
        ('[{"role": "agent", "text": "a", "loudness_dbfs": "-20"}]', "loudness_dbfs: '-20' is no"),
    ],
)
def test_what_cannot_be_read_says_where(text: str, problem: str) -> None:
    with pytest.raises(TranscriptError, match=re.escape(problem)):
        parse_transcript(text)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    try:
        segments = parse_transcript(text).segments
    except TranscriptError:
        segments = []
    assert all(s.start_ms < s.end_ms for s in segments)


def test_findings_as_json() -> None:
    event = parse_transcript("agent: hello\ncustomer: I will call my lawyer")
    now = datetime(2026, 1, 2, tzinfo=UTC)
    shown = json.loads(findings_json(*enrich_call(event, "t", load_rules(), now, EnrichSettings())))
    assert shown["alerts"][0]["rule"] == "complaint_threat"
    assert shown["alerts"][0]["severity"] == "CRITICAL"
    assert shown["enriched_at"] == "2026-01-02T00:00:00+00:00"
    assert "call" not in shown
