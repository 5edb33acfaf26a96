"""How right enrich is about what it finds: the labelled set held against `enrich_call`.

    python -m benchmarks.findings [--split dev|held_out|all] [--per trap|role] [--misses] [--json]
                                  [--sentiment-model NAME_OR_FOLDER]

samples/labelled/ holds segments and whole calls with what a careful supervisor would say of them;
its README says how they are labelled. A segment is judged as a call of that one segment. What a
label leaves open (`*_allowed`) counts neither for nor against. `--misses` lists what is wrong, of
the half `dev` alone: whoever has seen the other half can no longer measure with it.
`--sentiment-model` lets a text classifier of transformers judge how words feel, as the setting
enrich.sentiment.model does; `--sentiment-labels` is what its labels are worth, where their names do
not say it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from schemas.events import (
    CallEnriched,
    CallTranscribed,
    FindingKind,
    Resolution,
    Role,
    SentimentLabel,
    Verdict,
)
from services.enrich.handler import enrich_call
from services.enrich.rules import Rules, load_rules
from services.enrich.sentiment import TextModel, label
from services.enrich.sentiment_model import SentimentModel
from services.enrich.settings import EnrichSettings, SentimentSettings
from services.enrich.transcript_file import parse_transcript
from services.runtime.errors import Transient
from services.runtime.yaml_file import Item, read_yaml

LABELLED = Path(__file__).resolve().parents[1] / "samples" / "labelled"
DEV, HELD_OUT = "dev", "held_out"
SPLITS = (DEV, HELD_OUT)
LANGUAGES = ("en", "zh")
ROLES = {"agent": Role.AGENT, "customer": Role.CUSTOMER}
TRAPS = (
    "agent_terms",
    "code_switching",
    "conditional",
    "homograph",
    "mention",
    "negation",
    "negation_far",
    "no_problem",
    "question",
    "quoted",
    "recognition",
    "sarcasm",
)
PLAIN = "none"
"""The trap of an item that is none."""
SENTIMENTS = ("negative", "neutral", "positive")
NOT_TOLD = "unknown"
VERDICTS = ("met", "not_met", "not_applicable")
SOLVED = {
    "yes": Resolution.RESOLVED,
    "no": Resolution.UNRESOLVED,
    "follow_up": Resolution.FOLLOW_UP,
}
DRAWS = 1_000
_SEED = 20_261_129
_NOW = datetime(2000, 1, 1, tzinfo=UTC)


# What is labelled


@dataclass(frozen=True, slots=True)
class Labels:
    """The classes that are there, and those of which careful people would differ."""

    present: frozenset[str]
    allowed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class LabelledSegment:
    item_id: str
    split: str
    language: str
    role: Role
    text: str
    trap: str
    emotions: Labels
    topics: Labels
    sentiment: tuple[str, ...]
    """The first is meant; any of them is right."""


@dataclass(frozen=True, slots=True)
class LabelledCall:
    item_id: str
    split: str
    language: str
    domain: str
    trap: str
    event: CallTranscribed
    emotions: Labels
    """Of the customer."""
    topics: Labels
    alerts: Labels
    criteria: Mapping[str, str]
    """Criterion -> verdict; every criterion that the set knows."""
    sentiment_begin: str
    sentiment_end: str
    solved: str


@dataclass(frozen=True, slots=True)
class LabelledSet:
    emotions: tuple[str, ...]
    topics: tuple[str, ...]
    alerts: tuple[str, ...]
    criteria: tuple[str, ...]
    segments: tuple[LabelledSegment, ...]
    calls: tuple[LabelledCall, ...]

    def of(self, split: str) -> LabelledSet:
        """One half; the whole for any other word."""
        if split not in SPLITS:
            return self
        return LabelledSet(
            self.emotions,
            self.topics,
            self.alerts,
            self.criteria,
            tuple(each for each in self.segments if each.split == split),
            tuple(each for each in self.calls if each.split == split),
        )


def load_labelled(folder: Path = LABELLED) -> LabelledSet:
    """The set in `folder`. Raises FileError, naming file and line; TranscriptError for a call."""
    root = read_yaml(folder / "segments.yaml", "segments.yaml")
    head = root.fields(("emotions", "topics", "segments"))
    emotions, topics = head["emotions"].texts(), head["topics"].texts()
    segments = tuple(_segment(each, emotions, topics) for each in head["segments"].items())
    root = read_yaml(folder / "calls.yaml", "calls.yaml")
    head = root.fields(("alerts", "criteria", "calls"))
    alerts, criteria = head["alerts"].texts(), head["criteria"].texts()
    calls = tuple(_call(each, emotions, topics, alerts, criteria) for each in head["calls"].items())
    seen: set[str] = set()
    for item_id in (*(each.item_id for each in segments), *(each.item_id for each in calls)):
        if item_id in seen:
            raise root.error(f"{item_id!r} stands twice")
        seen.add(item_id)
    return LabelledSet(emotions, topics, alerts, criteria, segments, calls)


def _labels(fields: Mapping[str, Item], name: str, classes: Collection[str]) -> Labels:
    present = fields[name].choices(classes)
    also = f"{name}_allowed"
    allowed = fields[also].choices(classes) if also in fields else frozenset()
    if twice := present & allowed:
        raise fields[also].error(f"{', '.join(sorted(twice))} is there already")
    return Labels(present, allowed)


def _segment(item: Item, emotions: Sequence[str], topics: Sequence[str]) -> LabelledSegment:
    fields = item.fields(
        ("id", "split", "language", "role", "text", "emotions", "topics", "sentiment"),
        ("emotions_allowed", "topics_allowed", "trap"),
    )
    return LabelledSegment(
        fields["id"].text(),
        fields["split"].choice(SPLITS),
        fields["language"].choice(LANGUAGES),
        ROLES[fields["role"].choice(ROLES)],
        fields["text"].text(),
        fields["trap"].choice(TRAPS) if "trap" in fields else PLAIN,
        _labels(fields, "emotions", emotions),
        _labels(fields, "topics", topics),
        tuple(each.choice(SENTIMENTS) for each in fields["sentiment"].items()),
    )


def _call(
    item: Item,
    emotions: Sequence[str],
    topics: Sequence[str],
    alerts: Sequence[str],
    criteria: Sequence[str],
) -> LabelledCall:
    fields = item.fields(
        (
            *("id", "split", "language", "domain", "emotions", "topics", "alerts", "criteria"),
            *("sentiment_begin", "sentiment_end", "solved", "transcript"),
        ),
        ("emotions_allowed", "topics_allowed", "alerts_allowed", "trap"),
    )
    item_id = fields["id"].text()
    verdicts = fields["criteria"].fields(criteria)
    return LabelledCall(
        item_id,
        fields["split"].choice(SPLITS),
        fields["language"].choice(LANGUAGES),
        fields["domain"].text(),
        fields["trap"].choice(TRAPS) if "trap" in fields else PLAIN,
        parse_transcript(fields["transcript"].text(), call_id=item_id),
        _labels(fields, "emotions", emotions),
        _labels(fields, "topics", topics),
        _labels(fields, "alerts", alerts),
        {name: each.choice(VERDICTS) for name, each in verdicts.items()},
        fields["sentiment_begin"].choice(SENTIMENTS),
        fields["sentiment_end"].choice(SENTIMENTS),
        fields["solved"].choice(SOLVED),
    )


# How right


@dataclass(frozen=True, slots=True)
class Right:
    """Of one item: classes found that are there, found that are not, and missed."""

    hits: frozenset[str]
    false: frozenset[str]
    missed: frozenset[str]


def compare(labels: Labels, found: Collection[str], classes: Collection[str]) -> Right:
    """What of `found` is right; classes that the set lacks or leaves open do not count."""
    told = frozenset(found) & frozenset(classes)
    return Right(
        labels.present & told,
        told - labels.present - labels.allowed,
        labels.present - told,
    )


@dataclass(frozen=True, slots=True)
class Counts:
    hits: int
    false: int
    missed: int

    @property
    def precision(self) -> float | None:
        """0.0 to 1.0; None where nothing was found."""
        return _share(self.hits, self.hits + self.false)

    @property
    def recall(self) -> float | None:
        """0.0 to 1.0; None where nothing is there."""
        return _share(self.hits, self.hits + self.missed)

    @property
    def f1(self) -> float | None:
        """0.0 to 1.0; None where nothing is there and nothing was found."""
        return _share(2 * self.hits, 2 * self.hits + self.false + self.missed)

    def plain(self) -> dict[str, Any]:
        return {
            "there": self.hits + self.missed,
            "hits": self.hits,
            "false": self.false,
            "missed": self.missed,
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
        }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def count(items: Iterable[Right], class_id: str | None = None) -> Counts:
    """Over all classes, or one."""
    hits = false = missed = 0
    for each in items:
        if class_id is None:
            hits += len(each.hits)
            false += len(each.false)
            missed += len(each.missed)
        else:
            hits += class_id in each.hits
            false += class_id in each.false
            missed += class_id in each.missed
    return Counts(hits, false, missed)


def macro_f1(items: Sequence[Right], classes: Iterable[str]) -> float | None:
    """The mean F1 of the classes that are there at least once; None where none is."""
    found = [count(items, each) for each in classes]
    there = [each.f1 for each in found if each.hits + each.missed and each.f1 is not None]
    return _share(sum(there), len(there))


def interval(items: Sequence[Right]) -> tuple[float, float] | None:
    """Where 95 % of the micro F1 lie when items are drawn anew: bootstrap over items.

    The same for the same items. None for fewer than two, or where no draw has a class.
    """
    if len(items) < 2:
        return None
    table = np.array([[len(x.hits), len(x.false), len(x.missed)] for x in items], dtype=float)
    size = len(items)
    drawn = np.random.default_rng(_SEED).multinomial(size, [1 / size] * size, DRAWS) @ table
    whole = 2 * drawn[:, 0] + drawn[:, 1] + drawn[:, 2]
    rates = 2 * drawn[whole > 0, 0] / whole[whole > 0]
    if not rates.size:
        return None
    low, high = np.percentile(rates, (2.5, 97.5))
    return float(low), float(high)


def kappa(pairs: Collection[tuple[str, str]]) -> float | None:
    """Cohen's kappa of (labelled, told): 1.0 agrees always, 0.0 as chance would.

    None where there is nothing, or both always say the same one thing: no chance to differ.
    """
    if not pairs:
        return None
    labelled = Counter(pair[0] for pair in pairs)
    told = Counter(pair[1] for pair in pairs)
    size = len(pairs)
    by_chance = sum(labelled[each] * told[each] for each in labelled) / size**2
    if by_chance == 1.0:
        return None
    return (sum(one == other for one, other in pairs) / size - by_chance) / (1 - by_chance)


# What enrich says


@dataclass(frozen=True, slots=True)
class JudgedSegment:
    item: LabelledSegment
    emotions: Right
    topics: Right
    sentiment: str

    @property
    def sentiment_right(self) -> bool:
        return self.sentiment in self.item.sentiment

    @property
    def sentiment_pair(self) -> tuple[str, str]:
        """(meant, told): what was told, where that is one of several that are right."""
        meant = self.sentiment if self.sentiment_right else self.item.sentiment[0]
        return meant, self.sentiment


@dataclass(frozen=True, slots=True)
class JudgedCall:
    item: LabelledCall
    emotions: Right
    topics: Right
    alerts: Right
    criteria: Mapping[str, tuple[str, str]]
    """Criterion -> (labelled, told); without those that enrich does not judge."""
    begin: str
    end: str
    solved: str


@dataclass(slots=True)
class Judge:
    """Enrich, as rules and settings have it. `strangers` gathers classes that the set lacks."""

    rules: Rules
    settings: EnrichSettings
    strangers: Counter[str] = field(default_factory=Counter)
    text_model: TextModel | None = None
    """What judges how words feel; None: the lexicons."""
    tellers: Counter[str] = field(default_factory=Counter)
    """What told of the words of segments -> of how many."""

    def segment(self, item: LabelledSegment, known: LabelledSet) -> JudgedSegment:
        role = item.role.value.lower()
        event = parse_transcript(json.dumps([{"role": role, "text": item.text}]))
        enriched = self._enrich(event)
        emotions = _found(enriched, FindingKind.EMOTION)
        topics = _found(enriched, FindingKind.TOPIC)
        self._meet("emotion", emotions, known.emotions)
        self._meet("topic", topics, known.topics)
        return JudgedSegment(
            item,
            compare(item.emotions, emotions, known.emotions),
            compare(item.topics, topics, known.topics),
            _lower(enriched.sentiments[0].label) if enriched.sentiments else NOT_TOLD,
        )

    def call(self, item: LabelledCall, known: LabelledSet) -> JudgedCall:
        enriched = self._enrich(item.event)
        emotions = _found(enriched, FindingKind.EMOTION, Role.CUSTOMER)
        topics = _found(enriched, FindingKind.TOPIC)
        self._meet("emotion", emotions, known.emotions)
        self._meet("topic", topics, known.topics)
        self._meet("alert", enriched.alerts, known.alerts)
        verdicts = {
            each.criterion_id: each.verdict.value.lower()
            for each in (enriched.score.criteria if enriched.score else ())
            if each.verdict is not Verdict.UNKNOWN
        }
        self._meet("criterion", verdicts, known.criteria)
        felt = {each.name: label(each.value) for each in enriched.metrics
                if each.role is Role.CUSTOMER and "sentiment" in each.name}  # fmt: skip
        resolution = enriched.summary.resolution if enriched.summary else Resolution.UNKNOWN
        return JudgedCall(
            item,
            compare(item.emotions, emotions, known.emotions),
            compare(item.topics, topics, known.topics),
            compare(item.alerts, enriched.alerts, known.alerts),
            {
                name: (verdict, verdicts[name])
                for name, verdict in item.criteria.items()
                if name in verdicts
            },
            _lower(felt.get("customer_sentiment_start", SentimentLabel.UNKNOWN)),
            _lower(felt.get("customer_sentiment_end", SentimentLabel.UNKNOWN)),
            next((word for word, each in SOLVED.items() if each is resolution), NOT_TOLD),
        )

    def _enrich(self, event: CallTranscribed) -> CallEnriched:
        enriched, _ = enrich_call(
            event, event.call_id, self.rules, _NOW, self.settings, text_model=self.text_model
        )
        self.tellers.update(each.engine for each in enriched.sentiments)
        return enriched

    def _meet(self, kind: str, found: Iterable[str], known: Collection[str]) -> None:
        self.strangers.update(f"{kind} {each}" for each in set(found) - set(known))


def _lower(sentiment: SentimentLabel) -> str:
    return sentiment.value.lower()


def _found(enriched: CallEnriched, kind: FindingKind, role: Role | None = None) -> set[str]:
    return {
        each.label
        for each in enriched.findings
        if each.kind is kind and (role is None or each.role is role)
    }


# The report


def report(judge: Judge, known: LabelledSet, per: Sequence[str] = ()) -> dict[str, Any]:
    """All figures, ready for JSON: shares 0.0 to 1.0, null where there is nothing to share."""
    segments = [judge.segment(each, known) for each in known.segments]
    calls = [judge.call(each, known) for each in known.calls]
    found: dict[str, Any] = {
        "rules_version": judge.rules.version,
        "sentiment_by": {},
        "segments": _segments_report(segments, known),
        "segments_by_language": _by(
            segments, lambda each: each.item.language, lambda some: _brief(some, known)
        ),
        "calls": _calls_report(calls, known),
        "calls_by_language": _by(
            calls, lambda each: each.item.language, lambda some: _brief_calls(some, known)
        ),
    }
    keys: dict[str, Callable[[JudgedSegment], str]] = {
        "trap": lambda each: each.item.trap,
        "role": lambda each: each.item.role.value.lower(),
    }
    for name in per:
        found[f"segments_by_{name}"] = _by(segments, keys[name], lambda some: _brief(some, known))
    found["sentiment_by"] = dict(sorted(judge.tellers.items()))
    found["not_in_the_set"] = dict(sorted(judge.strangers.items()))
    found["misses"] = [
        *(miss for each in segments for miss in _segment_misses(each)),
        *(miss for each in calls for miss in _call_misses(each)),
    ]
    return found


def _by(items: Sequence[Any], key: Callable[[Any], str], told: Callable[[Any], Any]) -> Any:
    groups: dict[str, list[Any]] = defaultdict(list)
    for each in items:
        groups[key(each)].append(each)
    return {name: told(groups[name]) for name in sorted(groups)}


def _classes(items: Sequence[Right], classes: Sequence[str]) -> dict[str, Any]:
    return {
        "items": len(items),
        "micro": count(items).plain(),
        "micro_f1_interval": interval(items),
        "macro_f1": macro_f1(items, classes),
        "classes": {each: count(items, each).plain() for each in classes},
    }


def _confusion(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Accuracy, that of always telling the commonest, and meant -> told -> how often."""
    table: dict[str, dict[str, int]] = {}
    for (meant, told), number in sorted(Counter(pairs).items()):
        table.setdefault(meant, {})[told] = number
    right = sum(meant == told for meant, told in pairs)
    most = max((sum(told.values()) for told in table.values()), default=0)
    return {
        "items": len(pairs),
        "accuracy": _share(right, len(pairs)),
        "commonest": _share(most, len(pairs)),
        "confusion": table,
    }


def _segments_report(items: Sequence[JudgedSegment], known: LabelledSet) -> dict[str, Any]:
    return {
        "emotions": _classes([each.emotions for each in items], known.emotions),
        "topics": _classes([each.topics for each in items], known.topics),
        "sentiment": _confusion([each.sentiment_pair for each in items]),
    }


def _brief(items: Sequence[JudgedSegment], known: LabelledSet) -> dict[str, Any]:
    """Figures of part of the segments. `clean`: neither false nor missed."""
    emotions, topics = [each.emotions for each in items], [each.topics for each in items]
    return {
        "items": len(items),
        "emotions": count(emotions).plain(),
        "emotions_macro_f1": macro_f1(emotions, known.emotions),
        "emotions_clean": sum(_clean(each) for each in emotions),
        "topics": count(topics).plain(),
        "topics_macro_f1": macro_f1(topics, known.topics),
        "topics_clean": sum(_clean(each) for each in topics),
        "sentiment_accuracy": _share(sum(each.sentiment_right for each in items), len(items)),
    }


def _clean(each: Right) -> bool:
    return not each.false and not each.missed


def _calls_report(items: Sequence[JudgedCall], known: LabelledSet) -> dict[str, Any]:
    pairs = [pair for each in items for pair in each.criteria.values()]
    criteria: dict[str, Any] = {}
    for name in known.criteria:
        own = [each.criteria[name] for each in items if name in each.criteria]
        criteria[name] = {**_confusion(own), "kappa": kappa(own)}
    return {
        "emotions": _classes([each.emotions for each in items], known.emotions),
        "topics": _classes([each.topics for each in items], known.topics),
        "alerts": _classes([each.alerts for each in items], known.alerts),
        "criteria": {**_confusion(pairs), "kappa": kappa(pairs), "each": criteria},
        "not_scored": sum(not each.criteria for each in items),
        "sentiment_begin": _confusion([(e.item.sentiment_begin, e.begin) for e in items]),
        "sentiment_end": _confusion([(e.item.sentiment_end, e.end) for e in items]),
        "solved": _confusion([(e.item.solved, e.solved) for e in items]),
    }


def _brief_calls(items: Sequence[JudgedCall], known: LabelledSet) -> dict[str, Any]:
    whole = _calls_report(items, known)
    return {
        "items": len(items),
        **{name: whole[name]["micro"] for name in ("emotions", "topics", "alerts")},
        "criteria_agreement": whole["criteria"]["accuracy"],
        "criteria_kappa": whole["criteria"]["kappa"],
        "sentiment_begin_accuracy": whole["sentiment_begin"]["accuracy"],
        "sentiment_end_accuracy": whole["sentiment_end"]["accuracy"],
    }


def _segment_misses(each: JudgedSegment) -> Iterable[dict[str, Any]]:
    wrong = _wrong(emotion=each.emotions, topic=each.topics)
    if not each.sentiment_right:
        wrong.append(f"sentiment {each.sentiment}, not {each.item.sentiment[0]}")
    if wrong and each.item.split == DEV:
        yield {
            "id": each.item.item_id,
            "trap": each.item.trap,
            "wrong": wrong,
            "text": f"{each.item.role.value.lower()}: {each.item.text}",
        }


def _call_misses(each: JudgedCall) -> Iterable[dict[str, Any]]:
    wrong = _wrong(emotion=each.emotions, topic=each.topics, alert=each.alerts)
    wrong += [
        f"criterion {name} {told}, not {meant}"
        for name, (meant, told) in each.criteria.items()
        if meant != told
    ]
    for where, meant, told in (
        ("begin", each.item.sentiment_begin, each.begin),
        ("end", each.item.sentiment_end, each.end),
    ):
        if meant != told:
            wrong.append(f"sentiment at the {where} {told}, not {meant}")
    if each.solved not in (each.item.solved, NOT_TOLD):
        wrong.append(f"solved {each.solved}, not {each.item.solved}")
    if wrong and each.item.split == DEV:
        yield {"id": each.item.item_id, "trap": each.item.trap, "wrong": wrong, "text": ""}


def _wrong(**kinds: Right) -> list[str]:
    found: list[str] = []
    for kind, right in kinds.items():
        found += [f"{kind} {each} false" for each in sorted(right.false)]
        found += [f"{kind} {each} missed" for each in sorted(right.missed)]
    return found


def as_text(found: Mapping[str, Any], misses: bool = False) -> str:
    """The report for people."""
    tellers = ", ".join(f"{name} ({n} segments)" for name, n in found["sentiment_by"].items())
    lines = [f"rules {found['rules_version']}, sentiment by {tellers}"]
    for kind in ("emotions", "topics"):
        lines += _class_table(f"segments, {kind}", found["segments"][kind])
    lines += _confusion_lines("segments, sentiment", found["segments"]["sentiment"])
    for name in (each for each in found if each.startswith("segments_by_")):
        lines += _brief_table(name.replace("_", " "), found[name])
    for kind in ("topics", "emotions", "alerts"):
        lines += _class_table(f"calls, {kind}", found["calls"][kind])
    lines += _criteria_lines(found["calls"])
    for when in ("sentiment_begin", "sentiment_end", "solved"):
        lines += _confusion_lines(f"calls, {when.replace('_', ' at ')}", found["calls"][when])
    lines += ["", "calls by language   calls  topics F1  emotions F1  alerts F1  criteria  kappa"]
    for name, part in found["calls_by_language"].items():
        lines.append(
            f"  {name:<16} {part['items']:>6} {_percent(part['topics']['f1']):>10} "
            f"{_percent(part['emotions']['f1']):>12} {_percent(part['alerts']['f1']):>10} "
            f"{_percent(part['criteria_agreement']):>9} {_number(part['criteria_kappa']):>6}"
        )
    if found["not_in_the_set"]:
        lines += ["", "found, but not in the set, so in no figure:"]
        lines += [f"  {name} ({n} times)" for name, n in found["not_in_the_set"].items()]
    if misses:
        lines += ["", f"wrong, of the half {DEV}:"]
        for each in found["misses"]:
            trap = "" if each["trap"] == PLAIN else f" [{each['trap']}]"
            lines.append(f"  {each['id']}{trap} {'; '.join(each['wrong'])}")
            if each["text"]:
                lines.append(f"      {each['text']}")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _row(name: str, counts: Mapping[str, Any]) -> str:
    return (
        f"  {name:<24} {counts['there']:>6} {counts['hits']:>6} {counts['false']:>6} "
        f"{counts['missed']:>7} {_percent(counts['precision']):>10} "
        f"{_percent(counts['recall']):>7} {_percent(counts['f1']):>6}"
    )


def _class_table(title: str, part: Mapping[str, Any]) -> list[str]:
    heading = f"{title} ({part['items']})"
    lines = [
        "",
        f"{heading:<26}  there   hits  false  missed  precision  recall     F1",
        *(_row(name, counts) for name, counts in part["classes"].items()),
        _row("all (micro)", part["micro"]),
    ]
    if (bounds := part["micro_f1_interval"]) is not None:
        low, high = bounds
        lines[-1] += f" [{_percent(low)}, {_percent(high)}]"
    return [*lines, f"  {'mean of classes (macro)':<24} {'F1':>46} {_percent(part['macro_f1']):>6}"]


def _brief_table(title: str, parts: Mapping[str, Any]) -> list[str]:
    lines = [
        "",
        f"{title:<24}  items  emotions: there  false  missed  clean     F1"
        "  topics: there  false  missed  clean     F1  sentiment",
    ]
    for name, part in parts.items():
        line = f"  {name:<22} {part['items']:>6}"
        for kind, width in (("emotions", 16), ("topics", 14)):
            counts = part[kind]
            line += (
                f" {counts['there']:>{width}} {counts['false']:>6} {counts['missed']:>7} "
                f"{part[f'{kind}_clean']:>6} {_percent(counts['f1']):>6}"
            )
        lines.append(f"{line} {_percent(part['sentiment_accuracy']):>10}")
    return lines


def _confusion_lines(title: str, part: Mapping[str, Any]) -> list[str]:
    lines = [
        "",
        f"{title}: {_percent(part['accuracy'])} % of {part['items']} right "
        f"(always the commonest: {_percent(part['commonest'])} %)",
    ]
    for meant, told in part["confusion"].items():
        lines.append(f"  {meant} told as " + ", ".join(f"{k} {n}" for k, n in told.items()))
    return lines


def _criteria_lines(calls: Mapping[str, Any]) -> list[str]:
    part = calls["criteria"]
    lines = [
        "",
        f"calls, criteria: {_percent(part['accuracy'])} % of {part['items']} verdicts agree, "
        f"kappa {_number(part['kappa'])}; {calls['not_scored']} calls have no score",
    ]
    for name, own in part["each"].items():
        wrong = [
            f"{meant} told as {told} {n}"
            for meant, row in own["confusion"].items()
            for told, n in row.items()
            if meant != told
        ]
        lines.append(
            f"  {name:<16} {own['items']:>4} {_percent(own['accuracy']):>6} % "
            f"kappa {_number(own['kappa']):>5}  {', '.join(wrong)}".rstrip()
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--split", choices=[*SPLITS, "all"], default=DEV)
    parser.add_argument("--per", choices=["trap", "role"], action="append", default=[])
    parser.add_argument("--misses", action="store_true", help="list what is wrong, of dev alone")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rules", type=Path, action="append", default=[], metavar="FOLDER",
                        help="laid over the built-in rules")  # fmt: skip
    parser.add_argument("--sentiment-model", default="", metavar="NAME_OR_FOLDER",
                        help="a text classifier that judges how words feel")  # fmt: skip
    parser.add_argument("--sentiment-labels", type=json.loads, default={}, metavar="JSON",
                        help='what its labels are worth, as {"LABEL_0": -1}')  # fmt: skip
    parser.add_argument("--sentiment-device", default="auto", metavar="DEVICE")
    options = parser.parse_args(arguments)
    if options.misses and options.split == HELD_OUT:
        parser.error(f"--misses: what is wrong in {HELD_OUT} is not listed; use --split {DEV}")
    judge = Judge(load_rules(*options.rules), EnrichSettings())
    if options.sentiment_model:
        try:
            wanted = SentimentSettings(
                model=options.sentiment_model,
                labels=options.sentiment_labels,
                device=options.sentiment_device,
            )
            judge.text_model = SentimentModel(wanted)
        except (ValueError, Transient) as error:
            parser.error(f"--sentiment-model: {error}")
    found = report(judge, load_labelled().of(options.split), options.per)
    found = {"split": options.split, **found}
    if options.json:
        if not options.misses:
            del found["misses"]
        print(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        print(f"split {options.split}, {as_text(found, options.misses)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
