"""One run: calls pass, faults strike, a reader looks on, and a checker says what came of it."""

from __future__ import annotations

import queue
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from services.runtime.codec import Codec, FolderRegistry
from services.runtime.errors import Transient
from services.sink.warehouse import Warehouse, migrations
from tests.chaos.calls import Call, calls, pool, start_of
from tests.chaos.checker import (
    Found,
    Violation,
    check_log,
    check_objects,
    check_offsets,
    check_tables,
    check_transactions,
    read,
)
from tests.chaos.plan import STAGES, Fault, counted, plan
from tests.chaos.producer import Platform
from tests.chaos.reader import Reader
from tests.chaos.suite import Suite

POOL = 300
_SHOWN = 40

Say = Callable[[str], None]


@dataclass(slots=True)
class Verdict:
    """What a run came to."""

    seed: int
    calls: int
    faults: Counter[str] = field(default_factory=Counter)
    """Those that struck, by kind and target."""
    kills: int = 0
    violations: list[str] = field(default_factory=list)
    passing_s: float = 0.0
    """From the first call published to the last one in the tables."""
    total_s: float = 0.0
    messages: Counter[str] = field(default_factory=Counter)
    looks: int = 0
    looks_missed: int = 0
    peaks_mb: dict[str, int] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        return not self.violations

    def __str__(self) -> str:
        what = "0 lost, 0 duplicate, 0 torn" if self.holds else f"{len(self.violations)} violations"
        return (
            f"{'PASSED' if self.holds else 'FAILED'}: {what}; {self.calls} calls, {self.kills} "
            f"kills, {sum(self.faults.values())} faults, {self.total_s:.0f} s, seed {self.seed}"
        )


class Driver:
    """Strikes each fault of a plan when its time has come; faults of one target one by one."""

    def __init__(self, suite: Suite, faults: Sequence[Fault], published: Callable[[], int]) -> None:
        self._suite, self._faults, self._published = suite, faults, published
        self.struck: list[Fault] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._orders = {target: queue.SimpleQueue[Fault | None]() for target in
                        {fault.target for fault in faults}}  # fmt: skip
        self._threads = [
            threading.Thread(target=self._obey, args=(orders,), daemon=True)
            for orders in self._orders.values()
        ]
        self._driver = threading.Thread(target=self._drive, name="driver", daemon=True)

    def start(self) -> None:
        for thread in (*self._threads, self._driver):
            thread.start()

    def finish(self) -> None:
        """Return when every fault that was ordered is over."""
        self._driver.join()
        for orders in self._orders.values():
            orders.put(None)
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        self._stop.set()
        self.finish()

    @property
    def kills(self) -> int:
        return sum(fault.kind == "kill" for fault in self.struck)

    def _drive(self) -> None:
        for fault in self._faults:
            while self._published() < fault.at_call:
                if self._stop.wait(0.02):
                    return
            self._orders[fault.target].put(fault)

    def _obey(self, orders: queue.SimpleQueue[Fault | None]) -> None:
        while (fault := orders.get()) is not None:
            try:
                self._suite.strike(fault)
            except Exception as error:
                self.failures.append(f"{fault}: {type(error).__name__}: {error}")
                self._stop.set()
            self.struck.append(fault)


class Progress:
    """How many calls have come through to the tables; asked again at most every half second."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse
        self._asked = 0.0
        self._enriched = 0

    def enriched(self) -> int:
        if time.monotonic() - self._asked > 0.5:
            try:
                found = self._warehouse.query("SELECT uniqExact(tenant_id, call_id) FROM "
                                              "calls_enriched").rows  # fmt: skip
                self._enriched = max(self._enriched, int(found[0][0]))
            except Exception:
                pass
            self._asked = time.monotonic()
        return self._enriched


def run(
    count: int,
    kills: int,
    seed: int,
    say: Say = print,
    *,
    limit_s: float = 3600.0,
    window: int | None = None,
    protocol: str = "classic",
    named: bool = True,
    folder: Path | None = None,
    every_s: float = 5.0,
) -> Verdict:
    """Let `count` calls pass while `kills` kills and other faults strike; see `plan`.

    No more than `window` calls are under way at once, a fifteenth of all by default. What is not
    over after `limit_s` is a violation too. `named`: see `Suite`. Raises ServerError where a server
    cannot be had.
    """
    began = time.monotonic()
    window = window or max(50, min(600, count // 15))
    with tempfile.TemporaryDirectory(prefix="callstream-chaos-") as made:
        suite = Suite(folder or Path(made), protocol=protocol, named=named)
        with suite:
            verdict = _run(suite, count, kills, seed, say, began + limit_s, window, every_s)
    verdict.total_s = time.monotonic() - began
    return verdict


def _run(
    suite: Suite,
    count: int,
    kills: int,
    seed: int,
    say: Say,
    deadline: float,
    window: int,
    every_s: float,
) -> Verdict:
    verdict = Verdict(seed, count)
    codec = Codec(FolderRegistry())
    faults = plan(seed, count, kills)
    say(f"seed {seed}: {count} calls, {kills} kills; {counted(faults)}")
    recordings = pool(POOL)
    for key, data in recordings.objects.items():
        suite.objects.put(key, data)
    suite.start()
    await_tables(suite, deadline)
    say("the suite is up")
    progress = Progress(suite.warehouse())
    now = start_of(datetime.now(UTC))
    platform = Platform(
        calls(seed, count, recordings, codec, now), suite.broker.bootstrap, suite.objects,
        progress.enriched, window,
    )  # fmt: skip
    reader = Reader(
        suite.warehouse(), lambda: [call.call_id for call in platform.known.copy()], seed
    )
    driver = Driver(suite, faults, lambda: platform.published)
    passing = time.monotonic()
    platform.start()
    reader.start()
    driver.start()
    said_at, said = passing, 0
    late = False
    while not (platform.done.is_set() and progress.enriched() >= platform.enrichable):
        time.sleep(0.1)
        now_s = time.monotonic()
        if platform.failure is not None or driver.failures:
            break
        if ended := suite.ended():
            verdict.violations += ended
            break
        if late := now_s > deadline:
            break
        if now_s - said_at >= every_s:
            done = progress.enriched()
            memory = sum(suite.note_memory().values()) // 1024
            say(
                f"{now_s - passing:6.0f} s  {platform.published} published, {done} of "
                f"{platform.enrichable} in the tables  {(done - said) / (now_s - said_at):5.1f}/s  "
                f"{len(driver.struck)} faults, {driver.kills} kills  {memory} MB"
            )
            if done == said:
                say(f"         behind: {suite.behind()}")
            said_at, said = now_s, done
    verdict.passing_s = time.monotonic() - passing
    if platform.failure is not None or late or verdict.violations:
        platform.stop()
        driver.stop()
    else:
        driver.finish()
    settled = not verdict.violations and not late and settle(suite, platform.known, deadline)
    reader.stop()
    suite.note_memory()
    verdict.faults = Counter(f"{fault.kind} {fault.target}" for fault in driver.struck)
    verdict.kills = driver.kills
    verdict.looks, verdict.looks_missed = reader.looks, reader.missed
    verdict.peaks_mb = {name: size // 1024 for name, size in sorted(suite.peaks.items())}
    if platform.failure is not None:
        verdict.violations.append(f"the platform cannot publish: {platform.failure}")
    verdict.violations += [f"a fault could not be carried out: {why}" for why in driver.failures]
    if not settled:
        verdict.violations.append(
            f"NOT OVER in time: {platform.published} of {count} calls published, "
            f"{progress.enriched()} of {platform.enrichable} in the tables"
        )
        say(suite.tails())
    if not settled:
        # At rest, what is missing is what did not come through; else it is what was under way.
        for stage in suite.stages.values():
            stage.kill()
    if not suite.ended():
        say("checking")
        found, wrong = check(suite, codec, platform.known)
        verdict.messages = found.messages
        reader.compare(found.headlines)
        verdict.violations += [str(each) for each in wrong]
    verdict.violations += reader.violations
    for name, stage in suite.stages.items():
        if stage.pid is not None and (status := stage.stop()) != 0:
            verdict.violations.append(f"{name} ended with status {status} when it was told to stop")
    for line in verdict.violations[:_SHOWN]:
        say(line)
    if len(verdict.violations) > _SHOWN:
        say(f"... and {len(verdict.violations) - _SHOWN} more")
    return verdict


def check(suite: Suite, codec: Codec, known: Sequence[Call]) -> tuple[Found, list[Violation]]:
    """What the topics hold, and all that is wrong there, in the store and in the tables."""
    groups = {name: f"callstream.{name}" for name in STAGES}
    view, warehouse = suite.view, suite.warehouse()
    found = read(view, codec)
    wrong = [
        *check_log(found, known),
        *check_objects(found, suite.objects),
        *check_tables(found, warehouse, known),
        *check_offsets(view, groups),
        *check_transactions(suite.direct_bootstrap),
    ]
    warehouse.close()
    return found, wrong


def await_tables(suite: Suite, deadline: float) -> None:
    """Return once the sink has made all tables and views."""
    wanted = len(migrations())
    while True:
        try:
            asked = "SELECT uniqExact(number) FROM migrations"
            if suite.warehouse().query(asked).rows[0][0] == wanted:
                return
            raise LookupError("some migrations are missing")
        except Exception:
            if ended := suite.ended():
                raise RuntimeError(f"{ended}\n{suite.tails(30)}") from None
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def settle(suite: Suite, known: Sequence[Call], deadline: float) -> bool:
    """Wait until every stage has committed all there is and nothing waits; whether that came."""
    view, warehouse = suite.view, suite.warehouse()
    groups = {name: f"callstream.{name}" for name in STAGES}
    dead = sum(call.expected.dead_reason is not None for call in known)
    letters = 0
    while time.monotonic() < deadline:
        try:
            if letters < dead:
                asked = "SELECT uniqExact(place) FROM events WHERE topic = 'calls.dead-letter'"
                letters = int(warehouse.query(asked).rows[0][0])
            elif not check_offsets(view, groups):
                return True
        except Transient:
            pass
        time.sleep(0.3)
    return False
