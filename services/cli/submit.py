"""`callstream submit`: recordings handed in, and followed until they are through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any

import typer

from schemas.events import CallEnded, Role
from services.assembly import Parts
from services.cli.console import Stop, err, log_to_file, out, tell_error
from services.cli.follow import THROUGH, WAITING, State, follow
from services.ingest.entrances import (
    beyond_audio,
    call_ended_for,
    check_language,
    problem_with_audio,
)
from services.ingest.handler import UPLOADED, upload, upload_uri
from services.loopback import Asks, asking, rows_of, running
from services.runtime.audio import AudioInfo, Prober
from services.runtime.errors import Invalid, NotYet
from services.runtime.stage import utc_now
from services.serve import AlreadyRunning, embedded
from services.settings import Settings, load


def submit(
    paths: Annotated[list[Path], typer.Argument(help="Audio files, or folders of them.")],
    wait: Annotated[bool, typer.Option(help="Wait until the calls are through.")] = False,
    call_id: Annotated[str | None, typer.Option(help="Id of the call; for one file.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose call it is.")] = None,
    roles: Annotated[
        str | None, typer.Option(help="Role of each channel, such as agent,customer.")
    ] = None,
    language: Annotated[str | None, typer.Option(help="Language spoken, such as en or zh.")] = None,
) -> None:
    """Hand in recordings. The same file twice is the same call.

    Beside a recording may lie FILE.json or FILE.yaml with what telephony knows of the call: queue,
    agent_id, channel_roles, language_hints and any other field of CallEnded.
    """
    settings = load()
    files = list(_audio_files(paths))
    if call_id is not None and len(files) > 1:
        raise Stop(f"--call-id names one call, and {len(files)} files were given")
    for option, name in (("--call-id", call_id), ("--tenant", tenant)):
        if name is not None and not name.strip():
            raise Stop(f"{option} is empty: leave it away for what is usual")
    if wait:
        log_to_file(settings)
    chosen = [_role(name) for name in roles.split(",")] if roles else None
    metadata: dict[str, Any] = {"language_hints": [language]} if language else {}
    if language:
        check_language("--language", language)
    parts = Parts(settings)
    log = parts.log()
    owner = tenant or settings.tenant
    began = utc_now()
    probe = Prober()
    # Asked for the length, and again for the channels: a file is looked into once.
    look = lru_cache(maxsize=1)(partial(_looked_into, settings, probe))
    handed: list[CallEnded] = []
    for path in files:
        try:
            call = call_ended_for(
                path, tenant_id=owner, call_id=call_id, roles=chosen, metadata=metadata,
                uri=upload_uri(owner, path), length_ms=partial(_length_ms, look),
            )  # fmt: skip
            _check_audio(call, path, look, named=chosen is not None)
            # What is refused is not to lie in the store, where no event leads to it.
            upload(parts.objects, owner, path)
            parts.publish(log, call)
        except (Invalid, OSError) as problem:  # the file's own; the others are handed in
            tell_error(f"{path}: {problem}")
            continue
        handed.append(call)
        out.print(f"{owner}/{call.call_id}  {path}", soft_wrap=True)
    log.close()
    parts.close()
    probe.close()
    if handed and not wait and settings.log.kind == "sqlite" and running(settings.data_dir) is None:
        err.print("they wait: no `callstream up` runs on this data folder")
    good = not (wait and handed) or _followed(settings, handed, began)
    if refused := len(files) - len(handed):
        err.print(
            f"handed in: {len(handed)}, not handed in: {refused}; mend and submit again, "
            "the same file twice is the same call",
            soft_wrap=True,
        )
    if refused or not good:
        raise typer.Exit(1)


_Look = Callable[[Path, str | None], AudioInfo | None]


def _looked_into(
    settings: Settings, probe: Prober, path: Path, container: str | None
) -> AudioInfo | None:
    """None where it is no audio: ingest says why, and keeps the file as a dead letter."""
    try:
        return probe(path, settings.ingest.audio_limits, container)
    except (Invalid, NotYet):
        return None


def _length_ms(look: _Look, path: Path, container: str | None) -> int:
    info = look(path, container)
    return 0 if info is None else info.duration_ms


def _check_audio(call: CallEnded, path: Path, look: _Look, *, named: bool) -> None:
    """Raises Invalid where the file denies the roles told of it; warns of times beyond its end.

    A file about which nothing is told that it could deny is not looked into: ingest does that.
    """
    mine = [each for each in call.recordings if (each.uri or "").startswith(UPLOADED)]
    if len(call.recordings) != 1 or not mine or not (mine[0].channel_roles or call.segments):
        return
    if (info := look(path, mine[0].container)) is None:
        return
    if problem := problem_with_audio(call, info):
        said = f"--roles: {problem}" if named else problem
        raise Invalid("bad_metadata", said)
    for told in beyond_audio(call, info):
        err.print(f"{path}: {told}", soft_wrap=True)


def _followed(settings: Settings, calls: Sequence[CallEnded], began: datetime) -> bool:
    """Wait for the calls, running the stages here where nobody else does; whether all are good."""
    try:
        if settings.log.kind != "sqlite":
            raise AlreadyRunning("the stages run elsewhere")
        with embedded(settings) as suite, asking(settings) as asks:
            err.print("no `callstream up` runs on this data folder: the stages run here meanwhile")
            known = follow(asks, calls, err, suite.trouble, since=began)
            letters = _letters_of(asks, calls, known)
            if suite.failed:
                raise Stop("; ".join(f"{n}: {e}" for n, e in suite.failed.items()))
    except AlreadyRunning:
        # The clocks of other machines may differ by so much.
        apart = timedelta() if settings.log.kind == "sqlite" else timedelta(minutes=1)
        with asking(settings) as asks:
            known = follow(asks, calls, err, since=began - apart)
            letters = _letters_of(asks, calls, known)
    good = True
    for call in calls:
        at = known.get(call.event_id, State("not seen", ""))
        good &= at.state in THROUGH and at.state != "failed" and not at.overtaken
        reason = "".join(f"  {why}" for why in (at.reason, *at.degradations) if why)
        out.print(f"{call.tenant_id}/{call.call_id}  {at.state}{reason}", soft_wrap=True)
        if at.state in ("failed", WAITING) and at.detail:
            err.print(f"  {at.detail}", soft_wrap=True)
        if at.state == "failed":
            letter = letters.get(call.event_id)
            err.print(
                f"  `callstream dead-letters show {letter}` has all of it"
                if letter
                else "  `callstream dead-letters list` has it",
                soft_wrap=True,
            )
        if at.overtaken:
            err.print(
                "  shown is another version of the call, which the platform changed later or at "
                "the same time: source_updated_at decides, of a file the time of its last change",
                soft_wrap=True,
            )
    return good


def _letters_of(
    asks: Asks, calls: Sequence[CallEnded], known: Mapping[str, State]
) -> dict[str, str]:
    """Event id -> the dead letter of what failed, where the warehouse has it already."""
    failed = {
        (call.tenant_id, call.call_id): call.event_id
        for call in calls
        if call.event_id in known and known[call.event_id].state == "failed"
    }
    if not failed:
        return {}
    rows = rows_of(
        asks,
        "SELECT tenant_id, call_id, id FROM dead_letters WHERE call_id IN {calls:Array(String)}"
        " ORDER BY failed_at DESC LIMIT 1 BY tenant_id, call_id",
        {"calls": sorted(call for _, call in failed)},
    )
    found = (((row["tenant_id"], row["call_id"]), row["id"]) for row in rows)
    return {failed[call]: id for call, id in found if call in failed}


def _audio_files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.is_file() and _may_be_audio(p))
            if not found:
                raise Stop(f"{path}: no recordings in this folder")
            yield from found
        elif path.is_file():
            yield path
        else:
            raise Stop(f"{path}: no such file")


def _may_be_audio(path: Path) -> bool:
    """Everything that is no description; what it really is, ingest finds out."""
    described = {".json", ".jsonl", ".yaml", ".yml", ".txt", ".md", ".csv", ".rttm", ".srt"}
    return path.suffix.lower() not in described and not path.name.startswith(".")


def _role(name: str) -> Role:
    try:
        return Role(name.strip().upper())
    except ValueError:
        allowed = ", ".join(role.value.lower() for role in Role)
        raise Stop(f"--roles: {name!r} is no role; allowed: {allowed}") from None
