"""What README and docs say to type is typed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from services.assembly import project_root

ROOT = project_root()


def _snippets(document: str, mark: str, language: str) -> list[str]:
    text = (ROOT / document).read_text("utf-8")
    found = re.findall(rf"<!-- {mark} -->\n```{language}\n(.*?)```", text, re.DOTALL)
    assert found, f"{document} has no snippet marked {mark}"
    return [str(snippet) for snippet in found]


def _shell(script: str, folder: Path) -> str:
    """Run `script` as a newcomer would, in a folder that has the samples."""
    if not (folder / "samples").exists():
        (folder / "samples").symlink_to(ROOT / "samples")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CALLSTREAM_")} | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "CALLSTREAM_TRANSCRIBE__ENGINE": "stub",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.clickhouse
def test_the_snippets_of_the_readme_run(tmp_path: Path) -> None:
    submitting, trying = _snippets("README.md", "run", "bash")
    out = _shell(submitting, tmp_path)
    assert "enriched" in out
    assert '"refund"' in _shell(trying, tmp_path)
    queries = _snippets("docs/questions.md", "sql", "sql")
    assert len(queries) >= 5
    for query in queries:
        header, *_ = _shell(
            f"callstream sql --format csv - <<'QUERY'\n{query}\nQUERY\n", tmp_path
        ).splitlines()
        assert header.startswith('"'), query


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", *sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))])  # fmt: skip
def test_every_file_that_a_document_names_is_there(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    here = (ROOT / document).parent
    for target in re.findall(r"\]\(([^)#]+?)\)", text):
        assert (here / target).exists(), f"{document} links to {target}"
    for name in re.findall(
        r"`((?:tests|services|schemas|benchmarks|docs|samples)/[\w./-]+)`", text
    ):
        assert (ROOT / name).exists(), f"{document} names {name}"
