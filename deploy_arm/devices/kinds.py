"""The kinds of device by name, and the one that is taken where nobody names one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deploy_arm.boards.added import Calibration, read_added
from deploy_arm.target.toolchain import is_arm
from foundation.errors import UserError
from foundation.registry import Registry

if TYPE_CHECKING:
    from deploy_arm.devices.base import Device


def _is_kind(value: Any) -> bool:
    """a class derived from deploy_arm.devices.base.Device whose ``source`` is "measured" or "modelled" """
    from deploy_arm.devices.base import Device

    source = getattr(value, "source", None)
    return isinstance(value, type) and issubclass(value, Device) and source in ("measured", "modelled")


DEVICES: Registry[type[Device]] = Registry("kind of device", "deploy_arm.devices", _is_kind)


def kind_here(target: str = "a76") -> str:
    """``native`` on an aarch64 machine; ``ssh`` where a board was added for the target that measures, usable or not: it is
    never replaced by an emulator without a word; else ``emulated``."""
    if is_arm():
        return "native"
    boards = read_added().boards.values()
    return "ssh" if any(b.target == target and b.source == "measured" for b in boards) else "emulated"


def open_device(target: str = "a76", kind: str | None = None, name: str | None = None) -> Device:
    """A device that runs programs for ``target``: of the ``kind`` named, else this machine's own CPU where it is an ARM one, a
    board that was added (both measured), or an emulated one (modelled; its name says so).

    Args:
        name: which of that kind's ``names``; by default the first.

    Raises:
        UserError: unknown kind or target, or what the device needs is not here.
    """
    found = DEVICES[kind or kind_here(target)]
    device = found(target) if name is None else found.named(target, name)
    device.ready()
    return device


def calibrations(target: str = "a76", kind: str | None = None) -> list[Calibration]:
    """What calibration found of the devices of a kind (None: what is at hand) that would be used here; none is asked for it."""
    found, known = DEVICES[kind or kind_here(target)], read_added().calibrations
    if not known:
        return []
    try:
        names = [found.named(target, name).name for name in found.names(target)]
    except UserError:  # there is none, which is told where one is needed
        return []
    return [known[name] for name in names if name in known and known[name].core == target]
