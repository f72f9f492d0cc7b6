"""Which region of a mixture a weight lies in."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizers.mixture.regions import FEW, place_between


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2 * FEW), st.integers(0, 2**31), st.sampled_from([torch.float32, torch.float64]))
def test_a_place_is_what_a_search_finds(edges: int, seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    ends = torch.randn(edges, generator=generator, dtype=torch.float64).sort().values
    ends[1::3] = ends[:-1:3][: len(ends[1::3])]  # some twice
    ends = ends.sort().values
    weight = torch.randn(7, 5, generator=generator, dtype=torch.float64).to(dtype)
    weight[0] = torch.tensor([float("inf"), float("-inf"), 0.0, 1e30, -1e30])
    if edges:
        weight[1] = ends[torch.randint(edges, (5,), generator=generator)].to(dtype)  # exactly on an edge
    assert torch.equal(place_between(weight, ends), torch.bucketize(weight, ends.to(dtype), out_int32=True))
