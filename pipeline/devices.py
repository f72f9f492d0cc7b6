"""The ARM CPUs that programs can run on.

``python -m pipeline.devices`` lists them; with ``--profile CANDIDATE`` it times a candidate on one. ``add``, ``check``,
``remove`` and ``calibrate`` are for boards that are reached by ssh.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy_arm.devices.kinds import DEVICES, kind_here
from foundation.command import DONE, REFUSED, Parser, main_guard, say, typed
from foundation.errors import UserError
from foundation.files import json_text
from foundation.show import show_bytes, show_interval, show_latency, show_milliseconds
from pipeline.cluster.nodes import arm_devices
from pipeline.cluster.pool import devices_at_hand
from pipeline.cluster.work import DeviceError, Wanted
from pipeline.study.paths import absolute, settled

if TYPE_CHECKING:
    from deploy_arm.boards.board import Board
    from deploy_arm.devices.base import Profile
    from deploy_arm.fleet.boards import Checked
    from pipeline.candidate.devices import AtHand
    from pipeline.candidate.folder import CandidateFolder

JOIN = "RAY_AUTH_MODE=token ray start --address=HEAD:6379 --num-cpus=0 --labels=arch=aarch64 --resources='{\"arm_cpu\": 1}'"


def list_devices(wanted: Wanted) -> list[dict[str, str]]:
    """Devices a search would use: the ARM nodes of the cluster at RAY_ADDRESS if there are any, else this machine's own, or one
    of the kind that is wanted.

    Raises:
        UserError: unknown target or kind, no emulator, or the cluster cannot be reached.
    """
    from deploy_arm.target.cores import CORES

    CORES[wanted.target]
    if os.environ.get("RAY_ADDRESS") and wanted.of_the_nodes() and (rows := _cluster_devices(wanted)):
        return rows
    if (wanted.kind or kind_here(wanted.target)) == "ssh":
        return [row for row in board_rows() if row["target"] == wanted.target]
    device = wanted.open()
    return [{"name": device.name, "source": device.source, "state": "free", "where": "this machine"}]


def board_rows() -> list[dict[str, str]]:
    """The boards that were added, whatever they are for; ``state`` is ready or quarantine, and then there is a ``reason``."""
    from deploy_arm.boards.added import read_added

    added, rows = read_added(), []
    for name, board in added.boards.items():
        row = {
            "name": name,
            "source": board.source,
            "state": "ready",
            "where": board.address,
            "target": board.target,
        }
        if name in added.calibrations:
            row["calibration"] = f"{added.calibrations[name].factor:.3g}"
        if name in added.quarantines:
            row |= {"state": "quarantine", "reason": added.quarantines[name].reason}
        rows.append(row)
    return rows


def _cluster_devices(wanted: Wanted) -> list[dict[str, str]]:
    from pipeline.cluster.ray_cluster import cluster

    with cluster():
        return arm_devices(wanted)


def profile_candidate(folder: Path, target: str | None = None, at_hand: AtHand = devices_at_hand) -> Profile:
    """What one inference of a candidate costs, anew, on a device as a search would use.

    Args:
        target: the ARM CPU class to profile for; where the candidate was compiled for another, it is compiled anew, since
            which kernel each layer gets depends on it. None is the candidate's own.
        at_hand: the devices.

    Raises:
        UserError: no candidate, it is damaged, unknown target or kind, no device, or the program fails.
    """
    import numpy as np

    from deploy_arm.target.targets import TARGETS
    from pipeline.candidate.folder import load_candidate

    candidate = load_candidate(folder)
    own = candidate.manifest["target"]
    target = target or own
    TARGETS[target]
    if target == own:
        program, blob = candidate.program.read_bytes(), candidate.blob.read_bytes()
    else:
        program, blob = _compiled_for(candidate, target)
    # Times hardly depend on the pixels; noise at least meets every path.
    image = np.random.default_rng(0).integers(0, 256, (*candidate.image_size, 3), dtype=np.uint8)
    with at_hand(target) as devices:
        try:
            return devices.profile(program, blob, image, anew=True)
        except DeviceError as error:
            raise UserError(str(error)) from error


def _compiled_for(candidate: CandidateFolder, target: str) -> tuple[bytes, bytes]:
    """Program and blob of a candidate for another target than its own."""
    from deploy_arm.blob.write import write_blob
    from deploy_arm.compiler.frontend import compile_graph
    from deploy_arm.costs.choose import choose_kernels
    from deploy_arm.runtime.program import build_program

    shape = (3, *candidate.image_size)
    graph = compile_graph(candidate.hardened(), shape, candidate.mean, candidate.std)
    return build_program(target).read_bytes(), write_blob(choose_kernels(graph, target))


def _profile_text(profile: Profile) -> str:
    details, interval = profile.details, show_interval(profile.low_ms, profile.high_ms)
    text = f"{show_latency(profile.latency_ms)} ({interval}) {profile.source} on {profile.device}\n"
    told = [f"{details['repetitions']} repetitions"] if "repetitions" in details else []
    for key, form in (("frequency_ghz", "{:.3g} GHz"), ("temperature_c", "{:.0f} degrees Celsius")):
        values = [details.get(when, {}).get(key) for when in ("before", "after")]
        known = [form.format(value) for value in values if value is not None]
        told += [" to ".join(known)] if known else []
    text += f"{', '.join(told)}\n" if told else ""
    if len(threads := details.get("threads_ms", {})) > 1:
        text += f"by threads: {', '.join(f'{count}: {show_latency(ms)}' for count, ms in threads.items())}\n"
    if not details.get("narrow", True):
        text += "warning: the interval did not become narrow in the time allowed\n"
    text += f"peak memory {show_bytes(profile.peak_memory_bytes)}, blob {show_bytes(profile.size_bytes)}\n"
    return text + (f"warning: {profile.warning}\n" if profile.warning else "")


def marked_cores() -> str:
    """The modelled cores whose figures are marked, with their marks: for help texts."""
    from deploy_arm.target.cores import CORES

    marks = {name: CORES[name].mark for name in CORES if CORES[name].mark}
    return ", ".join(f"{name}: {mark}" for name, mark in marks.items())


def _meaning(target: str) -> str:
    from deploy_arm.target.cores import CORES

    core = CORES[target]
    stands = f"{target} stands for {core.stands_for}.\n" if core.stands_for else ""
    return stands + (f"{target} is {core.caution}.\n" if core.caution else "")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that name a kind of device."""
    parser.add_argument(
        "--devices",
        metavar="KIND",
        help=f"kind of device: {', '.join(DEVICES)} or package.module:Name (default: ARM nodes of the cluster at RAY_ADDRESS, "
        "this machine's own ARM CPU, or else an emulated one)",
    )
    parser.add_argument(
        "--modules",
        type=absolute,
        metavar="DIR",
        help="folder that a package.module:Name is looked up in (default the current one)",
    )


def named(arguments: argparse.Namespace) -> dict[str, Any]:
    """The kind of device that these flags name, and the folder that it is looked up in."""
    given = settled({"devices": arguments.devices, "modules": arguments.modules})
    return {"kind": given["devices"], "modules": given["modules"]}


def named_devices(arguments: argparse.Namespace) -> AtHand:
    """The devices that these flags name."""
    return partial(devices_at_hand, **named(arguments))


def _add(arguments: argparse.Namespace) -> int:
    from deploy_arm.boards.board import Board, parse_address
    from deploy_arm.fleet.boards import add_board
    from deploy_arm.target.targets import TARGETS

    if len(arguments.names) != 1:
        raise UserError("add ssh://user@board: name one board to add")
    where = parse_address(arguments.names[0])
    for flag, path in (("--identity", arguments.identity), ("--known-hosts", arguments.known_hosts)):
        if path is not None and not path.is_file():
            raise UserError(f"{flag}: {path} is no file")
    if arguments.target is not None:
        TARGETS[arguments.target]
    board = Board(
        arguments.name or str(where["host"]).strip("[]").replace(":", "-"),
        **where,
        identity=arguments.identity,
        known_hosts=arguments.known_hosts,
        runner=tuple((arguments.runner or "").split()),
    )
    say(f"asking {board.address} what it is")
    found = add_board(board, arguments.target)
    if arguments.format == "json":
        print(json_text(_checked_record(found), indent=1))
        return DONE
    target = next(row["target"] for row in board_rows() if row["name"] == found.name)
    print(f"added {found.name} for {target}\n{_checked_text(found)}", end="")
    return DONE


def _check(arguments: argparse.Namespace) -> int:
    from deploy_arm.fleet.boards import check_boards

    found = []
    for one in check_boards(arguments.names):
        found.append(one)
        if arguments.format == "text":
            print(_checked_text(one), end="", flush=True)
    if arguments.format == "json":
        print(json_text([_checked_record(one) for one in found], indent=1))
    elif not found:
        print("no board was added")
    return REFUSED if any(one.fault for one in found) else DONE


def _calibrate(arguments: argparse.Namespace) -> int:
    from deploy_arm.boards.added import read_added
    from deploy_arm.devices.kinds import open_device
    from deploy_arm.devices.timed import TimedDevice
    from deploy_arm.fleet.calibrate import calibrate

    added, found = read_added(), {}
    boards: list[Board | None] = [added.board(name) for name in arguments.names or added.boards]
    for board in boards or [None]:
        device = (
            open_device(board.target, "ssh", board.name)
            if board
            else open_device(arguments.target or "a76", "native")
        )
        assert isinstance(device, TimedDevice)
        say(f"timing known programs on {device.name}, and modelling them")
        found[device.name] = one = calibrate(device)
        if arguments.format == "text":
            print(
                f"{device.name:<24} measured / modelled {one.core}: {one.factor:.3g} ({one.low:.3g} to {one.high:.3g}, "
                f"{one.programs} programs)"
            )
    if arguments.format == "json":
        print(json_text({name: asdict(one) for name, one in found.items()}, indent=1))
    return DONE


def _remove(arguments: argparse.Namespace) -> int:
    from deploy_arm.fleet.boards import remove_board

    if len(arguments.names) != 1:
        raise UserError("remove NAME: name one board to remove")
    [name] = arguments.names
    left = remove_board(name)
    if arguments.format == "json":
        print(json_text({"removed": name, "left": left}))
        return DONE
    print(f"removed {name}")
    if left:
        print(f"warning: its folder is still there: {left}", file=sys.stderr)
    return DONE


def _checked_record(found: Checked) -> dict[str, Any]:
    return {**asdict(found), "cautions": found.cautions}


def _checked_text(found: Checked) -> str:
    if found.fault:
        return f"{found.name:<24} quarantine: {found.fault}\n"
    told = [f"cpu{found.cpu}", f"{show_milliseconds(found.canary_ms)} for the fixed network"]
    forms = (
        ("frequency_ghz", "{:.3g} GHz"),
        ("temperature_c", "{:.0f} degrees Celsius"),
        ("governor", "governor {}"),
    )
    told += [
        form.format(found.conditions[key]) for key, form in forms if found.conditions.get(key) is not None
    ]
    return f"{found.name:<24} works: {', '.join(told)}\n" + "".join(
        f"caution: {text}\n" for text in found.cautions
    )


ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "add": _add,
    "check": _check,
    "remove": _remove,
    "calibrate": _calibrate,
}
OF_ADD = ("name", "identity", "known_hosts", "runner")


def main(argv: Sequence[str] | None = None, write: Callable[[str], Any] | None = None) -> int:
    """The command."""
    write = write or sys.stdout.write
    parser = Parser(
        prog="python -m pipeline.devices",
        description="List the ARM CPUs that programs can run on; add, check and remove boards that are reached by ssh.",
    )
    parser.add_argument(
        "action",
        nargs="?",
        choices=("list", *ACTIONS),
        default="list",
        help="list (default), add ssh://user@board[:port], check [NAME ...], remove NAME, "
        "calibrate [NAME ...]: measured against modelled time",
    )
    parser.add_argument("names", nargs="*", metavar="WHICH", help="a board's name; of add its address")
    parser.add_argument(
        "--profile", type=absolute, metavar="CANDIDATE", help="time the candidate of this folder on one, anew"
    )
    parser.add_argument(
        "--target",
        metavar="CPU",
        help="ARM CPU class (default a76; of --profile the candidate's own, for another it is compiled anew; "
        f"{marked_cores()})",
    )
    add_flags(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="output (default text)")
    of_add = parser.add_argument_group("of add")
    of_add.add_argument("--name", help="what the board is called (default its address)")
    of_add.add_argument(
        "--identity", type=absolute, metavar="FILE", help="private key (default as OpenSSH's)"
    )
    of_add.add_argument(
        "--known-hosts", type=absolute, metavar="FILE", help="known host keys (default as OpenSSH's)"
    )
    of_add.add_argument(
        "--runner",
        metavar="WORDS",
        help="what runs the programs there, where that is no ARM CPU (qemu-aarch64)",
    )
    arguments = parser.parse_args(argv)
    given = [f"--{name.replace('_', '-')}" for name in OF_ADD if getattr(arguments, name) is not None]
    if given and arguments.action != "add":
        raise UserError(f"{given[0]} goes with add alone: devices add ssh://user@board {given[0]} ...")
    if arguments.action in ACTIONS:
        if arguments.profile or arguments.devices or arguments.modules:
            raise UserError(f"{arguments.action} takes no --profile, --devices or --modules")
        return ACTIONS[arguments.action](arguments)
    if arguments.names:
        raise UserError(f"list takes no names, not {arguments.names[0]!r}")
    if arguments.profile:
        profile = profile_candidate(arguments.profile, arguments.target, named_devices(arguments))
        write(profile.to_json() + "\n" if arguments.format == "json" else _profile_text(profile))
        return 0
    target = arguments.target or "a76"
    rows = list_devices(Wanted(target, **named(arguments)))
    if arguments.format == "json":
        write(json_text(rows, indent=1) + "\n")
        return 0
    for row in rows:
        write(f"{row['name']:<24} {row['source']:<9} {row['state']:<10} {row['where']}\n")
        if "calibration" in row:
            write(f"    measured / modelled: {row['calibration']}\n")
        if "reason" in row:
            write(f"    {row['reason']}\n")
    if arguments.devices is None and all(row["source"] == "modelled" for row in rows):
        write(_meaning(target))
        write(
            "No ARM CPU here: programs are emulated, outputs are exact, times are modelled. To measure, start Ray on an ARM "
            f"machine with `{JOIN}`, or add a board that is reached by ssh: `{typed('pipeline.devices')} add ssh://user@board`.\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
