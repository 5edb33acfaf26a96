"""What a language model says of a call, as far as it rests on what was said there.

The call goes out as data: a line of JSON for each segment, never joined to the instructions. What
comes back has one schema. Each statement names segments and quotes them; one whose quotes were not
said is left out and counted. A call too long for one request is divided, and the notes of its parts
are joined by requests of the same schema. Whatever fails, there is the extractive summary, and what
was to be judged is unknown.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from schemas.events import (
    Answered,
    LlmUsage,
    Resolution,
    Segment,
    Statement,
    Summary,
    SummarySentence,
    Verdict,
)
from services.enrich.answers import Answers, Kept
from services.enrich.findings import Heard
from services.enrich.forms import (
    JUDGEMENTS,
    KINDS,
    SUMMARY,
    Form,
    Prompt,
    Prompts,
    Stated,
    load_tenant_prompts,
)
from services.enrich.grounding import Note, Spoken, groups, together
from services.enrich.lines import Line, data_line, estimated_tokens, inert, parts, take
from services.enrich.llm import (
    Allowance,
    Away,
    ChatModel,
    Circuit,
    LanguageModel,
    LlmFailure,
    Message,
    Spent,
    TooLong,
    Unusable,
)
from services.enrich.local_llm import LocalModel
from services.enrich.score import Judgement
from services.enrich.settings import LlmSettings
from services.enrich.summary import METHOD, VERSION
from services.runtime.errors import Transient
from services.runtime.objects import Objects
from services.runtime.observe import logger

# Varieties of Chinese that have no file of their own are asked about in Chinese.
_CHINESE = frozenset(("cmn", "yue", "wuu", "nan", "hak", "gan", "hsn"))
# Least that a request may hold of a call, in tokens.
_LEAST_TOKENS = 200
# What a chat template adds around messages.
_TEMPLATE_TOKENS = 64


@dataclass(frozen=True, slots=True)
class _Task:
    """What is asked of a call, of a part of it, and of the notes of its parts."""

    form: Form[Any]
    whole: str
    part: str
    reduce: str
    repair: str

    @classmethod
    def summary(cls, prompt: Prompt) -> _Task:
        return cls(SUMMARY, prompt.whole, prompt.part, prompt.reduce, prompt.repair)

    @classmethod
    def judging(cls, prompt: Prompt, questions: Mapping[str, str]) -> _Task:
        asked = "\n".join(data_line({"id": id, "question": it}) for id, it in questions.items())
        text = f"{prompt.judge}\n{asked}"
        return cls(JUDGEMENTS, text, text, text, prompt.repair)

    @property
    def tokens(self) -> int:
        """Of the longest instructions, with what their repair adds."""
        longest = max(estimated_tokens(text) for text in (self.whole, self.part, self.reduce))
        return longest + estimated_tokens(self.form.told + self.repair) + 4 * _TEMPLATE_TOKENS


@dataclass(slots=True)
class _Call:
    """One call while it is asked about. Of one thread."""

    prompt: Prompt
    task: _Task
    language: str
    spoken: dict[int, Spoken]
    allowance: Allowance
    replay: bool
    answers: Answers | None
    dropped: int = 0
    used: list[str] = field(default_factory=list)
    """Keys of the answers that it rests on."""
    line: ExitStack = field(default_factory=ExitStack)
    """Open while it asks the server."""
    on_line: bool = False


class Insight:
    """What one language model says of calls. Thread-safe; nothing is asked when it is made, though
    one that runs in this process is loaded then."""

    def __init__(
        self,
        settings: LlmSettings,
        objects: Objects | None = None,
        prompts: Prompts | None = None,
        tenant_prompts: Mapping[str, Prompts] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        model: LanguageModel | None = None,
    ) -> None:
        """`objects` keep the answers; without, none is kept. `clock` and `sleep` are of seconds.

        Raises ValueError for a setting that cannot be used, Transient for a model that cannot be
        had now, and FileError for a prompt file that cannot be used, where no `prompts` are given.
        """
        self._settings, self._objects, self._clock = settings, objects, clock
        if prompts is None:
            prompts, tenant_prompts = load_tenant_prompts(settings.prompts_dir)
        self._prompts, self._tenants = prompts, dict(tenant_prompts or {})
        for each in (prompts, *self._tenants.values()):
            for prompt in each.values():
                self._room(_Task.summary(prompt))
        if model is None:
            here = settings.in_process
            model = LocalModel(settings, clock) if here else ChatModel(settings, clock, sleep)
        self._model: LanguageModel = model
        self._circuit = Circuit(settings.away_calls, settings.away_pause_s, clock)

    def summarize(
        self,
        segments: Sequence[Segment],
        heard: Heard,
        fallback: Summary | None,
        shown: Callable[[Segment], str],
        *,
        tenant_id: str = "",
        call_id: str = "",
        language: str = "und",
        replay: bool = False,
    ) -> Summary | None:
        """The model's summary of the segments that `heard` trusts; else `fallback`, saying why.

        `shown` gives what may be sent of a segment; it is not asked where `llm.send_unredacted`
        is set. None where nothing was said, as `fallback` is then. Blocks for `llm.call_s` and one
        connection at most. Raises Transient where the server is away and `llm.when_away` is `wait`.
        """
        call = self._begun(
            segments, heard, shown, tenant_id=tenant_id, call_id=call_id, language=language,
            replay=replay,
        )  # fmt: skip
        if call is None:
            return fallback
        try:
            notes = self._noted(call)
            return self._summary(call, notes)
        except LlmFailure as failure:
            self._failed(call, failure)
            logger("enrich").warning(
                "a summary is extractive", where=self._model.where, reason=failure.reason,
                why=failure.detail,
            )  # fmt: skip
            lesser = fallback or Summary(method=METHOD, version=VERSION, sentences=[])
            return replace(
                lesser, degraded=str(failure), dropped=call.dropped, usage=call.allowance.usage
            )

    def judge(
        self,
        questions: Mapping[str, str],
        segments: Sequence[Segment],
        heard: Heard,
        shown: Callable[[Segment], str],
        *,
        tenant_id: str = "",
        call_id: str = "",
        language: str = "und",
        replay: bool = False,
    ) -> tuple[Mapping[str, Judgement], LlmUsage | None]:
        """Id of each of `questions` -> what the model says of it; and what that took.

        A verdict that something was done needs a quote of it; that something was not done needs
        none, and has no reason of the model's then. Otherwise as `summarize`.
        """
        call = self._begun(
            segments, heard, shown, tenant_id=tenant_id, call_id=call_id, language=language,
            replay=replay, questions=questions,
        )  # fmt: skip
        if call is None:
            return dict.fromkeys(
                questions, Judgement(Verdict.UNKNOWN, "nobody says anything")
            ), None
        try:
            notes = self._noted(call)
        except LlmFailure as failure:
            self._failed(call, failure)
            logger("enrich").warning(
                "criteria are not judged", where=self._model.where, reason=failure.reason,
                why=failure.detail,
            )  # fmt: skip
            missing = Judgement(Verdict.UNKNOWN, f"not judged: {failure}")
            return dict.fromkeys(questions, missing), call.allowance.usage
        found: dict[str, Judgement] = {}
        for note in notes:
            if note.kind in questions and note.kind not in found:
                verdict = Verdict(note.verdict.upper())
                reason = note.text or "nothing of it is said"
                found[note.kind] = Judgement(verdict, reason, note.evidence, self._model.name)
        untold = Judgement(
            Verdict.UNKNOWN, "the model gives no verdict that rests on what was said"
        )
        return {id: found.get(id, untold) for id in questions}, call.allowance.usage

    def _begun(
        self,
        segments: Sequence[Segment],
        heard: Heard,
        shown: Callable[[Segment], str],
        *,
        tenant_id: str,
        call_id: str,
        language: str,
        replay: bool,
        questions: Mapping[str, str] | None = None,
    ) -> _Call | None:
        """None where nothing was said."""
        spoken = {
            segment.segment_id: Spoken(
                segment, segment.text if self._settings.send_unredacted else shown(segment)
            )
            for segment in segments
            if segment.segment_id in heard.said
        }
        if not any(each.letters[0] for each in spoken.values()):
            return None
        tag = self._settings.language or language
        prompt = self._prompt(tenant_id, tag)
        return _Call(
            prompt,
            _Task.summary(prompt) if questions is None else _Task.judging(prompt, questions),
            "the language that is spoken" if tag in ("", "und", "mul", "zxx") else tag,
            spoken,
            Allowance.of(self._settings, self._clock),
            replay,
            self._answers(tenant_id, call_id),
        )

    def _noted(self, call: _Call) -> list[Note]:
        """What is stated of the call. Raises LlmFailure, and Transient where it is to wait."""
        try:
            return self._asked(call)
        except LlmFailure as failure:
            if not self._is_back(failure):
                raise
            # It came back while the call waited: once more, from what it has answered.
            call.allowance, call.dropped = Allowance.of(self._settings, self._clock), 0
            call.on_line = False
            return self._asked(call)

    def _failed(self, call: _Call, failure: LlmFailure) -> None:
        """Let what came to nothing be asked again, where the call is replayed."""
        if call.answers is not None and not isinstance(failure, Away):
            for key in call.used:
                call.answers.forget(key)

    def _answers(self, tenant_id: str, call_id: str) -> Answers | None:
        if self._objects is None:
            return None
        its = self._settings
        return Answers(
            self._objects,
            tenant_id,
            call_id,
            {
                "model": self._model.name,
                "extra": its.extra,
                "seed": its.seed,
                "enforce": its.enforce,
            },
        )

    def _prompt(self, tenant_id: str, tag: str) -> Prompt:
        prompts = self._tenants.get(tenant_id, self._prompts)
        primary = tag.split("-")[0].lower()
        if primary not in prompts and primary in _CHINESE:
            primary = "zh"
        return prompts.get(primary, prompts["en"])

    def _room(self, task: _Task) -> int:
        """Tokens that a request has for lines, beside the task, an answer and its repair.

        Raises ValueError where that is too little.
        """
        room = self._settings.context_tokens - 2 * self._settings.answer_tokens - task.tokens
        if room < _LEAST_TOKENS:
            raise ValueError(
                f"enrich.llm.context_tokens={self._settings.context_tokens} leaves no room for a "
                f"call beside {task.tokens} tokens of prompt and twice enrich.llm.answer_tokens="
                f"{self._settings.answer_tokens}; raise it, or shorten the prompt"
            )
        return room

    def _is_back(self, failure: LlmFailure) -> bool:
        """Whether the server of a failed call that is to wait for it takes questions again.

        Raises Transient where it does not. Where the call fails again then, it is this call that
        the server fails at, and no wait would end that.
        """
        if self._settings.when_away != "wait":
            return False
        if not (isinstance(failure, Away) or (isinstance(failure, Unusable) and failure.doubt)):
            return False
        if failure.reason != "llm_away":
            try:
                self._model.probe()
            except (Away, Spent) as away:
                raise Transient(away.reason, f"{self._model.where} {away.detail}") from failure
            self._circuit.answered()
            return True
        raise Transient(failure.reason, f"{self._model.where}: {failure.detail}") from failure

    # Requests

    def _asked(self, call: _Call) -> list[Note]:
        """Raises LlmFailure."""
        lines = [
            Line(number, each.segment.role.value.lower(), each.text)
            for number, each in call.spoken.items()
        ]
        try:
            room = self._room(call.task)
        except ValueError as error:
            raise Spent("llm_no_room", str(error)) from None
        self._affordable(call, lines, room)
        with ExitStack() as call.line:
            try:
                notes = self._of_lines(call, lines, room)
            except (TooLong, Unusable, Spent):
                if call.allowance.answered:
                    self._circuit.answered()
                raise
            if call.allowance.answered:
                self._circuit.answered()
        return notes

    def _affordable(self, call: _Call, lines: Sequence[Line], room: int) -> None:
        """Raises Spent where the call would take more than a call may, before any of it is."""
        settings = self._settings
        count = sum(1 for _ in parts(lines, room))
        requests = count if count == 1 else count + 1
        if requests > settings.call_requests:
            raise Spent(
                "llm_requests",
                f"the call takes {requests} requests or more, and enrich.llm.call_requests="
                f"{settings.call_requests}; raise that, or enrich.llm.context_tokens",
            )
        beside = settings.context_tokens - 2 * settings.answer_tokens - room
        tokens = sum(line.cost for line in lines) + requests * (beside + settings.answer_tokens)
        if tokens > settings.call_tokens:
            raise Spent(
                "llm_tokens",
                f"the call takes some {tokens} tokens, and enrich.llm.call_tokens="
                f"{settings.call_tokens}",
            )

    def _of_lines(self, call: _Call, lines: Sequence[Line], room: int) -> list[Note]:
        """Notes of the whole call: of one request, or of the parts, joined."""
        budget = room
        if (cost := sum(line.cost for line in lines)) <= room:
            try:
                return self._request(call, call.task.whole, {}, lines, _ids(lines))
            except TooLong as long:
                budget = _less(min(cost, budget), long)
        planned = sum(1 for _ in parts(lines, budget))
        pending = deque(lines)
        notes: list[Note] = []
        number = 0
        while pending:
            part = take(pending, budget)
            head = {"part": number + 1, "of": max(planned, number + 1)}
            try:
                notes += self._request(call, call.task.part, head, part, _ids(part))
            except TooLong as long:
                budget = _less(min(budget, sum(line.cost for line in part)), long)
                pending.extendleft(reversed(part))
                continue
            except Unusable as why:
                told = f"part {number + 1}: {why.detail}"
                raise Unusable(why.reason, told, doubt=why.doubt) from why
            number += 1
        return self._joined(call, notes, budget) if notes else []

    def _joined(self, call: _Call, notes: list[Note], budget: int) -> list[Note]:
        """The notes of parts as those of the whole; in several steps where they are too many."""
        while True:
            bundles = list(groups(notes, budget))
            joined: list[Note] = []
            try:
                for group in bundles:
                    ids = {each.segment_ids[0] for note in group for each in note.evidence}
                    joined += self._request(call, call.task.reduce, {}, group, ids)
            except TooLong as long:
                cost = max(sum(note.cost for note in group) for group in bundles)
                budget = _less(min(budget, cost), long)
                continue
            if len(bundles) == 1:
                return joined
            if sum(note.cost for note in joined) >= sum(note.cost for note in notes):
                raise Unusable("llm_no_shorter", "the notes of the parts do not get shorter")
            notes = joined

    def _request(
        self,
        call: _Call,
        instructions: str,
        head: Mapping[str, Any],
        lines: Sequence[Line | Note],
        ids: Iterable[int],
    ) -> list[Note]:
        """What the model says of `lines`, as far as it rests on segments of `ids`."""
        first = data_line({"language": call.language, **head, "lines": len(lines)})
        messages = [
            {"role": "system", "content": f"{instructions}\n\n{call.task.form.told}"},
            {"role": "user", "content": "\n".join([first, *(line.sent for line in lines)])},
        ]
        stated = self._answer(call, messages)
        known = {number: call.spoken[number] for number in ids}
        notes, dropped = call.task.form.notes(stated, known)
        call.dropped += dropped
        return notes

    def _repair(self, call: _Call, why: Unusable) -> list[Message]:
        said = data = why.said or "{}"
        # There is room for as much as an answer may have.
        while estimated_tokens(data) > self._settings.answer_tokens:
            data = data[: len(data) * 3 // 4]
        error = {"error": why.reason, "detail": why.detail, "shortened": data != said}
        told = f"{call.task.repair}\n{data_line(error)}"
        return [
            {"role": "assistant", "content": inert(data)},
            {"role": "user", "content": told},
        ]

    def _answer(self, call: _Call, messages: Sequence[Message]) -> list[Stated]:
        """The answer to `messages`, repaired where it has to be: kept, or asked for and then kept.

        Raises LlmFailure, and what the object store raises.
        """
        key = ""
        if call.answers is not None:
            key = call.answers.key(messages)
            kept = call.answers.load(key)
            if kept is not None:
                with suppress(Unusable):
                    stated = call.task.form.read(kept.text)
                    call.used.append(key)
                    call.allowance.recall(
                        kept.requests, kept.prompt_tokens, kept.completion_tokens, kept.seconds
                    )
                    return stated
        before = call.allowance.taken
        try:
            text, stated = self._ask(call, messages)
        except Unusable as why:
            if why.said is None:
                raise
            text, stated = self._ask(call, [*messages, *self._repair(call, why)])
        if call.answers is not None:
            sent, read, written, seconds = (
                after - earlier for earlier, after in zip(before, call.allowance.taken, strict=True)
            )
            call.used.append(key)
            call.answers.store(
                key, Kept(text, int(sent), int(read), int(written), round(seconds, 3))
            )
        return stated

    def _ask(self, call: _Call, messages: Sequence[Message]) -> tuple[str, list[Stated]]:
        if not call.on_line:
            # Not before: what is kept is had of a server that is away, too.
            call.on_line = True
            if call.line.enter_context(self._circuit.call()):
                call.allowance.patience_s = 0.0
        form = call.task.form
        tokens = sum(estimated_tokens(each["content"]) for each in messages) + _TEMPLATE_TOKENS
        reply = self._model.ask(messages, form.schema, tokens, call.allowance, call.replay)
        return reply.text, form.read(reply.text)

    def _summary(self, call: _Call, notes: Sequence[Note]) -> Summary:
        """Raises Unusable where no sentence is left."""
        sentences = [note for note in notes if note.kind == "summary"]
        if not sentences:
            raise Unusable("llm_groundless", "no sentence of the summary quotes what was said")
        verdicts = {note.kind: note.verdict.upper() for note in notes if note.verdict}
        return Summary(
            method=self._model.name,
            version=call.prompt.version,
            sentences=[
                SummarySentence(text=note.text, evidence=together(note.evidence))
                for note in sentences
            ],
            statements=[
                Statement(kind=kind, text=note.text, evidence=list(note.evidence))
                for name, kind in KINDS.items()
                for note in notes
                if note.kind == name
            ],
            answered=Answered(verdicts.get("answer", "UNKNOWN")),
            resolution=Resolution(verdicts.get("resolution", "UNKNOWN")),
            dropped=call.dropped,
            usage=call.allowance.usage,
        )


def _ids(lines: Iterable[Line]) -> set[int]:
    return {line.segment_id for line in lines}


def _less(cost: int, long: TooLong) -> int:
    """Half of what was too long; raises it where that is too little to send."""
    if cost // 2 < _LEAST_TOKENS:
        raise long
    return cost // 2
