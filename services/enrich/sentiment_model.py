"""How words feel, told by a text classifier of transformers in this process.

A model gives each of its labels a probability; what a label is worth is known by its name, or said
in the settings. The score of a text is the sum of probability × worth.
"""

from __future__ import annotations

import inspect
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from services.enrich.settings import SentimentSettings
from services.enrich.transformer import loaded
from services.runtime.endpoint import Slots
from services.runtime.libraries import first_line, is_out_of_memory

SETTING = "enrich.sentiment.model"

# Longer texts are divided even where the model would read more: memory grows with the square.
LONGEST_TOKENS = 512
_LEAST_TOKENS = 8

_POSITIVE = (
    "positive", "pos", "good", "satisfied", "积极", "正面", "正向", "好评", "满意",
)  # fmt: skip
_NEGATIVE = (
    "negative", "neg", "bad", "dissatisfied", "消极", "负面", "负向", "差评", "不满", "不满意",
)  # fmt: skip
_NEITHER = (
    "neutral", "neu", "mixed", "none", "no emotion", "other", "others", "calm", "surprise",
    "surprised", "curiosity", "confusion", "realization", "中性", "中立", "平静", "无情绪", "其他",
    "惊讶", "惊奇",
)  # fmt: skip
# The same as of a voice of that kind: docs/metrics.md.
_EMOTIONS = {
    0.8: (
        "joy", "happy", "happiness", "love", "admiration", "amusement", "excitement", "gratitude",
        "pride", "like", "高兴", "快乐", "喜悦", "开心", "喜欢", "感激", "喜好", "幸福",
    ),
    0.4: ("approval", "caring", "optimism", "relief", "desire"),
    -0.4: ("annoyance", "disapproval", "embarrassment", "nervousness", "remorse", "worry", "担心"),
    -0.6: (
        "sad", "sadness", "fear", "fearful", "grief", "disappointment", "悲伤", "难过", "伤心",
        "恐惧", "害怕", "失望",
    ),
    -0.8: ("disgust", "disgusted", "frustration", "厌恶", "讨厌"),
    -1.0: ("anger", "angry", "hate", "愤怒", "生气"),
}  # fmt: skip
LABELS: Mapping[str, float] = {
    **dict.fromkeys(_POSITIVE, 1.0),
    **dict.fromkeys(_NEGATIVE, -1.0),
    **dict.fromkeys(_NEITHER, 0.0),
    **{name: worth for worth, names in _EMOTIONS.items() for name in names},
}
"""Label, in lower case -> what it is worth, -1.0 to 1.0. Stars and degrees come beside."""

_STARS = re.compile(r"([1-5]) ?(?:stars?|星)|stars? ?([1-5])")
_VERY = re.compile(r"(?:very|strongly|extremely|非常|很) ?")
_RATHER = re.compile(r"(?:rather|somewhat|slightly|weakly|moderately|比较|略) ?")
_BORDERS = re.compile(r"[.!?。！？；;…]\s*|[,，、:：]\s*|\s+")


class SentimentModel:
    """One classifier on one device. Thread-safe: one batch at a time, live calls before replays."""

    def __init__(self, settings: SentimentSettings) -> None:
        """Loads the model and tries it; blocks for seconds, or minutes where it is fetched.

        Raises ValueError for a setting, or a model, that cannot be used, Transient where the model
        cannot be had now.
        """
        its = loaded(
            "AutoModelForSequenceClassification", settings.model, setting=SETTING,
            revision=settings.revision, device=settings.device,
        )  # fmt: skip
        self._its, self._most = its, settings.max_characters
        self._languages = frozenset(settings.languages)
        self.name, self.device = its.name, its.device
        config = its.model.config
        if config.num_labels < 2:
            raise ValueError(
                f"{SETTING}={settings.model!r} gives one number and no labels; name a model that "
                "tells sentiment or emotion by labels"
            )
        named = [str(config.id2label[number]) for number in range(config.num_labels)]
        self._worth = its.torch.tensor(
            worths(named, settings.labels, settings.model), device=its.device
        )
        # Each label on its own, several or none of which may hold.
        self._apart = config.problem_type == "multi_label_classification"
        self._limit = min(its.tokens, LONGEST_TOKENS)
        if self._limit < _LEAST_TOKENS:
            raise ValueError(
                f"{SETTING}={settings.model!r} reads {self._limit} tokens, too few for a sentence"
            )
        # Tokenizers of one kind come with models of another.
        self._taken = frozenset(inspect.signature(its.model.forward).parameters)
        self._batch = settings.batch
        if its.tokenizer.pad_token is None:
            self._batch = 1
        self._slots = Slots(1)
        try:
            self.scores(["Thank you.", "thank you very much " * self._limit])
        except Exception as error:  # of every kind: whatever it is, it would be so of every call
            raise ValueError(
                f"{SETTING}={settings.model!r} cannot judge a text: {first_line(error)}; is it a "
                "model that was saved with its own tokenizer?"
            ) from error

    def reads(self, language: str) -> bool:
        """Whether it was said to read that language (BCP 47); one not known is read."""
        primary = language.split("-")[0].lower()
        return not self._languages or primary in ("", "und") or primary in self._languages

    def scores(self, texts: Sequence[str], *, replay: bool = False) -> list[float | None]:
        """What each text feels like, -1.0 to 1.0; None of one that is empty or too long.

        The same whatever else is asked of it, up to rounding. Holds a batch in memory, however many
        texts there are. Raises what the libraries raise.
        """
        # By length, so that little of a batch is padding; and what is said often is judged once.
        wanted = sorted(
            {text for text in texts if text.strip() and len(text) <= self._most},
            key=lambda text: (len(text), text),
        )
        found: dict[str, float] = {}
        for at in range(0, len(wanted), self._batch):
            with self._slots.taken(replay=replay):
                found.update(self._judged(wanted[at : at + self._batch]))
        return [found.get(text) for text in texts]

    def _judged(self, texts: Sequence[str]) -> Iterator[tuple[str, float]]:
        """(text, score); that of one in pieces is their mean, by tokens."""
        pieces = [(text, *piece) for text in texts for piece in self._pieces(text)]
        # Longest last, as the texts are; and no more at once than the settings say.
        totals = dict.fromkeys(texts, 0.0)
        weights = dict.fromkeys(texts, 0)
        for at in range(0, len(pieces), self._batch):
            some = pieces[at : at + self._batch]
            scores = self._forward([piece for _, piece, _ in some])
            for (text, _, size), score in zip(some, scores, strict=True):
                totals[text] += score * size
                weights[text] += size
        for text in texts:
            score = totals[text] / weights[text]
            if not math.isfinite(score):
                raise ArithmeticError("the model gives no number")
            yield text, round(max(-1.0, min(1.0, score)), 4)

    def _pieces(self, text: str) -> Iterator[tuple[str, int]]:
        """Pieces that the model can read, in order, each with its tokens; together the text."""
        # Half a pair of surrogates is no text to a tokenizer.
        pending = [text.encode("utf-8", "replace").decode()]
        while pending:
            piece = pending.pop()
            size = len(self._its.tokenizer(piece, truncation=False, verbose=False)["input_ids"])
            if size <= self._limit:
                yield piece, size
            elif len(piece) < 2:
                raise ValueError("one character has more tokens than the model reads")
            else:
                cut = middle(piece)
                pending += [piece[cut:], piece[:cut]]

    def _forward(self, texts: Sequence[str]) -> list[float]:
        try:
            return self._at_once(texts)
        except RuntimeError as error:
            if not is_out_of_memory(error) or len(texts) < 2:
                raise
        # What the failure's frames held is freed by now.
        self._its.torch.cuda.empty_cache()
        half = len(texts) // 2
        return self._forward(texts[:half]) + self._forward(texts[half:])

    def _at_once(self, texts: Sequence[str]) -> list[float]:
        its = self._its
        asked = its.tokenizer(
            list(texts), padding=len(texts) > 1, truncation=False, return_tensors="pt"
        )
        held = {name: it.to(its.device) for name, it in asked.items() if name in self._taken}
        with its.torch.inference_mode():
            logits: Any = its.model(**held).logits.float()
            if self._apart:
                shares = logits.sigmoid()
                # Several may hold: the score is that of their mean, not of their sum.
                shares = shares / shares.sum(dim=-1, keepdim=True).clamp(min=1.0)
            else:
                shares = logits.softmax(dim=-1)
            scores: list[float] = (shares @ self._worth).tolist()
        return scores


def worths(named: Sequence[str], own: Mapping[str, float], model: str) -> list[float]:
    """What each label of a model is worth; `own` says it first, its names in any case.

    Raises ValueError for labels that nobody knows, and for what `own` says of labels that are none.
    """
    labels = [_plain(name) for name in named]
    said = {_plain(name): worth for name, worth in own.items()}
    example = "'" + "{" + ", ".join(f'"{name}": 0.0' for name in named) + "}'"
    if strangers := sorted(name for name in own if _plain(name) not in labels):
        raise ValueError(
            f"enrich.sentiment.labels names {', '.join(strangers)}; the labels of "
            f"{SETTING}={model!r} are {', '.join(named)}"
        )
    graded = any(_VERY.match(label) for label in labels)
    found = [said.get(label, _worth(label, graded)) for label in labels]
    if unknown := [name for name, worth in zip(named, found, strict=True) if worth is None]:
        raise ValueError(
            f"{SETTING}={model!r} has labels that say nothing by name: {', '.join(unknown)}; say "
            "what each is worth, -1.0 (negative) to 1.0 (positive), as its card tells: "
            f"CALLSTREAM_ENRICH__SENTIMENT__LABELS={example}"
        )
    told = [worth for worth in found if worth is not None]
    if min(told) == max(told):
        raise ValueError(
            f"{SETTING}={model!r}: its labels {', '.join(named)} are all worth {told[0]:g}, so it "
            "tells nothing; set enrich.sentiment.labels, or name another model"
        )
    return told


def _worth(label: str, graded: bool) -> float | None:
    if (stars := _STARS.fullmatch(label)) is not None:
        return (int(stars[1] or stars[2]) - 3) / 2
    for degree, part in ((_VERY, 1.0), (_RATHER, 0.5)):
        if (found := degree.match(label)) is not None:
            worth = LABELS.get(label[found.end() :])
            return None if worth is None else worth * part
    worth = LABELS.get(label)
    # Beside "very negative", "negative" is half of it.
    return worth / 2 if worth is not None and graded else worth


def _plain(name: str) -> str:
    """In lower case, without what stands in brackets."""
    name = unicodedata.normalize("NFKC", name).casefold()
    return " ".join(re.sub(r"\(.*?\)", " ", name).replace("_", " ").replace("-", " ").split())


def middle(text: str) -> int:
    """Where to cut `text` in two: after a sentence, else a clause, else a word, near its middle.

    At least one character on either side, of two or more.
    """
    half, near = len(text) // 2, len(text) // 4
    best = (4, 0, half)
    for found in _BORDERS.finditer(text, half - near, half + near):
        if 0 < found.end() < len(text):
            sign = found[0][0]
            rank = 2 if sign.isspace() else 1 if sign in ",，、:：" else 0
            best = min(best, (rank, abs(found.end() - half), found.end()))
    return best[2]
