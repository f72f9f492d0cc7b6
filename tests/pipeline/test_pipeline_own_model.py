"""The example of a network and a data set of one's own does what its README says, mistakes and all."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from foundation.command import main_guard
from pipeline.__main__ import main
from tests.conformance.datasets import DataConformance
from tests.conformance.models import ModelConformance

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "own_model"
README = (FOLDER / "README.md").read_text()
MISTAKES = re.findall(r"^\| `dgms (.*)` \| (.*) \|$", README, re.MULTILINE)


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.mark.parametrize("model", ["shape_network:shape_net"])
class TestShapeNet(ModelConformance):
    """The network."""


@pytest.mark.parametrize("spec", ["shape_images:shapes"])
class TestShapes(DataConformance):
    """The images."""


def typed(line: str, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str]:
    status = main_guard(lambda: main([*shlex.split(line), *more]))
    told = capsys.readouterr()
    assert "Traceback" not in told.err, told.err
    return status, told.out + told.err


def test_there_are_mistakes_to_try() -> None:
    assert len(MISTAKES) == README.count("| `dgms ")


@pytest.mark.parametrize(("line", "said"), MISTAKES)
def test_each_mistake_is_told_as_the_readme_says(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(FOLDER.iterdir())
    status, told = typed(line, capsys)
    assert status == (1 if line.startswith("check") else 2) and said in told
    assert sorted(FOLDER.iterdir()) == before


CHECK, QUANTIZE, SEARCH = re.findall(r"^    dgms (.*)$", README, re.MULTILINE)


def test_what_is_typed_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, told = typed(CHECK, capsys)
    assert status == 0 and told.rstrip().splitlines()[-2] == "ready"
    monkeypatch.chdir(tmp_path)
    status, told = typed(SEARCH, capsys, "--dry-run", "--modules", str(FOLDER))
    assert status == 0 and "6 trials" in told and "nothing was trained" in told


@pytest.mark.slow
def test_the_network_is_compressed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out"), "--format", "json"]
    status, told = typed(QUANTIZE, capsys, *out, "--quiet")
    found = json.loads(told)
    [point], fp32 = found["points"], found["references"][0]
    assert status == 0 and fp32["error"] < 0.1 and point["error"] <= fp32["error"] + 0.1
    assert point["size_bytes"] < fp32["size_bytes"] / 3
