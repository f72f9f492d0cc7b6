"""Post-training: what each part of ``python -m pipeline.quantize`` is worth, without labels, judged against the fp32 network.

    python -m benchmarks.post_training --shared DIR [--networks resnet20 ...] [--tables int8 parts zeros]

``DIR`` holds ``data/`` with real images and weights: CIFAR-10 as ``cifar10/train_NN.webp`` and ``test_a_N.webp``, a sample of
ImageNet ``imagenet/ccdev_a.npz`` (even rows rebuild, odd rows judge), COCO's ``coco/train128.npz`` and ``val_a64.npz``, and
``weights/``.

    int8     8 bits everywhere: as calibrated; matched batch-norms; matched biases; ranges clipped by squared error; the
             8-bit grid solved; activation steps fitted anew
    parts    4 and 2 bits between 8-bit ends: k-means; what solving, norms, biases, steps of Adam and even channels add
    zeros    2 bits with 80 % zeros: solved; solved for what arrives behind the ReLU; solved, then learned; learned alone

Judged is how often the first answer is fp32's (of detectors the share of detections that pair up), and the divergence from fp32
in nats, with its standard error; ``difference`` is that of divergence to the row named ``base`` on the same images, with its own
standard error (paired). Rows are appended as they are done; those that the file has are passed over.
"""

from __future__ import annotations

import argparse
import base64
import math
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.rows import append, read
from foundation.command import Parser, main_guard
from foundation.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

RESULT = Path(__file__).parent / "results" / "post_training.csv"
NETWORKS = ("resnet20", "tiny_darknet", "fastestdet")
TABLES = ("int8", "parts", "zeros")


@dataclass(frozen=True)
class Setting:
    """A way to quantize. ``rebuilt`` False is calibration alone; other fields as of
    ``quantizers.calibration.reconstruction.Reconstruction``; ``even``: output channels have one size first
    (``quantizers.calibration.channel_scale``)."""

    name: str
    quantizer: str = "gaussian_mixture"
    rebuilt: bool = True
    solve: bool = True
    positions: int = 32
    steps: int = 0
    turns: int = 0
    match_norms: bool = True
    match_biases: bool = True
    match_steps: bool = False
    clip_int8: bool = False
    solve_int8: bool = False
    even: bool = False


PLAIN = Setting("calibrated", rebuilt=False)
USUAL = Setting("usual")
INT8 = (
    PLAIN,
    Setting("norms", match_biases=False),
    Setting("norms, biases"),
    Setting("norms, biases, clipped", clip_int8=True),
    Setting("norms, biases, solved", solve_int8=True),
    Setting("norms, biases, steps", match_steps=True),
    Setting("biases", match_norms=False),
)
PARTS = (
    USUAL,
    Setting("k-means", "differentiable_kmeans", rebuilt=False),
    Setting("k-means, norms", "differentiable_kmeans", solve=False),
    Setting("usual, 128 positions", positions=128),
    Setting("usual, 512 positions", positions=512),
    Setting("behind the ReLU, 6 turns, 128 positions", turns=6, positions=128),
    Setting("usual, no norms", match_norms=False),
    Setting("usual, 8-bit ends solved", solve_int8=True),
    Setting("usual, steps", match_steps=True),
    Setting("usual, even channels", even=True),
    Setting("usual, then 150 steps", steps=150),
    Setting("150 steps alone", solve=False, steps=150),
    Setting("rebuilt like ours, k-means", "differentiable_kmeans"),
)
ZEROS = (
    USUAL,
    Setting("usual, 128 positions", positions=128),
    Setting("behind the ReLU, 6 turns", turns=6),
    Setting("behind the ReLU, 6 turns, 128 positions", turns=6, positions=128),
    Setting("usual, then 150 steps", steps=150),
    Setting("150 steps alone", solve=False, steps=150),
)


@dataclass(frozen=True)
class Cell:
    """A row's conditions."""

    network: str
    table: str
    setting: str
    bits: int
    zero_share: str
    images: int
    judged: int
    seed: int = 0


@dataclass(frozen=True)
class Case:
    """One network with its images, normalized, in batches; ``detects``: its output are boxes."""

    model: nn.Module
    rebuild: list[Tensor]
    judge: list[Tensor]
    detects: bool = False


def settings_of(table: str) -> tuple[Setting, ...]:
    return {"int8": INT8, "parts": PARTS, "zeros": ZEROS}[table]


def cells(args: argparse.Namespace) -> list[Cell]:
    """The rows asked for, the base of each comparison first."""
    found = []
    for network in args.networks:
        images, judged = (args.images, args.judged) if network == "resnet20" else (0, 0)
        for table in args.tables:
            bits = {"int8": [8], "parts": args.bits, "zeros": [2]}[table]
            share = "0.8" if table == "zeros" else ""
            found += [
                Cell(network, table, setting.name, width, share, images, judged, args.seed)
                for width in bits
                for setting in settings_of(table)
            ]
    return found


def load(network: str, shared: Path, images: int, judged: int) -> Case:
    """Read a network and its images.

    Raises:
        UserError: a file is missing.
    """
    import torch

    from benchmarks.calibration_data import central, load_few
    from pipeline.datasets.images import normalize
    from pipeline.detection.data import load_boxes
    from pipeline.networks.registry import find_network, load_model

    data, spec = shared / "data", find_network(network)
    files = {
        "resnet20": ("resnet20-12fca82f.th", 10),
        "tiny_darknet": ("tiny_darknet_imagenet.pt", 1000),
        "fastestdet": ("fastestdet_coco.pth", 80),
    }
    name, classes = files[network]
    model = load_model(network, classes=classes, weights=data / "weights" / name)
    if network == "resnet20":
        parts = [
            torch.cat(
                [
                    atlas(data / "cifar10" / f"{word}_{i:0{digits}d}.webp")
                    for i in range(math.ceil(count / 1000))
                ]
            )
            for word, digits, count in (("train", 2, images), ("test_a", 1, judged))
        ]
        few, many, size = parts[0][:images], parts[1][:judged], 256
    elif network == "tiny_darknet":
        found, size = load_few(data / "imagenet" / "ccdev_a.npz"), 16
        few, many = (central(part, 224).batch(range(len(part))) for part in (found.calibration, found.judged))
    else:
        few, many = (load_boxes(data / "coco" / f"{n}.npz", 352).pixels for n in ("train128", "val_a64"))
        size = 16
    rebuild, judge = ([normalize(x, *spec.normalization) for x in part.split(size)] for part in (few, many))
    return Case(model, rebuild, judge, spec.detects)


def atlas(path: Path) -> Tensor:
    """The 1000 images of a lossless atlas of CIFAR-10: uint8 [1000, 32, 32, 3]."""
    import numpy as np
    import torch
    from PIL import Image

    try:
        pixels = np.asarray(Image.open(path).convert("RGB"))
    except OSError as error:
        raise UserError(f"{path}: {error}; --shared names the folder that holds data/") from error
    tiles = pixels.reshape(25, 32, 40, 32, 3).transpose(0, 2, 1, 3, 4).reshape(1000, 32, 32, 3)
    return torch.from_numpy(tiles.copy())


def compress(bench: Case, setting: Setting, cell: Cell) -> nn.Module:
    """The hardened network of a cell."""
    import torch

    from foundation.plan import LayerPlan, Plan
    from quantizers.calibration.channel_scale import with_even_channels
    from quantizers.calibration.reconstruction import Reconstruction, reconstruct
    from quantizers.network import end_layers, harden, layer_names, quantize
    from quantizers.tracing.trace import traced

    original = with_even_channels(bench.model) if setting.even else bench.model
    share = float(cell.zero_share) if cell.zero_share else None
    inner = LayerPlan(8) if cell.bits == 8 else LayerPlan(cell.bits, 2**cell.bits, zero_share=share)
    ends, names = end_layers(traced(original)), layer_names(original)
    plan = Plan({name: LayerPlan(8) if name in ends else inner for name in names}, setting.quantizer)
    network = quantize(original, plan, torch.cat(bench.rebuild[:4])[:256])
    if setting.rebuilt:
        fields = {
            key: value
            for key, value in asdict(setting).items()
            if key not in ("name", "quantizer", "rebuilt", "even")
        }
        reconstruct(network, original, bench.rebuild, Reconstruction(**fields, seed=cell.seed))
    return harden(network).network


def answers(bench: Case, network: nn.Module) -> list[Tensor]:
    """What a network says of the judged images, batch by batch."""
    import torch

    with torch.inference_mode():
        return [network.eval()(x) for x in bench.judge]


def judged(bench: Case, wanted: list[Tensor], given: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Agreement and divergence of each image."""
    import torch

    if bench.detects:
        from pipeline.detection.beside import agreement
        from pipeline.detection.decode import decode
        from pipeline.detection.divergence import divergences

        alike = [
            agreement(a, b)
            for x, y in zip(given, wanted, strict=True)
            for a, b in zip(decode(x), decode(y), strict=True)
        ]
        off = torch.cat([divergences(x, y) for x, y in zip(given, wanted, strict=True)])
        return torch.tensor(alike).double(), off.double()
    ours, theirs = (torch.cat(each).double().log_softmax(1) for each in (given, wanted))
    same = (ours.argmax(1) == theirs.argmax(1)).double()
    return same, (theirs.exp() * (theirs - ours)).sum(1)


def mean_and_error(values: Tensor) -> tuple[str, str]:
    return f"{float(values.mean()):.5g}", f"{float(values.std() / len(values) ** 0.5):.2g}"


def row(cell: Cell, bench: Case, wanted: list[Tensor], rows: list[dict[str, str]]) -> dict[str, str]:
    """Quantize and judge; ``rows`` may hold the base."""
    import numpy as np
    import torch

    setting = next(each for each in settings_of(cell.table) if each.name == cell.setting)
    started = time.process_time()
    network = compress(bench, setting, cell)
    seconds = time.process_time() - started
    same, off = judged(bench, wanted, answers(bench, network))
    base = conditions(replace(cell, setting=settings_of(cell.table)[0].name))
    found = next((r for r in rows if all(r[key] == value for key, value in base.items())), None)
    compared = {"base": "", "difference": "", "difference_error": ""}
    if found is not None and base["setting"] != cell.setting:
        before = np.frombuffer(base64.b64decode(found["divergences"]), np.float16).astype(np.float64)
        difference, error = mean_and_error(off - torch.from_numpy(before))
        compared = {"base": base["setting"], "difference": difference, "difference_error": error}
    agreement, divergence = mean_and_error(same), mean_and_error(off)
    return {
        **conditions(cell),
        "agreement": agreement[0], "agreement_error": agreement[1],
        "divergence": divergence[0], "divergence_error": divergence[1],
        **compared,
        "rebuilding_images": str(sum(map(len, bench.rebuild))), "judged_images": str(len(off)),
        "cpu_seconds": f"{seconds:.0f}", "torch": torch.__version__,
        "divergences": base64.b64encode(off.numpy().astype(np.float16).tobytes()).decode(),
    }  # fmt: skip


def conditions(cell: Cell) -> dict[str, str]:
    return {key: str(value) for key, value in asdict(cell).items()}


def main(argv: list[str] | None = None) -> int:
    """The command; see the module's text."""
    parser = Parser(
        prog="python -m benchmarks.post_training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shared", type=Path, required=True, help="folder that holds data/")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument(
        "--bits", nargs="+", type=int, choices=(2, 3, 4), default=[4, 2], help="of table parts"
    )
    parser.add_argument("--settings", nargs="+", help="only these (default: all of a table)")
    parser.add_argument(
        "--images", type=int, default=256, help="that rebuild ResNet-20 (default %(default)s)"
    )
    parser.add_argument("--judged", type=int, default=2000, help="that judge it (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws the places (default %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULT, help="the CSV file (default: %(default)s)")
    args = parser.parse_args(argv)
    names, benches = [*Cell.__dataclass_fields__], {}
    for cell in cells(args):
        rows = read(args.out, names)
        known = [{name: each[name] for name in names} for each in rows]
        if conditions(cell) in known or (args.settings and cell.setting not in args.settings):
            continue
        if cell.network not in benches:
            bench = load(cell.network, args.shared, args.images, args.judged)
            benches = {cell.network: (bench, answers(bench, bench.model))}
        found = row(cell, *benches[cell.network], rows)
        append(args.out, found)
        paired = (
            f", {found['difference']} +- {found['difference_error']} to {found['base']}"
            if found["base"]
            else ""
        )
        print(
            f"{cell.network} {cell.bits} bits {cell.zero_share} {cell.setting}: agreement {found['agreement']} +- "
            f"{found['agreement_error']}, divergence {found['divergence']} +- {found['divergence_error']}{paired}, "
            f"{found['cpu_seconds']} CPU s",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
