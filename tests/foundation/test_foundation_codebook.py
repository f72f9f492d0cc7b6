"""A codebook says what its indices and levels stand for, and cannot be one that no program could hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from foundation.codebook import Codebook

LEVELS = np.array([-3, 0, 5], np.int8)
INDICES = np.array([[0, 1, 2, 1], [1, 1, 1, 2]], np.uint8)
ONE = np.array([0.5], np.float32)


def test_weights_are_scaled_levels() -> None:
    book = Codebook(INDICES, LEVELS, ONE, bits=2)
    assert book.integers.dtype == np.int8 and book.zeros == 5 / 8
    assert np.array_equal(book.dequantize(), [[-1.5, 0, 2.5, 0], [0, 0, 0, 2.5]])
    each = Codebook(INDICES, LEVELS, np.array([1, 2], np.float32), bits=2)
    assert np.array_equal(each.dequantize()[1], [0, 0, 0, 10]) and each.dequantize().dtype == np.float32
    assert Codebook(np.zeros((0, 4), np.uint8), LEVELS, ONE, bits=2).zeros == 0.0


def test_the_middle_tap_can_have_weights_of_its_own_in_any_order_of_axes() -> None:
    indices = np.zeros((2, 3, 3, 5), np.uint8)
    middle = np.arange(6, dtype=np.int8).reshape(2, 3, 1, 1) + 100
    book = Codebook(indices, LEVELS, ONE, 2, middle)
    integers = book.integers
    assert integers.dtype == np.int8 and (integers[:, :, 1, 2] == middle[:, :, 0, 0]).all()
    assert (integers == -3).sum() == integers.size - 6
    turned = book.transposed((0, 2, 3, 1))
    assert np.array_equal(turned.integers, integers.transpose(0, 2, 3, 1))
    assert (
        turned.indices.flags.c_contiguous
        and turned.middle is not None
        and turned.middle.shape == (2, 1, 1, 3)
    )


FILTER = np.zeros((2, 2, 3, 3), np.uint8)
MIDDLE = np.ones((2, 2, 1, 1), np.int8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"indices": FILTER, "middle": MIDDLE.astype(np.int16)}, "int16"),
        ({"indices": FILTER, "middle": MIDDLE[:1]}, r"\(1, 2, 1, 1\)"),
        (
            {"indices": FILTER[:, :, :2], "middle": MIDDLE},
            r"a middle int8 .* of 2-bit weights \(2, 2, 2, 3\)",
        ),
        ({"indices": FILTER, "middle": MIDDLE, "bits": 8}, "of 8-bit weights"),
        ({"levels": LEVELS.astype(np.int16)}, "int16"),
        ({"indices": INDICES.astype(np.int64)}, "int64"),
        ({"scale": ONE.astype(np.float64)}, "float64"),
        ({"levels": np.arange(5, dtype=np.int8)}, "5 levels and 2 bits"),
        ({"levels": LEVELS[:2]}, "2 levels and 2 bits do not fit the indices"),
        ({"scale": np.ones(3, np.float32)}, r"scale of shape \(3,\) for 2 output channels"),
    ],
)
def test_one_that_no_program_could_hold_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Codebook(**{"indices": INDICES, "levels": LEVELS, "scale": ONE, "bits": 2, **change})
