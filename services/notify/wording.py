"""An alert as a message for people: what, how bad, why, what was said, and what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from schemas.events import AlertRaised, Evidence, Severity

_MOST_QUOTES = 5
_LONGEST_QUOTE = 300
_LONGEST_TITLE = 200
_LONGEST = 1_800
"""Characters: the shortest limit among the services is about 2,000."""
_HAN = re.compile(r"[㐀-䶿一-鿿豈-﫿]")
_LATIN = re.compile(r"[A-Za-zÀ-ɏ]+")


class Message(NamedTuple):
    title: str
    body: str


class _Words(NamedTuple):
    severity: Mapping[Severity, str]
    roles: Mapping[str, str]
    why: str
    said: str
    do: str
    call: str
    agent: str
    queue: str
    colon: str
    quotes: tuple[str, str]
    more: str


_WORDS: Mapping[str, _Words] = {
    "en": _Words(
        severity={Severity.LOW: "Low", Severity.MEDIUM: "Medium", Severity.HIGH: "High",
                  Severity.CRITICAL: "Critical"},
        roles={"CUSTOMER": "customer", "AGENT": "agent", "SUPERVISOR": "supervisor", "BOT": "bot"},
        why="Why", said="Heard", do="To do", call="Call", agent="Agent", queue="Queue",
        colon=": ", quotes=("“", "”"), more="and {} more",
    ),
    "zh": _Words(
        severity={Severity.LOW: "低", Severity.MEDIUM: "中", Severity.HIGH: "高",
                  Severity.CRITICAL: "紧急"},
        roles={"CUSTOMER": "客户", "AGENT": "客服", "SUPERVISOR": "主管", "BOT": "机器人"},
        why="原因", said="原话", do="建议", call="通话", agent="坐席", queue="队列",
        colon="：", quotes=("“", "”"), more="另有 {} 处",
    ),
}  # fmt: skip


def message(event: AlertRaised, language: str = "") -> Message:
    """The alert in `language`; where that is empty, in that of the words quoted."""
    words = _WORDS[language or _spoken(event)]
    severity = words.severity.get(event.severity, "")
    title = f"[{severity}] {event.title}" if severity else event.title
    lines = []
    if event.reason:
        lines.append(f"{words.why}{words.colon}{event.reason}")
    quoted = [each for each in event.evidence if each.quote.strip()]
    for evidence in quoted[:_MOST_QUOTES]:
        lines.append(f"{words.said}{words.colon}{_quote(evidence, words)}")
    if len(quoted) > _MOST_QUOTES:
        lines.append(words.more.format(len(quoted) - _MOST_QUOTES))
    if event.suggested_action:
        lines.append(f"{words.do}{words.colon}{event.suggested_action}")
    for name, value in (
        (words.call, f"{event.tenant_id}/{event.call_id}"),
        (words.agent, event.agent_id),
        (words.queue, event.queue_id),
    ):
        if value:
            lines.append(f"{name}{words.colon}{value}")
    return Message(_short(title, _LONGEST_TITLE), _short("\n".join(map(_line, lines)), _LONGEST))


def clock(ms: int) -> str:
    """mm:ss of a time within a call; hours are minutes beyond 59."""
    seconds = max(0, ms) // 1000
    return f"{seconds // 60:02d}:{seconds % 60:02d}"


def _quote(evidence: Evidence, words: _Words) -> str:
    begin, end = words.quotes
    role = words.roles.get(str(evidence.role), "")
    at = f"{clock(evidence.start_ms)} {role}".rstrip()
    return f"{at} {begin}{_short(_line(evidence.quote), _LONGEST_QUOTE)}{end}"


def _spoken(event: AlertRaised) -> str:
    text = " ".join(each.quote for each in event.evidence) or f"{event.title} {event.reason}"
    return "zh" if len(_HAN.findall(text)) > len(_LATIN.findall(text)) else "en"


def _line(text: str) -> str:
    return " ".join(text.split())


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
