#!/usr/bin/env python3
"""The most probable classes of image files (JPEG, PNG, PPM, WebP and what else Pillow reads).

    ./classify photo.jpg other.png       as a deployment bundle has it
    ./classify --runner "qemu-aarch64 -cpu max" photo.jpg    on a machine that is no ARM one

Needs Python with numpy and Pillow, and the files it lies beside: program, weights.blob, image.py, manifest.json.
Probabilities are the softmax of the network's scores. Exit status: 0 done; 2 a file is no image, or the program cannot run here.
"""

from __future__ import annotations

import argparse
import array
import json
import math
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


class Unusable(Exception):
    """The network cannot be run here; says why."""


def scores_of(pixels: list[bytes], outputs: int, runner: list[str], threads: int) -> list[Sequence[float]]:
    """The ``outputs`` scores of each image; images are raw pixels.

    Raises:
        Unusable: the program cannot be started here, or refuses.
    """
    command = [*runner, str(HERE / "program"), "run", str(HERE / "weights.blob"), "--threads", str(threads)]
    try:
        done = subprocess.run(command, input=b"".join(pixels), capture_output=True, check=False)
    except OSError as error:
        raise Unusable(
            f"{command[0]} cannot be started ({error.strerror}); the program is for Linux on ARM, elsewhere "
            "--runner qemu-aarch64 runs it under QEMU"
        ) from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip() or "no message"
        raise Unusable(f"program stopped with status {done.returncode}: {said}")
    scores = array.array("f", done.stdout)
    if sys.byteorder == "big":
        scores.byteswap()
    return [scores[start : start + outputs] for start in range(0, len(scores), outputs)]


def most_probable(scores: Sequence[float], classes: list[str], top: int) -> list[dict[str, Any]]:
    """The ``top`` classes of one image's scores, the most probable first; of equal ones that of the lower index."""
    highest = max(scores)
    powers = [math.exp(score - highest) for score in scores]
    order = sorted(range(len(scores)), key=lambda i: -scores[i])[:top]
    return [{"class": classes[i], "index": i, "probability": powers[i] / sum(powers)} for i in order]


def printable(text: str) -> str:
    """Without what would move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def main() -> int:
    parser = argparse.ArgumentParser(prog="classify", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument(
        "--top", type=count, default=5, metavar="K", help="how many classes (default %(default)s)"
    )
    parser.add_argument(
        "--threads", type=count, default=1, metavar="N", help="share each inference among 1 to 8 threads"
    )
    parser.add_argument(
        "--runner", default="", metavar="COMMAND", help="what runs the program, of an emulator"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print")
    args = parser.parse_args()
    try:
        from image import Preprocessing
    except ImportError as error:
        print(
            f"error: {error}; `pip install numpy pillow`, or Debian's python3-numpy and python3-pil",
            file=sys.stderr,
        )
        return 2
    status, names, pixels = 0, [], []
    try:
        manifest = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
        preprocessing = Preprocessing.of_manifest(HERE / "manifest.json")
        for name in args.images:
            try:
                pixels.append(preprocessing.read(name).tobytes())
                names.append(name)
            except Exception as error:  # damaged images raise nearly anything
                print(f"error: {printable(name)}: {printable(str(error))}", file=sys.stderr)
                status = 2
        classes = [str(name) for name in manifest["classes"]]
        scores = scores_of(pixels, len(classes), shlex.split(args.runner), args.threads) if pixels else []
    except (OSError, ValueError, Unusable) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = [
        {"file": name, "classes": most_probable(row, classes, args.top)} for name, row in zip(names, scores)
    ]
    if args.format == "json":
        print(json.dumps(found, indent=1, allow_nan=False))
        return status
    for image in found:
        print(printable(image["file"]))
        for line in image["classes"]:
            print(f"  {100 * line['probability']:5.1f} %  {printable(line['class'])}")
    return status


if __name__ == "__main__":
    sys.exit(main())
