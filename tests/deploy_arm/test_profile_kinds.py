"""Kinds of device: the project's own keep to what every one must; which one is taken; mistakes in the name of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy_arm.devices.kinds import DEVICES, kind_here, open_device
from foundation.errors import UserError
from pipeline.cluster.pool import devices_at_hand
from pipeline.cluster.work import NoDevice, Wanted
from tests.conformance.devices import DeviceConformance, work

FOREIGN = """
from deploy_arm.devices.emulated import EmulatedDevice
from deploy_arm.devices.base import Device

class Vague(EmulatedDevice):
    source = "guessed"

class Undeclared(Device): ...

class Absent(EmulatedDevice):
    def __init__(self, target):
        from foundation.errors import UserError
        raise UserError("the board does not answer")

class Two(EmulatedDevice):
    exclusive, broken, told = True, {"one"}, []

    @classmethod
    def names(cls, target):
        return ["one", "two"]

    @classmethod
    def named(cls, target, name):
        device = cls(target)
        device.name = name
        return device

    @classmethod
    def report(cls, name, reason):
        cls.told.append((name, reason))

    def execute(self, *arguments):
        answer = super().execute(*arguments)
        return bytes(len(answer)) if self.name in self.broken else answer

def function(target): ...
"""


@pytest.mark.parametrize("kind", DEVICES)
class TestKinds(DeviceConformance):
    """The project's own."""


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    (tmp_path / "boards_of_others.py").write_text(FOREIGN)
    return tmp_path


def test_an_emulated_device_can_be_asked_for_anywhere() -> None:
    assert {"emulated", "native", "ssh"} <= set(DEVICES)
    assert open_device("x1", "emulated").name == "emulated x1" and not DEVICES["emulated"].of_the_node
    assert open_device("a76").source == DEVICES[kind_here()].source
    assert DEVICES["native"].of_the_node


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Vague", "not a kind of device; it should be a class derived from .*whose ``source`` is"),
        ("Undeclared", "not a kind of device; it should be"),
        ("function", "is a function, not a kind of device"),
        ("Absent", "the board does not answer"),
    ],
)
def test_mistakes_in_a_kind_of_someone_else(foreign: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message), devices_at_hand("a76", f"boards_of_others:{name}", foreign):
        pass


def test_without_ray_the_next_device_does_what_one_cannot(foreign: Path) -> None:
    """Which answers with other bits than it should."""
    made = work()
    with devices_at_hand("a76", "boards_of_others:Two", foreign) as devices:
        answered = devices.run(made.program.read_bytes(), made.blob, made.images)
        assert answered.tobytes() == made.expected.tobytes()
        two = DEVICES["boards_of_others:Two"]
        [(name, reason)] = two.told  # type: ignore[attr-defined]
        assert name == "one" and "answers otherwise than the reference" in reason
        two.broken.add("two")  # type: ignore[attr-defined]
        with pytest.raises(NoDevice, match="two answers otherwise than the reference"):
            devices.run(made.program.read_bytes(), made.blob, made.images)


def test_an_unknown_kind_is_told_with_those_there_are() -> None:
    with pytest.raises(
        UserError,
        match=r"unknown kind of device 'emulate'; allowed: .*emulated, native, .*ssh.* and package\.module:Name",
    ):
        Wanted("a76", "emulate").open()
