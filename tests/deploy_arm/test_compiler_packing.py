"""Packed weights: the layout FORMAT.md describes, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy_arm.blob.packing import (
    GROUP_BYTES,
    is_depthwise,
    pack_groups,
    pack_weights,
    packed_bytes,
    unpack_groups,
    unpack_weights,
)
from foundation.codebook import Codebook


def entry(packed: np.ndarray, bits: int, position: int) -> int:
    """One entry read from the bytes exactly as FORMAT.md words it."""
    group = packed[position // 32 * GROUP_BYTES[bits] :][: GROUP_BYTES[bits]]
    j = position % 32
    if bits == 8:
        return int(group[j])
    if bits == 4:
        return int(group[j] & 15) if j < 16 else int(group[j - 16] >> 4)
    low = int(group[j % 8] >> (2 * (j // 8))) & 3
    if bits == 2:
        return low
    return low | (int(group[8 + j % 4] >> (j // 4)) & 1) << 2


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_every_entry_lies_where_the_format_says(bits: int) -> None:
    entries = np.random.default_rng(bits).integers(0, 2**bits, 32 * 5).astype(np.uint8)
    packed = pack_groups(entries, bits)
    assert packed.size == 5 * GROUP_BYTES[bits]
    assert [entry(packed, bits, i) for i in range(entries.size)] == entries.tolist()
    assert np.array_equal(unpack_groups(packed, bits), entries)


@st.composite
def codebooks(draw: st.DrawFn) -> tuple[Codebook, int]:
    groups = draw(st.sampled_from([1, 1, 2, 3, 5]))
    shape = (
        groups * draw(st.integers(1, 19)),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 9)),
    )
    bits = draw(st.sampled_from([2, 3, 4, 8]))
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    count = draw(st.integers(2, min(2**bits, 255)))
    levels = np.sort(random.choice(np.arange(-127, 128), count, replace=False)).astype(np.int8)
    indices = random.integers(0, count, shape).astype(np.uint8)
    return Codebook(indices, levels, np.ones(1, np.float32), bits), groups


@given(codebooks())
@settings(max_examples=60, deadline=None)
def test_weights_come_back_and_lie_in_tile_order(example: tuple[Codebook, int]) -> None:
    weights, groups = example
    packed = pack_weights(weights, groups)
    out, height, width, depth = shape = weights.indices.shape
    assert packed.size == packed_bytes(shape, groups, weights.bits)
    back = unpack_weights(packed, weights.levels, weights.bits, shape, groups)
    assert np.array_equal(back.integers, weights.integers)

    zero = np.flatnonzero(weights.levels == 0)
    filler = int(zero[0]) if zero.size and weights.bits != 8 else 0
    values = weights.integers.view(np.uint8) if weights.bits == 8 else weights.indices
    expected = []
    if is_depthwise(shape, groups):
        expected = [values[o, y, x, 0] for y in range(height) for x in range(width) for o in range(out)]
        expected += [filler] * (-len(expected) % 32)
    else:
        k, channels = height * width * depth, out // groups
        rows = values.reshape(groups, channels, k)
        for g in range(groups):
            for o in range(0, channels, 8):
                for d in range(0, k, 4):
                    for i in range(8):
                        for j in range(4):
                            inside = o + i < channels and d + j < k
                            expected.append(rows[g, o + i, d + j] if inside else filler)
    found = [entry(packed, weights.bits, i) for i in range(len(expected))]
    assert found == [int(e) for e in expected]


@pytest.mark.parametrize("bits", [5, 16])
def test_widths_without_a_packing_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"no packing for {bits} bits"):
        pack_groups(np.zeros(64, np.uint8), bits)
