"""Commands as a person types them in a folder of theirs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def command(name: str, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """What ``python -m pipeline.NAME`` does there, with these words as text."""
    return subprocess.run(
        [sys.executable, "-m", f"pipeline.{name}", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=900,
    )
