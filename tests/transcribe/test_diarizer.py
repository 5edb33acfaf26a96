"""What turns are, and how they are joined with what was heard."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Sound, VoiceEmotion
from services.transcribe.diarizer import Said, Turn, Turns, arranged, attribute
from services.transcribe.engine import HeardSegment, HeardWord
from services.transcribe.spans import Span


def turns(*exclusive: tuple[int, int, int], beside: tuple[tuple[int, int, int], ...] = ()) -> Turns:
    return arranged([Turn(*it) for it in (*exclusive, *beside)], [Turn(*it) for it in exclusive])


def segment(*words: tuple[str, int, int], space: str = " ", start_ms: int = 0) -> HeardSegment:
    return HeardSegment(
        text=space.join(text for text, _, _ in words),
        start_ms=start_ms,
        end_ms=max(end for _, _, end in words),
        words=tuple(HeardWord(text=text, start_ms=a, end_ms=b) for text, a, b in words),
    )


def told(said: list[Said]) -> list[tuple[int, str]]:
    return [(part.speaker, part.segment.text) for part in said]


def test_speakers_are_numbered_by_first_appearance_and_turns_are_in_order() -> None:
    found = arranged(
        [Turn(7, 900, 1_500), Turn(3, 0, 400), Turn(3, 400, 1_000), Turn(7, 2_000, 2_000)],
        [Turn(7, 900, 1_500), Turn(3, 0, 500), Turn(3, 500, 950)],
    )
    assert found.turns == (Turn(0, 0, 1_000), Turn(1, 900, 1_500))
    assert found.exclusive == (Turn(0, 0, 950), Turn(1, 950, 1_500))
    assert found.overlapped == [Span(900, 1_000)]
    assert found.speakers == 2
    assert arranged([], []) == Turns()
    assert Turns().speakers == 0


any_turns = st.lists(
    st.builds(
        lambda speaker, start, length: Turn(speaker, start, start + length),
        st.integers(0, 3),
        st.integers(0, 3_000),
        st.integers(0, 1_500),
    ),
    max_size=8,
)


@given(any_turns, any_turns)
def test_arranged_turns_keep_what_they_promise(every: list[Turn], alone: list[Turn]) -> None:
    found = arranged(every, alone)
    for speaker in range(found.speakers):
        own = [turn for turn in found.turns if turn.speaker == speaker]
        assert all(a.end_ms < b.start_ms for a, b in pairwise(own))
    assert all(a.end_ms <= b.start_ms for a, b in pairwise(found.exclusive))
    seen = [turn.speaker for turn in (*found.turns, *found.exclusive)]
    assert list(dict.fromkeys(seen)) == list(range(found.speakers))
    for at in range(0, 4_600, 50):
        speaking = {turn.speaker for turn in found.turns if turn.start_ms <= at < turn.end_ms}
        overlapped = any(span.start_ms <= at < span.end_ms for span in found.overlapped)
        assert overlapped == (len(speaking) > 1)
        of_given = {turn.speaker for turn in every if turn.start_ms <= at < turn.end_ms}
        assert len(speaking) == len(of_given)


# Text of words with and without spaces between them, times that may be missing or wrong.
some_words = st.lists(
    st.builds(
        lambda text, when, sure: HeardWord(
            text=text,
            start_ms=None if when is None else when[0],
            end_ms=None if when is None else sum(when),
            confidence=sure,
        ),
        st.text("ab好的？.1 ", max_size=4),
        st.none() | st.tuples(st.integers(-100, 4_000), st.integers(0, 900)),
        st.none() | st.floats(0, 1),
    ),
    max_size=10,
)


@given(
    some_words,
    st.sampled_from(["", " ", "  "]),
    st.sampled_from(["spelled", "other", "no words"]),
    any_turns,
    any_turns,
)
def test_no_word_is_lost_or_doubled(
    words: list[HeardWord], space: str, kind: str, every: list[Turn], alone: list[Turn]
) -> None:
    text = space.join(word.text for word in words).strip()
    heard = HeardSegment(
        text=text + ("x" if kind == "other" else ""),
        start_ms=0,
        end_ms=4_000,
        language="zh",
        confidence=0.5,
        no_speech=0.25,
        logprob=-0.5,
        words=None if kind == "no words" else tuple(words),
        emotion=VoiceEmotion.ANGRY,
        sounds=(Sound.COUGH,),
    )
    found = arranged(every, alone)
    said = attribute([heard], found)
    parts = [part.segment for part in said]
    assert "".join("".join(part.text.split()) for part in parts) == "".join(heard.text.split())
    if kind == "no words":
        assert all(part.words is None for part in parts)
    else:
        assert tuple(word for part in parts for word in part.words or ()) == heard.words
    if kind == "other":
        assert parts == [heard]
    assert parts[0].start_ms == 0
    assert parts[-1].end_ms == 4_000
    assert all(0 <= part.start_ms <= part.end_ms <= 4_000 for part in parts)
    assert all(a.start_ms <= b.start_ms for a, b in pairwise(parts))
    assert all(a.speaker != b.speaker for a, b in pairwise(said))
    assert all(0 <= part.speaker < max(1, found.speakers) for part in said)
    for part in parts:
        assert part.text == part.text.strip()
        assert (part.language, part.no_speech, part.logprob) == ("zh", 0.25, -0.5)
        assert (part.emotion, part.sounds) == (VoiceEmotion.ANGRY, (Sound.COUGH,))
        assert part.confidence is not None
    if len(parts) > 1:
        # Cut at white space or between words: what is left of it is the text as it stood.
        at = 0
        for part in parts:
            assert heard.text[at:].strip().startswith(part.text)
            at = heard.text.index(part.text, at) + len(part.text)


def test_a_segment_is_divided_where_its_words_change_speaker() -> None:
    heard = segment(
        ("How", 0, 200), ("are", 200, 400), ("you?", 400, 700), ("Fine,", 900, 1_200),
        ("thanks.", 1_200, 1_700),
    )  # fmt: skip
    said = attribute([heard], turns((0, 0, 800), (1, 850, 1_700)))
    assert told(said) == [(0, "How are you?"), (1, "Fine, thanks.")]
    assert [(it.segment.start_ms, it.segment.end_ms) for it in said] == [(0, 700), (900, 1_700)]
    assert not any(it.overlapped for it in said)


def test_mandarin_is_divided_between_its_characters() -> None:
    heard = segment(
        ("您", 0, 300), ("好", 300, 600), ("，", 600, 600), ("你", 700, 1_000),
        ("好", 1_000, 1_300), space="",
    )  # fmt: skip
    said = attribute([heard], turns((0, 0, 650), (1, 650, 1_300)))
    assert told(said) == [(0, "您好，"), (1, "你好")]


@pytest.mark.parametrize(
    ("turn_ms", "speakers"), [(200, [0]), (400, [0, 1, 0])], ids=["weak", "strong"]
)
def test_a_stray_word_changes_speaker_on_strong_evidence_only(
    turn_ms: int, speakers: list[int]
) -> None:
    heard = segment(
        ("so", 0, 400), ("we", 400, 800), ("right", 800, 1_200), ("went", 1_200, 1_600),
        ("home", 1_600, 2_000),
    )  # fmt: skip
    found = turns((0, 0, 800), (1, 800, 800 + turn_ms), (0, 800 + turn_ms, 2_000))
    assert [part.speaker for part in attribute([heard], found)] == speakers


def test_a_change_falls_on_the_end_of_a_sentence_that_is_near() -> None:
    # The border of the turns lies 100 ms into the next sentence.
    heard = segment(
        ("Thank", 0, 300), ("you.", 300, 600), ("Oh", 600, 700), ("dear", 700, 1_100),
        ("me", 1_100, 1_500),
    )  # fmt: skip
    said = attribute([heard], turns((0, 0, 700), (1, 700, 1_500)))
    assert told(said) == [(0, "Thank you."), (1, "Oh dear me")]


def test_a_word_outside_all_turns_belongs_to_the_nearest() -> None:
    found = turns((0, 0, 1_000), (1, 4_000, 5_000))
    early, late = segment(("hm", 1_200, 1_400)), segment(("hm", 3_500, 3_700), start_ms=3_500)
    assert [part.speaker for part in attribute([early, late], found)] == [0, 1]


def test_words_without_times_go_with_their_neighbours() -> None:
    heard = HeardSegment(
        text="card 1234 yes indeed",
        start_ms=0,
        end_ms=2_400,
        words=(
            HeardWord(text="card", start_ms=0, end_ms=400),
            HeardWord(text="1234"),
            HeardWord(text="yes", start_ms=1_300, end_ms=1_700),
            HeardWord(text="indeed", start_ms=1_700, end_ms=2_400),
        ),
    )
    said = attribute([heard], turns((0, 0, 1_200), (1, 1_250, 2_400)))
    assert told(said) == [(0, "card 1234"), (1, "yes indeed")]


def test_text_without_words_is_divided_over_long_clear_turns_only() -> None:
    text = "I would like to return a jacket that is too big. Certainly, what is your order number?"
    heard = HeardSegment(text=text, start_ms=0, end_ms=8_000)
    # In proportion to its text the first sentence ends at 4.5 s.
    divided = attribute([heard], turns((0, 0, 4_000), (1, 4_000, 8_000)))
    assert told(divided) == [
        (0, "I would like to return a jacket that is too big."),
        (1, "Certainly, what is your order number?"),
    ]
    assert [it.segment.words for it in divided] == [None, None]
    whole = attribute([heard], turns((0, 0, 3_000), (1, 3_000, 3_500), (0, 3_500, 8_000)))
    assert told(whole) == [(0, text)]


def test_overlap_is_told_where_it_lasts() -> None:
    heard = segment(("yes", 0, 1_000), ("no", 1_000, 2_000))
    found = turns((0, 0, 1_000), (1, 1_000, 2_000), beside=((1, 700, 1_000), (0, 1_000, 1_050)))
    said = attribute([heard], found)
    assert [(it.speaker, it.overlapped) for it in said] == [(0, True), (1, False)]


def test_a_part_is_as_sure_as_its_words() -> None:
    heard = HeardSegment(
        text="yes no",
        start_ms=0,
        end_ms=2_000,
        confidence=0.6,
        words=(
            HeardWord(text="yes", start_ms=0, end_ms=1_000, confidence=0.9),
            HeardWord(text="no", start_ms=1_000, end_ms=2_000, confidence=0.3),
        ),
    )
    said = attribute([heard], turns((0, 0, 1_000), (1, 1_000, 2_000)))
    assert [it.segment.confidence for it in said] == [0.9, 0.3]


def test_without_turns_everybody_is_one_speaker() -> None:
    heard = segment(("hello", 0, 400))
    assert attribute([heard], Turns()) == [Said(0, heard, False)]
    assert attribute([], turns((0, 0, 1_000))) == []


def test_parts_are_in_order_of_start() -> None:
    first = segment(("a", 0, 1_000), ("b", 3_000, 4_000))
    second = segment(("c", 2_000, 2_500), start_ms=2_000)
    said = attribute([first, second], turns((0, 0, 2_600), (1, 2_900, 4_000)))
    assert told(said) == [(0, "a"), (0, "c"), (1, "b")]
