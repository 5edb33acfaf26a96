"""Where the command writes, and how it says that it goes no further."""

from __future__ import annotations

import sys

from rich.console import Console

from services.runtime.observe import configure_logs
from services.settings import Settings

# Piped output is not squeezed into the 80 columns that a missing terminal is taken to have.
_WIDTH = None if sys.stdout.isatty() else 140
# What calls and files are named is no markup.
out = Console(width=_WIDTH, markup=False)
err = Console(stderr=True, markup=False)


class Stop(Exception):
    """The command ends here; the text says why and what to do."""


def log_to_file(settings: Settings) -> None:
    """Where a person watches, log lines go to a file beside the data."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    stream = (settings.data_dir / "callstream.log").open("a", buffering=1)
    configure_logs(settings.log_level, stream)
