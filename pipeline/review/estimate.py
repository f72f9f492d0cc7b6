"""What a search would cost: the dry run's figures, from parts that are timed on this machine (``pipeline.review.timing``)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from foundation.show import show_bytes, show_seconds
from pipeline.candidate.workspace import Workspace
from pipeline.review.timing import mean_cost, pretraining_seconds, processor_seconds, trial_cost
from pipeline.study.halving import Rungs, always
from pipeline.training.stages import HELD, Stage, places
from quantizers.core.producers import producers_of
from quantizers.core.threads import threads
from search_spaces.layers import layers_of
from search_spaces.space import Space

# Processor seconds of what does not depend on network and data, as measured on a machine of 2 cores in 2026.
SERVICES = 16.0  # Ray, its device pool, Optuna and MLflow, once
TRACKING = 1.0  # telling the study and MLflow of one trial, in the process that drives
PUBLISHING = 6.0  # front, report and their copies in MLflow
SHARES_TIMED = (1 / 3, 2 / 3)  # which of the first plans are timed
LARGE = 5e6  # parameters; of such a network only one plan is timed


def expected_steps(
    rungs: Rungs, stages: Sequence[Stage], trials: int, steps_per_epoch: int, held_steps: int
) -> tuple[float, float]:
    """Steps and rungs of a trial on average, where which trials go on at a rung has nothing to do with their order."""
    steps = reached = 0.0
    for number in range(1, trials + 1):
        share, before = 1.0, 0.0
        for place, stage in enumerate(stages):
            own = held_steps if stage.name == HELD else (stage.epochs - before) * steps_per_epoch
            steps += share * own
            reached += share
            before = stage.epochs
            if rungs.compares(place):
                share *= min(1.0, rungs.keeps(number) / number)
    return steps / trials, reached / trials


def estimate(workspace: Workspace, space: Space) -> dict[str, Any]:
    """Layers, size of the space, and estimates of time, device time and disk."""
    loading = processor_seconds()  # what this process took to get here, every process of a search takes again
    settings, data = workspace.settings, workspace.data
    layers = layers_of(workspace.model, workspace.input_shape, producers_of(workspace.model))
    macs, parameters = sum(x.macs for x in layers), sum(p.numel() for p in workspace.model.parameters())
    starts = space.warm_starts()
    plans = [starts[int(share * len(starts))] for share in SHARES_TIMED[: 1 if parameters > LARGE else 2]]
    cores, together = os.cpu_count() or 1, settings.concurrency
    with threads(max(1, cores // together)):
        cost = mean_cost([trial_cost(workspace, plan, macs) for plan in plans])
    pretraining = pretraining_seconds(workspace)

    batch = min(settings.batch_size, len(data.train))
    stages, training = settings.stages, settings.training()
    at_least = always(settings.budget, len(starts), settings.halving)
    rungs = Rungs(places(stages), settings.rungs, at_least=at_least)
    per_epoch = len(data.train) // batch
    steps, reached = expected_steps(rungs, stages, settings.budget, per_epoch, training.held_steps)
    steps /= settings.workers_per_trial
    trial = cost.seconds(steps, reached)
    # Two references: evaluated, compiled and profiled, one of them quantized.
    references = cost.start + 2 * (cost.evaluation + cost.program)
    start = loading + SERVICES + references + min(together, cores) * loading / cores
    waves = settings.budget / min(together, settings.budget)
    # Where trials take all cores, telling of them takes turns with them.
    running = waves * trial + TRACKING * settings.budget / cores
    total = pretraining + start + running + PUBLISHING
    device = 2 * cost.program
    candidate = 2_000_000 + (6 if settings.inherits else 2) * parameters
    checkpoint = 4 * parameters * 3  # weights, momentum, the last good state
    result: dict[str, Any] = {
        "model": settings.model,
        "data": data.name,
        "images": {split: len(getattr(data, split)) for split in ("train", "search", "report")},
        "layers": [
            {"name": x.name, "kind": x.kind, "weight_shape": list(x.weight_shape), "parameters": x.parameters, "macs": x.macs}
            for x in layers
        ],
        "parameters": parameters,
        "macs": macs,
        "dimensions": list(space.dimensions),
        "plans": str(space.size()),  # beyond what JSON readers hold as a number
        "trials": settings.budget,
        "pretraining_seconds": pretraining,
        "start_seconds": start,
        "trial_seconds": trial,
        "device_seconds_per_trial": device,
        "publishing_seconds": PUBLISHING,
        "total_seconds": total,
        "disk_bytes": settings.budget * candidate + settings.concurrency * checkpoint,
        "settings": settings.as_dict(),
    }  # fmt: skip
    result["text"] = _text(result, len(str(space.size())) - 1, settings.concurrency)
    return result


def _text(result: dict[str, Any], magnitude: int, concurrency: int) -> str:
    width = max(len(layer["name"]) for layer in result["layers"])
    lines = [f"{'layer':<{width}}  kind         parameters        MACs  weight"]
    lines += [
        f"{x['name']:<{width}}  {x['kind']:<11}  {x['parameters']:>10,}  {x['macs']:>10,}  "
        f"{'x'.join(map(str, x['weight_shape']))}"
        for x in result["layers"]
    ]
    images = result["images"]
    lines += [
        "",
        f"{len(result['layers'])} layers, {result['parameters']:,} parameters, {result['macs']:,} multiply-accumulates an image",
        f"{images['train']:,} images train, {images['search']:,} guide the search, {images['report']:,} report",
        f"about 10^{magnitude} plans: {', '.join(result['dimensions'])}",
        f"{result['trials']} trials, {concurrency} at a time; estimates from parts timed here, on cores that do nothing else:",
        f"  fp32        {show_seconds(result['pretraining_seconds'])} of training it first",
        f"  start       {show_seconds(result['start_seconds'])}, with the references",
        f"  trials      {show_seconds(result['trial_seconds'])} each on average, "
        f"{show_seconds(result['device_seconds_per_trial'])} of it compiling and emulating",
        f"  end         {show_seconds(result['publishing_seconds'])}, front and report",
        f"  together    {show_seconds(result['total_seconds'])}",
        f"  disk        {show_bytes(result['disk_bytes'])}",
        "nothing was trained or written",
    ]
    return "\n".join(lines)
