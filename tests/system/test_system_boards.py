"""Boards behind a real ssh server: added, checked, used and let go as a person types it; boards that misbehave."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from own_folder import command, command_here

from deploy_arm.blob.write import write_blob
from deploy_arm.boards.added import edit_added, read_added
from deploy_arm.devices import canary
from deploy_arm.devices.kinds import open_device
from deploy_arm.devices.ssh import SshDevice
from deploy_arm.ir import reference
from deploy_arm.runtime.program import build_program
from deploy_arm.target.fault import DeviceBusy, DeviceFault
from deploy_arm.target.toolchain import is_arm
from foundation.errors import UserError
from pipeline.candidate.folder import load_candidate
from pipeline.cluster.broker import PoolLimits
from pipeline.cluster.pool import DevicePool
from pipeline.cluster.ray_cluster import cluster
from tests.conformance.devices import DeviceConformance
from tests.local_board import LocalBoard, local_board
from tests.own_cache import own_cache
from tests.system.small_task import FLAGS, write_small_task


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBoard]:
    with local_board(tmp_path_factory.mktemp("a board")) as board:
        yield board


@pytest.fixture
def board(server: LocalBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalBoard]:
    """One that was added, behaves, and is asked for short."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", own_cache(tmp_path))
    monkeypatch.setattr("deploy_arm.devices.timed.CANARY_REPEAT", 9)
    monkeypatch.setattr("deploy_arm.devices.timed.CANARY_WARM_UP", 1)
    monkeypatch.setattr("deploy_arm.devices.timed.LONGEST_S", 0.1)
    monkeypatch.setattr("deploy_arm.devices.timed.BATCH", 3)
    monkeypatch.setattr("deploy_arm.devices.timed.ATTEMPTS", 1)
    with edit_added() as added:
        added.boards["local"] = server.added()
    yield server
    server.mode("")
    server.know()


@pytest.fixture(scope="module", autouse=True)
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built before the cache is another."""
    return build_program("a76")


@pytest.fixture
def device(board: LocalBoard, monkeypatch: pytest.MonkeyPatch, program: Path) -> SshDevice:
    monkeypatch.setattr("deploy_arm.fleet.boards.build_program", lambda target: program)
    return SshDevice("a76", board.added())


class TestBoard(DeviceConformance):
    """It keeps to what every kind of device must."""

    @pytest.fixture
    def kind(self) -> str:
        return "ssh"

    @pytest.fixture
    def device(self, kind: str, board: LocalBoard) -> SshDevice:
        with edit_added() as added:
            added.boards["other"] = board.added("other", target="x1")
        found = open_device("a76", kind)
        assert isinstance(found, SshDevice)
        return found

    def test_it_is_asked_from_the_list(self, device: SshDevice) -> None:
        assert device.name == "local" and device.source == ("measured" if is_arm() else "modelled")


def test_added_checked_listed_and_removed_as_typed(
    server: LocalBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: SshDevice
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "other config"))
    (tmp_path / "key").write_bytes(server.identity.read_bytes())
    (tmp_path / "key").chmod(0o600)
    flags = ["--identity" if flag == "--identity" else flag for flag in server.flags()]
    flags[flags.index(str(server.identity))] = "key"  # relative to where it is typed
    done = command_here("devices", "add", server.address, "--name", "desk", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "added desk for a76" in done.stdout and "desk" in done.stdout and "works: cpu" in done.stdout
    if not is_arm():
        assert "times are the emulator's, of no ARM CPU" in done.stdout
    assert read_added().boards["desk"].identity == tmp_path / "key"

    again = command_here("devices", "add", server.address, *flags, cwd=tmp_path)
    assert again.returncode == 2 and "was added already, as 'desk'" in again.stderr
    again = command_here("devices", "add", "ssh://127.0.0.2", "--name", "desk", cwd=tmp_path)
    assert again.returncode == 2 and "a board is called 'desk' already" in again.stderr

    listed = command_here("devices", "--devices", "ssh", "--format", "json", cwd=tmp_path)
    [row] = json.loads(listed.stdout)
    assert (row["name"], row["state"], row["where"]) == ("desk", "ready", server.address)
    checked = command_here("devices", "check", "desk", "--format", "json", cwd=tmp_path)
    [row] = json.loads(checked.stdout)
    assert checked.returncode == 0 and row["fault"] == "" and row["canary_ms"] > 0
    assert set(row["conditions"]) == {"frequency_ghz", "temperature_c", "governor"}

    assert server.files.is_dir()
    gone = command_here("devices", "remove", "desk", cwd=tmp_path)
    assert (gone.returncode, gone.stdout) == (0, "removed desk\n") and not server.files.exists()
    again = command_here("devices", "remove", "desk", cwd=tmp_path)
    assert again.returncode == 2 and "no board is called 'desk'; there is: none was added" in again.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["add"], "add ssh://user@board"),
        (["add", "ssh://a", "ssh://b"], "add ssh://user@board"),
        (["add", "pi@board"], "'pi@board' is no address of a board"),
        (["add", "ssh://-oProxyCommand=touch%20x"], "is no address of a board"),
        (["add", "ssh://board", "--name", "-x"], "--name"),
        (["add", "ssh://board", "--name", "a/b"], "'a/b' is no name of a device"),
        (["add", "ssh://board", "--identity", "none"], "--identity: .*none is no file"),
        (["add", "ssh://board", "--runner", "a 'b"], "--runner"),
        (["add", "ssh://board", "--target", "a77"], "unknown target 'a77'; allowed: .*a76"),
        (["remove"], "remove NAME"),
        (["check", "nobody"], "no board is called 'nobody'; there is: none was added"),
        (["forget"], "invalid choice: 'forget'"),
        (["--devices", "ssh", "--profile", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_told_in_a_line_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr("deploy_arm.boards.connection.run_bounded", None)  # nobody is asked
    done = command_here("devices", *words, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert subprocess.run(["grep", "-E", "-e", message], input=done.stderr, text=True).returncode == 0, (
        done.stderr
    )
    assert not (tmp_path / "config").exists()


def test_who_answers_in_its_place_is_not_asked(board: LocalBoard, device: SshDevice, tmp_path: Path) -> None:
    """Another host key than the known one, none that is known, another user's key, nobody there."""
    before = board.asked()
    other = (board.folder / "user.pub").read_text()
    board.know(other)
    with pytest.raises(DeviceFault, match="another host key answers there than known_hosts has"):
        device.ready()
    board.known_hosts.write_text("")
    with pytest.raises(DeviceFault, match=r"its host key is not in known_hosts. Connect once by `ssh -p"):
        device.ready()
    board.know()
    stranger = tmp_path / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", stranger], check=True)
    with pytest.raises(DeviceFault, match="it lets nobody in with the keys that are here"):
        SshDevice("a76", board.added(identity=stranger)).ready()
    assert board.asked() == before
    board.stop()
    try:
        with pytest.raises(DeviceFault, match="no ssh server listens"):
            device.ready()
    finally:
        board.start()
    device.ready()


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("echo garbage; exit 0", "has no POSIX sh that does as it is told .*: garbage"),
        ("exit 3", "has no POSIX sh that does as it is told .status 3.: nothing"),
        ("yes garbage", "answered more than [0-9]+ bytes"),
        ("printf '\\033]0;owned\\007'; exit 0", "told .status 0.: ]0;owned$"),
        ("exec sleep 100", "did not answer within"),
        ("kill -9 $$", "the connection failed|closed"),
    ],
)
def test_a_board_that_answers_anything_is_to_blame_itself(
    board: LocalBoard,
    device: SshDevice,
    program: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    message: str,
) -> None:
    if "sleep" in mode:  # who answers is given the time that a busy machine takes to read it
        monkeypatch.setattr("deploy_arm.boards.connection.GRACE_SECONDS", 1.0)
    device.ready()
    board.mode(mode)
    with pytest.raises(DeviceFault, match=message):
        device.execute(program, ["info", str(canary.canary_blob())], b"", 1.0)


LIES = {
    "no record": "echo []",
    "no number": 'echo "{\\"memory_bytes\\": {}}"',
    "nested": "head -c 200000 /dev/zero | tr '\\0' '['",
    "no text": "head -c 1000 /dev/urandom",
}


@pytest.mark.parametrize("lie", LIES)
def test_answers_that_no_program_gives_are_noticed(
    board: LocalBoard, device: SshDevice, program: Path, tmp_path: Path, lie: str
) -> None:
    """The runner lies for the program."""
    runner = tmp_path / "liar"
    runner.write_text(f"#!/bin/sh\n{LIES[lie]}\n")
    runner.chmod(0o755)
    liar = SshDevice("a76", board.added(runner=(str(runner),)))
    with pytest.raises(DeviceFault, match="answered no information"):
        liar.information(program, canary.canary_blob())
    with pytest.raises(DeviceFault, match=r"answered no times|answered . times for 3"):
        liar.bench(program, canary.canary_blob(), b"", 3, 0)
    with pytest.raises(DeviceFault):
        canary.prove(liar, program)
    assert "local" not in read_added().quarantines


def test_a_login_that_greets_does_not_disturb(board: LocalBoard, device: SshDevice, program: Path) -> None:
    board.mode("echo welcome; echo to this board >&2")
    canary.prove(device, program)


def test_a_full_disk_is_told_and_nothing_half_is_left(
    board: LocalBoard, device: SshDevice, program: Path
) -> None:
    for file in board.files.glob("*.program"):
        file.unlink()
    board.mode("trap '' XFSZ; ulimit -f 16")  # as a disk that ends after some kilobytes
    with pytest.raises(DeviceFault, match=r"local cannot keep a file: .*(File too large|No space)"):
        canary.prove(device, program)
    assert [file.name for file in board.files.iterdir() if not file.name.startswith("lock-")] == []
    board.mode("")
    canary.prove(device, program)


def test_files_are_checked_before_they_run(board: LocalBoard, device: SshDevice, program: Path) -> None:
    canary.prove(device, program)
    assert not list(board.files.glob("*.blob"))  # of no use to whoever comes next
    [kept] = board.files.glob("*.program")
    asked = board.asked()
    canary.prove(device, program)
    assert (
        board.asked() - asked == 4
    )  # hold, ask for what is not there, copy the blob... the program lies there
    kept.write_bytes(b"another program")
    canary.prove(device, program)
    assert kept.read_bytes() == program.read_bytes()


def test_what_a_program_cannot_do_is_not_the_board_s_fault(
    device: SshDevice, program: Path, tmp_path: Path
) -> None:
    damaged = bytearray(write_blob(canary.canary_graph()))
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "blob").write_bytes(damaged)
    with pytest.raises(UserError, match=r"stopped with status 6: .*damaged") as failure:
        device.run(program, tmp_path / "blob", canary.IMAGE[None])
    assert not isinstance(failure.value, DeviceFault)


def test_one_board_is_used_by_one_at_a_time(board: LocalBoard, device: SshDevice, program: Path) -> None:
    other = SshDevice("a76", board.added())
    with device.reserved(0.0):
        with pytest.raises(DeviceBusy, match="is in use by another"), other.reserved(0.0):
            pass
        held = threading.Event()

        def wait() -> None:
            with other.reserved(60.0):
                held.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not held.wait(0.5)
    waiting.join(60)
    assert held.is_set()


def test_a_board_that_is_lost_in_the_middle_frees_itself(board: LocalBoard, device: SshDevice) -> None:
    """Its lock ends with the connection of whoever held it."""
    with pytest.raises(ZeroDivisionError), device.reserved(0.0):
        1 / 0  # noqa: B018
    with device.reserved(0.0):
        pass


def test_what_is_found_out_is_kept_for_all(
    board: LocalBoard, device: SshDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy_arm.boards.connection.GRACE_SECONDS", 1.0)
    board.mode("echo garbage; exit 0")
    bad = command_here("devices", "check", cwd=tmp_path)
    assert bad.returncode == 1 and "quarantine: local has no" in bad.stdout and "garbage" in bad.stdout
    listed = command_here("devices", "--devices", "ssh", cwd=tmp_path)
    assert "quarantine" in listed.stdout and "garbage" in listed.stdout
    with pytest.raises(
        UserError, match=r"every board for a76 is in quarantine .*garbage.*devices check` tries them again"
    ):
        open_device("a76", "ssh")
    board.mode("")
    good = command_here("devices", "check", cwd=tmp_path)
    assert good.returncode == 0 and read_added().quarantines == {}


def test_boards_are_a_pool(board: LocalBoard, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which one is lost."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with edit_added() as added:
        added.boards["other"] = board.added("other", port=1)  # nobody listens there
    with cluster():
        pool = DevicePool.start("a76", "ssh", limits=PoolLimits(patience=60.0))
        assert pool.source == ("measured" if is_arm() else "modelled")
        answer = pool.run(program.read_bytes(), canary.canary_blob().read_bytes(), canary.IMAGE[None])
        assert answer.tobytes() == reference.run(canary.canary_graph(), canary.IMAGE[None]).tobytes()
        rows = {row["name"]: row for row in pool.devices()}
        assert rows["local"]["state"] == "free"
        assert rows["other"]["state"] == "quarantine" and "no ssh server listens" in rows["other"]["reason"]
    assert list(read_added().quarantines) == ["other"]  # for whoever comes next


@pytest.mark.slow
def test_a_whole_search_profiles_on_a_board(
    board: LocalBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As typed: every figure of the front is the board's, and each program came to it once, by its checksum."""
    for name in ("RAY_ADDRESS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    write_small_task(tmp_path)
    before = board.asked()
    done = command("search", *FLAGS, "--devices", "ssh", "--out", "runs", cwd=tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    source = "measured" if is_arm() else "modelled"
    assert f"devices: local (latencies are {source})" in done.stderr
    front = json.loads((tmp_path / "runs" / "study" / "front.json").read_text())
    assert {point["source"] for point in front["points"]} == {source}
    for point in front["points"]:
        candidate = load_candidate(tmp_path / "runs" / "study" / "candidates" / point["hash"])
        assert candidate.figures.device == "local"
    assert board.asked() > before
    assert read_added().quarantines == {}


def test_a_board_is_profiled_and_says_under_what_conditions(device: SshDevice, program: Path) -> None:
    profile = device.profile(program, canary.canary_blob(), canary.IMAGE, cached=False)
    assert profile.details["address"].startswith("ssh://") and profile.details["pinned"]
    assert set(profile.details["before"]) == {"frequency_ghz", "temperature_c", "governor"}
    if not is_arm():
        assert profile.source == "modelled"
        assert "the emulator's" in profile.warning or not profile.steady
        assert "the emulator's" in profile.details["caution"]
    answers = device.run(program, canary.canary_blob(), np.repeat(canary.IMAGE[None], 3, 0))
    assert answers.shape == (3, canary.CLASSES) and (answers == answers[0]).all()
