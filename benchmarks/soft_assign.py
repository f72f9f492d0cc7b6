"""Cost of the soft assignment: the table (O(N + M K)) against the K x N form written straight in PyTorch.

    python -m benchmarks.soft_assign [--format json] [--repeat 5] [--threads N] [--record FILE.csv]

One row for each number of weights and components: forward and backward with respect to weights, means, scales and priors in
the published form at temperature 0.01. Times are the best of several repetitions. Memory is what a fresh process of its own
needs at the peak of its first pass beyond inputs and what it had before, per weight, the result and the weights' gradient
included (4 bytes each); ``kept`` is the same after all repetitions, when the allocator has laid freed arrays aside. A layer of
36,864 weights costs what its table costs, 2 to 4 ms, no less than the straight form at K = 4. On a machine whose cores are all
busy choose --threads 1: a thread that waits for a core stalls every parallel operation.
"""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.rows import write
from foundation.command import Parser, main_guard
from foundation.errors import UserError

SIZES = (36_864, 2_359_296)
COMPONENTS = (4, 16)
TEMPERATURE = 0.01
METHODS = ("straight", "table")


def straight(weight: Any, mean: Any, scale: Any, prior: Any) -> Any:
    """The formulas of the official implementation on K x N arrays, in the linear domain."""
    import math

    share = prior.abs() / prior.abs().sum()
    offset = weight.reshape(1, -1) - mean[:, None]
    density = share[:, None] * (2 * math.pi * scale[:, None] ** 2) ** -0.5
    density = density * (-(offset**2) / (2 * scale[:, None] ** 2)).exp()
    responsibility = density / (density.sum(0) + 1e-11)
    return ((responsibility / TEMPERATURE).softmax(0) * mean[:, None]).sum(0).reshape(weight.shape)


def table(weight: Any, mean: Any, scale: Any, prior: Any) -> Any:
    """Ours."""
    from quantizers.mixture.soft_weight import soft_weight

    return soft_weight(weight, mean, scale, (prior.abs() / prior.abs().sum()).log(), TEMPERATURE, "paper")


def problem(count: int, components: int) -> tuple[Any, list[Any], Any]:
    """Weights, mixture and upstream gradient."""
    import torch

    from quantizers.mixture.kmeans import kmeans

    torch.manual_seed(0)
    weight = 0.05 * torch.randn(count)
    clusters = kmeans(weight[:200_000].numpy(), components, pin_zero=True)
    parts = (clusters.centres, clusters.deviations, clusters.counts / clusters.counts.sum())
    mixture = [torch.tensor(part, dtype=torch.float32).requires_grad_() for part in parts]
    return weight.requires_grad_(), mixture, torch.randn(count)


def measure(method: str, count: int, components: int, repeat: int, threads: int) -> dict[str, float]:
    """Milliseconds of a forward and backward pass and bytes a weight at the peak, of the first and of all, in this process."""
    import torch

    torch.set_num_threads(threads)
    function: Callable[..., Any] = {"straight": straight, "table": table}[method]
    small = problem(4096, components)
    function(small[0], *small[1]).backward(small[2])  # loads what is loaded at first use
    weight, mixture, upstream = problem(count, components)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ballast = _fill_to(before)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times, peaks = [], []
    for _ in range(repeat):
        weight.grad = None
        start = time.perf_counter()
        function(weight, *mixture).backward(upstream)
        times.append(time.perf_counter() - start)
        peaks.append((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / count)
    del ballast
    return {"ms": min(times) * 1e3, "bytes_per_weight": peaks[0], "bytes_per_weight_kept": peaks[-1]}


def _fill_to(peak_kib: int) -> list[bytearray]:
    """Memory that brings this process to its own former peak, so that whatever is asked for from now on raises it."""
    with open("/proc/self/statm", encoding="ascii") as file:
        resident = int(file.read().split()[1]) * resource.getpagesize()
    missing = peak_kib * 1024 - resident
    return [bytearray(b"\1") * (1 << 20) for _ in range(max(0, missing >> 20))]


def rows(repeat: int, threads: int) -> list[dict[str, Any]]:
    """The table, each figure from a process of its own."""
    found: list[dict[str, Any]] = []
    for count in SIZES:
        for components in COMPONENTS:
            row: dict[str, Any] = {"weights": count, "components": components, "threads": threads}
            for method in METHODS:
                code = (
                    "import json; from benchmarks.soft_assign import measure; "
                    f"print(json.dumps(measure({method!r}, {count}, {components}, {repeat}, {threads})))"
                )
                done = subprocess.run(
                    [sys.executable, "-c", code], capture_output=True, text=True, check=True
                )
                for key, value in json.loads(done.stdout).items():
                    row[f"{method}_{key}"] = round(value, 2)
            row["time_ratio"] = round(row["straight_ms"] / row["table_ms"], 1)
            row["memory_ratio"] = round(
                row["straight_bytes_per_weight"] / max(row["table_bytes_per_weight"], 1.0), 1
            )
            found.append(row)
    return found


def record(path: Path, found: list[dict[str, Any]], repeat: int) -> None:
    """Write the rows and their conditions."""
    import torch

    about = {"repeat": repeat, "machine": platform.machine(), "torch": torch.__version__}
    write(path, [row | about for row in found])


def main(argv: list[str] | None = None) -> int:
    """Print the rows."""
    parser = Parser(description="Cost of the soft assignment, table against the K x N form.")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument(
        "--repeat", type=int, default=5, help="repetitions of which the best counts (default 5)"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--record", type=Path, help="CSV file to write")
    args = parser.parse_args(argv)
    for name in ("repeat", "threads"):
        if (given := getattr(args, name)) < 1:
            raise UserError(f"--{name} {given}: give 1 or more")
    found = rows(args.repeat, args.threads)
    if args.record:
        record(args.record, found, args.repeat)
    if args.format == "json":
        print(json.dumps(found, indent=1))
        return 0
    print(
        f"{'weights':>9} {'K':>3} {'straight':>11} {'table':>9} {'ratio':>7} {'straight':>9} {'table':>7} {'ratio':>6}"
    )
    for row in found:
        print(
            f"{row['weights']:>9} {row['components']:>3} {row['straight_ms']:>8.1f} ms {row['table_ms']:>6.1f} ms "
            f"{row['time_ratio']:>6.1f}x {row['straight_bytes_per_weight']:>7.1f} B {row['table_bytes_per_weight']:>5.1f} B "
            f"{row['memory_ratio']:>5.1f}x"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
