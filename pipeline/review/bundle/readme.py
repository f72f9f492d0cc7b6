"""The README of a deployment bundle: what a person types and writes to use the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deploy_arm.target.targets import TARGETS
from foundation.show import show_interval, show_latency, show_percent, show_points
from pipeline.candidate.folder import CandidateFolder
from pipeline.datasets.preprocessing import SAID, Preprocessing
from pipeline.training.settings import ACCURACY, AP50


def _input(preprocessing: Preprocessing | None, size: str) -> str:
    """How an image becomes the input, in Markdown."""
    if preprocessing is None:
        return (
            "The data set that the network was made with prepares its images by code of its own: bring an image to "
            f"{size} RGB as it does.\n`image.py` and `image.c` are right for images that have this size already."
        )
    rows = [
        ("size", str(preprocessing)),
        *((key, text) for key, text in SAID.items() if key != "interpolation"),
    ]
    lines = [f"- {key}: {text}" for key, text in rows]
    if preprocessing.fit == "stretch":
        lines += [
            "",
            "The network was made with images that lie in arrays: what was done before they became arrays is yours to repeat.",
        ]
    lines += [
        "",
        "`image.py` does just this, `image.c` the same for 8-bit PPM files, byte for byte; it stands in `manifest.json` too.",
    ]
    return "\n".join(lines)


def readme(
    candidate: CandidateFolder, figures: Mapping[str, Any], study: str, preprocessing: Preprocessing | None
) -> str:
    """The bundle's README."""
    detects = figures["accuracy"].get("metric") == AP50
    use = _detector(candidate, study) if detects else _classifier(candidate, study, preprocessing)
    return f"{use}{_found(figures)}"


def _needed(candidate: CandidateFolder) -> str:
    """What the processor has to have."""
    return ", ".join(TARGETS[candidate.manifest["target"]].features)


def _detector(candidate: CandidateFolder, study: str) -> str:
    manifest, (height, width) = candidate.manifest, candidate.image_size
    outputs = 5 + len(manifest["classes"])
    return f"""# {manifest["model"]} for ARM, {manifest["hash"]}

A detector, compressed in the study `{study}`, for `{manifest["target"]}`. `program` takes raw pixels, images back to back:
{height} x {width}, the channels blue, green, red. For each cell of a grid it gives {outputs} numbers, float32:

    ./program run weights.blob < images.raw
    ./program bench weights.blob < image.raw       # times on this machine

In Python, with numpy and Pillow (`network.py` and `libnetwork.so` lie side by side):

    import numpy as np
    from image import Preprocessing
    from network import Network
    pixels = Preprocessing({height}, {width}, "stretch").read("photo.jpg")[:, :, ::-1]   # red first to blue first
    with Network("weights.blob") as network:
        raw = network.run(np.ascontiguousarray(pixels))
    side = round((raw.size / {outputs} * {height} / {width}) ** 0.5)
    cells = raw.reshape(side, -1, {outputs})   # row, column
    rows, columns = np.mgrid[: cells.shape[0], : cells.shape[1]]
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    likely = np.exp(cells[..., 5:] - cells[..., 5:].max(-1, keepdims=True))
    likely /= likely.sum(-1, keepdims=True)
    score = sigmoid(cells[..., 0]) ** 0.6 * likely.max(-1) ** 0.4
    kind = likely.argmax(-1)   # the line of labels.txt, from 0
    x = (np.tanh(cells[..., 1]) + columns) / cells.shape[1]   # the box's centre and size, relative to the image
    y = (np.tanh(cells[..., 2]) + rows) / cells.shape[0]
    w, h = sigmoid(cells[..., 3]), sigmoid(cells[..., 4])

Of boxes of one class that overlap by more than 0.45 (intersection over union) keep the one with the best score.

The processor has to have {_needed(candidate)} (`Features` in its /proc/cpuinfo, `processor` in `manifest.json`). Where it
lacks one, program and library refuse with status 13 and a line that names it. In C, `runtime/network.h` describes the
functions, and `lib/cmake/dgms` is a package for CMake.

"""


def _classifier(candidate: CandidateFolder, study: str, preprocessing: Preprocessing | None) -> str:
    manifest, (height, width) = candidate.manifest, candidate.image_size
    outputs, features = len(manifest["classes"]), _needed(candidate)
    return f"""# {manifest["model"]} for ARM, {manifest["hash"]}

Compressed in the study `{study}`, for `{manifest["target"]}`. The five most probable classes of image files (JPEG, PNG,
PPM and what else Pillow reads):

    ./classify photo.jpg

`classify` and `image.py` need Python with numpy and Pillow; `--help` says more, `--format json` is for other programs, and on
a machine that is no ARM one `--runner "qemu-aarch64 -cpu max"` runs the same program under QEMU. A probability is the softmax of
the scores: how sure the network is, not how often it is right. `program` needs nothing. It takes raw pixels, images back to back:

    python3 image.py photo.jpg | ./program classify weights.blob --top 3 --labels labels.txt   # number, index, score, class
    ./program classify weights.blob < images.raw   # one class index per image
    ./program run weights.blob < images.raw        # float32 scores
    ./program bench weights.blob < image.raw       # times on this machine

In Python (`network.py` and `libnetwork.so` lie side by side):

    from image import Preprocessing
    from network import Network
    pixels = Preprocessing.of_manifest("manifest.json").read("photo.jpg")   # uint8 [{height}, {width}, 3]
    with Network("weights.blob") as network:   # threads=4 shares an inference among four
        scores = network.run(pixels)           # float32 [{outputs}]; a batch [N, {height}, {width}, 3] gives [N, {outputs}]

The processor has to have {features} (`Features` in its /proc/cpuinfo, `processor` in `manifest.json`). Where it
lacks one, program and library refuse with status 13 and a line that names it.

In C, `runtime/network.h` describes the functions, and `usage.c` shows them from the image file to the class. Its head says how
to link `libnetwork.so`, which loads from glibc 2.28 on (Debian 10, Ubuntu 18.10), or to compile its sources where the C library
is another. A network may hold 1 GiB of memory unless you allow another figure (`--memory`, `memory_limit=`,
`network_open_within`). `image.c` reads PPM files, and `image.h` says which commands make one of a JPEG or PNG:

    djpeg photo.jpg > photo.ppm && ./usage weights.blob labels.txt photo.ppm

With CMake, `cmake -B build && cmake --build build` makes `usage` here, and a project of your own says

    find_package(dgms CONFIG REQUIRED)                          # -DCMAKE_PREFIX_PATH=THIS_FOLDER
    target_link_libraries(mine PRIVATE dgms::image dgms::network)

with `dgms::sources` in place of `dgms::network` where the C library is none of glibc's (Android, Alpine). The head of
`lib/cmake/dgms/dgmsConfig.cmake` lists what there is. `Containerfile` makes an image for ARM servers whose command is `classify`.

## How an image becomes the input

{_input(preprocessing, f"{height} x {width}")}

"""


def _found(figures: Mapping[str, Any]) -> str:
    """The figures, and how the files are checked."""
    accuracy, latency = figures["accuracy"], figures["latency"]
    metric = accuracy.get("metric", ACCURACY)
    interval = f"{show_points(accuracy['loss_low'])} to {show_points(accuracy['loss_high'])}"
    times = show_interval(latency["low"], latency["high"])
    warning = f"The latency is {latency['warning']}.\n\n" if latency["warning"] else ""
    return f"""## What was found

| figure | value | source |
|---|---|---|
| {metric} | {show_percent(accuracy["value"])} (fp32: {show_percent(accuracy["fp32"])}) | {accuracy["source"]} |
| points lost against fp32 | {show_points(accuracy["loss"])} ({interval}) \
| 95 % interval, same images; {accuracy["evidence"]} evidence |
| latency | {show_latency(latency["value"])} ({times}) | {latency["source"]}, {latency["device"]} |
| size | {figures["size"]["value"]} bytes | {figures["size"]["source"]} |
| peak memory | {figures["peak_memory"]["value"]} bytes | {figures["peak_memory"]["source"]} |

{warning}To check the files:

    python3 -c 'import hashlib, json; [print(n, hashlib.sha256(open(n, "rb").read()).hexdigest() == d)
                for n, d in json.load(open("manifest.json"))["files"].items()]'
"""
