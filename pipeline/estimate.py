"""What a search would cost: the dry run's figures, each with the assumption behind it."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch

from pipeline.images import normalize
from pipeline.progress import show_bytes, show_seconds
from pipeline.workspace import Workspace
from search_spaces.layers import layers_of
from search_spaces.space import Space

EMULATED_MACS_PER_SECOND = 4e8  # dense int8 kernels under emulation with counting, on one core
PROFILES_PER_TRIAL = 2  # before training with weights of the plan's shape, after it with the real ones
COTUNING_OVERHEAD = 1.3  # mixtures, activation steps and the fp32 teacher, over plain fine-tuning
STEP_BATCH = 16


def seconds_per_image(workspace: Workspace) -> float:
    """Time of one forward and backward pass for one image on this machine; nothing is updated."""
    model = copy.deepcopy(workspace.model).train()
    count = min(STEP_BATCH, len(workspace.data.train))
    images = normalize(workspace.data.train.batch(torch.arange(count)), workspace.mean, workspace.std)
    best = float("inf")
    for _ in range(2):  # the first pass pays for set-up
        start = time.perf_counter()
        model(images).sum().backward()
        best = min(best, time.perf_counter() - start)
    return best / count


def estimate(workspace: Workspace, space: Space) -> dict[str, Any]:
    """Layers, size of the space, and estimates of time, device time and disk."""
    settings, data = workspace.settings, workspace.data
    layers = layers_of(workspace.model, workspace.input_shape)
    macs, parameters = sum(x.macs for x in layers), sum(p.numel() for p in workspace.model.parameters())
    images = settings.epochs_per_trial * len(data.train)
    trial = images * seconds_per_image(workspace) * COTUNING_OVERHEAD / settings.workers_per_trial
    device = PROFILES_PER_TRIAL * (1 + 2 * macs / EMULATED_MACS_PER_SECOND)
    candidate = 2_000_000 + 2 * parameters
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
        "plans": str(space.size()),  # beyond what JSON readers hold as a number
        "trials": settings.budget,
        "trial_seconds": trial,
        "device_seconds_per_trial": device,
        "total_seconds": settings.budget * (trial + device) / settings.concurrency,
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
        f"about 10^{magnitude} plans in the space",
        f"{result['trials']} trials, {concurrency} at a time; estimates, from one timed step here:",
        f"  training    {show_seconds(result['trial_seconds'])} a trial at most",
        f"  device      {show_seconds(result['device_seconds_per_trial'])} a trial, emulated",
        f"  together    {show_seconds(result['total_seconds'])}",
        f"  disk        {show_bytes(result['disk_bytes'])}",
        "nothing was trained or written",
    ]
    return "\n".join(lines)
