"""The peers' ways to run one network: their files, their settings, what they cost, and whether they compute it."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.arm_peers.emulated import PeerModel, has_matrix, peer_counts, peer_outputs
from benchmarks.arm_peers.figures import NCNN, ORT, Sanity, agreement
from benchmarks.arm_peers.float_network import FloatNetwork, float_network
from benchmarks.arm_peers.modelled import Modelled, kept, model_cycles
from benchmarks.arm_peers.ncnn_model import write_ncnn
from benchmarks.arm_peers.onnx_model import quantize_onnx, write_onnx
from benchmarks.arm_peers.sysroot import NCNN_VERSION, ORT_VERSION
from benchmarks.arm_peers.workload import SMALL, Workload
from deploy_arm.cycles.block_code import BlockCode
from deploy_arm.emulate.counts import Counts
from deploy_arm.target.cores import Core
from foundation.errors import UserError
from foundation.files import sha256

# Large images on which the float variants are checked: slow, and the same computation as PyTorch's.
FEW = 1
NCNN_FLOAT: Mapping[str, bool] = dict.fromkeys(
    ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"), False
)
NCNN_HALF: Mapping[str, bool] = dict.fromkeys(NCNN_FLOAT, True)
NCNN_INT8 = "int8 convolutions, per channel, max-abs, requantization fused, otherwise"


@dataclass(frozen=True)
class Variant:
    """One way to run a network on a peer."""

    runtime: str
    configuration: str
    model: PeerModel
    settings: str
    version: str

    def identity(self) -> tuple[object, ...]:
        """Everything that its outputs and costs depend on."""
        content = [sha256(path) for path in self.model.files]
        return self.model.peer, self.version, content, dict(self.model.options)

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.model.files)


def write_variants(workload: Workload, folder: Path) -> list[Variant]:
    """Writes the network in every peer's format.

    Raises:
        UserError: a layer cannot be said in them.
    """
    calibration = workload.normalized(workload.calibration)
    network = float_network(workload.model, calibration)
    source = folder / "fp32.onnx"
    write_onnx(network, source)
    settings = "1 thread, all graph optimizations"
    result = [Variant(ORT, "fp32", PeerModel("onnxruntime", (source,)), settings, ORT_VERSION)]
    for signed, name in ((True, "s8s8"), (False, "u8s8")):
        target = folder / f"int8_{name}.onnx"
        with contextlib.redirect_stdout(io.StringIO()):
            quantize_onnx(source, target, calibration.numpy(), signed=signed)
        said = (
            f"{settings}; static QDQ, per channel, min-max, {'signed' if signed else 'unsigned'} activations"
        )
        result.append(Variant(ORT, f"int8 {name}", PeerModel("onnxruntime", (target,)), said, ORT_VERSION))
    return [*result, *ncnn_variants(network, folder)]


def ncnn_variants(network: FloatNetwork, folder: Path) -> Iterator[Variant]:
    """ncnn in float32 and float16, and in int8 with either of them between the convolutions."""
    files = {}
    for int8 in (False, True):
        stem = folder / ("int8" if int8 else "fp32")
        files[int8] = stem.with_suffix(".param"), stem.with_suffix(".bin")
        write_ncnn(network, *files[int8], int8=int8)
    for name, int8, options, said in (
        ("fp32", False, NCNN_FLOAT, "fp16 off"),
        ("fp16", False, NCNN_HALF, "fp16 storage and arithmetic"),
        ("int8 fp32", True, NCNN_FLOAT, f"{NCNN_INT8} fp32"),
        ("int8 fp16", True, NCNN_HALF, f"{NCNN_INT8} fp16"),
    ):
        yield Variant(NCNN, name, PeerModel("ncnn", files[int8], options), f"1 thread, {said}", NCNN_VERSION)


def measure_peer(
    workload: Workload, variant: Variant, cores: Sequence[Core], *, caches: bool
) -> dict[str, Modelled]:
    """Counts one inference of a variant and models its cycles on every core; kept in the cache directory.

    Raises:
        UserError: the peer fails.
    """
    image = workload.normalized(workload.images[:1]).numpy()[0]
    counted: dict[object, Counts] = {}

    def compute(core: Core) -> Modelled:
        # Cores of the same instructions execute the same; only their caches differ.
        kind = (has_matrix(core), core.caches if caches else None)
        if kind not in counted:
            try:
                counted[kind] = peer_counts(variant.model, image, core, caches=caches)
            except ValueError as error:
                raise UserError(f"{variant.runtime} {variant.configuration}: {error}") from error
        code = BlockCode(counted[kind].code)
        return model_cycles(code, code.listing, counted[kind], core)

    key = (variant.identity(), digest(image), caches)
    return {core.target: kept(Modelled, (*key, core), partial(compute, core)) for core in cores}


def check_peer(workload: Workload, variant: Variant) -> Sanity:
    """Compares a variant's outputs with the float32 network's in PyTorch; kept in the cache directory.

    Raises:
        UserError: the peer fails.
    """
    few = workload.size > SMALL and not variant.configuration.startswith("int8")
    images = workload.normalized(workload.images[: FEW if few else None])
    with torch.inference_mode():
        expected = workload.model(images).numpy()
    pixels = images.numpy()

    def compute() -> Sanity:
        return Sanity(*agreement(peer_outputs(variant.model, pixels), expected), len(pixels))

    return kept(Sanity, (variant.identity(), digest(pixels)), compute)


def digest(values: NDArray[np.float32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
