"""The rules a manager edits: lexicons, scorecard, rules, summary cues. Read, checked, versioned.

lexicons/*.yaml    classes of emotion and topic; negation, emphasis and idioms
scorecard.yaml     what a good call is made of
rules.yaml         what else is to be tagged, to change the score, or to raise an alert
alerts.yaml        which calls need a person now: rules with an alert and nothing else
summary.yaml       what marks a demand, a solution and an outcome
pii.yaml           what is personal, and how it is masked
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from schemas.events import CallTranscribed, FindingKind, Role, Severity
from services.enrich.condition_reader import (
    Reader,
    read_call_facts,
    read_phrases,
    read_roles,
)
from services.enrich.conditions import CallFact, Condition
from services.enrich.lexicon import Class, Grammar, Negation, Scanner
from services.enrich.pii import Policy, load_pii
from services.enrich.transcript_file import TranscriptError, parse_transcript
from services.runtime.yaml_file import FileError, Item, nearest, read_yaml

BUILT_IN = Path(__file__).with_name("rules")

_KINDS = {"emotion": FindingKind.EMOTION, "topic": FindingKind.TOPIC}
_SEVERITIES = {each.value.lower(): each for each in Severity if each is not Severity.UNKNOWN}
_LONGEST_QUESTION = 600
MOST_QUESTIONS = 24
"""Of one scorecard: more would not fit beside a call in one request, or into one answer."""
_WHOLE_FILES = ("scorecard.yaml", "rules.yaml", "alerts.yaml", "summary.yaml", "pii.yaml")
_TRUTH = {"true": True, "yes": True, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class Example:
    """A short call and what a rule is to make of it."""

    where: str
    """file:line"""
    title: str
    event: CallTranscribed
    call: Mapping[str, CallFact]
    """What telephony knows of it."""
    holds: bool | None
    """None: the criterion does not apply."""


@dataclass(frozen=True, slots=True)
class CriterionRule:
    criterion_id: str
    title: str
    weight: float
    applies_when: Condition | None
    met_when: Condition | None
    """None: a language model judges by `question`."""
    suggestion: str
    examples: tuple[Example, ...]
    where: str
    """file:line"""
    question: str = ""


@dataclass(frozen=True, slots=True)
class Scorecard:
    scorecard_id: str
    version: str
    """As that of a rule."""
    criteria: tuple[CriterionRule, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """What follows where a condition holds: a tag, an alert, a change of the score, or several."""

    rule_id: str
    version: str
    """<version of its file>+<first 12 hex digits of the hash of that file>"""
    title: str
    when: Condition
    tag: str
    """The label of the finding; empty for none."""
    severity: Severity | None
    """Of the alert; None for none."""
    points: float
    """-100.0 to 100.0; 0.0 for no change."""
    suggestion: str
    examples: tuple[Example, ...]
    where: str
    """file:line"""


@dataclass(frozen=True, slots=True)
class Cue:
    """What marks the sentence a summary wants in one of its places."""

    name: str
    roles: frozenset[Role]
    phrases: int
    """Number of its phrase set in the scanner."""
    part: str
    """anywhere, or that of the call's halves it is looked for in first: early, late."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Everything enrich judges by; immutable, safe to share between threads."""

    version: str
    """<highest declared version>+<first 12 hex digits of the hash of all contents>"""
    languages: frozenset[str]
    """Primary language tags the lexicons cover."""
    scanner: Scanner
    scorecard: Scorecard
    rules: tuple[Rule, ...]
    """Those of alerts.yaml, then those of rules.yaml, each in the order of its file."""
    cues: tuple[Cue, ...]
    pii: Policy

    @property
    def alerts(self) -> tuple[Rule, ...]:
        """The rules that raise an alert."""
        return tuple(rule for rule in self.rules if rule.severity is not None)


def load_rules(*folders: Path) -> Rules:
    """The built-in rules with `folders` laid over them, the last on top.

    A file replaces the one of the same name below it. Raises FileError, naming file, line and
    what is allowed; an unknown file is an error too, so that a misspelt name is never ignored.
    """
    return _read(folders, _Notes(collects=False))


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong in a rule file, or as a warning what is missing there."""

    place: str
    """path:line, or the folder."""
    text: str
    warning: bool = False


def check_rules(*folders: Path) -> list[Problem]:
    """Every mistake in `folders` laid over the built-in rules, not only the first; then warnings.

    One mistake may lead to another: a topic that cannot be read is missing where it is used.
    """
    notes = _Notes(collects=True)
    rules: Rules | None = None
    with notes.noting():
        rules = _read(folders, notes)
    if rules is None or notes.errors:
        told = (text for error in notes.errors for text in error.mistakes)
        return [_problem(text, folders) for text in dict.fromkeys(told)]
    found: list[Problem] = []
    for kind, name, examples, where in (
        *(
            ("criterion", c.criterion_id, c.examples, c.where)
            for c in rules.scorecard.criteria
            if c.met_when is not None  # what a model says cannot be tried here
        ),
        *(("rule", r.rule_id, r.examples, r.where) for r in rules.rules),
    ):
        outcomes = {each.holds for each in examples}
        if lacks := {True, False} - outcomes:
            text = (
                "examples: one that holds and one that does not"
                if len(lacks) == 2
                else f"an example that {'holds' if True in lacks else 'does not hold'}"
            )
            text = f"{where}: {kind} {name} lacks {text}"
            found.append(_problem(text, folders, warning=True))
    return found


def path_of(where: str, *folders: Path) -> str:
    """path:line of the topmost file called so, for the file:line of `where`."""
    name, _, line = where.rpartition(":")
    paths = (folder / name for folder in reversed((BUILT_IN, *folders)))
    return f"{next((path for path in paths if path.exists()), name)}:{line}"


def _problem(text: str, folders: tuple[Path, ...], *, warning: bool = False) -> Problem:
    told = re.match(r"(.+?:\d+): (.*)", text, re.DOTALL)
    if told is None:
        return Problem(str(folders[-1] if folders else BUILT_IN), text, warning)
    return Problem(path_of(told[1], *folders), told[2], warning)


@dataclass(frozen=True, slots=True)
class _Notes:
    """Mistakes, either collected, each with the entry that has it left out, or raised at once."""

    collects: bool
    errors: list[FileError] = field(default_factory=list)

    @contextmanager
    def noting(self) -> Iterator[None]:
        try:
            yield
        except FileError as error:
            if not self.collects:
                raise
            self.errors.append(error)

    def fields(
        self, item: Item, required: Collection[str], optional: Collection[str] = ()
    ) -> dict[str, Item]:
        """As `item.fields`; where mistakes are collected, a key not known hides no others."""
        try:
            return item.fields(required, optional)
        except FileError as error:
            found = item.entries()
            if not self.collects or not set(required) <= set(found):
                raise
            self.errors.append(error)
            return found


def _read(folders: tuple[Path, ...], notes: _Notes) -> Rules:
    """Raises FileError; where notes are collected, too, once all is read."""
    files: dict[str, Path] = {}
    layers: dict[str, int] = {}
    for layer, folder in enumerate((BUILT_IN, *folders)):
        for name, path in _files_in(folder).items():
            with notes.noting():
                files[_known_file(name)] = path
                layers[name] = layer
    items: dict[str, Item] = {}
    versions: dict[str, str] = {}
    digest = hashlib.sha256()
    for name in sorted(files):
        with notes.noting():
            item = items[name] = read_yaml(files[name], name)
            content = files[name].read_bytes()
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
            versions[name] = f"{_version(item)}+{hashlib.sha256(content).hexdigest()[:12]}"
    lexicons = {name: items[name] for name in items if name.startswith("lexicons/")}
    classes, languages, grammar = _lexicons(lexicons, layers, notes)
    reader = Reader(
        {kind: {each.label for each in classes if each.kind is kind} for kind in _KINDS.values()}
    )
    scorecard = Scorecard("", "", ())
    rules: dict[str, Rule] = {}
    cues: tuple[Cue, ...] = ()
    pii = Policy("", {})
    # Built-in files first: of two rules of one id the own one is to be mended.
    for name in sorted(versions, key=lambda name: (layers[name], name)):
        with notes.noting():
            if name == "scorecard.yaml":
                scorecard = _scorecard(items[name], reader, versions[name], notes)
            elif name == "alerts.yaml":
                _rules(items[name], "alerts", _alert, reader, versions[name], rules, layers, notes)
            elif name == "rules.yaml":
                _rules(items[name], "rules", _rule, reader, versions[name], rules, layers, notes)
            elif name == "summary.yaml":
                cues = _cues(items[name], reader, notes)
            elif name == "pii.yaml":
                pii = load_pii(items[name])
    if notes.errors:
        raise notes.errors[0]
    declared = [version.partition("+")[0] for version in versions.values()]
    newest = max(declared, key=lambda text: [int(part) for part in text.split(".")])
    return Rules(
        f"{newest}+{digest.hexdigest()[:12]}",
        frozenset(languages),
        Scanner(classes, grammar, reader.phrase_sets),
        scorecard,
        tuple(sorted(rules.values(), key=lambda rule: rule.where.rpartition(":")[0])),
        cues,
        pii,
    )


def load_tenant_rules(rules_dir: Path | None) -> tuple[Rules, Mapping[str, Rules]]:
    """The rules of everybody, and tenant id -> rules for each folder in `rules_dir`/tenants."""
    if rules_dir is None:
        return load_rules(), {}
    tenants = rules_dir / "tenants"
    folders = sorted(path for path in tenants.iterdir()) if tenants.is_dir() else []
    return load_rules(rules_dir), {
        folder.name: load_rules(rules_dir, folder) for folder in folders if folder.is_dir()
    }


def _files_in(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileError(
            f"{folder}: is no folder of rules; set CALLSTREAM_ENRICH__RULES_DIR to one or leave it "
            "out"
        )
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name.startswith((".", "tenants/")) or "/." in name:
            continue
        found[name] = path
    return found


def _known_file(name: str) -> str:
    if name not in _WHOLE_FILES and not re.fullmatch(r"lexicons/[^/]+\.yaml", name):
        # Without .yaml, by which all are alike.
        near = nearest(Path(name).stem, [Path(each).stem for each in _WHOLE_FILES])
        mend = near.replace("? ", ".yaml? ")
        raise FileError(
            f"{name}:1: is no rule file; {mend}allowed are {', '.join(_WHOLE_FILES)}, "
            "lexicons/*.yaml"
        )
    return name


def _version(item: Item) -> str:
    found = item.entries().get("version")
    if found is None:
        raise item.error("lacks 'version'")
    text = found.text()
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9}){0,3}", text):
        raise found.error(f"{text!r} is no version; write numbers and dots, as 1.2")
    return text


def _identifier(item: Item) -> str:
    text = item.text()
    if not re.fullmatch(r"[a-z][a-z0-9_]*", text):
        raise item.error(f"{text!r} is no id; allowed are a-z, 0-9 and _")
    return text


def _first(where: str, layers: Mapping[str, int]) -> str:
    """`where` as a person finds it: what is built in lies in no folder of theirs."""
    return where if layers[where.rpartition(":")[0]] else f"the built-in {where}"


def _lexicons(
    items: Mapping[str, Item], layers: Mapping[str, int], notes: _Notes
) -> tuple[list[Class], set[str], Grammar]:
    classes: list[tuple[Class, Item]] = []
    languages: set[str] = set()
    grammar = Grammar()
    for name, item in items.items():
        with notes.noting():
            optional = ("classes", "grammar", "about")
            fields = notes.fields(item, ("version", "languages"), optional)
            with notes.noting():
                languages.update(text.lower() for text in fields["languages"].texts())
            with notes.noting():
                for each in fields["classes"].listed() if "classes" in fields else ():
                    with notes.noting():
                        read = _class(each, Path(name).stem, fields["version"].text())
                        classes.append((read, each))
            if "grammar" in fields:
                grammar = _join(grammar, _grammar(fields["grammar"]))
    _check_classes(classes, layers, notes)
    return [each for each, _ in classes], languages, grammar


def _class(item: Item, lexicon: str, version: str) -> Class:
    fields = item.fields(("id", "kind", "title", "phrases"), ("roles", "polarity", "negated"))
    kind = _KINDS[fields["kind"].choice(_KINDS)]
    if kind is FindingKind.EMOTION and "polarity" not in fields:
        raise item.error("lacks 'polarity', which an emotion needs: -1 to 1")
    negated = fields["negated"].text() if "negated" in fields else "nothing"
    return Class(
        kind,
        _identifier(fields["id"]),
        fields["title"].text(),
        read_phrases(fields["phrases"]),
        read_roles(fields, "roles"),
        fields["polarity"].number(-1.0, 1.0) if "polarity" in fields else 0.0,
        {"same": None, "nothing": ""}.get(negated, negated),
        lexicon,
        version,
    )


def _check_classes(
    classes: list[tuple[Class, Item]], layers: Mapping[str, int], notes: _Notes
) -> None:
    """Every class once; every `negated` names a class of the same kind."""
    seen: dict[tuple[FindingKind, str], Item] = {}
    # Built-in files first, whatever they are called: the own one is to be mended.
    for each, item in sorted(classes, key=lambda pair: layers[pair[1].file]):
        first = seen.setdefault((each.kind, each.label), item)
        if first is item:
            continue
        mend = (
            "put its phrases there"
            if layers[first.file]
            else f"copy the built-in {first.file} into your folder under that name and add to it"
        )
        with notes.noting():
            raise item.error(
                f"{each.kind.value.lower()} {each.label!r} is defined twice; first in "
                f"{_first(first.where, layers)}; give it another id, or {mend}"
            )
    for each, item in classes:
        if each.negated and (each.kind, each.negated) not in seen:
            allowed = sorted(label for kind, label in seen if kind is each.kind)
            with notes.noting():
                raise item.entries()["negated"].error(
                    f"{each.negated!r} is not allowed; {nearest(each.negated, allowed)}"
                    f"allowed are same, nothing, {', '.join(allowed)}"
                )


def _grammar(item: Item) -> Grammar:
    fields = item.fields(
        (), ("negations", "stronger", "weaker", "idioms", "stronger_factor", "weaker_factor")
    )

    def phrases(name: str, *, arrows: bool = False) -> tuple[str, ...]:
        return read_phrases(fields[name], arrows=arrows) if name in fields else ()

    negations = []
    for each in fields["negations"].listed() if "negations" in fields else ():
        inner = each.fields(("words", "through"))
        words = read_phrases(inner["words"], arrows=True)
        negations.append(Negation(words, read_phrases(inner["through"])))
    default = Grammar()
    return Grammar(
        tuple(negations),
        phrases("stronger"),
        phrases("weaker"),
        phrases("idioms", arrows=True),
        fields["stronger_factor"].number(1, 10)
        if "stronger_factor" in fields
        else default.stronger_factor,
        fields["weaker_factor"].number(0, 1)
        if "weaker_factor" in fields
        else default.weaker_factor,
    )


def _join(first: Grammar, second: Grammar) -> Grammar:
    """Phrases of both; the factors of the later file."""
    return Grammar(
        (*first.negations, *second.negations),
        (*first.stronger, *second.stronger),
        (*first.weaker, *second.weaker),
        (*first.idioms, *second.idioms),
        second.stronger_factor,
        second.weaker_factor,
    )


def _examples(fields: Mapping[str, Item], *, of_criterion: bool = False) -> tuple[Example, ...]:
    found: list[Example] = []
    for each in fields["examples"].listed() if "examples" in fields else ():
        inner = each.fields(("holds", "transcript"), ("title", "call"))
        allowed = (*_TRUTH, "not_applicable") if of_criterion else tuple(_TRUTH)
        holds = _TRUTH.get(inner["holds"].choice(allowed))
        try:
            event = parse_transcript(inner["transcript"].text())
        except TranscriptError as error:
            raise inner["transcript"].error(str(error)) from None
        found.append(
            Example(
                each.where,
                inner["title"].text() if "title" in inner else "",
                event,
                read_call_facts(inner["call"]) if "call" in inner else {},
                holds,
            )
        )
    return tuple(found)


def _scorecard(item: Item, reader: Reader, version: str, notes: _Notes) -> Scorecard:
    fields = notes.fields(item, ("version", "id", "criteria"), ("about",))
    scorecard_id = ""
    with notes.noting():
        scorecard_id = _identifier(fields["id"])
    entries = fields["criteria"].listed()
    if not entries:
        raise fields["criteria"].error("is empty; write at least one criterion")
    criteria: dict[str, CriterionRule] = {}
    for each in entries:
        with notes.noting():
            criterion = _criterion(each, reader)
            if (name := criterion.criterion_id) in criteria:
                first = criteria[name].where
                raise each.error(f"criterion {name!r} is defined twice; first in {first}")
            criteria[name] = criterion
    if sum(1 for each in criteria.values() if each.met_when is None) > MOST_QUESTIONS:
        raise fields["criteria"].error(f"has more than {MOST_QUESTIONS} questions")
    return Scorecard(scorecard_id, version, tuple(criteria.values()))


def _criterion(item: Item, reader: Reader) -> CriterionRule:
    fields = item.fields(
        ("id", "title", "weight", "suggestion"),
        ("met_when", "question", "applies_when", "examples"),
    )
    if ("met_when" in fields) == ("question" in fields):
        raise item.error(
            "is decided by met_when, a condition, or by question, which a language model answers: "
            "write one of them"
        )
    if "question" in fields and "examples" in fields:
        raise fields["examples"].error(
            "cannot be tried where a language model judges; leave them out"
        )
    question = fields["question"].text() if "question" in fields else ""
    if len(question) > _LONGEST_QUESTION:
        raise fields["question"].error(f"is longer than {_LONGEST_QUESTION} characters")
    return CriterionRule(
        _identifier(fields["id"]),
        fields["title"].text(),
        fields["weight"].number(0.001, 1_000),
        reader.read(fields["applies_when"]) if "applies_when" in fields else None,
        reader.read(fields["met_when"]) if "met_when" in fields else None,
        fields["suggestion"].text(),
        _examples(fields, of_criterion=True),
        item.where,
        question,
    )


def _rules(
    item: Item,
    section: str,
    read: Callable[[Item, Reader, str], Rule],
    reader: Reader,
    version: str,
    found: dict[str, Rule],
    layers: Mapping[str, int],
    notes: _Notes,
) -> None:
    """Adds the rules of a file to `found`; an id may stand once in all files."""
    for each in notes.fields(item, ("version", section), ("about",))[section].listed():
        with notes.noting():
            rule = read(each, reader, version)
            if (name := rule.rule_id) in found:
                first = _first(found[name].where, layers)
                raise each.error(f"rule {name!r} is defined twice; first in {first}")
            found[name] = rule


def _alert(item: Item, reader: Reader, version: str) -> Rule:
    fields = item.fields(("id", "title", "severity", "when", "suggested_action"), ("examples",))
    return Rule(
        _identifier(fields["id"]),
        version,
        fields["title"].text(),
        reader.read(fields["when"]),
        "",
        _SEVERITIES[fields["severity"].choice(_SEVERITIES)],
        0.0,
        fields["suggested_action"].text(),
        _examples(fields),
        item.where,
    )


def _rule(item: Item, reader: Reader, version: str) -> Rule:
    fields = item.fields(
        ("id", "title", "when"), ("tag", "alert", "score", "suggestion", "examples")
    )
    if not {"tag", "alert", "score"} & set(fields):
        raise item.error("has no result; write at least one of tag, alert, score")
    points = fields["score"].number(-100, 100) if "score" in fields else 0.0
    if "score" in fields and not points:
        raise fields["score"].error("0 changes nothing; write -100 to 100, or leave it out")
    severity = _SEVERITIES[fields["alert"].choice(_SEVERITIES)] if "alert" in fields else None
    if severity is not None and "suggestion" not in fields:
        raise item.error("lacks 'suggestion', which an alert needs: what is to be done")
    return Rule(
        _identifier(fields["id"]),
        version,
        fields["title"].text(),
        reader.read(fields["when"]),
        _identifier(fields["tag"]) if "tag" in fields else "",
        severity,
        points,
        fields["suggestion"].text() if "suggestion" in fields else "",
        _examples(fields),
        item.where,
    )


def _cues(item: Item, reader: Reader, notes: _Notes) -> tuple[Cue, ...]:
    found: list[Cue] = []
    for each in notes.fields(item, ("version", "cues"), ("about",))["cues"].listed():
        with notes.noting():
            inner = each.fields(("name", "roles", "part", "phrases"))
            reader.phrase_sets.append(read_phrases(inner["phrases"]))
            found.append(
                Cue(
                    _identifier(inner["name"]),
                    read_roles(inner, "roles"),
                    len(reader.phrase_sets) - 1,
                    inner["part"].choice(("anywhere", "early", "late")),
                )
            )
    return tuple(found)
