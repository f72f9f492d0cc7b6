"""What a candidate asks of devices; where they stand is not its business."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from deploy_arm.devices.base import Profile


class Devices(Protocol):
    """What runs and profiles programs: the device pool."""

    def profile(
        self, program: bytes, blob: bytes, image: NDArray[np.uint8], layers: Sequence[str] = ()
    ) -> Profile: ...

    def run(self, program: bytes, blob: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]: ...
