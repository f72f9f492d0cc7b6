"""Batch-norms that other libraries freeze by a class of their own, which is a product and a sum to whoever traces it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

PARTS = ("weight", "bias", "running_mean", "running_var")


class FrozenNorm(nn.BatchNorm2d):
    """A batch-norm that normalizes by its statistics in training too, and learns nothing."""

    def train(self, mode: bool = True) -> FrozenNorm:  # noqa: FBT001, FBT002  as torch has it
        super().train(mode=False)
        return self


def with_frozen_norms(model: nn.Module) -> None:
    """Put ``FrozenNorm`` in place of the model's modules that compute the same (torchvision's ``FrozenBatchNorm2d``, and those of
    detection libraries)."""
    for name, module in list(model.named_modules()):
        found = _norm_of(module) if name else None
        if found is not None:
            model.set_submodule(name, found)


def _norm_of(module: nn.Module) -> FrozenNorm | None:
    """The norm that computes what a module does, in training and in evaluation; None where there is none."""
    parts: list[Any] = [getattr(module, name, None) for name in PARTS]
    if isinstance(module, nn.modules.batchnorm._BatchNorm) or not all(
        isinstance(part, Tensor) and part.ndim == 1 and part.dtype == torch.float32 for part in parts
    ):
        return None
    sizes = {len(part) for part in parts}
    if len(sizes) != 1 or list(module.children()):
        return None
    norm = FrozenNorm(sizes.pop(), eps=float(getattr(module, "eps", 1e-5)), device=parts[0].device)
    with torch.no_grad():
        for name, part in zip(PARTS, parts, strict=True):
            getattr(norm, name).copy_(part)
    norm.requires_grad_(requires_grad=False).train()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, norm.num_features, 3, 3, generator=generator, device="cpu").to(parts[0].device)
    try:
        with torch.no_grad():
            wanted = [copy.deepcopy(module).train(mode)(x.clone()) for mode in (False, True)]
    except Exception:  # it is something else that has parts of these names
        return None
    alike = all(isinstance(y, Tensor) and torch.allclose(y, norm(x), rtol=1e-4, atol=1e-4) for y in wanted)
    return norm if alike else None
