"""What was heard in a call's recordings as its transcript: who said what, and what to trust."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from schemas.events import (
    CallRecorded,
    CallTranscribed,
    ChannelHeard,
    Degradation,
    DegradationKind,
    Engine,
    Masked,
    Role,
    Segment,
    SegmentKind,
    Speaker,
    StoredRecording,
    VocabularyUsed,
)
from services.transcribe import loudness
from services.transcribe.cache import ChannelResult, RecordingResult
from services.transcribe.channels import Speakers, only_voiced, speakers
from services.transcribe.diarizer import Parting, Said, attribute
from services.transcribe.engine import UNDETERMINED, Asked, Heard
from services.transcribe.roles import Roles, Utterance
from services.transcribe.script import written
from services.transcribe.settings import TranscribeSettings
from services.transcribe.spans import Span, joined, total_ms, within
from services.transcribe.trust import flags, unheard_ms
from services.transcribe.vocabulary import Corrected, Vocabulary
from services.transcribe.words import timed

Problem = tuple[DegradationKind, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """What is the same for all that is heard of a call."""

    event: CallRecorded
    masks: Sequence[Masked]
    asked: Asked
    vocabulary: Vocabulary | None
    engine: Engine
    parting: Parting
    roles: Roles
    problems: Sequence[Problem] = ()
    """What could not be done, beside what the results say."""


@dataclass(slots=True)
class _Voice:
    """All that one speaker says on one channel of a recording."""

    recording: StoredRecording
    channel: int
    voiced: Sequence[Span]
    """Where a voice is heard on the channel; ms on the call's timeline."""
    name: str
    role: Role
    loudness: bytes
    """Of the channel, as loudness.course gives it."""
    said: list[Said] = field(default_factory=list)
    role_confidence: float | None = None
    role_reason: str = ""


def transcript(
    context: CallContext,
    results: Sequence[RecordingResult],
    now: datetime,
    settings: TranscribeSettings,
    *,
    cached: bool,
) -> CallTranscribed:
    """The transcript of a call of whose recordings, in their order, `results` were heard."""
    event = context.event
    channels: list[ChannelHeard] = []
    problems: list[Problem] = []
    heard: list[Heard] = []
    voices: list[_Voice] = []
    parted = False
    for recording, result in zip(event.recordings, results, strict=True):
        copies = [channel.same_as for channel in result.channels]
        only = only_voiced(copies, [bool(channel.voiced) for channel in result.channels])
        turns = None if only is None else result.channels[only].turns
        who = speakers(event.call, recording, copies, only, turns)
        problems += [it for it in who.problems if it[0] is not DegradationKind.NO_ROLES]
        these: list[_Voice] = []
        for number, channel in enumerate(result.channels):
            if channel.heard is None:
                continue
            heard.append(channel.heard)
            problems += [(it.kind, it.reason) for it in channel.heard.degradations]
            if who.shared and channel.turns is None and channel.heard.segments:
                why = channel.undivided or context.parting.why_none
                problems.append(
                    (
                        DegradationKind.NO_DIARIZATION,
                        f"recording {recording.recording_id}: one channel for all parties, and "
                        f"their voices are not parted: {why}",
                    )
                )
            if who.shared and only not in (None, number):
                continue  # nobody is on it
            parted |= who.shared and channel.turns is not None
            these += _voices(recording, number, who, channel, settings)
        problems += _tell_roles(these, who, context)
        told = {} if who.shared else {voice.channel: voice.role for voice in these}
        channels += [
            _channel(recording, number, told.get(number, who.roles[number]), channel)
            for number, channel in enumerate(result.channels)
        ]
        voices += these
    _name(voices)
    holds = joined(
        Span(segment.start_ms, segment.end_ms)
        for segment in event.call.segments
        if segment.kind is SegmentKind.HOLD
    )
    segments = sorted(
        (
            _segment(voice, said, holds, context.vocabulary, settings)
            for voice in voices
            for said in voice.said
        ),
        key=lambda s: (s.start_ms, s.channel, s.recording_id, s.end_ms),
    )
    extents = [
        Span(0, result.duration_ms).shifted(recording.start_offset_ms)
        for recording, result in zip(event.recordings, results, strict=True)
    ]
    spoken, sure = _overall(segments, heard)
    diarizer = context.parting.diarizer
    vocabulary = _used(context, heard)
    asked, listened = context.asked, any(it.segments for it in heard)
    if (
        vocabulary is not None
        and listened
        and ((asked.terms and not vocabulary.terms) or (asked.prompt and not vocabulary.prompt))
    ):
        problems.append(
            (
                DegradationKind.NO_VOCABULARY,
                f"{context.engine.name} was not told all of vocabulary {vocabulary.name}; "
                "corrections are made all the same",
            )
        )
    return CallTranscribed(
        tenant_id=event.tenant_id,
        call_id=event.call_id,
        revision=event.revision,
        transcribed_at=now,
        call=event.call,
        recordings=event.recordings,
        duration_ms=max(0, *(extent.end_ms for extent in extents)),
        engine=context.engine,
        language=spoken,
        language_confidence=sure,
        segments=[replace(s, segment_id=number) for number, s in enumerate(segments)],
        masked=[m for m in context.masks if within(extents, Span(m.start_ms, m.end_ms))],
        channels=channels,
        degradations=[
            Degradation(kind=kind, reason=reason)
            for kind, reason in dict.fromkeys([*problems, *context.problems])
        ],
        cached=cached,
        speakers=_speakers(voices),
        diarizer=diarizer.identity if parted and diarizer is not None else "",
        vocabulary=vocabulary,
    )


def _channel(
    recording: StoredRecording, number: int, role: Role, channel: ChannelResult
) -> ChannelHeard:
    return ChannelHeard(
        recording_id=recording.recording_id,
        channel=number,
        role=role,
        speech_ms=total_ms(channel.voiced),
        same_as_channel=channel.same_as,
        unheard_ms=None
        if channel.heard is None
        else unheard_ms(
            channel.voiced, [Span(it.start_ms, it.end_ms) for it in channel.heard.segments]
        ),
    )


def _voices(
    recording: StoredRecording,
    number: int,
    who: Speakers,
    channel: ChannelResult,
    settings: TranscribeSettings,
) -> list[_Voice]:
    """Who is heard on a channel, by first appearance."""
    assert channel.heard is not None
    found = written(channel.heard, settings.chinese).segments
    voiced = [span.shifted(recording.start_offset_ms) for span in channel.voiced]
    if not who.shared or channel.turns is None:
        # Voices of whom nothing is known are numbered over all recordings of the call.
        name = "" if who.shared else who.names[number]
        voice = _Voice(recording, number, voiced, name, who.roles[number], channel.loudness)
        voice.said = [Said(0, segment, False) for segment in found]
        return [voice]
    voices: dict[int, _Voice] = {}
    for said in attribute(found, channel.turns):
        if said.speaker not in voices:
            voices[said.speaker] = _Voice(
                recording, number, voiced, "", Role.UNKNOWN, channel.loudness
            )
        voices[said.speaker].said.append(said)
    return list(voices.values())


def _tell_roles(voices: Sequence[_Voice], who: Speakers, context: CallContext) -> list[Problem]:
    """Tells the roles of a recording's voices where the platform names none; says whose are not."""
    unnamed = [it for it in who.problems if it[0] is DegradationKind.NO_ROLES]
    said = [voice for voice in voices if voice.said]
    if len(said) < 2 or any(voice.role is not Role.UNKNOWN for voice in voices):
        return unnamed
    spoken = [
        [
            Utterance(
                *Span(it.start_ms, it.end_ms).shifted(voice.recording.start_offset_ms), it.text
            )
            for it in (each.segment for each in voice.said)
        ]
        for voice in said
    ]
    told = context.roles.tell(spoken, context.event.call)
    for voice, its in zip(said, told, strict=True):
        voice.role_reason = its.reason
        if its.role is not Role.UNKNOWN:
            voice.role, voice.role_confidence = its.role, its.confidence
            voice.name = ""
    if not (unknown := sum(its.role is Role.UNKNOWN for its in told)):
        return []
    # The reasons quote the call: they stay with the speakers.
    where = f"recording {said[0].recording.recording_id}"
    left = f"{where}: of {len(said)} voices {unknown} cannot be told to be anybody"
    return [*unnamed, (DegradationKind.NO_ROLES, left)]


def _name(voices: Iterable[_Voice]) -> None:
    """Names for those that have none: by role, or by number."""
    seen: Counter[tuple[str, Role]] = Counter()
    unknown = 0
    for voice in voices:
        if voice.name:
            continue
        if voice.role is Role.UNKNOWN:
            voice.name = f"speaker_{unknown}"
            unknown += 1
            continue
        key = voice.recording.recording_id, voice.role
        seen[key] += 1
        voice.name = voice.role.lower() + (f"_{seen[key]}" if seen[key] > 1 else "")


def _segment(
    voice: _Voice,
    said: Said,
    holds: Sequence[Span],
    vocabulary: Vocabulary | None,
    settings: TranscribeSettings,
) -> Segment:
    """What was said, on the call's timeline; `segment_id` is set once all are known."""
    offset_ms = voice.recording.start_offset_ms
    corrected = Corrected(said.segment)
    if vocabulary is not None:
        corrected = vocabulary.corrected(said.segment)
    found = corrected.segment
    local = Span(found.start_ms, found.end_ms)
    span = local.shifted(offset_ms)
    words = timed(found.text, found.words, local)
    return Segment(
        segment_id=0,
        recording_id=voice.recording.recording_id,
        channel=voice.channel,
        speaker=voice.name,
        role=voice.role,
        start_ms=span.start_ms,
        end_ms=span.end_ms,
        text=found.text,
        language=found.language,
        confidence=None if found.confidence is None else round(found.confidence, 4),
        flags=flags(said.segment, span, holds, settings.trust, voice.voiced),
        words=words.texts,
        word_start_ms=[at + offset_ms for at in words.start_ms],
        word_end_ms=[at + offset_ms for at in words.end_ms],
        word_confidence=words.confidence,
        words_interpolated=words.interpolated or corrected.spread,
        overlapped=said.overlapped,
        emotion=found.emotion,
        sounds=list(found.sounds),
        corrections=list(corrected.corrections),
        loudness_dbfs=loudness.over(voice.loudness, local),
    )


def _speakers(voices: Iterable[_Voice]) -> list[Speaker]:
    """One for each name; who is heard in several recordings under one name is one."""
    named: dict[str, Speaker] = {}
    for voice in voices:
        spoken = sum(it.segment.end_ms - it.segment.start_ms for it in voice.said)
        if (known := named.get(voice.name)) is not None:
            named[voice.name] = replace(known, speech_ms=known.speech_ms + spoken)
            continue
        named[voice.name] = Speaker(
            name=voice.name,
            role=voice.role,
            role_confidence=voice.role_confidence,
            role_reason=voice.role_reason,
            speech_ms=spoken,
        )
    return list(named.values())


def _used(context: CallContext, heard: Sequence[Heard]) -> VocabularyUsed | None:
    if (vocabulary := context.vocabulary) is None:
        return None
    return VocabularyUsed(
        name=vocabulary.name,
        version=vocabulary.version,
        terms=list(dict.fromkeys(term for found in heard for term in found.terms)),
        prompt=next((found.prompt for found in heard if found.prompt), ""),
    )


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
