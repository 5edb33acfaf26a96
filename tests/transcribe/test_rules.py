"""Which engine listens to which call, and what listens where that one cannot."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytest
from pydantic import ValidationError

from schemas import topics
from schemas.events import (
    CallRecorded,
    CallTranscribed,
    DegradationKind,
    Queue,
    StoredRecording,
)
from schemas.events import Engine as Identity
from schemas.examples import EXAMPLES
from services.runtime.errors import Invalid, NotYet, Transient
from services.runtime.log import Message
from services.runtime.objects import DirectoryObjects
from services.runtime.stage import Envelope
from services.transcribe.batches import OutOfMemory
from services.transcribe.choice import (
    CallFacts,
    Chosen,
    Engines,
    Partings,
    Wanted,
    choose,
    choose_diarizer,
    facts_of,
    ruled,
    wanted_for,
)
from services.transcribe.diarizer import Parting
from services.transcribe.engine import NOTHING_KNOWN, Asked, Heard, Samples
from services.transcribe.handler import stage
from services.transcribe.settings import TranscribeSettings
from services.transcribe.spans import Span
from tests.transcribe.sounds import recorded, silence, speech, stored, wav

SERVER = {"url": "http://127.0.0.1:9/v1", "model": "large"}


def made(**settings: Any) -> TranscribeSettings:
    return TranscribeSettings.model_validate({"engine": "faster-whisper", **settings})


# Rules


@pytest.mark.parametrize(
    ("rule", "facts", "matches"),
    [
        ({}, CallFacts(), True),
        ({"languages": ["yue", "zh-Hant"]}, CallFacts(languages=("en", "zh")), True),
        ({"languages": ["yue"]}, CallFacts(languages=("en", "zh")), False),
        ({"languages": ["yue"]}, CallFacts(), False),
        ({"queues": ["billing"]}, CallFacts(queue=frozenset({"q-1", "billing"})), True),
        ({"queues": ["billing"]}, CallFacts(), False),
        ({"tenants": ["acme"]}, CallFacts(tenant="acme"), True),
        ({"tenants": ["acme"]}, CallFacts(tenant="other"), False),
        ({"shorter_than_s": 60}, CallFacts(length_s=59.9), True),
        ({"shorter_than_s": 60}, CallFacts(length_s=60), False),
        ({"shorter_than_s": 60}, CallFacts(), False),
        ({"longer_than_s": 60}, CallFacts(length_s=60.1), True),
        ({"longer_than_s": 60}, CallFacts(length_s=60), False),
        ({"longer_than_s": 0}, CallFacts(), False),
        (
            {"languages": ["en"], "queues": ["q-1"], "longer_than_s": 9},
            CallFacts(languages=("en",), queue=frozenset({"q-1"}), length_s=10),
            True,
        ),
        (
            {"languages": ["en"], "queues": ["q-1"], "longer_than_s": 9},
            CallFacts(languages=("en",), queue=frozenset({"q-2"}), length_s=10),
            False,
        ),
    ],
)
def test_a_rule_matches_where_all_that_it_says_is_so(
    rule: dict[str, Any], facts: CallFacts, matches: bool
) -> None:
    wanted = ruled(made(rules=[{**rule, "engine": "stub"}]), facts)
    assert (wanted.settings.engine == "stub") == matches
    assert wanted.rule == ("rule 1" if matches else "")
    assert wanted.languages == facts.languages


def test_the_first_rule_that_matches_counts_and_brings_its_model() -> None:
    settings = made(
        model="small",
        endpoint=SERVER,
        language="de",
        rules=[
            {"languages": ["yue"], "engine": "sensevoice", "model_dir": "/models/sense"},
            {"name": "long", "longer_than_s": 600, "engine": "openai", "model": "turbo"},
            {"queues": ["vip"], "engine": "whisperx", "model": "large-v3"},
            {"engine": "faster-whisper", "model_dir": "/models/tiny"},
        ],
    )

    def of(**facts: Any) -> Wanted:
        return ruled(settings, CallFacts(**facts))

    assert str(of(languages=("yue",)).settings.sensevoice.model_dir) == "/models/sense"
    long = of(length_s=700, queue=frozenset({"vip"}))
    assert (long.settings.engine, long.settings.endpoint.model) == ("openai", "turbo")
    assert long.rule == "rule 2 (long)"
    assert (of(queue=frozenset({"vip"})).settings.model) == "large-v3"
    assert str(of().settings.model_dir) == "/models/tiny"
    assert all(of(**it).settings.language == "de" for it in ({}, {"length_s": 700}))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"rules": [{"languages": ["en"]}]}, "engine"),
        ({"rules": [{"engine": "auto"}]}, "engine"),
        ({"rules": [{"engine": "stub", "model": "large"}]}, "stub has no models"),
        ({"rules": [{"engine": "openai", "model_dir": "/x"}]}, "openai has no models"),
        ({"rules": [{"engine": "stub", "queue": "x"}]}, "queue"),
        ({"rules": [{"engine": "stub", "languages": ["../x"]}]}, "languages"),
        (
            {"rules": [{"engine": "openai"}]},
            r"transcribe\.rules: rule 1 .*transcribe\.endpoint\.url",
        ),
        ({"fallbacks": ["openai"]}, r"transcribe\.fallbacks: .*transcribe\.endpoint\.url"),
        ({"fallbacks": ["auto"]}, "fallbacks"),
        (
            {"task": "translate", "rules": [{"engine": "stub"}, {"engine": "sensevoice"}]},
            r"transcribe\.rules: rule 2 names sensevoice, .*transcribe\.task=translate",
        ),
        (
            {
                "task": "translate",
                "endpoint": SERVER,
                "rules": [{"name": "long", "longer_than_s": 60, "engine": "openai"}],
            },
            r"transcribe\.rules: rule 1 \(long\) names openai, .*transcribe\.task=translate",
        ),
        (
            {"task": "translate", "fallbacks": ["whisperx", "sensevoice"]},
            r"transcribe\.fallbacks: number 2 names sensevoice, .*transcribe\.task=translate",
        ),
    ],
)
def test_a_rule_that_could_not_be_kept_is_refused_at_start(
    settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValidationError, match=told):
        made(**settings)


def test_a_rule_for_what_is_not_here_is_found_before_any_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    here = {"whisperx": None, "funasr": ModuleSpec("funasr", None)}
    monkeypatch.setattr("importlib.util.find_spec", here.get)

    def refused(**settings: Any) -> str:
        with pytest.raises(ValueError, match=r"^transcribe\.rules") as told:
            choose(made(engine="stub", **settings))
        return str(told.value)

    vip = {"name": "vip", "queues": ["vip"]}
    assert refused(rules=[{"engine": "stub"}, {**vip, "engine": "whisperx"}]) == (
        "transcribe.rules: rule 2 (vip) names whisperx, which needs the extra `transcribe`: "
        "pip install 'callstream[transcribe]'"
    )
    for engine, file in (("faster-whisper", "model.bin"), ("sensevoice", "model.pt")):
        rule = {**vip, "engine": engine, "model_dir": tmp_path / engine}
        assert refused(rules=[rule]) == (
            f"transcribe.rules: rule 1 (vip) names {engine} with "
            f"model_dir={str(tmp_path / engine)!r}, which holds no {file}"
        )
    sense = tmp_path / "sense"
    sense.mkdir()
    (sense / "model.pt").touch()
    rules = [{"engine": "sensevoice", "model_dir": sense}, {"engine": "pocketsphinx"}]
    choose(made(engine="stub", rules=rules))
    capfd.readouterr()
    choose(made(engine="stub", fallbacks=["whisperx", "pocketsphinx"]))
    told = "".join(capfd.readouterr())
    assert "transcribe.fallbacks names whisperx, which needs the extra `transcribe`" in told
    assert "pocketsphinx" not in told


def event(*lengths_ms: tuple[int, int], **call: Any) -> CallRecorded:
    described: StoredRecording = EXAMPLES["CallRecorded"]["happy"].recordings[0]
    return recorded(
        *(
            replace(described, start_offset_ms=start, duration_ms=length)
            for start, length in lengths_ms
        ),
        **call,
    )


def test_facts_are_taken_from_the_call_and_what_the_settings_know_of_it() -> None:
    queue = Queue(id="q-1", name="Billing")
    call = event((0, 10_000), (5_000, 20_000), language_hints=["zh-CN", "cmn"], queue=queue)
    facts = facts_of(call, made())
    assert facts.languages == ("zh",)
    assert facts.queue == {"q-1", "Billing"}
    assert facts.length_s == 25.0
    assert facts.tenant == call.tenant_id
    assert facts_of(call, made(language="de-AT")).languages == ("de",)
    silent = event((0, 0), language_hints=[], queue=queue)
    declared = made(queue_languages={"Billing": ["yue", "en"]})
    assert facts_of(silent, declared).languages == ("yue", "en")
    assert facts_of(silent, made()) == replace(facts, languages=(), length_s=None)


def test_a_replay_that_names_an_engine_or_a_model_has_it_whatever_the_rules_say() -> None:
    settings = made(rules=[{"engine": "pocketsphinx"}])
    call = event((0, 10_000))
    assert wanted_for(call, settings, {}, replay=True).settings.engine == "pocketsphinx"
    language = wanted_for(call, settings, {"language": "de"}, replay=True)
    assert (language.settings.engine, language.languages) == ("pocketsphinx", ("de",))
    named = wanted_for(call, settings, {"engine": "stub"}, replay=True)
    assert (named.settings.engine, named.rule, named.by_option) == ("stub", "", True)
    assert wanted_for(call, settings, {"model": "base"}, replay=True).settings.model == "base"
    with pytest.raises(Invalid, match="unknown_option"):
        wanted_for(call, settings, {"engine": "ears"}, replay=True)


# Fallbacks


@dataclass
class Ear:
    """An engine that may be away."""

    name: str
    languages: Collection[str] | None = None
    away: bool = False
    fails: Exception | None = None
    asked: int = 0

    @property
    def identity(self) -> Identity:
        return Identity(name=self.name, version="1", model="m")

    def transcribe(
        self, audio: Samples, spans: Sequence[Span], asked: Asked = NOTHING_KNOWN
    ) -> Heard:
        self.asked += 1
        if self.away:
            raise Transient("endpoint_down", f"{self.name} does not answer")
        if self.fails is not None:
            raise self.fails
        return Heard(language=self.name)


@dataclass
class World:
    """Engines by name, some of which cannot be loaded; and the time."""

    settings: TranscribeSettings
    ears: dict[str, Ear] = field(default_factory=dict)
    missing: dict[str, Exception] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    loads: Callable[[str], None] = lambda name: None
    now: float = 0.0
    took: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("faster-whisper", "whisperx", "sensevoice", "openai", "pocketsphinx", "stub"):
            self.ears.setdefault(name, Ear(name))
        self.ears["auto"] = self.ears["faster-whisper"]
        live = Chosen(self.ears[self.settings.engine], "the settings ask for it")
        self.engines = Engines(
            self.settings, live, self.load, self.took.append, clock=lambda: self.now
        )

    def load(self, settings: TranscribeSettings, asked_by: str) -> Chosen:
        self.loaded.append(settings.engine)
        self.loads(settings.engine)
        if settings.engine in self.missing:
            raise self.missing[settings.engine]
        return Chosen(self.ears[settings.engine], f"{settings.engine}: {asked_by} asks for it")

    def hear(self, wanted: Wanted | None = None) -> tuple[str, Chosen]:
        """Who listens to a call, and what is published of that."""

        def listen(settings: TranscribeSettings, who: Chosen) -> tuple[str, Chosen]:
            assert settings.engine in ("auto", who.engine.identity.name)
            return who.engine.transcribe(silence(1), [Span(0, 1_000)]).language, who

        return self.engines.hear(wanted or ruled(self.settings, CallFacts()), listen)


def test_without_rules_and_fallbacks_there_is_one_engine() -> None:
    world = World(made())
    name, who = world.hear()
    assert (name, who.reason, who.degradations) == (
        "faster-whisper", "the settings ask for it", ()
    )  # fmt: skip
    assert world.loaded == []
    assert len(world.took) == 1
    world.ears["faster-whisper"].away = True
    world.now = 1e6
    for _ in range(3):
        with pytest.raises(Transient, match="endpoint_down: faster-whisper does not answer"):
            world.hear()
    assert world.ears["faster-whisper"].asked == 4
    assert len(world.took) == 4


def test_an_engine_of_a_rule_is_loaded_once_and_says_which_rule_asked_for_it() -> None:
    world = World(made(rules=[{"name": "all", "engine": "sensevoice"}]))
    for _ in range(2):
        name, who = world.hear()
        assert name == "sensevoice"
        assert who.reason == "rule 1 (all): sensevoice: transcribe.rules asks for it"
        assert who.degradations == ()
    assert world.loaded == ["sensevoice"]


def test_engines_that_the_settings_name_are_kept_whatever_replays_ask_for() -> None:
    world = World(made(rules=[{"engine": "sensevoice"}], fallbacks=["stub"]))
    world.hear()
    for model in ("a", "b", "c"):
        world.hear(Wanted(made(model=model), replay=True, by_option=True))
    world.hear()
    assert world.loaded == ["sensevoice", *["faster-whisper"] * 3]


def test_a_fallback_listens_once_an_engine_has_been_away_for_long() -> None:
    world = World(made(engine="openai", endpoint=SERVER, fallbacks=["stub"], fallback_after_s=300))
    server = world.ears["openai"]
    server.away = True
    for world.now in (0.0, 100.0, 299.0):
        with pytest.raises(Transient, match="openai does not answer"):
            world.hear()
    world.now = 300.0
    name, who = world.hear()
    assert name == "stub"
    (degraded,) = who.degradations
    assert degraded.kind is DegradationKind.ENGINE_FALLBACK
    told = "openai is away (endpoint_down: openai does not answer)"
    assert degraded.reason == f"stub listens in place of openai: {told}"
    assert who.reason == (f"in place of others ({told}): stub: transcribe.fallbacks asks for it")
    asked = server.asked
    for world.now in (310.0, 359.0):
        assert world.hear()[0] == "stub"
    assert server.asked == asked, "it is left alone for a minute"
    world.now = 360.0
    assert world.hear()[0] == "stub"
    assert server.asked == asked + 1
    server.away, world.now = False, 420.0
    name, who = world.hear()
    assert (name, who.degradations) == ("openai", ())
    server.away = True
    with pytest.raises(Transient):
        world.hear()


def test_an_answer_in_between_begins_the_wait_anew() -> None:
    world = World(made(engine="openai", endpoint=SERVER, fallbacks=["stub"], fallback_after_s=300))
    for world.now, away in ((0.0, True), (200.0, False), (400.0, True)):
        world.ears["openai"].away = away
        if away:
            with pytest.raises(Transient):
                world.hear()
        else:
            assert world.hear()[0] == "openai"


@pytest.mark.parametrize("after_s", [90, 300])
def test_two_failures_with_hours_between_are_no_absence_of_hours(after_s: float) -> None:
    world = World(
        made(engine="openai", endpoint=SERVER, fallbacks=["stub"], fallback_after_s=after_s)
    )
    world.ears["openai"].away = True
    for world.now in (0.0, 36_000.0, 36_000.0 + after_s - 1):
        with pytest.raises(Transient):
            world.hear()
    world.now = 36_000.0 + after_s
    assert world.hear()[0] == "stub"
    world.now = 80_000.0
    assert world.hear()[0] == "stub", "nothing says that it is back"


def test_calls_that_take_long_to_fail_or_come_seldom_tell_of_one_absence() -> None:
    world = World(made(engine="openai", endpoint=SERVER, fallbacks=["stub"], fallback_after_s=60))

    def fails(settings: TranscribeSettings, who: Chosen) -> str:
        if settings.engine == "openai":
            world.now += 1_000.0  # an hour of audio, or a timeout
        return who.engine.transcribe(silence(1), [Span(0, 1_000)]).language

    world.ears["openai"].away = True
    call = ruled(world.settings, CallFacts())
    with pytest.raises(Transient):
        world.engines.hear(call, fails)
    world.now += 30.0
    assert world.engines.hear(call, fails) == "stub"


def test_a_fallback_listens_at_once_where_an_engine_cannot_be_loaded() -> None:
    world = World(made(rules=[{"engine": "sensevoice"}], fallbacks=["whisperx", "stub"]))
    world.missing["sensevoice"] = Transient("model_missing", "the hub is silent")
    world.missing["whisperx"] = ValueError("it needs the extra `transcribe`")
    name, who = world.hear()
    assert name == "stub"
    assert who.degradations[0].reason == (
        "stub listens in place of sensevoice: sensevoice cannot be had (model_missing: the hub is "
        "silent); whisperx cannot be had (wrong_setting: it needs the extra `transcribe`)"
    )
    assert who.reason.startswith("rule 1: in place of others (sensevoice cannot be had")
    world.hear()
    assert world.loaded == ["sensevoice", "whisperx", "stub"]
    world.missing.clear()
    world.now = 60.0
    assert world.hear()[0] == "sensevoice", "it is looked for again"


BROKEN = [
    OSError("libcublas.so.12: cannot open shared object file"),
    AttributeError("module 'torch' has no attribute 'uint64'"),
    UnpicklingError("invalid load key"),
]


@pytest.mark.parametrize("error", BROKEN, ids=lambda it: type(it).__name__)
def test_an_engine_that_breaks_while_it_is_loaded_is_one_that_cannot_be_had(
    error: Exception,
) -> None:
    world = World(made(rules=[{"engine": "sensevoice"}], fallbacks=["stub"]))
    world.missing["sensevoice"] = error
    for _ in range(2):
        name, who = world.hear()
        assert name == "stub"
        assert f"engine_broken: sensevoice cannot be loaded ({type(error).__name__}: " in who.reason
    assert world.loaded == ["sensevoice", "stub"], "it is remembered"
    asked = Wanted(made(engine="whisperx"), replay=True, by_option=True)
    world.missing["whisperx"] = error
    with pytest.raises(NotYet, match="engine_broken"):
        world.hear(asked)
    alone = World(made(rules=[{"engine": "sensevoice"}]), missing={"sensevoice": error})
    with pytest.raises(Transient, match="engine_broken"):
        alone.hear()


@pytest.mark.parametrize("error", BROKEN, ids=lambda it: type(it).__name__)
def test_it_begins_with_a_fallback_where_engines_break_while_they_are_loaded(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = made(engine="whisperx", fallbacks=["sensevoice", "stub"])
    world = World(settings, missing={"whisperx": error, "sensevoice": error})
    monkeypatch.setattr("services.transcribe.choice.load", world.load)
    assert choose(settings).engine.identity.name == "stub"
    with pytest.raises(type(error)):
        choose(made(engine="whisperx"))


def test_a_rule_whose_engine_cannot_be_waits_and_loses_no_call() -> None:
    world = World(made(rules=[{"engine": "sensevoice"}]))
    world.missing["sensevoice"] = ValueError("transcribe.sensevoice.model_dir='/x' holds no model")
    for _ in range(2):
        with pytest.raises(Transient, match=r"wrong_setting: transcribe\.sensevoice\.model_dir"):
            world.hear()
    replayed = replace(ruled(world.settings, CallFacts()), replay=True)
    with pytest.raises(NotYet, match="wrong_setting"):
        world.hear(replayed)


def test_a_fallback_listens_to_what_another_does_not_understand() -> None:
    settings = made(fallbacks=["whisperx", "sensevoice"])
    ears = {
        "faster-whisper": Ear("faster-whisper", {"en"}),
        "whisperx": Ear("whisperx", {"en", "de"}),
        "sensevoice": Ear("sensevoice", {"zh", "yue"}),
    }
    world = World(settings, ears)

    def to(*languages: str) -> tuple[str, Chosen]:
        return world.hear(ruled(settings, CallFacts(languages=languages)))

    assert to()[0] == "faster-whisper"
    assert to("zh", "en")[0] == "faster-whisper", "a part of it is understood"
    name, who = to("yue")
    assert name == "sensevoice"
    assert who.degradations[0].reason == (
        "sensevoice listens in place of faster-whisper: faster-whisper cannot transcribe yue; "
        "whisperx cannot transcribe yue"
    )
    name, who = to("fr")
    assert (name, who.degradations) == ("faster-whisper", ()), "who says that nobody understands"
    ears["sensevoice"].away = True
    with pytest.raises(Transient, match="sensevoice does not answer"):
        to("yue")


def test_a_device_without_room_for_one_window_is_an_engine_that_is_away() -> None:
    world = World(made(fallbacks=["stub"], fallback_after_s=300))
    world.ears["faster-whisper"].fails = OutOfMemory("CUDA failed with error out of memory")
    with pytest.raises(Transient, match=r"no_room: faster-whisper on .*: CUDA failed"):
        world.hear()
    with pytest.raises(NotYet, match="no_room"):
        world.hear(Wanted(made(), replay=True, by_option=True))
    world.now = 300.0
    name, who = world.hear()
    assert name == "stub"
    assert "faster-whisper is away (no_room: " in who.degradations[0].reason
    world.now, world.ears["faster-whisper"].fails = 360.0, None
    assert world.hear()[0] == "faster-whisper"


def test_a_call_that_an_engine_cannot_hear_now_is_a_fallbacks_or_waits_alone() -> None:
    slow = NotYet("endpoint_slow", "no answer in time, while it answers others")
    alone = World(made(engine="openai", endpoint=SERVER))
    alone.ears["openai"].fails = slow
    with pytest.raises(NotYet, match="endpoint_slow"):
        alone.hear()
    world = World(made(engine="openai", endpoint=SERVER, fallbacks=["stub"]))
    world.ears["openai"].fails = slow
    name, who = world.hear()
    assert name == "stub"
    assert who.degradations[0].reason == (
        "stub listens in place of openai: openai cannot hear this call now (endpoint_slow: no "
        "answer in time, while it answers others)"
    )
    world.ears["openai"].fails = None
    assert world.hear()[0] == "openai", "it is not away"


def test_who_is_away_is_waited_for_where_nobody_else_understands() -> None:
    settings = made(
        engine="openai", endpoint=SERVER, fallbacks=["faster-whisper"], fallback_after_s=0
    )
    world = World(settings, {"faster-whisper": Ear("faster-whisper", {"en"})})
    world.ears["openai"].away = True
    assert world.hear(ruled(settings, CallFacts(languages=("en",))))[0] == "faster-whisper"
    with pytest.raises(Transient, match="openai does not answer"):
        world.hear(ruled(settings, CallFacts(languages=("th",))))


def test_an_engine_that_a_replay_names_is_never_replaced() -> None:
    world = World(made(fallbacks=["stub"], fallback_after_s=0))
    world.ears["openai"].away = True
    asked = Wanted(made(engine="openai", endpoint=SERVER), replay=True, by_option=True)
    with pytest.raises(NotYet, match="endpoint_down"):
        world.hear(asked)
    world.missing["sensevoice"] = ValueError("it needs the extra")
    with pytest.raises(Invalid, match="unknown_option: the replay asks for it needs the extra"):
        world.hear(replace(asked, settings=made(engine="sensevoice")))


def test_a_failure_of_the_call_itself_is_no_reason_for_another_engine() -> None:
    world = World(made(fallbacks=["stub"], fallback_after_s=0))

    def listen(settings: TranscribeSettings, who: Chosen) -> str:
        raise Transient("store_down", "the object store does not answer")

    with pytest.raises(Transient, match="store_down"):
        world.engines.hear(ruled(world.settings, CallFacts()), listen)


def test_it_begins_with_a_fallback_where_the_model_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = made(engine="whisperx", fallbacks=["sensevoice", "stub"])
    world = World(settings)
    world.missing["whisperx"] = Transient("model_missing", "the hub is silent")
    world.missing["sensevoice"] = ValueError("it needs the extra")
    monkeypatch.setattr("services.transcribe.choice.load", world.load)
    live = choose(settings)
    assert live.engine.identity.name == "stub"
    assert live.degradations[0].reason.startswith("stub listens in place of whisperx: whisperx")
    world.engines = Engines(settings, live, world.load, clock=lambda: world.now)

    def who() -> Chosen:
        return world.engines.hear(ruled(settings, CallFacts()), lambda its, chosen: chosen)

    world.loaded.clear()
    assert who().degradations == live.degradations
    assert who().reason == live.reason
    assert world.loaded == []
    world.missing.clear()
    world.now = 60.0
    assert who().engine.identity.name == "whisperx"
    assert who().degradations == ()
    world.missing["stub"] = world.missing["sensevoice"] = ValueError("no")
    world.missing["whisperx"] = Transient("model_missing", "the hub is silent")
    with pytest.raises(Transient, match="the hub is silent"):
        choose(settings)


def test_auto_begins_with_pocketsphinx_says_so_and_takes_whisper_when_it_can_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = made(engine="auto")
    world = World(settings, missing={"auto": Transient("model_missing", "the hub is silent")})
    monkeypatch.setattr("services.transcribe.choice.load", world.load)
    world.engines = Engines(settings, choose(settings), world.load, clock=lambda: world.now)
    for world.now in (0.0, 59.0, 60.0, 61.0):
        name, who = world.hear()
        assert name == "pocketsphinx"
        (told,) = who.degradations
        assert told.kind is DegradationKind.ENGINE_FALLBACK
        assert told.reason == (
            "pocketsphinx listens in place of faster-whisper: faster-whisper cannot be had "
            "(model_missing: the hub is silent)"
        )
    by_option = Wanted(settings, replay=True, by_option=True)
    assert world.hear(by_option)[0] == "pocketsphinx"
    world.ears["pocketsphinx"].languages = {"en"}
    chinese = ruled(settings, CallFacts(languages=("zh",)))
    assert world.hear(chinese)[0] == "pocketsphinx", "no call waits for a model that may never come"
    assert world.loaded == ["auto", "pocketsphinx", "auto"]
    world.missing.clear()
    world.now = 121.0
    name, who = world.hear()
    assert (name, who.degradations) == ("faster-whisper", ())
    assert world.hear(Wanted(made(), replay=True, by_option=True))[0] == "faster-whisper"
    assert world.loaded[3:] == ["auto"], "by either name it is one"


def test_auto_asks_for_fallbacks_first_and_waits_for_a_whisper_that_has_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone, full = Transient("model_missing", "the hub is silent"), Transient("no_room", "it is full")
    world = World(made(), missing={"auto": gone})
    monkeypatch.setattr("services.transcribe.choice.load", world.load)
    assert choose(made(engine="auto", fallbacks=["stub"])).engine.identity.name == "stub"
    world.missing["auto"] = full
    with pytest.raises(Transient, match="no_room"):
        choose(made(engine="auto"))
    world.missing["auto"] = gone
    settings = made(engine="auto", fallbacks=["sensevoice"])
    world.missing["sensevoice"] = ValueError("it needs the extra")
    world.engines = Engines(settings, choose(settings), world.load, clock=lambda: world.now)
    world.missing["pocketsphinx"] = ValueError("its wheel is gone")
    name, who = world.engines.hear(
        ruled(settings, CallFacts()), lambda its, chosen: (its.engine, chosen)
    )
    assert name == "pocketsphinx"
    assert who.degradations[0].reason.count("cannot be had") == 2


def test_voices_are_parted_by_who_listens_and_not_by_who_listened_first() -> None:
    loads: list[str] = []

    def load(settings: TranscribeSettings, engine: str) -> Parting:
        if settings.diarizer == "auto" and engine in ("pocketsphinx", "stub"):
            return choose_diarizer(settings, engine)
        loads.append(engine)
        return Parting(why_none="none is installed")

    parting = Partings(made(), load)
    assert parting("pocketsphinx").why_none == (
        "pocketsphinx is for trying out; set transcribe.diarizer"
    )
    assert loads == []
    for _ in range(2):
        assert parting("whisperx").why_none == "none is installed"
    assert parting("stub").why_none.startswith("stub is for trying out")
    assert loads == ["whisperx"]
    asked = Partings(made(diarizer="resemblyzer"), load)
    assert asked("pocketsphinx") is asked("whisperx")
    assert loads == ["whisperx", "pocketsphinx"]


def test_the_stage_parts_voices_by_who_listens(tmp_path: Path) -> None:
    asked: list[str] = []

    def parting(engine: str) -> Parting:
        asked.append(engine)
        return Parting(why_none=f"not under {engine}")

    objects = DirectoryObjects(tmp_path)
    call = recorded(stored(objects, "r1", wav([speech(0)]), 1), language_hints=["yue"])
    settings = made(rules=[{"languages": ["yue"], "engine": "stub"}])
    it = stage(settings, objects, Chosen(Ear("faster-whisper"), ""), parting)
    message = Message(topics.RECORDED, 0, 0, b"acme/call", b"", (), 0)
    ((_, outcome),) = it.handle([Envelope(event=call, message=message, id="1")])
    assert not isinstance(outcome, Exception)
    (made_,) = outcome
    assert isinstance(made_.event, CallTranscribed)
    assert made_.event.degradations[0].reason.endswith("not under stub")
    assert asked == ["faster-whisper", "stub"]


def test_the_fallback_that_it_began_with_is_loaded_once_and_is_no_other_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = made(
        engine="whisperx",
        fallbacks=["openai", "stub"],
        endpoint=SERVER,
        rules=[{"queues": ["vip"], "engine": "faster-whisper"}],
        fallback_after_s=0,
    )
    gone = Transient("model_missing", "the hub is silent")
    world = World(settings, missing={"whisperx": gone, "faster-whisper": gone})
    monkeypatch.setattr("services.transcribe.choice.load", world.load)
    world.engines = Engines(settings, choose(settings), world.load, clock=lambda: world.now)
    vip = ruled(settings, CallFacts(queue=frozenset({"vip"})))
    name, who = world.hear(vip)
    assert (name, len(who.degradations)) == ("openai", 1)
    assert who.degradations[0].reason.startswith("openai listens in place of faster-whisper: ")
    by_option = Wanted(made(engine="openai", endpoint=SERVER), replay=True, by_option=True)
    assert world.hear(by_option)[1].degradations == ()
    assert world.loaded == ["whisperx", "openai", "faster-whisper"]
    world.ears["openai"].away = True
    assert world.hear()[0] == "stub"
    asked = world.ears["openai"].asked
    assert world.hear(vip)[0] == "stub"
    assert world.ears["openai"].asked == asked, "away for one it is away for all"
    world.missing.clear()
    world.now = 60.0
    world.ears["openai"].away = False
    assert world.hear()[0] == "whisperx"
    assert world.hear(vip)[0] == "faster-whisper"


def test_a_stage_that_began_with_a_fallback_is_as_wide_as_its_own_engine_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Transient("model_missing", "the hub is silent")

    def workers(**settings: Any) -> int:
        wanted = made(**{"device": "cuda", "fallbacks": ["stub"], **settings})
        world = World(made(), missing={"faster-whisper": gone, "openai": gone, "auto": gone})
        monkeypatch.setattr("services.transcribe.choice.load", world.load)
        return stage(wanted, DirectoryObjects(tmp_path), choose(wanted)).workers

    assert workers() == 16
    assert workers(engine="auto") == 16
    assert workers(device="cpu") == 2
    assert workers(workers=1) == 1
    server = {**SERVER, "concurrency": 7}
    assert workers(engine="openai", endpoint=server) == 7
    rule = {"queues": ["vip"], "engine": "faster-whisper"}
    assert workers(engine="stub") == 2
    assert workers(engine="stub", rules=[rule]) == 16
    assert workers(engine="stub", device="cpu", rules=[rule]) == 2


def test_live_calls_on_a_fallback_do_not_wait_for_the_one_that_looks_for_their_engine() -> None:
    world = World(made(rules=[{"engine": "sensevoice"}], fallbacks=["stub"]))
    world.missing["sensevoice"] = Transient("model_missing", "the hub is silent")
    assert world.hear()[0] == "stub"
    fetching, fetched = threading.Event(), threading.Event()

    def fetch(name: str) -> None:
        if name == "sensevoice":
            fetching.set()
            assert fetched.wait(60)
            world.missing.clear()

    world.loads, world.now = fetch, 60.0
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(world.hear)
        try:
            assert fetching.wait(60)
            assert pool.submit(world.hear).result(60)[0] == "stub"
        finally:
            fetched.set()
        assert first.result(60)[0] == "sensevoice"
    assert world.hear()[0] == "sensevoice"


def test_a_live_call_does_not_wait_for_a_model_that_a_replay_fetches() -> None:
    world = World(made(rules=[{"engine": "sensevoice"}]))
    fetching, fetched = threading.Event(), threading.Event()

    def fetch(name: str) -> None:
        if name == "whisperx":
            fetching.set()
            assert fetched.wait(60)

    world.loads = fetch
    by_option = Wanted(made(engine="whisperx"), replay=True, by_option=True)
    with ThreadPoolExecutor(2) as pool:
        replayed = pool.submit(world.hear, by_option)
        try:
            assert fetching.wait(60)
            assert pool.submit(world.hear).result(60)[0] == "sensevoice"
        finally:
            fetched.set()
        assert replayed.result(60)[0] == "whisperx"


def test_replays_of_wrong_models_make_nobody_forget_what_the_settings_cannot_have() -> None:
    world = World(made(rules=[{"engine": "sensevoice"}], fallbacks=["stub"]))
    world.missing["sensevoice"] = Transient("model_missing", "the hub is silent")
    world.hear()
    world.missing["faster-whisper"] = ValueError("no such model")
    for number in range(200):
        with pytest.raises(Invalid):
            world.hear(Wanted(made(model=f"m{number}"), replay=True, by_option=True))
    world.loaded.clear()
    assert world.hear()[0] == "stub"
    assert world.loaded == []
