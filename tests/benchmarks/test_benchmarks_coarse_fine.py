"""The table of middle taps of 8 bits: what its ways round, on weights of a moment."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.coarse_fine import REBUILT, SPLIT, SplitCell, book_of, cells
from quantizers.weights.coarse_fine import middle_of, without_middle


@pytest.fixture
def weight() -> Tensor:
    """Of a convolution that an identity was fused into."""
    made = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    middle_of(made).add_(20 * torch.eye(16, 8)[:, :, None, None])
    return made


def test_no_cell_is_asked_for_twice_and_nothing_is_split_at_8_bits() -> None:
    found = cells("network", "digest", [0, 1], [3, 4, 5, 8])
    assert {cell.bits for cell in cells("network", "digest", [0], [4, 8])} == {4, 8}
    assert len(set(found)) == len(found)
    assert {cell.way for cell in found if cell.bits == 8} == {"largest"}
    ways = {way + split for way in ("largest", "least error", "mixture") for split in ("", SPLIT)}
    assert {cell.way for cell in found if cell.bits == 4} == {*ways, *REBUILT}


@pytest.mark.parametrize(
    ("way", "bits"), [("largest", 4), ("least error", 5), ("mixture", 4), ("mixture", 3)]
)
def test_a_split_leaves_the_neighbours_less_error_and_the_middle_a_rounding(
    weight: Tensor, way: str, bits: int
) -> None:
    books = [book_of(weight, SplitCell("", "", name, bits, 0)) for name in (way, way + SPLIT)]
    assert [book.middle is not None for book in books] == [False, True]
    rounded = [torch.from_numpy(book.dequantize()) for book in books]
    errors = [float(without_middle(found - weight).square().sum()) for found in rounded]
    assert errors[1] < errors[0] * (1 if way == "mixture" else 0.5)  # whose levels are not even
    step = torch.from_numpy(books[1].scale).reshape(-1, 1, 1, 1)
    assert bool((middle_of(rounded[1] - weight).abs() <= 0.501 * step).all())
    assert len(books[1].levels) <= 2**bits


def test_what_does_not_stand_out_is_as_without_a_split() -> None:
    even = torch.randn(8, 8, 3, 3, generator=torch.Generator().manual_seed(1)).clamp(-2, 2)
    for way in ("largest", "mixture"):
        plain, split = (
            book_of(even, SplitCell("", "", name, 4, 0)).dequantize() for name in (way, way + SPLIT)
        )
        assert (plain == split).all()
