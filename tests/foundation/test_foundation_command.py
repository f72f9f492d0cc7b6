"""What a command's exit status says, and that Ctrl-C and SIGTERM are heard at once."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from typing import IO

import pytest

from foundation.command import Parser
from foundation.errors import UserError

START = "import sys, time\nfrom foundation.command import Parser, main_guard\nfrom foundation.errors import UserError\n"
CLOSES = """
def main():
    try:
        print("at work", flush=True)
        time.sleep(60)
    finally:
        print("closed", flush=True)
        {after}
"""


def command(body: str) -> list[str]:
    return [sys.executable, "-c", f"{START}{body}\nsys.exit(main_guard(main))"]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ("main = lambda: 0", 0, ""),
        ("main = lambda: 1", 1, ""),
        ("def main(): raise UserError('--budget 0: too small')", 2, "error: --budget 0: too small\n"),
        ("def main(): return Parser(prog='it').parse_args(['--nonsense'])", 2, "error: unrecognized"),
        ("def main(): open('/dev/null/x', 'w')", 2, "error: /dev/null/x: Not a directory\n"),
        ("def main(): raise OSError(28, 'No space left on device')", 2, "error: No space left on device\n"),
        ("def main(): open('/no/such/file')", 70, "FileNotFoundError"),
        ("def main(): return {}['nothing']", 70, "KeyError"),
    ],
)
def test_the_status_says_how_it_ended(body: str, status: int, says: str) -> None:
    done = subprocess.run(command(body), capture_output=True, text=True)
    assert (done.returncode, says in done.stderr) == (status, True), done.stderr
    assert ("Traceback" in done.stderr) == (status == 70)


def test_what_libraries_write_past_python_is_no_answer() -> None:
    """Neither at once, nor what C keeps until the process ends, nor a child's."""
    body = (
        "import ctypes, os, subprocess\n"
        "def main():\n    ctypes.CDLL(None).puts(b'kept by C')\n    os.write(1, b'at once')\n"
        "    subprocess.run(['echo', 'a child'])\n    print('the answer é', flush=True)\n"
        "    sys.stdout.buffer.write(b'bytes')\n    return 0"
    )
    done = subprocess.run(command(body), capture_output=True, env={**os.environ, "PYTHONIOENCODING": "utf-8"})
    assert (done.stdout.decode(), done.stderr) == ("the answer é\nbytes", b"")


def test_with_no_output_at_all_a_command_does_its_work() -> None:
    body = "def main():\n    print('lost')\n    print('lost too', file=sys.stderr)\n    return 1"
    done = subprocess.run(["bash", "-c", f"{shlex.join(command(body))} >&- 2>&-"], check=False)
    assert done.returncode == 1


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_has_had_enough_is_no_fault(lines: int) -> None:
    writer = subprocess.Popen(
        command(f"def main():\n    time.sleep(0.5)\n    print('line\\n' * {lines})\n    return 0"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert writer.stdout is not None and writer.stderr is not None
    writer.stdout.close()
    assert (writer.stderr.read(), writer.wait(20)) == ("", 0)


def test_a_number_that_is_none_is_named_with_one_that_is() -> None:
    parser = Parser(prog="it")
    parser.add_argument("--bits", type=int)
    parser.add_argument_group("more").add_argument("--share", type=float)
    assert vars(parser.parse_args(["--bits", "4", "--share", "1e-3"])) == {"bits": 4, "share": 0.001}
    for typed, says in [
        (["--bits", "2.5"], "argument --bits: '2.5' is no whole number; give one such as 8"),
        (["--share", "1,5"], "argument --share: '1,5' is no number; give one such as 8 or 1.5"),
        (["--share", ""], "argument --share: '' is no number"),
    ]:
        with pytest.raises(UserError, match=re.escape(says)):
            parser.parse_args(typed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_acknowledged_before_anything_is_closed(number: signal.Signals) -> None:
    body = CLOSES.format(after="time.sleep(60)")
    process = subprocess.Popen(command(body), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert line(process.stdout) == "at work"
    process.send_signal(number)
    assert line(process.stderr) == "" and line(process.stderr) == f"{number.name}: ending"
    assert line(process.stdout) == "closed" and process.poll() is None
    process.send_signal(number)  # once more: what is being closed is not waited for
    assert process.wait(20) == 3
    assert process.stderr is not None and "Traceback" not in process.stderr.read()


def test_what_the_parent_ignores_stays_ignored() -> None:
    body = "def main():\n    print('at work', flush=True)\n    time.sleep(1)\n    return 0"
    process = subprocess.Popen(
        command(body), stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    assert line(process.stdout) == "at work"
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(20) == 0


def line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().strip()
