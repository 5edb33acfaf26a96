"""What a language model is asked, and the forms that its answers have."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import msgspec

from schemas.events import StatementKind
from services.enrich.grounding import UNSEEN, Note, Quote, Spoken, grounded
from services.enrich.llm import Unusable
from services.enrich.rules import MOST_QUESTIONS
from services.runtime.yaml_file import FileError, read_yaml

_A = TypeVar("_A")

BUILT_IN = Path(__file__).with_name("prompts")
_TEXTS = ("whole", "part", "reduce", "repair")

LONGEST_TEXT = 600
_MOST_STATEMENTS = 24
_MOST_EVIDENCE = 24

_Text = Annotated[str, msgspec.Meta(max_length=LONGEST_TEXT)]
_Quotes = Annotated[list[Quote], msgspec.Meta(max_length=_MOST_EVIDENCE)]


class _Said(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    text: _Text
    evidence: _Quotes


class _Effect(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    effective: Literal["yes", "partly", "no", "unknown"]
    text: _Text
    evidence: _Quotes


class _State(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    state: Literal["resolved", "unresolved", "follow_up", "unknown"]
    text: _Text
    evidence: _Quotes


_Statements = Annotated[list[_Said], msgspec.Meta(max_length=_MOST_STATEMENTS)]


class _Answer(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    summary: _Statements
    intent: _Statements
    demand: _Statements
    answer: _Effect
    resolution: _State
    follow_ups: _Statements
    improvements: _Statements
    wording: _Statements


class _Judged(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    id: Annotated[str, msgspec.Meta(max_length=200)]
    verdict: Literal["met", "not_met", "not_applicable", "unknown"]
    text: _Text
    evidence: _Quotes


class _Judgements(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    judgements: Annotated[list[_Judged], msgspec.Meta(max_length=MOST_QUESTIONS)]


_LISTS = ("summary", "intent", "demand", "follow_ups", "improvements", "wording")
KINDS: Mapping[str, StatementKind] = {
    "intent": StatementKind.INTENT,
    "demand": StatementKind.DEMAND,
    "answer": StatementKind.ANSWER,
    "resolution": StatementKind.RESOLUTION,
    "follow_ups": StatementKind.FOLLOW_UP,
    "improvements": StatementKind.IMPROVEMENT,
    "wording": StatementKind.WORDING,
}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_EVIDENCE = {
    "type": "array",
    "items": _object({"id": {"type": "integer"}, "quote": {"type": "string"}}),
}
_STATED = {"type": "string"}
_STATEMENTS = {"type": "array", "items": _object({"text": _STATED, "evidence": _EVIDENCE})}
# Without limits on lengths: not every server that enforces a schema takes them.
_SUMMARY: Mapping[str, Any] = _object(
    {
        "summary": _STATEMENTS,
        "intent": _STATEMENTS,
        "demand": _STATEMENTS,
        "answer": _object(
            {
                "effective": {"type": "string", "enum": ["yes", "partly", "no", "unknown"]},
                "text": _STATED,
                "evidence": _EVIDENCE,
            }
        ),
        "resolution": _object(
            {
                "state": {
                    "type": "string",
                    "enum": ["resolved", "unresolved", "follow_up", "unknown"],
                },
                "text": _STATED,
                "evidence": _EVIDENCE,
            }
        ),
        "follow_ups": _STATEMENTS,
        "improvements": _STATEMENTS,
        "wording": _STATEMENTS,
    }
)
_JUDGEMENTS: Mapping[str, Any] = _object(
    {
        "judgements": {
            "type": "array",
            "items": _object(
                {
                    "id": _STATED,
                    "verdict": {
                        "type": "string",
                        "enum": ["met", "not_met", "not_applicable", "unknown"],
                    },
                    "text": _STATED,
                    "evidence": _EVIDENCE,
                }
            ),
        }
    }
)


class Stated(NamedTuple):
    """A statement as a model made it."""

    kind: str
    text: str
    quotes: Sequence[Quote]
    verdict: str = ""


def _of_summary(answer: _Answer) -> list[Stated]:
    stated = [
        Stated(kind, each.text, each.evidence) for kind in _LISTS for each in getattr(answer, kind)
    ]
    effect, state = answer.answer, answer.resolution
    for said in (
        Stated("answer", effect.text, effect.evidence, effect.effective),
        Stated("resolution", state.text, state.evidence, state.state),
    ):
        if said.verdict != "unknown" or said.text.strip():
            stated.append(said)
    return stated


def _of_judgements(answer: _Judgements) -> list[Stated]:
    return [
        Stated(each.id, each.text, each.evidence, each.verdict)
        for each in answer.judgements
        if each.verdict != "unknown"
    ]


_THOUGHT = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)


@dataclass(frozen=True)
class Form(Generic[_A]):
    """What an answer has to look like, and what is read from it."""

    schema: Mapping[str, Any]
    _decoder: msgspec.json.Decoder[_A]
    _stated: Callable[[_A], list[Stated]]
    _of_silence: frozenset[str] = frozenset()
    """Verdicts that need no quote: nothing can be quoted of what was not said."""

    @cached_property
    def told(self) -> str:
        """What is added to every instruction."""
        schema = json.dumps(self.schema, separators=(",", ":"))
        return (
            "Answer with one JSON object of this JSON schema and nothing else. A text has at most "
            f"{LONGEST_TEXT} characters, a list at most {_MOST_STATEMENTS} entries.\n{schema}"
        )

    def read(self, text: str) -> list[Stated]:
        """What a model wrote, whatever it wrote around it. Raises Unusable."""
        text = _THOUGHT.sub("", text, count=1)
        body = text[text.find("{") : text.rfind("}") + 1]
        try:
            return self._stated(self._decoder.decode(body.encode("utf-8", "replace")))
        except msgspec.ValidationError as error:
            raise Unusable("llm_wrong_schema", UNSEEN.sub(" ", str(error))[:200], text) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
            raise Unusable("llm_no_json", UNSEEN.sub(" ", str(error))[:200], text) from None

    def notes(
        self, stated: Sequence[Stated], known: Mapping[int, Spoken]
    ) -> tuple[list[Note], int]:
        """The statements that rest on something of `known`, and how many do not."""
        notes = []
        for each in stated:
            note = grounded(each.kind, each.text, each.quotes, known, each.verdict)
            if note is None and each.verdict in self._of_silence:
                note = Note(each.kind, "", (), each.verdict)
            if note is not None:
                notes.append(note)
        return notes, len(stated) - len(notes)


# Made once, before threads: see Codec.
SUMMARY = Form(_SUMMARY, msgspec.json.Decoder(_Answer), _of_summary)
JUDGEMENTS = Form(
    _JUDGEMENTS,
    msgspec.json.Decoder(_Judgements),
    _of_judgements,
    frozenset(("not_met", "not_applicable")),
)


# Prompts


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked in one language."""

    version: str
    """<declared version>+<first 12 hex digits of the hash of the file and of the schema>"""
    whole: str
    part: str
    reduce: str
    repair: str
    judge: str


Prompts = Mapping[str, Prompt]
"""Primary language tag -> prompt; there is always `en`."""


def load_prompts(*folders: Path) -> Prompts:
    """The built-in prompts with `folders` laid over them, the last on top.

    A file replaces the one of the same name below it. Raises FileError, naming file, line and what
    is allowed; a file of another name is an error too, so that a misspelt one is never ignored.
    """
    found: dict[str, Prompt] = {}
    for folder in (BUILT_IN, *folders):
        if not folder.is_dir():
            raise FileError(
                f"{folder}: is no folder of prompts; set CALLSTREAM_ENRICH__LLM__PROMPTS_DIR to "
                "one or leave it out"
            )
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or path.is_dir():
                continue
            if not re.fullmatch(r"[a-z]{2,3}\.yaml", path.name):
                raise FileError(
                    f"{path.name}:1: is no prompt file; allowed are en.yaml, zh.yaml and others "
                    "named by a language"
                )
            found[path.stem] = _prompt(path, found.get(path.stem, found.get("en")))
    return found


def load_tenant_prompts(prompts_dir: Path | None) -> tuple[Prompts, Mapping[str, Prompts]]:
    """The prompts of everybody, and tenant id -> prompts for each folder in its tenants/."""
    if prompts_dir is None:
        return load_prompts(), {}
    tenants = prompts_dir / "tenants"
    folders = sorted(tenants.iterdir()) if tenants.is_dir() else []
    return load_prompts(prompts_dir), {
        folder.name: load_prompts(prompts_dir, folder) for folder in folders if folder.is_dir()
    }


def _prompt(path: Path, otherwise: Prompt | None) -> Prompt:
    """`otherwise` gives the text that a file may leave out."""
    item = read_yaml(path, path.name)
    fields = item.fields(("version", *_TEXTS), ("about", "judge"))
    version = fields["version"].text()
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9}){0,3}", version):
        raise fields["version"].error(f"{version!r} is no version; write numbers and dots, as 1.2")
    digest = hashlib.sha256(path.read_bytes() + b"\0" + SUMMARY.told.encode())
    texts = {name: fields[name].text() for name in _TEXTS}
    judge = fields["judge"].text() if "judge" in fields else otherwise.judge if otherwise else ""
    return Prompt(version=f"{version}+{digest.hexdigest()[:12]}", judge=judge, **texts)
