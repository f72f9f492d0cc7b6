"""A network as a program for one kind of ARM CPU: what it answers, and what an inference costs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.frontend import compile_graph
from deploy_arm.costs.choose import choose_kernels
from deploy_arm.devices.kinds import open_device
from deploy_arm.ir.reference import run as run_reference
from deploy_arm.runtime.program import build_program
from foundation.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deploy_arm.devices.base import Device, Profile
    from deploy_arm.ir.graph import Graph
    from quantizers.network import Hardened


@dataclass(frozen=True)
class CompiledNetwork:
    """What ``compile_network`` makes.

    Attributes:
        graph: the integer network, with the kernels that are cheapest on the target.
        target: a name in ``TARGETS``.
    """

    graph: Graph
    target: str

    @cached_property
    def blob(self) -> bytes:
        """The network's file, which the target's program reads."""
        return write_blob(self.graph)

    def reference(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the integer network answers, float32 [N, K] for uint8 images [N, H, W, C]; no program is run."""
        return run_reference(self.graph, images)

    def run(self, images: NDArray[np.uint8], device: Device | None = None) -> NDArray[np.float32]:
        """What the program answers, bit for bit the same, on ``device`` or what ``open_device`` finds.

        Raises:
            UserError: images of another kind or shape, no tool chain or device here, or the program fails.
        """
        self._check(images)
        with self._file() as file:
            return (device or open_device(self.target)).run(build_program(self.target), file, images)

    def profile(self, image: NDArray[np.uint8], device: Device | None = None) -> Profile:
        """What one inference of a uint8 image [H, W, C] costs; device and errors as of ``run``."""
        self._check(np.asarray(image)[None])
        with self._file() as file:
            return (device or open_device(self.target)).profile(build_program(self.target), file, image)

    def _check(self, images: NDArray[np.uint8]) -> None:
        """A program takes whatever bytes make whole images, in whatever order."""
        wanted = self.graph.input.shape
        found = getattr(images, "shape", ())
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or found[1:] != wanted:
            kind = f"{type(images).__name__} {getattr(images, 'dtype', '')} {list(found)}"
            raise UserError(
                f"images {kind}: give a NumPy array, uint8 [N, {', '.join(map(str, wanted))}] (height, width, channels)"
            )
        if not len(images):
            raise UserError("no image: give one at least")

    @contextmanager
    def _file(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "weights.blob")
            file.write_bytes(self.blob)
            yield file


def compile_network(
    hardened: Hardened,
    input_shape: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    target: str = "a76",
) -> CompiledNetwork:
    """Compile a hardened network for ``target``; arguments and errors as of ``compile_graph``.

    Raises:
        UserError: an unknown target, or a network that is not hardened, too.
    """
    if not hasattr(hardened, "codebooks"):
        raise UserError(
            f"{type(hardened).__name__} is not a hardened network: give what quantizers.harden makes of a quantized one"
        )
    return CompiledNetwork(choose_kernels(compile_graph(hardened, input_shape, mean, std), target), target)
