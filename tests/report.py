"""The outcome of a long run as a Markdown page, which is kept in docs/."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime


def page(
    title: str,
    about: str,
    command: Sequence[str],
    verdict: str,
    seconds: float,
    table: Sequence[Sequence[object]],
    violations: Sequence[str],
) -> str:
    """`table` is rows, the head first."""
    head, *rows = ["| " + " | ".join(map(str, cells)) + " |" for cells in table]
    wrong = "\n".join(f"- {line}" for line in violations) or "None."
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    lines = "\n".join((head, "|" + "---|" * len(table[0]), *rows))
    return f"""# {title}

{about}

```
{shlex.join(command)}
```

**{verdict}**

{datetime.now(UTC):%Y-%m-%d}, {seconds:.0f} s on {os.cpu_count()} cores with {memory_gb:.0f} GB, \
{platform.system()} on {platform.machine()}, Python {platform.python_version()}.

{lines}

## Violations

{wrong}
"""
