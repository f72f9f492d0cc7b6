"""Which torchvision classification networks and detectors compile for ARM, and whether their programs are exact.

    python -m benchmarks.arm_coverage [--models a,b] [--images 2] [--out benchmarks/results/arm_coverage.csv]

Every network gets random weights (no download), batch-norm statistics of random images, 8-bit weights and activations, and is
compiled for small images (64 x 64 where the network takes them: the operators are the same). Its program runs under emulation
(or natively on an ARM machine) and must give the integer reference's results bit for bit. Transformers are not covered: the
table says which operator they miss first, and in which layer.
"""

from __future__ import annotations

import gc
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.rows import read, write
from foundation.command import Parser, main_guard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

RESULT = Path(__file__).parent / "results" / "arm_coverage.csv"
DETECTORS = ("fastestdet",)
TRANSFORMERS = ("vit_", "swin_", "maxvit_")
IMAGE_SIZE = 64
LARGER = {"inception_v3": 75}  # the smallest it takes
CLASSES = 10
TARGET = "a76"
REFUSED = re.compile(
    r"operator (\S+) in layers? ([^\s,;]+).* not supported"
)  # the first of all that are named


@dataclass(frozen=True)
class Row:
    """One network. ``exact`` counts the images whose results are the reference's bit for bit."""

    network: str
    covered: str  # yes, no, or "not covered" for transformers
    compiles: str
    images: int
    exact: int
    different: (
        int  # how many of the images' results differ from each other's: a constant network proves little
    )
    missing_operator: str
    layer: str
    image_size: int
    parameters: int
    operations: int
    blob_bytes: int
    seconds: float


def is_transformer(name: str) -> bool:
    """Whether a network is one of those that are listed as not covered."""
    return name.startswith(TRANSFORMERS)


def image_size(name: str) -> int:
    """Height and width that a network is tried with; transformers take only their own."""
    from pipeline.networks.registry import find_network

    return find_network(name).image_size if is_transformer(name) else LARGER.get(name, IMAGE_SIZE)


def enliven(model: nn.Module, images: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> None:
    """Let nothing be trivial: batch-norm statistics of the images, and random values for parameters that start near zero
    (biases, the scales of ConvNeXt's blocks)."""
    import torch

    random = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.detach().abs().max() < 1e-3:
            parameter.data.normal_(0, 0.1, generator=random)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model(normalized(images, mean, std))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def normalized(images: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]):  # type: ignore[no-untyped-def]
    """uint8 NHWC to the float NCHW tensor that the network sees."""
    import torch

    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def random_images(size: int, count: int) -> NDArray[np.uint8]:
    """Coarse patches with noise, uint8 [N, size, size, 3]."""
    import numpy as np

    random = np.random.default_rng(size)
    coarse = random.integers(0, 256, (count, -(-size // 8), -(-size // 8), 3))
    patches = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :size, :size]
    return np.clip(patches + random.normal(0, 20, patches.shape), 0, 255).astype(np.uint8)


def cover(name: str, images: int = 2) -> Row:
    """Try one network.

    Raises:
        UserError: no compiler or emulator for the program, or an unknown network. (A network that does not compile is a row.)
    """
    import numpy as np

    from deploy_arm.blob.write import write_blob
    from deploy_arm.compiler.frontend import compile_graph
    from deploy_arm.emulate.emulator import run as run_program
    from deploy_arm.ir.reference import run
    from deploy_arm.runtime.program import build_program
    from foundation.errors import UserError
    from foundation.plan import LayerPlan, Plan
    from pipeline.networks.registry import find_network, load_model
    from quantizers.network import harden, layer_names, quantize
    from quantizers.tracing.trace import traced

    start, size = time.perf_counter(), image_size(name)
    program = build_program(TARGET)
    model = load_model(name, classes=CLASSES, image_size=size)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    mean, std = find_network(name).normalization
    given = random_images(size, max(images, 2))
    try:
        enliven(model, given, mean, std)
        plan = Plan.uniform(layer_names(traced(model)), LayerPlan(8))
        hardened = harden(quantize(model, plan, normalized(given, mean, std)))
        del model
        graph = compile_graph(hardened, (3, size, size), mean, std)
        blob = write_blob(graph)
    except UserError as error:
        found = REFUSED.search(str(error))
        missing, layer = found.groups() if found else (str(error), "")
        covered = "not covered" if is_transformer(name) else "no"
        seconds = round(time.perf_counter() - start, 1)
        return Row(name, covered, "no", 0, 0, 0, missing, layer, size, parameters, 0, 0, seconds)
    given = given[:images]
    with tempfile.TemporaryDirectory(prefix="coverage-") as folder:
        path = Path(folder, "weights.blob")
        path.write_bytes(blob)
        results = run_program(program, path, given, target=TARGET)
    wanted = run(graph, given)
    exact = int((results.view(np.uint32) == wanted.view(np.uint32)).all(axis=1).sum())
    return Row(
        network=name,
        covered="yes" if exact == images else "no",
        compiles="yes",
        images=images,
        exact=exact,
        different=len(np.unique(results, axis=0)),
        missing_operator="",
        layer="",
        image_size=size,
        parameters=parameters,
        operations=len(graph.operations),
        blob_bytes=len(blob),
        seconds=round(time.perf_counter() - start, 1),
    )


def table(names: Sequence[str], images: int, out: Path) -> list[Row]:
    """Rows for ``names``, written to ``out`` after each network; rows of other networks in an earlier table stay."""

    found = []
    for name in names:
        row = cover(name, images)
        found.append(row)
        # Read again each time: another process may have added to it.
        rows: dict[str, dict[str, Any]] = {each["network"]: each for each in read(out, ["network"])}
        rows[name] = asdict(row)
        write(out, [entry for _, entry in sorted(rows.items())])
        what = f"{row.exact} of {row.images} images exact" if row.compiles == "yes" else "does not compile"
        missing = f": {row.missing_operator} in {row.layer}" if row.missing_operator else ""
        print(f"{name:20} {what}{missing} ({row.seconds:.0f} s)", flush=True)
        gc.collect()
    return found


def main(argv: list[str] | None = None) -> int:
    """Write the table; 1 when a convolutional network is not covered."""
    parser = Parser(description="Which networks compile for ARM, bit for bit.")
    parser.add_argument("--models", help="names, separated by commas (default: all)")
    parser.add_argument("--images", type=int, default=2, help="images per network (default 2)")
    parser.add_argument("--out", type=Path, default=RESULT, help="the CSV file (default: %(default)s)")
    args = parser.parse_args(argv)
    import torch

    from foundation.errors import UserError
    from pipeline.networks.from_torchvision import torchvision_names
    from pipeline.networks.registry import find_network

    torch.set_num_threads(1)
    names = args.models.split(",") if args.models else [*torchvision_names(), *DETECTORS]
    try:
        for name in names:
            find_network(name)
        rows = table(names, args.images, args.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return int(any(row.covered == "no" for row in rows))


if __name__ == "__main__":
    sys.exit(main_guard(main))
