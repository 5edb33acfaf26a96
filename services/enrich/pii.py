"""Personal data in what was said: where it stands in the text, and the text with it masked.

A policy says what is looked for and how it is masked. Numbers, e-mails, addresses and names are
found by a module each, in a call as `pii_call` shows it; here, what they find becomes redactions
that do not overlap.

Every search, there too, is one pass over the tokens, or bounded on both sides: the cost is linear
in the text.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from schemas.events import PiiKind, Redaction, Segment
from services.enrich.addresses import find_addresses
from services.enrich.findings import Places, Shown
from services.enrich.names import find_names
from services.enrich.numerals import digit_groups, digits_of, tokenize
from services.enrich.pii_call import Call, Span
from services.enrich.pii_mail import find_emails
from services.enrich.pii_numbers import find_dated_ids, find_numbers
from services.runtime.yaml_file import Item

KINDS: Mapping[str, PiiKind] = {
    each.value.lower(): each for each in PiiKind if each is not PiiKind.UNKNOWN
}
_NUMERIC = frozenset((PiiKind.PHONE, PiiKind.ID_NUMBER, PiiKind.CARD_NUMBER, PiiKind.NUMBER))
_MARK = "•"


class Mask(StrEnum):
    """How a secret is made unreadable."""

    STARS = "stars"
    """Every character that is no space becomes `•`: the text keeps its length."""
    LABEL = "label"
    """The secret becomes its kind in brackets, as `[phone]`."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What counts as personal; immutable."""

    version: str
    kinds: Mapping[PiiKind, Mask]
    """The kinds that are looked for, each with its mask."""
    keep: frozenset[str] = frozenset()
    """What is never personal: digits alone of numbers, case-folded words of the rest."""


def shown_by(redactions: Iterable[Redaction], policy: Policy) -> Shown:
    """What may be read of segments: their text, masked as `policy` says.

    `redactions` are as `find` returns them: those of a segment ordered and disjoint.
    """
    own: dict[int, list[Redaction]] = {}
    for each in redactions:
        own.setdefault(each.segment_id, []).append(each)

    def shown(segment: Segment, start: int, end: int) -> str:
        there = own.get(segment.segment_id, ())
        first = bisect_right(there, start, key=lambda each: each.end)
        last = bisect_left(there, end, lo=first, key=lambda each: each.start)
        within = [
            replace(each, start=max(each.start - start, 0), end=min(each.end, end) - start)
            for each in there[first:last]
        ]
        return masked(segment.text[start:end], within, policy.kinds)

    return shown


def load_pii(item: Item) -> Policy:
    """The policy in pii.yaml. Raises FileError, naming file, line and what is allowed."""
    fields = item.fields(("version", "kinds"), ("keep", "about"))
    kinds: dict[PiiKind, Mask] = {}
    entries = fields["kinds"].fields((), tuple(KINDS))
    for name, kind in KINDS.items():
        if name not in entries:
            raise fields["kinds"].error(f"lacks {name!r}; write `{name}: {{find: no}}` to leave it")
        inner = entries[name].fields(("find",), ("mask",))
        wanted = inner["find"].choice(("yes", "no")) == "yes"
        mask = Mask(inner["mask"].choice(tuple(Mask))) if "mask" in inner else Mask.LABEL
        if wanted:
            kinds[kind] = mask
    kept = fields["keep"].texts() if "keep" in fields else ()
    return Policy(fields["version"].text(), kinds, frozenset(_kept(text) for text in kept))


def _kept(text: str) -> str:
    """The form in which `keep` is compared."""
    number = digits_of(text)
    letters = any(c.isalpha() for c in text)
    return number if number and not letters else " ".join(text.casefold().split())


def find(
    segments: Sequence[Segment], language: str, names: Sequence[str], policy: Policy
) -> list[Redaction]:
    """Where the segments of a call hold what `policy` calls personal.

    `names` are those shown of the participants, known beforehand: one of a person is looked for
    word by word, another (`Refund Dept`) as a whole. `language` (BCP 47) is that of segments
    that do not know their own. Places are code points of the segment's text, times those of the
    words there, else in proportion. Redactions do not overlap and are ordered by segment and start.
    Cost: linear in the text.
    """
    if not policy.kinds:
        return []
    call = Call(sorted(segments, key=lambda s: (s.start_ms, s.channel, s.segment_id)), language)
    found: list[Span] = []
    # An address or e-mail is looked for where only numbers are wanted: its digits are no number.
    numeric = not _NUMERIC.isdisjoint(policy.kinds)
    if numeric or PiiKind.EMAIL in policy.kinds:
        found += find_emails(call)
    if numeric or PiiKind.ADDRESS in policy.kinds:
        found += find_addresses(call)
    if numeric:
        found += find_dated_ids(call)
        found += find_numbers(call, policy.kinds, policy.keep, _covered(found))
    if PiiKind.NAME in policy.kinds:
        found += find_names(call, names)
    wanted = [
        each for each in found if each.kind in policy.kinds and not _keeps(call, each, policy)
    ]
    return _redactions(call, wanted)


def _covered(spans: Iterable[Span]) -> dict[int, list[tuple[int, int]]]:
    """Segment -> the stretches of it that are taken, in order."""
    taken: dict[int, list[tuple[int, int]]] = {}
    for span in spans:
        for number, start, end in span.parts:
            taken.setdefault(number, []).append((start, end))
    return {number: sorted(parts) for number, parts in taken.items()}


def _keeps(call: Call, span: Span, policy: Policy) -> bool:
    if not policy.keep:
        return False
    text = " ".join(call.segments[n].text[start:end] for n, start, end in span.parts)
    said = (
        "".join(a.digits for a in digit_groups(tokenize(0, text))) if span.kind in _NUMERIC else ""
    )
    return _kept(text) in policy.keep or said in policy.keep


def _redactions(call: Call, spans: Iterable[Span]) -> list[Redaction]:
    """One after the other: what an earlier span covers, a later one leaves out."""
    taken: dict[int, list[tuple[int, int, PiiKind]]] = {}
    by_segment: dict[int, list[tuple[int, int, PiiKind]]] = {}
    for span in spans:
        for number, start, end in span.parts:
            by_segment.setdefault(number, []).append((start, end, span.kind))
    for number, wanted in by_segment.items():
        # A position belongs to the first that wants it: sweep over the ends of all.
        kept: list[tuple[int, int, PiiKind]] = []
        for start, end, kind in wanted:
            for free_start, free_end in _free(kept, start, end):
                at = bisect_right(kept, (free_start, free_end))
                kept.insert(at, (free_start, free_end, kind))
        taken[number] = kept
    found: list[Redaction] = []
    for number, kept in taken.items():
        segment = call.segments[number]
        places = Places(segment)
        for start, end, kind in kept:
            bare = segment.text[start:end].strip(" \t\n,，、.。")
            if not bare:
                continue
            start = segment.text.index(bare, start)
            end = start + len(bare)
            evidence = places.evidence(start, end)
            found.append(
                Redaction(
                    segment_id=segment.segment_id,
                    kind=kind,
                    start=start,
                    end=end,
                    start_ms=evidence.start_ms,
                    end_ms=evidence.end_ms,
                )
            )
    return sorted(found, key=lambda r: (r.segment_id, r.start))


def _free(kept: list[tuple[int, int, PiiKind]], start: int, end: int) -> Iterator[tuple[int, int]]:
    """The stretches of [start, end) that none of the sorted, disjoint `kept` covers."""
    at = max(bisect_right(kept, (start,)) - 1, 0)
    free: list[tuple[int, int]] = []
    while at < len(kept) and kept[at][0] < end:
        if kept[at][1] > start:
            if kept[at][0] > start:
                free.append((start, kept[at][0]))
            start = kept[at][1]
        at += 1
    if start < end:
        free.append((start, end))
    yield from free


def label_of(kind: PiiKind) -> str:
    """What stands in place of it, as `[id number]`."""
    return f"[{kind.value.lower().replace('_', ' ')}]"


def masked(text: str, redactions: Iterable[Redaction], how: Mask | Mapping[PiiKind, Mask]) -> str:
    """A segment's text without what its redactions name, masked one way or each kind in its own.

    With STARS the text keeps its length and its spaces, so that offsets into it hold.
    """
    parts: list[str] = []
    at = 0
    for each in sorted(redactions, key=lambda r: (r.start, r.end)):
        start, end = max(each.start, at), min(each.end, len(text))
        if start >= end:
            continue
        way = how if isinstance(how, Mask) else how.get(each.kind, Mask.LABEL)
        parts.append(text[at:start])
        if way is Mask.STARS:
            parts.append("".join(c if c.isspace() else _MARK for c in text[start:end]))
        else:
            parts.append(label_of(each.kind))
        at = end
    return "".join((*parts, text[at:]))
