from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import FindingKind
from services.enrich.lexicon import Class, Grammar, Scanner, inflections, spell_out, tokenize
from services.enrich.rules import load_rules

RULES = load_rules()
PIECES = [*"不没是满意很高兴退款,.", "not", "happy", "no", "angry", "very"]


def emotions(text: str) -> list[tuple[str, str]]:
    """(class, quote) of every emotion in `text`, whoever may have said it."""
    return [
        (match.found.label, text[match.start : match.end])
        for match in RULES.scanner.scan(text).matches
        if match.found.kind is FindingKind.EMOTION
    ]


def topics(text: str) -> set[str]:
    return {
        match.found.label
        for match in RULES.scanner.scan(text).matches
        if match.found.kind is FindingKind.TOPIC
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # 满意 within 不满意 is no satisfaction.
        ("我很不满意", [("dissatisfied", "不满意")]),
        ("我对你们的服务很满意", [("satisfied", "满意")]),
        ("我不是很满意", [("dissatisfied", "不是很满意")]),
        ("我不太满意", [("dissatisfied", "不太满意")]),
        ("没有让我满意", [("dissatisfied", "没有让我满意")]),
        ("不是不满意", []),
        ("我没有不高兴", []),
        ("请问您对服务满意不满意", []),
        ("满意度调查", []),
        ("不能说不满意", []),
        ("谈不上满意", [("dissatisfied", "谈不上满意")]),
        ("我不会给好评", [("dissatisfied", "不会给好评")]),
        ("服务态度不太好", [("dissatisfied", "服务态度不太好")]),
        ("没有之前那么满意", [("dissatisfied", "没有之前那么满意")]),
        # A clause of its own is not negated.
        ("不，我很满意", [("satisfied", "满意")]),
        ("没有了，我很满意", [("satisfied", "满意")]),
        # Idioms mean nothing by their parts.
        ("没问题", []),
        ("没有问题，不客气", []),
        ("不好意思", []),
        ("no problem", []),
        ("No problem at all, no worries.", []),
        ("that's not bad", []),
        ("I'd be happy to wait", []),
        # Negation, near and far, with and without its apostrophe.
        ("I am not satisfied", [("dissatisfied", "not satisfied")]),
        ("I am not at all happy with this", [("dissatisfied", "not at all happy")]),
        ("i dont think i am happy", [("dissatisfied", "dont think i am happy")]),
        ("I'm no longer happy", [("dissatisfied", "no longer happy")]),
        ("I'm not angry", []),
        ("I wasn't unhappy", []),
        ("not just angry", [("angry", "angry")]),
        ("You're not very helpful", [("dissatisfied", "You're not very helpful")]),
        ("thanks for nothing", [("dissatisfied", "thanks for nothing")]),
        ("I was never angry", []),
        ("No, I am very happy now", [("satisfied", "happy")]),
        ("no i am very happy now", [("satisfied", "happy")]),
        ("If you do not fix this I will be angry", [("angry", "angry")]),
        ("I have never been so angry", [("angry", "never been so angry")]),
        ("It could not be better", [("satisfied", "could not be better")]),
        # Whole words only.
        ("The hangry gladiator", []),
    ],
)
def test_emotions(text: str, expected: list[tuple[str, str]]) -> None:
    assert emotions(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I want a refund", "refund"),
        ("have you refunded it", "refund"),
        ("ＲＥＦＵＮＤ please", "refund"),
        ("我要退 款", "refund"),
        ("it is the wrong size", "wrong_size"),
        ("尺码不对", "wrong_size"),
        ("My delivery is really very late", "late_delivery"),
        ("my delivery it is again late", "late_delivery"),
        ("我的快递3天了还没有送到", "late_delivery"),
        ("There is a charge on my invoice", "billing"),
        ("这个月的账单多扣了钱", "billing"),
        ("The router doesn’t work", "technical"),
        ("上不了网", "technical"),
        ("I want to cancel", "cancellation"),
        ("我要退订", "cancellation"),
        ("售后维修", "after_sales"),
        ("我想咨询一下", "inquiry"),
        ("I will call my lawyer", "complaint_threat"),
        ("我要打12315", "complaint_threat"),
        ("let me speak to your manager", "supervisor_request"),
    ],
)
def test_topics(text: str, expected: str) -> None:
    assert expected in topics(text)


@pytest.mark.parametrize(
    ("text", "unexpected"),
    [
        ("I am not going to complain to the manager", "complaint_threat"),
        ("我不想投诉你们", "complaint_threat"),
        ("I do not want to cancel", "cancellation"),
        ("thank you for being here again", "billing"),
        ("Please tell your manager she did a great job", "supervisor_request"),
    ],
)
def test_no_such_topic(text: str, unexpected: str) -> None:
    assert unexpected not in topics(text)


def test_emphasis_weighs_more_and_a_little_less() -> None:
    factors = [
        RULES.scanner.scan(text).matches[0].factor
        for text in ("a little angry", "angry", "very angry", "very very angry")
    ]
    assert factors == sorted(factors)
    assert len(set(factors)) == 4


def test_words_and_characters_are_counted_without_marks_and_contractions_once() -> None:
    scan = RULES.scanner.scan("I don't know, 我不知道。OK?")
    assert (scan.words, scan.characters) == (4, 4)


def test_offsets_are_those_of_the_text_as_given() -> None:
    text = "①ﬁne… I’m VERY ＡＮＧＲＹ!"
    match = RULES.scanner.scan(text).matches[-1]
    assert text[match.start : match.end] == "ＡＮＧＲＹ"


@given(st.text(max_size=200))
def test_any_text_scans_and_every_match_lies_within_it(text: str) -> None:
    tokens = tokenize(text)
    assert len(tokens.texts) == len(tokens.starts) == len(tokens.ends)
    assert tokens.starts == sorted(tokens.starts)
    scan = RULES.scanner.scan(text)
    spans = [(m.start, m.end) for m in scan.matches] + [(m.start, m.end) for m in scan.phrases]
    assert all(0 <= start < end <= len(text) for start, end in spans)


@given(st.lists(st.sampled_from(PIECES)))
def test_no_match_lies_within_another_of_its_kind(pieces: list[str]) -> None:
    matches = RULES.scanner.scan(" ".join(pieces)).matches
    plain = [match for match in matches if not match.negated]
    for one, other in permutations(plain, 2):
        if one.found.kind is other.found.kind and one.found is not other.found:
            assert not (other.start <= one.start and one.end < other.end)
    for one, other in permutations(matches, 2):
        if one.found is other.found:
            assert one.end <= other.start or other.end <= one.start


def test_work_per_token_does_not_grow_with_the_text() -> None:
    """Counts the trie nodes looked at, through a mapping that counts its reads."""
    reads = 0

    class Counting(dict):  # type: ignore[type-arg]
        def get(self, key: object, default: object = None) -> object:
            nonlocal reads
            reads += 1
            return super().get(key, default)

    phrases = ("want ... my money back", "money")
    refund = Class(FindingKind.TOPIC, "refund", "", phrases, frozenset(), 0.0, None, "l", "1")
    scanner = Scanner([refund], Grammar(idioms=("want money",)))

    def count(node: object) -> None:
        node.next = Counting(node.next)  # type: ignore[attr-defined]
        for child in node.next.values():  # type: ignore[attr-defined]
            count(child)
        if node.gap is not None:  # type: ignore[attr-defined]
            count(node.gap)  # type: ignore[attr-defined]

    count(scanner._root)
    text = "I want all of my money back because i want to want my money. "
    scanner.scan(text * 50)
    small, reads = reads, 0
    scanner.scan(text * 500)
    assert small > 0
    assert reads <= 11 * small


@pytest.mark.parametrize(
    ("word", "forms"),
    [
        ("refund", {"refund", "refunds", "refunded", "refunding"}),
        ("cancel", {"cancel", "cancels", "canceled", "cancelled", "canceling", "cancelling"}),
        ("exchange", {"exchange", "exchanges", "exchanged", "exchanging"}),
        ("worry", {"worry", "worries", "worried", "worrying"}),
        ("pay", {"pay", "pays", "paying"}),
        ("fix", {"fix", "fixes", "fixed", "fixing"}),
    ],
)
def test_inflections(word: str, forms: set[str]) -> None:
    assert forms <= set(inflections(word))


def test_phrases_are_spelled_out() -> None:
    assert set(spell_out("(wrong|(very |)bad) size")) == {
        ("wrong", "size"),
        ("very", "bad", "size"),
        ("bad", "size"),
    }
    assert spell_out("don't ... go") == (("do", "not", "...", "go"),)
    assert spell_out("退款") == (("退", "款"),)


@pytest.mark.parametrize(
    ("phrase", "problem"),
    [
        ("(a|b", "unbalanced"),
        ("a|b", "outside brackets"),
        ("a) b", "unbalanced"),
        ("... go", "'...' at an end"),
        ("a ... b ... c ... d", "more than 2 gaps"),
        ("yes, please", "punctuation"),
        ("款~", "follows no English word"),
        ("(a|b|c|d|e|f|g|h|i|j)" * 5, "stands for more than"),
        ("(a|)", "nothing to match"),
    ],
)
def test_phrases_that_cannot_be_read(phrase: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        spell_out(phrase)
