"""The Ray cluster: the one at RAY_ADDRESS, or one of this machine that is started for the purpose."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shlex
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from foundation.errors import UserError
from pipeline.cluster import ray_internals
from pipeline.cluster.session import session_folder

NAMESPACE = "dgms-arm-search"
OBJECT_STORE_BYTES = 2**30
STARTS = 3  # of a cluster of this machine, before that is given up


@contextlib.contextmanager
def cluster() -> Iterator[None]:
    """Connected to the Ray cluster at RAY_ADDRESS; without one, to a cluster of this machine that is started for the
    purpose: bound to the loopback address, with token authentication, without usage statistics and dashboard."""
    if ray.is_initialized():
        yield
        return
    quiet = {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        "TUNE_FORCE_TRIAL_CLEANUP_S": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "3600",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
        "TUNE_WARN_THRESHOLD_S": "60",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        # Where memory runs out the process that started last is killed, not several at once, and so never the device pool.
        "RAY_worker_killing_policy_by_group": "true",
        # Otherwise the process that measured ends a second later, since trials take up what Ray keeps, and the next measurement
        # waits for another.
        "RAY_num_workers_soft_limit": str(2 * (os.cpu_count() or 1) + 2),
    }
    for key, value in quiet.items():
        os.environ.setdefault(key, value)
    ray_internals.silence_workers()
    logging.getLogger("ray.tune").setLevel(
        logging.CRITICAL
    )  # trials that died are the conductor's to tell of
    common: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.ERROR}
    with contextlib.ExitStack() as afterwards, contextlib.ExitStack() as while_it_is_up:
        while_it_is_up.callback(ray.shutdown)
        if not os.environ.get("RAY_ADDRESS"):
            common["_temp_dir"] = str(afterwards.enter_context(session_folder()))
        _connect(common, while_it_is_up)
        yield


def _connect(common: dict[str, Any], while_it_is_up: contextlib.ExitStack) -> None:
    if address := os.environ.get("RAY_ADDRESS"):
        try:
            if address.rpartition(":")[2].isdecimal() and "//" not in address and not _listens(address):
                raise ConnectionError("nothing listens there")  # which Ray would try for minutes
            ray.init(address, **common)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
            raise UserError(not_connected(address, error)) from error
    else:
        while_it_is_up.enter_context(ray_internals.on_loopback())
        # Ray 2.60 turns token authentication on by itself when RAY_AUTH_MODE is unset, but writes a secret for all to read.
        if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
            keep_secret(Path.home() / ".ray" / "auth_token")
        if (quoted := shlex.quote(sys.executable)) != sys.executable:
            # Ray 2.60 pastes the interpreter's path into a shell as it is, and waits for ever for what did not start.
            common["runtime_env"] = {"py_executable": quoted}
        with ray_internals.services_apart(), ray_internals.services_that_serve():
            _start(common)


def _start(common: dict[str, Any]) -> None:
    """Start a cluster of this machine. Ray gives its services half a minute, which a busy machine may not have for them: then
    once more.

    Raises:
        UserError: they do not come up.
    """
    for left in reversed(range(STARTS)):
        try:
            ray.init("local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **common)
            return
        except Exception as error:  # Ray raises just that
            ray.shutdown()
            if not left:
                raise UserError(
                    f"Ray does not start on this machine, tried {STARTS} times: {' '.join(str(error).split())[:300]} "
                    "(is it very busy, or /tmp full?). The same command tries again"
                ) from error


def not_connected(address: str, error: Exception) -> str:
    """Why a cluster did not take this process, in a line: mostly there is none, or its token is missing here or another one."""
    text = " ".join(str(error).split())
    if re.search(r"token|auth", text, re.IGNORECASE) or _listens(address):
        ours = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ)
        place = min(ours) if ours else "~/.ray/auth_token"
        there = bool(ours) or (Path.home() / ".ray" / "auth_token").is_file()
        return (
            f"the Ray cluster at {address!r} takes nobody without its token, and "
            + (f"the one in {place} is not its own" if there else "there is none here")
            + "; copy ~/.ray/auth_token of the head node to the same place on this machine (chmod 600), or give it as "
            "RAY_AUTH_TOKEN, with RAY_AUTH_MODE=token"
        )
    return (
        f"no Ray cluster answers at RAY_ADDRESS {address!r}: {text[:300]}; give HEAD:6379 of `ray start --head`, and "
        "RAY_AUTH_MODE=token where the cluster has a token"
    )


def _listens(address: str) -> bool:
    """Whether something does at ``host:port``. Ray says of another token only that it could not connect."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
            return True
    except (OSError, ValueError):
        return False


def keep_secret(path: Path) -> None:
    """Make the token file if there is none, and see that only this user can read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_hex(32))
    path.chmod(0o600)
