"""What comes from Maven: fetched once, then kept in the cache folder.

The versions are those of the pom beside this file that describes each. The cache is
``$CALLSTREAM_TEST_CACHE/<name>-<version>/`` or, without that variable,
``<repository>/.cache/<name>-<version>/``; either may be deleted whenever no server runs.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from stack.server import CACHE_VARIABLE, ServerError, cache_root, locked, tied

_MAVEN_SECONDS = 900.0


@dataclass(frozen=True)
class Artifacts:
    """What the file `pom` names: the property ``<name.version>`` pins it.

    `goal` of Maven's dependency plugin brings it; the file `proof` is in it, `{}` for the version.
    """

    name: str
    pom: Path
    goal: str
    proof: str

    @property
    def version(self) -> str:
        """The version that the pom pins."""
        version = ET.parse(self.pom).findtext(f".//{{*}}{self.name}.version")
        if not version:
            raise ServerError(f"{self.pom.name} has no <{self.name}.version> property; put it back")
        return version

    def fetched(self) -> Path:
        """A folder with all of it; Maven runs only if the cache lacks it.

        Safe when several processes call it at once: one fills the cache under a file lock while
        the others wait, and a folder gets its final name only when it is complete. A stamp in it
        records the files' names and sizes, so a damaged folder is noticed and made anew. Raises
        `ServerError`.
        """
        home = cache_root() / f"{self.name}-{self.version}"
        jars = home / f"jars-{hashlib.sha256(self.pom.read_bytes()).hexdigest()[:12]}"
        if _complete(jars):
            return jars
        try:
            home.mkdir(parents=True, exist_ok=True)
            (home / ".gitignore").write_text("*\n", encoding="ascii")
            with locked(home / "lock"):
                if not _complete(jars):
                    self._fill(home, jars)
        except OSError as error:
            raise ServerError(
                f"the jar cache cannot be written: {error}. Free or open that folder, or name "
                f"another in ${CACHE_VARIABLE}."
            ) from error
        return jars

    def _fill(self, home: Path, jars: Path) -> None:
        """Make `jars` with Maven; the caller holds the lock."""
        for left_over in home.glob("unfinished-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=home))
        try:
            self._run_maven(unfinished)
            sizes = {
                file.relative_to(unfinished).as_posix(): file.stat().st_size
                for file in sorted(unfinished.rglob("*"))
                if file.is_file()
            }
            proof = self.proof.format(self.version)
            if proof not in sizes:
                raise ServerError(
                    f"Maven succeeded but brought no {proof}; look at {self.pom.name}"
                )
            (unfinished / "stamp.json").write_text(json.dumps(sizes, indent=1), encoding="utf-8")
            unfinished.chmod(0o755)
            if jars.exists():
                shutil.rmtree(jars)
            unfinished.rename(jars)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _run_maven(self, target: Path) -> None:
        maven = shutil.which("mvn")
        if maven is None:
            raise ServerError(
                f"the jars of {self.name} are not in the cache and `mvn` is not on PATH. Install "
                "Apache Maven (Debian, Ubuntu: apt-get install maven), or point "
                f"${CACHE_VARIABLE} to a full cache."
            )
        command = [
            *(maven, "-q", "-B", "-ntp", "-Dstyle.color=never", "-f", str(self.pom)),
            f"dependency:{self.goal}",
            *("-DincludeScope=runtime", f"-DoutputDirectory={target}"),
            # Maven's notes of what it has unpacked are of no use beside the cache.
            f"-Dcallstream.build={target / 'build'}",
        ]
        try:
            done = subprocess.run(
                tied(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_MAVEN_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ServerError(
                f"Maven was not done with {self.pom.name} in {_MAVEN_SECONDS:.0f} s"
            ) from error
        if done.returncode != 0:
            tail = "\n".join(done.stdout.decode("utf-8", "replace").splitlines()[-20:])
            raise ServerError(
                f"Maven could not fetch {self.name} (exit status {done.returncode}). The first "
                "run needs the network; behind a proxy or mirror, set it in Maven's own "
                f"settings.xml. Maven said:\n{tail}"
            )


def _complete(jars: Path) -> bool:
    try:
        stamp = json.loads((jars / "stamp.json").read_text(encoding="utf-8"))
        return bool(stamp) and all((jars / n).stat().st_size == size for n, size in stamp.items())
    except (OSError, ValueError, AttributeError):
        return False
