"""The command as people type it: a process of its own, a data folder of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.assembly import project_root
from services.cli.__main__ import CallState
from services.loopback import There, running
from services.runtime.errors import Transient
from tests.tables import with_tables

SAMPLES = project_root() / "samples" / "audio"


class Command:
    """Runs `callstream` on one data folder, with the stub engine."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("CALLSTREAM_")
        } | {
            "CALLSTREAM_DATA_DIR": str(self.data),
            "CALLSTREAM_TRANSCRIBE__ENGINE": "stub",
            "PYTHONWARNINGS": "error",
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        with_tables(self.data)
        return subprocess.Popen(
            [sys.executable, "-m", "services.cli", *words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *words: str, status: int = 0) -> str:
        """Standard output; standard error where a failure is expected."""
        process = self.start(*words)
        out, err = process.communicate(timeout=120)
        assert process.returncode == status, f"{words}: {process.returncode}\n{out}\n{err}"
        return err if status else out


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """A data folder in which one call is through and one was refused."""
    folder = tmp_path_factory.mktemp("through")
    command = Command(folder)
    text = folder / "text.wav"
    text.write_text("this is no audio\n" * 100)
    submitted = command("submit", "--wait", str(SAMPLES / "angry-refund.flac"), str(text), status=1)
    assert "the stages run here meanwhile" in submitted
    return command


@pytest.mark.clickhouse
def test_submitted_calls_are_shown_in_every_format(through: Command) -> None:
    listed = [json.loads(line) for line in through("calls", "--format", "json").splitlines()]
    states = {row["call_id"]: (row["state"], row["state_reason"]) for row in listed}
    good, bad = sorted(states)
    assert states[good][0] == "enriched"
    assert states[bad] == ("failed", "ingest: not_audio")
    assert "engine stub" in through("show", good)
    measured = through("sql", f"SELECT duration_ms FROM calls WHERE call_id = '{good}'",
                       "--format", "json")  # fmt: skip
    assert json.loads(measured)["duration_ms"] == 38_180
    assert json.loads(through("show", good, "--format", "json"))["transcript"]["call_id"] == good
    for format, start in (("srt", "1\n00:00:"), ("vtt", "WEBVTT"), ("tsv", "start\tend"),
                          ("rttm", "SPEAKER ")):  # fmt: skip
        assert through("show", f"default/{good}", "--format", format).startswith(start)
    assert "has no transcript: failed ingest: not_audio" in through("show", bad, status=1)
    assert f"near: {good}" in through("show", good[:-3], status=1)


@pytest.mark.clickhouse
def test_submitting_again_adds_no_row(through: Command) -> None:
    rows = "SELECT (SELECT count() FROM events), (SELECT count() FROM segments)"
    before = through("sql", rows, "--format", "csv")
    through("submit", "--wait", str(SAMPLES / "angry-refund.flac"))
    assert through("sql", rows, "--format", "csv") == before


@pytest.mark.clickhouse
def test_a_question_that_is_wrong_is_answered_in_one_line(through: Command) -> None:
    told = through("sql", "SELECT nothing FROM calls", status=1)
    assert "nothing" in told
    assert "Traceback" not in told
    assert "Stack trace" not in told


@pytest.mark.clickhouse
@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE calls",
        "SELECT 1; DROP TABLE calls",
        "SELECT ';' -- '\n; TRUNCATE TABLE segments",
        "ALTER TABLE segments DELETE WHERE 1",
        "SELECT * FROM calls INTO OUTFILE 'x'",
        "",
    ],
)
def test_a_question_changes_nothing(through: Command, statement: str) -> None:
    before = through("sql", "SELECT count() FROM calls")
    assert "error" in through("sql", statement, status=1)
    assert through("sql", "SELECT count() FROM calls WHERE 'a;b' != 'it''s;'") == before


@pytest.mark.clickhouse
def test_a_lost_warehouse_is_made_again_from_the_log(through: Command) -> None:
    before = through("calls", "--format", "csv")
    shutil.rmtree(through.data / "warehouse")
    process = through.start("up")
    try:
        deadline = time.monotonic() + 60
        while through("calls", "--format", "csv") != before:
            assert time.monotonic() < deadline, "the calls have not come back"
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


@pytest.mark.clickhouse
def test_dead_letters_are_listed_shown_redriven_and_dropped(through: Command) -> None:
    listed = through("dead-letters", "list")
    assert "not_audio" in listed
    id = next(word for word in listed.split() if word.replace("-", "").isdecimal() and "-" in word)
    shown = through("dead-letters", "show", id)
    assert "__connect.errors.exception.message: not_audio" in shown
    assert '"recordings"' in shown
    assert "redriven: 1" in through("dead-letters", "redrive", id)
    assert "no dead letters" in through("dead-letters", "list")
    process = through.start("up")
    try:
        deadline = time.monotonic() + 60
        while "not_audio" not in through("dead-letters", "list"):
            assert time.monotonic() < deadline, "the text has not become audio"
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert "dropped: 1" in through("dead-letters", "drop", "--all")
    assert "no dead letters" in through("dead-letters", "list")
    assert "dead-letters list" in through("dead-letters", "drop", "7-7", status=1)


@pytest.mark.clickhouse
def test_while_up_runs_other_commands_ask_it(command: Command) -> None:
    process = command.start("up")
    try:
        there = _answering(command.data)
        command("submit", "--wait", str(SAMPLES / "silent-customer.flac"))
        assert "enriched" in command("calls")
        assert "already runs" in command("up", status=1)
        assert there.ask("SELECT 1", "TSV") == b"1\n"
        with pytest.raises(Transient, match="401"):
            There(_port(command.data), "wrong").ask("SELECT 1", "TSV")
        assert (command.data / "up.json").stat().st_mode & 0o077 == 0
    finally:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "callstream is up" in err
    assert "enriched" in command("calls"), "the folder can be opened again"


def _port(data: Path) -> int:
    return int(json.loads((data / "up.json").read_text())["port"])


def _answering(data: Path) -> There:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (there := running(data, 60)) is not None:
            return there
        time.sleep(0.05)
    raise AssertionError("`callstream up` did not come up")


@pytest.mark.clickhouse
def test_a_command_waits_for_a_suite_that_starts(command: Command) -> None:
    process = command.start("up")
    try:
        while not (command.data / "up.lock").exists():
            assert process.poll() is None
        assert "state" in command("calls", "--format", "csv")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_names_are_no_markup(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "call [agent] 7.flac"
    file.write_bytes((SAMPLES / "praise.flac").read_bytes())
    assert "default/call [agent] 7-" in command("submit", str(file))
    command.environment["CALLSTREAM_LOG__KIND"] = "kafka"
    assert "CALLSTREAM_LOG__KIND=kafka" in command("up", status=1)


def test_what_cannot_be_described_is_named_and_the_rest_is_handed_in(
    command: Command, tmp_path: Path
) -> None:
    files = [tmp_path / f"{name}.flac" for name in "abc"]
    for number, file in enumerate(files):
        file.write_bytes((SAMPLES / "praise.flac").read_bytes() + bytes(number))
    (tmp_path / "b.yaml").write_text("started_at: yesterday\n")
    process = command.start("submit", *map(str, files))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert [line.split("  ")[1] for line in out.splitlines()] == [str(files[0]), str(files[2])]
    assert f"{files[1]}: bad_metadata: b.yaml: started_at='yesterday'" in err
    assert "handed in: 2, not handed in: 1" in err


def test_a_state_that_does_not_exist_is_refused_with_those_that_do(command: Command) -> None:
    told = command("calls", "--state", "faild", status=2)
    assert "no_recording" in told


def test_the_states_are_those_of_the_view() -> None:
    scripts = sorted((project_root() / "services/sink/migrations").glob("*.sql"))
    told = re.findall(
        r"One row per call\. state: ([a-z_, ]+);", "".join(map(Path.read_text, scripts))
    )
    assert told[-1].split(", ") == list(CallState)


@pytest.mark.clickhouse
def test_what_could_not_be_done_is_a_reason_and_an_id_may_hold_slashes(command: Command) -> None:
    audio = str(SAMPLES / "praise.flac")
    command("submit", "--wait", "--call-id", "a b/c", audio)
    assert "a b/c" in command("show", "a b/c")
    assert "a b/c" in command("show", "default/a b/c")
    assert "no call a b/d; no call of tenant 'a b'" in command("show", "a b/d", status=1)
    (row,) = map(json.loads, command("calls", "--format", "json").splitlines())
    assert (row["state"], row["state_reason"]) == ("enriched", "no_diarization")


@pytest.mark.clickhouse
def test_what_is_waited_for_is_what_was_handed_in(command: Command, tmp_path: Path) -> None:
    audio, text = tmp_path / "one.flac", tmp_path / "two.wav"
    audio.write_bytes((SAMPLES / "angry-refund.flac").read_bytes())
    text.write_text("this is no audio\n" * 100)
    os.utime(audio, (1_700_000_000, 1_700_000_000))
    both = ("--wait", "--call-id", "x", "--roles", "agent,customer")
    assert "default/x  enriched\n" in command("submit", *both, str(audio))
    os.utime(text, (1_700_000_001, 1_700_000_001))
    told = _either(command, "submit", "--wait", "--call-id", "x", str(text), status=1)
    assert "default/x  failed  ingest: not_audio" in told
    letter = re.search(r"callstream dead-letters show (\S+)`", told)
    assert letter is not None, told
    assert "not_audio" in command("dead-letters", "show", letter[1])
    audio.write_bytes((SAMPLES / "praise.flac").read_bytes())
    os.utime(audio, (1_600_000_000, 1_600_000_000))
    told = _either(command, "submit", "--wait", "--call-id", "x", str(audio), status=1)
    assert "default/x  enriched  NO_DIARIZATION" in told
    assert "source_updated_at decides" in told


@pytest.mark.clickhouse
def test_what_failed_before_is_no_answer_to_what_is_handed_in_again(
    command: Command, tmp_path: Path
) -> None:
    text = tmp_path / "text.wav"
    text.write_text("this is no audio\n" * 100)
    command("submit", "--wait", str(text), status=1)
    command("submit", "--wait", str(text), status=1)
    assert command("dead-letters", "list").count("text-") == 2


def test_work_that_has_nowhere_to_lie_is_told(command: Command) -> None:
    command.environment["CALLSTREAM_SCRATCH"] = "/dev/null/x"
    assert "CALLSTREAM_SCRATCH=/dev/null/x: Not a directory" in command("up", status=1)
    assert "CALLSTREAM_SCRATCH=/dev/null/x" in command("run", "ingest", status=1)


def test_a_transcript_is_enriched_without_audio(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "call.txt"
    file.write_text("agent: good morning\ncustomer: I am very angry, I want a refund\n", "utf-8")
    found = json.loads(command("enrich", str(file)))
    assert "refund" in json.dumps(found)
    file.write_text("nobody in particular\n", "utf-8")
    assert "line 1" in command("enrich", str(file), status=1)
    assert "No such file" in command("enrich", str(tmp_path / "none.txt"), status=1)


def test_settings_are_shown_with_secrets_masked(command: Command) -> None:
    command.environment["CALLSTREAM_SINK__PASSWORD"] = "hunter2"
    shown = command("config", "--environment")
    assert "hunter2" not in shown
    assert "# CALLSTREAM_SINK__PASSWORD is set, and secret" in shown
    assert "CALLSTREAM_TRANSCRIBE__ENGINE=stub" in shown
    assert "hunter2" not in command("config")
    assert "CALLSTREAM_LOOP__TIER_DELAYS_S=[60.0, 600.0, 3600.0]" in shown
    command.environment["CALLSTREAM_LOOP__TIER_DELAYS_S"] = "[0.5, 1.0, 2.0]"
    assert "TIER_DELAYS_S=[0.5, 1.0, 2.0]" in command("config", "--environment")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("CALLSTREAM_INGEST__MAX_BYTES", "-1", "CALLSTREAM_INGEST__MAX_BYTES='-1'"),
        ("CALLSTREAM_INGEST__MAX_BITES", "1", "did you mean CALLSTREAM_INGEST__MAX_BYTES"),
        ("CALLSTREAM_TRANSCRIBE__ENGINE", "hal", "'faster-whisper'"),
        ("CALLSTREAM_DROP_FOLDER", "/tmp/x", "did you mean CALLSTREAM_INGEST__DROP_FOLDER"),
        ("CALLSTREAM_INGEST__ALLOWED_ROOTS", "/tmp", "written as JSON"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(
    command: Command, name: str, value: str, told: str
) -> None:
    command.environment[name] = value
    assert told in command("config", status=1)


@pytest.mark.parametrize("words", [("calls",), ("topics",), ("up",), ("doctor",)])
def test_a_data_folder_that_cannot_be_is_told_in_a_line(
    command: Command, words: tuple[str, ...]
) -> None:
    command.environment["CALLSTREAM_DATA_DIR"] = "/dev/null/x"
    told = command(*words, status=1)
    assert "Not a directory" in told
    assert "Traceback" not in told


@pytest.mark.clickhouse
def test_an_answer_without_rows_says_so(through: Command) -> None:
    def told(*words: str) -> tuple[str, str]:
        out, err = through.start(*words).communicate(timeout=60)
        return out, err

    for format in ("table", "csv", "json", "markdown"):
        for query, rows in (("SELECT 1 AS a WHERE 0", "0 rows\n"), ("SELECT 1 AS a", "")):
            assert told("sql", query, "--format", format)[1] == rows, (format, query)
    assert "no calls in state waiting in" in told("calls", "--state", "waiting")[1]
    through.environment["CALLSTREAM_LOG__KIND"] = "kafka"
    try:
        empty = through("calls", "--state", "waiting", status=1)
    finally:
        del through.environment["CALLSTREAM_LOG__KIND"]
    assert "CALLSTREAM_SINK__URL does not say where" in empty


def test_rules_that_are_nowhere_are_named_by_their_key(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "call.txt"
    file.write_text("agent: good morning\n", "utf-8")
    assert "--rules /nosuch: no such folder" in command(
        "enrich", str(file), "--rules", "/nosuch", status=1
    )
    command.environment["CALLSTREAM_ENRICH__RULES_DIR"] = "/nosuch"
    told = command("enrich", str(file), status=1)
    assert "/nosuch: is no folder of rules; set CALLSTREAM_ENRICH__RULES_DIR to one" in told


def test_variables_that_resemble_no_setting_are_left_alone(command: Command) -> None:
    command.environment["CALLSTREAM_SERVICE_HOST"] = "10.0.0.1"
    assert "CALLSTREAM_DATA_DIR" in command("config", "--environment")


@pytest.mark.clickhouse
def test_doctor_checks_every_part_and_says_the_mend(command: Command) -> None:
    told = command("doctor")
    rows = [[cell.strip() for cell in line.split("│")] for line in told.splitlines()]
    verdicts = {row[1]: row[2] for row in rows if len(row) > 3 and row[2]}
    good = dict.fromkeys(
        ("python", "data folder", "scratch", "log", "registry", "objects", "versions", "gpu",
         "models", "rules", "sentiment", "language model", "endpoints", "warehouse"), "ok"
    )  # fmt: skip
    assert verdicts == {**good, "engine": "warn"}, "the stub engine is nothing to rely on"
    command.environment["CALLSTREAM_ENRICH__RULES_DIR"] = str(command.data / "none")
    assert "CALLSTREAM_ENRICH__RULES_DIR" in _either(command, "doctor", status=1)


def _either(command: Command, *words: str, status: int) -> str:
    process = command.start(*words)
    out, err = process.communicate(timeout=120)
    assert process.returncode == status, err
    return out + err


def test_topics_are_listed_with_what_they_carry(command: Command) -> None:
    listed = command("topics")
    for name in ("calls.ended", "calls.dead-letter", "CallTranscribed", "original bytes"):
        assert name in listed


def test_submit_says_what_is_wrong_with_its_words(command: Command, tmp_path: Path) -> None:
    assert "no such file" in command("submit", str(tmp_path / "none.wav"), status=1)
    audio = str(SAMPLES / "praise.flac")
    assert "no role; allowed: unknown" in command("submit", audio, "--roles", "boss", status=1)
    told = command("submit", audio, "--roles", "agent,customer", status=1)
    assert "--roles: channel_roles is agent,customer, and the file has 1 channel; leave" in told
    told = command("submit", audio, "--language", "klingon", status=1)
    assert "--language='klingon' is no language tag" in told
    file = tmp_path / "call.flac"
    file.write_bytes((SAMPLES / "angry-refund.flac").read_bytes())
    (tmp_path / "call.yaml").write_text("channel_roles: [agent]\n")
    told = command("submit", str(file), status=1)
    assert "channel_roles is agent, and the file has 2 channels; name 2, in the order" in told
    (tmp_path / "call.yaml").write_text("channel_roles: [agent, customer]\nhold: [[0, 90000]]\n")
    process = command.start("submit", str(file))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "hold [0, 90000] reaches beyond the recording, which ends at 38180" in err


@pytest.mark.clickhouse
def test_doctor_asks_the_registry(command: Command) -> None:
    command.environment["CALLSTREAM_REGISTRY__URL"] = "http://127.0.0.1:1"
    told = next(line for line in _either(command, "doctor", status=1).splitlines()
                if "│ registry" in line)  # fmt: skip
    for part in ("fail", "http://127.0.0.1:1", "CALLSTREAM_REGISTRY__URL"):
        assert part in told


@pytest.mark.parametrize("words", [("run", "enrich"), ("up",)])
def test_a_port_that_is_taken_is_named(command: Command, words: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command.environment["CALLSTREAM_HTTP__PORT"] = str(port)
        told = command(*words, status=1)
    assert f"CALLSTREAM_HTTP__PORT={port} on 127.0.0.1: Address already in use" in told


@pytest.mark.parametrize("words", [("calls",), ("topics",), ("run", "ingest")])
def test_a_data_folder_is_named_by_its_key(command: Command, words: tuple[str, ...]) -> None:
    command.environment["CALLSTREAM_DATA_DIR"] = "/proc/none"
    told = command(*words, status=1)
    assert "CALLSTREAM_DATA_DIR=/proc/none: No such file or directory" in told


def test_a_warehouse_that_is_down_is_told_in_one_line(command: Command) -> None:
    command.environment["CALLSTREAM_SINK__URL"] = "http://me:hunter2@127.0.0.1:1"
    assert command("calls", status=3).splitlines() == [
        "error warehouse_down: query: CALLSTREAM_SINK__URL=http://127.0.0.1:1: Connection refused"
    ]
