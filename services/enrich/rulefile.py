"""Reads a YAML rule file so that every mistake is told with its file, line and what is allowed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import yaml

DEEPEST = 32


class RulesError(ValueError):
    """A rule file cannot be used. Reads `file:line: key: what is wrong, and what is allowed`."""


@dataclass(frozen=True, slots=True)
class Item:
    """A value in a rule file. Scalars are read as text, so that `no` and `off` stay words."""

    node: yaml.Node
    file: str
    key: str
    depth: int = 0

    def error(self, problem: str) -> RulesError:
        key = f"{self.key}: " if self.key else ""
        return RulesError(f"{self.file}:{self.node.start_mark.line + 1}: {key}{problem}")

    def _inner(self, node: yaml.Node, key: str) -> Item:
        if self.depth == DEEPEST:
            raise self.error(f"nested deeper than {DEEPEST}")
        return Item(node, self.file, key, self.depth + 1)

    def entries(self) -> dict[str, Item]:
        """Key -> value of a mapping; refuses a key that stands twice."""
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
        """As `entries`, refusing keys that are not named and missing ones that are required."""
        found = self.entries()
        for name, item in found.items():
            if name not in required and name not in optional:
                allowed = ", ".join([*required, *optional])
                raise item.error(f"is not known here; allowed are {allowed}")
        for name in required:
            if name not in found:
                raise self.error(f"lacks {name!r}")
        return found

    def items(self) -> list[Item]:
        """A list's values; a lone value is a list of one."""
        if isinstance(self.node, yaml.SequenceNode):
            return [self._inner(node, f"{self.key}[{i}]") for i, node in enumerate(self.node.value)]
        return [self]

    def text(self) -> str:
        if not isinstance(self.node, yaml.ScalarNode) or not self.node.value.strip():
            raise self.error("is no text; write one value")
        return str(self.node.value).strip()

    def texts(self) -> tuple[str, ...]:
        found = tuple(item.text() for item in self.items())
        if not found:
            raise self.error("is empty; write at least one")
        return found

    def choice(self, allowed: Collection[str]) -> str:
        if (found := self.text()) not in allowed:
            raise self.error(f"{found!r} is not allowed; allowed are {', '.join(sorted(allowed))}")
        return found

    def choices(self, allowed: Collection[str]) -> frozenset[str]:
        return frozenset(item.choice(allowed) for item in self.items())

    def number(self, low: float, high: float) -> float:
        text = self.text()
        try:
            value = float(text)
        except ValueError:
            raise self.error(f"{text!r} is no number") from None
        if not low <= value <= high:
            raise self.error(f"{text} is out of range; allowed is {low:g} to {high:g}")
        return value

    def integer(self, low: int, high: int) -> int:
        value = self.number(low, high)
        if value != int(value):
            raise self.error(f"{value:g} is no whole number")
        return int(value)


def read_rule_file(path: Path, name: str) -> Item:
    """The root of the YAML file at `path`, called `name` in errors. Raises RulesError."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError:
        raise RulesError(f"{name}:1: is not UTF-8; save it as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RulesError(f"{name}:{line}: is no YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise RulesError(f"{name}:1: is no YAML: {error}") from None
    except OSError as error:
        raise RulesError(f"{name}:1: cannot be read: {error.strerror}") from None
    if node is None:
        raise RulesError(f"{name}:1: is empty")
    return Item(node, name, "")
