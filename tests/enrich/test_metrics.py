from __future__ import annotations

import re
from dataclasses import replace
from math import log10
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import (
    CallSegment,
    Flag,
    Masked,
    Metric,
    MomentKind,
    Role,
    Segment,
    SegmentKind,
)
from services.enrich.metrics import (
    METRICS,
    OF_A_ROLE,
    converse,
    hold_ms,
    length,
    masked_intervals,
    merged,
    unmasked,
)
from services.enrich.sentiment import SENTIMENT_METRICS
from services.enrich.settings import EnrichSettings
from tests.enrich.calls import call, segment, timeline

A, C = Role.AGENT, Role.CUSTOMER
SETTINGS = EnrichSettings()


def measure(
    segments: list[Segment],
    masks: list[tuple[int, int]] | None = None,
    said: dict[int, tuple[int, int]] | None = None,
) -> dict[tuple[str, Role | None], float]:
    conversation = converse(segments, masks or [], said or {}, SETTINGS)
    return {(metric.name, metric.role): metric.value for metric in conversation.metrics}


def moments(
    segments: list[Segment], masks: list[tuple[int, int]] | None = None
) -> list[tuple[MomentKind, int, int, Role | None]]:
    conversation = converse(segments, masks or [], {}, SETTINGS)
    return [(m.kind, m.start_ms, m.end_ms, m.role) for m in conversation.moments]


def test_talk_and_turns() -> None:
    found = measure(
        timeline(("a", 0, 3000), ("a", 3200, 4000), ("c", 4500, 5500), ("a", 6000, 7000))
    )
    assert found["talk_ms", A] == 4800
    assert found["talk_ms", C] == 1000
    assert found["talk_share", C] == pytest.approx(1000 / 5800, abs=1e-4)
    assert (found["turn_count", A], found["turn_count", C]) == (2, 1)
    assert found["longest_monologue_ms", A] == 4000
    assert found["conversation_ms", None] == 7000


def test_a_monologue_ends_where_a_silence_begins() -> None:
    found = measure(timeline(("a", 0, 3000), ("a", 6000, 8000), ("a", 8100, 11_000)))
    assert found["longest_monologue_ms", A] == 5000


def test_pace_is_per_script() -> None:
    segments = timeline(("a", 0, 30_000), ("a", 30_000, 60_000), ("c", 60_000, 70_000))
    found = measure(segments, said={0: (60, 0), 1: (0, 100), 2: (0, 0)})
    assert found["words_per_minute", A] == 120
    assert found["characters_per_minute", A] == 200
    assert ("words_per_minute", C) not in found


def test_words_of_a_segment_that_a_mask_parts_are_counted_once() -> None:
    found = measure(timeline(("a", 0, 10_000)), [(4_000, 6_000)], said={0: (20, 0)})
    assert found["talk_ms", A] == 8_000
    assert found["words_per_minute", A] == 150


def test_silences_and_who_owed_the_word() -> None:
    segments = timeline(
        ("a", 0, 1000, "How can I help?"),
        ("c", 4000, 5000, "My phone is broken."),
        ("a", 8000, 9000, "Let me check."),
        ("a", 12_000, 13_000, "Here it is. Is that yours?"),
        ("a", 16_000, 17_000, "Hello?"),
        ("c", 17_500, 18_000, "Yes."),
        ("c", 21_000, 22_000, "Anybody there?"),
    )
    silent = [m for m in moments(segments) if m[0] is MomentKind.SILENCE]
    assert silent == [
        (MomentKind.SILENCE, 1000, 4000, C),
        (MomentKind.SILENCE, 5000, 8000, A),
        (MomentKind.SILENCE, 9000, 12_000, A),
        (MomentKind.SILENCE, 13_000, 16_000, C),
        (MomentKind.SILENCE, 18_000, 21_000, A),
    ]
    found = measure(segments)
    assert found["silence_ms", None] == 15_000
    assert found["silence_count", None] == 5
    assert found["silence_longest_ms", None] == 3000
    assert found["silence_share", None] == pytest.approx(15 / 22, abs=1e-4)


def test_a_gap_of_exactly_the_limit_is_no_silence() -> None:
    assert moments(timeline(("a", 0, 1000), ("c", 2200, 3000))) == []
    assert len(moments(timeline(("a", 0, 1000), ("c", 2201, 3000)))) == 1


def test_hold_is_no_silence_and_no_slow_response() -> None:
    segments = timeline(("c", 0, 1000), ("a", 31_000, 32_000))
    assert measure(segments)["response_max_ms", A] == 30_000
    masks = [(1500, 30_500)]
    assert moments(segments, masks) == []
    found = measure(segments, masks)
    assert found["silence_ms", None] == 0
    assert found["response_max_ms", A] == 1000
    assert found["conversation_ms", None] == 3000


def test_what_is_spoken_in_a_mask_is_not_measured() -> None:
    segments = timeline(
        ("a", 0, 4000), ("c", 2000, 9000), ("a", 9500, 10_000), ("c", 12_000, 13_000)
    )
    found = measure(segments, [(3000, 8000), (11_500, 13_500)])
    assert found["conversation_ms", None] == 5000
    assert found["talk_ms", A] == 3000 + 500
    assert found["talk_ms", C] == 1000 + 1000
    assert found["overlap_ms", None] == 1000
    assert found["interruption_ms", C] == 1000
    assert found["longest_monologue_ms", A] == 3000
    assert found["longest_monologue_ms", C] == 1000
    assert (found["turn_count", A], found["turn_count", C]) == (2, 1)
    assert found["silence_ms", None] == 0


def test_a_short_mask_ends_a_monologue_too() -> None:
    segments = timeline(("a", 0, 3000), ("a", 3500, 6000))
    assert measure(segments)["longest_monologue_ms", A] == 6000
    assert measure(segments, [(3100, 3200)])["longest_monologue_ms", A] == 3000
    assert measure(timeline(("a", 0, 6000)), [(2500, 2600)])["longest_monologue_ms", A] == 3400


def test_turns_are_told_in_masks_too() -> None:
    """What was said first and last is asked of them, and telephony's clock may be off."""
    conversation = converse(timeline(("a", 0, 1000), ("c", 1500, 2000)), [(0, 1000)], {}, SETTINGS)
    assert [turn.segment_ids for turn in conversation.turns] == [(0,), (1,)]
    assert ("talk_ms", A) not in _values(conversation.metrics)


def test_an_announcement_is_no_silence_and_takes_no_part() -> None:
    segments = [
        segment("c", 0, 1000),
        segment("i", 1000, 9000, number=1),
        segment("a", 9000, 10_000, number=2),
    ]
    found = measure(segments)
    assert found["silence_count", None] == 0
    assert ("talk_ms", Role.IVR) not in found


ANNOUNCEMENTS = [
    "One moment, please.",
    "Let me quickly check that for you.",
    "Please bear with me",
    "I will put you ON HOLD",
    "请您稍等",
    "好的，我帮您查一下",
]


@pytest.mark.parametrize("text", ANNOUNCEMENTS)
def test_an_announced_silence_is_no_dead_air(text: str) -> None:
    segments = timeline(
        ("c", 0, 1000, "Where is it?"),
        ("a", 4000, 5000, text),
        ("c", 5500, 6000, "Sure."),
        ("a", 16_000, 17_000, "Here it is."),
        ("c", 20_000, 21_000, "Good."),
    )
    found = measure(segments)
    assert found["silence_ms", None] == 3000 + 10_000 + 3000
    assert found["dead_air_ms", None] == 3000 + 3000
    assert found["dead_air_share", None] == pytest.approx(6 / 21, abs=1e-4)


def test_only_the_agent_announces_and_not_for_ever() -> None:
    asked = ("a", 0, 1000, "One moment, please.")
    late = timeline(asked, ("c", 1500, 11_001, "long words"), ("a", 21_000, 22_000))
    assert measure(late)["dead_air_ms", None] == 9999
    in_time = timeline(asked, ("c", 1500, 11_000, "long words"), ("a", 21_000, 22_000))
    assert measure(in_time)["dead_air_ms", None] == 0
    customer = timeline(("c", 0, 1000, "One moment, please."), ("a", 5000, 6000))
    assert measure(customer)["dead_air_ms", None] == 4000
    a_question = timeline(("a", 0, 1000, "How can I help you?"), ("c", 5000, 6000))
    assert measure(a_question)["dead_air_ms", None] == 4000


def test_what_was_not_said_announces_nothing() -> None:
    invented = segment("a", 0, 1000, "One moment, please.", flags=[Flag.REPEAT_LOOP])
    found = measure([invented, segment("c", 5000, 6000, number=1)])
    assert found["dead_air_ms", None] == 4000


def test_response_times() -> None:
    segments = timeline(
        ("c", 0, 1000), ("a", 1500, 2000), ("c", 2600, 3000), ("a", 6000, 7000), ("c", 6500, 8000)
    )
    found = measure(segments)
    assert found["response_mean_ms", A] == 1750
    assert found["response_max_ms", A] == 3000
    assert found["first_response_ms", A] == 500
    assert found["response_mean_ms", C] == 300
    slow = [m for m in moments(segments) if m[0] is MomentKind.SLOW_RESPONSE]
    assert slow == [(MomentKind.SLOW_RESPONSE, 3000, 6000, A)]


def test_who_speaks_on_through_a_word_of_the_other_does_not_respond_late() -> None:
    found = measure(timeline(("a", 0, 10_000), ("c", 3000, 3500), ("a", 10_200, 11_000)))
    assert found["response_max_ms", A] == 200


def test_overlap_and_who_spoke_into_whom() -> None:
    segments = timeline(("a", 0, 5000), ("c", 4000, 7000), ("a", 6900, 8000))
    assert moments(segments) == [(MomentKind.OVERLAP, 4000, 5000, C)]
    found = measure(segments)
    assert found["overlap_ms", None] == 1100
    assert found["overlap_share", None] == pytest.approx(1100 / 8000, abs=1e-4)
    assert found["interruption_count", C] == 1
    assert found["interruption_count", A] == 0
    assert found["interruption_ms", C] == 1000
    assert found["interruption_ms", A] == 0


def test_interruptions_are_added_up_and_a_short_word_is_none() -> None:
    found = measure(
        timeline(
            ("a", 0, 10_000),
            ("c", 2000, 2499),
            ("c", 5000, 5500),
            ("c", 8000, 11_000),
            ("a", 12_000, 14_000),
        )
    )
    assert found["interruption_count", C] == 2
    assert found["interruption_ms", C] == 500 + 2000
    assert found["overlap_ms", None] == 499 + 500 + 2000


def test_an_interruption_counts_where_a_third_comes_in_before_it_is_over() -> None:
    segments = [
        segment("c", 0, 5_000),
        segment("u", 1_000, 3_000, number=1),
        segment("a", 2_000, 5_000, number=2),
    ]
    assert measure(segments)["interruption_count", Role.UNKNOWN] == 1


def test_both_at_once_is_nobodys_interruption() -> None:
    segments = timeline(("a", 1000, 3000), ("c", 1000, 3000))
    assert moments(segments) == [(MomentKind.OVERLAP, 1000, 3000, None)]
    found = measure(segments)
    assert found["interruption_count", A] == found["interruption_count", C] == 0


def test_adjoining_segments_of_one_speaker_go_on() -> None:
    segments = timeline(("a", 0, 2000), ("c", 1000, 5000), ("a", 2000, 4000))
    assert moments(segments) == [(MomentKind.OVERLAP, 1000, 4000, C)]


def test_what_was_not_heard_is_not_measured() -> None:
    segments = [
        segment("a", 0, 1000),
        segment("c", 1000, 9000, number=1, flags=[Flag.NO_SPEECH]),
        segment("c", 9000, 10_000, number=2, flags=[Flag.REPEAT_LOOP]),
    ]
    found = measure(segments)
    assert found["talk_ms", C] == 1000
    assert found["silence_longest_ms", None] == 8000


def test_nothing_heard_measures_nothing() -> None:
    assert measure([]) == {}
    assert measure([segment("i", 0, 1000)]) == {}
    assert measure([segment("a", 1000, 1000)]) == {}


def loud(segments: list[Segment], *levels: float | None) -> list[Segment]:
    return [
        replace(each, loudness_dbfs=level) for each, level in zip(segments, levels, strict=True)
    ]


def test_loudness_is_mean_power_by_duration_of_the_call_and_of_each_quarter() -> None:
    segments = timeline(
        ("c", 0, 1000),
        ("c", 1000, 4000),
        ("a", 4000, 5000),
        ("c", 30_000, 31_000),
        ("c", 39_000, 40_000),
    )
    found = measure(loud(segments, -30.0, -40.0, None, -20.0, -10.0))
    first = 10 * log10((1e-3 * 1000 + 1e-4 * 3000) / 4000)
    whole = 10 * log10((1e-3 * 1000 + 1e-4 * 3000 + 1e-2 * 1000 + 1e-1 * 1000) / 6000)
    assert {name: value for (name, role), value in found.items() if "loudness" in name} == {
        "loudness_dbfs": round(whole, 4),
        "loudness_q1_dbfs": round(first, 4),
        "loudness_q4_dbfs": round(10 * log10((1e-2 + 1e-1) / 2), 4),
        "loudness_change_db": round(10 * log10((1e-2 + 1e-1) / 2) - first, 4),
    }
    assert ("loudness_dbfs", A) not in found, "nobody measured it"
    assert ("loudness_change_db", C) not in measure(loud(segments[:1], -30.0))


def test_a_voice_in_a_mask_is_not_measured() -> None:
    segments = loud(timeline(("c", 0, 1000), ("c", 2000, 3000)), -30.0, -10.0)
    assert measure(segments, [(2000, 3000)])["loudness_dbfs", C] == -30.0


def test_every_metric_is_declared() -> None:
    spoken = timeline(
        ("a", 0, 2000), ("c", 1000, 3000), ("a", 3500, 4000), ("a", 6000, 6500), ("a", 9000, 9500)
    )
    segments = loud(spoken, -20.0, -20.0, -20.0, -20.0, -20.0)
    found = set(measure(segments, said={0: (4, 0), 1: (0, 4)}))
    assert {name for name, _ in found} | {"hold_ms"} == set(METRICS)
    assert {name for name, role in found if role is not None} == OF_A_ROLE
    assert not OF_A_ROLE & {name for name, role in found if role is None}


def test_hold_comes_from_the_intervals_else_from_the_platform() -> None:
    event = call(segment("a", 0, 1000))
    assert hold_ms(event) == 0
    assert hold_ms(replace(event, call=replace(event.call, hold_ms=700))) == 700
    part = CallSegment(kind=SegmentKind.HOLD, start_ms=100, end_ms=500)
    known = replace(event, call=replace(event.call, hold_ms=700, segments=[part]))
    assert hold_ms(known) == 400
    mask = Masked(kind=SegmentKind.HOLD, start_ms=400, end_ms=600)
    assert hold_ms(replace(known, masked=[mask])) == 500
    assert masked_intervals(replace(known, masked=[mask])) == [(100, 600)]


INTERVALS = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), max_size=8)


@given(INTERVALS, st.integers(0, 100), st.integers(0, 100))
def test_unmasked_is_what_no_mask_covers(
    masks: list[tuple[int, int]], start: int, end: int
) -> None:
    covered = {at for first, last in masks for at in range(first, last)}
    parts = unmasked(start, end, merged(masks))
    assert [at for first, last in parts for at in range(first, last)] == [
        at for at in range(start, end) if at not in covered
    ]
    assert length(merged(masks)) == len(covered)


@st.composite
def conversations(draw: st.DrawFn) -> list[Segment]:
    parts = draw(
        st.lists(
            st.tuples(st.sampled_from("ac"), st.integers(0, 60_000), st.integers(1, 9000)),
            min_size=1,
            max_size=20,
        )
    )
    ordered = sorted(parts, key=lambda part: (part[1], part[0]))
    made = timeline(*((who, start, start + lasts) for who, start, lasts in ordered))
    levels = draw(st.lists(st.none() | st.integers(-70, 0), min_size=len(made), max_size=len(made)))
    return loud(made, *levels)


MASKS = st.lists(st.tuples(st.integers(0, 70_000), st.integers(1, 9000)), max_size=4).map(
    lambda found: merged((start, start + lasts) for start, lasts in found)
)


@given(conversations(), MASKS)
def test_shares_are_shares(segments: list[Segment], masks: list[tuple[int, int]]) -> None:
    found = measure(segments, masks)
    shares = {name: value for name, value in found.items() if name[0].endswith("_share")}
    assert all(0.0 <= value <= 1.0 for value in shares.values())
    talk = [value for (name, _), value in shares.items() if name == "talk_share"]
    assert not found or sum(talk) == pytest.approx(1.0, abs=1e-4 * len(talk))
    assert found.get(("dead_air_ms", None), 0) <= found.get(("silence_ms", None), 0)
    for role in (A, C):
        assert found.get(("talk_ms", role), 0) <= found.get(("conversation_ms", None), 0)
        assert found.get(("interruption_ms", role), 0) <= found.get(("overlap_ms", None), 0)


@given(conversations(), MASKS, st.randoms(use_true_random=False))
def test_the_order_of_segments_changes_nothing(
    segments: list[Segment], masks: list[tuple[int, int]], random: Random
) -> None:
    shuffled = list(segments)
    random.shuffle(shuffled)
    assert converse(shuffled, masks, {}, SETTINGS) == converse(segments, masks, {}, SETTINGS)


@given(conversations(), MASKS, st.data())
def test_what_is_spoken_within_a_mask_changes_nothing(
    segments: list[Segment], masks: list[tuple[int, int]], data: st.DataObject
) -> None:
    before = converse(segments, masks, {}, SETTINGS)
    more = list(segments)
    for start, end in masks:
        first = data.draw(st.integers(start, end - 1))
        last = data.draw(st.integers(first + 1, end))
        who = data.draw(st.sampled_from("ac"))
        more.append(segment(who, first, last, "one moment", len(more)))
    after = converse(more, masks, {}, SETTINGS)
    assert (before.metrics, before.moments) == (after.metrics, after.moments)


@given(conversations(), MASKS)
def test_a_segment_that_a_mask_cuts_is_several(
    segments: list[Segment], masks: list[tuple[int, int]]
) -> None:
    cut = [
        replace(each, start_ms=start, end_ms=end)
        for each in segments
        for start, end in unmasked(each.start_ms, each.end_ms, masks)
    ]
    whole, pieces = (converse(each, masks, {}, SETTINGS) for each in (segments, cut))
    assert (whole.metrics, whole.moments) == (pieces.metrics, pieces.moments)


@given(conversations(), MASKS)
def test_no_moment_lies_in_a_mask(segments: list[Segment], masks: list[tuple[int, int]]) -> None:
    for moment in converse(segments, masks, {}, SETTINGS).moments:
        clear = unmasked(moment.start_ms, moment.end_ms, masks)
        if moment.kind is MomentKind.SLOW_RESPONSE:  # it lasts from question to answer
            assert length(clear) > SETTINGS.slow_response_ms
        else:
            assert clear == [(moment.start_ms, moment.end_ms)]


def test_the_page_tells_every_metric_and_no_other() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
    told = re.findall(r"^\| `([^`A-Z]+)` \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(told) == len(set(told))
    assert set(told) == set(METRICS) | {f"<role>_{name}" for name in SENTIMENT_METRICS}


def _values(metrics: list[Metric]) -> dict[tuple[str, Role | None], float]:
    return {(metric.name, metric.role): metric.value for metric in metrics}


@given(conversations(), st.integers(0, 10_000_000))
def test_metrics_do_not_depend_on_when_the_call_starts(segments: list[Segment], shift: int) -> None:
    masks = [(5000, 9000), (20_000, 26_000)]
    later = [
        replace(each, start_ms=each.start_ms + shift, end_ms=each.end_ms + shift)
        for each in segments
    ]
    before = converse(segments, masks, {}, SETTINGS)
    after = converse(later, [(s + shift, e + shift) for s, e in masks], {}, SETTINGS)
    assert before.metrics == after.metrics
    assert [
        replace(m, start_ms=m.start_ms + shift, end_ms=m.end_ms + shift) for m in before.moments
    ] == after.moments


@given(conversations())
def test_metrics_do_not_depend_on_which_channel_is_whose(segments: list[Segment]) -> None:
    swapped = [replace(each, channel=1 - each.channel) for each in segments]
    assert converse(segments, [], {}, SETTINGS) == converse(swapped, [], {}, SETTINGS)


@given(conversations())
def test_exchanging_the_roles_exchanges_their_metrics(segments: list[Segment]) -> None:
    other = {A: C, C: A}
    exchanged = [
        replace(each, role=other[each.role], speaker=other[each.role].value.lower())
        for each in segments
    ]
    before = _values(converse(segments, [], {}, SETTINGS).metrics)
    after = _values(converse(exchanged, [], {}, SETTINGS).metrics)
    symmetric = {
        "talk_ms",
        "talk_share",
        "longest_monologue_ms",
        "interruption_count",
        "interruption_ms",
    }
    for (name, role), value in before.items():
        if role is None:
            assert after[name, None] == value
        elif name in symmetric:
            assert after[name, other[role]] == value


@given(conversations())
def test_speech_silence_and_overlap_add_up(segments: list[Segment]) -> None:
    least = replace_silence(0)
    found = _values(converse(segments, [], {}, least).metrics)
    talked = sum(value for (name, _), value in found.items() if name == "talk_ms")
    spoken = talked - found["overlap_ms", None]
    assert spoken + found["silence_ms", None] == found["conversation_ms", None]


def replace_silence(silence_ms: int) -> EnrichSettings:
    return EnrichSettings.model_construct(**{**SETTINGS.model_dump(), "silence_ms": silence_ms})
