"""Names of people in what was said, English and Mandarin, by their context and by short lists."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from schemas.events import PiiKind
from services.enrich.numerals import FILLERS, HAN, LETTER, Token, is_han, word_set
from services.enrich.pii_call import Call, Span

FIRST_NAMES = word_set(
    """james mary robert patricia john jennifer michael linda david elizabeth william barbara
    richard susan joseph jessica thomas sarah charles karen christopher lisa daniel nancy
    matthew betty anthony margaret donald sandra steven ashley paul kimberly andrew emily joshua
    donna kenneth michelle kevin carol brian amanda george dorothy timothy melissa ronald
    deborah edward stephanie jason rebecca jeffrey sharon ryan laura jacob cynthia gary kathleen
    nicholas amy eric angela jonathan shirley stephen anna larry brenda justin pamela scott emma
    brandon nicole benjamin helen samuel samantha gregory katherine alexander christine patrick
    debra frank rachel raymond carolyn jack janet dennis catherine jerry maria tyler heather
    aaron diane jose ruth adam julie nathan olivia henry joyce douglas virginia zachary victoria
    peter kelly kyle lauren ethan christina walter joan noah evelyn jeremy judith christian
    megan keith andrea roger cheryl terry hannah gerald jacqueline harold martha sean gloria
    austin teresa carl ann arthur sara lawrence madison dylan frances jesse kathryn jordan
    janice bryan jean billy abigail joe alice bruce julia gabriel judy logan sophia alan juan
    denise wayne amber roy doris ralph marilyn randy danielle eugene beverly vincent isabella
    russell theresa elijah diana louis natalie bobby brittany philip charlotte johnny marie
    kayla howard alexis mike steve dave tom bob jim bill chris matt tony greg jeff ben sam alex
    nick kate katie liz beth sue ann anne jenny jill wendy tina lucy chloe ella mia zoe leah
    lily marcus carlos luis miguel pedro ahmed mohammed muhammad ali omar hassan fatima aisha
    priya raj anil sanjay wei ming ivan igor olga natasha yuki hiroshi kenji pierre jacques hans
    klaus ingrid lars sven erik ian neil nigel graham stuart simon colin derek craig fiona hazel
    gemma rosie siobhan liam connor aidan oliver harry jared stan peggy tyrone xavier yusuf
    dmitri carmen lucia elena marta guadalupe"""
)
LAST_NAMES = word_set(
    """smith johnson williams brown jones garcia miller davis rodriguez martinez hernandez lopez
    gonzalez wilson anderson thomas taylor moore jackson martin lee perez thompson white harris
    sanchez clark ramirez lewis robinson walker young allen king wright scott torres nguyen hill
    flores green adams nelson baker hall rivera campbell mitchell carter roberts gomez phillips
    evans turner diaz parker cruz edwards collins reyes stewart morris morales murphy cook
    rogers gutierrez ortiz morgan cooper peterson bailey reed kelly howard ramos kim cox ward
    richardson watson brooks chavez wood james bennett gray mendoza ruiz hughes price alvarez
    castillo sanders patel myers long ross foster jimenez powell jenkins perry russell sullivan
    bell coleman butler henderson barnes fisher vasquez simmons jordan patterson alexander
    hamilton graham reynolds griffin wallace moreno west cole hayes bryant singh khan wang li
    zhang chen liu huang zhao wu zhou xu sun ma zhu hu lin he gao o'brien o'connor o'neill
    schmidt mueller meyer schneider fischer weber fitzgerald kennedy hoffman carlson"""
)
# Names that are words as well: they need a capital letter, or a context that leaves no doubt.
AMBIGUOUS = word_set(
    """will may mark grace hope joy faith bill rose dawn frank grant rich art sue drew pat gene
    chase jack amber summer april june august autumn jean ray dean cook white brown young king
    wright green hill hall baker bell long price wood cox ward gray foster fisher cole west may
    he ma sun wu hu li lin christian virginia austin madison jordan logan jackson max kelly lee
    tom ben sam carol ruby page day rob sandy dale harry ann joe reed ross wei ming gemma ella
    stan cruz ruth"""
) - word_set("tom ben sam carol harry ann joe ruth stan ella gemma kelly jordan logan jackson")
COMPOUND = word_set(
    """欧阳 司马 诸葛 上官 尉迟 司徒 夏侯 皇甫 东方 慕容 令狐 公孙 长孙
    宇文 端木 南宫 轩辕 百里"""
)
SURNAMES = frozenset(
    "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁"
    "魏薛叶阎余潘杜戴夏钟汪田任姜范方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段雷钱汤尹黎"
    "易常武乔贺赖龚文庞樊兰殷施陶洪翟安颜倪严牛温芦季俞章鲁葛伍韦申尤毕聂丛焦向柳邢路岳齐梅莫庄辛"
    "管祝左涂谷祁耿牟卜詹关苗凌费纪靳盛童欧甄项曲成游阳裴席卫查屈鲍覃霍翁隋植甘景薄单包柏宁柯阮桂"
    "闵解强柴华冉房边辜吉饶刁瞿戚丘古米池滕晋苑邬臧畅宫来嵺苟全褚廉简娄盖符奚木穆党燕郎邸冀谈姬屠"
    "连郜晏栾郁商蒙计喻揭窦迟宇敖糜鄢冷卓花仇艾蓝都巩稽井练仲乐虞卞封竺冼原官衣楚佟栗匡宗应台巫鞠"
    "僧桑荆谌银扬明沙薄伏岑习胥保和蔺佘"
)
# Surnames that open everyday words; with `我是` before them they are none.
WORDY = frozenset(
    "都来和应明原保官成任向何高方白时于安常万全单连强解和文乐银台保游路查关花木米计商管边房包金"
)
PLAIN_WORDS = word_set(
    """is it's its it email e mail address to my that's thats at and uh um er so yes sure okay ok
    for send write me you have got as on use the a an called was be i i've ive we us our your or
    with yeah well right look looking buy bought order ordered shop visit online website page
    available sign found check log see go find go's by in of this here there's about from then
    please"""
)
_NO_NAME = (
    PLAIN_WORDS
    | FILLERS
    | word_set(
        """not very just happy
        sorry glad calling speaking going trying having still really afraid sure
    here back home only also already never always done good great fine ready waiting unhappy
    disappointed upset angry tired sick interested wondering hoping thinking aware able unable
    new old first last second next other another more most less some any no none all both each
    every either neither one two three four five six seven eight nine ten what when where why
    who how which if but because while can could would should might must shall do does did has
    had having being been am were do don't doesn't didn't isn't can't won't wouldn't couldn't
    let get getting got give put take make made need want know think said say says told tell ask
    asked help look thank thanks hello hi hey good morning afternoon evening today tomorrow
    yesterday monday tuesday wednesday thursday friday saturday sunday january february march
    april june july august september october november december ridiculous about over under
    between into through during before above below up down out off again further once time day
    week month year minute minutes hour moment second number account order bill card phone
    service support department customer agent manager supervisor office company team line call
    calls question problem issue thing things please later soon now available unavailable
    delivery mr mrs ms miss dr doctor sir madam ma'am mister from with for and or the a an to in
    on my your his her their our mine yours everything nothing something anything unacceptable
    urgent important unbelievable them they she he him speaking spelled online located working
    looking using paying missing billing sales technical recorded monitored english spanish
    chinese correct right wrong true false too outside inside around near far there then than
    such same own me myself yourself ok okay welcome bye goodbye wonderful perfect excellent
    terrible awful horrible nice lovely lord god goodness heavens everyone everybody guys folks
    anyone somebody someone nobody nothing extremely really truly terribly
    absolutely tech returns shipping legal security reception"""
    )
)
_TITLES = word_set("mr mrs ms miss mister dr doctor prof professor")
_SURE_NAME_CUES = (
    "my name is", "my name's", "the name is", "the name's", "name is", "name's", "call me",
    "first name is", "last name is", "surname is", "under the name", "under the name of",
    "in the name of", "my first name is", "my last name is", "name on the account is",
    "my name", "name was", "i am called", "i'm called", "name of",
)  # fmt: skip
# Of a person, or of whoever is spoken with: a capital letter suffices.
_ROLE_CUES = (
    "husband", "wife", "son", "daughter", "mother", "father", "brother", "sister", "partner",
    "boss", "colleague", "neighbour", "neighbor", "roommate", "landlord", "technician", "rep",
    "speaking with", "speaking to", "speak with", "speak to", "spoke with", "spoke to",
    "talked to", "talked with", "talk to", "ask for", "first name", "last name", "surname",
    "middle name", "maiden name", "nickname", "behalf of", "husband's name", "wife's name",
)  # fmt: skip
# Of whoever is spoken to: a capital letter suffices where the phrase ends with it.
_CALLING_CUES = (
    "thank you", "thanks", "hi", "hello", "hey", "okay", "alright", "good morning", "morning",
    "good afternoon", "good evening", "dear", "under",
)  # fmt: skip
_WEAK_NAME_CUES = ("this is", "i am", "i'm", "it's", "is that", "here is", "sorry")
_MOST_CUE_WORDS = 5
_NAME_CUES: Mapping[tuple[str, ...], str] = {
    tuple(cue.split()): strength
    for strength, cues in (
        ("weak", _WEAK_NAME_CUES), ("calling", _CALLING_CUES), ("role", _ROLE_CUES),
        ("sure", _SURE_NAME_CUES),
    )
    for cue in cues
}  # fmt: skip
_CUE_OPENINGS = frozenset(cue[0] for cue in _NAME_CUES)
_NAME_QUESTION = re.compile(
    r"\b(?:your|the|first|last|full) name\b|\bsurname\b|\bwho am i (?:speaking|talking)\b"
    r"|\bwho's (?:calling|speaking)\b|姓名|贵姓|怎么称呼|您?姓什么|叫什么|名字",
    re.IGNORECASE,
)
# One of these is in every such question in English.
_ASKING = ("name", "who")
_AFTER_NAME = frozenset(("speaking", "calling", "here", "from"))
_MOST_NAME = 3

_STOP_GIVEN = frozenset(
    "，。！？、的是想要在打有昨今您你我他她请电手和也就先女吗吧呢啊了这那谢好对为说来去给跟不没还"
    "都会能下上里个本什么怎客服经太姐总老您位把让到从很帮查买办退换才过"
)
_ZH_SURE = re.compile(
    r"(?:我(?:的名字|名字)?叫|名字(?:是|叫|写)|姓名(?:是|叫|写)?[：:]?|名叫|(?<!百)姓|"
    r"收件人(?:是|叫|写)?|联系人(?:是|叫|写)?|户主(?:是|叫)?)"
)
_ZH_WEAK = re.compile(
    r"(?:我是|请问是|您是|你是|找一?下?|叫|(?P<role>(?:客服|专员|顾问|坐席|工号|主管|助理|代表)是?"
    r"|(?:老公|老婆|爱人|儿子|女儿|同事|朋友|妈|爸|妈妈|爸爸|室友|房东|邻居|司机|快递员|医生|负责人|经办人"
    r"|法人|收货人|持卡人|投保人|申请人)[叫是]))"
)
_ZH_NICK = re.compile(r"(?:(?P<me>叫我|我是|我叫)|[找叫跟给由])[小老阿]")
_TITLES_ZH = ("先生", "女士", "小姐", "太太", "师傅", "老师", "经理", "主任")
_SURE_TITLES = ("先生", "女士", "小姐", "本人")
_ZH_TITLE = re.compile(r"先生|女士|小姐|太太|师傅|老师|经理|本人|主任|总(?=[您吧，。！？好,]|$)")
_ZH_NO_GIVEN = word_set(
    """高兴 高级 方便 方面 安心 常常 常客 于是 何时 何必 时候 万一 都是 单子 程序 连续 全部
    文件 金额 白天 路上 关于 明天 明白 应该 原来 保证 和平 成功 任何 向您 查询 管理 包裹
    房间 米饭 计划 商家 老师 谢谢 高一 高中 花钱 游戏 和你 和您 王者 马上 张口 陈年 周一
    周二 周三 周四 周五 周六 周日 周末 周围 江湖 石头 金卡 白金 钱包 向来 严重 温度 黄金
    黄牛 田地 丁点 段时 段话 雷同 苗头 童装 路人 单身 安全 常年 全款 白领 成年 高二 高三 高管
    商户 商人 官方 花店 米店 房东 房客 管家 保安 保险 包工 成人 成员 全职 单亲 来宾 安装 明年 于此
    向导 成本 米粉 白酒 应届 万能 花农 成交 成心 成立 方案 文员 文科 金融 钱款 成都 东方 江苏 夏天
    武汉 广州 杭州 苏州 郑州 安徽 贺卡 包邮 查下 华为 小米 万分"""
)


_SPELLING = re.compile(r"\bspell|\bname|\bsurname\b")
# Three letters, each alone, with no more than punctuation between.
_SPELT = re.compile(rf"(?<!{LETTER}){LETTER}(?!{LETTER})(?:[^\w]{{1,20}}{LETTER}(?!{LETTER})){{2}}")
_MOST_APART = 3
_MOST_HAN_NAME = 8


def find_names(call: Call, given: Sequence[str]) -> list[Span]:
    found: list[tuple[int, int, int]] = []
    spelling = -2
    told: set[str] = set()  # names beyond doubt, looked for in the whole call
    for number, sign in enumerate(call.signs):
        text = call.segments[number].text
        asked = _name_asked(call, number)
        if asked or _may_name(text, sign.words):
            for start, end, sure in _english_names(text, call.tokens(number), asked):
                found.append((number, start, end))
                if sure:
                    told.update(_name_parts(text[start:end]))
        named = "name" in sign.lower or "spell" in sign.lower
        if named and _SPELLING.search(sign.lower):
            spelling = number
        if spelling >= number - 1 and _SPELT.search(text):
            found += ((number, start, end) for start, end in _spelled(call.tokens(number)))
        if sign.han and call.han_is_chinese(number):
            for start, end, sure in _chinese_names(text, asked):
                found.append((number, start, end))
                if sure and end - start > 1:
                    told.add(text[start:end])
    for name in given:
        if _of_person(name):
            told.update(_name_parts(name))
        told.add(" ".join(name.split()).casefold())
    found += _mentions(call, {name for name in told if len(name) > 1})
    return [Span(PiiKind.NAME, (each,)) for each in found]


def _mentions(call: Call, told: set[str]) -> Iterator[tuple[int, int, int]]:
    """Every place of names known; whole words in alphabetic scripts."""
    if not told:
        return
    han = {name for name in told if is_han(name[0])}
    sizes = sorted({len(name) for name in han if len(name) <= _MOST_HAN_NAME}, reverse=True)
    words = {name for name in told - han if " " not in name}
    full: dict[str, list[tuple[str, ...]]] = {}
    for name in sorted(told - han - words):
        full.setdefault(name.split()[0], []).append(tuple(name.split()))
    openings = words | {f"{word}'s" for word in words} | set(full)
    first_han = re.compile("|".join(sorted({re.escape(name[0]) for name in han}) or ["(?!)"]))
    for number, sign in enumerate(call.signs):
        text = call.segments[number].text
        # A name with letters beyond ASCII is in pieces among the words.
        latin = bool(openings) and (sign.han or not openings.isdisjoint(sign.words))
        if not latin and not (sign.han and first_han.search(text)):
            continue
        tokens = call.tokens(number)
        for at, token in enumerate(tokens):
            if token.kind == "h":
                for size in sizes:
                    if text[token.start : token.start + size] in han:
                        yield number, token.start, token.start + size
            elif token.kind == "w":
                if token.text.removesuffix("'s") in words:
                    end = token.end - 2 if token.text.endswith("'s") else token.end
                    yield number, token.start, end
                for parts in full.get(token.text, ()):
                    if tuple(t.text for t in tokens[at : at + len(parts)]) == parts:
                        yield number, token.start, tokens[at + len(parts) - 1].end


def _name_asked(call: Call, number: int) -> bool:
    """Whether the segment before, by another, asks for a name."""
    segments = call.segments
    if not number or segments[number - 1].speaker == segments[number].speaker:
        return False
    sign = call.signs[number - 1]
    if not sign.han and not any(word in sign.lower for word in _ASKING):
        return False
    return _NAME_QUESTION.search(segments[number - 1].text) is not None


def _spelled(tokens: Sequence[Token]) -> Iterator[tuple[int, int]]:
    """`J-O-H-N`: three letters or more."""
    first = last = -1
    letters = 0
    for at, token in enumerate((*tokens, Token(0, 0, 0, "b", ""))):
        if token.kind == "w" and len(token.text) == 1:
            first = at if not letters else first
            last, letters = at, letters + 1
        elif token.kind != "p" or token.text not in "-.," or at - last > _MOST_APART:
            if letters >= 3:
                yield tokens[first].start, tokens[last].end
            letters = 0


def _name_parts(name: str) -> Iterator[str]:
    """The words of a name that say who it is wherever they stand."""
    for part in name.split():
        bare = part.strip(".,'’").casefold()
        alphabetic = len(bare) > 2 and bare not in AMBIGUOUS and bare not in _NO_NAME
        if alphabetic or (len(bare) > 1 and is_han(bare[0])):
            yield bare


def _of_person(name: str) -> bool:
    """Whether a name shown for a participant has a listed first or last name, or a Han surname.

    Who is shown as `WIRELESS CALLER` or `Refund Dept` is not called by one of these words.
    """
    words = _WORD.findall(name.lower().replace("’", "'"))
    listed = any(map(_listed, words)) or not AMBIGUOUS.isdisjoint(words[:1])
    return listed or any(_given(part, 0, len(part)) for part in name.split())


_WORD = re.compile(rf"{LETTER}+(?:'{LETTER}+)*")

# What a name in English comes with: a word that announces it, a listed name, or capital letters.
_NAME_SIGNS = (
    FIRST_NAMES | LAST_NAMES | _TITLES | word_set("name name's surname called")
) - AMBIGUOUS
_CAPITALISED = re.compile("[A-Z][A-Za-z]*")
_CAPITAL = rf"[^\W\d_a-z{HAN}]"
_CAPITALS = re.compile(
    rf"{_CAPITAL}(?:[\w'’]{{1,64}}+|(?<!\bI))[\s.-]{{1,8}}(?:{_CAPITAL}|(?:{'|'.join(sorted(_AFTER_NAME))})\b)"
)
# Those with `name` in them are signs themselves.
_BARE_CUES = tuple(cue for cue in (*_ROLE_CUES, *_CALLING_CUES) if " name" not in cue)
_BARE_OPENINGS = frozenset(cue.split()[0] for cue in _BARE_CUES)
_CUE_AND_CAPITAL = re.compile(
    rf"\b(?i:{'|'.join(_BARE_CUES)})(?:[\s,:]|is|uh|um){{1,12}}{_CAPITAL}"
)


def _may_name(text: str, words: frozenset[str]) -> bool:
    """Whether it is worth a look for names in English."""
    if not words.isdisjoint(_NAME_SIGNS) or ("call" in words and "me" in words):
        return True
    if not words.isdisjoint(AMBIGUOUS):
        said = (word.lower() for word in _CAPITALISED.findall(text))
        if not AMBIGUOUS.isdisjoint(said):
            return True
    if not words.isdisjoint(_BARE_OPENINGS) and _CUE_AND_CAPITAL.search(text):
        return True
    return _CAPITALS.search(text) is not None


def _english_names(
    text: str, tokens: Sequence[Token], asked: bool
) -> Iterator[tuple[int, int, bool]]:
    """(start, end, beyond doubt) of each name."""
    at, size = 0, len(tokens)
    if asked:
        lead = 0
        while lead < size and (tokens[lead].kind != "w" or tokens[lead].text in _ANSWER_OPENINGS):
            lead += 1
        end = _name_from(text, tokens, lead, True)
        if end is not None and (size - lead <= 8 or tokens[lead].text in FIRST_NAMES):
            yield tokens[lead].start, tokens[end - 1].end, True
            at = end
    while at < size:
        token = tokens[at]
        if token.kind != "w":
            at += 1
            continue
        start, sure = at + 1, False
        hit, strength = False, "weak"
        if token.text in _TITLES:
            if start < size and tokens[start].text == ".":
                start += 1
            hit = start < size and (
                text[tokens[start].start].isupper()
                or token.text in ("mr", "mrs", "mister")
                or tokens[start].text in LAST_NAMES
            )
            sure = hit
        else:
            longest = min(_MOST_CUE_WORDS, size - at) if token.text in _CUE_OPENINGS else 0
            for length in range(longest, 0, -1):
                cue = tuple(t.text for t in tokens[at : at + length])
                if cue in _NAME_CUES:
                    strength = _NAME_CUES[cue]
                    hit, sure, start = True, strength == "sure", at + length
                    break
            while hit and start < size and tokens[start].text in (",", ":", "is", "uh", "um"):
                start += 1
        end = _name_from(text, tokens, start, sure) if hit else None
        if end is None and strength in ("calling", "role"):
            end = _capital_name(text, tokens, start, strength == "calling")
        if end is None:
            start = at
            end = _name_alone(text, tokens, at)
            sure = False
        if end is None:
            at += 1
            continue
        yield tokens[start].start, tokens[end - 1].end, sure
        at = end


_ANSWER_OPENINGS = word_set(
    """yes yeah sure it's its it is my name this okay ok uh um i'm i am of course so well that's hi
    hello the first last and"""
)


def _listed(word: str) -> bool:
    return word in FIRST_NAMES or word in LAST_NAMES


def _name_from(text: str, tokens: Sequence[Token], at: int, sure: bool) -> int | None:
    """The token after the name at `at`; None where there is none."""
    end = at
    while end < len(tokens) and end < at + 2 * _MOST_NAME:
        token = tokens[end]
        if token.text in ("-", ".") and end > at and end + 1 < len(tokens):
            joined = tokens[end + 1].start == token.end and token.start == tokens[end - 1].end
            if token.text == "-" and joined and tokens[end + 1].kind == "w":
                end += 1
                continue
            break
        upper = text[token.start : token.start + 1].isupper()
        listed = _listed(token.text)
        if token.kind != "w" or (token.text in _NO_NAME and not (upper and listed)):
            break
        if len(token.text) == 1 and not upper:
            break
        lower_case = sure and end - at < 2 and not text[tokens[at].start].isupper()
        if not upper and not listed and not lower_case and not (sure and end == at):
            break
        if not upper and token.text in AMBIGUOUS and not sure:
            break
        end += 1
        if end - at >= _MOST_NAME:
            break
    if end == at or end > len(tokens):
        return None
    first = tokens[at]
    if not sure:
        upper = text[first.start].isupper()
        known = first.text in FIRST_NAMES or (first.text in LAST_NAMES and end - at > 1)
        after = tokens[end].text if end < len(tokens) else ""
        capitals = sum(text[t.start].isupper() for t in tokens[at:end] if t.kind == "w")
        if not (known or (upper and (after in _AFTER_NAME or capitals > 1))):
            return None
    if tokens[end - 1].text == "-":
        end -= 1
    return end


def _capital_name(text: str, tokens: Sequence[Token], at: int, ends: bool) -> int | None:
    """The token after a name that only capital letters tell; `ends`: the phrase ends with it."""
    if at >= len(tokens) or tokens[at].text in _NO_NAME or len(tokens[at].text) < 2:
        return None
    if tokens[at].kind != "w" or not text[tokens[at].start].isupper():
        return None
    end = _name_from(text, tokens, at, True)
    if end is None or not ends:
        return end
    near = tokens[at - 1].kind == "w" and (end == len(tokens) or tokens[end].kind == "p")
    return end if near else None


def _name_alone(text: str, tokens: Sequence[Token], at: int) -> int | None:
    """`John Smith` in the middle of talk, `John here`, `Mary speaking`."""
    token = tokens[at]
    nxt = tokens[at + 1] if at + 1 < len(tokens) else None
    if nxt is None or nxt.kind != "w" or token.text not in FIRST_NAMES:
        return None
    if not text[token.start].isupper():
        return None
    if nxt.text in LAST_NAMES and text[nxt.start].isupper():
        return at + 2
    if nxt.text in ("here", "speaking") and (at == 0 or tokens[at - 1].kind != "w"):
        return at + 1
    return None


def _chinese_names(text: str, asked: bool) -> Iterator[tuple[int, int, bool]]:
    if asked:
        opening = _ZH_ANSWER.match(text)
        start = opening.end() if opening else 0
        end = _given(text, start, len(text))
        if end is not None and (end >= len(text) or not is_han(text[end])):
            yield start, end, True
    for match in _ZH_SURE.finditer(text):
        start = match.end()
        if match[0] == "姓":
            if size := _surname(text, start):
                yield start, start + size, size > 1
                # `姓张，弓长张`: said again, so that it is written right.
                again = text.find(text[start : start + size], start + size, start + 12)
                if again >= 0:
                    yield again, again + size, False
            continue
        end = _given(text, start, len(text))
        if end is not None and end - start > 1:
            yield start, end, True
    for match in _ZH_WEAK.finditer(text):
        start = match.end()
        if (end := _given(text, start, len(text))) is None or end - start < 2:
            continue
        whole = end == len(text) or text[end] in "，。,. "
        if text[start] in WORDY and end - start < 3 and match["role"] is None and not whole:
            continue
        if text[start : start + 2] in _ZH_NO_GIVEN:
            continue
        if end == len(text) or not is_han(text[end]) or text[end] in "本吧吗昨今打想先女，":
            yield start, end, True
    for match in _ZH_NICK.finditer(text):
        size = _surname(text, match.end())
        if size and (match["me"] or text[match.end()] not in WORDY):
            yield match.end(), match.end() + size, False
    for match in _ZH_TITLE.finditer(text):
        first = _before_title(text, match.start())
        if first is not None:
            yield first, match.start(), match.start() - first > 1


_ZH_ANSWER = re.compile(
    r"[嗯哦呃啊，,。 ]{0,4}(?:好的?[，, ]?)?(?:我?(?:叫|是|姓)|免贵姓?|名字是)?"
)


def _surname(text: str, at: int) -> int:
    """Its length at `at`: 2, 1, or 0 where none is."""
    if text[at : at + 2] in COMPOUND:
        return 2
    return 1 if at < len(text) and text[at] in SURNAMES else 0


def _given(text: str, start: int, limit: int) -> int | None:
    """The end of the name at `start`, with up to two characters after the surname."""
    size = _surname(text, start)
    if not size:
        return None
    end = start + size
    while end < min(limit, start + size + 2) and is_han(text[end]):
        if text[end] in _STOP_GIVEN or text.startswith(_TITLES_ZH, end):
            break
        end += 1
    return None if text[start : start + 2] in _ZH_NO_GIVEN else end


def _before_title(text: str, title: int) -> int | None:
    """Where the name begins that ends at `title`."""
    for size in (4, 3, 2, 1):
        start = title - size
        if start < 0 or not (family := _surname(text, start)):
            continue
        given = text[start + family : title]
        # `是高轩静经理` is one, 高级经理 is none.
        called = len(given) == 2 and text[start - 1 : start] in ("是", "叫", "找", "由", "跟")
        wordy = given and text[start] in WORDY and not called
        if wordy and not text.startswith(_SURE_TITLES, title):
            continue
        if len(given) > 2 or any(c in _STOP_GIVEN or not is_han(c) for c in given):
            continue
        if size > 1 and text[start : start + 2] in _ZH_NO_GIVEN:
            continue
        return start
    return None
