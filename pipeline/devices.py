"""The ARM CPUs that programs can run on.

``python -m pipeline.devices`` lists them; with ``--profile CANDIDATE`` it times a candidate on one.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Parser, main_guard
from pipeline.paths import absolute
from pipeline.pool import DeviceError, arm_nodes, devices_at_hand, source_of
from quantizers.errors import UserError

if TYPE_CHECKING:
    from deploy_arm.profiling import Profile


def list_devices(target: str) -> list[dict[str, str]]:
    """Devices a search would use: the ARM nodes of the cluster at RAY_ADDRESS if there are any, else this machine's own.

    Raises:
        UserError: unknown target, no emulator, or the cluster cannot be reached.
    """
    from deploy_arm.cores import CORES
    from deploy_arm.device import available_devices

    CORES[target]
    if os.environ.get("RAY_ADDRESS") and (rows := _cluster_devices()):
        return rows
    return [
        {
            "name": device.name,
            "source": source_of(device),
            "state": "free",
            "where": "this machine",
        }
        for device in available_devices(target)
    ]


def _cluster_devices() -> list[dict[str, str]]:
    import ray

    from pipeline.cluster import cluster

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


def profile_candidate(folder: Path) -> Profile:
    """What one inference of a candidate costs, anew, on a device as a search would use.

    Raises:
        UserError: no candidate, it is damaged, no device, or the program fails.
    """
    import numpy as np

    from pipeline.candidate import load_candidate

    candidate = load_candidate(folder)
    # Times hardly depend on the pixels; noise at least meets every path.
    image = np.random.default_rng(0).integers(0, 256, (*candidate.image_size, 3), dtype=np.uint8)
    with devices_at_hand(candidate.manifest["target"]) as devices:
        try:
            return devices.profile(
                candidate.program.read_bytes(), candidate.blob.read_bytes(), image, anew=True
            )
        except DeviceError as error:
            raise UserError(str(error)) from error


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
    from deploy_arm.cores import CORES

    marks = {name: CORES[name].mark for name in CORES if CORES[name].mark}
    return ", ".join(f"{name}: {mark}" for name, mark in marks.items())


def _meaning(target: str) -> str:
    from deploy_arm.cores import CORES

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
        "--target", default="a76", metavar="CPU", help=f"ARM CPU class (default a76; {marked_cores()})"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="output (default text)")
    arguments = parser.parse_args(argv)
    if arguments.profile:
        profile = profile_candidate(arguments.profile)
        write(profile.to_json() + "\n" if arguments.format == "json" else _profile_text(profile))
        return 0
    rows = list_devices(arguments.target)
    if arguments.format == "json":
        write(json.dumps(rows, indent=1) + "\n")
        return 0
    for row in rows:
        write(f"{row['name']:<24} {row['source']:<9} {row['state']:<7} {row['where']}\n")
    if all(row["source"] == "modelled" for row in rows):
        write(_meaning(arguments.target))
        write(
            "No ARM CPU here: programs are emulated, outputs are exact, times are modelled. To measure, start Ray on an ARM "
            "machine with `ray start --address=HEAD --labels arch=aarch64 --resources '{\"arm_cpu\": 1}'`.\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
