"""One trial on a Ray cluster: a warm Tune actor, or Ray Train's TorchTrainer where a trial has several workers."""

from __future__ import annotations

import os
import shutil
import time
import traceback
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError, WorkerCrashedError

from foundation.files import json_text
from foundation.plan import Plan
from pipeline.candidate.folder import candidate_path
from pipeline.cluster.node import Needs, Place, settle, workspace_here
from pipeline.cluster.nodes import HOSTS
from pipeline.cluster.work import NoDevice
from pipeline.study.checkpoints import (
    earlier_record,
    keep_between,
    last_checkpoint,
    save_checkpoint,
    trial_folder,
)
from pipeline.study.conductor import DIED, ENDED, PROFILED, RUNG, WAITED
from pipeline.study.memory import Watch, refused
from pipeline.study.records import Figures, Reference, TrialRecord
from pipeline.training.stages import Stage

if TYPE_CHECKING:
    from pipeline.candidate.bench import Bench
    from pipeline.candidate.stages import CandidateRun
    from pipeline.cluster.pool import DevicePool


class CotuneTrial(tune.Trainable):
    """Trials one after another in one process, which keeps data and fp32 network (``reuse_actors``).

    Each ``step`` is one stage: first the profile before training, then one step per rung; with the last rung the
    candidate is finished. A step's result has how many bytes the process ``held`` at most, which ``worker`` that is (node,
    process, seconds of the step), what devices did for it (``work``), and ``phase``: ``profiled`` (with
    ``figures``), ``rung`` (with ``rung`` and ``figures``) or ``ended`` (with ``record``), all as JSON text, which Tune leaves
    alone; ``died`` (with what it ``asked`` for) where it was refused memory, or (with the ``trouble``) where its surroundings
    failed, a disk say; or ``waited`` (with the ``reason``) where for long there was no device. Whatever else goes wrong with
    a candidate ends it as failed with a one-line reason; the process lives on for the next.
    """

    _bench: Bench | None = None
    _watch: Watch | None = None

    def setup(self, config: dict[str, Any]) -> None:
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._needs: Needs = config["needs"]
        self._text: str = config["plan"]
        self._number: int = config["number"]
        self._inherits: str | None = config.get("inherits")
        self._stages = tuple(Stage(*stage) for stage in config["stages"])
        self._devices: DevicePool = config["devices"]
        self._references = tuple(
            Reference(name, Figures(**figures)) for name, figures in config["references"].items()
        )
        self._run: CandidateRun | None = None
        self._figures = Figures(None)
        self._stage, self._own = -1, False
        if self._watch is not None:
            self._watch.end()
        self._watch = None

    def step(self) -> dict[str, Any]:
        begun = time.monotonic()
        result = self._step()
        done = self._devices.taken()
        here = [ray.get_runtime_context().get_node_id(), os.getpid(), time.monotonic() - begun]
        return {**result, "worker": json_text(here), "work": json_text([piece.as_list() for piece in done])}

    def _step(self) -> dict[str, Any]:
        try:
            result = self._advance()
            return {**result, "held": self._watch.peak} if self._watch else result
        except (
            Exception
        ) as error:  # the reason goes into the record: one bad candidate must not end the others
            if (asked := no_memory(error)) is not None:
                self._run = None
                return {"phase": DIED, "asked": asked, "done": True}
            if isinstance(error, NoDevice):
                return {"phase": WAITED, "reason": str(error), "done": True}
            story = traceback.format_exc()
            if of_surroundings(error):
                self._run = None
                return {"phase": DIED, "trouble": one_line(error), "story": story, "done": True}
            curve = self._run.curve if self._run else ()
            plan = Plan.from_json(self._text)
            record = TrialRecord(self._number, plan, "failed", self._figures, one_line(error), curve=curve)
            return {**_ended(record), "story": story}

    def cleanup(self) -> None:
        self._run = None
        if self._watch is not None:
            self._watch.end()

    def _advance(self) -> dict[str, Any]:
        self._stage += 1
        if self._stage == 0:
            place = settle(self._needs)
            plan = Plan.from_json(self._text)  # which may name a dimension of a person's own modules
            self._own, self._folder = place.own, place.settings.folder
            self._watch = Watch(trial_folder(place.settings.folder, plan))
            known = earlier_record(place.storage, plan, self._number)
            if known is not None:
                return _ended(known)
            self._run = self._opened(place, plan)
            self._figures = self._run.profile()
            result = {"phase": PROFILED, "figures": json_text(asdict(self._figures))}
            return {**result, "damaged": list(self._run.damaged)} if self._run.damaged else result
        assert self._run is not None
        rung = self._run.reach(self._stage - 1, self._stages[self._stage - 1])
        if (useless := self._run.given_up(self._figures)) is not None:
            return _ended(useless)
        if self._stage == len(self._stages):
            record = self._run.finish()
            if self._own:  # it has been sent
                shutil.rmtree(candidate_path(self._run.folder, record.plan), ignore_errors=True)
            return _ended(record)
        figures = json_text(
            {
                **asdict(self._figures),
                "error": rung.error,
                "divergence": rung.divergence,
                "divergence_standard_error": rung.divergence_standard_error,
            }
        )
        return {"phase": RUNG, "rung": json_text(asdict(rung)), "figures": figures}

    def _opened(self, place: Place, plan: Plan) -> CandidateRun:
        """The candidate on its way; data, network and program are opened by the first of them."""
        from pipeline.candidate.bench import Bench
        from pipeline.candidate.stages import CandidateRun

        if CotuneTrial._bench is None or CotuneTrial._bench.settings != place.settings:
            use_threads()
            workspace = workspace_here(self._needs, place.settings)
            CotuneTrial._bench = Bench(place.settings, workspace, place.program)
        workers = place.settings.workers_per_trial
        run = CandidateRun(
            CotuneTrial._bench,
            plan,
            self._number,
            self._devices,
            self._references,
            device="cuda" if place.settings.gpus_per_trial and workers == 1 else "cpu",
            train=None if workers == 1 else self._train_together,
            storage=place.storage,
            inherits=self._inherits,
        )
        self._stages = run.stages
        return run

    def _train_together(self, plan: Plan, stage: Stage) -> None:
        """Several workers train to the end of a stage. One TorchTrainer per rung: what it costs to start (seconds) is little
        beside a rung that needs several workers, and a stopped trial leaves no worker behind."""
        from ray import train
        from ray.train.torch import TorchTrainer

        settings = self._needs.settings
        workers, gpus = settings.workers_per_trial, settings.gpus_per_trial
        resources = {"CPU": 1.0, **({"GPU": gpus / workers} if gpus else {})}
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={
                "needs": self._needs,
                "plan": plan.to_json(),
                "stage": stage.place,
            },
            scaling_config=train.ScalingConfig(
                num_workers=workers,
                use_gpu=bool(gpus),
                resources_per_worker=resources,
                label_selector=dict(HOSTS),  # type: ignore[call-arg]  # Ray annotates an older class
            ),
            run_config=train.RunConfig(
                name=f"train-{plan.hash}",
                # Ray's own marks: of this node, since the checkpoints go where all workers find them.
                storage_path=str(self._folder / "tune"),
                failure_config=train.FailureConfig(max_failures=1),
            ),
        )
        trainer.fit()


def train_worker(config: dict[str, Any]) -> None:
    """One of a trial's workers: the same loop with its share of each batch; the first writes the checkpoint."""
    import torch
    from ray import train
    from ray.train.torch import get_device
    from torch import nn

    from pipeline.candidate.stages import cotuning
    from pipeline.training.loop import Portion

    context, place = train.get_context(), settle(config["needs"])
    plan, device = Plan.from_json(config["plan"]), get_device()
    use_threads()
    saved = last_checkpoint(place.storage, plan)

    def wrap(network: nn.Module) -> nn.Module:
        places = [device] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=places)

    run = cotuning(
        workspace_here(config["needs"], place.settings),
        plan,
        device=device,
        portion=Portion(context.get_world_rank(), context.get_world_size(), wrap),
        state=saved.state,
    )
    if context.get_world_rank() == 0:
        keep_between(place.storage, plan, run, saved.curve)
    rung = run.reach(Stage(*config["stage"]), may_give_up=True)
    if context.get_world_rank() == 0:
        save_checkpoint(place.storage, plan, run, (*saved.curve, rung))
    torch.distributed.barrier()  # nobody leaves before the checkpoint lies there


def no_memory(error: BaseException) -> str | None:
    """What was asked for, where a trial or one of its workers was refused memory or killed; None for other failures."""
    if (asked := refused(error)) is not None:
        return asked
    if isinstance(error, (RayActorError, OutOfMemoryError, WorkerCrashedError)):
        return "one of its workers was killed"
    further = [*(getattr(error, "worker_failures", None) or {}).values(), getattr(error, "cause", None)]
    found = (no_memory(cause) for cause in further if isinstance(cause, BaseException))
    return next((asked for asked in found if asked is not None), None)


def of_surroundings(error: BaseException) -> bool:
    """Whether a trial failed for what is around it, a disk, the network or a node: another time or place may be better."""
    lost = isinstance(error, RayError) and not isinstance(error, RayTaskError)
    return lost or isinstance(error, OSError)


def one_line(error: BaseException) -> str:
    """The reason of a failure in one line; of a group of workers, the first worker's."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        return one_line(next(iter(failures.values())))
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return one_line(cause)
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text if len(text) <= 300 else text[:297] + '...'}"


def use_threads() -> None:
    """As many threads as this process was given processors (Ray says so in OMP_NUM_THREADS)."""
    import torch

    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))


def _ended(record: TrialRecord) -> dict[str, Any]:
    return {"phase": ENDED, "record": record.to_json(), "done": True}
