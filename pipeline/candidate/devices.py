"""What a candidate asks of devices; where they stand is not its business."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from deploy_arm.devices.base import Profile


class Devices(Protocol):
    """What runs and profiles programs: a pool, or this machine's own device."""

    @property
    def source(self) -> str: ...

    def profile(
        self,
        program: bytes,
        blob: bytes,
        image: NDArray[np.uint8],
        layers: Sequence[str] = (),
        *,
        anew: bool = False,
        urgent: bool = False,
    ) -> Profile:
        """What one inference of a uint8 image [H, W, C] costs, on whichever device is free first.

        Args:
            layers: the layer of each operation, for the breakdown.
            anew: do not take a profile of the same program that is remembered.
            urgent: before others that are not, as a finished candidate that may enter the front.
        """

    def run(self, program: bytes, blob: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Outputs float32 [N, K] for uint8 images [N, H, W, C]."""


AtHand = Callable[[str], AbstractContextManager[Devices]]
"""Devices for a target, for as long as the context lasts."""
