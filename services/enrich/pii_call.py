"""A call as those who look for personal data in it see it.

Worked out once for all of them: what the words and characters of a segment say it may hold, its
tokens, the words in it that name a number, and which segments of a speaker belong together, past a
short "okay" or an echo of the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from schemas.events import PiiKind, Segment
from services.enrich.numerals import (
    FILLERS,
    HAN,
    HAN_NUMERALS,
    LETTER,
    NO_ONE,
    NUMBER_WORDS,
    PLACES,
    Token,
    digit_groups,
    tokenize,
    word_set,
)

# Two parts of one number are no further apart than this.
MOST_PAUSE_MS = 30_000


class Call:
    """A call's segments in order of time, with what every search needs, each worked out once."""

    def __init__(self, segments: list[Segment], language: str) -> None:
        self.segments = segments
        self.signs = [_signs(each.text) for each in segments]
        self._language = language
        self._tokens: dict[int, list[Token]] = {}
        self._cues: dict[int, list[Cue]] = {}
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

    def cues(self, number: int) -> list[Cue]:
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


class Span(NamedTuple):
    kind: PiiKind
    parts: tuple[tuple[int, int, int], ...]
    """(segment, start, end), one for each segment it touches."""


def span_of(kind: PiiKind, tokens: Sequence[Token]) -> Span:
    """From the first token to the last of them, in each segment."""
    parts: list[tuple[int, int, int]] = []
    for each in tokens:
        if each.kind == "b":
            continue
        if parts and parts[-1][0] == each.segment:
            parts[-1] = (each.segment, parts[-1][1], each.end)
        else:
            parts.append((each.segment, each.start, each.end))
    return Span(kind, tuple(parts))


# What a segment may hold -------------------------------------------------------------------------


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


def _lower(text: str) -> str:
    """Lower case, as long as the text."""
    lower = text.lower()
    return lower if len(lower) == len(text) else "".join(c.lower()[0] for c in text)


_BACKCHANNELS = (
    FILLERS
    | word_set(
        """mhm uh-huh huh mmhmm sure go ahead on got it perfect great thanks thank you alright all
    please continue carry first last yep yup go what's"""
    )
    | frozenset("行您说请继续讲收到明白哎诶知道可以慢往没错记下")
)
# What signs are told by. A word of a number alone, or 一 in `一下`, says none.
_ASCII_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")
_NUMERAL_WORDS = NUMBER_WORDS | {"x", "ex"}
_NUMERAL = re.compile(rf"\d|一(?![{''.join(NO_ONE)}])|[{''.join(HAN_NUMERALS - {'一'})}叉艾]")
_LIGHT = _BACKCHANNELS | _NUMERAL_WORDS | PLACES | word_set("hundred thousand the area to too for")
_HEAVY_HAN = re.compile(
    rf"(?![{''.join(c for c in _LIGHT if not c.isascii())}{''.join(HAN_NUMERALS)}叉艾克斯])[{HAN}]"
)


# Cues --------------------------------------------------------------------------------------------

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


class Cue(NamedTuple):
    start: int
    end: int
    name: str


# One of these is in every English cue.
_CUE_WORDS = frozenset(
    re.findall("[a-z]{2,}", " ".join(english for english, _ in _CUES.values()))
).union(
    word_set("d cards mastercard unionpay taxpayer telephone calling callback membership cells")
) - word_set("of the your my me you us ing")


def _cues(text: str, sign: _Signs) -> list[Cue]:
    found: list[Cue] = []
    if "'" in sign.lower or "’" in sign.lower or not sign.words.isdisjoint(_CUE_WORDS):
        found += (Cue(m.start(), m.end(), str(m.lastgroup)) for m in _CUE.finditer(sign.lower))
    if not text.isascii():
        found += (Cue(m.start(), m.end(), str(m.lastgroup)) for m in _CUE_ZH.finditer(text))
        found.sort()
    return found


# What an e-mail is told by -----------------------------------------------------------------------

_MAIL_CUE = re.compile(r"\be-?\s?mail|邮箱|邮件|伊妹儿", re.IGNORECASE)
TLDS = word_set(
    """com net org edu gov co uk cn io info biz me us ca au de fr jp in eu tv app dev ai hk tw sg
    nz ie it es nl ch se no ru br mx za xyz online site shop tech mil int cc vip top"""
)
_AT = re.compile("[@＠艾圈]")
_DOMAIN = re.compile(
    r"[@＠]|[.．。](?=\w)|(?:点|\b(?:dot|point|period)\b)\s*"
    rf"(?:$|(?:[a-z]|{'|'.join(sorted(TLDS))})(?!{LETTER}))",
    re.IGNORECASE,
)
# Tokens before the `at`, and after it.
MOST_LOCAL = 48
MOST_HOST = 32


# Stretches: what one speaker says, over segments -------------------------------------------------

_MOST_BACKCHANNEL = 12
_MOST_ECHO = 32


def _stretches(call: Call) -> list[list[Token]]:
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


def _numeric(call: Call, chain: Sequence[int]) -> Iterator[int]:
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


def _mailing(call: Call, chain: Sequence[int]) -> Iterator[int]:
    """The segments around an `at` after which a domain stands."""
    for place, number in enumerate(chain):
        sign = call.signs[number]
        said = "at" in sign.words or "@" in sign.lower
        if not said and not (sign.han and _AT.search(sign.lower)):
            continue
        size, last = 0, place
        domain = False
        while last < len(chain) and size < MOST_HOST:
            there = call.segments[chain[last]].text
            domain = domain or _DOMAIN.search(there) is not None
            size += 1 if last == place else len(call.tokens(chain[last])) + 1
            last += 1
        if not domain:
            continue
        yield from chain[place:last]
        size, first = 0, place
        while first and size < MOST_LOCAL:
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
