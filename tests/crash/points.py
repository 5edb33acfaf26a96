"""Durable steps, counted where they are taken; at a chosen one the process dies.

The product knows nothing of this: `armed` wraps what it is built from, in a process made to die.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import services.runtime.sqlite_log as sqlite_log
from services.runtime.log import Log, Message, Record, TopicPartition
from services.runtime.objects import Objects
from services.sink.warehouse import Warehouse

When = Literal["before", "after"]


class Step(NamedTuple):
    """The `number`-th step of that name (from 1) in one run."""

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name} #{self.number}"


@dataclass
class Points:
    """Counts steps; dies by SIGKILL `when` the step `at` is taken. Thread-safe."""

    at: Step | None = None
    when: When = "before"
    steps: list[Step] = field(default_factory=list)
    _counts: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        with self._lock:
            self._counts[name] += 1
            step = Step(name, self._counts[name])
            self.steps.append(step)
        if step == self.at and self.when == "before":
            die()
        yield
        if step == self.at and self.when == "after":
            die()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


@dataclass
class CountedObjects:
    """As the store inside."""

    inner: Objects
    points: Points

    def put(self, key: str, data: bytes) -> None:
        with self.points.step(f"objects.put {_kind(key)}"):
            self.inner.put(key, data)

    def put_file(self, key: str, path: Path) -> None:
        with self.points.step(f"objects.put_file {_kind(key)}"):
            self.inner.put_file(key, path)

    def delete(self, key: str) -> None:
        with self.points.step(f"objects.delete {_kind(key)}"):
            self.inner.delete(key)

    def get(self, key: str) -> bytes:
        return self.inner.get(key)

    def get_file(self, key: str, path: Path) -> None:
        self.inner.get_file(key, path)

    def exists(self, key: str) -> bool:
        return self.inner.exists(key)

    def keys(self, prefix: str = "") -> Iterator[str]:
        return self.inner.keys(prefix)


def _kind(key: str) -> str:
    return key.partition("/")[0]


Commit = Callable[[Log, Sequence[Record], Mapping[TopicPartition, int]], None]


@dataclass
class CountedLog:
    """As the log inside; `done` is asked before each poll, and ends the stage."""

    inner: Log
    points: Points
    done: Callable[[], bool] = lambda: False
    stop: threading.Event = field(default_factory=threading.Event)
    commits: Commit = lambda log, records, offsets: log.commit(records, offsets)

    def messages(
        self, limit: int, wait_s: float, hold: Collection[TopicPartition] = ()
    ) -> list[Message]:
        if self.done():
            self.stop.set()
        return self.inner.messages(limit, wait_s, hold)

    def commit(self, records: Sequence[Record], offsets: Mapping[TopicPartition, int]) -> None:
        with self.points.step("log.commit"):
            self.commits(self.inner, records, offsets)

    def lease(self, source: TopicPartition) -> int | None:
        return self.inner.lease(source)

    def close(self) -> None:
        self.inner.close()


class CountedWarehouse(Warehouse):
    """A warehouse whose writes are steps."""

    points: Points

    def insert(self, table: str, columns: Sequence[str], data: Sequence[Sequence[Any]]) -> None:
        with self.points.step(f"warehouse.insert {table}"):
            super().insert(table, columns, data)

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        with self.points.step(f"warehouse.command {_statement(sql)}"):
            super().command(sql, parameters)


def _statement(sql: str) -> str:
    return " ".join(sql.partition("(")[0].split()[:7])


# Where a change to a file counts: object store and entrances, never libraries.
_FILES = frozenset({"services.runtime.objects", "services.ingest.entrances"})


def armed(points: Points) -> None:
    """From here on this process's changes to files and its SQLite commits are steps."""

    def counted(owner: Any, method: str, name: str) -> None:
        inner = getattr(owner, method)

        def call(*args: Any, **kwargs: Any) -> Any:
            if sys._getframe(1).f_globals.get("__name__") not in _FILES:
                return inner(*args, **kwargs)
            with points.step(f"file.{name}"):
                return inner(*args, **kwargs)

        setattr(owner, method, call)

    for method in ("replace", "hardlink_to", "unlink", "write_text"):
        counted(Path, method, method)
    counted(os, "fsync", "fsync")

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            if sql != "COMMIT":
                return super().execute(sql, *args)
            with points.step("sqlite.COMMIT"):
                return super().execute(sql, *args)

    connect = sqlite3.connect

    def connected(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        return connect(*args, **kwargs, factory=Connection)

    sqlite_log.sqlite3.connect = connected  # type: ignore[attr-defined]
