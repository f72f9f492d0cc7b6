"""What every kind of device must keep to. For one of your own:

    @pytest.mark.parametrize("kind", ["my_module:MyDevice"])
    class TestMyDevice(DeviceConformance):
        pass

It is skipped where there is no such device.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from deploy_arm.blob.write import write_blob
from deploy_arm.devices.base import Device, Profile
from deploy_arm.devices.canary import IMAGE, canary_graph
from deploy_arm.devices.kinds import DEVICES, open_device
from deploy_arm.ir import reference
from deploy_arm.runtime.program import build_program
from foundation.errors import UserError
from foundation.files import sha256


class Work(NamedTuple):
    """A small program, and what the reference answers for some images."""

    program: Path
    blob: bytes
    images: NDArray[np.uint8]
    expected: NDArray[np.float32]
    layers: list[str]


@cache
def work() -> Work:
    graph = canary_graph()
    noise = np.random.default_rng(0).integers(0, 256, (2, *IMAGE.shape), dtype=np.uint8)
    images = np.concatenate([IMAGE[None], noise])
    layers = [operation.layer for operation in graph.operations]
    return Work(
        build_program("a76"), write_blob(graph), images, reference.run(canary_graph(), images), layers
    )


class DeviceConformance:
    """Runs a small program on the device."""

    @pytest.fixture
    def device(self, kind: str) -> Device:
        try:
            return open_device("a76", kind)
        except UserError as error:
            pytest.skip(f"no {kind} device here: {error}")

    @pytest.fixture
    def blob(self, tmp_path: Path) -> Path:
        path = tmp_path / "weights.blob"
        path.write_bytes(work().blob)
        return path

    def test_the_kind_says_where_its_figures_come_from(self, kind: str) -> None:
        assert DEVICES[kind].source in ("measured", "modelled")

    def test_answers_as_the_reference_does_bit_for_bit(self, device: Device, blob: Path) -> None:
        answered = device.run(work().program, blob, work().images)
        assert answered.tobytes() == work().expected.tobytes()

    def test_a_profile_is_complete_and_says_where_it_comes_from(self, device: Device, blob: Path) -> None:
        profile = device.profile(work().program, blob, work().images[0], layers=work().layers, cached=False)
        assert profile.source == device.source and profile.device == device.name != ""
        assert 0 < profile.low_ms <= profile.latency_ms <= profile.high_ms
        assert profile.size_bytes == len(work().blob) <= profile.peak_memory_bytes
        assert not profile.layers or [part.layer for part in profile.layers] == work().layers
        assert Profile.from_json(profile.to_json()) == profile

    def test_files_that_differ_are_not_run(self, device: Device, blob: Path) -> None:
        expected = {"program": sha256(work().program), "blob": "0" * 64}
        with pytest.raises(UserError, match="has the checksum"):
            device.run(work().program, blob, work().images, expected=expected)
        blob.unlink()
        with pytest.raises(UserError, match="does not exist"):
            device.run(work().program, blob, work().images)

    def test_a_damaged_blob_is_told_and_the_device_lives_on(self, device: Device, blob: Path) -> None:
        content = bytearray(work().blob)
        content[len(content) // 2] ^= 1
        blob.write_bytes(content)
        with pytest.raises(UserError):
            device.run(work().program, blob, work().images)
        blob.write_bytes(work().blob)
        assert len(device.run(work().program, blob, work().images)) == len(work().images)

    def test_what_is_remembered_is_another_target_s_not(self, kind: str, device: Device) -> None:
        assert device.identity() == open_device("a76", kind).identity() != open_device("x1", kind).identity()
