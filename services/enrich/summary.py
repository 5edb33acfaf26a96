"""Extractive summary: the sentences that carry the demand, the solution and the outcome."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from schemas.events import Segment, Summary, SummarySentence
from services.enrich.findings import Heard, Hit, Places, Shown, plainly
from services.enrich.lexicon import Match
from services.enrich.rules import Cue

_Placed = TypeVar("_Placed", Hit, Match)

METHOD = "extractive"
VERSION = "1"
# Below so many words (or half as many again Han characters) a sentence says little by itself.
SHORT_WORDS = 4

_END = re.compile(r"(?<=[!?。！？；])\s*|(?<=\.)\s+|\n+")
_UNIT = re.compile(r"[㐀-鿿]|[^\W_㐀-鿿]+")


@dataclass(frozen=True, slots=True)
class Sentence:
    segment: Segment
    start: int
    end: int
    """Characters of the segment's text."""

    @property
    def text(self) -> str:
        return self.segment.text[self.start : self.end]


def sentences(segment: Segment, most_characters: int) -> list[Sentence]:
    """The sentences of a segment's text. One above `most_characters` is cut at a space or comma."""
    found: list[Sentence] = []
    text = segment.text
    starts = [0, *(match.end() for match in _END.finditer(text)), len(text)]
    for begin, stop in pairwise(starts):
        at = begin
        while at < stop:
            end = stop
            if end - at > most_characters:
                end = at + most_characters
                cuts = [text.rfind(mark, at, end) + 1 for mark in (" ", "，", "、", ",")]
                end = max(cuts) if max(cuts) > at else end
            left = at + len(text[at:end]) - len(text[at:end].lstrip())
            right = at + len(text[at:end].rstrip())
            if left < right:
                found.append(Sentence(segment, left, right))
            at = end
    return found


def summarize(
    segments: Sequence[Segment],
    heard: Heard,
    cues: Sequence[Cue],
    most_characters: int,
    shown: Shown = plainly,
) -> Summary | None:
    """One sentence per cue at most, in the order of the call, as far as it is `shown`. None where
    nothing was said.

    A sentence's worth is its cue phrases, then its topics and emotions, then its length; where a
    cue is heard nowhere, its place stays empty.
    """
    candidates = [
        sentence
        for segment in segments
        if segment.segment_id in heard.said
        for sentence in sentences(segment, most_characters)
    ]
    if not candidates:
        return None
    middle = (candidates[0].segment.start_ms + candidates[-1].segment.end_ms) // 2
    chosen: dict[tuple[int, int], Sentence] = {}
    for cue in cues:
        cued: dict[int, list[Hit]] = {}
        for hit in heard.phrases.get(cue.phrases, ()):
            cued.setdefault(hit.segment_id, []).append(hit)
        ranked = [
            (worth, -at, sentence)
            for at, sentence in enumerate(candidates)
            if not cue.roles or sentence.segment.role in cue.roles
            if (sentence.segment.segment_id, sentence.start) not in chosen
            for worth in (_worth(sentence, cue, cued, heard.matches, middle),)
            if worth > 0
        ]
        if ranked:
            best = max(ranked, key=lambda each: each[:2])[2]
            chosen[best.segment.segment_id, best.start] = best
    ordered = sorted(
        chosen.values(),
        key=lambda each: (each.segment.start_ms, each.segment.segment_id, each.start),
    )
    return Summary(
        method=METHOD,
        version=VERSION,
        sentences=[
            SummarySentence(
                text=shown(sentence.segment, sentence.start, sentence.end),
                evidence=Places(sentence.segment, shown).evidence(sentence.start, sentence.end),
            )
            for sentence in ordered
        ],
    )


def _within(sentence: Sentence, found: Sequence[_Placed]) -> list[_Placed]:
    """Those of `found`, which are ordered by start, that lie within the sentence."""
    first = bisect_left(found, sentence.start, key=lambda each: each.start)
    after = bisect_left(found, sentence.end, key=lambda each: each.start)
    return [each for each in found[first:after] if each.end <= sentence.end]


def _worth(
    sentence: Sentence,
    cue: Cue,
    cued: Mapping[int, Sequence[Hit]],
    matches: Mapping[int, Sequence[Match]],
    middle_ms: int,
) -> float:
    segment = sentence.segment
    phrases = _within(sentence, cued.get(segment.segment_id, ()))
    if not phrases:
        return 0.0
    classes = {
        match.found.label for match in _within(sentence, matches.get(segment.segment_id, ()))
    }
    worth = 2.0 * min(len(phrases), 2) + len(classes)
    units = len(_UNIT.findall(sentence.text))
    worth += min(units, 20) / 20 if units >= SHORT_WORDS else -1.5
    if cue.part != "anywhere":
        early = segment.start_ms <= middle_ms
        worth += 1.0 if early == (cue.part == "early") else 0.0
    return worth
