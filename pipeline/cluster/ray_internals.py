"""What this project needs of Ray and Ray has no public way for, each with its reason. Nothing else imports Ray's inner modules.

All of it was written for the version named here; a test fails when another one is installed, so that each is looked at again.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

from ray._private import ray_constants, services, worker
from ray._private.node import Node
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import tune_controller
from ray.tune.experiment.trial import Trial

WRITTEN_FOR = "2.60.0"
KILLED = "killed by the memory monitor"


def silence_workers() -> None:
    """Ray prints to standard output, in a paragraph each, that a process died, whatever ``log_to_driver`` says; so may nobody
    who asked for --format json."""
    worker._worker_logs_enabled = False


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Ray replaces 127.0.0.1 by a reachable address unless clusters are switched off; this switch does that on every system,
    whatever its name says. It is read when Ray is imported, so the variable alone would only reach Ray's own processes.
    Afterwards both are as they were: a ``ray start`` from this process would refuse other nodes."""
    name, known = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    before = os.environ.get(name)
    os.environ[name] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = known
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


@contextlib.contextmanager
def services_apart() -> Iterator[None]:
    """Ray's services start in process groups of their own. So a signal to this process's group (of ``timeout``, of a
    supervisor, of a terminal) reaches this process alone, which then ends them in good order. They still die with it."""
    popen = services.ConsolePopen
    services.ConsolePopen = functools.partial(popen, process_group=0)  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        services.ConsolePopen = popen  # type: ignore[misc]


@contextlib.contextmanager
def services_that_serve() -> Iterator[None]:
    """A cluster of one machine for one driver starts without the services that nobody there asks: the autoscaler's monitor, the
    one that sends logs to drivers, and what is left of the dashboard without its pages. Ray has no switch for them (``RayParams``
    has two, which ``ray.init`` does not pass on), and they take five processor seconds, a third of a short search's start."""
    services = ("start_monitor", "start_log_monitor", "start_api_server")
    known = {name: getattr(Node, name) for name in services}
    for name in services:
        setattr(Node, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name, start in known.items():
            setattr(Node, name, start)


@contextlib.contextmanager
def deaths_for_memory_survived() -> Iterator[None]:
    """Tune's keeper of trial processes does not expect that the memory monitor kills one in the middle of its work, nor Tune's
    trial that it is killed before its first result, and either ends the whole run; meanwhile that is a process that died, like
    others."""
    tune_controller.RayActorManager = _ActorManager  # type: ignore[attr-defined]  # Tune offers no other way
    Trial._get_default_result_or_future = _known_of_a_start  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        tune_controller.RayActorManager = RayActorManager  # type: ignore[attr-defined]
        Trial._get_default_result_or_future = _KNOWN_OF_A_START  # type: ignore[method-assign]


_KNOWN_OF_A_START = Trial._get_default_result_or_future


def _known_of_a_start(trial: Trial) -> dict[str, Any] | None:
    try:
        return _KNOWN_OF_A_START(trial)
    except OutOfMemoryError:
        trial._default_result_or_future = None
        return None


class _ActorManager(RayActorManager):
    def _actor_start_failed(self, tracked_actor: Any, exception: Exception) -> None:
        super()._actor_start_failed(tracked_actor, _as_death(exception))

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        super()._actor_task_failed(tracked_actor_task, _as_death(exception))


def _as_death(error: Exception) -> Exception:
    return RayActorError(error_msg=f"{KILLED}: {error}") if isinstance(error, OutOfMemoryError) else error
