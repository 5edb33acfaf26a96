"""Clips through the suite's own ingest and transcribe, and how far each transcript is off.

What is measured is what production does: a clip is a submitted call, its recording is probed and
stored by ingest, and the stage transcribe makes the transcript, with no result taken from a cache.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from schemas import topics
from schemas.events import CallEnded, CallRecorded, CallTranscribed
from schemas.events import Engine as Identity
from services.enrich.metrics import NOT_SAID
from services.evaluation.manifest import Clip
from services.evaluation.measures import (
    Errors,
    Normalisation,
    Turn,
    diarization_errors,
    edits,
    measure_of,
    permuted_edits,
)
from services.evaluation.telephony import Condition
from services.ingest.entrances import call_ended_for
from services.ingest.handler import stage as ingest_stage
from services.ingest.handler import upload
from services.ingest.settings import IngestSettings
from services.runtime.audio import Prober
from services.runtime.errors import Failure, Invalid
from services.runtime.log import Message
from services.runtime.objects import MissingObject
from services.runtime.stage import Envelope, Stage
from services.transcribe.choice import choose, choose_diarizer, languages_of
from services.transcribe.engine import UNDETERMINED, primary_tag
from services.transcribe.handler import stage as transcribe_stage
from services.transcribe.settings import TranscribeSettings

AS_RECORDED = "as recorded"
COLLAR_MS = 250
"""Before and after each border of the reference, in the second DER."""
_TENANT = "evaluation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What came of one clip."""

    clip: Clip
    duration_ms: int = 0
    """Of the recording, as decoded."""
    failure: str = ""
    """Why there is no transcript."""
    took_s: float = 0.0
    """From the stored recording to the transcript; beside others where calls are handled so."""
    engine_s: float = 0.0
    """Of that, in the engine."""
    engine: str = ""
    """Who heard it, and with which model: by rules and fallbacks it may be another one."""
    diarizer: str = ""
    """What parted the voices of a shared channel; empty where nothing did."""
    language: str = UNDETERMINED
    language_told: bool = False
    """Whether the engine was told what is spoken."""
    words: int = 0
    """Heard, as normalised."""
    trusted: int = 0
    """Of those, in segments without a flag by which enrich leaves them out."""
    errors: Mapping[str, Errors] = field(default_factory=dict)
    """By measure, for each that the clip has a reference for."""

    @property
    def nobody_speaks(self) -> bool:
        """By the manifest: every word heard is made up."""
        return self.clip.text is not None and not self.clip.text.strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be measured: an engine, or settings whose rules name one for each call."""

    label: str
    settings: TranscribeSettings
    asked_by: str = "transcribe.engine"
    """What named the engine, for the reason that is shown."""


@dataclass(slots=True, kw_only=True)
class EngineRun:
    """What one engine made of the clips, so far."""

    label: str
    identity: Identity | None = None
    """None where it was not loaded."""
    reason: str = ""
    """Why it is this engine, in its own words."""
    failure: str = ""
    """Why it could not be had."""
    load_s: float = 0.0
    calls_at_once: int = 1
    wall_s: float = 0.0
    """Of the clips as recorded, from the first to the last transcript."""
    attempts: dict[str, list[Attempt]] = field(default_factory=dict)
    """By condition, `as recorded` first; clips in the manifest's order."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is; in ms of audio, all engines and conditions together."""

    done_ms: int
    all_ms: int
    label: str
    condition: str
    attempt: Attempt


@dataclass(slots=True, kw_only=True)
class Evaluation:
    """All engines over all clips. `runs` holds what is known so far, whenever `run` ends."""

    clips: Sequence[Clip]
    engines: Sequence[Wanted]
    conditions: Sequence[Condition] = ()
    """Beside the clips as recorded."""
    ingest: IngestSettings = field(default_factory=IngestSettings)
    normalisation: Normalisation = field(default_factory=Normalisation)
    hints: bool = False
    """Whether the engine is told each clip's languages, as by a platform that knows them."""
    seed: int = 0
    told: Callable[[Progress], None] = lambda progress: None
    keep: Callable[[str, str, Clip, CallTranscribed], None] = lambda *transcript: None
    """Gets label, condition, clip and transcript of each clip that was transcribed."""
    runs: list[EngineRun] = field(default_factory=list)

    def run(self) -> None:
        """Blocks until every engine has heard every clip. What fails is in `runs`, and told."""
        prober, store = Prober(), _Clips()
        try:
            ingest = ingest_stage(self.ingest, store, probe=prober)
            calls = [_recorded(clip, store, ingest, self.hints) for clip in self.clips]
            once_ms = sum(call.duration_ms for call in calls if isinstance(call, _Call))
            spans = len(self.conditions) + 1
            progress = _Told(self.told, once_ms * spans * len(self.engines))
            for wanted in self.engines:
                run = EngineRun(label=wanted.label)
                self.runs.append(run)
                self._measure(wanted, run, calls, store, ingest, progress)
                progress.reach(len(self.runs) * spans * once_ms)
        finally:
            prober.close()

    def _measure(
        self,
        wanted: Wanted,
        run: EngineRun,
        calls: Sequence[_Call | Attempt],
        store: _Clips,
        ingest: Stage,
        progress: _Told,
    ) -> None:
        """One engine over all clips, in each condition. Nothing of it stays in memory."""
        if not any(isinstance(call, _Call) for call in calls):
            run.attempts[AS_RECORDED] = [call for call in calls if isinstance(call, Attempt)]
            return
        settings = wanted.settings.model_copy(update={"cache": False})
        started = time.monotonic()
        spent = _Spent()
        try:
            chosen = choose(settings, wanted.asked_by)
            parting = choose_diarizer(settings, chosen.engine.identity.name)
            stage = transcribe_stage(settings, store, chosen, parting, listened=spent.add)
        except (Failure, ValueError, ImportError) as problem:
            run.failure = _why(problem)
            return
        run.load_s = time.monotonic() - started
        run.identity, run.reason = chosen.engine.identity, chosen.reason
        run.calls_at_once = stage.workers
        listener = _Listener(stage, spent, settings)
        for condition in (None, *self.conditions):
            self._listen(run, listener, condition, calls, store, ingest, progress)

    def _listen(
        self,
        run: EngineRun,
        listener: _Listener,
        condition: Condition | None,
        calls: Sequence[_Call | Attempt],
        store: _Clips,
        ingest: Stage,
        progress: _Told,
    ) -> None:
        name = condition.name if condition else AS_RECORDED
        attempts = run.attempts.setdefault(name, [])

        def attempt(call: _Call | Attempt) -> Attempt:
            if isinstance(call, Attempt):
                return call
            if condition is None:
                return self._attempt(run, listener, name, call)
            with tempfile.TemporaryDirectory(prefix="telephone-") as folder:
                try:
                    made = _again(call, condition, Path(folder), self.seed, store, ingest)
                except Exception as problem:  # a clip that a codec breaks on is one clip's failure
                    return Attempt(
                        clip=call.clip, duration_ms=call.duration_ms, failure=_why(problem)
                    )
                try:
                    return self._attempt(run, listener, name, made)
                finally:
                    store.delete(made.event.recordings[0].object_key)

        started = time.monotonic()
        for done in _in_order(attempt, calls, listener.stage.workers):
            attempts.append(done)
            progress.add(run.label, name, done)
            if condition is None:
                run.wall_s = time.monotonic() - started

    def _attempt(self, run: EngineRun, listener: _Listener, condition: str, call: _Call) -> Attempt:
        clip, event = call.clip, call.event
        plain = Attempt(
            clip=clip,
            duration_ms=call.duration_ms,
            language_told=bool(languages_of(event, listener.settings)),
        )
        listener.spent.clear()
        started = time.monotonic()
        try:
            transcript = _one(listener.stage, event, topics.RECORDED)
        except Exception as problem:  # whatever it is, the other clips are heard
            return replace(plain, failure=_why(problem), took_s=time.monotonic() - started)
        took_s = time.monotonic() - started
        self.keep(run.label, condition, clip, transcript)
        return replace(
            measured(clip, transcript, self.normalisation, plain),
            took_s=took_s,
            engine_s=listener.spent.seconds(),
        )


def measured(
    clip: Clip,
    transcript: CallTranscribed,
    normalisation: Normalisation,
    plain: Attempt | None = None,
) -> Attempt:
    """`plain` with all that can be said of `transcript` against what is known of `clip`."""
    tokens = normalisation.tokens
    heard = tokens(" ".join(segment.text for segment in transcript.segments))
    trusted = [s.text for s in transcript.segments if NOT_SAID.isdisjoint(s.flags)]
    errors: dict[str, Errors] = {}
    if clip.channels is not None:
        count = max(len(clip.channels), len(transcript.channels))
        theirs = [*map(tokens, clip.channels)] + [[]] * (count - len(clip.channels))
        ours = [
            tokens(" ".join(s.text for s in transcript.segments if s.channel == number))
            for number in range(count)
        ]
        whole = [token for each in theirs for token in each]
        if whole:
            found = sum(map(edits, theirs, ours), edits((), ()))
            errors[measure_of(clip.languages, whole)] = found
    elif clip.text is not None and (reference := tokens(clip.text)):
        errors[measure_of(clip.languages, reference)] = edits(reference, heard)
    speakers = clip.speakers
    if speakers is None and clip.channels is not None:
        speakers = {str(number): text for number, text in enumerate(clip.channels)}
    if speakers is not None:
        said = {name: tokens(text) for name, text in speakers.items()}
        whole = [token for each in said.values() for token in each]
        if whole:
            names = dict.fromkeys(segment.speaker for segment in transcript.segments)
            by_name = {
                name: tokens(" ".join(s.text for s in transcript.segments if s.speaker == name))
                for name in names
            }
            measure = f"cp{measure_of(clip.languages, whole)}"
            errors[measure] = permuted_edits(said, by_name)
    if clip.turns is not None:
        starts = {r.recording_id: r.start_offset_ms for r in transcript.recordings}
        turns = [
            Turn(s.speaker, s.start_ms - starts[s.recording_id], s.end_ms - starts[s.recording_id])
            for s in transcript.segments
        ]
        errors["DER"] = diarization_errors(clip.turns, turns)
        errors[f"DER ±{COLLAR_MS / 1000:g} s"] = diarization_errors(clip.turns, turns, COLLAR_MS)
    return replace(
        plain or Attempt(clip=clip, duration_ms=transcript.duration_ms),
        engine=f"{transcript.engine.name} {transcript.engine.model}".strip(),
        language=primary_tag(transcript.language),
        diarizer=transcript.diarizer,
        words=len(heard),
        trusted=len(tokens(" ".join(trusted))),
        errors=errors,
    )


@dataclass(frozen=True, slots=True)
class _Call:
    """A clip that ingest has taken."""

    clip: Clip
    event: CallRecorded

    @property
    def duration_ms(self) -> int:
        return self.event.recordings[0].duration_ms


def _recorded(clip: Clip, store: _Clips, ingest: Stage, hints: bool) -> _Call | Attempt:
    """The clip as a call that was submitted; as a failed attempt where ingest refuses it."""
    try:
        if not clip.path.is_file():
            raise Invalid("no_file", f"line {clip.line}, field file: {clip.name} does not exist")
        ended = call_ended_for(
            clip.path,
            tenant_id=_TENANT,
            call_id=f"line-{clip.line}",
            roles=clip.roles,
            # Over what a sidecar says: whether the engine is told is what was asked for.
            metadata={"language_hints": list(clip.languages) if hints else []},
            uri=upload(store, _TENANT, clip.path),
        )
        return _Call(clip, _one(ingest, ended, topics.ENDED))
    except Exception as problem:  # a clip that cannot be read ends no run
        return Attempt(clip=clip, failure=_why(problem))


def _again(
    call: _Call, condition: Condition, folder: Path, seed: int, store: _Clips, ingest: Stage
) -> _Call:
    """The call as it comes in over a telephone."""
    (recording,) = call.event.recordings
    path = condition.encode(call.clip.path, folder, seed, recording.container)
    # What is kept of it goes when it has been heard, and must be nobody else's: equal audio of
    # one tenant is one object.
    tenant = f"{condition.name}-{call.clip.line}"
    (ended,) = call.event.call.recordings
    ended = replace(
        ended,
        uri=upload(store, tenant, path),
        container="wav",
        codec=None,
        sample_rate_hz=None,
        size_bytes=None,
        sha256=None,
    )
    again = replace(call.event.call, tenant_id=tenant, recordings=[ended])
    event = _one(ingest, again, topics.ENDED)
    return _Call(call.clip, event)


def _one(stage: Stage, event: CallEnded | CallRecorded, topic: str) -> Any:
    """What `stage` makes of one event. Raises what handling it raises."""
    message = Message(topic, 0, 0, event.call_id.encode(), b"", (), 0)
    ((_, outcome),) = stage.handle([Envelope(event=event, message=message, id="1")])
    if isinstance(outcome, Exception):
        raise outcome
    if not outcome:
        raise Invalid("nothing_heard", "ingest took no recording of it")
    return outcome[0].event


def _why(problem: BaseException) -> str:
    if isinstance(problem, Failure | ValueError):
        return str(problem)
    return f"{type(problem).__name__}: {problem}"


def _in_order(
    attempt: Callable[[_Call | Attempt], Attempt],
    calls: Iterable[_Call | Attempt],
    workers: int,
) -> Iterator[Attempt]:
    """The attempts in order, as many at once as the stage handles."""
    if workers == 1:
        yield from map(attempt, calls)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        yield from pool.map(attempt, calls)
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Listener:
    stage: Stage
    spent: _Spent
    settings: TranscribeSettings


class _Spent(threading.local):
    """Seconds in the engine, of the call that this thread is at."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def clear(self) -> None:
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        self._seconds += seconds

    def seconds(self) -> float:
        return self._seconds


class _Told:
    """Counts what is done, for whoever watches."""

    def __init__(self, told: Callable[[Progress], None], all_ms: int) -> None:
        self._told, self._all_ms, self._done_ms = told, all_ms, 0

    def reach(self, done_ms: int) -> None:
        self._done_ms = done_ms

    def add(self, label: str, condition: str, attempt: Attempt) -> None:
        self._done_ms += attempt.duration_ms
        self._told(Progress(self._done_ms, self._all_ms, label, condition, attempt))


class _Clips:
    """Objects that stay the files they are; what is small is held in memory. Thread-safe.

    An object store without its copies: clips are not doubled on disk before they are heard.
    """

    def __init__(self) -> None:
        self._files: dict[str, Path] = {}
        self._bytes: dict[str, bytes] = {}

    def put(self, key: str, data: bytes) -> None:
        self._bytes[key] = data

    def put_file(self, key: str, path: Path) -> None:
        path.stat()
        self._files[key] = path

    def get(self, key: str) -> bytes:
        if key in self._bytes:
            return self._bytes[key]
        return self._file(key).read_bytes()

    def get_file(self, key: str, path: Path) -> None:
        if key in self._bytes:
            path.write_bytes(self._bytes[key])
        else:
            shutil.copyfile(self._file(key), path)

    def _file(self, key: str) -> Path:
        found = self._files.get(key)
        if found is None or not found.is_file():
            raise MissingObject(key)
        return found

    def exists(self, key: str) -> bool:
        return key in self._bytes or key in self._files

    def delete(self, key: str) -> None:
        self._files.pop(key, None)
        self._bytes.pop(key, None)

    def keys(self, prefix: str = "") -> Iterator[str]:
        yield from sorted(key for key in (*self._files, *self._bytes) if key.startswith(prefix))
