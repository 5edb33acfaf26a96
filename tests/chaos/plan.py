"""Which faults strike whom, and when: a pure function of the seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

STAGES = ("ingest", "transcribe", "enrich", "sink")
SERVERS = ("kafka", "s3", "clickhouse")

Kind = Literal["kill", "pause", "cut", "hole"]

# Of four kills three hit a stage: all stages wait for a server, for a broker by far the longest.
_KILLED = {"ingest": 18, "transcribe": 18, "enrich": 18, "sink": 20, "kafka": 5, "s3": 10,
           "clickhouse": 11}  # fmt: skip
_PAUSED = {**dict.fromkeys(STAGES, 3), **dict.fromkeys(SERVERS, 2)}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `for_s` is how long it lasts; of a kill, how long the process stays down."""

    at_call: int
    """It strikes once so many calls have been published."""
    kind: Kind
    target: str
    for_s: float

    def __str__(self) -> str:
        return f"after {self.at_call} calls {self.kind} {self.target} {self.for_s:.1f} s"


def plan(seed: int, calls: int, kills: int, longest_s: float = 10.0) -> list[Fault]:
    """`kills` kills while `calls` calls pass, and half as many pauses and broken links on top.

    The first twentieth of the calls and the last pass undisturbed: there is then something to
    disturb, and what comes after the last fault shows that all go on.
    """
    chance = random.Random(seed)
    first, last = calls // 20, calls - calls // 20
    found = [
        Fault(chance.randint(first, last), "kill", _one_of(chance, _KILLED), _down(chance))
        for _ in range(kills)
    ]
    for _ in range(kills // 4):
        # Short ones are frequent: what recovers at once must do so too.
        for_s = min(longest_s, 0.5 + chance.expovariate(1 / 2.0))
        found.append(Fault(chance.randint(first, last), "pause", _one_of(chance, _PAUSED), for_s))
    for _ in range(kills // 4):
        for_s = min(longest_s, 0.5 + chance.expovariate(1 / 2.0))
        kind: Kind = "cut" if chance.random() < 0.5 else "hole"
        found.append(Fault(chance.randint(first, last), kind, chance.choice(SERVERS), for_s))
    return sorted(found, key=lambda fault: fault.at_call)


def _one_of(chance: random.Random, weights: dict[str, int]) -> str:
    return chance.choices(list(weights), list(weights.values()))[0]


def _down(chance: random.Random) -> float:
    """Two of three are started again at once."""
    return 0.0 if chance.random() < 0.67 else chance.uniform(0.2, 3.0)


def counted(faults: Sequence[Fault]) -> dict[str, int]:
    """How many of each kind and target."""
    return dict(sorted(Counter(f"{fault.kind} {fault.target}" for fault in faults).items()))
