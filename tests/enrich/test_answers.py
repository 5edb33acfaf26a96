"""A live call is enriched twice where a model is set, and no question is put to it twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from schemas.events import AlertRaised, CallEnriched, CallTranscribed, SummaryRequested
from schemas.examples import EXAMPLES
from services.enrich.answers import prefix
from services.enrich.handler import stage, summary_stage
from services.enrich.insight import Insight
from services.enrich.llm import ChatModel
from services.enrich.rules import load_rules
from services.enrich.settings import EnrichSettings
from services.enrich.transcript_file import parse_transcript
from services.runtime.errors import Transient
from services.runtime.log import Message
from services.runtime.objects import DirectoryObjects
from services.runtime.stage import Envelope, Output, Stage
from tests.enrich.llm_server import (
    Asked,
    Reply,
    Server,
    answer,
    completed,
    serving,
    stated,
    summarizes,
)
from tests.enrich.test_llm import Clock

NOW = datetime(2026, 3, 2, 10, tzinfo=UTC)
RULES = load_rules()
EXAMPLE: CallTranscribed = EXAMPLES["CallTranscribed"]["happy"]
ANGRY = replace(
    EXAMPLE,
    segments=parse_transcript(
        """
agent: Good morning, how can I help you?
customer: I am very angry. I want my refund now, this is unacceptable.
agent: I am sorry. I will send the refund to your bank account today.
customer: I will file a complaint.
"""
    ).segments,
)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


@pytest.fixture
def objects(tmp_path: Path) -> DirectoryObjects:
    return DirectoryObjects(tmp_path / "objects")


def insight(server: Server, objects: DirectoryObjects | None, **changes: Any) -> Insight:
    clock = Clock()
    chosen = server.settings(**changes)
    model = ChatModel(chosen, clock, clock.sleep, lambda: 1.0)
    return Insight(chosen, objects, clock=clock, sleep=clock.sleep, model=model)


def stages(made: Insight) -> tuple[Stage, Stage]:
    settings = EnrichSettings()
    return (
        stage(settings, RULES, lambda: NOW, insight=made),
        summary_stage(settings, RULES, made, lambda: NOW),
    )


def envelope(event: Any, generation: int = 0, **more: Any) -> Envelope[Any]:
    key = f"{event.tenant_id}/{event.call_id}".encode()
    # What is made by a replay is asked for as a replay.
    topic = "calls.replay" if generation else "calls.transcribed"
    message = Message(topic, 0, 0, key, b"", (), 0)
    return Envelope(event, message, "t" * 32, generation, side_effects=generation == 0, **more)


def outputs(of: Stage, given: Envelope[Any]) -> list[Any]:
    ((_, outcome),) = of.handle([given])
    if isinstance(outcome, Exception):
        raise outcome
    return [output.event for output in outcome if isinstance(output, Output)]


def test_what_needs_no_model_is_said_before_it_is_asked(
    server: Server, objects: DirectoryObjects
) -> None:
    enrich, summarize = stages(insight(server, objects))
    first, *alerts, request = outputs(enrich, envelope(ANGRY))
    assert not server.asked
    assert isinstance(first, CallEnriched)
    assert first.summary is not None
    assert (first.summary.method, first.summary.pending) == ("extractive", True)
    assert alerts
    assert all(isinstance(each, AlertRaised) for each in alerts)
    assert isinstance(request, SummaryRequested)
    (second,) = outputs(summarize, envelope(request))
    assert len(server.asked) == 1
    assert second.summary.method == server.settings().model
    assert not second.summary.pending
    # The summary apart, both say the same.
    assert replace(second, summary=None) == replace(first, summary=None)


def test_the_alerts_of_a_call_are_those_that_were_raised_though_the_rules_have_changed(
    server: Server, objects: DirectoryObjects
) -> None:
    model = insight(server, objects)
    enrich, _ = stages(model)
    first, *_, request = outputs(enrich, envelope(ANGRY))
    assert first.alerts
    changed = summary_stage(EnrichSettings(), replace(RULES, rules=()), model, lambda: NOW)
    (second,) = outputs(changed, envelope(request))
    assert second.alerts == first.alerts
    # As those who asked before this was said of it did.
    (second,) = outputs(changed, envelope(replace(request, alerts=None)))
    assert second.alerts == []


def test_without_a_model_a_call_is_enriched_once() -> None:
    enrich = stage(EnrichSettings(), RULES, lambda: NOW)
    first, *rest = outputs(enrich, envelope(ANGRY))
    assert first.summary is not None
    assert not first.summary.pending
    assert not any(isinstance(each, SummaryRequested) for each in rest)


def test_of_a_call_without_words_nothing_is_asked(
    server: Server, objects: DirectoryObjects
) -> None:
    enrich, _ = stages(insight(server, objects))
    (only,) = outputs(enrich, envelope(replace(ANGRY, segments=[])))
    assert only.summary is None
    assert not server.asked


def test_a_replay_says_all_at_once_and_asks_nothing_again(
    server: Server, objects: DirectoryObjects
) -> None:
    enrich, summarize = stages(insight(server, objects))
    request = outputs(enrich, envelope(ANGRY))[-1]
    (live,) = outputs(summarize, envelope(request))
    asked = len(server.asked)
    for generation in (1, 2):
        (again,) = outputs(enrich, envelope(ANGRY, generation))
        assert again == live, "usage too: what the answers took when they were given"
    assert len(server.asked) == asked


def test_what_is_kept_is_had_while_the_server_is_away(
    server: Server, objects: DirectoryObjects
) -> None:
    enrich, summarize = stages(insight(server, objects, patience_s=0, away_calls=1))
    request = outputs(enrich, envelope(ANGRY))[-1]
    (live,) = outputs(summarize, envelope(request))
    server.answer = lambda asked: Reply(503)
    other = replace(request, transcript=replace(ANGRY, segments=ANGRY.segments[1:]))
    (lesser,) = outputs(summarize, envelope(other))
    assert lesser.summary.degraded.startswith("llm_down: ")
    (again,) = outputs(enrich, envelope(ANGRY, 1))
    assert again == live


def test_a_repaired_answer_is_kept_too(server: Server, objects: DirectoryObjects) -> None:
    server.answer = _repaired
    _, summarize = stages(insight(server, objects))
    request = SummaryRequested(
        tenant_id=ANGRY.tenant_id, call_id=ANGRY.call_id, revision=ANGRY.revision,
        requested_at=NOW, transcript_id="t" * 32, transcript=ANGRY,
    )  # fmt: skip
    (first,) = outputs(summarize, envelope(request))
    assert first.summary.usage.requests == 2
    assert len(server.asked) == 2
    (again,) = outputs(summarize, envelope(request))
    assert again == first
    assert len(server.asked) == 2


def _repaired(asked: Asked) -> Reply:
    if not asked.is_repair:
        return completed("no JSON")
    return completed(answer([stated("A refund is wanted.", (1, "I want my refund"))]))


def test_what_came_to_nothing_is_asked_again(server: Server, objects: DirectoryObjects) -> None:
    enrich, _ = stages(insight(server, objects))
    server.answer = lambda asked: completed(answer([stated("Made up.", (1, "never said at all"))]))
    (lesser,) = outputs(enrich, envelope(ANGRY, 1))
    assert lesser.summary.degraded.startswith("llm_groundless: ")
    server.answer = summarizes
    (better,) = outputs(enrich, envelope(ANGRY, 2))
    assert better.summary.degraded == ""


@pytest.mark.parametrize(
    "changes", [{"model": "another"}, {"seed": 7}, {"extra": {"top_k": 1}}, {"language": "de"}]
)
def test_another_question_is_asked(
    server: Server, objects: DirectoryObjects, changes: dict[str, Any]
) -> None:
    for made in (insight(server, objects), insight(server, objects, **changes)):
        outputs(stages(made)[0], envelope(ANGRY, 1))
    assert len(server.asked) == 2


def test_calls_of_the_same_words_share_nothing(server: Server, objects: DirectoryObjects) -> None:
    enrich, _ = stages(insight(server, objects))
    for tenant in ("acme", "other"):
        outputs(enrich, envelope(replace(ANGRY, tenant_id=tenant), 1))
    assert len(server.asked) == 2
    kept = [list(objects.keys(prefix(tenant, ANGRY.call_id))) for tenant in ("acme", "other")]
    assert [len(each) for each in kept] == [1, 1]
    assert list(objects.keys("answers/")) == sorted(kept[0] + kept[1])


def test_a_kept_answer_that_cannot_be_read_is_asked_for_again(
    server: Server, objects: DirectoryObjects
) -> None:
    enrich, _ = stages(insight(server, objects))
    outputs(enrich, envelope(ANGRY, 1))
    (key,) = objects.keys("answers/")
    for wrong in (b"", b"{", b'{"text": "x"}', b"\xff" * 9,
                  b'{"text":"{}","requests":1,"prompt_tokens":1,"completion_tokens":1,'
                  b'"seconds":1}'):  # fmt: skip
        objects.put(key, wrong)
        asked = len(server.asked)
        (found,) = outputs(enrich, envelope(ANGRY, 1))
        assert found.summary.degraded == ""
        assert len(server.asked) == asked + 1


def test_a_store_that_is_away_is_waited_for(
    server: Server, objects: DirectoryObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrich, _ = stages(insight(server, objects))

    def away(key: str, data: bytes) -> None:
        raise Transient("objects_away", "it does not answer")

    monkeypatch.setattr(objects, "put", away)
    with pytest.raises(Transient, match="objects_away"):
        outputs(enrich, envelope(ANGRY, 1))


def test_calls_of_a_replay_are_asked_about_side_by_side(
    server: Server, objects: DirectoryObjects
) -> None:
    together = threading.Barrier(4)

    def answers(asked: Asked) -> Reply:
        together.wait(10)
        return summarizes(asked)

    server.answer = answers
    enrich, _ = stages(insight(server, objects, concurrency=4))
    calls = [envelope(replace(ANGRY, call_id=f"call-{number}"), 1) for number in range(8)]
    found = dict(enrich.handle(calls))
    assert sorted(found) == list(range(8))
    outcomes = [found[index] for index in range(8)]
    said = [outcome[0].event for outcome in outcomes if not isinstance(outcome, Exception)]
    assert [each.call_id for each in said] == [f"call-{number}" for number in range(8)]
    assert {each.summary.method for each in said} == {server.settings().model}
    assert server.at_once == 4


def test_calls_at_once_ask_once_each(server: Server, objects: DirectoryObjects) -> None:
    enrich, _ = stages(insight(server, objects))
    found: list[CallEnriched] = []

    def ask(number: int) -> None:
        event = replace(ANGRY, call_id=f"call-{number}")
        found.append(outputs(enrich, envelope(event, 1))[0])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.asked) == 6
    assert len({each.call_id for each in found}) == 6
