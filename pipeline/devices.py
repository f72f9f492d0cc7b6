"""The ARM CPUs that programs can run on.

``python -m pipeline.devices`` lists them; with ``--profile CANDIDATE`` it times a candidate on one.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy_arm.devices.kinds import DEVICES
from foundation.command import Parser, main_guard
from foundation.errors import UserError
from foundation.files import json_text
from foundation.show import show_bytes, show_interval, show_latency
from pipeline.cluster.pool import DeviceError, Wanted, arm_nodes, devices_at_hand
from pipeline.study.paths import absolute, settled

if TYPE_CHECKING:
    from deploy_arm.devices.base import Profile
    from pipeline.candidate.devices import AtHand
    from pipeline.candidate.folder import CandidateFolder


def list_devices(wanted: Wanted) -> list[dict[str, str]]:
    """Devices a search would use: the ARM nodes of the cluster at RAY_ADDRESS if there are any, else this machine's own, or one
    of the kind that is wanted.

    Raises:
        UserError: unknown target or kind, no emulator, or the cluster cannot be reached.
    """
    from deploy_arm.target.cores import CORES

    CORES[wanted.target]
    if os.environ.get("RAY_ADDRESS") and wanted.of_the_nodes() and (rows := _cluster_devices()):
        return rows
    device = wanted.open()
    return [{"name": device.name, "source": device.source, "state": "free", "where": "this machine"}]


def _cluster_devices() -> list[dict[str, str]]:
    import ray

    from pipeline.cluster.ray_cluster import cluster

    with cluster():
        free = ray.state.available_resources_per_node()
        return [
            {
                "name": node["NodeManagerHostname"],
                "source": "measured",
                "state": "free" if free.get(node["NodeID"], {}).get("arm_cpu", 0) >= 1 else "busy",
                "where": node["NodeManagerAddress"],
            }
            for node in ray.nodes()
            if node["NodeID"] in set(arm_nodes())
        ]


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


def main(argv: Sequence[str] | None = None, write: Callable[[str], Any] = sys.stdout.write) -> int:
    """The command."""
    parser = Parser(
        prog="python -m pipeline.devices", description="List the ARM CPUs that programs can run on."
    )
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
    arguments = parser.parse_args(argv)
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
        write(f"{row['name']:<24} {row['source']:<9} {row['state']:<7} {row['where']}\n")
    if arguments.devices is None and all(row["source"] == "modelled" for row in rows):
        write(_meaning(target))
        write(
            "No ARM CPU here: programs are emulated, outputs are exact, times are modelled. To measure, start Ray on an ARM "
            "machine with `ray start --address=HEAD --labels arch=aarch64 --resources '{\"arm_cpu\": 1}'`.\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
