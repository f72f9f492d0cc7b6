"""The comparison's pure parts: networks in the peers' formats, ratios, tables. Setting the peers up is not tested here."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.arm_peers import report
from benchmarks.arm_peers.__main__ import main
from benchmarks.arm_peers.figures import NCNN, ORT, OURS, Figure, Goal, agreement, outcome
from benchmarks.arm_peers.float_network import FloatLayer, FloatNetwork, float_network
from benchmarks.arm_peers.ncnn_model import INT8_TAG, write_ncnn
from benchmarks.arm_peers.ours import check_ours, compile_ours
from benchmarks.arm_peers.single_layers import single_layer
from benchmarks.arm_peers.workload import load_workload
from deploy_arm.target.cores import CORES
from foundation.errors import UserError
from pipeline.networks.registry import load_model


def figure(
    runtime: str, configuration: str, cycles: float, model: str = "resnet18", core: str = "a76"
) -> Figure:
    return Figure(
        model=model, runtime=runtime, configuration=configuration, core=core, latency_ms=cycles / 1e6,
        low_ms=cycles / 2e6, high_ms=cycles / 5e5, cycles=cycles, low_cycles=cycles / 2, high_cycles=cycles * 2,
        instructions=1000, multiplications=500, cycles_per_multiplication=cycles / 500, model_bytes=7,
        top1_agreement=None if runtime == OURS else 0.75, correlation=None, checked_images=8, source="modelled",
        version="1.2", settings="a, b", weights="untrained", images="none", emulator="qemu",
        cycle_model="mca <1>", clock_ghz=2.4, caches="off",
    )  # fmt: skip


def run_layer(layer: FloatLayer, values: list[torch.Tensor]) -> torch.Tensor:
    """The layer by PyTorch's functions."""
    x = values[0]
    if layer.kind in ("convolution", "linear"):
        weight, bias = torch.from_numpy(layer.weight), torch.from_numpy(layer.bias)
        if layer.kind == "linear":
            return F.linear(x.flatten(1), weight, bias)
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, groups=layer.groups)
    if layer.kind == "add":
        return values[0] + values[1]
    if layer.kind == "max_pool":
        return F.max_pool2d(x, layer.kernel, layer.stride, layer.padding)
    if layer.kind == "global_average":
        return x.mean((2, 3), keepdim=True)
    if layer.kind == "subsample":
        return x[:, :, :: layer.stride[0], :: layer.stride[1]]
    assert layer.kind == "pad_channels"
    return F.pad(x, (0, 0, 0, 0, *layer.channels))


def run_network(network: FloatNetwork, images: torch.Tensor) -> torch.Tensor:
    values = {"input": images}
    for layer in network.layers:
        value = run_layer(layer, [values[name] for name in layer.inputs])
        limits = {"": (None, None), "relu": (0, None), "relu6": (0, 6)}[layer.activation]
        values[layer.name] = value if limits == (None, None) else value.clamp(*limits)
    return values[network.output]


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "mobilenet_v2"])
def test_layers_compute_the_network(name: str) -> None:
    model = load_model(name, classes=10)
    with torch.inference_mode():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.running_var):
                    tensor.uniform_(0.5, 1.5)
                module.bias.normal_()
                module.running_mean.normal_()
        images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        expected = model(images)
        network = float_network(model, images)
        torch.testing.assert_close(run_network(network, images), expected, rtol=1e-3, atol=1e-3)
    kinds = [layer.kind for layer in network.layers]
    assert kinds.count("convolution") == sum(isinstance(m, nn.Conv2d) for m in model.modules())
    assert network.largest["input"] == pytest.approx(float(images.abs().max()))
    for layer in network.layers:
        if layer.activation == "relu6":
            assert network.largest[layer.name] <= 6


def test_a_layer_that_the_peers_formats_lack_is_named() -> None:
    with pytest.raises(UserError, match="LeakyReLU"):
        float_network(nn.Sequential(nn.Conv2d(3, 4, 1), nn.LeakyReLU()), torch.zeros(1, 3, 8, 8))


def test_an_activation_that_is_not_the_only_reader_is_refused() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return x + F.relu(x)

    with pytest.raises(UserError, match="nobody else reads"):
        float_network(Branch(), torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("int8", [False, True])
def test_ncnn_files_name_every_blob_once_and_hold_every_weight(tmp_path: Path, int8: bool) -> None:
    model = load_model("mobilenet_v2", classes=10)
    network = float_network(model, torch.randn(1, 3, 32, 32))
    param, weights = tmp_path / "net.param", tmp_path / "net.bin"
    write_ncnn(network, param, weights, int8=int8)
    magic, counts, *lines = param.read_text().splitlines()
    layers, blobs = map(int, counts.split())
    assert magic == "7767517" and layers == len(lines)
    written: list[str] = []
    read: list[str] = []
    size = 0
    for line in lines:
        words = line.split()
        inputs, outputs = int(words[2]), int(words[3])
        read += words[4 : 4 + inputs]
        assert set(words[4 : 4 + inputs]) <= set(written)
        written += words[4 + inputs : 4 + inputs + outputs]
        settings = dict(word.split("=") for word in words[4 + inputs + outputs :])
        if words[0] in ("Convolution", "ConvolutionDepthWise", "InnerProduct"):
            linear = words[0] == "InnerProduct"
            count, channels = int(settings["2" if linear else "6"]), int(settings["0"])
            term = int(settings["8"])
            assert (term > 0) == int8
            scales = 4 * (channels + 1) if term else 0
            size += 4 + (-(-count // 4) * 4 if term else 4 * count) + 4 * channels + scales + 4 * (term > 100)
    assert len(written) == len(set(written)) == blobs and "output" in written
    assert len(read) == len(set(read)) and set(written) - set(read) == {"output"}
    content = weights.read_bytes()
    assert len(content) == size
    assert int.from_bytes(content[:4], "little") == (INT8_TAG if int8 else 0)


def test_int8_convolutions_hand_over_int8_only_to_int8_convolutions(tmp_path: Path) -> None:
    network = float_network(load_model("resnet20", classes=10), torch.randn(1, 3, 32, 32))
    param = tmp_path / "net.param"
    write_ncnn(network, param, tmp_path / "net.bin", int8=True)
    terms = {
        line.split()[1]: int(line.rsplit("8=", 1)[1].split()[0])
        for line in param.read_text().splitlines()
        if line.startswith(("Convolution", "InnerProduct"))
    }
    assert {term for name, term in terms.items() if name.endswith("_conv1")} == {102}  # read by conv2 alone
    assert {term for name, term in terms.items() if name.endswith("_conv2")} == {2}  # read by the addition
    assert terms["conv1"] == 2 and terms["linear"] == 2


def test_a_ratio_is_the_fastest_peers_cycles_over_ours() -> None:
    target = Goal("resnet18", "4-bit", ((ORT, "int8"), (NCNN, "int8")), 1.5)
    figures = [
        figure(OURS, "4-bit", 100.0),
        figure(ORT, "int8 s8s8", 180.0),
        figure(ORT, "int8 u8s8", 160.0),
        figure(NCNN, "int8 fp32", 170.0),
        figure(NCNN, "fp32", 10.0),
        figure(ORT, "int8 s8s8", 1.0, model="resnet50"),
        figure(ORT, "int8 s8s8", 1.0, core="x1"),
    ]
    reached = outcome(target, figures)
    assert reached.reached == 1.6 and reached.met and reached.peer == "ONNX Runtime int8 u8s8"
    slow = outcome(dataclasses.replace(target, wanted=1.7), figures)
    assert slow.met is False and "not met" in report.outcome_table([slow])


@pytest.mark.parametrize("missing", [OURS, ORT, NCNN])
def test_a_ratio_needs_ours_and_every_peer(missing: str) -> None:
    target = Goal("resnet18", "4-bit", ((ORT, "int8"), (NCNN, "int8")), 1.5)
    figures = [figure(OURS, "4-bit", 1.0), figure(ORT, "int8", 2.0), figure(NCNN, "int8", 2.0)]
    found = outcome(target, [each for each in figures if each.runtime != missing])
    assert found.reached is None and found.met is None
    assert "not compared" in report.outcome_table([found])


def test_agreement_of_equal_scaled_and_unrelated_outputs() -> None:
    generator = np.random.default_rng(0)
    reference = generator.standard_normal((200, 10))
    assert agreement(reference, reference) == (1.0, pytest.approx(1.0))
    assert agreement(2 * reference + 1, reference) == (1.0, pytest.approx(1.0))
    same, correlation = agreement(generator.standard_normal((200, 10)), reference)
    assert same < 0.25 and abs(correlation) < 0.1
    # Outputs that only share what all images share do not agree.
    offset = 100 * generator.standard_normal(10)
    assert abs(agreement(generator.standard_normal((200, 10)) + offset, reference + offset)[1]) < 0.1


def test_the_csv_file_gives_the_figures_back() -> None:
    figures = [figure(OURS, "2-bit, 80 % zeros", 1234.0), figure(ORT, "fp32", 99999.0)]
    content = report.csv_text(figures)
    assert report.read_csv(content) == figures
    with pytest.raises(ValueError, match="columns"):
        report.read_csv(content.replace("latency_ms", "latency"))


def test_the_table_says_modelled_and_which_version() -> None:
    content = report.table([figure(OURS, "4-bit", 500.0), figure(ORT, "fp32", 1000.0)])
    assert "modelled" in content and "ONNX Runtime fp32 (1.2)" in content and "75% of 8" in content
    assert "resnet18 on a76" in content


def test_the_chart_has_a_bar_per_figure_in_proportion() -> None:
    figures = [figure(OURS, "4-bit", 1e6), figure(ORT, "fp32 <&>", 3e6), figure(ORT, "fp32", 3e6, core="x1")]
    root = ElementTree.fromstring(report.chart(figures))
    bars = [
        float(element.get("width", "0"))
        for element in root.iter("{http://www.w3.org/2000/svg}rect")
        if element.get("fill") != "#fff"
    ]
    assert len(bars) == 3 and bars[1] == pytest.approx(3 * bars[0], rel=0.01)
    words = " ".join(element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text"))
    assert "modelled" in words and "fp32 <&>" in words and "on x1" in words


def test_a_later_run_replaces_its_own_networks_and_cores_only() -> None:
    earlier = [figure(OURS, "4-bit", 1.0), figure(ORT, "fp32", 2.0), figure(OURS, "4-bit", 3.0, core="x1")]
    latest = [figure(OURS, "4-bit", 9.0), figure(OURS, "4-bit", 4.0, model="resnet50")]
    found = [(each.model, each.core, each.cycles) for each in report.merged(earlier, latest)]
    assert found == [("resnet18", "a76", 9.0), ("resnet18", "x1", 3.0), ("resnet50", "a76", 4.0)]
    by_row = [each.cycles for each in report.merged(earlier, latest, by_row=True)]
    assert by_row == [2.0, 9.0, 3.0, 4.0]


def test_single_layers_are_what_their_names_say() -> None:
    network, images = single_layer("conv24x14to32k1s2")
    assert images.shape == (24, 14, 14, 24) and images.dtype == np.uint8
    assert network.conv.weight.shape == (32, 24, 1, 1) and network.conv.stride == (2, 2)
    depthwise, _ = single_layer("depthwise16x8")
    assert depthwise.conv.groups == 16 and depthwise.conv.padding == (1, 1)
    again, same = single_layer("conv24x14to32k1s2")
    assert torch.equal(again.conv.weight, network.conv.weight) and np.array_equal(same, images)


@pytest.mark.parametrize("name", ["conv0x8", "conv8x8k9", "depthwise8x8to16", "convx", "conv8x8s0"])
def test_layers_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=name):
        single_layer(name)


def test_a_single_layer_is_compared_like_a_network(tmp_path: Path) -> None:
    workload = load_workload("conv16x8to24")
    network = float_network(workload.model, workload.normalized(workload.calibration))
    assert network.shape == (16, 8, 8) and network.layers[0].kind == "convolution"
    for configuration, blobs in compile_ours(workload, tmp_path, [CORES["a76"]], "8-bit"):
        sanity = check_ours(workload, blobs["a76"], CORES["a76"])
        assert (
            configuration.activation_bits == 8
            and sanity.correlation is not None
            and sanity.correlation > 0.99
        )


def test_networks_and_layers_do_not_share_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--models", "resnet18,conv8x8"]) == 2
    assert "files of their own" in capsys.readouterr().err
