"""Numbers of a person in what was said: telephones, identities, cards, accounts and orders.

A number is read from written digits and from spoken ones, English and Mandarin, over fillers, over
several segments of one speaker, and past a short "okay" or an echo of the other. What it is, is
told by its shape (check digits, lengths, first digits), by the words around it and by the question
before it.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from datetime import date
from itertools import groupby

from schemas.events import PiiKind
from services.enrich.numerals import (
    FILLERS,
    Atom,
    Token,
    counted,
    digit_groups,
    digit_of,
    word_set,
)
from services.enrich.pii_call import Call, Cue, Span, span_of

# Words between two digits of one number.
MOST_FILLERS = 8
# How far back, in segments of anybody, a question still says what a number is.
QUESTION_REACH = 4
_LONGEST_SHAPE = 21
_FEWEST_DIGITS = 3
_FEWEST_LONG = 8
_FEWEST_READ_BACK = 6
# After one of these, what was said before does not count.
_CORRECTIONS = frozenset(("sorry", "no", "wait", "actually", "correction", "oops", "错", "不"))


def find_numbers(
    call: Call,
    kinds: Container[PiiKind],
    keep: Container[str],
    taken: Mapping[int, Sequence[tuple[int, int]]],
) -> list[Span]:
    """Numbers, of any kind, that begin outside of what is `taken` of each segment.

    `kinds` are those wanted: a long number that nothing names is found where NUMBER is among them,
    and pieces are looked for of numbers that are wanted and not in `keep`.
    """
    texts = [each.text for each in call.segments]
    found: list[Span] = []
    known: dict[str, PiiKind] = {}
    unknown: list[tuple[str, Span]] = []
    whole: list[tuple[str, Span]] = []
    for tokens in call.stretches:
        groups = [a for a in digit_groups(tokens, texts) if _is_free(tokens[a.first], taken)]
        for run in _runs(call, tokens, groups):
            number = "".join(atom.digits for atom in run)
            if len(number) < _FEWEST_DIGITS:
                continue
            run, number = _with_check_letter(tokens, run, number)
            kind = _kind(call, tokens, run, number, kinds)
            if (again := _corrected(tokens, run)) is not None:
                better = _kind(call, tokens, again, _said(again), kinds)
                if kind is None or kind is PiiKind.NUMBER or _sure(_said(again)):
                    kind = better or kind
            if kind is None:
                for part in _windows(run):
                    inner = "".join(atom.digits for atom in part)
                    if (sure := _sure(inner)) is not None:
                        found.append(span_of(sure, tokens[part[0].first : part[-1].last + 1]))
                        known[inner] = sure
                if len(run) == 1 and run[0].cardinal:
                    continue
                unknown.append((number, span_of(PiiKind.UNKNOWN, _stretch(tokens, run, None))))
                continue
            found.append(span_of(kind, _stretch(tokens, run, kind)))
            if len(number) >= 7:
                known[number] = kind
                whole.append((number, found[-1]))
    for number, span in unknown:
        if (kind := known.get(number)) is not None:
            found.append(span._replace(kind=kind))
    found += _echoes(whole, unknown)
    secret = {n: k for n, k in known.items() if k in kinds and n not in keep}
    found += _read_back(secret, unknown)
    return found


def _is_free(token: Token, taken: Mapping[int, Sequence[tuple[int, int]]]) -> bool:
    parts = taken.get(token.segment)
    if not parts:
        return True
    at = bisect_right(parts, (token.start, sys.maxsize)) - 1
    return at < 0 or parts[at][1] <= token.start


def _echoes(
    whole: Sequence[tuple[str, Span]], unknown: Sequence[tuple[str, Span]]
) -> Iterator[Span]:
    """Parts of a number that the other says again while it is given."""
    by_segment: dict[int, list[Span]] = {}
    digits: dict[Span, str] = {}
    for number, span in unknown:
        digits[span] = number
        by_segment.setdefault(span.parts[0][0], []).append(span)
    for number, span in whole:
        first, last = span.parts[0][0], span.parts[-1][0]
        if last == first:
            continue
        for segment in range(first, last + 2):
            for echo in by_segment.get(segment, ()):
                if echo.parts[-1][0] <= last + 1 and digits[echo] in number:
                    yield echo._replace(kind=span.kind)


def _read_back(known: Mapping[str, PiiKind], unknown: Sequence[tuple[str, Span]]) -> Iterator[Span]:
    """Pieces of a number, long enough to be of no other, wherever they are said."""
    pieces = {n for n, _ in unknown if _FEWEST_READ_BACK <= len(n) <= _LONGEST_SHAPE}
    sizes = {len(piece) for piece in pieces}
    whose: dict[str, PiiKind] = {}
    for number, kind in known.items():
        for size in sizes:
            for at in range(len(number) - size + 1):
                if (piece := number[at : at + size]) in pieces:
                    whose.setdefault(piece, kind)
    for piece, span in unknown:
        if (named := whose.get(piece)) is not None:
            yield span._replace(kind=named)


def _stretch(tokens: Sequence[Token], run: Sequence[Atom], kind: PiiKind | None) -> Sequence[Token]:
    """The run's tokens, with the letters that belong to it."""
    first, last = run[0].first, run[-1].last
    if kind in (PiiKind.ID_NUMBER, PiiKind.NUMBER):
        for _ in range(3):
            if not first or tokens[first - 1].kind != "w":
                break
            letter, nxt = tokens[first - 1], tokens[first]
            near = letter.end == nxt.start and len(letter.text) <= 4
            if not near and len(letter.text) > 1:
                break
            first -= 1
        after = last + 1
        if after < len(tokens) and tokens[after].kind == "w" and len(tokens[after].text) == 1:
            same = tokens[after].segment == tokens[last].segment
            if same and (tokens[after].text not in "ai" or tokens[after].start == tokens[last].end):
                last = after
    elif kind is PiiKind.PHONE and first and tokens[first - 1].text in ("+", "(", "plus"):
        first -= 1
        if first and tokens[first - 1].text == "+":
            first -= 1
    return tokens[first : last + 1]


def _corrected(tokens: Sequence[Token], run: Sequence[Atom]) -> Sequence[Atom] | None:
    """What follows the last `no, sorry` in a number."""
    for at in range(len(run) - 1, 0, -1):
        between = tokens[run[at - 1].last + 1 : run[at].first]
        if any(token.text in _CORRECTIONS for token in between):
            return run[at:]
    return None


def _windows(run: Sequence[Atom]) -> Iterator[Sequence[Atom]]:
    """Parts of a run that are surely something, one after the other."""
    first = 0
    while first < len(run):
        number = ""
        best = 0
        for last in range(first, len(run)):
            number += run[last].digits
            if len(number) > _LONGEST_SHAPE:
                break
            if _sure(number) is not None:
                best = last + 1
        if best:
            yield run[first:best]
        first = best or first + 1


# Digits that belong together ---------------------------------------------------------------------


def _runs(call: Call, tokens: Sequence[Token], groups: Sequence[Atom]) -> Iterator[list[Atom]]:
    """Groups with nothing but fillers between them, over segments where they belong together."""
    run: list[Atom] = []
    for atom in groups:
        if run and not _only_fillers(tokens, run[-1].last + 1, atom.first):
            yield from _parted(call, tokens, run)
            run = []
        run.append(atom)
    if run:
        yield from _parted(call, tokens, run)


def _parted(call: Call, tokens: Sequence[Token], run: Sequence[Atom]) -> Iterator[list[Atom]]:
    """A run, cut between segments where one side is whole, or is a number by the way."""
    joined: list[Atom] = []
    so_far = ""
    by_the_way = heavy = False
    for segment, piece in groupby(run, key=lambda atom: tokens[atom.first].segment):
        groups = list(piece)
        number = _said(groups)
        passing = not call.slight[segment] and (
            len(number) < _FEWEST_DIGITS
            or (len(groups) == 1 and groups[0].cardinal)
            or (len(number) == 4 and number[:2] in ("19", "20"))
            or (not joined and len(number) <= 4 and not _spoken_of(call, segment))
        )
        before = tokens[groups[0].first - 1].text if groups[0].first else ""
        # A few digits at the end of something else, then a telephone number.
        phone = len(so_far) <= 4 and heavy and _PHONE.fullmatch(number) is not None
        opens = phone or before in ("+", "plus")
        heavy = not joined and not call.slight[segment]
        if joined and (passing or by_the_way or opens or _sure(so_far) or _sure(number)):
            yield joined
            joined, so_far = [], ""
        joined += groups
        # Longer than any shape it stays so: no need to keep more of it.
        so_far = so_far if len(so_far) > _LONGEST_SHAPE else so_far + number
        by_the_way = passing
    if joined:
        yield joined


def _spoken_of(call: Call, segment: int) -> bool:
    """Whether a number is named in the segment or the two before."""
    return any(call.cues(number) for number in range(max(segment - 2, 0), segment + 1))


def _said(atoms: Iterable[Atom]) -> str:
    return "".join(atom.digits for atom in atoms)


def _only_fillers(
    tokens: Sequence[Token], start: int, end: int, fillers: frozenset[str] = FILLERS
) -> bool:
    if end - start > 3 * MOST_FILLERS:
        return False
    words = 0
    at = start
    while at < end:
        token = tokens[at]
        if (skip := counted(tokens, at)) or (skip := _one_of(tokens, at)):
            at = skip
            continue
        if token.text == "the" and tokens[at + 1].text in FILLERS:
            at += 1
            continue
        if token.kind in "wh":
            words += 1
            if token.text not in fillers and (token.text, tokens[at - 1].text) != (
                "by",
                "followed",
            ):
                return False
        elif token.kind == "d" or (token.kind == "p" and token.text in "$£€¥￥%:@"):
            return False
        at += 1
    return words <= MOST_FILLERS


def _one_of(tokens: Sequence[Token], at: int) -> int | None:
    """The token after 一个 in 最后一个是三."""
    one = tokens[at].text == "一" and at and tokens[at - 1].text in ("后", "末", "尾")
    return at + 2 if one and tokens[at + 1].text in ("个", "位") else None


def _with_check_letter(
    tokens: Sequence[Token], run: list[Atom], number: str
) -> tuple[list[Atom], str]:
    """With the X that stands for ten at the end of a resident ID."""
    if len(number) != 17:
        return run, number
    run = _with_x(tokens, run)
    return run, _said(run)


def _with_x(tokens: Sequence[Token], run: list[Atom]) -> list[Atom]:
    at = run[-1].last + 1
    while (
        at < len(tokens)
        and at < run[-1].last + 12
        and (tokens[at].kind in "pb" or tokens[at].text in FILLERS or _one_of(tokens, at))
    ):
        at = _one_of(tokens, at) or at + 1
    if at < len(tokens) and tokens[at].text in ("x", "叉", "ex"):
        return [*run, Atom(at, at, "X", False)]
    if "".join(t.text for t in tokens[at : at + 3]) == "艾克斯":
        return [*run, Atom(at, at + 2, "X", False)]
    return run


# Resident IDs with a date in them ----------------------------------------------------------------

_BORN = FILLERS | frozenset("出生日期年月")
_MOST_PART = 40


def find_dated_ids(call: Call) -> Iterator[Span]:
    """Resident IDs whose middle is said as a date: 一一零一零五，一九四九年12月31号，零零二叉."""
    for tokens in call.stretches:
        for at, token in enumerate(tokens):
            if token.text != "年" or not (date_said := _date_at(tokens, at)):
                continue
            first, born, last = date_said
            low = max(first - _MOST_PART, 0)
            before = _digits_before(tokens[low:first], 6)
            after = _digits_after(tokens[last + 1 : last + 1 + _MOST_PART], 4)
            if before is None or after is None:
                continue
            number = before[1] + born + after[1]
            named = _cue(call, tokens[low + before[0]], tokens[low + before[0]])[0] in (
                "id",
                "part",
            )
            if resident_id(number) or (named and number[:2] in _PROVINCES):
                yield span_of(PiiKind.ID_NUMBER, tokens[low + before[0] : last + 1 + after[0] + 1])


def _date_at(tokens: Sequence[Token], year: int) -> tuple[int, str, int] | None:
    """First token, YYYYMMDD and last token of the date whose 年 stands at `year`."""
    first = year
    while first > max(year - 4, 0) and digit_of(tokens[first - 1]) is not None:
        first -= 1
    if first == year and year and len(tokens[year - 1].text) == 4:
        first -= 1
    month = next(
        (i for i in range(year + 1, min(year + 5, len(tokens))) if tokens[i].text == "月"), 0
    )
    day = next(
        (
            i
            for i in range(month + 1, min(month + 6, len(tokens)))
            if tokens[i].text in ("日", "号")
        ),
        0,
    )
    if not month or not day:
        return None
    parts = [
        _said(digit_groups(tokens[start:end]))
        for start, end in ((first, year), (year + 1, month), (month + 1, day))
    ]
    born = parts[0] + parts[1].zfill(2) + parts[2].zfill(2)
    return (first, born, day) if len(born) == 8 and _is_date(born) else None


def _digits_before(tokens: Sequence[Token], size: int) -> tuple[int, str] | None:
    """The first token of so many digits that the tokens end with, and the digits."""
    end, number = len(tokens), ""
    for atom in reversed(digit_groups(tokens)):
        if not _only_fillers(tokens, atom.last + 1, end, _BORN):
            return None
        number, end = atom.digits + number, atom.first
        if len(number) >= size:
            return (atom.first, number) if len(number) == size else None
    return None


def _digits_after(tokens: Sequence[Token], size: int) -> tuple[int, str] | None:
    """The last token of so many digits, the last may be X, that the tokens start with."""
    start, run = 0, list[Atom]()
    for atom in digit_groups(tokens):
        if not _only_fillers(tokens, start, atom.first, _BORN):
            break
        run.append(atom)
        start = atom.last + 1
        if len(_said(run)) >= size:
            break
    if run and len(_said(run)) == size - 1:
        run = _with_x(tokens, run)
    return (run[-1].last, _said(run)) if len(_said(run)) == size else None


# What a number is --------------------------------------------------------------------------------

# Cue -> (what it names, the fewest digits that are one)
_NAMED = {
    "short": (PiiKind.CARD_NUMBER, 3),
    "card": (PiiKind.CARD_NUMBER, 12),
    "part": (PiiKind.ID_NUMBER, 4),
    "social": (PiiKind.ID_NUMBER, 7),
    "id": (PiiKind.ID_NUMBER, 6),
    "phone": (PiiKind.PHONE, 7),
    "number": (PiiKind.NUMBER, 6),
}


def _kind(
    call: Call, tokens: Sequence[Token], run: Sequence[Atom], number: str, kinds: Container[PiiKind]
) -> PiiKind | None:
    if len(run) == 1 and run[0].cardinal:
        return None
    first, last = tokens[run[0].first], tokens[run[-1].last]
    before = tokens[run[0].first - 1].text if run[0].first else ""
    plus = before in ("+", "plus")
    groups = [atom.digits for atom in run]
    cue, near = _cue(call, first, last)
    if resident_id(number) and (len(number) == 18 or cue in ("id", "part")):
        return PiiKind.ID_NUMBER
    shape = _by_shape(number, groups, plus)
    if cue == "any":
        return shape or (PiiKind.PHONE if 7 <= len(number) <= 12 else _long(number, kinds))
    if cue is None:
        return shape or _long(number, kinds)
    named, fewest = _NAMED[cue]
    if cue == "short":
        return named if len(number) <= 4 else shape or _long(number, kinds)
    sure = _sure(number)
    if plus and not near and 8 <= len(number) <= 15:
        return PiiKind.PHONE
    if named is PiiKind.NUMBER:
        if sure is not None and not (near and PiiKind.NUMBER in kinds):
            return sure
        return named if len(number) >= fewest else None
    if sure is not None and (not near or named is PiiKind.PHONE):
        return sure
    if shape is not None and not near:
        return shape
    if len(number) >= fewest:
        return named
    return shape or _long(number, kinds)


def _long(number: str, kinds: Container[PiiKind]) -> PiiKind | None:
    asked = PiiKind.NUMBER in kinds and len(number) >= _FEWEST_LONG
    return PiiKind.NUMBER if asked else None


def _cue(call: Call, first: Token, last: Token) -> tuple[str | None, bool]:
    """What the words around a number call it, and whether they stand in its own segment.

    The nearest cue before it counts, then one right after it, then those of the segments before.
    """
    own = call.cues(first.segment)
    at = bisect_right(own, first.start, key=lambda cue: cue.end)
    named = _nearest(own[max(at - 4, 0) : at])
    if named is not None and named != "any":
        return named, True
    behind = call.cues(last.segment)
    at = bisect_left(behind, last.end, key=lambda cue: cue.start)
    if at < len(behind) and behind[at].start <= last.end + 24 and behind[at].name != "number":
        return behind[at].name, True
    other = False
    for number in range(first.segment - 1, max(first.segment - 1 - QUESTION_REACH, -1), -1):
        asked = _nearest(call.cues(number))
        if asked is not None and asked != "any":
            # `number` stands nearer: the account spoken of before is not asked for.
            far = other or (named == "any" and first.segment - number > 2)
            return ("any" if far and asked == "number" else asked), False
        other = other or (named is None and asked == "any")
        named = named or asked
    return named, named is not None


def _nearest(cues: Sequence[Cue]) -> str | None:
    """The last cue; `number` alone gives way to what it is the number of."""
    for cue in reversed(cues[-4:]):
        if cue.name != "any":
            return cue.name
    return cues[-1].name if cues else None


def _by_shape(number: str, groups: Sequence[str], plus: bool) -> PiiKind | None:
    """What a number is that nothing around it names."""
    if (sure := _sure(number)) is not None:
        return sure
    size = len(number)
    if plus and 8 <= size <= 15:
        return PiiKind.PHONE
    if [len(group) for group in groups] == [3, 2, 4] and _social(number):
        return PiiKind.ID_NUMBER
    if _PHONE.fullmatch(number):
        return PiiKind.PHONE
    if [len(group) for group in groups] == [3, 4]:
        return PiiKind.PHONE
    # A card of which a digit was heard wrongly.
    if size == 16 or (13 <= size <= 19 and _CARD.fullmatch(number) and luhn(number)):
        return PiiKind.CARD_NUMBER
    return None


def _social(number: str) -> bool:
    return len(number) == 9 and number[:3] not in ("000", "666") and number[3:5] != "00"


_MOBILE = re.compile(r"(?:00)?(?:86)?1[3-9]\d{9}")
_PHONE = re.compile(
    r"1?[2-9]\d\d[2-9]\d{6}|0[1-9]\d{8,10}|[48]00\d{7}|(?:00)?44[1-9]\d{8,9}|(?:00)?861\d{10}"
)
_CARD = re.compile(r"(?:3[4-7]|4\d|5\d|6\d|2[2-7])\d{11,17}")


def _sure(number: str) -> PiiKind | None:
    """What the digits alone say with hardly a doubt."""
    if len(number) == 18 and resident_id(number):
        return PiiKind.ID_NUMBER
    if _MOBILE.fullmatch(number):
        return PiiKind.PHONE
    # Of the cards only American Express has 15 digits.
    size = 15 if number[:2] in ("34", "37") else 16
    if len(number) in (size, 19) and _CARD.fullmatch(number) and luhn(number):
        return PiiKind.CARD_NUMBER
    if len(number) == 15 and resident_id(number):
        return PiiKind.ID_NUMBER
    return None


def luhn(number: str) -> bool:
    """Whether the digits end in the right check digit of ISO/IEC 7812."""
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


_PROVINCES = word_set(
    """11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65
    71 81 82 83"""
)
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def resident_id(number: str) -> bool:
    """Whether it is a Chinese resident ID (GB 11643): 18 with its check digit, or the old 15."""
    if number[:2] not in _PROVINCES:
        return False
    born = number[6:14] if len(number) == 18 else f"19{number[6:12]}"
    if len(number) not in (15, 18) or not (number[:-1] + born).isdigit() or not _is_date(born):
        return False
    if len(number) == 15:
        return number.isdigit()
    rest = sum(int(d) * w for d, w in zip(number, _WEIGHTS, strict=False)) % 11
    return number[17].upper() == "10X98765432"[rest]


def _is_date(text: str) -> bool:
    try:
        return 1880 <= date(int(text[:4]), int(text[4:6]), int(text[6:])).year <= 2100
    except ValueError:
        return False
