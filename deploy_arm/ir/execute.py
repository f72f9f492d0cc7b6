"""The table of what operations mean, by class: ``reference.py`` fills it for integers, ``float_reference.py`` for floats."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy_arm.ir.graph import Operation, Tensor

Array = NDArray[np.int32]
Float = NDArray[np.float32]
Inputs = Sequence[Any]
Tensors = Sequence[Tensor]


@functools.singledispatch
def execute(op: Operation, inputs: Inputs, tensors: Tensors) -> Array | Float:
    """One operation on whole arrays [N, H, W, C]; ``tensors`` are the types of the inputs, then of the output.

    Raises:
        NotImplementedError: nobody has said what this class of operation means.
    """
    raise NotImplementedError(
        f"no meaning is known of {type(op).__name__}: register one with `@execute.register`"
    )
