"""How much of the personal data planted in generated calls is found, and how fast.

    python -m benchmarks.pii [--calls 1000] [--seed 0] [--held-out MODULE] [--misses 20]

Recall: of what was planted, how much is covered whole, by any kind (nothing of it stays readable)
and by its own kind. Precision: of the redactions of a kind, how many touch something planted of
that kind. All kinds are looked for, long numbers too, but in the column of the usual policy, which
leaves long numbers. The calls are generated (tests/enrich/pii_calls.py). `--held-out` names a
module with forms that the detector was not mended by: HELD_OUT as SEEN there, HELD_OUT_TALK by
language.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module

from benchmarks.enrich import call as ordinary_call
from schemas.events import PiiKind, Redaction, Segment
from services.enrich.pii import KINDS, Mask, Policy, find
from tests.enrich.pii_calls import (
    Planted,
    PlantedCall,
    generate,
    generate_many,
    talk_only,
    uncovered,
)

EVERYTHING = Policy("benchmark", dict.fromkeys(KINDS.values(), Mask.LABEL))
USUAL = Policy("benchmark", {k: Mask.LABEL for k in KINDS.values() if k is not PiiKind.NUMBER})


def readable(call: PlantedCall, plant: Planted, found: Iterable[Redaction]) -> bool:
    """Whether a letter or digit of the secret lies under no redaction."""
    texts = {each.segment_id: each.text for each in call.segments}
    return any(texts[number][place].isalnum() for number, place in uncovered(plant, found))


def touches(plant: Planted, redaction: Redaction) -> bool:
    return any(
        number == redaction.segment_id and start < redaction.end and redaction.start < end
        for number, start, end in plant.spans
    )


def table(calls: Sequence[PlantedCall], misses: int) -> None:
    planted: Counter[tuple[str, str]] = Counter()
    whole: Counter[tuple[str, str]] = Counter()
    usual: Counter[tuple[str, str]] = Counter()
    named: Counter[tuple[str, str]] = Counter()
    redactions: Counter[tuple[str, str]] = Counter()
    right: Counter[tuple[str, str]] = Counter()
    wrong: list[str] = []
    began = time.process_time()
    answers = [find(call.segments, call.language, call.names, EVERYTHING) for call in calls]
    spent = time.process_time() - began
    for call, found in zip(calls, answers, strict=True):
        texts = {each.segment_id: each.text for each in call.segments}
        by_usual = find(call.segments, call.language, call.names, USUAL)
        for plant in call.planted:
            name = plant.kind.value.lower() + (" given" if plant.form == "given" else "")
            key = (name, call.language)
            planted[key] += 1
            whole[key] += not readable(call, plant, found)
            usual[key] += not readable(call, plant, by_usual)
            own = [each for each in found if each.kind is plant.kind]
            named[key] += not readable(call, plant, own)
            if readable(call, plant, found):
                lines = " | ".join(
                    f"{texts[number][:start]}⟪{texts[number][start:end]}⟫{texts[number][end:]}"
                    for number, start, end in plant.spans
                )
                wrong.append(f"missed {name} {plant.form}: {lines}")
            elif readable(call, plant, own):
                said = " | ".join(texts[number] for number, _, _ in plant.spans)
                wrong.append(f"other kind, {name} {plant.form} {plant.secret}: {said}")
        for each in found:
            key = (each.kind.value.lower(), call.language)
            redactions[key] += 1
            good = any(p.kind is each.kind and touches(p, each) for p in call.planted)
            right[key] += good
            if not good:
                text = texts[each.segment_id]
                wrong.append(
                    f"false {key[0]}: {text[: each.start]}⟪{text[each.start : each.end]}⟫"
                    f"{text[each.end :]}"
                )
    print(f"{'':18}planted  covered  usual policy  as its kind  redactions  precision")
    for key in sorted({*planted, *redactions}):
        print(
            f"{key[0]:14}{key[1]}  {planted[key]:7}  {share(whole[key], planted[key])}"
            f"       {share(usual[key], planted[key])}      {share(named[key], planted[key])}"
            f"     {redactions[key]:7}    {share(right[key], redactions[key])}"
        )
    print(f"{len(calls) / spent:.0f} calls per CPU second, {segments(calls)} segments a call")
    for line in wrong[:misses]:
        print("  " + line)


def share(part: int, of: int) -> str:
    return f"{part / of:7.4f}" if of else "      -"


def segments(calls: Sequence[PlantedCall]) -> int:
    return sum(len(call.segments) for call in calls) // max(len(calls), 1)


def false_alarms(count: int, talk: Mapping[str, Sequence[str]] | None = None) -> None:
    """Redactions in calls that hold nothing personal."""
    for language in ("en", "zh"):
        lines = talk[language] if talk else None
        calls = [talk_only(seed, language, talk=lines) for seed in range(count)]
        for name, policy in (("usual policy", USUAL), ("long numbers too", EVERYTHING)):
            found = sum(len(find(call.segments, language, (), policy)) for call in calls)
            print(f"{language}: {found} redactions in {count} calls without a secret ({name})")


def plain_call(rounds: int = 50) -> None:
    """The call that benchmarks/enrich.py measures by: ordinary talk, with few numbers."""
    for language in ("en", "zh"):
        event = ordinary_call(10, language)
        spent: list[float] = []
        for _ in range(rounds):
            began = time.process_time()
            find(event.segments, language, (), USUAL)
            spent.append((time.process_time() - began) * 1_000)
        spent.sort()
        print(
            f"{language}: 10 min of ordinary talk, {len(event.segments)} segments: median "
            f"{spent[rounds // 2]:.2f} CPU ms, least {spent[0]:.2f}"
        )


def long_call(minutes: int) -> None:
    """Talk and secrets, over and over, as one call."""
    for language in ("en", "zh"):
        joined: list[Segment] = []
        at = seed = 0
        while at < minutes * 60_000:
            for each in generate(seed, language).segments:
                joined.append(moved(each, len(joined), at - each.start_ms))
                at = joined[-1].end_ms + 300
            seed += 1
        began = time.process_time()
        found = find(joined, language, (), EVERYTHING)
        spent = time.process_time() - began
        print(
            f"{language}: {minutes} min, {len(joined)} segments, {len(found)} redactions: "
            f"{spent:.2f} CPU s"
        )


def moved(each: Segment, number: int, shift: int) -> Segment:
    return replace(
        each,
        segment_id=number,
        start_ms=each.start_ms + shift,
        end_ms=each.end_ms + shift,
        word_start_ms=[ms + shift for ms in each.word_start_ms],
        word_end_ms=[ms + shift for ms in each.word_end_ms],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", metavar="MODULE", help="measure its forms as well")
    parser.add_argument("--misses", type=int, default=0, help="print so many misses of seen forms")
    options = parser.parse_args()
    print("Seen forms")
    table(generate_many(options.calls, options.seed), options.misses)
    false_alarms(100)
    plain_call()
    for minutes in (10, 60, 480):
        long_call(minutes)
    if options.held_out:
        module = import_module(options.held_out)
        print(f"Held-out forms of {options.held_out}")
        calls = generate_many(options.calls, options.seed, module.HELD_OUT, module.HELD_OUT_TALK)
        table(calls, 0)
        false_alarms(100, module.HELD_OUT_TALK)


if __name__ == "__main__":
    main()
