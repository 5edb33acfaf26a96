"""A language model that transformers runs in this process, asked as one of a server is.

Nothing enforces JSON: what the model writes is read as it is, and given back once where it cannot
be used. It always takes the likeliest token, and answers one request after another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from services.enrich.llm import (
    Allowance,
    Message,
    Reply,
    Spent,
    TooLong,
    Unusable,
    turn,
)
from services.enrich.settings import LlmSettings
from services.enrich.transformer import loaded
from services.runtime.endpoint import Slots
from services.runtime.libraries import first_line, is_out_of_memory

SETTING = "enrich.llm.model"


class _TimeIsUp(Exception):
    """Ends the model's work, between two of its layers."""


class LocalModel:
    """A causal model with a chat template, on one device. Thread-safe; live calls go before
    replays."""

    def __init__(self, settings: LlmSettings, clock: Callable[[], float] = time.monotonic) -> None:
        """Loads the model; blocks for seconds, or minutes where it is large or is fetched.

        Raises ValueError for a setting, or a model, that cannot be used, Transient where the model
        cannot be had now.
        """
        self._settings, self._clock = settings, clock
        its = self._its = loaded(
            "AutoModelForCausalLM", settings.model.strip(), setting=SETTING,
            revision=settings.revision, device=settings.device,
        )  # fmt: skip
        self.name = self.where = its.name
        self._told = f"{SETTING}={settings.model!r}"
        if its.tokens < settings.context_tokens:
            raise ValueError(
                f"{self._told} reads {its.tokens} tokens, fewer than enrich.llm.context_tokens="
                f"{settings.context_tokens}; lower that, or name a model that reads more"
            )
        extra = settings.extra.get("chat_template_kwargs", {})
        if not isinstance(extra, dict):
            raise ValueError("enrich.llm.extra: chat_template_kwargs is no JSON object")
        self._extra: Mapping[str, Any] = extra
        self._takes_system = self._tried()
        ends = its.model.generation_config.eos_token_id
        listed = ends if isinstance(ends, list) else [ends]
        self._ends = sorted(
            {end for end in (*listed, its.tokenizer.eos_token_id) if end is not None}
        )
        if not self._ends:
            raise ValueError(f"{self._told} has no token that ends an answer; name another model")
        # In place of what the model's makers advise: sampling and penalties for repeating words,
        # and a quote repeats them.
        its.model.generation_config = its.hub.GenerationConfig(
            do_sample=False,
            max_new_tokens=settings.answer_tokens,
            eos_token_id=self._ends,
            pad_token_id=its.tokenizer.pad_token_id
            if its.tokenizer.pad_token_id is not None
            else self._ends[0],
        )
        self._slots = Slots(1)
        self._until = 0.0
        for module in its.model.modules():
            if isinstance(module, its.torch.nn.ModuleList):
                for layer in module:
                    layer.register_forward_pre_hook(self._check_time)

    def ask(
        self,
        messages: Sequence[Message],
        schema: Mapping[str, Any],
        tokens: int,
        allowance: Allowance,
        replay: bool = False,
    ) -> Reply:
        """What the model answers to `messages`; they say which schema it is to keep to.

        `tokens` is what they are held to take. Raises TooLong where the model reads no text of that
        length, Unusable for an answer that is empty or cut at its limit, Spent where the time of
        the call or of a request is over.
        """
        allowance.check(tokens + self._settings.answer_tokens)
        with turn(self._slots, allowance, replay):
            return Reply(self._answer(messages, allowance), "text")

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return self._slots.waiting

    def probe(self) -> None:
        """It is here, or it would not have been made."""

    def _answer(self, messages: Sequence[Message], allowance: Allowance) -> str:
        asked = self._rendered(messages)
        read = int(asked["input_ids"].shape[-1])
        room = self._settings.context_tokens - self._settings.answer_tokens
        if read > room:
            raise TooLong(
                "llm_context",
                f"{read} tokens, and beside an answer there is room for {room} of "
                f"enrich.llm.context_tokens={self._settings.context_tokens}",
            )
        begun = self._clock()
        limit_s = min(self._settings.timeout_s, allowance.left_s)
        written: list[int] = []
        try:
            written = self._generated(asked, begun + limit_s)[read:]
        except _TimeIsUp:
            raise Spent(
                "llm_time",
                f"no answer within {limit_s:.3g} s; where it needs longer, raise "
                f"enrich.llm.timeout_s={self._settings.timeout_s:g} and enrich.llm.call_s="
                f"{self._settings.call_s:g}, or name a smaller model",
            ) from None
        finally:
            allowance.answered = True
            allowance.took(self._clock() - begun, read, read, len(written))
        text: str = self._its.tokenizer.decode(written, skip_special_tokens=True)
        if not written or written[-1] not in self._ends:
            raise Unusable(
                "llm_cut",
                "the answer ends at its limit; where answers need more, or the model reasons "
                "first, raise enrich.llm.answer_tokens",
                said=text,
            )
        if not text.strip():
            raise Unusable("llm_empty", "the answer is empty", said="")
        return text

    def _generated(self, asked: Mapping[str, Any], until: float) -> list[int]:
        its = self._its
        held = {name: asked[name].to(its.device) for name in ("input_ids", "attention_mask")}
        self._until = until
        try:
            with its.torch.inference_mode():
                tokens: list[int] = its.model.generate(**held)[0].tolist()
            return tokens
        except _TimeIsUp:
            raise
        except Exception as error:  # of every kind: a call is not lost for what a library raises
            why, short_of_room = first_line(error), is_out_of_memory(error)
        # What the failure's frames held is freed by now.
        if short_of_room:
            its.torch.cuda.empty_cache()
            raise TooLong("llm_memory", f"the device has no room for a text of that length ({why})")
        raise Unusable("llm_failed", f"the model fails ({why})")

    def _check_time(self, *_: object) -> None:
        if self._clock() >= self._until:
            raise _TimeIsUp

    # Chat templates

    def _rendered(self, messages: Sequence[Message]) -> Any:
        held = [dict(message) for message in messages]
        if not self._takes_system:
            held = _without_system(held)
        return self._template(held)

    def _template(self, messages: list[dict[str, str]]) -> Any:
        return self._its.tokenizer.apply_chat_template(
            messages, tokenize=True, add_generation_prompt=True, return_dict=True,
            return_tensors="pt", **self._extra,
        )  # fmt: skip

    def _tried(self) -> bool:
        """Whether the template takes a message of the system. Raises ValueError where it takes none
        of what is asked."""
        if not getattr(self._its.tokenizer, "chat_template", None):
            raise ValueError(
                f"{self._told} has no chat template; name a model that was trained to follow "
                "instructions, with its own tokenizer"
            )
        asked = [
            {"role": "system", "content": "a"},
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": "c"},
            {"role": "user", "content": "d"},
        ]
        try:
            self._template(asked)
            return True
        except Exception:  # of every kind: templates raise what they like
            pass
        try:
            self._template(_without_system(asked))
        except Exception as error:  # as above
            raise ValueError(
                f"{self._told} has a chat template that cannot be used: {first_line(error)}"
            ) from error
        return False


def _without_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """With what the system says at the head of what the user does."""
    head, first, *rest = messages
    return [{**first, "content": f"{head['content']}\n\n{first['content']}"}, *rest]
