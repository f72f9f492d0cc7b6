"""The short table of trials: what is chosen is chosen by the halves that guided, and errors are those of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.trial_accuracy import packed, right_of
from benchmarks.trial_differences import Summary, main, summaries
from foundation.errors import UserError

IMAGES = 400


def row(method: str, seed: int, right: np.ndarray, guide: float = 0.1, rate: str = "0.005") -> dict[str, str]:
    fp32 = np.ones(IMAGES)
    return {
        "network": "resnet20", "bits": "2", "zero_share": "", "seconds": "60", "method": method, "rate": rate,
        "temperature": "", "shrink": "", "seed": str(seed), "answers": packed(torch.from_numpy(right > 0)),
        "images": str(IMAGES), "difference": str(float((right - fp32).mean())),
        "difference_standard_error": str(float((right - fp32).std(ddof=1) / IMAGES**0.5)),
        "search_divergence": str(guide), "divergence": "0.2", "zeros": "0.4", "bytes": "100",
    }  # fmt: skip


def draw(seed: int, share: float) -> np.ndarray:
    return (np.random.default_rng(seed).random(IMAGES) < share).astype(float)


def test_answers_come_back() -> None:
    right = np.random.default_rng(0).random(2501) < 0.7
    assert np.array_equal(right_of(packed(torch.from_numpy(right)), 2501), right)


def test_differences_are_paired_over_both_halves() -> None:
    ours, theirs = [draw(1, 0.9), draw(2, 0.9)], [draw(3, 0.8), draw(4, 0.8)]
    rows = [row("ours", seed, ours[seed]) for seed in (0, 1)] + [
        row("lsq", seed, theirs[seed]) for seed in (0, 1)
    ]
    first, second = summaries(rows)
    assert (first.method, second.method) == ("ours", "lsq") and first.behind == first.behind_error == 0
    joined = 100 * (np.concatenate(theirs) - np.concatenate(ours))
    assert second.behind == pytest.approx(joined.mean())
    assert second.behind_error == pytest.approx(joined.std(ddof=1) / (2 * IMAGES) ** 0.5)
    assert second.images == 2 * IMAGES and second.points == pytest.approx(100 * (np.mean(theirs) - 1))
    # of the mean of two halves, which is nearly that of all images together
    assert second.points_error == pytest.approx(
        100 * np.concatenate(theirs).std() / (2 * IMAGES) ** 0.5, rel=0.02
    )


def test_trainings_of_other_lengths_and_other_blocks_are_cells_of_their_own() -> None:
    rows = [
        {**row("ours", seed, draw(number, 0.9)), "seconds": "0", "asked_steps": steps, "kept_blocks": blocks}
        for number, (steps, blocks) in enumerate([("100", ""), ("1600", ""), ("1600", "0.5"), ("200", "")])
        for seed in ((0, 1) if steps != "200" else (0,))
    ]
    rows[-1]["seed"] = "2"  # one half alone: no row
    found = summaries(rows)
    assert [(each.cell[5:], each.seeds) for each in found] == [
        (("asked_steps 100",), 2), (("asked_steps 1600",), 2), (("asked_steps 1600", "kept_blocks 0.5"), 2),
    ]  # fmt: skip


def test_rates_are_chosen_by_what_guided_not_by_what_is_reported() -> None:
    good, bad = draw(1, 0.95), draw(2, 0.6)
    rows = [row("dkm", seed, good, guide=0.3, rate="0.03") for seed in (0, 1)]
    rows += [row("dkm", seed, bad, guide=0.2, rate="0.01") for seed in (0, 1)]
    (found,) = summaries(rows)
    assert found.points == pytest.approx(100 * (bad.mean() - 1))


def test_a_method_without_both_halves_and_rows_without_answers_are_left_out() -> None:
    alone = [row("ours", seed, draw(seed, 0.9)) for seed in (0, 2, 100)]
    assert summaries(alone) == []
    old = row("ours", 1, draw(1, 0.9)) | {"answers": ""}
    assert summaries([*alone, old]) == []
    (found,) = summaries([*alone, row("ours", 3, draw(3, 0.9))])
    assert isinstance(found, Summary) and (found.seeds, found.images) == (4, 2 * IMAGES)


def test_halves_count_alike_however_many_seeds_they_have() -> None:
    ours = {seed: draw(seed, 0.9) for seed in range(4)}
    theirs = {0: draw(10, 0.8), 1: draw(11, 0.6), 2: draw(12, 0.8), 4: draw(13, 0.1)}
    rows = [row("ours", seed, right) for seed, right in ours.items()]
    rows += [row("lsq", seed, right) for seed, right in theirs.items()]
    found = {each.method: each for each in summaries(rows)}["lsq"]
    even = np.mean([theirs[seed] for seed in (0, 2, 4)], axis=0)
    assert found.points == pytest.approx(100 * ((even.mean() + theirs[1].mean()) / 2 - 1))
    # by the seeds that both have
    first = (theirs[0] + theirs[2] - ours[0] - ours[2]) / 2
    assert found.behind == pytest.approx(100 * np.concatenate([first, theirs[1] - ours[1]]).mean())


def test_methods_that_share_no_half_with_ours_are_not_compared_with_it() -> None:
    rows = [row("ours", seed, draw(seed, 0.9)) for seed in (0, 1)]
    rows += [row("lsq", seed, draw(seed, 0.5)) for seed in (0, 3)]
    found = {each.method: each for each in summaries(rows)}["lsq"]
    assert found.behind == found.behind_error == 0


def test_a_table_without_rows_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv has no rows; run python -m benchmarks\.trial_accuracy"):
        main(["--table", str(tmp_path / "none.csv")])
