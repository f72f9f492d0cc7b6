"""Sparse networks from random weights, four ways (the comparison of iterative soft shrinkage, ISS-P: arXiv 2303.09650).

    python -m benchmarks.shrinking_from_scratch --data npz:CIFAR10.npz --epochs 2 --zero-shares 0.9 0.95

Float weights, no mixture, no teacher; equal steps, one schedule. Every convolution but the first has the share of zeros at the
end, and the last third of the steps trains what is left:

    shrunk       after each step the smallest weights of a layer are multiplied by ``--shrink``, those of the last step stay zero
    hard         the same with a factor of 0 (iterative hard thresholding)
    at-start     the smallest random weights are zero from the first step on, always the same
    dense-first  nothing is zero for two thirds of the steps, then the smallest weights, all at once
    dense        nothing is ever zero, whatever share is asked for

Errors are those of the report half; ``search_error``, by which a factor may be chosen, of the other. ``movement`` is the share
of weights that joined or left the smallest in the last step before they were settled. A row is appended when its run is done; a
run that the file has is passed over.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.rows import append, as_text, done_in
from foundation.command import Parser, main_guard
from pipeline.training.loop import Loop

RESULT = Path(__file__).parent / "results" / "shrinking_from_scratch.csv"
METHODS = ("shrunk", "hard", "at-start", "dense-first", "dense")
SETTLED = 2 / 3  # of the steps


@dataclass(frozen=True)
class ScratchCell:
    """One row's conditions."""

    network: str
    method: str
    zero_share: float
    shrink: float | None
    epochs: float
    rate: float
    seed: int


def smallest(weight: Tensor, share: float) -> Tensor:
    """Which weights are among that share of the smallest, bool like ``weight``."""
    count = round(share * weight.numel())
    found = torch.zeros(weight.numel(), dtype=torch.bool)
    found[weight.detach().abs().flatten().topk(count, largest=False, sorted=False).indices] = True
    return found.reshape(weight.shape)


class SparseLoop(Loop):
    """Training in which the convolutions ``layers`` come to have ``share`` of their weights zero."""

    def prune(self, layers: Sequence[nn.Conv2d], method: str, share: float, shrink: float) -> None:
        """Say how; before the first step."""
        self._weights = [layer.weight for layer in layers]
        self._share, self._method, self._factor = share, method, shrink if method == "shrunk" else 0.0
        self._chosen: list[Tensor] = []
        self.movement = 0.0

    @torch.no_grad()
    def before_step(self, share: float) -> None:
        settled = share >= SETTLED
        if self._method == "dense" or (self._method == "dense-first" and not settled):
            return
        fixed = self._chosen and (self._method == "at-start" or settled)
        if not fixed:
            chosen = [smallest(weight, self._share) for weight in self._weights]
            if self._chosen:
                changed = sum(int((old ^ new).sum()) for old, new in zip(self._chosen, chosen, strict=True))
                self.movement = changed / sum(weight.numel() for weight in self._weights)
            self._chosen = chosen
        factor = 0.0 if settled else self._factor
        for weight, zero in zip(self._weights, self._chosen, strict=True):
            weight.mul_(torch.where(zero, factor, 1.0))

    def finish(self) -> None:
        """What the last step moved off zero."""
        self.before_step(1.0)


def measure(cell: ScratchCell, data: Any) -> dict[str, Any]:
    """Train and judge one."""
    from pipeline.networks.registry import find_network, load_model
    from pipeline.training.evaluation import predictions
    from pipeline.training.settings import TrainSettings

    torch.manual_seed(cell.seed)
    mean, std = find_network(cell.network).normalization
    network = load_model(cell.network, classes=len(data.classes), image_size=data.image_size)
    settings = TrainSettings(epochs=cell.epochs, learning_rate=cell.rate, seed=cell.seed)
    groups = [
        {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    for group in groups:
        group["lr"] = cell.rate
    loop = SparseLoop(network, data, settings, mean, std, groups, device=torch.device("cpu"))
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)][1:]
    loop.prune(layers, cell.method, cell.zero_share, cell.shrink or 0.0)
    loop.run_until(cell.epochs)
    loop.finish()
    network.eval()
    errors = {
        name: 1 - float((predictions(network, half, mean, std) == half.labels).double().mean())
        for name, half in (("error", data.report), ("search_error", data.search))
    }
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers) / sum(
        layer.weight.numel() for layer in layers
    )
    return {
        **errors, "zeros": zeros, "movement": loop.movement, "steps": loop.step, "images": len(data.report),
        "torch": torch.__version__,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see the module's text."""
    from pipeline.datasets.registry import load_data

    parser = Parser(
        prog="python -m benchmarks.shrinking_from_scratch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--network", default="resnet8")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--zero-shares", nargs="+", type=float, default=[0.9, 0.95])
    parser.add_argument("--shrink", nargs="+", type=float, default=[0.99])
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    data, done = load_data(args.data), done_in(args.out, ScratchCell)
    for seed, share, method, shrink in itertools.product(
        args.seeds, args.zero_shares, args.methods, args.shrink
    ):
        cell = ScratchCell(
            args.network, method, 0.0 if method == "dense" else share, shrink if method == "shrunk" else None,
            args.epochs, args.rate, seed,
        )  # fmt: skip
        said = as_text(asdict(cell))
        if tuple(said.values()) in done:
            continue
        done.add(tuple(said.values()))
        row = measure(cell, data)
        append(args.out, {**said, **as_text(row)})
        print(*said.values(), *as_text(row).values(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
