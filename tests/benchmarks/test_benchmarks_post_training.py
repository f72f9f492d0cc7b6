"""The table of post-training's parts, on a network of a moment: pairs are of the same images, and rows are not done twice."""

from __future__ import annotations

import base64
from argparse import Namespace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.post_training import TABLES, Case, Cell, answers, cells, judged, row, settings_of


@pytest.fixture
def case() -> Case:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
        )  # fmt: skip
        model[-1].weight.data.mul_(30)  # answers that differ
    few, many = (torch.randn(n, 3, 12, 12, generator=generator) for n in (24, 20))
    return Case(model.eval(), list(few.split(8)), list(many.split(8)))


def test_differences_are_paired_with_the_first_row_of_a_table(case: Case) -> None:
    wanted = answers(case, case.model)
    rows: list[dict[str, str]] = []
    for setting in settings_of("parts")[:3]:
        rows.append(row(Cell("mine", "parts", setting.name, 2, "", 24, 20), case, wanted, rows))
    off = [np.frombuffer(base64.b64decode(each["divergences"]), np.float16).astype(float) for each in rows]
    assert rows[0]["base"] == "" and all(len(values) == 20 and (values >= 0).all() for values in off)
    for each, values in zip(rows[1:], off[1:]):
        assert each["base"] == rows[0]["setting"]
        difference = values - off[0]
        assert float(each["difference"]) == pytest.approx(difference.mean(), rel=0.02, abs=1e-4)
        assert float(each["difference_error"]) == pytest.approx(difference.std(ddof=1) / 20**0.5, rel=0.1)
    same, none = judged(case, wanted, wanted)
    assert bool((same == 1).all()) and not bool(none.any())


def test_every_table_begins_with_its_base_and_names_nothing_twice() -> None:
    args = Namespace(networks=["resnet20"], tables=list(TABLES), bits=[4], images=256, judged=2000, seed=0)
    found = cells(args)
    assert len(set(found)) == len(found)
    for table in TABLES:
        names = [cell.setting for cell in found if cell.table == table]
        assert names == [setting.name for setting in settings_of(table)]
