from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Flag, Summary
from services.enrich.findings import hear
from services.enrich.rules import load_rules
from services.enrich.summary import sentences, summarize
from tests.enrich.calls import segment

RULES = load_rules()


def summary(*lines: tuple[str, str], **more: object) -> Summary | None:
    segments = [
        segment(who, 3000 * i, 3000 * i + 2500, text, i, **more)
        for i, (who, text) in enumerate(lines)
    ]
    return summarize(segments, hear(segments, RULES.scanner), RULES.cues, 120)


def test_demand_solution_and_outcome_in_the_order_of_the_call() -> None:
    found = summary(
        ("a", "Good morning. How can I help you?"),
        ("c", "Hello. I ordered a jacket, but you sent me the wrong size."),
        ("a", "I see. I will send you a new one tomorrow."),
        ("c", "Okay, that is wonderful."),
        ("a", "Goodbye."),
    )
    assert found is not None
    assert (found.method, found.degraded) == ("extractive", "")
    assert [(s.text, s.evidence.segment_ids) for s in found.sentences] == [
        ("I ordered a jacket, but you sent me the wrong size.", [1]),
        ("I will send you a new one tomorrow.", [2]),
        ("Okay, that is wonderful.", [3]),
    ]
    for sentence in found.sentences:
        assert sentence.evidence.quote == sentence.text
        assert sentence.evidence.start_ms < sentence.evidence.end_ms


def test_mandarin() -> None:
    found = summary(
        ("c", "你好。我想咨询一下，我的快递还没有送到。"),
        ("a", "好的。您的包裹今天下午就能送到。"),
        ("c", "好的，谢谢你。"),
    )
    assert found is not None
    assert [s.text for s in found.sentences] == [
        "我想咨询一下，我的快递还没有送到。",
        "您的包裹今天下午就能送到。",
        "好的，谢谢你。",
    ]


def test_what_was_not_said_leaves_its_place_empty() -> None:
    found = summary(("c", "I want a refund for these shoes."))
    assert found is not None
    assert len(found.sentences) == 1


def test_nothing_trusted_is_no_summary() -> None:
    assert summary() is None
    assert summary(("c", "I want a refund."), flags=[Flag.NO_SPEECH]) is None


def cut(text: str, most: int) -> list[str]:
    return [each.text for each in sentences(segment("c", 0, 1000, text), most)]


def test_sentences() -> None:
    assert cut("It costs 3.50 now. Really?  Yes! 好的。再见", 240) == [
        "It costs 3.50 now.",
        "Really?",
        "Yes!",
        "好的。",
        "再见",
    ]


@given(st.text(max_size=300), st.integers(40, 80))
def test_sentences_keep_every_character_but_space_and_the_limit(text: str, most: int) -> None:
    found = cut(text, most)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(0 < len(each) <= most for each in found)
