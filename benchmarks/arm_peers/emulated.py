"""Runs and counts the peers in the emulated ARM system."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.arm_peers.sysroot import guest_options, guest_python, sysroot
from deploy_arm import emulator
from deploy_arm.cores import CORES, Caches
from deploy_arm.counts import Counts

CORE = CORES["a76"]  # of the sysroot's CPU description
GUEST = Path(__file__).with_name("guest.py")
SECONDS = 3000.0  # an inference of the largest network, counted with caches on a loaded machine


@dataclass(frozen=True)
class PeerModel:
    """A network in a peer's files. ``options`` are ONNX Runtime's session entries or ncnn's ``opt`` fields."""

    peer: str
    files: tuple[Path, ...]
    options: Mapping[str, object] = field(default_factory=dict)


def guest_command(
    folder: Path, model: PeerModel, images: NDArray[np.float32], *, mark: bool
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
    return [*guest_python(sysroot()), str(GUEST), str(folder / "settings.json")], outputs


def peer_outputs(model: PeerModel, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs [N, K] for normalized float images [N, 3, H, W].

    Raises:
        UserError: the peer fails; its message is in the text.
    """
    with tempfile.TemporaryDirectory(prefix="peer-") as name:
        command, outputs = guest_command(Path(name), model, images, mark=False)
        qemu = [emulator.find_qemu() or "qemu-aarch64", "-cpu", CORE.emulated_cpu, *guest_options(sysroot())]
        emulator.execute([*qemu, *command], b"", SECONDS, f"{model.peer} (emulated)")
        return np.asarray(np.load(outputs), dtype=np.float32)


def peer_counts(model: PeerModel, image: NDArray[np.float32], caches: Caches | None) -> Counts:
    """What one inference executes, the second one of a loaded network; ``image`` is float [3, H, W].

    The peers choose their kernels by the features of one core, so what they execute is the same for all;
    only ``caches`` (simulated where given) differ.

    Raises:
        UserError: as ``peer_outputs``.
        ValueError: the counts are not complete.
    """
    core = CORE if caches is None else replace(CORE, caches=caches)
    with tempfile.TemporaryDirectory(prefix="peer-") as name:
        command, _ = guest_command(Path(name), model, image[None], mark=True)
        options: Sequence[str] = guest_options(sysroot())
        return emulator.count_command(
            command, b"", core, caches is not None, SECONDS, options=options, code=True
        )
