"""Who is the agent and who the customer among voices that share a channel.

What speaks for a role is added up as natural logarithms of odds, each with a weight that stands in
phrases.yaml or below: what is said, who is in the call when (by telephony), who answers, who asks.
Of two people one is the agent; of more, one customer and several agents are likelier than the
other way round. Who answers and who asks are hints: they support, and never decide alone.

The weights are judgements, so a confidence is the evidence's own arithmetic, not a measured rate.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from schemas.events import CallEnded, Direction, Role, SegmentKind
from services.runtime.yaml_file import FileError, Item, read_yaml
from services.transcribe.matching import Found, Pattern, Phrases, Tokens, pattern, tokenize
from services.transcribe.spans import Span, joined, total_ms, within, without

BUILT_IN = Path(__file__).with_name("phrases.yaml")

# Hints: the party that answers speaks first; agents ask more.
_ANSWERS = 0.5
_MOST_OF_ASKING = 0.4
_FEWEST_TO_ASK = 5
# Telephony knows who is connected: who speaks without any agent there is none, and of several
# agents one after the other each is there once, the customer always.
_WITHOUT_THEM = 2.5
_WITH_ALL_OF_THEM = 1.5
_WITH_ONE_OF_THEM = 1.0
_NAMED = 2.5
_LEAVES_MESSAGE = 2.5
# Who speaks only while a machine has the call.
_ONLY_IN_IVR = 0.9
# Evidence of one voice adds up to no more: much of it is of one kind.
_MOST = 6.0
_MOST_CONFIDENCE = 0.99
# What is no hint has to tell so much alone.
_BEYOND_CHANCE = 0.7
# Of three voices or more: one customer, against several.
_ONE_CUSTOMER = 3.0
_AS_THE_PLATFORM_COUNTS = 8.0
_MOST_VOICES = 8
# Speech so near to a border of telephony may be on either side of it.
_BORDER_MS = 2_000
_SPEAKING_MS = 3_000
_FIRST_WITHIN_MS = 30_000
_AT_ONCE_MS = 300
_SHORTEST_NAME = 3
_LONGEST_REASON = 240

_MACHINES = {"ivr": Role.IVR, "voicemail": Role.VOICEMAIL, "bot": Role.BOT}
_PEOPLE = {"agent": Role.AGENT, "customer": Role.CUSTOMER}
_AGENTS = (Role.AGENT, Role.SUPERVISOR)
_CUSTOMERS = (Role.CUSTOMER, Role.EXTERNAL)
_OUTBOUND = (Direction.OUTBOUND, Direction.CALLBACK)
_BEFORE_AGENTS = (SegmentKind.IVR, SegmentKind.QUEUE, SegmentKind.RINGING)
_SENTENCE_ENDS = frozenset(".!?。")


class RoleSettings(BaseModel):
    """How roles are told on a channel that several people share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float = Field(
        default=0.8,
        ge=0.5,
        lt=1,
        description="Confidence from which a voice is told to be agent or customer; unknown below.",
    )
    phrases: Path | None = Field(
        default=None,
        description="YAML file in place of services/transcribe/phrases.yaml, whose head says how "
        "one is written.",
    )


class Utterance(NamedTuple):
    """Something a voice says; ms on the call's timeline."""

    start_ms: int
    end_ms: int
    text: str


@dataclass(frozen=True, slots=True)
class Told:
    """Who a voice is."""

    role: Role
    """AGENT, CUSTOMER, IVR, VOICEMAIL, BOT, or UNKNOWN where nothing tells."""
    confidence: float | None
    """0.0 to 1.0; None where the role is unknown."""
    reason: str
    """What tells, or why nothing does."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Phrases that speak for one role."""

    name: str
    role: Role
    weight: float
    direction: str
    """outbound or inbound; empty: any."""


_Meaning = _Group | str
"""A group, or one of 'neutral', 'quoting', 'introductions'."""


class _Evidence(NamedTuple):
    """What speaks for a voice's being agent (weight above 0) or customer (below)."""

    weight: float
    words: str
    hint: bool = False


@dataclass(frozen=True, slots=True)
class _Heard:
    """What the phrases make of a voice."""

    evidence: list[_Evidence]
    machine: Role
    """UNKNOWN for a person."""
    machine_words: str


@dataclass(frozen=True, slots=True)
class Roles:
    """Tells roles by a set of phrases. Immutable, safe to share between threads."""

    _phrases: Phrases[_Meaning]
    threshold: float

    def tell(self, voices: Sequence[Sequence[Utterance]], call: CallEnded) -> list[Told]:
        """Who each of the voices on one channel is, by what it says in order of start.

        Pure: the same voices give the same roles, whatever their order.
        """
        names = _names(call)
        heard = [self._heard(voice, call, names) for voice in voices]
        before = joined(
            Span(it.start_ms, it.end_ms) for it in call.segments if it.kind in _BEFORE_AGENTS
        )
        told: dict[int, Told] = {}
        for number, voice in enumerate(voices):
            if heard[number].machine is not Role.UNKNOWN:
                told[number] = Told(
                    heard[number].machine, _sure(3.0), _short(heard[number].machine_words)
                )
            elif not any(said.text.strip() for said in voice):
                told[number] = Told(Role.UNKNOWN, None, "says nothing")
        people = [number for number in range(len(voices)) if number not in told]
        outside = {number: total_ms(without(_spans(voices[number]), before)) for number in people}
        if len(people) > 1:
            for number in people:
                spoken = total_ms(_spans(voices[number]))
                if outside[number] < spoken // 10 and max(outside.values()) >= _SPEAKING_MS:
                    told[number] = Told(Role.IVR, _ONLY_IN_IVR, "speaks only before an agent does")
        people = [number for number in people if number not in told]
        recorder = any(it.role is Role.VOICEMAIL for it in told.values())
        evidence = {number: list(heard[number].evidence) for number in people}
        for number, found in _of_telephony(voices, people, call):
            evidence[number].append(found)
        for number, found in _hints(voices, people, call, before):
            evidence[number].append(found)
        if recorder and len(people) == 1:
            # It is the called party's.
            weight = _LEAVES_MESSAGE if call.direction in _OUTBOUND else -_LEAVES_MESSAGE
            if call.direction in (Direction.INBOUND, *_OUTBOUND):
                evidence[people[0]].append(_Evidence(weight, "speaks to a recorder that answers"))
        told.update(self._of_people(voices, evidence, call))
        return [told[number] for number in range(len(voices))]

    def _heard(
        self, voice: Sequence[Utterance], call: CallEnded, names: Mapping[tuple[str, ...], Role]
    ) -> _Heard:
        said: dict[_Group, list[str]] = {}
        evidence: list[_Evidence] = []
        named: set[tuple[tuple[str, ...], Role]] = set()
        by_machine: dict[_Group, int] = defaultdict(int)
        bot = ""
        for number, utterance in enumerate(voice):
            tokens = tokenize(utterance.text)
            groups, introduced = self._found(tokens, call.direction)
            for group, first, after in groups:
                quote = utterance.text[tokens.starts[first] : tokens.ends[after - 1]]
                said.setdefault(group, []).append(f"says “{quote}” ({_clock(utterance.start_ms)})")
                if group.role is Role.BOT and number < 2:
                    bot = said[group][0]
            for group in dict.fromkeys(group for group, _, _ in groups):
                if group.role in (Role.IVR, Role.VOICEMAIL):
                    by_machine[group] += max(1, utterance.end_ms - utterance.start_ms)
            named |= {
                (name, role)
                for after in introduced
                for name, role in names.items()
                if tuple(tokens.texts[after : after + len(name)]) == name
            }
        if len({role for _, role in named}) == 1:
            name, role = min(named)
            weight = _NAMED if role is Role.AGENT else -_NAMED
            evidence.append(_Evidence(weight, f"is {' '.join(name)} by name"))
        for group, quotes in said.items():
            weight = group.weight * (1.5 if len(quotes) > 1 else 1.0)
            if group.role in (Role.AGENT, Role.CUSTOMER):
                evidence.append(
                    _Evidence(weight if group.role is Role.AGENT else -weight, quotes[0])
                )
        machine = Role.UNKNOWN
        words = ""
        if bot:
            machine, words = Role.BOT, bot
        elif by_machine and 2 * sum(by_machine.values()) >= total_ms(_spans(voice)):
            group = max(by_machine, key=lambda each: by_machine[each])
            machine, words = group.role, said[group][0]
        return _Heard(evidence, machine, words)

    def _found(
        self, tokens: Tokens, direction: Direction
    ) -> tuple[list[tuple[_Group, int, int]], list[int]]:
        """Groups with the tokens they are found in, and where introductions end."""
        found = self._phrases.find(tokens)
        introduced = sorted({it.after for it in found if it.value == "introductions"})
        outer = _outermost([it for it in found if it.value != "introductions"])
        quoting = sorted(it.after for it in outer if it.value == "quoting")
        ends = [at for at, text in enumerate(tokens.texts) if text in _SENTENCE_ENDS]

        def is_quoted(first: int) -> bool:
            """Whether the sentence tells before `first` that somebody said it."""
            before = bisect_right(quoting, first)
            if not before:
                return False
            end = bisect_left(ends, quoting[before - 1])
            return end == len(ends) or ends[end] >= first

        groups = [
            (it.value, it.first, it.after)
            for it in outer
            if isinstance(it.value, _Group)
            and not is_quoted(it.first)
            and (
                not it.value.direction
                or (it.value.direction == "outbound" and direction in _OUTBOUND)
                or (it.value.direction == "inbound" and direction is Direction.INBOUND)
            )
        ]
        return groups, [after for after in introduced if not is_quoted(after)]

    def _of_people(
        self,
        voices: Sequence[Sequence[Utterance]],
        evidence: Mapping[int, Sequence[_Evidence]],
        call: CallEnded,
    ) -> Iterator[tuple[int, Told]]:
        parties = [each.role for each in call.participants]
        agents = sum(role in _AGENTS for role in parties)
        customers = sum(role in _CUSTOMERS for role in parties)
        if (
            evidence
            and max(agents, customers) >= max(2, len(evidence))
            and 0 in (agents, customers)
        ):
            role = Role.AGENT if agents else Role.CUSTOMER
            for number in evidence:
                yield number, Told(role, _MOST_CONFIDENCE, f"all parties are {role.lower()}s")
            return
        by_length = sorted(evidence, key=lambda it: (-total_ms(_spans(voices[it])), it))
        for number in by_length[_MOST_VOICES:]:
            yield number, Told(Role.UNKNOWN, None, f"more than {_MOST_VOICES} voices")
        numbers = sorted(by_length[:_MOST_VOICES])
        every = {it: _clipped(each.weight for each in evidence[it]) for it in numbers}
        alone = {it: _clipped(e.weight for e in evidence[it] if not e.hint) for it in numbers}
        likely = _likelihoods(every, agents, customers)
        likely_alone = _likelihoods(alone, agents, customers)
        for number in numbers:
            agent = likely[number]
            role = Role.AGENT if agent >= 0.5 else Role.CUSTOMER
            sure = max(agent, 1 - agent)
            sure_alone = likely_alone[number] if role is Role.AGENT else 1 - likely_alone[number]
            if sure_alone < _BEYOND_CHANCE:
                yield number, Told(Role.UNKNOWN, None, "nothing that is said tells who it is")
            elif sure < self.threshold:
                reason = f"{role.lower()} by {sure:.2f} only: {_reason(role, number, evidence)}"
                yield number, Told(Role.UNKNOWN, None, _short(reason))
            else:
                reason = _short(_reason(role, number, evidence))
                yield number, Told(role, min(_MOST_CONFIDENCE, round(sure, 2)), reason)


def _clipped(weights: Iterator[float]) -> float:
    return max(-_MOST, min(_MOST, sum(weights)))


def _likelihoods(scores: Mapping[int, float], agents: int, customers: int) -> dict[int, float]:
    """How likely each voice is the agent's, over all ways to share out the roles."""
    numbers = list(scores)
    if len(numbers) == 1:
        return {numbers[0]: _sure(scores[numbers[0]])}
    total = dict.fromkeys(numbers, 0.0)
    whole = 0.0
    for are_agents in product((True, False), repeat=len(numbers)):
        count = sum(are_agents)
        if count in (0, len(numbers)):
            continue
        prior = 1.0 / math.comb(len(numbers), count)
        if len(numbers) - count == 1:
            prior *= _ONE_CUSTOMER
        if (count, len(numbers) - count) == (agents, customers):
            prior *= _AS_THE_PLATFORM_COUNTS
        odds = sum(
            scores[it] if is_agent else -scores[it]
            for it, is_agent in zip(numbers, are_agents, strict=True)
        )
        weight = prior * math.exp(odds / 2)
        whole += weight
        for it, is_agent in zip(numbers, are_agents, strict=True):
            total[it] += weight * is_agent
    return {it: total[it] / whole for it in numbers}


def _sure(odds: float) -> float:
    return round(1 / (1 + math.exp(-odds)), 2)


def _reason(role: Role, number: int, evidence: Mapping[int, Sequence[_Evidence]]) -> str:
    """What speaks for `role`: of the voice itself, or of the others' being something else."""
    sign = 1 if role is Role.AGENT else -1

    def best(of: int, sign: int, hint: bool) -> list[_Evidence]:
        found = [it for it in evidence[of] if it.weight * sign > 0 and it.hint is hint]
        return sorted(found, key=lambda it: (-abs(it.weight), it.words))

    words = [it.words for it in best(number, sign, False)[:3]]
    if not words:
        others = [best(other, -sign, False)[:1] for other in evidence if other != number]
        strongest = sorted((-abs(it.weight), it.words) for found in others for it in found)
        words = [f"the other {it}" for _, it in strongest[:3]]
    return "; ".join([*words, *(it.words for it in best(number, sign, True))])


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 1] + "…"


def _clock(at_ms: int) -> str:
    return f"{at_ms // 60_000}:{at_ms // 1000 % 60:02}"


def _spans(voice: Sequence[Utterance]) -> list[Span]:
    return joined(Span(said.start_ms, max(said.start_ms + 1, said.end_ms)) for said in voice)


def _of_telephony(
    voices: Sequence[Sequence[Utterance]], people: Sequence[int], call: CallEnded
) -> Iterator[tuple[int, _Evidence]]:
    """What it tells that somebody speaks while others are connected, or are not."""
    for sign, roles, who in ((1, _AGENTS, "agent"), (-1, _CUSTOMERS, "customer")):
        there: list[Span] = []
        for party in call.participants:
            if party.role not in roles:
                continue
            if party.joined_ms is None:
                break  # they may be there at any time
            left = party.left_ms if party.left_ms is not None else 2**62
            there.append(Span(party.joined_ms, max(party.joined_ms, left)))
        else:
            if not there:
                continue
            wide = [Span(it.start_ms - _BORDER_MS, it.end_ms + _BORDER_MS) for it in there]
            one_by_one = [
                joined(without([it], [other for other in there if other is not it])) for it in there
            ]
            for number in people:
                spoken = _spans(voices[number])
                if (ms := total_ms(without(spoken, wide))) >= _SPEAKING_MS and 10 * ms >= total_ms(
                    spoken
                ):
                    yield (
                        number,
                        _Evidence(-sign * _WITHOUT_THEM, f"speaks while no {who} is in the call"),
                    )
                if len(there) < 2:
                    continue
                beside = [
                    sum(total_ms(within(spoken, span)) for span in own) >= _SPEAKING_MS
                    for own in one_by_one
                ]
                if sum(beside) == 1:
                    yield (
                        number,
                        _Evidence(sign * _WITH_ONE_OF_THEM, f"speaks while one {who} is there"),
                    )
                elif sum(beside) > 1:
                    yield (
                        number,
                        _Evidence(-sign * _WITH_ALL_OF_THEM, f"speaks with one {who} and the next"),
                    )


def _hints(
    voices: Sequence[Sequence[Utterance]],
    people: Sequence[int],
    call: CallEnded,
    before: Sequence[Span],
) -> Iterator[tuple[int, _Evidence]]:
    if len(people) < 2:
        return
    firsts = sorted(
        (span.start_ms, number)
        for number in people
        for span in without(_spans(voices[number]), before)[:1]
    )
    if len(firsts) > 1 and call.direction in (Direction.INBOUND, *_OUTBOUND):
        (first, number), (second, _) = firsts[:2]
        answered = max((it.end_ms for it in before if it.end_ms <= first), default=0)
        if first - answered <= _FIRST_WITHIN_MS and second - first >= _AT_ONCE_MS:
            sign = 1 if call.direction is Direction.INBOUND else -1
            words = f"speaks first in a call that is {call.direction.lower()}"
            yield number, _Evidence(sign * _ANSWERS, words, hint=True)
    if len(people) == 2 and all(len(voices[it]) >= _FEWEST_TO_ASK for it in people):
        asking = [
            sum(_is_question(said.text) for said in voices[it]) / len(voices[it]) for it in people
        ]
        weight = max(-_MOST_OF_ASKING, min(_MOST_OF_ASKING, asking[0] - asking[1]))
        asks = people[0] if weight > 0 else people[1]
        if weight:
            yield asks, _Evidence(abs(weight), "asks more", hint=True)


def _is_question(text: str) -> bool:
    bare = text.rstrip(" 。.")
    return "?" in text or "？" in text or bare.endswith(("吗", "呢", "ですか", "ますか"))


def _names(call: CallEnded) -> dict[tuple[str, ...], Role]:
    """Names that the platform gives, in tokens; without those that tell nobody apart."""
    found: dict[tuple[str, ...], Role] = {}
    shared: set[tuple[str, ...]] = set()
    for party in call.participants:
        role = Role.AGENT if party.role in _AGENTS else Role.CUSTOMER
        if party.role not in (*_AGENTS, *_CUSTOMERS):
            continue
        tokens = tokenize(party.display_name or "").texts
        if all(len(token) == 1 for token in tokens):  # Han
            names = [tuple(tokens)] if len(tokens) > 1 else []
        else:
            names = [(it,) for it in tokens if it.isalpha() and len(it) >= _SHORTEST_NAME]
        for name in names:
            if found.setdefault(name, role) is not role:
                shared.add(name)
    return {name: role for name, role in found.items() if name not in shared}


def _outermost(found: Sequence[Found[_Meaning]]) -> list[Found[_Meaning]]:
    """Those inside no longer one, each once; of the same words, what is neutral goes before."""
    spans = sorted({(it.first, it.after) for it in found}, key=lambda it: (it[0], -it[1]))
    outer: set[tuple[int, int]] = set()
    furthest = -1
    for first, after in spans:
        if after > furthest:
            outer.add((first, after))
            furthest = after
    neutral = {(it.first, it.after) for it in found if it.value == "neutral"}
    kept = dict.fromkeys(
        it
        for it in found
        if (it.first, it.after) in outer
        and (it.value == "neutral" or (it.first, it.after) not in neutral)
    )
    return sorted(kept, key=lambda it: (it.first, it.after))


def load_roles(settings: RoleSettings) -> Roles:
    """Raises FileError, naming file, line and mend, where the phrases cannot be used."""
    path = settings.phrases or BUILT_IN
    root = read_yaml(path, path.name)
    fields = root.fields(("groups",), ("about", "neutral", "quoting", "introductions"))
    entries: list[tuple[Pattern, _Meaning]] = []
    seen: set[str] = set()
    for item in fields["groups"].items():
        inner = item.fields(("id", "role", "weight", "phrases"), ("direction",))
        group = _Group(
            inner["id"].text(),
            (_PEOPLE | _MACHINES)[inner["role"].choice(_PEOPLE | _MACHINES)],
            inner["weight"].number(0.1, 10),
            inner["direction"].choice(("inbound", "outbound")) if "direction" in inner else "",
        )
        if group.name in seen:
            raise inner["id"].error(f"{group.name!r} stands twice")
        seen.add(group.name)
        entries += [(each, group) for each in _patterns(inner["phrases"])]
    for name in ("neutral", "quoting", "introductions"):
        if name in fields:
            entries += [(each, name) for each in _patterns(fields[name])]
    return Roles(Phrases(entries), settings.threshold)


def _patterns(item: Item) -> Iterator[Pattern]:
    """Of every language: what a segment's language is called is often wrong for a few words."""
    for phrases in item.entries().values():
        for each in phrases.items():
            try:
                yield pattern(each.text())
            except FileError:
                raise
            except ValueError as error:
                raise each.error(f"{each.text()!r}: {error}") from None
