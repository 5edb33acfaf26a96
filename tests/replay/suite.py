"""The embedded suite for tests of replays: short calls, and rules that the stub's words meet."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from schemas.events import CallEnded
from services.assembly import Parts, project_root
from services.enrich.settings import EnrichSettings
from services.ingest.entrances import call_ended_for
from services.ingest.handler import upload
from services.loopback import Here
from services.replay.plans import Plan, store_plan
from services.replay.progress import Follower
from services.replay.selection import Selected, Selection, select
from services.runtime.audio import decode
from services.runtime.objects import Objects
from services.runtime.settings import Policy
from services.serve import Running
from services.settings import PREFIX, Settings, load
from services.transcribe.settings import TranscribeSettings
from tests.tables import with_tables

TENANT = "again"
SPEECH = project_root() / "samples" / "audio" / "angry-refund.flac"
DEADLINE_S = 120.0
# A test waits for every replay to be stored.
GATHER_S = 0.1

# The stub engine's words, so that every call has something to find.
_LEXICON = """\
version: "1.0"
languages: [en, und]
classes:
  - id: {topic}
    kind: topic
    title: Made up
    phrases: [alfa, bravo, charlie, delta, echo, foxtrot, golf, hotel]
"""
_ALERTS = """\
version: "1.0"
alerts:
  - id: {alert}
    title: Made up
    severity: high
    when:
      topic: {topic}
    suggested_action: Nothing.
"""


def rules(folder: Path, topic: str, alert: str) -> Path:
    """A folder of rules that find `topic` in what the stub says, and raise `alert`."""
    (folder / "lexicons").mkdir(parents=True)
    (folder / "lexicons" / "made.yaml").write_text(_LEXICON.format(topic=topic))
    (folder / "alerts.yaml").write_text(_ALERTS.format(topic=topic, alert=alert))
    return folder


def settings_in(folder: Path) -> Settings:
    """A data folder of its own; rules in use, and rules to try called `other`."""
    live = rules(folder / "rules", "live_topic", "live_alert")
    rules(folder / "trials" / "other", "live_topic", "other_alert")
    return load(
        data_dir=with_tables(folder / "data"),
        transcribe=TranscribeSettings(engine="stub"),
        enrich=EnrichSettings(rules_dir=live, trial_rules_dir=folder / "trials"),
        loop=Policy(replay_gather_s=GATHER_S),
        tenant=TENANT,
    )


class Command:
    """Runs `callstream` on one data folder, with the stub engine and rules to try.

    `more` are variables beside those, such as where real servers are.
    """

    def __init__(self, folder: Path, more: Mapping[str, str] = {}) -> None:
        self.folder = folder
        base = settings_in(folder)
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(PREFIX)
        } | {
            "CALLSTREAM_DATA_DIR": str(base.data_dir),
            "CALLSTREAM_TENANT": TENANT,
            "CALLSTREAM_TRANSCRIBE__ENGINE": "stub",
            "CALLSTREAM_LOOP__REPLAY_GATHER_S": str(GATHER_S),
            "CALLSTREAM_ENRICH__RULES_DIR": str(base.enrich.rules_dir),
            "CALLSTREAM_ENRICH__TRIAL_RULES_DIR": str(base.enrich.trial_rules_dir),
            "PYTHONWARNINGS": "error",
            **more,
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            self.settings: Settings = load()
        self.parts = Parts(self.settings)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "services.cli", *words],
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def __call__(self, *words: str, status: int = 0) -> str:
        """Standard output; standard error where a failure is expected."""
        return self.ended(self.start(*words), status)

    def ended(self, process: subprocess.Popen[str], status: int = 0) -> str:
        """What a command that was started has to say, as a call."""
        out, err = process.communicate(timeout=180)
        told = f"{process.args!r}: {process.returncode}\n{out}\n{err}"
        assert process.returncode == status, told
        assert "Traceback" not in err, told
        return err if status else out

    def listed(self) -> list[dict[str, Any]]:
        lines = self("replay", "list", "--format", "json").splitlines()
        return [json.loads(line) for line in lines]

    def generation(self, *words: str) -> int:
        """Of a replay that these words begin, and that goes well."""
        out = self("replay", *words)
        return int(out.partition("replay ")[2].partition(":")[0])


@contextmanager
def parts_of(
    settings: Settings, objects: Callable[[Objects], Objects] = lambda it: it
) -> Iterator[Parts]:
    parts = Parts(settings)
    parts.__dict__["objects"] = objects(parts.objects)
    try:
        yield parts
    finally:
        parts.close()


@contextmanager
def at_work(parts: Parts, names: Sequence[str] | None = None) -> Iterator[Running]:
    """Those stages, or all, at work in threads of this process."""
    running = Running(parts, parts.stages if names is None else names)
    running.start()
    try:
        yield running
    finally:
        running.stop.set()
        running.join(parts.settings.loop.grace_s + 5)
        assert not running.failed, running.failed


def recording(folder: Path, number: int) -> Path:
    """Two seconds of speech on both channels over a faint tone that no other call has."""
    spoken = decode(SPEECH)[:, 16_000 * 5 : 16_000 * 7]
    at = np.arange(spoken.shape[1]) / 16_000
    tone = 0.002 * np.sin(2 * np.pi * (100 + number) * at)
    path = folder / f"call-{number}.wav"
    soundfile.write(path, (spoken + tone).T, 16_000, subtype="PCM_16")
    return path


def call(parts: Parts, path: Path, number: int, **more: Any) -> CallEnded:
    metadata = {
        "queue": ("returns", "billing")[number % 2],
        "agent_id": f"a-{number % 3}",
        "agent_name": f"Agent {number % 3}",
        "channel_roles": ["agent", "customer"],
        "language": ("en", "zh")[number // 2 % 2],
        "started_at": datetime(2026, 3, 1 + number, 9, tzinfo=UTC).isoformat(),
        **more,
    }
    return call_ended_for(
        path, tenant_id=TENANT, call_id=f"call-{number}", metadata=metadata,
        uri=upload(parts.objects, TENANT, path),
    )  # fmt: skip


def hand_in(parts: Parts, folder: Path, numbers: Sequence[int]) -> None:
    log = parts.log()
    for number in numbers:
        parts.publish(log, call(parts, recording(folder, number), number))
    log.close()


def drained(parts: Parts, running: Running | None = None) -> None:
    """Wait until no stage has anything left to read."""
    until(lambda: not any(parts.lags().values()), "the stages are not through", running)


def until(holds: Callable[[], bool], what: str, running: Running | None = None) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert running is None or not running.failed, running.failed
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def selected(parts: Parts, stage: str, source: str = "auto", **criteria: Any) -> Selected:
    return select(
        stage, Selection(tenant=TENANT, **criteria), source, Here(parts.warehouse), parts.view,
        parts.codec, parts.view.committed(parts.group("sink")),
    )  # fmt: skip


def planned(
    parts: Parts,
    stage: str,
    found: Selected,
    *,
    options: Mapping[str, str] = {},
    shadow: bool = False,
    side_effects: bool = False,
) -> Plan:
    return store_plan(
        parts.objects, parts.view, stage, Selection(tenant=TENANT), found.inputs,
        options=options, shadow=shadow, side_effects=side_effects, reason="test",
        requested_by="tests",
    )  # fmt: skip


def carried_out(parts: Parts, plan: Plan, **more: Any) -> Follower:
    """Follow the plan to its end, by stages that are at work."""
    log = parts.log()
    follower = Follower(plan, log, parts.view, parts.codec, Here(parts.warehouse), **more)
    deadline = time.monotonic() + DEADLINE_S
    while True:
        happened = follower.step()
        if follower.over:
            break
        assert time.monotonic() < deadline, f"not over: {follower.tally}"
        if not happened:
            time.sleep(0.02)
    log.close()
    return follower


def replayed(parts: Parts, stage: str, source: str = "auto", **asked: Any) -> Plan:
    """Every call again through `stage`, to the end and without a failure."""
    found = selected(parts, stage, source)
    plan = planned(parts, stage, found, **asked)
    follower = carried_out(parts, plan)
    assert follower.tally.done == len(found.inputs) > 0, (follower.tally, follower.reasons)
    return plan


def views(parts: Parts) -> list[str]:
    """Every view that the engine has."""
    rows = parts.warehouse.query(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine = 'View'"
        " ORDER BY name"
    ).rows
    return [name for (name,) in rows]


# When something was made, by which processing, and under which id: what differs between two
# processings that say the same. So does whether a result came from the cache.
_OF_PROCESSING = frozenset(
    (
        "time", "since", "generation", "event_id", "input_id", "transcript_id", "enrichment_id",
        "alert_id", "raised_at", "cached", "id", "partition", "offset", "failed_at", "attempt",
    )
)  # fmt: skip


def content(parts: Parts, view: str, *, processing: bool = False) -> Counter[str]:
    """The rows of a view; with `processing`, when and by what each was made as well."""
    # That the sink is done with an event says nothing of the call.
    where = "WHERE NOT (stage = 'sink' AND state = 'done')" if view == "call_states" else ""
    answer = parts.warehouse.query_to(f"SELECT * FROM {view} {where}", "JSONEachRow")
    rows = [json.loads(line) for line in answer.decode().splitlines()]
    dropped = frozenset() if processing else _OF_PROCESSING
    return Counter(
        json.dumps({name: value for name, value in row.items() if name not in dropped})
        for row in rows
    )


def checksums(parts: Parts, *, processing: bool = False) -> dict[str, str]:
    """View -> SHA-256 of its rows in an order of their own; two that agree hold equal rows."""
    found = {}
    for view in views(parts):
        if view == "shadow_generations":  # says which generations are hidden, nothing of calls
            continue
        rows = sorted(content(parts, view, processing=processing).elements())
        found[view] = hashlib.sha256("\n".join(rows).encode()).hexdigest()
    return found


def count(parts: Parts, sql: str) -> int:
    return int(parts.warehouse.query(sql).rows[0][0])


class Watched:
    """An object store that counts what is read of it, by the first part of the key."""

    def __init__(self, inner: Objects) -> None:
        self._inner = inner
        self.read: Counter[str] = Counter()

    def get(self, key: str) -> bytes:
        self.read[key.partition("/")[0]] += 1
        return self._inner.get(key)

    def get_file(self, key: str, path: Path) -> None:
        self.read[key.partition("/")[0]] += 1
        self._inner.get_file(key, path)

    def exists(self, key: str) -> bool:
        self.read[key.partition("/")[0]] += 1
        return self._inner.exists(key)

    def put(self, key: str, data: bytes) -> None:
        self._inner.put(key, data)

    def put_file(self, key: str, path: Path) -> None:
        self._inner.put_file(key, path)

    def delete(self, key: str) -> None:
        self._inner.delete(key)

    def keys(self, prefix: str = "") -> Iterator[str]:
        return self._inner.keys(prefix)
