"""What a model says of a call, as far as it rests on words that were said there."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any

import msgspec

from schemas.events import Evidence, Role, Segment
from services.enrich.findings import Places
from services.enrich.lines import data_line, estimated_tokens

_LONGEST_QUOTE = 1_000
# A quote says where a statement rests only if it has this many letters; a Han character is two.
_SHORTEST_QUOTE = 4


class Quote(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Words of a segment, as a model gives them."""

    id: int
    quote: Annotated[str, msgspec.Meta(max_length=_LONGEST_QUOTE)]


def letters_of(text: str) -> tuple[str, list[int]]:
    """Letters and digits of `text` alike in width and case, and where each of them stands in it."""
    letters: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        for each in unicodedata.normalize("NFKC", character).casefold():
            if each.isalnum():
                letters.append(each)
                places.append(place)
    return "".join(letters), places


def _weight(letters: str) -> int:
    return sum(1 if ord(each) < 0x2E80 else 2 for each in letters)


_ELLIPSIS = re.compile(r"…+|\.{3,}|。{3,}")


@dataclass(frozen=True)
class Spoken:
    """A segment that was sent, and what was sent of it."""

    segment: Segment
    text: str

    @cached_property
    def letters(self) -> tuple[str, list[int]]:
        return letters_of(self.text)

    @cached_property
    def _own(self) -> tuple[str, list[int]]:
        return self.letters if self.text == self.segment.text else letters_of(self.segment.text)

    @cached_property
    def _places(self) -> Places:
        return Places(self.segment)

    def find(self, quote: str) -> tuple[int, int] | None:
        """Where in its letters `quote` stands; None where it was not said, or says too little.

        Signs, spaces, width and case do not count; "..." stands for what is left out.
        """
        letters, _ = self.letters
        parts = [part for part in (letters_of(it)[0] for it in _ELLIPSIS.split(quote)) if part]
        whole = "".join(parts)
        if _weight(whole) < _SHORTEST_QUOTE and whole != letters:
            return None
        start, at = -1, 0
        for part in parts:
            found = letters.find(part, at)
            if found < 0:
                return None
            start = found if start < 0 else start
            at = found + len(part)
        return (start, at) if start >= 0 and at - start <= _LONGEST_QUOTE else None

    def evidence(self, start: int, end: int) -> Evidence:
        """Of its letters [start, end); times are those of the whole where the words are unknown."""
        letters, places = self.letters
        quote = self.text[places[start] : places[end - 1] + 1].strip()
        own, own_places = self._own
        first = start if own is letters else own.find(letters[start:end])
        if first < 0:
            segment = self.segment
            return Evidence(
                start_ms=segment.start_ms,
                end_ms=max(segment.start_ms, segment.end_ms),
                segment_ids=[segment.segment_id],
                role=segment.role,
                quote=quote,
            )
        last = own_places[first + end - start - 1] + 1
        return replace(self._places.evidence(own_places[first], last), quote=quote)


@dataclass(frozen=True, slots=True)
class Note:
    """A statement that rests on something."""

    kind: str
    text: str
    evidence: tuple[Evidence, ...]
    verdict: str = ""

    @property
    def sent(self) -> str:
        found: dict[str, Any] = {"kind": self.kind}
        if self.verdict:
            found["verdict"] = self.verdict
        quotes = [{"id": each.segment_ids[0], "quote": each.quote} for each in self.evidence]
        return data_line({**found, "text": self.text, "evidence": quotes})

    @property
    def cost(self) -> int:
        return 1 + estimated_tokens(self.sent)


_TAG = re.compile(
    r"<(script|style)\b.*?</\1\s*>|<!--.*?-->|<[/!?]?[A-Za-z][^<>]*>", re.DOTALL | re.IGNORECASE
)
# What no text that people read holds: signs of control, of direction and of no width.
UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff"
    "\ud800-\udfff\U000e0000-\U000e0fff]+"
)
_LINK = re.compile(
    r"(?:[a-z][a-z0-9+.-]*://|www\.)[^\s，。]+|[^\s@，。]+@[^\s@，。]+\.[^\s@，。]+", re.IGNORECASE
)


def _clean(text: str) -> str:
    return re.sub(r"\s+", " ", UNSEEN.sub(" ", _TAG.sub(" ", text))).strip()


def grounded(
    kind: str, text: str, quotes: Sequence[Quote], known: Mapping[int, Spoken], verdict: str = ""
) -> Note | None:
    """The statement, if it rests on something of `known`; links count only where they were said."""
    text = _clean(text)
    if not text:
        return None
    evidence: dict[tuple[int, int, int], Evidence] = {}
    for each in quotes:
        spoken = known.get(each.id)
        place = None if spoken is None else spoken.find(each.quote)
        if spoken is not None and place is not None:
            evidence[each.id, *place] = spoken.evidence(*place)
    if not evidence:
        return None
    said = [known[number].letters[0] for number, _, _ in evidence]
    for link in _LINK.findall(text):
        if not any(letters_of(link)[0] in each for each in said):
            return None
    return Note(kind, text, tuple(evidence.values()), verdict)


def groups(notes: Iterable[Note], budget: int) -> Iterator[list[Note]]:
    """Notes in order, as many together as have room."""
    group: list[Note] = []
    left = budget
    for note in notes:
        if group and note.cost > left:
            yield group
            group, left = [], budget
        group.append(note)
        left -= note.cost
    if group:
        yield group


def together(evidence: Sequence[Evidence]) -> Evidence:
    """All of it as one, in the order of the call."""
    ordered = sorted(evidence, key=lambda each: (each.start_ms, each.segment_ids))
    roles = {each.role for each in ordered}
    return Evidence(
        start_ms=ordered[0].start_ms,
        end_ms=max(each.end_ms for each in ordered),
        segment_ids=sorted({number for each in ordered for number in each.segment_ids}),
        role=roles.pop() if len(roles) == 1 else Role.UNKNOWN,
        quote=" … ".join(dict.fromkeys(each.quote for each in ordered)),
    )
