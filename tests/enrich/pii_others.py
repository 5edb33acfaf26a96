"""A second held-out set: other ways in which people say personal data on the telephone.

Written from speech alone, without a look at the detector, its rules or the forms of
`pii_calls.py`, whose generator plays it. It may be run and counted; its misses may not be looked
at when the detector is mended, else it is held out no more.

What counts as secret, where opinions differ: every digit of a slip that is put right at once (it
tells all but one digit), what the agent reads back, the characters that explain a name (the whole
of "the bow-and-long Zhang"), a card's security code, and the last digits of an identity number
where they are asked for as proof. Titles and fillers are no secret.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from schemas.events import PiiKind
from tests.enrich.pii_calls import (
    Exchange,
    Form,
    Turn,
    card16,
    digits,
    luhn_digit,
    mobile,
    old_resident_id,
    resident_id,
    ssn,
    us_phone,
)

# How it is said ----------------------------------------------------------------------------------

UNITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = (
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
    "eighteen", "nineteen",
)  # fmt: skip
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
TIMES = {2: "double", 3: "triple"}
NATO = {
    word[0]: word
    for word in (
        "alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india",
        "juliet", "kilo", "lima", "mike", "november", "oscar", "papa", "quebec", "romeo",
        "sierra", "tango", "uniform", "victor", "whiskey", "x-ray", "yankee", "zulu",
    )
}  # fmt: skip
AS_IN = {
    word[0]: word
    for word in (
        "apple", "boy", "cat", "dog", "elephant", "fox", "girl", "house", "ice", "jelly", "king",
        "lemon", "mother", "nancy", "orange", "peter", "queen", "rabbit", "sugar", "tiger",
        "umbrella", "violin", "water", "xylophone", "yellow", "zebra",
    )
}  # fmt: skip
HAN = "零一二三四五六七八九"
YAO = "零幺二三四五六七八九"
RADIO = "洞幺两三四五六拐八勾"


def mark(text: str) -> str:
    return f"⟪{text}⟫"


def one_by_one(number: str, zero: str = "zero") -> str:
    return " ".join(zero if d == "0" else UNITS[int(d)] for d in number)


def doubled(number: str, zero: str = "oh") -> str:
    """Runs of two and three as "double" and "triple"."""
    said: list[str] = []
    at = 0
    while at < len(number):
        run = 1
        while run < 3 and number[at : at + run + 1] == number[at] * (run + 1):
            run += 1
        said.append(" ".join(filter(None, (TIMES.get(run), one_by_one(number[at], zero)))))
        at += run
    return " ".join(said)


def two_digits(pair: str) -> str:
    tens, unit = int(pair[0]), int(pair[1])
    if tens == 0:
        return "double oh" if unit == 0 else f"oh {UNITS[unit]}"
    if tens == 1:
        return TEENS[unit]
    return TENS[tens] if unit == 0 else f"{TENS[tens]}-{UNITS[unit]}"


def by_twos(number: str) -> str:
    return " ".join(two_digits(pair) for pair in parts(number, *[2] * (len(number) // 2)))


def house_number(number: str) -> str:
    """As Americans say it: 1422 is fourteen twenty-two, 405 is four oh five, 300 three hundred."""
    if number.endswith("00"):
        return f"{two_digits(number[:-2].zfill(2)).removeprefix('oh ')} hundred"
    if len(number) % 2:
        head, rest = number[0], number[1:]
        return " ".join(filter(None, (UNITS[int(head)], by_twos(rest) if rest else "")))
    return by_twos(number)


def parts(number: str, *sizes: int) -> list[str]:
    pieces: list[str] = []
    at = 0
    for size in sizes:
        pieces.append(number[at : at + size])
        at += size
    if at < len(number):
        pieces.append(number[at:])
    return pieces


def slip(rng: random.Random, group: str) -> str:
    """The group with one digit misspoken."""
    at = rng.randrange(len(group))
    wrong = rng.choice([d for d in "0123456789" if d != group[at]])
    return group[:at] + wrong + group[at + 1 :]


def han(number: str, names: str = YAO) -> str:
    return "".join(names[int(d)] if d.isdigit() else d for d in number)


def any_han(rng: random.Random, number: str) -> str:
    return rng.choice((number, han(number), han(number, HAN)))


def han_count(number: int) -> str:
    """1 to 99 as a count."""
    tens, unit = divmod(number, 10)
    head = "" if tens == 0 else "十" if tens == 1 else HAN[tens] + "十"
    return head + (HAN[unit] if unit else "")


def joined(pieces: Sequence[str], between: str) -> str:
    return between.join(mark(piece) for piece in pieces)


# Values ------------------------------------------------------------------------------------------

GIVEN_EN = (
    "Tomasz", "Aoife", "Reginald", "Keisha", "Deepika", "Warren", "Leticia", "Magnus", "Yolanda",
    "Clifford", "Shanelle", "Ignacio", "Bethany", "Kenji", "Noor", "Phyllis", "Gareth", "Valentina",
    "Obinna", "Heather", "Vikram", "Joanne", "Desmond", "Katarzyna", "Ruth", "Elliott", "Samira",
    "Trevor", "Camille", "Bjorn",
)  # fmt: skip
SURNAMES_EN = (
    "Wilk", "Donnelly", "Pemberton", "Washington", "Raghunathan", "Buckley", "Ferreira", "Sorensen",
    "Kim", "Hargreaves", "Baptiste", "Villanueva", "Tran", "MacLeod", "Osei", "Rosenbaum",
    "Cartwright", "Mbeki", "Szczepanski", "Lockwood", "Chaudhry", "Baker", "Stone", "Whitfield",
    "De Luca", "Van Houten", "Ito", "Quinlan", "Romero", "Bergstrom",
)  # fmt: skip
SURNAMES_ZH = tuple("张李王陈吴徐赵黄钱孔石姚邵汪毛江史顾侯龚严文尹黎易常武乔贺赖洪")
GIVEN_ZH = (
    "建军", "秀兰", "俊杰", "思远", "佳怡", "桂芳", "海燕", "志强", "一诺", "嘉豪", "淑珍", "晨曦",
    "国栋", "雅琴", "少华", "倩", "凯", "琳", "鹏", "慧敏", "立群", "诗涵", "天宇", "红梅", "浩然",
)  # fmt: skip
BY_PARTS = {
    "张": "弓长张", "李": "木子李", "陈": "耳东陈", "吴": "口天吴", "徐": "双人徐", "章": "立早章",
    "黄": "草头黄", "王": "三横王", "江": "三点水的江", "许": "言午许", "杨": "木易杨",
    "胡": "古月胡", "林": "双木林", "余": "人禾余", "于": "干钩于", "赵": "走肖赵",
}  # fmt: skip
EXPLAINED = {
    "建": "建设的建", "军": "军队的军", "秀": "优秀的秀", "兰": "兰花的兰", "俊": "英俊的俊",
    "杰": "杰出的杰", "思": "思想的思", "远": "远方的远", "佳": "佳节的佳", "怡": "心旷神怡的怡",
    "海": "大海的海", "燕": "燕子的燕", "国": "国家的国", "栋": "栋梁的栋", "晨": "早晨的晨",
    "曦": "晨曦的曦", "鹏": "大鹏的鹏", "琳": "王字旁的琳", "凯": "凯旋的凯", "倩": "单人旁的倩",
}  # fmt: skip
COMPOUND = ("欧阳", "司徒", "慕容", "夏侯", "皇甫", "东方", "令狐")
PINYIN = ("zhang", "lihua", "wangxm", "chenjie", "xiaoyu", "liuyang", "sunlei", "haoran", "huangjq")
HOSTS_EN = ("gmail", "hotmail", "outlook", "yahoo", "icloud", "protonmail")
STREETS_EN = (
    "Larkspur Lane", "Kingsway", "Mill Road", "Quarry Hill", "Juniper Drive", "Station Road",
    "Blackthorn Close", "Bay View Terrace", "Ridgemont Avenue", "Harbour Street", "Church Walk",
    "Cottonwood Court", "East Ninth Street", "Old Post Road", "Magnolia Boulevard",
)  # fmt: skip
TOWNS_US = (
    "Tulsa, Oklahoma", "Fresno, California", "Duluth, Minnesota", "Macon, Georgia",
    "Boise, Idaho", "Toledo, Ohio", "Lowell, Massachusetts",
)  # fmt: skip
TOWNS_UK = ("Reading", "Stockport", "Swansea", "Dundee", "Norwich", "Preston")
CITIES_ZH = (
    "苏州市姑苏区",
    "成都市武侯区",
    "武汉市洪山区",
    "南京市鼓楼区",
    "西安市雁塔区",
    "青岛市市南区",
)
ROADS_ZH = ("人民南路", "解放路", "桃园街", "科技三路", "文昌巷", "滨江大道", "和平西街", "学府路")
ESTATES_ZH = ("翠湖花园", "阳光水岸", "万科城", "金色家园", "紫荆苑", "幸福里小区", "碧桂园")
TOWNS_ZH = ("河口镇", "新塘镇", "双桥乡", "柳林镇")
VILLAGES_ZH = ("李家庄", "大王村", "石桥村", "上湾村", "东坪村")


def en_full(rng: random.Random) -> tuple[str, str]:
    return rng.choice(GIVEN_EN), rng.choice(SURNAMES_EN)


def zh_full(rng: random.Random) -> str:
    return rng.choice(SURNAMES_ZH) + rng.choice(GIVEN_ZH)


def uk_mobile(rng: random.Random) -> str:
    return "07" + digits(rng, 9, "3456789")


def amex(rng: random.Random) -> str:
    body = rng.choice(("34", "37")) + digits(rng, 12)
    return body + luhn_digit(body)


def unionpay(rng: random.Random) -> str:
    body = rng.choice(("622202", "621700", "622848", "621661")) + digits(rng, 12)
    return body + luhn_digit(body)


def postcode_uk(rng: random.Random) -> str:
    letters = "ABDEFGHJLNPQRSTUWXYZ"
    return (
        f"{rng.choice(('RG', 'SK', 'NR', 'PR', 'DD'))}{rng.randrange(1, 20)} "
        f"{rng.randrange(1, 10)}{rng.choice(letters)}{rng.choice(letters)}"
    )


# English: cards ----------------------------------------------------------------------------------


def en_card_with_pauses(rng: random.Random) -> Exchange:
    number = card16(rng)
    groups = [one_by_one(g, rng.choice(("oh", "zero"))) for g in parts(number, 4, 4, 4)]
    return number, [
        ("a", "Whenever you're ready with the long number on the front."),
        ("c", f"Okay so, {joined(groups, rng.choice(('... ', ', um, ', ', and then ')))}."),
    ]


def en_card_corrected(rng: random.Random) -> Exchange:
    number = card16(rng)
    groups = parts(number, 4, 4, 4)
    at = rng.randrange(4)
    said = [mark(one_by_one(g)) for g in groups]
    sorry = rng.choice(("no sorry", "no wait", "sorry, I mean", "oops,", "scratch that,"))
    said[at] = f"{mark(one_by_one(slip(rng, groups[at])))} {sorry} {said[at]}"
    return number, [("c", f"My card is {', '.join(said)}.")]


def en_card_as_pairs(rng: random.Random) -> Exchange:
    number = card16(rng)
    return number, [
        ("a", "And which card would you like to use today?"),
        ("c", f"The Visa, it's {joined([by_twos(g) for g in parts(number, 4, 4, 4)], ', ')}"),
    ]


def en_card_prompted(rng: random.Random) -> Exchange:
    number = card16(rng)
    asks = ("First four digits, please?", "Next four?", "And the next?", "And the last four?")
    turns: list[Turn] = []
    for ask, group in zip(asks, parts(number, 4, 4, 4), strict=True):
        turns += [("a", ask), ("c", mark(rng.choice((group, one_by_one(group), doubled(group)))))]
    return number, turns


def en_card_read_back_wrong(rng: random.Random) -> Exchange:
    number = card16(rng)
    groups = parts(number, 4, 4, 4)
    wrong = [groups[0], groups[1], slip(rng, groups[2]), groups[3]]
    return number, [
        ("c", f"It's {joined([one_by_one(g) for g in groups], ', ')}."),
        ("a", f"Let me repeat that. {joined(wrong, ' ')}."),
        ("c", f"Not quite, the third bit is {mark(one_by_one(groups[2]))}."),
        ("a", f"{mark(groups[2])}, thank you."),
    ]


def en_card_amex(rng: random.Random) -> Exchange:
    number = amex(rng)
    groups = [doubled(g, "zero") for g in parts(number, 4, 6)]
    return number, [
        ("a", "Is it Visa or Mastercard?"),
        ("c", f"Neither, it's an American Express. {joined(groups, ', ')}."),
    ]


def en_card_security_code(rng: random.Random) -> Exchange:
    number, code = card16(rng), digits(rng, 3)
    return number + code, [
        ("c", f"So that's {joined(parts(number, 4, 4, 4), ' ')}."),
        ("a", "Thanks, and the three digits on the back by the signature strip?"),
        ("c", f"Uh, {mark(rng.choice((code, one_by_one(code))))}."),
    ]


def en_card_in_one_breath(rng: random.Random) -> Exchange:
    number = card16(rng)
    cut = rng.randrange(5, 12)
    return number, [
        ("c", f"yeah the debit card hang on {mark(one_by_one(number[:cut], 'oh'))}"),
        ("c", f"{mark(one_by_one(number[cut:], 'oh'))} did you get all that"),
    ]


# English: identity numbers -----------------------------------------------------------------------


def en_ssn_with_dashes(rng: random.Random) -> Exchange:
    number = ssn(rng)
    groups = [one_by_one(g) for g in parts(number, 3, 2)]
    return number, [
        ("a", "For verification I'll need your social."),
        ("c", f"Sure, it's {joined(groups, rng.choice((' dash ', ', dash, ', ' hyphen ')))}."),
    ]


def en_ssn_last_four(rng: random.Random) -> Exchange:
    last = digits(rng, 4)
    return last, [
        ("a", "Can you verify the last four of your social security number?"),
        ("c", f"{mark(rng.choice((last, one_by_one(last, 'oh'), by_twos(last))))}."),
    ]


def en_national_insurance(rng: random.Random) -> Exchange:
    letters, number = rng.choice(("J K", "P B", "N R", "S L")), digits(rng, 6)
    last = rng.choice("ABCD")
    groups = " ".join(by_twos(pair) for pair in parts(number, 2, 2))
    return number, [
        ("a", "Do you have your National Insurance number to hand?"),
        ("c", f"I do, {mark(f'{letters} {groups} {last}')}."),
    ]


def en_passport(rng: random.Random) -> Exchange:
    letter, number = rng.choice("ceghkn"), digits(rng, 8)
    said = f"{letter.upper()} for {NATO[letter].capitalize()}, {one_by_one(number)}"
    return number, [("c", f"The passport number is {mark(said)}, it was issued last year.")]


def en_resident_id(rng: random.Random) -> Exchange:
    number = resident_id(rng)
    tail = number[14:17] + number[17].replace("X", "")
    said = [one_by_one(number[:6]), one_by_one(number[6:14]), one_by_one(tail)]
    if number.endswith("X"):
        said[2] += " and then an X"
    return number, [
        ("a", "We need the number of your Chinese ID card."),
        ("c", f"Right. {joined(said, ', ')}."),
    ]


def en_driving_licence(rng: random.Random) -> Exchange:
    letter, number = rng.choice("bdfms"), digits(rng, 7)
    said = f"{letter.upper()} as in {AS_IN[letter]}, {one_by_one(number, 'oh')}"
    return number, [
        ("a", "And your driver's license number, please?"),
        ("c", f"One second, let me get it out... {mark(said)}."),
    ]


# English: telephone numbers ----------------------------------------------------------------------


def en_phone_uk_doubles(rng: random.Random) -> Exchange:
    number = uk_mobile(rng)
    at = rng.choice((5, 6, 8, 9))
    number = number[: at + 1] + number[at] + number[at + 2 :]
    groups = [doubled(g) for g in parts(number, 5, 3)]
    return number, [
        ("a", "What's the best number for you?"),
        ("c", f"My mobile, {joined(groups, ', ')}."),
    ]


def en_phone_extension(rng: random.Random) -> Exchange:
    number, extension = us_phone(rng), digits(rng, 3, "123456789")
    said = [one_by_one(g) for g in parts(number, 3, 3)]
    return number + extension, [
        (
            "c",
            f"I'm at work until five, so {joined(said, ', ')}, "
            f"{rng.choice(('extension', 'ext', 'and then press'))} {mark(extension)}.",
        ),
    ]


def en_phone_area_code_later(rng: random.Random) -> Exchange:
    number = us_phone(rng)
    return number[3:] + number[:3], [
        ("c", f"You can call me back on {mark(one_by_one(number[3:6]))} {mark(number[6:])}."),
        ("a", "What's the area code there?"),
        ("c", f"Oh sorry, {mark(one_by_one(number[:3]))}."),
    ]


def en_phone_international(rng: random.Random) -> Exchange:
    code, prefix = rng.choice((("44", "7"), ("49", "17"), ("61", "4"), ("33", "6"), ("91", "98")))
    rest = prefix + digits(rng, 10 - len(prefix))
    return code + rest, [
        (
            "c",
            f"It's a foreign number, is that alright? Plus {mark(two_digits(code))}, "
            f"{joined([one_by_one(g) for g in parts(rest, 3, 3)], ', ')}.",
        ),
    ]


def en_phone_hundreds(rng: random.Random) -> Exchange:
    area, exchange = digits(rng, 3, "23456789"), rng.choice("23456789") + "00"
    line = rng.choice("123456789") + "000"
    said = (
        one_by_one(area),
        f"{UNITS[int(exchange[0])]} hundred",
        f"{UNITS[int(line[0])]} thousand",
    )
    return area + exchange + line, [
        ("c", f"Easy one to remember: {joined(said, ', ')}, that's my cell."),
    ]


def en_phone_corrected(rng: random.Random) -> Exchange:
    number = us_phone(rng)
    first, second, third = parts(number, 3, 3)
    return number, [
        ("a", "Can I take a callback number?"),
        (
            "c",
            f"{mark(one_by_one(first))} {mark(one_by_one(second))} "
            f"{mark(one_by_one(slip(rng, third)))}, no, that's my old one, "
            f"{mark(one_by_one(third))} at the end.",
        ),
    ]


def en_phone_confirmed(rng: random.Random) -> Exchange:
    number = us_phone(rng)
    shown = f"({number[:3]}) {number[3:6]}-{number[6:]}"
    return number, [
        ("a", f"I'm seeing {mark(shown)} on file, is that still good?"),
        ("c", rng.choice(("Yep, that's me.", "Still the same.", "That's the one, yes."))),
    ]


def en_phone_of_another(rng: random.Random) -> Exchange:
    number = us_phone(rng)
    who = rng.choice(
        ("my husband", "my daughter", "the neighbour", "my assistant", "the caretaker")
    )
    said = rng.choice((" ".join(parts(number, 3, 3)), doubled(number), by_twos(number)))
    return number, [("c", f"If I don't pick up, try {who}, that's {mark(said)}.")]


def en_phone_in_one_breath(rng: random.Random) -> Exchange:
    number = us_phone(rng)
    cut = rng.choice((3, 6))
    return number, [
        ("c", f"so yeah my number right {mark(one_by_one(number[:cut], 'oh'))}"),
        ("a", "uh huh"),
        ("c", f"{mark(one_by_one(number[cut:], 'oh'))} yeah any time after four is fine"),
    ]


# English: e-mail ---------------------------------------------------------------------------------


def en_email_spelled(rng: random.Random) -> Exchange:
    local = rng.choice(("bkwilk", "hmq", "tdonnelly", "aosei", "jrlock")) + digits(rng, 2)
    host = rng.choice(HOSTS_EN)
    said = f"{' '.join(local[:-2])} {one_by_one(local[-2:])} at {host} dot com"
    return f"{local}@{host}.com", [
        ("a", "Where should I send the receipt?"),
        ("c", f"To {mark(said)}."),
    ]


def en_email_lower_case(rng: random.Random) -> Exchange:
    first, last = (part.lower().replace(" ", "") for part in en_full(rng))
    host = rng.choice(HOSTS_EN)
    said = f"{first} dot {last}"
    return f"{first}.{last}@{host}.com", [
        ("c", f"It's {mark(said)}, all lower case, {mark(f'at {host} dot com')}."),
    ]


def en_email_at_the_rate(rng: random.Random) -> Exchange:
    first = rng.choice(GIVEN_EN).lower()
    year, host = digits(rng, 2), rng.choice(HOSTS_EN)
    said = f"{first} {one_by_one(year)} at the rate {host} dot com"
    return f"{first}{year}@{host}.com", [
        ("a", "Please tell me your mail ID, sir."),
        ("c", f"My mail ID is {mark(said)}."),
    ]


def en_email_phonetic(rng: random.Random) -> Exchange:
    local = "".join(rng.sample("abcdefghklmnprst", 5))
    host = rng.choice(HOSTS_EN)
    spelled = ", ".join(f"{c} for {NATO[c]}" for c in local)
    return f"{local}@{host}.co.uk", [
        ("c", f"Right, I'll spell it. {mark(spelled)}, {mark(f'at {host} dot co dot uk')}."),
    ]


def en_email_host_asked(rng: random.Random) -> Exchange:
    first, last = (part.lower().replace(" ", "") for part in en_full(rng))
    host = rng.choice(HOSTS_EN)
    return f"{first}_{last}@{host}.com", [
        ("c", f"{mark(f'{first} underscore {last}')}."),
        ("a", "And after the at?"),
        ("c", f"{mark(f'{host} dot com')}."),
    ]


def en_email_of_the_firm(rng: random.Random) -> Exchange:
    local = rng.choice(SURNAMES_EN).lower().replace(" ", "")
    firm = rng.choice(("brightwater", "northgate", "tallgrass", "redkite"))
    said = f"{local} at {firm} hyphen {rng.choice(('legal', 'design', 'farms'))} dot"
    ending = rng.choice(("org", "net", "io"))
    address = said.replace(" at ", "@").replace(" hyphen ", "-").replace(" dot", f".{ending}")
    return address, [
        ("a", "Same e-mail as before?"),
        ("c", f"No, use the work one. {mark(f'{said} {ending}')}"),
    ]


def en_email_written(rng: random.Random) -> Exchange:
    address = f"{rng.choice(GIVEN_EN)}.{digits(rng, 3)}@{rng.choice(HOSTS_EN)}.com".lower()
    return address, [
        ("a", f"So I have {mark(address)}, and I'll resend the link now."),
        ("c", rng.choice(("Great.", "Yes please.", "It's not in the spam folder either."))),
    ]


# English: names ----------------------------------------------------------------------------------


def en_name_surname_is(rng: random.Random) -> Exchange:
    first, last = en_full(rng)
    return f"{last} {first}", [
        ("c", f"My surname is {mark(last)}, first name {mark(first)}."),
    ]


def en_name_spelled(rng: random.Random) -> Exchange:
    first, last = en_full(rng)
    letters = rng.choice(("-", " ", ", ")).join(c for c in last.upper() if c.isalpha())
    return f"{first} {last}", [
        ("a", "Who am I speaking with?"),
        ("c", f"{mark(f'{first} {last}')}, that's {mark(letters)}."),
    ]


def en_name_spelled_as_in(rng: random.Random) -> Exchange:
    _, last = en_full(rng)
    spelled = ", ".join(f"{c.upper()} as in {AS_IN[c]}" for c in last.lower() if c.isalpha())
    return last, [
        ("a", "How do you spell your last name?"),
        ("c", f"{mark(spelled)}."),
        ("a", f"Thank you, Ms. {mark(last)}."),
    ]


def en_name_addressed(rng: random.Random) -> Exchange:
    _, last = en_full(rng)
    title = rng.choice(("Mr.", "Mrs.", "Ms.", "Dr.", "Mister", "Miss"))
    line = rng.choice(
        (
            "Thanks for holding, {}, I have an answer for you.",
            "Is there anything else, {}?",
            "{}, I do apologise for the wait.",
        )
    )
    return last, [("a", line.format(f"{title} {mark(last)}"))]


def en_name_of_another(rng: random.Random) -> Exchange:
    first, last = en_full(rng)
    line = rng.choice(
        (
            "I'm calling on behalf of my mother, {}.",
            "The appointment is for my son, {}.",
            "Last week I spoke to a colleague of yours, {} I think it was.",
            "My landlord, {}, said he'd already paid that.",
            "The parcel was signed for by somebody called {}, and nobody of that name lives here.",
        )
    )
    return f"{first} {last}", [("c", line.format(mark(f"{first} {last}")))]


def en_name_maiden(rng: random.Random) -> Exchange:
    maiden, married = rng.sample(SURNAMES_EN, 2)
    return f"{maiden} {married}", [
        ("c", f"It may be under {mark(maiden)}, that was before I got married. Now it's "
              f"{mark(married)}."),
    ]  # fmt: skip


def en_name_bare(rng: random.Random) -> Exchange:
    first, last = en_full(rng)
    ask = rng.choice(("And the name on the account?", "Who's the booking under?", "Your name?"))
    said = rng.choice((f"{first} {last}", f"{first} {last}".lower()))
    return f"{first} {last}", [
        ("a", ask),
        ("c", rng.choice(("{}.", "uh {}", "Yeah, {}.")).format(mark(said))),
    ]


def en_name_first_only(rng: random.Random) -> Exchange:
    first = rng.choice(GIVEN_EN)
    return first, [
        ("a", "May I call you by your first name?"),
        ("c", f"Sure, everybody calls me {mark(first)}."),
        ("a", f"Lovely. So {mark(first)}, what can I do for you today?"),
    ]


# English: addresses ------------------------------------------------------------------------------


def en_address_uk(rng: random.Random) -> Exchange:
    house, street = str(rng.randrange(1, 200)), rng.choice(STREETS_EN)
    said = f"{house} {street}, {rng.choice(TOWNS_UK)}"
    code = postcode_uk(rng)
    return f"{said}, {code}", [
        ("a", "Could I take the first line of your address and the postcode?"),
        ("c", f"{mark(said)}, and the postcode is {mark(code)}."),
    ]


def en_address_unit(rng: random.Random) -> Exchange:
    number = digits(rng, rng.choice((3, 4)), "123456789")
    unit = f"{rng.choice(('apartment', 'unit', 'apt', 'suite'))} {rng.randrange(1, 40)}"
    unit += rng.choice(("", "A", "C", " B"))
    said = f"{number} {rng.choice(STREETS_EN)}, {unit}"
    return said, [("c", f"Please ship it to {mark(said)}, {mark(rng.choice(TOWNS_US))}.")]


def en_address_po_box(rng: random.Random) -> Exchange:
    box, code = digits(rng, rng.choice((3, 4)), "123456789"), digits(rng, 5)
    said = f"{rng.choice(('PO Box', 'P.O. Box', 'post office box'))} {box}"
    rest = f"{rng.choice(TOWNS_US)} {code}"
    return f"{said}, {rest}", [
        ("a", "And your mailing address?"),
        ("c", f"We don't get mail at the house. It's {mark(said)}, {mark(rest)}."),
    ]


def en_address_spoken_number(rng: random.Random) -> Exchange:
    number = digits(rng, rng.choice((3, 4)), "123456789")
    said = f"{house_number(number)} {rng.choice(STREETS_EN).lower()}"
    return said, [("c", f"yeah we live at {mark(said)} it's the blue house on the corner")]


def en_address_over_turns(rng: random.Random) -> Exchange:
    street = f"{rng.randrange(2, 3000)} {rng.choice(STREETS_EN)}"
    town, code = rng.choice(TOWNS_US), digits(rng, 5)
    said = rng.choice((code, one_by_one(code, "oh")))
    return f"{street}, {town} {code}", [
        ("a", "What's the street address?"),
        ("c", f"{mark(street)}."),
        ("a", "City and state?"),
        ("c", f"{mark(town)}."),
        ("a", "And the zip?"),
        ("c", f"{mark(said)}."),
    ]


def en_address_read_back(rng: random.Random) -> Exchange:
    street = f"{rng.randrange(2, 3000)} {rng.choice(STREETS_EN)}"
    town = rng.choice(TOWNS_US)
    return f"{street}, {town}", [
        ("a", f"Am I right that you're still at {mark(f'{street} in {town}')}?"),
        ("c", f"No, we moved out of {mark(street.split(' ', 1)[1])} in the spring."),
    ]


def en_address_village(rng: random.Random) -> Exchange:
    house = rng.choice(("Rose Cottage", "The Old Rectory", "Hilltop Farm", "Orchard House"))
    village = rng.choice(("Little Compton", "Nether Wallop", "Upper Slaughter", "Kirkby Malham"))
    return f"{house}, {village}", [
        ("c", f"There's no number, it's just {mark(house)}, {mark(village)}, "
              "the driver always finds it."),
    ]  # fmt: skip


# Mandarin: cards ---------------------------------------------------------------------------------


def zh_card_with_pauses(rng: random.Random) -> Exchange:
    number = unionpay(rng)
    groups = [han(g) for g in parts(number, 4, 4, 4, 4)]
    between = rng.choice(("……", "，嗯，", "，然后，", "，等一下啊，"))
    return number, [
        ("a", "麻烦您报一下银行卡号"),
        ("c", f"好，{joined(groups, between)}"),
    ]


def zh_card_corrected(rng: random.Random) -> Exchange:
    number = card16(rng)
    groups = parts(number, 4, 4, 4)
    at = rng.randrange(4)
    said = [mark(han(g)) for g in groups]
    sorry = rng.choice(("不对", "哦不是", "说错了", "等等，看错了"))
    said[at] = f"{mark(han(slip(rng, groups[at])))}，{sorry}，{said[at]}"
    return number, [("c", f"卡号是{'，'.join(said)}")]


def zh_card_prompted(rng: random.Random) -> Exchange:
    number = unionpay(rng)
    turns: list[Turn] = [("a", "您慢慢念，我记一下")]
    for group in parts(number, 4, 4, 4, 4):
        turns += [("c", mark(any_han(rng, group))), ("a", rng.choice(("嗯", "继续", "好，接着说")))]
    return number, turns


def zh_card_read_back_wrong(rng: random.Random) -> Exchange:
    number = unionpay(rng)
    groups = parts(number, 6, 4, 4)
    wrong = [*groups[:2], slip(rng, groups[2]), groups[3]]
    return number, [
        ("c", f"{joined([han(g) for g in groups], '，')}"),
        ("a", f"跟您核对一下，{joined([han(g, HAN) for g in wrong], '，')}，对吗"),
        ("c", f"中间不对，是{mark(han(groups[2]))}"),
    ]


def zh_card_in_one_breath(rng: random.Random) -> Exchange:
    number = unionpay(rng)
    cut = rng.randrange(6, 14)
    return number, [
        ("c", f"我那个工行的卡{mark(number[:cut])}"),
        ("c", f"{mark(number[cut:])}你看一下是不是这张"),
    ]


def zh_card_said_twice(rng: random.Random) -> Exchange:
    number = card16(rng)
    said = "".join(f"{mark(han(g))}，{mark(han(g))}，" for g in parts(number, 4, 4, 4))
    return number, [("c", f"信用卡的号码我念两遍啊，{said}好了")]


def zh_card_security_code(rng: random.Random) -> Exchange:
    number, code = card16(rng), digits(rng, 3)
    return number + code, [
        ("c", f"信用卡{mark(number)}"),
        ("a", "卡背面签名栏上的三位数字是多少"),
        ("c", f"{mark(any_han(rng, code))}"),
    ]


# Mandarin: identity numbers ----------------------------------------------------------------------


def zh_id_radio(rng: random.Random) -> Exchange:
    number = resident_id(rng)
    return number, [("c", f"身份证{joined([han(g, RADIO) for g in parts(number, 6, 8)], '，')}")]


def zh_id_ends_in_x(rng: random.Random) -> Exchange:
    number = resident_id(rng)
    while not number.endswith("X"):
        number = resident_id(rng)
    cross = rng.choice(("叉", "艾克斯", "大写的X", "x", "一个叉"))
    groups = [han(number[:6]), han(number[6:14]), han(number[14:17]) + cross]
    return number, [
        ("a", "请说一下您的身份证号码"),
        ("c", f"{joined(groups, rng.choice(('，', '……', ' ')))}"),
    ]


def zh_id_birthday_as_date(rng: random.Random) -> Exchange:
    number = resident_id(rng)
    year, month, day = number[6:10], int(number[10:12]), int(number[12:14])
    born = rng.choice(
        (
            f"{han(year, HAN)}年{han_count(month)}月{han_count(day)}号",
            f"{year}年{month}月{day}日",
        )
    )
    return number, [
        ("c", f"前六位{mark(han(number[:6]))}，然后是我生日，{mark(born)}"),
        ("a", "后四位呢"),
        ("c", f"后四位{mark(any_han(rng, number[14:]))}"),
    ]


def zh_id_fifteen(rng: random.Random) -> Exchange:
    number = old_resident_id(rng)
    return number, [
        ("c", f"我妈还是老的十五位的身份证，{joined([han(g) for g in parts(number, 6, 6)], '，')}"),
    ]


def zh_id_prompted(rng: random.Random) -> Exchange:
    number = resident_id(rng)
    turns: list[Turn] = [("a", "身份证号您报一下，慢一点")]
    for group in parts(number, 3, 3, 4, 4):
        turns += [("c", mark(any_han(rng, group))), ("a", rng.choice(("嗯", "对", "好")))]
    return number, turns


def zh_id_read_back(rng: random.Random) -> Exchange:
    number = resident_id(rng)
    said = number.lower() if rng.random() < 0.5 else number
    return number, [
        ("c", f"{mark(said)}"),
        ("a", f"{joined([han(g, HAN) for g in parts(number, 6, 8)], '，')}，核对无误"),
    ]


def zh_id_last_six(rng: random.Random) -> Exchange:
    number = resident_id(rng)[12:]
    return number, [
        ("a", "为了核实身份，请提供您证件号的后六位"),
        ("c", f"{mark(any_han(rng, number))}"),
    ]


def zh_id_corrected(rng: random.Random) -> Exchange:
    number = resident_id(rng)
    first, second, third = parts(number, 6, 8)
    return number, [
        (
            "c",
            f"{mark(han(first))}，{mark(han(slip(rng, second)))}，不好意思，"
            f"{mark(han(second))}，最后是{mark(han(third))}",
        ),
    ]


def zh_passport(rng: random.Random) -> Exchange:
    number = digits(rng, 8)
    return number, [
        ("a", "您用什么证件登记的"),
        ("c", f"护照，{mark(rng.choice(('E', 'G', 'EA')) + any_han(rng, number))}"),
    ]


# Mandarin: telephone numbers ---------------------------------------------------------------------


def zh_mobile_three_four_four(rng: random.Random) -> Exchange:
    number = mobile(rng)
    groups = parts(number, 3, 4)
    said = rng.choice(("-".join(groups), "，".join(han(g) for g in groups), " ".join(groups)))
    return number, [("c", f"我手机{mark(said)}")]


def zh_mobile_four_three_four(rng: random.Random) -> Exchange:
    number = mobile(rng)
    return number, [
        ("a", "留个联系方式吧"),
        ("c", f"{joined([han(g) for g in parts(number, 4, 3)], rng.choice(('，', ' ', '、')))}"),
    ]


def zh_mobile_runs(rng: random.Random) -> Exchange:
    head, run, tail = mobile(rng)[:4], rng.choice("23456789"), digits(rng, 4)
    number = head + run * 3 + tail
    return number, [("c", f"很好记的，{mark(f'{han(head)}三个{HAN[int(run)]}{han(tail)}')}")]


def zh_landline(rng: random.Random) -> Exchange:
    area = rng.choice(("0512", "0755", "010", "021", "0371"))
    number = digits(rng, 8, "2345678")
    return area + number, [
        ("c", f"家里座机，区号{mark(any_han(rng, area))}，{mark(any_han(rng, number))}"),
    ]


def zh_landline_extension(rng: random.Random) -> Exchange:
    number, extension = digits(rng, 8, "2345678"), digits(rng, rng.choice((3, 4)), "123456789")
    return number + extension, [
        ("a", "您公司电话多少"),
        ("c", f"{mark(any_han(rng, number))}转{mark(any_han(rng, extension))}"),
    ]


def zh_mobile_corrected(rng: random.Random) -> Exchange:
    number = mobile(rng)
    first, second, third = parts(number, 3, 4)
    return number, [
        (
            "c",
            f"{mark(han(first))}，{mark(han(slip(rng, second)))}，错了错了，"
            f"{mark(han(second))}，{mark(han(third))}",
        ),
    ]


def zh_mobile_confirmed(rng: random.Random) -> Exchange:
    number = mobile(rng)
    said = rng.choice((number, han(number, HAN), " ".join(parts(number, 3, 4))))
    return number, [
        ("a", f"您预留的是{mark(said)}，尾号{mark(number[-4:])}还在用吗"),
        ("c", rng.choice(("在用", "一直用着呢", "对的"))),
    ]


def zh_mobile_of_another(rng: random.Random) -> Exchange:
    number = mobile(rng)
    who = rng.choice(("我老婆", "我儿子", "楼下邻居", "我们单位会计", "我妈"))
    return number, [("c", f"打不通的话你就打{who}的，{mark(any_han(rng, number))}")]


def zh_mobile_prompted(rng: random.Random) -> Exchange:
    number = mobile(rng)
    first, second, third = (any_han(rng, g) for g in parts(number, 3, 4))
    return number, [
        ("c", mark(first)),
        ("a", "嗯"),
        ("c", mark(second)),
        ("c", f"呃，{mark(third)}"),
        ("a", f"最后是{mark(third)}是吧"),
    ]


def zh_phone_international(rng: random.Random) -> Exchange:
    code, number = rng.choice((("852", digits(rng, 8, "569")), ("86", mobile(rng))))
    return code + number, [
        ("c", f"要加国际区号的，加{mark(han(code))}，{mark(any_han(rng, number))}"),
    ]


# Mandarin: e-mail --------------------------------------------------------------------------------


def zh_email_qq(rng: random.Random) -> Exchange:
    number = digits(rng, rng.choice((8, 9, 10)), "123456789")
    said = f"{any_han(rng, number)}{rng.choice(('艾特', '@', ' at '))}qq点com"
    return f"{number}@qq.com", [
        ("a", "电子发票发到哪个邮箱"),
        ("c", f"qq邮箱，{mark(said)}"),
    ]


def zh_email_qq_number_only(rng: random.Random) -> Exchange:
    number = digits(rng, rng.choice((9, 10)), "123456789")
    return f"{number}@qq.com", [
        ("c", f"你发我QQ邮箱就行，就是我的QQ号，{mark(any_han(rng, number))}"),
    ]


def zh_email_163(rng: random.Random) -> Exchange:
    local, year = rng.choice(PINYIN), digits(rng, 4)
    return f"{local}{year}@163.com", [
        ("c", f"{mark(f'{local}{han(year)}')}，{mark('艾特幺六三点康姆')}"),
    ]


def zh_email_underscore(rng: random.Random) -> Exchange:
    local, tail = rng.choice(PINYIN), digits(rng, 2)
    host = rng.choice(("126", "sina", "foxmail", "outlook"))
    return f"{local}_{tail}@{host}.com", [
        ("a", "邮箱地址麻烦说一下"),
        ("c", f"{mark(f'{local} 下划线 {tail}')}，小写的，然后{mark(f'圈a {host} 点com')}"),
    ]


def zh_email_letters(rng: random.Random) -> Exchange:
    local = rng.choice(PINYIN)
    return f"{local}@gmail.com", [
        ("c", f"我给您拼一下，{mark(' '.join(local.upper()))}，{mark('at gmail 点 com')}"),
    ]


def zh_email_confirmed(rng: random.Random) -> Exchange:
    address = f"{rng.choice(PINYIN)}{digits(rng, 3)}@{rng.choice(('163', '126', 'sina'))}.com"
    return address, [
        ("a", f"合同已经发到{mark(address)}了，您查收一下"),
        ("c", "好的我看看，可能在垃圾箱里"),
    ]


def zh_email_dot_cn(rng: random.Random) -> Exchange:
    local = rng.choice(PINYIN)
    firm = rng.choice(("huaxin", "tianyuan", "dongfeng"))
    return f"{local}@{firm}.com.cn", [
        ("c", f"公司邮箱，{mark(f'{local}艾特{firm}点com点cn')}，全部小写"),
    ]


# Mandarin: names ---------------------------------------------------------------------------------


def zh_name_by_parts(rng: random.Random) -> Exchange:
    surname = rng.choice(tuple(BY_PARTS))
    return surname, [
        ("a", "请问您贵姓"),
        ("c", f"免贵姓{mark(surname)}，{mark(BY_PARTS[surname])}"),
        ("a", f"{mark(surname)}{rng.choice(('先生', '女士', '小姐'))}您好"),
    ]


def zh_name_by_parts_only(rng: random.Random) -> Exchange:
    surname = rng.choice(tuple(BY_PARTS))
    return surname, [("a", "您怎么称呼"), ("c", f"{mark(BY_PARTS[surname])}")]


def zh_name_explained(rng: random.Random) -> Exchange:
    surname = rng.choice(SURNAMES_ZH)
    given = "".join(rng.sample(tuple(EXPLAINED), rng.choice((1, 2))))
    said = "，".join(mark(EXPLAINED[c]) for c in given)
    return surname + given, [("c", f"我叫{mark(surname + given)}，{said}")]


def zh_name_addressed(rng: random.Random) -> Exchange:
    surname = rng.choice(SURNAMES_ZH)
    title = rng.choice(("先生", "女士", "小姐", "总", "老师", "阿姨"))
    line = rng.choice(("{}，让您久等了", "好的{}，我这边帮您登记了", "{}您看这样处理可以吗"))
    return surname, [("a", line.format(mark(surname) + title))]


def zh_name_of_another(rng: random.Random) -> Exchange:
    name = zh_full(rng)
    line = rng.choice(
        (
            "房子是我先生的名字，{}",
            "我是帮我父亲问的，他叫{}",
            "上次是你们一个叫{}的师傅来修的",
            "我同事{}也买了这款，她的就没问题",
            "签收人写的是{}，可我们家没这个人",
        )
    )
    return name, [("c", line.format(mark(name)))]


def zh_name_confirmed(rng: random.Random) -> Exchange:
    name = zh_full(rng)
    return name, [
        ("a", f"请问是{mark(name)}{rng.choice(('本人吗', '先生吗', '女士吗', ''))}"),
        ("c", rng.choice(("是我", "对，我是", "嗯，什么事"))),
    ]


def zh_name_compound(rng: random.Random) -> Exchange:
    name = rng.choice(COMPOUND) + rng.choice(GIVEN_ZH)
    return name, [("c", f"开户的名字是{mark(name)}，复姓")]


def zh_name_bare(rng: random.Random) -> Exchange:
    name = zh_full(rng)
    ask = rng.choice(("姓名", "您的名字是", "登记人是哪位", "请说一下开户人姓名"))
    return name, [("a", ask), ("c", rng.choice(("{}", "呃{}", "{}啊")).format(mark(name)))]


def zh_name_of_receiver(rng: random.Random) -> Exchange:
    name = zh_full(rng)
    return name, [("c", f"收件人你写{mark(name)}，别写我的")]


# Mandarin: addresses -----------------------------------------------------------------------------


def zh_address_estate(rng: random.Random) -> Exchange:
    estate = rng.choice(ESTATES_ZH)
    block, unit = rng.randrange(1, 30), rng.randrange(1, 5)
    room = f"{rng.randrange(1, 30)}0{rng.randrange(1, 5)}"
    rest = rng.choice(
        (
            f"{block}栋{unit}单元{room}室",
            f"{han_count(block)}栋{han_count(unit)}单元{han(room)}",
            f"{block}号楼{unit}单元{room}",
        )
    )
    return estate + rest, [
        ("a", "师傅上门的地址是"),
        ("c", f"{mark(rng.choice(CITIES_ZH) + estate + rest)}"),
    ]


def zh_address_road(rng: random.Random) -> Exchange:
    number = rng.randrange(1, 900)
    said = f"{rng.choice(CITIES_ZH)}{rng.choice(ROADS_ZH)}{number}号"
    return said, [("c", f"我现在住在{mark(said)}，就在地铁口旁边")]


def zh_address_village(rng: random.Random) -> Exchange:
    said = f"{rng.choice(TOWNS_ZH)}{rng.choice(VILLAGES_ZH)}{han_count(rng.randrange(1, 12))}组"
    said += rng.choice(("", f"{rng.randrange(2, 90)}号"))
    return said, [("c", f"我们是农村的，{mark(said)}，快递不送到家的")]


def zh_address_over_turns(rng: random.Random) -> Exchange:
    city, road = rng.choice(CITIES_ZH), rng.choice(ROADS_ZH)
    number, room = str(rng.randrange(1, 500)), digits(rng, 3, "123456789")
    return f"{city}{road}{number}号{room}", [
        ("a", "您的收货地址是哪里"),
        ("c", mark(city)),
        ("a", "具体的街道门牌呢"),
        ("c", f"{mark(f'{road}{number}号')}"),
        ("a", "几室"),
        ("c", f"{mark(any_han(rng, room))}"),
    ]


def zh_address_read_back(rng: random.Random) -> Exchange:
    said = f"{rng.choice(CITIES_ZH)}{rng.choice(ROADS_ZH)}{rng.randrange(1, 500)}号"
    estate = f"{rng.choice(ESTATES_ZH)}{rng.randrange(1, 20)}幢{digits(rng, 3, '123456789')}"
    return f"{said}{estate}", [
        ("a", f"系统里登记的是{mark(said)}"),
        ("c", f"不是，搬了，现在是{mark(estate)}"),
        ("a", f"好的，改成{mark(estate)}"),
    ]


def zh_address_postcode(rng: random.Random) -> Exchange:
    said = f"{rng.choice(CITIES_ZH)}{rng.choice(ROADS_ZH)}{rng.randrange(1, 300)}号"
    code = digits(rng, 6, "123456")
    return f"{said} {code}", [
        ("c", f"发票寄到{mark(said)}，邮编{mark(any_han(rng, code))}"),
    ]


def zh_address_office(rng: random.Random) -> Exchange:
    tower = rng.choice(("国贸大厦", "创新中心", "银河广场", "世纪大楼"))
    said = f"{tower}{rng.choice('ABC')}座{rng.randrange(3, 40)}楼{digits(rng, 4, '123')}室"
    return said, [("a", "送到哪里"), ("c", f"送我公司吧，{mark(said)}，前台收就行")]


HELD_OUT: dict[str, dict[PiiKind, tuple[Form, ...]]] = {
    "en": {
        PiiKind.CARD_NUMBER: (
            en_card_with_pauses, en_card_corrected, en_card_as_pairs, en_card_prompted,
            en_card_read_back_wrong, en_card_amex, en_card_security_code, en_card_in_one_breath,
        ),
        PiiKind.ID_NUMBER: (
            en_ssn_with_dashes, en_ssn_last_four, en_national_insurance, en_passport,
            en_resident_id, en_driving_licence,
        ),
        PiiKind.PHONE: (
            en_phone_uk_doubles, en_phone_extension, en_phone_area_code_later,
            en_phone_international, en_phone_hundreds, en_phone_corrected, en_phone_confirmed,
            en_phone_of_another, en_phone_in_one_breath,
        ),
        PiiKind.EMAIL: (
            en_email_spelled, en_email_lower_case, en_email_at_the_rate, en_email_phonetic,
            en_email_host_asked, en_email_of_the_firm, en_email_written,
        ),
        PiiKind.NAME: (
            en_name_surname_is, en_name_spelled, en_name_spelled_as_in, en_name_addressed,
            en_name_of_another, en_name_maiden, en_name_bare, en_name_first_only,
        ),
        PiiKind.ADDRESS: (
            en_address_uk, en_address_unit, en_address_po_box, en_address_spoken_number,
            en_address_over_turns, en_address_read_back, en_address_village,
        ),
    },
    "zh": {
        PiiKind.CARD_NUMBER: (
            zh_card_with_pauses, zh_card_corrected, zh_card_prompted, zh_card_read_back_wrong,
            zh_card_in_one_breath, zh_card_said_twice, zh_card_security_code,
        ),
        PiiKind.ID_NUMBER: (
            zh_id_radio, zh_id_ends_in_x, zh_id_birthday_as_date, zh_id_fifteen, zh_id_prompted,
            zh_id_read_back, zh_id_last_six, zh_id_corrected, zh_passport,
        ),
        PiiKind.PHONE: (
            zh_mobile_three_four_four, zh_mobile_four_three_four, zh_mobile_runs, zh_landline,
            zh_landline_extension, zh_mobile_corrected, zh_mobile_confirmed,
            zh_mobile_of_another, zh_mobile_prompted, zh_phone_international,
        ),
        PiiKind.EMAIL: (
            zh_email_qq, zh_email_qq_number_only, zh_email_163, zh_email_underscore,
            zh_email_letters, zh_email_confirmed, zh_email_dot_cn,
        ),
        PiiKind.NAME: (
            zh_name_by_parts, zh_name_by_parts_only, zh_name_explained, zh_name_addressed,
            zh_name_of_another, zh_name_confirmed, zh_name_compound, zh_name_bare,
            zh_name_of_receiver,
        ),
        PiiKind.ADDRESS: (
            zh_address_estate, zh_address_road, zh_address_village, zh_address_over_turns,
            zh_address_read_back, zh_address_postcode, zh_address_office,
        ),
    },
}  # fmt: skip


# Talk --------------------------------------------------------------------------------------------

HELD_OUT_TALK: dict[str, tuple[str, ...]] = {
    "en": tuple(
        """
c:I ordered three of the blue ones and two of the grey on the fourteenth.
a:That order went out on Tuesday the nineteenth at four fifteen in the afternoon.
c:My order number is four oh two two eight.
a:Order 40228 has two items in it, and one is on back order.
c:The tracking number you gave me is 1Z 999 AA1 0123 4567 84.
a:I can see parcel 9400 1118 9956 0123 left the depot at six thirty.
c:It says reference AB-20931 on the letter.
a:Your case number is 7 7 0 1 4 2, please keep it for next time.
c:It was nineteen ninety-nine, now it's twenty-four ninety-nine, for the same thing.
a:That comes to one hundred and twelve dollars and forty cents with tax.
c:You took two thousand three hundred and fifty out instead of two thirty-five.
a:The refund of $1,284.50 takes five to seven business days.
c:I've been on hold for twenty-five minutes, and before that for forty.
a:We're open nine to five, Monday through Friday, and ten to two on Saturdays.
c:I called on May fifth, then again on May twelfth, then on June first.
a:The warranty runs from the first of March 2023 to the last of February 2026.
c:It's the model WH-1000XM5, the black one.
a:Is that the RTX 4090 or the 4080 Super?
c:The part number on the back is 5304 475 102.
a:The firmware should read 12.4.1 build 20931.
c:The serial starts with C02 and then I can't read the rest.
a:Please hold the power button for ten seconds, then count one two three four five.
c:I pressed one, then three, then nine, and it threw me out.
a:For billing press two, for repairs press three, for everything else press zero.
c:Testing, one two, one two, can you hear me?
a:You'll see a progress bar go from zero to one hundred.
c:We were in room 1204 and the air conditioning was broken.
a:Room fourteen twelve is free, it's on the fourteenth floor with a view of the harbor.
c:Our flight is BA 286, leaving from gate B22 at seven forty.
a:Flight two eighty-six is delayed by three hours and ten minutes.
c:I had seat 14C and they moved me to 31B.
a:Your train leaves from platform nine at eleven oh five.
c:I'm flying to Denver on Thursday and to Phoenix on Sunday.
a:Is the pickup at the airport in Orlando or downtown?
c:We used to live near Chicago, but that was years ago.
a:Shipping to Alaska and Hawaii takes a little longer.
c:I bought it in the Boston store, not online.
a:The Charlotte branch closed last year, the nearest is in Raleigh.
c:Is there a store in Jackson or do I have to go to Memphis?
a:The warehouse in Houston has eleven left, Dallas has none.
c:My cousin had the same trouble in Victoria.
a:We have a big sale in our Lincoln and Madison stores this weekend.
c:It's like Newton's laws, what goes up must come down.
a:The Shakespeare festival tickets are sold out, I'm afraid.
c:The one with the picture of Einstein on the box.
a:The Lincoln exhibition opens at ten.
c:They say Edison tried a thousand times.
a:It is the Van Gogh museum you'll want to book, not the Rembrandt house.
c:I saw the Martin Luther King holiday isn't on your list.
a:Columbus Day is a holiday, so the office is closed.
c:I read about it in a book on Napoleon.
a:The ticket covers the Mozart and the Beethoven evening.
c:I have a Johnson and Johnson product here and the seal is broken.
a:Is it the Ford or the Mercedes that you'd like to insure?
c:Wells Fargo told me the transfer went through on their side.
a:Have you tried it with a Dell monitor instead?
c:Wendy's and Trader Joe's both take it, why don't you?
a:It can be redeemed at Macy's, Kohl's and Lowe's.
c:I got it at Levi's, the 501 in thirty-two thirty-four.
a:The Harley Davidson cover comes in large and extra large.
c:Can I pay with Klarna or with Alexa?
a:Just say hey Siri, or open the Jenkins page on the server.
c:The Morgan Stanley people said to ask you.
a:That's an Abercrombie gift card, it can't be used here.
c:I asked Alexa and she said it's out of stock.
a:It's the Stanley cup, forty ounces, in rose.
c:May I ask why this takes so long?
a:I will grant you that, it's faster in April than in June.
c:Bill me later, please, I'll mark it in my calendar.
a:The bill for August is already paid.
c:I just hope you will be frank with me.
a:To be frank, the basic plan is rich enough for most.
c:What's the catch, is there a rider on this?
a:Our rose and ivy collection is on page ninety-two.
c:This is ridiculous.
a:This is about the delivery you asked us to trace.
c:I'm calling about the washing machine again.
a:I'm just pulling up your account now.
c:I'm sorry, I'm not following you.
a:I'm afraid that's not covered.
c:It's me again, we talked earlier.
a:My name badge says trainee, so please bear with me.
c:What name did you file it under?
a:There's no name on the parcel at all.
c:I don't want to give my name.
a:You don't have to spell anything, I have it here.
c:How do you spell the name of the plan?
a:It's spelled with a k, kwik, k w i k.
c:It's P L U S, plus, not pro.
a:A as in apple comes first on the keypad.
c:I filled in form ten ninety-nine, not ten forty.
a:You need the W-2 and the 1040, both for 2022.
c:It's in section 4.2 of the contract, page seventeen.
a:Clause eleven, paragraph three says thirty days.
c:My rate went from three point five to six point seven five percent.
a:At the rate of four percent that is about sixty a month.
c:I pay fifty-nine a month for two hundred megabits.
a:You have 512 gigabytes, and 380 are used.
c:It measured 220 volts and then dropped to 190.
a:The tank holds fifteen gallons, that is about fifty-seven liters.
c:The couch is eighty-four by thirty-six by thirty-three.
a:The rug comes in five by eight, eight by ten, and nine by twelve.
c:I run about six miles in fifty-two minutes.
a:The temperature should stay between sixty-eight and seventy-two.
c:My score was 742 and they still said no.
a:We scored four point eight out of five with 12,000 reviews.
c:The odometer says one hundred and four thousand three hundred.
a:It's good for 60,000 miles or five years.
c:I was number thirty-eight in the line.
a:You are caller number four.
c:There were 1,500 people at the wedding, or it felt so.
a:The hall seats two hundred and forty.
c:I've got points, thirty-two thousand five hundred of them.
a:You'd need 45,000 points for the upgrade.
c:The code you texted me ran out before I could type it.
a:Use coupon SAVE20 when you check out.
c:The promo says SPRING 2024 but it isn't accepted.
a:The error is E-04, it means the door is not shut.
c:It shows error 0x80070057 every time.
a:Error four oh four means the page isn't there.
c:The light blinks three times, stops, then blinks twice.
a:The IP should be something like 192.168.1.1.
c:Port 8080 is taken, so I used 8443.
a:Version 3.11.4 fixes that.
c:I bought it on amazon dot com last year.
a:You can find it at acme dot com slash help.
c:Your site says dot com but it goes to dot net.
a:Look at our website under contact us.
c:I never got the email.
a:We'll send an email when it ships.
c:I don't have email, can you write to me instead?
a:Which email would you rather use, work or home?
c:Does it have to be gmail or does any account do?
a:Just put an at sign in front to tag someone.
c:I looked at it at home at eight at night.
a:The underscore is next to the zero on your keyboard.
c:I've been with you since nineteen ninety-eight.
a:In two thousand and nine we changed the system.
c:The house was built in 1887.
a:That was before the crash of twenty-nine.
c:It's twenty twenty-five and you still send faxes.
a:The meeting is at one thirty, then another at two fifteen.
c:Between ten and noon, or after half past three.
a:A technician will come on the 22nd between 8 and 12.
c:I waited from seven until nine fifteen, nobody came.
a:I'll call you at two, or at two thirty at the latest.
c:Wall Street was down again, so I want to sell.
a:It's showing on Broadway until January.
c:We watched Sesame Street on that TV for years.
a:The Abbey Road album is out of print.
c:It's right across the street from you.
a:The road was closed, so the driver turned around.
c:We drove down the avenue twice and saw no sign.
a:Let me address that first.
c:You never addressed my complaint.
a:We have your address on file, there's no need to repeat it.
c:I don't want to go down that road again.
a:That lane of the pool is closed on Mondays.
c:The unit was dented on the side.
a:Each unit is tested for forty-eight hours.
c:The apartment was smaller than in the pictures.
a:A suite has two rooms, and the floor is heated.
c:I opened the box and the box was empty.
a:The block of text at the bottom says it all.
c:I tried calling 911 but it wasn't an emergency.
a:Dial star six nine, then hang up.
c:It's a twenty-four seven line, you said.
a:It's fifty fifty whether it gets there by Friday.
c:Give me a second, one sec.
a:Take one tablet twice a day for ten days.
c:The Boeing 737 or the Airbus 320, I don't remember which.
a:You'll be on the 6, then change for the 42 bus.
c:I need sizes eight, eight and a half and nine.
a:We have a 6 pack, a 12 pack and a 24 pack.
c:Aisle seven, bay three, bottom shelf.
a:Pick up at counter number five, locker 118.
c:The iPhone 15 Pro Max in titanium, 256.
a:The Galaxy S24 Ultra is 1,299 without a plan.
c:It's a 2019 Honda Civic with the one point five engine.
a:That's ISBN 978 0 14 143951 8.
c:The barcode is 5 012345 678900.
a:SKU 88214 is the left hand one.
c:Lot number 2 2 0 9 1 4, expires in November.
a:Batch 33 7 was recalled, yours is batch 34.
c:My meter reading is zero four five eight one two.
a:Last month it read forty-four thousand nine hundred and six.
c:Half the country uses it, three hundred million people.
a:One in four customers asks that.
c:Two, four, six, eight, that makes twenty.
a:Five, ten, fifteen, twenty dollars is your change.
""".strip().splitlines()
    ),
    "zh": tuple(
        """
c:我十四号下的单，买了三件蓝的两件灰的
a:这边看到是十九号下午四点一刻发的货
c:订单号是四零二二八
a:订单40228里面有两样东西，一样还缺货
c:快递单号是SF1420385720156
a:运单号7 3 1 2 0 0 4 5 8 9 1 2 3，已经到中转站了
c:信上写的编号是A二零九三一
a:您的工单号是770142，请您记一下
c:上个月九十九，这个月一百二十九，东西一模一样
a:总共是一千二百八十四块五毛
c:本来该扣二百三十五，你们扣了我两千三百五
a:退款三到七个工作日原路退回
c:我等了二十五分钟，之前还等了四十分钟
a:我们周一到周五早上九点到下午六点上班
c:五月五号我打过，五月十二又打过一次
a:保修期是二零二三年三月一号到二零二六年二月底
c:型号是KFR-35GW，一级能效的
a:您买的是小米14还是小米14 Pro
c:背面写着零件号5304475102
a:固件版本是十二点四点一
c:序列号前面是C02，后面磨掉了看不清
a:请您长按十秒，数一二三四五
c:我按了一，又按了三，再按九就断了
a:查话费请按二，报故障请按三，人工服务请按零
c:喂喂，一二三，听得到吗
a:进度条会从零走到一百
c:我们住1204房间，空调一直是坏的
a:1412是大床房，在十四楼，可以看江
c:航班是CA1831，七点四十起飞
a:国航一八三一晚点三个小时十分钟
c:我本来是14C，给我换到31B了
a:G1024次，十一点零五分，九号站台
c:我周四去成都，周日到重庆
a:您是在浦东机场取车还是在市区取
c:我们以前在北京住过，好多年前了
a:新疆西藏要加运费，大概晚两天
c:我是在南京店里买的，不是网上
a:苏州那家店去年关了，最近的在无锡
c:长沙有没有门店，还是得去武汉
a:广州仓还有十一台，深圳没有了
c:我表妹在杭州也碰到一样的问题
a:这个周末西安和郑州都有活动
c:跟牛顿说的一样，有上就有下
a:李白那套书已经卖完了
c:盒子上印着爱因斯坦的那款
a:秦始皇陵的票要提前一天订
c:孔子都说过嘛，言必信
a:故宫的票是六十，珍宝馆另外十块
c:我小孩要背杜甫的诗，就买你们这个点读笔
a:鲁迅故居周一闭馆
c:诸葛亮也算不到你们今天又涨价
a:岳飞那集在第十八集
c:曹操都没你们来得快
a:王者荣耀的点券是不能退的
c:我买的是王老吉，不是加多宝
a:您要的是张小泉的菜刀还是王麻子的
c:李宁的鞋，四十二码半
a:陈麻花一盒十二块，三盒三十
c:周大福那边说可以换的
a:周黑鸭满一百减二十
c:老干妈的瓶子碎了
a:马应龙的在第三排货架
c:我在沃尔玛买的，永辉也有卖
a:这个券在麦当劳和肯德基都能用
c:平安保险叫我来问你们的
a:招商银行那边已经放款了
c:中国移动说是你们的问题
a:华为Mate60没有现货
c:小度小度，打开空调，它没反应
a:您对着天猫精灵说一声就行
c:小爱同学怎么老是听错
a:您说一句嘿西瑞试试
c:我是你们的老客户了
a:我是这边的客服，请讲
c:我姓什么跟这个有关系吗
a:麻烦问一下您贵姓
c:我不想留名字
a:包裹上面没有写名字
c:你们这个叫什么服务来着
a:这个叫畅享套餐
c:那个师傅态度很好，表扬一下
a:师傅今天下午会联系您
c:经理呢，叫你们经理来
a:主任现在在开会
c:老板你好，我要两斤
a:先生您稍等，我帮您查一下
c:女士优先嘛，我懂
a:这位女士之前也反映过
c:高兴什么呀，我都等三天了
a:常见的原因有三个
c:万一又坏了呢
a:方便的话明天上午给您送
c:时间都耽误了，谁赔我
a:金额没有错，是含税的
c:白天我不在家，晚上七点以后
a:向您说明一下，这个是不保的
c:于是我就把它拆了
a:程序上需要三天
c:谢谢啊，麻烦你了
a:安全方面您放心
c:我填的是附表三，不是附表一
a:合同第四条第二款，在十七页
c:利率从三点五涨到六点七五了
a:年化百分之四点二，一个月大概六十块
c:两百兆宽带一个月五十九
a:您一共512个G，用了380
c:电压二百二，一下子掉到一百九
a:水箱是五十七升的
c:沙发两米一乘九十，高八十五
a:地毯有一米六乘二米三的，也有两米乘三米的
c:我五公里跑二十八分钟
a:温度建议二十到二十六度
c:评分才六百一十二，就不批
a:我们有一万两千条好评
c:车跑了十万四千三百公里
a:保六万公里或者五年
c:我排到第三十八号
a:前面还有四位在等待
c:婚宴一千五一桌，二十桌
a:大厅能坐两百四十个人
c:我有三万两千五百积分
a:升舱要四万五千积分
c:你们发的验证码过期了
a:下单的时候输优惠码SAVE20
c:活动写的是双十一，怎么双十二还没到
a:报错E04，是门没关好
c:老是显示0x80070057
a:四零四就是页面不存在
c:灯闪三下，停一下，再闪两下
a:地址栏输192.168.1.1
c:8080端口被占了，我换成8443
a:升到三点一一点四就好了
c:我在京东点com上看到的
a:您登录官网，3w点什么点com
c:网址到底是点com还是点cn
a:在首页点联系我们
c:我没收到邮件
a:发货的时候会给您发邮件
c:我没有邮箱，能不能寄纸的
a:您要用qq邮箱还是企业邮箱
c:一定要163的吗，别的行不行
a:在群里艾特一下管理员
c:下划线在哪里，我找不到那个键
a:减号旁边那个，按住上档键
c:我九八年就用你们的了
a:零九年换过一次系统
c:房子是一九八七年盖的
a:零八年奥运会那会儿
c:都二零二五年了还要传真
a:会议一点半，下一场两点一刻
c:十点到十二点，或者三点半以后
a:二十二号上午八点到十二点师傅上门
c:我从七点等到九点一刻，没人来
a:两点给您回电，最晚两点半
c:南京路步行街那边人太多了
a:长安街那天会封路
c:去过丝绸之路吗，就那一趟
a:一带一路的展会在十月
c:就在你们店对面的马路上
a:前面修路，车绕了一下
c:那条街走了两遍都没看到招牌
a:我们这栋楼的电梯在检修
c:你们小区团购还有吗
a:小区门口有自提柜
c:这个单元讲的是乘法
a:第三单元第五课，在四十二页
c:室内用还是室外用
a:室外机在阳台上，离地两米
c:农村的房子能不能装
a:村里统一报名就可以
c:地址你们那边有，不用再说了
a:您的地址我们有登记
c:打了110，说不归他们管
a:您可以拨12345反映
c:我打10086打了三次
a:收到95588发的短信都可以信
c:你们二十四小时都有人吗
a:七乘二十四小时都在线
c:一半一半吧，五五开
a:一天两次，一次一片，吃十天
c:波音737还是空客320，我不记得了
a:您坐六路，再转四十二路
c:三十八码、三十九码、四十码各一双
a:六瓶装、十二瓶装、二十四瓶装都有
c:第七排第三格最下面
a:五号柜台取，柜子是118
c:苹果15 Pro Max，256的
a:不合约的话六千九百九十九
c:一九款的思域，一点五的
a:书号是978 7 02 000220 7
c:条形码6 901234 567892
a:货号88214是左边的
c:批号220914，十一月到期
a:三三七批召回了，您这是三三八
c:电表读数是零四五八一二
a:上个月是四万四千九百零六
c:全国十四亿人都在用
a:四个客户里就有一个问这个
c:二四六八，一共二十
a:五块十块十五，找您二十
c:股票六零零五一九又跌了
a:基金代码一一零零二二，今天净值一点八三
c:尾款三千八百八十八
a:定金是六百六十六，图个吉利
c:拐到第二个路口就是你们店吧
a:这个零件两头都是八毫米
""".strip().splitlines()
    ),
}
"""Lines without a secret that look as if they held one. Some hold long numbers of things (orders,
parcels, parts), which a policy that looks for long numbers rightly finds: the figure that counts is
that of the usual policy."""
