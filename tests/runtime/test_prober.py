"""Many files, each measured in a child that is forked instead of started."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.runtime.audio import AudioLimits, Prober, probe
from services.runtime.errors import Invalid, NotYet
from tests.runtime.test_audio import encoded, silence

LIMITS = AudioLimits()


@pytest.fixture
def prober() -> Iterator[Prober]:
    made = Prober()
    yield made
    made.close()


def below(parent: int) -> list[int]:
    """Processes whose parent is `parent`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == parent:
            found.append(int(path.parent.name))
    return found


def forker() -> int:
    """The process that decoders are forked from."""
    named = [
        pid for pid in below(os.getpid())
        if b"services.runtime.audio" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]  # fmt: skip
    (pid,) = named
    return pid


def test_it_says_what_probe_says(prober: Prober, tmp_path: Path) -> None:
    good = encoded(tmp_path / "call.flac", "flac", 8000, 1)
    (tmp_path / "call.wav").write_bytes(b"no audio at all")
    (tmp_path / "raw").write_bytes(bytes(8000))
    assert prober(good, LIMITS) == probe(good, LIMITS)
    assert prober(tmp_path / "raw", LIMITS, "mulaw") == probe(tmp_path / "raw", LIMITS, "mulaw")
    with pytest.raises(Invalid, match="not_audio"):
        prober(tmp_path / "call.wav", LIMITS)
    with pytest.raises(Invalid, match="too_many_bytes"):
        prober(good, AudioLimits(max_bytes=10))


def test_each_file_has_bounds_of_its_own(prober: Prober, tmp_path: Path) -> None:
    long = silence(tmp_path / "long.opus", 8)
    short = encoded(tmp_path / "call.flac", "flac", 8000, 1)
    data = short.read_bytes()
    large = tmp_path / "large.flac"
    picture = b"\x06" + (15_000_000).to_bytes(3, "big") + bytes(15_000_000)
    large.write_bytes(data[:42] + picture + data[42:])
    with ThreadPoolExecutor(4) as several:
        timed = several.submit(prober, long, AudioLimits(cpu_s=1))
        small = several.submit(prober, large, AudioLimits(memory_bytes=1))
        fine = [several.submit(prober, short, LIMITS) for _ in range(20)]
        assert {each.result().duration_ms for each in fine} == {1000}
        for answer, reason in ((timed, "probe_timeout"), (small, "decoder_memory")):
            with pytest.raises(Invalid, match=reason):
                answer.result()


def test_a_child_that_takes_too_long_is_killed(prober: Prober, tmp_path: Path) -> None:
    long = silence(tmp_path / "long.opus", 3)
    with pytest.raises(NotYet, match="probe_starved"):
        prober(long, AudioLimits(wall_s=0.3))
    deadline = time.monotonic() + 10
    while below(forker()):
        assert time.monotonic() < deadline, "the child goes on"
        time.sleep(0.01)


def test_the_process_it_forks_from_is_started_again(prober: Prober, tmp_path: Path) -> None:
    short = encoded(tmp_path / "call.flac", "flac", 8000, 1)
    long = silence(tmp_path / "long.opus", 3)
    prober(short, LIMITS)
    told: list[NotYet] = []

    def cut_short() -> None:
        with pytest.raises(NotYet, match="probe_killed") as caught:
            prober(long, LIMITS)
        told.append(caught.value)

    probing = threading.Thread(target=cut_short)
    probing.start()
    old = forker()
    while not (children := below(old)):
        assert probing.is_alive()
    os.kill(old, signal.SIGKILL)
    os.kill(children[0], signal.SIGKILL)
    probing.join()
    assert told
    # It is told to end, and may yet take what is handed to it. Who it is stays to be asked.
    os.waitid(os.P_PID, old, os.WEXITED | os.WNOWAIT)
    assert prober(short, LIMITS).duration_ms == 1000
    assert forker() != old


def test_nothing_is_left_by_its_end(tmp_path: Path) -> None:
    made = Prober()
    made(encoded(tmp_path / "call.flac", "flac", 8000, 1), LIMITS)
    pid = forker()
    made.close()
    assert not Path(f"/proc/{pid}").exists()
