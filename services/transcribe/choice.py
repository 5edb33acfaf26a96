"""Which engine listens, and why."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from services.runtime.errors import Invalid, NotYet, Transient
from services.transcribe.engine import Engine
from services.transcribe.settings import TranscribeSettings


def _is_here() -> None:
    """An engine that was loaded stays."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """An engine, loaded, and why it is this one: in words, published with every transcript."""

    engine: Engine
    reason: str
    check: Callable[[], None] = _is_here
    """Asks whether it can be had at this moment; blocks. Raises Transient where it cannot."""


def choose(settings: TranscribeSettings, asked_by: str = "transcribe.engine") -> Chosen:
    """The engine that `settings` ask for; loads its model, which may take long.

    `asked_by` is what set `settings.engine`, for the reason that is published.
    Raises ValueError for a wrong setting, Transient where the model of an engine that was asked
    for by name cannot be had now. `auto` then takes PocketSphinx, and says so.
    """
    match settings.engine:
        case "stub":
            return _stub(asked_by)
        case "pocketsphinx":
            return _pocketsphinx(f"{asked_by} asks for it")
        case "faster-whisper":
            return _whisper(settings)
        case "whisperx":
            return _whisperx(settings)
        case "sensevoice":
            return _sensevoice(settings, asked_by)
        case "openai":
            return _openai(settings, asked_by)
        case "auto":
            try:
                return _whisper(settings)
            except Transient as missing:
                return _pocketsphinx(missing.detail)


# Engines kept for replays beside the one of live calls: a model may fill a GPU's memory.
_MOST_KEPT = 2
# A model that cannot be had now is not asked for again before that; one that is wrong, later.
_MISSING_S, _WRONG_S = 60.0, 3600.0
_MOST_FAILED = 64

_Key = tuple[str, str, str]


class ReplayEngines:
    """The engines that replays ask for, loaded when first needed. Thread-safe."""

    def __init__(
        self,
        settings: TranscribeSettings,
        live: Chosen,
        load: Callable[[TranscribeSettings, str], Chosen] = choose,
    ) -> None:
        """`live` is what `settings` chose; a replay that asks for no other gets it too."""
        self._live_key, self._live, self._load = _key(settings), live, load
        self._kept: OrderedDict[_Key, Chosen] = OrderedDict()
        self._failed: dict[_Key, tuple[float, NotYet | Invalid]] = {}
        self._lock = threading.Lock()

    def get(self, wanted: TranscribeSettings) -> Chosen:
        """The engine that `wanted` asks for; loading it takes long, and whoever asks waits.

        Raises Invalid for one that cannot be, and NotYet for one that cannot be had now.
        """
        key = _key(wanted)
        if key == self._live_key:
            return self._live
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self._loaded(key, wanted)
            self._kept.move_to_end(key)
            return self._kept[key]

    def _loaded(self, key: _Key, wanted: TranscribeSettings) -> Chosen:
        until, failure = self._failed.pop(key, (0.0, None))
        if failure is None or time.monotonic() >= until:
            # Before the next is loaded: there may be no room for three.
            while len(self._kept) >= _MOST_KEPT:
                self._kept.popitem(last=False)
            try:
                return self._load(wanted, "the replay's option engine")
            except Transient as missing:
                failure, wait_s = NotYet(missing.reason, missing.detail), _MISSING_S
            except ValueError as wrong:
                failure = Invalid("unknown_option", f"the replay asks for {wrong}")
                wait_s = _WRONG_S
            until = time.monotonic() + wait_s
        if len(self._failed) >= _MOST_FAILED:
            self._failed.clear()
        self._failed[key] = (until, failure)
        raise type(failure)(failure.reason, failure.detail)  # one raised twice grows


def _key(settings: TranscribeSettings) -> _Key:
    """What makes an engine another one, of all that a replay can change."""
    if settings.engine in ("pocketsphinx", "stub"):
        return settings.engine, "", ""
    return settings.engine, settings.model, str(settings.model_dir or "")


# Each engine brings its own heavy library: imported by who uses it.


def _whisper(settings: TranscribeSettings) -> Chosen:
    from services.transcribe.faster_whisper_engine import FasterWhisperEngine, locate

    folder, where = locate(settings)
    engine = FasterWhisperEngine(folder, settings)
    return Chosen(engine, f"faster-whisper {engine.identity.model}: {where}")


def _whisperx(settings: TranscribeSettings) -> Chosen:
    from services.transcribe.faster_whisper_engine import locate
    from services.transcribe.whisperx_engine import WhisperXEngine

    folder, where = locate(settings)
    engine = WhisperXEngine(folder, settings)
    return Chosen(engine, f"whisperx {engine.identity.model}: {where}")


def _sensevoice(settings: TranscribeSettings, asked_by: str) -> Chosen:
    from services.transcribe.sensevoice_engine import SenseVoiceEngine

    _no_translation(settings)
    engine = SenseVoiceEngine(settings)
    return Chosen(engine, f"sensevoice {engine.identity.model}: {asked_by} asks for it")


def _openai(settings: TranscribeSettings, asked_by: str) -> Chosen:
    from services.transcribe.openai_engine import OpenAIEngine

    _no_translation(settings)
    engine = OpenAIEngine(settings.endpoint)
    return Chosen(
        engine,
        f"openai {engine.identity.model} at {settings.endpoint.url}: {asked_by} asks for it",
        engine.probe,
    )


def _no_translation(settings: TranscribeSettings) -> None:
    if settings.task == "translate":
        raise ValueError(
            f"transcribe.task=translate needs a Whisper here: transcribe.engine={settings.engine} "
            "writes what is spoken"
        )


def _pocketsphinx(why: str) -> Chosen:
    from services.transcribe.pocketsphinx_engine import PocketSphinxEngine

    return Chosen(
        PocketSphinxEngine(),
        f"pocketsphinx: {why}. English only, and many words are wrong on telephone speech: "
        "for trying out only",
    )


def _stub(asked_by: str) -> Chosen:
    from services.transcribe.stub_engine import StubEngine

    return Chosen(
        StubEngine(),
        f"stub: {asked_by} asks for it. Words are made up from a hash of the audio; "
        "nothing is recognised",
    )
