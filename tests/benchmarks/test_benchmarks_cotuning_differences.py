"""Differences between methods: paired image by image where the answers are known, of equal cells only, and as published."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from benchmarks import cotuning_differences as module
from benchmarks.cotuning_table import CONDITIONS, Answers, Cell, key
from benchmarks.rows import append, read, table_text
from foundation.errors import UserError

RNG = np.random.default_rng(0)


def cell(method: str, seed: int = 0, network: str = "resnet20") -> Cell:
    return Cell(network, method, 2, 8, None, 0.25, 0.01, 1.0, 4.0, seed, False, "cpu", "npz:cifar10.npz")


def row(cell: Cell, search: float, report: float, fp32: float = 0.9136) -> dict[str, str]:
    shares = {"search_top1": search, "report_top1": report, "fp32_report_top1": fp32}
    return cell.record() | {name: f"{value:.6g}" for name, value in shares.items()}


def answers(share: float, images: int = 100) -> Answers:
    return Answers(*(RNG.random(images) < share for _ in range(4)))


@pytest.mark.parametrize("images", [1, 8, 13, 2500])
def test_answers_come_back_from_the_file_bit_by_bit(images: int) -> None:
    given = answers(0.9, images)
    again = Answers.of(given.record())
    for field in dataclasses.fields(Answers):
        assert np.array_equal(getattr(given, field.name), getattr(again, field.name))


def test_a_row_takes_the_place_of_its_cell_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    append(path, row(cell("ours"), 0.5, 0.5))
    append(path, row(cell("dkm"), 0.5, 0.5))
    append(path, row(cell("ours"), 0.6, 0.6), CONDITIONS)
    assert [(each["method"], each["search_top1"]) for each in read(path)] == [("dkm", "0.5"), ("ours", "0.6")]


def test_the_standard_error_is_paired_where_answers_are_known() -> None:
    ours, theirs = answers(0.9), answers(0.8)
    rows = [row(cell("ours"), ours.search.mean(), ours.report.mean())]
    rows.append(row(cell("dkm"), theirs.search.mean(), theirs.report.mean()))
    known = {key(rows[0]): ours, key(rows[1]): theirs}
    (found,) = [each for each in module.differences(rows, known) if each.against == "dkm"]
    image_by_image = np.concatenate([ours.search, ours.report]) * 1.0 - np.concatenate(
        [theirs.search, theirs.report]
    )
    assert found.paired_seeds == 1
    assert found.points == pytest.approx(100 * image_by_image.mean(), abs=0.01)
    assert found.standard_error == pytest.approx(100 * image_by_image.std(ddof=1) / 200**0.5, abs=0.01)
    # The same run on both sides differs in nothing, which shares alone cannot know.
    (same,) = module.differences(rows, {key(rows[0]): ours, key(rows[1]): ours})
    (unknown,) = module.differences(rows, {})
    assert same.standard_error == 0 and same.paired_seeds == 1
    shares = [module.both(each) for each in rows]
    expected = 100 * (sum(share * (1 - share) for share in shares) / 5000) ** 0.5
    assert unknown.paired_seeds == 0 and unknown.standard_error == pytest.approx(expected, abs=0.01)


def test_only_cells_of_the_same_seed_and_the_same_trained_network_are_compared() -> None:
    rows = [
        row(cell("ours", 0), 0.90, 0.92), row(cell("dkm", 0), 0.90, 0.90),
        row(cell("ours", 1), 0.90, 0.90), row(cell("dkm", 2), 0.10, 0.10),
        row(cell("ours", 0), 0.50, 0.50, fp32=0.8), row(cell("dkm", 0), 0.51, 0.51, fp32=0.8),
    ]  # fmt: skip
    found = module.differences(rows, {})
    assert [(each.seeds, each.points, each.by_seed) for each in found] == [
        (1, 1.0, "+1.00"),
        (1, -1.0, "-1.00"),
    ]
    assert found[0].report_points == 2.0


def test_the_published_differences_are_those_of_the_published_table() -> None:
    assert module.OUT.read_text() == table_text(
        [dataclasses.asdict(each) for each in module.computed(module.TABLE)]
    )


def test_a_table_without_rows_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"none\.csv has no rows; run python -m benchmarks\.cotuning_accuracy"
    ):
        module.main(["--table", str(tmp_path / "none.csv"), "--out", str(tmp_path / "out.csv")])
    assert not (tmp_path / "out.csv").exists()
