"""Kernels are chosen by fitted costs: the fit, the quantities of work, the committed table, and what ends up in the blob."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_runtime_exact import execute

from deploy_arm.blob.packing import kept_blocks
from deploy_arm.blob.read import read_graph
from deploy_arm.blob.write import write_blob
from deploy_arm.costs import fit as fit_costs
from deploy_arm.costs import model as costs
from deploy_arm.costs.choose import TABLE, cheapest, choose_kernels, models_of, read_table
from deploy_arm.costs.samples import network, samples
from deploy_arm.ir import graph as g
from deploy_arm.ir.reference import run
from deploy_arm.target.cores import CORES
from foundation.codebook import Codebook
from foundation.errors import UserError
from tests.deploy_arm.runtime_cases import Builder


def test_a_fit_recovers_the_coefficients_it_was_made_of() -> None:
    random = np.random.default_rng(0)
    wanted = {"a": 3.0, "b": 0.02, "c": 0.0}
    rows = []
    for _ in range(50):
        quantities = {
            "a": float(random.integers(1, 9)),
            "b": float(10 ** random.uniform(1, 6)),
            "c": random.random(),
        }
        rows.append((quantities, sum(wanted[name] * amount for name, amount in quantities.items())))
    model = costs.fit(rows)
    assert model.error < 1e-4 and model.rows == 50
    assert model.coefficients.get("c", 0.0) < 1e-3
    assert model.coefficients["a"] == pytest.approx(3.0, rel=1e-3)
    assert model.cost({"b": 100.0}) == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize("rows", [[], [({"a": 1.0}, 0.0)]])
def test_nothing_is_fitted_to_no_rows_or_to_no_cycles(rows: list[tuple[dict[str, float], float]]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        costs.fit(rows)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 3.0]))
@settings(max_examples=60, deadline=None)
def test_the_fit_is_the_best_without_negative_coefficients(seed: int, alike: float) -> None:
    """Karush-Kuhn-Tucker: the residual falls along no coefficient that is above zero, nor by raising one that is zero. Where
    quantities are ``alike``, one that was taken first is given up for better ones."""
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(12, 6)) + alike * random.normal(size=(12, 1))
    matrix[:, 5] = matrix[:, 4]  # quantities that always go together
    wanted = random.normal(size=12)
    x = costs.non_negative_least_squares(matrix, wanted)
    gradient = matrix.T @ (wanted - matrix @ x)
    assert (x >= 0).all() and (gradient < 1e-6).all() and abs(gradient[x > 0]).max(initial=0.0) < 1e-6


def convolution(
    size: int,
    channels: int,
    outs: int,
    taps: int,
    stride: int,
    share: float,
    bits: int = 2,
    narrow: bool = True,
) -> g.Graph:
    """One padded convolution with integer output."""
    builder = Builder(np.random.default_rng(1), (size, size, channels))
    source = builder.input(0, 127 if narrow else 255)
    edge = taps // 2
    last = builder.convolution(
        source, outs, (taps, taps), bits=bits, stride=(stride, stride), padding=(edge,) * 4, zeros=0.0
    )
    found = next(op for op in builder.graph.operations if isinstance(op, g.Convolution))
    random = np.random.default_rng(2)
    levels = np.arange(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) + 1).astype(np.int8) * np.int8(7)
    zero = int(np.flatnonzero(levels == 0)[0])
    indices = random.integers(0, len(levels) - 1, found.weights.indices.shape)
    indices += indices >= zero
    order = np.random.default_rng(3).permutation(
        indices.size
    )  # the same weights go first, whatever the share
    indices.reshape(-1)[order[: round(share * indices.size)]] = zero
    book = Codebook(indices.astype(np.uint8), levels, np.ones(1, np.float32), bits)
    object.__setattr__(found, "weights", book)
    return builder.done(last)


def work_of(graph: g.Graph) -> costs.Work:
    operation = next(op for op in graph.operations if isinstance(op, g.Convolution))
    return costs.Work.of(operation, graph.tensors[operation.inputs[0]], graph.tensors[operation.output])


def test_work_counts_what_a_channel_has() -> None:
    graph = convolution(6, 5, 4, 3, 1, 0.5)
    work = work_of(graph)
    weights = next(op for op in graph.operations if isinstance(op, g.Convolution)).weights.integers
    assert work.nonzeros == np.count_nonzero(weights)
    assert work.pairs == sum(len(set(channel.reshape(-1).tolist()) - {0}) for channel in weights)
    assert work.narrow and not work_of(convolution(6, 5, 4, 3, 1, 0.5, narrow=False)).narrow
    assert work.bands() == [6] and (work.source, work.result) == ((6, 6, 5), (6, 6, 4))


@pytest.mark.parametrize("core", CORES)
@given(
    size=st.sampled_from([4, 7, 14, 28]),
    channels=st.sampled_from([3, 16, 40, 64]),
    outs=st.sampled_from([8, 16, 24]),
    taps=st.sampled_from([1, 3]),
    stride=st.sampled_from([1, 2]),
    bits=st.sampled_from([2, 3, 4]),
    narrow=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_more_zeros_change_the_choice_once_at_most(
    core: str, size: int, channels: int, outs: int, taps: int, stride: int, bits: int, narrow: bool
) -> None:
    works = [
        work_of(convolution(size, channels, outs, taps, stride, share, bits, narrow))
        for share in (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.99)
    ]
    models = models_of(core)
    dense = [models["dense"].cost(costs.KERNELS["dense"](work)) for work in works]
    whole = [cost for cost, work in zip(dense, works, strict=True) if work.taps is None]
    assert len(set(whole)) == 1 and dense[: len(whole)] == whole  # until a tap has no weights left
    assert dense == sorted(dense, reverse=True)
    grouped = [models["level-grouped"].cost(costs.KERNELS["level-grouped"](work)) for work in works]
    assert grouped == sorted(grouped, reverse=True)
    chosen = [cheapest(work, models) for work in works]
    # Dense first; where there are few weights, all of a block may be zero.
    assert "dense" not in itertools.dropwhile(lambda kernel: kernel == "dense", chosen)


RESNET18 = (  # input and output channels, input size, taps, stride, how many
    (64, 64, 56, 3, 1, 4), (64, 128, 56, 3, 2, 1), (128, 128, 28, 3, 1, 3), (64, 128, 56, 1, 2, 1),
    (128, 256, 28, 3, 2, 1), (256, 256, 14, 3, 1, 3), (128, 256, 28, 1, 2, 1), (256, 512, 14, 3, 2, 1),
    (512, 512, 7, 3, 1, 3), (256, 512, 14, 1, 2, 1),
)  # fmt: skip


@pytest.mark.parametrize(("core", "most"), [("a76", 0.60), ("x2", 0.74)])
def test_half_of_the_blocks_take_so_much_less_time(core: str, most: float) -> None:
    """All convolutions of ResNet-18, the first, which has no blocks, among them. Zeros anywhere change nothing of that."""
    models, dense, half = models_of(core), 0.0, 0.0
    for channels, outs, size, taps, stride, count in ((3, 64, 224, 7, 2, 1), *RESNET18):
        result = -(-size // stride)
        blocks = channels // 8 * outs // 4 * taps**2 if channels % 8 == 0 else None
        work = costs.Work(
            (size, size, channels), (result, result, outs), (taps, taps), (stride, stride), (taps // 2,) * 4,
            (1, 1), 4, channels * outs * taps**2, 15 * outs, True, blocks=blocks,
        )  # fmt: skip
        fewer = work if blocks is None else dataclasses.replace(work, blocks=blocks // 2)
        assert cheapest(work, models) == "dense" and cheapest(fewer, models) != "level-grouped"
        dense += count * models["dense"].cost(costs.KERNELS["dense"](work))
        kernel = cheapest(fewer, models)
        half += count * models[kernel].cost(costs.KERNELS[kernel](fewer))
    assert half < most * dense


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_are_chosen_where_they_pay_and_stored_alone(bits: int) -> None:
    builder = Builder(np.random.default_rng(0), (14, 14, 64))
    last = builder.convolution(builder.input(0, 127), 64, (3, 3), bits=bits, padding=(1,) * 4)
    graph = builder.done(last)
    assert choose_kernels(graph, "a76").operations[1].kernel in ("dense", "automatic")  # type: ignore[attr-defined]
    op = next(op for op in graph.operations if isinstance(op, g.Convolution))
    blocks = op.weights.indices.reshape(16, 4, 72, 8).transpose(0, 2, 1, 3)  # a view
    blocks[np.random.default_rng(1).random((16, 72)) < 0.5] = int(np.flatnonzero(op.weights.levels == 0)[0])
    share = float(kept_blocks(op.weights.integers).mean())
    chosen = choose_kernels(graph, "a76")
    assert chosen.operations[1].kernel == "blocks" and 0.4 < share < 0.6  # type: ignore[attr-defined]
    whole, fewer = (len(write_blob(each, coded=False)) for each in (graph, chosen))
    assert whole - fewer == pytest.approx((1 - share) * 64 * 576 * bits / 8 - 16 * 9, abs=32)


def test_a_middle_tap_of_8_bits_costs_what_8_bits_do() -> None:
    """Kernels see packed weights of 8 bits: no other kernel than the dense one is chosen, whatever zeros there are."""
    builder = Builder(np.random.default_rng(0), (14, 14, 32))
    last = builder.convolution(builder.input(0, 127), 32, (3, 3), padding=(1,) * 4, bits=2, zeros=0.97)
    graph = builder.done(last)
    plain = graph.operations[1]
    assert isinstance(plain, g.Convolution)
    middle = np.zeros((32, 1, 1, 32), np.int8)
    split = dataclasses.replace(plain, weights=dataclasses.replace(plain.weights, middle=middle))
    chosen = [
        choose_kernels(
            dataclasses.replace(graph, operations=[graph.operations[0], op, *graph.operations[2:]]), "a76"
        )
        for op in (plain, split)
    ]
    assert [op.kernel for each in chosen for op in each.operations if isinstance(op, g.Convolution)] == [
        "level-grouped",
        "dense",
    ]
    tensors = graph.tensors[plain.inputs[0]], graph.tensors[plain.output]
    work = costs.Work.of(split, *tensors)
    assert work.bits == 8 and work.blocks is None


def test_the_table_has_every_core_and_says_how_well_it_fits() -> None:
    assert set(read_table()) == set(CORES)
    for core in CORES:
        for model in models_of(core).values():
            assert model.rows > 100 and model.error < 0.06 and min(model.coefficients.values()) > 0
    for entry in json.loads(TABLE.read_text())["cores"].values():
        assert {"unit", "model", "program", "shapes", "date"} < set(entry)


def test_cores_differ_where_they_should() -> None:
    """Without dot products the level-grouped kernel pays early, with matrix instructions late."""
    shares = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)
    works = [work_of(convolution(28, 128, 32, 3, 1, share)) for share in shares]
    first = {
        core: next(
            share for share, work in zip(shares, works) if cheapest(work, models_of(core)) == "level-grouped"
        )
        for core in ("a72", "a76", "x1", "x2")
    }
    assert first["a72"] < first["a76"] <= first["x1"] < first["x2"]


def test_unknown_cores_and_cores_without_costs_are_a_message(tmp_path: Path) -> None:
    graph = convolution(6, 5, 4, 3, 1, 0.5)
    with pytest.raises(UserError, match="unknown modelled core 'm1'; allowed: a53"):
        choose_kernels(graph, "m1")
    path = tmp_path / "table.json"
    path.write_text('{"cores": {}}')
    with pytest.raises(UserError, match=r"no kernel costs are known for core 'a76'.*fit_costs --cores a76"):
        models_of("a76", path)
    for text in ("", "[]", '{"cores": {"a76": {}}}', '{"cores": {"a76": {"kernels": {"dense": {"x": 1}}}}}'):
        other = tmp_path / f"{len(text)}.json"
        other.write_text(text)
        with pytest.raises(UserError, match=re.escape(str(other))):
            models_of("a76", other)


@pytest.mark.parametrize(
    ("core", "without_zeros"), [("a76", "dense"), ("a72", "level-grouped"), ("x2", "dense")]
)
def test_chosen_kernels_are_in_the_blob_and_change_no_result(
    tmp_path: Path, core: str, without_zeros: str
) -> None:
    builder = Builder(np.random.default_rng(5), (12, 12, 24))
    last = builder.input(0, 127)
    for share, bits, groups in ((0.0, 4, 1), (0.95, 2, 1), (0.97, 2, 1), (0.5, 8, 1), (0.9, 2, 24)):
        last = builder.convolution(
            last, 24, (3, 3), bits=bits, padding=(1, 1, 1, 1), zeros=share, groups=groups, to=(0, 127)
        )
    graph = choose_kernels(builder.done(last), core)
    kernels = [op.kernel for op in graph.operations if isinstance(op, g.Convolution)]
    # Of layers this small a fifth to a third of the blocks are all zero by chance.
    assert {*kernels[1:3]} <= {"blocks", "level-grouped"}
    assert [kernels[0], *kernels[3:]] == [without_zeros, "automatic", "automatic"]
    path = tmp_path / "weights.blob"
    path.write_bytes(write_blob(graph))
    read = [op.kernel for op in read_graph(path.read_bytes()).operations if isinstance(op, g.Convolution)]
    assert read == kernels
    images = builder.images(3)
    np.testing.assert_array_equal(
        execute(core, path, images).view(np.uint32), run(graph, images).view(np.uint32)
    )


def test_fitting_anew_keeps_other_cores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "costs.json"
    record = json.loads(TABLE.read_text())
    record["cores"]["x1"]["date"] = "earlier"
    path.write_text(json.dumps(record))
    assert fit_costs.main(["--cores", "a76", "--shapes", "2", "--output", str(path)]) == 0
    assert capsys.readouterr().out.startswith("a76: mean relative error blocks")
    found = json.loads(path.read_text())["cores"]
    assert found["x1"]["date"] == "earlier" and found["a76"]["shapes"] == 2
    assert found["a76"]["kernels"]["dense"]["rows"] > 5
    assert set(read_table(path)) == set(CORES)


@pytest.mark.parametrize(
    ("arguments", "text"), [(["--cores", "m1"], "m1"), (["--shapes", "0"], "--shapes 0")]
)
def test_wrong_arguments_of_the_fit_are_a_message(
    arguments: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit_costs.main([*arguments, "--output", str(tmp_path / "costs.json")]) == 2
    assert text in capsys.readouterr().err and not (tmp_path / "costs.json").exists()


def test_samples_cover_every_kernel_and_setting() -> None:
    shapes = list(samples(30))
    assert shapes == list(samples(30)) and {shape.taps for shape in shapes} >= {1, 3}
    graph = network(shapes[0])
    found = [op for op in graph.operations if isinstance(op, g.Convolution)]
    assert {op.kernel for op in found} >= {"dense", "level-grouped"}
    whole = next(shape for shape in shapes if shape.channels % 8 == shape.outs % 4 == 0)
    parts = [
        op for op in network(whole).operations if isinstance(op, g.Convolution) and op.kernel == "blocks"
    ]
    shares = [kept_blocks(op.weights.integers).mean() for op in parts]
    assert min(shares) < 0.4 and max(shares) > 0.6 and all(0 < share < 1 for share in shares)
    assert {op.weights.bits for op in found} == {2, 3, 4}
    dense = dataclasses.replace(work_of(graph), narrow=False)
    assert set(costs.KERNELS["dense"](dense)) == set(costs.KERNELS["dense"](work_of(graph)))
