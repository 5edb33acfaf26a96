"""Where the command writes, and how it says that it goes no further."""

from __future__ import annotations

import getpass
import sys

from rich.console import Console
from rich.text import Text

from services.runtime.observe import configure_logs
from services.settings import Settings, data_folder

# Piped output has no width to fit into: squeezed, tables would cut ids that scripts look for.
_WIDTH = None if sys.stdout.isatty() else 10_000
# What calls and files are named is no markup.
out = Console(width=_WIDTH, markup=False)
err = Console(stderr=True, markup=False)


class Stop(Exception):
    """The command ends here; the text says why and what to do."""


def log_to_file(settings: Settings) -> None:
    """Where a person watches, log lines go to a file beside the data."""
    stream = (data_folder(settings) / "callstream.log").open("a", buffering=1)
    configure_logs(settings.log_level, stream)


def login_name() -> str:
    """Who runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def tell_error(text: str) -> None:
    """What went wrong, for who typed the command."""
    err.print(Text("error ", style="red"), end="")
    err.print(text, soft_wrap=True)
