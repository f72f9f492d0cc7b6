"""The pages of docs/: they are there, what they link to is there, and the commands and flags that they name exist."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

from foundation.command import parser_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
NAMED = (
    "search",
    "quantize",
    "quantizers",
    "arm",
    "cluster",
    "sweep",
    "promotion",
    "extending",
    "troubleshooting",
    "comparison",
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?:python -m pipeline\.|\bdgms )([a-z]+)((?: [^`\n|;]*)?)")


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", NAMED)
def test_a_page_is_there_for_each_part(name: str) -> None:
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith("# ") and len(text) > 800


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    """Its flags, and those of its own commands."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                found |= flags_of(one)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_and_flag_of_a_page_exists(page: Path) -> None:
    for name, rest in COMMAND.findall(page.read_text(encoding="utf-8")):
        module = ROOT / "pipeline" / name
        if not (module.is_dir() or module.with_suffix(".py").is_file()):
            assert name in ("toolchain", "completion"), f"{page.name}: there is no {name}"
            continue
        package = f"pipeline.{name}" + (".__main__" if module.is_dir() else "")
        known = flags_of(parser_of(importlib.import_module(package).main))
        try:
            words = shlex.split(rest, comments=True)
        except ValueError:  # a sentence with an apostrophe
            words = rest.split()
        for word in words:
            flag = word.partition("=")[0].rstrip(".,)")
            assert not flag.startswith("--") or flag in known, f"{page.name}: {name} has no {flag}"
