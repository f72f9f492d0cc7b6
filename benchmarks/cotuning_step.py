"""Cost of one optimizer step of co-tuning against the same step in fp32, through the same training loop.

    python -m benchmarks.cotuning_step [--model resnet20] [--size 32] [--batch 128] [--device cpu|cuda] [--bfloat16]
        [--bits 2] [--zero-share 0.7] [--repeat 30] [--threads 2] [--record benchmarks/results/cotuning_step.csv]

A step is housekeeping, forward, loss, backward, clipping and SGD on a batch that lies ready; networks have random weights and
see random pixels, since the cost does not depend on them. Both sides use the same loss. The ratio is given twice: with
cross-entropy alone, and with the fp32 teacher whose forward pass co-tuning adds to both sides by default. Repetitions of all
sides alternate within one process, so that a busy machine slows all of them; ratios are medians of each repetition's own. The
memory column is the peak of a CUDA device, on the CPU what the backward pass keeps of the forward pass (bytes saved by
autograd, each storage once, parameters and buffers left out).

The parts, in percent of the fp32 step: ``weights`` is what soft weights alone add and ``activations`` what learned steps alone
add, ``step_gradients`` the part of it that is the gradient of the steps; ``housekeeping``, ``clip`` and ``optimizer`` are
timed in the whole step, the last two less their fp32 figure.
"""

from __future__ import annotations

import argparse
import copy
import csv
import dataclasses
import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pipeline.data import ImageData
from pipeline.files import write_atomically
from pipeline.images import ArrayImages
from pipeline.models import default_image_size, load_model, normalization
from pipeline.training.cotuning import Cotuning
from pipeline.training.loop import Loop
from pipeline.training.settings import TrainSettings
from quantizers.activation import LearnedStep
from quantizers.errors import UserError
from quantizers.network import layer_names, quantizers_of, without_steps
from search_spaces.plan import LayerPlan, Plan

STEPS = 10_000  # the training that the steps are taken from is this long


class FullPrecision(Cotuning):
    """The same loop, loss and teacher around the network as it is."""

    def __init__(self, model: nn.Module, data: ImageData, settings: TrainSettings, device: str) -> None:
        network = copy.deepcopy(model).to(device)
        self.teacher = None
        if settings.distillation:
            self.teacher = copy.deepcopy(model).eval().requires_grad_(False).to(device)
        parameters = list(network.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        mean, std = (0.5,) * 3, (0.25,) * 3
        Loop.__init__(self, network, data, settings, mean, std, groups, device=torch.device(device))

    def before_step(self, share: float) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What is timed."""

    model: str
    size: int
    batch: int
    device: str
    bfloat16: bool
    bits: int
    zero_share: float | None
    threads: int


def noise(conditions: Conditions, classes: int) -> ImageData:
    """Random images, four batches of them."""
    generator = torch.Generator().manual_seed(0)
    count, size = max(4 * conditions.batch, 256), conditions.size
    pixels = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
    images = ArrayImages(pixels, torch.randint(0, classes, (count,), generator=generator))
    names = tuple(str(i) for i in range(classes))
    return ImageData("noise", names, (size, size), images, images, images, "none")


def runs(conditions: Conditions, model: nn.Module, data: ImageData, teacher: bool) -> dict[str, Cotuning]:
    """The step in fp32 and by co-tuning, and by parts of co-tuning."""
    settings = TrainSettings(
        epochs=STEPS / (len(data.train) // conditions.batch), batch_size=conditions.batch,
        distillation=float(teacher), bfloat16=conditions.bfloat16, calibration_images=64,
    )  # fmt: skip
    names = layer_names(model)
    layer = LayerPlan(conditions.bits, 2**conditions.bits, conditions.zero_share)
    plan = Plan({**dict.fromkeys(names, layer), names[0]: LayerPlan(8), names[-1]: LayerPlan(8)})

    def cotuned(change: Callable[[nn.Module], None] | None = None) -> Cotuning:
        run = Cotuning(model, plan, data, settings, (0.5,) * 3, (0.25,) * 3, device=conditions.device)
        if change:
            change(run.network)
            kept = {id(p) for p in run.network.parameters()}
            for group in run.optimizer.param_groups:
                group["params"] = [p for p in group["params"] if id(p) in kept]
        return run

    found = {
        "fp32": FullPrecision(model, data, settings, conditions.device),
        "cotuning": cotuned(),
    }
    if not teacher:
        found |= {
            "weights": cotuned(without_steps),
            "activations": cotuned(_without_mixtures),
            "steps_fixed": cotuned(lambda network: (_without_mixtures(network), _fix_steps(network))[0]),
        }
    for run in found.values():
        batches = [run.batch(step) for step in range(4)]
        run.batch = lambda step, batches=batches: batches[step % 4]  # type: ignore[method-assign, misc]
        run.called.train()
    return found


def _without_mixtures(network: nn.Module) -> None:
    for name, _, weight in list(quantizers_of(network)):
        layer = network.get_submodule(name)
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        layer.weight = weight


def _fix_steps(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, LearnedStep):
            module.step.requires_grad_(False)
