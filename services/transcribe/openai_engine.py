"""Speech through a server that transcribes as OpenAI's does: POST <url>/audio/transcriptions.

Served that way are Whisper (vLLM, speaches, whisper.cpp), Qwen3-ASR (vLLM) and OpenAI's own models.
The server is a dependency of ours, and what it answers is not trusted: an answer is read up to a
size and a time, its text is bounded, and times that cannot be are not taken over.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import httpcore
import httpx
import numpy as np

from schemas.events import Degradation, DegradationKind
from schemas.events import Engine as Identity
from services.runtime.endpoint import Slots, TooLarge, posted, reason_in, retry_after_s
from services.runtime.errors import Invalid, NotYet, Transient, cause
from services.runtime.observe import logger
from services.transcribe.engine import (
    NOTHING_KNOWN,
    RATE_HZ,
    UNDETERMINED,
    Asked,
    Heard,
    HeardSegment,
    HeardWord,
    Samples,
    primary_tag,
)
from services.transcribe.languages import TELLING_MS, Told, most
from services.transcribe.placing import by_stretch, placed
from services.transcribe.settings import EndpointSettings
from services.transcribe.spans import Span, total_ms, windows

V = TypeVar("V")

# Longer silence parts what is sent: models invent text on silence.
GAP_MS = 2_000
# What is sent is no shorter: servers refuse a tenth of a second.
_SHORTEST_MS = 500
# What nobody says in a second; more is a loop, or nonsense.
_MOST_CHARACTERS_A_SECOND = 100
_LONGEST_WORD = 200
# Answers kept of calls that a failure broke off, of a stretch each.
_MOST_KEPT = 512
_MOST_DOUBTED = 1_024
# A stretch that took too long so often, over so long, while others were answered in between, waits
# where it holds nobody up.
_SLOW_TIMES = 3
_SLOW_S = 300.0
# In one go, before a call starts again later.
_MOST_BUSY_TRIES = 10
_LONGEST_BUSY_S = 3_600.0
# A server that refused to give times is asked for them again after so long.
_FORM_AGAIN_S = 600.0

_NAMES = (
    "afrikaans=af albanian=sq amharic=am arabic=ar armenian=hy assamese=as azerbaijani=az "
    "bashkir=ba basque=eu belarusian=be bengali=bn bosnian=bs breton=br bulgarian=bg "
    "burmese=my cantonese=yue castilian=es catalan=ca chinese=zh croatian=hr czech=cs "
    "danish=da dutch=nl english=en estonian=et faroese=fo filipino=fil finnish=fi flemish=nl "
    "french=fr galician=gl georgian=ka german=de greek=el gujarati=gu haitian=ht hausa=ha "
    "hawaiian=haw hebrew=he hindi=hi hungarian=hu icelandic=is indonesian=id italian=it "
    "japanese=ja javanese=jv jw=jv kannada=kn kazakh=kk khmer=km korean=ko lao=lo latin=la "
    "latvian=lv lingala=ln lithuanian=lt luxembourgish=lb macedonian=mk malagasy=mg malay=ms "
    "malayalam=ml maltese=mt mandarin=zh maori=mi marathi=mr mongolian=mn myanmar=my "
    "nepali=ne norwegian=no nynorsk=nn occitan=oc panjabi=pa pashto=ps persian=fa polish=pl "
    "portuguese=pt punjabi=pa romanian=ro russian=ru sanskrit=sa serbian=sr shona=sn "
    "sindhi=sd sinhala=si slovak=sk slovenian=sl somali=so spanish=es sundanese=su "
    "swahili=sw swedish=sv tagalog=tl tajik=tg tamil=ta tatar=tt telugu=te thai=th "
    "tibetan=bo turkish=tr turkmen=tk ukrainian=uk urdu=ur uzbek=uz vietnamese=vi welsh=cy "
    "yiddish=yi yoruba=yo"
)
# Whisper's servers name the language in English, others give its tag.
_TAGS = dict(pair.split("=", 1) for pair in _NAMES.split())

# What may be asked for, the richest first: a server refuses what its model cannot give.
_WORDS = (
    ("response_format", "verbose_json"),
    ("timestamp_granularities[]", "word"),
    ("timestamp_granularities[]", "segment"),
)
_SEGMENTS = (
    ("response_format", "verbose_json"),
    ("timestamp_granularities[]", "segment"),
)
_TEXT = (("response_format", "json"),)
_FORMS = {
    "auto": (_WORDS, _SEGMENTS, _TEXT),
    "verbose_json": (_WORDS, _SEGMENTS),
    "json": (_TEXT,),
}


class EndpointFailed(Exception):
    """The server fails at this one stretch of audio, twice, and takes other audio in between.

    It answers 5xx, breaks off, or answers nonsense: to be slow is no such failure. Neither the
    call nor the server is known to be at fault: the call is tried a set number of times, and such
    calls in a row stop the stage.
    """


class _Doubtful(Transient):
    """The server, or what it was sent, is at fault."""


class _Slow(Transient):
    """No answer in time: of a server with much to do, or away, or of one that this takes long."""


class _Busy(Exception):
    """The server wants to be asked again later."""

    def __init__(self, told: str, after_s: float | None) -> None:
        super().__init__(told)
        self.after_s = after_s


class _Refused(Exception):
    """The server does not want what it was sent: its form, its settings or its audio."""


class _PromptRefused(_Refused):
    """The server takes no audio with that prompt, and takes it without."""


@dataclass(frozen=True, slots=True)
class _Question:
    wav: bytes
    length_ms: int
    language: str | None
    prompt: str

    @property
    def key(self) -> bytes:
        digest = hashlib.blake2b(self.wav, digest_size=16)
        digest.update(repr((self.language, self.prompt)).encode())
        return digest.digest()


@dataclass(frozen=True, slots=True)
class _Part:
    """Some text of an answer; times in ms since the start of what was sent, where they are known.

    The texts of `words` make up `text`.
    """

    text: str
    span: Span | None
    logprob: float | None = None
    no_speech: float | None = None
    words: tuple[HeardWord, ...] = ()


@dataclass(frozen=True, slots=True)
class _Answer:
    language: str
    parts: tuple[_Part, ...]
    named: str = ""
    """The language as the server names it, in lower case; empty where it does not."""
    form: int = 0
    """Which of the forms it was asked for in."""
    settled: bool = True
    """Whether it is known that the server gives no richer one, or which."""


@dataclass(slots=True)
class _Waited:
    """A stretch of which no answer came in time."""

    since_s: float
    answered: int
    """How many others had been answered when it last failed."""
    times: int = 0
    """How often it failed after others had been answered."""


class OpenAIEngine:
    """One model of a server. Thread-safe; nothing is asked of the server when it is made.

    Each stretch of speech is sent on its own, so that what the server gives no time lies within
    it. The same input gives an equal result as far as the server keeps to that: it is asked for
    no randomness.

    Raises Transient where the server is away, busy, refuses who asks or is no such server:
    `endpoint_down`, `endpoint_busy`, `endpoint_refused`, `endpoint_strange`. What was heard of the
    call until then is kept, and not asked for again. Raises Invalid (`endpoint_refused`) for audio
    that the server refuses while it takes silence so asked, EndpointFailed where it fails at it,
    and NotYet (`endpoint_slow`) for audio that it answers too late for minutes, and other in time.
    """

    def __init__(
        self,
        settings: EndpointSettings,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Raises ValueError for a setting that is missing or cannot be used."""
        if settings.url is None or not settings.model:
            missing = "url" if settings.url is None else "model"
            raise ValueError(
                f"transcribe.engine=openai needs transcribe.endpoint.{missing}, which is not set"
            )
        self._key = settings.api_key.get_secret_value()
        if not all("!" <= letter <= "~" for letter in self._key):
            raise ValueError(
                "transcribe.endpoint.api_key holds what no header may: letters, digits and signs "
                "of ASCII, without spaces, are a key"
            )
        self._tls = httpx.create_ssl_context(trust_env=False)
        if settings.ca_file is not None:
            try:
                self._tls.load_verify_locations(settings.ca_file)
            except OSError as error:
                raise ValueError(
                    f"transcribe.endpoint.ca_file={str(settings.ca_file)!r}: {error}"
                ) from error
        self._settings, self._clock, self._sleep = settings, clock, sleep
        self._url = f"{settings.url}/audio/transcriptions"
        self._forms = _FORMS[settings.response_format]
        self._slots = Slots(settings.concurrency)
        self._lock = threading.Lock()
        self._form = 0  # which of them it takes, as far as is known
        self._given = len(self._forms)  # the richest in which it has answered
        self._form_again_at = 0.0
        self._busy_until = 0.0
        self._kept: OrderedDict[bytes, _Answer] = OrderedDict()
        self._doubted: OrderedDict[bytes, None] = OrderedDict()
        self._slow: OrderedDict[bytes, _Waited] = OrderedDict()
        self._answered = 0
        self.languages: Collection[str] | None = (
            None
            if settings.languages is None
            else frozenset(primary_tag(tag) for tag in settings.languages)
        )
        self.identity = Identity(
            name="openai",
            version="1",
            model=settings.model,
            model_revision=settings.revision,
            device="remote",
            options={
                "url": settings.url,
                "response_format": settings.response_format,
                "longest_s": f"{settings.longest_s:g}",
                "prompt_characters": str(settings.prompt_characters),
                "window_gap_ms": str(GAP_MS),
            },
        )

    def transcribe(
        self,
        audio: Samples,
        spans: Sequence[Span],
        asked: Asked = NOTHING_KNOWN,
    ) -> Heard:
        heard = list(windows(spans, round(self._settings.longest_s * 1000), GAP_MS))
        prompt = _prompt(asked, self._settings.prompt_characters)
        try:
            return self._heard(audio, heard, asked, prompt)
        except _PromptRefused as refused:
            logger("transcribe").warning(
                "a call is heard without its prompt, which the server refuses",
                url=self._url, why=str(refused),
            )  # fmt: skip
            return self._heard(audio, heard, asked, _Prompt("", (), ""))

    def _heard(
        self, audio: Samples, heard: Sequence[Sequence[Span]], asked: Asked, prompt: _Prompt
    ) -> Heard:
        """What is said in each of the stretches `heard`. Raises _PromptRefused."""
        sent: list[bytes] = []

        def question(window: Sequence[Span], language: str | None) -> _Question:
            made = _question(audio, window, language, prompt.sent)
            sent.append(made.key)
            return made

        answers = [self._answer(question(window, asked.language), asked.replay) for window in heard]
        told = [self._told(each, asked) for each in answers]
        main = most((it, total_ms(window)) for it, window in zip(told, heard, strict=True))
        names = _names(main.language, answers)
        for number, window in enumerate(heard):
            other = told[number].language not in (main.language, UNDETERMINED)
            if other and main.language != UNDETERMINED and total_ms(window) < TELLING_MS:
                # Too short to tell a language by: heard as what is spoken around it. There is an
                # answer already: where the server gives no other, that one counts.
                for name in names:
                    with suppress(_Refused, EndpointFailed):
                        again = question(window, name)
                        answers[number] = self._taken(again, asked.replay, self.probe)
                        told[number] = main
                        break
        with self._lock:
            for key in sent:
                self._kept.pop(key, None)
        return Heard(
            segments=tuple(
                segment
                for each, it, window in zip(answers, told, heard, strict=True)
                for segment in _segments(each, window, it.language)
            ),
            language=main.language,
            degradations=self._poorer(answers),
            terms=prompt.terms,
            prompt=prompt.text,
        )

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return self._slots.waiting

    def probe(self) -> None:
        """Have a second of silence transcribed. Raises Transient where that cannot be done."""
        try:
            self._asked(_second(), replay=False)
        except _Refused as refused:
            raise self._transient(
                "endpoint_refused",
                f"{refused}, of a second of silence; does it have the model "
                f"transcribe.endpoint.model={self._settings.model!r}, and does "
                f"transcribe.endpoint.response_format={self._settings.response_format!r} suit it?",
            ) from None

    def _probe_like(self, question: _Question, replay: bool) -> None:
        """Have silence transcribed as `question` is to be, and no shorter than a second.

        Where that cannot be done it is not the call's audio that is at fault. Raises _PromptRefused
        where it can be done without the prompt, and Transient that says what is refused.
        """
        like = replace(question, wav=_silence(question), length_ms=max(1_000, question.length_ms))
        refused = self._refusal(like, replay)
        if refused is None:
            return
        if like.prompt:
            like = replace(like, prompt="")
            if self._refusal(like, replay) is None:
                raise _PromptRefused(str(refused))
        if like.language is not None and not self._refusal(replace(like, language=None), replay):
            raise self._transient(
                "endpoint_refused",
                f"{refused}, of silence too, and takes it where no language is named: it does not "
                f"know transcribe.language={like.language!r}; set another, or unset it",
            )
        self.probe()
        raise self._transient(
            "endpoint_refused",
            f"{refused}, of {like.length_ms} ms of silence, while it takes a second: lower "
            f"transcribe.endpoint.longest_s={self._settings.longest_s:g}",
        )

    def _refusal(self, question: _Question, replay: bool) -> _Refused | None:
        try:
            self._asked(question, replay)
        except _Refused as refused:
            return refused
        return None

    def _told(self, answer: _Answer, asked: Asked) -> Told:
        if asked.language is not None:
            return Told(asked.language, None)
        if answer.language == UNDETERMINED and len(asked.hints) == 1:
            (only,) = asked.hints
            if self.languages is None or only in self.languages:
                return Told(only, None)
        return Told(answer.language, None)

    # What is asked, and what is known of it

    def _answer(self, question: _Question, replay: bool) -> _Answer:
        """Raises Invalid where the audio is refused, and _PromptRefused."""

        def probe() -> None:
            self._probe_like(question, replay)

        try:
            return self._taken(question, replay, probe)
        except _PromptRefused:
            raise
        except _Refused:
            probe()
        # It may have been the server's mood: a call is given up only for what happens twice.
        try:
            return self._taken(question, replay, probe)
        except _PromptRefused:
            raise
        except _Refused as refused:
            told = f"{self._where(refused)}, of this call's audio, while it takes silence so asked"
            raise Invalid("endpoint_refused", told) from None

    def _taken(self, question: _Question, replay: bool, probe: Callable[[], None]) -> _Answer:
        """The answer, which may be known; where it is in doubt, `probe` is to pass first.

        Raises _Refused, NotYet where it has come too late for long, and what `probe` raises.
        """
        key = question.key
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                return kept
            doubted = key in self._doubted
        if doubted:
            # It was this, or the server. Who takes silence now is not away.
            probe()
        try:
            answer = self._asked(question, replay)
        except _Doubtful as failure:
            if doubted:
                raise EndpointFailed(f"{failure}; it takes other audio") from failure
            with self._lock:
                _remember(self._doubted, key, None, _MOST_DOUBTED)
            raise
        except _Slow as failure:
            if (waited := self._waited(key)) is None:
                raise
            raise NotYet(
                "endpoint_slow",
                f"{failure.detail}; so {waited.times + 1} times in "
                f"{self._clock() - waited.since_s:.0f} s, while it answers others",
            ) from failure
        with self._lock:
            self._answered += 1
            self._doubted.pop(key, None)
            self._slow.pop(key, None)
            _remember(self._kept, key, answer, _MOST_KEPT)
        return answer

    def _waited(self, key: bytes) -> _Waited | None:
        """Note that no answer came in time; how long that has been so where others get theirs.

        None where it is too early to say so, and where nothing is answered: a server that is away,
        or has too much to do, is waited for.
        """
        now = self._clock()
        with self._lock:
            waited = self._slow.get(key)
            if waited is None:
                _remember(self._slow, key, _Waited(now, self._answered), _MOST_DOUBTED)
                return None
            self._slow.move_to_end(key)
            others = self._answered > waited.answered
            waited.answered = self._answered
            waited.times += others
            long = waited.times + 1 >= _SLOW_TIMES and now - waited.since_s >= _SLOW_S
            return waited if others and long else None

    def _asked(self, question: _Question, replay: bool) -> _Answer:
        """The answer in the richest form that the server gives. Raises _Refused."""
        with self._lock:
            first = self._form if self._clock() < self._form_again_at else 0
        refusals: list[_Refused] = []
        for number in range(first, len(self._forms)):
            try:
                answer = self._sent(question, self._forms[number], replay)
            except _Refused as refused:
                refusals.append(refused)
                continue
            with self._lock:
                self._given = min(self._given, number)
                self._form = min(self._form, number)
            settled = not refusals or self._learn(range(first, number), refusals[0], replay)
            return replace(answer, form=number, settled=settled)
        raise refusals[0]

    def _learn(self, refused: range, why: _Refused, replay: bool) -> bool:
        """Find out which of the forms that were `refused` the server does not give at all.

        What it gives of silence it does give: then it is asked for by the next question too.
        False where that cannot be found out now.
        """
        taken = refused.stop
        for number in refused:
            try:
                self._sent(_second(), self._forms[number], replay)
            except _Refused:
                continue
            except Transient:
                return False
            taken = number
            break
        with self._lock:
            lower = taken > self._form
            self._form = taken
            self._given = min(self._given, taken)
            self._form_again_at = self._clock() + _FORM_AGAIN_S
        if lower:
            logger("transcribe").warning(
                "times are not asked for, for a while" if self._forms[taken] is _TEXT
                else "times of words are not asked for, for a while",
                url=self._url, why=str(why),
            )  # fmt: skip
        return True

    def _poorer(self, answers: Sequence[_Answer]) -> tuple[Degradation, ...]:
        """Where an answer is in a poorer form than the server gives, or may give.

        What a server has never given, of silence neither, nobody misses.
        """
        with self._lock:
            best = self._given
        count = sum(each.form > best or not each.settled for each in answers if each.parts)
        if not count:
            return ()
        reason = f"the server gives no word times for {count} of {len(answers)} stretches"
        return (Degradation(kind=DegradationKind.NO_ALIGNMENT, reason=reason),)

    def _sent(self, question: _Question, form: Iterable[tuple[str, str]], replay: bool) -> _Answer:
        until = self._clock() + self._settings.busy_wait_s
        for tried in range(_MOST_BUSY_TRIES):
            with self._lock:
                wait_s = self._busy_until - self._clock()
            if wait_s > 0:
                if self._clock() + wait_s > until:
                    raise self._transient(
                        "endpoint_busy", f"it asks for {wait_s:.0f} s without requests"
                    )
                self._sleep(wait_s)
            try:
                with self._slots.taken(replay=replay):
                    return self._posted(question, form)
            except _Busy as busy:
                told = str(busy)
                after_s = 2.0**tried if busy.after_s is None else max(0.5, busy.after_s)
                with self._lock:
                    self._busy_until = max(
                        self._busy_until, self._clock() + min(after_s, _LONGEST_BUSY_S)
                    )
        raise self._transient("endpoint_busy", told)

    # Over HTTP

    def _posted(self, question: _Question, form: Iterable[tuple[str, str]]) -> _Answer:
        settings = self._settings
        fields = [("model", settings.model), ("temperature", "0"), *form]
        if question.language is not None:
            fields.append(("language", question.language))
        if question.prompt:
            fields.append(("prompt", question.prompt))
        boundary = uuid.uuid4().hex
        body = _multipart(boundary, fields, question.wav)
        headers = [
            ("Host", httpx.URL(self._url).netloc.decode("ascii")),
            ("Content-Type", f"multipart/form-data; boundary={boundary}"),
            ("Content-Length", str(len(body))),
            ("Accept", "application/json"),
            ("Accept-Encoding", "identity"),  # what is counted is what was sent
            ("User-Agent", "callstream-transcribe"),
        ]
        if self._key:
            headers.append(("Authorization", f"Bearer {self._key}"))
        try:
            answer = posted(
                self._url, headers, body, tls=self._tls, connect_s=settings.connect_timeout_s,
                limit_s=settings.timeout_s, most_bytes=settings.max_answer_bytes,
            )  # fmt: skip
        except TooLarge:
            raise self._doubtful(
                "endpoint_strange",
                f"answers with more than transcribe.endpoint.max_answer_bytes="
                f"{settings.max_answer_bytes}",
            ) from None
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            told = f"cannot be reached ({cause(error)})"
            raise self._transient("endpoint_down", told) from error
        except httpcore.TimeoutException as error:
            # Of a server with much to do, too: it says nothing of what was sent.
            raise self._slow_to(
                f"no answer within transcribe.endpoint.timeout_s={settings.timeout_s:g}; where it "
                "needs longer, raise that, or lower transcribe.endpoint.longest_s="
                f"{settings.longest_s:g} or transcribe.endpoint.concurrency="
                f"{settings.concurrency}"
            ) from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise self._doubtful("endpoint_down", f"breaks off ({cause(error)})") from error
        self._judge(*answer)
        try:
            return _read(answer.body, question.length_ms)
        except _Strange as strange:
            raise self._doubtful(
                "endpoint_strange",
                f"answers {strange}; is transcribe.endpoint.url that of a server which "
                "transcribes as OpenAI's does, with its path, such as /v1?",
            ) from None

    def _judge(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Raises what an answer other than a transcript means."""
        if 200 <= status < 300:
            return
        told = f"answers {status}"
        if said := reason_in(body, self._key):
            told += f" ({said})"
        if 300 <= status < 400:
            raise self._transient(
                "endpoint_refused",
                f"{told}; redirects are not followed: set transcribe.endpoint.url to where the "
                "server is",
            )
        match status:
            case 400 | 415 | 422:
                raise _Refused(told)
            case 401 | 403:
                mend = "see transcribe.endpoint.api_key"
            case 404 | 405 | 410:
                mend = (
                    f"has transcribe.endpoint.url the path before /audio/transcriptions, and the "
                    f"server the model transcribe.endpoint.model={self._settings.model!r}?"
                )
            case 413:
                # A stretch is as long as any may be: this is never about one call.
                mend = f"lower transcribe.endpoint.longest_s={self._settings.longest_s:g}"
            case 409 | 425 | 429:
                raise _Busy(told, retry_after_s(headers))
            case 503 if "retry-after" in headers:
                raise _Busy(told, retry_after_s(headers))
            case 408 | 502 | 503 | 504:
                # A gateway says that the server is away, or that something took too long.
                raise self._slow_to(told)
            case _ if status >= 500:
                raise self._doubtful("endpoint_down", told)
            case _:
                mend = "nothing that is asked for here is known to bring this about"
        raise self._transient("endpoint_refused", f"{told}; {mend}")

    def _where(self, told: object) -> str:
        return f"{self._url} {told}"

    def _transient(self, reason: str, told: object) -> Transient:
        return Transient(reason, self._where(told))

    def _slow_to(self, told: object) -> _Slow:
        return _Slow("endpoint_down", self._where(told))

    def _doubtful(self, reason: str, told: object) -> _Doubtful:
        return _Doubtful(reason, self._where(told))


def _remember(kept: OrderedDict[bytes, V], key: bytes, value: V, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)


# What is sent


@dataclass(frozen=True, slots=True)
class _Prompt:
    sent: str
    terms: tuple[str, ...]
    text: str


def _prompt(asked: Asked, room: int) -> _Prompt:
    """The text asked for, then as many terms as there is room for; each whole or not at all.

    The most important term stands last: a Whisper believes most what it was told last.
    """
    text = asked.prompt.strip()
    if len(text) > room:
        text = ""
    terms: list[str] = []
    length = len(text)
    for term in asked.terms:
        length += len(term.strip()) + 2  # what is put before it
        if length > room:
            break
        terms.append(term)
    named = ", ".join(term.strip() for term in reversed(terms) if term.strip())
    sent = " ".join(part for part in (text, named) if part)
    return _Prompt(sent, tuple(terms), asked.prompt if text else "")


def _question(
    audio: Samples, window: Sequence[Span], language: str | None, prompt: str
) -> _Question:
    start, end = window[0].start_ms, window[-1].end_ms
    samples = audio[start * RATE_HZ // 1000 : end * RATE_HZ // 1000]
    shortest = _SHORTEST_MS * RATE_HZ // 1000
    if samples.size < shortest:
        samples = np.pad(samples, (0, shortest - samples.size))
    pcm = (np.clip(samples, -1.0, 1.0) * 32767).astype("<i2").tobytes()
    return _Question(_wav(pcm), end - start, language, prompt)


def _second() -> _Question:
    """A second of silence, of which nothing is said."""
    return _question(np.zeros(RATE_HZ, np.float32), [Span(0, 1_000)], None, "")


def _silence(question: _Question) -> bytes:
    """As long as `question`; no shorter than a second, which every server takes."""
    samples = max(RATE_HZ, question.length_ms * RATE_HZ // 1000)
    return _wav(bytes(2 * samples))


def _wav(pcm: bytes) -> bytes:
    """16-bit mono at 16 kHz as a file."""
    form = struct.pack("<HHIIHH", 1, 1, RATE_HZ, RATE_HZ * 2, 2, 16)
    head = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(pcm))
    return b"RIFF" + struct.pack("<I", len(head) + len(pcm)) + head + pcm


def _multipart(boundary: str, fields: Iterable[tuple[str, str]], wav: bytes) -> bytes:
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="audio.wav"\r\n'
        "Content-Type: audio/wav\r\n\r\n"
    )
    head = "".join(parts).encode("utf-8", "replace")
    return b"".join((head, wav, f"\r\n--{boundary}--\r\n".encode()))


# What is answered


class _Strange(Exception):
    """An answer that is no transcript."""


def _read(body: bytes, length_ms: int) -> _Answer:
    """What a server says is spoken in `length_ms` of audio. Raises _Strange.

    Nothing in it is trusted: what has another type than it should is as if it were not there.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise _Strange("without JSON") from None
    text = found.get("text") if isinstance(found, dict) else None
    if not isinstance(text, str):
        raise _Strange("without a text")
    said = found.get("language")
    language = _language(said)
    # Qwen3-ASR's own form, which some servers pass on.
    named, tag, rest = text.partition("<asr_text>")
    if tag:
        text = rest
        if language == UNDETERMINED:
            said = named.strip().removeprefix("language ").partition(",")[0]
            language = _language(said)
    parts = _parts(found, length_ms)
    if not parts:
        parts = [_Part(_clean(text, _most_characters(length_ms)), None)]
        words = placed(parts[0].text, _words(found.get("words"), length_ms)).words
        parts = [replace(parts[0], words=words)]
    named = "" if language == UNDETERMINED else str(said).strip().lower()
    return _Answer(language, tuple(part for part in parts if part.text), named)


def _most_characters(length_ms: int) -> int:
    return _MOST_CHARACTERS_A_SECOND * -(-length_ms // 1000)


def _parts(found: dict[str, Any], length_ms: int) -> list[_Part]:
    """The segments of an answer, with their words; none where it has none."""
    parts: list[_Part] = []
    beside = _words(found.get("words"), length_ms)
    room = _most_characters(length_ms)
    believed = True
    earliest = 0
    for each in _list(found.get("segments")):
        if not isinstance(each, dict) or not isinstance(each.get("text"), str):
            continue
        text = _clean(each["text"], room)
        if not text:
            continue
        room -= len(text)
        span = _span(each, length_ms)
        believed = believed and span is not None and span.start_ms >= earliest
        earliest = span.start_ms if span is not None else earliest
        own = _words(each.get("words"), length_ms)
        words, taken = placed(text, own or beside)
        if not own:
            beside = beside[taken:]
        # A ratio of 0 or less is none: a server that has no such figures fills in 0 or -1.
        ratio = _number(each.get("compression_ratio"))
        figures = ratio is None or ratio > 0.0
        logprob = _number(each.get("avg_logprob")) if figures else None
        no_speech = _number(each.get("no_speech_prob")) if figures else None
        parts.append(
            _Part(
                text,
                span,
                None if logprob is None else round(min(0.0, logprob), 4),
                None if no_speech is None or not 0 <= no_speech <= 1 else round(no_speech, 4),
                words,
            )
        )
    if believed:
        return parts
    # One time that cannot be, and none is believed.
    return [replace(part, span=None, words=()) for part in parts]


def _words(found: object, length_ms: int) -> list[HeardWord]:
    """Words as they are named, with the times that may be; no more than a text can hold."""
    words: list[HeardWord] = []
    for each in _list(found)[: _most_characters(length_ms)]:
        if isinstance(each, dict) and isinstance(each.get("word"), str):
            span = _span(each, length_ms)
            sure = _number(each.get("probability"))
            words.append(
                HeardWord(
                    text=_clean(each["word"], _LONGEST_WORD),
                    start_ms=None if span is None else span.start_ms,
                    end_ms=None if span is None else span.end_ms,
                    confidence=None if sure is None or not 0 <= sure <= 1 else round(sure, 4),
                )
            )
    return words


def _span(found: dict[str, Any], length_ms: int) -> Span | None:
    """Its start and end within the audio; None where they cannot be."""
    start, end = _number(found.get("start")), _number(found.get("end"))
    if start is None or end is None or not 0 <= start <= end:
        return None
    # A model that hears 30 s at a time may end its last words there, whatever it was sent.
    first = min(round(min(start, length_ms) * 1000), length_ms)
    return Span(first, min(round(min(end, length_ms) * 1000), length_ms))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _language(value: object) -> str:
    if not isinstance(value, str):
        return UNDETERMINED
    value = value.strip().lower()
    if value in _TAGS:
        return _TAGS[value]
    return primary_tag(value) if re.fullmatch(r"[a-z]{2,3}([-_][a-z0-9]{1,8})*", value) else "und"


def _names(language: str, answers: Iterable[_Answer]) -> list[str]:
    """What a server may know `language` by, likeliest first: a tag, as it says itself or as we do.

    Some take no names, and some, as Whisper's for Javanese, other tags.
    """
    said = [each.named for each in answers if each.language == language and each.named]
    own = said[:1]
    return list(dict.fromkeys([*(it for it in own if len(it) <= 3), language, *own]))


def _clean(text: str, longest: int) -> str:
    """`text` as it may be published: without what no transcript holds, and no longer than that."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", " ", text[: longest + 1_000])
    return text.strip()[: max(0, longest)].rstrip()


def _segments(answer: _Answer, window: Sequence[Span], language: str) -> Iterator[HeardSegment]:
    """What is said in `window`, by its stretches of speech as far as words have times."""
    bounds = Span(window[0].start_ms, window[-1].end_ms)
    earliest = bounds.start_ms
    for part in answer.parts:
        for text, span, words in _stretches(part, window, bounds):
            known = [word.confidence for word in words if word.confidence is not None]
            sure = sum(known) / len(known) if known else None
            if sure is None and part.logprob is not None:
                sure = math.exp(part.logprob)  # the mean of its tokens
            start = max(earliest, span.start_ms)
            earliest = start
            yield HeardSegment(
                text=text,
                start_ms=start,
                end_ms=max(start, span.end_ms),
                language=language,
                confidence=None if sure is None else round(sure, 4),
                no_speech=part.no_speech,
                logprob=part.logprob,
                words=words or None,
            )


def _stretches(
    part: _Part, window: Sequence[Span], bounds: Span
) -> Iterator[tuple[str, Span, tuple[HeardWord, ...]]]:
    """`part` by the stretches of speech that its words lie in, on the timeline of `window`."""
    whole = bounds if part.span is None else part.span.shifted(bounds.start_ms)
    if not any(word.start_ms is not None for word in part.words):
        yield part.text, whole, ()
        return
    groups: list[list[HeardWord]] = [[] for _ in window]
    for number, word in by_stretch(part.words, window, bounds.start_ms):
        groups[number].append(word)
    for group in groups:
        text = "".join(word.text for word in group).strip()
        if not text:
            continue
        starts = [word.start_ms for word in group if word.start_ms is not None]
        ends = [word.end_ms for word in group if word.end_ms is not None]
        span = Span(min(starts), max(ends)) if starts else whole
        yield text, span, tuple(replace(word, text=word.text.strip()) for word in group)
