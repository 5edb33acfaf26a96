from __future__ import annotations

import re
from itertools import chain, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import FindingKind
from services.enrich.lexicon import (
    REACH,
    Class,
    Grammar,
    Negation,
    Scanner,
    inflections,
    spell_out,
    tokenize,
)
from services.enrich.rules import load_rules

RULES = load_rules()
PIECES = [
    *("不没是满意很高兴退款吗要但,."),
    *("not", "happy", "no", "angry", "very", "if", "but", "nobody", "can't say", "要是", "了没有"),
]


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
        # Negation from afar turns what is good, to the end of the clause.
        (
            "I can't say that anybody here was in any way pleased",
            [("dissatisfied", "can't say that anybody here was in any way pleased")],
        ),
        ("I can't say I was angry", []),
        ("Nobody in that whole shop was friendly", [("dissatisfied", ...)]),
        ("no driver at all, but everybody was friendly", [("praise", "was friendly")]),
        ("no one has ever been so helpful", [("praise", "been so helpful")]),
        ("我不觉得你们这么处理能让人满意", [("dissatisfied", ...)]),
        ("从来没见过这么周到的安排", [("praise", "这么周到")]),
        # What a class already says is not said again by what overlaps it.
        ("they have not solved my case", [("dissatisfied", "not solved")]),
        # Asked.
        ("has it been fixed", []),
        ("屏幕修好了没有", []),
        ("您满意吗", []),
        ("is that what you call good support", [("dissatisfied", ...)]),
        # Supposed. Commas do not end it, sentences do.
        ("if the bus is late again, I am going to be furious", []),
        ("if the bus is late. I am furious", [("angry", "furious")]),
        ("要是明天能修好我就开心了", []),
        ("万一丢了，我会很生气", []),
        # Felt or said by others.
        ("my neighbour was furious about the noise", []),
        ("my neighbour was furious but I am happy", [("satisfied", "happy")]),
        ("我妈妈说她很生气", []),
        ("they told me it was sorted", []),
        # Names.
        ("the restaurant is called happy garden", []),
        ("我在开心超市门口", []),
        ("我姓谢，谢谢的谢", []),
        # Irony: good words, then a count of what went wrong.
        ("lovely support you hung up on me", [("dissatisfied", ...), ("frustrated", ...)]),
    ],
)
def test_emotions(text: str, expected: list[tuple[str, object]]) -> None:
    """`...` stands for any quote."""
    found = emotions(text)
    if any(quote is ... for _, quote in expected):
        assert [label for label, _ in found] == [label for label, _ in expected]
    else:
        assert found == expected


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
        ("can I talk to somebody above you", "supervisor_request"),
        ("叫你们主管来接电话", "supervisor_request"),
        ("the couch is a week overdue, the delivery never arrived", "late_delivery"),
        ("快递晚了三天", "late_delivery"),
        ("what address do you deliver it to", "delivery"),
        ("can you swap it for a green one", "return_exchange"),
        ("能不能换个大一号的", "return_exchange"),
        ("你们派师傅上门看一下", "after_sales"),
        ("if I don't hear from you I will sue you", "complaint_threat"),
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
        ("I don't want a refund", "refund"),
        ("there is no need to repair anything", "after_sales"),
        ("不用退款", "refund"),
        ("我不想换货", "return_exchange"),
        ("不用叫你们经理", "supervisor_request"),
        ("The plan covers theft, late delivery and repairs", "late_delivery"),
        ("本合同包含上门维修", "after_sales"),
        ("是服务好吗", "praise"),
        ("I ordered it on your website", "technical"),
    ],
)
def test_no_such_topic(text: str, unexpected: str) -> None:
    assert unexpected not in topics(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I don't want to wait for my refund any longer", "refund"),
        ("my refund has not arrived", "refund"),
        ("要不要退款", "refund"),
        ("如果退款要多久", "refund"),
    ],
)
def test_a_topic_is_denied_only_where_the_next_word_names_it(text: str, expected: str) -> None:
    assert expected in topics(text)


def test_a_threat_under_a_condition_is_a_threat() -> None:
    text = "if it is not here tomorrow I will make a complaint"
    assert "complaint_threat" in topics(text)
    assert [label for label, _ in emotions(text)] == ["complaint"]


GOOD = Class(FindingKind.EMOTION, "good", "", ("fine",), frozenset(), 0.5, "bad", "l", "1")
BAD = Class(FindingKind.EMOTION, "bad", "", ("awful",), frozenset(), -0.5, "", "l", "1")
ASK = Class(FindingKind.TOPIC, "ask", "", ("ticket",), frozenset(), 0.0, None, "l", "1")
ARROWS = Grammar(
    negations=(Negation(("nope", "never think >", "< my foot"), ("at all",)),),
    idioms=("when >", "terms say >>", "no need for ->", "< right or", "< but >", "when ever"),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("when fine awful ticket", ["ask"]),
        ("when fine, awful ticket", ["ask"]),
        ("when. fine awful ticket", ["good", "bad", "ask"]),
        ("when fine but awful", ["bad"]),
        # A phrase within a longer one does nothing.
        ("when ever fine", ["good"]),
        ("terms say fine awful ticket", []),
        ("terms say fine. ticket", ["ask"]),
        ("no need for ticket ticket", ["ask"]),
        ("no need for a ticket", ["ask"]),
        ("fine awful ticket right or", ["bad", "ask"]),
        ("fine, awful right or", ["good", "bad"]),
        ("never think fine awful", ["bad", "bad"]),
        ("never think, fine", ["good"]),
        ("never think but fine", ["good"]),
        ("fine my foot", ["bad"]),
        ("fine, awful my foot", ["good", "bad"]),
        ("nope at all fine", ["bad"]),
        ("nope " + "at all " * 2 + "fine my foot", ["bad"]),
        ("when " + "so " * (REACH - 1) + "fine", []),
        ("when " + "so " * REACH + "fine", ["good"]),
        ("fine " + "so " * (REACH - 1) + "right or", []),
        ("fine " + "so " * REACH + "right or", ["good"]),
    ],
)
def test_arrows(text: str, expected: list[str]) -> None:
    scanner = Scanner((GOOD, BAD, ASK), ARROWS)
    assert [match.found.label for match in scanner.scan(text).matches] == expected


@pytest.mark.parametrize("phrase", ["if > you", "if >>>", "a -> b", "< <", "if <"])
def test_an_arrow_stands_at_an_end(phrase: str) -> None:
    with pytest.raises(ValueError, match=r"only at the start|nothing to match"):
        spell_out(phrase)


def test_an_arrow_is_for_the_grammar() -> None:
    with pytest.raises(ValueError, match="'fine >': allowed arrows here are none"):
        Scanner((GOOD,), Grammar(), (("fine >",),))
    with pytest.raises(ValueError, match="allowed arrows here are > <"):
        Scanner((GOOD,), Grammar((Negation(("nope >>",), ()),)))


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
    negation = Negation(("never >", "< not"), ("really",))
    scanner = Scanner([refund], Grammar((negation,), idioms=("want money", "because >", "< i >")))

    def count(node: object) -> None:
        node.next = Counting(node.next)  # type: ignore[attr-defined]
        for child in node.next.values():  # type: ignore[attr-defined]
            count(child)
        if node.gap is not None:  # type: ignore[attr-defined]
            count(node.gap)  # type: ignore[attr-defined]

    count(scanner._root)
    text = "I want all of my money back because i want to never want my money "
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


@given(st.text(alphabet="abI9 '-.é中满々ﬁＡ", max_size=20))
def test_phrases_are_read_as_texts_are(text: str) -> None:
    try:
        forms = spell_out(text)
    except ValueError:
        return
    pieces = (tokenize(piece).texts for piece in re.split(r"\.\.\.|…", text))
    assert forms == (tuple(chain.from_iterable(("...", *texts) for texts in pieces))[1:],)


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
        ("refund*", r"'\*' means nothing here"),
        (r"\d{3}", r"'\\' means nothing here, for phrases are no regular expressions; there are"),
        ("^refund", r"'\^' means nothing"),
        ("refund$", r"'\$' means nothing"),
        ("[a-z]", r"'\[' means nothing"),
        ("a-z]", r"'\]' means nothing"),
        ("a{3}", r"'\{' means nothing"),
        ("a}", r"'}' means nothing"),
        ("go+", r"'\+' means nothing"),
    ],
)
def test_phrases_that_cannot_be_read(phrase: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        spell_out(phrase)
