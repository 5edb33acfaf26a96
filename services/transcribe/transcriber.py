"""A call's recordings in, its transcript out."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from schemas.events import (
    CallRecorded,
    CallTranscribed,
    DegradationKind,
    Masked,
    Role,
    SegmentKind,
    StoredRecording,
)
from services.runtime.errors import Invalid, Transient
from services.runtime.libraries import first_line
from services.runtime.objects import MissingObject, Objects
from services.runtime.observe import logger
from services.transcribe import cache, loudness
from services.transcribe.cache import ChannelResult, Question, RecordingResult
from services.transcribe.channels import (
    alone_on,
    humans,
    only_voiced,
    same_audio,
    scratch_errors,
    unpack,
)
from services.transcribe.choice import Chosen, languages_of
from services.transcribe.diarizer import NO_PARTING, Diarizer, Parting, Turns
from services.transcribe.engine import RATE_HZ, UNDETERMINED, Asked, Heard, Samples
from services.transcribe.roles import Roles, RoleSettings, load_roles
from services.transcribe.settings import TranscribeSettings
from services.transcribe.spans import Span, joined, without
from services.transcribe.transcript import CallContext, Problem, transcript
from services.transcribe.vad import Vad
from services.transcribe.vocabulary import Vocabularies, Vocabulary

# What masking leaves of a stretch of speech is not worth listening to below this.
_SHORTEST_MS = 100


@dataclass(frozen=True, slots=True)
class Transcriber:
    """Thread-safe as far as its engine is; keeps nothing between calls."""

    settings: TranscribeSettings
    objects: Objects
    chosen: Chosen
    vad: Vad
    parting: Parting = NO_PARTING
    """Of the voices of a channel that several people share."""
    vocabularies: Vocabularies = field(default_factory=Vocabularies)
    roles: Roles = field(default_factory=lambda: load_roles(RoleSettings()))

    def transcribe(
        self, event: CallRecorded, now: datetime, *, replay: bool = False
    ) -> CallTranscribed | None:
        """The transcript of `event`'s recordings; None where it has none to be made from.

        A `replay` gives way to live calls on the engine's device.

        Raises Invalid where audio is gone, changed or undecodable, Transient where the store does
        not answer or scratch has no room.
        """
        if not event.recordings:
            return None
        masks = self._masks(event)
        vocabulary = self.vocabularies.of(event.call)
        asked = replace(self._asked(event, vocabulary), replay=replay)
        results = [self._heard(event, recording, masks, asked) for recording in event.recordings]
        beyond, all_beyond = self._unsupported(asked)
        context = CallContext(
            event=event,
            masks=masks,
            asked=asked,
            vocabulary=vocabulary,
            engine=replace(self.chosen.engine.identity, reason=self.chosen.reason),
            parting=self.parting,
            roles=self.roles,
            problems=[
                *((it.kind, it.reason) for it in self.chosen.degradations),
                *self._beyond(beyond, all_beyond, asked),
            ],
        )
        heard = [result for result, _ in results]
        cached = all(known for _, known in results)
        made = transcript(context, heard, now, self.settings, cached=cached)
        if all_beyond and made.language == UNDETERMINED:
            return replace(made, language=beyond[0])
        return made

    def _beyond(self, tags: Sequence[str], every: bool, asked: Asked) -> list[Problem]:
        if not tags:
            return []
        if asked.language is not None:
            effect = "no text was made up in another language"
        else:
            effect = "such speech comes out as wrong words of another language, if at all"
            if every:
                effect = f"the call was listened to for the languages that it knows; {effect}"
        return [
            (
                DegradationKind.LANGUAGE_UNSUPPORTED,
                f"{self.chosen.engine.identity.name} cannot transcribe {', '.join(tags)}: {effect}",
            )
        ]

    def _masks(self, event: CallRecorded) -> list[Masked]:
        """Telephony intervals that are not transcribed, on the call's timeline."""
        kinds = self.settings.masked_kinds | {SegmentKind.SECURE_PAUSE}
        found = [
            Masked(kind=segment.kind, start_ms=segment.start_ms, end_ms=segment.end_ms)
            for segment in event.call.segments
            if segment.kind in kinds
        ]
        return sorted(found, key=lambda m: (m.start_ms, m.end_ms, m.kind))

    def _asked(self, event: CallRecorded, vocabulary: Vocabulary | None) -> Asked:
        """What is spoken where the settings say so, or is believed; what the vocabulary expects."""
        tags = languages_of(event, self.settings)
        given = self.settings.language is not None
        return Asked(
            language=tags[0] if given else None,
            hints=() if given else tags,
            terms=() if vocabulary is None else vocabulary.terms,
            prompt="" if vocabulary is None else vocabulary.prompt,
        )

    def _unsupported(self, asked: Asked) -> tuple[list[str], bool]:
        """Languages of the call that are beyond the engine, and whether they are all it has.

        A language that is asked for is not listened to for another. One that is only hinted at may
        be wrong: then the engine tells by itself.
        """
        supported = self.chosen.engine.languages
        tags = [asked.language] if asked.language is not None else list(asked.hints)
        beyond = [tag for tag in tags if supported is not None and tag not in supported]
        return beyond, bool(beyond) and beyond == tags

    def _heard(
        self,
        event: CallRecorded,
        recording: StoredRecording,
        masks: Sequence[Masked],
        asked: Asked,
    ) -> tuple[RecordingResult, bool]:
        """What is heard in a recording, and whether that was known before."""
        # An erased call's audio is gone for ever, and stored audio is there before the event that
        # names it: waiting helps nobody. Should the store be misconfigured, the dead letter holds
        # the event and can be replayed. An old result is no way round an erasure.
        gone = Invalid(
            "audio_gone",
            f"object {recording.object_key!r} of recording {recording.recording_id!r} does not "
            "exist: the call was erased, or transcribe reads another store than ingest writes",
        )
        if not self.objects.exists(recording.object_key):
            raise gone
        local = joined(
            Span(mask.start_ms, mask.end_ms).shifted(-recording.start_offset_ms) for mask in masks
        )
        shared = alone_on(event.call, recording.channel_roles) is Role.UNKNOWN
        diarizer = self.parting.diarizer if shared else None
        parties = len(humans(event.call)) or None
        question = Question(
            sha256=recording.sha256,
            container=recording.container,
            engine=self.chosen.engine.identity,
            language=asked.language,
            hints=asked.hints,
            terms=asked.terms,
            prompt=asked.prompt,
            masks=local,
            vad=self.settings.vad,
            diarizer="" if diarizer is None else diarizer.identity,
            parties=None if diarizer is None else parties,
        )
        if self.settings.cache and (known := self._known(question)) is not None:
            return known, True
        with _scratch_folder() as folder:
            source = folder / "recording"
            try:
                self.objects.get_file(recording.object_key, source)
            except MissingObject:
                raise gone from None
            with scratch_errors(folder), source.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != recording.sha256:
                raise Invalid(
                    "audio_changed",
                    f"object {recording.object_key!r} has SHA-256 {digest}, its event says "
                    f"{recording.sha256}",
                )
            audio = unpack(source, recording.container, folder, local, self.settings.max_channel_s)
            result = self._listened(audio, local, asked, diarizer, parties)
        # What could be made in part only, or not at all, may be whole the next time.
        partly = any(
            channel.undivided
            or (channel.same_as is None and channel.heard is None)
            or (channel.heard and channel.heard.degradations)
            for channel in result.channels
        )
        if self.settings.cache and not partly:
            self._keep(question if _is_shared(result) else _alone(question), result)
        return result, False

    def _keep(self, question: Question, result: RecordingResult) -> None:
        try:
            cache.store(self.objects, question, result)
        except Transient as failure:
            # What was heard is worth more than not to hear it again.
            logger("transcribe").warning("result not kept", why=str(failure))

    def _known(self, question: Question) -> RecordingResult | None:
        """What was heard before. Who would part voices counts only where they share a channel."""
        apart = cache.load(self.objects, _alone(question))
        if apart is not None and (not question.diarizer or not _is_shared(apart)):
            return apart
        return cache.load(self.objects, question) if question.diarizer else None

    def _listened(
        self,
        audio: Sequence[Samples],
        masks: Sequence[Span],
        asked: Asked,
        diarizer: Diarizer | None,
        parties: int | None,
    ) -> RecordingResult:
        unheard = asked.language is not None and self._unsupported(asked)[1]
        copies = same_audio(audio)
        found = [
            self.vad.speech(samples, self.settings.vad) if original is None else None
            for samples, original in zip(audio, copies, strict=True)
        ]
        voices = [() if it is None else tuple(without(it.spans, masks)) for it in found]
        only = only_voiced(copies, [bool(it) for it in voices])
        channels: list[ChannelResult] = []
        for number, (samples, original, speech) in enumerate(
            zip(audio, copies, found, strict=True)
        ):
            if original is not None or speech is None:
                copied = channels[original or 0]
                channels.append(ChannelResult(voiced=copied.voiced, same_as=original))
                continue
            voiced = voices[number]
            spans = [
                span for span in without(speech.padded, masks) if span.length_ms >= _SHORTEST_MS
            ]
            heard = turns = None
            undivided = ""
            if not unheard:
                heard = self.chosen.engine.transcribe(samples, spans, asked) if spans else Heard()
                if diarizer is not None and (copies.count(None) == 1 or number == only):
                    # Of a party whose channel says nothing it is not known where they are.
                    expected = parties if only is None else None
                    turns, undivided = _parted(diarizer, samples, voiced, expected, asked.replay)
            channels.append(
                ChannelResult(
                    voiced=voiced,
                    heard=heard,
                    turns=turns,
                    undivided=undivided,
                    loudness=loudness.course(samples) if heard and heard.segments else b"",
                )
            )
        samples_each = audio[0].size if audio else 0
        return RecordingResult(duration_ms=samples_each * 1000 // RATE_HZ, channels=tuple(channels))


def _parted(
    diarizer: Diarizer,
    audio: Samples,
    voiced: Sequence[Span],
    parties: int | None,
    replay: bool,
) -> tuple[Turns | None, str]:
    """Who speaks when, or why that cannot be told. Nothing else of the call is lost for it."""
    try:
        return diarizer.diarize(audio, voiced, parties, replay=replay), ""
    except Exception as error:  # every library fails in ways of its own
        why = first_line(error)
        logger("transcribe").warning("voices not parted", diarizer=diarizer.identity, why=why)
        return None, f"{diarizer.identity} failed ({why})"


def _alone(question: Question) -> Question:
    """The question for a recording on which everybody has a channel."""
    return replace(question, diarizer="", parties=None)


def _is_shared(result: RecordingResult) -> bool:
    """Whether all voices are on one channel, or on copies of it."""
    copies = [channel.same_as for channel in result.channels]
    return copies.count(None) == 1 or (
        only_voiced(copies, [bool(channel.voiced) for channel in result.channels]) is not None
    )


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    """An empty folder of our own, gone on leaving. Raises Transient where there is no room."""
    with scratch_errors(Path(tempfile.gettempdir())):
        made = tempfile.TemporaryDirectory(prefix="recording-")
    with made as name:
        yield Path(name)
