"""Files as calls: what `callstream submit` and the drop folder publish to `calls.ended`.

Ids follow from content and file name, so a file that is handed in twice, or again after a crash,
is the same event of the same call, and whoever reads it drops the repeat.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import signal
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

import msgspec
import yaml

from schemas.checks import problem_with
from schemas.events import CallEnded, Recording, Role
from services.runtime.audio import AudioInfo
from services.runtime.errors import Invalid, Transient
from services.runtime.observe import logger
from services.runtime.stage import event_id, utc_now

SIDECARS = (".json", ".yaml", ".yml")

_RECORDING_KEYS = frozenset(f.name for f in fields(Recording)) - {"recording_id", "status", "uri"}
# Of the recording and of the call alike; what is said of the file is meant.
_CALL_KEYS = frozenset(f.name for f in fields(CallEnded))
# What scripts of sample calls say beside: nothing that telephony knows.
_PASSED_OVER = frozenset({"name", "file", "format", "title", "turns", "voices", "expected"})
_ENUM_KEYS = frozenset({"role", "kind", "direction", "disposition", "disconnected_by", "consent",
                        "lane", "platform", "channel_roles"})  # fmt: skip
# A tag as BCP 47 has it; what lies behind the first part is not looked at.
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8})*")
# A recorder stops that much before the platform notes it.
_TRAILING_MS = 2_000


def call_ended_for(
    path: Path,
    *,
    tenant_id: str,
    call_id: str | None = None,
    roles: Sequence[Role] | None = None,
    metadata: Mapping[str, Any] | None = None,
    lies_at: Path | None = None,
    uri: str | None = None,
    clock: Callable[[], datetime] = utc_now,
    length_ms: Callable[[Path, str | None], int] | None = None,
) -> CallEnded:
    """The call whose only recording is the file at `path`.

    `metadata`, over a sidecar `<file>.json`, `.yaml` or `.yml` (else `<stem>.json` ...), gives any
    field of CallEnded, any of Recording (`channel_roles`, `duration_ms`, `sha256` ...), and the
    short forms `language: en`, `queue: billing`, `agent_id`, `agent_name`, and
    `hold: [[start_ms, end_ms], ...]`. Symbols may be in lower case. Without times, the call ended
    when the file was last changed; how long it took says `length_ms`, which is given the file and
    its container, where nothing else does. `call_id` is by default made of file name and content.
    `lies_at` is where the file will be read from, if not at `path`; `uri` names any other place.

    Raises FileNotFoundError, and Invalid (`bad_metadata`) naming the sidecar and the key that is
    wrong.
    """
    sidecar = sidecar_of(path)
    with _said_by(sidecar):
        told = {**(_read(sidecar) if sidecar else {}), **(metadata or {})}
    digest = sha256_of(path)
    changed = max(each.stat().st_mtime_ns for each in (path, sidecar) if each is not None)
    changed_at = datetime.fromtimestamp(changed // 1_000_000 / 1000, UTC)
    with _said_by(sidecar):
        plain = _expanded(told, digest)
    recording: dict[str, Any] = {
        "recording_id": f"{digest[:16]}",
        "status": "AVAILABLE",
        "uri": uri or (lies_at or path).absolute().as_uri(),
        # Says what a file without header is, wherever it comes to lie.
        "container": path.suffix.lstrip(".").lower() or None,
        "size_bytes": path.stat().st_size,
        "sha256": digest,
        **plain.pop("recording"),
    }
    if roles is not None:
        recording["channel_roles"] = [role.value for role in roles]
    call: dict[str, Any] = {
        "tenant_id": tenant_id,
        "call_id": call_id or _call_id_for(path, digest),
        "source": {"platform": "OTHER", "adapter_version": "file-1"},
        "source_updated_at": changed_at,
        "published_at": clock(),
        "recordings": [recording],
        **plain,
    }
    if call_id is not None:
        call["call_id"] = call_id
    call["tenant_id"] = tenant_id
    lasted_ms = recording.get("duration_ms") or 0
    timed = bool(lasted_ms) or {"started_at", "ended_at"} <= call.keys()
    if not timed and length_ms is not None:
        lasted_ms = length_ms(path, recording["container"])
        recording["duration_ms"] = lasted_ms or None
    with _said_by(sidecar):
        _fill_times(call, changed_at, lasted_ms)
        _check_languages(call.get("language_hints"), "language" in told)
    about = json.dumps([path.name, digest, sorted(told.items()), roles], default=str)
    call.setdefault("event_id", event_id("file", f"{tenant_id}\n{call['call_id']}\n{about}", 0, 0))
    with _said_by(sidecar):
        return _converted(call, told)


def problem_with_audio(call: CallEnded, info: AudioInfo) -> str | None:
    """What the description of the file, the only recording of `call`, says that its audio denies.

    Ingest would pass over roles of another number of channels than the file has.
    """
    roles = call.recordings[0].channel_roles
    if not roles or len(roles) == info.channels:
        return None
    named = ",".join(role.value.lower() for role in roles)
    channels = f"{info.channels} channel{'' if info.channels == 1 else 's'}"
    mend = (
        "leave them away: its voices share one channel"
        if info.channels == 1
        else f"name {info.channels}, in the order of the channels"
    )
    return f"channel_roles is {named}, and the file has {channels}; {mend}"


def beyond_audio(call: CallEnded, info: AudioInfo) -> list[str]:
    """The intervals of `call` that begin or end after its only recording, in words."""
    start_ms = call.recordings[0].start_offset_ms or 0
    return [
        f"{segment.kind.value.lower()} [{segment.start_ms}, {segment.end_ms}] reaches beyond the "
        f"recording, which ends at {start_ms + info.duration_ms}; these are ms since the start"
        for segment in call.segments
        if segment.end_ms > start_ms + info.duration_ms + _TRAILING_MS
    ]


def sidecar_of(path: Path) -> Path | None:
    """The file that describes the recording at `path`, where there is one."""
    names = [path.name + suffix for suffix in SIDECARS]
    names += [path.stem + suffix for suffix in SIDECARS]
    for name in names:
        sidecar = path.with_name(name)
        if sidecar != path and sidecar.is_file():
            return sidecar
    return None


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _call_id_for(path: Path, digest: str) -> str:
    name = re.sub(r"[\x00-\x1f\x7f/]", "-", path.stem)[:200]
    return f"{name}-{digest[:12]}"


@contextmanager
def _said_by(sidecar: Path | None) -> Iterator[None]:
    """Name the file in what is found wrong with it."""
    try:
        yield
    except Invalid as problem:
        if sidecar is None:
            raise
        raise Invalid(problem.reason, f"{sidecar.name}: {problem.detail}") from problem


def _read(sidecar: Path) -> dict[str, Any]:
    try:
        text = sidecar.read_text("utf-8")
        told = json.loads(text) if sidecar.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise Invalid("bad_metadata", str(error)) from error
    if not isinstance(told, dict) or not all(isinstance(key, str) for key in told):
        raise Invalid("bad_metadata", "not a mapping of names to values")
    return told


def _expanded(told: Mapping[str, Any], digest: str) -> dict[str, Any]:
    """`told` as fields of CallEnded, and those of its recording under `recording`."""
    plain: dict[str, Any] = {}
    recording: dict[str, Any] = {}
    for key, value in told.items():
        match key:
            case "language":
                plain.setdefault("language_hints", [value])
            case "queue" if isinstance(value, str):
                plain["queue"] = {"id": value}
            case "hold":
                plain["segments"] = [*_list("segments", told), *_holds(value)]
            case "agent_id" | "agent_name":
                plain.setdefault("participants", _agent(told))
            case "segments" if "hold" in told:
                pass
            case "sha256" if value != digest:
                raise Invalid("bad_metadata", f"sha256 is {value}, the file has {digest}")
            case _ if key in _RECORDING_KEYS:
                recording[key] = value
            case _ if key in _CALL_KEYS:
                plain[key] = value
            case _ if key in _PASSED_OVER:
                pass
            case _:
                raise Invalid(
                    "bad_metadata",
                    f"{key!r} is no field of CallEnded or Recording; put what is your own under "
                    "'attributes'",
                )
    upper: dict[str, Any] = _upper({**plain, "recording": recording})
    return upper


def _agent(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    named = told.get("agent_id"), told.get("agent_name")
    return [
        {
            "participant_id": "agent",
            "role": "AGENT",
            "agent_id": named[0],
            "display_name": named[1],
        },
        {"participant_id": "customer", "role": "CUSTOMER"},
    ]


def _list(key: str, told: Mapping[str, Any]) -> list[Any]:
    value = told.get(key, [])
    if not isinstance(value, list):
        raise Invalid("bad_metadata", f"{key} is {value!r}, not a list")
    return value


def _holds(value: Any) -> list[dict[str, Any]]:
    try:
        return [{"kind": "HOLD", "start_ms": start, "end_ms": end} for start, end in value]
    except (TypeError, ValueError) as error:
        raise Invalid(
            "bad_metadata", f"hold is {value!r}, not [[start_ms, end_ms], ...]"
        ) from error


def _upper(value: Any, key: str = "") -> Any:
    """`value` with the symbols of enums in upper case, as the schema has them."""
    if isinstance(value, Mapping):
        return {k: v if k == "attributes" else _upper(v, str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_upper(item, key) for item in value]
    return value.upper() if key in _ENUM_KEYS and isinstance(value, str) else value


def _fill_times(call: dict[str, Any], changed_at: datetime, duration_ms: int) -> None:
    """started_at, ended_at and occurred_at from one another, the duration, or the file."""
    times: dict[str, datetime] = {}
    for key in ("started_at", "ended_at"):
        if key in call:
            try:
                times[key] = msgspec.convert(call[key], datetime)
            except msgspec.ValidationError as error:
                raise Invalid(
                    "bad_metadata", f"{key}={str(call[key])!r}: {error}; as in 2026-03-02T08:30:00Z"
                ) from error
    try:
        duration = timedelta(milliseconds=duration_ms)
        if "ended_at" not in times:
            times["ended_at"] = times["started_at"] + duration if times else changed_at
        times.setdefault("started_at", times["ended_at"] - duration)
    except (TypeError, OverflowError) as error:
        raise Invalid("bad_metadata", f"duration_ms={duration_ms!r}: {error}") from error
    call["started_at"], call["ended_at"] = times["started_at"], times["ended_at"]
    call.setdefault("occurred_at", times["ended_at"])


def check_language(key: str, tag: str) -> None:
    """Raises Invalid for what is no language tag: an engine would pass over it."""
    if not _LANGUAGE.fullmatch(tag):
        raise Invalid(
            "bad_metadata",
            f"{key}={tag!r} is no language tag; its first part has two or three letters, as in "
            "en, zh or de-AT",
        )


def _check_languages(hints: Any, short: bool) -> None:
    for hint in hints if isinstance(hints, list | tuple) else ():
        if isinstance(hint, str):
            check_language("language" if short else "language_hints", hint)


def _converted(call: dict[str, Any], told: Mapping[str, Any]) -> CallEnded:
    try:
        event = msgspec.convert(call, CallEnded)
    except msgspec.ValidationError as error:
        raise Invalid("bad_metadata", _refusal(str(error), call, told)) from error
    if unknown := _unknown(call, msgspec.to_builtins(event, builtin_types=(datetime,))):
        raise Invalid("bad_metadata", f"{unknown!r} is no field of the schema")
    for field in fields(CallEnded):
        value = getattr(event, field.name)
        if isinstance(value, datetime) and value.tzinfo is None:
            raise Invalid(
                "bad_metadata", f"{field.name} {value} has no time zone; append Z or +01:00"
            )
    if problem := problem_with(event):
        first, _, rest = problem.partition(" ")
        raise Invalid("bad_metadata", f"{_own_key(first, told)} {rest}")
    return event


# Field -> the keys by which it may have been said, the short form first.
_SAID_BY = {
    "occurred_at": ("ended_at", "started_at"),
    "ended_at": ("started_at", "duration_ms"),
    "segments": ("hold",),
    "participants": ("agent_id", "agent_name"),
    "language_hints": ("language",),
}


def _own_key(field: str, told: Mapping[str, Any]) -> str:
    """What whoever wrote `told` calls that field."""
    name = field.partition("[")[0].rstrip(":")
    if name in told or name not in _SAID_BY:
        return field
    return next((key for key in _SAID_BY[name] if key in told), field)


def _refusal(problem: str, call: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    """What the schema refuses, by the key that was written, its value, and the values allowed."""
    what, at, place = problem.partition(" - at `$.")
    if not at:
        return problem
    path: list[str] = re.findall(r"[^.\[\]`]+", place)
    value: Any = call
    kind: Any = CallEnded
    for step in path:
        try:
            value = value[int(step) if isinstance(value, list) else step]
            kind = _inner(kind, step)
        except (LookupError, ValueError, TypeError):
            return problem
    if path[0] == "recordings" and "recordings" not in told:
        path = path[2:]
    elif path[0] == "participants" and path[-1] in ("agent_id", "display_name"):
        short = {"agent_id": "agent_id", "display_name": "agent_name"}[path[-1]]
        path = [short] if short in told else path
    key = ".".join([_own_key(path[0], told), *path[1:]]) if path else place.rstrip("`")
    key = re.sub(r"\.(\d+)", r"[\1]", key)
    if isinstance(kind, type) and issubclass(kind, Enum):
        allowed = ", ".join(str(symbol.value).lower() for symbol in kind)
        shown = value.lower() if isinstance(value, str) else value
        return f"{key}={shown!r} is none of {allowed}"
    return f"{key}={value!r}: {what[:1].lower()}{what[1:]}"


def _inner(kind: Any, step: str) -> Any:
    """The type of the field or element `step` of `kind`, without its None."""
    found = get_type_hints(kind)[step] if is_dataclass(kind) else get_args(kind)[-1]
    some = [each for each in get_args(found) if each is not NoneType]
    return some[0] if isinstance(found, UnionType) and len(some) == 1 else found


def _unknown(given: Any, taken: Any, at: str = "") -> str | None:
    """The path of a key that is in `given` and was not taken over."""
    if isinstance(given, Mapping):
        for key, value in given.items():
            path = f"{at}.{key}" if at else str(key)
            if key not in taken:
                return path
            if found := _unknown(value, taken[key], path):
                return found
    elif isinstance(given, list):
        for index, (value, other) in enumerate(zip(given, taken, strict=True)):
            if found := _unknown(value, other, f"{at}[{index}]"):
                return found
    return None


@dataclass(frozen=True, slots=True)
class _Seen:
    """How a file and its sidecar looked, and since when they have looked so."""

    state: tuple[int, ...]
    since: datetime


# Characters of its hash before the name of a file in `done/`.
_DIGEST_SIZE = 12
# Names that copying programs give to what is not finished.
_UNFINISHED = (".part", ".partial", ".filepart", ".tmp", ".crdownload", ".incomplete")


class DropFolder:
    """Takes recordings that are put into a folder, with their sidecars.

    A file is taken once it and its sidecar have been unchanged for `settle_s` and, where the
    system can tell, nobody has it open for writing. It is linked into `done/`, published as lying
    there, and only then removed from the folder: a crash in between leaves it to be taken again
    under the same ids. With `move` off the file stays where it is and a marker in `.taken/` says
    so. What cannot be described goes to `refused/`, with a `.reason` file beside it.
    """

    def __init__(
        self,
        folder: Path,
        publish: Callable[[CallEnded], None],
        *,
        tenant_id: str,
        settle_s: float = 5.0,
        move: bool = True,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """`publish` returns when the event is durable, and may raise Transient."""
        self._folder = folder
        self._publish = publish
        self._tenant_id = tenant_id
        self._settle = timedelta(seconds=settle_s)
        self._move = move
        self._clock = clock
        self._seen: dict[Path, _Seen] = {}
        for name in ("done", "refused") if move else (".taken",):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for name in ("done", "refused"):  # published or described, then a crash
            for leaving in (folder / name).glob(".*"):
                self._arrive(leaving)

    def watch(self, stop: threading.Event, every_s: float = 1.0) -> None:
        """Look every `every_s` until `stop` is set.

        A publisher that is down is waited for, and so is a folder that cannot be read.
        """
        log = logger("drop_folder")
        while not stop.is_set():
            try:
                self.poll()
            except Transient as why:
                log.warning("waiting", reason=why.reason, detail=why.detail)
            except OSError as error:  # a mount that is away, no descriptor left
                log.warning("waiting", reason="cannot_look", detail=str(error))
            stop.wait(every_s)

    def poll(self) -> list[CallEnded]:
        """Look once; the calls that were published.

        Raises OSError where the folder cannot be read, Transient where `publish` does.
        """
        now = self._clock()
        present = sorted(path for path in self._folder.iterdir() if _is_recording(path))
        self._seen = {path: seen for path, seen in self._seen.items() if path in set(present)}
        taken = []
        for path in present:
            try:
                if not self._settled(path, now) or self._is_marked(path):
                    continue
                try:
                    taken.append(self._take(path))
                except Invalid as problem:
                    self._refuse(path, problem)
            except OSError as error:  # tried again once it has settled anew
                if not os.path.lexists(path):  # taken away by its owner, or by another watcher
                    continue
                logger("drop_folder").warning("cannot_take", file=path.name, error=str(error))
            self._seen.pop(path, None)
        return taken

    def _settled(self, path: Path, now: datetime) -> bool:
        state = _state(path)
        seen = self._seen.get(path)
        if seen is None or seen.state != state:
            seen = self._seen[path] = _Seen(state, now)
        return now - seen.since >= self._settle and not _being_written(path)

    def _take(self, path: Path) -> CallEnded:
        if not self._move:
            call = call_ended_for(path, tenant_id=self._tenant_id, clock=self._clock)
            self._publish(call)
            self._mark(path, call.call_id)
            return call
        inode = path.stat().st_ino
        target = self._folder / "done" / f"{sha256_of(path)[:_DIGEST_SIZE]}-{path.name}"
        call = call_ended_for(path, tenant_id=self._tenant_id, lies_at=target, clock=self._clock)
        # Where there are no hard links, the file appears under `target` only after it is
        # published; who looks for it before that finds nothing, and waits.
        with suppress(OSError):
            target.hardlink_to(path)
        self._publish(call)
        leaving = target.with_name(f".{target.name}")
        path.replace(leaving)
        if leaving.stat().st_ino == inode:
            self._arrive(leaving)
        else:  # another file was put there under the same name meanwhile
            leaving.replace(path)
        return call

    def _arrive(self, leaving: Path) -> None:
        """Take the sidecar after its file; only then has the file its name, and all is done.

        A sidecar left behind would describe the next file of that name.
        """
        target = leaving.with_name(leaving.name[1:])
        taken = leaving.parent.name == "done"
        path = self._folder / (target.name[_DIGEST_SIZE + 1 :] if taken else target.name)
        sidecar = sidecar_of(path)
        if sidecar is not None and not os.path.lexists(path):
            name = target.name + sidecar.suffix if taken else sidecar.name
            sidecar.replace(leaving.with_name(name))
        leaving.replace(target)
        # Renaming to another link of the same file leaves both names.
        leaving.unlink(missing_ok=True)

    def _refuse(self, path: Path, problem: Invalid) -> None:
        if not self._move:
            self._mark(path, str(problem))
            return
        folder = self._folder / "refused"
        (folder / f"{path.name}.reason").write_text(f"{problem}\n", "utf-8")
        leaving = folder / f".{path.name}"
        path.replace(leaving)
        self._arrive(leaving)

    def _marker(self, path: Path) -> Path:
        return self._folder / ".taken" / path.name

    def _mark(self, path: Path, note: str) -> None:
        marker = self._marker(path)
        beside = marker.with_name(f".{marker.name}")
        beside.write_text(f"{_state(path)}\n{note}\n", "utf-8")
        beside.replace(marker)

    def _is_marked(self, path: Path) -> bool:
        if self._move:
            return False
        try:
            return self._marker(path).read_text("utf-8").startswith(f"{_state(path)}\n")
        except FileNotFoundError:
            return False


def _is_recording(path: Path) -> bool:
    if path.name.startswith(".") or path.suffix.lower() in (*SIDECARS, *_UNFINISHED):
        return False
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _state(path: Path) -> tuple[int, ...]:
    """Sizes and times of a file and its sidecar; differs once either has changed."""
    sidecar = sidecar_of(path)
    looks = [each.stat() for each in (path, sidecar) if each is not None]
    return tuple(number for look in looks for number in (look.st_size, look.st_mtime_ns))


def _being_written(path: Path) -> bool:
    """Whether somebody has the file open for writing; False where that cannot be told."""
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        # A read lease is refused while the file is open for writing. Were it broken before it is
        # given back, the default signal would end this process; SIGURG is ignored.
        fcntl.fcntl(handle, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False
