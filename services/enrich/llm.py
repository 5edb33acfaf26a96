"""What is asked of a language model, and one of a server: POST <url>/chat/completions.

Served that way are models by vLLM, Ollama, llama.cpp and OpenAI itself. The server is a dependency
of ours, and what it answers is not trusted: an answer is read up to a size and a time.

    LlmFailure
    ├── Away      it cannot be had now: down, busy, slow, or it refuses who asks
    ├── TooLong   the model reads no text of that length
    ├── Unusable  it answers, and not with what was asked for
    └── Spent     the call has had all the time, requests or tokens that a call may have
"""

from __future__ import annotations

import json
import random
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import httpcore
import httpx

from schemas.events import LlmUsage
from services.enrich.settings import LlmSettings
from services.runtime.endpoint import (
    Answer,
    Slots,
    TooLarge,
    error_in,
    parsed,
    posted,
    reason_in,
    retry_after_s,
)
from services.runtime.errors import NotYet, cause
from services.runtime.observe import logger

# Of what a server says of a failure.
_LONGEST_REASON = 300
_LONGEST_BUSY_S = 3_600.0
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 15.0
# A server that refused a form, or a field, is asked for it again after so long.
_FORM_AGAIN_S = 600.0
_PROBE_S = 30.0

_TOO_LONG = re.compile(
    r"context[ _-]?(length|window|size)|maximum context|max_model_len|num_ctx|too many tokens"
    r"|(prompt|input)[^.]{0,40}too (long|large)|reduce the length",
    re.IGNORECASE,
)
# Fields that some servers or models do not take, and which can be done without.
_DISPENSABLE = ("seed", "temperature", "max_tokens")

Message = Mapping[str, str]


class LlmFailure(Exception):
    """`reason` is a stable snake_case word; `detail`, for people, names neither server nor key."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Away(LlmFailure):
    """`again`: trying again soon may help; `after_s`: when, where the server says so."""

    def __init__(
        self, reason: str, detail: str, again: bool = True, after_s: float | None = None
    ) -> None:
        super().__init__(reason, detail)
        self.again = again
        self.after_s = after_s


class TooLong(LlmFailure):
    """Less text may be read."""


class Unusable(LlmFailure):
    """`said` is what was answered, as far as there is something to mend; None: asking is in vain.

    `doubt`: the server may take nothing that is so asked, of any call.
    """

    def __init__(
        self, reason: str, detail: str, said: str | None = None, doubt: bool = False
    ) -> None:
        super().__init__(reason, detail)
        self.said = said
        self.doubt = doubt


class Spent(LlmFailure):
    """Asking on would take more than a call may."""


class _Refused(Exception):
    """The server does not want what it was sent: its form, its fields or its text."""


@dataclass(frozen=True, slots=True)
class Reply:
    text: str
    form: str
    """In which form it was asked for: json_schema, json_object or text."""


class LanguageModel(Protocol):
    """One model, wherever it runs. Thread-safe."""

    @property
    def name(self) -> str:
        """What is told of who made a summary."""

    @property
    def where(self) -> str:
        """For the log."""

    def ask(
        self,
        messages: Sequence[Message],
        schema: Mapping[str, Any],
        tokens: int,
        allowance: Allowance,
        replay: bool = False,
    ) -> Reply:
        """What the model answers to `messages`, asked for JSON of that schema.

        `tokens` is what they are held to take. Counts what it takes on `allowance`. Raises
        LlmFailure; of a replay NotYet, where live calls take all of its time.
        """

    def probe(self) -> None:
        """Raises Away where it answers nothing, whatever is asked."""


@dataclass(slots=True)
class Allowance:
    """What one call may still take, and what it took. Of one thread."""

    clock: Callable[[], float]
    until: float
    """By the clock."""
    patience_s: float
    requests: int
    tokens: int
    answered: bool = False
    """Whether the server has answered anything but that it is away."""
    _sent: int = 0
    _read: int = 0
    _written: int = 0
    _seconds: float = 0.0

    @classmethod
    def of(cls, settings: LlmSettings, clock: Callable[[], float]) -> Allowance:
        """That of a call which begins now."""
        return cls(
            clock,
            clock() + settings.call_s,
            settings.patience_s,
            settings.call_requests,
            settings.call_tokens,
        )

    @property
    def left_s(self) -> float:
        return self.until - self.clock()

    @property
    def usage(self) -> LlmUsage | None:
        """None where nothing was asked."""
        if not self._sent:
            return None
        return LlmUsage(
            requests=self._sent,
            prompt_tokens=self._read,
            completion_tokens=self._written,
            seconds=round(self._seconds, 3),
        )

    def check(self, tokens: int) -> None:
        """Raises Spent where a request of so many tokens, its answer included, is one too many."""
        if self.left_s <= 0:
            raise Spent("llm_time", "the call has had its enrich.llm.call_s")
        if self.requests < 1:
            raise Spent("llm_requests", "the call has had its enrich.llm.call_requests")
        if self.tokens < tokens:
            raise Spent("llm_tokens", "the call has had its enrich.llm.call_tokens")

    @property
    def taken(self) -> tuple[int, int, int, float]:
        """Requests, tokens read and written, seconds."""
        return self._sent, self._read, self._written, self._seconds

    def recall(self, requests: int, read: int, written: int, seconds: float) -> None:
        """Count what an answer took when it was given: it takes nothing now."""
        self._sent += requests
        self._read += read
        self._written += written
        self._seconds += seconds

    def took(self, seconds: float, estimated: int, read: int = 0, written: int = 0) -> None:
        """Count a request; its tokens are those the server counts, else those estimated."""
        self.requests -= 1
        self.tokens -= read + written or estimated
        self._sent += 1
        self._read += read
        self._written += written
        self._seconds += seconds


class Circuit:
    """Spares calls the wait for a server that others have just found away. Thread-safe.

    After `calls` in a row it is open for `pause_s`; then one call at a time may try.
    """

    def __init__(self, calls: int, pause_s: float, clock: Callable[[], float]) -> None:
        self._calls, self._pause_s, self._clock = calls, pause_s, clock
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._open_until = 0.0
        self._trying = False
        self._last: Away | None = None

    @contextmanager
    def call(self) -> Iterator[bool]:
        """A call that asks the server; True where it is the one that tries whether it is back.

        Raises Away where the circuit is open. The block raises Away where the server is away; a
        block that asked nothing raises nothing or another exception, and changes nothing then.
        """
        with self._lock:
            trial = self._in_a_row >= self._calls
            if trial:
                left_s = self._open_until - self._clock()
                if left_s > 0 or self._trying:
                    why = f"; last: {self._last}" if self._last else ""
                    raise Away(
                        "llm_away",
                        f"the server was away for {self._in_a_row} calls in a row and is left "
                        f"alone for {max(0.0, left_s):.0f} s more{why}",
                        again=False,
                    )
                self._trying = True
        try:
            yield trial
        except Away as away:
            with self._lock:
                self._in_a_row += 1
                self._last = away
                self._open_until = self._clock() + self._pause_s
            raise
        finally:
            if trial:
                with self._lock:
                    self._trying = False

    def answered(self) -> None:
        """The server answers: whatever it says, it is not away."""
        with self._lock:
            self._in_a_row = 0


@contextmanager
def turn(slots: Slots, allowance: Allowance, replay: bool) -> Iterator[None]:
    """Raises Spent where none is free while the call may take; of a replay NotYet: it waits."""
    with ExitStack() as held:
        try:
            held.enter_context(slots.taken(replay=replay, most_s=allowance.left_s))
        except TimeoutError:
            if replay:
                raise NotYet(
                    "llm_busy", "live calls took every request for enrich.llm.call_s"
                ) from None
            raise Spent(
                "llm_time", "enrich.llm.call_s went by while other calls were asked for"
            ) from None
        yield


class ChatModel:
    """One model of a server. Thread-safe; nothing is asked of the server when it is made."""

    def __init__(
        self,
        settings: LlmSettings,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`jitter` gives 0.0 to 1.0. Raises ValueError for a setting that cannot be used."""
        if settings.url is None:
            raise ValueError("enrich.llm.url is not set")
        self._key = settings.api_key.get_secret_value()
        if not all("!" <= letter <= "~" for letter in self._key):
            raise ValueError(
                "enrich.llm.api_key holds what no header may: letters, digits and signs of ASCII, "
                "without spaces, are a key"
            )
        self._tls: ssl.SSLContext | None = None
        if settings.url.startswith("https:") or settings.ca_file is not None:
            self._tls = httpx.create_ssl_context(trust_env=False)
        if settings.ca_file is not None and self._tls is not None:
            try:
                self._tls.load_verify_locations(settings.ca_file)
            except OSError as error:
                raise ValueError(
                    f"enrich.llm.ca_file={str(settings.ca_file)!r}: {error}"
                ) from error
        self._settings, self._clock, self._sleep, self._jitter = settings, clock, sleep, jitter
        self.name = settings.model
        self.where = self.url = f"{settings.url}/chat/completions"
        try:
            httpx.URL(self.url).host.encode("idna")
        except (httpx.InvalidURL, ValueError) as error:
            raise ValueError(f"enrich.llm.url names no host that can be asked: {error}") from error
        self._forms = (
            ("json_schema", "json_object", "text")
            if settings.enforce == "auto"
            else (settings.enforce,)
        )
        self._slots = Slots(settings.concurrency)
        self._lock = threading.Lock()
        self._form = 0  # which of them it takes, as far as is known
        self._without: frozenset[str] = frozenset()  # fields that it does not take
        self._again_at = 0.0
        self._busy_until = 0.0

    def ask(
        self,
        messages: Sequence[Message],
        schema: Mapping[str, Any],
        tokens: int,
        allowance: Allowance,
        replay: bool = False,
    ) -> Reply:
        """What the model answers to `messages`, asked for JSON of that schema.

        `tokens` is what they are held to take. A request that fails is tried again, with waits that
        grow, for as long as the allowance has patience. Raises LlmFailure.
        """
        wait_s = _FIRST_WAIT_S
        while True:
            begun = self._clock()
            try:
                return self._in_some_form(messages, schema, tokens, allowance, replay)
            except Away as away:
                allowance.patience_s -= self._clock() - begun
                if not away.again:
                    raise
                # Spread, so that many who wait do not come back at once.
                pause_s = wait_s * (0.5 + 0.5 * self._jitter())
                if away.after_s is not None:
                    pause_s += away.after_s
                if pause_s > min(allowance.patience_s, allowance.left_s):
                    raise
                self._sleep(pause_s)
                allowance.patience_s -= pause_s
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return self._slots.waiting

    def probe(self) -> None:
        """Ask for a word. Raises Away where the server does not answer, whatever it answers."""
        allowance = Allowance(self._clock, self._clock() + _PROBE_S, 0.0, 9, 1_000_000)
        messages = [{"role": "user", "content": 'Answer with {"ok": true}'}]
        with self._lock:
            without = self._without
        try:
            self._sent(self._body(messages, "text", None, without), 100, allowance, False)
        except _Refused as refused:
            raise Away("llm_refused", f"{refused}, of any question", again=False) from None
        except (Unusable, TooLong):
            return

    # What is asked

    def _in_some_form(
        self,
        messages: Sequence[Message],
        schema: Mapping[str, Any],
        tokens: int,
        allowance: Allowance,
        replay: bool,
    ) -> Reply:
        """In the strictest form that the server takes, with the fields that it takes."""
        with self._lock:
            if self._clock() >= self._again_at:
                self._form, self._without = 0, frozenset()
            number, without = self._form, self._without
        first: _Refused | None = None
        while True:
            form = self._forms[number]
            body = self._body(messages, form, schema, without)
            try:
                text = self._sent(body, tokens, allowance, replay)
                break
            except _Refused as refused:
                first = first or refused
                named = next((it for it in _DISPENSABLE if _names(refused, it)), None)
                if named is not None and named not in without:
                    without |= {named}
                elif number + 1 < len(self._forms):
                    number += 1
                else:
                    raise Unusable("llm_refused_request", str(first), doubt=True) from None
        if first is not None:
            with self._lock:
                self._form, self._without = max(self._form, number), self._without | without
                self._again_at = self._clock() + _FORM_AGAIN_S
            logger("enrich").warning(
                "the language model is asked for less, for a while", url=self.url, form=form,
                without=sorted(without), why=str(first),
            )  # fmt: skip
        return Reply(text, form)

    def _body(
        self,
        messages: Sequence[Message],
        form: str,
        schema: Mapping[str, Any] | None,
        without: frozenset[str],
    ) -> bytes:
        settings = self._settings
        limit = "max_completion_tokens" if "max_tokens" in without else "max_tokens"
        asked: dict[str, Any] = {
            **settings.extra,
            "model": settings.model,
            "messages": list(messages),
            limit: settings.answer_tokens,
            "stream": False,
        }
        if "temperature" not in without:
            asked["temperature"] = 0
        if "seed" not in without:
            asked["seed"] = settings.seed
        if form == "json_schema":
            asked["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "call_summary", "strict": True, "schema": schema},
            }
        elif form == "json_object":
            asked["response_format"] = {"type": "json_object"}
        return json.dumps(asked, ensure_ascii=False).encode("utf-8", "replace")

    def _sent(self, body: bytes, tokens: int, allowance: Allowance, replay: bool) -> str:
        allowance.check(tokens + self._settings.answer_tokens)
        with self._lock:
            wait_s = self._busy_until - self._clock()
        if wait_s > 0:
            raise Away(
                "llm_busy", f"the server asks for {wait_s:.0f} s without requests", after_s=wait_s
            )
        with turn(self._slots, allowance, replay):
            begun = self._clock()
            limit_s = min(self._settings.timeout_s, allowance.left_s)
            read = written = 0
            try:
                status, headers, answer = self._posted(body, limit_s)
                self._judge(status, headers, answer)
                completion = _completion(answer)
                read, written = completion.read, completion.written
            except (_Refused, TooLong, Unusable):
                allowance.answered = True
                raise
            finally:
                seconds = self._clock() - begun
                allowance.took(seconds, tokens + self._settings.answer_tokens, read, written)
        allowance.answered = True
        return completion.usable()

    # Over HTTP

    def _posted(self, body: bytes, limit_s: float) -> Answer:
        settings = self._settings
        headers = [
            ("Host", httpx.URL(self.url).netloc.decode("ascii")),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Accept", "application/json"),
            ("Accept-Encoding", "identity"),  # what is counted is what was sent
            ("User-Agent", "callstream-enrich"),
        ]
        if self._key:
            headers.append(("Authorization", f"Bearer {self._key}"))
        try:
            return posted(
                self.url, headers, body, tls=self._tls, connect_s=settings.connect_timeout_s,
                limit_s=limit_s, most_bytes=settings.max_answer_bytes,
            )  # fmt: skip
        except TooLarge:
            raise Unusable(
                "llm_huge",
                f"the answer has more than enrich.llm.max_answer_bytes={settings.max_answer_bytes}",
            ) from None
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            raise Away("llm_down", f"cannot be reached ({cause(error)})") from error
        except httpcore.TimeoutException as error:
            raise Away(
                "llm_slow",
                f"no answer within {limit_s:.3g} s; where it needs longer, raise "
                f"enrich.llm.timeout_s={settings.timeout_s:g} and enrich.llm.call_s="
                f"{settings.call_s:g}, or lower enrich.llm.concurrency={settings.concurrency}",
            ) from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise Away("llm_down", f"breaks off ({cause(error)})") from error

    def _judge(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Raises what an answer other than a completion means."""
        if 200 <= status < 300:
            return
        told = f"answers {status}"
        said = reason_in(body, self._key)
        if said:
            told += f" ({said})"
        if 300 <= status < 400:
            mend = "redirects are not followed: set enrich.llm.url to where the server is"
            raise Away("llm_refused", f"{told}; {mend}", again=False)
        if status not in (401, 403, 404, 429) and _TOO_LONG.search(f"{said} {_code(body)}"):
            raise TooLong("llm_context", told)
        match status:
            case 400 | 415 | 422:
                raise _Refused(told)
            case 413:
                raise TooLong("llm_context", told)
            case 401 | 403:
                mend = "see enrich.llm.api_key"
            case 404 | 405 | 410:
                mend = (
                    "has enrich.llm.url the path before /chat/completions, and the server the "
                    f"model enrich.llm.model={self._settings.model!r}?"
                )
            case 409 | 425 | 429:
                raise self._busy(told, headers)
            case 503 if "retry-after" in headers:
                raise self._busy(told, headers)
            case _ if status == 408 or status >= 500:
                raise Away("llm_down", told)
            case _:
                mend = "nothing that is asked for here is known to bring this about"
        raise Away("llm_refused", f"{told}; {mend}", again=False)

    def _busy(self, told: str, headers: Mapping[str, str]) -> Away:
        after_s = retry_after_s(headers)
        if after_s is not None:
            after_s = min(after_s, _LONGEST_BUSY_S)
            with self._lock:
                self._busy_until = max(self._busy_until, self._clock() + after_s)
        return Away("llm_busy", told, after_s=after_s)


# What is answered


def _code(body: bytes) -> str:
    error = error_in(body)
    return "" if error is None else f"{error.get('code')} {error.get('type')}"


def _names(refused: _Refused, field_name: str) -> bool:
    return re.search(rf"\b{field_name}\b", str(refused)) is not None


@dataclass(frozen=True, slots=True)
class _Completion:
    text: str
    finish: object
    refusal: object
    read: int
    written: int

    def usable(self) -> str:
        """The text. Raises Unusable."""
        if self.finish == "content_filter" or (
            isinstance(self.refusal, str) and self.refusal.strip()
        ):
            raise Unusable("llm_declined", "the model declines to answer")
        if self.finish == "length":
            raise Unusable(
                "llm_cut",
                "the answer ends at its limit; where answers need more, or the model reasons "
                "first, raise enrich.llm.answer_tokens",
                said=self.text,
            )
        if not self.text.strip():
            raise Unusable("llm_empty", "the answer is empty", said="")
        return self.text


def _completion(body: bytes) -> _Completion:
    """Nothing in it is trusted: what has another type is as if it were not there."""
    found = parsed(body)
    choices = found.get("choices") if isinstance(found, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(found, dict) or not isinstance(choice, dict) or not isinstance(message, dict):
        raise Unusable(
            "llm_strange",
            "the answer is no chat completion; is enrich.llm.url that of a server which chats as "
            "OpenAI's does, with its path, such as /v1?",
            doubt=True,
        )
    usage = found.get("usage")
    counted = usage if isinstance(usage, dict) else {}
    content = message.get("content")
    if isinstance(content, list):  # of parts
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(text for text in texts if isinstance(text, str))
    return _Completion(
        content if isinstance(content, str) else "",
        choice.get("finish_reason"),
        message.get("refusal"),
        _count(counted.get("prompt_tokens")),
        _count(counted.get("completion_tokens")),
    )


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        return 0
    return max(0, min(value, 1 << 31))
