"""CONTRIBUTING.md is true: what it names is there, and what it tells to type is known."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

from tests.import_graph import PACKAGES, ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
CODE = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", TEXT)]
CODE += [line.strip() for line in TEXT.splitlines() if line.startswith("    ")]
MADE = {".venv", "tests/slow.csv"}  # by the commands that are named
FORMS = ("NAME", "DIR")


def test_every_file_that_it_names_is_there() -> None:
    paths = [text for text in CODE if re.fullmatch(r"[\w.-]*/[\w./-]*|[\w-]+\.(md|py|csv)", text)]
    assert len(paths) > 20
    for path in paths:
        if path in MADE:
            continue
        form = next((word for word in FORMS if word in path), None)
        place = ROOT / (path.split(form)[0] if form else path)
        assert place.exists(), path


def test_it_names_every_package_and_example() -> None:
    for package in PACKAGES:
        assert f"`{package}/`" in TEXT or f"`{package}`" in TEXT
    for example in (ROOT / "examples" / "extending").glob("*.py"):
        assert f"examples/extending/{example.name}" in TEXT, f"{example.name} is in no row"


def test_every_command_that_it_names_is_known() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {text.split()[1] for text in CODE if text.startswith("make ")}
    assert {"setup", "lint", "test", "test-fast", "test-slow"} <= named <= targets
    for module in {found for text in CODE for found in re.findall(r"python -m ([\w.]+)", text)} - {
        "pip",
        "pytest",
    }:
        if "NAME" not in module:
            assert any(
                (ROOT / (module.replace(".", "/") + end)).is_file() for end in (".py", "/__main__.py")
            ), module


@pytest.mark.parametrize("target", ["test", "test-fast", "test-slow"])
def test_the_parts_of_the_tests_are_selected_by_marks_that_there_are(target: str) -> None:
    """make says what it would run; --strict-markers then refuses a mark that is declared nowhere."""
    outside = {
        key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", "ARGS"))
    }
    command = ["make", "--dry-run", "--old-file=.venv/.setup", target]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=outside)
    assert done.returncode == 0, done.stderr
    marks = set(re.findall(r"[a-z]+", " ".join(re.findall(r'-m "([^"]+)"', done.stdout)))) - {
        "not",
        "and",
        "or",
    }
    declared = re.findall(r'^    "(\w+): ', (ROOT / "pyproject.toml").read_text(), re.M)
    assert marks and marks <= set(declared), marks


def test_a_commit_is_checked_by_what_the_tests_use() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local", "nothing is fetched"
    entries = [hook["entry"] for hook in repository["hooks"]]
    assert all(entry.startswith(".venv/bin/") for entry in entries)
    assert {entry.split("/")[-1].split()[0] for entry in entries} == {"ruff", "mypy"}
    # The same arguments work on one file, from where a hook runs.
    ruff = next(entry for entry in entries if " check" in entry).split()[1:]
    done = subprocess.run([sys.executable, "-m", "ruff", *ruff, "tests/import_graph.py"], cwd=ROOT)
    assert done.returncode == 0


def test_files_that_are_marked_by_name_are_there() -> None:
    from tests.conftest import EMULATED, LONG

    names = {file.name for file in (ROOT / "tests").rglob("test_*.py")}
    assert names >= LONG, LONG - names
    for start in EMULATED:
        assert any(name.startswith(start) for name in names), start


def test_the_rooms_whose_coverage_is_shown_are_there() -> None:
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["coverage"]
    assert asked["run"]["branch"] and asked["report"]["fail_under"] >= 95
    for pattern in asked["run"]["include"]:
        assert list(ROOT.glob(pattern)), pattern
