"""Functions that a compiled network calls as they are."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import Tensor

from quantizers.core.uncompiled import uncompiled


def test_it_runs_as_it_is_wherever_it_is_called_from() -> None:
    seen = []

    def inner(images: Tensor) -> Tensor:
        seen.append(torch.compiler.is_compiling())
        return images + 1

    @uncompiled
    def plain(images: Tensor, *, twice: bool = False) -> Tensor:
        seen.append(torch.compiler.is_compiling())
        return inner(images) * (2 if twice else 1)

    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append([node.target.__name__ for node in graph.graph.nodes if node.op == "call_function"])
        return graph

    @torch.compile(backend=backend)
    def whole(images: Tensor) -> Tensor:
        return torch.cos(plain(torch.sin(images), twice=True))

    images = torch.arange(3.0)
    for _ in range(2):
        assert torch.equal(whole(images), torch.cos((torch.sin(images) + 1) * 2))
    assert seen == [False] * 4, "traced"
    assert graphs == [["sin"], ["cos"]]
    assert torch.equal(plain(images), images + 1) and plain.__name__ == "plain"


def test_the_compiler_is_loaded_by_nobody_who_does_not_compile() -> None:
    words = "import sys, quantizers.network, pipeline.cluster.engine, pipeline.candidate.plan_cost"
    said = subprocess.run(
        [sys.executable, "-c", f"{words}; print('torch._dynamo' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == "False"
