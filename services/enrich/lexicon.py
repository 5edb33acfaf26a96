"""What is heard in a text: classes of a lexicon and phrases, by longest match.

A text becomes tokens: one per word in alphabetic scripts, one per character in Han. Contractions
are written out (don't → do not), punctuation stays as a boundary that no phrase crosses. A phrase
is written the way people write it, with three marks:

    refund~             the regular English forms too: refunds, refunded, refunding
    (wrong|bad) size    alternatives; (|very) makes a word optional
    want ... manager    up to GAP tokens between the two pieces, within a sentence

Matching walks one trie from each token, so the cost is linear in the text; the longest phrase of
the rules bounds the factor.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from itertools import pairwise
from typing import TypeVar

from schemas.events import FindingKind, Role

_T = TypeVar("_T")

GAP = 5
MOST_FORMS = 10_000
# Each gap multiplies the ways to match by GAP + 1.
MOST_GAPS = 2

_HAN = "㐀-䶿一-鿿豈-﫿𠀀-𯨟"
_TOKEN = re.compile(rf"[{_HAN}]|[^\W_{_HAN}]+(?:'[^\W\d_{_HAN}]+)*|\.(?!\d)|[!?。;\n]|[,、:()\"]")
_HARD = frozenset(".!?。;\n")
SENTENCE_END = "."
CLAUSE_END = ","

_FULL_WORDS = {
    "cannot": ("can", "not"),
    "can't": ("can", "not"),
    "cant": ("can", "not"),
    "won't": ("will", "not"),
    "wont": ("will", "not"),
    "shan't": ("shall", "not"),
    "ain't": ("is", "not"),
    "dont": ("do", "not"),
    "doesnt": ("does", "not"),
    "didnt": ("did", "not"),
    "isnt": ("is", "not"),
    "wasnt": ("was", "not"),
    "havent": ("have", "not"),
    "hasnt": ("has", "not"),
    "couldnt": ("could", "not"),
    "wouldnt": ("would", "not"),
    "im": ("i", "am"),
    "ive": ("i", "have"),
    "let's": ("let", "us"),
}
_ENDINGS = (
    ("n't", "not"), ("'re", "are"), ("'ve", "have"), ("'ll", "will"), ("'m", "am"), ("'d", "would"),
)  # fmt: skip
_IS = frozenset(
    ("it", "that", "what", "there", "here", "who", "where", "how", "he", "she", "this", "when")
)


@lru_cache(maxsize=65_536)
def _written_out(word: str) -> tuple[str, ...]:
    if (full := _FULL_WORDS.get(word)) is not None:
        return full
    for ending, meaning in _ENDINGS:
        if word.endswith(ending) and len(word) > len(ending):
            return (*_written_out(word[: -len(ending)]), meaning)
    if word.endswith("'s"):
        owner = word[:-2]
        return (owner, "is") if owner in _IS else (owner,)
    return (word,)


@lru_cache(maxsize=65_536)
def _folded(character: str) -> str:
    if character in "‘’ʼ`":
        return "'"
    if character == "…":
        return "."
    return unicodedata.normalize("NFKC", character).lower() or character


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of a text; `starts` and `ends` are character offsets in the text as it was given."""

    texts: list[str]
    starts: list[int]
    ends: list[int]


def tokenize(text: str) -> Tokens:
    """NFKC, lower case, contractions written out. Offsets are those of `text` itself."""
    at: Sequence[int]
    if text.isascii():
        folded = text.lower()
        at = range(len(text) + 1)
    else:
        pieces = [_folded(character) for character in text]
        folded = "".join(pieces)
        if len(folded) == len(text):
            at = range(len(text) + 1)
        else:
            at = [i for i, piece in enumerate(pieces) for _ in piece]
            at.append(len(text))
    texts: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for found in _TOKEN.finditer(folded):
        word = found.group()
        first, last = at[found.start()], at[found.end() - 1] + 1
        if word in _HARD:
            word = SENTENCE_END
        elif not (word[0].isalnum()):
            word = CLAUSE_END
        elif len(word) > 1:
            for part in _written_out(word):
                texts.append(part)
                starts.append(first)
                ends.append(last)
            continue
        texts.append(word)
        starts.append(first)
        ends.append(last)
    return Tokens(texts, starts, ends)


def inflections(word: str) -> list[str]:
    """The regular English forms of a verb or noun, itself first; a form too many does no harm."""
    forms = [word]
    if re.search(r"(?:[sxz]|ch|sh)$", word):
        forms.append(word + "es")
    elif re.search(r"[^aeiou]y$", word):
        forms += [word[:-1] + "ies", word[:-1] + "ied"]
    else:
        forms.append(word + "s")
    if word.endswith("e"):
        forms += [word + "d", word[:-1] + "ing"]
    else:
        forms += [word + "ing"] if word.endswith("y") else [word + "ed", word + "ing"]
        if re.search(r"[aeiou]y$", word):
            forms.append(word + "ed")
        if re.search(r"[^aeiou][aeiou][bdgklmnprt]$", word):
            forms += [word + word[-1] + "ed", word + word[-1] + "ing"]
    return forms


_MARK = re.compile(r"([A-Za-z]+)~")


def _texts(phrase: str, at: int, closing: str) -> tuple[list[str], int]:
    """The texts from `at` up to `closing` (a bracket, or the phrase's end), and where that is."""
    chosen: list[str] = []
    heads = [""]
    while at < len(phrase) and phrase[at] != ")":
        tails = [phrase[at]]
        if phrase[at] == "|":
            if not closing:
                raise ValueError("a '|' outside brackets; write (a|b)")
            chosen += heads
            heads = [""]
            tails = [""]
        elif phrase[at] == "(":
            tails, at = _texts(phrase, at + 1, ")")
        at += 1
        if len(heads) * len(tails) + len(chosen) > MOST_FORMS:
            raise ValueError(f"stands for more than {MOST_FORMS} phrases; write fewer (a|b)")
        heads = [head + tail for head in heads for tail in tails]
    if phrase[at : at + 1] != closing:
        raise ValueError("unbalanced '(' or ')'")
    return chosen + heads, at


@lru_cache(maxsize=8_192)
def spell_out(phrase: str) -> tuple[tuple[str, ...], ...]:
    """Every token sequence `phrase` stands for; "..." in a sequence is a gap.

    Raises ValueError saying what is wrong: unbalanced brackets, nothing to match, a gap at an end,
    more than MOST_GAPS gaps or MOST_FORMS sequences.
    """
    marked = _MARK.sub(lambda m: "(" + "|".join(inflections(m.group(1).lower())) + ")", phrase)
    if "~" in marked:
        raise ValueError("a '~' follows no English word")
    forms: dict[tuple[str, ...], None] = {}
    for text in _texts(marked, 0, "")[0]:
        sequence: list[str] = []
        pieces = text.replace("…", "...").split("...")
        if len(pieces) > MOST_GAPS + 1:
            raise ValueError(f"has more than {MOST_GAPS} gaps '...'")
        for i, piece in enumerate(pieces):
            words = tokenize(piece).texts
            if not words:
                raise ValueError("nothing to match, or '...' at an end")
            if {SENTENCE_END, CLAUSE_END} & set(words):
                raise ValueError("punctuation never matches; leave it out or write '...'")
            if i:
                sequence.append("...")
            sequence += words
        forms[tuple(sequence)] = None
    return tuple(forms)


class _Part(Enum):
    """What a phrase does in a text, other than naming a class."""

    IDIOM = "idiom"
    NEGATION = "negation"
    STRONGER = "stronger"
    WEAKER = "weaker"


@dataclass(frozen=True, slots=True, eq=False)
class Class:
    """A class of a lexicon and the phrases that show it. Equal only to itself."""

    kind: FindingKind
    label: str
    title: str
    phrases: tuple[str, ...]
    roles: frozenset[Role]
    """Whose words count; empty: everybody's."""
    polarity: float
    """-1.0 to 1.0; 0.0 for topics."""
    negated: str | None
    """What a negated match counts as: a label, "" for nothing, None for the class itself."""
    lexicon: str
    version: str


@dataclass(frozen=True, slots=True)
class Negation:
    words: tuple[str, ...]
    through: tuple[str, ...]
    """What may stand between the negation and what it negates."""


@dataclass(frozen=True, slots=True)
class Grammar:
    negations: tuple[Negation, ...] = ()
    stronger: tuple[str, ...] = ()
    weaker: tuple[str, ...] = ()
    idioms: tuple[str, ...] = ()
    """Phrases that mean nothing by their parts: "no problem", 不客气."""
    stronger_factor: float = 1.5
    weaker_factor: float = 0.5


@dataclass(frozen=True, slots=True)
class Match:
    """Offsets are in the text as it was given."""

    found: Class
    start: int
    end: int
    factor: float
    negated: bool
    """True where the match counts as `found` because it was said with a negation."""


@dataclass(frozen=True, slots=True)
class PhraseMatch:
    phrases: int
    """Which of the phrase sets given to the Scanner."""
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Scan:
    matches: list[Match]
    phrases: list[PhraseMatch]
    words: int
    characters: int
    """Han characters; `words` counts the other scripts' words."""


_Entry = Class | int | tuple[_Part, int]
"""A class, the number of a phrase set, or a part of grammar with the number of its group."""


@dataclass(slots=True)
class _Node:
    next: dict[str, _Node] = field(default_factory=dict)
    gap: _Node | None = None
    entries: list[_Entry] = field(default_factory=list)

    def add(self, sequence: Sequence[str], entry: _Entry) -> None:
        node = self
        for token in sequence:
            if token == "...":
                node.gap = node.gap or _Node()
                node = node.gap
            else:
                node = node.next.setdefault(token, _Node())
        if entry not in node.entries:
            node.entries.append(entry)

    def walk(self, tokens: Sequence[str], at: int) -> Iterator[tuple[int, list[_Entry]]]:
        """(end, entries) of every phrase that starts at `at`, in no order."""
        stack = [(self, at)]
        while stack:
            node, i = stack.pop()
            if node.entries:
                yield i, node.entries
            if i < len(tokens) and (child := node.next.get(tokens[i])) is not None:
                stack.append((child, i + 1))
            if node.gap is not None:
                for j in range(i, min(i + GAP + 1, len(tokens))):
                    if (child := node.gap.next.get(tokens[j])) is not None:
                        stack.append((child, j + 1))
                    if tokens[j] == SENTENCE_END:
                        break

    def longest(self, tokens: Sequence[str], at: int) -> int:
        """Where the longest phrase that starts at `at` ends; `at` where there is none."""
        return max((end for end, _ in self.walk(tokens, at)), default=at)


def _trie(phrases: Iterable[str]) -> _Node:
    root = _Node()
    for phrase in phrases:
        for sequence in spell_out(phrase):
            root.add(sequence, 0)
    return root


_CLASS_KINDS = (FindingKind.EMOTION, FindingKind.TOPIC)


class Scanner:
    """Finds classes and phrases in texts. Immutable once made, safe to share between threads.

    Within a kind, a match inside a longer one (of a class or an idiom) does not count: 满意 in
    不满意 is nothing; matches of one class never overlap. A phrase set is independent of everything
    else, and what it finds inside a longer find of its own does not count either.
    """

    def __init__(
        self,
        classes: Sequence[Class],
        grammar: Grammar,
        phrase_sets: Sequence[Sequence[str]] = (),
    ) -> None:
        self._root = _Node()
        self._emphasis = {
            _Part.STRONGER: grammar.stronger_factor,
            _Part.WEAKER: grammar.weaker_factor,
        }
        self._labels: Mapping[tuple[FindingKind, str], Class] = {
            (each.kind, each.label): each for each in classes
        }
        reaching: list[str] = [word for group in grammar.negations for word in group.words]
        self._through = [_trie((*group.through, *reaching)) for group in grammar.negations]
        entries: list[tuple[Iterable[str], _Entry]] = [
            *((each.phrases, each) for each in classes),
            *((phrases, number) for number, phrases in enumerate(phrase_sets)),
            *((group.words, (_Part.NEGATION, i)) for i, group in enumerate(grammar.negations)),
            (grammar.idioms, (_Part.IDIOM, 0)),
            (grammar.stronger, (_Part.STRONGER, 0)),
            (grammar.weaker, (_Part.WEAKER, 0)),
        ]
        for phrases, entry in entries:
            for phrase in phrases:
                for sequence in spell_out(phrase):
                    self._root.add(sequence, entry)

    def scan(self, text: str) -> Scan:
        tokens = tokenize(text)
        texts = tokens.texts
        first = self._root.next
        said: dict[int, dict[tuple[int, int, int], None]] = {}
        classes: dict[tuple[int, int, Class], None] = {}
        idioms: list[tuple[int, int]] = []
        negations: list[tuple[int, int, int]] = []
        factors: dict[int, float] = {}
        for at, token in enumerate(texts):
            if token not in first:
                continue
            for end, entries in self._root.walk(texts, at):
                for entry in entries:
                    if isinstance(entry, Class):
                        classes[at, end, entry] = None
                    elif isinstance(entry, int):
                        said.setdefault(entry, {})[at, end, entry] = None
                    else:
                        part, group = entry
                        if part is _Part.IDIOM:
                            idioms.append((at, end))
                        elif part is _Part.NEGATION:
                            negations.append((at, end, group))
                        else:
                            factors[end] = factors.get(at, 1.0) * self._emphasis[part]
        phrases = [
            PhraseMatch(number, tokens.starts[at], tokens.ends[end - 1])
            for spans in said.values()
            for at, end, number in (_outermost(list(spans), ()) if len(spans) > 1 else spans)
        ]
        phrases.sort(key=lambda match: (match.start, match.end, match.phrases))
        kept = [
            match
            for kind in _CLASS_KINDS
            for match in _outermost([c for c in classes if c[2].kind is kind], idioms)
        ]
        negated = self._negated(texts, negations, [*idioms, *((s, e) for s, e, _ in kept)])
        matches: list[Match] = []
        for at, end, found in kept:
            stands_for: Class | None = found
            if turned := (at in negated and found.negated is not None):
                stands_for = self._labels.get((found.kind, found.negated or ""))
            if stands_for is not None:
                start = tokens.starts[negated[at] if turned else at]
                factor = factors.get(at, 1.0)
                matches.append(Match(stands_for, start, tokens.ends[end - 1], factor, turned))
        han = sum(1 for token in texts if _is_han(token))
        marks = texts.count(SENTENCE_END) + texts.count(CLAUSE_END)
        written_out = sum(1 for a, b in pairwise(tokens.starts) if a == b)
        return Scan(_apart(matches), phrases, len(texts) - han - marks - written_out, han)

    def _negated(
        self,
        texts: Sequence[str],
        negations: Sequence[tuple[int, int, int]],
        covering: Sequence[tuple[int, int]],
    ) -> dict[int, int]:
        """Token positions an odd number of negations reaches -> where the first of them starts."""
        reached: dict[int, list[int]] = {}
        # 不 within 不是 is the same negation; within 不满意 or "no problem" it is none.
        outer = _outermost([(s, e, g) for s, e, g in negations], covering)
        for start, end, group in outer:
            through = self._through[group]
            at = end
            reached.setdefault(at, []).append(start)
            while at < end + GAP + 1 and (after := through.longest(texts, at)) > at:
                for position in range(at + 1, after + 1):
                    reached.setdefault(position, []).append(start)
                at = after
        return {at: starts[0] for at, starts in reached.items() if len(starts) % 2}


def _apart(matches: Iterable[Match]) -> list[Match]:
    """In order; of overlapping matches of one class the first: 去投诉 and 投诉你 are one threat."""
    found: list[Match] = []
    until: dict[tuple[FindingKind, str], int] = {}
    for match in sorted(matches, key=lambda each: (each.start, -each.end, each.found.label)):
        name = (match.found.kind, match.found.label)
        if match.start >= until.get(name, 0):
            found.append(match)
            until[name] = match.end
    return found


def _is_han(token: str) -> bool:
    return len(token) == 1 and ("\u3400" <= token <= "\u9fff" or "\uf900" <= token <= "\ufaff")


def _outermost(
    spans: Sequence[tuple[int, int, _T]], covering: Sequence[tuple[int, int]]
) -> list[tuple[int, int, _T]]:
    """The spans that lie in no longer one, of `spans` themselves or of `covering`; by start."""
    order = sorted(
        {*((s, e) for s, e, _ in spans), *covering}, key=lambda span: (span[0], -span[1])
    )
    outer: set[tuple[int, int]] = set()
    furthest = -1
    for start, end in order:
        if end > furthest:
            outer.add((start, end))
            furthest = end
    strict = set(covering)
    return [
        span
        for span in sorted(spans, key=lambda span: (span[0], -span[1]))
        if (span[0], span[1]) in outer and (span[0], span[1]) not in strict
    ]
