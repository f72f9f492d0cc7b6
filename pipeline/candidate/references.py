"""The networks that a front is compared with: fp32 as it was trained, and plain int8 without any tuning."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.frontend import compile_float, compile_graph
from deploy_arm.costs.choose import choose_kernels
from deploy_arm.runtime.program import build_program
from foundation.errors import UserError
from foundation.files import json_text, write_atomically
from foundation.plan import LayerPlan, Plan
from pipeline.candidate.bench import figures_of
from pipeline.candidate.devices import AtHand, Devices
from pipeline.datasets.images import normalize
from pipeline.study.records import Figures, Reference
from pipeline.study.references import read_references
from pipeline.training.evaluation import fixed_sample
from quantizers.network import harden, layer_names, quantize
from quantizers.tracing.trace import traced

if TYPE_CHECKING:
    from deploy_arm.devices.base import Profile
    from deploy_arm.ir.graph import Graph
    from pipeline.candidate.workspace import Workspace
    from quantizers.network import Hardened

CALIBRATION_IMAGES = 256


def fp32_error_in(file: Path) -> float | None:
    """fp32's error of the references in ``file``; None where it is not known yet."""
    return read_references(file).get("fp32", Figures(None)).error


def references(
    workspace: Workspace,
    file: Path,
    at_hand: AtHand,
    *,
    anew: bool = False,
) -> list[Reference]:
    """fp32 and int8, computed once on the devices ``at_hand`` and kept in ``file``. ``anew``: what is kept there is replaced, but
    for what fp32 answers.

    fp32 is the network as it was trained: its error is PyTorch's, latency and size are its float program's. Where the compiler
    has no float form of an operator there is no latency, and the size is 4 bytes for each parameter and buffer value. int8 is the
    network with 8-bit weights and activations straight after calibration, as a program.
    """
    if (before := read_references(file)) and not anew:
        return [Reference(name, figures) for name, figures in before.items()]
    answers = before.get("fp32") or workspace.fp32_figures()
    answers = Figures(answers.error, divergence=0.0, error_standard_error=answers.error_standard_error)
    with at_hand(workspace.settings.target) as devices:
        found = [_fp32(workspace, devices, answers), _int8(workspace, devices)]
    write_atomically(file, json_text([dataclasses.asdict(reference) for reference in found], indent=1))
    return found


def _fp32(workspace: Workspace, devices: Devices, answers: Figures) -> Reference:
    try:
        graph = compile_float(traced(workspace.model), workspace.input_shape, workspace.mean, workspace.std)
    except UserError:
        values = (value for value in workspace.model.state_dict().values() if value.is_floating_point())
        return Reference(
            "fp32", dataclasses.replace(answers, size_bytes=4 * sum(value.numel() for value in values))
        )
    return Reference("fp32", figures_of(answers, _profile(workspace, devices, graph)))


def _profile(workspace: Workspace, devices: Devices, graph: Graph) -> Profile:
    """What the program of ``graph`` costs."""
    target = workspace.settings.target
    image = workspace.data.search.batch(torch.tensor([0])).numpy()[0]
    layers = [operation.layer for operation in graph.operations]
    return devices.profile(build_program(target).read_bytes(), write_blob(graph), image, layers)


def int8_network(workspace: Workspace) -> Hardened:
    """The network with 8-bit weights and activations straight after calibration."""
    train = workspace.data.train
    sample = fixed_sample(len(train), min(CALIBRATION_IMAGES, len(train)))
    calibration = normalize(train.batch(sample), workspace.mean, workspace.std)
    plan = Plan.uniform(layer_names(traced(workspace.model)), LayerPlan(8))
    return harden(quantize(workspace.model, plan, calibration))


def _int8(workspace: Workspace, devices: Devices) -> Reference:
    hardened = int8_network(workspace)
    graph = compile_graph(hardened, workspace.input_shape, workspace.mean, workspace.std)
    graph = choose_kernels(graph, workspace.settings.target)
    answers = workspace.judged(hardened.network)
    return Reference("int8", figures_of(answers, _profile(workspace, devices, graph)))
