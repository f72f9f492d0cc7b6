"""The statistics and conditions of native measurement; the device itself is tested with a program."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy_arm.blob.write import write_blob
from deploy_arm.boards.added import read_added
from deploy_arm.boards.conditions import conditions, fastest_cpus, parse_tree, read_tree
from deploy_arm.costs import fit
from deploy_arm.costs.samples import network, samples
from deploy_arm.devices import canary
from deploy_arm.devices.base import Profile
from deploy_arm.devices.emulated import EmulatedDevice
from deploy_arm.devices.kinds import DEVICES, open_device
from deploy_arm.devices.native import NativeDevice
from deploy_arm.devices.timed import ATTEMPTS, DRIFT, median_interval
from deploy_arm.fleet.calibrate import calibrate
from deploy_arm.ir.graph import Convolution, Graph
from deploy_arm.ir.reference import run
from foundation.errors import UserError
from pipeline.review.gates import Bounds, Evidence, judge
from pipeline.study.confidence import Paired


def test_the_interval_of_the_median_agrees_with_order_statistics() -> None:
    generator = np.random.default_rng(1)
    for _ in range(20):
        samples = np.sort(generator.lognormal(0, 0.2, size=101))
        low, high = median_interval(samples)
        # Distribution-free: ranks 41 and 61 of 101 hold the median with 95 %; the bootstrap may differ by some ranks.
        assert samples[36] <= low <= samples[45]
        assert samples[55] <= high <= samples[64]
        assert low <= np.median(samples) <= high


def test_the_interval_covers_the_true_median_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    intervals = [median_interval(generator.exponential(1.0, size=60), 300) for _ in range(300)]
    covered = sum(low <= np.log(2) <= high for low, high in intervals)
    assert 0.90 <= covered / 300 <= 0.99


def test_equal_samples_have_no_width() -> None:
    assert median_interval(np.full(10, 3.5)) == (3.5, 3.5)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_clock_governor_and_temperature_are_read_where_the_kernel_tells_them(tmp_path: Path) -> None:
    assert conditions(0, read_tree(tmp_path)) == {
        "frequency_ghz": None,
        "temperature_c": None,
        "governor": None,
    }
    write(tmp_path / "devices/system/cpu/cpu2/cpufreq/scaling_cur_freq", "2400000\n")
    write(tmp_path / "devices/system/cpu/cpu2/cpufreq/scaling_governor", "schedutil\n")
    write(tmp_path / "class/thermal/thermal_zone0/temp", "41500\n")
    write(tmp_path / "class/thermal/thermal_zone1/temp", "48250\n")
    write(tmp_path / "class/thermal/thermal_zone2/temp", "not now\n")
    tree = read_tree(tmp_path)
    assert conditions(2, tree) == {"frequency_ghz": 2.4, "temperature_c": 48.25, "governor": "schedutil"}
    assert conditions(1, tree)["frequency_ghz"] is None
    # What a board prints is read to the same, whatever else is said between.
    lines = "motd\n" + "".join(f"{path} {text}\n" for path, text in tree.items())
    assert parse_tree(lines) == tree


def test_the_fastest_allowed_cpus_come_first(tmp_path: Path) -> None:
    for cpu, clock in enumerate((1800000, 2840000, 2400000, 2840000)):
        write(tmp_path / f"devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq", str(clock))
    tree = read_tree(tmp_path)
    assert fastest_cpus([0, 1, 2, 3], tree) == [3, 1, 2, 0]
    assert fastest_cpus([0, 1, 2], tree) == [1, 2, 0]
    assert fastest_cpus([0, 2], tree) == [2, 0]
    assert fastest_cpus([0, 7], tree) == [0, 7]
    assert fastest_cpus([5, 7], {}) == [7, 5]


def test_devices_say_what_they_are() -> None:
    here = platform.machine() in ("aarch64", "arm64")
    device = open_device("x1")
    assert device.target == "x1"
    assert device.name == "emulated x1" or here
    with pytest.raises(UserError, match=r"unknown modelled core 'a75'; allowed: .*a76"):
        DEVICES["emulated"]("a75")
    if not here:
        with pytest.raises(UserError, match="aarch64 only"):
            NativeDevice("a76")
    with pytest.raises(UserError, match="CPU 9999 is not among"):
        NativeDevice("a76", cpu=9999, launcher=["qemu-aarch64"])


class FakeDevice(NativeDevice):
    """Programs that take as long as a speed says, which depends on how many inferences the CPU has done: its heat."""

    def __init__(self, speed: Callable[[int], float]) -> None:
        super().__init__("a76", launcher=[sys.executable])
        self.source = "measured"  # it plays a real one
        self.speed, self.done, self.calls = speed, 0, list[str]()

    def execute(self, program: Path, arguments: list[str], given: bytes, timeout: float) -> bytes:
        if arguments[0] == "info":
            return b'{"memory_bytes": 4096, "operations": [{"operation": "table"}, {"operation": "convolution"}]}'
        if "--layers" in arguments:
            return json.dumps({"ns": [3e6] * 20, "layers": [[1e6, 2e6]] * 20}).encode()
        if "--threads" in arguments:
            return json.dumps({"ns": [5e6 / int(arguments[-1])] * 20}).encode()
        is_canary = arguments[1] == str(canary.canary_blob())
        self.calls.append("canary" if is_canary else "network")
        repeat, warm_up = (int(arguments[arguments.index(name) + 1]) for name in ("--repeat", "--warmup"))
        times = []
        for i in range(warm_up + repeat):
            # The canary stands still while it is timed, so that its two medians are exact.
            self.done += 0 if is_canary else 1
            milliseconds = (0.1 if is_canary else 5.0) / self.speed(self.done)
            times += [1e6 * milliseconds * (1 + 0.001 * (i % 3))] if i >= warm_up else []
        return json.dumps({"ns": times}).encode()


class Modelled(EmulatedDevice):
    """A model whose answer is known without an emulator."""

    def profile(self, program: Path, blob: Path, *_: Any, **__: Any) -> Profile:
        return Profile(2.0 + blob.stat().st_size / 1e6, 1.0, 9.0, "modelled", self.name, 1, 1, 1)


class Slower(FakeDevice):
    """It takes thrice the model's time, and computes."""

    def execute(self, program: Path, arguments: list[str], given: bytes, timeout: float) -> bytes:
        if arguments[0] == "run":
            return run(canary.canary_graph(), canary.IMAGE[None]).tobytes()
        modelled = Modelled("a76").profile(program, Path(arguments[1])).latency_ms
        return json.dumps({"ns": [3e6 * modelled] * int(arguments[3])}).encode()


def test_calibration_finds_the_factor_between_measured_and_modelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    device = Slower(lambda _: 1.0)
    found = calibrate(device, Modelled("a76"))
    assert (found.factor, found.low, found.high) == pytest.approx((3.0, 3.0, 3.0)) and found.programs == 4
    assert read_added().calibrations == {device.name: found} and found.core == "a76"
    device.source = "modelled"
    with pytest.raises(UserError, match="its times are modelled; only what is measured"):
        calibrate(device)


def test_costs_of_kernels_are_fitted_to_what_a_device_takes() -> None:
    """Which takes two nanoseconds for every multiplication of a dense convolution."""

    class Exact(FakeDevice):
        graphs: list[Graph]

        def execute(self, program: Path, arguments: list[str], given: bytes, timeout: float) -> bytes:
            graph = self.graphs.pop(0)
            products = [
                math.prod(operation.weights.indices.shape)
                * math.prod(graph.tensors[operation.output].shape[:2])
                if isinstance(operation, Convolution)
                else 1
                for operation in graph.operations
            ]
            return json.dumps({"ns": [1] * 20, "layers": [[2 * count for count in products]] * 20}).encode()

    device = Exact(lambda _: 1.0)
    device.graphs = [network(sample, number) for number, sample in enumerate(samples(5))]
    expected = [network(sample, number) for number, sample in enumerate(samples(5))]
    found = list(fit.rows("a76", 5, device))
    convolutions = [
        (operation, graph)
        for graph in expected
        for operation in graph.operations
        if isinstance(operation, Convolution)
    ]
    assert len(found) == len(convolutions)
    for (work, kernel, cost), (operation, graph) in zip(found, convolutions):
        size = math.prod(graph.tensors[operation.output].shape[:2])
        assert kernel == operation.kernel and cost == 2 * math.prod(operation.weights.indices.shape) * size
        assert work.bits == operation.weights.bits
    record = fit.entry("a76", fit.fit(found), 5, device)
    assert (record["unit"], record["model"]) == ("measured nanoseconds", device.name)
    with pytest.raises(UserError, match="takes no times of operations"):
        fit.measuring("a76", "emulated")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setattr("deploy_arm.devices.base.cache_directory", lambda *_: tmp_path)
    for name in ("program", "blob"):
        (tmp_path / name).write_text(name)
    return tmp_path / "program", tmp_path / "blob"


IMAGE = np.zeros((4, 4, 3), np.uint8)


def test_a_steady_cpu_is_measured_once_between_two_canaries(files: tuple[Path, Path]) -> None:
    device = FakeDevice(lambda done: 1.0 - 0.02 * (done > 10))  # two percent slower: within what is allowed
    profile = device.profile(*files, IMAGE)
    assert device.calls == ["canary", "network", "canary"]
    assert profile.steady and profile.warning == "" and profile.details["narrow"]
    assert [(part.kind, part.ms, part.low_ms) for part in profile.layers] == [
        ("table", 1, 1),
        ("convolution", 2, 2),
    ]
    most = len(device.cpus)
    threads = {"1": profile.latency_ms, "2": 2.5, "4": 1.25}
    assert profile.details["threads_ms"] == {key: threads[key] for key in threads if int(key) <= most}
    told = profile.details["canary"]
    assert told["before_ms"] == pytest.approx(0.1001) and told["attempts"] == 1
    assert told["after_ms"] == pytest.approx(0.1001 / 0.98)
    device.profile(*files, IMAGE)
    assert len(device.calls) == 3  # remembered


def test_a_cpu_that_slows_down_once_is_measured_again(files: tuple[Path, Path]) -> None:
    device = FakeDevice(lambda done: 1.0 if done < 20 else 0.8)
    profile = device.profile(*files, IMAGE)
    assert device.calls == ["canary", "network", "canary", "network", "canary"]
    assert profile.steady and profile.details["canary"]["attempts"] == 2
    assert profile.latency_ms == pytest.approx(5.005 / 0.8)  # all of it after the change
    assert profile.details["canary"]["before_ms"] == pytest.approx(0.1001 / 0.8)


@pytest.mark.parametrize("change", [0.93, 1.07])
def test_a_cpu_that_keeps_changing_is_marked_and_not_remembered(
    files: tuple[Path, Path], change: float
) -> None:
    device = FakeDevice(lambda done: change ** (done // 23))  # one batch is 20 repetitions after 3 warm-ups
    profile = device.profile(*files, IMAGE)
    assert device.calls.count("network") == ATTEMPTS and not profile.steady
    told = profile.details["canary"]
    assert abs(told["after_ms"] / told["before_ms"] - 1) > DRIFT
    assert profile.warning.startswith(f"not steady: a fixed network took {told['before_ms']:.4g} ms before")
    device.profile(*files, IMAGE)
    assert device.calls.count("network") == 2 * ATTEMPTS
    gates = judge(Evidence(Paired(10, 9, 0, 0), 10, profile), Bounds(1.0))
    assert profile.warning in next(gate.text for gate in gates if gate.name == "latency")


def test_the_steadiest_attempt_counts(files: tuple[Path, Path]) -> None:
    speeds = [1.0, 0.9, 0.86, 0.7]  # after 0, 1, 2 and 3 batches: 11, 5 and 23 % apart
    device = FakeDevice(lambda done: speeds[min(done // 23, 3)])
    profile = device.profile(*files, IMAGE)
    assert not profile.steady and profile.details["canary"]["before_ms"] == pytest.approx(0.1001 / 0.9)


def test_the_canary_is_the_same_everywhere() -> None:
    graph = canary.canary_graph()
    assert write_blob(graph) == canary.canary_blob().read_bytes() == write_blob(canary.canary_graph())
    # Its answer, and so its weights and image, must not change: times are compared with those of former measurements.
    assert run(graph, canary.IMAGE[None])[0, :3].tolist() == [-7667.0, -9769.0, -10431.0]
    assert canary.drift(2.0, 2.1) == canary.drift(2.1, 2.0) == pytest.approx(0.05)
