"""The commands that the README shows, and how a test may run each of them briefly."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()

SEARCH = "--budget 1 --epochs-per-trial 0.05 --rungs 1 --max-concurrent 1 --bits 2,8"
BRIEF = {
    "pipeline.search": SEARCH,
    "pipeline.evaluate": "--limit 20",
    "pipeline.promote": "--limit 20 --allow-modelled --max-accuracy-drop 100",
    "pipeline.train": "--epochs 0.05",
    "pipeline.sweep": "--dry-run",
    "pipeline.quantize": "--images 32",
    "pipeline.sensitivity": "--images 16",
    "pipeline.devices": "",
    "pipeline.check": "--seconds 1",
    "pipeline.export": "--out runs/exported.safetensors",
    "pipeline.report": "",
    "pipeline.studies": "",
    "deploy_arm.toolchain": "",
}
"""Flags that make a command short, by module. A command of another module fails its test until it has an entry here."""

LARGE = re.compile(r"resnet(18|34|50|101|152)\b")  # too slow to train or to emulate in a test
LONG = re.compile(
    r"benchmarks\.|deploy_arm\.fit_costs"
)  # tables that take minutes to days; their flags are tested
NOT_RUN = ("make test",)  # this very suite


def shown(readme: str = README) -> list[str]:
    """Every command in the README, as it stands there: indented lines and code within lines, once each."""
    code = [line.strip() for line in readme.splitlines() if line.startswith("    ")]
    code += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", readme)]
    found = [text for text in code if re.match(r"((\S*/)?python -m |make )", text)]
    return list(dict.fromkeys(found))


ELSEWHERE = {
    "detection": ("system/test_system_detection.py", "pipeline/test_pipeline_quantize.py"),
    "devices": ("system/test_system_boards.py", "deploy_arm/test_profile_native.py"),
}
"""Pages whose commands need a detector or a board, and the files whose tests type them."""


def of_pages() -> list[str]:
    """Every command of the project that stands on a line of its own in a page of docs/ that is not in ``ELSEWHERE``."""
    pages = [page for page in sorted((ROOT / "docs").glob("*.md")) if page.stem not in ELSEWHERE]
    lines = [line for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    return [line.strip() for line in lines if re.match(r"    (dgms|python -m) ", line)]


def module_of(command: str) -> str | None:
    """The module that a command runs; None for make."""
    found = re.search(r"python -m (\S+)", command)
    return found[1] if found else None


def to_run() -> list[str]:
    """The commands that train, evaluate, promote or list."""
    return [c for c in shown() if c not in NOT_RUN and not LONG.match(module_of(c) or "")]


def brief(command: str, *more: str) -> str:
    """The command with what makes it short, and ``more``, after its own flags.

    Raises:
        KeyError: nobody has said how this command is made short.
    """
    module = module_of(command)
    if module is not None:
        flags = "--dry-run --image-size 32" if LARGE.search(command) else BRIEF[module]
        return " ".join((command, flags, *more))
    given = next((word for word in shlex.split(command) if word.startswith("ARGS=")), "ARGS=")
    flags = "--dry-run --image-size 32" if LARGE.search(command) else BRIEF[f"pipeline.{command.split()[1]}"]
    words = [word for word in shlex.split(command) if not word.startswith("ARGS=")]
    # The environment of the tests is set up already.
    arguments = " ".join((given, flags, *more))
    return shlex.join([words[0], "--old-file=.venv/.setup", *words[1:], arguments])


def filled(command: str, values: dict[str, str]) -> str:
    """The command with its words in capitals replaced.

    Raises:
        KeyError: the README uses a word that is not among ``values``.
    """
    return re.sub(r"(?<![\w.-])[A-Z]{2,}(?![\w.=-])", lambda match: shlex.quote(values[match[0]]), command)


def file_names(section: str) -> list[str]:
    """The files and folders named in a section of the README, as they are written there."""
    text = README.split(f"## {section}\n")[1].split("\n## ")[0]
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    return [span for span in spans if re.fullmatch(r"[\w./-]+", span) and re.search(r"[./]|^program$", span)]


def links() -> list[str]:
    """The places in the repository that the README links to."""
    return [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
