from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.events import (
    CallEnded,
    CallSegment,
    Direction,
    Participant,
    Platform,
    Role,
    SegmentKind,
    Source,
)
from services.runtime.yaml_file import FileError
from services.transcribe.roles import Roles, RoleSettings, Told, Utterance, load_roles
from tests.transcribe.dialogues import CHINESE, ENGLISH, OTHERS, Dialogue, read

ROLES = load_roles(RoleSettings())
ALL = read(ENGLISH) + read(CHINESE) + read(OTHERS)
EXPECTED = {"A": Role.AGENT, "B": Role.AGENT, "C": Role.CUSTOMER, "D": Role.CUSTOMER}
CALL = CallEnded(
    event_id="1",
    tenant_id="acme",
    call_id="c",
    occurred_at=datetime(2025, 1, 1, tzinfo=UTC),
    published_at=datetime(2025, 1, 1, tzinfo=UTC),
    source=Source(platform=Platform.OTHER),
    started_at=datetime(2025, 1, 1, tzinfo=UTC),
    ended_at=datetime(2025, 1, 1, tzinfo=UTC),
)


def voices_of(dialogue: Dialogue) -> tuple[list[str], list[list[Utterance]]]:
    """Who they are, and what they say at the pace of people."""
    voices: dict[str, list[Utterance]] = {}
    at = 500
    for who, text in dialogue.lines:
        pace_ms = 60 if text.isascii() else 200
        end = at + max(400, pace_ms * len(text))
        voices.setdefault(who, []).append(Utterance(at, end, text))
        at = end + 350
    return list(voices), list(voices.values())


def told_of(dialogue: Dialogue, roles: Roles = ROLES) -> dict[str, Told]:
    who, voices = voices_of(dialogue)
    found = roles.tell(voices, replace(CALL, direction=dialogue.direction))
    return dict(zip(who, found, strict=True))


@pytest.mark.parametrize("dialogue", ALL, ids=lambda it: f"{it.language}-{it.name}")
def test_who_is_who_in_calls_as_they_are_held(dialogue: Dialogue) -> None:
    check(dialogue, told_of(dialogue))


@pytest.mark.parametrize("dialogue", ALL, ids=lambda it: f"{it.language}-{it.name}")
def test_engines_that_write_no_signs_do_as_well(dialogue: Dialogue) -> None:
    bare = [(who, re.sub(r"[^\w\s'-]", "", text).lower()) for who, text in dialogue.lines]
    check(dialogue, told_of(replace(dialogue, lines=tuple(bare))))


def check(dialogue: Dialogue, told: Mapping[str, Told]) -> None:
    if dialogue.unknown:
        assert {it.role for it in told.values()} == {Role.UNKNOWN}, told
        assert all(it.confidence is None and it.reason for it in told.values())
        return
    for who, found in told.items():
        if who == "D" and found.role is Role.UNKNOWN:
            continue  # of a couple, one says little
        assert found.role is EXPECTED.get(who, dialogue.machine), (who, found)
        assert found.confidence is not None
        assert 0.8 <= found.confidence < 1.0
        assert found.reason


def test_there_are_enough_calls_of_each_kind() -> None:
    for language, least in (("en", 12), ("zh", 12)):
        these = [it for it in ALL if it.language == language]
        assert sum(not it.unknown for it in these) >= least
        assert sum(it.unknown for it in these) >= 3
        assert {Direction.INBOUND, Direction.OUTBOUND, Direction.CALLBACK} <= {
            it.direction for it in these
        }


@pytest.mark.parametrize("dialogue", ALL, ids=lambda it: f"{it.language}-{it.name}")
def test_the_order_of_voices_does_not_matter(dialogue: Dialogue) -> None:
    _, voices = voices_of(dialogue)
    call = replace(CALL, direction=dialogue.direction)
    assert ROLES.tell(voices[::-1], call) == ROLES.tell(voices, call)[::-1]


def said(*texts: str, at: int = 0) -> list[Utterance]:
    """Every ten seconds for four."""
    return [
        Utterance(at + 10_000 * n, at + 10_000 * n + 4_000, text) for n, text in enumerate(texts)
    ]


HELP = "How can I help you?"
NEED = "I want to cancel my order."


def test_a_voice_alone_is_told_by_what_it_says() -> None:
    for text, role in ((HELP, Role.AGENT), (NEED, Role.CUSTOMER), ("Yes, okay.", Role.UNKNOWN)):
        assert [it.role for it in ROLES.tell([said(text)], CALL)] == [role]
    assert ROLES.tell([], CALL) == []
    assert ROLES.tell([[], said(" ")], CALL)[1] == Told(Role.UNKNOWN, None, "says nothing")


def test_of_two_one_is_the_agent() -> None:
    told = ROLES.tell([said("Okay."), said(HELP, at=5_000)], CALL)
    assert [it.role for it in told] == [Role.CUSTOMER, Role.AGENT]
    assert told[0].reason == "the other says “How can I help you” (0:05)"
    assert told[1].confidence == told[0].confidence == 0.95


def test_two_who_both_talk_like_agents_are_not_told_apart() -> None:
    told = ROLES.tell([said(HELP), said("How may I help you?", at=5_000)], CALL)
    assert {it.role for it in told} == {Role.UNKNOWN}


def test_hints_alone_tell_nobody() -> None:
    asks = [f"And what about number {n}?" for n in range(8)]
    answers = [f"That one is {n}." for n in range(8)]
    call = replace(CALL, direction=Direction.INBOUND)
    told = ROLES.tell([said(*asks), said(*answers, at=5_000)], call)
    assert [it.role for it in told] == [Role.UNKNOWN] * 2


def test_a_threshold_is_kept() -> None:
    voices = [said("Okay."), said("It takes three to five business days.", at=5_000)]
    lower = load_roles(RoleSettings(threshold=0.7))
    assert [it.role for it in ROLES.tell(voices, CALL)] == [Role.UNKNOWN] * 2
    assert ROLES.tell(voices, CALL)[1].reason.startswith("agent by 0.73 only: says “")
    assert [it.role for it in lower.tell(voices, CALL)] == [Role.CUSTOMER, Role.AGENT]


@pytest.mark.parametrize(
    "text",
    [
        "You said, I want to cancel my order, is that right?",
        "So you're saying my internet is down.",
        "您刚才说，我要退款，对吗",
        "He told me, how can I help you, and hung up.",
        "客服说，请问有什么可以帮您",
        "Thank you for calling back.",
        "I want to make sure.",
    ],
)
def test_the_words_of_others_do_not_count(text: str) -> None:
    assert ROLES.tell([said(text)], CALL)[0].role is Role.UNKNOWN


def test_somebody_elses_words_end_with_the_sentence() -> None:
    told = ROLES.tell([said("You said it is broken. How can I help you with that?")], CALL)
    assert told[0].role is Role.AGENT


def party(role: Role, name: str | None = None, *there: int) -> Participant:
    joined, left = there or (None, None)
    return Participant(
        participant_id=f"{role}{name}{joined}",
        role=role,
        display_name=name,
        joined_ms=joined,
        left_ms=left,
    )


def test_who_gives_a_name_that_the_platform_knows_is_that_person() -> None:
    call = replace(
        CALL, participants=[party(Role.AGENT, "Marta Ruiz"), party(Role.CUSTOMER, "王丽")]
    )
    for texts in (("Okay.", "Hi, this is Marta."), ("你好，我是王丽", "Okay.")):
        told = ROLES.tell([said(texts[0]), said(texts[1], at=5_000)], call)
        assert [it.role for it in told] == [Role.CUSTOMER, Role.AGENT]
    assert "is marta by name" in ROLES.tell([said("This is Marta.")], call)[0].reason
    both = replace(call, participants=[party(Role.AGENT, "Ann"), party(Role.CUSTOMER, "Ann")])
    assert ROLES.tell([said("This is Ann.")], both)[0].role is Role.UNKNOWN


def test_who_speaks_while_no_agent_is_there_is_none() -> None:
    call = replace(
        CALL, participants=[party(Role.AGENT, None, 60_000, 200_000), party(Role.CUSTOMER)]
    )
    told = ROLES.tell([said("Hello? Anybody?", "Hm.", at=10_000), said("Right.", at=90_000)], call)
    assert [it.role for it in told] == [Role.CUSTOMER, Role.AGENT]
    assert told[0].reason == "speaks while no agent is in the call"


def test_of_two_agents_each_is_there_once() -> None:
    agents = [party(Role.AGENT, "x", 0, 100_000), party(Role.AGENT, "y", 100_000, 300_000)]
    call = replace(CALL, participants=[*agents, party(Role.CUSTOMER)])
    voices = [
        said("Yes.", "Yes."),
        said("Well.", "Well.", at=5_000) + said("Well.", "Well.", at=150_000),
        said("So.", "So.", at=155_000),
    ]
    told = ROLES.tell(voices, call)
    assert [it.role for it in told] == [Role.AGENT, Role.CUSTOMER, Role.AGENT]


def test_where_all_are_agents_all_are() -> None:
    call = replace(CALL, participants=[party(Role.AGENT, "x"), party(Role.AGENT, "y")])
    told = ROLES.tell([said("Hi."), said(NEED, at=5_000)], call)
    assert [it.role for it in told] == [Role.AGENT] * 2


def test_who_speaks_only_before_an_agent_does_is_a_machine() -> None:
    queue = CallSegment(kind=SegmentKind.QUEUE, start_ms=0, end_ms=60_000)
    voices = [said("We value you.", "Please wait."), said(HELP, at=61_000), said(NEED, at=65_000)]
    told = ROLES.tell(voices, replace(CALL, segments=[queue]))
    assert [it.role for it in told] == [Role.IVR, Role.AGENT, Role.CUSTOMER]


def test_an_agent_who_names_a_key_is_no_machine() -> None:
    voice = said(HELP, "Next time press two for billing.", "Anything else I can do?")
    assert ROLES.tell([voice], CALL)[0].role is Role.AGENT


def test_a_ghost_of_a_voice_changes_nobody() -> None:
    told = ROLES.tell([said(HELP), said(NEED, at=5_000), said("Mhm.", at=9_000)], CALL)
    assert [it.role for it in told] == [Role.AGENT, Role.CUSTOMER, Role.UNKNOWN]


def test_a_crowd_is_told_as_far_as_it_can_be() -> None:
    told = ROLES.tell([said(HELP), *(said("Mhm.", at=1_000 * n) for n in range(1, 20))], CALL)
    assert len(told) == 20
    assert told[0].role is Role.AGENT


texts = st.text(max_size=30) | st.sampled_from(
    [text for dialogue in ALL for _, text in dialogue.lines]
)
voices = st.lists(
    st.lists(
        st.builds(
            lambda at, length, text: Utterance(at, at + length, text),
            st.integers(0, 300_000), st.integers(0, 9_000), texts,
        ),
        max_size=5,
    ).map(sorted),
    max_size=5,
)  # fmt: skip
parties = st.lists(
    st.builds(
        lambda role, name, at: party(role, name, *([at, at + 60_000] if at >= 0 else [])),
        st.sampled_from(Role), st.none() | st.text(max_size=8), st.integers(-1, 200_000),
    ),
    max_size=4,
)  # fmt: skip


@settings(deadline=None)
@given(voices, parties, st.sampled_from(Direction))
def test_any_voices_have_a_role(
    voices: list[list[Utterance]], parties: list[Participant], direction: Direction
) -> None:
    call = replace(CALL, participants=parties, direction=direction)
    told = ROLES.tell(voices, call)
    assert told == ROLES.tell(voices, call)
    assert len(told) == len(voices)
    for it in told:
        assert (it.confidence is None) == (it.role is Role.UNKNOWN)
        assert it.confidence is None or 0.8 <= it.confidence <= 0.99
        assert 0 < len(it.reason) <= 240
    people = [it.role for it in told if it.role in (Role.AGENT, Role.CUSTOMER)]
    one_kind = "all parties are" in told[0].reason if told else True
    if len(people) == len(voices) > 1 and not one_kind:
        assert set(people) == {Role.AGENT, Role.CUSTOMER}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("about: x", "phrases.yaml:1: lacks 'groups'"),
        ("groups: [{id: a, role: boss, weight: 1, phrases: {en: [x]}}]", "'boss' is not allowed"),
        ("groups: [{id: a, role: bot, weight: 0, phrases: {en: [x]}}]", "0 is out of range"),
        (
            "groups:\n- {id: a, role: bot, weight: 1, phrases: {en: [x]}}\n"
            "- {id: a, role: bot, weight: 1, phrases: {en: [x]}}",
            "phrases.yaml:3: groups[1].id: 'a' stands twice",
        ),
        (
            "groups: [{id: a, role: bot, weight: 1, phrases: {en: ['(x']}}]",
            "groups[0].phrases.en[0]: '(x': a '(' without its ')'",
        ),
    ],
)
def test_phrases_that_cannot_be_used_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "phrases.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FileError, match=re.escape(problem)):
        load_roles(RoleSettings(phrases=path))


def test_own_phrases_take_the_place_of_the_built_in_ones(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("groups: [{id: a, role: agent, weight: 3, phrases: {nl: [goede morgen]}}]")
    own = load_roles(RoleSettings(phrases=path))
    assert own.tell([said("Goede morgen!")], CALL)[0].role is Role.AGENT
    assert own.tell([said(HELP)], CALL)[0].role is Role.UNKNOWN
