"""The model beside real chips: published figures with their source and their row, and the networks that were measured."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from benchmarks.arm_peers.float_network import float_network
from benchmarks.arm_peers.modelled import Modelled
from benchmarks.silicon.__main__ import RESULTS, Published, compared, known_already, main, read_published
from benchmarks.silicon.networks import NETWORKS, MobileNet, workload
from deploy_arm.cycles import mca
from deploy_arm.target.cores import CORES
from foundation.errors import UserError

PUBLISHED = read_published()


def published(threads: int = 1, megacycles: float = 60.0, core: str = "a76") -> Published:
    return Published("a chip", core, "resnet18", "int8", threads, megacycles, "somewhere")


def test_every_published_figure_names_its_source_and_what_it_is_held_against() -> None:
    assert len(PUBLISHED) == len(
        {(each.chip, each.network, each.precision, each.threads) for each in PUBLISHED}
    )
    for each in PUBLISHED:
        assert each.core in CORES and each.network in NETWORKS and each.megacycles > 0
        assert each.source.startswith("ncnn benchmark/README.md")


def test_every_published_figure_has_its_row_of_results() -> None:
    with RESULTS.open(newline="") as file:
        rows = {
            (row["chip"], row["network"], row["precision"], int(row["threads"])): row
            for row in csv.DictReader(file)
        }
    assert rows.keys() == {(each.chip, each.network, each.precision, each.threads) for each in PUBLISHED}
    for each in PUBLISHED:
        row = rows[each.chip, each.network, each.precision, each.threads]
        assert (float(row["published"]), row["published_source"]) == (each.megacycles, each.source)
        if each.threads == 1:
            assert float(row["ratio"]) == pytest.approx(each.megacycles / float(row["modelled"]), abs=0.006)
            assert row["modelled_source"].startswith("modelled: ncnn ")
        else:
            assert row["modelled"] == row["ratio"] == "" and float(row["speedup"]) > 1


def test_a_ratio_above_one_is_a_slower_chip_and_threads_are_not_modelled() -> None:
    modelled = Modelled(45e6, 50e6, 75e6, 1, "model")
    row = compared(published(), [published()], modelled)
    assert (row.ratio, row.low, row.modelled, row.high, row.speedup) == (1.2, 45.0, 50.0, 75.0, None)
    several = published(4, 30.0)
    row = compared(several, [published(), several, published(core="a72")], None)
    assert (row.ratio, row.modelled, row.speedup) == (None, None, 2.0)


def test_cores_without_half_floats_run_int8_between_fp32_layers() -> None:
    assert published().configuration == "int8 fp16" and published(core="a72").configuration == "int8 fp32"


def test_a_broken_table_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "published.csv"
    path.write_text("chip,core,network,precision,threads,megacycles,source\na,a76,resnet18,int8,one,60,x\n")
    with pytest.raises(UserError, match=r"published\.csv is no table of published figures"):
        read_published(path)


def test_figures_that_the_comparison_with_peers_has_are_not_counted_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mca, "version", lambda: "19.1.7")
    monkeypatch.setattr(
        "benchmarks.arm_peers.__main__.emulator_version", lambda: "qemu-aarch64 version 7.2.22"
    )
    found = known_already(PUBLISHED)
    assert found["resnet18", "int8 fp16", "a76"].point == pytest.approx(76.3686e6)
    assert not [place for place in found if place[0] in ("resnet50", "mobilenet") or place[2] == "a72"]


def test_networks_are_those_that_were_measured() -> None:
    """MobileNet has the 569 million multiplications of its paper, ResNet-50 its strides where they were first."""
    counted = 0

    def count(module: torch.nn.Module, given: object, out: torch.Tensor) -> None:
        nonlocal counted
        weight = module.weight
        counted += weight[0].numel() * out.numel() // len(out)

    network = MobileNet().eval()
    for module in network.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(count)  # type: ignore[arg-type]
    network(torch.zeros(1, 3, 224, 224))
    assert counted == pytest.approx(569e6, rel=0.005)
    block = NETWORKS["resnet50"]().layer2[0]
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))


def test_networks_can_be_said_to_ncnn() -> None:
    work = workload("mobilenet")
    layers = float_network(work.model, work.normalized(work.calibration[:1])).layers
    assert [layer.kind for layer in layers].count("convolution") == 27 and layers[-1].kind == "linear"


def test_a_wrong_core_is_refused_with_the_choices() -> None:
    with pytest.raises(UserError, match=r"m4.*a72.*a76.*x2"):
        main(["--cores", "m4"])
