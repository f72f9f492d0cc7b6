"""A kind of device: a core that is held at a lower clock, as on a board without a fan.

python -m pipeline.search --devices downclocked:Downclocked --modules examples/extending
python -m pipeline.devices --devices downclocked:Downclocked --modules examples/extending
"""

from __future__ import annotations

import dataclasses

from deploy_arm.devices.base import Source
from deploy_arm.devices.emulated import EmulatedDevice

CLOCK_GHZ = 1.2


class Downclocked(EmulatedDevice):
    """An emulated core at another clock. Its times are a model's, so it says that they are modelled."""

    source: Source = "modelled"

    def __init__(self, target: str = "a76") -> None:
        super().__init__(target)
        self.core = dataclasses.replace(self.core, frequency_ghz=CLOCK_GHZ, board="a board without a fan")
        self.name = f"emulated {target} at {CLOCK_GHZ} GHz"
