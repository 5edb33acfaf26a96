"""Rules that a replay tries, and what it leaves undone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from schemas.events import AlertRaised, CallEnriched
from services.enrich.handler import stage
from services.enrich.rules import Rules, load_rules, load_tenant_rules
from services.enrich.settings import OPTIONS, EnrichSettings
from services.runtime.errors import Invalid
from services.runtime.log import Message
from services.runtime.stage import Envelope
from tests.enrich.calls import call, segment

NOW = datetime(2026, 3, 2, tzinfo=UTC)
PARKING = """\
version: "{version}"
languages: [en]
classes:
  - id: {label}
    kind: topic
    title: Parking
    phrases: [parking]
"""


class World:
    """Rules in use and rules to try, and the stage that knows both."""

    def __init__(self, folder: Path) -> None:
        self.live, self.trials = folder / "live", folder / "trials"
        self.lexicon(self.live, "street", "1.0")
        self.trials.mkdir()
        self.clock = 1_700_000_000

    def lexicon(self, folder: Path, label: str, version: str, name: str = "parking") -> Path:
        file = folder / "lexicons" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(PARKING.format(label=label, version=version))
        return file

    def touch(self, file: Path) -> None:
        """A change of the file's time that no clock is too coarse for."""
        self.clock += 10
        os.utime(file, (self.clock, self.clock))

    def made(self, trials: bool = True) -> None:
        settings = EnrichSettings(
            rules_dir=self.live, trial_rules_dir=self.trials if trials else None
        )
        rules, tenants = load_tenant_rules(self.live)
        self.stage = stage(settings, rules, lambda: NOW, tenants)

    def handled(
        self,
        options: Mapping[str, str],
        said: str = "where is parking",
        side_effects: bool = True,
    ) -> tuple[CallEnriched, list[AlertRaised]]:
        event = call(segment("c", 0, 1000, said))
        message = Message("calls.replay", 0, 0, b"t/c", b"", (), 0)
        envelope = Envelope(
            event, message, "event-1", 1, options=options, side_effects=side_effects
        )
        ((_, outcome),) = self.stage.handle([envelope])
        if isinstance(outcome, Exception):
            raise outcome
        enriched, *alerts = (output.event for output in outcome)
        return enriched, alerts

    def topics(self, options: Mapping[str, str]) -> set[str]:
        return {finding.label for finding in self.handled(options)[0].findings}


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.made()
    return world


def test_rules_to_try_are_laid_over_those_in_use(world: World) -> None:
    world.lexicon(world.trials / "spring", "garage", "2.0")
    assert world.topics({}) == {"street"}
    enriched, _ = world.handled({"rules": "spring"})
    assert {finding.label for finding in enriched.findings} == {"garage"}
    assert enriched.rules_version == load_rules(world.live, world.trials / "spring").version
    assert world.handled({})[0].rules_version == load_rules(world.live).version


def test_rules_to_try_may_be_one_tenants(world: World) -> None:
    world.lexicon(world.trials / "spring", "garage", "2.0")
    world.lexicon(world.trials / "spring" / "tenants" / "local", "lot", "3.0")
    assert world.topics({"rules": "spring"}) == {"lot"}
    world.lexicon(world.live / "tenants" / "local", "yard", "4.0", name="more")
    world.lexicon(world.trials / "summer", "garage", "2.0")
    assert world.topics({"rules": "summer"}) == {"garage", "yard"}


def test_a_changed_file_is_read_anew_and_an_unchanged_one_is_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = world.lexicon(world.trials / "spring", "garage", "2.0")
    read: list[tuple[Path, ...]] = []

    def counted(*folders: Path) -> Rules:
        read.append(folders)
        return load_rules(*folders)

    monkeypatch.setattr("services.enrich.trials.load_rules", counted)
    for _ in range(3):
        assert world.topics({"rules": "spring"}) == {"garage"}
    assert len(read) == 1
    world.lexicon(world.trials / "spring", "lot", "2.1")
    world.touch(file)
    assert world.topics({"rules": "spring"}) == {"lot"}
    file.unlink()
    assert world.topics({"rules": "spring"}) == {"street"}
    assert len(read) == 3


def test_a_broken_rule_file_is_named_with_its_line_until_it_is_mended(world: World) -> None:
    file = world.lexicon(world.trials / "spring", "garage", "two")
    for _ in range(2):
        told = r"bad_rules: rules='spring': lexicons/parking\.yaml:1: version: 'two'"
        with pytest.raises(Invalid, match=told):
            world.handled({"rules": "spring"})
    world.lexicon(world.trials / "spring", "garage", "2.0")
    world.touch(file)
    assert world.topics({"rules": "spring"}) == {"garage"}


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "../live", "a/b", "a\\b", "a\0", "spring\n", "é", "x" * 200]
)
def test_a_name_is_no_path(world: World, name: str) -> None:
    (world.trials / ".hidden").mkdir()
    with pytest.raises(Invalid, match=r"unknown_option: enrich cannot take option rules="):
        world.handled({"rules": name})


def test_rules_that_are_not_there_are_refused_with_those_that_are(world: World) -> None:
    world.lexicon(world.trials / "spring", "garage", "2.0")
    (world.trials / "notes").write_text("a file")
    with pytest.raises(Invalid, match=r"rules='notes': .* holds spring$"):
        world.handled({"rules": "notes"})
    world.made(trials=False)
    with pytest.raises(Invalid, match=r"enrich\.trial_rules_dir is not set"):
        world.handled({"rules": "spring"})


def test_a_prompt_is_refused_for_now(world: World) -> None:
    with pytest.raises(Invalid, match=r"enrich knows no option 'prompt'; it knows rules"):
        world.handled({"prompt": "p"})
    assert world.stage.options == tuple(OPTIONS) == ("rules",)


def test_without_side_effects_alerts_are_named_and_not_raised(world: World) -> None:
    loud, raised = world.handled({}, "I will call my lawyer")
    quiet, none = world.handled({}, "I will call my lawyer", side_effects=False)
    assert [alert.rule for alert in raised] == loud.alerts == ["complaint_threat"]
    assert none == []
    assert quiet == loud
