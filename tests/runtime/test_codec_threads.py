"""The first messages of a process are decoded by several threads at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import sys, threading
from datetime import UTC, datetime
from schemas.examples import EXAMPLES
from services.runtime.codec import Codec, FolderRegistry
from services.runtime.log import Message

sys.setswitchinterval(1e-6)
writer = Codec(FolderRegistry())
messages = []
for record, events in EXAMPLES.items():
    for event in events.values():
        made = writer.encode(event, id="id", source="/test", time=datetime.now(UTC))
        messages.append(Message(made.topic, 0, 0, made.key, made.value, made.headers, 0))
together = threading.Barrier(8)

def read(message):
    together.wait()
    codec.decode(message)

codec = Codec(FolderRegistry())
for message in messages:
    threads = [threading.Thread(target=read, args=(message,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print(len(messages))
"""


def test_the_process_survives_it() -> None:
    """Where types are learned from messages, half of such processes and more die of SIGSEGV."""
    for _ in range(4):
        ended = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr[-2000:]
        assert int(ended.stdout) > 0
