"""kill -9 at any moment: nothing is lost, no order broken, and what was told is on record once."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from schemas import events as e
from schemas.examples import EXAMPLES
from schemas.topics import DEAD_LETTER, NOTIFIED, TOPICS
from services.runtime.codec import Codec, FolderRegistry
from services.runtime.sqlite_log import SqliteLog, SqliteView
from tests.notify.receiver import Reply, receiver

ROOT = Path(__file__).parents[2]
CALL: e.CallEnriched = EXAMPLES["CallEnriched"]["happy"]
CALLS, AMENDED = 12, 4


@contextmanager
def running(log: Path, objects: Path, url: str) -> Iterator[None]:
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.notify", str(log), str(objects), url],
        cwd=ROOT, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        child.kill()
        child.wait()


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not done():
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.01)


def test_killed_again_and_again(tmp_path: Path) -> None:
    log, objects = tmp_path / "log.db", tmp_path / "objects"
    codec, view = Codec(FolderRegistry()), SqliteView(log)
    view.create({topic.name: 3 for topic in TOPICS})
    writer = SqliteLog(log)
    ids = []
    for step in range(AMENDED):
        for number in range(CALLS):
            event = replace(
                CALL, call_id=f"c{number}", revision=CALL.revision + step,
                call=replace(CALL.call, call_id=f"c{number}"),
            )  # fmt: skip
            ids.append(f"c{number}-{step}")
            writer.commit(
                [codec.encode(event, id=ids[-1], source="/test", time=datetime.now(UTC))], {}
            )
    with receiver(lambda request: Reply(204, after_s=0.01)) as there:
        for killed in range(1, 5):
            with running(log, objects, there.url):
                wait_for(lambda killed=killed: len(there.asked) >= 9 * killed)  # type: ignore[misc]
        with running(log, objects, there.url):
            wait_for(lambda: len(list(view.scan(NOTIFIED))) >= len(ids))
    told = [codec.decode(message).event.event_id for message in view.scan(NOTIFIED)]
    assert sorted(told) == sorted(ids)
    assert {request.id for request in there.asked} == set(ids)
    assert all(request.verified() for request in there.asked)
    assert list(view.scan(DEAD_LETTER)) == []
    # A repeat is what was under way when it was killed: four calls at once, four times.
    repeats = Counter(request.id for request in there.asked)
    assert sum(repeats.values()) - len(ids) <= 4 * 4
    for number in range(CALLS):
        first = list(dict.fromkeys(r.id for r in there.asked if r.id.startswith(f"c{number}-")))
        assert first == [f"c{number}-{step}" for step in range(AMENDED)]
    writer.close()
    view.close()
