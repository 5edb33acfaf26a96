"""The dashboard and the alert rules name what there is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.runtime.observe import METRICS, Observer

DEPLOY = Path(__file__).parent.parent / "deploy"


def dashboard() -> list[str]:
    panels = json.loads((DEPLOY / "dashboards" / "callstream.json").read_text("utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "alerts.yaml").read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    return dashboard() + [rule["expr"] for rule in alerts()]


def metric(named: str) -> str:
    """The metric whose series is called that: a histogram has three."""
    return named if named in METRICS else re.sub(r"_(bucket|sum|count)$", "", named)


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_names_metrics_and_labels_that_there_are(expression: str) -> None:
    labels = Observer().labels
    named = re.findall(r"\b(callstream_\w+)(?:\{([^}]*)\})?", expression)
    assert named
    known: set[str] = {"le"}
    for name, chosen in named:
        assert metric(name) in METRICS, name
        known |= set(labels[metric(name)])
        for label in re.findall(r"(\w+)\s*(?:=~|!=|=|!~)", chosen):
            assert label in labels[metric(name)], f"{name} has no label {label}"
    for grouped in re.findall(r"\b(?:by|on|without)\s*\(([^)]*)\)", expression):
        assert set(re.findall(r"\w+", grouped)) <= known, grouped
    assert expression.count("(") == expression.count(")")
    assert expression.count("{") == expression.count("}")


def test_counters_are_shown_as_rates_and_every_metric_is_shown() -> None:
    shown = {metric(name) for text in dashboard() for name in re.findall(r"callstream_\w+", text)}
    assert shown == set(METRICS)
    for text in expressions():
        for name in re.findall(r"(callstream_\w+_(?:total|sum|count|bucket))", text):
            assert re.search(rf"(?:rate|increase)\({name}(?:\{{[^}}]*\}})?\[\d+m\]\)", text), text


def test_the_dashboard_is_what_is_made() -> None:
    made = subprocess.run(
        [sys.executable, str(DEPLOY / "dashboards" / "make.py"), "--check"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr


def test_every_alert_says_what_to_do() -> None:
    rules = alerts()
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert {"summary", "action"} == set(rule["annotations"])
