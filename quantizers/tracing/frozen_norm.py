"""Batch-norms that other libraries freeze by a class of their own, which is a product and a sum to whoever traces it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

PARTS = ("weight", "bias", "running_mean", "running_var")
AFFINE = frozenset({"add", "sub", "mul", "div", "truediv", "batch_norm"})
SCALES = (1.0, 100.0)  # of the values that are tried, in standard deviations around the means


class FrozenNorm(nn.BatchNorm2d):
    """A batch-norm that normalizes by its statistics in training too."""

    def train(self, mode: bool = True) -> FrozenNorm:  # noqa: FBT001, FBT002  as torch has it
        super().train(mode=False)
        return self


def with_frozen_norms(model: nn.Module) -> bool:
    """Put ``FrozenNorm`` in place of the model's modules that compute the same (torchvision's ``FrozenBatchNorm2d``, and those of
    detection libraries), under each of their names; whether there are any."""
    found: dict[nn.Module, FrozenNorm | None] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if name and module not in found:
            found[module] = _norm_of(module)
        norm = found.get(module)
        if norm is not None:
            model.set_submodule(name, norm)
    return any(norm is not None for norm in found.values())


def _norm_of(module: nn.Module) -> FrozenNorm | None:
    """The norm that computes what a module does, in training and in evaluation; None where there is none."""
    parts: list[Any] = [getattr(module, name, None) for name in PARTS]
    if isinstance(module, _BatchNorm) or not all(
        isinstance(part, Tensor) and part.ndim == 1 and part.dtype == torch.float32 and not part.is_meta
        for part in parts
    ):
        return None
    if len({len(part) for part in parts}) != 1 or module._forward_hooks or module._forward_pre_hooks:
        return None
    try:
        norm = FrozenNorm(len(parts[0]), eps=float(getattr(module, "eps", 1e-5)), device=parts[0].device)
        with torch.no_grad():
            for name, part in zip(PARTS, parts, strict=True):
                getattr(norm, name).copy_(part)
            alike = _is_affine(module) and _computes(module, norm)
    except Exception:  # it is something else that has parts of these names
        return None
    for name, part in zip(PARTS[:2], parts, strict=False):
        getattr(norm, name).requires_grad_(part.requires_grad)
    return norm.train() if alike else None


def _is_affine(module: nn.Module) -> bool:
    """Whether a module makes of its only input, one step after another, sums and products with what does not depend on it."""
    still = copy.deepcopy(module)
    still.train(mode=False)  # gives nothing back where somebody wrote it so
    nodes = list(fx.Tracer().trace(still).nodes)
    (node,) = (each for each in nodes if each.op == "placeholder")
    while True:
        (user,) = node.users
        if user.op == "output":
            return bool(user.args == (node,))
        name = user.target if isinstance(user.target, str) else getattr(user.target, "__name__", "")
        if user.op not in ("call_function", "call_method") or name not in AFFINE:
            return False
        node = user


def _computes(module: nn.Module, norm: FrozenNorm) -> bool:
    """Whether a module gives what the norm does, where the norm's own values lie."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, norm.num_features, 3, 3, generator=generator, device="cpu").to(norm.weight.device)
    assert norm.running_mean is not None and norm.running_var is not None
    mean, deviation = (x[:, None, None] for x in (norm.running_mean, (norm.running_var + norm.eps).sqrt()))
    norm.train()
    for training in (False, True):
        other = copy.deepcopy(module)
        other.train(training)
        for scale in SCALES:
            x = mean + scale * deviation * noise
            found, wanted = other(x.clone()), norm(x)
            size = scale * norm.weight.abs()[:, None, None] + norm.bias.abs()[:, None, None]
            if (
                found.shape != x.shape
                or found.dtype != x.dtype
                or ((found - wanted).abs() > 1e-3 * size).any()
            ):
                return False
    return True
