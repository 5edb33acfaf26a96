"""Which clips are listened to, and what is known of each: a file of JSON lines.

Texts and turns come from whoever measures; nothing here trusts them further than a parser has to.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from schemas.events import Role
from services.evaluation.measures import Turn
from services.transcribe.engine import primary_tag

UNSTATED = "unstated"
_MOST_TOLD = 20
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8})*\Z")
_NOBODY_SPEAKS = frozenset({"none", "zxx"})
_UNKNOWN = frozenset({"", "und"})
T = TypeVar("T")


class WrongManifest(ValueError):
    """What is wrong with a manifest: of each problem the line, the field and the mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A recording, and what is known of it; what is None nothing can be measured against."""

    line: int
    """Where the manifest names it; 1 is the first."""
    name: str
    """As the manifest writes it."""
    path: Path
    languages: tuple[str, ...] = ()
    """Primary tags of what is spoken."""
    quality: str = UNSTATED
    """How good the reference is, in the manifest's own words."""
    text: str | None = None
    """All that is said; empty where nobody speaks."""
    channels: tuple[str, ...] | None = None
    """What is said on each channel."""
    speakers: Mapping[str, str] | None = None
    """What each speaker says, in order."""
    turns: tuple[Turn, ...] | None = None
    """Who speaks when."""
    roles: tuple[Role, ...] | None = None
    """Who is on each channel."""


class _Said(msgspec.Struct):
    speaker: str
    text: str


class _Line(msgspec.Struct):
    file: str
    lang: str | None = None
    kind: str | None = None
    transcript: str | None = None
    ref_quality: str | None = None
    rttm: str | None = None
    channel_roles: list[str] | None = None
    channel_transcripts: list[str] | dict[str, str] | None = None
    speakers: list[_Said] | str | None = None


_MENDS = {
    "file": "name the recording, relative to the manifest",
    "lang": "write a BCP 47 tag such as en or zh, several joined by +, or none",
    "kind": "write a word such as call or noise, or leave it out",
    "transcript": 'write what is said as text, "" where nobody speaks, null where it is not known',
    "ref_quality": "say where the transcript comes from, such as human or published-asr",
    "rttm": "name an RTTM file, relative to the manifest",
    "channel_roles": "write a list such as [\"agent\", \"customer\"]",
    "channel_transcripts": "write a list of texts, one for each channel in order",
    "speakers": 'write a list of {"speaker": ..., "text": ...}, or name an STM or JSON file',
}  # fmt: skip


def read_manifest(path: Path) -> list[Clip]:
    """The clips that the file at `path` names, in order; fields it does not know are passed over.

    Names of files are relative to its folder. Whether a recording is there and can be read is not
    looked at: that is a failure of this clip alone. Raises WrongManifest, and OSError where a file
    cannot be read.
    """
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise WrongManifest(f"{path.name}: not UTF-8 ({error}); save it as UTF-8") from None
    clips: list[Clip] = []
    problems: list[str] = []
    # JSON text may hold other line breaks, such as U+2028: only \n ends a line.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                clips.append(_clip(number, line, path.parent))
            except WrongManifest as problem:
                problems.append(f"{path.name} line {number}: {problem}")
    if problems:
        more = len(problems) - _MOST_TOLD
        rest = [f"and {more} more"] if more > 0 else []
        raise WrongManifest("\n".join([*problems[:_MOST_TOLD], *rest]))
    if not clips:
        raise WrongManifest(f'{path.name}: names no clip; write lines such as {{"file": "a.wav"}}')
    return clips


def _clip(number: int, text: str, folder: Path) -> Clip:
    try:
        told = msgspec.json.decode(text, type=_Line)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        field = re.split(r"[.\[`]", where)[0] if where else _missing(what)
        raise _wrong(field, what) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise WrongManifest(f"not JSON ({error}); write one object a line") from None
    if not told.file.strip() or "\0" in told.file:
        raise _wrong("file", f"{told.file!r} is no name")
    languages = _languages(told.lang)
    silent = told.transcript is None and (told.kind == "noise" or languages == ())
    roles = None if told.channel_roles is None else tuple(map(_role, told.channel_roles))
    stem = Path(told.file).stem
    return Clip(
        line=number,
        name=told.file,
        path=folder / told.file,
        languages=languages or (),
        quality=(told.ref_quality or "").strip() or UNSTATED,
        text="" if silent else told.transcript,
        channels=_channels(told.channel_transcripts, roles),
        speakers=_speakers(told.speakers, folder, stem),
        turns=None
        if told.rttm is None
        else tuple(_read("rttm", folder, told.rttm, lambda lines: _rttm(lines, stem))),
        roles=roles,
    )


def _missing(what: str) -> str:
    """The field that msgspec finds missing."""
    found = re.search(r"required field `(\w+)`", what)
    return found[1] if found else ""


def _wrong(field: str, what: str) -> WrongManifest:
    mend = _MENDS.get(field, 'write an object such as {"file": "a.wav", "transcript": "..."}')
    return WrongManifest(f"field {field}: {what}; {mend}" if field else f"{what}; {mend}")


def _languages(told: str | None) -> tuple[str, ...] | None:
    """None where nothing is said of it, nothing where no language is spoken."""
    if told is None or told.strip().lower() in _UNKNOWN:
        return None
    if told.strip().lower() in _NOBODY_SPEAKS:
        return ()
    tags = [tag.strip() for tag in told.split("+")]
    for tag in tags:
        if not _LANGUAGE.match(tag):
            raise _wrong("lang", f"{told!r} is no language tag")
    return tuple(dict.fromkeys(primary_tag(tag) for tag in tags))


def _role(told: str) -> Role:
    try:
        return Role(told.strip().upper())
    except ValueError:
        allowed = ", ".join(role.lower() for role in Role)
        raise _wrong("channel_roles", f"{told!r} is no role ({allowed})") from None


def _channels(
    told: list[str] | dict[str, str] | None, roles: Sequence[Role] | None
) -> tuple[str, ...] | None:
    """The texts in order of channels; keys are left and right, numbers from 0, or roles."""
    if not told:
        return None
    if isinstance(told, list):
        return tuple(told)
    orders = [["left", "right"], [str(number) for number in range(len(told))]]
    orders += [[role.lower() for role in roles]] if roles else []
    for order in orders:
        if len(set(order)) == len(told) and set(order) == set(told):
            return tuple(told[key] for key in order)
    raise _wrong("channel_transcripts", f"{', '.join(map(repr, told))} are no channels")


def _speakers(told: list[_Said] | str | None, folder: Path, stem: str) -> Mapping[str, str] | None:
    if not told:
        return None
    if isinstance(told, list):
        return _joined((said.speaker, said.text) for said in told)
    if told.lower().endswith(".stm"):
        return _joined(_read("speakers", folder, told, lambda lines: _stm(lines, stem)))
    return _joined(_read("speakers", folder, told, _segments))


def _joined(said: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    texts: dict[str, list[str]] = {}
    for speaker, text in said:
        texts.setdefault(speaker, []).append(text)
    return {speaker: " ".join(parts) for speaker, parts in texts.items()}


def _read(field: str, folder: Path, name: str, parse: Callable[[str], list[T]]) -> list[T]:
    """What `parse` makes of the file that `field` names. Raises WrongManifest."""
    try:
        return parse((folder / name).read_text("utf-8-sig"))
    except OSError as error:
        raise _wrong(field, f"{name}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise _wrong(field, f"{name}: {error}") from None


def _rows(text: str) -> Iterable[tuple[int, str]]:
    """Numbered lines that say something; those of `;;` are remarks."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.lstrip().startswith(";;"):
            yield number, line.strip()


def _seconds(told: str, number: int) -> float:
    try:
        value = float(told)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"line {number}: {told!r} is no time in seconds")
    return value


def _of_clip(found: Sequence[tuple[str, T]], stem: str) -> list[T]:
    """Of rows under names of recordings those of the clip; where there is one name, all."""
    names = {name for name, _ in found}
    if len(names) > 1 and stem not in names:
        raise ValueError(f"of {len(names)} recordings none is {stem!r}")
    return [row for name, row in found if len(names) == 1 or name == stem]


def _rttm(text: str, stem: str) -> list[Turn]:
    """SPEAKER file channel start duration <NA> <NA> name <NA> <NA>, in seconds."""
    found = []
    for number, line in _rows(text):
        parts = line.split()
        if parts[0] != "SPEAKER":
            continue
        if len(parts) < 8:
            raise ValueError(f"line {number}: {len(parts)} fields, an RTTM line has 8 or more")
        start, length = _seconds(parts[3], number), _seconds(parts[4], number)
        turn = Turn(parts[7], round(start * 1000), round((start + length) * 1000))
        found.append((parts[1], turn))
    if not found:
        raise ValueError("holds no line SPEAKER")
    return _of_clip(found, stem)


def _stm(text: str, stem: str) -> list[tuple[str, str]]:
    """file channel speaker start end [<label>] words, in seconds."""
    found = []
    for number, line in _rows(text):
        parts = line.split(None, 5)
        if len(parts) < 5:
            raise ValueError(f"line {number}: {len(parts)} fields, an STM line has 5 and its words")
        start = _seconds(parts[3], number)
        words = parts[5] if len(parts) > 5 else ""
        words = re.sub(r"^<[^>]*>\s*", "", words)
        if words.lower() != "ignore_time_segment_in_scoring":
            found.append((parts[0], (start, parts[2], words)))
    if not found:
        raise ValueError("holds no segment")
    ordered = sorted(_of_clip(found, stem), key=lambda row: row[0])
    return [(speaker, words) for _, speaker, words in ordered]


class _Segment(msgspec.Struct):
    """Of a list of segments: SegLST's names, and the plain ones."""

    speaker: str
    words: str | None = None
    text: str | None = None
    start_time: float | str | None = None
    start: float | str | None = None


def _segments(text: str) -> list[tuple[str, str]]:
    """A JSON list of {speaker, words or text, start_time or start in seconds}."""
    try:
        told = msgspec.json.decode(text, type=list[_Segment])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"{error}; write a list of {{speaker, words, start_time}}") from None
    if not told:
        raise ValueError("holds no segment")
    rows = []
    for number, said in enumerate(told):
        start = said.start_time if said.start_time is not None else said.start
        at = None if start is None else _seconds(str(start), number + 1)
        rows.append((at, said.speaker, said.words if said.words is not None else said.text or ""))
    if all(at is not None for at, _, _ in rows):
        rows.sort(key=lambda row: row[0] or 0.0)
    return [(speaker, words) for _, speaker, words in rows]
