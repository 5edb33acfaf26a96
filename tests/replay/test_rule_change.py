"""A rule that is changed and replayed changes its own findings, and nothing else of any call."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.rules import RULE, changed

pytestmark = pytest.mark.clickhouse


def test_a_changed_rule_changes_its_own_findings_alone(tmp_path: Path) -> None:
    found = changed(tmp_path, 63)  # each labelled call once
    assert set(found.views) == {"call_findings"}
    assert set(found.views["call_findings"]) == {RULE}
    assert 0 < found.called < found.calls
