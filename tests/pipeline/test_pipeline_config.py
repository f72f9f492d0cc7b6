"""Settings: the file gives defaults, flags win, and mistakes are explained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from foundation.command import Parser
from foundation.errors import UserError
from pipeline.study.command_line import parse
from pipeline.study.settings import Settings
from pipeline.study.values import byte_count, duration


def resolved(*argv: str) -> Settings:
    return parse(list(argv), Parser(prog="test"))[0]


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    file.write_text("model: resnet20\nbudget: 40\nbits: [4, 8]\nmax-accuracy-drop: 1.5\n")
    settings = resolved("--config", str(file), "--budget", "7")
    assert (settings.model, settings.budget, settings.bits) == ("resnet20", 7, (4, 8))
    assert settings.max_accuracy_drop == 1.5
    assert settings.target == Settings().target


def test_a_switch_is_what_yaml_makes_of_it(tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    for said, wanted in (("on", "on"), ("off", "off"), ("true", "on"), ('"on"', "on")):
        file.write_text(f"halving: {said}\n")
        assert resolved("--config", str(file)).halving == wanted
    assert resolved().halving == "off" and resolved("--halving", "on").halving == "on"


def test_resolved_settings_survive_yaml() -> None:
    settings = resolved(
        "--bits", "8,2", "--objectives", "size,error", "--time-budget", "90m", "--out", "some/where"
    )
    again = Settings.from_dict(yaml.safe_load(yaml.safe_dump(settings.as_dict())))
    assert again == settings
    assert (settings.bits, settings.objectives, settings.time_budget) == ((2, 8), ("error", "size"), 5400)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--bits", "2,5"], ["--bits 2,5: ", "2,3,4,8"]),
        (["--bits", "2,x"], ["--bits 2,x: ", "2,3,4,8"]),
        (["--budget", "0"], ["--budget 0: ", "at least 1"]),
        (["--budget", "many"], ["--budget many: ", "whole number"]),
        (["--objectives", "error"], ["--objectives error: ", "error,latency,size"]),
        (["--time-budget", "so soon"], ["--time-budget 'so soon': ", "45m"]),
        (["--name", "../up"], ["--name ../up: ", "letters"]),
        (["--epochs-per-trial", "0"], ["--epochs-per-trial 0: ", "above 0"]),
        (["--epochs-per-trial", "nan"], ["--epochs-per-trial nan: ", "above 0"]),
        (["--epochs-per-trial", "inf"], ["--epochs-per-trial inf: ", "finite"]),
        (["--halving", "maybe"], ["--halving maybe: ", "on or off"]),
        (["--name", "a\nb"], [r"--name 'a\nb': ", "letters"]),
        (["--name", "x" * 300], [f"--name {'x' * 57}...: "]),
        (["--no-such-flag"], ["--no-such-flag", "--help"]),
        (["--config", "/no/such.yaml"], ["/no/such.yaml"]),
    ],
)
def test_a_mistake_names_the_value_and_what_is_allowed(argv: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        resolved(*argv)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("modle: resnet20", "modle: 'resnet20'; did you mean mod"),
        ("- a list", "must hold `setting: value` lines, not a list"),
        ("budget: many", "budget: 'many': give a whole number"),
        ("budget: 12.7", "budget: 12.7: give a whole number"),
        ("budget: true", "budget: True: give a whole number"),
        ("budget: .inf", "budget: inf: give a whole number"),
        ("budget: [1, 2]", "budget: [1, 2]: give a whole number"),
        ("budget:", "budget: has no value"),
        ("weights: no", "weights: False: give text"),
        ("out: {a: b}", "out: {'a': 'b'}: give text"),
        ("bits: [2, 2.5]", "bits: [2, 2.5]: allowed are 2,3,4,8"),
        ("model: resnet20\nbudget: [1,", "(line 2: 'budget: [1,')"),
        ("model: resnet20\n\tbudget: 3", "(line 2: 'budget: 3')"),
        ("budget: 3\x00", "cannot read the settings"),
    ],
)
def test_a_mistake_in_the_file_names_key_and_value(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(text + "\n")
    with pytest.raises(UserError) as caught:
        resolved("--config", str(file))
    message = str(caught.value)
    assert says in message and str(file) in message and "\n" not in message


def test_the_name_alone_brings_back_the_settings_of_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    started = resolved(
        "--name", "one", "--model", "resnet20", "--budget", "40", "--bits", "4,8", "--data", "npz:x.npz"
    )
    started.folder.mkdir(parents=True)
    (started.folder / "settings.yaml").write_text(yaml.safe_dump(started.as_dict()))
    assert resolved("--name", "one") == started
    assert resolved("--name", "two") == Settings(name="two", out=tmp_path / "runs")
    more = resolved("--name", "one", "--budget", "50")
    assert (more.budget, more.model, more.bits) == (50, "resnet20", (4, 8))
    # From another folder, the study moved, with a settings file between flags and the study's own.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "runs").rename(tmp_path / "moved")
    Path("more.yaml").write_text("budget: 60\n")
    there = resolved("--name", "one", "--out", "../moved", "--config", "more.yaml")
    assert (there.out, there.budget, there.data) == (tmp_path / "moved", 60, f"npz:{tmp_path / 'x.npz'}")
    (there.folder / "settings.yaml").write_text("budget: -1\n")
    with pytest.raises(UserError, match=r"moved/one/settings.yaml: budget: -1: give a number of at least 1"):
        resolved("--name", "one", "--out", "../moved")


@given(st.floats(min_value=0.001, max_value=1e6), st.sampled_from(["s", "m", "h", "d"]))
def test_durations_scale(number: float, unit: str) -> None:
    text = f"{number:.3f}{unit}"
    if float(f"{number:.3f}") > 0:
        assert duration(text) == pytest.approx(
            float(f"{number:.3f}") * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
        )


@pytest.mark.parametrize("command", ["search", "evaluate", "promote", "train", "devices"])
def test_help_imports_nothing_heavy(command: str) -> None:
    """--help answers at once: the imports that take seconds wait. (Modules are asserted, not the clock.)"""
    code = (
        f"import sys; from pipeline import {command}\n"
        "try: code = " + command + ".main(['--help'])\nexcept SystemExit as stop: code = stop.code\n"
        "heavy = {'torch', 'ray', 'optuna', 'mlflow', 'pandas', 'sklearn', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--format" in done.stdout


@pytest.mark.parametrize("command", ["search", "evaluate", "promote", "train", "devices"])
def test_a_mistake_exits_with_2_and_no_trace(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"pipeline.{command}", "--nonsense"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("70000", 70000),
        ("64KiB", 65536),
        ("1.5 MiB", 1572864),
        ("200kB", 200_000),
        ("2MB", 2_000_000),
        (9, 9),
    ],
)
def test_sizes_are_typed_as_people_type_them(text: object, count: int) -> None:
    assert byte_count(text) == count


@pytest.mark.parametrize("text", ["0", "-3", "64 kib", "many", "", "1e5", "3GiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--max-size .*: give a size like 70000, 64KiB or 1.5MiB"):
        resolved("--max-size", text)


def test_limits_are_settings_like_others() -> None:
    settings = resolved("--max-size", "64KiB", "--max-latency", "0.5")
    assert (settings.max_size, settings.max_latency) == (65536, 0.5)
    assert Settings.from_dict(yaml.safe_load(yaml.safe_dump(settings.as_dict()))) == settings
    with pytest.raises(UserError, match="--max-latency 0: give a number above 0"):
        resolved("--max-latency", "0")
