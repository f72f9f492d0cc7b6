"""Devices with a real program: a small network compiled, run and profiled."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.frontend import compile_graph
from deploy_arm.devices import canary
from deploy_arm.devices.base import Device, Profile
from deploy_arm.devices.emulated import EmulatedDevice
from deploy_arm.devices.kinds import open_device
from deploy_arm.devices.native import NativeDevice
from deploy_arm.emulate import emulator
from deploy_arm.ir import reference
from deploy_arm.ir.graph import Graph
from deploy_arm.runtime.program import build_program
from deploy_arm.target.toolchain import choose_compiler
from foundation.errors import UserError
from foundation.files import sha256
from tests.deploy_arm.compiler_networks import harden, scramble_norms
from tests.deploy_arm.profile_programs import need_qemu


class Network(nn.Module):
    """A residual block between a strided convolution and a classifier, on 24 x 24 images."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16))
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.relu(self.block(x) + x)
        return self.classifier(self.pool(x).flatten(1))


class Built(NamedTuple):
    program: Path
    blob: Path
    graph: Graph
    images: NDArray[np.uint8]
    expected: NDArray[np.float32]

    @property
    def files(self) -> tuple[Path, Path]:
        return self.program, self.blob

    @property
    def layers(self) -> list[str]:
        return [operation.layer for operation in self.graph.operations]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    try:
        choose_compiler()
    except UserError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    hardened = harden(scramble_norms(Network()), torch.randn(8, 3, 24, 24), bits=4)
    graph = compile_graph(hardened, (3, 24, 24), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    blob = tmp_path_factory.mktemp("built") / "weights.blob"
    blob.write_bytes(write_blob(graph))
    images = np.random.default_rng(0).integers(0, 256, size=(5, 24, 24, 3), dtype=np.uint8)
    return Built(build_program("a76"), blob, graph, images, reference.run(graph, images))


@pytest.fixture(autouse=True)
def own_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Profiles go to a fresh folder; compiled things stay in the common one."""
    folder = tmp_path / "profiles"
    folder.mkdir()
    monkeypatch.setattr("deploy_arm.devices.base.cache_directory", lambda *_: folder)
    return folder


def device(target: str = "a76") -> EmulatedDevice:
    need_qemu()
    return EmulatedDevice(target)


def test_an_emulated_device_answers_like_the_reference(built: Built) -> None:
    assert np.array_equal(device().run(*built.files, built.images), built.expected)


def test_a_profile_is_whole_and_adds_up(built: Built) -> None:
    profile = device().profile(*built.files, built.images[0], layers=built.layers)
    assert profile.source == "modelled" and profile.device == "emulated a76"
    assert 0 < profile.low_ms <= profile.latency_ms <= profile.high_ms
    assert profile.size_bytes == built.blob.stat().st_size < profile.peak_memory_bytes
    assert [part.layer for part in profile.layers] == built.layers
    assert [part.kind for part in profile.layers].count("convolution") == 3
    for name, total in (("ms", "latency_ms"), ("low_ms", "low_ms"), ("high_ms", "high_ms")):
        assert sum(getattr(part, name) for part in profile.layers) == pytest.approx(getattr(profile, total))
    assert sum(part.instructions or 0 for part in profile.layers) == profile.instructions
    # 12 x 12 outputs of 16 channels from 27 and 144 products, and the classifier.
    assert profile.details["multiplications"] == 144 * 16 * (27 + 144) + 16 * 7
    assert Profile.from_json(profile.to_json()) == profile
    assert json.loads(json.dumps(dataclasses.asdict(profile)))["layers"][0]["kind"] == "input_table"
    with pytest.raises(ValueError, match="layer names"):
        device().profile(*built.files, built.images[0], layers=["one"])


def test_profiles_are_kept_by_program_blob_and_device(
    built: Built, own_profiles: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = device().profile(*built.files, built.images[0])
    device("x1").profile(*built.files, built.images[0])
    assert len(list(own_profiles.iterdir())) == 2
    other = tmp_path / "other.blob"
    shutil.copy(built.blob, other)
    with monkeypatch.context() as patched:
        patched.setattr(EmulatedDevice, "measure", lambda *_: pytest.fail("profiled again"))
        assert device().profile(built.program, other, built.images[0], layers=built.layers).layers[1].layer
    for path in own_profiles.iterdir():
        path.write_text('{"latency_ms": 1}')
    assert device().profile(*built.files, built.images[0]) == first
    assert device().profile(*built.files, built.images[0], cached=False) == first


def test_files_with_another_checksum_are_not_run(built: Built) -> None:
    sums = {"program": sha256(built.program), "blob": sha256(built.blob)}
    device().run(*built.files, built.images, expected=sums)
    for name in sums:
        with pytest.raises(UserError, match="checksum"):
            device().run(*built.files, built.images, expected={**sums, name: "0" * 64})
        with pytest.raises(UserError, match="checksum"):
            device().profile(*built.files, built.images[0], expected={**sums, name: "0" * 64})
    with pytest.raises(UserError, match="does not exist"):
        device().run(built.program, Path("no.blob"), built.images)


def test_a_damaged_blob_and_a_wrong_image_are_told(built: Built, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.blob"
    content = bytearray(built.blob.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        device().run(built.program, damaged, built.images)
    with pytest.raises(UserError, match="whole images"):
        device().run(*built.files, built.images[:, :23])
    with pytest.raises(ValueError, match="uint8"):
        device().run(*built.files, built.images.astype(np.float32))  # type: ignore[arg-type]


def test_both_emulators_agree_on_outputs_and_instructions(built: Built) -> None:
    need_qemu()
    pytest.importorskip("unicorn")
    for target in ("a76", "a72"):
        program = build_program(target)
        outputs = emulator.run(program, built.blob, built.images, target=target, under="unicorn")
        assert np.array_equal(outputs, built.expected)
        counts = {
            route: emulator.count(program, built.blob, built.images[0], target=target, under=route)
            for route in ("qemu", "unicorn")
        }
        ours, theirs = (
            [part.instructions for part in counts[route].operations] for route in ("unicorn", "qemu")
        )
        assert ours == pytest.approx(theirs, rel=0.01)


def test_warm_caches_miss_less_and_change_nothing_else(built: Built) -> None:
    need_qemu()
    cold = emulator.count(*built.files, built.images[0], warm_up=0)
    warm = emulator.count(*built.files, built.images[0], warm_up=1)
    assert cold.instructions == warm.instructions
    misses = [sum(part.second_misses or 0 for part in counts.operations) for counts in (cold, warm)]
    assert misses[1] == 0 < misses[0]


@pytest.mark.parametrize("limit", [0, 10**8])
def test_the_pip_route_profiles_without_qemu_and_llvm(
    built: Built, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    pytest.importorskip("unicorn")
    complete = device().profile(*built.files, built.images[0])
    monkeypatch.setenv("DGMS_ARM_ROUTE", "pip")
    monkeypatch.setattr("deploy_arm.devices.emulated.UNICORN_CACHES", limit)
    found = open_device("a76")
    if not isinstance(found, EmulatedDevice):
        pytest.skip("an ARM machine measures itself")
    profile = found.profile(*built.files, built.images[0])
    assert profile.details["emulator"] == "unicorn" and "own throughput table" in profile.details["model"]
    assert profile.details["caches"] == ("not simulated" if limit == 0 else "simulated, warm")
    assert profile.instructions == pytest.approx(complete.instructions, rel=0.01)
    # The wider interval holds the better model's figure.
    assert profile.low_ms <= complete.latency_ms <= profile.high_ms
    assert profile.high_ms / profile.low_ms > complete.high_ms / complete.low_ms
    if importlib.util.find_spec("unicorn"):
        assert np.array_equal(found.run(*built.files, built.images), built.expected)


def test_native_timing_repeats_and_reports_its_conditions(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The native device's own code; where this is no ARM machine, with the emulator in front of the program."""
    monkeypatch.setattr("deploy_arm.devices.timed.LONGEST_S", 0.5)
    monkeypatch.setattr("deploy_arm.devices.timed.CANARY_REPEAT", 9)
    monkeypatch.setattr("deploy_arm.devices.timed.CANARY_WARM_UP", 1)
    launcher = [] if open_device("a76").name != "emulated a76" else [emulator.find_qemu() or "none"]
    if launcher == ["none"]:
        pytest.skip("qemu-user is not installed")
    native = NativeDevice("a76", launcher=launcher)
    profile = native.profile(*built.files, built.images[0])
    assert profile.source == ("modelled" if launcher else "measured") and profile.device.endswith(
        f"cpu{native.cpu}"
    )
    assert profile.details["repetitions"] >= 20 and profile.instructions is None
    assert 0 < profile.low_ms <= profile.latency_ms <= profile.high_ms
    assert profile.details["minimum_ms"] <= profile.latency_ms
    assert set(profile.details["before"]) == {"frequency_ghz", "temperature_c", "governor"}
    assert [part.kind for part in profile.layers] == [
        operation["operation"] for operation in native.information(*built.files)["operations"]
    ]
    assert all(0 <= part.low_ms <= part.ms <= part.high_ms for part in profile.layers)
    assert list(profile.details["threads_ms"]) == ["1", *(str(n) for n in (2, 4) if n <= len(native.cpus))]
    told = profile.details["canary"]
    apart = abs(told["after_ms"] - told["before_ms"]) / min(told["after_ms"], told["before_ms"])
    assert profile.steady == (apart <= told["allowed"]) and 1 <= told["attempts"] <= 3
    assert (profile.warning == "") == (profile.steady and not launcher)
    if launcher and profile.steady:
        assert "the emulator's, of no ARM CPU" in profile.warning
    canary_scores = native.run(built.program, canary.canary_blob(), canary.IMAGE[None])
    assert np.array_equal(canary_scores, reference.run(canary.canary_graph(), canary.IMAGE[None]))
    assert np.array_equal(native.run(*built.files, built.images), built.expected)


def test_a_device_says_itself_where_its_figures_come_from(built: Built) -> None:
    class Silent(EmulatedDevice):
        source = Device.source  # type: ignore[assignment]

    with pytest.raises(TypeError, match=r"abstract.*source"):
        Silent("a76")

    class Boastful(EmulatedDevice):
        source = "measured"

        def measure(self, *arguments: Any) -> Profile:
            return dataclasses.replace(super().measure(*arguments), source="modelled")

    need_qemu()
    with pytest.raises(ValueError, match="says its figures are measured and gave modelled ones"):
        Boastful("a76").profile(*built.files, built.images[0], cached=False)
