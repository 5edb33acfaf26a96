"""A real schema registry on loopback that speaks Confluent's API: Apicurio Registry.

Needs Java 11 or newer, and Maven the first time (see `stack.jars`).
"""

from __future__ import annotations

import http.client
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from stack.jars import Artifacts
from stack.server import HOST, Server, java, java_mend

__all__ = ["SchemaRegistry"]

_APICURIO = Artifacts(
    "apicurio",
    Path(__file__).with_name("registry-pom.xml"),
    "unpack-dependencies",
    "apicurio-registry-app-{}-runner.jar",
)
_CONFLUENT = "/apis/ccompat/v7"


class SchemaRegistry(Server):
    """One registry at `url`. What was answered survives a SIGKILL."""

    called = "registry"

    def __init__(self, folder: Path | None = None, *, start_seconds: float = 90.0) -> None:
        super().__init__(folder, start_seconds=start_seconds)
        self._home = Path()

    @property
    def url(self) -> str:
        """Where Confluent's API begins; the same from the first `start()` to `close()`."""
        return f"http://{HOST}:{self._port()}{_CONFLUENT}"

    def _fetch(self) -> None:
        java()
        self._home = _APICURIO.fetched()

    def _command(self) -> Sequence[str]:
        return [
            *(java(), "-Xms64m", "-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
            *("-XX:+ExitOnOutOfMemoryError", f"-Djava.io.tmpdir={self.folder}"),
            *("-jar", str(self._home / f"apicurio-registry-app-{_APICURIO.version}-runner.jar")),
        ]

    def _environ(self) -> Mapping[str, str]:
        # Without WRITE_DELAY=0 the database keeps for half a second in memory what it committed.
        return {
            "QUARKUS_HTTP_HOST": HOST,
            "QUARKUS_HTTP_PORT": str(self._port()),
            "REGISTRY_DATASOURCE_URL": f"jdbc:h2:file:{self.folder / 'registry'};WRITE_DELAY=0",
        }

    def _answers(self) -> bool:
        try:
            with closing(http.client.HTTPConnection(HOST, self._port(), timeout=5)) as connection:
                connection.request("GET", f"{_CONFLUENT}/subjects")
                return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False

    def _mend(self, log: str) -> str:
        return java_mend(log)
