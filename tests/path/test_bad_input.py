"""Bad input between good calls, through `callstream up`: nobody else notices.

Every bad message stands between two good calls in the one partition that each topic has here. Both
good calls have to come out enriched; the bad one ends where the design says, and nowhere else.

The suite may fetch from 127.0.0.1 because `ingest.allowed_hosts` names it, and from no other
private address.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from schemas.events import CallEnded, Platform, Recording, RecordingStatus, Source
from schemas.topics import DEAD_LETTER, ENDED, RECORDED, RETRY_TIERS, TRANSCRIBED
from services.assembly import Parts, project_root
from services.dead_letters import DeadLetter, unsettled
from services.loopback import Asks, asking
from services.runtime import headers as h
from services.runtime.audio import decode
from services.runtime.log import Log, Message, Record
from services.runtime.stage import utc_now
from services.settings import Settings, load
from tests.ingest.hosts import Answer, Host, recording_host
from tests.runtime.test_audio import silence, wav

pytestmark = pytest.mark.clickhouse

TENANT = "acme"
NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
SPEECH = project_root() / "samples" / "audio" / "angry-refund.flac"
LONGEST_S = 2 * 3600
# The first two tiers are short enough to wait for; the last holds what nobody waits for here.
TIER_DELAYS_S = (0.2, 0.2, 600.0)
TIER_TRIES = 2
SETTINGS = {
    "CALLSTREAM_LOG__PARTITIONS": "1",
    "CALLSTREAM_LOG_LEVEL": "WARNING",
    "CALLSTREAM_TRANSCRIBE__ENGINE": "stub",
    "CALLSTREAM_LOOP": json.dumps({"tier_delays_s": TIER_DELAYS_S, "tier_tries": TIER_TRIES}),
    "CALLSTREAM_INGEST__ALLOWED_HOSTS": '["127.0.0.1"]',
    "CALLSTREAM_INGEST__CONNECT_TIMEOUT_S": "5",
    "CALLSTREAM_INGEST__MAX_DURATION_S": str(LONGEST_S),
}


@dataclass
class Suite:
    """`callstream up` in a process of its own, the log it reads, and a host of recordings."""

    settings: Settings
    parts: Parts
    log: Log
    asks: Asks
    host: Host
    process: subprocess.Popen[bytes]
    told: Path
    speech: NDArray[np.float32]
    numbers: Iterator[int] = field(default_factory=itertools.count)
    letters_seen: int = 0

    def serve(self, *answers: Answer | bytes, suffix: str = ".wav") -> str:
        return self.host.serve(f"/{next(self.numbers)}{suffix}", *answers)

    def spoken(self) -> bytes:
        """Two seconds of speech on two channels over a faint tone that no other file has."""
        at = np.arange(self.speech.shape[1]) / 16_000
        tone = 0.002 * np.sin(2 * np.pi * (100 + next(self.numbers)) * at)
        file = io.BytesIO()
        soundfile.write(file, (self.speech + tone).T, 16_000, format="WAV", subtype="PCM_16")
        return file.getvalue()

    def call(self, *recordings: Recording, **changes: Any) -> CallEnded:
        number = next(self.numbers)
        call = CallEnded(
            event_id=f"event-{number}", tenant_id=TENANT, call_id=f"call-{number}",
            occurred_at=NOON, published_at=NOON, source=Source(platform=Platform.OTHER),
            started_at=NOON - timedelta(minutes=3), ended_at=NOON,
            recordings=list(recordings),
        )  # fmt: skip
        return replace(call, **changes)

    def record(self, call: CallEnded) -> Record:
        return self.parts.codec.encode(
            call, id=call.event_id, source="/test/platform", time=utc_now()
        )

    def amid_good_calls(self, *bad: Record | CallEnded) -> list[DeadLetter]:
        """Publish `bad` between two good calls, and wait until those are enriched.

        Returns the dead letters that this brought. Ingest commits a partition in order: once the
        second good call is through, it has decided about all of `bad`.
        """
        good = [self.call(recording(self.serve(self.spoken()))) for _ in range(2)]
        messages = [good[0], *bad, good[1]]
        self.log.commit(
            [self.record(each) if isinstance(each, CallEnded) else each for each in messages], {}
        )
        self.until(
            lambda: all(self.state(c) == ("enriched", "") for c in good), "both are enriched"
        )
        # Once more: what one stage finished while the first look was taken lies before the next.
        for _ in range(2):
            self.until(lambda: not any(self.parts.lags().values()), "all stages are done")
        return self.new_letters()

    def refused(self, reason: str, *bad: Record | CallEnded, stage: str = "ingest") -> None:
        """Publish `bad` between good calls: they alone become dead letters, bytes and all."""
        records = [self.record(each) if isinstance(each, CallEnded) else each for each in bad]
        letters = self.amid_good_calls(*records)
        for letter, record in zip(letters, records, strict=True):
            assert (letter.stage, letter.reason) == (stage, reason), letter.why
            assert letter.topic == record.topic
            assert (letter.message.key, letter.message.value) == (record.key, record.value)
            assert letter.original_headers == record.headers
        archived = self.rows(
            "SELECT d.stage AS stage, d.reason AS reason, hex(e.value) AS value "
            "FROM dead_letters AS d INNER JOIN (SELECT * FROM events FINAL) AS e "
            f"ON e.topic = '{DEAD_LETTER}' AND e.partition = d.partition AND e.offset = d.offset "
            "WHERE d.offset >= {first:Int64} ORDER BY d.offset",
            {"first": letters[0].message.offset},
        )
        values = [None if each.value is None else each.value.hex().upper() for each in records]
        assert archived == [
            {"stage": stage, "reason": reason, "value": value} for value in values
        ]  # fmt: skip
        for call in bad:
            if isinstance(call, CallEnded):
                assert self.state(call) == ("failed", f"{stage}: {reason}")

    def new_letters(self) -> list[DeadLetter]:
        """Dead letters since this was last asked: none goes unnoticed, however late it comes."""
        letters = list(unsettled(self.parts.view))
        new, self.letters_seen = letters[self.letters_seen :], len(letters)
        return new

    def waits_of(self, record: Record) -> list[Message]:
        """The message's stays in retry tiers, shortest tier first."""
        return [
            message
            for tier in RETRY_TIERS
            for message in self.parts.view.scan(tier.topic)
            if message.key == record.key
        ]

    def rows(self, sql: str, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        answer = self.asks.ask(sql, "JSONEachRow", parameters)
        return [json.loads(line) for line in answer.splitlines()]

    def state(self, call: CallEnded) -> tuple[str, str] | None:
        """What the warehouse says of the call, and why."""
        rows = self.rows(
            "SELECT state, state_reason FROM calls "
            "WHERE tenant_id = {tenant:String} AND call_id = {call:String}",
            {"tenant": call.tenant_id, "call": call.call_id},
        )
        return (rows[0]["state"], rows[0]["state_reason"]) if rows else None

    def recorded(self, call: CallEnded) -> list[dict[str, Any]]:
        """The recordings of the call as ingest published them, one row per CallRecorded."""
        return self.rows(
            "SELECT codecs, channels, toInt32(audio_ms) AS audio_ms FROM calls_recorded FINAL "
            "WHERE tenant_id = {tenant:String} AND call_id = {call:String} ORDER BY revision",
            {"tenant": call.tenant_id, "call": call.call_id},
        )

    def until(self, holds: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not holds():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout_s} s: {what}\n{_end_of(self.told)}")
            time.sleep(0.02)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    folder = tmp_path_factory.mktemp("bad-input")
    data = folder / "data"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CALLSTREAM_")}
    environment |= SETTINGS | {"CALLSTREAM_DATA_DIR": str(data)}
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(environment):
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        settings = load()
    told = folder / "up.log"
    with (
        recording_host() as host,
        _up(environment, told) as process,
    ):
        parts = Parts(settings)
        log = parts.log()
        deadline = time.monotonic() + 60
        while not (data / "up.json").exists():
            assert process.poll() is None, _end_of(told)
            assert time.monotonic() < deadline, "`callstream up` did not start in 60 s"
            time.sleep(0.02)
        with asking(settings) as asks:
            speech = decode(SPEECH)[:, 16_000 * 5 : 16_000 * 7]
            suite = Suite(settings, parts, log, asks, host, process, told, speech)
            yield suite
            late = suite.new_letters()
        log.close()
        parts.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, _end_of(told)
        assert late == []


def _end_of(log: Path) -> str:
    return log.read_text("utf-8", "replace")[-6000:]


@contextmanager
def _up(environment: dict[str, str], told: Path) -> Iterator[subprocess.Popen[bytes]]:
    with told.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.cli", "up"], env=environment, stdout=out, stderr=out
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def recording(uri: str | None, **changes: Any) -> Recording:
    made = Recording(recording_id="r1", status=RecordingStatus.AVAILABLE, uri=uri)
    return replace(made, **changes)


# --- recordings --------------------------------------------------------------------------------


def flac(rate: int, channels: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros((4096, channels)), rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def test_an_empty_file(suite: Suite) -> None:
    suite.refused("empty_file", suite.call(recording(suite.serve(b""))))


def test_text_named_wav(suite: Suite) -> None:
    text = b"The call could not be recorded.\n" * 40
    suite.refused("not_audio", suite.call(recording(suite.serve(text))))


@pytest.mark.parametrize(
    ("suffix", "container"), [(".wav", "WAV"), (".flac", "FLAC"), (".ogg", "OGG")]
)
def test_a_file_cut_short_counts_as_what_is_left(suite: Suite, suffix: str, container: str) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.tile(suite.speech, 4).T, 16_000, format=container)
    whole = file.getvalue()
    half = whole[: len(whole) // 2]
    call = suite.call(recording(suite.serve(half, suffix=suffix), duration_ms=8_000))
    assert suite.amid_good_calls(call) == []
    assert suite.state(call) == ("enriched", "")
    (stored,) = suite.recorded(call)
    assert 2_000 < stored["audio_ms"] < 6_000


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(flac(655_350, 8), "sample_rate", id="flac: 655 kHz, 8 channels"),
        pytest.param(wav(bytes(65_536), 655_350, 8), "sample_rate", id="wav: 655 kHz, 8 channels"),
        pytest.param(
            wav(bytes(262_144), 8_000, 65_535, 8), "too_many_channels", id="wav: 65,535 channels"
        ),
    ],
)
def test_forged_headers(suite: Suite, content: bytes, reason: str) -> None:
    suite.refused(reason, suite.call(recording(suite.serve(content))))


def test_a_forged_header_over_honest_audio_is_not_believed(suite: Suite) -> None:
    """STREAMINFO says 655 kHz and 8 channels, the frames say 16 kHz and two."""
    file = io.BytesIO()
    soundfile.write(file, suite.speech.T, 16_000, format="FLAC")
    data = bytearray(file.getvalue())
    at = data.index(b"fLaC") + 8 + 10
    packed = int.from_bytes(data[at : at + 8], "big")
    packed = packed & ((1 << 41) - 1) | 655_350 << 44 | 7 << 41
    data[at : at + 8] = packed.to_bytes(8, "big")
    call = suite.call(recording(suite.serve(bytes(data), suffix=".flac")))
    assert suite.amid_good_calls(call) == []
    assert suite.state(call) == ("enriched", "")
    (stored,) = suite.recorded(call)
    assert (stored["channels"], stored["audio_ms"]) == ([2], 2_000)


def test_a_wrong_checksum(suite: Suite) -> None:
    told: list[dict[str, Any]] = [{"sha256": "0" * 64}, {"size_bytes": 3}]
    calls = [suite.call(recording(suite.serve(suite.spoken()), **each)) for each in told]
    suite.refused("checksum_mismatch", *calls)


# --- hosts -------------------------------------------------------------------------------------


def test_an_unreachable_host_is_waited_for(suite: Suite) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        call = suite.call(recording(f"http://127.0.0.1:{taken.getsockname()[1]}/call.wav"))
        record = suite.record(call)
        assert suite.amid_good_calls(record) == []
        waits = 2 * TIER_TRIES + 1
        suite.until(lambda: len(suite.waits_of(record)) == waits, "the last tier is reached")
    assert {message.value for message in suite.waits_of(record)} == {record.value}
    suite.until(
        lambda: suite.state(call) == ("waiting", "ingest: unreachable_host"), "it is seen to wait"
    )
    assert suite.new_letters() == []


def test_patience_ends(suite: Suite) -> None:
    """A call comes back from a tier 73 hours after its host was first found silent."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        call = suite.call(recording(f"http://127.0.0.1:{taken.getsockname()[1]}/call.wav"))
        record = suite.record(call)
        now_ms = round(utc_now().timestamp() * 1000)
        stood = {
            h.RETRY_STAGE: "ingest",
            h.RETRY_TOPIC: ENDED,
            h.RETRY_DUE_MS: str(now_ms),
            h.RETRY_ATTEMPT: "79",
            h.RETRY_FIRST_MS: str(now_ms - 73 * 3_600_000),
            h.RETRY_HISTORY: "1. at the beginning: unreachable_host\n",
        }
        came_back = replace(
            record,
            topic=RETRY_TIERS[0].topic,
            headers=(*record.headers, *((name, text.encode()) for name, text in stood.items())),
        )
        letters = suite.amid_good_calls(came_back)
        # A tier is another partition than the good calls': its message may be decided on later.
        view = suite.parts.view
        suite.until(lambda: any(m.key == record.key for m in view.scan(DEAD_LETTER)), "its end")
    (letter,) = letters + suite.new_letters()
    assert (letter.stage, letter.topic, letter.reason) == ("ingest", ENDED, "unreachable_host")
    assert (letter.message.key, letter.message.value) == (record.key, record.value)
    assert letter.original_headers == record.headers
    assert "80 attempts over 262800 s" in letter.why
    assert "1. at the beginning" in letter.why


def test_private_addresses(suite: Suite) -> None:
    hosts = ("localhost", "127.0.0.2", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0.0.0.0",
             "10.0.0.5", "172.16.0.1", "192.168.1.1", "[fd12::1]")  # fmt: skip
    path = "/" + suite.serve(suite.spoken()).rpartition("/")[2]
    calls = [suite.call(recording(suite.host.url(path, host))) for host in hosts]
    suite.refused("forbidden_address", *calls)
    assert suite.host.asked_for(path) == 0


def test_metadata_addresses(suite: Suite) -> None:
    hosts = ("169.254.169.254", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "100.100.100.200")
    calls = [suite.call(recording(f"http://{host}/latest/meta-data/")) for host in hosts]
    suite.refused("forbidden_address", *calls)


def test_a_redirect_to_such_an_address(suite: Suite) -> None:
    path = "/" + suite.serve(suite.spoken()).rpartition("/")[2]
    calls = [
        suite.call(recording(suite.serve(Answer(302, headers={"Location": location}))))
        for location in (suite.host.url(path, "localhost"), "http://169.254.169.254/latest/")
    ]
    suite.refused("forbidden_address", *calls)
    assert suite.host.asked_for(path) == 0


@pytest.mark.parametrize("statuses", [(404,), (503, 429)], ids=["not ready yet", "third time"])
def test_a_recording_that_comes_later(suite: Suite, statuses: tuple[int, ...]) -> None:
    answers = [Answer(status) for status in statuses]
    call = suite.call(recording(suite.serve(*answers, suite.spoken())))
    record = suite.record(call)
    assert suite.amid_good_calls(record) == []
    suite.until(lambda: suite.state(call) == ("enriched", ""), "the recording came through")
    waits = suite.waits_of(record)
    assert [message.value for message in waits] == [record.value] * len(statuses)
    assert suite.new_letters() == []


# --- messages ----------------------------------------------------------------------------------


def framed(schema_id: int, body: bytes) -> bytes:
    return struct.pack(">bI", 0, schema_id) + body


def test_an_unknown_schema_id(suite: Suite) -> None:
    record = suite.record(suite.call(recording(suite.serve(suite.spoken()))))
    assert record.value is not None
    suite.refused("unknown_schema_id", replace(record, value=framed(4_711, record.value[5:])))


@pytest.mark.parametrize(
    ("topic", "schema_id", "stage"),
    [(ENDED, 1, "ingest"), (RECORDED, 2, "transcribe"), (TRANSCRIBED, 3, "enrich")],
)
def test_garbage_for_avro(suite: Suite, topic: str, schema_id: int, stage: str) -> None:
    # On a later topic it lies before what becomes of the two good calls.
    key = f"{TENANT}/garbage-{next(suite.numbers)}".encode()
    body = bytes(range(255, 0, -1)) * 20
    suite.refused("not_avro", Record(topic, key, framed(schema_id, body)), stage=stage)


def test_half_a_message(suite: Suite) -> None:
    record = suite.record(suite.call(recording(suite.serve(suite.spoken()))))
    assert record.value is not None
    suite.refused("not_avro", replace(record, value=record.value[: len(record.value) // 2]))


def test_no_event_at_all(suite: Suite) -> None:
    key = f"{TENANT}/none-{next(suite.numbers)}".encode()
    suite.refused("not_framed", Record(ENDED, key, b""), Record(ENDED, key, b'{"call_id": 1}'))
    suite.refused("no_value", Record(ENDED, key, None))


def test_an_unknown_version_of_a_topic(suite: Suite) -> None:
    record = suite.record(suite.call(recording(suite.serve(suite.spoken()))))
    headers = tuple(
        (name, b"callstream.CallEnded.v2" if name == h.TYPE else value)
        for name, value in record.headers
    )
    suite.refused("unknown_type", replace(record, headers=headers))


def test_the_schema_of_another_record(suite: Suite) -> None:
    record = suite.record(suite.call(recording(suite.serve(suite.spoken()))))
    assert record.value is not None
    suite.refused("wrong_schema", replace(record, value=framed(2, record.value[5:])))


def test_a_key_that_is_not_the_calls(suite: Suite) -> None:
    record = suite.record(suite.call(recording(suite.serve(suite.spoken()))))
    keys = (None, b"acme/another", b"\xff\xfe")
    suite.refused("wrong_key", *(replace(record, key=key) for key in keys))


# --- calls -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "recordings", [(), (recording(None, status=RecordingStatus.ABSENT),)], ids=["none", "absent"]
)
def test_a_call_without_recordings(suite: Suite, recordings: tuple[Recording, ...]) -> None:
    call = suite.call(*recordings)
    assert suite.amid_good_calls(call) == []
    state = suite.state(call)
    assert state is not None
    assert state[0] == "no_recording"


def test_a_pending_recording_that_an_amendment_brings(suite: Suite) -> None:
    call = suite.call(recording(None, status=RecordingStatus.PENDING))
    assert suite.amid_good_calls(call) == []
    assert suite.state(call) == ("ended", "")
    amended = replace(
        call,
        event_id=f"{call.event_id}-amended",
        source_updated_at=NOON + timedelta(minutes=5),
        recordings=[recording(suite.serve(suite.spoken()))],
    )
    assert suite.amid_good_calls(amended) == []
    assert suite.state(call) == ("enriched", "")
    # The first word about the call is repeated late: it takes nothing back.
    assert suite.amid_good_calls(call) == []
    assert suite.state(call) == ("enriched", "")
    assert len(suite.recorded(call)) == 1


# --- memory ------------------------------------------------------------------------------------


def _status_kib(pid: int, name: str) -> int:
    """A size from /proc/<pid>/status; 0 where the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def _probing(parent: int) -> Iterator[int]:
    """The probing processes that `parent` runs, and the one that they are forked from."""
    for path in Path("/proc").glob("[0-9]*"):
        pid = int(path.name)
        try:
            command = (path / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        above = _status_kib(pid, "PPid")
        if b"services.runtime.audio" in command and parent in (above, _status_kib(above, "PPid")):
            yield pid


@dataclass
class Peaks:
    """Largest resident memory, in MiB, of the suite's own process and of any probing one."""

    own: float = 0.0
    probing: float = 0.0
    together: float = 0.0


@contextmanager
def peaks_of(pid: int) -> Iterator[Peaks]:
    """Watch the process tree while the block runs; the kernel keeps each process's own peak."""
    seen = Peaks()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            children = list(_probing(pid))
            for child in children:
                seen.probing = max(seen.probing, _status_kib(child, "VmHWM") / 1024)
            resident = sum(_status_kib(each, "VmRSS") for each in (pid, *children))
            seen.together = max(seen.together, resident / 1024)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
        seen.own = _status_kib(pid, "VmHWM") / 1024


@pytest.mark.slow
def test_memory_stays_bounded(suite: Suite, tmp_path: Path) -> None:
    """25 MB of Opus that decode to 39 hours, and headers that ask for gigabytes."""
    part = silence(tmp_path / "part.opus", 0.5).read_bytes()
    opus = part * -(-25_000_000 // len(part))
    rates, channels = flac(655_350, 8), wav(bytes(262_144), 8_000, 65_535, 8)
    bad = [suite.call(recording(suite.serve(opus, suffix=".opus")))]
    bad += [suite.call(recording(suite.serve(each))) for each in (rates, channels) * 8]
    assert suite.amid_good_calls() == []
    before = _status_kib(suite.process.pid, "VmRSS") / 1024
    with peaks_of(suite.process.pid) as peaks:
        letters = suite.amid_good_calls(*bad)
    assert [letter.reason for letter in letters] == [
        "too_long",
        *("sample_rate", "too_many_channels") * 8,
    ]
    print(f"MiB: {before:.0f} before; {peaks}")
    # Up to the length that is allowed, the Opus alone would take 660 MiB as 16-bit samples.
    assert 0 < peaks.probing < 100
    assert 0 < peaks.own < before + 128
    assert 0 < peaks.together < 1024
