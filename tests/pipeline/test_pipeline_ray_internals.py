"""What is used of Ray without a public way is there, and does what it is used for; another version is to be looked at first."""

from __future__ import annotations

from typing import Any

import pytest
import ray
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import tune_controller
from ray.tune.experiment.trial import Trial
from ray.tune.result import TRIAL_ID

from pipeline.cluster import ray_internals


def test_ray_is_the_version_that_its_inner_parts_were_read_in() -> None:
    assert ray.__version__ == ray_internals.WRITTEN_FOR, (
        "read pipeline/cluster/ray_internals.py against the new one"
    )


def test_a_kill_for_memory_is_a_death_like_others_while_trials_run() -> None:
    controller: Any = tune_controller
    before = controller.RayActorManager
    with ray_internals.deaths_for_memory_survived():
        assert issubclass(controller.RayActorManager, before)
        assert controller.RayActorManager is not before
    assert controller.RayActorManager is before
    overridden = {"_actor_start_failed", "_actor_task_failed"}
    assert overridden <= vars(before).keys(), "Ray calls them otherwise by now"
    death = ray_internals._as_death(OutOfMemoryError("no memory"))
    assert isinstance(death, RayActorError) and ray_internals.KILLED in str(death)
    other = ValueError("x")
    assert ray_internals._as_death(other) is other


def test_a_trial_killed_for_memory_before_its_first_result_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune asks a trial that died what it last said; that its process never came to say anything is no error."""

    def killed(future: Any) -> Any:
        raise OutOfMemoryError("no memory")

    trial = Trial("unknown", stub=True)
    trial._default_result_or_future = ray.ObjectRef.from_random()
    monkeypatch.setattr(ray, "get", killed)
    with pytest.raises(OutOfMemoryError):
        _ = trial.last_result
    with ray_internals.deaths_for_memory_survived():
        assert trial.last_result == {TRIAL_ID: trial.trial_id}
