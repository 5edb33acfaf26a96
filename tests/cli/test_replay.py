"""What `callstream replay` tells of what it could not ask for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from schemas.examples import EXAMPLES
from schemas.topics import ENDED, REPLAY, TOPICS
from services.cli import replay
from services.cli.console import Stop
from services.cli.replay import _show, _tell
from services.cli.replay_run import Following, tell_lost
from services.replay.comparison import Comparison, Difference, Labels, Pair
from services.replay.inputs import Input
from services.replay.plans import GONE, Plan, request_id, store_plan
from services.replay.progress import Estimate, Follower, looked
from services.replay.selection import Found, Selected, Selection, select
from services.runtime.codec import Codec, FolderRegistry
from services.runtime.errors import Transient
from services.runtime.log import Message, Record, TopicPartition
from services.runtime.objects import DirectoryObjects
from services.runtime.settings import Policy
from services.runtime.sqlite_log import Database, SqliteLog, SqliteView

TENANT = "acme"
NOW = datetime(2026, 3, 2, tzinfo=UTC)
SOON = Policy(backoff_s=0.001, backoff_max_s=0.002)


def test_what_was_left_out_is_told_by_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    lost = {Input(f"call-{n}", "calls.ended", f"e{n}", "log"): GONE for n in range(2)}
    lost[Input("y" * 300, "calls.ended", "e", "log")] = "not_valid: [call_id] is too long"
    tell_lost(SimpleNamespace(lost=lost))  # type: ignore[arg-type]
    told = capsys.readouterr().err
    assert f"2 events were left out (calls call-0, call-1): {GONE}" in told
    assert "1 events were left out (calls yyy" in told
    assert "[call_id] is too long" in told
    assert "y" * 100 not in told


def test_small_amounts_are_told_in_small_units(capsys: pytest.CaptureFixture[str]) -> None:
    found = [Found(Input("call-1", "calls.ended", "e1", "log"))]
    cost = Estimate(1, 1, 62_000, 9, 1_234, None, "no rate of this stage is known yet")
    _tell("sink", cost, Selected(found, Counter()))
    told = capsys.readouterr().out
    assert "audio   62 s" in told
    assert "input   1.2 kB" in told
    assert "sink takes an unknown time: no rate" in told
    _tell("enrich", Estimate(0, 0, 0, 0, 0, 0.0, "9 calls per second"), Selected([], Counter()))
    told = capsys.readouterr().out
    assert "audio   0 s" in told
    assert "input   0 B" in told
    assert "takes" not in told


@pytest.mark.parametrize("width", [80, 10_000])
def test_ids_and_labels_of_compared_calls_are_never_cut(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    console = Console(width=width, markup=False)
    monkeypatch.setattr(replay, "out", console)
    names = [f"sample-call-about-a-refund-{n}" for n in range(2)]
    labels = {
        "alerts": Labels(["a_customer_who_asks_for_the_manager"], []),
        "topics": Labels([], []),
    }
    numbers = {"score": Pair(70.0, 72.5), "agent sentiment": Pair(0.1, 0.1)}
    with console.capture() as captured:
        _show(Comparison([
            Difference(name, 3, Pair(40, 41), numbers, {}, labels) for name in names
        ], 0, 0, 0), 9)  # fmt: skip
    told, _, _ = captured.get().partition("in sum")
    assert "…" not in told
    for name in names:
        assert name in told
    assert "agent sentiment" not in told


class Replayed:
    """A replay of the sink over some calls on a log in memory; what is asked for is done at once.

    Of the questions to the warehouse, and of the commits, those in `away` get no answer; a commit
    that is in doubt has taken place.
    """

    def __init__(self, folder: Path, calls: int) -> None:
        database = Database(None)
        self.view = SqliteView(database)
        self.view.create({topic.name: 3 for topic in TOPICS})
        self.inner = SqliteLog(database)
        self.codec = Codec(FolderRegistry())
        call = EXAMPLES["CallEnded"]["happy"]
        self.inner.commit(
            [
                self.codec.encode(
                    replace(call, tenant_id=TENANT, call_id=f"call-{n}", event_id=f"e-{n}"),
                    id=f"e-{n}", source="/test", time=NOW,
                )
                for n in range(calls)
            ],
            {},
        )  # fmt: skip
        selection = Selection(tenant=TENANT)
        found = select("sink", selection, "log", None, self.view, self.codec)
        assert {each.topic for each in found.inputs} == {ENDED}
        self.plan: Plan = store_plan(
            DirectoryObjects(folder), self.view, "sink", selection, found.inputs, options={},
            shadow=False, side_effects=False, reason="", requested_by="tests", now=NOW,
        )  # fmt: skip
        self.away: Mapping[tuple[str, int], str] = {}
        self.counted: Counter[str] = Counter()

    def _answers(self, what: str, *, first: bool = True) -> None:
        self.counted[what] += first
        reason = self.away.get((what, self.counted[what]))
        if reason is not None and first != (reason == "commit_in_doubt"):
            raise Transient(reason, f"{what} {self.counted[what]}")

    def ask(self, sql: str, format: str, parameters: Mapping[str, Any] | None = None) -> bytes:
        self._answers("question")
        if "FROM stage_states" not in sql:
            return b""
        asked = [self.codec.decode(message).event for message in self.view.scan(REPLAY)]
        rows = [
            {"call_id": each.call_id, "stage": "sink", "input_id": each.input.event_id,
             "became": "done", "why": "", "more": "", "at": 1}
            for each in asked
            if each.generation == self.plan.generation
        ]  # fmt: skip
        return "\n".join(map(json.dumps, rows)).encode()

    def messages(
        self, limit: int, wait_s: float, hold: Collection[TopicPartition] = ()
    ) -> list[Message]:
        return []

    def commit(self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]) -> None:
        self._answers("commit")
        self.inner.commit(records, offsets)
        self._answers("commit", first=False)

    def lease(self, source: TopicPartition) -> int | None:
        return None

    def close(self) -> None: ...

    def following(self, trouble: str | None = None) -> Following:
        return Following(self.plan, self.follower, lambda: trouble, SOON)

    def follower(self) -> Follower:
        return Follower(self.plan, self, self.view, self.codec, self, ahead=2)

    def requests(self) -> Counter[bytes | None]:
        return Counter(message.key for message in self.view.scan(REPLAY))


@pytest.mark.parametrize(
    ("away", "told"),
    [
        ({("question", 1): "warehouse_down"}, ["warehouse_down: question 1"]),
        ({("question", 3): "warehouse_down"}, ["warehouse_down: question 3"]),
        (
            {("question", number): "warehouse_down" for number in (2, 3, 4, 6, 7)},
            ["warehouse_down: question 2", "warehouse_down: question 6"],
        ),
        ({("commit", 1): "log_down"}, ["log_down: commit 1"]),
        ({("commit", 2): "commit_in_doubt"}, ["commit_in_doubt: commit 2"]),
        (
            {("commit", 1): "commit_in_doubt", ("commit", 2): "log_down"},
            ["commit_in_doubt: commit 1", "log_down: commit 2"],
        ),
    ],
)
def test_what_does_not_answer_is_waited_for(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    away: Mapping[tuple[str, int], str],
    told: list[str],
) -> None:
    calls = 7
    replayed = Replayed(tmp_path, calls)
    replayed.away = away
    follower = replayed.following().followed()
    assert (follower.tally.done, follower.tally.left) == (calls, 0)
    assert replayed.requests() == {f"{TENANT}/call-{n}".encode(): 1 for n in range(calls)}
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert [
        line.removeprefix("waits, and goes on by itself: ") for line in lines if line != "goes on"
    ] == told
    assert lines[-1] == "goes on"


def test_a_wait_ends_where_nothing_goes_on_and_says_how_to_go_on(tmp_path: Path) -> None:
    replayed = Replayed(tmp_path, 2)
    replayed.away = {("question", 1): "warehouse_down"}
    again = f"replay resume {replayed.plan.generation}"
    with pytest.raises(Stop, match=f"nothing goes on: breaker.*{again}"):
        replayed.following("breaker").followed()


def test_a_replay_that_was_stopped_stays_so_after_a_wait(tmp_path: Path) -> None:
    replayed = Replayed(tmp_path, 5)
    following = replayed.following()
    following.follower = follower = replayed.follower()
    follower.step()
    follower.stopped = "20 failures in a row"
    replayed.away = {("question", replayed.counted["question"] + 1): "warehouse_down"}
    assert following.followed().stopped == "20 failures in a row"
    assert sum(replayed.requests().values()) == 2


def test_once_it_is_discarded_no_more_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.cli.replay_run._DISCARD_S", -1.0)
    replayed = Replayed(tmp_path, 5)
    decided = iter([False, True])
    following = Following(
        replayed.plan, replayed.follower, lambda: None, SOON, lambda: next(decided)
    )
    assert following.followed().stopped == "the replay was discarded"
    assert sum(replayed.requests().values()) == 2


def test_why_something_fails_or_waits_is_told_once(tmp_path: Path) -> None:
    replayed = Replayed(tmp_path, 2)
    states = [("failed", "bad_event: no roles"), ("waiting", "no roles")]

    def ask(sql: str, format: str, parameters: Mapping[str, Any] | None = None) -> bytes:
        rows = [
            {"call_id": each.call, "stage": "sink", "input_id": request_id(replayed.plan, each),
             "became": state, "why": "bad_event", "more": more, "at": 1}
            for each, (state, more) in zip(replayed.plan.inputs, states, strict=True)
        ]  # fmt: skip
        return "\n".join(map(json.dumps, rows)).encode()

    counted, why = looked(replayed.plan, SimpleNamespace(ask=ask))
    assert (counted.failed, counted.waiting) == (1, 1)
    assert why == {
        "failed: sink: bad_event: no roles": 1, "waiting: sink: bad_event: no roles": 1,
    }  # fmt: skip
