"""Some of `make hostile`, with another seed each time; CALLSTREAM_TEST_SEED repeats one."""

from __future__ import annotations

import logging
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog

from services.runtime.errors import Transient
from services.runtime.observe import configure_logs
from services.runtime.stage import Envelope, Outcome
from services.sink.settings import SinkSettings
from services.sink.warehouse import Warehouse
from tests.hostile import audio, reading
from tests.hostile.attack import LOOP_SHARE, Held, Kind, attack, tried
from tests.hostile.messages import Mutants as Messages
from tests.hostile.reading import Reader
from tests.hostile.recordings import Mutants as Recordings
from tests.hostile.recordings import originals

RECORDINGS = int(os.environ.get("CALLSTREAM_TEST_HOSTILE_AUDIO", "200"))
MESSAGES = int(os.environ.get("CALLSTREAM_TEST_HOSTILE_AVRO", "10000"))


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Other tests look at what is logged."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    before = structlog.get_config()
    yield
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


def drawn() -> int:
    seed = int(os.environ.get("CALLSTREAM_TEST_SEED", random.randrange(1 << 32)))
    print(f"seed {seed}: repeat with CALLSTREAM_TEST_SEED={seed}")
    return seed


@pytest.mark.slow
@pytest.mark.clickhouse
@pytest.mark.parametrize(
    ("kind", "count"),
    [("messages", MESSAGES), ("loop", round(MESSAGES * LOOP_SHARE)), ("audio", RECORDINGS)],
)
def test_nothing_hostile_does_harm(kind: Kind, count: int) -> None:
    report = attack(kind, drawn(), range(count), workers=1 if kind == "loop" else 2)
    print("\n".join(report.lines()))
    assert report.violations == []
    assert (report.count, report.deaths) == (count, 0)


def test_who_holds_much_memory_is_found_out() -> None:
    held = Held()
    before, block = held.bytes, bytearray(b"x") * 300_000_000
    assert before > 0
    deadline = time.monotonic() + 30
    while held.bytes < before + len(block) // 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_mutants_are_the_same_again_and_differ_by_seed(tmp_path: Path) -> None:
    for number in range(40):
        assert Recordings(7).file(number) == Recordings(7).file(number)
    assert {Recordings(7).file(0).data} != {Recordings(8).file(0).data}
    with tempfile.TemporaryDirectory() as name:
        reader = Reader(Path(name), 7)
        again = Messages(7, reader.objects)
        assert again.message(3) == Messages(7, reader.objects).message(3)


def test_originals_are_sound(tmp_path: Path) -> None:
    """Else the mutants would all be refused for one reason."""
    from services.runtime.audio import AudioLimits, probe

    for number, original in enumerate(originals()):
        path = tmp_path / f"{number}.{original.suffix}"
        path.write_bytes(original.data)
        assert probe(path, AudioLimits()).samples > 0, original.named


@pytest.mark.parametrize(
    "end",
    ["nothing came of it", "ingest/unexpected: KeyError", "waits: probe_killed",
     "transcribed and transcribed"],
)  # fmt: skip
def test_a_recording_without_a_good_end_is_a_violation(end: str) -> None:
    assert audio.violation(end)


def test_a_recording_that_is_heard_or_refused_is_none() -> None:
    assert not audio.violation("transcribed")
    assert not audio.violation("ingest/not_audio")


@pytest.mark.slow
@pytest.mark.clickhouse
def test_who_holds_a_stage_for_over_a_second_in_the_loops_is_found_out(tmp_path: Path) -> None:
    configure_logs("CRITICAL")
    warehouse = Warehouse.open(SinkSettings(path=tmp_path / "db"))
    reader = Reader(tmp_path, 1, warehouse)
    stage, numbers = reader.stages["enrich"], range(120)
    sound = next(
        n for n in numbers
        if reader.mutants.message(n).message.topic == "calls.transcribed"  # and no request for one
        and "enrich/handled" in reader.judge(n)[0]
    )  # fmt: skip
    slow = reader.mutants.message(sound).message.value
    handle = stage.handle

    def burning(envelopes: Sequence[Envelope[Any]]) -> Iterator[tuple[int, Outcome]]:
        since = time.thread_time()
        while any(e.message.value == slow for e in envelopes) and time.thread_time() < since + 1.2:
            pass
        yield from handle(envelopes)

    assert tried(reader, numbers).bad == {}
    object.__setattr__(stage, "handle", burning)
    (found,) = tried(reader, numbers).bad.items()
    warehouse.close()
    assert found[0] == sound
    assert found[1].startswith("held a stage for ")


def test_a_stage_that_lets_an_exception_out_is_found_out(tmp_path: Path) -> None:
    configure_logs("CRITICAL")
    reader = Reader(tmp_path, 1)

    def broken(envelopes: object) -> object:
        raise KeyError("no such key")

    def down(envelopes: object) -> object:
        raise Transient("objects_down", "the key is too long")

    for handle in (broken, down):
        stage = reader.stages["sink"]
        object.__setattr__(stage, "handle", handle)
        assert any(reading.violation(o) for o in reader.read(range(30)).outcomes.values())
