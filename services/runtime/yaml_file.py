"""Reads a YAML file that people write, so that every mistake is told with file, line and mend."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import yaml

DEEPEST = 32
MOST_BYTES = 16 * 1024 * 1024
# PyYAML has its five times faster parser where libyaml came with it, as in its wheels.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class FileError(ValueError):
    """A file cannot be used. Each of `mistakes`, and each line, reads `file:line: key: what is
    wrong, and what is allowed`.
    """

    def __init__(self, *mistakes: str) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


def nearest(word: str, allowed: Collection[str]) -> str:
    """What `word` may have been meant to be, as the begin of a mend; empty where nothing is.

    Upper and lower case are the same here.
    """
    folded = {each.casefold(): each for each in sorted(allowed)}
    near = difflib.get_close_matches(word.casefold(), folded, 1)
    return f"did you mean {folded[near[0]]}? " if near else ""


@dataclass(frozen=True, slots=True)
class Item:
    """A value in a file. Scalars are read as text, so that `no` and `off` stay words."""

    node: yaml.Node
    file: str
    key: str
    depth: int = 0

    @property
    def where(self) -> str:
        """The file and the line, counted from 1."""
        return f"{self.file}:{self.node.start_mark.line + 1}"

    def error(self, problem: str) -> FileError:
        """The error to raise about this value."""
        return FileError(f"{self.where}: {self.key}: {problem}" if self.key else
                         f"{self.where}: {problem}")  # fmt: skip

    def _inner(self, node: yaml.Node, key: str) -> Item:
        # An alias may hold itself, which no limit on the text's own depth finds.
        if self.depth == DEEPEST:
            raise self.error(f"nested deeper than {DEEPEST}")
        return Item(node, self.file, key, self.depth + 1)

    def entries(self) -> dict[str, Item]:
        """Key -> value of a mapping. Raises FileError for another value, or a key twice."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error("is no mapping; write `key: value` lines")
        found: dict[str, Item] = {}
        for key, value in self.node.value:
            name = str(key.value)
            item = self._inner(value, f"{self.key}.{name}" if self.key else name)
            if name in found:
                raise item.error("stands twice")
            found[name] = item
        return found

    def fields(self, required: Collection[str], optional: Collection[str] = ()) -> dict[str, Item]:
        """As `entries`; raises FileError for keys not named, too, and required ones missing: for
        all of them at once.
        """
        found = self.entries()
        allowed = [*required, *optional]
        wrong = [
            item.error(
                f"is not known here; {nearest(name, allowed)}allowed are {', '.join(allowed)}"
            )
            for name, item in found.items()
            if name not in allowed
        ]
        if lacks := [repr(name) for name in required if name not in found]:
            wrong.append(self.error(f"lacks {', '.join(lacks)}"))
        if wrong:
            raise FileError(*(text for each in wrong for text in each.mistakes))
        return found

    def items(self) -> list[Item]:
        """A list's values; a lone value is a list of one."""
        if isinstance(self.node, yaml.SequenceNode):
            return [self._inner(node, f"{self.key}[{i}]") for i, node in enumerate(self.node.value)]
        return [self]

    def listed(self) -> list[Item]:
        """A list's values. Raises FileError for another value, a lone one too."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error("is no list; write entries that begin with `- `")
        return self.items()

    def text(self) -> str:
        """The value without outer spaces. Raises FileError where it is empty or no scalar."""
        if not isinstance(self.node, yaml.ScalarNode) or not self.node.value.strip():
            raise self.error("is no text; write one value")
        return str(self.node.value).strip()

    def texts(self) -> tuple[str, ...]:
        """A list's texts, or one. Raises FileError where there is none."""
        found = tuple(item.text() for item in self.items())
        if not found:
            raise self.error("is empty; write at least one")
        return found

    def choice(self, allowed: Collection[str]) -> str:
        """The text, which is one of `allowed`. Raises FileError where it is not."""
        if (found := self.text()) not in allowed:
            raise self.error(
                f"{found!r} is not allowed; {nearest(found, allowed)}allowed are "
                f"{', '.join(sorted(allowed))}"
            )
        return found

    def choices(self, allowed: Collection[str]) -> frozenset[str]:
        """A list's texts, or one, each as `choice`."""
        return frozenset(item.choice(allowed) for item in self.items())

    def number(self, low: float, high: float) -> float:
        """A number from `low` to `high`. Raises FileError for anything else."""
        text = self.text()
        try:
            value = float(text)
        except ValueError:
            raise self.error(f"{text!r} is no number") from None
        if not low <= value <= high:
            raise self.error(f"{text} is out of range; allowed is {low:g} to {high:g}")
        return value

    def integer(self, low: int, high: int) -> int:
        """As `number`, and whole."""
        value = self.number(low, high)
        if value != int(value):
            raise self.error(f"{value:g} is no whole number")
        return int(value)


def read_yaml(path: Path, name: str) -> Item:
    """The root of the YAML file at `path`, called `name` in errors.

    Raises FileError where it cannot be read, is no YAML, has more than MOST_BYTES or is nested
    deeper than DEEPEST. What it holds is not constructed: a file makes no objects.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise FileError(f"{name}:1: has more than {MOST_BYTES:,} bytes; part it")
        text = path.read_text(encoding="utf-8")
        _check_depth(text, name)
        node = yaml.compose(text, Loader=_LOADER)
    except UnicodeDecodeError:
        raise FileError(f"{name}:1: is not UTF-8; save it as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise FileError(f"{name}:{line}: is no YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise FileError(f"{name}:1: is no YAML: {error}") from None
    except OSError as error:
        raise FileError(f"{name}:1: cannot be read: {error.strerror}") from None
    if node is None:
        raise FileError(f"{name}:1: is empty")
    return Item(node, name, "")


def _check_depth(text: str, name: str) -> None:
    """Before nodes are made of it, which recurses, in libyaml's case to the end of the stack."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                line = event.start_mark.line if event.start_mark else 0
                raise FileError(f"{name}:{line + 1}: is nested deeper than {DEEPEST}")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
