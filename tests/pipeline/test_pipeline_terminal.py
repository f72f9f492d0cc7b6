"""What a terminal is shown: colours only where they are wanted, and nothing but the result where that is asked for."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A live line, as long commands show one, and a step of training.
SHOWN = """
import time
from pipeline.review.progress import Progress, StepLine
with Progress(3) as progress:
    progress.status("looking")
    progress.line("a line that stays [red]as it is[/red]")
    time.sleep(0.3)
StepLine()(3, 3, 0.5)
"""
COLOUR = re.compile(
    rb"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9\d|10[0-7])(?:;\d+)*m"
)  # ECMA-48, Select Graphic Rendition


def on_a_terminal(script: str, **environment: str) -> bytes:
    """What a program writes to a terminal as its standard error."""
    terminal, end = pty.openpty()
    given = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    process = subprocess.Popen([sys.executable, "-c", script], stderr=end, stdout=end, cwd=ROOT,
                               env={**given, "TERM": "xterm-256color", **environment})  # fmt: skip
    os.close(end)
    seen = b""
    while True:
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # Linux says so that nobody writes any more
            break
        if not part:
            break
        seen += part
    os.close(terminal)
    assert process.wait(timeout=60) == 0, seen.decode(errors="replace")
    return seen


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True)]
)
def test_no_color_is_respected(environment: dict[str, str], *, coloured: bool) -> None:
    """https://no-color.org: where NO_COLOR is there and not empty, no colour is added; all the rest is shown."""
    seen = on_a_terminal(SHOWN, **environment)
    assert bool(COLOUR.search(seen)) == coloured
    assert b"looking" in seen and b"[red]as it is[/red]" in seen and b"step 3/3" in seen


def test_no_source_writes_colours_by_itself() -> None:
    """So that there is one who decides, which asks NO_COLOR."""
    for package in ("foundation", "pipeline", "search_spaces", "quantizers", "deploy_arm"):
        for path in (ROOT / package).rglob("*"):
            if path.suffix in (".py", ".c", ".h") and "\\x1b[" in path.read_text().replace(
                "\\033[", "\\x1b["
            ):
                pytest.fail(f"{path.relative_to(ROOT)} writes escape sequences")
