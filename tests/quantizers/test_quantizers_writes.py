"""Networks that overwrite tensors: the traced network computes, bit for bit, what the given one computes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantizers.tracing.trace import traced

CHANNELS = 4


def _set_channels(x: Any, y: Any) -> None:
    x[:, 1:3] = y[:, 1:3]


def _add_to_channels(x: Any, y: Any) -> None:
    x[:, 2:] += y[:, :2]


def _first_of_chunks(x: Any, y: Any) -> Any:
    first, second = x.chunk(2, 1)
    first.relu_()
    return second + first


def _through_split(x: Any, y: Any) -> Any:
    parts = torch.split(x, [1, 3], dim=1)
    parts[1].mul_(-0.5)
    return parts[1]


def _through_two_views(x: Any, y: Any) -> None:
    x.permute(0, 2, 3, 1)[..., :].transpose(1, 2).add_(0.25)


def _through_shape(x: Any, y: Any) -> Any:
    flat = x.view(x.size(0), 2, -1, x.size(2), x.size(3))
    x.mul_(0.5)
    flat.sigmoid_()
    return flat.view(x.shape)


def _plus(x: Any, y: Any) -> Any:
    x += y
    return x


def _times(x: Any, y: Any) -> Any:
    x *= 0.5
    return x


def _minus(x: Any, y: Any) -> None:
    x -= 0.3


WRITES: list[Callable[[Any, Any], Any]] = [
    lambda x, y: x.add_(y),
    lambda x, y: x.mul_(0.7),
    lambda x, y: x.clamp_(-1, 1),
    lambda x, y: x.sub_(0.2).relu_(),
    lambda x, y: F.relu(x, inplace=True),
    lambda x, y: F.relu(x, True),
    lambda x, y: F.hardtanh(x, -0.5, 0.5, True),
    lambda x, y: F.leaky_relu(x, 0.2, inplace=True),
    lambda x, y: F.elu_(x),
    lambda x, y: torch.relu_(x),
    lambda x, y: torch.sigmoid_(x),
    lambda x, y: torch.add(x, y, out=x),
    lambda x, y: x.detach().abs_(),
    lambda x, y: x.unsqueeze(1).neg_(),
    lambda x, y: x.narrow(1, 1, 2).relu_(),
    *(_set_channels, _add_to_channels, _first_of_chunks, _through_split, _through_two_views, _through_shape),
    *(_plus, _times, _minus),
]
MAKERS: dict[str, Callable[[Any, Any], Any]] = {
    "alias": lambda x, y: x,
    "view": lambda x, y: x.transpose(2, 3),
    "sum": lambda x, y: x + y,
    "pool": lambda x, y: F.max_pool2d(x, 3, 1, 1),
}
MODULES: list[Callable[[], nn.Module]] = [
    lambda: nn.ReLU(inplace=True),
    lambda: nn.ReLU6(inplace=True),
    lambda: nn.Hardswish(inplace=True),
    lambda: nn.LeakyReLU(0.1, inplace=True),
    lambda: nn.SiLU(inplace=True),
    lambda: nn.Dropout(0.3, inplace=True),
]


class Random(nn.Module):
    """Convolutions, names for one tensor, views, and writes through any of them, in an order that ``seed`` decides."""

    def __init__(self, seed: int, steps: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 1)
        self.layers = nn.ModuleList()
        self.program: list[tuple[Any, int, int]] = []  # what is done to which of the tensors named so far
        choose, names = random.Random(seed), 2
        for _ in range(steps):
            kind = choose.choice(["write", "write", "module", "conv", "alias", "view", "sum", "pool"])
            first, second = choose.randrange(names), choose.randrange(names)
            what: Any = kind
            if kind == "write":
                what = choose.choice(WRITES)
            elif kind == "module":
                what = len(self.layers)
                self.layers.append(choose.choice(MODULES)())
            elif kind == "conv":
                what = len(self.layers)
                norm = nn.BatchNorm2d(CHANNELS)
                self.layers.append(nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), norm))
            names += kind not in ("write", "module")
            self.program.append((what, first, second))

    def forward(self, x: Tensor) -> Tensor:
        pool: list[Any] = [self.stem(x)]
        pool.append(pool[0])
        for what, first, second in self.program:
            x, y = pool[first], pool[second]
            if isinstance(what, int):
                result = self.layers[what](x)
                if isinstance(self.layers[what], nn.Sequential):
                    pool.append(result)
                elif second % 2:  # else nobody looks at the result
                    pool[first] = result
            elif callable(what):
                what(
                    x, y * 1.0
                )  # a copy: two names may mean one tensor, which would be written while it is read
            else:
                pool.append(MAKERS[what](x, y))
        return torch.cat(pool, 1)


@pytest.mark.parametrize("block", range(10))
def test_random_networks_are_traced_bit_for_bit(block: int) -> None:
    for seed in range(block * 15, block * 15 + 15):
        torch.manual_seed(seed)
        given = Random(seed)
        for training in (False, True):
            given.train(training)
            graph = traced(given)
            assert not any(getattr(module, "inplace", False) for module in graph.modules())
            x = torch.randn(2, 3, 6, 6)
            results = []
            for network in (given, graph):
                torch.manual_seed(1)  # of the dropouts
                with torch.no_grad():
                    results.append(network(x.clone()))
            assert torch.equal(*results), f"seed {seed}, training {training}"
