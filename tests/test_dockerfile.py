"""What the images are made of is there. They are not built here: that takes a Docker engine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from services.assembly import STAGES, project_root
from services.runtime.errors import Transient
from services.runtime.observe import HealthServer, Observer
from services.settings import load

ROOT = project_root()
PUBLISHED = ("core", "transcribe", "transcribe-with-models")


@dataclass
class Step:
    """A stage of the Dockerfile with its own instructions, in order."""

    base: str
    did: list[tuple[str, str]] = field(default_factory=list)


def read() -> dict[str, Step]:
    text = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    steps: dict[str, Step] = {}
    for line in filter(None, (line.strip() for line in text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            steps[name] = Step(base)
        else:
            steps[next(reversed(steps))].did.append((word, rest.strip()))
    return steps


STEPS = read()


def whole(name: str) -> list[tuple[str, str]]:
    """What was done for the stage `name`, that of the stages below it included."""
    step = STEPS.get(name)
    return [] if step is None else [*whole(step.base), *step.did]


def last(name: str, word: str) -> str:
    return next(rest for done, rest in reversed(whole(name)) if done == word)


def environment(name: str) -> dict[str, str]:
    return {
        key: value
        for word, rest in whole(name)
        if word == "ENV"
        for key, _, value in (pair.partition("=") for pair in rest.split())
    }


def test_every_stage_stands_on_one_that_comes_before_or_on_a_public_image() -> None:
    assert set(PUBLISHED) < set(STEPS)
    seen: list[str] = []
    for name, step in STEPS.items():
        assert step.base in seen or step.base == "python:3.11-slim-bookworm", name
        seen.append(name)
        for _, rest in step.did:
            for source in re.findall(r"\bfrom=([\w-]+)", rest):
                # The build is given that one by --build-context.
                assert source in seen or (source, name) == ("models", "transcribe-with-models")
    docs = (ROOT / "docs" / "deploying.md").read_text("utf-8")
    assert set(re.findall(r"--target ([\w-]+)", docs)) == set(PUBLISHED)


def test_what_is_copied_is_there_and_sent_to_the_build() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert "*" in lines, "what is not named is not sent"
    sent = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source
        for step in STEPS.values()
        for word, rest in step.did
        if word in ("COPY", "ADD") and "--from=" not in rest
        for source in rest.split()[:-1]
    }
    assert copied == sent
    for source in copied:
        assert (ROOT / source).exists(), source


def test_what_is_installed_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert ("COPY", f"pyproject.toml {project['readme']} constraints.txt ./") in STEPS["base"].did
    extras = {}
    for name, step in STEPS.items():
        for word, rest in step.did:
            for command in re.findall(r"pip install [^&]*", rest) if word == "RUN" else ():
                if "/wheels/" in command:
                    assert "--no-deps" in command, "its libraries are there already"
                    continue
                assert "--constraint constraints.txt" in command, command
                if "==" not in command:
                    extras[name] = set(re.findall(r"\[([\w,-]+)\]", command))
                    assert extras[name] <= set(project["optional-dependencies"])
    assert extras == {"core-libraries": set(), "transcribe-libraries": {"transcribe"}}


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_image_runs_as_nobody_who_can_harm_and_stops_when_told(name: str) -> None:
    user = last(name, "USER")
    assert user not in ("root", "0")
    assert any(word == "RUN" and re.search(rf"useradd .*\b{user}\b", rest)
               for word, rest in whole(name))  # fmt: skip
    after = [word for word, _ in whole(name)]
    assert "RUN" not in after[after.index("USER") :]
    assert last(name, "STOPSIGNAL") == "SIGTERM"
    volumes = json.loads(last(name, "VOLUME"))
    assert {environment(name)[f"CALLSTREAM_{key}"] for key in ("DATA_DIR", "SCRATCH")} == set(
        volumes
    )
    for folder in volumes:
        assert any(word == "RUN" and f"--owner {user}" in rest and folder in rest
                   for word, rest in whole(name)), f"{user} cannot write to {folder}"  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_settings_of_an_image_are_settings(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # where no .env lies
    for key in list(os.environ):
        if key.startswith("CALLSTREAM_"):
            monkeypatch.delenv(key)
    for key, value in environment(name).items():
        monkeypatch.setenv(key, value)
    settings = load()
    assert settings.http.host == "0.0.0.0"
    assert str(settings.http.port) == last(name, "EXPOSE")
    assert environment(name)["HF_HUB_OFFLINE"] == "1"
    if name != "core":
        assert settings.transcribe.engine == "whisperx"
        assert settings.transcribe.model_dir == Path("/models/whisper")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_command_of_an_image_is_one(name: str) -> None:
    entry, words = json.loads(last(name, "ENTRYPOINT")), json.loads(last(name, "CMD"))
    (script,) = entry_points(group="console_scripts", name=entry[0])
    assert script.module == "services.cli.__main__"
    assert words in ([["--help"]] if name == "core" else [["run", stage] for stage in STAGES])


def test_the_check_of_health_tells_ready_from_not() -> None:
    _, _, command = last("core", "HEALTHCHECK").partition("CMD ")
    words = json.loads(command)
    observer = Observer()
    server = HealthServer(observer)
    told = {**os.environ, "CALLSTREAM_HTTP__PORT": str(server.port)}

    def status() -> int:
        return subprocess.run(
            [sys.executable, *words[1:]], env=told, capture_output=True, timeout=30
        ).returncode

    try:
        assert status() != 0, "no stage is at work yet"
        observer.ready("transcribe")
        assert status() == 0
        observer.waiting("transcribe", Transient("log_down", "no broker answers"))
        assert status() != 0
    finally:
        server.close()
    assert status() != 0


@pytest.mark.parametrize("name", ["transcribe", "transcribe-with-models"])
def test_the_loader_is_told_of_the_libraries_that_are_pinned(name: str) -> None:
    """CTranslate2 asks for libcublas.so.12 by name; torch's own packages bring it."""
    version = "python" + re.findall(r"python:(\d+\.\d+)", STEPS["base"].base)[0]
    folders = environment(name)["LD_LIBRARY_PATH"].split(":")
    pinned = (ROOT / "constraints.txt").read_text("utf-8")
    for folder in folders:
        library = re.fullmatch(rf"/usr/local/lib/{version}/site-packages/nvidia/(\w+)/lib", folder)
        assert library is not None, folder
        assert re.search(rf"^nvidia-{library[1]}-cu12==", pinned, re.MULTILINE), folder
