"""What conditions mean: laws, brute-force twins, a cost that grows with the call and no faster."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.events import (
    CallSegment,
    CallTranscribed,
    Consent,
    Direction,
    DisconnectedBy,
    Evidence,
    Finding,
    FindingKind,
    Moment,
    MomentKind,
    Participant,
    Queue,
    Role,
    Segment,
    SegmentKind,
)
from services.enrich.condition_reader import Reader
from services.enrich.conditions import (
    CALL_NUMBERS,
    CALL_TEXTS,
    CallNumber,
    CallText,
    Condition,
    Edges,
    Either,
    Every,
    Facts,
    Found,
    Happened,
    Inverse,
    Missing,
    Near,
    Occurrence,
    Ordered,
    Outcome,
    Where,
    call_facts,
)
from services.enrich.explain import explain
from services.enrich.ground import ground
from services.enrich.lexicon import Grammar, Scanner
from services.enrich.rules import Rules, load_rules
from services.enrich.settings import EnrichSettings
from services.runtime.yaml_file import FileError, Item
from tests.enrich.calls import call, segment, timeline

LABELS = ("a", "b", "c")
RULES = load_rules()
SETTINGS = EnrichSettings()
# A busy machine is no failure.
UNHURRIED = settings(deadline=None)


def finding(label: str, start_ms: int, end_ms: int, number: int, role: Role) -> Finding:
    return Finding(
        finding_id=str(number),
        kind=FindingKind.TOPIC,
        label=label,
        role=role,
        evidence=Evidence(
            start_ms=start_ms, end_ms=end_ms, segment_ids=[number], role=role, quote=label
        ),
        rule="r",
        rule_version="1",
        engine="lexicon",
    )


def facts(findings: Sequence[Finding] = (), **more: Any) -> Facts:
    """The first two and the last three pieces are opening and closing."""
    times = [(each.evidence.start_ms, each.evidence.end_ms) for each in findings]
    numbers = [each.evidence.segment_ids[0] for each in findings]
    told: dict[str, Any] = {
        "findings": findings,
        "phrases": {},
        "metrics": {},
        "moments": [],
        "sentiments": {},
        "opening": set(numbers[:2]),
        "closing": set(numbers[-3:]),
        "span": (min(s for s, _ in times), max(e for _, e in times)) if times else None,
    }
    return Facts(**{**told, **more})


def moved(given: Facts, by_ms: int) -> Facts:
    def later(evidence: Evidence) -> Evidence:
        start, end = evidence.start_ms + by_ms, evidence.end_ms + by_ms
        return replace(evidence, start_ms=start, end_ms=end)

    return replace(
        given,
        findings=[replace(each, evidence=later(each.evidence)) for each in given.findings],
        moments=[
            replace(each, start_ms=each.start_ms + by_ms, end_ms=each.end_ms + by_ms)
            for each in given.moments
        ],
        span=given.span and (given.span[0] + by_ms, given.span[1] + by_ms),
    )


SECONDS = st.integers(0, 30)
# Few places a millisecond around round ones, so that all that may be equal often is.
TIMES = st.builds(lambda half, by: half * 500 + by, st.integers(0, 12), st.integers(-1, 1))
PIECES = st.tuples(
    st.sampled_from(LABELS),
    TIMES,
    st.sampled_from((0, 1, 2, 500, 501, 1500)),
    st.sampled_from((Role.AGENT, Role.CUSTOMER)),
)


@st.composite
def calls(draw: st.DrawFn) -> Facts:
    pieces = draw(st.lists(PIECES, max_size=10))
    silences = draw(st.lists(st.tuples(SECONDS, SECONDS), max_size=3))
    return facts(
        [
            finding(label, at, at + length, number, role)
            for number, (label, at, length, role) in enumerate(pieces)
        ],
        moments=[
            Moment(kind=MomentKind.SILENCE, start_ms=at * 1000, end_ms=(at + length) * 1000)
            for at, length in silences
        ],
    )


WHERES = st.builds(
    Where,
    by=st.sampled_from((frozenset[Role](), frozenset((Role.AGENT,)))),
    part=st.sampled_from(("anywhere", "anywhere", "opening", "closing")),
    first_ms=st.one_of(st.none(), TIMES),
    last_ms=st.one_of(st.none(), TIMES),
    at_least=st.integers(1, 2),
)
TOPICS: st.SearchStrategy[Condition] = st.builds(
    Found,
    st.just(FindingKind.TOPIC),
    st.sampled_from(LABELS).map(lambda label: frozenset((label,))),
    st.just(Where()),
)
LEAVES: st.SearchStrategy[Condition] = st.one_of(
    TOPICS,
    TOPICS,
    st.builds(
        Found,
        st.just(FindingKind.TOPIC),
        st.sets(st.sampled_from(LABELS), min_size=1, max_size=2).map(frozenset),
        st.one_of(st.just(Where()), WHERES),
    ),
    st.builds(Happened, st.just(MomentKind.SILENCE), st.integers(0, 9000), st.just(Where())),
)
PLACED: st.SearchStrategy[Condition] = st.one_of(
    LEAVES, st.lists(LEAVES, min_size=1, max_size=2).map(lambda of: Either(tuple(of)))
)
WITHIN = st.builds(lambda half, by: max(half * 500 + by, 0), st.integers(0, 5), st.integers(-1, 1))
NEAR: st.SearchStrategy[Condition] = st.builds(
    Near, st.lists(PLACED, min_size=1, max_size=3).map(tuple), WITHIN
)


@st.composite
def sequences(draw: st.DrawFn) -> Ordered:
    of = draw(st.lists(st.one_of(PLACED, NEAR), min_size=2, max_size=4))
    gaps = [draw(st.one_of(st.none(), WITHIN)) for _ in of[1:]]
    return Ordered(tuple(of), tuple(gaps))


TIMED: st.SearchStrategy[Condition] = st.one_of(PLACED, NEAR, sequences())
# All that holds the more readily the wider it is.
GROWING: st.SearchStrategy[Condition] = st.recursive(
    TIMED,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda of: Every(tuple(of))),
        st.lists(inner, min_size=1, max_size=3).map(lambda of: Either(tuple(of))),
    ),
    max_leaves=5,
)
MISSING = st.builds(
    Missing, st.one_of(PLACED, NEAR), PLACED, st.booleans(), st.one_of(st.none(), WITHIN)
)
CONDITIONS: st.SearchStrategy[Condition] = st.recursive(
    st.one_of(TIMED, MISSING),
    lambda inner: st.one_of(
        st.builds(Inverse, inner),
        st.lists(inner, min_size=1, max_size=3).map(lambda of: Every(tuple(of))),
        st.lists(inner, min_size=1, max_size=3).map(lambda of: Either(tuple(of))),
    ),
    max_leaves=6,
)
SOME = st.lists(CONDITIONS, min_size=1, max_size=3).map(tuple)


# Laws


@UNHURRIED
@given(CONDITIONS, calls())
def test_a_condition_says_the_same_twice_and_changes_nothing(
    condition: Condition, of: Facts
) -> None:
    before = repr(of)
    first = condition.check(of)
    assert condition.check(of) == first
    assert repr(of) == before
    assert first.reason
    assert first.what


@UNHURRIED
@given(SOME, calls())
def test_not_all_is_any_not_and_not_any_is_all_not(some: tuple[Condition, ...], of: Facts) -> None:
    inverses = tuple(map(Inverse, some))
    assert Inverse(Every(some)).check(of).held is Either(inverses).check(of).held
    assert Inverse(Either(some)).check(of).held is Every(inverses).check(of).held


@UNHURRIED
@given(SOME, calls(), st.randoms())
def test_all_and_any_know_no_order(some: tuple[Condition, ...], of: Facts, random: Any) -> None:
    mixed = list(some)
    random.shuffle(mixed)
    for kind in (Every, Either):
        assert kind(tuple(mixed)).check(of).held is kind(some).check(of).held
        assert kind((*some, *some)).check(of).held is kind(some).check(of).held


@UNHURRIED
@given(CONDITIONS, calls())
def test_not_not_is_nothing(condition: Condition, of: Facts) -> None:
    assert Inverse(Inverse(condition)).check(of).held is condition.check(of).held


@UNHURRIED
@given(st.one_of(sequences(), NEAR), calls())
def test_a_sequence_and_near_imply_all(condition: Ordered | Near, of: Facts) -> None:
    if condition.check(of).held:
        assert Every(condition.of).check(of).held


@UNHURRIED
@given(CONDITIONS, calls(), st.integers(-(10**9), 10**9))
def test_when_the_call_starts_does_not_matter(condition: Condition, of: Facts, by_ms: int) -> None:
    here, there = condition.check(of), condition.check(moved(of, by_ms))
    assert (here.held, here.reason) == (there.held, there.reason)
    assert [each.start_ms + by_ms for each in here.evidence] == [
        each.start_ms for each in there.evidence
    ]


def wider(condition: Condition, by_ms: int) -> Condition:
    if isinstance(condition, Every | Either):
        return replace(condition, of=tuple(wider(each, by_ms) for each in condition.of))
    if isinstance(condition, Near):
        return replace(condition, within_ms=condition.within_ms + by_ms)
    if isinstance(condition, Ordered):
        return Ordered(
            tuple(wider(each, by_ms) for each in condition.of),
            tuple(None if most is None else most + by_ms for most in condition.within_ms),
        )
    return condition


@settings(max_examples=300, deadline=None)
@given(GROWING, calls(), st.integers(0, 2_000))
def test_a_wider_time_never_undoes(condition: Condition, of: Facts, by_ms: int) -> None:
    if condition.check(of).held:
        assert wider(condition, by_ms).check(of).held


@UNHURRIED
@given(MISSING, calls(), st.integers(0, 2_000))
def test_what_is_missing_in_a_longer_time_is_missing_in_a_shorter(
    condition: Missing, of: Facts, by_ms: int
) -> None:
    if condition.within_ms is not None:
        longer = replace(condition, within_ms=condition.within_ms + by_ms)
        if longer.check(of).held:
            assert condition.check(of).held


# Twins that try every combination


def occurrences(condition: Condition, of: Facts) -> Sequence[Occurrence]:
    return condition.check(of).occurrences()


def follows(first: Occurrence, second: Occurrence, most: int | None) -> bool:
    later = second.start_ms > first.start_ms and second.start_ms >= first.end_ms - 1
    return later and (most is None or second.start_ms - first.end_ms <= most)


@settings(max_examples=300, deadline=None)
@given(sequences(), calls())
def test_a_sequence_is_found_where_trying_all_finds_one(condition: Ordered, of: Facts) -> None:
    chains = itertools.product(*(occurrences(each, of) for each in condition.of))
    expected = any(all(map(follows, chain, chain[1:], condition.within_ms)) for chain in chains)
    outcome = condition.check(of)
    assert outcome.held is expected
    if expected:
        assert len(outcome.evidence) >= len(condition.of)


@settings(max_examples=300, deadline=None)
@given(NEAR, calls())
def test_near_is_found_where_trying_all_finds_it(condition: Near, of: Facts) -> None:
    groups = itertools.product(*(occurrences(each, of) for each in condition.of))
    spreads = [max(o.start_ms for o in g) - min(o.start_ms for o in g) for g in groups]
    outcome = condition.check(of)
    assert outcome.held is any(spread <= condition.within_ms for spread in spreads)
    for each in outcome.occurrences():
        starts = [piece.start_ms for piece in each.evidence]
        assert max(starts) - min(starts) <= condition.within_ms


@settings(max_examples=300, deadline=None)
@given(MISSING, calls())
def test_missing_is_found_where_trying_all_finds_it(condition: Missing, of: Facts) -> None:
    there = occurrences(condition.of, of)
    alone = [
        each
        for each in occurrences(condition.beside, of)
        if not any(
            follows(one, each, condition.within_ms)
            if condition.before
            else follows(each, one, condition.within_ms)
            for one in there
        )
    ]
    assert condition.check(of).held is bool(alone)


# Cost


class Counted(int):
    """A time that counts what is done with it."""

    done = 0

    def _count(name: str) -> Callable[[int, int], Any]:  # type: ignore[misc]
        plain = getattr(int, name)

        def counting(self: int, other: int) -> Any:
            Counted.done += 1
            return plain(self, other)

        return counting

    __lt__ = _count("__lt__")
    __le__ = _count("__le__")
    __gt__ = _count("__gt__")
    __ge__ = _count("__ge__")
    __sub__ = _count("__sub__")


def topic(label: str) -> Found:
    return Found(FindingKind.TOPIC, frozenset((label,)), Where())


ALL = tuple(map(topic, "abcd"))
COSTLY: dict[str, Condition] = {
    "sequence": Ordered(ALL, (None,) * 3),
    "sequence within": Ordered(ALL, (5_000,) * 3),
    "near": Near(ALL, 3_600_000),
    "sequence of near": Ordered((Near(ALL[:2], 60_000), Near(ALL[2:], 60_000)), (None,)),
    "missing after": Missing(ALL[0], ALL[1], False, 1),
    "missing before": Missing(ALL[0], ALL[1], True, 1),
    "first and last": Every(
        (replace(ALL[0], where=Where(first_ms=9)), replace(ALL[1], where=Where(last_ms=9)))
    ),
}
# Where in a call of n pieces the i-th is, ms.
LAYOUTS: dict[str, Callable[[int, int], tuple[str, int]]] = {
    "in turn": lambda i, n: ("abcd"[i % 4], i * 1000),
    "one kind after the other": lambda i, n: ("abcd"[i * 4 // n], i * 1000),
    "the wrong way round": lambda i, n: ("abcd"[3 - i * 4 // n], i * 1000),
    "all at once": lambda i, n: ("abcd"[i % 4], 7),
}


def effort(condition: Condition, layout: Callable[[int, int], tuple[str, int]], n: int) -> int:
    pieces = [layout(i, n) for i in range(n)]
    of = facts(
        [
            finding(label, Counted(at), Counted(at + 300), number, Role.CUSTOMER)
            for number, (label, at) in enumerate(pieces)
        ]
    )
    Counted.done = 0
    condition.check(of)
    return Counted.done


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", COSTLY)
def test_sixteen_times_the_call_is_no_more_than_n_log_n_of_the_work(name: str, layout: str) -> None:
    """Counted, not timed. A quadratic way takes 256 times the work."""
    little, much = (effort(COSTLY[name], LAYOUTS[layout], n) for n in (250, 4_000))
    assert little > 0
    assert much <= little * 16 * 2


def test_an_eight_hour_call_that_says_it_every_second_is_judged() -> None:
    n = 8 * 3600
    of = facts([finding("abcd"[i % 4], i * 1000, i * 1000 + 300, i, Role.AGENT) for i in range(n)])
    outcome = Ordered(ALL, (2_000,) * 3).check(of)
    assert outcome.held
    assert len(outcome.occurrences()) == n // 4
    assert [each.quote for each in outcome.evidence] == list("abcd")


# What telephony knows

TOLD = replace(
    call(segment("c", 0, 1000, "hello")).call,
    direction=Direction.INBOUND,
    disconnected_by=DisconnectedBy.CUSTOMER,
    queue=Queue(id="q-17", name="Billing"),
    talk_ms=90_000,
    consent=Consent.GRANTED,
    participants=[
        Participant(participant_id="1", role=Role.CUSTOMER),
        Participant(participant_id="2", role=Role.AGENT, agent_id="Ada"),
        Participant(participant_id="3", role=Role.IVR),
    ],
    segments=[
        CallSegment(kind=SegmentKind.HOLD, start_ms=0, end_ms=4_000),
        CallSegment(kind=SegmentKind.HOLD, start_ms=6_000, end_ms=9_000),
        CallSegment(kind=SegmentKind.TRANSFER, start_ms=9_000, end_ms=9_500),
    ],
    disconnect_reason_raw="Caller Hangup",
    mos_min=3.5,
    attributes={"Tier": "Gold"},
)
TOLD = replace(
    TOLD,
    answered_at=TOLD.started_at + timedelta(seconds=12),
    ended_at=TOLD.started_at + timedelta(seconds=120),
)


def read(text: str) -> Condition:
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    assert node is not None
    labels = {FindingKind.TOPIC: LABELS, FindingKind.EMOTION: ("angry",)}
    return Reader(labels).read(Item(node, "x.yaml", ""))


@pytest.mark.parametrize(
    ("when", "held"),
    [
        ("{queue: billing}", True),
        ("{queue: [sales, Q-17]}", True),
        ("{queue: sales}", False),
        ("{agent: ada}", True),
        ("{direction: inbound, disconnected_by: [customer, agent]}", True),
        ("{direction: inbound, disconnected_by: agent}", False),
        ("{hold_ms: {above: 6999, below: 7001}}", True),
        ("{hold_ms: {above: 7000}}", False),
        ("{holds: 2, transfers: 1, parties: [2, 3]}", True),
        ("{parties: 3}", False),
        ("{talk_ms: {above: 60000}, ring_ms: 12000, duration_ms: 120000}", True),
        ("{disposition: abandoned}", False),
        ("{queue_ms: {below: 100000}}", False),
        ("{disconnect_reason: caller hangup}", True),
        ("{mos_min: {below: 3.6}, consent: granted, legal_hold: no}", True),
        ("{language: zh}", True),
        ("{language: zh-HK}", False),
        ("{attributes: {Tier: [silver, gold]}}", True),
        ("{attributes: {Region: north}}", False),
    ],
)
def test_what_telephony_knows(when: str, held: bool) -> None:
    event = replace(call(segment("c", 0, 1000)), call=TOLD, language="zh-CN")
    outcome = read(f"call: {when}").check(facts(call=call_facts(event)))
    assert outcome.held is held
    assert outcome.reason


def test_what_telephony_does_not_know_holds_for_nothing() -> None:
    nothing = facts()
    for name in CALL_NUMBERS:
        assert not CallNumber(name, Edges(above=-1e12)).check(nothing).held
    for name in CALL_TEXTS:
        outcome = CallText(name, ("unknown", "")).check(nothing)
        assert (outcome.held, outcome.reason) == (False, f"{name} is not known")
    told = call_facts(call(segment("c", 0, 1000)))
    assert set(told) == {"duration_ms", "language", "platform", "legal_hold"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1e300])
def test_a_number_that_makes_no_sense_is_only_a_number(value: float) -> None:
    outcome = CallNumber("mos_min", Edges(above=2.0)).check(facts(call={"mos_min": value}))
    assert outcome.held is (value > 2.0)


# From words to outcomes


def heard(when: str, *lines: tuple[str, int, int, str]) -> Outcome:
    node = yaml.compose(when, Loader=yaml.SafeLoader)
    assert node is not None
    reader = Reader({FindingKind.TOPIC: ("refund",), FindingKind.EMOTION: ("angry",)})
    condition = reader.read(Item(node, "x.yaml", ""))
    rules = replace(RULES, scanner=Scanner((), Grammar(), reader.phrase_sets))
    return condition.check(ground(call(*timeline(*lines)), rules, SETTINGS).facts)


ASKED = (
    ("a", 0, 2000, "good morning"),
    ("c", 3000, 5000, "i need it today"),
    ("a", 6000, 8000, "please wait"),
    ("c", 9000, 11_000, "i really need it today"),
    ("a", 60_000, 62_000, "sorry"),
)


@pytest.mark.parametrize(
    ("when", "held"),
    [
        ("{sequence: [{said: need it}, {said: please wait}]}", True),
        ("{sequence: [{said: please wait}, {said: need it}]}", True),
        ("{sequence: [{said: sorry}, {said: please wait}]}", False),
        ("{sequence: [{said: need it}, {said: sorry}], within_s: 49}", False),
        ("{sequence: [{said: need it}, {said: sorry}], within_s: 51}", True),
        ("{sequence: [{said: need it}, {said: need it}]}", True),
        ("{sequence: [{said: sorry}, {said: sorry}]}", False),
        ("{sequence: [{said: good}, {said: morning}]}", True),
        ("{sequence: [{said: morning}, {said: good}]}", False),
        (
            "{sequence: [{said: morning}, {sequence: [{said: wait}, {said: need}], within_s: 3}]}",
            True,
        ),
        (
            "{sequence: [{said: wait}, {sequence: [{said: wait}, {said: need}], within_s: 3}]}",
            False,
        ),
        ("{not: {said: sorry}, after: {said: need it}, within_s: 30}", True),
        ("{not: {said: sorry}, after: {said: need it}, within_s: 60}", False),
        ("{not: {said: sorry}, after: {said: goodbye}, within_s: 30}", False),
        ("{not: {said: good morning}, before: {said: need it}}", False),
        ("{not: {said: please wait}, before: {said: need it}}", True),
        ("{not: {said: please wait, by: customer}, before: {said: sorry}}", True),
        ("{said: good morning, first_s: 1}", True),
        ("{said: please wait, first_s: 1}", False),
        ("{said: sorry, last_s: 2}", True),
        ("{said: please wait, last_s: 50}", False),
        ("{said: need it, part: opening, at_least: 2}", True),
        ("{moment: silence, longer_than_ms: 40000, last_s: 60}", True),
        ("{moment: silence, longer_than_ms: 40000, first_s: 5}", False),
        ("{near: [{said: wait}, {any: [{said: morning}, {said: sorry}]}], within_s: 7}", True),
        ("{near: [{said: wait}, {any: [{said: sorry}]}], within_s: 7}", False),
    ],
)
def test_what_is_said_in_order_or_not_at_all(when: str, held: bool) -> None:
    assert heard(when, *ASKED).held is held


def test_a_sequence_quotes_its_parts_and_says_how_long_it_took() -> None:
    outcome = heard("{sequence: [{said: need it}, {said: sorry}]}", *ASKED)
    # The latest before it, so that what is quoted lies together.
    assert [each.start_ms for each in outcome.evidence] == [9_818, 60_000]
    assert outcome.reason == "“need it”, then “sorry”, 50 s from first to last"
    never = heard("{sequence: [{said: sorry}, {said: need it}]}", *ASKED)
    assert never.reason == "said “need it” did not follow said “sorry”"
    assert [part.held for part in never.parts] == [True, True]


def test_adjoining_words_of_a_text_without_times_are_in_order() -> None:
    # Each ends and begins at 500.5 ms, which is rounded up and down.
    line = ("c", 0, 1001, "我要退款投诉你们")
    assert heard("{sequence: [{said: 退款}, {said: 投诉}]}", line).held
    assert not heard("{sequence: [{said: 投诉}, {said: 退款}]}", line).held


# Reading


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{sayd: x}", "needs exactly one of said, topic.*did you mean said"),
        ("{said: x, topic: a}", "has said and topic: put them under all or any"),
        ("{topic: aa}", "'aa' is not allowed; did you mean a"),
        ("{said: x, bye: agent}", "bye: is not known here; did you mean by"),
        ("{said: x, by: agnet}", "'agnet' is not allowed; did you mean agent"),
        ("{said: x, part: middle}", "'middle' is not allowed; allowed are anywhere"),
        ("{said: x, first_s: soon}", "'soon' is no number"),
        ("{metric: talk_mss, role: agent, above: 1}", "did you mean talk_ms"),
        ("{metric: TALK_MS, role: agent, above: 1}", "did you mean talk_ms"),
        (
            "{metric: hold_ms, above: 30, below: 10}",
            "no number is above 30 and below 10; write an 'above' that is less than 'below'",
        ),
        ("{metric: hold_ms, above: 30, below: 30}", "no number is above 30 and below 30"),
        ("{call: {hold_ms: {above: 2, below: 1}}}", "no number is above 2 and below 1"),
        (
            "{metric: customer_sentiment, below: 0}",
            "'customer_sentiment' is judged by the condition sentiment, not by metric; write "
            "{sentiment: negative, of: customer}",
        ),
        ("{metric: agent_sentiment_end, above: 0}", "negative, of: agent, at: end}"),
        ("{call: {que: x}}", "call.que: is not known of a call; did you mean queue"),
        ("{call: {}}", "call: is empty"),
        ("{call: {hold_ms: long}}", "'long' is no number"),
        ("{call: {hold_ms: {over: 3}}}", "hold_ms.over: is not known here"),
        ("{call: {direction: inbond}}", "did you mean inbound"),
        ("{sequence: [{topic: a}]}", "a sequence of one is none"),
        ("{sequence: [{topic: a}, {metric: hold_ms, above: 1}]}", "'metric' has no place in time"),
        ("{sequence: [{topic: a}, {not: {topic: b}}]}", "'not' has no place in time"),
        ("{near: [{all: [{topic: a}]}, {topic: b}], within_s: 1}", "'all' has no place in time"),
        ("{not: {topic: a}, within_s: 3}", "'within_s' needs 'after' or 'before'"),
        ("{not: {topic: a}, after: {topic: b}, before: {topic: c}}", "has 'after' and 'before'"),
        ("{not: {topic: a}, after: {call: {queue: x}}}", "'call' has no place in time"),
        ("{not: {topic: a}, aftr: {topic: b}}", "aftr: is not known here; did you mean after"),
    ],
)
def test_a_mistake_names_the_mend(text: str, problem: str) -> None:
    with pytest.raises(FileError, match=f"^x.yaml:1: .*{problem}"):
        read(text)


WORDS = st.sampled_from(
    (
        *("said", "topic", "emotion", "moment", "metric", "sentiment", "call", "all", "any", "not"),
        *("near", "sequence", "after", "before", "within_s", "by", "part", "first_s", "at_least"),
        *("above", "role", "queue", "hold_ms", "attributes", "x"),
    )
)
VALUES = st.recursive(
    st.one_of(
        st.sampled_from(["a", "b", "agent", "silence", "hold_ms", "negative", "opening", ""]),
        st.integers(-3, 10**30),
        st.floats(),
        st.text(max_size=5),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, min_size=1, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(WORDS, VALUES, min_size=1, max_size=3))
def test_whatever_is_written_is_read_or_told(written: dict[str, Any]) -> None:
    text = yaml.safe_dump(written, allow_unicode=True)
    condition, told = None, "x.yaml:"
    try:
        condition = read(text)
    except FileError as error:
        told = str(error)
    assert told.startswith("x.yaml:")
    assert condition is None or condition.check(facts()).reason


# The rules that come with the suite


SAID = st.sampled_from(
    [
        "I am furious, I want a refund.",
        "I want to speak to your supervisor.",
        "There is no supervisor here.",
        "I am so sorry about that.",
        "Good morning, my name is Linda.",
        "I will send the refund.",
        "我要退款，你们太差了。",
        "非常抱歉，马上给您换。",
        "这样我很满意。",
        "hm",
    ]
)


def verdicts(event: CallTranscribed, rules: Rules = RULES) -> list[tuple[str, bool | None, str]]:
    found = explain(rules, ground(event, rules, SETTINGS).facts)
    return [(each.name, each.held, each.outcome.reason) for each in found]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ac"), st.integers(0, 30), SAID), max_size=6),
    st.integers(0, 10**8),
)
def test_the_built_in_rules_do_not_mind_when_the_call_starts(
    lines: list[tuple[str, int, str]], by_ms: int
) -> None:
    segments: list[Segment] = []
    at = 0
    for number, (who, pause_s, text) in enumerate(lines):
        at += pause_s * 1000
        segments.append(segment(who, at, at + 2000, text, number))
        at += 2000
    later = [
        replace(each, start_ms=each.start_ms + by_ms, end_ms=each.end_ms + by_ms)
        for each in segments
    ]
    here = call(*segments)
    assert verdicts(replace(here, segments=later)) == verdicts(here)
