"""Reads conditions from YAML: their language stands in `conditions.py`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from schemas.events import FindingKind, Role
from services.enrich.conditions import (
    CALL_NUMBERS,
    CALL_TEXTS,
    LABELS,
    LONGEST_S,
    MOMENTS,
    PARTS,
    ROLES,
    CallFact,
    CallNumber,
    CallText,
    Condition,
    Edges,
    Either,
    Every,
    Feels,
    Found,
    Happened,
    Inverse,
    Measured,
    Missing,
    Near,
    Ordered,
    Said,
    Where,
    folded,
)
from services.enrich.lexicon import spell_out
from services.enrich.metrics import METRICS, OF_A_ROLE
from services.runtime.yaml_file import Item, nearest

_WORDS = ("said", "topic", "emotion", "moment", "any")
# What has a place in time there.
_PLACED: Mapping[str, tuple[str, ...]] = {
    "near": _WORDS,
    "sequence": (*_WORDS, "near", "sequence"),
    "after": (*_WORDS, "near", "sequence"),
    "before": (*_WORDS, "near"),
    "not, after or before": (*_WORDS, "near"),
}
_WHERE = ("by", "part", "first_s", "last_s", "at_least")
# Metrics of a call that a rule asks for in words, not in numbers.
_SENTIMENT = re.compile(rf"(?P<role>{'|'.join(ROLES)})_sentiment(?:_(?P<at>start|end))?")


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads conditions; gathers the phrase sets a Scanner is to look for."""

    labels: Mapping[FindingKind, Collection[str]]
    phrase_sets: list[tuple[str, ...]] = field(default_factory=list)

    def read(self, item: Item, place: str = "") -> Condition:
        """`place` is a key of _PLACED where it stands in one. Raises FileError."""
        kinds: Mapping[str, Callable[[Item], Condition]] = {
            "said": self._said,
            "topic": lambda each: self._found(each, FindingKind.TOPIC),
            "emotion": lambda each: self._found(each, FindingKind.EMOTION),
            "metric": self._measured,
            "sentiment": self._feels,
            "moment": self._happened,
            "call": self._of_call,
            "all": lambda each: Every(self._many(each, "all")),
            "any": lambda each: Either(self._many(each, "any", inner=place)),
            "not": self._inverse,
            "near": self._near,
            "sequence": self._ordered,
        }
        entries = item.entries()
        chosen = [name for name in kinds if name in entries]
        if len(chosen) != 1:
            problem = f"needs exactly one of {', '.join(kinds)}"
            mend = next((m for name in entries if (m := nearest(name, kinds))), "")
            raise item.error(
                f"{problem}; has {' and '.join(chosen)}: put them under all or any, as a list"
                if chosen
                else f"{problem}; {mend}".rstrip("; ")
            )
        if place and chosen[0] not in _PLACED[place]:
            raise item.error(
                f"{chosen[0]!r} has no place in time, or none that fits in {place!r}; allowed are "
                f"{', '.join(_PLACED[place])}; put the others beside it, both under all"
            )
        return kinds[chosen[0]](item)

    def _many(
        self, item: Item, name: str, optional: Sequence[str] = (), inner: str = ""
    ) -> tuple[Condition, ...]:
        # Of several ways it may go, each has one place: not that of a way through several.
        place = "not, after or before" if name == "any" and inner else inner
        listed = item.fields((name,), optional)[name]
        found = tuple(self.read(each, place) for each in listed.items())
        if not found:
            raise listed.error("is empty; write at least one condition")
        return found

    def _said(self, item: Item) -> Condition:
        fields = item.fields(("said",), _WHERE)
        phrases = read_phrases(fields["said"])
        self.phrase_sets.append(phrases)
        shown = ", ".join(f"“{example(phrase)}”" for phrase in phrases[:3])
        return Said(
            len(self.phrase_sets) - 1,
            f"such as {shown}" if len(phrases) > 3 else shown,
            _where(fields),
        )

    def _found(self, item: Item, kind: FindingKind) -> Condition:
        name = kind.value.lower()
        fields = item.fields((name,), _WHERE)
        return Found(kind, fields[name].choices(self.labels[kind]), _where(fields))

    def _measured(self, item: Item) -> Condition:
        fields = item.fields(("metric",), ("role", "above", "below"))
        edges = _edges(item, fields)
        if told := _SENTIMENT.fullmatch(fields["metric"].text()):
            at = f", at: {told['at']}" if told["at"] else ""
            raise fields["metric"].error(
                f"{told[0]!r} is judged by the condition sentiment, not by metric; write "
                f"{{sentiment: negative, of: {told['role']}{at}}}"
            )
        name = fields["metric"].choice(METRICS)
        if (name in OF_A_ROLE) != ("role" in fields):
            problem = "needs a 'role'" if name in OF_A_ROLE else "is of the call and has no 'role'"
            raise fields["metric"].error(f"{name!r} {problem}")
        role = ROLES[fields["role"].choice(ROLES)] if "role" in fields else None
        return Measured(name, role, edges)

    def _feels(self, item: Item) -> Condition:
        fields = item.fields(("sentiment",), ("of", "at"))
        return Feels(
            LABELS[fields["sentiment"].choice(LABELS)],
            ROLES[fields["of"].choice(ROLES)] if "of" in fields else Role.CUSTOMER,
            fields["at"].choice(("whole", "start", "end")) if "at" in fields else "whole",
        )

    def _happened(self, item: Item) -> Condition:
        fields = item.fields(("moment",), ("longer_than_ms", *_WHERE))
        return Happened(
            MOMENTS[fields["moment"].choice(MOMENTS)],
            fields["longer_than_ms"].integer(0, 10**9) if "longer_than_ms" in fields else 0,
            _where(fields),
        )

    def _of_call(self, item: Item) -> Condition:
        listed = item.fields(("call",))["call"]
        found: list[Condition] = []
        for name, each in listed.entries().items():
            if name == "attributes":
                found += [
                    CallText(f"attributes.{key}", tuple(map(folded, value.texts())))
                    for key, value in each.entries().items()
                ]
            elif name in CALL_NUMBERS:
                found.append(CallNumber(name, _call_edges(each)))
            else:
                found.append(CallText(name, _call_texts(name, each)))
        if not found:
            raise listed.error("is empty; write at least one field, such as queue: billing")
        return found[0] if len(found) == 1 else Every(tuple(found), "call")

    def _inverse(self, item: Item) -> Condition:
        places = [name for name in ("after", "before") if name in item.entries()]
        if not places:
            if "within_s" in item.entries():
                raise item.error("'within_s' needs 'after' or 'before', of what it is counted from")
            return Inverse(self.read(item.fields(("not",), ("after", "before"))["not"]))
        if len(places) == 2:
            raise item.error("has 'after' and 'before'; write two conditions under all")
        fields = item.fields(("not", places[0]), ("within_s",))
        return Missing(
            self.read(fields["not"], "not, after or before"),
            self.read(fields[places[0]], places[0]),
            places[0] == "before",
            _within_ms(fields),
        )

    def _near(self, item: Item) -> Condition:
        within_ms = _within_ms(item.fields(("near", "within_s")))
        return Near(self._many(item, "near", ("within_s",), "near"), within_ms or 0)

    def _ordered(self, item: Item) -> Condition:
        within_ms = _within_ms(item.fields(("sequence",), ("within_s",)))
        parts = self._many(item, "sequence", ("within_s",), "sequence")
        if len(parts) < 2:
            raise item.error("a sequence of one is none; write at least two conditions")
        # A sequence in a sequence keeps its own distances: its first part follows what is before.
        of: list[Condition] = []
        gaps: list[int | None] = []
        for part in parts:
            gaps += [within_ms] if of else []
            of += part.of if isinstance(part, Ordered) else [part]
            gaps += part.within_ms if isinstance(part, Ordered) else []
        return Ordered(tuple(of), tuple(gaps))


def _within_ms(fields: Mapping[str, Item]) -> int | None:
    return int(fields["within_s"].number(0, LONGEST_S) * 1000) if "within_s" in fields else None


def _edges(item: Item, fields: Mapping[str, Item]) -> Edges:
    edges = {
        edge: fields[edge].number(-1e12, 1e12) if edge in fields else None
        for edge in ("above", "below")
    }
    above, below = edges["above"], edges["below"]
    if above is None and below is None:
        raise item.error("needs 'above' or 'below'")
    if above is not None and below is not None and above >= below:
        raise item.error(
            f"no number is above {fields['above'].text()} and below {fields['below'].text()}; "
            "write an 'above' that is less than 'below'"
        )
    return Edges(above, below)


def _call_edges(item: Item) -> Edges:
    if isinstance(item.node, yaml.MappingNode):
        return _edges(item, item.fields((), ("above", "below")))
    return Edges(one_of=frozenset(each.number(-1e12, 1e12) for each in item.items()))


def _call_texts(name: str, item: Item) -> tuple[str, ...]:
    if name not in CALL_TEXTS:
        allowed = [*CALL_TEXTS, *CALL_NUMBERS, "attributes"]
        raise item.error(
            f"is not known of a call; {nearest(name, allowed)}allowed are {', '.join(allowed)}"
        )
    allowed_texts = CALL_TEXTS[name]
    if not allowed_texts:
        return tuple(map(folded, item.texts()))
    return tuple(sorted(item.choices(allowed_texts)))


def read_call_facts(item: Item) -> dict[str, CallFact]:
    """What an example says that telephony knows of its call. Raises FileError."""
    found: dict[str, CallFact] = {}
    for name, each in item.entries().items():
        if name == "attributes":
            for key, value in each.entries().items():
                found[f"attributes.{key}"] = (folded(value.text()),)
        elif name in CALL_NUMBERS:
            found[name] = each.number(-1e12, 1e12)
        else:
            found[name] = _call_texts(name, each)
    return found


def read_phrases(item: Item, *, arrows: bool = False) -> tuple[str, ...]:
    """Phrases, each checked; raises FileError. With `arrows` they may say how far they reach."""
    for each in item.items():
        if not arrows and set("<>‹›") & set(each.text()):
            raise each.error(
                f"phrase {each.text()!r}: an arrow is for idioms and for words of negations"
            )
        try:
            spell_out(each.text())
        except ValueError as error:
            raise each.error(f"phrase {each.text()!r}: {error}") from None
    return item.texts()


def example(phrase: str) -> str:
    """The first of what `phrase` stands for, as people write it."""
    text = " ".join(spell_out(phrase)[0])
    return re.sub(r"(?<=[㐀-鿿]) (?=[㐀-鿿])", "", text)


def read_roles(fields: Mapping[str, Item], name: str) -> frozenset[Role]:
    """Roles named by the field, nobody where there is no such field; raises FileError."""
    if name not in fields:
        return frozenset()
    return frozenset(ROLES[role] for role in fields[name].choices(ROLES))


def _where(fields: Mapping[str, Item]) -> Where:
    def ms(name: str) -> int | None:
        return int(fields[name].number(0, LONGEST_S) * 1000) if name in fields else None

    return Where(
        read_roles(fields, "by"),
        fields["part"].choice(PARTS) if "part" in fields else "anywhere",
        ms("first_s"),
        ms("last_s"),
        fields["at_least"].integer(1, 10_000) if "at_least" in fields else 1,
    )
