"""Generated calls with planted secrets, for tests and measurements of what finds personal data.

Every form is written from how people say and write such things on the telephone, without a look at
the detector. They may be looked at when the detector is mended: forms to measure it by stand
elsewhere.
In a line, ⟪ ⟫ stands around each piece of the secret; fillers inside a piece belong to it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from schemas.events import PiiKind, Redaction, Role, Segment
from tests.enrich.calls import segment

Turn = tuple[str, str]
Exchange = tuple[str, list[Turn]]
"""The secret, normalised (digits, an address of e-mail, a name), and who says what."""
Form = Callable[[random.Random], Exchange]


@dataclass(frozen=True, slots=True)
class Planted:
    kind: PiiKind
    form: str
    secret: str
    spans: tuple[tuple[int, int, int], ...]
    """(segment_id, start, end) of each piece, in code points."""


@dataclass(frozen=True, slots=True)
class PlantedCall:
    language: str
    segments: list[Segment]
    planted: list[Planted]
    names: tuple[str, ...]
    """Of the participants, as the platform knows them."""


# Values ------------------------------------------------------------------------------------------


def luhn_digit(body: str) -> str:
    total = 0
    for place, digit in enumerate(reversed(body)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


def digits(rng: random.Random, count: int, first: str = "0123456789") -> str:
    return rng.choice(first) + "".join(rng.choice("0123456789") for _ in range(count - 1))


def card(rng: random.Random) -> str:
    prefix, size = rng.choice(
        (("4", 16), ("4", 16), ("52", 16), ("54", 16), ("37", 15), ("6222", 19), ("6217", 16))
    )
    body = prefix + digits(rng, size - len(prefix) - 1)
    return body + luhn_digit(body)


def card16(rng: random.Random) -> str:
    body = rng.choice(("4", "51", "53", "6225")) + ""
    body += digits(rng, 15 - len(body))
    return body + luhn_digit(body)


REGIONS = ("110105", "310115", "440106", "330106", "510107", "320583", "420111", "610113")


def birthday(rng: random.Random) -> date:
    return date(1946, 1, 1) + timedelta(days=rng.randrange(21_000))


def resident_id(rng: random.Random) -> str:
    body = rng.choice(REGIONS) + birthday(rng).strftime("%Y%m%d") + digits(rng, 3)
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    rest = sum(int(d) * w for d, w in zip(body, weights, strict=True)) % 11
    return body + "10X98765432"[rest]


def old_resident_id(rng: random.Random) -> str:
    return rng.choice(REGIONS) + birthday(rng).strftime("%y%m%d") + digits(rng, 3)


def ssn(rng: random.Random) -> str:
    area = rng.choice([n for n in range(1, 900) if n != 666])
    return f"{area:03}{rng.randrange(1, 100):02}{rng.randrange(1, 10_000):04}"


def mobile(rng: random.Random) -> str:
    prefixes = "130 133 135 138 139 150 152 158 159 166 177 180 186 188 189 199 191"
    return rng.choice(prefixes.split()) + digits(rng, 8)


def us_phone(rng: random.Random) -> str:
    return digits(rng, 3, "23456789") + digits(rng, 3, "23456789") + digits(rng, 4)


FIRST = (
    "James", "Mary", "Robert", "Linda", "Susan", "Kevin", "Laura", "Brian", "Emily", "Rachel",
    "Daniel", "Olivia", "Siobhan", "Priya", "Oluwaseun", "Dmitri", "Fatima", "Hiroshi",
    "Anneliese", "Marcus", "Tyrone", "Guadalupe", "Xavier", "Bronwyn", "Yusuf", "Ingrid",
    "Carlos", "Wei", "Nkechi", "Thaddeus", "Peggy", "Stan", "Doris", "Jared", "Chloe",
    "Abigail", "Hassan", "Rosalind", "Kwame", "Beatriz",
)  # fmt: skip
LAST = (
    "Smith", "Johnson", "Garcia", "Miller", "Davis", "Walker", "Young", "Harris", "Thompson",
    "Nguyen", "Okafor", "Petrov", "Haddad", "Yamamoto", "Lindqvist", "O'Brien", "McAllister",
    "Featherstone", "Kowalczyk", "Delacroix", "Vandenberg", "Abernathy", "Patel", "Iyer",
    "Gutierrez", "Blackwood", "Hollis", "Pruitt", "Castellanos", "Oyelaran", "Fitzgerald",
    "Zhao",
)  # fmt: skip
SURNAMES = tuple("王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕")
RARE_SURNAMES = ("欧阳", "司马", "诸葛", "上官", "尉迟", "阮", "蔺", "臧", "邬", "佘", "覃", "仇")
GIVEN = tuple("伟芳娜敏静丽强磊军洋勇艳杰娟涛明超霞平刚桂英华文玉建国志永春梅晓婷雪宇浩欣梓涵子轩")


def en_name(rng: random.Random) -> tuple[str, str]:
    return rng.choice(FIRST), rng.choice(LAST)


def zh_name(rng: random.Random) -> tuple[str, str]:
    surname = rng.choice(SURNAMES if rng.random() < 0.85 else RARE_SURNAMES)
    return surname, "".join(rng.choice(GIVEN) for _ in range(rng.choice((1, 2, 2))))


# Saying digits -----------------------------------------------------------------------------------

EN = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
)  # fmt: skip
TENS = (
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
    "eighteen", "nineteen",
)  # fmt: skip
DECADES = (
    "_", "_", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
)  # fmt: skip
ZH = "零一二三四五六七八九"
EN_FILLERS = ("uh", "um", "er", "and then", "let me see")
ZH_FILLERS = ("嗯", "呃", "那个", "然后", "然后是")


def cut(text: str, *sizes: int) -> list[str]:
    """In pieces of those sizes, the last size again as long as there is text."""
    pieces: list[str] = []
    wanted = list(sizes)
    while text:
        size = wanted.pop(0) if len(wanted) > 1 else wanted[0]
        pieces.append(text[:size])
        text = text[size:]
    return pieces


def en_digits(rng: random.Random, number: str, doubles: bool = True) -> str:
    said: list[str] = []
    oh = rng.random() < 0.5
    at = 0
    while at < len(number):
        digit = number[at]
        same = len(number[at:]) - len(number[at:].lstrip(digit))
        word = "X" if digit == "X" else "oh" if oh and digit == "0" else EN[int(digit)]
        if doubles and same >= 3 and rng.random() < 0.5:
            said += ["triple", word]
            at += 3
        elif doubles and same >= 2 and rng.random() < 0.6:
            said += ["double", word]
            at += 2
        else:
            said.append(word)
            at += 1
    return " ".join(said)


def en_pair(pair: str) -> str:
    """`41` as forty one, `05` as oh five."""
    if pair[0] == "0":
        return f"oh {EN[int(pair[1])]}" if pair[1] != "0" else "zero zero"
    if pair[0] == "1":
        return TENS[int(pair[1])]
    return DECADES[int(pair[0])] + (f" {EN[int(pair[1])]}" if pair[1] != "0" else "")


def zh_digits(rng: random.Random, number: str) -> str:
    one = rng.choice("一幺")
    nought = rng.choice("零零〇0")
    said = ""
    at = 0
    while at < len(number):
        digit = number[at]
        same = len(number[at:]) - len(number[at:].lstrip(digit))
        if same >= 3 and digit != "X" and rng.random() < 0.4:
            said += f"{'三' if same == 3 else ZH[same]}个{ZH[int(digit)]}"
            at += same
            continue
        said += "X" if digit == "X" else {"1": one, "0": nought}.get(digit, ZH[int(digit)])
        at += 1
    return said


def mixed(rng: random.Random, pieces: Sequence[str], language: str) -> str:
    """Some pieces as digits, some spoken."""
    say = en_digits if language == "en" else zh_digits
    return " ".join(p if rng.random() < 0.5 else say(rng, p) for p in pieces)


def filled(rng: random.Random, pieces: Sequence[str], language: str) -> str:
    """Spoken pieces with fillers between some of them."""
    said = ""
    for number, piece in enumerate(pieces):
        if number:
            if language == "en":
                said += rng.choice((" ", ", ", f", {rng.choice(EN_FILLERS)}, ", "... "))
            else:
                said += rng.choice(("", "，", f"，{rng.choice(ZH_FILLERS)}，", "、", "…"))
        said += en_digits(rng, piece) if language == "en" else zh_digits(rng, piece)
    return said


def spelled(rng: random.Random, number: str, groups: Sequence[str], language: str) -> str:
    """One of the common ways to give a number."""
    way = rng.randrange(8)
    if way == 0:
        return number
    if way == 1:
        return "-".join(groups)
    if way == 2:
        return " ".join(groups)
    if way == 3:
        return en_digits(rng, number) if language == "en" else zh_digits(rng, number)
    if way == 4:
        return mixed(rng, groups, language)
    if way == 5:
        return " ".join(number) if language == "en" else "，".join(groups)
    return filled(rng, groups, language)


def over_turns(
    rng: random.Random, groups: Sequence[str], language: str, head: str = "", tail: str = ""
) -> list[Turn]:
    """Group by group, the agent saying something short after each but the last."""
    if language == "en":
        short = ("okay", "Okay.", "mm-hmm", "yes", "uh-huh", "got it", "right")
    else:
        short = ("嗯", "嗯。", "好的", "对", "嗯嗯", "好", "您说")
    say = en_digits if language == "en" else zh_digits
    plain = rng.random() < 0.4
    turns: list[Turn] = []
    for number, piece in enumerate(groups):
        text = piece if plain else say(rng, piece)
        last = number == len(groups) - 1
        turns.append(("c", f"{head if not number else ''}⟪{text}⟫{tail if last else ''}"))
        if not last and rng.random() < 0.7:
            turns.append(("a", rng.choice(short)))
    return turns


# Seen forms, English -----------------------------------------------------------------------------


def en_phone(rng: random.Random) -> Exchange:
    number = us_phone(rng)
    groups = cut(number, 3, 3, 4)
    say = spelled(rng, number, groups, "en")
    lines: list[list[Turn]] = [
        [("c", f"My phone number is ⟪{say}⟫.")],
        [("a", "What's the best number to reach you?"), ("c", f"It's ⟪{say}⟫, thanks.")],
        [("c", f"Can you call me back at ⟪{say}⟫ after lunch?")],
        [("c", f"so my cell is ⟪{say}⟫ and I'm home most days")],
        [("a", "Can I get a callback number?"), ("c", f"Sure, ⟪{say}⟫")],
        [("a", f"I have your mobile as ⟪{say}⟫, is that right?"), ("c", "yes that's right")],
        [("c", f"⟪{say}⟫ is my number")],
        [("c", f"Text me on ⟪({groups[0]}) {groups[1]}-{groups[2]}⟫ please")],
        [("c", f"it's ⟪+1 {'-'.join(groups)}⟫")],
        [("c", f"⟪one {en_digits(rng, groups[0])}, {en_digits(rng, number[3:])}⟫ is the number")],
    ]
    return number, rng.choice(lines)


def en_phone_over_turns(rng: random.Random) -> Exchange:
    number = us_phone(rng)
    ask: Turn = ("a", rng.choice(("And your phone number?", "what number can I call you on")))
    return number, [ask, *over_turns(rng, cut(number, 3, 3, 4), "en", rng.choice(("", "it's ")))]


def en_phone_read_back(rng: random.Random) -> Exchange:
    number = us_phone(rng)
    groups = cut(number, 3, 3, 4)
    return number, [
        ("c", f"You can reach me on ⟪{spelled(rng, number, groups, 'en')}⟫."),
        ("a", rng.choice(("So that's ⟪{}⟫?", "Let me read that back: ⟪{}⟫.", "⟪{}⟫, correct?"))
            .format(spelled(rng, number, groups, "en"))),
        ("c", "yep"),
    ]  # fmt: skip


def en_card(rng: random.Random) -> Exchange:
    number = card(rng)
    groups = cut(number, 4, 6, 5) if len(number) == 15 else cut(number, 4)
    say = spelled(rng, number, groups, "en")
    lines: list[list[Turn]] = [
        [("c", f"The card number is ⟪{say}⟫.")],
        [("a", "Can you read me the sixteen digits on the front?"), ("c", f"⟪{say}⟫")],
        [("a", "And your card number please?"), ("c", f"Okay, it's ⟪{say}⟫")],
        [("c", f"my visa is ⟪{say}⟫ and it expires next year")],
        [("c", f"I want to pay with ⟪{say}⟫")],
        [("a", f"So your credit card is ⟪{say}⟫, correct?")],
    ]
    return number, rng.choice(lines)


def en_card_pairs(rng: random.Random) -> Exchange:
    number = card16(rng)
    groups = [" ".join(en_pair(pair) for pair in cut(group, 2)) for group in cut(number, 4)]
    return number, [
        ("a", "Go ahead with the card number."), ("c", f"⟪{', '.join(groups)}⟫"),
    ]  # fmt: skip


def en_card_over_turns(rng: random.Random) -> Exchange:
    number = card16(rng)
    return number, [
        ("a", "Whenever you're ready, the long number on the card."),
        *over_turns(rng, cut(number, 4), "en"),
    ]


def en_ssn(rng: random.Random) -> Exchange:
    number = ssn(rng)
    groups = cut(number, 3, 2, 4)
    say = spelled(rng, number, groups, "en")
    lines: list[list[Turn]] = [
        [("c", f"My social security number is ⟪{say}⟫.")],
        [("a", "Can you verify your social for me?"), ("c", f"Sure. ⟪{say}⟫")],
        [("c", f"the SSN is ⟪{say}⟫")],
        [("a", "I need your social security number."), *over_turns(rng, groups, "en", "uh ")],
        [("a", f"I have ⟪{say}⟫ as your social, is that still right?")],
    ]
    return number, rng.choice(lines)


def en_other_id(rng: random.Random) -> Exchange:
    letter = rng.choice("ABCDEGHKLMNPRS")
    number = digits(rng, 8)
    lines: list[list[Turn]] = [
        [("c", f"My passport number is ⟪{letter}{number}⟫.")],
        [("c", f"driver's license number ⟪{letter}{number}⟫")],
        [("a", "What's your passport number?"), ("c", f"⟪{letter} {en_digits(rng, number)}⟫")],
        [("c", f"it's a driver's license, ⟪{' '.join(number)}⟫")],
        [("c", f"My national ID is ⟪{number}⟫")],
        [("a", "ID number please"), ("c", f"that's ⟪{en_digits(rng, number)}⟫")],
    ]
    return number, rng.choice(lines)


MAIL_HOSTS = ("gmail.com", "yahoo.com", "outlook.com", "hotmail.com", "icloud.com", "acme.io",
              "northwind.org", "proton.me", "aol.com", "brightsky.net")  # fmt: skip


def mail_parts(rng: random.Random) -> tuple[str, str, str]:
    """Local part, its spoken form, host."""
    first, last = en_name(rng)
    first, last = first.lower(), re.sub("[^a-z]", "", last.lower())
    number = digits(rng, 2)
    said = " ".join(EN[int(d)] for d in number)
    local, spoken = rng.choice(
        (
            (f"{first}.{last}", f"{first} dot {last}"),
            (f"{first}_{last}", f"{first} underscore {last}"),
            (f"{first}{number}", f"{first} {number}"),
            (f"{first}.{last}{number}", f"{first} dot {last} {said}"),
            (f"{first[0]}{last}", f"{first[0]} {last}"),
            (f"{last}-{first}", f"{last} dash {first}"),
            (first + last, f"{first} {last}"),
            (first, " ".join(first)),
        )
    )
    return local, spoken, rng.choice(MAIL_HOSTS)


def en_email(rng: random.Random) -> Exchange:
    local, spoken, host = mail_parts(rng)
    written = f"{local}@{host}"
    said = f"{spoken} at {host.replace('.', ' dot ')}"
    half = f"{spoken} at {host}"
    say = rng.choice((written, said, said, half, written.capitalize()))
    lines: list[list[Turn]] = [
        [("c", f"My email is ⟪{say}⟫.")],
        [("a", "What's your email address?"), ("c", f"It's ⟪{say}⟫")],
        [("c", f"send it to ⟪{say}⟫ please")],
        [("a", f"I've got ⟪{say}⟫ on file, is that the right one?")],
        [("a", f"so that's ⟪{said}⟫"), ("c", "yes")],
        [
            ("a", "And the email?"),
            ("c", f"⟪{spoken}⟫"),
            ("a", "okay"),
            ("c", f"⟪at {host.replace('.', ' dot ')}⟫"),
        ],
    ]
    return written, rng.choice(lines)


def en_person(rng: random.Random) -> Exchange:
    first, last = en_name(rng)
    full = f"{first} {last}"
    lines: list[list[Turn]] = [
        [("c", f"Hi, my name is ⟪{full}⟫ and I'm calling about a bill.")],
        [("c", f"Hello, this is ⟪{full}⟫ speaking.")],
        [("a", f"Good morning, this is ⟪{first}⟫ from support, how can I help?")],
        [("a", "Who am I speaking with?"), ("c", f"⟪{full}⟫")],
        [("a", "May I have your name?"), ("c", f"Yes, it's ⟪{full}⟫.")],
        [("a", f"Thank you, Mr. ⟪{last}⟫.")],
        [("a", f"One moment please, Mrs ⟪{last}⟫")],
        [("c", f"I'm ⟪{full}⟫, I called yesterday")],
        [("c", f"my name's ⟪{first}⟫")],
        [("a", f"Is that Ms. ⟪{last}⟫?"), ("c", "Speaking.")],
        [("c", f"you can call me ⟪{first}⟫")],
        [("a", "Can I take your first name?"), ("c", f"⟪{first}⟫"), ("a", "And the last name?"),
         ("c", f"⟪{last}⟫")],
        [("c", f"My name is ⟪{full.lower()}⟫ and i have a question")],
    ]  # fmt: skip
    return full, rng.choice(lines)


STREETS = ("Maple", "Oak Hill", "Washington", "Elm", "Sunset", "Park", "Cedar Ridge", "Fifth")
STREET_WORDS = ("Street", "Avenue", "Road", "Lane", "Drive", "Boulevard", "Court", "St", "Ave")
CITIES = ("Springfield, Illinois", "Austin, Texas", "Portland, Oregon", "Dayton, Ohio")


def en_address(rng: random.Random) -> Exchange:
    number = str(rng.randrange(11, 9_900))
    street = f"{rng.choice(STREETS)} {rng.choice(STREET_WORDS)}"
    city = rng.choice(CITIES)
    code = digits(rng, 5)
    said = en_digits(rng, number, doubles=False)
    lines: list[list[Turn]] = [
        [("c", f"My address is ⟪{number} {street}⟫.")],
        [("c", f"I live at ⟪{number} {street}, {city} {code}⟫.")],
        [("a", "Where should we ship it?"), ("c", f"⟪{number} {street}, apartment 4B⟫")],
        [("c", f"it's ⟪{said} {street.lower()}⟫ in the old town")],
        [("a", f"I have you at ⟪{number} {street}, {city}⟫, is that current?")],
    ]
    return f"{number} {street}", rng.choice(lines)


def en_account(rng: random.Random) -> Exchange:
    number = digits(rng, rng.choice((8, 9, 10, 12)), "123456789")
    groups = cut(number, 4) if len(number) % 4 == 0 else cut(number, 3)
    say = spelled(rng, number, groups, "en")
    lines: list[list[Turn]] = [
        [("c", f"My account number is ⟪{say}⟫.")],
        [("c", f"order number ⟪{say}⟫ never came")],
        [("a", "Do you have the order number?"), ("c", f"Yes, ⟪{say}⟫.")],
        [("a", f"Your reference number is ⟪{say}⟫.")],
        [("c", f"the tracking number says ⟪{say}⟫")],
    ]
    return number, rng.choice(lines)


# Seen forms, Mandarin ----------------------------------------------------------------------------


def zh_phone(rng: random.Random) -> Exchange:
    number = mobile(rng)
    groups = cut(number, 3, 4, 4)
    say = spelled(rng, number, groups, "zh")
    lines: list[list[Turn]] = [
        [("c", f"我的手机号是⟪{say}⟫。")],
        [("a", "请问您的联系电话是多少？"), ("c", f"⟪{say}⟫")],
        [("c", f"你打我这个电话⟪{say}⟫就行")],
        [("c", f"电话⟪{say}⟫，下午我都在")],
        [("a", f"您预留的手机号码是⟪{say}⟫对吗？"), ("c", "对的")],
        [("c", f"⟪{say}⟫，这是我的手机号")],
        [("a", "麻烦报一下手机号"), ("c", f"好，⟪{say}⟫")],
        [("c", f"你记一下啊，⟪{say}⟫")],
        [("c", f"我微信同号，⟪{say}⟫")],
        [("c", f"⟪+86 {number}⟫")],
    ]
    return number, rng.choice(lines)


def zh_phone_over_turns(rng: random.Random) -> Exchange:
    number = mobile(rng)
    ask: Turn = ("a", rng.choice(("您的手机号是多少？", "请您报一下电话")))
    return number, [ask, *over_turns(rng, cut(number, 3, 4, 4), "zh", rng.choice(("", "是")))]


def zh_phone_read_back(rng: random.Random) -> Exchange:
    number = mobile(rng)
    groups = cut(number, 3, 4, 4)
    return number, [
        ("c", f"我电话是⟪{spelled(rng, number, groups, 'zh')}⟫"),
        ("a", rng.choice(("我重复一下，⟪{}⟫，对吗？", "⟪{}⟫是吧？", "好的，⟪{}⟫"))
            .format(spelled(rng, number, groups, "zh"))),
        ("c", "对"),
    ]  # fmt: skip


def zh_landline(rng: random.Random) -> Exchange:
    code, size = rng.choice((("010", 8), ("021", 8), ("0571", 8), ("0755", 8), ("0371", 8)))
    rest = digits(rng, size, "23568")
    number = code + rest
    say = spelled(rng, number, [code, rest[:4], rest[4:]], "zh")
    lines: list[list[Turn]] = [
        [("c", f"我家座机是⟪{say}⟫。")],
        [("a", "有固定电话吗？"), ("c", f"有，⟪{say}⟫")],
        [("c", f"打我办公室电话⟪{say}⟫")],
    ]
    return number, rng.choice(lines)


def zh_card(rng: random.Random) -> Exchange:
    number = card(rng)
    groups = cut(number, 4)
    say = spelled(rng, number, groups, "zh")
    lines: list[list[Turn]] = [
        [("c", f"我的银行卡号是⟪{say}⟫。")],
        [("a", "请报一下您的卡号"), ("c", f"⟪{say}⟫")],
        [("c", f"信用卡⟪{say}⟫，刷不了了")],
        [("a", f"您的卡号是⟪{say}⟫，对吗？")],
        [("a", "退款退到哪张卡？"), ("c", f"退到⟪{say}⟫")],
    ]
    return number, rng.choice(lines)


def zh_card_over_turns(rng: random.Random) -> Exchange:
    number = card16(rng)
    return number, [("a", "您念一下卡号。"), *over_turns(rng, cut(number, 4), "zh")]


def zh_id(rng: random.Random) -> Exchange:
    number = resident_id(rng)
    say = spelled(rng, number, cut(number, 6, 8, 4), "zh")
    if rng.random() < 0.3:
        say = say.replace("X", "x")
    lines: list[list[Turn]] = [
        [("c", f"我的身份证号是⟪{say}⟫。")],
        [("a", "请提供一下您的身份证号码"), ("c", f"⟪{say}⟫")],
        [("c", f"身份证⟪{say}⟫")],
        [("a", f"跟您核对一下，身份证号⟪{say}⟫，是吗？")],
        [("c", f"证件号码⟪{say}⟫，你查一下")],
        [("c", f"你查⟪{say}⟫这个人")],
    ]
    return number, rng.choice(lines)


def zh_id_over_turns(rng: random.Random) -> Exchange:
    number = resident_id(rng)
    return number, [("a", "身份证号多少？"), *over_turns(rng, cut(number, 6, 4, 4), "zh")]


def zh_old_id(rng: random.Random) -> Exchange:
    number = old_resident_id(rng)
    say = spelled(rng, number, cut(number, 6, 6, 3), "zh")
    lines: list[list[Turn]] = [
        [("c", f"老身份证号是⟪{say}⟫。")],
        [("a", "您的身份证号码是？"), ("c", f"我这个是十五位的，⟪{say}⟫")],
    ]
    return number, rng.choice(lines)


def zh_other_id(rng: random.Random) -> Exchange:
    number = digits(rng, 8)
    letter = rng.choice("EG")
    lines: list[list[Turn]] = [
        [("c", f"护照号是⟪{letter}{number}⟫")],
        [("a", "请问护照号码？"), ("c", f"⟪{letter}{zh_digits(rng, number)}⟫")],
        [("c", f"我的驾驶证号⟪{number}⟫")],
        [("c", f"社保号是⟪{zh_digits(rng, number)}⟫")],
    ]
    return number, rng.choice(lines)


def zh_email(rng: random.Random) -> Exchange:
    user = rng.choice(("zhangwei", "liming", "xiaofang", "chenjun", "wanghao88", "lily_chen"))
    number = digits(rng, rng.choice((2, 4, 8)), "123456789")
    host = rng.choice(("qq.com", "163.com", "126.com", "gmail.com", "sina.com", "foxmail.com"))
    local, spoken = rng.choice(
        (
            (number + "7", zh_digits(rng, number + "7")),
            (user, " ".join(user)),
            (f"{user}{number}", f"{user} {zh_digits(rng, number)}"),
            (f"{user}{number}", f"{user}{number}"),
        )
    )
    spoken = spoken.replace("_", "下划线")
    said_host = host.replace(".", "点")
    if rng.random() < 0.4:
        said_host = said_host.replace("163", "一六三").replace("126", "一二六")
    at = rng.choice(("艾特", " at ", "@", "艾特"))
    written = f"{local}@{host}"
    say = rng.choice((written, f"{spoken}{at}{said_host}", f"{spoken}{at}{said_host}"))
    lines: list[list[Turn]] = [
        [("c", f"我的邮箱是⟪{say}⟫。")],
        [("a", "您的电子邮箱是？"), ("c", f"⟪{say}⟫")],
        [("c", f"发到⟪{say}⟫吧")],
        [("a", f"邮箱是⟪{say}⟫，对吗？"), ("c", "对")],
    ]
    return written, rng.choice(lines)


def zh_person(rng: random.Random) -> Exchange:
    surname, given = zh_name(rng)
    full = surname + given
    title = rng.choice(("先生", "女士", "小姐"))
    lines: list[list[Turn]] = [
        [("c", f"我叫⟪{full}⟫，想问一下账单。")],
        [("a", "请问您贵姓？"), ("c", f"我姓⟪{surname}⟫")],
        [("a", "怎么称呼您？"), ("c", f"免贵姓⟪{surname}⟫。")],
        [("a", f"⟪{surname}⟫{title}您好，请讲。")],
        [("a", f"好的⟪{full}⟫{title}，请稍等。")],
        [("a", "请问您的姓名是？"), ("c", f"⟪{full}⟫。")],
        [("c", f"你好，我是⟪{full}⟫，昨天打过电话")],
        [("c", f"名字是⟪{full}⟫")],
        [("a", f"请问是⟪{full}⟫本人吗？"), ("c", "是的")],
        [("a", f"您好，我是客服⟪{full}⟫，很高兴为您服务")],
        [("a", "收件人姓名？"), ("c", f"⟪{full}⟫")],
    ]
    return full, rng.choice(lines)


def zh_address(rng: random.Random) -> Exchange:
    city = rng.choice(("北京市朝阳区", "上海市浦东新区", "杭州市西湖区", "广东省深圳市南山区"))
    road = rng.choice(("建国路", "文三路", "科技大道", "中山北街", "世纪大道", "延安西路"))
    number = rng.randrange(3, 999)
    said = zh_digits(rng, str(number))
    room = f"{rng.randrange(1, 20)}栋{rng.randrange(1, 5)}单元{rng.randrange(1, 30)}0{rng.randrange(1, 5)}室"  # noqa: E501
    lines: list[list[Turn]] = [
        [("c", f"我住在⟪{city}{road}{number}号⟫。")],
        [("c", f"地址是⟪{city}{road}{number}号{room}⟫")],
        [("a", "寄到哪里？"), ("c", f"⟪{city}{road}{said}号⟫")],
        [("c", f"寄到⟪{road}{number}号阳光花园{room}⟫就行")],
        [("a", f"您的收货地址是⟪{city}{road}{number}号⟫对吗？")],
    ]
    return f"{road}{number}", rng.choice(lines)


def zh_account(rng: random.Random) -> Exchange:
    number = digits(rng, rng.choice((8, 10, 12)), "2345679")
    say = spelled(rng, number, cut(number, 4), "zh")
    lines: list[list[Turn]] = [
        [("c", f"我的订单号是⟪{say}⟫。")],
        [("a", "订单号麻烦报一下"), ("c", f"⟪{say}⟫")],
        [("c", f"快递单号⟪{say}⟫一直没到")],
        [("a", f"您的工单号是⟪{say}⟫")],
        [("c", f"我账号是⟪{say}⟫")],
    ]
    return number, rng.choice(lines)


# Seen forms, held out once ------------------------------------------------------------------------


def ho_en_phone(rng: random.Random) -> Exchange:
    number = us_phone(rng)
    a, b, c = cut(number, 3, 3, 4)
    uk = "07" + digits(rng, 9)
    uk_a, uk_b, uk_c = cut(uk, 5, 3, 3)
    lines: list[tuple[str, list[Turn]]] = [
        (number, [("c", f"area code ⟪{en_digits(rng, a)}⟫, then ⟪{en_digits(rng, b)}⟫, and the "
                        f"last four are ⟪{en_digits(rng, c)}⟫")]),
        (number, [("c", f"try ⟪{a}.{b}.{c}⟫ or my wife's phone")]),
        (number, [("c", f"ring me on ⟪{a} {b} {c}⟫ extension 12")]),
        (uk, [("c", f"My mobile is ⟪{uk_a} {uk_b} {uk_c}⟫")]),
        (uk, [("a", "Best contact number?"),
              ("c", f"⟪{en_digits(rng, uk_a)}, {en_digits(rng, uk_b)}, {en_digits(rng, uk_c)}⟫")]),
        (uk, [("c", f"it's ⟪plus four four {en_digits(rng, uk[1:])}⟫")]),
        (number, [("c", f"my number's ⟪{en_digits(rng, a)}⟫ no sorry it's ⟪"
                        f"{'-'.join(EN[int(d)] for d in a)}, {en_digits(rng, b + c)}⟫")]),
        (number, [("a", "and a number in case we get cut off"), ("c", f"⟪{a}⟫"),
                  ("a", f"⟪{a}⟫"), ("c", f"⟪{b}⟫"), ("a", f"⟪{b}⟫"), ("c", f"⟪{c}⟫")]),
    ]  # fmt: skip
    return rng.choice(lines)


def ho_en_card(rng: random.Random) -> Exchange:
    number = card16(rng)
    groups = cut(number, 4)
    said = [en_digits(rng, group) for group in groups]
    lines: list[list[Turn]] = [
        [("c", f"The long one across the front, ⟪{', and '.join(said)}⟫")],
        [("c", f"Mastercard ending, well, the whole thing is ⟪{'  '.join(groups)}⟫")],
        [("a", "first four?"), ("c", f"⟪{said[0]}⟫"), ("a", "next four?"), ("c", f"⟪{said[1]}⟫"),
         ("a", "next?"), ("c", f"⟪{said[2]}⟫"), ("a", "last four?"), ("c", f"⟪{said[3]}⟫")],
        [("c", f"put it on ⟪{'/'.join(groups)}⟫")],
    ]  # fmt: skip
    return number, rng.choice(lines)


def ho_en_id(rng: random.Random) -> Exchange:
    number = ssn(rng)
    a, b, c = cut(number, 3, 2, 4)
    lines: list[list[Turn]] = [
        [("c", f"my social's ⟪{a} {b} {c}⟫")],
        [("a", "Could I get your tax ID?"), ("c", f"⟪{en_digits(rng, number)}⟫")],
        [("c", f"⟪{en_digits(rng, a)}, dash {en_digits(rng, b)}, dash {en_digits(rng, c)}⟫, "
               "that's my social")],
        [("a", "Your member ID?"), ("c", f"Okay so ⟪{number}⟫")],
    ]  # fmt: skip
    return number, rng.choice(lines)


def ho_en_email(rng: random.Random) -> Exchange:
    first, last = (re.sub("[^a-z]", "", part.lower()) for part in en_name(rng))
    year = rng.randrange(70, 99)
    lines: list[tuple[str, list[Turn]]] = [
        (f"{first}{last}@bt.co.uk",
         [("c", f"⟪{first} {last}, all one word, at b t dot co dot uk⟫")]),
        (f"{first}{year}@gmail.com", [("a", "and where do I send the confirmation"),
                                      ("c", f"⟪{first} {en_pair(str(year))} at gmail.com⟫")]),
        (f"{first[0]}.{last}@acme.com", [("c", f"e-mail would be ⟪{first[0]} dot {last}⟫, spelled "
                                               f"⟪{' '.join(last)}, at acme dot com⟫")]),
        (f"{last}@{first}design.com", [("c", f"write to ⟪{last} at {first} design dot com⟫")]),
        (f"{first}+bills@gmail.com", [("c", f"use ⟪{first}+bills@gmail.com⟫ for that")]),
    ]  # fmt: skip
    return rng.choice(lines)


def ho_en_person(rng: random.Random) -> Exchange:
    first, last = en_name(rng)
    full = f"{first} {last}"
    lines: list[list[Turn]] = [
        [("a", f"You're speaking to ⟪{first}⟫, what's the trouble?")],
        [("c", f"The name on the account is ⟪{full}⟫")],
        [("c", f"It should be under ⟪{last}⟫, first name ⟪{first}⟫")],
        [("c", f"I spoke with ⟪{first}⟫ last week and he promised a refund")],
        [("c", f"I'm calling for my husband, ⟪{full}⟫")],
        [("a", f"Alright ⟪{first}⟫, let me pull that up.")],
    ]
    return full, rng.choice(lines)


def ho_en_address(rng: random.Random) -> Exchange:
    number = str(rng.randrange(2, 300))
    lines: list[tuple[str, list[Turn]]] = [
        (number, [("c", f"⟪Flat 3, {number} Acacia Avenue, London SW1A 2AA⟫")]),
        (number, [("c", f"we moved to ⟪{number} West Broadway⟫ in June")]),
        (number, [("c", f"it goes to ⟪P.O. Box {number}, Reno, Nevada⟫")]),
        (number, [("c", f"my place is ⟪{number} Highland Park Circle, unit 12⟫")]),
    ]
    return rng.choice(lines)


def ho_zh_phone(rng: random.Random) -> Exchange:
    number = mobile(rng)
    a, b, c = cut(number, 3, 4, 4)
    rest = digits(rng, 8, "5678")
    lines: list[tuple[str, list[Turn]]] = [
        (number, [("c", f"手机打这个，⟪{zh_digits(rng, a)}⟫，中间⟪{zh_digits(rng, b)}⟫，"
                        f"最后四位⟪{zh_digits(rng, c)}⟫")]),
        (number, [("c", f"我老公的号⟪{a} {zh_digits(rng, b)} {c}⟫")]),
        (number, [("a", "方便留个号码吗"), ("c", f"⟪{a}⟫"), ("a", f"⟪{a}⟫"), ("c", f"⟪{b}⟫"),
                  ("a", f"⟪{b}⟫"), ("c", f"⟪{c}⟫")]),
        ("021" + rest, [("c", f"区号⟪零二幺⟫，⟪{zh_digits(rng, rest)}⟫")]),
        (number, [("c", f"⟪{zh_digits(rng, a)}⟫，不对，是⟪{zh_digits(rng, a)}，"
                        f"{zh_digits(rng, b + c)}⟫")]),
    ]  # fmt: skip
    return rng.choice(lines)


def ho_zh_card(rng: random.Random) -> Exchange:
    number = card16(rng)
    said = [zh_digits(rng, group) for group in cut(number, 4)]
    lines: list[list[Turn]] = [
        [("c", f"卡上写的⟪{'，再是'.join(said)}⟫")],
        [("a", "前四位？"), ("c", f"⟪{said[0]}⟫"), ("a", "再往后"), ("c", f"⟪{said[1]}⟫"),
         ("a", "嗯，接着说"), ("c", f"⟪{said[2]}⟫"), ("a", "最后四位"), ("c", f"⟪{said[3]}⟫")],
        [("c", f"工行的，⟪{number}⟫")],
    ]  # fmt: skip
    return number, rng.choice(lines)


def ho_zh_id(rng: random.Random) -> Exchange:
    number = resident_id(rng)
    born = f"{zh_digits(rng, number[6:10])}年{int(number[10:12])}月{int(number[12:14])}号"
    lines: list[list[Turn]] = [
        [("c", f"身份证前六位⟪{zh_digits(rng, number[:6])}⟫，出生⟪{born}⟫，"
               f"后四位⟪{zh_digits(rng, number[14:])}⟫")],
        [("c", f"证件就是⟪{number[:6]} {number[6:14]} {number[14:]}⟫，麻烦了")],
        [("a", "身份证"), ("c", f"⟪{zh_digits(rng, number[:17])}⟫，最后一个是⟪"
                               f"{'叉' if number[17] == 'X' else zh_digits(rng, number[17])}⟫")],
    ]  # fmt: skip
    return number, rng.choice(lines)


def ho_zh_email(rng: random.Random) -> Exchange:
    number = digits(rng, 9, "123456789")
    lines: list[tuple[str, list[Turn]]] = [
        (f"{number}@qq.com", [("c", f"QQ邮箱，⟪{zh_digits(rng, number)}⟫，后面⟪艾特qq点com⟫")]),
        ("zhao.lei@acme.com.cn", [("c", "公司邮箱⟪zhao点lei艾特acme点com点cn⟫")]),
        (f"{number}@qq.com", [("c", f"就发我⟪{number}@qq.com⟫好了")]),
    ]
    return rng.choice(lines)


def ho_zh_person(rng: random.Random) -> Exchange:
    surname, given = zh_name(rng)
    full = surname + given
    lines: list[list[Turn]] = [
        [("c", f"收件人写⟪{full}⟫吧")],
        [("c", f"户主是我妈，叫⟪{full}⟫")],
        [("a", f"我是您的专属顾问⟪{full}⟫")],
        [("c", f"叫我小⟪{surname}⟫就行")],
        [("c", f"上次是⟪{full}⟫经理给我处理的")],
        [("a", f"您是⟪{surname}⟫总吧？")],
    ]
    return full, rng.choice(lines)


def ho_zh_address(rng: random.Random) -> Exchange:
    number = rng.randrange(2, 60)
    lines: list[tuple[str, list[Turn]]] = [
        (str(number), [("c", f"我家在⟪柳树沟村三组{number}号⟫")]),
        (str(number), [("c", f"送⟪望京soho塔{number}号楼二层⟫前台")]),
        (str(number), [("c", f"⟪苏州工业园区星湖街{number}号创意园A座⟫，写这个")]),
        (str(number), [("c", f"在⟪幸福里小区{number}号楼一单元五零二⟫")]),
    ]
    return rng.choice(lines)


# Those of `ho_` were held out from the detector once, and are seen since.
SEEN: dict[str, dict[PiiKind, tuple[Form, ...]]] = {
    "en": {
        PiiKind.PHONE: (en_phone, en_phone_over_turns, en_phone_read_back, ho_en_phone),
        PiiKind.CARD_NUMBER: (en_card, en_card_pairs, en_card_over_turns, ho_en_card),
        PiiKind.ID_NUMBER: (en_ssn, en_other_id, ho_en_id),
        PiiKind.EMAIL: (en_email, ho_en_email),
        PiiKind.NAME: (en_person, ho_en_person),
        PiiKind.ADDRESS: (en_address, ho_en_address),
        PiiKind.NUMBER: (en_account,),
    },
    "zh": {
        PiiKind.PHONE: (
            zh_phone,
            zh_phone_over_turns,
            zh_phone_read_back,
            zh_landline,
            ho_zh_phone,
        ),
        PiiKind.CARD_NUMBER: (zh_card, zh_card_over_turns, ho_zh_card),
        PiiKind.ID_NUMBER: (zh_id, zh_id_over_turns, zh_old_id, zh_other_id, ho_zh_id),
        PiiKind.EMAIL: (zh_email, ho_zh_email),
        PiiKind.NAME: (zh_person, ho_zh_person),
        PiiKind.ADDRESS: (zh_address, ho_zh_address),
        PiiKind.NUMBER: (zh_account,),
    },
}

# Talk without secrets ----------------------------------------------------------------------------

EN_TALK: tuple[str, ...] = (
    "c:It was $1,299.99 and I was charged twice.",
    "a:That comes to one thousand two hundred and fifty dollars.",
    "c:I ordered it on March 5th, 2026, around 10:30 in the morning.",
    "c:I bought three of the size 42 and two of the 44.",
    "a:Your delivery is between 9 and 5 on the twenty third.",
    "c:I've been on hold for 45 minutes, this is ridiculous.",
    "a:I'm happy to help you with that.",
    "c:We stayed in room 1208 for two nights.",
    "c:My flight is UA 2345 at six fifteen p.m.",
    "a:You get 100 megabits for 39.99 a month, and 24 months at 0 percent.",
    "c:I'm calling about my bill from October.",
    "a:Please look at our website, acme dot com.",
    "c:It says version 10.15.7 on the box.",
    "c:There are 12 people ahead of me, I'm number thirteen.",
    "a:The offer ends on 12/31/2026.",
    "c:In twenty twenty four we paid nineteen ninety nine.",
    "a:One second, let me check, two minutes at most.",
    "c:I miss the old app, this is so slow.",
    "a:You will see the credit in 5 to 7 business days.",
    "c:It's two thousand five hundred square feet.",
    "c:The road was closed and the driver left it in the street.",
    "a:This is the last step, press one and then press two.",
    "c:I told you that one or two times, not ten, eleven or twelve.",
    "c:I paid four hundred fifty dollars, then another three hundred twenty.",
    "a:We are open from 8 a.m. to 8 p.m., seven days a week, 365 days a year.",
    "c:I'm looking for the 2019 model with 16 gigabytes and 512 of storage.",
    "a:That is product 4021, and the other one is 4022.",
    "a:Is there anything else I can do for you today?",
    "c:I am very disappointed in the service so far.",
    "c:The total was 86,400 and the discount 12 percent.",
    "a:Our office is at the corner, on the second floor.",
    "c:This is Monday's parcel, the first one, not the Friday one.",
    "c:It ran 1,000,000 steps in 2 hours 30 minutes and 15 seconds.",
    "a:You will receive it on the 3rd, 4th or 5th of June 2026 at the latest.",
    "c:We were a party of eight and the table was booked for seven thirty.",
    "c:My contract started in two thousand nineteen, so that's seven years with you people.",
    "a:Press the button for ten to fifteen seconds until light three blinks.",
    "c:I've restarted it five, six, seven, maybe eight times today.",
    "a:Your balance is minus forty two pounds and seventeen pence.",
    "c:The engine is a 1.6 litre, 2014, with 86,000 miles on it.",
    "a:We'll be there on Thursday the fourteenth between one and four p.m.",
    "c:Hi, I'm Spanish, sorry for my English.",
    "a:This is Customer Care, one moment.",
    "c:The parcel weighs 12.5 kilos, it is 60 by 40 by 30 centimetres.",
    "a:I am Extremely Sorry for the trouble.",
    "c:Look, I'm at work, meet me at home dot dot dot you know.",
    "a:It is channel 4, then page 888, then button number nine.",
    "c:She lives two streets away, on the other side of the road.",
    "a:That would be 3 payments of 33.33 or one of 99.99.",
    "c:Thank you Lord, finally a human being.",
    "c:I drove 120 miles down the A40 and the shop was closed on Sunday.",
    "a:Interest is 4.9 percent over 48 months, so 212 a month.",
    "c:I saw it for 15 99 online and you charge 19 99.",
    "a:You are currently number two in the queue.",
)
ZH_TALK: tuple[str, ...] = (
    "c:一共一千二百三十八块五，扣了两次。",
    "a:您的订单是二零二六年三月十五号下的。",
    "c:下午三点四十我打过一次。",
    "c:我订了三个八寸的蛋糕。",
    "c:房间号是一二零八。",
    "c:我等了四十五分钟了，太慢了。",
    "a:这位先生您别着急。",
    "a:女士您好，请问有什么可以帮您？",
    "c:我叫了外卖，到现在没来。",
    "c:我是昨天下的单，买了两件，一件退了。",
    "c:我是说那个高一点的。",
    "a:您叫什么名字呢？",
    "a:一般三到五个工作日，最多七天。",
    "c:路上堵车，司机说还有十公里。",
    "c:坐三号线到五号口。",
    "a:每月三十九块九，一百兆，合约二十四个月。",
    "c:2026-03-15买的，发票金额是1299.00元。",
    "c:满两百减三十，再打八五折。",
    "a:请按一，人工服务请按零。",
    "c:我一共买了十二箱，每箱二十四瓶，一共二百八十八瓶。",
    "c:航班是CA1234，上午九点十分。",
    "c:我是在网上买的，不是在店里。",
    "c:我叫你们经理来听电话。",
    "a:两千零二十六年的版本是十点一五。",
    "c:那个一二三步我都做了，还是不行。",
    "a:好的，马上给您处理。",
    "c:比去年多了百分之十五，涨到一万两千块。",
    "c:都四五次了，一两天也没人管。",
    "a:活动到十二月三十一号晚上十二点。",
    "c:这个型号是小米十四，内存十六加五一二。",
    "c:我住的地方离你们店有点远。",
    "c:楼下那条路在修。",
    "a:高先进的设备我们也有。",
    "c:方便的话，周三下午两点到四点送。",
    "c:我们八个人，订的七点半的位子。",
    "c:我从二零一九年就是你们的用户了，七年了。",
    "a:您按住那个键十到十五秒，等第三个灯闪。",
    "c:我重启了五六七八次都没用。",
    "a:您的余额是负四十二块一毛七。",
    "c:这车是一点六的排量，跑了八万六千公里。",
    "a:周四十四号下午一点到四点之间上门。",
    "c:我是湖南人，普通话不好。",
    "a:这边是客户服务部，请稍等。",
    "c:箱子十二公斤半，六十乘四十乘三十厘米。",
    "c:我是您这儿的老客户了，别糊弄我。",
    "a:先看第四频道，再翻到八百八十八页。",
    "c:马路对面那家店也卖这个。",
    "a:分三期，每期三百三十三块三。",
    "c:你们经理总是不在，我白跑了三趟。",
    "c:周末小区里停电，路由器就坏了。",
    "a:年利率百分之四点九，四十八期，每月两百一十二。",
    "c:网上才卖十五块九，你们收十九块九。",
    "c:电话打了一百遍了，没一次打通。",
    "a:您前面还有两位，请耐心等待。",
)


# Calls -------------------------------------------------------------------------------------------

_MARK = re.compile("⟪(.*?)⟫", re.DOTALL)


def _spoken(
    turn: Turn, number: int, at: int, language: str
) -> tuple[Segment, list[tuple[int, int]]]:
    who, marked = turn
    spans: list[tuple[int, int]] = []
    text = ""
    last = 0
    for found in _MARK.finditer(marked):
        text += marked[last : found.start()]
        spans.append((len(text), len(text) + len(found[1])))
        text += found[1]
        last = found.end()
    text += marked[last:]
    words = text.split() if language == "en" else [c for c in text if not c.isspace()]
    step = 400 if language == "en" else 250
    starts = [at + i * step for i in range(len(words))]
    return (
        segment(
            who, at, at + step * len(words), text, number, language=language, words=words,
            word_start_ms=starts, word_end_ms=[start + step for start in starts],
        ),
        spans,
    )  # fmt: skip


def generate(
    seed: int,
    language: str,
    forms: Mapping[str, Mapping[PiiKind, Sequence[Form]]] | None = None,
    talk: Sequence[str] | None = None,
) -> PlantedCall:
    """A call: 2 to 5 exchanges that hold a secret, in talk that holds none."""
    rng = random.Random(f"{seed}/{language}/{'seen' if forms is None else 'other'}")
    chosen = (SEEN if forms is None else forms)[language]
    talk = talk or (EN_TALK if language == "en" else ZH_TALK)
    agent = " ".join(en_name(rng)) if language == "en" else "".join(zh_name(rng))
    segments: list[Segment] = []
    planted: list[Planted] = []
    at = 0

    def say(turns: Iterable[Turn]) -> list[tuple[int, int, int]]:
        nonlocal at
        spans: list[tuple[int, int, int]] = []
        for turn in turns:
            spoken, found = _spoken(turn, len(segments), at, language)
            segments.append(spoken)
            spans += [(spoken.segment_id, start, end) for start, end in found]
            at = spoken.end_ms + 300
        return spans

    def chat() -> None:
        for line in rng.sample(talk, rng.randrange(1, 4)):
            who, _, text = line.partition(":")
            say([(who, text)])

    if forms is None and rng.random() < 0.3:
        greeting = (
            f"⟪{agent}⟫ here, how can I help?" if language == "en" else f"工号⟪{agent}⟫为您服务"
        )
        planted.append(Planted(PiiKind.NAME, "given", agent, tuple(say([("a", greeting)]))))
    for _ in range(rng.randrange(2, 6)):
        chat()
        kind = rng.choice(tuple(chosen))
        form = rng.choice(chosen[kind])
        secret, turns = form(rng)
        planted.append(Planted(kind, form.__name__, secret, tuple(say(turns))))
    chat()
    return PlantedCall(language, segments, planted, (agent,))


def generate_many(
    count: int,
    seed: int = 0,
    forms: Mapping[str, Mapping[PiiKind, Sequence[Form]]] | None = None,
    talk: Mapping[str, Sequence[str]] | None = None,
) -> list[PlantedCall]:
    """Half of them Mandarin."""
    languages = ["zh" if n % 2 else "en" for n in range(count)]
    return [
        generate(seed + n, language, forms, talk[language] if talk else None)
        for n, language in enumerate(languages)
    ]


def talk_only(
    seed: int, language: str, lines: int = 40, talk: Sequence[str] | None = None
) -> PlantedCall:
    """A call without any secret."""
    rng = random.Random(seed)
    talk = talk or (EN_TALK if language == "en" else ZH_TALK)
    at, segments = 0, []
    for number in range(lines):
        who, _, text = rng.choice(talk).partition(":")
        spoken, _ = _spoken((who, text), number, at, language)
        segments.append(spoken)
        at = spoken.end_ms + 300
    return PlantedCall(language, segments, [], ())


# Judging -----------------------------------------------------------------------------------------

_SAID = {
    **{word: str(n) for n, word in enumerate(EN)},
    **{word: str(10 + n) for n, word in enumerate(TENS)},
    **{word: str(n) for n, word in enumerate(DECADES) if n > 1},
    "oh": "0",
}
_WORD = re.compile(r"[A-Za-z]+|[0-9]|[零〇一幺二两三四五六七八九]")


def digits_said(text: str) -> str:
    """Digits of a text, written or spoken in either language; the judge's own reading."""
    said = ""
    for found in _WORD.findall(text):
        if found.isdigit():
            said += found
        elif found.isalpha() and found.isascii():
            said += _SAID.get(found.lower(), "")
        else:
            said += {"〇": "0", "幺": "1", "两": "2"}.get(found) or str(ZH.index(found))
    return said


def covered(plant: Planted, redactions: Iterable[Redaction], kind: PiiKind | None = None) -> bool:
    """Whether every letter and digit of the secret lies under redactions (of that kind)."""
    return not uncovered(plant, redactions, kind)


def uncovered(
    plant: Planted, redactions: Iterable[Redaction], kind: PiiKind | None = None
) -> list[tuple[int, int]]:
    """(segment_id, character) of what is not covered; whoever calls leaves out the punctuation."""
    by_segment: dict[int, list[Redaction]] = {}
    for each in redactions:
        if kind is None or each.kind is kind:
            by_segment.setdefault(each.segment_id, []).append(each)
    return [
        (number, place)
        for number, start, end in plant.spans
        for place in range(start, end)
        if not any(r.start <= place < r.end for r in by_segment.get(number, ()))
    ]


def roles_of(call: PlantedCall) -> set[Role]:
    return {each.role for each in call.segments}
