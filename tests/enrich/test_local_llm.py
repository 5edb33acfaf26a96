"""A language model in this process, tried on models that say what their weights were set to say.

No real model can be had here. How good a summary of one is, is not known from these tests; that a
right answer becomes a summary, and anything else none, is.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from schemas.events import Summary
from services.assembly import Parts
from services.cli import speech
from services.enrich.findings import hear
from services.enrich.insight import Insight
from services.enrich.llm import Allowance, LlmFailure, Spent, TooLong, Unusable
from services.enrich.local_llm import LocalModel
from services.enrich.rules import load_rules
from services.enrich.settings import LlmSettings
from services.enrich.summary import summarize
from services.enrich.transcript_file import parse_transcript
from services.runtime.errors import NotYet
from services.runtime.objects import DirectoryObjects
from services.settings import Settings
from tests.enrich.llm_server import answer, stated
from tests.enrich.transformer_models import (
    WITHOUT_SYSTEM,
    build_chat_model,
    libraries,
    said_by,
)

RULES = load_rules()
SCHEMA = {"type": "object"}
ASKED = [{"role": "system", "content": "Sum up."}, {"role": "user", "content": "{} w1 w2"}]
CALL = parse_transcript(
    """
agent: Good morning, how can I help you?
customer: I sent the shoes back a month ago and I still do not have my refund.
agent: I am sorry. I will send the refund to your bank account today.
customer: All right, I hope it really comes this time.
"""
).segments
RIGHT = answer(
    [stated("A refund is late.", (1, "I still do not have my refund"))],
    demand=[stated("The refund.", (1, "my refund"))],
    resolution={
        "state": "follow_up",
        **stated("It is to come today.", (2, "I will send the refund")),
    },
)


@dataclass
class Clock:
    """Time that passes by so much whenever somebody looks."""

    now: float = 1_000.0
    step_s: float = 0.0

    def __call__(self) -> float:
        self.now += self.step_s
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def settings(folder: Path | str, **more: Any) -> LlmSettings:
    return LlmSettings.model_validate(
        {"in_process": True, "model": str(folder), "device": "cpu", "answer_tokens": 200, **more}
    )


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that gives the right answer of CALL."""
    return build_chat_model(tmp_path_factory.mktemp("models") / "honest", said_by(RIGHT))


def summary(insight: Insight, **more: Any) -> Summary:
    heard = hear(CALL, RULES.scanner)
    extractive = summarize(CALL, heard, RULES.cues, 240)
    found = insight.summarize(CALL, heard, extractive, lambda each: each.text, **more)
    assert found is not None
    return found


def ask(model: LocalModel, allowance: Allowance, messages: Any = ASKED, **more: Any) -> str:
    return model.ask(messages, SCHEMA, 10, allowance, **more).text


# Settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"in_process": True},
        {"in_process": True, "model": "a/b", "url": "http://gpu:8000/v1"},
        {"in_process": True, "model": "a/b", "enforce": "json_schema"},
        {"in_process": True, "model": "a/b", "extra": {"top_k": 1}},
        {"in_process": True, "model": "a/b", "device": "tpu"},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LlmSettings.model_validate(wrong)


def test_a_model_is_set_where_it_is_a_servers_or_here() -> None:
    assert not LlmSettings().is_set
    assert LlmSettings(url="http://gpu:8000/v1", model="m").is_set
    here = LlmSettings(in_process=True, model="a/b", concurrency=9)
    assert (here.is_set, here.requests_at_once) == (True, 1)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"enrich\.llm\.model needs the extra `enrich`"):
        LocalModel(settings("any"))


# What it answers


def test_a_right_answer_becomes_the_summary(honest: Path) -> None:
    found = summary(Insight(settings(honest)))
    assert found.degraded == ""
    assert [sentence.text for sentence in found.sentences] == ["A refund is late."]
    assert found.sentences[0].evidence.segment_ids == [1]
    assert found.resolution.value == "FOLLOW_UP"
    assert found.method.startswith("honest@")
    assert found.usage is not None
    assert found.usage.requests == 1
    assert found.usage.completion_tokens == 3  # two parts and the end
    assert found.usage.prompt_tokens > 100


def test_babble_is_given_back_once_and_then_the_summary_is_extractive(tmp_path: Path) -> None:
    folder = build_chat_model(tmp_path / "short", ["w1", "w2"])
    found = summary(Insight(settings(folder)))
    assert found.degraded.startswith("llm_no_json")
    assert found.sentences
    assert found.method == "extractive"
    assert found.usage is not None
    assert found.usage.requests == 2


def test_random_weights_make_no_summary(tmp_path: Path) -> None:
    for seed in (1, 2):
        folder = build_chat_model(tmp_path / str(seed), seed=seed)
        found = summary(Insight(settings(folder)))
        assert found.degraded.split(":")[0] in ("llm_no_json", "llm_cut", "llm_empty")
        assert found.method == "extractive"


def test_an_answer_without_an_end_is_cut(tmp_path: Path) -> None:
    folder = build_chat_model(tmp_path / "endless", ["w1"], ends=False)
    model, allowance = LocalModel(settings(folder)), Allowance.of(settings(folder), Clock())
    with pytest.raises(Unusable, match=r"llm_cut.*enrich\.llm\.answer_tokens") as told:
        ask(model, allowance)
    assert told.value.said == "w1" * 200
    assert allowance.usage is not None
    assert allowance.usage.completion_tokens == 200


def test_an_empty_answer_is_unusable(tmp_path: Path) -> None:
    folder = build_chat_model(tmp_path / "silent", ["<|end|>"])
    with pytest.raises(Unusable, match="llm_empty"):
        ask(LocalModel(settings(folder)), Allowance.of(settings(folder), Clock()))


def test_a_template_without_a_system_is_asked_without_one(tmp_path: Path) -> None:
    folder = build_chat_model(tmp_path / "m", said_by(RIGHT), template=WITHOUT_SYSTEM)
    model = LocalModel(settings(folder))
    rendered = model._rendered(ASKED)["input_ids"][0].tolist()
    text = model._its.tokenizer.decode(rendered)
    assert text.count("<|user|>") == 1
    assert "<|system|>" not in text
    assert summary(Insight(settings(folder))).degraded == ""


def test_what_a_template_is_told_reaches_it(tmp_path: Path) -> None:
    template = "{% if enable_thinking is defined and not enable_thinking %}w7{% endif %}<|user|>"
    folder = build_chat_model(tmp_path / "m", ["w1"], template=template)
    plain = LocalModel(settings(folder))
    told = LocalModel(settings(folder, extra={"chat_template_kwargs": {"enable_thinking": False}}))
    assert told._rendered(ASKED)["input_ids"].shape[-1] == (
        plain._rendered(ASKED)["input_ids"].shape[-1] + 1
    )


# Limits


def test_what_is_longer_than_its_context_is_too_long_and_takes_nothing(honest: Path) -> None:
    small = settings(honest, context_tokens=4_096)
    model, allowance = LocalModel(small), Allowance.of(small, Clock())
    long = [ASKED[0], {"role": "user", "content": "w1 " * 3_900}]
    with pytest.raises(TooLong, match="llm_context"):
        ask(model, allowance, long)
    assert allowance.usage is None
    fits = [ASKED[0], {"role": "user", "content": "w1 " * 3_800}]
    assert ask(model, allowance, fits).startswith("{")


def test_a_call_too_long_for_it_is_divided(tmp_path: Path) -> None:
    folder = build_chat_model(tmp_path / "m", said_by(RIGHT))
    asked: list[int] = []

    class Narrow(LocalModel):
        def _answer(self, messages: Any, allowance: Allowance) -> str:
            if (lines := messages[1]["content"].count("\n")) > 3:
                raise TooLong("llm_context", f"{lines} lines")
            asked.append(lines)
            return super()._answer(messages, allowance)

    chosen = settings(folder)
    segments = parse_transcript(
        "\n".join(f"customer: {'word ' * 60}{n}" for n in range(8))
    ).segments
    heard = hear(segments, RULES.scanner)
    insight = Insight(chosen, model=Narrow(chosen))
    found = insight.summarize(segments, heard, None, lambda each: each.text)
    assert len(asked) > 2
    assert found is not None
    assert found.degraded  # it quotes another call


def test_time_ends_an_answer_within_a_request_and_the_prompt_too(honest: Path) -> None:
    for steps in (2, 4):  # of the clock, of which each layer takes one
        clock = Clock()
        chosen = settings(honest, timeout_s=steps - 0.5)
        model, allowance = LocalModel(chosen, clock), Allowance.of(chosen, clock)
        clock.step_s = 1.0
        with pytest.raises(Spent, match=r"llm_time.*enrich\.llm\.timeout_s"):
            ask(model, allowance)
        assert allowance.usage is not None
        assert allowance.usage.prompt_tokens > 0


def test_the_time_of_a_call_ends_it(honest: Path) -> None:
    clock = Clock()
    chosen = settings(honest, call_s=21.0)
    insight = Insight(chosen, clock=clock, model=LocalModel(chosen, clock))
    clock.step_s = 10.0
    found = summary(insight)
    assert found.degraded.startswith("llm_time")
    assert found.method == "extractive"


def test_a_model_answers_after_it_was_stopped(honest: Path) -> None:
    clock = Clock()
    chosen = settings(honest, timeout_s=0.5)
    model = LocalModel(chosen, clock)
    clock.step_s = 1.0
    with pytest.raises(Spent):
        ask(model, Allowance.of(chosen, clock))
    clock.step_s = 0.0
    assert ask(model, Allowance.of(chosen, clock)).startswith("{")


def test_it_answers_one_after_another_and_a_replay_waits_for_live_calls(honest: Path) -> None:
    chosen = settings(honest)
    model = LocalModel(chosen)
    at_work, most, order = [0], [0], []
    answered = model._answer
    free = threading.Event()

    def counted(messages: Any, allowance: Allowance) -> str:
        at_work[0] += 1
        most[0] = max(most[0], at_work[0])
        order.append(messages[1]["content"])
        free.wait(30)
        found = answered(messages, allowance)
        at_work[0] -= 1
        return found

    model._answer = counted  # type: ignore[method-assign]

    def asks(name: str, replay: bool) -> None:
        messages = [ASKED[0], {"role": "user", "content": name}]
        ask(model, Allowance.of(chosen, Clock()), messages, replay=replay)

    threads = []
    for name, replay in (("first", False), ("replay", True), ("live", False)):
        threads.append(threading.Thread(target=asks, args=(name, replay)))
        threads[-1].start()
        until(lambda: bool(order) and model.waiting == len(threads) - 1)
    free.set()
    for thread in threads:
        thread.join(30)
    assert order == ["first", "live", "replay"]
    assert most == [1]


def until(holds: Callable[[], bool]) -> None:
    deadline = threading.Event()
    for _ in range(3_000):
        if holds():
            return
        deadline.wait(0.01)
    raise AssertionError("it never came to that")


def test_who_waits_longer_than_a_call_may_is_told(honest: Path) -> None:
    chosen = settings(honest, call_s=30.0)
    model = LocalModel(chosen)
    with model._slots.taken(replay=False):
        for replay, failure in ((False, Spent), (True, NotYet)):
            allowance = Allowance.of(chosen, Clock())
            allowance.until = allowance.clock() + 0.05
            with pytest.raises(failure):
                ask(model, allowance, replay=replay)


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate"), TooLong, "llm_memory"),
        (RuntimeError("probability tensor contains nan"), Unusable, "llm_failed"),
        (IndexError("index out of range in self"), Unusable, "llm_failed"),
    ],
)
def test_what_the_library_raises_is_a_failure_of_the_model(
    honest: Path, error: Exception, kind: type[LlmFailure], reason: str
) -> None:
    chosen = settings(honest)
    model = LocalModel(chosen)

    def breaks(**_: Any) -> None:
        raise error

    model._its.model.generate = breaks
    with pytest.raises(kind) as told:
        ask(model, Allowance.of(chosen, Clock()))
    assert told.value.reason == reason
    assert summary(Insight(chosen, model=model)).degraded.startswith(reason)


# What cannot be used


def test_a_model_without_a_template_is_refused(tmp_path: Path) -> None:
    folder = build_chat_model(tmp_path / "m", template=None)
    with pytest.raises(ValueError, match="has no chat template; name a model that was trained"):
        LocalModel(settings(folder))


def test_a_template_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    folder = build_chat_model(tmp_path / "m", template="{{ raise_exception('never') }}")
    with pytest.raises(ValueError, match=r"chat template that cannot be used.*never"):
        LocalModel(settings(folder))


def test_a_model_that_reads_less_than_it_is_to_is_refused(tmp_path: Path) -> None:
    folder = build_chat_model(tmp_path / "m", positions=8_192)
    with pytest.raises(ValueError, match=r"reads 8192 tokens.*enrich\.llm\.context_tokens=16384"):
        LocalModel(settings(folder))
    LocalModel(settings(folder, context_tokens=8_192))


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    libraries()
    with pytest.raises(ValueError, match=r"enrich\.llm\.model=.*is no folder with a config\.json"):
        LocalModel(settings(tmp_path))


# Around it


def test_the_suite_runs_the_model_where_it_is_set(honest: Path, tmp_path: Path) -> None:
    chosen = {"data_dir": tmp_path, "enrich": {"llm": settings(honest).model_dump()}}
    parts = Parts(Settings.model_validate(chosen))
    assert "summarize" in parts.stages
    stage = parts.stage("summarize")
    assert (stage.name, stage.workers) == ("summarize", 2)
    assert Parts(Settings.model_validate({"data_dir": tmp_path})).insight is None


def test_what_it_answered_is_kept_until_the_model_is_another(honest: Path, tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path / "objects")
    chosen = settings(honest)
    named = {"tenant_id": "acme", "call_id": "1"}
    first = summary(Insight(chosen, objects), **named)

    class Mute(LocalModel):
        def _answer(self, messages: Any, allowance: Allowance) -> str:
            raise AssertionError("it is asked again")

    assert summary(Insight(chosen, objects, model=Mute(chosen)), **named) == first
    other = build_chat_model(tmp_path / "honest", ["w1"])
    found = summary(Insight(settings(other), objects), **named)
    assert found.degraded.startswith("llm_no_json")


def test_doctor_looks_for_its_files_without_loading_it(honest: Path, tmp_path: Path) -> None:
    assert speech.language_model(settings(honest)).verdict == "ok"
    (tmp_path / "config.json").write_text("{}")
    found = speech.language_model(settings(tmp_path))
    assert (found.verdict, "its weights" in found.found) == ("fail", True)
    assert "tokenizer_config.json" in found.found
