"""Transcripts a person writes or pastes: text lines or JSON in, findings as JSON out."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from schemas.checks import LOUDEST_DBFS, QUIETEST_DBFS
from schemas.events import (
    AlertRaised,
    CallEnded,
    CallEnriched,
    CallTranscribed,
    Engine,
    Platform,
    Role,
    Segment,
    Source,
)

ROLE_WORDS = {
    "agent": Role.AGENT,
    "customer": Role.CUSTOMER,
    "bot": Role.BOT,
    "ivr": Role.IVR,
    "supervisor": Role.SUPERVISOR,
    "unknown": Role.UNKNOWN,
    "客服": Role.AGENT,
    "坐席": Role.AGENT,
    "客户": Role.CUSTOMER,
    "顾客": Role.CUSTOMER,
    "主管": Role.SUPERVISOR,
}
# Ordinary speaking rates, for texts that do not tell their times.
CHARACTER_MS = 70
HAN_MS = 220
PAUSE_MS = 400

_LINE = re.compile(
    r"\s*(?:\[(?:(?P<h>\d+):)?(?P<m>\d{1,3}):(?P<s>\d{2})(?:\.(?P<f>\d{1,3}))?\]\s*)?"
    r"(?P<role>[^\s:：\[\]]+)\s*[:：]\s*(?P<text>.*)"
)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class TranscriptError(ValueError):
    """The transcript cannot be read; says where and what is allowed."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Line:
    role: Role
    text: str
    start_ms: int | None
    end_ms: int | None
    loudness_dbfs: float | None = None


def parse_transcript(
    text: str, *, tenant_id: str = "local", call_id: str = "transcript"
) -> CallTranscribed:
    """A transcript as an event. Raises TranscriptError naming the line.

    Text is one turn per line, `agent: ...` or `客户：...`, with an optional `[mm:ss]` before the
    role; empty lines and lines that begin with # are skipped. JSON is a list of objects, or an
    object whose `segments` is one, each with `role`, `text` and optionally `start_ms`, `end_ms` and
    `loudness_dbfs`, a number from -200 to 20: only so do rules over loudness have something to go
    by. Times not given are estimated from the length of the text.
    """
    lines = (
        _json_lines(text) if text.lstrip()[:1] in ("[", "{") and _is_json(text) else _lines(text)
    )
    if not lines:
        raise TranscriptError("line 1: no turn found; write lines such as `agent: Good morning`")
    segments: list[Segment] = []
    at = 0
    for i, line in enumerate(lines):
        start = at if line.start_ms is None else line.start_ms
        end = line.end_ms
        if end is None:
            end = start + _duration_ms(line.text)
            following = lines[i + 1].start_ms if i + 1 < len(lines) else None
            if following is not None and start < following < end:
                end = following
        segments.append(
            Segment(
                segment_id=i,
                recording_id="text",
                channel=0,
                speaker=line.role.value.lower(),
                role=line.role,
                start_ms=start,
                end_ms=end,
                text=line.text,
                language=_language(line.text),
                loudness_dbfs=line.loudness_dbfs,
            )
        )
        at = max(at, end + PAUSE_MS)
    duration_ms = max(segment.end_ms for segment in segments)
    return CallTranscribed(
        tenant_id=tenant_id,
        call_id=call_id,
        revision=0,
        transcribed_at=_EPOCH,
        call=CallEnded(
            event_id=call_id,
            tenant_id=tenant_id,
            call_id=call_id,
            occurred_at=_EPOCH,
            published_at=_EPOCH,
            source=Source(platform=Platform.OTHER),
            started_at=_EPOCH,
            ended_at=_EPOCH,
        ),
        recordings=[],
        duration_ms=duration_ms,
        engine=Engine(name="text", version="1", model="none", reason="written by a person"),
        language=_language(" ".join(line.text for line in lines)),
        segments=segments,
    )


def findings_json(enriched: CallEnriched, alerts: Sequence[AlertRaised]) -> str:
    """What was found, as indented JSON: CallEnriched without the call itself, alerts in full."""
    shown = dataclasses.asdict(enriched)
    del shown["call"]
    shown["alerts"] = [dataclasses.asdict(alert) for alert in alerts]
    return json.dumps(shown, ensure_ascii=False, indent=2, default=_plain)


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _is_json(text: str) -> bool:
    # `[00:01] agent: ...` begins like a JSON list, and so does `[xx] agent: ...`, a mistake.
    return not re.match(r"\s*\[(?:\d+:\d|[^\]\[{}\"\n]*\]\s*[^\s:：\[\]]+\s*[:：])", text)


def _duration_ms(text: str) -> int:
    han = sum("\u3400" <= character <= "\u9fff" for character in text)
    return max(han * HAN_MS + (len(text) - han) * CHARACTER_MS, 300)


def _language(text: str) -> str:
    han = sum("\u3400" <= character <= "\u9fff" for character in text)
    latin = sum(character.isascii() and character.isalpha() for character in text)
    if not han and not latin:
        return "und"
    return "zh" if han * 3 >= latin else "en"


def _lines(text: str) -> list[_Line]:
    found: list[_Line] = []
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = _LINE.fullmatch(line)
        if parts is None:
            raise TranscriptError(
                f"line {number}: {line.strip()[:60]!r} is no turn; "
                "write `agent: ...` or `[mm:ss] customer: ...`"
            )
        start: int | None = None
        if parts["m"] is not None:
            seconds = int(parts["h"] or 0) * 3600 + int(parts["m"]) * 60 + int(parts["s"])
            start = seconds * 1000 + int((parts["f"] or "0").ljust(3, "0"))
        found.append(
            _Line(_role(parts["role"], f"line {number}"), parts["text"].strip(), start, None)
        )
    return found


def _role(word: object, where: str) -> Role:
    role = ROLE_WORDS.get(word.lower()) if isinstance(word, str) else None
    if role is None:
        raise TranscriptError(
            f"{where}: role {word!r} is not known; allowed are {', '.join(ROLE_WORDS)}"
        )
    return role


def _json_lines(text: str) -> list[_Line]:
    try:
        data: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise TranscriptError(f"line {error.lineno}: is no JSON: {error.msg}") from None
    if isinstance(data, dict):
        data = data.get("segments", data.get("turns"))
    if not isinstance(data, list):
        raise TranscriptError("line 1: JSON must be a list of turns or hold one as 'segments'")
    found: list[_Line] = []
    for i, turn in enumerate(data):
        where = f"segments[{i}]"
        if not isinstance(turn, dict):
            raise TranscriptError(f"{where}: is no object with 'role' and 'text'")
        if not isinstance(turn.get("text"), str):
            raise TranscriptError(f"{where}.text: {turn.get('text')!r} is no text")
        role = _role(turn.get("role"), f"{where}.role")
        start, end = (_time(turn, key, where) for key in ("start_ms", "end_ms"))
        if end is not None and (start is None or end < start):
            raise TranscriptError(f"{where}.end_ms: {end} needs a start_ms that is not later")
        loudness = _loudness(turn, where)
        found.append(_Line(role, turn["text"].strip(), start, end, loudness))
    return found


def _time(turn: dict[str, Any], key: str, where: str) -> int | None:
    value = turn.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TranscriptError(f"{where}.{key}: {value!r} is no number of milliseconds, 0 or more")
    return value


def _loudness(turn: dict[str, Any], where: str) -> float | None:
    value = turn.get("loudness_dbfs")
    if value is None:
        return None
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not (QUIETEST_DBFS <= value <= LOUDEST_DBFS)
    ):
        raise TranscriptError(
            f"{where}.loudness_dbfs: {value!r} is no number from {QUIETEST_DBFS:g} to "
            f"{LOUDEST_DBFS:g}"
        )
    return float(value)
