"""The fuzzer's random graphs, under the name that the tests use."""

from deploy_arm.fuzz.graphs import RANGES, Builder
from deploy_arm.fuzz.networks import (
    GROUPED,
    in_blocks,
    random_blocks,
    random_convolution,
    random_middle,
    random_network,
    random_range,
    random_taps,
    with_checksum,
    with_kernel,
    with_middles,
)

__all__ = [
    "GROUPED",
    "RANGES",
    "Builder",
    "in_blocks",
    "random_blocks",
    "random_convolution",
    "random_middle",
    "random_network",
    "random_range",
    "random_taps",
    "with_checksum",
    "with_kernel",
    "with_middles",
]
