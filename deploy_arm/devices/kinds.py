"""The kinds of device by name, and the one that is taken where nobody names one."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

from foundation.registry import Registry

if TYPE_CHECKING:
    from deploy_arm.devices.base import Device


def _is_kind(value: Any) -> bool:
    """a class derived from deploy_arm.devices.base.Device whose ``source`` is "measured" or "modelled" """
    from deploy_arm.devices.base import Device

    source = getattr(value, "source", None)
    return isinstance(value, type) and issubclass(value, Device) and source in ("measured", "modelled")


DEVICES: Registry[type[Device]] = Registry("kind of device", "deploy_arm.devices", _is_kind)


def kind_here() -> str:
    """``native`` on an aarch64 machine, elsewhere ``emulated``."""
    return "native" if platform.machine() in ("aarch64", "arm64") else "emulated"


def open_device(target: str = "a76", kind: str | None = None) -> Device:
    """A device that runs programs for ``target``: of the ``kind`` named, else this machine's own CPU where it is an ARM one
    (measured), else an emulated one (modelled; its name says so).

    Raises:
        UserError: unknown kind or target, or what the device needs is not here.
    """
    device = DEVICES[kind or kind_here()](target)
    device.ready()
    return device
