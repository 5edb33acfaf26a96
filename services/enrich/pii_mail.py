"""E-mail addresses in what was said: written, and spoken as `john dot smith at gmail dot com`."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.events import PiiKind
from services.enrich.names import PLAIN_WORDS
from services.enrich.numerals import (
    DECADES,
    HAN_DIGITS,
    OH,
    ONES,
    REPEATS,
    TEENS,
    Token,
    digit_of,
    word_set,
)
from services.enrich.pii_call import MOST_HOST, MOST_LOCAL, TLDS, Call, Span, span_of

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
_SPOKEN_DIGITS = frozenset((*ONES, *TEENS, *DECADES, *REPEATS, *OH))
_PASSED_OVER = frozenset(("uh", "um", "er", "，", ",", "、", *"后面然再加接着"))
_SPELLED = frozenset(("spelled", "spelt", "spelling"))
_REMARKS = frozenset(
    ("all one word", "one word", "all lower case", "all lowercase", "lower case", "lowercase",
     "no spaces", "no space", "all together", "all small", "altogether")
)  # fmt: skip


def find_emails(call: Call) -> list[Span]:
    found: list[Span] = []
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
            found.append(span_of(PiiKind.EMAIL, tokens[first:end]))
            free = end
    return found


def _is_mail(call: Call, tokens: Sequence[Token], first: int, at: int, host: int) -> bool:
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
    while at < size and at < start + MOST_HOST:
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
    if at < len(tokens) and tokens[at].text in TLDS:
        return at + 1
    spelled = ""
    for place in range(at, min(at + 3, len(tokens))):
        if len(tokens[place].text) != 1 or tokens[place].kind != "w":
            break
        spelled += tokens[place].text
        if spelled in TLDS and len(spelled) > 1:
            return place + 1
    return None


def _local(tokens: Sequence[Token], at: int, floor: int) -> int:
    """The first token of the local part that ends before `at`."""
    lowest = max(floor, at - MOST_LOCAL)
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
