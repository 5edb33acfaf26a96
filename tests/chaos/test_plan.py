"""The faults of a run are a pure function of its seed."""

from __future__ import annotations

from datetime import UTC, datetime

from services.runtime.codec import Codec, FolderRegistry
from tests.chaos.calls import SHARES, calls, pool
from tests.chaos.plan import SERVERS, STAGES, plan

AT = datetime(2026, 3, 2, tzinfo=UTC)


def test_the_same_seed_makes_the_same_plan() -> None:
    assert plan(7, 2_000, 40) == plan(7, 2_000, 40)
    assert plan(7, 2_000, 40) != plan(8, 2_000, 40)


def test_every_kind_hits_every_target_in_a_long_run() -> None:
    faults = plan(1, 100_000, 1_000)
    assert sum(fault.kind == "kill" for fault in faults) == 1_000
    hit = {(fault.kind, fault.target) for fault in faults}
    assert hit >= {(kind, target) for kind in ("kill", "pause") for target in (*STAGES, *SERVERS)}
    assert hit >= {(kind, target) for kind in ("cut", "hole") for target in SERVERS}
    assert all(5_000 <= fault.at_call <= 95_000 for fault in faults)
    assert all(0.5 <= fault.for_s <= 10 for fault in faults if fault.kind != "kill")
    assert max(fault.for_s for fault in faults) > 6
    assert [fault.at_call for fault in faults] == sorted(fault.at_call for fault in faults)


def test_the_same_seed_makes_the_same_calls() -> None:
    recordings, codec = pool(8), Codec(FolderRegistry())
    made = list(calls(3, 2_000, recordings, codec, AT))
    assert made == list(calls(3, 2_000, recordings, codec, AT))
    assert {call.kind for call in made} == set(SHARES)
    assert len({call.key for call in made}) == 2_000
    assert len({record.value for call in made for _, record in call.deliveries}) > 2_000
