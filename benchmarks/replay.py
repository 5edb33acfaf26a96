"""How fast calls are selected, asked for and handled again, and what live calls feel of it.

    python -m benchmarks.replay [--calls 400] [--rounds 3] [--live 15] [--selection 10000]

Selection: seconds until the inputs of so many calls of a fabricated archive are known, and what a
condition over the view `calls` adds. Rate: requests published per second, bytes read from the
archive; and calls per second through enrich and sink, until the warehouse shows the last of them.
Live: `callstream up` in a process of its own, on embedded parts and with the stub engine, result
cache off; a call of two seconds is submitted when the one before is through, and its time is from
the upload to its row in `calls_enriched`, which the sink inserts last. That row is asked for by its
key, and not before the log has what it is made of: to ask the view `calls` many times a second
takes more of the warehouse than calls do. Rounds without and with a replay take turns; with one,
`callstream replay` runs in a process of its own, again and again over all calls: of enrich ten
times as many as of transcribe and of ingest. Every stage shares the machine's cores with what
replays, so on few cores the figures show what threads and locks make of priorities.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from schemas.topics import ENRICHED, REPLAY
from services.assembly import Parts, project_root
from services.ingest.entrances import call_ended_for
from services.ingest.handler import upload
from services.loopback import Asks, Here, running
from services.replay.plans import store_plan
from services.replay.progress import Follower
from services.replay.selection import Selection, select
from services.runtime.audio import decode
from services.runtime.codec import Codec, FolderRegistry
from services.runtime.log import Message, TopicPartition
from services.runtime.observe import configure_logs
from services.runtime.sqlite_log import Database, SqliteView
from services.serve import Running
from services.settings import Settings, load
from services.sink.warehouse import Warehouse
from tests.replay.archive import TENANT, fabricated, stored


def selection(folder: Path, calls: int) -> None:
    settings = load(data_dir=folder)
    warehouse = Warehouse.open(settings.sink)
    fabricated(warehouse, folder / "objects", calls)
    asks, view = Here(warehouse), SqliteView(Database(None))
    codec = Codec(FolderRegistry())
    for stage, where in (("enrich", None), ("transcribe", None), ("ingest", None),
                         ("enrich", "score > 1")):  # fmt: skip
        began = time.perf_counter()
        wanted = Selection(tenant=TENANT, where=where)
        found = select(stage, wanted, "archive", asks, view, codec)
        spent = time.perf_counter() - began
        asked = f" --where '{where}'" if where else ""
        print(f"select {stage}{asked}: {len(found.found):,} of {calls:,} calls in {spent:.2f} s")
    warehouse.close()


def rate(folder: Path, calls: int) -> None:
    settings = load(data_dir=folder)
    parts = Parts(settings)
    stored(parts.warehouse, folder / "objects", calls)
    asks = Here(parts.warehouse)
    wanted = Selection(tenant=TENANT)
    found = select("enrich", wanted, "archive", asks, parts.view, parts.codec)
    log = parts.log()

    def follower(ahead: int) -> Follower:
        plan = store_plan(
            parts.objects, parts.view, "enrich", wanted, found.inputs, options={}, shadow=False,
            side_effects=False, reason="", requested_by="benchmark",
        )  # fmt: skip
        return Follower(plan, log, parts.view, parts.codec, asks, ahead=ahead)

    first = follower(calls)
    began = time.perf_counter()
    first.publish()
    spent = time.perf_counter() - began
    print(f"publish: {calls / spent:,.0f} requests per second, {calls:,} of them")
    work = Running(parts, ("enrich", "sink"))
    work.start()
    _through(first)
    second = follower(200)
    began = time.perf_counter()
    _through(second)
    spent = time.perf_counter() - began
    print(f"enrich: {calls / spent:,.0f} calls per second end to end, 200 ahead")
    work.stop.set()
    work.join(30)
    log.close()
    parts.close()


def _through(follower: Follower) -> None:
    while True:
        happened = follower.step()
        if follower.over:
            break
        if not happened:
            time.sleep(0.05)
    if follower.tally.done != follower.tally.total:
        raise RuntimeError(f"{follower.tally}: {follower.reasons}")


@contextmanager
def _process(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "services.cli", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()
        process.wait()


class Taken(NamedTuple):
    """Seconds of one live call."""

    whole: float
    sink: float
    """Of these, from what enrich made to the row."""


class Live:
    """Hands in calls one by one, and takes the time of each."""

    def __init__(self, settings: Settings, asks: Asks, folder: Path) -> None:
        self.parts, self.asks, self._folder = Parts(settings), asks, folder
        self._log = self.parts.log()
        spoken = decode(project_root() / "samples" / "audio" / "angry-refund.flac")
        self._spoken = spoken[:, 16_000 * 5 : 16_000 * 7]
        self.submitted = 0

    def submit(self) -> str:
        """Upload and publish a call that no other is; its id."""
        self.submitted += 1
        at = np.arange(self._spoken.shape[1]) / 16_000
        tone = 0.002 * np.sin(2 * np.pi * (100 + self.submitted / 10) * at)
        path = self._folder / "call.wav"
        soundfile.write(path, (self._spoken + tone).T, 16_000, subtype="PCM_16")
        call = call_ended_for(
            path, tenant_id=TENANT, call_id=f"live-{self.submitted}",
            metadata={"channel_roles": ["agent", "customer"], "language": "en"},
            uri=upload(self.parts.objects, TENANT, path),
        )  # fmt: skip
        self.parts.publish(self._log, call)
        return call.call_id

    def taken(self) -> Taken:
        """A call handed in, until its rows are there."""
        view = self.parts.view
        at = {p: end for p, (_, end) in view.ends(ENRICHED).items()}
        began = time.time()
        id = self.submit()
        key = f"{TENANT}/{id}".encode()
        made: Message | None = None
        while made is None or not self._stored(id):
            if time.time() - began > 120:
                raise RuntimeError(f"{id} does not come through")
            time.sleep(0.01)
            for message in () if made else view.scan(ENRICHED, at):
                at[message.partition] = message.offset + 1
                made = message if message.key == key else made
        ended = time.time()
        return Taken(ended - began, ended - made.timestamp_ms / 1000)

    def _stored(self, id: str) -> bool:
        answer = self.asks.ask(
            "SELECT count() FROM calls_enriched"
            " WHERE tenant_id = {tenant:String} AND call_id = {id:String}",
            "TSV", {"tenant": TENANT, "id": id},
        )  # fmt: skip
        return int(answer) > 0

    def shown(self) -> int:
        """How many of the calls that were handed in the warehouse shows as enriched."""
        return int(
            self.asks.ask(
                "SELECT count() FROM calls WHERE tenant_id = {tenant:String}"
                " AND startsWith(call_id, 'live-') AND state = 'enriched'",
                "TSV", {"tenant": TENANT},
            )
        )  # fmt: skip

    def drained(self, stage: str) -> None:
        """Wait until nothing is left to read, of replays neither."""
        while any(self.parts.lags().values()) or self._asked(stage):
            time.sleep(0.1)

    def _asked(self, stage: str) -> int:
        read = self.parts.view.committed(self.parts.group(stage))
        ends = self.parts.view.ends(REPLAY)
        return sum(end - read.get(TopicPartition(REPLAY, p), 0) for p, (_, end) in ends.items())

    def close(self) -> None:
        self._log.close()
        self.parts.close()


def live(folder: Path, stage: str, calls: int, rounds: int, count: int) -> None:
    settings = load(data_dir=folder)
    if stage == "enrich":  # it needs no audio: these are made without passing through the suite
        warehouse = Warehouse.open(settings.sink)
        stored(warehouse, folder / "objects", 10 * calls)
        warehouse.close()
    with _process("up"):
        while (there := running(settings.data_dir, 60)) is None:
            time.sleep(0.1)
        calm, busy = [], []
        work = Live(settings, there, folder)
        for _ in range(1 if stage == "enrich" else calls):
            work.submit()
        work.drained(stage)
        handled = 0
        for number in range(rounds):
            alone = [work.taken() for _ in range(count)]
            beside, done = _beside_a_replay(work, stage, count)
            print(
                f"  round {number + 1}: {_median(alone)} without, {_median(beside)} with; "
                f"{done:,} calls replayed",
                flush=True,
            )
            calm += alone
            busy += beside
            handled += done
        if work.shown() != work.submitted:
            raise RuntimeError(f"{work.shown()} of {work.submitted} calls came through")
        work.close()
    without, beside_it = [each.whole for each in calm], [each.whole for each in busy]
    ratio = statistics.median(beside_it) / statistics.median(without)
    print(
        f"live beside a replay of {stage}: {_median(calm)} -> {_median(busy)}, ratio {ratio:.3f}; "
        f"p95 {_p95(without):.3f} s -> {_p95(beside_it):.3f} s, ratio "
        f"{_p95(beside_it) / _p95(without):.3f}; {rounds} rounds of {count}, {handled:,} calls "
        "replayed meanwhile"
    )


def _median(times: Sequence[Taken]) -> str:
    whole = statistics.median(each.whole for each in times)
    sink = statistics.median(each.sink for each in times)
    return f"median {whole:.3f} s (sink {sink:.3f} s)"


def _beside_a_replay(work: Live, stage: str, count: int) -> tuple[list[Taken], int]:
    """Times of live calls while replays follow one another; how many calls were replayed."""
    begins = {p: end for p, (_, end) in work.parts.view.ends(REPLAY).items()}
    group = work.parts.group(stage)
    times: list[Taken] = []

    def read() -> int:
        committed = work.parts.view.committed(group)
        return sum(
            max(0, at - begins[source.partition])
            for source, at in committed.items()
            if source.topic == REPLAY
        )

    while len(times) < count:
        with _process("replay", "--stage", stage, "--all", "--ahead", "100") as replaying:
            before = read()
            while read() == before and replaying.poll() is None:
                time.sleep(0.02)
            while len(times) < count:
                spent = work.taken()
                if replaying.poll() is not None:
                    break  # part of it was not beside the replay
                times.append(spent)
    # What a replay of ingest makes is asked for once more, of transcribe.
    handled = read() // (2 if stage == "ingest" else 1)
    work.drained(stage)
    return times, handled


def _p95(times: Sequence[float]) -> float:
    return sorted(times)[min(len(times) - 1, round(0.95 * (len(times) - 1)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--live", type=int, default=15)
    parser.add_argument("--selection", type=int, default=10_000)
    parser.add_argument("--only", choices=("select", "rate", "enrich", "transcribe", "ingest"))
    options = parser.parse_args()
    os.environ["CALLSTREAM_TRANSCRIBE__ENGINE"] = "stub"
    os.environ["CALLSTREAM_TRANSCRIBE__CACHE"] = "false"
    os.environ["CALLSTREAM_TENANT"] = TENANT
    configure_logs("ERROR")
    with tempfile.TemporaryDirectory() as name:
        if options.only in (None, "select"):
            selection(Path(name) / "select", options.selection)
        if options.only in (None, "rate"):
            rate(Path(name) / "rate", 5 * options.calls)
        for stage in ("enrich", "transcribe", "ingest"):
            if options.only in (None, stage):
                folder = Path(name) / stage
                os.environ["CALLSTREAM_DATA_DIR"] = str(folder)
                live(folder, stage, options.calls, options.rounds, options.live)


if __name__ == "__main__":
    main()
