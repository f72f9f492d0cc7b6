"""What a board is asked by OpenSSH, each time by a connection of its own: nothing is installed, and nothing stays open.

Only a board whose host key is known is spoken to, and never with a password. What is sent to it is one ``sh -c`` with a script
without quotes, backslashes, exclamation marks and new lines, which every login shell passes on as it is. Each answer begins with
a line that nobody can foresee, so that what a login shell says before is no part of it.

On the board everything lies in ``~/.cache/dgms-arm-search/board``: files under their checksum, and the lock of who uses it.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy_arm.boards.board import Board
from deploy_arm.target.bounded import Said, end_group, run_bounded
from deploy_arm.target.fault import DeviceBusy, DeviceFault
from deploy_arm.target.host import tail
from foundation.errors import UserError

BUSY, NO_ROOM, MISSING = 95, 96, 97  # exit status of the scripts below; a program's own are below 14
CONNECT_SECONDS, GRACE_SECONDS = 15, 20.0  # to connect, and beyond what a script may take
HOLD_SECONDS = 3600  # a board that lost its connection without a word is free again after these
MOST_BYTES = 1 << 26
FOLDER = "dgms-arm-search/board"
OPTIONS = (
    *("BatchMode=yes", "StrictHostKeyChecking=yes", "UpdateHostKeys=no", "LogLevel=ERROR", "EscapeChar=none"),
    *("ClearAllForwardings=yes", "ForwardAgent=no", "ForwardX11=no", "Tunnel=no", "PermitLocalCommand=no"),
    *("ControlMaster=no", "ControlPath=none", "RemoteCommand=none", "RequestTTY=no", "ConnectionAttempts=1"),
    *(f"ConnectTimeout={CONNECT_SECONDS}", "ServerAliveInterval=10", "ServerAliveCountMax=3"),
)
ENTER = (
    'umask 077; d=${XDG_CACHE_HOME:-none}; case "$d" in /*) ;; *) d=$HOME/.cache;; esac; '
    f'd=$d/{FOLDER}; mkdir -p "$d" && cd "$d" || exit {NO_ROOM}; '
)
# What OpenSSH says, and what that means for whoever reads it.
REASONS = (
    (
        r"IDENTIFICATION HAS CHANGED|[Hh]ost key for .* has changed",
        "another host key answers there than known_hosts has: if the board was set up anew, `ssh-keygen -R {known}` forgets the "
        "old one; else somebody stands between",
    ),
    (
        r"No \S+ host key is known|Host key verification failed",
        "its host key is not in known_hosts. Connect once by `{by_hand}`",
    ),
    (
        r"Permission denied",
        "it lets nobody in with the keys that are here; `{by_hand}` must work without a password",
    ),
    (r"Connection refused", "no ssh server listens there"),
    (r"Could not resolve hostname", "no machine of that name is known here"),
    (r"timed out|No route to host|Network is unreachable", "it does not answer"),
)


def ssh_command(board: Board) -> list[str]:
    """OpenSSH's command line up to the script."""
    files = {"UserKnownHostsFile": board.known_hosts, "IdentityFile": board.identity}
    quoted = [f'{key}="{str(path).replace("%", "%%")}"' for key, path in files.items() if path is not None]
    options = [*OPTIONS, *quoted, *(["IdentitiesOnly=yes"] if board.identity else [])]
    return [
        "ssh",
        "-T",
        *(word for option in options for word in ("-o", option)),
        *(("-p", str(board.port)) if board.port else ()),
        *(("-l", board.user) if board.user else ()),
        "--",
        board.host.strip("[]"),
    ]


def by_hand(board: Board) -> str:
    """What a person types to connect."""
    port = f"-p {board.port} " if board.port else ""
    return f"ssh {port}{f'{board.user}@' if board.user else ''}{board.host.strip('[]')}"


def script(text: str, mark: str) -> str:
    """The remote command that prints ``mark`` on a line of its own and then does what a script says."""
    if bad := set(text) & set("'\\!\n"):
        raise ValueError(f"a login shell may not pass on {bad}")
    return f"sh -c 'echo; echo {mark}; {text}'"


def ask(board: Board, text: str, given: bytes = b"", *, seconds: float) -> Said:
    """What a script answers on the board, in its folder there.

    Raises:
        DeviceFault: there is no connection, no answer within ``seconds`` and some, or one that no script gives.
    """
    mark = secrets.token_hex(8)
    command = [*ssh_command(board), script(ENTER + text, mark)]
    limit = seconds + GRACE_SECONDS
    try:
        answer = run_bounded(command, given, seconds=limit, most=MOST_BYTES)
    except OSError as error:
        raise UserError(
            f"OpenSSH's client cannot be started ({error}); install it: `apt-get install openssh-client`"
        ) from error
    if answer.cut:
        raise DeviceFault(f"{board.name} answered more than {MOST_BYTES} bytes, which no program here does")
    if answer.status is None:
        raise DeviceFault(f"{board.name} did not answer within {limit:.0f} s")
    before, found, output = answer.output.partition(f"\n{mark}\n".encode())
    if not found:
        raise DeviceFault(_unmarked(board, answer, before))
    if answer.status in (NO_ROOM, 255):
        what = "cannot keep a file" if answer.status == NO_ROOM else "lost the connection"
        raise DeviceFault(f"{board.name} {what}: {printable(answer.errors)}")
    return Said(answer.status, output, answer.errors)


def _unmarked(board: Board, answer: Said, said: bytes) -> str:
    errors = answer.errors.decode(errors="replace")
    if answer.status == 255 and not said.strip():
        known = f"[{board.host}]:{board.port}" if board.port else board.host.strip("[]")
        known += f" -f {board.known_hosts}" if board.known_hosts else ""
        reason = next((text for pattern, text in REASONS if re.search(pattern, errors)), None)
        reason = reason and reason.format(known=known, by_hand=by_hand(board))
        return f"{board.name} ({board.address}): {reason or f'the connection failed: {printable(answer.errors)}'}"
    return (
        f"{board.name} has no POSIX sh that does as it is told (status {answer.status}): "
        f"{printable(said) if said.strip() else printable(answer.errors)}"
    )


def printable(text: bytes) -> str:
    """The end of what was said, in a line that a terminal shows as it is."""
    line = " ".join(tail(text).split())[-300:]
    return "".join(letter for letter in line if letter.isprintable()) or "nothing"


def keep(board: Board, file: Path, name: str, digest: str) -> None:
    """Copy a file there under ``name``, whole or not at all.

    Raises:
        DeviceFault: as ``ask``, or it does not arrive.
    """
    content = file.read_bytes()
    text = (
        f"cat > t.$$ && n=$(sha256sum < t.$$) && test ${{n%% *}} = {digest} && chmod 700 t.$$ && mv -f t.$$ {name} "
        f"|| {{ rm -f t.$$; exit {NO_ROOM}; }}"
    )
    answer = ask(board, text, content, seconds=60 + len(content) / 100_000)  # 0.8 megabits a second
    if answer.status != 0:
        raise DeviceFault(
            f"{board.name} did not keep a file (status {answer.status}): {printable(answer.errors)}"
        )


def run_there(
    board: Board, files: Sequence[tuple[str, str]], words: Sequence[str], given: bytes, *, seconds: float
) -> Said:
    """What a command says after the files (name, SHA-256) were checked; status ``MISSING``, with their names, where some are
    not there as they should be.

    Raises:
        DeviceFault: as ``ask``.
    """
    if bad := [word for word in words if not re.fullmatch(r"[\w./=,:+@-]+", word, re.ASCII)]:
        raise ValueError(f"words for a board's shell: {bad}")
    checks = "".join(
        f'echo "{digest}  {name}" | sha256sum -c >/dev/null 2>&1 || m="$m {name}"; ' for name, digest in files
    )
    # No exec: OpenSSH turns death by a signal into its own status of a lost connection.
    text = f'm=; {checks}test -z "$m" || {{ echo $m; exit {MISSING}; }}; timeout {seconds:.0f} {" ".join(words)}; exit $?'
    return ask(board, text, given, seconds=seconds)


@contextlib.contextmanager
def held(board: Board, patience: float) -> Iterator[None]:
    """The board for oneself, as it is while the connection stands that this keeps open.

    Raises:
        DeviceBusy: somebody else has it, for ``patience`` seconds and longer.
        DeviceFault: no connection, or it was lost meanwhile.
    """
    end = time.monotonic() + patience
    while (holder := _hold(board)) is None:
        if time.monotonic() >= end:
            raise DeviceBusy(f"{board.name} is in use by another, and was for {patience:.0f} s")
        time.sleep(min(1.0, max(0.05, end - time.monotonic())))
    try:
        yield
        if holder.poll() is not None:
            raise DeviceFault(f"{board.name} lost the connection that kept others from it")
    finally:
        assert holder.stdin
        with contextlib.suppress(OSError):
            holder.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            holder.wait(5.0)
        end_group(holder)
        assert holder.stdout
        holder.stdout.close()


def _hold(board: Board) -> subprocess.Popen[bytes] | None:
    """The process whose connection holds the board; None where somebody else has it."""
    mark = secrets.token_hex(8)
    # Of blobs, which are many, none is of use to whoever comes next.
    text = f'exec 9>>"lock-$(uname -n)"; flock -n 9 || exit {BUSY}; echo held; timeout {HOLD_SECONDS} cat; rm -f *.blob'
    holder = subprocess.Popen(
        [*ssh_command(board), script(ENTER + text, mark)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    )
    assert holder.stdout and holder.stderr
    limit = CONNECT_SECONDS + GRACE_SECONDS
    timer = threading.Timer(limit, end_group, (holder,))
    timer.start()
    output = b""
    try:
        while not output.endswith(f"\n{mark}\nheld\n".encode()):
            if not (piece := holder.stdout.readline(4096)) or len(output) > MOST_BYTES:
                break
            output += piece
        else:
            return holder
        errors = holder.stderr.read(4096)
        end_group(holder)
    except BaseException:
        end_group(holder)
        raise
    finally:
        timer.cancel()
    answer = Said(holder.returncode, output, errors)
    holder.stdout.close()
    if f"\n{mark}\n".encode() not in output:
        if holder.returncode == -9:
            raise DeviceFault(f"{board.name} did not answer within {limit:.0f} s")
        raise DeviceFault(_unmarked(board, answer, output))
    if holder.returncode == BUSY:
        return None
    raise DeviceFault(f"{board.name} cannot be locked (status {holder.returncode}): {printable(errors)}")
