"""What `callstream replay` tells of what it could not ask for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from services.cli.replay import _lost
from services.replay.inputs import Input
from services.replay.plans import GONE


def test_what_was_left_out_is_told_by_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    lost = {Input(f"call-{n}", "calls.ended", f"e{n}", "log"): GONE for n in range(2)}
    lost[Input("y" * 300, "calls.ended", "e", "log")] = "not_valid: [call_id] is too long"
    _lost(SimpleNamespace(lost=lost))  # type: ignore[arg-type]
    told = capsys.readouterr().err
    assert f"2 events were left out (calls call-0, call-1): {GONE}" in told
    assert "1 events were left out (calls yyy" in told
    assert "[call_id] is too long" in told
    assert "y" * 100 not in told
