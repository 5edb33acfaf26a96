"""What is heard in a text: classes of a lexicon and phrases, by longest match.

A text becomes tokens: one per word in alphabetic scripts, one per character in Han. Contractions
are written out (don't → do not), punctuation stays as a boundary that no phrase crosses. A phrase
is written the way people write it, with three marks:

    refund~             the regular English forms too: refunds, refunded, refunding
    (wrong|bad) size    alternatives; (|very) makes a word optional
    want ... manager    up to GAP tokens between the two pieces, within a sentence

Phrases of the grammar may have arrows too, which say where they reach beyond their own words:

    if >                no emotion in what follows, to the end of the sentence
    policy covers >>    neither emotion nor topic there
    no need to ->       neither, where the very next word begins one
    < 了没有            nothing good in what stands before, to the start of the clause
    < but >             what reaches, reaches no further than this

An idiom with an arrow empties what it reaches, a negation with one turns it. No arrow reaches over
more than REACH tokens.

Matching walks one trie from each token, so the cost is linear in the text; the longest phrase of
the rules, and REACH, bound the factor.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import TypeVar

from schemas.events import FindingKind, Role

_T = TypeVar("_T")

GAP = 5
# A sentence as it is spoken: without punctuation nothing else ends what an arrow reaches.
REACH = 20
MOST_FORMS = 10_000
# Each gap multiplies the ways to match by GAP + 1.
MOST_GAPS = 2

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f"
_TOKEN = re.compile(rf"([{_HAN}])|[^\W_{_HAN}]+(?:'[^\W\d_{_HAN}]+)*|\.(?!\d)|[!?。;\n]|[,、:()\"]")
_HARD = frozenset(".!?。;\n")
SENTENCE_END = "."
CLAUSE_END = ","
_LONGEST_WORD = 64
_SIGNS = frozenset((SENTENCE_END, CLAUSE_END))

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
def _parts(word: str) -> tuple[str, ...]:
    """The tokens that a word or a sign becomes."""
    if word in _HARD:
        return (SENTENCE_END,)
    return _written_out(word) if word[0].isalnum() else (CLAUSE_END,)


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
    characters: int
    """How many are Han characters."""
    words: int
    """How many words they are of, contractions counted once."""


def tokenize(text: str) -> Tokens:
    """NFKC, lower case, contractions written out. Offsets are those of `text` itself."""
    at: Sequence[int] = ()  # where characters do not keep their places
    if text.isascii():
        folded = text.lower()
    else:
        pieces = [_folded(character) for character in text]
        folded = "".join(pieces)
        if len(folded) != len(text):
            at = [i for i, piece in enumerate(pieces) for _ in piece]
    texts: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    characters = words = 0
    for found in _TOKEN.finditer(folded):
        first, end = found.span()
        if at:
            first, end = at[first], at[end - 1] + 1
        if (han := found[1]) is not None:
            characters += 1
            texts.append(han)
            starts.append(first)
            ends.append(end)
            continue
        word = found[0]
        parts = _parts(word) if len(word) <= _LONGEST_WORD else (word,)  # none that long is kept
        words += parts[0] not in _SIGNS
        for part in parts:
            texts.append(part)
            starts.append(first)
            ends.append(end)
    return Tokens(texts, starts, ends, characters, words)


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
# Read as the rest of a phrase is, they would leave no trace: "^refund$" would be "refund".
_NO_MARK = re.compile(r"[\\^$\[\]{}+*]")
_ARROWS = re.compile(r"\s*(<?)\s*([^<>]*?)\s*(->|>{0,2})\s*")


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


_LATIN_WORDS = re.compile(r"[a-z0-9 ]*")
_HAN_WORDS = re.compile(r"[一-鿿]*")


def _words(piece: str) -> list[str]:
    """The texts of `tokenize`. Rules spell out to tens of thousands of plain pieces."""
    if _LATIN_WORDS.fullmatch(piece):
        return [part for word in piece.split() for part in _written_out(word)]
    return list(piece) if _HAN_WORDS.fullmatch(piece) else tokenize(piece).texts


@lru_cache(maxsize=8_192)
def spell_out(phrase: str) -> tuple[tuple[str, ...], ...]:
    """Every token sequence `phrase` stands for; "..." in a sequence is a gap.

    Arrows at its ends are left out. Raises ValueError saying what is wrong: a sign of regular
    expressions, unbalanced brackets, nothing to match, a gap at an end, an arrow that is not, more
    than MOST_GAPS gaps or MOST_FORMS sequences.
    """
    if (sign := _NO_MARK.search(phrase)) is not None:
        raise ValueError(
            f"'{sign[0]}' means nothing here, for phrases are no regular expressions; there are "
            "(a|b), (|very) for a word that may be missing, ~ for English forms, ... for a gap"
        )
    bare = _arrows(phrase)[1]
    marked = _MARK.sub(lambda m: "(" + "|".join(inflections(m.group(1).lower())) + ")", bare)
    if "~" in marked:
        raise ValueError("a '~' follows no English word")
    forms: dict[tuple[str, ...], None] = {}
    for text in _texts(marked, 0, "")[0]:
        sequence: list[str] = []
        pieces = text.replace("…", "...").split("...")
        if len(pieces) > MOST_GAPS + 1:
            raise ValueError(f"has more than {MOST_GAPS} gaps '...'")
        for i, piece in enumerate(pieces):
            words = _words(piece)
            if not words:
                raise ValueError("nothing to match, or '...' at an end")
            if {SENTENCE_END, CLAUSE_END} & set(words):
                raise ValueError("punctuation never matches; leave it out or write '...'")
            if i:
                sequence.append("...")
            sequence += words
        forms[tuple(sequence)] = None
    return tuple(forms)


def _arrows(phrase: str) -> tuple[str, str, str]:
    """The arrow at the start, the phrase without arrows, the arrow at the end."""
    found = _ARROWS.fullmatch(phrase)
    if found is None:
        raise ValueError("'<' stands only at the start, '>', '>>' or '->' only at the end")
    return found.group(1), found.group(2), found.group(3)


class _Part(Enum):
    """What a phrase does in a text, other than naming a class."""

    IDIOM = "idiom"
    EMPTIES_AFTER = "if >"
    EMPTIES_ALL_AFTER = "policy covers >>"
    EMPTIES_NEXT = "no need to ->"
    EMPTIES_BEFORE = "< 了没有"
    BORDER = "< but >"
    NEGATION = "negation"
    TURNS_AFTER = "can't say >"
    TURNS_BEFORE = "< not"
    STRONGER = "stronger"
    WEAKER = "weaker"


_IDIOMS = {
    ("", ""): _Part.IDIOM,
    ("", ">"): _Part.EMPTIES_AFTER,
    ("", ">>"): _Part.EMPTIES_ALL_AFTER,
    ("", "->"): _Part.EMPTIES_NEXT,
    ("<", ""): _Part.EMPTIES_BEFORE,
    ("<", ">"): _Part.BORDER,
}
_TURNS = (_Part.TURNS_AFTER, _Part.TURNS_BEFORE)
_NEGATIONS = {
    ("", ""): _Part.NEGATION,
    ("", ">"): _Part.TURNS_AFTER,
    ("<", ""): _Part.TURNS_BEFORE,
}


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
    """-1.0 to 1.0. Above 0.0 a topic is one of feeling, praise, and is asked or supposed as one."""
    negated: str | None
    """What a negated match counts as: a label, "" for nothing, None for the class itself."""
    lexicon: str
    version: str


@dataclass(frozen=True, slots=True)
class Negation:
    words: tuple[str, ...]
    """With an arrow: "can not say >" turns what is good in the rest of its clause, "< 才怪" what
    is good before it in the clause."""
    through: tuple[str, ...]
    """What may stand between a negation without an arrow and what it negates."""


@dataclass(frozen=True, slots=True)
class Grammar:
    negations: tuple[Negation, ...] = ()
    stronger: tuple[str, ...] = ()
    weaker: tuple[str, ...] = ()
    idioms: tuple[str, ...] = ()
    """Phrases that mean nothing by their parts: "no problem", 不客气. With an arrow: what makes
    that which it reaches only supposed, asked, denied or told of others, and borders."""
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

_Found = tuple[int, int, tuple[_Part, int]]
"""Tokens [start, end) that are a part of grammar."""


@dataclass(slots=True)
class _Node:
    next: dict[str, _Node] = field(default_factory=dict)
    gap: _Node | None = None
    entries: Sequence[_Entry] = ()

    def add(self, sequence: Sequence[str], entry: _Entry) -> None:
        node = self
        for token in sequence:
            if token == "...":
                node.gap = node.gap or _Node()
                node = node.gap
            else:
                node = node.next.setdefault(token, _Node())
        if entry not in node.entries:
            node.entries = (*node.entries, entry)

    def walk(self, tokens: Sequence[str], at: int) -> list[tuple[int, Sequence[_Entry]]]:
        """(end, entries) of every phrase that starts at `at`, in no order."""
        found: list[tuple[int, Sequence[_Entry]]] = []
        ways = [(self, at)]
        size = len(tokens)
        for node, i in ways:  # grows while it is walked
            here: _Node | None = node
            while here is not None:
                if here.entries:
                    found.append((i, here.entries))
                if here.gap is not None:
                    for j in range(i, min(i + GAP + 1, size)):
                        if (child := here.gap.next.get(tokens[j])) is not None:
                            ways.append((child, j + 1))
                        if tokens[j] == SENTENCE_END:
                            break
                here = here.next.get(tokens[i]) if i < size else None
                i += 1
        return found

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
    不满意 is nothing; matches of one class never overlap. Of idioms that overlap the first counts.
    What is supposed, asked or told of others is no emotion; a threat under a condition is one: bad
    words of a topic count there. A phrase set is independent of everything else, and what it finds
    inside a longer find of its own does not count either.

    Raises ValueError where a phrase cannot be read, or has an arrow and is none of the grammar.
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
        reaching = [
            word
            for group in grammar.negations
            for word in group.words
            if _arrows(word) == ("", word.strip(), "")
        ]
        self._through = [_trie((*group.through, *reaching)) for group in grammar.negations]
        plain: list[tuple[Iterable[str], _Entry]] = [
            *((each.phrases, each) for each in classes),
            *((phrases, number) for number, phrases in enumerate(phrase_sets)),
            (grammar.stronger, (_Part.STRONGER, 0)),
            (grammar.weaker, (_Part.WEAKER, 0)),
        ]
        for phrases, entry in plain:
            for phrase in phrases:
                self._add(phrase, {("", ""): entry})
        for phrase in grammar.idioms:
            self._add(phrase, {arrows: (part, 0) for arrows, part in _IDIOMS.items()})
        for number, group in enumerate(grammar.negations):
            for phrase in group.words:
                self._add(phrase, {arrows: (part, number) for arrows, part in _NEGATIONS.items()})

    def _add(self, phrase: str, entries: Mapping[tuple[str, str], _Entry]) -> None:
        before, _, after = _arrows(phrase)
        entry = entries.get((before, after))
        if entry is None:
            allowed = " ".join(filter(None, (f"{a}{b}" for a, b in entries))) or "none"
            raise ValueError(f"phrase {phrase!r}: allowed arrows here are {allowed}")
        for sequence in spell_out(phrase):
            self._root.add(sequence, entry)

    def scan(self, text: str) -> Scan:
        tokens = tokenize(text)
        texts = tokens.texts
        first = self._root.next
        said: dict[int, dict[tuple[int, int, int], None]] = {}
        classes: dict[tuple[int, int, Class], None] = {}
        parts: list[_Found] = []
        factors: dict[int, float] = {}
        for at, token in enumerate(texts):
            if (node := first.get(token)) is None:
                continue
            for end, entries in node.walk(texts, at + 1):
                for entry in entries:
                    if isinstance(entry, Class):
                        classes[at, end, entry] = None
                    elif isinstance(entry, int):
                        said.setdefault(entry, {})[at, end, entry] = None
                    elif (emphasis := self._emphasis.get(entry[0])) is not None:
                        factors[end] = factors.get(at, 1.0) * emphasis
                    else:
                        parts.append((at, end, entry))
        phrases = [
            PhraseMatch(number, tokens.starts[at], tokens.ends[end - 1])
            for spans in said.values()
            for at, end, number in (_outermost(list(spans), ()) if len(spans) > 1 else spans)
        ]
        phrases.sort(key=lambda match: (match.start, match.end, match.phrases))
        matches = self._matches(tokens, classes, parts, factors) if classes else []
        return Scan(_apart(matches), phrases, tokens.words, tokens.characters)

    def _matches(
        self,
        tokens: Tokens,
        classes: Iterable[tuple[int, int, Class]],
        parts: Sequence[_Found],
        factors: Mapping[int, float],
    ) -> list[Match]:
        idioms = _first_of_overlapping(
            [(start, end) for start, end, (part, _) in parts if part is _Part.IDIOM]
        )
        kept = {
            kind: _outermost([c for c in classes if c[2].kind is kind], idioms)
            for kind in _CLASS_KINDS
        }
        inside = sorted((s, e) for s, e, (part, _) in parts if part is _Part.NEGATION)
        reach = self._reach(tokens.texts, self._acting(parts, idioms, kept))
        emotions, topics = kept[FindingKind.EMOTION], kept[FindingKind.TOPIC]
        matches: list[Match] = []
        for at, end, found in (*_told_once(emotions, inside), *topics):
            if at in reach.nothing:
                continue
            felt = found.kind is FindingKind.EMOTION or found.polarity > 0
            if felt and at in reach.no_emotion and not _threat(at, end, found, topics):
                continue
            turning = reach.turning.get(at, [])
            turns = len(turning) % 2 == 1
            if not turning and found.polarity > 0:
                turning = reach.turning_good.get(at, [])
                turns = bool(turning)
            stands_for: Class | None = found
            if turned := (turns and found.negated is not None):
                stands_for = self._labels.get((found.kind, found.negated or ""))
            elif found.polarity > 0 and at in reach.nothing_good:
                continue
            if stands_for is not None:
                start = tokens.starts[min(turning[0], at) if turned else at]
                factor = factors.get(at, 1.0)
                matches.append(Match(stands_for, start, tokens.ends[end - 1], factor, turned))
        return matches

    @staticmethod
    def _acting(
        parts: Sequence[_Found],
        idioms: Sequence[tuple[int, int]],
        kept: Mapping[FindingKind, Sequence[tuple[int, int, Class]]],
    ) -> list[_Found]:
        """Negations and arrows that lie in nothing longer: 不 in 不满意 or "no problem" is none.

        An arrow also acts from within a class: "three times in a row" wears out and is irony.
        """
        arrows = _outermost(
            [each for each in parts if each[2][0] not in (_Part.IDIOM, _Part.NEGATION)], idioms
        )
        classes = [(s, e) for each in kept.values() for s, e, _ in each]
        # The "not" in "can not say" still turns what is bad close by.
        quiet = [(s, e) for s, e, (part, _) in arrows if part not in _TURNS]
        # 不 within 不是 is the same negation.
        near = [each for each in parts if each[2][0] is _Part.NEGATION]
        return [*arrows, *_outermost(near, [*idioms, *quiet, *classes])]

    def _reach(self, texts: Sequence[str], acting: Sequence[_Found]) -> _Reach:
        reach = _Reach()
        borders = {at for at, _, (part, _) in acting if part is _Part.BORDER}
        for start, end, (part, group) in acting:
            if part is _Part.NEGATION:
                through = self._through[group]
                at = end
                reach.turn(at, start)
                while at < end + GAP + 1 and (after := through.longest(texts, at)) > at:
                    for position in range(at + 1, after + 1):
                        reach.turn(position, start)
                    at = after
            elif part is _Part.TURNS_AFTER:
                for at in _ahead(texts, end, borders, (SENTENCE_END, CLAUSE_END)):
                    reach.turning_good.setdefault(at, []).append(start)
            elif part is _Part.EMPTIES_AFTER:
                reach.no_emotion.update(_ahead(texts, end, borders, (SENTENCE_END,)))
            elif part is _Part.EMPTIES_ALL_AFTER:
                reach.nothing.update(_ahead(texts, end, borders, (SENTENCE_END,)))
            elif part is _Part.EMPTIES_NEXT:
                reach.nothing.update(range(start + 1, end + 1))
            elif part is _Part.EMPTIES_BEFORE:
                reach.nothing_good.update(_back(texts, start, borders), range(start, end))
            elif part is _Part.TURNS_BEFORE:
                for at in _back(texts, start, borders):
                    reach.turning_good.setdefault(at, []).append(start)
        return reach


@dataclass(slots=True)
class _Reach:
    """Where in a text, by token, a match that begins there means less or the opposite."""

    turning: dict[int, list[int]] = field(default_factory=dict)
    """Token -> where the negations start that reach it; an odd number of them turns."""
    turning_good: dict[int, list[int]] = field(default_factory=dict)
    """The same, of negations with an arrow: for what is good, where no nearer one reaches. Two turn
    as one does: irony twice is no sincerity."""
    no_emotion: set[int] = field(default_factory=set)
    nothing: set[int] = field(default_factory=set)
    nothing_good: set[int] = field(default_factory=set)

    def turn(self, at: int, by: int) -> None:
        self.turning.setdefault(at, []).append(by)


def _ahead(
    texts: Sequence[str], at: int, borders: Collection[int], marks: Collection[str]
) -> range:
    """The tokens from `at` to the first of `marks` or border, REACH of them at most."""
    end = min(at + REACH, len(texts))
    return range(at, next((i for i in range(at, end) if texts[i] in marks or i in borders), end))


def _back(texts: Sequence[str], at: int, borders: Collection[int]) -> range:
    """The tokens of the clause before `at`, from the last border on, REACH of them at most."""
    start = max(at - REACH, 0)
    marks = (SENTENCE_END, CLAUSE_END)
    last = next(
        (i for i in range(at - 1, start - 1, -1) if texts[i] in marks or i in borders), None
    )
    return range(start if last is None else last, at)


def _threat(at: int, end: int, found: Class, topics: Sequence[tuple[int, int, Class]]) -> bool:
    """Whether the words of something bad belong to a topic as well. `topics` are in order."""
    if found.polarity >= 0:
        return False
    until = bisect_left(topics, end, key=lambda topic: topic[0])
    return any(each[1] > at for each in topics[max(until - 2, 0) : until])


def _told_once(
    spans: Sequence[tuple[int, int, Class]], negations: Sequence[tuple[int, int]]
) -> list[tuple[int, int, Class]]:
    """Without what begins within an earlier one after its negation: "solved it" in "not solved it".

    `spans` and `negations` are in order.
    """
    found: list[tuple[int, int, Class]] = []
    begin = end = 0
    for span in spans:
        if span[0] < end:
            one = bisect_left(negations, (begin, 0))
            if one < len(negations) and negations[one][1] <= span[0]:
                continue
        if span[1] > end:
            begin, end = span[0], span[1]
        found.append(span)
    return found


def _first_of_overlapping(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """In order; of those that start together the longest."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if not found or start >= found[-1][1]:
            found.append((start, end))
    return found


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


def _outermost(
    spans: Sequence[tuple[int, int, _T]], covering: Sequence[tuple[int, int]]
) -> list[tuple[int, int, _T]]:
    """The spans that lie in no longer one, of `spans` themselves or of `covering`; by start."""
    if not covering:
        if len(spans) < 2:
            return list(spans)
        kept: list[tuple[int, int, _T]] = []
        last = (-1, -1)
        for span in sorted(spans, key=lambda span: (span[0], -span[1])):
            if span[1] > last[1] or span[:2] == last:
                kept.append(span)
                last = span[:2]
        return kept
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
