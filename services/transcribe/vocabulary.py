"""A business's own words: what an engine is told to expect, and what it hears wrongly all the same.

A folder of YAML files, read once:

    default.yaml               for every call
    tenants/<tenant>/*.yaml    for the calls of one tenant: one file without `queues` for all of
                               them, others for the queues that they name

The most specific file that fits a call is the one that counts, alone unless it says `extends: yes`.
docs/vocabulary.md says how a file is written.

Corrections are made in text and words alike. Of those that could be made the longest comes first,
then the first in the text; none reaches across punctuation, or into a word (see matching). What a
correction results in guards itself: no shorter correction is made inside of it. A result that is
itself what another correction is made of is refused when it is loaded; where a result and its
neighbours are that, the other correction is made as well. So correcting a text again changes
nothing.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from schemas.events import CallEnded, Correction
from services.runtime.yaml_file import FileError, Item, read_yaml
from services.transcribe.engine import HeardSegment, HeardWord, primary_tag
from services.transcribe.matching import Kind, Phrases, fold, kind, tokenize
from services.transcribe.spans import Span
from services.transcribe.words import split, timed

MOST_TERMS = 10_000
MOST_HEARD = 100_000
LONGEST = 200
LONGEST_PROMPT = 2_000

# Raised when equal files come to correct differently.
_FORM = 1
# What a correction and its neighbours are corrected to is looked at so many times: a text that
# corrections would change for ever is left as it was heard.
_PASSES = 4
_LONGEST_TEXT = 100_000
# An engine's word is looked for among so many characters, where its words do not spell its text.
_REACH = 40
_EVERYBODY = "default.yaml"
_NO_TENANT = ""


class _Edit(NamedTuple):
    """A stretch of a text, and what is to stand in its place."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class _Rule:
    corrected: str
    """Empty: what is found is right as it is."""
    language: str | None
    where: str
    """File and line."""


@dataclass(frozen=True, slots=True)
class Corrected:
    """A segment as corrected, and how."""

    segment: HeardSegment
    corrections: tuple[Correction, ...] = ()
    """In order; each `word` is an index into `timed(segment.text, segment.words, ...).texts`."""
    spread: bool = False
    """Whether words share the time of others that were heard, by their length."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Immutable, safe to share between threads."""

    name: str
    """That of its file: 'default', 'acme', 'acme/sales'."""
    version: str
    """12 hex digits of the hash of what it says, with what it extends."""
    terms: tuple[str, ...]
    """What to expect, the most important first: Asked.terms."""
    prompt: str
    """Text in the manner of what is said: Asked.prompt."""
    _phrases: Phrases[_Rule] = field(repr=False)

    def corrected(self, segment: HeardSegment) -> Corrected:
        """`segment` with every correction made in its text and, where it has words, in those.

        Nothing else of it changes, and correcting the result again changes nothing. A corrected
        word takes the time of the words that were heard in its place, and their least confidence;
        as many words as before take each its own, any other number share the time by their length.
        """
        edits = self._settled(segment.text, primary_tag(segment.language))
        if not edits:
            return Corrected(segment)
        text = _applied(segment.text, edits)
        heard = [word for word in segment.words or () if word.text.strip()]
        spread = False
        if heard:
            words, firsts, spread = _reworded(segment.text, heard, edits)
            made = replace(segment, text=text, words=tuple(words))
        else:
            firsts = []
            shift = 0
            pieces = split(text)
            for edit in edits:
                firsts.append(_word_at(pieces, text, edit.start + shift + _telling(edit.text)))
                shift += len(edit.text) - (edit.end - edit.start)
            made = replace(segment, text=text)
        return Corrected(
            made,
            tuple(
                Correction(
                    word=first,
                    heard=segment.text[edit.start : edit.end],
                    corrected=edit.text.strip(),
                )
                for edit, first in zip(edits, firsts, strict=True)
            ),
            spread,
        )

    def _settled(self, text: str, language: str) -> list[_Edit]:
        """All that is to be changed in `text`, until nothing more is; none if that never ends."""
        edits: list[_Edit] = []
        now = text
        for _ in range(_PASSES):
            more = _edits(self._phrases, now, language)
            if not more:
                return [edit for edit in edits if edit.text != text[edit.start : edit.end]]
            edits = _composed(now, edits, more)
            now = _applied(text, edits)
            if len(now) > max(_LONGEST_TEXT, len(text)):
                break
        return []


@dataclass(frozen=True, slots=True)
class Vocabularies:
    """The vocabularies of a folder, by whose calls they are for."""

    everybody: Vocabulary | None = None
    tenants: Mapping[str, Vocabulary] = field(default_factory=dict)
    queues: Mapping[tuple[str, str], Vocabulary] = field(default_factory=dict)
    """By tenant, and id or name of a queue."""

    def of(self, call: CallEnded) -> Vocabulary | None:
        """That of the call's queue (by id, or else by name), of its tenant, or everybody's."""
        if call.queue is not None:
            for queue in (call.queue.id, call.queue.name):
                if queue and (found := self.queues.get((call.tenant_id, queue))) is not None:
                    return found
        return self.tenants.get(call.tenant_id, self.everybody)


def load_vocabularies(folder: Path | None) -> Vocabularies:
    """Those of `folder`; none where it is None.

    Raises FileError, naming file, line and mend, for whatever cannot be used, an unknown file too.
    """
    if folder is None:
        return Vocabularies()
    files = _files_in(folder)
    sources = [_read(files[name], name) for name in sorted(files)]
    general: dict[str, _Source] = {}
    for source in sources:
        if not source.queues:
            if (other := general.get(source.tenant)) is not None:
                raise FileError(
                    f"{source.file}:1: names no queues, nor does {other.file}; one file is for all "
                    "of a tenant's calls, give this one `queues: [...]`"
                )
            general[source.tenant] = source

    def chain(source: _Source) -> list[_Source]:
        """`source` and what it extends, the most specific first."""
        wider = general.get(source.tenant)
        if wider is None or wider is source:
            wider = general.get(_NO_TENANT)
        return [source, *(chain(wider) if source.extends and wider is not None else ())]

    tenants: dict[str, Vocabulary] = {}
    queues: dict[tuple[str, str], Vocabulary] = {}
    for source in sources:
        made = _made(*chain(source))
        if not source.queues:
            tenants[source.tenant] = made
        for queue, where in source.queues.items():
            if (taken := queues.get((source.tenant, queue))) is not None:
                raise FileError(f"{where}: queue {queue!r} is that of {taken.name} already")
            queues[source.tenant, queue] = made
    return Vocabularies(tenants.pop(_NO_TENANT, None), tenants, queues)


@dataclass(frozen=True, slots=True)
class _Source:
    """What one file says."""

    file: str
    tenant: str
    queues: Mapping[str, str]
    """Each with file and line."""
    extends: bool
    terms: tuple[str, ...]
    prompt: str
    heard: Mapping[tuple[tuple[str, ...], str | None], _Rule]
    """Tokens of what is heard, and the language it is heard in -> what it is corrected to."""

    @property
    def name(self) -> str:
        return self.file.removesuffix(".yaml").removeprefix("tenants/")


def _files_in(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileError(
            f"{folder}: is no folder of vocabularies; transcribe.vocabulary_dir takes one, or none"
        )
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name.startswith(".") or "/." in name:
            continue
        parts = name.split("/")
        if name != _EVERYBODY and not (
            len(parts) == 3 and parts[0] == "tenants" and name.endswith(".yaml")
        ):
            raise FileError(
                f"{name}:1: is no vocabulary; allowed are {_EVERYBODY}, tenants/<tenant>/*.yaml"
            )
        found[name] = path
    return found


def _read(path: Path, name: str) -> _Source:
    root = read_yaml(path, name)
    tenant = _NO_TENANT if name == _EVERYBODY else name.split("/")[1]
    own = ("queues", "extends") if tenant else ()
    fields = root.fields((), ("about", "terms", "prompt", "corrections", *own))
    if not {"terms", "prompt", "corrections"} & set(fields):
        raise root.error("says nothing; write terms, prompt or corrections")
    terms: dict[str, None] = {}
    for item in fields["terms"].items() if "terms" in fields else ():
        if (term := _text(item, LONGEST)) in terms:
            raise item.error(f"{term!r} stands twice")
        terms[term] = None
        if len(terms) > MOST_TERMS:
            raise item.error(f"more than {MOST_TERMS:,} terms")
    queues: dict[str, str] = {}
    for item in fields["queues"].items() if "queues" in fields else ():
        if (queue := item.text()) in queues:
            raise item.error(f"{queue!r} stands twice")
        queues[queue] = item.where
    if "queues" in fields and not queues:
        raise fields["queues"].error("is empty; leave it out for all calls of the tenant")
    heard: dict[tuple[tuple[str, ...], str | None], _Rule] = {}
    for item in fields["corrections"].items() if "corrections" in fields else ():
        _read_correction(item, heard)
    return _Source(
        file=name,
        tenant=tenant,
        queues=queues,
        extends="extends" in fields
        and fields["extends"].choice(("yes", "no", "true", "false")) in ("yes", "true"),
        terms=tuple(terms),
        prompt=_text(fields["prompt"], LONGEST_PROMPT) if "prompt" in fields else "",
        heard=heard,
    )


def _read_correction(item: Item, heard: dict[tuple[tuple[str, ...], str | None], _Rule]) -> None:
    fields = item.fields(("heard", "corrected"), ("language",))
    corrected = _text(fields["corrected"], LONGEST)
    if _telling(corrected) < 0:
        raise fields["corrected"].error(f"{corrected!r} has no letter or digit")
    language = None
    if "language" in fields:
        tag = fields["language"].text()
        language = primary_tag(tag)
        if not (language.isascii() and language.isalpha() and 2 <= len(language) <= 8):
            raise fields["language"].error(f"{tag!r} is no language tag; write one as en or zh")
    rule = _Rule(corrected, language, item.where)
    forms = fields["heard"].items()
    if not forms:
        raise fields["heard"].error("is empty; write at least one")
    for each in forms:
        tokens = tuple(tokenize(_text(each, LONGEST)).texts)
        if not any(any(map(str.isalnum, token)) for token in tokens):
            raise each.error(f"{each.text()!r} has no letter or digit")
        if (other := heard.get((tokens, language))) is not None:
            raise each.error(
                f"{each.text()!r} is corrected to {other.corrected!r} already, at {other.where}"
            )
        heard[tokens, language] = rule
        if len(heard) > MOST_HEARD:
            raise each.error(f"more than {MOST_HEARD:,} forms that are heard")


def _text(item: Item, longest: int) -> str:
    """Spaces and line ends become one space each."""
    text = " ".join(item.text().split())
    if len(text) > longest:
        raise item.error(f"has {len(text)} characters; allowed are {longest}")
    strange = [each for each in text if unicodedata.category(each) in ("Cc", "Cs")]
    if strange:
        raise item.error(f"holds U+{ord(strange[0]):04X}, which is no character of a text")
    return text


def _made(*sources: _Source) -> Vocabulary:
    """Of the first, with what it does not say taken from those after it."""
    heard: dict[tuple[tuple[str, ...], str | None], _Rule] = {}
    for source in reversed(sources):
        heard.update(source.heard)
    if len(heard) > MOST_HEARD:
        raise FileError(
            f"{sources[0].file}:1: has, with what it extends, more than {MOST_HEARD:,} forms that "
            "are heard"
        )
    terms = tuple(dict.fromkeys(term for source in sources for term in source.terms))
    prompt = next((source.prompt for source in sources if source.prompt), "")
    entries = [(tokens, rule) for (tokens, _), rule in heard.items()]
    rules = list({id(rule): rule for _, rule in entries}.values())
    entries += [
        (tuple(tokenize(rule.corrected).texts), replace(rule, corrected="")) for rule in rules
    ]
    phrases = Phrases(entries)
    languages = {rule.language for rule in rules}
    for rule in rules:
        for language in languages if rule.language is None else (rule.language,):
            for again in _edits(phrases, rule.corrected, language or ""):
                raise FileError(
                    f"{rule.where}: corrections: {rule.corrected!r} would be corrected again, to "
                    f"{_applied(rule.corrected, [again])!r}; write here what is meant in the end, "
                    f"or take {rule.corrected!r} out of what is heard"
                )
    said = [
        _FORM,
        terms,
        prompt,
        sorted(
            [*tokens, rule.language or "", rule.corrected] for (tokens, _), rule in heard.items()
        ),
    ]
    digest = hashlib.sha256(json.dumps(said, ensure_ascii=False).encode()).hexdigest()
    return Vocabulary(sources[0].name, digest[:12], terms, prompt, phrases)


def _edits(phrases: Phrases[_Rule], text: str, language: str) -> list[_Edit]:
    """What is to be changed in `text`, in order; a stretch that is right as it is guards itself."""
    tokens = tokenize(text)
    found: dict[tuple[int, int], _Rule] = {}
    for first, after, rule in phrases.find(tokens):
        if rule.language in (None, language):
            span = (tokens.starts[first], tokens.ends[after - 1])
            found[span] = max(found.get(span, rule), rule, key=_precedence)
    taken: list[_Edit] = []
    covered = bytearray(len(text))
    for (start, end), rule in sorted(found.items(), key=lambda it: (it[0][0] - it[0][1], it[0])):
        if any(covered[start:end]):
            continue
        covered[start:end] = b"\1" * (end - start)
        if not rule.corrected:
            continue
        # Two words of a script with spaces would become one.
        before = " " if _run_together(text[start - 1 : start], rule.corrected[0]) else ""
        behind = " " if _run_together(rule.corrected[-1], text[end : end + 1]) else ""
        taken.append(_Edit(start, end, before + rule.corrected + behind))
    return sorted(edit for edit in taken if edit.text != text[edit.start : edit.end])


def _precedence(rule: _Rule) -> tuple[bool, bool]:
    """Of rules about the same words, the greatest is the one to go by."""
    return bool(rule.corrected), rule.language is not None


def _run_together(one: str, other: str) -> bool:
    return all(each and kind(each) is Kind.WORD for each in (one, other))


def _applied(text: str, edits: Iterable[_Edit]) -> str:
    pieces: list[str] = []
    at = 0
    for edit in edits:
        pieces += [text[at : edit.start], edit.text]
        at = edit.end
    return "".join([*pieces, text[at:]])


def _composed(now: str, first: Sequence[_Edit], second: Sequence[_Edit]) -> list[_Edit]:
    """As one, the edits that made `now` of a text and those that are to be made in `now`."""
    if not first:
        return list(second)
    # Where each stands in `now`, and of the first ones, how much longer they made the text.
    stand: list[tuple[int, int, int, str | None]] = []
    grown = 0
    for edit in first:
        start = edit.start + grown
        grew = len(edit.text) - (edit.end - edit.start)
        stand.append((start, start + len(edit.text), grew, None))
        grown += grew
    stand += [(edit.start, edit.end, 0, edit.text) for edit in second]
    groups: list[list[tuple[int, int, int, str | None]]] = []
    until = -1
    for each in sorted(stand, key=lambda it: it[:2]):
        if each[0] < until:
            groups[-1].append(each)
        else:
            groups.append([each])
        until = max(until, each[1])
    result: list[_Edit] = []
    grown = 0
    for group in groups:
        start, end = group[0][0], max(each[1] for each in group)
        inner = [_Edit(s - start, e - start, text) for s, e, _, text in group if text is not None]
        grew = sum(each[2] for each in group)
        result.append(
            _Edit(start - grown, end - grown - grew, _applied(now[start:end], sorted(inner)))
        )
        grown += grew
    return result


def _reworded(
    text: str, heard: Sequence[HeardWord], edits: Sequence[_Edit]
) -> tuple[list[HeardWord], list[int], bool]:
    """The words once `edits` are made in `text`, where each edit's first is, and whether any share
    a time."""
    words: list[HeardWord] = []
    firsts: list[int] = []
    spread = False
    places = _places(text, [word.text.strip() for word in heard])
    at = 0
    number = 0
    while number < len(edits):
        # The edits that touch the same words are made together.
        low, high = edits[number].start, edits[number].end
        while at < len(heard) and places[at][1] <= low:
            words.append(heard[at])
            at += 1
        touched = at
        upto = number + 1
        while True:
            if touched < len(heard) and places[touched][0] < high:
                low = min(low, places[touched][0])
                high = max(high, places[touched][1])
                touched += 1
            elif upto < len(edits) and edits[upto].start < high:
                high = max(high, edits[upto].end)
                upto += 1
            else:
                break
        inner = [_Edit(s - low, e - low, new) for s, e, new in edits[number:upto]]
        made = _applied(text[low:high], inner)
        texts = split(made)
        shift = 0
        for edit in inner:
            where = edit.start + shift + _telling(edit.text)
            firsts.append(len(words) + _word_at(texts, made, where))
            shift += len(edit.text) - (edit.end - edit.start)
        new, shared = _placed(texts, heard[at:touched])
        words += new
        spread |= shared
        at, number = touched, upto
    return [*words, *heard[at:]], firsts, spread


def _placed(texts: Sequence[str], heard: Sequence[HeardWord]) -> tuple[list[HeardWord], bool]:
    """`texts` in the time of the words `heard` in their place, and whether they share it."""
    if len(texts) == len(heard):
        return [replace(w, text=text) for text, w in zip(texts, heard, strict=True)], False
    confidence = min((w.confidence for w in heard if w.confidence is not None), default=None)
    start = heard[0].start_ms if heard else None
    end = heard[-1].end_ms if heard else None
    if start is None or end is None:
        return [HeardWord(text=text, confidence=confidence) for text in texts], False
    shared = timed("", [HeardWord(text=text) for text in texts], Span(start, max(start, end)))
    return [
        HeardWord(text=text, start_ms=first, end_ms=last, confidence=confidence)
        for text, first, last in zip(texts, shared.start_ms, shared.end_ms, strict=True)
    ], len(texts) > 1


def _places(text: str, words: Sequence[str]) -> list[tuple[int, int]]:
    """Where in `text` each of its words stands, in order; nowhere (empty) where it does not."""
    places: list[tuple[int, int]] = []
    at = 0
    for word in words:
        while at < len(text) and text[at].isspace():
            at += 1
        if not text.startswith(word, at):
            break
        places.append((at, at + len(word)))
        at += len(word)
    else:
        return places
    # They do not spell the text: letters and digits tell, as far as they are there.
    folded, starts, ends = fold(text)
    telling = [number for number, each in enumerate(folded) if each.isalnum()]
    letters = "".join(folded[number] for number in telling)
    places = []
    at = 0
    for word in words:
        own = "".join(each for each in fold(word)[0] if each.isalnum())
        found = letters.find(own, at, at + len(own) + _REACH) if own else -1
        if found >= 0:
            last = found + len(own) - 1
            places.append((starts[telling[found]], ends[telling[last]]))
            at = last + 1
        else:
            where = ends[telling[at - 1]] if at else 0
            places.append((where, where))
    return places


def _telling(text: str) -> int:
    """Where its first letter or digit is; -1 where it has none."""
    return next((at for at, each in enumerate(text) if each.isalnum()), -1)


def _word_at(words: Sequence[str], text: str, where: int) -> int:
    """Which of the words that `text` was split into holds the character at `where`."""
    at = 0
    for number, word in enumerate(words):
        at = text.index(word, at) + len(word)
        if where < at:
            return number
    return max(0, len(words) - 1)
