"""What a modelled core stands for is said wherever it is shown, and a core that is far off is marked."""

from __future__ import annotations

import dataclasses
import json

import pytest

from deploy_arm.devices.base import Profile
from deploy_arm.devices.emulated import EmulatedDevice
from deploy_arm.target.cores import CORES
from deploy_arm.target.targets import TARGETS
from pipeline import devices, search


def profile(target: str) -> Profile:
    details = {"caution": CORES[target].caution, "stands_for": CORES[target].stands_for}
    return Profile(1.0, 0.9, 1.5, "modelled", EmulatedDevice(target).name, 1, 1, 1, (), details)


def test_a_core_that_is_far_off_is_marked_in_its_name_and_its_profile() -> None:
    assert EmulatedDevice("a72").name == "emulated a72 (approximate)"
    assert EmulatedDevice("a55").name == "emulated a55 (for ranking only)"
    assert EmulatedDevice("a76").name == "emulated a76"
    assert profile("a72").warning.startswith("approximate: a real Cortex-A72")
    assert profile("a76").warning == ""
    assert "warning: approximate: a real Cortex-A72" in devices._profile_text(profile("a72"))


def test_the_list_of_devices_says_what_a_core_stands_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert devices.main(["--target", "a72"], print) == 0
    approximate = capsys.readouterr().out
    assert "emulated a72 (approximate)" in approximate and "times the modelled time" in approximate
    assert devices.main(["--target", "a76"], print) == 0
    assert "a76 stands for a phone's Cortex-A76" in capsys.readouterr().out


@pytest.mark.parametrize("main", [devices.main, search.main])
def test_help_names_every_marked_core(main: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])  # type: ignore[operator]
    text = " ".join(capsys.readouterr().out.split())
    marked = [name for name in CORES if CORES[name].mark]
    assert "a72" in marked
    assert all(name in text for name in marked) and "approximate" in text


def test_words_about_a_core_do_not_change_what_identifies_its_figures() -> None:
    core = CORES["a72"]
    silent = dataclasses.replace(core, stands_for="", approximate="")
    assert repr(silent) == repr(core) and silent == core
    assert json.loads(profile("a72").to_json())["details"]["caution"] == core.caution


def test_each_target_is_modelled_by_the_core_of_its_name() -> None:
    assert set(CORES) == set(TARGETS)
    assert all(CORES[name].target == name for name in CORES)
