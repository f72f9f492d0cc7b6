"""A PostgreSQL server of this machine, for tests."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of an empty database. Skips where there is no server or no client."""
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
    found = [shutil.which("initdb"), *map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    initdb = next((path for path in found if path), None)
    if initdb is None:
        pytest.skip("no PostgreSQL server here")
    user: dict[str, Any] = (
        {"user": "nobody", "extra_groups": []} if os.geteuid() == 0 else {}
    )  # it refuses root
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if user:
            shutil.chown(folder, "nobody")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        quiet: dict[str, Any] = {
            "cwd": folder,
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
            **user,
        }
        subprocess.run(
            [initdb, "-D", folder / "data", "-A", "trust", "-U", "test", "--no-sync"], check=True, **quiet
        )
        server = [
            str(Path(initdb).resolve().parent / "postgres"),
            "-D",
            str(folder / "data"),
            "-p",
            str(port),
        ]
        process = subprocess.Popen([*server, "-h", "127.0.0.1", "-k", name, "-F"], **quiet)
        try:
            url = f"postgresql://test@127.0.0.1:{port}/postgres"
            for _ in range(300):
                try:
                    psycopg.connect(url).close()
                    break
                except psycopg.OperationalError:
                    time.sleep(0.1)
            yield url
        finally:
            process.send_signal(signal.SIGINT)  # "fast shutdown"
            process.wait(30)
