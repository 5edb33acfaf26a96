"""The second held-out set is well-formed; nothing here runs the detector."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import pytest

from schemas.events import PiiKind
from tests.enrich import pii_calls
from tests.enrich.pii_calls import Form, generate, generate_many, luhn_digit
from tests.enrich.pii_others import HELD_OUT, HELD_OUT_TALK, TEENS, TENS, UNITS

FORMS = [
    pytest.param(language, kind, form, id=form.__name__)
    for language, kinds in HELD_OUT.items()
    for kind, forms in kinds.items()
    for form in forms
]
NUMBERS = (PiiKind.CARD_NUMBER, PiiKind.ID_NUMBER, PiiKind.PHONE)
# The right number stands in pieces, with wrong or repeated ones between.
BROKEN = ("en_card_corrected", "en_phone_corrected", "zh_card_corrected", "zh_id_corrected",
          "zh_mobile_corrected", "zh_card_said_twice")  # fmt: skip

SAID = {
    **{word: str(n) for n, word in enumerate(UNITS)},
    **{word: str(10 + n) for n, word in enumerate(TEENS)},
    **{word: str(10 * n) for n, word in enumerate(TENS) if word},
    **{f"{w}-{UNITS[n]}": str(10 * t + n) for t, w in enumerate(TENS) if w for n in range(10)},
    "oh": "0",
    "hundred": "00",
    "thousand": "000",
}  # fmt: skip
SAID_ZH = {
    **{digit: str(n) for n, digit in enumerate("零一二三四五六七八九")},
    "洞": "0", "幺": "1", "两": "2", "拐": "7", "勾": "9", "叉": "x",
}  # fmt: skip


def read_en(text: str) -> str:
    """Letters in lower case and digits, however they are said."""
    read, times = "", 1
    for token in re.findall(r"[a-z]+(?:-[a-z]+)?|\d", text.lower()):
        if token in ("double", "triple"):
            times = 2 if token == "double" else 3
            continue
        read += "".join(c for c in SAID.get(token, token) if c.isalnum()) * times
        times = 1
    return read


def read_zh(text: str) -> str:
    """As read_en; Han characters that are no digit stay."""
    text = text.replace("艾克斯", "x").replace("一个叉", "叉").replace("康姆", "com")
    text = re.sub("三个(.)", r"\1\1\1", text)
    text = re.sub("([一二三四五六七八九十]+|[0-9]+)(?=[月号日])", _count, text)
    return "".join(SAID_ZH.get(c, c) for c in text.lower() if c.isalnum())


def _count(found: re.Match[str]) -> str:
    said = found[1]
    if said.isdigit() and said.isascii():
        return said.zfill(2)
    if "十" not in said:
        return "0" * (len(said) == 1) + said
    tens, _, unit = said.partition("十")
    return (tens or "一") + (unit or "零")


def read(text: str, language: str) -> str:
    return read_en(text) if language == "en" else read_zh(text)


def within(part: str, whole: str) -> bool:
    """Whether the characters of part stand in whole, in order."""
    rest: Iterator[str] = iter(whole)
    return all(c in rest for c in part)


def digits_of(text: str) -> str:
    return "".join(c for c in text if c in "0123456789x")


def told(kind: PiiKind, form: str, secret: str, pieces: list[str], language: str) -> bool:
    """Whether the pieces tell the secret; of a passport or licence, its digits."""
    said = read(" ".join(pieces), language)
    if kind in NUMBERS:
        number = secret.lower()
        heard = digits_of(said)
        return within(number, heard) if form in BROKEN else number in heard
    if form == "zh_email_qq_number_only":
        secret = secret.partition("@")[0]
    return within(read(secret, language), said)


def test_there_are_enough_forms_and_half_are_mandarin() -> None:
    count = {language: sum(map(len, kinds.values())) for language, kinds in HELD_OUT.items()}
    assert count.keys() == {"en", "zh"}
    assert min(count.values()) >= 40
    assert abs(count["en"] - count["zh"]) <= 5
    for kinds in HELD_OUT.values():
        assert kinds.keys() == set(PiiKind) - {PiiKind.UNKNOWN, PiiKind.NUMBER}
        assert min(map(len, kinds.values())) >= 6


def test_every_form_has_a_name_of_its_own() -> None:
    names = [
        form.__name__ for kinds in HELD_OUT.values() for forms in kinds.values() for form in forms
    ]
    assert len(names) == len(set(names))
    for language, kinds in HELD_OUT.items():
        assert all(f.__name__.startswith(f"{language}_") for forms in kinds.values() for f in forms)
    seen = pii_calls.SEEN.values()
    theirs = {form for kinds in seen for forms in kinds.values() for form in forms}
    ours = {form for kinds in HELD_OUT.values() for forms in kinds.values() for form in forms}
    assert not ours & theirs


@pytest.mark.parametrize(("language", "kind", "form"), FORMS)
def test_the_marked_pieces_tell_the_secret(language: str, kind: PiiKind, form: Form) -> None:
    for seed in range(50):
        secret, turns = form(random.Random(seed))
        assert (secret, turns) == form(random.Random(seed))
        text = " ".join(line for _, line in turns)
        assert {who for who, _ in turns} <= {"a", "c"}
        assert re.fullmatch("[^⟪⟫]*(⟪[^⟪⟫]+⟫[^⟪⟫]*)+", text), text
        pieces = re.findall("⟪(.*?)⟫", text)
        assert all(piece == piece.strip() for piece in pieces)
        assert told(kind, form.__name__, secret, pieces, language), (secret, text)


@pytest.mark.parametrize(
    "form", [form for kinds in HELD_OUT.values() for kind in NUMBERS for form in kinds[kind]]
)
def test_no_digit_of_a_number_is_left_unmarked(form: Form) -> None:
    for seed in range(50):
        _, turns = form(random.Random(seed))
        rest = re.sub("⟪.*?⟫", "", " ".join(line for _, line in turns))
        assert not re.search(r"[0-9]|[幺洞拐勾]", rest), rest


def test_no_two_seeds_in_a_row_say_the_same() -> None:
    for kinds in HELD_OUT.values():
        for forms in kinds.values():
            for form in forms:
                assert len({str(form(random.Random(seed))) for seed in range(40)}) >= 4, form


def test_planted_places_hold_the_secret() -> None:
    played: set[str] = set()
    calls = generate_many(1_000, forms=HELD_OUT)
    assert [call.language for call in calls].count("zh") == 500
    for call in calls:
        texts = {each.segment_id: each.text for each in call.segments}
        assert not any(set("⟪⟫") & set(text) for text in texts.values())
        for plant in call.planted:
            pieces = [texts[number][start:end] for number, start, end in plant.spans]
            assert told(plant.kind, plant.form, plant.secret, pieces, call.language), plant
            played.add(plant.form)
    assert played == {str(param.id) for param in FORMS}


def test_calls_are_seeded() -> None:
    for language in ("en", "zh"):
        assert generate(5, language, HELD_OUT) == generate(5, language, HELD_OUT)
        assert generate(5, language, HELD_OUT) != generate(6, language, HELD_OUT)


def test_talk_is_large_and_new() -> None:
    known = {*pii_calls.EN_TALK, *pii_calls.ZH_TALK}
    for lines in HELD_OUT_TALK.values():
        assert len(lines) >= 150
        assert len(set(lines)) == len(lines)
        assert not known & set(lines)
        for line in lines:
            who, _, text = line.partition(":")
            assert who in ("a", "c")
            assert text
            assert text == text.strip()
            assert not set("⟪⟫@") & set(text)
    assert sum(map(len, HELD_OUT_TALK.values())) >= 300


def test_no_number_in_the_talk_is_a_card_a_resident_or_a_mobile() -> None:
    for language, lines in HELD_OUT_TALK.items():
        for line in lines:
            for run in re.findall(r"[0-9]+(?: [0-9]+)*", line):
                number = run.replace(" ", "")
                assert not re.fullmatch("1[3-9][0-9]{9}", number), line
                assert len(number) < 17, line
                if len(number) >= 15:
                    assert luhn_digit(number[:-1]) != number[-1], line
            if language == "zh":
                spoken = re.findall("[零幺一二三四五六七八九]{7,}", line)
                assert not spoken, line


def test_the_reader_reads_what_is_said() -> None:
    assert (
        read_en("double oh seven, triple four, forty-five twenty, six hundred") == "0074444520600"
    )
    assert read_zh("八五年三月十二号，三个八，洞拐勾，艾克斯") == "85年03月12号888079x"
    assert read_zh("十月三十一日，二月二十号") == "10月31日02月20号"
