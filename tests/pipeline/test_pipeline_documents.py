"""What docs/json.md and docs/troubleshooting.md say is what the commands print."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy_arm.boards.added import Calibration
from deploy_arm.fleet.boards import Checked
from foundation.command import main_guard
from pipeline.__main__ import COMMANDS, main
from pipeline.evaluate import Accuracy, Goodness, Precision
from pipeline.review.fronts import point
from pipeline.study.records import Figures, TrialRecord
from pipeline.study.settings import Settings
from pipeline.study.study import Study
from search_spaces.space import Space
from tests.pipeline.json_page import section

ROOT = Path(__file__).resolve().parents[2]
TROUBLES = (ROOT / "docs" / "troubleshooting.md").read_text()
PACKAGES = ("foundation", "search_spaces", "quantizers", "deploy_arm", "pipeline")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    with Study(folder, Space(("a", "b")), identity={}) as made:
        candidate = made.ask()
        assert candidate is not None
        figures = Figures(0.1, 1.0, 0.9, 1.1, "modelled", "emulated", 100)
        made.tell(candidate.number, TrialRecord(candidate.number, candidate.plan, "finished", figures))
        (folder / "candidates" / candidate.plan.hash).mkdir(parents=True)
    asked = Settings(out=folder.parent, name="one")
    (folder / "settings.yaml").write_text(yaml.safe_dump(asked.as_dict()))
    return folder


def printed(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    status = main_guard(lambda: main([*map(str, words), "--format", "json"]))
    told = capsys.readouterr()
    assert status == 0, told.err
    return json.loads(told.out)


def test_every_command_has_its_section() -> None:
    for name in COMMANDS.keys() - {"studies"}:
        assert section(name)


def test_a_point_and_an_accuracy_have_the_fields_that_are_told() -> None:
    assert set(point(Figures(None))) <= section("A point")
    assert {
        field.name
        for field in (
            *dataclasses.fields(Accuracy),
            *dataclasses.fields(Goodness),
            *dataclasses.fields(Precision),
        )
    } == section("evaluate")


def test_what_is_told_of_boards_is_what_is_known_of_them() -> None:
    told = {field.name for field in dataclasses.fields(Checked)} | {"cautions"}
    assert told == section("devices add, devices check") - {"add", "check"}
    assert {field.name for field in dataclasses.fields(Calibration)} == section("devices calibrate")


def test_a_sweep_that_is_only_looked_at_is_told_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "name: two\nsearches:\n- {model: vgg_tiny, data: digits, budget: 2, matrix: {seed: [0, 1]}}\n"
    )
    asked = printed(capsys, "sweep", file, "--dry-run")
    assert set(asked) | set(asked["searches"][0]) <= section("sweep")
    assert [one["config"]["seed"] for one in asked["searches"]] == [0, 1]
    assert not any(one["complete"] for one in asked["searches"]) and not Path(asked["folder"]).exists()


def test_what_studies_prints_is_what_is_told(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [place] = (study / "candidates").iterdir()
    listed = printed(capsys, "studies", "list", "--out", study.parent)
    shown = printed(capsys, "studies", "show", study)
    assert set(listed) | {"name", "folder", "state", "why", "disk_bytes"} == section("studies list")
    assert set(shown) | {"running", "complete", "resumable", "decision", "by", "when", "note"} == section(
        "studies show"
    )
    assert set(listed["studies"][0]) < set(shown)
    front = set(shown["front"])
    assert front | {"hash", "why"} == section("A front")
    compared = printed(capsys, "studies", "compare", study, "--picture", tmp_path / "fronts.html")
    assert set(compared) | (set(compared["studies"][0]) - front) == section("studies compare")
    decided = printed(capsys, "studies", "decide", study, place.name, "keep", "--no-mlflow")
    assert set(decided) | {"told"} == section("studies decide")
    assert set(printed(capsys, "studies", "stop", study)) == section("studies stop")
    assert set(printed(capsys, "studies", "clone", study, tmp_path / "copy")) == section("studies clone")
    pruned = printed(capsys, "studies", "prune", study)
    assert set(pruned) | set(pruned["studies"][0]) == section("studies prune")
    assert set(printed(capsys, "studies", "delete", tmp_path / "copy", "--yes")) == section("studies delete")


def test_what_the_short_commands_print_is_what_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    tools = printed(capsys, "toolchain")
    assert set(tools) | set(next(iter(tools["routes"].values()))) == section("toolchain")
    for device in printed(capsys, "devices"):
        assert set(device) <= section("devices")


def test_every_message_of_the_page_is_one_of_the_program() -> None:
    source = " ".join(
        file.read_text() for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))
    )
    pieces = re.sub(r'"\s*(f?)"', "", source)  # a message may go on in the next line
    rows = [
        line.split("|")[1]
        for line in TROUBLES.splitlines()
        if line.startswith("| ") and "message" not in line.split("|")[1]
    ]
    assert len(rows) > 25
    for row in rows:
        fragments = re.findall(r"`([^`]+)`", row)
        assert fragments
        for fragment in fragments:
            assert fragment in pieces, f"nothing says {fragment!r}"
