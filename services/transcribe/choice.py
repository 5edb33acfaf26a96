"""Which engine listens to a call, and why; and what listens where that one cannot.

The settings name one engine; rules name others for some calls; a replay may name one of its own.
Where one cannot be loaded, is away for long or does not know the language, a fallback listens in
its place, if the settings name any, and the transcript says so.
"""

from __future__ import annotations

import importlib.util
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from schemas.events import CallRecorded, Degradation, DegradationKind
from schemas.events import Engine as Identity
from services.runtime.errors import Failure, Invalid, NotYet, Transient
from services.runtime.libraries import first_line
from services.runtime.observe import logger
from services.transcribe.batches import OutOfMemory
from services.transcribe.diarizer import Diarizer, Parting
from services.transcribe.engine import (
    NOTHING_KNOWN,
    UNDETERMINED,
    Asked,
    Engine,
    Heard,
    Samples,
    primary_tag,
)
from services.transcribe.settings import (
    EngineRule,
    TranscribeSettings,
    rule_name,
    with_engine,
    with_options,
)
from services.transcribe.spans import Span

T = TypeVar("T")


def _is_here() -> None:
    """An engine that was loaded stays."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """An engine, loaded, and why it is this one: in words, published with every transcript."""

    engine: Engine
    reason: str
    check: Callable[[], None] = _is_here
    """Asks whether it can be had at this moment; blocks. Raises Transient where it cannot."""
    degradations: tuple[Degradation, ...] = ()
    """Published with every transcript: which engine should have listened, and why it did not."""
    begun: _Begun | None = None
    """Where it listens since the start in place of the engine that the settings name."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """With what was begun in place of what could not be had."""

    settings: TranscribeSettings
    chosen: Chosen
    """As it is where it listens in nobody's place."""
    missing: Sequence[tuple[TranscribeSettings, _Missing]]


def choose(settings: TranscribeSettings, asked_by: str = "transcribe.engine") -> Chosen:
    """The engine to begin with: the one that `settings` ask for, else the first of the fallbacks
    whose model can be had. Loads its model, which may take long.

    `asked_by` is what set `settings.engine`, for the reason that is published.
    Raises ValueError for a wrong setting, of a rule as far as that is seen before its model is
    loaded; Transient where the model of an engine that was asked for by name cannot be had now,
    nor a fallback's. Under `auto` PocketSphinx is the last fallback, while no Whisper can be had;
    where that is here and only has no room now, it waits for that.
    """
    _refuse_wrong_rules(settings)
    try:
        return load(settings, asked_by)
    except ValueError:
        raise
    except Exception as error:  # libraries fail to load in ways of their own
        why = _missing(settings, error)
        missing = [(settings, why)]
        for its in (*_fallbacks(settings, settings), *_last_resort(settings, why)):
            try:
                chosen = load(its, _asks_for(its, settings))
            except Exception as another:
                missing.append((its, _missing(its, another)))
                continue
            passed = [_Passed(_name(it), f"cannot be had ({why})") for it, why in missing]
            return replace(_instead(chosen, passed), begun=_Begun(its, chosen, missing))
        raise


def _last_resort(wanted: TranscribeSettings, missing: _Missing) -> tuple[TranscribeSettings, ...]:
    """What `auto` does with where its Whisper is `missing` and nothing else listens."""
    if wanted.engine != "auto" or missing.reason != "model_missing":
        return ()
    return (wanted.model_copy(update={"engine": "pocketsphinx"}),)


def _asks_for(its: TranscribeSettings, settings: TranscribeSettings) -> str:
    """Why an engine is loaded in place of the one that `settings` name."""
    return "transcribe.fallbacks" if its.engine in settings.fallbacks else "transcribe.engine=auto"


def _name(settings: TranscribeSettings) -> str:
    """The engine that is meant."""
    return "faster-whisper" if settings.engine == "auto" else settings.engine


# What has to be there for an engine: modules with the extra that brings them, files of a folder.
_MODULES = {"whisperx": ("transcribe", "whisperx"), "sensevoice": ("sensevoice", "funasr")}
_FILES = {
    "faster-whisper": ("model.bin", "tokenizer.json"),
    "whisperx": ("model.bin", "tokenizer.json"),
    "sensevoice": ("model.pt",),
}


def _refuse_wrong_rules(settings: TranscribeSettings) -> None:
    """Raises ValueError for a rule whose calls would wait for what is not here; a fallback that
    cannot listen is logged: what it stands in for may never be away."""
    for number, rule in enumerate(settings.rules, 1):
        wanted = with_engine(settings, rule.engine, rule.model, rule.model_dir)
        if (why := _lacks(wanted)) is not None:
            raise ValueError(f"transcribe.rules: {rule_name(number, rule)} {why}")
    for instead in _fallbacks(settings, settings):
        if (why := _lacks(instead)) is not None:
            logger("transcribe").warning(
                "fallback cannot listen", engine=instead.engine, why=f"transcribe.fallbacks {why}"
            )


def _lacks(wanted: TranscribeSettings) -> str | None:
    """What the engine that is `wanted` cannot be without, as far as that is seen at a glance."""
    extra, module = _MODULES.get(wanted.engine, ("", ""))
    if module and importlib.util.find_spec(module) is None:
        return (
            f"names {wanted.engine}, which needs the extra `{extra}`: "
            f"pip install 'callstream[{extra}]'"
        )
    folder = wanted.sensevoice.model_dir if wanted.engine == "sensevoice" else wanted.model_dir
    if folder is not None:
        for file in _FILES.get(wanted.engine, ()):
            if not (folder / file).is_file():
                return (
                    f"names {wanted.engine} with model_dir={str(folder)!r}, which holds no {file}"
                )
    return None


def load(settings: TranscribeSettings, asked_by: str) -> Chosen:
    """The engine that `settings` ask for and no fallback; loads its model, which may take long.

    Raises as `choose`.
    """
    match settings.engine:
        case "stub":
            return _stub(asked_by)
        case "pocketsphinx":
            return _pocketsphinx(f"{asked_by} asks for it")
        case "auto" | "faster-whisper":
            return _whisper(settings)
        case "whisperx":
            return _whisperx(settings)
        case "sensevoice":
            return _sensevoice(settings, asked_by)
        case "openai":
            return _openai(settings, asked_by)


def runs_on_gpu(settings: TranscribeSettings, engine: str) -> bool:
    """Whether that engine will run on a GPU here, wherever its model is now."""
    if engine not in ("faster-whisper", "whisperx", "sensevoice"):
        return False
    from services.transcribe.faster_whisper_engine import device_of

    return device_of(settings) == "cuda"


# Models that hear nothing: parting the voices of what they make up or mishear helps nobody.
_FOR_TRYING_OUT = frozenset({"stub", "pocketsphinx"})


def choose_diarizer(settings: TranscribeSettings, engine: str) -> Parting:
    """What parts the voices of a shared channel, as `settings` ask; loads its models.

    `engine` is who listens. Raises ValueError for a wrong setting, Transient where a model that was
    asked for by name cannot be had now. `auto` then does without, and says why.
    """
    match settings.diarizer:
        case "none":
            return Parting(why_none="transcribe.diarizer is none")
        case "pyannote":
            return Parting(_pyannote(settings))
        case "resemblyzer":
            return Parting(_resemblyzer(settings))
        case "auto":
            if engine in _FOR_TRYING_OUT:
                return Parting(why_none=f"{engine} is for trying out; set transcribe.diarizer")
            whys: list[str] = []
            for make in (_pyannote, _resemblyzer):
                try:
                    return Parting(make(settings))
                except Exception as missing:  # libraries fail to load in ways of their own
                    whys.append(f"{missing}".partition("\n")[0])
            return Parting(why_none="; ".join(whys))


class Partings:
    """What parts the voices of a call, by who listens to it; loaded once, when first needed.

    Who listens may change: a stage that begins with an engine for trying out has its own later.
    Thread-safe.
    """

    def __init__(
        self,
        settings: TranscribeSettings,
        load: Callable[[TranscribeSettings, str], Parting] = choose_diarizer,
    ) -> None:
        self._settings, self._load = settings, load
        self._lock = threading.Lock()
        self._loaded: Parting | None = None

    def __call__(self, engine: str) -> Parting:
        """Blocks while models are loaded. Raises as `choose_diarizer`."""
        if self._settings.diarizer == "auto" and engine in _FOR_TRYING_OUT:
            return self._load(self._settings, engine)
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load(self._settings, engine)
            return self._loaded


# Rules


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFacts:
    """What of a call decides who listens to it."""

    tenant: str = ""
    languages: tuple[str, ...] = ()
    """Primary tags of what is believed to be spoken; none where nobody says."""
    queue: frozenset[str] = frozenset()
    """Its id and its name."""
    length_s: float | None = None
    """From the start of the call to the end of its last recording; None where that is not known."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Who is to listen to a call."""

    settings: TranscribeSettings
    languages: tuple[str, ...] = ()
    rule: str = ""
    """Which rule says so; empty: none does."""
    replay: bool = False
    by_option: bool = False
    """Whether a replay asks for this engine by name. Then it is this one or none."""


def languages_of(event: CallRecorded, settings: TranscribeSettings) -> tuple[str, ...]:
    """Primary tags of what is spoken, as far as it is believed: the settings', else the call's,
    else its queue's."""
    if settings.language is not None:
        return (primary_tag(settings.language),)
    tags: Sequence[str] = event.call.language_hints
    if not tags and (queue := event.call.queue) is not None:
        declared = settings.queue_languages
        tags = declared.get(queue.id) or declared.get(queue.name or "") or ()
    return tuple(dict.fromkeys(tag for tag in map(primary_tag, tags) if tag != UNDETERMINED))


def facts_of(event: CallRecorded, settings: TranscribeSettings) -> CallFacts:
    queue = event.call.queue
    ends_ms = [it.start_offset_ms + it.duration_ms for it in event.recordings if it.duration_ms > 0]
    return CallFacts(
        tenant=event.tenant_id,
        languages=languages_of(event, settings),
        queue=frozenset({queue.id, queue.name or queue.id} if queue is not None else ()),
        length_s=max(ends_ms) / 1000 if ends_ms else None,
    )


def ruled(settings: TranscribeSettings, facts: CallFacts) -> Wanted:
    """Who is to listen to a call with those `facts`: by the first rule that matches, else as the
    settings say."""
    for number, rule in enumerate(settings.rules, 1):
        if _matches(rule, facts):
            return Wanted(
                with_engine(settings, rule.engine, rule.model, rule.model_dir),
                facts.languages,
                rule_name(number, rule),
            )
    return Wanted(settings, facts.languages)


def wanted_for(
    event: CallRecorded, settings: TranscribeSettings, options: Mapping[str, str], *, replay: bool
) -> Wanted:
    """Who is to listen to `event`: whom a replay's `options` name, else by the rules.

    Raises Invalid for an option that is none.
    """
    asked = with_options(settings, options)
    facts = facts_of(event, asked)
    if "engine" in options or "model" in options:
        return Wanted(asked, facts.languages, replay=replay, by_option=True)
    return replace(ruled(asked, facts), replay=replay)


def _matches(rule: EngineRule, facts: CallFacts) -> bool:
    spoken = {primary_tag(tag) for tag in rule.languages}
    length_s = facts.length_s
    return (
        (not rule.tenants or facts.tenant in rule.tenants)
        and (not spoken or not spoken.isdisjoint(facts.languages))
        and (not rule.queues or not rule.queues.isdisjoint(facts.queue))
        and (
            rule.shorter_than_s is None or (length_s is not None and length_s < rule.shorter_than_s)
        )
        and (rule.longer_than_s is None or (length_s is not None and length_s > rule.longer_than_s))
    )


# Fallbacks


@dataclass(frozen=True, slots=True)
class _Passed:
    """An engine that was to listen, and why it does not."""

    engine: str
    why: str

    def __str__(self) -> str:
        return f"{self.engine} {self.why}"


def _fallbacks(
    wanted: TranscribeSettings, settings: TranscribeSettings
) -> Iterator[TranscribeSettings]:
    """`wanted` with each of the fallbacks, whose models are those of `settings`."""
    models = {
        name: getattr(settings, name) for name in ("model", "model_dir", "endpoint", "sensevoice")
    }
    for engine in settings.fallbacks:
        instead = wanted.model_copy(update={**models, "engine": engine})
        if _key(instead) != _key(wanted):
            yield instead


def _instead(chosen: Chosen, passed: Sequence[_Passed]) -> Chosen:
    """`chosen`, where all those `passed` were to listen before."""
    if not passed:
        return chosen
    name = chosen.engine.identity.name
    told = "; ".join(map(str, passed))
    return replace(
        chosen,
        reason=f"in place of others ({told}): {chosen.reason}",
        degradations=(
            *chosen.degradations,
            Degradation(
                kind=DegradationKind.ENGINE_FALLBACK,
                reason=f"{name} listens in place of {passed[0].engine}: {told}",
            ),
        ),
    )


class _Down(Transient):
    """An engine that is loaded cannot listen now."""


class _NotThis(NotYet):
    """An engine that is loaded cannot listen to this one call now, and does to others."""


class _Missing(Failure):
    """An engine cannot be loaded: not now, or, where it is `wrong`, as it is asked for."""

    def __init__(self, reason: str, detail: str, *, wrong: bool) -> None:
        super().__init__(reason, detail)
        self.wrong = wrong

    def anew(self) -> _Missing:
        """The same; one that is raised twice grows."""
        return _Missing(self.reason, self.detail, wrong=self.wrong)


def _missing(wanted: TranscribeSettings, error: Exception) -> _Missing:
    """What it means that the engine that is `wanted` failed so when it was loaded; logs it."""
    match error:
        case Transient():
            missing = _Missing(error.reason, error.detail, wrong=False)
        case ValueError():
            missing = _Missing("wrong_setting", str(error), wrong=True)
        case _:
            # A driver, a file or a library that is broken may be mended, and no call is at fault.
            why = first_line(error)
            missing = _Missing(
                "engine_broken", f"{_name(wanted)} cannot be loaded ({why})", wrong=False
            )
    logger("transcribe").warning(
        "engine not loaded", engine=wanted.engine, why=missing.detail,
        **({"exc_info": error} if missing.reason == "engine_broken" else {}),
    )  # fmt: skip
    return missing


def _after_s(missing: _Missing) -> float:
    """When it is worth another try."""
    return _WRONG_S if missing.wrong else _MISSING_S


@dataclass(frozen=True, slots=True)
class _Watched:
    """An engine, and who is told how it went. What keeps it from listening is told from what is
    wrong elsewhere."""

    engine: Engine
    took: Callable[[float], None]
    """Seconds."""
    answered: Callable[[], None]

    @property
    def identity(self) -> Identity:
        return self.engine.identity

    @property
    def languages(self) -> Collection[str] | None:
        return self.engine.languages

    def transcribe(
        self,
        audio: Samples,
        spans: Sequence[Span],
        asked: Asked = NOTHING_KNOWN,
    ) -> Heard:
        started = time.monotonic()
        try:
            heard = self.engine.transcribe(audio, spans, asked)
        except Transient as failure:
            raise _Down(failure.reason, failure.detail) from failure
        except NotYet as failure:
            raise _NotThis(failure.reason, failure.detail, failure.after_s) from failure
        except OutOfMemory as failure:
            # Of a single window, which is no larger than any other call's.
            raise _Down(
                "no_room",
                f"{self.identity.name} on {self.identity.device}: {failure}; something else may "
                "have that device's memory",
            ) from failure
        finally:
            self.took(time.monotonic() - started)
        self.answered()
        return heard


@dataclass(slots=True)
class _Away:
    """An engine that was loaded and cannot listen; times by the clock of `Engines`."""

    since_s: float
    tried_s: float
    failed_s: float
    failure: _Down
    told: bool = False


# Engines that only replays ask for, kept beside those that the settings name: a model may fill a
# GPU's memory.
_MOST_KEPT = 2
# A model that cannot be had now is not asked for again before that; one that is wrong, later.
_MISSING_S, _WRONG_S = 60.0, 3600.0
_MOST_FAILED = 64
# How often an engine that is away is tried while a fallback listens.
_AWAY_S = 60.0
# Calls that wait for an engine ask again sooner than that, by the loop's longest backoff.
_SILENT_S = 120.0

_Key = tuple[str, str, str]


class Engines:
    """The engines that calls are heard by, loaded when first needed. Thread-safe.

    Those that the settings, their rules and their fallbacks name are kept; of those that replays
    ask for besides, the last two.
    """

    def __init__(
        self,
        settings: TranscribeSettings,
        live: Chosen,
        load: Callable[[TranscribeSettings, str], Chosen] = load,
        listened: Callable[[float], None] = lambda seconds: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`live` is what `choose` gave for `settings`: where that is a fallback, the engine that
        was to listen is tried again every minute. `listened` is told the seconds that each call of
        an engine took."""
        self._settings, self._load = settings, load
        self._listened, self._clock = listened, clock
        self._live_key = _key(settings)
        self._named = {_key(it): "transcribe.fallbacks" for it in _fallbacks(settings, settings)}
        for rule in settings.rules:
            wanted = with_engine(settings, rule.engine, rule.model, rule.model_dir)
            self._named[_key(wanted)] = "transcribe.rules"
        if settings.engine == "auto":
            its = settings.model_copy(update={"engine": "pocketsphinx"})
            self._named.setdefault(_key(its), "transcribe.engine=auto")
        self._named[self._live_key] = "transcribe.engine"
        self._kept: OrderedDict[_Key, Chosen] = OrderedDict()
        self._failed: dict[_Key, tuple[float, _Missing]] = {}
        self._away: dict[_Key, _Away] = {}
        self._lock = threading.Lock()
        # A live call does not wait for what a replay has fetched, nor for another rule's engine.
        self._loading = {key: threading.Lock() for key in self._named}
        self._loading_others = threading.Lock()
        if live.begun is not None:
            self._kept[_key(live.begun.settings)] = live.begun.chosen
            for its, missing in live.begun.missing:
                self._failed[_key(its)] = (clock() + _after_s(missing), missing)
        else:
            self._kept[self._live_key] = live

    def hear(self, wanted: Wanted, listen: Callable[[TranscribeSettings, Chosen], T]) -> T:
        """What `listen` makes with the engine that is wanted, or with a fallback.

        It gets the settings and the engine of who listens. A fallback does where the one before
        cannot be loaded, has been away for `fallback_after_s`, fails at this call time and again,
        or knows none of the call's languages. Where none knows them, the one that was wanted says
        that it does not.

        Raises what `listen` raises; Transient where who is wanted cannot be had now, nor a
        fallback, and NotYet where that is so for this one call. A replay gets NotYet for both, and
        holds up no other; and Invalid for an engine that it asks for and that cannot be.
        """
        try:
            if wanted.by_option and wanted.settings.engine != "auto":
                chosen = self._had(wanted.settings)
                return listen(wanted.settings, self._watched(_key(wanted.settings), chosen))
            return self._heard(wanted, listen)
        except _Down as down:
            if wanted.replay:
                raise NotYet(down.reason, down.detail) from down
            raise Transient(down.reason, down.detail) from down
        except _Missing as missing:
            if wanted.by_option and missing.wrong:
                raise Invalid("unknown_option", f"the replay asks for {missing.detail}") from None
            if wanted.replay:
                raise NotYet(missing.reason, missing.detail) from None
            raise Transient(missing.reason, missing.detail) from None

    def _heard(self, wanted: Wanted, listen: Callable[[TranscribeSettings, Chosen], T]) -> T:
        passed: list[_Passed] = []
        failure: _Down | _NotThis | _Missing | None = None
        deaf: tuple[TranscribeSettings, Chosen] | None = None
        others = deque([wanted.settings, *_fallbacks(wanted.settings, self._settings)])
        last_resort: tuple[TranscribeSettings, ...] = ()
        while others:
            settings = others.popleft()
            key = _key(settings)
            if (away := self._still_away(key)) is not None:
                failure = failure or away
                passed.append(_Passed(_name(settings), f"is away ({away})"))
                continue
            try:
                chosen = self._had(settings)
            except _Missing as missing:
                failure = failure or missing
                passed.append(_Passed(_name(settings), f"cannot be had ({missing})"))
                last = _last_resort(settings, missing)
                others += last
                last_resort += last
                continue
            chosen = _instead(self._watched(key, chosen), passed)
            if wanted.rule:
                chosen = replace(chosen, reason=f"{wanted.rule}: {chosen.reason}")
            name, knows = chosen.engine.identity.name, chosen.engine.languages
            knows_none = knows is not None and not {*knows} & {*wanted.languages}
            if wanted.languages and knows_none and settings not in last_resort:
                deaf = deaf or (settings, chosen)
                told = ", ".join(wanted.languages)
                passed.append(_Passed(name, f"cannot transcribe {told}"))
                continue
            asked_s = self._clock()
            try:
                return listen(settings, chosen)
            except _Down as down:
                if not self._is_away(key, down, asked_s):
                    raise
                # Not the exception itself, whose frames hold the call's audio.
                failure = failure or _Down(down.reason, down.detail)
                passed.append(_Passed(name, f"is away ({down})"))
            except _NotThis as not_this:
                failure = failure or _NotThis(not_this.reason, not_this.detail, not_this.after_s)
                passed.append(_Passed(name, f"cannot hear this call now ({not_this})"))
        if failure is not None:
            # Who is away may know the language: a call is not lost for having been early.
            raise failure
        assert deaf is not None
        return listen(*deaf)

    # What is loaded

    def _had(self, wanted: TranscribeSettings) -> Chosen:
        """The engine that `wanted` asks for; loading it takes long, and who asks for it waits, as
        do those who ask for others that the settings do not name, where it is one. Raises _Missing:
        for one that could not be had nobody waits again but who tries it for all.
        """
        key = _key(wanted)
        kept, failed = self._known(key)
        if kept is not None:
            return kept
        loading = self._loading.get(key, self._loading_others)
        if not loading.acquire(blocking=failed is None):
            assert failed is not None
            raise failed.anew()
        try:
            kept, _ = self._known(key)
            return kept or self._loaded(key, wanted)
        finally:
            loading.release()

    def _known(self, key: _Key) -> tuple[Chosen | None, _Missing | None]:
        """It, or why it could not be had when it was last tried.

        Raises that where it is too early to try again.
        """
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return kept, None
            until, failed = self._failed.get(key, (0.0, None))
        if failed is not None and self._clock() < until:
            raise failed.anew()
        return None, failed

    def _loaded(self, key: _Key, wanted: TranscribeSettings) -> Chosen:
        if key not in self._named:
            # Before the next is loaded: there may be no room for three.
            with self._lock:
                others = [it for it in self._kept if it not in self._named]
                for it in others[: max(0, len(others) - _MOST_KEPT + 1)]:
                    del self._kept[it]
        try:
            chosen = self._load(wanted, self._named.get(key, "the replay's option engine"))
        except Exception as error:  # libraries fail to load in ways of their own
            failure = _missing(wanted, error)
        else:
            with self._lock:
                self._kept[key] = chosen
                self._failed.pop(key, None)
            return chosen
        with self._lock:
            self._failed.pop(key, None)
            others = [it for it in self._failed if it not in self._named]
            for it in others[: max(0, len(others) - _MOST_FAILED + 1)]:
                del self._failed[it]
            self._failed[key] = (self._clock() + _after_s(failure), failure)
        raise failure.anew()

    # What is away

    def _watched(self, key: _Key, chosen: Chosen) -> Chosen:
        def answered() -> None:
            with self._lock:
                self._away.pop(key, None)

        return replace(chosen, engine=_Watched(chosen.engine, self._listened, answered))

    def _still_away(self, key: _Key) -> _Down | None:
        """Why it is not worth asking; None where it is: whoever is told so tries it for all."""
        now = self._clock()
        with self._lock:
            away = self._away.get(key)
            if away is None or not away.told:
                return None
            if now - away.tried_s >= _AWAY_S:
                away.tried_s = now
                return None
            return _Down(away.failure.reason, away.failure.detail)

    def _is_away(self, key: _Key, down: _Down, asked_s: float) -> bool:
        """Whether it has been down for as long as it takes for a fallback to listen; it was last
        asked at `asked_s`."""
        now = self._clock()
        with self._lock:
            failure = _Down(down.reason, down.detail)
            away = self._away.setdefault(key, _Away(now, now, now, failure))
            # Where nobody has asked for long, nobody knows that it was away all the while.
            silent_s = max(self._settings.fallback_after_s, _SILENT_S)
            if not away.told and asked_s - away.failed_s > silent_s:
                away.since_s = now
            away.tried_s, away.failed_s, away.failure = now, now, failure
            gone = bool(self._settings.fallbacks) and (
                now - away.since_s >= self._settings.fallback_after_s
            )
            first, away.told = gone and not away.told, away.told or gone
        if first:
            logger("transcribe").warning("engine away, fallbacks listen", engine=key[0],
                                         why=down.detail)  # fmt: skip
        return gone


def _key(settings: TranscribeSettings) -> _Key:
    """What makes an engine another one, of all that a replay or a rule can change."""
    match settings.engine:
        case "pocketsphinx" | "stub":
            return settings.engine, "", ""
        case "openai":
            return settings.engine, settings.endpoint.model, ""
        case "sensevoice":
            return settings.engine, "", str(settings.sensevoice.model_dir or "")
        case _:
            return _name(settings), settings.model, str(settings.model_dir or "")


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
    try:
        engine = SenseVoiceEngine(settings)
    except ValueError as error:
        if "out of memory" in str(error).lower():
            raise Transient("no_room", str(error)) from error
        raise
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


def _pyannote(settings: TranscribeSettings) -> Diarizer:
    from services.transcribe.pyannote_diarizer import PyannoteDiarizer

    return PyannoteDiarizer(settings)


def _resemblyzer(settings: TranscribeSettings) -> Diarizer:
    from services.transcribe.resemblyzer_diarizer import ResemblyzerDiarizer

    weights = settings.diarizer_model if settings.diarizer == "resemblyzer" else ""
    return ResemblyzerDiarizer(Path(weights) if weights else None, settings.device)
