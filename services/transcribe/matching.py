"""Heard text as tokens, in any script, and phrases found among them.

Case, width and composition do not matter (NFKC, case folded). A token is

    a word of a script that is written with spaces: what apostrophes, hyphens and the like join is
    one word, an English 's is a token of its own (jon's → jon 's, don't → don't)
    one character of a script that is written without (Han, Hiragana, Thai ...), and one syllable of
    Hangul, whose endings have no space before them
    a run of Katakana, in which a word is no part of a longer one
    any other character: a phrase that does not name it does not reach across it

so that "cat" is not found in "catalog", "5号" not in "15号", and "kol" is in "用kol打". Matching
walks one trie from each token: its cost grows with the text, not with the number of phrases.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar

from services.transcribe.script import KATAKANA, UNSPACED

_T = TypeVar("_T")

# Tokens that a phrase's "..." reaches over.
GAP = 5
_ENDS_SENTENCE = frozenset(".!?。;")

_HANGUL = ((0x1100, 0x11FF), (0x3131, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7FF))
_APOSTROPHES = "‘’ʼ＇`´"
_HYPHENS = "‐‑－"
_PLAIN = str.maketrans(_APOSTROPHES + _HYPHENS, "'" * len(_APOSTROPHES) + "-" * len(_HYPHENS))


class Kind(Enum):
    """What a character is to words."""

    SPACE = auto()
    WORD = auto()
    FREE = auto()
    KATAKANA = auto()
    HANGUL = auto()
    MARK = auto()
    OTHER = auto()


@lru_cache(maxsize=65_536)
def kind(character: str) -> Kind:
    """What one folded character is."""
    if character.isspace():
        return Kind.SPACE
    if unicodedata.category(character).startswith("M"):
        return Kind.MARK
    if not character.isalnum() and character != "_":
        return Kind.OTHER
    for ranges, of in ((UNSPACED, Kind.FREE), (KATAKANA, Kind.KATAKANA), (_HANGUL, Kind.HANGUL)):
        if any(first <= ord(character) <= last for first, last in ranges):
            return of
    return Kind.WORD


@dataclass(frozen=True, slots=True)
class Tokens:
    """Arrays of equal length; `starts` and `ends` are offsets in the text as it was given."""

    texts: list[str]
    starts: list[int]
    ends: list[int]


class Found(NamedTuple, Generic[_T]):
    """A phrase: its first token, the token after its last, and what it was said to mean."""

    first: int
    after: int
    value: _T


def tokenize(text: str) -> Tokens:
    """The tokens of `text`, in order; what is no token is space, or shows nothing."""
    folded, starts, ends = fold(text)
    kinds = [kind(character) for character in folded]
    found = Tokens([], [], [])

    def add(first: int, after: int) -> None:
        found.texts.append(folded[first:after])
        found.starts.append(starts[first])
        found.ends.append(ends[after - 1])

    at = 0
    while at < len(folded):
        this = kinds[at]
        first = at
        at += 1
        if this is Kind.SPACE:
            continue
        if this in (Kind.WORD, Kind.KATAKANA):
            while at < len(folded) and (
                kinds[at] in (this, Kind.MARK) or (this is Kind.WORD and _joins(folded, kinds, at))
            ):
                at += 1
            if at - first > 2 and folded.endswith("'s", first, at):
                add(first, at - 2)
                first = at - 2
        else:
            while at < len(folded) and kinds[at] is Kind.MARK:
                at += 1
        add(first, at)
    return found


def _joins(folded: str, kinds: Sequence[Kind], at: int) -> bool:
    """Whether what stands at `at`, after a word, makes one word of it and what follows."""
    if not (at + 1 < len(folded) and kinds[at + 1] is Kind.WORD):
        return False
    # 3.5, 10:30, 1,000, 24/7 are numbers; e-mail, don't, at&t, example.com are words.
    return folded[at] in "'-&@." or (
        folded[at] in ",:/" and folded[at - 1].isdigit() and folded[at + 1].isdigit()
    )


def fold(text: str) -> tuple[str, Sequence[int], Sequence[int]]:
    """`text` as it is compared, and where each character of that starts and ends in `text`."""
    if text.isascii():
        return text.lower().replace("`", "'"), range(len(text)), range(1, len(text) + 1)
    pieces: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    at = 0
    while at < len(text):
        first = at
        at += 1
        while at < len(text) and _continues(text[at]):
            at += 1
        piece = _folded(text[first:at])
        pieces.append(piece)
        starts += [first] * len(piece)
        ends += [at] * len(piece)
    return "".join(pieces), starts, ends


@lru_cache(maxsize=65_536)
def _continues(character: str) -> bool:
    """Whether it composes with what stands before it."""
    plain = unicodedata.normalize("NFKC", character)
    return unicodedata.combining(plain[0]) != 0 or 0x1160 <= ord(plain[0]) <= 0x11FF


@lru_cache(maxsize=65_536)
def _folded(cluster: str) -> str:
    plain = unicodedata.normalize("NFKC", cluster.translate(_PLAIN)).casefold()
    composed = unicodedata.normalize("NFKC", plain).translate(_PLAIN)
    return "".join(each for each in composed if unicodedata.category(each) != "Cf")


Step = str | tuple["Pattern", ...]
"""A token, "..." for a gap, or what may stand there."""
Pattern = tuple[Step, ...]


def pattern(phrase: str) -> Pattern:
    """What `phrase` stands for: tokens, (a|b) for alternatives, (|very) for what may be left out,
    ... for up to GAP tokens within a sentence. Raises ValueError saying what is wrong."""
    found, at = _alternatives(phrase, 0)
    if at < len(phrase):
        raise ValueError("a ')' without its '('")
    if len(found) != 1:
        raise ValueError("a '|' outside brackets; write (a|b)")
    if found[0][:1] in ((), ("...",)) or found[0][-1] == "..." or _may_be_empty(found[0]):
        raise ValueError("nothing to match, or '...' at an end")
    return found[0]


def _alternatives(phrase: str, at: int) -> tuple[list[Pattern], int]:
    """What stands from `at` up to the bracket that closes, or the end, and where that is."""
    chosen: list[Pattern] = []
    steps: list[Step] = []
    while True:
        first = at
        while at < len(phrase) and phrase[at] not in "(|)":
            at += 1
        for number, piece in enumerate(phrase[first:at].replace("…", "...").split("...")):
            steps += ["...", *tokenize(piece).texts] if number else tokenize(piece).texts
        if at == len(phrase) or phrase[at] == ")":
            return [*chosen, tuple(steps)], at
        if phrase[at] == "|":
            chosen.append(tuple(steps))
            steps = []
        else:
            opened = at
            inner, at = _alternatives(phrase, at + 1)
            if at == len(phrase):
                raise ValueError("a '(' without its ')'")
            beside = phrase[max(0, opened - 1) : opened] + phrase[at + 1 : at + 2]
            if _holds_word(beside) and _holds_word(phrase[opened:at]):
                raise ValueError("brackets within a word; write whole words in them")
            steps.append(tuple(inner))
        at += 1


def _holds_word(text: str) -> bool:
    return any(kind(each) is Kind.WORD for each in text)


def _may_be_empty(found: Pattern) -> bool:
    return all(isinstance(step, tuple) and any(map(_may_be_empty, step)) for step in found)


class _Node(Generic[_T]):
    __slots__ = ("gap", "next", "onwards", "values")

    def __init__(self) -> None:
        self.next: dict[str, _Node[_T]] = {}
        self.gap: _Node[_T] | None = None
        self.onwards: list[_Node[_T]] = []
        """What else may follow here: where alternatives meet again."""
        self.values: list[_T] = []

    def add(self, steps: Pattern) -> _Node[_T]:
        """Where one is after `steps`."""
        node = self
        for step in steps:
            if isinstance(step, tuple):
                meeting: _Node[_T] = _Node()
                for alternative in step:
                    node.add(alternative).onwards.append(meeting)
                node = meeting
            elif step == "...":
                node.gap = node.gap or _Node()
                node = node.gap
            else:
                node = node.next.setdefault(step, _Node())
        return node


class Phrases(Generic[_T]):
    """Patterns (or plain tokens), each with what it means. Immutable once made, safe to share."""

    def __init__(self, entries: Iterable[tuple[Pattern, _T]]) -> None:
        self._root: _Node[_T] = _Node()
        for steps, value in entries:
            self._root.add(steps).values.append(value)

    def find(self, tokens: Tokens) -> list[Found[_T]]:
        """Every phrase wherever it stands, also within others, by its first token."""
        found: list[Found[_T]] = []
        texts, starts, ends = tokens.texts, tokens.starts, tokens.ends
        for first, text in enumerate(texts):
            if text not in self._root.next and not self._root.onwards:
                continue
            if first and (
                # One character may hold two tokens: ½ is 1⁄2.
                starts[first] < ends[first - 1]
                # Endings have no space before them in Korean; beginnings have.
                or (
                    starts[first] == ends[first - 1]
                    and kind(text[0]) is kind(texts[first - 1][0]) is Kind.HANGUL
                )
            ):
                continue
            for after, values in self._walk(texts, first):
                if after == len(texts) or ends[after - 1] <= starts[after]:
                    found += [Found(first, after, value) for value in values]
        return found

    def _walk(self, texts: Sequence[str], first: int) -> Iterator[tuple[int, list[_T]]]:
        stack = [(self._root, first)]
        seen: set[tuple[int, int]] = set()
        while stack:
            node, at = stack.pop()
            if (id(node), at) in seen:
                continue
            seen.add((id(node), at))
            if node.values:
                yield at, node.values
            stack += [(other, at) for other in node.onwards]
            if at < len(texts) and (child := node.next.get(texts[at])) is not None:
                stack.append((child, at + 1))
            if node.gap is not None:
                for upto in range(at, min(at + GAP + 1, len(texts))):
                    # The gap itself stands where what follows it may be.
                    stack.append((node.gap, upto))
                    if texts[upto] in _ENDS_SENTENCE:
                        break
