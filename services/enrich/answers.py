"""What a language model answered, kept so that it need not be asked again.

A call that was interrupted goes on where it was, and a replay by other rules asks nothing: the
questions of a call are the same as long as its words, the model and the prompts are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from services.runtime.objects import MissingObject, Objects

# Raised when what is kept changes its meaning: older entries are not found.
_FORM = 1


class Kept(msgspec.Struct, frozen=True):
    """An answer, and what it took."""

    text: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float


_ENTRIES = msgspec.json.Decoder(Kept)


def prefix(tenant_id: str, call_id: str) -> str:
    """Under which every answer about the call is kept."""
    return f"answers/{hashlib.sha256(f'{tenant_id}/{call_id}'.encode()).hexdigest()}/"


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers about one call. Every method raises what the object store does."""

    objects: Objects
    tenant_id: str
    call_id: str
    asked: Mapping[str, object]
    """Of whom, and with what settings."""

    def key(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The object key of the answer to `messages`."""
        material = msgspec.json.encode([_FORM, self.asked, messages], order="sorted")
        return f"{prefix(self.tenant_id, self.call_id)}{hashlib.sha256(material).hexdigest()}.json"

    def load(self, key: str) -> Kept | None:
        """None where there is none, or what is kept cannot be read."""
        try:
            return _ENTRIES.decode(self.objects.get(key))
        except (MissingObject, msgspec.DecodeError, UnicodeDecodeError):
            return None

    def store(self, key: str, answer: Kept) -> None:
        self.objects.put(key, msgspec.json.encode(answer))

    def forget(self, key: str) -> None:
        self.objects.delete(key)
