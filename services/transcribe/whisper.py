"""A Whisper model under CTranslate2 that hears many calls at once.

Each call's speech is cut into windows of up to 30 s, and windows of whoever is transcribed at the
moment are decoded together. Mel features, which take the processor, are made by the calls' own
threads meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

import ctranslate2
import numpy as np
import numpy.typing as npt
from faster_whisper.audio import pad_or_trim
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_suppressed_tokens, merge_punctuations

from services.transcribe.batches import Batches, Usage
from services.transcribe.engine import (
    NOTHING_KNOWN,
    RATE_HZ,
    Asked,
    Heard,
    HeardSegment,
    HeardWord,
    Samples,
    primary_tag,
)
from services.transcribe.languages import (
    Told,
    main_of,
    may_switch,
    most,
    of_window,
    stretches,
    telling,
)
from services.transcribe.placing import by_stretch, unaligned
from services.transcribe.spans import Span, total_ms
from services.transcribe.spans import windows as grouped

# Whisper hears 30 s at a time. Neighbouring stretches of speech share such a window, unless more
# silence than this lies between them: Whisper invents text on silence.
WINDOW_MS = 30_000
GAP_MS = 2_000
_FRAME_MS = 10
# Languages that older models have no token for -> the one that they are heard and written as.
_HEARD_AS = {"nn": "no"}
_PREPENDED, _APPENDED = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"

Features = npt.NDArray[np.float32]
"""Log-mel energies of a window: mel bands x 3,000 frames of 10 ms."""


@dataclass(frozen=True, slots=True, eq=False)
class _Window:
    """Stretches of speech that are heard together, within 30 s."""

    spans: Sequence[Span]

    @property
    def bounds(self) -> Span:
        return Span(self.spans[0].start_ms, self.spans[-1].end_ms)

    @property
    def speech_ms(self) -> int:
        return total_ms(self.spans)


@dataclass(frozen=True, slots=True, eq=False)
class _Tell:
    """To be told: the language of a window."""

    features: Features


@dataclass(frozen=True, slots=True, eq=False)
class _Decode:
    """To be decoded: a window in a language."""

    language: str
    words: bool
    """Whether its words are to be placed by what the decoder attends to."""
    length_ms: int
    features: Features | None
    encoded: npt.NDArray[Any] | None = None
    """In place of `features`, where the window's language was told: what its encoder made of it."""
    prompt: tuple[int, ...] = ()
    """Tokens of text that is taken to have been said before."""


_Step = _Tell | _Decode


@dataclass(frozen=True, slots=True, eq=False)
class _Encoded:
    """What the encoder makes of a window, kept off the device, and its languages' probability."""

    values: npt.NDArray[Any]
    probabilities: Mapping[str, float]


PlacedWord = tuple[str, HeardWord]
"""A word as it stands in the text, with the space before it; and the word, ms since the window's
start."""


class Aligner(Protocol):
    """Places the words of a text that is known, by a model of the language's sounds."""

    def knows(self, language: str) -> bool:
        """Whether there is such a model; loading it may take long."""

    def align(self, samples: Samples, text: str, language: str) -> Sequence[PlacedWord]:
        """The words of `text`, which is said in `samples`; none where they cannot be placed."""


@dataclass(frozen=True, slots=True)
class _Decoded:
    """What is said in a window. Without words where an aligner is to place them."""

    text: str
    words: tuple[PlacedWord, ...]
    logprob: float
    no_speech: float


class Whisper:
    """Thread-safe; blocks while the device is at work.

    Decoding has no temperature fallback (it would draw at random), no conditioning on earlier
    text (it spreads loops) and no no-speech cut: what may be invented is left to be flagged.
    """

    def __init__(
        self,
        model: Any,
        *,
        beam_size: int,
        batch_size: int,
        aligner: Aligner | None = None,
        task: Literal["transcribe", "translate"] = "transcribe",
    ) -> None:
        """`model` is a loaded `faster_whisper.WhisperModel`, or what derives from it.

        To `translate` is to write English whatever is spoken; words then have the times of what
        the decoder attends to.

        Words of languages that `aligner` knows get their times from it, others from what the
        decoder attends to.
        """
        self._model, self._beam_size, self._task = model, beam_size, task
        self._aligner = aligner if task == "transcribe" else None
        self._multilingual = bool(model.model.is_multilingual)
        # Its own tags are not all those of BCP 47. The library lists languages that older models
        # have no token for.
        self._tokenizers = {
            primary_tag(tag): Tokenizer(model.hf_tokenizer, self._multilingual, task, tag)
            for tag in model.supported_languages
            if not self._multilingual or model.hf_tokenizer.token_to_id(f"<|{tag}|>")
        }
        self._heard_as = {
            tag: known
            for tag, known in _HEARD_AS.items()
            if tag not in self._tokenizers and known in self._tokenizers
        }
        self.languages: Collection[str] = frozenset({*self._tokenizers, *self._heard_as})
        self._suppressed = get_suppressed_tokens(next(iter(self._tokenizers.values())), [-1])
        self._prompts = _Prompts(next(iter(self._tokenizers.values())), model.max_length)
        self._batches: Batches[_Step, _Encoded | _Decoded] = Batches(self._run, batch_size, _kind)

    @property
    def usage(self) -> Usage:
        """What the device has done so far."""
        return self._batches.usage

    def transcribe(
        self,
        audio: Samples,
        spans: Sequence[Span],
        asked: Asked = NOTHING_KNOWN,
    ) -> Heard:
        """As `Engine.transcribe`; a replay is heard where no live call has anything to be heard.

        Raises OutOfMemory where the device has no room for a single window.
        """
        asked = self._known(asked)
        under: list[tuple[_Window, Told]] = []
        found: list[HeardSegment] = []
        unplaced = 0
        prompt = self._prompts.of(asked)
        with (
            closing(self._steps(audio, spans, asked, prompt.tokens, under)) as steps,
            closing(self._batches.each(steps, replay=asked.replay)) as decoded,
        ):
            for number, heard in enumerate(decoded):
                assert isinstance(heard, _Decoded)
                window, told = under[number]
                tag = self._written(told.language)
                words: Sequence[PlacedWord] = heard.words
                if not words and self._aligner is not None and heard.text.strip():
                    words = self._aligner.align(_cut(audio, window.bounds), heard.text, tag)
                    unplaced += not words
                found += _split(heard, words, window, tag)
        spoken = most((told, window.speech_ms) for window, told in under)
        return Heard(
            segments=tuple(found),
            language=self._written(spoken.language) if under else spoken.language,
            language_confidence=spoken.certainty,
            degradations=unaligned(unplaced, len(under)),
            terms=prompt.terms,
            prompt=prompt.text,
        )

    def _steps(
        self,
        audio: Samples,
        spans: Sequence[Span],
        asked: Asked,
        prompt: tuple[int, ...],
        under: list[tuple[_Window, Told]],
    ) -> Generator[_Decode]:
        """What is to be decoded, each with its window and language put into `under` before."""

        def decode(window: _Window, told: Told, encoded: npt.NDArray[Any] | None = None) -> _Decode:
            under.append((window, told))
            features = self._features(audio, window) if encoded is None else None
            tag, length_ms = told.language, window.bounds.length_ms
            return _Decode(tag, self._places(tag), length_ms, features, encoded, prompt)

        windows = [_Window(each) for each in grouped(spans, WINDOW_MS, GAP_MS)]
        if asked.language is not None or not self._multilingual:
            told = Told(asked.language or "en", None)
            yield from (decode(window, told) for window in windows)
            return

        def encoded(wanted: Sequence[_Window]) -> Generator[_Encoded]:
            steps = (_Tell(self._features(audio, window)) for window in wanted)
            with closing(self._batches.each(steps, replay=asked.replay)) as answers:
                for answer in answers:
                    assert isinstance(answer, _Encoded)
                    yield answer

        first = telling([window.speech_ms for window in windows])
        known = dict(zip(first, encoded([windows[number] for number in first]), strict=True))
        main = main_of(
            ((it.probabilities, windows[number].speech_ms) for number, it in known.items()),
            asked.hints,
        )
        left = [window for number, window in enumerate(windows) if number not in known]
        with closing(encoded(left)) as others:
            for number, window in enumerate(windows):
                this = known.pop(number) if number in known else next(others)
                whole = of_window(this.probabilities, window.speech_ms, main, asked.hints)
                if len(window.spans) == 1 or not may_switch(this.probabilities, asked.hints):
                    yield decode(window, whole, this.values)
                    continue
                each = [_Window([span]) for span in window.spans]
                alone = [
                    (it.probabilities, part.speech_ms)
                    for it, part in zip(encoded(each), each, strict=True)
                ]
                parts = stretches(alone, whole, asked.hints)
                if len(parts) == 1:
                    yield decode(window, parts[0][1], this.values)
                    continue
                for numbers, told in parts:
                    yield decode(_Window([window.spans[at] for at in numbers]), told)

    def _known(self, asked: Asked) -> Asked:
        """`asked` with languages as the model has them."""
        tags = [self._heard_as.get(tag, tag) for tag in asked.hints]
        language = asked.language and self._heard_as.get(asked.language, asked.language)
        return replace(asked, language=language, hints=tuple(dict.fromkeys(tags)))

    def _written(self, spoken: str) -> str:
        return "en" if self._task == "translate" else spoken

    def _places(self, language: str) -> bool:
        return self._aligner is None or not self._aligner.knows(language)

    def _features(self, audio: Samples, window: _Window) -> Features:
        # The window alone is looked at: what lies beside it is not listened to.
        heard = _cut(audio, window.bounds)
        return np.asarray(pad_or_trim(self._model.feature_extractor(heard)[..., :-1]), np.float32)

    # On the device

    def _run(self, steps: Sequence[_Step]) -> Sequence[_Encoded | _Decoded]:
        if isinstance(steps[0], _Tell):
            return self._tell([step for step in steps if isinstance(step, _Tell)])
        return self._decode([step for step in steps if isinstance(step, _Decode)])

    def _tell(self, steps: Sequence[_Tell]) -> list[_Encoded]:
        encoded = self._model.model.encode(_stored([step.features for step in steps]), to_cpu=True)
        told = self._model.model.detect_language(encoded)
        if encoded.dtype == ctranslate2.DataType.bfloat16:  # which numpy does not know
            encoded = encoded.to(ctranslate2.DataType.float32)
        values = np.array(encoded)
        return [
            _Encoded(values[at], {primary_tag(token[2:-2]): float(p) for token, p in probabilities})
            for at, probabilities in enumerate(told)
        ]

    def _decode(self, steps: Sequence[_Decode]) -> list[_Decoded]:
        values = [step.encoded for step in steps if step.encoded is not None]
        features = [step.features for step in steps if step.features is not None]
        encoded = _stored(values) if values else self._model.encode(np.stack(features))
        results = self._model.model.generate(
            encoded,
            [self._prompt(step) for step in steps],
            beam_size=self._beam_size,
            max_length=self._model.max_length,
            suppress_tokens=self._suppressed,
            sampling_temperature=0.0,
            return_scores=True,
            return_no_speech_prob=True,
        )
        end = next(iter(self._tokenizers.values())).eot
        tokens = [[token for token in it.sequences_ids[0] if token < end] for it in results]
        words = self._words(steps, tokens, encoded)
        decoded: list[_Decoded] = []
        for at, (step, result) in enumerate(zip(steps, results, strict=True)):
            length = len(result.sequences_ids[0])
            decoded.append(
                _Decoded(
                    self._tokenizers[step.language].decode(tokens[at]),
                    tuple(words.get(at, ())),
                    round(min(0.0, float(result.scores[0]) * length / (length + 1)), 4),
                    round(float(result.no_speech_prob), 4),
                )
            )
        return decoded

    def _prompt(self, step: _Decode) -> list[int]:
        tokenizer = self._tokenizers[step.language]
        before = [tokenizer.sot_prev, *step.prompt] if step.prompt else []
        return [*before, *tokenizer.sot_sequence, tokenizer.no_timestamps]

    def _words(
        self, steps: Sequence[_Decode], tokens: Sequence[list[int]], encoded: Any
    ) -> dict[int, list[PlacedWord]]:
        """Number of a step -> its words, by what the decoder attended to."""
        groups: dict[str, list[int]] = {}
        for at, step in enumerate(steps):
            if tokens[at] and step.words:
                groups.setdefault(step.language, []).append(at)
        words: dict[int, list[PlacedWord]] = {}
        for language, numbers in groups.items():
            # Only what is off the device can be parted; what is on it is all of one language.
            values = [value for at in numbers if (value := steps[at].encoded) is not None]
            if values and len(numbers) < len(steps):
                encoded = _stored(values)
            elif not values:
                numbers = list(range(len(steps)))
            alignments = self._model.find_alignment(
                self._tokenizers[language],
                [tokens[at] for at in numbers],
                encoded,
                [-(-steps[at].length_ms // _FRAME_MS) for at in numbers],
            )
            for at, alignment in zip(numbers, alignments, strict=True):
                merge_punctuations(alignment, _PREPENDED, _APPENDED)
                words[at] = [_word(each) for each in alignment if each["word"]]
        return words


class _Prompt(NamedTuple):
    tokens: tuple[int, ...]
    terms: tuple[str, ...]
    text: str


class _Prompts:
    """What a call asks for as tokens: half of what the decoder can look back on."""

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        self._tokenizer, self._room = tokenizer, max_length // 2 - 1

    def of(self, asked: Asked) -> _Prompt:
        """The text asked for, then as many of the terms as there is room for; all of a text or
        term, or nothing of it."""
        tokens, text = self._encoded(asked.prompt), asked.prompt
        if not 0 < len(tokens) <= self._room:
            tokens, text = [], ""
        passed: list[int] = []
        terms: list[str] = []
        for term in asked.terms:
            more = self._encoded(term + ("," if terms else ""))
            if len(tokens) + len(passed) + len(more) > self._room:
                break
            if more:
                # The most important stands last, where it is believed most.
                passed[:0] = more
                terms.append(term)
        return _Prompt((*tokens, *passed), tuple(terms), text)

    def _encoded(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(" " + text.strip())) if text.strip() else []


def _kind(step: _Step) -> Hashable:
    """Steps of one kind are run together. Windows that come encoded may differ in language."""
    if isinstance(step, _Tell):
        return "tell"
    # Prompts of one batch are of one length.
    told = step.encoded is not None
    return len(step.prompt), *(("encoded",) if told else (step.language, step.words))


def _stored(values: Sequence[npt.NDArray[Any]]) -> Any:
    return ctranslate2.StorageView.from_array(np.ascontiguousarray(np.stack(values)))


def _word(timing: Mapping[str, Any]) -> PlacedWord:
    start = max(0, round(float(timing["start"]) * 1000))
    word = HeardWord(
        text=timing["word"].strip(),
        start_ms=start,
        end_ms=max(start, round(float(timing["end"]) * 1000)),
        confidence=round(min(1.0, max(0.0, float(timing["probability"]))), 4),
    )
    return timing["word"], word


def _cut(audio: Samples, span: Span) -> Samples:
    return np.asarray(
        audio[span.start_ms * RATE_HZ // 1000 : span.end_ms * RATE_HZ // 1000], np.float32
    )


def _split(
    heard: _Decoded, placed_words: Sequence[PlacedWord], window: _Window, language: str
) -> Iterator[HeardSegment]:
    """One segment per stretch of speech in `window`: Whisper gives one for all of it."""

    def made(text: str, span: Span, words: tuple[HeardWord, ...] | None) -> Iterator[HeardSegment]:
        if text.strip():
            known = [word.confidence for word in words or () if word.confidence is not None]
            certainty = math.exp(heard.logprob)  # the mean of its tokens
            yield HeardSegment(
                text=text.strip(),
                start_ms=span.start_ms,
                end_ms=span.end_ms,
                language=language,
                confidence=round(sum(known) / len(known) if known else certainty, 4),
                no_speech=heard.no_speech,
                logprob=heard.logprob,
                words=words,
            )

    spans, bounds = window.spans, window.bounds
    if not placed_words:
        yield from made(heard.text, bounds, None)
        return
    placed: list[list[PlacedWord]] = [[] for _ in spans]
    within = by_stretch([word for _, word in placed_words], spans, bounds.start_ms)
    for (text, _), (number, word) in zip(placed_words, within, strict=True):
        placed[number].append((text, word))
    for entries in placed:
        if not entries:
            continue
        words = tuple(word for _, word in entries)
        starts = [word.start_ms for word in words if word.start_ms is not None]
        ends = [word.end_ms for word in words if word.end_ms is not None]
        span = Span(min(starts), max(ends)) if starts and ends else bounds
        yield from made("".join(text for text, _ in entries), span, words)
