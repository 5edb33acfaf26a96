"""The Kafka broker's jars: fetched once with Maven, then kept in a cache folder.

The versions are those of ``pom.xml`` beside this file. The cache is
``$CALLSTREAM_TEST_CACHE/kafka-<version>/`` or, without that variable,
``<repository>/.cache/kafka-<version>/``; either may be deleted whenever no broker runs.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CACHE_VARIABLE = "CALLSTREAM_TEST_CACHE"
POM = Path(__file__).with_name("pom.xml")
_MAVEN_SECONDS = 900.0

# Runs before the real program, in the same process: asks the kernel for SIGKILL when the parent
# goes, makes sure that it had not gone already, and becomes the program. A `preexec_fn` would do
# the same, but it runs Python between fork and exec, which can deadlock once librdkafka's threads
# exist in the parent. PR_SET_PDEATHSIG (1) is Linux only; elsewhere this only becomes the program.
_BECOME = """
import os, signal, sys
if sys.platform == "linux":
    import ctypes
    if ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0) != 0:
        sys.exit("prctl(PR_SET_PDEATHSIG) was refused")
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent process is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class BrokerError(RuntimeError):
    """The broker, or what it needs, is not there; the message says what is missing and the mend."""


def tied(command: Sequence[str]) -> list[str]:
    """Return `command` so wrapped that on Linux its process dies with the thread that starts it.

    The kernel ties the child to the starting *thread*, so that thread must outlive the child.
    `command[0]` must be a path; the process that results is `command` itself, under the pid that
    `subprocess` reports.
    """
    return [sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()), *command]


def kafka_version() -> str:
    """Return the broker version that ``pom.xml`` pins."""
    version = ET.parse(POM).findtext(".//{*}kafka.version")
    if not version:
        raise BrokerError(f"{POM.name} has no <kafka.version> property; put it back")
    return version


def cache_root() -> Path:
    """Return the folder that holds the ``kafka-<version>`` folders; it need not exist yet."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).resolve() if named else POM.parents[1] / ".cache"


def ensure_jars() -> Path:
    """Return a folder with all the broker's jars, running Maven only if the cache lacks them.

    Safe when several processes call it at once: one fills the cache under a file lock while the
    others wait, and a folder gets its final name only when it is complete. A stamp in it records
    the jars' names and sizes, so a damaged folder is noticed and made anew. Raises `BrokerError`.
    """
    home = cache_root() / f"kafka-{kafka_version()}"
    jars = home / f"jars-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}"
    if _complete(jars):
        return jars
    try:
        home.mkdir(parents=True, exist_ok=True)
        (home / ".gitignore").write_text("*\n", encoding="ascii")
        with _locked(home / "lock"):
            if not _complete(jars):
                _fill(home, jars)
    except OSError as error:
        raise BrokerError(
            f"the jar cache cannot be written: {error}. Free or open that folder, or name another "
            f"in ${CACHE_VARIABLE}."
        ) from error
    return jars


def _complete(jars: Path) -> bool:
    try:
        stamp = json.loads((jars / "stamp.json").read_text(encoding="utf-8"))
        return bool(stamp) and all((jars / n).stat().st_size == size for n, size in stamp.items())
    except (OSError, ValueError, AttributeError):
        return False


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the kernel lets go of it should this process die."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fill(home: Path, jars: Path) -> None:
    """Make `jars` with Maven; the caller holds the lock."""
    for left_over in home.glob("unfinished-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=home))
    try:
        _run_maven(unfinished)
        sizes = {jar.name: jar.stat().st_size for jar in sorted(unfinished.glob("*.jar"))}
        if f"kafka_2.13-{kafka_version()}.jar" not in sizes:
            raise BrokerError(f"Maven succeeded but brought no broker jar; look at {POM.name}")
        (unfinished / "stamp.json").write_text(json.dumps(sizes, indent=1), encoding="utf-8")
        unfinished.chmod(0o755)
        if jars.exists():
            shutil.rmtree(jars)
        unfinished.rename(jars)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _run_maven(target: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise BrokerError(
            "the broker's jars are not in the cache and `mvn` is not on PATH. Install Apache Maven "
            f"(Debian, Ubuntu: apt-get install maven), or point ${CACHE_VARIABLE} to a full cache."
        )
    command = [
        *(maven, "-q", "-B", "-ntp", "-Dstyle.color=never", "-f", str(POM)),
        "dependency:copy-dependencies",
        *("-DincludeScope=runtime", f"-DoutputDirectory={target}"),
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
        raise BrokerError(
            f"Maven was not done with {POM.name} in {_MAVEN_SECONDS:.0f} s"
        ) from error
    if done.returncode != 0:
        tail = "\n".join(done.stdout.decode("utf-8", "replace").splitlines()[-20:])
        raise BrokerError(
            f"Maven could not fetch the broker's jars (exit status {done.returncode}). The first "
            "run needs the network; behind a proxy or mirror, set it in Maven's own settings.xml. "
            f"Maven said:\n{tail}"
        )
