"""What endpoints outside were told of calls, in the views; a call has its own state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from schemas import events as e
from schemas.examples import EXAMPLES
from services.runtime.stage import Envelope
from services.sink.rows import basis_of, milliseconds
from services.sink.warehouse import Warehouse
from tests.sink.messages import NOON, Topics, life_of
from tests.sink.test_sink import content, one, sink

pytestmark = pytest.mark.clickhouse

HAPPY: e.CallEnded = EXAMPLES["CallEnded"]["happy"]
TOLD: e.CallNotified = EXAMPLES["CallNotified"]["alert"]
STATE = "SELECT state, state_reason, due_at FROM calls"
SHOWN = (
    "SELECT endpoint, record, told_id, state, reason, detail FROM call_notifications "
    "ORDER BY endpoint, told_id"
)


@pytest.fixture
def topics(tmp_path: Path) -> Topics:
    return Topics(tmp_path / "objects")


@pytest.fixture
def life(topics: Topics) -> Sequence[Envelope[Any]]:
    return life_of(topics, HAPPY)


def told(about: Envelope[Any], endpoint: str = "crm", **changes: Any) -> e.CallNotified:
    alert = isinstance(about.event, e.AlertRaised)
    return replace(
        TOLD, event_id=about.id, endpoint=endpoint, revision=about.event.revision,
        record="AlertRaised" if alert else "CallEnriched", rule=about.event.rule if alert else "",
        notified_at=NOON, **changes,
    )  # fmt: skip


def test_what_an_endpoint_took_and_what_it_did_not(
    warehouse: Warehouse, topics: Topics, life: Sequence[Envelope[Any]]
) -> None:
    enriched, alert = life[3], life[4]
    sink(warehouse, life)
    before = one(warehouse, STATE)
    assert before[0] == "enriched"
    sink(
        warehouse,
        [
            topics.send(told(enriched), "n1", causation_id=enriched.id),
            topics.send(told(alert), "n2", causation_id=alert.id),
            topics.refuse(enriched, "notify.lake", "endpoint_refuses", detail="422"),
            topics.refuse(alert, "notify.team", "notification_expired", detail="72 h"),
            topics.wait(alert, "notify.slow", "endpoint_fails", detail="500"),
        ],
    )
    assert warehouse.query(SHOWN).rows == [
        ("crm", "AlertRaised", alert.id, "notified", "", "204"),
        ("crm", "CallEnriched", enriched.id, "notified", "", "204"),
        ("lake", "CallEnriched", enriched.id, "notification_failed", "endpoint_refuses", "422"),
        ("slow", "AlertRaised", alert.id, "notifying", "endpoint_fails", "500"),
        ("team", "AlertRaised", alert.id, "notification_failed", "notification_expired", "72 h"),
    ]
    assert one(warehouse, STATE) == before
    assert one(warehouse, "SELECT countIf(startsWith(stage, 'notify')) FROM call_states") == 0
    # An operator finds them among the others all the same.
    assert one(warehouse, "SELECT count() FROM dead_letters WHERE stage = 'notify.team'") == 1


@pytest.mark.parametrize("stage", ["notify.crm", "summarize"])
def test_what_follows_a_call_leaves_its_state_as_it_is(
    warehouse: Warehouse, topics: Topics, life: Sequence[Envelope[Any]], stage: str
) -> None:
    sink(warehouse, life)
    before = one(warehouse, STATE)
    later = NOON + timedelta(hours=1)
    sink(warehouse, [topics.wait(life[3], stage, "busy", time=later)])
    assert one(warehouse, STATE) == before
    sink(warehouse, [topics.refuse(life[3], stage, "no", time=later + timedelta(hours=1))])
    assert one(warehouse, STATE) == before
    # What the call itself fails at is seen beside it.
    sink(warehouse, [topics.refuse(life[2], "enrich", "no_rules", time=later)])
    assert one(warehouse, STATE) == ("failed", "enrich: no_rules", None)


def test_what_was_refused_and_is_told_after_all(
    warehouse: Warehouse, topics: Topics, life: Sequence[Envelope[Any]]
) -> None:
    alert = life[4]
    sink(warehouse, [*life, topics.refuse(alert, "notify.crm", "endpoint_refuses")])
    assert one(warehouse, "SELECT state FROM call_notifications") == "notification_failed"
    event = told(alert)
    after = topics.send(replace(event, notified_at=NOON + timedelta(hours=1)), "n1")
    sink(warehouse, [after])
    assert one(warehouse, "SELECT state, attempts FROM call_notifications") == (
        "notified", 1
    )  # fmt: skip


def test_what_waited_and_was_overtaken_waits_no_longer_and_is_not_told(
    warehouse: Warehouse, topics: Topics, life: Sequence[Envelope[Any]]
) -> None:
    enriched = life[3]
    sink(warehouse, [*life, topics.wait(enriched, "notify.crm", "endpoint_fails", detail="500")])
    assert one(warehouse, "SELECT state FROM call_notifications") == "notifying"
    later = NOON + timedelta(hours=1)
    overtaken = replace(told(enriched, attempts=0, answer="", overtaken_by="later"),
                        notified_at=later)  # fmt: skip
    sink(warehouse, [topics.send(overtaken, "n1")])
    assert one(warehouse, "SELECT state, detail, attempts FROM call_notifications") == (
        "overtaken", "later", 0
    )  # fmt: skip


def test_an_event_told_again_by_a_replay_is_one_line(
    warehouse: Warehouse, topics: Topics, life: Sequence[Envelope[Any]]
) -> None:
    sink(warehouse, [*life, topics.send(told(life[3]), "n1")])
    later = replace(told(life[3], attempts=4), notified_at=NOON + timedelta(hours=1))
    sink(warehouse, [topics.send(later, "n2", generation=3)])
    assert one(warehouse, "SELECT count() FROM notifications") == 2
    assert one(warehouse, "SELECT state, attempts FROM call_notifications") == ("notified", 4)


def test_the_same_twice_is_once(
    warehouse: Warehouse, topics: Topics, life: Sequence[Envelope[Any]]
) -> None:
    envelopes = [*life, topics.send(told(life[3]), "n1"),
                 topics.refuse(life[4], "notify.crm", "endpoint_gone")]  # fmt: skip
    sink(warehouse, envelopes)
    once = content(warehouse)
    for envelope in reversed(envelopes):
        sink(warehouse, [envelope])
    assert content(warehouse) == once


def test_an_erased_call_was_told_to_nobody(
    warehouse: Warehouse, topics: Topics, life: Sequence[Envelope[Any]]
) -> None:
    erased = e.CallErased(tenant_id="acme", call_id="happy", requested_by="dpo",
                          erased_at=NOON)  # fmt: skip
    notified = topics.send(told(life[3]), "n1")
    failed = topics.refuse(life[4], "notify.crm", "endpoint_gone")
    sink(warehouse, [*life, notified, failed])
    sink(warehouse, [topics.send(erased, "erased")])
    assert one(warehouse, "SELECT count() FROM notifications") == 0
    assert one(warehouse, "SELECT count() FROM call_notifications") == 0
    # What was on its way when its call was erased stays out.
    sink(warehouse, [topics.send(told(life[4]), "n2")])
    assert one(warehouse, "SELECT count() FROM notifications") == 0


def test_what_an_erasure_of_it_is_compared_with(topics: Topics) -> None:
    handed_in = HAPPY.published_at
    event = replace(TOLD, revision=milliseconds(handed_in) - 5, call_published_at=handed_in)
    assert basis_of(topics.send(event, "n1")) == milliseconds(handed_in)
    amended = replace(event, revision=milliseconds(handed_in) + 5)
    assert basis_of(topics.send(amended, "n2")) == milliseconds(handed_in) + 5
    unknown = replace(event, call_published_at=None)
    assert basis_of(topics.send(unknown, "n3")) == milliseconds(event.notified_at)
