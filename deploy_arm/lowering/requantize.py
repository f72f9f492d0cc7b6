"""From real factors to the fixed-point rule: multipliers, offsets, shifts, and the proof that nothing overflows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deploy_arm.ir.graph import Requantize, Window
from foundation.codebook import Codebook
from foundation.errors import UserError

Float64 = NDArray[np.float64]
LARGEST = 2**31 - 1
MOST_RIGHT = 22  # then a saturated 32-bit value is still above every byte after the shift
ADD_BITS = 20


def convolution_bound(weights: Codebook, low: int, high: int) -> int:
    """Largest size of any partial sum, in any order, of weights (out first) with activations in low..high."""
    rows = weights.integers.reshape(len(weights.indices), -1)
    step = max(2**22 // max(rows.shape[1], 1), 1)  # a large linear layer is summed some rows at a time
    parts = [np.abs(rows[i : i + step].astype(np.int32)) for i in range(0, len(rows), step)]
    sums = [part.sum(axis=1).max(initial=0) for part in parts]
    return int(max(sums, default=0)) * max(-low, high)


def check_sums(layer: str, factor: Float64, offset: Float64, bound: int) -> None:
    """Refuse scales that are not finite and sums of up to ``bound`` that exceed 32 bits, with a UserError."""
    if not (np.isfinite(factor).all() and np.isfinite(offset).all()):
        raise UserError(
            f"layer {layer}: scale or bias is not finite (NaN or infinity); the training has diverged"
        )
    if bound > LARGEST:
        raise UserError(
            f"layer {layer}: sums up to {bound} exceed 32 bits; use fewer activation bits or a smaller layer"
        )


def choose(layer: str, factor: Float64, offset: Float64, bound: int, low: int, high: int) -> Requantize:
    """Fixed-point parameters for ``clamp(round(acc * factor + offset))`` with \\|acc\\| <= ``bound``.

    ``left`` uses all of the accumulator's head room (``bound << left`` fits, so the first saturation never
    happens). ``right`` is the number of fraction bits kept, as many as multiplier and offset allow: the error
    before the last rounding is at most 1.5 * 2**-right output steps, usually below 2**-12.

    Raises:
        UserError: a factor or offset that is not finite, sums that exceed 32 bits, or an output step too small
            for fixed point.
    """
    check_sums(layer, factor, offset, bound)
    left = min(31 - max(bound, 1).bit_length(), 30)
    right = min(_fraction_bits(factor, left), _fraction_bits(offset, 31), MOST_RIGHT)
    if right < 0:
        raise UserError(
            f"layer {layer}: one output step is so small ({np.abs(factor).max():.3g} steps per unit of the sum) that "
            "fixed point cannot hold it; its activation step has collapsed, so train it again"
        )
    multiplier = np.rint(np.ldexp(factor, 31 + right - left)).clip(-LARGEST, LARGEST).astype(np.int32)
    fixed_offset = np.rint(np.ldexp(offset, right)).clip(-LARGEST, LARGEST).astype(np.int32)
    return Requantize(multiplier, fixed_offset, left, right, low, high)


def _fraction_bits(values: Float64, room: int) -> int:
    """The largest right with max|values| * 2**right < 2**room."""
    largest = float(np.abs(values).max(initial=0.0))
    return room - math.frexp(largest)[1] if largest else 31


def choose_add(layer: str, ratios: tuple[float, float]) -> tuple[tuple[int, int], int]:
    """Multipliers (at most 2**20) and right shift of an addition whose inputs count ``ratios`` output steps per own step.

    Raises:
        UserError: a ratio that is not finite or too large (an output step 2**19 times smaller than an input's).
    """
    if not all(math.isfinite(ratio) and ratio >= 0 for ratio in ratios):
        raise UserError(f"layer {layer}: an activation step is not finite; the training has diverged")
    largest = max(ratios)
    right = min(ADD_BITS - math.frexp(largest)[1], 30) if largest else 30
    if right < 1:
        raise UserError(
            f"layer {layer}: the output step is {largest:.3g} times smaller than an input's; train it again"
        )
    return (round(math.ldexp(ratios[0], right)), round(math.ldexp(ratios[1], right))), right


def pool_divisors(rows: Sequence[Window], columns: Sequence[Window]) -> tuple[int, ...]:
    """Distinct products of row and column divisors, ascending."""
    return tuple(sorted({row.divisor * column.divisor for row in rows for column in columns}))
