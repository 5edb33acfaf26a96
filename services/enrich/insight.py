"""What a language model says of a call, as far as it rests on what was said there.

The call goes out as data: a line of JSON for each segment, never joined to the instructions. What
comes back has one schema. Each statement names segments and quotes them; one whose quotes were not
said is left out and counted. A call too long for one request is divided, and the notes of its parts
are joined by requests of the same schema. Whatever fails, there is the extractive summary.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from schemas.events import (
    Answered,
    Evidence,
    Resolution,
    Role,
    Segment,
    Statement,
    StatementKind,
    Summary,
    SummarySentence,
)
from services.enrich.answers import Answers, Kept
from services.enrich.findings import Heard, Places
from services.enrich.llm import (
    Allowance,
    Away,
    ChatModel,
    Circuit,
    LlmFailure,
    Message,
    Spent,
    TooLong,
    Unusable,
)
from services.enrich.settings import LlmSettings
from services.enrich.summary import METHOD, VERSION
from services.runtime.errors import Transient
from services.runtime.objects import Objects
from services.runtime.observe import logger
from services.runtime.yaml_file import FileError, read_yaml

BUILT_IN = Path(__file__).with_name("prompts")
# Varieties of Chinese that have no file of their own are asked about in Chinese.
_CHINESE = frozenset(("cmn", "yue", "wuu", "nan", "hak", "gan", "hsn"))
_TEXTS = ("whole", "part", "reduce", "repair")

LONGEST_TEXT = 600
_LONGEST_QUOTE = 1_000
_MOST_STATEMENTS = 24
_MOST_EVIDENCE = 24
# A quote says where a statement rests only if it has this many letters; a Han character is two.
_SHORTEST_QUOTE = 4
# Least that a request may hold of a call, in tokens.
_LEAST_TOKENS = 200
# What a chat template adds around messages.
_TEMPLATE_TOKENS = 64


# The answer


class _Quote(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    id: int
    quote: Annotated[str, msgspec.Meta(max_length=_LONGEST_QUOTE)]


_Text = Annotated[str, msgspec.Meta(max_length=LONGEST_TEXT)]
_Quotes = Annotated[list[_Quote], msgspec.Meta(max_length=_MOST_EVIDENCE)]


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


_LISTS = ("summary", "intent", "demand", "follow_ups", "improvements", "wording")
_KINDS = {
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
SCHEMA: Mapping[str, Any] = _object(
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
_SCHEMA_TEXT = json.dumps(SCHEMA, separators=(",", ":"))
_FORM = (
    "Answer with one JSON object of this JSON schema and nothing else. A text has at most "
    f"{LONGEST_TEXT} characters, a list at most {_MOST_STATEMENTS} entries.\n{_SCHEMA_TEXT}"
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
            found[path.stem] = _prompt(path)
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


def _prompt(path: Path) -> Prompt:
    item = read_yaml(path, path.name)
    fields = item.fields(("version", *_TEXTS), ("about",))
    version = fields["version"].text()
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9}){0,3}", version):
        raise fields["version"].error(f"{version!r} is no version; write numbers and dots, as 1.2")
    digest = hashlib.sha256(path.read_bytes() + b"\0" + _FORM.encode())
    texts = {name: fields[name].text() for name in _TEXTS}
    return Prompt(version=f"{version}+{digest.hexdigest()[:12]}", **texts)


# What is sent


def estimated_tokens(text: str) -> int:
    """How many tokens `text` is held to have: more than the tokenizers of today's models make.

    A third for a Latin letter or a space, one for a digit, a sign or a letter of another alphabet,
    two for a Han character, kana or hangul syllable, four beyond that. No bound: random letters may
    take more.
    """
    thirds = 0
    for character in text:
        code = ord(character)
        if code < 0x80:
            thirds += 1 if character.isalpha() or character == " " else 3
        elif code < 0x800:
            thirds += 3
        elif code < 0x10000:
            thirds += 6
        else:
            thirds += 12
    return -(-thirds // 3)


# What chat templates take for the start of a turn, wherever it stands.
_CONTROL = re.compile(r"<|\[(?=/?(?:INST|AVAILABLE_TOOLS|TOOL_|SYSTEM_PROMPT|IMG|PREFIX|SUFFIX))")
_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
_LONE = re.compile(r"[\ud800-\udfff]")


def data_line(found: Mapping[str, Any]) -> str:
    """`found` as a line of JSON, without what a chat template or a reader of lines acts on."""
    text = json.dumps(found, ensure_ascii=False)
    return _inert(_LONE.sub("�", text).translate(_LINE_ENDS))


def _inert(text: str) -> str:
    """JSON of the same meaning, in which no turn starts or ends."""
    return _CONTROL.sub(lambda sign: f"\\u{ord(sign[0]):04x}", text)


@dataclass(frozen=True, slots=True)
class _Line:
    """A segment as it goes out, or a piece of one that is longer than a request."""

    segment_id: int
    who: str
    text: str
    at: int | None = None
    """The character that a piece begins with; None where the segment is whole."""
    cost: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cost", 1 + estimated_tokens(self.sent))

    @property
    def sent(self) -> str:
        found: dict[str, Any] = {"id": self.segment_id}
        if self.at is not None:
            found["at"] = self.at
        return data_line({**found, "who": self.who, "text": self.text})

    def halves(self) -> tuple[_Line, _Line]:
        """Cut at a space where there is one near the middle."""
        middle = len(self.text) // 2
        cut = self.text.rfind(" ", middle - middle // 2, middle) + 1 or middle
        at = self.at or 0
        return (
            _Line(self.segment_id, self.who, self.text[:cut], at),
            _Line(self.segment_id, self.who, self.text[cut:], at + cut),
        )


def _take(pending: deque[_Line], budget: int) -> list[_Line]:
    """As many lines as have room, in order; a line longer than the budget is divided."""
    taken: list[_Line] = []
    left = budget
    while pending and (pending[0].cost <= left or not taken):
        line = pending.popleft()
        if line.cost > budget and len(line.text) > 1:
            pending.extendleft(reversed(line.halves()))
            continue
        taken.append(line)
        left -= line.cost
    return taken


def _parts(lines: Iterable[_Line], budget: int) -> Iterator[list[_Line]]:
    pending = deque(lines)
    while pending:
        yield _take(pending, budget)


# What it rests on


def _letters(text: str) -> tuple[str, list[int]]:
    """Letters and digits of `text` alike in width and case, and where each of them stands in it."""
    letters: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        for each in unicodedata.normalize("NFKC", character).casefold():
            if each.isalnum():
                letters.append(each)
                places.append(place)
    return "".join(letters), places


def _weight(letters: str) -> int:
    return sum(1 if ord(each) < 0x2E80 else 2 for each in letters)


_ELLIPSIS = re.compile(r"…+|\.{3,}|。{3,}")


@dataclass(frozen=True)
class _Spoken:
    """A segment that was sent, and what was sent of it."""

    segment: Segment
    text: str

    @cached_property
    def letters(self) -> tuple[str, list[int]]:
        return _letters(self.text)

    @cached_property
    def _own(self) -> tuple[str, list[int]]:
        return self.letters if self.text == self.segment.text else _letters(self.segment.text)

    @cached_property
    def _places(self) -> Places:
        return Places(self.segment)

    def find(self, quote: str) -> tuple[int, int] | None:
        """Where in its letters `quote` stands; None where it was not said, or says too little.

        Signs, spaces, width and case do not count; "..." stands for what is left out.
        """
        letters, _ = self.letters
        parts = [part for part in (_letters(it)[0] for it in _ELLIPSIS.split(quote)) if part]
        whole = "".join(parts)
        if _weight(whole) < _SHORTEST_QUOTE and whole != letters:
            return None
        start, at = -1, 0
        for part in parts:
            found = letters.find(part, at)
            if found < 0:
                return None
            start = found if start < 0 else start
            at = found + len(part)
        return (start, at) if start >= 0 and at - start <= _LONGEST_QUOTE else None

    def evidence(self, start: int, end: int) -> Evidence:
        """Of its letters [start, end); times are those of the whole where the words are unknown."""
        letters, places = self.letters
        quote = self.text[places[start] : places[end - 1] + 1].strip()
        own, own_places = self._own
        first = start if own is letters else own.find(letters[start:end])
        if first < 0:
            segment = self.segment
            return Evidence(
                start_ms=segment.start_ms,
                end_ms=max(segment.start_ms, segment.end_ms),
                segment_ids=[segment.segment_id],
                role=segment.role,
                quote=quote,
            )
        last = own_places[first + end - start - 1] + 1
        return replace(self._places.evidence(own_places[first], last), quote=quote)


@dataclass(frozen=True, slots=True)
class _Note:
    """A statement that rests on something."""

    kind: str
    text: str
    evidence: tuple[Evidence, ...]
    verdict: str = ""

    @property
    def sent(self) -> str:
        found: dict[str, Any] = {"kind": self.kind}
        if self.verdict:
            found["verdict"] = self.verdict
        quotes = [{"id": each.segment_ids[0], "quote": each.quote} for each in self.evidence]
        return data_line({**found, "text": self.text, "evidence": quotes})

    @property
    def cost(self) -> int:
        return 1 + estimated_tokens(self.sent)


_TAG = re.compile(
    r"<(script|style)\b.*?</\1\s*>|<!--.*?-->|<[/!?]?[A-Za-z][^<>]*>", re.DOTALL | re.IGNORECASE
)
# What no text that people read holds: signs of control, of direction and of no width.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff"
    "\ud800-\udfff\U000e0000-\U000e0fff]+"
)
_LINK = re.compile(
    r"(?:[a-z][a-z0-9+.-]*://|www\.)[^\s，。]+|[^\s@，。]+@[^\s@，。]+\.[^\s@，。]+", re.IGNORECASE
)


def _clean(text: str) -> str:
    return re.sub(r"\s+", " ", _UNSEEN.sub(" ", _TAG.sub(" ", text))).strip()


def _grounded(
    kind: str, text: str, quotes: Sequence[_Quote], known: Mapping[int, _Spoken], verdict: str = ""
) -> _Note | None:
    """The statement, if it rests on something of `known`; links count only where they were said."""
    text = _clean(text)
    if not text:
        return None
    evidence: dict[tuple[int, int, int], Evidence] = {}
    for each in quotes:
        spoken = known.get(each.id)
        place = None if spoken is None else spoken.find(each.quote)
        if spoken is not None and place is not None:
            evidence[each.id, *place] = spoken.evidence(*place)
    if not evidence:
        return None
    said = [known[number].letters[0] for number, _, _ in evidence]
    for link in _LINK.findall(text):
        if not any(_letters(link)[0] in each for each in said):
            return None
    return _Note(kind, text, tuple(evidence.values()), verdict)


def _notes(answer: _Answer, known: Mapping[int, _Spoken]) -> tuple[list[_Note], int]:
    """The statements that rest on something, and how many do not."""
    stated: list[tuple[str, str, Sequence[_Quote], str]] = [
        (kind, each.text, each.evidence, "") for kind in _LISTS for each in getattr(answer, kind)
    ]
    verdicts = (
        ("answer", answer.answer, answer.answer.effective),
        ("resolution", answer.resolution, answer.resolution.state),
    )
    for kind, said, verdict in verdicts:
        if verdict != "unknown" or said.text.strip():
            stated.append((kind, said.text, said.evidence, verdict))
    found = [_grounded(kind, text, quotes, known, v) for kind, text, quotes, v in stated]
    notes = [note for note in found if note is not None]
    return notes, len(found) - len(notes)


_ANSWERS = msgspec.json.Decoder(_Answer)
_THOUGHT = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)


def _decoded(text: str) -> _Answer:
    """What a model wrote, whatever it wrote around it. Raises Unusable."""
    text = _THOUGHT.sub("", text, count=1)
    body = text[text.find("{") : text.rfind("}") + 1]
    try:
        return _ANSWERS.decode(body.encode("utf-8", "replace"))
    except msgspec.ValidationError as error:
        raise Unusable("llm_wrong_schema", _UNSEEN.sub(" ", str(error))[:200], text) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise Unusable("llm_no_json", _UNSEEN.sub(" ", str(error))[:200], text) from None


# A call


@dataclass(slots=True)
class _Call:
    """One call while it is asked about. Of one thread."""

    prompt: Prompt
    language: str
    spoken: dict[int, _Spoken]
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
    """Summaries by one language model. Thread-safe; nothing is asked when it is made."""

    def __init__(
        self,
        settings: LlmSettings,
        objects: Objects | None = None,
        prompts: Prompts | None = None,
        tenant_prompts: Mapping[str, Prompts] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        model: ChatModel | None = None,
    ) -> None:
        """`objects` keep the answers; without, none is kept. `clock` and `sleep` are of seconds.

        Raises ValueError for a setting that cannot be used, and FileError for a prompt file that
        cannot, where no `prompts` are given.
        """
        self._settings, self._objects, self._clock = settings, objects, clock
        if prompts is None:
            prompts, tenant_prompts = load_tenant_prompts(settings.prompts_dir)
        self._prompts, self._tenants = prompts, dict(tenant_prompts or {})
        self._model = model or ChatModel(settings, clock, sleep)
        self._circuit = Circuit(settings.away_calls, settings.away_pause_s, clock)
        for each in (prompts, *self._tenants.values()):
            for prompt in each.values():
                self._room(prompt)

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
        spoken = {
            segment.segment_id: _Spoken(
                segment, segment.text if self._settings.send_unredacted else shown(segment)
            )
            for segment in segments
            if segment.segment_id in heard.said
        }
        if not any(each.letters[0] for each in spoken.values()):
            return fallback
        tag = self._settings.language or language
        call = _Call(
            self._prompt(tenant_id, tag),
            "the language that is spoken" if tag in ("", "und", "mul", "zxx") else tag,
            spoken,
            Allowance.of(self._settings, self._clock),
            replay,
            self._answers(tenant_id, call_id),
        )
        try:
            try:
                summary = self._asked(call)
            except LlmFailure as failure:
                if not self._is_back(failure):
                    raise
                # It came back while the call waited: once more, from what it has answered.
                call.allowance, call.dropped = Allowance.of(self._settings, self._clock), 0
                call.on_line = False
                summary = self._asked(call)
        except LlmFailure as failure:
            if not isinstance(failure, Away):
                self._forget(call)
            logger("enrich").warning(
                "a summary is extractive", url=self._model.url, reason=failure.reason,
                why=failure.detail,
            )  # fmt: skip
            lesser = fallback or Summary(method=METHOD, version=VERSION, sentences=[])
            return replace(
                lesser, degraded=str(failure), dropped=call.dropped, usage=call.allowance.usage
            )
        return summary

    def _answers(self, tenant_id: str, call_id: str) -> Answers | None:
        if self._objects is None:
            return None
        its = self._settings
        return Answers(
            self._objects,
            tenant_id,
            call_id,
            {"model": its.model, "extra": its.extra, "seed": its.seed, "enforce": its.enforce},
        )

    def _prompt(self, tenant_id: str, tag: str) -> Prompt:
        prompts = self._tenants.get(tenant_id, self._prompts)
        primary = tag.split("-")[0].lower()
        if primary not in prompts and primary in _CHINESE:
            primary = "zh"
        return prompts.get(primary, prompts["en"])

    def _room(self, prompt: Prompt) -> int:
        """Tokens that a request has for lines, beside the prompt, an answer and its repair.

        Raises ValueError where that is too little.
        """
        longest = max(estimated_tokens(getattr(prompt, name)) for name in _TEXTS)
        beside = longest + estimated_tokens(_FORM + prompt.repair) + 4 * _TEMPLATE_TOKENS
        room = self._settings.context_tokens - 2 * self._settings.answer_tokens - beside
        if room < _LEAST_TOKENS:
            raise ValueError(
                f"enrich.llm.context_tokens={self._settings.context_tokens} leaves no room for a "
                f"call beside {beside} tokens of prompt and twice enrich.llm.answer_tokens="
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
                raise Transient(away.reason, f"{self._model.url} {away.detail}") from failure
            self._circuit.answered()
            return True
        raise Transient(failure.reason, f"{self._model.url}: {failure.detail}") from failure

    # Requests

    def _asked(self, call: _Call) -> Summary:
        """Raises LlmFailure."""
        lines = [
            _Line(number, each.segment.role.value.lower(), each.text)
            for number, each in call.spoken.items()
        ]
        room = self._room(call.prompt)
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
        return self._summary(call, notes)

    def _affordable(self, call: _Call, lines: Sequence[_Line], room: int) -> None:
        """Raises Spent where the call would take more than a call may, before any of it is."""
        settings = self._settings
        parts = sum(1 for _ in _parts(lines, room))
        requests = parts if parts == 1 else parts + 1
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

    def _of_lines(self, call: _Call, lines: Sequence[_Line], room: int) -> list[_Note]:
        """Notes of the whole call: of one request, or of the parts, joined."""
        budget = room
        if (cost := sum(line.cost for line in lines)) <= room:
            try:
                return self._request(call, call.prompt.whole, {}, lines, _ids(lines))
            except TooLong as long:
                budget = _less(min(cost, budget), long)
        planned = sum(1 for _ in _parts(lines, budget))
        pending = deque(lines)
        notes: list[_Note] = []
        number = 0
        while pending:
            part = _take(pending, budget)
            head = {"part": number + 1, "of": max(planned, number + 1)}
            try:
                notes += self._request(call, call.prompt.part, head, part, _ids(part))
            except TooLong as long:
                budget = _less(min(budget, sum(line.cost for line in part)), long)
                pending.extendleft(reversed(part))
                continue
            except Unusable as why:
                told = f"part {number + 1}: {why.detail}"
                raise Unusable(why.reason, told, doubt=why.doubt) from why
            number += 1
        return self._joined(call, notes, budget) if notes else []

    def _joined(self, call: _Call, notes: list[_Note], budget: int) -> list[_Note]:
        """The notes of parts as those of the whole; in several steps where they are too many."""
        while True:
            groups = list(_groups(notes, budget))
            joined: list[_Note] = []
            try:
                for group in groups:
                    ids = {each.segment_ids[0] for note in group for each in note.evidence}
                    joined += self._request(call, call.prompt.reduce, {}, group, ids)
            except TooLong as long:
                cost = max(sum(note.cost for note in group) for group in groups)
                budget = _less(min(budget, cost), long)
                continue
            if len(groups) == 1:
                return joined
            if sum(note.cost for note in joined) >= sum(note.cost for note in notes):
                raise Unusable("llm_no_shorter", "the notes of the parts do not get shorter")
            notes = joined

    def _request(
        self,
        call: _Call,
        instructions: str,
        head: Mapping[str, Any],
        lines: Sequence[_Line | _Note],
        ids: Iterable[int],
    ) -> list[_Note]:
        """What the model says of `lines`, as far as it rests on segments of `ids`."""
        first = data_line({"language": call.language, **head, "lines": len(lines)})
        messages = [
            {"role": "system", "content": f"{instructions}\n\n{_FORM}"},
            {"role": "user", "content": "\n".join([first, *(line.sent for line in lines)])},
        ]
        answer = self._answer(call, messages)
        notes, dropped = _notes(answer, {number: call.spoken[number] for number in ids})
        call.dropped += dropped
        return notes

    def _repair(self, call: _Call, why: Unusable) -> list[Message]:
        said = data = why.said or "{}"
        # There is room for as much as an answer may have.
        while estimated_tokens(data) > self._settings.answer_tokens:
            data = data[: len(data) * 3 // 4]
        error = {"error": why.reason, "detail": why.detail, "shortened": data != said}
        told = f"{call.prompt.repair}\n{data_line(error)}"
        return [
            {"role": "assistant", "content": _inert(data)},
            {"role": "user", "content": told},
        ]

    def _answer(self, call: _Call, messages: Sequence[Message]) -> _Answer:
        """The answer to `messages`, repaired where it has to be: kept, or asked for and then kept.

        Raises LlmFailure, and what the object store raises.
        """
        key = ""
        if call.answers is not None:
            key = call.answers.key(messages)
            kept = call.answers.load(key)
            if kept is not None:
                with suppress(Unusable):
                    answer = _decoded(kept.text)
                    call.used.append(key)
                    call.allowance.recall(
                        kept.requests, kept.prompt_tokens, kept.completion_tokens, kept.seconds
                    )
                    return answer
        before = call.allowance.taken
        try:
            text, answer = self._ask(call, messages)
        except Unusable as why:
            if why.said is None:
                raise
            text, answer = self._ask(call, [*messages, *self._repair(call, why)])
        if call.answers is not None:
            sent, read, written, seconds = (
                after - earlier for earlier, after in zip(before, call.allowance.taken, strict=True)
            )
            call.used.append(key)
            call.answers.store(
                key, Kept(text, int(sent), int(read), int(written), round(seconds, 3))
            )
        return answer

    def _ask(self, call: _Call, messages: Sequence[Message]) -> tuple[str, _Answer]:
        if not call.on_line:
            # Not before: what is kept is had of a server that is away, too.
            call.on_line = True
            if call.line.enter_context(self._circuit.call()):
                call.allowance.patience_s = 0.0
        tokens = sum(estimated_tokens(each["content"]) for each in messages) + _TEMPLATE_TOKENS
        reply = self._model.ask(messages, SCHEMA, tokens, call.allowance, call.replay)
        return reply.text, _decoded(reply.text)

    def _forget(self, call: _Call) -> None:
        """Let what came to nothing be asked again, where the call is replayed."""
        if call.answers is not None:
            for key in call.used:
                call.answers.forget(key)

    def _summary(self, call: _Call, notes: Sequence[_Note]) -> Summary:
        """Raises Unusable where no sentence is left."""
        sentences = [note for note in notes if note.kind == "summary"]
        if not sentences:
            raise Unusable("llm_groundless", "no sentence of the summary quotes what was said")
        verdicts = {note.kind: note.verdict.upper() for note in notes if note.verdict}
        return Summary(
            method=self._settings.model,
            version=call.prompt.version,
            sentences=[
                SummarySentence(text=note.text, evidence=_together(note.evidence))
                for note in sentences
            ],
            statements=[
                Statement(kind=kind, text=note.text, evidence=list(note.evidence))
                for name, kind in _KINDS.items()
                for note in notes
                if note.kind == name
            ],
            answered=Answered(verdicts.get("answer", "UNKNOWN")),
            resolution=Resolution(verdicts.get("resolution", "UNKNOWN")),
            dropped=call.dropped,
            usage=call.allowance.usage,
        )


def _ids(lines: Iterable[_Line]) -> set[int]:
    return {line.segment_id for line in lines}


def _less(cost: int, long: TooLong) -> int:
    """Half of what was too long; raises it where that is too little to send."""
    if cost // 2 < _LEAST_TOKENS:
        raise long
    return cost // 2


def _groups(notes: Iterable[_Note], budget: int) -> Iterator[list[_Note]]:
    """Notes in order, as many together as have room."""
    group: list[_Note] = []
    left = budget
    for note in notes:
        if group and note.cost > left:
            yield group
            group, left = [], budget
        group.append(note)
        left -= note.cost
    if group:
        yield group


def _together(evidence: Sequence[Evidence]) -> Evidence:
    """All of it as one, in the order of the call."""
    ordered = sorted(evidence, key=lambda each: (each.start_ms, each.segment_ids))
    roles = {each.role for each in ordered}
    return Evidence(
        start_ms=ordered[0].start_ms,
        end_ms=max(each.end_ms for each in ordered),
        segment_ids=sorted({number for each in ordered for number in each.segment_ids}),
        role=roles.pop() if len(roles) == 1 else Role.UNKNOWN,
        quote=" … ".join(dict.fromkeys(each.quote for each in ordered)),
    )
