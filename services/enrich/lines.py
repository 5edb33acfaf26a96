"""A call as a language model reads it: lines of data, and the tokens they take."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


def estimated_tokens(text: str) -> int:
    """How many tokens `text` is held to have: more than the tokenizers of today's models make.

    A third for a Latin letter or a space, one for a digit, a sign or a letter of another alphabet,
    two for a Han character, kana or hangul syllable, four beyond that. No bound: random letters may
    take more.
    """
    thirds = 0
    for character in text:
        code = ord(character)
        if code < 0x80:
            thirds += 1 if character.isalpha() or character == " " else 3
        elif code < 0x800:
            thirds += 3
        elif code < 0x10000:
            thirds += 6
        else:
            thirds += 12
    return -(-thirds // 3)


# What chat templates take for the start of a turn, wherever it stands.
_CONTROL = re.compile(r"<|\[(?=/?(?:INST|AVAILABLE_TOOLS|TOOL_|SYSTEM_PROMPT|IMG|PREFIX|SUFFIX))")
_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
_LONE = re.compile(r"[\ud800-\udfff]")


def data_line(found: Mapping[str, Any]) -> str:
    """`found` as a line of JSON, without what a chat template or a reader of lines acts on."""
    text = json.dumps(found, ensure_ascii=False)
    return inert(_LONE.sub("�", text).translate(_LINE_ENDS))


def inert(text: str) -> str:
    """JSON of the same meaning, in which no turn starts or ends."""
    return _CONTROL.sub(lambda sign: f"\\u{ord(sign[0]):04x}", text)


@dataclass(frozen=True, slots=True)
class Line:
    """A segment as it goes out, or a piece of one that is longer than a request."""

    segment_id: int
    who: str
    text: str
    at: int | None = None
    """The character that a piece begins with; None where the segment is whole."""
    cost: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cost", 1 + estimated_tokens(self.sent))

    @property
    def sent(self) -> str:
        found: dict[str, Any] = {"id": self.segment_id}
        if self.at is not None:
            found["at"] = self.at
        return data_line({**found, "who": self.who, "text": self.text})

    def halves(self) -> tuple[Line, Line]:
        """Cut at a space where there is one near the middle."""
        middle = len(self.text) // 2
        cut = self.text.rfind(" ", middle - middle // 2, middle) + 1 or middle
        at = self.at or 0
        return (
            Line(self.segment_id, self.who, self.text[:cut], at),
            Line(self.segment_id, self.who, self.text[cut:], at + cut),
        )


def take(pending: deque[Line], budget: int) -> list[Line]:
    """As many lines as have room, in order; a line longer than the budget is divided."""
    taken: list[Line] = []
    left = budget
    while pending and (pending[0].cost <= left or not taken):
        line = pending.popleft()
        if line.cost > budget and len(line.text) > 1:
            pending.extendleft(reversed(line.halves()))
            continue
        taken.append(line)
        left -= line.cost
    return taken


def parts(lines: Iterable[Line], budget: int) -> Iterator[list[Line]]:
    pending = deque(lines)
    while pending:
        yield take(pending, budget)
