"""What people read of a transcript holds nothing that enrich found personal."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from schemas import events as e
from schemas.examples import EXAMPLES
from services.runtime.stage import Envelope
from services.sink.handler import stage
from services.sink.settings import SinkSettings
from services.sink.warehouse import Warehouse
from tests.sink.messages import Topics

pytestmark = pytest.mark.clickhouse

TRANSCRIBED: e.CallTranscribed = EXAMPLES["CallTranscribed"]["happy"]
ENRICHED: e.CallEnriched = EXAMPLES["CallEnriched"]["happy"]
KINDS = [kind for kind in e.PiiKind if kind is not e.PiiKind.UNKNOWN]
LETTERS = "abcdefgh 0123456789é𝒳退款电话·"


def sink(warehouse: Warehouse, envelopes: Sequence[Envelope[Any]]) -> None:
    for _, outcome in stage(SinkSettings(), warehouse).handle(envelopes):
        assert not isinstance(outcome, Exception), outcome


def transcribed(
    topics: Topics, texts: Sequence[str], id: str = "transcript", **more: Any
) -> Envelope[Any]:
    template = TRANSCRIBED.segments[0]
    segments = [
        replace(
            template, segment_id=number, text=text, start_ms=number * 1_000,
            end_ms=number * 1_000 + 900, words=[], word_start_ms=[], word_end_ms=[],
            word_confidence=[], corrections=[],
        )
        for number, text in enumerate(texts)
    ]  # fmt: skip
    return topics.send(replace(TRANSCRIBED, segments=segments, **more), id)


def enriched(
    topics: Topics, transcript: Envelope[Any], found: list[e.Redaction], **more: Any
) -> Envelope[Any]:
    event = replace(ENRICHED, transcript_id=transcript.id, redactions=found, **more)
    return topics.send(event, f"enriched {transcript.id}")


def place(segment: int, start: int, end: int, kind: e.PiiKind = e.PiiKind.PHONE) -> e.Redaction:
    return e.Redaction(segment_id=segment, kind=kind, start=start, end=end, start_ms=0, end_ms=0)


def shown(warehouse: Warehouse) -> list[str]:
    rows = warehouse.query("SELECT text FROM call_segments ORDER BY segment_id").rows
    return [text for (text,) in rows]


def masked(text: str, places: Sequence[e.Redaction]) -> str:
    """As docs/privacy.md says it is shown: each place as its kind in brackets."""
    for each in reversed(places):
        label = each.kind.value.lower().replace("_", " ")
        text = f"{text[: each.start]}[{label}]{text[each.end :]}"
    return text


def test_text_is_shown_once_it_was_looked_through_and_then_masked(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    topics = Topics(tmp_path)
    said = ["My number is 555 0100.", "Thank you.", "我的电话是 13800138000，姓王"]
    transcript = transcribed(topics, said)
    sink(warehouse, [transcript])
    assert shown(warehouse) == ["", "", ""]
    found = [place(0, 13, 21), place(2, 6, 17), place(2, 19, 20, e.PiiKind.NAME)]
    sink(warehouse, [enriched(topics, transcript, found)])
    assert shown(warehouse) == [
        "My number is [phone].",
        "Thank you.",
        "我的电话是 [phone]，姓[name]",
    ]
    table = warehouse.query("SELECT text FROM segments FINAL ORDER BY segment_id").rows
    assert [text for (text,) in table] == said, "the table keeps what was said"


def test_a_new_transcript_is_not_shown_by_what_was_found_in_the_old(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    topics = Topics(tmp_path)
    old = transcribed(topics, ["call 555 0100"])
    sink(warehouse, [old, enriched(topics, old, [place(0, 5, 13)])])
    assert shown(warehouse) == ["call [phone]"]
    new = transcribed(topics, ["please call 555 0100"], "new", revision=TRANSCRIBED.revision + 1)
    sink(warehouse, [new])
    assert shown(warehouse) == [""]
    again = enriched(topics, new, [place(0, 12, 20)], revision=TRANSCRIBED.revision + 1)
    sink(warehouse, [again])
    assert shown(warehouse) == ["please call [phone]"]


@pytest.mark.parametrize("seed", range(3))
def test_any_places_of_any_text_are_masked(warehouse: Warehouse, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    texts, places = [], []
    for number in range(300):
        text = "".join(draw.choices(LETTERS, k=draw.randrange(40)))
        cuts = sorted(draw.sample(range(len(text) + 1), k=min(len(text), 2 * draw.randrange(5))))
        own = [
            place(number, start, end, draw.choice(KINDS))
            for start, end in zip(cuts[::2], cuts[1::2], strict=False)
        ]
        texts.append(text)
        places.append(own)
    topics = Topics(tmp_path)
    transcript = transcribed(topics, texts)
    sink(
        warehouse,
        [transcript, enriched(topics, transcript, [each for own in places for each in own])],
    )
    assert shown(warehouse) == [masked(*each) for each in zip(texts, places, strict=True)]


def test_words_that_hold_something_personal_are_masked_and_no_others(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    topics = Topics(tmp_path)
    words = ["call", "555", "0100", "", "now"]
    segment = replace(
        TRANSCRIBED.segments[0], segment_id=0, text="call 555 0100 now", start_ms=0, end_ms=900,
        words=words, word_start_ms=[0, 200, 400, 600, 600], word_end_ms=[200, 400, 600, 600, 800],
        word_confidence=[], corrections=[e.Correction(word=1, heard="5", corrected="555")],
    )  # fmt: skip
    transcript = topics.send(replace(TRANSCRIBED, segments=[segment]), "transcript")
    sink(warehouse, [transcript])
    ask = "SELECT word, start_ms FROM call_words ORDER BY word_id"
    assert [word for word, _ in warehouse.query(ask).rows] == [""] * 5
    found = replace(place(0, 5, 13), start_ms=200, end_ms=600)
    sink(warehouse, [enriched(topics, transcript, [found])])
    assert warehouse.query(ask).rows == [
        ("call", 0), ("[phone]", 200), ("[phone]", 400), ("[phone]", 600), ("now", 600)
    ]  # fmt: skip
    assert warehouse.query("SELECT corrections FROM call_segments").rows == [([],)]
