"""SenseVoice through FunASR, its only importer: Chinese, Cantonese, English, Japanese and Korean.

It says of every stretch of speech which language it is in, how it sounds and what else is heard, as
tags in its text: `<|zh|><|HAPPY|><|Laughter|><|withitn|>`. They are parsed as they stand; FunASR's
own post-processing makes emoji of them.
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from schemas.events import Engine as Identity
from schemas.events import Sound, VoiceEmotion
from services.runtime.errors import Transient
from services.runtime.libraries import (
    files_hash,
    first_line,
    is_out_of_memory,
    library,
    torch_device,
)
from services.transcribe.batches import Batches
from services.transcribe.engine import (
    NOTHING_KNOWN,
    RATE_HZ,
    UNDETERMINED,
    Asked,
    Heard,
    HeardSegment,
    HeardWord,
    Samples,
)
from services.transcribe.languages import TELLING_MS, Told, most
from services.transcribe.placing import placed, unaligned
from services.transcribe.settings import TranscribeSettings
from services.transcribe.spans import Span, windows

LANGUAGES = frozenset({"zh", "yue", "en", "ja", "ko"})
# Longer stretches than it was made for are divided.
LONGEST_MS = 30_000
_GPU_BATCH = 16
# Shorter audio has no frame for its features.
_SHORTEST_MS = 100

EMOTIONS = {
    "HAPPY": VoiceEmotion.HAPPY,
    "SAD": VoiceEmotion.SAD,
    "ANGRY": VoiceEmotion.ANGRY,
    "NEUTRAL": VoiceEmotion.NEUTRAL,
    "FEARFUL": VoiceEmotion.FEARFUL,
    "DISGUSTED": VoiceEmotion.DISGUSTED,
    "SURPRISED": VoiceEmotion.SURPRISED,
}
SOUNDS = {
    "BGM": Sound.MUSIC,
    "Applause": Sound.APPLAUSE,
    "Laughter": Sound.LAUGHTER,
    "Cry": Sound.CRYING,
    "Cough": Sound.COUGH,
    "Sneeze": Sound.SNEEZE,
    "Breath": Sound.BREATH,
}
_NOSPEECH = "nospeech"
_TAG = re.compile(r"<\|([^<>|]*)\|>")


@dataclass(frozen=True, slots=True)
class Tagged:
    """What SenseVoice says of a stretch of speech."""

    text: str
    """Without tags, and without space around it."""
    language: str = UNDETERMINED
    no_speech: bool = False
    """Whether it says that nobody speaks."""
    emotion: VoiceEmotion = VoiceEmotion.UNKNOWN
    sounds: tuple[Sound, ...] = ()
    """Each once, in the order in which they are first named."""


def parsed(raw: str) -> Tagged:
    """The raw text of SenseVoice by its tags, wherever they stand.

    Of languages and of emotions the first that is known counts; EMO_UNKNOWN is none. Tags that mean
    nothing here (Speech, withitn, and those yet to come) are left out of the text all the same.
    """
    tags = _TAG.findall(raw)
    languages = [tag for tag in tags if tag in LANGUAGES or tag == _NOSPEECH]
    emotions = [EMOTIONS[tag] for tag in tags if tag in EMOTIONS]
    told = next(iter(languages), UNDETERMINED)
    return Tagged(
        text=re.sub(r"\s+", " ", _TAG.sub(" ", raw)).strip(),
        language=UNDETERMINED if told == _NOSPEECH else told,
        no_speech=told == _NOSPEECH,
        emotion=next(iter(emotions), VoiceEmotion.UNKNOWN),
        sounds=tuple(dict.fromkeys(SOUNDS[tag] for tag in tags if tag in SOUNDS)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """Stretches of one call that are heard together: what else is in a batch changes nothing."""

    samples: Sequence[Samples]
    language: str


@dataclass(frozen=True, slots=True)
class _Found:
    said: Tagged
    words: tuple[HeardWord, ...] = ()
    """Times in ms since the start of the stretch."""


class SenseVoiceEngine:
    """A SenseVoice model on one device. Live calls go before replays.

    Each stretch of speech is heard on its own, so that its emotion and its language are its own;
    one too short to tell a language by is heard as what is spoken around it. It takes no terms
    and no prompt, and gives no probabilities.
    """

    languages: Collection[str] | None = LANGUAGES

    def __init__(self, settings: TranscribeSettings) -> None:
        """Loads the model; blocks for seconds.

        Raises ValueError where the extra is missing or the folder holds no such model, Transient
        where one that is named cannot be had now.
        """
        wanted = settings.sensevoice
        torch = _library("torch")
        device = torch_device(torch, settings.device)
        self._model = _loaded(settings, device)
        self._batch = settings.batch_size or (_GPU_BATCH if device == "cuda" else 1)
        self._written, self._word_times = wanted.written, wanted.word_times
        self._batches: Batches[_Step, list[_Found]] = Batches(self._run, 1)
        folder = Path(self._model.model_path)
        self.identity = Identity(
            name="sensevoice",
            version=f"{version('funasr')} (torch {version('torch')})",
            model=wanted.model if wanted.model_dir is None else wanted.model_dir.name,
            model_revision=_revision(folder),
            device=device,
            options={
                "written": str(wanted.written).lower(),
                "word_times": str(wanted.word_times).lower(),
                "batch_size": str(self._batch),
            },
        )

    def transcribe(
        self,
        audio: Samples,
        spans: Sequence[Span],
        asked: Asked = NOTHING_KNOWN,
    ) -> Heard:
        pieces = [piece for (piece,) in windows(spans, LONGEST_MS, -1)]  # none beside another
        given = asked.language if asked.language in LANGUAGES else None
        found = list(self._heard(audio, pieces, given or "auto", asked.replay))
        told = [Told(given or each.said.language, None) for each in found]
        main = most(
            (it, piece.length_ms)
            for it, piece in zip(told, pieces, strict=True)
            if it.language != UNDETERMINED
        )
        short = [
            number
            for number, (it, piece) in enumerate(zip(told, pieces, strict=True))
            if piece.length_ms < TELLING_MS and it.language not in (main.language, UNDETERMINED)
        ]
        again = self._heard(audio, [pieces[at] for at in short], main.language, asked.replay)
        for number, each in zip(short, again, strict=True):
            found[number], told[number] = each, main
        said = [
            (each, _segment(each, piece, it.language))
            for each, piece, it in zip(found, pieces, told, strict=True)
            if each.said.text
        ]
        unplaced = sum(not each.words for each, _ in said) if self._word_times else 0
        return Heard(
            segments=tuple(segment for _, segment in said),
            language=main.language,
            degradations=unaligned(unplaced, len(said)),
        )

    def _heard(
        self, audio: Samples, pieces: Sequence[Span], language: str, replay: bool
    ) -> Generator[_Found]:
        steps = (
            _Step([_cut(audio, piece) for piece in pieces[at : at + self._batch]], language)
            for at in range(0, len(pieces), self._batch)
        )
        with closing(self._batches.each(steps, replay=replay)) as answers:
            for answer in answers:
                yield from answer

    def _run(self, steps: Sequence[_Step]) -> list[list[_Found]]:
        return [self._answered(step) for step in steps]

    def _answered(self, step: _Step) -> list[_Found]:
        answers = self._together(step)
        if answers is None:
            # What is heard does not depend on what it was put beside.
            alone = (replace(step, samples=[samples]) for samples in step.samples)
            return [found for one in alone for found in self._answered_alone(one)]
        return _all_found(answers, step)

    def _together(self, step: _Step) -> Sequence[dict[str, Any]] | None:
        """None where each is to be heard alone; what a failure's frames hold is freed by then."""
        if len(step.samples) == 1:
            return None
        try:
            return self._generated(step, self._word_times)
        except (IndexError, ValueError, RuntimeError) as error:
            if not self._word_times and not is_out_of_memory(error):
                raise
            return None

    def _answered_alone(self, step: _Step) -> list[_Found]:
        try:
            return _all_found(self._generated(step, self._word_times), step)
        except (IndexError, ValueError, RuntimeError) as error:
            if not self._word_times or is_out_of_memory(error):
                raise
        # FunASR stumbles where text that it takes apart again has become other tokens.
        return _all_found(self._generated(step, False), step)

    def _generated(self, step: _Step, word_times: bool) -> Sequence[dict[str, Any]]:
        answers: Sequence[dict[str, Any]] = self._model.generate(
            input=list(step.samples),
            language=step.language,
            use_itn=self._written,
            output_timestamp=word_times,
            batch_size=len(step.samples),
        )
        return answers


def _all_found(answers: Sequence[dict[str, Any]], step: _Step) -> list[_Found]:
    if len(answers) != len(step.samples):
        raise RuntimeError(f"FunASR answers {len(answers)} of {len(step.samples)} stretches")
    return [_found(answer) for answer in answers]


def _found(answer: dict[str, Any]) -> _Found:
    """An answer of FunASR; its words where it places all that are in the text."""
    said = parsed(str(answer.get("text", "")))
    times, names = answer.get("timestamp") or (), answer.get("words") or ()
    words: list[HeardWord] = []
    if len(times) == len(names):
        for (start, end), name in zip(times, names, strict=True):
            first = max(0, round(start))
            words.append(HeardWord(text=name, start_ms=first, end_ms=max(first, round(end))))
    return _Found(said, placed(said.text, words).words)


def _segment(found: _Found, piece: Span, language: str) -> HeardSegment:
    def within(word: HeardWord) -> HeardWord:
        text = word.text.strip()
        if word.start_ms is None or word.end_ms is None:
            return replace(word, text=text)
        start = min(piece.start_ms + word.start_ms, piece.end_ms)
        end = min(piece.start_ms + word.end_ms, piece.end_ms)
        return replace(word, text=text, start_ms=start, end_ms=end)

    return HeardSegment(
        text=found.said.text,
        start_ms=piece.start_ms,
        end_ms=piece.end_ms,
        language=language,
        no_speech=1.0 if found.said.no_speech else None,
        words=tuple(map(within, found.words)) or None,
        emotion=found.said.emotion,
        sounds=found.said.sounds,
    )


def _cut(audio: Samples, span: Span) -> Samples:
    samples = audio[span.start_ms * RATE_HZ // 1000 : span.end_ms * RATE_HZ // 1000]
    missing = _SHORTEST_MS * RATE_HZ // 1000 - samples.size
    return np.pad(samples, (0, missing)) if missing > 0 else np.ascontiguousarray(samples)


def _loaded(settings: TranscribeSettings, device: str) -> Any:
    """A `funasr.AutoModel` of SenseVoice. It is asked for nothing that is drawn at random."""
    wanted = settings.sensevoice
    torch = _library("torch")
    if wanted.model_dir is not None and not (wanted.model_dir / "model.pt").is_file():
        raise ValueError(
            f"transcribe.sensevoice.model_dir={str(wanted.model_dir)!r} holds no model.pt; name "
            "the folder of a SenseVoiceSmall model, or unset it"
        )
    try:
        with _quiet():
            model = _library("funasr").AutoModel(
                model=str(wanted.model_dir or wanted.model),
                hub=wanted.hub,
                device=device,
                # It would set torch to 4 for all who use it.
                ncpu=settings.cpu_threads or torch.get_num_threads(),
                frontend_conf={"dither": 0.0},
                disable_update=True,
                disable_pbar=True,
                log_level="ERROR",
            )
    except Exception as error:  # of every kind: it goes on where it could not fetch a file
        why = first_line(error)
        if wanted.model_dir is None:
            raise Transient(
                "model_missing",
                f"transcribe.sensevoice.model={wanted.model!r} cannot be had from "
                f"{wanted.hub!r} ({why}); set transcribe.sensevoice.model_dir to a folder that "
                "holds it, or let the hub be reached",
            ) from error
        raise ValueError(
            f"the model in transcribe.sensevoice.model_dir={str(wanted.model_dir)!r} cannot be "
            f"loaded with transcribe.device={device!r}: {why}"
        ) from error
    kind = type(model.model).__name__
    if kind != "SenseVoiceSmall":
        raise ValueError(
            f"transcribe.sensevoice names a model of the kind {kind}; SenseVoiceSmall is needed"
        )
    return model


def _revision(folder: Path) -> str:
    """A hash of the files that decide the result."""
    kinds = (".pt", ".yaml", ".json", ".mvn", ".model", ".txt")
    files = [path for path in folder.iterdir() if path.suffix in kinds and path.is_file()]
    return f"sha256:{files_hash(folder, files)[:32]}"


def _library(name: str) -> Any:
    with _quiet():
        return library(name, "transcribe.engine=sensevoice", "sensevoice")


@contextmanager
def _quiet() -> Iterator[None]:
    """What the libraries print goes to stderr, and they change nothing of how logs are written."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what they import that is old
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
