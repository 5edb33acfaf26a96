"""Rule files: read, checked, tried, and what follows where a rule holds."""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from schemas.events import FindingKind, Role, Severity
from services.assembly import project_root
from services.enrich.alerts import raise_alerts, tag
from services.enrich.conditions import Facts
from services.enrich.explain import explain, try_examples
from services.enrich.ground import ground
from services.enrich.rules import BUILT_IN, Rules, check_rules, load_rules, load_tenant_rules
from services.enrich.score import MOST_EVIDENCE, score
from services.enrich.settings import EnrichSettings
from services.enrich.transcript_file import parse_transcript
from services.runtime.yaml_file import FileError

SETTINGS = EnrichSettings()
RULES = load_rules()


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
    assert [alert.rule_id for alert in rules.alerts] == [
        "complaint_threat",
        "angry_refund",
        "cancellation_risk",
        "agent_forbidden_words",
        "long_silence",
        "asks_for_secret",
    ]


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
    assert [alert.rule_id for alert in rules.alerts] == ["parked", "asks_for_secret"]
    assert [each.rule_id for each in rules.rules[1:]] == [
        each.rule_id for each in load_rules().rules if each.where.startswith("rules.yaml:")
    ]


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


def rule(*more: str) -> str:
    lines = "".join(f"    {line}\n" for line in more)
    return f"""\
version: "1"
rules:
  - id: one
    title: One
    when: {{topic: refund}}
{lines}"""


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
        ("lexicons__x", LEXICON + "    negated: nope\n", ":8: classes[0].negated: 'nope' is not"),
        ("lexicons__x", LEXICON + "    id: twice\n", ":8: classes[0].id: stands twice"),
        (
            "lexicons__zzz",  # after the built-in files by its name
            LEXICON.replace("id: parking", "id: refund"),
            "lexicons/zzz.yaml:4: classes[0]: topic 'refund' is defined twice; first in the "
            "built-in lexicons/topics.yaml:",
        ),
        (
            "lexicons__aaa",  # and before them
            LEXICON.replace("id: parking", "id: refund"),
            "lexicons/aaa.yaml:4: classes[0]: topic 'refund' is defined twice; first in the "
            "built-in lexicons/topics.yaml:",
        ),
        (
            "lexicons__x",
            LEXICON + LEXICON.split("classes:\n")[1],
            "lexicons/x.yaml:8: classes[1]: topic 'parking' is defined twice; first in "
            "lexicons/x.yaml:4; give it another id, or put its phrases there",
        ),
        ("lexicons__x", lexicon("phrases: ['[a-z]+']"), ":7: classes[0].phrases[0]: phrase '[a-z"),
        ("lexicons__x", LEXICON.split("  - id")[0], "lexicons/x.yaml:3: classes: is no list; wri"),
        ("lexicons__x", lexicon("phrases: []"), ":7: classes[0].phrases: is empty"),
        ("lexicons__x", lexicon("phrases: ['(a|b']"), ":7: classes[0].phrases[0]: phrase '(a|b'"),
        ("lexicons__x", lexicon("phrases: [{a: b}]"), ":7: classes[0].phrases[0]: is no text"),
        (
            "lexicon",
            LEXICON,
            "lexicon.yaml:1: is no rule file; allowed are scorecard.yaml, rules.yaml, alerts.yaml",
        ),
        ("alerts", alert("topic: refnd"), "alerts.yaml:8: alerts[0].when.topic: 'refnd' is not"),
        ("alerts", alert("by: agent"), "alerts.yaml:8: alerts[0].when: needs exactly one of said"),
        ("alerts", alert("metric: talk"), "alerts.yaml:8: alerts[0].when: needs 'above' or"),
        (
            "alerts",
            alert("{metric: talk, above: 1}"),
            "'talk' is not allowed; did you mean talk_ms? ",
        ),
        ("alerts", alert("{metric: talk_ms, above: 1}"), "when.metric: 'talk_ms' needs a 'role'"),
        ("alerts", alert("{metric: hold_ms, above: 1, role: agent}"), "'hold_ms' is of the call"),
        ("alerts", alert("{all: []}"), "alerts.yaml:8: alerts[0].when.all: is empty"),
        ("alerts", alert("{near: [{topic: refund}]}"), "alerts[0].when: lacks 'within_s'"),
        ("alerts", alert("{not: " * 40 + "a" + "}" * 40), "nested deeper than"),
        ("alerts", alert("{topic: refund, at_least: 1.5}"), "1.5 is no whole number"),
        ("alerts", alert("&a {not: *a}"), "nested deeper than"),
        ("summary", "version: '1'\ncues: here\n", "summary.yaml:2: cues: is no list; write"),
        ("rules", "version: '1'\nrules:\n", "rules.yaml:2: rules: is no list; write entries that "),
        ("rules", "version: '1'\nrules: {a: b}\n", "rules.yaml:2: rules: is no list; write entri"),
        ("alerts", "version: '1'\nalerts: {a: b}\n", "alerts.yaml:2: alerts: is no list; write"),
        (
            "scorecard",
            "version: '1'\nid: s\ncriteria:\n",
            "scorecard.yaml:3: criteria: is no list; write entries that begin with `- `",
        ),
        (
            "rules",
            rule("tag: x", "examples: {holds: true}"),
            "rules.yaml:7: rules[0].examples: is no list",
        ),
        (
            "scorecard",
            "version: '1'\nid: s\ncriteria: []\n",
            "scorecard.yaml:3: criteria: is empty",
        ),
        ("rule", "version: '1'", "rule.yaml:1: is no rule file; did you mean rules.yaml? allowed"),
        ("rules", "version: '1'\nruls: []\n", "ruls: is not known here; did you mean rules? "),
        ("rules", rule(), "rules.yaml:3: rules[0]: has no result; write at least one of tag,"),
        ("rules", rule("score: 101"), "rules.yaml:6: rules[0].score: 101 is out of range; allowed"),
        ("rules", rule("score: 0"), "rules.yaml:6: rules[0].score: 0 changes nothing"),
        ("rules", rule("score: nan"), "nan is out of range"),
        ("rules", rule("tag: A b"), "rules.yaml:6: rules[0].tag: 'A b' is no id"),
        (
            "rules",
            rule("alert: hih"),
            "rules.yaml:6: rules[0].alert: 'hih' is not allowed; did you",
        ),
        ("rules", rule("alert: high"), "rules.yaml:3: rules[0]: lacks 'suggestion'"),
        ("rules", rule("severity: high"), "rules[0].severity: is not known here; allowed are id,"),
        (
            "rules",
            rule("tag: x", "examples: [{holds: maybe, transcript: 'agent: hi'}]"),
            "rules.yaml:7: rules[0].examples[0].holds: 'maybe' is not allowed",
        ),
        (
            "rules",
            rule("tag: x", "examples: [{holds: not_applicable, transcript: 'agent: hi'}]"),
            "'not_applicable' is not allowed; allowed are false, no, true, yes",
        ),
        (
            "rules",
            rule("tag: x", "examples: [{holds: true, transcript: 'boss: hi'}]"),
            "rules.yaml:7: rules[0].examples[0].transcript: line 1: role 'boss' is not known",
        ),
        (
            "rules",
            rule("tag: x", "examples: [{holds: true, transcript: 'agent: a', call: {que: a}}]"),
            "rules.yaml:7: rules[0].examples[0].call.que: is not known of a call; did you mean que",
        ),
        (
            "rules",
            rule("tag: x").replace("id: one", "id: long_silence"),
            "rules.yaml:3: rules[0]: rule 'long_silence' is defined twice; first in the built-in "
            "alerts.yaml:",
        ),
        (
            "alerts",
            alert("topic: refund").replace("id: one", "id: asks_for_secret"),
            "alerts.yaml:3: alerts[0]: rule 'asks_for_secret' is defined twice; first in the "
            "built-in rules.yaml:",
        ),
        (
            "rules",
            rule("tag: x") + rule("tag: x").split("rules:\n")[1],
            "rules.yaml:7: rules[1]: rule 'one' is defined twice; first in rules.yaml:3",
        ),
        (
            "rules",
            rule("alert: HIGH"),
            "rules.yaml:6: rules[0].alert: 'HIGH' is not allowed; did you mean high? ",
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


# Every mistake at once


def test_a_check_tells_every_mistake_with_its_path_and_line(tmp_path: Path) -> None:
    text = rule("tag: A b") + rule("tag: x", "scor: 5").split("rules:\n")[1]
    own = folder(tmp_path, rules=text, alerts=alert("topic: refnd"), summary="version: x\n")
    (tmp_path / "ruls.yaml").write_text("version: '1'\n")
    places = [(each.place, each.text.split(";")[0]) for each in check_rules(own)]
    assert sorted(places) == [
        (f"{own}/alerts.yaml:8", "alerts[0].when.topic: 'refnd' is not allowed"),
        (f"{own}/rules.yaml:11", "rules[1].scor: is not known here"),
        (f"{own}/rules.yaml:6", "rules[0].tag: 'A b' is no id"),
        (f"{own}/ruls.yaml:1", "is no rule file"),
        (f"{own}/summary.yaml:1", "version: 'x' is no version"),
    ]
    assert not [each for each in check_rules(own) if each.warning]
    # What reads rules to use them stops at the first.
    with pytest.raises(
        FileError, match=r"^ruls\.yaml:1: is no rule file; did you mean rules\.yaml"
    ):
        load_rules(own)


def test_a_mistake_at_the_top_of_a_file_hides_none_below_it(tmp_path: Path) -> None:
    files = {
        "alerts": alert("topic: refnd") + "extra: 1\n",
        "lexicons__x": LEXICON.replace("topic", "mood") + "extra: 1\n",
        "rules": rule("tag: A b") + "extra: 1\n",
        "scorecard": "version: '1'\nid: A b\ncriteria: [{id: a}]\nextra: 1\n",
        "summary": "version: '1'\ncues: [{name: a}, {name: b}]\nextra: 1\n",
    }
    own = folder(tmp_path, **files)
    places = [each.place.removeprefix(f"{own}/") for each in check_rules(own)]
    assert sorted(places) == [
        "alerts.yaml:8",
        "alerts.yaml:9",
        "lexicons/x.yaml:5",
        "lexicons/x.yaml:8",
        "rules.yaml:6",
        "rules.yaml:7",
        "scorecard.yaml:2",
        "scorecard.yaml:3",
        "scorecard.yaml:4",
        "summary.yaml:2",
        "summary.yaml:2",
        "summary.yaml:3",
    ]
    with pytest.raises(FileError, match="extra: is not known here"):
        load_rules(folder(tmp_path / "other", rules=rule("tag: x") + "extra: 1\n"))


def test_a_class_defined_twice_is_told_once_for_each_with_its_mend(tmp_path: Path) -> None:
    classes = LEXICON.replace("id: parking", "id: refund")
    classes += LEXICON.split("classes:\n")[1].replace("id: parking", "id: billing")
    own = folder(tmp_path / "own", lexicons__aaa=classes)
    tenant = folder(tmp_path / "tenant", lexicons__Aaa=LEXICON)
    common = folder(own, lexicons__zzz=LEXICON)
    found = check_rules(common, tenant)
    assert [each.place for each in found] == [
        f"{own}/lexicons/aaa.yaml:4",
        f"{own}/lexicons/aaa.yaml:8",
        f"{tenant}/lexicons/Aaa.yaml:4",
    ]
    assert found[0].text.endswith(
        "; give it another id, or copy the built-in lexicons/topics.yaml into your folder under "
        "that name and add to it"
    )
    assert "first in lexicons/zzz.yaml:4" in found[2].text


def test_a_rule_without_examples_of_both_kinds_is_a_warning(tmp_path: Path) -> None:
    one = "examples: [{holds: true, transcript: 'customer: refund'}]"
    text = rule("tag: x") + rule("tag: x", one).split("rules:\n")[1].replace("one", "two")
    own = folder(tmp_path, rules=text)
    assert [(each.place, each.text, each.warning) for each in check_rules(own)] == [
        (
            f"{own}/rules.yaml:3",
            "rule one lacks examples: one that holds and one that does not",
            True,
        ),
        (f"{own}/rules.yaml:7", "rule two lacks an example that does not hold", True),
    ]
    folder(own, rules=rule("tag: x", one.replace("true", "false")))
    assert [each.text for each in check_rules(own)] == ["rule one lacks an example that holds"]
    assert check_rules() == []


def test_a_folder_that_is_none_is_one_problem(tmp_path: Path) -> None:
    (problem,) = check_rules(tmp_path / "missing")
    assert problem.place == str(tmp_path / "missing")
    assert "is no folder of rules" in problem.text


# Examples


def test_every_example_of_the_built_in_rules_is_as_it_says() -> None:
    assert [
        f"{t.example.where} {t.problem}" for t in try_examples(RULES, SETTINGS) if not t.passed
    ] == []


def test_every_built_in_rule_has_examples_of_both_kinds_in_both_languages() -> None:
    found: dict[str, set[tuple[bool | None, str]]] = defaultdict(set)
    for trial in try_examples(RULES, SETTINGS):
        found[trial.found.name].add((trial.example.holds, trial.example.event.language))
    names = [each.rule_id for each in RULES.rules]
    names += [each.criterion_id for each in RULES.scorecard.criteria]
    assert set(found) == set(names)
    wanted = {(holds, language) for holds in (True, False) for language in ("en", "zh")}
    assert {name: wanted - found[name] for name in names if wanted - found[name]} == {}


def test_an_example_that_fails_says_why(tmp_path: Path) -> None:
    examples = (
        "examples:",
        "  - {holds: true, title: it is late, transcript: 'customer: parcel'}",
        "  - {holds: false, transcript: 'customer: I want a refund'}",
        "  - {holds: yes, call: {hold_ms: 7, queue: Sales}, transcript: 'customer: my refund'}",
    )
    rules = load_rules(folder(tmp_path, rules=rule("tag: x", *examples)))
    trials = [trial for trial in try_examples(rules, SETTINGS) if trial.found.name == "one"]
    assert [trial.passed for trial in trials] == [False, False, True]
    assert trials[0].problem == (
        "one does not hold, and holds by its example: not heard from anybody: topic refund"
    )
    assert trials[0].example.where == "rules.yaml:8"
    assert trials[1].problem.startswith("one holds, and does not hold by its example: customer: “")
    assert trials[2].problem == ""


def test_an_example_tells_what_telephony_knows(tmp_path: Path) -> None:
    when = "{all: [{call: {queue: sales, hold_ms: 7}}, {metric: hold_ms, above: 6, below: 8}]}"
    text = rule("tag: x", "examples:", *(
        f"  - {{holds: {holds}, call: {call}, transcript: 'agent: hello'}}"
        for holds, call in (
            ("true", "{hold_ms: 7, queue: Sales}"),
            ("false", "{hold_ms: 8, queue: Sales}"),
            ("false", "{hold_ms: 7, queue: Care}"),
        )
    )).replace("{topic: refund}", when)  # fmt: skip
    rules = load_rules(folder(tmp_path, rules=text))
    assert [t.passed for t in try_examples(rules, SETTINGS) if t.found.name == "one"] == [True] * 3


def test_an_example_tells_how_loud_it_was(tmp_path: Path) -> None:
    when = "{metric: loudness_dbfs, role: customer, above: -30}"
    text = rule("tag: x", "examples:", *(
        f"  - {{holds: {holds}, transcript: '{json.dumps([turn])}'}}"
        for holds, turn in (
            ("true", {"role": "customer", "text": "hello there", "loudness_dbfs": -20}),
            ("false", {"role": "customer", "text": "hello there", "loudness_dbfs": -40.5}),
        )
    )).replace("{topic: refund}", when)  # fmt: skip
    rules = load_rules(folder(tmp_path, rules=text))
    assert [t.passed for t in try_examples(rules, SETTINGS) if t.found.name == "one"] == [True] * 2


# What follows


def facts_of(*lines: str, rules: Rules = RULES) -> Facts:
    return ground(parse_transcript("\n".join(lines)), rules, SETTINGS).facts


REFUSED = (
    "[00:01] agent: Good morning, my name is Linda.",
    "[00:05] customer: I want to speak to your supervisor.",
    "[00:10] agent: There is no supervisor here.",
)


def test_a_tag_is_a_finding_for_each_place_with_its_words_and_version() -> None:
    asked, refused = found = tag(RULES.rules, facts_of(*REFUSED))
    assert [each.finding_id for each in found] == [
        "rule:supervisor_refused:0",
        "rule:supervisor_refused:1",
    ]
    for each in found:
        assert (each.kind, each.label) == (FindingKind.RULE, "supervisor_refused")
        assert each.rule == "supervisor_refused"
        assert re.fullmatch(r"1\.0\+[0-9a-f]{12}", each.rule_version)
        assert each.suggestion.startswith("Offer a call back")
    assert (asked.role, asked.evidence.segment_ids) == (Role.CUSTOMER, [1])
    assert asked.evidence.quote == "want to speak to your supervisor"
    assert (refused.role, refused.evidence.segment_ids) == (Role.AGENT, [2])
    assert refused.evidence.quote == "no supervisor"


def test_a_tag_has_so_many_findings_and_no_more(tmp_path: Path) -> None:
    rules = load_rules(folder(tmp_path, rules=rule("tag: x")))
    facts = facts_of("customer: " + "refund, " * 50, rules=rules)
    found = tag(rules.rules, facts)
    assert len({each.finding_id for each in found}) == len(found) == MOST_EVIDENCE


def test_a_tag_on_what_nobody_said_rests_on_the_whole_conversation(tmp_path: Path) -> None:
    text = rule("tag: x").replace("{topic: refund}", "{metric: conversation_ms, above: 1}")
    rules = load_rules(folder(tmp_path, rules=text))
    (found,) = tag(rules.rules, facts_of(*REFUSED, rules=rules))
    assert (found.evidence.start_ms, found.evidence.segment_ids) == (1000, [0, 2])
    assert (found.evidence.quote, found.role) == ("", Role.UNKNOWN)
    assert tag(RULES.rules, facts_of("agent: hello")) == []


@pytest.mark.parametrize(("points", "value"), [("-10", 90.0), ("-100", 0.0), ("5.5", 100.0)])
def test_points_change_the_score_within_its_range(
    tmp_path: Path, points: str, value: float
) -> None:
    card = """\
version: "1"
id: own
criteria:
  - id: speaks
    title: Speaks
    weight: 1
    met_when: {metric: talk_ms, role: agent, above: 1}
    suggestion: Speak.
"""
    rules = load_rules(folder(tmp_path, scorecard=card, rules=rule(f"score: {points}")))
    facts = facts_of("agent: yes", "customer: I want a refund", rules=rules)
    found = score(rules.scorecard, facts, rules.rules)
    assert found is not None
    assert found.value == value
    (change,) = found.changes
    assert (change.rule, change.points) == ("one", float(points))
    assert re.fullmatch(r"1\+[0-9a-f]{12}", change.rule_version)
    assert [each.quote for each in change.evidence] == ["refund"]
    assert "topic refund" in change.reason
    none = facts_of("agent: yes", "customer: hm", rules=rules)
    calm = score(rules.scorecard, none, rules.rules)
    assert calm is not None
    assert (calm.value, calm.changes) == (100.0, [])
    plain = score(rules.scorecard, facts)
    assert plain is not None
    assert (plain.value, plain.changes) == (100.0, [])
    assert score(rules.scorecard, facts_of("customer: refund", rules=rules), rules.rules) is None


def test_the_sum_is_bounded_once_at_the_end(tmp_path: Path) -> None:
    """Points given and taken meet, in whatever order the rules stand."""
    both = rule("score: 30") + rule("score: -20").split("rules:\n")[1].replace("one", "two")
    rules = load_rules(folder(tmp_path, rules=both))
    facts = facts_of("agent: yes", "customer: I want a refund", rules=rules)
    there = score(rules.scorecard, facts, rules.rules)
    back = score(rules.scorecard, facts, rules.rules[::-1])
    assert there is not None
    assert back is not None
    assert there.value == back.value


def test_a_rule_of_either_file_raises_its_alert(tmp_path: Path) -> None:
    text = rule("alert: critical", "suggestion: Call.", "score: -5")
    rules = load_rules(folder(tmp_path, rules=text))
    lines = "agent: yes", "customer: I am furious, I want a refund"
    event = parse_transcript("\n".join(lines))
    now = datetime(2026, 3, 2, tzinfo=UTC)
    raised = raise_alerts(rules.rules, facts_of(*lines, rules=rules), event, set(), now)
    assert [each.rule for each in raised] == ["angry_refund", "one"]
    assert raised == raise_alerts(rules.alerts, facts_of(*lines, rules=rules), event, set(), now)
    assert (raised[1].severity, raised[1].suggested_action) == (Severity.CRITICAL, "Call.")
    # Each names its own file's version.
    assert re.fullmatch(r"1\.1\+[0-9a-f]{12}", raised[0].rule_version)
    assert re.fullmatch(r"1\+[0-9a-f]{12}", raised[1].rule_version)


def test_a_version_tells_of_a_change_that_was_not_declared(tmp_path: Path) -> None:
    before = load_rules(folder(tmp_path, rules=rule("tag: x"))).rules[-1].version
    after = load_rules(folder(tmp_path, rules=rule("tag: y"))).rules[-1].version
    assert before != after
    assert before.startswith("1+")
    assert load_rules(tmp_path).scorecard.version == RULES.scorecard.version


def test_an_explanation_agrees_with_what_follows() -> None:
    for lines in (REFUSED, ("客服：您好。", "客户：我要退款，你们太差了。"), ("agent: hm",)):
        facts = facts_of(*lines)
        found = {each.name: each for each in explain(RULES, facts)}
        tags = {each.rule for each in tag(RULES.rules, facts)}
        assert tags == {r.rule_id for r in RULES.rules if r.tag and found[r.rule_id].held}
        scored = score(RULES.scorecard, facts, RULES.rules)
        assert scored is not None
        for criterion in scored.criteria:
            explained = found[criterion.criterion_id]
            assert explained.verdict == criterion.verdict.value.lower().replace("_", " ")
            assert explained.outcome.reason == criterion.reason
            assert explained.version == scored.scorecard_version
        changed = {each.rule for each in scored.changes}
        assert changed == {r.rule_id for r in RULES.rules if r.points and found[r.rule_id].held}


# The page


PAGE = (project_root() / "docs" / "rules.md").read_text("utf-8")
SNIPPETS = re.findall(r"<!-- file: (\S+) -->\n```yaml\n(.*?)```", PAGE, re.DOTALL)


def test_every_file_on_the_page_can_be_used(tmp_path: Path) -> None:
    assert len(SNIPPETS) == PAGE.count("```yaml") >= 3
    for number, (name, text) in enumerate(SNIPPETS):
        own = tmp_path / str(number)
        file = own / name
        file.parent.mkdir(parents=True)
        file.write_text(text, encoding="utf-8")
        assert check_rules(own) == [], name
        failed = [t.problem for t in try_examples(load_rules(own), SETTINGS) if not t.passed]
        assert failed == [], name


def test_the_page_names_every_file_and_kind_of_condition() -> None:
    for name in ("scorecard", "rules", "alerts", "summary"):
        assert f"`{name}.yaml`" in PAGE
    for word in (
        *("said", "topic", "emotion", "moment", "metric", "sentiment", "call", "all", "any", "not"),
        *("near", "sequence", "after", "before", "within_s", "by", "part", "first_s", "last_s"),
        *("at_least", "holds", "tag", "alert", "score", "suggestion", "examples"),
    ):
        assert f"`{word}" in PAGE, word
