"""The statistics and conditions of native measurement; the device itself is tested with a program."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

from deploy_arm.device import DEVICES, available_devices
from deploy_arm.native import NativeDevice, conditions, fastest_cpu, median_interval
from quantizers.errors import UserError


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


def test_clock_and_temperature_are_read_where_the_kernel_tells_them(tmp_path: Path) -> None:
    assert conditions(0, tmp_path) == {"frequency_ghz": None, "temperature_c": None}
    write(tmp_path / "devices/system/cpu/cpu2/cpufreq/scaling_cur_freq", "2400000\n")
    write(tmp_path / "class/thermal/thermal_zone0/temp", "41500\n")
    write(tmp_path / "class/thermal/thermal_zone1/temp", "48250\n")
    write(tmp_path / "class/thermal/thermal_zone2/temp", "not now\n")
    assert conditions(2, tmp_path) == {"frequency_ghz": 2.4, "temperature_c": 48.25}
    assert conditions(1, tmp_path)["frequency_ghz"] is None


def test_the_fastest_allowed_cpu_is_taken(tmp_path: Path) -> None:
    for cpu, clock in enumerate((1800000, 2840000, 2400000, 2840000)):
        write(tmp_path / f"devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq", str(clock))
    assert fastest_cpu([0, 1, 2, 3], tmp_path) == 3
    assert fastest_cpu([0, 1, 2], tmp_path) == 1
    assert fastest_cpu([0, 2], tmp_path) == 2
    assert fastest_cpu([0, 7], tmp_path) == 0
    assert fastest_cpu([5, 7], tmp_path / "none") == 7


def test_devices_say_what_they_are() -> None:
    assert set(DEVICES) == {"emulated", "native"}
    here = platform.machine() in ("aarch64", "arm64")
    (device,) = available_devices("x1")
    assert device.target == "x1"
    assert device.name == "emulated x1" or here
    with pytest.raises(UserError, match=r"unknown modelled core 'a75'; allowed: .*a76"):
        DEVICES["emulated"]("a75")
    if not here:
        with pytest.raises(UserError, match="aarch64 only"):
            NativeDevice("a76")
    with pytest.raises(UserError, match="CPU 9999 is not among"):
        NativeDevice("a76", cpu=9999, launcher=["qemu-aarch64"])
