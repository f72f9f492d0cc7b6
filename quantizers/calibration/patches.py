"""What a layer sees at places of its output, as rows to learn or solve from."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foundation.windows import output_size


def patches(module: nn.Module, x: Tensor, places: Tensor) -> Tensor:
    """What the layer sees at ``places`` of its output: [P, in, kh, kw] of an input [n, in, H, W].

    Args:
        places: int64 [P], indices into the flattened output positions of all images, [n * Ho * Wo]; of a linear layer, into the
            rows of its input.
    """
    if not isinstance(module, nn.Conv2d):
        return x.flatten(0, -2)[places][:, :, None, None]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = F.pad(x, padding_of(module), mode)
    rows, columns = outputs_of(module, x)
    image, place = places // (rows * columns), places % (rows * columns)
    (kh, kw), (sh, sw), (dh, dw) = module.kernel_size, module.stride, module.dilation
    top = (place // columns * sh)[:, None] + torch.arange(kh, device=x.device) * dh
    left = (place % columns * sw)[:, None] + torch.arange(kw, device=x.device) * dw
    seen = padded.permute(0, 2, 3, 1)[image[:, None, None], top[:, :, None], left[:, None, :]]
    return seen.permute(0, 3, 1, 2)


def outputs_of(module: nn.Module, x: Tensor) -> tuple[int, int]:
    """Rows and columns of the layer's output for an input [n, in, H, W]; a linear layer has one for each row of its input."""
    if not isinstance(module, nn.Conv2d):
        return 1, x.numel() // (x.shape[0] * x.shape[-1])
    left, right, top, bottom = padding_of(module)
    padding = (top, left, bottom, right)
    return output_size(x.shape[2:], module.kernel_size, module.stride, padding, module.dilation)


def padding_of(module: nn.Conv2d) -> tuple[int, int, int, int]:
    """Rows and columns that the layer adds: left, right, top, bottom. ``same`` puts the odd one right and below."""
    around: list[int] = []
    for axis in (1, 0):
        if module.padding == "valid":
            before = after = 0
        elif module.padding == "same":
            total = module.dilation[axis] * (module.kernel_size[axis] - 1)
            before, after = total // 2, total - total // 2
        else:
            before = after = int(module.padding[axis])
        around += [before, after]
    left, right, top, bottom = around
    return left, right, top, bottom


def apply(weight: Tensor, seen: Tensor, groups: int) -> Tensor:
    """The layer's output [P, out] at each patch [P, in, kh, kw]."""
    grouped = seen.reshape(len(seen), groups, -1)
    return torch.einsum("pgk,gok->pgo", grouped, weight.reshape(groups, -1, grouped.shape[2])).flatten(1)


def sampled(module: nn.Module, values: Iterable[Tensor], positions: int, seed: int) -> Tensor:
    """Patches at so many random output positions of every image, or at all where there are no more; the same positions whenever
    seed and sizes are the same."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for x in values:
        rows, columns = outputs_of(module, x)
        if positions < rows * columns:
            inside = torch.randint(0, rows * columns, (len(x), positions), generator=generator, device="cpu")
        else:
            inside = torch.arange(rows * columns, device="cpu").expand(len(x), -1)
        places = inside + torch.arange(len(x), device="cpu")[:, None] * (rows * columns)
        found.append(patches(module, x, places.flatten().to(x.device)))
    return torch.cat(found)
