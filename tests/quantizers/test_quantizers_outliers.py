"""One weight far from all others: no quantizer does worse than all zeros, and more bits are never worse."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from foundation.plan import LayerPlan
from quantizers import QUANTIZERS
from quantizers.core.levels import integer_levels

OUTLIERS = (1, 10, 50, 100, 200, 400, 1000)  # standard deviations of the other weights
SHAPES = {(10, 64): OUTLIERS, (64, 32, 3, 3): OUTLIERS, (128, 64, 3, 3): OUTLIERS[-2:]}
# Clusters of 2, 3 and 4 bits are not nested: with whole levels their errors may differ by a trifle either way.
TRIFLE = 5e-3  # of the error of zeros


def deployed_error(name: str, weight: Tensor, bits: int) -> float:
    """Squared error of the untrained codebook, as a share of that of all-zero weights."""
    layer = LayerPlan(8) if bits == 8 else LayerPlan(bits, 2**bits)
    sort = QUANTIZERS["int8" if bits == 8 else name]
    quantizer = sort.for_layer(weight, layer, sort.Options(), initialise=True)
    deployed = torch.from_numpy(quantizer.eval().codebook(weight).dequantize())
    return float(((deployed - weight).double().square().sum()) / weight.double().square().sum())


@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "heavy"])
@pytest.mark.parametrize("name", sorted(set(QUANTIZERS) - {"int8"}))
def test_an_enormous_weight_costs_no_more_than_zeros_and_more_bits_are_never_worse(
    name: str, heavy: bool
) -> None:
    for shape, outliers in SHAPES.items():
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        weight = weight**3 if heavy else weight
        deviation = weight.std()
        for outlier in outliers:
            weight.view(-1)[5] = outlier * deviation
            errors = [deployed_error(name, weight, bits) for bits in (*QUANTIZERS[name].widths, 8)]
            assert max(errors) <= 1, (shape, outlier, errors)
            assert all(b <= a + TRIFLE for a, b in pairwise(errors)), (shape, outlier, errors)


def test_levels_leave_no_value_farther_off_than_zero_is() -> None:
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(16, generator=generator) * 10 ** (4 * torch.rand(16, generator=generator))
        levels, scale = integer_levels(values, torch.randint(0, 1000, (16,), generator=generator))
        assert ((levels * scale - values).abs() <= values.abs() * (1 + 1e-6)).all()
        assert levels.abs().max() <= 127


def test_levels_are_the_values_where_a_grid_holds_them_and_serve_the_many_where_none_does() -> None:
    levels, scale = integer_levels(torch.tensor([0.0, -0.25, 0.5, 31.75]), torch.tensor([5, 1, 1, 1]))
    assert (levels.tolist(), float(scale)) == ([0, -1, 2, 127], 0.25)
    few, many = (
        integer_levels(torch.tensor([0.0, 1.0, 1000.0]), torch.tensor([10, n, 1])) for n in (10, 10**7)
    )
    assert float(few[0][2] * few[1]) == pytest.approx(1000) and few[0][1] == 0  # the one weight counts
    assert float(many[0][1] * many[1]) == pytest.approx(1, rel=0.01)  # the ten million do
    assert integer_levels(torch.zeros(3), torch.tensor([4, 0, 0]))[0].tolist() == [0, 0, 0]
