"""A stage: decode, handle, encode. Pure: knows no log and moves no offset."""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from services.runtime.errors import Invalid
from services.runtime.log import Message

E = TypeVar("E")

# W3C trace context: version, trace, parent (here: the event that carries it), flags.
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")
# Every event id is a UUIDv5 under this namespace.
NAMESPACE = uuid.UUID("6f1d1f0e-6c1b-5f0b-9d0e-3c8d2b8e7a51")


def utc_now() -> datetime:
    """Now, in whole milliseconds: events carry no more."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def event_id(stage: str, about: str, generation: int, ordinal: int) -> str:
    """The id of the `ordinal`-th event that `stage` makes of `about`: the same whenever made."""
    return str(uuid.uuid5(NAMESPACE, f"{stage}\n{about}\n{generation}\n{ordinal}"))


def trace_id(traceparent: str | None, key: bytes | None, otherwise: str = "") -> str:
    """The W3C trace that a message belongs to.

    Where none is said, or what is said is none, that of its call: of its key, else `otherwise`.
    """
    if traceparent is not None and TRACEPARENT.match(traceparent):
        return traceparent.split("-")[1]
    return sha256(key or otherwise.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Envelope(Generic[E]):
    """An event and what came with it.

    `event` is the message itself where the topic carries original bytes (dead letters, retries).
    Of what waited for this stage in a retry tier, `event` is the original event, and `message` the
    one read from the tier.
    """

    event: E
    message: Message
    id: str
    generation: int = 0
    time: datetime = field(default_factory=utc_now)
    causation_id: str | None = None
    traceparent: str | None = None
    attempt: int = 0
    """How often this message has come back from a retry tier."""
    problem: Invalid | None = None
    """Why it could not be decoded; then `event` is the message, as it was before it waited."""
    shadow: bool = False
    """Whether what comes of it is shown to nobody until its generation is promoted."""
    side_effects: bool = True
    """Whether alerts and webhooks may go out for it."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Settings of the stage that a replay overrides."""
    replays: Envelope[Any] | None = None
    """Of a request to replay the stage that gets it: the input, as it first came."""


@dataclass(frozen=True, slots=True)
class Output:
    """An event to publish; its topic follows from its type.

    `about` is what its id is made from; by default the id of the event that caused it.
    """

    event: Any
    about: str | None = None


Outcome = Sequence[Output] | Exception
"""What became of one event: what to publish (nothing is an empty sequence), or why not."""

Handle = Callable[[Sequence[Envelope[Any]]], Iterable[tuple[int, Outcome]]]
"""Handles a batch; yields (index in the batch, outcome) in any order, each as it is ready.

An exception raised by the iterable itself concerns every event it has not yet answered for.
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """What the loop needs to know of a stage."""

    name: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    handle: Handle
    batch: int = 1
    """Most events per call of `handle`."""
    wait_s: float = 0.0
    """How long a batch may wait to fill."""
    workers: int = 1
    """Batches handled at once."""
    passes_undecodable: bool = False
    """Whether `handle` also gets what cannot be decoded, with `problem` set."""
    options: tuple[str, ...] = ()
    """The settings that a replay may override; a request that names another is Invalid."""


def refuse_unknown_options(stage: str, known: Collection[str], options: Mapping[str, str]) -> None:
    """Raises Invalid for an option of a replay that `stage` does not know."""
    for name in options:
        if name not in known:
            knows = f"it knows {', '.join(known)}" if known else "it knows none"
            raise Invalid("unknown_option", f"{stage} knows no option {name!r}; {knows}")


def each(handle_one: Callable[[Envelope[Any]], Sequence[Output]], at_once: int = 1) -> Handle:
    """Lift a handler of one event to a batch; each is answered before the next is handled.

    With `at_once` that many keys are handled at a time, for handlers that wait for a server; the
    events of a key still one after another. Work that outlasts a stop dies with the process.
    """

    def outcome(envelope: Envelope[Any]) -> Outcome:
        try:
            return handle_one(envelope)
        except Exception as failure:
            return failure

    def handle(envelopes: Sequence[Envelope[Any]]) -> Iterator[tuple[int, Outcome]]:
        keys: dict[bytes | None, list[int]] = {}
        for index, envelope in enumerate(envelopes):
            keys.setdefault(envelope.message.key, []).append(index)
        if min(at_once, len(keys)) == 1:
            yield from ((index, outcome(envelope)) for index, envelope in enumerate(envelopes))
            return
        todo: SimpleQueue[list[int]] = SimpleQueue()
        done: SimpleQueue[tuple[int, Outcome]] = SimpleQueue()
        for indexes in keys.values():
            todo.put(indexes)

        def work() -> None:
            with suppress(Empty):
                while True:
                    for index in todo.get(block=False):
                        done.put((index, outcome(envelopes[index])))

        for number in range(min(at_once, len(keys))):
            threading.Thread(target=work, name=f"handling-{number}", daemon=True).start()
        for _ in envelopes:
            yield done.get()

    return handle
