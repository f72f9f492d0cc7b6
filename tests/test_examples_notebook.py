"""The notebook says what its cells print, in a folder that a person starts it in."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "examples" / "notebook.ipynb"


def cells() -> list[dict[str, Any]]:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    return list(content["cells"])


def test_every_cell_prints_what_stands_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a copy, so that nothing but what lies beside the notebook is needed, and nothing is left there."""
    shutil.copytree(ROOT / "examples" / "recorded", tmp_path / "recorded")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"__name__": "__main__"}
    codes = [cell for cell in cells() if cell["cell_type"] == "code"]
    assert len(codes) >= 4
    for number, cell in enumerate(codes, start=1):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), scope)
        assert said.getvalue() == "".join(text for one in cell["outputs"] for text in one["text"]), number
    assert sorted(tmp_path.rglob("*")) == before


def test_it_is_text_that_a_person_reads() -> None:
    texts = ["".join(cell["source"]) for cell in cells() if cell["cell_type"] == "markdown"]
    assert texts and texts[0].startswith("# ")
