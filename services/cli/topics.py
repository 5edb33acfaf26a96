"""`callstream topics`: what the topics hold, whether they are as the catalogue says, and how a
group whose next messages are gone is set going again.
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from schemas.topics import DAY_MS, LONGEST_KEPT_MS, TOPICS
from services.assembly import Parts
from services.cli.console import Stop, err, out
from services.runtime.kafka_view import Drift, KafkaView
from services.runtime.log import LogView
from services.settings import load

topics_app = typer.Typer(help="The topics: what they hold, made, checked, and read again.")


@topics_app.callback(invoke_without_command=True)
def show(context: typer.Context) -> None:
    """The topics: what each carries, how many messages, and how far each stage has read."""
    if context.invoked_subcommand is not None:
        return
    parts = Parts(load())
    view = parts.view
    have = view.partitions()
    committed = {name: view.committed(parts.group(name)) for name in parts.stages}
    table = Table("topic", "record", "partitions", "messages", *(f"{s} lag" for s in parts.stages))
    for topic in TOPICS:
        if topic.name not in have:
            table.add_row(topic.name, topic.record or "", "missing: topics create")
            continue
        ends = view.ends(topic.name)
        lags = []
        for name in parts.stages:
            read = {s.partition: o for s, o in committed[name].items() if s.topic == topic.name}
            lag = sum(end - read.get(p, first) for p, (first, end) in ends.items())
            lags.append(str(lag) if read or name in topic.consumers else "")
        count = sum(end - first for first, end in ends.values())
        table.add_row(
            topic.name, topic.record or "original bytes", str(have[topic.name]), str(count), *lags
        )
    out.print(table)
    if parts.settings.log.kind == "kafka":
        err.print(
            "messages and lag are differences of offsets, in which the end of every transaction "
            "counts as one more; `callstream status` has the exact lag where little waits",
            soft_wrap=True,
        )
    parts.close()


@topics_app.command()
def create(
    fix: Annotated[
        bool, typer.Option(help="Also alter what differs from the catalogue, without any loss.")
    ] = False,
) -> None:
    """Make the topics that are missing, as the catalogue says."""
    parts = Parts(load())
    made = parts.view.create({topic.name: topic.partitions for topic in TOPICS})
    out.print(f"made: {', '.join(made)}" if made else "nothing was missing")
    if fix and isinstance(parts.view, KafkaView):
        for drift in parts.view.fix(parts.view.drifts(TOPICS)):
            out.print(f"{drift.topic}: {drift.what} was {drift.found}, is {drift.wanted}")
    _tell(_drifts(parts))
    parts.close()


@topics_app.command()
def check() -> None:
    """Compare the topics with the catalogue: missing ones, partitions, copies, cleanup, retention
    and largest message. Exit status 1 where something differs that needs a mend; more partitions
    than the catalogue has do not.
    """
    parts = Parts(load())
    drifts = _drifts(parts)
    _tell(drifts)
    if (said := forgotten(parts.view)) is not None:
        err.print(said, soft_wrap=True)
    parts.close()
    if any(_needs_a_mend(drift) for drift in drifts):
        raise typer.Exit(1)
    out.print("nothing needs a mend" if drifts else
              f"{len(TOPICS)} topics are as the catalogue says")  # fmt: skip


@topics_app.command()
def rewind(
    stage: Annotated[str, typer.Argument(help="Whose place is not in the log any more.")],
) -> None:
    """Let a stage go on whose next messages are gone: at the first message kept.

    The stage must not run. What was passed over is told by partition; calls that were lost so are
    replayed from the archive.
    """
    parts = Parts(load())
    if stage not in parts.stages:
        raise Stop(f"{stage!r} is no stage here: {', '.join(parts.stages)}")
    group = parts.group(stage)
    try:
        moved = parts.view.rewind(group)
    except ValueError as error:
        raise Stop(str(error)) from error
    ends = {topic: parts.view.ends(topic) for topic in {source.topic for source in moved}}
    parts.close()
    if not moved:
        out.print(f"{group} has its place in every partition; nothing was moved")
        return
    table = Table("topic", "partition", "was to read", "reads now", "passed over")
    for source, (before, now) in sorted(moved.items()):
        passed = str(now - before) if now > before else "none: the topic was made anew"
        table.add_row(source.topic, str(source.partition), str(before), str(now), passed)
    out.print(table)
    kept = sum(ends[s.topic][s.partition][1] - now for s, (_, now) in moved.items())
    out.print(f"{kept} offsets are kept there and will be read")
    err.print("offsets count transaction markers too; see `callstream replay` for what was lost")


def _drifts(parts: Parts) -> list[Drift]:
    have = parts.view.partitions()
    missing = [
        Drift(topic.name, "topic", "there", "missing", "callstream topics create")
        for topic in TOPICS
        if topic.name not in have
    ]
    # The embedded log has no settings of its own: it expires by the catalogue.
    return missing + (parts.view.drifts(TOPICS) if isinstance(parts.view, KafkaView) else [])


def forgotten(view: LogView) -> str | None:
    """What is to be said where brokers forget a stopped stage's place before its messages."""
    kept_ms = view.offsets_kept_ms() if isinstance(view, KafkaView) else LONGEST_KEPT_MS
    if kept_ms is None:
        return (
            "the brokers do not tell how long they keep a stopped stage's place "
            "(offsets.retention.minutes): DescribeConfigs on the cluster is not allowed"
        )
    if kept_ms >= LONGEST_KEPT_MS:
        return None
    return (
        f"the brokers keep a stopped stage's place for {kept_ms / DAY_MS:g} days: after that it "
        "begins anew, reads again what is kept, and passes over what is not; set "
        f"offsets.retention.minutes={LONGEST_KEPT_MS // 60_000} there, or let no stage be stopped "
        "for so long"
    )


def _needs_a_mend(drift: Drift) -> bool:
    """More partitions cannot be taken away, and do no harm."""
    return drift.what != "partitions" or int(drift.found) < int(drift.wanted)


def _tell(drifts: list[Drift]) -> None:
    if not drifts:
        return
    table = Table("topic", "what", "catalogue", "found", "mend")
    for drift in drifts:
        mend = drift.mend or "callstream topics create --fix"
        table.add_row(drift.topic, drift.what, drift.wanted, drift.found, mend)
    out.print(table)
