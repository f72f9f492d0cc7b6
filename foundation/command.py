"""What every command has in common: how it reads its flags, and what its exit status means.

0: done. 1: a gate said no (a promotion was refused, a tool is missing). 2: a mistake that a person can put right. 3: incomplete,
and nothing that was finished is lost: interrupted, terminated or out of time. 70: a fault of the program, with its trace.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import select
import shlex
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from foundation.errors import UserError

DONE, REFUSED, MISTAKE, INCOMPLETE, FAULT = 0, 1, 2, 3, 70
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# What the machine answers where a place cannot be used, whatever the program does: rights, a file for a folder, a full disk.
_NAMES = "EACCES EDQUOT EISDIR ELOOP ENAMETOOLONG ENOSPC ENOTDIR EPERM EROFS"
OF_THE_PLACE = {getattr(errno, name) for name in _NAMES.split()}


ONE = "dgms"  # the command that has the others, by the last word of their modules' names
DISTRIBUTION = "dgms-arm-search"

_quiet = False

_Handed = Callable[[argparse.ArgumentParser], None]
_handed: ContextVar[_Handed | None] = ContextVar("parsers are handed to", default=None)


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are UserErrors, so that every command reports them alike; with ``--version`` and ``--quiet``.

    Args:
        prog: ``python -m MODULE``; where ``dgms`` was typed, help and messages say that.
    """

    def __init__(self, prog: str | None = None, **options: Any) -> None:
        module = (prog or "").removeprefix("python -m ")
        super().__init__(prog=typed(module) if prog and module != prog else prog, **options)
        self.register("type", int, _whole_number)
        self.register("type", float, _number)
        self.add_argument(
            "--quiet",
            action="store_true",
            default=argparse.SUPPRESS,
            help="no progress: the result and mistakes alone",
        )
        self.add_argument(
            "--version",
            action=_Version,
            nargs=0,
            default=argparse.SUPPRESS,
            help="show which version this is",
        )

    def error(self, message: str) -> Any:
        raise UserError(f"{message} (see {self.prog} --help)")

    def parse_args(self, args: Any = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        """As argparse does. ``--quiet`` holds for the whole command, so it is none of its own flags (``is_quiet``)."""
        global _quiet
        found: argparse.Namespace = super().parse_args(args, namespace)
        _quiet = vars(found).pop("quiet", False)
        return found

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, unless somebody asked for the parser itself (``parser_of``)."""
        if (handed := _handed.get()) is not None:
            handed(self)
        return super().parse_known_args(args, namespace)


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number; give one such as 8") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number; give one such as 8 or 1.5") from None


class _Version(argparse.Action):
    """Looked up when it is asked for: that takes longer than all the rest of reading flags."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"{ONE} {version()}")
        parser.exit()


class _Parsed(BaseException):
    """The way out of a command whose parser is known."""


def parser_of(main: Callable[[list[str]], int]) -> argparse.ArgumentParser:
    """The parser that a command reads its flags with; the command itself does nothing.

    Raises:
        ValueError: it reads none.
    """
    found: list[argparse.ArgumentParser] = []

    def take(parser: argparse.ArgumentParser) -> None:
        found.append(parser)
        raise _Parsed

    token = _handed.set(take)
    try:
        main([])
    except _Parsed:
        return found[0]
    finally:
        _handed.reset(token)
    raise ValueError(f"{main} reads no flags")


def is_quiet() -> bool:
    """Whether the command that runs was asked for its result alone."""
    return _quiet


def say(text: str) -> None:
    """A line of progress, on standard error."""
    if not _quiet:
        print(text, file=sys.stderr, flush=True)


def version() -> str:
    """Of what is installed; of a checkout that is not, what its project file says."""
    import importlib.metadata
    import tomllib

    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
        return str(project["version"])


def typed(module: str) -> str:
    """How who typed the present command types that of ``module``: ``dgms search``, or ``python -m pipeline.search``."""
    return shlex.join(_words(module) or ["python", "-m", module])


def shell(*words: object) -> str:
    """A command of this installation, a module's name and then its flags, to be pasted into a shell of any folder."""
    module, *flags = map(str, words)
    return shlex.join([*(_words(module) or [sys.executable, "-m", module]), *flags])


def _words(module: str) -> list[str] | None:
    """``dgms search`` of the module ``pipeline.search``; None where that was not typed, or has no such command."""
    script = Path(sys.argv[0])
    if script.name != ONE or not (module.startswith("pipeline.") or module == "deploy_arm.toolchain"):
        return None
    found = shutil.which(ONE)
    short = found is not None and os.path.realpath(found) == os.path.realpath(script)
    return [ONE if short else os.path.abspath(script), module.rpartition(".")[2]]


def main_guard(main: Callable[[], int]) -> int:
    """Run a command and give its exit status; see the module docstring.

    Ctrl-C and SIGTERM are acknowledged at once, then what is open is closed in good order; a second one does not wait for that.
    """
    _keep_output_to_itself()
    try:
        with interruptible(_interrupt):
            status = main()
            sys.stdout.flush()
            return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("interrupted: not complete; the same command goes on, or starts again", file=sys.stderr)
        return INCOMPLETE
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return DONE
        if isinstance(error, OSError) and error.errno in OF_THE_PLACE:
            place = "" if error.filename is None else f"{error.filename}: "
            print(f"error: {place}{error.strerror}", file=sys.stderr)
            return MISTAKE
        # Python's own status for this is 1, which here means that a gate said no.
        traceback.print_exc()
        return FAULT


def _keep_output_to_itself() -> None:
    """Standard output is what the command answers, and nothing else. Libraries in C write to it past Python (a solver what was
    left in it for its authors): their descriptor goes nowhere, and ``sys.stdout`` has one of its own."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # Closed by who started us: the next file that is opened must not be taken for it.
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    before = sys.stdout
    with contextlib.suppress(OSError):
        if not isinstance(before, io.TextIOWrapper) or before.fileno() != 1:
            return  # somebody in this process reads it
        before.flush()
        ours = io.TextIOWrapper(
            os.fdopen(os.dup(1), "wb"),
            before.encoding,
            before.errors,
            line_buffering=before.line_buffering,
            write_through=before.write_through,
        )
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stdout = ours


def _nobody_reads() -> bool:
    """Whether who read our output (``head`` say) has had enough; nothing more is written to it then."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):
        return False
    look = select.poll()
    look.register(output, select.POLLOUT)
    gone = any(event & (select.POLLERR | select.POLLHUP) for _, event in look.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return gone


@contextlib.contextmanager
def interruptible(handle: Callable[[int, Any], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call ``handle`` meanwhile; only the main thread can have it so. What a parent process had ignored
    (``nohup``, or ``&`` in a script) stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: Any) -> None:
    # Not print: the signal may have come in the middle of one.
    os.write(2, f"\n{signal.Signals(number).name}: ending\n".encode())
    raise KeyboardInterrupt
