"""The ingest stage, from CallEnded to CallRecorded, with a real host and a real probe."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.checks import revision_of
from schemas.events import CallEnded, CallRecorded, Recording, RecordingStatus, Role
from schemas.examples import EXAMPLES
from services.ingest.fetch import Fetch, Fetched, redacted
from services.ingest.handler import key_part, stage
from services.ingest.settings import IngestSettings
from services.runtime.audio import AudioInfo, AudioLimits
from services.runtime.errors import Failure, Invalid, NotYet, Transient
from services.runtime.log import Message
from services.runtime.objects import DirectoryObjects
from services.runtime.stage import Envelope, Outcome, Output
from tests.ingest.hosts import Answer, Host, recording_host, wav

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
ENDED: dict[str, CallEnded] = dict(EXAMPLES["CallEnded"])


@pytest.fixture(scope="module")
def running() -> Iterator[Host]:
    with recording_host() as host:
        yield host


@pytest.fixture
def host(running: Host) -> Host:
    running.answers.clear()
    running.asked.clear()
    return running


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in work lie where `Ingest(tmp_path).scratch` says."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))


class Ingest:
    """The stage over a folder, handling one call at a time."""

    def __init__(self, folder: Path, **changes: object) -> None:
        self.objects = DirectoryObjects(folder / "objects")
        self.scratch = folder / "scratch"
        settings = IngestSettings.model_validate(
            {"allow_private": True, "connect_timeout_s": 2, "read_timeout_s": 5, **changes}
        )
        fetch = Fetch(settings, clock=lambda: NOW)
        self.stage = stage(settings, self.objects, fetch=fetch, clock=lambda: NOW)

    def outcome(self, call: CallEnded) -> Outcome:
        ((_, outcome),) = self.stage.handle([enveloped(call)])
        return outcome

    def recorded(self, call: CallEnded) -> CallRecorded:
        event = self.output(call).event
        assert isinstance(event, CallRecorded)
        return event

    def output(self, call: CallEnded) -> Output:
        outcome = self.outcome(call)
        if isinstance(outcome, Exception):
            raise outcome
        (output,) = outcome
        return output

    def failure(self, call: CallEnded) -> Failure:
        outcome = self.outcome(call)
        assert isinstance(outcome, Failure)
        return outcome


def enveloped(call: CallEnded) -> Envelope[CallEnded]:
    return Envelope(call, Message("calls.ended", 0, 0, None, b"", (), 0), call.event_id, time=NOW)


@pytest.fixture
def ingest(tmp_path: Path) -> Ingest:
    return Ingest(tmp_path)


def recording(uri: str | None, name: str = "r1", **changes: object) -> Recording:
    return Recording(
        recording_id=name,
        **{"status": RecordingStatus.AVAILABLE, "uri": uri, **changes},  # type: ignore[arg-type]
    )


def call_with(*recordings: Recording, **changes: object) -> CallEnded:
    return replace(ENDED["happy"], recordings=list(recordings), **changes)  # type: ignore[arg-type]


def test_a_recording_is_stored_under_its_content(ingest: Ingest, host: Host) -> None:
    body = wav(1.5)
    digest = hashlib.sha256(body).hexdigest()
    roles = [Role.AGENT, Role.CUSTOMER]
    uri = host.serve("/call.wav", body) + "?sig=hush"
    call = call_with(recording(uri, channel_roles=roles, start_offset_ms=250))

    event = ingest.recorded(call)

    (stored,) = event.recordings
    assert stored.object_key == f"audio/acme/{digest[:2]}/{digest}"
    assert ingest.objects.get(stored.object_key) == body
    assert (stored.sha256, stored.size_bytes) == (digest, len(body))
    assert (stored.container, stored.codec) == ("wav", "pcm_s16le")
    assert (stored.sample_rate_hz, stored.channels, stored.duration_ms) == (8000, 2, 1500)
    assert (stored.channel_roles, stored.start_offset_ms) == (roles, 250)
    assert stored.source_uri == uri.removesuffix("?sig=hush")
    assert (event.call, event.recorded_at, event.revision) == (call, NOW, revision_of(call))
    assert (event.refused, event.pending) == ([], [])
    assert list(ingest.scratch.iterdir()) == []


def test_roles_for_another_number_of_channels_are_left_out(ingest: Ingest, host: Host) -> None:
    uri = host.serve("/call.wav", wav(channels=1))
    call = call_with(recording(uri, channel_roles=[Role.AGENT, Role.CUSTOMER]))
    assert ingest.recorded(call).recordings[0].channel_roles == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty_file"),
        (b"not here, sorry\n" * 10, "not_audio"),
        (wav(0), "decodes_to_nothing"),
        (wav(0.1, rate=100_000_000 // 100 * 2, channels=1), "sample_rate"),
        (wav(0.01, channels=3000), "too_many_channels"),
        (wav(3), "too_long"),
    ],
)
def test_refused_audio_is_a_dead_letter(
    tmp_path: Path, host: Host, body: bytes, reason: str
) -> None:
    ingest = Ingest(tmp_path, max_duration_s=2)
    problem = ingest.failure(call_with(recording(host.serve("/call.wav", body))))
    assert (type(problem), problem.reason) == (Invalid, reason)
    assert list(ingest.objects.keys()) == []
    assert list(ingest.scratch.iterdir()) == []


def test_a_file_cut_short_is_kept_with_what_it_has(ingest: Ingest, host: Host) -> None:
    whole = wav(2)
    event = ingest.recorded(call_with(recording(host.serve("/a.wav", whole[: len(whole) // 2]))))
    assert event.recordings[0].duration_ms == pytest.approx(1000, abs=10)


def test_one_refused_of_two(ingest: Ingest, host: Host) -> None:
    good = recording(host.serve("/a.wav", wav()), "a")
    bad = recording(host.serve("/b.wav", b"text"), "b")
    worse = recording(None, "c")
    event = ingest.recorded(call_with(bad, good, worse))
    assert [stored.recording_id for stored in event.recordings] == ["a"]
    assert [refused.recording_id for refused in event.refused] == ["b", "c"]
    assert event.refused[0].reason.startswith("not_audio: ")
    problem = ingest.failure(call_with(bad, worse))
    assert isinstance(problem, Invalid)
    assert str(problem).startswith("not_audio: recording 'b': no audio format")
    assert "'c': no_uri" in problem.detail


@pytest.mark.parametrize("status", ["ABSENT", "FAILED", "DELETED"])
def test_nothing_to_fetch_is_nothing_to_say(ingest: Ingest, host: Host, status: str) -> None:
    uri = host.serve("/call.wav", wav())
    assert ingest.outcome(call_with(recording(uri, status=RecordingStatus(status)))) == ()
    assert host.asked == []


def test_examples_without_an_available_recording(ingest: Ingest) -> None:
    for name in ("smallest", "no-recordings", "recording-absent", "recording-pending"):
        assert ingest.outcome(ENDED[name]) == ()


def test_a_pending_recording_is_named_until_an_amendment_brings_it(
    ingest: Ingest, host: Host
) -> None:
    ready = recording(host.serve("/a.wav", wav()), "a")
    pending = recording(None, "b", status=RecordingStatus.PENDING)
    first = ingest.output(call_with(ready, pending))
    assert first.event.pending == ["b"]

    later = ENDED["happy"].occurred_at + timedelta(minutes=5)
    arrived = recording(host.serve("/b.wav", wav(value=9)), "b")
    second = ingest.output(call_with(ready, arrived, source_updated_at=later))

    assert [stored.recording_id for stored in second.event.recordings] == ["a", "b"]
    assert second.event.revision > first.event.revision
    assert second.about != first.about
    assert host.asked_for("/a.wav") == 1


def test_a_recording_that_becomes_ready_later(ingest: Ingest, host: Host) -> None:
    uri = host.serve("/call.wav", Answer(404), Answer(404), wav())
    for status in (RecordingStatus.PENDING, RecordingStatus.AVAILABLE):
        problem = ingest.failure(call_with(recording(uri, status=status)))
        assert (type(problem), problem.reason) == (NotYet, "not_there")
    assert len(ingest.recorded(call_with(recording(uri))).recordings) == 1


def test_a_host_that_answers_the_third_time(ingest: Ingest, host: Host) -> None:
    uri = host.serve("/call.wav", Answer(503, headers={"Retry-After": "7"}), Answer(429), wav())
    first, second = (ingest.failure(call_with(recording(uri))) for _ in range(2))
    assert isinstance(first, NotYet)
    assert isinstance(second, NotYet)
    assert (first.after_s, second.after_s) == (7.0, None)
    assert ingest.recorded(call_with(recording(uri))).recordings


def test_a_call_waits_for_all_its_recordings_and_fetches_none_twice(
    ingest: Ingest, host: Host
) -> None:
    a = recording(host.serve("/a.wav", wav(value=1)), "a")
    b = recording(host.serve("/b.wav", Answer(404), wav(value=2)), "b")
    c = recording(host.serve("/c.wav", wav(value=3)), "c")
    assert isinstance(ingest.failure(call_with(a, b, c)), NotYet)
    event = ingest.recorded(call_with(a, b, c))
    assert [stored.recording_id for stored in event.recordings] == ["a", "b", "c"]
    assert [host.asked_for(path) for path in ("/a.wav", "/b.wav", "/c.wav")] == [1, 2, 1]


def test_partial_publishes_what_there_is(tmp_path: Path, host: Host) -> None:
    ingest = Ingest(tmp_path, partial=True)
    a = recording(host.serve("/a.wav", wav(value=1)), "a")
    b = recording(host.serve("/b.wav", Answer(404), wav(value=2)), "b")
    first = ingest.output(call_with(a, b))
    assert first.event.pending == ["b"]
    second = ingest.output(call_with(a, b))
    assert second.event.pending == []
    assert second.about != first.about
    c = recording(host.serve("/c.wav", Answer(404)), "c")
    assert isinstance(ingest.failure(call_with(c)), NotYet)


def test_another_file_is_fetched_again(ingest: Ingest, host: Host) -> None:
    first, second = wav(value=1), wav(value=2)
    uri = host.serve("/call.wav", first, second)
    names = [hashlib.sha256(body).hexdigest() for body in (first, second)]
    events = [ingest.recorded(call_with(recording(uri, sha256=name))) for name in names]
    assert [event.recordings[0].sha256 for event in events] == names


def test_another_duration_is_another_file(ingest: Ingest, host: Host) -> None:
    """A version that is told in the query alone looks the same; its duration tells it apart."""
    uri = host.serve("/call.wav", wav(1), wav(2))
    told = [recording(f"{uri}?version={n}", duration_ms=1000 * n) for n in (1, 2)]
    events = [ingest.recorded(call_with(each)) for each in told]
    assert [event.recordings[0].duration_ms for event in events] == [1000, 2000]
    signed_anew = recording(f"{uri}?version=2&sig=other", duration_ms=2000)
    assert ingest.recorded(call_with(signed_anew)).recordings == events[1].recordings
    assert host.asked_for("/call.wav") == 2


def test_audio_that_was_erased_is_fetched_again(ingest: Ingest, host: Host) -> None:
    call = call_with(recording(host.serve("/call.wav", wav())))
    key = ingest.recorded(call).recordings[0].object_key
    ingest.objects.delete(key)
    assert ingest.recorded(call).recordings[0].object_key == key
    assert ingest.objects.exists(key)


def test_a_damaged_receipt_is_no_obstacle(ingest: Ingest, host: Host) -> None:
    call = call_with(recording(host.serve("/call.wav", wav())))
    event = ingest.recorded(call)
    (receipt,) = ingest.objects.keys("receipts/")
    ingest.objects.put(receipt, b'{"half": ')
    assert ingest.recorded(call) == event


def test_an_amendment_of_metadata_is_no_repeat(ingest: Ingest, host: Host) -> None:
    call = call_with(recording(host.serve("/call.wav", wav())))
    amended = replace(call, source_updated_at=NOW, wrap_up_code="refund")
    outputs = [ingest.output(each) for each in (call, call, amended)]
    assert outputs[0] == outputs[1]
    assert outputs[0].about != outputs[2].about
    assert host.asked_for("/call.wav") == 1


def test_tenants_share_no_object(ingest: Ingest, host: Host) -> None:
    uri = host.serve("/call.wav", wav())
    keys = {
        ingest.recorded(call_with(recording(uri), tenant_id=tenant)).recordings[0].object_key
        for tenant in ("acme", "Bäckerei 五", "..", "%2E%2E", "a" * 200, "a" * 201)
    }
    assert len(keys) == 6
    assert set(ingest.objects.keys("audio/")) == keys


@given(st.lists(st.text(min_size=1, max_size=256), min_size=2, max_size=2, unique=True))
def test_ids_make_keys_of_their_own(ids: list[str]) -> None:
    parts = [key_part(text.encode("utf-8", "replace").decode()) for text in ids]
    for part in parts:
        assert part.isascii()
        assert part.isprintable()
        assert 0 < len(part) <= 120
        assert part.strip(".")
        assert "/" not in part
    assert (parts[0] == parts[1]) == (
        ids[0].encode("utf-8", "replace") == ids[1].encode("utf-8", "replace")
    )


def test_an_id_that_looks_shortened_is_no_other() -> None:
    long = "a" * 200
    assert key_part(key_part(long)) != key_part(long)


def test_an_object_store_that_is_down_is_waited_for(tmp_path: Path, host: Host) -> None:
    ingest = Ingest(tmp_path)
    incoming = tmp_path / "objects" / ".incoming"
    incoming.rmdir()
    incoming.write_text("in the way")
    call = call_with(recording(host.serve("/call.wav", wav())))
    assert isinstance(ingest.failure(call), Transient)
    incoming.unlink()
    incoming.mkdir()
    assert ingest.recorded(call).recordings
    assert list(ingest.scratch.iterdir()) == []


def test_files_without_header_are_known_by_what_the_platform_says(
    ingest: Ingest, host: Host
) -> None:
    uri = host.serve("/recording/77", b"\xff\x7f" * 8000)
    event = ingest.recorded(call_with(recording(uri, container="raw", codec="pcm_mulaw")))
    stored = event.recordings[0]
    assert (stored.container, stored.codec) == ("mulaw", "pcm_mulaw")
    assert (stored.sample_rate_hz, stored.duration_ms) == (8000, 2000)


def fetched(recording: Recording, to: Path) -> Fetched:
    if not recording.uri:
        raise Invalid("no_uri", recording.recording_id)
    to.write_bytes(recording.uri.encode())
    return Fetched(hashlib.sha256(recording.uri.encode()).hexdigest(), len(recording.uri))


def probed(path: Path, limits: AudioLimits, container: str | None) -> AudioInfo:
    return AudioInfo("wav", "pcm_s16le", 8000, 2, 300_000, 2_400_000)


@pytest.mark.parametrize("name", sorted(ENDED))
def test_every_example_twice_is_equal(tmp_path: Path, name: str) -> None:
    settings = IngestSettings()

    def outcomes(folder: str) -> Callable[[], list[tuple[int, Outcome]]]:
        objects = DirectoryObjects(tmp_path / folder)
        made = stage(settings, objects, fetch=fetched, probe=probed, clock=lambda: NOW)
        return lambda: list(made.handle([enveloped(ENDED[name])]))

    once = outcomes("a")
    first = once()
    assert first == once()  # by the receipt
    assert first == outcomes("b")()  # by fetching anew
    ((_, outcome),) = first
    assert not isinstance(outcome, Exception)
    expected = [r.recording_id for r in ENDED[name].recordings if r.uri]
    assert [s.recording_id for o in outcome for s in o.event.recordings] == expected
    assert all(s.source_uri == redacted(s.source_uri) for o in outcome for s in o.event.recordings)
