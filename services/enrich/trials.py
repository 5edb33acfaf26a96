"""Rules that are tried in a replay before they are put into use."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from services.enrich.rules import Rules, load_rules
from services.runtime.errors import Invalid, NotYet
from services.runtime.yaml_file import FileError

# Sets of rules kept; one is some megabytes of matching tables.
_MOST_KEPT = 16
_MOST_NAMED = 20

_Files = tuple[tuple[str, int, int], ...]


class Trials:
    """The folders of rules under `trial_rules_dir`, each laid over the rules in `rules_dir`.

    Folders `tenants/<tenant_id>/` count in both. Thread-safe.
    """

    def __init__(self, rules_dir: Path | None, trial_rules_dir: Path | None) -> None:
        self._below, self._trials = rules_dir, trial_rules_dir
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Path, ...], tuple[_Files, Rules | str]] = OrderedDict()

    def rules(self, name: str, tenant_id: str) -> Rules:
        """The rules called `name`, for that tenant; read once, and anew when a file changes.

        Raises Invalid for a folder that is not there, and for a rule file that cannot be used,
        naming file and line; NotYet where the folder cannot be read now.
        """
        if self._trials is None:
            raise Invalid(
                "unknown_option",
                f"enrich cannot take option rules={name!r}: enrich.trial_rules_dir is not set",
            )
        try:
            named = _folders(self._trials)
            if name not in named:
                there = ", ".join(sorted(named)[:_MOST_NAMED]) or "nothing"
                raise Invalid(
                    "unknown_option",
                    f"enrich cannot take option rules={name!r}: {self._trials} holds {there}",
                )
            layers = (*_layers(self._below, tenant_id), *_layers(named[name], tenant_id))
            found = self._read(layers)
        except OSError as error:
            raise NotYet(
                "rules_unreadable", f"enrich.trial_rules_dir={str(self._trials)!r}: {error}"
            ) from error
        if isinstance(found, str):
            raise Invalid("bad_rules", f"rules={name!r}: {found}")
        return found

    def _read(self, layers: tuple[Path, ...]) -> Rules | str:
        """The rules of `layers`, or what is wrong with them."""
        with self._lock:
            files = _files(layers)
            kept = self._kept.get(layers)
            if kept is None or kept[0] != files:
                try:
                    kept = files, load_rules(*layers)
                except FileError as wrong:
                    kept = files, str(wrong)
            self._kept[layers] = kept
            self._kept.move_to_end(layers)
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
            return kept[1]


def _folders(folder: Path) -> dict[str, Path]:
    """Name -> folder of what is in `folder`: no name that comes from outside is made a path."""
    if not folder.is_dir():
        return {}
    return {path.name: path for path in folder.iterdir() if path.is_dir()}


def _layers(folder: Path | None, tenant_id: str) -> tuple[Path, ...]:
    if folder is None:
        return ()
    own = _folders(folder / "tenants").get(tenant_id)
    return (folder,) if own is None else (folder, own)


def _files(layers: tuple[Path, ...]) -> _Files:
    """What a change of a rule file changes."""
    return tuple(
        (str(path), (seen := path.stat()).st_mtime_ns, seen.st_size)
        for layer in layers
        for path in sorted(layer.rglob("*.yaml"))
    )
