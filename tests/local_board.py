"""A board that is this machine: a real sshd on the loopback address, with keys of its own, that a test may make misbehave."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy_arm.boards.board import Board
from deploy_arm.emulate.emulator import find_qemu
from deploy_arm.target.toolchain import is_arm

CONFIGURATION = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
PidFile none
AuthorizedKeysFile {folder}/authorized
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
"""
# What a login runs: counts, does what the test wants, then what was asked.
LOGIN = """#!/bin/sh
HOME="{folder}/home"; export HOME; unset XDG_CACHE_HOME; cd "$HOME"
echo asked >> "{folder}/log"
. "{folder}/mode"
exec "${{SHELL:-/bin/sh}}" -c "$SSH_ORIGINAL_COMMAND"
"""


class LocalBoard:
    """The server and what a person would type to reach it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, folder / "home/.cache/dgms-arm-search/board"
        self.identity, self.known_hosts = folder / "user", folder / "known"
        self._server: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        (folder / "home").mkdir()
        (folder / "log").touch()
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        login = folder / "login"
        login.write_text(LOGIN.format(folder=folder))
        login.chmod(0o755)
        (folder / "authorized").write_text(f'command="\\"{login}\\"" ' + (folder / "user.pub").read_text())
        # sshd reads quoted paths.
        text = CONFIGURATION.format(port=self.port, folder=folder)
        quoted = [
            line.replace(f"{folder}/", f'"{folder}/') + '"' if str(folder) in line else line
            for line in text.splitlines()
        ]
        (folder / "sshd_config").write_text("\n".join(quoted) + "\n")
        self.mode("")
        self.know()

    @property
    def address(self) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def runner(self) -> tuple[str, ...]:
        return () if is_arm() else (str(find_qemu()),)

    def flags(self) -> list[str]:
        files = ["--identity", str(self.identity), "--known-hosts", str(self.known_hosts)]
        return [*files, *(["--runner", " ".join(self.runner)] if self.runner else [])]

    def added(self, name: str = "local", **changes: Any) -> Board:
        """As it would be added."""
        what: dict[str, Any] = {
            "identity": self.identity,
            "known_hosts": self.known_hosts,
            "runner": self.runner,
        }
        what |= {"machine": os.uname().machine, "user": getpass.getuser(), "port": self.port}
        return Board(name, "127.0.0.1", **{**what, **changes})

    def mode(self, text: str) -> None:
        """Shell text that each login does first."""
        (self.folder / "mode").write_text(text + "\n")

    def know(self, key: str | None = None) -> None:
        """Let this host key be the known one; by default the server's own."""
        kind, text = (key or (self.folder / "host.pub").read_text()).split()[:2]
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {text}\n")

    def asked(self) -> int:
        """How many logins there were."""
        return len((self.folder / "log").read_text().split())

    def start(self) -> None:
        # sshd refuses, started by root, where this folder is missing.
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        self._server = subprocess.Popen(
            [str(find_sshd()), "-D", "-e", "-f", self.folder / "sshd_config"],
            stdin=subprocess.DEVNULL,
            stderr=(self.folder / "sshd.log").open("ab"),
        )
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError((self.folder / "sshd.log").read_text())

    def stop(self) -> None:
        if self._server is not None:
            self._server.terminate()
            self._server.wait(20)
            self._server = None


def find_sshd() -> str | None:
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextmanager
def local_board(folder: Path) -> Iterator[LocalBoard]:
    """The board, while its server runs. Skips where there is none."""
    if find_sshd() is None or shutil.which("ssh") is None:
        pytest.skip("no OpenSSH server and client here: `apt-get install openssh-server openssh-client`")
    if not is_arm() and find_qemu() is None:
        pytest.skip("programs run here under qemu-user alone, which is not installed")
    board = LocalBoard(folder)
    board.start()
    try:
        yield board
    finally:
        board.stop()
