"""What the parts of a search cost on this machine, each timed on the real thing: steps of co-tuning, evaluation, compilation,
emulation. Nothing that is trained here is kept.

Processor seconds are counted, not those on the clock: what else runs on the machine meanwhile does not change them.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.frontend import compile_graph
from deploy_arm.costs.choose import choose_kernels
from deploy_arm.ir.reference import run as run_reference
from deploy_arm.runtime.program import build_program
from pipeline.cluster.pool import LocalDevice
from pipeline.training.cotuning import Cotuning
from pipeline.training.judges import Judge
from pipeline.training.loop import Diverged, Loop
from pipeline.training.pretraining import parameter_groups, pretrained_file
from pipeline.training.settings import TrainSettings, pretraining_settings
from quantizers.calibration.assignment import Problem, solve
from quantizers.calibration.reconstruction import Reconstruction
from quantizers.core.grid import WeightGrid
from quantizers.network import quantizers_of, synthetic

if TYPE_CHECKING:
    from foundation.plan import Plan
    from pipeline.candidate.workspace import Workspace

STEPS = 6  # that are timed, after one that pays for set-up; the median counts
ENOUGH = 8.0  # seconds after which no further step is timed
STEP_SECONDS = 2.0  # a longer step is timed with a smaller batch
PROBE = 8  # images
EMULATE_AT_MOST = (
    3e8  # multiply-accumulates of a network that is emulated here; larger ones are estimated from them
)
EMULATED_MACS_PER_SECOND = 4e8  # dense int8 kernels under emulation with counting, on one core


@dataclass(frozen=True)
class TrialCost:
    """Seconds of one trial's parts with ``threads`` processors.

    Attributes:
        start: quantizing the network, calibrating and clustering, and rebuilding its layers.
        step: one step of co-tuning.
        evaluation: of one rung: hard weights, batch-norm statistics, the images on which rungs are judged.
        program: compiling and profiling once.
        finish: all of the search half, comparing with the reference and writing the candidate's folder.
    """

    start: float
    step: float
    evaluation: float
    program: float
    finish: float

    def seconds(self, steps: float, rungs: float) -> float:
        """A trial of so many steps that is evaluated at so many rungs. Its program is made before and after training."""
        return self.start + steps * self.step + rungs * self.evaluation + 2 * self.program + self.finish


def processor_seconds() -> float:
    """What this process and the programs it ran have computed so far."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def seconds_of(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of ``work`` per thread of torch, and what it gave."""
    start, own = processor_seconds(), time.process_time()
    result = work()
    mine = time.process_time() - own
    others = processor_seconds() - start - mine
    return mine / torch.get_num_threads() + others, result


def step_seconds(
    make: Callable[[TrainSettings], Any], settings: TrainSettings, images: int
) -> tuple[Any, float]:
    """A run of ``make`` and the seconds of one of its steps, the median of several.

    Args:
        make: gives a run (``pipeline.training.loop.Loop``) with given settings.
        images: in the training set.
    """
    run = make(settings)
    wanted = run.batch_size
    probed, _ = seconds_of(lambda: _forward_backward(run, min(PROBE, wanted)))
    batch = wanted
    if probed / min(PROBE, wanted) * wanted > STEP_SECONDS:
        batch = max(2, min(wanted, int(PROBE * STEP_SECONDS / probed)))
        run = make(dataclasses.replace(settings, batch_size=batch))
    taken: list[float] = []
    for number in range(min(STEPS + 1, run.total_steps)):
        seconds, _ = seconds_of(partial(_until, run, (number + 1) / run.steps_per_epoch))
        taken.append(seconds)
        if sum(taken) > ENOUGH and number:
            break
    return run, statistics.median(taken[1:] or taken) * wanted / batch


def _until(run: Any, epochs: float) -> None:
    with contextlib.suppress(Diverged):  # an untrained network may; its steps take as long
        run.run_until(epochs)


def _forward_backward(run: Any, count: int) -> None:
    images, _ = run.batch(0)
    run.network.train()
    run.network(images[:count]).float().sum().backward()
    run.network.zero_grad(set_to_none=True)


def trial_cost(workspace: Workspace, plan: Plan, macs: int) -> TrialCost:
    """The parts of a trial with this plan. Call it with as many threads as a trial has."""
    settings, data = workspace.settings, workspace.data
    chosen = settings.training()
    begun: list[float] = []

    def make(with_settings: TrainSettings) -> Cotuning:
        run: Cotuning
        seconds, run = seconds_of(
            lambda: Cotuning(
                workspace.model,
                plan,
                data,
                with_settings,
                workspace.mean,
                workspace.std,
                judges=workspace.judges,
            )
        )
        begun.append(seconds)
        return run

    run, step = step_seconds(make, chosen, len(data.train))
    hard, hardened = seconds_of(run.hardened)
    few = torch.arange(min(len(data.search), 64))
    shown = Judge(hardened.network, data.search, few, workspace.mean, workspace.std, 64, workspace.task)
    part, _ = seconds_of(lambda: shown.wanted)
    image_seconds = part / len(few)
    judges = workspace.judges
    evaluation = hard + image_seconds * (len(judges.rung) + len(judges.kept))
    rebuilding = rebuild_seconds(run.network, min(chosen.rebuild_images, len(judges.taught)), image_seconds)

    network = synthetic(run.network, plan, settings.seed)
    compiling, graph = seconds_of(
        lambda: choose_kernels(
            compile_graph(network, workspace.input_shape, workspace.mean, workspace.std), settings.target
        )
    )
    image = data.search.batch(torch.tensor([0])).numpy()
    reference, _ = seconds_of(lambda: run_reference(graph, image))
    if macs <= EMULATE_AT_MOST:
        device, program, blob = (
            LocalDevice(settings.target, settings.devices, settings.modules),
            build_program(settings.target).read_bytes(),
            write_blob(graph),
        )
        layers = [operation.layer for operation in graph.operations]
        emulating, _ = seconds_of(lambda: device.profile(program, blob, image[0], layers, anew=True))
    else:
        emulating = 1 + 2 * macs / EMULATED_MACS_PER_SECOND
    finish = image_seconds * len(data.search) + 4 * reference + emulating
    return TrialCost(begun[0] + rebuilding, step, evaluation, compiling + emulating, finish)


def rebuild_seconds(network: nn.Module, images: int, image_seconds: float) -> float:
    """Of solving all layers of a quantized network: what one layer takes here, by the work that the others are."""
    generator = torch.Generator().manual_seed(0)
    outputs, inputs = 64, 288
    seen = torch.randn(1, 2048, inputs, generator=generator)
    weight = torch.randn(1, outputs, inputs, generator=generator)
    grid = WeightGrid.even(torch.arange(-2, 2).double(), weight.std(), outputs)
    making, problem = seconds_of(
        lambda: Problem.of(weight, seen, seen, torch.ones(1, outputs, dtype=torch.float64), 0.01)
    )
    solving, _ = seconds_of(lambda: solve(problem, grid, None, Reconstruction.rounds, Reconstruction.passes))
    positions = images * Reconstruction.positions
    total = 4 * images * image_seconds  # both networks walk, and patches are drawn
    for _, quantizer, latent in quantizers_of(network):
        if quantizer.grid(latent.detach()) is None:
            continue
        groups = 1 if latent.shape[1] > 1 else len(latent)
        rows, wide = len(latent) / groups, latent[0].numel()
        total += groups * making * positions / seen.shape[1] * (wide / inputs) ** 2
        total += groups * solving * rows / outputs * (wide / inputs) ** 2
    return total


def mean_cost(costs: Sequence[TrialCost]) -> TrialCost:
    """Part by part."""
    return TrialCost(
        *(statistics.mean(getattr(c, part) for c in costs) for part in TrialCost.__annotations__)
    )


def pretraining_seconds(workspace: Workspace) -> float:
    """Of training the fp32 network first, with all processors; 0 where there are weights, or it lies in the cache."""
    settings, data = workspace.settings, workspace.data
    if settings.weights is not None:
        return 0.0
    recipe = dataclasses.replace(pretraining_settings(len(data.train)), seed=settings.seed)
    mean, std = workspace.mean, workspace.std
    if pretrained_file(workspace.model, data, mean, std, settings.model, recipe).is_file():
        return 0.0

    def make(with_settings: TrainSettings) -> Loop:
        network = copy.deepcopy(workspace.model)
        groups = parameter_groups(network, with_settings)
        return Loop(network, data, with_settings, mean, std, groups, device=torch.device("cpu"))

    _, step = step_seconds(make, recipe, len(data.train))
    batch = min(recipe.batch_size, len(data.train))
    return step * round(recipe.epochs * (len(data.train) // batch))
