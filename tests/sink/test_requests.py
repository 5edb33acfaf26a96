"""What customers ask to be different is found in their calls, and counted over all of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from schemas import events as e
from schemas.examples import EXAMPLES
from services.enrich.handler import enrich_call
from services.enrich.rules import load_rules
from services.enrich.settings import EnrichSettings
from services.enrich.transcript_file import parse_transcript
from services.sink.handler import stage
from services.sink.settings import SinkSettings
from services.sink.warehouse import Warehouse
from tests.sink.messages import Topics

pytestmark = pytest.mark.clickhouse

ENDED: e.CallEnded = EXAMPLES["CallEnded"]["happy"]
CALLS = {
    "refund": """
        customer: I want my refund, and you should really offer a pickup service.
        agent: I will pass that on. My number is 555 0100 by the way.
    """,
    "again": """
        客户：我要退款。你们能不能周末也派送？我的电话是13800138000。
        客服：好的，我帮您反馈。
    """,
    "content": """
        customer: When do you open?
        agent: You should try at nine.
    """,
}


def test_wishes_are_counted_by_topic(warehouse: Warehouse, tmp_path: Path) -> None:
    topics, rules = Topics(tmp_path), load_rules()
    for name, text in CALLS.items():
        call = replace(ENDED, call_id=name)
        event = replace(
            parse_transcript(text, tenant_id=call.tenant_id, call_id=name), call=call, revision=1
        )
        transcript = topics.send(event, f"t-{name}")
        now = datetime(2026, 3, 2, 10, tzinfo=UTC)
        enriched, _ = enrich_call(event, transcript.id, rules, now, EnrichSettings())
        sent = [topics.send(call, f"c-{name}"), transcript, topics.send(enriched, f"e-{name}")]
        outcomes = dict(stage(SinkSettings(), warehouse).handle(sent))
        assert not [each for each in outcomes.values() if isinstance(each, Exception)]
    found = warehouse.query("SELECT call_id, quote, said FROM customer_requests ORDER BY call_id")
    assert [(call, quote) for call, quote, _ in found.rows] == [
        ("again", "你们能不能"), ("refund", "you should really offer"),
    ]  # fmt: skip
    assert "周末也派送" in found.rows[0][2]
    assert "[phone]" in found.rows[0][2]
    assert "13800138000" not in found.rows[0][2]
    by_topic = warehouse.query(
        "SELECT topic, calls, requests, length(examples) FROM requests_by_topic ORDER BY topic"
    )
    assert ("refund", 2, 2, 2) in by_topic.rows
