"""`callstream rules` as people type it: what it says, and with what exit status it ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from services.assembly import project_root
from services.cli.console import Stop
from services.cli.rules import check, explain_call, try_rules
from services.enrich.rules import load_rules

RULES = """\
version: "1"
rules:
  - id: wants_money_back
    title: Wants money back
    when:
      sequence:
        - topic: refund
          by: customer
        - said: [sorry]
          by: agent
      within_s: 30
    tag: wants_money_back
    examples:
      - holds: true
        transcript: |
          customer: I want a refund.
          agent: Sorry, no.
      - holds: false
        transcript: |
          agent: Sorry, no.
          customer: I want a refund.
"""
CALL = """\
[00:01] agent: Good morning.
[00:05] customer: I am furious, I want a refund.
[00:09] agent: Sorry, no.
"""


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("CALLSTREAM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CALLSTREAM_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "rules.yaml").write_text(RULES)
    return folder


def test_good_rules_are_checked_and_tried(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(own)
    assert capsys.readouterr().out == "the rules can be used\n"
    try_rules(own)
    others = load_rules()
    count = 2 + sum(len(each.examples) for each in others.scorecard.criteria)
    count += sum(len(r.examples) for r in others.rules if r.where.startswith("alerts.yaml"))
    said = capsys.readouterr()
    assert said.out == f"{count} examples, each as it says\n"
    assert said.err == ""


def test_the_rules_in_use_are_the_default(
    own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (own / "rules.yaml").write_text(RULES.replace("tag: wants", "tga: wants"))
    check()
    assert capsys.readouterr().out == "the rules can be used\n"
    monkeypatch.setenv("CALLSTREAM_ENRICH__RULES_DIR", str(own))
    with pytest.raises(Stop, match="mistakes: 1"):
        check()
    place = f"{own}/rules.yaml:12: rules[0].tga: is not known here; did you mean tag? allowed are"
    assert capsys.readouterr().out.startswith(place)


def test_mistakes_of_tenants_are_told_too(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tenant = own / "tenants" / "acme"
    tenant.mkdir(parents=True)
    (tenant / "alerts.yaml").write_text('version: "1"\nalerts: [{id: a}]\n')
    (own / "rules.yaml").write_text(RULES.split("    examples:")[0])
    with pytest.raises(Stop, match="the rules cannot be used; mistakes: 1"):
        check(own)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{own}/rules.yaml:3: warning: rule wants_money_back lacks examples: "
        "one that holds and one that does not",
        f"{tenant}/alerts.yaml:2: alerts[0]: lacks 'title', 'severity', 'when', 'suggested_action'",
    ]


def test_a_failed_example_is_told_with_its_place_and_why(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "rules.yaml").write_text(RULES.replace("holds: false", "holds: true"))
    with pytest.raises(Stop, match=r"^1 of \d+ examples failed$"):
        try_rules(own)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        f"{own}/rules.yaml:18: rule wants_money_back does not hold, and holds by its example: "
        "said “sorry” by agent did not follow topic refund by customer within 30 s"
    )
    assert lines[1] == "  no  in this order, 1 to 2 within 30 s"
    assert lines[2] == "    yes topic refund by customer"
    assert re.fullmatch(r"          00:0\d customer “refund”", lines[3])


def test_rules_without_examples_are_named(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "rules.yaml").write_text(RULES.split("    examples:")[0])
    try_rules(own)
    assert capsys.readouterr().err == f"without examples: {own}/rules.yaml:3\n"


def test_a_file_is_explained(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "late.txt"
    file.write_text(CALL)
    explain_call(str(file), own, None)
    text = capsys.readouterr().out
    assert text.startswith(f"default/late   00:09   rules {load_rules(own).version}\n")
    version = re.escape(load_rules(own).rules[-1].version)
    assert re.search(
        rf"\nrule wants_money_back: held   Wants money back   \[{version}\]\n"
        r"  because “refund”, then “Sorry”, 2 s from first to last\n"
        r"  yes in this order, 1 to 2 within 30 s\n"
        r"    yes topic refund by customer\n"
        r"          00:06 customer “refund”\n"
        r"    yes said “sorry” by agent\n"
        r"          00:09 agent “Sorry”\n",
        text,
    )
    assert "\nalert angry_refund: held   " in text
    assert "\nalert complaint_threat: not held   " in text
    assert re.search(
        r"\ncriterion empathy: met   .*\n  because agent: “Sorry” .*\n"
        r"  applies when\n    yes any of\n(?: {6}.*\n)+  met when\n    yes said ",
        text,
    )
    assert re.search(r"\ncriterion closing: not met   .*\n  because not heard from agent", text)
    explain_call(str(file), own, "empathy")
    only = capsys.readouterr().out
    assert "criterion empathy" in only
    assert "wants_money_back" not in only
    with pytest.raises(Stop, match="--only nope: no such rule; there are complaint_threat, "):
        explain_call(str(file), own, "nope")


def test_what_does_not_apply_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "calm.txt"
    file.write_text("agent: Good morning.\ncustomer: When do you open?\n")
    explain_call(str(file), None, "empathy")
    text = capsys.readouterr().out
    assert "criterion empathy: not applicable" in text
    assert "applies when\n    no  any of\n" in text
    assert "met when" not in text


def test_what_cannot_be_explained(tmp_path: Path) -> None:
    file = tmp_path / "bad.txt"
    file.write_text("hello there")
    with pytest.raises(Stop, match=r"bad\.txt: line 1: 'hello there' is no turn"):
        explain_call(str(file), None, None)
    with pytest.raises(Stop, match="missing: no such folder of rules"):
        explain_call("whatever", tmp_path / "missing", None)


def run(data: Path, *words: str) -> tuple[int, str, str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CALLSTREAM_")}
    environment |= {"CALLSTREAM_DATA_DIR": str(data), "CALLSTREAM_TRANSCRIBE__ENGINE": "stub"}
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", *words],
        env={**environment, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_exit_status_tells(own: Path, tmp_path: Path) -> None:
    assert run(tmp_path, "rules", "test", str(own))[0] == 0
    (own / "rules.yaml").write_text(RULES.replace("holds: false", "holds: true"))
    status, _, said = run(tmp_path, "rules", "test", str(own))
    assert (status, said.startswith("error 1 of ")) == (1, True)
    (own / "rules.yaml").write_text("version: 1\n")
    status, told, said = run(tmp_path, "rules", "check", str(own))
    assert (status, told) == (1, f"{own}/rules.yaml:1: lacks 'rules'\n")
    assert said == "error the rules cannot be used; mistakes: 1\n"


@pytest.mark.clickhouse
def test_a_call_of_the_warehouse_is_explained(tmp_path: Path) -> None:
    sample = project_root() / "samples" / "audio" / "praise.flac"
    assert run(tmp_path, "submit", "--wait", "--call-id", "a/b", str(sample))[0] == 0
    status, told, _ = run(tmp_path, "rules", "explain", "a/b")
    assert status == 0
    assert told.startswith("default/a/b   ")
    assert "\ncriterion greeting: " in told
    assert run(tmp_path, "rules", "explain", "default/a/b")[1] == told
    status, _, said = run(tmp_path, "rules", "explain", "nope")
    assert status == 1
    assert said.startswith("error no call default/nope; near: a/b")
