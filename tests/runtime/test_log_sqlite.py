"""What the embedded log promises beyond the seam: processes that share it, and that are killed."""

from __future__ import annotations

import fcntl
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from schemas.topics import Topic
from services.runtime.errors import Transient
from services.runtime.log import Record, TopicPartition
from services.runtime.sqlite_log import SqliteLog, SqliteView, _Presence

_REPOSITORY = Path(__file__).parents[2]

# Copies `source` to `target` as the group `group`, 3 messages a commit; a line for each commit.
_COPY = """
import sys
from pathlib import Path
from services.runtime.log import Lost, Record
from services.runtime.sqlite_log import SqliteLog
path, group, source, target = sys.argv[1:]
log = SqliteLog(Path(path), group, [source])
while True:
    got = log.messages(3, 0.2)
    try:
        log.commit(
            [Record(target, m.key, m.value) for m in got], {m.source: m.offset + 1 for m in got}
        )
    except Lost:
        print("lost", flush=True)
    else:
        print(len(got), flush=True)
"""

# Writes 30 records to `target`, each in a commit of its own, to a log that may not be there yet.
_WRITE = """
import sys
from pathlib import Path
from services.runtime.log import Record
from services.runtime.sqlite_log import SqliteLog, SqliteView
path, name, target = sys.argv[1:]
sys.stdin.readline()
SqliteView(Path(path)).create({target: 4})
log = SqliteLog(Path(path))
for number in range(30):
    log.commit([Record(target, f"{name}-{number}".encode(), b"")], {})
"""


@contextmanager
def process(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=_REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def lines(child: subprocess.Popen[str], count: int) -> None:
    """Wait until `child` has committed `count` times more."""
    assert child.stdout is not None
    for _ in range(count):
        assert child.stdout.readline(), "the process ended"


def fill(path: Path, count: int) -> SqliteView:
    view = SqliteView(path)
    view.create({"source": 4, "target": 2})
    with closing(SqliteLog(path)) as writer:
        writer.commit([Record("source", b"k%d" % n, b"%d" % n) for n in range(count)], {})
    return view


def copied(view: SqliteView) -> Counter[bytes | None]:
    return Counter(message.value for message in view.scan("target"))


def expected(count: int) -> Counter[bytes | None]:
    return Counter(b"%d" % n for n in range(count))


def test_a_killed_member_has_written_each_message_once(tmp_path: Path) -> None:
    path, count, chance = tmp_path / "log.db", 200, random.Random(1)
    view = fill(path, count)
    kills = 0
    while (done := copied(view).total()) < count:
        assert kills < 60, f"{done} of {count} after {kills} kills"
        with process(_COPY, path, "g", "source", "target") as child:
            lines(child, chance.randint(1, 15))
        kills += 1
    assert kills > 3
    assert copied(view) == expected(count)
    assert sum(view.committed("g").values()) == count
    view.close()


def test_two_processes_share_a_group_and_the_survivor_goes_on(tmp_path: Path) -> None:
    path, count = tmp_path / "log.db", 300
    view = fill(path, count)
    with (
        process(_COPY, path, "g", "source", "target") as one,
        process(_COPY, path, "g", "source", "target") as other,
    ):
        lines(one, 10)
        lines(other, 10)
        one.kill()
        deadline = time.monotonic() + 30
        while copied(view).total() < count:
            assert time.monotonic() < deadline, f"{copied(view).total()} of {count}"
            lines(other, 1)
    assert copied(view) == expected(count)
    view.close()


def test_several_groups_read_at_once(tmp_path: Path) -> None:
    path, count = tmp_path / "log.db", 90
    view = fill(path, count)
    view.create({f"target-{n}": 1 for n in range(3)})
    children = [process(_COPY, path, f"g{n}", "source", f"target-{n}") for n in range(3)]
    with children[0] as a, children[1] as b, children[2] as c:
        for n, child in enumerate((a, b, c)):
            while (found := Counter(m.value for m in view.scan(f"target-{n}"))).total() < count:
                lines(child, 1)
            assert found == expected(count)
    view.close()


def test_processes_that_open_a_new_log_together(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.db"
    writers = [process(_WRITE, path, name, "target") for name in "abcd"]
    with writers[0] as a, writers[1] as b, writers[2] as c, writers[3] as d:
        for writer in (a, b, c, d):
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        assert [writer.wait(60) for writer in (a, b, c, d)] == [0, 0, 0, 0]
    with closing(SqliteView(path)) as view:
        keys = Counter(message.key for message in view.scan("target"))
    assert keys == Counter(f"{name}-{n}".encode() for name in "abcd" for n in range(30))


def test_what_is_written_by_an_open_transaction_is_not_seen(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    view = fill(path, 5)
    log = SqliteLog(path, "g", ["source"])
    assert len(log.messages(100, 5)) == 5
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("INSERT INTO messages VALUES ('source', 0, 9, NULL, x'00', x'', 0)")
        other.execute("UPDATE partitions SET next_offset = 10 WHERE topic = 'source'")
        assert log.messages(100, 0.1) == []
        assert len(list(view.scan("source"))) == 5
        other.execute("ROLLBACK")
    log.commit([Record("source", b"k", b"seen")], {})
    assert [message.value for message in log.messages(100, 5)] == [b"seen"]
    log.close()
    view.close()


def test_a_log_that_cannot_be_opened_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "log.db").mkdir()
    with pytest.raises(Transient, match=r"log\.db"):
        SqliteLog(tmp_path / "log.db")


def test_a_commit_that_fails_at_its_end_leaves_the_log_usable(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    view = fill(path, 1)
    log = SqliteLog(path)
    # A deferred foreign key fails in COMMIT itself, as a full disk may.
    log._db.connection.execute("PRAGMA foreign_keys=ON")
    log._db.connection.executescript(
        "CREATE TABLE parent (id PRIMARY KEY);"
        "CREATE TABLE child (id REFERENCES parent DEFERRABLE INITIALLY DEFERRED);"
        "CREATE TRIGGER fail AFTER INSERT ON messages WHEN new.value = x'ff'"
        " BEGIN INSERT INTO child VALUES (1); END;"
    )
    with pytest.raises(sqlite3.IntegrityError):
        log.commit([Record("target", b"k", b"\xff")], {})
    log.commit([Record("target", b"k", b"fine")], {})
    assert copied(view) == Counter([b"fine"])
    log.close()
    view.close()


def test_what_is_kept_no_longer_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    view = SqliteView(path)
    view.create({"short": 1, "compact": 1})
    topics = [
        Topic("short", None, "", (), (), retention_ms=100),
        Topic("compact", None, "", (), (), cleanup="compact"),
    ]
    log = SqliteLog(path, "g", ["short", "compact"])
    for topic in ("short", "compact"):
        log.commit(
            [Record(topic, b"k%d" % (n % 3), b"%d" % n, timestamp_ms=n * 10) for n in range(20)], {}
        )
    assert view.expire(200, topics) == 10 + 17
    assert view.ends("short") == {0: (10, 20)}
    got = log.messages(1_000, 5)
    while more := log.messages(1_000, 0.1):
        got += more
    assert [m.offset for m in got if m.topic == "short"] == list(range(10, 20))
    assert [m.value for m in got if m.topic == "compact"] == [b"17", b"18", b"19"]
    log.commit([], {TopicPartition("short", 0): 20, TopicPartition("compact", 0): 20})
    assert [m.offset for m in view.scan("compact")] == [17, 18, 19]
    log.close()
    view.close()


def test_a_hand_over_that_is_not_committed_leaves_the_partitions_with_their_owner(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log.db"
    view = fill(path, 20)
    log = SqliteLog(path, "g", ["source"])
    log.messages(0, 0.0)
    mine = {source for source in _sources(view) if log.lease(source) is not None}
    assert mine == _sources(view)
    connection = log._db.connection
    connection.execute("PRAGMA foreign_keys=ON")
    connection.executescript(
        "CREATE TABLE parent (id PRIMARY KEY);"
        "CREATE TABLE child (id REFERENCES parent DEFERRABLE INITIALLY DEFERRED);"
        "CREATE TRIGGER fail AFTER DELETE ON owners BEGIN INSERT INTO child VALUES (1); END;"
    )
    other = SqliteLog(path, "g", ["source"])
    log._refresh_at = 0.0
    with pytest.raises(sqlite3.IntegrityError):
        log.messages(0, 0.0)
    assert {source for source in _sources(view) if log.lease(source) is not None} == mine
    connection.execute("DROP TRIGGER fail")
    log._refresh_at = other._refresh_at = 0.0
    log.messages(0, 0.0)
    other.messages(0, 0.0)
    kept = {source for source in mine if log.lease(source) is not None}
    gone = {source for source in mine if other.lease(source) is not None}
    assert kept
    assert gone
    assert (kept | gone, kept & gone) == (mine, set())
    for each in (log, other, view):
        each.close()


def _sources(view: SqliteView) -> set[TopicPartition]:
    return {TopicPartition("source", number) for number in range(view.partitions()["source"])}


def test_one_look_at_a_dead_member_does_not_bring_it_to_life_for_another(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    presence = _Presence(path, "member")
    assert presence._file is not None
    os.close(presence._file)  # as the end of its process would
    _Presence._here.discard("member")
    held = _Presence.path(path, "member")
    assert held is not None
    with held.open("r+") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert not _Presence.held(path, "member")
    living = os.open(held, os.O_RDWR)
    fcntl.flock(living, fcntl.LOCK_EX)
    assert _Presence.held(path, "member")
    os.close(living)
