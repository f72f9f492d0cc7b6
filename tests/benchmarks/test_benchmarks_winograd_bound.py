"""The transforms that the bound counts are right, and their ranges are attained."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import winograd_bound as w


def direct(tile: np.ndarray, weights: np.ndarray, outputs: int) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(tile, (3, 3))
    assert windows.shape[:2] == (outputs, outputs)
    return (windows * weights).sum(axis=(2, 3))


@pytest.mark.parametrize("outputs", [2, 4])
def test_the_transforms_give_the_direct_sums(outputs: int) -> None:
    random = np.random.default_rng(outputs)
    for _ in range(50):
        tile = random.integers(-128, 128, (outputs + 2, outputs + 2))
        weights = random.integers(-127, 128, (3, 3))
        np.testing.assert_array_equal(w.convolve(tile, weights, outputs), direct(tile, weights, outputs))


@pytest.mark.parametrize("outputs", [2, 4])
def test_bytes_attain_the_ranges_nearly(outputs: int) -> None:
    """Exactly for weights; an activation of +128 does not exist."""
    b, g, _, _ = w.TRANSFORMS[outputs]
    row, column = (np.sign(matrix[np.abs(matrix).sum(axis=1).argmax()]) for matrix in (b, g))
    activation, weight = w.ranges(outputs)
    tile = np.clip(128 * np.outer(row, row), -128, 127)
    weights = 127 * np.outer(column, column)
    assert 127 / 128 * activation <= np.abs(b @ tile @ b.T).max() <= activation
    assert np.abs(g @ weights @ g.T).max() == weight


def test_integers_lose_and_floats_win() -> None:
    assert w.ranges(2)[0] > 127 and w.ranges(2)[1] > 127  # no bytes any more
    assert w.channels_that_fit(2) >= 512 and w.channels_that_fit(4) < 64
    for layer in w.RESNET18:
        assert w.winograd(layer, w.SMLAL, 8) > 1.7 / w.SDOT
        assert w.winograd(layer, w.FMLA, 4) < 0.75 / w.FMLA
    even = w.TransformStage("", 10**6, 10**6, 8)  # the transforms vanish
    assert w.winograd(even, w.SMLAL, 8) == pytest.approx(16 / 36 / 4, rel=1e-3)
