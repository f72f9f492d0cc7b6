"""The networks that a front is compared with: fp32 as it was trained, and plain int8 without any tuning."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.files import write_atomically
from pipeline.records import Figures, Reference
from search_spaces.plan import LayerPlan, Plan

if TYPE_CHECKING:
    from pipeline.workspace import Workspace

CALIBRATION_IMAGES = 256


def references(workspace: Workspace, file: Path) -> list[Reference]:
    """fp32 and int8, computed once and kept in ``file``.

    fp32 has an error and a size (4 bytes for each parameter and buffer value) but no latency: there is no fp32 program. int8
    is the network with 8-bit weights and activations straight after calibration, as a program.
    """
    if file.is_file():
        return [Reference(r["name"], Figures(**r["figures"])) for r in json.loads(file.read_text())]
    found = [_fp32(workspace), _int8(workspace)]
    write_atomically(file, json.dumps([dataclasses.asdict(reference) for reference in found], indent=1))
    return found


def _fp32(workspace: Workspace) -> Reference:
    from pipeline.training.evaluation import error_of

    error = error_of(workspace.model, workspace.data.search, workspace.mean, workspace.std)
    values = (value for value in workspace.model.state_dict().values() if value.is_floating_point())
    return Reference("fp32", Figures(error, size_bytes=4 * sum(value.numel() for value in values)))


def _int8(workspace: Workspace) -> Reference:
    import torch

    from deploy_arm.blob import write_blob
    from deploy_arm.frontend import compile_graph
    from deploy_arm.kernel_choice import choose_kernels
    from deploy_arm.program import build_program
    from pipeline.devices import devices_at_hand
    from pipeline.images import normalize
    from pipeline.stages import figures_of
    from pipeline.training.evaluation import error_of, fixed_sample
    from quantizers.network import harden, layer_names, quantize

    data, target = workspace.data, workspace.settings.target
    sample = fixed_sample(len(data.train), min(CALIBRATION_IMAGES, len(data.train)))
    calibration = normalize(data.train.batch(sample), workspace.mean, workspace.std)
    plan = Plan.uniform(layer_names(workspace.model), LayerPlan(8))
    hardened = harden(quantize(workspace.model, plan, calibration))
    graph = compile_graph(hardened, workspace.input_shape, workspace.mean, workspace.std)
    graph = choose_kernels(graph, target)
    with torch.inference_mode():
        error = error_of(hardened.network, data.search, workspace.mean, workspace.std)
    image = data.search.batch(torch.tensor([0])).numpy()[0]
    layers = [operation.layer for operation in graph.operations]
    with devices_at_hand(target) as devices:
        profile = devices.profile(build_program(target).read_bytes(), write_blob(graph), image, layers)
    return Reference("int8", figures_of(error, profile))
