"""Runs and counts the peers in the emulated ARM system."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.arm_peers.sysroot import guest_options, guest_python, matrix_sysroot, sysroot
from deploy_arm.emulate import emulator
from deploy_arm.emulate.counts import Counts
from deploy_arm.target.cores import CORES, Core
from deploy_arm.target.host import execute

CORE = CORES["a76"]  # outputs are the same on all
GUEST = Path(__file__).with_name("guest.py")
SECONDS = 3000.0  # an inference of the largest network, counted with caches on a loaded machine


@dataclass(frozen=True)
class PeerModel:
    """A network in a peer's files. ``options`` are ONNX Runtime's session entries or ncnn's ``opt`` fields."""

    peer: str
    files: tuple[Path, ...]
    options: Mapping[str, object] = field(default_factory=dict)


def guest_command(
    folder: Path, root: Path, model: PeerModel, images: NDArray[np.float32], *, mark: bool
) -> tuple[list[str], Path]:
    """The emulated command for some images, and the file its outputs go to."""
    outputs = folder / "outputs.npy"
    np.save(folder / "images.npy", np.ascontiguousarray(images))
    settings = {
        "peer": model.peer,
        "model": [str(path) for path in model.files],
        "images": str(folder / "images.npy"),
        "outputs": str(outputs),
        "options": dict(model.options),
        "mark": mark,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    return [*guest_python(root), str(GUEST), str(folder / "settings.json")], outputs


def peer_outputs(model: PeerModel, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs [N, K] for normalized float images [N, C, H, W].

    Raises:
        UserError: the peer fails; its message is in the text.
    """
    with tempfile.TemporaryDirectory(prefix="peer-") as name:
        root = sysroot()
        command, outputs = guest_command(Path(name), root, model, images, mark=False)
        qemu = [emulator.find_qemu() or "qemu-aarch64", "-cpu", CORE.emulated_cpu, *guest_options(root)]
        execute([*qemu, *command], b"", SECONDS, f"{model.peer} (emulated)")
        return np.asarray(np.load(outputs), dtype=np.float32)


def has_matrix(core: Core) -> bool:
    """Whether a core is emulated with i8mm: only QEMU's largest model has it."""
    return core.emulated_cpu.startswith("max")


def peer_counts(model: PeerModel, image: NDArray[np.float32], core: Core, *, caches: bool) -> Counts:
    """What one inference executes, the second one of a loaded network; ``image`` is float [C, H, W].

    Raises:
        UserError: as ``peer_outputs``.
        ValueError: the counts are not complete.
    """
    root = matrix_sysroot() if has_matrix(core) else sysroot()
    with tempfile.TemporaryDirectory(prefix="peer-") as name:
        command, _ = guest_command(Path(name), root, model, image[None], mark=True)
        return emulator.count_command(
            command, b"", core, SECONDS, caches=caches, options=guest_options(root), code=True
        )
