"""The Ray cluster: the one at RAY_ADDRESS, or one of this machine that is started for the purpose."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from foundation.errors import UserError
from pipeline.cluster import ray_internals

NAMESPACE = "dgms-arm-search"
OBJECT_STORE_BYTES = 2**30


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
    }
    for key, value in quiet.items():
        os.environ.setdefault(key, value)
    ray_internals.silence_workers()
    logging.getLogger("ray.tune").setLevel(
        logging.CRITICAL
    )  # trials that died are the conductor's to tell of
    common: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.ERROR}
    if address := os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(address, **common)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"no Ray cluster answers at RAY_ADDRESS {address!r}: {error}") from error
    else:
        ray_internals.stay_on_loopback()
        # Ray 2.60 turns token authentication on by itself when RAY_AUTH_MODE is unset, but writes a secret for all to read.
        if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
            keep_secret(Path.home() / ".ray" / "auth_token")
        if (quoted := shlex.quote(sys.executable)) != sys.executable:
            # Ray 2.60 pastes the interpreter's path into a shell as it is, and waits for ever for what did not start.
            common["runtime_env"] = {"py_executable": quoted}
        with ray_internals.services_apart():
            ray.init("local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **common)
    try:
        yield
    finally:
        ray.shutdown()


def keep_secret(path: Path) -> None:
    """Make the token file if there is none, and see that only this user can read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_hex(32))
    path.chmod(0o600)
