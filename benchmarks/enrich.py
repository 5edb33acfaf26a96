"""How many calls a second of one core's time enriches (CPU time, not wall-clock time).

    python -m benchmarks.enrich [--minutes 10 60 480] [--seconds 5] [--language en]

The calls are synthetic: two speakers in turn at 150 words (or 240 Han characters) a minute, every
word with its time, built from sentences that hit the lexicons about as often as real ones do. Of
longer calls it tells what a minute costs over one of the first: 1.00 where cost is linear.
"""

from __future__ import annotations

import argparse
import time
from itertools import count

from schemas.events import CallTranscribed, Role, Segment
from services.enrich.handler import enrich_call
from services.enrich.rules import load_rules
from services.enrich.settings import EnrichSettings
from services.enrich.transcript_file import parse_transcript
from services.runtime.stage import utc_now

SENTENCES = {
    "en": (
        "I ordered a jacket last week but it has not arrived yet and nobody told me anything.",
        "Let me check the order for you, it should only take a moment.",
        "I was looking at the page yesterday and the number on it was a different one.",
        "I understand, could you read the number on the left side of the letter to me please?",
        "It says seven four two and then there is something that I can not read very well.",
        "Thank you, that helps, I will send the refund to your account right now.",
        "I am not very happy about this, my sister had the same thing in the spring.",
        "We have had a lot of calls this week because of the new system in the warehouse.",
    ),
    "zh": (
        "我上个星期买了一件外套，到现在还没有收到，也没有人告诉我。",
        "好的，我帮您查一下订单，请您稍等一下。",
        "我昨天在网上看了一下，上面的号码跟我手里的不一样。",
        "明白了，请您把左边的号码念给我听一下，可以吗？",
        "上面写的是七四二，后面还有几个字我看得不太清楚。",
        "谢谢您，退款今天就会到账，请您放心。",
        "我对这个不是很满意，我姐姐春天也碰到过一样的事情。",
        "这个星期因为仓库换了新系统，来电比平时多了不少。",
    ),
}


def call(minutes: float, language: str) -> CallTranscribed:
    """A call of that length; every word has its times."""
    base = parse_transcript("agent: hello")
    segments: list[Segment] = []
    at = 0
    for number in count():
        if at >= minutes * 60_000:
            break
        text = SENTENCES[language][number % len(SENTENCES[language])]
        words = list(text) if language == "zh" else text.split()
        step = 250 if language == "zh" else 400
        starts = [at + i * step for i in range(len(words))]
        role = Role.AGENT if number % 2 else Role.CUSTOMER
        segments.append(
            Segment(
                segment_id=number,
                recording_id="r",
                channel=number % 2,
                speaker=role.value.lower(),
                role=role,
                start_ms=at,
                end_ms=at + len(words) * step,
                text=text,
                language=language,
                words=words,
                word_start_ms=starts,
                word_end_ms=[start + step for start in starts],
                loudness_dbfs=-20.0 - number % 7,
            )
        )
        at += len(words) * step + 400
    return CallTranscribed(
        tenant_id=base.tenant_id,
        call_id=base.call_id,
        revision=0,
        transcribed_at=base.transcribed_at,
        call=base.call,
        recordings=[],
        duration_ms=at,
        engine=base.engine,
        language=language,
        segments=segments,
    )


def calls_per_second(minutes: float, language: str, seconds: float) -> float:
    """Of one thread, encoding and log left out."""
    event, rules, settings, now = call(minutes, language), load_rules(), EnrichSettings(), utc_now()
    enrich_call(event, "warm", rules, now, settings)
    done = 0
    began = time.process_time()
    while (spent := time.process_time() - began) < seconds:
        enrich_call(event, "id", rules, now, settings)
        done += 1
    return done / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, nargs="+", default=[10.0, 60.0, 480.0])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--language", choices=sorted(SENTENCES), action="append")
    options = parser.parse_args()
    for language in options.language or sorted(SENTENCES):
        per_minute: list[float] = []
        for minutes in options.minutes:
            rate = calls_per_second(minutes, language, options.seconds)
            event = call(minutes, language)
            words = sum(len(segment.words) for segment in event.segments)
            per_minute.append(1.0 / rate / minutes)
            print(
                f"{language}: {rate:.3g} calls of {minutes:g} min per CPU second "
                f"({len(event.segments)} segments, {words} words); a minute costs "
                f"{1000 * per_minute[-1]:.2f} ms, {per_minute[-1] / per_minute[0]:.2f} of the first"
            )


if __name__ == "__main__":
    main()
