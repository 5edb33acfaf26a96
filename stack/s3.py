"""A real S3-compatible store on loopback: versitygw, whose objects are plain files.

Built once with `go install` (see `stack.server.built`), which takes minutes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from stack.server import HOST, Server, built

ACCESS_KEY = "callstream"
SECRET_KEY = "callstream-secret"
_VERSION = "v1.8.0"


class Versitygw(Server):
    """One gateway over a folder. It keeps buckets that were made, and what was put and answered."""

    called = "versitygw"

    @property
    def endpoint(self) -> str:
        """``host:port``, without TLS; the same from the first `start()` to `close()`."""
        return f"{HOST}:{self._port()}"

    @property
    def objects(self) -> Path:
        """The folder with one folder per bucket."""
        return self.folder / "data"

    def _fetch(self) -> None:
        self._program = built("versitygw", "github.com/versity/versitygw/cmd/versitygw", _VERSION)

    def _prepare(self) -> None:
        for name in ("data", "meta"):
            (self.folder / name).mkdir(exist_ok=True)

    def _command(self) -> Sequence[str]:
        return [
            *(str(self._program), "--port", self.endpoint, "--region", "us-east-1"),
            *("posix", "--sidecar", str(self.folder / "meta"), str(self.objects)),
        ]

    def _environ(self) -> Mapping[str, str]:
        return {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
