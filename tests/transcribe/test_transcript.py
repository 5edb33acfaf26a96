"""Voices parted, words corrected, characters as asked for: what is made of what is heard."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.checks import problem_with
from schemas.events import CallRecorded, CallTranscribed, DegradationKind, Participant, Queue, Role
from schemas.events import Engine as Identity
from services.runtime.objects import DirectoryObjects
from services.transcribe.choice import Chosen
from services.transcribe.diarizer import Parting, Turn, Turns
from services.transcribe.engine import NOTHING_KNOWN, Asked, Heard, HeardSegment, HeardWord, Samples
from services.transcribe.settings import TranscribeSettings
from services.transcribe.spans import Span
from services.transcribe.transcriber import Transcriber
from services.transcribe.vad import Vad
from services.transcribe.vocabulary import Vocabularies, load_vocabularies
from tests.transcribe.fake_engine import FakeEngine
from tests.transcribe.sounds import recorded, silence, speech, stored, wav

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)


@dataclass
class TwoVoices:
    """A diarizer that believes the first so many ms to be one's and all the rest another's."""

    border_ms: int = 2_000
    identity: str = "halves 1"
    fails: bool = False
    asked: list[int | None] = field(default_factory=list)
    gave_way: list[bool] = field(default_factory=list)

    def diarize(
        self,
        audio: Samples,
        speech: Sequence[Span],
        parties: int | None = None,
        *,
        replay: bool = False,
    ) -> Turns:
        self.asked.append(parties)
        self.gave_way.append(replay)
        if self.fails:
            raise RuntimeError("CUDA error: device-side assert triggered")
        length_ms = audio.size // 16
        turns = (Turn(0, 0, self.border_ms), Turn(1, self.border_ms, length_ms))
        return Turns(turns=turns, exclusive=turns)


@dataclass
class Script:
    """An engine that hears these words, one each half second, as one segment."""

    words: str
    language: str = "en"
    takes_terms: bool = True
    languages: Collection[str] | None = None
    calls: int = 0
    asked: Asked | None = None

    @property
    def identity(self) -> Identity:
        return Identity(name="script", version="1", model="m")

    def transcribe(
        self, audio: Samples, spans: Sequence[Span], asked: Asked = NOTHING_KNOWN
    ) -> Heard:
        self.calls += 1
        self.asked = asked
        words = tuple(
            HeardWord(text=word, start_ms=500 * n, end_ms=500 * n + 400, confidence=0.5)
            for n, word in enumerate(self.words.split())
        )
        segment = HeardSegment(
            text=self.words, start_ms=0, end_ms=500 * len(words), language=self.language,
            confidence=0.5, words=words,
        )  # fmt: skip
        terms = asked.terms if self.takes_terms else ()
        prompt = asked.prompt if self.takes_terms else ""
        return Heard(segments=(segment,), language=self.language, terms=terms, prompt=prompt)


@pytest.fixture
def objects(tmp_path: Path) -> DirectoryObjects:
    return DirectoryObjects(tmp_path / "objects")


def people(*roles: Role) -> list[Participant]:
    return [Participant(participant_id=str(n), role=role) for n, role in enumerate(roles)]


BOTH = people(Role.AGENT, Role.CUSTOMER)


def mono(objects: DirectoryObjects, **call: Any) -> CallRecorded:
    audio = np.concatenate([speech(0, seconds=4.4), silence(0.2)])
    return recorded(stored(objects, "r", wav([audio]), 1), **{"participants": BOTH, **call})


def heard(
    objects: DirectoryObjects,
    event: CallRecorded,
    engine: Script | FakeEngine,
    diarizer: TwoVoices | None = None,
    vocabularies: Vocabularies | None = None,
    *,
    replay: bool = False,
    **settings: Any,
) -> CallTranscribed:
    by = Transcriber(
        TranscribeSettings.model_validate(settings), objects, Chosen(engine, "asked for"), Vad(),
        Parting(diarizer, "none is configured"), vocabularies or Vocabularies(),
    )  # fmt: skip
    transcript = by.transcribe(event, NOW, replay=replay)
    assert transcript is not None
    assert problem_with(transcript) is None
    return transcript


def kinds(transcript: CallTranscribed) -> list[DegradationKind]:
    return [degradation.kind for degradation in transcript.degradations]


def test_voices_of_one_channel_become_speakers(objects: DirectoryObjects) -> None:
    diarizer = TwoVoices()
    transcript = heard(
        objects, mono(objects), Script("one two three four five six seven"), diarizer
    )
    assert [(s.speaker, s.text) for s in transcript.segments] == [
        ("speaker_0", "one two three four"),
        ("speaker_1", "five six seven"),
    ]
    assert [s.name for s in transcript.speakers] == ["speaker_0", "speaker_1"]
    assert all(s.speech_ms > 0 for s in transcript.speakers)
    assert transcript.diarizer == "halves 1"
    assert diarizer.asked == [2]
    assert DegradationKind.NO_DIARIZATION not in kinds(transcript)


def test_a_failed_diarizer_costs_no_word_and_is_said_and_asked_again(
    objects: DirectoryObjects,
) -> None:
    event, engine = mono(objects), Script("one two three")
    broken = heard(objects, event, engine, TwoVoices(fails=True))
    assert [(s.speaker, s.text) for s in broken.segments] == [("speaker_0", "one two three")]
    [problem] = [d for d in broken.degradations if d.kind is DegradationKind.NO_DIARIZATION]
    assert "halves 1 failed (RuntimeError: CUDA error" in problem.reason
    assert broken.diarizer == ""
    whole = heard(objects, event, engine, TwoVoices(border_ms=800))
    assert len(whole.segments) == 2
    assert not whole.cached
    again = heard(objects, event, engine, TwoVoices(border_ms=800))
    assert again.cached
    assert replace(again, cached=False) == whole


@dataclass
class OneVoice(TwoVoices):
    """A diarizer that hears one voice in all of it, and a word of another for `border_ms`."""

    def diarize(
        self,
        audio: Samples,
        speech: Sequence[Span],
        parties: int | None = None,
        *,
        replay: bool = False,
    ) -> Turns:
        self.asked.append(parties)
        length_ms = audio.size // 16
        border_ms = length_ms - self.border_ms
        turns = [Turn(0, 0, border_ms), Turn(1, border_ms, length_ms)]
        told = tuple(turn for turn in turns if turn.span.length_ms)
        return Turns(turns=told, exclusive=told)


def one_sided(objects: DirectoryObjects, side: int = 0, **call: Any) -> CallRecorded:
    """A file of two channels, of which one carries nothing; the left is said to be the agent's."""
    audio = [speech(0, seconds=4.4), silence(4.4)]
    data = wav(audio if side == 0 else audio[::-1])
    roles = call.pop("channel_roles", [Role.AGENT, Role.CUSTOMER])
    described = stored(objects, "r", data, 2, channel_roles=roles)
    return recorded(described, **{"participants": BOTH, **call})


WORDS = "one two three four five six seven"


@pytest.mark.parametrize("roles", [[Role.AGENT, Role.CUSTOMER], []], ids=["named", "unnamed"])
def test_a_mono_call_on_one_side_of_a_stereo_file_is_parted(
    objects: DirectoryObjects, roles: list[Role]
) -> None:
    diarizer = TwoVoices()
    event = one_sided(objects, channel_roles=roles)
    transcript = heard(objects, event, Script(WORDS), diarizer)
    assert [(s.channel, s.speaker) for s in transcript.segments] == [
        (0, "speaker_0"), (0, "speaker_1")
    ]  # fmt: skip
    assert [s.name for s in transcript.speakers] == ["speaker_0", "speaker_1"]
    assert {channel.role for channel in transcript.channels} == {Role.UNKNOWN}
    assert transcript.diarizer == "halves 1"
    assert diarizer.asked == [None], "how many speak on it nobody knows"
    assert DegradationKind.NO_DIARIZATION not in kinds(transcript)
    again = heard(objects, event, Script(WORDS), TwoVoices())
    assert again.cached
    assert again.segments == transcript.segments


@pytest.mark.parametrize("border_ms", [0, 300], ids=["one voice", "a cough beside it"])
def test_a_party_that_never_speaks_makes_no_second_voice(
    objects: DirectoryObjects, border_ms: int
) -> None:
    """Voicemail: the customer speaks, on a channel of their own, and the agent's says nothing."""
    event = one_sided(objects, side=1)
    transcript = heard(objects, event, Script(WORDS), OneVoice(border_ms))
    assert [(s.channel, s.speaker, s.role) for s in transcript.segments] == [
        (1, "customer", Role.CUSTOMER)
    ]
    assert [channel.role for channel in transcript.channels] == [Role.AGENT, Role.CUSTOMER]
    assert transcript.diarizer == ""
    assert kinds(transcript) == []


def test_one_person_alone_is_never_parted(objects: DirectoryObjects) -> None:
    alone = one_sided(objects, side=1, participants=people(Role.CUSTOMER, Role.IVR))
    diarizer = TwoVoices()
    transcript = heard(objects, alone, Script(WORDS), diarizer)
    assert {s.speaker for s in transcript.segments} == {"customer"}
    assert diarizer.asked == []


def test_without_a_diarizer_the_platforms_word_counts(objects: DirectoryObjects) -> None:
    named = heard(objects, one_sided(objects, side=1), Script(WORDS))
    assert {s.speaker for s in named.segments} == {"customer"}
    assert kinds(named) == []
    unnamed = heard(objects, one_sided(objects, channel_roles=[]), Script(WORDS))
    assert {s.speaker for s in unnamed.segments} == {"speaker_0"}
    assert DegradationKind.NO_DIARIZATION in kinds(unnamed)


def test_a_replay_gives_way_to_live_calls_in_the_diarizer_too(objects: DirectoryObjects) -> None:
    diarizer, event = TwoVoices(), mono(objects)
    for replay in (False, True):
        heard(objects, event, Script("one"), diarizer, cache=False, replay=replay)
    assert diarizer.gave_way == [False, True]


def test_no_diarizer_is_said_with_its_reason(objects: DirectoryObjects) -> None:
    transcript = heard(objects, mono(objects), Script("one two"))
    [problem] = transcript.degradations
    assert problem.kind is DegradationKind.NO_DIARIZATION
    assert problem.reason.endswith("not parted: none is configured")


@pytest.mark.parametrize("who", ["two channels", "one party", "a role for the channel"])
def test_voices_that_are_known_are_not_parted(objects: DirectoryObjects, who: str) -> None:
    diarizer = TwoVoices(fails=True)
    if who == "two channels":
        both = wav([speech(0), speech(1, 4.4)])
        event = recorded(stored(objects, "r", both, 2), participants=BOTH)
    elif who == "one party":
        event = mono(objects, participants=people(Role.CUSTOMER))
    else:
        event = mono(objects)
        [stored_] = event.recordings
        event = replace(event, recordings=[replace(stored_, channel_roles=[Role.CUSTOMER])])
    transcript = heard(objects, event, Script("one two three"), diarizer)
    assert diarizer.asked == []
    assert transcript.diarizer == ""
    assert DegradationKind.NO_DIARIZATION not in kinds(transcript)


def test_another_diarizer_or_number_of_parties_is_another_result(objects: DirectoryObjects) -> None:
    event, engine = mono(objects), Script("one two three four five six")
    heard(objects, event, engine, TwoVoices())
    assert heard(objects, event, engine, TwoVoices()).cached
    assert not heard(objects, event, engine, TwoVoices(identity="halves 2")).cached
    assert not heard(objects, event, engine).cached
    three = mono(objects, participants=[*BOTH, *people(Role.SUPERVISOR)])
    assert not heard(objects, three, engine, TwoVoices()).cached


VOCABULARY = """
terms: [Chromecast, Ultra]
prompt: A call about a Chromecast.
corrections:
  - heard: [chrome cast, crome cast]
    corrected: Chromecast
"""


def vocabularies(folder: Path, text: str = VOCABULARY) -> Vocabularies:
    folder.mkdir(exist_ok=True)
    (folder / "default.yaml").write_text(text)
    return load_vocabularies(folder)


def test_words_are_corrected_and_what_the_engine_was_told_is_told(
    objects: DirectoryObjects, tmp_path: Path
) -> None:
    known = vocabularies(tmp_path / "words")
    engine = Script("i want a chrome cast please")
    transcript = heard(objects, mono(objects), engine, None, known)
    [segment] = transcript.segments
    assert segment.text == "i want a Chromecast please"
    assert segment.words == ["i", "want", "a", "Chromecast", "please"]
    assert [(c.word, c.heard, c.corrected) for c in segment.corrections] == [
        (3, "chrome cast", "Chromecast")
    ]
    assert transcript.vocabulary is not None
    assert transcript.vocabulary.terms == ["Chromecast", "Ultra"]
    assert engine.asked is not None
    assert engine.asked.prompt == "A call about a Chromecast."
    assert DegradationKind.NO_VOCABULARY not in kinds(transcript)


def test_a_new_correction_costs_no_engine_call_a_new_term_does(
    objects: DirectoryObjects, tmp_path: Path
) -> None:
    event, engine = mono(objects), Script("i want a crome cast")
    heard(objects, event, engine, None, vocabularies(tmp_path / "words"))
    other = vocabularies(tmp_path / "words", VOCABULARY.replace("chrome cast, crome", "crome"))
    transcript = heard(objects, event, engine, None, other)
    assert transcript.cached
    assert transcript.segments[0].text == "i want a Chromecast"
    more = vocabularies(tmp_path / "words", VOCABULARY.replace("Ultra", "Ultra, Hub"))
    assert not heard(objects, event, engine, None, more).cached
    assert engine.calls == 2


def test_an_engine_that_takes_no_terms_is_told_of(
    objects: DirectoryObjects, tmp_path: Path
) -> None:
    known = vocabularies(tmp_path / "words")
    engine = Script("a crome cast", takes_terms=False)
    transcript = heard(objects, mono(objects), engine, TwoVoices(), known)
    assert kinds(transcript) == [DegradationKind.NO_VOCABULARY]
    assert transcript.segments[0].text == "a Chromecast"


def test_the_languages_of_a_queue_are_believed_where_the_platform_names_none(
    objects: DirectoryObjects,
) -> None:
    queues: dict[str, Any] = {"queue_languages": {"sales-cn": ["zh-CN", "en"]}}
    engine = Script("one")
    call: dict[str, Any] = {"queue": Queue(id="q7", name="sales-cn"), "language_hints": []}

    def hints(**changes: Any) -> tuple[str, ...]:
        heard(objects, mono(objects, **{**call, **changes}), engine, **queues)
        assert engine.asked is not None
        return engine.asked.hints

    assert hints() == ("zh", "en")
    assert hints(language_hints=["de"]) == ("de",)
    assert hints(queue=None) == ()


def test_chinese_is_written_as_asked(objects: DirectoryObjects) -> None:
    engine = Script("头发 干净", language="zh")
    transcript = heard(objects, mono(objects), engine, TwoVoices(), chinese="traditional")
    assert transcript.segments[0].text == "頭髮 乾淨"
    assert transcript.segments[0].words == ["頭髮", "乾淨"]


AGENT = "good morning thank you for calling acme my name is dana how can i help you today"
CUSTOMER = "hello i have a problem with my bill i was charged twice and i want my money back please"


def test_roles_of_parted_voices_are_told_with_how_sure_and_why(objects: DirectoryObjects) -> None:
    engine = Script(f"{AGENT} {CUSTOMER}")
    border_ms = 500 * len(AGENT.split())
    transcript = heard(objects, mono(objects), engine, TwoVoices(border_ms))
    assert [(s.speaker, s.role) for s in transcript.segments] == [
        ("agent", Role.AGENT), ("customer", Role.CUSTOMER)
    ]  # fmt: skip
    for speaker in transcript.speakers:
        assert speaker.role_confidence is not None
        assert 0.8 <= speaker.role_confidence <= 1.0
        assert speaker.role_reason
    assert transcript.degradations == []


def test_roles_that_cannot_be_told_are_unknown_and_said(objects: DirectoryObjects) -> None:
    transcript = heard(objects, mono(objects), Script("one two three four five six"), TwoVoices())
    assert {(s.role, s.role_confidence) for s in transcript.speakers} == {(Role.UNKNOWN, None)}
    assert [s.speaker for s in transcript.segments] == ["speaker_0", "speaker_1"]
    [problem] = transcript.degradations
    assert problem.kind is DegradationKind.NO_ROLES
    assert problem.reason == "recording r: of 2 voices 2 cannot be told to be anybody"


@dataclass
class ByChannel(Script):
    """Hears something else on each channel."""

    texts: tuple[str, ...] = (AGENT, CUSTOMER)

    def transcribe(
        self, audio: Samples, spans: Sequence[Span], asked: Asked = NOTHING_KNOWN
    ) -> Heard:
        self.words = self.texts[self.calls % len(self.texts)]
        return super().transcribe(audio, spans, asked)


def test_channels_that_nobody_named_get_their_roles_too(objects: DirectoryObjects) -> None:
    data = wav([speech(0, 0.0, 3.0), speech(1, 4.4, 3.0)])
    event = recorded(stored(objects, "r", data, 2, channel_roles=[]), participants=BOTH)
    transcript = heard(objects, event, ByChannel(""))
    assert {(s.channel, s.speaker) for s in transcript.segments} == {(0, "agent"), (1, "customer")}
    assert transcript.degradations == []
    unknown = heard(objects, event, ByChannel("", texts=("one two", "three four")), cache=False)
    assert {s.speaker for s in unknown.segments} == {"channel_0", "channel_1"}
    assert kinds(unknown) == [DegradationKind.NO_ROLES] * 2


def test_unknown_voices_of_several_recordings_are_not_one(objects: DirectoryObjects) -> None:
    first = stored(objects, "a", wav([np.concatenate([speech(0, seconds=4.4), silence(0.2)])]), 1)
    second = stored(objects, "b", wav([speech(0, 0.4, 4.0)]), 1, start_offset_ms=9_000)
    event = recorded(first, second, participants=BOTH)
    transcript = heard(objects, event, Script("one two three four five six"), TwoVoices())
    assert [s.name for s in transcript.speakers] == [f"speaker_{number}" for number in range(4)]
    alone = heard(objects, event, Script("one two three"))
    assert [(s.recording_id, s.speaker) for s in alone.segments] == [
        ("a", "speaker_0"), ("b", "speaker_1")
    ]  # fmt: skip


def test_a_diarizer_changes_nothing_where_everybody_has_a_channel(
    objects: DirectoryObjects,
) -> None:
    event = recorded(
        stored(objects, "r", wav([speech(0), speech(1, 4.4, 4.5)]), 2), participants=BOTH
    )
    engine = Script("one two three")
    heard(objects, event, engine)
    assert heard(objects, event, engine, TwoVoices()).cached
    copies = recorded(stored(objects, "d", wav([speech(0), speech(0)]), 2), participants=BOTH)
    heard(objects, copies, engine)
    parted = heard(objects, copies, engine, TwoVoices())
    assert not parted.cached
    assert {s.speaker for s in parted.segments} == {"speaker_0"}
    assert heard(objects, copies, engine, TwoVoices()).cached
    assert heard(objects, copies, engine).cached


def test_a_language_beyond_the_engine_is_not_remembered_as_heard(
    objects: DirectoryObjects,
) -> None:
    event = mono(objects)
    deaf, able = Script("one", languages=("en",)), Script("one", languages=("en", "zh"))
    assert heard(objects, event, deaf, TwoVoices(), language="zh").segments == []
    assert heard(objects, event, able, TwoVoices(), language="zh").segments


def test_a_call_in_which_nobody_speaks_lacks_no_vocabulary(
    objects: DirectoryObjects, tmp_path: Path
) -> None:
    known = vocabularies(tmp_path / "words")
    event = recorded(stored(objects, "r", wav([silence(5.0)]), 1), participants=BOTH)
    assert heard(objects, event, Script("one"), TwoVoices(), known).degradations == []


def test_a_prompt_that_the_engine_was_not_told_is_said(
    objects: DirectoryObjects, tmp_path: Path
) -> None:
    known = vocabularies(tmp_path / "words", "prompt: A call about a Chromecast.\n")
    engine = Script("one two", takes_terms=False)
    event = mono(objects, participants=people(Role.CUSTOMER))
    assert kinds(heard(objects, event, engine, None, known)) == [DegradationKind.NO_VOCABULARY]


def test_a_channel_has_the_role_that_its_voice_was_told_to_have(objects: DirectoryObjects) -> None:
    data = wav([speech(0, 0.0, 3.0), speech(1, 4.4, 3.0)])
    event = recorded(stored(objects, "r", data, 2, channel_roles=[]), participants=BOTH)
    transcript = heard(objects, event, ByChannel(""))
    assert [channel.role for channel in transcript.channels] == [Role.AGENT, Role.CUSTOMER]
