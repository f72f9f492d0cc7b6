"""A training as a person starts and ends it, by a real signal; test_system_search.py does so with a search."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from foundation.plan import LayerPlan, Plan
from pipeline.networks.registry import load_model
from quantizers.network import layer_names
from tests.system.own_folder import said


def test_sigterm_in_the_middle_of_training_is_incomplete(tmp_path: Path) -> None:
    layers = layer_names(load_model("resnet20", classes=10, image_size=32))
    (tmp_path / "plan.json").write_text(Plan.uniform(layers, LayerPlan(8)).to_json())
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.train", "--model", "resnet20", "--plan", str(tmp_path / "plan.json")],
        stderr=subprocess.PIPE, text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )  # fmt: skip
    said(process, "training resnet20")
    process.terminate()
    assert "SIGTERM: ending" in said(process, "SIGTERM")[-1]
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read() and process.wait(60) == 3
    assert not list(tmp_path.rglob("*.pt")), "half a network is not kept"
