"""From a recording to a receiver outside: alerts at once, calls when all of them is known."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from services.assembly import Parts
from services.notify.settings import NotifySettings
from services.settings import Settings
from tests.enrich.llm_server import Asked, serving, summarizes
from tests.enrich.llm_server import Reply as Completion
from tests.notify.receiver import SECRET, Reply, Request, receiver
from tests.replay.suite import (
    Command,
    at_work,
    count,
    drained,
    hand_in,
    parts_of,
    replayed,
    settings_in,
    until,
)

pytestmark = pytest.mark.clickhouse

CALLS = 4


def telling(folder: Path, **urls: str) -> Settings:
    file = folder / "endpoints.yaml"
    entries = "".join(
        f"  - {{name: {name}, kind: webhook, url: '{url}', secret: {SECRET},"
        " allow_private: true}\n"
        for name, url in urls.items()
    )
    file.write_text(f"endpoints:\n{entries}")
    return settings_in(folder).model_copy(update={"notify": NotifySettings(endpoints_file=file)})


def told(requests: list[Request]) -> dict[str, list[str]]:
    """Type -> calls, verified."""
    found: dict[str, list[str]] = {"alert.raised": [], "call.enriched": []}
    for request in requests:
        event = request.verified()
        found[event["type"]].append(event["data"]["call_id"])
    return found


def notified(parts: Parts, endpoint: str) -> int:
    return count(
        parts,
        "SELECT count() FROM call_notifications"
        f" WHERE endpoint = '{endpoint}' AND state = 'notified'",
    )


def test_each_call_and_alert_is_told_once_and_by_no_replay(tmp_path: Path) -> None:
    names = [f"call-{number}" for number in range(CALLS)]
    with (
        receiver() as outside,
        parts_of(telling(tmp_path, crm=outside.url)) as parts,
        at_work(parts) as running,
    ):
        assert parts.stages == ("ingest", "transcribe", "enrich", "notify.crm", "sink")
        hand_in(parts, tmp_path, range(CALLS))
        drained(parts, running)
        found = told(outside.asked)
        assert {type_: sorted(calls) for type_, calls in found.items()} == {
            "alert.raised": names, "call.enriched": names,
        }  # fmt: skip
        assert notified(parts, "crm") == 2 * CALLS
        replayed(parts, "enrich")
        drained(parts, running)
        assert told(outside.asked) == found
        assert count(parts, "SELECT count() FROM calls WHERE state = 'enriched'") == CALLS


def test_a_receiver_that_is_away_holds_up_nobody_and_gets_it_all(tmp_path: Path) -> None:
    up = threading.Event()

    def answer(request: Request) -> Reply:
        return Reply(204 if up.is_set() else 503)

    with (
        receiver() as well,
        receiver(answer) as away,
        parts_of(telling(tmp_path, well=well.url, away=away.url)) as parts,
        at_work(parts) as running,
    ):
        hand_in(parts, tmp_path, range(CALLS))
        until(lambda: len(well.asked) == 2 * CALLS, "the other is not told", running)
        state = "SELECT count() FROM calls WHERE state = 'enriched'"
        until(lambda: count(parts, state) == CALLS, "the calls wait for it", running)
        assert notified(parts, "away") == 0
        up.set()
        drained(parts, running)
        taken = [request for request in away.asked if request.id in {r.id for r in well.asked}]
        assert {request.id for request in taken} == {request.id for request in well.asked}
        until(lambda: notified(parts, "away") == 2 * CALLS, "it is not on record", running)


def test_an_alert_goes_out_while_a_model_writes_and_the_call_when_it_has(tmp_path: Path) -> None:
    go = threading.Event()

    def slowly(asked: Asked) -> Completion:
        go.wait(60)
        return summarizes(asked)

    with serving(slowly) as server, receiver() as outside:
        base = telling(tmp_path, crm=outside.url)
        enrich = base.enrich.model_copy(update={"llm": server.settings(timeout_s=60)})
        with (
            parts_of(base.model_copy(update={"enrich": enrich})) as parts,
            at_work(parts) as running,
        ):
            hand_in(parts, tmp_path, range(CALLS))
            until(lambda: len(outside.asked) == CALLS, "alerts are not told", running)
            assert told(outside.asked)["call.enriched"] == []
            go.set()
            drained(parts, running)
            calls = [r.verified() for r in outside.asked if r.verified()["type"] == "call.enriched"]
            assert len(calls) == CALLS
            assert {call["data"]["summary"]["method"] for call in calls} == {"small"}


def listed(run: Command, *words: str) -> list[list[str]]:
    lines = run("notifications", *words).splitlines()
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]


def test_the_command_tells_what_was_told_and_what_was_not(tmp_path: Path) -> None:
    def answer(request: Request) -> Reply:
        return Reply(422 if request.json["data"]["call_id"] == "call-1" else 204)

    at_work_here = ("ingest", "transcribe", "enrich", "notify.crm", "sink")  # `other` has no stage
    with receiver(answer) as outside, receiver() as other:
        settings = telling(tmp_path, crm=outside.url, other=other.url)
        with parts_of(settings) as parts, at_work(parts, at_work_here) as running:
            hand_in(parts, tmp_path, range(2))
            outcomes = "SELECT count() FROM call_notifications WHERE endpoint = 'crm'"
            until(lambda: count(parts, outcomes) == 4, "not all is told or refused", running)
        (tmp_path / "rules").rename(tmp_path / "made")  # they are made anew by what follows
        (tmp_path / "trials").rename(tmp_path / "tried")
        file = str(settings.notify.endpoints_file)
        run = Command(tmp_path, {"CALLSTREAM_NOTIFY__ENDPOINTS_FILE": file})
        rows = listed(run, "--endpoint", "crm")
        assert {(row[0], row[3]) for row in rows} == {
            ("again/call-0", "notified"), ("again/call-1", "notification_failed"),
        }  # fmt: skip
        assert all("422" in row[6] for row in rows if row[3] == "notification_failed")
        waiting = [row[3] for row in listed(run, "--endpoint", "other")]
        assert len(waiting) == 4
        assert set(waiting) <= {"notifying", "not_notified"}
        assert {row[0] for row in listed(run, "call-0")} == {"again/call-0"}
        told = run("notifications", "--endpoint", "nobody", status=1)
        assert "no such endpoint; there are crm, other" in told
