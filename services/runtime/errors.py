"""Why a message could not be handled.

    Failure
    ├── Invalid      this input can never succeed        -> dead letter now, the batch goes on
    ├── Transient    a dependency of ours is down        -> wait, keep the partition, commit nothing
    └── NotYet       this one call must wait             -> a retry tier, in the same commit

Any other exception is a bug or a surprise: tried again a set number of times, then dead-lettered
with its traceback, and the breaker stops the stage when such failures pile up.
"""

from __future__ import annotations


class Failure(Exception):
    """`reason` is a stable snake_case word for metrics and queries; `detail` is for people.

    `detail` names the key and the value that are wrong, and the mend where there is one.
    It never holds credentials, query strings of signed URLs, or audio.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def cause(error: BaseException) -> str:
    """What lies under a client's error, such as `Connection refused`, in a line."""
    while True:
        under = (error.__cause__, getattr(error, "reason", None), *error.args[-1:])
        inner = next((each for each in under if isinstance(each, BaseException)), None)
        if inner is None:
            break
        error = inner
    told = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return told.partition("\n")[0][:300]


class Invalid(Failure):
    """This input can never succeed."""


class Transient(Failure):
    """A dependency of ours is down; the same input will succeed when it is back."""


class NotYet(Failure):
    """This one call must wait; `after_s` is when to look again, where that is known."""

    def __init__(self, reason: str, detail: str, after_s: float | None = None) -> None:
        super().__init__(reason, detail)
        self.after_s = after_s
