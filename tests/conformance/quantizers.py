"""What every weight quantizer must keep to. For one of your own:

@pytest.mark.parametrize("quantizer", ["my_module:MyQuantizer"])
class TestMyQuantizer(QuantizerConformance):
    pass
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from foundation.codebook import Codebook
from foundation.dimension import DIMENSIONS
from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan, TemperatureSchedule
from quantizers import (
    QUANTIZERS,
    Reconstruction,
    WeightQuantizer,
    harden,
    parameter_groups,
    quantize,
    reconstruct,
    set_progress,
)
from quantizers.calibration.assignment import Problem, solve
from quantizers.network import quantizers_of

BELOW_8 = (2, 3, 4)
HARDENING = TemperatureSchedule(0.2, 0.02, "exponential")  # what is learned at the end is what is deployed
STEPS = 4


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


IMAGES, WEIGHT = normal(16, 8, 6, 6, seed=1), 0.1 * normal(16, 8, 3, 3)
WEIGHTS = {
    "normal": WEIGHT,
    "heavy": WEIGHT**3,
    "tiny": 1e-6 * WEIGHT,
    "large": 1e3 * WEIGHT,
    "one": torch.full_like(WEIGHT, -0.5),
    "zeros": torch.zeros_like(WEIGHT),
}


def layer_plan(quantizer: str, bits: int | None = None, **values: Any) -> LayerPlan:
    """A layer's plan with what the quantizer needs: its fewest bits, all components that they allow."""
    sort = QUANTIZERS[quantizer]
    bits = min(sort.widths) if bits is None else bits
    if bits < 8 and "components" in sort.dimensions:
        values = {"components": 2**bits, **values}
    return LayerPlan(values={"bits": bits, **values})


def unusual(quantizer: str, dimension: str) -> tuple[LayerPlan | None, dict[str, Any]]:
    """A layer's plan, or a value of the network's, with another value of the dimension than usual; neither where it has none."""
    for value in reversed(DIMENSIONS[dimension]().values):
        if value is None or value == DIMENSIONS[dimension].default:
            continue
        if DIMENSIONS[dimension].of_network:
            return None, {dimension: value}
        try:
            layer = layer_plan(quantizer, **{dimension: value})
        except UserError:  # not in so few bits, or not in 8
            continue
        if layer != layer_plan(quantizer):
            return layer, {}
    return None, {}


def network_of(
    quantizer: str,
    layer: LayerPlan | None = None,
    weight: Tensor = WEIGHT,
    images: Tensor | None = IMAGES,
    **values: Any,
) -> fx.GraphModule:
    """A network of one convolution, quantized by a plan with these values of the network's dimensions."""
    plan = Plan({"0": layer or layer_plan(quantizer)}, quantizer=quantizer, **values)
    return quantize(model_of(weight), plan, images)


def model_of(weight: Tensor) -> nn.Sequential:
    convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 3, bias=False)
    convolution.weight = nn.Parameter(weight.clone())
    return nn.Sequential(convolution)


def parts(network: nn.Module) -> tuple[WeightQuantizer, nn.Parameter]:
    ((_, quantizer, latent),) = quantizers_of(network)
    return quantizer, latent


def book_of(network: nn.Module) -> Codebook:
    quantizer, latent = parts(network)
    return quantizer.codebook(latent.detach())


class Training:
    """Steps towards the answers of another network."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.optimizer = torch.optim.SGD(parameter_groups(network, 0.05, 1e-4), lr=0.05, momentum=0.9)
        self.wanted = model_of(0.1 * normal(16, 8, 3, 3, seed=2))(IMAGES).detach()

    def run(self, steps: range) -> Training:
        self.network.train()
        for step in steps:
            set_progress(self.network, step / STEPS)
            self.optimizer.zero_grad()
            (self.network(IMAGES) - self.wanted).square().mean().backward()
            self.optimizer.step()
        return self

    def left(self) -> dict[str, Tensor]:
        """What a run leaves: its state, and the deployed weight."""
        book = torch.from_numpy(book_of(self.network).dequantize())
        return {**self.network.state_dict(), "deployed": book}


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def trained(quantizer: str, layer: LayerPlan | None = None, **values: Any) -> dict[str, Tensor]:
    return Training(network_of(quantizer, layer, **values)).run(range(STEPS + 1)).left()


class QuantizerConformance:
    """Each test is called with the quantizer's name in the registry, or ``package.module:Name``."""

    @pytest.mark.parametrize("kind", WEIGHTS)
    def test_evaluation_is_the_codebook(self, quantizer: str, kind: str) -> None:
        weight = WEIGHTS[kind]
        for bits in QUANTIZERS[quantizer].widths:
            network = network_of(quantizer, layer_plan(quantizer, bits), weight)
            for _ in range(2):
                mine, latent = parts(network.eval())
                book = mine.codebook(latent.detach())
                evaluated = mine(latent).detach()
                assert torch.equal(evaluated, torch.from_numpy(book.dequantize()))
                assert evaluated.isfinite().all() and evaluated.shape == weight.shape
                assert book.bits == bits and (np.diff(book.levels.astype(int)) > 0).all()
                Training(network).run(range(2))
                with (
                    torch.no_grad()
                ):  # what a step that is far too large leaves may be huge, but is deployed as it is seen
                    latent.copy_(latent.nan_to_num(0.0))

    def test_training_sees_the_weights_shape_and_type(self, quantizer: str) -> None:
        mine, latent = parts(network_of(quantizer).train())
        for enabled in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                seen = mine(latent)
            assert (seen.shape, seen.dtype, seen.device) == (latent.shape, torch.float32, latent.device)
        assert mine.codebook(latent.detach()).indices.shape == tuple(latent.shape)

    def test_the_declared_widths_are_used_and_others_refused(self, quantizer: str) -> None:
        widths = QUANTIZERS[quantizer].widths
        for bits in widths:
            book = book_of(network_of(quantizer, layer_plan(quantizer, bits)))
            assert 2 ** (bits - 1) < len(np.unique(book.indices)) <= 2**bits
        for bits in sorted({*BELOW_8} - {*widths}):
            with pytest.raises(UserError, match=f"with {bits} bits"):
                network_of(quantizer, layer_plan(quantizer, bits))

    def test_gradients_are_finite_and_something_learns(self, quantizer: str) -> None:
        network = network_of(quantizer)
        training = Training(network)
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        for step in range(STEPS):
            training.run(range(step, step + 1))
            for name, parameter in network.named_parameters():
                if parameter.requires_grad and parameter.grad is not None:
                    assert parameter.grad.isfinite().all(), name
        assert any(not torch.equal(p, before[name]) for name, p in network.named_parameters())
        grouped = [id(p) for group in training.optimizer.param_groups for p in group["params"]]
        assert sorted(grouped) == sorted(id(p) for p in network.parameters() if p.requires_grad)

    def test_equal_runs_are_equal(self, quantizer: str) -> None:
        assert same(trained(quantizer), trained(quantizer))

    def test_training_resumes_exactly(self, quantizer: str) -> None:
        whole = Training(network_of(quantizer)).run(range(STEPS + 1))
        first = Training(network_of(quantizer)).run(range(2))
        saved = io.BytesIO()
        torch.save([first.network.state_dict(), first.optimizer.state_dict()], saved)
        saved.seek(0)
        network, optimizer = torch.load(saved, weights_only=True)
        second = Training(network_of(quantizer, images=None))
        second.network.load_state_dict(network)
        second.optimizer.load_state_dict(optimizer)
        assert same(second.run(range(2, STEPS + 1)).left(), whole.left())

    def test_dimensions_do_what_is_declared(self, quantizer: str) -> None:
        """Of those that want declaring, what it declares changes something, and everything else changes nothing or is refused."""
        declared, usual = QUANTIZERS[quantizer].dimensions, trained(quantizer)
        for name in sorted({*declared, *(name for name in DIMENSIONS if DIMENSIONS[name].declared)}):
            layer, values = unusual(quantizer, name)
            if layer is None and not values:
                assert name not in declared, f"{name} has no other value"
                continue
            try:
                other = trained(quantizer, layer, **values)
            except UserError as error:
                assert name not in declared and name in str(error)
            else:
                assert same(other, usual) == (name not in declared), name

    @pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
    def test_a_share_of_zeros_is_reached(self, quantizer: str, share: float) -> None:
        if "zero_share" not in QUANTIZERS[quantizer].dimensions:
            return
        network = network_of(quantizer, layer_plan(quantizer, zero_share=share))
        Training(network).run(range(STEPS + 1))
        assert book_of(network).zeros == pytest.approx(share, abs=0.02)

    def test_a_layer_rebuilt_from_images_is_not_worse(self, quantizer: str) -> None:
        original = model_of(WEIGHT).eval()
        mixing = normal(8, 8, seed=3)  # correlated channels: what makes the nearest weights bad ones
        images = torch.einsum("nchw,cd->ndhw", IMAGES, mixing)
        how = Reconstruction(steps=80, batch=128, rate=0.02)
        for bits in QUANTIZERS[quantizer].widths:
            network = network_of(quantizer, layer_plan(quantizer, bits), images=images, temperature=HARDENING)
            before = self._off(network, original, images)
            reconstruct(network, original, [images], how)
            assert self._off(network, original, images) <= before * (1 + 1e-6), f"{bits} bits"

    @torch.no_grad()
    def _off(self, network: nn.Module, original: nn.Module, images: Tensor) -> float:
        return float((harden(network).network(images) - original(images)).square().mean())

    def test_it_can_be_pickled_and_copied(self, quantizer: str) -> None:
        training = Training(network_of(quantizer)).run(range(2))
        mine, latent = parts(training.network.eval())
        for twin in (pickle.loads(pickle.dumps(mine)), parts(copy.deepcopy(training.network))[0]):
            assert torch.equal(twin.eval()(latent.detach()), mine(latent.detach()))
            assert twin.options == mine.options and same(twin.state_dict(), mine.state_dict())

    @pytest.mark.parametrize("weight", ["normal", "heavy"])
    def test_a_solution_is_adopted(self, quantizer: str, weight: str) -> None:
        """Every weight then has the value of its own level, but for the rounding of levels to integers."""
        sort, latent = QUANTIZERS[quantizer], nn.Parameter(WEIGHTS[weight].clone())
        bits = max(sort.widths)
        made = sort.for_layer(latent.detach(), layer_plan(quantizer, bits), sort.Options(), initialise=True)
        grid = made.grid(latent.detach())
        if grid is None:
            pytest.skip(f"{quantizer} has no list of levels to choose from")
        seen = normal(1, 400, latent[0].numel(), seed=2)
        problem = Problem.of(
            latent.detach().reshape(1, len(latent), -1), seen, seen, torch.ones(1, len(latent))
        )
        solved, owner = solve(problem, grid)
        made.adopt(latent, solved, owner)
        made.set_progress(1.0)
        made.eval()
        wanted = solved.values(owner).reshape(latent.shape)
        deployed = torch.from_numpy(made.codebook(latent.detach()).dequantize()).double()
        largest = float((solved.levels.abs().max() * solved.scale).max())
        assert float((deployed - wanted).abs().max()) <= largest / 127
        assert torch.equal(made(latent).detach().double(), deployed)
        again = sort.for_layer(latent.detach(), layer_plan(quantizer, bits), sort.Options(), initialise=False)
        again.load_state_dict(made.state_dict())
        assert torch.equal(again.eval()(latent).detach().double(), deployed)
