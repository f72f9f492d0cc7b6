"""What a plan costs is known nearly, before anything of it is compiled or emulated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.frontend import compile_graph
from deploy_arm.costs.choose import choose_kernels
from deploy_arm.devices.kinds import open_device
from deploy_arm.runtime.program import build_program
from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from pipeline.candidate.plan_cost import PlanCost
from pipeline.candidate.workspace import Workspace
from pipeline.datasets.images import normalize
from pipeline.study.settings import Settings
from quantizers.network import layer_names, quantize, synthetic


@pytest.fixture(scope="module")
def workspace() -> Workspace:
    return Workspace.open(Settings(), trained=False)


@pytest.fixture(scope="module")
def cost(workspace: Workspace) -> PlanCost:
    return PlanCost(workspace)


def uniform(workspace: Workspace, layer: LayerPlan, activation_bits: int = 8) -> Plan:
    return Plan.uniform(layer_names(workspace.model), layer, activation_bits=activation_bits)


@pytest.mark.parametrize(
    "layer",
    [
        *(LayerPlan(8), LayerPlan(4, 12), LayerPlan(2, 4), LayerPlan(2, 4, zero_share=0.9)),
        *(LayerPlan(4, 12, kept_blocks=0.5), LayerPlan(8, kept_blocks=0.5)),
        *(LayerPlan(4, 12, kept_channels=0.5), LayerPlan(3, 8, kept_channels=0.75)),
        *(LayerPlan(2, 4, kept_channels=0.5, zero_share=share) for share in (0.8, 0.9)),
        *(LayerPlan(4, 16, values={"taps": value}) for value in ("plus", 3)),
    ],
    ids=str,
)
def test_it_is_near_what_the_program_costs(
    workspace: Workspace, cost: PlanCost, layer: LayerPlan, tmp_path: Path
) -> None:
    try:
        device = open_device("a76", "emulated")
    except UserError as error:
        pytest.skip(str(error))
    plan = uniform(workspace, layer)
    images = workspace.data.train.batch(torch.arange(32))
    network = synthetic(
        quantize(workspace.model, plan, normalize(images, workspace.mean, workspace.std)), plan
    )
    graph = compile_graph(network, workspace.input_shape, workspace.mean, workspace.std)
    (tmp_path / "blob").write_bytes(write_blob(choose_kernels(graph, "a76")))
    profile = device.profile(build_program("a76"), tmp_path / "blob", images[0].numpy())
    estimate = cost(plan)
    assert estimate["latency"] == pytest.approx(profile.latency_ms, rel=0.15)
    assert estimate["size"] == pytest.approx(profile.size_bytes, rel=0.15)


def test_nothing_is_compiled_before_a_plan_is_asked_for(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(
        "pipeline.candidate.plan_cost.compile_graph", lambda *given: calls.append(1) or compile_graph(*given)
    )
    fresh = PlanCost(workspace)
    assert not calls
    few, many = (fresh(uniform(workspace, LayerPlan(2, 4, zero_share=share))) for share in (0.5, 0.9))
    assert calls == [1]  # once, however many plans
    assert few["size"] > many["size"] and few["latency"] > many["latency"]


def test_what_was_estimated_layer_by_layer_is_not_estimated_again_for_a_plan(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh, drawn = PlanCost(workspace), []
    book = PlanCost._book
    monkeypatch.setattr(PlanCost, "_book", lambda self, *given: drawn.append(given) or book(self, *given))
    plan = uniform(workspace, LayerPlan(4, 12))
    before = [fresh.layer(name, layer, plan.activation_bits) for name, layer in plan.layers.items()]
    assert len(drawn) == len(plan.layers)
    assert fresh(plan)["latency"] == pytest.approx(sum(latency for latency, _ in before))
    assert len(drawn) == len(plan.layers)
