"""What was told of calls to the outside, and what is still to be told."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from services.assembly import Parts
from services.cli.console import Stop, err, out
from services.cli.follow import named_call
from services.loopback import Asks, asking, rows_of
from services.runtime.log import TopicPartition
from services.settings import PREFIX, load

notifications_app = typer.Typer()

NOT_NOTIFIED, NOTIFYING = "not_notified", "notifying"


@notifications_app.command("notifications")
def notifications(
    call: Annotated[
        str | None, typer.Argument(help="CALL_ID or TENANT/CALL_ID; default: of every call.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="Only of that endpoint.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the latest first.")] = 50,
) -> None:
    """What each endpoint was told of calls, what it is being told, and what it refused."""
    settings = load()
    parts = Parts(settings)
    if not parts.endpoints:
        raise Stop(
            f"{PREFIX}NOTIFY__ENDPOINTS_FILE names no endpoint, so nobody is told anything: "
            "docs/notifying.md"
        )
    names = [each.name for each in parts.endpoints.values()]
    if endpoint is not None and endpoint not in names:
        raise Stop(f"--endpoint {endpoint}: no such endpoint; there are {', '.join(names)}")
    with asking(settings) as asks:
        tenant, call_id = named_call(settings, asks, call) if call is not None else ("", "")
        wanted = {"tenant": tenant, "call": call_id, "endpoint": endpoint or ""}
        rows = [*_waiting(asks, parts, wanted, limit), *_told(asks, wanted, limit)]
    parts.close()
    rows.sort(key=lambda row: row["at"], reverse=True)
    table = Table("call", "endpoint", "what", "state", "since", "attempts", "why")
    for row in rows[:limit]:
        since = datetime.fromtimestamp(row["at"] / 1000, UTC).isoformat(" ", "seconds")
        table.add_row(
            f"{row['tenant_id']}/{row['call_id']}", row["endpoint"], row["what"], row["state"],
            since, str(row.get("attempts", "")), row.get("why", ""),
        )  # fmt: skip
    out.print(table if rows else "nothing was to be told")
    if len(rows) > limit:
        err.print(f"the latest {limit} of them; --limit shows more")


_OF = (
    "({tenant:String} = '' OR tenant_id = {tenant:String})"
    " AND ({call:String} = '' OR call_id = {call:String})"
)


def _told(asks: Asks, wanted: dict[str, str], limit: int) -> list[dict[str, Any]]:
    rows = rows_of(
        asks,
        "SELECT tenant_id, call_id, endpoint, if(rule != '', rule, record) AS what, state,"
        " toUnixTimestamp64Milli(since) AS at, attempts,"
        " if(reason != '', concat(reason, ': ', detail), detail) AS why FROM call_notifications"
        f" WHERE {_OF} AND ({{endpoint:String}} = '' OR endpoint = {{endpoint:String}})"
        f" ORDER BY since DESC LIMIT {limit}",
        wanted,
    )
    return [{**row, "at": int(row["at"])} for row in rows]


def _waiting(
    asks: Asks, parts: Parts, wanted: dict[str, str], limit: int
) -> Iterable[dict[str, Any]]:
    """What stands before an endpoint on the log; the first of a partition is being told."""
    ends = {topic: parts.view.ends(topic) for topic in parts.view.partitions()}
    for stage, endpoint in parts.endpoints.items():
        if wanted["endpoint"] not in ("", endpoint.name):
            continue
        read = parts.view.committed(parts.group(stage))
        at = {
            (topic, number): read.get(TopicPartition(topic, number), first)
            for topic in parts.sources(stage)
            for number, (first, end) in ends.get(topic, {}).items()
            if read.get(TopicPartition(topic, number), first) < end
        }
        if not at:
            continue
        places = " OR ".join(
            f"(topic = '{topic}' AND partition = {number} AND offset >= {offset})"
            for (topic, number), offset in at.items()
        )
        told = (
            "(tenant_id, call_id, event_id) NOT IN (SELECT tenant_id, call_id, told_id"
            " FROM call_notifications WHERE endpoint = {name:String})"
        )
        for row in rows_of(
            asks,
            "SELECT tenant_id, call_id, topic, partition, offset, type AS what,"
            " toUnixTimestamp64Milli(timestamp) AS at FROM events"
            f" WHERE {_OF} AND ({places}) AND {told}"
            f" AND type IN ('AlertRaised', 'CallEnriched') ORDER BY timestamp DESC LIMIT {limit}",
            {**wanted, "name": endpoint.name},
        ):
            first = int(row["offset"]) == at[row["topic"], int(row["partition"])]
            state = NOTIFYING if first else NOT_NOTIFIED
            yield {**row, "at": int(row["at"]), "endpoint": endpoint.name, "state": state}
