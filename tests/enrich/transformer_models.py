"""Models of transformers with weights set by hand or drawn at random: real plumbing, no sense."""

from __future__ import annotations

import importlib
import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.transcribe import extra

WORDS = ("thank", "you", "very", "much", "happy", "angry", "refund", "the", "is", "a")
HAN = "我你他的是不了在有这很好谢谢高兴生气退款投诉您请问可以帮没到"
MARKS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>")

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }} <|end|> "
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WITHOUT_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    + TEMPLATE
)


def libraries() -> tuple[Any, Any]:
    """(torch, transformers). Ends the running test where they are not installed."""
    extra.transformers()
    return importlib.import_module("torch"), importlib.import_module("transformers")


def build_classifier(
    folder: Path,
    labels: Sequence[str] = ("negative", "neutral", "positive"),
    *,
    says: str | None = None,
    positions: int = 32,
    problem: str = "single_label_classification",
    kind: str = "DistilBert",
    limit: int | None = None,
    seed: int = 1,
) -> Path:
    """Writes a classifier with its own WordPiece tokenizer into `folder`; returns it.

    It `says` that label of every text; by default what random weights make of it. The tokenizer
    says a `limit` of tokens, or none.
    """
    torch, hub = libraries()
    folder.mkdir(parents=True, exist_ok=True)
    letters = string.ascii_lowercase + string.digits
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    vocabulary += [f"##{letter}" for letter in letters]
    vocabulary += [*string.punctuation, "。", "，", *WORDS, *dict.fromkeys(HAN)]
    vocabulary = list(dict.fromkeys(vocabulary))
    (folder / "vocab.txt").write_text("\n".join(vocabulary), "utf-8")
    more = {} if limit is None else {"model_max_length": limit}
    hub.BertTokenizerFast(str(folder / "vocab.txt"), **more).save_pretrained(folder)
    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        "DistilBert": {"dim": 16, "n_heads": 2, "n_layers": 1, "hidden_dim": 32},
        "Bert": {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1,
                 "intermediate_size": 32},
    }[kind]  # fmt: skip
    config = getattr(hub, f"{kind}Config")(
        vocab_size=len(vocabulary), max_position_embeddings=positions,
        id2label=dict(enumerate(labels)), label2id={it: at for at, it in enumerate(labels)},
        problem_type=problem, pad_token_id=0, initializer_range=1.0, **shape,
    )  # fmt: skip
    model = getattr(hub, f"{kind}ForSequenceClassification")(config)
    with torch.no_grad():
        if says is not None:
            model.classifier.weight.zero_()
            model.classifier.bias.fill_(-9.0)
            model.classifier.bias[list(labels).index(says)] = 9.0
    model.save_pretrained(folder)
    return folder


def build_chat_model(
    folder: Path,
    answer: Sequence[str] | None = None,
    *,
    ends: bool = True,
    positions: int = 65_536,
    template: str | None = TEMPLATE,
    seed: int = 1,
) -> Path:
    """Writes a Llama with its tokenizer and chat template into `folder`; returns it.

    To every question it answers the parts of `answer`, one token each, and `ends` then, or says the
    last of them for ever; without, what random weights come to.
    """
    torch, hub = libraries()
    tokenizers: Any = importlib.import_module("tokenizers")
    folder.mkdir(parents=True, exist_ok=True)
    words = ["[UNK]", *(f"w{number}" for number in range(200))]
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(
            {word: number for number, word in enumerate(words)}, unk_token="[UNK]"
        )
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.add_special_tokens([tokenizers.AddedToken(mark, special=True) for mark in MARKS])
    parts = list(answer or ())
    inner.decoder = tokenizers.decoders.Fuse()
    inner.add_tokens([tokenizers.AddedToken(part, normalized=False) for part in parts])
    tokenizer = hub.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="[UNK]",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = hub.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=positions,
        tie_word_embeddings=False, initializer_range=1.0,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = hub.LlamaForCausalLM(config)
    with torch.no_grad():
        if parts:
            # Each token says the next: attention and layers add nothing to it.
            spoken = ["<|assistant|>", *parts]
            following = [*parts, "<|end|>" if ends else parts[-1]]
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
            model.model.embed_tokens.weight.zero_()
            model.lm_head.weight.zero_()
            for at, (now, then) in enumerate(zip(spoken, following, strict=True)):
                model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids(now), at] = 1.0
                model.lm_head.weight[tokenizer.convert_tokens_to_ids(then), at] = 1.0
        elif not ends:
            model.lm_head.weight[tokenizer.eos_token_id].zero_()
    model.generation_config = hub.GenerationConfig(
        # What makers of models advise, and what has no effect here.
        do_sample=True, temperature=0.7, top_k=20, repetition_penalty=1.3,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model.save_pretrained(folder)
    return folder


def said_by(answer: dict[str, Any]) -> list[str]:
    """A JSON answer as the parts of a model that says it: without spaces between, in two tokens."""
    text = json.dumps(answer, ensure_ascii=False)
    return [text[: len(text) // 2], text[len(text) // 2 :]]
