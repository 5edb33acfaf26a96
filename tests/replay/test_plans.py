"""Plans of replays: what is put on record, what is asked for, what is decided."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.replay import Plan, Selection, generations, read_plan, store_plan
from services.runtime.objects import DirectoryObjects
from services.runtime.sqlite_log import Database, SqliteView

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
OLD = round(NOON.timestamp() * 1000)
"""Generations were milliseconds once; plans of such replays are still there."""


@pytest.fixture
def objects(tmp_path: Path) -> DirectoryObjects:
    return DirectoryObjects(tmp_path / "objects")


def plan_of(objects: DirectoryObjects, at: datetime = NOON, reason: str = "test") -> Plan:
    return store_plan(
        objects, SqliteView(Database(None)), "enrich", Selection(tenant="acme"), [], options={},
        shadow=True, side_effects=False, reason=reason, requested_by="tests", now=at,
    )  # fmt: skip


class Before:
    """Of a store's plans those that were there when it was made; two commands at once see it."""

    def __init__(self, inner: DirectoryObjects) -> None:
        self._inner = inner
        self._keys = list(inner.keys(""))

    def keys(self, prefix: str = "") -> list[str]:
        return [key for key in self._keys if key.startswith(prefix)]

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


@pytest.mark.parametrize("clock", [NOON, NOON - timedelta(days=1)], ids=["right", "slow"])
def test_two_replays_of_the_same_moment_are_two(objects: DirectoryObjects, clock: datetime) -> None:
    plan_of(objects)
    seen = Before(objects)
    plans = [plan_of(seen, clock, f"number {n}") for n in range(2)]  # type: ignore[arg-type]
    assert len(generations(objects, "acme")) == 3
    for plan in plans:
        assert read_plan(objects, "acme", plan.generation) == plan


def test_a_generation_is_beyond_every_earlier_one(objects: DirectoryObjects) -> None:
    objects.put(f"replays/acme/{OLD + 5}.json", b"{}")
    clocks = [NOON, NOON, NOON - timedelta(days=1), NOON + timedelta(days=1)]
    made = [plan_of(objects, at).generation for at in clocks]
    assert generations(objects, "acme") == [OLD + 5, *made]
    assert made[-1] < 2**53, "readers of JSON take numbers for doubles"
