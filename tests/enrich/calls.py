"""Calls for tests: segments in a line each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from schemas.events import CallTranscribed, Role, Segment
from services.enrich.transcript_file import parse_transcript

ROLES = {"a": Role.AGENT, "c": Role.CUSTOMER, "u": Role.UNKNOWN, "i": Role.IVR}


def segment(
    who: str, start_ms: int, end_ms: int, text: str = "hello", number: int = 0, **more: Any
) -> Segment:
    role = ROLES[who]
    return Segment(
        **{
            "segment_id": number,
            "recording_id": "r",
            "channel": 0 if who == "a" else 1,
            "speaker": role.value.lower(),
            "role": role,
            "start_ms": start_ms,
            "end_ms": end_ms,
            "text": text,
            "language": "en",
            **more,
        }
    )


def timeline(*spoken: tuple[str, int, int] | tuple[str, int, int, str]) -> list[Segment]:
    """Segments of ("a" or "c", start, end, text), numbered in order."""
    return [
        segment(part[0], part[1], part[2], part[3] if len(part) == 4 else "hello", number)
        for number, part in enumerate(spoken)
    ]


def call(*segments: Segment, **more: Any) -> CallTranscribed:
    base = parse_transcript("agent: hello")
    end = max((each.end_ms for each in segments), default=0)
    return replace(base, segments=list(segments), **{"duration_ms": end, **more})
