"""Who speaks when on a channel that several people share, and whose the words are.

A diarizer parts a channel's voices into turns. It knows no call, no role and no text; `attribute`
joins its turns with what an engine heard.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import NamedTuple, Protocol

from services.transcribe.engine import HeardSegment, HeardWord, Samples
from services.transcribe.spans import Span, joined
from services.transcribe.words import split, timed

# What it costs to change the speaker between two words, in ms of speech that the turns give to
# somebody else: borders of turns and times of words are each about 100 ms off. After a sentence
# or a pause a change is likelier.
_CHANGE_MS, _CHANGE_AFTER_SENTENCE_MS = 150, 50
_PAUSE_MS = 300
_SENTENCE_ENDS = (".", "?", "!", "…", "。", "？", "！")
# Word times spread over a segment may be off by seconds: only a turn of so many times more ms
# divides it.
_SPREAD = 10
# A word that an engine gives no length has been said all the same.
_SHORTEST_WORD_MS = 100
# Voices that overlap for less may only have borders that are not exact.
_OVERLAP_MS = 100


class Turn(NamedTuple):
    """From `start_ms` up to but not including `end_ms` this speaker speaks."""

    speaker: int
    start_ms: int
    end_ms: int

    @property
    def span(self) -> Span:
        return Span(self.start_ms, self.end_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """Who speaks when. Times in ms since the start of the audio that was given; see `arranged`."""

    turns: tuple[Turn, ...] = ()
    """In order of start; those of two speakers may overlap, those of one do not touch."""
    exclusive: tuple[Turn, ...] = ()
    """One speaker at a time, the one whose words are likelier to be understood."""

    @property
    def speakers(self) -> int:
        """How many there are; their numbers are 0 up to that."""
        return 1 + max((turn.speaker for turn in (*self.turns, *self.exclusive)), default=-1)

    @property
    def overlapped(self) -> list[Span]:
        """Where two speak at once or more: sorted and disjoint."""
        found: list[Span] = []
        latest: list[Turn] = []  # those that the ones to come may still overlap
        for turn in self.turns:
            latest = [other for other in latest if other.end_ms > turn.start_ms]
            found += [
                Span(turn.start_ms, min(turn.end_ms, other.end_ms))
                for other in latest
                if other.speaker != turn.speaker
            ]
            latest.append(turn)
        return joined(found)


class Diarizer(Protocol):
    """Holds a model, loaded when it was made. Thread-safe: calls of `diarize` may wait."""

    @property
    def identity(self) -> str:
        """Name, version and model: what it takes to make the same turns again."""

    def diarize(
        self,
        audio: Samples,
        speech: Sequence[Span],
        parties: int | None = None,
        *,
        replay: bool = False,
    ) -> Turns:
        """Who speaks within `speech` of `audio` (mono, 16 kHz, -1.0 to 1.0).

        `speech` is where a voice is heard: sorted, disjoint and within the audio; none gives no
        turns. Turns lie within it, but for margins of a fraction of a second that a diarizer's own
        ear for voices may add. `parties` is how many people are believed to take part, at least 1;
        None where nobody knows. It is believed over weak evidence only: who never speaks has no
        turns. Speakers are numbered by first appearance. The same input gives an equal result. A
        `replay` waits where live calls want the device.
        Unless the diarizer says otherwise, memory grows with the length of the speech by less than
        its samples alone take. What a library raises passes through.
        """


@dataclass(frozen=True, slots=True)
class Parting:
    """A diarizer, loaded; or why there is none."""

    diarizer: Diarizer | None = None
    why_none: str = "no diarizer is asked for"


NO_PARTING = Parting()


def arranged(turns: Iterable[Turn], exclusive: Iterable[Turn]) -> Turns:
    """`turns` and `exclusive` in order, speakers numbered anew by first appearance.

    Turns of one speaker that overlap or touch become one; of exclusive turns that overlap the
    later one gives way.
    """
    by_speaker: dict[int, list[Span]] = {}
    for turn in turns:
        by_speaker.setdefault(turn.speaker, []).append(turn.span)
    every = sorted(
        (Turn(speaker, *span) for speaker, spans in by_speaker.items() for span in joined(spans)),
        key=_in_order,
    )
    alone: list[Turn] = []
    for turn in sorted(exclusive, key=_in_order):
        start = max(turn.start_ms, alone[-1].end_ms if alone else turn.start_ms)
        if start >= turn.end_ms:
            continue
        if alone and alone[-1].speaker == turn.speaker and alone[-1].end_ms == start:
            alone[-1] = alone[-1]._replace(end_ms=turn.end_ms)
        else:
            alone.append(Turn(turn.speaker, start, turn.end_ms))
    numbers: dict[int, int] = {}
    for turn in (*every, *alone):
        numbers.setdefault(turn.speaker, len(numbers))

    def renamed(found: Iterable[Turn]) -> tuple[Turn, ...]:
        return tuple(turn._replace(speaker=numbers[turn.speaker]) for turn in found)

    return Turns(turns=renamed(every), exclusive=renamed(alone))


def _in_order(turn: Turn) -> tuple[int, int, int]:
    return turn.start_ms, turn.end_ms, turn.speaker


class Said(NamedTuple):
    """A segment of one speaker; `overlapped` where another voice is heard during part of it."""

    speaker: int
    segment: HeardSegment
    overlapped: bool


def attribute(segments: Iterable[HeardSegment], turns: Turns) -> list[Said]:
    """The segments with who says them, divided where the speaker changes; in order of start.

    A word belongs to whoever's exclusive turn covers most of it, else to whose is nearest. Words
    are taken together: a speaker changes where that explains the turns better by more than a
    change costs, so that a stray word that barely lies in another's turn stays with its
    neighbours, and a change falls on the end of a sentence or on a pause where one is near.

    A segment whose words have no times is divided in proportion to its text, but only where each
    part is worth a clear turn of about a second or more; else the speaker of most of it has it
    all. One whose words do not spell its text is never divided.

    The parts' words are the segment's, in order, and their texts are the segment's text but for
    white space where it is cut. The first part starts and the last one ends with the segment. A
    part's confidence is the mean of its words where all have one; all else is the segment's own.
    """
    timeline = _Timeline(turns)
    said = [part for segment in segments for part in _divided(segment, timeline)]
    return sorted(said, key=lambda it: it.segment.start_ms)


class _Timeline:
    """Turns, to be asked about single words."""

    def __init__(self, turns: Turns) -> None:
        self.speakers = turns.speakers
        self._every, self._alone = turns.turns, turns.exclusive or turns.turns
        self._starts = [turn.start_ms for turn in self._every]
        # The latest end so far: turns that overlap need not end in order.
        self._ends = list(accumulate((turn.end_ms for turn in self._every), max))
        self._alone_starts = [turn.start_ms for turn in self._alone]
        self._alone_ends = list(accumulate((turn.end_ms for turn in self._alone), max))
        self._overlapped = turns.overlapped
        self._overlap_ends = [span.end_ms for span in self._overlapped]

    def costs(self, word: Span) -> list[float]:
        """For each speaker how many ms the turns speak against its having said `word`."""
        held, heard = [0] * self.speakers, [0] * self.speakers
        for turn in _meeting(word, self._alone, self._alone_starts, self._alone_ends):
            held[turn.speaker] += turn.span.overlap_ms(word)
        for turn in _meeting(word, self._every, self._starts, self._ends):
            heard[turn.speaker] += turn.span.overlap_ms(word)
        if not any(held):
            held = list(heard)
        if not any(held):
            held[self._nearest(word).speaker] = heard[self._nearest(word).speaker] = 1
        # Who is heard as well, though less clearly, may have said it, too.
        evidence = [(own + max(own, any_)) / 2 for own, any_ in zip(held, heard, strict=True)]
        length = max(word.length_ms, _SHORTEST_WORD_MS)
        most = max(evidence)
        return [length * (most - each) / sum(held) for each in evidence]

    def _nearest(self, word: Span) -> Turn:
        at = bisect_right(self._alone_starts, word.start_ms)
        near = self._alone[max(0, at - 1) : at + 1]
        return min(
            near, key=lambda turn: max(turn.start_ms - word.end_ms, word.start_ms - turn.end_ms)
        )

    def overlapped(self, span: Span) -> bool:
        total = 0
        for other in self._overlapped[bisect_right(self._overlap_ends, span.start_ms) :]:
            if other.start_ms >= span.end_ms:
                break
            total += other.overlap_ms(span)
        return total >= _OVERLAP_MS


def _meeting(
    span: Span, turns: Sequence[Turn], starts: Sequence[int], ends: Sequence[int]
) -> Sequence[Turn]:
    """Those of `turns` that may overlap `span`; `ends` are the latest so far."""
    return turns[bisect_right(ends, span.start_ms) : bisect_left(starts, span.end_ms)]


def _divided(segment: HeardSegment, timeline: _Timeline) -> list[Said]:
    whole = Span(segment.start_ms, segment.end_ms)
    if timeline.speakers < 2:
        return [Said(0, segment, False)]
    words = [word for word in segment.words or () if word.text.strip()]
    texts = [word.text for word in words] or split(segment.text)
    spelled = "".join("".join(texts).split()) == "".join(segment.text.split())
    if not texts:
        costs = timeline.costs(whole)
        return [Said(costs.index(min(costs)), segment, timeline.overlapped(whole))]
    times = timed(segment.text, words, whole)
    spans = [Span(*it) for it in zip(times.start_ms, times.end_ms, strict=True)]
    spread = all(word.start_ms is None or word.end_ms is None for word in words)
    changes: list[float] = [
        (_CHANGE_AFTER_SENTENCE_MS if _may_end(text, before, after) else _CHANGE_MS)
        * (_SPREAD if spread else 1)
        for text, (before, after) in zip(texts, pairwise(spans), strict=False)
    ]
    if not spelled:
        changes = [float("inf")] * len(changes)
    who = _cheapest([timeline.costs(span) for span in spans], changes)
    firsts = [0, *(at for at in range(1, len(who)) if who[at] != who[at - 1]), len(who)]
    if len(firsts) == 2:
        heard = whole if spread else Span(spans[0].start_ms, max(it.end_ms for it in spans))
        return [Said(who[0], segment, timeline.overlapped(heard))]
    cuts = _cuts(segment.text, texts, firsts)
    owned = _owned(segment.words, firsts)
    parts: list[Said] = []
    for number, (first, last) in enumerate(pairwise(firsts)):
        heard = Span(spans[first].start_ms, max(it.end_ms for it in spans[first:last]))
        parts.append(
            Said(
                who[first],
                replace(
                    segment,
                    text=segment.text[cuts[number] : cuts[number + 1]].strip(),
                    start_ms=heard.start_ms if number else whole.start_ms,
                    end_ms=heard.end_ms if last < len(who) else whole.end_ms,
                    confidence=_confidence(segment, owned[number]),
                    words=owned[number] if segment.words is not None else None,
                ),
                timeline.overlapped(heard),
            )
        )
    return parts


def _may_end(text: str, word: Span, following: Span) -> bool:
    """Whether a sentence ends with the word, or a pause follows it."""
    ends = text.rstrip("\"'”’)]」』").endswith(_SENTENCE_ENDS)
    return ends or following.start_ms - word.end_ms >= _PAUSE_MS


def _cheapest(costs: Sequence[Sequence[float]], changes: Sequence[float]) -> list[int]:
    """The speaker of each word so that `costs`, and `changes` between two words, add up to least.

    Of equals the one with the lower number.
    """
    total = list(costs[0])
    came_from: list[list[int]] = []
    for cost, change in zip(costs[1:], changes, strict=True):
        cheapest = min(range(len(total)), key=total.__getitem__)
        origin = [
            speaker if total[speaker] <= total[cheapest] + change else cheapest
            for speaker in range(len(total))
        ]
        total = [
            total[before] + (change if before != speaker else 0.0) + cost[speaker]
            for speaker, before in enumerate(origin)
        ]
        came_from.append(origin)
    who = [min(range(len(total)), key=total.__getitem__)]
    for origin in reversed(came_from):
        who.append(origin[who[-1]])
    return who[::-1]


def _cuts(text: str, texts: Sequence[str], firsts: Sequence[int]) -> list[int]:
    """Where in `text`, which `texts` spell, the words number `firsts` begin; the last is its end.

    The first part has all that comes before its first word, too.
    """
    letters = list(accumulate((len("".join(it.split())) for it in texts), initial=0))
    places = [at for at, letter in enumerate(text) if not letter.isspace()]
    return [0, *(places[letters[first]] for first in firsts[1:-1]), len(text)]


def _owned(words: Sequence[HeardWord] | None, firsts: Sequence[int]) -> list[tuple[HeardWord, ...]]:
    """The words of each part; those without text stay with the one before them."""
    parts: list[list[HeardWord]] = [[] for _ in firsts[1:]]
    number = part = 0
    for word in words or ():
        if word.text.strip():
            part += number == firsts[part + 1]
            number += 1
        parts[part].append(word)
    return [tuple(part) for part in parts]


def _confidence(segment: HeardSegment, words: Sequence[HeardWord]) -> float | None:
    known = [word.confidence for word in words if word.confidence is not None]
    if segment.confidence is None or not known or len(known) < len(words):
        return segment.confidence
    return round(sum(known) / len(known), 4)
