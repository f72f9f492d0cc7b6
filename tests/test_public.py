"""The packages as libraries: what a person imports of them, and the examples in their docstrings."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("deploy_arm", "quantizers", "search_spaces")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_example_does_what_it_says(package: str) -> None:
    outcome = doctest.testmod(importlib.import_module(package))
    assert outcome.failed == 0 and 8 <= outcome.attempted <= 16


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there_and_nothing_is_loaded_before_it_is_asked_for(package: str) -> None:
    code = (
        f"import sys, {package} as it\n"
        "assert not {'torch', 'numpy', 'ray', 'optuna'} & sys.modules.keys()\n"
        "assert len(set(it.__all__)) == len(it.__all__)\n"
        "missing = [name for name in it.__all__ if getattr(it, name) is None]\n"
        "assert not missing and not hasattr(it, 'no_such_name')\n"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
