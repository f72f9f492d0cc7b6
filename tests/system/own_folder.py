"""Commands as a person types them in a folder of theirs."""

from __future__ import annotations

import contextlib
import importlib
import io
import subprocess
import sys
from pathlib import Path

from foundation.command import main_guard

Done = subprocess.CompletedProcess[str]


def command(name: str, *words: object, cwd: Path) -> Done:
    """What ``python -m pipeline.NAME`` does there, with these words as text."""
    return subprocess.run(
        [sys.executable, "-m", f"pipeline.{name}", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=900,
    )


def command_here(name: str, *words: object, cwd: Path) -> Done:
    """The same without a process of its own, which takes seconds to load PyTorch; what it imports stays imported."""
    main = importlib.import_module(f"pipeline.{name}").main
    output, errors, path = io.StringIO(), io.StringIO(), [*sys.path]
    with contextlib.chdir(cwd), contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        sys.path.insert(0, str(cwd))
        try:
            status = main_guard(lambda: int(main([*map(str, words)])))
        finally:
            sys.path[:] = path
    return subprocess.CompletedProcess(words, status, output.getvalue(), errors.getvalue())


def said(process: subprocess.Popen[str], word: str) -> list[str]:
    """The lines of standard error up to one that holds ``word``."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if word in line:
            return lines
    raise AssertionError(f"{word!r} was not said: {''.join(lines)}")
