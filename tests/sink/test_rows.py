"""Events to rows, without a warehouse."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import events as e
from schemas.examples import EXAMPLES
from services.runtime import headers as h
from services.runtime.errors import Invalid
from services.runtime.log import Message
from services.runtime.stage import Envelope
from services.sink.rows import (
    EARLIEST_MS,
    LATEST_MS,
    TABLES,
    Columns,
    about,
    basis_of,
    call_of,
    columns_of,
    milliseconds,
)
from tests.sink.messages import NOON, Topics, every_example

BYTES_TOPICS = ("calls.dead-letter", "calls.retry.1m", "calls.retry.10m", "calls.retry.1h")
HAPPY: e.CallEnded = EXAMPLES["CallEnded"]["happy"]


def rows_of(*envelopes: Envelope[Any]) -> dict[str, Columns]:
    return columns_of([about(envelope) for envelope in envelopes])


def test_every_example_fills_whole_rows_of_known_tables_and_the_same_again() -> None:
    filled = set()
    for envelope in every_example():
        rows = rows_of(envelope)
        assert {len(column) for column in rows["events"]} == {1}
        for table, columns in rows.items():
            assert len(columns) == len(TABLES[table]), table
            assert len({len(column) for column in columns}) == 1, table
            assert len(columns[0]) > 0, table
            filled.add(table)
        assert rows_of(envelope) == rows
    assert filled == TABLES.keys() - {"calls_erased", "renewals"}


def test_the_rows_of_a_batch_are_those_of_its_events_one_after_another() -> None:
    envelopes = every_example()
    expected: dict[str, list[list[Any]]] = {}
    for envelope in envelopes:
        for table, columns in rows_of(envelope).items():
            joined = expected.setdefault(table, [[] for _ in columns])
            for whole, column in zip(joined, columns, strict=True):
                whole.extend(column)
    batch = rows_of(*envelopes)
    assert {table: [list(column) for column in batch[table]] for table in batch} == expected


def test_what_makes_an_event_visible_is_inserted_after_what_belongs_to_it() -> None:
    order = list(TABLES)
    assert order[-1] == "events"
    for child, headline in (
        ("segments", "calls_transcribed"), ("metrics", "calls_enriched"),
        ("moments", "calls_enriched"), ("sentiments", "calls_enriched"),
        ("course", "calls_enriched"), ("findings", "calls_enriched"),
        ("criteria", "calls_enriched"), ("summary_sentences", "calls_enriched"),
        ("calls_ended", "stage_states"), ("calls_recorded", "stage_states"),
        ("calls_transcribed", "stage_states"), ("calls_enriched", "stage_states"),
    ):  # fmt: skip
        assert order.index(child) < order.index(headline)


@given(st.datetimes(timezones=st.just(UTC)))
def test_every_time_is_one_that_the_engine_holds(when: datetime) -> None:
    held = milliseconds(when)
    assert EARLIEST_MS <= held <= LATEST_MS
    if 1900 <= when.year < 2300:
        assert datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=held) == when.replace(
            microsecond=when.microsecond // 1000 * 1000
        )


names = st.sampled_from([value for name, value in vars(h).items() if name.isupper()])
header = st.tuples(names, st.binary(max_size=30) | st.integers().map(lambda n: str(n).encode()))
messages = st.builds(
    Message,
    topic=st.sampled_from(BYTES_TOPICS),
    partition=st.integers(0, 23),
    offset=st.integers(0, 2**62),
    key=st.none() | st.binary(max_size=40),
    value=st.none() | st.binary(max_size=40),
    headers=st.lists(header, max_size=12).map(tuple),
    timestamp_ms=st.integers(-(2**62), 2**62),
)


@given(messages)
def test_no_dead_letter_or_retry_is_refused(message: Message) -> None:
    """A dead letter that the sink refuses would be a dead letter again, without end."""
    envelope = Envelope(message, message, "id", time=NOON, problem=Invalid("x", "y"))
    rows = rows_of(envelope)
    position = [column[0] for column in rows["events"][:3]]
    assert position == [message.topic, message.partition, message.offset]
    for row in zip(*rows.get("stage_states", ()), strict=True):
        state = dict(zip(TABLES["stage_states"], row, strict=True))
        assert state["state"] in {"waiting", "refused", "failed", "dropped"}
        assert EARLIEST_MS <= state["time"] <= LATEST_MS
        assert 0 <= state["attempt"] < 2**63


@pytest.mark.parametrize(
    ("key", "call"),
    [
        (b"acme/call-1", ("acme", "call-1")),
        (b"acme/a/b", ("acme", "a/b")),
        ("客户/通话".encode(), ("客户", "通话")),
        (b"nothing", ("nothing", "")),
        (None, ("", "")),
    ],
)
def test_the_call_of_a_message_is_in_its_key(key: bytes | None, call: tuple[str, str]) -> None:
    message = Message("calls.dead-letter", 0, 0, key, b"", (), 0)
    assert call_of(Envelope(message, message, "id")) == call


def test_what_an_erasure_is_compared_with(tmp_path: Path) -> None:
    topics = Topics(tmp_path)
    call = replace(HAPPY, published_at=NOON, source_updated_at=NOON - timedelta(hours=1))
    late = NOON + timedelta(hours=5)
    noon = milliseconds(NOON)
    recorded = replace(EXAMPLES["CallRecorded"]["happy"], call=call, revision=noon - 1)
    assert basis_of(topics.send(call, "ended", time=late)) == noon
    assert basis_of(topics.send(recorded, "recorded", time=late)) == noon, "as the call it is of"
    newer = replace(recorded, revision=noon + 7)
    assert basis_of(topics.send(newer, "newer", time=late)) == noon + 7
    early = NOON - timedelta(hours=2)
    assert basis_of(topics.send(call, "ahead", time=early)) == milliseconds(early)


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    call = replace(
        EXAMPLES["CallEnriched"]["happy"],
        metrics=[
            e.Metric(name="a", value=float("nan")),
            e.Metric(name="b", value=float("inf")),
            e.Metric(name="c", value=0.5, role=e.Role.AGENT),
        ],
    )
    message = Message("calls.enriched", 0, 0, b"acme/happy", b"", (), 0)
    rows = rows_of(Envelope(call, message, "id", time=NOON))["metrics"]
    assert rows[-3:] == [["a", "b", "c"], ["", "", "AGENT"], [None, None, 0.5]]


def test_turns_are_counted_by_speaker() -> None:
    transcript = EXAMPLES["CallTranscribed"]["happy"]
    twice = [segment for segment in transcript.segments for _ in range(2)]
    message = Message("calls.transcribed", 0, 0, b"acme/happy", b"", (), 0)
    rows = rows_of(Envelope(replace(transcript, segments=twice), message, "id", time=NOON))
    headline = dict(zip(TABLES["calls_transcribed"], rows["calls_transcribed"], strict=True))
    assert (headline["segments"], headline["turns"]) == ((14,), (7,))


def test_what_a_model_adds_to_a_call_is_done_by_a_stage_of_its_own(tmp_path: Path) -> None:
    envelope = Topics(tmp_path).send(EXAMPLES["CallEnriched"]["happy"], "e1")
    for source in ("enrich", "summarize"):
        said = (h.SOURCE, f"/callstream/{source}".encode())
        headers = (*(each for each in envelope.message.headers if each[0] != h.SOURCE), said)
        told = replace(envelope, message=replace(envelope.message, headers=headers))
        (row,) = zip(*rows_of(told)["stage_states"], strict=True)
        state = dict(zip(TABLES["stage_states"], row, strict=True))
        assert (state["stage"], state["state"]) == (source, "done")
