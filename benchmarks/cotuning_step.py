"""Cost of one optimizer step of co-tuning against the same step in fp32, through the same training loop.

    python -m benchmarks.cotuning_step [--model resnet20] [--size 32] [--batch 128] [--device cpu|cuda] [--bfloat16]
        [--bits 2] [--zero-share 0.7] [--repeat 20] [--threads 1 2] [--record benchmarks/results/cotuning_step.csv]

A step is housekeeping, forward, loss, backward, clipping and SGD on a batch that lies ready; networks have random weights and
see random pixels. Both sides have the same loss: in the rows ``step`` cross-entropy alone, in the rows ``step with teacher``
with the fp32 network's answers too, which both sides then compute. ``components held`` is a step in which every weight stays in
its component, as in a trial's first steps. The other rows are steps with a part of co-tuning alone: soft weights; activations
in 8 bits; the same with steps that do not learn. ``evaluation`` is a batch through the network with
hard weights and steps as deployed; ``evaluation of weights`` the same with activations left in float, where nothing but the
weights differs from fp32.

Repetitions of all rows alternate in one process, so that a busy machine slows all of them; a ratio is the median of the
repetitions' own ratios to fp32. Memory is the peak of a CUDA device; on a CPU it is what autograd keeps for the backward
pass, each storage once, without parameters and buffers. On a CUDA device the defaults are ResNet-50, 224 x 224, bfloat16.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from benchmarks.rows import write
from foundation.command import Parser, main_guard
from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from pipeline.datasets.base import ImageData
from pipeline.datasets.images import ArrayImages
from pipeline.networks.registry import find_network, load_model
from pipeline.training.cotuning import Cotuning
from pipeline.training.judges import Judges
from pipeline.training.loop import Loop
from pipeline.training.settings import TrainSettings
from quantizers.core.activation import TrainableStep
from quantizers.network import harden, layer_names, quantizers_of, without_steps

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
        self.task = Judges.of(model, data, settings, mean, std).search.task
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
        distillation=float(teacher), bfloat16=conditions.bfloat16, calibration_images=64, kept_images=0,
    )  # fmt: skip
    names = layer_names(model)
    layer = LayerPlan(conditions.bits, 2**conditions.bits, zero_share=conditions.zero_share)
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
            "components held": cotuned(_hold),
            "soft weights": cotuned(without_steps),
            "activations": cotuned(_without_mixtures),
            "activations, steps fixed": cotuned(_only_rounding),
        }
    for run in found.values():
        batches = [run.batch(step) for step in range(4)]
        run.batch = lambda step, batches=batches: batches[step % 4]  # type: ignore[method-assign, misc]
        run.called.train()
    return found


def _hold(network: nn.Module) -> None:
    for _, quantizer, weight in quantizers_of(network):
        quantizer.hold(weight)


def _without_mixtures(network: nn.Module) -> None:
    for name, _, weight in list(quantizers_of(network)):
        layer = network.get_submodule(name)
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        layer.weight = weight


def _only_rounding(network: nn.Module) -> None:
    _without_mixtures(network)
    for module in network.modules():
        if isinstance(module, TrainableStep):
            module.step.requires_grad_(False)


def evaluations(run: Cotuning, fp32: nn.Module) -> dict[str, Callable[[], Any]]:
    """A batch through the fp32 network and through networks with hard weights, nothing being learned."""
    deployed, weights = harden(run.network).network, harden(run.network).network
    without_steps(weights)
    images, _ = run.batch(0)

    def forward(network: nn.Module) -> Callable[[], Any]:
        def answer() -> Any:
            with torch.inference_mode(), run_autocast(run):
                return network(images)

        return answer

    plain = copy.deepcopy(fp32).eval()
    return {
        "fp32": forward(plain),
        "evaluation": forward(deployed),
        "evaluation of weights": forward(weights),
    }


def run_autocast(run: Cotuning) -> torch.autocast:
    return torch.autocast(run.device.type, torch.bfloat16, enabled=run.settings.bfloat16)


def step_of(run: Cotuning) -> Callable[[], None]:
    def step() -> None:
        run.one_step()

    return step


def ratios(sides: dict[str, Callable[[], Any]], repeat: int, device: str) -> dict[str, dict[str, float]]:
    """Median milliseconds and ratios to ``fp32`` of each side, in wall-clock time and in CPU time of the whole process."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for number in range(repeat + 1):
        for name, side in sides.items():
            _wait(device)
            start = time.perf_counter(), time.process_time()
            side()
            _wait(device)
            if number:  # the first loads what is loaded at first use
                taken[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    found = {}
    for name, times in taken.items():
        found[name] = {
            f"{what}_{unit}": value
            for place, what in enumerate(("wall", "cpu"))
            for unit, value in (
                ("ms", 1e3 * median(t[place] for t in times)),
                ("ratio", median(t[place] / base[place] for t, base in zip(times, taken["fp32"]))),
            )
        }
    return found


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def memory(run: Cotuning) -> int:
    """Bytes: the peak of a step on a CUDA device, on a CPU what is saved for the backward pass."""
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step_of(run)()
        return torch.cuda.max_memory_allocated()
    lasting = {t.untyped_storage().data_ptr() for t in (*run.network.parameters(), *run.network.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no place is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in lasting:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step_of(run)()
    return sum(storage.nbytes() for storage in kept.values())


def rows(conditions: Conditions, repeat: int) -> list[dict[str, Any]]:
    """All rows, fp32 first in each group."""
    torch.set_num_threads(conditions.threads)
    torch.manual_seed(0)
    classes = 10 if conditions.size <= 64 else 1000
    model = load_model(conditions.model, classes=classes, image_size=(conditions.size, conditions.size))
    data = noise(conditions, classes)
    device = torch.cuda.get_device_name() if conditions.device == "cuda" else platform.machine()
    about = {
        **dataclasses.asdict(conditions),
        "repeat": repeat,
        "machine": device,
        "torch": torch.__version__,
    }
    found = []
    for teacher in (False, True):
        sides = runs(conditions, model, data, teacher)
        groups = [(" with teacher" if teacher else "", {name: step_of(run) for name, run in sides.items()})]
        bytes_of = {name: memory(run) for name, run in sides.items()}
        if not teacher:
            groups.append(("", evaluations(sides["cotuning"], sides["fp32"].network)))
        for suffix, group in groups:
            steps = "evaluation" not in group
            for name, times in ratios(group, repeat, conditions.device).items():
                row: dict[str, Any] = {"row": name + suffix if steps or name != "fp32" else "fp32 evaluation"}
                row |= {key: round(value, 3) for key, value in times.items()}
                row["memory_mib"] = round(bytes_of[name] / 2**20, 1) if steps else ""
                row["memory_ratio"] = round(bytes_of[name] / bytes_of["fp32"], 3) if steps else ""
                found.append(row | about)
        del sides
    return found


def main(argv: list[str] | None = None) -> int:
    """Print the rows, and write them where asked."""
    parser = Parser(description="Cost of a co-tuning step against the same step in fp32.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", help="default: resnet20, on cuda resnet50")
    parser.add_argument("--size", type=int, help="pixels of an image's side; default: the model's")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=None)
    parser.add_argument("--bits", type=int, default=2, choices=(2, 3, 4), help="of weights (default 2)")
    parser.add_argument("--zero-share", type=float, help="share of zeros to be reached; default: none")
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=[1, 2],
        help="CPU threads, one table each (default 1, as a trial has beside others, and 2)",
    )
    parser.add_argument("--record", type=Path, help="CSV file to write")
    args = parser.parse_args(argv)
    try:
        if args.device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: this machine has no CUDA device; choose cpu")
        for name, given in (("batch", args.batch), ("repeat", args.repeat), ("threads", min(args.threads))):
            if given < (2 if name == "batch" else 1):
                raise UserError(f"--{name} {given}: give a positive number, a batch of 2 or more")
        if args.zero_share is not None and not 0 <= args.zero_share < 1:
            raise UserError(f"--zero-share {args.zero_share}: give a share from 0 to below 1")
        on_gpu = args.device == "cuda"
        model = args.model or ("resnet50" if on_gpu else "resnet20")
        size = args.size or find_network(model).image_size
        bfloat16 = on_gpu if args.bfloat16 is None else args.bfloat16
        found = []
        for threads in args.threads:
            conditions = Conditions(
                model, size, args.batch, args.device, bfloat16, args.bits, args.zero_share, threads
            )
            found += rows(conditions, args.repeat)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"threads {'':<28} {'wall':>9} {'ratio':>6} {'CPU time':>9} {'ratio':>6} {'memory':>10} {'ratio':>6}"
    )
    for row in found:
        print(
            f"{row['threads']:>7} {row['row']:<28} {row['wall_ms']:>6.1f} ms {row['wall_ratio']:>6.3f} {row['cpu_ms']:>6.1f} ms "
            f"{row['cpu_ratio']:>6.3f} {row['memory_mib']:>6} MiB {row['memory_ratio']:>6}"
        )
    if args.record:
        write(args.record, found)
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
