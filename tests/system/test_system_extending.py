"""A dimension of someone else's, in one file, searched by the command as typed; nothing of the project is edited."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from foundation.factories import look_in
from pipeline.candidate.folder import load_candidate
from tests.system.own_folder import command

EXTENDING = Path(__file__).resolve().parents[2] / "examples" / "extending"
KEPT = "kept_inputs:KeptInputs"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trials that keep half of the input channels, from another folder, by a relative path."""
    place = tmp_path_factory.mktemp("elsewhere")
    (place / "mine").symlink_to(EXTENDING)
    done = command(
        "search", "--model", "resnet8", "--data", "digits", "--budget", 1, "--epochs-per-trial", 0.1, "--rungs", 1,
        "--bits", "4,8", "--max-concurrent", 1, "--modules", "mine", "--dimensions", f"{KEPT}=0.5", "zero_share=natural",
        "--name", "kept", "--out", "runs",
        cwd=place,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return place / "runs" / "kept"


def test_what_the_dimension_says_is_in_plan_weights_report_and_program(study: Path) -> None:
    look_in(EXTENDING)
    (folder,) = (study / "candidates").iterdir()
    candidate = load_candidate(folder)
    plan = json.loads((folder / "plan.json").read_text())
    books = candidate.hardened().codebooks
    asked = {name for name, layer in plan["layers"].items() if layer.get(KEPT) == 0.5}
    assert asked == set(books) - {next(iter(books))}  # all but the first
    for name, book in books.items():
        heavy = np.abs(book.integers.reshape(*book.indices.shape[:2], -1)).sum(axis=(0, 2))
        assert (heavy == 0).sum() == (len(heavy) // 2 if name in asked else 0), name
    page = (study / "report.html").read_text()
    assert '"title":"Inputs"' in page.replace(" ", "") and '"50 %"' in page.replace('\\"', '"')


def test_the_study_goes_on_by_its_name_alone_and_its_candidate_is_evaluated(
    study: Path, tmp_path: Path
) -> None:
    """Plans with the dimension are read in every process: the driver's, the trials', the commands'."""
    again = command("search", "--name", "kept", "--out", study.parent, "--budget", 2, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    candidates = sorted((study / "candidates").iterdir())
    assert len(candidates) == 2
    words = (candidates[0], "--limit", 20)
    without = command("evaluate", *words, cwd=tmp_path)
    assert without.returncode == 2 and "no module 'kept_inputs'" in without.stderr
    judged = command("evaluate", *words, "--modules", EXTENDING, cwd=tmp_path)
    assert judged.returncode == 0, judged.stderr
