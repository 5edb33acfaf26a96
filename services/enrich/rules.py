"""The rules a manager edits: lexicons, scorecard, alerts, summary cues. Read, checked, versioned.

lexicons/*.yaml    classes of emotion and topic; negation, emphasis and idioms
scorecard.yaml     what a good call is made of
alerts.yaml        which calls need a person now
summary.yaml       what marks a demand, a solution and an outcome
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from schemas.events import FindingKind, Role, Severity
from services.enrich.conditions import Condition, Reader, read_phrases, read_roles
from services.enrich.lexicon import Class, Grammar, Negation, Scanner
from services.runtime.yaml_file import FileError, Item, read_yaml

BUILT_IN = Path(__file__).with_name("rules")

_KINDS = {"emotion": FindingKind.EMOTION, "topic": FindingKind.TOPIC}
_SEVERITIES = {each.value.lower(): each for each in Severity if each is not Severity.UNKNOWN}
_WHOLE_FILES = ("scorecard.yaml", "alerts.yaml", "summary.yaml")


@dataclass(frozen=True, slots=True)
class CriterionRule:
    criterion_id: str
    title: str
    weight: float
    applies_when: Condition | None
    met_when: Condition
    suggestion: str


@dataclass(frozen=True, slots=True)
class Scorecard:
    scorecard_id: str
    version: str
    criteria: tuple[CriterionRule, ...]


@dataclass(frozen=True, slots=True)
class AlertRule:
    alert_id: str
    version: str
    title: str
    severity: Severity
    when: Condition
    suggested_action: str


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
    alerts: tuple[AlertRule, ...]
    cues: tuple[Cue, ...]


def load_rules(*folders: Path) -> Rules:
    """The built-in rules with `folders` laid over them, the last on top.

    A file replaces the one of the same name below it. Raises FileError, naming file, line and
    what is allowed; an unknown file is an error too, so that a misspelt name is never ignored.
    """
    files: dict[str, Path] = {}
    for folder in (BUILT_IN, *folders):
        files.update(_files_in(folder))
    items = {name: read_yaml(files[name], name) for name in sorted(files)}
    digest = hashlib.sha256()
    for name in sorted(files):
        content = files[name].read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    versions: list[str] = []
    classes: list[Class] = []
    languages: set[str] = set()
    grammar = Grammar()
    for name, item in items.items():
        version = _version(item)
        versions.append(version)
        if name.startswith("lexicons/"):
            fields = item.fields(("version", "languages"), ("classes", "grammar", "about"))
            languages.update(text.lower() for text in fields["languages"].texts())
            if "classes" in fields:
                classes += _classes(fields["classes"], Path(name).stem, version)
            if "grammar" in fields:
                grammar = _join(grammar, _grammar(fields["grammar"]))
    _check_classes(classes, items)
    reader = Reader(
        {kind: {each.label for each in classes if each.kind is kind} for kind in _KINDS.values()}
    )
    scorecard = _scorecard(items["scorecard.yaml"], reader)
    alerts = _alerts(items["alerts.yaml"], reader)
    cues = _cues(items["summary.yaml"], reader)
    newest = max(versions, key=lambda text: [int(part) for part in text.split(".")])
    return Rules(
        f"{newest}+{digest.hexdigest()[:12]}",
        frozenset(languages),
        Scanner(classes, grammar, reader.phrase_sets),
        scorecard,
        alerts,
        cues,
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
        if name not in _WHOLE_FILES and not re.fullmatch(r"lexicons/[^/]+\.yaml", name):
            raise FileError(
                f"{name}:1: is no rule file; allowed are {', '.join(_WHOLE_FILES)}, lexicons/*.yaml"
            )
        found[name] = path
    return found


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


def _classes(item: Item, lexicon: str, version: str) -> list[Class]:
    found: list[Class] = []
    for each in item.items():
        fields = each.fields(("id", "kind", "title", "phrases"), ("roles", "polarity", "negated"))
        kind = _KINDS[fields["kind"].choice(_KINDS)]
        if kind is FindingKind.EMOTION and "polarity" not in fields:
            raise each.error("lacks 'polarity', which an emotion needs: -1 to 1")
        negated = fields["negated"].text() if "negated" in fields else "nothing"
        found.append(
            Class(
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
        )
    return found


def _check_classes(classes: list[Class], items: Mapping[str, Item]) -> None:
    """Every class once; every `negated` names a class of the same kind."""
    seen: set[tuple[FindingKind, str]] = set()
    for each in classes:
        where = items[f"lexicons/{each.lexicon}.yaml"]
        key = (each.kind, each.label)
        if key in seen:
            raise where.error(f"{each.kind.value.lower()} {each.label!r} is defined twice")
        seen.add(key)
    for each in classes:
        if each.negated and (each.kind, each.negated) not in seen:
            allowed = sorted(label for kind, label in seen if kind is each.kind)
            raise items[f"lexicons/{each.lexicon}.yaml"].error(
                f"{each.label}.negated: {each.negated!r} is not allowed; "
                f"allowed are same, nothing, {', '.join(allowed)}"
            )


def _grammar(item: Item) -> Grammar:
    fields = item.fields(
        (), ("negations", "stronger", "weaker", "idioms", "stronger_factor", "weaker_factor")
    )

    def phrases(name: str) -> tuple[str, ...]:
        return read_phrases(fields[name]) if name in fields else ()

    negations = []
    for each in fields["negations"].items() if "negations" in fields else ():
        inner = each.fields(("words", "through"))
        negations.append(Negation(read_phrases(inner["words"]), read_phrases(inner["through"])))
    default = Grammar()
    return Grammar(
        tuple(negations),
        phrases("stronger"),
        phrases("weaker"),
        phrases("idioms"),
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


def _scorecard(item: Item, reader: Reader) -> Scorecard:
    fields = item.fields(("version", "id", "criteria"), ("about",))
    criteria: dict[str, CriterionRule] = {}
    for each in fields["criteria"].items():
        inner = each.fields(("id", "title", "weight", "met_when", "suggestion"), ("applies_when",))
        name = _identifier(inner["id"])
        if name in criteria:
            raise inner["id"].error(f"criterion {name!r} is defined twice")
        criteria[name] = CriterionRule(
            name,
            inner["title"].text(),
            inner["weight"].number(0.001, 1_000),
            reader.read(inner["applies_when"]) if "applies_when" in inner else None,
            reader.read(inner["met_when"]),
            inner["suggestion"].text(),
        )
    if not criteria:
        raise fields["criteria"].error("is empty; write at least one criterion")
    return Scorecard(_identifier(fields["id"]), fields["version"].text(), tuple(criteria.values()))


def _alerts(item: Item, reader: Reader) -> tuple[AlertRule, ...]:
    fields = item.fields(("version", "alerts"), ("about",))
    found: dict[str, AlertRule] = {}
    for each in fields["alerts"].items():
        inner = each.fields(("id", "title", "severity", "when", "suggested_action"))
        name = _identifier(inner["id"])
        if name in found:
            raise inner["id"].error(f"alert {name!r} is defined twice")
        found[name] = AlertRule(
            name,
            fields["version"].text(),
            inner["title"].text(),
            _SEVERITIES[inner["severity"].choice(_SEVERITIES)],
            reader.read(inner["when"]),
            inner["suggested_action"].text(),
        )
    return tuple(found.values())


def _cues(item: Item, reader: Reader) -> tuple[Cue, ...]:
    fields = item.fields(("version", "cues"), ("about",))
    found: list[Cue] = []
    for each in fields["cues"].items():
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
