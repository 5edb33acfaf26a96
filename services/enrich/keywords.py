"""Keywords: the words that stand out in a call, without a list of what to look for.

A word tells the more the oftener it is said and the rarer it is elsewhere. Chinese is cut into
words by jieba's dictionary (rjieba carries it in its wheel: no file is written, nothing is
fetched), which also knows how common a word is; in languages that write spaces, the stop words of
the language stand for what is common. Two words that keep coming together are one keyword.

Every word of the call is read, whatever its length: the cost is linear, and nothing is sampled.
`docs/metrics.md` states the weights.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import log

from schemas.events import Keyword, Redaction, Role, Segment
from services.enrich.findings import NOT_HUMAN, trusted

MOST_KEYWORDS = 12
# An agent's first and last segments: greeting, name of the company, farewell.
RITUAL_SEGMENTS = 2
RITUAL_WEIGHT = 0.25
# Two words are one keyword where they are said together so often ...
LEAST_TOGETHER = 2
# ... and the rarer of them is heard in this share of its sayings beside the other.
TOGETHER_SHARE = 0.5
# Of a word that no dictionary weighs: about that of a Chinese noun heard now and then.
PLAIN_RARITY = 0.6
# All words that jieba's frequencies were counted in.
_JIEBA_TOTAL = 60_101_967
_LONGEST = 40
_MOST_DIGITS = 2

# What is said in any call, whatever it is about, and is in no list of stop words.
CALL_WORDS = {
    "en": "absolutely actually afternoon agent alright anybody anything apologies apologise "
    "apologize appreciate assist assistance awesome bear bit bye call called calling calls "
    "certainly check checked checking confirm confirmed correct customer day definitely "
    "evening feel fine glad goodbye great guess hang happy hear heard hello help hey hmm hold "
    "hope hour hours idea kind kindly lady left lot maam madam mean mhm minute minutes mister "
    "mm moment month months morning name nice nope oh okay patience perfect person phone "
    "please pleasure problem read really repeat representative second send sending sent "
    "service sir sorry sound sounds speak speaking spell spoke stuff supervisor sure talk "
    "talking tell thank thanks thing things time times today told tomorrow tonight uh uhuh um "
    "understand understood wait waiting week weekend welcome wonderful yeah yep yes yesterday "
    "yup",
    "zh": "一下 一个 一些 一点 一样 上面 下面 东西 为您 事情 今天 你好 您好 明天 昨天 现在 "
    "刚才 好的 没有 知道 觉得 告诉 听到 看到 看看 收到 明白 清楚 了解 理解 可以 需要 "
    "想要 应该 谢谢 感谢 请问 稍等 稍等一下 请稍等 等一下 不好意思 抱歉 对不起 麻烦 "
    "添麻烦 放心 再见 拜拜 来电 致电 客服 服务 帮助 帮忙 先生 女士 愉快 生活 问题 情况 "
    "时候 星期 上个星期 工号 不是 不会 不能 就是 还是 还有 已经 然后 其他 方便 处理 查询 "
    "号码 电话 联系 耐心 等待",
}
# What lists of stop words have and customers call about.
SUBJECTS = {"en": "bill computer copy email fax fire interest mail order page room system website"}

_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]")
# Languages written without spaces that jieba does not know.
_UNSPACED = re.compile("[\u3040-\u30ff\u31f0-\u31ff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
_NO_WORD = re.compile(f"{_HAN.pattern}|{_UNSPACED.pattern}")
# Letters with the marks that some scripts put on them, joined by apostrophes; or a clause's end.
_LETTER = (
    "[^\\W_]|[\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u0963\u0966-\u0df3"
    "\u0e31-\u0e3a\u0e47-\u0e4e]"
)
_WORD = re.compile(rf"(?:{_LETTER})+(?:['’](?:{_LETTER})+)*|[.,;:!?…()\"\n。，、；：！？]")
_ASCII_WORD = re.compile(r"[A-Za-z0-9]+(?:'[A-Za-z0-9]+)*|[.,;:!?()\"\n]")
_TELLING_TAGS = ("n", "v", "a", "i", "j", "l")
# Names of people are no subject of a call, and nobody's business.
_PERSON_TAGS = ("nr",)
_PRONOUNS = re.compile("[我你您他她它咱]")
_ROLE_ORDER = (Role.CUSTOMER, Role.AGENT)


@dataclass(frozen=True, slots=True)
class _Word:
    key: str
    """What makes two sayings one word."""
    shown: str
    rarity: float
    """0.0 to 1.0."""
    english: bool


_Keys = list[str | None]
"""Words in the order they were said; None where no keyword may go across."""
_Unit = tuple[str, ...]
"""The keys of a keyword, one or two."""


def keywords(
    segments: Sequence[Segment], language: str, redactions: Iterable[Redaction] = ()
) -> list[Keyword]:
    """The most telling words of a call, at most MOST_KEYWORDS, the most telling first.

    Only trusted segments of humans are read, and nothing of what `redactions` name; `language` is
    that of segments which do not tell theirs. Equal input gives an equal result, whatever the order
    of the segments. Empty where nothing tells: no trusted words, or a language that is written
    without spaces and is not Chinese.
    """
    ordered = sorted(segments, key=lambda s: (s.start_ms, s.end_ms, s.channel, s.segment_id))
    ordered = [s for s in ordered if s.role not in NOT_HUMAN and trusted(s)]
    hidden: dict[int, list[Redaction]] = defaultdict(list)
    for redaction in redactions:
        hidden[redaction.segment_id].append(redaction)
    reader = _Reader()
    said = [
        reader.read(_without(s.text, hidden.get(s.segment_id, ())), _primary(s, language))
        for s in ordered
    ]
    if same := _inflected(reader.words):
        said = [[key and same.get(key, key) for key in keys] for keys in said]
    together = _together(said)
    ritual = _ritual(ordered)
    scores: dict[_Unit, float] = {}
    by_role: dict[Role, Counter[_Unit]] = defaultdict(Counter)
    for segment, keys in zip(ordered, said, strict=True):
        weight = RITUAL_WEIGHT if segment.segment_id in ritual else 1.0
        units = _units(keys, together)
        by_role[segment.role].update(units)
        for unit in units:
            scores[unit] = scores.get(unit, 0.0) + weight
    for unit in scores:
        scores[unit] *= sum(reader.words[key].rarity for key in unit)
    # What was said first goes first among equals: dicts keep that order, and sorting is stable.
    ranked = sorted(scores, key=lambda unit: -round(scores[unit], 6))[:MOST_KEYWORDS]
    roles = sorted(by_role, key=_rank)
    return [
        Keyword(
            text=_shown([reader.shown(key) for key in unit]),
            role=max(roles, key=lambda role: by_role[role][unit]),
            weight=round(scores[unit] / scores[ranked[0]], 4),
            count=sum(counts[unit] for counts in by_role.values()),
        )
        for unit in ranked
    ]


class _Reader:
    """Reads the words of one call; each different word is judged once."""

    def __init__(self) -> None:
        self.words: dict[str, _Word] = {}
        """Key -> the word, of every word that may be a keyword."""
        self._keys: dict[str, dict[str, str | None]] = defaultdict(dict)
        self._chinese: dict[tuple[str, str], str | None] = {}
        self._tokens: dict[str, Counter[str]] = defaultdict(Counter)
        self._forms: dict[str, Counter[str]] = {}

    def read(self, text: str, language: str) -> _Keys:
        plain = text.isascii()
        if not plain:
            # A lone surrogate is no text, and jieba refuses it.
            text = unicodedata.normalize("NFKC", text.encode("utf-8", "replace").decode())
            if language != "ja" and _HAN.search(text) and not _UNSPACED.search(text):
                return self._read_chinese(text)
        keys = self._keys[language]
        tokens = (_ASCII_WORD if plain else _WORD).findall(text)
        self._tokens[language].update(tokens)
        for token in set(tokens).difference(keys):
            keys[token] = self._met(_word(token, language))
        return [keys[token] for token in tokens]

    def _read_chinese(self, text: str) -> _Keys:
        import rjieba

        said: _Keys = []
        known = self._chinese
        for token in rjieba.tag(text):
            if token not in known:
                if token[1] == "eng":
                    said += self.read(token[0], "en") if token[0].isascii() else (None,)
                    continue
                known[token] = self._met(_chinese_word(*token))
            said.append(known[token])
        return said

    def _met(self, word: _Word | None) -> str | None:
        if word is None:
            return None
        self.words.setdefault(word.key, word)
        return word.key

    def shown(self, key: str) -> str:
        """The word as it is written most often in the call."""
        if not self._forms:
            for language, tokens in self._tokens.items():
                for token, count in tokens.items():
                    if (word := _word(token, language)) is not None:
                        self._forms.setdefault(word.key, Counter())[word.shown] += count
        forms = self._forms.get(key)
        if not forms:
            return self.words[key].shown
        return max(forms, key=lambda form: (forms[form], form))


def _primary(segment: Segment, language: str) -> str:
    spoken = segment.language if segment.language not in ("", "und") else language
    return spoken.split("-")[0].lower()


def _without(text: str, redactions: Sequence[Redaction]) -> str:
    """The text with a full stop in place of every character that is personal."""
    if not redactions:
        return text
    characters = list(text)
    for each in redactions:
        start, end = max(each.start, 0), min(each.end, len(text))
        characters[start:end] = "." * (end - start)
    return "".join(characters)


def _ritual(ordered: Sequence[Segment]) -> set[int]:
    own = [segment.segment_id for segment in ordered if segment.role is Role.AGENT]
    return {*own[:RITUAL_SEGMENTS], *own[-RITUAL_SEGMENTS:]}


@lru_cache(maxsize=64)
def _common(language: str) -> frozenset[str]:
    """Words of a language that tell nothing; those of English where the language is not known."""
    from stopwordsiso import stopwords

    known = "en" if language in ("", "und") else language
    common = {_key(word) for word in stopwords(known)} | set(CALL_WORDS.get(known, "").split())
    return frozenset(common.difference(SUBJECTS.get(known, "").split()))


def _key(text: str) -> str:
    return text.casefold().replace("’", "'")


@lru_cache(maxsize=16_384)
def _word(token: str, language: str) -> _Word | None:
    """What a word of a script with spaces says; None where it tells nothing, and for marks."""
    common = _common(language)
    if not token[0].isalnum() or len(token) > _LONGEST or _key(token) in common:
        return None
    # don't, sister's, l'abonnement: the word is the longest piece.
    shown = max(token.replace("’", "'").split("'"), key=len)
    key = _key(shown)
    digits = sum(character.isdecimal() for character in key)
    if key in common or digits > _MOST_DIGITS or digits == len(key) or _NO_WORD.search(key):
        return None
    # Short words are worth it as abbreviations (PIN, TV) or where syllables are letters (Korean).
    if len(key) < (2 if shown == shown.upper() else 3):
        return None
    return _Word(key, shown, PLAIN_RARITY, language in ("", "und", "en"))


@lru_cache(maxsize=16_384)
def _chinese_word(token: str, tag: str) -> _Word | None:
    import rjieba

    telling = tag.startswith(_TELLING_TAGS) and not tag.startswith(_PERSON_TAGS)
    if not telling or not 2 <= len(token) <= _LONGEST or token in _common("zh"):
        return None
    if _PRONOUNS.search(token) or not _HAN.search(token):
        return None
    rarity = PLAIN_RARITY
    if rjieba.has_word(token):
        rarity = 1 - log(max(rjieba.suggest_freq(token), 1)) / log(_JIEBA_TOTAL)
    return _Word(token, token, rarity, False)


def _inflected(words: Mapping[str, _Word]) -> dict[str, str]:
    """English forms -> the plain form, where the call has both: refunds, refunded -> refund."""
    same: dict[str, str] = {}
    for key, word in words.items():
        if word.english and key.endswith(("s", "ed", "ing")):
            for plain in _plain_forms(key):
                if len(plain) >= 3 and plain in words and words[plain].english:
                    same[key] = plain
                    break
    for key, plain in same.items():  # bookings -> booking -> book
        same[key] = same.get(plain, plain)
    return same


def _plain_forms(key: str) -> list[str]:
    if key.endswith("ss"):
        return []
    if key.endswith(("ies", "ied")):
        return [key[:-3] + "y", key[:-1]]
    if key.endswith("s"):
        return [key[:-1], *([key[:-2]] if key.endswith("es") else [])]
    stem = key[:-2] if key.endswith("ed") else key[:-3]
    doubled = len(stem) > 3 and stem[-1] == stem[-2]
    return [stem, stem + "e", *([stem[:-1]] if doubled else [])]


def _together(said: Sequence[_Keys]) -> set[_Unit]:
    """The pairs of words that are one keyword."""
    pairs: Counter[_Unit] = Counter()
    for keys in said:
        pairs.update([(a, b) for a, b in pairwise(keys) if a and b])
    often = {pair: count for pair, count in pairs.items() if count >= LEAST_TOGETHER}
    single = Counter(key for keys in said for key in keys) if often else Counter()
    return {
        (a, b)
        for (a, b), count in often.items()
        if a != b and count >= TOGETHER_SHARE * min(single[a], single[b])
    }


def _units(keys: _Keys, together: Set[_Unit]) -> list[_Unit]:
    """The keywords said, of two words where the two are one keyword."""
    found: list[_Unit] = []
    before: str | None = None
    for key in keys:
        if key and before and (before, key) in together:
            found[-1] = (before, key)
            before = None
        else:
            if key:
                found.append((key,))
            before = key
    return found


def _shown(parts: Sequence[str]) -> str:
    """Chinese is written without a space between words."""
    return ("" if all(_HAN.search(part) for part in parts) else " ").join(parts)


def _rank(role: Role) -> tuple[int, str]:
    """The customer's words are told as theirs where both said them as often."""
    order = _ROLE_ORDER.index(role) if role in _ROLE_ORDER else len(_ROLE_ORDER)
    return order, role.value
