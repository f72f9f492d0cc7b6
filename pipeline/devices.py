"""The ARM CPUs that programs can run on.

``python -m pipeline.devices`` lists them; with ``--profile CANDIDATE`` it times a candidate on one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation.command import Parser, main_guard
from foundation.errors import UserError
from foundation.files import json_text
from pipeline.cluster.pool import DeviceError, arm_nodes, devices_at_hand
from pipeline.study.paths import absolute

if TYPE_CHECKING:
    from deploy_arm.devices.base import Profile
    from pipeline.candidate.folder import Candidate


def list_devices(target: str) -> list[dict[str, str]]:
    """Devices a search would use: the ARM nodes of the cluster at RAY_ADDRESS if there are any, else this machine's own.

    Raises:
        UserError: unknown target, no emulator, or the cluster cannot be reached.
    """
    from deploy_arm.devices.emulated import available_devices
    from deploy_arm.target.cores import CORES

    CORES[target]
    if os.environ.get("RAY_ADDRESS") and (rows := _cluster_devices()):
        return rows
    return [
        {
            "name": device.name,
            "source": device.source,
            "state": "free",
            "where": "this machine",
        }
        for device in available_devices(target)
    ]


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


def profile_candidate(folder: Path, target: str | None = None) -> Profile:
    """What one inference of a candidate costs, anew, on a device as a search would use.

    Args:
        target: the ARM CPU class to profile for; where the candidate was compiled for another, it is compiled anew, since
            which kernel each layer gets depends on it. None is the candidate's own.

    Raises:
        UserError: no candidate, it is damaged, unknown target, no device, or the program fails.
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
    with devices_at_hand(target) as devices:
        try:
            return devices.profile(program, blob, image, anew=True)
        except DeviceError as error:
            raise UserError(str(error)) from error


def _compiled_for(candidate: Candidate, target: str) -> tuple[bytes, bytes]:
    """Program and blob of a candidate for another target than its own."""
    from deploy_arm.blob.write import write_blob
    from deploy_arm.compiler.frontend import compile_graph
    from deploy_arm.costs.choose import choose_kernels
    from deploy_arm.runtime.program import build_program

    shape = (3, *candidate.image_size)
    graph = compile_graph(candidate.hardened(), shape, candidate.mean, candidate.std)
    return build_program(target).read_bytes(), write_blob(choose_kernels(graph, target))


def _profile_text(profile: Profile) -> str:
    details = profile.details
    text = f"{profile.latency_ms:.4g} ms ({profile.low_ms:.4g} to {profile.high_ms:.4g}) {profile.source} on {profile.device}\n"
    if profile.source == "measured":
        told = [f"{details['repetitions']} repetitions"]
        for key, form in (("frequency_ghz", "{:.3g} GHz"), ("temperature_c", "{:.0f} degrees Celsius")):
            values = [details[when][key] for when in ("before", "after") if details[when][key] is not None]
            told += [" to ".join(form.format(value) for value in values)] if values else []
        text += ", ".join(told) + "\n"
        if not details["narrow"]:
            text += "warning: the interval did not become narrow in the time allowed\n"
    text += f"peak memory {profile.peak_memory_bytes} bytes, blob {profile.size_bytes} bytes\n"
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
    parser.add_argument("--format", choices=("text", "json"), default="text", help="output (default text)")
    arguments = parser.parse_args(argv)
    if arguments.profile:
        profile = profile_candidate(arguments.profile, arguments.target)
        write(profile.to_json() + "\n" if arguments.format == "json" else _profile_text(profile))
        return 0
    target = arguments.target or "a76"
    rows = list_devices(target)
    if arguments.format == "json":
        write(json_text(rows, indent=1) + "\n")
        return 0
    for row in rows:
        write(f"{row['name']:<24} {row['source']:<9} {row['state']:<7} {row['where']}\n")
    if all(row["source"] == "modelled" for row in rows):
        write(_meaning(target))
        write(
            "No ARM CPU here: programs are emulated, outputs are exact, times are modelled. To measure, start Ray on an ARM "
            "machine with `ray start --address=HEAD --labels arch=aarch64 --resources '{\"arm_cpu\": 1}'`.\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
