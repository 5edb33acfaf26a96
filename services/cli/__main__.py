"""The command `callstream`."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from schemas.events import CallEnriched, CallTranscribed, Redaction
from services.assembly import SERVICES, Parts
from services.cli.archive import NoSuchCall, newest
from services.cli.clip import clip as cut_clip
from services.cli.clip import time_ms, unread_ms
from services.cli.console import Stop, err, log_to_file, out, tell_error
from services.cli.demo import demo as run_demo
from services.cli.doctor import checks
from services.cli.eval import eval_app
from services.cli.evidence import moment_of, without_personal
from services.cli.explain import as_json as explained_json
from services.cli.explain import as_text as explained_text
from services.cli.explain import explain as explanation
from services.cli.follow import named_call, states
from services.cli.letters import letters_app
from services.cli.notifications import notifications_app
from services.cli.replay import replay_app
from services.cli.review import review_app, reviews_of
from services.cli.rules import rules_app
from services.cli.schemas import schemas_app
from services.cli.show import FORMATS, NOT_REVIEWED, text
from services.cli.status import Looker, as_json, as_screen
from services.cli.submit import submit
from services.cli.topics import topics_app
from services.enrich.handler import enrich_call
from services.enrich.rules import load_tenant_rules
from services.enrich.transcript_file import findings_json, parse_transcript
from services.loopback import Asks, Question, asking, rows_of
from services.runtime.codec import Registry
from services.runtime.errors import Failure, Transient
from services.runtime.observe import configure_logs
from services.runtime.stage import Envelope, utc_now
from services.serve import AlreadyRunning, embedded, serve, switch_often, until_told
from services.settings import PREFIX, WrongSetting, described, load

app = typer.Typer(
    help="Call recordings in, data people can act on out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(letters_app, name="dead-letters")
app.add_typer(replay_app, name="replay")
app.add_typer(notifications_app)
app.add_typer(review_app)
app.add_typer(eval_app)
app.add_typer(rules_app, name="rules")
app.add_typer(schemas_app, name="schemas")
app.add_typer(topics_app, name="topics")

ShowFormat = StrEnum("ShowFormat", {name: name for name in FORMATS})  # type: ignore[misc]
TEXT, VCON = ShowFormat("text"), ShowFormat("vcon")
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


app.command()(submit)


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
        bool,
        typer.Option("--masked", help="The transcript alone, without what is personal."),
    ] = False,
) -> None:
    """One call: who said what and when, and what was found."""
    if masked and format in (ShowFormat("json"), VCON):
        raise Stop(
            f"--masked is of the transcript alone, and {format.value} holds the platform's own "
            "data too: names and addresses as they came; take text, srt, vtt, tsv or rttm"
        )
    if masked and explain:
        raise Stop("--explain shows what is personal by its kind anyway: leave --masked away")
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
        looked = _findings_of(found, current, parts.registry)
        # Findings, a model's words and people's reasons are masked elsewhere, or not at all.
        transcript, enriched, reviewed = without_personal(transcript, looked), None, NOT_REVIEWED
    elif format is VCON:
        enriched = _findings_of(found, current, None)
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


def _findings_of(
    found: Envelope[CallEnriched] | None,
    transcript: Envelope[CallTranscribed],
    registry: Registry | None,
) -> CallEnriched:
    """What was found in that transcript. Raises Stop where nobody has looked at it.

    With a `registry` it has to be of a version that looks for what is personal.
    """
    call = f"{transcript.event.tenant_id}/{transcript.event.call_id}"
    if found is None or found.event.transcript_id != transcript.id:
        raise Stop(f"{call}: enrich has not looked at the current transcript yet")
    if registry is not None and (value := found.message.value) is not None:
        fields = registry.schema(int.from_bytes(value[1:5], "big"))["fields"]
        if "redactions" not in {each["name"] for each in fields}:
            raise Stop(
                f"{call} was enriched by a version that told nothing personal; run it again: "
                f"callstream replay --stage enrich --call {transcript.event.call_id}"
            )
    return found.event


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
    if to.is_dir() or not to.parent.is_dir():
        raise Stop(f"--out {to}: " + ("is a folder" if to.is_dir() else "its folder is not there"))
    settings = load()
    parts = Parts(settings)
    with asking(settings) as asks:
        tenant, call_id = named_call(settings, asks, call)
        current = _transcript(asks, parts, tenant, call_id)
        found = newest(asks, parts.codec, tenant, call_id, CallEnriched) if masked else None
    personal: Sequence[Redaction] = ()
    if masked:
        personal = _findings_of(found, current, parts.registry).redactions
        unread = unread_ms(current.event)
        if unread and not current.event.segments:
            raise Stop(
                f"{tenant}/{call_id}: what is said was not understood, so nothing tells what is "
                "personal in it; without --masked all of it is heard"
            )
    made = cut_clip(parts.objects, current.event, start_ms, end_ms, to, recording, personal)
    channels = "1 channel" if made.channels == 1 else f"{made.channels} channels"
    out.print(
        f"{to}: {moment_of(made.start_ms)} to {moment_of(made.end_ms)} of {made.recording_id}, "
        f"{channels}, {made.sample_rate_hz} Hz",
        soft_wrap=True,
    )
    for start_ms, end_ms in made.silenced:
        err.print(f"silent, for it was masked: {moment_of(start_ms)} to {moment_of(end_ms)}")
    if masked:
        err.print("what is personal is told by the times of words, which are rough: listen to it")
        if unread:
            err.print(
                f"of the call {unread / 1000:.1f} s of speech were not understood: what is "
                "personal there is heard"
            )


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
    needs_a_person = False
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
                needs_a_person = bool(seen.needs_a_person)
                break
            time.sleep(2.0)
    except KeyboardInterrupt:
        """Whoever watches has seen enough."""
    finally:
        looker.close()
    if looker.waits:
        sys.stdout.flush()
        os._exit(int(needs_a_person))
    if needs_a_person:
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
    tenant: Annotated[
        str | None, typer.Option(help="By whose rules; default: the setting `tenant`.")
    ] = None,
) -> None:
    """Enrich a transcript without any audio: the findings as JSON. How to try a rule."""
    settings = load()
    if rules is not None and not rules.is_dir():
        raise Stop(f"--rules {rules}: no such folder")
    common, tenants = load_tenant_rules(rules or settings.enrich.rules_dir)
    loaded = tenants.get(tenant or settings.tenant, common)
    try:
        transcript = parse_transcript(
            file.read_text("utf-8"), tenant_id=tenant or settings.tenant, call_id=file.stem
        )
    except (OSError, UnicodeDecodeError) as error:
        raise Stop(f"{file}: {error}") from error
    enriched, alerts = enrich_call(
        transcript, "", loaded, utc_now(), settings.enrich, text_model=Parts(settings).text_model
    )
    sys.stdout.write(findings_json(enriched, alerts) + "\n")


# Small parts


def _as_variable(value: Any) -> str:
    """A setting as an environment variable says it: lists and mappings as JSON."""
    if value is None:
        return ""
    if isinstance(value, tuple | frozenset | dict):
        plain = sorted(value) if isinstance(value, frozenset) else value
        return json.dumps(plain, default=str)
    return str(value)


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
        tell_error(str(error) or type(error).__name__)
        raise SystemExit(1 if not isinstance(error, Transient) else 3) from None


def main() -> None:
    """Entry point of the command."""
    with _told():
        app()


if __name__ == "__main__":
    main()
