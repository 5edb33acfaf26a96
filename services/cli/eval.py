"""`callstream eval`: how well engines hear one's own calls."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from schemas.events import CallTranscribed
from services.cli.console import err, out
from services.cli.show import FORMATS
from services.evaluation.manifest import Clip, WrongManifest, read_manifest
from services.evaluation.measures import FEWEST_CLIPS, Normalisation
from services.evaluation.report import (
    EVERY,
    Figure,
    Summary,
    as_json,
    check_plot,
    plot,
    summaries,
)
from services.evaluation.runs import AS_RECORDED, EngineRun, Evaluation, Wanted
from services.evaluation.runs import Progress as Told
from services.evaluation.telephony import CONDITIONS, Condition, conditions
from services.runtime.errors import Invalid
from services.runtime.observe import configure_logs
from services.runtime.stage import utc_now
from services.settings import load
from services.transcribe.settings import TranscribeSettings, with_options

eval_app = typer.Typer()

_ENGINES = get_args(TranscribeSettings.model_fields["engine"].annotation)
_AS_SET = "as set"
_QUIET_S = 15.0
_FAILURES_SHOWN = 10
_KEPT = {"txt": "text", "json": "json"}
_INTERRUPTED = 130
_SHORT = {"substitutions": "sub", "deletions": "del", "insertions": "ins", "missed": "miss",
          "false alarm": "false", "confusion": "confused"}  # fmt: skip


@eval_app.command("eval")
def evaluate(
    manifest: Annotated[
        Path, typer.Argument(help="JSON lines: file, lang, transcript, ref_quality and more.")
    ],
    engine: Annotated[
        list[str] | None,
        typer.Option(help="Engine to measure; several: say it again. Default: as set, with rules."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Whisper model, by name or hub id; several: say it again."),
    ] = None,
    telephony: Annotated[
        str, typer.Option(help=f"Also through: {','.join(CONDITIONS)}; loss10 for 10 %.")
    ] = "",
    hints: Annotated[
        bool, typer.Option("--hints", help="Tell the engine each clip's language.")
    ] = False,
    simplified: Annotated[
        bool, typer.Option("--simplified", help="Count traditional Chinese as simplified.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many clips, the first.")] = None,
    seed: Annotated[int, typer.Option(help="Which packets are lost.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything measured to this file.")
    ] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Draw the error rates: .svg, .png or .pdf.")
    ] = None,
    keep: Annotated[Path | None, typer.Option(help="Folder to write every transcript to.")] = None,
) -> None:
    """How well engines hear your own calls: words, speakers, languages, speed, by a manifest.

    Exit status 1 where every clip failed, 2 where nothing was run.
    """
    settings = load()
    configure_logs("WARNING")
    try:
        text = manifest.read_bytes()
        clips = read_manifest(manifest)[:limit]
        wanted = _wanted(settings.transcribe, engine or [], model or [])
        phones = conditions(telephony) if telephony.strip() else []
        if plot_file is not None:
            check_plot(plot_file)
        for file in (json_file, plot_file):
            if file is not None and not file.parent.is_dir():
                raise ValueError(f"{file}: there is no folder {file.parent}")
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
    except (WrongManifest, Invalid, ValueError, OSError) as problem:
        told = problem.detail if isinstance(problem, Invalid) else str(problem)
        raise typer.BadParameter(told) from None
    evaluation = Evaluation(
        clips=clips,
        engines=wanted,
        conditions=phones,
        ingest=settings.ingest,
        normalisation=Normalisation(simplified),
        hints=hints,
        seed=seed,
        keep=_keeper(keep),
    )
    ended = ""
    try:
        with _watched() as evaluation.told:
            evaluation.run()
    except KeyboardInterrupt:
        ended = "interrupted"
    except OSError as problem:  # no clip's own, those are told with it: the disk is full
        ended = str(problem)
    if json_file is not None:
        digest = hashlib.sha256(text).hexdigest()
        found = as_json(evaluation, manifest.name, digest, utc_now(), not ended)
        json_file.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", "utf-8")
    if plot_file is not None:
        plot(evaluation.runs, plot_file)
    done = summaries(evaluation.runs)
    _print(evaluation, done, phones)
    if ended:
        err.print(f"{ended}: what is shown is of the clips heard until then", soft_wrap=True)
        raise typer.Exit(_INTERRUPTED if ended == "interrupted" else 1)
    if not any(len(summary.failed) < summary.clips for summary in done):
        raise typer.Exit(1)


def _wanted(
    settings: TranscribeSettings, engines: Sequence[str], models: Sequence[str]
) -> list[Wanted]:
    """Each engine, with each model where it has models; with neither, what the settings make of a
    call. Raises Invalid and ValueError.
    """
    if not engines and not models:
        routed = settings.rules or settings.fallbacks
        return [Wanted(label=_AS_SET if routed else settings.engine, settings=settings)]
    # Who is named is measured, and nobody in its place.
    settings = settings.model_copy(update={"rules": (), "fallbacks": ()})
    found: dict[str, Wanted] = {}
    for engine in engines or [settings.engine]:
        if engine not in _ENGINES:
            raise ValueError(f"--engine {engine}: there are {', '.join(_ENGINES)}")
        plain = with_options(settings, {"engine": engine})
        for model in models:
            with suppress(Invalid):  # raised by an engine that has no models
                asked = with_options(settings, {"engine": engine, "model": model})
                label = f"{engine} {model}"
                found[label] = Wanted(label=label, settings=asked, asked_by="--engine")
        if not any(label.startswith(f"{engine} ") for label in found):
            found[engine] = Wanted(label=engine, settings=plain, asked_by="--engine")
    if models and not any(" " in label for label in found):
        raise ValueError("--model: none of these engines has models; --engine faster-whisper has")
    return list(found.values())


def _keeper(folder: Path | None) -> Callable[[str, str, Clip, CallTranscribed], None]:
    """Writes each transcript under engine and condition, named by line and clip."""

    def keep(label: str, condition: str, clip: Clip, transcript: CallTranscribed) -> None:
        if folder is None:
            return
        below = folder / _file_name(label) / _file_name(condition)
        below.mkdir(parents=True, exist_ok=True)
        for suffix, form in _KEPT.items():
            name = f"{clip.line:04}-{_file_name(clip.path.stem)}.{suffix}"
            (below / name).write_text(FORMATS[form](transcript, None), "utf-8")

    return keep


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip(".-")[:100] or "-"


@contextmanager
def _watched() -> Iterator[Callable[[Told], None]]:
    """Shows how far it is and how long it takes yet: a bar, or where nobody watches, lines."""
    if not err.is_terminal:
        yield _lines()
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    )
    with bar:
        task = bar.add_task("preparing clips", total=None)

        def told(progress: Told) -> None:
            what = f"{progress.label}, {progress.condition}: {progress.attempt.clip.name}"
            bar.update(task, description=what, total=progress.all_ms, completed=progress.done_ms)
            if progress.attempt.failure:
                bar.console.print(f"{what}: {progress.attempt.failure}")

        yield told


def _lines() -> Callable[[Told], None]:
    started = spoken = time.monotonic()

    def told(progress: Told) -> None:
        nonlocal spoken
        now = time.monotonic()
        what = f"{progress.label}, {progress.condition}: {progress.attempt.clip.name}"
        if progress.attempt.failure:
            err.print(f"{what}: {progress.attempt.failure}", soft_wrap=True)
        if now - spoken >= _QUIET_S and progress.done_ms:
            spoken = now
            left_s = (now - started) * (progress.all_ms - progress.done_ms) / progress.done_ms
            share = 100 * progress.done_ms // progress.all_ms
            err.print(f"{share} %, about {left_s:.0f} s more: {what}", soft_wrap=True)

    return told


# Tables


def _print(evaluation: Evaluation, done: Sequence[Summary], phones: Sequence[Condition]) -> None:
    seconds = {clip.line: 0 for clip in evaluation.clips}
    for run in evaluation.runs:
        for attempt in run.attempts.get(AS_RECORDED, []):
            seconds[attempt.clip.line] = attempt.duration_ms
    out.print(
        f"{len(evaluation.clips)} clips, {sum(seconds.values()) / 1000:.0f} s of audio; texts "
        f"normalised by {evaluation.normalisation.name}",
        soft_wrap=True,
    )
    for run in evaluation.runs:
        out.print(_about(run), soft_wrap=True)
    figures = _figures_table(evaluation.runs, done, phones)
    if figures.row_count:
        out.print(figures)
    out.print(_engines_table(done, bool(phones)))
    for line in _notes(done, phones):
        out.print(line, soft_wrap=True)


def _about(run: EngineRun) -> str:
    if run.failure:
        return f"{run.label}: not measured: {run.failure}"
    if run.identity is None:
        return f"{run.label}: not loaded, there was nothing to hear"
    about = (
        f"{run.label}: {run.identity.name} {run.identity.version}, model {run.identity.model}, "
        f"on {run.identity.device}, loaded in {run.load_s:.1f} s. {run.reason}"
    )
    heard = Counter(
        attempt.engine
        for attempts in run.attempts.values()
        for attempt in attempts
        if attempt.engine
    )
    if len(heard) > 1:
        shares = ", ".join(f"{name} {count}" for name, count in heard.most_common())
        about += f"\n  clips were heard by {shares}"
    return about


def _figures_table(
    runs: Sequence[EngineRun], done: Sequence[Summary], phones: Sequence[Condition]
) -> Table:
    table = Table(
        "engine", "measure", "language", "reference", "clips", "of", AS_RECORDED, "which errors",
        *(phone.name for phone in phones),
    )  # fmt: skip
    for run in runs:
        by_condition = {s.condition: s for s in done if s.engine == run.label}
        base = by_condition.get(AS_RECORDED)
        for figure in base.figures if base else ():
            cells = []
            for phone in phones:
                summary = by_condition.get(phone.name)
                same = [f for f in summary.figures if f.group == figure.group] if summary else []
                cells.append(_cell(same[0]) if same else "")
            table.add_row(
                run.label, figure.measure, figure.language, figure.reference, str(figure.clips),
                _of(figure), _cell(figure), _parts(figure), *cells,
            )  # fmt: skip
    return table


def _of(figure: Figure) -> str:
    if figure.measure.startswith("DER"):
        return f"{figure.errors.units / 1000:.1f} s"
    words = {"W": "words", "C": "characters"}.get(figure.measure.removeprefix("cp")[0], "tokens")
    return f"{figure.errors.units} {words}"


def _cell(figure: Figure) -> str:
    """The rate, its interval, and in which way it differs from what it is compared with."""
    text = f"{100 * figure.rate:.1f} %"
    if figure.interval is not None:
        text += " [{:.1f}, {:.1f}]".format(*(100 * value for value in figure.interval))
    if figure.difference is not None:
        text += f" {100 * figure.difference:+.1f}"
        if figure.difference_interval is not None:
            text += " [{:+.1f}, {:+.1f}]".format(*(100 * v for v in figure.difference_interval))
    return text


def _parts(figure: Figure) -> str:
    """As shares of the reference, so that they add up to the rate."""
    units = max(1, figure.errors.units)
    return ", ".join(
        f"{_SHORT.get(kind, kind)} {100 * n / units:.1f}" for kind, n in figure.errors.parts.items()
    )


def _engines_table(done: Sequence[Summary], telephony: bool) -> Table:
    table = Table(
        "engine", *(["condition"] if telephony else []), "clips", "failed", "language right",
        "invented words a minute", "× real time", "of it engine",
    )  # fmt: skip
    for summary in done:
        invented = summary.invented_per_minute
        judged = summary.language_judged
        share = summary.engine_s / summary.took_s if summary.engine_s and summary.took_s else None
        table.add_row(
            summary.engine,
            *([summary.condition] if telephony else []),
            str(summary.clips),
            str(len(summary.failed)),
            f"{summary.language_right} of {judged}" if judged else "not judged",
            "no clip without speech"
            if invented is None
            else f"{invented:.1f}, trusted {summary.invented_trusted / summary.silent_s * 60:.1f}"
            f" ({summary.silent_s:.0f} s)",
            f"{summary.speed:.1f}" if summary.speed else "",
            "" if share is None else f"{100 * share:.0f} %",
        )
    return table


def _notes(done: Sequence[Summary], phones: Sequence[Condition]) -> Iterator[str]:
    figures = [figure for summary in done for figure in summary.figures]
    if figures:
        yield (
            "WER counts words, CER characters, MER both by script; cp: with speakers matched; "
            "DER is speaker time. 100 % is an error for each unit of the reference."
        )
    if any(figure.interval for figure in figures):
        yield (
            f"[low, high]: 95 % over clips, from {FEWEST_CLIPS} clips up. It says nothing of clips "
            "of another kind."
        )
    if any(figure.difference is not None for figure in figures):
        yield (
            "The signed number after a rate: how far it is, on the same clips, from that of the "
            f"same engine {AS_RECORDED}; of what is {AS_RECORDED}, from that of the first engine."
        )
    for phone in phones:
        yield f"{phone.name}: {phone.about}."
    asr = {f.reference for f in figures if "asr" in re.split(r"[^a-z]+", f.reference.lower())}
    if asr:
        yield (
            f"References {', '.join(sorted(asr))} come from another recogniser: as far as nobody "
            "checked them, such a figure says how far the two differ, not how many words are wrong."
        )
    if any(figure.language == EVERY for figure in figures):
        yield f"{EVERY}: all clips of that measure, of whatever language and reference."
    missed = [(s, name, why) for s in done for name, why in s.failed]
    if missed:
        yield f"Failed clips are in no figure ({len(missed)}):"
        for summary, name, why in missed[:_FAILURES_SHOWN]:
            yield f"  {summary.engine}, {summary.condition}: {name}: {why}"
        if len(missed) > _FAILURES_SHOWN:
            yield f"  and {len(missed) - _FAILURES_SHOWN} more; --json lists them all"
