"""The topic catalogue: the one place from which topics are created, checked and documented."""

from __future__ import annotations

from dataclasses import dataclass

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `record` is None where the value is another topic's original bytes."""

    name: str
    record: str | None
    about: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    cleanup: str = "delete"
    retention_ms: int = 30 * DAY_MS
    partitions: int = 24

    @property
    def subject(self) -> str:
        """The schema registry subject of this topic's values."""
        return f"{self.name}-value"


@dataclass(frozen=True, slots=True)
class RetryTier:
    """A topic in which a message waits `delay_ms` before its stage reads it again."""

    topic: str
    delay_ms: int


ENDED = "calls.ended"
RECORDED = "calls.recorded"
TRANSCRIBED = "calls.transcribed"
ENRICHED = "calls.enriched"
ALERTS = "calls.alerts"
SUMMARIES = "calls.summaries"
REPLAY = "calls.replay"
GENERATIONS = "calls.generations"
REVIEWS = "calls.reviews"
NOTIFIED = "calls.notified"
ERASED = "calls.erased"
DEAD_LETTER = "calls.dead-letter"

RETRY_TIERS = (
    RetryTier("calls.retry.1m", MINUTE_MS),
    RetryTier("calls.retry.10m", 10 * MINUTE_MS),
    RetryTier("calls.retry.1h", HOUR_MS),
)

_STAGES = ("ingest", "transcribe", "enrich", "summarize", "notify", "sink")


def _retry(tier: RetryTier) -> Topic:
    return Topic(
        tier.topic,
        None,
        f"Original messages of any stage that wait {tier.delay_ms // MINUTE_MS} min; "
        "due time, attempt and stage in headers.",
        _STAGES,
        _STAGES,
        retention_ms=7 * DAY_MS,
    )


TOPICS: tuple[Topic, ...] = (
    Topic(
        ENDED,
        "CallEnded",
        "A call ended, as the platform sees it.",
        ("platform", "submit", "drop folder"),
        ("ingest", "sink"),
    ),
    Topic(
        RECORDED, "CallRecorded", "The call's audio is stored.", ("ingest",), ("transcribe", "sink")
    ),
    Topic(
        TRANSCRIBED,
        "CallTranscribed",
        "Who said what and when.",
        ("transcribe",),
        ("enrich", "sink"),
    ),
    Topic(
        ENRICHED,
        "CallEnriched",
        "Findings, score and summary, with evidence.",
        ("enrich", "summarize"),
        ("notify", "sink", "CRM"),
    ),
    Topic(
        ALERTS,
        "AlertRaised",
        "A call that needs a person now.",
        ("enrich",),
        ("notify", "sink", "supervisors"),
    ),
    Topic(
        SUMMARIES,
        "SummaryRequested",
        "A language model is to be asked about a call.",
        ("enrich",),
        ("summarize",),
        retention_ms=7 * DAY_MS,
    ),
    Topic(
        REPLAY,
        "ReplayRequested",
        "One stage is to run again for one call.",
        ("replay command", "ingest", "transcribe", "enrich"),
        _STAGES,
        retention_ms=7 * DAY_MS,
    ),
    Topic(
        GENERATIONS,
        "GenerationDecided",
        "A shadow generation is shown from now on, or never.",
        ("replay command",),
        ("sink",),
        cleanup="compact",
    ),
    Topic(
        REVIEWS,
        "CallReviewed",
        "A person judged a call, or one criterion of its score.",
        ("review command",),
        ("sink",),
        retention_ms=90 * DAY_MS,
    ),
    Topic(
        NOTIFIED,
        "CallNotified",
        "An endpoint outside has taken an event of a call, or has another in its place.",
        ("notify",),
        ("sink",),
    ),
    Topic(
        ERASED,
        "CallErased",
        "Everything held about a call is to be forgotten.",
        ("erase command",),
        ("notify", "sink"),
        cleanup="compact",
    ),
    *(_retry(tier) for tier in RETRY_TIERS),
    Topic(
        DEAD_LETTER,
        None,
        "Messages that cannot be processed: original bytes, reason in headers.",
        _STAGES,
        ("sink", "operator"),
        retention_ms=90 * DAY_MS,
    ),
)

LONGEST_KEPT_MS = max(topic.retention_ms for topic in TOPICS if topic.cleanup == "delete")
"""How long a stage may be stopped before something that it has not read is kept no longer."""

BY_NAME = {topic.name: topic for topic in TOPICS}
BY_RECORD = {topic.record: topic for topic in TOPICS if topic.record is not None}
