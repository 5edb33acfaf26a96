"""What `callstream replay` tells of what it could not ask for."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
from rich.console import Console

from services.cli import replay
from services.cli.replay import _lost, _show, _tell
from services.replay.comparison import Comparison, Difference, Labels, Pair
from services.replay.inputs import Input
from services.replay.plans import GONE
from services.replay.progress import Estimate
from services.replay.selection import Found, Selected


def test_what_was_left_out_is_told_by_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    lost = {Input(f"call-{n}", "calls.ended", f"e{n}", "log"): GONE for n in range(2)}
    lost[Input("y" * 300, "calls.ended", "e", "log")] = "not_valid: [call_id] is too long"
    _lost(SimpleNamespace(lost=lost))  # type: ignore[arg-type]
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
        ], 0, 0), 9)  # fmt: skip
    told, _, _ = captured.get().partition("in sum")
    assert "…" not in told
    for name in names:
        assert name in told
    assert "agent sentiment" not in told
