"""The kernel of every convolution, chosen for a core by the fitted costs in ``kernel_costs.json``."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from deploy_arm.costs.model import KERNELS, CostModel, Work
from deploy_arm.ir import graph as g
from deploy_arm.target.cores import CORES
from foundation.errors import UserError

TABLE = Path(__file__).with_name("kernel_costs.json")
COMMAND = "python -m deploy_arm.fit_costs"

Models = Mapping[str, CostModel]


@functools.cache
def read_table(path: Path = TABLE) -> Mapping[str, Models]:
    """Cost models by core and kernel.

    Raises:
        UserError: the file cannot be read or is no such table.
    """
    try:
        record: Mapping[str, Any] = json.loads(path.read_text())["cores"]
        return {
            core: {kernel: CostModel(**entry["kernels"][kernel]) for kernel in KERNELS}
            for core, entry in record.items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no table of kernel costs ({error}): make it with `{COMMAND}`") from error


def models_of(core: str, path: Path = TABLE) -> Models:
    """The cost models of a core.

    Raises:
        UserError: unknown core, one without fitted costs, or a damaged table.
    """
    CORES[core]
    table = read_table(path)
    if core not in table:
        raise UserError(
            f"no kernel costs are known for core {core!r}, only for {', '.join(table)}: fit them with "
            f"`{COMMAND} --cores {core}`"
        )
    return table[core]


def costs_of(work: Work, models: Models) -> dict[str, float]:
    """Cycles by the kernels that can do the work."""
    able = [name for name in KERNELS if work.bits in KERNELS[name].bits and KERNELS[name].fits(work)]
    return {name: models[name].cost(KERNELS[name](work)) for name in able}


def cheapest(work: Work, models: Models) -> g.Kernel:
    """The kernel with the least cost of those that can do the work; of equals the dense one."""
    costs = costs_of(work, models)
    return cast(g.Kernel, min(costs, key=lambda name: (costs[name], name != "dense")))


def foreseen(graph: g.Graph, core: str) -> dict[int, dict[str, float]]:
    """Why a kernel was chosen: cycles by kernel, of every convolution that had a choice, by its place among the operations.

    Raises:
        UserError: as ``models_of``.
    """
    models = models_of(core)
    found = {
        place: costs_of(Work.of(o, graph.tensors[o.inputs[0]], graph.tensors[o.output]), models)
        for place, o in enumerate(graph.operations)
        if isinstance(o, g.Convolution) and o.groups == 1
    }
    return {place: costs for place, costs in found.items() if len(costs) > 1}


def choose_kernels(graph: g.Graph, core: str) -> g.Graph:
    """The same graph with the kernel of its convolutions chosen for ``core`` (a name in ``CORES``).

    Convolutions of several groups, for which there is one kernel only, and those with weights of 8 bits in all blocks stay
    automatic. The choice is a function of shapes, bits, numbers of levels, of zeros and of blocks that are not all zero, and
    activations' ranges; not of their values.

    Raises:
        UserError: as ``models_of``.
    """
    models = models_of(core)

    def chosen(operation: g.Operation) -> g.Operation:
        if not isinstance(operation, g.Convolution) or operation.groups > 1:
            return operation
        tensors = graph.tensors[operation.inputs[0]], graph.tensors[operation.output]
        kernel = cheapest(Work.of(operation, *tensors), models)
        if operation.weights.bits == 8 and kernel == "dense":
            return operation
        return dataclasses.replace(operation, kernel=kernel)

    return dataclasses.replace(graph, operations=[chosen(operation) for operation in graph.operations])
