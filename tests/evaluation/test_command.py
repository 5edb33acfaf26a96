"""`callstream eval` as people type it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from services.assembly import project_root
from services.cli.__main__ import app
from tests.evaluation.clips import two_parties, write_clip, write_manifest
from tests.transcribe.sounds import silence, speech

SAMPLES = project_root() / "samples" / "audio"


def environment(**more: str) -> dict[str, str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("CALLSTREAM_")}
    return plain | {"CALLSTREAM_TRANSCRIBE__ENGINE": "stub", "PYTHONWARNINGS": "error"} | more


def evaluate(*words: object, status: int = 0, **settings: str) -> tuple[str, str]:
    """Standard output and error of the command, with the stub engine unless another is named."""
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", "eval", *map(str, words)],
        env=environment(COLUMNS="200", **settings), capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


Here = Callable[..., str]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    """What the command says in this process where it refuses to run; it ends with status 2."""
    monkeypatch.setattr("services.cli.eval.configure_logs", lambda level: None)
    monkeypatch.setenv("CALLSTREAM_TRANSCRIBE__ENGINE", "stub")

    def refused(*words: object) -> str:
        done = CliRunner().invoke(app, ["eval", *map(str, words)], terminal_width=200)
        assert done.exit_code == 2, done.output
        return " ".join(done.output.replace("│", "").split())

    return refused


def cut(folder: Path, sample: str, seconds: float) -> Path:
    """The beginning of a sample call."""
    audio, rate = soundfile.read(SAMPLES / sample, dtype="float32")
    path = folder / f"{Path(sample).stem}.wav"
    soundfile.write(path, audio[: int(seconds * rate)], rate, subtype="PCM_16")
    return path


def test_everything_at_once(tmp_path: Path) -> None:
    write_clip(tmp_path, "通话 ☎.wav", *two_parties())
    write_clip(tmp_path, "silence.wav", silence(3.0))
    (tmp_path / "turns.rttm").write_text("SPEAKER x 1 0 3 <NA> <NA> agent <NA> <NA>\n")
    path = write_manifest(
        tmp_path,
        {"file": "通话 ☎.wav", "lang": "en", "transcript": "alfa bravo", "ref_quality": "human",
         "rttm": "turns.rttm", "channel_roles": ["agent", "customer"]},
        {"file": "missing.wav", "transcript": "hello"},
        {"file": str(SAMPLES / "zh-refund-complaint.wav"), "lang": "zh", "transcript": "你好",
         "ref_quality": "published-asr"},
        {"file": "silence.wav", "kind": "noise"},
        {"file": "beyond the limit.wav"},
    )  # fmt: skip
    out, err = evaluate(
        path, "--limit", 4, "--telephony", "g711u,loss", "--keep", tmp_path / "kept",
        "--json", tmp_path / "found.json", "--plot", tmp_path / "found.svg",
    )  # fmt: skip
    assert "4 clips, " in out
    assert "nothing is recognised" in out
    assert "References published-asr come from another recogniser" in out
    assert "Failed clips are in no figure (3):" in out
    assert "missing.wav: no_file: line 2, field file: missing.wav does not exist" in out
    assert "missing.wav" in err
    found = json.loads((tmp_path / "found.json").read_text("utf-8"))
    assert found["manifest"]["clips"] == 4
    (engine,) = found["engines"]
    plain, *phones = engine["runs"]
    assert [run["condition"] for run in phones] == ["g711u", "loss"]
    assert [(f["measure"], f["language"], f["ref_quality"]) for f in plain["figures"]] == [
        ("WER", "en", "human"), ("CER", "zh", "published-asr"),
        ("DER", "en", "human"), ("DER ±0.25 s", "en", "human"),
    ]  # fmt: skip
    assert plain["language"] == {"right": 0, "judged": 2}
    assert plain["no_speech"]["words_per_minute"] == 0
    assert plain["each"][0]["clip"] == "通话 ☎.wav"
    assert plain["figures"][2]["rate"] < 0.2
    assert (tmp_path / "found.svg").read_text().startswith("<?xml")
    kept = sorted(p.relative_to(tmp_path / "kept") for p in (tmp_path / "kept").rglob("*.txt"))
    assert len(kept) == 9
    assert kept[0] == Path("stub/as-recorded/0001-通话.txt")
    transcript = json.loads((tmp_path / "kept" / kept[0].with_suffix(".json")).read_text("utf-8"))
    assert transcript["transcript"]["engine"]["name"] == "stub"


def test_pocketsphinx_hears_most_of_a_clear_sentence(tmp_path: Path) -> None:
    path = cut(tmp_path, "praise.flac", 4.5)
    manifest = write_manifest(
        tmp_path,
        {
            "file": path.name,
            "lang": "en",
            "transcript": "Good afternoon, my name is David. How can I help you today?",
            "ref_quality": "script",
        },
    )
    out, _ = evaluate(
        manifest, "--engine", "pocketsphinx", "--engine", "stub", "--hints",
        "--json", tmp_path / "found.json",
    )  # fmt: skip
    assert "languages" not in out
    assert "not judged" in out
    heard, made_up = json.loads((tmp_path / "found.json").read_text())["engines"]
    assert heard["identity"]["name"] == "pocketsphinx"
    assert heard["runs"][0]["figures"][0]["units"] == 12
    assert heard["runs"][0]["figures"][0]["rate"] < 0.5 < made_up["runs"][0]["figures"][0]["rate"]
    assert made_up["runs"][0]["figures"][0]["difference"] > 0


def test_what_the_document_says_to_type_is_typed(tmp_path: Path) -> None:
    text = (project_root() / "docs" / "evaluation.md").read_text("utf-8")
    (script,) = re.findall(r"<!-- run -->\n```bash\n(.*?)```", text, re.DOTALL)
    (tmp_path / "samples").symlink_to(project_root() / "samples")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=environment(PATH=path),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (engine,) = json.loads((tmp_path / "found.json").read_text("utf-8"))["engines"]
    assert [run["clips"] for run in engine["runs"]] == [2, 2, 2]
    assert not any(run["failed"] for run in engine["runs"])


def test_rules_choose_who_hears_a_clip_unless_an_engine_is_named(tmp_path: Path) -> None:
    write_clip(tmp_path, "short.wav", speech(0, 0.0, 1.0))
    write_clip(tmp_path, "long.wav")
    path = write_manifest(tmp_path, {"file": "short.wav"}, {"file": "long.wav"})
    rules = json.dumps([{"shorter_than_s": 2, "engine": "pocketsphinx"}])

    def heard_by(*words: str) -> tuple[str, list[str]]:
        out, _ = evaluate(path, *words, "--json", tmp_path / "found.json",
                          CALLSTREAM_TRANSCRIBE__RULES=rules)  # fmt: skip
        (engine,) = json.loads((tmp_path / "found.json").read_text("utf-8"))["engines"]
        assert engine["label"] in out
        return engine["label"], [each["engine"] for each in engine["runs"][0]["each"]]

    assert heard_by() == ("as set", ["pocketsphinx en-us", "stub hash-of-audio"])
    assert heard_by("--engine", "stub") == ("stub", ["stub hash-of-audio"] * 2)


def test_no_clip_heard_is_status_1(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("this is no audio\n" * 100)
    path = write_manifest(tmp_path, {"file": "text.wav"}, {"file": "missing.wav"})
    out, _ = evaluate(path, status=1)
    assert "not_audio" in out
    write_clip(tmp_path, "text.wav", np.zeros(16_000, np.float32))
    evaluate(path)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--engine", "whisper"], "--engine whisper: there are auto, faster-whisper"),
        (["--model", "small"], "--model: none of these engines has models"),
        (["--telephony", "fax"], "'fax' is no telephone"),
        (["--plot", "a.gif"], "a.gif: a plot is .svg, .png, .pdf"),
        (["--json", "no/such/folder.json"], "there is no folder no/such"),
        (["--limit", "0"], "--limit"),
    ],
    ids=str,
)
def test_bad_usage_is_status_2(tmp_path: Path, here: Here, words: list[str], told: str) -> None:
    write_clip(tmp_path, "call.wav")
    assert told in here(write_manifest(tmp_path, {"file": "call.wav"}), *words)


def test_a_wrong_manifest_is_status_2(tmp_path: Path, here: Here) -> None:
    lines: list[dict[str, Any] | str] = [{"file": "a.wav"}, '{"file": NaN}']
    assert "manifest.jsonl line 2: not JSON" in here(write_manifest(tmp_path, *lines))
    assert "No such file" in here(tmp_path / "none.jsonl")
