from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from schemas.events import FindingKind
from services.enrich.rules import BUILT_IN, load_rules, load_tenant_rules
from services.runtime.yaml_file import FileError


def folder(path: Path, **files: str) -> Path:
    for name, text in files.items():
        file = path / name.replace("__", "/")
        file = file.with_suffix(".yaml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return path


LEXICON = """\
version: "2.0"
languages: [en]
classes:
  - id: parking
    kind: topic
    title: Parking
    phrases: [parking, no parking]
"""


def test_the_built_in_rules_load_and_name_their_contents() -> None:
    rules = load_rules()
    assert re.fullmatch(r"\d+(\.\d+)*\+[0-9a-f]{12}", rules.version)
    assert rules.version == load_rules().version
    assert rules.languages == {"en", "zh"}
    assert {alert.alert_id for alert in rules.alerts} == {
        "complaint_threat",
        "angry_refund",
        "cancellation_risk",
        "agent_forbidden_words",
        "long_silence",
    }


def test_a_file_more_is_added_and_changes_the_version(tmp_path: Path) -> None:
    rules = load_rules(folder(tmp_path, lexicons__parking=LEXICON))
    assert rules.version.startswith("2.0+")
    assert rules.version != load_rules().version
    # `no` stays a word: YAML 1.1 would read it as false.
    match = rules.scanner.scan("no parking here").matches[0]
    assert (match.found.label, match.start, match.end) == ("parking", 0, 10)
    assert rules.scanner.scan("I want a refund").matches[0].found.label == "refund"


def test_a_file_of_the_same_name_replaces_the_built_in_one(tmp_path: Path) -> None:
    alerts = """\
version: "3"
alerts:
  - id: parked
    title: Parked
    severity: low
    when: {metric: talk_ms, role: agent, above: 5}
    suggested_action: Drive.
"""
    rules = load_rules(folder(tmp_path, alerts=alerts))
    assert [alert.alert_id for alert in rules.alerts] == ["parked"]


def test_a_comment_more_is_another_version(tmp_path: Path) -> None:
    shutil.copy(BUILT_IN / "alerts.yaml", tmp_path / "alerts.yaml")
    assert load_rules(tmp_path).version == load_rules().version
    with (tmp_path / "alerts.yaml").open("a") as file:
        file.write("# noted\n")
    assert load_rules(tmp_path).version != load_rules().version


def test_tenants_have_rules_of_their_own(tmp_path: Path) -> None:
    folder(tmp_path / "tenants" / "acme", lexicons__parking=LEXICON)
    common, tenants = load_tenant_rules(tmp_path)
    assert common.version == load_rules().version
    assert set(tenants) == {"acme"}
    assert tenants["acme"].version.startswith("2.0+")
    assert load_tenant_rules(None)[1] == {}


def lexicon(line: str) -> str:
    return LEXICON.replace("    phrases: [parking, no parking]", f"    {line}")


def alert(when: str) -> str:
    return f"""\
version: "1"
alerts:
  - id: one
    title: One
    severity: low
    suggested_action: Listen.
    when:
      {when}
"""


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("lexicons__x", "version: '1'\nlanguages: [en\n", "lexicons/x.yaml:3: is no YAML"),
        ("lexicons__x", "", "lexicons/x.yaml:1: is empty"),
        ("lexicons__x", "languages: [en]\n", "lexicons/x.yaml:1: lacks 'version'"),
        ("lexicons__x", LEXICON.replace("2.0", "new"), "lexicons/x.yaml:1: version: 'new' is no"),
        (
            "lexicons__x",
            LEXICON + "    colour: red\n",
            "lexicons/x.yaml:8: classes[0].colour: is not known here; allowed are id, kind",
        ),
        (
            "lexicons__x",
            LEXICON.replace("kind: topic", "kind: mood"),
            "lexicons/x.yaml:5: classes[0].kind: 'mood' is not allowed; allowed are emotion, topic",
        ),
        (
            "lexicons__x",
            LEXICON.replace("kind: topic", "kind: emotion"),
            "lexicons/x.yaml:4: classes[0]: lacks 'polarity'",
        ),
        ("lexicons__x", LEXICON.replace("parking\n", "Park!\n", 1), "'Park!' is no id"),
        (
            "lexicons__x",
            LEXICON + "    polarity: 7\n",
            "lexicons/x.yaml:8: classes[0].polarity: 7 is out of range; allowed is -1 to 1",
        ),
        ("lexicons__x", LEXICON + "    polarity: much\n", "'much' is no number"),
        ("lexicons__x", LEXICON + "    roles: [boss]\n", ":8: classes[0].roles[0]: 'boss' is not"),
        ("lexicons__x", LEXICON + "    negated: nope\n", "parking.negated: 'nope' is not allowed"),
        ("lexicons__x", LEXICON + "    id: twice\n", ":8: classes[0].id: stands twice"),
        ("lexicons__x", LEXICON.replace("id: parking", "id: refund"), "'refund' is defined twice"),
        ("lexicons__x", lexicon("phrases: []"), ":7: classes[0].phrases: is empty"),
        ("lexicons__x", lexicon("phrases: ['(a|b']"), ":7: classes[0].phrases[0]: phrase '(a|b'"),
        ("lexicons__x", lexicon("phrases: [{a: b}]"), ":7: classes[0].phrases[0]: is no text"),
        ("lexicon", LEXICON, "lexicon.yaml:1: is no rule file; allowed are scorecard.yaml"),
        ("alerts", alert("topic: refnd"), "alerts.yaml:8: alerts[0].when.topic: 'refnd' is not"),
        ("alerts", alert("by: agent"), "alerts.yaml:8: alerts[0].when: needs exactly one of said"),
        ("alerts", alert("metric: talk"), "alerts.yaml:8: alerts[0].when: needs 'above' or"),
        ("alerts", alert("{metric: talk, above: 1}"), "'talk' is not allowed; allowed are"),
        ("alerts", alert("{metric: talk_ms, above: 1}"), "when.metric: 'talk_ms' needs a 'role'"),
        ("alerts", alert("{metric: hold_ms, above: 1, role: agent}"), "'hold_ms' is of the call"),
        ("alerts", alert("{all: []}"), "alerts.yaml:8: alerts[0].when.all: is empty"),
        ("alerts", alert("{near: [{topic: refund}]}"), "alerts[0].when: lacks 'within_s'"),
        ("alerts", alert("{not: " * 40 + "a" + "}" * 40), "nested deeper than"),
        ("alerts", alert("{topic: refund, at_least: 1.5}"), "1.5 is no whole number"),
        ("alerts", alert("&a {not: *a}"), "nested deeper than"),
        ("summary", "version: '1'\ncues: here\n", "summary.yaml:2: cues: is no mapping"),
        (
            "scorecard",
            "version: '1'\nid: s\ncriteria: []\n",
            "scorecard.yaml:3: criteria: is empty",
        ),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_is_allowed(
    tmp_path: Path, name: str, text: str, problem: str
) -> None:
    with pytest.raises(FileError, match=re.escape(problem)):
        load_rules(folder(tmp_path, **{name: text}))


def test_other_unusable_folders(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is no folder of rules"):
        load_rules(tmp_path / "missing")
    (tmp_path / "alerts.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileError, match=re.escape("alerts.yaml:1: is not UTF-8")):
        load_rules(tmp_path)


def test_no_phrase_stands_in_two_emotions() -> None:
    """Where it did, its polarity would count twice by accident."""
    scanner = load_rules().scanner
    shared: dict[tuple[str, ...], set[str]] = {}
    for path in sorted((BUILT_IN / "lexicons").glob("*.yaml")):
        for line in path.read_text(encoding="utf-8").splitlines():
            phrase = line.strip().removeprefix("- ")
            labels = {
                match.found.label
                for match in scanner.scan(phrase).matches
                if match.found.kind is FindingKind.EMOTION
                and (match.start, match.end) == (0, len(phrase))
            }
            if len(labels) > 1:
                shared[(phrase,)] = labels
    assert shared == {}
