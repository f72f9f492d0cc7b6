"""`python -m pipeline.report`: the page of a study, made anew from its folder alone; with ``--watch`` while the search runs.

Or that of the one network that ``pipeline.quantize`` made.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from foundation.command import DONE, Parser, main_guard, say
from foundation.errors import UserError

if TYPE_CHECKING:
    from pipeline.report.data import ReportData

PAGE = "report.html"
PAUSE = 1.0  # seconds between looks at whether the study has changed


def main(argv: list[str] | None = None) -> int:
    parser = Parser("python -m pipeline.report", description=__doc__)
    parser.add_argument(
        "study",
        metavar="STUDY",
        type=_folder,
        help="a study's name in runs/, or its folder, which may have been moved; or the folder of pipeline.quantize",
    )
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help=f"where the page is written (default STUDY/{PAGE})"
    )
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    parser.add_argument(
        "--watch",
        action="store_true",
        help="serve it to this machine alone, following the search, until Ctrl-C; the file is kept up to date too",
    )
    parser.add_argument(
        "--modules",
        type=Path,
        metavar="DIR",
        help="folder that package.module:Name of the study's dimensions is looked up in",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print the front")
    asked = parser.parse_args(argv)
    if asked.watch and asked.format == "json":
        raise UserError("--watch goes on and prints no result; leave --format json out")
    return run(asked)


def _folder(text: str) -> Path:
    """The folder that is typed, or that of the study with this name."""
    typed, named = Path(text), Path("runs", text)
    return named if "/" not in text and not typed.exists() and named.is_dir() else typed


def run(asked: argparse.Namespace) -> int:
    """Write the page, show it, follow the search: what was asked for."""
    from foundation.factories import look_in
    from foundation.files import json_text
    from pipeline.report.page import render
    from pipeline.report.stored import read_study
    from pipeline.review.fronts import front_table

    look_in(asked.modules and asked.modules.absolute())
    file = asked.out or asked.study / PAGE
    if file.is_dir():
        raise UserError(f"{file} is a folder; give the name of a file, like {file / PAGE}")
    front, data = read_study(asked.study)
    if asked.watch and not data.searched:
        raise UserError(f"--watch follows a search; {asked.study} holds one network, which is finished")
    write(file, render(data))
    found = (
        f"{len(data.records)} trials, {len(front['points'])} on the front" if data.searched else "one network"
    )
    say(f"{found}: {file.absolute().as_uri()}")
    if not asked.watch:
        table = front_table(front) if front["points"] or front["references"] else "no trial has ended yet"
        print(json_text({**front, "page": str(file.absolute())}) if asked.format == "json" else table)
        if asked.open:
            show(file.absolute().as_uri())
        return DONE
    return follow(asked.study, file, data, show if asked.open else lambda address: None)


def write(file: Path, page: str) -> None:
    """Write the page whole or not at all.

    Raises:
        UserError: it cannot be written there.
    """
    from foundation.files import write_atomically

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, page)
    except OSError as error:
        raise UserError(f"cannot write {file} ({error.strerror}); give another place with --out") from error


def show(address: str) -> None:
    """In the browser of this machine, if it has one."""
    import webbrowser

    if not webbrowser.open(address):
        say("no browser could be started; open that address in one")


def follow(study: Path, file: Path, data: ReportData, opened: Callable[[str], None]) -> int:
    """Serve the page and keep the file until Ctrl-C, which is how this is meant to end."""
    from pipeline.report.live import LiveServer
    from pipeline.report.page import render
    from pipeline.report.stored import read_study, stamp

    seen = stamp(study)
    with LiveServer(render(data, live=True)) as server:
        print(server.address, flush=True)
        say("following the search; Ctrl-C ends this and leaves the search alone")
        opened(server.address)
        try:
            while True:
                time.sleep(PAUSE)
                now = stamp(study)
                if now == seen:
                    continue
                try:
                    _, data = read_study(study)
                except UserError as error:  # a file is being replaced; or the study is gone for good
                    if not study.is_dir():
                        raise
                    say(f"not shown: {error}")
                else:
                    server.show(render(data, live=True))
                    write(file, render(data))
                seen = now
        except KeyboardInterrupt:
            return DONE


if __name__ == "__main__":
    sys.exit(main_guard(main))
