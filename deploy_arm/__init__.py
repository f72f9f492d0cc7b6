"""From a quantized network to an ARM program and its profile.

Compile a hardened network for a kind of ARM CPU, and run it on a device at hand: this machine's own CPU where that is an ARM one,
else an emulated one. Its answers are those of the integer reference, bit for bit.

>>> import numpy, torch
>>> from deploy_arm import compile_network
>>> from quantizers import LayerPlan, Plan, harden, layer_names, quantize
>>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 10))
>>> network = quantize(model, Plan.uniform(layer_names(model), LayerPlan(4, 12)), torch.randn(32, 3, 8, 8))
>>> compiled = compile_network(harden(network), (3, 8, 8), mean=(0.5,) * 3, std=(0.25,) * 3, target="a76")
>>> images = numpy.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=numpy.uint8)
>>> bool((compiled.run(images) == compiled.reference(images)).all())
True
>>> profile = compiled.profile(images[0])
>>> 0 < profile.low_ms <= profile.latency_ms <= profile.high_ms and profile.size_bytes == len(compiled.blob)
True

``profile.source`` says whether the latency was ``measured`` or ``modelled``; ``TARGETS`` are the kinds of CPU. The single steps
are there too: ``compile_graph``, ``choose_kernels``, ``write_blob``, ``build_program``, ``run_reference``, ``open_device``. What
is not named here is private and may move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundation.public import finder

if TYPE_CHECKING:
    from deploy_arm.blob.write import write_blob
    from deploy_arm.compiled import CompiledNetwork, compile_network
    from deploy_arm.compiler.frontend import compile_graph
    from deploy_arm.costs.choose import choose_kernels
    from deploy_arm.devices.base import Device, Profile
    from deploy_arm.devices.kinds import open_device
    from deploy_arm.ir.reference import run as run_reference
    from deploy_arm.runtime.program import build_program
    from deploy_arm.target.targets import TARGETS

__all__ = [
    "TARGETS",
    "CompiledNetwork",
    "Device",
    "Profile",
    "build_program",
    "choose_kernels",
    "compile_graph",
    "compile_network",
    "open_device",
    "run_reference",
    "write_blob",
]

__getattr__ = finder(
    __name__,
    {
        "TARGETS": "deploy_arm.target.targets",
        "CompiledNetwork": "deploy_arm.compiled",
        "Device": "deploy_arm.devices.base",
        "Profile": "deploy_arm.devices.base",
        "build_program": "deploy_arm.runtime.program",
        "choose_kernels": "deploy_arm.costs.choose",
        "compile_graph": "deploy_arm.compiler.frontend",
        "compile_network": "deploy_arm.compiled",
        "open_device": "deploy_arm.devices.kinds",
        "run_reference": "deploy_arm.ir.reference:run",
        "write_blob": "deploy_arm.blob.write",
    },
)
