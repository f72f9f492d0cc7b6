"""Coded weights: what goes in comes out, in hardly more bytes than its entropy, and nothing else is decoded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deploy_arm.blob.entropy_coding import (
    FEW_LANES,
    decode,
    encode,
    estimated_bytes,
    frequencies,
    lanes_of,
)
from deploy_arm.blob.packing import pack_weights, store_weights, unpack_weights
from foundation.codebook import Codebook
from foundation.errors import UserError

Bytes = NDArray[np.uint8]
TABLE_BYTES = {2: 8, 3: 16, 4: 32}


def decoded_as_worded(coded: Bytes, bits: int, lanes: int, count: int) -> list[int]:
    """Entry by entry, exactly as FORMAT.md words it."""
    table = coded[: 2 << bits].view("<u2").tolist()
    states = coded[2 << bits :][: 4 * lanes].view("<u4").tolist()
    words = coded[(2 << bits) + 4 * lanes :].view("<u2").tolist()
    starts = [sum(table[:symbol]) for symbol in range(1 << bits)]
    assert sum(table) == 4096
    entries = []
    for i in range(count):
        x = states[i % lanes]
        y = x % 4096
        [s] = [s for s in range(1 << bits) if starts[s] <= y < starts[s] + table[s]]
        x = table[s] * (x // 4096) + y - starts[s]
        states[i % lanes] = 65536 * x + words.pop(0) if x < 65536 else x
        entries.append(s)
    assert not words and set(states) == {65536}
    return entries


@st.composite
def streams(draw: st.DrawFn) -> tuple[Bytes, int]:
    """Tiny and large, random, constant, of two symbols, heavily skewed."""
    bits = draw(st.sampled_from([2, 3, 4]))
    count = draw(st.sampled_from([1, 2, 31, 32, 96, 1000, 4096, 8160, 8192, 12320, 40000, 140_001]))
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    skew = draw(st.sampled_from([0.01, 0.1, 1.0, 100.0]))
    used = draw(st.integers(1, 1 << bits))
    symbols = random.permutation(1 << bits)[:used]
    return random.choice(symbols, count, p=random.dirichlet(np.full(used, skew))).astype(np.uint8), bits


@given(streams())
@settings(max_examples=40, deadline=None)
def test_entries_come_back(example: tuple[Bytes, int]) -> None:
    entries, bits = example
    coded, lanes = encode(entries, bits), lanes_of(entries.size)
    table = frequencies(entries, bits)
    assert table.sum() == 4096
    assert np.array_equal(table > 0, np.bincount(entries, minlength=1 << bits) > 0)
    assert lanes & (lanes - 1) == 0 and lanes <= entries.size <= 8192 * lanes
    assert np.array_equal(decode(coded, bits, lanes, entries.size), entries)
    if entries.size <= 8192:
        assert decoded_as_worded(coded, bits, lanes, entries.size) == entries.tolist()


def test_many_lanes_are_coded_as_worded_too() -> None:
    entries = np.random.default_rng(0).choice(4, 131_100, p=[0.8, 0.1, 0.07, 0.03]).astype(np.uint8)
    lanes = lanes_of(entries.size)
    assert lanes > FEW_LANES
    coded = encode(entries, 2)
    assert decoded_as_worded(coded, 2, lanes, entries.size) == entries.tolist()
    with pytest.raises(UserError, match="end too early"):
        decode(coded[:-400], 2, lanes, entries.size)


@pytest.mark.parametrize("count", [4096, 8160, 140_001])
@pytest.mark.parametrize(("bits", "zeros"), [(2, 0.3), (2, 0.8), (2, 0.9), (3, 0.5), (4, 0.0), (4, 0.8)])
def test_a_code_is_hardly_longer_than_the_entropy(count: int, bits: int, zeros: float) -> None:
    others = (1 << bits) - 1
    shares = [zeros, *[(1 - zeros) / others] * others] if zeros else [1 / (1 << bits)] * (1 << bits)
    entries = np.random.default_rng(count).choice(1 << bits, count, p=shares).astype(np.uint8)
    found = np.bincount(entries, minlength=1 << bits) / count
    entropy = -float(np.sum(found * np.log2(found))) * count / 8
    size = encode(entries, bits).size
    assert entropy < size <= 1.02 * entropy + TABLE_BYTES[bits] + 4
    assert estimated_bytes(entries, bits) == pytest.approx(size, rel=0.02, abs=8)


def codebook(bits: int, zeros: float, shape: tuple[int, int, int, int] = (40, 3, 3, 24)) -> Codebook:
    random = np.random.default_rng(bits)
    levels = np.arange(1 << bits, dtype=np.int8) - (1 << (bits - 1))
    others = np.delete(np.arange(1 << bits), 1 << (bits - 1))
    indices = np.where(random.random(shape) < zeros, 1 << (bits - 1), random.choice(others, shape))
    return Codebook(indices.astype(np.uint8), levels, np.ones(1, np.float32), bits)


def test_weights_with_many_zeros_become_much_smaller() -> None:
    for zeros, most in ((0.8, 0.6), (0.9, 0.4)):
        weights = codebook(2, zeros)
        stored = store_weights(weights, 1)
        assert stored.lanes and stored.content.size <= most * pack_weights(weights, 1).size
        back = unpack_weights(stored.content, weights.levels, 2, (40, 3, 3, 24), 1, stored.lanes)
        assert np.array_equal(back.indices, weights.indices)


def test_weights_that_a_code_would_not_make_smaller_stay_packed() -> None:
    even = codebook(2, 0.25)
    tiny = codebook(2, 0.8, (2, 1, 1, 4))
    eight = Codebook(even.indices, np.arange(-2, 2, dtype=np.int8), np.ones(1, np.float32), 8)
    for weights in (even, tiny, eight):
        stored = store_weights(weights, 1)
        assert stored.lanes == 0 and np.array_equal(stored.content, pack_weights(weights, 1))


def test_a_depthwise_and_a_grouped_convolution_come_back() -> None:
    for shape, groups in (((200, 3, 3, 1), 200), ((48, 3, 3, 10), 3)):
        weights = codebook(3, 0.9, shape)
        stored = store_weights(weights, groups)
        assert stored.lanes
        back = unpack_weights(stored.content, weights.levels, 3, shape, groups, stored.lanes)
        assert np.array_equal(back.indices, weights.indices)


def test_a_damaged_code_is_refused() -> None:
    entries = np.random.default_rng(0).choice(4, 20_000, p=[0.7, 0.1, 0.1, 0.1]).astype(np.uint8)
    coded, lanes, count = encode(entries, 2), lanes_of(20_000), entries.size
    assert lanes == 4
    wrong_total = coded.copy()
    wrong_total[0] ^= 1
    refused = [
        (coded[:-2], lanes, "end too early"),
        (coded[:-1], lanes, "wrong size"),
        (coded[:20], lanes, "wrong size"),
        (np.append(coded, [np.uint8(0)] * 2), lanes, "damaged"),
        (wrong_total, lanes, "4096"),
        (coded, 3, "wrong size"),
        (coded, -4, "wrong size"),
        (coded, 1, "wrong size"),  # more than 8192 entries in it
        (coded, 32768, "wrong size"),
        (coded, 8, "coded weights"),
    ]
    for content, number, message in refused:
        with pytest.raises(UserError, match=message):
            decode(content, 2, number, count)
    random = np.random.default_rng(1)
    for _ in range(20):  # a changed bit of states or words shows at the end
        flipped = coded.copy()
        flipped[random.integers(8, coded.size)] ^= np.uint8(1 << random.integers(8))
        with pytest.raises(UserError, match="coded weights"):
            decode(flipped, 2, lanes, count)
