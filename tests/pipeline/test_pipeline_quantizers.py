"""Every registered quantizer can be searched: its space holds what it has a dimension for, and every plan of it compiles."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.frontend import compile_graph
from deploy_arm.costs.choose import choose_kernels
from deploy_arm.devices.kinds import open_device
from deploy_arm.ir.reference import run as run_reference
from deploy_arm.runtime.program import build_program
from deploy_arm.target.toolchain import choose_compiler
from foundation.errors import UserError
from foundation.plan import BITS, LayerPlan, Plan
from pipeline.datasets.base import ImageData
from pipeline.datasets.registry import load_data
from pipeline.study.searched import searched_bits
from pipeline.training.cotuning import Cotuning
from pipeline.training.settings import TrainSettings
from quantizers import QUANTIZERS
from quantizers.network import Hardened, layer_names, quantize, synthetic
from search_spaces.space import Space

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
PLANS = 6


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data("digits", 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    ).eval()  # fmt: skip


def space_of(name: str) -> Space:
    sort = QUANTIZERS[name]
    bits = searched_bits(BITS, name, sort.widths)
    return Space(layer_names(network()), quantizer=name, declared=sort.dimensions, bits=bits)


@pytest.mark.parametrize("name", sorted(QUANTIZERS))
def test_random_plans_are_profiled_trained_hardened_and_compiled(
    name: str, digits: ImageData, tmp_path: Path
) -> None:
    try:
        choose_compiler()
        device = open_device("a76")
    except UserError as error:
        pytest.skip(str(error))
    program, space, rng = build_program("a76"), space_of(name), random.Random(name)
    image = digits.search.batch(torch.tensor([0])).numpy()
    settings = TrainSettings(
        epochs=0.1, batch_size=64, calibration_images=64, batch_norm_images=64, evaluation_batch=512
    )

    def compiled(hardened: Hardened) -> tuple[bytes, np.ndarray]:
        graph = choose_kernels(compile_graph(hardened, (3, 8, 8), MEAN, STD), "a76")
        return write_blob(graph), run_reference(graph, image)

    for plan in {plan.hash: plan for plan in (space.random(rng) for _ in range(PLANS))}.values():
        run = Cotuning(network(), plan, digits, settings, MEAN, STD)
        blob, _ = compiled(synthetic(run.network, plan))
        (tmp_path / "blob").write_bytes(blob)
        profile = device.profile(program, tmp_path / "blob", image[0])
        assert profile.latency_ms > 0 and profile.size_bytes == len(blob)
        before = [parameter.detach().clone() for parameter in run.network.parameters()]
        rung = run.train_until(0.1)
        assert np.isfinite(rung.loss) and 0 <= rung.error <= 1
        assert any(not torch.equal(a, b) for a, b in zip(before, run.network.parameters()))
        final, answer = compiled(run.hardened())
        # What was promised before training, where coded weights have about the entropy of those drawn.
        assert abs(len(final) - len(blob)) <= 0.1 * len(blob), plan
        assert answer.shape == (1, 10) and np.isfinite(answer).all()
        for layer, book in run.hardened().codebooks.items():
            assert len(book.levels) <= 2 ** plan.layers[layer].bits


def test_a_space_leaves_out_what_a_quantizer_has_not() -> None:
    assert space_of("gaussian_mixture").size() == Space(layer_names(network())).size()
    for name in ("learned_step", "element_wise_scaling", "adaptive_rounding"):
        space = space_of(name)
        assert space.size() == 4**3 * 2  # bits of three layers, and of the activations
        assert {space.plan_at(i).hash for i in range(space.size())} == {
            space.random(random.Random(i)).hash for i in range(2000)
        }
        assert set(space.params(space.plan_at(0))) == {"activation_bits", "0.bits", "3.bits", "7.bits"}
        for plan in space.warm_starts():
            space.params(plan)
        assert all(p.components is None for plan in space.warm_starts() for p in plan.layers.values())
    kmeans = space_of("differentiable_kmeans").random(random.Random(1))
    assert {p.zero_share for p in kmeans.layers.values()} == {None}
    assert any(p.components for p in kmeans.layers.values())
    assert space_of("int8").size() == 2 and space_of("int8")["bits"].values == (8,)
    asked = Plan.uniform(layer_names(network()), LayerPlan(4, 16), quantizer="learned_step")
    with pytest.raises(UserError, match=f"{asked.hash} asks for what learned_step has not"):
        space_of("learned_step").params(asked)


def test_bits_that_a_quantizer_has_not_are_refused() -> None:
    assert searched_bits((2, 8), "learned_step", (2, 3, 4)) == (2, 8)
    with pytest.raises(UserError, match=r"--bits 2,8: --quantizer int8 allows 8$"):
        searched_bits((2, 8), "int8", (8,))


@pytest.mark.parametrize(
    ("name", "layer", "said"),
    [
        ("int8", LayerPlan(2, 4), r"int8 with 2 bits: it stores weights in 8 bits only"),
        (
            "gaussian_mixture",
            LayerPlan(3),
            r"gaussian_mixture with 3 bits needs components: give a number from 2 to 8",
        ),
        (
            "learned_step",
            LayerPlan(2, 4, zero_share=0.8),
            r"zero_share 0.8: learned_step has no share of zeros",
        ),
    ],
)
def test_a_plan_that_its_quantizer_cannot_do_is_refused_before_anything_is_trained(
    name: str, layer: LayerPlan, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        quantize(network(), Plan.uniform(layer_names(network()), layer, quantizer=name), None)


def test_int8_itself_refuses_other_bits() -> None:
    with pytest.raises(UserError, match="int8 with 4 bits"):
        QUANTIZERS["int8"].for_layer(torch.ones(2, 2), LayerPlan(4, 16), None, initialise=True)
