"""A plan carried out by rebuilding alone: layer by layer from a few images without labels, going on where it was cut off."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from foundation.files import write_atomically
from foundation.plan import Plan
from pipeline.candidate.workspace import Workspace
from pipeline.training.evaluation import few_batches, fixed_sample
from quantizers.calibration.reconstruction import Reconstruction, reconstruct, work_of
from quantizers.network import Hardened, harden, quantize

MOST = 256  # images that calibrate
# Places of outputs that a layer is rebuilt from, where that is more than asked for: few images show more of each.
ROWS = 1 << 15
CALIBRATING = 4  # batches, at most MOST images, from which first activation steps are taken
OnWork = Callable[[int, int, float | None], None]
"""Is told layers done, layers in all, and about how many seconds are left (None: not known yet)."""


@dataclass(frozen=True)
class Rebuilt:
    """What came out: the network as it was rebuilt and as it is deployed, from how many images, in how many seconds."""

    network: fx.GraphModule
    hardened: Hardened
    images: int
    seconds: float


class LayerFiles:
    """What is settled of each layer, one file each in ``folder``, as ``quantizers.calibration.reconstruction.Kept``. A file that
    cannot be read counts as none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found = 0

    def get(self, name: str) -> dict[str, Tensor] | None:
        try:
            state: dict[str, Tensor] = torch.load(self._file(name), map_location="cpu", weights_only=True)
        except Exception:  # none, or any bytes
            return None
        self.found += 1
        return state

    def put(self, name: str, state: dict[str, Tensor]) -> None:
        content = io.BytesIO()
        torch.save(state, content)
        write_atomically(self._file(name), content.getvalue())

    def count(self) -> int:
        """How many are there."""
        return len(list(self.folder.glob("*.pt")))

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.pt"


def rebuilt(
    workspace: Workspace,
    original: nn.Module,
    plan: Plan,
    images: int,
    how: Reconstruction,
    kept: LayerFiles | None = None,
    progress: OnWork | None = None,
) -> Rebuilt:
    """The network that ``plan`` makes of ``original``, which answers as the workspace's does.

    Args:
        images: so many training images rebuild, without labels; all where there are fewer.
        kept: takes up what an earlier run settled.
        progress: is told after each layer.
    """
    started = time.perf_counter()
    train = workspace.data.train
    chosen = fixed_sample(len(train), min(images, len(train)))
    how = replace(how, positions=max(how.positions, ROWS // len(chosen)))
    batches = few_batches(train, chosen, workspace.mean, workspace.std)
    network = quantize(original, plan, torch.cat(batches[:CALIBRATING])[:MOST])
    told = None if progress is None else _timed(work_of(network), kept, progress)
    reconstruct(network, original, batches, how, told, kept)
    return Rebuilt(network, harden(network), len(chosen), time.perf_counter() - started)


def _timed(works: list[float], kept: LayerFiles | None, progress: OnWork) -> Callable[[int, int], None]:
    """Tells beside the layers how long the rest takes, judged by the layers that were rebuilt in this run."""
    last, before = time.perf_counter(), kept.found if kept else 0
    seconds = work = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal last, before, seconds, work
        now, found = time.perf_counter(), kept.found if kept else 0
        if found == before:  # this one was not there already
            seconds, work = seconds + now - last, work + works[done - 1]
        last, before = now, found
        progress(done, total, seconds / work * sum(works[done:]) if work else None)

    return tell
