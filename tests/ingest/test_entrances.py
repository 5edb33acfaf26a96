"""Files as calls: what is submitted, and what is dropped into a folder."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import CallEnded, Direction, Queue, Role, SegmentKind
from services.ingest.entrances import (
    DropFolder,
    beyond_audio,
    call_ended_for,
    problem_with_audio,
)
from services.ingest.fetch import Fetch
from services.ingest.settings import IngestSettings
from services.runtime.audio import AudioInfo
from services.runtime.errors import Invalid, Transient
from tests.ingest.hosts import wav

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
CHANGED = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def written(path: Path, content: bytes | str, changed: datetime = CHANGED) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    os.utime(path, (changed.timestamp(), changed.timestamp()))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "call one.wav", wav())


def ended(file: Path, **changes: Any) -> CallEnded:
    return call_ended_for(file, **{"tenant_id": "acme", "clock": lambda: NOW, **changes})


def lies_at(call: CallEnded) -> Path:
    (recording,) = call.recordings
    return Path(unquote(urlsplit(recording.uri or "").path))


def test_a_bare_file(file: Path) -> None:
    call = ended(file)
    assert call.tenant_id == "acme"
    assert call.call_id.startswith("call one-")
    assert (call.started_at, call.ended_at, call.occurred_at) == (CHANGED, CHANGED, CHANGED)
    assert (call.source_updated_at, call.published_at) == (CHANGED, NOW)
    assert lies_at(call) == file


def test_how_long_a_call_took_says_its_audio_where_nothing_else_does(file: Path) -> None:
    asked: list[str | None] = []

    def length_ms(path: Path, container: str | None) -> int:
        assert path == file
        asked.append(container)
        return 38_180

    call = ended(file, length_ms=length_ms)
    assert call.ended_at - call.started_at == timedelta(milliseconds=38_180)
    assert call.ended_at == CHANGED
    assert (call.recordings[0].duration_ms, asked) == (38_180, ["wav"])
    began = {"started_at": "2026-03-02T09:30:00Z"}
    call = ended(file, metadata=began, length_ms=length_ms)
    assert call.ended_at - call.started_at == timedelta(milliseconds=38_180)
    for told in ({**began, "ended_at": "2026-03-02T09:31:00Z"}, {**began, "duration_ms": 60_000}):
        call = ended(file, metadata=told, length_ms=length_ms)
        assert call.ended_at - call.started_at == timedelta(minutes=1)
    assert len(asked) == 2
    assert ended(file, length_ms=lambda path, container: 0) == ended(file)


def test_the_same_file_is_the_same_event(file: Path, tmp_path: Path) -> None:
    call = ended(file)
    assert ended(file) == call
    (tmp_path / "elsewhere").mkdir()
    copy = written(tmp_path / "elsewhere" / file.name, file.read_bytes())
    assert (ended(copy).call_id, ended(copy).event_id) == (call.call_id, call.event_id)
    other = written(tmp_path / "elsewhere" / file.name, wav(value=8))
    assert ended(other).call_id != call.call_id
    renamed = written(tmp_path / "call two.wav", file.read_bytes())
    assert ended(renamed).call_id != call.call_id


def test_what_is_submitted_can_be_fetched(file: Path, tmp_path: Path) -> None:
    (recording,) = ended(file).recordings
    fetch = Fetch(IngestSettings(allowed_roots=(tmp_path,)))
    assert fetch(recording, tmp_path / "to").sha256 == recording.sha256


SIDECAR = {
    "call_id": "c-1",
    "direction": "inbound",
    "queue": "billing",
    "agent_id": "a-1",
    "agent_name": "Dana",
    "language": "en",
    "started_at": "2026-03-02T08:30:00Z",
    "duration_ms": 60_000,
    "hold": [[1000, 2000]],
    "channel_roles": ["agent", "customer"],
    "attributes": {"campaign": "spring"},
    "title": "passed over",
}


@pytest.mark.parametrize("name", ["call one.wav.json", "call one.json", "call one.wav.yaml",
                                  "call one.yml"])  # fmt: skip
def test_a_sidecar_describes_the_call(file: Path, name: str) -> None:
    text = json.dumps(SIDECAR) if name.endswith("json") else yaml.safe_dump(SIDECAR)
    written(file.with_name(name), text, CHANGED + timedelta(minutes=1))
    call = ended(file)
    assert call.call_id == "c-1"
    assert call.direction is Direction.INBOUND
    assert call.queue == Queue(id="billing")
    assert call.language_hints == ["en"]
    assert [p.agent_id for p in call.participants if p.role is Role.AGENT] == ["a-1"]
    assert call.ended_at - call.started_at == timedelta(minutes=1)
    assert [(s.kind, s.start_ms, s.end_ms) for s in call.segments] == [
        (SegmentKind.HOLD, 1000, 2000)
    ]
    assert call.recordings[0].channel_roles == [Role.AGENT, Role.CUSTOMER]
    assert call.attributes == {"campaign": "spring"}
    assert call.source_updated_at == CHANGED + timedelta(minutes=1)


def test_what_is_said_aloud_wins(file: Path) -> None:
    written(file.with_name("call one.wav.json"), json.dumps(SIDECAR))
    call = ended(
        file,
        call_id="mine",
        roles=[Role.CUSTOMER, Role.AGENT],
        metadata={"queue": {"id": "q", "name": "Q"}, "call_id": "theirs", "tenant_id": "other"},
    )
    assert (call.tenant_id, call.call_id) == ("acme", "mine")
    assert call.queue == Queue(id="q", name="Q")
    assert call.recordings[0].channel_roles == [Role.CUSTOMER, Role.AGENT]


def test_another_description_is_another_event_of_the_same_call(file: Path) -> None:
    first, second = ended(file), ended(file, metadata={"wrap_up_code": "refund"})
    assert first.call_id == second.call_id
    assert first.event_id != second.event_id


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        ({"quee": "billing"}, "quee"),
        ({"queue": {"id": "q", "nam": "Q"}}, "queue.nam"),
        ({"participants": [{"participant_id": "p", "role": "agent", "age": 3}]},
         "participants[0].age"),
        ({"talk_ms": "long"}, "talk_ms"),
        ({"talk_ms": "long"}, "talk_ms='long': expected `int | null`, got `str`"),
        ({"direction": "sideways"},
         "direction='sideways' is none of unknown, inbound, outbound"),
        ({"channel_roles": ["agent", "boss"]}, "channel_roles[1]='boss' is none of unknown, cust"),
        ({"agent_name": 5}, "agent_name=5: expected"),
        ({"language": 5}, "language[0]=5: expected"),
        ({"language": "english"}, "language='english' is no language tag"),
        ({"language": "klingon"}, "as in en, zh or de-AT"),
        ({"language_hints": ["en", ""]}, "language_hints=''"),
        ({"hold": [1000, 2000]}, "hold"),
        ({"hold": [[2000, 1000]]}, "hold"),
        ({"hold": [["a", "b"]]}, "hold[0].start_ms='a'"),
        ({"segments": [{"kind": "HOLD", "start_ms": 2, "end_ms": 1}]}, "segments"),
        ({"started_at": "1970-03-02T08:30:00Z"}, "started_at is 1970"),
        ({"ended_at": "2970-03-02T08:30:00Z"}, "ended_at is 2970"),
        ({"started_at": "yesterday"}, "started_at='yesterday'"),
        ({"started_at": "2026-03-02T08:30:00"}, "time zone"),
        ({"started_at": "2026-03-02T08:30:00Z", "ended_at": "2026-03-02T08:00:00Z"}, "ended_at"),
        ({"sha256": "0" * 64}, "sha256"),
        ({"duration_ms": "long"}, "duration_ms='long'"),
        ({"recordings": "none"}, "recordings"),
        ({"segments": 5, "hold": [[1, 2]]}, "segments"),
    ],
)  # fmt: skip
def test_a_wrong_description_names_the_key(
    file: Path, metadata: dict[str, Any], names: str
) -> None:
    with pytest.raises(Invalid) as caught:
        ended(file, metadata=metadata)
    assert caught.value.reason == "bad_metadata"
    assert names in caught.value.detail


@pytest.mark.parametrize("tag", ["en", "zh-Hans-CN", "yue", "en_US", "und"])
def test_a_language_tag_is_taken(file: Path, tag: str) -> None:
    assert ended(file, metadata={"language": tag}).language_hints == [tag]


def test_what_the_audio_denies_is_told(file: Path) -> None:
    mono = AudioInfo("wav", "pcm_s16le", 8000, 1, 60_000, 480_000)
    call = ended(file, roles=[Role.AGENT, Role.CUSTOMER],
                 metadata={"hold": [[1000, 61_000], [70_000, 80_000]]})  # fmt: skip
    assert problem_with_audio(call, mono) == (
        "channel_roles is agent,customer, and the file has 1 channel; leave them away: its voices "
        "share one channel"
    )
    assert problem_with_audio(call, replace(mono, channels=2)) is None
    assert "name 4, in the order" in (problem_with_audio(call, replace(mono, channels=4)) or "")
    (beyond,) = beyond_audio(call, mono)
    assert beyond.startswith("hold [70000, 80000] reaches beyond the recording, which ends at 60")


@pytest.mark.parametrize("text", ["{", "[1]", "3", "\xff", "", '{"quee": "billing"}',
                                  '{"started_at": "yesterday"}', '{"talk_ms": "long"}',
                                  '{"hold": [1]}'])  # fmt: skip
def test_a_sidecar_that_is_wrong_is_named_once(file: Path, text: str) -> None:
    written(file.with_name("call one.wav.json"), text.encode("latin-1"))
    with pytest.raises(Invalid) as caught:
        ended(file)
    assert caught.value.detail.count("call one.wav.json: ") == 1


@given(st.dictionaries(st.text(max_size=12) | st.sampled_from(sorted(SIDECAR)),
                       st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers()),
                       max_size=3))  # fmt: skip
def test_any_description_is_taken_or_refused(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, Any]
) -> None:
    file = written(tmp_path_factory.getbasetemp() / "any.wav", b"x")
    outcome: CallEnded | str
    try:
        outcome = ended(file, metadata=metadata)
    except Invalid as problem:
        outcome = problem.reason
    assert outcome == "bad_metadata" or isinstance(outcome, CallEnded)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ended(tmp_path / "none.wav")


# --- the drop folder --------------------------------------------------------------------------


class Drop:
    """A drop folder, its clock, and what it has published."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder = folder
        self.folder.mkdir(exist_ok=True)
        self.now = NOW
        self.published: list[CallEnded] = []
        self.found: list[bytes] = []
        self.before: BaseException | None = None
        self.after: BaseException | None = None
        self.then: Callable[[], None] = lambda: None
        self._changes = changes
        self.watcher = self.started()

    def started(self) -> DropFolder:
        return DropFolder(
            self.folder, self.publish, tenant_id="acme", clock=lambda: self.now, **self._changes
        )

    def restart(self) -> None:
        self.watcher = self.started()

    def publish(self, call: CallEnded) -> None:
        if self.before:
            raise self.before
        self.published.append(call)
        # What is published can be read at once, where the folder itself is in order.
        if (self.folder / "done").is_dir() or "move" in self._changes:
            self.found.append(lies_at(call).read_bytes())
        self.then()
        if self.after:
            raise self.after

    def look(self, after_s: float = 0.0) -> list[str]:
        self.now += timedelta(seconds=after_s)
        return [call.call_id for call in self.watcher.poll()]

    def settled(self) -> list[str]:
        self.look()
        return self.look(6)

    def names(self, folder: str = ".") -> list[str]:
        there = self.folder / folder
        return sorted(p.name for p in there.iterdir() if p.is_file()) if there.exists() else []


@pytest.fixture
def drop(tmp_path: Path) -> Drop:
    return Drop(tmp_path / "drop")


def test_a_file_is_taken_when_it_has_stopped_growing(drop: Drop) -> None:
    path = drop.folder / "call.wav"
    written(path, wav(0.1))
    assert drop.look() == []
    assert drop.look(4) == []
    written(path, wav(0.2))
    assert drop.look(4) == []
    assert drop.look(4) == []
    (taken,) = drop.look(2)
    assert drop.published[0].call_id == taken
    assert drop.found == [wav(0.2)]
    assert lies_at(drop.published[0]).parent == drop.folder / "done"
    assert drop.names() == []
    assert drop.names("done") == [lies_at(drop.published[0]).name]
    assert drop.settled() == []


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="leases are Linux's")
def test_a_file_that_is_being_written_is_left_alone(drop: Drop) -> None:
    path = written(drop.folder / "call.wav", wav())
    with path.open("r+b"):
        assert drop.settled() == []
    assert len(drop.look()) == 1


def test_a_sidecar_goes_along_and_settles_too(drop: Drop) -> None:
    written(drop.folder / "call.wav", wav())
    drop.look()
    written(drop.folder / "call.wav.json", '{"queue": "billing"}')
    assert drop.look(6) == []
    assert len(drop.look(6)) == 1
    assert drop.published[0].queue == Queue(id="billing")
    assert drop.names() == []
    assert [name.split("-", 1)[1] for name in drop.names("done")] == ["call.wav", "call.wav.json"]


def test_what_is_no_recording_is_left_alone(drop: Drop) -> None:
    (drop.folder / "folder").mkdir()
    (drop.folder / "link.wav").symlink_to("/etc/hostname")
    os.mkfifo(drop.folder / "pipe")
    for name in (".hidden", "call.wav.part", "call.tmp", "notes.json"):
        written(drop.folder / name, "x")
    assert drop.settled() == []
    assert len(drop.names()) == 5


def test_what_cannot_be_described_is_put_aside_and_the_rest_goes_on(drop: Drop) -> None:
    written(drop.folder / "bad.wav", wav(value=1))
    written(drop.folder / "bad.wav.json", '{"quee": "billing"}')
    written(drop.folder / "good.wav", wav(value=2))
    assert len(drop.settled()) == 1
    assert drop.names("refused") == ["bad.wav", "bad.wav.json", "bad.wav.reason"]
    assert "'quee'" in (drop.folder / "refused" / "bad.wav.reason").read_text()


def test_a_publisher_that_is_down_loses_nothing(drop: Drop) -> None:
    written(drop.folder / "call.wav", wav())
    drop.look()
    drop.before = Transient("log_down", "the log does not answer")
    with pytest.raises(Transient):
        drop.look(6)
    assert drop.names() == ["call.wav"]
    drop.before = None
    assert len(drop.look()) == 1
    assert drop.names() == []


@pytest.mark.parametrize("at", ["before", "after"])
@pytest.mark.parametrize("move", [True, False])
def test_a_crash_at_publishing_loses_nothing_and_makes_no_second_call(
    tmp_path: Path, at: str, move: bool
) -> None:
    drop = Drop(tmp_path / "drop", move=move)
    written(drop.folder / "call.wav", wav())
    drop.look()
    setattr(drop, at, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        drop.look(6)
    setattr(drop, at, None)
    drop.restart()
    drop.settled()
    assert len({(call.call_id, call.event_id) for call in drop.published}) == 1
    assert len(drop.published) == (1 if at == "before" else 2)
    assert len(drop.names("done" if move else ".")) == 1
    drop.restart()
    assert drop.settled() == []


def test_a_crash_while_moving_leaves_the_file_where_it_was_published(drop: Drop) -> None:
    written(drop.folder / "call.wav", wav())
    drop.settled()
    target = lies_at(drop.published[0])
    target.rename(target.with_name(f".{target.name}"))
    drop.restart()
    assert target.read_bytes() == wav()
    assert drop.settled() == []


@pytest.mark.parametrize("said", ['{"call_id": "call-1"}', '{"colour": "blue"}'])
def test_a_crash_while_moving_leaves_no_sidecar_for_the_next_file(
    drop: Drop, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """Stopped after each rename in turn, `done` and `refused` alike."""
    replace = Path.replace
    left = 0

    def stopped(path: Path, target: Path) -> Path:
        nonlocal left
        moved = replace(path, target)
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(Path, "replace", stopped)
    for stop_after in (1, 2, 3):
        written(drop.folder / "call.wav", wav())
        written(drop.folder / "call.wav.json", said.encode())
        drop.look()
        left = stop_after
        with pytest.raises(KeyboardInterrupt):
            drop.look(6)
        drop.restart()
        assert drop.names() == [], f"after rename {stop_after}"
        names = [*drop.names("done"), *drop.names("refused")]
        assert {name[-13:] for name in names if name.endswith(".json")} == {"call.wav.json"}
        assert not any(name.startswith(".") for name in names)


def test_a_file_that_cannot_be_moved_stays_and_the_rest_goes_on(drop: Drop) -> None:
    written(drop.folder / "call.wav", wav())
    (drop.folder / "done").rmdir()
    (drop.folder / "done").symlink_to("/dev/null")
    drop.look()
    assert drop.look(6) == []
    assert "call.wav" in drop.names()
    (drop.folder / "done").unlink()
    (drop.folder / "done").mkdir()
    assert len(drop.settled()) == 1
    assert len({call.event_id for call in drop.published}) == 1


def test_the_same_file_dropped_twice_is_the_same_event(drop: Drop) -> None:
    for _ in range(2):
        written(drop.folder / "call.wav", wav())
        assert len(drop.settled()) == 1
    first, second = drop.published
    assert (first.call_id, first.event_id) == (second.call_id, second.event_id)
    assert drop.names() == []
    assert len(drop.names("done")) == 1


def test_another_file_of_the_same_name_is_another_call(drop: Drop) -> None:
    for value in (1, 2):
        written(drop.folder / "call.wav", wav(value=value))
        drop.settled()
    assert len({call.call_id for call in drop.published}) == 2
    assert len(drop.names("done")) == 2


def test_a_file_put_under_the_name_of_one_being_taken_is_kept(tmp_path: Path) -> None:
    class Busy(Drop):
        def publish(self, call: CallEnded) -> None:
            super().publish(call)
            if len(self.published) == 1:
                beside = written(self.folder / ".new", wav(value=2))
                beside.replace(self.folder / "call.wav")

    drop = Busy(tmp_path / "drop")
    written(drop.folder / "call.wav", wav(value=1))
    drop.settled()
    drop.settled()
    assert drop.found == [wav(value=1), wav(value=2)]
    assert drop.names() == []


def test_left_in_place_and_taken_once(tmp_path: Path) -> None:
    drop = Drop(tmp_path / "drop", move=False)
    path = written(drop.folder / "call.wav", wav(value=1))
    assert len(drop.settled()) == 1
    drop.restart()
    assert drop.settled() == []
    written(path, wav(value=2), CHANGED + timedelta(seconds=1))
    assert len(drop.settled()) == 1
    assert drop.names() == ["call.wav"]


def test_a_file_that_cannot_be_refused_stays_and_the_rest_goes_on(drop: Drop) -> None:
    written(drop.folder / "bad.wav", wav(value=1))
    written(drop.folder / "bad.wav.json", '{"quee": "billing"}')
    written(drop.folder / "good.wav", wav(value=2))
    (drop.folder / "refused").rmdir()
    assert len(drop.settled()) == 1
    assert drop.names() == ["bad.wav", "bad.wav.json"]
    (drop.folder / "refused").mkdir()
    assert drop.settled() == []
    assert "bad.wav.reason" in drop.names("refused")


def test_watching_outlasts_a_folder_that_is_away(drop: Drop) -> None:
    away = drop.folder.with_name("away")
    drop.folder.rename(away)
    stop = StopAfterLooks(lambda: away.rename(drop.folder))
    drop.watcher.watch(stop)
    assert stop.looks == 2
    assert drop.settled() == []


class StopAfterLooks(threading.Event):
    """Waits no time; calls `between` after the first look and is set after the second."""

    def __init__(self, between: Callable[[], object]) -> None:
        super().__init__()
        self.looks = 0
        self._between = between

    def wait(self, timeout: float | None = None) -> bool:
        self.looks += 1
        if self.looks == 1:
            self._between()
        else:
            self.set()
        return self.is_set()


def test_watching_ends_when_told(drop: Drop) -> None:
    stop = threading.Event()
    written(drop.folder / "call.wav", wav())
    drop.look()
    drop.now += timedelta(seconds=6)
    watching = threading.Thread(target=drop.watcher.watch, args=(stop, 0.01))
    drop.then = stop.set
    watching.start()
    watching.join(10)
    assert not watching.is_alive()
    assert len(drop.published) == 1


def test_ids_do_not_depend_on_when_they_are_made(file: Path) -> None:
    later = ended(file, clock=lambda: NOW + timedelta(days=1))
    assert replace(later, published_at=NOW) == ended(file)
