"""Personal data in what was said: where it stands in the text, and the text with it masked.

A number is read from written digits and from spoken ones, English and Mandarin, over fillers, over
several segments of one speaker, and past a short "okay" or an echo of the other. What it is, is
told by its shape (check digits, lengths, first digits), by the words around it and by the question
before it. Names are told by their context and by short lists, addresses by streets and house
numbers.

Every search is one pass over the tokens, or bounded on both sides: the cost is linear in the text.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

from schemas.events import PiiKind, Redaction, Segment
from services.enrich.addresses import (
    MAIL_TO,
    PLACE_WORDS,
    STREETS,
    boxes,
    chinese_addresses,
    streets,
)
from services.enrich.findings import Places, Shown
from services.enrich.names import (
    ASKING,
    NAME_QUESTION,
    PLAIN_WORDS,
    SPELLING,
    SPELT,
    chinese_names,
    english_names,
    may_name,
    name_parts,
    of_person,
    spelled,
)
from services.enrich.numerals import (
    DECADES,
    FILLERS,
    HAN,
    HAN_DIGITS,
    HAN_NUMERALS,
    LETTER,
    NO_ONE,
    NUMBER_WORDS,
    OH,
    ONES,
    PLACES,
    REPEATS,
    TEENS,
    Atom,
    Token,
    counted,
    digit_groups,
    digit_of,
    digits_of,
    is_han,
    tokenize,
    word_set,
)
from services.runtime.yaml_file import Item

KINDS: Mapping[str, PiiKind] = {
    each.value.lower(): each for each in PiiKind if each is not PiiKind.UNKNOWN
}
# Two parts of one number are no further apart than this.
MOST_PAUSE_MS = 30_000
# Words between two digits of one number.
MOST_FILLERS = 8
# How far back, in segments of anybody, a question still says what a number is.
QUESTION_REACH = 4
_LONGEST_SHAPE = 21
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
    call = _Call(sorted(segments, key=lambda s: (s.start_ms, s.channel, s.segment_id)), language)
    found: list[_Span] = []
    # An address or e-mail is looked for where only numbers are wanted: its digits are no number.
    numeric = not _NUMERIC.isdisjoint(policy.kinds)
    if numeric or PiiKind.EMAIL in policy.kinds:
        found += _emails(call)
    if numeric or PiiKind.ADDRESS in policy.kinds:
        found += _addresses(call)
    if numeric:
        found += _dated_ids(call)
        found += _numbers(call, policy, _covered(found))
    if PiiKind.NAME in policy.kinds:
        found += _names(call, names)
    wanted = [
        each for each in found if each.kind in policy.kinds and not _keeps(call, each, policy)
    ]
    return _redactions(call, wanted)


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
            parts.append(f"[{each.kind.value.lower().replace('_', ' ')}]")
        at = end
    return "".join((*parts, text[at:]))


# The call ----------------------------------------------------------------------------------------


class _Signs(NamedTuple):
    """What a segment may hold, told by its words and characters alone: never too little."""

    lower: str
    """The text in lower case, as long as it."""
    words: frozenset[str]
    """Lower case, of ASCII letters; a word with other letters may be in pieces."""
    numerals: int
    """Digits and number words, no fewer than there are."""
    light: bool
    """Whether it may stand between two parts of a number, or hold nothing but digits."""
    han: bool


def _signs(text: str) -> _Signs:
    plain = text.isascii()
    lower = _lower(text)
    listed = _ASCII_WORD.findall(lower if plain else lower.replace("’", "'"))
    words = frozenset(listed)
    numerals = len(_NUMERAL.findall(text))
    if not words.isdisjoint(_NUMERAL_WORDS):
        numerals += sum(word in _NUMERAL_WORDS for word in listed)
    light = words <= _LIGHT and (plain or _HEAVY_HAN.search(text) is None)
    return _Signs(lower, words, numerals, light, not plain)


class _Call:
    """A call's segments in order of time, with what every search needs, each worked out once."""

    def __init__(self, segments: list[Segment], language: str) -> None:
        self.segments = segments
        self.signs = [_signs(each.text) for each in segments]
        self._language = language
        self._tokens: dict[int, list[Token]] = {}
        self._cues: dict[int, list[_Cue]] = {}
        self._chinese: dict[str, bool] = {}

    def tokens(self, number: int) -> list[Token]:
        found = self._tokens.get(number)
        if found is None:
            found = self._tokens[number] = tokenize(number, self.segments[number].text)
        return found

    @cached_property
    def slight(self) -> list[bool]:
        return [
            sign.light and _slight(self.tokens(number)) for number, sign in enumerate(self.signs)
        ]

    @cached_property
    def stretches(self) -> list[list[Token]]:
        return _stretches(self)

    def cues(self, number: int) -> list[_Cue]:
        found = self._cues.get(number)
        if found is None:
            found = self._cues[number] = _cues(self.segments[number].text, self.signs[number])
        return found

    def mail_asked(self, number: int) -> bool:
        """Whether e-mail is spoken of in that segment or the three before."""
        return any(self._mail[max(number - 3, 0) : number + 1])

    @cached_property
    def _mail(self) -> list[bool]:
        return [_MAIL_CUE.search(each.text) is not None for each in self.segments]

    def han_is_chinese(self, number: int) -> bool:
        """False in Japanese and Korean, whose Han characters are no Chinese names."""
        own = self.segments[number].language
        known = self._chinese.get(own)
        if known is None:
            said = own if own not in ("", "und") else self._language
            known = said.lower().partition("-")[0] not in ("ja", "ko")
            self._chinese[own] = known
        return known


class _Span(NamedTuple):
    kind: PiiKind
    parts: tuple[tuple[int, int, int], ...]
    """(segment, start, end), one for each segment it touches."""


def _span(kind: PiiKind, tokens: Sequence[Token]) -> _Span:
    """From the first token to the last of them, in each segment."""
    parts: list[tuple[int, int, int]] = []
    for each in tokens:
        if each.kind == "b":
            continue
        if parts and parts[-1][0] == each.segment:
            parts[-1] = (each.segment, parts[-1][1], each.end)
        else:
            parts.append((each.segment, each.start, each.end))
    return _Span(kind, tuple(parts))


def _keeps(call: _Call, span: _Span, policy: Policy) -> bool:
    if not policy.keep:
        return False
    text = " ".join(call.segments[n].text[start:end] for n, start, end in span.parts)
    said = (
        "".join(a.digits for a in digit_groups(tokenize(0, text))) if span.kind in _NUMERIC else ""
    )
    return _kept(text) in policy.keep or said in policy.keep


def _redactions(call: _Call, spans: Iterable[_Span]) -> list[Redaction]:
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


# Said around digits ------------------------------------------------------------------------------

# After one of these, what was said before does not count.
_CORRECTIONS = frozenset(("sorry", "no", "wait", "actually", "correction", "oops", "错", "不"))
_BACKCHANNELS = (
    FILLERS
    | word_set(
        """mhm uh-huh huh mmhmm sure go ahead on got it perfect great thanks thank you alright all
    please continue carry first last yep yup go what's"""
    )
    | frozenset("行您说请继续讲收到明白哎诶知道可以慢往没错记下")
)
_MOST_BACKCHANNEL = 12
_MOST_ECHO = 32
# Stretches: what one speaker says, over segments --------------------------------------------------


def _stretches(call: _Call) -> list[list[Token]]:
    """Tokens of consecutive segments of a speaker, where the others at most say `okay` or echo.

    Only of segments that may hold part of a number or an e-mail.
    """
    wanted: set[int] = set()
    chains = _chains(call.segments, call.slight)
    for chain in chains:
        wanted.update(_numeric(call, chain))
        wanted.update(_mailing(call, chain))
    found: list[list[Token]] = []
    for chain in chains:
        before: int | None = None
        for place, number in enumerate(chain):
            if number not in wanted:
                continue
            if before is None or before != place - 1:
                found.append([])
            else:
                found[-1].append(Token(chain[before], 0, 0, "b", ""))
            found[-1] += call.tokens(number)
            before = place
    return found


def _chains(segments: Sequence[Segment], slight: Sequence[bool]) -> list[list[int]]:
    """The segments of each stretch."""
    heavy = [0]
    for each in slight:
        heavy.append(heavy[-1] + (not each))
    found: list[list[int]] = []
    last: dict[tuple[str, int], list[int]] = {}
    for number, segment in enumerate(segments):
        key = (segment.speaker, segment.channel)
        chain = last.get(key)
        if (
            chain is None
            or heavy[number] - heavy[chain[-1] + 1]
            or segment.start_ms - segments[chain[-1]].end_ms > MOST_PAUSE_MS
        ):
            chain = last[key] = []
            found.append(chain)
        chain.append(number)
    return found


def _numeric(call: _Call, chain: Sequence[int]) -> Iterator[int]:
    """The segments that may hold a number of three digits, alone or with their neighbours."""
    part: list[int] = []
    numerals = 0
    for number in chain:
        sign = call.signs[number]
        if sign.numerals or sign.light:
            part.append(number)
            numerals += sign.numerals
            continue
        # No number said in one word, or with one numeral, is long enough.
        if numerals > 1:
            yield from part
        part, numerals = [], 0
    if numerals > 1:
        yield from part


def _mailing(call: _Call, chain: Sequence[int]) -> Iterator[int]:
    """The segments around an `at` after which a domain stands."""
    for place, number in enumerate(chain):
        sign = call.signs[number]
        said = "at" in sign.words or "@" in sign.lower
        if not said and not (sign.han and _AT.search(sign.lower)):
            continue
        size, last = 0, place
        domain = False
        while last < len(chain) and size < _MOST_HOST:
            there = call.segments[chain[last]].text
            domain = domain or _DOMAIN.search(there) is not None
            size += 1 if last == place else len(call.tokens(chain[last])) + 1
            last += 1
        if not domain:
            continue
        yield from chain[place:last]
        size, first = 0, place
        while first and size < _MOST_LOCAL:
            first -= 1
            yield chain[first]
            size += len(call.tokens(chain[first])) + 1


def _slight(tokens: Sequence[Token]) -> bool:
    """Whether a segment only keeps the other talking: short assent, or digits said again."""
    if len(tokens) > _MOST_ECHO:
        return False
    atoms = digit_groups(tokens)
    said = {i for atom in atoms for i in range(atom.first, atom.last + 1)}
    words = [t for i, t in enumerate(tokens) if i not in said and t.kind in "whd"]
    places = [t for t in words if t.text in ("four", "three", "two", "四", "三", "六")]
    return len(words) <= _MOST_BACKCHANNEL and all(
        t.text in _BACKCHANNELS or t in places for t in words
    )


def _runs(call: _Call, tokens: Sequence[Token], groups: Sequence[Atom]) -> Iterator[list[Atom]]:
    """Groups with nothing but fillers between them, over segments where they belong together."""
    run: list[Atom] = []
    for atom in groups:
        if run and not _only_fillers(tokens, run[-1].last + 1, atom.first):
            yield from _parted(call, tokens, run)
            run = []
        run.append(atom)
    if run:
        yield from _parted(call, tokens, run)


def _parted(call: _Call, tokens: Sequence[Token], run: Sequence[Atom]) -> Iterator[list[Atom]]:
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


def _spoken_of(call: _Call, segment: int) -> bool:
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


# What a number is --------------------------------------------------------------------------------

_NUMERIC = frozenset((PiiKind.PHONE, PiiKind.ID_NUMBER, PiiKind.CARD_NUMBER, PiiKind.NUMBER))
# What names a number, in order of precedence: the words in English (lower case), and in Mandarin.
_CUES: Mapping[str, tuple[str, str]] = {
    "short": ("cvv|cvc|security code", "安全码|背面三位"),
    "card": (
        "(?:credit|debit|visa|master ?card|amex|american express|union ?pay|discover)"
        "|cards?|long number|sixteen digits?|across the front",
        "卡号|银行卡|信用卡|储蓄卡|借记卡|[张的]卡|卡上|银联",
    ),
    "part": (
        "last (?:four|4)(?: digits)? of (?:your|my|the) (?:social|ssn)",
        "身份证号?码?的?最?后[四六]位",
    ),
    "social": ("ssn|social|social's|social security", "(?!)"),
    "id": (
        "passport|licence|license|id|i\\.d|identity|tax(?:payer)?|national insurance|medicare"
        "|identification",
        "身份证|证件|护照|驾照|驾驶证|社保|军官证|医保|通行证|税号|居住证",
    ),
    "phone": (
        "(?:tele)?phone|cell|mobile|call(?:ing)? (?:me|you|us)|reach (?:me|you)|text (?:me|you)"
        "|ring me|call ?back|landline|contact number|whatsapp|fax|dial|cell'?s|best number"
        "|area code",
        "手机|电话|座机|联系方式|打我|打这个|微信|回电|拨打?|区号|传真|来电",
    ),
    "number": (
        "account|(?<!in )order|reference|ref|tracking|confirmation|invoice|ticket|(?<!in )case"
        "|policy|booking|member(?:ship)?|serial|claim|shipment|parcel|reservation|contract|customer",
        "订单|单号|快递|工单|账号|帐号|户号|会员|流水|编号|保单|合同|运单|物流|客户号|账户",
    ),
    "any": ("number(?:'s)?", "号码|的号"),
}
_CUE = re.compile(
    rf"\b(?:{'|'.join(f'(?P<{name}>{english})' for name, (english, _) in _CUES.items())})\b"
)
_CUE_ZH = re.compile("|".join(f"(?P<{name}>{han})" for name, (_, han) in _CUES.items()))


class _Cue(NamedTuple):
    start: int
    end: int
    name: str


# One of these is in every English cue.
_CUE_WORDS = frozenset(
    re.findall("[a-z]{2,}", " ".join(english for english, _ in _CUES.values()))
).union(
    word_set("d cards mastercard unionpay taxpayer telephone calling callback membership cells")
) - word_set("of the your my me you us ing")


def _cues(text: str, sign: _Signs) -> list[_Cue]:
    found: list[_Cue] = []
    if "'" in sign.lower or "’" in sign.lower or not sign.words.isdisjoint(_CUE_WORDS):
        found += (_Cue(m.start(), m.end(), str(m.lastgroup)) for m in _CUE.finditer(sign.lower))
    if not text.isascii():
        found += (_Cue(m.start(), m.end(), str(m.lastgroup)) for m in _CUE_ZH.finditer(text))
        found.sort()
    return found


def _lower(text: str) -> str:
    """Lower case, as long as the text."""
    lower = text.lower()
    return lower if len(lower) == len(text) else "".join(c.lower()[0] for c in text)


# What signs are told by. A word of a number alone, or 一 in `一下`, says none.
_ASCII_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")
_NUMERAL_WORDS = NUMBER_WORDS | {"x", "ex"}
_NUMERAL = re.compile(rf"\d|一(?![{''.join(NO_ONE)}])|[{''.join(HAN_NUMERALS - {'一'})}叉艾]")
_LIGHT = _BACKCHANNELS | _NUMERAL_WORDS | PLACES | word_set("hundred thousand the area to too for")
_HEAVY_HAN = re.compile(
    rf"(?![{''.join(c for c in _LIGHT if not c.isascii())}{''.join(HAN_NUMERALS)}叉艾克斯])[{HAN}]"
)


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
_FEWEST_DIGITS = 3
_FEWEST_LONG = 8
_FEWEST_READ_BACK = 6


def _covered(spans: Iterable[_Span]) -> dict[int, list[tuple[int, int]]]:
    """Segment -> the stretches of it that are taken, in order."""
    taken: dict[int, list[tuple[int, int]]] = {}
    for span in spans:
        for number, start, end in span.parts:
            taken.setdefault(number, []).append((start, end))
    return {number: sorted(parts) for number, parts in taken.items()}


def _is_free(token: Token, taken: Mapping[int, Sequence[tuple[int, int]]]) -> bool:
    parts = taken.get(token.segment)
    if not parts:
        return True
    at = bisect_right(parts, (token.start, sys.maxsize)) - 1
    return at < 0 or parts[at][1] <= token.start


def _numbers(
    call: _Call, policy: Policy, taken: Mapping[int, Sequence[tuple[int, int]]]
) -> list[_Span]:
    texts = [each.text for each in call.segments]
    found: list[_Span] = []
    known: dict[str, PiiKind] = {}
    unknown: list[tuple[str, _Span]] = []
    whole: list[tuple[str, _Span]] = []
    for tokens in call.stretches:
        groups = [a for a in digit_groups(tokens, texts) if _is_free(tokens[a.first], taken)]
        for run in _runs(call, tokens, groups):
            number = "".join(atom.digits for atom in run)
            if len(number) < _FEWEST_DIGITS:
                continue
            run, number = _with_check_letter(tokens, run, number)
            kind = _kind(call, tokens, run, number, policy)
            if (again := _corrected(tokens, run)) is not None:
                better = _kind(call, tokens, again, _said(again), policy)
                if kind is None or kind is PiiKind.NUMBER or _sure(_said(again)):
                    kind = better or kind
            if kind is None:
                for part in _windows(run):
                    inner = "".join(atom.digits for atom in part)
                    if (sure := _sure(inner)) is not None:
                        found.append(_span(sure, tokens[part[0].first : part[-1].last + 1]))
                        known[inner] = sure
                if len(run) == 1 and run[0].cardinal:
                    continue
                unknown.append((number, _span(PiiKind.UNKNOWN, _stretch(tokens, run, None))))
                continue
            found.append(_span(kind, _stretch(tokens, run, kind)))
            if len(number) >= 7:
                known[number] = kind
                whole.append((number, found[-1]))
    for number, span in unknown:
        if (kind := known.get(number)) is not None:
            found.append(span._replace(kind=kind))
    found += _echoes(whole, unknown)
    secret = {n: k for n, k in known.items() if k in policy.kinds and n not in policy.keep}
    found += _read_back(secret, unknown)
    return found


def _echoes(
    whole: Sequence[tuple[str, _Span]], unknown: Sequence[tuple[str, _Span]]
) -> Iterator[_Span]:
    """Parts of a number that the other says again while it is given."""
    by_segment: dict[int, list[_Span]] = {}
    digits: dict[_Span, str] = {}
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


def _read_back(
    known: Mapping[str, PiiKind], unknown: Sequence[tuple[str, _Span]]
) -> Iterator[_Span]:
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


_BORN = FILLERS | frozenset("出生日期年月")
_MOST_PART = 40


def _dated_ids(call: _Call) -> Iterator[_Span]:
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
                yield _span(PiiKind.ID_NUMBER, tokens[low + before[0] : last + 1 + after[0] + 1])


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


def _kind(
    call: _Call, tokens: Sequence[Token], run: Sequence[Atom], number: str, policy: Policy
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
        return shape or (PiiKind.PHONE if 7 <= len(number) <= 12 else _long(number, policy))
    if cue is None:
        return shape or _long(number, policy)
    named, fewest = _NAMED[cue]
    if cue == "short":
        return named if len(number) <= 4 else shape or _long(number, policy)
    sure = _sure(number)
    if plus and not near and 8 <= len(number) <= 15:
        return PiiKind.PHONE
    if named is PiiKind.NUMBER:
        if sure is not None and not (near and PiiKind.NUMBER in policy.kinds):
            return sure
        return named if len(number) >= fewest else None
    if sure is not None and (not near or named is PiiKind.PHONE):
        return sure
    if shape is not None and not near:
        return shape
    if len(number) >= fewest:
        return named
    return shape or _long(number, policy)


def _long(number: str, policy: Policy) -> PiiKind | None:
    asked = PiiKind.NUMBER in policy.kinds and len(number) >= _FEWEST_LONG
    return PiiKind.NUMBER if asked else None


def _cue(call: _Call, first: Token, last: Token) -> tuple[str | None, bool]:
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


def _nearest(cues: Sequence[_Cue]) -> str | None:
    """The last cue; `number` alone gives way to what it is the number of."""
    for cue in reversed(cues[-4:]):
        if cue.name != "any":
            return cue.name
    return cues[-1].name if cues else None


# E-mail ------------------------------------------------------------------------------------------

_TLDS = word_set(
    """com net org edu gov co uk cn io info biz me us ca au de fr jp in eu tv app dev ai hk tw sg
    nz ie it es nl ch se no ru br mx za xyz online site shop tech mil int cc vip top"""
)
_HOSTS = word_set(
    """gmail googlemail yahoo hotmail outlook icloud aol proton protonmail live msn qq foxmail sina
    sohu aliyun 163 126 139 yeah gmx mail me ymail"""
)
_DOTS = frozenset((".", "dot", "点", "。", "．", "point", "period"))
_JOINTS = _DOTS | frozenset(
    ("_", "-", "+", "underscore", "dash", "hyphen", "minus", "plus", "杠", "#", "score")
)
_NO_HOST = word_set(
    "the a an my our your this that his her their least most all about noon home work"
)
_VERBS = word_set(
    """look looking buy bought order ordered shop visit online website page available sign found
    check log see find us it"""
)
_MAIL_CUE = re.compile(r"\be-?\s?mail|邮箱|邮件|伊妹儿", re.IGNORECASE)
_SPOKEN_DIGITS = frozenset((*ONES, *TEENS, *DECADES, *REPEATS, *OH))
_PASSED_OVER = frozenset(("uh", "um", "er", "，", ",", "、", *"后面然再加接着"))
_SPELLED = frozenset(("spelled", "spelt", "spelling"))
_REMARKS = frozenset(
    ("all one word", "one word", "all lower case", "all lowercase", "lower case", "lowercase",
     "no spaces", "no space", "all together", "all small", "altogether")
)  # fmt: skip
_MOST_LOCAL = 48
_MOST_HOST = 32
_AT = re.compile("[@＠艾圈]")
_DOMAIN = re.compile(
    r"[@＠]|[.．。](?=\w)|(?:点|\b(?:dot|point|period)\b)\s*"
    rf"(?:$|(?:[a-z]|{'|'.join(sorted(_TLDS))})(?!{LETTER}))",
    re.IGNORECASE,
)


def _emails(call: _Call) -> list[_Span]:
    found: list[_Span] = []
    for tokens in call.stretches:
        free = 0
        for at, token in enumerate(tokens):
            if at < free:
                continue
            last_at = at
            after = tokens[at + 1].text if at + 1 < len(tokens) else ""
            if (token.text, after) in (("艾", "特"), ("圈", "a")):
                last_at = at + 1
            elif token.text not in ("@", "at", "＠"):
                continue
            end = _host(tokens, last_at + 1, written=token.kind == "p")
            if end is None:
                continue
            first = _local(tokens, at, free)
            if first == at:
                if not call.mail_asked(token.segment):
                    continue
            elif token.text == "at" and not _is_mail(call, tokens, first, at, last_at + 1):
                continue
            found.append(_span(PiiKind.EMAIL, tokens[first:end]))
            free = end
    return found


def _is_mail(call: _Call, tokens: Sequence[Token], first: int, at: int, host: int) -> bool:
    """`look at acme dot com` is none; whatever is at a mail provider is one."""
    if tokens[host].text in _HOSTS or tokens[at - 1].text not in _VERBS:
        return True
    return first < at - 1 or call.mail_asked(tokens[at].segment)


def _host(tokens: Sequence[Token], at: int, written: bool) -> int | None:
    """The token after the domain that starts at `at`; None where there is none."""
    size = len(tokens)
    start = at
    label = 0
    dots = 0
    end: int | None = None
    while at < size and at < start + _MOST_HOST:
        token = tokens[at]
        if token.text in _DOTS:
            if not label:
                break
            if token.text in ".。．" and at + 1 < size and tokens[at + 1].start != token.end:
                break
            touching = token.text == "." and at > start and tokens[at - 1].end == token.start
            tld = _tld(tokens, at + 1, listed=not (written and touching))
            if tld is not None:
                end, label, at, dots = tld, 1, tld, dots + 1
                continue
            label = 0
            dots += 1
        elif token.kind == "b":
            pass
        elif end is not None:
            break
        elif token.text in ("-", "dash", "hyphen") and label:
            pass
        elif token.kind in "wd" or token.text in HAN_DIGITS:
            if token.text in _NO_HOST and not dots and not written:
                return None
            label += 1
            if label > 8:
                break
        elif token.text not in "，, ":
            break
        at += 1
    if end is None and written and start < size and tokens[start].text in _HOSTS:
        return start + 1
    return end


def _tld(tokens: Sequence[Token], at: int, listed: bool) -> int | None:
    """The token after a top-level domain, as a word or spelled; not `listed`: any two letters."""
    if not listed and at < len(tokens) and tokens[at].kind == "w":
        label = tokens[at].text
        if len(label) > 1 and label.isalpha():
            return at + 1
    while at < len(tokens) and tokens[at].kind == "b":
        at += 1
    if at < len(tokens) and tokens[at].text in _TLDS:
        return at + 1
    spelled = ""
    for place in range(at, min(at + 3, len(tokens))):
        if len(tokens[place].text) != 1 or tokens[place].kind != "w":
            break
        spelled += tokens[place].text
        if spelled in _TLDS and len(spelled) > 1:
            return place + 1
    return None


def _local(tokens: Sequence[Token], at: int, floor: int) -> int:
    """The first token of the local part that ends before `at`."""
    lowest = max(floor, at - _MOST_LOCAL)
    place = _before_remark(tokens, at - 1, lowest)
    first = at
    words = 0
    while place >= lowest:
        token = tokens[place]
        right = tokens[place + 1]
        touching = token.segment == right.segment and token.end == right.start
        single = len(token.text) == 1 and token.kind in "wd"
        joined = right.text in _JOINTS and right.kind != "b"
        if token.kind == "b" or token.text in _PASSED_OVER:
            if (
                token.text in (",", "，", "、")
                and first == place + 1
                and first < at
                and tokens[place - 1].text not in _SPELLED
                and not (digit_of(right) is not None or len(right.text) == 1)
            ):
                break
            place -= 1
            continue
        if token.text in _SPELLED:
            # `zhao, spelled z h a o`: the word is said before.
            words = 0
        elif token.text in _JOINTS:
            if token.text in ".。" and not touching:
                break
            first = place
        elif (
            (token.text == "个" and right.text in HAN_DIGITS)
            or token.text in ("划", "线")
            or (token.text == "下" and right.text == "划")
            or token.text in HAN_DIGITS
            or token.kind == "d"
            or single
        ):
            first = place
        elif token.kind == "w":
            if token.text in _SPOKEN_DIGITS:
                first = place
            elif (touching and right.kind != "h") or joined:
                if token.text in PLAIN_WORDS and not touching:
                    break
                first = place
                words += 1
            elif token.text in PLAIN_WORDS or words >= 2:
                break
            else:
                first = place
                words += 1
        else:
            break
        place -= 1
    while first < at and tokens[first].text in _JOINTS:
        first += 1
    return first


def _before_remark(tokens: Sequence[Token], place: int, lowest: int) -> int:
    """The last token at or before `place` that is no `all one word`, `lower case`, `no spaces`."""
    at = place
    while at >= lowest and (tokens[at].kind == "b" or tokens[at].text in ",，、."):
        at -= 1
    for size in (3, 2, 1):
        start = at - size + 1
        if start > lowest and " ".join(t.text for t in tokens[start : at + 1]) in _REMARKS:
            return _before_remark(tokens, start - 1, lowest)
    return place


# Addresses ----------------------------------------------------------------------------------------


_QUESTION_OF_PLACE = 2


def _addresses(call: _Call) -> list[_Span]:
    found: list[_Span] = []
    for number, sign in enumerate(call.signs):
        if not sign.numerals:
            continue
        text = call.segments[number].text
        spans: list[tuple[int, int]] = []
        near = call.signs[max(number - _QUESTION_OF_PLACE, 0) : number + 1]
        asked = any(
            not each.words.isdisjoint(PLACE_WORDS) and MAIL_TO.search(each.lower) for each in near
        )
        if asked or not sign.words.isdisjoint(STREETS):
            spans += streets(text, call.tokens(number), asked)
        if "box" in sign.words:
            spans += boxes(text, sign.lower, call.tokens(number))
        if sign.han and call.han_is_chinese(number):
            spans += chinese_addresses(text)
        found += [_Span(PiiKind.ADDRESS, ((number, start, end),)) for start, end in spans]
    return found


# Names --------------------------------------------------------------------------------------------


def _names(call: _Call, given: Sequence[str]) -> list[_Span]:
    found: list[tuple[int, int, int]] = []
    spelling = -2
    told: set[str] = set()
    """Names beyond doubt, looked for in the whole call."""
    for number, sign in enumerate(call.signs):
        text = call.segments[number].text
        asked = _name_asked(call, number)
        if asked or may_name(text, sign.words):
            for start, end, sure in english_names(text, call.tokens(number), asked):
                found.append((number, start, end))
                if sure:
                    told.update(name_parts(text[start:end]))
        named = "name" in sign.lower or "spell" in sign.lower
        if named and SPELLING.search(sign.lower):
            spelling = number
        if spelling >= number - 1 and SPELT.search(text):
            found += ((number, start, end) for start, end in spelled(call.tokens(number)))
        if sign.han and call.han_is_chinese(number):
            for start, end, sure in chinese_names(text, asked):
                found.append((number, start, end))
                if sure and end - start > 1:
                    told.add(text[start:end])
    for name in given:
        if of_person(name):
            told.update(name_parts(name))
        told.add(" ".join(name.split()).casefold())
    found += _mentions(call, {name for name in told if len(name) > 1})
    return [_Span(PiiKind.NAME, (each,)) for each in found]


_MOST_HAN_NAME = 8


def _mentions(call: _Call, told: set[str]) -> Iterator[tuple[int, int, int]]:
    """Every place of names known; whole words in alphabetic scripts."""
    if not told:
        return
    han = {name for name in told if is_han(name[0])}
    sizes = sorted({len(name) for name in han if len(name) <= _MOST_HAN_NAME}, reverse=True)
    words = {name for name in told - han if " " not in name}
    full: dict[str, list[tuple[str, ...]]] = {}
    for name in sorted(told - han - words):
        full.setdefault(name.split()[0], []).append(tuple(name.split()))
    openings = words | {f"{word}'s" for word in words} | set(full)
    first_han = re.compile("|".join(sorted({re.escape(name[0]) for name in han}) or ["(?!)"]))
    for number, sign in enumerate(call.signs):
        text = call.segments[number].text
        # A name with letters beyond ASCII is in pieces among the words.
        latin = bool(openings) and (sign.han or not openings.isdisjoint(sign.words))
        if not latin and not (sign.han and first_han.search(text)):
            continue
        tokens = call.tokens(number)
        for at, token in enumerate(tokens):
            if token.kind == "h":
                for size in sizes:
                    if text[token.start : token.start + size] in han:
                        yield number, token.start, token.start + size
            elif token.kind == "w":
                if token.text.removesuffix("'s") in words:
                    end = token.end - 2 if token.text.endswith("'s") else token.end
                    yield number, token.start, end
                for parts in full.get(token.text, ()):
                    if tuple(t.text for t in tokens[at : at + len(parts)]) == parts:
                        yield number, token.start, tokens[at + len(parts) - 1].end


def _name_asked(call: _Call, number: int) -> bool:
    """Whether the segment before, by another, asks for a name."""
    segments = call.segments
    if not number or segments[number - 1].speaker == segments[number].speaker:
        return False
    sign = call.signs[number - 1]
    if not sign.han and not any(word in sign.lower for word in ASKING):
        return False
    return NAME_QUESTION.search(segments[number - 1].text) is not None
