"""What is the device's own failure, and not of the program that it runs."""

from __future__ import annotations

from foundation.errors import UserError

OTHER_PROCESSOR = (
    13  # a program's exit status where the processor lacks what it was compiled for (kernels/network.h)
)


class DeviceFault(UserError):
    """The device is gone, hangs, answers rubbish or has changed: the same work may succeed on another one."""


class DeviceBusy(DeviceFault):
    """Somebody else uses it, and did for as long as one was ready to wait."""
