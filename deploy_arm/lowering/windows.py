"""The windows of a pooling along one axis, as PyTorch defines them."""

from __future__ import annotations

from deploy_arm.ir.graph import Window
from foundation.windows import places_along


def _count(size: int, kernel: int, stride: int, padding: int, *, ceil_mode: bool) -> int:
    """Number of outputs; with ``ceil_mode`` a last window must still start inside the input or its left padding."""
    count = places_along(size, kernel, stride, 2 * padding + (stride - 1 if ceil_mode else 0))
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1
    return count


def pool_windows(
    size: int, kernel: int, stride: int, padding: int, *, ceil_mode: bool, dilation: int = 1
) -> tuple[Window, ...]:
    """Max-pool windows over ``size`` inputs: padding never wins, so it is cut off; the divisor is 1. With ``dilation`` every
    so many-th input of a window counts, the first of them at its start."""
    reach = dilation * (kernel - 1) + 1
    starts = [i * stride - padding for i in range(_count(size, reach, stride, padding, ceil_mode=ceil_mode))]
    first = [start + -(-max(-start, 0) // dilation) * dilation for start in starts]
    return tuple(
        Window(inside, min(start + reach, size), 1) for start, inside in zip(starts, first, strict=True)
    )


def average_windows(
    size: int, kernel: int, stride: int, padding: int, *, ceil_mode: bool, count_padding: bool
) -> tuple[Window, ...]:
    """Average-pool windows; the divisor counts padding (but nothing beyond it) where ``count_padding`` says so."""
    windows = []
    for i in range(_count(size, kernel, stride, padding, ceil_mode=ceil_mode)):
        start = i * stride - padding
        end = min(start + kernel, size + padding)
        inside = Window(max(start, 0), min(end, size), 1)
        divisor = end - start if count_padding else inside.end - inside.start
        windows.append(Window(inside.start, inside.end, divisor))
    return tuple(windows)


def adaptive_windows(size: int, outputs: int) -> tuple[Window, ...]:
    """Adaptive pooling: output i covers inputs floor(i * size / outputs) to ceil((i + 1) * size / outputs)."""
    bounds = [(i * size // outputs, -(-(i + 1) * size // outputs)) for i in range(outputs)]
    return tuple(Window(start, end, end - start) for start, end in bounds)
