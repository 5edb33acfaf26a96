from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.events import CallEnded, Correction, Platform, Queue, Source
from services.runtime.yaml_file import FileError
from services.transcribe.engine import HeardSegment, HeardWord
from services.transcribe.spans import Span
from services.transcribe.vocabulary import Vocabularies, Vocabulary, load_vocabularies
from services.transcribe.words import split, timed

ROOT = Path(__file__).parents[2]


def folder(path: Path, **files: str) -> Path:
    """default="..." is default.yaml; acme__sales is tenants/acme/sales.yaml."""
    for name, text in files.items():
        file = path / ("default" if name == "default" else "tenants/" + name.replace("__", "/"))
        file = file.with_name(file.name + ".yaml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return path


def vocabulary(corrections: Sequence[Any], **more: Any) -> Vocabulary:
    """Of (heard, corrected) or (heard, corrected, language), as a file would make it."""
    entries = [
        dict(zip(("heard", "corrected", "language"), it, strict=False)) for it in corrections
    ]
    with tempfile.TemporaryDirectory() as name:
        # JSON is YAML.
        text = json.dumps({"corrections": entries, **more}, ensure_ascii=False)
        found = load_vocabularies(folder(Path(name), default=text)).everybody
    assert found is not None
    return found


def segment(
    text: str, words: Sequence[HeardWord] | None = None, language: str = "en"
) -> HeardSegment:
    return HeardSegment(
        text=text,
        start_ms=0,
        end_ms=1_000,
        language=language,
        words=None if words is None else tuple(words),
    )


def word(
    text: str, start: int | None = None, end: int | None = None, sure: float | None = None
) -> HeardWord:
    return HeardWord(text=text, start_ms=start, end_ms=end, confidence=sure)


def corrected(corrections: Sequence[Any], text: str, language: str = "en") -> str:
    return vocabulary(corrections).corrected(segment(text, language=language)).segment.text


@pytest.mark.parametrize(
    ("heard", "right", "text", "expected"),
    [
        (
            "call stream",
            "Callstream",
            "So Call  STREAM, and call stream.",
            "So Callstream, and Callstream.",
        ),
        ("cat", "Kat", "the catalog of a cat, bobcat; cat", "the catalog of a Kat, bobcat; Kat"),
        ("cat", "Kat", "cat-like wild-cat cat_1 @cat cat5", "cat-like wild-cat cat_1 @Kat cat5"),
        (
            "jon",
            "John",
            "Jon's and jon’s; 'jon' o'jon jon'd",
            "John's and John’s; 'John' o'jon jon'd",
        ),
        ("don", "Dawn", "Don, I don't, don’t", "Dawn, I don't, don’t"),
        (
            "call stream",
            "Callstream",
            "call, stream. call-stream call\nstream",
            "call, stream. call-stream Callstream",
        ),
        ("5", "five", "15 5 5.5 5,000 10:5 5%", "15 five 5.5 5,000 10:5 five%"),
        ("cafe\u0301 noir", "Café Noir", "CAFÉ noir cafe noir", "Café Noir cafe noir"),
        ("ＡＢＣ", "abc", "Abc ＡＢＣ", "abc abc"),
        ("straße", "Strasse", "STRASSE", "Strasse"),
        ("c++ (a|b)[^x]*", "Cpp", "use C++ (a|b)[^x]*! c", "use Cpp! c"),
        ("at and t", "AT&T", "at and t.", "AT&T."),
        ("२", "two", "१२ २", "१२ two"),
        ("कल", "kal", "कला कल", "कला kal"),
    ],
)
def test_words_with_spaces(heard: str, right: str, text: str, expected: str) -> None:
    assert corrected([(heard, right)], text) == expected


@pytest.mark.parametrize(
    ("heard", "right", "text", "expected"),
    [
        ("百渡", "百度", "在百渡上，百，渡。百渡！", "在百度上，百，渡。百度！"),
        ("5号", "五号", "15号和5号", "15号和五号"),
        ("kol stream", "Callstream", "我用Kol Stream服务", "我用Callstream服务"),
        ("kol", "Call", "kols和kol，xkol", "kols和Call，xkol"),
        ("爱疯", "iPhone", "买爱疯15和爱疯", "买iPhone 15和iPhone"),
        ("百 渡", "百度", "百 渡和百渡", "百度和百度"),
        ("コール", "Call", "コールとアルコールとコールド", "Callとアルコールとコールド"),
        ("콜스트림", "Callstream", "콜스트림을 새콜스트림", "Callstream을 새콜스트림"),
        ("二", "2", "½二，二月", "½ 2，2月"),
    ],
)
def test_words_without_spaces(heard: str, right: str, text: str, expected: str) -> None:
    assert corrected([(heard, right)], text, "zh") == expected


def test_half_of_a_character_is_not_corrected() -> None:
    # ½ is compared as 1⁄2.
    assert corrected([("2", "two")], "½ 2") == "½ two"


def test_the_longest_is_corrected_first_then_the_first() -> None:
    rules = [("a b", "AB"), ("b c d", "BCD"), ("d e", "DE")]
    assert corrected(rules, "a b c d e") == "a BCD e"
    assert corrected(rules, "a b a d e") == "AB a DE"
    assert corrected([("a b", "X1"), ("b c", "X2")], "a b c") == "X1 c"


def test_what_is_right_already_is_no_correction() -> None:
    rules = vocabulary([("acme", "ACME"), ("acme corp", "Acme Corporation")])
    done = rules.corrected(segment("ACME and acme and Acme corp"))
    assert done.segment.text == "ACME and ACME and Acme Corporation"
    assert [each.heard for each in done.corrections] == ["acme", "Acme corp"]


def test_a_result_guards_itself() -> None:
    rules = vocabulary([("mobile plus", "Acme Mobile Plus"), ("acme", "ACME")])
    done = rules.corrected(segment("acme has mobile plus, acme mobile plus, mobile"))
    assert done.segment.text == "ACME has Acme Mobile Plus, acme mobile plus, mobile"


def test_a_correction_may_be_of_one_language() -> None:
    rules = [("chat", "cat", "fr"), (["dog"], "Hund", "de"), ("dog", "chien")]
    assert corrected(rules, "chat dog", "fr-CA") == "cat chien"
    assert corrected(rules, "chat dog", "de") == "chat Hund"
    assert corrected(rules, "chat dog", "und") == "chat chien"


def test_two_corrections_that_make_a_third_are_one() -> None:
    rules = vocabulary(
        [("i phone", "iPhone"), (["iphone fifteen"], "iPhone 15"), ("fif teen", "fifteen")]
    )
    done = rules.corrected(segment("an i phone fif teen, please"))
    assert done.segment.text == "an iPhone 15, please"
    assert done.corrections == (
        Correction(word=1, heard="i phone fif teen", corrected="iPhone 15"),
    )


def test_what_would_be_changed_for_ever_is_left_as_heard() -> None:
    rules = vocabulary([("a b", "b a")])
    assert rules.corrected(segment("a a b")).segment.text == "b a a"
    text = "a a a a a a a b"
    assert rules.corrected(segment(text)).segment.text == text


def test_words_take_the_time_of_those_that_were_heard() -> None:
    rules = vocabulary(
        [("call stream", "Callstream"), ("iphone", "I phone"), ("new yolk", "New York")]
    )
    heard = [
        word("(Call", 0, 100, 0.9), word("stream,", 150, 300, 0.5), word("iphone", 300, 800),
        word("in", 800, 850, 0.8), word("new", 850, 900, 0.7), word("yolk.", 900, 990, 0.2),
    ]  # fmt: skip
    done = rules.corrected(segment("(Call stream, iphone in new yolk.", heard))
    assert done.segment.text == "(Callstream, I phone in New York."
    assert done.segment.words == (
        word("(Callstream,", 0, 300, 0.5),
        word("I", 300, 383), word("phone", 383, 800),
        word("in", 800, 850, 0.8), word("New", 850, 900, 0.7), word("York.", 900, 990, 0.2),
    )  # fmt: skip
    assert [each.word for each in done.corrections] == [0, 1, 4]
    assert done.spread
    one = segment("call stream", [word("call", 0, 5), word("stream", 5, 9)])
    assert not rules.corrected(one).spread


def test_words_that_could_not_be_placed_stay_without_times() -> None:
    done = vocabulary([("call stream", "Callstream")]).corrected(
        segment("call stream now", [word("call"), word("stream", 10, 20), word("now", 20, 30)])
    )
    assert done.segment.words == (word("Callstream"), word("now", 20, 30))


def test_words_of_several_characters_are_parted_where_they_are_corrected() -> None:
    heard = [
        word("我在", 0, 200, 0.9), word("百", 200, 300, 0.8), word("渡上，", 300, 500, 0.4),
        word("看", 500, 600, 0.9),
    ]  # fmt: skip
    done = vocabulary([("百渡", "百度网")]).corrected(segment("我在百渡上，看", heard, "zh"))
    assert done.segment.text == "我在百度网上，看"
    words = done.segment.words or ()
    assert [each.text for each in words] == ["我在", "百", "度", "网", "上，", "看"]
    assert words[0] == heard[0]
    assert words[-1] == heard[-1]
    assert [each.confidence for each in words[1:-1]] == [0.4] * 4
    assert (words[1].start_ms, words[-2].end_ms) == (200, 500)
    assert done.corrections[0].word == 1


def test_words_that_do_not_spell_the_text_are_found_by_their_letters() -> None:
    heard = [
        word("hello", 0, 100), word("kol", 100, 200), word("stream", 200, 300),
        word("bye", 300, 400),
    ]  # fmt: skip
    done = vocabulary([("kol stream", "Callstream")]).corrected(
        segment("Hello, Kol Stream! Er... bye.", heard)
    )
    assert done.segment.text == "Hello, Callstream! Er... bye."
    assert done.segment.words == (heard[0], word("Callstream", 100, 300), heard[3])
    assert done.corrections[0].word == 1


def test_an_index_counts_the_words_that_are_published() -> None:
    rules = vocabulary([("百渡", "百度"), ("call stream", "Callstream")])
    for words in (None, [word(" ")]):
        done = rules.corrected(segment("“百渡”，好。 “call stream”", words))
        published = timed(done.segment.text, done.segment.words, Span(0, 1_000)).texts
        assert [published[each.word] for each in done.corrections] == ["百", "“Callstream”"]


texts = st.text(st.sampled_from("abAB12 ,.'-百渡度好ー\u0301½ｆ한é(*"), max_size=12)
anything = st.text(max_size=30)
rules = st.lists(
    st.tuples(st.lists(texts, min_size=1, max_size=3), texts, st.sampled_from(["en", "zh"]))
    | st.tuples(st.lists(texts, min_size=1, max_size=3), texts),
    min_size=1,
    max_size=5,
)


@st.composite
def rules_and_text(draw: st.DrawFn) -> tuple[list[Any], str]:
    """Corrections, and text with much in it that they are about."""
    corrections = draw(rules)
    told = [form for heard, right, *_ in corrections for form in (*heard, right)]
    pieces = draw(st.lists(st.sampled_from(told) | texts, min_size=1, max_size=6))
    return corrections, draw(st.sampled_from(["", " "])).join(pieces)


def made_of(corrections: Sequence[Any]) -> Vocabulary:
    """The vocabulary, of those corrections that are not refused one by one or with those before."""
    kept: list[Any] = []
    found = vocabulary([], terms=["none of them"])
    for each in corrections:
        try:
            found = vocabulary([*kept, each])
        except FileError:
            continue
        kept.append(each)
    return found


def explained(text: str, now: str, corrections: Sequence[Correction]) -> bool:
    """Whether `now` is `text` with those corrections, in that order, and nothing else changed."""
    if not corrections:
        return text == now
    first, *others = corrections
    at = text.find(first.heard)
    while at >= 0 and text[:at] == now[:at]:
        for pad in ("", " "):
            for behind in ("", " "):
                right = pad + first.corrected + behind
                if now.startswith(right, at) and explained(
                    text[at + len(first.heard) :], now[at + len(right) :], others
                ):
                    return True
        at = text.find(first.heard, at + 1)
    return False


def check(vocabulary: Vocabulary, heard: HeardSegment) -> None:
    done = vocabulary.corrected(heard)
    now = done.segment
    assert replace(now, text=heard.text, words=heard.words) == heard
    assert explained(heard.text, now.text, done.corrections)
    assert (now == heard) == (not done.corrections)
    again = vocabulary.corrected(now)
    assert (again.segment, again.corrections) == (now, ())
    published = timed(now.text, now.words, Span(now.start_ms, now.end_ms)).texts
    firsts = [each.word for each in done.corrections]
    assert firsts == sorted(firsts)
    for each in done.corrections:
        letter = next(it for it in each.corrected if it.isalnum())
        assert letter in published[each.word]
    if now.words is None:
        assert published == split(now.text)


@settings(deadline=None)
@given(rules_and_text())
def test_nothing_else_changes_and_no_second_time(case: tuple[list[Any], str]) -> None:
    corrections, text = case
    check(made_of(corrections), segment(text))


@settings(deadline=None)
@given(rules_and_text(), st.data())
def test_words_spell_the_text_before_and_after(
    case: tuple[list[Any], str], data: st.DataObject
) -> None:
    corrections, text = case
    pieces: list[str] = []
    for each in text.split():
        cuts = sorted({0, len(each), *data.draw(st.lists(st.integers(0, len(each)), max_size=3))})
        pieces += [each[a:b] for a, b in pairwise(cuts)]
    words = [word(piece, 10 * at, 10 * at + 8, 0.5) for at, piece in enumerate(pieces)]
    heard = segment(text, words)
    rules = made_of(corrections)
    check(rules, heard)
    now = rules.corrected(heard).segment
    assert now.words is not None
    assert "".join(each.text for each in now.words) == "".join(now.text.split())
    if words:
        assert (now.words[0].start_ms, now.words[-1].end_ms) == (0, words[-1].end_ms)
        ends = [each.end_ms or 0 for each in now.words]
        assert ends == sorted(ends)
        assert all((each.start_ms or 0) <= (each.end_ms or 0) for each in now.words)


@settings(deadline=None)
@given(
    st.lists(st.tuples(anything, anything), min_size=1, max_size=4),
    anything,
    st.none() | st.lists(anything, max_size=6),
)
def test_any_text_is_corrected_or_refused(
    corrections: list[Any], text: str, words: list[str] | None
) -> None:
    text += corrections[0][0] + text
    heard = segment(text, None if words is None else [word(each) for each in words])
    rules = made_of(corrections)
    done = rules.corrected(heard)
    assert rules.corrected(done.segment).corrections == ()
    published = timed(done.segment.text, done.segment.words, Span(0, 1_000)).texts
    assert all(0 <= each.word < len(published) for each in done.corrections)


def test_ten_thousand_corrections_cost_no_more_than_ten() -> None:
    """By the time that each takes, with room for a busy machine."""

    def taken_s(count: int) -> float:
        many = vocabulary(
            [([f"wrong {at} word", f"wrung{at}"], f"Right-{at}") for at in range(count)]
        )
        heard = segment("and wrong 7 word stood in a wrong wrong 8 word place, wrung9 " * 4)
        best = 1e9
        for _ in range(5):
            started = time.process_time()
            done = many.corrected(heard)
            best = min(best, time.process_time() - started)
        assert len(done.corrections) == 12
        return best

    assert taken_s(10_000) < 5 * taken_s(10)


def test_overlapping_corrections_without_end_are_made_in_time() -> None:
    many = vocabulary([("a " * length + "b", f"X{length}") for length in range(90)])
    started = time.process_time()
    assert many.corrected(segment("a " * 5_000 + "b")).segment.text.endswith("a X89")
    assert time.process_time() - started < 5


CALL = CallEnded(
    event_id="1",
    tenant_id="acme",
    call_id="c",
    occurred_at=datetime(2025, 1, 1, tzinfo=UTC),
    published_at=datetime(2025, 1, 1, tzinfo=UTC),
    source=Source(platform=Platform.OTHER),
    started_at=datetime(2025, 1, 1, tzinfo=UTC),
    ended_at=datetime(2025, 1, 1, tzinfo=UTC),
)


def name_for(found: Vocabularies, tenant: str, queue: Queue | None = None) -> str | None:
    chosen = found.of(replace(CALL, tenant_id=tenant, queue=queue))
    return None if chosen is None else chosen.name


def test_the_most_specific_vocabulary_is_chosen(tmp_path: Path) -> None:
    found = load_vocabularies(
        folder(
            tmp_path,
            default="terms: [Callstream]",
            acme__general="terms: [Acme]",
            acme__sales="queues: [q-1, Sales desk]\nterms: [discount]",
            beta__vip="queues: vip\nprompt: Good morning.",
        )
    )
    assert name_for(found, "acme") == "acme/general"
    assert name_for(found, "acme", Queue(id="q-9")) == "acme/general"
    assert name_for(found, "acme", Queue(id="q-1")) == "acme/sales"
    assert name_for(found, "acme", Queue(id="x", name="Sales desk")) == "acme/sales"
    assert name_for(found, "beta", Queue(id="vip")) == "beta/vip"
    assert name_for(found, "beta") == name_for(found, "other") == "default"
    assert load_vocabularies(None).of(CALL) is None


def test_a_vocabulary_may_extend_the_wider_one(tmp_path: Path) -> None:
    found = load_vocabularies(
        folder(
            tmp_path,
            default="terms: [A, B]\nprompt: Hello.\ncorrections: [{heard: [x, y], corrected: Z}]",
            acme__general="extends: yes\nterms: [C, A]\ncorrections: [{heard: x, corrected: ACME}]",
            acme__sales="queues: [s]\nextends: yes\nterms: [D]\nprompt: Sales.",
            acme__alone="queues: [a]\nterms: [D]",
        )
    )
    general, sales, alone = (
        found.tenants["acme"],
        found.queues["acme", "s"],
        found.queues["acme", "a"],
    )
    assert (general.terms, general.prompt) == (("C", "A", "B"), "Hello.")
    assert (sales.terms, sales.prompt) == (("D", "C", "A", "B"), "Sales.")
    assert (alone.terms, alone.prompt) == (("D",), "")
    assert sales.corrected(segment("x y")).segment.text == "ACME Z"
    assert alone.corrected(segment("x y")).segment.text == "x y"


def test_a_version_is_of_what_is_said_not_of_how_it_is_written(tmp_path: Path) -> None:
    def version(text: str) -> str:
        found = load_vocabularies(folder(tmp_path, default=text)).everybody
        assert found is not None
        return found.version

    one = version("terms: [A, B]\ncorrections:\n  - {heard: [x, y], corrected: Z}\n")
    assert re.fullmatch("[0-9a-f]{12}", one)
    assert one == version(
        "# noted\nterms:\n  - A\n  - B\ncorrections: {heard: [y, X], corrected: Z}"
    )
    others = {
        version("terms: [B, A]\ncorrections: {heard: [x, y], corrected: Z}"),
        version("terms: [A, B]\ncorrections: {heard: [x, y], corrected: Zz}"),
        version("terms: [A, B]\ncorrections: {heard: [x, y], corrected: Z, language: en}"),
        version("terms: [A, B]\nprompt: Hi\ncorrections: {heard: [x, y], corrected: Z}"),
    }
    assert len(others | {one}) == 5


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "default.yaml:1: is empty"),
        ("a: [", "is no YAML"),
        ("about: nothing", "says nothing; write terms, prompt or corrections"),
        ("term: [x]", "default.yaml:1: term: is not known here; did you mean terms? "),
        ("queues: [x]\nterms: [y]", "queues: is not known here"),
        ("terms: [x,\n  x]", "default.yaml:2: terms[1]: 'x' stands twice"),
        ("terms: [x, '']", "terms[1]: is no text"),
        ("terms: [x, [y]]", "terms[1]: is no text"),
        ("terms: ['" + "x" * 201 + "']", "has 201 characters; allowed are 200"),
        ('terms: ["a\\0b"]', "holds U+0000"),
        ("corrections:\n  - heard: x", "default.yaml:2: corrections[0]: lacks 'corrected'"),
        ("corrections: [{heard: x, corrected: ''}]", "corrections[0].corrected: is no text"),
        ("corrections: [{heard: x, corrected: '...'}]", "'...' has no letter or digit"),
        ("corrections: [{heard: '.*', corrected: x}]", "heard: '.*' has no letter or digit"),
        ("corrections: [{heard: [], corrected: x}]", "heard: is empty"),
        ("corrections: [{heard: [x, ''], corrected: y}]", "heard[1]: is no text"),
        ("corrections: [{heard: x, corrected: y, language: 12}]", "'12' is no language tag"),
        (
            "corrections:\n - {heard: x Y, corrected: z}\n - {heard: [w, X  y], corrected: q}",
            "default.yaml:3: corrections[1].heard[1]: 'X  y' is corrected to 'z' already, "
            "at default.yaml:2",
        ),
        (
            "corrections:\n - {heard: x, corrected: y}\n - {heard: y, corrected: z}",
            "default.yaml:2: corrections: 'y' would be corrected again, to 'z'",
        ),
        (
            "corrections:\n - {heard: x, corrected: y, language: en}\n - {heard: Y, corrected: z}",
            "default.yaml:2: corrections: 'y' would be corrected again, to 'z'",
        ),
        (
            "corrections:\n - {heard: x, corrected: y}\n - {heard: y, corrected: z, language: en}",
            "default.yaml:2: corrections: 'y' would be corrected again, to 'z'",
        ),
        ("terms: " + "[" * 40 + "]" * 40, "is nested deeper than 32"),
        ("terms: " + "[" * 200_000, "is nested deeper than 32"),
        ("terms: &a [*a]", "terms[0]: is no text"),
        ("corrections: &a [*a]", "corrections[0]: is no mapping"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_by_file_and_line(
    tmp_path: Path, text: str, problem: str
) -> None:
    with pytest.raises(FileError, match=re.escape(problem)):
        load_vocabularies(folder(tmp_path, default=text))


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is no folder of vocabularies"):
        load_vocabularies(tmp_path / "none")
    folder(tmp_path, acme__a="terms: [x]", acme__b="terms: [y]")
    with pytest.raises(FileError, match=r"acme/b.yaml:1: names no queues, nor does .*acme/a.yaml"):
        load_vocabularies(tmp_path)
    folder(tmp_path, acme__a="queues: [q]\nterms: [x]", acme__b="queues: [p,\n  q]\nterms: [x]")
    with pytest.raises(FileError, match=r"acme/b.yaml:2: queue 'q' is that of acme/a already"):
        load_vocabularies(tmp_path)
    folder(tmp_path, acme__b="queues: []\nterms: [x]")
    with pytest.raises(FileError, match="queues: is empty"):
        load_vocabularies(tmp_path)
    (tmp_path / "tenants" / "acme.yaml").write_text("terms: [x]")
    with pytest.raises(FileError, match=r"tenants/acme.yaml:1: is no vocabulary; allowed are"):
        load_vocabularies(tmp_path)


def test_a_bomb_of_aliases_is_refused(tmp_path: Path) -> None:
    bomb = "about: &a [x]\n" + "terms: [" + "*a, " * 5 + "]"
    with pytest.raises(FileError, match="is no text"):
        load_vocabularies(folder(tmp_path, default=bomb))
    rule = "about: &a {heard: [x, y], corrected: z}\ncorrections: [*a, *a]"
    with pytest.raises(FileError, match="is corrected to 'z' already"):
        load_vocabularies(folder(tmp_path, default=rule))


def test_the_page_says_what_is_done(tmp_path: Path) -> None:
    """Its files load, and its table of what is heard and published is true."""
    page = (ROOT / "docs" / "vocabulary.md").read_text("utf-8")
    files = re.findall(r"<!-- file: (\S+) -->\n```yaml\n(.*?)```", page, re.DOTALL)
    assert len(files) >= 3
    for name, text in files:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    found = load_vocabularies(tmp_path)
    table = page.partition("| heard | published |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", table, re.MULTILINE)
    assert len(rows) >= 6
    sales = found.of(replace(CALL, queue=Queue(id="sales")))
    other = found.of(CALL)
    assert sales is not None
    assert other is not None
    for heard, published in rows:
        language = "zh" if "服务" in heard else "en"
        assert sales.corrected(segment(heard, language=language)).segment.text == published
    assert (sales.name, sales.terms) == ("acme/sales", ("Acme Gold", "Callstream", "百度"))
    assert (other.name, other.terms) == ("acme/general", ("Callstream", "百度"))
    assert sales.prompt == other.prompt == "Thank you for calling Acme."
