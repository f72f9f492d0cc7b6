"""What each plan of a layer does to its weights, before anything is trained: measured with the plan's own quantizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from foundation.codebook import Codebook, entropy
from foundation.plan import LayerPlan, Plan
from quantizers.core.threads import threads
from quantizers.network import quantizer_for

SAMPLE = 1 << 14  # weights of a layer that are looked at
ROWS = 16  # output channels at least: a few may be of another size than the layer


class ChoiceError(NamedTuple):
    """Of one plan of one layer.

    Attributes:
        quantization, pruning: half the sum of ``fisher * (weight - quantized) ** 2`` over the weights that move to another value,
            and over those that become zero: what is added to the divergence from fp32, in nats.
        zeros: share of the weights that are zero.
        entropy: bits that an index has on average where it is coded as short as can be.
    """

    quantization: float
    pruning: float
    zeros: float
    entropy: float


@torch.no_grad()
def choice_errors(
    weight: Tensor, fisher: Tensor, layers: Sequence[LayerPlan], quantizer: str
) -> list[ChoiceError]:
    """What each plan of one layer does to it.

    Of a large layer evenly chosen output channels are looked at, whole ones, since what dimensions do (zeros in a structure, a
    scale for each channel) goes by channels; the rest is taken to be like them in proportion to ``fisher * weight ** 2``.

    Args:
        weight: of the layer, float [out, ...].
        fisher: of the same shape, as ``diagonal_fisher`` gives it.
        layers: plans of the layer.
        quantizer: of those below 8 bits, a name in ``QUANTIZERS``.

    Raises:
        UserError: the quantizer cannot do what a plan wants.
    """
    rows = some_rows(weight.shape, SAMPLE, ROWS)
    seen, importance = weight[rows].float(), fisher[rows].double()
    whole = float((fisher.double() * weight.double().square()).sum())
    part = float((importance * seen.double().square()).sum())
    share = whole / part if part > 0 else len(weight) / len(seen)
    # Many small steps: several threads would mostly wait for each other where processors are shared.
    with threads(1):
        return [_error(seen, importance, layer, quantizer, 0.5 * share) for layer in layers]


def some_rows(shape: Sequence[int], most: int, least: int = 1) -> Tensor:
    """Evenly chosen output channels of a weight of this shape, int64: all, or as many as have ``most`` weights, but ``least``."""
    count = min(shape[0], max(least, most // max(1, int(np.prod(shape[1:])))))
    return torch.from_numpy(np.linspace(0, shape[0] - 1, count).round().astype(np.int64))


def index_entropy(book: Codebook) -> float:
    """Bits that an index has on average where it is coded as short as can be."""
    return entropy(np.bincount(book.indices.ravel()))


def _error(weight: Tensor, importance: Tensor, layer: LayerPlan, quantizer: str, unit: float) -> ChoiceError:
    wanted, plan = layer.apply(weight), Plan({"layer": layer}, quantizer)
    sort = quantizer_for(plan, layer)
    made = sort.for_layer(wanted, layer, sort.options_for(plan, {}), initialise=True)
    made.set_progress(1.0)  # shares of zeros are as at the end of training
    book = made.eval().codebook(wanted)
    quantized = torch.from_numpy(book.dequantize()).to(weight.device)
    off = importance * (weight.double() - quantized.double()).square()
    zero = quantized == 0
    moved, pruned = (unit * float(off[where].sum()) for where in (~zero, zero))
    return ChoiceError(moved, pruned, book.zeros, index_entropy(book))
