"""An engine that is a server: what is sent, what is believed, and who is at fault when it fails."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.events import DegradationKind
from services.runtime.errors import Invalid, NotYet, Transient
from services.transcribe.engine import Asked, Heard, HeardSegment, HeardWord
from services.transcribe.openai_engine import EndpointFailed, OpenAIEngine
from services.transcribe.settings import EndpointSettings
from services.transcribe.spans import Span
from tests.ingest.test_fetch import make_certificate
from tests.transcribe.endpoint import Endpoint, Reply, Request, endpoint, said, speaks
from tests.transcribe.sounds import Samples, noise, silence

SPANS = [Span(500, 2_000), Span(3_000, 5_000)]
SAID = np.concatenate([silence(0.5), noise(1.5), silence(1.0), noise(2.0, seed=2), silence(5.0)])


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with endpoint() as made:
        yield made


def answering(server: Endpoint, found: object) -> None:
    server.answer = lambda request: said(found)


def heard(
    server: Endpoint, found: object, spans: list[Span] = SPANS, asked: Asked | None = None
) -> Heard:
    answering(server, found)
    return OpenAIEngine(server.settings()).transcribe(SAID, spans, asked or Asked())


# What is sent


def test_what_is_sent_is_the_speech_and_how_it_is_to_be_heard(server: Endpoint) -> None:
    engine = OpenAIEngine(server.settings(api_key="sesame", model="large"))
    spans = [Span(500, 2_000), Span(6_000, 6_200)]
    engine.transcribe(SAID, spans, Asked(language="de"))
    first, second = server.asked
    assert first.path == "/v1/audio/transcriptions"
    assert first.headers["Authorization"] == "Bearer sesame"
    assert first.fields == {
        "model": ["large"], "temperature": ["0"], "language": ["de"],
        "response_format": ["verbose_json"], "timestamp_granularities[]": ["word", "segment"],
    }  # fmt: skip
    np.testing.assert_allclose(first.samples, SAID[8_000:32_000], atol=1e-4)
    assert second.length_s == 0.5, "what is too short for a server is filled up"
    assert "prompt" not in second.fields


def test_nobody_is_named_where_no_key_is_set(server: Endpoint) -> None:
    OpenAIEngine(server.settings()).transcribe(SAID, SPANS)
    assert "Authorization" not in server.asked[0].headers


def test_stretches_are_sent_together_up_to_their_length(server: Endpoint) -> None:
    spans = [Span(at * 1_000, at * 1_000 + 900) for at in range(9)]
    OpenAIEngine(server.settings(longest_s=4)).transcribe(noise(10), spans)
    assert [request.length_s for request in server.asked] == [3.9, 3.9, 0.9]


def test_terms_and_a_prompt_are_sent_as_far_as_there_is_room(server: Endpoint) -> None:
    engine = OpenAIEngine(server.settings(prompt_characters=30))
    asked = Asked(prompt="Good day.", terms=("Zyxel", "Wuppertal", "Donaudampfschiff"))
    told = engine.transcribe(SAID, SPANS, asked)
    assert server.asked[-1].fields["prompt"] == ["Good day. Wuppertal, Zyxel"]
    assert (told.terms, told.prompt) == (("Zyxel", "Wuppertal"), "Good day.")
    long = engine.transcribe(SAID, SPANS, replace(asked, prompt="very " * 20))
    assert server.asked[-1].fields["prompt"] == ["Wuppertal, Zyxel"]
    assert (long.terms, long.prompt) == (("Zyxel", "Wuppertal"), "")
    none = OpenAIEngine(server.settings(prompt_characters=0)).transcribe(SAID, SPANS, asked)
    assert "prompt" not in server.asked[-1].fields
    assert (none.terms, none.prompt) == ((), "")


def test_a_form_field_stays_one_whatever_it_holds(server: Endpoint) -> None:
    asked = Asked(prompt='line\r\n--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nother')
    OpenAIEngine(server.settings()).transcribe(SAID, SPANS, asked)
    assert server.asked[0].fields["model"] == ["whisper-1"]
    assert server.asked[0].fields["prompt"] == [asked.prompt]


# What is believed


def test_words_make_turns_of_what_was_sent_together(server: Endpoint) -> None:
    words = [
        {"word": "Hello", "start": 0.2, "end": 0.6},
        {"word": "there", "start": 0.6, "end": 2.0, "probability": 0.5},
        {"word": "yes", "start": 2.4, "end": 2.9, "probability": 0.75},
        {"word": "please", "start": 3.0, "end": 99.0},
    ]
    segment = {
        "start": 0.0, "end": 4.5, "text": ' Hello, there! "Yes," please.',
        "avg_logprob": -0.5, "no_speech_prob": 0.25, "compression_ratio": 1.0,
    }  # fmt: skip
    found = heard(server, {"text": "", "language": "English", "segments": [segment],
                           "words": words})  # fmt: skip
    assert found.language == "en"
    assert found.segments == (
        HeardSegment(
            text="Hello, there!", start_ms=700, end_ms=2_000, language="en", confidence=0.5,
            no_speech=0.25, logprob=-0.5,
            words=(
                HeardWord(text="Hello,", start_ms=700, end_ms=1_100),
                # It ends where the speech does.
                HeardWord(text="there!", start_ms=1_100, end_ms=2_000, confidence=0.5),
            ),
        ),
        HeardSegment(
            text='"Yes," please.', start_ms=3_000, end_ms=5_000, language="en", confidence=0.75,
            no_speech=0.25, logprob=-0.5,
            words=(
                HeardWord(text='"Yes,"', start_ms=3_000, end_ms=3_400, confidence=0.75),
                HeardWord(text="please.", start_ms=3_500, end_ms=5_000),
            ),
        ),
    )  # fmt: skip


def test_words_may_stand_in_their_segments_or_beside_them(server: Endpoint) -> None:
    texts = (("Guten Tag.", 0.0, 1.5), ("Ja.", 2.5, 3.0))
    words = [
        [{"word": " Guten", "start": 0.0, "end": 0.5}, {"word": " Tag.", "start": 0.6, "end": 1.0}],
        [{"word": " Ja.", "start": 2.5, "end": 2.9}],
    ]
    segments = [{"text": text, "start": start, "end": end} for text, start, end in texts]
    beside = heard(server, {"text": "", "segments": segments, "words": words[0] + words[1]})
    within = heard(
        server,
        {"text": "", "segments": [{**s, "words": w} for s, w in zip(segments, words, strict=True)]},
    )
    assert beside == within
    assert [(s.text, s.start_ms, s.end_ms) for s in beside.segments] == [
        ("Guten Tag.", 500, 1_500), ("Ja.", 3_000, 3_400)
    ]  # fmt: skip


def test_words_that_are_not_those_of_the_text_are_left_out(server: Endpoint) -> None:
    segment = {"text": "twenty dollars", "start": 0.5, "end": 1.0}
    words = [{"word": "$20", "start": 0.5, "end": 1.0}]
    (found,) = heard(server, {"text": "", "segments": [segment], "words": words}).segments
    assert (found.text, found.words) == ("twenty dollars", None)
    assert (found.start_ms, found.end_ms) == (1_000, 1_500)


def test_chinese_words_have_no_space_between(server: Endpoint) -> None:
    words = [{"word": w, "start": 0.1 * n, "end": 0.1 * n + 0.1} for n, w in enumerate("我要退款")]
    found = heard(
        server, {"text": "我要，退款。", "language": "zh", "words": words}, [Span(500, 2_000)]
    )
    (segment,) = found.segments
    assert segment.text == "我要，退款。"
    assert [word.text for word in segment.words or ()] == ["我", "要，", "退", "款。"]


def test_text_alone_lies_somewhere_in_its_stretch(server: Endpoint) -> None:
    found = heard(server, {"text": " Hello there "})
    assert found.segments == (HeardSegment(text="Hello there", start_ms=500, end_ms=5_000),)


def test_the_language_of_text_alone_is_what_was_asked_or_the_only_hint(server: Endpoint) -> None:
    text = {"text": "Ja"}
    assert heard(server, text, asked=Asked(language="de")).language == "de"
    assert heard(server, text, asked=Asked(hints=("de",))).language == "de"
    assert heard(server, text, asked=Asked(hints=("de", "en"))).language == "und"
    told = {"text": "Ja", "language": "dutch"}
    assert heard(server, told, asked=Asked(hints=("de",))).language == "nl"


def test_qwens_own_form_is_understood(server: Endpoint) -> None:
    found = heard(server, {"text": "language Cantonese<asr_text>早晨。"})
    assert [(s.text, s.language) for s in found.segments] == [("早晨。", "yue")]


def test_what_is_too_short_to_tell_is_heard_as_what_is_spoken_around_it(server: Endpoint) -> None:
    def answer(request: Request) -> Reply:
        asked = request.fields.get("language")
        if request.length_s < 2 and asked is None:
            return said({"text": "Nynorsk ord", "language": "nynorsk"})
        return said({"text": f"in {asked}", "language": "english"})

    server.answer = answer
    spans = [Span(0, 4_000), Span(7_000, 8_000)]
    found = OpenAIEngine(server.settings()).transcribe(noise(10), spans)
    assert [(s.text, s.language) for s in found.segments] == [
        ("in None", "en"), ("in ['en']", "en")
    ]  # fmt: skip


def short_beside_long(named: str, *known: str) -> Callable[[Request], Reply]:
    """A server that hears Japanese in what is short, and takes the languages `known`."""

    def answer(request: Request) -> Reply:
        asked = request.fields.get("language")
        if asked is not None and asked[0] not in known:
            return said({"error": f"Unsupported language: {asked[0]}"}, 400)
        other = request.length_s < 2 and asked is None
        return said({"text": f"in {asked}", "language": "ja" if other else named})

    return answer


@pytest.mark.parametrize(
    ("named", "known"), [("jw", "jw"), ("javanese", "jv"), ("Javanese", "javanese")]
)
def test_a_server_is_asked_for_a_language_by_a_name_that_it_knows(
    server: Endpoint, named: str, known: str
) -> None:
    server.answer = short_beside_long(named, known)
    found = OpenAIEngine(server.settings()).transcribe(
        noise(10), [Span(0, 4_000), Span(7_000, 8_000)]
    )
    assert [(s.text, s.language) for s in found.segments] == [
        ("in None", "jv"), (f"in ['{known}']", "jv")
    ]  # fmt: skip


@pytest.mark.parametrize("then", [Reply(400), Reply(500)], ids=["refuses", "fails"])
def test_what_has_an_answer_is_kept_where_no_other_is_given(server: Endpoint, then: Reply) -> None:
    def answer(request: Request) -> Reply:
        if "language" in request.fields:
            return then
        return said({"text": "x", "language": "ja" if request.length_s < 2 else "javanese"})

    server.answer = answer
    engine = OpenAIEngine(server.settings())
    spans = [Span(0, 4_000), Span(7_000, 8_000)]
    for _ in range(2 if then.status == 500 else 0):
        with pytest.raises(Transient):
            engine.transcribe(noise(10), spans)
    found = engine.transcribe(noise(10), spans)
    assert [(s.text, s.language) for s in found.segments] == [("x", "jv"), ("x", "ja")]


def test_figures_that_are_none_are_not_believed(server: Endpoint) -> None:
    """As servers fill them in that do not have them."""
    wrong: list[dict[str, Any]] = [
        {"avg_logprob": -1.0, "compression_ratio": -1.0, "no_speech_prob": -1.0},
        {"avg_logprob": 0.0, "compression_ratio": 0.0, "no_speech_prob": 0.0},
        {"avg_logprob": "x", "no_speech_prob": 7},
    ]
    segments = [{"text": "a", "start": at, "end": at + 1, **it} for at, it in enumerate(wrong)]
    found = heard(server, {"text": "", "segments": segments}).segments
    assert len(found) == 3
    for segment in found:
        assert (segment.confidence, segment.logprob, segment.no_speech) == (None, None, None)


@pytest.mark.parametrize(
    "times",
    [(-1.0, 1.0), (1.0, 0.5), (math.nan, 1.0), (0.0, math.inf), ("0", 1.0), (None, 1.0),
     (True, 2.0), (0.0, 10**400)],
    ids=str,
)  # fmt: skip
def test_one_time_that_cannot_be_and_none_is_believed(
    server: Endpoint, times: tuple[Any, Any]
) -> None:
    good = {"text": "one", "start": 0.5, "end": 1.0}
    bad = {"text": "two", "start": times[0], "end": times[1]}
    found = heard(server, {"text": "one two", "segments": [good, bad]})
    assert [(s.text, s.start_ms, s.end_ms) for s in found.segments] == [
        ("one", 500, 5_000), ("two", 500, 5_000)
    ]  # fmt: skip


def test_a_segment_that_goes_back_is_not_believed(server: Endpoint) -> None:
    segments = [{"text": "b", "start": 2, "end": 3}, {"text": "a", "start": 0, "end": 1}]
    found = heard(server, {"text": "", "segments": segments})
    assert {(s.start_ms, s.end_ms) for s in found.segments} == {(500, 5_000)}


def test_no_text_is_without_bounds_or_of_what_cannot_be_stored(server: Endpoint) -> None:
    found = heard(server, {"text": "a\u0000b\ud800c" + "😀" * 100_000})
    (segment,) = found.segments
    assert segment.text.startswith("a b c😀")
    assert len(segment.text) == 500
    segment.text.encode()
    many = [{"text": "x" * 300, "start": 0, "end": 1}] * 100
    assert sum(len(s.text) for s in heard(server, {"text": "", "segments": many}).segments) == 500


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["word", "start", "end", "text", "probability", "words", "avg_logprob"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def echo() -> Iterator[Endpoint]:
    with endpoint() as made:
        yield made


@settings(deadline=None, max_examples=50)
@given(
    found=st.fixed_dictionaries(
        {"text": st.text(max_size=20)},
        optional={"language": json_values, "segments": json_values, "words": json_values},
    )
)
def test_whatever_is_answered_is_heard_within_what_was_sent(
    echo: Endpoint, found: dict[str, Any]
) -> None:
    segments = heard(echo, found).segments
    for segment in segments:
        assert segment.text == segment.text.strip() != ""
        assert 500 <= segment.start_ms <= segment.end_ms <= 5_000
        for word in segment.words or ():
            if word.start_ms is not None and word.end_ms is not None:
                assert segment.start_ms <= word.start_ms <= word.end_ms <= segment.end_ms
    assert all(a.start_ms <= b.start_ms for a, b in pairwise(segments))


# What a server gives


def refusing(*forms: str) -> Callable[[Request], Reply]:
    """A server that does not know some forms; "word" stands for times of words."""

    def answer(request: Request) -> Reply:
        form = request.fields["response_format"][0]
        word = "word" in request.fields.get("timestamp_granularities[]", ())
        if form in forms or (word and "word" in forms):
            return said({"error": {"message": f"{form} is not supported"}}, 400)
        return speaks(request)

    return answer


@pytest.mark.parametrize(
    ("forms", "asked"),
    [
        (("word",), ["words", "segments", "segments", "segments"]),
        (("verbose_json",), ["words", "segments", "json", "json", "json"]),
    ],
)
def test_what_a_server_refuses_to_give_is_not_asked_for_again(
    server: Endpoint, forms: tuple[str, ...], asked: list[str]
) -> None:
    server.answer = refusing(*forms)
    engine = OpenAIEngine(server.settings())
    first = engine.transcribe(SAID, SPANS, Asked(language="en"))
    assert first.segments
    for _ in range(2):
        assert engine.transcribe(SAID, SPANS, Asked(language="en")) == first

    def name(request: Request) -> str:
        if request.fields["response_format"] == ["json"]:
            return "json"
        return "words" if "word" in request.fields["timestamp_granularities[]"] else "segments"

    assert [name(request) for request in server.of_calls] == asked
    assert first.degradations == (), "it gives what it ever gave"


def without_words(request: Request) -> Reply:
    return speaks(request) if request.is_silence else refusing("word")(request)


def test_words_that_are_refused_once_are_missed_once(server: Endpoint) -> None:
    whole = OpenAIEngine(server.settings()).transcribe(SAID, SPANS)
    engine = OpenAIEngine(server.settings())
    server.answer = without_words
    poorer = engine.transcribe(SAID, SPANS)
    assert [segment.words for segment in poorer.segments] == [None]
    assert [(it.kind, it.reason) for it in poorer.degradations] == [
        (DegradationKind.NO_ALIGNMENT, "the server gives no word times for 1 of 1 stretches")
    ]
    server.answer = speaks
    assert engine.transcribe(SAID, SPANS) == whole
    assert whole.degradations == ()


def test_a_server_that_gives_words_no_more_is_asked_for_them_after_a_while(
    server: Endpoint,
) -> None:
    clock = Clock()
    engine = OpenAIEngine(server.settings(), clock, clock.sleep)
    whole = engine.transcribe(SAID, SPANS)
    server.answer = refusing("word")
    poorer = engine.transcribe(SAID, SPANS)
    assert [it.kind for it in poorer.degradations] == [DegradationKind.NO_ALIGNMENT]
    assert engine.transcribe(SAID, SPANS) == poorer
    server.answer = speaks
    assert engine.transcribe(SAID, SPANS) == poorer, "it is left alone with it"
    clock.now += 600
    assert engine.transcribe(SAID, SPANS) == whole


def test_what_a_server_never_gave_is_asked_for_again_after_a_while(server: Endpoint) -> None:
    clock = Clock()
    engine = OpenAIEngine(server.settings(), clock, clock.sleep)
    server.answer = refusing("verbose_json")
    bare = engine.transcribe(SAID, SPANS)
    assert bare.degradations == ()
    clock.now += 600
    assert engine.transcribe(SAID, SPANS) == bare
    server.answer = speaks
    assert engine.transcribe(SAID, SPANS) == bare
    clock.now += 600
    assert engine.transcribe(SAID, SPANS).segments[0].words


def test_nothing_is_learnt_of_a_server_that_is_away(server: Endpoint) -> None:
    engine = OpenAIEngine(server.settings())
    server.answer = lambda it: Reply(503) if it.is_silence else refusing("word")(it)
    poorer = engine.transcribe(SAID, SPANS)
    assert poorer.segments
    assert [it.kind for it in poorer.degradations] == [DegradationKind.NO_ALIGNMENT]
    server.answer = speaks
    assert engine.transcribe(SAID, SPANS).segments[0].words


def test_a_form_that_is_set_is_the_only_one_asked_for(server: Endpoint) -> None:
    OpenAIEngine(server.settings(response_format="json")).transcribe(SAID, SPANS)
    assert server.asked[0].fields["response_format"] == ["json"]
    server.answer = refusing("verbose_json")
    with pytest.raises(Transient, match=r"endpoint_refused: .*response_format='verbose_json'"):
        OpenAIEngine(server.settings(response_format="verbose_json")).transcribe(SAID, SPANS)


# Who is at fault


def test_a_server_that_is_away_is_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    engine = OpenAIEngine(EndpointSettings(url=f"http://127.0.0.1:{port}/v1", model="m"))
    for _ in range(3):
        with pytest.raises(Transient, match=r"endpoint_down: http://127.* cannot be reached"):
            engine.transcribe(SAID, SPANS)
    with pytest.raises(Transient, match="endpoint_down"):
        engine.probe()


@pytest.mark.parametrize(
    ("reply", "reason", "told"),
    [
        (said({"error": {"message": "no such key sesame"}}, 401), "endpoint_refused",
         r"401 \(no such key \*\*\*\); see transcribe\.endpoint\.api_key"),
        (Reply(403, b"<html>"), "endpoint_refused", r"transcribe\.endpoint\.api_key"),
        (said({"detail": "Not Found"}, 404), "endpoint_refused",
         r"404 \(Not Found\); .*transcribe\.endpoint\.url .*transcribe\.endpoint\.model='whisper"),
        (Reply(413), "endpoint_refused", r"lower transcribe\.endpoint\.longest_s=30"),
        (Reply(307, headers={"Location": "/v1/elsewhere"}), "endpoint_refused",
         r"redirects are not followed: set transcribe\.endpoint\.url"),
        (Reply(402), "endpoint_refused", "402"),
        (Reply(500, b"boom\x1b[2J"), "endpoint_down", r"500 \(boom \[2J\)"),
        (Reply(502), "endpoint_down", "502"),
        (Reply(429, headers={"Retry-After": "120"}), "endpoint_busy", "120 s without requests"),
        (Reply(503, headers={"Retry-After": "120"}), "endpoint_busy", "120 s without requests"),
        (Reply(200, b"<html>hello"), "endpoint_strange",
         r"without JSON; is transcribe\.endpoint\.url"),
        (Reply(200, b'{"text": "cut'), "endpoint_strange", "without JSON"),
        (Reply(200, b"[" * 100_000), "endpoint_strange", "without JSON"),
        (said({"text": None}), "endpoint_strange", "without a text"),
        (said(["text"]), "endpoint_strange", "without a text"),
        (said({"error": "no"}), "endpoint_strange", "without a text"),
        (Reply(204), "endpoint_strange", "without JSON"),
        (Reply(200, b'{"text": "hello"}', claims=1_000), "endpoint_down", "breaks off"),
        (Reply(then="drop"), "endpoint_down", "breaks off"),
        (Reply(body=b'{"text": "', then="hang"), "endpoint_down", r"timeout_s=0\.3"),
        (Reply(body=b'{"text": "', then="drip"), "endpoint_down", r"timeout_s=0\.3"),
        (Reply(then="drip head"), "endpoint_down", r"timeout_s=0\.3"),
        (Reply(body=b'{"text": "', then="flood"), "endpoint_strange",
         r"more than transcribe\.endpoint\.max_answer_bytes=100000"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_server_that_fails_is_waited_for_and_says_why(
    server: Endpoint, reply: Reply, reason: str, told: str
) -> None:
    server.answer = lambda request: reply
    never = reply.then in ("hang", "drip", "drip head")
    engine = OpenAIEngine(
        server.settings(api_key="sesame", timeout_s=0.3 if never else 60, max_answer_bytes=100_000)
    )
    for _ in range(2):
        with pytest.raises(Transient, match=told) as failed:
            engine.transcribe(SAID, SPANS)
        assert failed.value.reason == reason
        assert "sesame" not in str(failed.value)
        assert len(str(failed.value)) < 1_000
    assert all(request.path == "/v1/audio/transcriptions" for request in server.asked)
    server.answer = speaks
    if not never and reason != "endpoint_busy":  # which has asked not to be asked
        again = OpenAIEngine(server.settings()).transcribe(SAID, SPANS)
        assert engine.transcribe(SAID, SPANS) == again


def test_a_server_is_known_by_its_certificate(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, "localhost")
    with endpoint(certificate=certificate) as server:
        known = OpenAIEngine(server.settings(ca_file=certificate))
        assert known.transcribe(SAID, SPANS).segments
        with pytest.raises(Transient, match=r"endpoint_down: .*(?i:certificate)"):
            OpenAIEngine(server.settings()).transcribe(SAID, SPANS)


class Clock:
    """Time that passes where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def busy(times: int, after: str | None) -> Callable[[Request], Reply]:
    left = [times]

    def answer(request: Request) -> Reply:
        if left[0]:
            left[0] -= 1
            return Reply(429, headers={} if after is None else {"Retry-After": after})
        return speaks(request)

    return answer


@pytest.mark.parametrize(
    ("after", "times", "waited"),
    [("7", 2, 14.0), (None, 3, 1.0 + 2.0 + 4.0), ("0", 1, 0.5),
     ("Thu, 01 Jan 1970 00:00:00 GMT", 1, 0.5), ("soon", 1, 1.0)],
)  # fmt: skip
def test_a_busy_server_is_given_the_time_it_asks_for(
    server: Endpoint, after: str | None, times: int, waited: float
) -> None:
    server.answer, clock = busy(times, after), Clock()
    engine = OpenAIEngine(server.settings(), clock, clock.sleep)
    assert engine.transcribe(SAID, SPANS).segments
    assert clock.now == 1_000.0 + waited
    assert len(server.asked) == times + 1


def test_a_server_that_stays_busy_is_left_alone_for_as_long_as_it_asks(server: Endpoint) -> None:
    server.answer, clock = busy(1, "100"), Clock()
    engine = OpenAIEngine(server.settings(), clock, clock.sleep)
    for _ in range(3):
        with pytest.raises(Transient, match="endpoint_busy"):
            engine.transcribe(SAID, SPANS)
    assert (len(server.asked), clock.now) == (1, 1_000.0)
    clock.now += 100
    assert engine.transcribe(SAID, SPANS).segments
    server.answer = lambda request: Reply(429)
    with pytest.raises(Transient, match="endpoint_busy"):
        engine.transcribe(SAID, SPANS)


def test_what_was_heard_before_a_failure_is_not_asked_for_again(server: Endpoint) -> None:
    spans = [Span(at * 3_500, at * 3_500 + 1_000) for at in range(6)]
    audio = noise(25)
    whole = OpenAIEngine(server.settings()).transcribe(audio, spans)
    server.asked.clear()

    def answer(request: Request) -> Reply:
        return speaks(request) if len(server.asked) != 4 else Reply(503)

    server.answer = answer
    engine = OpenAIEngine(server.settings())
    with pytest.raises(Transient, match="endpoint_down"):
        engine.transcribe(audio, spans)
    assert engine.transcribe(audio, spans) == whole
    assert len(server.asked) == 6 + 1
    assert engine.transcribe(audio, spans) == whole
    assert len(server.asked) == 6 + 1 + 6, "what is done is forgotten"


@pytest.mark.parametrize("status", [400, 415, 422])
def test_audio_that_is_refused_while_other_is_taken_is_at_fault(
    server: Endpoint, status: int
) -> None:
    def answer(request: Request) -> Reply:
        return speaks(request) if request.is_silence else said({"error": "no"}, status)

    server.answer = answer
    engine = OpenAIEngine(server.settings())
    with pytest.raises(Invalid, match=rf"endpoint_refused: .* answers {status} \(no\)"):
        engine.transcribe(SAID, SPANS)
    asked = Asked(language="de", prompt="Good day.")
    with pytest.raises(Invalid, match="endpoint_refused"):
        engine.transcribe(SAID, SPANS, asked)
    last, probe = server.asked[-1], [it for it in server.asked if it.is_silence][-1]
    assert not last.is_silence, "what is refused is sent once more"
    assert (probe.fields["language"], probe.fields["prompt"]) == (["de"], ["Good day."])
    assert probe.length_s == last.length_s


def test_one_refusal_costs_no_call(server: Endpoint) -> None:
    whole = OpenAIEngine(server.settings()).transcribe(SAID, SPANS)
    server.asked.clear()
    forms = 3

    def answer(request: Request) -> Reply:
        return said({"error": "odd"}, 400) if len(server.asked) <= forms else speaks(request)

    server.answer = answer
    assert OpenAIEngine(server.settings()).transcribe(SAID, SPANS) == whole


def unless(refused: Callable[[Request], bool]) -> Callable[[Request], Reply]:
    """A server that refuses whatever is so, whether anybody speaks or not."""
    return lambda request: said({"error": "no"}, 400) if refused(request) else speaks(request)


def test_a_prompt_that_is_refused_costs_no_call(server: Endpoint) -> None:
    asked = Asked(language="en", prompt="Good day.", terms=("Zyxel",))
    bare = OpenAIEngine(server.settings()).transcribe(SAID, SPANS, Asked(language="en"))
    server.answer = unless(lambda request: "prompt" in request.fields)
    engine = OpenAIEngine(server.settings())
    for _ in range(2):
        told = engine.transcribe(SAID, SPANS, asked)
        assert told == bare
        assert (told.terms, told.prompt) == ((), "")


def test_a_prompt_with_which_a_server_fails_is_not_the_audios_fault(server: Endpoint) -> None:
    server.answer = lambda it: Reply(500) if "prompt" in it.fields else speaks(it)
    engine = OpenAIEngine(server.settings())
    for _ in range(3):
        with pytest.raises(Transient, match="endpoint_down"):
            engine.transcribe(SAID, SPANS, Asked(prompt="Good day."))


@pytest.mark.parametrize("prompt", ["", "Good day."])
def test_a_language_that_is_refused_is_named_and_waited_for(server: Endpoint, prompt: str) -> None:
    server.answer = unless(lambda request: "language" in request.fields)
    engine = OpenAIEngine(server.settings())
    for _ in range(2):
        with pytest.raises(Transient, match=r"endpoint_refused: .* transcribe\.language='xx'"):
            engine.transcribe(SAID, SPANS, Asked(language="xx", prompt=prompt))


def test_a_length_that_is_refused_is_named_and_waited_for(server: Endpoint) -> None:
    server.answer = unless(lambda request: request.length_s > 3)
    engine = OpenAIEngine(server.settings())
    for _ in range(2):
        with pytest.raises(Transient, match=r"of 4500 ms .*transcribe\.endpoint\.longest_s=30"):
            engine.transcribe(SAID, SPANS, Asked(language="en", prompt="Good day."))


def test_a_stretch_too_short_for_the_server_holds_up_no_other(server: Endpoint) -> None:
    server.answer = unless(lambda request: request.length_s < 1)
    with pytest.raises(Invalid, match="endpoint_refused"):
        OpenAIEngine(server.settings()).transcribe(SAID, [Span(500, 700)])


@pytest.mark.parametrize("status", [400, 415, 422])
def test_a_server_that_refuses_all_audio_is_at_fault(server: Endpoint, status: int) -> None:
    server.answer = lambda request: said({"error": {"message": "no model"}}, status)
    engine = OpenAIEngine(server.settings())
    for _ in range(2):
        with pytest.raises(Transient, match=rf"answers {status} \(no model\).*model='whisper-1'"):
            engine.transcribe(SAID, SPANS)


@pytest.mark.parametrize(
    "failing",
    [Reply(500), Reply(then="drop"), Reply(200, b"junk")],
    ids=["fails", "drops", "junk"],
)
def test_audio_at_which_a_server_fails_again_holds_nobody_up(
    server: Endpoint, failing: Reply
) -> None:
    server.answer = lambda request: speaks(request) if request.is_silence else failing
    engine = OpenAIEngine(server.settings())
    with pytest.raises(Transient):
        engine.transcribe(SAID, SPANS)
    for _ in range(3):
        with pytest.raises(EndpointFailed, match="it takes other audio"):
            engine.transcribe(SAID, SPANS)
    server.answer = lambda request: Reply(500)
    with pytest.raises(Transient, match="endpoint_down"):
        engine.transcribe(SAID, SPANS)
    server.answer = speaks
    assert engine.transcribe(SAID, SPANS).segments


@pytest.mark.parametrize("slow", [Reply(body=b"{", then="hang"), Reply(408), Reply(504)], ids=str)
def test_a_server_that_is_slow_at_all_but_silence_is_waited_for(
    server: Endpoint, slow: Reply
) -> None:
    """With much to do it answers a second of silence in time, and thirty of speech too late."""
    server.answer = lambda request: speaks(request) if request.is_silence else slow
    engine = OpenAIEngine(server.settings(timeout_s=0.3 if slow.then else 60))
    for _ in range(3):
        with pytest.raises(Transient, match="endpoint_down"):
            engine.transcribe(SAID, SPANS)
    assert not any(request.is_silence for request in server.asked), "nothing is in doubt"
    server.answer = speaks
    assert OpenAIEngine(server.settings()).transcribe(SAID, SPANS).segments


def slow_at(loudest: float) -> Callable[[Request], Reply]:
    """A server that answers nothing so loud in time."""
    return lambda it: Reply(504) if np.abs(it.samples).max(initial=0.0) > loudest else speaks(it)


LOUD = [Span(0, 2_000)]


def test_one_stretch_that_always_takes_too_long_holds_nobody_up(server: Endpoint) -> None:
    server.answer, clock = slow_at(0.6), Clock()
    engine = OpenAIEngine(server.settings(), clock, clock.sleep)
    loud, other = noise(2, 0.3), noise(2, 0.05)

    def fails(with_: type[Exception]) -> None:
        with pytest.raises(with_, match="answers 504"):
            engine.transcribe(loud, LOUD)
        assert engine.transcribe(other, LOUD).segments

    fails(Transient)
    clock.now += 150
    fails(Transient)
    clock.now += 149
    fails(Transient)
    clock.now += 1
    with pytest.raises(NotYet, match=r"endpoint_slow: .* so 4 times in 300 s, while it answers"):
        engine.transcribe(loud, LOUD)
    assert engine.transcribe(other, LOUD).segments
    clock.now += 600
    fails(NotYet)
    server.answer = speaks
    assert engine.transcribe(loud, LOUD) == OpenAIEngine(server.settings()).transcribe(loud, LOUD)
    server.answer = slow_at(0.6)
    fails(Transient)


def test_a_server_that_answers_nothing_in_time_is_waited_for(server: Endpoint) -> None:
    server.answer, clock = slow_at(0.0), Clock()
    engine = OpenAIEngine(server.settings(), clock, clock.sleep)
    loud, other = noise(2, 0.3), noise(2, 0.05)
    for _ in range(10):
        clock.now += 600
        for audio in (loud, other):
            with pytest.raises(Transient, match="endpoint_down"):
                engine.transcribe(audio, LOUD)
    # Nor does it help that a call's beginning was answered before: only what it answers now.
    server.answer = speaks
    assert engine.transcribe(other, LOUD).segments
    server.answer = slow_at(0.0)
    for _ in range(10):
        clock.now += 600
        with pytest.raises(Transient, match="endpoint_down"):
            engine.transcribe(loud, LOUD)


def test_a_probe_says_whether_it_can_be_had(server: Endpoint) -> None:
    engine = OpenAIEngine(server.settings())
    engine.probe()
    assert server.asked[0].is_silence
    server.answer = lambda request: Reply(401)
    with pytest.raises(Transient, match=r"transcribe\.endpoint\.api_key"):
        engine.probe()


# Many calls


def at_once(jobs: list[Callable[[], object]]) -> None:
    threads = [Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_no_more_is_asked_at_once_than_is_set(server: Endpoint) -> None:
    engine = OpenAIEngine(server.settings(concurrency=2))
    audio: list[Samples] = [noise(2, seed=seed) for seed in range(6)]
    at_once([lambda each=each: engine.transcribe(each, [Span(0, 2_000)]) for each in audio])  # type: ignore[misc]
    assert len(server.asked) == 6
    assert server.at_once <= 2


def test_a_replay_waits_while_a_live_call_has_something_to_send(server: Endpoint) -> None:
    order: list[str] = []
    first, go = Event(), Event()

    def answer(request: Request) -> Reply:
        order.append(request.fields["prompt"][0])
        first.set()
        assert go.wait(10)
        return speaks(request)

    server.answer = answer
    engine = OpenAIEngine(server.settings(concurrency=1))

    def call(name: str, replay: bool) -> Thread:
        asked = Asked(prompt=name, replay=replay)
        thread = Thread(target=lambda: engine.transcribe(SAID, SPANS, asked))
        thread.start()
        return thread

    threads = [call("live 1", False)]
    assert first.wait(10)
    threads.append(call("replay", True))
    threads.append(call("live 2", False))
    deadline = time.monotonic() + 10
    while engine.waiting < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    both_wait = engine.waiting == 2
    go.set()
    for thread in threads:
        thread.join()
    assert both_wait, "each has something to send"
    assert order == ["live 1", "live 2", "replay"]


# Settings


def test_identity_tells_the_server_and_no_secret() -> None:
    settings = EndpointSettings.model_validate(
        {"url": "https://speech.example/v1/", "model": "large", "api_key": "sesame",
         "revision": "2026-05", "languages": ["de", "zh-Hant"]}
    )  # fmt: skip
    engine = OpenAIEngine(settings)
    assert engine.identity.options["url"] == "https://speech.example/v1"
    assert (engine.identity.name, engine.identity.model) == ("openai", "large")
    assert engine.identity.model_revision == "2026-05"
    assert "sesame" not in repr(engine.identity) + repr(settings)
    assert engine.languages == {"de", "zh"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"url": None}, r"transcribe\.endpoint\.url, which is not set"),
        ({"model": ""}, r"transcribe\.endpoint\.model, which is not set"),
        ({"api_key": "two\r\nlines"}, r"transcribe\.endpoint\.api_key holds"),
        ({"ca_file": "/nowhere/ca.pem"}, r"transcribe\.endpoint\.ca_file='/nowhere/ca\.pem'"),
    ],
)
def test_what_is_missing_or_wrong_is_told_with_its_key(changes: dict[str, Any], told: str) -> None:
    known = {"url": "http://127.0.0.1:1/v1", "model": "m"}
    with pytest.raises(ValueError, match=told) as wrong:
        OpenAIEngine(EndpointSettings.model_validate({**known, **changes}))
    assert "lines" not in str(wrong.value)


@pytest.mark.parametrize(
    "url",
    ["ftp://host/v1", "http://user:secret@host/v1", "http://host/v1?key=1", "http://host/v1#x",
     "http://", "http://host:port/", "http://ho st/", "http://[::1/v1"],
)  # fmt: skip
def test_a_url_is_a_server_and_a_path(url: str) -> None:
    with pytest.raises(ValidationError, match="url"):
        EndpointSettings(url=url)
