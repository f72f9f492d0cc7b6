"""A task that is learned in a second: a person's own networks, their weights and images, as files in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

NETWORK = """
from torch import nn

def network(classes, width=8):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, classes),
    )

def wider(classes):
    return network(classes, 16)

network.normalization = wider.normalization = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
"""
FLAGS = (
    "--model", "mine:network", "--data", "npz:images.npz", "--weights", "network.pt", "--budget", "3",
    "--epochs-per-trial", "0.5", "--batch-size", "32", "--bits", "4,8", "--name", "study",
)  # fmt: skip


def write_small_task(folder: Path) -> None:
    """``mine.py`` with ``network`` and ``wider``, ``images.npz`` of four classes, ``network.pt`` and ``wider.pt``."""
    (folder / "mine.py").write_text(NETWORK)
    chance = np.random.default_rng(0)
    labels = np.arange(400) % 4
    pixels = chance.integers(0, 40, (400, 16, 16, 3)) + 60 * labels[:, None, None, None]
    arrays = {"x_train": pixels[:240], "x_val": pixels[240:], "y_train": labels[:240], "y_val": labels[240:]}
    arrays = {name: array.astype(np.uint8 if name[0] == "x" else np.int64) for name, array in arrays.items()}
    np.savez(folder / "images.npz", **arrays)
    x = torch.from_numpy(arrays["x_train"]).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.25)
    y = torch.from_numpy(arrays["y_train"])
    space: dict[str, Any] = {}
    exec(NETWORK, space)
    for name in ("network", "wider"):
        torch.manual_seed(0)
        network = space[name](4)
        optimizer = torch.optim.Adam(network.parameters(), 0.02)
        for _ in range(60):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
        torch.save(network.state_dict(), folder / f"{name}.pt")
