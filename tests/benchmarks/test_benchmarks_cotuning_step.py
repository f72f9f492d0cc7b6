"""The cost of a step: every row is there, beside fp32's of the same group."""

from __future__ import annotations

import torch

from benchmarks.cotuning_step import Conditions, rows


def test_every_part_of_a_step_is_measured_beside_the_same_step_in_fp32() -> None:
    threads = torch.get_num_threads()
    try:
        found = {row["row"]: row for row in rows(Conditions("vgg_tiny", 8, 2, "cpu", False, 2, None, 1), 1)}
    finally:
        torch.set_num_threads(threads)
    assert {"cotuning", "components held", "soft weights", "activations"} < set(found)
    for group in ("fp32", "fp32 with teacher", "fp32 evaluation"):
        assert found[group]["wall_ratio"] == 1.0
    assert found["cotuning"]["memory_mib"] >= found["fp32"]["memory_mib"] > 0
