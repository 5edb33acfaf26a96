"""What `callstream doctor` checks: each part the settings ask for, each finding with its mend."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from schemas.topics import TOPICS
from services.assembly import Parts
from services.cli import gpu, speech
from services.cli.topics import forgotten
from services.enrich.llm import ChatModel, LlmFailure
from services.enrich.rules import load_tenant_rules
from services.loopback import asking
from services.runtime.errors import Transient
from services.settings import Settings
from services.transcribe.channels import SCRATCH_BYTES_PER_S
from services.transcribe.choice import choose, load
from services.transcribe.handler import calls_at_once

_LEAST_FREE_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Checked:
    """One check's outcome; `mend` is empty where all is well."""

    what: str
    verdict: speech.Verdict
    found: str
    mend: str = ""


def checks(settings: Settings) -> Iterator[Checked]:
    """Every check, in the order in which a call meets the parts."""
    parts = Parts(settings)
    try:
        for name, check in _CHECKS.items():
            try:
                yield check(parts)
            except Exception as error:
                yield Checked(name, "fail", f"{type(error).__name__}: {error}", _MENDS[name])
    finally:
        parts.close()


def _python(parts: Parts) -> Checked:
    found = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.platform == "win32":
        return Checked("python", "fail", found, "run it on Linux or macOS, or in WSL")
    return Checked("python", "ok", f"{found}, {os.cpu_count()} processors")


def _data_dir(parts: Parts) -> Checked:
    folder = parts.settings.data_dir
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe-{uuid.uuid4().hex}"
    probe.write_bytes(b"")
    probe.unlink()
    free = shutil.disk_usage(folder).free
    found = f"{folder}, {free / 2**30:.1f} GiB free"
    if free < _LEAST_FREE_BYTES:
        return Checked("data folder", "warn", found, "make room, or set CALLSTREAM_DATA_DIR")
    return Checked("data folder", "ok", found)


def _scratch(parts: Parts) -> Checked:
    """Room for what the calls at work are decoded to."""
    settings, wanted = parts.settings, parts.settings.transcribe
    folder = settings.scratch
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    named = {its.engine for its in speech.engines(wanted).values()}
    on_gpu = wanted.device != "cpu" and not named.isdisjoint(speech.ON_GPU) and bool(gpu.cards())
    calls = calls_at_once(wanted, named, on_gpu=on_gpu)
    needed, free = calls * 2 * 3600 * SCRATCH_BYTES_PER_S, shutil.disk_usage(folder).free
    found = (
        f"{folder}, {free / 2**30:.1f} GiB free; {calls} stereo calls of an hour at once take "
        f"{needed / 2**30:.1f}"
    )
    if free < needed:
        return Checked("scratch", "warn", found, _MENDS["scratch"])
    return Checked("scratch", "ok", found)


def _log(parts: Parts) -> Checked:
    have = parts.view.partitions()
    missing = [topic.name for topic in TOPICS if topic.name not in have]
    where = (
        parts.settings.log.kafka.bootstrap
        if parts.settings.log.kind == "kafka"
        else str(parts.settings.log_file)
    )
    if missing:
        return Checked(
            "log", "fail", f"{where} lacks {', '.join(missing)}", "callstream topics create"
        )
    found = f"{parts.settings.log.kind}: {where}, {len(TOPICS)} topics"
    if (said := forgotten(parts.view)) is not None:
        return Checked("log", "warn", found, said)
    return Checked("log", "ok", found)


def _registry(parts: Parts) -> Checked:
    topics = [topic for topic in TOPICS if topic.record is not None]
    for topic in topics:
        parts.registry.schema_id(topic)
    where = parts.settings.registry.url or "those that come with this suite"
    return Checked("registry", "ok", f"{where}: schemas of {len(topics)} topics")


def _objects(parts: Parts) -> Checked:
    key, body = f"doctor/{uuid.uuid4().hex}", os.urandom(64)
    parts.objects.put(key, body)
    same = parts.objects.get(key) == body
    parts.objects.delete(key)
    if not same:
        return Checked("objects", "fail", "read back other bytes than written", _MENDS["objects"])
    kind = parts.settings.objects.kind
    where = parts.settings.objects.endpoint or str(parts.settings.data_dir / "objects")
    return Checked("objects", "ok", f"{kind}: {where}: written, read back, deleted")


def _engine(parts: Parts) -> Checked:
    """The engine that listens first is loaded; of others only servers are asked."""
    wanted = parts.settings.transcribe
    chosen = choose(wanted)
    chosen.check()
    for name, its in speech.engines(wanted).items():
        if its.engine == "openai" and its is not wanted:
            try:
                load(its, name).check()
            except Transient as failure:
                return Checked("engine", "warn", f"{chosen.reason}; {name}: {failure}",
                               "see CALLSTREAM_TRANSCRIBE__ENDPOINT__URL, __API_KEY")  # fmt: skip
    name = chosen.engine.identity.name
    if name in ("pocketsphinx", "stub"):
        return Checked(
            "engine", "warn", chosen.reason,
            "set CALLSTREAM_TRANSCRIBE__MODEL_DIR to the folder of a CTranslate2 Whisper model, "
            "or let the model hub be reached once",
        )  # fmt: skip
    return Checked("engine", "ok", chosen.reason)


def _versions(parts: Parts) -> Checked:
    return Checked("versions", *speech.versions(parts.settings.transcribe))


def _gpu(parts: Parts) -> Checked:
    return Checked("gpu", *speech.gpus(parts.settings.transcribe))


def _models(parts: Parts) -> Checked:
    return Checked("models", *speech.models(parts.settings.transcribe))


def _rules(parts: Parts) -> Checked:
    rules, tenants = load_tenant_rules(parts.settings.enrich.rules_dir)
    found = f"rules {rules.version}"
    if tenants:
        found += f"; tenants of their own: {', '.join(sorted(tenants))}"
    return Checked("rules", "ok", found)


def _sentiment(parts: Parts) -> Checked:
    model = parts.text_model
    if model is None:
        return Checked("sentiment", "ok", "enrich.sentiment.model is not set: told by the lexicons")
    return Checked("sentiment", "ok", f"{model.name} on {model.device}: loads, and judges a text")


def _language_model(parts: Parts) -> Checked:
    llm = parts.settings.enrich.llm
    if not llm.is_set:
        return Checked("language model", "ok", "none is set: summaries are extractive")
    if llm.in_process:
        return Checked("language model", *speech.language_model(llm))
    model = ChatModel(llm)
    try:
        model.probe()
    except LlmFailure as failure:
        return Checked("language model", "fail", f"{model.where} {failure.detail}",
                       _MENDS["language model"])  # fmt: skip
    return Checked("language model", "ok", f"{model.name} at {model.where} answers")


def _endpoints(parts: Parts) -> Checked:
    """They can be read, and each rule that one waits for is there."""
    endpoints = parts.endpoints.values()
    if not endpoints:
        return Checked("endpoints", "ok", "none: notify.endpoints_file is not set")
    common, tenants = load_tenant_rules(parts.settings.enrich.rules_dir)
    known = {rule.rule_id for rules in (common, *tenants.values()) for rule in rules.alerts}
    strange = [
        f"{each.name} waits for {', '.join(sorted(each.rules - known))}"
        for each in endpoints
        if each.rules - known
    ]
    if strange:
        return Checked(
            "endpoints", "warn", f"no rule raises such an alert: {'; '.join(strange)}",
            f"mend `rules` there; these raise one: {', '.join(sorted(known))}",
        )  # fmt: skip
    return Checked("endpoints", "ok", ", ".join(f"{it.name} ({it.where})" for it in endpoints))


def _warehouse(parts: Parts) -> Checked:
    with asking(parts.settings) as asks:
        count = asks.ask("SELECT version(), count() FROM calls", "TSV").decode().split()
    where = parts.settings.sink.url or str(parts.settings.sink.path)
    return Checked("warehouse", "ok", f"ClickHouse {count[0]} at {where}, {count[1]} calls")


_CHECKS: dict[str, Callable[[Parts], Checked]] = {
    "python": _python,
    "data folder": _data_dir,
    "scratch": _scratch,
    "log": _log,
    "registry": _registry,
    "objects": _objects,
    "versions": _versions,
    "gpu": _gpu,
    "engine": _engine,
    "models": _models,
    "rules": _rules,
    "sentiment": _sentiment,
    "language model": _language_model,
    "endpoints": _endpoints,
    "warehouse": _warehouse,
}

_MENDS = {
    "python": "install Python 3.11 or newer",
    "data folder": "set CALLSTREAM_DATA_DIR to a folder that can be written",
    "scratch": "make room, set CALLSTREAM_SCRATCH to a folder that has it, or let fewer calls be "
    "at work: CALLSTREAM_TRANSCRIBE__WORKERS",
    "log": "see CALLSTREAM_LOG__KIND and, for Kafka, CALLSTREAM_LOG__KAFKA__BOOTSTRAP",
    "registry": "see CALLSTREAM_REGISTRY__URL, __USER and __PASSWORD; what is not registered: "
    "callstream schemas register",
    "objects": "see CALLSTREAM_OBJECTS__ENDPOINT, __BUCKET, __ACCESS_KEY and __SECRET_KEY",
    "versions": "install what the engine needs: docs/deploying.md",
    "gpu": "install a driver and CUDA libraries that fit it: docs/deploying.md; or set "
    "CALLSTREAM_TRANSCRIBE__DEVICE=cpu",
    "engine": "set what it names; CALLSTREAM_TRANSCRIBE__ENGINE, __DEVICE, __COMPUTE_TYPE, "
    "__MODEL_DIR or __ENDPOINT__URL: docs/deploying.md",
    "models": "see CALLSTREAM_TRANSCRIBE__MODEL_DIR and __ALIGN_MODELS",
    "rules": "mend the rule file named, or unset CALLSTREAM_ENRICH__RULES_DIR",
    "sentiment": "see CALLSTREAM_ENRICH__SENTIMENT__MODEL; unset, the lexicons tell",
    "language model": "see CALLSTREAM_ENRICH__LLM__URL, __MODEL and __API_KEY: docs/summaries.md",
    "endpoints": "mend the file that CALLSTREAM_NOTIFY__ENDPOINTS_FILE names: docs/notifying.md",
    "warehouse": "see CALLSTREAM_SINK__URL, stop the other process that holds the folder, "
    "or start the sink, which makes the tables",
}
