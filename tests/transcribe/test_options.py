"""What a replay may override of transcribe, and what it takes to have another engine."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from schemas import topics
from schemas.events import CallRecorded, CallTranscribed
from services.replay.selection import Refused, check_options
from services.runtime import headers as h
from services.runtime.codec import Codec, FolderRegistry
from services.runtime.errors import Invalid, NotYet, Transient
from services.runtime.log import Message, Record
from services.runtime.objects import DirectoryObjects
from services.runtime.process import process, way_id
from services.runtime.stage import Envelope, Stage, event_id
from services.transcribe.choice import Chosen, Engines, Wanted
from services.transcribe.handler import stage
from services.transcribe.settings import OPTIONS, TranscribeSettings, with_options
from tests.transcribe.fake_engine import FakeEngine
from tests.transcribe.sounds import recorded, speech, stored, wav

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
LIVE = Chosen(FakeEngine(model="live"), "the settings ask for it")


@pytest.fixture
def event(tmp_path: Path) -> CallRecorded:
    objects = DirectoryObjects(tmp_path / "objects")
    return recorded(stored(objects, "r1", wav([speech()]), 1))


def handled(
    made: Stage, event: CallRecorded, options: Mapping[str, str], topic: str = topics.REPLAY
) -> CallTranscribed:
    message = Message(topic, 0, 0, b"acme/call", b"", (), 0)
    generation = 1 if topic == topics.REPLAY else 0
    ((_, outcome),) = made.handle([Envelope(event, message, "1", generation, options=options)])
    if isinstance(outcome, Exception):
        raise outcome
    (output,) = outcome
    assert isinstance(output.event, CallTranscribed)
    return output.event


def made(tmp_path: Path, **settings: Any) -> Stage:
    chosen = TranscribeSettings.model_validate({"engine": "pocketsphinx", **settings})
    return stage(chosen, DirectoryObjects(tmp_path / "objects"), LIVE, clock=lambda: NOW)


# What may be asked for


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"beam_size": "1"}, "no option 'beam_size'; it knows engine, model, language"),
        ({"engine": "ears"}, "engine='ears'.*'faster-whisper'"),
        ({"engine": ""}, "engine=''"),
        ({"language": "../en"}, "language='../en'"),
        ({"language": ""}, "language=''"),
        ({"model": "", "engine": "faster-whisper"}, "model=''"),
        ({"model": "large-v3", "engine": "stub"}, "stub has no models.*faster-whisper"),
        ({"model": "/tmp/model", "engine": "sensevoice"}, "sensevoice has no models"),
    ],
)
def test_what_is_no_option_is_refused_with_what_is_one(options: dict[str, str], told: str) -> None:
    with pytest.raises(Invalid, match=rf"^unknown_option: (?s:.*){told}"):
        with_options(TranscribeSettings(), options)


def test_an_option_is_checked_as_the_setting_is() -> None:
    wanted = with_options(TranscribeSettings(beam_size=3), {"language": "zh-Hant"})
    assert (wanted.language, wanted.beam_size) == ("zh-Hant", 3)
    assert with_options(wanted, {}) == wanted


def test_a_model_asked_for_is_never_replaced_by_another_engine(tmp_path: Path) -> None:
    settings = TranscribeSettings(model_dir=tmp_path)
    wanted = with_options(settings, {"model": "large-v3"})
    assert (wanted.engine, wanted.model, wanted.model_dir) == ("faster-whisper", "large-v3", None)


def test_a_model_asked_for_of_a_server_is_the_servers() -> None:
    settings = TranscribeSettings.model_validate(
        {"model": "small", "endpoint": {"url": "http://127.0.0.1:9/v1", "model": "one"}}
    )
    asked = with_options(settings, {"engine": "openai", "model": "two"})
    assert (asked.engine, asked.endpoint.model, asked.model) == ("openai", "two", "small")
    assert asked.endpoint.url == settings.endpoint.url


@pytest.mark.parametrize("name", ["ingest", "sink"])
def test_other_stages_know_none(name: str) -> None:
    check_options(name, {})
    with pytest.raises(Refused, match=f"{name} knows no option 'engine'; it knows none"):
        check_options(name, {"engine": "stub"})


def test_the_stage_says_what_it_knows(tmp_path: Path) -> None:
    assert made(tmp_path).options == tuple(OPTIONS) == ("engine", "model", "language")


# What comes of it


def test_a_replay_is_heard_by_the_engine_it_asks_for_and_says_so(
    tmp_path: Path, event: CallRecorded
) -> None:
    transcribing = made(tmp_path)
    assert handled(transcribing, event, {}).engine.model == "live"
    other = handled(transcribing, event, {"engine": "stub"})
    assert other.engine.name == "stub"
    assert "the replay's option engine asks for it" in other.engine.reason
    same = handled(transcribing, event, {"engine": "pocketsphinx"})
    assert (same.engine.model, same.engine.reason) == ("live", LIVE.reason)
    assert handled(transcribing, event, {}, topics.RECORDED).engine.model == "live"


def test_a_language_asked_for_is_the_one_listened_for(tmp_path: Path, event: CallRecorded) -> None:
    transcribing = made(tmp_path)
    german = handled(transcribing, event, {"engine": "stub", "language": "de-AT"})
    assert german.language == "de"
    assert {segment.language for segment in german.segments} == {"de"}
    again = handled(transcribing, event, {"engine": "stub"})
    assert not again.cached, "another language is another question"
    assert again.language != "de"


def test_a_model_that_is_not_there_now_is_waited_for_by_its_call_alone(
    tmp_path: Path, event: CallRecorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    transcribing = made(tmp_path)
    with pytest.raises(NotYet, match=r"model_missing: transcribe\.model='base'"):
        handled(transcribing, event, {"engine": "faster-whisper", "model": "base"})
    assert handled(transcribing, event, {}, topics.RECORDED).engine.model == "live"
    with pytest.raises(Invalid, match=r"unknown_option: .*'smal' is no Whisper model"):
        handled(transcribing, event, {"engine": "faster-whisper", "model": "smal"})


def test_a_wrong_option_is_refused_by_the_stage_too(tmp_path: Path, event: CallRecorded) -> None:
    with pytest.raises(Invalid, match="unknown_option"):
        handled(made(tmp_path), event, {"engine": "ears"})


# What a replay of ingest has made


@pytest.mark.parametrize("shadow", [False, True])
def test_it_is_asked_for_as_a_replay_and_comes_out_as_if_it_had_not_been(
    tmp_path: Path, event: CallRecorded, shadow: bool
) -> None:
    codec = Codec(FolderRegistry())
    transcribing = made(tmp_path)

    def once(record: Record) -> Record:
        message = Message(record.topic, 0, 0, record.key, record.value, record.headers, 0)
        ((_, outcome),) = process(transcribing, codec, [message], lambda: NOW)
        assert isinstance(outcome, list), outcome
        (came,) = outcome
        return came

    again = codec.encode(
        event, id="r-1", source="/test", time=NOW, generation=7, shadow=shadow, side_effects=False
    )
    asked = once(again)
    assert (asked.topic, asked.key) == (topics.REPLAY, again.key)
    assert asked == once(again), "asked for twice it is one request"
    assert dict(asked.headers)[h.ID].decode() == way_id("transcribe", "r-1", 7)
    assert dict(asked.headers)[h.REPLAY_STAGE] == b"transcribe"
    request = codec.decode(Message(asked.topic, 0, 0, asked.key, asked.value, asked.headers, 0))
    assert request.event.requested_at <= event.call.published_at, "an erasure of it covers this too"
    heard = once(asked)
    assert heard.topic == topics.TRANSCRIBED
    headers = {name: value.decode() for name, value in heard.headers}
    assert headers[h.ID] == event_id("transcribe", "r-1", 7, 0)
    assert headers[h.CAUSATION_ID] == "r-1"
    assert headers[h.GENERATION] == "7"
    assert (h.SHADOW in headers) == shadow
    live = once(codec.encode(event, id="r-1", source="/test", time=NOW))
    assert live.topic == topics.TRANSCRIBED


# Engines


class Loader:
    """Loads engines at will, and remembers which."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.failure: Exception | None = None

    def __call__(self, settings: TranscribeSettings, asked_by: str) -> Chosen:
        self.asked.append(settings.model)
        if self.failure is not None:
            raise self.failure
        return Chosen(FakeEngine(model=settings.model), f"{asked_by} asks for it")


def wanted(model: str) -> TranscribeSettings:
    return TranscribeSettings(engine="faster-whisper", model=model)


def asked_for(engines: Engines, model: str) -> str:
    """The model that listens where a replay asks for that one."""
    by_option = Wanted(wanted(model), replay=True, by_option=True)
    return engines.hear(by_option, lambda settings, who: who.engine.identity.model)


def test_two_engines_are_kept_beside_the_live_one_and_the_older_goes() -> None:
    loader = Loader()
    engines = Engines(wanted("small"), LIVE, loader)
    assert asked_for(engines, "small") == "live"
    for model in ("a", "b", "a", "c", "a"):
        assert asked_for(engines, model) == model
    assert loader.asked == ["a", "b", "c"], "a was used later than b"
    asked_for(engines, "b")
    assert loader.asked == ["a", "b", "c", "b"]


def test_a_model_that_cannot_be_had_now_holds_up_no_stage() -> None:
    now = [0.0]
    loader = Loader()
    engines = Engines(wanted("small"), LIVE, loader, clock=lambda: now[0])
    loader.failure = Transient("model_missing", "the hub does not answer")
    for _ in range(3):
        with pytest.raises(NotYet, match="model_missing: the hub does not answer"):
            asked_for(engines, "large")
    assert loader.asked == ["large"], "who comes soon after does not wait for the hub again"
    loader.failure = None
    now[0] = 60.0
    assert asked_for(engines, "large") == "large"


def test_a_model_that_is_none_is_invalid() -> None:
    loader = Loader()
    loader.failure = ValueError("transcribe.model='big' is no Whisper model; one of small")
    engines = Engines(wanted("small"), LIVE, loader)
    for _ in range(2):
        with pytest.raises(Invalid, match=r"unknown_option: .*'big' is no Whisper model"):
            asked_for(engines, "big")
    assert loader.asked == ["big"]
