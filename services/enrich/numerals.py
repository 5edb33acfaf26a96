"""Digits in what was said: written and spoken, English and Mandarin, as groups over tokens.

Every function is one pass over the tokens, or bounded on both sides.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

HAN = "〇㐀-䶿一-鿿豈-﫿𠀀-𯨟"
LETTER = rf"[^\W\d_{HAN}]"


def word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TOKEN = re.compile(
    rf"(?P<d>\d+)|(?P<h>[{HAN}])|(?P<w>{LETTER}+(?:['’]{LETTER}+)*)|(?P<p>[^\s\w]|_)|\S"
)


class Token(NamedTuple):
    segment: int
    """Index in the call's order of time; the token after the last of a segment is a boundary."""
    start: int
    end: int
    kind: str
    """d: digits, h: a Han character, w: a word, p: punctuation, b: a boundary."""
    text: str
    """Lower case; digits as ASCII."""


def digits_of(text: str) -> str:
    return "".join(str(unicodedata.decimal(c)) for c in text if c.isdecimal())


def tokenize(number: int, text: str) -> list[Token]:
    found: list[Token] = []
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "p"
        raw = match[0]
        if kind == "d" and not raw.isascii():
            raw = digits_of(raw)
        found.append(Token(number, match.start(), match.end(), kind, raw.lower().replace("’", "'")))
    return found


# Said between digits.
FILLERS = word_set(
    """uh uhh um umm er erm ah hmm hm mm and then next so okay ok well like that's thats it's its
    is are dash hyphen space minus plus pause comma sorry wait let me see number digits numbers
    area code followed after again yeah yes right now no i mean actually point first middle
    last final finally next part group rest ends ending starts starting with correction oops"""
) | frozenset(
    "嗯呃啊哦噢唔额那个然后再是就对接着杠横短空格减加面前中间最呢吧哈下来号区位有了好的"
    "后头末尾开部分段组第不错说应该改"
)

ONES = {
    "zero": "0", "nought": "0", "naught": "0", "one": "1", "two": "2", "three": "3", "four": "4",
    "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
}  # fmt: skip
TEENS = {
    "ten": "10", "eleven": "11", "twelve": "12", "thirteen": "13", "fourteen": "14",
    "fifteen": "15", "sixteen": "16", "seventeen": "17", "eighteen": "18", "nineteen": "19",
}  # fmt: skip
DECADES = {
    "twenty": 20, "thirty": 30, "forty": 40, "fourty": 40, "fifty": 50, "sixty": 60, "seventy": 70,
    "eighty": 80, "ninety": 90,
}  # fmt: skip
REPEATS = {"double": 2, "triple": 3, "treble": 3, "quadruple": 4}
OH = frozenset(("oh", "o"))
# As engines write digits between digits.
_SOUNDS = {"to": "2", "too": "2", "for": "4", "fore": "4", "ate": "8"}
# Every number said in English opens with one of these, but for one after digits (`_SOUNDS`).
NUMBER_WORDS = frozenset((*ONES, *TEENS, *DECADES, *REPEATS, *OH))
_OPENINGS = NUMBER_WORDS | frozenset(_SOUNDS)
HAN_DIGITS = dict(
    zip("零〇一幺二两三四五六七八九壹贰叁肆伍陆柒捌玖", "0011223456789123456789", strict=True)
)
_HAN_UNITS = {"十": 10, "百": 100, "千": 1_000}
_HAN_LARGE = {"万": 10_000, "亿": 100_000_000}
HAN_NUMERALS = frozenset((*HAN_DIGITS, *_HAN_UNITS, *_HAN_LARGE))
# `一下`, `一个`: no digit.
NO_ONE = frozenset("下个些般点样起定直共切边")
PLACES = frozenset(("last", "first", "next", "final", "other", "middle"))
_FEW = frozenset(("two", "three", "four", "five", "six", "2", "3", "4", "5", "6"))

_UNITS = word_set(
    """dollars dollar bucks cents pounds euros yuan percent minutes minute hours hour days day
    weeks months years year seconds am pm a.m p.m o'clock people items pieces pieces megabits
    gigabytes gigs square feet inches miles times business nights steps hundred thousand million"""
) | frozenset(
    "%块元毛角年月日点分秒时岁个件箱瓶层楼室栋单台次天周人公斤寸折倍位期"
    "米克兆万千百本张份条路套只级步"
)
_MONEY = frozenset("$£€¥￥")
_AMOUNT = re.compile(
    r"\d{1,3}(?:,\d{3}){1,5}(?:\.\d{1,4})?(?!\d|[-.,]\d)"
    r"|\d{1,7}\.\d{1,2}(?!\d|[-.]\d)"
    r"|(?:19|20)\d\d([-/.])\d{1,2}\1\d{1,2}(?!\d|[-.]\d)"
    r"|[0-3]?\d([-/.])[0-3]?\d\2(?:19|20)\d\d(?!\d|[-.]\d)"
    r"|[0-3]?\d/[0-3]?\d/\d\d(?![\d/])"
    r"|\d{1,2}:\d\d(?::\d\d)?(?!\d)"
    r"|(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.-])"
)


class Atom(NamedTuple):
    first: int
    """Index of its first token in the stretch."""
    last: int
    digits: str
    cardinal: bool
    """Said as a quantity, as `twelve hundred`."""


def digit_groups(tokens: Sequence[Token], texts: Sequence[str] | None = None) -> list[Atom]:
    """Every group of digits, written or said, but prices, dates, times and quantities."""
    found: list[Atom] = []
    at, size = 0, len(tokens)
    while at < size:
        kind, text = tokens[at].kind, tokens[at].text
        if (text in PLACES or kind in "hd") and (skip := counted(tokens, at)):
            at = skip
            continue
        atom: Atom | None = None
        if kind == "d":
            if texts is not None and (amount := _amount(tokens, at, texts)):
                at = amount
                continue
            atom = _repeated(tokens, at) or Atom(at, at, text, False)
        elif kind == "w":
            if text in _OPENINGS:
                inside = bool(found) and _only_hesitation(tokens, found[-1].last + 1, at)
                atom = _english(tokens, at, inside)
        elif kind == "h" and text in HAN_NUMERALS:
            if at and tokens[at - 1].text in "第每" and tokens[at - 1].kind == "h":
                while at < size and tokens[at].text in HAN_NUMERALS:
                    at += 1
                continue
            atom = _repeated(tokens, at)
            if atom is None:
                group, at = _mandarin(tokens, at)
                found += group
                _drop_quantity(found, tokens, at)
                continue
        if atom is None:
            at += 1
            continue
        found.append(atom)
        at = atom.last + 1
        _drop_quantity(found, tokens, at)
    return found


def _only_hesitation(tokens: Sequence[Token], start: int, end: int) -> bool:
    """Whether a digit goes on at `end`: no end of a sentence between, and no other word."""
    texts = [token.text for token in tokens[start:end]] if end - start <= 6 else ["?"]
    return all(text in (",", "-", ".", "…", "uh", "um", "er") for text in texts) and texts != ["."]


def _drop_quantity(found: list[Atom], tokens: Sequence[Token], at: int) -> None:
    """Takes back the last group where a unit stands at `at`: `2026 年` is no part of a number."""
    if not found or found[-1].last != at - 1 or at >= len(tokens):
        return
    if tokens[at].text not in _UNITS:
        return
    after = tokens[at + 1].text if at + 1 < len(tokens) else ""
    if (tokens[at].text == "个" and after in HAN_DIGITS) or (tokens[at].text + after == "分机"):
        return
    first, size = len(found), 0
    while first and size <= 6:
        atom = found[first - 1]
        if first < len(found) and not _touch(tokens, atom.last, found[first].first):
            break
        size += len(atom.digits)
        first -= 1
    if size <= 6:
        del found[first:]


def _touch(tokens: Sequence[Token], last: int, first: int) -> bool:
    """Whether nothing parts two atoms, or one `-` or `.` without a space."""
    if first != last + 2:
        return first == last + 1
    mark = tokens[last + 1]
    near = tokens[last].end == mark.start and mark.end == tokens[first].start
    return near and mark.text in ("-", ".")


def _amount(tokens: Sequence[Token], at: int, texts: Sequence[str]) -> int | None:
    """The token after a price, date, time or ordinal that starts at `at`; None where none does."""
    token = tokens[at]
    text = texts[token.segment]
    before = text[token.start - 1] if token.start else " "
    if before in "-./+" and token.start > 1 and text[token.start - 2].isdecimal():
        return None
    end: int | None = None
    if (match := _AMOUNT.match(text, token.start)) is not None:
        end = match.end()
    elif text[max(token.start - 2, 0) : token.start].strip()[-1:] in _MONEY:
        end = token.end
    elif text[token.end : token.end + 2].lower() in ("st", "nd", "rd", "th"):
        end = token.end + 2
    if end is None:
        return None
    while at < len(tokens) and tokens[at].segment == token.segment and tokens[at].start < end:
        at += 1
    return at


def counted(tokens: Sequence[Token], at: int) -> int | None:
    """The token after `last four`, `first three digits`, 四位: they count digits and are none."""
    nxt = at + 1
    if nxt >= len(tokens):
        return None
    if tokens[at].kind == "w":
        few = tokens[at].text in PLACES and tokens[nxt].text in _FEW
        return nxt + 1 if few else None
    return nxt + 1 if tokens[nxt].text == "位" and digit_of(tokens[at]) is not None else None


def digit_of(token: Token) -> str | None:
    """The one digit that a token says."""
    if token.kind == "d":
        return token.text if len(token.text) == 1 else None
    if token.kind == "h":
        return HAN_DIGITS.get(token.text)
    return ONES.get(token.text) or ("0" if token.text in OH else None)


def _repeated(tokens: Sequence[Token], at: int) -> Atom | None:
    """`三个八`: a digit so many times."""
    if at + 2 >= len(tokens) or tokens[at + 1].text != "个":
        return None
    times, digit = digit_of(tokens[at]), digit_of(tokens[at + 2])
    if times is None or digit is None or not 2 <= int(times) <= 9 or tokens[at + 2].kind == "w":
        return None
    if at + 3 < len(tokens) and tokens[at + 3].text in ("十", "百", "千", "万"):
        return None
    return Atom(at, at + 2, digit * int(times), False)


def _english(tokens: Sequence[Token], at: int, inside: bool) -> Atom | None:
    """The number said at `at`; `inside`: a digit stands right before it."""
    text = tokens[at].text
    after = tokens[at + 1] if at + 1 < len(tokens) else None
    if text in REPEATS:
        if after is not None and (digit := digit_of(after)) is not None:
            return Atom(at, at + 1, digit * REPEATS[text], False)
        return None
    if text in OH:
        near = after is not None and (digit_of(after) is not None or after.text in REPEATS)
        return Atom(at, at, "0", False) if inside or near else None
    if text in _SOUNDS:
        near = after is not None and after.kind == "w" and after.text in ONES
        said = inside and tokens[at - 1].kind == "w"
        return Atom(at, at, _SOUNDS[text], False) if near and said else None
    value, last = _below_hundred(tokens, at)
    if value is None:
        return None
    if last + 1 >= len(tokens) or tokens[last + 1].text not in ("hundred", "thousand"):
        return Atom(at, last, value, False)
    total, last = _hundreds(tokens, int(value), last)
    if last + 1 < len(tokens) and tokens[last + 1].text == "thousand":
        total, last = total * 1_000, last + 1
        more, end = _after_thousand(tokens, last + 1)
        if more:
            total, last = total + more, end
    return Atom(at, last, str(total), True)


def _below_hundred(tokens: Sequence[Token], at: int) -> tuple[str | None, int]:
    """The number of one or two digits at `at`, and its last token."""
    text = tokens[at].text
    if (said := ONES.get(text) or TEENS.get(text)) is not None:
        return said, at
    if (decade := DECADES.get(text)) is None:
        return None, at
    nxt = at + 1
    if nxt < len(tokens) and tokens[nxt].text == "-" and tokens[nxt].start == tokens[at].end:
        nxt += 1
    if nxt < len(tokens) and (unit := ONES.get(tokens[nxt].text, "0")) != "0":
        return str(decade + int(unit)), nxt
    return str(decade), at


def _hundreds(tokens: Sequence[Token], value: int, last: int) -> tuple[int, int]:
    """`value`, times a hundred and what is added to that where `hundred` follows `last`.

    A digit alone is not added: `eight hundred five five five` goes on with fives.
    """
    if last + 1 >= len(tokens) or tokens[last + 1].text != "hundred":
        return value, last
    value, last = value * 100, last + 1
    joined = last + 1 < len(tokens) and tokens[last + 1].text == "and"
    nxt = last + 1 + joined
    if nxt < len(tokens) and (joined or tokens[nxt].text in TEENS or tokens[nxt].text in DECADES):
        more, end = _below_hundred(tokens, nxt)
        if more is not None:
            return value + int(more), end
    return value, last


def _after_thousand(tokens: Sequence[Token], at: int) -> tuple[int, int]:
    """What `two hundred and fifty` or `and five` adds, and its last token; 0 where nothing."""
    joined = at < len(tokens) and tokens[at].text == "and"
    nxt = at + joined
    if nxt >= len(tokens) or tokens[nxt].kind != "w":
        return 0, at
    value, last = _below_hundred(tokens, nxt)
    if value is None:
        return 0, at
    if last + 1 < len(tokens) and tokens[last + 1].text == "hundred":
        return _hundreds(tokens, int(value), last)
    return (int(value), last) if joined or int(value) >= 10 else (0, at)


def _mandarin(tokens: Sequence[Token], at: int) -> tuple[list[Atom], int]:
    """The atoms of the numerals from `at` on, and the token after them."""
    end = at
    while end < len(tokens) and tokens[end].kind == "h" and tokens[end].text in HAN_NUMERALS:
        end += 1
        if (
            end + 1 < len(tokens)
            and tokens[end].text == "个"
            and tokens[end + 1].text in HAN_DIGITS
        ):
            end -= 1  # `…三个八`: the three is no digit of its own
            break
    end = max(end, at + 1)
    alone = end == at + 1 and tokens[at].text == "一" and end < len(tokens)
    if alone and tokens[end].text in NO_ONE:
        return [], end
    numerals = "".join(token.text for token in tokens[at:end])
    if not any(c in _HAN_UNITS or c in _HAN_LARGE for c in numerals):
        return [Atom(i, i, HAN_DIGITS[tokens[i].text], False) for i in range(at, end)], end
    if (value := _quantity(numerals)) is not None:
        return [Atom(at, end - 1, str(value), True)], end
    return [
        Atom(i, i, HAN_DIGITS[tokens[i].text], False)
        for i in range(at, end)
        if tokens[i].text in HAN_DIGITS
    ], end


def _quantity(numerals: str) -> int | None:
    """The value of `一千二百三十八`; None where it is none."""
    total = section = 0
    digit: int | None = None
    for c in numerals[:24]:
        if c in HAN_DIGITS:
            if digit:
                return None
            digit = int(HAN_DIGITS[c])
        elif c in _HAN_UNITS:
            section += (1 if digit is None else digit) * _HAN_UNITS[c]
            digit = None
        else:
            total = (total + section + (digit or 0)) * _HAN_LARGE[c]
            section, digit = 0, None
    if len(numerals) > 24:
        return None
    return total + section + (digit or 0)


def is_han(c: str) -> bool:
    return "㐀" <= c <= "鿿" or "豈" <= c <= "﫿" or c >= "𠀀" or c == "〇"
