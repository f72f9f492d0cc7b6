"""What a resumed study must agree on: figures that depend on other settings, on another kernel library, or on other content
behind the same path do not belong in one front."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import quantizers
from foundation.files import sha256

if TYPE_CHECKING:
    from torch import nn

    from pipeline.candidate.workspace import Workspace
    from pipeline.datasets.base import ImageData
    from pipeline.study.settings import Settings

SETTINGS = (
    "model", "data", "metric", "weights", "image_size", "target", "epochs_per_trial", "rungs", "batch_size", "learning_rate",
    "devices",
)  # fmt: skip
SPLITS = ("train", "search", "report")


def identity(settings: Settings, workspace: Workspace, program: Path) -> dict[str, Any]:
    """Settings and checksums, as plain values. A key's name is what a person reads when it differs."""
    known = {key: value for key, value in settings.as_dict().items() if key in SETTINGS}
    mean, std = list(workspace.mean), list(workspace.std)
    found = {**known, "mean": mean, "std": std, "kernel_library": sha256(program)[:12]}
    found |= data_checksums(workspace.data)
    if settings.weights is not None:
        found["checksum of the weights"] = weights_checksum(workspace)
    return found


def data_checksums(data: ImageData) -> dict[str, str]:
    """Of each split: its images' content and labels."""
    return {f"checksum of the {split} images": _short(getattr(data, split).content()) for split in SPLITS}


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def code_checksum() -> str:
    """Of the sources of all quantizers, and of what rebuilds their layers."""
    root = Path(quantizers.__file__).parent
    return _short(" ".join(sha256(file) for file in sorted(root.rglob("*.py"))))


def weights_checksum(workspace: Workspace) -> str:
    """Of the network's tensors, so that the same weights in another kind of file are the same."""
    return tensors_checksum(workspace.model)


def tensors_checksum(model: nn.Module) -> str:
    """Of a network's parameters and buffers by their names."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
