"""What makes a bundle in the registry a model of MLflow's: its description, its signature and the code that loads it."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deploy_arm.blob.read import read_graph

if TYPE_CHECKING:
    from mlflow.models import Model

CODE = "mlflow_model.py"
BLOB = "weights.blob"
FILES = ("MLmodel", CODE, "requirements.txt")  # beside those of a bundle


def shapes(blob: bytes) -> tuple[tuple[int, int, int], int]:
    """Of one image (height, width, channels), and how many outputs it gives."""
    graph = read_graph(blob)
    height, width, channels = graph.input.shape
    return (height, width, channels), int(np.prod(graph.tensors[graph.output].shape))


def write_model(folder: Path, blob: bytes, run: str) -> Model:
    """Write the files that MLflow needs beside a bundle's into ``folder``, for a run's artifacts in ``bundle``.

    Nothing is pickled: MLflow runs ``mlflow_model.py``, which opens ``weights.blob``.
    """
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import add_to_model
    from mlflow.types import Schema, TensorSpec

    image, outputs = shapes(blob)
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(np.uint8), (-1, *image))]),
        Schema([TensorSpec(np.dtype(np.float32), (-1, outputs))]),
    )
    model = Model(artifact_path="bundle", run_id=run, signature=signature)
    add_to_model(  # type: ignore[no-untyped-call]
        model,
        loader_module="mlflow.pyfunc.model",
        model_code_path=CODE,
        artifacts={"weights": {"path": BLOB, "uri": BLOB}},
    )
    shutil.copyfile(Path(__file__).with_name(CODE), folder / CODE)
    (folder / "requirements.txt").write_text("".join(f"{n}=={version(n)}\n" for n in ("mlflow", "numpy")))
    model.save(str(folder / "MLmodel"))
    return model
