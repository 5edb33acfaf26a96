from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.transcribe.voices import Beside, Floats, Indices, centres

# Seconds that a stretch stands for, in all that follows.
EACH_S = 0.5


def voices(lengths_s: Sequence[float], distance: float, seed: int = 1) -> tuple[Floats, Indices]:
    """Stretches of some voices, whose centres lie `distance` from each other; and whose each is.

    Those of one voice lie about 0.1 from its centre.
    """
    random = np.random.default_rng(seed)
    corners = np.sqrt(distance) * np.eye(64)[: len(lengths_s)]
    shared = np.sqrt(1 - distance) * np.eye(64)[63]
    owner = np.repeat(np.arange(len(lengths_s)), [round(s / EACH_S) for s in lengths_s])
    owner = random.permutation(owner)
    made = corners[owner] + shared + random.normal(0, 0.45 / 8, (len(owner), 64))
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made.astype(np.float32), owner


def found(
    made: Floats, parties: int | None, beside: Sequence[Beside] = (), near: int = 10
) -> Floats:
    seconds = np.full(len(made), EACH_S, np.float32)
    neighbours = [np.arange(at, min(at + near, len(made))) for at in range(0, len(made), near)]
    return centres(made, seconds, neighbours, beside, parties)


@pytest.mark.parametrize("parties", [None, 1, 2, 4])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_voices_that_lie_far_apart_are_counted_whatever_is_expected(
    count: int, parties: int | None
) -> None:
    made, owner = voices([20.0] * count, 0.4)
    centre = found(made, parties)
    assert len(centre) == count
    nearest = np.argmax(made @ centre.T, axis=1)
    for voice in range(count):
        of_it = nearest[owner == voice]
        assert np.mean(of_it == np.bincount(of_it).argmax()) > 0.95


@pytest.mark.parametrize("length_s", [0.5, 3.0, 30.0, 300.0])
def test_one_voice_is_one_however_many_are_expected(length_s: float) -> None:
    made, _ = voices([length_s], 0.4)
    assert [len(found(made, parties)) for parties in (None, 1, 2, 3)] == [1, 1, 1, 1]


def test_of_voices_that_are_alike_it_counts_how_many_are_expected() -> None:
    made, _ = voices([30.0, 30.0], 0.12)
    assert [len(found(made, parties)) for parties in (None, 1, 2)] == [2, 1, 2]


def test_who_hardly_speaks_is_somebody_where_somebody_is_expected() -> None:
    made, _ = voices([30.0, 30.0, 4.0], 0.5)
    assert [len(found(made, parties)) for parties in (None, 2, 3)] == [2, 2, 3]


def test_voices_heard_beside_each_other_are_two_though_they_are_alike() -> None:
    made, owner = voices([20.0, 20.0], 0.08)
    assert len(found(made, 2)) == 1
    beside = [
        Beside(2.0, near[owner[near] == 0], near[owner[near] == 1])
        for near in np.array_split(np.arange(len(made)), len(made) // 10)
        if len(set(owner[near].tolist())) == 2
    ]
    assert len(found(made, 2, beside)) == 2


units = st.lists(
    st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4).filter(lambda row: sum(row) > 0.1),
    min_size=1,
    max_size=30,
)


@given(units, st.none() | st.integers(1, 20))
def test_any_stretches_have_a_few_centres_and_the_same_ones_again(
    rows: list[list[float]], parties: int | None
) -> None:
    made = np.array(rows, np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    centre = found(made, parties)
    assert 1 <= len(centre) <= min(8, len(made), max(4, parties or 0))
    assert np.allclose(np.linalg.norm(centre, axis=1), 1.0, atol=1e-4)
    assert np.array_equal(centre, found(made, parties))
