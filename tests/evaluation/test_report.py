"""Attempts summed up, as JSON and as a plot."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from schemas.events import Engine as Identity
from services.evaluation.manifest import Clip
from services.evaluation.measures import Errors
from services.evaluation.report import EVERY, Figure, Summary, as_json, check_plot, plot, summaries
from services.evaluation.runs import AS_RECORDED, Attempt, EngineRun, Evaluation


def attempt(line: int, wrong: int = 0, measure: str = "WER", **changes: Any) -> Attempt:
    """Of ten words of a clip of ten seconds, so many are wrong."""
    clip = Clip(
        line=line, name=f"{line}.wav", path=Path(f"{line}.wav"),
        languages=changes.pop("languages", ("en",)), quality=changes.pop("quality", "human"),
        text=changes.pop("text", "what was said"),
    )  # fmt: skip
    plain = Attempt(
        clip=clip, duration_ms=10_000, took_s=2.0, engine_s=1.5, language="en", words=10,
        errors={measure: Errors(10, {"substitutions": wrong})},
    )  # fmt: skip
    return replace(plain, **changes)


def ran(
    label: str, changes: dict[str, Any] | None = None, **conditions: list[Attempt]
) -> EngineRun:
    made = {AS_RECORDED if name == "plain" else name: each for name, each in conditions.items()}
    identity = Identity(name=label, version="1", model="m")
    return EngineRun(label=label, identity=identity, attempts=made, **(changes or {}))


def figures(summary: Summary) -> list[tuple[str, str, str, int, float]]:
    return [(f.measure, f.language, f.reference, f.clips, f.rate) for f in summary.figures]


def test_figures_are_apart_by_language_and_by_how_good_the_reference_is() -> None:
    (summary,) = summaries(
        [
            ran(
                "a",
                plain=[
                    attempt(1, 1),
                    attempt(2, 3),
                    attempt(3, 10, quality="published-asr"),
                    attempt(4, 2, languages=("de",)),
                    attempt(5, 4, "CER", languages=("zh",)),
                    attempt(6, 0, failure="broken", errors={}),
                    attempt(7, errors={}, languages=()),
                ],
            )
        ]
    )
    assert figures(summary) == [
        ("WER", "de", "human", 1, 0.2),
        ("WER", "en", "human", 2, 0.2),
        ("WER", "en", "published-asr", 1, 1.0),
        ("WER", EVERY, EVERY, 4, 0.4),
        ("CER", "zh", "human", 1, 0.4),
    ]
    assert (summary.clips, summary.failed) == (7, (("6.wav", "broken"),))


def test_speed_and_languages_are_of_the_clips_that_were_heard() -> None:
    heard = [
        attempt(1),
        attempt(2, language="und"),
        attempt(3, language_told=True),
        attempt(4, languages=("zh", "en")),
        attempt(5, languages=()),
        attempt(6, failure="broken"),
    ]
    (summary,) = summaries([ran("a", plain=heard)])
    assert (summary.language_right, summary.language_judged) == (2, 3)
    assert (summary.audio_s, summary.took_s, summary.engine_s) == (50.0, 10.0, 7.5)
    assert summary.speed == 5.0
    at_once = ran("a", {"calls_at_once": 4, "wall_s": 4.0}, plain=heard, gsm=heard)
    plain, telephone = summaries([at_once])
    assert (plain.speed, plain.engine_s) == (12.5, None)
    # How long encoding took beside it is not known apart.
    assert telephone.speed is None


def test_words_where_nobody_speaks_are_told_by_the_minute() -> None:
    silent = [
        attempt(1, text="", words=3, trusted=1, errors={}),
        attempt(2, text="", words=0, errors={}),
    ]
    (summary,) = summaries([ran("a", plain=[*silent, attempt(3)])])
    assert (summary.silent_clips, summary.silent_s, summary.invented) == (2, 20.0, 3)
    assert summary.invented_per_minute == pytest.approx(9.0)
    assert summary.invented_trusted == 1
    assert [figure.clips for figure in summary.figures] == [1]
    (without,) = summaries([ran("a", plain=[attempt(3)])])
    assert without.invented_per_minute is None


def difference(figure: Figure) -> tuple[str, float | None]:
    return figure.against, None if figure.difference is None else round(figure.difference, 6)


def test_what_is_compared_is_compared_on_the_same_clips() -> None:
    plain = [attempt(1, 1), attempt(2, 2), attempt(3, failure="broken", errors={})]
    phone = [attempt(1, 4), attempt(2, failure="broken", errors={}), attempt(3, 9)]
    first = ran("a", plain=plain, gsm=phone)
    second = ran("b", plain=[attempt(1, 0), attempt(2, 0), attempt(3, 5)])
    found = summaries([ran("missing", {"failure": "no model"}), first, second])
    assert [(s.engine, s.condition) for s in found] == [
        ("a", AS_RECORDED), ("a", "gsm"), ("b", AS_RECORDED)
    ]  # fmt: skip
    assert [difference(s.figures[0]) for s in found] == [
        ("", None), ("a, as recorded", 0.3), ("a, as recorded", -0.15)
    ]  # fmt: skip
    assert [s.figures[0].rate for s in found] == pytest.approx([0.15, 0.65, 1 / 6])


def test_intervals_are_given_from_enough_clips() -> None:
    plain = [attempt(line, line % 3) for line in range(1, 10)]
    phone = [attempt(line, line % 3 + 1) for line in range(1, 10)]
    _, telephone = summaries([ran("a", plain=plain, gsm=phone)])
    (figure,) = telephone.figures
    assert figure.interval is not None
    assert figure.interval[0] < figure.rate < figure.interval[1]
    assert figure.difference_interval == pytest.approx((0.1, 0.1))
    (few,) = summaries([ran("a", plain=plain[:4])])
    assert few.figures[0].interval is None


def evaluation(*runs: EngineRun) -> Evaluation:
    clips = [a.clip for a in next(iter(runs[0].attempts.values()))]
    return Evaluation(clips=clips, engines=[], runs=list(runs))


def test_the_json_says_everything_and_no_word_that_was_spoken() -> None:
    plain = [attempt(1, 1), attempt(2, failure="broken", errors={}), attempt(3, text="", errors={})]
    made = evaluation(ran("a", plain=plain, gsm=plain), ran("b", plain=plain))
    now = datetime(2026, 3, 2, tzinfo=UTC)
    found = as_json(made, "m.jsonl", "0" * 64, now, complete=False)
    text = json.dumps(found, allow_nan=False)
    assert "what was said" not in text
    assert (found["format"], found["complete"]) == ("callstream-eval-1", False)
    assert found["normalisation"] == "callstream-1"
    first = found["engines"][0]
    assert first["identity"]["name"] == "a"
    run = first["runs"][1]
    assert (run["condition"], run["clips"], run["failed"]) == ("gsm", 3, 1)
    assert run["figures"] == [
        {
            "measure": "WER", "language": "en", "ref_quality": "human", "clips": 1, "units": 10,
            "substitutions": 1, "rate": 0.1, "interval": None, "against": "a, as recorded",
            "difference": 0.0, "difference_interval": None,
        }
    ]  # fmt: skip
    assert run["no_speech"] == {
        "clips": 1, "seconds": 10.0, "words": 10, "words_trusted": 0, "words_per_minute": 60.0
    }  # fmt: skip
    assert run["each"][0]["errors"] == {"WER": {"units": 10, "substitutions": 1, "rate": 0.1}}
    assert [each["failure"] for each in run["each"]] == ["", "broken", ""]


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_equal_figures_are_drawn_alike(tmp_path: Path, suffix: str) -> None:
    plain = [attempt(line, line % 3) for line in range(1, 8)]
    runs = [
        ran("a", plain=plain, gsm=plain),
        ran("b", plain=[attempt(1, 9, quality="人工 <b> $x$")]),
    ]
    drawn = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}{suffix}"
        check_plot(path)
        plot(runs, path)
        drawn.append(path.read_bytes())
    assert drawn[0] == drawn[1]
    if suffix == ".svg":
        assert "WER: en, 人工 &lt;b&gt; $x$" in drawn[0].decode()
    empty = tmp_path / f"empty{suffix}"
    plot([], empty)
    assert empty.stat().st_size


def test_a_plot_that_cannot_be_drawn_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match=r"a\.gif: a plot is \.svg, \.png, \.pdf"):
        check_plot(Path("a.gif"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs matplotlib; pip install 'callstream\[eval\]'"):
        check_plot(Path("a.svg"))
