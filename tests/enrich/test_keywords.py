from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Flag, Keyword, PiiKind, Redaction, Role, Segment
from services.enrich.keywords import MOST_KEYWORDS, keywords
from tests.enrich.calls import segment

A, C = Role.AGENT, Role.CUSTOMER
# An agent's first and last two segments are ritual, so that what lies between is not.
HELLO = [("a", "Good morning"), ("a", "my name")]
GOODBYE = [("a", "Thank you"), ("a", "goodbye")]


def spoken(*lines: tuple[str, str], language: str = "en", **more: Any) -> list[Segment]:
    return [
        segment(who, 1000 * i, 1000 * i + 900, text, i, language=language, **more)
        for i, (who, text) in enumerate([*HELLO, *lines, *GOODBYE])
    ]


def told(*lines: tuple[str, str], language: str = "en") -> dict[str, int]:
    return {k.text: k.count for k in keywords(spoken(*lines, language=language), language)}


def test_what_is_said_most_comes_first_with_who_said_it_most() -> None:
    found = keywords(
        spoken(
            ("c", "The router is broken, I want a refund for the router."),
            ("a", "Which router? I see the refund."),
            ("c", "The router from the invoice."),
            ("a", "The refund is on the way."),
        ),
        "en",
    )
    assert found[:3] == [
        Keyword(text="router", role=C, weight=1.0, count=4),
        Keyword(text="refund", role=A, weight=0.75, count=3),
        Keyword(text="broken", role=C, weight=0.25, count=1),
    ]


def test_who_said_it_as_often_is_the_customer() -> None:
    found = keywords(spoken(("a", "the warranty"), ("c", "what warranty?")), "en")
    assert [(k.text, k.role) for k in found] == [("warranty", C)]


def test_forms_of_a_word_are_one() -> None:
    lines = ("c", "two refunds, one refunded, refunding the refund; parcels late, parcel lost")
    assert told(lines) == {"refund": 4, "parcel": 2, "late": 1, "lost": 1}
    assert told(("c", "batteries and battery, boxes and box, shipped, shipping, ship, glass")) == {
        "battery": 2,
        "box": 2,
        "ship": 3,
        "glass": 1,
    }
    assert told(("c", "coatings, coating, coat, need, news")) == {"coat": 3, "news": 1}


def test_two_words_that_keep_together_are_one_keyword() -> None:
    found = told(
        ("c", "My credit card was stolen."),
        ("a", "Is the credit card blocked?"),
        ("c", "The card, yes. Credit? Card!"),
    )
    assert found == {"credit card": 2, "card": 2, "stolen": 1, "blocked": 1, "credit": 1}


def test_it_is_shown_as_it_is_mostly_written() -> None:
    assert told(("c", "the VPN vpn VPN. Router router iPhone15 PIN")) == {
        "VPN": 3,
        "router": 2,
        "iPhone15": 1,
        "PIN": 1,
    }


def test_chinese_is_cut_into_words() -> None:
    found = keywords(
        spoken(
            ("c", "我的路由器坏了，我要退款，王小明先生说可以退款"),
            ("a", "请您稍等一下，我帮您查一下路由器的订单"),
            ("c", "上个星期买的路由器，5G套餐"),
            language="zh",
        ),
        "zh",
    )
    counts = {k.text: (k.role, k.count) for k in found}
    assert counts["路由器"] == (C, 3)
    assert counts["退款"] == (C, 2)
    assert counts["订单"] == (A, 1)
    assert "5G" in counts
    assert found[0] == Keyword(text="路由器", role=C, weight=1.0, count=3)
    words = "".join(counts)
    assert not [w for w in ("稍等", "一下", "我", "您", "王小明", "先生", "星期") if w in words]


def test_a_rarer_chinese_word_tells_more() -> None:
    found = keywords(spoken(("c", "系统和宽带"), language="zh"), "zh")
    weights = {k.text: k.weight for k in found}
    assert weights["宽带"] == 1.0
    assert weights["系统"] < 0.8


def test_two_chinese_words_are_joined_without_a_space() -> None:
    found = told(("c", "宽带账单错了"), ("c", "这个宽带账单不对"), language="zh")
    assert found["宽带账单"] == 2


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("de", "Ich möchte die Rechnung und die Kündigung, die Rechnung ist falsch", "Rechnung"),
        ("fr", "Je veux annuler l'abonnement, l’abonnement est trop cher", "abonnement"),
        ("es", "Quiero cancelar la factura, la factura está mal", "factura"),
        ("ru", "Мне нужен возврат, где мой возврат", "возврат"),
        ("hi", "मुझे बिजली का बिल और बिजली", "बिजली"),
        ("ko", "환불 요청 환불", "환불"),
        ("de-AT", "die Rechnung und die Rechnung", "Rechnung"),
        ("xx", "gadget foo gadget", "gadget"),
    ],
)
def test_languages_with_spaces(language: str, text: str, expected: str) -> None:
    found = keywords(spoken(("c", text), language=language), "und")
    assert (found[0].text, found[0].count) == (expected, 2)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("ja", "注文確認をお願いします、返金してください"),
        ("und", "注文をお願いします"),
        ("th", "ฉันต้องการเงินคืน"),
        ("en", "yes please, okay, thank you, I don't know, it's seven"),
        ("en", "four 5551234567 AB123456 12 !!! ..."),
        ("en", ""),
        ("zh", "好的，谢谢您，不是"),
    ],
)
def test_where_nothing_tells_there_is_none(language: str, text: str) -> None:
    assert keywords([segment("c", 0, 1000, text, language=language)], "en") == []


def test_a_segments_own_language_goes_before_the_calls() -> None:
    und = [segment("c", 0, 1000, "die Rechnung", language="und")]
    assert [k.text for k in keywords(und, "de")] == ["Rechnung"]
    assert [k.text for k in keywords(und, "und")] == ["die", "Rechnung"]
    unknown = [segment("c", 0, 1000, "that is the refund", language="")]
    assert [k.text for k in keywords(unknown, "und")] == ["refund"]


def test_greeting_and_closing_tell_less() -> None:
    lines = ["Welcome to Acme Gardens", "my garden", "the fence", "the fence", "Acme", "Acme"]
    segments = [segment("a", 1000 * i, 1000 * i + 900, t, i) for i, t in enumerate(lines)]
    segments.append(segment("c", 9000, 9900, "Lawnmower!", 9))
    weights = {k.text: (k.weight, k.count) for k in keywords(segments, "en")}
    assert weights["fence"] == (1.0, 2)
    assert weights["Acme"] == (0.375, 3)
    assert weights["Lawnmower"] == (0.5, 1)


@pytest.mark.parametrize(
    "more",
    [
        {"flags": [Flag.NO_SPEECH]},
        {"flags": [Flag.REPEAT_LOOP]},
        {"flags": [Flag.INSIDE_HOLD]},
        {"role": Role.IVR},
        {"role": Role.BOT},
        {"role": Role.VOICEMAIL},
    ],
)
def test_only_what_people_said_is_read(more: dict[str, Any]) -> None:
    assert keywords([segment("c", 0, 1000, "refund", **more)], "en") == []
    assert keywords([segment("c", 0, 1000, "refund", flags=[Flag.LOW_CONFIDENCE])], "en")


def test_what_is_personal_is_no_keyword() -> None:
    said = segment("c", 0, 1000, "This is Miriam Okafor about the invoice", 3)

    def hiding(*spans: tuple[int, int]) -> list[str]:
        found = [
            Redaction(segment_id=3, kind=PiiKind.NAME, start=start, end=end, start_ms=0, end_ms=0)
            for start, end in spans
        ]
        return [k.text for k in keywords([said], "en", found)]

    assert hiding() == ["Miriam", "Okafor", "invoice"]
    assert hiding((8, 21)) == ["invoice"]
    assert hiding((8, 14)) == ["Okafor", "invoice"]


def test_there_are_twelve_at_most() -> None:
    names = "lion tiger zebra giraffe rhino hippo otter badger walrus lemur gecko iguana raccoon"
    found = keywords([segment("c", 0, 1000, names)], "en")
    assert [k.text for k in found] == names.split()[:MOST_KEYWORDS]
    assert {k.weight for k in found} == {1.0}


TEXT = st.text(max_size=60) | st.lists(
    st.sampled_from(
        ["refund", "Refunds", "不满意", "退款", "credit card", "I", "ß", "ﬁx", "l'eau", "かな",
         "5G", "\ud800", "👍", ".", "１２", "’", "İstanbul", "क्षमा"]
    ), max_size=12,
).map(" ".join)  # fmt: skip


@st.composite
def calls(draw: st.DrawFn) -> list[Segment]:
    return [
        segment(
            draw(st.sampled_from("acu")),
            draw(st.integers(0, 9000)),
            10_000,
            draw(TEXT),
            number,
            language=draw(st.sampled_from(["en", "zh", "ja", "de", "und", "", "zz-ZZ", "-"])),
        )
        for number in range(draw(st.integers(0, 6)))
    ]


@given(calls(), st.randoms(use_true_random=False))
def test_any_call_has_keywords_in_range_whatever_the_order(
    segments: list[Segment], random: Random
) -> None:
    found = keywords(segments, "en")
    shuffled = list(segments)
    random.shuffle(shuffled)
    assert keywords(shuffled, "en") == found
    assert len(found) <= MOST_KEYWORDS
    assert [k.weight for k in found] == sorted((k.weight for k in found), reverse=True)
    assert all(0.0 <= k.weight <= 1.0 and k.count >= 1 and k.text.strip() for k in found)
    assert not found or found[0].weight == 1.0
    assert {k.role for k in found} <= {each.role for each in segments}


@given(st.text(max_size=40), st.lists(st.tuples(st.integers(-5, 50), st.integers(-5, 50))))
def test_odd_redactions_are_no_error(text: str, spans: list[tuple[int, int]]) -> None:
    found = [
        Redaction(segment_id=0, kind=PiiKind.NAME, start=a, end=b, start_ms=0, end_ms=0)
        for a, b in spans
    ]
    open_to_all = {k.text.casefold() for k in keywords([segment("c", 0, 1000, text)], "en")}
    assert len(open_to_all) <= MOST_KEYWORDS
    everything = Redaction(
        segment_id=0, kind=PiiKind.NAME, start=0, end=len(text), start_ms=0, end_ms=0
    )
    assert keywords([segment("c", 0, 1000, text)], "en", [*found, everything]) == []


@pytest.mark.parametrize("language", ["en", "zh"])
def test_an_eight_hour_call_is_read_whole(language: str) -> None:
    """The word said last is found: nothing is sampled."""
    filler = {"en": "that and the ", "zh": "的和在"}[language] * 40_000
    last = {"en": "zeppelin. ", "zh": "宽带。"}[language] * 3
    said = segment("c", 0, 8 * 3_600_000, filler + last, language=language)
    assert [k.count for k in keywords([said], language)] == [3]


def test_threads_may_share_it() -> None:
    segments = spoken(("c", "我的路由器坏了，我要退款"), ("c", "router refund"), language="zh")
    expected = keywords(segments, "zh")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: keywords(segments, "zh"), range(64)))
    assert results == [expected] * 64


_FIRST_USE = """
import logging, pathlib, sys, threading
logging.basicConfig(level=0, stream=sys.stdout)
from services.enrich.keywords import keywords
from tests.enrich.calls import segment
print("rjieba" in sys.modules, "stopwordsiso" in sys.modules)
start = threading.Barrier(4)
found = []
def use():
    start.wait()
    found.append(keywords([segment("c", 0, 1000, "宽带 router", language="zh")], "zh"))
threads = [threading.Thread(target=use) for _ in range(4)]
[t.start() for t in threads], [t.join() for t in threads]
print([[k.text for k in each] for each in found] == [["宽带", "router"]] * 4)
"""


def test_the_first_use_is_lazy_quiet_and_writes_no_file(tmp_path: Path) -> None:
    """Four threads at once, in a process of its own whose temporary folder is looked at."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _FIRST_USE],
        cwd=Path(__file__).resolve().parents[2],
        env={"TMPDIR": str(tmp_path), "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("False False\nTrue\n", "")
    assert list(tmp_path.iterdir()) == []
