"""`python -m pipeline.check`: everything that is wrong with a network, its weights and a data set, before a search, all at once.

Exit status: 0 ready, 1 there are problems, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

from foundation.command import DONE, REFUSED, Parser, main_guard, shell
from foundation.errors import UserError
from foundation.files import json_text
from foundation.show import counted
from pipeline.review.progress import Progress
from pipeline.study import paths
from pipeline.study.settings import Settings
from pipeline.study.values import as_typed, parsed

FLAGS = (
    "model", "data", "metric", "weights", "modules", "image_size", "mean", "std", "target", "devices", "quantizer", "bits",
    "dimensions", "epochs_per_trial", "batch_size",
)  # fmt: skip
SECONDS = 10.0


def main(argv: list[str] | None = None) -> int:
    """The command; see ``--help``."""
    description, _, rules = (__doc__ or "").partition("\n\n")
    parser = Parser(prog="python -m pipeline.check", description=description, epilog=rules)
    fields = {one.name: one for one in dataclasses.fields(Settings) if one.name in FLAGS}
    for name, one in fields.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", dest=name, default=argparse.SUPPRESS, metavar=one.metadata["metavar"],
            help=one.metadata["help"], nargs="+" if one.default == () else None,
        )  # fmt: skip
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, metavar="S",
        help="how long images are decoded, and how long fp32 is evaluated (default %(default)g)",
    )  # fmt: skip
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print")
    args = vars(parser.parse_args(argv))
    if not 0 < args["seconds"] < float("inf"):
        raise UserError(f"--seconds {args['seconds']:g}: give a number above 0")
    given, refused = {}, []
    for name in fields.keys() & args.keys():
        value = args[name] if isinstance(args[name], str) else " ".join(args[name])
        try:
            given[name] = parsed(fields[name], args[name], f"--{name.replace('_', '-')} {as_typed(value)}")
        except UserError as error:
            refused.append(str(error))
    with Progress(1) as progress:
        progress.status("loading")
        from pipeline.candidate.readiness import Readiness, readiness

        found: Readiness = readiness(Settings(**paths.settled(given)), args["seconds"], progress.status)
    for text in sorted(refused):
        found.problem("settings", text)
    typed = paths.settled({name: args[name] for name in given})
    print(json_text(found.as_dict(), indent=1) if args["format"] == "json" else _text(found.as_dict(), typed))
    return REFUSED if found.problems else DONE


def _text(found: dict[str, Any], typed: dict[str, Any]) -> str:
    lines = [f"{one['about']:<13} {one['text']}" for one in found["notes"]]
    if not found["ready"]:
        lines += [f"{one['about']:<13} PROBLEM: {one['text']}" for one in found["problems"]]
        count = counted(len(found["problems"]), "problem")
        return "\n".join([*lines, "", f"{count}: a search cannot begin, or would be senseless"])
    flags: list[object] = []
    for name, value in typed.items():
        flags += [f"--{name.replace('_', '-')}", *(value if isinstance(value, list) else [value])]
    return "\n".join([*lines, "", "ready", f"search   {shell('pipeline.search', *flags)}"])


if __name__ == "__main__":
    sys.exit(main_guard(main))
