"""Worker processes that try hostile input by the list, and what is seen of them.

A violation is a worker that died, an end that is none (an unexpected exception, a dependency
blamed, nothing at all), memory beyond its bound, or a stage that one holds for too long: a message
in the loops from its being handed to a worker until its commit, else while the stage handles it.

Who holds a stage for over a second, beside all else that the machine does, is tried again with
nothing beside it. Then the least of three tries may take

* a second of the processor, or, of a recording, a hundredth of the sound that it decodes to, all
  channels together: sound recordings take half of that, and a hundred seconds' worth is a second.
  Messages have no such allowance: the transcript of a call of four hours, 0.7 MB, takes half a
  second;
* five times as much by the clock: who sleeps or waits takes nothing of the processor, and a
  machine that has others to serve gives only a part of it.

Beside all else nothing may take `HANGS_S`, for what does not happen again alone. That is long
because in the loops a whole batch is held together, and all stages and the engine run at once.
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from services.runtime.observe import configure_logs
from services.serve import collect_rarely
from services.sink.settings import SinkSettings
from services.sink.warehouse import Warehouse
from tests.hostile import audio, reading
from tests.hostile.reading import MADE, NOTHING, Reader, Took, peak_bytes
from tests.hostile.recordings import Mutants

Kind = Literal["audio", "messages", "loop"]

SECONDS = 1.0
SECONDS_PER_SOUND_S = 0.01
TIMES_BY_THE_CLOCK = 5.0
HANGS_S = 30.0
_TRIES = 3
# Of one worker, of messages with its libraries; what one message may add, and its address space.
PEAK_BYTES = 700_000_000
GROWTH_BYTES = 150_000_000
ADDRESS_SPACE_BYTES = 6 << 30
# Of the messages, how many also go through the real loops and the real engine.
LOOP_SHARE = 0.02
_CHUNK: dict[Kind, int] = {"audio": 50, "messages": 1000, "loop": 500}
_DEADLINE_S = 900.0


@dataclass(frozen=True, slots=True)
class Done:
    """A chunk's end; `ends` are counted, `slow` and `bad` name numbers."""

    ends: Counter[str]
    bad: dict[int, str]
    slow: dict[int, float]
    longest_s: float
    peak_bytes: int


def _worker(kind: Kind, seed: int, begun: Any, pipe: Connection) -> None:
    """Works off lists of numbers until it is told None. `begun` holds the number in hand."""
    configure_logs("CRITICAL")
    with tempfile.TemporaryDirectory(prefix="callstream-hostile-") as name:
        folder = Path(name)
        if kind == "audio":
            _audio_worker(folder, seed, begun, pipe)
        else:
            _message_worker(kind, folder, seed, begun, pipe)


class Held:
    """The most memory of its own that this process is seen to hold, looked at all the while. What
    is mapped from a file, as samples are, is not counted: the system takes it back at need."""

    def __init__(self) -> None:
        self.bytes = self._now()
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()

    def peak(self) -> int:
        """In bytes. Raises RuntimeError where nobody looks any more."""
        if not self._watching.is_alive():
            raise RuntimeError("nobody looks at the memory that is held")
        return self.bytes

    @staticmethod
    def _now() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("RssAnon:")[2].split()[0]) * 1024

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, self._now())
            time.sleep(0.02)


def _audio_worker(folder: Path, seed: int, begun: Any, pipe: Connection) -> None:
    def note(number: int) -> None:
        begun.value = number

    ear, mutants, held = audio.Ear(folder, note), Mutants(seed), Held()
    while (numbers := pipe.recv()) is not None:
        heard = ear.hear(mutants, numbers)
        bad = {n: _told(mutants, n, o) for n, o in heard.outcomes.items() if audio.violation(o)}
        slow = {}
        for number, seconds in heard.seconds.items():
            if seconds > SECONDS:
                tries = [ear.alone(mutants, number) for _ in range(_TRIES)]
                least = Took(*map(min, *tries))
                slow[number] = least.processor_s
                allowed_s = max(SECONDS, SECONDS_PER_SOUND_S * heard.sound_s.get(number, 0.0))
                if why := _too_long(seconds, least, allowed_s):
                    bad[number] = _told(mutants, number, why)
        ends = Counter(o.partition(": ")[0] for o in heard.outcomes.values())
        peak = held.peak()
        if peak > PEAK_BYTES:
            bad[numbers[0]] = f"{peak >> 20} MB held by one of the {len(numbers)} from here"
        pipe.send(Done(ends, bad, slow, max(heard.seconds.values()), peak))


def _told(mutants: Mutants, number: int, end: str) -> str:
    return f"{end} ({mutants.file(number).how})"


def _message_worker(kind: Kind, folder: Path, seed: int, begun: Any, pipe: Connection) -> None:
    def note(number: int) -> None:
        begun.value = number

    if kind == "messages":
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    warehouse = Warehouse.open(SinkSettings(path=folder / "db")) if kind == "loop" else None
    reader = Reader(folder, seed, warehouse)
    collect_rarely()  # as services do
    while (numbers := pipe.recv()) is not None:
        pipe.send(tried(reader, numbers, note))
    if warehouse is not None:
        warehouse.close()


def tried(
    reader: Reader, numbers: Sequence[int], note: Callable[[int], None] = lambda number: None
) -> Done:
    """What came of these messages: through the loops where the reader has a warehouse for them."""
    note(numbers[0])
    read = reader.run(numbers) if reader.loops else reader.read(numbers, note)
    bad = {n: o for n, o in read.outcomes.items() if reading.violation(o)}
    over = [n for n, took in read.took.items() if took.seconds > SECONDS]
    # What a stage made may come of any of them.
    least = _alone(reader, numbers if MADE in over else over)
    for number in {*read.took, *least}:
        seconds = read.took.get(number, NOTHING).seconds
        if why := _too_long(seconds, least.get(number, NOTHING), SECONDS):
            bad[number] = why
    for number, grown in read.grown.items():
        if grown > GROWTH_BYTES:
            bad[number] = f"raised the memory held by {grown >> 20} MB"
    if not reader.loops and peak_bytes() > PEAK_BYTES:
        bad[numbers[0]] = f"{peak_bytes() >> 20} MB held after the {len(numbers)} from here"
    ends = Counter(end.partition(": ")[0] for o in read.outcomes.values() for end in o.split("; "))
    return Done(
        ends,
        bad={n: f"{why} ({_how(reader, n)})" for n, why in bad.items()},
        slow={n: took.processor_s for n, took in least.items()},
        longest_s=max((took.seconds for took in read.took.values()), default=0.0),
        peak_bytes=peak_bytes(),
    )


def _alone(reader: Reader, numbers: Sequence[int]) -> dict[int, Took]:
    """What each takes with nothing beside it, or at most: who stays within bounds in company does.

    The others are tried by halves, and at last each by itself.
    """
    if not numbers:
        return {}
    found = reader.alone(numbers)
    if len(numbers) == 1:
        tries = [found, *(reader.alone(numbers) for _ in range(_TRIES - 1))]
        longest = [Took(*map(max, NOTHING, *took.values())) for took in tries]
        return {numbers[0]: Took(*map(min, *longest))}
    over = {n for n, took in found.items() if _too_long(0.0, took, SECONDS)}
    left = [n for n in numbers if n in over or MADE in over]
    middle = len(left) // 2
    done = {n: found.get(n, NOTHING) for n in numbers if n not in left}
    return done | _alone(reader, left[:middle]) | _alone(reader, left[middle:])


def _too_long(seconds: float, least: Took, allowed_s: float) -> str | None:
    """Why a stage is held too long by who takes `seconds` beside all else and `least` alone."""
    by_the_clock_s = TIMES_BY_THE_CLOCK * allowed_s
    if (
        least.processor_s > allowed_s
        or least.seconds > by_the_clock_s
        or seconds > max(HANGS_S, by_the_clock_s)
    ):
        return (
            f"held a stage for {seconds:.2f} s, alone for {least.seconds:.2f} s and "
            f"{least.processor_s:.2f} s of the processor"
        )
    return None


def _how(reader: Reader, number: int) -> str:
    return "made of one of them" if number == MADE else reader.mutants.message(number).how


@dataclass
class Report:
    """What was seen of one kind."""

    kind: Kind
    count: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    slow: dict[int, float] = field(default_factory=dict)
    """Those over a second beside all else, with what they took alone."""
    deaths: int = 0
    longest_s: float = 0.0
    peak_bytes: int = 0
    took_s: float = 0.0

    def add(self, numbers: Sequence[int], done: Done) -> None:
        self.count += len(numbers)
        self.ends += done.ends
        for number, why in done.bad.items():
            self.violate(number, why)
        self.slow |= done.slow
        self.longest_s = max(self.longest_s, done.longest_s)
        self.peak_bytes = max(self.peak_bytes, done.peak_bytes)

    def violate(self, number: int, why: str) -> None:
        self.violations.append(f"{self.kind} {number}: {why}")
        say(f"VIOLATION {self.violations[-1]}")

    @property
    def alone_s(self) -> float:
        """The most that any of the slow ones took of the processor, alone."""
        return max(self.slow.values(), default=0.0)

    def lines(self) -> Iterator[str]:
        for end, count in sorted(self.ends.items(), key=lambda item: -item[1]):
            yield f"  {count:>9,}  {end}"
        yield (
            f"  {self.count:,} {self.kind} in {self.took_s:.0f} s: {self.deaths} deaths, "
            f"{len(self.violations)} violations; the longest {self.longest_s:.2f} s, "
            f"{len(self.slow)} over {SECONDS:g} s beside all else "
            f"(of the processor, alone, at most {self.alone_s:.2f} s); "
            f"at most {self.peak_bytes >> 20} MB held"
        )


class _Hand:
    """A worker process and what it has in hand."""

    def __init__(self, kind: Kind, seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.begun = context.Value("q", -1)
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_worker, args=(kind, seed, self.begun, theirs), daemon=False
        )
        self.process.start()
        theirs.close()
        self.numbers: Sequence[int] = ()
        self.since = time.monotonic()

    def give(self, numbers: Sequence[int]) -> None:
        self.numbers, self.since = numbers, time.monotonic()
        self.pipe.send(numbers)

    def end(self) -> None:
        with suppress(OSError):
            self.pipe.send(None)
        self.process.join(30)
        self.process.kill()
        self.process.join()


def attack(kind: Kind, seed: int, numbers: Sequence[int], workers: int) -> Report:
    """Try all `numbers` of a seed in `workers` processes, printing progress."""
    report, started, told = Report(kind), time.monotonic(), 0.0
    size = min(_CHUNK[kind], -(-len(numbers) // workers))
    left = [numbers[at : at + size] for at in range(0, len(numbers), size)][::-1]
    hands = [_Hand(kind, seed) for _ in range(min(workers, len(left)))]
    for hand in hands:
        hand.give(left.pop())
    try:
        while hands:
            wait([hand.pipe for hand in hands], 1.0)
            for hand in list(hands):
                if not hand.pipe.poll() and hand.process.is_alive():
                    if time.monotonic() - hand.since < _DEADLINE_S:
                        continue
                    hand.process.kill()
                try:
                    report.add(hand.numbers, hand.pipe.recv())
                except (EOFError, OSError):
                    left += _bury(hand, report)
                    hands.remove(hand)
                    if left:
                        hand = _Hand(kind, seed)
                        hands.append(hand)
                if left:
                    hand.give(left.pop())
                elif hand in hands:
                    hand.end()
                    hands.remove(hand)
            if time.monotonic() - told > 10:
                told = time.monotonic()
                rate = report.count / (told - started)
                say(f"{kind}: {report.count:,} of {len(numbers):,}, {rate:,.0f}/s, "
                     f"{len(report.violations)} violations")  # fmt: skip
    finally:
        for hand in hands:
            hand.process.kill()
            hand.process.join()
    report.took_s = time.monotonic() - started
    return report


def _bury(hand: _Hand, report: Report) -> list[Sequence[int]]:
    """A worker died: what it had in hand is the violation, the rest of its chunk is still to do."""
    hand.process.join(10)
    number = hand.begun.value
    if number < 0:
        raise RuntimeError(f"a worker ended before its first: status {hand.process.exitcode}")
    report.deaths += 1
    report.count += 1
    report.violate(number, f"the worker died with status {hand.process.exitcode}")
    rest = [n for n in hand.numbers if n != number]
    return [rest] if rest and report.deaths < 20 else []


def say(line: str) -> None:
    print(line, flush=True)
