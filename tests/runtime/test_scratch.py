"""A killed process leaves no recording lying about for longer than until the next start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from services.runtime.scratch import scratch

AT_WORK = """
import sys, tempfile, time
from pathlib import Path
from services.runtime.scratch import scratch
with scratch(Path(sys.argv[1])):
    tempfile.NamedTemporaryFile(delete=False).write(b"a customer's voice")
    print("at work", flush=True)
    time.sleep(60)
"""


def test_files_in_work_lie_there_and_go_with_it(tmp_path: Path) -> None:
    before = tempfile.gettempdir()
    with scratch(tmp_path / "made" / "for it") as folder:
        left, _ = tempfile.mkstemp()
        os.close(left)
        assert [path.parent for path in folder.iterdir()] == [folder]
    assert list((tmp_path / "made" / "for it").iterdir()) == []
    assert tempfile.gettempdir() == before


def test_what_a_killed_process_left_is_deleted_what_is_in_use_or_not_ours_stays(
    tmp_path: Path,
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "work-file").write_text("no folder")
    at_work = subprocess.Popen(
        [sys.executable, "-c", AT_WORK, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with at_work:
        assert at_work.stdout is not None
        assert at_work.stdout.readline() == "at work\n"
        (theirs,) = tmp_path.glob("work-*/")
        with scratch(tmp_path) as ours:
            assert list(theirs.iterdir())
            at_work.send_signal(signal.SIGKILL)
            at_work.wait()
            assert ours.is_dir()
    assert list(theirs.iterdir())
    with scratch(tmp_path) as ours:
        assert sorted(tmp_path.iterdir()) == sorted(
            [ours, tmp_path / "notes", tmp_path / "work-file"]
        )


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"), scratch(tmp_path / "file"):
        pass
