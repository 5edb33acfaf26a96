"""The command `callstream`."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from schemas.events import CallEnded, CallEnriched, CallTranscribed, Redaction, Role
from services import dead_letters as dead
from services.assembly import SERVICES, Parts
from services.cli.archive import NoSuchCall, newest
from services.cli.clip import clip as cut_clip
from services.cli.clip import time_ms
from services.cli.console import Stop, err, log_to_file, out
from services.cli.demo import demo as run_demo
from services.cli.doctor import checks
from services.cli.eval import eval_app
from services.cli.evidence import moment_of, without_personal
from services.cli.explain import as_json as explained_json
from services.cli.explain import as_text as explained_text
from services.cli.explain import explain as explanation
from services.cli.follow import THROUGH, WAITING, State, follow, named_call, states
from services.cli.notifications import notifications_app
from services.cli.replay import replay_app
from services.cli.review import review_app, reviews_of
from services.cli.rules import rules_app
from services.cli.schemas import schemas_app
from services.cli.show import FORMATS, text
from services.cli.status import Looker, as_json, as_screen
from services.cli.topics import topics_app
from services.enrich.handler import enrich_call
from services.enrich.rules import load_tenant_rules
from services.enrich.transcript_file import findings_json, parse_transcript
from services.ingest.entrances import (
    beyond_audio,
    call_ended_for,
    check_language,
    problem_with_audio,
)
from services.ingest.handler import UPLOADED, upload, upload_uri
from services.loopback import Asks, Question, asking, rows_of, running
from services.runtime import headers as h
from services.runtime.audio import Prober
from services.runtime.errors import Failure, Invalid, NotYet, Transient
from services.runtime.observe import configure_logs
from services.runtime.stage import Envelope, utc_now
from services.serve import AlreadyRunning, embedded, serve, switch_often, until_told
from services.settings import PREFIX, Settings, WrongSetting, described, load

app = typer.Typer(
    help="Call recordings in, data people can act on out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
letters_app = typer.Typer(help="What could not be processed, and what to do about it.",
                          no_args_is_help=True)  # fmt: skip
app.add_typer(letters_app, name="dead-letters")
app.add_typer(replay_app, name="replay")
app.add_typer(notifications_app)
app.add_typer(review_app)
app.add_typer(eval_app)
app.add_typer(rules_app, name="rules")
app.add_typer(schemas_app, name="schemas")
app.add_typer(topics_app, name="topics")

ShowFormat = StrEnum("ShowFormat", {name: name for name in FORMATS})  # type: ignore[misc]
TEXT = ShowFormat("text")
ServiceName = StrEnum("ServiceName", {name: name for name in SERVICES})  # type: ignore[misc]


class StatusFormat(StrEnum):
    """How the status is written."""

    table = "table"
    json = "json"


class TableFormat(StrEnum):
    """How a query's answer is written."""

    table = "table"
    csv = "csv"
    json = "json"
    markdown = "markdown"
    parquet = "parquet"


class CallState(StrEnum):
    """What the view `calls` says of how far a call is."""

    ended = "ended"
    stored = "stored"
    transcribed = "transcribed"
    enriched = "enriched"
    waiting = "waiting"
    failed = "failed"
    no_recording = "no_recording"


_ENGINE_FORMAT = {
    TableFormat.table: "PrettyCompactMonoBlock",
    TableFormat.csv: "CSVWithNames",
    TableFormat.json: "JSONEachRow",
    TableFormat.markdown: "Markdown",
    TableFormat.parquet: "Parquet",
}
# Lines of an answer that has no rows. Of Parquet there are no lines to count.
_HEAD_LINES = {
    TableFormat.table: 0,
    TableFormat.csv: 1,
    TableFormat.json: 0,
    TableFormat.markdown: 2,
    TableFormat.parquet: -1,
}


# Running


@app.command()
def demo(
    samples: Annotated[
        Path | None, typer.Option(help="Folder of sample calls; default: the checkout's own.")
    ] = None,
) -> None:
    """Ten sample calls through the whole path, then what came out."""
    settings = load()
    log_to_file(settings)
    raise typer.Exit(run_demo(settings, samples, out))


@app.command()
def up() -> None:
    """Run every stage in this process, on embedded parts, until Ctrl-C."""
    settings = load()
    configure_logs(settings.log_level)
    stop = threading.Event()
    until_told(stop)
    switch_often()
    with embedded(settings, with_health=True, stop=stop) as suite:
        err.print(f"callstream is up; data in {settings.data_dir}")
        err.print(f"  health and metrics   {suite.health_url}")
        if settings.ingest.drop_folder is not None:
            err.print(f"  drop recordings into {settings.ingest.drop_folder}")
        err.print("  hand in a recording  callstream submit FILE")
        suite.stop.wait()
    if suite.failed:
        raise Stop("; ".join(f"{name}: {error}" for name, error in suite.failed.items()))


@app.command()
def run(service: Annotated[ServiceName, typer.Argument(help="Which one.")]) -> None:
    """Run one service, until SIGTERM."""
    settings = load()
    configure_logs(settings.log_level)
    raise typer.Exit(serve([service.value], settings))


@app.command()
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
    handed: list[CallEnded] = []
    for path in files:
        try:
            call = call_ended_for(
                path, tenant_id=owner, call_id=call_id, roles=chosen, metadata=metadata,
                uri=upload_uri(owner, path),
            )  # fmt: skip
            _check_audio(settings, call, path, probe, named=chosen is not None)
            # What is refused is not to lie in the store, where no event leads to it.
            upload(parts.objects, owner, path)
            parts.publish(log, call)
        except (Invalid, OSError) as problem:  # the file's own; the others are handed in
            _error(f"{path}: {problem}")
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


def _check_audio(
    settings: Settings, call: CallEnded, path: Path, probe: Prober, *, named: bool
) -> None:
    """Raises Invalid where the file denies the roles told of it; warns of times beyond its end.

    A file about which nothing is told that it could deny is not looked into: ingest does that.
    """
    mine = [each for each in call.recordings if (each.uri or "").startswith(UPLOADED)]
    if len(call.recordings) != 1 or not mine or not (mine[0].channel_roles or call.segments):
        return
    try:
        info = probe(path, settings.ingest.audio_limits, mine[0].container)
    except (Invalid, NotYet):
        return  # ingest says so, and keeps it as a dead letter
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


# Looking


@app.command()
def show(
    call: Annotated[str, typer.Argument(help="CALL_ID, or TENANT/CALL_ID.")],
    format: Annotated[ShowFormat, typer.Option(help="How to write it.")] = TEXT,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Each figure and finding, with the seconds of audio it rests on."
        ),
    ] = False,
    masked: Annotated[
        bool, typer.Option("--masked", help="What is personal in the transcript as [kind].")
    ] = False,
) -> None:
    """One call: who said what and when, and what was found."""
    if masked and format.value in ("json", "vcon"):
        raise Stop(
            f"--masked is of the transcript alone, and {format.value} holds the platform's own "
            "data too: names and addresses as they came; take text, srt, vtt, tsv or rttm"
        )
    if explain and format not in (TEXT, ShowFormat("json")):
        raise Stop(f"--explain is written as text or json, not as {format.value}")
    settings = load()
    parts = Parts(settings)
    with asking(settings) as asks:
        tenant, call_id = named_call(settings, asks, call)
        current = _transcript(asks, parts, tenant, call_id)
        found = newest(asks, parts.codec, tenant, call_id, CallEnriched)
        if explain and found is None:
            state = states(asks, tenant, [call_id])[call_id]
            raise Stop(f"{tenant}/{call_id} has no findings: {state.state} {state.reason}")
        known = {"tenant": tenant, "call": call_id}
        where = "WHERE tenant_id = {tenant:String} AND call_id = {call:String}"
        raised = rows_of(
            asks,
            "SELECT rule, rule_version, severity, title, reason, suggested_action, quotes,"
            f" start_ms, end_ms, segment_ids FROM call_alerts {where}",
            known,
        )
        reviewed = reviews_of(asks, tenant, call_id)
    transcript, enriched = current.event, None if found is None else found.event
    if masked:
        transcript = without_personal(transcript, _of(found, current))
    if explain and enriched is not None:
        explained = explanation(
            transcript, enriched, raised, transcript_id=current.id,
            settings=settings.enrich, reviewed=reviewed,
        )  # fmt: skip
        sys.stdout.write(explained_text(explained) if format is TEXT else explained_json(explained))
    elif format is TEXT:
        by_rule = {row["rule"]: row for row in raised}
        sys.stdout.write(text(transcript, enriched, by_rule, reviewed))
    else:
        sys.stdout.write(FORMATS[format.value](transcript, enriched))


def _of(
    enriched: Envelope[CallEnriched] | None, transcript: Envelope[CallTranscribed]
) -> CallEnriched:
    """What was found in that transcript. Raises Stop where nobody has looked at it."""
    if enriched is None or enriched.event.transcript_id != transcript.id:
        call = transcript.event
        raise Stop(
            f"{call.tenant_id}/{call.call_id}: enrich has not looked at the current transcript "
            "yet, so nothing tells what is personal in it"
        )
    return enriched.event


@app.command()
def clip(
    call: Annotated[str, typer.Argument(help="CALL_ID, or TENANT/CALL_ID.")],
    start: Annotated[str, typer.Argument(help="Time of the call: 12.3, or 00:12.300.")],
    end: Annotated[str, typer.Argument(help="As START.")],
    to: Annotated[Path, typer.Option("--out", "-o", help="The WAV file to write.")],
    recording: Annotated[
        str | None, typer.Option(help="Which, where several hold it: its recording_id.")
    ] = None,
    masked: Annotated[
        bool, typer.Option("--masked", help="What is personal is silent too.")
    ] = False,
) -> None:
    """The audio of a call from START to END as a WAV file; what was masked is silent."""
    start_ms, end_ms = time_ms(start), time_ms(end)
    settings = load()
    parts = Parts(settings)
    with asking(settings) as asks:
        tenant, call_id = named_call(settings, asks, call)
        current = _transcript(asks, parts, tenant, call_id)
        found = newest(asks, parts.codec, tenant, call_id, CallEnriched) if masked else None
    personal: Sequence[Redaction] = ()
    if masked:
        personal = _of(found, current).redactions
    made = cut_clip(parts.objects, current.event, start_ms, end_ms, to, recording, personal)
    channels = "1 channel" if made.channels == 1 else f"{made.channels} channels"
    out.print(
        f"{to}: {moment_of(made.start_ms)} to {moment_of(made.end_ms)} of {made.recording_id}, "
        f"{channels}, {made.sample_rate_hz} Hz",
        soft_wrap=True,
    )
    for start_ms, end_ms in made.silenced:
        err.print(f"silent, for it was masked: {moment_of(start_ms)} to {moment_of(end_ms)}")
    if personal:
        err.print("what is personal is told by the times of words, which are rough: listen to it")


def _transcript(asks: Asks, parts: Parts, tenant: str, call_id: str) -> Envelope[CallTranscribed]:
    """The current one. Raises Stop, saying how far the call is, where there is none."""
    transcript = newest(asks, parts.codec, tenant, call_id, CallTranscribed)
    if transcript is None:
        state = states(asks, tenant, [call_id])[call_id]
        raise Stop(f"{tenant}/{call_id} has no transcript: {state.state} {state.reason}")
    return transcript


@app.command()
def calls(
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    state: Annotated[CallState | None, typer.Option(help="Only calls in this state.")] = None,
    format: Annotated[TableFormat, typer.Option(help="How to write it.")] = TableFormat.table,
) -> None:
    """The calls: how far each is, and why it is not further."""
    settings = load()
    where = "WHERE state = {state:String}" if state else ""
    # A call may be through although nothing could be heard: that is a reason too.
    sql = (
        "SELECT tenant_id, call_id, started_at, state, if(c.state_reason != '', c.state_reason,"
        " arrayStringConcat(arrayDistinct(arrayMap(each -> lower(splitByString(': ', each)[1]),"
        " degradations)), '; ')) AS state_reason, agent_name AS agent,"
        " queue, language, turns, round(customer_sentiment, 2) AS sentiment, round(score) AS score,"
        f" topics, alerts FROM calls AS c {where} ORDER BY started_at DESC, call_id LIMIT {limit}"
    )
    with asking(settings) as asks:
        answer = asks.ask(sql, _ENGINE_FORMAT[format], {"state": state.value} if state else None)
    _write(answer)
    if answer.count(b"\n") <= _HEAD_LINES[format]:
        place = settings.sink.path if settings.sink.url is None else "the warehouse"
        said = f"no calls {f'in state {state} ' if state else ''}in {place}"
        if settings.log.kind != "sqlite" and settings.sink.url is None:
            raise Stop(
                f"{said}: with {PREFIX}LOG__KIND={settings.log.kind} the calls are where the sink "
                f"stores them, and {PREFIX}SINK__URL does not say where that is"
            )
        err.print(said, soft_wrap=True)


@app.command()
def status(
    watch: Annotated[bool, typer.Option(help="Again every two seconds, until Ctrl-C.")] = False,
    format: Annotated[StatusFormat, typer.Option(help="How to write it.")] = StatusFormat.table,
) -> None:
    """How each stage does, what waits and why. Exit status 1 where something needs a person."""
    looker = Looker(load())
    try:
        while True:
            seen = looker.look()
            if watch and out.is_terminal:
                out.clear()
            if format is StatusFormat.json:
                sys.stdout.write(as_json(seen) + "\n")
                sys.stdout.flush()
            else:
                out.print(as_screen(seen))
            if not watch:
                break
            time.sleep(2.0)
    except KeyboardInterrupt:
        return
    finally:
        looker.close()
    if seen.needs_a_person:
        raise typer.Exit(1)


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="A query, or - to read it from standard input.")],
    format: Annotated[TableFormat, typer.Option(help="How to write it.")] = TableFormat.table,
) -> None:
    """Ask the warehouse. `SHOW TABLES` names the tables and views."""
    settings = load()
    asked = sys.stdin.read() if query == "-" else query
    with asking(settings) as asks:
        answer = asks.ask(asked.strip().rstrip(";"), _ENGINE_FORMAT[format])
    _write(answer)
    if answer.count(b"\n") <= _HEAD_LINES[format]:
        err.print("0 rows")


@app.command()
def config(
    environment: Annotated[bool, typer.Option(help="As lines for a .env file.")] = False,
) -> None:
    """The effective settings, secrets masked."""
    settings = load()
    if environment:
        for key, value, _ in described(settings):
            name = PREFIX + key.upper().replace(".", "__")
            written = _as_variable(value)
            secret = "**********" in written
            line = f"# {name} is set, and secret" if secret else f"{name}={written}"
            out.print(line, soft_wrap=True)
        return
    table = Table("key", "value", "meaning")
    for key, value, meaning in described(settings):
        table.add_row(key, str(value), meaning)
    out.print(table)


@app.command()
def doctor() -> None:
    """Check every part; each finding comes with its mend."""
    settings = load()
    log_to_file(settings)
    table = Table("part", "", "found", "mend")
    failed = False
    with err.status("checking"):
        for checked in checks(settings):
            failed |= checked.verdict == "fail"
            colour = {"ok": "green", "warn": "yellow", "fail": "red"}[checked.verdict]
            verdict = Text(checked.verdict, style=colour)
            table.add_row(checked.what, verdict, checked.found, checked.mend)
    out.print(table)
    raise typer.Exit(1 if failed else 0)


@app.command()
def enrich(
    file: Annotated[Path, typer.Argument(help="Lines `agent: …` / `customer: …`, or JSON.")],
    rules: Annotated[Path | None, typer.Option(help="Folder of rules to try.")] = None,
) -> None:
    """Enrich a transcript without any audio: the findings as JSON. How to try a rule."""
    settings = load()
    if rules is not None and not rules.is_dir():
        raise Stop(f"--rules {rules}: no such folder")
    loaded, _ = load_tenant_rules(rules or settings.enrich.rules_dir)
    try:
        transcript = parse_transcript(file.read_text("utf-8"), call_id=file.stem)
    except (OSError, UnicodeDecodeError) as error:
        raise Stop(f"{file}: {error}") from error
    enriched, alerts = enrich_call(
        transcript, "", loaded, utc_now(), settings.enrich, text_model=Parts(settings).text_model
    )
    sys.stdout.write(findings_json(enriched, alerts) + "\n")


# Dead letters


@letters_app.command("list")
def list_letters(
    stage: Annotated[str | None, typer.Option(help="Only this stage's.")] = None,
) -> None:
    """Every dead letter that nobody has settled."""
    parts = Parts(load())
    table = Table("id", "call", "stage", "topic", "when", "reason", "why")
    count = 0
    for letter in dead.unsettled(parts.view):
        if stage is None or letter.stage == stage:
            count += 1
            at = letter.at.isoformat(sep=" ", timespec="seconds")
            table.add_row(letter.id, letter.call, letter.stage, letter.topic, at, letter.reason,
                          letter.why.removeprefix(f"{letter.reason}: ")[:200])  # fmt: skip
    out.print(table if count else "no dead letters")
    parts.close()


@letters_app.command("show")
def show_letter(id: Annotated[str, typer.Argument(help="As `list` names it.")]) -> None:
    """One dead letter: its headers, why it was refused, and what it says."""
    parts = Parts(load())
    (letter,) = _letters(parts, [id])
    for name, value in letter.message.headers:
        # Of what was refused on purpose it says nothing that the message does not.
        if name != h.ERROR_TRACE or letter.reason == "unexpected":
            out.print(f"{name}: {value.decode('utf-8', 'replace')}")
    body = letter.message.value
    out.print(f"\nvalue: {'null' if body is None else f'{len(body)} bytes'}")
    try:
        event = dead.original(parts.codec, letter)
        out.print_json(json.dumps(event, default=str, ensure_ascii=False))
    except Failure as failure:
        out.print(f"cannot be decoded: {failure}")
        if body is not None:
            out.print(body[:256].hex(" "))
    parts.close()


@letters_app.command("redrive")
def redrive_letters(
    ids: Annotated[list[str] | None, typer.Argument(help="As `list` names them.")] = None,
    all: Annotated[bool, typer.Option("--all", help="Every one of them.")] = False,
    stage: Annotated[str | None, typer.Option(help="With --all: only this stage's.")] = None,
) -> None:
    """Give dead letters to their stage again, after what refused them was mended."""
    _settle(ids, all, stage, "redriven")


@letters_app.command("drop")
def drop_letters(
    ids: Annotated[list[str] | None, typer.Argument(help="As `list` names them.")] = None,
    all: Annotated[bool, typer.Option("--all", help="Every one of them.")] = False,
    stage: Annotated[str | None, typer.Option(help="With --all: only this stage's.")] = None,
) -> None:
    """Settle dead letters without processing them; their bytes stay in the archive."""
    _settle(ids, all, stage, "dropped")


def _settle(ids: list[str] | None, every: bool, stage: str | None, action: str) -> None:
    if bool(ids) == every:
        raise Stop("name dead letters, or say --all")
    settings = load()
    parts = Parts(settings)
    letters = _letters(parts, ids)
    if stage is not None:
        letters = (letter for letter in letters if letter.stage == stage)
    log = parts.log()
    act = dead.redrive if action == "redriven" else dead.drop
    done = 0
    with err.status(f"{action}: 0") as shown:

        def told(count: int) -> None:
            nonlocal done
            done = count
            shown.update(f"{action}: {count:,}")

        try:
            act(log, letters, round(time.time() * 1000), told)
        except (KeyboardInterrupt, Transient):
            err.print(f"{action}: {done:,}; the others are as they were, say it again for them")
            raise
    log.close()
    parts.close()
    out.print(f"{action}: {done}")
    if done and settings.log.kind == "sqlite" and running(settings.data_dir) is None:
        err.print("nothing acts on it until `callstream up` runs on this data folder")


def _letters(parts: Parts, ids: Sequence[str] | None) -> Iterable[dead.DeadLetter]:
    """Those named, or every unsettled one, as they are read."""
    if ids is None:
        return dead.unsettled(parts.view)
    wanted = set(ids)
    known = {letter.id: letter for letter in dead.unsettled(parts.view) if letter.id in wanted}
    missing = [id for id in ids if id not in known]
    if missing:
        raise Stop(f"no unsettled dead letter {', '.join(missing)}; see `dead-letters list`")
    return [known[id] for id in dict.fromkeys(ids)]


# Small parts


def _as_variable(value: Any) -> str:
    """A setting as an environment variable says it: lists and mappings as JSON."""
    if value is None:
        return ""
    if isinstance(value, tuple | frozenset | dict):
        plain = sorted(value) if isinstance(value, frozenset) else value
        return json.dumps(plain, default=str)
    return str(value)


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


def _error(text: str) -> None:
    err.print(Text("error ", style="red"), end="")
    err.print(text, soft_wrap=True)


def _write(answer: bytes) -> None:
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()


@contextmanager
def _told() -> Iterator[None]:
    """Errors that a user can mend, without a traceback."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except (
        Stop,
        WrongSetting,
        AlreadyRunning,
        Question,
        NoSuchCall,
        Failure,
        ValueError,
        OSError,
    ) as error:
        _error(str(error) or type(error).__name__)
        raise SystemExit(1 if not isinstance(error, Transient) else 3) from None


def main() -> None:
    """Entry point of the command."""
    with _told():
        app()


if __name__ == "__main__":
    main()
