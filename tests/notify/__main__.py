"""A process that tells one endpoint what is in a log, until it is killed: LOG OBJECTS URL."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from services.notify.endpoints import Endpoint, Secret
from services.notify.handler import stage
from services.notify.settings import NotifySettings
from services.runtime.codec import Codec, FolderRegistry
from services.runtime.loop import run
from services.runtime.objects import DirectoryObjects
from services.runtime.observe import Observer
from services.runtime.process import topics_of
from services.runtime.settings import Policy
from services.runtime.sqlite_log import SqliteLog
from tests.notify.receiver import SECRET


def main(log: str, objects: str, url: str) -> None:
    endpoint = Endpoint(
        name="crm", kind="webhook", url=Secret((url,)), where=url, secret=Secret((SECRET,)),
        allow_private=True,
    )  # fmt: skip
    made = stage(endpoint, DirectoryObjects(Path(objects)), NotifySettings())
    run(
        made,
        SqliteLog(Path(log), made.name, topics_of(made)),
        Codec(FolderRegistry()),
        threading.Event(),
        Observer(),
        Policy(backoff_s=0.01, backoff_max_s=0.1, commit_wait_s=0.2),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
