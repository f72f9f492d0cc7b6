"""`dgms COMMAND`: search how to compress a network for ARM CPUs, look at what was found, promote it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path

from foundation.command import DONE, MISTAKE, ONE, main_guard, parser_of, version
from foundation.completion import SCRIPTS, candidates
from foundation.errors import UserError
from foundation.registry import Registry
from pipeline.datasets.registry import DATA

COMMANDS = {
    "check": ("pipeline.check", "everything that is wrong with a network and its data, at once"),
    "search": ("pipeline.search", "search how to compress a network; a name alone resumes"),
    "quantize": (
        "pipeline.quantize",
        "one compressed network in minutes, without labels and without a search",
    ),
    "sensitivity": ("pipeline.sensitivity", "which layer hurts"),
    "train": ("pipeline.train", "co-tune one plan"),
    "evaluate": ("pipeline.evaluate", "the accuracy of a candidate"),
    "promote": ("pipeline.promote", "check a candidate once more and make it the champion"),
    "report": (
        "pipeline.report.__main__",
        "the page of a study, made anew or followed while the search runs",
    ),
    "export": ("pipeline.export", "a candidate as an ONNX model, or its weights as a PyTorch state dict"),
    "devices": ("pipeline.devices", "the ARM CPUs that programs can run on"),
    "sweep": ("pipeline.sweep", "many searches of one file"),
    "studies": (
        "pipeline.studies",
        "list, show, compare, stop, clone, prune and delete searches; decide on candidates",
    ),
    "toolchain": (
        "deploy_arm.toolchain",
        "the tools for ARM programs: what is there, and how to install the rest",
    ),
}
"""Every command: its module, which has a ``main(argv)`` and is imported when the command is typed, and what it does."""

COMPLETION = "completion"
SHOWN = {
    **{name: what for name, (_, what) in COMMANDS.items()},
    COMPLETION: f"tab completion: {' | '.join(SCRIPTS)}",
}


def main(argv: list[str] | None = None) -> int:
    """Hand over to the command that is named."""
    words = sys.argv[1:] if argv is None else argv
    if not words:
        print(usage(), file=sys.stderr)
        return MISTAKE
    name, *rest = words
    if name in ("-h", "--help", "help"):
        print(usage())
    elif name == "--version":
        print(about())
    elif name == COMPLETION:
        return completion(rest)
    elif name in COMMANDS:
        return command(name)(rest)
    else:
        close = get_close_matches(name, SHOWN, n=1)
        meant = f"did you mean {close[0]}?" if close else f"there are: {', '.join(SHOWN)}"
        raise UserError(f"unknown command {name!r}; {meant} (see {ONE} --help)")
    return DONE


def command(name: str) -> Callable[[list[str]], int]:
    """The function of a command."""
    found: Callable[[list[str]], int] = importlib.import_module(COMMANDS[name][0]).main
    return found


def usage() -> str:
    """Every command in a line."""
    width = max(map(len, SHOWN))
    return "\n".join([
        f"usage: {ONE} COMMAND ...",
        "",
        "Small, fast CNNs on ARM CPUs: search, look, promote.",
        "",
        *(f"  {name:<{width}}  {what}" for name, what in SHOWN.items()),
        "",
        f"{ONE} COMMAND --help tells more of each; {ONE} --version which version this is",
    ])  # fmt: skip


def about() -> str:
    """Which version of what, for whoever reports a fault."""
    from importlib.metadata import version as of
    from platform import machine, python_version

    from deploy_arm.target.kernel_sources import library_digest

    others = ", ".join(f"{name} {of(name)}" for name in ("torch", "ray", "optuna", "mlflow"))
    library = f"kernel library {library_digest()} (sources)"
    return f"{ONE} {version()}\nPython {python_version()} on {machine()}, {others}\n{library}"


def completion(words: list[str]) -> int:
    """Print a shell's script, or what may be typed next.

    Raises:
        UserError: there is no script for such a shell.
    """
    if words[:2] == ["words", "--"]:
        print("".join(f"{word}\n" for word in next_words(words[2:])), end="")
    elif len(words) == 1 and words[0] in SCRIPTS:
        print(SCRIPTS[words[0]], end="")
    elif words in (["-h"], ["--help"]):
        print(
            f"usage: {ONE} {COMPLETION} {{{','.join(SCRIPTS)}}}\n\n{ONE} {COMPLETION} SHELL prints what to put where."
        )
    else:
        raise UserError(f"{COMPLETION} {' '.join(words) or '(no shell)'}: give one of {', '.join(SCRIPTS)}")
    return DONE


def next_words(words: list[str]) -> list[str]:
    """What may stand for the last word of a line behind ``dgms``; nothing where the shell may offer files."""
    if len(words) < 2:
        return sorted(name for name in SHOWN if name.startswith(words[0] if words else ""))
    name, *rest = words
    if name == COMPLETION:
        return sorted(shell for shell in SCRIPTS if shell.startswith(rest[-1]))
    return candidates(parser_of(command(name)), rest, VALUES) if name in COMMANDS else []


def _of_registry(module: str, registry: str) -> Callable[[], Iterable[str]]:
    return lambda: getattr(importlib.import_module(module), registry)


def studies() -> list[str]:
    """The names of the studies in the usual output folder."""
    return [file.parent.name for file in Path("runs").glob("*/settings.yaml")]


VALUES = {
    "quantizer": _of_registry("quantizers.registry", "QUANTIZERS"),
    "sampler": _of_registry("search_spaces.samplers.base", "SAMPLERS"),
    "devices": _of_registry("deploy_arm.devices.kinds", "DEVICES"),
    "target": _of_registry("deploy_arm.target.targets", "TARGETS"),
    "model": lambda: Registry[object]("model", "pipeline.networks"),
    "data": lambda: [name if name == "digits" else f"{name}:" for name in DATA],
    "study": studies,
    "studies": studies,
}
"""What flags and places take whose parsers do not say it."""


def run() -> None:
    """The script ``dgms``."""
    sys.exit(main_guard(main))


if __name__ == "__main__":
    run()
