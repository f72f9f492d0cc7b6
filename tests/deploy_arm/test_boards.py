"""What is known of boards: addresses, facts from recorded kernels, the file that drivers share; commands with limits."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_arm.boards import added, connection
from deploy_arm.boards.added import Calibration, edit_added, read_added
from deploy_arm.boards.board import Board, parse_address
from deploy_arm.boards.conditions import conditions, fastest_cpus
from deploy_arm.boards.facts import Facts, cpu_list, parse_facts
from deploy_arm.devices.kinds import kind_here
from deploy_arm.devices.ssh import SshDevice, usable_boards
from deploy_arm.fleet.boards import target_of
from deploy_arm.target.bounded import run_bounded
from deploy_arm.target.targets import TARGETS
from deploy_arm.target.toolchain import is_arm
from foundation.errors import UserError


def block(number: int, part: str, features: str) -> str:
    return (
        f"processor\t: {number}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        f"CPU variant\t: 0x4\nCPU part\t: {part}\nCPU revision\t: 1\n\n"
    )


OLD = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
DOT = OLD + " atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
FREQUENCY = "devices/system/cpu/cpu{}/cpufreq/{} {}\n"
# A Rock 5B (RK3588): four little cores, then two clusters of big ones, as its kernel tells.
ROCK = (
    "aarch64\nrock-5b\n5.10.110-37-rockchip\nCpus_allowed_list:\t0-7\ncpuinfo\n"
    + "".join(block(cpu, "0xd05" if cpu < 4 else "0xd0b", DOT) for cpu in range(8))
    + "Serial\t\t: 0000\n\ntree\n"
    + "".join(FREQUENCY.format(cpu, "scaling_cur_freq", 408000 if cpu < 4 else 2256000) for cpu in range(8))
    + "".join(FREQUENCY.format(cpu, "scaling_governor", "ondemand") for cpu in range(8))
    + "".join(
        FREQUENCY.format(cpu, "cpuinfo_max_freq", [1800000, 2256000, 2304000][(cpu > 3) + (cpu > 5)])
        for cpu in range(8)
    )
    + "class/thermal/thermal_zone0/temp 46230\nclass/thermal/thermal_zone1/temp 47153\n"
)
RASPBERRY_4 = (
    "aarch64\nraspberrypi\n6.6.20+rpt-rpi-v8\nCpus_allowed_list:\t0-3\ncpuinfo\n"
    + "".join(block(cpu, "0xd08", OLD) for cpu in range(4))
    + "tree\nclass/thermal/thermal_zone0/temp 58426\n"
)


def test_facts_of_a_mixed_chip_are_those_of_its_big_cores() -> None:
    facts = parse_facts(ROCK)
    assert (facts.machine, facts.node, facts.allowed, facts.missing) == (
        "aarch64",
        "rock-5b",
        tuple(range(8)),
        (),
    )
    assert fastest_cpus(facts.allowed, facts.tree) == [7, 6, 5, 4, 3, 2, 1, 0]
    assert conditions(7, facts.tree) == {
        "frequency_ghz": 2.256,
        "temperature_c": 47.153,
        "governor": "ondemand",
    }
    assert facts.cpus[0].target == "a55" and facts.cpus[7].target == "a76"
    board = Board("rock", "rock-5b")
    assert target_of(board, facts) == "a76"
    assert (
        target_of(board, parse_facts(ROCK.replace("list:\t0-7", "list:\t0-3"))) == "a55"
    )  # a login kept to the little ones
    old = parse_facts(RASPBERRY_4)
    assert target_of(board, old) == "a72" and conditions(3, old.tree)["frequency_ghz"] is None


@pytest.mark.parametrize(
    ("features", "target"), [(OLD, "a72"), (DOT, "a76"), (DOT + " i8mm bf16", "x2"), (OLD + " i8mm", "a72")]
)
def test_a_core_that_is_not_known_by_its_part_runs_what_it_has_instructions_for(
    features: str, target: str
) -> None:
    [cpu] = parse_facts(
        RASPBERRY_4[: RASPBERRY_4.index("processor")] + block(0, "0x022", features) + "\ntree\n"
    ).cpus.values()
    assert cpu.target == target and TARGETS[target].dot_product == ("asimddp" in features)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "aarch64",
        ROCK[:40],
        ROCK.replace("rock-5b\n", "rock\t5b;rm\n"),
        ROCK.replace("0-7", "7-0"),
        ROCK.replace("0-7", "0-99999999"),
    ],
)
def test_answers_that_no_board_gives_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_facts(text)


@given(st.text())
def test_any_text_is_facts_or_is_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse_facts(text), Facts)


@given(st.sets(st.integers(0, 200), min_size=1))
def test_lists_of_cpus_are_read_as_the_kernel_writes_them(cpus: set[int]) -> None:
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and runs[-1][-1] == cpu - 1:
            runs[-1].append(cpu)
        else:
            runs.append([cpu])
    text = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    assert cpu_list(text) == sorted(cpus)


@pytest.mark.parametrize(
    "text", ["ssh://board", "ssh://pi@board.local:2222", "ssh://10.0.0.7", "ssh://pi@[fe80::1%eth0]:22"]
)
def test_addresses_come_back_as_they_were_typed(text: str) -> None:
    assert Board("x", **parse_address(text)).address == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "board",
            "pi@board",
            "http://board",
            "ssh://",
            "ssh://-oProxyCommand=x",
            "ssh://-l@b",
            "ssh://a b",
            "ssh://a;b",
            "ssh://a$b",
        ),
        *(
            "ssh://board:0",
            "ssh://board:70000",
            "ssh://board/path",
            "ssh://p:secret@board",
            "ssh://ü",
            "ssh://board\n",
            "ssh://a`b`",
        ),
    ],
)
def test_other_words_are_no_address(text: str) -> None:
    with pytest.raises(UserError, match="is no address of a board"):
        parse_address(text)


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "../a", "$(id)", "a;b", "a\nb", "ä", "x" * 65])
def test_names_hold_nothing_that_a_shell_or_a_path_knows(name: str) -> None:
    with pytest.raises(UserError, match="is no name of a device"):
        Board(name, "board")


def test_what_is_sent_is_passed_on_by_every_shell(tmp_path: Path) -> None:
    for letter in "'\\!\n":
        with pytest.raises(ValueError, match="may not pass on"):
            connection.script(f"echo {letter}", "mark")
    board = Board("x", "board", "pi", 22, Path("/a 100%/key"), Path("/b c/known"), ("qemu-aarch64",))
    command = connection.ssh_command(board)
    assert command[-2:] == ["--", "board"] and 'IdentityFile="/a 100%%/key"' in command
    # OpenSSH itself reads the options as they are meant.
    done = subprocess.run([*command[:-2], "-G", "board"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert (
        told["stricthostkeychecking"] == "true"
        and told["batchmode"] == "yes"
        and told["forwardagent"] == "no"
    )
    assert told["userknownhostsfile"] == "/b c/known" and told["user"] == "pi" and "controlpath" not in told


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "dgms-arm-search" / "devices.json"


def test_the_file_holds_what_was_added_and_only_this_user_reads_it(config: Path) -> None:
    assert read_added() == added.Added()
    with pytest.raises(RuntimeError), edit_added() as found:
        found.boards["gone"] = Board("gone", "x")
        raise RuntimeError
    assert not config.exists()
    board = Board(
        "desk", "10.0.0.7", "pi", 2222, Path("/k"), None, ("qemu-aarch64", "-cpu", "max"), "x1", "x86_64"
    )
    with edit_added() as found:
        found.boards["desk"] = board
        found.calibrations["desk"] = Calibration(1.25, 1.1, 1.4, 5, "x1", "2026-01-31")
    added.quarantine("desk", "it is hot")
    added.quarantine("nobody", "it is not there")
    assert read_added().boards == {"desk": board} and read_added().calibrations["desk"].factor == 1.25
    assert list(read_added().quarantines) == ["desk"] and config.stat().st_mode & 0o077 == 0
    added.release("desk")
    assert read_added().quarantines == {}


def test_two_drivers_write_one_after_another(config: Path) -> None:
    add = (
        "import sys\nfrom deploy_arm.boards.added import *\nfor i in range(10):\n with edit_added() as added:\n"
        "  name = f'{sys.argv[1]}{i}'\n  added.boards[name] = Board(name, name)"
    )
    drivers = [subprocess.Popen([sys.executable, "-c", add, name]) for name in "ab"]
    assert [driver.wait(60) for driver in drivers] == [0, 0]
    assert len(read_added().boards) == 20


GOOD: dict[str, object] = {
    "address": "ssh://b",
    "identity": None,
    "known_hosts": None,
    "runner": [],
    "target": "a76",
    "machine": "aarch64",
}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"version": 2, "boards": {}, "quarantines": {}, "calibrations": {}}',
        *(
            json.dumps(
                {"version": 1, "boards": {"b": {**GOOD, **change}}, "quarantines": {}, "calibrations": {}}
            )
            for change in (
                {"address": "ssh://-oProxyCommand=x"},
                {"runner": ["a;b"]},
                {"runner": 3},
                {"target": "a77"},
                {"machine": None},
                {"known_hosts": '/a"b'},
                {"identity": 3},
            )
        ),
        json.dumps({"version": 1, "boards": {"../b": GOOD}, "quarantines": {}, "calibrations": {}}),
        json.dumps(
            {"version": 1, "boards": {}, "quarantines": {"b": {"reason": 3, "since": 0}}, "calibrations": {}}
        ),
        json.dumps({"version": 1, "boards": {}, "quarantines": {"b": {"since": 0}}, "calibrations": {}}),
    ],
)
def test_a_damaged_file_is_told_and_left(config: Path, text: str) -> None:
    config.parent.mkdir()
    config.write_text(text)
    with pytest.raises(UserError, match=re.escape(f"{config} is no list of devices (")), edit_added():
        pass
    assert config.read_text() == text


def test_boards_are_taken_unasked_only_where_they_measure(config: Path) -> None:
    with edit_added() as found:
        found.boards["laptop"] = Board("laptop", "a", runner=("qemu-aarch64",), machine="x86_64")
    if not is_arm():
        assert kind_here("a76") == "emulated"
    assert list(usable_boards("a76")) == ["laptop"]  # asked for by name
    with edit_added() as found:
        found.boards |= {
            "one": Board("one", "b"),
            "two": Board("two", "c"),
            "other": Board("other", "d", target="x1"),
        }
    if not is_arm():
        assert (kind_here("a76"), kind_here("x1"), kind_here("a53")) == ("ssh", "ssh", "emulated")
    assert SshDevice.names("a76") == ["one", "two"] and SshDevice("a76").source == "measured"
    added.quarantine("one", "hot")
    assert SshDevice.names("a76") == ["two"]
    added.quarantine("two", "gone")
    with pytest.raises(UserError, match=r"every board for a76 is in quarantine \(one: hot; two: gone\)"):
        SshDevice("a76")
    if not is_arm():
        assert kind_here("a76") == "ssh"  # and so that is told, not replaced by an emulator
    with pytest.raises(
        UserError, match=r"no board was added for a53 \(there is laptop for a76, .*other for x1\)"
    ):
        SshDevice.names("a53")


def test_commands_end_in_time_and_within_their_output(tmp_path: Path) -> None:
    said = run_bounded(["sh", "-c", "cat; echo no >&2; exit 3"], b"given", seconds=60, most=100)
    assert (said.status, said.output, said.errors, said.cut) == (3, b"given", b"no\n", False)
    said = run_bounded(["sh", "-c", f"sleep 100 & echo $! > {tmp_path}/pid; wait"], seconds=0.3, most=100)
    assert said.status is None
    with pytest.raises(ProcessLookupError):  # whom it started ends with it
        for _ in range(100):
            os.kill(int((tmp_path / "pid").read_text()), 0)
            time.sleep(0.05)
    said = run_bounded(["yes"], seconds=60, most=1000)
    assert said.cut and len(said.output) == 1000
    with pytest.raises(OSError, match="No such"):
        run_bounded(["/no/such"], seconds=1, most=1)


def test_ctrl_c_ends_what_was_started(tmp_path: Path) -> None:
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), 2))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run_bounded(["sh", "-c", f"echo $$ > {tmp_path}/pid; sleep 100"], seconds=60, most=100)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
