"""What a front is compared with: both references are programs, with figures of one kind."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import nn

from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.frontend import compile_float
from pipeline.candidate.references import references
from pipeline.candidate.workspace import Workspace
from pipeline.cluster.pool import devices_at_hand
from pipeline.study.settings import Settings


def network(last: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2),
        nn.BatchNorm2d(8),
        last,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    ).eval()


def test_fp32_has_the_cost_of_its_program(tmp_path: Path) -> None:
    opened = Workspace.open(Settings(model="resnet8", data="digits"), trained=False)
    workspace = dataclasses.replace(opened, model=network(nn.ReLU()))
    fp32, int8 = references(workspace, tmp_path / "references.json", devices_at_hand)
    blob = write_blob(compile_float(workspace.model, workspace.input_shape, workspace.mean, workspace.std))
    assert fp32.figures.size_bytes == len(blob) and int8.figures.size_bytes is not None
    assert fp32.figures.latency_ms is not None and int8.figures.latency_ms is not None
    assert (fp32.figures.source, fp32.figures.device) == (int8.figures.source, int8.figures.device)
    assert fp32.figures.latency_ms > int8.figures.latency_ms > 0
    assert references(workspace, tmp_path / "references.json", devices_at_hand) == [fp32, int8]


def test_without_a_float_form_fp32_has_no_latency(tmp_path: Path) -> None:
    opened = Workspace.open(Settings(model="resnet8", data="digits"), trained=False)
    workspace = dataclasses.replace(opened, model=network(nn.GELU()))
    fp32, int8 = references(workspace, tmp_path / "references.json", devices_at_hand)
    values = sum(
        value.numel() for value in workspace.model.state_dict().values() if value.is_floating_point()
    )
    assert (fp32.figures.latency_ms, fp32.figures.size_bytes) == (None, 4 * values)
    assert int8.figures.latency_ms is not None
