"""Postal addresses in what was said: streets with house numbers, boxes, 路, 村, 楼 and 室."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

from schemas.events import PiiKind
from services.enrich.numerals import HAN, LETTER, Atom, Token, digit_groups, is_han, word_set
from services.enrich.pii_call import Call, Span

STREETS = word_set(
    """street avenue road lane drive boulevard court place way circle terrace highway parkway
    square st ave rd ln dr blvd ct pl hwy pkwy ter cir close crescent broadway row mews gardens
    grove hill walk rise alley plaza loop trail turnpike quay wharf esplanade promenade park heights
    green gate view"""
)
# Words of everyday talk as well: count as a street with a capital letter before them.
_LOOSE_STREETS = word_set(
    """drive court place way circle square close dr broadway row gardens grove hill walk rise plaza
    loop trail park heights green gate view"""
)
_NO_STREET_WORD = word_set(
    """hour hours minute minutes day days mile miles year years people on the in a of to at and or
    is was for from i you we it that this with my your our his her one way per cent percent
    dollars dollar more"""
)
_UNIT_WORDS = word_set("apartment apt unit suite flat room floor number #")
# One of these is in all that _MAIL_TO matches.
_PLACE_WORDS = word_set(
    """address live lives lived living ship shipped shipping send sent sending deliver delivered
    delivering mail mailed mailing bring bringing located move moved moving place have residence
    where"""
)
_MAIL_TO = re.compile(
    r"\b(?:address|live[sd]? (?:at|on|in)|liv(?:e|ing) (?:at|on)"
    r"|(?:ship|sen[dt]|deliver|mail|bring)(?:p?ed|p?ing)? (?:it |them |that |this )?to|located at"
    r"|mov(?:ed|ing) to|place is|have you at|residence|where (?:do|are) you (?:live|living|located)"
    r"|where (?:should|shall|do|can) (?:we|i) (?:ship|send|deliver))\b"
)
_MOST_STREET = 5
_QUESTION_OF_PLACE = 2
_BOX = re.compile(r"\b(?:p\.?\s?o\.?|post(?:al)? office)\s?box\b(?: number)?")
_POSTCODE = re.compile(r"[,\s]{0,2}\b(?:[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}|\d{5}(?:-\d{4})?)\b")
_TOWN = re.compile(
    rf",? [A-Z](?:{LETTER}|['’-]){{1,20}}(?: [A-Z](?:{LETTER}|['’-]){{1,20}}){{0,2}}(?!\w)"
)


def find_addresses(call: Call) -> list[Span]:
    found: list[Span] = []
    for number, sign in enumerate(call.signs):
        if not sign.numerals:
            continue
        text = call.segments[number].text
        spans: list[tuple[int, int]] = []
        near = call.signs[max(number - _QUESTION_OF_PLACE, 0) : number + 1]
        asked = any(
            not each.words.isdisjoint(_PLACE_WORDS) and _MAIL_TO.search(each.lower) for each in near
        )
        if asked or not sign.words.isdisjoint(STREETS):
            spans += streets(text, call.tokens(number), asked)
        if "box" in sign.words:
            spans += boxes(text, sign.lower, call.tokens(number))
        if sign.han and call.han_is_chinese(number):
            spans += _chinese_addresses(text)
        found += [Span(PiiKind.ADDRESS, ((number, start, end),)) for start, end in spans]
    return found


def boxes(text: str, lower: str, tokens: Sequence[Token]) -> Iterator[tuple[int, int]]:
    groups = digit_groups(tokens)
    starts = [tokens[atom.first].start for atom in groups]
    for match in _BOX.finditer(lower):
        last = -1
        for place in range(bisect_left(starts, match.end()), len(groups)):
            atom = groups[place]
            first = last + 1 if last >= 0 else bisect_left(tokens, match.end(), key=_start)
            if atom.first != first:
                break
            last = atom.last
        if last >= 0:
            yield match.start(), _after_street(text, tokens, last + 1)


def _start(token: Token) -> int:
    return token.start


def streets(text: str, tokens: Sequence[Token], asked: bool) -> Iterator[tuple[int, int]]:
    """House number, up to five words, and a word for street; then flat, town, state and code."""
    atoms = [atom for atom in digit_groups(tokens) if not atom.cardinal]
    if not atoms:
        return
    ends = {atom.last: atom for atom in atoms}
    # In a text without capital letters no street has one.
    strict = not asked and not text[1:].islower()
    at = 0
    while at < len(tokens):
        token = tokens[at]
        start: int | None = None
        after = at + 1
        if token.text in STREETS and token.kind == "w":
            start = _house(text, tokens, ends, at, asked, strict)
        if start is None:
            at += 1
            continue
        if after < len(tokens) and tokens[after].text == "." and token.text in ("st", "ave", "rd"):
            after += 1
        end = _after_street(text, tokens, after)
        yield tokens[start].start, end
        while at < len(tokens) and tokens[at].start < end:
            at += 1
    if asked:
        yield from _named_houses(text, tokens, atoms)


def _house(
    text: str,
    tokens: Sequence[Token],
    ends: Mapping[int, Atom],
    street: int,
    asked: bool,
    strict: bool,
) -> int | None:
    """The first token of the house number before the street at `street`.

    `strict`: a word of everyday talk is a street only with capital letters before it.
    """
    loose = strict and tokens[street].text in _LOOSE_STREETS
    for place in range(street - 1, max(street - 1 - _MOST_STREET, -1), -1):
        atom = ends.get(place)
        if atom is not None and place < street - 1:
            first = atom
            for _ in range(_MOST_STREET):
                first = ends.get(first.first - 1, first)
            written = tokens[first.first].kind == "d"
            if not written and atom is first and not asked:
                return None
            flat = first.first - 1
            while flat > 0 and flat > first.first - 4 and tokens[flat].text in ",":
                flat -= 1
            if flat >= 1 and tokens[flat - 1].text in _UNIT_WORDS and tokens[flat].kind in "dw":
                return flat - 1
            return first.first
        token = tokens[place]
        if token.kind != "w" or token.text in _NO_STREET_WORD:
            return None
        if loose and not text[token.start].isupper():
            return None
    return None


def _after_street(text: str, tokens: Sequence[Token], at: int) -> int:
    """Where an address ends whose street ends before token `at`."""
    end = tokens[at - 1].end
    nxt = at
    while nxt < len(tokens) and tokens[nxt].text in (",", "#"):
        nxt += 1
    if nxt + 1 < len(tokens) and tokens[nxt].text in _UNIT_WORDS:
        last = nxt + 1
        while (
            last + 1 < len(tokens)
            and tokens[last + 1].start == tokens[last].end
            and (tokens[last + 1].kind in "dw")
        ):
            last += 1
        end = tokens[last].end
    elif nxt > at and tokens[nxt - 1].text == "#" and nxt < len(tokens):
        end = tokens[nxt].end
    for _ in range(2):
        if (town := _TOWN.match(text, end)) is not None and "," in town[0]:
            end = town.end()
        if (code := _POSTCODE.match(text, end)) is not None:
            return code.end()
    return end


def _named_houses(
    text: str, tokens: Sequence[Token], atoms: Sequence[Atom]
) -> Iterator[tuple[int, int]]:
    """Where an address is spoken of: a number and at least two words with capital letters."""
    for atom in atoms:
        if tokens[atom.first].kind != "d" or len(atom.digits) > 5:
            continue
        last = atom.last
        while last + 1 < len(tokens) and last < atom.last + _MOST_STREET:
            token = tokens[last + 1]
            if token.kind != "w" or not text[token.start].isupper():
                break
            last += 1
        town = last + 2 < len(tokens) and tokens[last + 1].text == ","
        town = town and text[tokens[last + 2].start].isupper()
        if last >= atom.last + (1 if town else 2):
            yield tokens[atom.first].start, _after_street(text, tokens, last + 1)


_N = "[0-9０-９零〇一幺二两三四五六七八九十百]{1,8}"
_UNIT_ZH = "(?:号楼|号院|号|弄|栋|幢|座|组|单元)"
_STREET_ZH = re.compile(
    rf"(?:大道|道|路|街|巷|弄|胡同|小区|花园|公寓|大厦|广场|村|苑|新城|园|里|组|塔|湾|庄|屯|寨|坊|院|城)"
    rf"(?:[东西南北中]段?|头|口)?{_N}{_UNIT_ZH}"
    rf"|(?:大厦|大楼|公寓|写字楼)(?:[A-Za-z]座)?{_N}(?:楼|层|室|号)|(?:大厦|大楼|公寓|小区)[A-Za-z]座"
    rf"|邮政信箱{_N}号?|[村镇乡庄屯]{_N}[组队社](?:{_N}[号户])?"
    rf"|(?<![0-9]){_N}(?:号楼|栋|幢)(?:{_N}单元)?{_N}(?:室|号|户)?(?!{_N}|[个位元块岁])"
)
_MORE_ZH = re.compile(
    rf"[，,]?[{HAN}]{{0,8}}?(?:{_N}(?:号楼|号院|号|弄|栋|幢|座|单元|室|层|楼|户)|[A-Za-z]座)"
    rf"|[零〇一幺二两三四五六七八九0-9]{{3,4}}(?![0-9零〇一幺二两三四五六七八九])"
)
_BEFORE_ZH = frozenset("在是到寄住送址于去给往叫搬发退换对说这那您你我他她了吗吧呢")
_MOST_BEFORE = 24


def _chinese_addresses(text: str) -> Iterator[tuple[int, int]]:
    at = 0
    while (match := _STREET_ZH.search(text, at)) is not None:
        start = match.start()
        lowest = max(at, start - _MOST_BEFORE)
        while start > lowest and _in_place_name(text[start - 1]):
            start -= 1
        end = match.end()
        for _ in range(6):
            if (more := _MORE_ZH.match(text, end)) is None:
                break
            end = more.end()
        if start < match.start() or _NUMBERED_ZH.match(text, start):
            yield start, end
        at = end


_NUMBERED_ZH = re.compile(rf"邮政|{_N}(?:号楼|栋|幢)")


def _in_place_name(c: str) -> bool:
    return (is_han(c) and c not in _BEFORE_ZH) or (c.isascii() and c.isalpha())
