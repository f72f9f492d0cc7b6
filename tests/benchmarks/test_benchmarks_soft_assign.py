"""The table of the soft assignment: both methods are measured."""

from __future__ import annotations

import pytest
import torch

from benchmarks.soft_assign import METHODS, main, measure
from foundation.errors import UserError


@pytest.mark.parametrize("method", METHODS)
def test_a_pass_takes_time_and_memory(method: str) -> None:
    threads = torch.get_num_threads()
    try:
        found = measure(method, 4096, 4, 2, 1)
    finally:
        torch.set_num_threads(threads)
    assert found["ms"] > 0 and 0 <= found["bytes_per_weight"] <= found["bytes_per_weight_kept"]


@pytest.mark.parametrize("words", [["--repeat", "0"], ["--threads", "-1"]])
def test_less_than_once_is_a_line(words: list[str]) -> None:
    with pytest.raises(UserError, match=" ".join(words)):
        main(words)
