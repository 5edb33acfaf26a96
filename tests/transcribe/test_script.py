"""Chinese in the characters that are asked for."""

from __future__ import annotations

from typing import Literal

import pytest

from services.transcribe.engine import Heard, HeardSegment, HeardWord
from services.transcribe.script import written


def said(text: str, words: list[str] | None, language: str = "zh") -> Heard:
    heard = None if words is None else tuple(
        HeardWord(text=word, start_ms=at * 100, end_ms=at * 100 + 90)
        for at, word in enumerate(words)
    )  # fmt: skip
    segment = HeardSegment(text=text, start_ms=0, end_ms=9_000, language=language, words=heard)
    return Heard(segments=(segment,), language=language)


@pytest.mark.parametrize(
    ("script", "text", "words", "wanted", "wanted_words"),
    [
        ("traditional", "头发干净", ["头", "发", "干", "净"], "頭髮乾淨", ["頭", "髮", "乾", "淨"]),
        ("traditional", "出发，干部", ["出", "发，", "干", "部"],
         "出發，幹部", ["出", "發，", "幹", "部"]),
        ("simplified", "頭髮 iPhone 計畫", ["頭", "髮", "iPhone", "計", "畫"],
         "头发 iPhone 计划", ["头", "发", "iPhone", "计", "划"]),
        ("as_heard", "頭发", ["頭", "发"], "頭发", ["頭", "发"]),
        ("simplified", "頭髮", None, "头发", None),
    ],
)  # fmt: skip
def test_text_and_words_are_converted_alike(
    script: Literal["as_heard", "simplified", "traditional"],
    text: str,
    words: list[str] | None,
    wanted: str,
    wanted_words: list[str] | None,
) -> None:
    before = said(text, words)
    [segment] = written(before, script).segments
    assert segment.text == wanted
    if wanted_words is None:
        assert segment.words is None
    else:
        assert segment.words is not None
        assert [word.text for word in segment.words] == wanted_words
        old = before.segments[0].words or ()
        assert [(w.start_ms, w.end_ms) for w in segment.words] == [
            (w.start_ms, w.end_ms) for w in old
        ]
    assert written(written(before, script), script) == written(before, script)


def test_other_languages_are_left_alone() -> None:
    japanese = said("図書館の発展", ["図", "書", "館", "の", "発", "展"], "ja")
    assert written(japanese, "traditional") == japanese
    assert written(japanese, "simplified") == japanese
    cantonese = written(said("我发", ["我", "发"], "yue"), "traditional")
    assert cantonese.segments[0].text == "我發"
