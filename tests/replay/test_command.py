"""`callstream replay` as people type it: a process of its own beside `callstream up`."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.topics import ENRICHED, REPLAY
from services.loopback import running
from tests.replay.suite import TENANT, Command, drained, hand_in, recording, until

pytestmark = [pytest.mark.clickhouse, pytest.mark.slow]

CALLS = 12


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A data folder in which calls are through, and a suite at work on it."""
    folder = tmp_path_factory.mktemp("command")
    made = Command(folder, {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")})
    up = made.start("up")
    try:
        until(lambda: running(made.settings.data_dir, 60) is not None, "`callstream up` is not up")
        hand_in(made.parts, made.folder, range(CALLS))
        drained(made.parts)
        yield made
    finally:
        up.send_signal(signal.SIGTERM)
        _, err = up.communicate(timeout=60)
        made.parts.close()
    assert up.returncode == 0, err


def test_a_dry_run_tells_the_cost_and_asks_for_nothing(command: Command) -> None:
    before = command.parts.view.ends(REPLAY)
    told = command("replay", "--stage", "enrich", "--queue", "billing", "--dry-run")
    assert f"calls   {CALLS // 2}" in told
    assert "calls per second" in told
    assert "call-11" in told
    assert "dry run" in told
    assert command.parts.view.ends(REPLAY) == before
    assert list(command.parts.objects.keys("replays/")) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--all",), "--stage is missing: one of ingest"),
        (("--stage", "enrich"), "say which calls"),
        (("--stage", "enrich", "--all", "--queue", "billing"), "--all is every call"),
        (("--stage", "enrich", "--all", "--option", "prompt=x"), "it knows rules"),
        (("--stage", "enrich", "--all", "--option", "rules"), "is not KEY=VALUE"),
        (("--stage", "enrich", "--all", "--option", "rules=gone"), "holds other"),
        (("--stage", "transcribe", "--all", "--option", "engine=hal"), "engine='hal'"),
        (("--stage", "sink", "--all", "--shadow"), "nothing to compare"),
        (
            ("--stage", "enrich", "--all", "--shadow", "--side-effects"),
            "--shadow and --side-effects contradict",
        ),
        (("--stage", "enrich", "--from", "soon"), "'soon' is no ISO date"),
        (("--stage", "enrich", "--where", "nonsense = 1"), "nonsense"),
        (("--stage", "enrich", "--where", "1) OR (1"), "parentheses"),
        (("--stage", "enrich", "--where", "1", "--source", "log"), "--source archive"),
        (("--stage", "enrich", "--call", "nosuch"), f"holds for any of the {CALLS} it has"),
        (
            ("--stage", "enrich", "--from", "2026-03-03", "--to", "2026-03-01"),
            "--from 2026-03-03 lies after --to 2026-03-01",
        ),
        (
            ("--stage", "enrich", "--all", "--tenant", "nobody"),
            f"tenants that have calls: {TENANT} {CALLS}. Say --tenant",
        ),
        (
            ("--stage", "enrich", "--to", "2020-03-01", "--dry-run"),
            "no tenant has a call in that time",
        ),
        (("promote", "7"), "has no replay 7"),
        (("resume", "7"), "has no replay 7"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(
    command: Command, words: tuple[str, ...], told: str
) -> None:
    before = command.parts.view.ends(REPLAY)
    assert told in " ".join(command("replay", *words, status=1).split())
    assert command.parts.view.ends(REPLAY) == before


def test_killed_and_resumed_it_doubles_nothing(command: Command) -> None:
    view = command.parts.view

    def requests() -> int:
        return sum(1 for _ in view.scan(REPLAY))

    before = requests()
    process = command.start("replay", "--stage", "enrich", "--all", "--ahead", "1")
    until(lambda: requests() >= before + 3, "nothing is asked for")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    (stopped,) = command.listed()
    generation = stopped["generation"]
    assert (stopped["stage"], stopped["total"]) == ("enrich", CALLS)
    assert requests() < before + CALLS, "it was through before it was killed"
    assert f"{CALLS} of {CALLS} done" in command("replay", "resume", str(generation))
    command("replay", "resume", str(generation))
    drained(command.parts)
    for topic in (REPLAY, ENRICHED):
        of_it = Counter(
            message.key
            for message in view.scan(topic)
            if message.header("ce_generation") == str(generation)
        )
        assert of_it == {f"{TENANT}/call-{n}".encode(): 1 for n in range(CALLS)}, topic
    (done,) = command.listed()
    assert (done["done"], done["left"], done["failed"]) == (CALLS, 0, 0)
    rows = command("sql", f"SELECT count() FROM calls_enriched WHERE generation = {generation}"
                   " SETTINGS final = 1", "--format", "csv")  # fmt: skip
    assert rows.splitlines()[-1] == str(CALLS)


def test_a_shadow_is_compared_promoted_and_taken_back(command: Command) -> None:
    shadow = command.generation(
        "--stage", "enrich", "--to", "2026-03-02", "--shadow", "--option", "rules=other",
        "--reason", "try the other rules",
    )  # fmt: skip
    listed = {row["generation"]: row for row in command.listed()}
    assert (listed[shadow]["total"], listed[shadow]["shown"]) == (2, "shadow")
    assert listed[shadow]["reason"] == "try the other rules"
    compared = json.loads(command("replay", "compare", str(shadow), "--format", "json"))
    assert compared["sum"]["alerts gained"] == {"other_alert": 2}
    assert {each["call"] for each in compared["calls"]} == {"call-0", "call-1"}
    assert "other_alert" in command("replay", "compare", str(shadow))

    def named() -> list[str]:
        answer = command("sql", "SELECT call_id FROM calls WHERE has(alerts, 'other_alert')"
                         " ORDER BY call_id", "--format", "json")  # fmt: skip
        return [json.loads(line)["call_id"] for line in answer.splitlines()]

    assert named() == []
    assert "is promoted: 2 done" in command("replay", "promote", str(shadow))
    assert named() == ["call-0", "call-1"]
    assert "promoted already" in command("replay", "promote", str(shadow), status=1)
    assert "what readers see" in command("replay", "compare", str(shadow), status=1)
    assert "is discarded" in command("replay", "discard", str(shadow))
    assert named() == []
    assert "for good" in command("replay", "promote", str(shadow), status=1)
    assert "it is over" in command("replay", "resume", str(shadow), status=1)


def test_what_waits_is_told_with_its_reason_and_a_discarded_replay_is_over(
    command: Command,
) -> None:
    process = command.start(
        "replay", "--stage", "transcribe", "--call", "call-1", "--call", "call-2", "--shadow",
        "--option", "engine=faster-whisper", "--option", "model=tiny",
    )  # fmt: skip
    out, err = process.communicate(timeout=180)
    assert process.returncode == 1, err
    assert "0 of 2 done, 2 waiting" in out
    assert "2 waiting: transcribe: model_missing: transcribe.model='tiny'" in err
    generation = int(out.partition("replay ")[2].partition(":")[0])
    assert "model_missing" in command("replay", "list")

    def under_way() -> dict[int, str]:
        status = json.loads(command.ended(command.start("status", "--format", "json")))
        return {each["generation"]: each["why"] for each in status["replays"]}

    assert "transcribe.model='tiny'" in under_way()[generation]
    discarding = command.start("replay", "discard", str(generation), "--reason", "no model")
    _, err = discarding.communicate(timeout=60)
    assert "2 of its requests are still on their way" in err
    assert generation not in under_way()
    (row,) = [row for row in command.listed() if row["generation"] == generation]
    assert (row["shown"], row["decided_why"], row["left"]) == ("discarded", "no model", 0)
    assert "no model" in command("replay", "list")


def test_settings_that_do_not_count_are_told(command: Command) -> None:
    words = ("replay", "--stage", "enrich", "--call", "call-4")
    environment = {**command.environment}
    try:
        command.environment["CALLSTREAM_ENRICH__RULES_DIR"] = str(command.folder / "trials")
        process = command.start(*words)
        _, err = process.communicate(timeout=180)
        assert process.returncode == 0, err
        assert f"enrich.rules_dir is '{command.folder / 'trials'}' here and" in err
        assert "Restart it with CALLSTREAM_ENRICH__RULES_DIR" in err
    finally:
        command.environment.clear()
        command.environment.update(environment)
    process = command.start(*words)
    _, err = process.communicate(timeout=180)
    assert "Restart it" not in err


def test_detached_it_asks_for_everything_and_leaves(command: Command) -> None:
    told = command("replay", "--stage", "sink", "--call", "call-3", "--detach")
    generation = int(told.partition("replay ")[2].partition(":")[0])
    assert "asked for" in told

    def left() -> int:
        return next(int(r["left"]) for r in command.listed() if r["generation"] == generation)

    until(lambda: left() == 0, "it does not come through")


def test_a_suite_that_is_away_is_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "calls"
    folder.mkdir()
    command = Command(folder)
    command.environment |= {
        "CALLSTREAM_LOOP__REPLAY_GATHER_S": "0.1", "CALLSTREAM_LOOP__BACKOFF_MAX_S": "1",
    }  # fmt: skip
    calls = 6

    def up() -> subprocess.Popen[str]:
        suite = command.start("up")
        until(lambda: running(command.settings.data_dir, 60) is not None, "it is not up")
        return suite

    def waiting(*words: str) -> subprocess.Popen[str]:
        """A command that follows a replay and has lost its suite."""
        before = sum(1 for _ in command.parts.view.scan(REPLAY))
        follows = command.start("replay", *words)
        until(
            lambda: sum(1 for _ in command.parts.view.scan(REPLAY)) > before + 1,
            "nothing is asked for",
        )
        suite.kill()
        suite.communicate(timeout=60)
        assert follows.stderr is not None
        told = next(line for line in follows.stderr if "goes on by itself" in line)
        assert re.search("suite_down|loopback_down", told), told
        return follows

    suite = up()
    try:
        hand_in(command.parts, folder, range(calls))
        drained(command.parts)
        follows = waiting("--stage", "enrich", "--all", "--ahead", "1")
        suite = up()
        out, err = follows.communicate(timeout=180)
        assert follows.returncode == 0, err
        assert f"{calls} of {calls} done" in out
        assert "goes on\n" in err

        follows = waiting("--stage", "enrich", "--all", "--ahead", "1")
        follows.send_signal(signal.SIGINT)
        _, err = follows.communicate(timeout=60)
        assert follows.returncode == 130, err
        suite = up()
        generation = max(row["generation"] for row in command.listed())
        assert f"`callstream replay resume {generation}` asks for the rest" in err
        assert f"{calls} of {calls} done" in command("replay", "resume", str(generation))
    finally:
        suite.kill()
        suite.communicate(timeout=60)
        command.parts.close()


def test_where_nobody_runs_the_stages_the_command_does(tmp_path: Path) -> None:
    folder = tmp_path / "calls"
    folder.mkdir()
    command = Command(folder)
    path = str(recording(folder, 0))
    command("submit", "--wait", path)
    alone = command("replay", "--stage", "transcribe", "--all", "--shadow")
    assert "1 of 1 done" in alone
    (row,) = command.listed()
    command("replay", "promote", str(row["generation"]))
    assert command.listed()[0]["shown"] == "promoted"
    command.parts.close()
