"""What was measured, summed up: figures with their uncertainty, as JSON and as a plot.

The only importer of matplotlib, which comes with the extra `eval`.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from services.evaluation.measures import (
    DRAWS,
    FEWEST_CLIPS,
    Errors,
    difference_interval,
    interval,
)
from services.evaluation.runs import AS_RECORDED, Attempt, EngineRun, Evaluation
from services.evaluation.telephony import RATE_HZ

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

FORMAT = "callstream-eval-1"
"""Of the JSON; a change of meaning makes a new one."""
EVERY = "every one"
"""In place of language and reference: all clips that the measure is known of."""
PLOTS = (".svg", ".png", ".pdf")
_ORDER = ("WER", "CER", "MER", "cpWER", "cpCER", "cpMER", "DER")
_LIBRARIES = ("av", "numpy", "onnxruntime", "pocketsphinx", "rapidfuzz")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One error rate: of which clips, and how sure it is. Fractions; 1.0 is 100 %."""

    measure: str
    """WER, CER, MER, each also with cp before it; DER, also with a collar."""
    language: str
    """Primary tags, joined by +."""
    reference: str
    """How good what it is measured against is, in the manifest's words."""
    clips: int
    errors: Errors
    """Of all clips together: words or characters, of DER ms."""
    interval: tuple[float, float] | None
    """95 %, from resampled clips; None for too few."""
    against: str = ""
    """The run that it is compared with."""
    difference: float | None = None
    """From the rate of that run on the clips that both know."""
    difference_interval: tuple[float, float] | None = None

    @property
    def rate(self) -> float:
        return self.errors.rate or 0.0

    @property
    def group(self) -> tuple[str, str, str]:
        return self.measure, self.language, self.reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All of one engine in one condition."""

    engine: str
    condition: str
    figures: tuple[Figure, ...]
    clips: int
    failed: tuple[tuple[str, str], ...]
    """Name and reason of each clip without transcript."""
    language_right: int
    language_judged: int
    """Clips whose language is known, and was not told to the engine."""
    silent_clips: int
    silent_s: float
    """Of clips in which nobody speaks."""
    invented: int
    """Words heard in them."""
    invented_trusted: int
    """Of those, words under no flag by which enrich leaves them out."""
    audio_s: float
    """Of clips that were transcribed."""
    took_s: float
    engine_s: float | None
    """Of that, in the engine; None where calls are handled side by side."""

    @property
    def speed(self) -> float | None:
        """Seconds of audio for each second; None where nothing was heard."""
        return self.audio_s / self.took_s if self.took_s > 0 and self.audio_s > 0 else None

    @property
    def invented_per_minute(self) -> float | None:
        """Words on clips without speech."""
        return self.invented / (self.silent_s / 60) if self.silent_s > 0 else None


def summaries(runs: Sequence[EngineRun]) -> list[Summary]:
    """One of each engine and condition, in the order they were run.

    A condition is compared with the same engine's clips as recorded; as recorded, with the first
    engine's.
    """
    first = next((run for run in runs if run.attempts), None)
    result = []
    for run in runs:
        for condition, attempts in run.attempts.items():
            other = run if condition != AS_RECORDED else first
            baseline = other.attempts.get(AS_RECORDED, ()) if other is not None else ()
            against = "" if other is None else f"{other.label}, {AS_RECORDED}"
            if other is run and condition == AS_RECORDED:
                baseline, against = (), ""
            result.append(_summary(run, condition, attempts, baseline, against))
    return result


def _summary(
    run: EngineRun,
    condition: str,
    attempts: Sequence[Attempt],
    baseline: Sequence[Attempt],
    against: str,
) -> Summary:
    heard = [attempt for attempt in attempts if not attempt.failure]
    judged = [each for each in heard if each.clip.languages and not each.language_told]
    silent = [attempt for attempt in heard if attempt.nobody_speaks]
    alone = run.calls_at_once == 1
    took_s = sum(attempt.took_s for attempt in heard)
    if not alone and condition == AS_RECORDED:
        took_s = run.wall_s
    return Summary(
        engine=run.label,
        condition=condition,
        figures=tuple(_figures(heard, baseline, against)),
        clips=len(attempts),
        failed=tuple((each.clip.name, each.failure) for each in attempts if each.failure),
        language_right=sum(attempt.language in attempt.clip.languages for attempt in judged),
        language_judged=len(judged),
        silent_clips=len(silent),
        silent_s=sum(attempt.duration_ms for attempt in silent) / 1000,
        invented=sum(attempt.words for attempt in silent),
        invented_trusted=sum(attempt.trusted for attempt in silent),
        audio_s=sum(attempt.duration_ms for attempt in heard) / 1000,
        took_s=took_s if alone or condition == AS_RECORDED else 0.0,
        engine_s=sum(attempt.engine_s for attempt in heard) if alone else None,
    )


def _figures(
    heard: Sequence[Attempt], baseline: Sequence[Attempt], against: str
) -> Iterable[Figure]:
    before = {attempt.clip.line: attempt for attempt in baseline if not attempt.failure}
    groups: dict[tuple[str, str, str], list[Attempt]] = {}
    for attempt in heard:
        for measure in attempt.errors:
            language = "+".join(attempt.clip.languages) or "unknown"
            groups.setdefault((measure, language, attempt.clip.quality), []).append(attempt)
    for measure in dict.fromkeys(group[0] for group in groups):
        rows = [group for group in groups if group[0] == measure]
        if len(rows) > 1:
            every = [attempt for attempt in heard if measure in attempt.errors]
            groups[measure, EVERY, EVERY] = every
    for group in sorted(groups, key=_place):
        measure, language, reference = group
        found = [attempt.errors[measure] for attempt in groups[group]]
        pairs = [
            (attempt.errors[measure], before[attempt.clip.line].errors[measure])
            for attempt in groups[group]
            if attempt.clip.line in before and measure in before[attempt.clip.line].errors
        ]
        ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        yield Figure(
            measure=measure,
            language=language,
            reference=reference,
            clips=len(found),
            errors=_sum(found),
            interval=interval(found),
            against=against if pairs else "",
            difference=(_sum(ours).rate or 0.0) - (_sum(theirs).rate or 0.0) if pairs else None,
            difference_interval=difference_interval(ours, theirs) if pairs else None,
        )


def _sum(errors: Sequence[Errors]) -> Errors:
    return sum(errors[1:], errors[0])


def _place(group: tuple[str, str, str]) -> tuple[int, str, bool, str, str]:
    """WER before CER before speakers; what sums up all comes last."""
    measure, language, reference = group
    name = measure.split(" ")[0]
    return _ORDER.index(name), measure, language == EVERY, language, reference


def as_json(
    evaluation: Evaluation, manifest: str, manifest_sha256: str, made_at: datetime, complete: bool
) -> dict[str, Any]:
    """All that was measured, for programs. No word of any transcript is in it."""
    found = {(summary.engine, summary.condition): summary for summary in summaries(evaluation.runs)}
    return {
        "format": FORMAT,
        "made_at": made_at.isoformat(),
        "complete": complete,
        "versions": {
            "callstream": version("callstream"),
            "python": platform.python_version(),
            **{name: version(name) for name in _LIBRARIES},
        },
        "machine": {"kind": platform.machine(), "processors": os.cpu_count()},
        "manifest": {
            "name": manifest,
            "sha256": manifest_sha256,
            "clips": len(evaluation.clips),
        },
        "normalisation": evaluation.normalisation.name,
        "intervals": {"level": 0.95, "draws": DRAWS, "fewest_clips": FEWEST_CLIPS},
        "languages_told": evaluation.hints,
        "telephony": {
            "seed": evaluation.seed,
            "sample_rate_hz": RATE_HZ,
            "conditions": {each.name: each.about for each in evaluation.conditions},
        },
        "engines": [
            {
                "label": run.label,
                "identity": None if run.identity is None else msgspec.to_builtins(run.identity),
                "reason": run.reason,
                "failure": run.failure,
                "load_s": round(run.load_s, 3),
                "calls_at_once": run.calls_at_once,
                "runs": [
                    _run_as_json(found[run.label, condition], attempts)
                    for condition, attempts in run.attempts.items()
                ],
            }
            for run in evaluation.runs
        ],
    }


def _run_as_json(summary: Summary, attempts: Sequence[Attempt]) -> dict[str, Any]:
    return {
        "condition": summary.condition,
        "clips": summary.clips,
        "failed": len(summary.failed),
        "figures": [
            {
                "measure": figure.measure,
                "language": figure.language,
                "ref_quality": figure.reference,
                "clips": figure.clips,
                **_errors_as_json(figure.errors),
                "interval": _rounded(figure.interval),
                "against": figure.against,
                "difference": _rounded(figure.difference),
                "difference_interval": _rounded(figure.difference_interval),
            }
            for figure in summary.figures
        ],
        "language": {"right": summary.language_right, "judged": summary.language_judged},
        "no_speech": {
            "clips": summary.silent_clips,
            "seconds": summary.silent_s,
            "words": summary.invented,
            "words_trusted": summary.invented_trusted,
            "words_per_minute": _rounded(summary.invented_per_minute),
        },
        "speed": {
            "audio_s": summary.audio_s,
            "took_s": _rounded(summary.took_s),
            "engine_s": _rounded(summary.engine_s),
            "audio_per_second": _rounded(summary.speed),
        },
        "each": [
            {
                "clip": attempt.clip.name,
                "line": attempt.clip.line,
                "ref_quality": attempt.clip.quality,
                "languages": list(attempt.clip.languages),
                "duration_s": attempt.duration_ms / 1000,
                "failure": attempt.failure,
                "engine": attempt.engine,
                "diarizer": attempt.diarizer,
                "took_s": _rounded(attempt.took_s),
                "engine_s": _rounded(attempt.engine_s),
                "language_heard": attempt.language,
                "language_told": attempt.language_told,
                "words_heard": attempt.words,
                "words_trusted": attempt.trusted,
                "errors": {
                    measure: _errors_as_json(errors) for measure, errors in attempt.errors.items()
                },
            }
            for attempt in attempts
        ],
    }


def _errors_as_json(errors: Errors) -> dict[str, Any]:
    return {"units": errors.units, **errors.parts, "rate": _rounded(errors.rate)}


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [round(part, 5) for part in value]
    return None if value is None else round(value, 5)


def check_plot(path: Path) -> None:
    """Raises ValueError where `plot` could not write `path`."""
    if path.suffix.lower() not in PLOTS:
        raise ValueError(f"{path.name}: a plot is {', '.join(PLOTS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError(
            "a plot needs matplotlib; pip install 'callstream[eval]' brings it, or leave --plot out"
        )


def plot(runs: Sequence[EngineRun], path: Path) -> None:
    """Error rates as bars, one colour an engine and condition, with their intervals."""
    import matplotlib

    # Names are no formulas, and in an SVG whoever looks at it has fonts for their script.
    settings: dict[Any, Any] = {
        "svg.hashsalt": "callstream",
        "svg.fonttype": "none",
        "text.parse_math": False,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        canvas = _drawn([summary for summary in summaries(runs) if summary.figures])
        # Without a date, equal figures give an equal file.
        dates: dict[str, Any] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        dated = dates.get(path.suffix.lower())
        canvas.savefig(path, bbox_inches="tight", dpi=150, metadata=dated)


def _drawn(found: Sequence[Summary]) -> Canvas:
    from matplotlib.figure import Figure as Canvas

    groups = list(dict.fromkeys(each.group for summary in found for each in summary.figures))
    groups.sort(key=_place)
    height = 0.8 / max(1, len(found))
    canvas = Canvas(figsize=(9, 1.2 + len(groups) * (0.25 + 0.18 * len(found))))
    axes = canvas.add_subplot()
    for number, summary in enumerate(found):
        by_group = {figure.group: figure for figure in summary.figures}
        drawn = [(at, by_group[group]) for at, group in enumerate(groups) if group in by_group]
        places = [at + number * height - 0.4 + height / 2 for at, _ in drawn]
        rates = [100 * figure.rate for _, figure in drawn]
        axes.barh(places, rates, height, label=f"{summary.engine}, {summary.condition}")
        for place, (_, figure) in zip(places, drawn, strict=True):
            if figure.interval is not None:
                low, high = figure.interval
                axes.plot([100 * low, 100 * high], [place, place], color="black", linewidth=1)
    axes.set_yticks(range(len(groups)), [_label(group, found) for group in groups])
    axes.invert_yaxis()
    axes.set_xlabel("errors, % of the reference (line: 95 % over clips, where there are enough)")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if found:
        axes.legend(fontsize="small")
    return canvas


def _label(group: tuple[str, str, str], found: Sequence[Summary]) -> str:
    measure, language, reference = group
    clips = max(
        figure.clips for summary in found for figure in summary.figures if figure.group == group
    )
    where = EVERY if language == EVERY else f"{language}, {reference}"
    return f"{measure}: {where}\n({clips} clip{'' if clips == 1 else 's'})"
