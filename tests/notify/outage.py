"""A receiver of webhooks is away for long while events keep coming: it gets every one once it is
back, in the order of their calls, each verified by the Standard Webhooks library; another receiver
is told all the while.

    python -m tests.notify.outage --seconds 3600 --rate 1

Both endpoints have the settings that they have unless told otherwise. The port of the one that is
away refuses connections. The last line is the verdict; the exit status is 1 where anything is
missing, double, out of order or not signed.
"""

from __future__ import annotations

import argparse
import socket
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from standardwebhooks.webhooks import WebhookVerificationError

from schemas import events as e
from schemas.examples import EXAMPLES
from schemas.topics import DEAD_LETTER, NOTIFIED, TOPICS
from services.notify.endpoints import Endpoint, Secret
from services.notify.handler import stage
from services.notify.settings import NotifySettings
from services.runtime.codec import Codec, FolderRegistry
from services.runtime.loop import run
from services.runtime.objects import DirectoryObjects
from services.runtime.observe import Observer, configure_logs
from services.runtime.process import topics_of
from services.runtime.settings import Policy
from services.runtime.sqlite_log import Database, SqliteLog, SqliteView
from tests.notify.receiver import SECRET, Reply, Request, receiver

ALERT: e.AlertRaised = EXAMPLES["AlertRaised"]["angry-refund"]
CALL: e.CallEnriched = EXAMPLES["CallEnriched"]["happy"]
# Each call is enriched so often, and raises one alert.
_REVISIONS = 3
_DRAIN_S = 600.0


@dataclass(slots=True)
class Outage:
    """What came of one."""

    seconds: float
    events: int = 0
    first_s: float = 0.0
    """From the receiver's return to the first event it got."""
    drained_s: float = 0.0
    """From the first event to the last of those that waited."""
    other_s: float = 0.0
    """Longest time in which the other receiver was not told of an event."""
    meanwhile: int = 0
    """Events that the other receiver had when this one came back."""
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        wrong = len(self.violations)
        return (
            f"{'FAILED' if wrong else 'PASSED'}: {wrong} violations; away for {self.seconds:.0f} s,"
            f" {self.events} events; the first was there {self.first_s:.1f} s after it was back, "
            f"all of them {self.drained_s:.1f} s later; the other had {self.meanwhile} by then, "
            f"{self.other_s:.2f} s after they were there at most"
        )


@dataclass(frozen=True, slots=True)
class Taken:
    """What a receiver was told."""

    id: str
    at: float
    """In monotonic seconds."""
    event: Any
    """None where it was not signed, or not at that time."""
    why: str = ""

    @classmethod
    def of(cls, request: Request) -> Taken:
        """Verified as a receiver does it: now, since a signature holds for some minutes."""
        at = time.monotonic()
        try:
            return cls(request.id, at, request.verified())
        except WebhookVerificationError as error:
            return cls(request.id, at, None, str(error))


def checked(sent: Sequence[str], taken: Sequence[Taken]) -> list[str]:
    """What is wrong with what a receiver was told, where `sent` are the ids of the events."""
    wrong = []
    orders: dict[tuple[str, str], list[int]] = defaultdict(list)
    for each in taken:
        if each.event is None:
            wrong.append(f"{each.id} is not signed: {each.why}")
            continue
        told = each.event["data"]
        orders[each.event["type"], told["call_id"]].append(told["revision"])
    wrong += [f"{type_} of {call} in the order {found}"
              for (type_, call), found in orders.items() if found != sorted(found)]  # fmt: skip
    counts = Counter(each.id for each in taken)
    wrong += [f"{id} is missing" for id in sent if not counts[id]]
    wrong += [f"{id} came {count} times" for id, count in counts.items() if count > 1]
    return wrong


@contextmanager
def refused_port() -> Iterator[int]:
    """A port that is kept, and refuses connections."""
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]


def outage(
    folder: Path, seconds: float, rate: float, say: Callable[[str], None] = print,
    policy: Policy | None = None, settings: NotifySettings | None = None,
) -> Outage:  # fmt: skip
    """A receiver that is away for `seconds` while `rate` events a second come."""
    policy, settings = policy or Policy(), settings or NotifySettings()
    made = Outage(seconds)
    database, codec = Database(folder / "log.db"), Codec(FolderRegistry())
    view, writer = SqliteView(database), SqliteLog(database)
    view.create({topic.name: 3 for topic in TOPICS})
    objects = DirectoryObjects(folder / "objects")
    stop, sent = threading.Event(), dict[str, float]()
    taken: dict[str, list[Taken]] = {"well": [], "away": []}

    def send(event: Any, id: str) -> None:
        record = codec.encode(event, id=id, source="/test", time=datetime.now(UTC))
        sent[id] = time.monotonic()
        writer.commit([record], {})

    def noting(name: str) -> Callable[[Request], Reply]:
        def answer(request: Request) -> Reply:
            taken[name].append(Taken.of(request))
            return Reply()

        return answer

    def tell(name: str, url: str) -> threading.Thread:
        it = stage(
            Endpoint(name=name, kind="webhook", url=Secret((url,)), where=url,
                     secret=Secret((SECRET,)), allow_private=True),
            objects, settings,
        )  # fmt: skip
        log = SqliteLog(database, it.name, topics_of(it))
        thread = threading.Thread(target=run, args=(it, log, codec, stop, Observer(), policy))
        thread.start()
        return thread

    with receiver(noting("well")) as well, refused_port() as port:
        stages = [tell("well", well.url), tell("away", f"http://127.0.0.1:{port}")]
        began, calls = time.monotonic(), max(1, round(seconds * rate / (1 + _REVISIONS)))
        try:
            for step in range(_REVISIONS):
                for number in range(calls):
                    name = f"call-{number}"
                    about: dict[str, Any] = {"call_id": name, "revision": CALL.revision + step}
                    send(replace(CALL, call=replace(CALL.call, call_id=name), **about),
                         f"{name}/enriched/{step}")  # fmt: skip
                    if not step:
                        send(replace(ALERT, **about), f"{name}/alert")
                    due = began + seconds * (step * calls + number + 1) / (_REVISIONS * calls)
                    time.sleep(max(0.0, due - time.monotonic()))
                say(f"{time.monotonic() - began:.0f} s: {len(sent)} events, "
                    f"{len(taken['well'])} told to the other")  # fmt: skip
            assert not taken["away"]
            back = time.monotonic()
            made.meanwhile = len(taken["well"])
            with receiver(noting("away"), port=port):
                while len(taken["away"]) < len(sent) and time.monotonic() < back + _DRAIN_S:
                    time.sleep(0.05)
                until = time.monotonic() + 10.0
                while _notified(view) < 2 * len(sent) and time.monotonic() < until:
                    time.sleep(0.05)
        finally:
            stop.set()
            for thread in stages:
                thread.join()
    made.events = len(sent)
    made.violations = [
        *(f"away: {line}" for line in checked(list(sent), taken["away"])),
        *(f"well: {line}" for line in checked(list(sent), taken["well"])),
        *(f"dead letter at offset {letter.offset}" for letter in view.scan(DEAD_LETTER)),
    ]
    if made.meanwhile < len(sent) // 2:
        made.violations.append(f"the other had {made.meanwhile} of {len(sent)} meanwhile")
    if (notified := _notified(view)) != 2 * len(sent):
        made.violations.append(f"{notified} of {2 * len(sent)} notifications are on record")
    times = sorted(each.at for each in taken["away"]) or [back]
    made.first_s, made.drained_s = times[0] - back, times[-1] - times[0]
    made.other_s = max((each.at - sent[each.id] for each in taken["well"]), default=0.0)
    return made


def _notified(view: SqliteView) -> int:
    return sum(end - begin for begin, end in view.ends(NOTIFIED).values())


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.notify.outage", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--rate", type=float, default=1.0, help="events a second")
    asked = parser.parse_args()
    configure_logs("CRITICAL")
    with tempfile.TemporaryDirectory(prefix="callstream-outage-") as name:
        made = outage(Path(name), asked.seconds, asked.rate, lambda line: print(line, flush=True))
        for line in made.violations:
            print(f"VIOLATION {line}")
        print(made)
    return 1 if made.violations else 0


if __name__ == "__main__":
    sys.exit(main())
