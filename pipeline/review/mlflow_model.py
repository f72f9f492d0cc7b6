"""A promoted network as MLflow loads it: ``mlflow.pyfunc.load_model("models:/NAME@champion").predict(images)``.

This file lies in the registry beside the bundle; loading runs it and unpickles nothing. On an ARM Linux the bundle's own library
computes, elsewhere the integer reference of the project, on what the program loads: the answers are the same, bit for bit.
"""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

Outputs = Callable[[Any], Any]


class CompressedNetwork(PythonModel):
    """Outputs float32 [N, K] of images uint8 [N, H, W, C], raw pixels: the network normalizes by itself."""

    def load_context(self, context: Any) -> None:
        """Open the network; called by MLflow."""
        blob = Path(context.artifacts["weights"])
        on_arm = platform.system() == "Linux" and platform.machine() in ("aarch64", "arm64")
        self.answer = _of_program(blob) if on_arm else _of_reference(blob)

    def predict(self, context: Any, model_input, params: Any = None):  # type: ignore[no-untyped-def]  # MLflow reads hints here
        """The outputs; of one image [H, W, C] too, as a batch of one."""
        images = np.asarray(model_input)
        return self.answer(np.ascontiguousarray(images if images.ndim == 4 else images[None]))


def _of_program(blob: Path) -> Outputs:
    found = importlib.util.spec_from_file_location("network", blob.with_name("network.py"))
    if found is None or found.loader is None:
        raise ImportError(f"{blob.parent} holds no network.py; take the bundle again")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    answer: Outputs = module.Network(blob).run
    return answer


def _of_reference(blob: Path) -> Outputs:
    try:
        from deploy_arm.blob.read import read_graph
        from deploy_arm.ir.reference import run
    except ImportError as error:
        raise ImportError(
            "this machine cannot run ARM programs, and the integer reference is not installed: pip install dgms-arm-search"
        ) from error
    graph = read_graph(blob.read_bytes())
    return lambda images: run(graph, images)


set_model(CompressedNetwork())
