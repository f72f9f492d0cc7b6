"""A run of a few tests changes their rows of the kept tables and leaves the others."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.kept import is_there, keep_rows

pytest_plugins = ["pytester"]
HEAD = ("test", "outcome", "seconds")
TESTS = """
import pytest

@pytest.mark.parametrize("n", [1, 2])
def test_numbers(n):
    assert n == {n}

def test_of_a_fault(fault):
    fault("the 2 of {n}", "all, and more")
    assert {n} < 3
"""


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_a_row_is_replaced_added_left_or_goes_with_its_test(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text("def test_one() -> None: ...\ndef test_two(n): ...\n")
    path = tmp_path / "slow.csv"
    keep_rows(
        path, HEAD, [("test_a.py::test_two[x,y]", "passed", 1.0)], ["test_a.py::test_two[x,y]"], tmp_path
    )
    keep_rows(path, HEAD, [("test_a.py::test_one", "failed", 2.5)], ["test_a.py::test_one"], tmp_path)
    assert rows(path) == [
        [*HEAD],
        ["test_a.py::test_one", "failed", "2.5"],
        ["test_a.py::test_two[x,y]", "passed", "1.0"],
    ]
    (tmp_path / "test_a.py").write_text("def test_one_more() -> None: ...\ndef test_two(n): ...\n")
    keep_rows(path, HEAD, [], [], tmp_path)
    assert rows(path) == [[*HEAD], ["test_a.py::test_two[x,y]", "passed", "1.0"]]
    faults = ("fault", "found", "test")  # what was done is worded otherwise now: no two rows of one test
    path = tmp_path / "faults.csv"
    for done in ("3 kills", "2 kills"):
        keep_rows(
            path, faults, [(done, "all", "test_a.py::test_two[1]")], ["test_a.py::test_two[1]"], tmp_path
        )
    assert rows(path)[1:] == [["2 kills", "all", "test_a.py::test_two[1]"]]
    assert not is_there("test_b.py::test_two", tmp_path)


def test_a_run_keeps_its_outcomes_and_its_faults(pytester: pytest.Pytester) -> None:
    """As `make test-slow` gives the options: all of the tests, then one; what fails has no row among the faults."""
    folder = pytester.path

    def run(*words: str) -> None:
        options = ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov", "-p", "tests.conftest"]
        pytester.runpytest_inprocess(*options, "--outcomes", "slow.csv", "--faults", "faults.csv", *words)

    pytester.makepyfile(test_some=TESTS.format(n=1))
    run()
    assert [row[:2] for row in rows(folder / "slow.csv")[1:]] == [
        ["test_some.py::test_numbers[1]", "passed"],
        ["test_some.py::test_numbers[2]", "failed"],
        ["test_some.py::test_of_a_fault", "passed"],
    ]
    assert rows(folder / "faults.csv")[1:] == [
        ["the 2 of 1", "all, and more", "nothing", "test_some.py::test_of_a_fault"]
    ]
    pytester.makepyfile(test_some=TESTS.format(n=3))
    run("test_some.py::test_of_a_fault")
    assert rows(folder / "faults.csv")[1:] == []
    assert [row[1] for row in rows(folder / "slow.csv")[1:]] == ["passed", "failed", "failed"]
