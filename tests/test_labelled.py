"""The labelled set is well-formed, and the scorer counts what a hand would."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.findings import (
    DEV,
    HELD_OUT,
    LABELLED,
    PLAIN,
    SPLITS,
    TRAPS,
    Counts,
    Judge,
    LabelledSegment,
    LabelledSet,
    Labels,
    Right,
    as_text,
    compare,
    count,
    interval,
    kappa,
    load_labelled,
    macro_f1,
    main,
    report,
)
from schemas.events import Role
from services.enrich.rules import BUILT_IN, load_rules
from services.enrich.settings import EnrichSettings
from services.runtime.yaml_file import FileError

SET = load_labelled()
HALVES = {split: SET.of(split) for split in SPLITS}


# The set


def test_there_is_enough_of_it() -> None:
    segments = Counter(each.language for each in SET.segments)
    assert sum(segments.values()) >= 320
    assert max(segments.values()) - min(segments.values()) <= len(SET.segments) // 20
    assert sum(each.trap != PLAIN for each in SET.segments) * 3 >= len(SET.segments)
    calls = Counter(each.language for each in SET.calls)
    assert sum(calls.values()) >= 32
    assert max(calls.values()) - min(calls.values()) <= 2
    assert len({each.domain for each in SET.calls}) >= 8
    for each in SET.calls:
        assert 12 <= len(each.event.segments) <= 40, each.item_id


def test_the_readme_tells_how_much() -> None:
    text = (LABELLED / "README.md").read_text(encoding="utf-8")
    assert f"{len(SET.segments)} segments and {len(SET.calls)} whole calls" in text
    for trap in TRAPS:
        assert f"| `{trap}` |" in text


def test_every_trap_is_there_in_each_language_and_half() -> None:
    there = {(each.language, each.split, each.trap) for each in SET.segments}
    assert len(there) == 2 * 2 * (len(TRAPS) + 1)


def test_the_halves_are_balanced_by_language_and_trap() -> None:
    found = Counter((each.language, each.trap, each.split) for each in SET.segments)
    for language, trap, _ in found:
        assert abs(found[language, trap, DEV] - found[language, trap, HELD_OUT]) <= 1
    calls = Counter((each.language, each.split) for each in SET.calls)
    assert max(calls.values()) - min(calls.values()) <= 1


@pytest.mark.parametrize("split", SPLITS)
def test_each_half_has_every_class(split: str) -> None:
    half = HALVES[split]
    assert {x for each in half.segments for x in each.emotions.present} == set(SET.emotions)
    assert {x for each in half.segments for x in each.topics.present} == set(SET.topics)
    assert {x for each in half.calls for x in each.alerts.present} == set(SET.alerts)


def test_no_text_stands_twice() -> None:
    texts = Counter("".join(each.text.lower().split()) for each in SET.segments)
    assert [text for text, number in texts.items() if number > 1] == []


def test_nothing_of_agents_is_an_emotion() -> None:
    agents = [each for each in SET.segments if each.role is Role.AGENT]
    assert len(agents) >= 40
    assert [each.item_id for each in agents if each.emotions.present] == []


def test_mandarin_is_mandarin() -> None:
    for each in SET.segments:
        han = any("\u4e00" <= letter <= "\u9fff" for letter in each.text)
        assert han or each.language == "en", each.item_id
        assert not han or each.language == "zh" or each.trap == "code_switching", each.item_id


def test_every_class_of_the_set_is_one_that_the_rules_know() -> None:
    def ids(name: str, key: str) -> list[Any]:
        found: list[Any] = yaml.safe_load((BUILT_IN / name).read_text(encoding="utf-8"))[key]
        return found

    classes = {
        (each["kind"], each["id"])
        for path in (BUILT_IN / "lexicons").glob("*.yaml")
        for each in yaml.safe_load(path.read_text(encoding="utf-8")).get("classes", ())
    }
    assert {("emotion", each) for each in SET.emotions} <= classes
    assert {("topic", each) for each in SET.topics} <= classes
    assert set(SET.alerts) <= {each["id"] for each in ids("alerts.yaml", "alerts")}
    assert set(SET.criteria) <= {each["id"] for each in ids("scorecard.yaml", "criteria")}


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("emotions: [dissatisfied]", "emotions: [sad]", "'sad' is not allowed"),
        ("id: en-002", "id: en-001", "'en-001' stands twice"),
        ("split: dev", "split: test", "'test' is not allowed"),
        (
            "emotions_allowed: [frustrated, dissatisfied]",
            "emotions_allowed: [angry]",
            "angry is there already",
        ),
    ],
)
def test_a_wrong_label_is_told(tmp_path: Path, before: str, after: str, told: str) -> None:
    for name in ("segments.yaml", "calls.yaml"):
        text = (LABELLED / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace(before, after, 1), encoding="utf-8")
    with pytest.raises(FileError, match=told):
        load_labelled(tmp_path)


# The scorer

CLASSES = ("a", "b", "c")
some_classes = st.frozensets(st.sampled_from((*CLASSES, "unheard_of")))


def right(hits: str = "", false: str = "", missed: str = "") -> Right:
    return Right(frozenset(hits), frozenset(false), frozenset(missed))


def test_what_is_open_counts_neither_way() -> None:
    labels = Labels(frozenset("a"), frozenset("b"))
    assert compare(labels, {"a", "b"}, CLASSES) == right("a")
    assert compare(labels, {"b", "c", "unheard_of"}, CLASSES) == right("", "c", "a")


@given(some_classes, some_classes, some_classes)
def test_every_class_is_counted_once_or_not_at_all(
    present: frozenset[str], allowed: frozenset[str], found: frozenset[str]
) -> None:
    present &= set(CLASSES)
    labels = Labels(present, allowed - present)
    each = compare(labels, found, CLASSES)
    assert each.hits | each.missed == present
    assert not each.hits & each.missed
    assert each.false == (found & set(CLASSES)) - present - allowed


def test_counts_are_those_of_a_hand() -> None:
    items = [right("ab"), right("a", "c"), right("", "a", "b")]
    assert count(items) == Counts(3, 2, 1)
    assert count(items, "a") == Counts(2, 1, 0)
    assert count(items).precision == 3 / 5
    assert count(items).recall == 3 / 4
    assert count(items).f1 == 6 / 9
    # c is never there: its F1 is of no meaning, and it is in no mean.
    assert macro_f1(items, CLASSES) == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_nothing_has_no_figure() -> None:
    nothing = count([right()])
    assert (nothing.precision, nothing.recall, nothing.f1) == (None, None, None)
    assert macro_f1([right()], CLASSES) is None
    assert interval([right("a")]) is None
    assert interval([right(), right()]) is None
    assert kappa([]) is None
    assert kappa([("met", "met")] * 3) is None


def test_the_interval_holds_the_figure_and_is_wider_for_fewer_items() -> None:
    few = [right("a"), right("", "a"), right("b"), right("", "", "a"), right("ab")]
    many = few * 20
    assert count(few).f1 == count(many).f1 == 8 / 10
    wide, narrow = interval(few), interval(many)
    assert wide is not None
    assert narrow is not None
    assert wide[0] < narrow[0] < 0.8 < narrow[1] < wide[1]
    assert interval(many) == narrow
    assert interval([right("a")] * 9) == (1.0, 1.0)


def test_kappa_is_that_of_the_textbook() -> None:
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    assert kappa(pairs) == pytest.approx(0.4)
    assert kappa([("yes", "no"), ("no", "yes")]) == -1.0


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("xyz"))))
def test_kappa_is_one_only_where_all_agree(pairs: list[tuple[str, str]]) -> None:
    found = kappa(pairs)
    assert found is None or found <= 1.0
    if found is not None:
        assert (found == 1.0) == all(one == other for one, other in pairs)


def segment(
    text: str, emotions: str = "", sentiment: Sequence[str] = ("neutral",), **more: Any
) -> Any:
    return LabelledSegment(
        **{
            "item_id": text,
            "split": DEV,
            "language": "en",
            "role": Role.CUSTOMER,
            "text": text,
            "trap": PLAIN,
            "emotions": Labels(frozenset(emotions.split())),
            "topics": Labels(frozenset()),
            "sentiment": tuple(sentiment),
            **more,
        }
    )


def tiny(*segments: LabelledSegment) -> LabelledSet:
    return replace(SET, segments=segments, calls=())


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(load_rules(), EnrichSettings())


def test_segments_are_judged_as_enrich_hears_them(judge: Judge) -> None:
    found = report(
        judge,
        tiny(
            segment("i am very angry", "angry", ["negative"]),
            segment("it is the fourteenth", "angry", ["negative", "neutral"], trap="sarcasm"),
            segment("i am very satisfied", sentiment=["neutral"]),
            segment("if you are angry tell us", role=Role.AGENT, trap="agent_terms"),
        ),
        per=["trap", "role"],
    )
    emotions = found["segments"]["emotions"]
    assert emotions["classes"]["angry"] == {
        "there": 2,
        "hits": 1,
        "false": 0,
        "missed": 1,
        "precision": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
    }
    assert emotions["classes"]["satisfied"]["false"] == 1
    assert emotions["macro_f1"] == pytest.approx(2 / 3)
    assert found["segments"]["sentiment"] == {
        "items": 4,
        "accuracy": 3 / 4,
        "commonest": 3 / 4,
        "confusion": {"negative": {"negative": 1}, "neutral": {"neutral": 2, "positive": 1}},
    }
    assert found["segments_by_trap"]["sarcasm"]["emotions"]["missed"] == 1
    assert found["segments_by_role"]["agent"]["emotions_clean"] == 1
    assert [(each["id"], each["wrong"]) for each in found["misses"]] == [
        ("it is the fourteenth", ["emotion angry missed"]),
        ("i am very satisfied", ["emotion satisfied false", "sentiment positive, not neutral"]),
    ]


def test_a_call_is_judged_by_all_that_is_said_of_it(judge: Judge) -> None:
    call = next(each for each in HALVES[DEV].calls if each.item_id == "en-rude-agent")
    found = report(judge, replace(SET, segments=(), calls=(call,)))["calls"]
    assert found["alerts"]["items"] == 1
    assert found["criteria"]["items"] == len(SET.criteria)
    assert found["criteria"]["each"]["greeting"]["confusion"] == {"not_met": {"not_met": 1}}
    assert found["sentiment_end"]["items"] == found["solved"]["items"] == 1


def test_what_the_set_does_not_know_is_told_and_counts_for_nothing(judge: Judge) -> None:
    known = replace(tiny(segment("i am very angry")), emotions=("satisfied",))
    found = report(Judge(judge.rules, judge.settings), known)
    assert found["segments"]["emotions"]["micro"]["false"] == 0
    assert found["not_in_the_set"] == {"emotion angry": 1}
    assert "emotion angry (1 times)" in as_text(found)


def test_the_held_out_half_is_never_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--split", "all", "--misses", "--json", "--per", "trap"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["split"] == "all"
    assert found["segments"]["topics"]["items"] == len(SET.segments)
    dev = {each.item_id for each in HALVES[DEV].segments}
    dev |= {each.item_id for each in HALVES[DEV].calls}
    assert {each["id"] for each in found["misses"]} <= dev
    with pytest.raises(SystemExit):
        main(["--split", HELD_OUT, "--misses"])
    assert "is not listed" in capsys.readouterr().err


def test_the_text_has_every_class_and_both_languages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--split", HELD_OUT, "--per", "trap"]) == 0
    said = capsys.readouterr().out
    words = set(said.split())
    assert {*SET.emotions, *SET.topics, *SET.alerts, *SET.criteria, *TRAPS, "en", "zh"} <= words
    assert not any(each.text in said for each in SET.segments)
