"""What every command has in common: how it reads its flags, and what its exit status means.

0: done. 1: a gate said no (a promotion was refused, a tool is missing). 2: a mistake that a person can put right. 3: incomplete,
and nothing that was finished is lost: interrupted, terminated or out of time. 70: a fault of the program, with its trace.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from foundation.errors import UserError

DONE, REFUSED, MISTAKE, INCOMPLETE, FAULT = 0, 1, 2, 3, 70
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# What the machine answers where a place cannot be used, whatever the program does: rights, a file for a folder, a full disk.
_NAMES = "EACCES EDQUOT EISDIR ELOOP ENAMETOOLONG ENOSPC ENOTDIR EPERM EROFS"
OF_THE_PLACE = {getattr(errno, name) for name in _NAMES.split()}


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are UserErrors, so that every command reports them alike."""

    def error(self, message: str) -> Any:
        raise UserError(f"{message} (see {self.prog} --help)")


def shell(*words: object) -> str:
    """A Python command of this installation, ``-m`` and then ``words``, to be pasted into a shell of any folder."""
    return shlex.join([sys.executable, "-m", *map(str, words)])


def main_guard(main: Callable[[], int]) -> int:
    """Run a command and give its exit status; see the module docstring.

    Ctrl-C and SIGTERM are acknowledged at once, then what is open is closed in good order; a second one does not wait for that.
    """
    try:
        with interruptible(_interrupt):
            return main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("interrupted: not complete; the same command goes on, or starts again", file=sys.stderr)
        return INCOMPLETE
    except Exception as error:
        if isinstance(error, OSError) and error.errno in OF_THE_PLACE:
            place = "" if error.filename is None else f"{error.filename}: "
            print(f"error: {place}{error.strerror}", file=sys.stderr)
            return MISTAKE
        # Python's own status for this is 1, which here means that a gate said no.
        traceback.print_exc()
        return FAULT


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
