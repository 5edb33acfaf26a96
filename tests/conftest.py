"""Slow files go first, so that no worker is left alone with one; the last line of a run says which
real servers were missing, and why."""

from __future__ import annotations

import pytest

_absent = pytest.StashKey[set[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_absent] = set()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = terminalreporter.config.stash[_absent]
    for report in terminalreporter.stats.get("skipped", []):
        if isinstance(report.longrepr, tuple):
            reasons.add(report.longrepr[2].removeprefix("Skipped: "))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    reasons = config.stash.get(_absent, set())
    if reasons and not hasattr(config, "workerinput"):
        print(f"NOT TESTED HERE: {'; '.join(sorted(reasons))}")
