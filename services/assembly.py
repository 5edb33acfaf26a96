"""Which parts the settings ask for, put together. The one place where services meet."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from schemas.events import CallEnded
from schemas.topics import ENDED, RECORDED, REPLAY, SUMMARIES, TOPICS, TRANSCRIBED
from services.enrich.handler import stage as enrich_stage
from services.enrich.handler import summary_stage
from services.enrich.insight import Insight
from services.enrich.rules import Rules, load_tenant_rules
from services.enrich.sentiment_model import SentimentModel
from services.ingest.handler import stage as ingest_stage
from services.notify.endpoints import Endpoint, load_endpoints
from services.notify.handler import PREFIX, sources_of
from services.notify.handler import stage as notify_stage
from services.runtime.codec import Codec, FolderRegistry, Registry
from services.runtime.kafka_log import KafkaLog, Statistics
from services.runtime.kafka_view import KafkaView
from services.runtime.log import Log, LogView, OffsetGone, TopicPartition
from services.runtime.objects import DirectoryObjects, Objects, S3Objects
from services.runtime.observe import Observer, logger
from services.runtime.process import RETRY_TOPICS, topics_of
from services.runtime.registry import HttpRegistry
from services.runtime.sqlite_log import SqliteLog, SqliteView
from services.runtime.stage import Stage, utc_now
from services.settings import Settings, data_folder
from services.sink.handler import stage as sink_stage
from services.sink.warehouse import Result, Warehouse
from services.transcribe.choice import Partings, choose
from services.transcribe.handler import stage as transcribe_stage
from services.watch import Watch

STAGES = ("ingest", "transcribe", "enrich", "sink")
"""The stages that every call passes, each a service of its own."""
SERVICES = ("ingest", "transcribe", "enrich", "notify", "sink")
# What each stage reads, retry tiers aside; `Parts.sources` knows those of endpoints too.
SOURCES: dict[str, tuple[str, ...]] = {
    "ingest": (ENDED,),
    "transcribe": (RECORDED,),
    "enrich": (TRANSCRIBED,),
    "summarize": (SUMMARIES,),
    "sink": tuple(topic.name for topic in TOPICS if "sink" in topic.consumers),
}


@dataclass(frozen=True)
class Parts:
    """The parts that `settings` ask for; each is made when first used."""

    settings: Settings

    @cached_property
    def objects(self) -> Objects:
        wanted = self.settings.objects
        if wanted.kind == "directory":
            return DirectoryObjects(data_folder(self.settings) / "objects")
        store = S3Objects(
            wanted.endpoint,
            wanted.bucket,
            access_key=wanted.access_key,
            secret_key=wanted.secret_key.get_secret_value() if wanted.secret_key else None,
            region=wanted.region,
            secure=wanted.secure,
        )
        store.check()
        return store

    @cached_property
    def registry(self) -> Registry:
        wanted = self.settings.registry
        return FolderRegistry() if wanted.url is None else HttpRegistry(wanted)

    @cached_property
    def codec(self) -> Codec:
        return Codec(self.registry, self.objects)

    @cached_property
    def observer(self) -> Observer:
        return Observer()

    @cached_property
    def view(self) -> LogView:
        """The log as operators see it; on SQLite its topics are made."""
        if self.settings.log.kind == "kafka":
            return KafkaView(self.settings.log.kafka)
        data_folder(self.settings)
        view = SqliteView(self.settings.log_file)
        view.create({topic.name: self.settings.log.partitions for topic in TOPICS})
        return view

    @cached_property
    def rules(self) -> tuple[Rules, Mapping[str, Rules]]:
        """Those of everybody, and those of tenants with their own. Raises FileError."""
        return load_tenant_rules(self.settings.enrich.rules_dir)

    @cached_property
    def insight(self) -> Insight | None:
        """What asks a language model; None where none is set. One in this process is loaded."""
        llm = self.settings.enrich.llm
        return Insight(llm, self.objects if llm.cache else None) if llm.is_set else None

    @cached_property
    def text_model(self) -> SentimentModel | None:
        """What tells how words feel, loaded once for all stages; None where none is set."""
        wanted = self.settings.enrich.sentiment
        return SentimentModel(wanted) if wanted.model else None

    @cached_property
    def warehouse(self) -> Warehouse:
        return Warehouse.open(self.settings.sink)

    def log(
        self,
        group: str = "",
        topics: Collection[str] = (),
        on_statistics: Callable[[Statistics], None] | None = None,
    ) -> Log:
        """A member of `group`; without one, a log that only writes."""
        gone = partial(_gone, group.removeprefix(self.group("")))
        if self.settings.log.kind == "kafka":
            return KafkaLog(self.settings.log.kafka, group, topics, on_statistics, gone)
        _ = self.view
        return SqliteLog(self.settings.log_file, group, topics, gone)

    def log_of(self, stage: Stage) -> Log:
        """The log as `stage` reads it; its client's own figures become metrics."""
        told = partial(self.observer.kafka, stage.name)
        return self.log(self.group(stage.name), topics_of(stage), told)

    def group(self, stage: str) -> str:
        """The consumer group of a stage."""
        return f"callstream.{stage}"

    @cached_property
    def endpoints(self) -> Mapping[str, Endpoint]:
        """Stage -> the endpoint that it tells. Raises FileError."""
        return {f"{PREFIX}{each.name}": each for each in load_endpoints(self.settings.notify)}

    def stages_of(self, service: str) -> tuple[str, ...]:
        """The stages that run where the service does."""
        if service == "notify":
            return tuple(self.endpoints)
        if service == "enrich" and self.settings.enrich.llm.is_set:
            return "enrich", "summarize"
        return (service,)

    @cached_property
    def stages(self) -> tuple[str, ...]:
        """Every stage that these settings have work for, in the order of a call."""
        return tuple(stage for service in SERVICES for stage in self.stages_of(service))

    def sources(self, stage: str) -> tuple[str, ...]:
        """The topics that the stage reads, retry tiers and requests to replay aside."""
        return sources_of(self.endpoints[stage]) if stage.startswith(PREFIX) else SOURCES[stage]

    def stage(self, name: str) -> Stage:
        """The stage of that name over these parts; may take long where it loads a model."""
        if name.startswith(PREFIX):
            return notify_stage(self.endpoints[name], self.objects, self.settings.notify)
        return _MAKERS[name](self)

    def watch(self, names: Collection[str]) -> Watch:
        """What measures the lag of the stages `names`; beside the sink, the dead letters too."""
        reads = {
            name: (self.group(name), tuple(dict.fromkeys((*self.sources(name), REPLAY))))
            for name in names
        }
        return Watch(self.view, self.observer, reads, self.stages if "sink" in names else ())

    def expire(self, view: SqliteView) -> int:
        """Let go of what the catalogue keeps no longer and every stage has read; how much went."""
        reads = {name: {*self.sources(name), REPLAY, *RETRY_TOPICS} for name in self.stages}
        readers = {
            topic.name: [self.group(name) for name in self.stages if topic.name in reads[name]]
            for topic in TOPICS
        }
        return view.expire(round(time.time() * 1000), readers=readers)

    def publish(self, log: Log, call: CallEnded) -> None:
        """Put `call` on its topic, durably; its id is the platform's own."""
        record = self.codec.encode(
            call, id=call.event_id, source="/callstream/submit", time=utc_now()
        )
        log.commit([record], {})

    def lags(self) -> dict[tuple[str, str], int]:
        """(stage, topic) -> messages the stage has not finished. Retry tiers do not count."""
        ends = {name: self.view.ends(name) for name in self.view.partitions()}
        lags = {}
        for name in self.stages:
            read = self.view.committed(self.group(name))
            for topic in self.sources(name):
                lags[name, topic] = sum(
                    # The ends were asked before: the stage may have gone past them.
                    max(0, end - read.get(TopicPartition(topic, part), first))
                    for part, (first, end) in ends.get(topic, {}).items()
                )
        return lags

    def close(self) -> None:
        for name in ("warehouse", "view", "registry"):
            part = self.__dict__.pop(name, None)
            if part is not None:
                with suppress(Exception):
                    part.close()


_MAKERS: dict[str, Callable[[Parts], Stage]] = {
    "ingest": lambda parts: ingest_stage(parts.settings.ingest, parts.objects),
    "transcribe": lambda parts: _transcribe(parts),
    "enrich": lambda parts: _enrich(parts),
    "summarize": lambda parts: _summarize(parts),
    "sink": lambda parts: sink_stage(
        parts.settings.sink,
        _CountedTables(parts.warehouse, partial(parts.observer.inserted, "sink")),
    ),
}


def _transcribe(parts: Parts) -> Stage:
    settings = parts.settings.transcribe
    return transcribe_stage(
        settings,
        parts.objects,
        choose(settings),
        Partings(settings),
        listened=partial(parts.observer.listened, "transcribe"),
    )


@dataclass(frozen=True)
class _CountedTables:
    """The warehouse as the sink sees it; tells (table, rows) of every insert that took place."""

    warehouse: Warehouse
    inserted: Callable[[str, int], None]

    def insert(self, table: str, columns: Sequence[str], data: Sequence[Sequence[Any]]) -> None:
        self.warehouse.insert(table, columns, data)
        self.inserted(table, len(data[0]) if data else 0)

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Result:
        return self.warehouse.query(sql, parameters)

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        self.warehouse.command(sql, parameters)


def _gone(stage: str, gone: OffsetGone) -> None:
    """What nobody can ask for again ends the stage. A request to replay is only asked for again; a
    stage that settings switch on and off leaves calls as they are, and has read nothing while off.
    """
    if gone.source.topic == REPLAY:
        mend = "callstream replay list, then replay resume GENERATION"
    elif stage in SOURCES and stage != "summarize":
        raise gone
    else:
        mend = "none: it is older than anybody waits for"
    logger("log").error(
        "messages expired before they were read",
        stage=stage,
        topic=gone.source.topic,
        partition=gone.source.partition,
        messages=max(0, gone.first - gone.offset),
        mend=mend,
    )


def _enrich(parts: Parts) -> Stage:
    rules, tenants = parts.rules
    return enrich_stage(
        parts.settings.enrich,
        rules,
        tenant_rules=tenants,
        insight=parts.insight,
        text_model=parts.text_model,
    )


def _summarize(parts: Parts) -> Stage:
    rules, tenants = parts.rules
    if parts.insight is None:
        raise ValueError(
            "neither enrich.llm.url nor enrich.llm.in_process is set, and without a model there is "
            "no summarize"
        )
    return summary_stage(
        parts.settings.enrich,
        rules,
        parts.insight,
        tenant_rules=tenants,
        text_model=parts.text_model,
    )


def project_root() -> Path:
    """The checkout this runs from, where `samples/` lies."""
    return Path(__file__).resolve().parent.parent
