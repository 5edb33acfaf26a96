"""How long an alert takes from the transcript to a receiver outside.

    python -m benchmarks.alerts [--calls 60] [--every 0.5] [--model-s 5]

The embedded suite with enrich, notify and sink at work; a transcript that raises an alert is
published every so many seconds, with a webhook receiver on this machine. The time is from the
transcript's place on the log to the receiver having the alert. Then the same while a language
model, which writes the summaries, takes `--model-s` seconds for each: no alert waits for it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from schemas.events import AlertRaised
from services.assembly import Parts
from services.enrich.settings import EnrichSettings
from services.enrich.transcript_file import parse_transcript
from services.notify.settings import NotifySettings
from services.runtime.observe import configure_logs
from services.runtime.stage import utc_now
from services.serve import Running, switch_often
from services.settings import load
from services.transcribe.settings import TranscribeSettings
from tests.enrich.llm_server import Asked, serving, summarizes
from tests.enrich.llm_server import Reply as Completion
from tests.notify.receiver import SECRET, Reply, Request, receiver

CALL = """
agent: Good morning, how can I help you?
customer: I am furious. This is the third time, I want my refund now.
agent: Let me see.
customer: If this is not solved today I will call my lawyer.
"""


def measured(folder: Path, calls: int, every_s: float, model_url: str | None) -> list[float]:
    """Seconds of each first alert of a call."""
    reached: dict[str, float] = {}

    def note(request: Request) -> Reply:
        event = request.json
        if event["type"] == "alert.raised":
            reached.setdefault(event["data"]["call_id"], time.time())
        return Reply()

    with receiver(note) as outside:
        file = folder / "endpoints.yaml"
        file.write_text(
            f"endpoints:\n  - {{name: here, kind: webhook, url: '{outside.url}', secret: {SECRET},"
            " events: [alert], allow_private: true}\n"
        )
        llm = {} if model_url is None else {"llm": {"url": model_url, "model": "slow"}}
        settings = load(
            data_dir=folder / "data",
            transcribe=TranscribeSettings(engine="stub"),
            enrich=EnrichSettings.model_validate(llm),
            notify=NotifySettings(endpoints_file=file),
            tenant="alerts",
        )
        parts = Parts(settings)
        names = [name for name in parts.stages if name not in ("ingest", "transcribe")]
        running = Running(parts, names)
        running.start()
        log, sent = parts.log(), dict[str, float]()
        event = parse_transcript(CALL, tenant_id="alerts")
        for number in range(calls):
            id, now = f"call-{number}", utc_now()
            call = replace(event.call, call_id=id, published_at=now)
            made = replace(event, call_id=id, call=call, transcribed_at=now)
            record = parts.codec.encode(made, id=id, source="/benchmarks", time=now)
            log.commit([record], {})
            sent[id] = time.time()
            time.sleep(every_s)
        deadline = time.monotonic() + 60
        while len(reached) < calls and time.monotonic() < deadline:
            time.sleep(0.01)
        running.stop.set()
        running.join(30)
        log.close()
        parts.close()
    if missing := sorted(set(sent) - set(reached)):
        raise RuntimeError(f"no {AlertRaised.__name__} of {', '.join(missing)} came")
    return [reached[id] - at for id, at in sent.items()]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--calls", type=int, default=60)
    options.add_argument("--every", type=float, default=0.5)
    options.add_argument("--model-s", type=float, default=5.0)
    chosen = options.parse_args()
    configure_logs("CRITICAL")
    switch_often()

    def slowly(asked: Asked) -> Completion:
        time.sleep(chosen.model_s)
        return summarizes(asked)

    with serving(slowly) as server:
        for what, url in (("no language model", None), (
            f"a language model that takes {chosen.model_s:g} s", server.url
        )):  # fmt: skip
            with tempfile.TemporaryDirectory() as folder:
                taken = sorted(measured(Path(folder), chosen.calls, chosen.every, url))
            print(
                f"{what}: {len(taken)} alerts, median {statistics.median(taken):.3f} s, "
                f"95th percentile {taken[int(0.95 * len(taken))]:.3f} s, longest {taken[-1]:.3f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
