"""Middle taps of 8 bits: which layers have them, that they are the published split, that programs compute what PyTorch does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deploy_arm.blob.read import read_graph
from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.frontend import compile_graph
from deploy_arm.ir.reference import run
from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from quantizers.network import hard_state, harden, load_hard, quantize
from quantizers.weights.coarse_fine import CoarseFine, middle_of, without_middle


def fused(times: float, outs: int = 16, inputs: int = 16) -> Tensor:
    """Weights of a 3 x 3 convolution that an identity was fused into: its middle tap has a diagonal ``times`` as large."""
    weight = torch.randn(outs, inputs, 3, 3, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    middle_of(weight).add_(2 * times * torch.eye(outs, inputs)[:, :, None, None])
    return weight


def made(weight: Tensor, bits: int = 4, **options: object) -> CoarseFine:
    chosen = CoarseFine.Options(**options)  # type: ignore[arg-type]
    quantizer = CoarseFine.for_layer(weight, LayerPlan(bits), chosen, initialise=True).eval()
    assert isinstance(quantizer, CoarseFine)
    return quantizer


@pytest.mark.parametrize(
    ("weight", "split"),
    [
        (fused(4), True),
        (fused(0), False),
        (fused(4)[:, :, 1:2, 1:2], False),  # no neighbours
        (fused(4)[:, :, :2], False),  # no middle
        (fused(4)[:, :, 1, 1], False),  # a linear layer
    ],
)
def test_only_layers_whose_middle_stands_out_are_split(weight: Tensor, split: bool) -> None:
    assert (made(weight).codebook(weight).middle is not None) == split
    assert made(weight, ratio=100).codebook(weight).middle is None


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_it_is_the_published_split_with_one_step(bits: int) -> None:
    """A coarse convolution of 1 x 1, whose quantization changes no bit of it, and a fine one that takes what it leaves."""
    weight, high = fused(4), 2 ** (bits - 1) - 1
    book = made(weight, bits).codebook(weight)
    step = torch.from_numpy(book.scale)[:, None, None, None]
    coarse = (middle_of(weight) / step).round() * step
    assert torch.equal((coarse / step).round().clamp(-127, 127) * step, coarse)
    fine = weight.clone()
    middle_of(fine).sub_(coarse)
    fine = (fine / step).round().clamp(-high, high) * step
    assert float(middle_of(fine).abs().max()) == 0
    whole = fine.clone()
    middle_of(whole).add_(coarse)
    assert torch.equal(torch.from_numpy(book.dequantize()), whole)


def test_neighbours_are_finer_and_the_middle_has_no_more_than_a_rounding() -> None:
    weight = fused(8)
    plain, split = (torch.from_numpy(made(weight, ratio=r).codebook(weight).dequantize()) for r in (1e9, 2))
    errors = [float(without_middle(found - weight).square().mean()) for found in (plain, split)]
    assert errors[1] < errors[0] / 10
    step = torch.from_numpy(made(weight).codebook(weight).scale)[:, None, None, None]
    assert bool((middle_of(split - weight).abs() <= step / 2 * (1 + 1e-5)).all())


def test_a_middle_beyond_all_steps_makes_its_channel_s_step_grow() -> None:
    weight = fused(4)
    middle_of(weight)[3] *= 1000
    found = torch.from_numpy(made(weight).codebook(weight).dequantize())
    largest = middle_of(weight)[3].abs().max()
    assert float((middle_of(found - weight)[3]).abs().max()) <= float(largest) / 127
    others = torch.arange(16) != 3
    usual = torch.from_numpy(made(fused(4)).codebook(fused(4)).dequantize())
    assert torch.equal(found[others], usual[others])


def network() -> nn.Sequential:
    layers = [
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=4),
        nn.ReLU(),
    ]
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)
    )
    with torch.no_grad():
        model[2].weight.copy_(0.1 * fused(6))  # type: ignore[union-attr, operator]
        model[4].weight.copy_(0.1 * fused(6, inputs=4))  # type: ignore[union-attr, operator]
    return model.eval()


def test_programs_and_kept_networks_compute_what_pytorch_does() -> None:
    model, images = network(), torch.rand(32, 3, 10, 10, generator=torch.Generator().manual_seed(1))
    plan = Plan(
        {"0": LayerPlan(8), "2": LayerPlan(4), "4": LayerPlan(2), "8": LayerPlan(8)}, quantizer="coarse_fine"
    )
    hardened = harden(quantize(model, plan, images))
    assert [name for name, book in hardened.codebooks.items() if book.middle is not None] == ["2", "4"]
    again = load_hard(model, plan, hard_state(hardened))
    with torch.inference_mode():
        assert torch.equal(again.network(images), hardened.network(images))
    graphs = [compile_graph(each, (3, 10, 10), (0.0,) * 3, (1.0,) * 3) for each in (hardened, again)]
    blobs = [write_blob(graph) for graph in graphs]
    assert blobs[0] == blobs[1]
    pixels = np.random.default_rng(0).integers(0, 256, (8, 10, 10, 3), dtype=np.uint8)
    answers = run(graphs[0], pixels)
    np.testing.assert_array_equal(run(read_graph(blobs[0]), pixels), answers)
    with torch.inference_mode():
        floats = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
        wanted = hardened.network(floats).numpy()
    assert np.abs(answers - wanted).max() < 0.02 * np.abs(wanted).max()


@pytest.mark.parametrize("options", [{"ratio": -1.0}, {"ratio": float("nan")}, {"clip": 3}])
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(options))} .*: give"):
        CoarseFine.Options(**options)  # type: ignore[arg-type]
