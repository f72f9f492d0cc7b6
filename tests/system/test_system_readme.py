"""The README is true: every command it names exists and takes the flags it shows."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def commands() -> dict[str, set[str]]:
    """Module to the flags that the README shows on its line."""
    found: dict[str, set[str]] = defaultdict(set)
    for line in README.splitlines():
        modules = re.findall(r"python -m ((?:pipeline|deploy_arm|benchmarks)\.[a-z_]+)", line)
        for module in modules:
            found[module] |= (
                set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", line)) if len(modules) == 1 else set()
            )
    return dict(found)


@pytest.mark.parametrize("module", sorted(commands()))
def test_every_command_and_flag_exists(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for flag in commands()[module]:
        assert re.search(rf"{flag}\b", done.stdout), f"{module} has no {flag}"


def test_the_main_commands_are_shown() -> None:
    assert {"pipeline.search", "pipeline.evaluate", "pipeline.promote", "pipeline.train"} <= set(commands())
    assert "make search" in README and "make test" in README


def test_pictures_and_folders_exist() -> None:
    for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / target).is_file(), target
    for folder in re.findall(r"`([a-z_]+/)`", README):
        assert (ROOT / folder).is_dir() or folder in ("train/", "val/"), folder
