"""How many voices there are among stretches of speech, and which stretch is whose.

A stretch is known by an embedding: a direction in which those of one voice lie close together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]

# Voices that are looked for where no more are expected, and at most.
_MOST, _LIMIT = 4, 8
# A call has two parties unless it is known to have others.
_USUAL = 2
# Two clusters are two voices where their centres' cosine distance is more than what one voice
# moves by itself (its mood, the line), and what chance adds, which grows the fewer independent
# stretches there are to each. More voices than are believed to be there take more.
_ONE_VOICE, _CHANCE, _UNEXPECTED = 0.06, 0.15, 0.10
# What an embedding is made of, in seconds: shorter stretches are no independent evidence.
_INDEPENDENT_S = 1.6
# Seconds of speech without which nobody is believed to be there whom nobody expects.
_SHORTEST_UNEXPECTED_S = 5.0
# Two clusters are heard to be two where the ear for turns parts so much of what they have side by
# side: it hardly ever parts one voice in two, though it often takes two for one.
_PARTED_SHARE, _PARTED_S = 1 / 3, 0.5
_RESTARTS, _STEPS = 8, 50


class Beside(NamedTuple):
    """Within a few seconds an ear for turns heard two voices, for at least `seconds` each."""

    seconds: float
    one: Indices
    """Numbers of the stretches that are one's."""
    other: Indices


def centres(
    embeddings: Floats,
    seconds: Floats,
    neighbours: Sequence[Indices],
    beside: Sequence[Beside],
    parties: int | None,
) -> Floats:
    """One direction of length 1 for each voice, (voices, dimension); at least one stretch is given.

    `embeddings`, (stretches, dimension), have length 1; `seconds` is how much speech each stands
    for. `neighbours` are the stretches of each window of a few seconds, all over the recording,
    and `beside` those among them that were told apart. `parties` are believed on weak evidence
    only. The same input gives an equal result.
    """
    expected = parties or _USUAL
    found = _mean(embeddings, seconds)[None]
    most = min(max(_MOST, expected), _LIMIT, len(embeddings))
    for count in range(2, most + 1):
        candidate = _clustered(embeddings, seconds, count)
        owner = np.argmax(embeddings @ candidate.T, axis=1)
        if _all_apart(candidate, owner, seconds, neighbours, beside, count > expected):
            found = candidate
    return found


def _all_apart(
    candidate: Floats,
    owner: Indices,
    seconds: Floats,
    neighbours: Sequence[Indices],
    beside: Sequence[Beside],
    unexpected: bool,
) -> bool:
    """Whether every two of the clusters are two voices."""
    count = len(candidate)
    length = np.bincount(owner, seconds, count)
    if float(length.min()) <= (_SHORTEST_UNEXPECTED_S if unexpected else 0.0):
        return False
    close = np.zeros((count, count))
    for near in neighbours:
        each = np.bincount(owner[near], seconds[near], count)
        close += np.minimum.outer(each, each)
    parted = np.zeros((count, count))
    for it in beside:
        one, other = (
            np.bincount(owner[own], seconds[own], count) / float(np.sum(seconds[own]))
            for own in (it.one, it.other)
        )
        parted += it.seconds * (np.outer(one, other) + np.outer(other, one))
    for a, b in combinations(range(count), 2):
        heard_apart = parted[a, b] >= max(_PARTED_S, _PARTED_SHARE * close[a, b])
        if heard_apart and not unexpected:
            needed = _ONE_VOICE / 2
        else:
            needed = _ONE_VOICE + _CHANCE * _INDEPENDENT_S * (1 / length[a] + 1 / length[b])
            needed += _UNEXPECTED if unexpected and not heard_apart else 0.0
        if 1.0 - float(candidate[a] @ candidate[b]) < needed:
            return False
    return True


def _clustered(embeddings: Floats, seconds: Floats, count: int) -> Floats:
    """The centres of `count` clusters that lie closest to what they hold: spherical k-means, from
    several seeded starts."""
    best, fit = None, -np.inf
    for start in _starts(embeddings, seconds, count):
        found = start
        for _ in range(_STEPS):
            owner = np.argmax(embeddings @ found.T, axis=1)
            moved = np.stack(
                [
                    _mean(embeddings[owner == one], seconds[owner == one])
                    if np.any(owner == one)
                    else found[one]
                    for one in range(count)
                ]
            )
            settled = np.allclose(moved, found, atol=1e-5)
            found = moved
            if settled:
                break
        reached = float(seconds @ np.max(embeddings @ found.T, axis=1))
        if reached > fit + 1e-6:
            best, fit = found, reached
    assert best is not None
    return best


def _starts(embeddings: Floats, seconds: Floats, count: int) -> Iterator[Floats]:
    """Stretches that lie far apart: each drawn by its distance to those drawn before it."""
    random = np.random.default_rng(0)
    for _ in range(_RESTARTS):
        drawn = [int(random.choice(len(embeddings), p=_shares(seconds)))]
        while len(drawn) < count:
            nearest = np.max(embeddings @ embeddings[drawn].T, axis=1)
            drawn.append(
                int(random.choice(len(embeddings), p=_shares((1.0 - nearest).clip(0.0) * seconds)))
            )
        yield embeddings[drawn]


def _shares(weights: Floats) -> npt.NDArray[np.float64]:
    total = float(np.sum(weights, dtype=np.float64))
    if total <= 0.0:
        return np.full(len(weights), 1 / len(weights))
    shares = np.asarray(weights, np.float64) / total
    return np.asarray(shares / np.sum(shares))


def _mean(embeddings: Floats, seconds: Floats) -> Floats:
    direction = seconds @ embeddings
    return np.asarray(direction / max(float(np.linalg.norm(direction)), 1e-9), np.float32)
