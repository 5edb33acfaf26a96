"""A call's recordings in, its transcript out."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from schemas.events import (
    CallRecorded,
    CallTranscribed,
    ChannelHeard,
    Degradation,
    DegradationKind,
    Masked,
    Segment,
    SegmentKind,
    StoredRecording,
)
from services.runtime.errors import Invalid
from services.runtime.objects import MissingObject, Objects
from services.transcribe import cache
from services.transcribe.cache import ChannelResult, Question, RecordingResult
from services.transcribe.channels import Speakers, same_audio, speakers, unpack
from services.transcribe.choice import Chosen
from services.transcribe.engine import RATE_HZ, UNDETERMINED, Asked, Heard, Samples, primary_tag
from services.transcribe.settings import TranscribeSettings
from services.transcribe.spans import Span, joined, total_ms, within, without
from services.transcribe.trust import flags
from services.transcribe.vad import Vad
from services.transcribe.words import timed

# What masking leaves of a stretch of speech is not worth listening to below this.
_SHORTEST_MS = 100


@dataclass(frozen=True, slots=True)
class Transcriber:
    """Thread-safe as far as its engine is; keeps nothing between calls."""

    settings: TranscribeSettings
    objects: Objects
    chosen: Chosen
    vad: Vad

    def transcribe(
        self, event: CallRecorded, now: datetime, *, replay: bool = False
    ) -> CallTranscribed | None:
        """The transcript of `event`'s recordings; None where it has none to be made from.

        A `replay` gives way to live calls on the engine's device.

        Raises Invalid where audio is gone, changed or undecodable, Transient where the store does
        not answer.
        """
        if not event.recordings:
            return None
        masks = self._masks(event)
        asked = replace(self._asked(event), replay=replay)
        results = [self._heard(recording, masks, asked) for recording in event.recordings]
        return self._published(
            event, now, masks, asked, [r for r, _ in results], all(c for _, c in results)
        )

    def _masks(self, event: CallRecorded) -> list[Masked]:
        """Telephony intervals that are not transcribed, on the call's timeline."""
        kinds = self.settings.masked_kinds | {SegmentKind.SECURE_PAUSE}
        found = [
            Masked(kind=segment.kind, start_ms=segment.start_ms, end_ms=segment.end_ms)
            for segment in event.call.segments
            if segment.kind in kinds
        ]
        return sorted(found, key=lambda m: (m.start_ms, m.end_ms, m.kind))

    def _asked(self, event: CallRecorded) -> Asked:
        """What is spoken where the settings say so, or the tags that the platform believes."""
        if self.settings.language is not None:
            return Asked(language=primary_tag(self.settings.language))
        tags = [primary_tag(tag) for tag in event.call.language_hints]
        return Asked(hints=tuple(dict.fromkeys(tag for tag in tags if tag != UNDETERMINED)))

    def _unsupported(self, asked: Asked) -> tuple[list[str], bool]:
        """Languages of the call that are beyond the engine, and whether they are all it has."""
        supported = self.chosen.engine.languages
        tags = [asked.language] if asked.language is not None else list(asked.hints)
        beyond = [tag for tag in tags if supported is not None and tag not in supported]
        return beyond, bool(beyond) and beyond == tags

    def _heard(
        self,
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
        question = Question(
            sha256=recording.sha256,
            container=recording.container,
            engine=self.chosen.engine.identity,
            language=asked.language,
            hints=asked.hints,
            masks=local,
            vad=self.settings.vad,
        )
        if self.settings.cache and (known := cache.load(self.objects, question)) is not None:
            return known, True
        with tempfile.TemporaryDirectory(prefix="recording-") as name:
            source = Path(name) / "recording"
            try:
                self.objects.get_file(recording.object_key, source)
            except MissingObject:
                raise gone from None
            with source.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != recording.sha256:
                raise Invalid(
                    "audio_changed",
                    f"object {recording.object_key!r} has SHA-256 {digest}, its event says "
                    f"{recording.sha256}",
                )
            audio = unpack(
                source, recording.container, Path(name), local, self.settings.max_channel_s
            )
            result = self._listened(audio, local, asked)
        # What could be made in part only may be whole the next time.
        partly = any(channel.heard and channel.heard.degradations for channel in result.channels)
        if self.settings.cache and not partly:
            cache.store(self.objects, question, result)
        return result, False

    def _listened(
        self,
        audio: Sequence[Samples],
        masks: Sequence[Span],
        asked: Asked,
    ) -> RecordingResult:
        _, beyond_all = self._unsupported(asked)
        channels: list[ChannelResult] = []
        for samples, original in zip(audio, same_audio(audio), strict=True):
            if original is not None:
                speech_ms = channels[original].speech_ms
                channels.append(ChannelResult(speech_ms=speech_ms, same_as=original))
                continue
            voiced = self.vad.speech(samples, self.settings.vad)
            spans = [
                span for span in without(voiced.padded, masks) if span.length_ms >= _SHORTEST_MS
            ]
            heard = None
            if not beyond_all:
                heard = self.chosen.engine.transcribe(samples, spans, asked) if spans else Heard()
            channels.append(
                ChannelResult(speech_ms=total_ms(without(voiced.spans, masks)), heard=heard)
            )
        samples_each = audio[0].size if audio else 0
        return RecordingResult(duration_ms=samples_each * 1000 // RATE_HZ, channels=tuple(channels))

    def _published(
        self,
        event: CallRecorded,
        now: datetime,
        masks: list[Masked],
        asked: Asked,
        results: Sequence[RecordingResult],
        cached: bool,
    ) -> CallTranscribed:
        segments: list[Segment] = []
        channels: list[ChannelHeard] = []
        problems: list[tuple[DegradationKind, str]] = []
        heard: list[Heard] = []
        for recording, result in zip(event.recordings, results, strict=True):
            same_as = [channel.same_as for channel in result.channels]
            who = speakers(event.call, recording, same_as)
            problems += who.problems
            for number, channel in enumerate(result.channels):
                channels.append(
                    ChannelHeard(
                        recording_id=recording.recording_id,
                        channel=number,
                        role=who.roles[number],
                        speech_ms=channel.speech_ms,
                        same_as_channel=channel.same_as,
                    )
                )
                if channel.heard is not None:
                    heard.append(channel.heard)
                    problems += [(it.kind, it.reason) for it in channel.heard.degradations]
                    segments += self._segments(event, recording, number, who, channel.heard)
        extents = [
            Span(0, result.duration_ms).shifted(recording.start_offset_ms)
            for recording, result in zip(event.recordings, results, strict=True)
        ]
        beyond, beyond_all = self._unsupported(asked)
        if beyond:
            effect = (
                "no text was made up in another language"
                if beyond_all
                else "such speech comes out as wrong words of another language"
            )
            problems.append(
                (
                    DegradationKind.LANGUAGE_UNSUPPORTED,
                    f"{self.chosen.engine.identity.name} cannot transcribe {', '.join(beyond)}: "
                    f"{effect}",
                )
            )
        segments.sort(key=lambda s: (s.start_ms, s.channel, s.recording_id, s.end_ms))
        spoken, sure = _overall(segments, heard)
        return CallTranscribed(
            tenant_id=event.tenant_id,
            call_id=event.call_id,
            revision=event.revision,
            transcribed_at=now,
            call=event.call,
            recordings=event.recordings,
            duration_ms=max(0, *(extent.end_ms for extent in extents)),
            engine=replace(self.chosen.engine.identity, reason=self.chosen.reason),
            language=beyond[0] if beyond_all else spoken,
            language_confidence=sure,
            segments=[replace(s, segment_id=number) for number, s in enumerate(segments)],
            masked=[m for m in masks if within(extents, Span(m.start_ms, m.end_ms))],
            channels=channels,
            degradations=[
                Degradation(kind=kind, reason=reason) for kind, reason in dict.fromkeys(problems)
            ],
            cached=cached,
        )

    def _segments(
        self,
        event: CallRecorded,
        recording: StoredRecording,
        channel: int,
        who: Speakers,
        heard: Heard,
    ) -> list[Segment]:
        """Segments on the call's timeline; `segment_id` is set once all are known."""
        holds = joined(
            Span(segment.start_ms, segment.end_ms)
            for segment in event.call.segments
            if segment.kind is SegmentKind.HOLD
        )
        made: list[Segment] = []
        for found in heard.segments:
            local = Span(found.start_ms, found.end_ms)
            span = local.shifted(recording.start_offset_ms)
            words = timed(found.text, found.words, local)
            made.append(
                Segment(
                    segment_id=0,
                    recording_id=recording.recording_id,
                    channel=channel,
                    speaker=who.names[channel],
                    role=who.roles[channel],
                    start_ms=span.start_ms,
                    end_ms=span.end_ms,
                    text=found.text,
                    language=found.language,
                    confidence=None if found.confidence is None else round(found.confidence, 4),
                    flags=flags(found, span, holds, self.settings.trust),
                    words=words.texts,
                    word_start_ms=[at + recording.start_offset_ms for at in words.start_ms],
                    word_end_ms=[at + recording.start_offset_ms for at in words.end_ms],
                    word_confidence=words.confidence,
                    words_interpolated=words.interpolated,
                )
            )
        return made


def _overall(segments: Sequence[Segment], heard: Sequence[Heard]) -> tuple[str, float | None]:
    """The language of most of the speech, and the mean certainty of the channels that agree."""
    spoken: dict[str, int] = {}
    for segment in segments:
        length = max(1, segment.end_ms - segment.start_ms)
        spoken[segment.language] = spoken.get(segment.language, 0) + length
    if not spoken:
        return UNDETERMINED, None
    language = max(sorted(spoken), key=lambda tag: spoken[tag])
    sure = [
        found.language_confidence
        for found in heard
        if found.language == language and found.language_confidence is not None
    ]
    return language, round(sum(sure) / len(sure), 4) if sure else None
