"""A language model's server: what it is sent, and what each of its failures means."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from services.enrich.llm import (
    Allowance,
    Away,
    ChatModel,
    Circuit,
    LlmFailure,
    Spent,
    TooLong,
    Unusable,
)
from services.enrich.settings import LlmSettings
from services.runtime.errors import NotYet
from tests.enrich.llm_server import Asked, Reply, Server, completed, said, serving
from tests.ingest.test_fetch import make_certificate

SCHEMA = {"type": "object"}
ASKED = [{"role": "system", "content": "Sum up."}, {"role": "user", "content": "{}"}]


@dataclass
class Clock:
    """Time that passes when somebody sleeps."""

    now: float = 1_000.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(lambda asked: completed("fine")) as made:
        yield made


def model(server: Server, clock: Clock | None = None, **settings: Any) -> ChatModel:
    clock = clock or Clock()
    return ChatModel(server.settings(**settings), clock, clock.sleep, lambda: 1.0)


def ask(chat: ChatModel, server: Server, clock: Clock | None = None, **settings: Any) -> str:
    allowance = Allowance.of(server.settings(**settings), clock or Clock())
    return chat.ask(ASKED, SCHEMA, 10, allowance).text


def failure(server: Server, **settings: Any) -> LlmFailure:
    """What is raised by a server whose failures are not tried again."""
    given = {"patience_s": 0, **settings}
    with pytest.raises(LlmFailure) as raised:
        ask(model(server, **given), server, **given)
    return raised.value


# What is sent


def test_a_request_asks_for_the_schema_and_for_no_chance(server: Server) -> None:
    settings: dict[str, Any] = {
        "api_key": "sesame",
        "seed": 7,
        "answer_tokens": 321,
        "extra": {"chat_template_kwargs": {"enable_thinking": False}},
    }
    assert ask(model(server, **settings), server) == "fine"
    (asked,) = server.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["Authorization"] == "Bearer sesame"
    assert asked.body == {
        "model": "small",
        "messages": ASKED,
        "temperature": 0,
        "seed": 7,
        "max_tokens": 321,
        "stream": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "call_summary", "strict": True, "schema": SCHEMA},
        },
        "chat_template_kwargs": {"enable_thinking": False},
    }


def test_nobody_is_named_where_no_key_is_set(server: Server) -> None:
    ask(model(server), server)
    assert "Authorization" not in server.asked[0].headers


@pytest.mark.parametrize("takes", ["json_object", "text"])
def test_a_form_that_is_refused_is_asked_for_no_more_for_a_while(
    server: Server, takes: str
) -> None:
    def answer(asked: Asked) -> Reply:
        if asked.form in ("json_schema", "json_object")[: 1 if takes == "json_object" else 2]:
            return said({"error": {"message": f"{asked.form} is not supported"}}, 400)
        return completed("fine")

    server.answer = answer
    clock = Clock()
    chat = model(server, clock)
    assert ask(chat, server) == "fine"
    before = len(server.asked)
    assert ask(chat, server) == "fine"
    assert [asked.form for asked in server.asked[before:]] == [takes]
    clock.now += 601
    ask(chat, server)
    assert server.asked[before + 1].form == "json_schema", "it may have learned"


@pytest.mark.parametrize("enforce", ["json_schema", "json_object", "text"])
def test_a_form_may_be_set(server: Server, enforce: str) -> None:
    ask(model(server, enforce=enforce), server)
    assert [asked.form for asked in server.asked] == [enforce]


def test_fields_that_a_model_does_not_take_are_left_out(server: Server) -> None:
    def answer(asked: Asked) -> Reply:
        for name, told in (
            ("max_tokens", "Use 'max_completion_tokens' instead of 'max_tokens'."),
            ("temperature", "'temperature' does not support 0 with this model."),
        ):
            if name in asked.body:
                return said({"error": {"message": told}}, 400)
        return completed("fine")

    server.answer = answer
    chat = model(server)
    assert ask(chat, server) == "fine"
    last = server.asked[-1]
    assert last.form == "json_schema"
    assert last.body["max_completion_tokens"] == 1_500
    assert "seed" in last.body
    ask(chat, server)
    assert len(server.asked) == 4


def test_tokens_and_time_are_counted(server: Server) -> None:
    allowance = Allowance.of(server.settings(), time.monotonic)
    chat = ChatModel(server.settings())
    assert Allowance.of(server.settings(), time.monotonic).usage is None
    for _ in range(2):
        chat.ask(ASKED, SCHEMA, 10, allowance)
    usage = allowance.usage
    assert usage is not None
    assert (usage.requests, usage.prompt_tokens, usage.completion_tokens) == (2, 200, 40)
    assert 0 < usage.seconds < 10
    assert allowance.tokens == 400_000 - 240


def test_content_may_come_in_parts(server: Server) -> None:
    parts = [{"type": "text", "text": "fi"}, {"type": "text", "text": "ne"}, 7]
    server.answer = lambda asked: said({"choices": [{"message": {"content": parts}}]})
    assert ask(model(server), server) == "fine"


# What failures mean


@pytest.mark.parametrize(
    ("status", "reason", "again"),
    [
        (301, "llm_refused", False),
        (401, "llm_refused", False),
        (403, "llm_refused", False),
        (404, "llm_refused", False),
        (418, "llm_refused", False),
        (408, "llm_down", True),
        (429, "llm_busy", True),
        (500, "llm_down", True),
        (502, "llm_down", True),
        (503, "llm_down", True),
    ],
)
def test_a_status_says_whether_to_ask_again(
    server: Server, status: int, reason: str, again: bool
) -> None:
    server.answer = lambda asked: said({"error": {"message": "No."}}, status)
    found = failure(server)
    assert isinstance(found, Away)
    assert (found.reason, found.again) == (reason, again)
    assert f"answers {status} (No.)" in found.detail
    assert len(server.asked) == 1


def test_a_wrong_key_and_a_model_that_is_not_there_are_named_with_their_mend(
    server: Server,
) -> None:
    server.answer = lambda asked: said({"error": "bad key sesame"}, 401)
    told = str(failure(server, api_key="sesame"))
    assert "enrich.llm.api_key" in told
    assert "sesame" not in told
    server.answer = lambda asked: said({"error": {"message": "model not found"}}, 404)
    assert "enrich.llm.model='small'" in str(failure(server))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"message": "This model's maximum context length is 8192 tokens.", "code": 400}),
        (400, {"message": "No.", "code": "context_length_exceeded"}),
        (400, {"message": "'max_tokens' is too large; maximum context length is 4096 tokens"}),
        (400, {"message": "the request exceeds the available context size (4096 tokens)"}),
        (400, {"message": "prompt is too long: 9000 tokens > 8192 maximum"}),
        (500, {"message": "input length exceeds the context length"}),
        (413, {"message": "payload"}),
    ],
)
def test_what_is_too_long_is_told_from_other_refusals(
    server: Server, status: int, error: dict[str, Any]
) -> None:
    server.answer = lambda asked: said({"error": error}, status)
    assert isinstance(failure(server), TooLong)
    assert len(server.asked) == 1


def test_a_request_refused_in_every_form_is_in_doubt(server: Server) -> None:
    server.answer = lambda asked: said({"error": {"message": "content policy"}}, 400)
    found = failure(server)
    assert isinstance(found, Unusable)
    assert (found.reason, found.doubt, found.said) == ("llm_refused_request", True, None)
    assert [asked.form for asked in server.asked] == ["json_schema", "json_object", "text"]


@pytest.mark.parametrize(
    ("reply", "reason", "mendable"),
    [
        (completed(None, refusal="I cannot help with that."), "llm_declined", False),
        (completed("", finish="content_filter"), "llm_declined", False),
        (completed('{"summary": [', finish="length"), "llm_cut", True),
        (completed(""), "llm_empty", True),
        (completed(" \n"), "llm_empty", True),
        (completed(None), "llm_empty", True),
        (Reply(200, b"<html>Welcome</html>"), "llm_strange", False),
        (said([]), "llm_strange", False),
        (said({"choices": []}), "llm_strange", False),
        (said({"choices": [{"message": "hello"}]}), "llm_strange", False),
        (Reply(200, b"[" * 100_000), "llm_strange", False),
        (Reply(200, b"{}", then="flood"), "llm_huge", False),
        (completed("x" * 20_000), "llm_huge", False),
    ],
)
def test_an_answer_that_is_of_no_use(
    server: Server, reply: Reply, reason: str, mendable: bool
) -> None:
    server.answer = lambda asked: reply
    most = 200_000 if reason == "llm_strange" else 10_000
    found = failure(server, max_answer_bytes=most)
    assert isinstance(found, Unusable)
    assert (found.reason, found.said is not None) == (reason, mendable)


@pytest.mark.parametrize(
    "usage",
    [None, [], {"prompt_tokens": "7"}, {"prompt_tokens": True, "completion_tokens": -3},
     {"prompt_tokens": 1e300}],
)  # fmt: skip
def test_usage_is_not_believed_whatever_it_is(server: Server, usage: object) -> None:
    server.answer = lambda asked: said(
        {"choices": [{"message": {"content": "fine"}}], "usage": usage}
    )
    allowance = Allowance.of(server.settings(), Clock())
    model(server).ask(ASKED, SCHEMA, 10, allowance)
    assert allowance.usage is not None
    assert (allowance.usage.prompt_tokens, allowance.usage.completion_tokens) == (0, 0)
    assert allowance.tokens == 400_000 - 10 - 1_500, "then the estimate counts"


def test_nobody_listens() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        server = Server(lambda asked: Reply(), url)
        found = failure(server)
    assert (found.reason, "cannot be reached" in found.detail) == ("llm_down", True)


@pytest.mark.parametrize("then", ["hang", "drip"])
def test_a_server_that_trickles_buys_no_time(server: Server, then: str) -> None:
    server.answer = lambda asked: Reply(then=then)
    begun = time.monotonic()
    found = failure(server, timeout_s=0.3)
    assert found.reason == "llm_slow"
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("then", ["drop", "cut"])
def test_a_connection_that_is_cut(server: Server, then: str) -> None:
    server.answer = lambda asked: Reply(200, b'{"choices"', then=then)
    found = failure(server)
    assert (found.reason, "breaks off" in found.detail) == ("llm_down", True)


def test_a_server_is_known_by_its_certificate(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, "localhost")
    with serving(lambda asked: completed("fine"), certificate) as server:
        assert ask(model(server, ca_file=certificate), server) == "fine"
        stranger = failure(server)
    assert stranger.reason == "llm_down"
    assert "certificate" in stranger.detail.lower()


# Trying again


def test_waits_grow_and_end_with_patience(server: Server) -> None:
    server.answer = lambda asked: Reply(500)
    clock = Clock()
    chat = model(server, clock, patience_s=20)
    allowance = Allowance.of(server.settings(patience_s=20), clock)
    with pytest.raises(Away):
        chat.ask(ASKED, SCHEMA, 10, allowance)
    assert clock.slept == [0.5, 1.0, 2.0, 4.0, 8.0]
    with pytest.raises(Away):
        chat.ask(ASKED, SCHEMA, 10, allowance)
    assert clock.slept[5:] == [0.5, 1.0, 2.0], "what is left of the call's patience"


def test_waits_are_spread(server: Server) -> None:
    server.answer = lambda asked: Reply(500)
    clock = Clock()
    chat = ChatModel(server.settings(), clock, clock.sleep, lambda: 0.0)
    with pytest.raises(Away):
        ask(chat, server, clock, patience_s=2)
    assert clock.slept == [0.25, 0.5, 1.0]


def test_a_server_that_comes_back_within_patience_costs_nothing_else(server: Server) -> None:
    replies = [Reply(502), Reply(then="drop"), completed("fine")]
    server.answer = lambda asked: replies.pop(0)
    clock = Clock()
    assert ask(model(server, clock), server, clock) == "fine"
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_is_left_alone_for_as_long_as_it_asks(server: Server, status: int) -> None:
    replies = [Reply(status, headers={"Retry-After": "7"}), completed("fine")]
    server.answer = lambda asked: replies.pop(0)
    clock = Clock()
    assert ask(model(server, clock), server, clock) == "fine"
    assert clock.slept == [7.5]


def test_a_server_that_asks_for_more_than_patience_is_away_for_all(server: Server) -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=500), usegmt=True)
    server.answer = lambda asked: Reply(429, headers={"Retry-After": when})
    clock = Clock()
    chat = model(server, clock)
    for _ in range(2):
        with pytest.raises(Away, match="llm_busy"):
            ask(chat, server, clock)
    assert (len(server.asked), clock.slept) == (1, []), "nor is it asked by the next call"
    clock.now += 501
    server.answer = lambda asked: completed("fine")
    assert ask(chat, server, clock) == "fine"


@pytest.mark.parametrize(
    "value",
    ["", "soon", "-1", "9" * 400, "1e9", "Mon, 99 Foo", f"Mon, 01 Jan 2024 00:00:00 +{'9' * 20}",
     f"Mon, 01 Jan {'9' * 20} 00:00:00 GMT"],
)  # fmt: skip
def test_a_retry_after_that_is_none_is_as_if_it_were_not_there(server: Server, value: str) -> None:
    replies = [Reply(429, headers={"Retry-After": value}), completed("fine")]
    server.answer = lambda asked: replies.pop(0)
    clock = Clock()
    assert ask(model(server, clock), server, clock) == "fine"
    assert clock.slept == [0.5]


# What a call may take


def test_a_call_asks_no_more_than_it_may(server: Server) -> None:
    clock = Clock()
    chat = model(server, clock)
    for changes, reason in (
        ({"call_requests": 2}, "llm_requests"),
        ({"call_tokens": 1_700}, "llm_tokens"),
    ):
        allowance = Allowance.of(server.settings(**changes), clock)
        for _ in range(2):
            chat.ask(ASKED, SCHEMA, 10, allowance)
        with pytest.raises(Spent) as raised:
            chat.ask(ASKED, SCHEMA, 10, allowance)
        assert raised.value.reason == reason
        assert allowance.usage is not None
        assert allowance.usage.requests == 2
    allowance = Allowance.of(server.settings(call_s=30), clock)
    clock.now += 30
    with pytest.raises(Spent, match="llm_time"):
        chat.ask(ASKED, SCHEMA, 10, allowance)


def test_no_more_requests_at_once_than_set() -> None:
    def slow(asked: Asked) -> Reply:
        time.sleep(0.05)
        return completed("fine")

    with serving(slow) as server:
        chat = ChatModel(server.settings(concurrency=2))
        found: list[str] = []
        threads = [
            threading.Thread(target=lambda: found.append(ask(chat, server))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert found == ["fine"] * 8
        assert server.at_once == 2


def test_live_calls_are_asked_for_before_replays() -> None:
    order: list[str] = []

    def answers(asked: Asked) -> Reply:
        order.append(asked.messages[0]["content"])
        if len(order) == 1:
            both.wait(10)
        return completed("fine")

    both = threading.Event()
    with serving(answers) as server:
        chat = ChatModel(server.settings(concurrency=1))

        def asks(name: str, replay: bool) -> threading.Thread:
            allowance = Allowance.of(server.settings(), time.monotonic)
            messages = [{"role": "system", "content": name}, ASKED[1]]
            thread = threading.Thread(
                target=lambda: chat.ask(messages, SCHEMA, 10, allowance, replay)
            )
            thread.start()
            return thread

        def queued(count: int) -> bool:
            return len(order) == 1 and chat.waiting == count

        threads = [asks("first", False)]
        for count, name in enumerate(("replay", "live")):
            until(partial(queued, count))
            threads.append(asks(name, name == "replay"))
        until(partial(queued, 2))
        both.set()
        for thread in threads:
            thread.join(30)
    assert order == ["first", "live", "replay"]


def test_a_call_waits_for_its_turn_no_longer_than_it_may() -> None:
    with serving(lambda asked: Reply(then="hang")) as server:
        chat = ChatModel(server.settings(concurrency=1))

        def patient() -> None:
            with suppress(LlmFailure):
                ask(chat, server, patience_s=0)

        thread = threading.Thread(target=patient)
        thread.start()
        until(lambda: bool(server.asked))
        hurried = Allowance.of(server.settings(call_s=0.2, patience_s=0), time.monotonic)
        with pytest.raises(Spent, match="llm_time"):
            chat.ask(ASKED, SCHEMA, 10, hurried)
        hurried = Allowance.of(server.settings(call_s=0.2, patience_s=0), time.monotonic)
        with pytest.raises(NotYet, match="llm_busy"):
            chat.ask(ASKED, SCHEMA, 10, hurried, True)
        server.released.set()
        thread.join(30)
    assert not thread.is_alive()


# The circuit


def fails(circuit: Circuit) -> None:
    with pytest.raises(Away, match="llm_down"), circuit.call():
        raise Away("llm_down", "gone")


def test_after_some_calls_in_a_row_one_call_at_a_time_tries() -> None:
    clock = Clock()
    circuit = Circuit(2, 60, clock)
    fails(circuit)
    circuit.answered()
    fails(circuit)
    fails(circuit)
    with pytest.raises(Away, match="left alone for 60 s more; last: llm_down"), circuit.call():
        pass
    clock.now += 61
    with circuit.call() as trial:
        assert trial
        with pytest.raises(Away, match="llm_away"), circuit.call():
            pass
        circuit.answered()
    with circuit.call() as trial:
        assert not trial


def test_a_trial_that_fails_opens_it_again_and_one_that_breaks_does_not_stick() -> None:
    clock = Clock()
    circuit = Circuit(1, 60, clock)
    fails(circuit)
    clock.now += 61
    fails(circuit)
    with pytest.raises(Away, match="llm_away"), circuit.call():
        pass
    clock.now += 61
    with pytest.raises(ZeroDivisionError), circuit.call():
        raise ZeroDivisionError
    with circuit.call() as trial:
        assert trial


# Whether anybody is there


@pytest.mark.parametrize(
    ("reply", "there"),
    [
        (completed("anything"), True),
        (completed("", finish="length"), True),
        (Reply(500), False),
        (Reply(401), False),
        (Reply(404), False),
        (Reply(400), False),
        (Reply(429), False),
        (Reply(then="drop"), False),
    ],
)
def test_a_probe_tells_whether_the_server_takes_any_question(
    server: Server, reply: Reply, there: bool
) -> None:
    server.answer = lambda asked: reply
    if there:
        model(server).probe()
    else:
        with pytest.raises(Away):
            model(server).probe()
    assert len(server.asked) == 1


# Settings


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"url": "ftp://host/v1"}, "url"),
        ({"url": "http://me:secret@host/v1"}, "a server and a path alone"),
        ({"url": "http://host/v1?key=secret"}, "a server and a path alone"),
        ({"url": "http://host:99999/v1"}, "no URL"),
        ({"model": ""}, "enrich.llm.model"),
        ({"extra": {"messages": []}}, "messages cannot be set here"),
        ({"extra": {"response_format": {}, "n": 2}}, "n, response_format cannot be set here"),
        ({"patience_s": 10, "call_s": 5}, "enrich.llm.patience_s=10"),
        ({"answer_tokens": 5_000}, "enrich.llm.answer_tokens=5000"),
        ({"language": "../etc"}, "language"),
    ],
)
def test_a_wrong_setting_is_named(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        LlmSettings.model_validate({"url": "http://host/v1", "model": "small", **changes})


def test_a_key_that_no_header_can_hold_is_named() -> None:
    settings = LlmSettings.model_validate({"url": "http://h/v1", "model": "m", "api_key": "a b"})
    with pytest.raises(ValueError, match=r"enrich\.llm\.api_key"):
        ChatModel(settings)


def test_certificates_that_are_not_there_are_named() -> None:
    settings = LlmSettings.model_validate(
        {"url": "http://h/v1", "model": "m", "ca_file": "/no.pem"}
    )
    with pytest.raises(ValueError, match=r"enrich\.llm\.ca_file='/no\.pem'"):
        ChatModel(settings)


@pytest.mark.parametrize("url", ["http://[v1.fe]/v1", "http://a..b/v1"])
def test_a_url_that_names_no_host_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(ValueError, match=r"enrich\.llm\.url names no host"):
        ChatModel(LlmSettings(url=url, model="m"))
