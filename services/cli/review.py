"""`callstream review`: a person overrules a verdict or the score of a call; whatever is computed
again, that counts until it is withdrawn.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.table import Table

from schemas.events import CallEnriched, CallReviewed, Verdict
from schemas.topics import REVIEWS
from services.assembly import Parts
from services.cli.archive import newest
from services.cli.console import Stop, err, login_name, out
from services.cli.follow import named_call
from services.cli.show import Reviewed
from services.loopback import Asks, asking, rows_of, running
from services.runtime.codec import Codec
from services.runtime.errors import Invalid, Transient
from services.runtime.log import Log
from services.runtime.stage import event_id, utc_now
from services.settings import Settings, load
from services.sink.rows import milliseconds

review_app = typer.Typer()

_POLL_S = 0.2
_STORED_S = 60.0
_LONGEST = 2_000
_OF_CALL = "WHERE tenant_id = {tenant:String} AND call_id = {call:String}"
_SCORED = f"SELECT score, computed_score FROM calls {_OF_CALL}"
_EPOCH = datetime.fromtimestamp(0, UTC)


class ReviewVerdict(StrEnum):
    """What may be said of a criterion."""

    met = "met"
    not_met = "not_met"
    not_applicable = "not_applicable"


@review_app.command()
def review(
    call: Annotated[str, typer.Argument(help="CALL_ID, or TENANT/CALL_ID.")],
    criterion: Annotated[
        str | None, typer.Option(help="Id of the criterion; `--list` names those of the call.")
    ] = None,
    verdict: Annotated[ReviewVerdict | None, typer.Option(help="What counts of it.")] = None,
    score: Annotated[
        float | None, typer.Option(min=0.0, max=100.0, help="What counts of the whole call.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; shown beside the review.")] = "",
    by: Annotated[str | None, typer.Option(help="Who says so; default: the login name.")] = None,
    withdraw: Annotated[
        bool,
        typer.Option("--withdraw", help="Take it back: of --criterion, else of the whole score."),
    ] = False,
    list_: Annotated[
        bool, typer.Option("--list", help="What was ever judged of the call, and what counts.")
    ] = False,
) -> None:
    """Overrule one criterion of a call's score, or the whole, until that is withdrawn.

    It outlasts every replay: new rules and models change what is computed, not what counts.
    """
    _check(criterion, verdict, score, reason, by, withdraw, list_)
    settings = load()
    parts = Parts(settings)
    with asking(settings) as asks:
        tenant, call_id = named_call(settings, asks, call)
        current = newest(asks, parts.codec, tenant, call_id, CallEnriched)
        enriched = None if current is None else current.event
        # First what waits: what the sink stores between the two is in both, and told once.
        try:
            waiting = _waiting(parts, tenant, call_id)
        except Transient as failure:
            if not list_:
                raise
            err.print(f"what waits for the sink is not known: {failure}", soft_wrap=True)
            waiting = []
        known = _known(asks, tenant, call_id, waiting)
        if list_:
            of_it = {"tenant": tenant, "call": call_id}
            _tell(tenant, call_id, enriched, known, rows_of(asks, _SCORED, of_it))
            parts.close()
            return
        if withdraw:
            _check_withdrawal(criterion or "", known)
        elif criterion is not None:
            _check_criterion(criterion, tenant, call_id, enriched)
        event = later(
            CallReviewed(
                tenant_id=tenant,
                call_id=call_id,
                criterion_id=criterion or "",
                verdict=Verdict.UNKNOWN if verdict is None else Verdict[verdict.value.upper()],
                score=score,
                withdrawn=withdraw,
                reviewed_at=utc_now(),
                reviewed_by=login_name() if by is None else by,
                reason=reason.strip(),
            ),
            known,
        )
        log = parts.log()
        id = record(log, parts.codec, event)
        log.close()
    parts.close()
    if settings.log.kind == "sqlite" and running(settings.data_dir) is None:
        out.print(f"{tenant}/{call_id}: on record", soft_wrap=True)
        err.print(
            "it counts once the sink has it: start `callstream up`, none runs on this data folder",
            soft_wrap=True,
        )
        return
    _stored(settings, event, id)


def later(event: CallReviewed, known: Sequence[Mapping[str, Any]]) -> CallReviewed:
    """`event` after all that is `known` to be judged of the same: the last word counts, by whatever
    clock it was said.

    `known` are the call's reviews, as `_known` has them: `at` is ms since the epoch.
    """
    same = (int(row["at"]) for row in known if row["criterion_id"] == event.criterion_id)
    least = _EPOCH + timedelta(milliseconds=max(same, default=0) + 1)
    return replace(event, reviewed_at=max(event.reviewed_at, least))


def record(log: Log, codec: Codec, event: CallReviewed) -> str:
    """Put the review on its topic, durably; its event id."""
    what = (
        event.tenant_id, event.call_id, event.criterion_id, event.verdict, event.score,
        event.withdrawn, event.reviewed_at.isoformat(), event.reviewed_by, event.reason,
    )  # fmt: skip
    id = event_id("review", "\n".join(map(str, what)), 0, 0)
    made = codec.encode(event, id=id, source="/callstream/review", time=event.reviewed_at)
    log.commit([made], {})
    return id


def reviews_of(asks: Asks, tenant: str, call_id: str) -> Reviewed:
    """What people judged of the call and did not withdraw, and the score that counts."""
    of_call = {"tenant": tenant, "call": call_id}
    rows = rows_of(
        asks,
        "SELECT criterion_id, verdict, score, reviewed_by, reason FROM call_reviews"
        f" {_OF_CALL} ORDER BY criterion_id",
        of_call,
    )
    if not rows:
        return Reviewed()
    (counts,) = rows_of(asks, f"SELECT score FROM calls {_OF_CALL}", of_call)
    return Reviewed(counts["score"], rows)


# What is refused


def _check(
    criterion: str | None,
    verdict: ReviewVerdict | None,
    score: float | None,
    reason: str,
    by: str | None,
    withdraw: bool,
    list_: bool,
) -> None:
    """Raises Stop where the words make no review."""
    judges = criterion is not None or verdict is not None or score is not None
    if list_:
        if judges or withdraw or reason or by is not None:
            raise Stop("--list shows what was judged, and takes nothing beside the call")
        return
    if criterion is not None and score is not None:
        raise Stop("--criterion and --score: a review is of one criterion or of the whole call")
    if criterion is not None and not criterion.strip():
        raise Stop("--criterion is empty; `callstream review CALL --list` names those of a call")
    if by is not None and not by.strip():
        raise Stop("--by is empty: a review says whose it is")
    if withdraw:
        if verdict is not None or score is not None:
            raise Stop("--withdraw takes back what was judged: leave --verdict and --score away")
        return
    allowed = ", ".join(ReviewVerdict)
    if not judges:
        raise Stop(
            f"say what is judged: --criterion ID with --verdict ({allowed}), or --score of the "
            "whole, 0 to 100"
        )
    if criterion is None and verdict is not None:
        raise Stop("--verdict judges a criterion: say which one with --criterion")
    if criterion is not None and verdict is None:
        raise Stop(f"--verdict is missing: one of {allowed}")
    if not reason.strip():
        raise Stop("--reason is missing: who sees the score is told why it is not the computed one")
    for name, text in (("--reason", reason), ("--by", by or "")):
        if len(text) > _LONGEST or any(c < " " and not c.isspace() for c in text):
            raise Stop(f"{name} is one text of at most {_LONGEST:,} characters that can be read")


def _check_criterion(
    criterion: str, tenant: str, call_id: str, enriched: CallEnriched | None
) -> None:
    if enriched is None or enriched.score is None:
        raise Stop(
            f"{tenant}/{call_id} has no score, and so no criterion that could be judged; --score "
            "judges the whole"
        )
    names = [each.criterion_id for each in enriched.score.criteria]
    if criterion not in names:
        raise Stop(
            f"--criterion {criterion}: the call has no such criterion; it has {', '.join(names)}"
        )


def _check_withdrawal(criterion: str, known: Sequence[Mapping[str, Any]]) -> None:
    """Raises Stop where nothing stands that could be withdrawn."""
    standing = [name for name, row in _latest(known).items() if not row["withdrawn"]]
    if criterion in standing:
        return
    what = f"criterion {criterion}" if criterion else "the score as a whole"
    names = ", ".join(f"criterion {name}" if name else "the whole" for name in sorted(standing))
    raise Stop(f"--withdraw: no review of {what} counts; those that do: {names or 'none'}")


# What is told


def _stored(settings: Settings, event: CallReviewed, id: str) -> None:
    """Wait until readers see the review, and say what counts now. Raises Stop where they do not."""
    tenant, call_id = event.tenant_id, event.call_id
    of_it = {"tenant": tenant, "call": call_id, "event": id}
    stored = f"SELECT count() AS stored FROM reviews {_OF_CALL} AND event_id = {{event:String}}"
    try:
        with asking(settings) as asks, err.status("waiting for the warehouse"):
            deadline = time.monotonic() + _STORED_S
            while not int(rows_of(asks, stored, of_it)[0]["stored"]):
                if time.monotonic() > deadline:
                    raise Stop(
                        f"it is on record, and the warehouse has not shown it in {_STORED_S:.0f} "
                        "s; does the sink run? `callstream topics` shows its lag"
                    )
                time.sleep(_POLL_S)
            rows = rows_of(asks, _SCORED, of_it)
    except Transient as failure:
        raise Stop(f"it is on record, and counts once the sink has it: {failure}") from failure
    what = event.criterion_id or "the whole"
    said = "withdrawn" if event.withdrawn else _said(event.verdict, event.score)
    out.print(f"{tenant}/{call_id}: {what} {said}; {_scored(rows)}", soft_wrap=True)


def _tell(
    tenant: str,
    call_id: str,
    enriched: CallEnriched | None,
    known: Sequence[Mapping[str, Any]],
    scored: Sequence[Mapping[str, Any]],
) -> None:
    out.print(f"{tenant}/{call_id}: {_scored(scored)}", soft_wrap=True)
    criteria = enriched.score.criteria if enriched and enriched.score else []
    stored = [row for row in known if not row["waits"]]
    latest, counting = _latest(known), _latest(stored)
    standing = {name: row for name, row in counting.items() if not row["withdrawn"]}
    if criteria:
        table = Table("criterion", "title", "weight", "computed", "counts")
        for each in criteria:
            computed = each.verdict.lower()
            row = standing.get(each.criterion_id)
            counts = computed if row is None else row["verdict"].lower()
            table.add_row(each.criterion_id, each.title, f"{each.weight:g}", computed, counts)
        out.print(table)
    if not known:
        out.print("nobody has reviewed it")
        return
    names = {each.criterion_id for each in criteria}
    table = Table("reviewed", "by", "what", "judged", "counts", "reason")
    for row in known:
        name = row["criterion_id"]
        if row is not (latest if row["waits"] else counting).get(name):
            counts = "no: judged again since"
        elif row["withdrawn"] and not row["waits"]:
            counts = "no: what is computed does"
        elif name and name not in names:
            counts = "no: the scorecard has no such criterion"
        elif name and "" in standing:
            counts = "not for the score, which is reviewed as a whole"
        else:
            counts = "not yet: once the sink has stored it" if row["waits"] else "yes"
        at = _EPOCH + timedelta(milliseconds=int(row["at"]))
        said = "withdrawn" if row["withdrawn"] else _said(row["verdict"], row["score"])
        table.add_row(f"{at:%Y-%m-%d %H:%M:%S}", row["reviewed_by"], name or "the whole", said,
                      counts, row["reason"])  # fmt: skip
    out.print(table)


def _said(verdict: str, score: float | None) -> str:
    return verdict.lower() if score is None else f"{score:g}"


def _scored(rows: Sequence[Mapping[str, Any]]) -> str:
    """What counts of a call, from its row of the view `calls`."""
    if not rows:
        return "the call is not there any more"
    score, computed = (
        "none" if rows[0][name] is None else f"{rows[0][name]:g}"
        for name in ("score", "computed_score")
    )
    return f"score {score}, computed {computed}"


# Small parts


def _known(
    asks: Asks, tenant: str, call_id: str, waiting: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Every review of the call, stored and `waiting`, the newest first."""
    stored = rows_of(
        asks,
        "SELECT event_id, criterion_id, verdict, score, withdrawn, reviewed_by, reason,"
        " toUnixTimestamp64Milli(reviewed_at) AS at, false AS waits"
        f" FROM reviews FINAL {_OF_CALL}",
        {"tenant": tenant, "call": call_id},
    )
    ids = {row["event_id"] for row in stored}
    known = [*stored, *(row for row in waiting if row["event_id"] not in ids)]
    return sorted(known, key=lambda row: (int(row["at"]), row["event_id"]), reverse=True)


def _waiting(parts: Parts, tenant: str, call_id: str) -> list[dict[str, Any]]:
    """Reviews of the call that are on record and that the sink has not read, as `_known` has them.

    One that the sink cannot read is passed over: it becomes a dead letter.
    """
    key = f"{tenant}/{call_id}".encode()
    read = parts.view.committed(parts.group("sink"))
    start = {part: at for (topic, part), at in read.items() if topic == REVIEWS}
    found = []
    for message in parts.view.scan(REVIEWS, start):
        if message.key != key:
            continue
        with suppress(Invalid):
            envelope = parts.codec.decode(message)
            review: CallReviewed = envelope.event
            found.append(
                {
                    "event_id": envelope.id,
                    "criterion_id": review.criterion_id,
                    "verdict": review.verdict.value,
                    "score": review.score,
                    "withdrawn": review.withdrawn,
                    "reviewed_by": review.reviewed_by,
                    "reason": review.reason,
                    "at": milliseconds(review.reviewed_at),
                    "waits": True,
                }
            )
    return found


def _latest(known: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Criterion, "" for the whole -> the newest of `known`, which come the newest first."""
    latest: dict[str, Mapping[str, Any]] = {}
    for row in known:
        latest.setdefault(row["criterion_id"], row)
    return latest
