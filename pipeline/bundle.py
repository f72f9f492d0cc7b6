"""The deployment bundle: what leaves this project when a candidate is promoted. It needs nothing but an ARM Linux."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.candidate import Candidate
from pipeline.files import folder_atomically, sha256

FORMAT = 1
COPIED = ("program", "weights.blob", "plan.json")
LEFT_OUT = (
    "files",
    "figures",
    "references",
    "profile",
    "format",
)  # of the candidate's manifest; said anew here

USAGE = """/* Classifies one raw image (uint8, {height} x {width} x {channels}, from standard input) and prints the scores.
 *
 *   with the library:    cc usage.c -L. -lnetwork -Wl,-rpath,'$ORIGIN' -o usage
 *   with its sources:    cc -O3 -ffp-contract=off -march={architecture} usage.c runtime/*.c -lm -pthread -o usage
 *   cross-compiled:      the same with aarch64-linux-gnu-gcc -static in place of cc
 *
 *   ./usage weights.blob < image.raw
 *
 * The library itself, where the one here does not suit the machine's C library:
 *
 *   cc -O3 -ffp-contract=off -march={architecture} -fPIC -fvisibility=hidden -shared runtime/*.c -lm -pthread -o libnetwork.so
 */
#include <stdio.h>

#include "runtime/network.h"

int main(int arguments, char **argument) {{
    if (arguments < 2) return 2;
    struct network *net; size_t shape[3], count; int status = network_open(argument[1], 1, &net); if (status) return status;
    uint8_t *image = network_input(net, shape); size_t bytes = shape[0] * shape[1] * shape[2];
    if (fread(image, 1, bytes, stdin) != bytes) return 9; network_run(net);
    const float *scores = network_output(net, &count); for (size_t i = 0; i < count; i++) printf("%.9g\\n", scores[i]);
    network_close(net);
    return 0;
}}
"""


def write_bundle(
    folder: Path,
    candidate: Candidate,
    library: Path,
    figures: Mapping[str, Any],
    gates: Sequence[Mapping[str, Any]],
    study: str,
) -> Path:
    """Write the bundle in one move; an existing one is replaced whole.

    It holds ``program``, ``weights.blob``, ``plan.json``, ``manifest.json`` (the candidate, the figures with their sources,
    the gates that were passed, SHA-256 of every other file), ``libnetwork.so`` (``library``) with ``network.py`` for Python,
    ``usage.c`` with ``runtime/`` (the C sources, ``network.h`` among them), ``labels.txt`` and ``README.md``.
    """
    from deploy_arm import binding
    from deploy_arm.program import KERNELS, library_sources
    from deploy_arm.targets import TARGETS

    height, width = candidate.image_size
    architecture = TARGETS[candidate.manifest["target"]].architecture
    with folder_atomically(folder) as new:
        for name in COPIED:
            shutil.copy2(candidate.folder / name, new / name)
        (new / "runtime").mkdir()
        for path in [*library_sources(), *KERNELS.glob("*.h")]:
            shutil.copyfile(path, new / "runtime" / path.name)
        shutil.copyfile(library, new / binding.LIBRARY)
        shutil.copyfile(binding.__file__, new / "network.py")
        # A class is a line, whatever its name holds.
        labels = (" ".join(str(name).split()) for name in candidate.manifest["classes"])
        (new / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
        (new / "usage.c").write_text(
            USAGE.format(height=height, width=width, channels=3, architecture=architecture)
        )
        (new / "README.md").write_text(_readme(candidate, figures, study))
        files = {
            str(path.relative_to(new)): sha256(path) for path in sorted(new.rglob("*")) if path.is_file()
        }
        manifest = {
            "format": FORMAT,
            "study": study,
            **{key: value for key, value in candidate.manifest.items() if key not in LEFT_OUT},
            "figures": dict(figures),
            "gates": list(gates),
            "files": files,
        }
        (new / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return folder


def _readme(candidate: Candidate, figures: Mapping[str, Any], study: str) -> str:
    manifest = candidate.manifest
    height, width = candidate.image_size
    accuracy, latency = figures["accuracy"], figures["latency"]
    warning = f"The latency is {latency['warning']}.\n\n" if latency["warning"] else ""
    return f"""# {manifest["model"]} for ARM, {manifest["hash"]}

Compressed in the study `{study}`, for `{manifest["target"]}`. Classes and normalization are in `manifest.json`; the program
normalizes by itself and takes raw uint8 pixels, {height} x {width} x 3, images back to back.

    ./program classify weights.blob < images.raw                               # one class index per image
    ./program classify weights.blob --top 3 --labels labels.txt < images.raw   # the three best, with score and name
    ./program run weights.blob < images.raw                                    # float32 scores
    ./program bench weights.blob < image.raw                                   # times on this machine

In Python, with numpy alone (`network.py` and `libnetwork.so` lie side by side):

    from network import Network
    with Network("weights.blob") as network:   # threads=4 shares an inference among four
        scores = network.run(images)           # uint8 [N, {height}, {width}, 3] -> float32 [N, {len(manifest["classes"])}]

In C, `runtime/network.h` describes five functions, `usage.c` shows them, and its head says how to link `libnetwork.so` or compile
its sources, which is also the way where the machine's C library is older than glibc 2.34 (Debian 12, Ubuntu 22.04). `program`
needs no library.

| figure | value | source |
|---|---|---|
| accuracy | {100 * accuracy["value"]:.2f} % (fp32: {100 * accuracy["fp32"]:.2f} %) | {accuracy["source"]} |
| latency | {latency["value"]:.4g} ms ({latency["low"]:.4g} to {latency["high"]:.4g}) | {latency["source"]}, {latency["device"]} |
| size | {figures["size"]["value"]} bytes | {figures["size"]["source"]} |
| peak memory | {figures["peak_memory"]["value"]} bytes | {figures["peak_memory"]["source"]} |

{warning}To check the files:

    python3 -c 'import hashlib, json; [print(n, hashlib.sha256(open(n, "rb").read()).hexdigest() == d)
                for n, d in json.load(open("manifest.json"))["files"].items()]'
"""
