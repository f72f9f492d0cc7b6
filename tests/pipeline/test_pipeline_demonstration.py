"""The default search shows what the product is for: its first plans lie far apart in size and in latency."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.frontend import compile_graph
from deploy_arm.costs.choose import choose_kernels
from deploy_arm.devices.kinds import open_device
from deploy_arm.runtime.program import build_program
from deploy_arm.target.toolchain import choose_compiler
from foundation.errors import UserError
from foundation.plan import Plan
from pipeline.datasets.images import normalize
from pipeline.datasets.registry import load_data
from pipeline.networks.registry import find_network
from pipeline.review.progress import Progress
from pipeline.search import opened
from pipeline.study.settings import Settings
from quantizers.network import quantize, synthetic


def test_the_first_plans_of_the_default_search_span_size_and_latency(tmp_path: Path) -> None:
    try:
        choose_compiler()
        device = open_device("a76")
    except UserError as error:
        pytest.skip(str(error))
    if device.source != "modelled":
        pytest.skip("the figures are those of the modelled A76")
    settings = Settings()
    with Progress(settings.budget) as progress:
        workspace, space = opened(settings, progress, trained=False)
    images = workspace.data.search.batch(torch.arange(64))
    calibration = normalize(images, workspace.mean, workspace.std)

    def cost(plan: Plan) -> tuple[float, int]:
        network = synthetic(quantize(workspace.model, plan, calibration), plan)
        graph = compile_graph(network, workspace.input_shape, workspace.mean, workspace.std)
        blob = tmp_path / "weights.blob"
        blob.write_bytes(write_blob(choose_kernels(graph, "a76")))
        profile = device.profile(build_program("a76"), blob, images[0].numpy())
        return profile.latency_ms, profile.size_bytes

    plans = space.warm_starts()
    assert settings.budget > len(plans)  # the sampler has its say too
    eight, two, many_zeros = cost(plans[0]), cost(plans[3]), cost(plans[-1])
    assert eight[1] > 3.5 * two[1]  # of the 4 that 8 and 2 bits can be apart where all levels are as frequent
    assert eight[1] > 6 * many_zeros[1] and eight[0] > 1.5 * many_zeros[0]


def test_digits_are_as_large_as_the_network_wants_them_and_no_larger_than_32() -> None:
    sizes = {
        model: load_data("digits", fallback=find_network(model).image_size).image_size
        for model in ("vgg_tiny", "resnet8", "resnet50")
    }
    assert sizes == {"vgg_tiny": (16, 16), "resnet8": (32, 32), "resnet50": (32, 32)}
