"""Which engine listens, and why."""

from __future__ import annotations

from dataclasses import dataclass

from services.runtime.errors import Transient
from services.transcribe.engine import Engine
from services.transcribe.settings import TranscribeSettings


@dataclass(frozen=True, slots=True)
class Chosen:
    """An engine, loaded, and why it is this one: in words, published with every transcript."""

    engine: Engine
    reason: str


def choose(settings: TranscribeSettings) -> Chosen:
    """The engine that `settings` ask for; loads its model, which may take long.

    Raises ValueError for a wrong setting, Transient where the model of an engine that was asked
    for by name cannot be had now. `auto` then takes PocketSphinx, and says so.
    """
    match settings.engine:
        case "stub":
            return _stub()
        case "pocketsphinx":
            return _pocketsphinx("transcribe.engine asks for it")
        case "faster-whisper":
            return _whisper(settings)
        case "auto":
            try:
                return _whisper(settings)
            except Transient as missing:
                return _pocketsphinx(missing.detail)


# Each engine brings its own heavy library: imported by who uses it.


def _whisper(settings: TranscribeSettings) -> Chosen:
    from services.transcribe.faster_whisper_engine import FasterWhisperEngine, locate

    folder, where = locate(settings)
    engine = FasterWhisperEngine(folder, settings)
    return Chosen(engine, f"faster-whisper {engine.identity.model}: {where}")


def _pocketsphinx(why: str) -> Chosen:
    from services.transcribe.pocketsphinx_engine import PocketSphinxEngine

    return Chosen(
        PocketSphinxEngine(),
        f"pocketsphinx: {why}. English only, and many words are wrong on telephone speech: "
        "for trying out only",
    )


def _stub() -> Chosen:
    from services.transcribe.stub_engine import StubEngine

    return Chosen(
        StubEngine(),
        "stub: transcribe.engine asks for it. Words are made up from a hash of the audio; "
        "nothing is recognised",
    )
